"""What to know of the rows of train, valid and test: each check returns one finding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.explore.counts import of, plural
from common.explore.findings import Finding
from track2_mmctr.datasets.tables import SPLITS, Split, SplitName
from track2_mmctr.explore.rows import AFFINITY, Rows, auc_alone, begins_in, click_rate

TELLS = 0.02
"""A leak whose AUC is this far from 0.5 moves a score; below, it is told and no more."""
GIVES_AWAY = 0.35
"""No honest single column orders clicks with an AUC this far from 0.5."""
SHARED = 0.005
"""A share of rows from which copies of training rows move a score."""
UNLIKE = 1.5
"""Click rates or mean history lengths of two files that differ by this factor are told."""


def check_rows(rows: Rows) -> list[Finding]:
    """Return what each check of the rows says; checks whose files are absent say nothing."""
    splits = rows.data.splits
    findings = [_files(rows)]
    if not splits:
        return findings
    findings += [
        _rates(rows),
        _seen("targets in the row's own history", rows, rows.own, "the history shows what is asked for"),
        _seen("targets in the user's earlier files", rows, rows.earlier, "the user has met the item before"),
    ]
    if rows.data.sequences is not None:
        means = "what is fitted on item_seq has seen these targets"
        findings.append(_seen("targets of valid and test in item_seq", rows, rows.listed, means))
        if "train" in splits:
            findings.append(_sequences(rows))
    findings += [_alone(rows), _same_rows(rows), _shared_rows(rows), _histories(rows)]
    if "train" in splits and len(splits) > 1:
        findings += [_cold(rows), _users(rows)]
    if rows.data.features is not None:
        findings.append(_levels(rows))
    return findings


def _files(rows: Rows) -> Finding:
    name = "files of rows"
    known = {finding.name for finding in rows.data.findings}  # those that are there and cannot be read
    absent = [f"{one}.parquet" for one in SPLITS if one not in rows.data.splits and f"{one}.parquet" not in known]
    if not absent or rows.data.info is None:
        return Finding(name, "ok", ", ".join(f"{name}: {len(split):,}" for name, split in rows.data.splits.items()))
    trained = "train.parquet" not in absent and "valid.parquet" not in absent
    means = "there is nothing to predict for a submission" if trained else "a run needs train and valid"
    return Finding(name, "note" if trained else "problem", f"absent: {', '.join(absent)}", means)


def _rates(rows: Rows) -> Finding:
    name = "click rate"
    rates = {split.name: click_rate(split) for split in rows.labelled.values()}
    told = ", ".join(f"{split} {rate:.1%}" for split, rate in rates.items())
    flat = [split for split, rate in rates.items() if rate in (0, 1)]
    told += "".join(f"; {split} has no labels" for split in rows.data.splits if split not in rates)
    if flat:
        return Finding(name, "problem", told, f"all labels of {', '.join(flat)} are alike: it has no AUC")
    if rates and max(rates.values()) > UNLIKE * min(rates.values()):
        return Finding(name, "note", told, "probabilities fitted on one file are off on another; the AUC is not")
    return Finding(name, "ok", told)


def _seen(name: str, rows: Rows, masks: Mapping[SplitName, np.ndarray], means: str) -> Finding:
    told: list[str] = []
    worst = 0.0
    for split, mask in masks.items():
        if not mask.any():
            continue
        one, part = rows.data.splits[split], f"{split}: {of(int(mask.sum()), len(mask))}"
        alone = auc_alone(one, mask)
        if alone is not None and one.label is not None:
            clicked = np.asarray(one.label) > 0
            worst = max(worst, abs(alone - 0.5))
            part += (
                f", {mask[clicked].mean():.1%} of clicked and {mask[~clicked].mean():.1%} of unclicked, "
                f"alone it has an AUC of {alone:.3f}"
            )
        told.append(part)
    if not told:
        return Finding(name, "ok", "none" if masks else "there is no earlier file")
    return Finding(name, "problem" if worst >= TELLS else "note", "; ".join(told), means)


def _alone(rows: Rows) -> Finding:
    name = "single columns"
    found = [
        (abs(value - 0.5), f"{column} on {split}: AUC {value:.3f}")
        for column, values in rows.alone.items()
        for split, value in values.items()
        if value is not None and column != AFFINITY  # what content tells of clicks is no leak
    ]
    if not found:
        return Finding(name, "ok", "there are no labels to compare with")
    most, told = max(found)
    if most < GIVES_AWAY:
        return Finding(name, "ok", f"none gives the label away; the most telling is {told}")
    return Finding(name, "problem", told, "a column that orders clicks so well was made from them, or leaks them")


def _same_rows(rows: Rows) -> Finding:
    name = "rows given twice"
    told: list[str] = []
    for split, digests in rows.digests.items():
        _, first, counts = np.unique(digests, return_inverse=True, return_counts=True)
        again = len(digests) - len(counts)
        if not again:
            continue
        part = f"{split}: {of(again, len(digests))}"
        label = rows.data.splits[split].label
        if label is not None:
            clicks = np.bincount(first, weights=np.asarray(label))
            part += f", {plural(int(((clicks > 0) & (clicks < counts)).sum()), 'group')} with both labels"
        told.append(part)
    if not told:
        return Finding(name, "ok", "no two rows of a file share user, history and target")
    return Finding(
        name, "note", "; ".join(told), "they count twice in training; with both labels no model can be right"
    )


def _shared_rows(rows: Rows) -> Finding:
    name = "rows shared by files"
    names = list(rows.digests)
    told: list[str] = []
    most = 0.0
    for place, later in enumerate(names):
        for earlier in names[:place]:
            shared = int(np.isin(rows.digests[later], rows.digests[earlier]).sum())
            most = max(most, shared / len(rows.digests[later]))
            if shared:
                told.append(f"{of(shared, len(rows.digests[later]))} of {later} are in {earlier}")
    if not told:
        return Finding(name, "ok", "no row has the user, history and target of one in another file")
    weight = "problem" if most >= SHARED else "note"
    return Finding(name, weight, "; ".join(told), "a score on them is of rows that training has seen: drop them")


def _histories(rows: Rows) -> Finding:
    name = "history lengths"
    means = {split.name: float(split.lengths.mean()) for split in rows.data.splits.values()}
    empty = {name: float((split.lengths == 0).mean()) for name, split in rows.data.splits.items()}
    told = ", ".join(f"{split} {mean:.1f} items on average, {empty[split]:.1%} empty" for split, mean in means.items())
    if max(means.values()) > UNLIKE * max(min(means.values()), 1e-9):
        return Finding(name, "note", told, "the files are of users at different times of their life: score by length")
    if max(empty.values()) > 0:
        return Finding(name, "note", told, "for empty histories only the target and its levels are left")
    return Finding(name, "ok", told)


def cold(rows: Rows, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each row's target is never a target of train, and whether it is in no history there either."""
    unshown = rows.shown[split.target] == 0
    return unshown, unshown & (rows.in_histories[split.target] == 0)


def _cold(rows: Rows) -> Finding:
    name = "cold targets"
    told: list[str] = []
    for split in rows.data.splits.values():
        if split.name == "train":
            continue
        unshown, unknown = cold(rows, split)
        if unshown.any():
            items = len(np.unique(split.target[unshown]))
            told.append(
                f"{split.name}: {of(int(unshown.sum()), len(split))} rows, {plural(items, 'item')}, have a target that "
                f"is none of train's, {int(unknown.sum()):,} rows one that is not in its histories either"
            )
    if not told:
        return Finding(name, "ok", "all targets of valid and test are targets of train")
    return Finding(
        name, "note", "; ".join(told), "their id embedding is as it was at the start: content and levels must tell"
    )


def _users(rows: Rows) -> Finding:
    name = "users shared by files"
    users = {name: np.unique(split.users) for name, split in rows.data.splits.items()}
    told = [
        f"{of(int(np.isin(own, users['train']).sum()), len(own))} users of {name} are in train"
        for name, own in users.items()
        if name != "train"
    ]
    new = [name for name, own in users.items() if name != "train" and not np.isin(own, users["train"]).all()]
    if not new:
        return Finding(name, "ok", "; ".join(told))
    return Finding(
        name, "note", "; ".join(told), f"an embedding of user_id is of no use to new users of {' and '.join(new)}"
    )


def _levels(rows: Rows) -> Finding:
    name = "levels of targets"
    features = rows.data.features
    told: list[str] = []
    for split in rows.data.splits.values():
        if features is not None and (other := (features.levels[split.target] != split.levels).any(axis=1)).any():
            told.append(f"{split.name}: {of(int(other.sum()), len(split))}")
    if not told:
        return Finding(name, "ok", "those of the rows are those of item_feature")
    return Finding(
        name,
        "note",
        "rows whose levels are not those of item_feature: " + "; ".join(told),
        "levels change with time: those of item_feature may be of after the click",
    )


def _sequences(rows: Rows) -> Finding:
    name = "item_seq and train"
    sequences, train = rows.data.sequences, rows.data.splits["train"]
    assert sequences is not None  # noqa: S101 - called where it is there
    found = int(begins_in(train, sequences).sum())
    users = np.unique(sequences.users)
    own = np.unique(train.users)
    known = int(np.isin(own, users).sum())
    told = (
        f"{plural(len(sequences.users), 'sequence')} of {plural(len(users), 'user')}; "
        f"{of(known, len(own))} users of train have one; "
        f"{of(found, len(train))} histories of train are (the beginning of) one"
    )
    if known == 0:
        return Finding(name, "problem", told, "the users of item_seq are others, or their ids are")
    if len(users) < len(sequences.users):
        return Finding(name, "note", told, "a user has several sequences: a dictionary by user keeps only the last")
    return Finding(name, "ok", told)
