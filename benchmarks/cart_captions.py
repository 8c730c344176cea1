"""CART on planted captions: what each of its parts brings, beside dense retrieval of the same captions.

    python -m benchmarks.cart_captions [--seeds 3] [--items 512] [--epochs 30] [--arm full --arm "no KL"]

Each item has an image vector, which its ID is made of, and captions of all its attributes in invented words. The
first caption of an item is a training query, the others are those that query augmentation adds; paraphrases with
another frame, another order and another choice of synonyms are held out. The peers keep a vector of each item's
captions in a FAISS index: TF-IDF, and mean word vectors (a truncated SVD of TF-IDF, fitted on the items' captions,
where synonyms meet). All arms take about as many steps. R@k in %, mean over the seeds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from common.generative.cart_ids import CartIds, CartIdsConfig
from common.planted import Planted, PlantedConfig, plant
from common.tokenizers.semantic_ids import SemanticIdMap

AT = (1, 5, 10)
ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "no KL": {"omega": 0.0},
    "no fusion": {"fusion": "none"},
    "coarse fusion only": {"fusion": "coarse"},
    "fine fusion only": {"fusion": "fine"},
    "no augmentation": {"augment": False},
    "decoder-only": {"architecture": "decoder_only"},
    "no k-means": {"ids": {"coarse": 0}},
    "no RQ": {"ids": {"fine": ()}},
    "no unique token": {"ids": {"unique": False}},
    "random IDs": {"random": True},
    "shuffled items": {"shuffle": True},
}
FIT: dict[str, Any] = {"schedule": {"type": "cosine", "warmup_steps": 50}}
PEERS = ("TF-IDF, FAISS", "mean word vectors, FAISS")


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    items: int
    captions: int
    epochs: int
    dim: int


@dataclass(frozen=True)
class Line:
    """What one arm reached on one seed."""

    arm: str
    seed: int
    train: tuple[float, ...]
    held_out: tuple[float, ...]
    ids: int
    valid: float
    seconds: float


def plant_captions(size: Size, seed: int) -> Planted:
    """Plant items that differ in what a caption tells: every modality sees all three attributes."""
    every = (0, 1, 2)
    values = int(np.ceil(size.items ** (1 / 3)))
    config = PlantedConfig(
        items=size.items,
        attributes=3,
        values=max(values, 2),
        image=every,
        text=every,
        behaviour=every,
        captions=size.captions,
        rows=1,
        users=1,
    )
    return plant(config, seed)


def make_ids(planted: Planted, change: dict[str, Any], seed: int) -> CartIds:
    """Return the IDs of an arm; random ones have the sizes of the planted ones."""
    values = planted.config.values
    levels = {"coarse": 2 * values, "fine": (2 * values, 2 * values)} | change.get("ids", {})
    ids = CartIds.fit(planted.image, CartIdsConfig(**levels), seed=seed)
    if not change.get("random"):
        return ids
    return CartIds(ids.quantizer, SemanticIdMap.random(len(planted), ids.id_map.sizes, seed), ids.rows)


def recalls(found: np.ndarray) -> tuple[float, ...]:
    """Return R@k of items int64 [N, 10], where query i is answered by item i."""
    hits = found == np.arange(len(found))[:, None]
    return tuple(float(hits[:, :k].any(1).mean()) for k in AT)


def run_arm(arm: str, planted: Planted, size: Size, seed: int) -> Line:
    """Train one arm and search by its training queries and by the held-out ones."""
    from common.generative.cart import CartConfig, train_cart

    change, count = dict(ARMS[arm]), len(planted)
    ids = make_ids(planted, change, seed)
    model_change = {key: value for key, value in change.items() if key not in ("ids", "random", "shuffle")}
    epochs = size.epochs * (1 if change.get("augment", True) else size.captions)
    config = CartConfig.model_validate(
        {"dim": size.dim, "feedforward": 2 * size.dim, "fit": FIT | {"epochs": epochs}} | model_change
    )
    rows = ids.rows if not change.get("shuffle") else np.random.default_rng(seed).permutation(ids.rows)
    first = [own[0] for own in planted.captions]
    extra = [(text, row) for own, row in zip(planted.captions, rows.tolist(), strict=True) for text in own[1:]]
    if change.get("shuffle"):  # captions of one item go to different items: nothing is left to learn
        other = np.random.default_rng(seed + 1).permutation([row for _, row in extra]).tolist()
        extra = [(text, row) for (text, _), row in zip(extra, other, strict=True)]
    captions = ([text for text, _ in extra], np.array([row for _, row in extra], dtype=np.int64))
    started = time.process_time()
    model = train_cart(first, rows, ids.id_map, config, captions=captions, seed=seed)
    seconds = time.process_time() - started
    found = [
        ids.expand(model.rank(texts, beam=20, top_k=10), 10).items.numpy()
        for texts in (first, [own[0] for own in planted.paraphrases])
    ]
    valid = float(np.mean([((one >= 0) & (one < count)).mean() for one in found]))
    return Line(arm, seed, recalls(found[0]), recalls(found[1]), len(ids.id_map), valid, seconds)


def run_peer(peer: str, planted: Planted, seed: int) -> Line:
    """Search a FAISS index of one vector an item, made of all its training captions."""
    import faiss
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    started = time.process_time()
    vectorizer = TfidfVectorizer()
    documents = vectorizer.fit_transform([" ".join(own) for own in planted.captions])
    width = min(3 * planted.config.values, documents.shape[1] - 1)  # one a value: synonyms stand for each other
    svd = None if peer.startswith("TF-IDF") else TruncatedSVD(width, random_state=seed).fit(documents)

    def vectors(matrix: Any) -> np.ndarray:
        dense = matrix.toarray() if svd is None else svd.transform(matrix)
        dense = np.ascontiguousarray(dense, dtype=np.float32)
        return dense / np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-12)

    index = faiss.IndexFlatIP(vectors(documents).shape[1])
    index.add(vectors(documents))  # pyright: ignore[reportCallIssue]
    both = ([own[0] for own in planted.captions], [own[0] for own in planted.paraphrases])
    found = [index.search(vectors(vectorizer.transform(texts)), 10)[1] for texts in both]  # pyright: ignore[reportCallIssue]
    seconds = time.process_time() - started
    return Line(peer, seed, recalls(found[0]), recalls(found[1]), len(planted), 1.0, seconds)


def table(lines: Sequence[Line], title: str) -> Table:
    """Return the table of all arms: means over the seeds, and the standard deviation of held-out R@1."""
    out = Table(title=title, title_justify="left")
    columns = ["arm", "different IDs", *(f"train R@{k}" for k in AT), *(f"held out R@{k}" for k in AT)]
    for place, name in enumerate([*columns, "± (R@1)", "gap (R@1)", "valid", "CPU s"]):
        out.add_column(name, justify="right" if place else "left")
    for arm in dict.fromkeys(line.arm for line in lines):
        own = [line for line in lines if line.arm == arm]
        train, held_out = np.mean([line.train for line in own], 0), np.mean([line.held_out for line in own], 0)
        spread = np.std([line.held_out[0] for line in own], ddof=1) if len(own) > 1 else float("nan")
        out.add_row(
            arm,
            f"{np.mean([line.ids for line in own]):.0f}",
            *(f"{100 * value:.1f}" for value in (*train, *held_out)),
            f"{100 * spread:.1f}",
            f"{100 * (train[0] - held_out[0]):.1f}",
            f"{100 * np.mean([line.valid for line in own]):.0f}",
            f"{np.mean([line.seconds for line in own]):.1f}",
        )
    return out


def main(
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    items: Annotated[int, typer.Option(min=8)] = 512,
    captions: Annotated[int, typer.Option(min=2, help="of each item")] = 2,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    dim: Annotated[int, typer.Option(min=8)] = 64,
    arm: Annotated[list[str] | None, typer.Option("--arm", help="one of the arms; repeatable; default: all")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    results: Annotated[Path | None, typer.Option(help="JSON lines are appended here")] = None,
) -> None:
    """Train CART's arms on planted captions and print one table."""
    import torch

    torch.set_num_threads(threads)
    unknown = sorted({*(arm or ())} - {*ARMS})
    if unknown:
        raise typer.BadParameter(f"no such arm: {', '.join(unknown)}; known: {', '.join(ARMS)}")
    size, lines = Size(items, captions, epochs, dim), []
    for seed in range(seeds):
        planted = plant_captions(size, seed)
        lines += [run_peer(peer, planted, seed) for peer in PEERS]
        for name in arm or ARMS:
            lines.append(run_arm(name, planted, size, seed))
            typer.echo(json.dumps(vars(lines[-1])))
            if results is not None:
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(vars(lines[-1])) + "\n")
    title = f"{items} items, {captions} captions each, {epochs} epochs, width {dim}, {seeds} seeds (%)"
    Console(width=180).print(table(lines, title))


if __name__ == "__main__":
    typer.run(main)
