"""Tests of Track 2."""
