"""EASE-style page embeddings: a Q-Former over frozen page tokens, distilled from the text encoder of the questions.

A page's tokens are the frozen encoder's vectors of its chunks, and of its image where an image encoder is set. A
Q-Former makes one vector of them; it learns to land on the mean of all the page's chunks, or where the text encoder
puts the page's own pseudo-texts. With a language model it must let that frozen model tell the page's text as well.
Questions go through the text encoder alone, and pages are searched in an index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from common.encoders.embeddings import Embeddings
from common.errors import ConfigError
from common.hashing import digest
from common.index.base import VectorIndex, choose_kind
from common.index.build import make_index
from track1_mdr.chunks import chunk_passages
from track1_mdr.config import ImageConfig
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored, top_k
from track1_mdr.ease_config import EaseRouteConfig
from track1_mdr.pseudo_queries import pseudo_queries
from track1_mdr.routes.base import Environment
from track1_mdr.routes.image import ImageRoute
from track1_mdr.routes.text_vectors import chunk_namer, encode_texts, text_encoder

if TYPE_CHECKING:
    from common.representation.ease import Ease, EaseConfig
    from common.representation.inputs import Items, Tokens

_VERSION = 1  # of what makes a model from pages: raise it when the same pages give another model
_MEMORY = 4 << 30


class EaseRoute:
    """Cosine of the question's vector and the page's one vector.

    Attributes
    ----------
    rows
        int64 [N], ascending: the passage rows that have a vector.
    model
        The trained adapter; None before `fit` and where no passage has text.
    """

    def __init__(self, config: EaseRouteConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self._recipe = text_encoder(config, environment)
        self._encoder = self._recipe()
        self._index: VectorIndex | None = None
        self._fitted = False
        self.rows = np.empty(0, np.int64)
        self.model: Ease | None = None

    def fit(self, passages: Passages) -> None:
        """Encode the pages, train the adapter (or take it from the cache), and index one vector a page."""
        items, chunk_means = self._items(passages)
        if self._environment.shard[1] > 1:  # this job only encodes
            return
        self._fitted = True
        learn = np.flatnonzero(items.modalities["text"].present)
        if len(learn) < 2:
            self._environment.say("ease: fewer than two passages have text to learn from: this route says nothing")
            return
        target = self._targets(passages, chunk_means)[items.ids[learn]]
        self.model = self._trained(items.take(learn), target)
        table = self.model.transform(items)
        self.rows, vectors = table.ids, table.columns["embedding"]
        kind = choose_kind(len(vectors), vectors.shape[1], _MEMORY)
        environment = self._environment
        self._index = make_index(
            environment.index,
            vectors.shape[1],
            kind,
            work=environment.cache,
            seed=environment.seed,
            threads=environment.threads,
            say=environment.say,
        )
        self._index.add(vectors, self.rows)

    def score(self, queries: Queries, candidates: Candidates) -> list[Scored]:
        """Score the candidates that have a vector; a question without text says nothing."""
        if not self._fitted:
            raise RuntimeError("call fit before score")
        results: list[Scored] = [Scored.empty()] * len(queries)
        if self._index is None:
            return results
        asked = self._encode(queries.texts, "query", "questions")
        for rows, members in candidates.groups():
            heard = [query for query in members if queries.texts[query].strip() and asked.present[query]]
            known = int(np.isin(rows, self.rows).sum())
            if not heard or not known:
                continue
            allowed = None if known == len(self.rows) else rows
            scores, found = self._index.search(asked.vectors[heard], min(self._config.top, known), allowed)
            for query, score, row in zip(heard, scores, found, strict=True):
                results[query] = top_k(Scored(row[row >= 0], score[row >= 0]), self._config.top)
        return results

    def _encode(self, texts: list[str], role: Any, what: str, name: Any = None) -> Embeddings:
        return encode_texts(
            self._encoder,
            self._recipe,
            texts,
            role,
            self._environment,
            batch_size=self._config.batch_size,
            dtype="float32",
            what=what,
            multi=False,
            name=name,
        )

    def _items(self, passages: Passages) -> tuple[Items, np.ndarray]:
        """Return the pages that have a token, and for each passage the mean of its chunks, [P, D]; zeros: none."""
        from common.representation.inputs import Items, Tokens

        config = self._config
        chunks = chunk_passages(passages.texts, config.words, config.stride)
        found = self._encode(chunks.texts, "passage", "chunks", chunk_namer(passages, chunks))
        vectors = np.asarray(found.vectors)[found.present].reshape(-1, self._encoder.dim)  # no text at all: [0, 0]
        owners = chunks.owners[found.present]
        values, mask, cut = padded(vectors, owners, len(passages), config.max_chunks)
        if cut:
            self._environment.say(f"ease: {cut} passages have more than {config.max_chunks} chunks; the rest is unread")
        text = Tokens(values, mask, f"{self._encoder.name} {self._encoder.revision}")
        modalities = {"text": text} | self._images(passages)
        means = np.zeros((len(passages), self._encoder.dim), np.float32)
        np.add.at(means, owners, vectors)
        every = Items(np.arange(len(passages), dtype=np.int64), passages.texts, modalities)
        present = np.logical_or.reduce([tokens.present for tokens in modalities.values()])
        return every.take(np.flatnonzero(present)), means

    def _images(self, passages: Passages) -> dict[str, Tokens]:
        """Return the page images' vectors as a modality of one token, where an image encoder is set."""
        from common.representation.inputs import Tokens

        if self._config.image_model is None:
            return {}
        settings = ImageConfig(
            type="image", model=self._config.image_model, pretrained=self._config.image_pretrained, sub_figures=False
        )  # pyright: ignore[reportCallIssue]
        views = _Views(settings, self._environment)
        views.fit(passages)
        vectors, owners = views.vectors()
        values, mask, _ = padded(vectors, owners, len(passages), 1)
        return {"image": Tokens(values, mask, f"{settings.model} {settings.pretrained}")}

    def _targets(self, passages: Passages, means: np.ndarray) -> np.ndarray:
        """Return what each passage's vector is drawn to, [P, D]: the mean of its pseudo-texts, else of its chunks."""
        if self._config.teacher == "chunks":
            return means
        queries = pseudo_queries(passages, self._config.pseudo)
        found = self._encode(queries.texts, "query", "pseudo-texts")
        targets = np.zeros_like(means)
        vectors = np.asarray(found.vectors)[found.present].reshape(-1, self._encoder.dim)
        np.add.at(targets, queries.rows[found.present], vectors)
        silent = ~targets.any(1)
        targets[silent] = means[silent]
        count = int((silent & means.any(1)).sum())
        self._environment.say(
            f"ease: {len(queries):,} pseudo-texts teach; {count} passages have none, and take the mean of their chunks"
        )
        return targets

    def _trained(self, items: Items, target: np.ndarray) -> Ease:
        """Return the adapter of these pages, trained unless the cache has it."""
        from common.representation.ease import Ease

        config, environment = ease_config(self._config), self._environment
        key = digest("ease", _VERSION, config.model_dump_json(), items.digest(), target.tobytes(), environment.seed)
        folder = environment.cache / "ease" / key[:32]
        if (folder / "method" / "method.json").is_file():
            return Ease.load(folder / "method").to(environment.device)
        model = Ease(config).fit(
            items,
            None,
            seed=environment.seed,
            device=environment.device,
            folder=folder,
            say=environment.say,
            target=target,
            teacher=f"{self._encoder.name} {self._encoder.revision}",
        )
        model.save(folder / "method")
        return model


class _Views(ImageRoute):
    """The image route for its vectors alone."""

    def vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the views' vectors float32 [V, D] and the passage rows that own them, int64 [V], ascending."""
        return self._vectors, self._owners


def padded(vectors: np.ndarray, owners: np.ndarray, count: int, most: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return vectors [V, D] by owner: float32 [count, T, D], mask bool [count, T], and how many owners have more.

    `owners` is ascending; of each at most the first `most` vectors are kept, so that T is `most` or less.
    """
    place = np.arange(len(owners)) - np.searchsorted(owners, owners)
    kept = place < most
    width = int(place[kept].max()) + 1 if kept.any() else 1
    values = np.zeros((count, width, vectors.shape[1]), np.float32)
    mask = np.zeros((count, width), bool)
    values[owners[kept], place[kept]], mask[owners[kept], place[kept]] = vectors[kept], True
    return values, mask, len(np.unique(owners[~kept]))


def ease_config(config: EaseRouteConfig) -> EaseConfig:
    """Return the adapter's own configuration.

    Raises
    ------
    ConfigError
        The Q-Former's width is not a multiple of its heads.
    """
    from common.representation.ease import EaseConfig

    network, training, decoder = config.network, config.training, config.language_model
    if network.width % network.heads:
        raise ConfigError("the width is not a multiple of the heads", where="network", got=network.width)
    return EaseConfig.model_validate(
        {
            "qformer": {"type": network.reader, **network.model_dump(exclude={"reader", "pool"})},
            "pool": network.pool,
            "need": "any",
            "adapter": "retrieval",
            "retrieval": {"loss": training.loss, "temperature": training.temperature},
            "language_model": None if decoder is None else decoder.model_dump(exclude={"weight"}),
            "lm_weight": 1.0 if decoder is None else decoder.weight,
            "validation": 0.0,  # the pages that it learns from are the ones to find
            "batch_size": training.batch_size,
            "fit": {
                "epochs": training.epochs,
                "learning_rate": training.learning_rate,
                "schedule": {"type": "cosine", "warmup_steps": 20},
                "figure": "score",
            },
        }
    )
