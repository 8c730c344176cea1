"""docs/scale.md says what `benchmarks.scale` computes from the stored constants, and the arithmetic is right."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import scale
from benchmarks.suite.journal import save_run
from benchmarks.suite.scale_constants import Constants, constants_of
from benchmarks.suite.scale_tables import (
    CHUNKS_A_PAGE,
    CORE_HOUR,
    DIM,
    MACHINE_BYTES,
    TABLES,
    cluster,
    documents,
    items,
    limits,
    manifest_seconds,
)
from benchmarks.suite.stages import STAGES
from benchmarks.suite.work import Found
from common.errors import DataError

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
MACHINE = {"cpu": "a cpu", "cores": 2, "memory_gb": 64.0, "git": None, "code": "0", "versions": {}}
PLANTED = {
    "pdf_text CPU s/page": 0.004,
    "text_encoding CPU s/chunk": 0.036,
    "ocr_page CPU s": 1.0,
    "bm25 bytes/passage": 6400.0,
    "bm25 CPU s/passage": 0.001,
    "faiss_flat CPU s/vector": 256e-8,
    "store_write a": 0.01,
    "store_write b": 1e-5,
    "trie_build bytes/item": 64.0,
    "trie_build bytes_an_item": 8.0,
    "din_training CPU s/row": 1e-3,
}


def planted() -> Constants:
    return Constants(MACHINE, "full", PLANTED)


def cells(table: str, name: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


# --- the page ---


def test_the_page_says_what_the_stored_constants_give() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert scale.into(text, scale.stored()) == text, "python -m benchmarks.scale --into docs/scale.md"
    assert "not measured |" not in text


def test_the_page_changes_with_a_constant() -> None:
    text = PAGE.read_text(encoding="utf-8")
    stored = scale.stored()
    for name in ("text_encoding CPU s/chunk", "bm25 bytes/passage", "trie_build bytes_an_item"):
        other = Constants(stored.machine, stored.size, {**stored.values, name: 3 * stored[name]})
        assert scale.into(text, other) != text


def test_a_table_without_a_place_is_an_error() -> None:
    with pytest.raises(DataError, match="no place for a table"):
        scale.into("<!-- scale: constants -->\n<!-- end -->\n", planted())


def test_the_stored_constants_are_complete() -> None:
    assert all(math.isfinite(value) for value in scale.stored().values.values())
    used = set(
        re.findall(r'c\["([^"]+)"\]', Path(scale.__file__).with_name("suite").joinpath("scale_tables.py").read_text())
    )
    assert used <= set(scale.stored().values)


# --- the arithmetic ---


def test_documents_are_multiplied_out() -> None:
    table = documents(planted())
    assert cells(table, "PDF text")[2:5] == ["81.6 s", "66.7 min", "11.1 h"]
    encoding = 1e7 * CHUNKS_A_PAGE * 0.036 / 3600
    assert cells(table, "dense vectors")[4:6] == [f"{encoding:.0f} h", f"${encoding * CORE_HOUR:.1f}"]
    assert cells(table, "BM25, held")[4] == "64.0 GB"
    assert "not measured" in table  # ColBERT is not among the planted constants


def test_the_manifest_grows_with_the_square_of_the_shards() -> None:
    one, two = (manifest_seconds(planted(), n * 1024) for n in (10_000, 20_000))
    assert one == pytest.approx(0.01 * 10_000 + 1e-5 * 10_000**2) and two == pytest.approx(4 * one - 2 * 0.01 * 10_000)


def test_limits_are_those_of_the_machine_and_in_order() -> None:
    found = limits(planted())
    by_name = {what: count for what, count, _, _ in found}
    assert by_name["BM25 in memory"] == pytest.approx(MACHINE_BYTES / 6400)
    assert by_name["flat index in memory"] == pytest.approx(MACHINE_BYTES / (4 * DIM + 8))
    assert by_name["building the trie"] == pytest.approx(MACHINE_BYTES / 64)
    assert by_name["flat search takes 0.1 s of a core"] == pytest.approx(0.1 / 1e-8)
    vectors = by_name["store's manifest a tenth of encoding"]
    assert manifest_seconds(planted(), vectors) == pytest.approx(vectors * 0.036 / 10)
    assert [count for _, count, _, _ in found] == sorted(by_name.values())
    assert "gbdt's features in memory" not in by_name  # not measured: nothing is said


def test_a_day_on_a_cluster() -> None:
    row = cells(cluster(planted()), "dense vectors")
    seconds = 1e7 * CHUNKS_A_PAGE * 0.036
    assert row[2] == f"{math.ceil(seconds / 86400):,}"
    assert row[4] == f"{1e7 * CHUNKS_A_PAGE * 4 * DIM / 1e9:.1f} GB"


def test_a_billion_items() -> None:
    table = items(planted())
    assert cells(table, "id embedding of 64 with Adam's moments")[4] == f"{1e9 * 64 * 4 * 3 / 1e9:.0f} GB"
    assert cells(table, "trie, kept")[3] == "80.0 MB"


# --- constants of saved runs ---


def growth_run(stage: str, cost: dict[int, float], memory: dict[int, int], facts: dict[str, float]) -> list[Found]:
    return [
        Found(
            f"growth_{stage}",
            f"{n}",
            [
                {
                    "figures": {"stage": {"amount": 1, "seconds": 9.0, "cpu": cost[n]}},
                    "facts": facts,
                    "peak": 10**8 + memory[n],
                    "base": 10**8,
                    "n": n,
                }
            ],
        )
        for n in cost
    ]


def test_constants_are_slopes_without_fixed_costs() -> None:
    sizes = (10, 40, 160)
    linear = growth_run("bm25", {n: 5 + 0.25 * n for n in sizes}, {n: 7 * 10**6 + 4000 * n for n in sizes}, {})
    square = growth_run("store_write", {n: 0.5 * n + 0.01 * n**2 for n in sizes}, dict.fromkeys(sizes, 0), {"x": 3.0})
    ocr = Found(
        "ocr", "kit", [{"figures": {"pages": {"amount": 4, "seconds": 9, "cpu": c}}, "facts": {}} for c in (8, 6)]
    )
    runs = [{"found": [*linear, *square, ocr], "machine": MACHINE, "size": "full"}]
    found = constants_of(runs)
    assert found["bm25 CPU s/passage"] == pytest.approx(0.25) and found["bm25 bytes/passage"] == pytest.approx(4000)
    assert found["store_write a"] == pytest.approx(0.5) and found["store_write b"] == pytest.approx(0.01)
    assert found["store_write x"] == 3.0 and found["ocr_page CPU s"] == 1.5
    assert math.isnan(found["pdf_text CPU s/page"])
    assert Constants.from_json(found.to_json()).values == pytest.approx(dict(found.values))


def test_the_command_reads_runs_and_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, kept = tmp_path / "page.md", tmp_path / "constants.json"
    monkeypatch.setattr(scale, "STORED", kept)
    page.write_text("".join(f"<!-- scale: {name} -->\n<!-- end -->\n" for name in TABLES), encoding="utf-8")
    sizes = (10, 40, 160)
    found = growth_run("bm25", {n: 0.25652 * n for n in sizes}, dict.fromkeys(sizes, 0), {})  # kept as 0.2565
    save_run(tmp_path / "growth.json", "growth", MACHINE, found, size="full")
    app = scale.typer.Typer()
    app.command()(scale.main)
    done = CliRunner().invoke(app, ["--from", str(tmp_path / "growth.json"), "--save", "--into", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        printed = table(scale.stored(kept))
        assert printed in text and printed in done.output, name
    assert f"BM25 {0.2565e6:,.0f} us/passage" in text


def test_every_constant_of_growth_is_of_a_stage() -> None:
    from benchmarks.suite.scale_constants import UNITS

    assert {*UNITS, "beam_search"} == set(STAGES)
    assert all(UNITS[name].rstrip("s") == stage.unit.rstrip("s") for name, stage in STAGES.items() if name in UNITS)
