"""Instructions of the three tasks, several wordings each, as token ids; codes stand in the place of an item.

The wordings are our own [I]; that of the deck for recommendation is among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from common.generative.lm.examples import fit_history
from common.generative.lm.model import LanguageModel

RECOMMEND = (
    "What is the next recommendation, based on this user's history of interactions?\n{}",
    "A user chose these items, the oldest first, and then the next one:\n{}",
    "Interaction history of a user, to be continued:\n{}",
    "Recommend what comes next after these items:\n{}",
)
"""These end with the history, so that the next item follows it whether one or all of its items are told."""
TITLE_OF_ITEM = (
    "What is the title of this item?\n{}\nTitle:\n",
    "Item:\n{}\nIts title:\n",
    "Tell the title of the item\n{}\nTitle:\n",
)
ITEM_OF_TITLE = (
    "Which item has this title?\n{}\nItem:\n",
    "Title:\n{}\nIts item:\n",
    "Find the item by its title\n{}\nItem:\n",
)
ITEM_OF_DESCRIPTION = (
    "Which item has this description?\n{}\nItem:\n",
    "Description:\n{}\nIts item:\n",
    "Find the item that is described here\n{}\nItem:\n",
)
PREFER = (
    "What does a user like who chose these items?\n{}\nPreference:\n",
    "History:\n{}\nThis user likes:\n",
    "Tell the preference of a user from this history\n{}\nPreference:\n",
)
ALL = (*RECOMMEND, *TITLE_OF_ITEM, *ITEM_OF_TITLE, *ITEM_OF_DESCRIPTION, *PREFER)


def vocabulary_texts(texts: Sequence[str]) -> list[str]:
    """Return what a vocabulary from scratch is made of: the texts, and instructions often enough to be words."""
    return [*texts, *ALL, *ALL]


class Instructions:
    """Prompts of a language model for a catalogue.

    `wording` numbers the wordings of a task; any integer will do. What is asked of a trained model is wording 0.

    Parameters
    ----------
    lm
        Its tokenizer is used, and its `context`.
    id_tokens
        Token ids int64 [N, L] of each item's ID.
    max_items, max_text
        Items of a history and tokens of a text at most, the most recent and the first ones.
    """

    def __init__(self, lm: LanguageModel, id_tokens: np.ndarray, max_items: int, max_text: int) -> None:
        self.lm, self.max_items, self.max_text = lm, max_items, max_text
        self.ids: list[list[int]] = id_tokens.tolist()
        self.levels = id_tokens.shape[1]
        self._halves = cache(self._tokenized)

    def recommend(self, history: Sequence[int], wording: int = 0, ahead: int | None = None) -> list[int]:
        """Return the question for the next item, with room for `ahead` tokens; by default those of one ID."""
        return self._of_history(RECOMMEND, history, wording, self.levels if ahead is None else ahead)

    def prefer(self, history: Sequence[int], wording: int = 0) -> list[int]:
        """Return the question what a user likes, with room for the answer."""
        return self._of_history(PREFER, history, wording, self.max_text + 1)

    def title_of(self, item: int, wording: int = 0) -> list[int]:
        """Return the question for an item's title."""
        head, tail = self._halves(TITLE_OF_ITEM[wording % len(TITLE_OF_ITEM)])
        return [*head, *self.ids[item], *tail]

    def item_of(self, text: str, wording: int = 0, *, description: bool = False) -> list[int]:
        """Return the question for the item of a title or a description."""
        wordings = ITEM_OF_DESCRIPTION if description else ITEM_OF_TITLE
        head, tail = self._halves(wordings[wording % len(wordings)])
        return [*head, *self.lm.tokenize(text, self.max_text), *tail]

    def answer(self, text: str) -> list[int]:
        """Return the tokens of a text to be told, and the end."""
        return [*self.lm.tokenize(text, self.max_text), self.lm.end]

    def _of_history(self, wordings: Sequence[str], history: Sequence[int], wording: int, ahead: int) -> list[int]:
        head, tail = self._halves(wordings[wording % len(wordings)])
        recent = [self.ids[item] for item in history[-self.max_items :]]
        return fit_history(head, recent, tail, self.lm.context - ahead)

    def _tokenized(self, wording: str) -> tuple[list[int], list[int]]:
        head, tail = wording.split("{}")
        return self.lm.tokenize(head), self.lm.tokenize(tail)
