"""Fusions against brute-force reckonings: pools, ranks, z-scores, RRF, mean rank, anchors, features, blend."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from tests.track1.text_tables import make_passages, make_queries
from track1_mdr.config import Coverage, FusionConfig, LearnedConfig, MeanRankConfig, RrfConfig, ZScoreConfig
from track1_mdr.datasets.tables import Scored, top_k
from track1_mdr.fusion.combine import blend, fuse
from track1_mdr.fusion.features import FeatureBuilder
from track1_mdr.fusion.pool import Pool, pools, ranks, zscores

Plain = dict[str, dict[int, float]]
"""Route -> {row: score}, of one query."""

# Few distinct values, so that ties happen; routes may be silent; rows may be missing.
ROUTE = st.dictionaries(st.integers(0, 9), st.integers(-4, 4).map(lambda n: n / 2), max_size=8)
ROUTES: st.SearchStrategy[Plain] = st.fixed_dictionaries({"a": ROUTE, "b": ROUTE, "c": ROUTE})

SPARSE: dict[str, Coverage] = {"ref": "sparse"}


def scored(values: Mapping[int, float]) -> Scored:
    return Scored(np.asarray(list(values), np.int64), np.asarray(list(values.values()), np.float32))


def as_scores(routes: Plain) -> dict[str, list[Scored]]:
    return {name: [scored(values)] for name, values in routes.items()}


def as_dict(result: Scored) -> dict[int, float]:
    return dict(zip(result.rows.tolist(), result.scores.tolist(), strict=True))


def fused(config: FusionConfig, routes: Plain) -> dict[int, float]:
    (result,) = fuse(config, as_scores(routes), make_queries([("q", "d")]), make_passages([("d", "x")] * 10))
    return as_dict(result.check("fusion", "q"))


def rrf(**options: Any) -> RrfConfig:
    return RrfConfig(type="rrf", **options)


def zscore(**options: Any) -> ZScoreConfig:
    return ZScoreConfig(type="zscore", **options)


def mean_rank(**options: Any) -> MeanRankConfig:
    return MeanRankConfig(type="mean_rank", **options)


ALL = [rrf(), zscore(), mean_rank(), zscore(bonus={"c": 2.0}), mean_rank(anchors={"c": 0.5})]
IDS = ["rrf", "zscore", "mean_rank", "bonus", "anchor"]


def union(routes: Plain) -> set[int]:
    return {row for values in routes.values() for row in values}


def slow_rank(values: dict[int, float], row: int) -> float:
    """The mean of the places that a row's equals take."""
    better = sum(value > values[row] for value in values.values())
    equal = sum(value == values[row] for value in values.values())
    return better + (equal + 1) / 2


def slow_z(values: dict[int, float]) -> dict[int, float]:
    mean = math.fsum(values.values()) / max(len(values), 1)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values.values()) / max(len(values), 1))
    return {row: (v - mean) / deviation if deviation else 0.0 for row, v in values.items()}


@settings(deadline=None)
@given(ROUTES, st.fixed_dictionaries({"a": st.floats(0, 3), "b": st.floats(0, 3)}), st.floats(1, 60))
def test_rrf_is_the_sum_of_reciprocal_ranks(routes: Plain, weights: dict[str, float], k: float) -> None:
    expected = {
        row: sum(
            weights.get(name, 1.0) / (k + slow_rank(values, row)) for name, values in routes.items() if row in values
        )
        for row in union(routes)
    }
    assert fused(rrf(k=k, weights=weights), routes) == pytest.approx(expected, abs=1e-5)


@settings(deadline=None)
@given(ROUTES, st.fixed_dictionaries({"a": st.floats(0, 3), "c": st.floats(0, 3)}))
def test_zscore_is_the_weighted_sum_with_the_lowest_where_missing(routes: Plain, weights: dict[str, float]) -> None:
    expected = dict.fromkeys(union(routes), 0.0)
    for name, values in routes.items():
        standard = slow_z(values)
        lowest = min(standard.values(), default=0.0)
        for row in expected:
            expected[row] += weights.get(name, 1.0) * standard.get(row, lowest)
    assert fused(zscore(weights=weights), routes) == pytest.approx(expected, abs=1e-4)


@settings(deadline=None)
@given(ROUTES, st.floats(1, 30))
def test_mean_rank_is_minus_the_mean_with_absent_where_missing(routes: Plain, absent: float) -> None:
    expected = {
        row: -sum(slow_rank(v, row) if row in v else absent for v in routes.values()) / 3 for row in union(routes)
    }
    assert fused(mean_rank(absent=absent), routes) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("config", ALL, ids=IDS)
@given(routes=ROUTES, data=st.data())
@settings(max_examples=40, deadline=None)
def test_order_of_routes_and_of_candidates_changes_nothing(
    config: FusionConfig, routes: Plain, data: st.DataObject
) -> None:
    shuffled = {
        name: dict(data.draw(st.permutations(list(routes[name].items()))))
        for name in data.draw(st.permutations(list(routes)))
    }
    assert fused(config, shuffled) == pytest.approx(fused(config, routes), abs=1e-5)


@pytest.mark.parametrize("config", ALL, ids=IDS)
@given(routes=ROUTES)
@settings(max_examples=40, deadline=None)
def test_the_union_is_ranked_never_the_intersection(config: FusionConfig, routes: Plain) -> None:
    result = fused(config, routes)
    assert set(result) == union(routes)
    assert all(math.isfinite(value) for value in result.values())


@settings(deadline=None)
@given(ROUTES)
def test_rrf_and_mean_rank_hang_on_order_alone(routes: Plain) -> None:
    bent = {name: {row: math.exp(2 * value) + 7 for row, value in values.items()} for name, values in routes.items()}
    for config in (rrf(), mean_rank()):
        assert fused(config, bent) == pytest.approx(fused(config, routes), abs=1e-6)


@settings(deadline=None)
@given(ROUTES)
def test_zscore_hangs_on_no_scale_and_no_offset(routes: Plain) -> None:
    moved = {name: {row: 8 * value - 3 for row, value in values.items()} for name, values in routes.items()}
    assert fused(zscore(), moved) == pytest.approx(fused(zscore(), routes), abs=1e-4)


@pytest.mark.parametrize("config", [rrf(), zscore(), mean_rank()], ids=IDS[:3])
def test_a_page_that_one_route_lacks_can_still_come_first(config: FusionConfig) -> None:
    """Two routes put page 7 first; the third has not seen it. With -inf for missing it would be last."""
    routes: Plain = {
        "a": {7: 9.0, 4: 3.0, 5: 2.5, 6: 2.0, 1: 1.0},
        "b": {7: 9.0, 8: 3.0, 9: 2.5, 3: 2.0, 2: 1.0},
        "c": {1: 0.3, 2: 0.2, 3: 0.1},
    }
    assert int(top_k(scored(fused(config, routes)), 1).rows[0]) == 7


def test_missing_ranks_below_what_the_route_found_all_else_equal() -> None:
    routes: Plain = {"a": {1: 1.0, 2: 1.0, 3: 1.0}, "b": {1: 5.0, 2: 4.0}}
    for config in (rrf(), mean_rank()):
        result = fused(config, routes)
        assert result[1] > result[2] > result[3]
    result = fused(zscore(), routes)
    assert result[1] > result[2] >= result[3]


def test_a_bonus_adds_its_raw_score_and_nothing_where_it_has_none() -> None:
    base: Plain = {"a": {1: 3.0, 2: 2.0, 3: 1.0}}
    plain = fused(zscore(), base)
    with_bonus = fused(zscore(bonus={"ref": 0.5}), {**base, "ref": {3: 1.0}})
    assert with_bonus == pytest.approx({1: plain[1], 2: plain[2], 3: plain[3] + 0.5}, abs=1e-6)


def test_a_bonus_on_a_page_that_no_other_route_has_counts_from_the_lowest() -> None:
    result = fused(zscore(bonus={"ref": 9.0}), {"a": {1: 3.0, 2: 1.0}, "ref": {5: 1.0}})
    assert result == pytest.approx({1: 1.0, 2: -1.0, 5: 8.0}, abs=1e-6)


def test_a_route_with_weight_and_bonus_counts_both_ways() -> None:
    result = fused(zscore(weights={"a": 2.0}, bonus={"a": 1.0}), {"a": {1: 3.0, 2: 1.0}})
    assert result == pytest.approx({1: 5.0, 2: -1.0}, abs=1e-6)


def test_an_anchor_above_its_threshold_is_first_and_has_no_vote() -> None:
    routes: Plain = {"a": {1: 3.0, 2: 2.0}, "b": {1: 9.0, 2: 5.0}, "picture": {4: 0.9, 1: 0.2}}
    config = mean_rank(absent=22, anchors={"picture": 0.5})
    assert fused(config, routes) == pytest.approx({1: -1.0, 2: -2.0, 4: 0.0})
    routes["picture"] = {4: 0.5, 1: 0.2}  # not above the threshold
    assert fused(config, routes) == pytest.approx({1: -1.0, 2: -2.0, 4: -22.0})
    routes["picture"] = {}
    assert fused(config, routes) == pytest.approx({1: -1.0, 2: -2.0})


def test_an_anchor_beats_a_unanimous_first_place() -> None:
    routes: Plain = {"a": {1: 3.0}, "b": {1: 9.0}, "picture": {4: 0.9}}
    result = fused(mean_rank(anchors={"picture": 0.5}), routes)
    assert int(top_k(scored(result), 1).rows[0]) == 4


@pytest.mark.parametrize(
    "config",
    [rrf(weights={"typo": 1}), zscore(weights={"typo": 1}), zscore(bonus={"typo": 1}), mean_rank(anchors={"typo": 1})],
    ids=["rrf", "weights", "bonus", "anchors"],
)
def test_a_fusion_that_names_a_route_that_does_not_run_is_refused(config: FusionConfig) -> None:
    with pytest.raises(ConfigError, match="typo") as caught:
        fused(config, {"a": {1: 1.0}, "b": {2: 1.0}})
    assert caught.value.expected == "some of: a, b"


def test_a_learned_fusion_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no fitted fusion"):
        fused(LearnedConfig(type="learned", model=str(tmp_path)), {"a": {1: 1.0}})


@pytest.mark.parametrize("config", ALL[:3], ids=IDS[:3])
def test_a_query_on_which_all_are_silent_has_an_empty_ranking(config: FusionConfig) -> None:
    assert fused(config, {"a": {}, "b": {}}) == {}


def test_several_queries_keep_their_order() -> None:
    scores = {"a": [scored({1: 1.0}), scored({2: 1.0}), Scored.empty()]}
    results = fuse(rrf(), scores, make_queries([("q", "d")] * 3), make_passages([("d", "x")] * 3))
    assert [r.rows.tolist() for r in results] == [[1], [2], []]
    assert [pool.rows.tolist() for pool in pools(scores)] == [[1], [2], []]


@settings(deadline=None)
@given(ROUTES)
def test_a_pool_is_the_union_with_nan_where_missing(routes: Plain) -> None:
    pool = Pool.of(as_scores(routes), 0)
    assert pool.rows.tolist() == sorted(union(routes))
    for column, name in enumerate(pool.routes):
        for place, row in enumerate(pool.rows.tolist()):
            value = pool.values[place, column]
            assert value == routes[name][row] if row in routes[name] else np.isnan(value)


@settings(deadline=None)
@given(ROUTE.filter(bool))
def test_zscores_and_ranks_against_a_slow_reckoning(values: dict[int, float]) -> None:
    column = np.asarray([*values.values(), np.nan])[:, None]
    standard, placed = zscores(column)[:, 0], ranks(column)[:, 0]
    assert standard[:-1].tolist() == pytest.approx(list(slow_z(values).values()), abs=1e-9)
    assert placed[:-1].tolist() == [slow_rank(values, row) for row in values]
    assert np.isnan(standard[-1]) and np.isnan(placed[-1])


@pytest.mark.parametrize("value", [0.1, 1e6 + 0.1, -3.3, 1e-12])
def test_a_column_of_one_value_says_nothing(value: float) -> None:
    assert zscores(np.full((7, 1), value)).ravel().tolist() == [0.0] * 7


FIVE: Plain = {
    "text": {0: 3.0, 1: 1.0, 2: 2.0, 5: 0.5},
    "ref": {2: 1.0},
    "image": {1: 0.9, 5: 0.1},
}


def features(routes: Plain, question: str = "How many boats are in table 3?") -> dict[str, list[float]]:
    pages = [("d", "one two 3"), ("d", ""), ("d", "Table 1: x"), ("e", "x"), ("e", "y"), ("e", "z 1 2")]
    builder = FeatureBuilder.of(make_queries([(question, "d")]), make_passages(pages), SPARSE)
    matrix = builder.build(Pool.of(as_scores(routes), 0), 0)
    names = builder.names(list(routes))
    assert matrix.shape[1] == len(names) == len(builder.monotone(list(routes))) == len(set(names))
    return {name: matrix[:, i].tolist() for i, name in enumerate(names)}


def test_features_by_hand() -> None:
    columns = features(FIVE)
    assert columns["text.raw"] == [3.0, 1.0, 2.0, 0.5]
    assert columns["text.gap"] == [0.0, -2.0, -1.0, -2.5]
    assert np.exp(columns["text.rank"]).tolist() == pytest.approx([1, 3, 2, 4])
    assert columns["ref"] == [0.0, 0.0, 1.0, 0.0]
    assert np.isnan(columns["image.raw"]).tolist() == [True, False, True, False]
    assert columns["page_position"] == [0.0, 0.5, 1.0, 1.0]
    assert columns["page_captions"] == [0.0, 0.0, 1.0, 0.0]
    assert columns["page_digits"] == pytest.approx([1 / 3, 0.0, 1 / 3, 2 / 3])
    assert columns["query_count"] == columns["query_tabular"] == columns["query_digits"] == [1.0] * 4
    assert columns["query_visual"] == [0.0] * 4
    assert columns["candidates"] == pytest.approx([math.log(5)] * 4)


def test_neighbours_are_the_pages_before_and_after_where_they_are_candidates() -> None:
    columns = features(FIVE)
    own, before, after = columns["fused"], columns["fused_before"], columns["fused_after"]
    assert before[1:3] == own[0:2] and after[0:2] == own[1:3]
    assert np.isnan([before[0], after[2], before[3], after[3]]).all()  # rows 2 and 5 are no neighbours


def test_features_do_not_name_the_document() -> None:
    """The same scores and texts under other names give the same features."""
    first = FeatureBuilder.of(make_queries([("q", "d")]), make_passages([("d", "x 1"), ("d", "y")]), SPARSE)
    other = FeatureBuilder.of(make_queries([("q", "zz")]), make_passages([("zz", "x 1"), ("zz", "y")]), SPARSE)
    pool = Pool.of(as_scores({"text": {0: 1.0, 1: 2.0}, "ref": {}}), 0)
    assert np.array_equal(first.build(pool, 0), other.build(pool, 0), equal_nan=True)


def test_better_evidence_has_the_sign_that_never_lowers() -> None:
    builder = FeatureBuilder.of(make_queries([("q", "d")]), make_passages([("d", "x")]), SPARSE)
    signs = dict(zip(builder.names(["text", "ref"]), builder.monotone(["text", "ref"]), strict=True))
    assert {signs[f"text.{kind}"] for kind in ("raw", "z", "gap")} | {signs["ref"], signs["fused"]} == {1}
    assert {signs["text.rank"], signs["fused_rank"]} == {-1}
    assert {signs["page_words"], signs["query_words"], signs["fused_before"]} == {0}


def test_blend_adds_the_reranker_to_the_standardised_ranking() -> None:
    head = [scored({4: 10.0, 2: 20.0, 9: 30.0}), Scored.empty(), scored({1: 5.0})]
    extra = [scored({2: 0.5, 4: 1.0}), Scored.empty(), Scored.empty()]
    first, second, third = (as_dict(s) for s in blend(head, extra, 2.0))
    z = math.sqrt(1.5)
    assert first == pytest.approx({4: -z + 2.0, 2: 1.0, 9: z}, abs=1e-6)
    assert second == {}
    assert third == {1: 0.0}


def test_blend_with_weight_zero_keeps_the_order() -> None:
    rng = np.random.default_rng(1)
    head = scored(dict(zip(range(20), rng.normal(size=20).tolist(), strict=True)))
    (result,) = blend([head], [scored({3: 1.0})], 0.0)
    assert top_k(result, 20).rows.tolist() == top_k(head, 20).rows.tolist()
