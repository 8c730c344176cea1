"""One local Ray cluster of two workers for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from common.engine.ray_pool import RayEngine

STORE = 80 << 20
"""The smallest object store that Ray accepts, nearly: what a test sends through it need not fit."""


@pytest.fixture(scope="module")
def ray_engine() -> Iterator[RayEngine]:
    """Two workers on this machine."""
    pytest.importorskip("ray", reason="needs Ray: pip install -r requirements-cluster.txt")
    from common.engine.ray_pool import RayEngine

    with RayEngine(None, 2, object_store=STORE) as engine:
        yield engine
