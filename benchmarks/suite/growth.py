"""`python -m benchmarks growth`: each main stage at 1, 4 and 16 times the work, and the exponents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.suite.fit import Growth, grow
from benchmarks.suite.table import aligned, number
from benchmarks.suite.work import Context, Figure, Found, System, Work

FACTORS = (1, 4, 16)
CPU = Figure("stage", "", "CPU s", per="time", clock="cpu")
WALL = Figure("stage", "", "s", per="time")
HEADER = (
    "stage", "size", "CPU s at 1x", "4x", "16x", "exponent", "slopes", "MB at 1x", "4x ", "16x ", "exponent ", "remark",
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A stage that is measured at several sizes.

    `call` names a function of (folder, n, ...) that returns a `Measured` with the figure "stage", amount 1, and with
    `base`. `sizes` are the smallest n at full, quick and tiny size; `unit` says n of what; `why` explains an exponent
    above 1.
    """

    name: str
    call: str
    unit: str
    sizes: tuple[int, int, int]
    why: str = ""
    needs: tuple[str, ...] = ()

    def work(self, context: Context) -> Work:
        """Return the work of measuring it: one system a size."""
        first = context.pick(*self.sizes)
        folder = str(context.folder / "growth")
        systems = tuple(
            System(
                f"{factor}x",
                f"{factor * first:,}",
                self.call,
                {"folder": folder, "n": factor * first},
                needs=self.needs,
            )
            for factor in FACTORS
        )
        return Work(f"growth_{self.name}", self.unit, (WALL,), systems, None, context.pick(2, 1, 1), 900)


@dataclass(frozen=True)
class Line:
    """What was found of a stage: processor seconds and grown memory at each size, and their exponents."""

    stage: Stage
    sizes: list[int]
    cpu: list[float]
    memory: list[float]
    time_growth: Growth
    memory_growth: Growth
    trouble: str = ""

    @property
    def remark(self) -> str:
        """Say what went wrong, or that it grows faster than the work, and why."""
        if self.trouble:
            return self.trouble
        steep = [name for name, one in (("time", self.time_growth), ("memory", self.memory_growth)) if one.steep]
        return f"{' and '.join(steep)} above 1: {self.stage.why or 'not explained'}" if steep else ""


def line_of(stage: Stage, work: Work, found: Sequence[Found]) -> Line:
    """Judge the measurements of a stage. Grown memory is the peak less what was resident before the inputs."""
    sizes = [int(system.arguments["n"]) for system in work.systems]
    cpu = [one.best(CPU) for one in found]
    memory = [grown(one) for one in found]
    trouble = next((f"FAILED at {one.system}: {one.error}" for one in found if one.error), "")
    trouble = trouble or next((f"skipped: {one.skipped}" for one in found if one.skipped), "")
    # Less than a few MB is the allocator's granularity, not the stage's need.
    told = [value if value > 4e6 else math.nan for value in memory]
    return Line(stage, sizes, cpu, memory, grow(sizes, cpu), grow(sizes, told), trouble)


def grown(found: Found) -> float:
    """Return the memory that inputs and work took beyond what was resident before, in bytes."""
    sizes = [one["peak"] - one["base"] for one in found.samples if one.get("base") is not None]
    return float(min(sizes)) if sizes else math.nan


def render_growth(lines: Sequence[Line]) -> str:
    """Return the table, and below it what grows faster than the work or failed."""
    shown = [
        (
            line.stage.name,
            f"{line.sizes[0]:,} {line.stage.unit}",
            *map(number, line.cpu),
            line.time_growth.text(),
            ", ".join(f"{slope:.2f}" for slope in line.time_growth.slopes),
            *(number(value / 1e6) for value in line.memory),
            line.memory_growth.text(),
            "see below" if line.remark else "",
        )
        for line in lines
    ]
    remarks = "".join(f"\n{line.stage.name}: {line.remark}" for line in lines if line.remark)
    return aligned(HEADER, shown, {"stage", "size", "slopes", "remark"}) + remarks
