"""Competitions and data sets of Kaggle."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from common.download.content import check_file
from common.download.manifest import Listed
from common.download.meter import Meter
from common.download.net import SourceError
from common.download.parts import Found, Offer
from common.download.source import Setup, Source
from common.download.space import require_space
from common.download.unpack import unpack
from common.hashing import file_digest
from common.kaggle import Kaggle

MANY = 100
"""More files than this are not asked for one by one: each takes a start of the client."""


class KaggleSource(Source):
    """A competition or data set of Kaggle, by its own client; of very many files, the zip of all is taken."""

    def __init__(self, offer: Offer, setup: Setup) -> None:
        super().__init__(offer)
        self.setup = setup
        self.kaggle = Kaggle(setup.environ)
        self._files: list[Found] | None = None
        self._bundle: Path | None = None

    def files(self) -> Sequence[Found]:
        """See `Source`."""
        if self._files is None:
            listed = self.kaggle.files(self.offer.address)
            self._files = [Found(file.name, file.size) for file in listed]
        return self._files

    def prepare(self, count: int, folder: Path) -> None:
        """See `Source`."""
        if count > MANY and self._bundle is None:
            place = folder / f"{self.offer.address.replace('/', '-')}.zip"
            if not place.is_file():
                require_space(folder, sum(file.size or 0 for file in self.files()), "the zip of all files")
                self._download(None, place)
            self._bundle = place

    def release(self) -> None:
        """See `Source`."""
        if self._bundle is not None:
            self._bundle.unlink(missing_ok=True)
            self._bundle = None

    def get_all(self, files: Sequence[Found], targets: Sequence[str], folder: Path) -> list[Listed]:
        """See `Source`."""
        if self._bundle is None:
            return super().get_all(files, targets, folder)
        chosen = {file.name: target for file, target in zip(files, targets, strict=True)}
        shutil.rmtree(folder, ignore_errors=True)
        return unpack([self._bundle], folder, choose=chosen.get)

    def get(self, file: Found, part: Path) -> str:
        """See `Source`."""
        name = PurePosixPath(file.name).name
        if part.is_file() and part.stat().st_size == file.size:  # whole, of a run that was killed
            return file_digest(part)
        if self._bundle is None:
            self._download(file, part)
        else:
            inner = part.with_name(part.name + ".unpacked")
            shutil.rmtree(inner, ignore_errors=True)
            unpack([self._bundle], inner, choose=lambda member: name if member == file.name else None)
            (inner / name).replace(part)
            shutil.rmtree(inner)
        return file_digest(part)

    def _download(self, file: Found | None, part: Path) -> None:
        """Bring one file, or the zip of all, to `part`; what is cut stays beside it, and is gone on with."""
        folder = part.with_name(part.name + ".kaggle")
        name = part.name if file is None else PurePosixPath(file.name).name
        size = None if file is None else file.size
        with Meter(name, size, 0, self.setup.net, self.setup.say) as meter:
            got = self.kaggle.download(
                self.offer.address,
                folder,
                file=None if file is None else file.name,
                seen=lambda count: meter.add(max(0, count - meter.done)),
            )
        if file is not None and got.name != name:  # Kaggle zips some files on its own
            inner = folder / "unpacked"
            shutil.rmtree(inner, ignore_errors=True)
            unpack([got], inner, choose=lambda member: name if PurePosixPath(member).name == name else None)
            got = inner / name
        length = got.stat().st_size
        try:
            check_file(name, got)
            if size is not None and length != size:
                raise SourceError(
                    "the file has another length than Kaggle's list says",
                    where=name,
                    expected=f"{size:,} bytes",
                    got=f"{length:,} bytes",
                    todo="run the same command again",
                )
            got.replace(part)
        finally:
            shutil.rmtree(folder)  # what is wrong is not to be found again
