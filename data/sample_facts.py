"""Invented people and places for the M2KR half of the sample."""

from __future__ import annotations

import random

_FIRST = (
    "Alva Bero Cinta Davor Edda Florin Greta Hamo Ines Jorun Kaspar Lioba Marek Nuria Oswin Petra Quirin Rasa Silvan"
)
_LAST = "Brandvik Calloway Dessau Ekholm Farrant Grieve Halloran Ivanko Jarnvall Lindqvist Morrow Nasser Orsini Pell"
_TOWNS = "Port Ansel,Vellmar,Merrow,Hopfen,Loxley,Tolby,Gull Harbour,Fennick,Kirrin,Old Quarry"
_CAREERS = {
    "cellist": (
        "studied with the court orchestra and recorded the suites for solo cello in a salt mine",
        "founded a summer school for strings and gave the first performance of nine concertos",
        "toured with a piano trio until a hand injury, then taught chamber music",
    ),
    "long-distance runner": (
        "won the coastal marathon three times and held the national record over ten kilometres for six years",
        "came to athletics late, after years as a postman, and set a best time for the hour run",
        "trained on the dunes and finished fourth in the world championship in a snowstorm",
    ),
    "chemist": (
        "described the slow oxidation of copper roofs and led the laboratory of the mint",
        "found a way to make blue dye from lichen and held eleven patents",
        "measured lead in drinking water and persuaded the council to replace its pipes",
    ),
    "novelist": (
        "wrote a cycle of seven books about a ferryman's family, translated into thirty languages",
        "is known for short crime stories set in a boarding house",
        "published a single long novel, burned by its author and rewritten from memory",
    ),
    "politician": (
        "served as minister of harbours and signed the treaty on fishing rights",
        "was the first mayor elected by all residents and opened the tram line",
        "led the farmers' party in parliament and resigned over the price of milk",
    ),
    "film director": (
        "made silent comedies with amateurs and later the colour epic The Long Thaw",
        "shot documentaries about lighthouse keepers with a hand camera",
        "began as a sound engineer and won the Golden Reel for a film without dialogue",
    ),
    "goalkeeper": (
        "kept goal for the national side in forty-one matches and saved two penalties in a final",
        "played for one club for nineteen seasons and became its groundskeeper",
        "scored from a kick-out against the wind and was loved for wearing a knitted cap",
    ),
    "architect": (
        "built schools of brick and glass with roofs that collect rain",
        "restored the cathedral after the fire and designed its new choir stalls",
        "planned the garden suburb with curved streets and no fences",
    ),
}
_PLACES = {
    "lake": ("landscape", "a lake formed by a landslide, {n} metres deep, with cold springs and pike"),
    "pass": ("landscape", "a mountain pass at {n} metres, closed in winter, once used by salt traders"),
    "nature reserve": ("landscape", "a reserve of {n} hectares of bog and birch where cranes rest in autumn"),
    "village": ("landscape", "a village of {n} people known for carved doors and a plum market"),
    "island": ("landscape", "an island of {n} hectares with a seal colony and a ruined chapel"),
    "order of knights": ("emblem", "an order founded with {n} members to guard the river crossings"),
    "football club": ("emblem", "a club with {n} members that plays beside the canal and won the cup twice"),
    "town guild": ("emblem", "a guild of {n} dyers and weavers whose hall is now a museum"),
}
_NAMES = "Arnholt Belvane Corrin Dunmere Elswick Farrow Grantley Hollin Isket Jorvan Kelder Lunnet Marisk Norrel Ostby"
_NOTES = (
    "A stone bearing its name was found in a barn.",
    "Painters came here every summer before the railway was built.",
    "The feast day is kept with bonfires and rye bread.",
    "Its archive was saved from the flood by schoolchildren.",
    "A stamp with its picture was printed and then withdrawn.",
    "Two dialects meet here, and both are taught in school.",
)


def people(count: int) -> list[tuple[str, str]]:
    """Return `count` pairs of name and short biography, no name twice."""
    rng = random.Random("people")  # noqa: S311 - invented facts
    names = [f"{first} {last}" for first in _FIRST.split() for last in _LAST.split()]
    rng.shuffle(names)
    careers = [(job, deed) for job, deeds in _CAREERS.items() for deed in deeds]
    result: list[tuple[str, str]] = []
    for i, name in enumerate(names[:count]):
        job, deed = careers[i % len(careers)]
        born = rng.randrange(1861, 1985)
        town, other = rng.sample(_TOWNS.split(","), 2)
        life = f"{name.split()[0]} {deed}, and lived in {other}."
        result.append((name, f"{name} (born {born} in {town}) is remembered as a {job}. {life}"))
    return result


def places(count: int) -> list[tuple[str, str, str]]:
    """Return `count` triples of name, kind of picture and description, no name twice."""
    rng = random.Random("places")  # noqa: S311 - invented facts
    kinds = list(_PLACES.items())
    result: list[tuple[str, str, str]] = []
    for i in range(count):
        kind, (picture, sentence) = kinds[i % len(kinds)]
        base = _NAMES.split()[(i * 4 + i // 15) % 15]
        name = f"{base} {kind}" if picture == "emblem" else f"{kind.capitalize()} of {base}"
        text = f"The {name} is {sentence.format(n=rng.randrange(40, 2400))}. {rng.choice(_NOTES)}"
        result.append((name, picture, f"{text} First mentioned in {rng.randrange(1090, 1700)}."))
    return result
