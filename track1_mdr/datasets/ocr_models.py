"""Text detector and recogniser: the PP-OCRv6 models of rapidocr's wheel on OpenVINO, one thread.

The steps are those of PP-OCR (Du et al. 2020): a network marks the pixels of text lines (differentiable
binarisation, Liao et al. 2020), each marked region becomes a rectangle and is cut out, and a second network
reads it (CTC). Three things make them cheap here, none of which costs words on pages whose text is known:
bfloat16 where the processor has it; each line padded to the next of a few widths instead of to 320 at least;
and lines of one width read together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import ConfigError

MODELS = {"detector": "PP-OCRv6_det_small.onnx", "recogniser": "PP-OCRv6_rec_small.onnx"}
PIXEL_THRESHOLD = 0.3
"""Probability above which a pixel belongs to a line."""
BOX_THRESHOLD = 0.5
"""Mean probability inside a line's rectangle below which it is none."""
UNCLIP = 1.6
"""The detector marks the core of a line; its rectangle grows by this times area over perimeter on each side."""
MAX_LINES = 1000
STRIDE = 32
"""Sides of the detector's input are multiples of this."""
SHORT_SIDE = 736
"""Smaller images are enlarged for the detector until their short side has this many pixels..."""
LONG_SIDE = 1040
"""...but not until the long side has more than this. A4 at 1000 pixels needs it: dense lines run together below."""
MAX_SIDE = 2000
"""Larger images are reduced for the detector: its memory grows with the pixels."""
LINE_HEIGHT = 48
SQUEEZE = 0.85
"""Width of a line for the recogniser over its true width: at 0.85 no word less is right, at 0.75 0.6 % are."""
MAX_BATCH = 4
BATCH_PIXELS = 1024
"""Largest width of all lines of a batch together: wide lines fill the processor alone."""
_BLANK = 128  # grey, the middle of the recogniser's scale: what it was trained to see behind a line


@dataclass(frozen=True)
class Found:
    """A line of text: its characters, the mean probability of them, and its corners in pixels, float32 [4, 2]."""

    text: str
    score: float
    corners: np.ndarray


class TextReader:
    """Finds and reads the lines of an image; a line's text depends on its own pixels alone (0.5 s to make)."""

    def __init__(self) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._detect, _ = _compile("detector")
        self._read, self._characters = _compile("recogniser")

    def __call__(self, image: np.ndarray, long_side: int = LONG_SIDE) -> list[Found]:
        """Return the lines of an image (uint8 BGR [H, W, 3]), in no order.

        `long_side` bounds the enlargement of small images, in pixels.
        """
        corners = self.find(image, long_side)
        lines = [cut(image, quad) for quad in corners]
        upright = [place for place, quad in enumerate(corners) if is_upright(quad)]
        texts = self.read([*lines, *(np.ascontiguousarray(np.rot90(lines[place], 2)) for place in upright)])
        for place, other in zip(upright, texts[len(lines) :], strict=True):
            if other[1] > texts[place][1]:  # it ran upwards, as beside most axes
                texts[place] = other
        return [Found(text, score, quad) for (text, score), quad in zip(texts, corners, strict=False)]

    def find(self, image: np.ndarray, long_side: int = LONG_SIDE) -> list[np.ndarray]:
        """Return the corners of each line: float32 [4, 2], clockwise from the top left."""
        import cv2

        height, width = image.shape[:2]
        rows, columns = detector_size(height, width, long_side)
        resized = image if (rows, columns) == (height, width) else cv2.resize(image, (columns, rows))
        self._detect.infer([np.ascontiguousarray(resized[None])], share_inputs=True)
        marked = self._detect.get_output_tensor().data[0, 0]
        return list(line_boxes(marked, height, width))

    def read(self, lines: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Return text and score of each cut-out line (uint8 BGR [H, W, 3])."""
        import cv2

        sizes = [max(1, math.ceil(LINE_HEIGHT * SQUEEZE * line.shape[1] / line.shape[0])) for line in lines]
        results: list[tuple[str, float]] = [("", 0.0)] * len(lines)
        for wide, members in batches(sizes):
            pixels = np.full((len(members), LINE_HEIGHT, wide, 3), _BLANK, np.uint8)
            for place, member in enumerate(members):
                pixels[place, :, : sizes[member]] = cv2.resize(lines[member], (sizes[member], LINE_HEIGHT))
            self._read.infer([pixels], share_inputs=True)
            probabilities = self._read.get_output_tensor().data
            for place, member in enumerate(members):
                results[member] = self._decode(probabilities[place])
        return results

    def _decode(self, probabilities: np.ndarray) -> tuple[str, float]:
        """Turn float32 [steps, characters] into text: repeats are one character, and 0 is none."""
        best = probabilities.argmax(-1)
        kept = np.flatnonzero((best != 0) & (np.diff(best, prepend=0) != 0))
        if not len(kept):
            return "", 0.0
        score = float(probabilities[kept, best[kept]].mean(dtype=np.float64))
        return "".join(self._characters[code] for code in best[kept]), round(score, 5)


def model_path(name: str) -> Path:
    """Return the file of a model in rapidocr's wheel, without importing the package.

    Raises
    ------
    ConfigError
        rapidocr is not installed, or its wheel no longer brings the model.
    """
    spec = find_spec("rapidocr")
    path = Path(spec.origin or "").parent / "models" / MODELS[name] if spec else None
    if path is None or not path.is_file():
        raise ConfigError(
            f"the OCR {name} is absent",
            where=str(path or "rapidocr"),
            todo="pip install -r requirements.txt, or switch OCR off with --set data.ocr.enabled=false",
        )
    return path


@cache
def _core() -> Any:
    """Return the process's only OpenVINO core, which is never let go.

    Its CPU plugin gives the thread a signal stack and, when it goes, puts back the stack that it had found. Of two
    plugins the second then puts back the first one's, which is no longer there: the next Ctrl-C ends the process by a
    segmentation fault.
    """
    from openvino import Core

    return Core()


@cache
def precision() -> str:
    """Return the number type of the networks: bfloat16 where the processor has it. What is read depends on it."""
    return "bf16" if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def _compile(name: str) -> tuple[Any, list[str]]:
    """Return an inference request for uint8 BGR [N, H, W, 3], and the characters of the recogniser's outputs."""
    from openvino import Layout, Type
    from openvino.preprocess import PrePostProcessor

    core = _core()
    model = core.read_model(model_path(name))
    characters: list[str] = []
    if name == "recogniser":
        facts: dict[str, str] = model.get_rt_info("framework")
        characters = ["", *facts["character"].splitlines(), " "]
    steps = PrePostProcessor(model)
    steps.input().tensor().set_element_type(Type.u8).set_layout(Layout("NHWC"))
    steps.input().model().set_layout(Layout("NCHW"))
    steps.input().preprocess().convert_element_type(Type.f32).mean(127.5).scale(127.5)
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": "NO",  # or the processes of a pool all work on the first core
        "INFERENCE_PRECISION_HINT": precision(),
        "CPU_RUNTIME_CACHE_CAPACITY": "500",  # kernels kept for shapes met before; 5000, the default, is 170 MB more
    }
    return core.compile_model(steps.build(), "CPU", settings).create_infer_request(), characters


def detector_size(height: int, width: int, long_side: int = LONG_SIDE) -> tuple[int, int]:
    """Return rows and columns of the detector's input for an image.

    >>> detector_size(1000, 708), detector_size(563, 1000), detector_size(4000, 3000)
    ((1024, 736), (576, 1024), (1984, 1504))
    """
    longest = max(height, width)
    scale = max(1.0, min(SHORT_SIDE / min(height, width), long_side / longest))
    scale = min(scale, MAX_SIDE / longest)
    return tuple(max(STRIDE, round(side * scale / STRIDE) * STRIDE) for side in (height, width))  # pyright: ignore[reportReturnType]


def line_width(width: int) -> int:
    """Return the width to which a line is padded: it depends on the line alone.

    >>> [line_width(width) for width in (3, 65, 320, 321, 641, 1281)]
    [64, 96, 320, 384, 768, 1536]
    """
    step = 32 if width <= 320 else 64 if width <= 640 else 128 if width <= 1280 else 256
    return max(64, -(-width // step) * step)


def batches(widths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
    """Yield (padded width, places of its lines): lines of one width, in batches of 4, 2 and 1.

    Few different shapes: the networks prepare themselves for each when they first meet it.
    """
    groups: dict[int, list[int]] = {}
    for place, width in enumerate(widths):
        groups.setdefault(line_width(width), []).append(place)
    for wide in sorted(groups):
        left = groups[wide]
        while left:
            count = min(MAX_BATCH, len(left), max(1, BATCH_PIXELS // wide))
            count = 1 << count.bit_length() - 1
            yield wide, left[:count]
            left = left[count:]


def line_boxes(marked: np.ndarray, height: int, width: int) -> Iterator[np.ndarray]:
    """Yield the corners of each line, in pixels of an image of `height` and `width`.

    Parameters
    ----------
    marked
        Probability that a pixel belongs to a line, float32 [rows, columns].
    """
    import cv2

    rows, columns = marked.shape
    # A line's parts one pixel apart are one line.
    mask = cv2.dilate((marked > PIXEL_THRESHOLD).astype(np.uint8), np.ones((2, 2), np.uint8))
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours[:MAX_LINES]:
        centre, (wide, high), angle = cv2.minAreaRect(contour)
        if min(wide, high) < 3 or _mean_inside(marked, cv2.boxPoints((centre, (wide, high), angle))) < BOX_THRESHOLD:
            continue
        more = 2 * UNCLIP * wide * high / (2 * (wide + high))
        corners = cv2.boxPoints((centre, (wide + more, high + more), angle)) * (width / columns, height / rows)
        corners = _clockwise(np.round(corners)).clip(0, (width - 1, height - 1)).astype(np.float32)
        if min(_length(corners[0], corners[1]), _length(corners[0], corners[3])) > 3:
            yield corners


def _mean_inside(values: np.ndarray, corners: np.ndarray) -> float:
    import cv2

    edge = (values.shape[1] - 1, values.shape[0] - 1)
    low = np.floor(corners.min(0)).astype(np.int64).clip(0, edge)
    high = np.ceil(corners.max(0)).astype(np.int64).clip(0, edge)
    inside = np.zeros((high[1] - low[1] + 1, high[0] - low[0] + 1), np.uint8)
    cv2.fillPoly(inside, [(corners - low).astype(np.int32)], (1,))
    return cv2.mean(values[low[1] : high[1] + 1, low[0] : high[0] + 1], inside)[0]


def _clockwise(corners: np.ndarray) -> np.ndarray:
    """Sort corners: top left, top right, bottom right, bottom left."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = (side[np.argsort(side[:, 1], kind="stable")] for side in (by_x[:2], by_x[2:]))
    return np.stack([left[0], right[0], right[1], left[1]])


def _length(start: np.ndarray, end: np.ndarray) -> int:
    return int(math.hypot(*(end - start)))


def _size(corners: np.ndarray) -> tuple[int, int]:
    top_left, top_right, bottom_right, bottom_left = corners
    width = max(_length(top_left, top_right), _length(bottom_right, bottom_left))
    return width, max(_length(top_left, bottom_left), _length(top_right, bottom_right))


def is_upright(corners: np.ndarray) -> bool:
    """Return whether a line is much higher than wide: it runs down or up the page."""
    width, height = _size(corners)
    return height >= 1.5 * width


def cut(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Return the level pixels of a line; an upright one is turned to the left, as if it ran down the page."""
    import cv2

    top_left, top_right, bottom_right, bottom_left = corners
    width, height = _size(corners)
    if (top_left[1], top_left[0]) == (top_right[1], bottom_left[0]) and np.array_equal(
        bottom_right, (top_right[0], bottom_left[1])
    ):
        x, y = int(top_left[0]), int(top_left[1])  # most lines are level: no pixel needs computing
        line = image[y : y + height, x : x + width]
    else:
        frame = np.asarray([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        line = cv2.warpPerspective(
            image,
            cv2.getPerspectiveTransform(corners, frame),
            (width, height),
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return np.ascontiguousarray(np.rot90(line)) if height >= 1.5 * width else line
