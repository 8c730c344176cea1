"""EAGER-LLM's parts: indices of two sources, instructions, stages, contrastive losses, adapters, files, a whole run."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from common.errors import DataError
from common.generative.base import load_generator
from common.generative.config import BehaviourConfig, RunConfig, TrainConfig
from common.generative.eager_llm.batches import (
    ITEM_OF_DESCRIPTION,
    ITEM_OF_TITLE,
    PREFERENCE,
    RECOMMENDATION,
    RECONSTRUCTION,
    TITLE_OF_ITEM,
    EagerLlmBatches,
    directions,
)
from common.generative.eager_llm.config import EagerLlmConfig
from common.generative.eager_llm.indices import dual_ids, told_apart, tree_codes
from common.generative.eager_llm.model import EagerLlm, Questions
from common.generative.eager_llm.system import make_model
from common.generative.eager_llm.texts import ItemTexts, TasteWords
from common.generative.run import prepare, run_ids, trained_model
from common.generative.sequences import from_lists
from common.generative.tiger_batches import TigerBatch
from common.generative.training import FitConfig, fit_generator
from common.planted import ClusterChain, additive_vectors
from common.tokenizers.semantic_ids import SemanticIdMap
from common.training.schedule import ScheduleConfig
from tests.common.generative.test_lm import saved_model

ITEMS = 24
TEXTS = [f"thing {chr(97 + item)}{chr(97 + item % 4)}" + "\nlong ago" * (item % 3 == 0) for item in range(ITEMS)]
CHAIN = ClusterChain(np.arange(ITEMS) // 4, stay=0.9, seed=0)
LISTS = CHAIN.sequences(30, 7, 0)
FLAT, OFFSETS = np.concatenate(LISTS), np.arange(31) * 7
VECTORS = {name: additive_vectors(ITEMS, 8, 2, 5, 0.1, seed)[0] for seed, name in enumerate(("behaviour", "semantic"))}
SCRATCH = {"dim": 16, "layers": 1, "heads": 2, "feedforward": 32, "context": 96, "vocabulary": 300}


def small(**changes: Any) -> EagerLlmConfig:
    lm = {"scratch": SCRATCH, "lora": {"rank": 2}} | changes.pop("lm", {})
    return EagerLlmConfig.model_validate({"lm": lm, "max_items": 5, "max_text": 24, **changes})


def indices(config: EagerLlmConfig) -> SemanticIdMap:
    vectors = {name: (VECTORS[name], "planted") for name in config.code_sources}
    return dual_ids(vectors, config.branching, iterations=10, seed=0)


def made(config: EagerLlmConfig | None = None) -> EagerLlm:
    config = config or small()
    torch.manual_seed(7)
    return make_model(config, indices(config), TEXTS, {name: VECTORS[name] for name in config.contrasts})


def batches(model: EagerLlm, epochs: int = 6, **changes: Any) -> EagerLlmBatches:
    vectors = {name: VECTORS[name] for name in model.config.contrasts}
    options: dict[str, Any] = {"seed": 3, "batch_size": 60} | changes
    return EagerLlmBatches(model.ask, model.config, FLAT, OFFSETS, TEXTS, vectors, epochs=epochs, **options)


# --- indices


def test_an_id_is_the_behaviour_path_and_then_the_semantic_one() -> None:
    ids = indices(small(branching=(3, 2)))
    assert ids.sizes[:4] == (3, 2, 3, 2)
    for start, name in ((0, "behaviour"), (2, "semantic")):
        codes, sizes, _ = tree_codes(VECTORS[name], (3, 2), 10, 0, leaves=False)
        assert sizes == (3, 2)
        assert (ids.sids[:, start : start + 2] == codes).all()
    assert len(np.unique(ids.sids, axis=0)) == ITEMS
    assert (np.unique(ids.sids[:, :2], axis=0, return_counts=True)[1] >= 4).all()  # one source alone settles no item
    assert ids == indices(small(branching=(3, 2)))


@pytest.mark.parametrize("source", ["behaviour", "semantic"])
def test_one_source_alone_keeps_its_leaves(source: str) -> None:
    ids = indices(small(indices=source, branching=(3, 2)))
    assert ids.sizes == (3, 2, 4) and ids.levels == 3
    assert (ids.sids == tree_codes(VECTORS[source], (3, 2), 10, 0, leaves=True)[0]).all()


def test_items_that_share_both_paths_get_a_rank_and_equal_vectors_are_told_apart() -> None:
    said: list[str] = []
    same = np.zeros((ITEMS, 3), np.float32)
    same[12:] = VECTORS["behaviour"][12:, :3]
    vectors = {"behaviour": (same, "use"), "semantic": (same, "content")}
    ids = dual_ids(vectors, (2, 2), iterations=5, seed=0, say=said.append)
    assert ids.ranked and len(np.unique(ids.sids, axis=0)) == ITEMS
    assert "12 items have another's vector" in said[0] and "of use" in said[0]
    apart, equal = told_apart(same, 0)
    assert equal == 12 and len(np.unique(apart, axis=0)) == ITEMS
    assert np.array_equal(apart[12:], same[12:]) and np.abs(apart - same).max() < 0.01
    with pytest.raises(DataError):
        dual_ids({"behaviour": (same[:1], "use")}, (2, 2), iterations=5, seed=0)


# --- texts


def test_titles_descriptions_and_words_of_taste() -> None:
    texts = ItemTexts.of(["Heat\nA thief.\n Two cities.", "a b c d", "one"], 3)
    assert texts.titles == ["Heat", "a b c", "one"]
    assert texts.descriptions == ["A thief. Two cities.", "a b c d", ""]
    taste = TasteWords(["The red fox", "the RED whale", "the blue fox", "the owl"], 2)
    assert taste.of([0, 1]) == ["red", "whale"]  # 2 log 2 = log 4; fox: log 2; "the" is everywhere
    assert taste.text([3]) == "owl"
    assert TasteWords(["the one", "the one"], 2).text([0, 1]) == ""


# --- stages and what they draw


def test_the_stages_of_the_default_are_those_of_the_facts() -> None:
    config = EagerLlmConfig(preference=False)
    assert [stage.weights for stage in config.stages] == [(0.3, 0.7, 0.0), (0.6, 0.4, 0.0), (1.0, 0.0, 0.0)]
    assert [stage.adapters_only for stage in config.stages] == [False, False, True]
    (flat,) = config.model_copy(update={"annealing": False}).stages
    np.testing.assert_allclose(flat.weights, (1.9 / 3, 1.1 / 3, 0))
    assert not flat.adapters_only
    assert all(stage.weights[RECONSTRUCTION] == 0 for stage in EagerLlmConfig(reconstruction=False).stages)
    with pytest.raises(ValueError, match="one number a stage"):
        EagerLlmConfig(shares=(1.0, 1.0))
    with pytest.raises(ValueError, match="switched on"):
        EagerLlmConfig(recommendation_weights=(0.0, 1.0, 1.0), reconstruction=False, preference=False)


def test_an_epoch_follows_from_its_number_and_each_task_goes_round_its_examples() -> None:
    model = made()
    given, again = batches(model), batches(model)
    seen: Counter[tuple[int, int]] = Counter()
    for number in reversed(range(6)):
        epoch = given.epoch(number)
        assert len(epoch) == len(given)
        assert all(np.array_equal(a, b) for a, b in zip(epoch, again.epoch(number), strict=True))
        rows = np.concatenate(epoch)
        stage = given.stage(number)
        assert (rows[:, 3] == stage).all() and stage == number // 2
        assert tuple(np.bincount(rows[:, 0], minlength=3)) == given.counts[stage]
        assert len(rows) == given.pools[RECOMMENDATION]
        seen.update((int(task), int(one)) for task, one in rows[:, :2])
    for task, pool in enumerate(given.pools):
        times = [seen[task, one] for one in range(pool)]
        assert max(times) - min(times) <= 1
    other = batches(model, seed=4)
    assert other.digest != given.digest
    assert not all(np.array_equal(a, b) for a, b in zip(given.epoch(0), other.epoch(0), strict=False))


def test_examples_are_the_instructions_of_the_deck() -> None:
    model = made()
    given = batches(model)
    lm, names = model.lm, ["".join(f"<code_{t}>" for t in one) for one in model.item_tokens.tolist()]
    example, told = given.example(RECOMMENDATION, 0, 0)
    history = LISTS[0]
    assert lm.text(example.prompt) == (
        f"What is the next recommendation, based on this user's history of interactions?\n{names[history[0]]}"
    )
    assert told == history[1:6].tolist()  # six items are a window; the last one is another's
    assert lm.text(example.target) == "".join(names[item] for item in told)
    pairs = {(int(kind), int(item)): row for row, (kind, item) in enumerate(given.pairs)}
    for kind, asked, answer in (
        (TITLE_OF_ITEM, f"What is the title of this item?\n{names[3]}\nTitle:\n", "thing dd"),
        (ITEM_OF_TITLE, "Which item has this title?\nthing dd\nItem:\n", names[3]),
        (ITEM_OF_DESCRIPTION, "Which item has this description?\nlong ago\nItem:\n", names[3]),
    ):
        example, told = given.example(RECONSTRUCTION, pairs[kind, 3], 0)
        assert (lm.text(example.prompt), lm.text(example.target)) == (asked, answer)
        assert told == ([] if kind == TITLE_OF_ITEM else [3])
        assert example.target[-1] == lm.end or kind != TITLE_OF_ITEM
    assert (ITEM_OF_DESCRIPTION, 4) not in pairs  # its text is its title
    example, told = given.example(PREFERENCE, 0, 0)
    recent = LISTS[0][-5:]
    assert lm.text(example.prompt).split("\n")[1] == "".join(names[item] for item in recent)
    assert told == [] and lm.text(example.target) == TasteWords(given.texts.titles, 5).text(recent.tolist())
    wordings = {lm.text(given.example(RECOMMENDATION, 0, wording)[0].prompt) for wording in range(8)}
    assert len(wordings) == 4


@pytest.mark.parametrize("teach", ["every", "last"])
def test_each_item_after_the_first_is_told_once_a_round(teach: str) -> None:
    given = batches(made(small(teach=teach)))
    told = Counter(item for row in range(given.pools[RECOMMENDATION]) for item in given.example(0, row, 0)[1])
    assert told == Counter(item for one in LISTS for item in one[1:].tolist())
    if teach == "last":
        assert all(len(given.example(0, row, 0)[1]) == 1 for row in range(5))


# --- losses


def test_the_contrastive_loss_is_infonce_of_the_mean_of_the_last_states() -> None:
    model = made(small(hidden=3, temperature=0.2, gct=0.5)).eval()
    given = batches(model)
    rows = np.concatenate(given.epoch(0))
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))][:: len(rows) // 6]
    batch = given.make(rows)
    with torch.no_grad():
        losses = model.loss(batch)
        states = model.lm.states(model.lm.embed(batch.tokens.ids), batch.tokens.mask)
        for name, projector in model.projectors.items():
            wanted = []
            for (row, place), own in zip(batch.places.tolist(), batch.own.tolist(), strict=True):
                ids = batch.tokens.ids[row, place - model.vocabulary.levels + 1 : place + 1]
                assert ids.tolist() == model.id_tokens(own)  # the place is the end of that item's ID
                mean = states[row, place - 2 : place + 1].mean(0)
                cosines = functional.cosine_similarity(projector(mean)[None], directions(VECTORS[name]))
                wanted.append(-torch.log_softmax(cosines / 0.2, 0)[own])
            torch.testing.assert_close(losses[f"gct_{name}"], torch.stack(wanted).mean(), rtol=1e-4, atol=1e-5)
    total = losses["told"] + 0.5 * (losses["gct_behaviour"] + losses["gct_semantic"])
    torch.testing.assert_close(losses["loss"], total)
    without = made(small(gct_behaviour=False, gct_semantic=False))
    assert set(without.loss(batches(without).make(rows))) == {"loss", "told"}


def test_a_draw_of_candidates_holds_the_items_that_are_told() -> None:
    model = made(small(negatives=4))
    given = batches(model)
    rows = given.epoch(0)[0]
    batch = given.make(rows)
    told = [item for row in rows.tolist() for item in given.example(*row[:3])[1]]
    assert 4 <= len(batch.candidates["semantic"]) < ITEMS
    torch.testing.assert_close(batch.candidates["semantic"][batch.own], directions(VECTORS["semantic"])[told])
    same = given.make(rows)
    assert torch.equal(same.candidates["semantic"], batch.candidates["semantic"])


def roomy_model(folder: Path) -> Path:
    """Write a tiny pre-trained model that reads 512 positions, and its tokenizer without a pad token."""
    path = saved_model(folder) / "config.json"
    config = json.loads(path.read_text()) | {"max_position_embeddings": 512}
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("tune", ["full", "lora", "codes"])
def test_a_stage_teaches_only_what_is_its_own(tune: str, tmp_path: Path) -> None:
    lm = {} if tune == "full" else {"name": str(roomy_model(tmp_path)), "tune": tune}
    model = made(small(lm=lm))
    given = batches(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    learnt = {name for name, p in model.named_parameters() if p.requires_grad}
    adapters = {name for name in learnt if "lora_" in name}
    heads = {name for name in learnt if name.startswith("projectors.")}
    assert adapters and len(heads) == 4
    for epoch, own in ((0, learnt if tune == "lora" else learnt - adapters), (5, adapters | heads)):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        for rows in given.epoch(epoch)[:3]:
            optimizer.zero_grad()
            model.loss(given.make(rows))["loss"].backward()
            optimizer.step()
        changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert changed <= own
        assert {name for name in own if "lora_B" in name or name == "lm.codes.weight"} <= changed
        assert {name for name, p in model.named_parameters() if p.requires_grad} == learnt


# --- training, files, answers

FIT = FitConfig(epochs=3, learning_rate=3e-3, schedule=ScheduleConfig(type="constant"))


class Interrupted:
    """Batches that raise at a chosen batch."""

    def __init__(self, inner: EagerLlmBatches, at: int) -> None:
        self.inner, self.left, self.digest = inner, at, inner.digest

    def __len__(self) -> int:
        return len(self.inner)

    def epoch(self, number: int) -> list[np.ndarray]:
        return self.inner.epoch(number)

    def make(self, rows: np.ndarray) -> Any:
        self.left -= 1
        if self.left < 0:
            raise MemoryError
        return self.inner.make(rows)


def test_a_resumed_run_ends_as_one_that_was_never_interrupted_in_any_stage(tmp_path: Path) -> None:
    whole = made()
    result = fit_generator(whole, batches(whole, 3), FIT, seed=5)
    per = len(batches(whole, 3))
    for at in (1, per, 2 * per + 1):  # in the first stage, between two, in the stage of adapters
        first, second = made(), made()
        with pytest.raises(MemoryError):
            fit_generator(
                first, Interrupted(batches(first, 3), at), FIT, seed=5, folder=tmp_path / str(at), checkpoint_seconds=0
            )
        resumed = fit_generator(second, batches(second, 3), FIT, seed=5, folder=tmp_path / str(at))
        assert resumed.resumed_from == at and resumed.steps == result.steps
        for name, value in whole.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name


def test_a_saved_model_comes_back_byte_for_byte_and_answers_the_same(tmp_path: Path) -> None:
    model = made()
    fit_generator(model, batches(model, 1), FIT.model_copy(update={"epochs": 1}), seed=5)
    model.save(tmp_path / "one")
    again = load_generator(tmp_path / "one", model.id_map)
    assert isinstance(again, EagerLlm)
    again.save(tmp_path / "two")
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    asked = TigerBatch.of(LISTS[:4])
    one, two = (one.generate(asked, one.trie(), beam=30, top_k=ITEMS) for one in (model, again))
    assert torch.equal(one.items, two.items) and torch.equal(one.scores, two.scores)
    assert sorted(one.items[0].tolist()) == list(range(ITEMS))
    torch.testing.assert_close(one.scores.exp().sum(1), torch.ones(4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.score(asked, one.items), one.scores, rtol=1e-4, atol=1e-4)
    assert again.title_of(range(3)) == model.title_of(range(3))
    assert (again.items_of(TEXTS[:3], k=2) == model.items_of(TEXTS[:3], k=2)).all()
    assert again.preference(LISTS[:2]) == model.preference(LISTS[:2])


def test_histories_too_long_are_cut_and_what_cannot_fit_is_one_error() -> None:
    model = made()
    long = TigerBatch.of([np.arange(40) % ITEMS])
    recent = TigerBatch.of([np.arange(35, 40) % ITEMS])
    assert model.prompts(long) == model.prompts(recent)
    with pytest.raises(DataError, match="no such item"):
        model.prompts(TigerBatch.of([np.array([ITEMS])]))
    with pytest.raises(DataError, match="no such item"):
        model.title_of([-1])
    short = made(small(lm={"scratch": {**SCRATCH, "context": 16}}))
    with pytest.raises(DataError, match="longer than the model reads"):
        given = batches(short)
        given.make(given.epoch(0)[0])
    with pytest.raises(DataError, match="no user has two items"):
        EagerLlmBatches(
            model.ask, model.config, np.arange(3), np.arange(4), TEXTS, VECTORS, seed=0, epochs=1, batch_size=4
        )


def run_config(**changes: Any) -> RunConfig:
    train = TrainConfig(epochs=3, batch_size=100, valid_users=10, patience=1)
    config = RunConfig(
        name="eager_llm",
        model="eager_llm",
        device="cpu",
        train=train,
        behaviour=BehaviourConfig(source="co_occurrence"),
    )
    return config.model_copy(update={"eager_llm": small(), **changes})


def test_a_run_without_texts_and_vectors_says_so_and_is_trained_to_its_last_stage(tmp_path: Path) -> None:
    data, said = from_lists(LISTS, ITEMS), []
    run = prepare(run_config(), data, tmp_path, "cpu", said.append)
    model = trained_model(run)
    assert isinstance(model, EagerLlm)
    text = "\n".join(said)
    for part in ("an item's text is its ID", "semantic vectors are those of co-occurrence", "trained 3 epochs"):
        assert part in text
    assert model.items_of(["item 3"], k=3).shape == (1, 3)
    again = trained_model(replace(run, say=said.append))
    assert run_ids(run) == model.id_map and said[-1].startswith("model: ")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_question_may_be_given_as_tokens() -> None:
    model = made()
    asked = [model.ask.item_of(one) for one in TEXTS[:2]]
    found = model.generate(Questions(asked), model.trie(), beam=10, top_k=1).items[:, 0].numpy()
    assert (model.items_of(TEXTS[:2])[:, 0] == found).all()
