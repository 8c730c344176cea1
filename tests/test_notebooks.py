"""The notebooks: as they are kept, what their set-up does where the project is not, and both of them run."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SampleRun
from tests.test_structure import MACHINE

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("track1_quickstart", "track2_quickstart")


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def source(name: str, key: str) -> str:
    return "".join(next(cell["source"] for cell in cells(name) if cell["id"] == key))


# --- as they are kept ---


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_without_what_it_printed(name: str) -> None:
    import nbformat

    path = ROOT / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    kept = cells(name)
    code = [cell for cell in kept if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None and cell["metadata"] == {} for cell in code)
    ids = [cell["id"] for cell in kept]
    assert len(set(ids)) == len(ids) <= 22 and all(re.fullmatch(r"[a-z]+(-[a-z]+)*", key) for key in ids)
    text = path.read_text(encoding="utf-8")
    assert not MACHINE.search(text)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert all(len(line) <= 130 for cell in kept for line in "".join(cell["source"]).splitlines())


def test_both_have_the_same_set_up() -> None:
    for key in ("setup-text", "settings", "setup"):
        assert len({source(name, key) for name in NOTEBOOKS}) == 1
    for name, value in re.findall(r'^(\w+) = "(.*?)"', source(NOTEBOOKS[0], "settings"), re.MULTILINE):
        assert name in ("REPOSITORY", "PROJECT", "WHEELS") and value == "", "nothing is filled in"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_code_that_a_notebook_writes_is_python(name: str) -> None:
    written = [text for cell in cells(name) if (text := "".join(cell["source"])).startswith("%%writefile")]
    (text,) = written
    first, _, body = text.partition("\n")
    assert re.fullmatch(r"%%writefile track[12]_\w+/my_\w+\.py", first)
    assert not (ROOT / first.split()[1]).exists(), "it would write over a file of the project"
    assert len(body.splitlines()) <= 40
    ast.parse(body)


# --- where the project is not ---


class Machine:
    """A folder in which the set-up runs, with a `pip` that writes down how it was called, and a small project."""

    def __init__(self, folder: Path) -> None:
        self.here, self.project = folder / "content", folder / "dataset" / "mirc-starter-kit"
        self.here.mkdir(parents=True)
        self.calls = self.here / "calls"
        (self.here / "pip.py").write_text(f"import sys\nopen({str(self.calls)!r}, 'a').write(' '.join(sys.argv[1:]))\n")
        (self.project / "track1_mdr").mkdir(parents=True)
        (self.project / "track1_mdr" / "__main__.py").write_text("")
        self.require("numpy", "IPython")

    def require(self, *packages: str) -> None:
        text = "# --- needed\n" + "".join(f"{name}==1.0  # for this\n" for name in packages)
        (self.project / "requirements.txt").write_text(text + "# --- checks\nno-such-tool==1.0\n")

    def set_up(self, **settings: object) -> subprocess.CompletedProcess[str]:
        text = source("track1_quickstart", "settings")
        for name, value in settings.items():
            text, count = re.subn(rf'^{name} = ""', lambda _, n=name, v=value: f'{n} = "{v}"', text, flags=re.MULTILINE)
            assert count == 1
        code = f"{text}\n{source('track1_quickstart', 'setup')}\nprint(ROOT)"
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=self.here, capture_output=True, text=True, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_internet_the_attached_project_is_copied_once(machine: Machine) -> None:
    for path in machine.project.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)  # as datasets are
    done = machine.set_up(PROJECT=machine.project.parent)
    assert done.returncode == 0, done.stderr
    copy = machine.here / "mirc-starter-kit"
    assert done.stdout.splitlines() == ["project mirc-starter-kit, data data/sample", str(copy)]
    assert os.access(copy / "requirements.txt", os.W_OK) and (copy / "requirements.txt").stat().st_mode & 0o200
    (copy / "mine").write_text("kept")
    again = machine.set_up(PROJECT=machine.project.parent)
    assert again.returncode == 0 and (copy / "mine").read_text() == "kept"
    assert not machine.calls.exists()


def test_with_internet_the_repository_is_cloned_and_what_is_missing_installed(machine: Machine) -> None:
    machine.require("numpy", "no-such_Package")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], cwd=machine.project, check=True)
    done = machine.set_up(REPOSITORY=machine.project)
    assert done.returncode == 0, done.stderr
    assert (machine.here / "mirc-starter-kit" / "track1_mdr" / "__main__.py").is_file()
    assert machine.calls.read_text() == "install --quiet no-such_Package==1.0"


def test_without_internet_packages_come_from_the_attached_wheels_or_not_at_all(machine: Machine) -> None:
    machine.require("no-such-package")
    done = machine.set_up(PROJECT=machine.project)
    assert done.returncode != 0 and "no-such-package==1.0 are missing" in done.stderr and not machine.calls.exists()
    done = machine.set_up(PROJECT=machine.project, WHEELS="wheels")
    assert done.returncode == 0, done.stderr
    assert machine.calls.read_text() == "install --quiet --no-index --find-links wheels no-such-package==1.0"


def test_nothing_filled_in_says_what_to_fill_in(machine: Machine) -> None:
    done = machine.set_up()
    assert done.returncode != 0 and "fill in REPOSITORY (internet on) or PROJECT (off)" in done.stderr
    (machine.here / "empty").mkdir()
    assert "does not hold the project" in machine.set_up(PROJECT=machine.here / "empty").stderr


# --- both run ---


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project's files, so that the checkout stays as it is."""
    home = tmp_path_factory.mktemp("notebooks") / "project"
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split("\0"):
        if name and not name.startswith(("tests/", "benchmarks/")) and (ROOT / name).is_file():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, home / name)
    return home


@contextmanager
def one_core() -> Iterator[None]:
    """Keep what is started to one core: threads that wait for each other take longer than one alone."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def execute(name: str, project: Path, cache: Path) -> dict[str, str]:
    """Run a notebook in the project's copy; return cell id -> what it printed. An error in a cell is the test's."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(project / "notebooks" / f"{name}.ipynb", as_version=4)
    place = {"metadata": {"path": str(project / "notebooks")}}
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", resources=place)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MIRC_", "KAGGLE_", "HF_T"))}
    own = {"MIRC_CACHE": str(cache), "IPYTHONDIR": str(project.parent / "ipython"), "HF_HUB_OFFLINE": "1"}
    with one_core():
        client.execute(env=environment | own)
    printed: dict[str, str] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in cell.outputs]
            printed[cell.id] = "\n".join("".join(text) for text in texts)
    return printed


def scores(printed: dict[str, str]) -> tuple[float, float]:
    (found,) = re.findall(r"before ([\d.]+), after ([\d.]+)", printed["again"])
    return float(found[0]), float(found[1])


def check_runs(project: Path, track: str, submissions: list[Path]) -> None:
    """Two runs, each with the bytes of its submission on record, and a report of the first."""
    from common.hashing import file_digest
    from common.runs.records import read_runs

    first, second = [run for run in read_runs(project / "runs") if run.track == track]
    assert first.status == second.status == "finished"
    assert (project / "runs" / first.name / "report.html").stat().st_size > 500_000
    hashes = [run.submission["sha256"] for run in (first, second) if run.submission]
    assert hashes == [file_digest(path) for path in submissions] and hashes[0] != hashes[1]


def test_track_1_runs(project: Path, sample_run: SampleRun) -> None:
    from track1_mdr.evaluate import score_files, validate_file

    printed = execute("track1_quickstart", project, sample_run.cache)
    files = [project / "submissions" / f"notebook-{name}.csv" for name in ("before", "after")]
    before, after = scores(printed)
    for file, score in zip(files, (before, after), strict=True):
        assert validate_file(file, ROOT / "data" / "sample").ok
        assert score_files(file, ROOT / "data" / "sample").headline == pytest.approx(score, abs=0.005)
    assert before != after
    assert "final" in printed["compare"] and "95 % interval" in printed["compare"]
    assert "right, came first: page" in printed["error"] and "PIL.Image" in printed["error"]
    assert "notebook-after.csv: valid" in printed["valid"] and "lexical" in printed["valid"]
    assert "HTML" in printed["explore"] and "HTML" in printed["report"]
    check_runs(project, "track1", files)


def test_track_2_runs(project: Path, sample_run: SampleRun) -> None:
    from track2_mmctr.evaluate import open_data, validate_path

    printed = execute("track2_quickstart", project, sample_run.cache)
    files = [project / "submissions" / f"notebook-{name}.zip" for name in ("before", "after")]
    before, after = scores(printed)
    assert before > 0.6 and before + 0.05 < after < 0.96, "attention is worth much on the planted clicks"
    data = open_data(ROOT / "data" / "sample", sample_run.cache)
    assert all(validate_path(file, data).ok for file in files)
    assert "95 %" in printed["compare"] and "history 1-5" in printed["compare"]
    assert printed["error"].count("clicked before") == 4 and "PIL.Image" in printed["error"]
    assert "notebook-after.zip: valid" in printed["valid"] and "my_ranker" in printed["valid"]
    assert "HTML" in printed["explore"] and "HTML" in printed["report"]
    check_runs(project, "track2", files)
