"""What a run knows of its items: vectors of what they are, vectors of how they are used, and their texts.

Each function returns with its answer where it comes from; a fallback (no vectors, no texts) is told once a run.
Only the training part of the sequences is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.errors import ConfigError, DataError
from common.generative.config import TextsConfig
from common.generative.item_vectors import co_occurrence_vectors
from common.generative.sequences import Sequences
from common.generative.systems import Prepared


def semantic_vectors(run: Prepared) -> tuple[np.ndarray, str]:
    """Return float32 [N, D] of what the items are, and where it comes from.

    The data's own vectors; else its texts, encoded by `texts.encoder` and kept in OUT/texts; else, and this is said,
    co-occurrence vectors of the training part, which know nothing of content.
    """
    data = run.data
    if data.embeddings is not None:
        return data.embeddings, "the data's vectors"
    if data.texts is not None and any(one.strip() for one in data.texts):
        with _own_randomness():
            return _encoded(run, data.texts), f"texts, by {run.config.texts.encoder}"
    run.say_once("the data has neither item vectors nor texts: semantic vectors are those of co-occurrence")
    return _co_occurrence(run), "co-occurrence in the training part"


def behaviour_vectors(run: Prepared) -> tuple[np.ndarray, str]:
    """Return float32 [N, D] of how the items are used, and where it comes from: see `BehaviourConfig`.

    Raises
    ------
    ConfigError
        `behaviour.source` is neither a known word nor a file or folder.
    DataError
        A file without a vector for each item; a folder that holds no SASRec of this data.
    """
    source = run.config.behaviour.source
    if source == "co_occurrence":
        return _co_occurrence(run), "co-occurrence in the training part"
    if source == "sasrec":
        return _ranker(run, run.out / "behaviour"), "item embeddings of SASRec"
    path = Path(source)
    if path.is_dir():
        return _ranker_of(path, run.data), f"item embeddings of SASRec in {path}"
    if path.is_file():
        return vectors_from(path, run.data), f"vectors of {path.name}"
    raise ConfigError(
        "no such behaviour vectors",
        where="behaviour.source",
        expected="sasrec, co_occurrence, a parquet file (item_id, vector), or the folder of a run of sasrec",
        got=source,
    )


def item_texts(run: Prepared) -> tuple[list[str], str]:
    """Return one text an item row, and where it comes from.

    Without texts, and this is said, an item's text is "item ID". An item with an empty text among others that have
    one gets the same.
    """
    names = [f"item {one}" for one in run.data.item_ids.tolist()]
    texts = run.data.texts
    if texts is None or not any(one.strip() for one in texts):
        run.say_once("the data has no item texts: an item's text is its ID")
        return names, "item IDs"
    empty = [row for row, one in enumerate(texts) if not one.strip()]
    if empty:
        run.say_once(f"{len(empty):,} of {len(texts):,} items have no text: theirs is their ID, as {names[empty[0]]!r}")
    return [one if one.strip() else name for one, name in zip(texts, names, strict=True)], "the data's texts"


def vectors_from(path: Path, data: Sequences) -> np.ndarray:
    """Return float32 [N, D] from a parquet file with item_id and one column of vectors.

    Raises
    ------
    DataError
        Not such a file, or items are missing in it.
    """
    from common.generative.sequence_files import item_tables

    _, tables, _ = item_tables([path])
    table = tables.get("embedding")
    if table is None:
        raise DataError("no item vectors here", where=path, expected="columns item_id and one list of floats")
    names = [str(one) for one in data.item_ids.tolist()]
    lacking = [name for name in names if name not in table]
    if lacking:
        raise DataError(
            f"{len(lacking):,} of {len(names):,} items have no vector", where=path, got=", ".join(lacking[:5])
        )
    return np.stack([table[name] for name in names])


def _co_occurrence(run: Prepared) -> np.ndarray:
    config = run.config
    return co_occurrence_vectors(
        run.split.train, dim=config.tokenizer.dim, window=config.tokenizer.window, seed=config.seed
    )


def _ranker(run: Prepared, out: Path) -> np.ndarray:
    """Train SASRec on the run's training part in `out`, or read it where that was done before."""
    from common.generative.run import trained_model
    from common.generative.sasrec import SasRec

    config = run.config
    changed = {"model": "sasrec", "name": "behaviour", "train": config.behaviour.train}
    run.say("behaviour vectors: SASRec")
    with _own_randomness():
        model = trained_model(replace(run, config=config.model_copy(update=changed), out=out))
    assert isinstance(model, SasRec)  # noqa: S101 - what was asked for
    return model.item_vectors()


def _ranker_of(folder: Path, data: Sequences) -> np.ndarray:
    """Return the item vectors of another run's SASRec, if it was trained on the same sequences."""
    from common.generative.run import data_digest, read_key
    from common.generative.sasrec import SasRec
    from common.tokenizers.semantic_ids import SemanticIdMap

    key = read_key(folder / "key.json")
    wanted = {"model": "sasrec", "data": data_digest(data)}
    if any(key.get(name) != value for name, value in wanted.items()):
        raise DataError(
            "not a SASRec of this data",
            where=f"behaviour.source {folder}",
            expected=f"a run of --model sasrec on data {wanted['data'][:12]}",
            got=f"{key.get('model')} on data {str(key.get('data'))[:12]}",
            todo="python -m common.generative train --model sasrec --data DIR --out FOLDER",
        )
    with _own_randomness():
        return SasRec.load(folder / "model", SemanticIdMap.atomic(len(data.item_ids))).item_vectors()


def _encoded(run: Prepared, texts: Sequence[str]) -> np.ndarray:
    """Return vectors of texts; an item without text gets the mean of the others, which is said.

    Processes that train together share the work: each takes the shards that no other one has taken.
    """
    rows = [row for row, one in enumerate(texts) if one.strip()]
    found = encode_texts([texts[row] for row in rows], run.config.texts, run.out / "texts")
    if len(rows) == len(texts):
        return found
    run.say_once(
        f"{len(texts) - len(rows):,} of {len(texts):,} items have no text and get the mean vector of the others"
    )
    made = np.repeat(found.mean(axis=0, keepdims=True), len(texts), axis=0)
    made[rows] = found
    return made


def encode_texts(texts: Sequence[str], config: TextsConfig, folder: Path) -> np.ndarray:
    """Return float32 [n, D] of texts, none of them empty; what was encoded is kept in `texts.cache`, else `folder`."""
    from common.encoders.base import text_key
    from common.encoders.store import EmbeddingStore
    from common.encoders.text import build_text_encoder
    from common.faults import FaultLog

    encoder = build_text_encoder(config.encoder, max_tokens=config.max_tokens, threads=config.threads)
    cache = folder if config.cache is None else config.cache
    store = EmbeddingStore(cache, encoder.name, encoder.revision, "passage", encoder.preprocessing)
    found = store.encode_all(
        [text_key(one) for one in texts],
        lambda row: texts[row],
        lambda batch: encoder.encode(batch, role="passage", batch_size=config.batch_size),
        batch_size=config.batch_size,
        faults=FaultLog(),
        what="item texts",
    )
    if not found.present.all():
        row = int((~found.present).argmax())
        raise DataError("a text has no vector", where=config.encoder, got=texts[row][:80])
    return found.vectors


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Leave torch's random state as it was: a model's first weights must not depend on what was read or trained."""
    import torch

    with torch.random.fork_rng():
        yield
