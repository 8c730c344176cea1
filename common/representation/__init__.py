"""Five ways to turn language and vision models into features: KAR, EASE, ROMA, UniEmbedding, UIST."""
