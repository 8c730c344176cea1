"""Recall of users' last items, held out of training: when fine-tuning stops, and which weights are kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from common.errors import DataError
from common.representation.inputs import Behaviour
from common.representation.roma.item_inputs import ItemInputs
from common.representation.roma.model import RomaNet
from common.representation.roma.passes import item_states, user_vectors


@dataclass(frozen=True)
class HeldOut:
    """V users without their last item, int64 [V]: the targets."""

    behaviour: Behaviour
    targets: np.ndarray


def hold_out(behaviour: Behaviour, count: int, seed: int) -> tuple[Behaviour, HeldOut]:
    """Return all histories, `count` of them without their last item, and these `count` users.

    Users with three items and more are drawn, so that each still has a target to learn from.

    Raises
    ------
    DataError
        Fewer such users than `count`.
    """
    able = np.flatnonzero(behaviour.lengths >= 3)
    if len(able) < count:
        raise DataError(
            "too few users have three items and more",
            where="valid_users",
            expected=count,
            got=len(able),
            todo="lower valid_users; 0 trains all epochs",
        )
    users = np.sort(np.random.default_rng((seed, 41)).choice(able, count, replace=False))
    last = behaviour.offsets[users + 1] - 1
    lengths = behaviour.lengths.copy()
    lengths[users] -= 1
    kept = replace(behaviour, items=np.delete(behaviour.items, last), offsets=np.concatenate([[0], np.cumsum(lengths)]))
    parts = [kept.history(user) for user in users]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in parts])])
    return kept, HeldOut(Behaviour(behaviour.users[users], np.concatenate(parts), offsets), behaviour.items[last])


def recall(net: RomaNet, inputs: ItemInputs, domains: np.ndarray, held: HeldOut, k: int = 10) -> float:
    """Return Recall@k of the targets among the items of their domains; ties count against the target."""
    states = item_states(net, inputs) if net.known is None else net.known
    users = user_vectors(net, states, held.behaviour, domains)
    with torch.no_grad():
        scores = (users @ net.item_vectors(states).T).cpu().numpy()
    scores[domains[held.targets][:, None] != domains] = -np.inf
    own = scores[np.arange(len(scores)), held.targets][:, None]
    return float(((scores >= own).sum(1) <= k).mean())
