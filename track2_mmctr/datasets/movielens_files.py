"""Read MovieLens-100K as GroupLens ships it, with overviews and posters where they lie beside it."""

from __future__ import annotations

import ast
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import DataError
from common.faults import FaultLog

RATINGS, ITEMS = "u.data", "u.item"
OVERVIEWS, DETAILS = "items_with_overview.csv", "movielens100k_details.csv"
POSTERS = "ml-100k-posters"
GENRES = 19
"""Genre flags of `u.item`: unknown, Action, Adventure, ..., Western."""
GENRE_NAMES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""Their names, in the order of the flags: those of tags 1, 2, ..."""
CAST = 5
"""Actors that are told of a movie, the first of its list."""
GET = "download https://files.grouplens.org/datasets/movielens/ml-100k.zip, unpack it, and give its folder to --from"


@dataclass(frozen=True)
class Source:
    """Where the parts of MovieLens-100K lie; `posters` is None when there is no such folder."""

    folder: Path
    posters: Path | None


@dataclass(frozen=True, eq=False)
class Ratings:
    """All ratings, E of them, sorted by (time, user, item): int64 arrays [E]."""

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    time: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Movie:
    """One line of `u.item`; `genres` are tag ids from 1, in the file's order."""

    title: str
    genres: tuple[int, ...]


@dataclass(frozen=True)
class Overviews:
    """Texts by movie id, and what the user should know about the files that they came from."""

    texts: dict[int, str]
    notes: list[str]


def find_source(folder: Path) -> Source:
    """Find `ml-100k/` in `folder`, or take `folder` itself for it; posters lie beside `ml-100k/`.

    Raises
    ------
    DataError
        `u.data` or `u.item` is missing.
    """
    inner = folder / "ml-100k"
    base, beside = (inner, folder) if (inner / RATINGS).is_file() else (folder, folder.resolve().parent)
    for name in (RATINGS, ITEMS):
        if not (base / name).is_file():
            raise DataError(
                f"MovieLens-100K is incomplete: no {name}",
                where=folder,
                expected=f"{inner / name}, or {folder / name}",
                got="no such file",
                todo=GET,
            )
    posters = next((path for path in (folder / POSTERS, beside / POSTERS) if path.is_dir()), None)
    return Source(base, posters)


def read_movies(path: Path) -> list[Movie]:
    """Read `u.item`: the movie with id i is entry i - 1.

    Raises
    ------
    DataError
        A line is malformed, or the ids are not 1, 2, 3, ... in this order.
    """
    movies = []
    for number, line in _lines(path, "latin-1"):
        parts = line.split("|")
        if len(parts) != 5 + GENRES:
            raise _malformed(path, number, f"{5 + GENRES} fields separated by '|'", f"{len(parts)} fields")
        if parts[0] != str(len(movies) + 1):
            raise _malformed(path, number, f"movie id {len(movies) + 1} (ids count from 1 without gaps)", parts[0])
        if set(parts[5:]) - {"0", "1"}:
            raise _malformed(path, number, f"{GENRES} genre flags of 0 and 1", "|".join(parts[5:]))
        movies.append(Movie(parts[1].strip(), tuple(i for i, flag in enumerate(parts[5:], 1) if flag == "1")))
    if not movies:
        raise DataError("no movies", where=path, expected="one movie a line", got="an empty file", todo=GET)
    return movies


def read_ratings(path: Path, movies: int) -> Ratings:
    """Read `u.data` (user, item, rating, unix time) and sort it by (time, user, item).

    Raises
    ------
    DataError
        A line is malformed, a rating is not 1..5, an item is not one of the `movies`, or a user rated a
        movie twice.
    """
    rows: list[tuple[int, int, int, int]] = []
    first_line: dict[tuple[int, int], int] = {}
    for number, line in _lines(path, "latin-1"):
        parts = line.split("\t")
        if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts):
            raise _malformed(path, number, "user, item, rating, unix time: four whole numbers and tabs", repr(line))
        user, item, rating, time = map(int, parts)
        if not 1 <= rating <= 5:
            raise _malformed(path, number, "a rating of 1..5", rating)
        if not 1 <= item <= movies:
            raise _malformed(path, number, f"an item of {ITEMS}, 1..{movies}", item)
        if user < 1:
            raise _malformed(path, number, "a user id from 1", user)
        earlier = first_line.setdefault((user, item), number)
        if earlier != number:
            raise _malformed(path, number, "one rating of a movie by a user", f"the pair of line {earlier} again")
        rows.append((time, user, item, rating))
    if not rows:
        raise DataError("no ratings", where=path, expected="one rating a line", got="an empty file", todo=GET)
    rows.sort()
    time, user, item, rating = np.array(rows, dtype=np.int64).T.copy()
    return Ratings(user, item, rating, time)


def read_overviews(folder: Path, movies: int) -> Overviews:
    """Join overviews by movie id; where there is none, take the description of the details file.

    A movie that a file names twice with different texts keeps the first one; this is said in the notes, like
    files that are absent.

    Raises
    ------
    DataError
        A file lacks a column, is not UTF-8, or has a movie id that is no number.
    """
    texts: dict[int, str] = {}
    notes: list[str] = []
    for name, column in ((OVERVIEWS, "overview"), (DETAILS, "description")):
        path = folder / name
        if not path.is_file():
            notes.append(f"no {name}: its texts are missing")
            continue
        own: dict[int, str] = {}
        repeated, unknown = 0, 0
        for movie, text in _read_texts(path, column):
            if not 1 <= movie <= movies:
                unknown += 1
            elif text and own.setdefault(movie, text) != text:
                repeated += 1
        if repeated:
            notes.append(f"{name}: {repeated} rows repeat a movie with another text; the first one is kept")
        if unknown:
            notes.append(f"{name}: {unknown} rows name a movie that {ITEMS} does not have; they are left out")
        texts = own | texts  # an overview goes before a description
    return Overviews(texts, notes)


def read_people(folder: Path, movies: int) -> tuple[list[str], list[str]]:
    """Return the directors and the first actors of the movies 1..N, names joined by ", ", "" where there are none.

    Raises
    ------
    DataError
        A list of names is malformed.
    """
    path = folder / DETAILS
    found = ([""] * movies, [""] * movies)
    if not path.is_file():
        return found
    for column, texts, most in (("director", found[0], None), ("cast", found[1], CAST)):
        if column not in _columns(path):
            continue
        for movie, text in _read_texts(path, column):
            if 1 <= movie <= movies and text and not texts[movie - 1]:
                texts[movie - 1] = ", ".join(_names(text, path, movie)[:most])
    return found


def _columns(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])


def _names(text: str, path: Path, movie: int) -> list[str]:
    """Return the names of a list as the file writes it: ['Ann Lee', "Ed O'Neill"]."""
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            "a malformed list of names", where=f"{path}, movie {movie}", expected="['A B', ...]", got=text[:60]
        )
    return [" ".join(name.split()) for name in names]


def _read_texts(path: Path, column: str) -> Iterator[tuple[int, str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in ("movie_id", column) if name not in (reader.fieldnames or [])]
            if missing:
                raise DataError(
                    "a column is missing",
                    where=path,
                    expected=", ".join(missing),
                    got=", ".join(reader.fieldnames or []),
                )
            for row in reader:
                movie, text = row["movie_id"], row[column]
                if not movie or not movie.strip().isdecimal() or text is None:
                    raise _malformed(path, reader.line_num, f"a movie id and {column}", repr(movie))
                yield int(movie), " ".join(text.split())
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("the file cannot be read", where=path, expected="CSV in UTF-8", got=error) from error


def read_posters(folder: Path | None, movies: Sequence[Movie], faults: FaultLog) -> dict[int, bytes]:
    """Return the poster files `{movie id}.jpg` that decode; the others are recorded in `faults`."""
    from PIL import Image

    posters: dict[int, bytes] = {}
    if folder is None:
        return posters
    for item in range(1, len(movies) + 1):
        path = folder / f"{item}.jpg"
        if not path.is_file():
            continue
        try:
            with Image.open(path) as image:
                image.load()
            posters[item] = path.read_bytes()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow's readers raise
            faults.add("poster", path.name, error)
    return posters


def _lines(path: Path, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers, blank ones left out."""
    with path.open(encoding=encoding, newline="") as file:
        for number, line in enumerate(file, start=1):
            if text := line.rstrip("\r\n"):
                yield number, text


def _malformed(path: Path, line: int, expected: object, got: object) -> DataError:
    return DataError("a malformed line", where=f"{path}, line {line}", expected=expected, got=got)
