"""STORE on planted items: texts copied from slots alone, recall of the next item, and what each part adds.

128 items have three attributes of five values, which their captions name; the next item is, with probability .85, one
of those of the cluster (first two attributes) that follows the last item's. An item's category is its first attribute.
600 users walk eight items to train on and one to test.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
import typer
from sklearn.metrics import normalized_mutual_info_score

from benchmarks.planted_arms import Run, show
from common.generative.sequences import Sequences, from_lists
from common.generative.store.config import StoreConfig
from common.generative.store.dense import DenseTokenizer, slot_cosine
from common.generative.store.items import StoreItems
from common.generative.store.model import Store
from common.generative.store.stages import fit_dense, make_ids
from common.generative.tiger_batches import TigerBatch
from common.generative.training import FitConfig, fit_generator
from common.planted import ClusterChain, PlantedConfig, plant
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.schedule import ScheduleConfig

ITEMS, VALUES, USERS, LENGTH = 128, 5, 600, 9
SEEN = (1, 2, 3)
"""The attributes that captions name; the first two make the clusters."""
DENSE_EPOCHS, EPOCHS = 50, 10
FIGURES = (
    "copied",
    "copied, other slots",
    "prior",
    "|cos|",
    "NMI category",
    "Recall@10",
    "ID from text",
    "text from ID",
    "next text",
)
COSINE = ScheduleConfig(type="cosine", warmup_steps=20)
Changes = dict[str, Any]


def base_config() -> Changes:
    """Return the values of the method's configuration on planted data."""
    fit = {"epochs": DENSE_EPOCHS, "learning_rate": 5e-3, "evaluate_every": 10, "patience": 10}
    return {
        "lm": {"scratch": {"dim": 64, "layers": 2, "heads": 4, "feedforward": 128, "context": 96, "vocabulary": 600}},
        "dense": {"slots": 3, "batch_size": 32, "train": fit | {"schedule": {"type": "cosine", "warmup_steps": 20}}},
        "codes": {"size": 16, "components": 16},
        "tasks": {"text_share": 0.1, "text_items": 3},
        "instructions": False,
        "max_items": 10,
        "max_text": 12,
        "max_longer": 12,
    }


def make_config(changes: Changes | None = None) -> StoreConfig:
    """Return the configuration with changes, "section.key" or "key" to a value."""
    values = base_config()
    for name, value in (changes or {}).items():
        section, _, leaf = name.rpartition(".")
        (values[section] if section else values)[leaf] = value
    return StoreConfig.model_validate(values)


@dataclass
class World:
    """Planted items and sequences, and what was already trained on them."""

    seed: int
    items: StoreItems
    categories: np.ndarray
    chain: ClusterChain
    walks: np.ndarray
    done: dict[str, tuple[DenseTokenizer, np.ndarray]] = field(default_factory=dict)

    def train(self, *, shuffled: bool = False) -> Sequences:
        """Return all but the last item of each walk; shuffled: dealt anew to all places."""
        known = self.walks[:, :-1]
        if shuffled:
            known = np.random.default_rng((self.seed, 31)).permutation(known.reshape(-1)).reshape(known.shape)
        return from_lists(list(known), len(self.items))

    def popularity(self, k: int = 10) -> float:
        """Return Recall@k of the most frequent items."""
        counts = np.bincount(self.walks[:, :-1].reshape(-1), minlength=len(self.items))
        return float(np.isin(self.walks[:, -1], np.argsort(-counts, kind="stable")[:k]).mean())

    def most_frequent_share(self) -> float:
        """Return how often the most frequent cluster follows: the best guess of the next cluster without a history."""
        return float(np.bincount(self.chain.cluster[self.walks[:, 1:].reshape(-1)]).max() / self.walks[:, 1:].size)


def make_world(seed: int, users: int = USERS) -> World:
    """Return a planted world; same arguments, same bytes."""
    settings = PlantedConfig(items=ITEMS, values=VALUES, text=SEEN, synonyms=1, captions=1, users=1, rows=1)
    planted = plant(settings, seed)
    first, second = planted.attributes[:, SEEN[0]], planted.attributes[:, SEEN[1]]
    chain = ClusterChain(first * VALUES + second, stay=0.85, seed=seed)
    categories = [str(word) for word in planted.words[SEEN[0], first, 0]]
    texts = [own[0] for own in planted.captions]
    walks = np.stack(chain.sequences(users, LENGTH, seed))
    return World(seed, StoreItems(texts, None, categories), first, chain, walks)


def tokenized(world: World, config: StoreConfig) -> tuple[DenseTokenizer, np.ndarray]:
    """Return the dense tokenizer, trained once a configuration, and the dense tokens of all items."""
    key = config.dense.model_dump_json()
    if key not in world.done:
        torch.manual_seed(world.seed)
        tokenizer = DenseTokenizer.untrained(config, world.items)
        fit_dense(tokenizer, world.items, seed=world.seed)
        world.done[key] = tokenizer, tokenizer.encode(world.items.texts)
    return world.done[key]


def copied(tokenizer: DenseTokenizer, world: World) -> dict[str, float]:
    """Return the share of text tokens right from the item's own slots, from another item's, and the prior's."""
    texts = world.items.texts
    order = np.random.default_rng((world.seed, 32)).permutation(len(texts))
    others = [texts[item] for item in order]
    return {
        "copied": tokenizer.accuracy(texts),
        "copied, other slots": tokenizer.accuracy(others, texts),
        "prior": prior([tokenizer.target("replicate", text) for text in texts]),
    }


def prior(targets: list[list[int]]) -> float:
    """Return the token accuracy of the best guess from the tokens before alone: what no slot is needed for."""
    following: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for tokens in targets:
        for place, token in enumerate(tokens):
            following[tuple(tokens[:place])][token] += 1
    return sum(max(counts.values()) for counts in following.values()) / sum(map(len, targets))


def agreement(codes: np.ndarray, values: np.ndarray) -> float:
    """Return the mean normalised mutual information of each slot's codes [N, m] and values [N]."""
    return float(np.mean([normalized_mutual_info_score(values, one) for one in codes.T]))


def recommender(
    world: World,
    config: StoreConfig,
    ids: SemanticIdMap,
    tokenizer: DenseTokenizer,
    *,
    shuffled: bool = False,
    epochs: int = EPOCHS,
) -> Store:
    """Return STORE trained from the weights of stage 1, which stay as they are."""
    torch.manual_seed(world.seed)
    start = DenseTokenizer.untrained(config, world.items)
    start.load_state_dict(tokenizer.state_dict())
    model = Store.of(start, ids, config)
    batches = model.batches(world.items.texts, world.train(shuffled=shuffled), seed=world.seed, batch_size=256)
    fit = FitConfig(epochs=epochs, learning_rate=1e-2, schedule=COSINE)
    fit_generator(model, batches, fit, seed=world.seed)
    return model


def asked(model: Store, world: World, queries: int = 300) -> dict[str, float]:
    """Return the figures of the four tasks on test histories and on all items."""
    walks, texts = world.walks[:queries], world.items.texts
    found = model.generate(TigerBatch.of(list(walks[:, :-1])), model.trie(), beam=20, top_k=10).items.numpy()
    by_text = model.generate(texts, model.trie(), beam=10, top_k=1).items.numpy()[:, 0]
    written = model.texts_of(range(len(texts)))
    some = walks[:100]
    said = model.next_texts([[texts[item] for item in walk[:-1]] for walk in some])
    cluster = {text: int(world.chain.cluster[row]) for row, text in enumerate(texts)}
    follows = world.chain.successor[world.chain.cluster[some[:, -2]]]
    same = [texts[found] == text for found, text in zip(by_text.tolist(), texts, strict=True)]
    return {
        "Recall@10": float((found == walks[:, -1:]).any(1).mean()),
        "ID from text": float(np.mean(same)),
        "text from ID": float(np.mean([one == text for one, text in zip(written, texts, strict=True)])),
        "next text": float(np.mean([cluster.get(one) == c for one, c in zip(said, follows.tolist(), strict=True)])),
    }


def arm(world: World, changes: Changes | None = None, *, random_ids: bool = False, shuffled: bool = False) -> Run:
    """Return what computes an arm's figures."""

    def run() -> dict[str, float]:
        config = make_config(changes)
        tokenizer, dense = tokenized(world, config)
        ids = make_ids(config.codes, dense, None, seed=world.seed)
        if random_ids:
            ids = SemanticIdMap.random(len(ids), ids.sizes, world.seed + 1)
        found = copied(tokenizer, world) | {"|cos|": slot_cosine(dense)}
        found["NMI category"] = agreement(ids.sids[:, : config.dense.slots], world.categories)
        return found | asked(recommender(world, config, ids, tokenizer, shuffled=shuffled), world)

    return run


def arms(seed: int) -> Iterator[tuple[str, Run]]:
    """Yield each arm's name and what computes its figures."""
    world = make_world(seed)
    yield "oracle (true transition probabilities)", lambda: {"Recall@10": world.chain.recall(10), "next text": 1.0}
    yield "popularity", lambda: {"Recall@10": world.popularity(), "next text": world.most_frequent_share()}
    yield "STORE", arm(world)
    yield "placebo: shuffled sequences", arm(world, shuffled=True)
    yield "placebo: random IDs", arm(world, random_ids=True)
    yield "no token-to-token", arm(world, {"tasks.token_to_token": 0})
    yield "no text-to-token", arm(world, {"tasks.text_to_token": 0})
    yield "no token-to-text", arm(world, {"tasks.token_to_text": 0})
    yield "no text-to-text", arm(world, {"tasks.text_to_text": 0})
    yield "RQ-KMeans of the mean dense token", arm(world, {"codes.kind": "rq"})
    yield "no PCA", arm(world, {"codes.components": 0})
    yield "no auxiliary task", arm(world, {"dense.auxiliary": 0})
    yield "causal mask", arm(world, {"dense.mask": "causal"})


def criteria(found: dict[str, dict[str, float]]) -> Iterator[tuple[str, bool]]:
    """Yield the tests of facts 2.10 on means over seeds, and whether each is met."""
    own, most = found["STORE"], found["popularity"]["Recall@10"]
    other, before = own["copied, other slots"], own["prior"]
    yield f"tokens copied from the slots alone {own['copied']:.3f} (at least 0.9)", own["copied"] >= 0.9
    yield f"from another item's slots {other:.3f} (at most the prior, {before:.3f})", other <= before
    yield f"mean |cosine| between slots {own['|cos|']:.3f} (below 0.9)", own["|cos|"] < 0.9
    for name in ("no token-to-token", "placebo: shuffled sequences"):
        got = found[name]["Recall@10"]
        yield f"Recall@10, {name}: {got:.3f} (at most popularity + 0.05, {most + 0.05:.3f})", got <= most + 0.05
    yield f"Recall@10 {own['Recall@10']:.3f} (at least twice popularity, {2 * most:.3f})", own["Recall@10"] >= 2 * most


app = typer.Typer(add_completion=False)


@app.command()
def main(seeds: Annotated[int, typer.Option(help="number of seeds, from 0")] = 3) -> None:
    """Print the table of arms and the criteria."""
    show(arms, seeds, FIGURES, criteria)


if __name__ == "__main__":
    app()
