"""Planted click data in the challenge's layout, with a known oracle: `python -m benchmarks.planted_ctr OUT --seed 7`.

Items lie in a latent space of 64 taste clusters, with a heavy tail of popularity. A user has one to three clusters
and a history drawn from them; about ten rows share a user. A click depends on the affinity of the target to the
mean of the history (which needs the history), a little on the target's likes level, and on logistic noise. The
128-d embedding is a noisy linear image of the latent vector. `answers.parquet` and the split files carry the true
log-odds in `oracle`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from common.atomic import atomic_folder

CLUSTERS, LATENT, DIM = 64, 16, 128
WIDTH, TAGS, TAG_VOCABULARY = 100, 5, 11740
NOISE = 0.8
CLICKS = 0.18


@dataclass(frozen=True)
class Items:
    """N + 1 items, row 0 the padding: latent vectors, clusters, levels, tags, embedding; draws by popularity."""

    latent: np.ndarray
    members: list[np.ndarray]
    cumulative: list[np.ndarray]
    levels: np.ndarray
    tags: np.ndarray
    embedding: np.ndarray

    def draw(self, clusters: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return one item of each cluster, by popularity."""
        drawn = np.empty(len(clusters), np.int64)
        luck = rng.random(len(clusters))
        for cluster in range(CLUSTERS):
            at = clusters == cluster
            drawn[at] = self.members[cluster][np.searchsorted(self.cumulative[cluster], luck[at])]
        return drawn


def make_items(count: int, rng: np.random.Generator) -> Items:
    """Return `count` items and the padding row."""
    centres = rng.normal(size=(CLUSTERS, LATENT))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    cluster = np.concatenate([[-1], rng.permutation(np.arange(count) % CLUSTERS)])
    latent = centres[cluster] + 0.35 / np.sqrt(LATENT) * rng.normal(size=(count + 1, LATENT))
    popularity = rng.pareto(1.1, count + 1) + 0.05
    rank = popularity.argsort().argsort() / count
    levels = np.rint(rank[:, None] * 9 + rng.normal(0, 0.8, (count + 1, 2))).astype(np.int64).clip(0, 9) + 1
    image = rng.normal(size=(LATENT, DIM)) / np.sqrt(LATENT)
    embedding = latent @ image + 0.5 / np.sqrt(LATENT) * rng.normal(size=(count + 1, DIM))
    pools = rng.integers(1, TAG_VOCABULARY, (CLUSTERS, 120))
    own = pools[cluster[:, None], rng.integers(0, 120, (count + 1, TAGS))]
    tags = np.where(rng.random(own.shape) < 0.8, own, rng.integers(1, TAG_VOCABULARY, own.shape))
    tags[np.arange(TAGS) >= rng.integers(0, TAGS + 1, (count + 1, 1))] = 0
    for table in (latent, levels, embedding, tags):
        table[0] = 0
    members = [np.flatnonzero(cluster == c) for c in range(CLUSTERS)]
    weights = [np.cumsum(popularity[ids] ** 0.7) for ids in members]
    return Items(latent, members, [w / w[-1] for w in weights], levels, tags, embedding)


def make_rows(rows: int, first_user: int, items: Items, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the columns of one split, and `oracle`, the true log-odds of a click."""
    users = max(1, rows // 10)
    owner = np.sort(rng.integers(0, users, rows))
    several = rng.integers(0, CLUSTERS, (users, 3))
    taste = np.where(np.arange(3) < rng.integers(1, 4, (users, 1)), several, several[:, :1])
    length = np.clip(rng.geometric(1 / 12, users) + 2, 3, WIDTH)
    of = np.repeat(np.arange(users), length)
    chosen = taste[of, rng.integers(0, 3, len(of))]
    history = items.draw(np.where(rng.random(len(of)) < 0.1, rng.integers(0, CLUSTERS, len(of)), chosen), rng)
    table = np.zeros((users, WIDTH), np.int64)
    place = np.arange(len(of)) - np.repeat(np.cumsum(length) - length, length)
    table[of, WIDTH - length[of] + place] = history
    near = taste[owner, rng.integers(0, 3, rows)]
    target = items.draw(np.where(rng.random(rows) < 0.35, near, rng.integers(0, CLUSTERS, rows)), rng)
    mean = np.zeros((users, LATENT))
    np.add.at(mean, of, items.latent[history])
    mean /= np.linalg.norm(mean, axis=1, keepdims=True) + 1e-9
    score = 6 * (mean[owner] * items.latent[target]).sum(1) + 0.25 * (items.levels[target, 0] - 5.5)
    noisy = score + rng.logistic(0, NOISE, rows)
    threshold = np.quantile(noisy, 1 - CLICKS)
    order = rng.permutation(rows)
    columns = {
        "user_id": owner + first_user,
        "item_seq": table[owner],
        "item_id": target,
        "likes_level": items.levels[target, 0],
        "views_level": items.levels[target, 1],
        "label": (noisy > threshold).astype(np.int64),
        "oracle": (score - threshold) / NOISE,
    }
    return {name: values[order] for name, values in columns.items()}


def column(values: np.ndarray) -> pa.Array:
    """Return a column; of a matrix, one of lists."""
    if values.ndim == 1:
        return pa.array(values)
    offsets = pa.array(np.arange(0, values.size + 1, values.shape[1], dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))


def write(path: Path, columns: Mapping[str, np.ndarray | list[str]]) -> None:
    """Write a parquet file."""
    made = {name: pa.array(v) if isinstance(v, list) else column(v) for name, v in columns.items()}
    pq.write_table(pa.table(made), path)


def make_planted(out: Path, rows: int, evaluated: int, items: int, seed: int) -> None:
    """Write the layout to the folder `out`: train of `rows` rows, valid and test of `evaluated` rows."""
    rng = np.random.default_rng(seed)
    table = make_items(items, rng)
    ids = np.arange(items + 1)
    first_user = 1
    with atomic_folder(out) as folder:
        inner = folder / "MicroLens_1M_x1"
        inner.mkdir()
        for name, count in (("train", rows), ("valid", evaluated), ("test", evaluated)):
            columns = make_rows(count, first_user, table, rng)
            first_user += max(1, count // 10)
            if name == "test":
                answers = {"ID": np.arange(count), "label": columns.pop("label"), "oracle": columns.pop("oracle")}
                write(folder / "answers.parquet", answers)
                columns = {"ID": np.arange(count), **columns}
            write(inner / f"{name}.parquet", columns)
        info = {"item_id": ids, "item_tags": table.tags, "item_emb_d128": table.embedding}
        write(inner / "item_info.parquet", info)
        feature = {
            "item_id": ids[1:],
            "item_title": [f"item {number}" for number in ids[1:]],
            "item_tags": table.tags[1:],
            "likes_level": table.levels[1:, 0],
            "views_level": table.levels[1:, 1],
        }
        write(folder / "item_feature.parquet", feature)


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write (replaced): a data root for --data")],
    rows: Annotated[int, typer.Option(help="Training rows")] = 200_000,
    evaluated: Annotated[int, typer.Option(help="Rows of valid, and of test")] = 20_000,
    items: Annotated[int, typer.Option(help="Items, at least 64")] = 91_717,
    seed: int = 7,
) -> None:
    """Write planted click data in the challenge's layout."""
    make_planted(out, rows, evaluated, items, seed)
    typer.echo(f"wrote {out}; next: python -m track2_mmctr run --data {out}")


if __name__ == "__main__":
    typer.run(main)
