"""The readers on good data: what comes out is what was written, whatever the file's types, order and row groups."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import DataError
from tests.track2.ctr_files import FOLDER, Planted, edit, list_column, put, write_layout
from track2_mmctr.config import DataConfig, FeatureConfig
from track2_mmctr.datasets import packing, schema
from track2_mmctr.datasets.items import read_embedding
from track2_mmctr.datasets.microlens import find_folder, load_data
from track2_mmctr.datasets.packing import NpyWriter
from track2_mmctr.datasets.tables import SPLITS, CtrData, SplitName


def load(folder: Path, **options: object) -> CtrData:
    features = FeatureConfig(embedding=str(options.pop("embedding", "auto")))
    config = DataConfig.model_validate({"leaks": options.pop("leaks", "warn")})
    return load_data(folder, config, features, folder.parent / "cache", **options)  # type: ignore[arg-type]


def check(data: CtrData, planted: Planted, names: tuple[SplitName, ...] = SPLITS) -> None:
    """Every value of every table, against what was written."""
    assert set(data.splits) == set(names)
    for name in names:
        split = data.splits[name]
        histories = [split.history[split.offsets[row] : split.offsets[row + 1]].tolist() for row in range(len(split))]
        assert histories == planted.histories(name)
        assert (split.history.dtype, split.offsets.dtype, split.users.dtype) == (np.int32, np.int64, np.int64)
        assert split.offsets[-1] == len(split.history)
        np.testing.assert_array_equal(split.users, planted.users[name])
        np.testing.assert_array_equal(split.target, planted.targets[name])
        target = planted.targets[name]
        np.testing.assert_array_equal(split.levels, np.stack([planted.likes[target], planted.views[target]], axis=1))
        np.testing.assert_array_equal(split.label, planted.labels[name])
    items = data.items
    np.testing.assert_array_equal(items.tags, planted.tags)
    np.testing.assert_array_equal(items.likes, planted.likes)
    np.testing.assert_array_equal(items.views, planted.views)
    np.testing.assert_array_equal(items.embedding, planted.embedding.astype(np.float32))
    assert items.tag_vocabulary == planted.tags.max() + 1
    assert items.titles == ["", *(f"title of item {item}" for item in range(1, len(items)))]


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    return write_layout(tmp_path / "data")


def test_everything_that_was_written_is_read(planted: Planted) -> None:
    data = load(planted.folder)
    check(data, planted)
    np.testing.assert_array_equal(data.splits["test"].ids, planted.ids)
    assert data.splits["train"].ids is None
    assert data.folder == planted.folder
    assert data.notes == ["test labels are those of answers.parquet: the real test set has none"]
    assert any(not history for history in planted.histories("train")), "rows without history are part of the test"


def test_answers_are_joined_by_id_not_by_position(planted: Planted) -> None:
    answers = pq.read_table(planted.folder / "answers.parquet")
    by_id = dict(zip(answers["ID"].to_pylist(), answers["label"].to_pylist(), strict=True))
    test = load(planted.folder).splits["test"]
    assert test.label is not None and test.ids is not None
    assert test.label.tolist() == [by_id[i] for i in test.ids.tolist()]
    assert test.label.tolist() != answers["label"].to_pylist(), "a join by position would differ"


def test_true_log_odds_are_read_where_they_are(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", oracle=True)
    data = load(planted.folder)
    for name in SPLITS:
        np.testing.assert_array_equal(data.splits[name].oracle, planted.oracle[name])


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 12)])
@pytest.mark.parametrize("group", [1, 7, 10_000])
def test_list_types_and_row_groups_do_not_matter(
    planted: Planted, kind: pa.DataType, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BATCH_ROWS", 13)  # batches that end inside row groups
    for name in SPLITS:
        path = planted.folder / FOLDER / f"{name}.parquet"
        edit(path, lambda t: put(t, "item_seq", t["item_seq"].cast(kind).combine_chunks()), row_group_size=group)
    info = planted.folder / FOLDER / "item_info.parquet"
    vectors = pa.list_(pa.float64(), 128)
    edit(info, lambda t: put(t, "item_emb_d128", t["item_emb_d128"].cast(vectors).combine_chunks()))
    check(load(planted.folder), planted)


def test_a_second_load_reads_no_row_and_gives_the_same(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(planted.folder)
    monkeypatch.setattr(packing, "_write", None)  # packing again would call it
    again = load(planted.folder)
    check(again, planted)
    assert [s.digest for s in first.splits.values()] == [s.digest for s in again.splits.values()]
    assert first.items.digest == again.items.digest
    assert first.notes == again.notes


def test_arrays_are_memory_mapped(planted: Planted) -> None:
    history = load(planted.folder).train.history
    assert type(history) is np.ndarray
    assert isinstance(history.base, np.memmap)


def test_a_changed_file_is_packed_again(planted: Planted) -> None:
    before = load(planted.folder)
    edit(planted.folder / FOLDER / "train.parquet", lambda t: put(t, "label", 1 - planted.labels["train"]))
    after = load(planted.folder)
    assert after.train.digest != before.train.digest
    assert after.splits["valid"].digest == before.splits["valid"].digest
    np.testing.assert_array_equal(after.train.label, 1 - planted.labels["train"])


def test_an_interrupted_packing_leaves_nothing_to_be_taken_for_data(
    planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = packing._append
    calls: list[int] = []

    def stop(*arguments: object) -> int:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(schema, "BATCH_ROWS", 10)
    monkeypatch.setattr(packing, "_append", stop)
    with pytest.raises(KeyboardInterrupt):
        load(planted.folder)
    assert not [path for path in (planted.folder.parent / "cache").rglob("*") if path.suffix in (".npy", ".json")]
    monkeypatch.setattr(packing, "_append", whole)
    check(load(planted.folder), planted)


def test_a_kill_during_packing_leaves_nothing_to_be_taken_for_data(planted: Planted, root: Path) -> None:
    """A real kill, with whole arrays on disk and no manifest yet."""
    code = (
        "import os, signal; from pathlib import Path\n"
        "from track2_mmctr.datasets import packing\n"
        "packing.write_text = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"packing.pack(Path({str(planted.folder / FOLDER / 'train.parquet')!r}), 'train', 51,"
        f" Path({str(planted.folder.parent / 'cache')!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == -9
    cache = planted.folder.parent / "cache" / "track2"
    assert list(cache.rglob("history.npy")), "the kill came after the arrays"
    check(load(planted.folder), planted)
    assert not list(cache.rglob(".partial-*")), "what the kill left is cleared away"


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest", "format"])
def test_a_damaged_cache_entry_is_made_again(planted: Planted, damage: str) -> None:
    load(planted.folder)
    entries = [path.parent for path in (planted.folder.parent / "cache" / "track2").glob("*/arrays/manifest.json")]
    assert len(entries) == 3
    for entry in entries:
        manifest = entry / "manifest.json"
        if damage == "cut":
            with (entry / "history.npy").open("r+b") as file:
                file.truncate(140)
        elif damage == "gone":
            (entry / "target.npy").unlink()
        elif damage == "manifest":
            manifest.write_text(manifest.read_text()[:50])
        else:
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": -1}))
    check(load(planted.folder), planted)


def test_disk_full_is_an_error_and_leaves_no_entry(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(NpyWriter, "append", full)
    with pytest.raises(OSError, match="No space left"):
        load(planted.folder)
    assert not list((planted.folder.parent / "cache").rglob("*.npy"))


def test_processes_that_start_together_pack_once(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, calls = packing._write, []

    def slow(*arguments: object) -> None:
        calls.append(1)
        time.sleep(0.1)
        whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "_write", slow)
    path, cache = planted.folder / FOLDER / "train.parquet", planted.folder.parent / "cache"
    with ThreadPoolExecutor(4) as pool:
        packed = list(pool.map(lambda _: packing.pack(path, "train", 51, cache).split, range(4)))
    assert len(calls) == 1
    for split in packed:
        np.testing.assert_array_equal(split.target, planted.targets["train"])


def test_a_growing_npy_file_equals_numpy_s(tmp_path: Path) -> None:
    values = np.arange(3 * 20_000, dtype=np.int32).reshape(-1, 3)
    writer = NpyWriter(tmp_path / "a.npy", "<i4", (3,))
    for part in np.array_split(values, 7):
        writer.append(part)
    assert len(np.load(tmp_path / "a.npy")) == 0, "before it is closed, an array looks empty, not full of zeros"
    writer.close()
    np.save(tmp_path / "b.npy", values)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), np.load(tmp_path / "b.npy"))


# --- which files there are ---


def test_the_folder_is_found_in_the_root_or_is_the_root(tmp_path: Path) -> None:
    write_layout(tmp_path / "microlens")
    assert find_folder(tmp_path) == tmp_path / "microlens"
    assert find_folder(tmp_path / "microlens") == tmp_path / "microlens"
    with pytest.raises(DataError, match=f"give the folder above {FOLDER}"):
        find_folder(tmp_path / "microlens" / FOLDER)
    with pytest.raises(DataError, match="no Track 2 data"):
        find_folder(tmp_path / "nowhere")


def test_without_a_test_set_there_is_a_note(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", test=False)
    data = load(planted.folder)
    check(data, planted, ("train", "valid"))
    assert data.notes == ["no test.parquet: nothing to predict for a submission"]
    with pytest.raises(DataError, match=r"test\.parquet is missing"):
        load(planted.folder, splits=("test",))


def test_without_answers_the_test_set_has_no_labels(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", answers=False)
    data = load(planted.folder)
    assert data.splits["test"].label is None
    assert data.notes == []


def test_splits_can_be_restricted_and_items_are_the_same(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", features=False)
    whole = load(planted.folder)
    one = load(planted.folder, splits=("test",))
    assert set(one.splits) == {"test"}
    assert one.items.digest == whole.items.digest, "levels are those of train's targets even if train is not asked for"


def test_optional_files_may_be_in_the_inner_folder_but_not_in_both(planted: Planted) -> None:
    outer = planted.folder / "item_feature.parquet"
    inner = planted.folder / FOLDER / "item_feature.parquet"
    outer.rename(inner)
    check(load(planted.folder), planted)
    outer.write_bytes(inner.read_bytes())
    with pytest.raises(DataError, match=r"item_feature\.parquet is there twice"):
        load(planted.folder)


def test_columns_that_nothing_reads_are_named(planted: Planted) -> None:
    edit(planted.folder / FOLDER / "valid.parquet", lambda t: put(t, "watched", np.arange(t.num_rows)))
    assert "valid.parquet: columns that are not read: watched" in load(planted.folder).notes


# --- items ---


def reorder(table: pa.Table) -> pa.Table:
    return table.take(np.random.default_rng(3).permutation(table.num_rows))


def test_item_info_out_of_order_is_read_by_id(planted: Planted) -> None:
    before = load(planted.folder)
    edit(planted.folder / FOLDER / "item_info.parquet", reorder)
    edit(planted.folder / "item_feature.parquet", reorder)
    after = load(planted.folder)
    check(after, planted)
    assert "item_info.parquet is not in the order of item_id: read by id" in after.notes
    assert after.items.digest == before.items.digest, "the digest is of the contents"


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_missing_item_0_is_added(planted: Planted, shuffled: bool) -> None:
    edit(planted.folder / FOLDER / "item_info.parquet", lambda t: reorder(t.slice(1)) if shuffled else t.slice(1))
    data = load(planted.folder)
    check(data, planted)
    assert "item_info.parquet has no row for item 0, the padding: zeros added" in data.notes
    assert ("item_info.parquet is not in the order of item_id: read by id" in data.notes) == shuffled


def test_items_without_levels_or_titles_are_counted(planted: Planted) -> None:
    path = planted.folder / "item_feature.parquet"
    titles = ["", None, *(f"title of item {item}" for item in range(3, 51))]
    edit(path, lambda t: put(t, "item_title", titles).slice(0, 48))
    data = load(planted.folder)
    assert (data.items.likes[49:] == 0).all() and (data.items.views[49:] == 0).all()
    np.testing.assert_array_equal(data.items.likes[:49], planted.likes[:49])
    assert "item_feature.parquet has no row for 2 items (49, 50): their levels are 0" in data.notes
    assert "4 items have no title (1, 2, 49, 50)" in data.notes


def test_without_item_feature_levels_are_those_of_train_s_targets(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", features=False, items=200, rows=150)
    path = planted.folder / FOLDER / "train.parquet"
    likes = np.random.default_rng(5).integers(1, 11, 150)
    edit(path, lambda t: put(t, "likes_level", likes))
    last = dict(zip(planted.targets["train"].tolist(), likes.tolist(), strict=True))  # the last row wins
    assert len(last) < 150 and len(last) < 200
    data = load(planted.folder)
    assert data.items.likes.tolist() == [last.get(item, 0) for item in range(201)]
    never = 200 - len(last)
    assert any(f"{never} items that are never a target have level 0" in note for note in data.notes)
    assert data.items.titles is None


def test_levels_without_item_feature_are_not_those_of_valid_or_test(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", features=False)
    before = load(planted.folder).items.digest
    for name in ("valid", "test"):
        path = planted.folder / FOLDER / f"{name}.parquet"
        edit(path, lambda t: put(t, "likes_level", np.full(t.num_rows, 10)))
    assert load(planted.folder).items.digest == before


def test_no_embedding_when_none_is_asked_for_or_there_is_none(planted: Planted) -> None:
    assert load(planted.folder, embedding="none").items.embedding is None
    edit(planted.folder / FOLDER / "item_info.parquet", lambda t: t.drop_columns("item_emb_d128"))
    data = load(planted.folder)
    assert data.items.embedding is None
    assert "item_info.parquet has no column item_emb_d128: items have no embedding" in data.notes


@pytest.mark.parametrize(("column", "dim"), [("item_emb_d128", 128), ("txt_emb", 6)])
def test_an_embedding_file_is_joined_by_id(planted: Planted, tmp_path: Path, column: str, dim: int) -> None:
    vectors = np.random.default_rng(9).normal(size=(51, dim)).astype(np.float32)
    vectors[0] = 0
    path, order = tmp_path / "made.parquet", np.random.default_rng(2).permutation(np.arange(1, 51))
    pq.write_table(pa.table({"item_id": order, column: list_column(vectors[order])}), path)
    official = load(planted.folder).items
    own = load(planted.folder, embedding=str(path)).items
    np.testing.assert_array_equal(own.embedding, vectors)
    np.testing.assert_array_equal(read_embedding(path, 51, column), vectors)
    assert own.digest != official.digest


def test_item_seq_and_item_emb_are_accepted_when_they_are_right(planted: Planted) -> None:
    lists = pa.array([[1, 2], [3], [], [50, 49, 48]], pa.list_(pa.int64()))
    pq.write_table(pa.table({"user_id": [5, 5, 6, 7], "item_seq": lists}), planted.folder / "item_seq.parquet")
    emb = pa.table({"item_id": np.arange(1, 51), "txt_emb_BERT": list_column(np.ones((50, 4)))})
    pq.write_table(emb, planted.folder / "item_emb.parquet")
    for _ in range(2):
        data = load(planted.folder)
        check(data, planted)
        assert not [note for note in data.notes if "fault" in note]
