"""The benchmarks of generators: arms that parse, tables that add up, results that are not made twice."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from benchmarks import decode_throughput, generators
from benchmarks.generators_real import (
    BEAUTY,
    BEAUTY_RECIPE,
    HEAVY,
    MOVIELENS,
    MOVIELENS_RECIPE,
    Arm,
    Settings,
    known_rows,
    movielens_folder,
    run_all,
    usable,
)
from benchmarks.generators_tables import figure_lines, gain_lines, paired, print_results
from common.config import load_config
from common.errors import DataError
from common.generative.config import CONFIG_FOLDER, RunConfig
from common.generative.evaluate import figures
from common.generative.sequence_files import load_sequences
from tests.common.generative.test_systems import toy


def settings_of(folder: Path, **more: object) -> Settings:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    made = toy()
    inter = {
        str(u): made.items[s:e].tolist()
        for u, s, e in zip(made.users, made.offsets[:-1], made.offsets[1:], strict=True)
    }
    (data / "Toy.inter.json").write_text(json.dumps(inter))
    values: dict[str, object] = {"minutes": 1, "threads": 1, "overrides": ("tokenizer.dim=8",), **more}
    return Settings(data, folder / "work", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("arms", "recipe"), [(BEAUTY, BEAUTY_RECIPE), (MOVIELENS, MOVIELENS_RECIPE)])
def test_every_arm_is_a_configuration_of_its_own(arms: dict[str, Arm], recipe: tuple[str, ...], tmp_path: Path) -> None:
    settings = Settings(tmp_path, tmp_path, 1, 1, ids=tmp_path / "ids.parquet", fields=tmp_path / "fields.parquet")
    there = usable(arms, settings)
    assert list(there) == list(arms)
    found = {
        name: load_config(RunConfig, arm.model, CONFIG_FOLDER, ["name=same", *recipe, *arm.changes]).model_dump_json()
        for name, arm in there.items()
    }
    assert len(set(found.values())) == len(arms)
    assert set(HEAVY) < set(MOVIELENS) and arms["sasrec"].model == "sasrec"
    assert all(arm.ranker for arm in arms.values() if arm.model in ("eager", "eager_llm"))


def test_an_arm_whose_file_is_not_given_is_left_out(tmp_path: Path) -> None:
    there = usable(MOVIELENS, settings_of(tmp_path, fields=tmp_path / "f.parquet"))
    assert set(MOVIELENS) - set(there) == {"tiger uni-code", "eager uni-code"}
    assert "store" not in usable(MOVIELENS, settings_of(tmp_path))


def test_results_are_made_once_and_only_of_the_same_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, results = settings_of(tmp_path), tmp_path / "results.jsonl"
    names = ["popularity", "nearest to last"]
    rows = run_all(names, BEAUTY, settings, [1, 2], results)
    assert [(row["arm"], row["seed"]) for row in rows] == [(name, seed) for seed in (1, 2) for name in names]
    before = results.read_bytes()
    assert [row["figures"] for row in run_all(names, BEAUTY, settings, [1, 2], results)] == [r["figures"] for r in rows]
    assert results.read_bytes() == before
    run_all(names[:1], BEAUTY, settings_of(tmp_path, minutes=2), [1], results)
    assert len(results.read_text().splitlines()) == 5
    assert len(known_rows(names, settings, [1, 2, 3], results)) == 4
    ranks = np.load(settings.folder("popularity", 1) / "ranks.npy")
    assert figures(ranks, (5, 10), None)["Recall@10"].mean == rows[0]["figures"]["Recall@10"]
    print_results(rows, settings)
    table = capsys.readouterr().out
    assert f"| popularity | {rows[0]['figures']['Recall@5']:.4f} (" in table and "± 0.0000" in table


def test_arms_that_share_a_ranker_train_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(name: str, arm: Arm, settings: Settings, seed: int) -> dict[str, object]:
        ran.append(f"{name} {seed}")
        assert arm is BEAUTY[name]
        return {"arm": name, **settings.key(seed), "figures": {"Recall@10": 0.5}}

    monkeypatch.setattr("benchmarks.generators_real.run_arm", run)
    settings, results = settings_of(tmp_path), tmp_path / "results.jsonl"
    rows = run_all(["eager"], BEAUTY, settings, [3], results)
    assert ran == ["sasrec 3", "eager 3"] and [row["arm"] for row in rows] == ["eager"]
    run_all(["eager", "popularity"], BEAUTY, settings, [3], results)  # the ranker is for arms that are to be run
    assert ran[2:] == ["popularity 3"]
    run_all(["tiger", "eager one list", "eager no GCT"], BEAUTY, settings, [3], results)  # its folder is not there
    assert ran[3:] == ["sasrec 3", "tiger 3", "eager one list 3", "eager no GCT 3"]
    (settings.folder("sasrec", 3) / "model").mkdir(parents=True)
    run_all(["eager no STT"], BEAUTY, settings, [3], results)
    assert ran[7:] == ["eager no STT 3"]
    assert [json.loads(line)["arm"] for line in results.read_text().splitlines()].count("sasrec") == 1


def test_paired_differences_are_those_of_a_loop_over_users() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 15, (2, 40)), rng.integers(0, 15, (2, 40))
    found = paired(a, b)
    for name, k in (("Recall@5", 5), ("Recall@10", 10), ("NDCG@10", 10)):
        gains = []
        for user in range(40):
            own = []
            for ranks in (a, b):
                hits = [r for r in ranks[:, user].tolist() if 0 < r <= k]
                own.append(sum(1.0 if name.startswith("Recall") else 1 / np.log2(r + 1) for r in hits) / 2)
            gains.append(own[0] - own[1])
        assert found[name] == pytest.approx((np.mean(gains), np.std(gains) / np.sqrt(40)))
    assert paired(a, a)["NDCG@5"] == (0.0, 0.0)


def test_gains_are_of_ranks_that_belong_to_the_line(tmp_path: Path) -> None:
    settings = Settings(tmp_path, tmp_path, 1, 1)
    rows = []
    for arm, ranks in (("eager", [1, 1, 0, 7]), ("eager no GCT", [1, 0, 0, 0]), ("tiger", [0, 0, 0, 1])):
        folder = settings.folder(arm, 7)
        folder.mkdir()
        np.save(folder / "ranks.npy", np.array(ranks))
        values = {name: one.mean for name, one in figures(np.array(ranks), (5, 10), 50).items()}
        rows.append({"arm": arm, "seed": 7, "users": 4, "depth": 50, "figures": values})
    lines = list(gain_lines(rows, settings))
    assert lines[2].startswith("| eager - eager no GCT | +0.2500 (0.2165) | +0.5000 (0.2500) |")
    assert lines[3].startswith("| eager - tiger |") and len(lines) == 4
    np.save(settings.folder("tiger", 7) / "ranks.npy", np.array([1, 1, 1, 1]))  # of another run
    assert len(list(gain_lines(rows, settings))) == 3


def test_movies_get_titles_and_overviews(tmp_path: Path) -> None:
    def lengths(texts: list[str]) -> np.ndarray:
        return np.array([[len(one), 1] for one in texts], np.float32)

    root = tmp_path / "root"
    root.mkdir()
    seqs = [[0, 1, 2, 3], [0, 0, 2, 4]]
    pl.DataFrame({"user_id": [5, 6], "item_seq": seqs}).write_parquet(root / "item_seq.parquet")
    table = pl.DataFrame(
        {
            "item_id": [1, 2, 3, 4],
            "item_title": ["A", "B", "C", "D"],
            "item_overview": ["first", None, "third", "fourth"],
            "item_genres": ["Action, Drama", "", None, "Comedy"],
        }
    )
    table.select("item_id", "item_title").write_parquet(root / "item_feature.parquet")
    with pytest.raises(DataError, match="no titles and overviews"):
        movielens_folder(root, tmp_path / "out", lengths)
    table.write_parquet(root / "item_feature.parquet")
    folder, fields = movielens_folder(root, tmp_path / "out", lengths)
    data = load_sequences(folder)
    assert data.texts == ["A\nfirst", "B", "C\nthird", "D\nfourth"]
    assert data.users.tolist() == [5, 6] and data.item_ids[data.items].tolist() == [1, 2, 3, 2, 4]
    assert data.embeddings is not None and data.embeddings[:, 0].tolist() == [7, 1, 7, 8]
    told = pl.read_parquet(fields)
    assert told["category"].to_list() == ["Action", "", "", "Comedy"] and told["longer"].to_list()[1] == ""


def test_the_tables_name_what_was_asked_for_wrongly(tmp_path: Path) -> None:
    done = CliRunner().invoke(generators.app, ["beauty", "--data", str(tmp_path), "--arms", "tigre"])
    assert done.exit_code == 2 and "is not one of" in done.output
    done = CliRunner().invoke(decode_throughput.app, ["--models", "sasrec"])
    assert done.exit_code == 2 and "is not one of" in done.output


@pytest.mark.parametrize("model", list(decode_throughput.MODELS))
def test_decoding_is_measured_over_valid_answers(model: str) -> None:
    small = [
        "--items",
        "60,90",
        "--queries",
        "2",
        "--history",
        "3",
        "--least",
        "0",
        "--lm-dim",
        "16",
        "--lm-layers",
        "1",
    ]
    done = CliRunner().invoke(decode_throughput.app, ["--models", model, *small])
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith(f"| {model} |")]
    assert len(lines) == 3 and "random weights and drawn IDs" in done.output
    cells = [cell for line in lines[:2] for cell in line.rstrip(" |").split(" | ")[-2:]]
    speeds = [float(cell.replace(",", "")) for cell in cells]
    assert len(speeds) == 4 and min(speeds) > 0


def test_figure_lines_have_a_line_an_arm() -> None:
    row = {
        "arm": "a", "seed": 1, "users": 10, "evaluate_cpu_seconds": 0.5, "train_cpu_seconds": 90.0,
        "training": {"epochs": 3, "stopped": "patience"},
        "figures": dict.fromkeys(("Recall@5", "Recall@10", "NDCG@5", "NDCG@10"), 0.25),
        "standard_errors": dict.fromkeys(("Recall@5", "Recall@10", "NDCG@5", "NDCG@10"), 0.01),
    }  # fmt: skip
    lines = list(figure_lines([row, {**row, "seed": 2}, {**row, "arm": "b", "training": {}}]))
    assert lines[2].endswith("| 1.5 | 3 | patience | 50.00 |") and lines[3].endswith("| - | - | - | 50.00 |")
