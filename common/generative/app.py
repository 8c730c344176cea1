"""What the command line does: train, evaluate, recommend."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from common.atomic import atomic_path, write_text
from common.config import load_config
from common.device import choose_device
from common.errors import ConfigError, DataError
from common.experiment import Experiment, cores
from common.generative.baselines import allowed_items
from common.generative.config import CONFIG_FOLDER, RunConfig
from common.generative.evaluate import Report, best_items, evaluate
from common.generative.run import Prepared, needs_training, prepare, recommender, trained_model
from common.generative.sequence_files import load_sequences
from common.generative.sequences import Sequences, whole
from common.index.build import IndexSettings
from common.progress import hush
from common.training.distributed import World, init_world

Say = Callable[[str], None]


def open_run(
    model: str,
    overrides: Sequence[str],
    data: Path,
    out: Path,
    say: Say,
    index: IndexSettings = IndexSettings(),  # noqa: B008 - frozen
) -> Prepared:
    """Read configuration and data, and tie the folder to both; `index` searches vectors, where the model does."""
    config = load_config(RunConfig, model, CONFIG_FOLDER, overrides)
    return replace(prepare(config, load_sequences(data), out, choose_device(config.device), say), index=index)


def open_together(
    model: str, overrides: Sequence[str], data: Path, out: Path, say: Say, variables: Mapping[str, str]
) -> Prepared:
    """Return what `open_run` does, of a process that trains with others where `variables`, torchrun's, say so."""
    config = load_config(RunConfig, model, CONFIG_FOLDER, overrides)
    device = choose_device(config.device)
    world = init_world(variables, device)
    if device == "cuda" and world.size > 1:
        device = f"cuda:{variables.get('LOCAL_RANK', '0')}"
    return join_run(config, data, out, say, device, world)


def join_run(config: RunConfig, data: Path, out: Path, say: Say, device: str, world: World) -> Prepared:
    """Open a run as one of the processes of `world`: those that only help to train are silent."""
    if world.size > 1 or world.local:
        import torch

        torch.set_num_threads(world.threads(cores()))
    if not world.main:
        hush()
        say = lambda _: None  # noqa: E731
    return prepare(config, load_sequences(data), out, device, say, world)


def train_to(run: Prepared, home: Path | None) -> None:
    """Train the run's model, if it is one that is trained."""
    if not needs_training(run.config):
        run.say(f"{run.config.name} is not trained: nothing to do")
    elif not run.world.main:
        trained_model(run)
    else:
        with _record(run, home) as record, record.stage("train"):
            trained_model(run)


def train_on_ray(
    model: str,
    overrides: Sequence[str],
    data: Path,
    out: Path,
    home: Path | None,
    say: Say,
    *,
    workers: int,
    address: str | None,
    here: Path,
) -> None:
    """Train in `workers` processes of a Ray cluster; `here` is the working folder that paths are relative to."""
    from common.training import ray_train

    config = load_config(RunConfig, model, CONFIG_FOLDER, overrides)
    task = partial(_train_worker, config, data, out, home)
    ray_train.train_on_ray(task, workers=workers, address=address, folder=out, device=config.device, here=here, say=say)


def _train_worker(
    config: RunConfig, data: Path, out: Path, home: Path | None, world: World, device: str, say: Say
) -> None:
    train_to(join_run(config, data, out, say, device, world), home)


def evaluate_to(run: Prepared, home: Path | None) -> Report:
    """Evaluate on test, training first where no model is there; write OUT/metrics.json."""
    config = run.config.evaluate
    with _record(run, home) as record:
        with record.stage("train"):
            asked = recommender(run)
        with record.stage("evaluate"):
            report = evaluate(
                asked, run.split.test, ks=config.ks, depth=config.beam, exclude_history=config.exclude_history
            )
        record.add_metrics(report.as_json())
    write_text(run.out / "metrics.json", json.dumps(report.as_json(), indent=1) + "\n")
    return report


def recommend_to(run: Prepared, target: Path, k: int, users: Path | None, exclude: Path | None) -> tuple[int, int]:
    """Write the k best next items after each user's whole sequence; return the users and the items written.

    Parameters
    ----------
    target
        .parquet (user_id, items, scores) or .json ({user: [item, ...]}).
    users
        File of user ids; None: all users of the data.
    exclude
        File of item ids that must not come (sold out); a generator decodes over the rest of the trie.

    Raises
    ------
    ConfigError
        A target of another kind.
    DataError
        An unknown user or item.
    """
    if target.suffix not in (".parquet", ".json"):
        raise ConfigError("recommendations are written as parquet or JSON", where="--to", got=target.name)
    data = run.data
    rows = None if users is None else data.user_rows(read_ids(users), users)
    allowed = None if exclude is None else allowed_items(data, read_ids(exclude), exclude)
    histories = whole(data, rows)
    asked = recommender(run)
    items, scores = best_items(
        asked, histories, k, allowed=allowed, exclude_history=run.config.evaluate.exclude_history
    )
    write_recommendations(target, data, histories.users, items, scores)
    return len(items), int((items >= 0).sum())


def export_to(run: Prepared, data: Path, to: Path | None, rows: Path | None, k: int, folds: int) -> None:
    """Write generated lists (`to`), features of the rows of a click log (`rows`), or both.

    Raises
    ------
    ConfigError
        Neither is asked for, or a target of another kind.
    """
    from common.generative.export import export_lists, export_rows

    for target in (to, rows):
        if target is not None and target.suffix != ".parquet":
            raise ConfigError("features are written as parquet", where="--to, --rows", got=target.name)
    if to is None and rows is None:
        raise ConfigError("nothing to write", where="export", expected="--to FILE.parquet, --rows FILE.parquet or both")
    if to is not None:
        if k < 1:
            raise ConfigError("a list of no items", where="-k", expected="1 or more with --to", got=k)
        run.say(f"wrote {to}: {export_lists(run, to, k):,} lines (user_id, item_id, rank, score)")
    if rows is not None:
        count, known = export_rows(run, data, rows, k, folds)
        run.say(f"wrote {rows}: {count:,} rows, {known:,} of them known to the model")
        run.say(f"next: python -m track2_mmctr run --config din --set features.candidates={rows} --data {data}")


def write_recommendations(
    target: Path, data: Sequences, users: np.ndarray, items: np.ndarray, scores: np.ndarray
) -> None:
    """Write item ids, best first, for user rows; a user with fewer items has a shorter list."""
    found = items >= 0
    names, ids = data.users[users].tolist(), data.item_ids
    lists = [ids[row[kept]].tolist() for row, kept in zip(items, found, strict=True)]
    if target.suffix == ".json":
        write_text(target, json.dumps({str(name): one for name, one in zip(names, lists, strict=True)}) + "\n")
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = [row[kept].tolist() for row, kept in zip(scores, found, strict=True)]
    table = pa.table(
        {
            "user_id": pa.array(names),
            "items": pa.array(lists, pa.list_(pa.array(ids[:1]).type)),
            "scores": pa.array(values, pa.list_(pa.float32())),
        }
    )
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_ids(path: Path) -> list[Any]:
    """Return the ids of a file: a JSON list, or one id a line.

    Raises
    ------
    DataError
        The file is missing, empty, or its JSON is not a list of ids.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            found = [line.strip() for line in text.splitlines() if line.strip()]
        else:
            found = json.loads(text)
    except (OSError, ValueError) as error:
        raise DataError("no ids can be read", where=path, got=str(error)) from None
    if not isinstance(found, list) or not all(isinstance(one, str | int) and one is not True for one in found):
        raise DataError("not a list of ids", where=path, expected="[1, 2, ...] or one id a line")
    if not found:
        raise DataError("no ids", where=path, expected="at least one", got="an empty file")
    return found


def _record(run: Prepared, home: Path | None) -> Experiment:
    return Experiment(run.out / "runs", "generative", run.config, run.config.seed, repository=home, device=run.device)
