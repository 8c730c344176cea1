"""The GPU recipes, end to end on a small task: their own YAML, tiny local models in place of the named ones."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageDraw

from common.config import apply_override, load_config, read_yaml
from common.experiment import Experiment
from common.faults import FaultLog
from tests import tiny_vlm
from tests.track1.test_page_image_route import Pictures, passages
from track1_mdr.config import CONFIG_FOLDER, RunConfig
from track1_mdr.datasets.tables import QUERY_SCHEMA, Candidates, NoImages, Queries, Scored, TaskTables, top_k
from track1_mdr.pipeline import TaskRanking, rank_task, run
from track1_mdr.routes import build_route
from track1_mdr.routes.base import Environment

RECIPES = ("gpu_colqwen", "llmhunter", "ilearn", "gpu_is_all_you_need")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: str(getattr(tiny_vlm, name)(root / name)) for name in ("colqwen2", "qwen2_vl")}


def overrides(name: str, tiny: dict[str, str]) -> list[str]:
    """Put a tiny model of the same kind in the place of every vision-language model that a recipe names."""
    changes: list[str] = []
    for task, section in read_yaml(CONFIG_FOLDER / f"{name}.yaml")["tasks"].items():
        for part in ("routes", "rerank"):
            for key, value in section.get(part, {}).items():
                if value["type"] not in ("page_image_late_interaction", "vlm_judge"):
                    continue
                chat = value["type"] == "vlm_judge" or value.get("pooling") == "last"
                place = f"tasks.{task}.{part}.{key}"
                changes += [f"{place}.model={tiny['qwen2_vl' if chat else 'colqwen2']}", f"{place}.dtype=float32"]
    return changes


def photo(seed: int, side: int = 180) -> Image.Image:
    """A textured picture, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (side // 9, side // 9, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)


def screenshot(text: str, figure: Image.Image | None) -> Image.Image:
    page = Image.new("RGB", (420, 560), "white")
    draw = ImageDraw.Draw(page)
    for line in range(8):
        draw.text((20, 20 + 14 * line), f"{text} {line}", fill="black")
    if figure is not None:
        page.paste(figure, (120, 220))
    return page


def query_table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    blank = {"instruction": "", "doc_name": "", "domain": "", "num_of_pages": 0, "image_name": None}
    return pl.DataFrame([{**blank, **row} for row in rows], schema=QUERY_SCHEMA)


def mmdocir() -> TaskTables:
    docs = ["report"] * 6 + ["deck"] * 6
    words = ["apples", "rivers", "budget", "staff", "ships", "music"] * 2
    pages = Pictures(
        [screenshot(f"{doc} {word}", photo(i)) for i, (doc, word) in enumerate(zip(docs, words, strict=True))]
    )
    asked = query_table(
        [
            {"question_id": "10000", "question": "What is the budget?", "doc_name": "report", "num_of_pages": 6},
            {"question_id": "10001", "question": "Who plays music on page 2?", "doc_name": "deck", "num_of_pages": 6},
        ]
    )
    texts = [f"This page is about {word}. " * 5 for word in words]
    candidates = Candidates.by_document(asked["doc_name"].to_list(), docs)
    return TaskTables("mmdocir", passages(pages, docs, texts), Queries(asked, NoImages(2)), candidates)


def m2kr() -> TaskTables:
    figures = [photo(20 + i) for i in range(6)]
    shots = Pictures([screenshot(f"article {i}", figure) for i, figure in enumerate(figures)])
    table = passages(shots, [""] * 6, [f"Article {i} is about number {i}." for i in range(6)])
    asked = query_table(
        [
            {"question_id": "0", "question": "", "instruction": "Describe the document.", "image_name": "a.jpg"},
            {"question_id": "1", "question": "What is number 4?", "image_name": "b.jpg"},
        ]
    )
    images = Pictures([figures[2], figures[4]])
    return TaskTables("m2kr", table, Queries(asked, images), Candidates.everything(2, 6))


def rank(config: RunConfig, tables: TaskTables, environment: Environment, runs: Path) -> TaskRanking:
    """Run one task through the pipeline: routes, fusion, judge."""
    section = getattr(config.tasks, tables.task)
    with Experiment(runs, "track1", config, config.seed) as record:
        ranking = rank_task(section, tables, environment, record, lambda _: None)
    assert set(ranking.scores) == {*section.routes, *section.rerank}
    for scores in (*ranking.scores.values(), *ranking.rankings.values()):
        for scored, rows in zip(scores, tables.candidates.rows, strict=True):
            assert np.isin(scored.rows, rows).all()
    return ranking


def first(results: list[Scored]) -> list[int]:
    return [int(top_k(scored, 1).rows[0]) for scored in results]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is_and_parses(name: str) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER)
    assert config.name == name
    assert config.tasks.mmdocir is not None and config.tasks.m2kr is not None
    for word in ("Needs:", "GPU", "GB"):
        assert word in config.about
    assert "What differs, and why:" in config.about or name == "gpu_colqwen"
    for task in (config.tasks.mmdocir, config.tasks.m2kr):
        named = {*getattr(task.fusion, "weights", {}), *getattr(task.fusion, "bonus", {})}
        assert named <= set(task.routes)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_end_to_end(name: str, tiny: dict[str, str], tmp_path: Path) -> None:
    config = load_config(RunConfig, name, CONFIG_FOLDER, overrides(name, tiny))
    faults = FaultLog()
    environment = Environment(cache=tmp_path / "cache", faults=faults)

    tables = mmdocir()
    ranking = rank(config, tables, environment, tmp_path)
    final = ranking.final()
    assert list(final) == ["10000", "10001"]
    assert all(len(set(pages)) == 5 and set(pages) <= set("012345") for pages in final.values())
    if "bm25" in ranking.scores:
        assert first(ranking.scores["bm25"]) == [2, 11]
    for key, judge in config.tasks.mmdocir.rerank.items():  # type: ignore[union-attr]
        assert judge is not None and judge.type == "vlm_judge"
        judged = ranking.scores[key]
        assert [len(s.rows) for s in judged] == [min(judge.depth, 6)] * 2
        if judge.mode == "yes_first":  # the judge's order is the final one
            fused = ranking.rankings[f"fusion + {key}"]
            assert [top_k(s, 5).rows.tolist() for s in fused] == [top_k(s, 5).rows.tolist() for s in judged]

    ranking = rank(config, m2kr(), environment, tmp_path)
    if "subfigure" in ranking.scores:
        assert first(ranking.scores["subfigure"]) == [2, 4]
    # Random weights know no meaning; the confirmed figure, or the crop that is the query image, comes first.
    assert first(ranking.rankings["fusion"]) == [2, 4]
    assert not faults.faults, faults.summary()


def test_a_recipe_leaves_a_valid_submission(tiny: dict[str, str], tmp_path: Path, root: Path) -> None:
    """The shipped sample's M2KR half, from its files to a scored submission."""
    data = tmp_path / "data"
    shutil.copytree(root / "data" / "sample" / "m2kr", data / "m2kr")
    name = "gpu_is_all_you_need"
    config = load_config(RunConfig, name, CONFIG_FOLDER, overrides(name, tiny))
    said: list[str] = []
    out = tmp_path / "submission.csv"
    environment = Environment(cache=tmp_path / "cache")
    result = run(config, data, out, environment, tmp_path / "runs", root, said.append)
    assert out.is_file() and result.report is not None
    assert any("mmdocir" in line and "skipped" in line for line in said)
    assert set(result.tasks["m2kr"].final()) == {line.split(",")[0] for line in out.read_text().splitlines()[1:]}


def test_an_unknown_model_in_a_recipe_says_what_to_do(tmp_path: Path) -> None:
    from common.errors import ConfigError

    data = read_yaml(CONFIG_FOLDER / "gpu_colqwen.yaml")
    apply_override(data, "tasks.mmdocir.routes.colqwen.model=nobody/no-such-model")
    route = RunConfig.model_validate(data).tasks.mmdocir.routes["colqwen"]  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"nobody/no-such-model[\s\S]*do:"):
        build_route(route, Environment(cache=tmp_path))  # type: ignore[arg-type]
