"""The prefix trie and the constrained beam search: size, speed, and what a narrow beam misses.

    python -m benchmarks.beam_search [--part build|mask|generate|recall]

Four tables. `build`: seconds and memory of the trie in compressed rows and of nested dicts, each in a process of its
own. `mask`: milliseconds of everything but the model (masks, softmax, top-k of all levels). `generate`: one tiny T5
driven by our beam search and by `transformers`' `generate` with a dict trie behind `prefix_allowed_tokens_fn`; both
return the same items. `recall`: the share of the true ten best items that a beam finds, for random scores that
depend on the position alone: where most prefixes of two codes name few items (256^4), and where every level counts
(22^3, 47^3: nearly all IDs are taken).
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import torch
import typer

from benchmarks.hf_steps import HuggingFaceSteps, allowed_tokens, dict_trie, generate, tiny_t5
from common.experiment import cores, cpu_name
from common.generative.beam import Rows, constrained_beam_search, exhaustive
from common.generative.trie import PrefixTrie

SIZES = (256,) * 4
Part = Literal["build", "mask", "generate", "recall"]
T = TypeVar("T")


def random_sids(n: int, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> np.ndarray:
    """Return `n` different IDs drawn evenly, int32 [n, L], in random order."""
    rng, space = np.random.default_rng(seed), int(np.prod(sizes))
    numbers = np.unique(rng.integers(0, space, n + n // 20 + 10)) if n < space // 50 else rng.permutation(space)
    numbers = rng.permutation(numbers)[:n]
    assert len(numbers) == n
    return np.stack(np.unravel_index(numbers, sizes), axis=1).astype(np.int32)


def build_one(kind: str, path: Path, sizes: tuple[int, ...]) -> tuple[float, float, float]:
    """Return (seconds, bytes kept, bytes at the peak beyond the IDs) of one build in this process."""
    sids = np.load(path)
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    started = time.perf_counter()
    built = dict_trie(sids, sizes) if kind == "dict" else PrefixTrie.from_sids(sids, sizes)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before
    return seconds, float(built.nbytes) if isinstance(built, PrefixTrie) else float(peak), float(peak)


def draw_to(path: Path, n: int, sizes: tuple[int, ...]) -> None:
    """Write `n` random IDs to a file."""
    np.save(path, random_sids(n, sizes))


def alone(run: Callable[..., T], *args: object) -> T:
    """Run in a new process. It begins with its parent's peak of memory, so the parent draws no IDs itself."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *args).result()


def build_table(repeats: int) -> None:
    """Print the table of builds."""
    typer.echo(f"\nbuild (least seconds of {repeats}; a dict trie of 1,000,000: once)")
    typer.echo(f"{'items':>11}{'codes':>8}{'trie':>8}{'seconds':>10}{'kept MB':>10}{'peak MB':>10}{'bytes/item':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for n, codes in ((100_000, 256), (1_000_000, 256), (10_000_000, 256), (10_000_000, 512)):
            sizes, path = (codes,) * 4, Path(folder) / f"{n}-{codes}.npy"
            alone(draw_to, path, n, sizes)
            for kind in ("rows", "dict")[: 1 if n > 1_000_000 else 2]:
                times = 1 if kind == "dict" and n > 100_000 else repeats
                found = [alone(build_one, kind, path, sizes) for _ in range(times)]
                seconds, kept, peak = (min(values) for values in zip(*found, strict=True))
                typer.echo(
                    f"{n:>11,}{f'{codes}^4':>8}{kind:>8}{seconds:>10.3f}{kept / 1e6:>10.1f}{peak / 1e6:>10.1f}"
                    f"{kept / n:>12.1f}"
                )
            path.unlink()


def timed(run: Callable[[], object], times: int, less: Callable[[], float] = lambda: 0.0) -> tuple[float, float]:
    """Return the least and the median seconds of `run`, without what `less` says after it."""
    run()
    seconds: list[float] = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started - less())
    return min(seconds), statistics.median(seconds)


def mask_table(repeats: int) -> None:
    """Print the milliseconds of a search without its model, at 8 queries."""
    queries, times = 8, 50 * repeats
    typer.echo(f"\nmasks, softmax and top-k of all 4 levels, 8 queries, without the model (least, median of {times})")
    typer.echo(f"{'items':>11}{'beam':>6}{'threads':>9}{'least ms':>10}{'median ms':>11}")
    for n in (100_000, 1_000_000):
        trie = PrefixTrie.from_sids(random_sids(n), SIZES)
        for beam, threads in ((10, 1), (10, 2), (50, 1), (50, 2)):
            torch.set_num_threads(threads)
            generator = torch.Generator().manual_seed(0)
            logits = [torch.randn(queries * beam, size, generator=generator) for size in SIZES]
            spent = [0.0]

            def step(rows: Rows, logits: list[torch.Tensor] = logits, spent: list[float] = spent) -> torch.Tensor:
                started = time.perf_counter()
                found = logits[rows.level][: len(rows.query)]
                spent[0] += time.perf_counter() - started
                return found

            def taken(spent: list[float] = spent) -> float:
                found, spent[0] = spent[0], 0.0
                return found

            def search(trie: PrefixTrie = trie, beam: int = beam, step: Callable[..., torch.Tensor] = step) -> object:
                return constrained_beam_search(step, trie, queries=queries, beam=beam, top_k=10)

            least, median = timed(search, times, taken)
            typer.echo(f"{n:>11,}{beam:>6}{threads:>9}{1e3 * least:>10.2f}{1e3 * median:>11.2f}")


def generate_table(repeats: int) -> None:
    """Print items a second of one T5 driven two ways, alternating, and whether they agree."""
    queries, top_k, n = 8, 10, 100_000
    sids = random_sids(n)
    model, trie, nested = tiny_t5(SIZES), PrefixTrie.from_sids(sids, SIZES), dict_trie(sids, SIZES)
    for weight in model.parameters():
        weight.data *= 2  # clear orders; the time does not depend on it
    prompts = torch.randint(2, 1000, (queries, 40), generator=torch.Generator().manual_seed(1))
    typer.echo(
        f"\none T5 (64 wide, 2 + 2 layers), 8 queries of 40 tokens, {n:,} items of 4 codes, top 10 "
        f"(least seconds of {3 * repeats}, alternating)"
    )
    typer.echo(f"{'beam':>5}  {'system':<44}{'seconds':>9}{'queries/s':>11}{'items/s':>9}{'x':>7}")
    for beam in (10, 50):

        def ours(beam: int = beam) -> torch.Tensor:
            steps = HuggingFaceSteps(model, prompts, SIZES)
            return constrained_beam_search(steps, trie, queries=queries, beam=beam, top_k=top_k).items

        def theirs(beam: int = beam, masked: bool = True) -> torch.Tensor:
            callback = allowed_tokens(nested, 1) if masked else None
            return generate(model, prompts, sids if masked else sids[:0], SIZES, callback, beam=beam, top_k=top_k).items

        same = float((ours() == theirs()).float().mean())
        systems: dict[str, Callable[[], object]] = {
            "transformers generate, dict trie callback": theirs,
            "transformers generate, no constraint": lambda run=theirs: run(masked=False),
            "constrained_beam_search": ours,
        }
        least = dict.fromkeys(systems, float("inf"))
        for _ in range(3 * repeats):
            for name, run in systems.items():
                started = time.perf_counter()
                run()
                least[name] = min(least[name], time.perf_counter() - started)
        slowest = least["transformers generate, dict trie callback"]
        for name, seconds in least.items():
            typer.echo(
                f"{beam:>5}  {name:<44}{seconds:>9.4f}{queries / seconds:>11.1f}{queries * top_k / seconds:>9.0f}"
                f"{slowest / seconds:>7.2f}"
            )
        typer.echo(f"{beam:>5}  same item at the same place: {same:.1%}")


def recall_table(queries: int) -> None:
    """Print the share of the ten best items by brute force that a beam finds."""
    beams = (10, 20, 50, 100, 200)
    typer.echo(f"\nrecall of the true ten best, random scores by position, {queries} queries")
    typer.echo(f"{'items':>9}{'codes':>8}{'spread':>8}" + "".join(f"{f'beam {beam}':>10}" for beam in beams))
    for n, codes, levels in ((10_000, 256, 4), (100_000, 256, 4), (10_000, 22, 3), (100_000, 47, 3)):
        sizes = (codes,) * levels
        trie = PrefixTrie.from_sids(random_sids(n, sizes), sizes)
        for spread in (1.0, 3.0):
            generator = torch.Generator().manual_seed(2)
            logits = [spread * torch.randn(queries, size, generator=generator) for size in sizes]
            hits = dict.fromkeys(beams, 0)
            for query in range(queries):

                def step(rows: Rows, query: int = query, logits: list[torch.Tensor] = logits) -> torch.Tensor:
                    return logits[rows.level][query].expand(len(rows.query), -1)

                best = set(exhaustive(step, trie, queries=1).items[0, :10].tolist())
                for beam in beams:
                    found = constrained_beam_search(step, trie, queries=1, beam=beam, top_k=10).items[0]
                    hits[beam] += len(best & set(found.tolist()))
            typer.echo(
                f"{n:>9,}{f'{codes}^{levels}':>8}{spread:>8.0f}"
                + "".join(f"{hits[beam] / queries / 10:>10.3f}" for beam in beams)
            )


def main(
    part: Annotated[Part | None, typer.Option(help="Only this table")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each measurement")] = 3,
    queries: Annotated[int, typer.Option(min=1, help="Queries of the recall table")] = 50,
) -> None:
    """Print the tables."""
    typer.echo(f"{cpu_name()}, {cores()} cores")
    tables: dict[str, Callable[[], None]] = {
        "build": lambda: build_table(repeats),
        "mask": lambda: mask_table(repeats),
        "generate": lambda: generate_table(repeats),
        "recall": lambda: recall_table(queries),
    }
    for name, table in tables.items():
        torch.set_num_threads(cores())
        if part in (None, name):
            table()


if __name__ == "__main__":
    typer.run(main)
