"""Cross networks against FuxiCTR's with the same weights, and against the paper's formula."""

import pytest
import torch

from track2_mmctr.rankers.cross import CrossNetMix, CrossNetV2

DIM, ROWS = 12, 7


def inputs() -> torch.Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(3))


def jittered(module: torch.nn.Module) -> torch.nn.Module:
    """Weights away from their initial values, so that zero biases do not hide anything."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return module


def test_full_cross_equals_fuxictr():
    layers = pytest.importorskip("fuxictr.pytorch.layers")
    ours, theirs = jittered(CrossNetV2(DIM, 3)), layers.CrossNetV2(DIM, 3)
    for mine, other in zip(ours.layers, theirs.cross_layers, strict=True):
        other.load_state_dict(mine.state_dict())
    torch.testing.assert_close(ours(inputs()), theirs(inputs()), rtol=0, atol=1e-5)


def test_mixture_equals_fuxictr():
    layers = pytest.importorskip("fuxictr.pytorch.layers")
    ours, theirs = jittered(CrossNetMix(DIM, 3, 4, 5)), layers.CrossNetMix(DIM, layer_num=3, low_rank=4, num_experts=5)
    with torch.no_grad():
        for layer in range(3):
            theirs.V_list[layer].copy_(ours.inward[layer].transpose(1, 2))
            theirs.C_list[layer].copy_(ours.middle[layer])
            theirs.U_list[layer].copy_(ours.outward[layer].transpose(1, 2))
            theirs.bias[layer].copy_(ours.bias[layer][:, None])
        for expert, gate in enumerate(theirs.gating):
            gate.weight.copy_(ours.gate.weight[expert : expert + 1])
    torch.testing.assert_close(ours(inputs()), theirs(inputs()), rtol=0, atol=1e-5)


def test_low_rank_is_the_full_form_with_a_product_of_matrices():
    low, full = jittered(CrossNetV2(DIM, 2, rank=3)), CrossNetV2(DIM, 2)
    with torch.no_grad():
        for layer in range(2):
            full.layers[layer].weight.copy_(low.layers[layer].weight @ low.inward[layer].weight)
            full.layers[layer].bias.copy_(low.layers[layer].bias)
    torch.testing.assert_close(low(inputs()), full(inputs()), rtol=0, atol=1e-5)
    assert sum(p.numel() for p in low.parameters()) == 2 * (2 * 3 * DIM + DIM)


def test_no_layers_is_the_identity():
    assert torch.equal(CrossNetV2(DIM, 0)(inputs()), inputs())


@pytest.mark.parametrize("net", [CrossNetV2(DIM, 2), CrossNetV2(DIM, 2, rank=3), CrossNetMix(DIM, 2, 3, 4)])
def test_gradients_reach_every_weight(net):
    jittered(net)(inputs()).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in net.parameters())


def test_one_row_keeps_its_shape():
    assert CrossNetMix(DIM, 2, 3, 4)(inputs()[:1]).shape == (1, DIM)
