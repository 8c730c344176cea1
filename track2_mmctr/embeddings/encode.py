"""Texts and covers to vectors, through the resumable store; what is missing or broken is written down."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from common.encoders.base import text_key
from common.encoders.spread import Spread, TextCoder, identity_of, spread_texts
from common.encoders.store import EmbeddingStore
from common.engine.base import Engine
from common.engine.local import LOCAL
from common.errors import DataError
from common.faults import FaultLog
from common.hashing import digest
from common.images import open_image
from track2_mmctr.datasets.items import shown_ids
from track2_mmctr.embeddings.catalogue import IMAGES, Catalogue, cover_path, read_raw, read_texts
from track2_mmctr.embeddings.config import EmbedConfig
from track2_mmctr.embeddings.fusion import Modality

Kind = Literal["text", "cover"]
_RAW_COLUMNS = {"text": "txt_emb_BERT", "image": "img_emb_CLIPRN50"}


@dataclass(frozen=True)
class Tools:
    """Where and with what to encode; `engine` has the workers for what outgrows this process."""

    cache: Path
    device: str
    threads: int
    faults: FaultLog
    engine: Engine = LOCAL


def load_modalities(
    catalogue: Catalogue, config: EmbedConfig, tools: Tools, notes: list[str]
) -> tuple[list[Modality], bool]:
    """Return the modalities of `config.modalities`, and whether they share one space (one open_clip model)."""
    if config.source == "files":
        columns = {name: _RAW_COLUMNS[name] for name in config.modalities}
        return [Modality(n, *read_raw(catalogue, column, notes), column) for n, column in columns.items()], False
    images = None
    if "image" in config.modalities or config.text.library == "open_clip":
        images = build_image_encoder(config, tools.device)
        notes += images.notes
    found: list[Modality] = []
    for name in config.modalities:
        made = _texts(catalogue, config, tools, images, notes) if name == "text" else None
        found.append(Modality(name, *(made or _covers(catalogue, images, config, tools, notes))))
    return found, config.text.library == "open_clip"


def build_image_encoder(config: EmbedConfig, device: str) -> Any:
    """Return the OpenClipEncoder or TimmImageEncoder of the configuration."""
    chosen = config.image
    if chosen.library == "timm":
        from common.encoders.timm_image import TimmImageEncoder

        return TimmImageEncoder(chosen.model, chosen.pretrained, device, batch_size=config.batch_size, seed=config.seed)
    from common.encoders.image import OpenClipEncoder
    from common.errors import ConfigError

    own_weights = chosen.model.startswith("hf-hub:") or Path(chosen.model).is_dir()
    if chosen.pretrained == "auto" and not own_weights:
        raise ConfigError(
            "an open_clip architecture needs weights",
            where="image.pretrained",
            expected="a tag of open_clip, or a checkpoint file; none asks for random weights",
            got="auto",
        )
    weights = None if chosen.pretrained in ("auto", "none") else chosen.pretrained
    return OpenClipEncoder(chosen.model, weights, device, batch_size=config.batch_size, seed=config.seed)


def _texts(
    catalogue: Catalogue, config: EmbedConfig, tools: Tools, images: Any, notes: list[str]
) -> tuple[np.ndarray, np.ndarray, str]:
    texts = read_texts(catalogue, config.fields, notes)
    rows = [row for row, text in enumerate(texts) if text]
    if len(rows) < len(texts):
        without = sorted(set(range(len(texts))) - set(rows))
        notes.append(f"{len(without)} items have no text and get the mean of the others: {_ids(without)}")
    if config.text.library == "open_clip":
        encoder, coder, spread = images, ItemCoder(images, "text"), None
        if tools.engine.spreads:
            make = partial(_item_coder, config, tools.device, "text")
            spread = Spread(tools.engine, make, coder.identity, lambda i: texts[rows[i]], device=tools.device)
    else:
        from common.encoders.text import build_text_encoder

        chosen = config.text
        recipe = partial(
            build_text_encoder,
            chosen.model,
            passage_prompt=chosen.prompt,
            max_tokens=chosen.max_tokens,
            device=tools.device,
            threads=tools.threads,
        )
        encoder = recipe()
        coder = TextCoder(encoder, "passage", 64)
        spread = spread_texts(tools.engine, recipe, coder, [texts[row] for row in rows], device=tools.device)
    name, revision = encoder.name, encoder.revision
    store = EmbeddingStore(tools.cache, name, revision, "passage", encoder.preprocessing)
    made = store.encode_all(
        [text_key(texts[row]) for row in rows],
        lambda i: texts[rows[i]],
        coder.encode,
        batch_size=64,
        faults=tools.faults,
        what="texts",
        name=lambda i: f"text of item {rows[i] + 1}",
        spread=spread,
    )
    return *_spread(made.vectors, made.present, rows, len(texts)), f"{name}@{revision}"


def _covers(
    catalogue: Catalogue, images: Any, config: EmbedConfig, tools: Tools, notes: list[str]
) -> tuple[np.ndarray, np.ndarray, str]:
    if not (catalogue.folder / IMAGES).is_dir():
        raise DataError(
            "the folder of covers is missing",
            where=catalogue.folder / IMAGES,
            expected="<item_id>.jpg or .png",
            todo="unpack item_images.rar there, or set method: text to embed titles alone",
        )
    paths = {row: cover_path(catalogue.folder, row + 1) for row in range(catalogue.count)}
    found = {row: path for row, path in paths.items() if path is not None}
    keys: dict[int, str] = {}
    for row, path in found.items():
        try:
            keys[row] = digest("image", path.read_bytes())
        except OSError as error:
            tools.faults.add("read covers", f"cover {path.name}", error)
    if missing := [row for row in paths if row not in found]:
        notes.append(f"{len(missing)} items have no cover and get the mean of the others: {_ids(missing)}")
    rows = list(keys)

    coder, spread = ItemCoder(images, "cover"), None
    if tools.engine.spreads:
        make = partial(_item_coder, config, tools.device, "cover")
        spread = Spread(tools.engine, make, coder.identity, lambda i: found[rows[i]], device=tools.device)
    before = len(tools.faults)
    store = EmbeddingStore(tools.cache, images.name, images.revision, "passage", images.preprocessing)
    made = store.encode_all(
        list(keys.values()),
        lambda i: coder.load(found[rows[i]]),
        coder.encode,
        batch_size=config.batch_size,
        faults=tools.faults,
        what="covers",
        name=lambda i: f"cover of item {rows[i] + 1}",
        spread=spread,
    )
    if len(tools.faults) > before:
        broken = [rows[i] for i in np.flatnonzero(~made.present)]
        notes.append(f"{len(broken)} covers cannot be decoded; their items get the mean of the others: {_ids(broken)}")
    return *_spread(made.vectors, made.present, rows, catalogue.count), f"{images.name}@{images.revision}"


class ItemCoder:
    """Covers by their files, or texts, and their vectors of one image encoder."""

    def __init__(self, images: Any, kind: Kind) -> None:
        self._images = images
        self._kind: Kind = kind
        self.identity = identity_of(images)

    def load(self, sent: Any) -> Any:
        """Return the text as it is, or the cover at a path, prepared."""
        if self._kind == "text":
            return sent
        return self._images.prepare(open_image(sent, f"cover {sent.name}"))

    def encode(self, items: list[Any]) -> np.ndarray:
        """Return the items' vectors."""
        return self._images.encode_texts(items) if self._kind == "text" else self._images.encode_prepared(items)


def _item_coder(config: EmbedConfig, device: str, kind: Kind) -> ItemCoder:
    return ItemCoder(build_image_encoder(config, device), kind)


def _spread(vectors: np.ndarray, present: np.ndarray, rows: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 [count, D] and bool [count], the vectors at their items' rows."""
    where = np.asarray(rows, np.int64)
    full = np.zeros((count, vectors.shape[1]), np.float32)
    have = np.zeros(count, bool)
    full[where[present]], have[where[present]] = vectors[present], True
    return full, have


def _ids(rows: list[int]) -> str:
    """Return the items of rows for a message; row r is item r + 1."""
    return f"item {shown_ids(np.asarray(rows) + 1)}"
