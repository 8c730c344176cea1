"""The two stages of ROMA's training: pre-training, and fine-tuning with the language model frozen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.hashing import digest
from common.representation.base import Say
from common.representation.inputs import Behaviour, Items
from common.representation.roma.batches import RomaBatches
from common.representation.roma.item_inputs import ItemInputs
from common.representation.roma.model import RomaNet
from common.representation.roma.passes import item_states
from common.representation.roma.validation import HeldOut, hold_out, recall
from common.training.fit import FitResult, fit_model
from common.training.state import remove_state


@dataclass(frozen=True)
class Data:
    """What both stages learn from."""

    items: Items
    inputs: ItemInputs
    behaviour: Behaviour | None
    held: HeldOut | None = None


@dataclass(frozen=True)
class Run:
    """How a training is run: see `common.training.fit.fit_model`."""

    seed: int
    device: str
    folder: Path | None
    say: Say


def train(net: RomaNet, data: Data, plm: dict[str, Any], run: Run) -> dict[str, FitResult]:
    """Train a network in place; return what each stage came to. The states of stages are kept until the last is done.

    Parameters
    ----------
    plm
        Name and revision of the language model, for the checkpoints' key.
    """
    config = net.config
    net.to(run.device)
    if config.valid_users and data.behaviour is not None:
        kept, held = hold_out(data.behaviour, config.valid_users, run.seed)
        data = Data(data.items, data.inputs, kept, held)
    results: dict[str, FitResult] = {}
    if config.pretrain is not None:
        used = Data(data.items, data.inputs, data.behaviour if config.uic else None)
        results["pretrain"] = _stage(net, "pretrain", used, plm, run)
    if config.finetune:
        results["finetune"] = _stage(net, "finetune", data, plm, run)
    if run.folder is not None:
        for name in results:
            remove_state(run.folder / name)
    net.known = None
    net.learn("saved")
    net.eval()
    return results


def _stage(
    net: RomaNet, stage: Literal["pretrain", "finetune"], data: Data, plm: dict[str, Any], run: Run
) -> FitResult:
    config = net.config
    net.learn(stage)
    fixed = stage == "finetune" and not net.bottom_learns()
    net.known = item_states(net, data.inputs) if fixed else None
    batches = RomaBatches(
        data.inputs,
        data.items.domain_of,
        data.behaviour,
        config,
        masked=stage == "pretrain" and config.vmlm,
        known=fixed,
        seed=run.seed,
        version=digest(data.items.digest(), stage),
    )
    learnt, every = count_weights(net)
    share = f"{learnt:,} of {every:,} weights ({learnt / every:.1%})"
    run.say(f"{stage}: {share} are trained, {len(batches)} steps an epoch")
    key = {"kind": "roma", "stage": stage, "config": config.model_dump(mode="json"), "plm": plm}
    own = None if run.folder is None else run.folder / stage
    fit = config.fit if stage == "finetune" or config.pretrain is None else config.pretrain
    held, domains = data.held, data.items.domain_of  # pre-training is given none

    def evaluate(now: RomaNet) -> dict[str, float]:
        assert held is not None  # noqa: S101 - not called without
        return {fit.figure: recall(now, data.inputs, domains, held)}

    options: dict[str, Any] = {"device": run.device, "folder": own, "say": run.say, "keep": True}
    chosen = evaluate if held else None
    return fit_model(net, batches, fit, key=key, evaluate=chosen, seed=run.seed, **options)


def count_weights(net: RomaNet) -> tuple[int, int]:
    """Return the number of weights that are trained now, and of all."""
    every = list(net.parameters())
    return sum(p.numel() for p in every if p.requires_grad), sum(p.numel() for p in every)
