"""Compare two runs, or two submissions, row by row: paired DeLong, and a paired bootstrap of whole users."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import DataError
from common.metrics.ctr import auc
from common.metrics.ctr_intervals import RESAMPLES, bootstrap, delong_paired
from common.submission.mmctr import Task
from track2_mmctr.datasets.tables import CtrData, Split, SplitName
from track2_mmctr.evaluate import labels_of, predicted
from track2_mmctr.groups import length_groups, popularity_groups, train_counts
from track2_mmctr.predictions import check_logits

if TYPE_CHECKING:
    from rich.console import Group

SHOWN_ROWS = 10
FAR = 0.25
"""Two runs disagree on a row whose rank differs by more than this share of all rows."""


@dataclass(frozen=True)
class Effect:
    """A difference of two AUCs on the same rows, `a` minus `b`; None where the rows do not determine it.

    Attributes
    ----------
    rows, users
        How many rows, and how many users they belong to.
    auc_a, auc_b, difference
        Positive where `a` is better.
    error, p
        Standard error of the difference and two-sided p of none (paired DeLong, rows taken as independent).
    low, high
        95 % interval of the bootstrap of whole users.
    """

    rows: int
    users: int
    auc_a: float | None
    auc_b: float | None
    difference: float | None
    error: float | None
    p: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Disagreement:
    """A row that the two runs rank far apart; ranks are shares of all rows, 0 = least likely click, 1 = most."""

    row: int
    user: int
    item: int
    label: int
    rank_a: float
    rank_b: float


@dataclass(frozen=True)
class Comparison:
    """Effects over all rows and by group; the rows that the two runs rank furthest apart.

    `correlation` is Spearman's, of the two orders; `far` counts rows whose ranks differ by more than `FAR`.
    """

    a: str
    b: str
    split: str
    overall: Effect
    by_length: Mapping[str, Effect]
    by_popularity: Mapping[str, Effect]
    correlation: float
    far: int
    furthest: Sequence[Disagreement] = field(default_factory=tuple)
    resamples: int = RESAMPLES
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        return asdict(self)

    def render(self) -> Group:
        """Return rich tables: print them with `rich.console.Console().print`."""
        from track2_mmctr.score_tables import render_comparison

        return render_comparison(self)


def compare(
    split: Split,
    a: np.ndarray,
    b: np.ndarray,
    counts: np.ndarray | None,
    *,
    names: tuple[str, str] = ("a", "b"),
    resamples: int = RESAMPLES,
    seed: int = 7,
    notes: Sequence[str] = (),
) -> Comparison:
    """Compare the logits of two runs on one split.

    Parameters
    ----------
    split
        R rows with labels.
    a, b
        float [R]: logits in the order of the split; only their order matters.
    counts
        int [N], see `groups.train_counts`; None leaves the effects by popularity out.
    names
        What the two runs are called in the report.
    resamples, seed
        Of the bootstrap: the same arguments give the same figures.
    notes
        Put into the comparison as they are.

    Raises
    ------
    DataError
        No labels, one class only, not one logit for each row, or a NaN.
    """
    label = labels_of(split)
    first, second = (
        check_logits(values, len(split), f"predictions of {name}") for values, name in zip((a, b), names, strict=True)
    )
    users = np.asarray(split.users)

    def effects(groups: Mapping[str, np.ndarray]) -> dict[str, Effect]:
        return {
            name: _effect(label[rows], first[rows], second[rows], users[rows], resamples, seed)
            for name, rows in groups.items()
            if rows.any()
        }

    rank_a, rank_b = ranks(first), ranks(second)
    apart = np.abs(rank_a - rank_b)
    furthest = np.argsort(-apart, kind="stable")[:SHOWN_ROWS]
    return Comparison(
        *names,
        split=split.name,
        overall=effects({"all": np.ones(len(split), dtype=bool)})["all"],
        by_length=effects(length_groups(split)),
        by_popularity=effects(popularity_groups(split, counts)),
        correlation=_correlation(rank_a, rank_b),
        far=int((apart > FAR).sum()),
        furthest=tuple(
            Disagreement(
                int(row),
                int(users[row]),
                int(split.target[row]),
                int(label[row]),
                float(rank_a[row]),
                float(rank_b[row]),
            )
            for row in furthest
            if apart[row] > 0
        ),
        resamples=resamples,
        notes=tuple(notes),
    )


def _effect(label: np.ndarray, a: np.ndarray, b: np.ndarray, users: np.ndarray, resamples: int, seed: int) -> Effect:
    rows, owners = len(label), len(np.unique(users))
    if label.min() == label.max():
        return Effect(rows, owners, None, None, None, None, None, None, None)
    found = delong_paired(label, a, b)
    drawn = bootstrap(label, a, users, against=b, resamples=resamples, seed=seed)
    known = not math.isnan(found.error)
    return Effect(
        rows=rows,
        users=owners,
        auc_a=auc(label, a),
        auc_b=auc(label, b),
        difference=found.value,
        error=found.error if known else None,
        p=found.p if known else None,
        low=None if drawn is None else drawn.low,
        high=None if drawn is None else drawn.high,
    )


def ranks(values: np.ndarray) -> np.ndarray:
    """Return each row's rank as a share of the rows, 0 to 1; equal values share the mean of their ranks."""
    ordered = np.sort(values)
    twice = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1
    return twice / (2 * max(1, len(values) - 1))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two vectors of ranks; 0 where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else 0.0


def compare_paths(
    a: Path,
    b: Path,
    data: CtrData,
    task: Task | None = None,
    *,
    split: SplitName | None = None,
    resamples: int = RESAMPLES,
    seed: int = 7,
) -> Comparison:
    """Compare two runs' folders or submission zips on `split`: by default test where both have it, else valid.

    Raises
    ------
    InvalidSubmission
        A zip breaks a rule, or its ids are not those of the test file.
    DataError
        The two have no labelled split in common, or were made on other data.
    """
    found_a, notes_a = predicted(a, data, task)
    found_b, notes_b = predicted(b, data, task)
    order: tuple[SplitName, ...] = ("test", "valid")
    shared: list[SplitName] = [name for name in order if name in found_a and name in found_b]
    chosen: SplitName | None = split if split is not None else shared[0] if shared else None
    if chosen is None or chosen not in shared:
        raise DataError(
            "the two have no predictions to compare" + (f" on {split}" if split else ""),
            where=f"{a} and {b}",
            expected=f"{split or 'one split'} with known labels in both",
            got=f"{', '.join(found_a)} and {', '.join(found_b)}",
            todo="compare two runs' folders, or a run and a submission on data whose test labels are known",
        )
    names = (a.name, b.name) if a.name != b.name else (str(a), str(b))
    notes = [f"{path.name}: {note}" for path, said in ((a, notes_a), (b, notes_b)) for note in said]
    counts = train_counts(data) if "train" in data.splits else None
    return compare(
        data.splits[chosen],
        found_a[chosen],
        found_b[chosen],
        counts,
        names=names,
        resamples=resamples,
        seed=seed,
        notes=notes,
    )
