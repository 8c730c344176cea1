"""STORE: one language model that makes items' tokens of their texts, and recommends by them."""
