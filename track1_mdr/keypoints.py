"""Two pictures compared by their keypoints, and by small thumbnails that choose which to compare.

SIFT keypoints, Lowe's ratio test (Lowe 2004, IJCV 60) and a RANSAC homography (Fischler and Bolles 1981).
All functions are pure and deterministic: RANSAC is seeded before every call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

LONG_SIDE = 320
"""Pixels of a picture's long side when it is described: web pages show pictures at about this size."""
RATIO = 0.8
MAX_DISTANCE = 300.0
"""SIFT descriptors have a length near 512; a pair farther apart than this is no match."""
RANSAC_PIXELS = 4.0
WINDOWS = ((1.0, 0.5, 0.5), (0.8, 0.5, 0.5), (0.8, 0.0, 0.0), (0.8, 0.0, 1.0), (0.8, 1.0, 0.0), (0.8, 1.0, 1.0))
"""The views of a figure: share of its sides, and place from the top and the left (0 to 1). The first is all of it.

Without the windows, a query that shows 70 to 90 % of a figure's sides is nearest to it in 83 of 100 cases
among 1,663 posters; with them in 98.
"""
THUMBNAIL = 8
HISTOGRAM = 4
VECTOR = THUMBNAIL**2 + HISTOGRAM**3


@dataclass(frozen=True, eq=False)
class Keypoints:
    """Keypoints of one picture: `points` float32 [N, 2] (x, y), `descriptors` uint8 [N, 128]."""

    points: np.ndarray
    descriptors: np.ndarray

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class Verified:
    """A geometrically confirmed pair: distinct inlier points, and their share of the tentative matches."""

    inliers: int
    ratio: float

    @property
    def score(self) -> float:
        """In (0, 1), growing with both: the ratio, discounted while the inliers are few."""
        return self.ratio * (1 - float(np.exp(-self.inliers / 40)))


def shrink(image: np.ndarray, long_side: int = LONG_SIDE) -> np.ndarray:
    """Return the picture with a long side of at most `long_side` pixels, uint8 [h, w, 3]."""
    import cv2

    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def detect(image: np.ndarray, features: int) -> Keypoints:
    """Return the strongest SIFT keypoints of an RGB picture, at most `features`."""
    import cv2

    # a third of the usual contrast: drawings and skies have few points; `features` keeps the strongest anyway
    sift = cv2.SIFT.create(nfeatures=features, contrastThreshold=0.013)
    found, descriptors = sift.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), None)
    if descriptors is None or len(found) == 0:
        return Keypoints(np.empty((0, 2), np.float32), np.empty((0, 128), np.uint8))
    points = np.asarray([point.pt for point in found], dtype=np.float32)
    # nfeatures keeps ties of the weakest one, so that a few more may come back
    return Keypoints(points[:features], descriptors[:features].astype(np.uint8))


def thumbnail_vectors(image: np.ndarray, views: int) -> np.ndarray:
    """Return one vector for each of the first `views` of `WINDOWS`, float16 [views, VECTOR].

    A vector is an 8 x 8 grey thumbnail, centred, and a 4 x 4 x 4 colour histogram (square roots), each of
    length sqrt(1/2): the dot product of two vectors is at most 1.
    """
    height, width = image.shape[:2]
    vectors: list[np.ndarray] = []
    for share, down, across in WINDOWS[:views]:
        h, w = max(round(height * share), 1), max(round(width * share), 1)
        top, left = round((height - h) * down), round((width - w) * across)
        vectors.append(_vector(image[top : top + h, left : left + w]))
    return np.stack(vectors).astype(np.float16)


def _vector(image: np.ndarray) -> np.ndarray:
    import cv2

    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float64).ravel()
    grey -= grey.mean()
    bins = (image >> 6).reshape(-1, 3).astype(np.int64)
    histogram = np.bincount(bins[:, 0] * 16 + bins[:, 1] * 4 + bins[:, 2], minlength=HISTOGRAM**3).astype(np.float64)
    colour = np.sqrt(histogram / histogram.sum())
    return np.concatenate([grey / max(float(np.linalg.norm(grey)), 1e-6), colour]) * np.sqrt(0.5)


def tentative_matches(query: Keypoints, others: list[Keypoints], at_least: int) -> list[np.ndarray]:
    """Return for each of `others` the pairs (query point, its point) that pass the ratio test, int64 [M, 2].

    A point of the other picture is used once, by its nearest query point. Pictures that cannot reach
    `at_least` pairs get an empty array. All distances come from one matrix product; they are sums of
    integers below 2**24, so that float32 is exact.
    """
    empty = np.empty((0, 2), np.int64)
    pairs = [empty] * len(others)
    usable = [i for i, other in enumerate(others) if len(other) >= max(at_least, 2)]
    if len(query) < at_least or not usable:
        return pairs
    left = query.descriptors.astype(np.float32)
    right = np.concatenate([others[i].descriptors for i in usable]).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum([len(others[i]) for i in usable])]).astype(np.int64)
    distances = left @ right.T  # up to 150 MB: the rest is done in place
    distances *= -2
    distances += (left**2).sum(1)[:, None]
    distances += (right**2).sum(1)[None, :]
    near = (np.minimum.reduceat(distances, starts[:-1], axis=1) <= MAX_DISTANCE**2).sum(axis=0)
    for place, i in enumerate(usable):
        if near[place] >= at_least:
            found = _ratio_test(distances[:, starts[place] : starts[place + 1]])
            pairs[i] = found if len(found) >= at_least else empty
    return pairs


def _ratio_test(distances: np.ndarray) -> np.ndarray:
    """Return the passing pairs of one picture; `distances` is squared, [query points, its points]."""
    two = np.partition(distances, 1, axis=1)[:, :2]
    best = distances.argmin(axis=1)
    passed = np.flatnonzero((two[:, 0] < RATIO**2 * two[:, 1]) & (two[:, 0] <= MAX_DISTANCE**2))
    order = passed[np.lexsort((passed, two[passed, 0]))]
    _, first = np.unique(best[order], return_index=True)
    chosen = np.sort(order[first])
    return np.stack([chosen, best[chosen]], axis=1).astype(np.int64)


def verify(
    query: Keypoints, other: Keypoints, pairs: np.ndarray, query_size: tuple[int, int], *, seed: int
) -> Verified | None:
    """Return the RANSAC verdict on tentative matches, or None where no plausible homography fits them.

    Parameters
    ----------
    query, other
        Keypoints of the two pictures.
    pairs
        int64 [M, 2] from `tentative_matches`, M >= 4.
    query_size
        Width and height of the query picture as described.
    seed
        Of RANSAC's random generator.
    """
    import cv2

    if len(pairs) < 4:
        return None
    source, target = query.points[pairs[:, 0]], other.points[pairs[:, 1]]
    cv2.setRNGSeed(seed)
    matrix, mask = cv2.findHomography(source, target, cv2.RANSAC, RANSAC_PIXELS, maxIters=1000, confidence=0.995)
    if matrix is None or mask is None or not plausible(matrix, query_size):
        return None
    inside = mask.ravel().astype(bool)
    # SIFT puts several orientations on one point: count places, in both pictures
    inliers = min(_places(source[inside]), _places(target[inside]))
    if inliers < 4 or not (_spread(source[inside]) and _spread(target[inside])):
        return None
    return Verified(inliers, inliers / max(min(_places(source), _places(target)), inliers))


def plausible(matrix: Any, size: tuple[int, int]) -> bool:
    """Tell whether a homography shows a picture of `size` (width, height) as a scaled, perhaps tilted one.

    Refused: mirrored, folded (a corner behind the camera), more than tenfold scaled, squeezed to a line.
    """
    if matrix is None or not np.isfinite(matrix).all():
        return False
    width, height = size
    corners = np.asarray([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], dtype=np.float64)
    mapped = corners @ np.asarray(matrix, dtype=np.float64).T
    if (mapped[:, 2] <= 1e-6).any():
        return False
    shape = mapped[:, :2] / mapped[:, 2:]
    sides = np.roll(shape, -1, axis=0) - shape
    following = np.roll(sides, -1, axis=0)
    turns = sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0]
    if (turns <= 0).any():  # a convex shape with the query's orientation turns the same way at each corner
        return False
    across, down = shape[:, 0], shape[:, 1]
    area = 0.5 * abs(float(across @ np.roll(down, -1) - down @ np.roll(across, -1)))
    lengths = np.linalg.norm(sides, axis=1) / np.asarray([width, height, width, height])
    return 0.01 <= area / (width * height) <= 100 and float(lengths.max() / lengths.min()) <= 4


def _places(points: np.ndarray) -> int:
    """Return the number of distinct points, to the nearest pixel."""
    return len(np.unique(np.round(points).astype(np.int64), axis=0))


def _spread(points: np.ndarray, least: float = 4.0) -> bool:
    """Tell whether points cover a surface: a deviation of `least` pixels even in their narrowest direction."""
    deviations = np.linalg.eigvalsh(np.cov(points.T.astype(np.float64)))
    return bool(deviations[0] >= least**2)
