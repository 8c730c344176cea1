"""The works of `python -m benchmarks`: what is measured, how, against whom, and how it grows."""
