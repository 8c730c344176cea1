"""The command line: train, evaluate, recommend; what is kept, what is resumed, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from common.config import load_config
from common.generative.__main__ import app
from common.generative.config import CONFIG_FOLDER, RunConfig
from common.planted import ClusterChain

RUNNER = CliRunner()
TINY = [
    "tiger.dim=16", "tiger.heads=2", "tiger.feedforward=16", "tiger.encoder_layers=1", "tiger.decoder_layers=1",
    "tokenizer.codebook_sizes=[4,4]", "tokenizer.dim=8", "train.epochs=2", "train.valid_users=20", "evaluate.beam=10",
    "sasrec.dim=16", "device=cpu", "eager.dim=16", "eager.heads=2", "eager.feedforward=16", "eager.decoder_layers=1",
    "behaviour.source=co_occurrence",
    *(f"{name}.lm.scratch.{key}" for name in ("eager_llm", "store")
      for key in ("dim=16", "layers=1", "heads=2", "feedforward=32", "vocabulary=300")),
    "store.dense.train.epochs=2", "store.dense.slots=2", "store.codes.size=4",
]  # fmt: skip
NEW = ("eager", "eager_llm", "store")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    lists = ClusterChain(np.arange(24) // 4, stay=0.9, seed=0).sequences(60, 7, 0)
    inter = {f"u{number}": (100 + one).tolist() for number, one in enumerate(lists)}
    (folder / "Toy.inter.json").write_text(json.dumps(inter))
    return folder


def call(verb: str, model: str, data: Path, out: Path, *more: str, tiny: list[str] = TINY) -> Result:
    sets = [part for one in tiny for part in ("--set", one)]
    return RUNNER.invoke(app, [verb, "--model", model, "--data", str(data), "--out", str(out), *more, *sets])


@pytest.mark.parametrize("model", ["tiger", "atomic", "sasrec", "popularity", "nearest"])
def test_evaluate_trains_if_need_be_and_writes_json(data: Path, tmp_path: Path, model: str) -> None:
    first = call("evaluate", model, data, tmp_path / "out")
    assert first.exit_code == 0, first.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert f"Recall@10 {metrics['figures']['Recall@10']:.4f}" in first.output
    assert metrics["users"] == 60
    trained = (tmp_path / "out" / "model").is_dir()
    assert trained == (model in ("tiger", "atomic", "sasrec"))
    again = call("evaluate", model, data, tmp_path / "out")
    assert again.exit_code == 0 and "epoch 1" not in again.output  # nothing is trained twice
    after = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert after["figures"] == metrics["figures"]
    assert len((tmp_path / "out" / "runs" / "log.jsonl").read_text().splitlines()) == 2


def test_recommend_writes_users_and_leaves_sold_out_items_away(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("train", "tiger", data, out).exit_code == 0
    plain = call("recommend", "tiger", data, out, "-k", "3", "--to", str(tmp_path / "all.parquet"))
    assert plain.exit_code == 0, plain.output
    table = pq.read_table(tmp_path / "all.parquet").to_pydict()
    assert len(table["user_id"]) == 60 and all(len(one) == 3 for one in table["items"])
    sold = sorted({item for one in table["items"] for item in one})[:2]
    (tmp_path / "sold.txt").write_text("".join(f"{one}\n" for one in sold))
    (tmp_path / "users.json").write_text('["u3", "u1"]')
    files = ("--exclude", str(tmp_path / "sold.txt"), "--users", str(tmp_path / "users.json"))
    less = call("recommend", "tiger", data, out, "-k", "30", "--to", str(tmp_path / "some.json"), *files)
    assert less.exit_code == 0, less.output
    found: dict[str, Any] = json.loads((tmp_path / "some.json").read_text())
    assert list(found) == ["u3", "u1"]
    assert all(sorted(one) == sorted(set(range(100, 124)) - set(sold)) for one in found.values())  # no more exist


@pytest.mark.parametrize("model", NEW)
def test_each_language_and_two_stream_model_trains_evaluates_and_recommends(
    data: Path, tmp_path: Path, model: str
) -> None:
    out = tmp_path / "out"
    trained = call("train", model, data, out)
    assert trained.exit_code == 0, trained.output
    assert f"model: {model}" not in trained.output and "trained 2 epochs" in trained.output
    assert "co-occurrence" in trained.output or "its ID" in trained.output  # what the data lacks is told
    told = call("evaluate", model, data, out)
    assert told.exit_code == 0, told.output
    assert "epoch 1" not in told.output
    figures = json.loads((out / "metrics.json").read_text())["figures"]
    assert 0 <= figures["Recall@5"] <= figures["Recall@10"] <= 1
    (tmp_path / "sold.txt").write_text("".join(f"{one}\n" for one in range(100, 120)))
    done = call("recommend", model, data, out, "-k", "9", "--to", str(tmp_path / "to.json"),
                "--exclude", str(tmp_path / "sold.txt"))  # fmt: skip
    assert done.exit_code == 0, done.output
    lists = json.loads((tmp_path / "to.json").read_text())
    assert len(lists) == 60 and all(sorted(one) == list(range(120, 124)) for one in lists.values())


def test_the_key_ties_a_run_to_its_own_sections_and_texts_alone(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("train", "sasrec", data, out).exit_code == 0
    key = json.loads((out / "key.json").read_text())
    assert "sasrec" in key and not {"tiger", "eager", "texts", "behaviour"} & key.keys()
    again = call("evaluate", "sasrec", data, out, tiny=[*TINY, "eager.gct=0", "tiger.dim=32"])  # others' sections
    assert again.exit_code == 0, again.output
    (out / "key.json").write_text(json.dumps({**key, "tiger": {"dim": 1}}))  # as older versions wrote it
    assert call("evaluate", "sasrec", data, out).exit_code == 0
    (out / "key.json").write_text("{")
    broken = call("evaluate", "sasrec", data, out)
    assert broken.exit_code == 2 and "the run's key is damaged" in broken.output


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"sold.txt": "7\n"}, "items to exclude"),
        ({"sold.txt": ""}, "no ids"),
        ({"sold.txt": "\n".join(map(str, range(100, 124)))}, "every item is excluded"),
        ({"users.txt": "nobody\n"}, "users are not in the data"),
        ({"users.json": "{"}, "no ids can be read"),
        ({"users.json": '{"a": 1}'}, "not a list of ids"),
    ],
)
def test_bad_lists_of_users_and_items(data: Path, tmp_path: Path, files: dict[str, str], what: str) -> None:
    (name, text), *_ = files.items()
    (tmp_path / name).write_text(text)
    option = "--exclude" if name.startswith("sold") else "--users"
    target = tmp_path / "to.json"
    done = call("recommend", "popularity", data, tmp_path / "out", "--to", str(target), option, str(tmp_path / name))
    assert done.exit_code == 2
    assert what in done.output
    assert not target.exists()


def test_a_target_of_another_kind(data: Path, tmp_path: Path) -> None:
    done = call("recommend", "popularity", data, tmp_path / "out", "--to", str(tmp_path / "to.csv"))
    assert done.exit_code == 2 and "parquet or JSON" in done.output


def test_a_folder_of_another_configuration_or_of_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("train", "tiger", data, out).exit_code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = call("evaluate", "tiger", data, out, tiny=[*TINY, "tiger.max_items=3"])
    assert other.exit_code == 2 and "tiger.max_items" in other.output
    moved = tmp_path / "moved"
    moved.mkdir()
    inter = json.loads((data / "Toy.inter.json").read_text())
    inter["u0"] = inter["u0"][::-1]
    (moved / "Toy.inter.json").write_text(json.dumps(inter))
    changed = call("evaluate", "tiger", moved, out)
    assert changed.exit_code == 2 and "another configuration is in the way: data" in changed.output
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_ids_of_another_version_are_refused(data: Path, tmp_path: Path) -> None:
    from common.tokenizers.semantic_ids import SemanticIdMap

    out = tmp_path / "out"
    assert call("train", "tiger", data, out).exit_code == 0
    ids = SemanticIdMap.load(out / "ids")
    SemanticIdMap.from_sids(ids.sids[::-1].copy(), ids.sizes, levels=ids.levels).save(out / "ids")
    done = call("evaluate", "tiger", data, out)
    assert done.exit_code == 2 and "another version" in done.output
    assert not (out / "metrics.json").exists()


def test_the_same_command_gives_the_same_model(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert call("train", "tiger", data, tmp_path / name).exit_code == 0
    a, b = ((tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert a == b


def test_an_unknown_key_names_the_nearest_and_an_empty_folder_is_an_error(data: Path, tmp_path: Path) -> None:
    done = call("train", "tiger", data, tmp_path / "out", tiny=["train.epoch=3"])
    assert done.exit_code == 2 and "did you mean 'epochs'" in done.output
    (tmp_path / "empty").mkdir()
    done = call("train", "tiger", tmp_path / "empty", tmp_path / "out")
    assert done.exit_code == 2 and "no sequences here" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml")))
def test_each_configuration_parses_and_names_itself(name: str) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER)
    assert config.name == name and len(config.about.split()) > 10
