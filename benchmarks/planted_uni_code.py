"""Uni-Code on planted events: what one modality's codes say about the other's, with placebo and ablations.

A sample is T steps of one of C events, a chain that stays with probability 0.7. Two modalities see the event as a
codeword of their own (a random rotation of the one-hot vector), and each adds a style of its own: a few numbers drawn
once a sample and mixed by a matrix of its own, and noise a step. Nothing but the pairing tells that two codewords are
the same event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.planted_arms import Run, show
from common.tokenizers.quality import perplexity
from common.tokenizers.uni_code import UniCode, UniCodeConfig
from common.tokenizers.uni_code.figures import shared_codes

EVENTS, STEPS, STYLE, DIM = 8, 6, 4, 32
ABLATED: dict[str, dict[str, Any]] = {
    "everything": {},
    "EMA of the released code": {"ema": "paired"},
    "no Cross-CPC": {"cpc": "none"},
    "no MM-EMA": {"ema": "none"},
    "no Cross-CPC, no MM-EMA": {"cpc": "none", "ema": "none"},
    "no alignment": {"cpc": "none", "ema": "none", "cmcm": False},
    "Cross-CPC alone": {"ema": "none", "cmcm": False},
    "MM-EMA alone": {"cpc": "none", "cmcm": False},
    "no MI": {"mi": "none"},
    "no code matching": {"cmcm": False},
    "no reset": {"reset": "none"},
}
FIGURES = ("transfer", "own", "agreement", "shared codes", "style R2", "perplexity", "dead codes", "event in specific")


@dataclass(frozen=True)
class World:
    """Paired samples: features float32 [N, T, D] by modality, events int64 [N, T], styles float64 [N, s]."""

    features: dict[str, np.ndarray]
    events: np.ndarray
    styles: dict[str, np.ndarray]

    def rows(self, start: int, stop: int) -> World:
        """Return some of the samples."""
        features, styles = ({name: x[start:stop] for name, x in part.items()} for part in (self.features, self.styles))
        return World(features, self.events[start:stop], styles)

    def shuffled(self, seed: int) -> World:
        """Return the placebo: the samples of modality b dealt to others."""
        order = np.random.default_rng((seed, 32)).permutation(len(self.events))
        return World(self.features | {"b": self.features["b"][order]}, self.events, self.styles)


def make_world(seed: int, samples: int = 1500, *, stay: float = 0.7, style: float = 0.7, noise: float = 0.1) -> World:
    """Return planted samples; same arguments, same bytes."""
    rng = np.random.default_rng((seed, 31))
    events = np.empty((samples, STEPS), np.int64)
    events[:, 0] = rng.integers(EVENTS, size=samples)
    for step in range(1, STEPS):
        stays = rng.random(samples) < stay
        events[:, step] = np.where(stays, events[:, step - 1], rng.integers(EVENTS, size=samples))
    features, styles = {}, {}
    for name in ("a", "b"):
        rotation = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
        mixing = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0][:STYLE]
        styles[name] = rng.normal(size=(samples, STYLE))
        x = 2 * rotation[events] + style * (styles[name] @ mixing)[:, None]
        features[name] = (x + noise * rng.normal(size=x.shape)).astype(np.float32)
    return World(features, events, styles)


def small_config(**changes: Any) -> UniCodeConfig:
    """Return the configuration of the planted runs: the paper's losses at a size for one core."""
    fit = {"epochs": 25, "learning_rate": 2e-3, "weight_decay": 0.0, "clip_norm": 0.5, "figure": "score"}
    fit |= {"schedule": {"type": "constant"}, "evaluate_every": 25, "patience": 25} | changes.pop("fit", {})
    base: dict[str, Any] = {"codes": 12, "dim": 32, "specific_dim": 16, "hidden": 64, "context_dim": 32}
    base |= {
        "mi_hidden": 32,
        "mi_learning_rate": 1e-3,
        "batch_size": 64,
        "reset_after": 150,
        "active_within": 50,
        "validation": 0.0,
    }
    return UniCodeConfig.model_validate(base | {"fit": fit} | changes)


def figures(tokenizer: UniCode, train: World, test: World) -> dict[str, float]:
    """Return what the codes of held-out samples show.

    - transfer: accuracy of a linear classifier of events, fitted on the code vectors of one modality's training
      samples and asked on the other's test samples; the mean of both directions. own: asked on the same modality's.
    - agreement: share of steps whose two codes are the same.
    - shared codes: share of active codes that both modalities use (more than 20 % each).
    - style R2: variance of a modality's styles that a linear map of its one-hot codes explains on test samples.
    - perplexity of both modalities' codes together; dead codes: share that neither uses.
    - event in specific: accuracy of a linear classifier of events on the specific features, which should not tell.
    """
    from sklearn.linear_model import RidgeClassifier

    past = {name: tokenizer.encode(name, x) for name, x in train.features.items()}
    codes = {name: tokenizer.encode(name, x) for name, x in test.features.items()}
    right = {}
    for source in codes:
        probe = RidgeClassifier()
        probe.fit(tokenizer.embed(past[source]).reshape(-1, tokenizer.config.dim), train.events.ravel())
        for target in codes:
            guess = probe.predict(tokenizer.embed(codes[target]).reshape(-1, tokenizer.config.dim))
            right[source, target] = float(np.mean(guess == test.events.ravel()))
    uses = [np.bincount(part.ravel(), minlength=tokenizer.config.codes) for part in codes.values()]
    return {
        "transfer": (right["a", "b"] + right["b", "a"]) / 2,
        "own": (right["a", "a"] + right["b", "b"]) / 2,
        "agreement": float(np.mean(codes["a"] == codes["b"])),
        "shared codes": shared_codes(uses),
        "style R2": float(np.mean([style_share(tokenizer, name, past, codes, train, test) for name in codes])),
        "perplexity": perplexity(np.sum(uses, axis=0)),
        "dead codes": float(np.mean(np.sum(uses, axis=0) == 0)),
        "event in specific": float(np.mean([event_left(tokenizer, name, train, test) for name in codes])),
    }


def event_left(tokenizer: UniCode, name: str, train: World, test: World) -> float:
    """Return how well a modality's specific features tell the event, on test samples."""
    from sklearn.linear_model import RidgeClassifier

    x, y = (tokenizer.specific(name, world.features[name]) for world in (train, test))
    probe = RidgeClassifier().fit(x.reshape(-1, x.shape[2]), train.events.ravel())
    return float(probe.score(y.reshape(-1, y.shape[2]), test.events.ravel()))


def style_share(
    tokenizer: UniCode,
    name: str,
    past: dict[str, np.ndarray],
    codes: dict[str, np.ndarray],
    train: World,
    test: World,
) -> float:
    """Return the R2 of a modality's styles from its one-hot codes, on test samples."""
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    one_hot = np.eye(tokenizer.config.codes)
    probe = Ridge(alpha=1.0).fit(one_hot[past[name].ravel()], np.repeat(train.styles[name], STEPS, axis=0))
    return float(r2_score(np.repeat(test.styles[name], STEPS, axis=0), probe.predict(one_hot[codes[name].ravel()])))


def run_arm(seed: int, train: World, test: World, changes: dict[str, Any], placebo: bool = False) -> dict[str, float]:
    """Fit one arm and return its figures; `placebo` fits on shuffled pairs."""
    shown = train.shuffled(seed) if placebo else train
    tokenizer = UniCode(small_config(**changes)).fit(shown.features, seed=seed)
    return figures(tokenizer, train, test)


def arms(seed: int) -> Iterator[tuple[str, Run]]:
    """Yield each arm's name and what computes its figures."""
    world = make_world(seed)
    train, test = world.rows(0, 1000), world.rows(1000, 1500)
    for name, changes in ABLATED.items():
        yield name, lambda changes=changes: run_arm(seed, train, test, dict(changes))
    yield "shuffled pairs (placebo)", lambda: run_arm(seed, train, test, {}, placebo=True)


def criteria(mean: dict[str, dict[str, float]]) -> Iterator[tuple[str, bool]]:
    """Yield the tests of facts 2.6 on means over seeds, and whether each is met."""
    full, chance = mean["everything"], 1 / EVENTS
    yield f"transfer with everything {full['transfer']:.3f} (at least 0.7; chance {chance})", full["transfer"] >= 0.7
    for name in ("no alignment", "no Cross-CPC, no MM-EMA"):
        yield f"transfer, {name} {mean[name]['transfer']:.3f} (at most 0.3)", mean[name]["transfer"] <= 0.3
    placebo = mean["shuffled pairs (placebo)"]["transfer"]
    # Clusters of one modality meet those of the other at random: of 8 pairs one fits, give or take one.
    yield f"transfer, shuffled pairs {placebo:.3f} (at most 0.3; chance {chance} +- {chance} a seed)", placebo <= 0.3
    yield f"agreement of paired codes {full['agreement']:.3f} (at least 0.6)", full["agreement"] >= 0.6
    yield f"active codes that both use {full['shared codes']:.3f} (at least 0.6)", full["shared codes"] >= 0.6
    yield f"R2 of style from codes {full['style R2']:.3f} (at most 0.1)", full["style R2"] <= 0.1
    yield f"perplexity {full['perplexity']:.2f} (at least {EVENTS})", full["perplexity"] >= EVENTS
    left = mean["no MI"]["event in specific"]
    yield (
        f"event told by specific features {full['event in specific']:.3f}, without MI {left:.3f} (should be more)",
        left > full["event in specific"],
    )


app = typer.Typer(add_completion=False)


@app.command()
def main(seeds: Annotated[int, typer.Option(help="number of seeds, from 0")] = 3) -> None:
    """Print the table of arms and the criteria."""
    show(arms, seeds, FIGURES, criteria)


if __name__ == "__main__":
    app()
