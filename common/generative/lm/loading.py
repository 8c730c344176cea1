"""Loading of causal language models: from the hub, a folder or a package; or a small one from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from common.encoders.causal_lm import load_causal_lm, weights_digest
from common.errors import ConfigError, DataError
from common.generative.lm.config import LmConfig, ScratchConfig

END = "<|end|>"


def load_pretrained(config: LmConfig) -> tuple[nn.Module, Any, str]:
    """Return a causal language model in float32, its tokenizer, and SHA-256 of its weights.

    Raises
    ------
    ConfigError
        It cannot be loaded, its tokenizer has no end token, or weights are missing in its checkpoint.
    """
    model, tokenizer = load_causal_lm(config.name, gguf_file=config.gguf_file, revision=config.revision)
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "the language model's tokenizer has no end token: no text could end",
            where=f"model {config.name}",
            todo="take another model, or set eos_token in its tokenizer_config.json",
        )
    return model, tokenizer, weights_digest(model)


def train_tokenizer(texts: Sequence[str], size: int) -> str:
    """Return a byte-level BPE tokenizer of texts, as JSON: any text can be read, and is written back as it was."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if not any(texts):
        raise DataError("no text to make a vocabulary of", where="item texts")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def from_json(text: str) -> Any:
    """Return the tokenizer of `train_tokenizer`."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        backend = Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        raise DataError("the saved tokenizer is damaged", got=str(error), todo="train the model again") from None
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def build_scratch(config: ScratchConfig, vocabulary: int) -> nn.Module:
    """Return an untrained Llama; its weights follow torch's random state.

    They are drawn with a standard deviation of half of dim^-1/2. The family's own, 0.02, is about that at 600
    dimensions; at 64 it is so little that nothing passes the layers, and training begins with growing the weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=config.dim,
            intermediate_size=config.feedforward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            initializer_range=0.5 * config.dim**-0.5,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=None,
        )
    )


def add_lora(model: nn.Module, config: LmConfig) -> None:
    """Freeze the model and put adapters on its linear maps, in place."""
    from peft import LoraConfig, inject_adapter_in_model

    settings = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,  # pyright: ignore[reportArgumentType] - any number scales
        lora_dropout=config.lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",  # leaves the output map alone
    )
    inject_adapter_in_model(settings, model)
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name)
