"""Text to BM25 tokens, and to the ids of the tokens that some question has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

_WORD = re.compile(r"[^\W_]+(?:[.,]\d+)*")
_NAME = re.compile(r"\b(?:[A-Z][\w-]+|\d[\d.,]*\d|\d)")
_GRAM = 4
_LETTERS = 1 << 15
"""More letters than any set of questions has; four of them fit into 60 bits."""
_MAX_WORDS = 200_000
"""Words remembered with their root, and with their id: about 20 MB each."""


@lru_cache(maxsize=1)
def _tools() -> tuple[frozenset[str], Callable[[list[str]], list[str]]]:
    import Stemmer
    from bm25s.stopwords import STOPWORDS_EN

    return frozenset(STOPWORDS_EN), Stemmer.Stemmer("english").stemWords


_ROOTS: dict[str, str] = {}


def _roots(words: list[str]) -> list[str]:
    """Return the stems of lower-case words, "" for a stop word; a word is stemmed once."""
    if len(_ROOTS) > _MAX_WORDS:
        _ROOTS.clear()
    new = [word for word in words if word not in _ROOTS]
    if new:
        stop_words, stem = _tools()
        for word, root in zip(new, stem(new), strict=True):
            _ROOTS[word] = "" if word in stop_words else root
    return [_ROOTS[word] for word in words]


def tokenize(text: str) -> list[str]:
    """Split into lower-case words, drop stop words, stem (Snowball English).

    A number keeps its separators ("3.2", "1,024"), since questions quote them as they stand.
    """
    return [root for root in _roots(_WORD.findall(text.lower())) if root]


def word_places(text: str) -> list[tuple[int, int, str]]:
    """Return (start, end, stem) of the words that `tokenize` keeps: what matched, and where it stands."""
    found = list(_WORD.finditer(text))
    roots = _roots([match.group().lower() for match in found])
    return [(match.start(), match.end(), root) for match, root in zip(found, roots, strict=True) if root]


def characters(text: str) -> list[str]:
    """Return the 4-grams of characters of the lower-case words: a slip of the OCR spoils few of them."""
    line = f" {' '.join(_WORD.findall(text.lower()))} "
    return [line[i : i + _GRAM] for i in range(len(line) - _GRAM + 1)]


def names(text: str) -> list[str]:
    """Return the capitalised words and the numbers, lower-case: what a question most often quotes verbatim."""
    return [name.lower() for name in _NAME.findall(text)]


def question_names(question: str) -> list[str]:
    """Return the names in a question, whose own first letter is capital whatever the word."""
    return names(question[:1].lower() + question[1:])


def with_ngrams(tokens: list[str], longest: int) -> list[str]:
    """Return the tokens and the runs of 2 to `longest` neighbours.

    >>> with_ngrams(["net", "income", "2021"], 2)
    ['net', 'income', '2021', 'net income', 'income 2021']
    """
    runs = list(tokens)
    for size in range(2, longest + 1):
        runs += [" ".join(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return runs


class Analyzer:
    """Text to BM25 tokens: words, characters or names, with n-grams."""

    def __init__(self, tokens: str = "words", ngrams: int = 1) -> None:
        self.tokens, self.ngrams = tokens, ngrams
        self._passage = {"words": tokenize, "characters": characters, "names": names}[tokens]
        self._query = question_names if tokens == "names" else self._passage

    def passage(self, text: str) -> list[str]:
        """Return the tokens of a passage."""
        return with_ngrams(self._passage(text), self.ngrams)

    def query(self, text: str) -> list[str]:
        """Return the tokens of a question."""
        return with_ngrams(self.query_units(text), self.ngrams)

    def query_units(self, text: str) -> list[str]:
        """Return the tokens of a question before they are joined to n-grams."""
        return self._query(text)


class TokenIds:
    """A passage's text to the ids of its tokens, int32; 0 for a token that no question has.

    The same as looking up `Analyzer.passage`, n-grams last, without making a string of each n-gram, and
    without stemming a word twice.

    Parameters
    ----------
    analyzer
        What tokens are.
    vocabulary
        Token to id, from 1: every token of the questions.
    questions
        Their texts.
    """

    def __init__(self, analyzer: Analyzer, vocabulary: Mapping[str, int], questions: Sequence[str]) -> None:
        self._vocabulary = vocabulary
        self._units = {"words": self._words, "characters": self._characters, "names": self._names}[analyzer.tokens]
        self._ids: dict[str, int] = {}
        units = [analyzer.query_units(text) for text in questions]
        self._joins = [_Joins(units, vocabulary, size) for size in range(2, analyzer.ngrams + 1)]
        if analyzer.tokens == "characters":
            self._letters, self._grams = _letter_codes(vocabulary), _Table({})
            grams = {self._gram_codes(gram)[0]: number for gram, number in vocabulary.items() if len(gram) == _GRAM}
            self._grams = _Table({int(code): number for code, number in grams.items() if code >= 0})

    def __call__(self, text: str) -> np.ndarray:
        """Return the ids of a text's tokens."""
        units = runs = self._units(text)
        parts = [units]
        for join in self._joins:
            runs = join(runs, units)
            parts.append(runs)
        return np.concatenate(parts)

    def _words(self, text: str) -> np.ndarray:
        words = _WORD.findall(text.lower())
        if len(self._ids) > _MAX_WORDS:
            self._ids.clear()
        new = [word for word in dict.fromkeys(words) if word not in self._ids]
        for word, root in zip(new, _roots(new), strict=True):
            self._ids[word] = self._vocabulary.get(root, 0) if root else -1
        ids = np.fromiter(map(self._ids.__getitem__, words), np.int32, len(words))
        return ids[ids >= 0]

    def _names(self, text: str) -> np.ndarray:
        return np.asarray([self._vocabulary.get(name, 0) for name in names(text)], dtype=np.int32)

    def _characters(self, text: str) -> np.ndarray:
        return self._grams(self._gram_codes(f" {' '.join(_WORD.findall(text.lower()))} "))

    def _gram_codes(self, line: str) -> np.ndarray:
        """Return one number for each 4-gram of a line, -1 where no question has one of its letters."""
        points = np.frombuffer(line.encode("utf-32-le", "surrogatepass"), np.uint32)
        letters = self._letters[points].astype(np.int64)
        count = max(0, len(letters) - _GRAM + 1)
        codes, known = np.zeros(count, np.int64), np.ones(count, bool)
        for place in range(_GRAM):
            part = letters[place : place + count]
            codes = codes * _LETTERS + part
            known &= part > 0
        return np.where(known, codes, -1)


class _Table:
    """Numbers to ids by binary search; 0 for a number that is not in it."""

    def __init__(self, ids: Mapping[int, int]) -> None:
        keys = sorted(ids)
        self._keys = np.asarray([*keys, np.iinfo(np.int64).max], np.int64)
        self._ids = np.asarray([*(ids[key] for key in keys), 0], np.int32)

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self._keys, numbers)
        return np.where(self._keys[place] == numbers, self._ids[place], 0).astype(np.int32)


class _Joins:
    """Ids of runs of `size` tokens from those of runs one shorter and of the last token."""

    def __init__(self, questions: Sequence[Sequence[str]], vocabulary: Mapping[str, int], size: int) -> None:
        self._size, self._base = size, len(vocabulary) + 1
        ids: dict[int, int] = {}
        for tokens in questions:
            for first in range(len(tokens) - size + 1):
                run = tokens[first : first + size]
                start = vocabulary[" ".join(run[:-1])]
                ids[start * self._base + vocabulary[run[-1]]] = vocabulary[" ".join(run)]
        self._table = _Table(ids)

    def __call__(self, runs: np.ndarray, units: np.ndarray) -> np.ndarray:
        last = units[self._size - 1 :]
        codes = runs[: len(last)].astype(np.int64) * self._base + last
        return self._table(codes)


def _letter_codes(vocabulary: Mapping[str, int]) -> np.ndarray:
    """Return the number of each code point, from 1 in order of the vocabulary; 0 for one that is not in it."""
    codes = np.zeros(0x110000, np.uint16)
    for number, letter in enumerate(dict.fromkeys(letter for token in vocabulary for letter in token), 1):
        codes[ord(letter)] = number % _LETTERS
    return codes
