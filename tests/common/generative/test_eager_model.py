"""EAGER: scores against teacher forcing, fusion by hand, both streams under a restricted trie, files, bad input."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from common.errors import ConfigError, DataError
from common.generative.beam import BeamResult
from common.generative.eager.codes import CodeTables, child_logits
from common.generative.eager.config import EagerConfig, StreamName
from common.generative.eager.contrast import GlobalContrast
from common.generative.eager.fusion import best, together
from common.generative.eager.model import Eager
from common.generative.eager.transfer import hidden_codes, replaced
from common.generative.tiger import Tiger, TigerBatch, recent
from common.generative.training import FitConfig, fit_generator
from common.tokenizers.semantic_ids import SemanticIdMap

N = 30
IDS = SemanticIdMap.random(N, (6, 5), seed=3)
OTHER = SemanticIdMap.from_codes(np.random.default_rng(0).integers(0, 3, (N, 2)), (3, 3))  # with a rank level
SMALL: dict[str, Any] = {"dim": 16, "heads": 2, "feedforward": 24, "decoder_layers": 2, "dropout": 0.0, "max_items": 6}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"history": "items", "encoder": "shared"},
    {"history": "both", "path_limit": 8, "encoder": "shared"},
    {"attention": "bidirectional", "gct": 0.0, "recon": 0.0, "est": 0.0},
]
RNG = np.random.default_rng(5)
VECTORS: dict[StreamName, np.ndarray] = {
    "behaviour": RNG.standard_normal((N, 7)).astype(np.float32),
    "semantic": RNG.standard_normal((N, 9)).astype(np.float32),
}
EVERYTHING = np.tile(np.arange(N), (4, 1))


def eager(seed: int = 0, semantic: SemanticIdMap = OTHER, ids: SemanticIdMap = IDS, **options: Any) -> Eager:
    """A model with weights large enough that everything matters."""
    torch.manual_seed(seed)
    model = Eager.with_vectors(EagerConfig.model_validate(SMALL | options), ids, semantic, VECTORS)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.4)
    return model.eval()


def asked(lengths: tuple[int, ...] = (3, 6, 0, 1), seed: int = 0) -> TigerBatch:
    rng = np.random.default_rng(seed)
    return TigerBatch.of([rng.integers(0, N, length) for length in lengths])


def by_hand(model: Eager, batch: TigerBatch, row: int, name: StreamName, item: int) -> float:
    """log p(item) in one stream, of one history alone: teacher-forced codes, each over those that lead to an item."""
    alone = recent(TigerBatch(batch.items[row : row + 1], batch.mask[row : row + 1]), model.config.max_items)
    stream = model.stream(name)
    taught = model.taught(replace(alone, target=torch.tensor([item])))[name]
    total, sids = 0.0, stream.ids.sids
    for level, code in enumerate(sids[item]):
        logits = stream.logits(taught.states[:, level], level, torch.tensor([item]))[0]
        known = np.unique(sids[(sids[:, :level] == sids[item, :level]).all(1), level])
        total += float(functional.log_softmax(logits[torch.from_numpy(known.astype(np.int64))], 0)[known == code])
    return total


@pytest.mark.parametrize("options", VARIANTS)
def test_answers_are_sums_of_both_streams_teacher_forced_log_probabilities(options: dict[str, Any]) -> None:
    model, batch = eager(**options), asked()
    found = model.generate(batch, model.trie(), beam=N, top_k=N)
    assert (found.items.sort(1).values == torch.arange(N)).all()
    assert (found.scores.diff(dim=1) <= 0).all()
    torch.testing.assert_close(model.score(batch, found.items), found.scores, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        for row in range(4):
            for place in (0, 7, 29):
                item = int(found.items[row, place])
                wanted = by_hand(model, batch, row, "behaviour", item) + by_hand(model, batch, row, "semantic", item)
                assert float(found.scores[row, place]) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("options", VARIANTS)
def test_the_code_loss_is_the_negative_score_of_a_stream(options: dict[str, Any]) -> None:
    model, batch, target = eager(**options), asked(), torch.tensor([4, 17, 0, 29])
    losses = model.loss(replace(batch, target=target))
    for name in ("behaviour", "semantic"):
        levels = model.answer_by(name).stream(name).levels
        torch.testing.assert_close(losses[name], -model.score(batch, target[:, None]).mean() / levels)


@pytest.mark.parametrize("fusion", ["behaviour", "semantic"])
def test_one_stream_alone_is_a_distribution_over_the_catalogue(fusion: str) -> None:
    for model in (eager(fusion=fusion), eager(streams=fusion)):
        found = model.generate(asked(), model.trie(), beam=N, top_k=N)
        torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="no such stream"):
        eager(streams="semantic").begin(asked())


def test_one_causal_pass_is_every_cut_of_a_sequence() -> None:
    rng = np.random.default_rng(1)
    users = [rng.integers(0, N, length) for length in (2, 5, 13, 4)]
    items, offsets = np.concatenate(users), np.cumsum([0] + [len(u) for u in users])
    variants: list[dict[str, Any]] = [{"history": "both"}, {"encoder": "shared", "learn_first": True}]
    for options in variants:
        model = eager(max_items=5, **options)
        batches = model.batches(items, offsets, seed=0, batch_size=1000)
        (rows,) = batches.epoch(0)
        together_, apart = model.taught(batches.make(rows)), {"behaviour": [], "semantic": []}
        for w in rows:
            start, end, first = (
                int(a[w]) for a in (batches.windows.starts, batches.windows.ends, batches.windows.first)
            )
            for at in range(first, end):
                cut = replace(TigerBatch.of([items[start:at]]), target=torch.tensor([items[at]]))
                for name, one in model.taught(cut).items():
                    apart[name].append(one.states)
        for name, one in together_.items():
            torch.testing.assert_close(one.states, torch.cat(apart[name]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", VARIANTS)
def test_other_queries_and_padding_change_nothing(options: dict[str, Any]) -> None:
    model, batch = eager(**options), asked()
    scores = model.score(batch, EVERYTHING)
    for row in range(4):
        length = int(batch.mask[row].sum())
        alone = TigerBatch.of([batch.items[row, :length].numpy()])
        torch.testing.assert_close(model.score(alone, EVERYTHING[:1])[0], scores[row], atol=1e-5, rtol=1e-5)
    wide = TigerBatch(functional.pad(batch.items, (0, 5), value=11), functional.pad(batch.mask, (0, 5)))
    torch.testing.assert_close(model.score(wide, EVERYTHING), scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fusion", ["confidence", "concatenate", "behaviour", "semantic"])
def test_both_streams_keep_to_a_restricted_trie(fusion: str) -> None:
    model, batch = eager(fusion=fusion), asked()
    mask = np.arange(N) % 3 == 1
    trie = model.trie().restrict(mask)
    found = model.generate(batch, trie, beam=40, top_k=12)
    assert set(found.items.flatten().tolist()) == set(np.flatnonzero(mask).tolist()) | {-1}
    assert (torch.isneginf(found.scores) == (found.items < 0)).all()
    torch.testing.assert_close(model.score(batch, found.items[:, :10], trie), found.scores[:, :10])
    again = model.generate(batch, model.trie(), beam=N, top_k=N)  # the restriction is not remembered
    assert (again.items.sort(1).values == torch.arange(N)).all()
    if fusion in ("behaviour", "semantic"):
        torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)


def test_candidates_are_the_union_and_narrow_beams_score_exactly() -> None:
    model, batch = eager(), asked()
    found = model.generate(batch, model.trie(), beam=4, top_k=4)
    own = [
        eager(fusion=name).generate(batch, model.trie(), beam=4, top_k=4).items for name in ("behaviour", "semantic")
    ]
    exact = model.score(batch, EVERYTHING)
    for row in range(4):
        union = sorted({int(item) for one in own for item in one[row]}, key=lambda item: -float(exact[row, item]))
        assert found.items[row].tolist() == union[:4]
    torch.testing.assert_close(found.scores, exact.gather(1, found.items), atol=1e-5, rtol=1e-5)
    joined = eager(fusion="concatenate").generate(batch, model.trie(), beam=4, top_k=4)
    assert (joined.scores >= found.scores).all()  # one log-probability is above the sum of two
    with pytest.raises(ConfigError, match="no such search"):
        model.generate(batch, model.trie(), beam=3, top_k=4)
    assert tuple(model.generate(TigerBatch.of([]), model.trie(), beam=5, top_k=3).items.shape) == (0, 3)


def test_lists_are_put_together_with_each_items_scores() -> None:
    a = BeamResult(torch.tensor([[5, 2, -1]]), torch.tensor([[-1.0, -2.0, -torch.inf]]))
    b = BeamResult(torch.tensor([[2, 9, 7]]), torch.tensor([[-0.5, -0.7, -3.0]]))
    items, scores = together([a, b])
    held = {int(i): s.tolist() for i, s in zip(items[0], scores[:, 0].T, strict=True) if i >= 0}
    low = -float("inf")
    assert held == {2: [-2.0, -0.5], 5: [-1.0, low], 7: [low, -3.0], 9: [low, pytest.approx(-0.7)]}
    ranked = best(torch.tensor([[1, -1, 3, 4]]), torch.tensor([[-1.0, 9.0, -1.0, -0.5]]), 5)
    assert ranked.items.tolist() == [[4, 1, 3, -1, -1]]


def test_logits_of_children_are_products_with_the_parents_own_rows() -> None:
    rng = torch.Generator().manual_seed(0)
    states, tables = torch.randn(40, 8, generator=rng), torch.randn(6, 5, 8, generator=rng)
    parents = torch.randint(6, (40,), generator=rng)
    wanted = torch.einsum("nd,nkd->nk", states, tables[parents])
    torch.testing.assert_close(child_logits(states, tables, parents), wanted)
    assert child_logits(states[:0], tables, parents[:0]).shape == (0, 5)
    by_path, shared = CodeTables((6, 5, 9), 8, 30), CodeTables((6, 5, 9), 8, 0)
    codes = torch.tensor([[2, 3, 8]])
    assert by_path.rows(codes).tolist() == [[2, 13, 8]]
    assert shared.rows(codes).tolist() == [[2, 3, 8]]
    assert hidden_codes(by_path, torch.tensor([0, 1, 2])).tolist() == [
        [True, True, False],
        [False, True, False],
        [False, False, True],
    ]


def test_the_contrastive_loss_is_infonce_of_cosines() -> None:
    torch.manual_seed(0)
    task = GlobalContrast(16, 9, 0.3, 100)
    vectors = functional.normalize(torch.from_numpy(VECTORS["semantic"]), dim=1)
    states, items = torch.randn(5, 16), torch.tensor([3, 3, 8, 20, 1])
    wanted = functional.cross_entropy(task.cosines(states, vectors) / 0.3, items)
    torch.testing.assert_close(task.loss(states, items, vectors), wanted)


def test_a_replaced_code_gives_another_item_of_the_same_prefix() -> None:
    torch.manual_seed(0)
    trie = eager().stream("semantic").trie().to("cpu")
    items = torch.arange(N).repeat(50)
    others = replaced(trie, items)
    sids = OTHER.sids
    same = (sids[items] == sids[others]).cumprod(1).sum(1)
    alone = np.array(
        [
            all(
                (sids[:, : at + 1] == one[: at + 1]).all(1).sum() == (sids[:, :at] == one[:at]).all(1).sum()
                for at in range(3)
            )
            for one in sids
        ]
    )
    assert ((others == items).numpy() == alone[items]).all()
    assert set(same[(others != items).numpy()].tolist()) == {0, 1, 2}  # each level is replaced at times
    lone = SemanticIdMap.from_sids(np.array([[0, 0]]), (1, 1))
    assert replaced(Eager(EagerConfig(), lone, lone).trie().to("cpu"), torch.tensor([0, 0])).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"behaviour", "semantic", "gct_behaviour", "gct_semantic", "recon", "est"}),
        ({"gct": 0.0}, {"behaviour", "semantic", "recon", "est"}),
        ({"gct_weights": (0.0, 1.0), "recon": 0.0}, {"behaviour", "semantic", "gct_semantic", "est"}),
        ({"recon": 0.0, "est": 0.0}, {"behaviour", "semantic", "gct_behaviour", "gct_semantic"}),
        ({"streams": "semantic"}, {"semantic", "gct_semantic"}),
    ],
)
def test_each_weight_switches_its_task_off(options: dict[str, Any], names: set[str]) -> None:
    model = eager(**options)
    torch.manual_seed(0)
    losses = model.loss(replace(asked(), target=torch.tensor([4, 17, 0, 29])))
    assert set(losses) == names | {"loss"}
    config = model.config
    weights = {"recon": config.recon, "est": config.est}
    weights |= {f"gct_{name}": config.gct_weight(name) for name in config.names}
    total = sum((weights.get(name, 1.0) * losses[name] for name in names), torch.zeros(()))
    torch.testing.assert_close(losses["loss"], total)
    losses["loss"].backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None and "special" not in name]
    assert idle == []


def test_the_guide_is_not_trained_by_the_transfer_task() -> None:
    model = eager(gct=0.0)
    torch.manual_seed(0)
    losses = model.loss(replace(asked(), target=torch.tensor([4, 17, 0, 29])))
    (losses["recon"] + losses["est"]).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.stream("semantic").parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.stream("behaviour").tables.parameters())


def test_a_saved_model_gives_the_same_answers_and_bytes(tmp_path: Path) -> None:
    from common.generative.base import load_generator

    model, batch = eager(history="both"), asked()
    model.save(tmp_path / "a")
    loaded = Eager.load(tmp_path / "a", IDS)
    assert loaded.semantic_map == OTHER
    for one in (loaded, load_generator(tmp_path / "a", IDS)):
        assert torch.equal(one.score(batch, EVERYTHING), model.score(batch, EVERYTHING))
    loaded.save(tmp_path / "b")
    names = sorted(str(p.relative_to(tmp_path / "a")) for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(names) == 4
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    with pytest.raises(DataError, match="no item vectors"):
        loaded.loss(replace(batch, target=torch.tensor([4, 17, 0, 29])))
    with pytest.raises(DataError, match="not the vectors"):
        loaded.give_vectors({"semantic": VECTORS["semantic"] + 1})
    loaded.give_vectors(VECTORS)
    assert torch.isfinite(loaded.loss(replace(batch, target=torch.tensor([4, 17, 0, 29])))["loss"])


def test_ids_of_other_versions_and_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(DataError, match="no saved model"):
        Eager.load(folder, IDS)
    eager().save(folder)
    with pytest.raises(DataError, match="another version"):
        Eager.load(folder, SemanticIdMap.random(N, (6, 5), seed=4))
    with pytest.raises(DataError, match="another version"):
        Eager.load(folder, IDS, semantic=IDS)
    with pytest.raises(DataError, match="another kind"):
        Tiger.load(folder, IDS)
    header = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(header | {"settings": {"config": {}}}))
    with pytest.raises(DataError):
        Eager.load(folder, IDS)
    with pytest.raises(DataError, match="different catalogues"):
        eager(semantic=SemanticIdMap.atomic(4))


def test_items_that_come_later_are_found_where_the_history_is_of_codes(tmp_path: Path) -> None:
    base = SemanticIdMap.from_codes(IDS.sids, (6, 5), rank_codes=3)
    other = SemanticIdMap.from_codes(OTHER.sids[:, :2], (3, 3), rank_codes=9)
    eager(ids=base, semantic=other).save(tmp_path / "model")
    more, others = base.extend(base.sids[:1, :2], version=""), other.extend(other.sids[:1, :2], version="")
    loaded = Eager.load(tmp_path / "model", more, semantic=others)
    assert (loaded.generate(asked(), loaded.trie(), beam=N + 1, top_k=N + 1).items == N).any(1).all()
    with pytest.raises(DataError, match="different catalogues"):
        Eager.load(tmp_path / "model", more)
    eager(ids=base, semantic=other, history="items").save(tmp_path / "items")
    with pytest.raises(DataError, match="none for new items"):
        Eager.load(tmp_path / "items", more, semantic=others)


def test_an_interrupted_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    items, offsets = rng.integers(0, N, 120), np.arange(0, 121, 6)

    class Stop(Exception):
        pass

    def run(folder: Path, stop_at: int | None) -> dict[str, Tensor]:
        torch.manual_seed(1)
        model = Eager.with_vectors(EagerConfig.model_validate(SMALL | {"dropout": 0.1}), IDS, OTHER, VECTORS)
        calls = iter(range(100))
        made = model.loss

        def loss(batch: TigerBatch) -> dict[str, Tensor]:
            if next(calls) == stop_at:
                raise Stop
            return made(batch)

        model.loss = loss  # pyright: ignore[reportAttributeAccessIssue]
        batches = model.batches(items, offsets, seed=1, batch_size=40)
        fit_generator(model, batches, FitConfig(epochs=3), seed=1, folder=folder, checkpoint_seconds=0)
        return model.state_dict()

    whole = run(tmp_path / "a", None)
    with pytest.raises(Stop):
        run(tmp_path / "b", 4)
    resumed = run(tmp_path / "b", None)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_bad_input_is_refused() -> None:
    model = eager()
    with pytest.raises(DataError, match="no such item"):
        model.score(TigerBatch.of([np.array([31])]), np.array([[0]]))
    with pytest.raises(DataError, match="not in the trie"):
        model.score(TigerBatch.of([np.array([1])]), np.array([[30]]))
    with pytest.raises(DataError, match="no such item"):
        model.batches(np.array([0, 30]), np.array([0, 2]), seed=0)
    with pytest.raises(DataError, match="not a training batch"):
        model.loss(asked())
    learn = replace(asked((3,)), learn=torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(DataError, match="causal"):
        eager(attention="bidirectional").loss(learn)
    with pytest.raises(ValueError, match="not negative"):
        EagerConfig(gct_weights=(-1.0, 1.0))
