"""The torch device of a run."""

from __future__ import annotations

from common.errors import ConfigError


def choose_device(wanted: str) -> str:
    """Return the torch device for "auto" and refuse one that is not there."""
    if wanted == "cpu":
        return "cpu"
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next((name for name, present in there.items() if present), "cpu")
    if not there[wanted]:
        raise ConfigError(
            f"no {wanted} device on this machine", where="device", todo="use --set device=auto, or device=cpu"
        )
    return wanted
