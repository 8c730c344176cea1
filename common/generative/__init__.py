"""Generative retrieval: prefix trie, constrained beam search, TIGER and CART. `python -m common.generative --help`."""
