"""What the client left in its folder: taken when it is the whole file, else deleted; one download at a time."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.kaggle import KaggleError
from common.kaggle.delivery import alone, clear, move_into_place, part_folder, whole_file
from tests.loopback.kaggle_server import zip_of

ZIP = zip_of("a.csv", b"a,b\n" * 100)


def left(part: Path, **files: bytes) -> Path:
    part.mkdir(exist_ok=True)
    for name, data in files.items():
        (part / name.replace("__", ".")).write_bytes(data)
    return part


def test_each_file_has_its_own_part_and_the_same_one_again(tmp_path: Path) -> None:
    names = {
        part_folder(tmp_path, place, file) for place, file in (("a", None), ("a", "b"), ("b", None), ("a/b", None))
    }
    assert len(names) == 4
    assert part_folder(tmp_path, "a", "x/../../y") == part_folder(tmp_path, "a", "x/../../y")
    assert all(name.parent == tmp_path and name.name.startswith(".") for name in names)


def test_a_whole_file_is_moved_and_nothing_is_left(tmp_path: Path) -> None:
    part = left(tmp_path / "part", slug__zip=ZIP)
    (part / ".lock").touch()
    (part / "slug.zip.kaggle-partial").write_text("{}")
    path = whole_file(part, "slug", None, None)
    assert move_into_place(path, part, tmp_path) == tmp_path / "slug.zip"
    assert (tmp_path / "slug.zip").read_bytes() == ZIP and not part.exists()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("slug__zip", b"", "empty"),
        ("slug__zip", ZIP[:-30], "no whole zip"),
        ("slug__zip", b"PK\x03\x04" + b"x" * 99, "no whole zip"),
        ("slug__zip", b"PK\x05\x06" + b"\0" * 18, "no whole zip"),  # a zip of nothing
        ("slug__zip", b'\n <!DOCTYPE html>\n<html lang="en">', "web page"),
        ("slug__zip", b"<HTML><body>", "web page"),
    ],
)
def test_what_is_no_zip_of_the_files_is_deleted(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    part = left(tmp_path / "part", **{name: data})
    with pytest.raises(KaggleError, match=said) as caught:
        whole_file(part, "slug", None, None)
    assert list(part.iterdir()) == []
    assert caught.value.todo


def test_a_single_file_has_the_listed_size_or_comes_zipped(tmp_path: Path) -> None:
    part = left(tmp_path / "part", a__csv=b"a,b\n")
    assert whole_file(part, "slug", "d/a.csv", 4).name == "a.csv"
    with pytest.raises(KaggleError, match="listing says 5"):
        whole_file(part, "slug", "d/a.csv", 5)
    left(part, a__csv__zip=ZIP)
    assert whole_file(part, "slug", "d/a.csv", 400).name == "a.csv.zip"
    clear(part)
    left(part, a__html=b"<html>")
    assert whole_file(part, "slug", "a.html", 6).name == "a.html"  # a page where a page is asked for


def test_no_file_or_two_are_no_answer(tmp_path: Path) -> None:
    for files in ({}, {"a": b"1", "b": b"2"}):
        with pytest.raises(KaggleError, match="did not send one file"):
            whole_file(left(tmp_path / "part", **files), "slug", None, None)


def test_a_second_download_of_the_same_file_is_refused_also_by_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from common.kaggle.delivery import alone\n"
        "from common.errors import UserError\n"
        "try:\n with alone(Path(sys.argv[1])): print('in')\n"
        "except UserError: print('refused')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "part")]
    root = Path(__file__).resolve().parents[3]
    with alone(tmp_path / "part"), pytest.raises(UserError, match="another process"), alone(tmp_path / "part"):
        pass
    with alone(tmp_path / "part") as handle:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        assert done.stdout == "refused\n"
        heir = subprocess.Popen(["sleep", "30"], pass_fds=(handle,))
    try:  # the lock lives on in the child, as it would after a kill of this process
        with pytest.raises(UserError, match="another process"), alone(tmp_path / "part"):
            pass
    finally:
        heir.kill()
        heir.wait()
    with alone(tmp_path / "part"):
        pass
