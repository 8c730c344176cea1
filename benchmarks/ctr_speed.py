"""Rankers side by side with FuxiCTR's layers: rows a second in training and prediction, and peak memory.

    python -m benchmarks.ctr_speed --data DIR

Every system runs in a process of its own, one after the other, on the same rows of the same data. The peer is the
organisers' DIN out of FuxiCTR's layers, trained by FuxiCTR's `train_step` on padded rectangles of 64 columns; its
batches are gathered by numpy here, which spares it the organisers' slower loader. Ours is `training.loop.train` and
`training.predict.predict` as a run uses them. `--repeats` alternates the systems and gives each one's median.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from common.config import load_config
from common.experiment import cores, cpu_name
from track2_mmctr.config import CONFIG_FOLDER, DinConfig, RunConfig
from track2_mmctr.datasets.tables import CtrData, Split

PEER = "FuxiCTR layers, padded"
OTHERS = (
    "dcnv2",
    "din_dcn",
    "din_senet",
    "qin",
    "cross_attention",
    "transformer_dcn_quant",
    "transformer_dcn",
    "gbdt",
    "similarity",
    "popularity",
)
OURS = ("my_ranker", "baseline")
WIDTH = 64


@dataclass(frozen=True)
class Job:
    """One measurement: a system, a batch size, how many steps are timed."""

    system: str
    batch_size: int
    steps: int
    data: Path
    cache: Path
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Speed:
    """Rows a second, and the process' peak memory in bytes."""

    train: float
    predict: float
    peak: int
    parameters: int


def first_rows(split: Split, count: int) -> Split:
    """Return the first rows of a split."""
    end = int(split.offsets[count])
    cut = {name: getattr(split, name)[:count] for name in ("users", "target", "levels", "label")}
    return replace(split, **cut, offsets=split.offsets[: count + 1], history=split.history[:end], oracle=None)


def measure(job: Job) -> Speed:
    """Measure one system in this process."""
    import torch

    from track2_mmctr.datasets.microlens import find_folder, load_data

    torch.set_num_threads(cores())
    config = load_config(RunConfig, "din" if job.system == PEER else job.system, CONFIG_FOLDER, job.overrides)
    data = load_data(find_folder(job.data), config.data, config.features, job.cache, splits=("train", "valid"))
    rows = min(len(data.splits["valid"]), max(2 * job.batch_size, 4096))
    data = replace(data, splits={"train": data.train, "valid": first_rows(data.splits["valid"], rows)})
    run = peer if job.system == PEER else ours if config.ranker.neural else fitted
    train, predict, parameters = run(job, config, data)
    unit = 1 if sys.platform == "darwin" else 1024
    return Speed(train, predict, unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, parameters)


def peer(job: Job, config: RunConfig, data: CtrData) -> tuple[float, float, int]:
    """FuxiCTR's layers and training step."""
    import torch

    from benchmarks.fuxictr_din import FuxiDin, padded_inputs
    from track2_mmctr.batches import batches, epoch_order

    assert isinstance(config.ranker, DinConfig)
    torch.manual_seed(config.seed)
    model = FuxiDin(data.items, config.ranker)
    order = epoch_order(len(data.train), config.seed, 0)
    model.train()
    marks = [time.perf_counter()]
    for number, batch in enumerate(batches(data.train, job.batch_size, WIDTH, order=order)):
        model.train_step(padded_inputs(batch, data.items, WIDTH))
        marks.append(time.perf_counter())
        if number == job.steps:
            break
    steps = [after - before for before, after in pairwise(marks)][1:]  # the first one warms up
    model.eval()
    valid, started = data.splits["valid"], time.perf_counter()
    with torch.no_grad():
        for batch in batches(valid, job.batch_size, WIDTH):
            model(padded_inputs(batch, data.items, WIDTH))
    seconds = time.perf_counter() - started
    return job.batch_size / statistics.mean(steps), len(valid) / seconds, sum(p.numel() for p in model.parameters())


def ours(job: Job, config: RunConfig, data: CtrData) -> tuple[float, float, int]:
    """Train and ask a ranker of this kit as `run` does."""
    import tempfile

    import torch

    from track2_mmctr.rankers import build_ranker
    from track2_mmctr.training.loop import train
    from track2_mmctr.training.predict import predict

    torch.manual_seed(config.seed)
    model = build_ranker(config.ranker, config.features, data.items)
    settings: dict[str, Any] = {"batch_size": job.batch_size, "epochs": 1, "patience": 1}
    rates: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for steps in (1, job.steps):  # one step warms up
            train_config = config.train.model_copy(update=settings | {"rows": steps * job.batch_size})
            result = train(
                model,
                data,
                train_config,
                config.loss,
                max_len=config.data.max_len,
                seed=config.seed,
                device="cpu",
                folder=Path(folder) / str(steps),
                say=lambda _: None,
            )
            rates.append(result.evaluations[0].rows_per_second)
    valid, started = data.splits["valid"], time.perf_counter()
    amp = config.train.amp
    predict(model, valid, batch_size=job.batch_size, max_len=config.data.max_len, device="cpu", amp=amp)
    seconds = time.perf_counter() - started
    return rates[-1], len(valid) / seconds, sum(p.numel() for p in model.parameters())


def fitted(job: Job, config: RunConfig, data: CtrData) -> tuple[float, float, int]:
    """Fit a ranker without gradients on all training rows, and ask it."""
    from track2_mmctr.rankers import build_fitted

    del job  # no batches
    ranker, max_len = build_fitted(config.ranker, config.features), config.data.max_len
    started = time.perf_counter()
    ranker.fit(data, max_len=max_len, seed=config.seed, threads=cores(), say=lambda _: None)
    between = time.perf_counter()
    valid = data.splits["valid"]
    ranker.predict(valid, data.items, max_len=max_len)
    return len(data.train) / (between - started), len(valid) / (time.perf_counter() - between), 0


def alone(job: Job) -> Speed:
    """Measure in a new process, so that the peak memory is the system's own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, job).result()


def median(found: list[Speed]) -> Speed:
    """Return the median of each figure."""
    train, predict, peak = (statistics.median(getattr(s, name) for s in found) for name in ("train", "predict", "peak"))
    return Speed(train, predict, int(peak), found[0].parameters)


def main(
    data: Annotated[Path, typer.Option("--data", help="Data root: the challenge's, or of benchmarks.planted_ctr")],
    cache: Annotated[Path, typer.Option("--cache")] = Path("data/cache"),
    repeats: Annotated[
        int, typer.Option(min=0, help="Runs of each system at each batch size; 0 = only the others")
    ] = 3,
    others: Annotated[bool, typer.Option(help="Also measure every other ranker, once, at batch 1024")] = True,
) -> None:
    """Print the table of rates and memory."""
    typer.echo(f"{cpu_name()}, {cores()} cores" + (f"; median of {repeats}" if repeats else ""))
    typer.echo(
        f"{'system':<34}{'batch':>6}{'parameters':>12}{'train':>9}{'x':>6}{'predict':>9}{'x':>6}{'peak GB':>9}{'x':>6}"
    )
    for batch_size, steps in ((1024, 12), (8192, 3)) if repeats else ():
        jobs = {
            PEER: Job(PEER, batch_size, steps, data, cache),
            "din": Job("din", batch_size, 4 * steps, data, cache),
            "din, bfloat16 products": Job("din", batch_size, 4 * steps, data, cache, ("train.amp=true",)),
        }
        found: dict[str, list[Speed]] = {name: [] for name in jobs}
        for _ in range(repeats):
            for name, job in jobs.items():
                found[name].append(alone(job))
        base = median(found[PEER])
        for name, speeds in found.items():
            show(name, batch_size, median(speeds), base)
    for name in (*OTHERS, *OURS) if others else ():
        show(name, 1024, alone(Job(name, 1024, 8, data, cache)), None)


def show(name: str, batch_size: int, speed: Speed, base: Speed | None) -> None:
    """Print one row of the table."""
    times = ["", "", ""]
    if base is not None:
        times = [
            f"{speed.train / base.train:.1f}",
            f"{speed.predict / base.predict:.1f}",
            f"{speed.peak / base.peak:.2f}",
        ]
    typer.echo(
        f"{name:<34}{batch_size:>6}{speed.parameters:>12,}{speed.train:>9,.0f}{times[0]:>6}"
        f"{speed.predict:>9,.0f}{times[1]:>6}{speed.peak / 2**30:>9.2f}{times[2]:>6}"
    )


if __name__ == "__main__":
    typer.run(main)
