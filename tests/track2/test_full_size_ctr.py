"""The full-size benchmark's own parts: the made-up data has the official shape and passes the readers."""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import full_size_ctr
from track2_mmctr.config import DataConfig, FeatureConfig
from track2_mmctr.datasets.microlens import find_folder, load_data


def options(**changes: object) -> argparse.Namespace:
    sizes = {"rows": 500, "valid_rows": 60, "test_rows": 70, "items": 300, "width": 20, "group": 128, "seed": 7}
    return argparse.Namespace(**{**sizes, **changes})


def test_the_made_up_set_passes_the_readers(tmp_path: Path) -> None:
    full_size_ctr.write(tmp_path, options())
    data = load_data(find_folder(tmp_path), DataConfig(), FeatureConfig(), tmp_path / "cache")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 500, "valid": 60, "test": 70}
    assert len(data.items) == 301
    assert 9 < data.train.lengths.mean() < 20 and data.train.lengths.max() <= 20
    assert data.splits["test"].ids.tolist() == list(range(70))  # pyright: ignore[reportOptionalMemberAccess]
    file = pq.ParquetFile(tmp_path / full_size_ctr.INNER / "train.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [128, 128, 128, 116]


def test_popularity_has_a_heavy_tail() -> None:
    drawn = full_size_ctr.popular(np.random.default_rng(0), 50_000, 1000)
    assert drawn.min() >= 1 and drawn.max() <= 1000
    assert (drawn <= 100).mean() == pytest.approx(0.1 ** (1 / 3.3), abs=0.01)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc, which Linux has")
def test_memory_is_really_measured(root: Path) -> None:
    code = (
        "import numpy as np; from benchmarks.full_size_ctr import peak_memory as p\n"
        "before = p(); a = np.ones(30_000_000); del a; print(p() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert 0.8 * 240e6 < int(done.stdout) < 2 * 240e6
