"""Quantizers side by side with FAISS and vector-quantize-pytorch: error at equal bytes, seconds to fit and encode.

    python -m benchmarks.quantizers compare             # 91,717 x 128 and 1,000,000 x 64
    python -m benchmarks.quantizers compare --small
    python -m benchmarks.quantizers additive            # what residual quantization must show on planted vectors

All systems get the same vectors and 4 codes of 8 bits, train on the same 65,536 of them and are measured on all. Each
one runs in a process of its own, one after the other. The vectors are planted to look like item embeddings (`plant`):
a tree of categories, attributes that add up, and noise whose spectrum decays.
"""

from __future__ import annotations

import importlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from common.experiment import cores, cpu_name
from common.planted import additive_vectors, isotropic_vectors, tree_vectors
from common.tokenizers.base import Quantizer, sample_rows

SIZES = (256, 256, 256, 256)
TRAINED = 65_536
FULL = ((91_717, 128), (1_000_000, 64))
SMALL = ((20_000, 32),)
app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)

Coder = Callable[[np.ndarray], np.ndarray]
"""Vectors [N, D] to codes; and codes to vectors."""


def plant(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return float32 [rows, dim]: tree (32 x 16 nodes) + 2 additive attributes of 300 values + noise, rotated.

    The noise has about a quarter of the variance; its k-th direction has standard deviation (1 + k)^-0.5.
    """
    rng = np.random.default_rng((seed, rows, dim))
    x = tree_vectors(rows, dim, (32, 16), noise=0.0, seed=seed)[0]
    for scale in (0.6, 0.4):
        values = rng.zipf(1.3, rows) % 300  # a few values are frequent
        x += (scale * rng.normal(size=(300, dim)))[values].astype(np.float32)
    spectrum = (1.0 + np.arange(dim)) ** -0.5
    noise = rng.normal(size=(rows, dim)).astype(np.float32) * (0.75 * spectrum / np.sqrt((spectrum**2).mean()))
    turn = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return np.ascontiguousarray((x + noise.astype(np.float32)) @ turn.astype(np.float32))


def ours(name: str) -> Quantizer:
    """Return an unfitted quantizer of this kit."""
    from common.tokenizers.faiss_codes import ProductQuantizer, ResidualQuantizer
    from common.tokenizers.rq_kmeans import RQKMeans
    from common.tokenizers.rq_vae import RQVAE

    made: dict[str, Callable[[], Quantizer]] = {
        "RQKMeans": lambda: RQKMeans(SIZES),
        "RQKMeans, beam 5": lambda: RQKMeans(SIZES, beam_size=5),
        "ResidualQuantizer, beam 1": lambda: ResidualQuantizer(SIZES, beam_size=1),
        "ProductQuantizer": lambda: ProductQuantizer(SIZES),
        "RQVAE": lambda: RQVAE(SIZES, sample=TRAINED),
    }
    return made[name]()


def faiss_residual(x: np.ndarray, beam: int) -> tuple[Coder, Coder]:
    """FAISS's residual quantizer as it comes, but for the beam."""
    import faiss

    faiss.omp_set_num_threads(cores())
    quantizer = faiss.ResidualQuantizer(x.shape[1], len(SIZES), 8)
    quantizer.max_beam_size = beam
    quantizer.train(x)
    return quantizer.compute_codes, quantizer.decode


def residual_vq(x: np.ndarray) -> tuple[Coder, Coder]:
    """vector-quantize-pytorch's ResidualVQ: k-means start, EMA, dead codes reset; 10 passes in batches of 4,096."""
    import torch
    from vector_quantize_pytorch import ResidualVQ

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    layer = ResidualVQ(
        dim=x.shape[1],
        num_quantizers=len(SIZES),
        codebook_size=SIZES[0],
        kmeans_init=True,
        decay=0.95,
        threshold_ema_dead_code=1,
    ).train()
    vectors = torch.from_numpy(x)
    with torch.no_grad():
        for _ in range(10):
            order = torch.randperm(len(vectors))
            for start in range(0, len(vectors) - 4095, 4096):
                layer(vectors[order[start : start + 4096]])
    layer.eval()

    def encode(y: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            parts = [layer(torch.from_numpy(y[start : start + 8192]))[1] for start in range(0, len(y), 8192)]
        return torch.cat(parts).numpy()

    def decode(codes: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return layer.get_output_from_indices(torch.from_numpy(codes)).numpy()

    return encode, decode


PEERS: dict[str, Callable[[np.ndarray], tuple[Coder, Coder]]] = {
    "FAISS ResidualQuantizer, beam 1": lambda x: faiss_residual(x, 1),
    "FAISS ResidualQuantizer, beam 5": lambda x: faiss_residual(x, 5),
    "ResidualVQ (vector-quantize-pytorch)": residual_vq,
}
KIT = ("RQKMeans", "RQKMeans, beam 5", "ResidualQuantizer, beam 1", "ProductQuantizer", "RQVAE")


def measure(name: str, path: Path) -> tuple[float, float, float]:
    """Return (relative error on all rows, seconds to fit, seconds to encode all rows) of one system."""
    x = np.load(path)
    sample = sample_rows(x, TRAINED, 0)
    for module in ("faiss", "scipy.sparse", "torch", "vector_quantize_pytorch"):  # before the clock starts
        importlib.import_module(module)
    if name in PEERS:
        started = time.perf_counter()
        encode, decode = PEERS[name](sample)
    else:
        quantizer = ours(name)
        started = time.perf_counter()
        quantizer.fit(sample, seed=0)
        encode, decode = quantizer.encode, quantizer.decode
    between = time.perf_counter()
    codes = encode(x)
    ended = time.perf_counter()
    error = sum(
        float(np.square(x[start : start + TRAINED] - decode(codes[start : start + TRAINED]), dtype=np.float64).sum())
        for start in range(0, len(x), TRAINED)
    )
    return error / float(np.square(x - x.mean(axis=0), dtype=np.float64).sum()), between - started, ended - between


@app.command()
def compare(
    small: Annotated[bool, typer.Option(help="20,000 x 32 only")] = False,
    size: Annotated[list[str] | None, typer.Option("--size", help="ROWSxDIM; may be given several times")] = None,
    rq_vae: Annotated[bool, typer.Option(help="RQVAE too, which trains for minutes")] = True,
) -> None:
    """Print error and seconds of every system."""
    shapes = [tuple(int(part) for part in text.split("x")) for text in size or []] or (SMALL if small else FULL)
    typer.echo(f"{cpu_name()}, {cores()} cores; 4 x 8 bits, trained on {TRAINED:,} rows at most")
    for rows, dim in shapes:
        typer.echo(f"\n{rows:,} x {dim}\n{'system':<38}{'error':>9}{'fit s':>9}{'encode s':>10}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.npy"
            np.save(path, plant(rows, dim))
            for name in (*KIT, *PEERS):
                if name == "RQVAE" and not rq_vae:
                    continue
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    error, fit, encode = pool.submit(measure, name, path).result()
                typer.echo(f"{name:<38}{error:>9.4f}{fit:>9.1f}{encode:>10.2f}")


@app.command()
def additive(
    seeds: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    """Print what residual k-means leaves on additive vectors, beside flat k-means, random codewords and a control."""
    from common.tokenizers.kmeans import kmeans, nearest, squared_distances
    from common.tokenizers.rq_kmeans import RQKMeans

    sizes = (16, 16, 16)
    typer.echo("N 4000, D 32, L 3, K 16; relative error after each level, and what the same rows give otherwise")
    typer.echo(
        f"{'seed':<6}{'level 1':>9}{'level 2':>9}{'level 3':>9}{'flat, 48':>10}{'random':>9}{'control':>9}"
        f"{'perplexity/K':>14}{'dead':>6}{'unique':>8}{'hashing':>9}"
    )
    for seed in range(seeds):
        x = additive_vectors(4000, 32, 3, 16, seed=seed)[0]
        variation = float(((x - x.mean(axis=0)) ** 2).sum())
        quantizer = RQKMeans(sizes).fit(x, seed=seed)
        levels = quantizer.metrics["levels"]
        flat = kmeans(x, sum(sizes), seed=seed)
        flat_error = squared_distances(x, flat.centroids, flat.codes).sum() / variation
        rng, left = np.random.default_rng(seed), x.copy()
        for width in sizes:
            book = left[rng.choice(len(left), width, replace=False)]
            left -= book[nearest(left, book)]
        control = isotropic_vectors(4000, 32, scale=float(np.sqrt(variation / x.size)), seed=seed)
        noise = RQKMeans(sizes).fit(control, seed=seed).metrics["levels"][2]["relative_error"]
        bins = float(np.prod(sizes))
        typer.echo(
            f"{seed:<6}"
            + "".join(f"{level['relative_error']:>9.4f}" for level in levels)
            + f"{flat_error:>10.4f}{float((left**2).sum()) / variation:>9.4f}{noise:>9.4f}"
            + f"{min(level['perplexity'] / level['size'] for level in levels):>14.2f}"
            + f"{sum(level['dead'] for level in levels):>6}"
            + f"{len(np.unique(quantizer.encode(x), axis=0)) / len(x):>8.3f}"
            + f"{bins * (1 - (1 - 1 / bins) ** len(x)) / len(x):>9.3f}"
        )


if __name__ == "__main__":
    app()
