"""EAGER: two streams of codes, behaviour and content, over one history; answers are agreed between both.

Wang et al., "EAGER: Two-Stream Generative Recommender with Behavior-Semantic Collaboration", KDD 2024. The paper's
text was not at hand: this follows the released code as we read it and the published summary, and says where it does
otherwise. No published figure is claimed to be reproduced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError, DataError
from common.generative.base import GenerativeRetriever, read_header
from common.generative.beam import BeamResult, StepFn
from common.generative.eager.config import STREAMS, EagerConfig, Fusion, StreamName
from common.generative.eager.contrast import GlobalContrast
from common.generative.eager.encoder import HistoryEncoder, memory_mask
from common.generative.eager.files import TwoMaps, save_with
from common.generative.eager.fusion import Asked, answer, score
from common.generative.eager.stream import Stream
from common.generative.eager.transfer import SemanticTransfer
from common.generative.tiger import check_items, recent
from common.generative.tiger_batches import TigerBatch, TigerBatches
from common.generative.trie import PrefixTrie
from common.hashing import digest
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.fit import evaluating

Vectors = Mapping[StreamName, np.ndarray]


@dataclass(frozen=True)
class Taught:
    """Teacher-forced states of one stream, [n, L, D] or [n, L + 2, D] with [SUM] last, and their items int64 [n]."""

    states: Tensor
    items: Tensor

    @property
    def summary(self) -> Tensor:
        """The states of [SUM], [n, D]."""
        return self.states[:, -1]


class Eager(GenerativeRetriever):
    """EAGER over behaviour and semantic IDs of the same items.

    Parameters
    ----------
    config
        Size and variant.
    id_map
        The behaviour IDs.
    semantic
        The semantic IDs, as many.
    widths
        Width of the pre-trained vectors of each stream that has the global contrastive task, and their digest:
        `Eager.with_vectors` gives them. None: a model without vectors, whose contrastive task is off.
    """

    kind = "eager"

    def __init__(
        self,
        config: EagerConfig,
        id_map: SemanticIdMap,
        semantic: SemanticIdMap,
        widths: Mapping[str, tuple[int, str]] | None = None,
    ) -> None:
        super().__init__(id_map)
        if len(semantic) != len(id_map):
            raise DataError(
                "the two streams' IDs are of different catalogues",
                where="semantic IDs",
                expected=f"{len(id_map):,} items, as the behaviour IDs",
                got=f"{len(semantic):,}",
            )
        self.config, self.semantic_map, self.widths = config, semantic, dict(widths or {})
        maps: dict[StreamName, SemanticIdMap] = {"behaviour": id_map, "semantic": semantic}
        self.streams = nn.ModuleDict({name: Stream(config, maps[name]) for name in config.names})
        groups = ["shared"] if config.encoder == "shared" else list(config.names)
        self.encoders = nn.ModuleDict({name: HistoryEncoder(config) for name in groups})
        atomic = config.history != "codes"
        self.items = nn.ModuleDict({name: nn.Embedding(len(id_map), config.dim) for name in groups if atomic})
        self.contrast = nn.ModuleDict(
            {
                name: GlobalContrast(config.dim, self.widths[name][0], config.temperature, config.negatives)
                for name in config.names
                if config.gct_weight(name) > 0 and name in self.widths
            }
        )
        self.transfer = SemanticTransfer(config) if config.transfers else None
        self.vectors: dict[str, Tensor] = {}
        self.fusion: Fusion = config.answers
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                table = name.split(".")[0] == "items" or "tables" in name or "start" in name or "first" in name
                nn.init.normal_(weight, std=0.02 if table else weight.shape[1] ** -0.5)
            if "bias" in name:
                nn.init.zeros_(weight)

    @classmethod
    def with_vectors(
        cls, config: EagerConfig, id_map: SemanticIdMap, semantic: SemanticIdMap, vectors: Vectors
    ) -> Self:
        """Return an untrained model that is taught against pre-trained item vectors float32 [N, width] a stream."""
        widths = {
            name: (int(one.shape[1]), digest(np.ascontiguousarray(one).tobytes())) for name, one in vectors.items()
        }
        model = cls(config, id_map, semantic, widths)
        model.give_vectors(vectors)
        return model

    def give_vectors(self, vectors: Vectors) -> None:
        """Give the pre-trained vectors that training needs; a saved model does not keep them.

        Raises
        ------
        DataError
            Not the vectors that the model was made with.
        """
        for name, one in vectors.items():
            found = (int(one.shape[1]), digest(np.ascontiguousarray(one).tobytes()))
            if len(one) != len(self.id_map) or found != self.widths.get(name):
                raise DataError(
                    "not the vectors that the model was made with",
                    where=f"{name} vectors",
                    expected=f"[{len(self.id_map)}, width] with width and digest {self.widths.get(name)}",
                    got=f"{list(one.shape)}, {found[1][:12]}",
                )
            self.vectors[name] = functional.normalize(torch.from_numpy(np.array(one, dtype=np.float32)), dim=1)

    def settings(self) -> dict[str, Any]:
        """Return the configuration, the semantic IDs' version and the vectors' widths and digests."""
        widths = {name: list(one) for name, one in self.widths.items()}
        return {"config": self.config.model_dump(mode="json"), "semantic": self.semantic_map.version, "widths": widths}

    @classmethod
    def build(cls, settings: dict[str, Any], id_map: SemanticIdMap) -> Self:
        """Return an untrained model of `settings()`; `id_map` is `TwoMaps`."""
        assert isinstance(id_map, TwoMaps)  # noqa: S101 - `load` makes it
        widths = {name: (int(width), str(data)) for name, (width, data) in settings["widths"].items()}
        config = EagerConfig.model_validate(settings["config"])
        return cls(config, id_map.behaviour, id_map.semantic, widths)

    def save(self, folder: Path) -> None:
        """Write the model and, in semantic_ids/, the semantic IDs to `folder`, whole or not at all."""
        save_with(folder, super().save, self.semantic_map)

    @classmethod
    def load(cls, folder: Path, id_map: SemanticIdMap, semantic: SemanticIdMap | None = None) -> Self:
        """Return the model saved in `folder`; see `GenerativeRetriever.load`.

        Parameters
        ----------
        id_map
            The behaviour IDs that it was trained with, or ones extended from them.
        semantic
            The semantic IDs extended likewise; None: those in the folder.

        Raises
        ------
        DataError
            As `GenerativeRetriever.load`; semantic IDs of another version, or not extended as the behaviour IDs.
        """
        header = read_header(folder)
        if header.get("kind") != cls.kind:
            return super().load(folder, id_map)  # which says so
        own = SemanticIdMap.load(folder / "semantic_ids")
        semantic = own if semantic is None else semantic
        wanted = str(header["settings"].get("semantic"))
        own.check_version(wanted, "the model")
        semantic.check_version(wanted, "the model")
        if header["settings"]["config"].get("history") != "codes" and len(id_map) > len(own):
            raise DataError(
                "the model has an embedding for each item of a history, and none for new items",
                where=folder,
                expected=f"IDs of {len(own):,} items",
                got=f"{len(id_map):,}",
                todo="train with --set eager.history=codes to add items later",
            )
        return super().load(folder, TwoMaps.of(id_map, semantic))

    def batches(self, items: np.ndarray, offsets: np.ndarray, *, seed: int, batch_size: int = 256) -> TigerBatches:
        """Return the training batches of users' sequences; see `TigerBatches`."""
        config = self.config
        check_items(torch.from_numpy(np.asarray(items)), len(self.id_map))
        return TigerBatches(
            items,
            offsets,
            mode=config.attention,
            most=config.max_items,
            seed=seed,
            batch_size=batch_size,
            learn_first=config.learn_first,
        )

    def stream(self, name: StreamName) -> Stream:
        """Return a stream.

        Raises
        ------
        ConfigError
            The model was made without it.
        """
        if name not in self.streams:
            raise ConfigError("the model has no such stream", where="streams", expected=name, got=self.config.streams)
        found = self.streams[name]
        assert isinstance(found, Stream)  # noqa: S101 - as it was made
        return found

    def answer_by(self, fusion: Fusion) -> Self:
        """Answer in another way from now on, which needs no training; return the model.

        Raises
        ------
        ConfigError
            The model was made without a stream that this needs.
        """
        for name in STREAMS if fusion in ("confidence", "concatenate") else (fusion,):
            self.stream(name)
        self.fusion = fusion
        return self

    def loss(self, batch: TigerBatch) -> dict[str, Tensor]:
        """Return "loss", their weighted sum, and each task's own: behaviour, semantic, gct_..., recon, est."""
        config, total = self.config, torch.zeros((), device=self.device)
        losses: dict[str, Tensor] = {}
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=config.bf16):
            taught = self.taught(batch)
            for name, one in taught.items():
                losses[name] = (
                    self.stream(name).code_losses(one.states[:, : self.stream(name).levels], one.items).mean()
                )
                total = total + losses[name]
                if name in self.contrast:
                    losses[f"gct_{name}"] = self._contrast(name).loss(one.summary, one.items, self._vectors(name))
                    total = total + config.gct_weight(name) * losses[f"gct_{name}"]
            if self.transfer is not None:
                guide, items = taught["semantic"].summary.detach(), taught["behaviour"].items
                stream = self.stream("behaviour")
                if config.recon > 0:
                    losses["recon"] = self.transfer.reconstruct(stream, items, guide)
                    total = total + config.recon * losses["recon"]
                if config.est > 0:
                    losses["est"] = self.transfer.estimate_loss(stream, items, guide)
                    total = total + config.est * losses["est"]
        return {"loss": total, **losses}

    def taught(self, batch: TigerBatch) -> dict[StreamName, Taught]:
        """Return the teacher-forced states of each stream on a training batch, of the same items in the same order."""
        if batch.learn is not None:
            return self._every_position(batch, batch.learn)
        if batch.target is None:
            raise DataError("not a training batch", expected="a target, or which items to learn", got="neither")
        found: dict[StreamName, Taught] = {}
        for name, memory in self._memories(batch).items():
            stream = self.stream(name)
            states = stream.teach(batch.target[:, None], memory, memory_mask(batch.mask), stream.cross(batch.mask))
            found[name] = Taught(states[:, 0], batch.target)
        return found

    def _every_position(self, batch: TigerBatch, learn: Tensor) -> dict[StreamName, Taught]:
        if self.config.attention != "causal":
            raise DataError("a batch for a causal encoder", where="attention", expected="causal", got="bidirectional")
        skip = 0 if self.config.learn_first else 1
        history = TigerBatch(batch.items[:, :-1], batch.mask[:, :-1])
        wanted, learn = batch.items[:, skip:], learn[:, skip:]
        at = torch.arange(skip, batch.items.shape[1], device=wanted.device)
        found: dict[StreamName, Taught] = {}
        for name, memory in self._memories(history).items():
            stream = self.stream(name)
            states = stream.teach(wanted, memory, None, stream.cross_at(at, history.items.shape[1]))
            found[name] = Taught(states[learn], wanted[learn])
        return found

    def _memories(self, batch: TigerBatch) -> dict[StreamName, Tensor]:
        """Return the memory [B, T + 1, D] of the histories for each stream; the same one where it is shared."""
        found: dict[str, Tensor] = {}
        for group, encoder in self.encoders.items():
            served = self.config.names if group == "shared" else [name for name in STREAMS if name == group]
            parts = [self.items[group](batch.items)] if group in self.items else []
            if self.config.history != "items":
                parts += [self.stream(name).item_vectors(batch.items) for name in served]
            memory = encoder(torch.stack(parts).sum(0), batch.mask)
            found |= dict.fromkeys(served, memory)
        return {name: found[name] for name in self.config.names}

    def _contrast(self, name: str) -> GlobalContrast:
        found = self.contrast[name]
        assert isinstance(found, GlobalContrast)  # noqa: S101 - as it was made
        return found

    def _vectors(self, name: str) -> Tensor:
        if name not in self.vectors:
            raise DataError(
                "the model has no item vectors to be taught against; a saved model does not keep them",
                where=f"{name} vectors",
                todo="give them: model.give_vectors",
            )
        self.vectors[name] = self.vectors[name].to(self.device)
        return self.vectors[name]

    def ask(self, batch: TigerBatch) -> Asked:
        """Encode histories for answers."""
        check_items(batch.items[batch.mask], len(self.id_map))
        batch = recent(batch, self.config.max_items).to(self.device)
        real = memory_mask(batch.mask)
        starts = {
            name: self.stream(name).decoder.start(memory, real, self.stream(name).cross(batch.mask))
            for name, memory in self._memories(batch).items()
        }
        return Asked({name: self.stream(name) for name in self.config.names}, starts, len(batch), self.device)

    def begin(self, batch: TigerBatch, stream: StreamName = "behaviour") -> tuple[StepFn, int]:
        """Encode the histories; return one stream's step function, for beams over that stream's trie, and their number.

        Raises
        ------
        ConfigError
            The model was made without that stream.
        """
        self.stream(stream)
        asked = self.ask(batch)
        return asked.step(stream), asked.queries

    @torch.no_grad()
    def generate(self, batch: TigerBatch, trie: PrefixTrie, *, beam: int, top_k: int) -> BeamResult:
        """Return each query's best items of `trie`, a behaviour trie; see `EagerConfig.fusion` for the scores.

        The semantic stream keeps to the items of `trie` too.
        """
        with evaluating(self):
            return answer(self.ask(batch), trie, self.fusion, beam=beam, top_k=top_k)

    @torch.no_grad()
    def score(self, batch: TigerBatch, items: np.ndarray | Tensor, trie: PrefixTrie | None = None) -> Tensor:
        """Return the score [B, K] of item rows int64 [B, K] among those of `trie` (None = all); -1 gets -inf.

        With `confidence` the sum of both streams' exact log-probabilities, with `concatenate` the larger, with one
        stream its own. It is what `generate` gives; with `concatenate` only where the beam of the better stream
        found the item.
        """
        with evaluating(self):
            rows = torch.as_tensor(items, dtype=torch.int64, device=self.device)
            return score(self.ask(batch), self.trie() if trie is None else trie, self.fusion, rows)

    @torch.no_grad()
    def cosines(self, batch: TigerBatch, name: StreamName) -> tuple[Tensor, Tensor]:
        """Return the cosine [n, N] of a training batch's summaries with all items' vectors, and their items [n]."""
        with evaluating(self):
            taught = self.taught(batch)[name]
            return self._contrast(name).cosines(taught.summary, self._vectors(name)), taught.items

    @torch.no_grad()
    def estimates(self, batch: TigerBatch, *, guides: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the estimate task's logits [n] of the true codes of a training batch, and of replaced ones.

        `guides`: int64 [n], whose guide each item gets; None: its own.
        """
        from common.generative.eager.transfer import replaced

        if self.transfer is None:
            raise ConfigError("the model has no transfer task", where="streams, recon, est", expected="both, above 0")
        with evaluating(self):
            taught, stream = self.taught(batch), self.stream("behaviour")
            items, guide = taught["behaviour"].items, taught["semantic"].summary
            guide = guide if guides is None else guide[guides]
            others = replaced(stream.trie().to(self.device), items)
            return self.transfer.estimate(stream, items, guide), self.transfer.estimate(stream, others, guide)
