"""Several processes take the steps of one: over gloo, and the weighing of shares of every generator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import ConfigError
from common.training.distributed import World, told_by_main, total
from common.training.shares import backward, weighed
from common.training.tensors import read_tensors
from tests.common.training import together
from tests.common.training.together import CASES, fit, make
from tests.processes import one_thread as one_thread
from tests.processes import run_module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """Every case, trained by two real processes with the variables that torchrun sets."""
    folder = tmp_path_factory.mktemp("together")
    run_module(root, "tests.common.training.together", str(folder))
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case: str, trained: Path, tmp_path: Path) -> None:
    start = make(case)[0].state_dict()
    model, result = fit(case, tmp_path, World())
    both = [read_tensors(trained / f"{case}-{rank}.safetensors", "test", "") for rank in range(together.SIZE)]
    for name, expected in model.state_dict().items():
        assert torch.equal(both[0][0][name], both[1][0][name]), "the processes end with the same bytes"
        torch.testing.assert_close(both[0][0][name], expected, rtol=1e-3, atol=2e-4)
    assert max((both[0][0][name] - value).abs().max() for name, value in start.items()) > 0.01, "something was learnt"
    for _, header in both:
        points = [(p["epoch"], p["step"], p["figures"]) for p in header["curve"]]
        assert points == [(p.epoch, p.step, p.figures) for p in result.curve]
        assert [p["loss"] for p in header["curve"]] == pytest.approx([p.loss for p in result.curve], rel=1e-5)
        assert header["curve"][-1]["cpu_seconds"] == both[0][1]["curve"][-1]["cpu_seconds"] > 0


def test_ctrl_c_in_any_process_stops_all_and_one_alone_goes_on(trained: Path, tmp_path: Path) -> None:
    assert all((trained / f"stopped-{rank}").is_file() for rank in range(together.SIZE))
    resumed, result = fit("tiger", trained / "stopped", World())
    assert result.resumed_from == 5
    whole, _ = fit("tiger", tmp_path, World())
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=1e-3, atol=2e-4)
    assert not (trained / "stopped" / "last").exists()
    assert not list(trained.rglob(".partial-*"))


def test_processes_that_differ_or_fail_say_so(trained: Path) -> None:
    for rank in range(together.SIZE):
        text = (trained / f"differ-{rank}").read_text()
        assert "do not train the same: the data" in text and "process 1 differs" in text
    assert (trained / "failed-0").read_text() == "full"
    assert "the main process failed" in (trained / "failed-1").read_text()


def test_processes_share_the_encoding_of_item_texts(trained: Path) -> None:
    wanted = [[len(text), int(text)] for text in together.TEXTS]
    shares = [(trained / f"encoded-{rank}").read_text().split() for rank in range(together.SIZE)]
    for rank, share in enumerate(shares):
        assert np.array_equal(np.load(trained / f"texts-{rank}.npy"), np.array(wanted, np.float32))
        assert len(share) >= 4, "the other process did not do it all"
    assert sorted(shares[0] + shares[1]) == sorted(together.TEXTS), "no text was encoded twice"


def _gradient(model: Any) -> dict[str, torch.Tensor]:
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def _shares_add_up(model: Any, batches: Any, rows: np.ndarray, size: int = 3) -> None:
    """The gradient of the whole is the sum of the shares', each weighed by what it counts."""
    cpu, model = torch.device("cpu"), model.eval()  # without dropout
    parameters = [one for one in model.parameters() if one.requires_grad]
    loss = backward(model, parameters, batches, rows, cpu, World())
    whole = _gradient(model)
    size = min(size, len(rows))
    shares = [batches.make(rows[rank::size]) for rank in range(size)]
    sums = {name: sum(one.counts()[name] for one in shares) for name in shares[0].counts()}
    added = 0.0
    for one in shares:
        part = weighed(model.loss(one), {name: n / sums[name] for name, n in one.counts().items() if sums[name]})
        part.backward()
        added += float(part.detach())
    assert added == pytest.approx(float(loss), rel=1e-5)
    parts = _gradient(model)
    assert parts.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("case", CASES[:3])
def test_the_shares_of_a_batch_of_sequences_add_up(case: str) -> None:
    model, batches = make(case)
    _shares_add_up(model, batches, batches.epoch(0)[1])


def _cart() -> tuple[Any, Any]:
    from common.generative.cart_batches import CartBatches
    from tests.common.generative.cart_helpers import TEXTS, cart

    model = cart()
    return model, CartBatches(model, TEXTS * 2, np.arange(2 * len(TEXTS)) * 3, seed=1, batch_size=9)


def _eager() -> tuple[Any, Any]:
    from tests.common.generative.test_eager_model import N, eager

    model = eager(recon=0.0, est=0.0)  # what these two replace is drawn; the negatives are all items
    return model, model.batches(np.arange(60) % N, np.arange(0, 61, 6), seed=1, batch_size=40)


def _eager_llm() -> tuple[Any, Any]:
    from tests.common.generative.test_eager_llm import batches, made

    model = made()
    return model, batches(model)


def _store() -> tuple[Any, Any]:
    from tests.common.generative.test_store_model import batches, small

    model = small.store()
    return model, batches(model)


def _dense() -> tuple[Any, Any]:
    from common.generative.store.dense import DenseBatches
    from tests.common.generative import store_helpers as small

    model = small.tokenizer()
    return model, DenseBatches(model, small.items(), seed=1)


@pytest.mark.parametrize("make_both", [_cart, _eager, _eager_llm, _store, _dense])
def test_the_shares_of_a_batch_of_every_other_generator_add_up(make_both: Any) -> None:
    model, batches = make_both()
    _shares_add_up(model, batches, batches.epoch(0)[0])


def test_a_world_of_one_tells_itself_nothing() -> None:
    assert told_by_main([1], World()) == [1] and total([2.0], World()) == [2.0]
    assert [World(0, 4).threads(8), World(0, 4, 2).threads(8), World(0, 4).threads(2)] == [2, 4, 1]


def test_batches_that_cannot_be_shared_are_refused() -> None:
    class Whole:
        digest = ""

        def __len__(self) -> int:
            return 1

        def epoch(self, number: int) -> list[np.ndarray]:
            return [np.arange(4)]

        def make(self, rows: np.ndarray) -> torch.Tensor:
            return torch.zeros(len(rows))

    with pytest.raises(ConfigError, match="runs in one process"):
        backward(None, [], Whole(), np.arange(4), torch.device("cpu"), World(0, 2))


@pytest.mark.slow
def test_torchrun_trains_a_generator_with_all_that_it_needs_first(root: Path, tmp_path: Path) -> None:
    """EAGER, whose vectors are those of a SASRec: one process writes, and one goes on."""
    import json

    from common.planted import ClusterChain

    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    lists = ClusterChain(np.arange(24) // 4, stay=0.9, seed=0).sequences(60, 7, 0)
    (data / "Toy.inter.json").write_text(json.dumps({f"u{n}": (100 + one).tolist() for n, one in enumerate(lists)}))
    sets = ["eager.dim=16", "eager.heads=2", "eager.feedforward=16", "eager.decoder_layers=1", "sasrec.dim=16"]
    sets += ["train.epochs=2", "behaviour.train.epochs=2", "train.valid_users=20", "evaluate.beam=10", "device=cpu"]
    rest = ["--model", "eager", "--data", str(data), "--out", str(out), *(p for one in sets for p in ("--set", one))]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    said = []
    for verb in ("train", "evaluate"):
        command = [*torchrun, "-m", "common.generative", verb, *rest]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, check=False)
        said.append(done.stdout)
        assert (done.returncode == 0) == (verb == "train"), done.stderr
    assert "this command runs in one process" in done.stderr
    assert said[0].count("trained 2 epochs") == 2 and said[0].count("next: ") == 1, "SASRec, then EAGER, said once"
    assert len(list((out / "runs").glob("*-generative-*"))) == 1
    command = [sys.executable, "-m", "common.generative", "evaluate", *rest]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and "epoch 1" not in done.stdout and "Recall@10" in done.stdout, done.stderr
