"""Titles and descriptions of items, and words that tell what a user likes [I]."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ItemTexts:
    """Titles, one an item; descriptions, "" where a text is no longer than its title."""

    titles: list[str]
    descriptions: list[str]

    @classmethod
    def of(cls, texts: Sequence[str], words: int) -> ItemTexts:
        r"""Split texts: the title is the first line, its first `words` words; the description is all of a longer text.

        >>> ItemTexts.of(["Heat (1995)\nA thief meets a detective.", "a red fox"], 2)
        ItemTexts(titles=['Heat (1995)', 'a red'], descriptions=['A thief meets a detective.', 'a red fox'])
        """
        titles, descriptions = [], []
        for text in texts:
            line, _, rest = text.strip().partition("\n")
            found = line.split()
            title = " ".join(found[:words])
            titles.append(title)
            descriptions.append(line.strip() if len(found) > words else " ".join(rest.split()))
        return cls(titles, descriptions)


class TasteWords:
    """Words of titles that tell a user's items from others.

    A word counts as often as it is in the titles of the history, times log(N / its items). Words in more than half
    of the titles are left out. The deck shows a sentence that a large model wrote; this is what the data itself says.
    """

    def __init__(self, titles: Sequence[str], most: int) -> None:
        self.words = [tuple(dict.fromkeys(WORD.findall(title.lower()))) for title in titles]
        held = Counter(word for words in self.words for word in words)
        self.weight = {word: float(np.log(len(titles) / count)) for word, count in held.items()}
        self.common = {word for word, count in held.items() if 2 * count > len(titles)}
        self.most = most

    def of(self, history: Iterable[int]) -> list[str]:
        """Return the best words of item rows, at most `most`; equal ones in the order of the alphabet."""
        counts = Counter(word for item in history for word in self.words[item] if word not in self.common)
        return sorted(counts, key=lambda word: (-counts[word] * self.weight[word], word))[: self.most]

    def text(self, history: Iterable[int]) -> str:
        """Return the words as a text, "" where there is none."""
        return ", ".join(self.of(history))
