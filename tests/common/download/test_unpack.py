"""Unpacking archives: what is in them comes out, nothing of them gets outside, whatever they say."""

import gzip
import hashlib
import io
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.download import space
from common.download.archives import PADDING, DamagedArchive, JoinedFile
from common.download.unpack import Limits, unpack
from common.errors import DataError
from tests.common.download.archive_files import picture_members, rar_bytes, split_bytes, tar_bytes, tree, zip_bytes

MEMBERS = list(picture_members().items())
INSIDE = {name.removeprefix("item_images/"): data for name, data in MEMBERS}
FORMS: dict[str, Callable[[list[tuple[str, bytes]]], bytes]] = {
    "a.zip": zip_bytes,
    "a.tar.gz": tar_bytes,
    "a.tar": lambda members: tar_bytes(members, mode="w"),
    "a.tar.xz": lambda members: tar_bytes(members, mode="w:xz"),
    "a.rar": rar_bytes,
}
SHORT = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def written(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_unpacked_without_the_folder_that_holds_all(name: str, tmp_path: Path) -> None:
    listed = unpack([written(tmp_path, name, FORMS[name](MEMBERS))], tmp_path / "out")
    assert tree(tmp_path / "out") == INSIDE
    assert {file.name: (file.size, file.sha256) for file in listed} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in INSIDE.items()
    }


def test_two_folders_and_files_beside_them_stay_apart(tmp_path: Path) -> None:
    members = [("top/a/1.jpg", b"1"), ("top/b/1.jpg", b"2"), ("./top/c.txt", b"3"), ("__MACOSX/top/._c", b"litter")]
    unpack([written(tmp_path, "a.zip", zip_bytes(members))], tmp_path / "out")
    assert tree(tmp_path / "out") == {"a/1.jpg": b"1", "b/1.jpg": b"2", "c.txt": b"3"}


def test_a_zip_in_parts_is_read_without_being_joined(tmp_path: Path) -> None:
    paths = split_bytes(zip_bytes(MEMBERS), 3, tmp_path, "Web_Image.zip")
    unpack(paths, tmp_path / "out")
    assert tree(tmp_path / "out") == INSIDE
    with pytest.raises(DataError, match="parts of the archive are absent") as caught:
        unpack([paths[0], paths[2]], tmp_path / "again")
    assert "Web_Image.zip.003" in str(caught.value.got)
    with pytest.raises(DataError):
        unpack(paths[:2], tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_joined_files_read_as_one(tmp_path: Path) -> None:
    paths = split_bytes(bytes(range(256)) * 4, 5, tmp_path, "x")
    with JoinedFile(paths) as raw, io.BufferedReader(raw, 64) as joined:
        assert joined.read() == bytes(range(256)) * 4
        assert joined.seek(-10, io.SEEK_END) == 1014
        assert joined.read(100) == bytes(range(246, 256))
        joined.seek(250)
        assert joined.read(12) == bytes([*range(250, 256), *range(6)])
        with pytest.raises(OSError, match="before the start"):
            raw.seek(-1)


def test_only_what_is_chosen_comes(tmp_path: Path) -> None:
    path = written(tmp_path, "a.zip", zip_bytes(MEMBERS))
    unpack([path], tmp_path / "out", choose=lambda name: "one.jpg" if name.endswith("/1.jpg") else None)
    assert tree(tmp_path / "out") == {"one.jpg": MEMBERS[0][1]}
    with pytest.raises(DataError, match="no file that is wanted"):
        unpack([path], tmp_path / "none", choose=lambda _: None)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../out.jpg", "'..'"),
        ("a/../../out.jpg", "'..'"),
        ("/etc/out.jpg", "absolute"),
        ("\\out.jpg", "absolute"),
        ("C:/out.jpg", "absolute"),
        ("a\\b.jpg", "backslash"),
        ("a//b.jpg", "between slashes"),
        ("a/./b.jpg", "between slashes"),
        ("a\nb.jpg", "control"),
        ("x" * 300, "too long"),
    ],
)
def test_names_that_are_not_let_through(form: str, name: str, why: str, tmp_path: Path) -> None:
    path = written(tmp_path, form, FORMS[form]([("fine.jpg", b"1"), (name, b"2")]))
    if form == "a.rar" and name.startswith(("/", "\\", "C:", "a\\")):
        why = ""  # libarchive may have changed it already: it must be refused or lie inside
    try:
        unpack([path], tmp_path / "box" / "out")
    except DataError as error:
        assert why in str(error)
        assert error.todo
        assert not (tmp_path / "box" / "out").exists() or tree(tmp_path / "box" / "out") == {}
    else:
        assert why == ""
    assert sorted(p.name for p in tmp_path.iterdir()) in ([form], sorted([form, "box"]))


def test_a_name_with_a_zero_byte_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a.zip", zip_bytes([("a.jpg\0.exe", b"1"), ("b", b"2")]))
    with pytest.raises(DataError, match="control character"):
        unpack([path], tmp_path / "out")


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    hostile = {
        "s.zip": zip_bytes([("link", b"/etc/passwd")], mode=0o120777),
        "f.zip": zip_bytes([("pipe", b"")], mode=0o010644),
        "s.tar": tar_bytes([("link", b"/etc/passwd")], kind=tarfile.SYMTYPE, mode="w"),
        "h.tar": tar_bytes([("link", b"other")], kind=tarfile.LNKTYPE, mode="w"),
        "d.tar": tar_bytes([("null", b"")], kind=tarfile.CHRTYPE, mode="w"),
        "s.rar": rar_bytes([("link", b"/etc/passwd")], link=True),
    }
    for name, data in hostile.items():
        with pytest.raises(DataError, match=r"refused: .*(link|neither a plain file)"):
            unpack([written(tmp_path, name, data)], tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zip_bytes([("a.jpg", b"1")]))
    data[6] |= 1  # the flag, in the file's own header and in the zip's list
    data[data.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DataError, match="encrypted"):
        unpack([written(tmp_path, "a.zip", bytes(data))], tmp_path / "out")


def test_names_that_clash_are_refused_and_case_may_be_let_through(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zip_bytes([("a.jpg", b"1"), ("a.jpg", b"2")])
    with pytest.raises(DataError, match="there twice"):
        unpack([written(tmp_path, "t.zip", twice)], tmp_path / "out")
    folder = zip_bytes([("top/a", b"1"), ("top/a/b", b"2")])
    with pytest.raises(DataError, match="a file and a folder"):
        unpack([written(tmp_path, "f.zip", folder)], tmp_path / "out")
    for first, second in (("A.jpg", "a.jpg"), ("\u00e9.jpg", "e\u0301.jpg"), ("a/1", "A/1")):
        path = written(tmp_path, "c.zip", zip_bytes([(f"x/{first}", b"1"), (f"x/{second}", b"2")]))
        with pytest.raises(DataError, match="case alone") as caught:
            unpack([path], tmp_path / "out")
        assert "--allow-case-clashes" in (caught.value.todo or "")
    unpack([path], tmp_path / "out", Limits(case_clashes=True))
    assert tree(tmp_path / "out") == {"a/1": b"1", "A/1": b"2"}


def test_caps_on_size_count_and_growth(tmp_path: Path) -> None:
    zeros = written(tmp_path, "z.zip", zip_bytes([("a", bytes(300_000))]))
    many = written(tmp_path, "m.tar.gz", tar_bytes([(f"{n}", b"") for n in range(30)]))
    grown = written(tmp_path, "g.tar.gz", tar_bytes([("a", bytes(3_000_000))]))
    for path, limits, what in (
        (zeros, Limits(ratio_from=100_000), "grow too much"),
        (grown, Limits(ratio_from=1_000_000), "grow too much"),
        (zeros, Limits(size=299_999), "too large"),
        (many, Limits(count=29), "too many files"),
    ):
        with pytest.raises(DataError, match=what):
            unpack([path], tmp_path / "out", limits)
    assert not (tmp_path / "out").exists()
    unpack([zeros], tmp_path / "out", Limits(ratio_from=300_000))


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    data = zip_bytes([("a.jpg", b"x" * 1000), ("b.jpg", b"y" * 50)])
    for size in (999, 1001):
        wrong = data.replace((1000).to_bytes(4, "little"), size.to_bytes(4, "little"))
        assert wrong != data
        with pytest.raises(DataError):
            unpack([written(tmp_path, "a.zip", wrong)], tmp_path / f"out{size}")


def test_the_checksum_behind_a_tar_is_looked_at(tmp_path: Path) -> None:
    """The first 1,000 bytes are stored as they are: a wrong one of them is seen by the checksum at the end alone."""
    plain = tar_bytes([("one.jpg", bytes(range(256)) * 4)], mode="w")
    packed = bytearray(gzip.compress(plain, compresslevel=0))
    packed[packed.index(bytes(range(256))) + 5] ^= 1
    with pytest.raises(DamagedArchive, match="CRC"):
        unpack([written(tmp_path, "a.tar.gz", bytes(packed))], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    bomb = written(tmp_path, "b.tar.gz", gzip.compress(plain + bytes(PADDING + 1)))
    with pytest.raises(DamagedArchive, match="much behind its end"):
        unpack([bomb], tmp_path / "out")


def test_a_rar_that_is_cut_between_files_is_damaged(tmp_path: Path) -> None:
    data = rar_bytes([("one.jpg", b"1" * 50), ("two.jpg", b"2" * 50)])
    at = data.index(b"1" * 50) + 50
    for cut in (at, at + 7, len(data) - 1):
        with pytest.raises(DamagedArchive, match=r"cut off|a header is damaged"):
            unpack([written(tmp_path, "a.rar", data[:cut])], tmp_path / "out")
    unpack([written(tmp_path, "a.rar", data)], tmp_path / "out")


def test_no_room_is_told_before_the_first_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "free_bytes", lambda _: 1000)
    with pytest.raises(DataError, match=r"too little room for what is in a\.zip"):
        unpack([written(tmp_path, "a.zip", zip_bytes(MEMBERS))], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_archive_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an archive that is known"):
        unpack([written(tmp_path, "a.zip", b"hello")], tmp_path / "out")
    with pytest.raises(DataError, match="HTML page"):
        unpack([written(tmp_path, "a.zip", b"\n<!doctype html><p>")], tmp_path / "out")
    rar = split_bytes(rar_bytes(MEMBERS), 2, tmp_path, "a.rar")
    with pytest.raises(DataError, match="in several parts"):
        unpack(rar, tmp_path / "out")


def test_without_libarchive_a_rar_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "libarchive", None)
    with pytest.raises(DataError, match="needs the system's libarchive") as caught:
        unpack([written(tmp_path, "a.rar", rar_bytes(MEMBERS))], tmp_path / "out")
    assert "apt install" in (caught.value.todo or "")
    assert "unrar x" in (caught.value.todo or "")


PIECES = st.sampled_from(
    ["..", ".", "/", "//", "\\", "a", "A", "b", "\0", "C:", "\n", "é", "e\u0301", "~", " ", "con", "a" * 90]
)
NAMES = st.lists(PIECES, min_size=1, max_size=7).map("".join)


@SHORT
@given(
    members=st.lists(st.tuples(NAMES, st.binary(max_size=40)), min_size=1, max_size=5),
    form=st.sampled_from(["a.zip", "a.tar", "a.rar"]),
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_no_name_gets_outside(members: list[tuple[str, bytes]], form: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "box").mkdir()
        (root / "outside").write_bytes(b"mine")
        try:
            data = FORMS[form](members)
        except (ValueError, UnicodeError):  # a tar cannot even be written with it
            return
        path = written(root, form, data)
        try:
            listed = unpack([path], root / "box" / "out")
        except DataError:
            listed = []
        found = {p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_relative_to(root / "box" / "out")}
        assert found == {form, "box", "outside"}
        assert (root / "outside").read_bytes() == b"mine"
        assert not any(p.is_symlink() for p in root.rglob("*"))
        if listed:
            assert sorted(file.name for file in listed) == sorted(tree(root / "box" / "out"))
            kept = [data for name, data in members if not name.endswith("/")]  # those are folders
            assert sorted(tree(root / "box" / "out").values()) == sorted(kept)


@SHORT
@given(
    form=st.sampled_from(["a.zip", "a.tar.gz", "a.tar", "a.rar"]),
    cut=st.none() | st.floats(0, 1),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
)
def test_a_damaged_archive_is_one_error_or_gives_what_was_in_it(
    form: str, cut: float | None, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(FORMS[form](MEMBERS))
    for place, value in changes:
        data[int(place * len(data))] = value
    if cut is not None:
        del data[int(cut * len(data)) :]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        path = written(root, form, bytes(data))
        try:
            listed = unpack([path], root / "out")
        except DataError:
            listed = []
        assert {p.name for p in root.iterdir()} <= {form, "out"}
        if listed and form != "a.tar":  # the others have checksums of their contents
            assert set(tree(root / "out").values()) <= {contents for _, contents in MEMBERS}


def test_a_flipped_byte_is_named_as_damage(tmp_path: Path) -> None:
    for form, place in (("a.zip", 0.3), ("a.tar.gz", 0.3), ("a.rar", 0.3), ("a.rar", 0.04)):
        data = bytearray(FORMS[form]([("one.jpg", bytes(range(256)) * 4), ("two.jpg", b"2" * 9)]))
        data[int(len(data) * place)] ^= 0xFF
        with pytest.raises(DamagedArchive) as caught:
            unpack([written(tmp_path, form, bytes(data))], tmp_path / f"out-{form}-{place}")
        assert "run the same command again" in (caught.value.todo or "")
