"""UIST's parts: the mixture, the codebooks and their loss, packed codes, the autoencoder, against their equations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import ConfigError, DataError
from common.planted import additive_vectors
from common.representation.inputs import Tokens
from common.representation.uist.codebooks import ResidualCodebooks
from common.representation.uist.config import UistConfig
from common.representation.uist.mixture import HierarchicalMixture
from common.representation.uist.network import AdditivePooling, GroupShape, SequenceTokenizer, TokenGroup, encode
from common.representation.uist.scorer import CoarseToFine, CtrScorer, Features, ScorerConfig
from common.representation.uist.sources import (
    END,
    SPECIAL,
    UNKNOWN,
    Group,
    Source,
    SourceBatches,
    row_means,
    vectors_group,
    word_list,
    words_group,
)
from common.representation.uist.storage import code_bytes, read_codes, write_codes
from common.tokenizers.rq_kmeans import RQKMeans
from common.training.tensors import write_tensors

TINY: dict[str, Any] = {"tokenizer": "transformer", "codebook_sizes": (4, 4), "dim": 8, "heads": 2, "feedforward": 16}


def config(**values: Any) -> UistConfig:
    return UistConfig.model_validate({**TINY, "dropout": 0.0, **values})


# ------------------------------------------------------------------ mixture


def test_mixture_starts_as_the_mean_and_weighs_every_pair():
    scores = torch.randn(5, 2, 3)
    mixture = HierarchicalMixture(2, 3)
    torch.testing.assert_close(mixture(scores), scores.mean((1, 2)))
    weights = torch.arange(6.0)
    with torch.no_grad():
        mixture.linear.weight.copy_(weights[None])
        mixture.linear.bias.fill_(0.5)
    torch.testing.assert_close(mixture(scores), (scores * weights.reshape(2, 3)).sum((1, 2)) + 0.5)
    torch.testing.assert_close(mixture.weights(), weights.reshape(2, 3))


def test_mixture_refuses_other_levels():
    with pytest.raises(ConfigError, match="user_levels"):
        HierarchicalMixture(0, 3)
    with pytest.raises(DataError, match=r"\[B, 2, 3\]"):
        HierarchicalMixture(2, 3)(torch.zeros(5, 3, 2))


def test_coarse_to_fine_is_the_sum_of_the_levels_so_far():
    side = CoarseToFine((3, 4), 5)
    first, second = (table.weight for table in side.tables)
    assert isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    made = side(torch.tensor([[2, 1]]))
    torch.testing.assert_close(made, torch.stack([first[2], first[2] + second[1]])[None])


def test_scorer_scores_all_pairs_or_the_finest():
    users = Features(np.array([[0, 1], [2, 0]]), (3, 2))
    items = Features(np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32))
    torch.manual_seed(0)
    both = CtrScorer(users, items, ScorerConfig())
    finest = CtrScorer(users, items, ScorerConfig(pairs="finest"))
    finest.load_state_dict({name: v for name, v in both.state_dict().items() if not name.startswith("mixture")})
    u, v = both.users(torch.from_numpy(users.values)), both.items(torch.from_numpy(items.values))

    def score(i: int) -> torch.Tensor:  # the MLP of the concatenation, as its docstring says
        matrix = torch.cat([both.of_user.weight, both.of_item.weight, both.of_both.weight], 1)
        read = torch.cat([u[:, i], v[:, 0], u[:, i] * v[:, 0]], 1)
        return both.score(torch.relu(read @ matrix.T + both.of_user.bias))[:, 0]

    given = torch.from_numpy(users.values), torch.from_numpy(items.values)
    torch.testing.assert_close(both(*given), (score(0) + score(1)) / 2)
    torch.testing.assert_close(finest(*given), score(1))


# ------------------------------------------------------------------ codebooks


def books(**values: Any) -> ResidualCodebooks:
    torch.manual_seed(0)
    made = ResidualCodebooks((4, 3), 6, config(dead_codes=0.0, **values))
    for level, size in enumerate((4, 3)):
        made.set_table(level, torch.randn(size, 6), torch.ones(size))
    return made.eval()


def test_codes_are_greedy_and_the_loss_compares_the_whole_sum():
    made, z = books(), torch.randn(7, 6)
    first, second = made.tables()
    codes = made.codes(z.numpy())
    found = made(z)
    for row, (a, b) in enumerate(codes.tolist()):
        left = z[row] - first[a]
        assert a == ((z[row] - first) ** 2).sum(1).argmin()
        assert b == ((left - second) ** 2).sum(1).argmin()
    total = first[codes[:, 0]] + second[codes[:, 1]]
    torch.testing.assert_close(found.vectors, total)
    torch.testing.assert_close(made.sums(torch.from_numpy(codes).long()), total)
    error = (z - total).square().sum(1).mean()
    torch.testing.assert_close(found.codebook, error)
    torch.testing.assert_close(found.commitment, error)


def test_gradients_go_where_the_equation_says():
    made, z = books(), torch.randn(7, 6, requires_grad=True)
    given = torch.randn(7, 6)
    (made(z).vectors * given).sum().backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, given)  # straight through
    assert all(parameter.grad is None for parameter in made.parameters())
    z.grad = None
    made(z).codebook.backward()
    assert z.grad is None
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in made.parameters())
    made.zero_grad()
    made(z).commitment.backward()
    assert z.grad is not None and z.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in made.parameters())


def test_running_means_move_codebooks_in_training_only():
    made, z = books(update="ema", decay=0.5), torch.randn(32, 6)
    before = [table.clone() for table in made.tables()]
    made(z)
    assert all(torch.equal(a, b) for a, b in zip(before, made.tables(), strict=True))
    made.train()(z)
    assert not any(torch.equal(a, b) for a, b in zip(before, made.tables(), strict=True))


def test_an_unused_code_is_moved_onto_a_residual():
    torch.manual_seed(0)
    made = ResidualCodebooks((4, 3), 6, config(dead_codes=0.5, batch_size=32)).train()
    far = torch.full((4, 6), 100.0)
    far[0] = 0
    made.set_table(0, far, torch.tensor([32.0, 0, 0, 0]))
    made(torch.randn(32, 6))
    assert made.tables()[0].abs().max() < 10


def test_codebooks_start_as_rq_kmeans():
    x, _ = additive_vectors(200, 6, 2, 4, 0.05, 0)
    made, known = books(), RQKMeans((4, 3)).fit(x, seed=3)
    made.start(x, 3, "test", 32)
    assert np.array_equal(made.codes(x), known.encode(x))
    np.testing.assert_allclose(
        made.sums(torch.from_numpy(known.encode(x)).long()).detach(), known.decode(known.encode(x))
    )
    with pytest.raises(DataError, match="uist, items"):
        made.start(np.zeros((50, 6), np.float32), 0, "uist, items", 32)


# ------------------------------------------------------------------ packed codes


def test_packed_codes_return(tmp_path: Path):
    sizes = (64, 64, 64, 64)
    codes = np.random.default_rng(0).integers(0, 64, (1000, 4)).astype(np.int32)
    codes[0], codes[1] = 0, 63
    write_codes(tmp_path / "codes.safetensors", codes, sizes)
    found, known = read_codes(tmp_path / "codes.safetensors")
    assert np.array_equal(found, codes) and known == sizes
    assert code_bytes(sizes) == 3
    assert (tmp_path / "codes.safetensors").stat().st_size <= 3 * 1000 + 256


def test_bad_codes_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="outside its codebook"):
        write_codes(tmp_path / "codes.safetensors", np.array([[4, 0]]), (4, 4))
    with pytest.raises(ConfigError, match="64 bits"):
        code_bytes((1 << 31,) * 3)
    with pytest.raises(DataError):
        read_codes(tmp_path / "codes.safetensors")
    write_tensors(
        tmp_path / "x.safetensors",
        {"codes": torch.full((2, 1), 255, dtype=torch.uint8)},
        {"format": "mirc-codes-1", "sizes": [4, 4]},
    )
    with pytest.raises(DataError):
        read_codes(tmp_path / "x.safetensors")


# ------------------------------------------------------------------ sources


def test_words_know_their_end_and_what_is_unknown():
    assert word_list(["b a b", "C a b"], 2) == ["b", "a"]
    group = words_group(["a c", "", "B b b b"], ["b", "a"], 3)
    assert group.index.tolist() == [[SPECIAL + 1, UNKNOWN, END, -1], [-1] * 4, [SPECIAL, SPECIAL, SPECIAL, END]]
    assert group.present.tolist() == [True, False, True]


def test_many_tokens_are_averaged_in_runs():
    values = np.arange(10, dtype=np.float32).reshape(1, 5, 2)
    mask = np.array([[True, True, False, True, False]])
    group = vectors_group(Tokens(values, mask, ""), np.zeros(2, np.float32), 1.0, 2)
    assert group.table is not None
    assert group.table[group.index[0]].tolist() == [[1.0, 2.0], [6.0, 7.0]]  # tokens 0 to 2, then 3 and 4


def test_batches_cover_all_rows_and_depend_on_the_epoch_alone():
    source = Source({"history": Group(np.zeros((10, 1), np.int64), np.zeros((1, 2), np.float32))})
    batches = SourceBatches(source, 4, seed=0)
    rows = np.concatenate(batches.epoch(3))
    assert len(batches) == 3 and set(rows.tolist()) == set(range(10))
    assert np.array_equal(rows, np.concatenate(SourceBatches(source, 4, seed=0).epoch(3)))
    assert not np.array_equal(rows, np.concatenate(batches.epoch(4)))
    assert SourceBatches(source, 4, seed=1).digest != batches.digest


# ------------------------------------------------------------------ autoencoder


def vector_source(rows: int = 6, length: int = 3) -> Source:
    rng = np.random.default_rng(0)
    index = rng.integers(0, 9, (rows, length))
    index[0, 1:] = -1
    return Source({"history": Group(index, rng.normal(size=(9, 5)).astype(np.float32))})


def vector_model(**values: Any) -> SequenceTokenizer:
    torch.manual_seed(1)
    return SequenceTokenizer("users", [GroupShape("history", 3, 5)], config(**values)).eval()


def group_of(model: SequenceTokenizer) -> TokenGroup:
    (group,) = model.groups
    assert isinstance(group, TokenGroup)
    return group


def test_pooling_is_a_mean_by_attention_over_real_tokens():
    pooling, hidden = AdditivePooling(4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    scores = pooling.query(torch.tanh(pooling.project(hidden[0]))).squeeze(1)[[0, 2]]
    expected = torch.softmax(scores, 0) @ hidden[0, [0, 2]]
    found = pooling(hidden, mask)
    torch.testing.assert_close(found[0], expected)
    assert found[1].abs().sum() == 0


def test_a_rows_latent_depends_on_its_own_tokens_alone():
    model, source = vector_model(), vector_source(300)
    group = source.groups["history"]
    z = encode(model, source)
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_allclose(encode(model, source.take(order)), z[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encode(model, source.take(np.array([7]))), z[7:8], rtol=1e-4, atol=1e-5)
    table = np.concatenate([group.table, np.full((1, 5), 1e6, np.float32)]) if group.table is not None else None
    assert np.array_equal(encode(model, Source({"history": Group(group.index, table)})), z)
    np.testing.assert_allclose(row_means(group)[0], group.table[group.index[0, 0]] if group.table is not None else 0)


def test_the_decoder_of_vectors_sees_only_the_memory():
    model, source = vector_model(), vector_source()
    batch, other = source.batch(), source.take(np.array([3, 2, 1, 5, 4, 0])).batch()
    z = torch.randn(6, 8)
    group = group_of(model)
    assert torch.equal(model.decode(batch, z, group), model.decode(other, z, group))
    assert not torch.allclose(model.decode(batch, z, group), model.decode(batch, z + 1, group))


def test_the_decoder_of_words_sees_the_memory_and_the_words_before():
    torch.manual_seed(1)
    model = SequenceTokenizer("items", [GroupShape("words", 4, 6, words=True)], config()).eval()
    first = Source({"words": Group(np.array([[2, 3, 4, 0]]), None)}).batch()
    second = Source({"words": Group(np.array([[2, 5, 4, 0]]), None)}).batch()
    z, group = torch.randn(1, 8), group_of(model)
    a, b = model.decode(first, z, group), model.decode(second, z, group)
    torch.testing.assert_close(a[:, :2], b[:, :2])  # word 1 differs: what is made of places 0 and 1 does not
    assert not torch.allclose(a[:, 2], b[:, 2])


def test_losses_are_their_equations():
    source = vector_source()
    batch, z = source.batch(), torch.randn(6, 8)
    real = batch.ids["history"] >= 0
    x, ids = batch.vectors["history"][real], batch.ids["history"][real]
    model = vector_model(user_reconstruction="regression")
    made = model.decode(batch, z, group_of(model))[real]
    torch.testing.assert_close(model.generation(batch, z), (made - x).square().mean())
    model = vector_model(negatives=1000)
    made = model.decode(batch, z, group_of(model))[real]
    scores = made @ x.T / 5**0.5
    expected = []
    for row in range(len(x)):
        others = scores[row][ids != ids[row]]
        own = scores[row, row]
        expected.append(torch.logsumexp(torch.cat([own[None], others]), 0) - own)
    torch.testing.assert_close(model.generation(batch, z), torch.stack(expected).mean())


def test_the_loss_is_the_weighted_sum():
    batch = vector_source().batch()
    losses = vector_model(gen_weight=0.5, quant_weight=2.0, commitment=0.1).loss(batch)
    expected = 0.5 * losses["generation"] + 2 * (losses["codebook"] + 0.1 * losses["commitment"])
    torch.testing.assert_close(losses["loss"], expected)
    without = vector_model(gen_weight=0.0)
    assert without.decoder is None and "generation" not in without.loss(batch)
    with pytest.raises(ValueError, match="gen_weight 0"):
        config(gen_weight=0.0, commitment=0.0, update="ema")
