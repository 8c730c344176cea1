"""The command line: each verb, errors in one block, interrupted and sharded runs."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner, Result

import track1_mdr.__main__ as cli
from common.metrics.retrieval import task_of
from common.submission.mdr import read_submission, write_submission
from tests.conftest import SampleRun
from tests.track1.pdf_files import drawn_text, image_pdf, text_pdf
from tests.track1.tiny_root import QUESTIONS, tiny_root, write_questions
from track1_mdr.gold import read_ground

VERBS = (
    "doctor",
    "download",
    "prepare",
    "run",
    "fit",
    "score",
    "validate",
    "submit",
    "merge",
    "report",
    "compare",
    "explore",
)
HEAVY = ("torch", "transformers", "sentence_transformers", "onnxruntime", "cv2", "faiss", "rapidocr", "lightgbm")
LEXICAL = """
name: tiny
device: cpu
tasks:
  mmdocir:
    routes:
      bm25: {type: bm25}
      named_page: {type: reference}
    fusion: {type: zscore, bonus: {named_page: 1.0}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of its own: runs/, submissions/ and the default cache go there."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setattr(cli, "ROOT", folder)
    monkeypatch.delenv("MIRC_DATA", raising=False)
    monkeypatch.setenv("MIRC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tiny.yaml").write_text(LEXICAL)
    tiny_root(tmp_path / "data")
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def refused(result: Result, *parts: str) -> None:
    """Exit code 2, one block on standard error, no traceback, nothing else."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: "), result.stderr
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.stderr, result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_s_help_has_an_example_of_itself(verb: str) -> None:
    result = call(verb, "--help")
    assert result.exit_code == 0
    text = " ".join(re.sub(r"[│╭╰─╮╯]", " ", result.output).split())
    assert f"Example: python -m track1_mdr {verb}" in text


def test_every_command_is_in_the_list_of_verbs() -> None:
    assert {command.callback.__name__ for command in cli.app.registered_commands if command.callback} == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_options_of_each_example_exist(verb: str) -> None:
    """An example that names an option which is not there is worse than none."""
    command = next(c for c in cli.app.registered_commands if c.callback and c.callback.__name__ == verb)
    assert command.callback is not None and command.callback.__doc__ is not None
    (example,) = re.findall(r"Example: (.*)", command.callback.__doc__)
    known = set(re.findall(r"--[a-z-]+", call(verb, "--help").output))
    assert set(re.findall(r"--[a-z-]+", example)) <= known


def test_help_is_quick_it_loads_no_model_library(root: Path) -> None:
    code = (
        "import sys\nfrom track1_mdr.__main__ import app\n"
        "try: app(['run', '--help'])\nexcept SystemExit: pass\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


def test_a_lexical_run_loads_no_torch(root: Path, home: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nimport track1_mdr.__main__ as cli\n"
        f"cli.ROOT = Path({str(home)!r})\n"
        "try: cli.app(sys.argv[1:])\nexcept SystemExit as e: assert not e.code, e.code\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    arguments = ["run", "-c", str(tmp_path / "tiny.yaml"), "--data", str(tmp_path / "data")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    assert "LOADED []" in done.stdout, done.stdout


def test_run_prints_where_things_are_the_score_and_the_next_command(home: Path, tmp_path: Path) -> None:
    result = call("run", "--config", tmp_path / "tiny.yaml", "--data", tmp_path / "data", "--set", "seed=11")
    assert result.exit_code == 0, result.output
    out = home / "submissions" / "track1-tiny.csv"
    assert list(read_submission(out)) == [i for i, _, _, _ in QUESTIONS]
    for part in ("seed 11", "run record:", "submission:", "local score:", "each stage alone", "score"):
        assert part in result.output
    (line,) = (home / "runs" / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["status"] == "finished" and json.loads(line)["seed"] == 11
    (said,) = re.findall(r"next: +\S+ -m track1_mdr (.*)", result.output)
    follow = call(*said.split())
    assert follow.exit_code == 0, follow.output


def test_run_without_gold_says_so(home: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "mmdocir" / "gold.csv").unlink()
    result = call("run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "data", "--out", tmp_path / "s.csv")
    assert result.exit_code == 0, result.output
    assert "no gold in the data root: no local score" in result.output
    assert len(read_submission(tmp_path / "s.csv")) == len(QUESTIONS)


def test_data_root_order_option_then_environment_then_data_then_sample(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.data_root(None) == home / "data" / "sample"
    (home / "data" / "m2kr").mkdir(parents=True)
    assert cli.data_root(None) == home / "data"
    monkeypatch.setenv("MIRC_DATA", str(tmp_path / "data"))
    assert cli.data_root(None) == (tmp_path / "data").resolve()
    assert cli.data_root(home) == home.resolve()


def test_doctor_reports_and_exits_by_what_it_finds(home: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "ROOT", root)
    result = call("doctor", "--data", root / "data" / "sample")
    assert result.exit_code in (0, 1), result.output
    assert ("fail" in result.output.lower()) == (result.exit_code == 1)
    for part in ("MMDocIR questions", "M2KR passages", "torch"):
        assert part in result.output


def test_score_validate_and_compare_on_the_sample(
    sample_run: SampleRun, root: Path, home: Path, tmp_path: Path
) -> None:
    data, submission = root / "data" / "sample", sample_run.result.submission
    report = sample_run.result.report
    assert report is not None
    scored = call("score", submission, "--data", data)
    assert scored.exit_code == 0, scored.output
    for task in report.tasks.values():
        assert f"{task.micro.mean:.2f}" in scored.output
    checked = call("validate", submission, "--data", data)
    assert checked.exit_code == 0 and "valid (M2KR 39 rows, MMDocIR 84 rows)" in checked.output
    rows = read_submission(submission)
    worse = tmp_path / "worse.csv"
    lines = [f'{i},"{json.dumps(ids[::-1]).replace(chr(34), chr(34) * 2)}"\n' for i, ids in rows.items()]
    worse.write_text("question_id,passage_id\n" + "".join(lines))
    compared = call("compare", submission, worse, "--data", data)
    assert compared.exit_code == 0, compared.output
    assert "Traceback" not in compared.output


def test_validate_lists_the_faults_and_exits_2(home: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("question_id,passage_id\n10000,\"['1', '2', '3', '4', '5']\"\n")
    refused(call("validate", bad, "--data", tmp_path / "data"), "line 2", "single quotes", "'10004': missing")
    refused(call("validate", tmp_path / "none.csv", "--data", tmp_path / "data"), "none.csv")
    refused(call("score", tmp_path / "none.csv", "--data", tmp_path / "data"), "none.csv")
    refused(call("compare", tmp_path / "none.csv", bad, "--data", tmp_path / "data"), "none.csv")


def test_merge_joins_one_file_a_task_and_refuses_two_of_the_same(home: Path, tmp_path: Path, root: Path) -> None:
    sample = root / "data" / "sample"
    ground = read_ground(sample)
    pool = sorted(ground.expected.m2kr_passages or ())
    rankings: dict[str, dict[str, list[str]]] = {"m2kr": {}, "mmdocir": {}}
    for question in ground.gold:
        task = task_of(question)
        assert task is not None
        rankings[task][question] = [str(i) for i in range(5)] if task == "mmdocir" else pool[:5]
    for task, rows in rankings.items():
        write_submission(tmp_path / f"{task}.csv", rows, ground.expected)
    files = tmp_path / "mmdocir.csv", tmp_path / "m2kr.csv"
    result = call("merge", *files, "--out", tmp_path / "both.csv", "--data", sample)
    assert result.exit_code == 0, result.output
    assert read_submission(tmp_path / "both.csv") == read_submission(files[1]) | read_submission(files[0])
    twice = call("merge", files[0], files[0], "--out", tmp_path / "twice.csv", "--data", sample)
    refused(twice, "one task each")
    assert not (tmp_path / "twice.csv").exists()


def test_prepare_writes_the_official_tables_and_counts_faults(home: Path, tmp_path: Path) -> None:
    pdfs, out = tmp_path / "pdfs", tmp_path / "prepared"
    pdfs.mkdir()
    text_pdf(
        pdfs / "a.pdf",
        ["one page of some words", "and another page"],
    )
    result = call("prepare", "--pdfs", pdfs, "--out", out, "--no-ocr", "--no-images")
    assert result.exit_code == 0, result.output
    assert "1 documents, 2 pages" in result.output and "next:" in result.output
    assert pl.read_parquet(out / "MMDocIR_doc_passages.parquet")["passage_id"].to_list() == ["0", "1"]
    (pdfs / "b.pdf").write_bytes(b"not a PDF")
    bad = call("prepare", "--pdfs", pdfs, "--out", out, "--no-ocr", "--no-images")
    refused(bad, "b", "--allow-faults 1")
    assert call("prepare", "--pdfs", pdfs, "--out", out, "--no-ocr", "--no-images", "--allow-faults", 1).exit_code == 0
    refused(call("prepare", "--pdfs", tmp_path / "nowhere", "--out", out), "nowhere")


def test_fit_then_run_with_the_command_that_fit_prints(
    home: Path, root: Path, sample_run: SampleRun, tmp_path: Path
) -> None:
    """Fit on the sample's documents, then follow the printed advice."""
    model = tmp_path / "fusion"
    settings = yaml.safe_load((root / "track1_mdr" / "configs" / "lexical.yaml").read_text())
    settings["tasks"].pop("m2kr")
    config = tmp_path / "mine.yaml"
    config.write_text(yaml.safe_dump(settings))
    common = ["--data", root / "data" / "sample", "--cache", sample_run.cache]
    fitted = call("fit", "--config", config, "--folds", 3, "--out", model, *common)
    assert fitted.exit_code == 0, fitted.output
    assert "learned (out of fold)" in fitted.output and "6 documents, 84 questions" in fitted.output
    (override,) = re.findall(r"--set (tasks\.mmdocir\.final=.*)", fitted.output)
    run = call("run", "--config", config, "--set", override.replace("'", ""), "--out", tmp_path / "o.csv", *common)
    assert run.exit_code == 0, run.output
    assert "final" in run.output
    again = call("fit", "--config", config, "--folds", 3, "--out", tmp_path / "again", *common)
    assert again.exit_code == 0
    for path in sorted(model.iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


@pytest.mark.parametrize("options", [["--folds", 99], ["--task", "m2kr"], ["--task", "typo"]])
def test_fit_refuses_what_it_cannot_do(options: list[object], home: Path, tmp_path: Path) -> None:
    result = call("fit", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "data", "--out", tmp_path / "f", *options)
    refused(result)
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--set", "tasks.mmdocir.fusion.wieghts={bm25: 1}"], ["wieghts", "'weights'"]),
        (["--set", "sede=3"], ["sede", "'seed'"]),
        (["--set", "seed"], ["a.b=value"]),
        (["--set", "seed=[1"], ["not valid YAML"]),
        (["--set", "tasks.mmdocir.routes.bm25.k1=-1"], ["k1", "-1"]),
        (["--set", "tasks.mmdocir.routes.bm25.type=bm52"], ["bm52"]),
        (["--set", "tasks.mmdocir.fusion.bonus={nobody: 1}"], ["nobody", "bm25, named_page"]),
        (["--set", "tasks.mmdocir.final={type: learned, model: nowhere}"], ["no fitted fusion 'nowhere'"]),
        (["--config", "lexcial"], ["lexcial", "lexical"]),
        (["--config", "nowhere.yaml"], ["nowhere"]),
        (["--shard", "2/2"], ["i/n"]),
        (["--shard", "x"], ["i/n"]),
        (["--shard", "-1/2"], ["i/n"]),
        (["--shard", "0/0"], ["i/n"]),
        (["--data", "/nowhere/at/all"], ["no such data root", "/nowhere/at/all"]),
    ],
)
def test_what_a_user_gets_wrong_is_one_block(
    arguments: list[str], parts: list[str], home: Path, tmp_path: Path
) -> None:
    base: list[object] = [] if "--config" in arguments else ["--config", tmp_path / "tiny.yaml"]
    data: list[object] = [] if "--data" in arguments else ["--data", tmp_path / "data"]
    refused(call("run", *base, *data, *arguments), *parts)


def test_an_empty_data_root_says_where_data_comes_from(home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(call("run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "empty"), "data/README.md")
    refused(call("score", tmp_path / "s.csv", "--data", tmp_path / "empty"), "data/README.md")


def test_a_shard_number_in_unicode_digits_is_one_block(home: Path, tmp_path: Path) -> None:
    """ "²".isdigit() is true, and int("²") is an error."""
    refused(call("run", "-c", tmp_path / "tiny.yaml", "--data", tmp_path / "data", "--shard", "0/²"), "i/n")


def test_the_real_process_shows_a_block_and_with_debug_a_traceback(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "track1_mdr", "run", "--config", "lexcial"]
    plain = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert plain.stderr.startswith("error: no configuration 'lexcial'") and "Traceback" not in plain.stderr
    debug = subprocess.run([*command, "--debug"], cwd=root, capture_output=True, text=True, check=False)
    assert debug.returncode != 0 and "Traceback" in debug.stderr and "ConfigError" in debug.stderr


DENSE = """
name: dense
device: cpu
tasks:
  mmdocir:
    routes:
      dense: {type: dense_text, model: BAAI/bge-small-en-v1.5, words: 8, stride: 6}
      bm25: {type: bm25}
    fusion: {type: rrf}
"""


def test_shards_then_the_whole_is_the_run_without_shards(home: Path, tmp_path: Path) -> None:
    config = tmp_path / "dense.yaml"
    config.write_text(DENSE)
    base: list[object] = ["run", "-c", config, "--data", tmp_path / "data"]
    parts = tmp_path / "parts"
    for shard in ("1/2", "0/2"):
        made = call(*base, "--cache", parts, "--shard", shard)
        assert made.exit_code == 0, made.output
        assert f"route dense: shard {shard} is in {parts}" in made.output
        assert "bm25" not in made.output
    assert not (home / "submissions").exists()
    vectors = {path: path.stat().st_mtime_ns for path in parts.rglob("*") if path.suffix in (".npy", ".json")}
    assert vectors
    whole = call(*base, "--cache", parts, "--out", tmp_path / "a.csv")
    alone = call(*base, "--cache", tmp_path / "one", "--out", tmp_path / "b.csv")
    assert whole.exit_code == alone.exit_code == 0, whole.output + alone.output
    assert {path: path.stat().st_mtime_ns for path in vectors} == vectors  # nothing is encoded again
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def ocr_root(tmp_path: Path) -> Path:
    """Three documents of two drawn pages each: some seconds of OCR."""
    folder = tmp_path / "scans" / "mmdocir"
    (folder / "pdfs").mkdir(parents=True)
    names = ("alpha", "beta", "gamma")
    for name in names:
        image_pdf(folder / "pdfs" / f"{name}.pdf", [drawn_text(f"{name} page {n}\nquarterly harvest") for n in (1, 2)])
    questions = [(str(10000 + i), f"Where is {name} page 2?", name, "1") for i, name in enumerate(names)]
    write_questions(folder, questions, dict.fromkeys(names, 2))
    return tmp_path / "scans"


def start(root: Path, home: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    code = (  # a suite that runs in the background has SIGINT ignored, and so would its children
        "import signal, sys; from pathlib import Path; import track1_mdr.__main__ as cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "cli.ROOT = Path(sys.argv.pop(1)); cli.main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(home), *arguments],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_an_interrupted_run_exits_130_and_the_next_one_goes_on(root: Path, home: Path, tmp_path: Path) -> None:
    data, cache = ocr_root(tmp_path), tmp_path / "cache"
    arguments = ["run", "-c", str(tmp_path / "tiny.yaml"), "--data", str(data), "--cache", str(cache)]
    arguments += ["--out", str(tmp_path / "s.csv"), "--set", "data.ocr.workers=1"]
    process = start(root, home, arguments)
    until = time.monotonic() + 60
    while not any(cache.rglob("*.json")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted; finished work is kept" in errors and "Traceback" not in errors
    assert not (tmp_path / "s.csv").exists()
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.json")}
    assert kept
    process = start(root, home, arguments)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # not made again
    assert read_submission(tmp_path / "s.csv")["10002"][0] == "1"
    states = [json.loads(line)["status"] for line in (home / "runs" / "log.jsonl").read_text().splitlines()]
    assert states == ["interrupted", "finished"]
