"""Gathering knowledge: asked once, kept, resumed, counted; sources that need no language model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import ConfigError, DataError
from common.faults import FaultLog
from common.representation.kar.knowledge import GatherConfig, Knowledge, gather
from common.representation.kar.prompts import Prompt
from common.representation.kar.sources import Answer, AnswersFile, KnowledgeSource, TemplateSource

PROMPTS = [Prompt("item", number, f"text {number}") for number in range(6)]


class Fake:
    """Answers "<name> says <prompt>"; what a test puts into `odd` comes instead, an exception is raised."""

    cached = True
    note = ""
    batch_size = 2
    parallel = 1

    def __init__(self, name: str = "fake", **settings: Any) -> None:
        self.name, self.settings = name, settings
        self.odd: dict[str, Answer | BaseException] = {}
        self.asked: list[str] = []
        self.stopped = False

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        made = []
        for prompt in prompts:
            self.asked.append(prompt.text)
            found = self.odd.get(prompt.text, Answer(f"{self.name} says {prompt.text}", 10, 5))
            if isinstance(found, BaseException):
                raise found
            made.append(found)
        return made

    def start(self) -> None:
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


def known(
    source: KnowledgeSource, folder: Path | None, prompts: Sequence[Prompt] = PROMPTS, **options: Any
) -> Knowledge:
    said: list[str] = options.pop("said", [])
    faults: FaultLog | None = options.pop("faults", None)
    return gather(prompts, source, folder, GatherConfig.model_validate(options), faults=faults, say=said.append)


def answers_path(folder: Path) -> Path:
    return next(folder.rglob("answers.jsonl"))


def test_everything_is_asked_once_and_counted(tmp_path: Path) -> None:
    source, said = Fake(), list[str]()
    doubled = [*PROMPTS, Prompt("user", 3, "text 3")]
    found = known(source, tmp_path, doubled, input_price=2, output_price=4, said=said)
    assert source.asked == [prompt.text for prompt in PROMPTS]
    assert found.texts == [f"fake says {prompt.text}" for prompt in doubled]
    assert (found.costs.asked, found.costs.prompt_tokens, found.costs.completion_tokens) == (6, 60, 30)
    assert found.costs.money == pytest.approx((60 * 2 + 30 * 4) / 1e6)
    assert "60 + 30 tokens, cost 0.0002" in said[-1]
    again = known(source, tmp_path, doubled)
    assert len(source.asked) == 6 and again.texts == found.texts
    assert (again.costs.asked, again.costs.cached, again.costs.money) == (0, 6, 0)


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("crash")])
def test_only_the_unfinished_prompts_are_asked_again(tmp_path: Path, parallel: int, error: BaseException) -> None:
    source = Fake()
    source.parallel, source.batch_size = parallel, 1
    source.odd["text 3"] = error
    with pytest.raises(type(error)):
        known(source, tmp_path)
    kept = [json.loads(line)["text"] for line in answers_path(tmp_path).read_text().splitlines()]
    assert set(kept) >= {f"fake says text {number}" for number in range(3)}
    assert source.stopped == (parallel > 1)
    resumed = Fake()
    found = known(resumed, tmp_path)
    assert sorted(resumed.asked) == sorted(prompt.text for prompt in PROMPTS if f"fake says {prompt.text}" not in kept)
    assert found.texts == known(Fake(), None).texts


def test_a_line_cut_short_by_a_crash_is_asked_again_and_told(tmp_path: Path) -> None:
    known(Fake(), tmp_path)
    path = answers_path(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + b'{"odd": 1}\n\xff\xfe\n[]\n' + lines[2][:40])
    source, said = Fake(), list[str]()
    found = known(source, tmp_path, said=said)
    assert source.asked == [f"text {number}" for number in (2, 3, 4, 5)]
    assert found.texts == known(Fake(), None).texts and said[0].startswith("4 damaged lines")
    last = Fake()
    assert known(last, tmp_path).texts == found.texts and not last.asked


@pytest.mark.parametrize("other", [Fake("other"), Fake("fake", temperature=1)])
def test_answers_of_another_source_or_setting_are_not_taken(tmp_path: Path, other: Fake) -> None:
    known(Fake(), tmp_path)
    found = known(other, tmp_path)
    assert len(other.asked) == 6 and found.texts[0] == f"{other.name} says text 0"
    moved = answers_path(tmp_path / answers_path(tmp_path).parent.name)
    for path in tmp_path.rglob("answers.jsonl"):
        path.write_bytes(moved.read_bytes())  # even where its file is taken for one's own
    stranger = Fake("third")
    known(stranger, tmp_path)
    assert len(stranger.asked) == 6


def test_a_changed_prompt_is_asked(tmp_path: Path) -> None:
    known(Fake(), tmp_path)
    source = Fake()
    known(source, tmp_path, [*PROMPTS[:2], Prompt("item", 2, "text 2 of another template")])
    assert source.asked == ["text 2 of another template"]


def test_failures_are_recorded_for_each_and_never_replaced(tmp_path: Path) -> None:
    source = Fake()
    source.odd = {
        "text 0": Answer("", 1, 1, "content_filter", "withheld"),
        "text 1": Answer("", None, None, "error", "HTTP 500", final=False),
        "text 2": Answer("I'm sorry, but I can't help.", 1, 1),
        "text 3": Answer("half an ans", 1, 1, "length"),
        "text 4": Answer(" ", 1, 1),
    }
    twin = Prompt("user", 9, "text 0")
    faults, said = FaultLog(), list[str]()
    found = known(source, tmp_path, [*PROMPTS, twin], allowed_failures=5, faults=faults, said=said)
    assert found.texts == [None, None, None, "half an ans", None, "fake says text 5", None]
    assert {fault.item: fault.error for fault in faults.faults} == {
        "item 0": "withheld",
        "item 1": "HTTP 500",
        "item 2": "the model refused: I'm sorry, but I can't help.",
        "item 4": "the answer is empty",
        "user 9": "withheld",
    }
    assert (found.costs.cut, found.costs.failed, found.costs.uncounted) == (1, 4, 1)
    assert "tokens the source does not count" in said[-1]
    source.asked.clear()
    with pytest.raises(DataError, match="at most 4 failed items"):
        known(source, tmp_path, [*PROMPTS, twin], allowed_failures=4)
    assert source.asked == ["text 1"]
    with pytest.raises(DataError, match="item 3: the answer was cut"):
        known(source, tmp_path, [PROMPTS[3]], accept_cut=False)
    assert known(source, tmp_path, [PROMPTS[2]], refusals=[]).texts == ["I'm sorry, but I can't help."]


def test_faults_before_the_gathering_count(tmp_path: Path) -> None:
    faults = FaultLog()
    faults.add("prompt", "user 1", "the user has neither a history nor a profile")
    with pytest.raises(DataError, match="neither a history"):
        known(Fake(), tmp_path, faults=faults)
    assert known(Fake(), tmp_path, faults=faults, allowed_failures=1).costs.cached == 6


def test_the_template_itself_says_that_it_is_no_language_model(tmp_path: Path) -> None:
    said: list[str] = []
    found = known(TemplateSource(), tmp_path, said=said)
    assert found.texts == [prompt.text for prompt in PROMPTS]
    assert said[0] == "no language model: the filled template itself is the knowledge"
    assert not list(tmp_path.iterdir()) and found.costs.prompt_tokens == 0


ROWS: list[dict[str, Any]] = [
    {"kind": "item", "id": 0, "text": "ready 0"},
    {"kind": "user", "id": 0, "text": "of a user"},
    {"kind": "item", "id": 1, "text": "ready 1"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_ready_answers_go_by_kind_and_id(tmp_path: Path, suffix: str) -> None:
    source = AnswersFile(write(tmp_path / f"ready.{suffix}", ROWS))
    assert len(source) == 3
    same_text = [Prompt("item", 0, "same"), Prompt("user", 0, "same"), Prompt("item", 1, "same")]
    assert known(source, tmp_path / "cache", same_text).texts == ["ready 0", "of a user", "ready 1"]
    with pytest.raises(DataError, match="item 5: the file has no answer"):
        known(source, None, [Prompt("item", 5, "same")])
    other = AnswersFile(write(tmp_path / f"other.{suffix}", ROWS[:2]))
    assert other.settings != source.settings


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"kind": "film", "id": 2, "text": "x"}, "another form"),
        ({"kind": "item", "id": None, "text": "x"}, "another form"),
        ({"kind": "item", "id": 2, "text": " "}, "another form"),
        ({"kind": "item", "id": 2, "text": None}, "another form"),
        ({"kind": "item", "id": 0, "text": "again"}, "two ready answers"),
    ],
)
def test_odd_ready_answers_are_refused(tmp_path: Path, suffix: str, row: dict[str, Any], why: str) -> None:
    path = write(tmp_path / f"ready.{suffix}", [*ROWS, row])
    with pytest.raises(DataError, match=why) as caught:
        AnswersFile(path)
    assert ("line 4" if suffix == "jsonl" else "row 3") in str(caught.value)


def test_damaged_files_of_answers_are_refused(tmp_path: Path) -> None:
    for data, why in ((b'{"kind": "item", "i\n', "not JSON"), (b"[1]\n", "no JSON object"), (b"\xff\n", "UTF-8")):
        path = tmp_path / "ready.jsonl"
        path.write_bytes(data)
        with pytest.raises(DataError, match=why):
            AnswersFile(path)
    (tmp_path / "ready.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read"):
        AnswersFile(tmp_path / "ready.parquet")
    pq.write_table(pa.table({"id": [1], "text": ["x"]}), tmp_path / "no_kind.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        AnswersFile(tmp_path / "no_kind.parquet")
    with pytest.raises(DataError, match="missing"):
        AnswersFile(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="another form"):
        AnswersFile(tmp_path / "ready.csv")
