"""EASE as a representation method: train with a frozen language model, serve without it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ConfigError, DataError
from common.representation.base import MethodConfig, Representation, Say, device_of
from common.representation.ease.adapter import RetrievalHead, SemanticAdapter, pool
from common.representation.ease.batches import ClickRows, EaseBatches, views_of
from common.representation.ease.config import EaseConfig
from common.representation.ease.qformer import make_reader
from common.representation.ease.training import ReaderStage, fit_adapter, fit_reader, hold_out, make_stage
from common.representation.ease.usable import modality_names, unit_vectors, usable
from common.representation.inputs import Behaviour, Items
from common.representation.table import FeatureTable
from common.training.fit import FitResult

if TYPE_CHECKING:
    from common.representation.ease.language_model import FrozenLanguageModel

ROWS = 512
"""Items that go through the reader at once."""


class Ease(Representation):
    """Q-Former over frozen tokens, taught by a frozen language model; an adapter for clicks or for retrieval.

    Attributes
    ----------
    results
        What the stages of the last `fit` came to: "reader", "adapter".
    """

    kind: ClassVar[str] = "ease"
    config_type: ClassVar[type[MethodConfig]] = EaseConfig

    def __init__(self, config: EaseConfig) -> None:
        super().__init__(config)
        self.settings = config
        self.results: dict[str, FitResult] = {}

    def build(self, state: dict[str, Any]) -> None:
        """Make the reader, W, the head and the adapter that `state` describes."""
        config = self.settings
        self.reader = make_reader(state["dims"], config.qformer)
        width, model, teacher = config.qformer.width, state["language_model"], state["teacher"]
        inputs = width * (self.reader.outputs if config.pool == "flatten" else 1)
        self.to_prompt = None if model is None else nn.Linear(width, model["width"])
        self.head = None if teacher is None else RetrievalHead(inputs, teacher["dim"], config.retrieval)
        self.adapter = SemanticAdapter(inputs, config.semantic.dim) if config.adapter == "semantic" else None

    def fit(
        self,
        items: Items,
        behaviour: Behaviour | None,
        *,
        seed: int,
        device: str = "cpu",
        folder: Path | None = None,
        say: Say = print,
        clicks: ClickRows | None = None,
        target: np.ndarray | None = None,
        teacher: str = "",
        decoder: FrozenLanguageModel | None = None,
    ) -> Self:
        """Learn from items and their descriptions; then from clicks, or from a teacher's vectors.

        Parameters
        ----------
        items
            `items.texts` are the descriptions.
        behaviour
            Histories of training: what teaches the semantic adapter where `clicks` is None.
        clicks
            Labelled clicks; item rows are those of `items`.
        target, teacher
            Vectors [N, D] of a teacher encoder for the same items, and its name: they teach the retrieval head.
        decoder
            A language model that is loaded already, in the place of `language_model`.

        Raises
        ------
        DataError
            More items than `max_missing` lack a description or a modality; no clicks for the semantic adapter; no
            target for the retrieval head, or one that is not finite.
        ConfigError
            Neither a language model nor a target, and not `lm_weight: 0`.
        """
        config = self.settings
        self._check(behaviour, clicks, target, decoder)
        decoder = self._decoder(decoder, say)
        names = modality_names(items, config.modalities)
        kept, excluded = usable(items, names, config, described=decoder is not None)
        used = items.take(kept)
        vectors = None if target is None else unit_vectors(target, items, kept)
        rows = self._clicks(clicks, behaviour, items, kept, seed, say)
        if excluded:
            told = ", ".join(f"{count} without {what}" for what, count in excluded.items())
            say(f"ease: {len(items) - len(kept)} of {len(items)} items are left out: {told}")
        self.state = {
            "dims": {name: used.modalities[name].dim for name in names},
            "encoders": {name: used.modalities[name].encoder for name in names},
            "language_model": None
            if decoder is None
            else {"name": decoder.config.name, "width": decoder.width, "digest": decoder.digest()},
            "teacher": None if vectors is None else {"name": teacher, "dim": vectors.shape[1]},
            "items": len(used),
            "excluded": excluded,
            "seed": seed,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(self.state)
        self._fit_reader(used, vectors, decoder, seed, device, folder, say)
        if rows is not None:
            self._fit_adapter(used, rows, seed, device, folder, say)
        for stage in ("reader", "adapter"):
            if folder is not None:
                shutil.rmtree(folder / stage, ignore_errors=True)
        return self.eval()

    def transform(self, items: Items, behaviour: Behaviour | None = None) -> FeatureTable:
        """Return column `embedding` float32 [N, D]; items that cannot be read are left out as `max_missing` allows.

        Raises
        ------
        DataError
            Another encoder than at `fit`; more items than `max_missing` lack a modality.
        """
        names = list(self.state["dims"])
        self._check_tokens(items, names)
        kept, excluded = usable(items, names, self.settings, described=False)
        used = items.take(kept)
        z = self.tokens(used)
        with torch.no_grad():
            vectors = torch.cat([self._embed(part) for part in z.split(ROWS)]) if len(z) else self._embed(z)
        values = vectors.cpu().numpy().astype(np.float32)
        about = {
            "method": self.kind,
            "encoders": self.state["encoders"],
            "adapter": self.settings.adapter,
            "teacher": self.state["teacher"],
            "language_model": self.state["language_model"],
            "seed": self.state["seed"],
            "excluded": excluded,
            "bytes_per_item": values.shape[1] * values.itemsize,
        }
        return FeatureTable(used.ids, {"embedding": values}, about)

    @torch.no_grad()
    def tokens(self, items: Items) -> Tensor:
        """Return Z float32 [N, n, d] of items that have what they need."""
        was, device = self.training, device_of(self)
        self.eval()
        found = []
        for start in range(0, len(items), ROWS):
            rows = np.arange(start, min(start + ROWS, len(items)))
            views = views_of(items, list(self.state["dims"]), rows)
            found.append(self.reader({k: (v.to(device), m.to(device)) for k, (v, m) in views.items()}))
        self.train(was)
        empty = torch.zeros(0, self.reader.outputs, self.settings.qformer.width, device=device)
        return torch.cat([empty, *found])

    @torch.no_grad()
    def prompts(self, items: Items) -> Tensor:
        """Return the soft prompts W Z [N, n, width of the language model]: for looking at what it says, not to serve.

        Raises
        ------
        ConfigError
            The method was fitted without a language model.
        """
        if self.to_prompt is None:
            raise ConfigError("this method was fitted without a language model", where="language_model")
        return self.to_prompt(self.tokens(items))

    def _embed(self, z: Tensor) -> Tensor:
        pooled = pool(z, self.settings.pool)
        if self.settings.adapter == "retrieval" and self.head is not None:
            return self.head(pooled)
        return pooled if self.adapter is None else self.adapter(pooled)

    def _decoder(self, given: FrozenLanguageModel | None, say: Say) -> FrozenLanguageModel | None:
        """Return the frozen language model that teaches, or None where the configuration leaves it out."""
        config = self.settings
        if not config.lm_weight:
            return None
        if given is None and config.language_model is not None:
            from common.representation.ease.language_model import FrozenLanguageModel

            given = FrozenLanguageModel.load(config.language_model)
        if given is None:
            say("ease: no language model is set: the Q-Former learns by distillation alone")
        return given

    def _check(
        self,
        behaviour: Behaviour | None,
        clicks: ClickRows | None,
        target: np.ndarray | None,
        decoder: FrozenLanguageModel | None,
    ) -> None:
        config = self.settings
        if config.adapter == "retrieval" and target is None:
            raise DataError(
                "the retrieval head needs a teacher's vectors", where="adapter: retrieval", expected="target [N, D]"
            )
        if config.adapter == "semantic" and clicks is None and behaviour is None:
            raise DataError(
                "the semantic adapter is trained on clicks, and there are none",
                where="adapter: semantic",
                expected="clicks or histories",
                todo="give them, or set adapter: none and train the map inside the ranker",
            )
        if config.lm_weight and config.language_model is None and decoder is None and target is None:
            raise ConfigError(
                "nothing teaches the Q-Former",
                where="language_model",
                expected="a language model, or a teacher's vectors",
                todo="name a language model; lm_weight: 0 says that an untrained Q-Former is meant (an ablation)",
            )

    def _clicks(
        self,
        clicks: ClickRows | None,
        behaviour: Behaviour | None,
        items: Items,
        kept: np.ndarray,
        seed: int,
        say: Say,
    ) -> ClickRows | None:
        """Return what teaches the semantic adapter, on the items that are kept; None without that adapter."""
        if self.settings.adapter != "semantic":
            return None
        if clicks is None:
            assert behaviour is not None  # noqa: S101 - `_check` saw that one of them is there
            behaviour.check(len(items))
            clicks = ClickRows.of_histories(behaviour, len(items), self.settings.semantic.negatives, seed)
        return _on(clicks, kept, len(items), say)

    def _check_tokens(self, items: Items, names: list[str]) -> None:
        """Refuse items without the modalities of `fit`, of another encoder, or of another width."""
        self.check_encoders(items)
        for name in names:
            dim, wanted = items.modality(name, f"{self.kind}, transform").dim, self.state["dims"][name]
            if dim != wanted:
                raise DataError("tokens of another width than at fit", where=name, expected=wanted, got=dim)

    def _fit_reader(
        self,
        items: Items,
        vectors: np.ndarray | None,
        decoder: FrozenLanguageModel | None,
        seed: int,
        device: str,
        folder: Path | None,
        say: Say,
    ) -> None:
        """First stage: Q-Former, W and retrieval head; without a loss they stay as they were drawn, and it says so."""
        config = self.settings
        self.reader.measure(items)
        if decoder is None and vectors is None:
            say("ease: neither a language model nor a teacher: the Q-Former stays untrained")
            self.to(device)
            return
        names = list(self.state["dims"])
        described = None if decoder is None else decoder.to(device).tokenize(items.texts)
        if decoder is not None and decoder.truncated:
            say(f"ease: {decoder.truncated} descriptions are cut at {decoder.config.max_tokens} tokens")

        def batches(rows: np.ndarray) -> EaseBatches:
            words = None if described is None else (described[0][rows], described[1][rows])
            aim = None if vectors is None else vectors[rows]
            size = config.batch_size
            return EaseBatches(items.take(rows), names, described=words, target=aim, batch_size=size, seed=seed)

        rows, held = hold_out(len(items), config.validation, seed)
        self.results["reader"] = fit_reader(
            ReaderStage(self.reader, self.to_prompt, self.head, decoder, config),
            batches(rows),
            batches(held) if len(held) else None,
            key=self._key(),
            seed=seed,
            device=device,
            folder=None if folder is None else folder / "reader",
            say=say,
        )
        self.to(device)

    def _fit_adapter(
        self, items: Items, clicks: ClickRows, seed: int, device: str, folder: Path | None, say: Say
    ) -> None:
        """Second stage: the semantic adapter over fixed Z."""
        assert self.adapter is not None  # noqa: S101 - called only with one
        features = pool(self.tokens(items), self.settings.pool)
        self.results["adapter"] = fit_adapter(
            make_stage(features, int(clicks.users.max()) + 1, self.adapter, seed),
            clicks,
            self.settings.semantic,
            key=self._key(),
            seed=seed,
            device=device,
            folder=None if folder is None else folder / "adapter",
            say=say,
        )

    def _key(self) -> dict[str, Any]:
        skip = {"fit": True, "semantic": {"fit"}}
        return {"kind": self.kind, "config": self.settings.model_dump(mode="json", exclude=skip), "state": self.state}


def _on(clicks: ClickRows, kept: np.ndarray, items: int, say: Say) -> ClickRows:
    """Return the clicks on the items that are kept, whose rows count from 0 among these."""
    clicks.check(items)
    place = np.full(items, -1)
    place[kept] = np.arange(len(kept))
    rows = np.flatnonzero(place[clicks.items] >= 0)
    if len(rows) < len(clicks):
        say(f"ease: {len(clicks) - len(rows)} of {len(clicks)} clicks are on items that are left out")
    part = ClickRows(clicks.users[rows], place[clicks.items[rows]], clicks.labels[rows])
    part.check(len(kept))
    return part
