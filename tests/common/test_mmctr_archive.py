"""The Track 2 zip as an archive: damaged and hostile ones, a full disk, a kill in the middle of the write."""

import io
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.submission import mmctr_archive
from common.submission.mmctr import pack, read_submission, validate_submission, write_submission
from tests.common.test_mmctr_submission import CSV, GOLDEN, IDS, VALUES, check, zipped

ARCHIVES = {
    "bare CSV": (GOLDEN, "it is the bare CSV"),
    "empty": (b"", "must be a zip"),
    "gzip": (b"\x1f\x8b\x08\x00" + b"\0" * 40, "must be a zip"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + b"\0" * 40, "must be a zip"),
    "bytes before the zip": (b"#!/bin/sh\n" + zipped(CSV), "must be a zip"),
    "empty zip": (zipped(), "must be a zip"),
    "half a zip": (zipped(CSV)[:60], "damaged"),
    "folder": (zipped(("submission/prediction.csv", GOLDEN)), "must be at the root of the zip"),
    "folder entry": (zipped(("out/", b""), CSV), "and nothing else"),
    "extra file": (zipped(CSV, ("readme.txt", b"x")), "and nothing else"),
    "finder's file": (zipped(CSV, ("__MACOSX/._prediction.csv", b"x")), "and nothing else"),
    "no prediction": (zipped(("predictions.csv", GOLDEN)), "there is no prediction.csv"),
    "capitals": (zipped(("Prediction.csv", GOLDEN)), "in lower case"),
    "parent": (zipped(("../prediction.csv", GOLDEN)), "leads out of"),
    "deep parent": (zipped(CSV, ("a/../../b.csv", GOLDEN)), "leads out of"),
    "root": (zipped(("/prediction.csv", GOLDEN)), "leads out of"),
    "drive": (zipped(("C:prediction.csv", GOLDEN)), "leads out of"),
    "backslash": (zipped(("a\\prediction.csv", GOLDEN)), "leads out of"),
    "many": (zipped(CSV, *((f"{i}.txt", b"") for i in range(50))), "51 members"),
    "bomb": (zipped(("prediction.csv", b"0" * 3_000_000)), "times its compressed size"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_wrong_archive_is_refused(tmp_path: Path, name: str) -> None:
    data, rule = ARCHIVES[name]
    report = check(tmp_path, data)
    assert any(rule in fault.rule or rule in fault.value for fault in report.faults), report.render()
    assert [p.name for p in tmp_path.iterdir()] == ["run.zip"]  # nothing is unpacked


def test_member_twice_link_and_encrypted(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(CSV, CSV)
    assert any("in the zip twice" in f.rule for f in check(tmp_path, twice).faults)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("prediction.csv")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/hostname")
    assert any("a link" in f.rule for f in check(tmp_path, buffer.getvalue()).faults)
    locked = bytearray(zipped(CSV))
    locked[6] |= 1  # the flag of the local header, then of the directory
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    assert any("encrypted" in f.rule for f in check(tmp_path, bytes(locked)).faults)


def test_a_file_larger_than_the_limit_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = zipped(("prediction.csv", b"ID,Task2\n" + b"5,0.5\n" * 300), method=zipfile.ZIP_STORED)
    monkeypatch.setattr(mmctr_archive, "MAX_BYTES", 1000)
    assert any("larger than 1,000 bytes" in f.rule for f in check(tmp_path, stored).faults)
    packed = zipped(("prediction.csv", b"ID,Task2\n" + b"5,0.5\n" * 300))
    assert len(packed) < 1000
    assert any("larger than 1,000 bytes" in f.rule for f in check(tmp_path, packed).faults)


def test_a_size_that_lies_is_found(tmp_path: Path) -> None:
    data = bytearray(zipped(CSV))
    place = data.index(b"PK\x01\x02") + 24  # uncompressed size, in the directory
    data[place : place + 4] = (20).to_bytes(4, "little")
    assert not check(tmp_path, bytes(data)).ok


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_of_the_stored_file_never_passes_as_other_rows(tmp_path: Path, place: int, bit: int) -> None:
    good = pack(IDS, VALUES, "Task2")
    data = bytearray(good)
    data[place % len(data)] ^= 1 << bit
    if check(tmp_path, bytes(data)).ok:  # the flip hit a field that means nothing here, such as the date
        back = read_submission(tmp_path / "run.zip")
        assert back.ids.tolist() == IDS.tolist()
        assert back.column().tolist() == [0.1, 1.0, 0.333333333, 2e-07]


SCRIPT = """
import os, resource, signal, sys
from pathlib import Path
import numpy as np
from common.submission.mmctr import write_submission
ids = np.arange(5000)
if sys.argv[2] == "full":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
elif sys.argv[2] == "kill":
    def write(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    Path.write_bytes = write
try:
    write_submission(Path(sys.argv[1]), ids, np.random.default_rng(1).random(5000), "Task2", ids)
except OSError as error:
    sys.exit(f"OSError: {error.strerror}")
"""


@pytest.mark.parametrize(("how", "code"), [("full", 1), ("kill", -signal.SIGKILL), ("well", 0)])
def test_disk_full_and_kill_leave_the_old_zip_or_the_new_one(tmp_path: Path, how: str, code: int) -> None:
    path = tmp_path / "run.zip"
    write_submission(path, IDS, VALUES, "Task2", IDS)
    old = path.read_bytes()
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), how], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    if how == "well":
        assert validate_submission(path, np.arange(5000), task="Task2").ok
    else:
        assert path.read_bytes() == old
    if how == "full":
        assert "OSError" in done.stderr
        assert [p.name for p in tmp_path.iterdir()] == ["run.zip"]


def test_a_failure_before_the_move_leaves_the_old_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.zip"
    write_submission(path, IDS, VALUES, "Task2", IDS)
    old = path.read_bytes()

    def fail(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_submission(path, IDS, VALUES / 2, "Task2", IDS)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["run.zip"]
