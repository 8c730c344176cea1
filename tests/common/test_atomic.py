"""Atomic writes: an error, a full disk or a kill leaves the old file or the new one, never half."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.atomic import append_line, atomic_folder, atomic_path, write_bytes, write_text


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith(".partial-"))


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_bytes(path, b"one\r\n")
    assert path.read_bytes() == b"one\r\n"
    write_text(str(path), "zwei\n€")
    assert path.read_bytes() == "zwei\n€".encode()
    assert leftovers(path.parent) == []


def test_the_temporary_file_keeps_the_suffix_and_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.parquet") as temporary:
        assert temporary.suffix == ".parquet"
        assert temporary.parent == tmp_path
        assert not (tmp_path / "x.parquet").exists()
        temporary.write_text("x")
    assert (tmp_path / "x.parquet").read_text() == "x"


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "x", b"")
        with atomic_folder(tmp_path / "d") as temporary:
            (temporary / "y").write_text("y")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o750


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
def test_an_error_leaves_the_old_file(error: BaseException, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_failed_move_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def refuse(*_: object) -> None:
        raise PermissionError("denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_the_file_is_on_disk_before_it_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    seen: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        seen.append((kind, path.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(path, "x")
    assert seen == [("file", False), ("folder", True)]


def test_folder_appears_whole_and_replaces_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    with atomic_folder(path) as temporary:
        (temporary / "b").write_text("2")
        assert (path / "a").read_text() == "1"
    assert [p.name for p in path.iterdir()] == ["b"]
    assert leftovers(path.parent) == []


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("old")
    for error in (OSError(28, "full"), KeyboardInterrupt()):
        with pytest.raises(type(error)), atomic_folder(path) as temporary:
            (temporary / "a").write_text("half")
            raise error
    assert (path / "a").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_failed_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("old")
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target == path and not self.name.endswith(".old"):
            raise PermissionError("denied")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(PermissionError), atomic_folder(path) as temporary:
        (temporary / "a").write_text("new")
    assert (path / "a").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_append_line_adds_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "log.jsonl"
    append_line(path, "a")
    append_line(path, "b\n")
    append_line(path, "é")
    assert path.read_text(encoding="utf-8") == "a\nb\né\n"


def test_a_line_that_was_left_unfinished_does_not_swallow_the_next(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"whole\nhal")
    append_line(path, "next")
    append_line(path, "last")
    assert path.read_bytes() == b"whole\nhal\nnext\nlast\n"


def test_parallel_appends_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log"
    code = (
        "import sys; from pathlib import Path; from common.atomic import append_line\n"
        "for i in range(100): append_line(Path(sys.argv[1]), sys.argv[2] * 300)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), letter], cwd=_root()) for letter in "abc"]
    assert [w.wait(timeout=60) for w in writers] == [0, 0, 0]
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted([letter * 300 for letter in "abc"] * 100)


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """The operating system itself refuses to write beyond 10,000 bytes."""
    path = tmp_path / "file.csv"
    path.write_text("old")
    code = (
        "import resource, signal, sys; from common.atomic import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: write_bytes(sys.argv[1], b'x' * 50_000)\n"
        "except OSError as error: print(error.errno); sys.exit(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=_root(), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (3, "27"), done.stderr  # EFBIG
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_log_line_written_in_part_is_an_error(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from common.atomic import append_line\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "append_line(sys.argv[1], 'x' * 600); print('one')\n"
        "try: append_line(sys.argv[1], 'x' * 600)\n"
        "except OSError: sys.exit(3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "log")], cwd=_root(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "one\n"), done.stderr


# Writes versions 0, 1, 2, ... of one file (or folder) until it is killed; says when it has begun.
_LOOP = """
import sys
from pathlib import Path
from common.atomic import atomic_folder, atomic_path
path = Path(sys.argv[2])
number = 0
while True:
    text = f"{number:08d}\\n" * 20_000
    if sys.argv[1] == "file":
        with atomic_path(path) as temporary, temporary.open("w") as file:
            for start in range(0, len(text), 9_000):
                file.write(text[start : start + 9_000])
                file.flush()
    else:
        with atomic_folder(path) as temporary:
            for name in "abc":
                (temporary / name).write_text(text)
    if number == 0:
        print("begun", flush=True)
    number += 1
"""


def _kill_while_writing(kind: str, path: Path, delay: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", _LOOP, kind, str(path)], cwd=_root(), stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "begun\n"
    time.sleep(delay)
    writer.send_signal(signal.SIGKILL)
    assert writer.wait(timeout=30) == -signal.SIGKILL
    writer.stdout.close()


def _assert_whole(text: str) -> None:
    lines = text.splitlines()
    assert len(lines) == 20_000
    assert len(set(lines)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_in_the_middle_leaves_old_or_new_file(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    interrupted = 0
    for round_number in range(60):  # 12, and more on a busy machine, where the writer may not have had its turn
        if round_number >= 12 and interrupted:
            break
        _kill_while_writing("file", path, 0.002 + 0.003 * round_number)
        _assert_whole(path.read_text())
        interrupted += bool(leftovers(tmp_path))
        for name in leftovers(tmp_path):
            (tmp_path / name).unlink()
    assert interrupted, "no kill hit a write: the test shows nothing"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_kill_in_the_middle_leaves_a_whole_folder_or_none(tmp_path: Path) -> None:
    path = tmp_path / "model"
    interrupted = 0
    for round_number in range(60):  # 8, and more on a busy machine, where the writer may not have had its turn
        if round_number >= 8 and interrupted:
            break
        _kill_while_writing("folder", path, 0.002 + 0.003 * round_number)
        interrupted += bool(leftovers(tmp_path))
        # Between the two renames the old folder is kept aside, whole.
        folders = [path] if path.exists() else [tmp_path / n for n in leftovers(tmp_path) if n.endswith(".old")]
        assert folders
        texts = [(folders[0] / name).read_text() for name in "abc"]
        assert len(set(texts)) == 1
        _assert_whole(texts[0])
        if not path.exists():
            folders[0].rename(path)
        for name in leftovers(tmp_path):  # half deleted ones must not pass for what a later kill left
            shutil.rmtree(tmp_path / name)
    assert interrupted, "no kill hit a write: the test shows nothing"
