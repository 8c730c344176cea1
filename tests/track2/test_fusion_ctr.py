"""Fusion of modalities: PCA against an oracle, relations of the methods, the projection learnt from histories."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import DataError
from track2_mmctr.datasets.tables import Split
from track2_mmctr.embeddings.config import ContrastiveConfig, EmbedConfig
from track2_mmctr.embeddings.contrastive import Histories, fit_projection, user_histories
from track2_mmctr.embeddings.fusion import Modality, Pca, fuse, reduced, scaled


def modality(name: str, x: np.ndarray, present: np.ndarray | None = None) -> Modality:
    return Modality(name, x.astype(np.float32), np.ones(len(x), bool) if present is None else present)


def spread(n: int, d: int, seed: int, scale: float = 1.0) -> np.ndarray:
    """Rows whose directions have clearly different variances."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return scale * (rng.normal(size=(n, d)) * 0.8 ** np.arange(d)) @ rotation + rng.normal(size=d)


def test_pca_is_sklearns_up_to_the_stated_sign() -> None:
    from sklearn.decomposition import PCA

    x = spread(300, 20, 1)
    ours, theirs = Pca.fit(x, 6), PCA(6, svd_solver="full").fit(x)
    signs = np.sign((ours.components * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(ours.components, theirs.components_ * signs[:, None], atol=1e-8)
    np.testing.assert_allclose(ours.variances, theirs.explained_variance_, rtol=1e-9)
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x) * signs, atol=1e-5)
    largest = np.abs(ours.components).argmax(axis=1)
    assert (ours.components[np.arange(6), largest] > 0).all()


def test_the_sign_does_not_depend_on_the_order_of_items() -> None:
    x = spread(200, 12, 2)
    order = np.random.default_rng(0).permutation(200)
    np.testing.assert_allclose(Pca.fit(x, 5).transform(x), Pca.fit(x[order], 5).transform(x), atol=1e-5)


def test_missing_rows_are_left_out_of_the_fit_and_become_zeros() -> None:
    x = spread(100, 10, 3)
    present = np.random.default_rng(1).random(100) < 0.7
    broken = x.copy()
    broken[~present] = np.nan
    notes: list[str] = []
    made = reduced(modality("text", broken, present), 4, notes)
    np.testing.assert_allclose(
        made[present], Pca.fit(x[present].astype(np.float32), 4).transform(x[present]), atol=1e-5
    )
    assert not made[~present].any() and notes == []


def test_fewer_directions_than_columns_are_padded_with_zeros_and_noted() -> None:
    notes: list[str] = []
    made = reduced(modality("text", spread(50, 3, 4)), 8, notes)
    assert made.shape == (50, 8) and made[:, :3].std(axis=0).min() > 0.1 and not made[:, 3:].any()
    assert "3 directions" in notes[0]
    few = reduced(modality("text", spread(4, 30, 5)), 8, notes)  # 4 items span 3 directions
    assert np.abs(few[:, :3]).max() > 0 and not few[:, 3:].any()


def test_joint_pca_is_the_pca_of_both_side_by_side() -> None:
    text, image = spread(150, 8, 6), spread(150, 9, 7)
    made, _ = fuse(
        [modality("text", text), modality("image", image)], EmbedConfig(method="joint_pca", dim=5), same_space=False
    )
    both = np.hstack([text, image]).astype(np.float32)
    np.testing.assert_allclose(made, Pca.fit(both, 5).transform(both), atol=1e-5)


def share_of_text(method: str, loud: float) -> float:
    """The share of the embedding's variance that the text explains, the images being `loud` times as large."""
    text, image = spread(400, 12, 8), spread(400, 12, 9, loud)
    pair = [modality("text", text), modality("image", image)]
    made, _ = fuse(pair, EmbedConfig(method=method, dim=8), same_space=False)  # pyright: ignore[reportArgumentType]
    x = np.c_[np.ones(400), text]
    rest = made - x @ np.linalg.lstsq(x, made, rcond=None)[0]
    return 1 - float((rest**2).sum() / ((made - made.mean(axis=0)) ** 2).sum())


def test_a_loud_modality_drowns_the_other_in_joint_pca_but_not_when_whitened() -> None:
    assert share_of_text("joint_pca", 30) < 0.1
    assert share_of_text("pca_concat", 30) < 0.1  # its columns are there, but small
    assert 0.45 < share_of_text("whitening", 30) < 0.6
    assert 0.4 < share_of_text("joint_pca", 1) < 0.65


def test_joint_pca_drops_the_quiet_modality_that_concatenation_keeps() -> None:
    text, image = spread(400, 12, 8), spread(400, 12, 9, 1000)
    pair = [modality("text", text), modality("image", image)]

    def explained(method: str) -> float:
        """R² of the text's strongest component by the embedding."""
        made, _ = fuse(pair, EmbedConfig(method=method, dim=8), same_space=False)  # pyright: ignore[reportArgumentType]
        wanted = Pca.fit(text, 1).transform(text)[:, 0]
        x = np.c_[np.ones(400), made / np.maximum(made.std(axis=0), 1e-9)]
        rest = wanted - x @ np.linalg.lstsq(x, wanted, rcond=None)[0]
        return 1 - float(rest.var() / wanted.var())

    assert explained("joint_pca") < 0.1 and explained("pca_concat") > 0.99


def test_whitening_has_unit_variance_and_no_correlation_within_a_modality() -> None:
    pair = [modality("text", spread(500, 12, 10)), modality("image", spread(500, 12, 11, 7))]
    made, _ = fuse(pair, EmbedConfig(method="whitening", dim=8), same_space=False)
    np.testing.assert_allclose(np.cov(made[:, :4].T), np.eye(4), atol=1e-4)
    np.testing.assert_allclose(made.var(axis=0, ddof=1), 1, atol=1e-4)


def test_weighted_sum_in_one_space_and_in_two() -> None:
    text, image = spread(200, 10, 12), spread(200, 10, 13)
    pair = [modality("text", text), modality("image", image)]
    config = EmbedConfig(method="weighted_sum", dim=6)
    made, notes = fuse(pair, config, same_space=True)
    oracle = 0.8 * image.astype(np.float32) + 0.2 * text.astype(np.float32)
    np.testing.assert_allclose(made, Pca.fit(oracle, 6).transform(oracle), atol=1e-4)
    assert notes == []
    two, notes = fuse(pair, config, same_space=False)
    np.testing.assert_allclose(two, 0.8 * reduced(pair[1], 6, []) + 0.2 * reduced(pair[0], 6, []), atol=1e-5)
    assert "no common space" in notes[0]


def test_scale_is_one_factor_for_all() -> None:
    x = spread(50, 6, 14).astype(np.float32)
    made = scaled(x, 0.25)
    assert np.sqrt((made**2).mean()) == pytest.approx(0.25, rel=1e-5)
    np.testing.assert_allclose(made / x, made[0, 0] / x[0, 0], rtol=1e-4)
    assert scaled(x, 0) is x and not scaled(np.zeros_like(x), 1).any()


def test_a_modality_that_no_item_has_is_refused() -> None:
    with pytest.raises(DataError, match="fewer than two items have any image"):
        modality("image", np.zeros((5, 3)), np.array([True, False, False, False, False]))


def test_the_longest_history_of_each_user_is_taken() -> None:
    rows = [[1], [1, 2, 3], [9, 8], [], [7, 6]]
    users = np.array([5, 5, 4, 5, 4])
    offsets = np.cumsum([0, *map(len, rows)])
    zeros = np.zeros(5, np.int32)
    history = np.array([i for row in rows for i in row], np.int32)
    split = Split("train", users, history, offsets, zeros, np.zeros((5, 2), np.int32), None, None, "")
    found = user_histories(split)
    assert [found.items[a:b].tolist() for a, b in zip(found.offsets, found.offsets[1:], strict=False)] == [
        [9, 8],
        [1, 2, 3],
    ]


GROUPS, ITEMS, USERS, LENGTH = 10, 200, 200, 12


def planted() -> tuple[list[Modality], np.ndarray, np.ndarray]:
    """Items of groups that a few of many equally loud directions tell apart; users keep to one group.

    Equally loud: spreading items evenly, which shuffled histories teach too, must not help by itself.
    """
    rng = np.random.default_rng(0)
    group = rng.integers(0, GROUPS, ITEMS)
    centre = rng.normal(size=(GROUPS, 4))
    pair: list[Modality] = []
    for name, d in (("text", 16), ("image", 20)):
        latent = np.hstack([0.8 * centre[group], rng.normal(size=(ITEMS, d - 4))])
        pair.append(modality(name, latent @ np.linalg.qr(rng.normal(size=(d, d)))[0]))
    by_group = [np.flatnonzero(group == g) + 1 for g in range(GROUPS)]
    taste = rng.integers(0, GROUPS, USERS)
    return pair, np.concatenate([rng.choice(by_group[g], LENGTH) for g in taste]), group


def same_group_auc(z: np.ndarray, group: np.ndarray) -> float:
    """The chance that an item is nearer to one of its group than to one of another: 0.5 = knows nothing."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    cosines, same = z @ z.T, group[:, None] == group
    upper = np.triu(np.ones_like(same), 1)
    values = cosines[upper]
    ranks = np.empty(len(values))
    ranks[np.argsort(values)] = np.arange(len(values))
    hits = same[upper]
    return float((ranks[hits].mean() - (hits.sum() - 1) / 2) / (~hits).sum())


@pytest.mark.parametrize("hidden", [0, 16])
def test_contrastive_finds_what_histories_share_and_shuffled_histories_teach_nothing(hidden: int) -> None:
    pair, items, group = planted()
    offsets = np.arange(0, USERS * LENGTH + 1, LENGTH)
    settings = ContrastiveConfig(pairs=2000, batch_size=128, epochs=6, hidden=hidden)
    config = EmbedConfig(method="contrastive", dim=12, contrastive=settings)
    raw, _ = fuse(pair, EmbedConfig(method="pca_concat", dim=12), same_space=False)
    notes: list[str] = []
    learnt = fit_projection(pair, Histories(items, offsets), config, notes)
    shuffled = Histories(np.random.default_rng(1).permutation(items), offsets)
    placebo = fit_projection(pair, shuffled, config, [])
    before = same_group_auc(raw, group)
    assert before < 0.65  # knows a little
    assert same_group_auc(learnt, group) > before + 0.3
    assert same_group_auc(placebo, group) < before + 0.08
    assert "held-out users" in notes[-1]
    again = fit_projection(pair, Histories(items, offsets), config, [])
    assert again.tobytes() == learnt.tobytes()
    np.testing.assert_allclose(np.linalg.norm(learnt, axis=1), 1, atol=1e-5)


def test_histories_without_pairs_are_refused() -> None:
    pair, _, _ = planted()
    config = EmbedConfig(method="contrastive", dim=12)
    for items, offsets in (([1, 2, 3], [0, 1, 2, 3]), ([1, 1, 2, 2, 3, 3], [0, 2, 4, 6])):
        with pytest.raises(DataError, match="histor"):
            fit_projection(pair, Histories(np.array(items), np.array(offsets)), config, [])
