"""KAR as a method: tables of items and users, saved and loaded; the encoder of long texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from common.encoders.base import Role
from common.errors import ConfigError, DataError
from common.representation.base import MethodConfig
from common.representation.inputs import Behaviour, Items
from common.representation.kar.config import KarConfig, SourceConfig, build_source
from common.representation.kar.encoder import EncoderConfig, KnowledgeEncoder, build_knowledge_encoder
from common.representation.kar.endpoint import EndpointSource
from common.representation.kar.method import Kar
from common.representation.kar.sources import Answer, SourceStoppedError
from common.representation.table import read_features
from tests.common.representation.test_kar_knowledge import Fake
from tests.common.tiny_models import write_sentence_transformer

ITEMS = Items(np.array([7, 8, 9]), ["Dune\nsci-fi of a desert", "Alien\nhorror", "Heat\ncrime"])
BEHAVIOUR = Behaviour(np.array([4, 5, 6]), np.array([0, 1, 2]), np.array([0, 2, 3, 3]))
PROFILES = {6: "a female user"}


class Letters:
    """An encoder that counts letters: what a vector holds can be told by hand. It cuts texts at `limit` words."""

    modality: Literal["text"] = "text"
    revision = "1"
    dim = 27

    def __init__(self, name: str = "letters", limit: int = 1000) -> None:
        self.name, self.limit, self.preprocessing = name, limit, f"limit {limit}"
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str], *, role: Role, batch_size: int) -> np.ndarray:
        self.seen += texts
        counts = np.full((len(texts), 27), 1e-6, np.float32)
        for row, text in enumerate(texts):
            for letter in " ".join(text.lower().split()[: self.limit]):
                counts[row, ord(letter) - 97 if "a" <= letter <= "z" else 26] += 1
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def words(text: str) -> list[tuple[int, int]]:
    """Offsets of words, as a tokenizer gives them."""
    spans, at = [], 0
    for word in text.split():
        start = text.index(word, at)
        at = start + len(word)
        spans.append((start, at))
    return spans


def encoder(limit: int = 1004, name: str = "letters", cache: Path | None = None) -> KnowledgeEncoder:
    return KnowledgeEncoder(Letters(name, limit - 4), limit, words, cache)


def kar(tmp_path: Path, **options: Any) -> Kar:
    source = options.pop("source", None)
    made = Kar(KarConfig.model_validate(options)).use(
        cache=tmp_path / "cache", source=source, encoder=encoder(), say=lambda _: None
    )
    return made.fit(ITEMS, BEHAVIOUR, say=lambda _: None)


def test_tables_of_items_and_users_hold_the_encoded_answers(tmp_path: Path) -> None:
    source = Fake()
    made = kar(tmp_path, source=source)
    items = made.transform(ITEMS)
    assert items.id_name == "item_id" and items.ids.tolist() == [7, 8, 9]
    assert items.columns["knowledge"].shape == (3, 27) and items.columns["knowledge"].dtype == np.float32
    wanted = Letters().encode([f"fake says {text}" for text in source.asked], role="passage", batch_size=1)
    np.testing.assert_allclose(items.columns["knowledge"], wanted, atol=1e-6)
    users = made.transform_users(ITEMS, BEHAVIOUR, profiles=PROFILES)
    assert users.id_name == "user_id" and users.ids.tolist() == [4, 5, 6]
    asked = source.asked[3:]
    texts = [
        f"{history}fake says {text}" for history, text in zip(["'Dune'; 'Alien'\n", "'Heat'\n", ""], asked, strict=True)
    ]
    np.testing.assert_allclose(
        users.columns["knowledge"], Letters().encode(texts, role="passage", batch_size=1), atol=1e-6
    )
    assert items.about["method"] == "kar" and items.about["bytes_per_item"] == 108 and items.about["source"] == "fake"
    assert items.about["encoders"]["knowledge"].startswith("letters@1#")


def test_the_history_is_a_switch_and_a_template_tells_it_already(tmp_path: Path) -> None:
    with_it = kar(tmp_path, source=Fake()).transform_users(ITEMS, BEHAVIOUR, profiles=PROFILES)
    without = kar(tmp_path, source=Fake(), add_history=False).transform_users(ITEMS, BEHAVIOUR, profiles=PROFILES)
    differs = np.abs(with_it.columns["knowledge"] - without.columns["knowledge"]).max(1)
    assert differs[:2].min() > 0.01 and differs[2] == 0
    said: list[str] = []
    template = kar(tmp_path).use(say=said.append)
    rows = template.transform_users(ITEMS, BEHAVIOUR, profiles=PROFILES)
    assert "no language model" in said[0] and rows.about["source"] == "template"
    other = kar(tmp_path, add_history=False).transform_users(ITEMS, BEHAVIOUR, profiles=PROFILES)
    assert np.array_equal(rows.columns["knowledge"], other.columns["knowledge"])


def test_facts_of_items_reach_prompts_of_items_and_users(tmp_path: Path) -> None:
    source = Fake()
    made = kar(tmp_path, source=source)
    facts = [{"title": "D", "genres": "weird"}, {"title": "A"}, {"title": "H"}]
    made.transform(ITEMS, facts=facts)
    made.transform_users(ITEMS, BEHAVIOUR, facts=facts, profiles=PROFILES, notes=["5 stars", "", ""])
    assert "genres: weird" in source.asked[0] and "'D' (weird), 5 stars; 'A'" in source.asked[3]


def test_a_user_without_history_and_profile_is_a_fault_and_never_zeros(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="user 6: the user has neither a history nor a profile"):
        kar(tmp_path, source=Fake()).transform_users(ITEMS, BEHAVIOUR)
    made = kar(tmp_path, source=Fake(), gather={"allowed_failures": 1})
    table = made.transform_users(ITEMS, BEHAVIOUR)
    assert table.ids.tolist() == [4, 5] and len(made.faults) == 1
    assert (np.linalg.norm(table.columns["knowledge"], axis=1) > 0.99).all()


def test_a_failed_answer_leaves_its_item_out(tmp_path: Path) -> None:
    source = Fake()
    made = kar(tmp_path, source=source, gather={"allowed_failures": 1})
    made.transform(ITEMS)
    refused = Fake()
    refused.odd[source.asked[1]] = Answer("", 1, 1, "content_filter", "withheld")
    made = kar(tmp_path / "other", source=refused, gather={"allowed_failures": 1})
    assert made.transform(ITEMS).ids.tolist() == [7, 9]
    empty = Items(np.array([1]), [""])
    with pytest.raises(DataError, match="no knowledge at all"):
        made.transform(empty)
    with pytest.raises(DataError, match="no items"):
        kar(tmp_path).fit(empty.take(np.array([], np.int64)))


def test_work_that_was_finished_is_kept_when_the_source_stops(tmp_path: Path) -> None:
    source = Fake()
    source.batch_size = 1
    made = kar(tmp_path, source=source)
    made.transform(ITEMS.take(np.array([0, 1])))
    third = Fake()
    made = kar(tmp_path, source=third)
    made.transform(ITEMS)
    assert len(third.asked) == 1
    down = Fake()
    down.batch_size = 1
    down.odd[third.asked[0]] = SourceStoppedError("the endpoint does not answer")
    with pytest.raises(SourceStoppedError):
        kar(tmp_path / "new", source=down).transform(ITEMS)
    assert len(next((tmp_path / "new").rglob("answers.jsonl")).read_text().splitlines()) == 2


def test_saved_and_loaded_it_gives_the_same_bytes(tmp_path: Path) -> None:
    made = kar(tmp_path, prompts={"thing": "film"})
    made.transform(ITEMS).write(tmp_path / "one.parquet")
    made.save(tmp_path / "kar")
    loaded = Kar.load(tmp_path / "kar").use(encoder=encoder(), say=lambda _: None)
    assert loaded.config == made.config and loaded.state == made.state
    loaded.transform(ITEMS).write(tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    assert read_features(tmp_path / "one.parquet").about["templates"] == made.settings.prompts.templates.digest()
    loaded.save(tmp_path / "again")
    for name in ("method.json", "method.safetensors"):
        assert (tmp_path / "kar" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_another_encoder_or_source_than_at_fit_is_refused(tmp_path: Path) -> None:
    kar(tmp_path).save(tmp_path / "kar")
    loaded = Kar.load(tmp_path / "kar").use(encoder=encoder(name="other"))
    with pytest.raises(DataError, match="another encoder"):
        loaded.transform(ITEMS)
    loaded = Kar.load(tmp_path / "kar").use(encoder=encoder(), source=Fake())
    with pytest.raises(DataError, match="another source of knowledge"):
        loaded.transform_users(ITEMS, BEHAVIOUR)
    with pytest.raises(DataError, match="not fitted"):
        Kar().transform(ITEMS)
    with pytest.raises(ConfigError, match="KarConfig"):
        Kar(MethodConfig())


def test_a_source_is_built_from_its_settings(tmp_path: Path) -> None:
    endpoint = {"url": "http://localhost:1/v1", "model": "m"}
    config = KarConfig.model_validate({"source": {"type": "endpoint", "endpoint": endpoint}})
    source = build_source(config.source, "secret")
    assert isinstance(source, EndpointSource)
    made = Kar(config).use(api_key="secret", encoder=encoder()).fit(ITEMS, say=lambda _: None)
    made.save(tmp_path / "kar")
    assert not any(b"secret" in path.read_bytes() for path in (tmp_path / "kar").iterdir())
    with pytest.raises(ConfigError, match=r"lacks its settings, source.endpoint"):
        SourceConfig(type="endpoint")
    with pytest.raises(DataError, match="missing"):
        build_source(SourceConfig(type="answers", answers=str(tmp_path / "none.jsonl")))


def test_a_long_text_is_read_in_pieces_and_nothing_is_cut_off() -> None:
    made = encoder(limit=9)
    text = "aa bb cc dd ee\nff gg hh ii jj kk ll"
    assert made.pieces(text) == [("aa bb cc dd ee", 5), ("ff gg hh ii jj", 5), ("kk ll", 2)]
    assert made.pieces("aa  bb ") == [("aa  bb ", 2)]
    found = made.encode([text, "aa bb"])
    parts = Letters().encode(["aa bb cc dd ee", "ff gg hh ii jj", "kk ll"], role="passage", batch_size=1)
    mean = (5 * parts[0] + 5 * parts[1] + 2 * parts[2]) / 12
    np.testing.assert_allclose(found[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_allclose(found[1], Letters().encode(["aa bb"], role="passage", batch_size=1)[0], atol=1e-6)
    assert Letters(limit=5).encode([text], role="passage", batch_size=1)[0, 10] < 1e-3 < found[0, 10]  # "k" is told


def test_pieces_end_at_words_and_only_a_giant_word_is_cut() -> None:
    def letters(text: str) -> list[tuple[int, int]]:
        return [(at, at + 1) for at, letter in enumerate(text) if letter != " "]

    made = KnowledgeEncoder(Letters(), 10, letters)
    assert made.pieces("abcd efgh ijkl") == [("abcd", 4), ("efgh", 4), ("ijkl", 4)]
    assert made.pieces("abcdefghijklmn op") == [("abcdef", 6), ("ghijkl", 6), ("mn op", 4)]
    for text in ("a b c d e f g h i", "abcdefgh ij klm nopqrstuv"):
        assert "".join(piece for piece, _ in made.pieces(text)).replace(" ", "") == text.replace(" ", "")


def test_vectors_are_kept_and_do_not_depend_on_neighbours(tmp_path: Path) -> None:
    first = encoder(cache=tmp_path)
    texts = ["dune dune", "alien", "heat heat heat"]
    found = first.encode(texts)
    counting = Letters()
    again = KnowledgeEncoder(counting, 1004, words, tmp_path)
    assert np.array_equal(again.encode(texts[::-1]), found[::-1])
    assert counting.seen == []
    assert again.identity != encoder(limit=9).identity
    with pytest.raises(DataError, match="item 1"):
        first.encode(["x", " "], name=lambda row: f"item {row}")
    with pytest.raises(ConfigError, match="no room"):
        KnowledgeEncoder(Letters(), 4, words)


def test_a_sentence_encoder_reads_long_texts_by_its_own_tokens(tmp_path: Path) -> None:
    model = write_sentence_transformer(tmp_path / "model")
    config = EncoderConfig(model=str(model), max_tokens=16, threads=1)
    made = build_knowledge_encoder(config, tmp_path / "cache")
    text = "the cat sat " * 10
    pieces = made.pieces(text)
    assert len(pieces) == 3 and sum(count for _, count in pieces) == 30
    assert max(count for _, count in pieces) <= 12
    vectors = made.encode([text, "the cat", "revenue grew of bread flour " * 8])
    assert vectors.shape == (3, made.dim) and np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    tail = made.encode([text, text + "bank bank bank bank bank bank bank bank"])
    assert not np.allclose(tail[0], tail[1], atol=1e-3)  # the end of a long text counts
    np.testing.assert_array_equal(build_knowledge_encoder(config).encode([text])[0], vectors[0])
    assert made.identity != build_knowledge_encoder(config.model_copy(update={"max_tokens": 32})).identity


def test_serving_needs_no_language_model(tmp_path: Path, root: Path) -> None:
    """The adaptor, the tables and a ranker over them import neither transformers nor sentence_transformers."""
    import subprocess
    import sys

    code = (
        "import sys, json, common.representation.kar.adaptor, common.representation.kar.method;"
        "print(json.dumps([n for n in ('transformers', 'sentence_transformers', 'tokenizers') if n in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
