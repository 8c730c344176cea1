"""Stage 1 of STORE: a language model as dense tokenizer, whose slots hold what a text says.

An item's text is followed by m placeholder slots. The model is trained to write the text again (replicate), the
category and a longer text (auxiliary tasks), each from the slots alone: see `cascaded_mask`. The slots' last hidden
states are the item's dense tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ConfigError, DataError
from common.generative.lm.examples import Example, LmBatch, pack
from common.generative.lm.model import LanguageModel, load_language_model
from common.generative.store.cascade import CascadeBatch, CascadeExample, pack_cascade
from common.generative.store.config import StoreConfig
from common.generative.store.items import StoreItems
from common.generative.store.tokens import DENSE_TASKS, INSTRUCTIONS, DenseTask, StoreTokens, extra_codes
from common.hashing import digest
from common.training.fit import evaluating

READ = 256
"""Texts that are read at once outside training."""
LOGITS = 1024
"""Tokens whose logits are held at once outside training: 200 MB with 50,000 words."""


@dataclass(frozen=True)
class DenseBatch:
    """A batch for each task that has examples."""

    tasks: dict[DenseTask, CascadeBatch]

    def to(self, device: torch.device | str) -> DenseBatch:
        """Return the batch on a device."""
        return DenseBatch({task: batch.to(device) for task, batch in self.tasks.items()})

    def counts(self) -> dict[str, int]:
        """Return how many tokens each task's loss is the mean of."""
        return {task: int(self.tasks[task].told.sum()) if task in self.tasks else 0 for task in DENSE_TASKS}


class DenseTokenizer(nn.Module):
    """A language model with m slots: texts to dense tokens [m, D].

    Parameters
    ----------
    lm
        Its last codes are STORE's own (`extra_codes`).
    config
        Sizes, mask and weights.

    Raises
    ------
    ConfigError
        A text, the slots and what is written do not fit what the model reads.
    """

    def __init__(self, lm: LanguageModel, config: StoreConfig) -> None:
        super().__init__()
        self.lm, self.config = lm, config
        self.tokens = StoreTokens(lm, config.dense.slots, worded=config.instructions)
        lead = max(len(self.tokens.lead(task)) for task in ("replicate", "category", "longer"))
        needed = config.max_text + config.dense.slots + lead + max(config.max_text, config.max_longer) + 1
        if needed > lm.context:
            raise ConfigError(
                "a text, the slots and what is written from them are longer than the model reads",
                where="store.max_text, store.max_longer",
                expected=f"at most {lm.context} tokens in all",
                got=needed,
                todo="lower max_text or max_longer, or take a model that reads more",
            )

    @classmethod
    def untrained(cls, config: StoreConfig, items: StoreItems) -> DenseTokenizer:
        """Return the tokenizer before stage 1; one from scratch makes its vocabulary of all texts."""
        worded = [*INSTRUCTIONS.values()] * 2 if config.instructions else []  # twice: what occurs once is not merged
        lm = load_language_model(config.lm, extra_codes(config.dense.slots), [*items.words(), *worded])
        return cls(lm, config)

    def source(self, text: str) -> list[int]:
        """Return the token ids of an item's text, the first `max_text` of them."""
        ids = self.lm.tokenize(text, self.config.max_text)
        if not ids:
            raise DataError("an item without text", got=repr(text))
        return ids

    def target(self, task: DenseTask, text: str) -> list[int]:
        """Return what a task writes of a text: its first tokens and the end, which a text that is cut lacks."""
        most = self.config.max_text if task == "replicate" else self.config.max_longer
        ids = self.lm.tokenize(text, most + 1)
        return ids[:most] if len(ids) > most else [*ids, self.lm.end]

    def pack(self, task: DenseTask, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> CascadeBatch:
        """Return the batch that writes `targets` from the slots of `sources`."""
        lead = self.tokens.lead(task)
        examples = [CascadeExample(s, lead, t) for s, t in zip(sources, targets, strict=True)]
        return pack_cascade(examples, self.tokens.slots, self.lm.context, self.config.dense.mask)

    def loss(self, batch: DenseBatch) -> dict[str, Tensor]:
        """Return each task's mean cross-entropy a token, and "loss": replicate + auxiliary times the others."""
        losses: dict[str, Tensor] = {}
        for task, one in batch.tasks.items():
            losses[task] = self.lm.told_loss(self.lm.states(self.lm.embed(one.ids), one.mask, one.attention), one)
        weighted = [
            value * (1 if task == "replicate" else self.config.dense.auxiliary) for task, value in losses.items()
        ]
        return {"loss": torch.stack(weighted).sum(), **losses}

    @torch.no_grad()
    def right(self, sources: Sequence[str], targets: Sequence[str], task: DenseTask = "replicate") -> list[np.ndarray]:
        """Return for each pair which tokens of the target are guessed right, bool, from the source's slots.

        Each token is guessed from the slots and the true tokens before it, the text hidden whatever `dense.mask` is:
        what the slots hold is asked for.
        """
        found: list[np.ndarray] = []
        with evaluating(self):
            for start in range(0, len(sources), READ):
                rows = slice(start, start + READ)
                examples = [
                    CascadeExample(self.source(s), self.tokens.lead(task), self.target(task, t))
                    for s, t in zip(sources[rows], targets[rows], strict=True)
                ]
                batch = pack_cascade(examples, self.tokens.slots, self.lm.context).to(self.lm.device)
                states = self.lm.states(self.lm.embed(batch.ids), batch.mask, batch.attention)
                row, place = torch.nonzero(batch.told, as_tuple=True)
                parts = states[row, place - 1].split(LOGITS)
                right = torch.cat([self.lm.logits(part).argmax(-1) for part in parts]) == batch.ids[row, place]
                ends = np.cumsum([len(one.target) for one in examples])[:-1]
                found += np.split(right.cpu().numpy(), ends)
        return found

    def accuracy(self, sources: Sequence[str], targets: Sequence[str] | None = None) -> float:
        """Return the share of all tokens of the texts (or of `targets`) that `right` finds right."""
        return float(np.concatenate(self.right(sources, sources if targets is None else targets)).mean())

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the dense tokens float32 [N, m, D] of texts; equal texts are read once."""
        rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        ids = [self.source(text) for text in rows]
        found = np.empty((len(ids), len(self.tokens.slots), self.lm.dim), np.float32)
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        with evaluating(self):
            for start in range(0, len(order), READ):
                some = order[start : start + READ]
                found[some] = self._slots([ids[row] for row in some])
        return found[[rows[text] for text in texts]]

    def _slots(self, sources: list[list[int]]) -> np.ndarray:
        """Return the slots' states float32 [n, m, D] of texts as token ids."""
        slots = self.tokens.slots
        batch: LmBatch = pack([Example(one, slots) for one in sources], self.lm.context).to(self.lm.device)
        states = self.lm.states(self.lm.embed(batch.ids), batch.mask)
        return states[batch.told].view(len(sources), len(slots), -1).float().cpu().numpy()

    def key(self) -> dict[str, Any]:
        """Return JSON values that say what the tokenizer is, the vocabulary as its digest."""
        own = self.config.model_dump(mode="json", include={"dense", "instructions", "max_text", "max_longer"})
        own["dense"].pop("train")
        lm = self.lm.settings()
        lm["tokenizer"] = digest(json.dumps(lm["tokenizer"]))
        return {"lm": lm, "store": own}


class DenseBatches:
    """Training batches of the dense tokenizer: each epoch has each item once, in every task that it has a text for.

    Parameters
    ----------
    seed
        Of the order.
    """

    def __init__(self, tokenizer: DenseTokenizer, items: StoreItems, *, seed: int) -> None:
        config = tokenizer.config.dense
        self.tokenizer, self.seed, self.size = tokenizer, seed, config.batch_size
        self.sources = [tokenizer.source(text) for text in items.texts]
        self.targets: dict[DenseTask, list[list[int]]] = {
            "replicate": [tokenizer.target("replicate", text) for text in items.texts]
        }
        more: tuple[tuple[DenseTask, list[str] | None], ...] = (
            ("category", items.categories),
            ("longer", items.longer),
        )
        for task, texts in more:
            if config.auxiliary and texts is not None:
                self.targets[task] = [tokenizer.target(task, text) if text else [] for text in texts]
        self.digest = digest("store-dense", items.digest, seed, config.batch_size)

    @property
    def cut(self) -> dict[DenseTask, int]:
        """How many texts of a task are longer than `max_text` or `max_longer`, and are cut."""
        end = self.tokenizer.lm.end
        return {task: sum(bool(one) and one[-1] != end for one in told) for task, told in self.targets.items()}

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return -(-len(self.sources) // self.size)

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the item rows of each batch of an epoch."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.sources))
        return [order[start : start + self.size] for start in range(0, len(order), self.size)]

    def make(self, rows: np.ndarray) -> DenseBatch:
        """Return the batch of some items."""
        tasks: dict[DenseTask, CascadeBatch] = {}
        for task, targets in self.targets.items():
            told = [row for row in rows.tolist() if targets[row]]
            if told:
                sources = [self.sources[row] for row in told]
                tasks[task] = self.tokenizer.pack(task, sources, [targets[row] for row in told])
        return DenseBatch(tasks)


def slot_cosine(dense: np.ndarray) -> float:
    """Return the mean |cosine| between two slots of an item, over items and pairs of slots of [N, m, D]; m = 1: 0."""
    unit = dense / np.maximum(np.linalg.norm(dense, axis=2, keepdims=True), 1e-12)
    first, second = np.triu_indices(dense.shape[1], 1)
    return float(np.abs((unit[:, first] * unit[:, second]).sum(2)).mean()) if len(first) else 0.0
