"""ROMA on planted data: words that only the image tells, and two domains with opposite rules."""

from typing import Any

import numpy as np
import pytest

from benchmarks.planted_roma import (
    VALUES,
    Domains,
    Words,
    domains_arm,
    domains_config,
    peft_words,
    shuffle_images,
    verdicts,
    words_arm,
    words_config,
)
from common.representation.roma.method import Roma

CHANCE = 1 / VALUES


@pytest.fixture(scope="module")
def domains() -> Domains:
    return Domains.make(0)


@pytest.fixture(scope="module")
def mixture(domains: Domains) -> dict[str, float]:
    return domains_arm(domains, 0)


def test_hidden_words_are_read_from_the_image_and_not_from_another_item_s() -> None:
    """On items that were never trained on; the word that no image tells stays at chance."""
    world = Words.make(0)
    method = Roma(words_config()).fit(world.train, None, seed=0, say=lambda _: None)
    assert world.accuracy(method, world.test) >= 0.8
    assert world.accuracy(method, shuffle_images(world.test, 0)) <= CHANCE + 0.1
    assert world.accuracy(method, world.test, attribute=2) <= CHANCE + 0.1


@pytest.mark.slow
def test_with_opposite_rules_the_mixture_beats_a_single_adapter_and_its_router_tells_the_domains(
    domains: Domains, mixture: dict[str, float]
) -> None:
    single = domains_arm(domains, 0, adapters="single")
    assert mixture["recall@10"] >= 1.2 * single["recall@10"]
    assert 0.85 * domains.oracle <= mixture["recall@10"] <= domains.oracle + 0.05
    assert mixture["NMI"] >= 0.5
    assert mixture["share"] <= 0.15 and single["share"] <= 0.15


def test_the_planted_domains_are_opposite_and_look_alike() -> None:
    world = Domains.make(3, users=400)
    half = len(world.items) // 2
    assert [text.split()[3] for text in world.items.texts[:half]] == [t.split()[3] for t in world.items.texts[half:]]
    cluster = np.tile(np.arange(half) % 16, 2)
    last = world.train.items[world.train.offsets[1:] - 1]
    follows: list[np.ndarray] = []
    for domain in (0, 1):
        own, steps = world.user_domains == domain, np.zeros((16, 16), int)
        np.add.at(steps, (cluster[last[own]], cluster[world.targets[own]]), 1)
        assert steps.max(1).sum() >= 0.8 * own.sum()
        follows.append(steps.argmax(1))
    assert np.array_equal(follows[1][follows[0]], np.arange(16))


@pytest.mark.slow
def test_placebos_and_ablations_of_words() -> None:
    world = Words.make(0)
    mixed = shuffle_images(world.train, 0)
    assert words_arm(world, 0, mixed, world.test)["words"] <= CHANCE + 0.1
    assert words_arm(world, 0, world.train, world.test, vision=False)["words"] <= CHANCE + 0.1
    with_lora, without = peft_words(world, 0)["words"], peft_words(world, 0, lora=False)["words"]
    assert with_lora >= 0.8 and with_lora >= without + 0.05


@pytest.mark.slow
def test_placebo_and_ablations_of_domains(domains: Domains, mixture: dict[str, float]) -> None:
    chance = 10 / (len(domains.items) // 2)
    assert abs(domains_arm(domains, 0, domains.shuffled(0))["recall@10"] - chance) <= 0.04
    blind = domains_arm(domains, 0, router_domain=False)
    assert blind["recall@10"] <= mixture["recall@10"] / 1.2 and blind["NMI"] < 0.5
    for switch in ("vision", "uic", "finetune"):
        off: dict[str, Any] = {switch: False}
        assert domains_arm(domains, 0, **off)["recall@10"] <= mixture["recall@10"] - 0.1
    everything = domains_arm(domains, 0, finetune_items=True)
    assert everything["share"] <= 0.15 and everything["recall@10"] >= mixture["recall@10"] - 0.05


def test_the_verdicts_tell_what_fails() -> None:
    names = {
        "words: ROMA: words": 0.9,
        "words: ROMA, shuffled images when read: words": 0.1,
        "words: placebo, trained on shuffled images: words": 0.1,
        "next item: ROMA: recall@10": 0.7,
        "next item: ROMA: NMI": 0.6,
        "next item: a single adapter of equal size: recall@10": 0.5,
        "next item: placebo, shuffled histories: recall@10": 0.05,
        "next item: ROMA, LoRA fine-tuned too: share": 0.1,
        "next item: chance: recall@10": 0.05,
    }
    assert all(line.startswith("holds") for line in verdicts(names))
    worse = {**names, "next item: ROMA: recall@10": 0.5, "next item: ROMA: NMI": 0.1}
    assert [line.split(":")[0] for line in verdicts(worse)].count("FAILS") == 2


def test_configurations_of_the_arms_differ_in_what_they_name_only() -> None:
    one, two = domains_config(), domains_config(adapters="single")
    assert one.model_copy(update={"adapters": "single"}) == two
