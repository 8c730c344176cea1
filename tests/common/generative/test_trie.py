"""The prefix trie against a dict of prefixes, over random catalogues; its size; what it refuses."""

import time
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from common.generative.trie import PrefixTrie


@st.composite
def catalogues(draw: st.DrawFn, most: int = 40) -> tuple[np.ndarray, tuple[int, ...]]:
    """Different IDs in random order: one item, shared prefixes, chains of single children, levels of one code."""
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=5)))
    space = int(np.prod(sizes))
    numbers = draw(st.lists(st.integers(0, space - 1), min_size=1, max_size=min(most, space), unique=True))
    return np.stack(np.unravel_index(numbers, sizes), axis=1).astype(np.int32), sizes


def random_sids(n: int, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.integers(0, size, 2 * n) for size in sizes], axis=1)
    found = rng.permutation(np.unique(drawn, axis=0))[:n]
    assert len(found) == n
    return found.astype(np.int32)


def equal(a: PrefixTrie, b: PrefixTrie) -> bool:
    pairs = zip((*a.tokens, *a.indptr, a.items), (*b.tokens, *b.indptr, b.items), strict=True)
    return (a.sizes, a.widths) == (b.sizes, b.widths) and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs
    )


def walk(trie: PrefixTrie) -> dict[tuple[int, ...], int]:
    """ID -> item row, by the children alone."""
    prefixes = {(): 0}
    for level in range(trie.depth):
        below = {}
        for prefix, node in prefixes.items():
            found = trie.children(np.array([node]), level)
            for token, child in zip(found.tokens[found.mask], found.nodes[found.mask], strict=True):
                below[*prefix, int(token)] = int(child)
        prefixes = below
    return {prefix: int(trie.items[leaf]) for prefix, leaf in prefixes.items()}


@settings(max_examples=60, deadline=None)
@given(catalogues())
def test_the_children_lead_to_every_item_and_nowhere_else(catalogue: tuple[np.ndarray, tuple[int, ...]]) -> None:
    sids, sizes = catalogue
    trie = PrefixTrie.from_sids(sids, sizes)
    assert walk(trie) == {tuple(row): item for item, row in enumerate(sids.tolist())}
    assert len(trie) == trie.count(trie.depth) == len(sids) and trie.count(0) == 1
    kinds = defaultdict(set)
    for row in sids.tolist():
        for level in range(len(sizes)):
            kinds[level, *row[:level]].add(row[level])
    for level in range(len(sizes)):
        assert trie.widths[level] == max(len(codes) for key, codes in kinds.items() if key[0] == level)
    assert [tuple(row) for row in sids[trie.items].tolist()] == sorted(tuple(row) for row in sids.tolist())


@settings(max_examples=60, deadline=None)
@given(catalogues())
def test_lookup_knows_the_ids_of_the_trie_and_no_others(catalogue: tuple[np.ndarray, tuple[int, ...]]) -> None:
    sids, sizes = catalogue
    trie = PrefixTrie.from_sids(sids, sizes, items=np.arange(len(sids))[::-1] * 3)
    everything = np.stack([grid.ravel() for grid in np.indices([size + 2 for size in sizes])], axis=1) - 1
    known = {tuple(row): 3 * (len(sids) - 1 - place) for place, row in enumerate(sids.tolist())}
    assert trie.lookup(everything).tolist() == [known.get(tuple(row), -1) for row in everything.tolist()]


@settings(max_examples=60, deadline=None)
@given(catalogues(), st.data())
def test_a_restriction_is_the_trie_of_the_items_that_remain(
    catalogue: tuple[np.ndarray, tuple[int, ...]], data: st.DataObject
) -> None:
    sids, sizes = catalogue
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(sids), max_size=len(sids))))
    mask[data.draw(st.integers(0, len(sids) - 1))] = True
    trie = PrefixTrie.from_sids(sids, sizes)
    before = walk(trie)
    rows = np.flatnonzero(mask)
    assert equal(trie.restrict(mask), PrefixTrie.from_sids(sids[rows], sizes, items=rows))
    one = np.zeros(len(sids), dtype=bool)
    one[rows[-1]] = True
    assert walk(trie.restrict(mask).restrict(one)) == {tuple(sids[rows[-1]].tolist()): rows[-1]}
    assert walk(trie) == before


@settings(max_examples=30, deadline=None)
@given(catalogues())
def test_tensors_say_what_the_arrays_say(catalogue: tuple[np.ndarray, tuple[int, ...]]) -> None:
    trie = PrefixTrie.from_sids(*catalogue)
    view = trie.to("cpu")
    assert view is trie.to("cpu") and view.items.data_ptr() == trie.items.ctypes.data and len(view) == len(trie)
    for level in range(trie.depth):
        nodes = np.arange(trie.count(level))
        a, b = trie.children(nodes, level), view.children(torch.from_numpy(nodes), level)
        assert np.array_equal(a.mask, b.mask.numpy())
        assert np.array_equal(a.tokens[a.mask], b.tokens.numpy()[a.mask])
        assert np.array_equal(a.nodes[a.mask], b.nodes.numpy()[a.mask])
        above = np.broadcast_to(nodes[:, None], a.mask.shape)[a.mask]
        assert np.array_equal(view.parents(level, b.nodes[b.mask]).numpy(), above)
        low, high = view.leaves_below(torch.from_numpy(nodes), level)
        assert low[0] == 0 and high[-1] == len(trie) and torch.equal(low[1:], high[:-1])
        codes = [sorted(b.tokens[node][b.mask[node]].tolist()) for node in nodes]
        counted = all(one == list(range(len(one))) for one in codes)
        assert view.straight[level] == (counted and view.count(level + 1) >= 4 * len(nodes))
    assert torch.equal(view.items[view.leaves(view.items.long())], view.items)


def test_the_levels_of_a_full_and_of_a_balanced_tree_are_straight_and_large_codes_count() -> None:
    full = np.stack(np.unravel_index(np.arange(6 * 5 * 4), (6, 5, 4)), 1)
    assert PrefixTrie.from_sids(full, (6, 5, 4)).to("cpu").straight == (True, True, True)
    assert PrefixTrie.from_sids(full + 1, (7, 6, 5)).to("cpu").straight == (False, False, False)
    branches = np.stack([np.arange(97) // 10, np.arange(97) % 10], 1)  # the last node has fewer
    assert PrefixTrie.from_sids(branches, (10, 10)).to("cpu").straight == (True, True)
    wide = np.stack([np.zeros(40_000, np.int64), np.arange(40_000)], 1)  # codes past 32,767 are negative as int16
    assert PrefixTrie.from_sids(wide, (2, 65_536)).to("cpu").straight == (False, True)


@pytest.mark.parametrize(
    ("sizes", "kinds"),
    [
        ((256, 257, 2), (np.uint8, np.uint16, np.uint8)),
        ((65536, 65537), (np.uint16, np.int32)),
        ((256,) * 9, (np.uint8,) * 9),  # an ID of 72 bits, which no machine word holds
        ((1, 1, 300, 1), (np.uint8, np.uint8, np.uint16, np.uint8)),
    ],
)
def test_codes_take_the_smallest_type_and_large_ones_survive(sizes: tuple[int, ...], kinds: tuple[type, ...]) -> None:
    sids = random_sids(150, sizes, 3) if min(sizes) > 1 else np.stack(np.unravel_index(np.arange(300), sizes), 1)
    sids[0] = np.asarray(sizes) - 1
    sids = np.unique(sids, axis=0)[::-1]
    trie = PrefixTrie.from_sids(sids, sizes)
    assert tuple(tokens.dtype for tokens in trie.tokens) == kinds
    assert {array.dtype for array in (*trie.indptr, trie.items)} == {np.dtype(np.int32)}
    assert np.array_equal(trie.lookup(sids), np.arange(len(sids)))
    view = trie.to("cpu")
    node = torch.zeros(1, dtype=torch.long)
    for level in range(trie.depth):  # the last child of the last node: the largest code of each level
        found = view.children(node, level)
        node = found.nodes[:, int(found.mask.sum()) - 1]
        assert int(found.tokens[0, int(found.mask.sum()) - 1]) == sizes[level] - 1


def test_an_item_takes_about_ten_bytes() -> None:
    # Per item: its row (4), the code (1) and the end (4) of its level-3 node, which it rarely shares, its own code (1).
    trie = PrefixTrie.from_sids(random_sids(300_000, (256,) * 4, 5), (256,) * 4)
    assert 9 * len(trie) < trie.nbytes < 10 * len(trie) + 5 * (trie.count(1) + trie.count(2)) + 100


@pytest.mark.slow
def test_ten_million_ids_in_three_seconds_and_120_megabytes() -> None:
    numbers = np.random.default_rng(0).permutation(np.unique(np.random.default_rng(1).integers(0, 2**32, 10_100_000)))
    sids = np.stack([numbers[:10_000_000] >> shift & 255 for shift in (24, 16, 8, 0)], axis=1).astype(np.int32)
    del numbers
    seconds = []
    for _ in range(2):
        started = time.process_time()
        trie = PrefixTrie.from_sids(sids, (256,) * 4)
        seconds.append(time.process_time() - started)
        assert trie.nbytes < 120e6
    assert min(seconds) < 3
    assert np.array_equal(trie.lookup(sids[::1000]), np.arange(0, len(sids), 1000))


def test_what_is_refused() -> None:
    sids, sizes = np.array([[0, 1], [1, 0], [1, 2]]), (2, 3)
    with pytest.raises(DataError, match="at least one item"):
        PrefixTrie.from_sids(np.empty((0, 2), dtype=int), sizes)
    for wrong in (sids[:, :1], sids[0], np.hstack([sids, sids])):
        with pytest.raises(DataError, match="another shape"):
            PrefixTrie.from_sids(wrong, sizes)
    with pytest.raises(DataError, match="another shape"):
        PrefixTrie.from_sids(sids.astype(float), sizes)
    with pytest.raises(DataError, match=r"row 2, level 1(.|\n)*0\.\.1(.|\n)*got: +2"):
        PrefixTrie.from_sids(sids, (2, 2))
    with pytest.raises(DataError, match="outside its codebook"):
        PrefixTrie.from_sids(sids - 1, sizes)
    for items, what in ((np.array([0, 0, 1]), "row 0"), (np.array([0, 1]), "another shape"), (-np.arange(3), "negat")):
        with pytest.raises(DataError, match=what):
            PrefixTrie.from_sids(sids, sizes, items=items)


@pytest.mark.parametrize("levels", [2, 9])
@pytest.mark.parametrize("items", [None, np.array([7, 8, 9, 5])])
def test_two_items_of_one_id_are_named(levels: int, items: np.ndarray | None) -> None:
    sids = np.full((4, levels), 200)
    sids[0], sids[2, -1] = 1, 4
    with pytest.raises(DataError, match=r"rows 1 and 3(.|\n)*200(.|\n)*1 such"):
        PrefixTrie.from_sids(sids, (256,) * levels, items=items)


def test_a_restriction_must_fit_and_leave_something() -> None:
    trie = PrefixTrie.from_sids(np.array([[0, 1], [1, 0], [1, 2]]), (2, 3))
    with pytest.raises(DataError, match=r"no item(.|\n)*none of 3 items"):
        trie.restrict(np.zeros(3, dtype=bool))
    for mask in (np.ones(2, dtype=bool), np.ones(3, dtype=int), np.ones((3, 1), dtype=bool)):
        with pytest.raises(DataError, match="mask of items"):
            trie.restrict(mask)
    with pytest.raises(DataError, match="another shape"):
        trie.lookup(np.array([[0.0, 1.0]]))
    with pytest.raises(DataError, match=r"not in the trie(.|\n)*row 1"):
        trie.restrict(np.array([True, False, True])).to("cpu").leaves(torch.tensor([0, 1, 2]))
