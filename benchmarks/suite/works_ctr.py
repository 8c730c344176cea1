"""Track 2: training and prediction of DIN beside FuxiCTR's layers, and of the other rankers."""

from __future__ import annotations

from pathlib import Path

from benchmarks.suite.work import Context, Figure, Measured, Sample, System, Work

HERE = "benchmarks.suite.works_ctr"
FIGURES = (Figure("train", "training", "rows/s"), Figure("predict", "prediction", "rows/s"))
OTHERS = (
    "dcnv2", "din_dcn", "din_senet", "qin", "cross_attention", "transformer_dcn_quant", "transformer_dcn", "baseline",
    "gbdt", "similarity", "popularity",
)  # fmt: skip


def plant(folder: str, rows: int, evaluated: int, items: int) -> None:
    """Write planted click data and pack it, so that no system pays for that."""
    from benchmarks.planted_ctr import make_planted
    from track2_mmctr.config import DataConfig, FeatureConfig
    from track2_mmctr.datasets.microlens import find_folder, load_data

    root = Path(folder)
    if not root.is_dir():
        make_planted(root, rows, evaluated, items, 7)
    load_data(find_folder(root), DataConfig(), FeatureConfig(), root.with_name("cache"), splits=("train", "valid"))


def speed(folder: str, system: str, batch_size: int, steps: int, overrides: list[str] | None = None) -> Measured:
    """Measure one system of `benchmarks.ctr_speed`; "peer" is FuxiCTR's layers."""
    from benchmarks import ctr_speed

    name = ctr_speed.PEER if system == "peer" else system
    root = Path(folder)
    job = ctr_speed.Job(name, batch_size, steps, root, root.with_name("cache"), tuple(overrides or ()))
    found = ctr_speed.measure(job)
    rates = {"train": found.train, "predict": found.predict}
    facts = {"M weights": found.parameters / 1e6} if found.parameters else {}
    return Measured({key: Sample(rate, 1.0) for key, rate in rates.items()}, facts)


def data_of(context: Context) -> System:
    """Return the preparation: planted data of the challenge's catalogue, or smaller."""
    rows, evaluated, items = context.pick((200_000, 20_000, 91_717), (20_000, 4_000, 5_000), (1_500, 300, 300))
    place = str(context.folder / "planted_ctr" / "data")
    arguments = {"folder": place, "rows": rows, "evaluated": evaluated, "items": items}
    return System("plant", "planted data", f"{HERE}:plant", arguments)


def din(context: Context) -> Work:
    """Return DIN at two batch sizes, in float32 and with products in bfloat16."""
    systems: list[System] = []
    place = data_of(context).arguments["folder"]
    for batch, steps in context.pick(((1024, 12), (8192, 3)), ((1024, 3),), ((128, 2),)):
        common = {"folder": place, "batch_size": batch}
        peer = f"fuxictr_{batch}"
        systems += [
            System(
                peer,
                f"FuxiCTR layers, batch {batch}",
                f"{HERE}:speed",
                common | {"system": "peer", "steps": steps},
                peer=True,
                needs=("fuxictr",),
                repeats=2 if batch > 1024 else None,
            ),
            System(
                f"din_{batch}",
                f"din, batch {batch}",
                f"{HERE}:speed",
                common | {"system": "din", "steps": 4 * steps},
                against=(peer,),
            ),
            System(
                f"din_bf16_{batch}",
                f"din, bfloat16, batch {batch}",
                f"{HERE}:speed",
                common | {"system": "din", "steps": 4 * steps, "overrides": ["train.amp=true"]},
                against=(peer,),
            ),
        ]
    about = "DIN's training and prediction beside FuxiCTR's own layers"
    return Work("din", about, FIGURES, tuple(systems), data_of(context), context.pick(3, 1, 1))


def rankers(context: Context) -> Work:
    """Return every other ranker, once, at its published size."""
    batch, steps = context.pick((1024, 8), (512, 2), (128, 1))
    names = context.pick(OTHERS, ("dcnv2", "cross_attention", "gbdt", "similarity"), ("dcnv2",))
    systems = tuple(
        System(
            name,
            f"{name}, batch {batch}",
            f"{HERE}:speed",
            {"folder": data_of(context).arguments["folder"], "system": name, "batch_size": batch, "steps": steps},
        )
        for name in names
    )
    return Work("rankers", "the other rankers at their published sizes", FIGURES, systems, data_of(context), 1)
