"""Track 1: multimodal document retrieval (MMDocIR pages, M2KR passages)."""
