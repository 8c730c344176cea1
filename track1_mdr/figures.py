"""Figures in a page screenshot: where they are, and the pictures cut out.

The pages are web pages on a plain background: photographs and drawings among lines of text. Two kinds of
regions are found: solid ones (pictures, which survive an erosion that removes the strokes of letters), and
outlined ones (line drawings and framed charts, as closed groups of edges that are not mostly letters).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


class Box(NamedTuple):
    """A region of an image in pixels; `right` and `bottom` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        """Width times height."""
        return (self.right - self.left) * (self.bottom - self.top)


@dataclass(frozen=True)
class FigureLimits:
    """What counts as a figure. Lengths are in pixels of the screenshot as given."""

    max_figures: int = 10
    min_side: int = 48
    min_area: int = 5000
    aspect: float = 5.0
    """Longest side over shortest side, at most."""
    page_share: float = 0.9
    """A region that covers more of the page than this is the page, not a figure."""
    stroke: int = 9
    """Strokes thinner than this many pixels are taken for letters."""
    letters_share: float = 0.6
    """An outlined region with more of its ink in letter-sized pieces than this is text."""


def find_figures(page: np.ndarray, limits: FigureLimits | None = None) -> list[Box]:
    """Return the figures of a page, largest first, at most `limits.max_figures`.

    Parameters
    ----------
    page
        RGB image, uint8 [H, W, 3].
    limits
        Sizes and shares; the defaults suit screenshots about 1,000 pixels wide.

    Returns
    -------
    list of Box
        Ordered by area, then top, then left. The same page gives the same boxes.

    Notes
    -----
    The steps (background mask, edges, dilation, contours, size and aspect limits) follow the description of
    the 1st place's page cleaning; the split into solid and outlined regions is our own.
    """
    import cv2

    limits = limits or FigureLimits()
    if page.ndim != 3 or page.shape[2] != 3 or page.dtype != np.uint8:
        raise ValueError(f"need uint8 [H, W, 3], got {page.dtype} {page.shape}")
    if min(page.shape[:2]) < limits.min_side:
        return []
    ink = _ink(cv2, page)
    solid = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((limits.stroke, limits.stroke), np.uint8))
    pictures = {_trim(ink, box) for box in _contour_boxes(cv2, solid)}
    edges = cv2.dilate(cv2.Canny(cv2.cvtColor(page, cv2.COLOR_RGB2GRAY), 50, 120), np.ones((3, 3), np.uint8))
    outlined = {_trim(ink, box) for box in _contour_boxes(cv2, edges) if _fits(box, page, limits)}
    drawings = {box for box in outlined if _letters_share(cv2, ink, box) <= limits.letters_share}
    # Parts of a picture are no figures of their own; a frame around a picture and text does not hide the picture.
    dense = pictures | {box for box in drawings if float(crop(ink, box).mean()) > 0.5 * 255}
    kept: list[Box] = []
    for box in sorted(pictures | drawings, key=lambda b: (-b.area, b.top, b.left)):
        new = all(_shared(box, other) < 0.85 * (box.area if other in dense else other.area) for other in kept)
        if new and _fits(box, page, limits):
            kept.append(box)
    return kept[: limits.max_figures]


def crop(page: np.ndarray, box: Box) -> np.ndarray:
    """Return the pixels of a box, uint8 [h, w, 3] (a view)."""
    return page[box.top : box.bottom, box.left : box.right]


def top_part(width: int, height: int) -> Box:
    """Return the top of a page, as high as the page is wide: title and first picture are there."""
    return Box(0, 0, width, min(height, width))


def _ink(cv2: Any, page: np.ndarray) -> np.ndarray:
    """Return 255 where a pixel differs from the page's background, uint8 [H, W].

    The background is the most frequent colour where one covers a fifth of the page, else white.
    """
    sample = page[::4, ::4].reshape(-1, 3)
    coarse = (sample >> 4).astype(np.int32)
    codes = (coarse[:, 0] << 8) | (coarse[:, 1] << 4) | coarse[:, 2]
    counts = np.bincount(codes, minlength=4096)
    common = int(counts.argmax())
    background = np.full(3, 255)
    if counts[common] >= 0.2 * len(codes):
        background = np.median(sample[codes == common], axis=0).astype(int)
    lower, upper = (background - 15).clip(0, 255), (background + 15).clip(0, 255)
    near = cv2.inRange(page, tuple(lower.tolist()), tuple(upper.tolist()))
    return cv2.bitwise_not(near)


def _contour_boxes(cv2: Any, mask: np.ndarray) -> list[Box]:
    # All contours, not only the outermost: a frame around the page would hide everything in it.
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    return [Box(x, y, x + w, y + h) for x, y, w, h in map(cv2.boundingRect, contours)]


def _trim(ink: np.ndarray, box: Box) -> Box:
    """Shrink a box to the ink in it."""
    inside = crop(ink, box)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(rows) == 0:
        return box
    return Box(
        box.left + int(columns[0]), box.top + int(rows[0]), box.left + int(columns[-1]) + 1, box.top + int(rows[-1]) + 1
    )


def _fits(box: Box, page: np.ndarray, limits: FigureLimits) -> bool:
    width, height = box.right - box.left, box.bottom - box.top
    return (
        min(width, height) >= limits.min_side
        and box.area >= limits.min_area
        and max(width, height) <= limits.aspect * min(width, height)
        and box.area <= limits.page_share * page.shape[0] * page.shape[1]
    )


def _letters_share(cv2: Any, ink: np.ndarray, box: Box) -> float:
    """Return the share of a region's ink that lies in letter-sized connected pieces."""
    count, _, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(crop(ink, box)), connectivity=8)
    if count <= 1:
        return 0.0
    pieces = stats[1:]
    letters = (pieces[:, cv2.CC_STAT_HEIGHT] <= 40) & (pieces[:, cv2.CC_STAT_WIDTH] <= 60)
    return float(pieces[letters, cv2.CC_STAT_AREA].sum() / pieces[:, cv2.CC_STAT_AREA].sum())


def _shared(a: Box, b: Box) -> int:
    """Return the area of the intersection."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(width, 0) * max(height, 0)
