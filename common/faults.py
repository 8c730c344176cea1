"""Recorded faults: an item that failed is written down and shown, never skipped in silence."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

from common.atomic import write_text
from common.errors import DataError


@dataclass(frozen=True)
class Fault:
    """One item (page, image, batch) that a stage could not process."""

    stage: str
    item: str
    error: str


@dataclass
class FaultLog:
    """The faults of one run, in the order in which they were met; a repeat of the same one counts once."""

    faults: list[Fault] = field(default_factory=list)
    _seen: set[Fault] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, stage: str, item: str, error: BaseException | str) -> None:
        """Record that `stage` could not process `item`."""
        text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        fault = Fault(stage, item, text)
        with self._lock:
            if fault not in self._seen:
                self._seen.add(fault)
                self.faults.append(fault)

    def __len__(self) -> int:
        return len(self.faults)

    def summary(self, limit: int = 10) -> str:
        """Return the first `limit` faults, one a line, and how many more there are."""
        lines = [f"  {f.stage}: {f.item}: {f.error}" for f in self.faults[:limit]]
        if len(self.faults) > limit:
            lines.append(f"  ... and {len(self.faults) - limit} more")
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write all faults as JSON lines."""
        write_text(path, "".join(json.dumps(asdict(f), ensure_ascii=False) + "\n" for f in self.faults))

    def check(self, allowed: int, todo: str) -> None:
        """Raise `DataError` when more faults than `allowed` were recorded."""
        if len(self.faults) > allowed:
            raise DataError(
                f"{len(self.faults)} items failed and were left out:\n{self.summary()}",
                expected=f"at most {allowed} failed items",
                got=len(self.faults),
                todo=todo,
            )
