"""What a run left in its folder, read for a page: configuration, record, figures, predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.config import read_yaml
from common.errors import DataError, UserError
from common.pages.blocks import Gap
from common.runs import find
from track2_mmctr.datasets.tables import CtrData, SplitName
from track2_mmctr.predictions import logits_of, predictions_path, read_predictions

SCORED: tuple[SplitName, ...] = ("valid", "test")


@dataclass(frozen=True)
class RunFiles:
    """A run's folder.

    Attributes
    ----------
    folder
        The run's.
    config, record, metrics
        config.yaml, run.json and metrics.json; empty where the file is missing or not whole.
    missing
        Names of those files.
    """

    folder: Path
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    metrics: Mapping[str, Any]
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    @property
    def label(self) -> str:
        """Name of the configuration, or of the folder."""
        return str(self.config.get("name") or self.record.get("config") or self.name)

    @property
    def again(self) -> str:
        """The command that makes such a run."""
        return f"python -m track2_mmctr run --config runs/{self.name}/config.yaml"

    def setting(self, *keys: str) -> Any:
        """Return a value of the configuration by its keys, None where there is none."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def find_run(name: str, runs: Path) -> Path:
    """Return a run's folder, or another path that exists as it is given.

    Parameters
    ----------
    name
        A path, the name of a run in `runs` or its start or end, or "last": the newest finished run of this track.
    runs
        Where runs are kept.

    Raises
    ------
    DataError
        There is no such run, or several are meant.
    """
    if name != find.LAST and Path(name).exists():
        return Path(name)
    return find.find_run(runs, name, "track2")


def read_run(folder: Path) -> RunFiles:
    """Read what a run says of itself; predictions are read by `read_logits`.

    Raises
    ------
    DataError
        `folder` is none.
    """
    if not folder.is_dir():
        raise DataError(
            "not a run's folder",
            where=folder,
            expected="a folder with config.yaml and predictions/",
            got="a file" if folder.is_file() else "nothing",
            todo=f"a submission is scored by: python -m track2_mmctr score {folder}",
        )
    missing: list[str] = []
    return RunFiles(
        folder,
        config=_config(folder / "config.yaml", missing),
        record=_mapping(folder / "run.json", missing),
        metrics=_mapping(folder / "metrics.json", missing),
        missing=tuple(missing),
    )


def recorded_root(folder: Path) -> Path | None:
    """Return the data root that a run noted down; None where it did not, or where no such folder is left."""
    noted = _mapping(folder / "run.json", []).get("data")
    return Path(noted) if isinstance(noted, str) and Path(noted).is_dir() else None


def _config(path: Path, missing: list[str]) -> dict[str, Any]:
    try:
        return read_yaml(path)
    except (UserError, OSError):
        missing.append(path.name)
        return {}


def _mapping(path: Path, missing: list[str]) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if isinstance(value, dict):
        return value
    missing.append(path.name)
    return {}


def read_logits(run: RunFiles, data: CtrData) -> tuple[dict[SplitName, np.ndarray], list[Gap]]:
    """Return the logits of the splits whose labels are known, checked against the data, and why others are not there.

    Raises
    ------
    DataError
        The predictions are damaged, or of other data.
    """
    found: dict[SplitName, np.ndarray] = {}
    gaps: list[Gap] = []
    for name in SCORED:
        file = predictions_path(run.folder, name)
        if name not in data.splits:
            todo = f"add MicroLens_1M_x1/{name}.parquet to the data root, and run again: {run.again}"
            gaps.append(Gap(f"The data has no {name} split.", todo))
        elif not file.is_file():
            gaps.append(Gap(f"The run has no predictions of {name}: predictions/{name}.parquet.", run.again))
        else:
            logits = logits_of(read_predictions(file), data.splits[name])
            gap = _unlabelled(data, name)
            if gap is None:
                found[name] = logits
            else:
                gaps.append(gap)
    return found, gaps


def _unlabelled(data: CtrData, name: SplitName) -> Gap | None:
    label = data.splits[name].label
    if label is None:
        where = "the real test set's are not public; answers.parquet beside it where you have them"
        return Gap(f"The labels of {name} are not known, so that there are no figures of it.", where)
    if not len(label) or np.min(label) == np.max(label):
        return Gap(f"All rows of {name} are of one class: there is no AUC.", "score data with clicks and no clicks")
    return None
