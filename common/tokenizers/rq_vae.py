"""RQ-VAE: residual quantization of a learnt latent space."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch

from common.errors import ConfigError, DataError
from common.tokenizers.base import Quantizer, check_vectors, data_digest, sample_rows
from common.tokenizers.quality import fit_metrics
from common.tokenizers.rq_kmeans import check_positive, check_sizes, stored
from common.tokenizers.rq_vae_model import Gradient, ResidualVAE, Shape, Update
from common.tokenizers.rq_vae_training import Plan, Trainer, apply, residual_codes


class RQVAE(Quantizer):
    """Residual-quantized variational autoencoder (TIGER; LETTER); `rq_vae_model.ResidualVAE` has the equations.

    Try `RQKMeans` first: it fits in seconds and usually reconstructs better. RQ-VAE is for vectors whose structure a
    network can see and k-means cannot, and for comparison with papers that use it.

    Parameters
    ----------
    codebook_sizes
        Codes of each level; levels may differ.
    hidden, latent_dim
        Widths of the encoder's hidden layers (the decoder has them in reverse) and of the latent vectors.
    steps, warmup_steps
        Optimiser steps with codebooks, and before them as a plain autoencoder; k-means between the two sets the
        codebooks. 0 warm-up steps take latents of random weights, as the papers' code does.
    batch_size, learning_rate, weight_decay
        AdamW with a cosine schedule.
    commitment
        beta, the weight of |r - sg[q]|^2.
    gradient
        How the reconstruction's gradient gets past the codebooks: "straight_through", or "rotation", which rotates
        and scales it as the latent is taken to its quantized place (Fifty et al., ICLR 2025).
    update
        How codebooks learn: by the loss ("gradient"), or as running means of what they stand for ("ema").
    decay
        Of the running means and of the running counts that tell dead codes.
    dead_codes
        A code that is used less than this share of the mean is moved onto a residual of the batch; 0 = never.
    sinkhorn
        Entropic regularisation of an even assignment of the last level's codes in training (LETTER: 0.003); 0 = off.
        Encoding takes the nearest code either way.
    sample
        Training reads at most this many rows, drawn without replacement.
    validation, evaluate_every, patience
        Share of rows held out; every how many steps they are reconstructed; after how many such evaluations without a
        gain training stops. The best weights are kept.
    """

    kind = "rq_vae"

    def __init__(
        self,
        codebook_sizes: tuple[int, ...] = (256, 256, 256),
        hidden: tuple[int, ...] = (512, 256, 128),
        latent_dim: int = 32,
        steps: int = 4000,
        warmup_steps: int = 500,
        batch_size: int = 1024,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        commitment: float = 0.25,
        gradient: Gradient = "rotation",
        update: Update = "ema",
        decay: float = 0.99,
        dead_codes: float = 0.05,
        sinkhorn: float = 0.0,
        sample: int = 1_000_000,
        validation: float = 0.05,
        evaluate_every: int = 200,
        patience: int = 5,
    ) -> None:
        self.codebook_sizes = check_sizes(codebook_sizes)
        self.hidden = tuple(check_positive("hidden", width) for width in hidden)
        self.latent_dim = check_positive("latent_dim", latent_dim)
        self.steps, self.warmup_steps = check_positive("steps", steps), _least("warmup_steps", warmup_steps)
        self.batch_size = check_positive("batch_size", batch_size)
        self.learning_rate, self.weight_decay = (
            _least("learning_rate", learning_rate),
            _least("weight_decay", weight_decay),
        )
        self.commitment = _least("commitment", commitment)
        for name, value, known in (("gradient", gradient, get_args(Gradient)), ("update", update, get_args(Update))):
            if value not in known:
                raise ConfigError(f"no such {name}", where=name, expected=", ".join(known), got=value)
        self.gradient: Gradient = gradient
        self.update: Update = update
        self.decay = _below_one("decay", decay)
        self.dead_codes, self.sinkhorn = _below_one("dead_codes", dead_codes), _least("sinkhorn", sinkhorn)
        self.sample = check_positive("sample", sample)
        self.validation = _below_one("validation", validation)
        self.evaluate_every = check_positive("evaluate_every", evaluate_every)
        self.patience = check_positive("patience", patience)
        self.metrics = {}
        self._model: ResidualVAE | None = None
        self._mean = np.empty(0, np.float32)
        self._scale = np.empty(0, np.float32)

    def fit(self, x: np.ndarray, *, seed: int, folder: Path | None = None, device: str = "cpu") -> Self:
        """Train on float32 [N, D], which may be memory-mapped.

        Parameters
        ----------
        folder
            Where the state of an interrupted training is kept; the same call goes on from it, and on a CPU ends with
            the same bytes. Removed at the end.
        device
            Where training runs; encoding is done on the CPU.

        Raises
        ------
        DataError
            Fewer rows, or fewer different ones, than the largest codebook has codes; a value that is not finite.
        UserError
            The loss is not finite.
        KeyboardInterrupt
            After Ctrl-C; with a folder, the state is written.
        """
        largest = max(self.codebook_sizes)
        check_vectors(x, least=largest)
        digest = data_digest(x)
        sample = sample_rows(x, max(self.sample, largest), seed)
        self._mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        scaled = sample - self._mean
        size = float(np.sqrt(np.square(scaled, dtype=np.float64).mean()))
        if not size > 1e-6 * float(np.abs(sample).max()):
            raise DataError(
                "all vectors are the same: a codebook cannot be fitted",
                expected=f"at least {largest} different vectors",
                got=f"{len(sample)} equal ones",
            )
        self._scale = np.asarray([size], dtype=np.float32)
        scaled /= self._scale
        key = json.loads(json.dumps({"settings": self.settings(), "seed": seed, "data": digest}))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ResidualVAE(self._shape(x.shape[1], len(sample)))
            progress = Trainer(model, scaled, self._plan(), seed=seed, device=device, key=key).run(folder)
        self._model = model.cpu().eval()
        self._ready(x.shape[1], digest, {})
        self.metrics = fit_metrics(self, sample) | {"training": asdict(progress)}
        return self

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON values."""
        return {
            "codebook_sizes": list(self.codebook_sizes),
            "hidden": list(self.hidden),
            "latent_dim": self.latent_dim,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "commitment": self.commitment,
            "gradient": self.gradient,
            "update": self.update,
            "decay": self.decay,
            "dead_codes": self.dead_codes,
            "sinkhorn": self.sinkhorn,
            "sample": self.sample,
            "validation": self.validation,
            "evaluate_every": self.evaluate_every,
            "patience": self.patience,
        }

    def latents(self, x: np.ndarray) -> np.ndarray:
        """Return the encoder's float32 [N, latent_dim] of vectors [N, D]."""
        self._fitted()
        return apply(self._network().encoder, (np.asarray(x, np.float32) - self._mean) / self._scale)

    def last_level_distances(self, x: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return squared distances float64 [N, K] to each code of the last level, in the latent space.

        What `SemanticIdMap`'s Sinkhorn compares: vectors [N, D] less the earlier levels of their codes [N, L].
        """
        left = self.latents(x).astype(np.float64)
        *tables, last = self._tables()
        for level, table in enumerate(tables):
            left -= table[codes[:, level]]
        return np.stack([np.square(left - code).sum(axis=1) for code in last], axis=1)

    def _encode(self, x: np.ndarray) -> np.ndarray:
        return residual_codes(self.latents(x), self._tables())

    def _embed(self, codes: np.ndarray, upto: int) -> np.ndarray:
        total = np.zeros((len(codes), self.latent_dim), dtype=np.float32)
        for level, table in enumerate(self._tables()[:upto]):
            total += table[codes[:, level]]
        return apply(self._network().decoder, total) * self._scale + self._mean

    def _arrays(self) -> dict[str, np.ndarray]:
        network = self._network()
        arrays = {"mean": self._mean, "scale": self._scale}
        for name in ("encoder", "decoder"):
            for key, value in getattr(network, name).state_dict().items():
                arrays[f"{name}.{key}"] = value.numpy().copy()
        return arrays | {f"codebook_{level:02d}": table for level, table in enumerate(self._tables())}

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        dim = arrays["mean"].shape[-1]
        self._mean, self._scale = stored(arrays, "mean", (dim,)), stored(arrays, "scale", (1,))
        model = ResidualVAE(self._shape(dim))
        for name in ("encoder", "decoder"):
            layers = getattr(model, name)
            wanted = {key: tuple(value.shape) for key, value in layers.state_dict().items()}
            state = {key: torch.from_numpy(stored(arrays, f"{name}.{key}", shape)) for key, shape in wanted.items()}
            layers.load_state_dict(state)
        for level, size in enumerate(self.codebook_sizes):
            table = torch.from_numpy(stored(arrays, f"codebook_{level:02d}", (size, self.latent_dim)))
            model.set_table(level, table, torch.zeros(size))
        self._model = model.eval()

    def _network(self) -> ResidualVAE:
        assert self._model is not None  # noqa: S101 - `_fitted` was asked first
        return self._model

    def _tables(self) -> list[np.ndarray]:
        return [table.detach().numpy().copy() for table in self._network().tables()]

    def _shape(self, dim: int, rows: int = 0) -> Shape:
        batch = min(self.batch_size, rows)
        return Shape(
            dim=dim,
            hidden=self.hidden,
            latent_dim=self.latent_dim,
            codebook_sizes=self.codebook_sizes,
            commitment=self.commitment,
            gradient=self.gradient,
            update=self.update,
            decay=self.decay,
            dead_below=self.dead_codes * batch,
            revived_at=batch,
            sinkhorn=self.sinkhorn,
        )

    def _plan(self) -> Plan:
        return Plan(
            steps=self.steps,
            warmup_steps=self.warmup_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            validation=self.validation,
            evaluate_every=self.evaluate_every,
            patience=self.patience,
        )


def _least(name: str, value: Any, least: float = 0) -> Any:
    """Return a number; raise `ConfigError` below `least` or where it is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
        raise ConfigError(f"{name} needs a number from {least:g}", got=value)
    return value


def _below_one(name: str, value: float) -> float:
    """Return a number from 0 to below 1; raise `ConfigError` otherwise."""
    if _least(name, value) >= 1:
        raise ConfigError(f"{name} needs a number below 1", got=value)
    return value
