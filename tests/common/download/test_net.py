"""What answers mean, how long is waited, what progress shows, and what the first and last bytes of a file tell."""

import io
import zipfile
from pathlib import Path

import pytest

from common.download import meter
from common.download.content import check_file, expected_kinds, fault_of_end, kind_of
from common.download.meter import Meter
from common.download.net import Attempts, SourceError, Transient, retry_after, root_cause, shown
from common.errors import DataError
from tests.common.download.archive_files import rar_bytes, tar_bytes, zip_bytes
from tests.common.download.helpers import Told, get, random_bytes, remote
from tests.loopback.http_server import Served, Trouble, WebServer


def fault(wait: float | None = None) -> Transient:
    return Transient(SourceError("no", where="x", todo="again"), wait)


def test_waits_double_up_to_the_longest_and_progress_sets_them_back() -> None:
    told = Told()
    attempts = Attempts(told.net(tries=10), told.lines.append)
    for _ in range(9):
        attempts.failed(fault())
    assert told.waits == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    attempts.failed(fault(), progressed=True)
    assert told.waits[-1] == 1
    attempts.failed(fault(30))
    assert told.waits[-1] == 30
    with pytest.raises(SourceError):
        attempts.failed(fault(121))


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after(None, 0) is None
    assert retry_after("120", 0) == 120
    assert retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 0) == 60
    assert retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 90) == 0
    assert retry_after("soon", 0) is None


def test_addresses_are_shown_without_what_may_be_secret() -> None:
    assert shown("https://user:pass@host.org:8/a/b?token=1#x") == "https://host.org:8/a/b"


def test_the_cause_of_a_failure_is_the_systems_own() -> None:
    def fail() -> None:
        try:
            raise ConnectionRefusedError(111, "Connection refused")
        except OSError as error:
            raise ValueError("wrapped") from error

    with pytest.raises(ValueError, match="wrapped") as caught:
        fail()
    assert root_cause(caught.value) == "Connection refused"
    assert root_cause(ValueError("x")) == "the connection was cut"


def test_without_a_terminal_progress_is_a_line_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "LINE_SECONDS", 2.0)
    told, now = Told(), iter(range(100))
    net = told.net()
    object.__setattr__(net, "clock", lambda: float(next(now)))
    with Meter("train.parquet", 10_000_000, 2_000_000, net, told.lines.append) as shown_meter:
        for _ in range(4):
            shown_meter.add(1_000_000)
    assert told.lines == [
        "train.parquet: 4 MB of 10 MB, 1 MB/s, 6 s left",
        "train.parquet: 6 MB of 10 MB, 1 MB/s, 4 s left",
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Range": "bytes 5-9/10"},
        {"Content-Range": "bytes 0-699999/*"},
        {"Content-Range": "nonsense"},
        {},
    ],
)
def test_another_range_than_was_asked_for_is_not_believed(headers: dict[str, str], tmp_path: Path) -> None:
    data = random_bytes(300_000)
    with WebServer({"/f.bin": Served(data)}) as web:
        web.troubles["/f.bin"] = [Trouble(cut=200_000), Trouble(status=206, headers=headers)]
        told = Told()
        get(remote(web.address, "/f.bin"), tmp_path / "p", told)
    assert (tmp_path / "p").read_bytes() == data
    assert "another part of the file" in told.text


def test_a_file_that_comes_compressed_unasked_is_refused(tmp_path: Path) -> None:
    with WebServer({"/f.jsonl": Served(b"{}")}) as web:
        web.always["/f.jsonl"] = Trouble(status=200, headers={"Content-Encoding": "gzip"})
        with pytest.raises(SourceError, match="compressed"):
            get(remote(web.address, "/f.jsonl"), tmp_path / "p", Told())


def test_kinds_by_their_first_bytes() -> None:
    members = [("a", b"1")]
    for data, kind in (
        (zip_bytes(members), "zip"),
        (rar_bytes(members), "rar"),
        (tar_bytes(members, mode="w"), "tar"),
        (tar_bytes(members), "gzip"),
        (tar_bytes(members, mode="w:xz"), "xz"),
        (tar_bytes(members, mode="w:bz2"), "bzip2"),
        (b"PAR1", "parquet"),
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML>", "html"),
        (b'<?xml version="1.0"?>\n<!doctype html>', "html"),
        (b"<html lang=en>", "html"),
        (b'{"html": 1}', "other"),
        (b"", "other"),
    ):
        assert kind_of(data[:512]) == kind
    assert expected_kinds("a.zip.001") == ("zip",)
    assert expected_kinds("a.zip.002") is None
    assert expected_kinds("a.tar.gz") == ("gzip",)
    assert expected_kinds("a.jsonl") is None


def test_ends_of_files(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", random_bytes(100_000))
        archive.comment = b"x" * 60_000
    whole = {"a.zip": buffer.getvalue(), "a.parquet": b"PAR1....PAR1", "a.zip.002": b"anything", "a.txt": b""}
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
        assert fault_of_end(name, tmp_path / name) is None
        check_file(name, tmp_path / name)
    for name, data in (("a.zip", whole["a.zip"][:90_000]), ("a.parquet", b"PAR1...."), ("a.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="cut off"):
            check_file(name, tmp_path / name)
