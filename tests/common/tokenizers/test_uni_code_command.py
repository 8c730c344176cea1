"""`python -m common.tokenizers uni-code`: from files of vectors to IDs that generators read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from common.config import make_config
from common.generative.config import ItemIdsConfig
from common.generative.item_ids import make_ids
from common.generative.sequences import Sequences, leave_one_out
from common.tokenizers.__main__ import app
from common.tokenizers.files import read_sids
from common.tokenizers.uni_code import UniCode, UniCodeConfig, command
from common.tokenizers.uni_code.config import ENOUGH, for_few

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


def test_few_items_get_settings_of_their_own_and_many_or_several_steps_the_papers(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    paper = UniCodeConfig()
    for samples in (4, 60, 500, 1663, 7999):
        made = make_config(UniCodeConfig, for_few(samples, 1), [], "few")
        batches = max(1, samples // made.batch_size)  # as `PairedBatches` cuts them
        assert ENOUGH <= batches * made.fit.epochs < ENOUGH + batches and made.reset_after * 5 < ENOUGH
        assert made.codes == min(400, max(2, samples // 4)) and made.validation == 0
    assert for_few(8000, 1) == for_few(60, 2) == {} and 8000 // paper.batch_size * paper.fit.epochs == ENOUGH
    done = call("--text", files[0], "--image", files[1], "--out", tmp_path / "few", "--set", "fit.epochs=2")
    assert done.exit_code == 0, done.output
    told = UniCode.load(tmp_path / "few").config
    assert (told.codes, told.depth, told.fit.epochs, told.fit.learning_rate) == (15, 0, 2, 1e-3)
    assert "codes=15" in done.output and "fit.epochs=600" in done.output  # what it is unless --set says otherwise


def test_codes_that_collide_or_lie_idle_are_told_with_what_to_change(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--text", files[0], "--image", files[1], *SMALL)
    monkeypatch.setattr(command, "item_codes", lambda *_, **__: (np.arange(60), np.zeros((60, 2), np.int32), {}))
    done = " ".join(call(*given, "--out", tmp_path / "bad").output.split())
    assert "warning: 60 of 60 items (100%) share their codes with another item: 1 different rows of codes" in done
    assert "warning: text uses 1 of 6 codes (17%)" in done and "warning: image uses 1 of 6" in done
    assert (
        "what helps: more steps and sooner resets: this fit had 6 steps" in done
        and "raise fit.epochs (it is 2)" in done
    )
    codes = np.stack([np.arange(60) % 6, np.arange(60) // 6 % 6], 1).astype(np.int32)
    wide = (np.arange(36), codes[:36], {})
    monkeypatch.setattr(command, "item_codes", lambda *_, **__: wide)
    assert "warning" not in call(*given, "--out", tmp_path / "good").output
