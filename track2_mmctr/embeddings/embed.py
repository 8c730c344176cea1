"""`embed`: titles, overviews and covers (or raw embeddings) to one item_info file with 128 numbers an item."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from common.engine.base import Engine
from common.engine.local import LOCAL
from common.faults import FaultLog
from track2_mmctr.embeddings.catalogue import read_catalogue
from track2_mmctr.embeddings.config import EmbedConfig
from track2_mmctr.embeddings.encode import Tools, load_modalities
from track2_mmctr.embeddings.files import write_item_info
from track2_mmctr.embeddings.fusion import Modality, fuse, scaled


@dataclass(frozen=True)
class EmbedResult:
    """What `embed_items` wrote.

    Attributes
    ----------
    path
        The file.
    items
        N, without the padding row.
    missing
        By modality, the items that lack it.
    notes
        What a reader of scores must know.
    seconds
        By stage: encode, fuse, write.
    """

    path: Path
    items: int
    missing: dict[str, int]
    notes: list[str]
    seconds: dict[str, float]


def embed_items(
    folder: Path,
    config: EmbedConfig,
    out: Path,
    cache: Path,
    device: str,
    threads: int,
    faults: FaultLog,
    say: Callable[[str], object],
    engine: Engine = LOCAL,
) -> EmbedResult:
    """Embed the items of a `microlens` folder and write `out` in the layout of item_info.parquet.

    Parameters
    ----------
    folder
        Holds MicroLens_1M_x1/, item_feature.parquet, item_images/.
    cache
        Of encoder outputs: a second run, or one after an interruption, encodes only what is missing.
    faults
        Takes covers that cannot be decoded and items that have nothing to encode.
    say
        Is given lines for the user.
    engine
        Has the workers that encode.

    Raises
    ------
    DataError
        A file is missing or damaged; more faults than `config.allow_faults`.
    ConfigError
        An encoder is not to be had.
    """
    notes: list[str] = []
    with _torch_threads(threads):
        started = perf_counter()
        catalogue = read_catalogue(folder)
        modalities, same_space = load_modalities(
            catalogue, config, Tools(cache, device, threads, faults, engine), notes
        )
        _note_empty(modalities, faults)
        faults.check(config.allow_faults, f"mend the items, or allow them with --set allow_faults={len(faults)}")
        encoded = perf_counter()
        if config.method == "contrastive":
            vectors = _learnt(folder, modalities, config, cache, notes)
        else:
            vectors, remarks = fuse(modalities, config, same_space=same_space)
            notes += remarks
    fused = perf_counter()
    write_item_info(out, catalogue.tags, scaled(vectors, config.scale))
    seconds = {"encode": encoded - started, "fuse": fused - encoded, "write": perf_counter() - fused}
    for line in notes:
        say(line)
    if len(faults):
        say(f"{len(faults)} items failed, as allow_faults permits:\n{faults.summary()}")
    missing = {m.name: int((~m.present).sum()) for m in modalities}
    return EmbedResult(out, catalogue.count, missing, notes, seconds)


def _note_empty(modalities: list[Modality], faults: FaultLog) -> None:
    """Record the items that have neither a text nor a cover: nothing can tell them apart."""
    if len(modalities) > 1:
        for row in np.flatnonzero(~np.any([m.present for m in modalities], axis=0)):
            faults.add("embed", f"item {row + 1}", "has neither a text nor a cover")


def _learnt(folder: Path, modalities: list[Modality], config: EmbedConfig, cache: Path, notes: list[str]) -> np.ndarray:
    from track2_mmctr.config import DataConfig, FeatureConfig
    from track2_mmctr.datasets.microlens import load_data
    from track2_mmctr.embeddings.contrastive import fit_projection, user_histories

    features = FeatureConfig(embedding="none")
    data = load_data(folder, DataConfig(), features, cache, splits=("train",))
    return fit_projection(modalities, user_histories(data.train), config, notes)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(threads, 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)
