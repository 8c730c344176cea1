"""Uni-Code on MovieLens: genres from one modality's codes, asked on the other's."""

import os
from pathlib import Path

import pytest
import torch

from benchmarks.uni_code_real import TEXT, read_movies, run_arm
from track2_mmctr.datasets.movielens import prepare_movielens


@pytest.mark.real
@pytest.mark.timeout(1800)
def test_genres_pass_from_overviews_to_posters_and_back(tmp_path: Path, root: Path) -> None:
    """With a cache in MIRC_CACHE minutes; without one the posters are encoded first."""
    places = [Path(place) for place in (os.environ.get("MIRC_DATA"), root.parent / "shared" / "data") if place]
    source = next((place for place in places if (place / "ml-100k-posters").is_dir()), None)
    if source is None:
        pytest.skip("no MovieLens with posters: set MIRC_DATA to a folder with ml-100k/ and ml-100k-posters/ in it")
    torch.set_num_threads(1)
    prepare_movielens(source, tmp_path / "data")
    movies = read_movies(tmp_path / "data", Path(os.environ.get("MIRC_CACHE") or tmp_path / "cache"), TEXT)
    assert len(movies.ids) == 1660
    whole = run_arm(movies, 0, {})
    apart = run_arm(movies, 0, {"cpc": "none", "ema": "none", "cmcm": False})
    placebo = run_arm(movies, 0, {}, placebo=True)
    assert whole["transfer AUC"] > 0.6
    assert whole["transfer AUC"] > apart["transfer AUC"] + 0.08
    assert whole["transfer AUC"] > placebo["transfer AUC"] + 0.08
