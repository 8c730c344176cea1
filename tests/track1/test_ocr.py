import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.engine.base import End, Failed, Item
from common.engine.local import WorkerPool
from common.errors import DataError
from tests.track1.hostile_tasks import act, broken_setup, no_state
from tests.track1.pdf_files import drawn_text, image_pdf
from track1_mdr.datasets import ocr, ocr_models
from track1_mdr.datasets.ocr import OcrCache, OcrState, OcrTask, make_engine, read_image, read_task, reading_order
from track1_mdr.datasets.ocr_models import Found
from track1_mdr.datasets.pdf import Line

FIGURE = (72 / 612, 292 / 792, 472 / 612, 492 / 792)  # where image_pdf draws


@pytest.fixture(scope="module")
def engine() -> object:
    return make_engine()


def test_reads_words_with_boxes_where_the_ink_is(engine: object) -> None:
    image = np.asarray(drawn_text("Quarterly revenue\nrose in Norway"))
    lines = read_image(engine, image)
    assert [line.text for line in lines] == ["Quarterly revenue", "rose in Norway"]
    rows, columns = np.nonzero(image.min(2) < 100)
    ink = (columns.min() / 600, rows.min() / 160, columns.max() / 600, rows.max() / 160)
    boxes = np.asarray([line.box for line in lines])
    hull = (*boxes[:, :2].min(0), *boxes[:, 2:].max(0))
    assert hull == pytest.approx(ink, abs=0.12)


def test_blank_and_tiny_images_never_reach_the_models() -> None:
    assert read_image(None, np.full((400, 300, 3), 255, np.uint8)) == []
    assert read_image(None, np.zeros((4, 300, 3), np.uint8)) == []


def test_low_scores_are_dropped() -> None:
    corners = np.asarray([[0, 0], [10, 0], [10, 10], [0, 10]], np.float32)
    found = [Found(text, score, corners) for text, score in (("kept", 0.5), ("dropped", 0.49), (" ", 0.9))]
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    assert [line.text for line in read_image(lambda *_: found, image)] == ["kept"]


def test_reading_order_is_rows_then_columns_whatever_the_input_order() -> None:
    rng = np.random.default_rng(2)
    wanted = [f"{row}{column}" for row in range(6) for column in range(4)]
    lines = [
        Line(
            name, (int(name[1]) / 4, int(name[0]) / 6 + jitter, int(name[1]) / 4 + 0.2, int(name[0]) / 6 + 0.1 + jitter)
        )
        for name, jitter in zip(wanted, rng.uniform(-0.01, 0.01, len(wanted)), strict=True)
    ]
    for _ in range(5):
        rng.shuffle(lines)  # type: ignore[arg-type]
        assert [line.text for line in reading_order(lines)] == wanted


def test_whole_page_and_figure_of_a_pdf(tmp_path: Path) -> None:
    pdf = image_pdf(tmp_path / "a.pdf", [drawn_text("Wombat census 1987")])
    state = OcrState()
    whole = next(read_task(state, OcrTask(pdf, 0, 1000, None, tmp_path / "cache", ocr.engine_name())))
    figure = next(read_task(state, OcrTask(pdf, 0, 1000, (FIGURE,), tmp_path / "cache", ocr.engine_name())))
    for lines in (*whole, *figure):
        assert " ".join(line.text for line in lines) == "Wombat census 1987"
        left, top, right, bottom = lines[0].box
        assert FIGURE[0] <= left < right <= FIGURE[2]
        assert FIGURE[1] <= top < bottom <= FIGURE[3]


def test_a_machine_that_reads_otherwise_is_refused(tmp_path: Path) -> None:
    pdf = image_pdf(tmp_path / "a.pdf", [drawn_text("Wombat census 1987")])
    other = ocr.engine_name().replace(ocr_models.precision(), "f8")
    with pytest.raises(DataError, match=r"reads otherwise[\s\S]*f8"):
        next(read_task(OcrState(), OcrTask(pdf, 0, 1000, None, tmp_path / "cache", other)))
    assert not (tmp_path / "cache").exists()


LINES = [Line("Zürich “2”", (0.1, 0.2, 0.3, 0.4)), Line("b", (0.0, 0.0, 1.0, 0.12345))]


def test_cache_returns_what_was_put(tmp_path: Path) -> None:
    cache = OcrCache(tmp_path)
    assert cache.get("ab") is None
    cache.put("ab", LINES)
    assert cache.get("ab") == LINES
    cache.put("cd", [])
    assert cache.get("cd") == []


def test_cache_keys_differ_by_pixels_shape_and_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = OcrCache(tmp_path)
    image = np.zeros((20, 30, 3), np.uint8)
    other = image.copy()
    other[0, 0, 0] = 1
    keys = {cache.key(image), cache.key(other), cache.key(image.reshape(30, 20, 3))}
    monkeypatch.setattr(ocr, "engine_name", lambda: "rapidocr 99")
    keys.add(cache.key(image))
    assert len(keys) == 4
    assert cache.key(image) == cache.key(image.copy())


def test_every_damaged_cache_entry_counts_as_absent(tmp_path: Path) -> None:
    cache = OcrCache(tmp_path)
    cache.put("ab", LINES)
    path = cache.path("ab")
    whole = path.read_bytes()
    text_at = whole.index(b"rich")
    for damaged in (
        b"",
        whole[: len(whole) // 2],
        whole[:text_at] + b"R" + whole[text_at + 1 :],
        whole.replace(b"0.2", b"0.3"),
        b"\xff" + whole,
        json.dumps({"lines": []}).encode(),
        b"[]",
    ):
        path.write_bytes(damaged)
        assert cache.get("ab") is None
    path.write_bytes(whole)
    assert cache.get("ab") == LINES


def test_an_entry_of_another_image_is_not_taken(tmp_path: Path) -> None:
    cache = OcrCache(tmp_path)
    cache.put("abcd", LINES)
    cache.path("abxx").write_bytes(cache.path("abcd").read_bytes())
    assert cache.get("abxx") is None


def test_a_damaged_entry_is_computed_again(tmp_path: Path) -> None:
    image = np.asarray(drawn_text("Wombat", (300, 100)))
    state, cache = OcrState(), OcrCache(tmp_path)
    first = state.read(image, cache)
    path = cache.path(cache.key(image))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert state.read(image, cache) == first
    assert path.read_bytes() == whole
    assert [line.text for line in first] == ["Wombat"]


def test_a_cached_page_needs_no_engine(tmp_path: Path) -> None:
    image = np.asarray(Image.new("RGB", (50, 50), "red"))
    cache = OcrCache(tmp_path)
    cache.put(cache.key(image), LINES)
    state = OcrState()
    assert state.read(image, cache) == LINES
    assert state._engine is None


def test_dead_and_hanging_workers_are_events_and_the_others_go_on() -> None:
    tasks = [("fine", 3), ("die", 2), ("raise", 1), ("hang", 1), ("fine", 2), ("die", 0), ("fine", 1)]
    values: dict[int, list[int]] = {i: [] for i in range(len(tasks))}
    ends: dict[int, object] = {}
    with WorkerPool(act, no_state, workers=2, timeout=1.5) as pool:
        for event in pool.run(tasks):
            if isinstance(event, Item):
                values[event.task].append(event.value)
            else:
                assert event.task not in ends
                ends[event.task] = event
        again = [event.value for event in pool.run([("fine", 4)]) if isinstance(event, Item)]
    assert [len(values[i]) for i in range(len(tasks))] == [count for _, count in tasks]
    for number, (what, _) in enumerate(tasks):
        event = ends[number]
        if what == "fine":
            assert event == End(number)
        else:
            assert isinstance(event, Failed)
            assert event.lost == (what != "raise")
            assert {"die": "exit code 7", "hang": "1.5 s", "raise": "RuntimeError: boom"}[what] in event.reason
    assert again == [0, 1, 2, 3]


def test_ctrl_c_is_no_failure_of_a_task() -> None:
    with WorkerPool(act, no_state, workers=1) as pool:
        events = pool.run([("fine", 20_000)])  # far from done when the signal comes
        found = [next(events)]
        for worker in pool._pool:
            os.kill(worker.process.pid, signal.SIGINT)  # as a terminal does to every process of the group
        found += list(events)
    assert len(found) == 20_001 and isinstance(found[-1], End)


def test_a_pool_that_cannot_start_says_so() -> None:
    with WorkerPool(act, broken_setup, workers=1) as pool, pytest.raises(DataError, match=r"could not start[\s\S]*3"):
        list(pool.run([("fine", 1)]))
