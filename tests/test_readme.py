"""Every command block of the README is run, in a copy of the project where nothing reaches the network.

Each ```bash block runs in a shell of its own that stops at the first failure, in the order of the file.
Programs that fetch or submit (kaggle, git clone, hf, curl ...) are stood in for by ones that write down how
they were called. `./run_all.sh test` only collects the tests here, after lint and type checks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import SampleRun

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
FETCHERS = ("kaggle", "hf", "huggingface-cli", "curl", "wget", "pip", "unrar", "7z")
SLOW = re.compile(r"^\./run_all\.sh test\b", re.MULTILINE)
# A clone is the copy itself under the clone's name, so that a `cd` into it works.
GIT = """#!/bin/bash
if [ "$1" = clone ]; then
    echo "git $*" >> "{log}"
    name=${{3:-$(basename "$2" .git)}}
    [ -e "$name" ] || ln -s "$PWD" "$name"
    exit 0
fi
exec "{git}" "$@"
"""


@dataclass(frozen=True)
class Block:
    """One ```bash block: the line of its fence, and its commands."""

    line: int
    code: str


def fences(text: str) -> list[tuple[int, str, str]]:
    """Return (line, language, body) of every fenced block."""
    found: list[tuple[int, str, str]] = []
    opened: tuple[int, str, str] | None = None
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        mark = re.match(r"^(\s*)(`{3,})\s*(\S*)", line)
        if opened is None and mark:
            opened, body = (number, mark.group(3), mark.group(2)), []
        elif opened is not None and mark and not mark.group(3) and mark.group(2) == opened[2]:
            found.append((opened[0], opened[1], "\n".join(body) + "\n"))
            opened = None
        elif opened is not None:
            body.append(line)
    assert opened is None, f"the block of line {opened and opened[0]} has no end"
    return found


def blocks(text: str) -> list[Block]:
    """Return the ```bash blocks in order."""
    return [Block(line, body) for line, language, body in fences(text) if language == "bash"]


def collected_only(code: str) -> str:
    """Let `./run_all.sh test` collect the tests, which are running already."""
    return re.sub(r"^(\./run_all\.sh test\b[^#\n]*?)[ \t]*(#.*)?$", r"\1 --collect-only -q", code, flags=re.MULTILINE)


class Project:
    """A folder in which blocks run, with a `.venv` that is the running one and counts as set up."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.home, self.cache = folder / "project", cache
        self.user, self.fakes, self.log = folder / "user", folder / "fakes", folder / "calls"
        for path in (self.home, self.user, self.fakes):
            path.mkdir(parents=True, exist_ok=True)
        for name in FETCHERS:
            self._fake(name, f'#!/bin/bash\necho "{name} $*" >> "{self.log}"\n')
        git = shutil.which("git")
        if git:
            self._fake("git", GIT.format(log=self.log, git=git))

    def _fake(self, name: str, text: str) -> None:
        (self.fakes / name).write_text(text)
        (self.fakes / name).chmod(0o755)

    def copy_from(self, root: Path) -> None:
        """Copy the files of the project, and none that git ignores."""
        listed = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
        )
        for name in listed.stdout.split("\0"):
            if name and (root / name).is_file():
                (self.home / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self.home / name)
        self.use_environment()

    def use_environment(self) -> None:
        """Make `.venv` of links into the running environment, with the stamp that nothing is to be installed."""
        venv = self.home / ".venv"
        venv.mkdir()
        for path in Path(sys.prefix).iterdir():
            if path.name != "requirements.installed":
                (venv / path.name).symlink_to(path)
        shutil.copy(self.home / "requirements.txt", venv / "requirements.installed")

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run one block; functions stand before PATH, so that activating `.venv` brings no fetcher back."""
        names = [path.name for path in self.fakes.iterdir()]
        stand_ins = "".join(f'{name}() {{ "{self.fakes / name}" "$@"; }}\nexport -f {name}\n' for name in names)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MIRC_", "KAGGLE_", "HF_", "VIRTUAL_ENV"))}
        environment = kept | {
            "PATH": os.pathsep.join([str(self.fakes), str(self.home / ".venv" / "bin"), os.environ["PATH"]]),
            "HOME": str(self.user),
            "HF_HUB_OFFLINE": "1",
            "MIRC_CACHE": str(self.cache),
        }
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", stand_ins + collected_only(code)],
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def calls(self) -> list[str]:
        """How the stand-ins were called so far."""
        return self.log.read_text().splitlines() if self.log.exists() else []


# --- the harness itself, on a README of its own ---

TEXT = """# Title
```bash
echo one > made   # a comment
cat made
```
Text.
```yaml
type: bm25
```
1. In a list:
   ```bash
   kaggle competitions submit -c some-challenge \\
     -f made -m "two words"
   ```
````markdown
```bash
exit 9
```
````
"""


@pytest.fixture
def small(tmp_path: Path) -> Project:
    project = Project(tmp_path, tmp_path / "cache")
    (project.home / "requirements.txt").write_text("numpy\n")
    project.use_environment()
    return project


def test_blocks_are_the_bash_fences_with_their_lines() -> None:
    first, second = blocks(TEXT)
    assert (first.line, first.code) == (2, "echo one > made   # a comment\ncat made\n")
    assert second.line == 11 and second.code.splitlines()[0].strip().startswith("kaggle")
    assert [language for _, language, _ in fences(TEXT)] == ["bash", "yaml", "bash", "markdown"]
    with pytest.raises(AssertionError, match="line 1"):
        fences("```bash\nls\n")


def test_blocks_run_one_after_the_other_in_one_folder(small: Project) -> None:
    first, second = (small.run(block.code) for block in blocks(TEXT))
    assert (first.returncode, first.stdout) == (0, "one\n")
    assert second.returncode == 0, second.stderr
    assert small.calls() == ["kaggle competitions submit -c some-challenge -f made -m two words"]


@pytest.mark.parametrize(
    "code", ["false\ntrue\n", "false | true\n", "echo $NOT_SET\n", "no_such_program\n", "cd nowhere\n"]
)
def test_any_failing_line_fails_the_block(code: str, small: Project) -> None:
    assert small.run(code).returncode != 0


def test_fetchers_stay_stood_in_for_after_the_environment_is_activated(small: Project) -> None:
    done = small.run("source .venv/bin/activate\nkaggle --version\npip install x\ncurl -LO https://example.org/x\n")
    assert done.returncode == 0, done.stderr
    assert small.calls() == ["kaggle --version", "pip install x", "curl -LO https://example.org/x"]


def test_a_clone_leads_to_the_copy_and_other_git_commands_are_git_s(small: Project) -> None:
    done = small.run("git clone https://example.org/kit.git\ncd kit\nls requirements.txt\ngit --version\n")
    assert done.returncode == 0, done.stderr
    assert "requirements.txt" in done.stdout and "git version" in done.stdout
    assert small.calls() == ["git clone https://example.org/kit.git"]


def test_python_is_the_environment_s_and_sees_the_copy_and_no_credentials(small: Project) -> None:
    (small.home / "here.py").write_text("print('the copy')\n")
    asked = "sorted(k for k in os.environ if k[:5] in ('MIRC_', 'KAGGL'))"
    done = small.run(f'python -c "import here, numpy, os, sys; print({asked}); print(sys.prefix)"\n')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["the copy", "['MIRC_CACHE']"]
    assert Path(done.stdout.splitlines()[2]).resolve() == (small.home / ".venv").resolve()


def test_the_test_command_only_collects(small: Project) -> None:
    script = small.home / "run_all.sh"
    script.write_text('#!/bin/bash\necho "called: $*"\n')
    script.chmod(0o755)
    done = small.run("./run_all.sh test   # everything\n./run_all.sh track1 --config x\n")
    assert done.stdout.splitlines() == ["called: test --collect-only -q", "called: track1 --config x"]


def test_the_copy_s_set_up_installs_nothing(tmp_path: Path, root: Path) -> None:
    project = Project(tmp_path, tmp_path / "cache")
    project.copy_from(root)
    assert not (project.home / "runs").exists()
    done = project.run("./run_all.sh setup\n")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert project.calls() == []


# --- the README ---


def readme_blocks() -> list[Block]:
    return blocks(README.read_text(encoding="utf-8")) if README.is_file() else []


BLOCKS = readme_blocks()


class ReadmeRun:
    """The README's blocks, each run once, after those before it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.done: list[subprocess.CompletedProcess[str]] = []

    def result(self, number: int) -> subprocess.CompletedProcess[str]:
        """Run what has not run yet, up to this block; earlier slow ones are passed over."""
        while len(self.done) <= number:
            block = BLOCKS[len(self.done)]
            passed_over = SLOW.search(block.code) and len(self.done) < number
            self.done.append(self.project.run("true\n" if passed_over else block.code))
        return self.done[number]


@pytest.fixture(scope="module")
def readme_run(tmp_path_factory: pytest.TempPathFactory, sample_run: SampleRun) -> ReadmeRun:
    project = Project(tmp_path_factory.mktemp("readme"), sample_run.cache)
    project.copy_from(ROOT)
    return ReadmeRun(project)


def test_the_readme_has_command_blocks_and_none_that_would_escape_this_test() -> None:
    assert README.is_file(), "README.md is missing"
    assert BLOCKS
    other = [
        f"line {line}: {kind}" for line, kind, _ in fences(README.read_text()) if kind in ("sh", "shell", "console")
    ]
    assert other == [], "command blocks are fenced as ```bash"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(i, id=f"line{block.line}", marks=pytest.mark.slow if SLOW.search(block.code) else ())
        for i, block in enumerate(BLOCKS)
    ],
)
def test_a_block_of_the_readme_runs(number: int, readme_run: ReadmeRun) -> None:
    done = readme_run.result(number)
    shown = f"{BLOCKS[number].code}\n--- output\n{done.stdout[-3000:]}\n--- errors\n{done.stderr[-3000:]}"
    assert done.returncode == 0, shown
