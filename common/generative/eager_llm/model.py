"""EAGER-LLM: one decoder-only language model that recommends items, tells their titles and what users like.

Hong et al., "EAGER-LLM: Enhancing Large Language Models as Recommenders through Exogenous Behavior-Semantic
Integration", WWW 2025. The paper's text and code were not at hand: this follows the seed deck and secondary sources
(facts 2.9), and what they leave open is our own choice. No reproduction is claimed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.generative.eager_llm.batches import EagerLlmBatch
from common.generative.eager_llm.config import EagerLlmConfig
from common.generative.eager_llm.instructions import Instructions
from common.generative.lm.generator import LmGenerator
from common.generative.lm.loading import add_lora
from common.generative.lm.model import LanguageModel, rebuild
from common.generative.tiger import check_items
from common.generative.tiger_batches import TigerBatch
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.fit import evaluating

CHUNK = 64


@dataclass(frozen=True)
class Questions:
    """Prompts as token ids, for `EagerLlm.generate` and `score`."""

    prompts: list[list[int]]


class EagerLlm(LmGenerator):
    """EAGER-LLM over the IDs of `id_map`.

    Parameters
    ----------
    config
        Size and variant.
    lm
        With `vocabulary.size` codes.
    widths
        By source, the width of the vectors that the last hidden states are projected to; empty: no contrastive loss.
    """

    kind = "eager_llm"

    def __init__(
        self, config: EagerLlmConfig, lm: LanguageModel, id_map: SemanticIdMap, widths: Mapping[str, int]
    ) -> None:
        super().__init__(lm, id_map)
        self.config = config
        self.projectors = nn.ModuleDict({name: nn.Linear(lm.dim, width) for name, width in widths.items()})
        if config.adapters and config.lm.tune != "lora":
            learnt = [weight for weight in lm.body.parameters() if weight.requires_grad]
            add_lora(lm.body, config.lm)
            for weight in learnt:
                weight.requires_grad_(True)
        tokens = (self.item_tokens + lm.text_size).numpy()
        self.ask = Instructions(lm, tokens, config.max_items, config.max_text)

    def settings(self) -> dict[str, Any]:
        """Return what `build` makes the untrained model of, as JSON values."""
        widths = {name: projector.out_features for name, projector in self.projectors.items()}
        return {"config": self.config.model_dump(mode="json"), "lm": self.lm.settings(), "widths": widths}

    @classmethod
    def build(cls, settings: dict[str, Any], id_map: SemanticIdMap) -> Self:
        """Return an untrained model of `settings()`."""
        config = EagerLlmConfig.model_validate(settings["config"])
        return cls(config, rebuild(settings["lm"]), id_map, settings["widths"])

    def loss(self, batch: EagerLlmBatch) -> dict[str, Tensor]:
        """Return "loss" = "told" + lambda x the contrastive losses "gct_behaviour" and "gct_semantic".

        "told" is the mean cross-entropy of the told tokens. Weights that the batch does not teach get no gradient.
        """
        with self._teaching(adapters_only=batch.adapters_only):
            states = self.lm.states(self.lm.embed(batch.tokens.ids), batch.tokens.mask)
            losses = {"told": self.lm.told_loss(states, batch.tokens)}
            if len(batch.places):
                losses |= self._contrasts(states, batch)
        total = losses["told"] + self.config.gct * sum(value for name, value in losses.items() if name != "told")
        return {"loss": total, **losses}

    def _contrasts(self, states: Tensor, batch: EagerLlmBatch) -> dict[str, Tensor]:
        """Return InfoNCE (van den Oord et al. 2018) of each source, over the batch's candidates."""
        found = {}
        for name in self.projectors:
            cosines = self.projected(states, batch.places, name) @ batch.candidates[name].T
            found[f"gct_{name}"] = functional.cross_entropy(cosines / self.config.temperature, batch.own)
        return found

    def projected(self, states: Tensor, places: Tensor, source: str) -> Tensor:
        """Return unit vectors [M, D]: the mean of the K last states up to each place, projected to a source."""
        row, last = places.T
        back = last[:, None] - torch.arange(self.config.hidden, device=last.device)
        mean = states[row[:, None], back.clamp(min=0)].mean(dim=1)
        return functional.normalize(self.projectors[source](mean).float(), dim=-1)

    @contextmanager
    def _teaching(self, *, adapters_only: bool) -> Iterator[None]:
        """Let what is computed here teach only the weights of the stage: others are constants to it.

        In the stage of adapters those and the projectors learn. Before it the adapters that were put there for it
        wait. An optimiser leaves weights without a gradient as they are.
        """
        if not self.config.adapters:
            yield
            return
        learnt = [(name, weight) for name, weight in self.named_parameters() if weight.requires_grad]
        waits = self.config.lm.tune != "lora"
        off = []
        for name, weight in learnt:
            adapter = "lora_" in name
            if (not adapter and not name.startswith("projectors.")) if adapters_only else (adapter and waits):
                off.append(weight)
        for weight in off:
            weight.requires_grad_(False)
        try:
            yield
        finally:
            for weight in off:
                weight.requires_grad_(True)

    def prompts(self, batch: TigerBatch | Questions) -> Sequence[Sequence[int]]:
        """Return the questions: those given, or for the next item of each history."""
        if isinstance(batch, Questions):
            return batch.prompts
        check_items(batch.items[batch.mask], len(self.id_map))
        rows = zip(batch.items.tolist(), batch.mask.sum(1).tolist(), strict=True)
        return [self.ask.recommend(items[:count]) for items, count in rows]

    def items_of(self, titles: Sequence[str], k: int = 1, beam: int = 10, *, descriptions: bool = False) -> np.ndarray:
        """Return the best items of titles (or of descriptions): int64 [n, k], best first, -1 beyond their number."""
        prompts = [self.ask.item_of(one, description=descriptions) for one in titles]
        found = np.full((len(titles), k), -1, np.int64)
        for start in range(0, len(titles), CHUNK):
            part = Questions(prompts[start : start + CHUNK])
            result = self.generate(part, self.trie(), beam=max(beam, k), top_k=k)
            found[start : start + CHUNK] = result.items.cpu().numpy()
        return found

    def title_of(self, items: Sequence[int] | np.ndarray) -> list[str]:
        """Return the titles that the model tells of item rows."""
        rows = np.asarray(items, dtype=np.int64)
        check_items(torch.from_numpy(rows), len(self.id_map))
        return self._written([self.ask.title_of(item) for item in rows.tolist()])

    def preference(self, histories: Sequence[np.ndarray]) -> list[str]:
        """Return what each user likes, in words, by the item rows of a history."""
        for one in histories:
            check_items(torch.from_numpy(np.asarray(one, dtype=np.int64)), len(self.id_map))
        return self._written([self.ask.prefer(np.asarray(one).tolist()) for one in histories])

    def _written(self, prompts: Sequence[Sequence[int]]) -> list[str]:
        told: list[str] = []
        with evaluating(self):
            for start in range(0, len(prompts), CHUNK):
                told += self.lm.write(prompts[start : start + CHUNK], self.config.max_text + 1)
        return told
