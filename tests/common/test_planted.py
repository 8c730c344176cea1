"""Planted multimodal data: oracles are reachable, placebos are at chance, hidden attributes are hidden."""

from dataclasses import fields, replace

import numpy as np
import pytest

from common.errors import ConfigError
from common.metrics.ctr import auc
from common.planted import Planted, PlantedConfig, plant, recall_of

CONFIG = PlantedConfig(items=2000, noise=0.2, rows=12_000)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return plant(CONFIG, seed=3)


def probe(x: np.ndarray, values: np.ndarray, train: int = 1200) -> float:
    """Accuracy on held-out rows of least squares from x to the one-hot values."""
    design = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    weights = np.linalg.lstsq(design[:train], np.eye(values.max() + 1)[values[:train]], rcond=None)[0]
    return float(((design[train:] @ weights).argmax(1) == values[train:]).mean())


@pytest.mark.parametrize("modality", ["image", "text", "additive"])
def test_a_modality_tells_its_attributes_and_hides_the_others(planted: Planted, modality: str) -> None:
    x = getattr(planted, modality)
    seen = CONFIG.behaviour if modality == "additive" else getattr(CONFIG, modality)
    for attribute in range(CONFIG.attributes):
        accuracy = probe(x, planted.attributes[:, attribute])
        assert accuracy > 0.75 if attribute in seen else accuracy < 0.22, (attribute, accuracy)  # chance 0.125


def test_the_tree_tells_a_level_through_its_prefix(planted: Planted) -> None:
    assert probe(planted.tree, planted.seen("behaviour")[:, 0]) > 0.9
    first = planted.seen("behaviour")[:, 0] == 0
    inside = planted.tree[first], planted.seen("behaviour")[first, 1]
    assert probe(*inside, train=len(inside[0]) // 2) > 0.9
    assert probe(planted.tree, planted.attributes[:, 2]) < 0.22


def test_each_token_shows_one_attribute(planted: Planted) -> None:
    assert planted.tokens.shape == (2000, CONFIG.image_tokens, CONFIG.dim)
    for place in range(CONFIG.image_tokens):
        own = CONFIG.image[place % len(CONFIG.image)]
        assert probe(planted.tokens[:, place], planted.attributes[:, own]) == 1.0
        other = next(a for a in CONFIG.image if a != own)
        assert probe(planted.tokens[:, place], planted.attributes[:, other]) < 0.22
    assert planted.image == pytest.approx(planted.tokens.mean(1))


def test_texts_name_exactly_the_attributes_that_text_sees(planted: Planted) -> None:
    of = {str(word): (a, v) for (a, v, _), word in np.ndenumerate(planted.words)}
    assert len(of) == planted.words.size, "a word belongs to one value"
    for item in range(200):
        expected = {(a, int(planted.attributes[item, a])) for a in CONFIG.text}
        for text in planted.captions[item] + planted.paraphrases[item]:
            assert {of[word] for word in text.split() if word in of} == expected


def test_paraphrases_are_new_texts_of_known_words(planted: Planted) -> None:
    known = {word for texts in planted.captions for text in texts for word in text.split()}
    words = set(planted.words.ravel().tolist())
    all_captions = {text for texts in planted.captions for text in texts}
    for captions, paraphrases in zip(planted.captions, planted.paraphrases, strict=True):
        assert len(captions) == CONFIG.captions and len(paraphrases) == CONFIG.paraphrases
        for text in paraphrases:
            assert text not in all_captions and set(text.split()) <= known
            told = set(text.split()) & words
            assert all(set(other.split()) & words != told for other in captions), "the same choice of synonyms"


def test_the_caption_oracle_is_reached_by_reading_the_words(planted: Planted) -> None:
    of = {str(word): (a, v) for (a, v, _), word in np.ndenumerate(planted.words)}
    rankings = np.full((len(planted), 5), -1)
    for item, (text, *_) in enumerate(planted.paraphrases):
        told = dict(of[word] for word in text.split() if word in of)
        same = np.flatnonzero((planted.attributes[:, list(told)] == list(told.values())).all(1))[:5]
        rankings[item, : len(same)] = same
    for k in (1, 5):
        assert recall_of(rankings, np.arange(len(planted)), k) == pytest.approx(planted.caption_recall(k))
    shuffled = np.random.default_rng(0).permutation(len(planted))
    assert recall_of(rankings, shuffled, 5) < 0.02 < 0.2 < planted.caption_recall(1)


def test_the_click_oracle_is_reached_and_labels_are_the_only_truth(planted: Planted) -> None:
    clicks = planted.clicks
    assert clicks.oracle_auc() == pytest.approx(clicks.expected_auc(), abs=0.015)
    assert 0.8 < clicks.expected_auc() < 0.95
    rng = np.random.default_rng(0)
    assert auc(rng.permutation(clicks.label), clicks.log_odds) == pytest.approx(0.5, abs=0.02)
    halves = [clicks.rows(0, 6000), clicks.rows(6000, 12_000)]
    assert [len(half) for half in halves] == [6000, 6000]
    calibrated = [half.label.mean() - (1 / (1 + np.exp(-half.log_odds))).mean() for half in halves]
    assert np.abs(calibrated).max() < 0.02


def test_expected_auc_of_two_rows_by_hand() -> None:
    clicks = plant(PlantedConfig(rows=2), seed=0).clicks
    odds = np.log(np.array([0.8 / 0.2, 0.3 / 0.7]))
    two = replace(clicks, log_odds=odds)
    assert two.expected_auc() == pytest.approx(0.8 * 0.7 / (0.8 * 0.7 + 0.3 * 0.2))
    assert replace(clicks, log_odds=np.zeros(2)).expected_auc() == pytest.approx(0.5)


def test_a_modality_alone_reaches_less_than_the_oracle(planted: Planted) -> None:
    best = planted.clicks.oracle_auc()
    assert planted.modality_auc("behaviour") == pytest.approx(best)
    for modality in ("image", "text"):
        assert 0.65 < planted.modality_auc(modality) < best - 0.03
    apart = plant(replace(CONFIG, text=(2,), items=500), seed=3)
    assert apart.modality_auc("text") == pytest.approx(0.5)


def test_histories_tell_preferences(planted: Planted) -> None:
    """A user's mean liking of its own history is far above that of another's history."""
    users = np.repeat(np.arange(CONFIG.users), CONFIG.history)
    own = planted.tastes.log_odds(users, planted.histories.ravel()).mean()
    other = planted.tastes.log_odds(users, np.random.default_rng(0).permutation(planted.histories).ravel()).mean()
    assert own - other > 1.0 and abs(other - CONFIG.bias) < 0.5


def test_walks_reach_the_recall_of_the_chain(planted: Planted) -> None:
    walks = np.stack(planted.walks)
    assert walks.shape == (CONFIG.users, CONFIG.length)
    ranking = planted.chain.ranking(walks[:, -2], 10)
    best = planted.sequence_recall(10)
    assert recall_of(ranking, walks[:, -1], 10) == pytest.approx(best, abs=0.08)
    assert recall_of(ranking, np.random.default_rng(0).permutation(walks[:, -1]), 10) < best / 4


def test_no_taste_no_signal() -> None:
    flat = plant(replace(CONFIG, taste=0.0, items=500), seed=1)
    assert flat.clicks.oracle_auc() == pytest.approx(0.5) and flat.clicks.expected_auc() == pytest.approx(0.5)


def test_items_are_different_and_the_seed_is_everything() -> None:
    small = replace(CONFIG, items=200, rows=300, users=50)
    first, again, other = plant(small, 5), plant(small, 5), plant(small, 6)
    assert len(np.unique(first.attributes, axis=0)) == 200
    arrays = [f.name for f in fields(Planted) if isinstance(getattr(first, f.name), np.ndarray)]
    assert len(arrays) >= 8
    for name in arrays:
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes(), name
        assert getattr(first, name).tobytes() != getattr(other, name).tobytes(), name
    assert first.captions == again.captions and first.clicks.label.tobytes() == again.clicks.label.tobytes()
    assert all(np.array_equal(a, b) for a, b in zip(first.walks, again.walks, strict=True))
    more_rows = plant(replace(small, rows=600), 5)
    assert more_rows.image.tobytes() == first.image.tobytes(), "one part's size does not change another part"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"items": 0}, "items"),
        ({"items": 5000}, "items"),
        ({"values": 1}, "values"),
        ({"image": ()}, "image"),
        ({"text": (1, 1)}, "text"),
        ({"behaviour": (0, 4)}, "behaviour"),
        ({"image_tokens": 2}, "image_tokens"),
        ({"noise": float("nan")}, "noise"),
        ({"stay": 1.2}, "stay"),
        ({"taste": -1.0}, "taste"),
    ],
)
def test_a_bad_configuration_is_named(change: dict[str, object], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(PlantedConfig(), **change)
    assert caught.value.where == where
