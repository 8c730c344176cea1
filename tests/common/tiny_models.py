"""Tiny BERT-like models made from a config, saved as a hub would hold them."""

from __future__ import annotations

import string
from pathlib import Path

WORDS = ["the", "cat", "dog", "sat", "mat", "bank", "revenue", "grew", "bread", "flour", "paris", "france", "of"]


def write_tokenizer(folder: Path):
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = list(string.ascii_lowercase) + ["##" + c for c in string.ascii_lowercase]
    vocabulary = special + list(string.punctuation) + list(string.digits) + letters + WORDS
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)})
    tokenizer.add_special_tokens({"additional_special_tokens": ["[unused0]", "[unused1]"]})
    assert len(tokenizer) == len(vocabulary)
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_bert(folder: Path, *, labels: int = 0, seed: int = 0) -> Path:
    """Save a BERT of random weights with its tokenizer; with `labels` a sequence classifier."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertModel

    tokenizer = write_tokenizer(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.5,
        num_labels=max(labels, 1),
    )
    model = BertForSequenceClassification(config) if labels else BertModel(config)
    model.save_pretrained(folder)
    return folder


def write_sentence_transformer(folder: Path, *, prompts: dict[str, str] | None = None) -> Path:
    """Save a sentence-transformers model: tiny BERT, mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    body = Transformer(str(write_bert(folder / "body")))
    pooling = Pooling(body.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[body, pooling], device="cpu", prompts=prompts or {})
    model.save(str(folder / "saved"))
    return folder / "saved"


def write_colbert(folder: Path) -> Path:
    """Save a late-interaction model as sentence-transformers writes it, with markers and query expansion."""
    from sentence_transformers import MultiVectorEncoder

    model = MultiVectorEncoder(
        str(write_bert(folder / "body")), device="cpu", prompts={"query": "[unused0] ", "document": "[unused1] "}
    )
    model[0].query_expansion = {"strategy": "fixed", "attend": False, "length": 16, "token": "[MASK]"}
    model.save(str(folder / "saved"))
    return folder / "saved"
