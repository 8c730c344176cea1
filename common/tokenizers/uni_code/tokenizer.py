"""Uni-Code as a tokenizer: fitted on paired modalities, then codes of any one of them; saved as safetensors + JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from common.atomic import atomic_folder
from common.errors import ConfigError, DataError
from common.hashing import digest, file_digest
from common.tokenizers.base import check_codes
from common.tokenizers.kmeans import nearest
from common.tokenizers.rq_vae_training import apply
from common.tokenizers.uni_code.batches import PairedBatches
from common.tokenizers.uni_code.config import UniCodeConfig
from common.tokenizers.uni_code.figures import evaluate, fit_figures
from common.tokenizers.uni_code.inputs import Arrays, Scale, as_steps, check_names, check_paired, paired_digest
from common.tokenizers.uni_code.model import UniCodeModel
from common.training.fit import fit_model
from common.training.fit_config import FitResult

FORMAT = "mirc-uni-code-1"
Say = Callable[[str], object]


class UniCode:
    """One codebook for two or three modalities.

    Example
    -------
    ::

        tokenizer = UniCode(UniCodeConfig(codes=128)).fit({"text": titles, "image": covers}, seed=7)
        codes = tokenizer.encode("image", covers)      # int32 [N, T]
        vectors = tokenizer.embed(codes)               # float32 [N, T, D], the same table for every modality

    Attributes
    ----------
    names, widths, steps
        Modalities in alphabetical order, D_m by name, T; known after `fit` or `load`.
    encoders
        What made the features of a modality (name and revision), where `fit` was told.
    version
        16 hexadecimal digits over configuration, encoders and weights: codes of two fits never pass for each other.
    metrics
        Figures of the fit, for people.
    """

    def __init__(self, config: UniCodeConfig | None = None) -> None:
        self.config = config or UniCodeConfig()
        self.widths: dict[str, int] = {}
        self.steps = 0
        self.encoders: dict[str, str] = {}
        self.version = self.data_digest = ""
        self.metrics: dict[str, Any] = {}
        self.result: FitResult | None = None
        self._scales: dict[str, Scale] = {}
        self._model: UniCodeModel | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities."""
        return tuple(sorted(self.widths))

    def fit(
        self,
        features: Arrays,
        *,
        seed: int,
        encoders: Mapping[str, str] | None = None,
        folder: Path | None = None,
        device: str = "cpu",
        say: Say = lambda _: None,
    ) -> Self:
        """Train on paired features float32 [N, T, D_m] by modality ([N, D_m]: one step).

        Parameters
        ----------
        encoders
            What made each modality's features; `encode` then refuses features that are said to be of another one.
        folder
            Where the state of an interrupted training is kept; the same call goes on from it, and on a CPU ends with
            the same bytes. Removed at the end.
        device
            Where training runs; encoding is done on the CPU.

        Raises
        ------
        DataError
            A modality is missing, not paired, constant, of another shape or not finite; fewer than four samples.
        ConfigError
            `folder` holds the state of another configuration, other data or another seed.
        UserError
            The loss is not finite.
        """
        found = check_paired(features)
        check_names(list(encoders or {}), sorted(found))
        self._model, self.version = None, ""
        count = len(next(iter(found.values())))
        if count < 4:
            raise DataError("too few samples to contrast", expected="at least 4", got=count)
        self.widths = {name: x.shape[2] for name, x in found.items()}
        self.steps = next(iter(found.values())).shape[1]
        self.encoders = dict(encoders or {})
        self.data_digest = paired_digest(found)
        self._scales = {name: Scale.of(x, name) for name, x in found.items()}
        scaled = {name: self._scales[name].apply(x) for name, x in found.items()}
        self.result = self._train(scaled, seed, folder, device, say)
        codes = {name: self.encode(name, x) for name, x in found.items()}
        self._ready(fit_figures(codes, self.config.codes, self.result))
        return self

    def encode(self, modality: str, x: np.ndarray, *, encoder: str = "") -> np.ndarray:
        """Return codes int32 [N, T] of one modality's features float32 [N, T, D_m] ([N, D_m]: one step).

        A step's code depends on the step alone: not on its sample, order or batch. T may differ from the fit's.

        Raises
        ------
        DataError
            An unknown modality, another width, a value that is not finite, or features of another encoder.
        """
        z = self.features(modality, x, encoder=encoder)
        return nearest(z.reshape(-1, z.shape[2]), self._table()).reshape(z.shape[:2])

    def features(self, modality: str, x: np.ndarray, *, encoder: str = "") -> np.ndarray:
        """Return semantic features float32 [N, T, D], what `encode` takes the nearest codes of; same errors."""
        return self._apply("semantic", modality, x, encoder)

    def specific(self, modality: str, x: np.ndarray) -> np.ndarray:
        """Return specific features float32 [N, T, S]: what is the modality's own; same errors as `encode`."""
        return self._apply("specific", modality, x, "")

    def embed(self, codes: np.ndarray) -> np.ndarray:
        """Return the codes' vectors float32 [..., D] of integers [...].

        Raises
        ------
        DataError
            A code that the codebook does not have, or no integers.
        """
        self._fitted()
        codes = np.asarray(codes)
        check_codes(codes.reshape(-1, 1), (self.config.codes,))
        return self._table()[codes]

    def save(self, folder: Path) -> None:
        """Write uni_code.json and uni_code.safetensors to `folder`, whole or not at all."""
        self._fitted()
        with atomic_folder(folder) as temporary:
            save_file(self._arrays(), temporary / "uni_code.safetensors")
            header = {
                "format": FORMAT,
                "version": self.version,
                **self._identity(),
                "data_sha256": self.data_digest,
                "metrics": self.metrics,
                "sha256": file_digest(temporary / "uni_code.safetensors"),
            }
            (temporary / "uni_code.json").write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        DataError
            A file is missing, damaged, was changed, or is of another format.
        """
        header, path = _header(folder), folder / "uni_code.safetensors"
        try:
            if file_digest(path) != header["sha256"]:
                raise DataError("the tokenizer's file is not the one that was saved", where=path, todo=_again(folder))
            made = cls(UniCodeConfig.model_validate(header["config"]))
            made.widths = {str(name): int(width) for name, width in header["widths"].items()}
            made.steps, made.encoders = int(header["steps"]), dict(header["encoders"])
            made.data_digest = str(header["data_sha256"])
            made._restore(load_file(path))
            made._ready(dict(header["metrics"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, ValidationError) as error:
            raise DataError("the tokenizer is damaged", where=path, got=str(error), todo=_again(folder)) from None
        if made.version != header.get("version"):
            raise DataError(
                "the tokenizer's settings were changed after it was saved",
                where=folder / "uni_code.json",
                expected=made.version,
                got=header.get("version"),
                todo=_again(folder),
            )
        return made

    def _train(self, scaled: dict[str, np.ndarray], seed: int, folder: Path | None, device: str, say: Say) -> FitResult:
        config = self.config
        count = len(next(iter(scaled.values())))
        held = min(int(config.validation * count), count - 2)
        order = np.random.default_rng((seed, 1)).permutation(count)
        train = {name: x[np.sort(order[held:])] for name, x in scaled.items()}
        valid = (
            PairedBatches({n: x[np.sort(order[:held])] for n, x in scaled.items()}, "", 1024, 0) if held > 1 else None
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = UniCodeModel(self.widths, self.steps, config)
        result = fit_model(
            model,
            PairedBatches(train, self.data_digest, config.batch_size, seed),
            config.fit,
            key={"kind": "uni_code", "config": config.model_dump(mode="json", exclude={"fit"}), "widths": self.widths},
            evaluate=None if valid is None else lambda model: evaluate(model, valid, device),
            seed=seed,
            device=device,
            folder=folder,
            say=say,
        )
        self._model = model.to("cpu")
        return result

    def _apply(self, part: str, modality: str, x: np.ndarray, encoder: str) -> np.ndarray:
        model = self._fitted()
        check_names([modality], self.names)
        known = self.encoders.get(modality, "")
        if encoder and encoder != known:
            raise DataError(
                "the features are of another encoder than the tokenizer was fitted on",
                where=modality,
                expected=known or "the encoder was not named in the fit",
                got=encoder,
                todo="encode the items with that encoder, or fit the tokenizer on these features",
            )
        x = as_steps(x, modality)
        if x.shape[2] != self.widths[modality]:
            raise DataError(
                "features of another width",
                where=modality,
                expected=f"[N, T, {self.widths[modality]}]",
                got=list(x.shape),
            )
        layers = getattr(model, part)[modality]
        return apply(layers, self._scales[modality].apply(x).reshape(-1, x.shape[2])).reshape(*x.shape[:2], -1)

    def _table(self) -> np.ndarray:
        return self._fitted().codebook.table.numpy()

    def _identity(self) -> dict[str, Any]:
        return {
            "config": self.config.model_dump(mode="json"),
            "widths": self.widths,
            "steps": self.steps,
            "encoders": self.encoders,
        }

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"model.{name}": value.numpy().copy() for name, value in self._fitted().state_dict().items()}
        for name, scale in self._scales.items():
            arrays |= {f"mean.{name}": scale.mean, f"size.{name}": np.asarray([scale.size], np.float32)}
        return arrays

    def _restore(self, arrays: dict[str, np.ndarray]) -> None:
        for name, width in self.widths.items():
            mean, size = arrays[f"mean.{name}"], arrays[f"size.{name}"]
            if mean.shape != (width,) or size.shape != (1,) or not size[0] > 0:
                raise ValueError(f"the scale of {name} does not fit its width {width}")
            self._scales[name] = Scale(mean, size[0])
        model = UniCodeModel(self.widths, self.steps, self.config)
        state = {n.removeprefix("model."): torch.from_numpy(x) for n, x in arrays.items() if n.startswith("model.")}
        model.load_state_dict(state)
        self._model = model.eval()

    def _ready(self, metrics: dict[str, Any]) -> None:
        self.metrics = metrics
        parts: list[bytes | str] = [json.dumps(self._identity(), sort_keys=True)]
        for name, array in sorted(self._arrays().items()):
            parts += [name, str(array.dtype), str(array.shape), np.ascontiguousarray(array).tobytes()]
        self.version = digest("uni_code", *parts)[:16]

    def _fitted(self) -> UniCodeModel:
        if self._model is None:
            raise ConfigError("uni_code has no codebook yet", todo="call fit, or load a saved tokenizer")
        return self._model


def _header(folder: Path) -> dict[str, Any]:
    path = folder / "uni_code.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("no saved Uni-Code tokenizer here", where=path, got=str(error), todo=_again(folder)) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        got = header.get("format") if isinstance(header, dict) else type(header).__name__
        raise DataError("not a Uni-Code tokenizer of this program", where=path, expected=FORMAT, got=got)
    return header


def _again(folder: Path) -> str:
    return f"fit it again: python -m common.tokenizers uni-code --out {folder} ..."
