"""Constrained beam search against brute force over every item, on random catalogues and `transformers`."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.hf_steps import HuggingFaceSteps, allowed_tokens, dict_trie, generate, starts, tiny_gpt2, tiny_t5
from common.errors import ConfigError, DataError
from common.generative import beam as beam_module
from common.generative.beam import BeamResult, Rows, constrained_beam_search, exhaustive, score_items
from common.generative.trie import PrefixTrie
from common.generative.trie_tensors import TensorTrie
from common.training.repeatable import repeatable
from tests.common.generative.test_trie import catalogues, random_sids

STATES = 997


@dataclass
class Planted:
    """Logits that depend on the query and the whole prefix, kept per row as a decoder keeps its cache."""

    sizes: tuple[int, ...]
    queries: int
    seed: int = 0
    scale: float = 2.0
    levels: list[int] = field(default_factory=list)
    state: Tensor = field(default_factory=lambda: torch.empty(0))

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.tables = [self.scale * torch.randn(STATES, size, generator=generator) for size in self.sizes]

    def __call__(self, rows: Rows) -> Tensor:
        assert torch.equal(rows.query, rows.query.sort().values)
        if rows.level == 0:
            assert torch.equal(rows.query, torch.arange(self.queries)) and torch.equal(rows.parent, rows.query)
            assert bool((rows.token == -1).all())
            self.state = rows.query * 31
        else:
            self.state = self.after(self.state.index_select(0, rows.parent), rows.token)
        self.levels.append(rows.level)
        return self.tables[rows.level][self.state % STATES]

    @staticmethod
    def after(state: Tensor, token: Tensor) -> Tensor:
        return state * 53 + token + 7

    def brute_force(self, sids: np.ndarray) -> np.ndarray:
        """Log-probability [Q, N] of each ID, item by item, from a dict of prefixes, in float64."""
        codes = defaultdict(set)
        for row in sids.tolist():
            for level in range(len(row)):
                codes[tuple(row[:level])].add(row[level])
        out = np.zeros((self.queries, len(sids)))
        for query in range(self.queries):
            for item, row in enumerate(sids.tolist()):
                state = torch.tensor(query * 31)
                for level, code in enumerate(row):
                    logits = self.tables[level][state % STATES].double().tolist()
                    total = math.log(sum(math.exp(logits[other]) for other in codes[tuple(row[:level])]))
                    out[query, item] += logits[code] - total
                    state = self.after(state, torch.tensor(code))
        return out


def search(trie: PrefixTrie, steps: Callable[[Rows], Tensor], queries: int, beam: int, top_k: int) -> BeamResult:
    return constrained_beam_search(steps, trie, queries=queries, beam=beam, top_k=top_k)


def ranking(scores: np.ndarray) -> np.ndarray:
    """Items by falling score, equal ones by item."""
    return np.stack([np.lexsort((np.arange(scores.shape[1]), -row)) for row in scores])


@settings(max_examples=50, deadline=None)
@given(catalogues(), st.integers(1, 3), st.integers(1, 50), st.integers(0, 10**6))
def test_a_beam_returns_different_items_of_the_catalogue_with_their_own_scores(
    catalogue: tuple[np.ndarray, tuple[int, ...]], queries: int, beam: int, seed: int
) -> None:
    sids, sizes = catalogue
    items = np.arange(len(sids)) * 2 + 1
    steps = Planted(sizes, queries, seed)
    result = search(PrefixTrie.from_sids(sids, sizes, items), steps, queries, beam, beam)
    truth = steps.brute_force(sids)
    assert result.items.shape == result.scores.shape == (queries, beam)
    for row, scores, exact in zip(result.items.tolist(), result.scores.tolist(), truth, strict=True):
        found = [item for item in row if item >= 0]
        # As many as exist, not one more; what is left over is -1 and -inf, and comes last.
        assert len(found) == len(set(found)) == min(beam, len(sids)) and set(found) <= set(items.tolist())
        assert row[len(found) :] == [-1] * (beam - len(found))
        assert scores[len(found) :] == [-math.inf] * (beam - len(found))
        np.testing.assert_allclose(scores[: len(found)], exact[(np.array(found) - 1) // 2], atol=1e-5)
        assert scores == sorted(scores, reverse=True)


@settings(max_examples=50, deadline=None)
@given(catalogues(), st.integers(0, 10**6))
def test_a_full_beam_is_brute_force_and_scores_sum_to_one(
    catalogue: tuple[np.ndarray, tuple[int, ...]], seed: int
) -> None:
    sids, sizes = catalogue
    steps = Planted(sizes, 2, seed)
    trie, truth = PrefixTrie.from_sids(sids, sizes), steps.brute_force(sids)
    result = exhaustive(steps, trie, queries=2)
    best = ranking(truth)
    np.testing.assert_allclose(result.scores.numpy(), np.take_along_axis(truth, best, 1), atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(truth, result.items.numpy(), 1), result.scores.numpy(), atol=1e-5)
    assert np.array_equal(np.sort(result.items.numpy(), 1), np.sort(best, 1))
    clear = np.diff(np.take_along_axis(truth, best, 1), axis=1).max(initial=-1) < -1e-5  # no near tie
    assert not clear or np.array_equal(result.items.numpy(), best)
    np.testing.assert_allclose(result.scores.exp().sum(1).numpy(), 1, atol=1e-5)


def test_the_widest_level_above_the_last_is_beam_enough() -> None:
    """facts section 0.3: equality holds once the beam holds every prefix, before it holds every item."""
    sizes = (4, 5, 30)
    sids = random_sids(300, sizes, 1)
    trie, steps = PrefixTrie.from_sids(sids, sizes), Planted(sizes, 6, 3)
    result = search(trie, steps, 6, trie.count(2), 10)
    best = ranking(steps.brute_force(sids))[:, :10]
    assert trie.count(2) == 20 < len(sids) and np.array_equal(result.items.numpy(), best)


def test_recall_of_brute_force_rises_with_the_beam() -> None:
    sizes, queries = (8, 8, 8, 8), 32
    sids = random_sids(1500, sizes, 2)
    trie, steps = PrefixTrie.from_sids(sids, sizes), Planted(sizes, queries, 5, scale=1.0)
    truth = exhaustive(steps, trie, queries=queries).items[:, :10]
    recalls = []
    for beam in (10, 20, 40, 80, trie.count(3)):
        found = search(trie, steps, queries, beam, 10).items
        recalls.append(float((found[:, :, None] == truth[:, None, :]).any(1).float().mean()))
    assert recalls == sorted(recalls) and recalls[0] < 0.85 and recalls[-1] == 1.0, recalls


@settings(max_examples=40, deadline=None)
@given(catalogues(), st.integers(0, 10**6), st.data())
def test_given_items_score_as_the_search_scores_them(
    catalogue: tuple[np.ndarray, tuple[int, ...]], seed: int, data: st.DataObject
) -> None:
    sids, sizes = catalogue
    asked = torch.tensor(
        data.draw(
            st.lists(
                st.lists(st.integers(-1, len(sids) - 1), min_size=3, max_size=3),
                min_size=2,
                max_size=2,
            )
        )
    )
    steps = Planted(sizes, 2, seed)
    scores, truth = score_items(steps, PrefixTrie.from_sids(sids, sizes), asked), steps.brute_force(sids)
    expected = np.where(asked.numpy() < 0, -np.inf, np.take_along_axis(truth, asked.numpy(), 1))
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)


def test_the_scores_of_given_items_carry_gradients() -> None:
    sizes = (3, 4)
    sids = random_sids(9, sizes, 0)
    steps = Planted(sizes, 2)
    steps.tables = [table.requires_grad_() for table in steps.tables]
    trie, items = PrefixTrie.from_sids(sids, sizes), torch.tensor([[0, 3], [5, -1]])
    found = score_items(steps, trie, items)
    found[items >= 0].sum().backward()
    table = steps.tables[0]
    assert table.grad is not None and float(table.grad.abs().sum()) > 0
    assert torch.allclose(table.grad.sum(1), torch.zeros(STATES), atol=1e-6)  # a softmax's gradient sums to nothing


@settings(max_examples=40, deadline=None)
@given(catalogues(), st.integers(0, 10**6), st.integers(1, 8), st.data())
def test_sold_out_items_leave_as_if_they_had_never_been(
    catalogue: tuple[np.ndarray, tuple[int, ...]], seed: int, beam: int, data: st.DataObject
) -> None:
    sids, sizes = catalogue
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(sids), max_size=len(sids))))
    mask[data.draw(st.integers(0, len(sids) - 1))] = True
    rows = np.flatnonzero(mask)
    left = search(PrefixTrie.from_sids(sids, sizes).restrict(mask), Planted(sizes, 3, seed), 3, beam, beam)
    fresh = search(PrefixTrie.from_sids(sids[rows], sizes, rows), Planted(sizes, 3, seed), 3, beam, beam)
    assert torch.equal(left.items, fresh.items) and torch.equal(left.scores, fresh.scores)
    whole = left.scores.exp().sum(1)
    assert beam < len(rows) or torch.allclose(whole, torch.ones(3), atol=1e-5)


def test_a_query_alone_and_in_a_batch_get_the_same() -> None:
    sizes = (5, 4, 6)
    trie, queries = PrefixTrie.from_sids(random_sids(70, sizes, 4), sizes), 5
    steps = Planted(sizes, queries, 6)
    together = search(trie, steps, queries, 7, 5)
    for query in range(queries):
        single = Planted(sizes, 1, 6)
        single.tables = [table.roll(-31 * query * 53**level % STATES, 0) for level, table in enumerate(single.tables)]
        alone = search(trie, single, 1, 7, 5)
        assert torch.equal(alone.items[0], together.items[query])
        torch.testing.assert_close(alone.scores[0], together.scores[query])


def test_equal_scores_go_by_item_row() -> None:
    sizes = (4, 4, 4)
    grid = np.stack(np.unravel_index(np.arange(64), sizes), 1)
    sids = grid[np.random.default_rng(0).permutation(64)]
    trie = PrefixTrie.from_sids(sids, sizes)

    def flat(rows: Rows) -> Tensor:
        return torch.zeros(len(rows.query), 4)

    assert exhaustive(flat, trie, queries=2).items.tolist() == [list(range(64))] * 2
    # A beam of all prefixes still sees all items; a narrow one sees those of the first prefixes, in order of item.
    assert search(trie, flat, 1, 16, 6).items.tolist() == [list(range(6))]
    first = np.flatnonzero((sids[:, 0] == 0) & (sids[:, 1] <= 1))
    assert search(trie, flat, 1, 2, 2).items.tolist() == [sorted(first.tolist())[:2]]


def test_settled_hypotheses_do_not_go_to_the_decoder() -> None:
    sizes = (4, 4, 4)
    sids = np.array([[0, 1, 2], [1, 0, 0], [1, 3, 3], [2, 2, 2]])
    trie, steps = PrefixTrie.from_sids(sids, sizes), Planted(sizes, 2, 1)
    seen = []

    def watched(rows: Rows) -> Tensor:
        seen.append((rows.level, rows.query.tolist()))
        return steps(rows)

    result = search(trie, watched, 2, 4, 4)
    assert seen == [(0, [0, 1]), (1, [0, 1])]  # three of four prefixes name an item after one code, all after two
    truth = steps.brute_force(sids)
    assert np.array_equal(result.items.numpy(), ranking(truth))
    assert search(trie.restrict(sids[:, 0] == 2), watched, 2, 4, 1).items.tolist() == [[3], [3]]
    assert len(seen) == 2 and score_items(watched, trie.restrict(sids[:, 0] == 2), torch.tensor([[3]])).item() == 0


def test_a_forbidden_code_has_no_items_and_half_precision_is_enough() -> None:
    sizes = (3, 4)
    sids = np.stack(np.unravel_index(np.arange(12), sizes), 1)
    trie, steps = PrefixTrie.from_sids(sids, sizes), Planted(sizes, 2)

    def without(rows: Rows) -> Tensor:
        logits = steps(rows)
        logits[:, 0] = -torch.inf
        return logits.bfloat16()

    result = search(trie, without, 2, 12, 12)
    assert result.scores.dtype == torch.float32
    assert [sorted(row) for row in result.items.tolist()] == [[-1] * 6 + [5, 6, 7, 9, 10, 11]] * 2
    assert torch.allclose(result.scores.exp().sum(1), torch.ones(2), atol=1e-5)

    def nothing(rows: Rows) -> Tensor:
        return torch.full((len(rows.query), sizes[rows.level]), -torch.inf)

    assert search(trie, nothing, 2, 3, 3).items.tolist() == [[-1] * 3] * 2


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_logit_that_is_no_number_is_named(bad: float) -> None:
    sizes = (3, 4)
    trie, steps = PrefixTrie.from_sids(random_sids(10, sizes, 0), sizes), Planted(sizes, 2)

    def broken(rows: Rows) -> Tensor:
        logits = steps(rows)
        if rows.level == 1:
            logits[-1, 2] = bad
        return logits

    for run in (lambda: search(trie, broken, 2, 3, 3), lambda: score_items(broken, trie, torch.tensor([[0], [1]]))):
        with pytest.raises(DataError, match=r"no number(.|\n)*level 1, row(.|\n)*query 1(.|\n)*code 2"):
            run()


def test_what_is_refused() -> None:
    sizes = (3, 4)
    trie = PrefixTrie.from_sids(random_sids(10, sizes, 0), sizes)
    for shape in ((2, 4), (1, 3), (2, 3, 1)):
        with pytest.raises(DataError, match=r"another shape(.|\n)*\[2, 3\]"):
            search(trie, lambda rows, shape=shape: torch.zeros(shape), 2, 3, 3)
    with pytest.raises(DataError, match="another shape"):
        search(trie, lambda rows: torch.zeros(2, 3, dtype=torch.long), 2, 3, 3)
    with pytest.raises(ConfigError, match=r"narrower(.|\n)*beam 2, top_k 3"):
        search(trie, Planted(sizes, 2), 2, 2, 3)
    for queries, beam, top_k in ((-1, 3, 3), (2, 3, 0), (2, 0, 0)):
        with pytest.raises(ConfigError):
            search(trie, Planted(sizes, 2), queries, beam, top_k)
    with pytest.raises(DataError, match=r"not in the trie(.|\n)*row 10"):
        score_items(Planted(sizes, 1), trie, torch.tensor([[0, 10]]))
    with pytest.raises(DataError, match="items to score"):
        score_items(Planted(sizes, 1), trie, torch.tensor([0, 1]))
    assert search(trie, Planted(sizes, 0), 0, 3, 3).items.shape == (0, 3)


@pytest.mark.parametrize("make", [tiny_t5, tiny_gpt2])
def test_transformers_generate_agrees_under_one_normalisation(make: Callable[..., Any]) -> None:
    """`transformers` masks after its log-softmax: with `renormalize_logits` its scores are ours, else they are not."""
    sizes, queries, beam = (8, 9, 7), 3, 6
    sids = random_sids(200, sizes, 3)
    trie, model = PrefixTrie.from_sids(sids, sizes), make(sizes, seed=1)
    for weight in model.parameters():
        weight.data *= 3  # sharper than at the start, so that orders are clear
    prompts = torch.randint(2, 2 + sum(sizes), (queries, 5), generator=torch.Generator().manual_seed(0))
    steps = HuggingFaceSteps(model, prompts, sizes)
    ours = search(trie, steps, queries, beam, beam)
    callback = allowed_tokens(dict_trie(sids, sizes), 1 if model.config.is_encoder_decoder else prompts.shape[1])
    theirs = generate(model, prompts, sids, sizes, callback, beam=beam, top_k=beam)
    assert torch.equal(ours.items, theirs.items)
    torch.testing.assert_close(ours.scores, theirs.scores, atol=2e-4, rtol=1e-4)
    assert float(-ours.scores.diff(dim=1).max()) > -1e-6 and len(set(ours.items[0].tolist())) == beam
    exact = score_items(HuggingFaceSteps(model, prompts, sizes), trie, ours.items)
    torch.testing.assert_close(exact, ours.scores, atol=1e-4, rtol=0)
    plain = generate(model, prompts, sids, sizes, callback, beam=beam, top_k=beam, renormalize=False)
    assert float((plain.scores[:, 0] - ours.scores[:, 0]).max()) < -0.01  # mass lost to codes that lead nowhere


def test_transformers_pads_a_wide_beam_with_what_is_not_there_and_we_do_not() -> None:
    """GENRE issue 51: a beam wider than the catalogue."""
    sizes, beam = (4, 4), 6
    sids = np.array([[0, 1], [2, 0], [2, 3]])
    trie, model = PrefixTrie.from_sids(sids, sizes), tiny_t5(sizes)
    prompts = torch.full((1, 3), starts(sizes)[0])
    ours = search(trie, HuggingFaceSteps(model, prompts, sizes), 1, beam, beam)
    assert sorted(ours.items[0].tolist()) == [-1, -1, -1, 0, 1, 2]
    callback = allowed_tokens(dict_trie(sids, sizes), 1)
    try:
        theirs = generate(model, prompts, sids, sizes, callback, beam=beam, top_k=beam).items[0].tolist()
    except ValueError as error:  # versions that refuse an empty list of allowed tokens
        assert "empty list" in str(error)
    else:
        assert theirs.count(-1) or len(set(theirs)) < beam


def test_it_runs_where_training_demands_repeatable_sums() -> None:
    trie = PrefixTrie.from_sids(np.array([[0, 1], [1, 0], [1, 1]]), (2, 2))
    with repeatable(torch.device("cpu")):
        found = constrained_beam_search(lambda rows: torch.zeros(len(rows.query), 2), trie, queries=2, beam=4, top_k=4)
    assert found.items.tolist() == [[0, 1, 2, -1]] * 2


def plain_candidates(found: Tensor, query: Tensor, slot: Tensor, queries: int, most: int) -> Tensor:
    """The oracle: all scores of each query sorted, and all that reach the last of the best."""
    floor = torch.full((queries,), -math.inf)
    for one in range(queries):
        scores = found[query == one].flatten().sort(descending=True).values
        floor[one] = scores[most - 1] if len(scores) >= most else -math.inf
    return torch.nonzero(((found >= floor[query][:, None]) & (found > -math.inf)).flatten()).squeeze(1)


GRIDS = {
    "every code": np.stack(np.unravel_index(np.arange(8 * 6 * 5), (8, 6, 5)), 1),
    "the first codes": np.array(
        [[a, b, c] for a in range(7) for b in range(4 + a % 3) for c in range(1 + (a + b) % 5)]
    ),
    "gaps": random_sids(90, (8, 6, 5), 4),
    "some settled early": np.concatenate(
        [np.stack(np.unravel_index(np.arange(60), (3, 5, 4)), 1), [[5, 1, 1], [6, 0, 2], [7, 3, 0], [7, 5, 4]]]
    ),
}


STRAIGHT = {
    "every code": (True, True, True),
    "the first codes": (True, True, False),  # few children a node: not looked at
    "gaps": (True, False, False),
    "some settled early": (False, False, False),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["distinct", "ties", "forbidden"])
def test_shortcuts_change_no_byte(grid: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sids, sizes, queries = GRIDS[grid].astype(np.int32), (8, 6, 5), 5
    view = PrefixTrie.from_sids(sids, sizes).to("cpu")
    assert view.straight == STRAIGHT[grid]

    def results() -> list[BeamResult]:
        found = []
        for width in (1, 3, 10, 40):
            steps = Planted(sizes, queries, seed=width)
            if kind == "ties":
                steps.tables = [table.round() for table in steps.tables]
            elif kind == "forbidden":
                steps.tables = [table.masked_fill(table > 1.5, -math.inf) for table in steps.tables]
            found.append(constrained_beam_search(steps, view, queries=queries, beam=width, top_k=width))
        return found

    fast = results()
    monkeypatch.setattr(beam_module, "_candidates", plain_candidates)
    monkeypatch.setattr(TensorTrie, "straight", (False,) * 3)
    for a, b in zip(fast, results(), strict=True):
        assert torch.equal(a.items, b.items) and a.scores.numpy().tobytes() == b.scores.numpy().tobytes()
    assert any(int(one.items.min()) >= 0 for one in fast)
