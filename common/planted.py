"""Planted multimodal data with a known optimum, for tests and benchmarks of every method.

Items have latent attributes. Image tokens, text and behaviour each see a chosen subset of them; item embeddings are
additive or tree-shaped in the attributes of behaviour. Users have preferences over attribute values, which make
histories, clicks with true log-odds, and walks along a chain of clusters. `Planted` states the best AUC and recall
that can be reached, so that a threshold is a fraction of a known optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from common.errors import ConfigError
from common.planted_clicks import Clicks, Tastes, make_clicks
from common.planted_sequences import ClusterChain, cluster_sequences, recall_of
from common.planted_vectors import SHRINK, additive_vectors, isotropic_vectors, tree_vectors
from common.planted_words import make_captions, make_words

__all__ = [
    "Clicks",
    "ClusterChain",
    "Modality",
    "Planted",
    "PlantedConfig",
    "Tastes",
    "additive_vectors",
    "cluster_sequences",
    "isotropic_vectors",
    "plant",
    "recall_of",
    "tree_vectors",
]

Modality = Literal["image", "text", "behaviour"]


@dataclass(frozen=True)
class PlantedConfig:
    """Sizes, and which attributes (0..attributes-1) each modality sees.

    By default attribute 0 is seen by image and behaviour, 1 by all, 2 by image and text, 3 by text and behaviour:
    what image or text alone can tell of a click is less than everything.

    Raises
    ------
    ConfigError
        A size below its least value, an unknown or repeated attribute, more items than combinations of values,
        fewer image tokens than attributes that the image shows.
    """

    items: int = 512
    attributes: int = 4
    values: int = 8
    image: tuple[int, ...] = (0, 1, 2)
    text: tuple[int, ...] = (1, 2, 3)
    behaviour: tuple[int, ...] = (0, 1, 3)
    image_tokens: int = 6
    dim: int = 32
    noise: float = 0.1
    """Standard deviation of each coordinate of tokens and vectors; codewords are N(0, 1)."""
    synonyms: int = 2
    captions: int = 2
    paraphrases: int = 1
    users: int = 400
    history: int = 12
    length: int = 9
    """Of each user's walk along the chain of clusters."""
    stay: float = 0.85
    rows: int = 8000
    """Of the click log."""
    taste: float = 2.0
    """Standard deviation of the log-odds over users and items: 0 makes clicks a matter of luck alone."""
    bias: float = -1.0
    skew: float = 0.7
    """An item's popularity is rank^-skew."""

    def __post_init__(self) -> None:
        least = {"values": 2, "taste": 0, "noise": 0, "skew": 0, "captions": 1, "paraphrases": 0}
        ones = ("items", "attributes", "image_tokens", "dim", "synonyms", "users", "history", "length", "rows")
        for name, bound in {**dict.fromkeys(ones, 1), **least}.items():
            if not getattr(self, name) >= bound:
                raise ConfigError("too small", where=name, expected=f"at least {bound}", got=getattr(self, name))
        if not 0 <= self.stay <= 1:
            raise ConfigError("this is not a probability", where="stay", expected="0..1", got=self.stay)
        for name in ("image", "text", "behaviour"):
            seen = getattr(self, name)
            if not seen or len(set(seen)) < len(seen) or min(seen) < 0 or max(seen) >= self.attributes:
                expected = f"different attributes of 0..{self.attributes - 1}, at least one"
                raise ConfigError("a modality sees attributes that there are", where=name, expected=expected, got=seen)
        if self.items > self.values**self.attributes:
            expected = f"at most {self.values}^{self.attributes} = {self.values**self.attributes}"
            raise ConfigError(
                "more items than combinations of values", where="items", expected=expected, got=self.items
            )
        if self.image_tokens < len(self.image):
            expected = f"at least one for each of {len(self.image)} attributes"
            raise ConfigError("too few image tokens", where="image_tokens", expected=expected, got=self.image_tokens)


@dataclass(frozen=True)
class Planted:
    """What `plant` made: N items (rows 0..N-1, no padding), U users, R click rows.

    Attributes
    ----------
    attributes
        int32 [N, A], the truth; no two items are equal.
    tokens, image
        Image tokens float32 [N, T, d] and their mean [N, d]; token t shows attribute `image[t mod len(image)]`.
    text
        float32 [N, d]: the sum of one codeword for each attribute that text sees, and noise.
    additive, tree
        Item embeddings float32 [N, d] of the attributes that behaviour sees, in their order: the codeword of a
        level is shared by all items, or belongs to its parent.
    captions, paraphrases
        N lists of texts: to train on, and held out.
    words
        str [A, V, S], the words of a value.
    tastes, histories
        Preferences of the users, and int64 [U, H], what they chose before.
    clicks
        The click log, with its true log-odds and `oracle_auc()`.
    chain, walks
        Chain over clusters of the first two attributes of behaviour, with `recall(k)`; U walks int64 [length].
    """

    config: PlantedConfig
    attributes: np.ndarray
    tokens: np.ndarray
    image: np.ndarray
    text: np.ndarray
    additive: np.ndarray
    tree: np.ndarray
    words: np.ndarray
    captions: list[list[str]]
    paraphrases: list[list[str]]
    popularity: np.ndarray
    tastes: Tastes
    histories: np.ndarray
    clicks: Clicks
    chain: ClusterChain
    walks: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.attributes)

    def seen(self, modality: Modality) -> np.ndarray:
        """Return the attributes that a modality sees, int32 [N, its number]."""
        return self.attributes[:, list(getattr(self.config, modality))]

    def modality_auc(self, modality: Modality, clicks: Clicks | None = None) -> float:
        """Return the AUC of the log-odds known from the attributes that both `modality` and behaviour see.

        The preferences are the true ones. 0.5 where they share no attribute.
        """
        from common.metrics.ctr import auc

        clicks = clicks or self.clicks
        own = getattr(self.config, modality)
        shared = tuple(place for place, a in enumerate(self.config.behaviour) if a in own)
        return auc(clicks.label, self.tastes.log_odds(clicks.users, clicks.items, shared))

    def caption_recall(self, k: int) -> float:
        """Return the best Recall@k of finding an item by its caption: items of equal seen attributes are one guess."""
        _, group, size = np.unique(self.seen("text"), axis=0, return_inverse=True, return_counts=True)
        return float(np.minimum(1.0, k / size[group.reshape(-1)]).mean())

    def sequence_recall(self, k: int) -> float:
        """Return the best Recall@k of a walk's next item, by the true transition probabilities."""
        return self.chain.recall(k)


def plant(config: PlantedConfig | None = None, seed: int = 0) -> Planted:
    """Make planted data: same configuration and seed, same bytes. Each part has a generator of its own."""
    config = config or PlantedConfig()
    draw = [np.random.default_rng((seed, 11 + part)) for part in range(10)]  # (seed, 0) would be seed's own stream
    capacity = config.values**config.attributes
    numbers = draw[0].choice(capacity, config.items, replace=False)
    attributes = (numbers[:, None] // config.values ** np.arange(config.attributes) % config.values).astype(np.int32)
    tokens = _tokens(attributes, config, draw[1])
    book = draw[2].normal(size=(config.attributes, config.values, config.dim))
    text = book[list(config.text), attributes[:, list(config.text)]].sum(1)
    words = make_words(config.attributes, config.values, config.synonyms, draw[3])
    captions, paraphrases = make_captions(attributes, config.text, words, config.captions, config.paraphrases, draw[9])
    rank = draw[4].permutation(config.items)
    popularity = (1.0 + rank) ** -config.skew
    popularity /= popularity.sum()
    values = attributes[:, list(config.behaviour)]
    scale = config.taste / len(config.behaviour) ** 0.5
    preferences = scale * draw[5].normal(size=(config.users, values.shape[1], config.values))
    tastes = Tastes(preferences, values, config.bias)
    chain = ClusterChain(_combined(values[:, :2], config.values), stay=config.stay, seed=seed)
    return Planted(
        config=config,
        attributes=attributes,
        tokens=tokens,
        image=tokens.mean(1),
        text=(text + config.noise * draw[2].normal(size=text.shape)).astype(np.float32),
        additive=_embedding(values, config, draw[6], shared=True),
        tree=_embedding(values, config, draw[6], shared=False),
        words=words,
        captions=captions,
        paraphrases=paraphrases,
        popularity=popularity,
        tastes=tastes,
        histories=tastes.histories(config.history, 1.0, popularity, draw[7]),
        clicks=make_clicks(tastes, popularity, config.rows, draw[8]),
        chain=chain,
        walks=chain.sequences(config.users, config.length, seed),
    )


def _tokens(attributes: np.ndarray, config: PlantedConfig, rng: np.random.Generator) -> np.ndarray:
    """Return image tokens float32 [N, T, d]: a token is the codeword of one value of one seen attribute, and noise."""
    book = rng.normal(size=(config.attributes, config.values, config.dim))
    shown = np.resize(np.array(config.image), config.image_tokens)
    tokens = book[shown, attributes[:, shown]]
    return (tokens + config.noise * rng.normal(size=tokens.shape)).astype(np.float32)


def _embedding(values: np.ndarray, config: PlantedConfig, rng: np.random.Generator, *, shared: bool) -> np.ndarray:
    """Return item embeddings float32 [N, d]: a codeword a level, each level's `SHRINK` times as long, and noise."""
    x = config.noise * rng.normal(size=(len(values), config.dim))
    for level in range(values.shape[1]):
        key = values[:, level] if shared else _combined(values[:, : level + 1], config.values)
        node, place = np.unique(key, return_inverse=True)
        x += rng.normal(size=(len(node), config.dim))[place.reshape(-1)] * SHRINK**level
    return x.astype(np.float32)


def _combined(values: np.ndarray, base: int) -> np.ndarray:
    """Return one number for each row of values 0..base-1, int64 [N]."""
    return values.astype(np.int64) @ base ** np.arange(values.shape[1])[::-1]
