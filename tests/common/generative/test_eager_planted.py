"""EAGER on planted items whose behaviour and semantic clusters are independent and both predict (facts: section 2.8).

The world and the arms are those of benchmarks/planted_eager.py. The fast test has 256 items and few steps. Measured
there, seed 0: fused .550, concatenated .170, behaviour stream .230, semantic stream .167, the best that anything can
reach .827; estimate .843, with others' guides .505; cosine of the summary with its item's vector .814, with others'
.003.
"""

from functools import cache
from typing import Any

import pytest

from benchmarks.planted_eager import figures, make_world, other_items, popularity, questions, recall, trained
from benchmarks.planted_eager import trained_tiger as tiger

EPOCHS = 12


@cache
def arm(seed: int = 0, *, shuffled: bool = False, epochs: int = EPOCHS, **options: Any) -> dict[str, float]:
    world = make_world(seed)
    return figures(world, trained(other_items(world, seed) if shuffled else world, epochs, **options))


def single(found: dict[str, float]) -> float:
    return max(value for name, value in found.items() if name.endswith("alone"))


def test_two_streams_agree_on_what_neither_knows_alone() -> None:
    world = make_world(0, users=300, fresh=300, each=4)
    found = figures(world, trained(world, 8))
    assert found["fused"] >= single(found) + 0.03
    assert found["fused"] >= found["concatenated"]
    assert found["fused"] <= world.oracle(10) + 0.06
    assert found["cos own"] > max(0.5, found["cos others"] + 0.3)
    assert found["est"] >= 0.75
    assert abs(found["est shuffled"] - 0.5) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_fusion_beats_both_streams_and_the_tasks_do_theirs(seed: int) -> None:
    found = arm(seed)
    alone = [arm(seed, streams=name) for name in ("behaviour", "semantic")]
    assert found["fused"] >= max(map(single, [found, *alone])) + 0.03
    assert found["fused"] >= found["concatenated"]
    assert found["fused"] <= make_world(seed).oracle(10) + 0.05
    assert found["cos own"] > max(0.5, found["cos others"] + 0.3)
    assert found["est"] >= 0.8
    assert abs(found["est shuffled"] - 0.5) <= 0.05


@pytest.mark.slow
def test_each_task_earns_its_keep() -> None:
    neither = arm(gct=0.0, recon=0.0, est=0.0)
    # seed 0: .409 with both, .379 without transfer, .325 without contrast, .323 with neither
    assert arm()["fused"] >= neither["fused"] + 0.03
    assert arm()["fused"] >= arm(gct=0.0)["fused"] + 0.03
    assert arm()["fused"] >= arm(recon=0.0, est=0.0)["fused"]
    assert "cos own" not in neither
    assert "est" not in neither


@pytest.mark.slow
def test_it_beats_tiger_on_either_stream_s_ids() -> None:
    world = make_world(0)
    best = max(recall(tiger(world, EPOCHS, name), questions(world)) for name in ("behaviour", "semantic"))
    assert arm()["fused"] >= best + 0.03


@pytest.mark.slow
def test_shuffled_training_items_teach_nothing() -> None:
    assert arm(shuffled=True)["fused"] <= popularity(make_world(0)) + 0.02
