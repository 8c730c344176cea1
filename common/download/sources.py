"""Which class is which source."""

from __future__ import annotations

from collections.abc import Callable

from common.download.hub import HubSource
from common.download.kaggle_source import KaggleSource
from common.download.pages import PagesSource
from common.download.parts import Offer
from common.download.source import Setup, Source

Opener = Callable[[Offer], Source]


def opener(setup: Setup) -> Opener:
    """Return what opens sources; each address is opened once, so that its list is asked for once."""
    opened: dict[Offer, Source] = {}

    def open_offer(offer: Offer) -> Source:
        if offer not in opened:
            kind = {"hub": HubSource, "pages": PagesSource, "kaggle": KaggleSource, "mirror": KaggleSource}[offer.kind]
            opened[offer] = kind(offer, setup)
        return opened[offer]

    return open_offer
