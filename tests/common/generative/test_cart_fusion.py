"""CART's decoders: the equations, what each switch lets the decoder see, cached decoding against none, batches."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.generative.cart import Cart
from common.generative.cart_fusion import FusionDecoder, FusionLayer
from common.generative.cart_lm import PrefixDecoder
from common.generative.layers import TransformerConfig
from tests.common.generative.cart_helpers import IDS, SMALL, TEXTS, cart

SIZE = TransformerConfig.model_validate(SMALL | {"dropout": 0.0})
VARIANTS: list[dict[str, Any]] = [
    {"fusion": "both"},
    {"fusion": "coarse"},
    {"fusion": "fine"},
    {"fusion": "none"},
    {"architecture": "decoder_only"},
]


def loud(module: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.3)


def states(seed: int = 1, batch: int = 3, length: int = 5, layers: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, length, SIZE.dim, generator=generator) for _ in range(layers)]


def by_hand(model: Cart, texts: list[str], items: Tensor) -> Tensor:
    """log p(item) of each text, teacher-forced and without a cache: each code among those that continue a known ID."""
    batch = model.batch(texts)
    encoded, mask = model._encode(batch)
    out = torch.zeros(items.shape)
    sids = torch.tensor(IDS.sids).long()
    for column in range(items.shape[1]):
        tokens = model.item_tokens[items[:, column]]
        first = torch.full_like(tokens[:, :1], model.vocabulary.bos)
        x = model.embedding(torch.cat([first, tokens[:, :-1]], 1))
        decoded = model.decoder(x, encoded, mask)
        for row, item in enumerate(items[:, column].tolist()):
            for level in range(model.vocabulary.levels):
                known = sids[(sids[:, :level] == sids[item, :level]).all(1), level].unique()
                logits = model.heads[level](decoded[row, level])[known]
                out[row, column] += functional.log_softmax(logits, 0)[known == sids[item, level]].item()
    return out


@pytest.mark.parametrize("options", VARIANTS)
def test_cached_beam_search_is_teacher_forcing_without_a_cache(options: dict[str, Any]) -> None:
    model = cart(**options)
    with torch.no_grad():
        found = model.rank(TEXTS, beam=30, top_k=30)
        torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)
        assert (found.items.sort(1).values == torch.arange(30)).all()
        torch.testing.assert_close(found.scores, by_hand(model, TEXTS, found.items), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model.score(model.batch(TEXTS), found.items), found.scores, atol=1e-5, rtol=1e-5)
    assert found.scores[:, 0].std() > 0.01  # the queries matter


@pytest.mark.parametrize("options", VARIANTS)
def test_a_query_is_answered_alike_in_any_batch(options: dict[str, Any]) -> None:
    model = cart(**options)
    together = model.rank(TEXTS, beam=12, top_k=5)
    backwards = model.rank(TEXTS[::-1], beam=12, top_k=5)
    assert torch.equal(together.items, backwards.items.flip(0))
    for row, text in enumerate(TEXTS):  # alone there is no padding
        alone = model.rank([text], beam=12, top_k=5)
        assert torch.equal(alone.items[0], together.items[row])
        torch.testing.assert_close(alone.scores[0], together.scores[row], atol=1e-5, rtol=1e-5)


def attend(query: Tensor, memory: Tensor, layer: FusionLayer, which: str) -> Tensor:
    """Cross-attention written out, all positions real."""
    attention = getattr(layer, which)
    heads, dim = attention.heads, query.shape[-1]
    key, value = attention.key_value(memory).split(dim, dim=-1)

    def split(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], heads, dim // heads).transpose(1, 2)

    scores = split(attention.query(query)) @ split(key).transpose(2, 3) / (dim // heads) ** 0.5
    mixed = scores.softmax(-1) @ split(value)
    return attention.out(mixed.transpose(1, 2).reshape(query.shape))


def test_the_layer_computes_the_equations() -> None:
    decoder = FusionDecoder(SIZE.model_copy(update={"decoder_layers": 1}), "both", 2)
    loud(decoder)
    layer, encoded, x = decoder._all()[0], states(), states(seed=2, length=4, layers=1)[0]
    mask = torch.ones(3, 5, dtype=torch.bool)
    assert decoder.mix is not None
    assert layer.gate is not None
    mixed = functional.linear(torch.cat(encoded, -1), decoder.mix.weight, decoder.mix.bias)
    seen = torch.ones(4, 4, dtype=torch.bool).tril()
    h = x + layer.attention(layer.attention_norm(x), mask=seen)
    y = layer.cross_norm(h)
    answer = attend(y, mixed, layer, "coarse")
    total = torch.sigmoid(layer.gate(answer)) * answer
    for alpha, state in zip(layer.alphas, encoded, strict=True):
        answer = attend(y, state, layer, "fine")
        total = total + torch.sigmoid(alpha(torch.cat([y, answer], -1))) * answer
    h = h + total
    expected = decoder.norm(h + layer.feedforward(layer.feedforward_norm(h)))
    torch.testing.assert_close(decoder(x, encoded, mask), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("fusion", "sees_lower"), [("both", True), ("coarse", True), ("fine", True), ("none", False)])
def test_only_a_fusion_sees_the_lower_layers(fusion: Any, sees_lower: bool) -> None:
    decoder = FusionDecoder(SIZE, fusion, 2)
    loud(decoder)
    encoded, x, mask = states(), states(seed=2, length=3, layers=1)[0], torch.ones(3, 5, dtype=torch.bool)
    before = decoder(x, encoded, mask)
    changed = decoder(x, [encoded[0] + states(seed=5)[0], encoded[1]], mask)
    assert ((before - changed).abs().max() > 1e-3) == sees_lower
    assert (before - decoder(x, [encoded[0], encoded[1] + states(seed=6)[0]], mask)).abs().max() > 1e-3


def test_each_switch_makes_another_model() -> None:
    found = [cart(**options).rank(TEXTS, beam=30, top_k=30).scores for options in VARIANTS]
    counts = [sum(p.numel() for p in cart(**options).parameters()) for options in VARIANTS]
    assert len(set(counts)) == len(VARIANTS)
    assert all((one - other).abs().max() > 1e-2 for at, one in enumerate(found) for other in found[:at])


@pytest.mark.parametrize("options", VARIANTS)
def test_padding_is_not_seen_and_codes_do_not_see_ahead(options: dict[str, Any]) -> None:
    model = cart(**options)
    encoded, x = states(), states(seed=2, length=4, layers=1)[0]
    encoded = encoded if isinstance(model.decoder, FusionDecoder) else encoded[-1:]
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [True] * 3 + [False] * 2])
    before = model.decoder(x, encoded, mask)
    noisy = [torch.where(mask[..., None], one, 7.0) for one in encoded]
    torch.testing.assert_close(model.decoder(x, noisy, mask), before, atol=1e-6, rtol=0)
    later = x.clone()
    later[:, 2:] += states(seed=4, length=2, layers=1)[0]
    after = model.decoder(later, encoded, mask)
    torch.testing.assert_close(after[:, :2], before[:, :2], atol=1e-6, rtol=0)
    assert (after[:, 2:] - before[:, 2:]).abs().max() > 1e-3


def test_the_query_is_a_causal_prefix_of_the_decoder_only_arm() -> None:
    model = cart(architecture="decoder_only")
    assert isinstance(model.decoder, PrefixDecoder)
    assert len(model.decoder.blocks) == SMALL["encoder_layers"] + SMALL["decoder_layers"]
    x, mask = states(layers=1)[0], torch.ones(3, 5, dtype=torch.bool)
    changed = x.clone()
    changed[:, 3] += states(seed=4, length=1, layers=1)[0][:, 0]
    one, other = model.decoder.start([x], mask), model.decoder.start([changed], mask)
    for (key, value), (key2, value2) in zip(one.prefix, other.prefix, strict=True):
        assert torch.equal(key[:, :, :3], key2[:, :, :3])
        assert torch.equal(value[:, :, :3], value2[:, :, :3])
        assert not torch.equal(key[:, :, 3:], key2[:, :, 3:])
