"""Second-stage models that re-score the head of a ranking."""
