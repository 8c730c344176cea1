"""Page image encoders: the ColPali family (a vector a token) and single-vector vision-language embedders.

Three poolings over one loading path:

``multi``
    ColPali, ColQwen2 and ColModernVBert in transformers' format: one vector a token, for MaxSim
    (Faysse et al. 2024, "ColPali: Efficient Document Retrieval with Vision Language Models").
``mean``
    The mean of the same vectors (of an image's own tokens where there is an image), as one vector.
``last``
    Any chat model that takes images: the mean of the hidden states of `last_k` end tokens that follow the
    prompt. With `last_k` 1 this is GME-Qwen2-VL (Zhang et al. 2024); repeated end tokens are the trick of
    the challenge's first place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from common.encoders.revision import model_revision
from common.encoders.vlm import PlainText, fit_pixels, load_model_config, load_pretrained
from common.errors import ConfigError, DataError

Pooling = Literal["multi", "mean", "last"]
Role = Literal["query", "passage"]

_VERSION = 1
# transformers' names of the late-interaction architectures.
_HEADS = {
    "colpali": "ColPaliForRetrieval",
    "colqwen2": "ColQwen2ForRetrieval",
    "colmodernvbert": "ColModernVBertForRetrieval",
}
_MAX_ASPECT = 150  # Qwen's processors refuse 200; such an image is a line, not a page
_MIN_NORM = 1e-12


@dataclass(frozen=True)
class Settings:
    """What, beside the weights, fixes an encoder's result.

    `max_pixels` scales larger images down. The instructions are the system message of a chat model
    (pooling ``last`` only). `text_tokens` cuts a passage's text.
    """

    pooling: Pooling = "multi"
    dtype: str = "bfloat16"
    max_pixels: int | None = None
    last_k: int = 1
    end_token: str = "<|endoftext|>"  # noqa: S105 - a token of text
    query_instruction: str = ""
    passage_instruction: str = ""
    text_tokens: int = 1024

    def identity(self) -> str:
        """Return the settings as text, for the embedding store's key."""
        return json.dumps({"version": _VERSION, **self.__dict__}, sort_keys=True)


@dataclass(frozen=True)
class VisualItem:
    """A page, a crop, a text, or an image with its text."""

    image: Image.Image | None = None
    text: str = ""


class PageImageEncoder:
    """Encodes pages and queries to L2-normalised vectors: [T_i, D] for ``multi``, else [1, D].

    Pure per item up to rounding: the same item beside other neighbours differs by at most 1e-5 in float32 on
    a CPU (a test); in bfloat16 by about 1e-2, the format's own step. Padding never reaches the result.

    Parameters
    ----------
    model
        Hub name or local folder, in transformers' format (for ColPali and ColQwen2 the names with ``-hf``).
    settings
        Pooling, number type and prompts.
    device
        torch device.

    Raises
    ------
    ConfigError
        The model cannot be loaded, or does not fit the pooling.
    """

    modality = "page_image"

    def __init__(self, model: str, settings: Settings, *, device: str = "cpu") -> None:
        self.name = model
        self.revision = model_revision(model)
        self.settings = settings
        self._device = device
        self._model, self._processor = load_pretrained(
            _architecture(model, settings.pooling), model, dtype=settings.dtype, device=device
        )
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "right"
        self._plain = PlainText(tokenizer)
        if settings.pooling == "last" and len(tokenizer.encode(settings.end_token, add_special_tokens=False)) != 1:
            raise ConfigError(
                "the end token is not one token of this model",
                where=f"end_token of {model}",
                got=settings.end_token,
                todo="give the token on which the model was trained to end (GME: <|endoftext|>)",
            )

    def encode_pages(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        """Return the vectors of page images, float32 [T_i, D] each."""
        return self.encode([VisualItem(image) for image in images], "passage")

    def encode_queries(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the vectors of questions, float32 [T_i, D] each."""
        return self.encode([VisualItem(text=text) for text in texts], "query")

    def encode(self, items: Sequence[VisualItem], role: Role) -> list[np.ndarray]:
        """Return the vectors of `items`, encoded in as few batches as their kinds allow.

        An item with image and text is one prompt for a chat model; a late-interaction model has no such
        input, so that the image's vectors and the text's are joined (the third place's way).

        Raises
        ------
        DataError
            An image is a strip that no page image model takes, or an item is empty.
        """
        if self.settings.pooling == "last":
            seen = self._where(items, lambda i: i.image is not None, lambda part: self._chat(part, role))
            read = self._where(items, lambda i: i.image is None, lambda part: self._chat(part, role))
            return [vector for pair in zip(seen, read, strict=True) for vector in pair if vector is not None]
        image_vectors = self._where(items, lambda i: i.image is not None, self._images)
        text_vectors = self._where(items, lambda i: bool(i.text), lambda part: self._texts(part, role))
        return [self._pooled(image, text) for image, text in zip(image_vectors, text_vectors, strict=True)]

    def _where(
        self,
        items: Sequence[VisualItem],
        chosen: Callable[[VisualItem], bool],
        run: Callable[[list[VisualItem]], list[np.ndarray]],
    ) -> list[np.ndarray | None]:
        rows = [row for row, item in enumerate(items) if chosen(item)]
        result: list[np.ndarray | None] = [None] * len(items)
        for row, vectors in zip(rows, run([items[row] for row in rows]) if rows else [], strict=True):
            result[row] = vectors
        return result

    def _images(self, items: list[VisualItem]) -> list[np.ndarray]:
        images = [prepare_image(item.image, self.settings.max_pixels) for item in items if item.image is not None]
        batch = dict(self._processor.process_images(images))
        only_patches = self.settings.pooling == "mean"
        keep = batch["input_ids"] == self._processor.image_token_id if only_patches else None
        return self._token_vectors(batch, keep)

    def _texts(self, items: list[VisualItem], role: Role) -> list[np.ndarray]:
        texts = [self._plain(item.text) for item in items]
        if role == "query":
            return self._token_vectors(dict(self._processor.process_queries(texts)), None)
        batch = self._processor.tokenizer(
            texts, padding=True, truncation=True, max_length=self.settings.text_tokens, return_tensors="pt"
        )
        return self._token_vectors(dict(batch), None)

    def _token_vectors(self, batch: dict[str, Any], keep: Any) -> list[np.ndarray]:
        """Run the late-interaction model and drop padding (and, with `keep` bool [B, T], other tokens)."""
        import torch

        batch.pop("labels", None)
        mask = batch["attention_mask"].bool() if keep is None else keep & batch["attention_mask"].bool()
        inputs = self._to_device(batch)
        with torch.inference_mode():
            vectors = self._model(**inputs, **self._positions(inputs)).embeddings.float().cpu()
        return [vectors[row][mask[row]].numpy() for row in range(len(vectors))]

    def _positions(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the 2-D rotary positions of image patches, where the language model has such.

        transformers 5 runs ColQwen2 from embeddings, without token ids, and then numbers the patches in one
        row; the published weights were trained with their row and column (as in transformers 4.53).
        """
        locate = getattr(getattr(self._model, "vlm", None), "get_rope_index", None)
        if locate is None:
            return {}
        kinds = (inputs["input_ids"] == self._processor.image_token_id).int()
        positions, _ = locate(
            inputs["input_ids"],
            mm_token_type_ids=kinds,
            image_grid_thw=inputs.get("image_grid_thw"),
            attention_mask=inputs["attention_mask"],
        )
        return {"position_ids": positions}

    def _chat(self, items: list[VisualItem], role: Role) -> list[np.ndarray]:
        """Return the mean hidden state of the end tokens after each item's prompt, [1, D]."""
        import torch

        prompts = [self._prompt(item, role) for item in items]
        images = [[prepare_image(item.image, self.settings.max_pixels)] for item in items if item.image is not None]
        batch = self._processor(text=prompts, images=images or None, padding=True, return_tensors="pt")
        inputs = self._to_device(dict(batch))
        with torch.inference_mode():
            states = self._model.base_model(**inputs, use_cache=False).last_hidden_state.float().cpu()
        mask = batch["attention_mask"].bool()
        return [
            _unit(states[row][mask[row]][-self.settings.last_k :].numpy().mean(axis=0)) for row in range(len(items))
        ]

    def _prompt(self, item: VisualItem, role: Role) -> str:
        settings = self.settings
        instruction = settings.query_instruction if role == "query" else settings.passage_instruction
        text = self._plain(item.text)
        if role == "passage":
            ids = self._processor.tokenizer.encode(text, add_special_tokens=False)
            if len(ids) > settings.text_tokens:
                text = self._processor.tokenizer.decode(ids[: settings.text_tokens])
        content = [{"type": "image"}] if item.image is not None else []
        messages: list[dict[str, Any]] = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
        if instruction:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": instruction}]})
        prompt = self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return prompt + settings.end_token * settings.last_k

    def _pooled(self, image: np.ndarray | None, text: np.ndarray | None) -> np.ndarray:
        parts = [part for part in (image, text) if part is not None]
        if not parts:
            raise DataError("an item has neither image nor text")
        vectors = np.concatenate(parts)
        return vectors if self.settings.pooling == "multi" else _unit(vectors.mean(axis=0))

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        floats = self._model.dtype
        return {
            key: value.to(self._device, floats) if value.is_floating_point() else value.to(self._device)
            for key, value in batch.items()
        }


def prepare_image(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """Return the image at the size in which a model sees it; raise `DataError` for a strip."""
    if max(image.size) > _MAX_ASPECT * min(image.size):
        raise DataError(
            "the image is a strip",
            expected=f"sides in a ratio of at most {_MAX_ASPECT}",
            got=f"{image.width} x {image.height} pixels",
        )
    return fit_pixels(image, max_pixels)


def _unit(vector: np.ndarray) -> np.ndarray:
    return (vector / max(float(np.linalg.norm(vector)), _MIN_NORM))[None].astype(np.float32)


def _architecture(model: str, pooling: Pooling) -> Any:
    """Return the transformers class for `model`, or raise `ConfigError` where it does not fit the pooling."""
    import transformers

    kind = load_model_config(model).model_type
    if pooling == "last":
        if kind in _HEADS:
            raise ConfigError(
                f"a {kind} model gives a vector a token",
                where=f"model {model}",
                expected="pooling: multi or mean",
                got="pooling: last",
            )
        return transformers.AutoModelForImageTextToText
    if kind not in _HEADS:
        raise ConfigError(
            f"transformers has no late-interaction head for a {kind} model",
            where=f"model {model}",
            expected=f"one of {', '.join(_HEADS)} for pooling {pooling}",
            got=kind,
            todo="take the checkpoint whose name ends in -hf, or set pooling: last for a single-vector embedder",
        )
    return getattr(transformers, _HEADS[kind])
