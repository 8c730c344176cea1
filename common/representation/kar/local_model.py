"""Knowledge from a chat model that transformers runs here, by hub name, local folder or installed package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from common.config import Config
from common.encoders.causal_lm import load_causal_lm, unavailable_lm
from common.encoders.packaged import located_chat
from common.encoders.revision import model_revision
from common.encoders.vlm import PlainText
from common.errors import ConfigError
from common.hashing import file_digest
from common.representation.kar.prompts import Prompt
from common.representation.kar.sources import Answer


class LocalModelConfig(Config):
    """Which chat model, and how it answers. Greedy: the same batches give the same answers."""

    model: str = Field(min_length=1, description="hub name or local folder")
    gguf_file: str | None = Field(
        default=None, description="GGUF file in the folder or repository (needs the package gguf)"
    )
    system: str = Field(default="", description="system message; empty: none")
    max_new_tokens: int = Field(default=160, ge=1)
    repetition_penalty: float = Field(default=1.0, ge=1, description="above 1 keeps small models from going in circles")
    batch_size: int = Field(default=8, ge=1)
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


class TransformersSource:
    """A chat model, with its own chat template, greedy, in padded batches.

    Padding changes sums by rounding, so that an answer may depend on the prompts beside it; batch_size 1 rules that
    out. The model is loaded at the first prompt: a run whose answers are all cached never loads it.

    Raises
    ------
    ConfigError
        The model is not to be had; when it is loaded: it has no chat template.
    """

    parallel = 1
    cached = True
    note = ""

    def __init__(self, config: LocalModelConfig) -> None:
        self.config = config
        self.batch_size = config.batch_size
        folder, file = located_chat(config.model, config.gguf_file)
        self.name = f"{config.model}@{_revision(folder, file)}"
        fields = {"system", "max_new_tokens", "repetition_penalty", "dtype"}
        self.settings: dict[str, Any] = config.model_dump(mode="json", include=fields)
        self._loaded: tuple[Any, Any, PlainText] | None = None

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """Return the model's answers; a prompt longer than the model reads is an error of its own, never cut."""
        model, tokenizer, plain = self._load()
        texts = [self._chat(tokenizer, plain(prompt.text)) for prompt in prompts]
        lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        most = getattr(model.config, "max_position_embeddings", None)
        room = None if most is None else most - self.config.max_new_tokens
        fits = [row for row, length in enumerate(lengths) if room is None or length <= room]
        found = dict(zip(fits, self._generate(model, tokenizer, [texts[row] for row in fits]), strict=True))
        return [found.get(row) or _too_long(length, room) for row, length in enumerate(lengths)]

    def start(self) -> None:
        """Do nothing: the model is loaded at the first prompt."""

    def stop(self) -> None:
        """Do nothing: the model runs in the caller's thread."""

    def _chat(self, tokenizer: Any, text: str) -> str:
        messages = [{"role": "system", "content": self.config.system}] if self.config.system else []
        messages.append({"role": "user", "content": text})
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _generate(self, model: Any, tokenizer: Any, texts: list[str]) -> list[Answer]:
        import torch

        if not texts:
            return []
        inputs = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False).to(model.device)
        with torch.inference_mode():
            out = model.generate(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                max_new_tokens=self.config.max_new_tokens,
                repetition_penalty=self.config.repetition_penalty,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=tokenizer.pad_token_id,
            )
        ends = model.generation_config.eos_token_id
        stops = set(ends) if isinstance(ends, list) else {ends}
        asked = inputs["attention_mask"].sum(1).tolist()
        rows = out[:, inputs["input_ids"].shape[1] :].tolist()
        return [_answer(tokenizer, row, n, stops) for row, n in zip(rows, asked, strict=True)]

    def _load(self) -> tuple[Any, Any, PlainText]:
        if self._loaded is None:
            model, tokenizer = _pretrained(self.config)
            self._loaded = model, tokenizer, PlainText(tokenizer)
        return self._loaded


def _answer(tokenizer: Any, row: list[int], asked: int, stops: set[int]) -> Answer:
    """Return the answer in the generated tokens of one row, the end and what follows it left out."""
    end = next((place for place, token in enumerate(row) if token in stops), None)
    said = row if end is None else row[:end]
    text = tokenizer.decode(said, skip_special_tokens=True).strip()
    used, finish = len(said) + (end is not None), "length" if end is None else "stop"
    if not text:
        return Answer("", asked, used, finish, "the answer is empty")
    return Answer(text, asked, used, finish)


def _too_long(length: int, room: int | None) -> Answer:
    error = f"the prompt has {length} tokens; the model reads {room} beside its answer"
    return Answer("", 0, 0, "error", error, final=False)


def _revision(target: str, gguf: str | None) -> str:
    if gguf is None:
        return model_revision(target)
    if Path(target).is_dir():
        path = Path(target) / gguf
        if not path.is_file():
            raise ConfigError("no such GGUF file", where=path)
        return f"sha256:{file_digest(path)}"
    from huggingface_hub import hf_hub_download

    try:
        return f"sha256:{file_digest(Path(hf_hub_download(target, gguf)))}"
    except (OSError, ValueError) as error:
        raise unavailable_lm(target, error, "chat model") from None


def _pretrained(config: LocalModelConfig) -> tuple[Any, Any]:
    model, tokenizer = load_causal_lm(config.model, gguf_file=config.gguf_file, dtype=config.dtype, what="chat model")
    if tokenizer.chat_template is None:
        raise ConfigError(
            "the model has no chat template",
            where=f"model {config.model}",
            expected="a chat (instruction-tuned) model",
            todo="take its -Instruct or -Chat version",
        )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(config.device).eval(), tokenizer
