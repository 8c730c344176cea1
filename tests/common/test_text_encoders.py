"""Text encoders: purity, sense of the packaged weights, models from folders, MaxSim."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from common.encoders.colbert import build_token_encoder
from common.encoders.cross_encoder import build_pair_scorer
from common.encoders.maxsim import maxsim
from common.encoders.packaged import resolve
from common.encoders.text import build_text_encoder, normalised
from common.errors import ConfigError
from common.logits import sigmoid
from tests.common.tiny_models import write_bert, write_colbert, write_sentence_transformer

BGE, MINILM = "BAAI/bge-small-en-v1.5", "sentence-transformers/all-MiniLM-L6-v2"
COLBERT, RERANKER = "answerdotai/answerai-colbert-small-v1", "cross-encoder/ms-marco-MiniLM-L12-v2"

TEXTS = [
    "Paris is the capital of France.",
    "",
    "The bank's quarterly revenue grew by 12.5 %, " * 12,
    "Bread needs flour, water, salt and yeast.",
    "\u00dcn\u00efc\u00f6de \u4e2d\u6587 \U0001f600",
    "word " * 600,
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that keeps exports from test to test."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("model", "precision"), [(BGE, "float32"), (MINILM, "int8"), (MINILM, "bfloat16")])
def test_a_text_has_the_same_bytes_alone_and_among_others(model: str, precision, cache: Path) -> None:
    encoder = build_text_encoder(model, cache=cache, precision=precision, threads=2)
    together = encoder.encode(TEXTS, role="passage", batch_size=4)
    alone = np.concatenate([encoder.encode([t], role="passage", batch_size=1) for t in reversed(TEXTS)])[::-1]
    np.testing.assert_array_equal(together, alone)
    single = build_text_encoder(model, cache=cache, precision=precision, threads=1)
    np.testing.assert_array_equal(together, single.encode(TEXTS, role="passage", batch_size=1))
    assert together.shape == (len(TEXTS), encoder.dim) and together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_all_backends_agree_with_plain_sentence_transformers(cache: Path) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(resolve(MINILM).target, device="cpu")
    expected = plain.encode(TEXTS, normalize_embeddings=True)
    cases = [("torch", "float32", 1 - 1e-6), ("onnx", "float32", 1 - 1e-6), ("torch", "bfloat16", 0.9999)]
    for backend, precision, least in [*cases, ("onnx", "int8", 0.97)]:
        encoder = build_text_encoder(MINILM, cache=cache, backend=backend, precision=precision)  # type: ignore[arg-type]
        found = encoder.encode(TEXTS, role="passage", batch_size=8)
        assert (found * expected).sum(axis=1).min() > least, (backend, precision)


@pytest.mark.parametrize(("model", "precision"), [(BGE, "float32"), (MINILM, "int8")])
def test_packaged_encoders_find_the_passage_that_answers(model: str, precision, cache: Path) -> None:
    encoder = build_text_encoder(model, cache=cache, precision=precision)
    passages = [TEXTS[0], TEXTS[2], TEXTS[3], "Solar panels on the roof make electricity."]
    questions = [
        "Which city is France governed from?",
        "How much did income rise?",
        "baking a loaf",
        "renewable energy",
    ]
    found = (
        encoder.encode(questions, role="query", batch_size=4) @ encoder.encode(passages, role="passage", batch_size=4).T
    )
    assert found.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_prompts_are_put_before_the_text() -> None:
    plain, prompted = build_text_encoder(BGE), build_text_encoder(BGE, query_prompt="Represent this: ")
    np.testing.assert_array_equal(
        prompted.encode(["a cat"], role="query", batch_size=1),
        plain.encode(["Represent this: a cat"], role="query", batch_size=1),
    )
    assert plain.preprocessing != prompted.preprocessing


def test_a_model_from_a_folder_with_its_own_prompts(tmp_path: Path) -> None:
    folder = write_sentence_transformer(tmp_path, prompts={"query": "the dog ", "document": "a mat "})
    encoder = build_text_encoder(str(folder), max_tokens=32)
    as_query = encoder.encode(["cat"], role="query", batch_size=1)
    as_passage = encoder.encode(["cat"], role="passage", batch_size=1)
    np.testing.assert_allclose(as_query, encoder.model.encode(["the dog cat"], normalize_embeddings=True), atol=1e-6)
    np.testing.assert_allclose(as_passage, encoder.model.encode(["a mat cat"], normalize_embeddings=True), atol=1e-6)
    assert encoder.dim == 32
    given = build_text_encoder(str(folder), query_prompt="of ", max_tokens=32)
    assert np.abs(given.encode(["cat"], role="query", batch_size=1) - as_query).max() > 1e-3


def test_onnx_folder_without_a_stated_pooling_is_an_error(tmp_path: Path) -> None:
    origin = resolve(BGE).onnx_file().parent
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).symlink_to(origin / name)
    with pytest.raises(ConfigError, match="pool"):
        build_text_encoder(str(tmp_path))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    mine = build_text_encoder(str(tmp_path)).encode(TEXTS[:1], role="passage", batch_size=1)
    np.testing.assert_array_equal(mine, build_text_encoder(BGE).encode(TEXTS[:1], role="passage", batch_size=1))


@pytest.mark.parametrize("damage", ["not a graph", ""])
def test_a_damaged_graph_is_an_error(tmp_path: Path, damage: str) -> None:
    (tmp_path / "model.onnx").write_text(damage)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        build_token_encoder(str(tmp_path))


@pytest.mark.parametrize("build", [build_text_encoder, build_token_encoder, build_pair_scorer])
def test_a_hub_name_that_cannot_be_had_is_a_user_error(build) -> None:
    with pytest.raises(ConfigError, match="could not be loaded"):
        build("nobody-at-all/no-such-model")


def test_colbert_token_vectors_are_pure_unit_and_without_punctuation() -> None:
    encoder = build_token_encoder(COLBERT)
    together = encoder.encode(TEXTS, role="passage", batch_size=4)
    for text, vectors in zip(TEXTS, together, strict=True):
        np.testing.assert_array_equal(encoder.encode([text], role="passage", batch_size=1)[0], vectors)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    words, dotted = encoder.encode(["bread flour", "bread , . ! flour"], role="passage", batch_size=2)
    assert len(words) == len(dotted) == 4  # with start and end
    assert len(encoder.encode(["bread , . ! flour"], role="query", batch_size=1)[0]) == 7
    assert encoder.token_texts("bread, flour") == ["", "bread", ",", "flour", ""]


def test_a_colbert_from_a_folder_has_markers_and_expansion(tmp_path: Path) -> None:
    encoder = build_token_encoder(str(write_colbert(tmp_path)), max_tokens=64)
    query = encoder.encode(["the cat sat"], role="query", batch_size=1)[0]
    passage = encoder.encode(["the cat sat"], role="passage", batch_size=1)[0]
    assert query.shape == (16, encoder.dim)  # expanded to a fixed length
    assert passage.shape == (6, encoder.dim)  # start, marker, three words, end
    np.testing.assert_allclose(np.linalg.norm(passage, axis=1), 1, atol=1e-5)
    tokens = encoder.token_texts("the cat sat")
    assert len(tokens) == 16 and [t for t in tokens if t] == ["the", "cat", "sat"]
    many = encoder.encode(["the cat sat", "a dog " * 20], role="passage", batch_size=2)
    np.testing.assert_allclose(many[0], passage, atol=1e-5)


def test_reranker_puts_the_answer_first_and_is_pure() -> None:
    scorer = build_pair_scorer(RERANKER)
    question = "What is the capital of France?"
    passages = [
        "Bread needs flour, water, salt and yeast.",
        "Berlin is the capital of Germany.",
        "Paris is the capital and largest city of France.",
    ]
    logits = scorer.score([(question, p) for p in passages], batch_size=3)
    assert logits.argmax() == 2 and logits[2] > 5 and logits[:2].max() < 0
    alone = np.concatenate([scorer.score([(question, p)], batch_size=1) for p in passages])
    np.testing.assert_array_equal(logits, alone)
    assert scorer.score([], batch_size=4).shape == (0,)


def test_a_cross_encoder_from_a_folder_and_one_that_is_a_classifier(tmp_path: Path) -> None:
    scorer = build_pair_scorer(str(write_bert(tmp_path / "one", labels=1)), max_tokens=64)
    pairs = [("the cat", "sat"), ("the dog", "bank revenue grew " * 8), ("a", "mat")]
    together = scorer.score(pairs, batch_size=3)
    np.testing.assert_allclose(together, np.concatenate([scorer.score([p], batch_size=1) for p in pairs]), atol=1e-5)
    assert len(set(together.tolist())) == 3
    with pytest.raises(ConfigError, match="not a reranker"):
        build_pair_scorer(str(write_bert(tmp_path / "three", labels=3)))


def test_sigmoid_at_the_ends() -> None:
    assert sigmoid(np.array([-1e4, 0.0, 1e4], np.float32)).tolist() == [0.0, 0.5, 1.0]
    np.testing.assert_allclose(sigmoid(np.array([2.0], np.float32)), 1 / (1 + np.exp(-2)), rtol=1e-6)


def test_normalised_keeps_a_zero_row_zero() -> None:
    assert normalised(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist() == [[0.0, 0.0], np.float32([0.6, 0.8]).tolist()]


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])  # the second runs in torch, as other devices do
@pytest.mark.parametrize("block", [4, 32_768])
def test_maxsim_equals_brute_force(monkeypatch: pytest.MonkeyPatch, device: str, block: int) -> None:
    import common.encoders.maxsim as module

    monkeypatch.setattr(module, "_BLOCK_TOKENS", block)
    monkeypatch.setattr(module, "_BLOCK_QUERY_TOKENS", 3 if block == 4 else 512)
    rng = np.random.default_rng(3)
    passages = [rng.normal(size=(n, 6)).astype(np.float32) for n in (3, 0, 5, 1, 9, 0)]
    queries = [rng.normal(size=(n, 6)).astype(np.float32) for n in (2, 4, 0, 1)]
    weights = rng.random(7).astype(np.float32)
    weights[-1] = 0
    offsets = np.cumsum([0] + [len(p) for p in passages])
    query_offsets = np.cumsum([0] + [len(q) for q in queries])
    flat, flat_queries = np.concatenate(passages), np.concatenate(queries)
    for given in (None, weights):
        found = maxsim(flat, offsets, flat_queries, query_offsets, given, device)
        for i, passage in enumerate(passages):
            for j, query in enumerate(queries):
                share = np.ones(len(query)) if given is None else given[query_offsets[j] : query_offsets[j + 1]]
                if not len(passage) or share.sum() == 0:
                    assert np.isnan(found[i, j])
                else:
                    expected = sum(w * max(p @ q for p in passage) for w, q in zip(share, query, strict=True))
                    assert found[i, j] == pytest.approx(expected / share.sum(), abs=1e-5)
