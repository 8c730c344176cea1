"""The text detector and recogniser: geometry on planted maps, and readings that depend on nothing but the pixels."""

import math
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from common.errors import ConfigError
from tests.track1.pdf_files import drawn_text
from track1_mdr.datasets import ocr, ocr_models
from track1_mdr.datasets.ocr import read_image
from track1_mdr.datasets.ocr_models import (
    BATCH_PIXELS,
    LONG_SIDE,
    MAX_BATCH,
    MAX_SIDE,
    STRIDE,
    TextReader,
    batches,
    cut,
    detector_size,
    is_upright,
    line_boxes,
    line_width,
    model_path,
)

WORDS = ["wombat", "census", "revenue", "Norway", "1987", "growth", "bridge", "copper", "lantern", "orchid", "violin"]


@pytest.fixture(scope="module")
def reader() -> TextReader:
    return TextReader()


def pixels(image: Image.Image) -> np.ndarray:
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])


def line_image(text: str, points: int = 30) -> np.ndarray:
    width = int(ImageFont.load_default(points).getlength(text)) + 16
    image = Image.new("RGB", (width, points + 14), "white")
    ImageDraw.Draw(image).text((8, 4), text, fill="black", font=ImageFont.load_default(points))
    return pixels(image)


def test_a_line_reads_the_same_alone_in_any_order_and_in_any_company(reader: TextReader) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 5))) for _ in range(14)]
    lines = [line_image(text, int(rng.integers(14, 40))) for text in texts]
    together = reader.read(lines)
    order = rng.permutation(len(lines))
    assert [reader.read([line])[0] for line in lines] == together
    assert reader.read([lines[i] for i in order]) == [together[i] for i in order]
    right = [read == wanted for (read, _), wanted in zip(together, texts, strict=True)]
    assert np.mean(right) >= 0.85
    assert reader.read([]) == []


def test_a_page_reads_the_same_after_other_pages(reader: TextReader) -> None:
    pages = [np.asarray(drawn_text(f"{a}\n{b}", (500 + 90 * i, 160))) for i, (a, b) in enumerate(pairwise(WORDS[:5]))]
    first = [read_image(reader, page) for page in pages]
    assert [read_image(reader, page) for page in reversed(pages)] == first[::-1]
    assert [[line.text for line in lines] for lines in first] == [list(pair) for pair in pairwise(WORDS[:5])]


@pytest.mark.parametrize(("size", "place"), [((707, 1000), (60, 955)), ((1000, 563), (820, 20)), ((1000, 750), (5, 8))])
def test_two_words_on_an_empty_page_are_found_wherever_they_stand(
    reader: TextReader, size: tuple[int, int], place: tuple[int, int]
) -> None:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text(place, "wombat census", fill="black", font=ImageFont.load_default(22))
    lines = read_image(reader, np.asarray(image))
    assert [line.text for line in lines] == ["wombat census"]
    left, top, _, _ = lines[0].box
    assert left * size[0] == pytest.approx(place[0], abs=8) and top * size[1] == pytest.approx(place[1], abs=8)


@pytest.mark.parametrize("size", [(900, 40), (1900, 40), (320, 30), (130, 50)])
@pytest.mark.parametrize("long_side", [LONG_SIDE, ocr.FIGURE_LONG_SIDE])
def test_strips_and_small_pictures_are_read(reader: TextReader, size: tuple[int, int], long_side: int) -> None:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((10, 4), "violin", fill="black", font=ImageFont.load_default(20))
    assert [line.text for line in read_image(reader, np.asarray(image), long_side)] == ["violin"]


@pytest.mark.parametrize("turn", [90, 270])
def test_lines_that_run_up_or_down_the_page_are_read(reader: TextReader, turn: int) -> None:
    image = drawn_text("Quarterly revenue", (500, 80)).rotate(turn, expand=True)
    assert [line.text for line in read_image(reader, np.asarray(image))] == ["Quarterly revenue"]


def test_boxes_grow_by_the_papers_distance_and_follow_the_image_scale() -> None:
    marked = np.zeros((200, 400), np.float32)
    marked[50:61, 100:301] = 0.9  # 200 x 10 between pixel centres; the dilation adds one pixel to the right and below
    marked[150:161, 20:121] = 0.45  # too faint
    marked[180:182, 300:390] = 0.9  # too thin
    found = list(line_boxes(marked, 400, 1200))
    assert len(found) == 1
    more = 1.6 * 201 * 11 / (2 * (201 + 11))
    low, high = found[0].min(0), found[0].max(0)
    assert low == pytest.approx([3 * (100 - more), 2 * (50 - more)], abs=1)
    assert high == pytest.approx([3 * (301 + more), 2 * (61 + more)], abs=1)
    assert found[0][0] == pytest.approx(low) and found[0][2] == pytest.approx(high)
    assert list(line_boxes(np.zeros((64, 64), np.float32), 64, 64)) == []


def test_boxes_never_leave_the_image_and_touching_lines_stay_whole() -> None:
    marked = np.zeros((64, 320), np.float32)
    marked[:12, :] = 0.8
    (corners,) = line_boxes(marked, 32, 160)
    assert corners.min() >= 0 and (corners.max(0) <= (159, 31)).all()


def test_a_slanted_line_is_cut_level() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    angle = math.radians(20)
    along, down = np.asarray([math.cos(angle), math.sin(angle)]), np.asarray([-math.sin(angle), math.cos(angle)])
    start = np.asarray([60.0, 40.0])
    corners = np.asarray([start, start + 80 * along, start + 80 * along + 20 * down, start + 20 * down], np.float32)
    rows, columns = np.mgrid[:200, :200]
    across = (np.stack([columns, rows], -1) - start) @ along
    image[across > 40] = 255  # the right half of the line
    line = cut(image, corners)
    assert line.shape[:2] == (20, 80)
    assert line[2:-2, :36].max() < 40 and line[2:-2, 44:].min() > 215
    assert not is_upright(corners)


def test_level_and_upright_lines_are_the_very_pixels() -> None:
    image = np.random.default_rng(1).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    corners = np.asarray([[10, 20], [70, 20], [70, 35], [10, 35]], np.float32)
    np.testing.assert_array_equal(cut(image, corners), image[20:35, 10:70])
    upright = np.asarray([[10, 20], [22, 20], [22, 70], [10, 70]], np.float32)
    assert is_upright(upright)
    np.testing.assert_array_equal(cut(image, upright), np.rot90(image[20:70, 10:22]))


def test_batches_hold_each_line_once_and_only_lines_of_its_width() -> None:
    rng = np.random.default_rng(3)
    widths = rng.integers(1, 2200, 300).tolist()
    seen: list[int] = []
    for wide, members in batches(widths):
        assert all(line_width(widths[member]) == wide >= widths[member] for member in members)
        assert len(members) in (1, 2, 4) and len(members) <= MAX_BATCH
        assert len(members) == 1 or wide * len(members) <= BATCH_PIXELS
        seen += members
    assert sorted(seen) == list(range(300))


def test_detector_sizes_are_bounded_and_keep_the_shape() -> None:
    rng = np.random.default_rng(4)
    for height, width in rng.integers(16, 5000, (300, 2)).tolist():
        rows, columns = detector_size(height, width)
        assert rows % STRIDE == columns % STRIDE == 0 and min(rows, columns) >= STRIDE
        assert max(rows, columns) <= MAX_SIDE + STRIDE
        if max(height, width) <= MAX_SIDE:  # nothing is made smaller, except by rounding
            assert rows >= height - STRIDE / 2 and columns >= width - STRIDE / 2
        if min(rows, columns) > 4 * STRIDE:
            assert rows / columns == pytest.approx(height / width, rel=0.25)


def test_without_the_models_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr_models, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"OCR detector is absent[\s\S]*pip install -r requirements.txt"):
        model_path("detector")


def test_a_new_reader_reads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ocr.engine_name.__wrapped__()
    monkeypatch.setattr(ocr, "READER_VERSION", ocr.READER_VERSION + 1)
    assert ocr.engine_name.__wrapped__() != before


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "openvino":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(ocr, "version", version)
    with pytest.raises(ConfigError, match=r"needs the package openvino[\s\S]*data.ocr.enabled=false"):
        ocr.engine_name.__wrapped__()


SIGNALLED = """
import gc, os, signal
from track1_mdr.datasets.ocr_models import TextReader, precision

reader = TextReader()
precision()
del reader
gc.collect()
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_after_a_reader_is_let_go_is_no_crash(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
