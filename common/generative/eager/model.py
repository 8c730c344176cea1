"""EAGER: two streams of codes, behaviour and content, over one history; answers are agreed between both.

Wang et al., "EAGER: Two-Stream Generative Recommender with Behavior-Semantic Collaboration", KDD 2024. The paper's
text was not at hand: this follows the released code as we read it and the published summary, and says where it does
otherwise. No published figure is claimed to be reproduced.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from common.generative.base import read_header
from common.generative.beam import BeamResult, StepFn
from common.generative.eager.config import STREAMS, EagerConfig, Fusion, StreamName
from common.generative.eager.encoder import memory_mask
from common.generative.eager.files import TwoMaps, save_with
from common.generative.eager.fusion import Asked, answer, score
from common.generative.eager.network import EagerNetwork, Vectors, width_of
from common.generative.eager.transfer import replaced
from common.generative.layers import DecoderCache
from common.generative.tiger import check_items, recent
from common.generative.tiger_batches import TigerBatch, TigerBatches
from common.generative.trie import PrefixTrie
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.fit import evaluating


class Eager(EagerNetwork):
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
        super().__init__(config, id_map, semantic, widths)
        self.fusion: Fusion = config.answers

    @classmethod
    def with_vectors(
        cls, config: EagerConfig, id_map: SemanticIdMap, semantic: SemanticIdMap, vectors: Vectors
    ) -> Self:
        """Return an untrained model that is taught against pre-trained item vectors float32 [N, width] a stream."""
        widths = {name: width_of(one) for name, one in vectors.items()}
        model = cls(config, id_map, semantic, widths)
        model.give_vectors(vectors)
        return model

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
        if header["settings"].get("config", {}).get("history") != "codes" and len(id_map) > len(own):
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

    def ask(self, batch: TigerBatch) -> Asked:
        """Encode histories for answers."""
        check_items(batch.items[batch.mask], len(self.id_map))
        batch = recent(batch, self.config.max_items).to(self.device)
        real = memory_mask(batch.mask)
        starts: dict[StreamName, DecoderCache] = {
            name: self.stream(name).decoder.start(memory, real, self.stream(name).cross(batch.mask))
            for name, memory in self.memories(batch).items()
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
            return self.contrast_of(name).cosines(taught.summary, self.vectors_of(name)), taught.items

    @torch.no_grad()
    def estimates(self, batch: TigerBatch, *, guides: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the estimate task's logits [n] of the true codes of a training batch, and of replaced ones.

        `guides`: int64 [n], whose guide each item gets; None: its own.
        """
        if self.transfer is None:
            raise ConfigError("the model has no transfer task", where="streams, recon, est", expected="both, above 0")
        with evaluating(self):
            taught, stream = self.taught(batch), self.stream("behaviour")
            items, guide = taught["behaviour"].items, taught["semantic"].summary
            guide = guide if guides is None else guide[guides]
            others = replaced(stream.trie().to(self.device), items)
            return self.transfer.estimate(stream, items, guide), self.transfer.estimate(stream, others, guide)
