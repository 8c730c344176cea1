"""The client's answers, retries, polling and errors, without the client: its answers are those of the pinned one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.errors import DataError, UserError
from common.kaggle import Kaggle, KaggleError, Submission
from common.kaggle import client as module
from common.kaggle.errors import explain, kind_of, short
from common.kaggle.process import Answer

ENVIRON = {"KAGGLE_API_TOKEN": "planted-secret-0123456789"}
RATE = "slow\n\nYou have been rate limited. Wait a little while before retrying.\n"
SERVER = "boom\n\nThis is a problem on Kaggle's side, not with your command. Please try again later.\n"
RULES = (
    "You must accept this competition's rules before you'll be able to download files.\n\n"
    "You don't have access to this resource.\nIf this is a competition, you may need to accept its rules first at\n"
    "  https://www.kaggle.com/competitions/<competition>/rules\n"
)
MISSING = "Not found: x\n\nThe resource was not found. Check the spelling of the reference you passed.\n"
LOGIN = "Authentication required to call the Kaggle API.\n\nFirst, you will need a Kaggle account.\n"
CUT = "HTTPSConnectionPool(host='storage.googleapis.com', port=443): Max retries exceeded with url: /a?[removed]\n"
BLOCK = (
    "Submission Ref:  7\nStatus:          {}\n{}Public Score:    {}\nPrivate Score:   \n"
    "Description:     mine\n                 Status: not this\nSubmission Date: 2026-01-02 03:04:05\n"
)
SENT = Submission("slug", "f.csv", "mine", 7)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Kaggle, list[list[str]], list[float]]]:
    """Answer the client's calls, one after the other; return the calls and the pauses."""

    def start(*answers: Answer) -> tuple[Kaggle, list[list[str]], list[float]]:
        queue, calls, pauses = list(answers), [], []

        def run(arguments: Sequence[str], *_: Any, **__: Any) -> Answer:
            calls.append(list(arguments))
            return queue.pop(0)

        monkeypatch.setattr(module, "run_client", run)
        return Kaggle(ENVIRON, pause=pauses.append), calls, pauses

    return start


def ok(out: str) -> Answer:
    return Answer(0, out, "")


def bad(err: str, out: str = "") -> Answer:
    return Answer(1, out, err)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (RATE, "too_often"),
        (SERVER, "server"),
        (RULES, "forbidden"),
        (MISSING, "absent"),
        (LOGIN, "login"),
        (CUT, "network"),
        ("[Errno 28] No space left on device: '/x'", "disk"),
        ("Submission not allowed: daily submission allowance (3)", "refused"),
        ("Could not submit to competition", "server"),
        ("401 Client Error: Unauthorized for url: https://api.kaggle.com/v1/x", "login"),
        ("503 Server Error: Service Unavailable for url: https://x", "server"),
        ("Downloaded file size (5) does not match expected size (9)", "network"),
    ],
)
def test_each_failure_is_known_by_the_client_s_words_and_says_what_to_do(text: str, kind: str) -> None:
    assert kind_of(text) == kind
    for place in ("slug", "owner/name"):
        error = explain(text, place, "answer", module.find_credentials(ENVIRON))
        assert error.kind == kind and error.todo
        assert "planted" not in error.block()


def test_signatures_are_not_shown() -> None:
    text = "503 Server Error: Unavailable for url: https://upload.test/blob?signature=planted&x=1\n(error)"
    assert "planted" not in short(text) and "upload.test/blob?" in short(text)
    assert "planted" not in explain(text, "slug", "answer", None).block()


def test_the_words_shown_are_kaggle_s_own_without_hints_and_bars() -> None:
    assert short(RULES) == "You must accept this competition's rules before you'll be able to download files."
    assert short("\r  0%|     | 0/9\r100%|####| 9/9\nno") == "no"
    assert short("") == "no message"
    assert len(short("x " * 2000)) < 700
    error = explain(RULES, "slug", "send the file", None)
    assert "https://www.kaggle.com/competitions/slug/rules" in str(error.todo)


def test_without_credentials_the_client_is_not_even_started(tmp_path: Path) -> None:
    with pytest.raises(KaggleError, match="no Kaggle credentials") as caught:
        Kaggle({"HOME": str(tmp_path)}).files("slug")
    assert caught.value.kind == "no_login" and "kaggle.com/settings/api" in str(caught.value.todo)
    for name in ("-x", "a b", "../a", "a/b/c", ""):
        with pytest.raises(UserError, match="not a name"):
            Kaggle(ENVIRON).files(name)


@pytest.mark.parametrize("text", [RATE, SERVER, CUT])
def test_passing_failures_are_tried_again_with_longer_pauses(text: str, play: Any) -> None:
    kaggle, calls, pauses = play(bad(text), bad(text), ok("Warning: x\n[]\n"))
    assert kaggle.files("slug") == []
    assert len(calls) == 3 and pauses == [2.0, 4.0]
    kaggle, calls, _ = play(*[bad(text)] * 4)
    with pytest.raises(KaggleError):
        kaggle.files("slug")
    assert len(calls) == 4


@pytest.mark.parametrize("text", [RULES, MISSING, LOGIN, "no"])
def test_lasting_failures_are_not_tried_again(text: str, play: Any) -> None:
    kaggle, calls, pauses = play(bad(text))
    with pytest.raises(KaggleError):
        kaggle.files("slug")
    assert len(calls) == 1 and pauses == []


def test_all_pages_of_a_listing_are_read(play: Any) -> None:
    one = 'Next Page Token = 1\n[{"name": "a", "size": 5, "creationDate": ""}]\n'
    kaggle, calls, _ = play(ok(one), ok('[{"name": "d/b", "size": 6, "creationDate": ""}]\n'))
    assert [(file.name, file.size) for file in kaggle.files("slug")] == [("a", 5), ("d/b", 6)]
    assert calls[1][-2:] == ["--page-token", "1"]
    for text in ("", "[{", "No files found\n"):
        kaggle, _, _ = play(ok(text))
        with pytest.raises(KaggleError, match="cannot be read"):
            kaggle.files("slug")


def test_a_file_that_is_not_listed_is_told_before_a_download(play: Any, tmp_path: Path) -> None:
    kaggle, calls, _ = play(ok('[{"name": "a", "size": 5}]\n'))
    with pytest.raises(KaggleError, match="no file b") as caught:
        kaggle.download("slug", tmp_path, file="b")
    assert caught.value.got == "a" and len(calls) == 1


def test_a_submission_s_block_is_read_line_by_line(play: Any) -> None:
    kaggle, _, _ = play(ok(BLOCK.format("COMPLETE", "", "0.6525")))
    assert kaggle.look(SENT).public_score == 0.6525
    error = "Error:           bad ids\n                 Public Score: 9\n"
    kaggle, _, _ = play(ok(BLOCK.format("ERROR", error, "")))
    found = kaggle.look(SENT)
    assert (found.status, found.public_score, found.error) == ("error", None, "bad ids\nPublic Score: 9")
    kaggle, _, _ = play(ok(BLOCK.format("ERROR", "", "")))
    assert kaggle.look(SENT).error == "Kaggle gives no reason"
    kaggle, _, _ = play(ok("something else\n"))
    with pytest.raises(KaggleError, match="cannot be read"):
        kaggle.look(SENT)


def test_waiting_ends_with_the_score_or_with_its_time(play: Any) -> None:
    pending, done = ok(BLOCK.format("PENDING", "", "")), ok(BLOCK.format("COMPLETE", "", "1"))
    seen: list[tuple[str, float]] = []
    kaggle, _, pauses = play(bad(MISSING), pending, done)  # not found at first
    found = kaggle.wait(SENT, seen=lambda answer, waited: seen.append((answer.status, waited)))
    assert (found.status, found.public_score) == ("complete", 1.0)
    assert [status for status, _ in seen] == ["pending", "pending", "complete"]
    assert len(pauses) == 2 and pauses == sorted(pauses)
    kaggle, calls, _ = play(*[pending] * 3)
    assert kaggle.wait(SENT, seconds=5).status == "pending"
    assert len(calls) == 3
    kaggle, calls, _ = play(pending)
    assert kaggle.wait(SENT, seconds=0).status == "pending" and len(calls) == 1


def test_a_submission_is_sent_once_whatever_comes_back(play: Any, tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    file.write_text("x\n")
    for text in (RATE, SERVER, CUT, "no"):
        kaggle, calls, _ = play(bad(text))
        with pytest.raises(KaggleError):
            kaggle.submit("slug", file, "m")
        assert len(calls) == 1
    kaggle, calls, _ = play(ok("Submission ref: 41\nSuccessfully submitted"))
    assert kaggle.submit("slug", file, "-m --file=x").ref == 41
    assert "--message=-m --file=x" in calls[0] and str(file) in calls[0]
    kaggle, _, _ = play(ok("Successfully submitted"))
    with pytest.raises(KaggleError, match="no number") as caught:
        kaggle.submit("slug", file, "m")
    assert caught.value.kind == "answer"  # it has arrived, so it must not count as refused
    with pytest.raises(DataError, match="no such file"):
        kaggle.submit("slug", tmp_path / "absent.csv", "m")


def test_one_s_own_mark_finds_a_submission_in_the_list(play: Any) -> None:
    rows = '[{"ref": 9, "fileName": "f", "description": "a [id 1]", "status": "SubmissionStatus.PENDING"},' + (
        '{"ref": 8, "fileName": "f", "description": null, "status": "SubmissionStatus.COMPLETE", "publicScore": "2"}]'
    )
    kaggle, _, _ = play(ok(rows), ok(rows), ok("No submissions found\n"))
    found = kaggle.find("slug", "[id 1]")
    assert found is not None and (found.ref, found.status) == (9, "pending")
    assert kaggle.find("slug", "[id 2]") is None
    assert kaggle.find("slug", "[id 1]") is None


def test_the_day_s_allowance_is_read_where_kaggle_tells_it(play: Any) -> None:
    kaggle, _, _ = play(ok('{\n "numToday": 1, "numTotal": 5, "numAllowedNow": 2}\n'), bad(MISSING), ok("?"))
    limits = kaggle.limits("slug")
    assert limits is not None and (limits.today, limits.total, limits.left) == (1, 5, 2)
    assert kaggle.limits("slug") is None and kaggle.limits("slug") is None
