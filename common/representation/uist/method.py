"""UIST: items and users as L codes each (Liu et al., WWW'24 short), fitted, applied, saved."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from common.errors import ConfigError, DataError
from common.hashing import digest
from common.representation.base import MethodConfig, Representation, Say
from common.representation.inputs import Behaviour, Items
from common.representation.table import FeatureTable
from common.representation.uist.codebooks import ResidualCodebooks
from common.representation.uist.config import Side, UistConfig
from common.representation.uist.network import GroupShape, SequenceTokenizer, encode
from common.representation.uist.reader import ItemReader, describe
from common.representation.uist.sources import Group, Source, history_group, row_means
from common.representation.uist.storage import code_bytes
from common.representation.uist.training import train_tokenizer
from common.training.fit_state import learnt_state
from common.training.state import remove_state

HISTORY, POOLED = "history", "pooled"


@dataclass(frozen=True, eq=False)
class Read:
    """What one side's tokenizer reads: a source of all rows, and which of them have a token, bool [N]."""

    source: Source
    present: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Rows that can be coded, int64."""
        return np.flatnonzero(self.present)


class Uist(Representation):
    """User and item tokenizers; `transform` gives items' codes, `transform_users` users'.

    Claims no reproduction: the paper's tables were not at hand. What is from its released code and what is our own
    is said in `network.SequenceTokenizer`, `mixture.HierarchicalMixture` and `UistConfig`. Our own besides [I]:

    - a user's sequence is the vectors of the items in the history: the scaled means of their modalities, side by
      side; for items read as words, the latents z of the items' tokenizer;
    - `tokenizer: rq_kmeans`, without encoder and decoder: codes of an item's vector, and of the mean of a history's.

    An item that lacks one of several modalities is coded by the others: the Transformer does not see what is missing,
    in a vector it is at the catalogue's mean; `about["partial"]` counts such items. An item without any token, and a
    user without a usable history, get no codes and are left out of the table: `about["excluded"]` counts them.
    """

    kind: ClassVar[str] = "uist"
    config_type: ClassVar[type[MethodConfig]] = UistConfig
    config: UistConfig

    def __init__(self, config: MethodConfig | None = None) -> None:
        super().__init__(config or UistConfig())

    def fit(
        self,
        items: Items,
        behaviour: Behaviour | None,
        *,
        seed: int,
        device: str = "cpu",
        folder: Path | None = None,
        say: Say = print,
    ) -> Self:
        """Train the tokenizers of `config.sides()`; see `Representation.fit`.

        Raises
        ------
        DataError
            No histories for the users' tokenizer; no modality or text; fewer rows than a codebook has codes; all
            vectors alike.
        ConfigError
            Users of items read as words, without the items' tokenizer.
        """
        self.state = {**describe(items, behaviour, self.config), "seed": seed, "versions": {}}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(self.state)
        self.to(device)
        self.reader.fit(items)
        for side in self.config.sides():
            read = self.read(side, items, behaviour)
            if left_out := len(read.present) - len(read.rows):
                say(f"{left_out:,} of {len(read.present):,} {side} have nothing to read: they get no codes")
            self._fit_side(side, read, seed, device, folder, say)
            self.state["versions"][side] = self._version(side)
        if folder is not None:
            remove_state(folder)
        return self.eval()

    def build(self, state: dict[str, Any]) -> None:
        """Make the scales and the tokenizers of a state, untrained."""
        config = self.config
        self.reader = ItemReader(state)
        width = sum(state["dims"]) or config.dim
        made: dict[Side, nn.Module] = {}
        for side in config.sides():
            if config.tokenizer == "rq_kmeans":
                made[side] = ResidualCodebooks(config.sizes(side), width, config)
            else:
                history = [GroupShape(HISTORY, state["history"], width)]
                made[side] = SequenceTokenizer(side, history if side == "users" else self.reader.shapes(), config)
        self.item_tokenizer, self.user_tokenizer = made.get("items"), made.get("users")

    def transform(self, items: Items, behaviour: Behaviour | None = None) -> FeatureTable:
        """Return a table with `codes` int32 [N', L] of the items that have a token, coarse to fine.

        `about` has the codebooks' `sizes`, the fit's `version`, and the counts `excluded` and `partial`.

        Raises
        ------
        DataError
            Another encoder or width than at `fit`; a modality is missing; no item has a token.
        ConfigError
            The items' tokenizer was left out or is not fitted.
        """
        del behaviour  # an item's codes come from the item alone
        self.tokenizer("items")
        return self._table("items", items.ids, self.read("items", items, None), {"partial": self.reader.partial(items)})

    def transform_users(self, items: Items, behaviour: Behaviour) -> FeatureTable:
        """Return a table by user_id with `codes` int32 [U', L] of the users who have a usable history.

        Raises
        ------
        DataError, ConfigError
            As `transform`; or no user has a history.
        """
        self.tokenizer("users")
        return self._table("users", behaviour.users, self.read("users", items, behaviour), {})

    def read(self, side: Side, items: Items, behaviour: Behaviour | None) -> Read:
        """Return what the tokenizer of a side reads of items and histories.

        Raises
        ------
        DataError
            Another encoder or width than at `fit`; a modality or the histories are missing.
        """
        self.check_encoders(items)
        if side == "users":
            if behaviour is None:
                raise DataError("users' codes need histories", where="uist", got="none")
            behaviour.check(len(items))
            vectors, usable = self.item_vectors(items)
            rows = np.arange(len(behaviour))
            group = history_group(behaviour, rows, vectors, usable, self.state["history"])
            return Read(Source({HISTORY: group}), group.present)
        if self.config.tokenizer == "rq_kmeans":
            vectors, present = self.reader.vectors(items)
            index = np.where(present, np.arange(len(present)), -1)[:, None]
            return Read(Source({POOLED: Group(index, vectors)}), present)
        groups, present = self.reader.groups(items)
        return Read(Source(groups), present)

    def item_vectors(self, items: Items) -> tuple[np.ndarray, np.ndarray]:
        """Return vectors float32 [N, D] of items, what a history is made of, and which items have one, bool [N]."""
        model = self.item_tokenizer
        if not self.state["words"] or not isinstance(model, SequenceTokenizer):
            return self.reader.vectors(items)
        groups, present = self.reader.groups(items)
        return encode(model, Source(groups)), present

    def tokenizer(self, side: Side) -> SequenceTokenizer | ResidualCodebooks:
        """Return the tokenizer of a side.

        Raises
        ------
        ConfigError
            The ablation `parts` left it out, or nothing is fitted yet.
        """
        found = getattr(self, "item_tokenizer" if side == "items" else "user_tokenizer", None)
        if not isinstance(found, SequenceTokenizer | ResidualCodebooks):
            raise ConfigError(f"there is no tokenizer of {side}", where="parts", got=self.config.parts, todo="fit it")
        return found

    def codes(self, side: Side, source: Source) -> np.ndarray:
        """Return codes int32 [N, L] of a source's rows, each of which has a token."""
        model = self.tokenizer(side)
        if isinstance(model, SequenceTokenizer):
            return model.codebooks.codes(encode(model, source))
        return model.codes(_pooled(source))

    def _fit_side(self, side: Side, read: Read, seed: int, device: str, folder: Path | None, say: Say) -> None:
        largest = max(self.config.sizes(side))
        if len(read.rows) < largest:
            raise DataError(
                f"fewer {side} than codes: a codebook cannot be fitted",
                where=f"uist, {side}",
                expected=f"at least {largest} that have something to read",
                got=len(read.rows),
                todo="give more, or ask for smaller codebook_sizes",
            )
        model, source = self.tokenizer(side), read.source.take(read.rows)
        if isinstance(model, SequenceTokenizer):
            place = None if folder is None else folder / side
            train_tokenizer(model, source, side, seed=seed, device=device, folder=place, say=say)
        else:
            model.start(_pooled(source), seed, f"uist, {side}", self.config.batch_size)

    def _table(self, side: Side, ids: np.ndarray, read: Read, more: dict[str, Any]) -> FeatureTable:
        if not len(read.rows):
            raise DataError(f"none of the {side} has anything to read", where="uist", got=f"{len(ids)} {side}")
        sizes = self.config.sizes(side)
        about = {
            "method": self.kind,
            "tokenizer": self.config.tokenizer,
            "encoders": self.state["encoders"],
            "seed": self.state["seed"],
            "sizes": list(sizes),
            "version": self.state["versions"][side],
            "bytes_per_item": code_bytes(sizes),
            "excluded": len(read.present) - len(read.rows),
            **more,
        }
        codes = self.codes(side, read.source.take(read.rows))
        name = "item_id" if side == "items" else "user_id"
        return FeatureTable(ids[read.rows].astype(np.int64), {"codes": codes}, about, name)

    def _version(self, side: Side) -> str:
        """Return 16 hexadecimal digits over everything that a code of a side depends on."""
        settings = {"config": self.config.model_dump(mode="json"), "state": {**self.state, "versions": {}}}
        parts: list[bytes | str] = [self.kind, side, json.dumps(settings, sort_keys=True)]
        for name, value in sorted(learnt_state(self).items()):
            if side == "users" or not name.startswith("user_tokenizer"):
                parts += [name, value.detach().cpu().numpy().tobytes()]
        return digest(*parts)[:16]


def _pooled(source: Source) -> np.ndarray:
    """Return the one vector of each row that RQ-KMeans codes, float32 [N, D]: a history's is its mean."""
    return row_means(next(iter(source.groups.values())))
