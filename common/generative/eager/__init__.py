"""EAGER: a generator of two streams, one over codes of behaviour and one over codes of content."""
