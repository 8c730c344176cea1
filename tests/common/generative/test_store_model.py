"""STORE's recommender: the weights it begins with, prompts, batches of the four tasks, files, LoRA."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import ConfigError, DataError
from common.generative.base import load_generator
from common.generative.lm.examples import LmBatch
from common.generative.sequences import from_lists
from common.generative.store.batches import StoreBatches
from common.generative.store.model import Store
from common.generative.store.tokens import TASKS
from common.generative.tiger_batches import TigerBatch
from common.generative.training import FitConfig, fit_generator
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.schedule import ScheduleConfig
from tests.common.generative import store_helpers as small
from tests.common.generative.test_lm import saved_model

HISTORIES = [np.array([3, 1, 4, 1, 5, 9]), np.array([2]), np.array([], np.int64)]


def batches(model: Store, *, size: int = 12, seed: int = 5) -> StoreBatches:
    return model.batches(small.TEXTS, small.sequences(), seed=seed, batch_size=size)


def test_the_recommender_begins_with_the_weights_of_the_dense_tokenizer() -> None:
    tokenizer = small.tokenizer()
    own = tokenizer.lm.codes.weight.detach().clone()
    body = {name: value.clone() for name, value in tokenizer.lm.body.state_dict().items()}
    dense = tokenizer.encode(small.TEXTS)
    model = Store.of(tokenizer, small.IDS, small.config())
    assert torch.equal(model.lm.codes.weight[model.vocabulary.size :], own)
    assert all(torch.equal(value, body[name]) for name, value in model.lm.body.state_dict().items())
    new, words = model.lm.codes.weight[: model.vocabulary.size], model.lm.body.get_input_embeddings().weight.detach()
    assert float(new.detach().std()) == pytest.approx(float(words.std()), rel=0.2)
    again = type(tokenizer)(model.lm, small.config()).eval()  # the slots' tokens are the last ones still
    np.testing.assert_array_equal(again.encode(small.TEXTS), dense)


def test_prompts_are_instruction_then_ids_or_texts_the_recent_end_kept() -> None:
    model = small.store()
    lm, ids = model.lm, model.id_map.sids
    long, one, none = model.prompts(TigerBatch.of(HISTORIES))
    start = [lm.text_size + model.vocabulary.offset(level) for level in (0, 1)]
    kept = [start[level] + int(ids[item, level]) for item in (4, 1, 5, 9) for level in (0, 1)]
    assert long == [model.tokens.token("token_to_token"), *kept]
    assert none == long[:1] and len(one) == 3
    (text,) = model.prompts(["the red fox"])
    assert lm.text(text[1:-1]) == "the red fox"
    assert text[0] == text[-1] == model.tokens.token("text_to_token")
    assert model.item_prompt(4)[1:-1] == model.id_tokens(4)
    history = model.texts_prompt([model.text_tokens(text) for text in ("a bee", "the red fox", "the blue owl")])
    assert lm.text(history[1:-1]) == "the red fox\nthe blue owl\n"  # text_items: 2
    worded = small.store(instructions=True)
    assert "item of this user" in worded.lm.text(worded.prompts(TigerBatch.of(HISTORIES))[2][1:])
    with pytest.raises(DataError, match="without text"):
        model.prompts([""])


def told(batch: LmBatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return each row's tokens and which of them are told."""
    rows = zip(batch.ids, batch.mask, batch.told, strict=True)
    return [(tuple(ids[mask].tolist()), tuple(on[mask].tolist())) for ids, mask, on in rows]


def test_an_epoch_has_all_windows_each_item_twice_and_its_share_of_texts() -> None:
    model = small.store(tasks={"item_passes": 2, "text_share": 0.5, "text_items": 2})
    source = batches(model)
    plan = source.epoch(0)
    assert len(plan) == len(source) and all(len(rows) for rows in plan)
    counts = Counter((TASKS[task], row) for rows in plan for task, row in rows.tolist())
    windows = len(source.windows.lengths)
    assert all(counts["token_to_token", row] == 1 for row in range(windows))
    for task in ("text_to_token", "token_to_text"):
        assert [counts[task, row] for row in range(small.ITEMS)] == [2] * small.ITEMS
    assert sum(count for (task, _), count in counts.items() if task == "text_to_text") == 25  # half of 10 x 5
    assert sum(counts.values()) == windows + 4 * small.ITEMS + 25
    same, other = source.epoch(0), source.epoch(1)
    assert all(np.array_equal(a, b) for a, b in zip(plan, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(plan, other, strict=True))
    assert source.digest == batches(model).digest
    assert len({source.digest, batches(model, seed=6).digest, batches(small.store()).digest}) == 3


def test_the_examples_of_each_task_say_what_it_is_asked() -> None:
    model = small.store()
    source = batches(model)
    made = source.make(np.array([[0, 0], [1, 7], [2, 7], [3, 11]]))
    assert list(made.tasks) == list(TASKS)
    (ids, on), lm = told(made.tasks["text_to_token"])[0], model.lm
    assert ids == (*model.text_prompt(model.text_tokens(small.TEXTS[7])), *model.id_tokens(7))
    assert on == (*[False] * (len(ids) - 2), True, True)
    ((ids, on),) = told(made.tasks["token_to_text"])
    assert ids[: -sum(on)] == tuple(model.item_prompt(7))
    assert lm.text(ids[-sum(on) :]) == small.TEXTS[7] and ids[-1] == lm.end
    ((ids, on),) = told(made.tasks["text_to_text"])
    history, target = source.next.histories[11], int(source.next.targets[11])
    assert lm.text(ids[1 : -sum(on) - 1]) == "".join(small.TEXTS[item] + "\n" for item in history[-2:])
    assert lm.text(ids[-sum(on) :]) == small.TEXTS[target]


def test_one_window_teaches_every_cut_of_it() -> None:
    model = small.store(max_items=6)
    walks = small.sequences(4, 7)
    source = model.batches(small.TEXTS, walks, seed=0, batch_size=100)
    rows = np.stack([np.zeros(4, np.int64), np.arange(4)], axis=1)
    batch = source.make(rows)
    losses: list[Tensor] = []
    with torch.no_grad():
        whole = model.loss(batch)["token_to_token"]
        for walk in walks.items.reshape(4, 7):
            for at in range(1, 7):
                ids = [*model.history_prompt(walk[:at]), *model.id_tokens(int(walk[at]))]
                states = model.lm.states(model.lm.embed(torch.tensor([ids])), torch.ones(1, len(ids), dtype=torch.bool))
                logits = model.lm.logits(states[0, -3:-1])
                losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[-2:])))
    torch.testing.assert_close(whole, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_a_task_without_weight_has_no_example_and_the_others_are_weighted(task: str) -> None:
    weights: dict[str, Any] = {other: 0.5 for other in TASKS if other != task} | {task: 0}
    model = small.store(tasks=weights | {"text_share": 0.5})
    source = batches(model, size=8)
    losses = [model.loss(source.make(rows)) for rows in source.epoch(0)]
    assert all(task not in one for one in losses)
    assert {name for one in losses for name in one} == {"loss", *TASKS} - {task}
    for one in losses:
        torch.testing.assert_close(one["loss"], 0.5 * torch.stack([v for k, v in one.items() if k != "loss"]).sum())


def test_answers_are_known_items_by_their_probability_and_the_excluded_ones_never_come() -> None:
    model = small.store()
    histories = TigerBatch.of(HISTORIES)
    found = model.generate(histories, model.trie(), beam=12, top_k=12)
    assert all(sorted(row) == list(range(12)) for row in found.items.tolist())
    torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.score(histories, found.items), found.scores, atol=1e-5, rtol=1e-5)
    allowed = np.arange(12) % 2 == 0
    some = model.generate(small.TEXTS[:2], model.trie().restrict(allowed), beam=12, top_k=12)
    assert set(some.items.flatten().tolist()) == {-1, *range(0, 12, 2)}


def learnt() -> Store:
    size = {"dim": 32, "layers": 2, "heads": 4, "feedforward": 64, "context": 64, "vocabulary": 400}
    model = small.store(lm={"scratch": size})
    fit = FitConfig(epochs=50, learning_rate=1e-2, schedule=ScheduleConfig(type="cosine", warmup_steps=10))
    fit_generator(model, batches(model, size=18), fit, seed=0)
    return model


def test_one_model_learns_all_four_tasks_by_heart(tmp_path: Path) -> None:
    model = learnt()
    found = model.generate(small.TEXTS, model.trie(), beam=3, top_k=1).items[:, 0]
    assert found.tolist() == list(range(small.ITEMS))
    assert model.texts_of(range(small.ITEMS)) == small.TEXTS
    walks = small.sequences().items.reshape(10, 6) % 3
    follows = dict(zip(walks[:, 0].tolist(), walks[:, 1].tolist(), strict=True))
    assert set(follows.values()) == {0, 1, 2}
    first = model.generate(TigerBatch.of([np.array([row]) for row in range(12)]), model.trie(), beam=12, top_k=1).items
    assert [row % 3 for row in first[:, 0].tolist()] == [follows[row % 3] for row in range(12)]
    told = model.next_texts([[text] for text in small.TEXTS])
    assert [small.TEXTS.index(text) % 3 for text in told] == [follows[row % 3] for row in range(12)]
    model.save(tmp_path / "one")
    again = load_generator(tmp_path / "one", small.IDS)
    assert isinstance(again, Store)
    again.save(tmp_path / "two")
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert again.texts_of(range(small.ITEMS)) == small.TEXTS
    assert again.next_texts([[text] for text in small.TEXTS]) == told


def test_adapters_alone_are_trained_and_saved_on_a_model_from_files(tmp_path: Path) -> None:
    lm = {"name": str(saved_model(tmp_path / "base")), "tune": "lora", "lora": {"rank": 2}}
    model = small.store(lm=lm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit_generator(model, batches(model, size=60), FitConfig(epochs=2, learning_rate=1e-2), seed=0)
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("lora_" in name or name == "lm.codes.weight" for name in changed)
    model.save(tmp_path / "saved")
    again = Store.load(tmp_path / "saved", small.IDS)
    assert all(torch.equal(value, after[name]) for name, value in again.state_dict().items())


def test_what_does_not_fit_is_one_error() -> None:
    with pytest.raises(ConfigError, match="longer than the model reads"):
        small.store(ids=SemanticIdMap.random(12, (2,) * 40, 0))
    with pytest.raises(ConfigError, match="other codes"):
        Store(small.tokenizer().lm, small.IDS, small.config())
    with pytest.raises(DataError, match="texts of other items"):
        small.store().batches(small.TEXTS[:-1], small.sequences(), seed=0, batch_size=4)
    with pytest.raises(DataError, match="without text"):
        small.store().batches(["", *small.TEXTS[1:]], small.sequences(), seed=0, batch_size=4)
    with pytest.raises(DataError, match="no user has two items"):
        small.store().batches(small.TEXTS, from_lists([np.array([1])], small.ITEMS), seed=0, batch_size=4)


def test_a_history_is_cut_to_what_the_model_reads() -> None:
    model = small.store(max_items=500)
    assert model.most_items == (64 - 1 - 2) // 2
    source = model.batches(small.TEXTS, small.sequences(2, 80), seed=0, batch_size=100)
    for rows in source.epoch(0):
        assert source.make(rows).tasks["token_to_token"].ids.shape[1] <= 64
    long = np.arange(200) % small.ITEMS
    (prompt,) = model.prompts(TigerBatch.of([long]))
    assert prompt == model.prompts(TigerBatch.of([long[-model.most_items :]]))[0]
    assert len(prompt) + 2 <= 64
