"""ROMA's parts: adapters, batches, and what the two halves of the language model can see."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.representation.inputs import Behaviour, Items, Tokens
from common.representation.roma.adapters import MixtureOfAdapters, ModalityLora, Route, Router
from common.representation.roma.batches import RomaBatch, RomaBatches, make_windows
from common.representation.roma.config import RomaConfig, ScratchConfig
from common.representation.roma.item_inputs import ItemInputs, read_items
from common.representation.roma.method import Roma
from common.representation.roma.model import RomaNet

SCRATCH = ScratchConfig(dim=32, layers=3, heads=2, feedforward=64, positions=24, dropout=0.0)
CONFIG = RomaConfig(scratch=SCRATCH, top=1, history=4, output=16, bottleneck=8, item_batch=4, batch_size=3)


def toy_items(count: int = 12, domains: int = 2) -> Items:
    rng = np.random.default_rng(3)
    texts = [f"the {('red', 'blue', 'green')[i % 3]} thing {('one', 'two', 'six', 'ten')[i % 4]}" for i in range(count)]
    image = Tokens(rng.normal(size=(count, 3, 5)).astype(np.float32), np.ones((count, 3), bool), "camera 1")
    names = tuple("ab"[:domains])
    return Items(np.arange(count) + 100, texts, {"image": image}, np.arange(count) * domains // count, names)


def histories(*lists: list[int]) -> Behaviour:
    offsets = np.cumsum([0, *map(len, lists)])
    return Behaviour(np.arange(len(lists)) + 7, np.array([item for one in lists for item in one], np.int64), offsets)


def built(config: RomaConfig = CONFIG, items: Items | None = None) -> tuple[Roma, ItemInputs]:
    """A method that is built and not trained, with its adapters away from zero."""
    items = toy_items() if items is None else items
    method = Roma(config)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        method.state = method._describe(items, 0)  # pyright: ignore[reportPrivateUsage]
        method.build(method.state)
        for module in method.modules():
            if isinstance(module, ModalityLora):
                nn.init.normal_(module.up)
            elif isinstance(module, MixtureOfAdapters):
                nn.init.normal_(module.up.weight, std=0.2)
    method.eval()
    return method, read_items(items, method.tokenizer, config, method.net.most_tokens)


# --- adapters


def lora(width: int = 6) -> tuple[ModalityLora, Tensor, Route]:
    torch.manual_seed(0)
    route = Route(vision=torch.tensor([[False, True, True, False]]))
    return ModalityLora(nn.Linear(width, width), 2, 4.0, route), torch.randn(1, 4, width), route


def test_lora_at_step_0_is_the_base() -> None:
    layer, x, _ = lora()
    assert (layer(x) - layer.base(x)).abs().max() == 0
    nn.init.normal_(layer.up)
    assert (layer(x) - layer.base(x)).abs().max() > 1e-3


@pytest.mark.parametrize(("columns", "vision"), [(slice(0, 2), False), (slice(2, 4), True)])
def test_a_modality_s_adapter_changes_its_own_tokens_only(columns: slice, vision: bool) -> None:
    layer, x, route = lora()
    with torch.no_grad():
        layer.up[:, columns] = 1.0
    assert route.vision is not None
    changed = (layer(x) - layer.base(x)).abs().sum(-1) > 1e-6
    assert torch.equal(changed, route.vision == vision)


def test_lora_is_the_low_rank_product_of_its_token_s_modality() -> None:
    layer, x, _ = lora()
    nn.init.normal_(layer.up)
    for place, modality in enumerate((0, 1, 1, 0)):
        own = slice(2 * modality, 2 * modality + 2)
        wanted = layer.base(x[0, place]) + 4.0 / 2 * layer.up[:, own] @ layer.down[own] @ x[0, place]
        torch.testing.assert_close(layer(x)[0, place], wanted)


def test_a_mixture_is_the_weighted_sum_of_its_experts_and_permuting_them_changes_nothing() -> None:
    torch.manual_seed(1)
    router = Router(6, 3, 2, 4)
    mixture = MixtureOfAdapters(6, 3, 5, router)
    h, route = torch.randn(2, 4, 6), Route(domains=torch.tensor([[0, 1, 0, 1]] * 2), gates=[])
    assert mixture(h, route).abs().max() == 0
    nn.init.normal_(mixture.up.weight)
    found = mixture(h, route)
    gates = router(h, route.domains)
    torch.testing.assert_close(gates.sum(-1), torch.ones(2, 4))
    inner = nn.functional.gelu(mixture.down(h)).view(2, 4, 3, 5)
    one_by_one = [gates[..., e, None] * (inner[:, :, e] @ mixture.up.weight[:, 5 * e : 5 * e + 5].T) for e in range(3)]
    torch.testing.assert_close(found, torch.stack(one_by_one).sum(0))
    assert route.gates is not None and torch.equal(route.gates[-1], gates)
    order = torch.tensor([2, 0, 1])
    places = (order[:, None] * 5 + torch.arange(5)).reshape(-1)
    with torch.no_grad():
        mixture.down.weight[:], mixture.down.bias[:] = mixture.down.weight[places], mixture.down.bias[places]
        mixture.up.weight[:] = mixture.up.weight[:, places]
        router.gate.weight[:] = router.gate.weight[order]
    torch.testing.assert_close(mixture(h, route), found)


def test_the_single_adapter_is_of_equal_size_and_a_router_without_the_domain_does_not_see_it() -> None:
    single, mixed = (MixtureOfAdapters(6, 4, 5, router) for router in (None, Router(6, 4, 2, 3)))
    size = {name: p.shape for name, p in single.named_parameters()}
    assert size == {name: p.shape for name, p in mixed.named_parameters() if not name.startswith("router")}
    h = torch.randn(1, 3, 6)
    blind, seeing = Router(6, 4, 0, 3), Router(6, 4, 2, 3)
    zero, one = torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64)
    assert torch.equal(blind(h, zero), blind(h, one))
    assert not torch.allclose(seeing(h, zero), seeing(h, one))


# --- batches


def test_every_item_but_a_user_s_first_is_a_target_once_and_after_what_came_before_it() -> None:
    _, inputs = built()
    behaviour = histories([0, 1, 2, 3, 4, 5, 6, 7, 8], [3], [], [9, 2])
    batches = RomaBatches(inputs, toy_items().domain_of, behaviour, CONFIG, masked=False, seed=0, version="")
    told = []
    for rows in batches.epoch(0):
        batch = batches.make(rows).windows
        assert batch is not None and batch.inputs is not None and len(batch.inputs) == len(batch.rows)
        for row, place in batch.learn.nonzero().tolist():
            read = batch.rows[batch.items[row, : place + 1]].tolist()
            told.append((int(batch.rows[batch.targets[row, place]]), read))
    assert sorted(target for target, _ in told if target != 2) == [1, 3, 4, 5, 6, 7, 8]
    assert sorted(read for target, read in told if target == 2) == [[0, 1], [9]]
    assert all(read[-1] == target - 1 and 1 <= len(read) <= 4 for target, read in told if target != 2)
    assert [read for target, read in told if target == 1] == [[0]]


def test_an_epoch_passes_over_all_items_and_windows_and_is_a_function_of_its_number() -> None:
    _, inputs = built()
    behaviour = histories(*[[i % 12, (i + 1) % 12] for i in range(5)])
    batches = RomaBatches(inputs, toy_items().domain_of, behaviour, CONFIG, masked=True, seed=0, version="")
    plan = batches.epoch(1)
    assert len(plan) == len(batches) == 3  # of 12 items in fours; 5 windows in threes begin again
    seen = np.concatenate(plan)
    assert np.array_equal(np.sort(seen[seen < 12]), np.arange(12))
    assert set(seen[seen >= 12]) == set(range(12, 17)) and (seen >= 12).sum() == 9
    again = RomaBatches(inputs, toy_items().domain_of, behaviour, CONFIG, masked=True, seed=0, version="")
    assert all(np.array_equal(a, b) for a, b in zip(plan, again.epoch(1), strict=True))
    assert not np.array_equal(seen, np.concatenate(batches.epoch(2)))


# --- what is seen


def test_at_serving_no_later_item_and_no_padding_changes_a_state() -> None:
    method, inputs = built()
    domains = toy_items().domain_of
    with torch.no_grad():
        method.net.known = method.net.read(inputs)[:, 0]

        def states(*lists: list[int]) -> Tensor:
            batch = make_windows([np.array(one) for one in lists], [0] * len(lists), None, domains, targets=False)
            h = method.net.item_states(batch)
            return method.net.follow(h[batch.items], batch.mask, batch.domains[batch.items])

        alone, padded, other = states([1, 2]), states([1, 2], [3, 4, 5, 6]), states([1, 2, 9])
        torch.testing.assert_close(padded[0, :2], alone[0])
        torch.testing.assert_close(other[0, :2], alone[0])
        assert not torch.allclose(states([2, 2])[0, 1], alone[0, 1])


def test_a_missing_patch_is_not_seen_and_a_present_one_is() -> None:
    items = toy_items()
    image = items.modalities["image"]
    mask = image.mask.copy()
    mask[0, 1:], mask[1] = False, False
    other = image.values.copy()
    other[0, 1:], other[1] = 9.0, 9.0
    one = replace(items, modalities={"image": replace(image, mask=mask)})
    method, inputs = built(items=one)
    two = read_items(
        replace(items, modalities={"image": replace(image, values=other, mask=mask)}), method.tokenizer, CONFIG, 24
    )
    full = read_items(items, method.tokenizer, CONFIG, 24)
    with torch.no_grad():
        a, b, c = (method.net.read(x)[:, 0] for x in (inputs, two, full))
    assert torch.equal(a, b)
    assert not torch.allclose(a[0], c[0]) and not torch.allclose(a[1], c[1])
    torch.testing.assert_close(a[2:], c[2:])


def test_only_words_are_masked_and_each_item_has_one() -> None:
    method, inputs = built()
    seen: list[tuple[Tensor, Tensor]] = []
    original = method.net.word_logits

    def spy(given: ItemInputs, hidden: Tensor) -> Tensor:
        seen.append((given.words, hidden))
        return original(given, hidden)

    method.net.word_logits = spy  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(50):
        method.net._mask_loss(inputs)  # pyright: ignore[reportPrivateUsage]
    hidden = torch.stack([one for _, one in seen])
    assert not hidden[:, ~inputs.maskable].any()
    assert hidden.any(2).all()
    # Of 4 words each 15 %, and one where that leaves none: 0.15 * 4 + 0.85^4.
    assert hidden.sum(2).float().mean() == pytest.approx(0.6 + 0.85**4, abs=0.08)


def test_the_contrast_is_infonce_over_the_batch_and_over_the_domain() -> None:
    method, inputs = built()
    net: RomaNet = method.net
    domains = toy_items().domain_of
    lists = [np.array(one) for one in ([0, 1, 7], [8, 2], [9, 10, 3, 4])]
    batch = make_windows(lists, [1, 1, 2], inputs, domains, targets=True)
    with torch.no_grad():
        found = net.loss(RomaBatch(None, batch))
        h = net.item_states(batch)
        s = net.user_vectors(net.follow(h[batch.items], batch.mask, batch.domains[batch.items]))
        v = net.item_vectors(h)
        everywhere, same = [], []
        for row, place, target in ((0, 0, 1), (0, 1, 7), (1, 0, 2), (2, 1, 3), (2, 2, 4)):
            scores = (v @ s[row, place]) / 0.07
            at = batch.rows.tolist().index(target)
            everywhere.append(scores.logsumexp(0) - scores[at])
            same.append(scores[batch.domains == domains[target]].logsumexp(0) - scores[at])
    wanted = (torch.stack(everywhere).mean() + torch.stack(same).mean()) / 2
    torch.testing.assert_close(found["uic"], wanted)
    torch.testing.assert_close(found["loss"], wanted)


@pytest.mark.parametrize("part", ["whole", "peft"])
def test_each_stage_trains_its_own_part(part: str) -> None:
    method, _ = built(CONFIG.model_copy(update={"pretrain_part": part}))

    def learnt(stage: Any) -> set[str]:
        method.net.learn(stage)
        return {name for name, value in method.net.named_parameters() if value.requires_grad}

    adapters = {
        name
        for name, _ in method.net.named_parameters()
        if ".adapters." in name or name.endswith((".query.down", ".query.up", ".value.down", ".value.up"))
    }
    new = {name for name, _ in method.net.named_parameters() if not name.startswith("plm.")}
    body = {name for name, _ in method.net.named_parameters()} - adapters - new
    assert adapters and new and body
    assert learnt("finetune") == adapters
    assert learnt("pretrain") == (body | new if part == "whole" else adapters | new)
    assert learnt("saved") == body | new | adapters  # a model from scratch is nowhere else
