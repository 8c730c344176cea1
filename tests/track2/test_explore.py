"""`explore` on Track 2: planted faults are counted, clean data has no problems, what is absent is a gap."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.errors import DataError
from common.explore.findings import Finding
from common.pages.blocks import Chart, Gallery, Gap, Page, Table
from common.pages.render import render
from tests.pages.browser import BrowserPage, assert_fits, browser_page, chromium
from tests.track2.ctr_files import FOLDER, Planted, edit, list_column, put, write_layout
from track2_mmctr.explore.item_checks import check_items
from track2_mmctr.explore.page import Explored, explore
from track2_mmctr.explore.read import read_ctr
from track2_mmctr.explore.row_checks import check_rows
from track2_mmctr.explore.rows import Rows, begins_in, history_digests

__all__ = ["browser_page", "chromium"]  # fixtures


def covers(folder: Path, items: int = 50) -> Path:
    images = folder / "item_images"
    images.mkdir()
    for item in range(1, items + 1):
        pixels = np.random.default_rng(item).integers(0, 255, (24, 18, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{item}.{'png' if item % 5 == 0 else 'jpg'}")
    return images


def sequences(
    planted: Planted, splits: tuple[str, ...] = ("train",), extra: dict[int, list[int]] | None = None
) -> None:
    """Write item_seq.parquet: the histories of the splits' users, and more rows as given."""
    rows = {
        int(user): history
        for name in splits
        for user, history in zip(planted.users[name], planted.histories(name), strict=True)
    }
    users, lists = [*rows, *(extra or {})], [*rows.values(), *(extra or {}).values()]
    pq.write_table(pa.table({"user_id": users, "item_seq": lists}), planted.folder / "item_seq.parquet")


def checks(folder: Path, cache: Path) -> list[Finding]:
    """What `explore` finds, without drawing the page."""
    data = read_ctr(folder, cache)
    rows = Rows(data)
    return [*data.findings, *check_rows(rows), *check_items(rows)]


def found(explored: Explored | list[Finding], name: str) -> Finding:
    findings = explored.findings if isinstance(explored, Explored) else explored
    (one,) = [finding for finding in findings if finding.name == name]
    return one


def told(explored: Explored | list[Finding], name: str) -> tuple[str, str]:
    return found(explored, name).weight, found(explored, name).found


def gaps(page: Page) -> list[str]:
    return [block.what for section in page.sections for block in section.blocks if isinstance(block, Gap)]


def test_clean_data_has_no_problem(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data")
    covers(planted.folder)
    sequences(planted)
    explored = explore(planted.folder, tmp_path / "cache")
    assert [finding for finding in explored.findings if finding.weight == "problem"] == []
    notes = {finding.name for finding in explored.findings if finding.weight == "note"}
    assert notes <= {
        "history lengths",
        "users shared by files",
        "items without tags",
        "rows given twice",
        "cold targets",
    }
    assert found(explored, "embedding and histories").weight == "ok"
    assert found(explored, "item_seq and train").found.endswith(
        "200 of 200 (100.0%) histories of train are (the beginning of) one"
    )
    assert gaps(explored.page) == []
    assert render(explored.page) == render(explore(planted.folder, tmp_path / "other").page)


def test_leaked_targets_are_counted_and_their_auc_is_told(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", empty=0)
    label = planted.labels["valid"].copy()
    clicked = np.flatnonzero(label == 1)[:7]
    target = planted.targets["valid"].copy()
    target[clicked] = planted.sequences["valid"][clicked, -1]
    change = lambda table: put(table, "item_id", target)  # noqa: E731
    edit(planted.folder / FOLDER / "valid.parquet", change)
    explored = explore(planted.folder, tmp_path / "cache")
    weight, text = told(explored, "targets in the row's own history")
    share = 7 / label.sum()
    assert weight == ("problem" if share / 2 >= 0.02 else "note")
    assert text == (
        f"valid: 7 of 60 (11.7%), {share:.1%} of clicked and 0.0% of unclicked, "
        f"alone it has an AUC of {0.5 + share / 2:.3f}"
    )
    (gallery,) = [b for s in explored.page.sections for b in s.blocks if isinstance(b, Gallery) and b.noun == "rows"]
    assert {card.facets["seen"][0] for card in gallery.cards} <= {"yes", "no"}
    files = next(b for s in explored.page.sections for b in s.blocks if isinstance(b, Table) and b.caption == "Files")
    assert [round(float(row[7] or 0), 1) for row in files.rows] == [0.0, 11.7, 0.0]


def test_a_column_made_from_the_label_is_a_problem(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data")
    for name in ("train", "valid"):
        level = 1 + 9 * planted.labels[name]
        edit(planted.folder / FOLDER / f"{name}.parquet", lambda table, level=level: put(table, "likes_level", level))
    explored = checks(planted.folder, tmp_path / "cache")
    weight, text = told(explored, "single columns")
    assert weight == "problem" and text.startswith("likes_level on ") and text.endswith("AUC 1.000")
    weight, text = told(explored, "levels of targets")
    assert weight == "note" and text.startswith("rows whose levels are not those of item_feature: train: ")


def test_targets_in_item_seq_and_in_earlier_files(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data")
    rows = [row for row in range(60) if planted.labels["valid"][row] == 1][:5]
    users = planted.users["valid"].copy()
    users[rows] = [7000 + row for row in rows]  # users of one row, so that one pair is seen in it alone
    edit(planted.folder / FOLDER / "valid.parquet", lambda table: put(table, "user_id", users))
    sequences(planted, extra={7000 + row: [int(planted.targets["valid"][row])] for row in rows})
    explored = checks(planted.folder, tmp_path / "cache")
    weight, text = told(explored, "targets of valid and test in item_seq")
    assert weight == "problem" and text.startswith("valid: 5 of 60 (8.3%)") and "0.0% of unclicked" in text
    assert found(explored, "targets in the user's earlier files").weight == "ok"
    users = planted.users["train"].copy()
    users[0] = 7000 + rows[0]
    seq = planted.sequences["train"].copy()
    seq[0, -1] = planted.targets["valid"][rows[0]]
    edit(
        planted.folder / FOLDER / "train.parquet",
        lambda table: put(put(table, "user_id", users), "item_seq", list_column(seq)),
    )
    again = checks(planted.folder, tmp_path / "cache")
    weight, text = told(again, "targets in the user's earlier files")
    assert weight in ("note", "problem") and text.startswith("valid: 1 of 60 (1.7%)")


def test_doubled_and_shared_rows_are_counted(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", rows=400)
    inner = planted.folder / FOLDER
    train = pq.read_table(inner / "train.parquet")
    before = checks(planted.folder, tmp_path / "cache")
    known = (
        0
        if found(before, "rows given twice").weight == "ok"
        else int(found(before, "rows given twice").found.split()[1])
    )
    again = train.slice(0, 3)
    flipped = put(train.slice(3, 1), "label", 1 - train["label"].to_numpy()[3:4])
    pq.write_table(pa.concat_tables([train, again, flipped]), inner / "train.parquet")
    valid = pq.read_table(inner / "valid.parquet")
    pq.write_table(pa.concat_tables([valid, train.slice(10, 6).select(valid.column_names)]), inner / "valid.parquet")
    explored = checks(planted.folder, tmp_path / "cache")
    weight, text = told(explored, "rows given twice")
    assert weight == "note" and text.startswith(f"train: {4 + known} of 404 ") and "with both labels" in text
    assert told(explored, "rows shared by files") == ("problem", "6 of 66 (9.1%) of valid are in train")


def test_cold_targets_and_idle_items_are_counted(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", rows=2000)
    target = planted.targets["valid"].copy()
    target[[3, 8, 21]] = [48, 49, 48]
    train, seq = planted.targets["train"], planted.sequences["train"]
    keep = ~np.isin(train, [48, 49]) & ~(seq == 49).any(1)
    edit(planted.folder / FOLDER / "train.parquet", lambda table: table.filter(pa.array(keep)))
    target[np.isin(target, [48, 49]) & ~np.isin(np.arange(60), [3, 8, 21])] = 1
    edit(planted.folder / FOLDER / "valid.parquet", lambda table: put(table, "item_id", target))
    test = np.where(np.isin(planted.targets["test"], [48, 49]), 1, planted.targets["test"])
    edit(planted.folder / FOLDER / "test.parquet", lambda table: put(table, "item_id", test))
    weight, text = told(checks(planted.folder, tmp_path / "cache"), "cold targets")
    assert weight == "note"
    in_history = int((seq[keep] == 48).sum())
    unknown = 1 if in_history else 3
    assert text == (
        "valid: 3 of 60 (5.0%) rows, 2 items, have a target that is none of train's, "
        f"{unknown} rows one that is not in its histories either"
    )


def test_missing_and_doubled_titles_covers_and_vectors_are_counted(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data")
    images = covers(planted.folder)
    (images / "7.jpg").unlink()
    (images / "8.jpg").write_bytes(b"")
    (images / "9.jpg").write_bytes((images / "11.jpg").read_bytes())
    (images / "900.jpg").write_bytes(b"of no item")
    (images / "cover.txt").write_text("of no item")
    (images / "12.jpg").write_bytes(b"no image, and not of a size that another file has")
    titles = [f"title of item {item}" for item in range(1, 51)]
    titles[2], titles[3], titles[9], titles[10] = "Title of Item 20 ", "title of  item 20", "", "  "
    edit(planted.folder / "item_feature.parquet", lambda table: put(table, "item_title", titles))
    vectors = planted.embedding.copy()
    vectors[1:, 5] = 0.25
    vectors[4] = vectors[6]
    vectors[13] = 0
    vectors[14] *= 1000
    edit(planted.folder / FOLDER / "item_info.parquet", lambda table: put(table, "item_emb_d128", list_column(vectors)))
    vectors[13, 5] = 0
    explored = explore(planted.folder, tmp_path / "cache", samples=200)
    assert told(explored, "item covers") == (
        "problem",
        "1 of 50 (2.0%) have none (7); 1 file empty or not to be opened (8)",
    )
    assert told(explored, "items with the same cover") == ("note", "2 items share 1 cover (first: items 9, 11)")
    assert told(explored, "covers of no item") == ("note", "2 files (900.jpg, cover.txt)")
    assert told(explored, "item titles") == ("problem", "2 of 50 (4.0%) have none (10, 11)")
    assert told(explored, "items with the same title")[1].startswith("3 items share 1 title (first: 'title of item 20'")
    assert told(explored, "items without an embedding") == ("problem", "1 of 50 (2.0%) have zeros alone (13)")
    assert told(explored, "items with the same embedding") == ("note", "2 items share 1 vector (first: items 4, 6)")
    assert found(explored, "embedding norms").found.endswith("1 item beyond 10 times that")
    assert any("2 covers cannot be decoded, first: 8.jpg" in gap for gap in gaps(explored.page))


def test_a_constant_dimension_is_a_problem(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data")
    vectors = planted.embedding.copy()
    vectors[1:, [5, 90]] = 0.25
    edit(planted.folder / FOLDER / "item_info.parquet", lambda table: put(table, "item_emb_d128", list_column(vectors)))
    assert told(checks(planted.folder, tmp_path / "cache"), "constant dimensions") == (
        "problem",
        "2 of 128 (1.6%): 5, 90",
    )


def test_vectors_of_other_items_are_told_apart_from_the_true_ones(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", rows=600, empty=0)
    true = checks(planted.folder, tmp_path / "cache")
    assert found(true, "embedding and histories").weight == "ok"
    shuffled = planted.embedding.copy()
    shuffled[1:] = np.random.default_rng(3).normal(size=shuffled[1:].shape)
    edit(
        planted.folder / FOLDER / "item_info.parquet", lambda table: put(table, "item_emb_d128", list_column(shuffled))
    )
    other = checks(planted.folder, tmp_path / "cache")
    values = [
        float(word.rstrip(",")) for word in found(true, "embedding and histories").found.split() if word[:2] == "0."
    ]
    assert max(values) > 0.6
    placebo = [float(w.rstrip(",")) for w in found(other, "embedding and histories").found.split() if w[:2] == "0."]
    assert max(placebo) < max(values) - 0.1


def test_digests_tell_rows_apart_and_beginnings_are_found(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data")
    sequences(planted, extra={1001: [9, 9, 1], 5555: []})
    data = read_ctr(planted.folder, tmp_path / "cache")
    train = data.splits["train"]
    keys = [
        (user, tuple(history)) for user, history in zip(planted.users["train"], planted.histories("train"), strict=True)
    ]
    digests = history_digests(train).tolist()
    assert len(set(zip(keys, digests, strict=True))) == len(set(keys)) == len(set(digests))
    stored = pq.read_table(planted.folder / "item_seq.parquet").to_pydict()
    begun = {
        (user, tuple(row[:end])) for user, row in zip(*stored.values(), strict=True) for end in range(len(row) + 1)
    }  # fmt: skip
    assert data.sequences is not None
    expected = [not history or (user, history) in begun for user, history in keys]
    assert begins_in(train, data.sequences).tolist() == expected
    others = [[*row, 1] for row in stored["item_seq"]]  # a longer one still begins with it; a later start does not
    pq.write_table(pa.table({"user_id": stored["user_id"], "item_seq": others}), planted.folder / "item_seq.parquet")
    longer = read_ctr(planted.folder, tmp_path / "cache")
    assert longer.sequences is not None and begins_in(train, longer.sequences).tolist() == expected
    late = [[50, *row] for row in stored["item_seq"]]
    pq.write_table(pa.table({"user_id": stored["user_id"], "item_seq": late}), planted.folder / "item_seq.parquet")
    moved = read_ctr(planted.folder, tmp_path / "cache")
    assert moved.sequences is not None
    assert begins_in(train, moved.sequences).tolist() == [not history for _, history in keys]


def test_likeness_of_history_and_target_is_that_of_numpy(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data")
    rows = Rows(read_ctr(planted.folder, tmp_path / "cache"))
    unit = planted.embedding / np.maximum(np.linalg.norm(planted.embedding, axis=1, keepdims=True), 1e-12)
    expected = []
    for target, history in zip(planted.targets["valid"], planted.histories("valid"), strict=True):
        if history:
            mean = unit[history].sum(0)
            expected.append(mean @ unit[target] / np.linalg.norm(mean))
    assert np.allclose(rows.affinity["valid"], expected, atol=1e-5)
    assert len(rows.compared(rows.data.splits["valid"])) == len(expected)


def test_what_is_absent_or_damaged_is_a_gap(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", features=False, test=False, answers=False)
    explored = explore(planted.folder, tmp_path / "cache")
    assert told(explored, "files of rows") == ("note", "absent: test.parquet")
    assert {"test.parquet is absent or cannot be read.", "There are no covers: no folder item_images."} <= set(
        gaps(explored.page)
    )
    assert found(explored, "item titles").weight == found(explored, "item covers").weight == "note"
    edit(planted.folder / FOLDER / "item_info.parquet", lambda table: table.drop_columns(["item_emb_d128"]))
    (planted.folder / FOLDER / "valid.parquet").write_bytes(b"PAR1")
    worse = explore(planted.folder, tmp_path / "cache")
    assert found(worse, "valid.parquet").weight == "problem" and found(worse, "item embedding").weight == "note"
    render(worse.page)
    (planted.folder / FOLDER / "item_info.parquet").unlink()
    nothing = explore(planted.folder, tmp_path / "cache")
    assert found(nothing, "item_info.parquet").weight == "problem"
    assert "The item table cannot be read." in gaps(nothing.page)
    render(nothing.page)
    with pytest.raises(DataError, match="no Track 2 data"):
        explore(tmp_path / "cache", tmp_path / "cache")


def test_test_rows_without_labels_leave_gaps_and_no_auc(tmp_path: Path) -> None:
    planted = write_layout(tmp_path / "data", answers=False)
    edit(planted.folder / FOLDER / "valid.parquet", lambda table: put(table, "label", np.zeros(60, np.int64)))
    explored = explore(planted.folder, tmp_path / "cache")
    assert (
        found(explored, "click rate").weight == "problem"
        and "test has no labels" in found(explored, "click rate").found
    )
    assert "test.parquet has no labels." in gaps(explored.page)
    charts = [
        b for s in explored.page.sections for b in s.blocks if isinstance(b, Chart) and b.title.startswith("Click")
    ]
    assert len(charts) == 2


def test_the_sample_on_the_command_line_and_in_the_browser(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, browser_page: BrowserPage
) -> None:
    from track2_mmctr.__main__ import app

    monkeypatch.chdir(tmp_path)
    arguments = ["explore", "--data", str(root / "data" / "sample"), "--cache", "cache", "--samples", "12"]
    done = CliRunner().invoke(app, [*arguments, "--out", "one.html"])
    assert done.exit_code == 0, done.output
    assert "0 problems, 4 notes" in done.output and "track2_mmctr run" in done.output
    for width in (1440, 360):
        page = browser_page.open(tmp_path / "one.html", width=width)
        assert_fits(page)
    assert page.locator(".card").count() >= 12
