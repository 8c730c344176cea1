"""What a source is: it lists its files, and brings one whole to a `.part`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.download.manifest import Listed
from common.download.net import Net, Remote, Say, session
from common.download.parts import Found, Offer
from common.download.transfer import fetch, state_path
from common.hashing import file_digest
from common.progress import progress

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Setup:
    """What sources need from outside: limits, accounts, addresses, and what takes lines.

    Attributes
    ----------
    environ
        The environment of the Kaggle client.
    hub, token
        The hub's address, and the user's token if there is one; it is shown nowhere.
    """

    net: Net
    say: Say
    environ: Mapping[str, str]
    hub: str = HUB
    token: str | None = None

    def __repr__(self) -> str:
        return f"Setup(net={self.net}, hub={self.hub!r})"


class Source(ABC):
    """One address that files come from."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.revision = ""

    @property
    def title(self) -> str:
        """What the record of downloads says."""
        return self.offer.title + (f"@{self.revision[:12]}" if self.revision else "")

    @abstractmethod
    def files(self) -> Sequence[Found]:
        """Return the list of files; `UserError` where the source is of no use."""

    def size(self, file: Found) -> int | None:
        """Return a file's size in bytes; it may ask the server."""
        return file.size

    @abstractmethod
    def get(self, file: Found, part: Path) -> str:
        """Bring a file whole to `part`, and return its SHA-256."""

    def get_all(self, files: Sequence[Found], targets: Sequence[str], folder: Path) -> list[Listed]:
        """Bring many files into `folder`, under the names `targets`; those that are there already stay."""
        done: list[Listed] = []
        for file, target in progress(list(zip(files, targets, strict=True)), folder.name, unit="file"):
            place = folder / target
            if place.is_file() and (file.size is None or place.stat().st_size == file.size):
                digest = file_digest(place)
                if file.sha256 in (None, digest):
                    done.append(Listed(target, place.stat().st_size, digest))
                    continue
            part = place.with_name(place.name + ".part")
            part.parent.mkdir(parents=True, exist_ok=True)
            digest = self.get(file, part)
            part.replace(place)
            state_path(part).unlink(missing_ok=True)
            done.append(Listed(target, place.stat().st_size, digest))
        return done

    def prepare(self, count: int, folder: Path) -> None:  # noqa: B027, most sources need nothing
        """Get ready to give so many files; `folder` takes what is needed for it until `release`."""

    def release(self) -> None:  # noqa: B027
        """Remove what `prepare` made."""


class HttpSource(Source):
    """A source whose files are addresses."""

    def __init__(self, offer: Offer, setup: Setup) -> None:
        super().__init__(offer)
        self.setup = setup
        self.http = session()

    @abstractmethod
    def remote(self, file: Found) -> Remote:
        """Return the address of a file."""

    def get(self, file: Found, part: Path) -> str:
        """See `Source`."""
        return fetch(self.remote(file), part, self.setup.net, self.http, self.setup.say)
