"""Tiny generators, and the processes that train them together: `python -m tests.common.training.together FOLDER`."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.generative.base import GenerativeRetriever
from common.generative.sasrec import SasRec, SasRecConfig
from common.generative.tiger import Tiger, TigerConfig
from common.generative.tiger_batches import TigerBatch, TigerBatches
from common.generative.training import FitConfig, FitResult, fit_generator
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.distributed import World, gather_rows, init_world, main_first, total
from common.training.schedule import ScheduleConfig
from common.training.tensors import write_tensors
from tests.processes import fork_all, write_port

SIZE = 2
ITEMS = (np.arange(155) * 5 + np.repeat(np.arange(31), 5)) % 12
OFFSETS = np.arange(0, 156, 5)
TIGER = TigerConfig(dim=16, heads=2, feedforward=32, encoder_layers=1, decoder_layers=1, dropout=0, max_items=8)
SASREC = SasRecConfig(dim=16, heads=2, feedforward=32, encoder_layers=1, dropout=0, max_items=8)
FIT = FitConfig(epochs=3, learning_rate=3e-3, schedule=ScheduleConfig(type="constant"))
TEXTS = [str(3**number) for number in range(30)]
CASES = ("tiger", "one example a row", "sasrec", "few rows")


def make(case: str) -> tuple[GenerativeRetriever, TigerBatches]:
    torch.manual_seed(7)
    if case == "sasrec":
        model: Any = SasRec(SASREC, SemanticIdMap.atomic(12))
    else:
        changes = {"attention": "bidirectional"} if case == "one example a row" else {}
        model = Tiger(TIGER.model_copy(update=changes), SemanticIdMap.random(12, (3, 3, 3), seed=0))
    size = 3 if case == "few rows" else 40  # a batch of one window: the second process has no row of it
    return model, model.batches(ITEMS, OFFSETS, seed=3, batch_size=size)


def recall(model: GenerativeRetriever, world: World) -> dict[str, float]:
    """Each process asks for its share of the users."""
    ends = list(pairwise(OFFSETS))
    own = ends[world.rank :: world.size]
    asked = TigerBatch.of([ITEMS[a : b - 1] for a, b in own])
    found = model.generate(asked, model.trie(), beam=4, top_k=1).items[:, 0].numpy()
    right = (found == ITEMS[[b - 1 for _, b in own]]).astype(np.float64)
    return {"recall@10": float(gather_rows(right, len(ends), world).mean())}


def fit(case: str, folder: Path, world: World, batches: Any = None, **more: Any) -> tuple[Any, FitResult]:
    model, own = make(case)
    config = FIT.model_copy(update={"epochs": 1}) if case == "few rows" else FIT
    given = {"evaluate": lambda one: recall(one, world), "folder": folder, "world": world} | more
    return model, fit_generator(model, batches or own, config, seed=5, **given)


class Pressed:
    """Batches during whose fifth Ctrl-C is pressed."""

    def __init__(self, inner: TigerBatches) -> None:
        self.inner, self.digest, self.left = inner, inner.digest, 5

    def __len__(self) -> int:
        return len(self.inner)

    def epoch(self, number: int) -> list[np.ndarray]:
        return self.inner.epoch(number)

    def make(self, rows: np.ndarray) -> TigerBatch:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGINT)
        return self.inner.make(rows)


def _process(folder: Path, rank: int) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text()}
    world = init_world({"RANK": str(rank), "WORLD_SIZE": str(SIZE), "LOCAL_WORLD_SIZE": str(SIZE)} | address)
    for case in CASES:
        _write(folder / f"{case}-{rank}.safetensors", *fit(case, folder / case, world))
    _, batches = make("tiger")
    try:  # the second process alone is told to stop: all stop, and the first one writes where they are
        fit("tiger", folder / "stopped", world, batches if world.main else Pressed(batches))
    except KeyboardInterrupt:
        (folder / f"stopped-{rank}").touch()
    late = fit("tiger", folder / "late", world, keep=True, evaluate=None, checkpoint_seconds=0)[1]
    again = fit("tiger", folder / "late", world, evaluate=None)[1]
    assert again.resumed_from == late.steps
    _together(folder, world)
    _texts(folder, world)
    torch.distributed.destroy_process_group()


def _together(folder: Path, world: World) -> None:
    """What processes tell each other."""
    from common.errors import ConfigError
    from common.training.distributed import check_same, told_by_main

    assert told_by_main({"a": world.rank, "b": "\N{SNOWMAN}"}, world) == {"a": 0, "b": "\N{SNOWMAN}"}
    assert total([1.0, float(world.rank)], world) == [2.0, 1.0]
    with main_first(world):
        if world.main:
            (folder / "first").touch()
        assert (folder / "first").is_file()
    try:
        check_same(f"of {world.rank}", "the data", world)
    except ConfigError as error:
        (folder / f"differ-{world.rank}").write_text(str(error))
    try:
        with main_first(world):
            if world.main:
                raise OSError("full")
            raise AssertionError("the others have no turn")
    except (OSError, ConfigError) as error:
        (folder / f"failed-{world.rank}").write_text(str(error))


class Lengths:
    """A text encoder that takes its time and writes down whose work a text was."""

    name, revision, preprocessing = "lengths", "1", "none"

    def __init__(self, log: Path) -> None:
        self.log = log

    def encode(self, texts: list[str], **_: Any) -> np.ndarray:
        time.sleep(0.2)
        with self.log.open("a") as file:
            file.write("".join(f"{text}\n" for text in texts))
        return np.array([[len(text), int(text)] for text in texts], np.float32)


def _texts(folder: Path, world: World) -> None:
    """Item texts, which the processes encode together."""
    from common.encoders import store, text
    from common.generative import item_sources
    from common.generative.config import TextsConfig

    text.build_text_encoder = lambda *_, **__: Lengths(folder / f"encoded-{world.rank}")
    store.EmbeddingStore = partial(store.EmbeddingStore, shard_items=4)
    found = item_sources.encode_texts(TEXTS, TextsConfig(batch_size=4), folder / "texts")
    np.save(folder / f"texts-{world.rank}.npy", found)


def _write(path: Path, model: GenerativeRetriever, result: FitResult) -> None:
    write_tensors(path, model.state_dict(), {"format": "test", "curve": [asdict(one) for one in result.curve]})


def _world(folder: Path) -> None:
    """Start the processes."""
    write_port(folder / "port")
    fork_all(_process, [(folder, rank) for rank in range(SIZE)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    _world(Path(sys.argv[1]))
