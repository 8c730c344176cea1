"""Vision-language models by hub name or local folder: loading, prompts, and a judge that answers yes or no.

Everything goes through transformers' Auto classes and the model's own processor and chat template, so that
Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Idefics3, LLaVA and their kin work alike. No remote code is run.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from common.encoders.loading import quiet_unless_terminal
from common.errors import ConfigError

# Part of every cache key: raise it when a prompt or the way of reading the answer changes.
PROMPT_VERSION = 1
_ANSWERS = ("yes", "no")


def load_model_config(model: str) -> Any:
    """Return the model's transformers configuration; raise `ConfigError` where there is none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _not_loaded(model, error) from None


def load_pretrained(model_class: Any, model: str, *, dtype: str, device: str) -> tuple[Any, Any]:
    """Return (model in evaluation mode on `device`, processor).

    A checkpoint that leaves a weight at its random start is refused: such a model gives scores that look
    like any others.

    Raises
    ------
    ConfigError
        The model cannot be loaded, or its weights do not fill the architecture.
    """
    import torch
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
        with quiet_unless_terminal():
            loaded, report = model_class.from_pretrained(
                model,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
            loaded = loaded.to(device).eval()
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise _not_loaded(model, error) from None
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:
        raise ConfigError(
            f"{len(missing)} weights of the architecture are not in the checkpoint",
            where=f"model {model}",
            expected=f"all weights of {type(loaded).__name__}",
            got=f"no {missing[0]}",
            todo="take a checkpoint in transformers' own format (for ColPali and ColQwen2: the one with -hf)",
        )
    return loaded, processor


def _not_loaded(model: str, error: BaseException) -> ConfigError:
    return ConfigError(
        "the model cannot be loaded",
        where=f"model {model}",
        expected="a hub name that transformers can load without remote code, or a local folder of such a model",
        got=str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__,
        todo="check the name, the connection (HF_HUB_OFFLINE) and the packages that the model asks for",
    )


def fit_pixels(image: Image.Image, max_pixels: int | None) -> Image.Image:
    """Return `image` as RGB with at most `max_pixels` pixels, the sides in proportion; never enlarged."""
    image = image.convert("RGB")
    if max_pixels is None or image.width * image.height <= max_pixels:
        return image
    scale = (max_pixels / (image.width * image.height)) ** 0.5
    size = (max(int(image.width * scale), 1), max(int(image.height * scale), 1))
    return image.resize(size, Image.Resampling.LANCZOS)


class PlainText:
    """Removes a tokenizer's control tokens from text.

    A page about language models may hold `<image>` or `<|im_end|>` as words; left in, they would be read as
    an image's place or the end of a turn.
    """

    def __init__(self, tokenizer: Any) -> None:
        added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
        tokens = {token for token in [*added, *tokenizer.all_special_tokens] if not token.isspace()}
        self._tokens = sorted((t for t in tokens if not t.isalnum()), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return `text` with a space in place of each control token."""
        for token in self._tokens:
            text = text.replace(token, " ")
        return text


def split_on_failure(items: Sequence[Any], run: Any) -> list[Any]:
    """Run `run(items) -> list`; where it fails, halve the batch, down to single items.

    Out of memory and one odd item are thus met alike: what can be computed is, and an item that fails alone
    is returned as its exception, in its place.
    """
    try:
        return list(run(items))
    except Exception as error:
        if len(items) == 1:
            return [error]
    middle = len(items) // 2
    free_memory()
    return split_on_failure(items[:middle], run) + split_on_failure(items[middle:], run)


def free_memory() -> None:
    """Give a dropped model's GPU memory back, so that the next one finds room."""
    import gc

    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class JudgeItem:
    """One thing to judge: does this page answer this question? Either page part may be absent, not both."""

    question: str
    page_image: Image.Image | None = None
    page_text: str = ""
    query_image: Image.Image | None = None

    @property
    def images(self) -> list[Image.Image]:
        """The images in the order in which the prompt names them."""
        return [image for image in (self.query_image, self.page_image) if image is not None]


def judge_prompt(item: JudgeItem) -> str:
    """Return the instruction that follows the item's images."""
    lines: list[str] = []
    if item.query_image is not None:
        lines.append("The first image belongs to the question." if item.page_image else "The image is the question's.")
    if item.page_image is not None:
        lines.append("The last image is a page of a document." if item.query_image else "The image is a page.")
    if item.page_text:
        lines.append(f"Text of the page:\n{item.page_text}")
    lines.append(f"Question: {item.question}")
    lines.append("Can the question be answered from this page? Answer with only yes or no.")
    return "\n".join(lines)


class YesNoJudge:
    """Asks a chat model about pages and reads P(yes) / (P(yes) + P(no)) off its first answer token.

    The same item gives the same probability in any batch up to rounding: within 1e-5 in float32 on a CPU
    (a test), about 1e-2 in bfloat16, where the sum's order depends on the batch's shape.

    Parameters
    ----------
    model
        Hub name or local folder of a chat model that takes images.
    device, dtype
        torch names.
    max_pixels
        Larger images are scaled down to this area.
    """

    def __init__(self, model: str, *, device: str, dtype: str, max_pixels: int | None = None) -> None:
        from transformers import AutoModelForImageTextToText

        self.name = model
        self.max_pixels = max_pixels
        self._device = device
        self._model, self._processor = load_pretrained(AutoModelForImageTextToText, model, dtype=dtype, device=device)
        tokenizer = self._processor.tokenizer
        if getattr(self._processor, "chat_template", None) is None and tokenizer.chat_template is None:
            raise ConfigError("the model has no chat template", where=f"model {model}", expected="a chat model")
        tokenizer.padding_side = "right"  # positions then do not depend on the batch's longest item
        self._plain = PlainText(tokenizer)
        self._answers = answer_tokens(tokenizer, model)
        self._keeps_logits = "logits_to_keep" in inspect.signature(self._model.forward).parameters

    def probabilities(self, items: Sequence[JudgeItem]) -> list[float]:
        """Return P(yes) of each item, computed as one batch."""
        import torch

        inputs = self.inputs(items)
        last = inputs["attention_mask"].sum(dim=1) - 1
        with torch.inference_mode():
            if self._keeps_logits:  # the vocabulary is wide: keep the answers' positions only
                kept, place = torch.unique(last, return_inverse=True)
                logits = self._model(**inputs, use_cache=False, logits_to_keep=kept).logits
            else:
                place = last
                logits = self._model(**inputs, use_cache=False).logits
            first = logits[torch.arange(len(items), device=logits.device), place].float()
            yes, no = (torch.logsumexp(first[:, ids], dim=1) for ids in self._answers)
            result = torch.sigmoid((yes - no).double()).cpu().numpy()
        if not np.isfinite(result).all():
            raise ValueError("the model's answer is not a number (NaN): try dtype float32 or bfloat16")
        return [float(value) for value in result]

    def inputs(self, items: Sequence[JudgeItem]) -> dict[str, Any]:
        """Return the model's input tensors for one batch, padded on the right."""
        texts = []
        for item in items:
            prompt = self._plain(judge_prompt(item))
            content = [*({"type": "image"} for _ in item.images), {"type": "text", "text": prompt}]
            message = [{"role": "user", "content": content}]
            texts.append(self._processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
        images = [[fit_pixels(image, self.max_pixels) for image in item.images] for item in items]
        batch = self._processor(text=texts, images=images if any(images) else None, padding=True, return_tensors="pt")
        floats = self._model.dtype
        return {
            key: value.to(self._device, floats) if value.is_floating_point() else value.to(self._device)
            for key, value in batch.items()
        }


def answer_tokens(tokenizer: Any, model: str) -> tuple[list[int], list[int]]:
    """Return the ids of all single tokens that read as yes, and as no: any case, with or without a space."""
    found: dict[str, list[int]] = {answer: [] for answer in _ANSWERS}
    for token, index in tokenizer.get_vocab().items():
        word = token.replace("Ġ", " ").replace("▁", " ").strip().lower()
        if word in found:
            found[word].append(index)
    for answer, ids in found.items():
        if not ids:
            raise ConfigError(f"the model's vocabulary has no token for {answer!r}", where=f"model {model}")
    return sorted(found["yes"]), sorted(found["no"])
