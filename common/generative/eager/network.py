"""EAGER's network: streams, encoders of the history, and the losses of all tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ConfigError, DataError
from common.generative.base import GenerativeRetriever
from common.generative.eager.config import EagerConfig, StreamName
from common.generative.eager.contrast import GlobalContrast
from common.generative.eager.encoder import HistoryEncoder, memory_mask
from common.generative.eager.stream import Stream
from common.generative.eager.transfer import SemanticTransfer
from common.generative.tiger_batches import TigerBatch
from common.hashing import digest
from common.tokenizers.semantic_ids import SemanticIdMap

Vectors = Mapping[StreamName, np.ndarray]


def width_of(vectors: np.ndarray) -> tuple[int, str]:
    """Return the width and the digest of vectors [N, width]."""
    return int(vectors.shape[1]), digest(np.ascontiguousarray(vectors).tobytes())


@dataclass(frozen=True)
class Taught:
    """Teacher-forced states of one stream, [n, L, D] or [n, L + 2, D] with [SUM] last, and their items int64 [n]."""

    states: Tensor
    items: Tensor

    @property
    def summary(self) -> Tensor:
        """The states of [SUM], [n, D]."""
        return self.states[:, -1]


class EagerNetwork(GenerativeRetriever):
    """The modules of `Eager`, which says what the parameters are, and how they are taught."""

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
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                table = name.split(".")[0] == "items" or "tables" in name or "start" in name or "first" in name
                nn.init.normal_(weight, std=0.02 if table else weight.shape[1] ** -0.5)
            if "bias" in name:
                nn.init.zeros_(weight)

    def give_vectors(self, vectors: Vectors) -> None:
        """Give the pre-trained vectors that training needs; a saved model does not keep them.

        Raises
        ------
        DataError
            Not the vectors that the model was made with.
        """
        for name, one in vectors.items():
            found = width_of(one)
            if len(one) != len(self.id_map) or found != self.widths.get(name):
                raise DataError(
                    "not the vectors that the model was made with",
                    where=f"{name} vectors",
                    expected=f"[{len(self.id_map)}, width] with width and digest {self.widths.get(name)}",
                    got=f"{list(one.shape)}, {found[1][:12]}",
                )
            self.vectors[name] = functional.normalize(torch.from_numpy(np.array(one, dtype=np.float32)), dim=1)

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
                    losses[f"gct_{name}"] = self.contrast_of(name).loss(one.summary, one.items, self.vectors_of(name))
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
        for name, memory in self.memories(batch).items():
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
        for name, memory in self.memories(history).items():
            stream = self.stream(name)
            states = stream.teach(wanted, memory, None, stream.cross_at(at, history.items.shape[1]))
            found[name] = Taught(states[learn], wanted[learn])
        return found

    def memories(self, batch: TigerBatch) -> dict[StreamName, Tensor]:
        """Return the memory [B, T + 1, D] of the histories for each stream; the same one where it is shared."""
        found: dict[StreamName, Tensor] = {}
        for group, encoder in self.encoders.items():
            served: list[StreamName] = [name for name in self.config.names if group in ("shared", name)]
            parts = [self.items[group](batch.items)] if group in self.items else []
            if self.config.history != "items":
                parts += [self.stream(name).item_vectors(batch.items) for name in served]
            memory: Tensor = encoder(torch.stack(parts).sum(0), batch.mask)
            for name in served:
                found[name] = memory
        return found

    def contrast_of(self, name: str) -> GlobalContrast:
        """Return a stream's contrastive task."""
        found = self.contrast[name]
        assert isinstance(found, GlobalContrast)  # noqa: S101 - as it was made
        return found

    def vectors_of(self, name: str) -> Tensor:
        """Return a stream's pre-trained unit vectors [N, width]; raise `DataError` where they were not given."""
        if name not in self.vectors:
            raise DataError(
                "the model has no item vectors to be taught against; a saved model does not keep them",
                where=f"{name} vectors",
                todo="give them: model.give_vectors",
            )
        self.vectors[name] = self.vectors[name].to(self.device)
        return self.vectors[name]
