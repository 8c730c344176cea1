"""Semantic IDs: quantizers beside FAISS and vector-quantize-pytorch, the trie, and the beam beside transformers."""

from __future__ import annotations

from pathlib import Path

from benchmarks.suite.meter import clock
from benchmarks.suite.work import Context, Figure, Measured, Sample, System, Work

HERE = "benchmarks.suite.works_codes"
QUERIES, TOP = 8, 10


# --- quantizers ---


def plant(path: str, rows: int, dim: int) -> None:
    """Write planted vectors."""
    import numpy as np

    from benchmarks.quantizers import plant as planted

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    np.save(path, planted(rows, dim))


def quantize(name: str, path: str, rows: int) -> Measured:
    """Measure one system of `benchmarks.quantizers`."""
    from benchmarks import quantizers

    error, fit, encode = quantizers.measure(name, Path(path))[:3]
    figures = {"fit": Sample(min(rows, quantizers.TRAINED), fit), "encode": Sample(rows, encode)}
    return Measured(figures, {"error": error})


def coders(context: Context) -> Work:
    """Return the quantizers at equal bytes."""
    rows, dim = context.pick((91_717, 128), (20_000, 32), (2_000, 16))
    path = str(context.folder / "vectors" / f"{rows}x{dim}.npy")
    faiss_1, faiss_5 = "FAISS ResidualQuantizer, beam 1", "FAISS ResidualQuantizer, beam 5"
    vq = "ResidualVQ (vector-quantize-pytorch)"

    def system(name: str, label: str, asked: str, against: tuple[str, ...] = (), needs: tuple[str, ...] = ()) -> System:
        arguments = {"name": asked, "path": path, "rows": rows}
        return System(name, label, f"{HERE}:quantize", arguments, against, peer=not against, needs=needs)

    systems = (
        system("faiss_1", faiss_1, faiss_1),
        system("faiss_5", faiss_5, faiss_5),
        system("vq", vq, vq, needs=("vector_quantize_pytorch",)),
        system("rq", "RQKMeans", "RQKMeans", ("faiss_1", "vq")),
        system("rq_5", "RQKMeans, beam 5", "RQKMeans, beam 5", ("faiss_5",)),
    )
    figures = (Figure("fit", "fit", "vectors/s"), Figure("encode", "encode", "vectors/s"))
    prepare = System("plant", "vectors", f"{HERE}:plant", {"path": path, "rows": rows, "dim": dim})
    about = f"{rows:,} x {dim} to 4 codes of 8 bits"
    return Work("quantizers", about, figures, systems, prepare, context.pick(2, 1, 1), 900)


# --- trie ---


def draw(folder: str, counts: list[int]) -> None:
    """Write random IDs."""
    from benchmarks.beam_search import SIZES, draw_to

    Path(folder).mkdir(parents=True, exist_ok=True)
    for count in counts:
        draw_to(Path(folder) / f"{count}.npy", count, SIZES)


def build(kind: str, folder: str, count: int) -> Measured:
    """Build a trie of `count` IDs."""
    from benchmarks.beam_search import SIZES, build_one

    seconds, kept, beyond = build_one(kind, Path(folder) / f"{count}.npy", SIZES)[:3]
    facts = {"bytes/item": kept / count, "peak MB beyond IDs": beyond / 1e6}
    return Measured({"build": Sample(1, seconds), "rate": Sample(count, seconds)}, facts)


def trie(context: Context) -> Work:
    """Return the prefix trie: 10 M items, and 1 M beside nested dicts."""
    large, small = context.pick((10_000_000, 1_000_000), (1_000_000, 100_000), (20_000, 10_000))
    folder = str(context.folder / "sids")

    def system(name: str, label: str, kind: str, count: int, **more: object) -> System:
        arguments = {"kind": kind, "folder": folder, "count": count}
        return System(name, label, f"{HERE}:build", arguments, **more)  # pyright: ignore[reportArgumentType]

    systems = (
        system("dict", f"nested dicts, {small:,}", "dict", small, peer=True, repeats=1),
        system("rows", f"PrefixTrie, {small:,}", "rows", small, against=("dict",)),
        system("rows_10m", f"PrefixTrie, {large:,}", "rows", large),
    )
    figures = (Figure("build", "build", "s", per="time"), Figure("rate", "build", "items/s"))
    prepare = System("draw", "IDs", f"{HERE}:draw", {"folder": folder, "counts": [large, small]})
    return Work("trie", "the prefix trie from sorted IDs", figures, systems, prepare, context.pick(3, 2, 1))


# --- beam ---


def masks(count: int, beam: int, threads: int, times: int) -> Measured:
    """Masks, softmax and top-k of all levels without a model: seconds a search, the least of `times`."""
    import torch

    from benchmarks.beam_search import SIZES, random_sids
    from common.generative.beam import Rows, constrained_beam_search
    from common.generative.trie import PrefixTrie

    torch.set_num_threads(threads)
    made = PrefixTrie.from_sids(random_sids(count), SIZES)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(QUERIES * beam, size, generator=generator) for size in SIZES]

    def step(rows: Rows) -> torch.Tensor:
        return logits[rows.level][: len(rows.query)]

    best: Sample | None = None
    for turn in range(times + 3):
        with clock() as took:
            constrained_beam_search(step, made, queries=QUERIES, beam=beam, top_k=TOP)
        if turn >= 3 and (best is None or took.seconds < best.seconds):
            best = took.sample(1)
    assert best is not None
    return Measured({"search": best})


def generate(system: str, count: int, beam: int, times: int) -> Measured:
    """Answer 8 queries with one tiny T5: by our beam search, or by `transformers`' `generate` and a dict trie."""
    import torch

    from benchmarks.beam_search import SIZES, random_sids
    from benchmarks.hf_steps import HuggingFaceSteps, allowed_tokens, dict_trie, tiny_t5
    from benchmarks.hf_steps import generate as theirs
    from common.generative.beam import constrained_beam_search
    from common.generative.trie import PrefixTrie

    torch.set_num_threads(2)
    sids, model = random_sids(count), tiny_t5(SIZES)
    for weight in model.parameters():
        weight.data *= 2  # clear orders; the time does not depend on it
    prompts = torch.randint(2, 1000, (QUERIES, 40), generator=torch.Generator().manual_seed(1))
    made = PrefixTrie.from_sids(sids, SIZES) if system == "kit" else dict_trie(sids, SIZES)

    def run() -> torch.Tensor:
        if isinstance(made, PrefixTrie):
            steps = HuggingFaceSteps(model, prompts, SIZES)
            return constrained_beam_search(steps, made, queries=QUERIES, beam=beam, top_k=TOP).items
        return theirs(model, prompts, sids, SIZES, allowed_tokens(made, 1), beam=beam, top_k=TOP).items

    best: Sample | None = None
    for turn in range(times + 1):
        with clock() as took:
            run()
        if turn and (best is None or took.seconds < best.seconds):
            best = took.sample(QUERIES)
    assert best is not None
    return Measured({"generate": best})


def beams(context: Context) -> Work:
    """Return the constrained beam search: its own cost at 1 M items, and a whole model beside transformers."""
    count = context.pick(1_000_000, 1_000_000, 5_000)
    some = context.pick(100_000, 20_000, 500)
    times = context.pick(30, 10, 2)

    def answer(name: str, label: str, beam: int, against: tuple[str, ...] = ()) -> System:
        arguments = {"system": name.split("_")[0], "count": some, "beam": beam, "times": max(1, times // 5)}
        return System(name, f"{label}, beam {beam}", f"{HERE}:generate", arguments, against, peer=not against)

    systems = [
        System(
            "masks",
            f"{QUERIES} queries, beam 10, {count:,} items",
            f"{HERE}:masks",
            {"count": count, "beam": 10, "threads": 2, "times": times},
        ),
        System(
            "masks_50",
            f"{QUERIES} queries, beam 50, {count:,} items",
            f"{HERE}:masks",
            {"count": count, "beam": 50, "threads": 2, "times": times},
        ),
    ]
    for beam in context.pick((10, 50), (10,), (10,)):
        systems += [
            answer(f"peer_{beam}", "transformers generate, dict trie", beam),
            answer(f"kit_{beam}", f"constrained_beam_search, {some:,} items", beam, (f"peer_{beam}",)),
        ]
    figures = (
        Figure("search", "masks, softmax and top-k of all levels", "ms", per="time", scale=1000),
        Figure("generate", "a tiny T5, 4 levels", "queries/s"),
    )
    return Work("beam", "the trie-constrained beam search", figures, tuple(systems), None, context.pick(3, 2, 1))
