"""UIST on planted data: bytes on disk, AUC of codes against dense vectors, placebos, ablations, the decoder.

Items: 20,000 additive vectors of 256 numbers, 3 levels of 16 codewords. Users: a tree of groups, whose place sets
their preferences over the codewords; histories are drawn by preference, clicks by the true log-odds. In the coarse
world only the first codeword and the user's first group decide.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from common.metrics.ctr import auc
from common.planted import Clicks, PlantedConfig, Tastes, additive_vectors, plant, tree_vectors
from common.planted_clicks import make_clicks
from common.representation.inputs import Behaviour, Items, Tokens
from common.representation.uist.config import UistConfig
from common.representation.uist.method import Uist
from common.representation.uist.network import SequenceTokenizer, TokenGroup
from common.representation.uist.scorer import ClickRows, CtrScorer, Features, Pairs, ScorerConfig, fit_scorer, predict
from common.representation.uist.sources import SPECIAL
from common.representation.uist.storage import write_codes
from common.training.fit import FitConfig
from common.training.tensors import write_tensors

DIM, LEVELS, CODES = 256, 3, 16
SIZES = (64, 64, 64, 64)


@dataclass(frozen=True, eq=False)
class World:
    """Planted items, histories and clicks (train, valid, test)."""

    items: Items
    behaviour: Behaviour
    train: Clicks
    valid: Clicks
    test: Clicks


def make_world(
    seed: int,
    *,
    items: int = 20_000,
    users: int = 2_000,
    dim: int = DIM,
    history: int = 30,
    rows: int = 80_000,
    coarse: bool = False,
    taste: float = 2.0,
) -> World:
    """Return a planted world; same arguments, same bytes."""
    rng = np.random.default_rng((seed, 21))
    vectors, values = additive_vectors(items, dim, LEVELS, CODES, 0.05, seed)
    seen = values[:, :1] if coarse else values
    groups, noise = ((8,), 0.0) if coarse else ((8, 8), 0.1)
    wishes = tree_vectors(users, seen.shape[1] * CODES, groups, noise, seed + 1)[0].astype(np.float64)
    wishes *= taste / seen.shape[1] ** 0.5 / wishes.std()
    popularity = (1.0 + rng.permutation(items)) ** -0.7
    popularity /= popularity.sum()
    tastes = Tastes(wishes.reshape(users, seen.shape[1], CODES), seen, -1.0)
    past = tastes.histories(history, 1.0, popularity, rng)
    clicks = make_clicks(tastes, popularity, rows, rng)
    cuts = [0, int(0.7 * rows), int(0.8 * rows), rows]
    train, valid, test = (clicks.rows(start, stop) for start, stop in pairwise(cuts))
    tokens = Tokens.pooled(vectors, encoder="planted")
    return World(
        Items(np.arange(items), [""] * items, {"image": tokens}),
        Behaviour(np.arange(users), past.reshape(-1), np.arange(users + 1) * history),
        train,
        valid,
        test,
    )


def dense(world: World) -> tuple[Features, Features]:
    """Return dense vectors of users (means of their histories) and items."""
    vectors = world.items.modalities["image"].mean()
    means = vectors[world.behaviour.items.reshape(len(world.behaviour), -1)].mean(1)
    return Features(means), Features(vectors)


def coded(world: World, config: UistConfig, seed: int) -> tuple[Features, Features, Uist]:
    """Return codes of users and items, and the method that gave them."""
    method = Uist(config).fit(world.items, world.behaviour, seed=seed, say=lambda _: None)
    items = method.transform(world.items).columns["codes"]
    users = method.transform_users(world.items, world.behaviour).columns["codes"]
    return Features(users, config.sizes("users")), Features(items, config.sizes("items")), method


def shuffled(features: Features, seed: int) -> Features:
    """Return the features with rows dealt to other owners."""
    order = np.random.default_rng((seed, 22)).permutation(len(features.values))
    return Features(features.values[order], features.sizes)


def ctr_auc(
    world: World, users: Features, items: Features, seed: int, pairs: Pairs = "all", *, luck: bool = False
) -> tuple[float, CtrScorer]:
    """Train a click model; return its AUC on test, and itself. `luck` shuffles the training labels."""
    config = ScorerConfig(pairs=pairs)
    label = np.random.default_rng((seed, 23)).permutation(world.train.label) if luck else world.train.label
    train = (world.train.users, world.train.items, label)
    valid = (world.valid.users, world.valid.items, world.valid.label)
    model, _ = fit_scorer(users, items, train, valid, config, seed=seed)
    rows = ClickRows(users, items, (world.test.users, world.test.items, world.test.label), config.batch_size, seed)
    return auc(world.test.label, predict(model, rows)), model


def bytes_on_disk(items: Features, width: int) -> dict[str, float]:
    """Return how many times smaller than fp32 vectors [N, width] the items' codes are on disk, and with tables.

    The tables are the click model's, one vector of the same `width` a code in fp32.
    """
    with tempfile.TemporaryDirectory() as name:
        dense_file, code_file, table_file = (
            Path(name) / f"{kind}.safetensors" for kind in ("dense", "codes", "tables")
        )
        write_tensors(dense_file, {"x": torch.zeros(len(items.values), width)}, {})
        write_codes(code_file, items.values, items.sizes)
        write_tensors(table_file, {str(level): torch.zeros(k, width) for level, k in enumerate(items.sizes)}, {})
        whole, codes, tables = (path.stat().st_size for path in (dense_file, code_file, table_file))
    return {"times smaller, codes": whole / codes, "times smaller, codes and tables": whole / (codes + tables)}


def quality_arms(world: World, seed: int) -> dict[str, float]:
    """Return the AUC of dense vectors and of codes, of placebos and ablations, and the bytes."""
    users, items = dense(world)
    u, v, _ = coded(world, UistConfig(), seed)
    mixed_u, mixed_v = shuffled(u, seed), shuffled(v, seed + 1)
    return {
        "AUC oracle": world.test.oracle_auc(),
        "AUC dense vectors": ctr_auc(world, users, items, seed)[0],
        "AUC codes (RQ-KMeans), all pairs": ctr_auc(world, u, v, seed)[0],
        "AUC codes, finest pair only": ctr_auc(world, u, v, seed, "finest")[0],
        "AUC item codes, dense users": ctr_auc(world, users, v, seed)[0],
        "AUC user codes, dense items": ctr_auc(world, u, items, seed)[0],
        "AUC random codes": ctr_auc(world, mixed_u, mixed_v, seed)[0],
        "AUC codes, shuffled labels": ctr_auc(world, u, v, seed, luck=True)[0],
        "unique share of item codes": len(np.unique(v.values, axis=0)) / len(v.values),
        **bytes_on_disk(v, world.items.modalities["image"].dim),
    }


def coarse_arms(seed: int, **sizes: int) -> dict[str, float]:
    """Return the AUC where only the coarsest level decides, and the weights of the mixture."""
    world = make_world(seed, coarse=True, **sizes)
    users, items, _ = coded(world, UistConfig(), seed)
    found, model = ctr_auc(world, users, items, seed)
    assert model.mixture is not None
    weights = model.mixture.weights()
    return {
        "coarse: AUC codes, all pairs": found,
        "coarse: AUC codes, finest pair only": ctr_auc(world, users, items, seed, "finest")[0],
        "coarse: w_11": float(weights[0, 0]),
        "coarse: largest other w": float(weights.flatten()[1:].max()),
    }


def transformer_arms(world: World, seed: int) -> dict[str, float]:
    """Return the AUC of codes from the paper's kind of tokenizers, short trainings of a small network."""
    fit = FitConfig(epochs=8, learning_rate=3e-3, figure="score", patience=8, evaluate_every=4)
    config = UistConfig(tokenizer="transformer", dim=32, heads=2, feedforward=64, warmup_epochs=5, fit=fit)
    u, v, _ = coded(world, config, seed)
    return {"AUC codes (Transformer), all pairs": ctr_auc(world, u, v, seed)[0]}


def caption_accuracy(method: Uist, items: Items, words: np.ndarray, codes: np.ndarray) -> float:
    """Return the share of attribute words that the decoder gets right from codes [N, L]."""
    model = method.tokenizer("items")
    assert isinstance(model, SequenceTokenizer)
    (group,) = model.groups
    assert isinstance(group, TokenGroup)
    batch = method.read("items", items, None).source.batch()
    ids = batch.ids["words"]
    known = {word: number for number, word in enumerate(method.state["words"], SPECIAL)}
    told = torch.isin(ids, torch.tensor([known[str(word)] for word in words.reshape(-1) if str(word) in known]))
    with torch.no_grad():
        z = model.codebooks.sums(torch.from_numpy(codes.astype(np.int64)))
        right = model.decode(batch, z, group).argmax(2) == ids
    return float(right[told].float().mean())


def decoder_arms(seed: int, *, items: int = 512, epochs: int = 40) -> dict[str, float]:
    """Return the accuracy of the captions' attribute words from own and from shuffled codes; the prior is 1 / 8."""
    planted = plant(PlantedConfig(items=items, synonyms=1, captions=1, users=4, rows=8), seed)
    texts = Items(np.arange(items), [own[0] for own in planted.captions])
    fit = FitConfig(epochs=epochs, learning_rate=3e-3, figure="score", patience=epochs, evaluate_every=10)
    config = UistConfig(
        tokenizer="transformer",
        parts="items",
        codebook_sizes=(16, 16, 16, 16),
        dim=48,
        feedforward=96,
        dropout=0.0,
        max_tokens=10,
        batch_size=64,
        warmup_epochs=epochs // 2,
        fit=fit,
    )
    method = Uist(config).fit(texts, None, seed=seed, say=lambda _: None)
    codes = method.transform(texts).columns["codes"]
    mixed = codes[np.random.default_rng((seed, 24)).permutation(items)]
    return {
        "decoder: words right, own codes": caption_accuracy(method, texts, planted.words, codes),
        "decoder: words right, shuffled codes": caption_accuracy(method, texts, planted.words, mixed),
    }


def arms(seed: int) -> dict[str, float]:
    """Return every figure of the table for one seed, and the CPU seconds they took."""
    started = time.process_time()
    world = make_world(seed)
    found = quality_arms(world, seed) | coarse_arms(seed) | decoder_arms(seed) | transformer_arms(world, seed)
    return found | {"CPU seconds": time.process_time() - started}


def criteria(mean: dict[str, float]) -> list[tuple[str, bool]]:
    """Return the tests of facts 2.5 (i) to (iv) on means over seeds, and whether each is met."""
    codes, dense_auc, chance = (
        mean["AUC codes (RQ-KMeans), all pairs"],
        mean["AUC dense vectors"],
        mean["AUC random codes"],
    )
    finest, own = mean["AUC codes, finest pair only"], mean["decoder: words right, own codes"]
    mixed, luck = mean["decoder: words right, shuffled codes"], mean["AUC codes, shuffled labels"]
    smaller, apart = mean["times smaller, codes and tables"], mean["coarse: w_11"] - mean["coarse: largest other w"]
    return [
        (f"(i) codes and tables are {smaller:.0f} times smaller than fp32 vectors (at least 50)", smaller >= 50),
        (f"(ii) AUC of codes / dense = {codes / dense_auc:.3f} (at least 0.97)", codes >= 0.97 * dense_auc),
        (f"(ii) AUC of codes - random codes = {codes - chance:.3f} (at least 0.05)", codes >= chance + 0.05),
        (f"(ii) AUC with shuffled labels = {luck:.3f} (within 0.04 of 0.5)", abs(luck - 0.5) <= 0.04),
        (f"(iii) AUC of all pairs - finest pair = {codes - finest:.4f} (at least 0)", codes >= finest),
        (f"(iii) coarse: w_11 - the largest other w = {apart:.3f} (above 0)", apart > 0),
        (
            f"(iv) words right from own codes {own:.3f}, shuffled {mixed:.3f} (prior 0.125, at most 0.05 above)",
            mixed <= 0.175 < own,
        ),
    ]


def report(found: list[dict[str, float]]) -> Iterator[str]:
    """Yield the lines of the table, mean ± sd over seeds, and the criteria on the means."""
    yield f"| arm | mean ± sd over {len(found)} seeds |"
    yield "|---|---|"
    for name in found[0]:
        values = [one[name] for one in found]
        yield f"| {name} | {np.mean(values):.4f} ± {np.std(values):.4f} |"
    for text, met in criteria({name: float(np.mean([one[name] for one in found])) for name in found[0]}):
        yield f"{'met' if met else 'NOT met'}: {text}"


app = typer.Typer(add_completion=False)


@app.command()
def main(seeds: Annotated[int, typer.Option(help="number of seeds, from 0")] = 3) -> None:
    """Print the table of arms and the criteria."""
    torch.set_num_threads(1)
    found = [arms(seed) for seed in range(seeds)]
    for line in report(found):
        typer.echo(line)


if __name__ == "__main__":
    app()
