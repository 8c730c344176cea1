"""ROMA (KDD 2025): a language model as encoder of items (bottom blocks) and of users (top blocks).

The paper's text and code were not at hand, only its abstract; what is built is our own specification of it, and no
reproduction of its figures is claimed.
"""
