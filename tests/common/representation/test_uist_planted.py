"""UIST on planted data with a known answer: bytes, AUC against dense vectors, placebos, the mixture, the decoder."""

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.planted_uist import (
    World,
    arms,
    bytes_on_disk,
    coded,
    criteria,
    ctr_auc,
    decoder_arms,
    dense,
    make_world,
    shuffled,
)
from common.errors import DataError
from common.representation.uist.config import UistConfig
from common.representation.uist.scorer import ClickRows, Features, ScorerConfig, fit_scorer, predict
from tests.processes import one_thread as one_thread

SIZES = (16, 16, 16, 16)
SMALL: dict[str, Any] = {"items": 1000, "users": 500, "dim": 32, "rows": 20_000}


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0, **SMALL)


@pytest.fixture(scope="module")
def codes(world: World) -> tuple[Features, Features]:
    return coded(world, UistConfig(codebook_sizes=SIZES), 0)[:2]


def test_codes_and_tables_are_at_most_a_fiftieth_on_disk():
    found = bytes_on_disk(Features(np.random.default_rng(0).integers(0, 64, (20_000, 4)), (64,) * 4), 256)
    assert found["times smaller, codes and tables"] >= 50
    assert found["times smaller, codes"] >= 300


def test_codes_rank_nearly_as_dense_vectors_and_placebos_do_not(world: World, codes: tuple[Features, Features]):
    users, items = codes
    own, _ = ctr_auc(world, users, items, 0)
    vectors, _ = ctr_auc(world, *dense(world), 0)
    random, _ = ctr_auc(world, shuffled(users, 0), shuffled(items, 1), 0)
    luck, _ = ctr_auc(world, users, items, 0, luck=True)
    assert 0.7 < own < world.test.oracle_auc()
    assert own >= 0.97 * vectors
    assert own >= random + 0.05
    assert abs(luck - 0.5) <= 0.04


def test_all_pairs_beat_the_finest_and_the_coarsest_weighs_most_where_it_decides():
    world = make_world(0, coarse=True, **SMALL)
    users, items, _ = coded(world, UistConfig(codebook_sizes=SIZES), 0)
    pairs, model = ctr_auc(world, users, items, 0)
    finest, _ = ctr_auc(world, users, items, 0, "finest")
    assert pairs >= finest
    assert model.mixture is not None
    weights = model.mixture.weights().flatten()
    assert weights.argmax() == 0
    assert weights[0] - weights[1:].mean() > 0.1  # all are 1/16 before training


def test_the_decoder_owes_the_words_to_the_codes():
    found = decoder_arms(0, items=256)
    assert found["decoder: words right, own codes"] >= 0.8
    assert found["decoder: words right, shuffled codes"] <= 0.25


def test_the_scorer_is_deterministic_and_refuses_clicks_without_features(
    world: World, codes: tuple[Features, Features]
):
    users, items = codes
    train, config = (world.train.users, world.train.items, world.train.label), ScorerConfig()
    config = config.model_copy(update={"fit": config.fit.model_copy(update={"epochs": 1})})
    short = (train[0][:2000], train[1][:2000], train[2][:2000])
    first, second = (fit_scorer(users, items, short, short, config, seed=3)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    rows = ClickRows(users, items, short, 512, 3)
    assert np.array_equal(predict(first, rows, 300), predict(second, rows, 300))
    with pytest.raises(DataError, match="user without features"):
        ClickRows(Features(users.values[:5], users.sizes), items, train, 512, 0)


@pytest.mark.slow
def test_the_full_size_criteria_hold():
    found = criteria(arms(0))
    assert [text for text, met in found if not met] == []
