"""All stages whose growth is measured, with the smallest size of each: full, quick, tiny."""

from __future__ import annotations

from benchmarks.suite.growth import Stage

PAGES, CTR = "benchmarks.suite.stages_pages", "benchmarks.suite.stages_ctr"
_SORT = "sorting takes n log n"
_HNSW = "inserting into HNSW searches a graph that grows (n log n), from memory that leaves the processor's cache"

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("pdf_text", f"{PAGES}:pdf_text", "pages", (250, 100, 5)),
        Stage("bm25", f"{PAGES}:bm25", "passages", (1_000, 400, 20)),
        Stage("text_encoding", f"{PAGES}:text_encoding", "chunks", (20, 8, 1)),
        Stage("token_encoding", f"{PAGES}:token_encoding", "chunks", (20, 8, 1)),
        Stage(
            "store_write", f"{PAGES}:store_write", "shards", (60, 30, 4), "each shard writes the whole manifest again"
        ),
        Stage("store_read", f"{PAGES}:store_read", "vectors", (16_384, 4_096, 100)),
        Stage("faiss_flat", f"{PAGES}:faiss_flat", "vectors", (16_384, 4_096, 200)),
        Stage("faiss_hnsw", f"{PAGES}:faiss_hnsw", "vectors", (4_000, 1_000, 200), _HNSW),
        Stage("fusion", f"{PAGES}:fusion", "questions", (200, 100, 5)),
        Stage("packing", f"{CTR}:packing", "rows", (12_000, 3_000, 200)),
        Stage("din_training", f"{CTR}:din_training", "rows", (2_048, 1_024, 1_024)),
        Stage("din_prediction", f"{CTR}:din_prediction", "rows", (2_048, 1_024, 100)),
        Stage("gbdt_features", f"{CTR}:gbdt_features", "rows", (12_000, 3_000, 200), _SORT),
        Stage("quantizer_fit", f"{CTR}:quantizer_fit", "vectors", (4_096, 2_048, 2_048)),
        Stage("quantizer_encode", f"{CTR}:quantizer_encode", "vectors", (20_000, 5_000, 512)),
        Stage("trie_build", f"{CTR}:trie_build", "items", (625_000, 62_500, 1_000), _SORT),
        Stage("beam_search", f"{CTR}:beam_search", "items", (62_500, 6_250, 500)),
        Stage("report", f"{PAGES}:report", "questions", (25, 10, 5)),
    )
}
