"""The training loop: epochs of shuffled batches, evaluation on valid, early stopping, the best weights kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.memory import kept_memory
from common.metrics.ctr import auc, log_loss
from common.products import fast_products
from common.progress import bar
from common.training.distributed import World, at_least_float32, gather, parallel, share_sizes
from common.training.interrupt import Interrupt
from common.training.repeatable import repeatable, step_seed
from common.training.schedule import MIN_DELTA, Schedule, evaluation_points
from common.training.state import remove_state
from track2_mmctr.batches import epoch_order, make_batch
from track2_mmctr.config import LossConfig, TrainConfig
from track2_mmctr.datasets.tables import CtrData
from track2_mmctr.rankers.base import Ranker, Say
from track2_mmctr.training import batch_norm
from track2_mmctr.training.averaging import average_weights, copy_weights
from track2_mmctr.training.losses import ctr_loss
from track2_mmctr.training.predict import predict_together
from track2_mmctr.training.resume import Evaluation, State, load_state, save_state
from track2_mmctr.training.setup import check, has_batch_norm, large, make_optimizer

OnEvaluation = Callable[[Evaluation], None]
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class TrainResult:
    """What training came to; the model holds the weights of `best_auc`."""

    best_auc: float
    best_logloss: float
    epochs: int
    steps: int
    evaluations: list[Evaluation]
    stopped: str
    resumed_from: int | None


def train(
    model: Ranker,
    data: CtrData,
    config: TrainConfig,
    loss: LossConfig,
    *,
    max_len: int,
    seed: int,
    device: torch.device | str,
    folder: Path,
    say: Say,
    world: World = World(),  # noqa: B008 - frozen
    on_evaluation: OnEvaluation | None = None,
    identity: str = "",
    keep: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> TrainResult:
    """Train a ranker in place; it ends with the weights of the best valid AUC.

    An interrupted call is made again with the same arguments: it goes on from `folder/last`, and on a CPU it
    ends with the very same weights as one that was never interrupted.

    Parameters
    ----------
    identity
        What the model is, for instance its configuration as JSON: a checkpoint of another one is refused.
    keep
        False removes `folder/last` at the end.
    on_evaluation
        Called after each evaluation, when the checkpoint is written; what it raises ends the training.
    checkpoint_seconds
        Time between two checkpoints in mid-epoch; 0 = after each step.

    Raises
    ------
    ConfigError
        Settings that exclude each other; a checkpoint of another configuration.
    DataError
        No labels; a damaged checkpoint; logits that are not finite.
    UserError
        The loss is not finite; the disk is full.
    KeyboardInterrupt
        After Ctrl-C, when the checkpoint is written.
    """
    check(model, data, config, loss)
    path = folder / "last" / "state.safetensors"
    with _Trainer(model, data, config, loss, max_len, seed, torch.device(device), say, world) as trainer:
        trainer.keep_at(path, state_key(data, config, loss, max_len, seed, identity), checkpoint_seconds)
        resumed_from = trainer.resume() if path.exists() else None
        trainer.run(on_evaluation)
        done, best = trainer.state.progress, trainer.state.best
    if best is not None:
        model.load_state_dict(best)
    if not keep and world.main:
        remove_state(path.parent)
    stopped = done.stopped or "epochs"
    evaluations = list(done.evaluations)
    return TrainResult(done.best_auc, done.best_logloss, done.epoch, done.step, evaluations, stopped, resumed_from)


def state_key(
    data: CtrData, config: TrainConfig, loss: LossConfig, max_len: int, seed: int, identity: str
) -> dict[str, Any]:
    """Return all that decides how training goes: a checkpoint with another key is another run's."""
    digests = {name: split.digest for name, split in sorted(data.splits.items()) if name != "test"}
    return {
        "identity": identity,
        "train": config.model_dump(mode="json"),
        "loss": loss.model_dump(mode="json"),
        "data": digests | {"items": data.items.digest},
        "max_len": max_len,
        "seed": seed,
    }


class _Trainer:
    def __init__(
        self,
        model: Ranker,
        data: CtrData,
        config: TrainConfig,
        loss: LossConfig,
        max_len: int,
        seed: int,
        device: torch.device,
        say: Say,
        world: World,
    ) -> None:
        self.model, self.config, self.loss = model.to(device), config, loss
        self.max_len, self.seed, self.device, self.say, self.world = max_len, seed, device, say, world
        self.split, self.valid = data.train, data.splits["valid"]
        self.rows = min(config.rows or len(self.split), len(self.split))
        self.single = has_batch_norm(model) and self.rows % config.batch_size == 1
        self.steps = -(-(self.rows - self.single) // config.batch_size)
        self.schedule = Schedule(config.schedule, config.learning_rate, config.epochs * self.steps)
        self.optimizer = make_optimizer(model, config, device)
        self.state = State()
        self.interrupt = Interrupt()
        self.pause = self.saved = self.clock = 0.0

    def __enter__(self) -> _Trainer:
        self.replaced = batch_norm.synchronise(self.model) if self.world.size > 1 else []
        net: nn.Module = torch.compile(self.model, dynamic=True) if self.config.compile else self.model  # pyright: ignore[reportAssignmentType]
        self.net = parallel(net, self.world)
        return self

    def __exit__(self, *_: object) -> None:
        batch_norm.restore(self.replaced)

    def keep_at(self, path: Path, key: dict[str, Any], seconds: float) -> None:
        """Say where the state is written, what it is tied to, and how often it is written in mid-epoch."""
        self.path, self.key, self.interval = path, key, seconds

    def run(self, on_evaluation: OnEvaluation | None) -> None:
        """Train until the epochs are over or valid gains no more."""
        progress = self.state.progress
        if self.single and self.world.main:
            self.say("one row of each epoch is left out: it would be alone in the last batch, and batch norm needs two")
        self.saved, self.pause = time.monotonic(), self.interval
        onednn = large(self.model, self.config.batch_size) and not self.config.compile  # compiled code has its own
        products = fast_products(self.device, enabled=onednn)
        with self.interrupt, repeatable(self.device), products, kept_memory(self.device):
            while progress.stopped is None:
                self._epoch(on_evaluation)
        if self.interrupt.pressed:
            raise KeyboardInterrupt  # the state is written: the same command has nothing left to train

    def _epoch(self, on_evaluation: OnEvaluation | None) -> None:
        progress, points = self.state.progress, evaluation_points(self.steps, self.config.evaluations)
        order = epoch_order(self.rows, self.seed, progress.epoch)[: self.rows - self.single]
        self.clock = time.monotonic()
        seen = progress.loss_rows
        with bar(f"epoch {progress.epoch + 1}", total=self.steps, unit="batch") as shown:
            shown.update(progress.batch)
            while progress.batch < self.steps:
                start = progress.batch * self.config.batch_size
                rows = order[start : start + self.config.batch_size]
                value = self._step(rows)
                progress.loss_sum += value * len(rows)
                progress.loss_rows += len(rows)
                progress.batch, progress.step = progress.batch + 1, progress.step + 1
                shown.update()
                if progress.batch in points:
                    self._evaluate(progress.loss_rows - seen, on_evaluation)
                    seen = 0
                    if progress.stopped or not progress.batch:  # the next epoch has another order
                        return
                self._save_when_due()

    def _step(self, rows: np.ndarray) -> float:
        """One step on a batch; return its loss. Its randomness depends on nothing that came before."""
        progress = self.state.progress
        torch.manual_seed(step_seed(self.seed, progress.epoch, progress.batch, self.world.rank))
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(progress.step, progress.losses)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        parts = max(1, min(self.config.accumulate, len(rows) // 2))
        total = torch.zeros((), device=self.device)
        for number in range(parts):
            part = rows[number::parts]
            with self._part_of_step(last=number == parts - 1):
                logits, label = self._forward(part)
                loss = ctr_loss(logits, label, self.loss) * (len(part) / len(rows))
                loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        value, size = torch.stack([total, norm.to(total.dtype)]).tolist()
        if not (np.isfinite(value) and np.isfinite(size)):
            raise UserError(
                f"the {'gradient' if np.isfinite(value) else 'loss'} is not finite",
                where=f"epoch {progress.epoch + 1}, step {progress.step + 1}",
                got=size if np.isfinite(value) else value,
                todo=f"lower train.learning_rate (it is {self.config.learning_rate:g}) or add schedule.warmup_steps",
            )
        self.optimizer.step()
        return value

    def _forward(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Logits and labels of a batch's rows, [B] each; of several processes, each computes its share."""
        share = rows[self.world.rank :: self.world.size]
        silent = not len(share)  # fewer rows than processes: a stand-in row keeps the collectives in step
        batch = make_batch(self.split, rows[:1] if silent else share, self.max_len).to(self.device)
        if self.world.size > 1:
            batch_norm.set_silent(self.model, silent)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.amp):
            logits = at_least_float32(self.net(batch))
        assert batch.label is not None  # noqa: S101 - checked before training
        pairs = torch.stack([logits, batch.label.to(logits.dtype)], dim=1)[: len(share)]
        both = gather(pairs, share_sizes(len(rows), self.world), self.world)
        return both[:, 0], both[:, 1].detach()

    def _part_of_step(self, last: bool) -> AbstractContextManager[object]:
        """Add up the gradients of all processes once a step, with its last part."""
        return nullcontext() if last or self.world.size == 1 else self.net.no_sync()  # pyright: ignore[reportReturnType, reportCallIssue]

    def _evaluate(self, rows: int, on_evaluation: OnEvaluation | None) -> None:
        """Score on valid, keep the best weights, decide whether to stop, save; `rows` were trained on since."""
        progress, seconds = self.state.progress, time.monotonic() - self.clock
        score, loss = self._score()
        mean_auc = self._keep_best(score, loss)
        done = Evaluation(
            epoch=progress.epoch + 1,
            step=progress.step,
            train_loss=progress.loss_sum / progress.loss_rows,
            auc=score,
            logloss=loss,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            seconds=seconds,
            rows_per_second=rows / max(seconds, 1e-9),
            average_auc=mean_auc,
        )
        progress.evaluations.append(done)
        progress.loss_sum, progress.loss_rows = 0.0, 0
        if progress.batch == self.steps:
            progress.epoch, progress.batch = progress.epoch + 1, 0
        if progress.waited >= self.config.patience:
            progress.stopped = "patience"
        elif progress.epoch == self.config.epochs:
            progress.stopped = "epochs"
        self._tell(done)
        self._save()
        if on_evaluation is not None:
            on_evaluation(done)
        self.clock = time.monotonic()

    def _keep_best(self, score: float, loss: float) -> float | None:
        """Compare the weights, and their average, with the best so far; return the average's AUC."""
        state, progress = self.state, self.state.progress
        weights = copy_weights(self.model)
        best, mean_auc = (weights, score, loss), None
        if self.config.average > 1:
            state.snapshots = [*state.snapshots, weights][-self.config.average :]
        if len(state.snapshots) > 1:
            mean = average_weights(state.snapshots)
            self.model.load_state_dict(mean)
            mean_auc, mean_loss = self._score()
            self.model.load_state_dict(weights)
            best = (mean, mean_auc, mean_loss) if mean_auc > score else best
        if best[1] > progress.best_auc + MIN_DELTA:
            state.best, progress.best_auc, progress.best_logloss = best
            progress.waited = 0
        else:
            progress.waited += 1
            progress.losses += 1
        return mean_auc

    def _score(self) -> tuple[float, float]:
        """AUC and log-loss of the weights as they are, on valid."""
        size = max(self.config.batch_size, 1024)
        logits = predict_together(
            self.model,
            self.valid,
            self.world,
            batch_size=size,
            max_len=self.max_len,
            device=self.device,
            amp=self.config.amp,
        )
        assert self.valid.label is not None  # noqa: S101 - checked before training
        return auc(self.valid.label, logits), log_loss(self.valid.label, logits)

    def _tell(self, done: Evaluation) -> None:
        if self.world.main:
            mean = "" if done.average_auc is None else f" (average {done.average_auc:.5f})"
            self.say(
                f"epoch {done.epoch}, step {done.step:,}: loss {done.train_loss:.4f}, "
                f"valid AUC {done.auc:.5f}{mean}, log-loss {done.logloss:.4f}, "
                f"rate {done.learning_rate:.2g}, {done.rows_per_second:,.0f} rows/s"
            )

    def resume(self) -> int:
        """Go back to where the checkpoint was written; return its step."""
        self.state = load_state(self.path, self.key, self.model, self.optimizer)
        step = self.state.progress.step
        if self.world.main:
            self.say(f"goes on from step {step:,} of {self.path}")
        return step

    def _save(self) -> None:
        if self.world.main:
            started = time.monotonic()
            save_state(self.path, self.key, self.model, self.optimizer, self.state)
            self.saved = time.monotonic()
            self.pause = max(self.interval, 20 * (self.saved - started) if self.interval else 0)

    def _save_when_due(self) -> None:
        if self.interrupt.pressed and self.world.main:
            self._save()
            self.say(f"interrupted: the same command goes on from {self.path}")
            raise KeyboardInterrupt
        if time.monotonic() - self.saved >= self.pause:
            self._save()
