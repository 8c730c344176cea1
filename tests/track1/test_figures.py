"""Figures in screenshots: drawn pages, whose figures are known."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.planted_pages import draw_page, draw_picture
from track1_mdr.figures import Box, FigureLimits, crop, find_figures, top_part


def overlap(a: Box, b: Box) -> float:
    width = max(min(a.right, b.right) - max(a.left, b.left), 0)
    height = max(min(a.bottom, b.bottom) - max(a.top, b.top), 0)
    return width * height / (a.area + b.area - width * height)


def page_with(count: int, seed: int) -> tuple[np.ndarray, list[Box]]:
    """Return a page of text with pictures at known places."""
    rng = np.random.default_rng(seed)
    page = draw_page(rng, [], 14)
    places = []
    for i in range(count):
        picture = draw_picture(rng, int(rng.integers(150, 300)))
        left, top = int(rng.integers(40, 600)), 140 + i * (page.height - 160) // count
        page.paste("white", (left - 20, top - 20, left + picture.width + 20, top + picture.height + 20))
        page.paste(picture, (left, top))
        places.append(Box(left, top, left + picture.width, top + picture.height))
    return np.asarray(page), places


@pytest.mark.parametrize("seed", range(6))
def test_every_picture_on_a_page_of_text_is_found_and_nothing_else(seed: int) -> None:
    page, places = page_with(4, seed)
    found = find_figures(page)
    for place in places:
        assert max(overlap(place, box) for box in found) > 0.9
    strangers = [box for box in found if all(overlap(place, box) < 0.5 for place in places)]
    assert len(strangers) <= 1


def test_a_page_of_text_has_no_figures() -> None:
    for seed in range(3):
        assert find_figures(np.asarray(draw_page(np.random.default_rng(seed), [], 10))) == []
    assert find_figures(np.full((900, 700, 3), 255, np.uint8)) == []


def test_a_line_drawing_is_found() -> None:
    page = draw_page(np.random.default_rng(1), [], 4)
    place = (300, 1300, 620, 1560)
    page = page.crop((0, 0, page.width, 1700))
    page.paste("white", (200, 1200, 800, 1700))
    draw = ImageDraw.Draw(page)
    draw.rectangle(place, outline="black", width=2)
    draw.line([(310, 1500), (400, 1350), (500, 1450), (610, 1320)], fill="blue", width=3)
    assert max(overlap(Box(*place), box) for box in find_figures(np.asarray(page))) > 0.9


@pytest.mark.parametrize("background", [(248, 249, 250), (255, 250, 205), (32, 33, 36)])
def test_the_background_need_not_be_white(background: tuple[int, int, int]) -> None:
    page = Image.new("RGB", (900, 1200), background)
    picture = draw_picture(np.random.default_rng(5), 280)
    page.paste(picture, (100, 300))
    place = Box(100, 300, 100 + picture.width, 300 + picture.height)
    assert overlap(find_figures(np.asarray(page))[0], place) > 0.9


def test_all_figures_up_to_the_limit_largest_first() -> None:
    # The 1st place's batching saw only the first two figures of a page.
    rng = np.random.default_rng(2)
    page = Image.new("RGB", (900, 3000), "white")
    sides = [100, 220, 130, 180, 260, 110, 150, 200, 240, 120]
    for i, side in enumerate(sides):
        page.paste(draw_picture(rng, 260).resize((side, side)), (60, 20 + i * 290))
    found = find_figures(np.asarray(page), FigureLimits(max_figures=10))
    assert len(found) == 10
    areas = [box.area for box in found]
    assert areas == sorted(areas, reverse=True) and areas[0] > 0.9 * 260**2
    assert find_figures(np.asarray(page), FigureLimits(max_figures=3)) == found[:3]


def test_sizes_and_shapes_are_limited() -> None:
    page = np.full((1000, 800, 3), 255, np.uint8)
    page[20:60, 20:60] = 90  # too small
    page[100:160, 20:780] = 90  # a bar, too long
    page[300:500, 100:400] = 90
    assert find_figures(page) == [Box(100, 300, 400, 500)]
    assert find_figures(np.full((500, 400, 3), 90, np.uint8) // 3) == []


def test_the_same_page_gives_the_same_boxes() -> None:
    page, _ = page_with(3, 9)
    assert find_figures(page) == find_figures(page.copy())


def test_crop_and_top_part() -> None:
    page = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    assert (crop(page, Box(1, 2, 3, 5)) == page[2:5, 1:3]).all()
    assert top_part(4, 5) == Box(0, 0, 4, 4) and top_part(4, 2) == Box(0, 0, 4, 2)


@pytest.mark.parametrize("shape", [(3, 3), (1, 1, 3), (1, 2000, 3), (40, 40, 3)])
def test_odd_images(shape: tuple[int, ...]) -> None:
    page = np.zeros(shape, np.uint8)
    if page.ndim == 2:
        with pytest.raises(ValueError, match="uint8"):
            find_figures(page)
    else:
        assert find_figures(page) == []
