"""Drawn pictures for the M2KR half: each subject has its own, made from a seed."""

from __future__ import annotations

import random

from PIL import Image, ImageDraw

from data.sample_drawing import BLACK, GREY, font, wrap

SIZE = (320, 240)
Colour = tuple[int, int, int]


def draw_picture(kind: str, seed: int) -> Image.Image:
    """Draw a picture, 320 x 240: `kind` is face, bird, bridge, flower, tower, train, landscape or emblem."""
    rng = random.Random(f"{kind}-{seed}")  # noqa: S311 - drawings
    image = Image.new("RGB", SIZE, _pale(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(14):  # a backdrop of its own, which also gives keypoints
        x, y, r = rng.randrange(320), rng.randrange(240), rng.randrange(12, 46)
        corners = [(x + rng.randint(-r, r), y + rng.randint(-r, r)) for _ in range(rng.randint(3, 5))]
        draw.polygon(corners, _pale(rng))
    _SUBJECTS[kind](draw, rng)
    return image


def _pale(rng: random.Random) -> Colour:
    return (rng.randrange(150, 250), rng.randrange(150, 250), rng.randrange(150, 250))


def _strong(rng: random.Random) -> Colour:
    return (rng.randrange(10, 220), rng.randrange(10, 200), rng.randrange(10, 220))


def _face(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    x, y, w, h = 160 + rng.randint(-30, 30), 120, rng.randint(48, 66), rng.randint(62, 84)
    skin, hair, coat = (
        rng.choice([(240, 205, 175), (205, 150, 110), (140, 95, 65), (95, 62, 44)]),
        _strong(rng),
        _strong(rng),
    )
    draw.polygon([(x - 100, 240), (x - 40, 185), (x + 40, 185), (x + 100, 240)], coat)
    for i in range(rng.randint(2, 5)):
        draw.line((x - 80 + 40 * i, 240, x - 70 + 35 * i, 196), _strong(rng), 5)
    draw.ellipse((x - w - 10, y - h - 14, x + w + 10, y + h - rng.randint(20, 90)), hair)
    draw.ellipse((x - w, y - h, x + w, y + h), skin)
    gap, up = rng.randint(18, 28), rng.randint(5, 24)
    for side in (-1, 1):
        cx = x + side * gap
        draw.ellipse((cx - 9, y - up - 7, cx + 9, y - up + 7), "white", BLACK)
        draw.ellipse((cx - 4, y - up - 4, cx + 4, y - up + 4), _strong(rng))
        draw.line((cx - 12, y - up - 16 - rng.randint(0, 6), cx + 12, y - up - 16 - rng.randint(0, 6)), hair, 4)
    draw.line((x, y - 4, x - rng.randint(-9, 9), y + 18, x + 4, y + 20), BLACK, 2)
    draw.arc((x - 24, y + 12, x + 24, y + 12 + rng.randint(20, 44)), 20, 160, (150, 40, 50), 4)
    extra = rng.randrange(4)
    if extra == 0:  # glasses
        for side in (-1, 1):
            draw.rectangle((x + side * gap - 16, y - up - 13, x + side * gap + 16, y - up + 13), None, BLACK, 3)
    elif extra == 1:  # hat
        draw.rectangle((x - w, y - h - 40, x + w, y - h + 14), _strong(rng))
        draw.rectangle((x - w - 26, y - h + 6, x + w + 26, y - h + 18), _strong(rng))
    elif extra == 2:  # beard
        draw.pieslice((x - w + 6, y, x + w - 6, y + h + 16), 10, 170, hair)


def _bird(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    body, wing, bill = _strong(rng), _strong(rng), _strong(rng)
    draw.line((0, 205, 320, 190 + rng.randint(-12, 20)), (90, 60, 30), 12)
    length = rng.randint(55, 85)
    draw.polygon([(150, 130), (150 - 110, 130 + rng.randint(10, 60)), (140, 165)], wing)
    draw.ellipse((165 - length, 90, 165 + length, 190), body, BLACK)
    draw.ellipse((200, 50, 270, 118), _strong(rng), BLACK)
    draw.polygon([(262, 76), (262 + rng.randint(18, 52), 88), (262, 98)], bill, BLACK)
    draw.ellipse((234, 70, 248, 84), "white", BLACK)
    draw.ellipse((239, 74, 245, 80), BLACK)
    for i in range(rng.randint(3, 7)):
        draw.arc((105 + 12 * i, 105, 160 + 12 * i, 172), 30, 190, wing, 4)
    for x in (155, 182):
        draw.line((x, 186, x + 4, 204), BLACK, 4)


def _bridge(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    stone, deck = _strong(rng), 120 + rng.randint(-16, 16)
    draw.rectangle((0, 190, 320, 240), (70, 120, rng.randrange(150, 230)))
    draw.rectangle((0, deck, 320, deck + 16), stone, BLACK)
    arches = rng.randint(2, 5)
    step = 320 // arches
    for i in range(arches + 1):
        draw.rectangle((i * step - 9, deck, i * step + 9, 214), stone, BLACK)
    for i in range(arches):
        draw.arc((i * step, deck + 10, (i + 1) * step, 260), 180, 360, BLACK, 4)
    for _ in range(rng.randint(1, 3)):
        x = rng.randrange(40, 280)
        draw.rectangle((x, deck - rng.randint(50, 100), x + 16, deck), _strong(rng), BLACK)
        draw.line((x + 8, deck - 48, x - 70, deck, x + 8, deck - 48, x + 86, deck), GREY, 3)


def _flower(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    for _ in range(rng.randint(2, 4)):
        x, y, r = rng.randrange(50, 270), rng.randrange(50, 120), rng.randint(20, 34)
        petal, heart = _strong(rng), _strong(rng)
        draw.line((x, y, x + rng.randint(-30, 30), 240), (40, 110, 50), 6)
        for dx, dy in rng.choice(
            [((1, 0), (-1, 0), (0, 1), (0, -1)), ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))]
        ):
            cx, cy = x + dx * r, y + dy * r
            draw.ellipse((cx - r + 4, cy - r + 4, cx + r - 4, cy + r - 4), petal, BLACK)
        draw.ellipse((x - 15, y - 15, x + 15, y + 15), heart, BLACK)
        draw.ellipse((x - 6, y - 6, x + 4, y + 4), _pale(rng))


def _tower(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    x, top, w = rng.randrange(90, 230), rng.randint(30, 64), rng.randint(22, 36)
    draw.polygon([(0, 240), (0, 205), (120, 190 + rng.randint(-9, 9)), (320, 214), (320, 240)], (90, 110, 70))
    draw.polygon([(x - w, 206), (x - w // 2, top), (x + w // 2, top), (x + w, 206)], _strong(rng), BLACK)
    for i in range(rng.randint(2, 5)):
        y = top + 22 + 36 * i
        draw.rectangle((x - w // 2 - 3 * i, y, x + w // 2 + 3 * i, y + rng.randint(8, 18)), _strong(rng))
        draw.rectangle((x - 5, y - 12, x + 5, y - 2), _pale(rng), BLACK)
    draw.rectangle((x - w // 2 - 6, top - 22, x + w // 2 + 6, top), (250, 230, 120), BLACK)
    draw.polygon([(x - w // 2 - 10, top - 22), (x, top - 46), (x + w // 2 + 10, top - 22)], _strong(rng), BLACK)
    draw.rectangle((rng.randrange(10, 60), 170, rng.randrange(64, 90), 206), _strong(rng), BLACK)


def _train(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    draw.line((0, 202, 320, 202), GREY, 5)
    x = rng.randint(-20, 20)
    for car in range(3):
        left = x + car * 104
        draw.rectangle((left, 120 - rng.randint(0, 22), left + 96, 186), _strong(rng), BLACK)
        for i in range(rng.randint(2, 4)):
            draw.rectangle((left + 10 + 22 * i, 128, left + 24 + 22 * i, 146 + rng.randint(0, 10)), _pale(rng), BLACK)
        draw.rectangle((left, 158, left + 96, 166), _strong(rng))
        for wheel in (18, 76):
            draw.ellipse((left + wheel - 13, 176, left + wheel + 13, 202), (50, 50, 50), BLACK)
    draw.polygon([(x + 304, 186), (x + 304, 130), (x + 330, 186)], _strong(rng), BLACK)


def _landscape(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    x, r = rng.randrange(40, 280), rng.randint(14, 30)
    draw.ellipse((x - r, 46 - r, x + r, 46 + r), (250, 210, 90))
    for layer in range(3):
        y = 110 + 38 * layer
        ridge = [(step * 40, y + rng.randint(-40, 24)) for step in range(9)]
        draw.polygon([(0, 240), *ridge, (320, 240)], _strong(rng), BLACK)
    for _ in range(rng.randint(3, 8)):
        x, y, h = rng.randrange(320), rng.randrange(170, 225), rng.randint(18, 40)
        draw.polygon([(x - h // 3, y), (x, y - h), (x + h // 3, y)], (20, rng.randrange(70, 140), 50), BLACK)
    for _ in range(rng.randint(0, 3)):
        x, y = rng.randrange(30, 270), rng.randrange(175, 212)
        draw.rectangle((x, y, x + 26, y + 20), _pale(rng), BLACK)
        draw.polygon([(x - 4, y), (x + 13, y - 16), (x + 30, y)], _strong(rng), BLACK)


def _emblem(draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
    a, b, c = _strong(rng), _pale(rng), _strong(rng)
    draw.polygon([(90, 20), (230, 20), (230, 150), (160, 225), (90, 150)], a, BLACK)
    stripes = rng.randint(2, 4)
    for i in range(stripes):
        if rng.random() < 0.5:
            draw.rectangle((92, 30 + 28 * i, 228, 40 + 28 * i + rng.randint(0, 6)), b)
        else:
            draw.rectangle((100 + 30 * i, 22, 112 + 30 * i, 150), c)
    for _ in range(rng.randint(2, 4)):
        x, y, r = rng.randrange(115, 205), rng.randrange(50, 150), rng.randint(10, 20)
        shape = rng.randrange(3)
        if shape == 0:
            draw.ellipse((x - r, y - r, x + r, y + r), _strong(rng), BLACK)
        elif shape == 1:
            draw.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], _pale(rng), BLACK)
        else:
            draw.regular_polygon((x, y, r), rng.randint(3, 6), rng.randrange(90), _strong(rng), BLACK)


_SUBJECTS = {
    "face": _face,
    "bird": _bird,
    "bridge": _bridge,
    "flower": _flower,
    "tower": _tower,
    "train": _train,
    "landscape": _landscape,
    "emblem": _emblem,
}


def draw_screenshot(title: str, text: str, picture: Image.Image, seed: int) -> Image.Image:
    """Draw a web page, 480 x 400: title, the start of the text, and the picture, left or right of the text."""
    page = Image.new("RGB", (480, 400), "white")
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 480, 22), (235, 236, 240))
    draw.text((20, 34), title, BLACK, font(20, bold=True))
    draw.line((20, 64, 460, 64), GREY, 1)
    left, width = ((20, 150), (190, 270))[seed % 2]
    smaller = picture.resize((256, 192), Image.Resampling.LANCZOS)
    if seed % 2:  # picture above, text below
        page.paste(smaller, (112, 76))
        _lines(draw, text, 20, 284, 440, 6)
    else:
        page.paste(smaller, (204, 80))
        _lines(draw, text, left, 82, width + 24, 18)
    return page


def _lines(draw: ImageDraw.ImageDraw, text: str, left: int, y: int, width: int, limit: int) -> None:
    for line in wrap(text, 12, width)[:limit]:
        draw.text((left, y), line, BLACK, font(12))
        y += 17


def vary(picture: Image.Image, seed: int) -> Image.Image:
    """Return the picture as another site would show it: cut, resized, lighter or darker."""
    rng = random.Random(f"vary-{seed}")  # noqa: S311 - drawings
    left, top = rng.randrange(0, 40), rng.randrange(0, 30)
    cut = picture.crop((left, top, 320 - rng.randrange(0, 30), 240 - rng.randrange(0, 24)))
    scale = rng.choice([60, 75, 90])
    resized = cut.resize((cut.width * scale // 100, cut.height * scale // 100), Image.Resampling.BICUBIC)
    percent = rng.choice([88, 100, 110])
    return resized.point([min(255, value * percent // 100) for value in range(256)] * 3)
