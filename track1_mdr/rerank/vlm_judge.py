"""A vision-language model is asked of each of the best passages whether it answers the question.

Answers are kept in an append-only JSONL file, by content, so that an interrupted run goes on where it
stopped and a second run asks nothing. A pair that cannot be asked is a recorded fault without a score; it is
never taken for a no.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.atomic import append_line
from common.encoders.revision import model_revision
from common.encoders.vlm import PROMPT_VERSION, JudgeItem, YesNoJudge, free_memory, split_on_failure
from common.errors import DataError
from common.hashing import digest
from common.progress import bar
from track1_mdr.config import VlmJudgeConfig
from track1_mdr.datasets.tables import Passages, Queries, Scored, top_k
from track1_mdr.routes.base import Environment

_STAGE = "vlm_judge"
_IMAGE_ONLY = "What does the image of the question show?"


@dataclass(frozen=True)
class _Pair:
    """One (query, passage) to judge, and the key under which its answer is kept."""

    query: int
    passage: int
    key: str


class VlmJudgeReranker:
    """The reranker `vlm_judge`: scores the `depth` best passages of each query.

    With mode ``probability`` the score is P(yes) / (P(yes) + P(no)). With ``yes_first`` it is an order: all
    passages above one half, then all others, each in the order in which they came (the 2nd place's rule).
    """

    def __init__(self, config: VlmJudgeConfig, environment: Environment) -> None:
        self._config = config
        self._environment = environment
        self._revision = model_revision(config.model)
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", config.model).strip("-.")[-60:] or "model"
        self._answers = _Answers(environment.cache / _STAGE / f"{slug}-{self._identity()[:16]}.jsonl")
        self._judge: YesNoJudge | None = None

    @property
    def depth(self) -> int:
        """How many passages of each query are judged."""
        return self._config.depth

    def rerank(self, queries: Queries, passages: Passages, head: list[Scored]) -> list[Scored]:
        """Return the judged passages of each query with their scores; those that failed are left out."""
        heads = [top_k(scored, self._config.depth) for scored in head]
        places = [(q, int(p)) for q, scored in enumerate(heads) for p in scored.rows]
        pairs = [pair for q, p in places if (pair := self._pair(queries, passages, q, p)) is not None]
        self._ask(queries, passages, pairs)
        by_place = {(pair.query, pair.passage): self._answers.get(pair.key) for pair in pairs}
        return [
            self._scored(scored, [by_place.get((q, int(p))) for p in scored.rows]) for q, scored in enumerate(heads)
        ]

    def _scored(self, scored: Scored, answers: list[float | None]) -> Scored:
        known = [place for place, answer in enumerate(answers) if answer is not None]
        values = [float(answers[place] or 0.0) for place in known]
        if self._config.mode == "yes_first":
            # Yes above 1/2, no at most 1/2, and falling within each by the order of arrival.
            values = [
                (float(value > 0.5) + 1 - place / len(answers)) / 2 for place, value in zip(known, values, strict=True)
            ]
        return Scored(scored.rows[known], np.asarray(values, dtype=np.float32))

    def _ask(self, queries: Queries, passages: Passages, pairs: list[_Pair]) -> None:
        todo = {pair.key: pair for pair in pairs if self._answers.get(pair.key) is None}
        with bar("judge pages", total=len(todo), unit="page") as shown:
            for batch in _batches(list(todo.values()), self._config.batch_size):
                self._ask_batch(queries, passages, batch)
                shown.update(len(batch))
        if self._judge is not None:
            self._judge = None
            free_memory()

    def _ask_batch(self, queries: Queries, passages: Passages, batch: list[_Pair]) -> None:
        ready: list[_Pair] = []
        items: list[JudgeItem] = []
        for pair in batch:
            try:
                items.append(self._item(queries, passages, pair))
                ready.append(pair)
            except (DataError, OSError, ValueError) as error:
                self._fault(queries, passages, pair.query, pair.passage, error)
        if not items:
            return
        kept: dict[str, float] = {}
        for pair, answer in zip(ready, split_on_failure(items, self._model().probabilities), strict=True):
            if isinstance(answer, BaseException):
                self._fault(queries, passages, pair.query, pair.passage, answer)
            else:
                kept[pair.key] = answer
        self._answers.add(kept)

    def _item(self, queries: Queries, passages: Passages, pair: _Pair) -> JudgeItem:
        config = self._config
        image = text = None
        if config.use_image and passages.images.key(pair.passage) is not None:
            image = passages.images.load(pair.passage)
        if config.use_text:
            text = self._text(passages, pair.passage)
        if image is None and not text:
            raise DataError("the passage has neither an image nor a text to judge")
        has_image = queries.images.key(pair.query) is not None
        return JudgeItem(
            question=self._question(queries, pair.query),
            page_image=image,
            page_text=text or "",
            query_image=queries.images.load(pair.query) if has_image else None,
        )

    def _pair(self, queries: Queries, passages: Passages, query: int, passage: int) -> _Pair | None:
        """Return the pair with its key; None, with a fault, where an image's file cannot be read."""
        config = self._config
        try:
            page = passages.images.key(passage) if config.use_image else None
            asked = (self._question(queries, query), queries.images.key(query))
        except DataError as error:
            self._fault(queries, passages, query, passage, error)
            return None
        text = self._text(passages, passage) if config.use_text else ""
        return _Pair(query, passage, digest(self._identity(), *asked, page, text))

    def _identity(self) -> str:
        config = self._config
        return digest(config.model, self._revision, PROMPT_VERSION, config.dtype, config.max_pixels, config.max_words)

    def _question(self, queries: Queries, row: int) -> str:
        table = queries.table
        return table["question"][row] or table["instruction"][row] or _IMAGE_ONLY

    def _text(self, passages: Passages, row: int) -> str:
        return " ".join((passages.table["text"][row] or "").split()[: self._config.max_words])

    def _fault(self, queries: Queries, passages: Passages, query: int, passage: int, error: BaseException) -> None:
        doc, page = passages.table.select("doc_name", "passage_id").row(passage)
        place = f"{doc} page {page}" if doc else str(page)
        self._environment.faults.add(_STAGE, f"question {queries.table['question_id'][query]}, {place}", error)

    def _model(self) -> YesNoJudge:
        """Load the model when something has to be asked: with all answers kept it never is."""
        if self._judge is None:
            config = self._config
            self._judge = YesNoJudge(
                config.model, device=self._environment.device, dtype=config.dtype, max_pixels=config.max_pixels
            )
        return self._judge


class _Answers:
    """Kept answers: one JSON line each, ``{"key": sha256, "yes": probability}``.

    A line that is not whole (a kill while it was written) is passed over, and its pair is asked again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, float] = {}
        for line in (path.read_bytes() if path.exists() else b"").splitlines():
            try:
                entry = json.loads(line)
                key, value = entry["key"], float(entry["yes"])
            except (ValueError, KeyError, TypeError):
                continue
            if isinstance(key, str) and 0.0 <= value <= 1.0:
                self._known[key] = value

    def get(self, key: str) -> float | None:
        """Return the kept answer, or None."""
        return self._known.get(key)

    def add(self, answers: dict[str, float]) -> None:
        """Keep answers: on disk when this returns."""
        if not answers:
            return
        self._known |= answers
        lines = [json.dumps({"key": key, "yes": value}) for key, value in answers.items()]
        append_line(self._path, "\n".join(lines))


def _batches(pairs: Sequence[_Pair], size: int) -> Iterator[list[_Pair]]:
    for start in range(0, len(pairs), size):
        yield list(pairs[start : start + size])
