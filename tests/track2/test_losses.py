import numpy as np
import pytest
import torch
from torch.nn import functional

from track2_mmctr.config import LossConfig
from track2_mmctr.training import losses
from track2_mmctr.training.losses import ctr_loss, pairwise_loss


def scores(rows: int = 37, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, generator=generator)
    return logits.requires_grad_(), (torch.rand(rows, generator=generator) < 0.3).float()


def brute(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    terms = [functional.softplus(n - p) for p in logits[label == 1] for n in logits[label == 0]]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("pairs", [1, 30, 1 << 22])
def test_pairwise_equals_the_sum_over_all_pairs_with_its_gradient(pairs: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(losses, "PAIRS", pairs)
    logits, label = scores()
    value, expected = pairwise_loss(logits, label), brute(logits, label)
    (gradient,) = torch.autograd.grad(2 * value, logits)
    (oracle,) = torch.autograd.grad(2 * expected, logits)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, oracle, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_pairwise_without_a_pair_is_zero_with_zero_gradient(label: float):
    logits = torch.randn(5, requires_grad=True)
    value = pairwise_loss(logits, torch.full((5,), label))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == 0 and not gradient.any()


def test_pairwise_stays_finite_for_extreme_logits():
    logits = torch.tensor([-1e4, 1e4], requires_grad=True)
    value = pairwise_loss(logits, torch.tensor([1.0, 0.0]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(2e4) and gradient.tolist() == [-1, 1]


def test_cross_entropy_with_weighted_positives_equals_the_formula():
    logits, label = scores()
    z, y = logits.detach().double().numpy(), label.numpy()
    expected = (2.5 * y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)).mean()
    assert ctr_loss(logits, label, LossConfig(positive_weight=2.5)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_the_loss_is_the_weighted_sum_of_both(w: float):
    logits, label = scores(seed=1)
    expected = (1 - w) * functional.binary_cross_entropy_with_logits(logits, label) + w * brute(logits, label)
    assert ctr_loss(logits, label, LossConfig(pairwise=w)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_pairwise_knows_ranks_only_and_cross_entropy_the_level_too():
    logits, label = scores()
    moved = logits.detach() + 5
    assert pairwise_loss(moved, label).item() == pytest.approx(pairwise_loss(logits, label).item(), rel=1e-5)
    bce = LossConfig()
    assert abs(ctr_loss(moved, label, bce).item() - ctr_loss(logits, label, bce).item()) > 1
