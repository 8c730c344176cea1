"""CLIP-like encoders through open_clip: images and texts as vectors of one space."""

from __future__ import annotations

import difflib
import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.encoders.batching import in_full_batches
from common.errors import ConfigError
from common.hashing import digest

_LOG = logging.getLogger(__name__)
_HUB = "hf-hub:"
RANDOM_WEIGHTS = "random weights: scores are meaningless"


class OpenClipEncoder:
    """An open_clip model: `encode_images` and `encode_texts`, float32 [N, `dim`], L2-normalised.

    A vector does not depend on what else is encoded: every batch is filled up to `batch_size`, so that the
    same matrix shapes, and with them the same order of additions, are used for a full and a partial batch.
    On the CPU the same item then gives the same bytes. Another `batch_size` may change the last bits.

    Images are squeezed to the model's square, not cut to it: a page keeps its top and bottom.

    Parameters
    ----------
    model
        A hub name (`hf-hub:owner/name`), a local folder with `open_clip_config.json` and weights, or the name
        of an open_clip architecture.
    pretrained
        For an architecture: a weights tag of open_clip, or a local checkpoint file. None gives **random**
        weights, with a warning. Hub models and folders bring their own weights; None is right for them.
    device
        torch device name.
    batch_size
        Items a forward pass.
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
        No such model or tag, no weights at hand, or damaged ones.
    """

    def __init__(
        self, model: str, pretrained: str | None = None, device: str = "cpu", *, batch_size: int = 32, seed: int = 7
    ) -> None:
        import open_clip
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2

        if batch_size < 1:
            raise ValueError(f"need batch_size >= 1, got {batch_size}")
        self.name = model if pretrained is None else f"{model} {Path(pretrained).name}"
        self.modality = "image and text"
        self.notes: tuple[str, ...] = ()
        self._device = device
        self._batch_size = batch_size
        source, needs_weights = _source(model, pretrained)
        if not needs_weights:
            self.notes = (f"image encoder {model}: {RANDOM_WEIGHTS}",)
            _LOG.warning(self.notes[0])
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self._model: Any = open_clip.create_model(
                    source,
                    pretrained,
                    device=device,
                    require_pretrained=needs_weights,
                    force_preprocess_cfg={"resize_mode": "squash"},
                )
            self._tokenizer: Any = open_clip.get_tokenizer(source)
        except Exception as error:  # open_clip, torch and the hub raise a dozen types; all mean "not loaded"
            raise _not_loaded(model, pretrained, error) from None
        self._model.eval()
        settings = self._model.visual.preprocess_cfg
        self._transform: Any = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        self.preprocessing = f"open_clip {open_clip.__version__} {sorted(settings.items())} v1"
        self.revision = weights_digest(self._model)
        with torch.inference_mode():
            self.dim = int(self._model.encode_text(self._tokenizer([""]).to(device)).shape[-1])

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Return an image as the model's input, float32 [3, S, S]: small, whatever the image's size."""
        return self._transform(image.convert("RGB")).numpy()

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return float32 [N, D] for N images."""
        return self.encode_prepared([self.prepare(image) for image in images])

    def encode_prepared(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [N, D] for N results of `prepare`."""
        import torch

        return self._in_batches(
            list(inputs),
            lambda batch: self._model.encode_image(torch.from_numpy(np.stack(batch)).to(self._device)),
        )

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [N, D] for N texts, cut at the model's context length."""
        return self._in_batches(
            list(texts), lambda batch: self._model.encode_text(self._tokenizer(batch).to(self._device))
        )

    def _in_batches(self, items: list[Any], forward: Callable[[list[Any]], Any]) -> np.ndarray:
        import torch

        def vectors(batch: list[Any]) -> np.ndarray:
            return torch.nn.functional.normalize(forward(batch).float(), dim=-1).cpu().numpy()

        return in_full_batches(items, self._batch_size, vectors, self.name, self.dim)


def _source(model: str, pretrained: str | None) -> tuple[str, bool]:
    """Return the name in open_clip's form, and whether weights must be loaded."""
    import open_clip

    own_weights = model.startswith(_HUB) or Path(model).is_dir()
    if own_weights and pretrained is not None:
        raise ConfigError(
            "a hub model or a folder brings its own weights",
            where="pretrained",
            expected="null",
            got=pretrained,
            todo="leave `pretrained` out, or name an open_clip architecture as `model`",
        )
    if own_weights:
        return (model if model.startswith(_HUB) else f"local-dir:{Path(model).resolve()}"), True
    known = open_clip.list_models()
    if model.replace("/", "-") not in known:
        near = difflib.get_close_matches(model, known, n=3)
        raise ConfigError(
            "no such image encoder",
            where=f"model {model}",
            expected="hf-hub:owner/name, an existing folder, or an open_clip architecture",
            got=model,
            todo=f"did you mean {' or '.join(near)}?"
            if near
            else "list: python -c 'import open_clip as o; print(o.list_models())'",
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained is not None and pretrained not in tags and not Path(pretrained).is_file():
        raise ConfigError(
            "no such weights",
            where=f"pretrained {pretrained}",
            expected=f"a file, or one of: {', '.join(tags) or 'none known'}",
            got=pretrained,
        )
    return model, pretrained is not None


def weights_digest(model: Any) -> str:
    """Return the SHA-256 over the names, types and bytes of all weights."""
    import torch

    parts: list[str] = []
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        raw = hashlib.sha256(data.reshape(-1).view(torch.uint8).numpy()).hexdigest()
        parts += [name, str(data.dtype), str(tuple(data.shape)), raw]
    return "sha256:" + digest(*parts)


def _not_loaded(model: str, pretrained: str | None, error: Exception) -> ConfigError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    hub = model.removeprefix(_HUB)
    if model.startswith(_HUB):
        todo = f"with a network: hf download {hub} --local-dir FOLDER; then set model: FOLDER"
    elif Path(model).is_dir():
        todo = "the folder needs open_clip_config.json and its weights (open_clip_model.safetensors): copy them again"
    elif pretrained and Path(pretrained).is_file():
        todo = "check that the file holds this architecture's weights (safetensors or a torch state dict)"
    else:
        todo = "with a network the weights are downloaded once; without, set pretrained to a local checkpoint file"
    return ConfigError(
        "the image encoder's weights cannot be loaded",
        where=f"model {model}" + (f", pretrained {pretrained}" if pretrained else ""),
        got=f"{type(error).__name__}: {first}",
        todo=todo,
    )
