"""The leaderboard's rule against a brute-force oracle, invariants, hand-worked and published figures."""

import doctest
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.metrics import retrieval
from common.metrics.retrieval import (
    KS,
    ParticipantVisibleError,
    ceiling_at,
    hits_at,
    recall_at,
    recall_at_k,
    score,
    task_of,
)

IDS = [str(i) for i in range(8)]
rankings = st.lists(st.sampled_from(IDS), max_size=7)
golds = st.lists(st.sampled_from(IDS), min_size=1, max_size=4)
queries = st.lists(st.tuples(rankings, golds), min_size=1, max_size=6)


def brute_recall(ranking: list[str], gold: list[str], k: int) -> float:
    """The rule, spelled out: count each gold id that stands somewhere in the first k places."""
    wanted = []
    for item in gold:
        if item not in wanted:
            wanted.append(item)
    found = 0
    for item in wanted:
        for place in range(min(k, len(ranking))):
            if ranking[place] == item:
                found += 1
                break
    return found / len(wanted)


def frame(rows: dict[str, list[str]]) -> pd.DataFrame:
    return pd.DataFrame({"question_id": list(rows), "passage_id": [json.dumps(ids) for ids in rows.values()]})


def test_doctests() -> None:
    result = doctest.testmod(retrieval)
    assert result.attempted >= 6
    assert result.failed == 0


@settings(deadline=None)  # a shared machine may stall
@given(queries)
def test_fast_path_equals_the_oracle(items: list[tuple[list[str], list[str]]]) -> None:
    runs, gold = [r for r, _ in items], [g for _, g in items]
    want = [[brute_recall(r, g, k) for k in (1, 2, 3, 5)] for r, g in items]
    assert recall_at(runs, gold, (1, 2, 3, 5)).tolist() == want
    assert [[recall_at_k(r, g, k) for k in (1, 2, 3, 5)] for r, g in items] == want


@settings(deadline=None)  # a shared machine may stall
@given(queries)
def test_a_wrong_id_at_the_end_never_raises_recall(items: list[tuple[list[str], list[str]]]) -> None:
    runs, gold = [r for r, _ in items], [g for _, g in items]
    assert np.array_equal(recall_at([[*r, "wrong"] for r in runs], gold), recall_at(runs, gold))
    in_front = recall_at([["wrong", *r] for r in runs], gold)
    assert (in_front <= recall_at(runs, gold)).all()


@settings(deadline=None)  # a shared machine may stall
@given(queries)
def test_a_perfect_ranking_reaches_the_ceiling_and_none_passes_it(items: list[tuple[list[str], list[str]]]) -> None:
    runs, gold = [r for r, _ in items], [g for _, g in items]
    perfect = [list(dict.fromkeys(g)) for g in gold]
    assert np.array_equal(recall_at(perfect, gold), ceiling_at(gold))
    assert (recall_at(runs, gold) <= ceiling_at(gold)).all()


@settings(deadline=None)  # a shared machine may stall
@given(queries)
def test_recall_grows_with_k(items: list[tuple[list[str], list[str]]]) -> None:
    values = recall_at([r for r, _ in items], [g for _, g in items])
    assert (np.diff(values, axis=1) >= 0).all()


def test_integer_rows_work_as_ids() -> None:
    runs, gold = [np.array([5, 2, 9]), np.array([1])], [np.array([9, 2]), np.array([0])]
    assert recall_at([r.tolist() for r in runs], [g.tolist() for g in gold]).tolist() == [[0, 1, 1], [0, 0, 0]]
    hits, counts = hits_at([r.tolist() for r in runs], [g.tolist() for g in gold])
    assert hits.tolist() == [[0, 2, 2], [0, 0, 0]]
    assert counts.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("runs", "gold", "ks"), [([["1"]], [[]], KS), ([["1"]], [["1"], ["2"]], KS), ([["1"]], [["1"]], (0, 1))]
)
def test_undefined_recall_is_refused(runs: list[list[str]], gold: list[list[str]], ks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"gold|rankings|cut-offs"):
        recall_at(runs, gold, ks)
    if ks == KS and len(runs) == len(gold):
        with pytest.raises(ValueError, match="gold"):
            recall_at_k(runs[0], gold[0], 1)


def test_the_two_tasks_are_told_apart_at_their_ends() -> None:
    ends = ["0", "6414", "6415", "9999", "10000", "11657", "11658", "-1", "007", "1e4", "٣", ""]
    tasks = ["m2kr", "m2kr", None, None, "mmdocir", "mmdocir", *[None] * 6]
    assert [task_of(i) for i in ends] == tasks
    assert [len(ids) for ids in retrieval.TASK_IDS.values()] == [6415, 1658]


full = st.dictionaries(
    st.sampled_from(["0", "1", "6414", "10000", "10001", "11657"]),
    st.tuples(st.lists(st.sampled_from(IDS), min_size=5, max_size=5), golds),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(full, st.randoms(use_true_random=False))
def test_score_equals_the_rule_and_ignores_row_order(items: dict[str, tuple[list[str], list[str]]], rng) -> None:
    solution = frame({i: g for i, (_, g) in items.items()})
    shuffled = list(items)
    rng.shuffle(shuffled)
    submission = frame({i: items[i][0] for i in shuffled})
    means = []
    for task in (range(0, 6415), range(10000, 11658)):
        mine = [v for i, v in items.items() if int(i) in task]
        if mine:
            means.append(sum(sum(brute_recall(r, g, k) for k in KS) / 3 for r, g in mine) / len(mine))
    want = 100 * sum(means) / len(means)
    assert score(solution, submission, "question_id") == pytest.approx(want)
    # Kaggle reads ids as numbers where it can.
    as_numbers = submission.assign(question_id=submission["question_id"].astype(int))
    assert score(solution, as_numbers, "question_id") == pytest.approx(want)


GOLD = frame({"0": ["Q7"], "10000": ["3", "4"]})
RUN = frame({"0": ["Q1", "Q7", "Q2", "Q3", "Q4"], "10000": ["3", "0", "1", "4", "2"]})


def _set(column: str, value: object) -> pd.DataFrame:
    changed = RUN.astype(object).copy()
    changed.loc[1, column] = value
    return changed


@pytest.mark.parametrize(
    ("submission", "said"),
    [
        (RUN.iloc[:1], "1 missing .10000"),
        (pd.concat([RUN, frame({"5": ["Q1"]})]), "1 unknown .5"),
        (pd.concat([RUN, RUN.iloc[:1]]), "given twice"),
        (RUN.drop(columns="passage_id"), "no column 'passage_id'"),
        (RUN.rename(columns={"question_id": "id"}), "no column 'question_id'"),
        (_set("passage_id", float("nan")), "not a JSON list"),
        (_set("passage_id", None), "not a JSON list"),
        (_set("question_id", float("nan")), "not a question id"),
        (_set("question_id", 10000.5), "not a question id"),
        (_set("question_id", True), "not a question id"),
        (_set("passage_id", "['3', '0']"), "not a JSON list"),
        (_set("passage_id", "[3, 0]"), "not a JSON list"),
        (_set("passage_id", "[]"), "not a JSON list"),
        (_set("passage_id", '{"3": 0}'), "not a JSON list"),
        (_set("passage_id", "[" * 100_000), "not a JSON list"),
    ],
)
def test_a_bad_submission_is_refused_visibly(submission: pd.DataFrame, said: str) -> None:
    assert score(GOLD, RUN, "question_id") == pytest.approx(100 * (2 / 3 + 2 / 3) / 2)
    with pytest.raises(ParticipantVisibleError, match=said):
        score(GOLD, submission, "question_id")


def test_faults_of_the_solution_are_not_blamed_on_the_participant() -> None:
    for solution in (frame({}), frame({"7000": ["1"]}), frame({"0": []})):
        submission = solution if len(solution) else RUN.iloc[:0]
        with pytest.raises(ValueError, match="solution"):
            score(solution, submission, "question_id")


def test_the_file_stands_alone(root, tmp_path) -> None:
    text = (root / "common" / "metrics" / "retrieval.py").read_text(encoding="utf-8")
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert not [line for line in imports if "common" in line or "track1" in line]


@pytest.mark.real
def test_published_figures_of_a_perfect_run(real_data) -> None:
    gold = pd.read_csv(real_data / "mmdocir" / "gold.csv", dtype=str)
    lists = [json.loads(cell) for cell in gold["passage_id"]]
    r1, r3, r5 = 100 * recall_at(lists, lists).mean(axis=0)
    assert (round(r1, 1), round(r3, 1), round(r5, 1)) == (79.0, 99.2, 99.9)
    assert round(score(gold, gold, "question_id"), 1) == 92.7
