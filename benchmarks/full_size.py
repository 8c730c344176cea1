"""The full MMDocIR size on made-up data: time by stage and peak memory of the pipeline and of the encoders' side.

python -m benchmarks.full_size
python -m benchmarks.full_size --documents 20 --pages 800 --questions 60      # a quick look
python -m benchmarks.full_size --folder DIR                                   # keep the data and the results

Part 1 runs `python -m track1_mdr run --config lexical` on an official-layout page table in a child process.
Part 2 fits and scores the dense and the ColBERT route, with their store and MaxSim code, on the same pages: the
vectors are random ones of the right number and width (encoding 20,395 pages takes about an hour and says nothing
about memory), and the packaged models are loaded and run once, so that their memory counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.synthetic_pages import Size, write_dataset
from common.experiment import read_log

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 4 * 10**9


@dataclass
class Watched:
    """What a child process took: `peak` is VmHWM of the child, `peak_all` the sum over it and its children."""

    seconds: float
    peak: int
    peak_all: int
    code: int


def run_watched(command: list[str], log: Path) -> Watched:
    """Run `command` in its own process group, its output in `log`, and sample its memory ten times a second."""
    start = time.perf_counter()
    watched = Watched(0.0, 0, 0, 0)
    done = threading.Event()
    with log.open("wb") as output:
        child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

        def sample() -> None:
            while not done.wait(0.1):
                watched.peak = max(watched.peak, _status(child.pid, "VmHWM"))
                watched.peak_all = max(watched.peak_all, sum(_status(pid, "VmRSS") for pid in _group(child.pid)))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            watched.code = child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGTERM)
            raise
        finally:
            done.set()
            thread.join()
    watched.seconds = time.perf_counter() - start
    return watched


def _status(pid: int, field: str) -> int:
    """Return a field of /proc/PID/status in bytes; 0 when the process is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _group(leader: int) -> list[int]:
    """Return the processes of the leader's group."""
    members: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getpgid(int(entry.name)) == leader:
                    members.append(int(entry.name))
            except OSError:  # it ended between the two calls
                continue
    return members


def lexical(folder: Path) -> Watched:
    """Part 1: the pipeline from the page table to the validated submission."""
    out = folder / "lexical.csv"
    command = [sys.executable, "-m", "track1_mdr", "run", "--config", "lexical", "--data", str(folder)]
    watched = run_watched([*command, "--out", str(out), "--cache", str(folder / "cache")], folder / "lexical.log")
    show("lexical: page table to validated submission", watched, folder / "lexical.log")
    for row in reversed(read_log(ROOT / "runs")):
        if (row["submission"] or {}).get("path") == str(out):
            _print_stages(ROOT / "runs" / row["run"] / "run.json")
            break
    return watched


def _print_stages(record: Path) -> None:
    for stage in json.loads(record.read_text(encoding="utf-8"))["stages"]:
        print(
            f"  {stage['stage']:<32} {stage['wall_seconds']:8.1f} s wall {stage['cpu_seconds']:8.1f} s CPU"
            f"   peak {stage['peak_bytes'] / 2**30:5.2f} GiB"
        )


def vectors(folder: Path) -> Watched:
    """Part 2: the dense and the ColBERT route over the same pages, with random vectors."""
    command = [sys.executable, "-m", "benchmarks.full_size_vectors", str(folder)]
    watched = run_watched(command, folder / "vectors.log")
    show("dense and ColBERT routes, packaged models loaded, random vectors", watched, folder / "vectors.log")
    print(
        *(f"  {line}\n" for line in (folder / "vectors.log").read_text(encoding="utf-8").splitlines()), sep="", end=""
    )
    return watched


def show(what: str, watched: Watched, log: Path) -> None:
    verdict = "below" if watched.peak_all < LIMIT else "NOT BELOW"
    print(
        f"{what}\n  {watched.seconds:.0f} s, peak {watched.peak / 2**30:.2f} GiB in the main process, "
        f"{watched.peak_all / 2**30:.2f} GiB in all: {verdict} 4 GB; exit code {watched.code}",
        flush=True,
    )
    if watched.code:
        print(log.read_text(encoding="utf-8", errors="replace")[-3000:])


def run(folder: Path, size: Size, parts: list[str]) -> int:
    start = time.perf_counter()
    if not (folder / "mmdocir" / "gold.csv").is_file():
        write_dataset(folder, size)
    table = folder / "mmdocir" / "MMDocIR_doc_passages.parquet"
    print(
        f"{size.pages:,} pages in {size.documents} documents, {size.questions:,} questions, page table of "
        f"{table.stat().st_size / 1e9:.2f} GB, made in {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    results = [{"lexical": lexical, "vectors": vectors}[part](folder) for part in parts]
    return int(any(result.code or result.peak_all >= LIMIT for result in results))


def main() -> None:
    official = Size()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keep everything here (default: a temporary folder)")
    parser.add_argument("--documents", type=int, default=official.documents)
    parser.add_argument("--pages", type=int, default=official.pages)
    parser.add_argument("--questions", type=int, default=official.questions)
    parser.add_argument("--image-bytes", type=int, default=official.image_bytes, help="of each page's JPEG")
    parser.add_argument("--parts", nargs="+", choices=["lexical", "vectors"], default=["lexical", "vectors"])
    options = parser.parse_args()
    size = Size(options.documents, options.pages, options.questions, options.image_bytes)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="mirc-full-size-"))
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        code = run(folder, size, options.parts)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
