"""run_all.sh on a copy beside fake interpreters: what it sets up, when, and what it runs. Nothing is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = ("bash", "sh", "dirname", "cmp", "cp", "sed", "cat", "mkdir", "chmod", "env", "rm", "touch")
RECORD = '#!/bin/bash\necho "{name} $*" >> "{log}"\n'
# A Python that makes a venv of recorders, and otherwise only says which version it is.
PYTHON = """#!/bin/bash
echo "{name} $*" >> "{log}"
case "$1 $2" in
"-c import"*) exit {old} ;;
"-m venv")
    mkdir -p "$3/bin"
    for tool in python ruff basedpyright; do
        printf '#!/bin/bash\\necho "venv/%s $*" >> "{log}"\\n[ ! -e "{fail}/%s" ]\\n' "$tool" "$tool" > "$3/bin/$tool"
        chmod +x "$3/bin/$tool"
    done ;;
esac
"""


class Skeleton:
    """A folder with run_all.sh and requirements.txt, and a PATH with fakes alone."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.home, self.bin, self.log, self.fail = (folder / n for n in ("home", "bin", "log", "fail"))
        for path in (self.home, self.bin, self.fail):
            path.mkdir()
        shutil.copy(root / "run_all.sh", self.home)
        (self.home / "requirements.txt").write_text("numpy==1\n")
        (self.home / "requirements-cluster.txt").write_text("ray==1\n")
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.bin / tool).symlink_to(found)

    def python(self, name: str, old: bool = False) -> Path:
        path = self.bin / name
        path.write_text(PYTHON.format(name=name, log=self.log, fail=self.fail, old=int(old)))
        path.chmod(0o755)
        return path

    def run(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.home / "run_all.sh"), *arguments],
            cwd=cwd or self.home,
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    def calls(self) -> list[str]:
        """What was called since the last time, without the questions for a version."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line for line in lines if " -c " not in line and "import sys" not in line]


@pytest.fixture
def skeleton(tmp_path: Path, root: Path) -> Skeleton:
    return Skeleton(tmp_path, root)


INSTALL = "venv/python -m pip install --quiet --disable-pip-version-check -r requirements.txt"
CLUSTER = f"{INSTALL} -r requirements-cluster.txt"


def test_help_names_every_verb_and_sets_nothing_up(skeleton: Skeleton) -> None:
    for flag in ("--help", "-h", "help"):
        done = skeleton.run(flag)
        assert done.returncode == 0, done.stderr
        for verb in (
            "./run_all.sh ",
            "./run_all.sh test",
            "./run_all.sh track1",
            "./run_all.sh track2",
            "./run_all.sh setup",
            "MIRC_DATA",
        ):
            assert verb in done.stdout
        assert not any(line.startswith(("#", "set -")) for line in done.stdout.splitlines())
    assert not (skeleton.home / ".venv").exists()


def test_an_unknown_verb_is_refused_before_anything_is_set_up(skeleton: Skeleton) -> None:
    skeleton.python("python3")
    done = skeleton.run("tset")
    assert done.returncode == 2
    assert "unknown verb 'tset'" in done.stderr and "--help" in done.stderr
    assert skeleton.calls() == []


def test_no_python_and_only_old_ones_say_what_to_do(skeleton: Skeleton) -> None:
    for name in (None, "python3", "python"):
        if name:
            skeleton.python(name, old=True)
        done = skeleton.run("setup")
        assert done.returncode == 2
        assert "no Python 3.11 or later" in done.stderr and "PYTHON=" in done.stderr
    assert skeleton.calls() == []


def test_a_newer_python_under_another_name_is_found(skeleton: Skeleton) -> None:
    skeleton.python("python3", old=True)
    skeleton.python("python3.12")
    assert skeleton.run("setup").returncode == 0
    assert skeleton.calls() == ["python3.12 -m venv .venv", INSTALL]


def test_python_names_the_interpreter_and_a_bad_one_is_refused(skeleton: Skeleton) -> None:
    skeleton.python("python3")
    mine = skeleton.python("mine")
    assert skeleton.run("setup", PYTHON=str(mine)).returncode == 0
    assert skeleton.calls()[0] == "mine -m venv .venv"
    shutil.rmtree(skeleton.home / ".venv")
    old = skeleton.python("older", old=True)
    for bad in (str(old), "/nowhere/python"):
        done = skeleton.run("setup", PYTHON=bad)
        assert done.returncode == 2
        assert bad in done.stderr and "3.11" in done.stderr
    assert skeleton.calls() == []
    assert not (skeleton.home / ".venv").exists()


def test_a_second_set_up_installs_nothing_and_new_requirements_install_again(skeleton: Skeleton) -> None:
    skeleton.python("python3")
    assert skeleton.run("setup").returncode == 0
    assert skeleton.calls() == ["python3 -m venv .venv", INSTALL]
    again = skeleton.run("setup")
    assert again.returncode == 0 and again.stdout == ""
    assert skeleton.calls() == []
    (skeleton.home / "requirements.txt").write_text("numpy==2\n")
    assert skeleton.run("setup").returncode == 0
    assert skeleton.calls() == [INSTALL]  # the environment stays


def test_the_cluster_extras_are_installed_when_asked_for_and_once(skeleton: Skeleton) -> None:
    skeleton.python("python3")
    assert skeleton.run("setup", "cluster").returncode == 0
    assert skeleton.calls() == ["python3 -m venv .venv", CLUSTER]
    for again in (("setup", "cluster"), ("setup",)):
        assert skeleton.run(*again).returncode == 0
        assert skeleton.calls() == []
    (skeleton.home / "requirements-cluster.txt").write_text("ray==2\n")
    assert skeleton.run("setup").returncode == 0
    assert skeleton.calls() == []  # what was not asked for stays as it is
    assert skeleton.run("test").returncode == 0
    assert skeleton.calls()[0] == CLUSTER
    wrong = skeleton.run("setup", "clutser")
    assert wrong.returncode == 2 and "setup cluster" in wrong.stderr


def test_an_install_that_failed_is_done_again(skeleton: Skeleton) -> None:
    skeleton.python("python3")
    (skeleton.fail / "python").touch()
    assert skeleton.run("track1").returncode != 0
    assert skeleton.calls() == ["python3 -m venv .venv", INSTALL]  # and the run did not start
    (skeleton.fail / "python").unlink()
    assert skeleton.run("setup").returncode == 0
    assert skeleton.calls() == ["python3 -m venv .venv", INSTALL]


RUNS = ["venv/python -m track1_mdr run", "venv/python -m track2_mmctr run"]


def test_the_main_job_and_each_track_run_what_they_say_from_any_folder(skeleton: Skeleton, tmp_path: Path) -> None:
    skeleton.python("python3")
    skeleton.run("setup")
    skeleton.calls()
    assert skeleton.run(cwd=tmp_path).returncode == 0
    assert skeleton.calls() == RUNS
    for track, run in zip(("track1", "track2"), RUNS, strict=True):
        assert skeleton.run(track, "--config", "my route", cwd=tmp_path).returncode == 0
        assert skeleton.calls() == [f"{run} --config my route"]


@pytest.mark.parametrize(
    ("folders", "run", "said"),
    [
        (["m2kr"], RUNS[:1], "track2: no data"),
        (["microlens"], RUNS[1:], "track1: no data"),
        (["MicroLens_1M_x1", "mmdocir"], RUNS, ""),
        ([], RUNS[:1], "track2: no data"),  # Track 1 then says that there is nothing at all
    ],
)
def test_a_data_root_with_one_track_runs_that_one(
    folders: list[str], run: list[str], said: str, skeleton: Skeleton, tmp_path: Path
) -> None:
    skeleton.python("python3")
    skeleton.run("setup")
    skeleton.calls()
    for name in folders:
        (tmp_path / "data" / name).mkdir(parents=True)
    done = skeleton.run(MIRC_DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert skeleton.calls() == run
    assert said in done.stdout


def test_test_runs_lint_types_and_tests_and_passes_arguments_to_pytest(skeleton: Skeleton) -> None:
    skeleton.python("python3")
    skeleton.run("setup")
    skeleton.calls()
    assert skeleton.run("test", "-k", "bm25").returncode == 0
    checks = ["venv/ruff check .", "venv/ruff format --check .", "venv/basedpyright "]
    tests = "venv/python -m pytest -n 2 --dist loadfile --max-worker-restart=0 -k bm25"
    assert skeleton.calls() == [CLUSTER, *checks, tests]


@pytest.mark.parametrize("tool", ["ruff", "basedpyright", "python"])
def test_a_check_that_fails_fails_the_script(tool: str, skeleton: Skeleton) -> None:
    skeleton.python("python3")
    skeleton.run("setup")
    (skeleton.fail / tool).touch()
    assert skeleton.run("test").returncode != 0


def test_the_script_is_executable_and_ci_calls_it(root: Path) -> None:
    assert os.access(root / "run_all.sh", os.X_OK)
    assert "./run_all.sh test" in (root / ".ci" / "run").read_text()


LINE = "track1_mdr download; .venv/bin/python -m track2_mmctr download"


def test_without_real_data_one_line_says_how_to_get_it(skeleton: Skeleton, tmp_path: Path) -> None:
    skeleton.python("python3")
    skeleton.run("setup")
    skeleton.calls()
    last = skeleton.run(HOME=str(tmp_path)).stdout.splitlines()[-1]
    assert LINE in last and "kaggle.com/settings/api" in last
    assert skeleton.calls() == RUNS
    for verb in ("track1", "track2", "setup"):
        assert "real data" not in skeleton.run(verb, HOME=str(tmp_path)).stdout
    (skeleton.home / "data" / "microlens").mkdir(parents=True)
    assert "real data" not in skeleton.run(HOME=str(tmp_path)).stdout
    assert "real data" not in skeleton.run(HOME=str(tmp_path), MIRC_DATA=str(tmp_path)).stdout


@pytest.mark.parametrize(
    "place",
    [
        "KAGGLE_API_TOKEN",
        "KAGGLE_KEY",
        ".kaggle/access_token",
        ".kaggle/kaggle.json",
        ".config/kaggle/kaggle.json",
        "mine/kaggle.json",
    ],
)
def test_credentials_anywhere_are_found_and_never_shown(place: str, skeleton: Skeleton, tmp_path: Path) -> None:
    skeleton.python("python3")
    skeleton.run("setup")
    skeleton.calls()
    given = {"HOME": str(tmp_path), "KAGGLE_CONFIG_DIR": str(tmp_path / "mine")}
    if "/" in place:
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_text("planted-secret")
    else:
        given[place] = "planted-secret"
    done = skeleton.run(**given)
    assert "Kaggle credentials found" in done.stdout.splitlines()[-1] and LINE in done.stdout
    assert "planted-secret" not in done.stdout + done.stderr
    assert skeleton.calls() == RUNS  # nobody is there to agree: nothing is downloaded


@pytest.mark.parametrize(("answers", "asked"), [("n\n", []), ("y\nn\n", [True]), ("y\ny\n", [True, False]), ("", [])])
def test_at_a_terminal_the_download_is_offered_and_nothing_is_done_without_a_yes(
    answers: str, asked: list[bool], skeleton: Skeleton, tmp_path: Path
) -> None:
    skeleton.python("python3")
    skeleton.run("setup")
    skeleton.calls()
    mine, theirs = os.openpty()
    os.write(mine, (answers or "\x04").encode())
    command = subprocess.Popen(
        [str(skeleton.home / "run_all.sh")],
        cwd=skeleton.home,
        env={"PATH": str(skeleton.bin), "HOME": str(tmp_path), "KAGGLE_API_TOKEN": "planted-secret"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    try:
        assert command.wait(timeout=60) == 0
    finally:
        command.kill()
        os.close(theirs)
        os.close(mine)
    wanted = [
        f"venv/python -m {track} download {'--dry-run' if dry else ''}".rstrip()
        for dry in asked
        for track in ("track1_mdr", "track2_mmctr")
    ]
    assert [line.rstrip() for line in skeleton.calls()] == [*RUNS, *wanted]
