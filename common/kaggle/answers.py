"""Reading what the client prints: JSON lists, and its block of lines about one submission."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from common.kaggle.errors import KaggleError, short
from common.kaggle.process import Answer

Status = Literal["pending", "complete", "error"]
_FIELDS = ("Submission Ref", "Status", "Error", "Public Score", "Private Score", "Description", "Submission Date")


def rows(answer: Answer, place: str) -> list[dict[str, Any]]:
    """Return the JSON list that the client printed, maybe after some other lines."""
    start = re.search(r"^\[", answer.out, re.MULTILINE)
    try:
        found = json.loads(answer.out[start.start() :]) if start else None
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise KaggleError(
            "answer",
            "Kaggle's list cannot be read",
            where=place,
            got=short(answer.text),
            todo="run it again; the pinned client is in requirements.txt",
        )
    return found


def fields(text: str) -> dict[str, str]:
    """Return label -> value of the client's block about one submission; a value may have several lines."""
    found: dict[str, str] = {}
    label: str | None = None
    for line in text.splitlines():
        match = re.match(r"([A-Z][A-Za-z ]+?):\s*(.*)$", line)
        if match and match[1] in _FIELDS and match[1] not in found:
            label = str(match[1])
            found[label] = match[2].strip()
        elif label is not None and line.startswith(" "):
            found[label] += "\n" + line.strip()
    return found


def status_of(text: str) -> Status:
    """Return the status of "COMPLETE", "SubmissionStatus.ERROR" and the like; what is unknown is pending."""
    name = text.rpartition(".")[2].strip().lower()
    return "complete" if name == "complete" else "error" if name == "error" else "pending"


def score_of(value: object) -> float | None:
    """Return a score, or None where it is not published."""
    try:
        return float(str(value))
    except ValueError:
        return None
