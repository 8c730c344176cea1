"""What `python -m common.tokenizers uni-code` does: fit on files of vectors, write the tokenizer and the IDs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.config import make_config
from common.engine.base import Engine
from common.engine.local import LOCAL
from common.errors import ConfigError
from common.tokenizers.collisions import collision_report
from common.tokenizers.files import SidFile, read_vectors, write_sids
from common.tokenizers.health import code_warnings
from common.tokenizers.uni_code.config import UniCodeConfig, for_few
from common.tokenizers.uni_code.item_ids import Missing, Pool, common_rows, item_codes, make_ids
from common.tokenizers.uni_code.tokenizer import UniCode

Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """One modality's file: `column` where it has several of float lists; `encoder` made the vectors, "" if unsaid."""

    path: Path
    column: str | None = None
    encoder: str = ""


def parse_sources(
    files: dict[str, Path | None], others: Sequence[str], columns: Sequence[str], encoders: Sequence[str]
) -> dict[str, Source]:
    """Return the sources by modality, in the order given.

    `others` are NAME=FILE, `columns` NAME=COLUMN, `encoders` NAME=ENCODER.

    Raises
    ------
    ConfigError
        No such form, a modality given twice, or one that is not there.
    """
    found = {name: path for name, path in files.items() if path is not None}
    for name, path in (_pair(one, "--modality", "FILE") for one in others):
        if name in found:
            raise ConfigError("a modality is given twice", where="--modality", got=name)
        found[name] = Path(path)
    named = {option: dict(_pair(one, option, what) for one in given) for option, what, given in (
        ("--column", "COLUMN", columns), ("--encoder", "ENCODER", encoders)
    )}  # fmt: skip
    for option, values in named.items():
        for name in values:
            if name not in found:
                raise ConfigError("no such modality", where=option, expected=", ".join(found) or "none", got=name)
    return {
        name: Source(path, named["--column"].get(name), named["--encoder"].get(name, ""))
        for name, path in found.items()
    }


def fit_ids(
    sources: dict[str, Source],
    out: Path,
    overrides: Sequence[str],
    *,
    seed: int,
    model: Path | None,
    pool: Pool,
    missing: Missing,
    rank_codes: int,
    device: str,
    say: Say,
    engine: Engine = LOCAL,
) -> None:
    """Fit on the items that have all modalities (or read `model`); write `out` and `out`/ids.parquet.

    The workers of `engine` encode, where it has some.

    Raises
    ------
    ConfigError
        Overrides together with a fitted model.
    DataError
        A file cannot be used, or items lack a modality.
    """
    from common.cli import print_rich

    make_config(UniCodeConfig, {}, overrides, "settings of uni_code")  # a wrong one is said before files are read
    features = {name: read_vectors(source.path, source.column) for name, source in sources.items()}
    encoders = {name: source.encoder for name, source in sources.items() if source.encoder}
    if model is None:
        tokenizer = _fit(features, encoders, overrides, out, seed, device, say)
    elif overrides:
        raise ConfigError("a fitted tokenizer has its settings", where="--set", got=", ".join(overrides))
    else:
        tokenizer = UniCode.load(model)
    ids, codes, lacking = item_codes(
        tokenizer, features, tuple(sources), pool=pool, missing=missing, encoders=encoders, engine=engine
    )
    for name, count in lacking.items():
        if count:
            say(f"{count:,} of {len(ids):,} items have no {name}: they take the codes of what they have")
    sizes = (tokenizer.config.codes,) * codes.shape[1]
    print_rich(collision_report(codes, sizes).render())
    names = [name for name in sources for _ in range(codes.shape[1] // len(sources))]
    for line in code_warnings(codes, sizes, todo=_what_helps(tokenizer), names=names):
        say(line)
    id_map = make_ids(tokenizer, codes, rank_codes=rank_codes)
    path = out / "ids.parquet"
    write_sids(path, SidFile(ids, id_map.sids, id_map.sizes, id_map.version, id_map.levels))
    say(f"wrote {path}: {len(ids):,} IDs of {len(id_map.sizes)} levels {list(id_map.sizes)}, version {id_map.version}")
    say(f"next: python -m common.generative train --set ids={path} ...")


def _fit(
    features: dict[str, tuple[np.ndarray, np.ndarray]],
    encoders: dict[str, str],
    overrides: Sequence[str],
    out: Path,
    seed: int,
    device: str,
    say: Say,
) -> UniCode:
    ids, paired = common_rows(features)
    few = for_few(*_samples(paired))
    config = make_config(UniCodeConfig, deepcopy(few), overrides, "settings of uni_code")
    shapes = ", ".join(f"{name} {list(x.shape)}" for name, x in paired.items())
    say(f"uni_code, {config.codes} codes, on {len(ids):,} items that have all modalities: {shapes}; seed {seed}")
    if next(iter(paired.values())).ndim == 2:
        say("one vector an item: no steps to predict, Cross-CPC contrasts each item's modalities with other items'")
    if few:
        say(f"few items: settings for them unless --set says otherwise: {_told(few)}")
    started = time.perf_counter()
    # The state lies beside the result: what is written to `out` replaces it whole.
    state = out.with_name(out.name + ".training")
    tokenizer = UniCode(config).fit(paired, seed=seed, encoders=encoders, folder=state, device=device, say=say)
    tokenizer.save(out)
    if state.is_dir() and not any(state.iterdir()):
        state.rmdir()
    figures = tokenizer.metrics
    say(
        f"wrote {out}: version {tokenizer.version}, {time.perf_counter() - started:.1f} s; "
        f"the modalities' codes agree on "
        f"{figures['agreement']:.1%} of items, {figures['shared']:.1%} of active codes are used by all"
    )
    return tokenizer


def _samples(paired: dict[str, np.ndarray]) -> tuple[int, int]:
    """Return N and T of paired features [N, T, D_m] or [N, D_m]."""
    shape = next(iter(paired.values())).shape
    return shape[0], shape[1] if len(shape) == 3 else 1


def _told(settings: dict[str, Any], above: str = "") -> str:
    """Return settings as they are given to --set."""
    told: list[str] = []
    for name, one in settings.items():
        told.append(_told(one, f"{name}.") if isinstance(one, dict) else f"{above}{name}={one}")
    return " ".join(told)


def _what_helps(tokenizer: UniCode) -> str:
    """Return which settings make more codes be used."""
    config = tokenizer.config
    done = int(tokenizer.metrics["curve"][-1]["step"]) if tokenizer.metrics.get("curve") else 0
    return (
        f"more steps and sooner resets: this fit had {done:,} steps and resets codes after {config.reset_after:,} "
        f"without use; raise fit.epochs (it is {config.fit.epochs}), lower reset_after, or take fewer codes "
        f"(codes={config.codes}); on few items validation=0, since early stopping on few pairs ends too soon"
    )


def _pair(text: str, option: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise ConfigError(f"this option needs the form NAME={what}", where=option, got=text)
    return name.strip(), value.strip()
