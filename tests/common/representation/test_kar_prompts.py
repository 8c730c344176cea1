"""Prompts: what they say, templates of a team, users without history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import ConfigError, DataError
from common.faults import FaultLog
from common.representation.inputs import Behaviour, Items
from common.representation.kar.prompts import PromptConfig, Templates, Writer, read_templates, write_prompts

ITEMS = Items(np.array([7, 8, 9]), ["Dune\nA desert planet.", "Alien", ""])
FACTS = [
    {"title": "Dune", "genres": "sci-fi, drama", "director": "Denis Villeneuve", "overview": "Spice\n {matters}."},
    {"title": "Alien", "genres": "horror", "director": ""},
    {"title": "", "genres": ""},
]
BEHAVIOUR = Behaviour(np.array([1, 2, 3]), np.array([0, 1]), np.array([0, 2, 2, 2]))


def writer(facts: Any = None, **options: Any) -> Writer:
    return Writer(PromptConfig.model_validate(options), ITEMS, facts, FaultLog())


def test_an_items_prompt_tells_what_is_known() -> None:
    made = writer(FACTS)
    prompts = made.item_prompts()
    assert [prompt.id for prompt in prompts] == [7, 8]
    assert prompts[0].text == (
        "Introduce the movie 'Dune' and describe its attributes, including but not limited to genre, director, time. "
        "What is known of it: genres: sci-fi, drama; director: Denis Villeneuve; overview: Spice {matters}."
    )
    assert prompts[1].text.endswith("What is known of it: genres: horror.")
    assert [(fault.item, fault.stage) for fault in made.faults.faults] == [("item 9", "prompt")]


def test_without_facts_the_text_is_what_is_known() -> None:
    made = writer()
    texts = [prompt.text for prompt in made.item_prompts()]
    assert "'Dune'" in texts[0] and texts[0].endswith("What is known of it: text: A desert planet.")
    assert texts[1].endswith("genre, director, time.") and len(texts) == 2
    long = Items(np.array([1]), ["word " * 60])
    name, attributes = Writer(PromptConfig(), long).described(0)
    assert len(name) <= 120 and attributes["text"].split() == ["word"] * 60


def test_a_users_prompt_tells_profile_and_history_oldest_first() -> None:
    made = writer(FACTS)
    prompts = made.user_prompts(BEHAVIOUR, {1: "a female user who is aged 25-34", 2: "a male user"}, ["5 stars", ""])
    assert [prompt.id for prompt in prompts] == [1, 2]
    history = "'Dune' (sci-fi, drama; Denis Villeneuve), 5 stars; 'Alien' (horror)"
    assert prompts[0].history == history
    assert prompts[0].text == (
        f"Given a female user who is aged 25-34, the user's movie history over time is: {history}. "
        "Analyze the user's preferences on movies, consider factors like genre, director, time."
    )
    assert "a male user without any history" in prompts[1].text and prompts[1].history == ""
    assert [fault.item for fault in made.faults.faults] == ["user 3"]
    assert writer(FACTS).user_prompts(BEHAVIOUR)[0].text.startswith("Given a user, the user's movie history")


def test_wording_is_configurable_and_the_latest_of_a_history_count() -> None:
    made = writer(FACTS, thing="book", factors=["author", "mood"], history=1, history_attributes=[])
    text = made.user_prompts(BEHAVIOUR)[0].text
    assert "is: 'Alien'." in text and "Dune" not in text
    assert "preferences on books" in text and "author, mood" in text


def test_a_teams_templates_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text("item: 'Tell of {name} {{so}}: {known}'\nknown: '<{attributes}>'\n")
    templates = read_templates(path)
    prompt = Writer(PromptConfig(templates=templates), ITEMS, FACTS).item_prompts()[1]
    assert prompt.text == "Tell of Alien {so}: <genres: horror>"
    assert templates.user == Templates().user and templates.digest() != Templates().digest()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("item: 'of {nmae}'", "unknown placeholder"),
        ("item: 'of {name.title}'", "unknown placeholder"),
        ("item: 'of {name!r}'", "unknown placeholder"),
        ("item: 'of {name:10}'", "unknown placeholder"),
        ("item: 'of {0}'", "unknown placeholder"),
        ("item: 'of {name'", "cannot be read"),
        ("item: 'of {thing}'", "the same of everything"),
        ("user: 'of {profile}'", "the same of everything"),
        ("itme: 'of {name}'", "did you mean 'item'"),
    ],
)
def test_templates_that_cannot_work_are_refused(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError, match=why):
        read_templates(path)
    with pytest.raises(ConfigError, match="no file"):
        read_templates(tmp_path / "other.yaml")


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(DataError, match="facts and items"):
        writer(FACTS[:2])
    with pytest.raises(DataError, match="notes and history"):
        writer(FACTS).user_prompts(BEHAVIOUR, None, ["5 stars"])
    with pytest.raises(DataError, match="unknown item row"):
        writer(FACTS).user_prompts(Behaviour(np.array([1]), np.array([3]), np.array([0, 1])))


def test_prompts_are_written_to_be_answered_elsewhere(tmp_path: Path) -> None:
    prompts = writer(FACTS).item_prompts()
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert rows[1] == {"kind": "item", "id": 8, "prompt": prompts[1].text}
