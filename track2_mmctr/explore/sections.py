"""The data of Track 2 on the page: counts by file, lengths, popularity, columns, items, sampled rows and items."""

from __future__ import annotations

import numpy as np

from common.explore.counts import length_chart, plural, spread, spread_table
from common.pages.blocks import Block, Cell, Column, Fact, Facts, Gap, Section, Table, Text
from common.pages.images import Images
from track2_mmctr.datasets.items import EMBEDDING
from track2_mmctr.datasets.tables import LEVELS
from track2_mmctr.explore.item_checks import constant_dimensions, same_titles
from track2_mmctr.explore.read import COVERS
from track2_mmctr.explore.row_checks import cold
from track2_mmctr.explore.rows import Rows, click_rate
from track2_mmctr.explore.samples import item_gallery, row_gallery

GET = "python -m track2_mmctr download --help"
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def ctr_sections(rows: Rows, images: Images, *, samples: int, seed: int) -> list[Section]:
    """Return all sections but the findings; what is absent is a gap in its place."""
    return [
        Section("rows", "Rows", _counts(rows)),
        Section("histories", "Histories", _histories(rows)),
        Section("popularity", "Popularity", _popularity(rows)),
        Section("columns", "Context columns", _columns(rows)),
        Section("items", "Items", _items(rows)),
        Section("sampled-rows", "Sampled rows", row_gallery(rows, images, samples, seed)),
        Section("sampled-items", "Sampled items", item_gallery(rows, images, samples, seed)),
    ]


def _no_rows() -> list[Block]:
    return [Gap("There are no rows that can be read: train, valid and test.", GET)]


def _counts(rows: Rows) -> list[Block]:
    data = rows.data
    facts = [
        Fact("Rows", f"{sum(map(len, data.splits.values())):,}", plural(len(data.splits), "file")),
        Fact("Items", f"{max(0, data.items - 1):,}", "in item_info"),
    ]
    if data.splits:
        everyone = np.unique(np.concatenate([split.users for split in data.splits.values()]))
        facts.append(Fact("Users", f"{len(everyone):,}"))
        facts.append(Fact("In histories", f"{sum(len(s.history) for s in data.splits.values()):,}", "items in all"))
    blocks: list[Block] = [Facts(facts)]
    if not data.splits:
        return [*blocks, *_no_rows()]
    columns = [
        Column("file"),
        Column("rows", ","),
        Column("users", ","),
        Column("targets", ",", "different items"),
        Column("click rate %", ".1f"),
        Column("mean history", ".1f"),
        Column("empty %", ".1f", "rows without a history"),
        Column("seen %", ".1f", "the target is in the row's own history"),
        Column("cold %", ".1f", "the target is no target of train"),
    ]
    blocks.append(Table(columns, [_row(rows, name) for name in data.splits], "Files"))
    absent = [name for name in ("train", "valid", "test") if name not in data.splits]
    blocks += [Gap(f"{name}.parquet is absent or cannot be read.", GET) for name in absent]
    blocks += [
        Gap(f"{name}.parquet has no labels.", "the real test set has none: its score comes from Codabench")
        for name, split in data.splits.items()
        if split.label is None
    ]
    return [*blocks, *(Text(note) for note in data.notes)]


def _row(rows: Rows, name: str) -> list[Cell]:
    split = next(split for split in rows.data.splits.values() if split.name == name)
    later = name != "train" and "train" in rows.data.splits
    return [
        name,
        len(split),
        len(np.unique(split.users)),
        len(np.unique(split.target)),
        None if split.label is None else 100 * click_rate(split),
        float(split.lengths.mean()),
        100 * float((split.lengths == 0).mean()),
        100 * float(rows.own[split.name].mean()),
        100 * float(cold(rows, split)[0].mean()) if later else None,
    ]


def _histories(rows: Rows) -> list[Block]:
    if not rows.data.splits:
        return _no_rows()
    splits = rows.data.splits.values()
    measured = [spread(f"{split.name}: items of a history", split.lengths) for split in splits]
    per_user = [spread(f"{s.name}: rows of a user", np.unique(s.users, return_counts=True)[1]) for s in splits]
    blocks: list[Block] = [spread_table([*measured, *per_user])]
    blocks += [length_chart(f"History lengths of {s.name}", s.lengths, "items", "rows") for s in splits]
    sequences = rows.data.sequences
    if sequences is None:
        blocks.append(Gap("item_seq.parquet is absent or cannot be read.", f"optional; {GET}"))
    else:
        blocks.append(length_chart("Lengths of item_seq", sequences.lengths, "items", "sequences"))
    return blocks


def _popularity(rows: Rows) -> list[Block]:
    from common.pages.charts import Point, lines

    if "train" not in rows.data.splits:
        return [Gap("There is no train.parquet to count in.", GET)]
    counts = {"rows": rows.shown[1:], "clicks": rows.clicks[1:], "places in histories": rows.in_histories[1:]}
    points: list[Point] = []
    told: list[str] = []
    for series, count in counts.items():
        ordered, whole = np.sort(count)[::-1], int(count.sum())
        if not whole:
            continue
        covered = 100 * np.cumsum(ordered) / whole
        for most in sorted({max(1, round(share * len(ordered))) for share in SHARES}):
            note = f"{most / len(ordered):.1%} of the items"
            points.append(Point(most, float(covered[most - 1]), series, note=note))
        told.append(f"{covered[max(1, round(0.01 * len(ordered))) - 1]:.0f}% of the {series}")
    text = f"The most frequent hundredth of the items has {', '.join(told)}." if told else "No item is in train."
    blocks: list[Block] = [spread_table([spread(f"{name} of an item", count) for name, count in counts.items()])]
    if points:
        x, y = "most frequent items", "share of all, %"
        blocks.append(lines("How few items make up most", points, text=text, x=x, y=y, form=".1f", log_x=True))
    columns = [Column("item"), Column("id"), *(Column(name, ",") for name in counts)]
    top = np.argsort(-rows.shown[1:], kind="stable")[:20] + 1
    listed = [[rows.data.title(i), i, int(rows.shown[i]), int(rows.clicks[i]), int(rows.in_histories[i])] for i in top]
    return [*blocks, Table(columns, listed, "The twenty items with most rows of train")]


def _columns(rows: Rows) -> list[Block]:
    from common.pages.charts import Bar, bars

    if not rows.data.splits:
        return _no_rows()
    blocks: list[Block] = []
    for place, column in enumerate(("likes_level", "views_level")):
        drawn: list[Bar] = []
        for split in rows.data.splits.values():
            level = split.levels[:, place]
            counts = np.bincount(level, minlength=LEVELS)
            if split.label is None:
                continue
            clicks = np.bincount(level, weights=np.asarray(split.label), minlength=LEVELS)
            drawn += [
                Bar(str(value), 100 * clicks[value] / counts[value], series=split.name, note=f"{counts[value]:,} rows")
                for value in range(LEVELS)
                if counts[value]
            ]
        if drawn:
            drawn.sort(key=lambda bar: int(bar.label))
            low, high = (pick(drawn, key=lambda bar: bar.value) for pick in (min, max))
            text = (
                f"From {low.value:.1f}% at {column} {low.label} ({low.series}) "
                f"to {high.value:.1f}% at {high.label} ({high.series})."
            )
            blocks.append(bars(f"Click rate by {column}", drawn, text=text, axis="click rate, %", per=column))
        else:
            blocks.append(Gap(f"Without labels there is no click rate by {column}.", GET))
    names = list(rows.data.splits)
    alone = [[column, *(values.get(name) for name in names)] for column, values in rows.alone.items()]
    titles = [Column("column"), *(Column(name, ".3f") for name in names)]
    blocks.append(Table(titles, alone, "What one column alone orders: AUC of its values as scores"))
    return blocks


def _items(rows: Rows) -> list[Block]:
    from common.pages.charts import Bin, histogram

    data = rows.data
    if data.info is None:
        return [Gap("The item table cannot be read.", GET)]
    titles = None if data.features is None else data.features.titles
    per_item = [spread("tags of an item", (data.info.tags[1:] > 0).sum(1))]
    blocks: list[Block] = []
    if titles is None:
        blocks.append(Gap("There are no titles: item_feature.parquet is absent or has none.", GET))
    else:
        per_item.append(spread("words of a title", np.asarray([len(title.split()) for title in titles[1:]])))
        groups = list(same_titles(titles).items())[:20]
        if groups:
            listed = [[title, len(items), ", ".join(map(str, items[:8]))] for title, items in groups]
            columns = [Column("title"), Column("items", ","), Column("ids")]
            blocks.append(Table(columns, listed, "Titles that several items share"))
    if data.covers is None:
        blocks.append(Gap(f"There are no covers: no folder {COVERS}.", GET))
    vectors = data.info.embedding
    if vectors is None:
        blocks.append(Gap(f"item_info has no column {EMBEDDING}.", "python -m track2_mmctr embed --help"))
    else:
        norms = np.linalg.norm(vectors[1:].astype(np.float64), axis=1)
        per_item += [spread("norm of an embedding", norms), spread("deviation of a dimension", vectors[1:].std(0))]
        counts, edges = np.histogram(norms, bins=30)
        drawn = [
            Bin(float(low), float(high), int(count))
            for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
        ]
        text = f"{plural(len(constant_dimensions(vectors[1:])), 'dimension')} of {vectors.shape[1]} do not vary."
        blocks.append(histogram("Norms of the embedding", drawn, text=text, x="norm", y="items"))
    return [spread_table(per_item, form=",.3g"), *blocks]
