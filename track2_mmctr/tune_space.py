"""The space that `tune` searches: ranges and choices by dotted key, checked against the configuration beforehand."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from common.config import flatten
from common.errors import ConfigError
from track2_mmctr.config import RangeConfig, RunConfig, Scalar

if TYPE_CHECKING:
    from optuna import Trial

NO_BEARING = ("name", "about", "device", "submission.", "tune.")
READ_BEFORE = ("data.leaks", "features.embedding", "features.semantic_ids", "features.sid.levels")
"""Keys that say how the data is read, which is done once, before the trials."""
PROBE = 0.3819660113
"""A place inside a range that is no whole number: tells a range of floats over a key that takes integers only."""


@dataclass(frozen=True)
class Dimension:
    """One key of the space: a range, or choices. A choice that is a list is known to optuna by its JSON text."""

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] | None = None

    @property
    def labels(self) -> list[Scalar]:
        """What optuna calls the choices."""
        return [json.dumps(choice) if isinstance(choice, list) else choice for choice in self.choices or ()]

    def suggest(self, trial: Trial) -> Any:
        """Return the trial's value for the key."""
        if self.choices is not None:
            return self.value(trial.suggest_categorical(self.key, self.labels))
        if self.integer:
            return trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, log=self.log)

    def value(self, label: Any) -> Any:
        """Return the configuration's value for optuna's."""
        return label if self.choices is None else self.choices[self.labels.index(label)]

    def label(self, value: Any) -> Scalar | None:
        """Return what optuna calls `value`, or None where the value lies outside the dimension."""
        if self.choices is not None:
            return next((x for x, c in zip(self.labels, self.choices, strict=True) if _same(c, value)), None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        if self.integer:
            return int(value) if float(value).is_integer() else None
        return float(value)


@dataclass(frozen=True)
class Space:
    """All dimensions, in the order of the configuration, and the configuration that they vary."""

    config: RunConfig
    dimensions: tuple[Dimension, ...]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Return the trial's value for each key."""
        return {dimension.key: dimension.suggest(trial) for dimension in self.dimensions}

    def defaults(self) -> dict[str, Scalar]:
        """Return the configuration's own values, under optuna's names, for the keys where they lie in the space."""
        own = tunable(self.config)
        found = {dimension.key: dimension.label(own[dimension.key]) for dimension in self.dimensions}
        return {key: label for key, label in found.items() if label is not None}


def read_space(config: RunConfig) -> Space:
    """Return the space that `tune.space` of a configuration declares.

    Raises
    ------
    ConfigError
        No space; an unknown key (the nearest known one is named); a range or a choice that is malformed, or that
        the configuration refuses.
    """
    if not config.tune.space:
        raise ConfigError(
            f"configuration {config.name!r} declares nothing to tune",
            where="tune.space",
            expected="dotted keys with a range or with choices",
            todo="--set 'tune.space={train.learning_rate: {low: 0.0001, high: 0.01, log: true}}'",
        )
    known = tunable(config)
    dimensions: list[Dimension] = []
    for key, wanted in config.tune.space.items():
        if key not in known:
            raise _unknown(config, key, known)
        dimensions.append(_choices(config, key, wanted) if wanted.choices is not None else _range(config, key, wanted))
    return Space(config, tuple(dimensions))


def tunable(config: RunConfig) -> dict[str, Any]:
    """Return dotted key -> value for all keys that may be tuned; a value is a number, a text or a list."""
    flat = flatten(config.model_dump(mode="json"))
    return {key: value for key, value in flat.items() if not _within(key, NO_BEARING + READ_BEFORE)}


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """Return the configuration with some of its keys set.

    Raises
    ------
    ConfigError
        The configuration refuses the values.
    """
    data = config.model_dump(mode="json")
    for key, value in values.items():
        node = data
        *parents, leaf = key.split(".")
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ConfigError(
            "the configuration refuses the values: " + "; ".join(faults),
            where=f"configuration {config.name!r}",
            got=", ".join(f"{key}={value}" for key, value in values.items()),
        ) from None


def _within(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or (name.endswith(".") and key.startswith(name)) for name in names)


def _unknown(config: RunConfig, key: str, known: Mapping[str, Any]) -> ConfigError:
    if _within(key, NO_BEARING):
        return ConfigError(f"{key!r} has no bearing on the AUC and cannot be tuned", where=f"tune.space.{key}")
    if _within(key, READ_BEFORE):
        todo = "tune one configuration for each of its values"
        return ConfigError(f"{key!r} says how the data is read, before all trials", where="tune.space", todo=todo)
    leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = leaf or difflib.get_close_matches(key, known, n=1)
    return ConfigError(
        f"tune.space: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        where=f"configuration {config.name!r}",
        expected="a dotted key that the configuration has, such as train.learning_rate",
        got=key,
    )


def _choices(config: RunConfig, key: str, wanted: RangeConfig) -> Dimension:
    where = f"tune.space.{key}"
    if wanted.low is not None or wanted.high is not None or wanted.log or wanted.integer:
        raise ConfigError(
            "a key has either choices or a range", where=where, expected="choices alone, or low and high", got=wanted
        )
    values: list[Any] = []
    for choice in wanted.choices or ():
        value = _checked(config, key, _parsed(choice) if isinstance(tunable(config)[key], list) else choice)
        if any(_same(value, other) or value == other for other in values):
            raise ConfigError("a choice is given twice", where=where, got=choice)
        values.append(value)
    if len(values) < 2:
        raise ConfigError("there is nothing to choose", where=where, expected="at least two choices", got=values)
    return Dimension(key, choices=tuple(values))


def _range(config: RunConfig, key: str, wanted: RangeConfig) -> Dimension:
    where, low, high = f"tune.space.{key}", wanted.low, wanted.high
    got = f"low {low}, high {high}"
    if low is None or high is None:
        raise ConfigError("a key needs low and high, or choices", where=where, got=got)
    if not (math.isfinite(low) and math.isfinite(high)) or low >= high:
        raise ConfigError("a range needs finite ends, low below high", where=where, expected="low < high", got=got)
    if wanted.log and low <= 0:
        raise ConfigError("a logarithmic range starts above 0", where=where, expected="low > 0", got=got)
    if wanted.integer and not (low.is_integer() and high.is_integer()):
        raise ConfigError("a range of integers needs whole ends", where=where, got=got)
    if isinstance(tunable(config)[key], bool):
        raise ConfigError("a switch has choices, not a range", where=where, expected="choices: [false, true]", got=got)
    for value in (low, high):
        _checked(config, key, int(value) if wanted.integer else value)
    if not wanted.integer:
        try:
            _checked(config, key, _fraction(low, high))
        except ConfigError as error:
            error = ConfigError(error.what, where=where, expected="whole numbers", got=got, todo="add integer: true")
            raise error from None
    return Dimension(key, low, high, wanted.log, wanted.integer)


def _fraction(low: float, high: float) -> float:
    value = low + PROBE * (high - low)
    return value if not value.is_integer() else low + PROBE / 2 * (high - low)


def _checked(config: RunConfig, key: str, value: Any) -> Any:
    """Return the value as the configuration keeps it: "0.1" becomes 0.1, 16.0 becomes 16 where integers are asked."""
    try:
        return tunable(with_values(config, {key: value}))[key]
    except (ConfigError, KeyError) as error:
        reason = error.what if isinstance(error, ConfigError) else f"it changes which keys there are, {key} among them"
        raise ConfigError(
            f"tune.space: {key} cannot be {value!r}: {reason}",
            where=f"tune.space.{key}",
            todo="a ranker's type is not tuned: tune one configuration a ranker" if key == "ranker.type" else None,
        ) from None


def _parsed(choice: Scalar) -> Any:
    """Return a choice of a key that takes lists: it is written as text, "[512, 256]"."""
    try:
        return yaml.safe_load(choice) if isinstance(choice, str) else choice
    except yaml.YAMLError:
        return choice


def _same(first: Any, second: Any) -> bool:
    """Equal, and not as True equals 1."""
    return first == second and isinstance(first, bool) == isinstance(second, bool)
