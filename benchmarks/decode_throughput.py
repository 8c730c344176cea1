"""Decoding: queries a second of each generator at beam 10 and 50, and how they grow with the catalogue.

    python -m benchmarks.decode_throughput
    python -m benchmarks.decode_throughput --models tiger,eager --items 10000,1000000 --device cuda

Weights are random and IDs are drawn, not learnt: speed does not depend on what a model knows, but on the shape of its
IDs and on its size, which are those of the configurations (TIGER and EAGER of `benchmarks.generators beauty`, language
models from scratch). A query is a history of 20 items; 32 are asked together. IDs: TIGER 4 levels of 256 codes; EAGER
two trees of two levels of N^(1/2) branches; EAGER-LLM two levels of N^(1/3) branches a source, and a rank; STORE 4
slots of 256 codes. Beside the rate stands the latency of one query asked alone.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.beam_search import random_sids
from common.experiment import cores, cpu_name
from common.generative.base import GenerativeRetriever
from common.generative.lm.config import LmConfig, ScratchConfig
from common.generative.tiger_batches import TigerBatch
from common.generative.vocabulary import Vocabulary
from common.tokenizers.semantic_ids import SemanticIdMap

TEXTS = ["a short text of an item", "another item", "words of titles, from which a vocabulary is made"]
BEAMS = (10, 50)
app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Size:
    """Width and layers of the generators."""

    dim: int = 96
    feedforward: int = 384
    lm_dim: int = 128
    lm_layers: int = 2

    def lm(self) -> LmConfig:
        """Return the language model's configuration."""
        return LmConfig(scratch=ScratchConfig(dim=self.lm_dim, layers=self.lm_layers, feedforward=4 * self.lm_dim))


def tree_ids(n: int, seed: int) -> SemanticIdMap:
    """Return the paths of a balanced tree of two levels, dealt to items at random."""
    branches = math.isqrt(n - 1) + 1
    place = np.random.default_rng(seed).permutation(n)
    sids = np.stack([place // branches, place % branches], axis=1).astype(np.int32)
    return SemanticIdMap.from_sids(sids, (branches, branches))


def dual_ids(n: int, seed: int) -> SemanticIdMap:
    """Return IDs of the shape of EAGER-LLM's: two levels a source, and a rank where they collide."""
    branches = math.ceil(round(n ** (1 / 3), 9))
    codes = np.random.default_rng(seed).integers(0, branches, (n, 4)).astype(np.int32)
    return SemanticIdMap.from_codes(codes, (branches,) * 4)


def tiger(n: int, size: Size) -> GenerativeRetriever:
    """Return TIGER over n items."""
    from common.generative.tiger import Tiger, TigerConfig

    config = TigerConfig(dim=size.dim, feedforward=size.feedforward)
    return Tiger(config, SemanticIdMap.from_sids(random_sids(n), (256,) * 4))


def eager(n: int, size: Size) -> GenerativeRetriever:
    """Return EAGER over n items; both streams answer."""
    from common.generative.eager.config import EagerConfig
    from common.generative.eager.model import Eager

    config = EagerConfig(dim=size.dim, feedforward=size.feedforward)
    return Eager(config, tree_ids(n, 0), tree_ids(n, 1))


def eager_llm(n: int, size: Size) -> GenerativeRetriever:
    """Return EAGER-LLM over n items, a small model from scratch."""
    from common.generative.eager_llm.config import EagerLlmConfig
    from common.generative.eager_llm.system import make_model

    config = EagerLlmConfig(lm=size.lm(), gct_behaviour=False, gct_semantic=False)
    return make_model(config, dual_ids(n, 0), TEXTS, {})


def store(n: int, size: Size) -> GenerativeRetriever:
    """Return STORE over n items, a small model from scratch."""
    from common.generative.lm.model import load_language_model
    from common.generative.store.config import StoreConfig
    from common.generative.store.model import Store
    from common.generative.store.tokens import extra_codes

    config = StoreConfig(lm=size.lm())
    ids = SemanticIdMap.from_sids(random_sids(n, seed=1), (256,) * 4)
    codes = Vocabulary(ids.sizes).size + extra_codes(config.dense.slots)
    return Store(load_language_model(config.lm, codes, TEXTS), ids, config)


MODELS: dict[str, Callable[[int, Size], GenerativeRetriever]] = {
    "tiger": tiger,
    "eager": eager,
    "eager_llm": eager_llm,
    "store": store,
}


def seconds_a_batch(
    model: GenerativeRetriever, batch: TigerBatch, beam: int, least: float, clock: Callable[[], float]
) -> float:
    """Return the median seconds of answering a batch, over at least three tries and `least` seconds."""
    trie = model.trie()

    def ask() -> float:
        started = clock()
        found = model.generate(batch, trie, beam=beam, top_k=beam)
        assert int(found.items.min()) >= 0  # full lists, and the device has finished
        return clock() - started

    ask()
    tries: list[float] = []
    while len(tries) < 3 or sum(tries) < least:
        tries.append(ask())
    return statistics.median(tries)


@dataclass(frozen=True)
class Decoded:
    """What answering took: seconds of a batch of `queries`, and of one query alone."""

    queries: int
    batch: float
    alone: float
    model: GenerativeRetriever


def measure(
    name: str,
    items: int,
    beam: int,
    *,
    queries: int = 32,
    history: int = 20,
    least: float = 1.0,
    size: Size | None = None,
    device: str = "cpu",
    clock: Callable[[], float] = time.process_time,
) -> Decoded:
    """Return how long a generator of `MODELS` takes over a catalogue of `items`, on the threads that torch has."""
    torch.manual_seed(0)
    model = MODELS[name](items, size or Size()).to(device).eval()
    rows = np.random.default_rng(0).integers(0, items, (queries, history))
    taken = [
        seconds_a_batch(model, TigerBatch.of(list(rows[:count]), np.arange(count)).to(device), beam, least, clock)
        for count in (queries, 1)
    ]
    return Decoded(queries, taken[0], taken[1], model)


def listed(text: str, known: dict[str, object], option: str) -> list[str]:
    """Return the names of a list with commas."""
    names = [one.strip() for one in text.split(",")]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint=option)
    return names


@app.command()
def main(
    models: Annotated[str, typer.Option(help="Separated by commas")] = ",".join(MODELS),
    items: Annotated[str, typer.Option(help="Sizes of the catalogue")] = "10000,100000,1000000",
    queries: Annotated[int, typer.Option(min=1, help="Asked together")] = 32,
    history: Annotated[int, typer.Option(min=1, help="Items of a history")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="Of torch")] = 1,
    device: Annotated[str, typer.Option()] = "cpu",
    least: Annotated[float, typer.Option(help="Seconds that each figure is measured for, at least")] = 3.0,
    lm_dim: Annotated[int, typer.Option(help="Width of the language models from scratch")] = 128,
    lm_layers: Annotated[int, typer.Option()] = 2,
) -> None:
    """Print the table of queries a second, and how many times slower the largest catalogue is than the smallest."""
    torch.set_num_threads(threads)
    counts, size = [int(one) for one in items.split(",")], Size(lm_dim=lm_dim, lm_layers=lm_layers)
    names = listed(models, dict(MODELS), "--models")
    # On one thread of a CPU its own time is measured: what else runs on the machine does not count.
    alone = device == "cpu" and threads == 1
    clock = time.process_time if alone else time.perf_counter
    typer.echo(
        f"{cpu_name() if device == 'cpu' else torch.cuda.get_device_name()}, {cores()} cores, {threads} threads, "
        f"{'seconds of CPU' if alone else 'seconds of wall time'}; "
        f"random weights and drawn IDs (speed only); {queries} queries of {history} items together"
    )
    typer.echo(
        "\n| model | levels | parameters | items | "
        + " | ".join(f"queries/s, beam {b} | one query alone, ms" for b in BEAMS)
        + " |"
    )
    typer.echo("|---" * (4 + 2 * len(BEAMS)) + "|")
    for name in names:
        found: dict[int, list[float]] = {}
        for n in counts:
            answers = [
                measure(
                    name, n, b, queries=queries, history=history, least=least, size=size, device=device, clock=clock
                )
                for b in BEAMS
            ]
            found[n] = [queries / one.batch for one in answers]
            told = " | ".join(f"{queries / one.batch:,.1f} | {1e3 * one.alone:,.1f}" for one in answers)
            model = answers[0].model
            parameters = sum(p.numel() for p in model.parameters())
            typer.echo(f"| {name} | {model.vocabulary.levels} | {parameters / 1e6:.2f} M | {n:,} | {told} |")
        if len(counts) > 1:
            slower = [a / b for a, b in zip(found[min(counts)], found[max(counts)], strict=True)]
            told = " | ".join(f"{factor:.2f} times slower |" for factor in slower)
            typer.echo(f"| {name} | | | {min(counts):,} to {max(counts):,} | {told} |")


if __name__ == "__main__":
    app()
