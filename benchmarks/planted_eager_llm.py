"""EAGER-LLM on planted data: one checkpoint recommends, tells titles from IDs and finds items by titles.

    python -m benchmarks.planted_eager_llm --seeds 3

Items have four attributes. Behaviour vectors see the first two, whose pairs are the clusters that users walk through
(stay 0.85; the chain states the best Recall@10). Titles are captions that name the last three; semantic vectors see
the same. A paraphrase has another frame and the opposite order of words, and is never trained on. A small model from
scratch, full weights in two stages, adapters alone in the third.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.planted_arms import Run, show
from common.generative.eager_llm.batches import EagerLlmBatches
from common.generative.eager_llm.config import EagerLlmConfig
from common.generative.eager_llm.indices import dual_ids
from common.generative.eager_llm.model import EagerLlm
from common.generative.eager_llm.system import make_model
from common.generative.eager_llm.texts import TasteWords
from common.generative.tiger_batches import TigerBatch
from common.generative.training import FitConfig, fit_generator
from common.planted import ClusterChain, PlantedConfig, plant
from common.planted_sequences import Rule
from common.training.schedule import ScheduleConfig

FULL, PLACEBO, STEADY = "EAGER-LLM", "placebo: titles and training items shuffled", "users of steady taste"
RECALL, TITLE, ID, WORDS = "R@10", "title from ID", "ID from title", "ID from paraphrase"
TASTE, OTHER = "taste F1", "taste F1, another's"
NEAREST = {"behaviour": "own behaviour", "semantic": "own semantics"}
EARLY = {0: "R@10, stage 1", 1: "R@10, stage 2"}
KEPT = {0: "title, stage 1", 1: "title, stage 2"}
FIGURES = (EARLY[0], EARLY[1], RECALL, KEPT[0], KEPT[1], TITLE, ID, WORDS, TASTE, OTHER, *NEAREST.values())
SCRATCH = {"dim": 32, "layers": 2, "heads": 4, "feedforward": 64, "context": 128, "vocabulary": 600}
EPOCHS, BATCH, RATE = 46, 120, 8e-3
CONFIG: dict[str, Any] = {
    "lm": {"scratch": SCRATCH},
    "max_items": 8,
    "max_text": 24,
    "preference_words": 2,
    "shares": (2.0, 3.0, 1.0),
    "preference_weights": (0.1, 0.05, 0.0),
}


@dataclass(frozen=True, eq=False)
class World:
    """Planted items, their titles and paraphrases, vectors by source, and users' walks, the last item of each to test.

    `told`: the titles that training sees; the placebo's are other items'.
    """

    titles: list[str]
    paraphrases: list[str]
    told: list[str]
    vectors: dict[str, np.ndarray]
    walks: np.ndarray
    known: np.ndarray
    chain: ClusterChain

    @classmethod
    def make(cls, seed: int, items: int = 48, users: int = 300, rule: Rule = "cycle") -> World:
        """Return a planted world; same seed, same bytes. By `rule` "same" users keep to their cluster: a taste."""
        config = PlantedConfig(
            items=items, attributes=4, values=6, image=(0,), text=(1, 2, 3), behaviour=(0, 1), synonyms=1, captions=1,
            users=users, rows=10,
        )  # fmt: skip
        made = plant(config, seed)
        chain = made.chain if rule == "cycle" else ClusterChain(made.chain.cluster, stay=0.85, seed=seed, rule=rule)
        titles, walks = [own[0] for own in made.captions], np.stack(chain.sequences(users, 9, seed))
        vectors = {"behaviour": made.additive, "semantic": made.text}
        return cls(titles, [own[0] for own in made.paraphrases], titles, vectors, walks, walks[:, :-1], chain)

    def shuffled(self, seed: int) -> World:
        """Return the world whose training sees titles of other items, and items in any order."""
        rng = np.random.default_rng((seed, 41))
        known = rng.permuted(self.known.reshape(-1)).reshape(self.known.shape)
        order = rng.permutation(len(self.titles))
        return replace(self, known=known, told=[self.titles[row] for row in order])


def trained(
    world: World, seed: int, epochs: int, *, rate: float = RATE, **changes: Any
) -> tuple[EagerLlm, dict[str, float]]:
    """Return a model, and its recall and titles at the end of the stages before the last."""
    config = EagerLlmConfig.model_validate(CONFIG | changes)
    sources = {name: (world.vectors[name], "planted") for name in config.code_sources}
    ids = dual_ids(sources, config.branching, iterations=config.iterations, seed=seed)
    vectors = {name: world.vectors[name] for name in config.contrasts}
    torch.manual_seed(seed)
    model = make_model(config, ids, world.told, vectors)
    users, length = world.known.shape
    flat, offsets = world.known.reshape(-1), np.arange(users + 1) * length
    batches = EagerLlmBatches(
        model.ask, config, flat, offsets, world.told, vectors, seed=seed, epochs=epochs, batch_size=BATCH
    )
    found: dict[str, float] = {}
    done = 0

    def look(current: Any) -> dict[str, float]:
        nonlocal done
        done += 1
        stage = batches.stage(done - 1)
        if done < epochs and stage != batches.stage(done):
            found[EARLY[stage]], found[KEPT[stage]] = recall(current, world), titles_right(current, world)
        return {"recall@10": float(done)}  # the last weights are kept

    schedule = ScheduleConfig(type="cosine", warmup_steps=20)
    fit = FitConfig(epochs=epochs, learning_rate=rate, schedule=schedule)
    fit_generator(model, batches, fit, seed=seed, evaluate=look)
    return model, found


def popularity(world: World, k: int = 10) -> float:
    """Return Recall@k of the items that training holds most often."""
    most = np.argsort(-np.bincount(world.known.reshape(-1)), kind="stable")[:k]
    return float(np.isin(world.walks[:, -1], most).mean())


def recall(model: EagerLlm, world: World, k: int = 10) -> float:
    """Return Recall@k of the last item of each walk."""
    found = model.generate(TigerBatch.of(list(world.walks[:, :-1])), model.trie(), beam=20, top_k=k).items
    return float((found.numpy() == world.walks[:, -1:]).any(1).mean())


def titles_right(model: EagerLlm, world: World) -> float:
    """Return the share of items whose title is told exactly."""
    told = model.title_of(np.arange(len(world.titles)))
    return float(np.mean([one == title for one, title in zip(told, world.titles, strict=True)]))


def items_right(model: EagerLlm, texts: Sequence[str]) -> float:
    """Return the share of items that come first for their text."""
    return float((model.items_of(texts)[:, 0] == np.arange(len(texts))).mean())


def taste_f1(model: EagerLlm, world: World, users: int = 60) -> tuple[float, float]:
    """Return F1 of the words that are told of users' histories, and F1 against the words of the user after each.

    The histories are newer than those of training by one item.
    """
    words = TasteWords(world.titles, model.config.preference_words)
    histories = list(world.walks[:users, 1:])
    told = [set(one.split(", ")) for one in model.preference(histories)]
    true = [set(words.of(one.tolist())) for one in histories]

    def mean(wanted: list[set[str]]) -> float:
        pairs = zip(told, wanted, strict=True)
        return float(np.mean([2 * len(got & own) / (len(got) + len(own)) for got, own in pairs]))

    return mean(true), mean([*true[1:], true[0]])


@torch.no_grad()
def own_vector(model: EagerLlm, world: World, source: str) -> float:
    """Return the share of items whose last states, after their title and ID, are nearest to their own vector."""
    from common.generative.eager_llm.batches import directions
    from common.generative.lm.examples import Example, pack

    examples = [Example(model.ask.item_of(one), model.ask.ids[item]) for item, one in enumerate(world.told)]
    tokens = pack(examples, model.lm.context)
    ends = torch.stack([torch.arange(len(examples)), tokens.mask.sum(1) - 1], dim=1)
    states = model.lm.states(model.lm.embed(tokens.ids), tokens.mask)
    cosines = model.projected(states, ends, source) @ directions(world.vectors[source]).T
    return float((cosines.argmax(1) == torch.arange(len(examples))).float().mean())


def figures(world: World, seed: int, epochs: int, **changes: Any) -> dict[str, float]:
    """Train an arm; return its figures."""
    model, before = trained(world, seed, epochs, **changes)
    found = {
        RECALL: recall(model, world),
        TITLE: titles_right(model, world),
        ID: items_right(model, world.titles),
        WORDS: items_right(model, world.paraphrases),
    }
    found[TASTE], found[OTHER] = taste_f1(model, world)
    return found | {NEAREST[source]: own_vector(model, world, source) for source in model.config.contrasts} | before


def arms(seed: int, epochs: int = EPOCHS, *, ablations: bool = True) -> Iterator[tuple[str, Run]]:
    """Yield each arm's name and what computes its figures; without `ablations`, those that the criteria need."""
    world = World.make(seed)
    yield "oracle (true transition probabilities)", lambda: {RECALL: world.chain.recall(10)}
    yield "popularity", lambda: {RECALL: popularity(world)}

    def arm(of: World = world, **changes: Any) -> Run:
        return lambda: figures(of, seed, epochs, **changes)

    yield FULL, arm()
    yield PLACEBO, arm(world.shuffled(seed))
    if not ablations:
        return
    yield "no annealing (mean weights, no adapters)", arm(annealing=False)
    yield "last stage with all weights", arm(lora_stage=False)
    yield "no reconstruction", arm(reconstruction=False)
    yield "no preference", arm(preference=False)
    yield "no contrast to behaviour", arm(gct_behaviour=False)
    yield "no contrast to semantics", arm(gct_semantic=False)
    steady = World.make(seed, rule="same")
    yield STEADY, arm(steady, preference_weights=(0.6, 0.6, 0.0))
    yield "behaviour codes alone", arm(indices="behaviour")
    yield "semantic codes alone", arm(indices="semantic")


def criteria(mean: dict[str, dict[str, float]]) -> list[tuple[str, bool]]:
    """Return the tests of facts 2.9 on means over seeds, and whether each is met."""
    full, placebo = mean[FULL], mean[PLACEBO]
    popular, gain = mean["popularity"][RECALL], full[RECALL] - full[EARLY[0]]
    lost = max(full[KEPT[0]], full[KEPT[1]]) - full[TITLE]
    return [
        (f"title from ID, exact: {full[TITLE]:.3f} (at least 0.9)", full[TITLE] >= 0.9),
        (f"ID from title: {full[ID]:.3f} (at least 0.9)", full[ID] >= 0.9),
        (f"R@10 / popularity's: {full[RECALL] / popular:.2f} (at least 2)", full[RECALL] >= 2 * popular),
        (f"R@10 rose after the first stage by {gain:.3f} (at least 0.05: over its noise)", gain >= 0.05),
        (f"title accuracy lost after its best: {lost:.3f} (at most 0.1)", lost <= 0.1),
        (
            f"placebo: titles {placebo[TITLE]:.3f}, IDs {placebo[ID]:.3f} (at most 0.1); "
            f"R@10 {placebo[RECALL]:.3f} (at most popularity's {popular:.3f} + 0.05)",
            max(placebo[TITLE], placebo[ID]) <= 0.1 and placebo[RECALL] <= popular + 0.05,
        ),
    ]


app = typer.Typer(add_completion=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(help="number of seeds, from 0")] = 3,
    epochs: Annotated[int, typer.Option(help="of each arm")] = EPOCHS,
    ablations: Annotated[bool, typer.Option(help="arms without a part too")] = True,
) -> None:
    """Print the table of arms and the criteria."""
    show(lambda seed: arms(seed, epochs, ablations=ablations), seeds, FIGURES, criteria)


if __name__ == "__main__":
    app()
