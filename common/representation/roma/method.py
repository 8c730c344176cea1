"""ROMA as a representation method: fit in two stages, vectors of items and of users, words filled in from the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch

from common.errors import DataError
from common.representation.base import Representation, Say, device_of
from common.representation.inputs import Behaviour, Items
from common.representation.roma.config import RomaConfig
from common.representation.roma.item_inputs import ItemInputs, read_items
from common.representation.roma.model import RomaNet
from common.representation.roma.passes import CHUNK, follow_users, item_states, user_vectors
from common.representation.roma.plm import language_model_state, load_language_model
from common.representation.roma.training import Data, Run, train
from common.representation.table import FeatureTable
from common.training.fit import FitResult, evaluating


class Roma(Representation):
    """ROMA (KDD 2025), our specification [I] of it: see `RomaNet` for the model and `RomaConfig` for the settings.

    `transform` gives `embedding`, the projected h of items (unit vectors, float32 [N, output]); `transform_users` the
    projected s of users in the same space: the inner product of the two is what the user-item contrast trains.

    Attributes
    ----------
    results
        What each stage of the last `fit` came to, by its name.
    """

    kind: ClassVar[str] = "roma"
    config_type: ClassVar[type[RomaConfig]] = RomaConfig
    config: RomaConfig  # pyright: ignore[reportIncompatibleVariableOverride]
    net: RomaNet
    tokenizer: Any

    def __init__(self, config: RomaConfig) -> None:
        super().__init__(config)
        self.results: dict[str, FitResult] = {}

    def build(self, state: dict[str, Any]) -> None:
        """Load the language model that `state` names and add the adapters and heads."""
        plm, self.tokenizer = load_language_model(self.config, state["plm"])
        self.net = RomaNet(
            plm,
            self.config,
            mask_id=int(self.tokenizer.mask_token_id),
            vision=state["patch_width"],
            patch_scale=float(state["patch_scale"]),
            domains=len(state["domains"]),
        )
        self.net.learn("saved")

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
        """Pre-train, then fine-tune; `folder` keeps the state of both until the second is done.

        Raises
        ------
        DataError
            No image, no text, no history where one is needed; an item with nothing to read.
        ConfigError
            A language model that is not to be had or not BERT-like; a checkpoint of another configuration.
        """
        if self.config.reads_users and behaviour is None:
            raise DataError("ROMA learns from histories", expected="behaviour", got="none", todo="give histories")
        if behaviour is not None:
            behaviour.check(len(items))
        _tell_lonely(items, say)
        self.state = self._describe(items, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.build(self.state)
        known = {name: self.state["plm"][name] for name in ("name", "revision")}
        data = Data(items, self._read(items), behaviour)
        self.results = train(self.net, data, known, Run(seed, device, folder, say))
        return self.eval()

    def _describe(self, items: Items, seed: int) -> dict[str, Any]:
        """Return the state that fixes the method's shape, its language model and its encoders."""
        width, scale, encoders = None, 1.0, {}
        if self.config.vision:
            name = self.config.modality
            tokens = items.modality(name, "ROMA reads it before the words (vision: false reads words only)")
            if not tokens.mask.any():
                raise DataError(f"no item has its {name}", where=name, todo="set vision: false to read words only")
            width, encoders = tokens.dim, {name: tokens.encoder}
            scale = float(np.sqrt(np.square(tokens.values[tokens.mask], dtype=np.float64).mean())) or 1.0
        return {
            "seed": seed,
            "plm": language_model_state(self.config, list(items.texts)),
            "patch_width": width,
            "patch_scale": scale,
            "domains": list(items.domain_names),
            "encoders": encoders,
        }

    def transform(self, items: Items, behaviour: Behaviour | None = None) -> FeatureTable:
        """Return `embedding` of items, unit vectors float32 [N, output]; histories are not read."""
        with evaluating(self), torch.no_grad():
            found = self.net.item_vectors(item_states(self.net, self._read(items))).cpu().numpy()
        return FeatureTable(items.ids, {"embedding": found}, self._about())

    def transform_users(self, items: Items, behaviour: Behaviour) -> FeatureTable:
        """Return `embedding` of users after their last `history` items, unit vectors float32 [U, output].

        Raises
        ------
        DataError
            A user without history: there is nothing to tell of it.
        """
        _check_users(items, behaviour)
        states = item_states(self.net, self._read(items))
        found = user_vectors(self.net, states, behaviour, items.domain_of).cpu().numpy()
        return FeatureTable(behaviour.users, {"embedding": found}, self._about(), "user_id")

    def routing(self, items: Items, behaviour: Behaviour) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the routers' weights for every item read, float32 [T, E] a top block, and its domain, int64 [T]."""
        if self.config.adapters != "mixture":
            raise DataError("a single adapter has no router", expected="adapters: mixture")
        _check_users(items, behaviour)
        gates: list[list[np.ndarray]] = [[] for _ in range(self.config.top)]
        domains: list[np.ndarray] = []
        route, states = self.net.route, item_states(self.net, self._read(items))
        try:
            route.gates = []
            for _, mask in follow_users(self.net, states, behaviour, items.domain_of):
                assert route.domains is not None  # noqa: S101 - the pass has set it
                for block, found in enumerate(route.gates):
                    gates[block].append(found[mask].cpu().numpy())
                domains.append(route.domains[mask].cpu().numpy())
                route.gates.clear()
        finally:
            route.gates = None
        return [np.concatenate(parts) for parts in gates], np.concatenate(domains)

    def fill(self, items: Items, words: Sequence[str]) -> list[str]:
        """Hide one word of each item's text and return what the model reads in its place, from image and other words.

        Parameters
        ----------
        words
            [N]; each one token of the language model, and in its item's text.

        Raises
        ------
        DataError
            A word that is not in the text that is read, or is more than one token.
        """
        inputs = self._read(items)
        ids = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        hidden = torch.zeros_like(inputs.maskable)
        for row, (word, found) in enumerate(zip(words, ids, strict=True)):
            if len(found) == 1:
                hidden[row] = inputs.maskable[row] & (inputs.words[row] == found[0])
            if not hidden[row].any():
                raise DataError(
                    "this word cannot be hidden",
                    where=f"item {items.ids[row]}",
                    expected="one token of the language model that is in the item's text",
                    got=f"{word!r}, {len(found)} tokens",
                )
        hidden &= hidden.cumsum(1) == 1  # its first place
        best: list[int] = []
        device = device_of(self.net)
        with evaluating(self), torch.no_grad():
            for at in range(0, len(inputs), CHUNK):
                chunk, own = inputs.take(slice(at, at + CHUNK)), hidden[at : at + CHUNK]
                own = own[:, : chunk.words.shape[1]]
                best += self.net.word_logits(chunk.to(device), own.to(device)).argmax(1).tolist()
        return self.tokenizer.convert_ids_to_tokens(best)

    def _read(self, items: Items) -> ItemInputs:
        """Return the inputs of items that fit those of `fit`; raise `DataError` otherwise."""
        self.check_encoders(items)
        if list(items.domain_names) != self.state["domains"]:
            raise DataError(
                "the items have other domains than at fit",
                expected=", ".join(self.state["domains"]),
                got=", ".join(items.domain_names),
            )
        width = self.state["patch_width"]
        if width is not None and (got := items.modality(self.config.modality, "as at fit").dim) != width:
            raise DataError("the patches have another width than at fit", expected=width, got=got)
        return read_items(items, self.tokenizer, self.config, self.net.most_tokens)

    def _about(self) -> dict[str, Any]:
        encoders = {**self.state["encoders"], "language model": "{name} {revision}".format(**self.state["plm"])}
        return {
            "method": self.kind,
            "encoders": encoders,
            "seed": self.state["seed"],
            "bytes_per_item": 4 * self.config.output,
        }


def _check_users(items: Items, behaviour: Behaviour) -> None:
    """Raise `DataError` where a history is not of these items, or empty."""
    behaviour.check(len(items))
    if not len(behaviour) or (behaviour.lengths == 0).any():
        first = behaviour.users[int((behaviour.lengths == 0).argmax())] if len(behaviour) else "none"
        raise DataError(
            "a user has no history",
            where=f"user {first}",
            expected="at least one item",
            got=f"{int((behaviour.lengths == 0).sum())} such users of {len(behaviour)}",
            todo="leave these users out; their vectors would say nothing",
        )


def _tell_lonely(items: Items, say: Say) -> None:
    """Say which domains have one item or none: no contrast within them can be learnt."""
    counts = np.bincount(items.domain_of, minlength=len(items.domain_names))
    few = [f"{name} ({count})" for name, count in zip(items.domain_names, counts, strict=True) if count < 2]
    if few and len(items.domain_names) > 1:
        say(f"domains without a second item teach nothing within themselves: {', '.join(few)}")
