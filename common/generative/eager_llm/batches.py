"""Training batches of EAGER-LLM: which tasks an epoch holds follows from its number, by the stage that it is in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from common.errors import DataError
from common.generative.eager_llm.config import TASKS, EagerLlmConfig
from common.generative.eager_llm.instructions import Instructions
from common.generative.eager_llm.texts import ItemTexts, TasteWords
from common.generative.lm.examples import Example, LmBatch, pack
from common.generative.tiger_batches import cut_examples, cut_windows
from common.hashing import digest

RECOMMENDATION, RECONSTRUCTION, PREFERENCE = range(len(TASKS))
TITLE_OF_ITEM, ITEM_OF_TITLE, ITEM_OF_DESCRIPTION = range(3)
WORDINGS = 1 << 16


@dataclass(frozen=True)
class EagerLlmBatch:
    """Examples of any tasks, and the items whose IDs they tell.

    Attributes
    ----------
    tokens
        The examples.
    places
        int64 [M, 2], the row and the place of the last token of each ID that is told.
    own
        int64 [M], the row of that item among the candidates.
    candidates
        By source, unit vectors float32 [C, D] of the items that the contrastive losses choose among.
    adapters_only
        Whether this batch teaches adapters only.
    """

    tokens: LmBatch
    places: Tensor
    own: Tensor
    candidates: Mapping[str, Tensor]
    adapters_only: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> EagerLlmBatch:
        """Return the batch on a device."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            places=self.places.to(device),
            own=self.own.to(device),
            candidates={name: value.to(device) for name, value in self.candidates.items()},
        )

    def counts(self) -> dict[str, int]:
        """Return how many tokens, and how many items, the losses are the means of.

        Of several processes each has candidates of its own, where they are not all items: those drawn differ.
        """
        return {"told": int(self.tokens.told.sum())} | {f"gct_{name}": len(self.places) for name in self.candidates}


class EagerLlmBatches:
    """The examples of an epoch: as many as there are windows of histories, of each task by the stage's weights.

    Each task goes round its own examples in a new order each time, and goes on in the next epoch where it stopped.
    Examples of like length stand together; batches are shuffled.

    Parameters
    ----------
    items, offsets
        Item rows int32 [T] of all users, oldest first; user u has items[offsets[u]:offsets[u + 1]].
    texts
        One an item.
    vectors
        By source, float32 [N, D]: what the contrastive losses look at.
    epochs
        Of the whole training: stages are parts of it.
    batch_size
        Items told in a batch of recommendations, about.

    Raises
    ------
    DataError
        No user has two items; an instruction that is longer than the model reads.
    """

    def __init__(
        self,
        instructions: Instructions,
        config: EagerLlmConfig,
        items: np.ndarray,
        offsets: np.ndarray,
        texts: list[str],
        vectors: Mapping[str, np.ndarray],
        *,
        seed: int,
        epochs: int,
        batch_size: int = 256,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.ask, self.config, self.items, self.seed, self.epochs = instructions, config, items, seed, epochs
        self.offsets = offsets
        cut = cut_windows if config.teach == "every" else cut_examples
        self.windows = cut(offsets, self._items_at_most(), False)
        if not len(self.windows.users):
            raise DataError("no training example: no user has two items", got=f"{len(offsets) - 1} users")
        self.texts = ItemTexts.of(texts, config.title_words)
        words = TasteWords(self.texts.titles, config.preference_words)
        self.tastes = [words.text(self._recent(user).tolist()) for user in range(len(offsets) - 1)]
        described = [row for row, one in enumerate(self.texts.descriptions) if one]
        pairs = [(kind, item) for kind in (TITLE_OF_ITEM, ITEM_OF_TITLE) for item in range(len(texts))]
        self.pairs = np.array(pairs + [(ITEM_OF_DESCRIPTION, item) for item in described], np.int64)
        self.users = np.array([user for user, one in enumerate(self.tastes) if one], np.int64)
        self.pools = (len(self.windows.users), len(self.pairs), len(self.users))
        self.counts = [self._counts(stage.weights) for stage in config.stages]
        targets = float(self.windows.targets.sum()) / self.pools[RECOMMENDATION]
        self._batches = max(1, math.ceil(self.pools[RECOMMENDATION] * targets / batch_size))
        self.lengths = self._lengths()
        self.vectors = {name: directions(one) for name, one in vectors.items()}
        self.digest = self._digest(texts, batch_size)
        tasks = (f"{pool:,} of {name}" for name, pool in zip(TASKS, self.pools, strict=True))
        say(f"examples: {', '.join(tasks)}; {len(described):,} of {len(texts):,} items have a description")

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        return self._batches

    def stage(self, epoch: int) -> int:
        """Return the stage that an epoch is in."""
        return self.config.stage_of(epoch, self.epochs)

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the rows of each batch: int64 [b, 4], task, number in its pool, wording, stage."""
        stage, parts = self.stage(number), []
        before = [self.counts[self.stage(epoch)] for epoch in range(number)]
        rng = np.random.default_rng([self.seed, 3, number])
        for task, count in enumerate(self.counts[stage]):
            chosen = self._draw(task, sum(counts[task] for counts in before), count)
            columns = (np.full(count, task), chosen, rng.integers(0, WORDINGS, count), np.full(count, stage))
            parts.append(np.stack(columns, axis=1))
        rows = np.concatenate(parts)
        lengths = np.concatenate([self.lengths[task][part[:, 1]] for task, part in enumerate(parts)])
        order = np.lexsort((rng.random(len(rows)), lengths))
        cut = np.array_split(order, self._batches)
        return [rows[cut[place]] for place in rng.permutation(self._batches)]

    def make(self, rows: np.ndarray) -> EagerLlmBatch:
        """Return the batch of these rows."""
        examples, places, told = [], [], []
        for row, (task, number, wording, _) in enumerate(rows.tolist()):
            example, items = self.example(task, number, wording)
            examples.append(example)
            for place, item in enumerate(items, start=1):
                places.append((row, len(example.prompt) + place * self.ask.levels - 1))
                told.append(item)
        stage = self.config.stages[int(rows[0, 3])]
        own, candidates = self._candidates(np.array(told, np.int64), rows)
        where = torch.tensor(places, dtype=torch.int64).reshape(-1, 2)
        return EagerLlmBatch(pack(examples, self.ask.lm.context), where, own, candidates, stage.adapters_only)

    def example(self, task: int, number: int, wording: int) -> tuple[Example, list[int]]:
        """Return an example of a task's pool, and the items whose IDs it tells."""
        ask = self.ask
        if task == RECOMMENDATION:
            windows = self.windows
            first, start, end = (int(one[number]) for one in (windows.first, windows.starts, windows.ends))
            told = self.items[first:end].tolist()
            tokens = [token for item in told for token in ask.ids[item]]
            return Example(ask.recommend(self.items[start:first].tolist(), wording, len(tokens)), tokens), told
        if task == PREFERENCE:
            user = int(self.users[number])
            return Example(ask.prefer(self._recent(user).tolist(), wording), ask.answer(self.tastes[user])), []
        kind, item = self.pairs[number].tolist()
        if kind == TITLE_OF_ITEM:
            return Example(ask.title_of(item, wording), ask.answer(self.texts.titles[item])), []
        described = kind == ITEM_OF_DESCRIPTION
        text = (self.texts.descriptions if described else self.texts.titles)[item]
        return Example(ask.item_of(text, wording, description=described), ask.ids[item]), [item]

    def _items_at_most(self) -> int:
        """Items of a history that fit beside the longest instruction; one item more is told after them."""
        longest = max(len(self.ask.recommend([], wording)) for wording in range(4))
        room = (self.ask.lm.context - longest) // self.ask.levels - 1
        return max(1, min(self.config.max_items, room))

    def _recent(self, user: int) -> np.ndarray:
        end = int(self.offsets[user + 1])
        return self.items[max(int(self.offsets[user]), end - self.config.max_items) : end]

    def _counts(self, weights: tuple[float, ...]) -> tuple[int, ...]:
        """Return how many examples of each task an epoch has: shares by weight, the largest remainders rounded up."""
        kept = np.array([weight if pool else 0.0 for weight, pool in zip(weights, self.pools, strict=True)])
        if not kept.sum():
            raise DataError("a stage has no example to teach", got=dict(zip(TASKS, self.pools, strict=True)))
        exact = kept / kept.sum() * self.pools[RECOMMENDATION]
        counts = np.floor(exact).astype(np.int64)
        late = np.argsort(counts - exact, kind="stable")[: self.pools[RECOMMENDATION] - int(counts.sum())]
        counts[late] += 1
        return tuple(counts.tolist())

    def _draw(self, task: int, start: int, count: int) -> np.ndarray:
        """Return examples `start` to `start + count` - 1 of the endless round through a task's pool, int64 [count]."""
        pool = self.pools[task]
        if not count:
            return np.empty(0, np.int64)
        rounds = range(start // pool, (start + count - 1) // pool + 1)
        line = np.concatenate([np.random.default_rng([self.seed, 4, task, one]).permutation(pool) for one in rounds])
        begin = start - rounds[0] * pool
        return line[begin : begin + count]

    def _lengths(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return about how many tokens each example of each task has."""
        levels, tokens = self.ask.levels, self.ask.lm.tokenize
        titles = np.array([len(tokens(one)) for one in self.texts.titles], np.int64)
        descriptions = np.array([len(tokens(one)) if one else 0 for one in self.texts.descriptions], np.int64)
        kind, item = self.pairs.T
        pairs = np.where(kind == ITEM_OF_DESCRIPTION, descriptions[item], titles[item]).clip(max=self.config.max_text)
        tastes = np.array([len(tokens(self.tastes[user])) for user in self.users.tolist()], np.int64)
        sizes = np.diff(self.offsets)[self.users].clip(max=self.config.max_items)
        return (self.windows.ends - self.windows.starts) * levels, pairs + levels, sizes * levels + tastes

    def _candidates(self, told: np.ndarray, rows: np.ndarray) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the rows of told items among candidates, and the candidates' vectors: all items, or a draw."""
        count, most = len(self.texts.titles), self.config.negatives
        if count <= most:
            return torch.from_numpy(told), self.vectors
        rng = np.random.default_rng([self.seed, 5, *rows[0].tolist(), int(rows[:, 1].sum())])
        chosen = np.union1d(told, rng.choice(count, most, replace=False))
        kept = torch.from_numpy(chosen)
        return torch.from_numpy(np.searchsorted(chosen, told)), {n: one[kept] for n, one in self.vectors.items()}

    def _digest(self, texts: list[str], batch_size: int) -> str:
        flat = (self.items.astype(np.int64).tobytes(), self.offsets.astype(np.int64).tobytes())
        vectors = [part for name, one in self.vectors.items() for part in (name, one.numpy().tobytes())]
        return digest(*flat, digest(*texts), *vectors, self.seed, self.epochs, batch_size)


def directions(vectors: np.ndarray) -> Tensor:
    """Return float32 [N, D]: the vectors less their mean, of length 1; equal to the mean: 0."""
    centred = vectors.astype(np.float32) - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    return torch.from_numpy(centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-8))
