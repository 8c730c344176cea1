"""Uni-Code on MovieLens: a genre classifier fitted on one modality's codes, asked on the other's.

    python -m benchmarks.uni_code_real vectors   --data DIR --out DIR
    python -m benchmarks.uni_code_real movielens --data DIR --seeds 3

DIR is made by `python -m track2_mmctr prepare movielens`. Texts are overviews through a sentence encoder, images are
posters through EfficientNet-lite0, one vector a movie each: T = 1. `movielens` leaves out those without one of the two.

`movielens` splits the movies (70 / 30, anew each seed), fits Uni-Code on the pairs of the first part alone, then on
the codes' vectors of one modality a logistic regression a genre, and asks it on the second part: on the same modality
(own) and on the other (transfer). Figures are means over the genres of at least 60 movies: AUC (chance 0.5) and average
precision, whose chance is the genres' mean share. Arms: everything, no alignment, shuffled pairs, ablations; and
the encoders' own vectors, which know no other modality. `vectors` writes the two files that
`python -m common.tokenizers uni-code --missing other` reads: titles with overviews, and posters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks.planted_arms import Run, over_seeds, rows
from common.atomic import atomic_path
from common.errors import DataError
from common.tokenizers.quality import perplexity
from common.tokenizers.uni_code import UniCode, UniCodeConfig

LEAST = 60
"""Movies that a genre has at least, to be asked for."""
ARMS: dict[str, dict[str, Any]] = {
    "everything": {},
    "no Cross-CPC": {"cpc": "none"},
    "no MM-EMA": {"ema": "none"},
    "no code matching": {"cmcm": False},
    "no MI": {"mi": "none"},
    "no reset": {"reset": "none"},
    "no alignment": {"cpc": "none", "ema": "none", "cmcm": False},
}
FIGURES = ("transfer AUC", "own AUC", "text to image", "image to text", "transfer AP", "agreement", "perplexity")

app = typer.Typer(no_args_is_help=True, add_completion=False)
DataOption = Annotated[Path, typer.Option("--data", help="Made by: python -m track2_mmctr prepare movielens")]
CacheOption = Annotated[Path, typer.Option("--cache", help="Folder of the encoders' resumable stores")]
ModelOption = Annotated[str, typer.Option("--text-model", help="Encoder of the overviews")]
CACHE, TEXT = Path("data/cache"), "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Movies:
    """Movies that have both modalities: ids int64 [N], vectors float32 [N, D_m], genres bool [N, G], what made them."""

    ids: np.ndarray
    features: dict[str, np.ndarray]
    genres: np.ndarray
    names: list[str]
    encoders: dict[str, str]


def read_modalities(data: Path, cache: Path, text_model: str, fields: list[str]) -> list[Any]:
    """Return texts (of the fields named) and posters as `Modality`, one row a movie; encode what `cache` lacks."""
    from common.faults import FaultLog
    from track2_mmctr.embeddings.catalogue import read_catalogue
    from track2_mmctr.embeddings.config import EmbedConfig
    from track2_mmctr.embeddings.encode import Tools, load_modalities

    config, faults = EmbedConfig.model_validate({"fields": fields, "text": {"model": text_model}}), FaultLog()
    modalities, _ = load_modalities(read_catalogue(data), config, Tools(cache, "cpu", 1, faults), [])
    faults.check(0, "mend these posters, or take them away")
    return modalities


def read_movies(data: Path, cache: Path, text_model: str) -> Movies:
    """Read a prepared root; what is not in `cache` yet is encoded.

    Raises
    ------
    DataError
        No such root, no genres in it, or no movie with both modalities.
    """
    import polars as pl

    from track2_mmctr.embeddings.catalogue import FEATURE

    modalities = read_modalities(data, cache, text_model, ["overview"])
    for part in modalities:
        missing = int((~part.present).sum())
        typer.echo(f"{missing} of {len(part.present):,} movies have no {part.name}: left out", err=True)
    table = pl.read_parquet(data / FEATURE)
    if "item_genres" not in table.columns:
        raise DataError("the items have no genres", where=data / FEATURE, expected="a column item_genres")
    words = dict(zip(table["item_id"].to_list(), table["item_genres"].to_list(), strict=True))
    have = np.logical_and.reduce([part.present for part in modalities])
    ids = 1 + np.flatnonzero(have)
    if not len(ids):
        raise DataError("no movie has an overview and a poster", where=data)
    lists = [set((words[item] or "").split(", ")) for item in ids.tolist()]
    names = sorted({name for one in lists for name in one} - {"", "unknown"})
    genres = np.array([[name in one for name in names] for one in lists])
    often = genres.sum(0) >= LEAST
    return Movies(
        ids=ids,
        features={part.name: np.ascontiguousarray(part.vectors[have], np.float32) for part in modalities},
        genres=genres[:, often],
        names=[name for name, kept in zip(names, often, strict=True) if kept],
        encoders={part.name: part.encoder for part in modalities},
    )


def config(**changes: Any) -> UniCodeConfig:
    """Return the configuration of these runs: linear encoders and few specific features, for a thousand pairs.

    Chosen on the split of seed 100, which no table holds.
    """
    fit = {"epochs": 30, "learning_rate": 1e-3, "weight_decay": 0.01, "clip_norm": 0.5, "figure": "score"}
    fit |= {"schedule": {"type": "constant"}, "evaluate_every": 30}
    base: dict[str, Any] = {"codes": 64, "dim": 64, "specific_dim": 8, "depth": 0, "context_dim": 64}
    base |= {"reset_after": 60, "active_within": 20, "validation": 0.0, "fit": fit}
    return UniCodeConfig.model_validate(base | changes)


def genre_scores(train: np.ndarray, genres: np.ndarray, asked: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fit a logistic regression a genre on vectors [N, D]; return its log-odds [M, G] of other vectors by name."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    found = {name: np.empty((len(x), genres.shape[1])) for name, x in asked.items()}
    for genre in range(genres.shape[1]):
        probe = LogisticRegression(max_iter=200, C=0.1).fit(scaler.transform(train), genres[:, genre])
        for name, x in asked.items():
            found[name][:, genre] = probe.decision_function(scaler.transform(x))
    return found


def judged(genres: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """Return the means over genres of AUC and average precision."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    return float(roc_auc_score(genres, scores)), float(average_precision_score(genres, scores))


def run_arm(movies: Movies, seed: int, changes: dict[str, Any], *, placebo: bool = False) -> dict[str, float]:
    """Return the figures of one arm; `placebo` fits on posters dealt to other movies."""
    rng = np.random.default_rng((seed, 41))
    order = rng.permutation(len(movies.ids))
    train, test = np.sort(order[: int(0.7 * len(order))]), np.sort(order[int(0.7 * len(order)) :])
    pairs = {name: x[train] for name, x in movies.features.items()}
    shown = pairs | {"image": pairs["image"][rng.permutation(len(train))]} if placebo else pairs
    tokenizer = UniCode(config(**changes)).fit(shown, seed=seed)
    codes = {name: tokenizer.encode(name, x[test])[:, 0] for name, x in movies.features.items()}
    asked = {name: tokenizer.embed(part) for name, part in codes.items()}
    judged_on: dict[tuple[str, str], tuple[float, float]] = {}
    for source, x in pairs.items():
        known = tokenizer.embed(tokenizer.encode(source, x)[:, 0])
        scores = genre_scores(known, movies.genres[train], asked)
        judged_on |= {(source, target): judged(movies.genres[test], scores[target]) for target in scores}
    there, back = judged_on["text", "image"], judged_on["image", "text"]
    uses = np.bincount(np.concatenate(list(codes.values())), minlength=tokenizer.config.codes)
    return {
        "transfer AUC": (there[0] + back[0]) / 2,
        "own AUC": (judged_on["text", "text"][0] + judged_on["image", "image"][0]) / 2,
        "text to image": there[0],
        "image to text": back[0],
        "transfer AP": (there[1] + back[1]) / 2,
        "agreement": float((codes["text"] == codes["image"]).mean()),
        "perplexity": perplexity(uses),
    }


def ceiling(movies: Movies, seed: int) -> dict[str, float]:
    """Return what the encoders' own vectors tell of genres: the most that codes of them can."""
    order = np.random.default_rng((seed, 41)).permutation(len(movies.ids))
    train, test = np.sort(order[: int(0.7 * len(order))]), np.sort(order[int(0.7 * len(order)) :])
    found = []
    for x in movies.features.values():
        scores = genre_scores(x[train], movies.genres[train], {"own": x[test]})["own"]
        found.append(judged(movies.genres[test], scores))
    return {"own AUC": float(np.mean([auc for auc, _ in found]))}


def arms(movies: Movies, seed: int) -> Iterator[tuple[str, Run]]:
    """Yield each arm's name and what computes its figures."""
    for name, changes in ARMS.items():
        yield name, lambda changes=changes: run_arm(movies, seed, dict(changes))
    yield "shuffled pairs (placebo)", lambda: run_arm(movies, seed, {}, placebo=True)
    yield "encoders' vectors, own modality", lambda: ceiling(movies, seed)


@app.command()
def vectors(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Folder for text.parquet and image.parquet")],
    cache: CacheOption = CACHE,
    text_model: ModelOption = TEXT,
) -> None:
    """Write item_id and vector of the movies' titles with overviews, and of their posters; not all movies have both."""
    for part in read_modalities(data, cache, text_model, ["title", "overview"]):
        x = np.ascontiguousarray(part.vectors[part.present], np.float32)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
        table = pa.table({"item_id": pa.array(1 + np.flatnonzero(part.present)), "vector": lists})
        with atomic_path(out / f"{part.name}.parquet") as temporary:
            pq.write_table(table, temporary, compression="zstd")
        typer.echo(f"wrote {out / f'{part.name}.parquet'}: {x.shape[0]} vectors of {x.shape[1]} by {part.encoder}")


@app.command()
def movielens(
    data: DataOption,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    cache: CacheOption = CACHE,
    text_model: ModelOption = TEXT,
) -> None:
    """Print the table of arms: mean ± sd over seeds, each with a split of its own."""
    import torch

    torch.set_num_threads(1)
    movies = read_movies(data, cache, text_model)
    typer.echo(
        f"{len(movies.ids):,} movies with overview and poster, {len(movies.names)} genres; chance: AUC 0.5, "
        f"AP {movies.genres.mean():.3f}"
    )
    found, took = over_seeds(lambda seed: arms(movies, seed), seeds)
    for line in rows(found, took, FIGURES):
        typer.echo(line)


if __name__ == "__main__":
    app()
