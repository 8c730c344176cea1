"""Planted text: invented words for attribute values, captions in templates, and paraphrases that stay held out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.errors import ConfigError

FRAMES = ("a photo of {}", "this item shows {}", "one thing with {}", "here is {}")
"""Training captions take these in turn, from another one at each item."""
HELD_OUT = ("one photo shows {}", "here this thing is {}", "this item is {}", "with {} here")
"""Paraphrases: other frames, made of words that training captions have too."""
_SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def make_words(attributes: int, values: int, synonyms: int, rng: np.random.Generator) -> np.ndarray:
    """Return invented words, str [attributes, values, synonyms]: all different, three syllables each.

    Raises
    ------
    ConfigError
        More words than three syllables can make (343,000).
    """
    base = len(_SYLLABLES)
    count = attributes * values * synonyms
    if count > base**3:
        raise ConfigError("more words than can be invented", where="values", expected=f"at most {base**3}", got=count)
    numbers = rng.choice(base**3, count, replace=False)
    words = [_SYLLABLES[n // base**2] + _SYLLABLES[n // base % base] + _SYLLABLES[n % base] for n in numbers.tolist()]
    return np.array(words).reshape(attributes, values, synonyms)


def make_captions(
    attributes: np.ndarray,
    seen: Sequence[int],
    words: np.ndarray,
    captions: int,
    held_out: int,
    rng: np.random.Generator,
) -> tuple[list[list[str]], list[list[str]]]:
    """Return each item's training captions and held-out paraphrases: N lists of `captions` and of `held_out` texts.

    Caption j names the seen attributes from the j-th on, round the circle, with random synonyms. A paraphrase has
    another frame and the opposite order, and another choice of synonyms than all captions of its item where there
    are synonyms enough: a word is never new, the text always is.

    Parameters
    ----------
    attributes
        int [N, A], the values of all attributes.
    seen
        The attributes that text tells.
    words
        str [A, V, S] of `make_words`.
    """
    seen, synonyms = list(seen), words.shape[2]
    train, other = [], []
    for item, values in enumerate(attributes):
        choices = rng.integers(0, synonyms, (captions, len(seen)))
        train.append([_text(FRAMES, item + j, _told(values, seen, words, row, j)) for j, row in enumerate(choices)])
        taken = {tuple(row) for row in choices.tolist()}
        own = []
        for j in range(held_out):
            row = _fresh(rng.integers(0, synonyms, len(seen)), taken, synonyms)
            taken.add(tuple(row.tolist()))
            own.append(_text(HELD_OUT, item + j, _told(values, seen, words, row, j)[::-1]))
        other.append(own)
    return train, other


def _fresh(row: np.ndarray, taken: set[tuple[int, ...]], synonyms: int) -> np.ndarray:
    """Return the next choice of synonyms, counting up from `row`, that is not taken; `row` where all are."""
    for step in range(len(taken) + 1):
        at, carry = row.copy(), step
        for place in range(len(row)):
            carry, at[place] = divmod(int(row[place]) + carry, synonyms)
        if tuple(at.tolist()) not in taken:
            return at
    return row


def _told(values: np.ndarray, seen: list[int], words: np.ndarray, row: np.ndarray, turn: int) -> list[str]:
    told = [str(words[a, values[a], s]) for a, s in zip(seen, row.tolist(), strict=True)]
    turn %= max(1, len(told))
    return told[turn:] + told[:turn]


def _text(frames: tuple[str, ...], number: int, told: list[str]) -> str:
    return frames[number % len(frames)].format(" and ".join(told))
