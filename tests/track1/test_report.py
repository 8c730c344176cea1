"""The report's parts against hand counts, brute force and the modules whose figures they show."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import DataError
from common.metrics.retrieval import recall_at_k
from common.pages.blocks import Block, Card, Chart, Facts, Gallery, Gap, Table
from common.pages.images import Images
from tests.track1.planted_run import FINAL, QUESTIONS, ROUTES, plant_run, planted_root, score_table
from track1_mdr.compare import compare, score_interval, units_of
from track1_mdr.config import DataConfig
from track1_mdr.evaluate import ScoreReport, score_files
from track1_mdr.question_scores import figures_by, score_questions
from track1_mdr.report import thumbnails
from track1_mdr.report.collect import find_run, read_run
from track1_mdr.report.figures import curve_blocks, group_blocks, length_group, recall_curves, score_blocks
from track1_mdr.report.gallery import error_order, gallery_blocks, within
from track1_mdr.report.page import Places, choose_root, hardest_documents, report_page, unknown_questions
from track1_mdr.report.record import config_table, run_blocks, settings
from track1_mdr.report.routes import Added, found_gold, route_blocks, what_each_adds
from track1_mdr.report.scoring import Outcome, Scored, score_run
from track1_mdr.report.snippets import cut
from track1_mdr.report.views import read_data
from track1_mdr.routes.bm25_tokens import tokenize, word_places

GOLD = {i: pages for i, _, _, pages, _, _ in QUESTIONS}
DOCUMENTS = {i: document for i, _, document, *_ in QUESTIONS}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return planted_root(tmp_path / "data")


@pytest.fixture
def folder(tmp_path: Path, root: Path) -> Path:
    return plant_run(tmp_path / "home", root)


def scored_run(folder: Path, root: Path) -> Scored:
    run = read_run(folder)
    return score_run(run, read_data(root, DataConfig(), folder / "cache", run.tasks))


def tables(blocks: Sequence[Block]) -> list[Table]:
    return [block for block in blocks if isinstance(block, Table)]


def charts(blocks: Sequence[Block]) -> dict[str, list[tuple]]:
    """The figures of each chart by its title, as rows."""
    return {c.title: [tuple(row) for row in c.figures.rows] for c in blocks if isinstance(c, Chart) and c.figures}


def gaps(blocks: Sequence[Block]) -> str:
    return "\n".join(f"{block.what} {block.todo}" for block in blocks if isinstance(block, Gap))


def cards(blocks: Sequence[Block]) -> dict[str, Card]:
    (gallery,) = [block for block in blocks if isinstance(block, Gallery)]
    return {card.search: card for card in gallery.cards}


# --- scores, curves, groups ---


def test_the_score_table_has_the_figures_of_evaluate(folder: Path, root: Path) -> None:
    scored = scored_run(folder, root)
    report = score_files(folder.parents[1] / "submissions" / "planted.csv", root)
    assert isinstance(scored.report, ScoreReport) and scored.report.tasks == report.tasks
    facts, table = score_blocks(scored)[:2]
    assert isinstance(facts, Facts) and isinstance(table, Table)
    micro = report.tasks["mmdocir"].micro
    assert facts.facts[0].value == f"{micro.mean:.2f}" and f"{micro.ceiling['mean']:.1f} at best" in facts.facts[0].note
    rows = {row[0]: row for row in table.rows}
    assert rows["all questions"][1:6] == [4, *micro.recall.values()]
    assert {name: row[5] for name, row in rows.items() if name != "all questions"} == {
        name: figures.mean for name, figures in report.tasks["mmdocir"].by_domain.items()
    }
    assert rows["News"][6:8] == [None, None], "a single document has no interval"


def test_the_interval_is_the_comparison_s_with_a_run_that_finds_nothing(folder: Path, root: Path) -> None:
    scored = scored_run(folder, root)
    nothing = dict.fromkeys(GOLD, ("no page",))
    assert scored.data.ground is not None
    effect = compare(scored.rankings(), nothing, scored.gold, scored.data.ground.questions).tasks["mmdocir"]
    assert scored.interval(list(GOLD)) == (effect.low, effect.high)
    assert effect.low is not None and effect.low < effect.difference < (effect.high or 0)


def test_an_interval_of_two_tasks_averages_their_resamples_and_a_single_unit_has_none() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(300) * 100, rng.random(200) * 100
    low, high = score_interval([(a, [str(i) for i in range(300)]), (b, [str(i) for i in range(200)])]) or (0, 0)
    error = np.sqrt(a.var() / 300 + b.var() / 200) / 2
    middle = (a.mean() + b.mean()) / 2
    assert (low, high) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.25)
    assert score_interval([(a, ["one"] * 300)]) is None
    assert units_of(["1", "2"], {"1": "d", "2": ""}) == ["d", "question 2"]


def test_recall_at_k_is_brute_force_s_and_the_score_report_s(folder: Path, root: Path) -> None:
    scored = scored_run(folder, root)
    curves = recall_curves(scored, "mmdocir")
    for name, ranked in ROUTES.items():
        for k in range(1, 21):
            want = np.mean([recall_at_k(ranked.get(i, []), pages, k) for i, pages in GOLD.items()])
            assert curves[name][k - 1] == pytest.approx(100 * want)
    assert scored.report is not None
    recall = scored.report.tasks["mmdocir"].micro.recall
    assert [curves["answer"][k - 1] for k in (1, 3, 5)] == pytest.approx([recall["R@1"], recall["R@3"], recall["R@5"]])
    # 10002's two pages are filled up from the document's first ones, among them its gold: at rank 5.
    assert scored.answers["mmdocir"]["10002"] == ["6", "5", "0", "1", "2"]
    assert curves["answer"][-1] == 100.0


def test_curves_are_drawn_a_few_routes_a_chart_with_the_best_first(tmp_path: Path, root: Path) -> None:
    # Route n has 10000's gold at rank n + 1: the first five find it among their first five.
    routes = {f"r{n}": {"10000": [*(str(9 - m) for m in range(n)), "1"]} for n in reversed(range(8))}
    drawn = charts(curve_blocks(scored_run(plant_run(tmp_path, root, routes), root)))
    names = {title: list(dict.fromkeys(row[0] for row in rows)) for title, rows in drawn.items()}
    assert names == {
        "MMDocIR: recall@k of rankings": ["at best", "answer"],
        "MMDocIR: recall@k of routes": ["at best", "answer", "r4", "r3", "r2", "r1", "r0", "r7"],
        "MMDocIR: recall@k of more routes": ["at best", "answer", "r6", "r5"],
    }


def test_bars_have_the_figures_of_each_group(folder: Path, root: Path) -> None:
    drawn = charts(group_blocks(scored_run(folder, root)))
    report = score_files(folder.parents[1] / "submissions" / "planted.csv", root).tasks["mmdocir"]
    for what, groups in (("domain", report.by_domain), ("evidence type", report.by_evidence)):
        assert {row[0]: row[1] for row in drawn[f"MMDocIR by {what}"]} == {n: f.mean for n, f in groups.items()}
    lengths = {row[0]: row[1] for row in drawn["MMDocIR by document length"]}
    by_hand = {"1 to 10 pages": report.by_domain["News"].mean, "21 to 50 pages": report.by_domain["Guidebook"].mean}
    assert lengths == pytest.approx(by_hand) and list(lengths) == list(by_hand)
    words = {row[0]: row[-1] for row in drawn["MMDocIR by words on the gold pages"]}
    assert words == {"text": "2 questions", "image only": "2 questions"}, "10003's gold page has 3 words, 10001's 8"


def test_length_groups_leave_no_page_count_out() -> None:
    assert len({length_group(pages) for pages in range(1, 1000)}) == 5
    assert [length_group(pages) for pages in (1, 20, 21, 100, 101)] == [
        "1 to 10 pages", "11 to 20 pages", "21 to 50 pages", "51 to 100 pages", "over 100 pages",
    ]  # fmt: skip


def test_scores_question_by_question_add_up_to_the_report(folder: Path, root: Path) -> None:
    scored = scored_run(folder, root)
    table = score_questions(scored.rankings(), scored.gold)
    assert scored.report is not None
    micro = scored.report.tasks["mmdocir"].micro
    assert table["score"].mean() == pytest.approx(micro.mean) and table["ceiling"].mean() == pytest.approx(
        micro.ceiling["mean"]
    )
    assert dict(table.select("question_id", "found").iter_rows()) == {"10000": 1, "10001": 2, "10002": 1, "10003": 0}
    assert dict(table.select("question_id", "gold").iter_rows()) == {i: len(pages) for i, pages in GOLD.items()}
    assert score_questions({}, {}).height == 0 and figures_by({}, {}, {}) == {}


# --- routes ---


def test_what_each_route_adds_by_hand(folder: Path, root: Path) -> None:
    found = {name: found_gold(ranked, GOLD) for name, ranked in ROUTES.items()}
    assert found["bm25"] == {("10000", "1"), ("10001", "2"), ("10002", "2")}, "rank 6 is not among the first five"
    assert found["dense"] == {("10000", "1"), ("10001", "20")}
    third = frozenset({("10003", "7")})
    added = what_each_adds({**found, "named_page": third}, found_gold(FINAL, GOLD))
    assert added == {
        "bm25": Added(found=3, alone=2, questions=2, kept=1),  # 10001's page 2 is kept, 10002's is lost
        "dense": Added(found=2, alone=1, questions=1, kept=1),
        "named_page": Added(found=1, alone=1, questions=1, kept=0),
    }
    alone, both, agree = tables(route_blocks(scored_run(folder, root)))
    rows = {row[0]: row for row in alone.rows}
    assert rows["bm25"][1] == "route" and rows["fusion"][1] == "ranking"
    assert rows["bm25"][-4:] == [3, 2, 2, 2], "what the run fills up with counts as kept: it is in its answer"
    assert rows["dense"][6] == 75.0, "it says nothing on one question of four"
    assert both.rows == [["bm25", 3, 1], ["dense", 1, 2]]
    shared = np.mean([len(set(ROUTES["bm25"][i][:5]) & set(ROUTES["dense"][i][:5])) for i in ROUTES["dense"]])
    assert agree.rows[0][2] == agree.rows[1][1] == pytest.approx(shared)


# --- gallery ---


def test_cards_are_in_order_of_loss_with_facets_to_filter_by(folder: Path, root: Path) -> None:
    found = cards(gallery_blocks(scored_run(folder, root), Images()))
    assert list(found) == ["10003", "10002", "10000", "10001"], "lost: 100, 66.7, 33.3 and 16.7"
    facets = {i: {key: list(values) for key, values in card.facets.items()} for i, card in found.items()}
    assert facets["10000"] == {
        "task": ["MMDocIR"],
        "outcome": ["all found"],
        "domain": ["Guidebook"],
        "evidence": ["Table"],
        "route": ["bm25", "dense"],
    }
    assert [facets[i]["outcome"] for i in found] == [["nothing found"], ["all found"], ["all found"], ["all found"]]
    assert [facets[i]["route"] for i in ("10001", "10002", "10003")] == [["bm25", "dense"], ["bm25"], ["no route"]]
    assert found["10003"].numbers == {"number": 10003, "pages": 8, "score": 0.0}
    assert found["10003"].title == QUESTIONS[3][1], "escaping is the renderer's"


def test_errors_are_in_the_order_of_what_a_perfect_ranking_would_gain() -> None:
    outcomes = {"1": Outcome(20, 30, 1, 9), "2": Outcome(40, 100, 1, 1), "3": Outcome(0, 30, 0, 9)}
    assert error_order({"m2kr": {i: ["Q1"] for i in "1234"}}, outcomes) == ["2", "3", "1", "4"], "4 has no gold"


def test_a_card_shows_gold_and_the_first_five_with_scores_and_marked_words(folder: Path, root: Path) -> None:
    images = Images()
    found = cards(gallery_blocks(scored_run(folder, root), images))
    gold, answer = found["10000"].strips
    assert [tile.caption for tile in answer.tiles] == ["page 5", "page 1", "page 6", "page 7", "page 8"]
    assert [tile.tone for tile in answer.tiles] == ["bad", "good", "bad", "bad", "bad"]
    assert answer.tiles[1].badge == "2 gold" and (gold.tiles[0].badge, gold.tiles[0].tone) == ("rank 2", "good")
    assert answer.tiles[1].lines == ("bm25 #1 · 19", "dense #4 · 16", "fusion #2 · 18")
    assert [piece for piece, marked in answer.tiles[1].text if marked] == ["Ticket", "revenues", "revenue"]
    missed = found["10003"].strips[0].tiles[0]
    assert (missed.badge, missed.tone) == ("missed", "gold")
    assert missed.lines == ("bm25 #6 · 14", "dense #7 · 13", "fusion #8 · 12")
    shown = {tile.image for card in found.values() for strip in card.strips for tile in strip.tiles}
    assert shown == set(images.data) and not images.left_out, "each picture that is shown is there, and no other"


def test_a_gallery_without_gold_has_answers_and_no_outcome(tmp_path: Path) -> None:
    root = planted_root(tmp_path / "data", gold=False)
    scored = scored_run(plant_run(tmp_path, root), root)
    assert (
        "no gold" in gaps(score_blocks(scored)) and "gold" in gaps(curve_blocks(scored)) and gaps(group_blocks(scored))
    )
    (agree,) = tables(route_blocks(scored))
    assert "share" in agree.caption
    found = cards(gallery_blocks(scored, Images()))
    assert list(found) == ["10000", "10001", "10002", "10003"]
    assert [strip.label for strip in found["10000"].strips] == ["answer"]
    assert found["10000"].facets["outcome"] == ["gold unknown"] and "score" not in found["10000"].numbers
    assert "no gold" in gaps(hardest_documents(scored))


def test_cards_beyond_the_room_are_left_out_and_counted(
    folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = scored_run(folder, root)
    every = list(cards(gallery_blocks(scored, Images())).values())
    monkeypatch.setattr("track1_mdr.report.gallery.TEXT_BYTES", 2500)
    blocks = gallery_blocks(scored, Images())
    kept = list(cards(blocks))
    assert 0 < len(kept) < 4 and kept == [card.search for card in within(every, 2500)]
    assert f"{len(kept)} of 4 questions are shown" in gaps(blocks)


def test_hardest_documents_are_in_order_of_what_there_is_to_gain(folder: Path, root: Path) -> None:
    scored = scored_run(folder, root)
    (table,) = hardest_documents(scored)
    assert isinstance(table, Table) and [row[0] for row in table.rows] == ["bees", "ferry"]
    assert scored.report is not None
    micro = scored.report.tasks["mmdocir"].micro
    total = sum(row[-1] for row in table.rows if isinstance(row[-1], float))
    assert total == pytest.approx(micro.ceiling["mean"] - micro.mean), "all of them together are all there is to gain"


# --- words ---


@pytest.mark.parametrize(
    "text",
    ["The nets' income of 1,024.5 was RISING, 3.2 % in 2021!", "ﬁnance ＡＢＣ naïve co-operation", "", "the of and"],
)
def test_the_places_of_words_are_those_that_bm25_counts(text: str) -> None:
    places = word_places(text)
    assert [stem for _, _, stem in places] == tokenize(text)
    assert word_places(text) == places, "what was seen before makes no difference"
    for start, end, stem in places:
        assert tokenize(text[start:end]) == [stem]


def test_the_piece_has_most_different_words_of_the_question() -> None:
    text = "costs costs costs " + "filler " * 40 + "the harbour costs of a terminal " + "filler " * 40
    piece = cut("What did the harbour's terminal cost?", text, 60)
    assert [word for word, marked in piece if marked] == ["harbour", "costs", "terminal"]
    whole = "".join(word for word, _ in piece)
    assert whole.startswith("… ") and whole.endswith(" …") and len(whole) <= 64
    assert set(whole.split()) <= {"…", "filler", "the", "harbour", "costs", "of", "a", "terminal"}, "no word is cut"


def test_a_piece_without_a_match_is_the_beginning_and_a_match_after_a_bracket_stays() -> None:
    assert cut("zebra", "One\n two  three") == [("One two three", False)]
    long = "x" * 500
    assert "".join(word for word, _ in cut("zebra", long, 50)) == "x" * 50 + " …"
    piece = cut("zebra", "filler " * 30 + "abc(zebra)def " + "filler " * 30, 40)
    assert ("zebra", True) in piece


# --- what is missing ---


def test_what_a_run_lacks_is_told_and_nothing_breaks(folder: Path, root: Path) -> None:
    whole = report_page(scored_run(folder, root), [], root)
    assert not gaps([block for section in whole.sections for block in section.blocks]).replace(
        "local score covers MMDocIR only ", ""
    )
    for name in ("scores.parquet", "config.yaml", "faults.jsonl", "metrics.json"):
        (folder / name).unlink()
    scored = scored_run(folder, root)
    page = report_page(scored, [], root)
    said = gaps([block for section in page.sections for block in section.blocks])
    assert "no scores.parquet" in said and "no readable config.yaml" in said and "no scores by route" in said
    assert len(cards(page.sections[-1].blocks)) == 4, "the submission alone gives answers and scores"


def test_a_lost_submission_is_found_by_the_run_s_own_scores(folder: Path, root: Path) -> None:
    before = scored_run(folder, root)
    sent = folder.parents[1] / "submissions" / "planted.csv"
    sent.write_text(sent.read_text().replace('""5""', '""9""'))
    again = scored_run(folder, root)
    assert "written again since" in gaps(again.run.gaps) and again.run.submission is None
    assert again.report == before.report and dict(again.answers) == dict(before.answers)
    sent.unlink()
    gone = scored_run(folder, root)
    assert "no longer where" in gaps(gone.run.gaps) and gone.report == before.report
    (folder / "scores.parquet").unlink()
    nothing = scored_run(folder, root)
    page = report_page(nothing, [], root)
    said = gaps([block for section in page.sections for block in section.blocks])
    assert "neither a submission nor scores" in said
    assert before.report is not None
    recorded = [b for b in page.sections[0].blocks if isinstance(b, Facts)]
    assert recorded[0].facts[0].value == f"{before.report.headline:.2f}", "the run's own record has its score"


def test_pages_without_images_or_texts_leave_gaps(tmp_path: Path) -> None:
    root = planted_root(tmp_path / "data", images=False)
    folder = plant_run(tmp_path, root)
    scored = scored_run(folder, root)
    assert "no page images" in gaps(scored.data.gaps)
    tiles = [t for card in cards(gallery_blocks(scored, Images())).values() for s in card.strips for t in s.tiles]
    assert all(tile.image is None for tile in tiles) and any(tile.text for tile in tiles)
    (root / "mmdocir" / "MMDocIR_doc_passages.parquet").unlink()
    bare = scored_run(folder, root)
    assert "pages cannot be shown" in gaps(bare.data.gaps) and bare.report == scored.report
    titles = {card.title for card in cards(gallery_blocks(bare, Images())).values()}
    assert QUESTIONS[0][1] in titles


def test_a_data_root_without_questions_leaves_the_run_s_own_record(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    scored = scored_run(folder, tmp_path / "empty")
    page = report_page(scored, [], tmp_path / "empty")
    said = gaps([block for section in page.sections for block in section.blocks])
    assert "questions and gold cannot be read" in said
    assert set(cards(page.sections[-1].blocks)) == set(GOLD)


def test_the_data_root_is_the_run_s_own_unless_it_is_gone_or_another_is_named(
    tmp_path: Path, folder: Path, root: Path
) -> None:
    run = read_run(folder)
    other = tmp_path / "other"
    assert choose_root([run], Places(None, lambda: other, tmp_path)) == (root, [])
    assert choose_root([run], Places(other, lambda: root, tmp_path)) == (other, [])
    record = json.loads((folder / "run.json").read_text())
    for data, word in ((str(tmp_path / "gone"), "no longer there"), (None, "not recorded")):
        (folder / "run.json").write_text(json.dumps({**record, "data": data}))
        found, said = choose_root([read_run(folder)], Places(None, lambda: other, tmp_path))
        assert found == other and word in gaps(said)
    small = planted_root(tmp_path / "small")
    lines = (small / "mmdocir" / "MMDocIR_gt_remove.jsonl").read_text().splitlines()
    (small / "mmdocir" / "MMDocIR_gt_remove.jsonl").write_text("\n".join(lines[1:]))
    data = read_data(small, DataConfig(), tmp_path, run.tasks)
    assert "lacks 1 question of the run" in gaps(unknown_questions(run, data))


def test_gold_that_changed_since_the_run_is_told(folder: Path, root: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["tasks"]["mmdocir"]["mean"] += 1
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "is another one" in gaps(score_blocks(scored_run(folder, root)))


def test_runs_are_found_by_folder_name_and_last_and_no_others(tmp_path: Path, root: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(DataError, match="no run of track1 yet"):
        find_run("last", runs)
    first, second = (plant_run(tmp_path, root, name=name) for name in ("one", "two"))
    first, second = sorted((first, second))
    assert find_run(str(first), tmp_path / "no") == first and find_run(first.name, runs) == first
    assert find_run("last", runs) == second
    record = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps({**record, "status": "failed", "error": "disk full"}))
    assert find_run("last", runs) == first, "one that ended well"
    assert "failed: disk full" in gaps(read_run(second).gaps)
    (second / "run.json").write_text(json.dumps({**record, "track": "track2"}))
    with pytest.raises(DataError, match="one of track2"):
        find_run(second.name, runs)
    with pytest.raises(DataError, match=f"nearest name is {first.name}"):
        find_run(f"x{first.name}", runs)
    (first / "run.json").write_text("{")
    with pytest.raises(DataError, match="record cannot be read"):
        read_run(first)


def test_a_configuration_of_another_version_is_shown_as_it_is(folder: Path) -> None:
    (folder / "config.yaml").write_text("name: old\nremoved: 3\n")
    run = read_run(folder)
    assert run.config is None and "another version" in gaps(run.gaps)
    assert settings(run) == {"name": "old", "removed": "3"}
    assert list(run.sources["mmdocir"].routes) == ["bm25", "dense"], "told apart by their names"


def test_only_settings_that_are_not_default_are_shown(tmp_path: Path, root: Path) -> None:
    run = read_run(plant_run(tmp_path, root, values={"seed": 11, "data": {"ocr": {"enabled": False}, "text": "auto"}}))
    table = config_table(run)
    assert isinstance(table, Table)
    values = {str(key): value for key, value in table.rows}
    assert values["seed"] == "11" and values["data.ocr.enabled"] == "False" and "data.text" not in values
    assert "tasks.mmdocir.routes.bm25.k1" not in values


def test_time_memory_and_faults_are_the_record_s(folder: Path) -> None:
    (folder / "faults.jsonl").write_text('{"stage": "read", "item": "<b>page 3", "error": "damaged"}\n')
    run = read_run(folder)
    facts, _, stages, faults, _ = run_blocks(run)
    assert isinstance(facts, Facts) and isinstance(stages, Table) and isinstance(faults, Table)
    assert [row[0] for row in stages.rows] == [stage["stage"] for stage in run.record["stages"]]
    assert faults.rows == [["read", "<b>page 3", "damaged"]]


def test_failed_items_and_figures_that_cannot_be_read_are_said(folder: Path) -> None:
    before = [gap.what for gap in read_run(folder).gaps]
    assert not any("faults.jsonl" in what or "metrics.json" in what for what in before)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"faults": 3}))
    (folder / "faults.jsonl").write_text('{"stage": "read", "it')
    (folder / "metrics.json").write_text("{")
    said = " ".join(gap.what for gap in read_run(folder).gaps)
    assert "faults.jsonl cannot be read" in said and "3 failed items" in said and "metrics.json cannot be read" in said
    (folder / "faults.jsonl").unlink()
    assert "3 failed items" in " ".join(gap.what for gap in read_run(folder).gaps)


# --- pictures ---


def test_pictures_are_made_errors_first_until_the_room_is_used(
    folder: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "FIRST", 3)
    scored = scored_run(folder, root)
    roomy = Images()
    found = cards(gallery_blocks(scored, roomy))
    order = list(dict.fromkeys(t.image for card in found.values() for s in card.strips for t in s.tiles if t.image))
    tight = Images(sum(len(roomy.data[key]) for key in order[:5]) + 1)
    gallery_blocks(scored, tight)
    assert set(tight.data) == set(order[:5]) and tight.left_out == set(order[5:])


def test_a_damaged_picture_is_named_and_the_others_are_made(folder: Path, root: Path) -> None:
    path = root / "mmdocir" / "MMDocIR_doc_passages.parquet"
    table = pl.read_parquet(path)
    broken = pl.when(pl.col("image_path") == "bees_7.jpg").then(pl.lit(b"no image")).otherwise(pl.col("image_binary"))
    table.with_columns(broken.alias("image_binary")).write_parquet(path)
    images = Images()
    blocks = gallery_blocks(scored_run(folder, root), images)
    assert "1 pictures could not be drawn: bees_7.jpg" in gaps(blocks)
    assert len(images.data) > 5


def test_scores_of_both_tasks_are_told_apart(tmp_path: Path, folder: Path) -> None:
    """M2KR's ids are those of no page: a file with both tasks gives two sources of one name."""
    both = pl.concat([score_table("m2kr", {"bm25": {"7": ["Q1"]}}), pl.read_parquet(folder / "scores.parquet")])
    both.write_parquet(folder / "scores.parquet")
    run = read_run(folder)
    assert list(run.sources) == ["m2kr", "mmdocir"]
    assert run.sources["m2kr"].all == {"bm25": {"7": [("Q1", 19.0)]}}
