"""Semantic IDs: distinct, invertible, extended without a change to old rows, and never of two versions."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError, DataError
from common.planted import additive_vectors
from common.tokenizers.collisions import collision_report
from common.tokenizers.rq_kmeans import RQKMeans
from common.tokenizers.semantic_ids import SemanticIdMap


def random_codes(n: int, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.integers(size, size=n) for size in sizes]).astype(np.int32)


@st.composite
def coded(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    return random_codes(draw(st.integers(1, 50)), sizes, draw(st.integers(0, 10**6))), sizes


@given(coded(), st.integers(0, 60))
@settings(max_examples=80, deadline=None)
def test_append_is_distinct_invertible_and_as_wide_as_the_largest_group(case, spare) -> None:
    codes, sizes = case
    largest = collision_report(codes, sizes).largest
    ids = SemanticIdMap.from_codes(codes, sizes, rank_codes=largest + spare)
    assert ids.sizes == (*sizes, largest + spare) and ids.levels == len(sizes) and ids.ranked
    assert SemanticIdMap.from_codes(codes, sizes).sizes[-1] == largest
    assert (ids.sids[:, :-1] == codes).all() and ids.sids.dtype == np.int32
    assert len({tuple(row) for row in ids.sids.tolist()}) == len(ids) == len(codes)
    assert (ids.sid_to_item(ids.sids) == np.arange(len(ids))).all()
    items = np.random.default_rng(0).integers(len(ids), size=(3, 2))
    assert (ids.sid_to_item(ids.item_to_sid(items)) == items).all()
    known = {tuple(row): i for i, row in enumerate(ids.sids.tolist())}
    asked = random_codes(40, ids.sizes, 1)
    assert ids.sid_to_item(asked).tolist() == [known.get(tuple(row), -1) for row in asked.tolist()]
    outside = np.asarray([ids.sizes, [-1] * len(ids.sizes)])
    assert (ids.sid_to_item(outside) == -1).all()


@given(coded(), st.integers(1, 40), st.integers(0, 10**6))
@settings(max_examples=80, deadline=None)
def test_extend_keeps_old_ids_and_goes_on_as_if_all_had_come_at_once(case, more, seed) -> None:
    codes, sizes = case
    new = random_codes(more, sizes, seed)
    both = np.concatenate([codes, new])
    width = collision_report(both, sizes).largest
    old = SemanticIdMap.from_codes(codes, sizes, version="q", rank_codes=width)
    longer = old.extend(new, "q")
    assert (longer.sids[: len(codes)] == old.sids).all() and longer.sizes == old.sizes
    assert (longer.sids == SemanticIdMap.from_codes(both, sizes, version="q", rank_codes=width).sids).all()
    assert (longer.sid_to_item(longer.sids) == np.arange(len(both))).all()
    half = more // 2
    assert (old.extend(new[:half], "q").extend(new[half:], "q").sids == longer.sids).all()


def test_what_was_trained_before_an_extension_still_knows_the_ids() -> None:
    codes = random_codes(30, (4, 4), 0)
    old = SemanticIdMap.from_codes(codes, (4, 4), version="q", rank_codes=40)
    longer = old.extend(random_codes(5, (4, 4), 1), "q")
    longer.check_version(old)
    longer.check_version(old.version)
    longer.check_version(longer)
    assert old.extend(np.empty((0, 2), np.int32), "q") == old != longer
    with pytest.raises(DataError, match="another version"):
        old.check_version(longer)  # the old map does not have the new items
    with pytest.raises(DataError, match=r"another version[\s\S]*a model"):
        longer.check_version(old.extend(random_codes(5, (4, 4), 2), "q"), "a model")


def test_ids_of_two_fits_never_mix() -> None:
    x, _ = additive_vectors(200, 8, 2, 8, 0.05, 0)
    one, two = (RQKMeans((8, 8)).fit(x, seed=seed) for seed in (0, 1))
    ids, other = (SemanticIdMap.from_codes(q.encode(x), (8, 8), version=q.version) for q in (one, two))
    assert ids == SemanticIdMap.from_codes(one.encode(x), (8, 8), version=one.version)
    assert len(ids.version) == 16 and int(ids.version, 16) >= 0
    with pytest.raises(DataError, match="another version"):
        ids.check_version(other)
    with pytest.raises(DataError, match=f"expected: *version {one.version}[\\s\\S]*got: *version {two.version}"):
        ids.extend(two.encode(x[:3]), two.version)
    # The same rows under another quantizer, or other sizes, are another version too.
    versions = {
        SemanticIdMap.from_sids(ids.sids, sizes, levels=2, version=source).version
        for sizes in (ids.sizes, (9, *ids.sizes[1:]))
        for source in ("a", "b")
    }
    assert len(versions) == 4


def test_a_full_rank_level_says_what_to_do() -> None:
    codes = np.asarray([[0, 0], [0, 0], [1, 1]])
    ids = SemanticIdMap.from_codes(codes, (2, 2), version="q")
    assert ids.extend(np.asarray([[1, 1]]), "q").sids[-1].tolist() == [1, 1, 1]
    with pytest.raises(DataError, match=r"rank level is full[\s\S]*new row 1, codes \[0, 0\][\s\S]*rank_codes"):
        ids.extend(np.asarray([[1, 0], [0, 0]]), "q")
    with pytest.raises(ConfigError, match="at least 2"):
        SemanticIdMap.from_codes(codes, (2, 2), rank_codes=1)


def test_ranks_go_on_after_gaps_in_given_ids() -> None:
    ids = SemanticIdMap.from_sids(np.asarray([[0, 0], [0, 3], [1, 1]]), (2, 6), levels=1)
    assert ids.extend(np.asarray([[0], [0], [1]]), "").sids[3:].tolist() == [[0, 4], [0, 5], [1, 2]]


def test_raise_names_the_rows() -> None:
    codes = np.asarray([[0, 1], [1, 0], [0, 1], [1, 1], [1, 0]])
    with pytest.raises(DataError, match=r"4 items share[\s\S]*rows \[0, 2\] have codes \[0, 1\][\s\S]*rows \[1, 4\]"):
        SemanticIdMap.from_codes(codes, (2, 2), dedup="raise")
    ids = SemanticIdMap.from_codes(codes[[0, 1, 3]], (2, 2), dedup="raise")
    assert ids.sizes == (2, 2) and not ids.ranked
    assert len(ids.extend(np.asarray([[0, 0]]), "")) == 4
    with pytest.raises(DataError, match=r"rows \[0, 3\]"):
        ids.extend(codes[[2]], "")
    with pytest.raises(ConfigError, match="append, sinkhorn, raise"):
        SemanticIdMap.from_codes(codes, (2, 2), dedup="drop")  # type: ignore[arg-type]


def test_sinkhorn_extends_with_free_codes() -> None:
    x, _ = additive_vectors(120, 8, 2, 16, 0.2, 0)
    quantizer = RQKMeans((16, 16)).fit(x, seed=0)
    codes = quantizer.encode(x)
    made = {"quantizer": quantizer, "version": quantizer.version}
    ids = SemanticIdMap.from_codes(codes[:60], (16, 16), dedup="sinkhorn", x=x[:60], **made)
    with pytest.raises(DataError, match="share their codes"):
        ids.extend(codes[60:], quantizer.version)
    longer = ids.extend(codes[60:], quantizer.version, quantizer=quantizer, x=x[60:])
    assert (longer.sids[:60] == ids.sids).all() and (longer.sids[:, 0] == codes[:, 0]).all()
    assert len(np.unique(longer.sids, axis=0)) == 120


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, (1,)), (64, (4, 4, 4)), (60, (4, 4, 4)), (500, (256,) * 3), (300, (256,) * 9)]
)
def test_random_ids_are_distinct_and_seeded(n, sizes) -> None:
    ids = SemanticIdMap.random(n, sizes, 3)
    assert len(ids) == n and ids.sizes == sizes and len(np.unique(ids.sids, axis=0)) == n
    assert (ids.sid_to_item(ids.sids) == np.arange(n)).all()
    assert ids == SemanticIdMap.random(n, sizes, 3)
    if n > 1:
        assert (ids.sids != SemanticIdMap.random(n, sizes, 4).sids).any()


def test_random_ids_are_uniform_and_bounded() -> None:
    counts = np.bincount(
        np.concatenate([SemanticIdMap.random(20, (10, 10), seed).sids @ [10, 1] for seed in range(300)]), minlength=100
    )
    assert ((counts - 60.0) ** 2 / (60 * 0.8)).sum() < 150  # chi-square, 99 degrees of freedom
    with pytest.raises(ConfigError, match=r"1\.\.8"):
        SemanticIdMap.random(9, (2, 2, 2), 0)


def test_atomic_ids_and_one_item() -> None:
    ids = SemanticIdMap.atomic(7)
    assert ids.sizes == (7,) and ids.sid_to_item(ids.sids).tolist() == list(range(7))
    one = SemanticIdMap.from_codes(np.asarray([[3, 0]]), (4, 1))
    assert one.sizes == (4, 1, 1) and one.sid_to_item(np.asarray([3, 0, 0])) == 0
    with pytest.raises(ConfigError, match="no items"):
        SemanticIdMap.atomic(0)


@pytest.mark.parametrize(
    ("codes", "fault"),
    [
        (np.asarray([[0, 0], [0, 4]]), r"row 1, level 1[\s\S]*0\.\.3[\s\S]*4"),
        (np.asarray([[-1, 0]]), "row 0, level 0"),
        (np.zeros((0, 2), np.int32), "another shape"),
        (np.zeros((3, 3), np.int32), "another shape"),
        (np.zeros((3, 2)), "another shape"),
    ],
)
def test_bad_codes(codes, fault) -> None:
    with pytest.raises(DataError, match=fault):
        SemanticIdMap.from_codes(codes, (4, 4))
    with pytest.raises(DataError, match=fault):
        SemanticIdMap.from_sids(codes, (4, 4))


def test_bad_questions() -> None:
    ids = SemanticIdMap.from_codes(random_codes(5, (4, 4), 0), (4, 4))
    for items in ([5], [-1], [0.5]):
        with pytest.raises(DataError, match="no such item row"):
            ids.item_to_sid(np.asarray(items))
    for sids in (np.zeros((2, 2), int), np.zeros((2, 3)), np.asarray(3)):
        with pytest.raises(DataError, match="IDs have another shape"):
            ids.sid_to_item(sids)
    with pytest.raises(ConfigError, match="codebooks without codes"):
        SemanticIdMap.from_codes(np.zeros((2, 1), int), (0,))
    with pytest.raises(ConfigError, match="at most one level"):
        SemanticIdMap.from_sids(np.zeros((1, 3), int), (1, 1, 1), levels=1)
    with pytest.raises(ValueError, match="read-only"):
        ids.sids[0, 0] = 1


def test_the_callers_codes_stay_writable() -> None:
    codes = np.asarray([[0], [1]], dtype=np.int32)
    SemanticIdMap.from_codes(codes, (2,), dedup="raise")
    codes[0, 0] = 1


def test_save_and_load_give_the_same_bytes(tmp_path: Path) -> None:
    ids = SemanticIdMap.from_codes(random_codes(40, (4, 4), 0), (4, 4), version="q", rank_codes=50)
    ids = ids.extend(random_codes(7, (4, 4), 1), "q")
    ids.save(tmp_path / "a")
    back = SemanticIdMap.load(tmp_path / "a")
    assert back == ids and (back.sids == ids.sids).all()
    for name in ("sizes", "levels", "dedup", "source", "parts", "versions"):
        assert getattr(back, name) == getattr(ids, name)
    back.save(tmp_path / "b")
    for name in ("semantic_ids.json", "semantic_ids.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def tamper(folder: Path, change: str) -> None:
    path, data = folder / "semantic_ids.json", folder / "semantic_ids.safetensors"
    header = json.loads(path.read_text())
    if change == "bytes":
        data.write_bytes(data.read_bytes()[:-4] + b"\x01\x00\x00\x00")
    elif change == "truncated":
        data.write_bytes(data.read_bytes()[:-8])
    elif change == "absent":
        data.unlink()
    elif change == "not json":
        path.write_text("{")
    elif change == "list":
        path.write_text("[]")
    elif change == "format":
        path.write_text(json.dumps({**header, "format": "mirc-semantic-ids-0"}))
    else:
        key, value = change.split("=")
        path.write_text(json.dumps({**header, key: json.loads(value)}))


@pytest.mark.parametrize(
    "change",
    [
        *("bytes", "truncated", "absent", "not json", "list", "format", 'version="0123456789abcdef"'),
        *("sizes=[9,4,50]", "parts=[47]", 'dedup="raise"', 'source="p"', "levels=3", 'sha256="0"'),
    ],
)
def test_tampered_files_are_refused(change, tmp_path: Path) -> None:
    ids = SemanticIdMap.from_codes(random_codes(40, (4, 4), 0), (4, 4), version="q", rank_codes=50)
    ids.extend(random_codes(7, (4, 4), 1), "q").save(tmp_path / "ids")
    SemanticIdMap.load(tmp_path / "ids")
    tamper(tmp_path / "ids", change)
    with pytest.raises(DataError, match="semantic IDs"):
        SemanticIdMap.load(tmp_path / "ids")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="semantic IDs are damaged"):
        SemanticIdMap.load(tmp_path)


@pytest.mark.real
def test_published_ids_of_amazon_beauty_need_a_rank_level(real_data: Path) -> None:
    path = real_data / "amazon-beauty" / "Beauty.index.json"
    if not path.is_file():
        pytest.skip(f"no real data: {path} is not there")
    published = json.loads(path.read_text())
    codes = np.asarray(
        [[int(token[1:-1].split("_")[1]) for token in published[str(item)]] for item in range(len(published))]
    )
    report = collision_report(codes, (256,) * 4)
    assert (report.items, report.distinct) == (12_101, 12_088)
    assert report.unique_fraction < report.expected_fraction  # hashing into 256^4 would lose 0.02 items
    with pytest.raises(DataError, match="12088 distinct of 12101"):
        SemanticIdMap.from_codes(codes, (256,) * 4, dedup="raise")
    ids = SemanticIdMap.from_codes(codes, (256,) * 4)
    assert ids.sizes[-1] == report.largest and len(np.unique(ids.sids, axis=0)) == 12_101
