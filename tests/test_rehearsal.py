"""A user's whole way, from `git clone` to an accepted submission on both tracks; all servers are on the loopback.

The block of the README that shows it is checked line by line against what is really printed, numbers apart.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from common.metrics.retrieval import TASK_IDS
from tests.common.kaggle.test_loopback import assert_clean
from tests.loopback.http_server import Served, WebServer
from tests.loopback.hub_server import HubServer
from tests.loopback.kaggle_server import Contest, Grade, KaggleServer
from tests.track1 import official_root
from tests.track2.ctr_files import Planted, write_layout
from track1_mdr.submit import COMPETITION

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
BLOCK = "A rehearsal"  # the README's heading above the transcript
COMMANDS = (
    "./run_all.sh setup",
    ".venv/bin/python -m track1_mdr doctor",
    ".venv/bin/python -m track1_mdr download --only questions,pages,gold,queries,passages",
    ".venv/bin/python -m track1_mdr run --config lexical",
    ".venv/bin/python -m track1_mdr submit submissions/track1-lexical.csv --dry-run",
    ".venv/bin/python -m track1_mdr submit submissions/track1-lexical.csv --yes",
    ".venv/bin/python -m track2_mmctr download --only splits,item_info,item_feature",
    ".venv/bin/python -m track2_mmctr run --config gbdt",
    ".venv/bin/python -m track2_mmctr submit submissions/track2-gbdt.zip",
)


class Codabench:
    """What Codabench does with an upload: it opens the zip, checks the rows, and scores them with its hidden labels."""

    def __init__(self, planted: Planted, column: str) -> None:
        self.labels = dict(zip(planted.ids.tolist(), planted.labels["test"].tolist(), strict=True))
        self.column = column

    def upload(self, path: Path) -> float:
        """Return the AUC; an assertion fails where the platform would refuse the file."""
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == ["prediction.csv"]
            rows = list(csv.DictReader(io.StringIO(archive.read("prediction.csv").decode())))
        assert set(rows[0]) == {"ID", self.column}
        scores = {int(row["ID"]): float(row[self.column]) for row in rows}
        assert set(scores) == set(self.labels) and len(rows) == len(scores)
        assert np.isfinite(list(scores.values())).all()
        return float(roc_auc_score(list(self.labels.values()), [scores[i] for i in self.labels]))


def kaggle_grade(data: bytes) -> Grade:
    """Score a submission as the leaderboard does, on gold that only the server has."""
    rows = list(csv.DictReader(io.StringIO(data.decode())))
    wanted = {str(i) for ids in TASK_IDS.values() for i in ids}
    if {row["question_id"] for row in rows} != wanted or len(rows) != len(wanted):
        return "ERROR", None, "Evaluation exception: the ids are not those of the questions"
    best = official_root.rankings()
    recalls: dict[bool, list[float]] = {True: [], False: []}
    for row in rows:
        gold, ids = best[row["question_id"]][0], json.loads(row["passage_id"])
        recalls[int(row["question_id"]) >= 10_000].append(sum(gold in ids[:k] for k in (1, 3, 5)) / 3)
    return "COMPLETE", f"{np.mean([np.mean(values) for values in recalls.values()]):.5f}", None


def clone(target: Path) -> None:
    """Clone the project, put what is not committed yet over it, and link the running environment as its `.venv`."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(target)], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-mcoz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    (target / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.name != "requirements.installed":
            (target / ".venv" / path.name).symlink_to(path)
    shutil.copy(target / "requirements.txt", target / ".venv" / "requirements.installed")


@contextlib.contextmanager
def servers(tmp_path: Path) -> Iterator[tuple[dict[str, str], KaggleServer, Planted]]:
    """Start Kaggle, the hub and Track 2's page; yield the user's environment, Kaggle, and Track 2's truth."""
    planted = write_layout(tmp_path / "made", rows=1500, eval_rows=400)
    names = ("MicroLens_1M_x1/train", "MicroLens_1M_x1/valid", "MicroLens_1M_x1/test", "MicroLens_1M_x1/item_info")
    paths = [f"{name}.parquet" for name in (*names, "item_feature")]
    site = {f"/MicroLens_1M_MMCTR/{path}": Served((planted.folder / path).read_bytes()) for path in paths}
    contest = Contest(official_root.official_files(), grade=kaggle_grade, pending=1)
    gold = {"MMDocIR_annotations.jsonl": official_root.annotations()}
    with (
        KaggleServer({COMPETITION: contest}) as kaggle,
        HubServer({"MMDocIR/MMDocIR_Evaluation_Dataset": gold}) as hub,
        WebServer(site) as pages,
    ):
        environ = {"PATH": os.environ["PATH"], "COLUMNS": "100", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}
        environ |= kaggle.environ(tmp_path / "user") | hub.environ()
        yield environ | {"PAGES": f"{pages.address}/MicroLens_1M_MMCTR/"}, kaggle, planted


class Shell:
    """A user at a terminal: what was typed and what was printed is kept."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder, self.environ, self.transcript = folder, environ, ""

    def type(self, command: str, hidden: str = "") -> str:
        """Run a command, which must succeed, with options that the transcript leaves out; return its output."""
        done = subprocess.run(
            ["bash", "-c", f"{command} {hidden}"],
            cwd=self.folder,
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )
        self.transcript += f"$ {command}\n{done.stdout}"
        assert done.returncode == 0, self.transcript[-6000:]
        return done.stdout


def masked(line: str) -> str:
    """Return a line without what differs from run to run: numbers, hashes, spaces."""
    line = re.sub(r"\b[0-9a-f]{6,64}\b", "#", line.strip())
    return re.sub(r"\s+", " ", re.sub(r"[\d.,:+TZ-]*\d[\d.,:+TZ-]*", "#", line))


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_from_a_clone_to_an_accepted_submission_on_both_tracks(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    clone(kit)
    with servers(tmp_path) as (environ, kaggle, planted):
        shell = Shell(kit, environ)
        for command in COMMANDS:
            hidden = '--pages "$PAGES"' if "track2_mmctr download" in command else ""
            shell.type(command, hidden)
        (sent,) = kaggle.sent
        assert sent.data == (kit / "submissions" / "track1-lexical.csv").read_bytes()
        assert sent.grade[0] == "COMPLETE" and 0.6 < float(sent.grade[1] or 0) < 1
        assert "accepted:    public score" in shell.transcript
        auc = Codabench(planted, "Task2").upload(kit / "submissions" / "track2-gbdt.zip")
        shell.type(f".venv/bin/python -m common.submissions record submissions/track2-gbdt.zip --public {auc:.6f}")
        listed = json.loads(shell.type(".venv/bin/python -m common.submissions list --json"))
        shell.type(".venv/bin/python -m common.submissions list")
        downloads = [call for call in kaggle.calls if call.method == "GET"]
        shell.type(COMMANDS[2])  # what is here is not fetched again
        assert [call for call in kaggle.calls if call.method == "GET"] == downloads
    assert [(row["track"], row["state"]) for row in listed] == [("track1", "complete"), ("track2", "complete")]
    assert all(row["run"] and row["local"] is not None for row in listed)
    assert listed[1]["gap"] == pytest.approx(auc - listed[1]["local"], abs=1e-5)
    print(shell.transcript)
    (tmp_path / "transcript.txt").write_text(shell.transcript)
    assert_clean(tmp_path / "user", shell.transcript)
    for folder in ("runs", "data", "submissions"):
        assert_clean(kit / folder)
    printed = {masked(line) for line in shell.transcript.splitlines()}
    shown = [line for line in transcript_of_the_readme() if line.strip() not in ("", "...")]
    assert shown, "the README shows no rehearsal"
    assert [line for line in shown if masked(line) not in printed] == []


def transcript_of_the_readme() -> list[str]:
    """Return the lines of the block under the README's heading."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {BLOCK}.*?^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return found[1].splitlines() if found else []
