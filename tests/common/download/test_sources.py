"""Hub, Kaggle and web pages as sources, each against its server on the loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.download import kaggle_source
from common.download.command import Options, download, make_setup
from common.download.net import SourceError
from common.download.parts import ARCHIVE, Found, Offer, Part, Want
from common.download.source import Setup
from common.download.sources import opener
from common.errors import UserError
from tests.common.download.archive_files import tree, zip_bytes
from tests.common.download.helpers import Told, random_bytes
from tests.loopback.http_server import Served, Trouble, WebServer
from tests.loopback.hub_server import HubServer, path_of
from tests.loopback.kaggle_server import Contest, KaggleServer

REPO = "MMDocIR/MMDocIR-Challenge"
ROWS = b'{"a": 1}\n' * 20_000
PICTURES = {f"pics/{number}.jpg": random_bytes(300, seed=number) for number in range(5)}
TOKEN = "hf_S3cretS3cretS3cret"  # noqa: S105, a dummy


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with HubServer(
        {REPO: {"rows.jsonl": ROWS, "in/pics.zip": zip_bytes(list(PICTURES.items())), "README.md": b"x"}}, token=TOKEN
    ) as server:
        yield server


def parts(*offers: Offer) -> list[Part]:
    return [
        Part("rows", "the rows", "all", (Want("t", (r"rows\.jsonl",)),), offers),
        Part("pics", "pictures", "all", (Want("pics", (rf"pics{ARCHIVE}", r"pics/.+"), folder=True),), offers),
    ]


def run(made: list[Part], root: Path, told: Told, environ: dict[str, str], **options: object) -> None:
    setup = make_setup(environ, root / "home", told.net(tries=2), told.lines.append)
    download(made, root / "data", Options(**options), setup, lambda _: [])  # pyright: ignore[reportArgumentType]


def there(root: Path) -> dict[str, bytes]:
    found = tree(root / "data") if (root / "data").is_dir() else {}
    return {name: data for name, data in found.items() if not name.startswith(".downloads/")}


WHOLE = {"t/rows.jsonl": ROWS, **PICTURES}


def test_a_data_set_of_the_hub(hub: HubServer, tmp_path: Path) -> None:
    told = Told()
    run(parts(Offer("hub", REPO)), tmp_path, told, hub.environ())
    assert there(tmp_path) == WHOLE
    assert f"hub {REPO}@0123456789ab" in told.text  # the commit is in the record
    assert not any("Authorization" in asked.headers for asked in hub.asked)


def test_the_hubs_digest_is_believed_more_than_its_bytes(hub: HubServer, tmp_path: Path) -> None:
    path = path_of(REPO, "rows.jsonl")
    hub.files[path] = Served(ROWS[:-1] + b" ")
    told = Told()
    with pytest.raises(SourceError, match="came damaged"):
        run(parts(Offer("hub", REPO)), tmp_path, told, hub.environ(), only="rows")
    assert there(tmp_path) == {}
    hub.files[path] = Served(ROWS, etag=False, modified=False)
    hub.troubles[path] = [Trouble(cut=100_000)]
    run(parts(Offer("hub", REPO)), tmp_path, told, hub.environ(), only="rows")
    assert there(tmp_path) == {"t/rows.jsonl": ROWS}
    assert "Range" in hub.gets(path)[-1].headers  # the digest is known: it may go on without an ETag


def test_a_gated_data_set_asks_for_the_token_and_never_shows_it(hub: HubServer, tmp_path: Path) -> None:
    hub.gated.add(REPO)
    told = Told()
    with pytest.raises(SourceError, match="granted by the owner") as caught:
        run(parts(Offer("hub", REPO)), tmp_path, told, hub.environ(), only="rows")
    assert f"{hub.address}/datasets/{REPO}" in (caught.value.todo or "")
    (tmp_path / "home" / ".cache" / "huggingface").mkdir(parents=True)
    (tmp_path / "home" / ".cache" / "huggingface" / "token").write_text(f"{TOKEN}\n")
    run(parts(Offer("hub", REPO)), tmp_path, told, hub.environ(), only="rows")
    hub.always[path_of(REPO, "in/pics.zip")] = Trouble(status=403)
    with pytest.raises(SourceError) as refused:
        run(parts(Offer("hub", REPO)), tmp_path, told, {**hub.environ(), "HF_TOKEN": TOKEN}, only="pics")
    assert hub.gets(path_of(REPO, "rows.jsonl"))[-1].headers["Authorization"] == f"Bearer {TOKEN}"
    shown = told.text + caught.value.block() + refused.value.block()
    assert TOKEN not in shown
    assert all(TOKEN.encode() not in data for data in tree(tmp_path / "data").values())
    assert TOKEN not in repr(Setup(told.net(), told.lines.append, {}, hub.address, TOKEN))


def test_what_the_hub_answers_is_told_with_what_to_do(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(offer: Offer) -> str:
        told = Told()
        with pytest.raises(SourceError) as caught:
            run(parts(offer), tmp_path, told, hub.environ(), only="rows")
        assert caught.value.todo
        return caught.value.block() + told.text

    assert "no such data set, or a private one" in refusal(Offer("hub", "nobody/nothing"))
    for status, what in ((500, "in trouble"), (429, "in trouble"), (401, "refuses access"), (403, "refuses access")):
        hub.down = status
        assert what in refusal(Offer("hub", REPO))
    hub.down = None
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal(Offer("hub", REPO))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    address = hub.address
    hub.__exit__(None, None, None)
    with HubServer({}) as other:  # the fixture's own exit wants a server
        hub._http, hub._thread = other._http, other._thread  # pyright: ignore[reportPrivateUsage]
        told = Told()
        with pytest.raises(SourceError, match="cannot be reached"):
            run(parts(Offer("hub", REPO)), tmp_path, told, {"HF_ENDPOINT": address}, only="rows")


def kaggle(files: dict[str, bytes], **more: object) -> KaggleServer:
    return KaggleServer({"the-contest": Contest(files, **more), "someone/copy": Contest(files)})  # pyright: ignore[reportArgumentType]


def test_files_of_a_competition_one_by_one(tmp_path: Path) -> None:
    files = {"a/rows.jsonl": ROWS, "pics.zip": zip_bytes(list(PICTURES.items()))}
    with kaggle(files) as server:
        told = Told()
        run(parts(Offer("kaggle", "the-contest")), tmp_path, told, environ(server, tmp_path))
        assert there(tmp_path) == WHOLE
        assert server.methods().count("DownloadDataFile") == 2
        run(parts(Offer("kaggle", "the-contest")), tmp_path, told, environ(server, tmp_path))
        assert server.methods().count("DownloadDataFile") == 2


def test_a_file_that_kaggle_zips_comes_as_itself_and_a_copy_only_when_asked_for(tmp_path: Path) -> None:
    with kaggle({"rows.jsonl": ROWS}, zipped=("rows.jsonl",)) as server:
        told = Told()
        offers = (Offer("kaggle", "the-contest"), Offer("mirror", "someone/copy"))
        run(parts(*offers), tmp_path, told, environ(server, tmp_path), only="rows")
        assert there(tmp_path) == {"t/rows.jsonl": ROWS}
        assert "DownloadDataset" not in server.methods()
        run(parts(*offers), tmp_path / "b", told, environ(server, tmp_path), only="rows", source="mirror")
        assert there(tmp_path / "b") == {"t/rows.jsonl": ROWS}
        assert "DownloadDataset" in server.methods()


def test_of_very_many_files_the_zip_of_all_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle_source, "MANY", 3)
    with kaggle({"x/rows.jsonl": ROWS, **{f"x/{name}": data for name, data in PICTURES.items()}}) as server:
        told = Told()
        run(parts(Offer("kaggle", "the-contest")), tmp_path, told, environ(server, tmp_path))
        assert there(tmp_path) == WHOLE
        assert server.methods().count("DownloadDataFiles") == 1
    assert not list((tmp_path / "data" / ".downloads").glob("*.zip"))


def test_what_kaggle_answers_sends_to_the_next_source(tmp_path: Path) -> None:
    with kaggle({"rows.jsonl": ROWS}, accepted=False) as server, WebServer({"/d/rows.jsonl": Served(ROWS)}) as web:
        offers = (Offer("kaggle", "the-contest"), Offer("pages", f"{web.address}/d/"))
        told = Told()
        with pytest.raises(UserError) as caught:
            run(parts(offers[0]), tmp_path, told, environ(server, tmp_path), only="rows")
        assert "rules" in (caught.value.todo or "")
        run(parts(*offers), tmp_path, told, environ(server, tmp_path), only="rows")
        assert there(tmp_path) == {"t/rows.jsonl": ROWS}
        run(parts(*offers), tmp_path / "b", told, server.environ(tmp_path / "home", login="none"), only="rows")
        assert there(tmp_path / "b") == {"t/rows.jsonl": ROWS}
    assert "no Kaggle credentials" in told.text


def environ(server: KaggleServer, folder: Path) -> dict[str, str]:
    return server.environ(folder / "home")


def test_a_single_file_by_its_address_and_a_page_that_lists_nothing(tmp_path: Path) -> None:
    with WebServer(
        {"/x/rows.jsonl": Served(ROWS), "/empty/": Served(b"<html>nothing</html>", kind="text/html")}
    ) as web:
        told = Told()
        opened = opener(make_setup({}, tmp_path, told.net(), told.lines.append))
        single = opened(Offer("pages", f"{web.address}/x/rows.jsonl"))
        assert list(single.files()) == [Found("rows.jsonl")]
        assert single.size(single.files()[0]) == len(ROWS)
        web.head = False
        assert opened(Offer("pages", f"{web.address}/x/rows.jsonl")) is single
        other = opened(Offer("pages", f"{web.address}/x/"))
        assert [other.size(file) for file in other.files()] == [None]
        with pytest.raises(SourceError, match="lists no files"):
            opened(Offer("pages", f"{web.address}/empty/")).files()
