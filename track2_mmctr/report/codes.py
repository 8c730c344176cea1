"""Semantic IDs to look at: how evenly each level's codes are used, how many items share an ID, and which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from common.errors import UserError
from common.pages.blocks import Block, Card, Chart, Column, Fact, Facts, Gallery, Gap, Section, Strip, Table, Text
from common.pages.charts import Bar, Point, bars, lines
from common.tokenizers.collisions import CollisionReport, collision_report
from common.tokenizers.quality import perplexity
from track2_mmctr.datasets.semantic_ids import SemanticIds, semantic_ids_of
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.feature_config import FeatureConfig, SidConfig
from track2_mmctr.report.files import RunFiles
from track2_mmctr.report.items import Shelf

GROUPS, MEMBERS = 8, 8
"""Groups of items of one ID that are shown, and members of each."""
SHOWN_SIZES = 20
CURVE = 128
"""Points of a curve of use at most."""


def code_section(run: RunFiles, data: CtrData, shelf: Shelf) -> Section:
    """Return the use of the codes and their collisions; a gap where the run reads no semantic IDs."""
    key, title = "codes", "Semantic IDs"
    path = run.setting("features", "semantic_ids") or "none"
    todo = f"python -m track2_mmctr tokenize, then: {run.again} --set features.semantic_ids=FILE"
    if path == "none":
        return Section(key, title, [Gap("This run reads no semantic IDs (features.semantic_ids is none).", todo)])
    levels = run.setting("features", "sid", "levels") or 0
    try:
        config = FeatureConfig(semantic_ids=str(path), sid=SidConfig(levels=levels))
        ids = semantic_ids_of(config, len(data.items))
    except UserError as error:
        return Section(key, title, [Gap(f"The semantic IDs cannot be read: {error.what} ({error.where}).", todo)])
    if ids is None:
        return Section(key, title, [Gap("There are no semantic IDs.", todo)])
    codes = ids.codes[1:]
    found = collision_report(codes, ids.sizes)
    blocks: list[Block] = [
        Facts(_facts(found)),
        use_table(codes, ids.sizes),
        use_chart(codes, ids.sizes),
        size_chart(found),
        *_largest(ids, shelf),
        Text(
            "The share of the variance that the codes leave is not told here, for want of the quantizer: "
            "`python -m common.tokenizers report --help`."
        ),
    ]
    what = f"{path}, version {ids.version}: {len(ids.sizes)} levels, before a rank makes equal ones different."
    return Section(key, title, blocks, what)


def _facts(found: CollisionReport) -> list[Fact]:
    share = f"{found.unique_fraction:.4f}"
    capacity = f"{found.capacity:,}" if found.capacity < 10**15 else f"{found.capacity:.2e}"
    return [
        Fact("items", f"{found.items:,}"),
        Fact("different IDs", f"{found.distinct:,}", f"of {capacity} possible"),
        Fact("unique fraction", share, f"random codes: {found.expected_fraction:.4f}"),
        Fact("items that share their ID", f"{found.colliding:,}", f"{100 * found.colliding / found.items:.1f} %"),
        Fact("largest group", f"{found.largest:,}", "items of one ID"),
    ]


def use_table(codes: np.ndarray, sizes: tuple[int, ...]) -> Table:
    """Return what each level's codes, int [N, L], are used for: used, dead, perplexity."""
    rows: list[list[Any]] = []
    for level, size in enumerate(sizes):
        counts = np.bincount(codes[:, level], minlength=size)
        used = int((counts > 0).sum())
        found = perplexity(counts)
        rows.append([level + 1, size, used, size - used, found, found / size])
    columns = [
        Column("level"),
        Column("codes", ","),
        Column("used", ","),
        Column("dead", ",", "codes that no item has"),
        Column("perplexity", ".1f", "exp of the entropy of the codes: as many codes, if all were used alike"),
        Column("perplexity / codes", ".2f", "1 = all are used alike"),
    ]
    return Table(columns, rows, "Codebook use by level")


def use_chart(codes: np.ndarray, sizes: tuple[int, ...]) -> Chart:
    """Return how often each code is used, most used first, 1 = as often as if all were used alike."""
    points: list[Point] = []
    for level, size in enumerate(sizes):
        counts = np.sort(np.bincount(codes[:, level], minlength=size))[::-1]
        for place in np.unique(np.linspace(0, size - 1, min(size, CURVE)).round().astype(int)):
            use = float(counts[place] / max(1, len(codes)) * size)
            points.append(Point(float((place + 1) / size), use, f"level {level + 1}"))
    return lines(
        "Use of codes",
        points,
        text="How often each code is used, most used first; 1 is even use, 0 a dead code.",
        x="codes, most used first (share)",
        y="times even use",
        form=".2f",
        zero=True,
    )


def size_chart(found: CollisionReport) -> Chart:
    """Return how many IDs one, two, three, ... items share."""
    shown: Mapping[int, int] = dict(sorted(found.groups.items())[:SHOWN_SIZES])
    rows = [Bar(f"{size} item{'s' if size > 1 else ''}", number) for size, number in shown.items()]
    text = f"{found.groups.get(1, 0):,} IDs have one item; the most items of one ID are {found.largest:,}."
    return bars("Items that share an ID", rows, text=text, axis="IDs", per="items of one ID", form=",")


def _largest(ids: SemanticIds, shelf: Shelf) -> list[Block]:
    """Return a gallery of the largest groups of items that share an ID."""
    unique, owner, sizes = np.unique(ids.codes[1:], axis=0, return_inverse=True, return_counts=True)
    cards: list[Card] = []
    for group in np.argsort(-sizes, kind="stable")[:GROUPS]:
        if sizes[group] < 2:
            break
        members = 1 + np.flatnonzero(owner == group)
        code = "-".join(str(int(part)) for part in unique[group])
        tiles = [shelf.tile(int(item)) for item in members[:MEMBERS]]
        label = "items" + (f" ({MEMBERS} of {sizes[group]:,})" if sizes[group] > MEMBERS else "")
        cards.append(Card(f"ID {code}", [("items", f"{sizes[group]:,}")], [Strip(label, tiles)]))
    return [Text("The largest groups of items that share an ID:"), Gallery(cards, "IDs")] if cards else []
