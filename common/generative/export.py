"""What a trained generator gives to others: lists of items, features of a click log's rows, and semantic IDs.

Lists are for whoever wants candidates: each user's best next items after all that the data has of him.

Features of rows are for Track 2's rankers (`features.candidates`): of each row (history, item) the exact
log-probability of the item after the history, and the item's rank in the list generated for it. A model that was
trained on what followed a history remembers the answer, so that its features would be labels in disguise. With folds
(two or more) each user's rows are scored by a model that was trained without this user. With one fold the run's own
model scores the rows that come after all that it read of the user, and the others are marked as not known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from common.atomic import atomic_path
from common.errors import ConfigError
from common.generative.config import SECTIONS
from common.generative.ctr_rows import SPLITS, CtrRows, Questions, already_told, padded, questions, read_rows
from common.generative.evaluate import Recommender, best_items, ranks_in_lists
from common.generative.run import recommender, run_ids
from common.generative.sequences import Histories, Sequences, whole
from common.generative.systems import Prepared, system_of
from common.progress import bar

FORMAT = "mirc-candidates-1"
CHUNK = 64
WIDTH = 32
"""Items of one question that are scored at once."""


@runtime_checkable
class ScoresItems(Protocol):
    """A recommender that gives the exact log-probability of items."""

    def score_items(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        """Return float32 [Q, K] of item rows int64 [Q, K]; -1 is padding and gets -inf."""
        ...


@dataclass(frozen=True)
class RowFeatures:
    """Features of rows: `score` float32 [R], `rank` int32 [R] (0: not in the list), `known` bool [R]."""

    score: np.ndarray
    rank: np.ndarray
    known: np.ndarray


def export_lists(run: Prepared, target: Path, k: int, users: np.ndarray | None = None) -> int:
    """Write the k best next items of users (rows; None: all) after their whole sequences; return the lines written.

    Columns: user_id, item_id, rank (from 1), score (as the model's own lists have it).
    """
    histories = whole(run.data, users)
    asked = recommender(run)
    found, scores = best_items(asked, histories, k, exclude_history=run.config.evaluate.exclude_history)
    import pyarrow as pa

    there = found >= 0
    query, place = np.nonzero(there)
    columns = {
        "user_id": pa.array(run.data.users[histories.users[query]]),
        "item_id": pa.array(run.data.item_ids[found[there]]),
        "rank": pa.array((place + 1).astype(np.int32)),
        "score": pa.array(scores[there].astype(np.float32)),
    }
    _write(target, columns, {"k": k, "model": run.config.name})
    return len(query)


def export_rows(run: Prepared, data: Path, target: Path, k: int, folds: int) -> tuple[int, int]:
    """Write the features of all rows below `data`; return the rows, and how many of them are known.

    Columns: split, row (place in the split's file), user_id, item_id, score, rank, known.

    Parameters
    ----------
    k
        Length of the lists that ranks are looked up in; 0 generates none, and all ranks are 0.
    folds
        See the module.

    Raises
    ------
    ConfigError
        A model that gives no log-probabilities; more folds than users.
    DataError
        No rows below `data`, or items that the run's data does not have.
    """
    rows = read_rows(data)
    asked, items = questions(rows, run.data)
    run.say(f"{len(rows):,} rows, {len(asked):,} different histories")
    score, rank = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.int32)
    known = asked.histories.lengths[asked.of] > 0
    for model, mine in fold_models(run, asked, folds):
        if folds == 1:
            known &= ~already_told(asked.histories, run.split.train)[asked.of]
        chosen = np.flatnonzero(known & mine[asked.of])
        score[chosen], rank[chosen] = features(model, asked, items, chosen, k)
    found = RowFeatures(score, rank, known)
    write_rows(target, rows, found, {"items": len(run.data.item_ids), "k": k, "model": run.config.name, "folds": folds})
    return len(rows), int(known.sum())


def fold_models(run: Prepared, asked: Questions, folds: int) -> Iterator[tuple[Recommender, np.ndarray]]:
    """Yield recommenders and the questions bool [Q] that each may answer; trains what is not there."""
    if folds == 1:
        yield recommender(run), np.ones(len(asked), bool)
        return
    users = len(run.data.users)
    if folds > users:
        raise ConfigError("more folds than users", where="--folds", expected=f"1..{users}", got=folds)
    source = run.config.behaviour.source
    if "behaviour" in SECTIONS[run.config.model] and source not in ("sasrec", "co_occurrence"):
        raise ConfigError(
            "behaviour vectors from elsewhere know the users that a fold leaves out",
            where="behaviour.source",
            expected="sasrec or co_occurrence, which each fold makes of its own users",
            got=source,
            todo="--set behaviour.source=sasrec, or --folds 1",
        )
    fold = np.random.default_rng((run.config.seed, folds)).permutation(users) % folds
    of_question = np.where(asked.histories.users >= 0, fold[asked.histories.users], 0)
    for number in range(folds):
        run.say(f"fold {number + 1} of {folds}: trained without {int((fold == number).sum()):,} users")
        yield recommender(without_users(run, fold == number, f"{number}-of-{folds}")), of_question == number


def without_users(run: Prepared, left_out: np.ndarray, name: str) -> Prepared:
    """Return the run in OUT/folds/`name`, whose training and valid parts lack the users bool [U]."""
    train, valid = run.split.train, run.split.valid
    lengths = np.where(left_out, 0, train.lengths)
    kept = np.repeat(~left_out, train.lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    cut = replace(train, items=train.items[kept], offsets=offsets)
    watched = valid.take(np.flatnonzero(~left_out[valid.histories.users]))
    if not len(cut.items) or not len(watched):
        raise ConfigError("a fold without users to train on or to watch", where="--folds", got=name)
    return replace(run, split=replace(run.split, train=cut, valid=watched), out=run.out / "folds" / name)


def features(
    model: Recommender, asked: Questions, items: np.ndarray, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores float32 and ranks int32 of `rows`: what the model thinks of their items.

    A question is asked once for all rows that share it.
    """
    if not isinstance(model, ScoresItems):
        raise ConfigError(
            f"{model.name} gives no log-probabilities of items",
            where="--model",
            expected="tiger, eager, eager_llm, store, sasrec or another that has score_items",
            got=model.name,
        )
    score, rank = np.zeros(len(rows), np.float32), np.zeros(len(rows), np.int32)
    order = np.argsort(asked.of[rows], kind="stable")
    used, firsts = np.unique(asked.of[rows[order]], return_index=True)
    groups = np.split(order, firsts[1:])
    with bar(f"scoring rows by {model.name}", total=len(rows), unit="row") as shown:
        for start in range(0, len(used), CHUNK):
            chunk = groups[start : start + CHUNK]
            histories = asked.histories.take(used[start : start + CHUNK])
            wanted = padded([items[rows[group]] for group in chunk])
            scores = np.concatenate(
                [model.score_items(histories, wanted[:, at : at + WIDTH]) for at in range(0, wanted.shape[1], WIDTH)],
                axis=1,
            )
            lists = model.recommend(histories, k)[0] if k else None
            for number, group in enumerate(chunk):
                score[group] = scores[number, : len(group)]
                if lists is not None:
                    targets = items[rows[group]]
                    rank[group] = ranks_in_lists(np.broadcast_to(lists[number], (len(group), k)), targets)
                shown.update(len(group))
    return score, rank


def write_rows(target: Path, rows: CtrRows, found: RowFeatures, about: dict[str, object]) -> None:
    """Write the features of rows; what is not known is 0."""
    import pyarrow as pa

    columns = {
        "split": pa.array(np.array(SPLITS)[rows.split]),
        "row": pa.array(rows.row),
        "user_id": pa.array(rows.users),
        "item_id": pa.array(rows.items),
        "score": pa.array(np.where(found.known, found.score, 0).astype(np.float32)),
        "rank": pa.array(np.where(found.known, found.rank, 0).astype(np.int32)),
        "known": pa.array(found.known),
    }
    _write(target, columns, about)


def export_ids(run: Prepared, target: Path) -> tuple[int, tuple[int, ...]]:
    """Write the run's semantic IDs as `common.tokenizers encode` does; return their number and the codes a level.

    Such a file is what `--set ids=FILE` of another run, Track 2's `features.semantic_ids` and Track 1's `cart` route
    (`ids.file`) read.

    Raises
    ------
    ConfigError
        The items' ids are no whole numbers, which the file needs.
    """
    from common.tokenizers.files import SidFile, write_sids

    check_whole(run.data)
    system_of(run.config.model)  # a model that is not trained has no IDs
    ids = run_ids(run)
    names = run.data.item_ids.astype(np.int64)
    write_sids(target, SidFile(names, ids.sids, tuple(ids.sizes), ids.version, ids.levels))
    return len(ids), tuple(ids.sizes)


def check_whole(data: Sequences) -> None:
    """Refuse items whose ids are no whole numbers."""
    if data.item_ids.dtype.kind not in "iu":
        raise ConfigError(
            "the file of IDs needs items whose ids are whole numbers",
            where=data.name,
            got=", ".join(map(str, data.item_ids[:3].tolist())),
        )


def _write(target: Path, columns: dict[str, object], about: dict[str, object]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if target.suffix != ".parquet":
        raise ConfigError("features are written as parquet", where="--to, --rows", got=target.name)
    meta = {"mirc_candidates": json.dumps({"format": FORMAT, **about}, sort_keys=True)}
    with atomic_path(target) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(meta), temporary, compression="zstd")
