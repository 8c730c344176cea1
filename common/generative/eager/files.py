"""Files of a model that has two ID maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from common.atomic import atomic_folder
from common.errors import DataError
from common.tokenizers.semantic_ids import SemanticIdMap


@dataclass(frozen=True, eq=False)
class TwoMaps(SemanticIdMap):
    """The behaviour IDs, with the semantic IDs of the same items behind them."""

    pair: tuple[SemanticIdMap, SemanticIdMap] | None = None

    @classmethod
    def of(cls, behaviour: SemanticIdMap, semantic: SemanticIdMap) -> Self:
        """Return both maps as one."""
        return cls(
            behaviour.sids,
            behaviour.sizes,
            behaviour.levels,
            behaviour.dedup,
            behaviour.source,
            behaviour.parts,
            pair=(behaviour, semantic),
        )

    @property
    def behaviour(self) -> SemanticIdMap:
        """The behaviour IDs."""
        return self._both()[0]

    @property
    def semantic(self) -> SemanticIdMap:
        """The semantic IDs."""
        return self._both()[1]

    def _both(self) -> tuple[SemanticIdMap, SemanticIdMap]:
        if self.pair is None:
            raise DataError("one of two maps is missing", expected="behaviour and semantic IDs")
        return self.pair


def save_with(folder: Path, save: Callable[[Path], None], semantic: SemanticIdMap) -> None:
    """Write a model by `save` and its semantic IDs to `folder`, whole or not at all."""
    with atomic_folder(folder) as temporary:
        save(temporary / "model")
        for path in sorted((temporary / "model").iterdir()):
            path.rename(temporary / path.name)
        (temporary / "model").rmdir()
        semantic.save(temporary / "semantic_ids")
