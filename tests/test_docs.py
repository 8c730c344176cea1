"""The worked changes of docs/: each is applied to a copy of the project, its commands are run, the outcome judged."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from common.metrics.retrieval import recall_at_k
from tests.conftest import SampleRun
from tests.test_readme import Project, blocks, fences

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = ("add_a_route", "add_a_ranker", "add_an_encoder", "add_a_tokenizer")
SCALE = "scale"
"""No worked change: tests/benchmarks/test_scale.py holds it to what was measured."""
MOST = 30


def page_text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def diff_of(text: str) -> str:
    """The one ```diff block of a page."""
    (diff,) = [body for _, language, body in fences(text) if language == "diff"]
    return diff


def changed_lines(diff: str) -> int:
    """How many lines a diff adds and takes away, blank ones counted."""
    return sum(line[:1] in "+-" and line[:4] not in ("+++ ", "--- ") for line in diff.splitlines())


def changed_files(diff: str) -> list[str]:
    return re.findall(r"^\+\+\+ b/(\S+)", diff, flags=re.MULTILINE)


@dataclass
class Applied:
    """A copy of the project with the change of a page in it, and what the page's commands printed there."""

    page: str
    project: Project
    printed: list[str] = field(default_factory=list)

    def apply(self) -> None:
        # A copy may lie below another repository, whose rules are not its own.
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(self.project.home.parent)}
        done = subprocess.run(
            ["git", "apply", "-"], cwd=self.project.home, env=environment, input=diff_of(page_text(self.page)),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def run(self, code: str) -> str:
        done = self.project.run(code)
        assert done.returncode == 0, f"{code}\n--- output\n{done.stdout[-3000:]}\n--- errors\n{done.stderr[-3000:]}"
        return done.stdout

    def runs(self) -> list[Path]:
        """The run folders, in the order of the runs."""
        return sorted(path for path in (self.project.home / "runs").iterdir() if path.is_dir())

    def folder(self, part: str) -> Path:
        """The one run folder with `part` in its name."""
        (found,) = [path for path in self.runs() if part in path.name]
        return found

    def metrics(self, folder: Path) -> dict[str, Any]:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture
def run_page(tmp_path: Path, sample_run: SampleRun) -> Callable[[str], Applied]:
    """Return a function that applies a page's change and runs its commands; lint holds the change to house rules."""

    def made(page: str) -> Applied:
        one = Applied(page, Project(tmp_path, sample_run.cache))
        one.project.copy_from(ROOT)
        one.apply()
        files = " ".join(path for path in changed_files(diff_of(page_text(page))) if path.endswith(".py"))
        one.run(f"ruff check {files}\nruff format --check {files}\n")
        one.printed = [one.run(block.code) for block in blocks(page_text(page))]
        return one

    return made


# --- the pages ---


def test_the_index_names_every_page() -> None:
    assert {path.stem for path in DOCS.glob("*.md")} == {"README", *PAGES, SCALE}
    named = re.findall(r"\]\((\w+)\.md\)", page_text("README"))
    assert named == [*PAGES, SCALE]


@pytest.mark.parametrize("page", ("README", *PAGES))
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page_text(page))
    assert links
    assert [link for link in links if not (DOCS / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_a_worked_change_is_short(page: str) -> None:
    assert 0 < changed_lines(diff_of(page_text(page))) <= MOST


def test_the_count_sees_every_changed_line() -> None:
    edited = "--- a/x\n+++ b/x\n@@ -1,3 +1,3 @@\n same\n-old\n+new\n+\n same\n"
    diff = edited + "--- /dev/null\n+++ b/y\n@@ -0,0 +1 @@\n+one\n"
    assert changed_lines(diff) == 4
    assert changed_files(diff) == ["x", "y"]


# --- what they do ---


def recall(applied_: Applied, folder: Path, source: str) -> tuple[float, float]:
    """Mean of Recall@1, 3, 5 (percent) of a route by its ranks in scores.parquet, and of pages in a random order."""
    data = applied_.project.home / "data" / "sample" / "mmdocir"
    questions = (data / "MMDocIR_gt_remove.jsonl").read_text(encoding="utf-8").splitlines()
    gold = dict(pl.read_csv(data / "gold.csv", infer_schema=False).iter_rows())
    scores = pl.read_parquet(folder / "scores.parquet").filter(pl.col("source") == source)
    assert scores["score"].is_finite().all()
    found: list[float] = []
    chance: list[float] = []
    for one in map(json.loads, questions):
        ranked = scores.filter(pl.col("question_id") == one["question_id"]).sort("rank")["passage_id"].to_list()
        for k in (1, 3, 5):
            found.append(100 * recall_at_k(ranked, json.loads(gold[one["question_id"]]), k))
            chance.append(100 * min(k / one["num_of_pages"], 1))
    assert len(found) == 3 * 84
    return float(np.mean(found)), float(np.mean(chance))


def local_score(applied_: Applied, folder: Path) -> tuple[float, float]:
    """MMDocIR's local score of a run, and its standard error."""
    figures = applied_.metrics(folder)["tasks"]["mmdocir"]
    return figures["mean"], figures["standard_error"]


def stated(pattern: str, page: str) -> float:
    """The one figure that a page states in these words."""
    (figure,) = re.findall(pattern, page)
    return float(figure)


@pytest.mark.timeout(900)
def test_a_route_is_added(run_page: Callable[[str], Applied]) -> None:
    made = run_page("add_a_route")
    mean, chance = recall(made, made.folder("my_ngrams"), "ngrams")
    score, error = local_score(made, made.folder("my_ngrams"))
    assert score == pytest.approx(mean)
    assert mean - chance > 5 * error
    six, seven = sorted(path for path in made.runs() if "lexical" in path.name)
    assert recall(made, seven, "ngrams")[0] == pytest.approx(mean)  # the same route, beside the others
    assert "ngrams" not in pl.read_parquet(six / "scores.parquet")["source"]
    cost = local_score(made, six)[0] - local_score(made, seven)[0]
    # What OCR reads, and with it a score, differs a little from one processor to the next.
    page = page_text("add_a_route")
    assert stated(r"scores ([\d.]+) alone", page) == pytest.approx(mean, abs=1)
    assert stated(r"costs ([\d.]+) points", page) == pytest.approx(cost, abs=1)
    assert f"{cost:+.1f}" in made.printed[-1]  # a - b, as `compare` says it


@pytest.mark.timeout(900)
def test_a_ranker_is_added(run_page: Callable[[str], Applied]) -> None:
    made = run_page("add_a_ranker")
    figures = made.metrics(made.folder("my_fism"))
    for split in ("valid", "test"):
        assert figures[split]["auc"] - 0.5 > 5 * figures[split]["standard_error"]
    stated = re.search(r"About (0\.\d\d) valid AUC", page_text("add_a_ranker"))
    assert stated and abs(figures["valid"]["auc"] - float(stated.group(1))) < 3 * figures["valid"]["standard_error"]


CHECK_ENCODER = """
import tempfile
from pathlib import Path
import numpy as np
from common.encoders.base import text_key
from common.encoders.store import EmbeddingStore
from common.encoders.text import build_text_encoder
from common.faults import FaultLog

texts = ["a red fox", "Solar panels on a roof", "", "solar panel, roof", "a quite different page"] * 9
encoder = build_text_encoder("hashing")
whole = encoder.encode(texts, role="passage", batch_size=64)
assert whole.dtype == np.float32 and whole.shape == (45, encoder.dim)
for size in (1, 2, 7):
    parts = [encoder.encode(texts[i : i + size], role="passage", batch_size=size) for i in range(0, 45, size)]
    assert np.concatenate(parts).tobytes() == whole.tobytes(), size
assert np.allclose(np.linalg.norm(whole[[0, 1, 3, 4]], axis=1), 1) and not whole[2].any()
assert whole[1] @ whole[3] > 0.4 > 0.2 > abs(whole[1] @ whole[0])

def store(folder):
    return EmbeddingStore(folder, encoder.name, encoder.revision, "passage", encoder.preprocessing, shard_items=4)

def again(batch):
    raise AssertionError("the store has these")

with tempfile.TemporaryDirectory() as folder:
    keys = [text_key(text) for text in texts[:5]]
    for encode in (lambda batch: encoder.encode(batch, role="passage", batch_size=2), again):
        made = store(Path(folder)).encode_all(keys, lambda i: texts[i], encode, batch_size=2, faults=FaultLog())
        assert np.asarray(made.vectors).tobytes() == whole[:5].tobytes()
print("the encoder keeps its contract")
"""


@pytest.mark.timeout(900)
def test_an_encoder_is_added(run_page: Callable[[str], Applied]) -> None:
    made = run_page("add_an_encoder")
    mean, chance = recall(made, made.folder("lexical"), "dense")
    score, error = local_score(made, made.folder("lexical"))
    assert score == pytest.approx(mean)
    assert mean - chance > 5 * error
    assert f"scores {mean:.1f} as the only route" in page_text("add_an_encoder")
    items = pl.read_parquet(made.project.home / "data/embeddings/hashing.parquet")
    vectors = np.stack(items["item_emb_d128"].to_numpy())
    assert np.isfinite(vectors).all() and len(np.unique(vectors, axis=0)) > 300
    assert made.run(f"python - <<'END'\n{CHECK_ENCODER}END\n").endswith("the encoder keeps its contract\n")


CHECK_TOKENIZER = """
from pathlib import Path
import numpy as np
from common.tokenizers import load_quantizer
from common.tokenizers.files import read_vectors

x = read_vectors(Path("data/sample/microlens/MicroLens_1M_x1/item_info.parquet"), None)[1]
lsh = load_quantizer(Path("runs/lsh"))
again = type(lsh)(**lsh.settings()).fit(x, seed=7)
assert again.version == lsh.version and type(lsh)(**lsh.settings()).fit(x, seed=8).version != lsh.version
codes = lsh.encode(x)
assert codes.dtype == np.int32 and np.array_equal(again.encode(x), codes)
assert np.array_equal(np.concatenate([lsh.encode(x[i : i + 1]) for i in range(len(x))]), codes)
decoded = lsh.decode(codes)
assert decoded.dtype == np.float32 and np.array_equal(lsh.encode(decoded), codes)
errors = [((x - lsh.embed(codes, upto)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum() for upto in (1, 2, 3)]
assert 1 > errors[0] > errors[1] > errors[2]
shuffled = np.random.default_rng(0).permutation(codes)
assert ((x - lsh.decode(shuffled)) ** 2).sum() > ((x - x.mean(0)) ** 2).sum()
same = (codes[:, None] == codes[None]).all(axis=2).sum(axis=1) > 1
print(len(x), same.sum())
"""


@pytest.mark.timeout(900)
def test_a_tokenizer_is_added(run_page: Callable[[str], Applied]) -> None:
    made = run_page("add_a_tokenizer")
    items, collide = map(int, made.run(f"python - <<'END'\n{CHECK_TOKENIZER}END\n").split())
    report = json.loads((made.project.home / "runs/lsh/report.json").read_text(encoding="utf-8"))
    assert report["collisions"]["colliding"] == collide
    stated = re.search(r"(\d+) vectors .* (\d+)\s+share", page_text("add_a_tokenizer"), flags=re.DOTALL)
    assert stated and stated.groups() == (str(items), str(collide))
    ids = pl.read_parquet(made.project.home / "data/embeddings/lsh.parquet")
    assert ids.select(pl.exclude("item_id")).n_unique() == len(ids)
