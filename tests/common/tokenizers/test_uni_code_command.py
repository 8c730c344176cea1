"""`python -m common.tokenizers uni-code`: from files of vectors to IDs that generators read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from common.generative.config import ItemIdsConfig
from common.generative.item_ids import make_ids
from common.generative.sequences import Sequences, leave_one_out
from common.tokenizers.__main__ import app
from common.tokenizers.files import read_sids
from common.tokenizers.uni_code import UniCode

SMALL = [
    part
    for one in ("codes=6", "dim=8", "hidden=8", "specific_dim=4", "batch_size=16", "fit.epochs=2", "mi_hidden=8")
    for part in ("--set", one)
]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["uni-code", *map(str, arguments)])


def write(path: Path, ids: np.ndarray, x: np.ndarray) -> Path:
    pq.write_table(pa.table({"item_id": ids, "emb": list(x.astype(np.float32))}), path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(60, 4))
    ids = rng.permutation(np.arange(1, 61))
    text, image = shared @ rng.normal(size=(4, 6)), shared @ rng.normal(size=(4, 5))
    order = rng.permutation(60)  # the files are in different orders
    return write(tmp_path / "text.parquet", ids, text), write(tmp_path / "image.parquet", ids[order], image[order])


def test_fit_writes_ids_that_generators_read(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "uni"
    done = call("--text", files[0], "--image", files[1], "--out", out, *SMALL, "--encoder", "text=minilm@1")
    assert done.exit_code == 0, done.output
    tokenizer, ids = UniCode.load(out), read_sids(out / "ids.parquet")
    assert tokenizer.version in done.output and ids.version in done.output
    assert "one vector an item" in done.output
    assert not (tmp_path / "uni.training").exists()
    assert (ids.levels, ids.sizes[:2]) == (2, (6, 6))
    for level, (name, path) in enumerate(zip(("text", "image"), files, strict=True)):
        table = pq.read_table(path).to_pydict()
        codes = tokenizer.encode(name, np.array(table["emb"], np.float32))[:, 0]
        by_id = dict(zip(table["item_id"], codes.tolist(), strict=True))
        assert ids.sids[:, level].tolist() == [by_id[item] for item in ids.item_ids.tolist()]
    data = Sequences(np.arange(3, dtype=np.int32), np.array([0, 3]), np.array([1]), np.arange(1, 61))
    made = make_ids(str(out / "ids.parquet"), ItemIdsConfig(), data, leave_one_out(data), 0, lambda _: None)
    np.testing.assert_array_equal(made.sids, ids.sids)


def test_a_fitted_tokenizer_encodes_other_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    call("--text", files[0], "--image", files[1], "--out", tmp_path / "uni", *SMALL, "--encoder", "text=minilm@1")
    given = ("--text", files[0], "--image", files[1], "--model", tmp_path / "uni", "--out", tmp_path / "again")
    done = call(*given)
    assert done.exit_code == 0, done.output
    first, second = (read_sids(tmp_path / name / "ids.parquet") for name in ("uni", "again"))
    np.testing.assert_array_equal(first.sids, second.sids)
    assert first.version == second.version
    assert "another encoder" in call(*given, "--encoder", "text=minilm@2").output
    assert "has its settings" in call(*given, "--set", "codes=7").output


def test_items_without_a_modality(files: tuple[Path, Path], tmp_path: Path) -> None:
    table = pq.read_table(files[1]).to_pydict()
    fewer = write(tmp_path / "fewer.parquet", np.array(table["item_id"])[3:], np.array(table["emb"])[3:])
    given = ("--text", files[0], "--image", fewer, *SMALL)
    done = call(*given, "--out", tmp_path / "a")
    assert done.exit_code == 2
    assert "3 of 60 items lack a modality" in done.output
    done = call(*given, "--out", tmp_path / "b", "--missing", "other")
    assert done.exit_code == 0, done.output
    assert "3 of 60 items have no image" in done.output
    assert len(read_sids(tmp_path / "b" / "ids.parquet").item_ids) == 60


def test_what_it_says_about_bad_calls(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    cases = {
        "two or three modalities": ("--text", files[0], *out),
        "needs the form NAME=FILE": ("--text", files[0], "--modality", "sound", *out),
        "given twice": ("--text", files[0], "--modality", f"text={files[1]}", *out),
        "no such modality": ("--text", files[0], "--image", files[1], "--encoder", "sound=x", *out),
        "did you mean 'codes'": ("--text", files[0], "--image", files[1], "--set", "code=8", *out),
        "not a .npy array or a parquet": ("--text", tmp_path / "none.parquet", "--image", files[1], *out),
    }
    for message, arguments in cases.items():
        done = call(*arguments)
        assert done.exit_code == 2, message
        assert message in " ".join(done.output.split()), done.output
    assert not (tmp_path / "x").exists()


def test_a_third_modality_by_name(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "three"
    third = ("--modality", f"cover={files[1]}", "--column", "cover=emb")
    done = call("--text", files[0], "--image", files[1], *third, "--out", out, *SMALL)
    assert done.exit_code == 0, done.output
    assert read_sids(out / "ids.parquet").levels == 3
    assert UniCode.load(out).names == ("cover", "image", "text")
