"""Planted data with known answers: vectors, and sequences whose best reachable recall is known."""

from common.planted_sequences import ClusterChain, cluster_sequences, recall_of
from common.planted_vectors import additive_vectors, isotropic_vectors, tree_vectors

__all__ = [
    "ClusterChain",
    "additive_vectors",
    "cluster_sequences",
    "isotropic_vectors",
    "recall_of",
    "tree_vectors",
]
