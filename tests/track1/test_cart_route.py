"""The generative route: IDs of pages, training on their pseudo-queries, decoding inside a question's document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from common.errors import ConfigError, DataError
from common.tokenizers.files import SidFile, write_sids
from tests.processes import one_thread as one_thread
from tests.track1.text_tables import make_passages, make_queries, planted
from track1_mdr.cart_config import CartIdsConfig, CartRouteConfig
from track1_mdr.datasets.tables import Candidates, Passages, Queries, Scored, top_k
from track1_mdr.routes.base import Environment
from track1_mdr.routes.cart import CartRoute, given_ids, make_ids, network, page_vectors

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
SMALL = {
    "ids": {"coarse": 8, "fine": [8]},
    "network": {"encoder": "words", "dim": 32, "heads": 2, "feedforward": 64, "encoder_layers": 1,
                "decoder_layers": 1, "dropout": 0.1, "omega": 0.0},
    "training": {"epochs": 40, "batch_size": 16, "learning_rate": 0.005},
}  # fmt: skip
THINGS = ("solar panels", "river boats", "stone bridges", "night trains", "sugar beets", "wool carpets")
FACTS = ("were sold in {} places", "cost {} more money", "need {} workers", "came from {} towns")


def config(**more: object) -> CartRouteConfig:
    return CartRouteConfig.model_validate({"type": "cart", "model": MINILM, **SMALL, **more})


def pages() -> tuple[Passages, Queries, Candidates, list[int]]:
    """Two documents of six pages, each about one thing; the questions are worded otherwise than the pages."""
    texts = [
        (document, " ".join(f"The {thing} {fact.format(word)}." for fact in FACTS))
        for document, word in (("d", "many"), ("e", "few"))
        for thing in THINGS
    ]
    asked = [(f"how many {thing}?", document) for document in "de" for thing in THINGS]
    passages, queries = make_passages(texts), make_queries(asked)
    names = passages.table["doc_name"].to_list()
    return passages, queries, Candidates.by_document([d for _, d in asked], names), list(range(12))


def first(results: list[Scored]) -> list[int]:
    return [int(top_k(one, 1).rows[0]) if len(one.rows) else -1 for one in results]


def hits(results: list[Scored], gold: list[int]) -> int:
    return sum(a == b for a, b in zip(first(results), gold, strict=True))


def trained(folder: Path, passages: Passages, said: list[str] | None = None, **more: object) -> CartRoute:
    lines = [] if said is None else said
    route = CartRoute(config(**more), Environment(folder, say=lines.append))
    route.fit(passages)
    return route


def shuffled(path: Path, passages: Passages, found: CartRoute) -> Path:
    """Write the route's own training texts, each under the next page of its document but one."""
    table = passages.table
    moved = [(row // 6) * 6 + (row + 2) % 6 for row in found.queries.rows.tolist()]
    pl.DataFrame(
        {
            "doc_name": [table["doc_name"][row] for row in moved],
            "passage_id": [table["passage_id"][row] for row in moved],
            "text": found.queries.texts,
        }
    ).write_parquet(path)
    return path


def test_pages_are_found_by_what_stands_on_them_and_not_with_their_texts_moved(tmp_path: Path) -> None:
    """Chance is 2 of 12. The placebo learns the same texts for other pages: it must find the wrong ones."""
    passages, queries, candidates, gold = pages()
    route = trained(tmp_path / "a", passages)
    results = route.score(queries, candidates)
    assert hits(results, gold) >= 10
    path = shuffled(tmp_path / "moved.parquet", passages, route)
    placebo = trained(tmp_path / "b", passages, queries=str(path), pseudo={"kinds": []})
    assert hits(placebo.score(queries, candidates), gold) <= 2


def test_a_beam_as_wide_as_the_document_scores_every_page_and_the_scores_are_its_distribution(tmp_path: Path) -> None:
    passages, queries, candidates, _ = pages()
    route = trained(tmp_path, passages, training={"epochs": 1})
    for scored, rows in zip(route.score(queries, candidates), candidates.rows, strict=True):
        assert np.array_equal(np.sort(scored.check("cart", "q").rows), rows)
        assert np.exp(scored.scores.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
    narrow = CartRoute(config(training={"epochs": 1}, beam=2), Environment(tmp_path))
    narrow.fit(passages)
    assert {len(scored.rows) for scored in narrow.score(queries, candidates)} == {2}  # the others are missing
    assert all(len(one.rows) == 12 for one in route.score(queries, Candidates.everything(12, 12)))


def test_a_page_without_text_has_no_score_and_a_question_without_text_no_answer(tmp_path: Path) -> None:
    passages, _, _, _ = planted()  # page 2 is empty
    said: list[str] = []
    route = trained(tmp_path, passages, said, training={"epochs": 1})
    silent, heard = route.score(make_queries([("  ", "d"), ("cat", "d")]), Candidates.everything(2, len(passages)))
    assert len(silent.rows) == 0 and sorted(heard.rows.tolist()) == [0, 1, 3, 4, 5]
    assert any("1 questions have no text" in line for line in said)
    (alone,) = route.score(make_queries([("cat", "d")]), Candidates((np.array([2]),)))
    assert len(alone.rows) == 0


@pytest.mark.parametrize("texts", [[], [("d", ""), ("d", " ")]])
def test_no_page_has_text(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    said: list[str] = []
    route = trained(tmp_path, make_passages(texts), said)
    (found,) = route.score(make_queries([("cat", "d")]), Candidates.everything(1, len(texts)))
    assert len(found.rows) == 0 and route.model is None
    assert any("no passage has text" in line for line in said)


@pytest.mark.parametrize("texts", [[("d", "The only page there is.")], [("d", "The same page twice.")] * 3])
def test_one_page_and_equal_pages_are_no_trouble(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    route = trained(tmp_path, make_passages(texts), training={"epochs": 1})
    (found,) = route.score(make_queries([("the page", "d")]), Candidates.everything(1, len(texts)))
    assert sorted(found.rows.tolist()) == list(range(len(texts)))


def test_a_second_fit_trains_nothing_and_gives_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import common.generative.cart as module

    passages, queries, candidates, _ = pages()
    once = trained(tmp_path, passages, training={"epochs": 2}).score(queries, candidates)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(module, "train_cart", refuse)
    again = trained(tmp_path, passages, training={"epochs": 2}).score(queries, candidates)
    for a, b in zip(once, again, strict=True):
        assert np.array_equal(a.rows, b.rows) and np.array_equal(a.scores, b.scores)
    with pytest.raises(AssertionError, match="trained again"):  # another setting is another model
        trained(tmp_path, passages, training={"epochs": 3})


def test_the_user_s_queries_are_learnt_and_reach_a_page_without_text(tmp_path: Path) -> None:
    passages, _, _, _ = planted()
    path = tmp_path / "own.csv"
    path.write_text("doc_name,passage_id,text\nd,2,purple zebra photograph\nd,2,where is the zebra\n")
    said: list[str] = []
    route = trained(tmp_path / "c", passages, said, queries=str(path))
    queries = make_queries([("where is the zebra", "d")])
    (found,) = route.score(queries, Candidates((np.arange(4),)))
    assert int(top_k(found, 1).rows[0]) == 2
    assert any("2 queries" in line for line in said)
    assert any("1 questions are in" in line and "not held out" in line for line in said)
    path.write_text("doc_name,passage_id,text\nd,99,lost\n")
    with pytest.raises(DataError, match="row 1"):
        trained(tmp_path / "d", passages, queries=str(path))
    assert not (tmp_path / "d").exists()  # nothing was written


def test_no_question_is_trained_on(tmp_path: Path) -> None:
    passages, queries, _, _ = pages()
    route = trained(tmp_path, passages, training={"epochs": 1})
    assert not {text.lower() for text in queries.texts} & {text.lower() for text in route.queries.texts}


def test_a_shard_only_encodes(tmp_path: Path) -> None:
    route = CartRoute(config(), Environment(tmp_path, shard=(0, 2)))
    route.fit(pages()[0])
    assert route.model is None and not (tmp_path / "cart").exists() and any(tmp_path.iterdir())


def test_score_before_fit_is_refused(tmp_path: Path) -> None:
    _, queries, candidates, _ = pages()
    with pytest.raises(RuntimeError, match="fit"):
        CartRoute(config(), Environment(tmp_path)).score(queries, candidates)


def test_page_vectors_are_pooled_by_owner() -> None:
    vectors = np.array([[1, 0], [0, 1], [3, 4]], np.float32)
    rows, mean = page_vectors(vectors, np.array([2, 2, 5]), "mean")
    assert rows.tolist() == [2, 5]
    np.testing.assert_allclose(mean, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(page_vectors(vectors, np.array([2, 2, 2]), "max")[1], [[0.6, 0.8]], rtol=1e-6)


def test_ids_differ_whatever_the_number_of_pages_and_random_ones_have_the_same_shape() -> None:
    rng = np.random.default_rng(3)
    for count in (1, 2, 5, 40, 200):
        x = rng.normal(size=(count, 6)).astype(np.float32)
        ids = make_ids(x, CartIdsConfig(), seed=1)
        assert len(np.unique(ids.sids, axis=0)) == len(ids) == count
        other = make_ids(x, CartIdsConfig(random=True), seed=1)
        assert other.sizes == ids.sizes and len(other) == count
    assert not np.array_equal(other.sids, ids.sids)


def test_ids_of_a_file_are_taken_by_row_and_the_route_learns_them(tmp_path: Path) -> None:
    passages, queries, candidates, gold = pages()
    codes = np.stack([np.arange(15) % 6, np.arange(15) // 6], axis=1).astype(np.int32)  # what it is about, where
    path = tmp_path / "ids.parquet"
    order = np.random.default_rng(0).permutation(15)  # three rows more than there are pages
    write_sids(path, SidFile(order, codes[order], (6, 3), "given"))
    said: list[str] = []
    route = trained(tmp_path / "cache", passages, said, ids={"file": str(path)})
    assert route.model is not None and any(line.startswith(f"cart: IDs of {path}") for line in said)
    assert np.array_equal(route.model.id_map.sids, codes[:12])
    assert hits(route.score(queries, candidates), gold) >= 9


def test_a_file_of_ids_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file of IDs"):
        given_ids(tmp_path / "none.parquet", np.arange(3))
    path = tmp_path / "few.parquet"
    write_sids(path, SidFile(np.arange(5), np.arange(5, dtype=np.int32)[:, None], (5,), "v"))
    with pytest.raises(DataError, match="2 of 4 passages with text have no ID") as caught:
        given_ids(path, np.array([0, 3, 5, 9]))
    assert "row 5, 9" in str(caught.value)
    assert given_ids(path, np.array([1, 4])).sids.tolist() == [[1], [4]]
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="not a file of semantic IDs"):
        given_ids(path, np.arange(3))
    with pytest.raises(ValueError, match="take one of them"):
        CartIdsConfig(random=True, file="ids.parquet")


def test_settings_reach_the_network() -> None:
    made = network(config(network={"encoder": "frozen", "fusion": "coarse", "layers": 2, "omega": 0.5}))
    assert (made.encoder.model, made.encoder.trainable, made.encoder.layers) == (MINILM, False, 2)
    assert (made.fusion, made.omega, made.fit.epochs, made.batch_size) == ("coarse", 0.5, 40, 16)
    assert network(config(network={"encoder": "words"})).encoder.model == "words"


@pytest.mark.slow
def test_a_frozen_encoder_finds_the_planted_pages(tmp_path: Path) -> None:
    passages, queries, candidates, gold = pages()
    frozen = {"encoder": "frozen", "dim": 64, "layers": 2, "decoder_layers": 1}
    route = trained(tmp_path, passages, network=frozen, training={"epochs": 30, "learning_rate": 0.002})
    assert hits(route.score(queries, candidates), gold) >= 10
