"""What semantic IDs add to Track 2's rankers: test AUC over seeds, with placebos, and differences with their errors.

    python -m benchmarks.semantic_id_ctr planted
    python -m benchmarks.semantic_id_ctr movielens --data DIR --embedding BOTH.parquet

Arms: no IDs; semantic IDs by level, and by prefix; shuffled IDs (the same codes dealt to other items, anew with each
seed: the placebo); semantic IDs without the item-id embedding, and its own control, neither. Each without and with
the frozen embedding that the IDs are made of. `gbdt` reads prefixes in any case. `transformer_dcn_quant` needs the
embedding, and has codes of its own (5 levels of 5) in the arms without IDs.

Recipes, layers and the file of results (`--results`, JSON lines; finished trainings are not run again) are those of
`benchmarks.ctr_quality`.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import typer

from benchmarks.ctr_quality import CacheOption, Job, RankersOption, run_all, show
from benchmarks.planted_ctr import TAGS, write
from common.atomic import atomic_folder
from common.planted import Planted, PlantedConfig, plant

app = typer.Typer(no_args_is_help=True, add_completion=False)
RANKERS = ("din", "dcnv2", "transformer_dcn_quant", "gbdt")
BARE = ("features.item_levels=false", "features.target_levels=false", "features.tags=false")
NO_IDS, IDS, PREFIX, PLACEBO = "no IDs", "semantic IDs", "by prefix", "shuffled IDs"
NO_ITEM, IDS_NO_ITEM = "no item id", "IDs, no item id"
ARMS = (NO_IDS, IDS, PREFIX, PLACEBO, NO_ITEM, IDS_NO_ITEM)
CONTROL = {IDS: NO_IDS, PREFIX: NO_IDS, PLACEBO: NO_IDS, IDS_NO_ITEM: NO_ITEM}
SETS = ("no embedding", "with embedding")
CACHE, RESULTS, WORK = Path("data/cache"), Path("runs/semantic_id_ctr.jsonl"), Path("runs/semantic_id_ctr")

SeedsOption = Annotated[int, typer.Option(min=1, help="Trainings of each arm")]
CodesOption = Annotated[str, typer.Option("--codes", help="Codes of each level, by commas")]
WorkOption = Annotated[Path, typer.Option("--work", help="Where planted data and files of IDs are kept")]
ResultsOption = Annotated[Path, typer.Option("--results", help="JSON lines; finished trainings are not run again")]


def write_planted(out: Path, planted: Planted) -> None:
    """Write planted data in the challenge's layout; train, valid and test have users of their own (70, 10, 20 %).

    As there, no target is in its own history: those rows are left out.
    """
    count, clicks = len(planted), planted.clicks
    ids = np.arange(count + 1)
    rank = planted.popularity.argsort().argsort()
    level = np.concatenate([[0], 1 + rank * 10 // count])
    users = planted.config.users
    new = (planted.histories[clicks.users] != clicks.items[:, None]).all(1)
    bounds = {"train": (0, 0.7), "valid": (0.7, 0.8), "test": (0.8, 1.0)}
    with atomic_folder(out) as folder:
        inner = folder / "MicroLens_1M_x1"
        inner.mkdir()
        for name, (first, last) in bounds.items():
            rows = np.flatnonzero(new & (clicks.users >= first * users) & (clicks.users < last * users))
            item = 1 + clicks.items[rows]
            columns = {
                "user_id": 1 + clicks.users[rows],
                "item_seq": 1 + planted.histories[clicks.users[rows]],
                "item_id": item,
                "likes_level": level[item],
                "views_level": level[item],
                "label": clicks.label[rows].astype(np.int64),
                "oracle": clicks.log_odds[rows],
            }
            if name == "test":
                number = np.arange(len(rows))
                answers = {"ID": number, "label": columns.pop("label"), "oracle": columns.pop("oracle")}
                write(folder / "answers.parquet", answers)
                columns = {"ID": number, **columns}
            write(inner / f"{name}.parquet", columns)
        vectors = np.concatenate([np.zeros((1, planted.config.dim)), planted.additive])
        tags = np.zeros((count + 1, TAGS), np.int64)
        write(inner / "item_info.parquet", {"item_id": ids, "item_tags": tags, "item_emb_d128": vectors})
        feature = {"item_id": ids[1:], "likes_level": level[1:], "views_level": level[1:]}
        write(folder / "item_feature.parquet", feature)


def write_ids(root: Path, embedding: str, codes: str, folder: Path, seeds: int) -> dict[str, Path]:
    """Write the IDs of a data root (one fit), and a placebo for each seed; return the files by name."""
    from common.config import make_config
    from common.tokenizers.files import SidFile, read_sids, write_sids
    from track2_mmctr.datasets.microlens import find_folder
    from track2_mmctr.tokenize_config import TokenizeConfig
    from track2_mmctr.tokenize_items import tokenize_items

    config = make_config(TokenizeConfig, {}, [f"codebook_sizes=[{codes}]"], "--codes")
    files = {"ids": folder / "ids.parquet"}
    made = tokenize_items(find_folder(root), config, embedding, files["ids"])
    report = made.collisions
    typer.echo(
        f"IDs of {made.items:,} items, codes {list(made.sizes[: made.levels])}, version {made.version}: "
        f"{report.distinct:,} different, {report.expected_fraction * made.items:,.0f} of random codes"
    )
    file = read_sids(files["ids"])
    for seed in range(7, 7 + seeds):
        order = np.random.default_rng(seed).permutation(len(file.item_ids))
        files[f"placebo {seed}"] = folder / f"placebo-{seed}.parquet"
        dealt = SidFile(file.item_ids, file.sids[order], file.sizes, f"{file.version}-shuffled-{seed}", file.levels)
        write_sids(files[f"placebo {seed}"], dealt)
    return files


def make_jobs(
    table: str, root: Path, embedding: str, files: dict[str, Path], rankers: list[str], seeds: int, version: str
) -> Iterator[tuple[str, Job]]:
    """Yield (set, job) of all arms; `version` keeps results of other IDs apart."""
    for part in SETS:
        for ranker in rankers:
            if ranker == "transformer_dcn_quant" and part == "no embedding":
                continue
            for arm in ARMS:
                if ranker == "gbdt" and arm == PREFIX:
                    continue
                for seed in range(7, 7 + seeds):
                    frozen = "none" if part == "no embedding" else embedding
                    overrides = [*BARE, f"features.embedding={frozen}"]
                    if arm in (NO_ITEM, IDS_NO_ITEM):
                        overrides.append("features.ids=false")
                    if arm not in (NO_IDS, NO_ITEM):
                        source = files[f"placebo {seed}" if arm == PLACEBO else "ids"]
                        pinned = f"{version}-shuffled-{seed}" if arm == PLACEBO else version
                        overrides += [f"features.semantic_ids={source.resolve()}", f"features.sid.version='{pinned}'"]
                        overrides.append("features.sid.combine=concat")
                    if arm == PREFIX:
                        overrides.append("features.sid.by=prefix")
                    if _something(ranker, arm, part):
                        yield part, Job(table, ranker, arm, seed, str(root), tuple(overrides))


def _something(ranker: str, arm: str, part: str) -> bool:
    """Whether the arm leaves anything to learn from: without ids, IDs and embedding there is nothing."""
    return not (arm == NO_ITEM and part == "no embedding" and ranker != "gbdt")


def effects(rows: list[dict[str, object]]) -> list[tuple[str, str, float, float, int]]:
    """Return (ranker, arm, mean difference from the arm's control, its standard error, seeds), paired by seed."""
    auc: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for row in rows:
        auc[str(row["ranker"]), str(row["column"])][int(str(row["seed"]))] = float(str(row["auc"]))
    found = []
    for (ranker, arm), by_seed in auc.items():
        control = auc.get((ranker, CONTROL.get(arm, "")), {})
        both = [by_seed[seed] - control[seed] for seed in by_seed if seed in control]
        if both:
            error = statistics.stdev(both) / len(both) ** 0.5 if len(both) > 1 else float("nan")
            found.append((ranker, arm, statistics.mean(both), error, len(both)))
    return found


def run_table(
    table: str,
    root: Path,
    embedding: str,
    codes: str,
    rankers: list[str],
    seeds: int,
    work: Path,
    out: Path,
    cache: Path,
) -> None:
    """Make the IDs, run what is missing, print both tables of each set."""
    from common.tokenizers.files import read_sids

    files = write_ids(root, embedding, codes, work, seeds)
    jobs = list(make_jobs(table, root, embedding, files, rankers, seeds, read_sids(files["ids"]).version))
    rows = run_all([job for _, job in jobs], out, cache)
    for part in SETS:
        own = [row for row, (name, _) in zip(rows, jobs, strict=True) if name == part]
        if not own:
            continue
        typer.echo(f"\n{table}, {part}: test AUC, mean ± sd over {seeds} seeds")
        show(own, "ranker", "column")
        typer.echo("difference from the arm without IDs (of `IDs, no item id`: from `no item id`), ± standard error")
        for ranker, arm, mean, error, count in effects(own):
            typer.echo(f"  {ranker:<24}{arm:<18}{mean:+.4f} ± {error:.4f} ({count} seeds)")


@app.command()
def planted(
    ranker: RankersOption = None,
    seeds: SeedsOption = 3,
    items: Annotated[int, typer.Option(help="At most 4096")] = 3000,
    rows: Annotated[int, typer.Option(help="Of train, valid and test together")] = 40_000,
    codes: CodesOption = "8,8,8",
    work: WorkOption = WORK,
    results: ResultsOption = RESULTS,
    cache: CacheOption = CACHE,
) -> None:
    """Planted clicks: preferences over three attributes, an additive embedding of them, a tail of rare items."""
    from common.metrics.ctr import auc

    root = work / f"planted-{items}-{rows}"
    made = plant(PlantedConfig(items=items, rows=rows, users=max(100, rows // 20), dim=128), seed=7)
    if not root.is_dir():
        write_planted(root, made)
    truth = pq.read_table(root / "answers.parquet")
    oracle = auc(truth["label"].to_numpy(), truth["oracle"].to_numpy())
    typer.echo(f"oracle: test AUC {oracle:.4f}, expected {made.clicks.expected_auc():.4f}")
    run_table("planted", root, "auto", codes, ranker or list(RANKERS), seeds, root / "ids", results, cache)


@app.command()
def movielens(
    data: Annotated[Path, typer.Option("--data", help="Made by: python -m track2_mmctr prepare movielens")],
    embedding: Annotated[Path, typer.Option("--embedding", help="Made by: python -m track2_mmctr embed")],
    ranker: RankersOption = None,
    seeds: SeedsOption = 3,
    codes: CodesOption = "16,16,16",
    work: WorkOption = WORK,
    results: ResultsOption = RESULTS,
    cache: CacheOption = CACHE,
) -> None:
    """MovieLens-100K: IDs of the embedding of titles, overviews and posters."""
    folder = work / "movielens"
    source = str(embedding.resolve())
    run_table("movielens", data, source, codes, ranker or list(RANKERS), seeds, folder, results, cache)


if __name__ == "__main__":
    app()
