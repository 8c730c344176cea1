"""The main jobs as a user starts them: whole runs cold and warm, reports, `explore`, and `--help`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.suite.alone import ROOT
from benchmarks.suite.meter import clock
from benchmarks.suite.work import Context, Figure, Measured, System, Work

HERE = "benchmarks.suite.works_jobs"
SAMPLE = ROOT / "data" / "sample"
SECONDS = (
    Figure("run", "whole run", "s", per="time"),
    Figure("cpu", "whole run", "CPU-s", per="time", clock="cpu"),
)


def command(arguments: list[str], log: Path | None = None) -> str:
    """Run a Python module in a process of its own and return what it printed; an error ends this one too."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if log is not None:
        log.write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:3])}: exit code {done.returncode}: {done.stdout.strip()[-300:]}")
    return done.stdout


def job(track: str, config: str, root: str, folder: str, cache: str, cold: bool) -> Measured:
    """Run a main job; `cold` empties its cache first. The system's own file cache is left as it is."""
    if cold:
        shutil.rmtree(cache, ignore_errors=True)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with clock() as took:
        printed = command(["benchmarks.suite.job", track, config, root, folder, cache], Path(folder) / "job.txt")
    score = json.loads(printed.splitlines()[-1])["score"]
    return Measured({"run": took.sample(1), "cpu": took.sample(1)}, {} if score is None else {"score": score})


def jobs(context: Context) -> Work:
    """Return both tracks on the sample, and the development split where it is at hand."""
    name = context.pick("baseline", "baseline", "lexical")
    real = None if context.data is None else context.data
    lacks = None if real is not None and (real / "mmdocir" / "pdfs").is_dir() else "needs --data with mmdocir/pdfs"

    def system(key: str, label: str, track: str, config: str, root: Path, cold: bool, why: str | None) -> System:
        place = context.folder / "jobs" / key.rsplit("_", 1)[0]
        arguments: dict[str, Any] = {"track": track, "config": config, "root": str(root), "cold": cold}
        arguments |= {"folder": str(place), "cache": str(place / "cache")}
        return System(key, label, f"{HERE}:job", arguments, lacks=why, repeats=1 if "mmdocir" in key else None)

    only_mmdocir = context.folder / "jobs" / "data"
    systems = [
        system("track1_cold", f"Track 1, {name}, sample, empty cache", "track1", name, SAMPLE, True, None),
        system("track1_warm", f"Track 1, {name}, sample, cache full", "track1", name, SAMPLE, False, None),
    ]
    if context.size != "tiny":
        systems.append(system("track2_cold", "Track 2, baseline, sample", "track2", "baseline", SAMPLE, True, None))
    if context.size == "full":
        systems += [
            system(
                "mmdocir_cold", "Track 1, development split, empty cache", "track1", name, only_mmdocir, True, lacks
            ),
            system(
                "mmdocir_warm", "Track 1, development split, cache full", "track1", name, only_mmdocir, False, lacks
            ),
        ]
    prepare = None
    if lacks is None and real is not None:
        arguments = {"source": str(real / "mmdocir"), "root": str(only_mmdocir)}
        prepare = System("link", "data root", f"{HERE}:link", arguments)
    about = "from files to a validated submission, process start included"
    return Work("jobs", about, SECONDS, tuple(systems), prepare, context.pick(2, 1, 1), 1800, tree=True)


def link(source: str, root: str) -> None:
    """Make a data root that holds MMDocIR alone."""
    Path(root).mkdir(parents=True, exist_ok=True)
    place = Path(root) / "mmdocir"
    if not place.is_symlink():
        place.symlink_to(Path(source).resolve(), target_is_directory=True)


# --- start-up ---


def help_of(module: str, times: int) -> Measured:
    """Time `python -m MODULE --help`: the least of some."""
    best = None
    for _ in range(times):
        with clock() as took:
            command([module, "--help"])
        if best is None or took.seconds < best.seconds:
            best = took
    assert best is not None
    return Measured({"help": best.sample(1), "cpu": best.sample(1)})


def startup(context: Context) -> Work:
    """Return the command lines, each asked for its help."""
    modules = {"track1": "track1_mdr", "track2": "track2_mmctr", "generative": "common.generative"}
    kept = dict(list(modules.items())[: context.pick(3, 3, 1)])
    systems = tuple(
        System(key, f"{module} --help", f"{HERE}:help_of", {"module": module, "times": context.pick(5, 3, 1)})
        for key, module in kept.items()
    )
    figures = (Figure("help", "start-up", "s", per="time"), Figure("cpu", "start-up", "CPU-s", per="time", clock="cpu"))
    return Work("startup", "python -m MODULE --help", figures, systems, None, 1, 120, tree=True)


# --- reports ---


def make_pages(folder: str, documents: int, pages: int, questions: int) -> None:
    """Write a made-up MMDocIR and a run on it, as `benchmarks.report_pages` does."""
    from benchmarks.report_pages import PICTURES, page_picture, write_run
    from benchmarks.synthetic_pages import Size, write_dataset

    root = Path(folder)
    if not (root / "mmdocir" / "gold.csv").is_file():  # written last
        pictures = [page_picture(number, 620, 877) for number in range(PICTURES)]
        write_dataset(root, Size(documents, pages, questions), pictures)
    if not list((root / "runs").glob("*/scores.parquet")):
        write_run(root, root)


def make_ctr(folder: str, options: list[str]) -> None:
    """Write click data and two runs on them, as `benchmarks.report_ctr` does."""
    from benchmarks.report_ctr import parser, prepare

    root = Path(folder)
    if not (root / "popularity.zip").is_file():  # written last
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        prepare(root, parser().parse_args(options))


def make_both(pages: dict[str, Any], ctr: dict[str, Any]) -> None:
    """Make the data of all reports."""
    make_pages(**pages)
    make_ctr(**ctr)


def report(kind: str, folder: str) -> Measured:
    """Make one page by the command line."""
    root, out = Path(folder), Path(folder) / f"{kind}.html"
    if kind.endswith("1"):
        data, runs = root, sorted((root / "runs").glob("*-track1-*"))
    else:
        data, runs = root / "data", sorted((root / "runs").glob("*-track2-*"))
    module = "track1_mdr" if kind.endswith("1") else "track2_mmctr"
    cache = ["--cache", str(root / "cache")]
    arguments = {
        "report": ["report", str(runs[0])],
        "explore": ["explore"],
    }[kind[:-1]]
    with clock() as took:
        command([module, *arguments, "--data", str(data), "--out", str(out), *cache])
    return Measured({"run": took.sample(1), "cpu": took.sample(1)}, {"MB": out.stat().st_size / 1e6})


def reports(context: Context) -> Work:
    """Return the pages that people look at, at the official sizes."""
    size = context.pick((313, 20_395, 1_658), (12, 400, 60), (3, 12, 6))
    rows = context.pick((100_000, 10_000, 379_142, 91_717), (5_000, 1_000, 5_000, 1_000), (300, 100, 100, 80))
    names = ("--rows", "--valid-rows", "--test-rows", "--items")
    options = [text for pair in zip(names, map(str, rows), strict=True) for text in pair]
    one, two = str(context.folder / "report1"), str(context.folder / "report2")
    pages = {"folder": one, "documents": size[0], "pages": size[1], "questions": size[2]}
    arguments = {"pages": pages, "ctr": {"folder": two, "options": options}}
    systems = tuple(
        System(kind, label, f"{HERE}:report", {"kind": kind, "folder": folder})
        for kind, label, folder in (
            ("report1", f"report of Track 1, {size[2]:,} questions, {size[1]:,} pages", one),
            ("report2", f"report of Track 2, {rows[3]:,} items, {rows[1]:,} rows", two),
            ("explore1", f"explore of Track 1, {size[1]:,} pages", one),
            ("explore2", f"explore of Track 2, {rows[3]:,} items", two),
        )
    )
    prepare = System("make", "data and runs", f"{HERE}:make_both", arguments)
    figures = (Figure("run", "page", "s", per="time"), Figure("cpu", "page", "CPU-s", per="time", clock="cpu"))
    return Work("reports", "HTML pages of runs and of data", figures, systems, prepare, 1, 900, tree=True)
