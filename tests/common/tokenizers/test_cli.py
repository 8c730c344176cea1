"""`python -m common.tokenizers`: fit, encode and report end to end, and what each says about bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from common.planted import additive_vectors
from common.tokenizers import QUANTIZERS, load_quantizer
from common.tokenizers.__main__ import app
from common.tokenizers.app import _what_helps
from common.tokenizers.files import read_sids
from common.tokenizers.health import code_warnings

SMALL = ["--set", "codebook_sizes=[8,8,8]"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    x, _ = additive_vectors(600, 16, 3, 8, noise=0.01, seed=1)
    np.save(tmp_path / "items.npy", x)
    return tmp_path / "items.npy"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_fit_encode_report(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    done = call("fit", "--data", data, "--out", out, *SMALL)
    assert done.exit_code == 0, done.output
    quantizer = load_quantizer(out)
    assert quantizer.version in done.output
    done = call("encode", "--model", out, "--data", data, "--out", tmp_path / "ids.parquet")
    assert done.exit_code == 0, done.output
    ids = read_sids(tmp_path / "ids.parquet")
    codes = quantizer.encode(np.load(data))
    np.testing.assert_array_equal(ids.sids[:, :3], codes)
    assert len(np.unique(ids.sids, axis=0)) == 600
    done = call("report", "--model", out, "--data", data)
    assert done.exit_code == 0, done.output
    report = json.loads((out / "report.json").read_text())
    assert report["warnings"] == code_warnings(codes, quantizer.codebook_sizes, todo=_what_helps(quantizer))
    assert all(line in done.output for line in report["warnings"])
    assert report["collisions"]["distinct"] == len(np.unique(codes, axis=0))
    x = np.load(data)
    for row in report["levels"]:
        left = ((x - quantizer.embed(codes, row["level"])) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
        assert row["relative_error"] == pytest.approx(left, rel=1e-4)
    assert (out / "report.png").read_bytes()[:4] == b"\x89PNG"


def test_rows_of_a_balanced_tree_get_the_paths_that_are_theirs_alone(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tree"
    assert call(
        "fit", "--data", data, "--out", out, "--set", "kind=balanced_tree", *SMALL[:1], "codebook_sizes=[25,25]"
    )
    done = call("encode", "--model", out, "--data", data, "--out", tmp_path / "ids.parquet", "--dedup", "raise")
    assert done.exit_code == 0, done.output
    ids, x = read_sids(tmp_path / "ids.parquet"), np.load(data)
    tree = load_quantizer(out)
    assert len(np.unique(ids.sids, axis=0)) == 600
    assert len(np.unique(tree.encode(x), axis=0)) < 600  # the nearest centres alone would collide
    np.testing.assert_array_equal(tree.item_codes(x[::-1].copy()), tree.encode(x[::-1].copy()))


def test_the_same_seed_gives_the_same_files(data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert call("fit", "--data", data, "--out", tmp_path / name, "--seed", 3, *SMALL).exit_code == 0
        assert call("report", "--model", tmp_path / name, "--data", data).exit_code == 0
    for name in ("quantizer.json", "quantizer.safetensors", "report.json", "report.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["kind=rq_kmean"], "did you mean kind=rq_kmeans"),
        (["codebook_size=[8,8]"], "did you mean 'codebook_sizes'"),
        (["codebook_sizes=many"], "codebook_sizes"),
        (["codebook_sizes=[1000,8]"], "fewer"),
    ],
)
def test_bad_settings_are_named_and_nothing_is_written(
    data: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    done = call("fit", "--data", data, "--out", tmp_path / "model", *options)
    assert done.exit_code == 2
    assert message in done.output
    assert not (tmp_path / "model").exists()


def test_vectors_of_another_width_and_nan_are_refused(data: Path, tmp_path: Path) -> None:
    assert call("fit", "--data", data, "--out", tmp_path / "model", *SMALL).exit_code == 0
    np.save(tmp_path / "wide.npy", np.zeros((5, 17), dtype=np.float32))
    bad = np.load(data)[:5].copy()
    bad[3, 0] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    for name, message in (("wide.npy", "another width"), ("nan.npy", "row 3")):
        out = tmp_path / "ids.parquet"
        done = call("encode", "--model", tmp_path / "model", "--data", tmp_path / name, "--out", out)
        assert done.exit_code == 2
        assert message in done.output
        assert not out.exists()


@pytest.mark.parametrize("kind", sorted(QUANTIZERS))
def test_every_kind_takes_its_settings_by_name(kind: str) -> None:
    from common.tokenizers.app import build_quantizer

    quantizer = build_quantizer(kind)
    assert quantizer.kind == kind
    settings = quantizer.settings()
    again = build_quantizer(kind, [f"{name}={json.dumps(value)}" for name, value in settings.items()])
    assert again.settings() == settings
