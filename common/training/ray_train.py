"""Ray Train around the training function that torchrun calls too: N processes on one Ray cluster.

Each worker calls the same function with its `World`; gloo or NCCL join them as under torchrun, so that on one machine
the weights are the same, byte for byte. What the main process says and raises comes back to the caller. A worker that
dies ends all of them; they are started again, and go on from the training's own checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import ConfigError, UserError
from common.training.distributed import PATIENCE, World

RESTARTS = 2
"""How often a training is started again whose workers died."""
STOP_SECONDS = 60.0
"""How long the workers may take to write their checkpoint after Ctrl-C."""
Say = Callable[[str], None]
Task = Callable[[World, str, Say], Any]
"""task(world, device, say): a function of a module, or a `functools.partial` of one."""


def train_on_ray(
    task: Task, *, workers: int, address: str | None, folder: Path, device: str, here: Path, say: Say
) -> Any:
    """Call `task` in `workers` processes at once; return what it returns in the main one.

    Parameters
    ----------
    workers
        Processes; each has a CPU of the cluster, and a GPU where `device` is one.
    address
        HOST:PORT of a cluster; None starts one on this machine for as long as the call takes.
    folder
        On storage that all nodes share: Ray Train's own notes are there meanwhile.
    device
        cpu or cuda; auto: cuda where the cluster has a GPU for each worker.
    here
        The workers' working folder: paths relative to it mean the same as in this process.

    Raises
    ------
    ConfigError
        Ray is not installed, no cluster answers, or it has fewer CPUs or GPUs than workers.
    UserError
        What `task` raised; or the workers died time and again.
    KeyboardInterrupt
        After Ctrl-C, when the checkpoint is written.
    """
    from common.engine.ray_session import connect

    if workers < 1:
        raise ConfigError("training needs a worker", where="--workers", expected="1 or more", got=workers)
    with connect(address, workers) as ray:
        gpus = _room(ray, workers, device)
        mailbox = ray.remote(num_cpus=0)(_Mailbox).remote()
        notes = folder / f"ray-train-{os.getpid()}"
        call = _Call(ray, mailbox, task, workers, gpus, notes, here, say)
        try:
            return call.run()
        finally:
            shutil.rmtree(notes, ignore_errors=True)


def _room(ray: Any, workers: int, device: str) -> bool:
    """Return whether the workers get GPUs; raise `ConfigError` where they would wait for ever."""
    there = ray.cluster_resources()
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    use = device.startswith("cuda") or (device == "auto" and gpus >= workers)
    for name, count, needed in (("CPUs", cpus, True), ("GPUs", gpus, use)):
        if needed and count < workers:
            raise ConfigError(
                f"the Ray cluster has fewer {name} than workers",
                where="--workers",
                expected=f"at most {count}",
                got=workers,
            )
    return use


class _Mailbox:
    """What workers tell the process that started them, and the one thing that it tells them: stop."""

    def __init__(self) -> None:
        self.letters: list[tuple[str, Any]] = []
        self.stop = asyncio.Event()

    async def put(self, kind: str, value: Any) -> None:
        self.letters.append((kind, value))

    async def take(self) -> list[tuple[str, Any]]:
        taken, self.letters = self.letters, []
        return taken

    async def press(self) -> None:
        self.stop.set()

    async def pressed(self) -> None:
        await self.stop.wait()


@dataclass
class _Call:
    """One call of `train_on_ray`. Ray Train works in a thread, so that Ctrl-C is this process's own."""

    ray: Any
    mailbox: Any
    task: Task
    workers: int
    gpus: bool
    notes: Path
    here: Path
    say: Say
    result: Any = None
    failure: BaseException | None = None
    error: UserError | None = None
    stopped: bool = False
    _done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Any:
        for attempt in range(RESTARTS + 1):
            try:
                self._attempt(attempt)
            except KeyboardInterrupt:
                self.ray.get(self.mailbox.press.remote())
                self._drain_until_done(STOP_SECONDS)
                raise
            if self.stopped:
                raise KeyboardInterrupt
            if self.error is not None:
                raise self.error
            if self.failure is None:
                return self.result
            if attempt < RESTARTS:
                self.say(f"a worker failed ({_reason(self.failure)}): all start again, from the last checkpoint")
        raise UserError(
            f"training on Ray failed {RESTARTS + 1} times",
            where="--engine ray",
            got=_reason(self.failure),
            todo="look whether memory suffices; --debug shows what Ray says",
        ) from self.failure

    def _attempt(self, number: int) -> None:
        self.result, self.failure = None, None
        self._done.clear()
        threading.Thread(target=self._fit, args=(number,), daemon=True).start()
        self._drain_until_done(None)

    def _drain_until_done(self, seconds: float | None) -> None:
        """Hand on what the workers say until they are done, or the time is up."""
        waited = 0.0
        while not (done := self._done.wait(0.2)) and (seconds is None or waited < seconds):
            waited += 0.2
            self._drain()
        if done:
            self._drain()

    def _drain(self) -> None:
        for kind, value in self.ray.get(self.mailbox.take.remote()):
            if kind == "say":
                self.say(value)
            elif kind == "error":
                self.error = self.error or value
            else:
                self.stopped = True

    def _fit(self, number: int) -> None:
        try:
            self.result = self._trainer(number).fit().return_value
        except BaseException as error:
            self.failure = error
        finally:
            self._done.set()

    def _trainer(self, number: int) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        # Ray's own restarts would repeat a user's error as well; `run` starts again what can be helped by it.
        return TorchTrainer(
            _work,
            train_loop_config={"task": self.task, "mailbox": self.mailbox, "here": str(self.here)},
            torch_config=TorchConfig("nccl" if self.gpus else "gloo", timeout_s=int(PATIENCE.total_seconds())),
            scaling_config=ScalingConfig(num_workers=self.workers, use_gpu=self.gpus),
            run_config=RunConfig(
                name=f"attempt-{number}", storage_path=str(self.notes), failure_config=FailureConfig(max_failures=0)
            ),
        )


def _work(config: dict[str, Any]) -> Any:
    """Be one worker."""
    import ray
    import torch
    from ray import train
    from ray.train.torch import get_device

    from common.training.interrupt import press

    context, mailbox = train.get_context(), config["mailbox"]
    world = World(context.get_world_rank(), context.get_world_size(), context.get_local_world_size())

    def listen() -> None:
        with contextlib.suppress(Exception):  # the caller is gone, and this process will be
            ray.get(mailbox.pressed.remote())
            press()

    def say(line: str) -> None:
        ray.get(mailbox.put.remote("say", line))

    threading.Thread(target=listen, daemon=True).start()
    try:
        os.chdir(config["here"])
        device = get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where NCCL exchanges what the processes tell each other
        return config["task"](world, str(device), say)
    except OSError as error:
        if getattr(error, "filename", None) != config["here"]:
            raise
        _tell(ray, mailbox, _no_folder(world, config["here"]))
        raise
    except UserError as error:
        _tell(ray, mailbox, error)
        raise
    except KeyboardInterrupt:
        ray.get(mailbox.put.remote("stopped", world.rank))
        raise RuntimeError("interrupted") from None  # an error, which ends the other workers too


def _tell(ray: Any, mailbox: Any, error: UserError) -> None:
    ray.get(mailbox.put.remote("error", error))


def _no_folder(world: World, here: str) -> UserError:
    return ConfigError(
        "a worker does not see the working folder",
        where=f"process {world.rank}, {here}",
        todo="have the project and the data at the same place on every node: a shared folder",
    )


def _reason(failure: BaseException | None) -> str:
    """Return the last line of a failure's text, which in Ray's names the error itself."""
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return (lines[-1] if lines else type(failure).__name__)[:200]
