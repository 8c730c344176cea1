"""CART's IDs: their parts and switches, ambiguous IDs without the unique token, bad input."""

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError
from common.generative.beam import BeamResult
from common.generative.cart_ids import CartIds, CartIdsConfig
from common.planted import additive_vectors, isotropic_vectors
from common.tokenizers.kmeans import nearest


def vectors(items: int = 120) -> np.ndarray:
    return isotropic_vectors(items, 8, seed=1)


def test_the_coarse_code_is_a_k_means_cluster_and_the_fine_codes_are_of_what_it_leaves() -> None:
    x = vectors()
    ids = CartIds.fit(x, CartIdsConfig(coarse=6, fine=(4, 3)), seed=2)
    first, second, third = ids.quantizer._codebooks
    assert [len(book) for book in ids.quantizer._codebooks] == [6, 4, 3]
    coarse = nearest(x, first)
    left = x - first[coarse]
    fine = nearest(left, second)
    last = nearest(left - second[fine], third)
    assert (ids.id_map.sids[:, :3] == np.column_stack([coarse, fine, last])).all()
    for code in range(6):  # a cluster's centroid is the mean of its members, about: Lloyd may stop a step early
        assert np.abs(x[coarse == code].mean(0) - first[code]).max() < 0.2


def test_the_unique_token_counts_items_of_equal_codes() -> None:
    ids = CartIds.fit(vectors(), CartIdsConfig(coarse=4, fine=(3,)), seed=0)
    sids = ids.id_map.sids
    assert not ids.ambiguous
    assert len(np.unique(sids, axis=0)) == len(sids) == 120
    for code in np.unique(sids[:, :2], axis=0):
        own = (sids[:, :2] == code).all(1)
        assert sorted(sids[own, 2].tolist()) == list(range(int(own.sum())))


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (CartIdsConfig(coarse=8, fine=(4, 4)), (8, 4, 4)),
        (CartIdsConfig(coarse=0, fine=(4, 4)), (4, 4)),
        (CartIdsConfig(coarse=8, fine=()), (8,)),
    ],
)
def test_each_part_can_be_left_out(config: CartIdsConfig, sizes: tuple[int, ...]) -> None:
    ids = CartIds.fit(vectors(), config, seed=0)
    assert ids.id_map.sizes[:-1] == sizes
    assert len(np.unique(ids.id_map.sids, axis=0)) == 120
    bare = CartIds.fit(vectors(), config.model_copy(update={"unique": False}), seed=0)
    assert bare.id_map.sizes == sizes
    assert len(bare.id_map) < 120
    assert bare.ambiguous
    assert (bare.id_map.sids[bare.rows] == ids.id_map.sids[:, :-1]).all()


def test_an_ambiguous_id_returns_all_its_items_and_shares_its_probability() -> None:
    ids = CartIds.fit(vectors(), CartIdsConfig(coarse=5, fine=(), unique=False), seed=0)
    order = np.array([[3, 0, 1, 4, 2], [2, 3, -1, -1, -1]])
    scores = torch.tensor([[0.4, 0.3, 0.2, 0.06, 0.04], [0.75, 0.25, 0, 0, 0]]).log()
    found = ids.expand(BeamResult(torch.from_numpy(order), scores), 120)
    assert sorted(found.items[0].tolist()) == list(range(120))
    assert found.scores[0].exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    members = np.flatnonzero(ids.rows == 3)
    assert found.items[0, : len(members)].tolist() == members.tolist()
    assert found.scores[0, 0].exp().item() == pytest.approx(0.4 / len(members), rel=1e-5)
    some = int(np.isin(ids.rows, [2, 3]).sum())
    assert (found.items[1, some:] == -1).all()
    assert (found.scores[1, some:] == -torch.inf).all()
    assert set(ids.rows[found.items[1, :some].numpy()]) == {2, 3}
    assert ids.expand(BeamResult(torch.from_numpy(order), scores), 3).items.shape == (2, 3)


def test_unique_ids_pass_through_expand() -> None:
    ids = CartIds.fit(vectors(), CartIdsConfig(coarse=4, fine=(3,)), seed=0)
    found = BeamResult(torch.tensor([[5, 2, 119]]), torch.tensor([[-0.5, -1.0, -3.0]]))
    again = ids.expand(found, 3)
    assert torch.equal(again.items, found.items)
    torch.testing.assert_close(again.scores, found.scores)


def test_same_vectors_and_seed_same_ids() -> None:
    x, _ = additive_vectors(100, 8, 2, 6, 0.1, seed=3)
    one, other = (CartIds.fit(x, CartIdsConfig(coarse=6, fine=(6,)), seed=4) for _ in range(2))
    assert one.id_map.version == other.id_map.version
    assert one.id_map.sids.tobytes() == other.id_map.sids.tobytes()


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="coarse code or residual"):
        CartIds.fit(vectors(), CartIdsConfig(coarse=0, fine=()))
    with pytest.raises(DataError, match="fewer"):
        CartIds.fit(vectors(5), CartIdsConfig(coarse=8, fine=(2,)))
    with pytest.raises(DataError, match="fewer different"):
        CartIds.fit(np.ones((50, 4), np.float32), CartIdsConfig(coarse=4, fine=(2,)))
    broken = vectors()
    broken[7, 2] = np.nan
    with pytest.raises(DataError, match="row 7"):
        CartIds.fit(broken, CartIdsConfig(coarse=4, fine=(2,)))
    ids = CartIds.fit(vectors(), CartIdsConfig(coarse=4, fine=(3,)))
    for items in ([120], [-1], [0.5]):
        with pytest.raises(DataError, match="no such item row"):
            ids.targets(np.array(items))
    assert ids.targets(np.array([3, 3])).tolist() == [3, 3]
