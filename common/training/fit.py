"""The training loop of models that give a loss: epochs, evaluation, early stop, the best weights, a learning curve."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ConfigError, UserError
from common.products import fast_products, matrix_weights
from common.progress import bar
from common.training.distributed import World, check_same, share_weights, told_by_main, total
from common.training.fit_config import Batches, FitConfig, FitResult
from common.training.fit_state import Point, State, copy_weights, load_state, restore, save_state
from common.training.interrupt import Interrupt
from common.training.repeatable import repeatable, step_seed
from common.training.schedule import MIN_DELTA, Schedule
from common.training.shares import backward
from common.training.state import remove_state

__all__ = ["Batches", "FitConfig", "FitResult", "Trainable", "evaluating", "fit_model"]

CHECKPOINT_SECONDS = 60.0
WORTH = 1 << 21
"""Weights times rows of a step from which on oneDNN's products pay; a row is a sequence of some tokens."""
Say = Callable[[str], object]
M = TypeVar("M", bound=nn.Module)


class Trainable(Protocol):
    """What can be trained: an `nn.Module` that gives its loss."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Return the losses of a batch, scalars; "loss" is the one to minimise, a sum of others times constants."""
        ...


def fit_model(
    model: M,
    batches: Batches,
    config: FitConfig,
    *,
    key: Mapping[str, Any],
    evaluate: Callable[[M], Mapping[str, float]] | None = None,
    seed: int,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    say: Say = lambda _: None,
    keep: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    world: World = World(),  # noqa: B008 - frozen
) -> FitResult:
    """Train a model in place (see `Trainable`). Weights without a gradient are neither trained nor kept.

    An interrupted call is made again with the same arguments: it goes on from `folder/last`, and on a CPU it ends
    with the very same weights as one that was never interrupted.

    Several processes make the call together, each with its own `world`: see `common.training.shares.backward` for what
    a step is then. The main one writes the checkpoint, from which any number of processes may go on, decides when to
    stop, and its evaluation counts; the others read the checkpoint where it is. They all end with the same weights.

    Parameters
    ----------
    key
        JSON values that say what the model is: a checkpoint of another one is refused.
    evaluate
        Figures of the model, dropout off; without it training runs all epochs and keeps the last weights. Every
        process calls it, so that they may share the work.
    folder
        Where the checkpoint is kept; None keeps none.
    keep
        False removes the checkpoint at the end.
    checkpoint_seconds
        Time between two checkpoints; 0 = after each step.

    Raises
    ------
    ConfigError
        The evaluation lacks `config.figure`; a checkpoint of another configuration; processes that differ.
    DataError
        A damaged checkpoint.
    UserError
        The loss is not finite; the disk is full.
    KeyboardInterrupt
        After Ctrl-C, when the checkpoint is written.
    """
    path = None if folder is None else folder / "last" / "state.safetensors"
    run = _Fit(model, batches, config, key, evaluate, seed, torch.device(device), path, say, checkpoint_seconds, world)
    resumed_from = run.resume() if path is not None and told_by_main(path.exists(), world) else None
    run.run()
    done = run.state.progress
    if run.state.best is not None:
        restore(model, run.state.best)
    model.eval()
    if path is not None and not keep and world.main:
        remove_state(path.parent)
    return FitResult(
        best=done.best,
        best_epoch=done.best_epoch,
        epochs=done.epoch,
        steps=done.step,
        stopped=done.stopped or "epochs",
        seconds=done.seconds,
        cpu_seconds=done.cpu_seconds,
        resumed_from=resumed_from,
        curve=list(done.curve),
    )


def make_optimizer(model: nn.Module, config: FitConfig, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter, ICLR 2019) that decays matrices and embeddings, not biases and norms."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in learnt if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learnt if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = device.type in ("cpu", "cuda")
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, fused=fused)


class _Fit:
    def __init__(
        self,
        model: Any,
        batches: Batches,
        config: FitConfig,
        key: Mapping[str, Any],
        evaluate: Callable[[Any], Mapping[str, float]] | None,
        seed: int,
        device: torch.device,
        path: Path | None,
        say: Say,
        checkpoint_seconds: float,
        world: World,
    ) -> None:
        self.model, self.batches, self.config, self.evaluate = model.to(device), batches, config, evaluate
        self.seed, self.device, self.path, self.interval, self.world = seed, device, path, checkpoint_seconds, world
        self.say = say if world.main else lambda _: None
        self.steps = len(batches)
        self.schedule = Schedule(config.schedule, config.learning_rate, config.epochs * self.steps)
        self.optimizer = make_optimizer(model, config, device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.state, self.interrupt = State(), Interrupt()
        self.key = {
            "model": dict(key),
            "fit": config.model_dump(mode="json", exclude={"max_seconds"}),
            "data": batches.digest,
            "seed": seed,
        }
        self.stop = False
        check_same(json.dumps(self.key), "configuration, data or semantic IDs", world)
        share_weights(model, world)

    def run(self) -> None:
        progress = self.state.progress
        self.saved, self.pause = time.monotonic(), self.interval
        spent = progress.cpu_seconds if self.world.main else 0.0
        self._before = (time.monotonic() - progress.seconds, time.process_time() - spent)
        # Each step seeds torch: the caller's random state is his own.
        cuda = [self.device] if self.device.type == "cuda" else []
        rows = max(map(len, self.batches.epoch(0)), default=0)
        products = fast_products(self.device, enabled=matrix_weights(self.model) * rows >= WORTH)
        with self.interrupt, repeatable(self.device), products, torch.random.fork_rng(devices=cuda):
            while progress.stopped is None:
                self._epoch()
            self._clock()
        if self.stop:
            raise KeyboardInterrupt  # the state is written: the same command has nothing left to train

    def _epoch(self) -> None:
        progress = self.state.progress
        plan = self.batches.epoch(progress.epoch)
        self.model.train()
        with bar(f"epoch {progress.epoch + 1}", total=self.steps, unit="batch") as shown:
            shown.update(progress.batch)
            while progress.batch < self.steps and progress.stopped is None:
                progress.loss_sum += self._step(plan[progress.batch])
                progress.loss_steps += 1
                progress.batch, progress.step = progress.batch + 1, progress.step + 1
                shown.update()
                self._clock()
                late = self.config.max_seconds is not None and progress.seconds >= self.config.max_seconds
                if late and progress.batch < self.steps:
                    progress.stopped = "max_seconds"
                elif progress.batch < self.steps:
                    self._save_when_due()
        if progress.batch == self.steps:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        self._end_epoch()

    def _step(self, rows: np.ndarray) -> float:
        """One step on a batch; return its loss. Its randomness depends on nothing that came before."""
        progress = self.state.progress
        torch.manual_seed(step_seed(self.seed, progress.epoch, progress.batch, self.world.rank))
        rate = self.schedule.rate(progress.step, progress.losses)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = backward(self.model, self.parameters, self.batches, rows, self.device, self.world)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        value, size = torch.stack([loss.float(), norm.float()]).tolist()
        if not (np.isfinite(value) and np.isfinite(size)):
            raise UserError(
                f"the {'gradient' if np.isfinite(value) else 'loss'} is not finite",
                where=f"epoch {progress.epoch + 1}, step {progress.step + 1}",
                got=size if np.isfinite(value) else value,
                todo=f"lower the learning rate (it is {self.config.learning_rate:g}) or add schedule.warmup_steps",
            )
        self.optimizer.step()
        return value

    def _end_epoch(self) -> None:
        """After an epoch, or when the time is up: evaluate where due, keep the best, decide whether to stop, save."""
        progress, config = self.state.progress, self.config
        if progress.stopped is None:
            if progress.epoch >= config.epochs:
                progress.stopped = "epochs"
            elif config.max_seconds is not None and progress.seconds >= config.max_seconds:
                progress.stopped = "max_seconds"
        if progress.stopped or progress.epoch % config.evaluate_every == 0:
            self._point()
        self._save()
        if self.stop and progress.stopped is None:
            self._interrupted()

    def _point(self) -> None:
        progress = self.state.progress
        figures = {} if self.evaluate is None else self._figures(self.evaluate)
        if figures:
            self._keep_best(figures[self.config.figure])
        self._clock()
        point = Point(
            epoch=progress.epoch,
            step=progress.step,
            loss=progress.loss_sum / max(1, progress.loss_steps),
            figures=figures,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            seconds=progress.seconds,
            cpu_seconds=progress.cpu_seconds,
        )
        progress.loss_sum, progress.loss_steps = 0.0, 0
        progress.curve.append(point)
        told = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
        self.say(
            f"epoch {point.epoch}, step {point.step:,}: loss {point.loss:.4f}"
            f"{', ' + told if told else ''}, rate {point.learning_rate:.2g}, "
            f"{point.seconds:,.0f} s ({point.cpu_seconds:,.0f} s of CPU)"
        )

    def _figures(self, evaluate: Callable[[Any], Mapping[str, float]]) -> dict[str, float]:
        with evaluating(self.model), torch.no_grad():
            own = {name: float(value) for name, value in evaluate(self.model).items()}
        figures: dict[str, float] = told_by_main(own, self.world)
        if self.config.figure not in figures:
            raise ConfigError(
                "the evaluation does not give the figure that decides",
                where="figure",
                expected=", ".join(figures),
                got=self.config.figure,
            )
        return figures

    def _keep_best(self, value: float) -> None:
        progress = self.state.progress
        if value > progress.best + MIN_DELTA:
            self.state.best = copy_weights(self.model)
            progress.best, progress.best_epoch, progress.waited = value, progress.epoch, 0
            return
        progress.waited += 1
        progress.losses += 1
        if progress.waited >= self.config.patience and progress.stopped is None:
            progress.stopped = "patience"

    def _clock(self) -> None:
        """Read the clocks and Ctrl-C: the main process's time, everyone's processor time, anyone's Ctrl-C."""
        progress = self.state.progress
        seconds = time.monotonic() - self._before[0] if self.world.main else 0.0
        own = [seconds, time.process_time() - self._before[1], float(self.interrupt.pressed)]
        progress.seconds, progress.cpu_seconds, pressed = total(own, self.world)
        self.stop = pressed > 0

    def resume(self) -> int:
        """Go back to where the checkpoint was written; return its step."""
        assert self.path is not None  # noqa: S101 - called only with a path
        self.state = load_state(self.path, json.loads(json.dumps(self.key)), self.model, self.optimizer)
        progress, most = self.state.progress, self.config.max_seconds
        if progress.stopped == "max_seconds" and (most is None or progress.seconds < most):
            progress.stopped = None  # more time is allowed now
        step = progress.step
        self.say(f"goes on from step {step:,} of {self.path}")
        return step

    def _save(self) -> None:
        if self.path is None or not self.world.main:
            return
        started = time.monotonic()
        save_state(self.path, self.key, self.model, self.optimizer, self.state)
        self.saved = time.monotonic()
        self.pause = max(self.interval, 20 * (self.saved - started) if self.interval else 0)

    def _save_when_due(self) -> None:
        if self.stop:
            self._save()
            self._interrupted()
        if time.monotonic() - self.saved >= self.pause:
            self._save()

    def _interrupted(self) -> None:
        """End after Ctrl-C; the state is written."""
        if self.path is not None:
            self.say(f"interrupted: the same command goes on from {self.path}")
        raise KeyboardInterrupt


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off; switch it back on if it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
