"""STORE's own tokens at the end of a language model's codes: m placeholder slots, and one token a task."""

from __future__ import annotations

from typing import Literal

from common.errors import ConfigError
from common.generative.lm.model import LanguageModel

DenseTask = Literal["replicate", "category", "longer"]
Task = Literal["token_to_token", "text_to_token", "token_to_text", "text_to_text"]
DENSE_TASKS: tuple[DenseTask, ...] = ("replicate", "category", "longer")
TASKS: tuple[Task, ...] = ("token_to_token", "text_to_token", "token_to_text", "text_to_text")
INSTRUCTIONS: dict[DenseTask | Task, str] = {
    "replicate": " The text again: ",
    "category": " Its category: ",
    "longer": " More about it: ",
    "token_to_token": "The next item of this user: ",
    "text_to_token": "The item that is described so: ",
    "token_to_text": "What describes this item: ",
    "text_to_text": "What describes the next item of this user: ",
}
"""Our own wording: the paper's prompts were not at hand."""
_NUMBER: dict[DenseTask | Task, int] = {task: place for place, task in enumerate((*DENSE_TASKS, *TASKS))}


def extra_codes(slots: int) -> int:
    """Return how many codes STORE needs beyond those of the IDs."""
    return slots + len(_NUMBER)


class StoreTokens:
    """The token ids of slots and tasks in a language model, whose last `extra_codes(slots)` codes they are.

    Parameters
    ----------
    lm
        The language model.
    slots
        m.
    worded
        Put a task's instruction in words after its token.
    """

    def __init__(self, lm: LanguageModel, slots: int, *, worded: bool) -> None:
        first = lm.text_size + lm.codes.num_embeddings - extra_codes(slots)
        if first < lm.text_size:
            raise ConfigError(
                "the language model has too few codes", expected=extra_codes(slots), got=lm.codes.num_embeddings
            )
        self.slots = [first + slot for slot in range(slots)]
        self._tasks = first + slots
        self._words = {task: lm.tokenize(text) if worded else [] for task, text in INSTRUCTIONS.items()}
        self.newline = lm.tokenize("\n")

    def token(self, task: DenseTask | Task) -> int:
        """Return a task's token."""
        return self._tasks + _NUMBER[task]

    def lead(self, task: DenseTask | Task) -> list[int]:
        """Return what begins a task: its token, and its instruction if it is worded."""
        return [self.token(task), *self._words[task]]
