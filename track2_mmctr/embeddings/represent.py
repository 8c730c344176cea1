"""`embed` with a representation method: fit it on items and training histories, and write the tables it makes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from common.config import make_config
from common.engine.base import Engine
from common.engine.local import LOCAL
from common.errors import ConfigError
from common.faults import FaultLog
from common.hashing import digest
from common.representation.base import Representation
from common.representation.table import FeatureTable
from track2_mmctr.datasets.id_tables import AFTER
from track2_mmctr.datasets.movielens import MARKER
from track2_mmctr.embeddings.encode import Tools
from track2_mmctr.embeddings.files import WIDTH, write_item_info
from track2_mmctr.embeddings.fusion import Modality, reduced, scaled
from track2_mmctr.embeddings.gather import Gathered, gather
from track2_mmctr.embeddings.histories import with_history
from track2_mmctr.embeddings.registry import REPRESENTATIONS, RepresentationMethod
from track2_mmctr.embeddings.represent_config import RepresentConfig
from track2_mmctr.tokenize_items import default_codes

UIST_LEVELS, UIST_CODES = 4, 64
ROMA_ON_CPU = {"uic": False, "finetune_items": False}
VIDEO_FACTORS = ["topic", "mood", "style"]
"""What KAR's prompts ask of the challenge's short videos; MovieLens has movies, and the deck's factors."""
Say = Callable[[str], object]


@dataclass(frozen=True)
class Represented:
    """What `represent_items` wrote.

    Attributes
    ----------
    path
        The items' file: in the layout of item_info, or a table of features.
    users
        The users' table, where the method makes one.
    method
        Folder of the fitted method, for new items.
    items
        Items with features of their own.
    missing_items, missing_users
        How many have no row: a ranker must be allowed so many.
    bytes_per_item
        Of the features, as the method counts them.
    seconds
        By stage: gather, fit, transform, write.
    """

    path: Path
    users: Path | None
    method: Path
    items: int
    missing_items: int
    missing_users: int
    bytes_per_item: int
    seconds: dict[str, float]


def represent_items(
    folder: Path,
    name: str,
    config: RepresentConfig,
    out: Path,
    cache: Path,
    device: str,
    threads: int,
    faults: FaultLog,
    say: Say,
    api_key: str | None = None,
    engine: Engine = LOCAL,
) -> Represented:
    """Fit a method on a `microlens` folder and write what it makes of the items, and of the users.

    Histories of training are all that a method learns from; valid and test rows only describe their own users.

    Parameters
    ----------
    out
        The items' file; the users' one has `.users` before its suffix.
    cache
        Of encoder outputs, answers of language models, and the state of an unfinished fit.
    faults
        Takes what cannot be read.
    api_key
        Of an endpoint that KAR asks.
    engine
        Has the workers that encode the items.

    Raises
    ------
    DataError, ConfigError
        What the method refuses; see its module.
    """
    chosen, notes = REPRESENTATIONS[name], []
    clock = [perf_counter()]
    tools = Tools(cache, device, threads, faults, engine)
    found = gather(folder, chosen, config, tools, notes)
    method, state = make_method(name, config, found, cache, device, threads, notes)
    for line in dict.fromkeys(notes):
        say(line)
    clock.append(perf_counter())
    prepare(method, name, found, config, tools, say, api_key)
    behaviour = found.described if chosen.writes == "codes" else found.training
    learners = behaviour.take(with_history(behaviour))
    more = fit_arguments(name, config, found)
    method.fit(found.items, learners, seed=config.seed, device=device, folder=state, say=say, **more)
    clock.append(perf_counter())
    users = None
    if chosen.writes == "embedding":
        table = method.transform(found.items, learners)
    else:
        table, users = _tables(method, name, found)
    clock.append(perf_counter())
    place = write(table, users, found, chosen, config, out, say)
    folder_of_method = out.with_suffix(".method")
    method.save(folder_of_method)
    shutil.rmtree(state, ignore_errors=True)
    clock.append(perf_counter())
    stages: list[str] = ["gather", "fit", "transform", "write"]
    seconds = dict(zip(stages, np.diff(clock).tolist(), strict=True))
    lost = 0 if users is None else len(np.setdiff1d(found.everyone, users.ids))
    size = int(table.about.get("bytes_per_item", 0))
    missing = found.catalogue.count - len(table.ids)
    return Represented(out, place, folder_of_method, len(table.ids), missing, lost, size, seconds)


def make_method(
    name: str, config: RepresentConfig, found: Gathered, cache: Path, device: str, threads: int, notes: list[str]
) -> tuple[Representation, Path]:
    """Return the method, unfitted, and the folder of its unfinished state, which is that of this input alone."""
    made = REPRESENTATIONS[name].load()
    settings = made.config_type().model_dump(mode="json")
    if name == "kar":
        thing = {} if (found.catalogue.folder / MARKER).is_file() else {"thing": "video", "factors": VIDEO_FACTORS}
        settings = merged(settings, {"encoder": {"device": device, "threads": threads}, "prompts": thing})
    if name == "roma" and device == "cpu" and "scratch" not in config.method:
        settings |= ROMA_ON_CPU
        if not ROMA_ON_CPU.keys() <= config.method.keys():
            notes.append(
                "on a CPU ROMA's item layers learn from masked words alone, and only its top layers from histories; "
                "all of it, in hours: --set method.uic=true --set method.finetune_items=true"
            )
    if name == "uist" and "codebook_sizes" not in config.method:
        sizes = {"codebook_sizes": len(found.items), "user_codebook_sizes": len(with_history(found.described))}
        for key, rows in sizes.items():
            settings[key] = [min(UIST_CODES, default_codes(rows))] * UIST_LEVELS
            if key not in config.method:
                notes.append(f"{key}: {settings[key]}, for {rows} rows; --set method.{key}=[...] for others")
    method = made(make_config(made.config_type, merged(settings, config.method), [], "method"))
    histories = [found.training, found.described]
    parts = [array.tobytes() for one in histories for array in (one.users, one.items, one.offsets)]
    key = digest(name, config.model_dump_json(), device, found.items.digest(), *parts)
    return method, cache / "track2" / "representation" / f"{name}-{key[:24]}"


def merged(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings with those given in place of the defaults, section by section.

    >>> merged({"fit": {"epochs": 10, "patience": 3}}, {"fit": {"epochs": 2}})
    {'fit': {'epochs': 2, 'patience': 3}}
    """
    made = dict(defaults)
    for key, value in given.items():
        old = made.get(key)
        made[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return made


def prepare(
    method: Representation, name: str, found: Gathered, config: RepresentConfig, tools: Tools, say: Say, key: str | None
) -> None:
    """Give KAR its cache, key and workers, and say where its knowledge comes from."""
    if config.teacher != "none" and name != "ease":
        raise ConfigError("only ease learns from a teacher's vectors", where="teacher", got=f"{config.teacher}, {name}")
    if name != "kar":
        return
    from common.representation.kar.method import Kar

    assert isinstance(method, Kar)  # noqa: S101 - the registry says so
    method.use(cache=tools.cache / "kar", api_key=key, say=say, engine=tools.engine)
    if method.settings.source.type == "template":
        say(
            "no language model is asked; for one: --set method.source.type=transformers (or endpoint, answers), with "
            "the section method.source.transformers"
        )
    known = sorted({name for fact in found.facts for name in fact})
    say(f"known of the items: {', '.join(known) or 'their text'}")


def fit_arguments(name: str, config: RepresentConfig, found: Gathered) -> dict[str, Any]:
    """Return what `fit` of a method takes beside items and histories: EASE's labelled clicks, and its teacher."""
    if name != "ease":
        return {}
    from common.representation.ease.batches import ClickRows

    more: dict[str, Any] = {}
    place = np.full(found.catalogue.count + 1, -1, np.int64)
    place[found.items.ids] = np.arange(len(found.items))
    label, target = found.train.label, place[np.asarray(found.train.target)]
    if label is not None and len(np.unique(label)) == 2:
        rows = np.flatnonzero(target >= 0)
        _, users = np.unique(found.train.users, return_inverse=True)
        more["clicks"] = ClickRows(users[rows].astype(np.int64), target[rows], np.asarray(label, np.float32)[rows])
    if config.teacher == "text":
        text = found.items.modality("text", "teacher: text (set modalities=[text, image])")
        more |= {"target": text.mean(), "teacher": text.encoder}
    return more


def _tables(method: Representation, name: str, found: Gathered) -> tuple[FeatureTable, FeatureTable | None]:
    """Return the tables of items and of users, the latter with the column `after`; None: UIST without users."""
    describes: Any = method
    if name == "uist" and "users" not in describes.config.sides():
        return describes.transform(found.items, None), None
    facts = {"facts": found.facts} if name == "kar" and any(found.facts) else {}
    table: FeatureTable = describes.transform(found.items, None, **facts)
    rows = with_history(found.users)
    users: FeatureTable = describes.transform_users(found.items, found.users.take(rows), **facts)
    order = np.searchsorted(found.users.users, users.ids)
    after = found.after[order].astype(np.int32)[:, None]
    return table, replace(users, columns={**users.columns, AFTER: after})


def write(
    table: FeatureTable,
    users: FeatureTable | None,
    found: Gathered,
    chosen: RepresentationMethod,
    config: RepresentConfig,
    out: Path,
    say: Say,
) -> Path | None:
    """Write the items' file and, where there is one, the users'; return the latter's path."""
    if chosen.writes == "embedding":
        notes: list[str] = []
        write_item_info(out, found.catalogue.tags, scaled(full_embedding(table, found, notes), config.scale))
        for line in notes:
            say(line)
        return None
    table.write(out)
    if users is None:
        return None
    path = out.with_suffix(f".users{out.suffix}")
    users.write(path)
    return path


def full_embedding(table: FeatureTable, found: Gathered, notes: list[str]) -> np.ndarray:
    """Return float32 [N, at most 128] of all items; those without a row have the mean of the others (noted)."""
    values = table.columns["embedding"].astype(np.float32)
    count, width = found.catalogue.count, values.shape[1]
    vectors, present = np.zeros((count, width), np.float32), np.zeros(count, bool)
    vectors[table.ids - 1], present[table.ids - 1] = values, True
    if not present.all():
        notes.append(f"{int((~present).sum())} items have no features of their own and get the mean of the others")
    modality = Modality("embedding", vectors, present)
    if width <= WIDTH:
        return modality.filled()
    notes.append(f"{width} numbers an item: the {WIDTH} strongest principal components are kept")
    return reduced(modality, WIDTH, notes)
