"""The language model behind ROMA: loaded through transformers, or made small from the items' own words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from common.encoders.loading import quiet_unless_terminal
from common.encoders.packaged import resolve, unavailable
from common.errors import ConfigError, DataError
from common.hashing import digest
from common.representation.roma.config import RomaConfig, ScratchConfig

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def language_model_state(config: RomaConfig, texts: Sequence[str]) -> dict[str, Any]:
    """Return what fixes the language model, JSON values: its name and revision, or the words of a new one."""
    if config.scratch is None:
        source = resolve(config.plm, "torch")
        return {"name": config.plm, "revision": source.revision()}
    words = collect_words(texts, config.scratch.words)
    return {"name": "scratch", "revision": digest(*words), "words": words}


def load_language_model(config: RomaConfig, state: dict[str, Any]) -> tuple[nn.Module, Any]:
    """Return the encoder and its tokenizer.

    Raises
    ------
    ConfigError
        The model is not to be had, or is not BERT-like.
    DataError
        It is another one than `state` says: a saved method that was fitted on another revision.
    """
    if config.scratch is not None:
        return _from_scratch(config.scratch, state["words"])
    from transformers import AutoModel, AutoTokenizer

    source = resolve(config.plm, "torch")
    try:
        with quiet_unless_terminal(), _no_load_report():
            tokenizer = AutoTokenizer.from_pretrained(source.target)
            model: Any = AutoModel.from_pretrained(source.target, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise unavailable(config.plm, error) from None
    if (found := source.revision()) != state["revision"]:
        raise DataError(
            "the method was fitted on another revision of its language model",
            where=config.plm,
            expected=state["revision"],
            got=found,
            todo="put that revision in place, or fit the method again",
        )
    if tokenizer.mask_token_id is None or tokenizer.cls_token_id is None:
        raise ConfigError("the tokenizer has no [MASK] or no [CLS]", where=config.plm, todo="use a BERT-like encoder")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # reads the last block's [CLS], which nothing here does
    return model, tokenizer


@contextmanager
def _no_load_report() -> Iterator[None]:
    """Keep transformers from reporting on the pooler, which is dropped."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def blocks_of(model: nn.Module, name: str) -> nn.ModuleList:
    """Return the transformer blocks of a BERT-like encoder; raise `ConfigError` for one built in another way."""
    layers = getattr(getattr(model, "encoder", None), "layer", None)
    shaped = isinstance(layers, nn.ModuleList) and all(
        hasattr(block, "output") and isinstance(getattr(_attention(block), "query", None), nn.Linear)
        for block in layers
    )
    if not shaped or not hasattr(model, "embeddings"):
        raise ConfigError(
            "the language model is built in another way than BERT",
            where=name,
            expected="embeddings, and encoder.layer of blocks with attention.self and output (BERT, RoBERTa, MiniLM)",
            got=type(model).__name__,
        )
    return layers  # pyright: ignore[reportReturnType]


def _attention(block: nn.Module) -> nn.Module | None:
    return getattr(getattr(block, "attention", None), "self", None)


def collect_words(texts: Sequence[str], most: int) -> list[str]:
    """Return a vocabulary: special tokens, characters (so that no word is unknown), and the `most` frequent words."""
    from transformers import BertTokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

    reader: Any = BertTokenizerFast(vocab={token: i for i, token in enumerate(_SPECIAL)}).backend_tokenizer
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in reader.pre_tokenizer.pre_tokenize_str(reader.normalizer.normalize_str(text)))
    characters = sorted({character for word in counts for character in word})
    pieces = [*characters, *("##" + character for character in characters)]
    kept = sorted(counts, key=lambda word: (-counts[word], word))[:most]
    return list(dict.fromkeys([*_SPECIAL, *pieces, *kept]))


def _from_scratch(config: ScratchConfig, words: Sequence[str]) -> tuple[nn.Module, Any]:
    from transformers import BertConfig, BertModel, BertTokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
    size = BertConfig(
        vocab_size=len(words),
        hidden_size=config.dim,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feedforward,
        max_position_embeddings=config.positions,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        pad_token_id=0,
        initializer_range=config.dim**-0.5,  # with BERT's 0.02, meant for a width of 768, all items begin as one [CLS]
    )
    return BertModel(size, add_pooling_layer=False), tokenizer
