"""The learned fusion on planted data: gain, placebo, no leak between documents, files."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import ConfigError, DataError
from tests.track1.text_tables import make_passages, make_queries
from track1_mdr.config import Coverage, LearnedConfig
from track1_mdr.datasets.tables import Candidates, Scored, TaskTables
from track1_mdr.fusion.combine import fuse
from track1_mdr.fusion.features import FeatureBuilder
from track1_mdr.fusion.learned import LearnedFusion, assign_folds, document_key
from track1_mdr.fusion.pool import Pool
from track1_mdr.stages import question_recall

DOCUMENTS, PAGES, QUESTIONS, FOLDS = 40, 12, 4, 4
COVERAGE: dict[str, Coverage] = {"one": "dense", "two": "dense", "useless": "dense", "ref": "sparse"}
Planted = tuple[TaskTables, dict[str, list[Scored]]]


def planted(seed: int = 0, gold_of: Callable[[np.random.Generator, int], int] | None = None) -> Planted:
    """Two routes see the gold page through independent noise, one route sees nothing; "ref" is sparse."""
    rng = np.random.default_rng(seed)
    documents = [f"doc{number:02d}" for number in range(DOCUMENTS)]
    passages = make_passages([(name, f"page {page}") for name in documents for page in range(PAGES)])
    queries = make_queries([(f"question {i}", name) for name in documents for i in range(QUESTIONS)])
    candidates = Candidates.by_document(queries.table["doc_name"].to_list(), passages.table["doc_name"].to_list())
    scores: dict[str, list[Scored]] = {"one": [], "two": [], "useless": [], "ref": []}
    gold: dict[str, tuple[str, ...]] = {}
    for query, rows in enumerate(candidates.rows):
        answer = int(rng.integers(PAGES))
        signal = 2.0 * (np.arange(PAGES) == answer)
        for name, strength in (("one", 1.0), ("two", 1.0), ("useless", 0.0)):
            scores[name].append(Scored(rows, (strength * signal + rng.normal(size=PAGES)).astype(np.float32)))
        named = rows[[answer]] if rng.random() < 0.1 else rows[:0]
        scores["ref"].append(Scored(named, np.ones(len(named), np.float32)))
        gold[f"q{query}"] = (str(gold_of(rng, answer) if gold_of else answer),)
    return TaskTables("mmdocir", passages, queries, candidates, gold), scores


def fit(data: Planted, seed: int = 7, folds: int = FOLDS) -> LearnedFusion:
    tables, scores = data
    return LearnedFusion.fit(
        scores, tables, coverage=COVERAGE, folds=folds, seed=seed, provenance={"configuration": "x"}
    )


def predict(fusion: LearnedFusion, data: Planted) -> list[Scored]:
    return fusion.fuse(data[1], data[0].queries, data[0].passages)


def recall(results: list[Scored], data: Planted) -> float:
    return float(question_recall(results, data[0].gold_rows())[:, 0].mean())


@pytest.fixture(scope="module")
def data() -> Planted:
    return planted()


@pytest.fixture(scope="module")
def fusion(data: Planted) -> LearnedFusion:
    return fit(data)


def test_it_beats_the_best_single_route_out_of_fold(data: Planted, fusion: LearnedFusion) -> None:
    singles = {name: recall(results, data) for name, results in data[1].items()}
    learned = recall(predict(fusion, data), data)
    assert learned > max(singles.values()) + 0.1
    # The optimum on this data: the sum of the two routes is the sufficient statistic; "ref" is never wrong.
    best = [
        Scored(one.rows, one.scores + two.scores + 100 * np.isin(one.rows, ref.rows).astype(np.float32))
        for one, two, ref in zip(data[1]["one"], data[1]["two"], data[1]["ref"], strict=True)
    ]
    assert recall(best, data) - 0.08 < learned


def test_the_useless_route_has_little_say(fusion: LearnedFusion) -> None:
    shares = fusion.importance()
    assert sum(shares.values()) == pytest.approx(1.0)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    route = {name: sum(v for k, v in shares.items() if k.startswith(f"{name}.")) for name in ("one", "two", "useless")}
    assert route["useless"] < min(route["one"], route["two"]) / 2


def test_placebo_shuffled_gold_is_at_chance() -> None:
    """Gold drawn without regard to the scores: whatever it learns, documents held out stay at 1/12."""
    data = planted(3, gold_of=lambda rng, _: int(rng.integers(PAGES)))
    chance, error = 1 / PAGES, np.sqrt((1 / PAGES) * (1 - 1 / PAGES) / (DOCUMENTS * QUESTIONS))
    assert abs(recall(predict(fit(data), data), data) - chance) < 3.5 * error


def with_gold(data: Planted, gold: dict[str, tuple[str, ...]]) -> Planted:
    tables, scores = data
    return TaskTables("mmdocir", tables.passages, tables.queries, tables.candidates, gold), scores


def test_a_document_s_labels_never_reach_its_own_score(data: Planted, fusion: LearnedFusion) -> None:
    """Turn one document's gold upside down: its own scores stay, to the bit; those of other folds move."""
    tables, scores = data
    victim = "doc05"
    adverse = dict(tables.qrels)
    for query, name in enumerate(tables.queries.table["doc_name"]):
        if name == victim:
            worst = np.argmin(scores["one"][query].scores + scores["two"][query].scores)
            adverse[f"q{query}"] = (str(int(worst)),)
    other = fit(with_gold(data, adverse))
    assert other.held_out == fusion.held_out
    fold = fusion.held_out[document_key(victim)]
    moved = 0
    for name, before, after in zip(
        tables.queries.table["doc_name"], predict(fusion, data), predict(other, data), strict=True
    ):
        if fusion.held_out[document_key(name)] == fold:
            assert before.scores.tobytes() == after.scores.tobytes(), name
        else:
            moved += before.scores.tobytes() != after.scores.tobytes()
    assert moved > 0


def rename(data: Planted, name: Callable[[str], str]) -> Planted:
    tables, scores = data
    passages = type(tables.passages)(
        tables.passages.table.with_columns(pl.col("doc_name").map_elements(name, pl.String)), tables.passages.images
    )
    queries = type(tables.queries)(
        tables.queries.table.with_columns(pl.col("doc_name").map_elements(name, pl.String)), tables.queries.images
    )
    return TaskTables("mmdocir", passages, queries, tables.candidates, tables.qrels), scores


def test_documents_never_seen_are_scored_by_the_mean_of_all_models(data: Planted, fusion: LearnedFusion) -> None:
    unseen = rename(data, lambda name: f"new {name}")
    tables, scores = unseen
    builder = FeatureBuilder.of(tables.queries, tables.passages, COVERAGE)
    results = predict(fusion, unseen)
    for query in range(0, len(results), 17):
        features = builder.build(Pool.of(scores, query), query)
        each = np.asarray([booster.predict(features) for booster in fusion.boosters])
        assert results[query].scores.tolist() == pytest.approx(each.mean(axis=0).tolist(), abs=1e-6)
        assert np.ptp(each, axis=0).max() > 0  # the models differ, so that the mean is none of them


def test_documents_seen_are_scored_by_the_one_model_that_held_them_out(data: Planted, fusion: LearnedFusion) -> None:
    tables, scores = data
    builder = FeatureBuilder.of(tables.queries, tables.passages, COVERAGE)
    results = predict(fusion, data)
    for query in range(0, len(results), 13):
        booster = fusion.boosters[fusion.held_out[document_key(tables.queries.table["doc_name"][query])]]
        expected = np.asarray(booster.predict(builder.build(Pool.of(scores, query), query)))
        assert results[query].scores.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_folds_are_whole_documents_of_equal_number_and_hang_on_the_seed() -> None:
    names = [f"d{i}" for i in range(22) for _ in range(i % 3 + 1)]
    folds = assign_folds(names, 5, seed=1)
    assert set(folds) == set(names)
    sizes = np.bincount(list(folds.values()), minlength=5)
    assert sizes.max() - sizes.min() <= 1
    assert assign_folds(names[::-1], 5, seed=1) == folds
    assert assign_folds(names, 5, seed=2) != folds


def test_fewer_documents_than_folds_is_an_error() -> None:
    with pytest.raises(DataError, match="too few documents") as caught:
        assign_folds(["a", "b", "a"], 3, seed=1)
    assert caught.value.got == 2


def test_questions_without_gold_are_not_looked_at_but_are_scored(data: Planted) -> None:
    tables, scores = data
    documents = tables.queries.table["doc_name"].to_list()
    known = {f"q{q}": tables.qrels[f"q{q}"] for q in range(len(documents)) if q % 4 < 2 and documents[q] < "doc30"}
    partial = with_gold(data, known)
    fusion = fit(partial)
    assert fusion.provenance["questions"] == len(known) == 60
    assert fusion.provenance["documents"] == len(fusion.held_out) == 30
    results = predict(fusion, partial)
    assert all(len(result.rows) == PAGES for result in results)
    assert recall(results, data) > max(recall(scores["one"], data), recall(scores["two"], data))


def test_the_same_fit_gives_the_same_bytes(data: Planted, fusion: LearnedFusion, tmp_path: Path) -> None:
    fusion.save(tmp_path / "a")
    fit(data).save(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_saved_and_loaded_it_predicts_the_same_and_saves_the_same(
    data: Planted, fusion: LearnedFusion, tmp_path: Path
) -> None:
    fusion.save(tmp_path / "a")
    loaded = LearnedFusion.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    through = fuse(LearnedConfig(type="learned", model=str(tmp_path / "a")), data[1], data[0].queries, data[0].passages)
    for before, after, same in zip(predict(fusion, data), predict(loaded, data), through, strict=True):
        assert before.rows.tolist() == after.rows.tolist() == same.rows.tolist()
        assert before.scores.tobytes() == after.scores.tobytes() == same.scores.tobytes()


def test_what_is_saved_is_text_and_names_no_document(fusion: LearnedFusion, tmp_path: Path) -> None:
    fusion.save(tmp_path / "a")
    files = contents(tmp_path / "a")
    assert set(files) == {"fusion.json", *(f"fold{i}.txt" for i in range(FOLDS))}
    assert not any(b"doc0" in body for body in files.values())
    record = json.loads(files["fusion.json"])
    assert list(record["routes"].items()) == list(COVERAGE.items())
    assert record["provenance"]["configuration"] == "x"
    assert len(record["held_out"]) == DOCUMENTS


@pytest.mark.parametrize("names", [("one", "two", "ref"), ("two", "one", "useless", "ref"), ("one", "two", "x", "ref")])
def test_other_routes_than_those_of_the_fit_are_refused(
    names: tuple[str, ...], data: Planted, fusion: LearnedFusion
) -> None:
    scores = {name: data[1].get(name, data[1]["one"]) for name in names}
    with pytest.raises(ConfigError, match="fitted on other routes") as caught:
        fusion.fuse(scores, data[0].queries, data[0].passages)
    assert caught.value.got == ", ".join(names)


def test_a_question_on_which_all_routes_are_silent_has_an_empty_ranking(data: Planted, fusion: LearnedFusion) -> None:
    scores = {name: [Scored.empty(), *results[1:]] for name, results in data[1].items()}
    results = fusion.fuse(scores, data[0].queries, data[0].passages)
    assert len(results[0].rows) == 0
    assert len(results[1].rows) == PAGES


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_tree(path: Path) -> None:
    text = path.read_text()
    assert "leaf_value=-0.0" in text
    path.write_text(text.replace("leaf_value=-0.0", "leaf_value=-9.0", 1))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no fusion.json": lambda f: (f / "fusion.json").unlink(),
    "fusion.json cut": lambda f: half(f / "fusion.json"),
    "fusion.json a list": lambda f: (f / "fusion.json").write_text("[]"),
    "fusion.json bytes": lambda f: (f / "fusion.json").write_bytes(b"\xff\xfe\x00"),
    "no routes": lambda f: change(f / "fusion.json", routes=None),
    "a fold missing": lambda f: (f / "fold2.txt").unlink(),
    "a fold empty": lambda f: (f / "fold2.txt").write_text(""),
    "a fold cut": lambda f: half(f / "fold2.txt"),
    "a fold of noise": lambda f: (f / "fold2.txt").write_text("not a model\n"),
    "a document of fold 9": lambda f: change(f / "fusion.json", held_out={"abc": 9}),
    "a fold number of text": lambda f: change(f / "fusion.json", held_out={"abc": "x"}),
    "no folds at all": lambda f: change(f / "fusion.json", sha256=[]),
    "a document of no fold": lambda f: change(f / "fusion.json", held_out={"abc": -1}),
    "one digit of a tree changed": lambda f: edit_tree(f / "fold1.txt"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_files_are_told_not_used(
    damage: Callable[[Path], object], fusion: LearnedFusion, tmp_path: Path
) -> None:
    folder = tmp_path / "fusion"
    fusion.save(folder)
    damage(folder)
    with pytest.raises(DataError, match="cannot be read") as caught:
        LearnedFusion.load(folder)
    assert caught.value.where == folder
