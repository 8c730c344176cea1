"""The shipped sample and its generator; downloads of real data go here too (README.md)."""
