"""Features of a row that come from tables by id: KAR's knowledge through its adaptor, and UIST's user tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import DataError
from common.representation.kar.adaptor import HybridExpertAdaptor
from track2_mmctr.batches import Batch
from track2_mmctr.config import KnowledgeConfig, UserSidConfig
from track2_mmctr.datasets.id_tables import IdTable
from track2_mmctr.datasets.knowledge import Knowledge, UserCodes
from track2_mmctr.rankers.embedding import Embedding


class Found(NamedTuple):
    """Rows of a table int64 [B] (0 where there is none), and whether it may be read, bool [B]."""

    row: Tensor
    known: Tensor


class Lookup(nn.Module):
    """Find ids in a table. The table is data and no part of a checkpoint.

    An id without a row is an error unless `allow_missing`. So are none of the rows that come before their user's
    features are known: they are never an error, and read as unknown.
    """

    ids: Tensor
    after: Tensor

    def __init__(self, table: IdTable, allow_missing: bool, what: str) -> None:
        super().__init__()
        self.allow_missing, self.what = allow_missing, what
        self.register_buffer("ids", torch.from_numpy(table.ids), persistent=False)
        self.register_buffer("after", torch.from_numpy(table.after), persistent=False)

    def forward(self, ids: Tensor, past: Tensor | None = None) -> Found:
        """Look up ids [B]; with history lengths [B], what is made of a longer history than a row's is unknown to it."""
        row = torch.searchsorted(self.ids, ids).clamp(max=max(len(self.ids) - 1, 0))
        known = self.ids[row] == ids if len(self.ids) else torch.zeros_like(ids, dtype=torch.bool)
        if not self.allow_missing and not bool(known.all()):
            missing = int(ids[~known][0])
            raise DataError(
                f"a {self.what} of a batch has no row of features",
                expected="a row for each, or allow_missing above 0",
                got=f"none for {missing}",
            )
        if past is not None and len(self.ids):
            known = known & (past >= self.after[row])
        return Found(row, known)


class KnowledgeFeature(nn.Module):
    """a_user ‖ a_item, of a row's user and its target, by the hybrid-expert adaptor (KAR).

    The adaptor is trained with the ranker. What has no knowledge, or none yet at the time of a row, has one learnt
    vector a view.

    Attributes
    ----------
    fields
        Widths of the parts of the result.
    """

    of_user: Tensor
    of_item: Tensor

    def __init__(self, config: KnowledgeConfig, knowledge: Knowledge) -> None:
        super().__init__()
        views = {"user": knowledge.users, "item": knowledge.items}
        tables = {name: table for name, table in views.items() if table is not None}
        self.adaptor = HybridExpertAdaptor({name: t.values.shape[1] for name, t in tables.items()}, config.adaptor)
        self.lookups, self.missing = nn.ModuleDict(), nn.ParameterDict()
        for name, table in tables.items():
            self.lookups[name] = Lookup(table, config.allow_missing > 0, name)
            self.missing[name] = nn.Parameter(torch.zeros(self.adaptor.out))
            values = torch.from_numpy(np.ascontiguousarray(table.values, np.float32))
            self.register_buffer(f"of_{name}", values, persistent=False)
            if config.center and len(values):
                self.adaptor.calibrate(name, values)
        self.fields = [self.adaptor.out] * len(tables)

    def forward(self, batch: Batch) -> Tensor:
        """Return [B, sum of fields]; each different user and target is computed once."""
        parts = []
        for name in self.lookups:
            ids = batch.users if name == "user" else batch.items[batch.target]
            found: Found = self.lookups[name](ids, batch.past if name == "user" else None)
            rows, inverse = torch.unique(found.row, return_inverse=True)
            values: Tensor = getattr(self, f"of_{name}")
            adapted = self.adaptor.view(name, values[rows])[inverse] if len(values) else None
            unknown = self.missing[name].expand(len(ids), -1)
            parts.append(unknown if adapted is None else torch.where(found.known[:, None], adapted, unknown))
        return torch.cat(parts, dim=1)


class UserCodeEmbedding(nn.Module):
    """u^(i) = Σ_{l<=i} T_l[c_l], the user's tokens summed coarse to fine (UIST), [B, d].

    Users without codes, or without any yet at the time of a row, have one learnt vector, the same at each level.

    Attributes
    ----------
    levels
        L.
    upto
        Sum the first so many levels only; None = all.
    """

    rows: Tensor

    def __init__(self, config: UserSidConfig, codes: UserCodes, dim: int) -> None:
        super().__init__()
        self.lookup = Lookup(codes.table, config.allow_missing > 0, "user")
        self.levels = len(codes.sizes)
        self.upto: int | None = None
        first = 2 + np.concatenate([[0], np.cumsum(codes.sizes)[:-1]])  # after the padding's row and the unknown's
        unknown = np.zeros((1, self.levels), np.int64)
        unknown[0, 0] = 1
        numbers = np.concatenate([codes.table.values.astype(np.int64) + first, unknown])
        self.register_buffer("rows", torch.from_numpy(numbers), persistent=False)
        self.table = Embedding(2 + sum(codes.sizes), dim)

    def forward(self, batch: Batch) -> Tensor:
        """Return the vectors of the rows' users, [B, d]."""
        found: Found = self.lookup(batch.users, batch.past)
        row = torch.where(found.known, found.row, len(self.rows) - 1)
        return self.table(self.rows[row, : self.upto]).sum(1)
