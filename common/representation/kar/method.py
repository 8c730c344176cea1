"""KAR: what a language model knows of items and users, as vectors for a ranker's hybrid-expert adaptor.

Stages (Xi et al., RecSys 2024): factorised prompts, answers of a language model, an encoder with average pooling,
and the adaptor that is trained with the ranker (`adaptor.py`). This module does the first three; nothing in it learns.
Structure and defaults follow the paper's abstract and the authors' public code; the wording of the prompts follows
the seed deck. No published figure is claimed to be reproduced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from common.engine.base import Engine
from common.engine.local import LOCAL
from common.errors import ConfigError, DataError
from common.faults import FaultLog
from common.representation.base import MethodConfig, Representation, Say
from common.representation.inputs import Behaviour, Items
from common.representation.kar.config import KarConfig, build_source
from common.representation.kar.encoder import KnowledgeEncoder, build_knowledge_encoder
from common.representation.kar.knowledge import Costs, gather
from common.representation.kar.prompts import Facts, Prompt, Writer
from common.representation.kar.sources import KnowledgeSource
from common.representation.table import FeatureTable

COLUMN = "knowledge"


class Kar(Representation):
    """Knowledge vectors of items and users, column `knowledge`.

    An item or user whose knowledge could not be had has no row in the table: it is recorded in `faults`, and more
    than `gather.allowed_failures` of them are an error. A language model is used by `transform` only; rankers and
    serving read the table.

    Attributes
    ----------
    faults
        What the last `transform` or `transform_users` could not do.
    costs
        What its knowledge came to.
    """

    kind: ClassVar[str] = "kar"
    config_type: ClassVar[type[MethodConfig]] = KarConfig

    def __init__(self, config: MethodConfig | None = None) -> None:
        if config is not None and not isinstance(config, KarConfig):
            raise ConfigError("KAR needs a KarConfig", got=type(config).__name__)
        super().__init__(config or KarConfig())
        self.faults, self.costs = FaultLog(), Costs()
        self._source: KnowledgeSource | None = None
        self._encoder: KnowledgeEncoder | None = None
        self._engine: Engine = LOCAL
        self._cache: Path | None = None
        self._key: str | None = None
        self._say: Say = print

    @property
    def settings(self) -> KarConfig:
        """The configuration, as KAR's own type."""
        assert isinstance(self.config, KarConfig)  # noqa: S101 - __init__ takes no other
        return self.config

    def use(
        self,
        *,
        cache: Path | None = None,
        api_key: str | None = None,
        source: KnowledgeSource | None = None,
        encoder: KnowledgeEncoder | None = None,
        say: Say | None = None,
        engine: Engine | None = None,
    ) -> Self:
        """Set what belongs to a machine and not to the method: none of it is saved.

        Parameters
        ----------
        cache
            Folder in which answers and vectors are kept between runs.
        api_key
            Of an endpoint.
        source, encoder
            In place of those that the configuration names.
        engine
            Its workers read the knowledge where it has some and there is a cache.
        """
        self._cache = cache or self._cache
        self._key = api_key or self._key
        self._source, self._encoder = source or self._source, encoder or self._encoder
        self._say = say or self._say
        self._engine = engine or self._engine
        return self

    def build(self, state: dict[str, Any]) -> None:
        """Make nothing: there are no weights."""

    def fit(
        self,
        items: Items,
        behaviour: Behaviour | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        folder: Path | None = None,
        say: Say = print,
    ) -> Self:
        """Note the source and the encoder; nothing is learnt here. `device` is in the configuration's models.

        Raises
        ------
        DataError
            There is no item.
        ConfigError
            The source or the encoder is not to be had.
        """
        if not len(items):
            raise DataError("there are no items to know anything of")
        self._say = say
        self._cache = self._cache or folder
        self.state = {
            "encoders": {COLUMN: self._encoding().identity},
            "source": _named(self._knowing()),
            "dim": self._encoding().dim,
            "seed": seed,
        }
        say(f"KAR learns nothing by itself: knowledge from {self._knowing().name}, read by {self._encoding().identity}")
        return self

    def transform(
        self, items: Items, behaviour: Behaviour | None = None, *, facts: Sequence[Facts] | None = None
    ) -> FeatureTable:
        """Return the items' knowledge; histories are not read.

        Parameters
        ----------
        facts
            Attributes of each item, by name; None: its text is all that is known.

        Raises
        ------
        DataError
            Not fitted, another source or encoder than at `fit`, or more failures than allowed.
        SourceStoppedError
            The source is down; what was answered is kept in the cache.
        """
        self._begin()
        prompts = Writer(self.settings.prompts, items, facts, self.faults).item_prompts()
        return self._table(prompts, "item_id", of=len(items))

    def transform_users(
        self,
        items: Items,
        behaviour: Behaviour,
        *,
        facts: Sequence[Facts] | None = None,
        profiles: Mapping[int, str] | None = None,
        notes: Sequence[str] | None = None,
    ) -> FeatureTable:
        """Return the users' knowledge, by user_id; arguments and errors as in `transform` and `Writer.user_prompts`.

        A user without history is asked about by the profile alone; one without either is a recorded failure.
        """
        self._begin()
        prompts = Writer(self.settings.prompts, items, facts, self.faults).user_prompts(behaviour, profiles, notes)
        return self._table(prompts, "user_id", of=len(behaviour))

    def _begin(self) -> None:
        if not self.state:
            raise DataError("KAR is not fitted", todo="call fit, or load a saved one")
        self._same("source of knowledge", self.state["source"], _named(self._knowing()))
        self._same("encoder", self.state["encoders"][COLUMN], self._encoding().identity)
        self.faults = FaultLog()

    def _same(self, what: str, wanted: str, got: str) -> None:
        if got != wanted:
            raise DataError(
                f"KAR was fitted with another {what}",
                expected=wanted,
                got=got,
                todo="use the same one, or fit again and train the ranker again",
            )

    def _table(self, prompts: list[Prompt], id_name: str, of: int) -> FeatureTable:
        config = self.settings
        cache = None if self._cache is None else self._cache / "knowledge"
        found = gather(prompts, self._knowing(), cache, config.gather, faults=self.faults, say=self._say)
        self.costs = found.costs
        have = [(prompt, text) for prompt, text in zip(prompts, found.texts, strict=True) if text is not None]
        if not have:
            raise DataError("there is no knowledge at all", got=self.faults.summary() or "no prompt")
        texts = [f"{p.history}\n{text}" if p.history and self._adds() else text for p, text in have]
        vectors = self._encoding().encode(
            texts,
            batch_size=config.encoder.batch_size,
            faults=self.faults,
            name=lambda row: have[row][0].label,
            engine=self._engine,
        )
        if len(have) < of:
            self._say(f"{of - len(have):,} of {of:,} have no knowledge and no row:\n{self.faults.summary()}")
        about = {
            "method": self.kind,
            "encoders": dict(self.state["encoders"]),
            "source": self.state["source"],
            "templates": config.prompts.templates.digest(),
            "seed": self.state["seed"],
            "bytes_per_item": 4 * vectors.shape[1],
        }
        return FeatureTable(np.array([p.id for p, _ in have], np.int64), {COLUMN: vectors}, about, id_name)

    def _adds(self) -> bool:
        """Whether the history goes before the answer: a filled template tells it already."""
        return self.settings.add_history and self._knowing().name != "template"

    def _knowing(self) -> KnowledgeSource:
        if self._source is None:
            self._source = build_source(self.settings.source, self._key)
        return self._source

    def _encoding(self) -> KnowledgeEncoder:
        if self._encoder is None:
            self._encoder = build_knowledge_encoder(self.settings.encoder, self._cache)
        return self._encoder


def _named(source: KnowledgeSource) -> str:
    """Return what identifies a source: its name and what changes its answers."""
    settings = json.dumps(source.settings, sort_keys=True) if source.settings else ""
    return f"{source.name} {settings}".strip()
