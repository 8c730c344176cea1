"""The number of torch's threads, the same in workers as here: the last bits of its sums depend on it."""

from __future__ import annotations

import sys


def torch_threads() -> int:
    """Return the threads of torch in this process; 1 where nothing has imported it, and nothing uses it."""
    torch = sys.modules.get("torch")
    return 1 if torch is None else int(torch.get_num_threads())


def use_torch_threads(threads: int) -> None:
    """Let torch use so many threads in this process, if something has imported it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
