"""CART on 512 planted captions: the stated bars, its control arms and the effect of each part. Minutes."""

import numpy as np
import pytest

from benchmarks.cart_captions import Line, Size, plant_captions, run_arm, run_peer
from common.generative.cart import CartConfig, train_cart
from common.generative.cart_ids import CartIds, CartIdsConfig
from tests.common.generative.cart_helpers import captions, recall
from tests.processes import one_thread as one_thread

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SIZE = Size(items=512, captions=2, epochs=30, dim=64)
CHANCE = 1 / 512


@pytest.fixture(scope="module")
def arms() -> dict[str, Line]:
    """Each arm on one seed, trained when it is first asked for."""

    class Lines(dict[str, Line]):
        def __missing__(self, arm: str) -> Line:
            self[arm] = run_arm(arm, plant_captions(SIZE, 0), SIZE, 0)
            return self[arm]

    return Lines()


def test_the_bars_of_captions_and_paraphrases(arms: dict[str, Line]) -> None:
    full = arms["full"]
    assert full.train[0] >= 0.9  # the proposal was 0.6; observed 0.98
    assert full.held_out[0] >= 0.85  # 0.4; observed 0.96
    assert full.valid == 1.0
    assert full.held_out[0] > run_peer("TF-IDF, FAISS", plant_captions(SIZE, 0), 0).held_out[0] + 0.3


def test_random_ids_memorise_and_shuffled_captions_teach_nothing(arms: dict[str, Line]) -> None:
    assert arms["random IDs"].train[0] <= arms["full"].train[0] - 0.3
    assert arms["random IDs"].held_out[0] <= 0.5 * arms["full"].held_out[0]
    limit = CHANCE + 4 * (CHANCE * (1 - CHANCE) / 512) ** 0.5
    assert arms["shuffled items"].held_out[0] <= limit


@pytest.mark.parametrize(("arm", "least"), [("no k-means", 0.2), ("no RQ", 0.4)])
def test_both_parts_of_the_codes_help(arms: dict[str, Line], arm: str, least: float) -> None:
    assert arms["full"].held_out[0] - arms[arm].held_out[0] > least


def test_augmentation_narrows_the_gap(arms: dict[str, Line]) -> None:
    """At equal steps one caption an item is learnt by heart: the paraphrases then gain less than the caption."""
    full, bare = arms["full"], arms["no augmentation"]
    assert full.train[0] - full.held_out[0] < bare.train[0] - bare.held_out[0]


def test_fusion_does_no_harm(arms: dict[str, Line]) -> None:
    """The paper's gain (6 points) is of a deep pre-trained encoder; here, two layers, it is within the seeds' noise."""
    assert arms["full"].held_out[0] - arms["no fusion"].held_out[0] > -0.02


def test_the_decoder_only_arm_learns_too(arms: dict[str, Line]) -> None:
    assert arms["decoder-only"].train[0] >= 0.6
    assert arms["decoder-only"].held_out[0] >= 0.4


def test_the_kl_reduces_the_gap_between_train_and_held_out() -> None:
    """Where both fit all training captions, two passes that agree generalise better: in R@1 and log-likelihood."""
    gaps = {0.0: [], 1.0: []}
    for seed in range(3):
        planted = captions(125, 5, seed)
        ids = CartIds.fit(planted.image, CartIdsConfig(coarse=10, fine=(10, 10)), seed=seed)
        texts, paraphrases = ([own[0] for own in part] for part in (planted.captions, planted.paraphrases))
        for omega, found in gaps.items():
            fit = {"epochs": 120, "learning_rate": 3e-3, "schedule": {"type": "cosine", "warmup_steps": 20}}
            size = {"dim": 32, "heads": 2, "feedforward": 64, "encoder_layers": 1, "decoder_layers": 1}
            config = CartConfig.model_validate(size | {"batch_size": 32, "omega": omega, "fit": fit})
            model = train_cart(texts, np.arange(125), ids.id_map, config, seed=seed)
            rates = [recall(model.rank(part).items) for part in (texts, paraphrases)]
            surprise = [
                -float(model.score(model.batch(p), np.arange(125)[:, None]).mean()) for p in (texts, paraphrases)
            ]
            assert rates[0] >= 0.98
            found.append((rates[0] - rates[1], surprise[1] - surprise[0]))
    off, on = np.array(gaps[0.0]), np.array(gaps[1.0])
    assert (on[:, 1] < off[:, 1]).all()
    assert on[:, 0].mean() < off[:, 0].mean()
