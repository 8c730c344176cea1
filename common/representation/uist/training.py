"""Training of one tokenizer: a plain autoencoder first, then k-means sets the codebooks, then all together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.representation.base import Say
from common.representation.uist.config import Side
from common.representation.uist.network import SequenceTokenizer, encode, reconstruction
from common.representation.uist.sources import Source, SourceBatches
from common.training.fit import fit_model


def train_tokenizer(
    model: SequenceTokenizer, source: Source, side: Side, *, seed: int, device: str, folder: Path | None, say: Say
) -> None:
    """Train in place on a source whose rows all have a token; resumable from `folder`, whose states are kept.

    With a decoder the held-out reconstruction decides when to stop; without one there is nothing to hold out for, and
    all epochs run on all rows.

    Raises
    ------
    DataError
        Fewer rows, or fewer different latents, than a level has codes.
    """
    config = model.config
    train, valid = _split(source, config.validation, max(config.sizes(side)), seed)
    if model.decoder is None:
        train = source
    batches = SourceBatches(train, config.batch_size, seed)
    key = {"kind": "uist", "side": side, "config": config.model_dump(mode="json", exclude={"fit"})}

    def place(phase: str) -> Path | None:
        return None if folder is None else folder / phase

    def told(line: str) -> None:
        say(f"{side}: {line}")

    if config.warmup_epochs and model.decoder is not None:
        model.quantize = False
        warm = config.fit.model_copy(update={"epochs": config.warmup_epochs})
        say(f"{side}: {warm.epochs} epochs as a plain autoencoder")
        phase = {**key, "phase": "warm-up"}
        path = place("warm-up")
        fit_model(model, batches, warm, key=phase, seed=seed, device=device, folder=path, say=told, keep=True)
    model.codebooks.start(encode(model, train), seed, f"uist, {side}", batches.size)
    model.quantize = True
    say(f"{side}: up to {config.fit.epochs} epochs with codebooks of {list(config.sizes(side))}")
    fit_model(
        model,
        batches,
        config.fit,
        key={**key, "phase": "codes"},
        evaluate=None if model.decoder is None else lambda trained: reconstruction(trained, valid),
        seed=seed + 1,
        device=device,
        folder=place("codes"),
        say=told,
        keep=True,
    )


def _split(source: Source, share: float, least: int, seed: int) -> tuple[Source, Source]:
    """Return (train, valid): a share of rows held out, as long as `least` rows stay; none: all rows are both."""
    order = np.random.default_rng((seed, 7)).permutation(len(source))
    held = min(int(share * len(source)), len(source) - least)
    if held < 1:
        return source, source
    return source.take(np.sort(order[held:])), source.take(np.sort(order[:held]))
