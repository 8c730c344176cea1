"""`--index milvus`: the same items as with FAISS, by the models that search vectors; refused by the others."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from common.generative.__main__ import app
from common.generative.baselines import NearestEmbedding
from common.generative.sequences import Histories
from common.index.build import IndexSettings
from common.planted import ClusterChain

INSTALL = "Milvus is an extra: pip install -r requirements-cluster.txt"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    lists = ClusterChain(np.arange(24) // 4, stay=0.9, seed=0).sequences(40, 7, 0)
    inter = {f"u{number}": (100 + one).tolist() for number, one in enumerate(lists)}
    (folder / "Toy.inter.json").write_text(json.dumps(inter))
    return folder


def recommend(data: Path, out: Path, model: str, *more: str) -> tuple[int, str, str]:
    target = out / "next.json"
    options = ["--model", model, "--data", str(data), "--out", str(out), "--to", str(target), "-k", "5", *more]
    result = CliRunner().invoke(app, ["recommend", *options])
    return result.exit_code, result.output, target.read_text() if target.is_file() else ""


def test_the_nearest_items_are_the_same_and_nothing_is_left_behind(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite", reason=INSTALL)
    code, output, with_faiss = recommend(data, tmp_path / "faiss", "nearest")
    assert code == 0, output
    code, output, with_milvus = recommend(data, tmp_path / "milvus", "nearest", "--index", "milvus")
    assert code == 0, output
    assert json.loads(with_milvus) == json.loads(with_faiss) and len(json.loads(with_milvus)) == 40


def test_ties_and_excluded_items_are_as_with_faiss(tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite", reason=INSTALL)
    rng = np.random.default_rng(0)
    vectors = np.eye(6, dtype=np.float32)[rng.integers(0, 6, size=50)]  # cosines are 0 or 1
    starts = np.arange(9)
    histories = Histories(rng.integers(0, 50, size=12), starts, starts + rng.integers(0, 4, size=9), starts)
    allowed = rng.random(50) < 0.7
    asked = NearestEmbedding(vectors)
    expected = asked.recommend(histories, 8, allowed=allowed)
    asked.search_with(IndexSettings("milvus"), tmp_path)
    for one, other in zip(asked.recommend(histories, 8, allowed=allowed), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    asked.index.close()
    assert not list((tmp_path / "milvus").iterdir())


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("popularity", ["--index", "milvus"], "searches no vectors"),
        ("nearest", ["--uri", "http://localhost:19530"], "add --index milvus"),
        ("nearest", ["--index", "milvus", "--uri", "http://me:sesame@127.0.0.1:9"], "no Milvus server answers"),
    ],
)
def test_what_cannot_be_is_one_error(data: Path, tmp_path: Path, model: str, options: list[str], said: str) -> None:
    pytest.importorskip("milvus_lite", reason=INSTALL)
    code, output, written = recommend(data, tmp_path, model, *options)
    assert code == 2 and said in output and not written and "sesame" not in output
