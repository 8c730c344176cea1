"""Causal language models that read and write text and codes: what EAGER-LLM and STORE share."""
