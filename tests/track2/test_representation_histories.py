"""Histories that describe users: against loops, and no row can read of what comes after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.track2.planted_rows import random_rows
from tests.track2.tiny_movielens import prepare, random_log
from track2_mmctr.config import DataConfig, FeatureConfig
from track2_mmctr.datasets.microlens import load_data
from track2_mmctr.datasets.movielens_files import read_people
from track2_mmctr.datasets.tables import SPLITS, Split
from track2_mmctr.embeddings.catalogue import read_catalogue, read_facts, read_texts
from track2_mmctr.embeddings.domains import domains_of
from track2_mmctr.embeddings.histories import describing_behaviour, on_items, training_behaviour, with_history
from track2_mmctr.embeddings.represent_config import DomainConfig


@pytest.fixture(scope="module")
def movielens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Split]]:
    folder = tmp_path_factory.mktemp("movielens")
    _, out = prepare(folder, random_log(users=8, events=220))
    data = load_data(out, DataConfig(), FeatureConfig(embedding="none"), folder / "cache")
    return out, [data.splits[name] for name in SPLITS]


def rows_of(splits: list[Split]) -> list[tuple[int, list[int], int]]:
    """(user, history, target) of all rows, in the order of time."""
    return [
        (
            int(split.users[row]),
            split.history[split.offsets[row] : split.offsets[row + 1]].tolist(),
            int(split.target[row]),
        )
        for split in splits
        for row in range(len(split))
    ]


@pytest.mark.parametrize("least", [1, 3, 6, 200])
def test_each_user_is_described_by_the_first_history_that_is_long_enough(
    least: int, movielens: tuple[Path, list[Split]]
) -> None:
    _, splits = movielens
    behaviour, after = describing_behaviour(splits, least)
    rows = rows_of(splits)
    expected = {}
    for user in sorted({row[0] for row in rows}):
        own = [history for other, history, _ in rows if other == user]
        enough = [history for history in own if len(history) >= least]
        best = min(enough, key=len) if enough else max(own, key=len)
        if best:
            expected[user] = best
    assert behaviour.users.tolist() == list(expected)
    for place, history in enumerate(expected.values()):
        assert (behaviour.history(place) + 1).tolist() == history and after[place] == len(history)
    behaviour.check(30)


@pytest.mark.parametrize("least", [1, 3, 6, 200])
def test_what_a_row_reads_of_its_user_lies_in_its_own_history(least: int, movielens: tuple[Path, list[Split]]) -> None:
    """So neither its own label nor any later one can be read off: the rule that the rankers apply."""
    _, splits = movielens
    behaviour, after = describing_behaviour(splits, least)
    place = {int(user): number for number, user in enumerate(behaviour.users)}
    read = 0
    for user, history, target in rows_of(splits):
        if user in place and len(history) >= after[place[user]]:
            told = (behaviour.history(place[user]) + 1).tolist()
            assert set(told) <= set(history) and target not in told
            read += 1
    assert read > 10, "some rows read something"


def test_the_longest_training_history_would_tell_labels(movielens: tuple[Path, list[Split]]) -> None:
    """Why a users' table is not made of it: this check finds the leak that the rule above avoids."""
    _, splits = movielens
    behaviour = training_behaviour(splits[0])
    told = {int(user): set((behaviour.history(row) + 1).tolist()) for row, user in enumerate(behaviour.users)}
    leaks = [target in told[user] for user, _, target in rows_of(splits[:1])]
    label = splits[0].label
    assert label is not None and np.mean(np.asarray(leaks)[label > 0]) > 0.3 > np.mean(np.asarray(leaks)[label == 0])


def test_training_histories_are_the_longest_of_each_user() -> None:
    _, split = random_rows()
    split = Split(**{**vars(split), "users": np.arange(30) // 4})
    behaviour = training_behaviour(split)
    for row, user in enumerate(behaviour.users):
        own = np.flatnonzero(split.users == user)
        assert behaviour.lengths[row] == split.lengths[own].max()
    behaviour.check(39)


def test_items_that_are_left_out_leave_histories_and_the_rest_is_renumbered() -> None:
    _, split = random_rows()
    behaviour, _ = describing_behaviour([split], 3)
    kept = np.flatnonzero(np.arange(39) % 3 > 0)
    made = on_items(behaviour, kept, 39)
    made.check(len(kept))
    for row in range(len(behaviour)):
        own = behaviour.history(row)
        assert kept[made.history(row)].tolist() == own[own % 3 > 0].tolist()
    rows = with_history(made)[::-1]
    taken = made.take(rows)
    assert taken.users.tolist() == made.users[rows].tolist()
    for place, row in enumerate(rows):
        assert np.array_equal(taken.history(place), made.history(int(row)))
    empty = made.take(rows[:0])
    assert len(empty) == 0 and empty.offsets.tolist() == [0]


def test_domains_by_popularity_and_by_tag() -> None:
    _, split = random_rows()
    behaviour = training_behaviour(split)
    tags = [[1, 2], [2, 0], [3, 2], [3, 0]] * 9 + [[3, 0]] * 3
    domains, names, _ = domains_of(DomainConfig(), "tag", tags, behaviour)
    assert names == ("tag 3", "without tag 3") and domains is not None
    assert domains.tolist() == [0 if 3 in row else 1 for row in tags]
    assert domains_of(DomainConfig(), "none", tags, behaviour)[0] is None
    domains, names, _ = domains_of(DomainConfig(), "popularity", tags, behaviour)
    counts = np.bincount(behaviour.items, minlength=39)
    assert domains is not None and names == ("popular", "rare")
    assert (domains == 0).sum() == 20 and counts[domains == 0].min() >= counts[domains == 1].max()


# ---- the texts that KAR reads


DETAILS = """movie_id,description,director,cast
1,x,"['Ann Lee', 'Bo  Ek']","['A','B','C','D','E','F']"
2,y,[],"[""Ed O'Neill""]"
99,z,['No'],['No']
"""


def test_directors_and_the_first_actors_are_read(tmp_path: Path) -> None:
    (tmp_path / "movielens100k_details.csv").write_text(DETAILS)
    directors, actors = read_people(tmp_path, 3)
    assert directors == ["Ann Lee, Bo Ek", "", ""] and actors == ["A, B, C, D, E", "Ed O'Neill", ""]
    assert read_people(tmp_path / "none", 2) == (["", ""], ["", ""])


def test_facts_and_texts_of_movielens(movielens: tuple[Path, list[Split]]) -> None:
    folder, _ = movielens
    catalogue = read_catalogue(folder)
    facts = read_facts(catalogue, ["title", "genres", "director", "overview"])
    assert facts[2]["genres"].startswith("unknown, Action, Adventure") and "director" not in facts[2]
    assert facts[0] == {"title": "Café 1 (1995)", "genres": "Action"} and "overview" in facts[3]
    assert read_texts(catalogue, ["title", "genres"], [])[0] == "Café 1 (1995) Action"
    feature = pl.read_parquet(folder / "item_feature.parquet")
    assert {"item_genres", "item_director", "item_cast"} <= set(feature.columns)
