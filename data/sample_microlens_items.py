"""The Track 2 sample's items: invented titles that tell the topic, drawn covers that tell the style, and a descriptor.

The topic is in the words only, the style in the pixels only; a tag tells neither. A user likes pairs of both.
"""

from __future__ import annotations

import colorsys
import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
EMBEDDING = 128
TAGS, TAG_IDS = 5, 12
PER_CELL = 22
"""Items of each pair of topic and style."""

TOPICS: dict[str, tuple[str, ...]] = {
    "baking": ("sourdough", "oven", "crust", "rye", "yeast", "pastry", "glaze", "dough"),
    "sailing": ("harbour", "keel", "tide", "jib", "mooring", "regatta", "rudder", "gale"),
    "astronomy": ("comet", "telescope", "nebula", "eclipse", "orbit", "meteor", "lunar", "crater"),
    "gardening": ("compost", "seedling", "pruning", "tulip", "trellis", "mulch", "hedge", "greenhouse"),
}
FORMS = (
    "{a} and {b}: {c} explained",
    "why {a} needs {b} and {c}",
    "my first {a}, {b} and {c}",
    "{a}, {b}, {c} in one minute",
    "how to fix {a} with {b} or {c}",
    "{a} before {b}? the {c} story",
    "three {a} tricks for {b} and {c}",
    "the truth about {a}, {b} and {c}",
)
STYLES = ("stripes", "dots", "rings", "checks")
HUES = (0.02, 0.15, 0.36, 0.60)
"""Where each style's background lies on the colour circle, give or take `HUE_SPREAD`."""
HUE_SPREAD = 0.045


@dataclass(frozen=True)
class Item:
    """One item; `topic` and `style` are places in TOPICS and STYLES and stand in no file."""

    topic: int
    style: int
    title: str
    tags: tuple[int, ...]
    cover: Image.Image
    embedding: np.ndarray

    @property
    def cell(self) -> int:
        """The pair of topic and style as one number."""
        return self.topic * len(STYLES) + self.style


def make_items(rng: np.random.Generator) -> list[Item]:
    """Return the items in order of their ids, from 1; the order tells nothing of topic or style."""
    cells = np.repeat(np.arange(len(TOPICS) * len(STYLES)), PER_CELL)
    projection = _projection()
    items, titles = [], set()
    for cell in rng.permutation(cells):
        topic, style = divmod(int(cell), len(STYLES))
        title = _title(rng, topic)
        while title in titles:
            title = _title(rng, topic)
        titles.add(title)
        tags = tuple(int(tag) for tag in rng.permutation(TAG_IDS)[: rng.integers(0, 4)] + 1)
        cover = draw_cover(style, rng)
        vector = np.concatenate([word_features(title), cover_features(cover)]) @ projection
        items.append(Item(topic, style, title, tags, cover, np.round(vector, 4) + 0.0))
    return items


def _title(rng: np.random.Generator, topic: int) -> str:
    words = list(TOPICS.values())[topic]
    a, b, c = (words[place] for place in rng.permutation(len(words))[:3])
    title = FORMS[rng.integers(len(FORMS))].format(a=a, b=b, c=c)
    return title[0].upper() + title[1:]


def draw_cover(style: int, rng: np.random.Generator) -> Image.Image:
    """Draw a cover of 64 x 64: the style is its hue and its pattern; everything else varies."""
    hue = HUES[style] + HUE_SPREAD * rng.uniform(-1, 1)
    back = _rgb(hue, rng.uniform(0.45, 0.95), rng.uniform(0.55, 0.95))
    front = _rgb(rng.random(), rng.uniform(0.0, 0.5), rng.choice([0.15, 0.97]))
    image = Image.new("RGB", (2 * SIZE, 2 * SIZE), back)
    draw = ImageDraw.Draw(image)
    step, shift = int(rng.integers(18, 34)), int(rng.integers(0, 18))
    centre = (int(rng.integers(40, 88)), int(rng.integers(40, 88)))
    PATTERNS[STYLES[style]](draw, front, step, shift, centre)
    return image.resize((SIZE, SIZE), Image.Resampling.BOX)


def _rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, float(value))
    return int(255 * red), int(255 * green), int(255 * blue)


Colour = tuple[int, int, int]
Point = tuple[int, int]


def _stripes(draw: ImageDraw.ImageDraw, colour: Colour, step: int, shift: int, centre: Point) -> None:
    for x in range(shift - step, 2 * SIZE, step):
        draw.rectangle((x, 0, x + step // 3, 2 * SIZE), colour)


def _dots(draw: ImageDraw.ImageDraw, colour: Colour, step: int, shift: int, centre: Point) -> None:
    radius = step // 4
    for row, y in enumerate(range(shift, 2 * SIZE + radius, step)):
        for x in range(shift + (row % 2) * step // 2 - step, 2 * SIZE + radius, step):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour)


def _rings(draw: ImageDraw.ImageDraw, colour: Colour, step: int, shift: int, centre: Point) -> None:
    x, y = centre
    for radius in range(6 + shift // 2, 3 * SIZE, step):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=step // 4)


def _checks(draw: ImageDraw.ImageDraw, colour: Colour, step: int, shift: int, centre: Point) -> None:
    for row, y in enumerate(range(shift - 2 * step, 2 * SIZE, step)):
        for x in range(shift - 2 * step + (row % 2) * step, 2 * SIZE, 2 * step):
            draw.rectangle((x, y, x + step - 1, y + step - 1), colour)


PATTERNS = {"stripes": _stripes, "dots": _dots, "rings": _rings, "checks": _checks}


def word_features(title: str, width: int = 64) -> np.ndarray:
    """Return hashed counts of a title's words with signs, of length 1: [width]."""
    features = np.zeros(width)
    for word in "".join(letter if letter.isalpha() else " " for letter in title.lower()).split():
        number = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
        features[number % width] += 1 if number >> 63 else -1
    return features / np.linalg.norm(features)


def cover_features(image: Image.Image, hues: int = 12, directions: int = 8) -> np.ndarray:
    """Return histograms of hue (weighted by saturation) and of edge direction (by strength), of length 1: [20]."""
    hsv = np.asarray(image.convert("HSV"), dtype=np.float64) / 256
    colours = np.bincount((hsv[..., 0] * hues).astype(int).ravel(), hsv[..., 1].ravel(), minlength=hues)
    grey = np.asarray(image.convert("L"), dtype=np.float64)
    down, across = np.gradient(grey)
    turn = np.mod(np.arctan2(down, across) / np.pi, 1.0)
    # Half a step on, so that the usual directions (0, 45, 90 degrees) lie inside a bin, whatever the last bit is.
    sector = (turn * directions + 0.5).astype(int) % directions
    edges = np.bincount(sector.ravel(), np.hypot(down, across).ravel(), minlength=directions)
    parts = [colours / np.linalg.norm(colours), edges / max(float(np.linalg.norm(edges)), 1e-9)]
    return np.concatenate(parts) / np.sqrt(2)


def _projection() -> np.ndarray:
    """Return the fixed random map from both features to the 128 of `item_emb_d128`."""
    return np.random.default_rng(20250416).normal(size=(84, EMBEDDING)) / np.sqrt(EMBEDDING)
