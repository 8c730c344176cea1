"""Arms on real sequences: what each is, how it is trained and asked, and the tables of `benchmarks.generators`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from common.atomic import append_line, atomic_path, write_text
from common.config import load_config
from common.errors import DataError
from common.experiment import cpu_name

Row = dict[str, Any]
IDS = "{ids}"
"""In an arm's settings: the file of IDs that the command was given; without one the arm is left out."""
FIELDS = "{fields}"
"""In an arm's settings: the file of longer texts and categories of `movielens_folder`."""


@dataclass(frozen=True)
class Arm:
    """A configuration, what is changed in it, and whether it reads the vectors of the arm `sasrec` (trained first)."""

    model: str
    changes: tuple[str, ...] = ()
    ranker: bool = False


_PUBLISHED = ("eager.semantic=published",)
BASELINES = {
    "popularity": Arm("popularity"),
    "nearest to mean": Arm("nearest", ("nearest.to=mean",)),
    "nearest to last": Arm("nearest"),
    "sasrec": Arm("sasrec"),
    "tiger": Arm("tiger"),
    "tiger random": Arm("tiger", ("ids=random",)),
    "atomic": Arm("atomic"),
}


def eager_arms(changes: tuple[str, ...] = ()) -> dict[str, Arm]:
    """Return EAGER and its ablations, all on the vectors of one ranker."""
    ablations = {
        "eager": (),
        "eager one list": ("eager.fusion=concatenate",),
        "eager behaviour only": ("eager.streams=behaviour",),
        "eager semantic only": ("eager.streams=semantic",),
        "eager no GCT": ("eager.gct=0",),
        "eager no STT": ("eager.recon=0", "eager.est=0"),
    }
    return {name: Arm("eager", (*changes, *own), ranker=True) for name, own in ablations.items()}


LM_ARMS = {
    "eager_llm": Arm("eager_llm", ranker=True),
    "eager_llm behaviour only": Arm("eager_llm", ("eager_llm.indices=behaviour",), ranker=True),
    "eager_llm semantic only": Arm("eager_llm", ("eager_llm.indices=semantic",), ranker=True),
    "eager_llm no GCT": Arm(
        "eager_llm", ("eager_llm.gct_behaviour=false", "eager_llm.gct_semantic=false"), ranker=True
    ),
    "eager_llm recommendation only": Arm(
        "eager_llm", ("eager_llm.reconstruction=false", "eager_llm.preference=false"), ranker=True
    ),
}
BEAUTY: dict[str, Arm] = {
    **BASELINES,
    "tiger published": Arm("tiger", ("ids=published",)),
    **eager_arms(_PUBLISHED),
    "eager_llm": LM_ARMS["eager_llm"],
    "store": Arm("store"),
}
_STORE = (f"store.items.file={FIELDS}", "store.items.longer=longer", "store.items.category=category")
_SMOL = "HuggingFaceTB/SmolLM2-135M-Instruct"
MOVIELENS: dict[str, Arm] = {
    **BASELINES,
    "tiger co-occurrence": Arm("tiger", ("tokenizer.vectors=co_occurrence",)),
    "tiger uni-code": Arm("tiger", (f"ids={IDS}",)),
    **eager_arms(),
    "eager uni-code": Arm("eager", (f"eager.semantic={IDS}",), ranker=True),
    **LM_ARMS,
    "store": Arm("store", _STORE),
    "store causal mask": Arm("store", (*_STORE, "store.dense.mask=causal")),
    "store residual codes": Arm("store", (*_STORE, "store.codes.kind=rq")),
    "store recommendation only": Arm(
        "store",
        (*_STORE, "store.tasks.text_to_token=0", "store.tasks.token_to_text=0", "store.tasks.text_to_text=0"),
    ),
    "eager_llm SmolLM2": Arm("eager_llm", (f"eager_llm.lm.name={_SMOL}", "eager_llm.lm.tune=lora"), ranker=True),
    "store SmolLM2": Arm("store", (*_STORE, f"store.lm.name={_SMOL}", "store.lm.tune=lora")),
}
_TRAIN = ("train.schedule.type=cosine", "train.evaluate_every=3", "train.patience=4")
_SMALL = tuple(
    f"{name}.lm.scratch.{size}" for name in ("eager_llm", "store") for size in ("dim=64", "heads=4", "feedforward=256")
)
BEAUTY_RECIPE = (
    *("tiger.dim=96", "tiger.feedforward=384", "tiger.dropout=0.2", "tiger.learn_first=true"),
    *("eager.dim=96", "eager.feedforward=384", "eager.dropout=0.2", "eager.learn_first=true"),
    *_SMALL,
    *("train.batch_size=512", "train.epochs=30", *_TRAIN),
)
MOVIELENS_RECIPE = (
    *("tiger.dim=64", "tiger.feedforward=256", "tiger.dropout=0.2", "tiger.learn_first=true"),
    *("eager.dim=64", "eager.feedforward=256", "eager.dropout=0.2", "eager.learn_first=true"),
    *_SMALL,
    *("train.batch_size=256", "train.epochs=24", *_TRAIN),
)
HEAVY = ("eager_llm SmolLM2", "store SmolLM2")
"""Arms that run only where they are asked for."""


@dataclass(frozen=True)
class Settings:
    """What all arms of a table share; `recipe` comes before an arm's own changes, `overrides` after them."""

    data: Path
    work: Path
    minutes: float
    threads: int
    overrides: tuple[str, ...] = ()
    recipe: tuple[str, ...] = ()
    ids: Path | None = None
    fields: Path | None = None

    def key(self, seed: int) -> Row:
        """Return what a line of the results must equal to be of this table."""
        key: Row = {"seed": seed, "minutes": self.minutes, "threads": self.threads, "overrides": list(self.overrides)}
        return key

    def folder(self, arm: str, seed: int) -> Path:
        """Return where an arm is trained."""
        return self.work / f"{arm.replace(' ', '-')}-{seed}"


def usable(arms: dict[str, Arm], settings: Settings) -> dict[str, Arm]:
    """Return the arms whose files are there, with the files in their settings."""
    files = {IDS: settings.ids, FIELDS: settings.fields}
    made: dict[str, Arm] = {}
    for name, arm in arms.items():
        changes = list(arm.changes)
        for mark, path in files.items():
            if path is not None:
                changes = [one.replace(mark, str(path)) for one in changes]
        if not any(mark in one for mark in files for one in changes):
            made[name] = Arm(arm.model, tuple(changes), arm.ranker)
    return made


def run_arm(name: str, arm: Arm, settings: Settings, seed: int) -> Row:
    """Train an arm, or go on with it, and evaluate it on test; return the line of the results."""
    import torch

    from common.generative.config import CONFIG_FOLDER, TRAINED, RunConfig
    from common.generative.evaluate import evaluate
    from common.generative.run import prepare, recommender
    from common.generative.sequence_files import load_sequences

    torch.set_num_threads(settings.threads)
    shared = [f"behaviour.source={settings.folder('sasrec', seed)}"] if arm.ranker else []
    limits = [f"{one}.max_seconds={60 * settings.minutes}" for one in ("train", "store.dense.train")]
    base = [*limits, f"seed={seed}", f"name={name}", *shared, *settings.recipe]
    base.append(f"texts.cache={settings.work / 'texts'}")
    config = load_config(RunConfig, arm.model, CONFIG_FOLDER, [*base, *arm.changes, *settings.overrides])
    folder = settings.folder(name, seed)
    run = prepare(config, load_sequences(settings.data), folder, "cpu", lambda line: typer.echo(f"[{name}] {line}"))
    started = time.process_time()
    asked = recommender(run)
    making, cpu, wall = time.process_time() - started, time.process_time(), time.perf_counter()
    report = evaluate(asked, run.split.test, ks=config.evaluate.ks, depth=config.evaluate.beam)
    curve: Row = {}
    if config.model in TRAINED:
        curve = json.loads((folder / "curve.json").read_text(encoding="utf-8"))
    assert report.ranks is not None
    with atomic_path(folder / "ranks.npy") as temporary:
        np.save(temporary, report.ranks)
    return {
        "arm": name,
        **settings.key(seed),
        "cpu": cpu_name(),
        "train_cpu_seconds": round(curve.get("cpu_seconds", 0.0), 1),
        "train_seconds": round(curve.get("seconds", 0.0), 1),
        "making_cpu_seconds": round(making, 1),
        "evaluate_cpu_seconds": round(time.process_time() - cpu, 1),
        "evaluate_seconds": round(time.perf_counter() - wall, 1),
        "training": curve,
        **report.as_json(),
    }


def read_results(path: Path | None) -> list[Row]:
    """Return the lines of a results file; none where there is no file yet."""
    if path is None or not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def run_all(
    names: Sequence[str], arms: dict[str, Arm], settings: Settings, seeds: Iterable[int], results: Path | None
) -> list[Row]:
    """Run the arms that the results lack; return the lines of all.

    The ranker that arms share comes before them, and is trained again where the work folder lacks it.
    """
    done = read_results(results)
    found: list[Row] = []
    for seed in seeds:
        key = settings.key(seed)
        lines = {one["arm"]: one for one in reversed(done) if all(one.get(k) == v for k, v in key.items())}
        missing = [name for name in names if name not in lines]
        ranker = any(arms[name].ranker for name in missing)
        if ranker and "sasrec" not in missing and not (settings.folder("sasrec", seed) / "model").is_dir():
            missing.append("sasrec")
        for name in sorted(missing, key=lambda one: one != "sasrec"):
            row = run_arm(name, arms[name], settings, seed)
            told = ", ".join(f"{figure} {value:.4f}" for figure, value in row["figures"].items())
            typer.echo(f"[{name}] test: {told}")
            if name not in lines and results is not None:
                append_line(results, json.dumps(row))
            lines.setdefault(name, row)
        found += [lines[name] for name in names]
    return found


def known_rows(names: Sequence[str], settings: Settings, seeds: Iterable[int], results: Path | None) -> list[Row]:
    """Return the lines that the results hold, run nothing."""
    wanted = [settings.key(seed) for seed in seeds]
    rows = read_results(results)
    return [r for r in rows if r["arm"] in names and any(all(r.get(k) == v for k, v in key.items()) for key in wanted)]


def movielens_folder(root: Path, folder: Path, encode: Callable[[list[str]], np.ndarray]) -> tuple[Path, Path]:
    """Write the sequences and texts of a prepared MovieLens root; return the data folder, and the file of fields.

    The text of a movie is its title, and in the next line its overview; its vector is what `encode` makes of the text,
    float32 [N, D]. Fields are what STORE's auxiliary tasks tell:
    the overview (`longer`) and the first genre (`category`).

    Raises
    ------
    DataError
        The root has no item_feature.parquet with titles and overviews.
    """
    import polars as pl

    from common.generative.sequence_files import load_sequences

    data = load_sequences(root)
    path = root / "item_feature.parquet"
    columns = ["item_id", "item_title", "item_overview", "item_genres"]
    if not path.is_file() or not set(columns) <= set(pl.read_parquet_schema(path)):
        raise DataError(
            "no titles and overviews of movies",
            where=path,
            expected=", ".join(columns),
            todo="python -m track2_mmctr prepare movielens --help",
        )
    table = pl.read_parquet(path, columns=columns).with_columns(pl.col(columns[1:]).fill_null(""))
    lines = table.select("item_title", "item_overview").iter_rows()
    texts = [f"{title}\n{overview}".strip() for title, overview in lines]
    genres = [one.split(",")[0].strip() for one in table["item_genres"].to_list()]
    fields = folder / "fields.parquet"
    items = table.select("item_id").with_columns(pl.Series("text", texts), pl.Series("emb", list(encode(texts))))
    write_table(folder / "data" / "items.parquet", items)
    write_table(
        fields,
        table.select("item_id", pl.col("item_overview").alias("longer")).with_columns(pl.Series("category", genres)),
    )
    spans = zip(data.users.tolist(), data.offsets[:-1], data.offsets[1:], strict=True)
    inter = {str(user): data.item_ids[data.items[start:end]].tolist() for user, start, end in spans}
    write_text(folder / "data" / "MovieLens.inter.json", json.dumps(inter))
    return folder / "data", fields


def write_table(path: Path, table: Any) -> None:
    """Write a table, whole or not at all."""
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)
