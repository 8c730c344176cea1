"""What the command line of the tokenizers does: files in, a fitted quantizer, IDs or a report out."""

from __future__ import annotations

import inspect
import json
import time
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import create_model

from common.atomic import write_text
from common.config import Config, apply_override, make_config
from common.engine.base import Engine
from common.engine.local import LOCAL
from common.errors import ConfigError
from common.tokenizers import QUANTIZERS, load_quantizer, quantizer_class
from common.tokenizers.base import Quantizer
from common.tokenizers.files import SidFile, read_vectors, write_sids
from common.tokenizers.health import code_warnings
from common.tokenizers.semantic_ids import Dedup, SemanticIdMap
from common.tokenizers.spread import item_codes

Say = Callable[[str], None]


def build_quantizer(kind: str, overrides: Sequence[str] = ()) -> Quantizer:
    """Return an unfitted quantizer; `overrides` are `name=value` of its constructor's arguments.

    Raises
    ------
    ConfigError
        An unknown kind or argument (the nearest known one is named), or a value of another type.
    """
    import difflib

    if kind not in QUANTIZERS:
        near = difflib.get_close_matches(kind, QUANTIZERS, n=1)
        raise ConfigError(
            f"no quantizer {kind!r}",
            where="kind",
            expected=", ".join(QUANTIZERS),
            got=kind,
            todo=f"did you mean kind={near[0]}?" if near else None,
        )
    made = quantizer_class(kind)
    hints = typing.get_type_hints(made.__init__)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(made).parameters.items()
    }
    settings = make_config(create_model(kind, __base__=Config, **fields), {}, overrides, f"settings of {kind}")
    return made(**{name: getattr(settings, name) for name in fields})


def split_kind(overrides: Sequence[str]) -> tuple[str, list[str]]:
    """Return (kind, the other overrides); `rq_kmeans` where none is given."""
    chosen: dict[str, Any] = {"kind": "rq_kmeans"}
    rest: list[str] = []
    for override in overrides:
        if override.partition("=")[0].strip() == "kind":
            apply_override(chosen, override)
        else:
            rest.append(override)
    return str(chosen["kind"]), rest


def fit_to(data: Path, column: str | None, out: Path, overrides: Sequence[str], seed: int, say: Say) -> None:
    """Fit a quantizer on a file of vectors and save it."""
    kind, rest = split_kind(overrides)
    quantizer = build_quantizer(kind, rest)
    _, x = read_vectors(data, column)
    say(f"{kind} with codebooks {list(quantizer.codebook_sizes)} on {len(x):,} vectors of {x.shape[1]}, seed {seed}")
    started = time.perf_counter()
    quantizer.fit(x, seed=seed).save(out)
    say(f"wrote {out}: version {quantizer.version}, fitted in {time.perf_counter() - started:.1f} s")
    say(f"next: python -m common.tokenizers report --model {out} --data {data}")
    say(f"or:   python -m common.tokenizers encode --model {out} --data {data} --out {out / 'ids.parquet'}")


def encode_to(
    model: Path,
    data: Path,
    column: str | None,
    out: Path,
    dedup: Dedup,
    rank_codes: int,
    say: Say,
    engine: Engine = LOCAL,
) -> SemanticIdMap:
    """Write the semantic IDs of a file of vectors, encoded by the workers of `engine` where it has some."""
    from common.cli import print_rich
    from common.tokenizers.collisions import collision_report

    quantizer = load_quantizer(model)
    ids, x = read_vectors(data, column)
    codes = item_codes(quantizer, x, engine)
    print_rich(collision_report(codes, quantizer.codebook_sizes).render())
    for line in code_warnings(codes, quantizer.codebook_sizes, todo=_what_helps(quantizer)):
        say(line)
    id_map = SemanticIdMap.from_codes(
        codes,
        quantizer.codebook_sizes,
        dedup=dedup,
        version=quantizer.version,
        rank_codes=rank_codes,
        quantizer=quantizer,
        x=x,
    )
    write_sids(out, SidFile(ids, id_map.sids, id_map.sizes, id_map.version, id_map.levels))
    say(f"wrote {out}: {len(ids):,} IDs of {len(id_map.sizes)} levels {list(id_map.sizes)}, version {id_map.version}")
    return id_map


def report_to(model: Path, data: Path, column: str | None, out: Path, say: Say) -> None:
    """Print the report; write report.json and report.png to `out`."""
    from common.cli import print_rich
    from common.tokenizers.report import make_report, plot_report

    quantizer = load_quantizer(model)
    _, x = read_vectors(data, column)
    report, codes = make_report(quantizer, x), quantizer.encode(x)
    print_rich(report.render())
    warnings = code_warnings(codes, quantizer.codebook_sizes, todo=_what_helps(quantizer))
    for line in warnings:
        say(line)
    found = report.as_json() | {"warnings": warnings}
    write_text(out / "report.json", json.dumps(found, indent=1, default=_plain) + "\n")
    plot_report(report, codes, out / "report.png")
    say(f"wrote {out / 'report.json'} and {out / 'report.png'}")


def _what_helps(quantizer: Quantizer) -> str:
    """Return what to do about codes that these vectors do not use."""
    if quantizer.kind in ("rq_vae", "vq"):
        return "a longer fit (rq_vae: steps), fewer codes (codebook_sizes), or vectors like those of the fit"
    return "fewer codes (codebook_sizes), or vectors like those of the fit, where every code has rows"


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"not a JSON value: {type(value).__name__}")
