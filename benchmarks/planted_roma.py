"""ROMA on planted data: words that only the image tells, and two domains with opposite rules of the next item.

    python -m benchmarks.planted_roma --seeds 3

Words: a caption names attribute 0, which the image shows as well, and attribute 2, which it does not; the caption's
two words say nothing of each other. Accuracy of the hidden word of attribute 0, on items that were never trained on.

Next item: a caption tells one half of an item's cluster, the image the other. Clusters follow each other round a
cycle, in domain a forwards, in domain b backwards; items of the two domains look alike. A user's last item does not
tell the direction, the domain does; Recall@10 among the items of the domain. With longer histories the items before
tell it too: shown beside. Fine-tuning has the language model frozen.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.planted_arms import Run, figures_of, over_seeds, rows
from common.planted import ClusterChain, Planted, PlantedConfig, plant
from common.planted_words import make_words
from common.representation.inputs import Behaviour, Items, Tokens
from common.representation.roma.config import RomaConfig, ScratchConfig
from common.representation.roma.method import Roma
from common.training.fit import FitConfig
from common.training.schedule import ScheduleConfig

FIGURES = ("words", "recall@10", "NMI", "share")
SCRATCH = ScratchConfig(dim=48, layers=3, heads=4, feedforward=128, dropout=0.0, positions=32)
VALUES, SIDE, TRAINED = 8, 4, 400


def fit_config(epochs: int, rate: float) -> FitConfig:
    """Return a stage of training: cosine, 20 steps of warm-up."""
    schedule = ScheduleConfig(type="cosine", warmup_steps=20)
    return FitConfig(epochs=epochs, learning_rate=rate, schedule=schedule, figure="score")


def quiet(_: str) -> None:
    """Say nothing."""


# --- words that only the image tells


@dataclass(frozen=True)
class Words:
    """Planted items; the first `TRAINED` are trained on."""

    planted: Planted
    items: Items

    @classmethod
    def make(cls, seed: int) -> Words:
        """Return a planted world; same seed, same bytes."""
        world = PlantedConfig(
            items=480, attributes=3, values=VALUES, image=(0, 1), text=(0, 2), behaviour=(0, 1), image_tokens=4,
            synonyms=1, captions=1, users=10, rows=100,
        )  # fmt: skip
        made = plant(world, seed)
        image = Tokens(made.tokens, np.ones(made.tokens.shape[:2], bool), "planted")
        return cls(made, Items(np.arange(len(made)), [one[0] for one in made.captions], {"image": image}))

    @property
    def train(self) -> Items:
        """The items that are trained on."""
        return self.items.take(np.arange(TRAINED))

    @property
    def test(self) -> Items:
        """The others."""
        return self.items.take(np.arange(TRAINED, len(self.items)))

    def accuracy(self, method: Roma, items: Items, attribute: int = 0) -> float:
        """Return how often the hidden word of an attribute is read right."""
        words = [str(self.planted.words[attribute, self.planted.attributes[i, attribute], 0]) for i in items.ids]
        return float(np.mean([found == word for found, word in zip(method.fill(items, words), words, strict=True)]))


def shuffle_images(items: Items, seed: int) -> Items:
    """Return the items, each with the image of another one."""
    order = np.random.default_rng((seed, 77)).permutation(len(items))
    return replace(items, modalities={name: tokens.take(order) for name, tokens in items.modalities.items()})


def words_config(**changes: Any) -> RomaConfig:
    """Return the configuration of an arm that reads words; `changes` to it."""
    stages: dict[str, Any] = {"uic": False, "finetune": False, "pretrain": fit_config(30, 2e-3)}
    return RomaConfig(**{"scratch": SCRATCH, "top": 1, "item_batch": 40, "bottleneck": 8, **stages, **changes})


def words_arm(world: Words, seed: int, train: Items, test: Items, **changes: Any) -> dict[str, float]:
    """Fit an arm and return its accuracy on `test`."""
    method = Roma(words_config(**changes)).fit(train, None, seed=seed, say=quiet)
    return {"words": world.accuracy(method, test)}


def write_plm(folder: Path, texts: list[str], seed: int) -> Path:
    """Save a BERT with random weights and a tokenizer of the texts' words, as a hub would hold them."""
    import torch

    from common.representation.roma.plm import collect_words, load_language_model

    config = RomaConfig(scratch=SCRATCH, top=1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, tokenizer = load_language_model(config, {"words": collect_words(texts, 10_000)})
    saved: Any = model
    saved.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def peft_words(world: Words, seed: int, **changes: Any) -> dict[str, float]:
    """Train adapters alone, over a frozen language model that knows nothing: what LoRA adds there."""
    with tempfile.TemporaryDirectory() as name:
        plm = write_plm(Path(name) / "plm", list(world.items.texts), seed)
        own: dict[str, Any] = {"scratch": None, "plm": str(plm), "pretrain_part": "peft"}
        return words_arm(world, seed, world.train, world.test, **own, **changes)


def words_arms(seed: int) -> Iterator[tuple[str, Run]]:
    """Yield the arms that fill in words."""
    world = Words.make(seed)
    mixed, wrong = shuffle_images(world.train, seed), shuffle_images(world.test, seed)

    def both() -> dict[str, float]:
        method = Roma(words_config()).fit(world.train, None, seed=seed, say=quiet)
        shuffled.update(words=world.accuracy(method, wrong))
        untold.update(words=world.accuracy(method, world.test, attribute=2))
        return {"words": world.accuracy(method, world.test)}

    shuffled: dict[str, float] = {}
    untold: dict[str, float] = {}
    yield "words: oracle, chance is 1/8", lambda: {"words": 1.0}
    yield "words: ROMA", both
    yield "words: ROMA, shuffled images when read", lambda: shuffled
    yield "words: ROMA, words that the image does not tell", lambda: untold
    yield "words: placebo, trained on shuffled images", lambda: words_arm(world, seed, mixed, world.test)
    yield "words: no vision", lambda: words_arm(world, seed, world.train, world.test, vision=False)
    yield "words: language model frozen and random, LoRA", lambda: peft_words(world, seed)
    yield "words: language model frozen and random, no LoRA", lambda: peft_words(world, seed, lora=False)


# --- two domains with opposite rules


@dataclass(frozen=True)
class Domains:
    """Two domains whose clusters follow each other in opposite directions, and users of one domain each."""

    items: Items
    train: Behaviour
    targets: np.ndarray
    user_domains: np.ndarray
    oracle: float

    @classmethod
    def make(cls, seed: int, users: int = 600, length: int = 3, half: int = 200) -> Domains:
        """Return `half` items and `users` users of `length` items in each domain; the last item is the target."""
        rng = np.random.default_rng((seed, 31))
        cluster = np.tile(np.arange(half) % SIDE**2, 2)
        words = make_words(2, SIDE**2, 1, rng)
        told = words[0, cluster // SIDE, 0]
        texts = [f"a photo of {word} and {words[1, rng.integers(SIDE**2), 0]}" for word in told]
        image = rng.normal(size=(SIDE, 24))[cluster % SIDE] + 0.1 * rng.normal(size=(2 * half, 24))
        modalities = {"image": Tokens.pooled(image.astype(np.float32), encoder="planted")}
        items = Items(np.arange(2 * half), texts, modalities, np.repeat([0, 1], half), ("a", "b"))
        chains = [ClusterChain(cluster[:half], stay=0.9, seed=seed) for _ in range(2)]
        chains[1].successor = np.argsort(chains[0].successor)
        walks = [w + d * half for d in (0, 1) for w in chains[d].sequences(users, length, 2 * seed + d)]
        offsets = np.arange(2 * users + 1) * (length - 1)
        train = Behaviour(np.arange(2 * users), np.concatenate([walk[:-1] for walk in walks]), offsets)
        targets = np.array([walk[-1] for walk in walks])
        return cls(items, train, targets, np.repeat([0, 1], users), chains[0].recall(10))

    def shuffled(self, seed: int) -> Behaviour:
        """Return the histories with the items of each domain dealt anew: no rule is left."""
        rng, items, half = np.random.default_rng((seed, 78)), self.train.items.copy(), len(self.train.items) // 2
        return replace(self.train, items=np.concatenate([rng.permutation(items[:half]), rng.permutation(items[half:])]))

    def recall(self, method: Roma) -> float:
        """Return Recall@10 of the users' last items among those of their domain."""
        item = method.transform(self.items).columns["embedding"]
        scores = method.transform_users(self.items, self.train).columns["embedding"] @ item.T
        scores[self.user_domains[:, None] != self.items.domain_of] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        return float((best == self.targets[:, None]).any(1).mean())


def domains_config(**changes: Any) -> RomaConfig:
    """Return the configuration of an arm that reads users; `changes` to it. One expert is 16 wide."""
    stages: dict[str, Any] = {"pretrain": fit_config(12, 1e-3), "fit": fit_config(12, 3e-3), "finetune_items": False}
    size: dict[str, Any] = {"item_batch": 40, "batch_size": 64, "bottleneck": 16, "output": 32, "history": 1}
    return RomaConfig(**{"scratch": SCRATCH, "top": 1, **size, **stages, **changes})


def expert_nmi(method: Roma, world: Domains) -> float:
    """Return the normalised mutual information of a domain and the expert with the most weight, mean over blocks."""
    from sklearn.metrics import normalized_mutual_info_score

    gates, domains = method.routing(world.items, world.train)
    return float(np.mean([normalized_mutual_info_score(domains, one.argmax(1)) for one in gates]))


def trained_share(method: Roma) -> float:
    """Return the share of weights that fine-tuning trains."""
    method.net.learn("finetune")
    learnt = sum(p.numel() for p in method.net.parameters() if p.requires_grad)
    method.net.learn("saved")
    return learnt / sum(p.numel() for p in method.net.parameters())


def domains_arm(world: Domains, seed: int, behaviour: Behaviour | None = None, **changes: Any) -> dict[str, float]:
    """Fit an arm; return its recall, the share of weights that fine-tuning trained, and its router's NMI."""
    config = domains_config(**changes)
    method = Roma(config).fit(world.items, behaviour or world.train, seed=seed, say=quiet)
    figures = {"recall@10": world.recall(method), "share": trained_share(method)}
    return figures if config.adapters == "single" else {**figures, "NMI": expert_nmi(method, world)}


def domain_arms(seed: int) -> Iterator[tuple[str, Run]]:
    """Yield the arms that predict next items."""
    world, walks = Domains.make(seed), Domains.make(seed, users=200, length=7)

    def arm(**changes: Any) -> Run:
        return lambda: domains_arm(world, seed, **changes)

    long: dict[str, Any] = {"history": 5}
    yield "next item: oracle", lambda: {"recall@10": world.oracle}
    yield "next item: chance", lambda: {"recall@10": 10 / (len(world.items) // 2)}
    yield "next item: ROMA", arm()
    yield "next item: ROMA, LoRA fine-tuned too", arm(finetune_items=True)
    yield "next item: a single adapter of equal size", arm(adapters="single")
    yield "next item: router without the domain", arm(router_domain=False)
    yield "next item: no fine-tuning", arm(finetune=False)
    yield "next item: placebo, shuffled histories", arm(behaviour=world.shuffled(seed))
    yield "next item: no vision", arm(vision=False)
    yield "next item: no V-MLM", arm(vmlm=False)
    yield "next item: no UIC in pre-training", arm(uic=False)
    yield "next item: ROMA, 5 items are read", lambda: domains_arm(walks, seed, **long)
    yield "next item: single adapter, 5 items are read", lambda: domains_arm(walks, seed, adapters="single", **long)


# --- the table


def all_arms(seed: int) -> Iterator[tuple[str, Run]]:
    """Yield each arm's name and what computes its figures."""
    yield from words_arms(seed)
    yield from domain_arms(seed)


def arms(seed: int) -> dict[str, float]:
    """Return every figure of every arm, by "arm: figure"."""
    return figures_of(all_arms, seed)


def table(seeds: int) -> Iterator[str]:
    """Yield the lines of the table, and the requirements."""
    found, took = over_seeds(all_arms, seeds)
    yield from rows(found, took, FIGURES)
    yield from verdicts({f"{n}: {f}": float(np.mean(v)) for n, values in found.items() for f, v in values.items()})


def verdicts(mean: dict[str, float]) -> Iterator[str]:
    """Yield each requirement with the means it is about."""
    told, wrong = mean["words: ROMA: words"], mean["words: ROMA, shuffled images when read: words"]
    placebo = mean["words: placebo, trained on shuffled images: words"]
    full, single = mean["next item: ROMA: recall@10"], mean["next item: a single adapter of equal size: recall@10"]
    blind, nmi = mean["next item: placebo, shuffled histories: recall@10"], mean["next item: ROMA: NMI"]
    share, chance = mean["next item: ROMA, LoRA fine-tuned too: share"], mean["next item: chance: recall@10"]
    most = 1 / VALUES + 0.1
    for what, holds in (
        (f"words {told:.3f} >= 0.8", told >= 0.8),
        (f"words, shuffled images {wrong:.3f} <= chance + 0.1 = {most:.3f}", wrong <= most),
        (f"words, trained on shuffled images {placebo:.3f} <= chance + 0.1", placebo <= most),
        (f"recall {full:.3f} >= 1.2 x single adapter {single:.3f}", full >= 1.2 * single),
        (f"NMI of router and domain {nmi:.3f} >= 0.5", nmi >= 0.5),
        (f"share of weights that fine-tuning trains {share:.3f} <= 0.15", share <= 0.15),
        (f"recall, shuffled histories {blind:.3f} within 0.04 of chance {chance:.3f}", abs(blind - chance) <= 0.04),
    ):
        yield f"{'holds' if holds else 'FAILS'}: {what}"


def main(seeds: Annotated[int, typer.Option(min=1, help="Planted worlds, each fitted with its own seed")] = 3) -> None:
    """Print ROMA's figures on planted data beside oracle, chance, placebos and ablations."""
    for line in table(seeds):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
