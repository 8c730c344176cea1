"""Pools, the embedding store, PDFs and codes on a real Ray cluster: equal to one process, whatever is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import numpy as np
import pytest

from common.encoders.spread import Spread
from common.encoders.store import EmbeddingStore
from common.engine.base import End, Failed, Item
from common.engine.local import LOCAL, LocalEngine
from common.errors import ConfigError, DataError
from common.faults import FaultLog
from common.representation.kar.encoder import EncoderConfig, KnowledgeEncoder, build_knowledge_encoder
from common.tokenizers.rq_kmeans import RQKMeans
from common.tokenizers.spread import item_codes, step_codes
from common.tokenizers.uni_code.item_ids import item_codes as uni_code_codes
from common.tokenizers.uni_code.tokenizer import UniCode
from tests.common.tokenizers.test_uni_code import features, tiny
from tests.engine.jobs import Toy, act, broken, encode_toys, nothing
from tests.track1.test_prepare import OCR, make_folder, tables
from track1_mdr.app import run_config
from track1_mdr.datasets.image_folder import FolderImages
from track1_mdr.datasets.prepare import prepare_pdfs
from track1_mdr.figure_store import FigureStore, Recipe
from track1_mdr.figures import FigureLimits

if TYPE_CHECKING:
    from common.engine.ray_pool import RayEngine

ITEMS = 60


def told(events: Any) -> dict[int, list[Any]]:
    """By task, the values in their order and how it ended."""
    found: dict[int, list[Any]] = {}
    for event in events:
        found.setdefault(event.task, []).append(event.value if isinstance(event, Item) else event)
    return found


def files(folder: Path) -> dict[str, bytes]:
    """What a store holds; a kill may leave a file in the making, which is nothing."""
    found = [p for p in folder.rglob("*") if p.suffix in (".npy", ".json") and not p.name.startswith(".partial-")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def listed(folder: Path) -> list[str]:
    """The finished shards of a store."""
    return [name for path in folder.rglob("manifest.json") for name in json.loads(path.read_text())["shards"]]


def test_values_errors_deaths_and_hangs_are_told_as_by_local_processes(ray_engine: RayEngine) -> None:
    tasks = [("count", 3), ("fail", 5), ("user", "x"), ("die", 9), ("hang", 60), *[("count", i % 3) for i in range(40)]]
    found = []
    for engine in (LocalEngine(2), ray_engine):
        with engine.pool(act, nothing, timeout=2.0) as pool:
            found.append(told(pool.run(tasks)))
            assert told(pool.run([("count", 2)])) == {0: [0, 1, End(0)]}
    assert found[0] == found[1]
    assert len(found[1]) == len(tasks)
    assert found[1][0] == [0, 1, 2, End(0)]
    assert found[1][3] == [0, Failed(3, "the worker process died (exit code 9)", lost=True)]


@pytest.mark.parametrize("timeout", [30.0, None])
def test_a_worker_killed_in_the_middle_has_its_tasks_run_again(
    ray_engine: RayEngine, tmp_path: Path, timeout: float | None
) -> None:
    with ray_engine.pool(act, nothing, timeout=timeout) as pool:
        found = told(pool.run([("count", 2), ("kill", str(tmp_path / "mark")), ("count", 1)]))
    assert found == {0: [0, 1, End(0)], 1: ["before", "after", End(1)], 2: [0, End(2)]}
    assert (tmp_path / "mark").exists()


@pytest.mark.slow
def test_a_task_that_always_kills_its_worker_fails_and_the_others_go_on(ray_engine: RayEngine) -> None:
    with ray_engine.pool(act, nothing, timeout=None) as pool:
        found = told(pool.run([("count", 1), ("die", 3), ("count", 2)]))
    assert found == {0: [0, End(0)], 1: [Failed(1, "its worker was lost 4 times", lost=True)], 2: [0, 1, End(2)]}


def test_a_set_up_that_fails_is_one_error(ray_engine: RayEngine) -> None:
    for timeout, reason in ((None, "the model is not there"), (20.0, "could not start")):
        with ray_engine.pool(act, broken, timeout=timeout) as pool, pytest.raises(DataError, match=reason):
            list(pool.run([("count", 2)]))


def test_what_no_node_has_is_an_error_and_no_endless_wait(ray_engine: RayEngine) -> None:
    assert ray_engine.needs(64, 0.0) == {"num_cpus": 1, "num_gpus": 0.0}
    many = 1.0 + max(node["Resources"].get("GPU", 0.0) for node in ray_engine.ray().nodes())
    with (
        ray_engine.pool(act, nothing, timeout=None, gpus=many) as pool,
        pytest.raises(ConfigError, match="no node of the Ray cluster has a GPU to spare"),
    ):
        list(pool.run([("count", 1)]))


def test_values_larger_than_the_object_store_arrive(ray_engine: RayEngine) -> None:
    with ray_engine.pool(act, nothing, timeout=None) as pool:
        found = told(pool.run([("big", 45 << 20), ("big", 85 << 20)]))
    assert [len(found[task][0]) for task in range(2)] == [45 << 20, 85 << 20]
    assert all(int(value.min()) == int(value.max()) == 7 for value, _ in found.values())


@pytest.mark.parametrize("multi", [False, True])
def test_the_embedding_store_has_the_bytes_of_one_process(ray_engine: RayEngine, tmp_path: Path, multi: bool) -> None:
    logs = FaultLog(), FaultLog()
    alone = encode_toys(tmp_path / "a", ITEMS, LOCAL, multi=multi, faults=logs[0])
    spread = encode_toys(
        tmp_path / "b", ITEMS, ray_engine, multi=multi, faults=logs[1], kill=None if multi else tmp_path / "killed"
    )
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert sum(name.endswith(".npy") for name in files(tmp_path / "b")) == -(-ITEMS // 8)
    np.testing.assert_array_equal(alone.present, spread.present)
    assert spread.present.sum() == ITEMS - len(logs[0])
    assert {(f.item, f.error) for f in logs[0].faults} == {(f.item, f.error) for f in logs[1].faults}
    assert ("toy 11", "ValueError: item 11 is broken") in {(f.item, f.error) for f in logs[1].faults}
    assert multi or (tmp_path / "killed").exists()


def test_knowledge_has_the_bytes_of_one_process(
    ray_engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long texts, which the workers cut into pieces."""
    monkeypatch.setattr("common.representation.kar.encoder.EmbeddingStore", partial(EmbeddingStore, shard_items=4))
    texts = [" ".join(f"{word} {i}" for word in ("film", "actor", "year") * 12) for i in range(10)]
    config = EncoderConfig(model="BAAI/bge-small-en-v1.5", max_tokens=32)
    alone = build_knowledge_encoder(config, tmp_path / "a").encode(texts, batch_size=2)
    monkeypatch.delattr(KnowledgeEncoder, "encode_batch")  # of this process: the workers have theirs
    spread = build_knowledge_encoder(config, tmp_path / "b").encode(texts, batch_size=2, engine=ray_engine)
    assert alone.shape == (10, 384) and np.array_equal(alone, spread)
    stores = [files(tmp_path / name / "vectors") for name in "ab"]
    assert stores[0] == stores[1] and sum(name.endswith(".npy") for name in stores[0]) == 3


DRIVER = """
import sys
from pathlib import Path
from common.engine.ray_pool import RayEngine
from tests.engine.jobs import encode_toys

with RayEngine(sys.argv[2], 2) as engine:
    encode_toys(Path(sys.argv[1]) / "store", int(sys.argv[3]), engine, pause=0.5, log=Path(sys.argv[1]) / "log")
"""


def test_a_driver_that_was_killed_goes_on_where_it_was(ray_engine: RayEngine, tmp_path: Path, root: Path) -> None:
    """It joins the cluster by its address, which outlives it."""
    address = ray_engine.ray().get_runtime_context().gcs_address
    command = [sys.executable, "-c", DRIVER, str(tmp_path), address, str(ITEMS)]
    driver = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not listed(tmp_path / "store"):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = listed(tmp_path / "store")
    assert 0 < len(before) < -(-ITEMS // 8)
    log = tmp_path / "second"
    encode_toys(tmp_path / "store", ITEMS, ray_engine, log=log)
    encode_toys(tmp_path / "alone", ITEMS, LOCAL, log=tmp_path / "third")
    after = files(tmp_path / "store")
    assert after == files(tmp_path / "alone")
    assert set(before) <= set(listed(tmp_path / "store"))
    kept = sum(len(np.load(next((tmp_path / "store").rglob(f"{name}.npy")))) for name in before)
    everything = (tmp_path / "third").read_text().split()
    assert len(log.read_text().split()) == len(everything) - kept  # only what was missing


def test_a_worker_with_another_model_is_refused(ray_engine: RayEngine, tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "toy", "r2", "passage", "p1", shard_items=8)
    spread = Spread(ray_engine, partial(Toy, False), "another toy", int)
    with pytest.raises(DataError, match=r"another model[\s\S]*another toy"):
        store.encode_all(
            [f"item {i}" for i in range(20)], int, Toy().encode, batch_size=4, faults=FaultLog(), spread=spread
        )
    assert not list(tmp_path.rglob("*.npy"))


def test_codes_are_those_of_one_process(ray_engine: RayEngine) -> None:
    x = np.random.default_rng(3).normal(size=(2_500, 12)).astype(np.float32)
    quantizer = RQKMeans(codebook_sizes=(16, 16)).fit(x[:1_000], seed=1)
    codes = item_codes(quantizer, x, ray_engine, size=300)
    np.testing.assert_array_equal(codes, quantizer.encode(x))
    assert len(np.unique(codes[:, 0])) > 4
    x[1_234, 5] = np.nan
    with pytest.raises(DataError, match="row 1234"):
        item_codes(quantizer, x, ray_engine, size=300)


def test_codes_of_several_modalities_are_those_of_one_process(
    ray_engine: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {name: (np.arange(60), x) for name, x in features(rows=60).items()}
    tokenizer = UniCode(tiny()).fit({name: x[:20] for name, (_, x) in made.items()}, seed=0)
    _, alone, _ = uni_code_codes(tokenizer, made, tuple(made), pool="all")
    monkeypatch.setattr("common.tokenizers.uni_code.item_ids.step_codes", partial(step_codes, size=16))
    pool = Mock(wraps=ray_engine.pool)
    monkeypatch.setattr(ray_engine, "pool", pool)
    _, codes, _ = uni_code_codes(tokenizer, made, tuple(made), pool="all", engine=ray_engine)
    np.testing.assert_array_equal(codes, alone)
    assert pool.call_count == len(made)  # the workers encoded
    made["text"][1][41, 0, 0] = np.nan
    with pytest.raises(DataError, match="text, row 41"):
        uni_code_codes(tokenizer, made, tuple(made), engine=ray_engine)


def test_pdfs_with_ocr_are_prepared_to_the_same_tables_and_pieces(ray_engine: RayEngine, tmp_path: Path) -> None:
    pdfs = make_folder(tmp_path / "pdfs")
    logs = FaultLog(), FaultLog()
    for name, engine, faults in (("a", LocalEngine(1), logs[0]), ("b", ray_engine, logs[1])):
        prepare_pdfs(pdfs, tmp_path / name, OCR, tmp_path / f"cache_{name}", faults, images=True, engine=engine)
    assert tables(tmp_path / "a") == tables(tmp_path / "b")
    assert files(tmp_path / "cache_a") == files(tmp_path / "cache_b")
    assert logs[0].faults == logs[1].faults
    assert any("ocr" in name for name in files(tmp_path / "cache_b"))


@pytest.mark.slow
def test_figures_are_described_to_the_same_shards(
    ray_engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr("track1_mdr.figure_store.POOL_FROM", 2)
    rng = np.random.default_rng(5)
    paths = []
    for number in range(34):  # two shards, and a file that is no image
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(0, 255, (90, 120, 3), np.uint8)).save(paths[-1])
    paths[3].write_bytes(b"no image")
    images = FolderImages(tuple(path.name for path in paths), tuple(paths))
    keys = [images.key(row) for row in range(len(paths))]
    found, logs = [], (FaultLog(), FaultLog())
    for name, engine, faults in (("a", LOCAL, logs[0]), ("b", ray_engine, logs[1])):
        store = FigureStore(tmp_path / name, Recipe("whole", FigureLimits(), 50), engine)
        store.describe(images, keys, images.names, workers=1, faults=faults)
        found.append({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.safetensors")})
    assert found[0] == found[1] and len(found[1]) == 2
    assert [fault.item for fault in logs[1].faults] == ["3.png"]
    assert logs[0].faults == logs[1].faults


@pytest.mark.slow
def test_the_main_job_has_the_bytes_of_one_machine(ray_engine: RayEngine, tmp_path: Path, root: Path) -> None:
    """OCR, vectors, token vectors and the reranker's logits of the sample, each through Ray."""
    kept = []
    for name, engine in (("a", LOCAL), ("b", ray_engine)):
        run_config(
            "baseline", [], root / "data" / "sample", tmp_path / f"{name}.csv", tmp_path / name, tmp_path,
            lambda config, _: tmp_path / config, lambda _: None, engine=engine,
        )  # fmt: skip
        kept.append({str(p.relative_to(tmp_path / name)): p for p in (tmp_path / name).rglob("*") if p.is_file()})
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    names = [{name for name in found if not name.endswith(".lock")} for found in kept]
    assert names[0] == names[1] and sum(name.endswith(".npy") for name in names[1]) > 4
    assert all(kept[0][name].read_bytes() == kept[1][name].read_bytes() for name in names[0])
