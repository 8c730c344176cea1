"""One file over HTTP from a server that misbehaves: what comes is the server's file, whole, or an error."""

import errno
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.download import space, transfer
from common.download.net import Net, SourceError
from common.download.transfer import OVERLAP
from common.errors import DataError
from tests.common.download.helpers import Told, get, random_bytes, remote
from tests.loopback.http_server import Served, Trouble, WebServer

DATA = random_bytes(700_000)
SHA = hashlib.sha256(DATA).hexdigest()
OTHER = random_bytes(700_000, seed=1)
PATH = "/data/file.bin"


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer({PATH: Served(DATA)}) as server:
        yield server


def ranges(web: WebServer) -> list[str | None]:
    return [asked.headers.get("Range") for asked in web.gets(PATH)]


def test_a_file_comes_whole(web: WebServer, tmp_path: Path) -> None:
    part = tmp_path / "deep" / "file.bin.part"
    assert get(remote(web.address, PATH), part, Told()) == SHA
    assert part.read_bytes() == DATA
    assert sorted(path.name for path in part.parent.iterdir()) == ["file.bin.part", "file.bin.part.json"]
    assert ranges(web) == [None]


def test_it_resumes_after_ten_cuts_at_random_bytes(web: WebServer, tmp_path: Path) -> None:
    rng = random.Random(7)
    cuts = sorted(rng.sample(range(1, len(DATA)), 10))
    web.troubles[PATH] = [Trouble(cut=cut) for cut in cuts]
    told = Told()
    part = tmp_path / "file.bin.part"
    assert get(remote(web.address, PATH), part, told, told.net(tries=8)) == SHA
    assert part.read_bytes() == DATA
    starts = [0 if cut <= OVERLAP else cut - OVERLAP for cut in cuts]
    assert ranges(web) == [None, *(f"bytes={start}-" if start else None for start in starts)]
    assert len(told.waits) == 10
    assert "the connection was cut" in told.text


@pytest.mark.parametrize("seed", range(10))
def test_a_cut_at_any_byte_is_made_up_for_by_the_next_run(seed: int, web: WebServer, tmp_path: Path) -> None:
    cut = random.Random(seed).randrange(len(DATA))
    web.troubles[PATH] = [Trouble(cut=cut)]
    told, part = Told(), tmp_path / "file.bin.part"
    with pytest.raises(SourceError) as caught:
        get(remote(web.address, PATH), part, told, told.net(tries=1))
    assert caught.value.todo is not None
    assert part.read_bytes() == DATA[:cut] if part.exists() else cut == 0
    assert get(remote(web.address, PATH), part, Told()) == SHA
    assert part.read_bytes() == DATA
    if cut > OVERLAP:
        assert ranges(web)[-1] == f"bytes={cut - OVERLAP}-"


def test_a_server_that_ignores_range_is_read_from_the_start(web: WebServer, tmp_path: Path) -> None:
    web.files[PATH].ranges = False
    web.troubles[PATH] = [Trouble(cut=300_000), Trouble(cut=500_000)]
    part = tmp_path / "file.bin.part"
    assert get(remote(web.address, PATH), part, Told()) == SHA
    assert part.read_bytes() == DATA


@pytest.mark.parametrize("validators", ["both", "etag", "modified", "none"])
@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changes_between_tries_is_never_mixed(
    validators: str, if_range: bool, web: WebServer, tmp_path: Path
) -> None:
    served = web.files[PATH]
    served.etag, served.modified = validators in ("both", "etag"), validators in ("both", "modified")
    served.if_range = if_range
    mixed = DATA[:100_000] + OTHER[100_000:]  # the first bytes are the old ones

    def change() -> None:
        served.data, served.changed = mixed, served.changed + 5

    web.troubles[PATH] = [Trouble(cut=400_000), Trouble(before=change)]
    part = tmp_path / "file.bin.part"
    assert get(remote(web.address, PATH), part, Told()) == hashlib.sha256(mixed).hexdigest()
    assert part.read_bytes() == mixed


def test_a_change_that_only_the_bytes_show_is_seen(web: WebServer, tmp_path: Path) -> None:
    """The server says that nothing has changed; the end of the .part does not fit."""
    served = web.files[PATH]
    served.etag = False
    web.troubles[PATH] = [Trouble(cut=400_000), Trouble(before=lambda: setattr(served, "data", OTHER))]
    told, part = Told(), tmp_path / "file.bin.part"
    assert get(remote(web.address, PATH), part, told) == hashlib.sha256(OTHER).hexdigest()
    assert "the file has changed on the server" in told.text


def test_without_validators_it_starts_again(web: WebServer, tmp_path: Path) -> None:
    web.files[PATH].etag = web.files[PATH].modified = False
    web.troubles[PATH] = [Trouble(cut=400_000)]
    part = tmp_path / "file.bin.part"
    assert get(remote(web.address, PATH), part, Told()) == SHA
    assert ranges(web) == [None, None]


def test_without_validators_a_known_digest_lets_it_resume(web: WebServer, tmp_path: Path) -> None:
    web.files[PATH].etag = web.files[PATH].modified = False
    web.troubles[PATH] = [Trouble(cut=400_000)]
    part = tmp_path / "file.bin.part"
    assert get(remote(web.address, PATH, len(DATA), SHA), part, Told()) == SHA
    assert ranges(web) == [None, f"bytes={400_000 - OVERLAP}-"]


def test_a_whole_part_of_a_killed_run_is_not_fetched_again(web: WebServer, tmp_path: Path) -> None:
    web.troubles[PATH] = [Trouble(cut=len(DATA) - 1)]
    told, part = Told(), tmp_path / "file.bin.part"
    with pytest.raises(SourceError):
        get(remote(web.address, PATH), part, told, told.net(tries=1))
    with part.open("ab") as file:
        file.write(DATA[-1:])
    assert get(remote(web.address, PATH), part, Told()) == SHA
    assert ranges(web)[-1] == f"bytes={len(DATA) - OVERLAP}-"


def test_a_part_of_another_source_or_without_its_state_is_not_used(web: WebServer, tmp_path: Path) -> None:
    part = tmp_path / "file.bin.part"
    part.write_bytes(OTHER[:300_000])
    assert get(remote(web.address, PATH), part, Told()) == SHA
    part.write_bytes(DATA[:300_000])
    state = {"source": "another", "etag": web.files[PATH].tag, "modified": None, "total": len(DATA)}
    part.with_name("file.bin.part.json").write_text(json.dumps(state))
    assert get(remote(web.address, PATH), part, Told()) == SHA
    assert ranges(web) == [None, None]


@pytest.mark.parametrize(
    ("status", "what", "todo"),
    [
        (401, "asks for a login", "log in"),
        (403, "refuses access", "ask its owner"),
        (404, "has no such file", "another --source"),
        (410, "any more", "another --source"),
        (418, "answers with an error", "--source"),
    ],
)
def test_a_refusal_is_told_at_once(status: int, what: str, todo: str, web: WebServer, tmp_path: Path) -> None:
    web.troubles[PATH] = [Trouble(cut=300_000)]
    told, part = Told(), tmp_path / "file.bin.part"
    with pytest.raises(SourceError):
        get(remote(web.address, PATH), part, told, told.net(tries=1))
    web.troubles[PATH] = [Trouble(status=status)]
    with pytest.raises(SourceError) as caught:
        get(remote(web.address, PATH), part, Told())
    assert what in caught.value.what
    assert todo in (caught.value.todo or "")
    assert str(status) in str(caught.value.got)
    assert part.read_bytes() == DATA[:300_000]  # what came before is kept


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_error_is_tried_again(status: int, web: WebServer, tmp_path: Path) -> None:
    web.troubles[PATH] = [Trouble(status=status), Trouble(status=status)]
    told = Told()
    assert get(remote(web.address, PATH), tmp_path / "p", told) == SHA
    assert told.waits == [1.0, 2.0]


def test_the_server_says_how_long_to_wait(web: WebServer, tmp_path: Path) -> None:
    web.troubles[PATH] = [Trouble(status=429, headers={"Retry-After": "7"})]
    told = Told()
    assert get(remote(web.address, PATH), tmp_path / "p", told) == SHA
    assert told.waits == [7.0]
    web.troubles[PATH] = [Trouble(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(SourceError, match="no more requests") as caught:
        get(remote(web.address, PATH), tmp_path / "p", told)
    assert "in 60 minutes" in (caught.value.todo or "")


def test_errors_that_stay_end_with_what_to_do(web: WebServer, tmp_path: Path) -> None:
    web.always[PATH] = Trouble(status=500)
    told = Told()
    with pytest.raises(SourceError, match="in trouble") as caught:
        get(remote(web.address, PATH), tmp_path / "p", told)
    assert "run the same command again" in (caught.value.todo or "")
    assert told.waits == [1.0, 2.0, 4.0]
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_in_place_of_the_file_is_not_taken(web: WebServer, tmp_path: Path) -> None:
    for name in ("a.zip", "b.parquet", "c.jsonl", "d.zip.002", "e.rar"):
        path = f"/data/{name}"
        web.files[path], web.always[path] = Served(DATA), Trouble(page=True)
        with pytest.raises(SourceError, match="an HTML page came") as caught:
            get(remote(web.address, path), tmp_path / name, Told())
        assert caught.value.todo
    assert list(tmp_path.iterdir()) == []


def test_a_page_does_not_take_the_place_of_what_has_come(web: WebServer, tmp_path: Path) -> None:
    web.troubles[PATH] = [Trouble(cut=300_000), Trouble(page=True)]
    part = tmp_path / "file.bin.part"
    with pytest.raises(SourceError, match="an HTML page came"):
        get(remote(web.address, PATH), part, Told())
    assert part.read_bytes() == DATA[:300_000]


def test_a_file_that_is_not_what_its_name_says_is_not_taken(web: WebServer, tmp_path: Path) -> None:
    for name in ("a.zip", "b.parquet", "e.rar", "f.tar.gz"):
        web.files[f"/data/{name}"] = Served(DATA)
        with pytest.raises(SourceError, match="does not hold"):
            get(remote(web.address, f"/data/{name}"), tmp_path / name, Told())
    web.files["/data/z.zip"] = Served(b"PK\x03\x04" + DATA)
    with pytest.raises(SourceError, match="came damaged"):
        get(remote(web.address, "/data/z.zip"), tmp_path / "z", Told())
    web.files["/data/empty.zip"] = Served(b"")
    with pytest.raises(SourceError, match="empty"):
        get(remote(web.address, "/data/empty.zip"), tmp_path / "z", Told())
    assert list(tmp_path.iterdir()) == []


def test_a_slow_drip_is_given_up_and_gone_on_with(web: WebServer, tmp_path: Path) -> None:
    web.troubles[PATH] = [Trouble(cut=200_000), Trouble(drip=(5_000, 0.02))]
    told = Told()
    net = told.net(tries=8, slow_rate=1e6, slow_after=0.1)
    assert get(remote(web.address, PATH), tmp_path / "p", told, net) == SHA
    assert "the transfer is too slow" in told.text
    assert None not in ranges(web)[1:]  # what had come by then was kept


def test_a_server_that_stands_still_is_given_up(web: WebServer, tmp_path: Path) -> None:
    web.always[PATH] = Trouble(drip=(1000, 0.6))
    told = Told()
    with pytest.raises(SourceError, match="cannot be reached") as caught:
        get(remote(web.address, PATH), tmp_path / "p", told, told.net(tries=1, read=0.2))
    assert "no answer within 0.2 s" in str(caught.value.got)


@pytest.mark.parametrize("stated", [5000, -5000])
def test_a_wrong_length_is_not_accepted(stated: int, web: WebServer, tmp_path: Path) -> None:
    web.always[PATH] = Trouble(stated=stated)
    with pytest.raises(SourceError) as caught:
        get(remote(web.address, PATH, len(DATA)), tmp_path / "p", Told())
    assert caught.value.expected == "700,000 bytes"


def test_a_length_that_is_not_the_listed_one_is_not_accepted(web: WebServer, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="another length") as caught:
        get(remote(web.address, PATH, len(DATA) + 1), tmp_path / "p", Told())
    assert "700,000" in str(caught.value.got)


def test_a_wrong_digest_is_tried_again_then_refused(web: WebServer, tmp_path: Path) -> None:
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    right = web.files[PATH]
    web.files[PATH] = Served(wrong)
    web.troubles[PATH] = [Trouble(), Trouble(before=lambda: web.files.update({PATH: right}))]
    told = Told()
    assert get(remote(web.address, PATH, len(DATA), SHA), tmp_path / "p", told) == SHA
    assert "came damaged" in told.text
    with pytest.raises(SourceError, match="came damaged"):
        get(remote(web.address, PATH, len(DATA), "0" * 64), tmp_path / "q", told)
    assert not (tmp_path / "q").exists()


def test_a_cut_of_a_file_without_length_is_seen_where_its_end_is_known(web: WebServer, tmp_path: Path) -> None:
    path, body = "/data/t.parquet", b"PAR1" + DATA + b"PAR1"
    web.files[path] = Served(body, length=False)
    web.troubles[path] = [Trouble(cut=200_000)]
    assert get(remote(web.address, path), tmp_path / "p", Told()) == hashlib.sha256(body).hexdigest()


def test_the_token_goes_to_no_other_server_and_into_no_message(web: WebServer, tmp_path: Path) -> None:
    with WebServer({PATH: Served(DATA)}) as store:
        store_address = store.address.replace("127.0.0.1", "localhost")
        web.troubles[PATH] = [Trouble(status=302, headers={"Location": f"{store_address}{PATH}?signature=s3cr3t"})] * 2
        file = remote(web.address, PATH, Authorization="Bearer hf_t0ken")
        assert get(file, tmp_path / "p", Told()) == SHA
        assert web.asked[0].headers["Authorization"] == "Bearer hf_t0ken"
        assert "Authorization" not in store.asked[0].headers
        store.always[PATH] = Trouble(status=403)
        with pytest.raises(SourceError) as caught:
            get(file, tmp_path / "q", Told())
    told = f"{caught.value.block()} {file!r}"
    assert "hf_t0ken" not in told
    assert "s3cr3t" not in told


def test_no_server_is_one_error(tmp_path: Path) -> None:
    with WebServer() as gone:
        address = gone.address
    told = Told()
    with pytest.raises(SourceError, match="cannot be reached") as caught:
        get(remote(address, PATH), tmp_path / "p", told)
    assert "refused" in str(caught.value.got)
    assert len(told.waits) == 3


def test_redirects_without_end_and_odd_addresses_are_one_error(web: WebServer, tmp_path: Path) -> None:
    web.always[PATH] = Trouble(status=302, headers={"Location": PATH})
    with pytest.raises(SourceError, match="too many redirects"):
        get(remote(web.address, PATH), tmp_path / "p", Told())
    with pytest.raises(SourceError, match="not an address"):
        get(remote("ftp://127.0.0.1", PATH), tmp_path / "p", Told())


def test_a_disk_without_room_is_told_before_the_first_byte(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda _: space.RESERVE + len(DATA) - 1)
    with pytest.raises(DataError, match="too little room"):
        get(remote(web.address, PATH), tmp_path / "p", Told())
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_came(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = transfer._put, [0]  # pyright: ignore[reportPrivateUsage]

    def full(file: object, part: Path, data: bytes, meter: object) -> None:
        if written[0] > 300_000:
            with space.disk_errors(part):
                raise OSError(errno.ENOSPC, "No space left on device")
        written[0] += len(data)
        real(file, part, data, meter)  # pyright: ignore[reportArgumentType]

    part = tmp_path / "file.bin.part"
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "_put", full)
        with pytest.raises(DataError, match="the disk is full"):
            get(remote(web.address, PATH), part, Told())
    assert 300_000 < part.stat().st_size < len(DATA)
    assert get(remote(web.address, PATH), part, Told()) == SHA
    assert ranges(web)[-1] is not None


def test_an_interrupt_keeps_what_came(web: WebServer, tmp_path: Path) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    web.troubles[PATH] = [Trouble(cut=400_000)]
    part = tmp_path / "file.bin.part"
    with pytest.raises(KeyboardInterrupt):
        get(remote(web.address, PATH), part, Told(), Net(sleep=interrupt))
    assert part.read_bytes() == DATA[:400_000]
    assert get(remote(web.address, PATH), part, Told()) == SHA
