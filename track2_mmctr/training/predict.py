"""Logits of a trained ranker."""

from __future__ import annotations

import numpy as np
import torch

from common.errors import DataError
from common.memory import kept_memory
from common.products import fast_products
from common.progress import bar
from common.training.distributed import World, gather
from track2_mmctr.batches import batches
from track2_mmctr.datasets.tables import Split
from track2_mmctr.rankers.base import Ranker

BATCH_SIZE = 8192


def predict(
    model: Ranker,
    split: Split,
    *,
    batch_size: int = BATCH_SIZE,
    max_len: int,
    device: torch.device | str,
    amp: bool = False,
) -> np.ndarray:
    """Return the logit of a click for each row, float64 [R], in the order of the split.

    Parameters
    ----------
    max_len
        Newest history items that are read.
    amp
        Products of matrices in bfloat16.

    Raises
    ------
    DataError
        A logit is not a number.
    """
    return predict_together(model, split, World(), batch_size=batch_size, max_len=max_len, device=device, amp=amp)


def predict_together(
    model: Ranker,
    split: Split,
    world: World,
    *,
    batch_size: int,
    max_len: int,
    device: torch.device | str,
    amp: bool,
) -> np.ndarray:
    """Return what `predict` does, on every process; each computes its share of the rows."""
    shares = [np.arange(len(split))[rank :: world.size] for rank in range(world.size)]
    own = predict_rows(model, split, shares[world.rank], batch_size=batch_size, max_len=max_len, device=device, amp=amp)
    logits = own
    if world.size > 1:
        parts = gather(torch.from_numpy(own).to(device), [len(share) for share in shares], world)
        logits = np.empty(len(split))
        logits[np.concatenate(shares)] = parts.cpu().numpy()
    check_finite(logits, split)
    return logits


@torch.inference_mode()
def predict_rows(
    model: Ranker,
    split: Split,
    rows: np.ndarray,
    *,
    batch_size: int,
    max_len: int,
    device: torch.device | str,
    amp: bool,
) -> np.ndarray:
    """Return the logits of some rows of a split, float64 [len(rows)], in the order of `rows`."""
    device, training = torch.device(device), model.training
    order = rows[np.argsort(split.users[rows], kind="stable")]  # rows of a user share their items
    place = np.empty(len(split), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    logits = np.empty(len(rows), dtype=np.float64)
    model.eval()
    shown = bar(f"predict {split.name}", total=len(rows), unit="row")
    try:
        with shown, fast_products(device), kept_memory(device):
            for batch in batches(split, batch_size, max_len, order=order):
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=amp):
                    out = model(batch.to(device))
                logits[place[batch.rows.numpy()]] = out.cpu().double().numpy()
                shown.update(len(batch))
    finally:
        model.train(training)
    return logits


def check_finite(logits: np.ndarray, split: Split) -> None:
    """Raise `DataError` when a logit is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(logits))
    if len(bad):
        raise DataError(
            f"the ranker gives no finite logit for {len(bad):,} of {len(logits):,} rows",
            where=f"{split.name}, row {bad[0]} (the first)",
            expected="a finite number",
            got=logits[bad[0]],
            todo="if the ranker was just trained: a lower train.learning_rate; if the rows are few: look at their data",
        )
