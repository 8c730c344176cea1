"""`python -m track2_mmctr download` on the sample's files, served on the loopback as the organisers' pages."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from common.errors import DataError
from tests.common.download.archive_files import rar_bytes, tree
from tests.loopback.http_server import Served, Trouble, WebServer
from tests.loopback.kaggle_server import Contest, KaggleServer
from track2_mmctr.__main__ import app
from track2_mmctr.download import check

Download = Callable[..., Result]
MIRROR = "yummyooo123/www2025-mmctr-data"


def tables(root: Path) -> dict[str, bytes]:
    """Return the sample's tables as the organisers lay them out."""
    folder = root / "data" / "sample" / "microlens"
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.parquet")}
    del found["answers.parquet"]  # known of the sample alone
    return found | {"item_emb.parquet": found["item_feature.parquet"]}  # it need only have ids


def covers(root: Path) -> bytes:
    """Return the covers as a rar."""
    folder = root / "data" / "sample" / "microlens" / "item_images"
    return rar_bytes([(f"item_images/{path.name}", path.read_bytes()) for path in sorted(folder.iterdir())])


@pytest.fixture
def web(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WebServer]:
    for name in [name for name in os.environ if name.startswith(("KAGGLE", "HF_T", "MIRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    files = {**tables(root), "item_images.rar": covers(root)}
    with WebServer({f"/MicroLens_1M_MMCTR/{name}": Served(data) for name, data in files.items()}) as server:
        yield server


@pytest.fixture
def download(web: WebServer, tmp_path: Path) -> Download:
    def run(*options: str, tries: int = 1) -> Result:
        places = ["--data", str(tmp_path / "data"), "--cache", str(tmp_path / "cache")]
        pages = [] if "--source" in options else ["--pages", f"{web.address}/MicroLens_1M_MMCTR"]
        return CliRunner().invoke(
            app, ["download", *places, *pages, "--tries", str(tries), "--timeout", "10", *options]
        )

    return run


def test_all_parts_come_are_read_and_summed_up(download: Download, web: WebServer, root: Path, tmp_path: Path) -> None:
    done = download("--only", "all")
    assert done.exit_code == 0, done.output
    for line in (
        "6,000 rows in train",
        "1,500 rows in valid",
        "352 items, 352 with a title",
        "352 covers for 352 items",
    ):
        assert f"microlens: {line}" in done.output
    assert done.output.splitlines()[-1].endswith(f"-m track2_mmctr run --data {tmp_path / 'data'}")
    pictures = tree(root / "data" / "sample" / "microlens" / "item_images")
    whole = {**tables(root), **{f"item_images/{name}": data for name, data in pictures.items()}}
    assert tree(tmp_path / "data" / "microlens") == whole
    asked = len(web.asked)
    assert download().exit_code == 0
    assert len(web.asked) == asked


def test_ten_cuts_at_random_bytes_of_each_file(download: Download, web: WebServer, root: Path, tmp_path: Path) -> None:
    rng = random.Random(11)
    for path, served in web.files.items():
        web.troubles[path] = [Trouble(cut=rng.randrange(len(served.data))) for _ in range(10)]
    for _ in range(12):  # a user who types the command again
        done = download("--only", "splits,tables,extra,images")
        if done.exit_code == 0:
            break
        assert "run the same command again" in done.output or "check the network" in done.output
    assert done.exit_code == 0, done.output
    found = tree(tmp_path / "data" / "microlens")
    assert {name: data for name, data in found.items() if name.endswith(".parquet")} == tables(root)
    assert len(found) == len(tables(root)) + 352
    assert any("Range" in asked.headers for asked in web.asked)


def test_parts_one_after_the_other(download: Download, tmp_path: Path) -> None:
    assert "1,500 rows in test; their values are checked when" in download("--only", "test").output
    told = download("--only", "item_info,item_feature,item_seq,valid").output
    assert "352 items in item_info" in told
    assert "352 rows in item_feature" in told
    assert "rows in item_seq" in told
    assert told.splitlines()[-1].endswith(f"download --data {tmp_path / 'data'}")
    assert "352 covers\n" in download("--only", "images").output
    assert "6,000 rows in train" in download("--only", "splits").output


def test_a_table_that_is_damaged_or_of_another_kind_is_told(download: Download, web: WebServer, root: Path) -> None:
    path = "/MicroLens_1M_MMCTR/MicroLens_1M_x1/valid.parquet"
    whole = web.files[path].data
    web.files[path] = Served(whole[: len(whole) // 2])
    cut = download("--only", "valid")
    assert cut.exit_code == 2
    assert "it is cut off" in cut.output
    web.files[path] = Served(b"PAR1" + bytes(len(whole)) + b"PAR1")  # right at both ends only
    hollow = download()
    assert hollow.exit_code == 2
    assert "cannot be read" in hollow.output
    web.files[path] = Served(web.files["/MicroLens_1M_MMCTR/item_feature.parquet"].data)
    other = download("--only", "valid", "--again")
    assert other.exit_code == 2
    assert "--accept-changes" in other.output
    wrong = download("--only", "valid", "--again", "--accept-changes")
    assert wrong.exit_code == 2
    assert "valid.parquet" in wrong.output
    web.files[path] = Served(whole)
    assert download("--only", "valid", "--again", "--accept-changes").exit_code == 0


def test_the_copy_on_kaggle_is_used_when_it_is_asked_for(
    download: Download, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"MicroLens_1M_MMCTR/{name}": data for name, data in tables(root).items()}
    with KaggleServer({MIRROR: Contest(files)}) as server:
        for name, value in server.environ(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        done = download("--only", "item_info", "--source", "mirror")
        assert done.exit_code == 0, done.output
        lacking = download("--only", "images", "--source", "mirror")
    assert "352 items in item_info" in done.output
    assert lacking.exit_code == 2
    assert "the source does not have it" in lacking.output


def test_no_server_says_what_to_do(tmp_path: Path, download: Download, web: WebServer) -> None:
    web.always["/MicroLens_1M_MMCTR/"] = Trouble(status=503)
    web.files["/MicroLens_1M_MMCTR/"] = Served(b"")
    done = download()
    assert done.exit_code == 2
    assert "6 parts could not be downloaded" in done.output
    assert "run the same command again" in done.output
    assert not (tmp_path / "data" / "microlens").exists()


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert check(tmp_path, tmp_path) == [f"next: python -m track2_mmctr download --data {tmp_path}"]
    (tmp_path / "microlens" / "MicroLens_1M_x1").mkdir(parents=True)
    (tmp_path / "microlens" / "MicroLens_1M_x1" / "train.parquet").write_bytes(b"x")
    with pytest.raises(DataError):
        check(tmp_path, tmp_path)
