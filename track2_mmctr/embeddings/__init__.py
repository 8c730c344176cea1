"""Item embeddings: titles and covers to the 128-d vectors of `item_info.parquet`."""
