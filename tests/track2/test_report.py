"""The page of a run: its figures are `evaluate`'s, its examples those of a loop, and what is missing is said."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from common.logits import sigmoid
from common.metrics.ctr import auc, calibration
from common.pages.blocks import Chart, Facts, Page, Table
from common.pages.images import Images
from common.tokenizers.collisions import collision_report
from common.tokenizers.quality import perplexity
from tests.track2.report_runs import Made, blocks, cards, drop, gaps, keys_of, write_root
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.evaluate import open_data, score_path
from track2_mmctr.groups import length_groups, train_counts
from track2_mmctr.predictions import predictions_path, read_predictions
from track2_mmctr.report.item_map import coordinates, nearest, sample_items
from track2_mmctr.report.page import report_page
from track2_mmctr.report.rows import most_wrong
from track2_mmctr.tokenize_config import TokenizeConfig
from track2_mmctr.tokenize_items import tokenize_items


@pytest.fixture(scope="module")
def data(made: Made) -> CtrData:
    return open_data(made.root, made.cache)


@pytest.fixture(scope="module")
def page(made: Made, data: CtrData) -> Page:
    return report_page(made.neural, data, resamples=30)


def chart(page: Page, key: str, title: str) -> list[dict[str, object]]:
    """The rows of the figures below a chart, by the titles of their columns."""
    (found,) = [block for block in blocks(page, key, Chart) if block.title == title]
    assert found.figures is not None
    names = [column.title for column in found.figures.columns]
    return [dict(zip(names, row, strict=True)) for row in found.figures.rows]


def test_scores_are_those_of_score(page: Page, made: Made, data: CtrData) -> None:
    scores = score_path(made.neural, data, resamples=30)
    for facts, (split, report) in zip(blocks(page, "scores", Facts), scores.reports.items(), strict=True):
        told = {fact.label: f"{fact.value} {fact.note}" for fact in facts.facts}
        assert told[f"AUC on {split}"].startswith(f"{report.headline:.4f} ± {report.overall.error:.4f}")
        assert f"{report.by_user.low:.4f} to {report.by_user.high:.4f}" in told[f"AUC on {split}"]
        assert f"of {report.overall.oracle:.4f} at best" in told[f"AUC on {split}"] or split == "test"
        assert told["GAUC"].startswith(f"{report.gauc.value:.4f}")
        assert told["log-loss"].startswith(f"{report.overall.log_loss:.4f}")
        assert told["calibration error"].startswith(f"{report.calibration.error:.4f}")
    (table,) = blocks(page, "scores", Table)
    rows = {(row[0], row[1]): list(row[2:]) for row in table.rows}
    report = scores.reports["valid"]
    for name, figures in [("all", report.overall), *((f"history {n}", f) for n, f in report.by_length.items())]:
        assert rows["valid", name][:4] == [figures.rows, figures.positives, figures.auc, figures.error]
    assert {"in train 0 (cold)", "all but cold"} <= {name for _, name in rows}
    assert page.subtitle == ", ".join(f"AUC {one.headline:.4f} on {name}" for name, one in scores.reports.items())


def test_bars_have_the_groups_figures_and_intervals(page: Page, made: Made, data: CtrData) -> None:
    report = score_path(made.neural, data, resamples=5).reports["valid"]
    rows = {
        row["items in the history"]: row
        for row in chart(page, "groups", "AUC by history length")
        if row["series"] == "valid"
    }
    assert list(rows) == [name for name, figures in report.by_length.items() if figures.auc is not None]
    for name, row in rows.items():
        figures = report.by_length[name]
        assert (row["AUC"], row["at best"]) == (figures.auc, figures.oracle)
        if 0.05 < figures.auc < 0.95 and figures.error is not None:
            assert row["low"] == pytest.approx(max(0, figures.auc - 1.96 * figures.error), abs=1e-4)
            assert row["high"] == pytest.approx(min(1, figures.auc + 1.96 * figures.error), abs=1e-4)
    popular = [
        row["training rows with the same target"] for row in chart(page, "groups", "AUC by popularity of the target")
    ]
    assert "all but cold" in popular


def test_curves_are_of_all_rows(page: Page, made: Made, data: CtrData) -> None:
    for split in ("valid", "test"):
        label = data.splits[split].label
        logits = read_predictions(predictions_path(made.neural, split)).logits
        points = [row for row in chart(page, "curves", "ROC") if row["series"] == split]
        x, y = (np.array([list(row.values())[column] for row in points]) for column in (1, 2))
        assert np.trapezoid(y, x) == pytest.approx(auc(label, logits), abs=1e-9)  # few rows: nothing is thinned
        bins = [row for row in chart(page, "curves", "Calibration") if row["series"] == split]
        assert sum(int(row["note"].split()[0]) for row in bins) == len(label)
        assert [(row["mean prediction"], row["click rate"]) for row in bins] == [
            (predicted, rate) for _, predicted, rate in calibration(label, sigmoid(logits)).bins
        ]
        assert all(row["low"] <= row["click rate"] <= row["high"] for row in bins)
        counts = Counter()
        for row in chart(page, "curves", f"Predictions on {split}"):
            counts[row["series"]] += row["rows"]
        assert counts == {"clicked": int(label.sum()), "not clicked": int((label == 0).sum())}


def test_learning_curves_are_the_run_s_evaluations(page: Page, made: Made) -> None:
    seeds = json.loads((made.neural / "metrics.json").read_text())["training"]["seeds"]
    wanted = [(f"seed {7 + n}", one["step"], one["auc"]) for n, seed in enumerate(seeds) for one in seed["evaluations"]]
    assert len(wanted) >= 8
    rows = chart(page, "training", "AUC on valid")
    assert [(row["series"], row["optimiser steps"], row["AUC"]) for row in rows] == wanted
    losses = chart(page, "training", "Loss")
    train = [row["nats a row"] for row in losses if row["series"] == "seed 7, train"]
    assert train == [one["train_loss"] for one in seeds[0]["evaluations"]]
    valid = [row["nats a row"] for row in losses if row["series"] == "seed 8, valid"]
    assert valid == [one["logloss"] for one in seeds[1]["evaluations"]]


def test_the_most_wrong_rows_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(3)
    label, logits = (rng.random(300) < 0.4).astype(np.float32), rng.normal(size=300).round(1)  # ties
    clicked = sorted((logits[row], row) for row in range(300) if label[row])[:7]
    others = sorted((-logits[row], row) for row in range(300) if not label[row])[:7]
    assert most_wrong(label, logits, 7).tolist() == [row for _, row in clicked + others]
    assert len(most_wrong(label, logits, 10**6)) == 300


def test_the_gallery_shows_those_rows_with_their_histories(page: Page, made: Made, data: CtrData) -> None:
    split = data.splits["valid"]
    logits = read_predictions(predictions_path(made.neural, "valid")).logits
    found = {
        int(dict(card.facts)["row"].split()[1]): card
        for card in cards(page, "wrong")
        if card.facets["split"] == ["valid"]
    }
    assert set(found) == set(most_wrong(split.label, logits, 30).tolist())
    groups = length_groups(split)
    for row, card in found.items():
        facts = dict(card.facts)
        assert facts["label"] == card.facets["label"][0] == ("clicked" if split.label[row] else "not clicked")
        assert facts["predicted"] == f"{100 * sigmoid(logits[row]):.2f} %"
        (group,) = [name for name, rows in groups.items() if rows[row]]
        assert card.facets["history"] == [f"history {group}"]
        ((target, *history),) = [strip.tiles for strip in card.strips]
        items = split.history[split.offsets[row] : split.offsets[row + 1]].tolist()
        assert target.caption == data.items.titles[split.target[row]] == card.title
        assert [tile.caption for tile in history] == [data.items.titles[item] for item in items[::-1][:7]]
    losses = [card.numbers["loss"] for card in cards(page, "wrong")]
    assert losses == sorted(losses, reverse=True)
    assert set(keys_of(page)) <= set(page.images.data)
    assert "item 9" in gaps(page), "the item without a cover is named"


def test_neighbours_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.integers(-1, 2, (60, 4)).astype(np.float32)  # many ties, some of zeros
    vectors[0] = 0
    zero = next(item for item in range(1, 60) if not vectors[item].any())
    items = [1, 17, 30, zero]
    for item, (ids, cosines) in zip(items, nearest(vectors, items, 5), strict=True):
        length = [float(np.sqrt((row.astype(float) ** 2).sum())) for row in vectors]
        every = [
            (-round(float(vectors[item].astype(float) @ vectors[other]) / (length[item] * length[other]), 9), other)
            for other in range(1, 60)
            if other != item and length[item] and length[other]
        ]
        assert np.round(-cosines, 9).tolist() == [pair[0] for pair in sorted(every)[:5]]
        assert set(ids.tolist()) <= {other for value, other in every if value <= sorted(every)[4][0]} if every else True
        assert len(ids) == (0 if item == zero else 5)
        assert item not in ids and 0 not in ids


def test_sampled_items_are_warm_then_cold_and_the_same_each_time(page: Page, data: CtrData) -> None:
    counts = train_counts(data)
    counts[[5, 6, 7, 8, 9, 10]] = 0
    found = sample_items(data, counts, seed=1)
    assert found == sample_items(data, counts, seed=1) != sample_items(data, counts, seed=2)
    assert (counts[found[:8]] > 0).all()
    assert len(found) > 8 and (counts[found[8:]] == 0).all()
    shown = cards(page, "neighbours")
    assert len(shown) >= 8
    for card in shown:
        (strip,) = card.strips
        assert strip.tiles[0].caption == card.title and len(strip.tiles) == 7


def test_the_map_keeps_the_most_variance_that_two_directions_can() -> None:
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(5).normal(size=(80, 6)).astype(np.float32) * [5, 3, 1, 1, 1, 1]
    place, kept = coordinates(vectors, "pca")
    fitted = PCA(2).fit(vectors.astype(np.float64))
    assert kept == pytest.approx(fitted.explained_variance_ratio_.sum(), abs=1e-6)
    theirs = fitted.transform(vectors)
    assert np.allclose(np.abs(place), np.abs(theirs), atol=1e-3)
    alike, _ = coordinates(np.ones((5, 6), np.float32), "pca")
    assert not alike.any()


def test_t_sne_keeps_clusters_apart_and_gives_the_same_places_each_time() -> None:
    rng = np.random.default_rng(6)
    vectors = np.repeat(10 * rng.normal(size=(3, 8)), 20, axis=0) + rng.normal(size=(60, 8))
    place, _ = coordinates(vectors.astype(np.float32), "tsne")
    assert np.array_equal(place, coordinates(vectors.astype(np.float32), "tsne")[0])
    middle = place.reshape(3, 20, 2).mean(1)
    own = np.argmin(((place[:, None] - middle[None]) ** 2).sum(2), axis=1)
    assert (own == np.repeat(np.arange(3), 20)).all()


def test_the_map_has_the_items_asked_for_most_coloured_by_the_catalogue(made: Made, data: CtrData) -> None:
    rows = chart(report_page(made.neural, data, resamples=5, items=10), "map", "Items")
    asked = Counter(data.splits["valid"].target.tolist()) + Counter(data.splits["test"].target.tolist())
    least = sorted(asked.values(), reverse=True)[9]
    mine = [int(str(row["note"]).split(",")[0].removeprefix("item ")) for row in rows]
    assert len(mine) == 10 and min(asked[item] for item in mine) >= least
    assert {row["group"] for row in rows} <= {"Drama", "Comedy", "not told"}
    for item, row in zip(mine, rows, strict=True):
        assert row["group"] == ("Drama", "Comedy", "not told")[item % 3]
        assert row["label"] == data.items.titles[item]


def test_codes_are_counted_as_the_tokenizers_do(made: Made, data: CtrData, tmp_path: Path) -> None:
    tokenized = tokenize_items(
        made.root / "microlens", TokenizeConfig(codebook_sizes=[4, 4]), "auto", tmp_path / "ids.parquet"
    )
    run = shutil.copytree(made.floor, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("semantic_ids: none", f"semantic_ids: {tokenized.path}", 1))
    page = report_page(run, data, resamples=5)
    from common.tokenizers.files import read_sids

    file = read_sids(tokenized.path)
    codes = file.sids[:, :2]
    found = collision_report(codes, (4, 4))
    (facts,) = blocks(page, "codes", Facts)
    told = {fact.label: fact.value for fact in facts.facts}
    assert told["different IDs"] == f"{found.distinct:,}"
    assert told["items that share their ID"] == f"{found.colliding:,}"
    (table,) = blocks(page, "codes", Table)
    for level, row in enumerate(table.rows):
        counts = np.bincount(codes[:, level], minlength=4)
        assert list(row)[:5] == [level + 1, 4, (counts > 0).sum(), (counts == 0).sum(), perplexity(counts)]
    sizes = [row["IDs"] for row in chart(page, "codes", "Items that share an ID")]
    assert sizes == [found.groups[size] for size in sorted(found.groups)]
    largest = cards(page, "codes")[0]
    assert dict(largest.facts)["items"] == f"{found.largest:,}"
    absent = (run / "config.yaml").read_text().replace(str(tokenized.path), "gone.parquet")
    (run / "config.yaml").write_text(absent)
    assert "no such file of semantic IDs" in gaps(report_page(run, data, resamples=5))


def test_a_complete_run_says_only_that_it_reads_no_codes_and_where_a_cover_lacks(page: Page) -> None:
    lines = gaps(page).splitlines()
    assert len(lines) == 2
    assert "tokenize" in lines[0] and "semantic_ids" in lines[0]
    assert dict(page.about)["seed"] == "7"
    assert "numpy" in dict(page.about)["versions"]


def test_the_same_run_gives_the_same_page(made: Made, data: CtrData, page: Page) -> None:
    again = report_page(made.neural, data, resamples=30)
    assert again.images.data == page.images.data
    assert again == replace(page, images=again.images)


def test_what_is_missing_is_said_in_its_place(made: Made, data: CtrData, tmp_path: Path) -> None:
    bare = write_root(tmp_path / "bare", covers=False, features=False, answers=False)
    drop(bare / "microlens" / "MicroLens_1M_x1" / "item_info.parquet", "item_emb_d128")
    without = open_data(bare, tmp_path / "cache")
    said = gaps(report_page(made.neural, without, resamples=5))
    for piece in ("labels of test are not known", "no titles", "no covers", "no item_emb_d128", "track2_mmctr embed"):
        assert piece in said, said
    floor = gaps(report_page(made.floor, without, resamples=5))
    assert "No evaluations" in floor and "--config din" in floor


def test_a_run_without_predictions_or_records_is_still_a_page(made: Made, data: CtrData, tmp_path: Path) -> None:
    run = shutil.copytree(made.neural, tmp_path / "run")
    shutil.rmtree(run / "predictions")
    old = report_page(run, data, resamples=5)
    recorded = json.loads((run / "metrics.json").read_text())["valid"]["auc"]
    (facts,) = blocks(old, "scores", Facts)
    assert facts.facts[0].value == f"{recorded:.4f}" and "recorded" in facts.facts[0].note
    said = gaps(old)
    assert "no predictions of valid" in said and "no rows to show" in said and "no curves" in said
    for name in ("config.yaml", "run.json", "metrics.json"):
        (run / name).write_text("{" if name != "config.yaml" else ": :")
    empty = gaps(report_page(run, data, resamples=5))
    assert "config.yaml, run.json, metrics.json" in empty
    with pytest.raises(DataError, match="not a run's folder"):
        report_page(made.submission, data)


def test_no_test_split_damaged_covers_and_a_full_page_are_said(made: Made, data: CtrData, tmp_path: Path) -> None:
    broken = shutil.copytree(made.root / "microlens", tmp_path / "broken")
    for path in (broken / "item_images").iterdir():
        path.write_bytes(b"not a picture")
    splits = {name: split for name, split in data.splits.items() if name != "test"}
    page = report_page(made.neural, replace(data, folder=broken, splits=splits), resamples=5)
    said = gaps(page)
    assert "no test split" in said and "cannot be read" in said
    assert not page.images.data
    small = report_page(made.neural, data, resamples=5, images=Images(budget=600))
    assert small.images.left_out and small.images.used <= 600
    assert set(keys_of(small)) <= set(small.images.data)


def test_predictions_of_other_data_are_an_error(made: Made, data: CtrData, tmp_path: Path) -> None:
    other = open_data(write_root(tmp_path, covers=False, seed=5), tmp_path / "cache")
    with pytest.raises(DataError, match="not of this valid split"):
        report_page(made.neural, other)
