"""The constants that `benchmarks.scale` computes with: what one more thing costs, by a saved run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.suite.growth import CPU, grown
from benchmarks.suite.work import Found, Sample

UNITS: dict[str, str] = {
    "pdf_text": "page",
    "bm25": "passage",
    "text_encoding": "chunk",
    "token_encoding": "chunk",
    "store_read": "vector",
    "store_write": "shard",
    "faiss_flat": "vector",
    "faiss_hnsw": "vector",
    "fusion": "question",
    "packing": "row",
    "din_training": "row",
    "din_prediction": "row",
    "gbdt_features": "row",
    "quantizer_fit": "vector",
    "quantizer_encode": "vector",
    "trie_build": "item",
    "report": "question",
}
FROM_TABLE = {"ocr_page": ("ocr", "kit", "pages")}
"""Processor seconds of one thing that only the table of works measures: of real pages where it had --data."""


@dataclass(frozen=True)
class Constants:
    """Numbers by name, and on which machine they were measured.

    `values["bm25 CPU s/passage"]` are the processor seconds of one more passage, `values["bm25 bytes/passage"]` the
    memory; both are the slope between 4 and 16 times the work, so that fixed costs are left out. `facts` of a stage
    are there as "stage fact".
    """

    machine: Mapping[str, Any]
    size: str
    values: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        """Return a constant; nan where it was not measured."""
        return float(self.values.get(name, math.nan))

    def to_json(self) -> dict[str, Any]:
        """Return them as a dictionary for JSON."""
        rounded = {name: float(f"{value:.4g}") for name, value in sorted(self.values.items())}
        return {"machine": dict(self.machine), "size": self.size, "values": rounded}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Constants:
        """Return what `to_json` made."""
        return cls(body["machine"], body["size"], body["values"])


def constants_of(runs: Sequence[Mapping[str, Any]]) -> Constants:
    """Return the constants of saved runs: growth gives slopes, the table what has no stage."""
    values: dict[str, float] = {}
    for run in runs:
        by_work: dict[str, list[Found]] = {}
        for one in run["found"]:
            by_work.setdefault(one.work, []).append(one)
        for stage, unit in UNITS.items():
            values |= _slopes(stage, unit, by_work.get(f"growth_{stage}", []))
        for name, (work, system, figure) in FROM_TABLE.items():
            values |= _from_table(name, figure, [one for one in by_work.get(work, []) if one.system == system])
        values |= _beam(by_work.get("growth_beam_search", []))
    last = runs[-1]
    kept = ("cpu", "cores", "memory_gb", "git", "code")
    return Constants({key: last["machine"][key] for key in kept}, str(last.get("size")), values)


def _slopes(stage: str, unit: str, found: Sequence[Found]) -> dict[str, float]:
    """Return the slopes of a stage between its two largest sizes, and its last facts."""
    points = [(int(one.samples[-1]["n"]), one) for one in found if one.samples and "n" in one.samples[-1]]
    if len(points) < 2:
        return {}
    (few, before), (many, after) = sorted(points, key=lambda pair: pair[0])[-2:]
    seconds = (after.best(CPU) - before.best(CPU)) / (many - few)
    memory = (grown(after) - grown(before)) / (many - few)
    values = {f"{stage} CPU s/{unit}": seconds, f"{stage} bytes/{unit}": max(memory, 0.0)}
    if stage == "store_write":
        # cost of n shards = a n + b n^2, through both points
        ends = before.best(CPU) / few, after.best(CPU) / many
        square = max((ends[1] - ends[0]) / (many - few), 0.0)
        values |= {"store_write a": ends[1] - square * many, "store_write b": square}
    values |= {f"{stage} {name}": value for name, value in after.samples[-1]["facts"].items()}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _from_table(name: str, figure: str, found: Sequence[Found]) -> dict[str, float]:
    samples = [Sample(**one["figures"][figure]) for f in found for one in f.samples if figure in one["figures"]]
    costs = [one.cpu / one.amount for one in samples if one.cpu]
    return {f"{name} CPU s": min(costs)} if costs else {}


def _beam(found: Sequence[Found]) -> dict[str, float]:
    """Return the processor seconds of one search over the largest catalogue, and over the smallest."""
    costs = [one.best(CPU) / one.fact("searches") for one in found if one.samples]
    return {"beam_search CPU s, smallest": costs[0], "beam_search CPU s, largest": costs[-1]} if costs else {}
