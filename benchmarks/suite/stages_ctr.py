"""Growth of Track 2's stages and of semantic IDs: each function does `n` things and says what that took."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.suite.meter import Stage
from benchmarks.suite.work import Measured

ITEMS, EVALUATED = 10_000, 1_000


def _planted(folder: str, rows: int, packed: bool = True) -> Path:
    """Return a root of planted clicks with `rows` training rows, made in another process."""
    from benchmarks.suite.alone import run_alone

    root = Path(folder) / f"ctr-{rows}" / "data"
    call = "benchmarks.suite.works_ctr:plant" if packed else "benchmarks.suite.stages_ctr:plant_only"
    arguments = {"folder": str(root), "rows": rows, "evaluated": EVALUATED, "items": ITEMS}
    run_alone(call, arguments, timeout=900)
    return root


def plant_only(folder: str, rows: int, evaluated: int, items: int) -> None:
    """Write planted clicks, and pack nothing."""
    from benchmarks.planted_ctr import make_planted

    if not Path(folder).is_dir():
        make_planted(Path(folder), rows, evaluated, items, 7)


def packing(folder: str, n: int) -> Measured:
    """Read, check and pack a file of `n` rows with histories of 100 columns."""
    from track2_mmctr.datasets.packing import pack

    root = _planted(folder, n, packed=False)
    cache = Path(folder) / f"packed-{n}"
    shutil.rmtree(cache, ignore_errors=True)
    warm = Path(folder) / f"packed-{n}-warm"
    pack(root / "MicroLens_1M_x1" / "valid.parquet", "valid", ITEMS + 1, warm)
    stage = Stage()
    with stage:
        packed = pack(root / "MicroLens_1M_x1" / "train.parquet", "train", ITEMS + 1, cache)
    size = sum(path.stat().st_size for path in cache.rglob("*.npy"))
    return stage.result(bytes_a_row=size / n, tokens_a_row=len(packed.split.history) / n)


def _din(root: Path) -> tuple[Any, Any, Any]:
    """Return configuration, data and a fresh DIN."""
    import torch

    from common.config import load_config
    from common.experiment import cores
    from track2_mmctr.config import CONFIG_FOLDER, RunConfig
    from track2_mmctr.datasets.microlens import find_folder, load_data
    from track2_mmctr.rankers import build_ranker

    torch.set_num_threads(cores())
    config = load_config(RunConfig, "din", CONFIG_FOLDER)
    data = load_data(
        find_folder(root), config.data, config.features, root.with_name("cache"), splits=("train", "valid")
    )
    torch.manual_seed(7)
    return config, data, build_ranker(config.ranker, config.features, data.items)  # pyright: ignore[reportArgumentType]


def _train(config: Any, data: Any, model: Any, rows: int, folder: Path) -> None:
    from track2_mmctr.training.loop import train

    shutil.rmtree(folder, ignore_errors=True)
    changes = {"batch_size": 1024, "epochs": 1, "patience": 1, "rows": rows}
    train(
        model, data, config.train.model_copy(update=changes), config.loss,
        max_len=config.data.max_len, seed=7, device="cpu", folder=folder, say=lambda _: None,
    )  # fmt: skip


def din_training(folder: str, n: int) -> Measured:
    """Train DIN for one epoch of `n` rows in batches of 1,024, and evaluate it on 1,000 rows."""
    root = _planted(folder, n)
    _train(*_din(root), 1024, Path(folder) / "din-warm")
    stage = Stage()
    config, data, model = _din(root)
    with stage:
        _train(config, data, model, n, Path(folder) / f"din-{n}")
    return stage.result()


def din_prediction(folder: str, n: int) -> Measured:
    """Predict `n` rows with DIN in batches of 1,024."""
    from track2_mmctr.training.predict import predict

    root = _planted(folder, n)
    config, data, model = _din(root)
    predict(model, data.splits["valid"], batch_size=1024, max_len=config.data.max_len, device="cpu")
    stage = Stage()
    with stage:
        predict(model, data.train, batch_size=1024, max_len=config.data.max_len, device="cpu")
    return stage.result()


def gbdt_features(folder: str, n: int) -> Measured:
    """Count over `n` rows and make their features out of fold."""
    import numpy as np

    from track2_mmctr.rankers.gbdt_features import Counts, Folds, make_features

    root = _planted(folder, n)
    stage = Stage()
    config, data, _ = _din(root)
    with stage:
        split, size, window = data.train, len(data.items), 10
        counts = Counts.of(split, np.arange(len(split)), size, window)
        folds = Folds.of(split, size, window, 7)
        make_features(split, data.items, counts, config.features, max_len=config.data.max_len, folds=folds)
    return stage.result()


# --- semantic IDs ---


def _quantizer(n: int) -> tuple[Any, Any]:
    from benchmarks.quantizers import plant
    from common.tokenizers.rq_kmeans import RQKMeans

    return plant(n, 64), RQKMeans((256,) * 4)


def quantizer_fit(folder: str, n: int) -> Measured:
    """Fit RQKMeans with 4 x 256 codes to `n` vectors of 64 numbers."""
    del folder
    x, quantizer = _quantizer(2_000)
    quantizer.fit(x, seed=0)
    stage = Stage()
    x, quantizer = _quantizer(n)
    with stage:
        quantizer.fit(x, seed=0)
    return stage.result()


def quantizer_encode(folder: str, n: int) -> Measured:
    """Encode `n` vectors of 64 numbers."""
    del folder
    x, quantizer = _quantizer(4_000)
    quantizer.fit(x, seed=0)
    quantizer.encode(x)
    stage = Stage()
    x, _ = _quantizer(n)
    with stage:
        quantizer.encode(x)
    return stage.result()


def trie_build(folder: str, n: int) -> Measured:
    """Build the prefix trie of `n` random IDs of 4 x 256 codes."""
    from benchmarks.beam_search import SIZES, random_sids
    from common.generative.trie import PrefixTrie

    del folder
    PrefixTrie.from_sids(random_sids(1000), SIZES)
    stage = Stage()
    sids = random_sids(n)
    with stage:
        made = PrefixTrie.from_sids(sids, SIZES)
    return stage.result(bytes_an_item=made.nbytes / n)


def beam_search(folder: str, n: int) -> Measured:
    """Ten searches over `n` items, 8 queries, beam 10: masks, softmax and top-k without a model."""
    import torch

    from benchmarks.beam_search import SIZES, random_sids
    from common.generative.beam import Rows, constrained_beam_search
    from common.generative.trie import PrefixTrie

    del folder
    torch.set_num_threads(1)
    stage = Stage()
    made = PrefixTrie.from_sids(random_sids(n), SIZES)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(80, size, generator=generator) for size in SIZES]

    def step(rows: Rows) -> torch.Tensor:
        return logits[rows.level][: len(rows.query)]

    def search(times: int) -> None:
        for _ in range(times):
            constrained_beam_search(step, made, queries=8, beam=10, top_k=10)

    search(3)
    with stage:
        search(10)
    return stage.result(searches=10)
