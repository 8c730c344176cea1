"""Invented things for the M2KR half of the sample: two passages about each, and questions on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """A thing with two passages (0 = its history, 1 = how it looks or works) and the questions asked about it."""

    name: str
    kind: str
    texts: tuple[str, str]
    questions: tuple[tuple[str, tuple[int, ...]], ...] = ()


SUBJECTS = (
    Subject(
        "Saltmarsh wheatling",
        "bird",
        (
            "First described in 1788 from a skin sold at a market, it was hunted for hats until a law of 1911.",
            "It eats the seeds of glasswort and small snails, nests in a mud bank, and lays five spotted eggs.",
        ),
        (("What does this animal feed on?", (1,)),),
    ),
    Subject(
        "Copper-throated lorrin",
        "bird",
        (
            "A ship's doctor brought the first pair to Europe; the species now breeds in four zoos.",
            "Males dance on a cleared patch of soil. The call is like a squeaking gate and carries for a kilometre.",
        ),
        (("How does its voice sound?", (1,)),),
    ),
    Subject(
        "Grey mast-swift",
        "bird",
        (
            "Sailors took it for the soul of a drowned mate, and a chapel in Merrow keeps a carved one.",
            "It sleeps on the wing and lands only to breed, on cliffs and cranes. It weighs as much as a letter.",
        ),
    ),
    Subject(
        "Hooded marsh tern",
        "bird",
        (
            "Egg collectors brought it close to extinction; a warden has guarded the last colony since 1926.",
            "It dives for sticklebacks from the height of a house and carries them crosswise in the bill.",
        ),
    ),
    Subject(
        "Kestrel Bridge",
        "bridge",
        (
            "Designed by Irma Oldcastle and opened in 1904, it replaced a rope ferry. Two workers died.",
            "The deck hangs from steel cables spun on the spot; a walkway for cattle runs below the road.",
        ),
        (("Who drew up the plans for this crossing?", (0,)), ("What runs underneath the carriageway here?", (1,))),
    ),
    Subject(
        "Weavers' Bridge",
        "bridge",
        (
            "Built by the guild from a tax on wool, it lost an arch in the flood of 1767.",
            "Its piers stand on oak piles. In dry summers the marks of the masons can be seen.",
        ),
        (("Which disaster damaged this structure?", (0,)),),
    ),
    Subject(
        "Harbour Row swing bridge",
        "bridge",
        (
            "The dock company ordered it second-hand from abroad and had it shipped in three parts.",
            "It turns on a ring of iron balls and needs ninety seconds to open, by water pressure alone.",
        ),
    ),
    Subject(
        "Old Quarry viaduct",
        "bridge",
        (
            "Trains crossed it for only eleven years before the mine closed; now it carries a cycle path.",
            "It has nine brick arches, the tallest of thirty-four metres, and bats live inside the hollow pillars.",
        ),
    ),
    Subject(
        "Lantern gentian",
        "flower",
        (
            "Monks grew it for a bitter tonic, and it is the badge of the mountain guides.",
            "It opens only in full sun between June and August, on chalk above the tree line; moths pollinate it.",
        ),
        (("In which months does it bloom?", (1,)),),
    ),
    Subject(
        "Ferryman's rose",
        "flower",
        (
            "A gardener at Gull Harbour bred it in 1933 and named it for his father.",
            "It bears salt wind, has few thorns, and its red hips hold till the new year.",
        ),
        (("Who created this plant variety, and after whom is it called?", (0,)),),
    ),
    Subject(
        "Marsh bellwort",
        "flower",
        (
            "The plant was thought lost until a school class found it beside the railway in 1998.",
            "Its seeds float for weeks; the root is poisonous to sheep.",
        ),
    ),
    Subject(
        "Tolby crocus",
        "flower",
        (
            "Saffron from this crocus paid for the church tower, whose weathercock has the shape of its flower.",
            "The corm sleeps through summer and sends up leaves only after it has flowered in October.",
        ),
    ),
    Subject(
        "Farrowness lighthouse",
        "tower",
        (
            "After the wreck of the Adelheid the king gave money for a light, lit for the first time in 1841.",
            "Its lens shows two white flashes every twelve seconds, seen for twenty-two sea miles.",
        ),
        (("What event led to the construction of this building?", (0,)), ("What is the pattern of its signal?", (1,))),
    ),
    Subject(
        "Brae watchtower",
        "tower",
        (
            "It was raised against pirates and later served as a prison for debtors.",
            "The door is four metres above the ground; a wooden stair was pulled up at night.",
        ),
        (("How was access to this place kept safe after dark?", (1,)),),
    ),
    Subject(
        "Hopfen water tower",
        "tower",
        (
            "The brewery paid half of it and had free water for fifty years in return.",
            "The tank of riveted iron holds three hundred cubic metres; the top room is now let to guests.",
        ),
    ),
    Subject(
        "Castle Street clock tower",
        "tower",
        (
            "A widow left her fortune for it on condition that the clock be five minutes fast.",
            "Its bells are tuned to a minor third, and a wooden rooster flaps its wings at noon.",
        ),
    ),
    Subject(
        "Skerrow mail railcar",
        "train",
        (
            "Ordered in 1928 to replace horse sledges, it ran until the road tunnel was opened.",
            "A petrol engine drives the rear axle; the front carries a snow plough and a letter box.",
        ),
        (("What kind of motor moves this vehicle, and when was it bought?", (0, 1)),),
    ),
    Subject(
        "Gorge rack railway",
        "train",
        (
            "A hotel keeper built it for his guests; the shares were sold in the dining room.",
            "A toothed wheel grips a ladder of steel between the rails, on a slope of one in four.",
        ),
        (("How does it climb such a steep gradient?", (1,)),),
    ),
    Subject(
        "Night express Ansel",
        "train",
        (
            "It linked the capital with the harbour from 1936, and carried a cinema car in the fifties.",
            "Twelve sleeping cars ride on air springs; the restaurant is in the middle and has a zinc bar.",
        ),
        (("What entertainment and what comfort for the night did travellers find on board?", (0, 1)),),
    ),
    Subject(
        "Lime works tram",
        "train",
        (
            "Workers saved it from scrap during a strike and run it on Sundays.",
            "Horses pulled the first wagons. The track is only sixty centimetres wide and has wooden sleepers.",
        ),
    ),
)
