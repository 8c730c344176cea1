"""EAGER-LLM on planted titles and walks: three tasks in one checkpoint, the placebo, the effect of each part."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from benchmarks import planted_eager_llm as planted


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def arm(name: str, seed: int = 0) -> dict[str, float]:
    """Return the figures of an arm of the benchmark; it is trained when it is first asked for."""
    return dict(planted.arms(seed))[name]()


def test_a_dozen_items_are_learnt_by_heart_from_title_to_id_and_back() -> None:
    world = planted.World.make(0, items=12, users=40)
    scratch = planted.SCRATCH | {"layers": 1, "vocabulary": 400}
    changes = {"lm": {"scratch": scratch}, "branching": (2, 2), "preference": False}
    model, _ = planted.trained(world, 0, 60, **changes)
    assert planted.titles_right(model, world) >= 0.9
    assert planted.items_right(model, world.titles) >= 0.9
    assert planted.recall(model, world, k=3) >= 2 * planted.popularity(world, k=3)
