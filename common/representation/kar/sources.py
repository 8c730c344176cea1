"""Where knowledge comes from: the contract of a source, ready answers from a file, and the template itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from common.errors import ConfigError, DataError, UserError
from common.hashing import file_digest
from common.representation.kar.prompts import Prompt

KINDS = ("item", "user")


@dataclass(frozen=True)
class Answer:
    """What a source said to one prompt.

    Attributes
    ----------
    text
        The knowledge; "" where there is none.
    prompt_tokens, completion_tokens
        As the source counts them; None where it does not say.
    finish
        Why it ended: "stop", "length" (cut at the token limit), "content_filter", "refusal", "template", "file", or
        "error".
    error
        Why this is no knowledge; "" for a good answer.
    final
        False for a failure that may pass (a damaged reply): it is not kept, and asked again by the next run.
    """

    text: str
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    finish: str = "stop"
    error: str = ""
    final: bool = True


class SourceStoppedError(UserError):
    """A source can answer nothing more for now: it is down, refuses the key, or asks to wait too long."""


class KnowledgeSource(Protocol):
    """What answers prompts.

    Attributes
    ----------
    name
        What answers, with its revision where there is one. Never a secret.
    settings
        JSON values that change an answer; answers are cached by them.
    batch_size
        Prompts a call.
    parallel
        Calls at once, from threads; 1 = from the caller's thread.
    cached
        Whether answers are worth keeping: False where they cost nothing.
    note
        A line to print before the work; "" for none.
    """

    name: str
    settings: dict[str, Any]
    batch_size: int
    parallel: int
    cached: bool
    note: str

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Return an answer a prompt, in order; what fails for one prompt is in its `error`.

        Raises
        ------
        SourceStoppedError
            No prompt can be answered any more.
        """
        ...

    def start(self) -> None:
        """Make ready: called before the first prompt of some work."""
        ...

    def stop(self) -> None:
        """Give up waiting: called when the work ends early."""
        ...


class TemplateSource:
    """No language model: the filled template itself is the knowledge."""

    name = "template"
    batch_size = 1024
    parallel = 1
    cached = False
    note = "no language model: the filled template itself is the knowledge"

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Return the prompts' own texts."""
        return [Answer(prompt.text, finish="template") for prompt in prompts]

    def start(self) -> None:
        """Do nothing: it is ready."""

    def stop(self) -> None:
        """Do nothing: there is nothing to wait for."""


class AnswersFile:
    """Ready answers by kind ("item" or "user") and id, from a .jsonl or .parquet file with columns kind, id, text.

    Raises
    ------
    ConfigError
        Neither .jsonl nor .parquet.
    DataError
        No file, a damaged one (the line is named), a missing column, an empty text, or two answers for one id.
    """

    batch_size = 1024
    parallel = 1
    cached = False
    note = ""

    def __init__(self, path: Path) -> None:
        if path.suffix not in (".jsonl", ".parquet"):
            raise ConfigError("ready answers have another form", where=path, expected=".jsonl or .parquet")
        if not path.is_file():
            raise DataError("the file of ready answers is missing", where=path)
        self._answers: dict[tuple[str, int], str] = {}
        for where, row in _json_rows(path) if path.suffix == ".jsonl" else _parquet_rows(path):
            self._add(f"{path}, {where}", row)
        self.name = f"file {path.name}"
        self.settings: dict[str, Any] = {"sha256": file_digest(path)}

    def __len__(self) -> int:
        return len(self._answers)

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Return the file's answers; one that it lacks is an error of its prompt."""
        found = [self._answers.get((prompt.kind, prompt.id)) for prompt in prompts]
        lacks = Answer("", finish="error", error="the file has no answer for it", final=False)
        return [lacks if text is None else Answer(text, finish="file") for text in found]

    def start(self) -> None:
        """Do nothing: it is ready."""

    def stop(self) -> None:
        """Do nothing: there is nothing to wait for."""

    def _add(self, where: str, row: Mapping[str, Any]) -> None:
        kind, number, text = (row.get(name) for name in ("kind", "id", "text"))
        if kind not in KINDS or type(number) is not int or not isinstance(text, str) or not text.strip():
            raise DataError(
                "a ready answer has another form",
                where=where,
                expected='kind "item" or "user", a whole number id, a text that is not empty',
                got=str({"kind": kind, "id": number, "text": text})[:200],
            )
        key = (str(kind), number)
        if key in self._answers:
            raise DataError("two ready answers for one id", where=where, got=f"{kind} {number}")
        self._answers[key] = text


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"line {number}", _json_row(f"{path}, line {number}", line)
        except UnicodeDecodeError as error:
            raise DataError("the file of ready answers is not UTF-8", where=path, got=str(error)) from None


def _json_row(where: str, line: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError("a line of the ready answers is not JSON", where=where, got=str(error)) from None
    if not isinstance(row, dict):
        raise DataError("a line of the ready answers is no JSON object", where=where, got=type(row).__name__)
    return row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        rows = pq.read_table(path, columns=["kind", "id", "text"]).to_pylist()
    except (OSError, pa.ArrowException) as error:
        got = str(error).splitlines()[0]
        raise DataError("the ready answers cannot be read", where=path, expected="kind, id, text", got=got) from None
    yield from ((f"row {number}", row) for number, row in enumerate(rows))
