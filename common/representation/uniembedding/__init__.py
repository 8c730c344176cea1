"""UniEmbedding: one embedding an item for several domains, from several frozen modalities."""

from common.representation.uniembedding.config import UniEmbeddingConfig
from common.representation.uniembedding.method import UniEmbedding

__all__ = ["UniEmbedding", "UniEmbeddingConfig"]
