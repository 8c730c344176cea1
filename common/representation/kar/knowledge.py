"""Gather knowledge: each prompt answered once, answers kept on disk, what failed recorded, what it cost counted.

Answers are kept as JSON lines, each by the SHA-256 of the prompt, the source's name and its settings, and flushed to
disk as they come: after Ctrl-C, a crash or an endpoint that dies, the same call asks only what is unanswered.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from common.atomic import append_line, write_text
from common.config import Config
from common.faults import FaultLog
from common.hashing import digest
from common.progress import bar
from common.representation.kar.prompts import Prompt
from common.representation.kar.sources import Answer, KnowledgeSource, SourceStoppedError

REFUSALS = ("i'm sorry", "i am sorry", "i cannot ", "i can't ", "i can’t ", "as an ai ", "i'm unable", "i am unable")
Say = Callable[[str], object]


class GatherConfig(Config):
    """What counts as a failure, how many are allowed, and what tokens cost."""

    allowed_failures: int = Field(default=0, ge=0, description="prompts that may fail; they are left out, and told")
    give_up_after: int = Field(default=20, ge=1, description="failures in a row after which the source is given up")
    accept_cut: bool = Field(default=True, description="take answers that were cut at the token limit")
    refusals: list[str] = Field(default=list(REFUSALS), description="an answer that begins so is a refusal, any case")
    input_price: float = Field(default=0.0, ge=0, description="of 1,000,000 prompt tokens, in any currency")
    output_price: float = Field(default=0.0, ge=0, description="of 1,000,000 tokens of answers")


@dataclass
class Costs:
    """What the prompts of one call came to. Answers from the cache are counted apart: they were paid before."""

    asked: int = 0
    cached: int = 0
    failed: int = 0
    cut: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    money: float = 0.0
    seconds: float = 0.0

    def add(self, answer: Answer, config: GatherConfig) -> None:
        """Count an answer that was asked for now."""
        self.asked += 1
        if answer.prompt_tokens is None or answer.completion_tokens is None:
            self.uncounted += 1
            return
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        spent = answer.prompt_tokens * config.input_price + answer.completion_tokens * config.output_price
        self.money += spent / 1e6

    def told(self) -> str:
        """Return the counts as one line."""
        rate = f", {self.asked / self.seconds:,.1f} a second" if self.asked and self.seconds > 0 else ""
        parts = [f"{self.asked:,} prompts asked in {self.seconds:,.1f} s{rate}", f"{self.cached:,} from the cache"]
        parts.append(f"{self.failed:,} failed, {self.cut:,} cut at the token limit")
        parts.append(f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens, cost {self.money:,.4f}")
        if self.uncounted:
            parts.append(f"{self.uncounted:,} whose tokens the source does not count")
        return "; ".join(parts)


@dataclass(frozen=True)
class Knowledge:
    """Texts in the order of the prompts, None where the prompt failed (recorded), and what they cost."""

    texts: list[str | None]
    costs: Costs = field(default_factory=Costs)


class AnswerCache:
    """The answers of one source with its settings, in `folder/<source>-<digest>/answers.jsonl`.

    A line that is damaged (a crash, a full disk) is left out and counted in `damaged`: its prompt is asked again.
    """

    def __init__(self, folder: Path, source: KnowledgeSource) -> None:
        self._identity = (source.name, json.dumps(source.settings, sort_keys=True))
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).strip("-.")[-60:]
        self.folder = folder / f"{slug or 'source'}-{digest(*self._identity)[:16]}"
        self.path = self.folder / "answers.jsonl"
        self.damaged = 0
        self.answers: dict[str, Answer] = {}
        if self.path.exists():
            self._read()
        else:
            about = json.dumps({"source": source.name, "settings": source.settings}, indent=1, ensure_ascii=False)
            write_text(self.folder / "source.json", about + "\n")

    def key(self, prompt: Prompt) -> str:
        """Return the key of a prompt's answer: another prompt, source or setting gives another one."""
        return digest(prompt.text, *self._identity)

    def keep(self, pairs: Sequence[tuple[Prompt, Answer]]) -> None:
        """Write the final ones of these answers to disk, in one step, flushed."""
        lines = []
        for prompt, answer in pairs:
            if answer.final:
                key = self.key(prompt)
                self.answers[key] = answer
                row = {"key": key, "kind": prompt.kind, "id": prompt.id, **asdict(answer)}
                lines.append(json.dumps(row, ensure_ascii=False))
        if lines:
            append_line(self.path, "\n".join(lines))

    def _read(self) -> None:
        for line in self.path.read_bytes().split(b"\n"):
            if line.strip():
                found = _parsed(line)
                if found is None:
                    self.damaged += 1
                else:
                    self.answers[found[0]] = found[1]


def _parsed(line: bytes) -> tuple[str, Answer] | None:
    """Return (key, answer) of a line; None where it is damaged."""
    try:
        row: dict[str, Any] = json.loads(line)
        key = row.pop("key")
        del row["kind"], row["id"]
        whole = all(isinstance(value, str) for value in (key, row["text"], row["error"]))
        answer = Answer(**row)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return (key, answer) if whole and (answer.text or answer.error) else None


def gather(
    prompts: Sequence[Prompt],
    source: KnowledgeSource,
    cache: Path | None,
    config: GatherConfig | None = None,
    *,
    faults: FaultLog | None = None,
    say: Say = print,
) -> Knowledge:
    """Return the knowledge of each prompt; equal prompts are asked once.

    Parameters
    ----------
    cache
        Folder of kept answers; None keeps none.
    faults
        Where failures are recorded. Those in it already (users without history) count towards the allowed number.

    Raises
    ------
    SourceStoppedError
        The source is down, or failed `give_up_after` times in a row. What was answered is kept.
    DataError
        More failures than `allowed_failures`. What was answered is kept.
    """
    config, faults = config or GatherConfig(), FaultLog() if faults is None else faults
    if source.note:
        say(source.note)
    run = _Run(source, AnswerCache(cache, source) if cache is not None and source.cached else None, config, faults)
    if run.cache is not None and run.cache.damaged:
        say(f"{run.cache.damaged} damaged lines in {run.cache.path}: these prompts are asked again")
    try:
        run.ask(prompts)
    finally:
        say(f"knowledge from {source.name}: {run.costs.told()}")
    for prompt in prompts:  # users with the same prompt lack the same answer: each is recorded
        if (error := run.errors.get(run.key(prompt))) is not None:
            faults.add("knowledge", prompt.label, error)
    texts = [run.texts[run.key(prompt)] for prompt in prompts]
    faults.check(config.allowed_failures, "look at them, then allow that many failures, or give the command again")
    return Knowledge(texts, run.costs)


class _Run:
    """One call of `gather`: `texts` by key, None for those that failed, whose `errors` say why."""

    def __init__(
        self, source: KnowledgeSource, cache: AnswerCache | None, config: GatherConfig, faults: FaultLog
    ) -> None:
        self.source, self.cache, self.config, self.faults = source, cache, config, faults
        self.texts: dict[str, str | None] = {}
        self.errors: dict[str, str] = {}
        self.costs = Costs()
        self.in_a_row = 0

    def key(self, prompt: Prompt) -> str:
        """Return what tells prompts apart: their text, or for sources that go by id the kind and id."""
        return digest(prompt.text) if self.source.cached else digest(prompt.text, prompt.label)

    def ask(self, prompts: Sequence[Prompt]) -> None:
        """Take answers from the cache, ask for the rest, and keep each as it comes."""
        todo: dict[str, Prompt] = {}
        for prompt in prompts:
            key = self.key(prompt)
            if key in self.texts or key in todo:
                continue
            known = self.cache.answers.get(self.cache.key(prompt)) if self.cache is not None else None
            if known is None:
                todo[key] = prompt
            else:
                self.costs.cached += 1
                self._take(prompt, known)
        started, left = time.monotonic(), list(todo.values())
        size = self.source.batch_size
        batches = [left[start : start + size] for start in range(0, len(left), size)]
        try:
            with bar("ask", total=len(left), unit="prompt") as self.shown:
                self._all(batches)
        finally:
            self.costs.seconds = time.monotonic() - started

    def _all(self, batches: list[list[Prompt]]) -> None:
        self.source.start()
        if self.source.parallel == 1:
            for batch in batches:
                self._keep(batch, self.source.answer(batch))
            return
        running: dict[Future[list[Answer]], list[Prompt]] = {}
        with ThreadPoolExecutor(self.source.parallel) as pool:
            try:
                for batch in batches:
                    running[pool.submit(self.source.answer, batch)] = batch
                    if len(running) >= 2 * self.source.parallel:
                        self._finished(running)
                while running:
                    self._finished(running)
            except BaseException:  # Ctrl-C, or the source stopped: what others still answer is kept
                self.source.stop()
                for future in running:
                    future.cancel()
                for future, batch in running.items():
                    if not future.cancelled() and future.exception() is None:
                        self._keep(batch, future.result(), give_up=False)
                raise

    def _finished(self, running: dict[Future[list[Answer]], list[Prompt]]) -> None:
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            self._keep(running.pop(future), future.result())

    def _keep(self, batch: list[Prompt], answers: list[Answer], *, give_up: bool = True) -> None:
        pairs = list(zip(batch, answers, strict=True))
        if self.cache is not None:
            self.cache.keep(pairs)
        for prompt, answer in pairs:
            self.costs.add(answer, self.config)
            failed = self._take(prompt, answer)
            self.in_a_row = self.in_a_row + 1 if failed and not answer.final else 0
        self.shown.update(len(batch))
        self.shown.set_postfix_str(
            f"{self.costs.prompt_tokens + self.costs.completion_tokens:,} tokens, cost {self.costs.money:,.4f}, "
            f"{self.costs.failed} failed",
            refresh=False,
        )
        if give_up and self.in_a_row >= self.config.give_up_after:
            raise SourceStoppedError(
                f"the source failed {self.in_a_row} times in a row:\n{self.faults.summary(3)}",
                where=self.source.name,
                todo="look at the source, then give the same command again: finished answers are kept",
            )

    def _take(self, prompt: Prompt, answer: Answer) -> bool:
        """Note the text of an answer, or record why there is none; return whether it failed."""
        error = answer.error or _refusal(answer.text, self.config.refusals)
        if answer.finish == "length":
            self.costs.cut += 1
            if not self.config.accept_cut:
                error = error or "the answer was cut at the token limit"
        if not error and not answer.text.strip():
            error = "the answer is empty"
        self.texts[self.key(prompt)] = None if error else answer.text
        if error:
            self.costs.failed += 1
            self.errors[self.key(prompt)] = error
            self.faults.add("knowledge", prompt.label, error)
        return bool(error)


def _refusal(text: str, beginnings: Sequence[str]) -> str:
    """Return what to record where a text begins as a refusal; "" otherwise."""
    start = text.strip().lower()
    found = any(start.startswith(beginning.lower()) for beginning in beginnings)
    return f"the model refused: {' '.join(text.split())[:120]}" if found else ""
