"""The embedding store: kills, damage, concurrency, order, faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common.encoders.batches import encode_halving
from common.encoders.store import Embeddings, EmbeddingStore
from common.errors import DataError
from common.faults import FaultLog

# Run in a process of its own, so that it can be killed: each item's vector follows from its number.
WORKER = """
import os, sys, time
from pathlib import Path
import numpy as np
from common.encoders.store import EmbeddingStore
from common.faults import FaultLog

folder, items, die_at, pause, part, parts = Path(sys.argv[1]), *map(float, sys.argv[2:])
calls = 0

def encode(batch):
    global calls
    calls += 1
    if calls == die_at:
        os._exit(9)
    time.sleep(pause)
    return np.array([[i, i * i, 1 / (i + 1)] for i in batch], np.float32)

store = EmbeddingStore(folder, "toy/encoder", "r1", "passage", "p1", shard_items=8)
found = store.encode_all([f"item {i}" for i in range(int(items))], lambda row: row, encode, batch_size=4,
                         faults=FaultLog(), shard=(int(part), int(parts)))
print(calls, int(found.present.sum()))
"""


def work(folder: Path, items: int, die_at: int = 0, pause: float = 0, part: int = 0, parts: int = 1) -> list[str]:
    return [sys.executable, "-c", WORKER, str(folder), *map(str, (items, die_at, pause, part, parts))]


def run(command: list[str], root: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, env=environment, check=False)


def vectors_of(rows: list[int]) -> np.ndarray:
    return np.array([[i, i * i, 1 / (i + 1)] for i in rows], np.float32)


class Recorder:
    """An encoder that notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.largest = 0

    def __call__(self, batch: list[int]) -> np.ndarray:
        self.asked += batch
        self.largest = max(self.largest, len(batch))
        return vectors_of(batch)


def store(folder: Path, *, revision: str = "r1", role: str = "passage", dtype: str = "float32", size: int = 8):
    return EmbeddingStore(folder, "toy/encoder", revision, role, "p1", dtype, shard_items=size)  # type: ignore[arg-type]


def encode(where: EmbeddingStore, items: int, encoder=None, *, batch: int = 4, faults: FaultLog | None = None, **more):
    keys = [f"item {i}" for i in range(items)]
    log = faults if faults is not None else FaultLog()
    return where.encode_all(
        keys, more.pop("load", lambda row: row), encoder or Recorder(), batch_size=batch, faults=log, **more
    )


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.suffix in (".npy", ".json")}


def test_a_killed_run_resumes_and_ends_byte_equal_to_one_without_a_kill(tmp_path: Path, root: Path) -> None:
    killed = run(work(tmp_path / "a", 40, die_at=6), root)
    assert killed.returncode == 9
    before = files(tmp_path / "a")
    assert sum(name.endswith(".npy") for name in before) == 2  # five calls of four: two shards of eight are whole
    resumed = run(work(tmp_path / "a", 40), root)
    assert resumed.stdout.split() == ["6", "40"], resumed.stderr  # ten calls less the four that count
    assert run(work(tmp_path / "b", 40), root).stdout.split() == ["10", "40"]
    after = files(tmp_path / "a")
    assert after == files(tmp_path / "b")
    shards = {name: data for name, data in before.items() if name.startswith("shard-")}
    assert shards.items() <= after.items()
    assert not list((tmp_path / "a").rglob(".partial-*"))


def test_two_processes_at_once_share_the_work(tmp_path: Path, root: Path) -> None:
    both = [subprocess.Popen(work(tmp_path, 48, pause=0.05), cwd=root, stdout=subprocess.PIPE) for _ in range(2)]
    results = [p.communicate(timeout=60)[0].split() for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert [r[1] for r in results] == [b"48", b"48"]
    assert sum(int(r[0]) for r in results) == 12  # no batch was encoded twice
    again = Recorder()
    np.testing.assert_array_equal(encode(store(tmp_path), 48, again).vectors, vectors_of(list(range(48))))
    assert not again.asked


def test_shard_jobs_are_disjoint_and_a_later_run_finds_all(tmp_path: Path) -> None:
    jobs = [Recorder() for _ in range(3)]
    for part, job in enumerate(jobs):
        found = encode(store(tmp_path), 50, job, shard=(part, 3))
        assert found.present.sum() == sum(len(j.asked) for j in jobs)
    assert sorted(item for job in jobs for item in job.asked) == list(range(50))
    assert all(len(job.asked) > 5 for job in jobs)
    last = Recorder()
    found = encode(store(tmp_path), 50, last)
    assert not last.asked
    np.testing.assert_array_equal(found.vectors, vectors_of(list(range(50))))


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "index"])
def test_a_damaged_shard_alone_is_encoded_again(tmp_path: Path, damage: str) -> None:
    first = encode(store(tmp_path), 40)
    shard = sorted(tmp_path.rglob("shard-*.json" if damage == "index" else "shard-*.npy"))[2]
    data = bytearray(shard.read_bytes())
    if damage == "delete":
        shard.unlink()
    else:
        data[-5] ^= 1
        shard.write_bytes(bytes(data[:-9] if damage == "truncate" else data))
    encoder = Recorder()
    again = encode(store(tmp_path), 40, encoder)
    assert len(encoder.asked) == 8
    np.testing.assert_array_equal(again.vectors, first.vectors)
    assert not encode_is_needed(tmp_path)


def encode_is_needed(folder: Path) -> bool:
    encoder = Recorder()
    encode(store(folder), 40, encoder)
    return bool(encoder.asked)


def test_files_that_the_manifest_does_not_list_never_count(tmp_path: Path) -> None:
    encode(store(tmp_path), 16)
    manifest = next(tmp_path.rglob("manifest.json"))
    data = json.loads(manifest.read_text())
    data["shards"].popitem()
    manifest.write_text(json.dumps(data))
    encoder = Recorder()
    encode(store(tmp_path), 16, encoder)
    assert len(encoder.asked) == 8
    manifest.write_text("{half of")
    encode(store(tmp_path), 16, encoder)
    assert len(encoder.asked) == 24


def test_neither_batch_size_nor_order_change_the_files(tmp_path: Path) -> None:
    encode(store(tmp_path / "a"), 30, batch=7)
    encode(store(tmp_path / "b"), 30, batch=1)
    order = np.random.default_rng(0).permutation(30)
    found = store(tmp_path / "c").encode_all(
        [f"item {i}" for i in order], lambda row: int(order[row]), Recorder(), batch_size=30, faults=FaultLog()
    )
    np.testing.assert_array_equal(found.vectors, vectors_of(order.tolist()))
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")


def test_equal_items_are_encoded_once_and_new_ones_added(tmp_path: Path) -> None:
    encoder = Recorder()
    keys = ["a", "b", "a", "a", "c"]
    found = store(tmp_path).encode_all(keys, lambda r: "abc".index(keys[r]), encoder, batch_size=2, faults=FaultLog())
    assert sorted(encoder.asked) == [0, 1, 2]
    np.testing.assert_array_equal(found.vectors, vectors_of([0, 1, 0, 0, 2]))
    more = Recorder()
    encode_more = store(tmp_path).encode_all(["d", *keys], lambda r: 7, more, batch_size=2, faults=FaultLog())
    assert more.asked == [7]
    np.testing.assert_array_equal(encode_more.vectors, vectors_of([7, 0, 1, 0, 0, 2]))


def test_every_part_of_the_identity_has_vectors_of_its_own(tmp_path: Path) -> None:
    encode(store(tmp_path), 8)
    for other in (store(tmp_path, revision="r2"), store(tmp_path, role="query"), store(tmp_path, dtype="float16")):
        encoder = Recorder()
        encode(other, 8, encoder)
        assert len(encoder.asked) == 8


def test_an_item_that_cannot_be_loaded_is_a_fault_and_a_missing_row(tmp_path: Path) -> None:
    def load(row: int) -> int:
        if row in (3, 11):
            raise OSError(f"page {row} is truncated")
        return row

    faults = FaultLog()
    found = encode(store(tmp_path), 20, faults=faults, load=load, name=lambda row: f"doc page {row}", what="pages")
    assert np.flatnonzero(~found.present).tolist() == [3, 11]
    assert np.isnan(found.vectors[[3, 11]]).all() and np.isfinite(found.vectors[found.present]).all()
    assert sorted(f.item for f in faults.faults) == ["doc page 11", "doc page 3"]
    assert "truncated" in faults.faults[0].error
    mended = Recorder()
    found = encode(store(tmp_path), 20, mended)
    assert sorted(mended.asked) == [3, 11]
    np.testing.assert_array_equal(found.vectors, vectors_of(list(range(20))))


def test_all_items_failing_gives_no_vectors_and_no_crash(tmp_path: Path) -> None:
    def load(row: int) -> int:
        raise OSError("gone")

    faults = FaultLog()
    found = encode(store(tmp_path), 3, faults=faults, load=load)
    assert isinstance(found, Embeddings) and not found.present.any() and len(faults) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_an_error_that_names_the_item(tmp_path: Path, bad: float) -> None:
    def encoder(batch: list[int]) -> np.ndarray:
        vectors = vectors_of(batch)
        vectors[[i for i, item in enumerate(batch) if item == 5], 1] = bad
        return vectors

    with pytest.raises(DataError, match="not finite") as caught:
        encode(store(tmp_path), 8, encoder, name=lambda row: f"deck.pdf page {row}")
    assert caught.value.where == "deck.pdf page 5"
    assert not list(tmp_path.rglob("*.npy"))


def test_overflow_of_half_precision_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="float16"):
        encode(store(tmp_path, dtype="float16"), 4, lambda batch: np.full((len(batch), 2), 1e6, np.float32))


def test_a_wrong_number_of_vectors_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 results for 4 items"):
        encode(store(tmp_path), 8, lambda batch: vectors_of(batch[1:]))


@pytest.mark.parametrize("error", [MemoryError, "torch", "ort"])
def test_running_out_of_memory_halves_the_batch(tmp_path: Path, error: object) -> None:
    def too_large() -> Exception:
        if error == "torch":
            import torch

            return torch.OutOfMemoryError("CUDA out of memory")
        return RuntimeError("Failed to allocate memory for requested buffer") if error == "ort" else MemoryError()

    inner = Recorder()

    def encoder(batch: list[int]) -> np.ndarray:
        if len(batch) > 2:
            raise too_large()
        return inner(batch)

    found = encode(store(tmp_path), 20, encoder, batch=8)
    np.testing.assert_array_equal(found.vectors, vectors_of(list(range(20))))
    assert inner.largest == 2


def test_one_item_that_does_not_fit_is_named() -> None:
    def encoder(batch: list[int]) -> np.ndarray:
        raise MemoryError

    with pytest.raises(DataError, match="does not fit") as caught:
        list(encode_halving(encoder, [1, 2], batch_size=2, names=["page 1", "page 2"]))
    assert caught.value.where == "page 1"


def test_other_errors_of_the_encoder_are_not_swallowed(tmp_path: Path) -> None:
    def encoder(batch: list[int]) -> np.ndarray:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        encode(store(tmp_path), 4, encoder)


def test_a_full_disk_leaves_the_finished_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = np.save, []

    def save(*args: object, **kwargs: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(OSError, match="No space"):
        encode(store(tmp_path), 40)
    monkeypatch.undo()
    encoder = Recorder()
    found = encode(store(tmp_path), 40, encoder)
    assert len(encoder.asked) == 24
    np.testing.assert_array_equal(found.vectors, vectors_of(list(range(40))))


def test_late_interaction_keeps_lengths_order_and_missing_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    tokens = [rng.normal(size=(int(n), 5)).astype(np.float32) for n in rng.integers(0, 9, 30)]

    def load(row: int) -> np.ndarray:
        if row == 4:
            raise OSError("gone")
        return tokens[row]

    where = store(tmp_path, dtype="float16")
    keys = [f"item {i}" for i in range(30)]
    found = where.encode_all(keys, load, lambda batch: batch, batch_size=4, faults=FaultLog(), multi=True)
    again = store(tmp_path, dtype="float16").encode_all(
        keys, load, lambda batch: batch, batch_size=4, faults=FaultLog(), multi=True
    )
    expected = [t.astype(np.float16).astype(np.float32) if i != 4 else t[:0] for i, t in enumerate(tokens)]
    for result in (found, again):
        assert np.flatnonzero(~result.present).tolist() == [4]
        assert result.lengths.tolist() == [len(e) for e in expected]
        for row, value in enumerate(expected):
            np.testing.assert_array_equal(result.item(row), value)
    rows = [7, 2, 4, 29, 2]
    flat, offsets = again.gather(rows)
    np.testing.assert_array_equal(flat, np.concatenate([expected[r] for r in rows]))
    assert offsets.tolist() == np.cumsum([0] + [len(expected[r]) for r in rows]).tolist()


def test_wrong_shard_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard"):
        encode(store(tmp_path), 4, shard=(3, 3))
