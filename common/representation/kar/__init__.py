"""KAR: knowledge that a language model states about users and items, encoded, and adapted for a ranker."""
