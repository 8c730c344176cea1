"""What is measured: works, their systems and figures, and what one measurement found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

SizeName = Literal["full", "quick", "tiny"]


@dataclass(frozen=True)
class Sample:
    """`amount` things done in `seconds` of wall time and `cpu` seconds of processors (None: not measured)."""

    amount: float
    seconds: float
    cpu: float | None = None


@dataclass(frozen=True)
class Measured:
    """What one measurement found, in a process of its own.

    Attributes
    ----------
    figures
        A sample for each figure of the work.
    facts
        Anything else worth knowing: recall, error, bytes.
    peak, base
        Resident memory in bytes: at the peak, and before the inputs of the work were there. None: the peak of the
        process at its end, and nothing known.
    """

    figures: dict[str, Sample]
    facts: dict[str, float] = field(default_factory=dict)
    peak: int | None = None
    base: int | None = None


@dataclass(frozen=True)
class Figure:
    """One thing that a work counts.

    `per="rate"` shows amount / seconds, more is better; `per="time"` shows seconds / amount, less is better. `clock`
    says which seconds; `scale` multiplies what is shown (1000: milliseconds).
    """

    name: str
    what: str
    unit: str
    per: Literal["rate", "time"] = "rate"
    clock: Literal["wall", "cpu"] = "wall"
    scale: float = 1.0

    def value(self, sample: Sample) -> float:
        """Return what is shown of a sample; nan where its clock did not run."""
        seconds = sample.seconds if self.clock == "wall" else sample.cpu
        if seconds is None or seconds <= 0 or sample.amount <= 0:
            return math.nan
        return self.scale * (sample.amount / seconds if self.per == "rate" else seconds / sample.amount)

    def times(self, ours: float, peer: float) -> float:
        """Return how many times faster `ours` is; both are values of this figure."""
        if not (ours > 0 and peer > 0):
            return math.nan
        return ours / peer if self.per == "rate" else peer / ours


@dataclass(frozen=True)
class System:
    """One of the things that are compared.

    `call` is "module:function"; it runs in a process of its own with `arguments` and returns a `Measured`. `against`
    names the peers that a system of ours is compared with; a peer has none. `needs` are modules that must be
    installed, `lacks` says why it cannot run here. `repeats` bounds how often a slow one runs.
    """

    name: str
    label: str
    call: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = ()
    peer: bool = False
    needs: tuple[str, ...] = ()
    lacks: str | None = None
    repeats: int | None = None


@dataclass(frozen=True)
class Work:
    """Systems that do the same thing, and what is counted.

    `prepare` runs once, in a process of its own, before the systems. `timeout` is of one measurement, in seconds.
    `tree` says that a system starts processes: the peak is then that of all of them together, sampled.
    """

    name: str
    about: str
    figures: tuple[Figure, ...]
    systems: tuple[System, ...]
    prepare: System | None = None
    repeats: int = 3
    timeout: float = 600.0
    tree: bool = False


@dataclass(frozen=True)
class Context:
    """What the works of a run are made from: sizes, the data root of real data if there is one, a folder to fill."""

    size: SizeName
    folder: Path
    data: Path | None = None

    def pick(self, full: Any, quick: Any, tiny: Any) -> Any:
        """Return the value for this size."""
        return {"full": full, "quick": quick, "tiny": tiny}[self.size]


@dataclass
class Found:
    """All samples of one system; what a journal line and the JSON of a run hold."""

    work: str
    system: str
    samples: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    skipped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a dictionary for JSON."""
        return asdict(self)

    @property
    def peak(self) -> float:
        """The largest peak of memory in bytes, nan without samples."""
        return max((float(sample["peak"]) for sample in self.samples if sample.get("peak")), default=math.nan)

    def best(self, figure: Figure) -> float:
        """Return the figure's best value over the samples: what else runs on a machine only makes things slower."""
        found = [
            figure.value(Sample(**sample["figures"][figure.name]))
            for sample in self.samples
            if figure.name in sample["figures"]
        ]
        found = [value for value in found if not math.isnan(value)]
        if not found:
            return math.nan
        return max(found) if figure.per == "rate" else min(found)

    def fact(self, name: str) -> float:
        """Return a fact of the last sample that has it, nan if none has."""
        return next((float(one["facts"][name]) for one in reversed(self.samples) if name in one["facts"]), math.nan)
