"""The hybrid-expert adaptor: gates, permutation, switches, and vectors computed beforehand for serving."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import ConfigError, DataError
from common.representation.kar.adaptor import AdaptorConfig, HybridExpertAdaptor, precompute

DIMS = {"user": 12, "item": 12}


def adaptor(dims: dict[str, int] = DIMS, **options: Any) -> HybridExpertAdaptor:
    """An adaptor with weights large enough that each of them matters."""
    torch.manual_seed(0)
    made = HybridExpertAdaptor(dims, AdaptorConfig.model_validate({"units": [16, 8]} | options))
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.5)
    return made


def vectors(rows: int = 5, dims: dict[str, int] = DIMS, seed: int = 1) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, dim, generator=draw) for name, dim in dims.items()}


def test_views_stand_side_by_side_in_the_order_of_dims() -> None:
    made, k = adaptor(), vectors()
    out = made({"item": k["item"], "user": k["user"]})
    assert out.shape == (5, 16) and made.dim == 16
    torch.testing.assert_close(out[:, :8], made.view("user", k["user"]))
    torch.testing.assert_close(out[:, 8:], made.view("item", k["item"]))
    assert not torch.allclose(made.view("item", k["user"]), made.view("user", k["user"]))


def test_a_view_is_the_sum_of_experts_by_their_gates() -> None:
    made, k = adaptor(rescale=False), vectors()["user"]
    gates = made.gates("user", k)
    assert gates.shape == (5, 7)
    torch.testing.assert_close(gates.sum(1), torch.ones(5))
    assert gates.std(0).min() > 0.01
    own: Any = made.dedicated["of_user"]
    experts = [expert(k) for expert in [*made.shared, *own]]
    assert all((one >= 0).all() for one in experts)
    wanted = sum(gates[:, m : m + 1] * one for m, one in enumerate(experts))
    torch.testing.assert_close(made.view("user", k), wanted)


def test_the_order_of_experts_does_not_matter_where_gates_follow() -> None:
    made, k = adaptor(), vectors()
    before = made(k)
    shared, own = [1, 0], [3, 0, 4, 1, 2]
    made.shared = nn.ModuleList([made.shared[m] for m in shared])
    for name in DIMS:
        experts: Any = made.dedicated[f"of_{name}"]
        made.dedicated[f"of_{name}"] = nn.ModuleList([experts[m] for m in own])
    moved = made(k)
    assert not torch.allclose(moved, before)
    for name in DIMS:
        gate: Any = made.gate[f"of_{name}"]
        gate.weight.data = gate.weight.data[[*shared, *(2 + m for m in own)]].clone()
    torch.testing.assert_close(made(k), before)


def test_shared_experts_learn_from_both_views_and_dedicated_ones_from_theirs() -> None:
    made, k = adaptor(), vectors()
    made.view("user", k["user"]).sum().backward()
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in made.shared.parameters())
    own, other = made.dedicated["of_user"], made.dedicated["of_item"]
    assert all(w.grad is not None for w in own.parameters())
    assert all(w.grad is None for w in other.parameters())


def test_no_gradient_leaves_towards_the_encoder() -> None:
    encoder = nn.Linear(4, 12)
    made = adaptor()
    encoded = encoder(torch.ones(5, 4))
    made({"user": encoded, "item": encoded}).sum().backward()
    assert all(weight.grad is None for weight in encoder.parameters())
    assert any(weight.grad is not None for weight in made.parameters())


@pytest.mark.parametrize(("options", "experts"), [({"shared": 0}, 5), ({"dedicated": 0}, 2), ({"gate": False}, 7)])
def test_switches(options: dict[str, Any], experts: int) -> None:
    made, k = adaptor(**options), vectors()
    gates = made.gates("item", k["item"])
    assert gates.shape == (5, experts)
    torch.testing.assert_close(gates.sum(1), torch.ones(5))
    assert (len(made.gate) == 0) == (made.config.gate is False)
    if not made.config.gate:
        torch.testing.assert_close(gates, torch.full((5, 7), 1 / 7))
    assert made(k).shape == (5, 16)


def test_views_of_different_widths_are_mapped_for_shared_experts_only() -> None:
    dims = {"user": 12, "items": 7}  # a name that ModuleDict has a method of
    made = adaptor(dims)
    assert set(made.project) == {"of_user", "of_items"}
    assert made(vectors(dims=dims)).shape == (5, 16)
    first: Any = made.shared[0]
    assert first[0].in_features == 7
    wide: Any = adaptor(dims, width=20).shared[0]
    assert wide[0].in_features == 20
    assert len(adaptor(dims, shared=0).project) == len(adaptor().project) == 0


def test_the_length_of_a_vector_does_not_matter_when_rescaled() -> None:
    k = vectors()["user"]
    made, raw = adaptor(), adaptor(rescale=False)
    torch.testing.assert_close(made.view("user", 50 * k), made.view("user", k))
    assert not torch.allclose(raw.view("user", 50 * k), raw.view("user", k))


def test_what_all_vectors_share_is_subtracted_once_calibrated() -> None:
    made, k = adaptor(), vectors(rows=40)["user"]
    shift = torch.full((12,), 9.0)
    centred = made.view("user", k - k.mean(0))
    assert (made.view("user", k + shift) - centred).abs().max() > 0.1
    made.calibrate("user", k + shift)
    torch.testing.assert_close(made.view("user", k + shift), centred, atol=1e-4, rtol=1e-4)
    other = HybridExpertAdaptor(DIMS, made.config)
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.view("user", k), made.view("user", k))
    for wrong in (torch.zeros(3, 11), torch.zeros(0, 12), torch.full((1, 12), torch.nan)):
        with pytest.raises(DataError):
            made.calibrate("user", wrong)


def test_vectors_computed_beforehand_give_the_logits_of_live_ones() -> None:
    made, k = adaptor(), vectors(rows=50)
    torch.manual_seed(2)
    head = nn.Linear(16, 1)
    live = head(made(k))
    tables = [torch.from_numpy(precompute(made, name, k[name].numpy(), 50)) for name in DIMS]
    assert tables[0].dtype == torch.float32 and tables[0].shape == (50, 8)
    assert torch.equal(head(torch.cat(tables, 1)), live)
    small = precompute(made, "user", k["user"].numpy(), batch_size=7)
    np.testing.assert_allclose(small, tables[0].numpy(), rtol=1e-5, atol=1e-6)
    assert precompute(made, "user", np.empty((0, 12), np.float32)).shape == (0, 8)


def test_weights_survive_saving() -> None:
    made, k = adaptor(), vectors()
    other = HybridExpertAdaptor(DIMS, made.config)
    assert not torch.equal(other(k), made(k))
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(k), made(k))


def test_other_vectors_than_it_was_made_for_are_refused() -> None:
    made, k = adaptor(), vectors()
    with pytest.raises(DataError, match="another view or width"):
        made.view("user", torch.zeros(3, 11))
    with pytest.raises(DataError, match="view context"):
        made.view("context", k["user"])
    with pytest.raises(DataError, match="lacks a view"):
        made({"user": k["user"]})
    broken = k["user"].numpy().copy()
    broken[3, 2] = np.nan
    with pytest.raises(DataError, match="view user, row 3"):
        precompute(made, "user", broken)


def test_impossible_adaptors_are_refused() -> None:
    with pytest.raises(ConfigError, match="no expert"):
        adaptor(shared=0, dedicated=0)
    with pytest.raises(ConfigError, match="a name and a width"):
        adaptor({})
    with pytest.raises(ConfigError, match="a name and a width"):
        adaptor({"a.b": 3})
