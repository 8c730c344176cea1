"""Training batches of STORE's third stage: the four tasks side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from common.errors import DataError
from common.generative.lm.examples import Example, LmBatch, pack
from common.generative.sequences import Examples, Sequences, next_items
from common.generative.store.tokens import TASKS, Task
from common.generative.tiger_batches import TigerBatches
from common.hashing import digest

if TYPE_CHECKING:
    from common.generative.store.model import Store


@dataclass(frozen=True)
class StoreBatch:
    """A batch for each task that has examples."""

    tasks: dict[Task, LmBatch]

    def to(self, device: torch.device | str) -> StoreBatch:
        """Return the batch on a device."""
        return StoreBatch({task: batch.to(device) for task, batch in self.tasks.items()})

    def counts(self) -> dict[str, int]:
        """Return how many tokens each task's loss is the mean of."""
        return {task: int(self.tasks[task].told.sum()) if task in self.tasks else 0 for task in TASKS}


class StoreBatches:
    """The training examples of users' sequences and items' texts.

    token-to-token: windows of `TigerBatches`, one pass of a window telling all its next items. text-to-token and
    token-to-text: each item `item_passes` times an epoch. text-to-text: a part of all next items, drawn anew each
    epoch. A task without weight has no example. Each batch holds its share of every task.

    Parameters
    ----------
    texts
        One an item.
    train
        The training part of the sequences.
    seed
        Of the order and of what is drawn.
    batch_size
        Next items of a batch, about.
    """

    def __init__(self, model: Store, texts: Sequence[str], train: Sequences, *, seed: int, batch_size: int) -> None:
        tasks = model.config.tasks
        if len(texts) != len(model.id_map):
            raise DataError("texts of other items", expected=f"{len(model.id_map)}", got=len(texts))
        self.model, self.seed, self.passes = model, seed, tasks.item_passes
        self.on: tuple[Task, ...] = tuple(task for task in TASKS if getattr(tasks, task))
        self.windows = TigerBatches(
            train.items, train.offsets, mode="causal", most=model.most_items, seed=seed, batch_size=batch_size
        )
        self.next: Examples = next_items(train)
        self.drawn = max(1, round(tasks.text_share * len(self.next)))
        self.texts = [model.text_tokens(text) for text in texts]
        parts = (self.windows.digest, tasks.model_dump_json(), *texts, batch_size)
        self.digest = digest("store", *parts)
        counts = [self._count(task) for task in self.on]
        on_windows = "token_to_token" in self.on
        self._batches = len(self.windows) if on_windows else max(-(-count // batch_size) for count in counts)

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._batches

    def _count(self, task: Task) -> int:
        """Return a task's examples in an epoch (token-to-token: windows)."""
        if task == "token_to_token":
            return len(self.windows.lengths)
        return self.drawn if task == "text_to_text" else self.passes * len(self.texts)

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return each batch of an epoch as int64 [n, 2]: an example's task, and its window, item or next item."""
        rng = np.random.default_rng([self.seed, number, 1])
        parts: list[list[np.ndarray]] = [[] for _ in range(len(self))]
        for task in self.on:
            for batch, rows in zip(parts, self._shares(task, number, rng), strict=True):
                batch.append(np.stack([np.full(len(rows), TASKS.index(task)), rows], axis=1).astype(np.int64))
        return [np.concatenate(batch) for batch in parts]

    def _shares(self, task: Task, number: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Return a task's examples of an epoch, a part a batch."""
        if task == "token_to_token":
            return self.windows.epoch(number)
        if task == "text_to_text":
            rows = rng.choice(len(self.next), self.drawn, replace=False)
        else:
            rows = np.concatenate([rng.permutation(len(self.texts)) for _ in range(self.passes)])
        return np.array_split(rows, len(self))

    def make(self, rows: np.ndarray) -> StoreBatch:
        """Return the batch of some examples."""
        made: dict[Task, LmBatch] = {}
        for task in self.on:
            own = rows[rows[:, 0] == TASKS.index(task), 1]
            if len(own):
                windows = task == "token_to_token"
                made[task] = self._windows(own) if windows else pack(list(self._examples(task, own)), self._context)
        return StoreBatch(made)

    @property
    def _context(self) -> int:
        return self.model.lm.context

    def _windows(self, rows: np.ndarray) -> LmBatch:
        """Return windows as instruction and IDs; the items that a window learns are told."""
        cut = self.windows.make(rows)
        assert cut.learn is not None  # noqa: S101 - causal windows have it
        lead = torch.tensor(self.model.tokens.lead("token_to_token"))
        levels = self.model.vocabulary.levels
        codes = self.model.item_tokens.cpu()[cut.items].flatten(1) + self.model.lm.text_size
        head = lead.expand(len(codes), -1)
        on = torch.ones_like(head, dtype=torch.bool)
        mask = torch.cat([on, cut.mask.repeat_interleave(levels, dim=1)], dim=1)
        told = torch.cat([~on, cut.learn.repeat_interleave(levels, dim=1)], dim=1)
        return LmBatch(torch.cat([head, codes], dim=1) * mask, mask, told)

    def _examples(self, task: Task, rows: np.ndarray) -> Iterator[Example]:
        """Yield the examples of a task other than token-to-token."""
        model = self.model
        for row in rows.tolist():
            if task == "text_to_token":
                yield Example(model.text_prompt(self.texts[row]), model.id_tokens(row))
            elif task == "token_to_text":
                yield Example(model.item_prompt(row), model.ended(self.texts[row]))
            else:
                history = [self.texts[item] for item in self.next.histories[row].tolist()]
                yield Example(model.texts_prompt(history), model.ended(self.texts[int(self.next.targets[row])]))
