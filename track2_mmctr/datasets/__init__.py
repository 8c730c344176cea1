"""Readers: files of the challenge's layout to checked, packed tables."""
