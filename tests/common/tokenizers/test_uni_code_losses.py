"""Uni-Code's losses, CLUB and codebook against their equations, in plain loops."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.tokenizers.uni_code.club import Club
from common.tokenizers.uni_code.codebook import SharedCodebook
from common.tokenizers.uni_code.losses import CrossCpc, code_matching, commitment


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def codebook(modalities: int = 2, codes: int = 5, dim: int = 3, **changes: Any) -> SharedCodebook:
    settings: dict[str, Any] = {"decay": 0.9, "ema": "cross_attention", "reset": "unused_by_all"}
    settings |= {"reset_after": 3, "active_within": 2} | changes
    made = SharedCodebook(codes, dim, modalities, **settings)
    made.table.copy_(draw(codes, dim, seed=9))
    made.sums.copy_(made.table)
    return made


# -- Cross-CPC


@pytest.mark.parametrize(("steps", "horizon", "own"), [(5, 2, False), (3, 9, True), (1, 1, False), (1, 2, True)])
def test_cross_cpc_is_its_formula(steps: int, horizon: int, own: bool) -> None:
    torch.manual_seed(1)
    module, z = CrossCpc(2, 4, 6, steps, horizon, own=own), draw(2, 7, steps, 4)
    ahead = [0] if steps == 1 else list(range(1, min(horizon, steps - 1) + 1))
    pairs = [(a, b) for a in range(2) for b in range(2) if a != b or (own and steps > 1)]
    values = []
    with torch.no_grad():
        past = [context(part)[0] for context, part in zip(module.contexts, z, strict=True)]
        for place, k in enumerate(ahead):
            for a, b in pairs:
                losses = []
                for sample in range(7):
                    for t in range(steps - k):
                        guess = module.weights[a, place] @ past[a][sample, t]
                        losses.append(-torch.log_softmax(z[b, :, t + k] @ guess, 0)[sample].item())
                values.append(np.mean(losses))
        assert module(z).item() == pytest.approx(np.mean(values), rel=1e-5)


def test_three_modalities_have_six_pairs_and_nine_with_their_own_future() -> None:
    assert len(CrossCpc(3, 4, 4, 3, 1, own=False).pairs) == 6
    assert len(CrossCpc(3, 4, 4, 3, 1, own=True).pairs) == 9
    assert len(CrossCpc(3, 4, 4, 1, 1, own=True).pairs) == 6  # one step: nothing of its own to predict


def test_a_context_sees_no_later_step() -> None:
    torch.manual_seed(2)
    module, z = CrossCpc(2, 4, 6, 4, 1, own=False), draw(2, 3, 4, 4)
    changed = z.clone()
    changed[0, :, 2:] += 5.0
    before, after = module.contexts[0](z[0])[0], module.contexts[0](changed[0])[0]
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2:], after[:, 2:])


# -- commitment and code matching


@pytest.mark.parametrize("modalities", [2, 3])
def test_commitment_goes_to_the_own_code_and_half_to_the_others(modalities: int) -> None:
    z, quantized = draw(modalities, 4, 2, 3), draw(modalities, 4, 2, 3, seed=1)
    own = sum(0.25 * (z[m] - quantized[m]).square().mean() for m in range(modalities))
    other = sum(
        0.125 * (z[m] - quantized[n]).square().mean() for m in range(modalities) for n in range(modalities) if m != n
    )
    assert commitment(z, quantized, 0.25, cross=False).item() == pytest.approx(float(own), rel=1e-5)
    assert commitment(z, quantized, 0.25, cross=True).item() == pytest.approx(float(own + other), rel=1e-5)


def test_code_matching_is_its_formula_and_falls_when_pairs_match() -> None:
    z, table = draw(2, 6, 3, 4), draw(9, 4, seed=1)
    chances = []
    for part in z:
        distance = torch.stack([torch.stack([(step - table).norm(dim=1) for step in sample]) for sample in part])
        chances.append(torch.softmax(-distance, -1).mean(1))
    score = chances[0] @ chances[1].log().T + chances[1] @ chances[0].log().T
    expected = -torch.log_softmax(score, 1).diagonal().mean()
    assert code_matching(z, table).item() == pytest.approx(expected.item(), rel=1e-4)
    sharp = 5 * table[torch.arange(6) % 9]
    same = torch.stack([sharp, sharp])[:, :, None]
    mixed = torch.stack([sharp, sharp.roll(1, 0)])[:, :, None]
    assert code_matching(same, 5 * table) < code_matching(mixed, 5 * table)


# -- CLUB


def test_clubs_bound_is_that_of_all_pairs() -> None:
    torch.manual_seed(3)
    club, z, s = Club(2, 4, 3, 5, 1e-3), draw(2, 8, 4), draw(2, 8, 3, seed=1)
    mean, log_variance = club.log_density(club.flat, z)
    expected = 0.0
    for m in range(2):
        q = torch.distributions.Normal(mean[m], torch.exp(0.5 * log_variance[m]))
        own = q.log_prob(s[m]).sum(1).mean()
        others = torch.stack([q.log_prob(s[m, j].expand(8, 3)).sum(1) for j in range(8)]).mean()
        expected += (own - others).item()
    assert club.bound(z, s).item() == pytest.approx(expected, rel=1e-4)


def test_clubs_inner_steps_are_adams() -> None:
    torch.manual_seed(4)
    club, z, s = Club(1, 4, 3, 5, 1e-2), draw(1, 8, 4), draw(1, 8, 3, seed=1)
    weights = club.flat.clone().requires_grad_()
    adam = torch.optim.Adam([weights], lr=1e-2)
    for _ in range(4):
        adam.zero_grad()
        mean, log_variance = club.log_density(weights, z)
        ((s - mean).square() * torch.exp(-log_variance) + log_variance).sum(2).mean(1).sum().backward()
        adam.step()
    club.learn(z, s, 4)
    torch.testing.assert_close(club.flat, weights.detach(), rtol=1e-4, atol=1e-6)
    assert int(club.steps) == 4


def test_clubs_bound_tells_dependent_from_independent_and_gives_no_gradient_to_its_networks() -> None:
    torch.manual_seed(5)
    z, noise = draw(1, 512, 4), draw(1, 512, 4, seed=1)
    bounds = []
    for share in (1.0, 0.0):
        club = Club(1, 4, 4, 16, 1e-2)
        s = share * z + 0.3 * noise
        club.learn(z[:, :256], s[:, :256], 100)
        bounds.append(club.bound(z[:, 256:], s[:, 256:]).item())  # of samples that it did not learn from
    assert bounds[0] > 1.0
    assert abs(bounds[1]) < 0.3
    club = Club(1, 4, 4, 16, 1e-2)
    leaf = z.clone().requires_grad_()
    club.bound(leaf, noise).backward()
    assert leaf.grad is not None
    assert club.flat.grad is None
    assert not list(club.parameters())


# -- the codebook


def attended(z: Tensor, m: int, n: int) -> Tensor:
    """Return what modality m's steps attend to in n's, in plain loops."""
    found = torch.empty_like(z[m])
    for sample in range(z.shape[1]):
        for step in range(z.shape[2]):
            weights = torch.softmax(z[n, sample] @ z[m, sample, step] / z.shape[3] ** 0.5, 0)
            found[sample, step] = weights @ z[n, sample]
    return found


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("ema", ["cross_attention", "paired", "none"])
def test_the_codebook_moves_by_its_formula(ema: str, modalities: int) -> None:
    book, z = codebook(modalities, ema=ema, reset="none"), draw(modalities, 4, 3, 3)
    counts, sums = book.counts.clone(), book.sums.clone()
    codes = book.choose(z)
    seen, total = torch.zeros(5), torch.zeros(5, 3)
    for m in range(modalities):
        others = [n for n in range(modalities) if n != m]
        for sample in range(4):
            for step in range(3):
                value = z[m, sample, step]
                if ema == "paired":
                    value = (value + sum(z[n, sample, step] for n in others)) / modalities
                elif ema == "cross_attention":
                    value = (value + sum(attended(z, m, n)[sample, step] for n in others)) / modalities
                seen[codes[m, sample, step]] += 1
                total[codes[m, sample, step]] += value
    book.after_step(z, codes)
    counts, sums = 0.9 * counts + 0.1 * seen, 0.9 * sums + 0.1 * total
    torch.testing.assert_close(book.counts, counts)
    torch.testing.assert_close(book.table, sums / counts[:, None])


def test_with_one_step_cross_attention_is_the_released_variant() -> None:
    z = draw(3, 4, 1, 3)
    torch.testing.assert_close(codebook(3).targets(z), codebook(3, ema="paired").targets(z))


def test_a_code_is_reset_when_no_modality_uses_it_or_with_the_released_rule_when_one_does_not() -> None:
    for rule, moved in (("unused_by_all", {3, 4}), ("unused_by_any", {2, 3, 4}), ("none", set())):
        book = codebook(reset=rule, ema="none", decay=0.5)
        start = torch.eye(5, 3) * 10
        start[3], start[4] = torch.tensor([9.0, 9, 9]), torch.tensor([-9.0, -9, -9])
        book.table.copy_(start)
        book.sums.copy_(start)
        # Modality 0 uses codes 0, 1 and 2, modality 1 only 0 and 1.
        z = torch.stack([start[[0, 1, 2]], start[[0, 1, 1]]])[:, :, None]
        codes = torch.tensor([[0, 1, 2], [0, 1, 1]])[:, :, None]
        torch.manual_seed(6)
        for _ in range(2):
            book.after_step(z, codes)
        torch.testing.assert_close(book.table, start)
        book.after_step(z, codes)  # the third step without use
        gone = {code for code in range(5) if not torch.allclose(book.table[code], start[code])}
        assert gone == moved
        for code in gone:
            gaps = (book.table[code] - start[[0, 1, 2]]).abs().amax(1)
            assert gaps.min() <= 1 / 1024 + 1e-5
            assert not torch.equal(book.table[code], start[int(gaps.argmin())])


def test_a_vanishing_count_keeps_its_code() -> None:
    book = codebook(reset="none", ema="none", decay=0.1)
    book.table[4] = 50.0
    book.sums.copy_(book.table)
    for _ in range(60):
        book.after_step(torch.zeros(2, 2, 1, 3), torch.zeros(2, 2, 1, dtype=torch.int64))
    assert torch.isfinite(book.table).all()
    torch.testing.assert_close(book.table[4], torch.full((3,), 50.0))
