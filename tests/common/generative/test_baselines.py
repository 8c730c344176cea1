"""Baselines, item vectors and IDs: against plain loops, no leak from held-out items, bad input, Amazon Beauty."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import load_config, make_config
from common.errors import ConfigError, DataError
from common.generative.baselines import Generated, NearestEmbedding, Popularity, allowed_items
from common.generative.config import CONFIG_FOLDER, ItemIdsConfig, RunConfig
from common.generative.evaluate import evaluate
from common.generative.item_ids import fitting_sizes, item_vectors, make_ids
from common.generative.item_vectors import co_occurrence, co_occurrence_vectors, positive_pmi, truncated_svd
from common.generative.run import prepare, recommender
from common.generative.sasrec import SasRec, SasRecConfig
from common.generative.sequence_files import load_sequences
from common.generative.sequences import Histories, Sequences, from_lists, leave_one_out, whole
from common.generative.tiger import Tiger, TigerConfig
from common.tokenizers.files import SidFile, write_sids
from common.tokenizers.semantic_ids import SemanticIdMap

CONFIG = ItemIdsConfig(codebook_sizes=(4, 4), dim=8, window=2)


def groups(seed: int = 0, users: int = 80) -> Sequences:
    """Users keep to one of four groups of five items; item 20 is in nobody's training part."""
    rng = np.random.default_rng(seed)
    return from_lists([rng.permutation(5) + 5 * (u % 4) for u in range(users)] + [np.array([0, 1, 2, 20])], 21)


def silent(_: str) -> None:
    pass


def test_co_occurrence_and_ppmi_against_plain_loops() -> None:
    data = from_lists([np.array([0, 1, 2, 0]), np.array([2, 1]), np.array([3])], 4)
    wanted = np.zeros((4, 4))
    for one in ([0, 1, 2, 0], [2, 1], [3]):
        for i, left in enumerate(one):
            for j, right in enumerate(one):
                if left != right and 0 < abs(i - j) <= 2:
                    wanted[left, right] += 1 / abs(i - j)
    counts = co_occurrence(data, 2)
    np.testing.assert_allclose(counts.toarray(), wanted)
    degree = wanted.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(wanted * degree.sum() / np.outer(degree, degree))
    np.testing.assert_allclose(positive_pmi(counts).toarray(), np.where(wanted > 0, np.maximum(pmi, 0), 0))


def test_truncated_svd_is_numpy_s() -> None:
    from scipy import sparse

    rng = np.random.default_rng(0)
    full = rng.normal(size=(40, 6)) @ np.diag([9, 7, 5, 3, 2, 1]) @ rng.normal(size=(6, 40))
    left, values = truncated_svd(sparse.csr_array(full), 4, seed=1)
    u, s, _ = np.linalg.svd(full)
    np.testing.assert_allclose(values, s[:4], rtol=1e-8)
    np.testing.assert_allclose(np.abs((left * u[:, :4]).sum(0)), 1, rtol=1e-8)


def test_vectors_put_neighbours_together_and_know_nothing_of_others() -> None:
    data = groups()
    vectors = co_occurrence_vectors(leave_one_out(data).train, dim=4, window=2)
    near = vectors[:20] @ vectors[:20].T
    same = np.arange(20)[:, None] // 5 == np.arange(20) // 5
    assert near[same].min() > 0.5 > near[~same].max() + 0.3
    assert not vectors[20].any()


def test_held_out_items_change_no_vector_id_or_count() -> None:
    data = groups()
    other, ends = data.items.copy(), data.offsets[1:]
    for back in (1, 2):
        other[ends - back] = np.random.default_rng(back).permutation(other[ends - back])
    moved = replace(data, items=other)
    assert (moved.items != data.items).any()
    one, two = leave_one_out(data), leave_one_out(moved)
    for make in (
        lambda d, s: item_vectors(CONFIG, d, s, 0)[0],
        lambda d, s: make_ids("ours", CONFIG, d, s, 0, silent).sids,
    ):
        assert make(data, one).tobytes() == make(moved, two).tobytes()
    assert Popularity(one.train).counts.tolist() == Popularity(two.train).counts.tolist()
    whole_counts = np.bincount(data.items, minlength=21)
    assert Popularity(one.train).counts.tolist() != whole_counts.tolist()  # the search would see a leak


def test_no_co_occurrence_is_an_error() -> None:
    with pytest.raises(DataError, match="no two items co-occur"):
        co_occurrence_vectors(from_lists([np.array([0]), np.array([1])], 2))


def test_popularity_counts_and_restricts() -> None:
    popular = Popularity(from_lists([np.array([2, 2, 1]), np.array([1, 0])], 4))
    items, scores = popular.recommend(whole(from_lists([np.array([0])] * 2, 4)), 3)
    assert items.tolist() == [[1, 2, 0]] * 2 and scores.tolist() == [[2, 2, 1]] * 2
    items, _ = popular.recommend(whole(from_lists([np.array([0])], 4)), 3, allowed=np.array([1, 0, 1, 0], bool))
    assert items.tolist() == [[2, 0, -1]]


@pytest.mark.parametrize("mode", ["last", "mean"])
def test_nearest_by_faiss_is_the_full_ranking(mode: str) -> None:
    rng = np.random.default_rng(0)
    data = from_lists([rng.permutation(30)[:6] for _ in range(20)], 30)
    near = NearestEmbedding(rng.normal(size=(30, 8)).astype(np.float32), mode)  # pyright: ignore[reportArgumentType]
    histories = leave_one_out(data).test.histories
    items, _ = near.recommend(histories, 29)
    scores = near.scores(histories)
    assert (items == np.argsort(-scores, axis=1, kind="stable")[:, :29]).all()
    last = np.array([one[-1] for one in histories])
    assert not (items == last[:, None]).any()
    few, _ = near.recommend(histories, 4, allowed=np.arange(30) < 10)
    assert (few < 10).all() and (few >= 0).all() and not (few == last[:, None]).any()


def test_nearest_finds_the_group_and_shuffled_vectors_do_not() -> None:
    data = groups(users=200)
    split = leave_one_out(data)
    vectors = co_occurrence_vectors(split.train, dim=8, window=2)
    mixed = np.random.default_rng(0).permutation(vectors)
    good, bad = (
        evaluate(NearestEmbedding(v, "mean"), split.test, ks=(5,)).figures["Recall@5"].mean for v in (vectors, mixed)
    )
    assert good > 0.9 > 0.6 > bad


def test_generated_pads_cuts_and_restricts() -> None:
    torch.manual_seed(0)
    ids = SemanticIdMap.random(21, (3, 3, 3), 0)
    config = TigerConfig(dim=8, heads=2, feedforward=8, encoder_layers=1, decoder_layers=1, max_items=3)
    asked = Generated(Tiger(config, ids), most=3, beam=2, batch=7)
    histories = whole(groups())
    items, scores = asked.recommend(histories, 30)  # more than there are, and than the beam
    assert (np.sort(items[:, :21], axis=1) == np.arange(21)).all() and (items[:, 21:] == -1).all()
    np.testing.assert_allclose(np.exp(scores[:, :21]).sum(1), 1, atol=1e-5)
    few, _ = asked.recommend(histories, 3, allowed=np.arange(21) < 2)
    assert (np.sort(few, axis=1) == [-1, 0, 1]).all()


def test_histories_of_like_length_are_asked_together_and_each_gets_what_it_gets_alone() -> None:
    data = groups(users=30)
    rng = np.random.default_rng(1)
    lists = [data.items[rng.integers(0, len(data.items), length)] for length in rng.integers(0, 12, 23)]
    histories = from_lists(lists, 21)
    asked = Histories(histories.items, histories.offsets[:-1], histories.offsets[1:], np.arange(23) % 5)
    parts = list(asked.batches(4, most=6))
    assert sorted(np.concatenate(parts).tolist()) == list(range(23)) and max(map(len, parts)) == 4
    lengths = np.minimum(asked.lengths, 6)[np.concatenate(parts)]
    assert (np.diff(lengths) >= 0).all()
    torch.manual_seed(0)
    sids = SemanticIdMap.from_sids(np.stack(np.unravel_index(np.arange(21), (4, 6)), 1).astype(np.int32), (4, 6))
    model = Tiger(TigerConfig(dim=16, heads=2, feedforward=16, max_items=6, user_tokens=3), sids).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    ranker = SasRec(SasRecConfig(dim=8, feedforward=16, max_items=6), SemanticIdMap.atomic(21)).eval()
    together, alone = (Generated(model, most=6, beam=9, batch=batch) for batch in (4, 1))
    items, scores = together.recommend(asked, 5)
    wanted_items, wanted = alone.recommend(asked, 5)
    np.testing.assert_allclose(scores, wanted, atol=1e-5)
    assert (items == wanted_items).mean() > 0.98  # but where two scores are the same float
    asked_for = rng.integers(0, 21, (23, 4))
    np.testing.assert_allclose(together.score_items(asked, asked_for), alone.score_items(asked, asked_for), atol=1e-5)
    vectors = ranker.user_vectors(asked, chunk=4)
    np.testing.assert_allclose(vectors, ranker.user_vectors(asked, chunk=1), atol=1e-5)
    assert len(np.unique(vectors.round(3), axis=0)) > 15  # histories differ, so rows that change places would show


def test_excluding_items_by_id() -> None:
    data = groups()
    assert np.flatnonzero(~allowed_items(data, ["3", 4], "f")).tolist() == [3, 4]
    with pytest.raises(DataError, match="items to exclude"):
        allowed_items(data, [99], "f")
    with pytest.raises(DataError, match="every item is excluded"):
        allowed_items(data, list(range(21)), "f")


# --- IDs ---


def test_ids_of_each_source_are_distinct(tmp_path: Path) -> None:
    data = replace(groups(), published=np.repeat(np.arange(7), 3)[:, None].astype(np.int32))
    split = leave_one_out(data)
    path = tmp_path / "ids.parquet"
    write_sids(path, SidFile(np.arange(21)[::-1], np.arange(21, dtype=np.int32)[:, None], (21,), "v"))
    SemanticIdMap.random(21, (3, 3, 3), 5).save(tmp_path / "map")
    for source in ("ours", "published", "random", "atomic", str(path), str(tmp_path / "map")):
        ids = make_ids(source, CONFIG, data, split, 0, silent)
        assert len(np.unique(ids.sids, axis=0)) == 21
    published = make_ids("published", CONFIG, data, split, 0, silent)
    assert published.sids.tolist() == [[i // 3, i % 3] for i in range(21)]  # the rank is appended
    assert make_ids(str(path), CONFIG, data, split, 0, silent).sids[:, 0].tolist() == list(range(20, -1, -1))


def test_published_ids_without_collisions_get_no_rank() -> None:
    data = replace(groups(), published=np.arange(21, dtype=np.int32)[:, None])
    assert make_ids("published", CONFIG, data, leave_one_out(data), 0, silent).sids.shape == (21, 1)


def test_ids_that_do_not_fit_the_data(tmp_path: Path) -> None:
    data = groups()
    split = leave_one_out(data)
    path = tmp_path / "ids.parquet"
    write_sids(path, SidFile(np.arange(20), np.arange(20, dtype=np.int32)[:, None], (20,), "v"))
    with pytest.raises(DataError, match="1 of 21 items have no ID"):
        make_ids(str(path), CONFIG, data, split, 0, silent)
    with pytest.raises(ConfigError, match="no published IDs"):
        make_ids("published", CONFIG, data, split, 0, silent)
    with pytest.raises(ConfigError, match="no such IDs"):
        make_ids("ourz", CONFIG, data, split, 0, silent)
    config = load_config(RunConfig, "tiger", CONFIG_FOLDER, [f"ids={tmp_path / 'map'}", "tiger.dim=8", "tiger.heads=2"])
    SemanticIdMap.atomic(20).save(tmp_path / "map")
    with pytest.raises(DataError, match="another catalogue"):
        recommender(prepare(config, data, tmp_path / "run", "cpu", silent))
    assert not (tmp_path / "run" / "ids").exists()


def test_sizes_that_fit_few_items() -> None:
    for n in (2, 3, 9, 100, 5000):
        sizes = fitting_sizes((256, 256), n)
        assert np.prod(sizes) >= n and max(sizes) <= max(2, n // 4)


# --- Amazon Beauty ---


def beauty(real_data: Path) -> Sequences:
    folder = real_data / "amazon-beauty"
    if not (folder / "Beauty.inter.json").is_file():
        pytest.skip("no Amazon Beauty: see the data folder's README")
    return load_sequences(folder)


@pytest.mark.real
def test_popularity_on_beauty_is_the_known_figure(real_data: Path) -> None:
    data = beauty(real_data)
    assert (len(data.users), len(data.item_ids), len(data.items)) == (22363, 12101, 198502)
    split = leave_one_out(data)
    report = evaluate(Popularity(split.train), split.test)
    assert round(report.figures["Recall@10"].mean, 4) == 0.0114
    ids = make_ids("published", ItemIdsConfig(), data, split, 0, silent)
    assert len(np.unique(ids.sids[:, :4], axis=0)) == 12088
    assert len(np.unique(ids.sids, axis=0)) == 12101


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_short_tiger_beats_popularity_on_beauty(real_data: Path, tmp_path: Path) -> None:
    data = beauty(real_data)
    values = {
        "name": "short",
        "model": "tiger",
        "tiger": {"dim": 64, "feedforward": 256, "history": "items"},
        "train": {"epochs": 8, "learning_rate": 2e-3, "evaluate_every": 4, "valid_users": 500},
        "evaluate": {"beam": 20},
    }
    run = prepare(make_config(RunConfig, values, (), "test"), data, tmp_path / "run", "cpu", silent)
    picked = run.split.test.take(np.arange(0, len(run.split.test), 5))
    ours, popular = (evaluate(one, picked, depth=20) for one in (recommender(run), Popularity(run.split.train)))
    a, b = ours.figures["Recall@10"], popular.figures["Recall@10"]
    assert a.mean - b.mean > 3 * (a.error**2 + b.error**2) ** 0.5
