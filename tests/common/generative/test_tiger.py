"""TIGER: what each position may see, scores against teacher forcing, caches, batches, files, bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.errors import DataError
from common.generative.base import load_generator
from common.generative.beam import exhaustive
from common.generative.tiger import Tiger, TigerBatch, TigerConfig, hash_users, recent, sibling_codes
from common.tokenizers.semantic_ids import SemanticIdMap

SIZES = (4, 4, 4)
IDS = SemanticIdMap.random(30, SIZES, seed=3)
Options = dict[str, Any]
SMALL: Options = {"dim": 16, "heads": 2, "feedforward": 24, "encoder_layers": 2, "decoder_layers": 2}
VARIANTS: list[Options] = [
    {},
    {"history": "items"},
    {"separator": True, "tied": False},
    {"attention": "bidirectional", "user_tokens": 7},
    {"loss": "trie", "learn_first": True, "user_tokens": 3},
]


def tiger(seed: int = 0, ids: SemanticIdMap = IDS, **options: Any) -> Tiger:
    """A model with weights large enough that everything matters."""
    torch.manual_seed(seed)
    model = Tiger(TigerConfig.model_validate({"max_items": 6, "dropout": 0.0} | SMALL | options), ids)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return model.eval()


def histories(seed: int = 0, lengths: tuple[int, ...] = (3, 6, 0, 1)) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, len(IDS), length) for length in lengths]


def by_hand(model: Tiger, history: np.ndarray, user: int, item: int) -> float:
    """log p(item) of one history alone: the teacher-forced codes, each over the codes that continue a known ID."""
    batch = TigerBatch.of([history], np.array([user]))
    memory, mask, bias = model.encode(recent(batch, model.config.max_items))
    states = model.decode(torch.tensor([[item]]), memory, mask, bias)[0, 0]
    total, sids = 0.0, model.id_map.sids
    for level, code in enumerate(sids[item]):
        logits = model.logits(states[level][None], level)[0]
        known = np.unique(sids[(sids[:, :level] == sids[item, :level]).all(1), level])
        total += float(functional.log_softmax(logits[torch.from_numpy(known.astype(np.int64))], 0)[known == code])
    return total


@pytest.mark.parametrize("options", VARIANTS)
def test_beam_scores_are_teacher_forced_log_probabilities(options: Options) -> None:
    model, asked, users = tiger(**options), histories(), np.array([5, 0, 9, 2])
    batch = TigerBatch.of(asked, users)
    found = model.generate(batch, model.trie(), beam=30, top_k=30)
    assert (found.items >= 0).all()
    torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(model.score(batch, found.items), found.scores, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for row, history in enumerate(asked):
            for place in (0, 7, 29):
                wanted = by_hand(model, history, int(users[row]), int(found.items[row, place]))
                assert float(found.scores[row, place]) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("options", VARIANTS)
def test_other_queries_and_padding_change_nothing(options: Options) -> None:
    model, asked = tiger(**options), histories()
    together = model.score(TigerBatch.of(asked), np.tile(np.arange(30), (4, 1)))
    for row, history in enumerate(asked):
        alone = model.score(TigerBatch.of([history]), np.arange(30)[None])
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)
    batch = TigerBatch.of(asked)
    wide = TigerBatch(functional.pad(batch.items, (0, 5), value=11), functional.pad(batch.mask, (0, 5)))
    torch.testing.assert_close(model.score(wide, np.tile(np.arange(30), (4, 1))), together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", VARIANTS)
def test_histories_are_cut_to_the_most_recent_items(options: Options) -> None:
    model = tiger(**options)
    long = np.arange(12)
    everything = np.arange(30)[None]
    got = model.score(TigerBatch.of([long]), everything)
    assert torch.equal(got, model.score(TigerBatch.of([long[-6:]]), everything))
    assert not torch.allclose(got, model.score(TigerBatch.of([long[-5:]]), everything), atol=1e-3)


@pytest.mark.parametrize("history", ["codes", "items"])
@pytest.mark.parametrize("learn_first", [False, True])
def test_one_causal_pass_is_every_cut_of_a_sequence(history: str, learn_first: bool) -> None:
    model = tiger(history=history, learn_first=learn_first, max_items=5)
    rng = np.random.default_rng(1)
    users = [rng.integers(0, 30, length) for length in (2, 5, 13, 4)]
    items, offsets = np.concatenate(users), np.cumsum([0] + [len(u) for u in users])
    batches = model.batches(items, offsets, seed=0, batch_size=1000)
    (rows,) = batches.epoch(0)
    batch = batches.make(rows)
    seen: list[tuple[int, ...]] = []
    losses: list[Tensor] = []
    with torch.no_grad():
        for w in rows:
            start, end, first = (
                int(a[w]) for a in (batches.windows.starts, batches.windows.ends, batches.windows.first)
            )
            for at in range(first, end):
                cut = TigerBatch.of([items[start:at]])
                cut = TigerBatch(cut.items, cut.mask, target=torch.tensor([items[at]]))
                losses.append(model.loss(cut)["loss"])
                seen.append((at,))
        torch.testing.assert_close(model.loss(batch)["loss"], torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)
    begins = set() if learn_first else set(offsets[:-1].tolist())
    assert sorted(seen) == [(at,) for at in range(len(items)) if at not in begins]


def test_a_later_item_changes_no_earlier_loss() -> None:
    model = tiger(learn_first=True)
    items = torch.tensor([[3, 1, 4, 1, 5, 9]])

    def losses(items: Tensor) -> list[float]:
        mask = torch.ones_like(items, dtype=torch.bool)
        each = [torch.arange(6)[None] == at for at in range(6)]
        return [model.loss(TigerBatch(items, mask, learn=learn))["loss"].item() for learn in each]

    before = losses(items)
    changed = items.clone()
    changed[0, 3] = 20
    after = losses(changed)
    assert before[:3] == after[:3]
    assert all(a != b for a, b in zip(before[3:], after[3:], strict=True))


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_the_windows_cover_each_target_once_with_enough_history(attention: str) -> None:
    model = tiger(attention=attention, max_items=4)
    lengths = [1, 2, 5, 6, 23]
    offsets = np.cumsum([0, *lengths])
    batches = model.batches(np.arange(offsets[-1]) % 30, offsets, seed=0, batch_size=8)
    w = batches.windows
    covered = np.concatenate([np.arange(a, b) for a, b in zip(w.first, w.ends, strict=True)])
    assert sorted(covered) == sorted(set(range(offsets[-1])) - set(offsets[:-1].tolist()))
    assert (w.ends - w.starts <= 5).all()
    for start, first, user in zip(w.starts, w.first, w.users, strict=True):
        assert offsets[user] <= start
        assert start == offsets[user] or first - start >= (4 if attention == "bidirectional" else 2)
    for number in (0, 1):
        plan = batches.epoch(number)
        assert len(plan) == len(batches)
        assert sorted(np.concatenate(plan)) == list(range(len(w.users)))


def test_epochs_have_orders_of_their_own_that_the_seed_decides() -> None:
    items, offsets = np.arange(300) % 30, np.arange(0, 301, 6)

    def order(seed: int, epoch: int) -> bytes:
        batches = tiger().batches(items, offsets, seed=seed, batch_size=20)
        return b"|".join(rows.tobytes() for rows in batches.epoch(epoch))

    assert order(0, 0) == order(0, 0)
    assert len({order(0, 0), order(0, 1), order(1, 0)}) == 3
    assert tiger().batches(items, offsets, seed=0).digest != tiger().batches(items, offsets, seed=1).digest


def test_the_trie_loss_is_the_negative_score() -> None:
    model = tiger(loss="trie")
    asked, target = histories(lengths=(3, 5)), torch.tensor([4, 17])
    batch = TigerBatch.of(asked)
    loss = model.loss(TigerBatch(batch.items, batch.mask, target=target))["loss"]
    wanted = -model.score(batch, target[:, None]).mean() / len(SIZES)
    torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)


def test_sibling_codes_are_those_of_items_with_the_same_prefix() -> None:
    items = torch.arange(30)
    for level in range(3):
        got = sibling_codes(tiger().trie().to("cpu"), items, level).numpy()
        for row, sid in enumerate(IDS.sids):
            same = IDS.sids[(IDS.sids[:, :level] == sid[:level]).all(1), level]
            assert set(np.flatnonzero(got[row])) == set(same.tolist())


def test_a_restricted_trie_gives_only_its_items() -> None:
    model, batch = tiger(), TigerBatch.of(histories())
    mask = np.arange(30) % 3 == 1
    trie = model.trie().restrict(mask)
    found = model.generate(batch, trie, beam=40, top_k=12)
    assert set(found.items.flatten().tolist()) == set(np.flatnonzero(mask).tolist()) | {-1}
    torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)
    inside = found.items[:, :10]
    torch.testing.assert_close(model.score(batch, inside, trie), found.scores[:, :10], atol=1e-5, rtol=1e-5)


def test_a_wide_beam_is_the_exhaustive_search() -> None:
    model, batch = tiger(), TigerBatch.of(histories())
    step, queries = model.begin(batch)
    exact = exhaustive(step, model.trie(), queries=queries)
    found = model.generate(batch, model.trie(), beam=30, top_k=10)
    assert torch.equal(found.items, exact.items[:, :10])
    torch.testing.assert_close(found.scores, exact.scores[:, :10], atol=1e-6, rtol=1e-6)


def test_users_matter_only_where_they_are_known() -> None:
    model, everything = tiger(user_tokens=7), np.arange(30)[None]
    history = [np.array([1, 2])]
    a, b = (model.score(TigerBatch.of(history, np.array([user])), everything) for user in (1, 2))
    assert not torch.allclose(a, b)
    unknown = model.score(TigerBatch.of(history), everything)
    assert torch.isfinite(unknown).all()
    buckets = hash_users(torch.arange(10_000), 7)
    counts = torch.bincount(buckets, minlength=7)
    assert counts.min() > 1200
    assert counts.max() < 1700


def test_training_randomness_is_off_in_answers_and_comes_back() -> None:
    model = tiger(dropout=0.5).train()
    batch = TigerBatch.of(histories())
    a, b = (model.generate(batch, model.trie(), beam=10, top_k=5) for _ in range(2))
    assert torch.equal(a.scores, b.scores)
    assert model.training


@pytest.mark.parametrize("options", VARIANTS)
def test_a_saved_model_gives_the_same_answers(options: Options, tmp_path: Path) -> None:
    model, batch = tiger(**options), TigerBatch.of(histories(), np.arange(4))
    model.save(tmp_path / "a")
    for loaded in (Tiger.load(tmp_path / "a", IDS), load_generator(tmp_path / "a", IDS)):
        everything = np.tile(np.arange(30), (4, 1))
        assert torch.equal(loaded.score(batch, everything), model.score(batch, everything))
    model.save(tmp_path / "b")
    names = ("model.json", "model.safetensors")
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_ids_of_another_version_are_refused(tmp_path: Path) -> None:
    tiger().save(tmp_path / "model")
    with pytest.raises(DataError, match="another version") as caught:
        Tiger.load(tmp_path / "model", SemanticIdMap.random(30, SIZES, seed=4))
    assert IDS.version in str(caught.value)


def test_extended_ids_are_accepted_and_the_new_item_can_be_generated(tmp_path: Path) -> None:
    base = SemanticIdMap.from_codes(IDS.sids[:, :2], SIZES[:2], rank_codes=9)
    model = tiger(ids=base)
    model.save(tmp_path / "model")
    grown = base.extend(base.sids[:1, :2], version="")
    loaded = Tiger.load(tmp_path / "model", grown)
    batch = TigerBatch.of(histories())
    items = loaded.generate(batch, loaded.trie(), beam=31, top_k=31).items
    assert (items == 30).any(1).all()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(DataError, match="no saved model"):
        Tiger.load(folder, IDS)
    tiger().save(folder)
    path, header = folder / "model.safetensors", folder / "model.json"
    data, text = path.read_bytes(), header.read_text()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError, match="not the one that was saved"):
        Tiger.load(folder, IDS)
    path.unlink()
    with pytest.raises(DataError, match="damaged"):
        Tiger.load(folder, IDS)
    path.write_bytes(data)
    changed = json.loads(text)
    changed["settings"]["config"]["dim"] = 32
    header.write_text(json.dumps(changed))
    with pytest.raises(DataError, match="damaged"):
        Tiger.load(folder, IDS)
    header.write_text(json.dumps(json.loads(text) | {"kind": "other"}))
    with pytest.raises(DataError, match="another kind"):
        Tiger.load(folder, IDS)
    with pytest.raises(DataError, match="unknown kind"):
        load_generator(folder, IDS)
    header.write_text("[]")
    with pytest.raises(DataError, match="not a model of this program"):
        Tiger.load(folder, IDS)


@pytest.mark.parametrize(
    ("items", "offsets", "said"),
    [
        (np.arange(4), np.array([0, 5]), "another form"),
        (np.arange(4), np.array([0, 3, 2, 4]), "another form"),
        (np.arange(4.0), np.array([0, 4]), "another form"),
        (np.arange(4), np.arange(5), "no user has two items"),
    ],
)
def test_sequences_that_cannot_be_learnt_are_refused(items: np.ndarray, offsets: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        tiger().batches(items, offsets, seed=0)


def test_an_item_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match="no such item"):
        tiger().batches(np.array([0, 30]), np.array([0, 2]), seed=0)
    with pytest.raises(DataError, match="no such item"):
        tiger().score(TigerBatch.of([np.array([31])]), np.array([[0]]))
    with pytest.raises(DataError, match="not in the trie"):
        tiger().score(TigerBatch.of([np.array([1])]), np.array([[30]]))


def test_an_empty_batch_has_no_answers() -> None:
    found = tiger().generate(TigerBatch.of([]), tiger().trie(), beam=5, top_k=3)
    assert tuple(found.items.shape) == (0, 3)
