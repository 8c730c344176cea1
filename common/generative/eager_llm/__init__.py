"""EAGER-LLM: a decoder-only language model that recommends, tells titles of items and what users like."""
