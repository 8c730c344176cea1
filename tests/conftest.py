"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    # Tests never ask a hub; a model that is not at hand is an error, not a download.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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
