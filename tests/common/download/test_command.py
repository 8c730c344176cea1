"""`download` against servers on the loopback: parts, sources in order, the record, archives, folders, locks, disks."""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.download import command, space
from common.download.command import Options, download, make_setup, moved_pages
from common.download.fetcher import Choices
from common.download.journal import new_of, old_of, part_of
from common.download.net import SourceError
from common.download.parts import ARCHIVE, Offer, Part, Want
from common.download.record import Record, entry
from common.download.space import locked
from common.errors import ConfigError, DataError, UserError
from tests.common.download.archive_files import rar_bytes, split_bytes, tar_bytes, tree, zip_bytes
from tests.common.download.helpers import Told, random_bytes
from tests.loopback.http_server import Served, Trouble, WebServer

ROWS = b'{"a": 1}\n' * 20_000
PICTURES = [(f"pics/{number}.jpg", random_bytes(3000, seed=number)) for number in range(1, 8)]
INSIDE = {name.removeprefix("pics/"): data for name, data in PICTURES}
SHARDS = {f"shards/{n}.parquet": b"PAR1" + random_bytes(50_000, n) + b"PAR1" for n in range(3)}


@pytest.fixture
def web() -> Iterator[WebServer]:
    files = {"/d/rows.jsonl": ROWS, "/d/in/pics.zip": zip_bytes(PICTURES), "/d/README.md": b"hello"}
    files |= {f"/d/{name}": data for name, data in SHARDS.items()}
    with WebServer({path: Served(data) for path, data in files.items()}) as server:
        yield server


def parts(web: WebServer, *, first: str = "") -> list[Part]:
    """Three parts: a table, a folder of pictures, shards that belong together; `first`: a source tried before."""
    offers = (*((Offer("pages", first),) if first else ()), Offer("pages", f"{web.address}/d/"))
    mirror = Offer("mirror", "someone/copy")
    return [
        Part("rows", "the rows", "tables", (Want("t", (r"rows\.jsonl", r"lines\.jsonl")),), (*offers, mirror)),
        Part("pics", "pictures", "images", (Want("i/pics", (rf"pics{ARCHIVE}", r"pics/.+"), folder=True),), offers),
        Part("shards", "shards", "tables", (Want("t/shards", (r"shards/[^/]+\.parquet",), many=True),), offers),
    ]


def run(made: list[Part], root: Path, told: Told | None = None, *, tries: int = 2, **options: object) -> list[str]:
    """Download, and return the lines."""
    told = told or Told()
    setup = make_setup({}, root, told.net(tries=tries), told.lines.append)
    download(made, root, Options(**options), setup, lambda _: ["checked"])  # pyright: ignore[reportArgumentType]
    return told.lines


def there(root: Path) -> dict[str, bytes]:
    """Return the files under a root, but those of the download itself."""
    return {name: data for name, data in tree(root).items() if not name.startswith(".downloads/")}


WHOLE = {"t/rows.jsonl": ROWS, **{f"t/{name}": data for name, data in SHARDS.items()}} | {
    f"i/pics/{name}": data for name, data in INSIDE.items()
}


def test_all_parts_come_and_a_second_run_asks_nobody(web: WebServer, tmp_path: Path) -> None:
    made = parts(web)
    lines = run(made, tmp_path)
    assert there(tmp_path) == WHOLE
    assert lines[-1] == "checked"
    assert any("to download: 3" in line and "free in" in line for line in lines)
    asked = len(web.asked)
    lines = run(made, tmp_path, verify=True)
    assert len(web.asked) == asked
    assert sum("as when" in line for line in lines) == 5
    body = json.loads((tmp_path / ".downloads" / "record.json").read_text())
    assert set(body["files"]) == {"t/rows.jsonl", "i/pics", *(f"t/{name}" for name in SHARDS)}
    assert body["coming"] == {}


def test_sizes_are_shown_before_anything_is_fetched_and_a_dry_run_writes_nothing(
    web: WebServer, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    lines = run(parts(web), root, dry_run=True)
    assert [line.split()[0] for line in lines] == ["rows", "pics", "shards", "to"]
    assert "180 kB" in lines[0]
    assert f"pages {web.address}/d/" in lines[0]
    assert "3 files" in lines[2]
    assert not root.exists()
    assert {asked.method for asked in web.asked if "rows" in asked.path} == {"HEAD"}


def test_what_was_cut_goes_on_at_the_next_run(web: WebServer, tmp_path: Path) -> None:
    web.always["/d/rows.jsonl"] = Trouble(cut=150_000)
    with pytest.raises(SourceError, match="the connection was cut") as caught:
        run(parts(web), tmp_path, tries=1)
    assert caught.value.todo is not None
    kept = there(tmp_path)
    assert kept.pop("t/rows.jsonl.part") == ROWS[:150_000]
    del kept["t/rows.jsonl.part.json"]
    assert kept == {name: data for name, data in WHOLE.items() if name != "t/rows.jsonl"}  # the others came
    web.always.clear()
    run(parts(web), tmp_path)
    assert there(tmp_path) == WHOLE
    assert web.gets("/d/rows.jsonl")[-1].headers["Range"].startswith("bytes=")


def test_a_file_that_changed_here_is_told_and_can_be_had_again(web: WebServer, tmp_path: Path) -> None:
    run(parts(web), tmp_path)
    (tmp_path / "t" / "rows.jsonl").write_bytes(ROWS + b"x")
    with pytest.raises(DataError, match="has changed since") as caught:
        run(parts(web), tmp_path)
    assert "t/rows.jsonl" in str(caught.value.where)
    assert "--again" in (caught.value.todo or "")
    run(parts(web), tmp_path, only="rows", again=True)
    assert there(tmp_path) == WHOLE


@pytest.mark.parametrize("verify", [False, True])
def test_a_picture_that_changed_here_is_told(verify: bool, web: WebServer, tmp_path: Path) -> None:
    run(parts(web), tmp_path)
    (tmp_path / "i" / "pics" / "mine.txt").write_text("beside them")
    path = tmp_path / "i" / "pics" / "3.jpg"
    path.write_bytes(bytes(3000) if verify else b"short")
    with pytest.raises(DataError, match="has changed since") as caught:
        run(parts(web), tmp_path, verify=verify)
    assert "3.jpg" in str(caught.value.got)
    path.unlink()
    with pytest.raises(DataError, match=r"3\.jpg: absent"):
        run(parts(web), tmp_path)
    run(parts(web), tmp_path, only="pics", again=True)
    assert there(tmp_path) == WHOLE


def test_a_source_that_gives_another_file_than_at_first_is_refused(web: WebServer, tmp_path: Path) -> None:
    run(parts(web), tmp_path)
    (tmp_path / "t" / "rows.jsonl").unlink()
    web.files["/d/rows.jsonl"] = Served(ROWS[:-1] + b" ")
    with pytest.raises(DataError, match="another file than when it was first downloaded") as caught:
        run(parts(web), tmp_path)
    assert "--accept-changes" in (caught.value.todo or "")
    assert not (tmp_path / "t" / "rows.jsonl").exists()
    run(parts(web), tmp_path, choices=Choices(accept_changes=True))
    assert (tmp_path / "t" / "rows.jsonl").read_bytes() == ROWS[:-1] + b" "
    assert len([asked for asked in web.gets("/d/rows.jsonl") if "Range" not in asked.headers]) == 2
    run(parts(web), tmp_path)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_the_next_source_is_tried(status: int, web: WebServer, tmp_path: Path) -> None:
    with WebServer() as first:
        first.always["/d/"] = Trouble(status=status)
        first.files["/d/"] = Served(b"")
        lines = run(parts(web, first=f"{first.address}/d/"), tmp_path, only="rows,pics")
        listings = len(first.gets("/d/"))
    assert (tmp_path / "t" / "rows.jsonl").read_bytes() == ROWS
    assert any(line.startswith(f"not from pages {first.address}") for line in lines)
    assert listings == (2 if status in (429, 500) else 1)  # asked for once, not once a part


def test_a_source_that_fails_on_the_way_is_left_for_the_next(web: WebServer, tmp_path: Path) -> None:
    with WebServer({"/d/rows.jsonl": Served(ROWS)}) as first:
        first.always["/d/rows.jsonl"] = Trouble(cut=100_000)
        lines = run(parts(web, first=f"{first.address}/d/"), tmp_path, only="rows")
    assert (tmp_path / "t" / "rows.jsonl").read_bytes() == ROWS
    assert any("trying" in line for line in lines)


def test_when_no_source_has_it_each_reason_and_remedy_is_told(web: WebServer, tmp_path: Path) -> None:
    web.always["/d/rows.jsonl"] = Trouble(status=403)
    del web.files["/d/in/pics.zip"]
    with pytest.raises(UserError) as caught:
        run(parts(web), tmp_path)
    text = caught.value.block()
    assert "2 parts could not be downloaded" in text
    assert "refuses access (403" in text
    assert "the source does not have it (README.md" in text
    assert text.count("do: ") == 2
    with pytest.raises(UserError, match=r"2 parts could not|does not have it"):
        run(parts(web), tmp_path / "dry", dry_run=True)
    assert there(tmp_path) == {f"t/{name}": data for name, data in SHARDS.items()}


def test_a_page_in_place_of_the_zip_is_told(web: WebServer, tmp_path: Path) -> None:
    web.always["/d/in/pics.zip"] = Trouble(page=True)
    with pytest.raises(SourceError, match=r"an HTML page|another length") as caught:
        run(parts(web), tmp_path, only="pics")
    assert caught.value.todo
    assert there(tmp_path) == {}


def test_choices_of_parts(web: WebServer, tmp_path: Path) -> None:
    made = parts(web)
    for only, names in ((" Rows ,", {"t"}), ("images", {"i"}), ("tables", {"t"}), ("all", {"t", "i"})):
        run(made, tmp_path / only.strip(), only=only)
        assert {name.split("/")[0] for name in there(tmp_path / only.strip())} == names
    with pytest.raises(ConfigError, match="did you mean 'rows'"):
        run(made, tmp_path, only="row")
    with pytest.raises(ConfigError, match="no part is named"):
        run(made, tmp_path, only=",")
    with pytest.raises(SourceError, match="not offered by this source"):
        run(made, tmp_path, only="pics", source="mirror")
    none = [part for part in made if part.name != "rows"]
    with pytest.raises(SourceError, match="not offered by this source"):
        run(none, tmp_path, source="mirror")
    with pytest.raises(UserError, match="no Kaggle credentials"):  # of the rows alone: the others are left out
        run(made, tmp_path, source="mirror")
    with pytest.raises(ConfigError, match="not an address"):
        moved_pages(made, "ftp://x")
    moved = moved_pages(made, "http://elsewhere/x")
    assert {offer.address for part in moved for offer in part.offers} == {"http://elsewhere/x/", "someone/copy"}
    assert len(command.parts_table(made)) == 4


def test_two_downloads_into_one_folder_are_refused(web: WebServer, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    started, end = context.Event(), context.Event()

    def hold() -> None:
        with locked(tmp_path):
            started.set()
            end.wait(30)

    other = context.Process(target=hold)
    other.start()
    assert started.wait(30)
    with pytest.raises(DataError, match="another download is at work"):
        run(parts(web), tmp_path)
    assert web.asked == []
    other.kill()  # the system lets go of the lock
    other.join()
    run(parts(web), tmp_path, only="rows")


def test_no_room_is_told_before_anything_is_fetched(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda _: space.RESERVE + 300_000)
    with pytest.raises(DataError, match="too little room for the download") as caught:
        run(parts(web), tmp_path)
    assert "--only" in (caught.value.todo or "")
    assert {asked.path for asked in web.asked if asked.method == "GET"} <= {"/d/", "/d/in/", "/d/shards/"}


@pytest.mark.parametrize("form", ["pics.tar.gz", "pics.rar"])
def test_other_archives(form: str, web: WebServer, tmp_path: Path) -> None:
    del web.files["/d/in/pics.zip"]
    web.files[f"/d/{form}"] = Served(tar_bytes(PICTURES) if form.endswith("gz") else rar_bytes(PICTURES))
    run(parts(web), tmp_path, only="pics", choices=Choices(keep_archives=True))
    kept = there(tmp_path)
    assert kept.pop(f"i/pics.download/{form}") == web.files[f"/d/{form}"].data
    assert kept == {f"i/pics/{name}": data for name, data in INSIDE.items()}


def test_an_archive_in_parts_is_resumed_part_by_part(web: WebServer, tmp_path: Path) -> None:
    paths = split_bytes(web.files.pop("/d/in/pics.zip").data, 3, tmp_path, "pics.zip")
    web.files |= {f"/d/{path.name}": Served(path.read_bytes()) for path in paths}
    web.troubles["/d/pics.zip.002"] = [Trouble(status=404)]
    root = tmp_path / "root"
    with pytest.raises(SourceError, match="no such file"):
        run(parts(web), root, only="pics")
    web.asked.clear()
    run(parts(web), root, only="pics")
    assert there(root) == {f"i/pics/{name}": data for name, data in INSIDE.items()}
    assert [asked.sent for asked in web.gets("/d/pics.zip.001")] == [0]


def test_parts_of_two_versions_are_not_mixed(web: WebServer, tmp_path: Path) -> None:
    data = web.files.pop("/d/in/pics.zip").data
    other = zip_bytes([(name, bytes(reversed(content))) for name, content in PICTURES])
    assert len(other) == len(data)
    versions = []
    for name, content in (("a", data), ("b", other)):
        (tmp_path / name).mkdir()
        paths = split_bytes(content, 3, tmp_path / name, "pics.zip")
        versions.append({f"/d/{path.name}": Served(path.read_bytes(), changed=len(versions)) for path in paths})
    web.files |= versions[0]
    web.troubles["/d/pics.zip.003"] = [Trouble(status=404)]
    root = tmp_path / "root"
    with pytest.raises(SourceError):
        run(parts(web), root, only="pics")
    web.files |= versions[1]
    run(parts(web), root, only="pics")
    assert there(root) == {f"i/pics/{name}": data[::-1] for name, data in INSIDE.items()}


def test_a_damaged_archive_is_downloaded_anew_and_a_hostile_one_never_unpacked(web: WebServer, tmp_path: Path) -> None:
    good = web.files["/d/in/pics.zip"].data
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    web.files["/d/in/pics.zip"] = Served(bytes(damaged))
    with pytest.raises(DataError, match="the archive is damaged"):
        run(parts(web), tmp_path, only="pics")
    assert not (tmp_path / "i" / "pics").exists()
    web.files["/d/in/pics.zip"] = Served(good)
    run(parts(web), tmp_path, only="pics")
    assert there(tmp_path) == {f"i/pics/{name}": data for name, data in INSIDE.items()}
    web.files["/d/in/pics.zip"] = Served(zip_bytes([("../../escape.jpg", b"x"), *PICTURES]))
    with pytest.raises(DataError, match="the archive is refused"):
        run(parts(web), tmp_path, only="pics", again=True)
    kept = {name for name in there(tmp_path) if ".download/" not in name}
    assert kept == {f"i/pics/{name}" for name in INSIDE}  # the old state


def test_loose_files_of_a_folder_come_together_and_only_those_that_are_missing(web: WebServer, tmp_path: Path) -> None:
    del web.files["/d/in/pics.zip"]
    web.files |= {f"/d/{name}": Served(data) for name, data in PICTURES}
    web.troubles["/d/pics/5.jpg"] = [Trouble(status=404)]
    with pytest.raises(SourceError):
        run(parts(web), tmp_path, only="pics")
    assert not (tmp_path / "i" / "pics").exists()
    (new_of(tmp_path / "i" / "pics") / "stray.jpg").write_bytes(b"of another list")
    web.asked.clear()
    run(parts(web), tmp_path, only="pics")
    assert there(tmp_path) == {f"i/pics/{name}": data for name, data in INSIDE.items()}
    assert len([asked for asked in web.asked if asked.method == "GET" and asked.path.endswith(".jpg")]) == 3


def test_shards_take_their_places_together(web: WebServer, tmp_path: Path) -> None:
    web.troubles["/d/shards/2.parquet"] = [Trouble(status=404)]
    with pytest.raises(SourceError):
        run(parts(web), tmp_path, only="shards")
    assert [name for name in there(tmp_path) if name.endswith(".parquet")] == []
    run(parts(web), tmp_path, only="shards")
    assert there(tmp_path) == {f"t/{name}": data for name, data in SHARDS.items()}


def test_names_in_a_list_of_links_stay_below_it(web: WebServer, tmp_path: Path) -> None:
    del web.files["/d/in/pics.zip"]
    links = [
        "pics/1.jpg",
        "pics/..%2f..%2fescape.jpg",
        "../up.jpg",
        "/etc/x.jpg",
        "http://elsewhere/pics/9.jpg",
        "mailto:x",
    ]
    page = "".join(f'<a href="{link}">x</a>' for link in links).encode()
    web.files["/d/"] = Served(page, kind="text/html")
    web.files |= {"/d/pics/1.jpg": Served(b"1"), "/d/pics/../../escape.jpg": Served(b"2")}
    with pytest.raises(DataError, match="is not safe"):
        run(parts(web), tmp_path, only="pics")
    assert there(tmp_path) == {}


def test_files_of_the_user_are_left_alone(web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "i" / "pics").mkdir(parents=True)
    (tmp_path / "i" / "pics" / "mine.jpg").write_bytes(b"mine")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "lines.jsonl").write_bytes(b"mine too")  # the other name of the rows
    for again in (False, True):
        lines = run(parts(web), tmp_path, again=again)
        assert sum("not from this command, left as it is" in line for line in lines) == 2
    assert there(tmp_path)["t/lines.jsonl"] == b"mine too"
    assert "t/rows.jsonl" not in there(tmp_path)
    assert there(tmp_path)["i/pics/mine.jpg"] == b"mine"


def test_a_folder_that_is_a_link_to_another_disk_is_left_or_replaced_but_never_emptied(
    web: WebServer, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    (tmp_path / "root" / "i").mkdir(parents=True)
    (tmp_path / "root" / "i" / "pics").symlink_to(elsewhere)
    run(parts(web), tmp_path / "root", only="pics")
    assert tree(tmp_path / "root" / "i") == {f"pics/{name}": data for name, data in INSIDE.items()}
    assert elsewhere.is_dir()
    assert not old_of(tmp_path / "root" / "i" / "pics").is_symlink()


def test_what_came_already_is_not_counted_again(web: WebServer, tmp_path: Path) -> None:
    def needed() -> str:
        line = run(parts(web), tmp_path, only="rows,pics", dry_run=True)[-1]
        return line.partition("needs ")[2].partition(" on the disk")[0]

    assert needed() == "223 kB"  # 180 kB of rows, twice 22 kB of pictures
    web.always["/d/rows.jsonl"] = Trouble(cut=100_000)
    with pytest.raises(SourceError):
        run(parts(web), tmp_path, only="rows", tries=1)
    assert needed() == "123 kB"


def test_an_announced_move_is_finished_and_one_that_cannot_be_is_withdrawn(web: WebServer, tmp_path: Path) -> None:
    run(parts(web), tmp_path)
    record = Record(tmp_path)
    new = b"new\n"
    digest = "7aa7a5359173d05b63cfd682e3c38487f3cb4f7f1d60659fe59fab1505977d4c"
    part = part_of(tmp_path / "t" / "rows.jsonl")
    record.announce({"t/rows.jsonl": entry(digest, len(new), "test")})
    part.write_bytes(new)
    assert any("is in place now" in line for line in run(parts(web), tmp_path))
    assert (tmp_path / "t" / "rows.jsonl").read_bytes() == new
    assert not part.exists()
    record = Record(tmp_path)
    record.announce({"t/rows.jsonl": entry("0" * 64, 9, "test")})
    run(parts(web), tmp_path)
    assert Record(tmp_path).announced() == {}
    assert (tmp_path / "t" / "rows.jsonl").read_bytes() == new


def test_a_kill_between_the_two_moves_of_a_folder_is_made_up_for(web: WebServer, tmp_path: Path) -> None:
    run(parts(web), tmp_path)
    target = tmp_path / "i" / "pics"
    target.replace(old_of(target))  # the new one had not come yet
    run(parts(web), tmp_path)
    assert there(tmp_path) == WHOLE
    target.replace(new_of(target))  # announced, but not moved
    record = Record(tmp_path)
    done = record.get("i/pics")
    assert done is not None
    record.announce({"i/pics": done})
    asked = len(web.asked)
    run(parts(web), tmp_path)
    assert there(tmp_path) == WHOLE
    assert len(web.asked) == asked


def test_a_damaged_record_is_one_error(web: WebServer, tmp_path: Path) -> None:
    run(parts(web), tmp_path, only="rows")
    for text in ("{", '{"version": 9}', '{"version": 1, "files": {"a": {"b": 1}}, "coming": {}}', "[]"):
        (tmp_path / ".downloads" / "record.json").write_text(text)
        with pytest.raises(DataError, match="record of downloads cannot be read") as caught:
            run(parts(web), tmp_path)
        assert "remove it" in (caught.value.todo or "")


def test_a_read_only_folder_is_one_error(web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="cannot be written"):
        run(parts(web), tmp_path / "file")
