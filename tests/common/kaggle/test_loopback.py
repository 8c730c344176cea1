"""The pinned client against a Kaggle on the loopback: what arrives, what is refused, and that no secret gets out.

Each call starts the client (0.4 CPU seconds), so a test makes few.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.kaggle import Kaggle, KaggleError
from common.kaggle.delivery import part_folder
from tests.loopback.kaggle_server import KEY, SIGNATURE, TOKEN, Contest, Delivery, Grade, KaggleServer, zip_of

ROOT = Path(__file__).resolve().parents[3]
BLOB = random.Random(7).randbytes(2_500_000)
MB = 1 << 20  # the client writes pieces of this size; of a cut one nothing is kept
PATH = {"PATH": os.environ["PATH"]}


@pytest.fixture
def server() -> Iterator[KaggleServer]:
    files = {"a.csv": b"a,b\n1,2\n" * 1000, "d/blob.bin": BLOB}
    with KaggleServer({"slug": Contest(files, zipped=("a.csv",)), "o/n": Contest({"q.bin": b"z" * 50})}) as started:
        yield started


@pytest.fixture
def kaggle(server: KaggleServer, tmp_path: Path) -> Kaggle:
    return Kaggle(PATH | server.environ(tmp_path / "home"), pause=lambda _: None)


@pytest.fixture(autouse=True)
def no_secret_anywhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    captured = capfd.readouterr()
    assert_clean(tmp_path, captured.out, captured.err)


def assert_clean(folder: Path, *texts: str) -> None:
    """No secret of the fake account is in the texts, nor in any file under the folder."""
    for secret in (KEY, TOKEN, SIGNATURE):
        assert not any(secret in text for text in texts)
        for path in folder.rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def nothing_there(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if not path.name.startswith(".")]


def test_all_files_arrive_as_one_zip_and_each_alone(server: KaggleServer, kaggle: Kaggle, tmp_path: Path) -> None:
    seen: list[int] = []
    path = kaggle.download("slug", tmp_path / "to", seen=seen.append)
    assert path == tmp_path / "to" / "slug.zip" and path.read_bytes() == server.bundle("slug")
    server.contests["slug"].page = 1
    assert kaggle.download("slug", tmp_path / "to", file="d/blob.bin").read_bytes() == BLOB
    zipped = kaggle.download("slug", tmp_path / "to", file="a.csv")
    assert zipped.name == "a.csv.zip" and zipped.read_bytes() == zip_of("a.csv", b"a,b\n1,2\n" * 1000)
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == ["a.csv.zip", "blob.bin", "slug.zip"]
    storage = [call for call in server.calls if call.method == "GET"]
    assert storage and all("Authorization" not in call.headers for call in storage)


def test_a_data_set_is_fetched_like_a_competition_and_by_a_token(server: KaggleServer, tmp_path: Path) -> None:
    kaggle = Kaggle(PATH | server.environ(tmp_path / "home", login="token"))
    assert [(file.name, file.size) for file in kaggle.files("o/n")] == [("q.bin", 50)]
    assert kaggle.download("o/n", tmp_path, file="q.bin").read_bytes() == b"z" * 50
    assert "IntrospectToken" in server.methods()


def test_a_cut_is_gone_on_with_where_it_was(server: KaggleServer, kaggle: Kaggle, tmp_path: Path) -> None:
    server.delivery = Delivery(cuts=[2 * MB + 123_456])
    assert kaggle.download("slug", tmp_path / "to").read_bytes() == server.bundle("slug")
    asked = [call.headers.get("Range") for call in server.calls if call.method == "GET"]
    assert asked == [None, f"bytes={2 * MB}-"]


def test_a_file_that_changes_between_tries_is_begun_again(server: KaggleServer, kaggle: Kaggle, tmp_path: Path) -> None:
    def change(number: int) -> None:
        if number == 1:
            server.contests["slug"].files["d/blob.bin"] = bytes(reversed(BLOB))

    server.delivery = Delivery(cuts=[MB + 123_456], changes=change)
    path = kaggle.download("slug", tmp_path / "to")
    assert path.read_bytes() == server.bundle("slug") and bytes(reversed(BLOB)) in path.read_bytes()


def test_a_server_without_ranges_and_a_slow_one_are_waited_for(
    server: KaggleServer, kaggle: Kaggle, tmp_path: Path
) -> None:
    server.delivery = Delivery(ranges=False, cuts=[MB + 50_000], drip=(200_000, 0.05))
    assert kaggle.download("slug", tmp_path / "to").read_bytes() == server.bundle("slug")


@pytest.mark.slow
@pytest.mark.parametrize("ranges", [True, False])
def test_ten_cuts_at_random_places_lose_nothing(ranges: bool, server: KaggleServer, tmp_path: Path) -> None:
    whole = server.bundle("slug")
    places = sorted(random.Random(11).sample(range(1, len(whole)), 10))
    server.delivery = Delivery(ranges=ranges, cuts=places)
    kaggle = Kaggle(PATH | server.environ(tmp_path / "home"), pause=lambda _: None)
    path = kaggle.download("slug", tmp_path / "to")
    assert path.read_bytes() == whole and server.gets == 11


@pytest.mark.slow
@pytest.mark.parametrize("stated", [7, -7])
def test_a_wrong_length_is_never_taken(stated: int, server: KaggleServer, kaggle: Kaggle, tmp_path: Path) -> None:
    server.delivery = Delivery(stated=stated, ranges=False)
    with pytest.raises(KaggleError):
        kaggle.download("slug", tmp_path / "to")
    assert nothing_there(tmp_path / "to")
    server.delivery = Delivery()
    assert kaggle.download("slug", tmp_path / "to").read_bytes() == server.bundle("slug")


def test_a_web_page_in_place_of_the_zip_is_refused(server: KaggleServer, kaggle: Kaggle, tmp_path: Path) -> None:
    server.delivery = Delivery(html=True)
    with pytest.raises(KaggleError, match="web page") as caught:
        kaggle.download("slug", tmp_path / "to")
    assert "competitions/slug/rules" in str(caught.value.todo)
    assert nothing_there(tmp_path / "to")


@pytest.mark.slow
def test_a_download_that_stands_still_is_ended_and_resumed(server: KaggleServer, tmp_path: Path) -> None:
    server.delivery = Delivery(drip=(2 * MB, 90.0))
    kaggle = Kaggle(PATH | server.environ(tmp_path / "home"), stall=(15.0, 100_000.0))
    with pytest.raises(KaggleError, match="stood still") as caught:
        kaggle.download("slug", tmp_path / "to")
    assert caught.value.kind == "stalled" and nothing_there(tmp_path / "to")
    server.delivery = Delivery()
    assert kaggle.download("slug", tmp_path / "to").read_bytes() == server.bundle("slug")
    resumed = [call.headers.get("Range") for call in server.calls if call.method == "GET"]
    assert resumed[-1] in (f"bytes={2 * MB}-", None)  # None: the client had not even begun when it was ended
    assert not part_folder(tmp_path / "to", "slug", None).exists()


def test_a_killed_download_leaves_no_file_and_is_done_again(server: KaggleServer, tmp_path: Path) -> None:
    environ = PATH | server.environ(tmp_path / "home")
    server.delivery = Delivery(drip=(200_000, 0.3))
    code = (
        "import os, sys, pathlib, common.kaggle as k\nk.Kaggle(os.environ).download('slug', pathlib.Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "to")]
    mine = subprocess.Popen(command, cwd=ROOT, env=environ, start_new_session=True)
    for _ in range(600):
        if server.gets:
            break
        time.sleep(0.05)
    assert server.gets
    os.killpg(mine.pid, signal.SIGKILL)
    mine.wait(timeout=30)
    assert nothing_there(tmp_path / "to")
    server.delivery = Delivery()
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "to" / "slug.zip").read_bytes() == server.bundle("slug")


@pytest.mark.parametrize(
    ("status", "message", "kind", "todo"),
    [
        (401, "Unauthenticated", "login", "kaggle.com/settings/api"),
        (403, "You must accept this competition's rules", "forbidden", "competitions/slug/rules"),
        (404, "Not found", "absent", "browser"),
        (400, f"a strange error about {KEY}", "refused", "read what Kaggle says"),
    ],
)
def test_each_error_says_what_to_do(
    status: int, message: str, kind: str, todo: str, server: KaggleServer, kaggle: Kaggle, tmp_path: Path
) -> None:
    server.fail("DownloadDataFiles", status, message)
    with pytest.raises(KaggleError) as caught:
        kaggle.download("slug", tmp_path / "to")
    assert caught.value.kind == kind and todo in str(caught.value.todo)
    assert_clean(tmp_path, caught.value.block(), repr(caught.value))
    assert nothing_there(tmp_path / "to")


def test_too_many_requests_and_server_errors_pass(server: KaggleServer, kaggle: Kaggle) -> None:
    server.fail("ListDataFiles", 429, "slow down", Retry_After="1")
    server.fail("ListDataFiles", 503, "later")
    assert len(kaggle.files("slug")) == 2
    assert server.methods() == ["ListDataFiles"] * 3


def test_a_storage_error_does_not_show_the_signature(server: KaggleServer, kaggle: Kaggle, tmp_path: Path) -> None:
    server.fail("GET", 403, "expired", times=9)
    with pytest.raises(KaggleError) as caught:
        kaggle.download("slug", tmp_path / "to")
    assert_clean(tmp_path, caught.value.block())


def test_loud_settings_of_the_client_do_not_reach_it(server: KaggleServer, tmp_path: Path) -> None:
    environ = PATH | server.environ(tmp_path / "home") | {"VERBOSE": "1", "VERBOSE_OUTPUT": "true"}
    server.fail("ListDataFiles", 400, "no")
    with pytest.raises(KaggleError) as caught:
        Kaggle(environ).files("slug")
    assert "Authorization" not in caught.value.block() and "Basic" not in caught.value.block()


def test_a_submission_is_accepted_scored_and_found(server: KaggleServer, kaggle: Kaggle, tmp_path: Path) -> None:
    server.contests["slug"].unseen, server.contests["slug"].pending = 1, 1
    file = tmp_path / "-f.csv"
    file.write_text("question_id,passage_id\n")
    sent = kaggle.submit("slug", file, "-m [id 12]\nsecond line")
    assert (server.sent[0].name, server.sent[0].data) == ("-f.csv", file.read_bytes())
    assert server.sent[0].description == "-m [id 12]\nsecond line"
    found = kaggle.wait(sent)
    assert (found.status, found.public_score) == ("complete", 0.5128)
    listed = kaggle.find("slug", "[id 12]")
    assert listed is not None and listed.ref == sent.ref
    limits = kaggle.limits("slug")
    assert limits is not None and (limits.today, limits.left) == (1, 2)


def test_a_submission_that_cannot_be_scored_and_one_too_many(
    server: KaggleServer, kaggle: Kaggle, tmp_path: Path
) -> None:
    def broken(_: bytes) -> Grade:
        return "ERROR", None, "Evaluation exception: ids do not match\nPublic Score: 1"

    server.contests["slug"].grade = broken
    file = tmp_path / "f.csv"
    file.write_text("x\n")
    sent = kaggle.wait(kaggle.submit("slug", file, "m"))
    assert sent.status == "error" and "ids do not match" in str(sent.error) and sent.public_score is None
    server.contests["slug"].allowed = 0
    with pytest.raises(KaggleError, match="allowance") as caught:
        kaggle.submit("slug", file, "m")
    assert caught.value.kind == "refused" and len(server.sent) == 1
