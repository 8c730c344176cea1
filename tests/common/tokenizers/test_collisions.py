"""The collision report against counting by hand, and the hashing formula against simulation."""

import json
import math
from collections import Counter
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import DataError
from common.planted import additive_vectors
from common.tokenizers.collisions import collision_report, expected_unique_fraction
from common.tokenizers.health import code_warnings
from common.tokenizers.packed import RowIndex, pack, ranks, unpack, words
from common.tokenizers.rq_kmeans import RQKMeans

WIDE = (1 << 31, 1 << 31, 7, 1 << 31)


@st.composite
def coded(draw, most: int = 60):
    sizes = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 5, 300, 1 << 31]), min_size=1, max_size=6)))
    n = draw(st.integers(1, most))
    rows = [[draw(st.integers(0, min(size, 3) - 1)) + draw(st.sampled_from([0, max(size - 3, 0)])) for size in sizes]]
    rows += [[draw(st.integers(0, min(size, 3) - 1)) for size in sizes] for _ in range(n - 1)]
    return np.asarray(rows, dtype=np.int64), sizes


@given(coded())
@settings(max_examples=60, deadline=None)
def test_groups_ranks_and_report_against_a_counter(case) -> None:
    codes, sizes = case
    rows = [tuple(row) for row in codes.tolist()]
    counts = Counter(rows)
    report = collision_report(codes, sizes)
    assert (report.items, report.distinct, report.largest) == (len(rows), len(counts), max(counts.values()))
    assert report.groups == Counter(counts.values())
    assert report.colliding == sum(count for count in counts.values() if count > 1)
    assert report.capacity == math.prod(sizes)
    index = RowIndex(codes, sizes)
    assert [rows[i] for i in index.order] == sorted(rows)
    rank, largest = ranks(index)
    assert rank.tolist() == [rows[:i].count(row) for i, row in enumerate(rows)]
    assert largest == max(counts.values())
    first, held = index.find(codes)
    assert held.all()
    assert (codes[index.order[first]] == codes).all()


def test_ids_wider_than_64_bits_are_cut_into_words() -> None:
    assert [word.stop for word in words(WIDE)] == [2, 4]
    rng = np.random.default_rng(0)
    codes = np.column_stack([rng.integers(size, size=500) for size in WIDE])
    index = RowIndex(codes, WIDE)
    assert not index.repeats()
    first, held = index.find(codes)
    assert held.all() and (index.order[first] == np.arange(500)).all()
    other = codes[rng.permutation(500)]
    mixed = np.column_stack([codes[:, :2], other[:, 2:]])  # both halves are known, the whole is not
    same = (mixed == codes).all(axis=1)
    assert (index.find(mixed)[1] == same).all() and not same.all()


def test_many_rows_are_found_as_few_are() -> None:
    rng = np.random.default_rng(0)
    for sizes in ((300, 300), (1 << 31, 1 << 31)):  # the second leaves no bits for the row beside the key
        codes, asked = (np.column_stack([rng.integers(min(size, 200), size=30_000) for size in sizes]) for _ in "ab")
        index = RowIndex(codes, sizes)
        first, held = index.find(asked)
        parts = [index.find(asked[start : start + 5000]) for start in range(0, 30_000, 5000)]
        assert (first == np.concatenate([part[0] for part in parts])).all()
        assert (held == np.concatenate([part[1] for part in parts])).all() and 0.3 < held.mean() < 0.8
        assert (codes[index.order[first[held]]] == asked[held]).all()
        assert (np.diff(index.order)[index.keys[1:] == index.keys[:-1]] > 0).all()


def test_pack_keeps_the_order_and_comes_back() -> None:
    sizes = (256, 3, 1 << 31)
    rng = np.random.default_rng(1)
    rows = np.column_stack([rng.integers(size, size=300) for size in sizes])
    keys = pack(rows, sizes)
    assert (unpack(keys, sizes) == rows).all()
    assert (rows[np.argsort(keys)] == rows[np.lexsort(rows.T[::-1])]).all()


@pytest.mark.parametrize(("n", "sizes"), [(100, (10, 10)), (4000, (16, 16, 16)), (5, (2,)), (1, (1,)), (7, (1, 1))])
def test_the_formula_is_exact_where_fractions_can_be(n, sizes) -> None:
    m = math.prod(sizes)
    exact = m * (1 - Fraction(m - 1, m) ** n) / n
    assert expected_unique_fraction(n, sizes) == pytest.approx(float(exact), rel=1e-12)


def test_the_formula_does_not_cancel_at_large_capacity() -> None:
    n, sizes = 10_000_000, (256,) * 4
    loss = 1 - expected_unique_fraction(n, sizes)
    assert loss == pytest.approx((n - 1) / (2 * math.prod(sizes)), rel=1e-3)
    assert 0.74 < expected_unique_fraction(n, (256,) * 3) < 0.76  # facts, section 5.3: 75%
    assert expected_unique_fraction(n, (2**31,) * 50) == 1.0
    with pytest.raises(ValueError, match="n >= 1"):
        expected_unique_fraction(0, sizes)


def test_the_formula_is_what_hashing_does() -> None:
    rng = np.random.default_rng(2)
    sizes, n = (16, 16, 16), 4000
    measured = [
        collision_report(np.column_stack([rng.integers(16, size=n) for _ in sizes]), sizes).unique_fraction
        for _ in range(20)
    ]
    spread = np.std(measured) / np.sqrt(len(measured))
    assert abs(np.mean(measured) - expected_unique_fraction(n, sizes)) < 4 * spread
    assert spread < 0.002


def test_a_quantizer_on_the_additive_plant_uses_its_capacity_and_a_dead_one_does_not() -> None:
    x, _ = additive_vectors(4000, 32, 3, 16, 0.05, 0)
    # K-means ends in a local optimum now and then: of three fits, the one with the least error.
    fits = [RQKMeans((16, 16, 16)).fit(x, seed=seed) for seed in range(3)]
    codes = min(fits, key=lambda fit: float(np.square(x - fit.decode(fit.encode(x))).sum())).encode(x)
    report = collision_report(codes, (16, 16, 16))
    assert report.unique_fraction >= 0.85 * report.expected_fraction  # facts, section 3
    half_dead = collision_report(codes // 2, (16, 16, 16))  # a control: half of the codes never occur
    assert half_dead.unique_fraction < 0.85 * half_dead.expected_fraction


def test_report_renders_and_is_json() -> None:
    from rich.console import Console

    report = collision_report(np.asarray([[0, 1], [0, 1], [2, 2]]), (3, 3))
    console = Console(width=100, record=True)
    console.print(report.render())
    text = console.export_text()
    assert "0.6667" in text and "1 of 1, 1 of 2" in text and "2 codes" in text
    assert json.loads(json.dumps(asdict(report)))["groups"] == {"1": 1, "2": 1}


@pytest.mark.parametrize(
    "codes", [np.zeros((0, 2), int), np.asarray([[0, 3]]), np.asarray([[-1, 0]]), np.zeros((3, 1))]
)
def test_bad_codes_are_named(codes) -> None:
    with pytest.raises(DataError):
        collision_report(codes, (3, 3))


def test_what_is_wrong_with_codes_is_told_and_good_codes_are_not() -> None:
    rng = np.random.default_rng(0)
    even = rng.integers(0, 64, (1000, 3))
    assert code_warnings(even, (64,) * 3, todo="-") == []  # random codes of enough levels
    tight = code_warnings(even[:, :1], (64,), todo="-")
    assert len(tight) == 2 and "1,000 of 1,000 items (100%)" in tight[0] and "more codes or levels" in tight[1]
    idle = np.stack([even[:, 0] // 4, even[:, 1], even[:, 2]], 1)
    assert code_warnings(idle, (64,) * 3, todo="train on", names=("text", "image", "sound")) == [
        "warning: text uses 16 of 64 codes (25%); random: 64",
        "what helps: train on",
    ]
    few = rng.integers(0, 4096, (40, 2))  # few items cannot use many codes
    assert code_warnings(few, (4096,) * 2, todo="-") == []
