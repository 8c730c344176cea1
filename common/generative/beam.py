"""Beam search over a prefix trie: batched over queries, never an ID that is not in the catalogue.

The mask comes before the softmax: log-probabilities of a step are normalised over the children of the node only, so
exp(score) sums to one over the leaves of the trie. (Masking after a softmax over the whole codebook gives other
scores, and loses the mass of codes that lead nowhere.)

Beam search is not exact: it finds the true top k for certain only when `beam` reaches the number of nodes of the
widest level above the last; `benchmarks/beam_search.py` prints the recall at smaller widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from common.generative.trie import PrefixTrie
from common.generative.trie_tensors import TensorTrie


@dataclass(frozen=True)
class Rows:
    """The live hypotheses of all queries, flat: a query with fewer has fewer rows.

    At level 0 there is one row a query, `parent` counts them and `token` is -1 (nothing decoded yet). Later, row r
    goes on from row `parent[r]` of the step before with `token[r]`, a code of level `level - 1`.
    """

    level: int
    query: Tensor
    """int64 [R], ascending."""
    parent: Tensor
    """int64 [R]."""
    token: Tensor
    """int64 [R]."""


StepFn = Callable[[Rows], Tensor]
"""Returns logits float [R, sizes[level]] of the next code. It keeps its own key/value cache and re-orders it by
`parent` (`index_select`); -inf forbids a code."""


@dataclass(frozen=True)
class BeamResult:
    """The best items of each query, best first."""

    items: Tensor
    """int64 [Q, top_k]: item rows, -1 where fewer exist."""
    scores: Tensor
    """float32 [Q, top_k]: log-probabilities, -inf where fewer exist."""


# Columns of the table of hypotheses, int64 [6, n]: of which query, its node, the leaves below it (LOW to HIGH - 1), the
# row of the last step and the code it grew by. One leaf below: the item is settled, and what is left of its ID has
# probability one.
QUERY, NODE, LOW, HIGH, PARENT, TOKEN = range(6)


@torch.no_grad()
def constrained_beam_search(
    step_fn: StepFn,
    trie: PrefixTrie | TensorTrie,
    *,
    queries: int,
    beam: int,
    top_k: int,
    device: str | torch.device = "cpu",
) -> BeamResult:
    """Return the `top_k` items that a beam of width `beam` finds for each query.

    A hypothesis whose prefix only one item has is finished at once: the rest of its ID has probability one, so
    `step_fn` is not asked about it again, and not at all once no other is left. Equal scores go by item row among
    items, and by the order of IDs where the beam cuts among prefixes.

    Raises
    ------
    ConfigError
        `top_k` below 1 or above `beam`, or a negative number of queries.
    DataError
        Logits of another shape, NaN or infinite.
    """
    if top_k < 1 or beam < top_k or queries < 0:
        raise ConfigError(
            "the beam is narrower than the results asked for" if beam < top_k else "no such search",
            where="beam, top_k, queries",
            expected="1 <= top_k <= beam, queries >= 0",
            got=f"beam {beam}, top_k {top_k}, queries {queries}",
            todo="widen the beam, or ask for fewer results",
        )
    view = trie if isinstance(trie, TensorTrie) else trie.to(device)
    query = torch.arange(queries, device=view.device)
    table = torch.stack([query, 0 * query, 0 * query, 0 * query + len(view), query, 0 * query - 1])
    score, rank = torch.zeros(queries, device=view.device), 0 * query
    for level in range(view.depth):
        settled = table[HIGH] - table[LOW] == 1
        live, done = torch.nonzero(~settled).squeeze(1), torch.nonzero(settled).squeeze(1)
        if not len(live):
            break
        now = table.index_select(1, live)
        rows = Rows(level, now[QUERY], now[PARENT], now[TOKEN])
        grown, found = _grow(step_fn, view, rows, now[NODE], score.take(live), rank.take(live), queries, beam)
        table, score = torch.cat([grown, table.index_select(1, done)], dim=1), torch.cat([found, score.take(done)])
        chosen, rank = _best(table[QUERY], score, _tie_key(table, view, queries), beam)
        table, score = table.index_select(1, chosen), score.take(chosen)
    found = view.items.take(table[LOW]).long()
    chosen, rank = _best(table[QUERY], score, found, top_k)
    place = table[QUERY].take(chosen) * top_k + rank
    items = torch.full((queries, top_k), -1, device=view.device)
    scores = torch.full((queries, top_k), -torch.inf, device=view.device)
    items.view(-1).index_copy_(0, place, found.take(chosen))
    scores.view(-1).index_copy_(0, place, score.take(chosen))
    return BeamResult(items, scores)


def exhaustive(step_fn: StepFn, trie: PrefixTrie, *, queries: int, device: str | torch.device = "cpu") -> BeamResult:
    """Return all items of the trie ranked exactly, [Q, N]: a beam as wide as the catalogue. For small ones."""
    return constrained_beam_search(step_fn, trie, queries=queries, beam=len(trie), top_k=len(trie), device=device)


def score_items(step_fn: StepFn, trie: PrefixTrie | TensorTrie, items: Tensor) -> Tensor:
    """Return the log-probability float32 [Q, K] of given item rows int64 [Q, K], by teacher forcing.

    The same figures as a beam search gives, for items that it need not reach. Prefixes that a query's items share
    are computed once. -1 is padding and gets -inf. Gradients flow to the logits where they are wanted.

    Raises
    ------
    DataError
        An item that is not in the trie, or logits of another shape, NaN or infinite.
    """
    view = trie if isinstance(trie, TensorTrie) else trie.to(items.device)
    if items.ndim != 2 or items.dtype != torch.int64:
        raise DataError(
            "items to score have another shape", expected="int64 [Q, K]", got=f"{items.dtype} {list(items.shape)}"
        )
    count, width = items.shape
    owner, place = torch.nonzero(items != -1, as_tuple=True)
    paths = [view.leaves(items[owner, place])]
    for level in range(view.depth - 1, 0, -1):
        paths.append(view.parents(level, paths[-1]))
    paths.reverse()  # node of level 1, 2, ..., L for each item
    query = torch.arange(count, device=items.device)
    rows, node = Rows(0, query, query, torch.full_like(query, -1)), torch.zeros_like(query)
    pending, of = torch.arange(len(owner) if len(view) > 1 else 0, device=items.device), owner  # of: each item's row
    total = torch.zeros(len(owner), device=items.device)
    for level in range(view.depth):
        if not len(pending):
            break
        children, path = view.children(node, level), paths[level][pending]
        steps = child_log_probs(_logits(step_fn, rows, view)[0], children.tokens, children.mask)
        total = total.index_add(0, pending, steps[of, path - children.nodes[of, 0]])
        low, high = view.leaves_below(path, level + 1)
        ambiguous = high - low > 1  # the rest of a settled item's ID has probability one
        pending, path, of = pending[ambiguous], path[ambiguous], of[ambiguous]
        # The next step's rows: the different (query, node) pairs, in that order.
        count_below = view.count(level + 1)
        pairs, following = torch.unique(owner[pending] * count_below + path, return_inverse=True)
        parent, node, of = torch.empty_like(pairs).scatter_(0, following, of), pairs % count_below, following
        rows = Rows(level + 1, pairs // count_below, parent, view.codes(level, node))
    return torch.full((count, width), -torch.inf, device=items.device).index_put((owner, place), total)


def child_log_probs(logits: Tensor, tokens: Tensor, mask: Tensor, forbidden: bool = True) -> Tensor:
    """Return float32 [R, W]: log-softmax of logits [R, K] over each row's `tokens` [R, W] alone, -inf off the mask.

    `forbidden`: whether a logit can be -inf.
    """
    steps = torch.log_softmax(logits.float().gather(1, tokens).masked_fill(~mask, -torch.inf), dim=1)
    # NaN: all of a row's children are forbidden.
    return torch.nan_to_num(steps, nan=-torch.inf, neginf=-torch.inf) if forbidden else steps


def _logits(step_fn: StepFn, rows: Rows, trie: TensorTrie) -> tuple[Tensor, bool]:
    """Return the logits of a step, and whether one of them is -inf."""
    logits = step_fn(rows)
    shape = (len(rows.query), trie.sizes[rows.level])
    if tuple(logits.shape) != shape or not logits.is_floating_point():
        raise DataError(
            "a step of the generator gave logits of another shape",
            where=f"level {rows.level}",
            expected=f"floats {list(shape)}, one row a hypothesis and one column a code",
            got=f"{logits.dtype} {list(logits.shape)}",
        )
    least, most = torch.stack(torch.aminmax(logits.detach())).tolist()  # a NaN is both
    if not most < math.inf:
        bad = ~(logits < torch.inf)
        row, code = (int(place) for place in torch.nonzero(bad)[0])
        raise DataError(
            "a step of the generator gave a logit that is no number",
            where=f"level {rows.level}, row {row} (query {int(rows.query[row])}), code {code}",
            expected="a finite number, or -inf to forbid the code",
            got=f"{float(logits[row, code])}; {int(bad.sum())} such logits",
            todo="look for a division by zero or an overflow in the model",
        )
    return logits, least == -math.inf


def _grow(
    step_fn: StepFn,
    trie: TensorTrie,
    rows: Rows,
    node: Tensor,
    score: Tensor,
    slot: Tensor,
    queries: int,
    beam: int,
) -> tuple[Tensor, Tensor]:
    """Return the columns [6, M] and scores [M] of the children that can be among the `beam` best of their query."""
    logits, forbidden = _logits(step_fn, rows, trie)
    first, end = trie.span(node, rows.level)
    tokens = None
    if trie.straight[rows.level]:
        found = _first_log_probs(logits, end - first, trie.widths[rows.level], forbidden)
    else:
        tokens, mask, _ = trie.children(node, rows.level)
        found = child_log_probs(logits, tokens, mask, forbidden)
    found += score[:, None]
    kept = _candidates(found, rows.query, slot, queries, beam)
    row, place = kept // found.shape[1], kept % found.shape[1]
    nodes = first.take(row) + place
    low, high = trie.leaves_below(nodes, rows.level + 1)
    columns = [rows.query.take(row), nodes, low, high, row, place if tokens is None else tokens.take(kept)]
    return torch.stack(columns), found.take(kept)


def _first_log_probs(logits: Tensor, counts: Tensor, width: int, forbidden: bool) -> Tensor:
    """Return what `child_log_probs` does where the codes of row r are 0..counts[r] - 1, `width` at most."""
    given = logits[:, :width].float()
    if bool((counts < width).any()):
        given = given.masked_fill(torch.arange(width, device=given.device) >= counts[:, None], -torch.inf)
    steps = torch.log_softmax(given, dim=1)
    return torch.nan_to_num(steps, nan=-torch.inf, neginf=-torch.inf) if forbidden else steps


def _candidates(found: Tensor, query: Tensor, slot: Tensor, queries: int, most: int) -> Tensor:
    """Return where in the flat scores [R, W] (row r is hypothesis `slot[r]`) those stand that can be a query's best.

    The `most` best that are not -inf, and all that equal the last of them.
    """
    width, slots = found.shape[1], int(slot.max()) + 1
    if slots * width <= most:
        return torch.nonzero(found.flatten() > -torch.inf).squeeze(1)
    whole = len(query) == queries * slots  # then rows stand by query and slot already
    wide = found if whole else found.new_full((queries, slots, width), -torch.inf)
    if not whole:
        wide[query, slot] = found
    best, places = wide.view(queries, -1).topk(most + 1)
    least, next_ = best[:, most - 1], best[:, most]
    if whole and not bool(((least == next_) & (next_ > -torch.inf)).any()):
        places = places[:, :most] + torch.arange(queries, device=found.device)[:, None] * (slots * width)
        return places[best[:, :most] > -torch.inf]
    least = least.clamp(min=torch.finfo(found.dtype).min)
    return torch.nonzero((found >= least.take(query)[:, None]).flatten()).squeeze(1)


def _tie_key(table: Tensor, trie: TensorTrie, queries: int) -> Tensor:
    """Return what decides between equal scores: the item row once all of a query's hypotheses are whole, else the ID.

    Per query, so that no query's result depends on the others of its batch.
    """
    query, low = table[QUERY], table[LOW]
    unfinished = torch.zeros(queries, dtype=torch.int64, device=table.device)
    unfinished.index_add_(0, query, table[HIGH] - low - 1)
    return torch.where(unfinished.take(query) > 0, low, trie.items.take(low))


def _best(query: Tensor, score: Tensor, key: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the candidates of the `most` best scores a query, in order of (query, -score, key), and their ranks."""
    order = torch.argsort(key, stable=True)
    order = order.take(torch.argsort(score.take(order), descending=True, stable=True))
    order = order.take(torch.argsort(query.take(order), stable=True))
    owner = query.take(order)
    rank = torch.arange(len(order), device=query.device)
    rank = rank - torch.searchsorted(owner, owner)  # less where the query's candidates begin
    kept = torch.nonzero(rank < most).squeeze(1)
    return order.take(kept), rank.take(kept)
