"""EAGER, EAGER-LLM and STORE on Amazon Beauty: a short training beats popularity and itself asked with other histories.

On the 800 items that most people had, so that some minutes of one core teach something; the tables of the README are
those of the whole (`python -m benchmarks.generators beauty`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import load_config
from common.generative.baselines import Generated, Popularity
from common.generative.config import CONFIG_FOLDER, RunConfig
from common.generative.evaluate import Report, evaluate
from common.generative.run import prepare, recommender
from common.generative.sequence_files import load_sequences
from common.generative.sequences import Examples, Sequences, from_lists
from common.generative.systems import system_of

ITEMS, LEAST, USERS, DEPTH = 800, 4, 1500, 20
TRAIN = ("train.epochs=4", "train.evaluate_every=4", "train.valid_users=100", "train.batch_size=256")
SETTINGS: dict[str, tuple[str, ...]] = {
    "eager": (
        *("behaviour.source=co_occurrence", "eager.semantic=published", "eager.negatives=256", "eager.max_items=10"),
        *("eager.dim=64", "eager.feedforward=128", "eager.learn_first=true", "train.learning_rate=3e-3"),
    ),
    "eager_llm": (
        *("behaviour.source=co_occurrence", "eager_llm.negatives=256", "eager_llm.max_items=10"),
        *("eager_llm.lm.scratch.dim=64", "eager_llm.lm.scratch.feedforward=128", "train.learning_rate=3e-3"),
    ),
    "store": (
        *("store.max_items=10", "store.dense.slots=2", "store.dense.train.epochs=10", "train.learning_rate=3e-3"),
        *("store.lm.scratch.dim=64", "store.lm.scratch.feedforward=128"),
    ),
}


@pytest.fixture(scope="module")
def beauty(real_data: Path) -> Sequences:
    """The users' items among the most frequent ones, of users with `LEAST` of them or more."""
    folder = real_data / "amazon-beauty"
    if not (folder / "Beauty.inter.json").is_file():
        pytest.skip("no Amazon Beauty: see the data folder's README")
    data = load_sequences(folder)
    counts = np.bincount(data.items, minlength=len(data.item_ids))
    kept = np.sort(np.argsort(-counts, kind="stable")[:ITEMS])
    rows = np.full(len(counts), -1)
    rows[kept] = np.arange(ITEMS)
    lists = [rows[data.items[a:b]] for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True)]
    lists = [one for one in (one[one >= 0] for one in lists) if len(one) >= LEAST]
    assert data.published is not None and len(lists) == 5479
    return from_lists(lists, ITEMS, published=data.published[kept])


def hits(report: Report, k: int = 10) -> np.ndarray:
    """Whether each user's target is among the first k, float [users]."""
    assert report.ranks is not None
    return ((report.ranks > 0) & (report.ranks <= k)).astype(float)


def gain(ours: Report, other: Report) -> tuple[float, float]:
    """Recall@10 of one report less another's on the same users, and the standard error of that."""
    difference = hits(ours) - hits(other)
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)


def check_lists(asked: Generated, examples: Examples) -> None:
    """Lists hold different items of the catalogue, best first, and only those that are allowed."""
    some = examples.take(slice(0, 64)).histories
    for allowed in (None, np.arange(ITEMS) % 3 > 0):
        items, scores = asked.recommend(some, DEPTH, allowed=allowed)
        assert items.shape == scores.shape == (64, DEPTH) and np.isfinite(scores).all()
        assert items.min() >= 0 and items.max() < ITEMS
        assert all(len(set(row)) == DEPTH for row in items.tolist())
        assert (np.diff(scores, axis=1) <= 0).all()
        assert allowed is None or allowed[items].all()


@pytest.mark.real
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", SETTINGS)
def test_a_short_training_beats_popularity_and_other_people_s_histories(
    model: str, beauty: Sequences, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    config = load_config(RunConfig, model, CONFIG_FOLDER, [*TRAIN, *SETTINGS[model]])
    run = prepare(config, beauty, tmp_path / model, "cpu", print)
    asked = recommender(run)
    assert isinstance(asked, Generated)
    examples = run.split.test.take(np.sort(np.random.default_rng(0).permutation(len(run.split.test))[:USERS]))
    check_lists(asked, examples)
    ours = evaluate(asked, examples, depth=DEPTH)

    # TIGER, untrained, is asked about the same targets, to the same depth, for the same figures.
    plain = load_config(RunConfig, "tiger", CONFIG_FOLDER, ["ids=random"])
    tiger = prepare(plain, beauty, tmp_path / "tiger", "cpu", print)
    assert np.array_equal(tiger.split.test.targets, run.split.test.targets)
    assert np.array_equal(tiger.split.train.items, run.split.train.items)
    system = system_of("tiger")
    untrained = system.recommender(system.build(tiger, system.ids(tiger)), tiger.config, DEPTH)
    twin = evaluate(untrained, examples, depth=DEPTH)
    assert (twin.users, twin.depth, list(twin.figures)) == (ours.users, ours.depth, list(ours.figures))

    mixed = np.random.default_rng(1).permutation(len(examples))  # neighbours in the file have much in common
    others = replace(examples, histories=examples.histories.take(mixed))
    floors = {
        "popularity": evaluate(Popularity(run.split.train), examples),
        "other people's histories": evaluate(asked, others, depth=DEPTH),
        "TIGER untrained": twin,
    }
    print(f"{model}: {ours.headline}, " + ", ".join(f"{name} {one.headline}" for name, one in floors.items()))
    for name, floor in floors.items():
        mean, error = gain(ours, floor)
        print(f"  above {name}: {mean:.4f} +- {error:.4f}")
        assert mean > 2 * error, name
