"""KAR's prompts: preference reasoning for a user, facts for an item. Templates are data that a team can replace.

The wording follows the seed deck's page on KAR ("Given a female user who is aged 25-34, the user's movie viewing
history over time is: ... Analyze the user's preferences on movies, consider factors like genre, director ...";
"Introduce the movie 'Dune' and describe its attributes, including but not limited to genre, director ..."). What is
said where attributes are known, or where a user has no history, is ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Literal

from pydantic import Field, model_validator

from common.atomic import write_text
from common.config import Config, make_config, read_yaml
from common.errors import ConfigError, DataError
from common.faults import FaultLog
from common.hashing import digest
from common.representation.inputs import Behaviour, Items

FACTORS = ("genre", "director", "time")
"""The deck's factors of the movie scenario."""
NAME_LENGTH = 120
"""Characters of a text's first line that stand for the name of an item without a title."""
PLACES: dict[str, tuple[set[str], set[str]]] = {
    "item": ({"name", "thing", "factors", "known"}, {"name", "known"}),
    "user": ({"profile", "thing", "factors", "history"}, {"history"}),
    "user_without_history": ({"profile", "thing", "factors"}, {"profile"}),
    "entry": ({"name", "known", "note"}, {"name", "known"}),
    "known": ({"attributes"}, {"attributes"}),
    "entry_known": ({"attributes"}, {"attributes"}),
}
"""Of each template: the placeholders it may have, and those of which it needs one."""

Kind = Literal["item", "user"]
Facts = Mapping[str, str]
"""Attributes of an item by name; `title` is its name. Empty ones count as absent."""


def _check(name: str, template: str, allowed: set[str], needed: set[str]) -> None:
    expected = ", ".join(f"{{{place}}}" for place in sorted(allowed))
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            "a template cannot be read", where=f"templates.{name}", got=str(error), todo="write {{ for a brace"
        ) from None
    found = {place for _, place, _, _ in parts if place is not None}
    odd = [place for _, place, form, conversion in parts if place is not None and (form or conversion)]
    unknown = sorted(found - allowed) + odd
    if unknown:
        raise ConfigError(
            "a template has an unknown placeholder",
            where=f"templates.{name}",
            expected=expected,
            got=f"{{{unknown[0]}}}",
            todo="write {{ and }} for braces that are no placeholder",
        )
    if not found & needed:
        raise ConfigError(
            "a template says the same of everything",
            where=f"templates.{name}",
            expected=f"one of {', '.join(f'{{{place}}}' for place in sorted(needed))}",
            got=template,
        )


class Templates(Config):
    """The texts of the prompts, with {placeholders}; `PLACES` says which ones each may have.

    Raises
    ------
    ConfigError
        An unknown placeholder, a form like {0} or {a:b}, or none of those that a template needs.
    """

    item: str = (
        "Introduce the {thing} '{name}' and describe its attributes, including but not limited to {factors}.{known}"
    )
    known: str = " What is known of it: {attributes}."
    user: str = (
        "Given {profile}, the user's {thing} history over time is: {history}. "
        "Analyze the user's preferences on {thing}s, consider factors like {factors}."
    )
    user_without_history: str = (
        "Given {profile} without any history yet, analyze which {thing}s the user may like, "
        "consider factors like {factors}."
    )
    entry: str = Field(default="'{name}'{known}{note}", description="one item of a history")
    entry_known: str = " ({attributes})"

    @model_validator(mode="after")
    def check(self) -> Templates:
        """Refuse templates that could not be filled, or that would say the same of everything."""
        for name, (allowed, needed) in PLACES.items():
            _check(name, getattr(self, name), allowed, needed)
        return self

    def digest(self) -> str:
        """Return the SHA-256 of all templates."""
        return digest(*(getattr(self, name) for name in PLACES))


class PromptConfig(Config):
    """What the prompts say."""

    templates: Templates = Templates()
    thing: str = Field(default="movie", min_length=1, description="what the items are, in the singular")
    factors: list[str] = Field(default=list(FACTORS), min_length=1)
    history: int = Field(default=15, ge=1, description="the latest items of a history that a prompt names")
    history_attributes: list[str] = Field(
        default=["genres", "director"], description="attributes told of each item of a history"
    )


@dataclass(frozen=True)
class Prompt:
    """One question: about which item or user, its text, and the user's history in words ("" for items)."""

    kind: Kind
    id: int
    text: str
    history: str = ""

    @property
    def label(self) -> str:
        """Name of the prompt in messages."""
        return f"{self.kind} {self.id}"


@dataclass(frozen=True)
class Writer:
    """Fills the templates for a set of items.

    Attributes
    ----------
    facts
        Attributes of each item, as long as `items`; None: an item's text is all that is known, its first line being
        the name.

    Raises
    ------
    DataError
        Another number of facts than items.
    """

    config: PromptConfig
    items: Items
    facts: Sequence[Facts] | None = None
    faults: FaultLog = field(default_factory=FaultLog)

    def __post_init__(self) -> None:
        if self.facts is not None and len(self.facts) != len(self.items):
            raise DataError("facts and items differ in number", expected=len(self.items), got=len(self.facts))

    def item_prompts(self) -> list[Prompt]:
        """Return the factual prompts. An item without name and attributes has none: that is recorded in `faults`."""
        made = []
        for row, number in enumerate(self.items.ids.tolist()):
            name, attributes = self.described(row)
            if not name and not attributes:
                self.faults.add("prompt", f"item {number}", "the item has no name, text or attribute")
                continue
            told = "; ".join(f"{key}: {value}" for key, value in attributes.items())
            text = self._fill("item", name=name or f"{self.config.thing} {number}", known=self._known("known", told))
            made.append(Prompt("item", number, text))
        return made

    def user_prompts(
        self,
        behaviour: Behaviour,
        profiles: Mapping[int, str] | None = None,
        notes: Sequence[str] | None = None,
    ) -> list[Prompt]:
        """Return the preference prompts.

        A user without history is asked about by the profile alone; one without either is recorded in `faults`.

        Parameters
        ----------
        profiles
            By user id, as it follows "Given": "a female user who is aged 25-34".
        notes
            What to say of each entry of `behaviour.items`, such as "3 stars"; "" for nothing.

        Raises
        ------
        DataError
            Histories that do not fit the items, or another number of notes than entries.
        """
        behaviour.check(len(self.items))
        if notes is not None and len(notes) != len(behaviour.items):
            raise DataError("notes and history entries differ in number", expected=len(behaviour.items), got=len(notes))
        made = []
        for row, number in enumerate(behaviour.users.tolist()):
            profile = _plain((profiles or {}).get(number, ""))
            history = self._history(behaviour, row, notes)
            if history:
                text = self._fill("user", profile=profile or "a user", history=history)
            elif profile:
                text = self._fill("user_without_history", profile=profile)
            else:
                self.faults.add("prompt", f"user {number}", "the user has neither a history nor a profile")
                continue
            made.append(Prompt("user", number, text, history))
        return made

    def described(self, row: int) -> tuple[str, dict[str, str]]:
        """Return an item's name and its attributes, without line breaks."""
        if self.facts is not None:
            known = {key: _plain(value) for key, value in self.facts[row].items()}
            name = known.pop("title", "")
            return name, {key: value for key, value in known.items() if value}
        first, _, rest = self.items.texts[row].strip().partition("\n")
        first, rest = _plain(first), _plain(rest)
        if len(first) > NAME_LENGTH:  # no title, one long text: its beginning names it, all of it is told
            return first[:NAME_LENGTH].rsplit(" ", 1)[0], {"text": f"{first} {rest}".strip()}
        return first, {"text": rest} if rest else {}

    def _history(self, behaviour: Behaviour, row: int, notes: Sequence[str] | None) -> str:
        first, last = int(behaviour.offsets[row]), int(behaviour.offsets[row + 1])
        return "; ".join(
            self._entry(int(behaviour.items[place]), "" if notes is None else notes[place])
            for place in range(max(first, last - self.config.history), last)
        )

    def _entry(self, row: int, note: str) -> str:
        name, attributes = self.described(row)
        told = "; ".join(attributes[key] for key in self.config.history_attributes if key in attributes)
        values = {
            "name": name or f"{self.config.thing} {self.items.ids[row]}",
            "known": self._known("entry_known", told),
        }
        return self.config.templates.entry.format(**values, note=f", {note}" if note else "")

    def _known(self, template: str, told: str) -> str:
        return getattr(self.config.templates, template).format(attributes=told.removesuffix(".")) if told else ""

    def _fill(self, template: str, **values: str) -> str:
        wording = {"thing": self.config.thing, "factors": ", ".join(self.config.factors)}
        return getattr(self.config.templates, template).format(**wording, **values)


def read_templates(path: Path) -> Templates:
    """Read a YAML file of templates; those that it leaves out are the default ones.

    Raises
    ------
    ConfigError
        No such file, an unknown template or placeholder.
    """
    if not path.is_file():
        raise ConfigError("no file of templates", where=path, expected=f"YAML with keys of {', '.join(PLACES)}")
    return make_config(Templates, read_yaml(path), (), path)


def write_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write prompts as JSON lines (kind, id, prompt), to be answered elsewhere and read back by `AnswersFile`."""
    lines = [json.dumps({"kind": p.kind, "id": p.id, "prompt": p.text}, ensure_ascii=False) for p in prompts]
    write_text(path, "".join(line + "\n" for line in lines))


def _plain(text: str) -> str:
    return " ".join(text.split())
