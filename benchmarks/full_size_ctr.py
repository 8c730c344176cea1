"""The full size of MicroLens_1M_MMCTR on made-up data: time and peak memory of packing, loading, training, predicting.

python -m benchmarks.full_size_ctr
python -m benchmarks.full_size_ctr --rows 200000 --test-rows 20000 --group 65536       # a quick look
python -m benchmarks.full_size_ctr --folder DIR                                        # keep the data and the cache

Each stage is a process of its own, so that its peak memory (VmHWM) is that of the stage; mapped pages of the cache
count. `train` takes `--steps` optimiser steps of the configuration's ranker on rows drawn from all of the file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
INNER = "MicroLens_1M_x1"
LIMIT = 6 * 10**9
STAGES = ("write", "pack", "load", "train", "predict")
GIB = 2**30


# --- the made-up set ---


def lists(values: np.ndarray) -> pa.ListArray:
    """Return a 2-D array as a column of variable-size lists, as pandas writes it."""
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1)))


def popular(rng: np.random.Generator, count: int, items: int) -> np.ndarray:
    """Return item ids 1..items with a heavy tail: a tenth of the items takes half of the draws."""
    return 1 + (items * rng.random(count) ** 3.3).astype(np.int64)


def write_split(path: Path, rows: int, levels: np.ndarray, width: int, group: int, rng: np.random.Generator) -> None:
    """Write one split file in row groups of `group` rows; about ten rows share a user and a history of mean 14."""
    items = len(levels) - 1
    test, writer = path.stem == "test", None
    try:
        for first in range(0, rows, group):
            count = min(group, rows - first)
            people = max(1, count // 10)
            length = np.clip(rng.geometric(1 / 12, people) + 2, 0, width)
            history = np.zeros((people, width), np.int64)
            history[np.arange(width) >= width - length[:, None]] = popular(rng, int(length.sum()), items)
            person = rng.integers(0, people, count)
            target = popular(rng, count, items)
            flat = pa.array(history[person].reshape(-1))
            offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
            columns = {
                "user_id": person + first + 1,
                "item_seq": pa.ListArray.from_arrays(offsets, flat),
                "item_id": target,
                "likes_level": levels[target, 0],
                "views_level": levels[target, 1],
            }
            if test:
                columns["ID"] = np.arange(first, first + count)
            else:
                columns["label"] = (rng.random(count) < levels[target, 0] / 30).astype(np.int64)
            table = pa.table(columns)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table, row_group_size=group)
    finally:
        if writer is not None:
            writer.close()


def write(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Write the set in the official layout."""
    rng = np.random.default_rng(options.seed)
    inner = folder / INNER
    inner.mkdir(parents=True)
    items = options.items
    levels = rng.integers(1, 11, (items + 1, 2))
    levels[0] = 0
    for name, rows in (("train", options.rows), ("valid", options.valid_rows), ("test", options.test_rows)):
        write_split(inner / f"{name}.parquet", rows, levels, options.width, options.group, rng)
    every = np.arange(items + 1)
    tags = rng.integers(0, 11740, (items + 1, 5))
    embedding = rng.normal(size=(items + 1, 128))
    tags[0], embedding[0] = 0, 0
    info = {"item_id": every, "item_tags": lists(tags), "item_emb_d128": lists(embedding)}
    pq.write_table(pa.table(info), inner / "item_info.parquet")
    feature = {"item_id": every[1:], "item_title": [f"item {item}" for item in every[1:]], "item_tags": lists(tags[1:])}
    feature |= {"likes_level": levels[1:, 0], "views_level": levels[1:, 1]}
    pq.write_table(pa.table(feature), folder / "item_feature.parquet")
    sizes = {path.name: f"{path.stat().st_size / 1e6:.0f} MB" for path in sorted(inner.glob("*.parquet"))}
    return {"files": ", ".join(f"{name} {size}" for name, size in sizes.items())}


# --- the stages that are measured ---


class Enough(Exception):
    """Ends the training after its first evaluation."""


def load(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Read the set through the project's reader: the first time it packs."""
    from track2_mmctr.config import DataConfig, FeatureConfig
    from track2_mmctr.datasets.microlens import find_folder, load_data

    data = load_data(find_folder(folder), DataConfig(), FeatureConfig(), folder / "cache")
    tokens = len(data.train.history)
    return {"rows": len(data.train), "history items": tokens}


def fit(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Train for `--steps` steps on the whole file, and evaluate once."""
    import torch

    from common.config import load_config
    from track2_mmctr.config import CONFIG_FOLDER, RunConfig
    from track2_mmctr.datasets.microlens import find_folder, load_data
    from track2_mmctr.rankers import build_ranker
    from track2_mmctr.training.loop import train
    from track2_mmctr.training.resume import Evaluation

    torch.set_num_threads(options.threads)
    config = load_config(RunConfig, options.config, CONFIG_FOLDER)
    data = load_data(find_folder(folder), config.data, config.features, folder / "cache")
    steps = -(-len(data.train) // options.batch_size)
    changes = {"batch_size": options.batch_size, "epochs": 1, "evaluations": max(1, steps // options.steps)}
    model = build_ranker(config.ranker, config.features, data.items)  # pyright: ignore[reportArgumentType]
    seen: list[Evaluation] = []

    def stop(evaluation: Evaluation) -> None:
        seen.append(evaluation)
        raise Enough

    with suppress(Enough):
        train(
            model,
            data,
            config.train.model_copy(update=changes),
            config.loss,
            max_len=config.data.max_len,
            seed=7,
            device="cpu",
            folder=folder / "run",
            say=lambda line: None,
            on_evaluation=stop,
        )
    done = seen[0]
    return {"steps": done.step, "batch": options.batch_size, "rows/s": f"{done.rows_per_second:,.0f}"}


def predict(folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Predict the whole test set with a fresh model."""
    import torch

    from common.config import load_config
    from track2_mmctr.config import CONFIG_FOLDER, RunConfig
    from track2_mmctr.datasets.microlens import find_folder, load_data
    from track2_mmctr.rankers import build_ranker
    from track2_mmctr.training import predict as prediction

    torch.set_num_threads(options.threads)
    config = load_config(RunConfig, options.config, CONFIG_FOLDER)
    data = load_data(find_folder(folder), config.data, config.features, folder / "cache")
    model = build_ranker(config.ranker, config.features, data.items)  # pyright: ignore[reportArgumentType]
    test = data.splits["test"]
    start = time.perf_counter()
    logits = prediction.predict(model, test, batch_size=options.batch_size, max_len=config.data.max_len, device="cpu")
    return {"rows": len(logits), "rows/s": f"{len(logits) / (time.perf_counter() - start):,.0f}"}


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM: this benchmark measures memory on Linux")


def one_stage(stage: str, folder: Path, options: argparse.Namespace) -> None:
    """Run a stage in this process and print what it took as JSON."""
    start = time.perf_counter()
    facts = {"write": write, "pack": load, "load": load, "train": fit, "predict": predict}[stage](folder, options)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak_memory(), "facts": facts}))


def run(folder: Path, options: argparse.Namespace) -> int:
    """Run all stages, each in a process of its own; return 1 when one fails or takes too much memory."""
    worst = 0
    for stage in STAGES:
        if stage == "write" and (folder / INNER).is_dir():
            continue
        command = [sys.executable, "-m", "benchmarks.full_size_ctr", *sys.argv[1:], "--stage", stage]
        done = subprocess.run(
            [*command, "--folder", str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            print(f"{stage}: exit code {done.returncode}")
            return 1
        took = json.loads(done.stdout.splitlines()[-1])
        facts = "; ".join(f"{key} {value}" for key, value in took["facts"].items())
        print(f"{stage:<8} {took['seconds']:7.1f} s   peak {took['peak'] / GIB:5.2f} GiB   {facts}", flush=True)
        if stage != "write":
            worst = max(worst, took["peak"])
    print(f"peak of all stages that read: {worst / 1e9:.2f} GB, {'below' if worst < LIMIT else 'NOT BELOW'} 6 GB")
    return int(worst >= LIMIT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep everything here (default: a temporary folder)")
    parser.add_argument("--rows", type=int, default=3_600_000)
    parser.add_argument("--valid-rows", type=int, default=10_000)
    parser.add_argument("--test-rows", type=int, default=379_142)
    parser.add_argument("--items", type=int, default=91_717)
    parser.add_argument("--width", type=int, default=100, help="columns of item_seq")
    parser.add_argument("--group", type=int, default=1_048_576, help="rows of a row group (pandas' default)")
    parser.add_argument("--config", default="din")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        one_stage(options.stage, options.folder, options)
        return
    folder = options.folder or Path(tempfile.mkdtemp(prefix="mirc-full-size-ctr-"))
    folder = folder.resolve()
    try:
        code = run(folder, options)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
