"""Figures against sklearn and plain loops: ties, standard errors, lists, exclusion of the history."""

import numpy as np
import pytest

from common.generative.evaluate import (
    best_items,
    evaluate,
    figures,
    ranks_by_scores,
    ranks_in_lists,
    top_k,
)
from common.generative.sequences import Examples, Histories, from_lists, leave_one_out, whole


class Table:
    """Scores of a fixed table, by user."""

    name = "table"

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def scores(self, histories: Histories) -> np.ndarray:
        return self.table[histories.users]

    def recommend(
        self, histories: Histories, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return top_k(self.scores(histories), k, allowed)


class Listed:
    """The same as lists only."""

    name = "listed"

    def __init__(self, table: np.ndarray) -> None:
        self.inner = Table(table)

    def recommend(
        self, histories: Histories, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.inner.recommend(histories, k, allowed=allowed)


def world(users: int = 40, items: int = 30, seed: int = 0) -> tuple[Examples, np.ndarray]:
    rng = np.random.default_rng(seed)
    lists = [rng.permutation(items)[: rng.integers(3, 9)] for _ in range(users)]
    table = rng.integers(0, 6, (users, items)).astype(np.float32)  # many ties
    return leave_one_out(from_lists(lists, items)).test, table


def test_ranks_are_places_in_a_stable_sort() -> None:
    examples, table = world()
    order = np.argsort(-table, axis=1, kind="stable")
    wanted = [order[q].tolist().index(t) + 1 for q, t in enumerate(examples.targets)]
    assert ranks_by_scores(table, examples).tolist() == wanted
    items, scores = top_k(table, 7)
    assert (items == order[:, :7]).all()
    assert (scores == np.take_along_axis(table, items, 1)).all()


def test_ndcg_is_sklearn_s() -> None:
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(1)
    scores, targets = rng.normal(size=(50, 20)), rng.integers(0, 20, 50)
    relevance = np.zeros((50, 20))
    relevance[np.arange(50), targets] = 1
    order = np.argsort(-scores, axis=1)
    found = figures(ranks_in_lists(order, targets), (5, 10), None)
    for k in (5, 10):
        assert found[f"NDCG@{k}"].mean == pytest.approx(float(ndcg_score(relevance, scores, k=k)))


def test_standard_errors_are_binomial_and_cover_a_bootstrap() -> None:
    rng = np.random.default_rng(2)
    ranks = rng.integers(0, 40, 400)
    found = figures(ranks, (10,), 40)
    p = found["Recall@10"].mean
    assert found["Recall@10"].error == pytest.approx((p * (1 - p) / 400) ** 0.5)
    again = [figures(rng.choice(ranks, 400), (10,), 40)["MRR@40"].mean for _ in range(400)]
    assert found["MRR@40"].error == pytest.approx(np.std(again), rel=0.2)


def test_lists_and_full_ranking_agree_on_recall_and_ndcg() -> None:
    examples, table = world()
    full, listed = evaluate(Table(table), examples, chunk=7), evaluate(Listed(table), examples, depth=12)
    assert (full.depth, listed.depth) == (None, 12)
    for name in ("Recall@5", "Recall@10", "NDCG@5", "NDCG@10"):
        assert full.figures[name] == listed.figures[name]
    assert listed.figures["MRR@12"].mean <= full.figures["MRR"].mean
    assert evaluate(Listed(table), examples, depth=30).figures["MRR@30"] == full.figures["MRR"]


def test_excluding_the_history_in_both_ways_is_the_same() -> None:
    examples, table = world()
    for query, history in enumerate(examples.histories):
        table[query, history] = 9.0  # the history would fill the lists
    plain = evaluate(Table(table), examples)
    full, listed = (evaluate(one, examples, depth=30, exclude_history=True) for one in (Table(table), Listed(table)))
    assert full.figures["Recall@5"] == listed.figures["Recall@5"]
    assert full.figures["Recall@5"].mean > plain.figures["Recall@5"].mean
    items, scores = best_items(Listed(table), examples.histories, 5, exclude_history=True)
    assert not any(np.isin(row, history).any() for row, history in zip(items, examples.histories, strict=True))
    assert (items >= 0).all() and (np.diff(scores, axis=1) <= 0).all()


def test_a_target_of_the_history_is_never_found_when_it_is_excluded() -> None:
    data = from_lists([np.array([1, 2, 1])], 3)
    examples = leave_one_out(data).test
    table = np.array([[0.0, 5.0, 1.0]], np.float32)
    assert evaluate(Table(table), examples, ks=(1,)).figures["Recall@1"].mean == 1.0
    assert evaluate(Table(table), examples, ks=(1,), exclude_history=True).figures["Recall@1"].mean == 0.0


def test_top_k_beyond_the_catalogue_and_the_allowed() -> None:
    items, scores = top_k(np.array([[3.0, 1.0, 2.0]]), 5, np.array([True, True, False]))
    assert items.tolist() == [[0, 1, -1, -1, -1]]
    assert np.isneginf(scores[0, 2:]).all()
    with pytest.raises(ValueError, match="NaN"):
        ranks_by_scores(np.array([[np.nan, 1.0]]), Examples(whole(from_lists([np.array([0])], 2)), np.array([0])))


def test_a_recommender_never_sees_a_target() -> None:
    examples, _ = world()
    assert not hasattr(examples.histories, "targets")
    for history, target in zip(examples.histories, examples.targets, strict=True):
        assert target not in history  # items of a user differ here
