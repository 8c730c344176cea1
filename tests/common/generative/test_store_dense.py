"""STORE's dense tokenizer: what each position may see, what is told, dense tokens, items' fields, bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from common.config import make_config
from common.errors import ConfigError, DataError
from common.generative.config import RunConfig
from common.generative.sequences import Sequences, leave_one_out
from common.generative.store.cascade import CascadeExample, cascaded_mask, pack_cascade
from common.generative.store.config import StoreConfig
from common.generative.store.dense import DenseBatches, DenseTokenizer, slot_cosine
from common.generative.store.items import StoreItems, read_columns, store_items
from common.generative.store.tokens import TASKS, extra_codes
from common.generative.systems import Prepared
from tests.common.generative import store_helpers as small

ITEMS = small.ITEMS


def allowed(row: int, column: int, text: int, slots: int) -> bool:
    """The cascade by its words: text sees text, slots see text and slots, the output sees slots and output."""

    def kind(place: int) -> str:
        return "text" if place < text else "slot" if place < text + slots else "output"

    seen = {"text": ("text",), "slot": ("text", "slot"), "output": ("slot", "output")}
    return column <= row and kind(column) in seen[kind(row)]


def test_the_output_sees_slots_only_and_the_mask_matrix_is_the_cascade() -> None:
    lengths, slots, width = [1, 4, 6], 3, 12
    mask = cascaded_mask(torch.tensor(lengths), slots, width)
    for one, text in zip(mask, lengths, strict=True):
        wanted = [[allowed(row, column, text, slots) for column in range(width)] for row in range(width)]
        assert one.tolist() == wanted
        assert not one[text + slots :, :text].any()  # no text position is visible to what is written
        assert one[text + slots :, text : text + slots].all()  # every slot is
        assert one[text : text + slots, :text].all()


def test_a_batch_of_the_tokenizer_carries_that_mask_unless_it_is_switched_off() -> None:
    model = small.tokenizer()
    sources = [model.source(text) for text in small.TEXTS[:3]]
    batch = model.pack("replicate", sources, [model.target("replicate", text) for text in small.TEXTS[:3]])
    lengths = torch.tensor([len(one) for one in sources])
    assert batch.attention is not None
    assert torch.equal(batch.attention, cascaded_mask(lengths, 2, batch.ids.shape[1]))
    for row, source in enumerate(sources):
        start = len(source) + 2 + len(model.tokens.lead("replicate"))
        assert batch.ids[row, : len(source) + 2].tolist() == [*source, *model.tokens.slots]
        assert int(batch.told[row].nonzero()[0]) == start
        assert model.lm.text(batch.ids[row][batch.told[row]].tolist()) == small.TEXTS[row]
    plain = small.tokenizer(dense__mask="causal")
    assert plain.pack("replicate", sources, sources).attention is None


def written(model: DenseTokenizer, source: list[int], attention: Tensor | None) -> Tensor:
    """Return the states of what is written from the slots of `source`."""
    target = model.target("replicate", small.TEXTS[0])
    batch = pack_cascade([CascadeExample(source, model.tokens.lead("replicate"), target)], model.tokens.slots, 64)
    with torch.no_grad():
        states = model.lm.states(model.lm.embed(batch.ids), batch.mask, attention)
    return states[0, len(source) + 2 :]


def test_the_slots_are_the_only_way_from_a_text_to_what_is_written() -> None:
    model = small.tokenizer()
    first, second = ([5, 6, 7, 8], [9, 10, 11, 12])
    width = 4 + 2 + 1 + len(model.target("replicate", small.TEXTS[0]))
    cascade = cascaded_mask(torch.tensor([4]), 2, width)
    assert not torch.allclose(written(model, first, cascade), written(model, second, cascade))
    cut = cascade.clone()
    cut[:, 4:6, :4] = False  # slots that do not see the text either
    torch.testing.assert_close(written(model, first, cut), written(model, second, cut))
    plain = torch.ones(1, width, width, dtype=torch.bool).tril()
    plain[:, 4:6, :4] = False
    assert not torch.allclose(written(model, first, plain), written(model, second, plain))


def test_dense_tokens_are_the_slots_states_whatever_is_read_beside() -> None:
    model = small.tokenizer()
    dense = model.encode([*small.TEXTS, small.TEXTS[0]])
    assert dense.shape == (13, 2, 16) and dense.dtype == np.float32
    assert np.array_equal(dense[0], dense[12])
    for row in (0, 5):
        np.testing.assert_allclose(model.encode([small.TEXTS[row]])[0], dense[row], atol=1e-5)
        source = model.source(small.TEXTS[row])
        batch = model.pack("replicate", [source], [model.target("replicate", small.TEXTS[3])])
        with torch.no_grad():  # the states that are trained
            states = model.lm.states(model.lm.embed(batch.ids), batch.mask, batch.attention)
        np.testing.assert_allclose(states[0, len(source) : len(source) + 2].numpy(), dense[row], atol=1e-5)


def test_each_epoch_tells_each_item_once_in_every_task_that_it_has_a_text_for() -> None:
    model = small.tokenizer()
    batches = DenseBatches(model, small.items(), seed=4)
    told: dict[str, list[str]] = {"replicate": [], "category": [], "longer": []}
    for rows in batches.epoch(0):
        for task, batch in batches.make(rows).tasks.items():
            told[task] += [model.lm.text(ids[on].tolist()) for ids, on in zip(batch.ids, batch.told, strict=True)]
    assert sorted(told["replicate"]) == sorted(small.TEXTS)
    assert sorted(told["category"]) == sorted(small.CATEGORIES)
    longer = [text for text in small.LONGER if text]
    assert sorted(told["longer"]) == sorted(model.lm.text(model.target("longer", text)) for text in longer)
    orders = [np.concatenate(batches.epoch(number)).tolist() for number in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert batches.digest != DenseBatches(model, small.items(), seed=5).digest
    assert batches.digest != DenseBatches(model, StoreItems(small.TEXTS), seed=4).digest


def test_the_loss_is_replicate_and_the_weighted_auxiliary_tasks() -> None:
    rows = np.arange(4)
    model, half = small.tokenizer(), small.tokenizer(dense__auxiliary=0.5)
    whole, less = (m.loss(DenseBatches(m, small.items(), seed=0).make(rows)) for m in (model, half))
    assert set(whole) == {"loss", "replicate", "category", "longer"}
    torch.testing.assert_close(whole["loss"], whole["replicate"] + whole["category"] + whole["longer"])
    torch.testing.assert_close(less["loss"], less["replicate"] + 0.5 * (less["category"] + less["longer"]))
    off = small.tokenizer(dense__auxiliary=0)
    assert set(off.loss(DenseBatches(off, small.items(), seed=0).make(rows))) == {"loss", "replicate"}


def test_accuracy_hides_the_text_even_where_training_did_not() -> None:
    cascaded, plain = small.tokenizer(), small.tokenizer(dense__mask="causal")
    plain.load_state_dict(cascaded.state_dict())
    own = cascaded.right(small.TEXTS, small.TEXTS)
    assert [len(one) for one in own] == [len(cascaded.target("replicate", text)) for text in small.TEXTS]
    for one, other in zip(own, plain.right(small.TEXTS, small.TEXTS), strict=True):
        assert np.array_equal(one, other)
    assert cascaded.accuracy(small.TEXTS) == pytest.approx(np.concatenate(own).mean())


def test_a_long_text_is_cut_and_then_has_no_end() -> None:
    model = small.tokenizer()
    text = " ".join(small.TEXTS)
    assert len(model.source(text)) == len(model.target("replicate", text)) == 8
    assert model.target("replicate", small.TEXTS[0])[-1] == model.lm.end
    assert model.lm.end not in model.target("replicate", text)
    batches = DenseBatches(model, StoreItems([text, *small.TEXTS], [text, text, *[""] * 11]), seed=0)
    assert batches.cut == {"replicate": 1, "longer": 2}


def test_slot_cosine_by_hand() -> None:
    dense = np.array([[[1, 0], [-2, 0]], [[1, 0], [0, 3]]], np.float32)
    assert slot_cosine(dense) == pytest.approx(0.5)
    assert slot_cosine(dense[:, :1]) == 0


def test_what_does_not_fit_or_is_empty_is_one_error() -> None:
    with pytest.raises(ConfigError, match="longer than the model reads"):
        small.tokenizer(max_text=30, max_longer=40)
    with pytest.raises(DataError, match="an item without text"):
        small.tokenizer().encode(["a fox", ""])
    with pytest.raises(DataError, match="item row 1"):
        StoreItems(["a fox", " "])
    with pytest.raises(DataError, match="categories of other items"):
        StoreItems(["a fox"], None, ["red", "blue"])
    with pytest.raises(DataError, match="no items"):
        StoreItems([])
    with pytest.raises(ValueError, match="at least one task"):
        StoreConfig.model_validate({"tasks": dict.fromkeys(TASKS, 0)})
    with pytest.raises(ValueError, match="a column needs the file"):
        StoreConfig.model_validate({"items": {"category": "genre"}})
    lm = small.tokenizer().lm
    lm.codes = torch.nn.Embedding(extra_codes(2) - 1, lm.dim)
    with pytest.raises(ConfigError, match="too few codes"):
        DenseTokenizer(lm, small.config())


# --- items of a run


def prepared(data: Sequences, said: list[str], **changes: Any) -> Prepared:
    values = {"name": "store", "model": "store", "store": small.config(**changes).model_dump()}
    run = make_config(RunConfig, values, (), "test")
    return Prepared(run, data, leave_one_out(data), Path("nowhere"), "cpu", said.append)


def with_texts(texts: list[str] | None) -> Sequences:
    return replace(small.sequences(), texts=texts)


def test_the_first_line_is_the_text_and_the_rest_the_longer_one() -> None:
    said: list[str] = []
    found = store_items(prepared(with_texts(["Fox\n a red\nanimal", *small.TEXTS[1:]]), said))
    assert found.texts == ["Fox", *small.TEXTS[1:]]
    assert found.longer == ["a red animal", *[""] * 11] and found.categories is None
    assert said == ["auxiliary tasks of the dense tokenizer: longer text (1 of 12 items)"]


def test_items_without_texts_are_their_ids_and_that_is_told() -> None:
    said: list[str] = []
    found = store_items(prepared(with_texts(None), said))
    assert found.texts[:2] == ["item 0", "item 1"] and found.longer is None
    assert "the data has no item texts: an item's text is its ID" in said
    assert said[-1].startswith("auxiliary tasks of the dense tokenizer: none")
    said.clear()
    found = store_items(prepared(with_texts(["", *small.TEXTS[1:]]), said))
    assert found.texts[0] == "item 0"
    assert said[0].startswith("1 of 12 items have no text")


def test_categories_and_longer_texts_come_from_a_file_by_item_id(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    order = [str(row) for row in range(ITEMS)][::-1]
    table = {"item_id": [*order, "99"], "genre": [*(f"g{row}" for row in order), None], "plot": [None] * ITEMS + ["x"]}
    pl.DataFrame(table).write_parquet(path)
    said: list[str] = []
    fields = {"file": str(path), "category": "genre", "longer": "plot"}
    found = store_items(prepared(small.sequences(), said, items=fields))
    assert found.categories == [f"g{row}" for row in range(ITEMS)]
    assert found.longer == [""] * ITEMS
    assert said == ["auxiliary tasks of the dense tokenizer: category (12 of 12 items)"]
    with pytest.raises(DataError, match="no such column"):
        read_columns(path, ["1"], ["colour"])
    with pytest.raises(DataError, match="1 of 2 items are not in the file"):
        read_columns(path, ["1", "77"], ["genre"])
    pl.DataFrame({"item_id": ["1", "1"], "genre": ["a", "b"]}).write_parquet(path)
    with pytest.raises(DataError, match="twice"):
        read_columns(path, ["1"], ["genre"])
    path.write_text("no parquet")
    with pytest.raises(DataError, match="not readable as parquet"):
        read_columns(path, ["1"], ["genre"])
