"""Memory that stays with the process while it trains."""

import sys

import numpy as np
import pytest

from common import memory
from common.memory import LIMIT, MMAP_MAX, MMAP_THRESHOLD, TRIM, glibc, kept_memory


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    made: list[tuple[int, ...]] = []
    monkeypatch.setattr(memory, "glibc", lambda name: lambda *values: made.append(values) or 1)
    return made


def test_the_outermost_context_sets_and_resets_also_after_an_error(calls: list[tuple[int, ...]]) -> None:
    with pytest.raises(KeyError), kept_memory():
        with kept_memory():
            assert calls == [(MMAP_MAX, 0), (TRIM, LIMIT)]
        assert len(calls) == 2
        raise KeyError
    assert calls[2:] == [(MMAP_MAX, 65536), (MMAP_THRESHOLD, 32 << 20), (TRIM, 64 << 20), (0,)]


def test_another_device_or_system_changes_nothing(
    calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with kept_memory("cuda:0"):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    with kept_memory():
        pass
    assert glibc("mallopt") is None and not calls


@pytest.mark.skipif(glibc("mallopt") is None, reason="not glibc")
def test_large_arrays_are_not_taken_from_the_system_again() -> None:
    import resource

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(4):
            np.ones(8 << 20)  # 64 MB: 16,384 pages
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    outside = faults()
    with kept_memory():
        faults()
        inside = faults()
    assert inside < outside / 10
