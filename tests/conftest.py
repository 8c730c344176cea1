"""Fixtures that all tests share."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pages.browser import browser_page as browser_page
from tests.pages.browser import chromium as chromium

if TYPE_CHECKING:
    from track1_mdr.pipeline import RunResult

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    # Tests never ask a hub; a model that is not at hand is an error, not a download.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command lines do: see common.cli.main


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The root of the real data; skips the test, saying so, when it is not there."""
    for candidate in (os.environ.get("MIRC_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "mmdocir" / "MMDocIR_gt_remove.jsonl").is_file():
            return Path(candidate).resolve()
    pytest.skip("no real data: set MIRC_DATA to a folder with mmdocir/ in it")


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@dataclass(frozen=True)
class SampleRun:
    """One run of the lexical configuration on the shipped sample, with what it printed and where it kept things."""

    result: "RunResult"
    said: list[str]
    cache: Path
    home: Path


@pytest.fixture(scope="session")
def sample_run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> SampleRun:
    """The lexical configuration on the sample, OCR included, once a session; its cache serves other tests."""
    from track1_mdr.app import run_config

    home = tmp_path_factory.mktemp("sample_run")
    said: list[str] = []
    result = run_config(
        "lexical",
        [],
        root / "data" / "sample",
        None,
        home / "cache",
        home,
        lambda config, _: home / "submissions" / f"{config}.csv",
        said.append,
    )
    return SampleRun(result, said, home / "cache", home)
