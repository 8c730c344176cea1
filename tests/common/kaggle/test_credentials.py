"""Where credentials are found, in the client's order, and that no secret survives in text."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.kaggle import find_credentials, redact, secret_values
from common.kaggle.credentials import REMOVED, all_credentials, config_folder

SECRET = "planted-secret-0123456789"  # noqa: S105, invented
KEY_FILE = json.dumps({"username": "someone", "key": SECRET})


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_nothing_is_found_on_an_empty_machine(tmp_path: Path) -> None:
    assert find_credentials({"HOME": str(tmp_path)}) is None
    assert secret_values({"HOME": str(tmp_path)}) == ()
    for half in ({"KAGGLE_USERNAME": "someone"}, {"KAGGLE_KEY": SECRET}, {"KAGGLE_API_TOKEN": ""}):
        assert find_credentials(half, tmp_path) is None
    put(tmp_path / ".kaggle" / "kaggle.json", "not json")
    put(tmp_path / ".kaggle" / "access_token", " \n")
    assert find_credentials({}, tmp_path) is None


def test_the_order_is_the_client_s(tmp_path: Path) -> None:
    folder = tmp_path / ".kaggle"
    put(folder / "credentials.json", json.dumps({"refresh_token": SECRET}))
    put(folder / "kaggle.json", KEY_FILE)
    put(folder / "access_token.txt", SECRET)
    put(folder / "access_token", SECRET)
    environ = {"KAGGLE_API_TOKEN": SECRET, "KAGGLE_USERNAME": "someone", "KAGGLE_KEY": SECRET}
    found = all_credentials(environ, tmp_path)
    assert [entry.kind for entry in found] == ["token", "token", "token", "key", "key", "oauth"]
    assert [entry.path and entry.path.name for entry in found] == [
        None,
        "access_token",
        "access_token.txt",
        None,
        "kaggle.json",
        "credentials.json",
    ]
    assert SECRET not in repr(found) and "someone" not in repr(found)


def test_the_folder_of_kaggle_json(tmp_path: Path) -> None:
    assert config_folder({}, tmp_path) == tmp_path / ".config" / "kaggle"
    assert config_folder({"XDG_CONFIG_HOME": "/x"}, tmp_path) == Path("/x/kaggle")
    (tmp_path / ".kaggle").mkdir()
    assert config_folder({"XDG_CONFIG_HOME": "/x"}, tmp_path) == tmp_path / ".kaggle"
    assert config_folder({"KAGGLE_CONFIG_DIR": "/y"}, tmp_path) == Path("/y")
    # The client reads the token files of ~/.kaggle alone, wherever kaggle.json is.
    put(tmp_path / "other" / "access_token", SECRET)
    assert find_credentials({"KAGGLE_CONFIG_DIR": str(tmp_path / "other")}, tmp_path) is None


def test_a_token_variable_that_names_a_file(tmp_path: Path) -> None:
    path = put(tmp_path / "my_token", f"{SECRET}\n")
    environ = {"KAGGLE_API_TOKEN": str(path)}
    found = find_credentials(environ, tmp_path)
    assert found is not None and found.path == path and SECRET not in found.source
    assert secret_values(environ, tmp_path) == (SECRET,)  # the path is no secret
    for odd in ("x" * 5000, "a\0b"):
        assert find_credentials({"KAGGLE_API_TOKEN": odd}, tmp_path) is not None


def test_every_secret_is_known(tmp_path: Path) -> None:
    folder = tmp_path / ".kaggle"
    put(folder / "kaggle.json", json.dumps({"username": "someone", "key": "key-of-the-file"}))
    put(folder / "access_token", "token-of-the-file\n")
    put(folder / "credentials.json", json.dumps({"refresh_token": "refresh-it", "access_token": "access-it"}))
    environ = {"KAGGLE_API_TOKEN": "token-of-env", "KAGGLE_USERNAME": "me", "KAGGLE_KEY": "key-of-env"}
    found = secret_values(environ, tmp_path)
    basic = base64.b64encode(b"me:key-of-env").decode()
    for secret in ("key-of-the-file", "token-of-the-file", "refresh-it", "access-it", "token-of-env", "key-of-env"):
        assert secret in found
    assert basic in found
    assert list(found) == sorted(found, key=len, reverse=True)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("for url: https://storage.test/a.zip?X-Goog-Signature=abc&x=1 (Caused", "X-Goog"),
        ("with url: /slug/a.zip?sig=abc')", "sig=abc"),
        ("via http://me:hunter2@proxy.test:8080/", "hunter2"),
        (f"Authorization: Bearer {SECRET}", SECRET),
    ],
)
def test_secrets_signatures_and_passwords_are_removed(text: str, left: str) -> None:
    cleared = redact(text, [SECRET])
    assert left not in cleared and REMOVED in cleared
    assert redact(cleared, [SECRET]) == cleared


def test_ordinary_text_is_left_alone() -> None:
    text = "404 Client Error: Not Found for url: http://localhost/api/v1/x, see /rules, 3 > 2? yes"
    assert redact(text, [SECRET]) == text


@given(st.text(max_size=40), st.text(max_size=40), st.text(alphabet="abcdef0123456789-", min_size=6, max_size=40))
def test_no_secret_survives_wherever_it_stands(before: str, after: str, secret: str) -> None:
    cleared = redact(f"{before}{secret}{after}", [secret])
    assert secret not in cleared or secret in before + REMOVED + after
