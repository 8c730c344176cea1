"""Readers that turn the challenge's files into the typed tables of `tables.py`."""
