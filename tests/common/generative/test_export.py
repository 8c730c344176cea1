"""Exports: lists, features of a click log's rows that know no label, IDs that others read."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from common.errors import ConfigError, DataError
from common.generative import export
from common.generative.__main__ import app
from common.generative.baselines import SasRecRetrieval
from common.generative.ctr_rows import already_told, questions, read_rows
from common.generative.export import ScoresItems, export_lists, export_rows, without_users
from common.generative.run import prepare, recommender
from common.generative.sequence_files import load_sequences
from common.generative.sequences import Histories, Sequences, from_lists
from common.generative.systems import Prepared
from common.tokenizers.files import read_sids
from tests.common.generative.test_systems import config

USERS, ITEMS, LENGTH = 24, 30, 8


def lists(column: list[np.ndarray], width: int) -> pa.Array:
    return pa.array([[0] * (width - len(one)) + one.tolist() for one in column], pa.list_(pa.int64()))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Track 2 root of random sequences: a row that was liked (label 1) and one that was not at each place."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "MicroLens_1M_x1").mkdir()
    rng = np.random.default_rng(0)
    whole = {user: 1 + rng.permutation(ITEMS)[:LENGTH] for user in range(1, USERS + 1)}
    known = [one[:6] for one in whole.values()]
    pq.write_table(pa.table({"user_id": list(whole), "item_seq": lists(known, 6)}), folder / "item_seq.parquet")
    pq.write_table(pa.table({"item_id": range(1, ITEMS + 1)}), folder / "MicroLens_1M_x1" / "item_info.parquet")
    for name, places in {"train": (0, 2, 3, 4, 5), "valid": (6,), "test": (7,)}.items():
        rows = [(user, one[:at], one[at], 1) for user, one in whole.items() for at in places]
        rows += [(user, past, 1 + rng.integers(ITEMS), 0) for user, past, _, _ in rows]
        user, past, item, label = zip(*rows, strict=True)
        columns = {"user_id": user, "item_id": np.array(item), "item_seq": lists(list(past), 7), "label": label}
        pq.write_table(pa.table(columns), folder / "MicroLens_1M_x1" / f"{name}.parquet")
    return folder


def run_of(root: Path, out: Path, model: str = "tiger") -> tuple[Prepared, list[str]]:
    said: list[str] = []
    return prepare(config(model), load_sequences(root), out, "cpu", said.append), said


@dataclass
class Memory:
    """The worst case of a generator: it knows by heart what followed each history in training, and nothing else."""

    train: Sequences
    name: str = "memory"

    def score_items(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        told = {}
        for start, end in zip(self.train.offsets[:-1], self.train.offsets[1:], strict=True):
            for at in range(start, end):
                told[self.train.items[start:at].tobytes()] = int(self.train.items[at])
        next_one = [told.get(np.asarray(one, np.int32).tobytes(), -2) for one in histories]
        return np.where(items == np.array(next_one)[:, None], 0.0, -9.0).astype(np.float32)

    def recommend(
        self, histories: Histories, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        assert allowed is None
        return np.full((len(histories), k), -1), np.full((len(histories), k), -np.inf, np.float32)


def labels(root: Path) -> np.ndarray:
    parts = [
        pq.read_table(root / "MicroLens_1M_x1" / f"{name}.parquet")["label"] for name in ("train", "valid", "test")
    ]
    return np.concatenate([part.to_numpy() for part in parts])


def told_apart(found: dict[str, np.ndarray], label: np.ndarray) -> float:
    """Mean score of liked rows minus that of others, over known rows: 0 where scores say nothing of labels."""
    known = found["known"].astype(bool)
    return float(found["score"][known & (label == 1)].mean() - found["score"][known & (label == 0)].mean())


def columns(path: Path) -> dict[str, np.ndarray]:
    table = pq.read_table(path)
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


@pytest.mark.parametrize("folds", [1, 2, 3])
def test_a_model_that_knows_its_training_by_heart_tells_no_label(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int
) -> None:
    run, _ = run_of(root, tmp_path / "out")
    monkeypatch.setattr(export, "recommender", lambda asked: Memory(asked.split.train))
    count, known = export_rows(run, root, tmp_path / "rows.parquet", 0, folds)
    found, label = columns(tmp_path / "rows.parquet"), labels(root)
    assert count == len(label) == 2 * USERS * 7 and int(found["known"].sum()) == known
    empty = found["row"] % (5 * USERS) % 5 == 0  # the first place of a user has no history
    train = found["split"] == "train"
    assert not found["known"][train & empty].any()
    # Sequences of 6 items train on 4: with one fold, rows that come after those are known.
    shares = {1: 2 / 5, 2: 4 / 5, 3: 4 / 5}
    assert found["known"][train].mean() == pytest.approx(shares[folds])
    assert found["known"][~train].all()
    assert abs(told_apart(found, label)) < 0.5
    assert (found["score"][~found["known"]] == 0).all() and (found["rank"] == 0).all()
    # The same memory without the rule tells every label: what the rule is for.
    monkeypatch.setattr(export, "already_told", lambda asked, _: np.zeros(len(asked), bool))
    export_rows(run, root, tmp_path / "leak.parquet", 0, 1)
    leak = columns(tmp_path / "leak.parquet")
    early = train & (leak["known"]) & (leak["row"] % 5 <= 2)
    assert told_apart({name: one[early] for name, one in leak.items()}, label[early]) > 7


def test_scores_are_exact_and_ranks_are_places_in_the_generated_list(root: Path, tmp_path: Path) -> None:
    run, said = run_of(root, tmp_path / "out")
    export_rows(run, root, tmp_path / "rows.parquet", 7, 2)
    found = columns(tmp_path / "rows.parquet")
    assert sum("trained 1 epochs" in line for line in said) == 2 and not (tmp_path / "out" / "model").exists()
    rows = read_rows(root)
    asked, items = questions(rows, run.data)
    fold = np.random.default_rng((run.config.seed, 2)).permutation(USERS) % 2
    ranks = 0
    for number in np.random.default_rng(0).permutation(len(rows))[:30].tolist():
        query = asked.of[number : number + 1]
        mine = int(fold[asked.histories.users[query[0]]])
        model = recommender(without_users(run, fold == mine, f"{mine}-of-2"))
        assert isinstance(model, ScoresItems)
        history = asked.histories.take(query)
        every = model.score_items(history, np.arange(ITEMS)[None])[0]
        assert np.exp(every.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
        listed = model.recommend(history, 7)[0][0].tolist()
        if not found["known"][number]:
            assert not history.lengths[0]
            continue
        assert found["score"][number] == pytest.approx(every[items[number]], abs=1e-5)
        place = listed.index(items[number]) + 1 if items[number] in listed else 0
        assert found["rank"][number] == place
        ranks += place > 0
    assert ranks > 2
    about = json.loads(pq.read_schema(tmp_path / "rows.parquet").metadata[b"mirc_candidates"])
    assert about["items"] == ITEMS and about["k"] == 7 and about["folds"] == 2


def test_a_fold_trains_without_its_users_and_twice_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    run, _ = run_of(root, tmp_path / "out")
    left_out = np.arange(USERS) < 10
    cut = without_users(run, left_out, "a")
    assert (cut.split.train.lengths[:10] == 0).all()
    kept = np.repeat(~left_out, run.split.train.lengths)
    assert np.array_equal(cut.split.train.items, run.split.train.items[kept])
    assert cut.split.valid.histories.users.min() == 10
    export_rows(run, root, tmp_path / "a.parquet", 3, 2)
    again, said = run_of(root, tmp_path / "out")
    export_rows(again, root, tmp_path / "b.parquet", 3, 2)
    assert not any(line.startswith("epoch") for line in said)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    behaviour = config("eager").behaviour.model_copy(update={"source": "vectors.parquet"})
    eager = replace(run, config=config("eager").model_copy(update={"behaviour": behaviour}))
    with pytest.raises(ConfigError, match="know the users that a fold leaves out"):
        export_rows(eager, root, tmp_path / "c.parquet", 3, 2)
    with pytest.raises(ConfigError, match="more folds than users"):
        export_rows(run, root, tmp_path / "c.parquet", 3, USERS + 1)


def test_what_a_history_holds_of_a_trained_sequence_decides_whether_it_was_told() -> None:
    trained = from_lists([np.arange(8), np.array([], np.int64), np.arange(3)], 20)
    cases = [
        (0, np.arange(9), False),  # all of it, and more
        (0, np.arange(8), False),
        (0, np.arange(7), True),  # the last item of the training part may be the answer
        (0, np.arange(2), True),
        (0, np.array([15, *range(8), 16]), False),  # an older beginning
        (0, np.array([3, 4, 5, 6, 7, 9]), False),  # the older part is cut off, five items are left
        (0, np.array([4, 5, 6, 7, 9]), True),  # too few to be sure
        (0, np.array([9, 10, 11]), True),  # nothing in common: no way to tell
        (1, np.array([4]), False),  # not trained on
        (2, np.array([0, 1, 2]), False),
        (2, np.array([2]), True),
        (-1, np.array([1, 2]), False),  # a user that the data does not know
    ]
    flat = np.concatenate([one for _, one, _ in cases]).astype(np.int32)
    ends = np.cumsum([len(one) for _, one, _ in cases])
    starts = ends - [len(one) for _, one, _ in cases]
    asked = Histories(flat, starts, ends, np.array([user for user, _, _ in cases]))
    assert already_told(asked, trained).tolist() == [told for *_, told in cases]


def test_rows_of_one_history_are_one_question(root: Path) -> None:
    data = load_sequences(root)
    rows = read_rows(root)
    asked, items = questions(rows, data)
    assert len(asked) == USERS * 7 and len(rows) == 2 * USERS * 7
    for number in (0, 5, 100, 300):
        mine = rows.history[rows.offsets[number] : rows.offsets[number + 1]]
        assert np.array_equal(data.item_ids[asked.histories[int(asked.of[number])]], mine)
        assert data.users[asked.histories.users[asked.of[number]]] == rows.users[number]
    assert np.array_equal(data.item_ids[items], rows.items)


def test_sasrec_scores_are_a_softmax_over_all_items(root: Path, tmp_path: Path) -> None:
    run, _ = run_of(root, tmp_path / "out", "sasrec")
    model = recommender(run)
    assert isinstance(model, SasRecRetrieval) and isinstance(model, ScoresItems)
    histories = run.split.test.histories.take(slice(0, 5))
    every = model.score_items(histories, np.tile(np.arange(ITEMS), (5, 1)))
    assert np.allclose(np.exp(every).sum(axis=1), 1, atol=1e-5)
    listed, scores = model.recommend(histories, ITEMS)
    assert np.allclose(
        np.take_along_axis(every, listed, 1) - scores, (every[:, :1] - model.scores(histories)[:, :1]), atol=1e-4
    )
    assert np.isneginf(model.score_items(histories, np.full((5, 1), -1))).all()


def test_lists_are_those_of_recommend(root: Path, tmp_path: Path) -> None:
    run, _ = run_of(root, tmp_path / "out")
    count = export_lists(run, tmp_path / "lists.parquet", 4)
    found = columns(tmp_path / "lists.parquet")
    assert list(found) == ["user_id", "item_id", "rank", "score"] and count == 4 * USERS
    assert found["rank"].tolist() == [1, 2, 3, 4] * USERS
    assert np.array_equal(found["user_id"], np.repeat(run.data.users, 4))
    assert (np.diff(found["score"].reshape(USERS, 4), axis=1) <= 0).all()


def call(*parts: object) -> Result:
    tiny = ["tiger.dim=16", "tiger.heads=2", "tiger.feedforward=16", "tiger.encoder_layers=1", "tiger.decoder_layers=1",
            "tokenizer.codebook_sizes=[4,4]", "tokenizer.dim=8", "train.epochs=1", "device=cpu"]  # fmt: skip
    sets = [part for one in tiny for part in ("--set", one)]
    return CliRunner().invoke(app, [*map(str, parts), *sets])


def test_the_commands_write_what_others_read(root: Path, tmp_path: Path) -> None:
    out, to, rows = tmp_path / "out", tmp_path / "to.parquet", tmp_path / "rows.parquet"
    done = call("export", "--data", root, "--out", out, "--to", to, "--rows", rows, "-k", 3, "--folds", 1)
    assert done.exit_code == 0, done.output
    assert f"features.candidates={rows}" in done.output.replace("\n", "") and len(columns(to)["rank"]) == 3 * USERS
    done = call("export-ids", "--data", root, "--out", out)
    assert done.exit_code == 0, done.output
    file = read_sids(out / "ids.parquet")
    assert file.item_ids.tolist() == list(range(1, ITEMS + 1))
    other = tmp_path / "other"
    done = call("train", "--data", root, "--out", other, "--set", f"ids={out / 'ids.parquet'}")
    assert done.exit_code == 0, done.output
    done = call("export-ids", "--data", root, "--out", other, "--set", f"ids={out / 'ids.parquet'}")
    assert done.exit_code == 0 and np.array_equal(read_sids(other / "ids.parquet").sids, file.sids)


def test_what_cannot_be_exported_is_one_error_and_writes_nothing(root: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.parquet"
    base = ("export", "--data", root, "--out", tmp_path / "out")
    cases: list[tuple[tuple[object, ...], str]] = [
        (base, "nothing to write"),
        ((*base, "--to", tmp_path / "to.csv"), "written as parquet"),
        ((*base, "--to", tmp_path / "to.parquet", "-k", 0), "a list of no items"),
        ((*base[:3], "--out", tmp_path / "p", "--rows", rows, "--model", "popularity"), "no log-probabilities"),
        (("export-ids", *base[1:3], "--out", tmp_path / "p", "--model", "popularity"), "not a model that is trained"),
    ]
    for parts, what in cases:
        done = call(*parts)
        assert done.exit_code == 2 and what in done.output, done.output
    names = tmp_path / "names"
    names.mkdir()
    inter = {f"u{n}": ["a", "b", "c", "d"] for n in range(6)}
    (names / "Toy.inter.json").write_text(json.dumps(inter))
    assert "no rows of a click log" in call("export", "--data", names, "--out", tmp_path / "n", "--rows", rows).output
    assert "whole numbers" in call("export-ids", "--data", names, "--out", tmp_path / "n").output
    assert not list(tmp_path.glob("*.parquet"))


def test_rows_with_items_that_the_model_does_not_know_are_refused(root: Path) -> None:
    data = load_sequences(root)
    few = Sequences(np.zeros(3, np.int32), np.array([0, 3]), np.array([1]), data.item_ids[:5])
    with pytest.raises(DataError, match="items of the rows are not in the data"):
        questions(read_rows(root), few)
