"""BM25 routes against an independent reckoning of the formula, and planted pages."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.track1.text_tables import make_passages, make_queries, planted
from track1_mdr.config import Bm25Config
from track1_mdr.datasets.tables import Candidates, Scored, top_k
from track1_mdr.routes import bm25_tokens
from track1_mdr.routes.base import Environment
from track1_mdr.routes.bm25 import Bm25Index, Bm25Route
from track1_mdr.routes.bm25_tokens import (
    Analyzer,
    TokenIds,
    characters,
    names,
    question_names,
    tokenize,
    with_ngrams,
)

WORDS = [f"{a}{b}" for a in ("quark", "lemur", "tundra", "violin", "saffron") for b in ("", "x", "xq")]


def lucene(query: list[str], documents: list[list[str]], k1: float, b: float) -> list[float]:
    """BM25 as in Lucene (Kamphuis et al. 2020): idf = ln(1 + (N - n + 0.5) / (n + 0.5)), exact lengths.

    A token that the query has twice counts twice.
    """
    counts = [Counter(document) for document in documents]
    mean = sum(map(len, documents)) / len(documents)
    frequency = Counter(token for count in counts for token in count)
    result: list[float] = []
    for document, count in zip(documents, counts, strict=True):
        total = 0.0
        for token in query:
            n = frequency[token]
            if n:
                idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
                total += idf * count[token] / (count[token] + k1 * (1 - b + b * len(document) / mean))
        result.append(total)
    return result


def route(**options: Any) -> Bm25Route:
    return Bm25Route(Bm25Config(type="bm25", **options), Environment(Path("unused")))


def run(
    pages: list[tuple[str, str]], questions: list[tuple[str, str]], everything: bool = False, **options: Any
) -> list[Scored]:
    passages, queries = make_passages(pages), make_queries(questions)
    documents = [document for document, _ in pages]
    candidates = (
        Candidates.everything(len(questions), len(pages))
        if everything
        else Candidates.by_document([document for _, document in questions], documents)
    )
    built = route(**options)
    built.fit(passages)
    return built.score(queries, candidates)


def as_dict(scored: Scored) -> dict[int, float]:
    return dict(zip(scored.rows.tolist(), scored.scores.tolist(), strict=True))


def random_pages(rng: np.random.Generator, count: int = 12) -> list[tuple[str, str]]:
    """Pages of words that neither stemming nor stop words touch, so that the oracle can split at spaces."""
    return [
        ("ab"[row * 2 // count], " ".join(rng.choice(WORDS, int(rng.integers(1, 30))).tolist())) for row in range(count)
    ]


@pytest.mark.parametrize("scope", ["document", "collection"])
@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.5, 0.0), (2.0, 1.0)])
def test_scores_are_the_formula_s(scope: str, k1: float, b: float) -> None:
    rng = np.random.default_rng(3)
    pages = random_pages(rng)
    assert [tokenize(text) for _, text in pages] == [text.split() for _, text in pages]
    questions = [(" ".join(rng.choice(WORDS, 4).tolist()), "ab"[i % 2]) for i in range(8)]
    results = run(pages, questions, scope=scope, k1=k1, b=b)
    for (question, document), scored in zip(questions, results, strict=True):
        mine = [row for row, (name, _) in enumerate(pages) if name == document]
        over = mine if scope == "document" else list(range(len(pages)))
        expected = dict(zip(over, lucene(question.split(), [pages[r][1].split() for r in over], k1, b), strict=True))
        assert as_dict(scored) == pytest.approx({row: expected[row] for row in mine}, abs=1e-5)


def test_the_whole_collection_as_candidates_is_the_formula_over_it() -> None:
    rng = np.random.default_rng(4)
    pages = random_pages(rng)
    (scored,) = run(pages, [("quark lemurx violin", "")], everything=True)
    expected = lucene(["quark", "lemurx", "violin"], [text.split() for _, text in pages], 1.2, 0.75)
    assert as_dict(scored) == pytest.approx(dict(enumerate(expected)), abs=1e-5)


def test_n_grams_are_the_formula_over_tokens_and_their_runs() -> None:
    rng = np.random.default_rng(5)
    pages = random_pages(rng)

    def runs(text: str) -> list[str]:
        words = text.split()
        return [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]

    question = "quark lemurx violin quark"
    (scored,) = run(pages, [(question, "")], everything=True, ngrams=3)
    expected = lucene(runs(question), [runs(text) for _, text in pages], 1.2, 0.75)
    assert as_dict(scored) == pytest.approx(dict(enumerate(expected)), abs=1e-5)


def test_chunks_a_page_is_as_good_as_its_best_window() -> None:
    rng = np.random.default_rng(6)
    pages = random_pages(rng)
    (scored,) = run(pages, [("quark violin", "")], everything=True, unit="chunk", words=6, stride=4)
    windows: list[tuple[int, list[str]]] = []
    for row, (_, text) in enumerate(pages):
        words = text.split()
        start = 0
        while True:
            windows.append((row, words[start : start + 6]))
            if start + 6 >= len(words):
                break
            start += 4
    values = lucene(["quark", "violin"], [window for _, window in windows], 1.2, 0.75)
    expected: dict[int, float] = {}
    for (row, _), value in zip(windows, values, strict=True):
        expected[row] = max(expected.get(row, 0.0), value)
    assert as_dict(scored) == pytest.approx(expected, abs=1e-5)


def test_scope_matters_where_a_word_is_rare_in_the_document_and_common_elsewhere() -> None:
    """In document scope "tundra" singles out page 0; the collection holds it everywhere else."""
    pages = [("a", "tundra lemur"), ("a", "quark quark lemur"), ("a", "quark lemur"), ("a", "lemur violin")]
    pages += [("b", "tundra saffron")] * 20
    (document,) = run(pages, [("tundra quark", "a")], scope="document")
    (collection,) = run(pages, [("tundra quark", "a")], scope="collection")
    assert int(top_k(document, 1).rows[0]) == 0
    assert int(top_k(collection, 1).rows[0]) == 1


def test_empty_pages_have_no_score_and_pages_without_a_hit_have_zero() -> None:
    pages = [("a", "quark lemur"), ("a", ""), ("a", " \n\t"), ("a", "violin")]
    cases: list[dict[str, Any]] = [{}, {"unit": "chunk"}, {"scope": "document"}, {"tokens": "characters"}]
    for options in cases:
        (scored,) = run(pages, [("quark", "a")], **options)
        values = as_dict(scored)
        assert set(values) == {0, 3}, options
        assert values[0] > values[3] == 0.0, options


def test_a_question_of_stop_words_only_says_nothing() -> None:
    pages = [("a", "is the tundra"), ("a", "of the and")]
    assert [len(s.rows) for s in run(pages, [("Is the of and?", "a"), ("", "a")])] == [0, 0]


def test_words_that_stand_nowhere_are_not_an_error() -> None:
    (scored,) = run([("a", "quark"), ("a", "lemur")], [("zebra", "a")])
    assert set(as_dict(scored).values()) <= {0.0}


def test_documents_without_any_token_are_not_an_error() -> None:
    pages = [("a", "the of and"), ("a", "..."), ("b", "quark")]
    for scope in ("document", "collection"):
        results = run(pages, [("quark", "a"), ("quark", "b")], scope=scope)
        assert set(as_dict(results[0]).values()) <= {0.0}
        assert set(as_dict(results[1])) == {2}
    assert [len(s.rows) for s in run([("a", ""), ("a", " ")], [("quark", "a")])] == [0]


def test_top_keeps_the_best_only() -> None:
    rng = np.random.default_rng(7)
    pages = random_pages(rng)
    (whole,) = run(pages, [("quark violin", "")], everything=True)
    (head,) = run(pages, [("quark violin", "")], everything=True, top=3)
    assert head.rows.tolist() == top_k(whole, 3).rows.tolist()


def test_the_same_input_gives_the_same_bytes() -> None:
    rng = np.random.default_rng(8)
    pages = random_pages(rng)
    questions = [("quark violin lemur", "a"), ("saffron", "b")]
    first, second = (run(pages, questions, ngrams=2) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.rows.tobytes() == b.rows.tobytes()
        assert a.scores.tobytes() == b.scores.tobytes()


def test_a_question_s_result_does_not_depend_on_the_other_questions() -> None:
    rng = np.random.default_rng(9)
    pages = random_pages(rng)
    questions = [("quark violin", "a"), ("saffron", "b"), ("lemur tundra", "a")]
    together = run(pages, questions)
    for question, scored in zip(questions, together, strict=True):
        (alone,) = run(pages, [question])
        assert as_dict(alone) == as_dict(scored)


FILLER = ["violin", "saffron", "violinx", "saffronx"]


def phrase_pages(rng: np.random.Generator, shuffle: bool) -> list[tuple[str, str]]:
    """Page 0 has the words of "quark lemur tundra" scattered, page 1 as a phrase; both the same bag of words."""
    scattered = ["quark", *FILLER, "tundra", *FILLER, "lemur", *FILLER]
    phrase = [*FILLER, *FILLER, "quark", "lemur", "tundra", *FILLER]
    if shuffle:
        phrase = rng.permutation(phrase).tolist()
    return [("a", " ".join(scattered)), ("a", " ".join(phrase))]


def test_n_grams_tell_a_phrase_from_scattered_words() -> None:
    rng = np.random.default_rng(0)
    (plain,) = run(phrase_pages(rng, False), [("quark lemur tundra", "a")])
    assert as_dict(plain)[0] == pytest.approx(as_dict(plain)[1])
    (runs,) = run(phrase_pages(rng, False), [("quark lemur tundra", "a")], ngrams=2)
    assert as_dict(runs)[1] > as_dict(runs)[0] + 0.1


def test_placebo_a_page_with_its_words_shuffled_has_no_phrase() -> None:
    """Over 40 shuffles the page with the same bag of words wins only by chance meetings."""
    gains: list[float] = []
    for seed in range(40):
        (scored,) = run(phrase_pages(np.random.default_rng(seed), True), [("quark lemur tundra", "a")], ngrams=2)
        gains.append(as_dict(scored)[1] - as_dict(scored)[0])
    assert np.mean(np.asarray(gains) > 0.1) < 0.35
    assert np.median(gains) == pytest.approx(0.0, abs=0.02)


def test_planted_answers_are_found_in_their_document() -> None:
    passages, queries, candidates, _ = planted()
    built = route()
    built.fit(passages)
    best = [int(top_k(s, 1).rows[0]) for s in built.score(queries, candidates)]
    assert best[0] == 1 and best[2] == 4  # those whose words stand on the page; the others are paraphrases


def test_characters_find_what_ocr_misread() -> None:
    pages = [("a", "the tundrainfrastructurc report"), ("a", "the violin report")]
    (words,) = run(pages, [("tundra infrastructure", "a")])
    (grams,) = run(pages, [("tundra infrastructure", "a")], tokens="characters")
    assert set(as_dict(words).values()) == {0.0}
    assert as_dict(grams)[0] > as_dict(grams)[1]


def test_names_hold_to_capitalised_words_and_numbers() -> None:
    pages = [("a", "Ansel paid 1,024 in 2021"), ("a", "ansel paid nothing; Tollgate paid 7")]
    (scored,) = run(pages, [("How much did Ansel pay?", "a")], tokens="names")
    assert as_dict(scored)[0] > 0.0 == as_dict(scored)[1]
    (silent,) = run(pages, [("How much was paid?", "a")], tokens="names")
    assert len(silent.rows) == 0


def test_tokens_by_hand() -> None:
    assert tokenize("The rivers are 3.2 km, 1,024 boats_sailing!") == ["river", "3.2", "km", "1,024", "boat", "sail"]
    assert characters("ab, cd") == [" ab ", "ab c", "b cd", " cd "]
    assert characters("") == []
    assert names("In 2021 Acme-Corp sold 3.5 units to Bo") == ["in", "2021", "acme-corp", "3.5", "bo"]
    assert question_names("Which year did Acme grow?") == ["acme"]
    assert with_ngrams(["a", "b", "c"], 3) == ["a", "b", "c", "a b", "b c", "a b c"]
    assert with_ngrams([], 2) == []


def test_score_before_fit_is_refused() -> None:
    with pytest.raises(RuntimeError, match="fit before score"):
        route().score(make_queries([("q", "a")]), Candidates.everything(1, 1))


PIECES = [
    *WORDS,
    "the",
    "and",
    "Tundra",
    "XQ",
    "3.2",
    "1,024",
    "7",
    "naïve",
    "Zürich",
    "größe",
    "東京",
    "\U0001f600",
    "-",
    "_",
]


@pytest.mark.parametrize("tokens", ["words", "characters", "names"])
@pytest.mark.parametrize("ngrams", [1, 2, 3])
def test_ids_are_the_tokens_looked_up(tokens: str, ngrams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25_tokens, "_MAX_WORDS", 12)  # what is remembered is dropped now and then
    rng = np.random.default_rng(ngrams)
    analyzer = Analyzer(tokens, ngrams)
    texts = [" ".join(rng.choice(PIECES, rng.integers(0, 40))) for _ in range(60)] + ["", "a", "the", "\ud800 x"]
    questions = [" ".join(rng.choice(PIECES[::2], rng.integers(1, 8))) for _ in range(9)]
    asked = dict.fromkeys(token for question in questions for token in analyzer.query(question))
    vocabulary = {token: place for place, token in enumerate(asked, 1)}
    encode = TokenIds(analyzer, vocabulary, questions)
    found = [encode(text) for text in texts]
    assert [ids.tolist() for ids in found] == [[vocabulary.get(t, 0) for t in analyzer.passage(x)] for x in texts]
    assert all(ids.dtype == np.int32 for ids in found) and any(ids.any() for ids in found)
    assert not any(TokenIds(analyzer, {}, [])(text).any() for text in texts)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_bm25s_to_the_last_bit(seed: int) -> None:
    import bm25s
    from bm25s.tokenization import Tokenized

    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(40)]
    vocabulary = {word: place for place, word in enumerate(words, 1)}
    # more units than are counted at once, some of them empty, most tokens in no question
    units = [np.maximum(rng.integers(-60, 41, rng.integers(0, 30)), 0).astype(np.int32) for _ in range(600)]
    ours = Bm25Index(units, vocabulary, k1=1.5, b=0.6)
    theirs = bm25s.BM25(k1=1.5, b=0.6)
    lists: Any = Tokenized(ids=[unit.tolist() for unit in units], vocab={"": 0, **vocabulary})
    theirs.index(lists, create_empty_token=False, show_progress=False)
    for _ in range(20):
        query = rng.choice(words, rng.integers(1, 9)).tolist()  # a word may come twice
        expected = theirs.get_scores_from_ids([vocabulary[word] for word in query])
        assert ours.scores(query).tobytes() == np.asarray(expected, np.float32).tobytes()


@pytest.mark.parametrize("units", [[], [np.empty(0, np.int32)] * 3, [np.zeros(4, np.int32)]])
def test_an_index_without_any_asked_word_scores_zero(units: list[np.ndarray]) -> None:
    assert Bm25Index(units, {"a": 1}, k1=1.2, b=0.75).scores(["a", "a"]).tolist() == [0.0] * len(units)
