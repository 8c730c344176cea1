"""What the command line does: configuration and paths in, files and printed tables out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import load_config, make_config
from common.device import choose_device
from common.engine.base import Engine
from common.engine.local import LOCAL
from common.experiment import cores
from common.progress import hush
from common.training.distributed import World, init_world, main_first
from track2_mmctr.config import CONFIG_FOLDER, RunConfig
from track2_mmctr.pipeline import RunResult, fit_run, run, training_key
from track2_mmctr.rankers.base import Environment

if TYPE_CHECKING:
    from common.submission.mmctr import Task
    from track2_mmctr.ensemble import Method
    from track2_mmctr.report.item_map import Method as MapMethod

Say = Callable[[str], None]


def make_environment(config: RunConfig, cache: Path, variables: Mapping[str, str]) -> Environment:
    """Return the environment of one run; "auto" takes a GPU where torch sees one. `variables`: torchrun's."""
    device = choose_device(config.device)
    world = init_world(variables, device)
    if device == "cuda" and world.size > 1:
        device = f"cuda:{variables.get('LOCAL_RANK', '0')}"
    return Environment(device, world.threads(cores()), cache, world)


def run_config(
    config: RunConfig,
    root: Path,
    out: Path,
    cache: Path,
    home: Path,
    variables: Mapping[str, str],
    say: Say,
) -> RunResult | None:
    """Run a configuration; None in those of torchrun's processes that only help to train."""
    return run_together(config, root, out, make_environment(config, cache, variables), home, say)


def run_on_ray(
    config: RunConfig,
    root: Path,
    out: Path,
    cache: Path,
    home: Path,
    say: Say,
    *,
    workers: int,
    address: str | None,
    here: Path,
) -> RunResult:
    """Run a configuration in `workers` processes of a Ray cluster, the first of which does what is not training.

    Data, cache, runs and the submission must be on storage that all nodes share. `here` is the working folder.
    """
    from common.training.ray_train import train_on_ray

    task = partial(_run_worker, config, root, out, cache, home)
    folder = cache / "track2" / "training"
    return train_on_ray(task, workers=workers, address=address, folder=folder, device=config.device, here=here, say=say)


def _run_worker(
    config: RunConfig, root: Path, out: Path, cache: Path, home: Path, world: World, device: str, say: Say
) -> RunResult | None:
    return run_together(config, root, out, Environment(device, world.threads(cores()), cache, world), home, say)


def run_together(
    config: RunConfig, root: Path, out: Path, environment: Environment, home: Path, say: Say
) -> RunResult | None:
    """Run a configuration as one of the processes of a world; None in those that only help to train."""
    if not environment.world.main:
        hush()
        follow(config, root, environment)
        return None
    say(f"configuration {config.name}, data {root}, seed {config.seed}, {environment.device}")
    return run(config, root, out, environment, home / "runs", home, say)


def follow(config: RunConfig, root: Path, environment: Environment) -> None:
    """Train along with the main process, which writes everything."""
    from track2_mmctr.datasets.microlens import find_folder, load_data

    with main_first(environment.world):  # packed data are kept: the others read them
        data = load_data(find_folder(root), config.data, config.features, environment.cache)
    if config.ranker.neural:
        folder = environment.cache / "track2" / "training" / training_key(config, data)
        fit_run(config, data, environment, folder, lambda _: None)


def load(name: str, overrides: Sequence[str]) -> RunConfig:
    """Return a configuration by name or path."""
    return load_config(RunConfig, name, CONFIG_FOLDER, overrides)


def print_result(result: RunResult, root: Path, say: Say) -> None:
    """Print the reports, where the files are, and the next command."""
    from common.cli import print_rich

    for report in result.reports.values():
        print_rich(report.render())
    if result.validation is not None:
        say(result.validation.render())
    say(f"run record:  {result.folder}")
    if result.submission is not None:
        say(f"submission:  {result.submission}")
    for name, report in result.reports.items():
        say(f"local score: {report.headline:.4f} AUC on {name}")
    say(f"next:        python -m track2_mmctr report {result.folder} --data {root}")


def embed_to(
    method: str,
    overrides: Sequence[str],
    root: Path,
    out: Path,
    cache: Path,
    device: str,
    say: Say,
    api_key: str | None = None,
    engine: Engine = LOCAL,
) -> None:
    """Embed the items of a data root with one method, and say how to use the file; `api_key`: of KAR's endpoint."""
    from common.faults import FaultLog
    from track2_mmctr.datasets.microlens import find_folder
    from track2_mmctr.embeddings.config import EmbedConfig
    from track2_mmctr.embeddings.embed import embed_items
    from track2_mmctr.embeddings.registry import REPRESENTATIONS, check_method

    check_method(method)
    if method in REPRESENTATIONS:
        represent_to(method, overrides, root, out, cache, device, say, api_key, engine)
        return
    config = make_config(EmbedConfig, {"method": method}, overrides, "embed")
    folder, faults = find_folder(root), FaultLog()
    made = embed_items(folder, config, out, cache, choose_device(device), cores(), faults, say, engine)
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in made.seconds.items())
    say(f"wrote {made.path}: {made.items:,} items ({times})")
    say(f"next: python -m track2_mmctr task1 --embedding {made.path} --data {root}")
    say(f"or:   python -m track2_mmctr run --set features.embedding={made.path} --data {root}")


def represent_to(
    name: str,
    overrides: Sequence[str],
    root: Path,
    out: Path,
    cache: Path,
    device: str,
    say: Say,
    api_key: str | None,
    engine: Engine,
) -> None:
    """Fit a representation method on a data root, write its tables, and say how to use them."""
    from common.faults import FaultLog
    from track2_mmctr.datasets.microlens import find_folder
    from track2_mmctr.embeddings.next_steps import next_steps
    from track2_mmctr.embeddings.represent import represent_items
    from track2_mmctr.embeddings.represent_config import RepresentConfig

    config = make_config(RepresentConfig, {}, overrides, f"embed --method {name}")
    folder, faults = find_folder(root), FaultLog()
    threads, place = cores(), choose_device(device)
    made = represent_items(folder, name, config, out, cache, place, threads, faults, say, api_key, engine)
    if len(faults):
        say(f"{len(faults)} items failed, as allow_faults permits:\n{faults.summary()}")
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in made.seconds.items())
    say(f"wrote {made.path}: {made.items:,} items, {made.bytes_per_item} bytes an item ({times})")
    if made.users is not None:
        say(f"wrote {made.users}: users")
    say(f"wrote {made.method}: the fitted method, for new items")
    for line in next_steps(name, made, folder, root):
        say(line)


def tokenize_to(
    overrides: Sequence[str],
    root: Path,
    embedding: str,
    out: Path,
    quantizer: Path | None,
    say: Say,
    engine: Engine = LOCAL,
) -> None:
    """Write the semantic IDs of a data root's items, print how they collide, and say how to use them."""
    from common.cli import print_rich
    from track2_mmctr.datasets.microlens import find_folder
    from track2_mmctr.tokenize_config import TokenizeConfig
    from track2_mmctr.tokenize_items import tokenize_items

    config = make_config(TokenizeConfig, {}, overrides, "tokenize")
    made = tokenize_items(find_folder(root), config, embedding, out, quantizer, engine)
    for note in made.notes:
        say(f"note: {note}")
    print_rich(made.collisions.render())
    ranks = f" and a rank of {made.sizes[-1]}" if len(made.sizes) > made.levels else ""
    codes = "codes " + " x ".join(str(size) for size in made.sizes[: made.levels]) + ranks
    say(f"wrote {made.path}: {made.items:,} items, {codes}, version {made.version} ({made.seconds:.1f} s)")
    if quantizer is not None:
        say(f"wrote {quantizer}: the quantizer, for new items")
    say(f"next: python -m track2_mmctr run --config din --set features.semantic_ids={made.path} --data {root}")


def tune_to(
    config: RunConfig,
    trials: int,
    workers: int,
    root: Path,
    out: Path,
    cache: Path,
    variables: Mapping[str, str],
    say: Say,
) -> None:
    """Search a configuration's space, print the trials, write the best configuration."""
    from common.cli import print_rich
    from track2_mmctr.datasets.microlens import find_folder, load_data
    from track2_mmctr.tune import tune
    from track2_mmctr.tune_table import render_tune

    environment = make_environment(config, cache, variables)
    data = load_data(find_folder(root), config.data, config.features, cache)
    result = tune(config, data, environment, trials=trials, out=out, say=say, workers=workers)
    print_rich(render_tune(result))
    say(f"next: python -m track2_mmctr run --config {out} --data {root}")


def ensemble_to(
    folders: Sequence[Path], method: Method, root: Path, out: Path, cache: Path, home: Path, say: Say
) -> None:
    """Combine runs into one submission and one run folder."""
    from common.cli import print_rich
    from track2_mmctr.ensemble import ensemble
    from track2_mmctr.ensemble_table import render_ensemble
    from track2_mmctr.evaluate import open_data

    data = open_data(root, cache)
    result = ensemble(folders, data, out, runs=home / "runs", repository=home, say=say, method=method)
    print_rich(render_ensemble(result))
    say(f"run record:  {result.folder}")
    if result.validation is not None:
        say(result.validation.render())
    say(f"next:        python -m track2_mmctr score {result.folder} --data {root}")


def report_to(folder: Path, root: Path, out: Path, cache: Path, say: Say, *, method: MapMethod = "pca") -> None:
    """Write the page of a run, and say what is missing in it."""
    from common.pages.render import write_page
    from track2_mmctr.evaluate import open_data
    from track2_mmctr.report.page import report_page

    page = report_page(folder, open_data(root, cache), method=method)
    size = write_page(out, page)
    say(f"wrote {out}: {size / 1e6:.1f} MB, {len(page.images.data):,} covers")
    say(f"next: open {out} in a browser; python -m track2_mmctr compare {folder} OTHER --page FILE --data {root}")


def compare_to(paths: Sequence[Path], root: Path, page: Path | None, task: Task | None, cache: Path, say: Say) -> None:
    """Print the first of several runs against each other one; write the page where one is asked for."""
    from common.cli import print_rich
    from track2_mmctr.compare import compare_paths
    from track2_mmctr.evaluate import open_data
    from track2_mmctr.report.contenders import check_paths

    check_paths(paths)
    data = open_data(root, cache)
    if page is None:
        for other in paths[1:]:
            print_rich(compare_paths(paths[0], other, data, task).render())
        return
    from common.pages.render import write_page
    from track2_mmctr.report.compare_page import compare_page, compare_runs

    compared = compare_runs(paths, data, task)
    for pair in compared.pairs:
        print_rich(pair.comparison.render())
    made = compare_page(compared, data)
    size = write_page(page, made)
    say(f"wrote {page}: {size / 1e6:.1f} MB, {len(made.images.data):,} covers; open it in a browser")
