"""Training of RQ-VAE: k-means initialisation, early stopping on held-out reconstruction, resumption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import DataError, UserError
from common.progress import bar
from common.tokenizers.kmeans import kmeans, nearest
from common.tokenizers.rq_vae_model import ResidualVAE
from common.training.interrupt import Interrupt
from common.training.repeatable import repeatable, step_seed
from common.training.schedule import MIN_DELTA, Schedule, ScheduleConfig
from common.training.state import check_key, load_optimizer, part, prefixed, remove_state, todo
from common.training.tensors import read_tensors, write_tensors

FORMAT = "mirc-rq-vae-state-1"
BATCH = 1024
"""Rows of each product outside training, the last batch padded: results do not depend on how many come together."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast; see `RQVAE` for each."""

    steps: int
    warmup_steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    validation: float
    evaluate_every: int
    patience: int


@dataclass
class Progress:
    """Where training is. `error` is the relative one on held-out rows."""

    step: int = 0
    best_error: float = float("inf")
    best_step: int = 0
    waited: int = 0
    stopped: str | None = None
    evaluations: list[dict[str, float]] = field(default_factory=list)


class Trainer:
    """Trains a `ResidualVAE` in place on scaled rows float32 [N, D]; it ends with its best weights."""

    def __init__(
        self, model: ResidualVAE, x: np.ndarray, plan: Plan, *, seed: int, device: str, key: dict[str, Any]
    ) -> None:
        self.model, self.plan, self.seed, self.key = model.to(device), plan, seed, key
        self.device = torch.device(device)
        order = np.random.default_rng((seed, 1)).permutation(len(x))
        largest = max(model.shape.codebook_sizes)
        held = min(int(plan.validation * len(x)), len(x) - largest)
        self.train = torch.from_numpy(x[np.sort(order[held:])])
        # Too few rows to hold any out: then early stopping looks at the training rows.
        self.valid = x[np.sort(order[:held])] if held else x
        self.per_epoch = -(-len(self.train) // plan.batch_size)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
        warm_up = min(100, max(1, plan.steps // 20))
        config = ScheduleConfig(type="cosine", floor=plan.learning_rate * 0.01, warmup_steps=warm_up)
        self.schedule = Schedule(config, plan.learning_rate, plan.warmup_steps + plan.steps)
        self.progress = Progress()
        self.best: dict[str, Tensor] | None = None
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def run(self, folder: Path | None) -> Progress:
        """Train; with a folder, go on from what an interrupted call left there, and leave the same on Ctrl-C.

        Raises
        ------
        UserError
            The loss is not finite.
        ConfigError
            The folder holds the state of other settings, data or seed.
        KeyboardInterrupt
            After Ctrl-C, when the state is written.
        """
        path = None if folder is None else folder / "state.safetensors"
        if path is not None and path.exists():
            self._load(path)
        with (
            Interrupt() as interrupt,
            repeatable(self.device),
            bar("rq_vae", total=self._total(), unit="step") as shown,
        ):
            shown.update(self.progress.step)
            while self.progress.stopped is None:
                self._advance()
                shown.update()
                if path is not None and (interrupt.pressed or self.progress.step % self.plan.evaluate_every == 0):
                    self._save(path)
                if interrupt.pressed:
                    raise KeyboardInterrupt
        if self.best is not None:
            self.model.load_state_dict(self.best)
        if folder is not None:
            remove_state(folder)
        return self.progress

    def _total(self) -> int:
        return self.plan.warmup_steps + self.plan.steps

    def _advance(self) -> None:
        progress, plan = self.progress, self.plan
        quantize = progress.step >= plan.warmup_steps
        if progress.step == plan.warmup_steps:
            self._initialise()
        self._step(quantize)
        progress.step += 1
        done = progress.step - plan.warmup_steps
        if quantize and (done % plan.evaluate_every == 0 or done == plan.steps):
            self._evaluate()
            if progress.waited >= plan.patience:
                progress.stopped = "patience"
            elif done == plan.steps:
                progress.stopped = "steps"

    def _step(self, quantize: bool) -> None:
        progress = self.progress
        epoch, batch = divmod(progress.step, self.per_epoch)
        torch.manual_seed(step_seed(self.seed, epoch, batch, 0))
        if self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.seed, 2, epoch)).permutation(len(self.train))
        rows = self._order[1][batch * self.plan.batch_size : (batch + 1) * self.plan.batch_size]
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(progress.step)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses, used = self.model.loss(self.train[torch.from_numpy(rows)].to(self.device), quantize=quantize)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 10.0 * self.model.shape.dim**0.5)
        if not bool(torch.isfinite(norm) & torch.isfinite(losses["loss"])):
            raise UserError(
                "the loss or its gradient is not finite",
                where=f"rq_vae, step {progress.step + 1}",
                got=float(losses["loss"].detach()),
                todo=f"lower learning_rate (it is {self.plan.learning_rate:g})",
            )
        self.optimizer.step()
        if quantize:
            self.model.after_step(used)

    def _initialise(self) -> None:
        """Set each codebook to the k-means centroids of what the levels before leave of the latents."""
        shape = self.model.shape
        most = 256 * max(shape.codebook_sizes)
        rows = np.sort(np.random.default_rng((self.seed, 3)).permutation(len(self.train))[:most])
        left = apply(self.model.encoder, self.train[torch.from_numpy(rows)].numpy())
        for level, size in enumerate(shape.codebook_sizes):
            try:
                found = kmeans(left, size, seed=(self.seed, level), iterations=10)
            except DataError as error:
                raise DataError(
                    error.what,
                    where=f"rq_vae, level {level + 1}",
                    expected=error.expected,
                    got=error.got,
                    todo=error.todo,
                ) from None
            share = np.bincount(found.codes, minlength=size) / len(left) * self.plan.batch_size
            self.model.set_table(level, torch.from_numpy(found.centroids), torch.from_numpy(share).float())
            left = left - found.centroids[found.codes]

    def _evaluate(self) -> None:
        progress = self.progress
        error = relative_error(self.model, self.valid)
        progress.evaluations.append({"step": progress.step, "error": error})
        if error < progress.best_error - MIN_DELTA:
            progress.best_error, progress.best_step, progress.waited = error, progress.step, 0
            self.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        else:
            progress.waited += 1

    def _save(self, path: Path) -> None:
        values = self.optimizer.state_dict()["state"]
        tensors = prefixed("model", self.model.state_dict()) | prefixed("best", self.best or {})
        for number, state in values.items():
            tensors |= prefixed(f"optimizer/{number}", state)
        header = {"format": FORMAT, "key": self.key, "progress": asdict(self.progress)}
        write_tensors(path, tensors, header)

    def _load(self, path: Path) -> None:
        tensors, header = read_tensors(path, FORMAT, todo(path))
        check_key(path, header["key"], self.key)
        try:
            self.model.load_state_dict(part(tensors, "model"))
            load_optimizer(self.optimizer, part(tensors, "optimizer"))
            self.progress = Progress(**header["progress"])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise DataError("the state is damaged", where=path, got=str(error), todo=todo(path)) from None
        self.best = part(tensors, "best") or None


@torch.no_grad()
def apply(layers: Callable[[Tensor], Tensor], x: np.ndarray) -> np.ndarray:
    """Return float32 [N, e] of float32 [N, D]: layers applied to batches of exactly `BATCH` rows, the last padded."""
    found = []
    for start in range(0, len(x), BATCH):
        rows = x[start : start + BATCH]
        full = (
            rows if len(rows) == BATCH else np.concatenate([rows, np.zeros((BATCH - len(rows), x.shape[1]), x.dtype)])
        )
        found.append(layers(torch.from_numpy(np.ascontiguousarray(full))).numpy()[: len(rows)])
    return np.concatenate(found)


def residual_codes(z: np.ndarray, tables: list[np.ndarray]) -> np.ndarray:
    """Return the greedy codes int32 [N, L] of latents [N, e]."""
    codes = np.empty((len(z), len(tables)), dtype=np.int32)
    left = z.copy()
    for level, table in enumerate(tables):
        codes[:, level] = nearest(left, table)
        left -= table[codes[:, level]]
    return codes


def relative_error(model: ResidualVAE, x: np.ndarray) -> float:
    """Return sum |x - x^|^2 / sum |x - mean|^2 through codes, as `encode` and `decode` do it."""
    model.eval()
    device = next(model.parameters()).device
    tables = [table.detach().cpu().numpy() for table in model.tables()]

    def on_cpu(layers: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda batch: layers(batch.to(device)).cpu()

    codes = residual_codes(apply(on_cpu(model.encoder), x), tables)
    total = sum(table[codes[:, level]] for level, table in enumerate(tables))
    error = np.square(x - apply(on_cpu(model.decoder), np.asarray(total))).sum(dtype=np.float64)
    return float(error / max(float(np.square(x - x.mean(axis=0)).sum(dtype=np.float64)), 1e-30))
