"""Strict YAML configurations: unknown keys are errors that name the nearest known key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import ConfigError


class Config(BaseModel):
    """Base of all configuration models: frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


C = TypeVar("C", bound=Config)


def load_config(model: type[C], name_or_path: str, folder: Path, overrides: Sequence[str] = ()) -> C:
    """Read `name_or_path` (a path, or the name of a YAML file in `folder`), apply overrides, validate.

    Parameters
    ----------
    model
        The pydantic model to validate against.
    name_or_path
        `baseline`, `baseline.yaml` or a path to any YAML file.
    folder
        Where named configurations are.
    overrides
        Strings `a.b=value`; the value is read as YAML.

    Raises
    ------
    ConfigError
        No such file, not YAML, an unknown key (with the nearest known one) or a value out of range.
    """
    path = find_config(name_or_path, folder)
    return make_config(model, read_yaml(path), overrides, path)


def make_config(model: type[C], data: dict[str, Any], overrides: Sequence[str], where: object) -> C:
    """Validate a mapping of values after the overrides `a.b=value`; `where` is named in errors, as `load_config`'s."""
    for override in overrides:
        apply_override(data, override)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explain(error, model, where) from None


def find_config(name_or_path: str, folder: Path) -> Path:
    """Return the YAML file that `name_or_path` means; raise `ConfigError` with the nearest name otherwise."""
    candidate = Path(name_or_path)
    if candidate.suffix in (".yaml", ".yml") and candidate.is_file():
        return candidate
    named = folder / f"{candidate.stem}.yaml"
    if candidate.parent == Path() and named.is_file():
        return named
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    near = difflib.get_close_matches(candidate.stem, known, n=1)
    raise ConfigError(
        f"no configuration {name_or_path!r}",
        where=folder,
        expected=f"a path to a YAML file, or one of: {', '.join(known)}",
        got=name_or_path,
        todo=f"did you mean --config {near[0]}?" if near else None,
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping; duplicate keys and anything that is not a mapping are errors."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("the configuration is not valid YAML", where=path, got=str(error)) from None
    if not isinstance(data, dict):
        raise ConfigError(
            "the configuration is not a mapping", where=path, expected="key: value lines", got=type(data).__name__
        )
    return data


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one `a.b=value` in nested mappings, making those that are absent."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError("an override needs the form a.b=value", where="--set", got=override)
    node: Any = data
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise ConfigError(f"{parent!r} in {key.strip()!r} is not a section", where="--set", got=override)
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError("the value of an override is not valid YAML", where="--set", got=override) from None


def dump_config(config: Config) -> str:
    """Return the resolved configuration as YAML, keys in the order of the model."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


class _StrictLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key given twice."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _explain(error: ValidationError, model: type[BaseModel], where: object) -> ConfigError:
    lines: list[str] = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = sorted(_field_names(model))
            near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            lines.append(f"  {key}: unknown key{hint}")
        else:
            lines.append(f"  {key}: {item['msg']}, got {_short(item['input'])}")
    return ConfigError("the configuration has errors:\n" + "\n".join(lines), where=where)


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _field_names(model: type[BaseModel]) -> set[str]:
    """All keys of a model and of the models inside it."""
    names: set[str] = set()
    stack: list[Any] = [model]
    seen: set[Any] = set()
    while stack:
        item = stack.pop()
        if isinstance(item, type) and issubclass(item, BaseModel):
            if item in seen:
                continue
            seen.add(item)
            names |= set(item.model_fields)
            stack.extend(field.annotation for field in item.model_fields.values())
        else:
            stack.extend(getattr(item, "__args__", ()))
    return names


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to dotted keys.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
