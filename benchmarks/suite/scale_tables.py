"""The tables of docs/scale.md: documents, items, a cluster, and what breaks first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from benchmarks.suite.scale_constants import Constants
from benchmarks.suite.table import aligned, number

# What is assumed, and stated in the page: prices in US dollars, and the development split's proportions.
CORE_HOUR, GPU_HOUR, DISK_GB_MONTH, TRAFFIC_GB = 0.04, 2.0, 0.10, 0.01
PASSAGES = (20_395, 1_000_000, 10_000_000)
ITEMS = (91_717, 10_000_000, 1_000_000_000)
CHUNKS_A_PAGE = 3.0
OCR_SHARE = 0.18
DIM = 384
TOKENS_A_CHUNK, TOKEN_DIM = 200, 96
SHARD_ITEMS = 1024
PDF_BYTES_A_PAGE, IMAGE_BYTES_A_PAGE = 41_000, 100_000
ID_DIM, TAGS, EMBEDDING_DIM = 64, 5, 128
TRAIN_ROWS = 100
"""Training rows an item at the sizes beyond the challenge's (3.6 M rows, 91,717 items: 39 an item)."""
DIN_WEIGHTS, STEP_ROWS = 8_600_000, 8_192
MACHINE_BYTES = 64e9
DAY = 86_400.0


def hours(seconds: float) -> str:
    """Return CPU seconds as the unit that reads best.

    >>> hours(30), hours(7200), hours(3600 * 24 * 365 * 3)
    ('30.0 s', '2.00 h', '3.00 years')
    """
    if math.isnan(seconds):
        return "not measured"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (DAY * 30, 3600, "h"), (math.inf, DAY * 365, "years")):
        if seconds < limit:
            return f"{number(seconds / unit)} {name}"
    return ""


def latency(seconds: float) -> str:
    """Return a user's wait in milliseconds.

    >>> latency(0.0123)
    '12.3 ms'
    """
    return "not measured" if math.isnan(seconds) else f"{number(1000 * seconds)} ms"


def at(limit: float, each: float) -> float:
    """Return how many things of `each` reach `limit`: infinitely many where one takes nothing."""
    return math.inf if each <= 0 else limit / each


def size(count: float) -> str:
    """Return bytes as the unit that reads best.

    >>> size(2_500_000), size(3e12)
    ('2.50 MB', '3.00 TB')
    """
    if math.isnan(count):
        return "not measured"
    for limit, unit, name in ((1e9, 1e6, "MB"), (1e12, 1e9, "GB"), (math.inf, 1e12, "TB")):
        if count < limit:
            return f"{number(count / unit)} {name}"
    return ""


def money(seconds: float) -> str:
    """Return what processor seconds cost."""
    return "" if math.isnan(seconds) else f"${number(seconds / 3600 * CORE_HOUR)}"


def manifest_seconds(c: Constants, vectors: float) -> float:
    """Return the processor seconds that writing the store's shards takes beyond its vectors: a n + b n^2."""
    shards = vectors / SHARD_ITEMS
    return c["store_write a"] * shards + c["store_write b"] * shards**2


def flat_bytes(vectors: float) -> float:
    """Return the memory of a flat index: float32 values and an int64 id."""
    return vectors * (4 * DIM + 8)


def hnsw_bytes(vectors: float) -> float:
    """Return the memory of HNSW with 32 links, as `common.index.choose_kind` reckons it."""
    return flat_bytes(vectors) + vectors * (8 * 32 + 16)


def ivfpq_bytes(vectors: float) -> float:
    """Return the memory of IVF-PQ: a byte for four numbers, and an id."""
    return vectors * (DIM / 4 + 8)


def documents(c: Constants) -> str:
    """Return the table of documents: processor time, cost, memory and disk at growing numbers of pages."""
    rows: list[tuple[str, ...]] = []

    def add(name: str, where: str, value: Callable[[float], float], told: Callable[[float], str] = hours) -> None:
        cells = [told(value(pages)) for pages in PASSAGES]
        rows.append((name, where, *cells, money(value(PASSAGES[-1])) if told is hours else ""))

    def chunks(pages: float) -> float:
        return pages * CHUNKS_A_PAGE

    add("PDF text", "CPU", lambda n: n * c["pdf_text CPU s/page"])
    add("OCR of pages without text", "CPU", lambda n: n * OCR_SHARE * c["ocr_page CPU s"])
    add("dense vectors", "CPU", lambda n: chunks(n) * c["text_encoding CPU s/chunk"])
    add("ColBERT vectors", "CPU", lambda n: chunks(n) * c["token_encoding CPU s/chunk"])
    add("embedding store, manifest", "CPU", lambda n: manifest_seconds(c, chunks(n)))
    add("HNSW, building", "CPU", lambda n: chunks(n) * c["faiss_hnsw CPU s/vector"] * DIM / 64)
    add("BM25, index and 50 questions", "CPU", lambda n: n * c["bm25 CPU s/passage"])
    add("BM25, held", "memory", lambda n: n * c["bm25 bytes/passage"], size)
    add("flat index", "memory", lambda n: flat_bytes(chunks(n)), size)
    add("HNSW", "memory", lambda n: hnsw_bytes(chunks(n)), size)
    add("IVF-PQ", "memory", lambda n: ivfpq_bytes(chunks(n)), size)
    add("dense vectors, kept", "disk", lambda n: chunks(n) * c["store_read bytes_a_vector"], size)
    add("ColBERT vectors, kept as float16", "disk", lambda n: chunks(n) * TOKENS_A_CHUNK * TOKEN_DIM * 2, size)
    add("page images", "disk", lambda n: n * IMAGE_BYTES_A_PAGE, size)
    add("flat search of a question", "CPU", lambda n: chunks(n) * c["faiss_flat CPU s/vector"] / 256, latency)
    header = ("what", "of", *(f"{n:,} pages" for n in PASSAGES), "cost of the last")
    return aligned(header, rows, {"what", "of"})


def din_bytes(items: float) -> float:
    """Return the memory of an id embedding while it is trained: weights and two moments of Adam, float32."""
    return items * ID_DIM * 4 * 3


def table_bytes(items: float) -> float:
    """Return the memory of the item table: embedding, tags, two levels."""
    return items * (EMBEDDING_DIM * 4 + TAGS * 4 + 2 * 4)


def train_rows(items: float) -> float:
    """Return the rows of training: the challenge's own at its size, else `TRAIN_ROWS` an item."""
    return 3_600_000 if items == ITEMS[0] else TRAIN_ROWS * items


def items(c: Constants) -> str:
    """Return the table of items: the click models and semantic IDs."""
    rows: list[tuple[str, ...]] = []

    def add(name: str, where: str, value: Callable[[float], float], told: Callable[[float], str] = hours) -> None:
        cells = [told(value(n)) for n in ITEMS]
        rows.append((name, where, *cells, money(value(ITEMS[-1])) if told is hours else ""))

    add("item table (128 numbers, tags, levels)", "memory", table_bytes, size)
    add("id embedding of 64 with Adam's moments", "memory", din_bytes, size)
    add("the same by semantic IDs, 4 x 256 codes", "memory", lambda n: din_bytes(4 * 256) + n * 4, size)
    add("packed histories", "disk", lambda n: train_rows(n) * c["packing bytes_a_row"], size)
    add("packing", "CPU", lambda n: train_rows(n) * c["packing CPU s/row"])
    add("DIN, one epoch", "CPU", lambda n: train_rows(n) * c["din_training CPU s/row"])
    add("gbdt, features of all rows", "memory", lambda n: train_rows(n) * c["gbdt_features bytes/row"], size)
    add("DIN, score 1,000 items for a user", "CPU", lambda n: 1000 * c["din_prediction CPU s/row"], latency)
    add("quantizer, encode all items", "CPU", lambda n: n * c["quantizer_encode CPU s/vector"])
    add("trie, build", "CPU", lambda n: n * c["trie_build CPU s/item"])
    add("trie, build", "memory", lambda n: n * c["trie_build bytes/item"], size)
    add("trie, kept", "memory", lambda n: n * c["trie_build bytes_an_item"], size)
    add("beam search without the model, 8 users", "CPU", lambda n: c["beam_search CPU s, largest"], latency)
    header = ("what", "of", *(f"{n:,} items" for n in ITEMS), "cost of the last")
    return aligned(header, rows, {"what", "of"})


def cluster(c: Constants) -> str:
    """Return the table of a day: how many cores finish 10 M pages in 24 hours, and what goes over the network."""
    pages = float(PASSAGES[-1])
    chunks = pages * CHUNKS_A_PAGE
    jobs = (
        ("PDF text", pages * c["pdf_text CPU s/page"], pages * PDF_BYTES_A_PAGE, pages * 2_000),
        (
            "OCR",
            pages * OCR_SHARE * c["ocr_page CPU s"],
            pages * OCR_SHARE * PDF_BYTES_A_PAGE,
            pages * OCR_SHARE * 2_000,
        ),
        ("dense vectors", chunks * c["text_encoding CPU s/chunk"], chunks * 1_000, chunks * 4 * DIM),
        (
            "ColBERT vectors",
            chunks * c["token_encoding CPU s/chunk"],
            chunks * 1_000,
            chunks * TOKENS_A_CHUNK * TOKEN_DIM * 2,
        ),
    )
    rows = [
        (
            name,
            hours(seconds),
            "" if math.isnan(seconds) else f"{math.ceil(seconds / DAY):,}",
            size(read),
            size(written),
            "" if math.isnan(seconds) else f"{number((read + written) / DAY / 1e6)} MB/s",
            ""
            if math.isnan(seconds)
            else f"${number(seconds / 3600 * CORE_HOUR + (read + written) / 1e9 * TRAFFIC_GB)}",
            f"${number(written / 1e9 * DISK_GB_MONTH)}",
        )
        for name, seconds, read, written in jobs
    ]
    header = ("10 M pages", "CPU", "cores for a day", "read", "written", "traffic", "cost", "disk a month")
    return aligned(header, rows, {"10 M pages"})


def training(c: Constants) -> str:
    """Return what a step of data-parallel training takes, and what its gradients take on the network."""
    step, moved = STEP_ROWS * c["din_training CPU s/row"], 2 * 4 * DIN_WEIGHTS
    told = [f"{number(moved / 1e6)} MB in and out of each process: "]
    for gigabits in (1, 10):
        sent = moved / (gigabits * 1e9 / 8)
        told.append(f"{number(sent)} s at {gigabits} Gbit/s, {number(100 * sent / (sent + step))} % of the time")
    return (
        f"A step of `din` at its full size ({DIN_WEIGHTS / 1e6:g} M weights) with {STEP_ROWS:,} rows a process takes "
        f"{number(step)} s of a core. Summing the gradients over a ring moves {told[0]}{'; '.join(told[1:])}."
    )


def limits(c: Constants) -> list[tuple[str, float, str, str]]:
    """Return (what breaks, at how many, of what, what takes over), the first to break first."""
    memory = MACHINE_BYTES
    # The shards' manifest costs as much as one tenth of encoding, at n chunks: a n / 1024 + b (n / 1024)^2 = n e / 10.
    per_shard = c["text_encoding CPU s/chunk"] * SHARD_ITEMS / 10
    square = c["store_write b"]
    shards = at(per_shard - c["store_write a"], square)
    found = [
        ("BM25 in memory", at(memory, c["bm25 bytes/passage"]), "passages", "one run a part of it (no switch)"),
        ("flat index in memory", memory / flat_bytes(1), "vectors", "`common.index`: IVF-PQ, or Milvus"),
        ("HNSW in memory", memory / hnsw_bytes(1), "vectors", "IVF-PQ, or Milvus on several machines"),
        ("IVF-PQ in memory", memory / ivfpq_bytes(1), "vectors", "`--index milvus --uri ...`, a cluster"),
        (
            "flat search takes 0.1 s of a core",
            at(0.1 * 256, c["faiss_flat CPU s/vector"]),
            "vectors",
            "HNSW (`choose_kind` takes it above 200,000)",
        ),
        (
            "store's manifest a tenth of encoding",
            shards * SHARD_ITEMS,
            "vectors",
            "larger shards (`shard_items`)",
        ),
        ("item table in memory", memory / table_bytes(1), "items", "`features.embedding=none`, and semantic IDs"),
        ("id embedding with Adam", memory / din_bytes(1), "items", "semantic IDs or UIST tokens instead of ids"),
        (
            "gbdt's features in memory",
            at(memory, c["gbdt_features bytes/row"]),
            "training rows",
            "fewer rows, or a neural ranker",
        ),
        ("building the trie", at(memory, c["trie_build bytes/item"]), "items", "one trie a part of the catalogue"),
        ("keeping the trie", at(memory, c["trie_build bytes_an_item"]), "items", "one trie a part of the catalogue"),
        (
            "DIN, an epoch takes a core a month",
            at(30 * DAY, c["din_training CPU s/row"]),
            "training rows",
            "torchrun, or `--engine ray`; a GPU",
        ),
        ("OCR takes a core a month", at(30 * DAY, c["ocr_page CPU s"]), "pages without text", "`--engine ray`"),
    ]
    return sorted((one for one in found if not math.isnan(one[1])), key=lambda one: one[1])


def breaks(c: Constants) -> str:
    """Return the table of limits on one machine."""
    rows = [(what, f"{_round(count):,}", of, then) for what, count, of, then in limits(c) if math.isfinite(count)]
    return aligned(("what breaks", "at", "of", "what takes over"), rows, {"what breaks", "of", "what takes over"})


def _round(count: float) -> int:
    """Return a count to two figures: a limit is no more certain than that."""
    return int(float(f"{count:.2g}"))


def basis(c: Constants) -> str:
    """Return the constants themselves."""
    wanted: Sequence[tuple[str, str, float, str]] = (
        ("PDF text", "pdf_text CPU s/page", 1e3, "ms/page"),
        ("OCR", "ocr_page CPU s", 1, "s/page"),
        ("bge-small int8", "text_encoding CPU s/chunk", 1e3, "ms/chunk"),
        ("ColBERT int8", "token_encoding CPU s/chunk", 1e3, "ms/chunk"),
        ("BM25", "bm25 CPU s/passage", 1e6, "us/passage"),
        ("BM25", "bm25 bytes/passage", 1, "bytes/passage"),
        ("flat search, 256 questions", "faiss_flat CPU s/vector", 1e6, "us/vector"),
        ("HNSW of 64 numbers", "faiss_hnsw CPU s/vector", 1e6, "us/vector"),
        ("packing", "packing CPU s/row", 1e6, "us/row"),
        ("packed", "packing bytes_a_row", 1, "bytes/row"),
        ("DIN training", "din_training CPU s/row", 1e6, "us/row"),
        ("DIN prediction", "din_prediction CPU s/row", 1e6, "us/row"),
        ("gbdt features", "gbdt_features bytes/row", 1, "bytes/row"),
        ("RQKMeans, encode", "quantizer_encode CPU s/vector", 1e6, "us/vector"),
        ("trie, build", "trie_build CPU s/item", 1e9, "ns/item"),
        ("trie, kept", "trie_build bytes_an_item", 1, "bytes/item"),
        ("beam, 8 users", "beam_search CPU s, largest", 1e3, "ms/search"),
    )
    told = [f"{name} {number(scale * c[key])} {unit}" for name, key, scale, unit in wanted if not math.isnan(c[key])]
    machine = c.machine
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, code {machine['code']}, "
        f"size {c.size}. Processor time and memory of one more thing: {'; '.join(told)}."
    )


def assumed(c: Constants) -> str:
    """Return what is assumed beside what was measured."""
    del c
    return (
        f"Assumed: ${CORE_HOUR} a core-hour, ${GPU_HOUR} a GPU-hour, ${DISK_GB_MONTH} a GB of disk and month, "
        f"${TRAFFIC_GB} a GB over the network, machines of {size(MACHINE_BYTES)} of memory; of the development split: "
        f"{CHUNKS_A_PAGE:g} chunks a page, {100 * OCR_SHARE:g} % of the pages without text, "
        f"{PDF_BYTES_A_PAGE / 1000:g} kB of PDF a page; {TOKENS_A_CHUNK} token vectors of {TOKEN_DIM} numbers a chunk, "
        f"{IMAGE_BYTES_A_PAGE / 1000:g} kB an image; {TRAIN_ROWS} training rows an item beyond the challenge's size."
    )


TABLES: dict[str, Callable[[Constants], str]] = {
    "constants": basis,
    "assumptions": assumed,
    "documents": documents,
    "items": items,
    "cluster": cluster,
    "training": training,
    "breaks": breaks,
}
