"""Track 2, multimodal CTR prediction: datasets → item embeddings → batches → ranker → submission."""
