"""Passes through the network in chunks, with dropout off and without a gradient."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from common.representation.base import device_of
from common.representation.inputs import Behaviour
from common.representation.roma.batches import make_windows
from common.representation.roma.item_inputs import ItemInputs
from common.representation.roma.model import RomaNet
from common.training.fit import evaluating

CHUNK = 256
"""Items or users that are computed at once."""


def item_states(net: RomaNet, inputs: ItemInputs) -> Tensor:
    """Return the h of items, [N, d]."""
    device = device_of(net)
    with evaluating(net), torch.no_grad():
        chunks = [inputs.take(slice(at, at + CHUNK)).to(device) for at in range(0, len(inputs), CHUNK)]
        return torch.cat([net.read(chunk)[:, 0] for chunk in chunks])


def follow_users(
    net: RomaNet, states: Tensor, behaviour: Behaviour, domains: np.ndarray
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield s [B, S, d] of users and which places are real, bool [B, S], in the order of users.

    Parameters
    ----------
    states
        The h of all items, [N, d].
    behaviour
        Histories, none of them empty; the last `history` items are read.
    domains
        The domain of each item, int64 [N].
    """
    for at in range(0, len(behaviour), CHUNK):
        rows = range(at, min(at + CHUNK, len(behaviour)))
        histories = [behaviour.history(row)[-net.config.history :] for row in rows]
        batch = make_windows(histories, [0] * len(rows), None, domains, targets=False).to(states.device)
        h = states[batch.rows]
        with evaluating(net), torch.no_grad():
            yield net.follow(h[batch.items], batch.mask, batch.domains[batch.items]), batch.mask


def user_vectors(net: RomaNet, states: Tensor, behaviour: Behaviour, domains: np.ndarray) -> Tensor:
    """Return the projected s of users after their last item, unit vectors [U, output]; see `follow_users`."""
    found: list[Tensor] = []
    for s, mask in follow_users(net, states, behaviour, domains):
        last = mask.sum(1) - 1
        with torch.no_grad():
            found.append(net.user_vectors(s[torch.arange(len(s), device=s.device), last]))
    return torch.cat(found)
