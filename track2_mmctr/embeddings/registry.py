"""The methods of `embed`: fusions of encoder outputs, and the representation methods of `common.representation`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, get_args

from common.errors import ConfigError
from track2_mmctr.embeddings.config import Method, TextField

if TYPE_CHECKING:
    from common.representation.base import Representation

Writes = Literal["embedding", "knowledge", "codes"]


@dataclass(frozen=True)
class RepresentationMethod:
    """One representation method.

    Attributes
    ----------
    path
        module:class.
    modalities
        Encoder outputs that it reads, unless `modalities` is set.
    texts
        Whether it reads texts themselves, and not only their vectors.
    fields
        Texts that it reads, unless `fields` is set; those that the data lacks are left out.
    writes
        Item embeddings; or knowledge, or codes, of items and of users.
    domains
        How items are split in domains, unless `domains.by` is set.
    """

    path: str
    modalities: tuple[Literal["text", "image"], ...]
    texts: bool
    fields: tuple[TextField, ...]
    writes: Writes
    domains: Literal["none", "popularity"] = "none"

    def load(self) -> type[Representation]:
        """Return the method's class."""
        module, _, name = self.path.partition(":")
        return getattr(import_module(module), name)


_PACKAGE = "common.representation"
_TEXTS: tuple[TextField, ...] = ("title", "overview")
REPRESENTATIONS: dict[str, RepresentationMethod] = {
    "kar": RepresentationMethod(f"{_PACKAGE}.kar.method:Kar", (), True, get_args(TextField), "knowledge"),
    "ease": RepresentationMethod(f"{_PACKAGE}.ease.method:Ease", ("image",), True, _TEXTS, "embedding"),
    "roma": RepresentationMethod(f"{_PACKAGE}.roma.method:Roma", ("image",), True, _TEXTS, "embedding"),
    "uniembedding": RepresentationMethod(
        f"{_PACKAGE}.uniembedding.method:UniEmbedding", ("text", "image"), False, _TEXTS, "embedding", "popularity"
    ),
    "uist": RepresentationMethod(f"{_PACKAGE}.uist.method:Uist", ("text", "image"), False, _TEXTS, "codes"),
}
METHODS = (*get_args(Method), *REPRESENTATIONS)


def check_method(name: str) -> None:
    """Raise `ConfigError`, with the nearest known name, where `embed` has no such method."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        raise ConfigError(
            f"no method {name!r}",
            where="--method",
            expected=", ".join(METHODS),
            got=name,
            todo=f"did you mean --method {near[0]}?" if near else None,
        )
