"""UniEmbedding's parts against their definitions: adapter, gate, view, losses, pairs and what is a negative."""

import itertools

import numpy as np
import pytest
import torch

from common.errors import DataError
from common.representation.inputs import Behaviour
from common.representation.uniembedding.adapter import DomainAdapter, UserView
from common.representation.uniembedding.batches import ANCHOR, INTER, INTRA, USER, PairBatches
from common.representation.uniembedding.losses import cosines, info_nce, see, view_cosines
from common.representation.uniembedding.pooling import Pooled

DIMS = {"image": 5, "text": 7}


def adapter(seed: int = 0, **options: bool) -> DomainAdapter:
    torch.manual_seed(seed)
    return DomainAdapter(DIMS, 3, dim=8, hidden=6, rank=2, **options).eval()


def inputs(count: int = 12, seed: int = 1) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    vectors = {name: torch.randn(count, width, generator=made) for name, width in DIMS.items()}
    return vectors, torch.ones(count, 2, dtype=torch.bool), torch.arange(count) % 3


def histories(users: int = 30, items: int = 40, seed: int = 0) -> Behaviour:
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, items, rng.integers(0, 15)) for _ in range(users)]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in rows])]).astype(np.int64)
    return Behaviour(np.arange(users) + 100, np.concatenate(rows).astype(np.int64), offsets)


def pooled(items: int = 40, domains: int = 3) -> Pooled:
    vectors = np.random.default_rng(1).normal(size=(items, 4)).astype(np.float32)
    return Pooled({"image": vectors}, np.ones((items, 1), bool), np.arange(items, dtype=np.int64) % domains, "d")


# -- the networks


def test_a_missing_modality_leaves_the_gate_and_its_values_do_not_count() -> None:
    model, (vectors, present, domain) = adapter(), inputs()
    torch.nn.init.normal_(model.gate.weight)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
    present[:4, 0], present[4:8, 1] = False, False
    alpha = model.weights(present, domain)
    assert torch.allclose(alpha.sum(1), torch.ones(12)) and (alpha[~present] == 0).all()
    assert (alpha[8:] > 0).all() and (alpha[:4, 1] == 1).all()
    before = model(vectors, present, domain)
    vectors["image"][:4], vectors["text"][4:8] = 1e3, -1e3
    assert torch.equal(before, model(vectors, present, domain))
    vectors["text"][8:] = 0
    assert not torch.allclose(before[8:], model(vectors, present, domain)[8:])


def test_embeddings_are_standardised_rows() -> None:
    e = adapter()(*inputs())
    assert torch.allclose(e.mean(1), torch.zeros(12), atol=1e-5)
    assert torch.allclose(e.norm(dim=1), torch.full((12,), 8.0).sqrt(), atol=1e-2)


def test_domains_share_one_adapter_at_first_and_then_have_parts_of_their_own() -> None:
    model, (vectors, present, domain) = adapter(), inputs()
    before = model(vectors, present, domain)
    assert torch.equal(before, model(vectors, present, torch.zeros_like(domain)))
    with torch.no_grad():
        for each in model.adapters:
            each.up.weight[0, 2:4] = 1.0  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue] # of domain 1
    after = model(vectors, present, domain)
    assert torch.equal(before[domain != 1], after[domain != 1])
    assert not torch.allclose(before[domain == 1], after[domain == 1])


@pytest.mark.parametrize("switch", ["domain_aware", "gate"])
def test_ablations_take_out_what_they_name(switch) -> None:
    full, less = adapter(), adapter(**{switch: False})
    names, left = ({name for name, _ in model.named_parameters()} for model in (full, less))
    assert left < names
    gone = " ".join(sorted(names - left))
    assert ("down" in gone and "up" in gone) if switch == "domain_aware" else "gate" in gone
    vectors, present, domain = inputs()
    for parameter in less.parameters():
        torch.nn.init.normal_(parameter)
    alpha = less.weights(present, domain)
    if switch == "gate":
        assert (alpha == 0.5).all()
    else:  # one gate, one adapter: the domain is not read
        assert (alpha == alpha[0]).all() and (alpha[0] != 0.5).all()
        assert torch.equal(less(vectors, present, domain), less(vectors, present, domain * 0))


def test_a_view_is_the_item_itself_at_first() -> None:
    view, e = UserView(8, 6), adapter()(*inputs())
    scale, shift = view(torch.randn(12, 8))
    assert torch.allclose(see(e, scale, shift), e, atol=1e-4)


# -- the losses


def test_cosines_through_a_view_are_those_of_the_views() -> None:
    torch.manual_seed(0)
    anchors, candidates = torch.randn(5, 16), torch.randn(9, 16)
    scale, shift = 1 + torch.randn(5, 16), 0.7 * torch.randn(5, 16)
    expected = torch.empty(5, 9)
    for row in range(5):
        mine = see(anchors[row], scale[row], shift[row])
        for column in range(9):
            seen = see(candidates[column], scale[row], shift[row])
            expected[row, column] = torch.cosine_similarity(mine, seen, dim=0)
    assert torch.allclose(view_cosines(anchors, candidates, scale, shift), expected, atol=1e-4)
    plain = view_cosines(anchors, candidates, torch.ones(5, 16), torch.zeros(5, 16))
    centred = [x - x.mean(1, keepdim=True) for x in (anchors, candidates)]
    assert torch.allclose(plain, cosines(*centred), atol=1e-4)


def test_info_nce_is_the_equation_over_the_counted_columns() -> None:
    rng = np.random.default_rng(0)
    similar, counted = rng.normal(size=(6, 6)), rng.random((6, 6)) < 0.5
    np.fill_diagonal(counted, True)
    valid = np.array([True, True, False, True, False, True])
    terms = [
        -np.log(np.exp(similar[r, r] / 0.3) / np.exp(similar[r, counted[r]] / 0.3).sum()) for r in np.flatnonzero(valid)
    ]
    got = info_nce(torch.from_numpy(similar), torch.from_numpy(counted), torch.from_numpy(valid), 0.3)
    assert got.item() == pytest.approx(np.mean(terms))
    assert info_nce(torch.from_numpy(similar), torch.eye(6) > 2, torch.zeros(6) > 1, 0.3).item() == 0


# -- pairs


@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_no_pair_of_items_that_a_user_had_is_ever_a_negative(epoch) -> None:
    items, behaviour = pooled(), histories()
    had = {100 + row: set(behaviour.history(row).tolist()) for row in range(len(behaviour))}
    batches = PairBatches(items, behaviour, window=3, history=4, batch_size=32, seed=5)
    masked = 0
    for rows in list(batches.epoch(epoch)):
        batch = batches.make(rows)
        for column, mask in ((INTRA, batch.count_intra.numpy()), (INTER, batch.count_inter.numpy())):
            partners = rows[:, column]
            for r, c in itertools.product(range(len(rows)), repeat=2):
                pair = bool(min(partners[r], partners[c]) >= 0)
                same = pair and items.domains[partners[r]] == items.domains[partners[c]]
                known = partners[c] in had[int(behaviour.users[rows[r, USER]])]
                assert mask[r, c] == (pair and (r == c or (same and not known)))
                masked += bool(r != c and same and known and rows[r, USER] != rows[c, USER])
    assert masked > 50  # other users' rows hold such items too: masking rows of the same user would not do


def test_partners_and_contexts_are_what_they_should_be() -> None:
    items, behaviour = pooled(), histories()
    batches = PairBatches(items, behaviour, window=2, history=6, batch_size=16, seed=0)
    reached = set()
    for epoch in range(40):
        for rows in batches.epoch(epoch):
            for row in rows.tolist():
                mine = behaviour.history(row[USER]).tolist()
                mine = [x for place, x in enumerate(mine) if x not in mine[place + 1 :]]  # repeats at the last place
                there = [x for x in mine if items.domains[x] == items.domains[row[ANCHOR]]]
                if row[INTRA] >= 0:
                    apart = abs(there.index(row[INTRA]) - there.index(row[ANCHOR]))
                    assert 1 <= apart <= 2
                    reached.add(apart)
                else:
                    assert len(there) == 1
                if row[INTER] >= 0:
                    assert row[INTER] in mine and row[INTER] not in there
                else:
                    assert len(there) == len(mine)
                context = {x for x in row[USER + 1 :] if x >= 0}
                assert context <= set(mine) - {row[ANCHOR], row[INTRA]}
    assert reached == {1, 2}


def test_an_epoch_has_every_anchor_once_and_is_a_function_of_its_number() -> None:
    items, behaviour = pooled(), histories()
    one, two = (PairBatches(items, behaviour, batch_size=16, seed=3) for _ in range(2))
    first, again, later = (np.concatenate(list(b.epoch(n))) for b, n in ((one, 4), (two, 4), (one, 5)))
    assert (first == again).all() and one.digest == two.digest and len(one.epoch(0)) == len(one)
    assert first.shape == later.shape and (first != later).any()
    keys = [sorted(zip(x[:, USER].tolist(), x[:, ANCHOR].tolist(), strict=True)) for x in (first, later)]
    assert keys[0] == keys[1] and len(set(keys[0])) == len(keys[0]) == len(one.anchors)
    assert PairBatches(items, behaviour, batch_size=16, seed=4).digest != one.digest


def test_a_batch_names_its_items_by_their_places() -> None:
    items, behaviour = pooled(), histories()
    batches = PairBatches(items, behaviour, history=3, batch_size=16)
    rows = batches.epoch(0)[0]
    batch = batches.make(rows).to("cpu")
    vectors = batch.vectors["image"].numpy()
    for places, wanted, real in (
        (batch.anchor, rows[:, ANCHOR], np.ones(len(rows), bool)),
        (batch.intra, rows[:, INTRA], batch.has_intra.numpy()),
        (batch.inter, rows[:, INTER], batch.has_inter.numpy()),
    ):
        assert (vectors[places.numpy()][real] == items.vectors["image"][wanted[real]]).all()
    mask = batch.context_mask.numpy()
    assert (vectors[batch.context.numpy()][mask] == items.vectors["image"][rows[:, USER + 1 :][mask]]).all()
    assert (
        batch.domains.numpy() == items.domains[np.unique(np.where(rows < 0, rows[0, 0], rows)[:, [0, 1, 2, 4, 5, 6]])]
    ).all()


def test_histories_without_a_pair_are_refused() -> None:
    items = pooled(domains=2)
    single = Behaviour(np.arange(3), np.array([0, 1, 2, 2]), np.array([0, 1, 2, 4]))  # the last one repeats an item
    with pytest.raises(DataError, match="too short for any intra-domain pair"):
        PairBatches(items, single)
    apart = Behaviour(np.arange(2), np.array([0, 2, 1, 3]), np.array([0, 2, 4]))
    with pytest.raises(DataError, match=r"no user has items of two domains[\s\S]*inter_weight=0"):
        PairBatches(items, apart)
    assert len(PairBatches(items, apart, inter=False).anchors) == 4
    crossed = Behaviour(np.arange(2), np.array([0, 1, 2, 3]), np.array([0, 2, 4]))
    with pytest.raises(DataError, match="intra_weight=0"):
        PairBatches(items, crossed)
    assert len(PairBatches(items, crossed, intra=False).anchors) == 4
