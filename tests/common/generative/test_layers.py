"""Attention against its formula, the decoder's cache against teacher forcing, masks against what they hide."""

import math

import pytest
import torch
from torch import Tensor, nn

from common.config import make_config
from common.errors import ConfigError
from common.generative.layers import Attention, Decoder, Encoder, TransformerConfig

CONFIG = TransformerConfig(dim=12, heads=3, feedforward=16, encoder_layers=2, decoder_layers=2, dropout=0.1)


def made(layer: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.5)
    return layer.eval()


def by_hand(attention: Attention, x: Tensor, memory: Tensor, mask: Tensor | None, bias: Tensor | None) -> Tensor:
    """Vaswani et al. 2017, equation 1, one head after the other."""
    dim, heads = x.shape[-1], attention.heads
    wide = dim // heads
    key_weight, value_weight = attention.key_value.weight.split(dim)
    out = []
    for head in range(heads):
        rows = slice(head * wide, (head + 1) * wide)
        q, k, v = x @ attention.query.weight[rows].T, memory @ key_weight[rows].T, memory @ value_weight[rows].T
        scores = q @ k.transpose(1, 2) / math.sqrt(wide)
        if bias is not None:
            scores = scores + bias[:, head]
        if mask is not None:
            scores = scores.masked_fill(~mask[:, 0], -math.inf)
        out.append(scores.softmax(-1) @ v)
    return torch.cat(out, -1) @ attention.out.weight.T


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_attention_is_its_formula(masked: bool, biased: bool) -> None:
    attention = made(Attention(12, 3))
    x, memory = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    mask = torch.rand(2, 1, 4, 5) > 0.4 if masked else None
    if mask is not None:
        mask[..., 0] = True
    bias = torch.randn(1, 3, 4, 5) if biased else None
    assert isinstance(attention, Attention)
    torch.testing.assert_close(
        attention(x, memory, mask, bias=bias), by_hand(attention, x, memory, mask, bias), atol=1e-5, rtol=1e-4
    )
    kept = attention.keys_values(memory)
    torch.testing.assert_close(attention(x, mask=mask, cache=kept, bias=bias), attention(x, memory, mask, bias=bias))


@torch.no_grad()
def test_a_bias_of_three_dimensions_is_one_for_all_rows() -> None:
    attention = made(Attention(12, 3))
    assert isinstance(attention, Attention)
    x, bias = torch.randn(4, 6, 12), torch.randn(3, 6, 6)
    bias[:, 0, 4:] = -math.inf
    wanted = by_hand(attention, x, x, None, bias[None].expand(4, -1, -1, -1))
    torch.testing.assert_close(attention(x, bias=bias), wanted, atol=1e-5, rtol=1e-4)
    assert torch.equal(attention(x, bias=bias), attention(x, bias=bias[None]))


def test_a_masked_position_changes_nothing_and_gets_no_gradient() -> None:
    encoder = made(Encoder(CONFIG))
    x = torch.randn(1, 5, 12, requires_grad=True)
    mask = torch.tensor([True, True, True, False, False])[None, None, None]
    encoder(x, mask)[:, :3].sum().backward()
    assert x.grad is not None
    assert x.grad[:, 3:].abs().max() == 0
    assert x.grad[:, :3].abs().min() > 0


def test_the_layers_of_the_encoder_are_all_exposed() -> None:
    encoder = made(Encoder(CONFIG))
    x = torch.randn(2, 3, 12)
    outputs = encoder.each(x)  # pyright: ignore[reportCallIssue]
    assert len(outputs) == CONFIG.encoder_layers + 1
    assert torch.equal(outputs[0], x)
    assert torch.equal(encoder.norm(outputs[-1]), encoder(x))  # pyright: ignore[reportCallIssue]


def decoded(decoder: Decoder, codes: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
    return decoder(codes[:, None], memory, mask)[:, 0]


def test_steps_with_a_cache_are_teacher_forcing() -> None:
    """Ragged hypotheses over three queries, re-ordered, dropped and doubled between the steps."""
    decoder = made(Decoder(CONFIG))
    assert isinstance(decoder, Decoder)
    memory, mask = torch.randn(3, 4, 12), torch.rand(3, 1, 1, 4) > 0.3
    mask[..., 0] = True
    cache = decoder.start(memory, mask)
    query = torch.arange(3)
    path = torch.randn(3, 1, 12)
    parents = [torch.tensor([2, 0, 0, 2, 2]), torch.tensor([4, 1, 0])]
    for number in range(3):
        if number:
            parent = parents[number - 1]
            cache.reorder(parent)
            query = query[parent]
            path = torch.cat([path[parent], torch.randn(len(parent), 1, 12)], 1)
        cache.place(query)
        got = decoder.step(path[:, -1], cache)
        whole = decoded(decoder, path, memory[query], mask[query])
        torch.testing.assert_close(got, whole[:, -1], atol=1e-5, rtol=1e-4)


def test_a_step_computes_the_memory_once_and_each_code_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = made(Decoder(CONFIG))
    assert isinstance(decoder, Decoder)
    seen: list[int] = []
    plain = Attention.keys_values

    def counted(self: Attention, memory: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(memory.shape[0] * memory.shape[1])
        return plain(self, memory)

    monkeypatch.setattr(Attention, "keys_values", counted)
    cache = decoder.start(torch.randn(2, 7, 12))
    query = torch.tensor([0, 0, 1])
    for _ in range(3):
        cache.place(query)
        decoder.step(torch.randn(3, 12), cache)
        cache.reorder(torch.arange(3))
    assert seen == [14] * 2 + [3] * 2 * 3


def test_codes_see_those_before_them_and_targets_do_not_see_each_other() -> None:
    decoder = made(Decoder(CONFIG))
    x, memory = torch.randn(1, 3, 4, 12), torch.randn(1, 5, 12)
    before = decoder(x, memory)
    changed = x.clone()
    changed[0, 1, 2] += 1
    same = (decoder(changed, memory) == before).all(-1)[0]
    assert same.tolist() == [[True] * 4, [True, True, False, False], [True] * 4]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="multiple of heads"):
        make_config(TransformerConfig, {"dim": 10, "heads": 4}, [], "here")
