"""Questions that name a page, slide, figure or table; and questions that only seem to."""

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.track1.text_tables import make_passages, make_queries
from track1_mdr.config import ReferenceConfig
from track1_mdr.datasets.tables import Candidates, Scored
from track1_mdr.routes.base import Environment
from track1_mdr.routes.reference import MENTIONED, ReferenceRoute, named_captions, named_pages

NAMED = [
    ("What is on page 12?", [12]),
    ("see p. 5 for the total", [5]),
    ("the logo on Slide 7", [7]),
    ("slide number 3", [3]),
    ("page no. 4 of the guide", [4]),
    ("page #4", [4]),
    ("pages 3-5 together", [3, 4, 5]),
    ("slides 2 to 4", [2, 3, 4]),
    ("from page 2–3", [2, 3]),
    ("pages 3, 5 and 7", [3, 5, 7]),
    ("Compare page 2 & 9", [2, 9]),
    ("on the second page", [2]),
    ("in the 5th slide", [5]),
    ("What does the first slide say?", [1]),
    ("the last slide", [20]),
    ("Who is on the cover page?", [1]),
    ("the cover page and the last page and page 3", [1, 3, 20]),
    ("page 3 and again page 3", [3]),
    ("page 20", [20]),
    ("the 12th page and the final page", [12, 20]),
]
SILENT_ABOUT_PAGES = [
    "page 21",  # out of range
    "page 0",
    "page 999",
    "List all pages with the logo, in a list like ['Page 2', 'Page 4'].",
    "It has page 3,000 in volume two",
    "How many pages does the report have?",
    "What share, in percent, rose by 12% on average?",
    "What is 10% of pages sold?",
    "In 2015, which country had 30 homepages?",
    "Which of the top 5 teams won in the last 3 years?",
    "Who wrote the cover letter?",
    "When was the first museum opened?",
    "What is the second largest city?",
    "How many slideshows were shown in 1998?",
    "the company's last quarter results",
    "Is there a pp of growth?",
    "",
]
CAPTIONS = [
    ("In Figure 3, what is red?", [("figure", "3")]),
    ("fig. 12 shows", [("figure", "12")]),
    ("Fig 4", [("figure", "4")]),
    ("Table 2.1 lists", [("table", "2.1")]),
    ("tab. 3", [("table", "3")]),
    ("Table A lists", [("table", "A")]),
    ("see Appendix B.1", [("appendix", "B.1")]),
    ("Section 4.2.1 says", [("section", "4.2.1")]),
    ("chart 7 and exhibit 9", [("chart", "7"), ("exhibit", "9")]),
    ("Figure 2(a)", [("figure", "2")]),
    ("figure 3a", [("figure", "3")]),
    ("Figures 2 and 3, in 2015", [("figure", "2"), ("figure", "3")]),
    ("Tables 3, 5% of them", [("table", "3")]),
    ("Figure 1, Table 1 and Figure 1 again", [("figure", "1"), ("table", "1")]),
]
NO_CAPTION = [
    "What does the table show about revenue?",
    "In the chart 5% of people agree",
    "the figure 10 % is given",
    "a table a person sits at",
    "a section in the middle",
    "How many tables are there?",
    "Figure 2020 is not a number of a figure",
    "Which figures rose in 2021?",
    "the stable 3 horses",
    "",
]


@pytest.mark.parametrize(("question", "pages"), NAMED)
def test_named_pages_count_from_one(question: str, pages: list[int]) -> None:
    assert named_pages(question, 20) == [page - 1 for page in pages]


@pytest.mark.parametrize("question", SILENT_ABOUT_PAGES)
def test_questions_that_name_no_page_of_the_document(question: str) -> None:
    assert named_pages(question, 20) == []


@pytest.mark.parametrize(("question", "captions"), CAPTIONS)
def test_named_captions(question: str, captions: list[tuple[str, str]]) -> None:
    assert named_captions(question) == captions


@pytest.mark.parametrize("question", NO_CAPTION)
def test_questions_that_name_no_caption(question: str) -> None:
    assert named_captions(question) == []


PAGES = [
    ("d", "List of contents\nsee Table 12 and Fig. 2"),
    ("d", "Table 1: revenue\n1 2 3"),
    ("d", "As Table 1 shows, revenue grew."),
    ("d", "  Table 12. Staff\nFigure 2 Boats"),
    ("d", "Table 1.2 Other\nTable 1a Another"),
    ("e", "Table 1: of the other document"),
    ("e", "2.1 Methods\nWe did."),
]


def score(kind: Literal["page", "caption"], *questions: tuple[str, str]) -> list[dict[int, float]]:
    passages, queries = make_passages(PAGES), make_queries(list(questions))
    route = ReferenceRoute(ReferenceConfig(type="reference", kind=kind), Environment(Path("unused")))
    route.fit(passages)
    candidates = Candidates.by_document([d for _, d in questions], [d for d, _ in PAGES])
    results = route.score(queries, candidates)
    for result, rows in zip(results, candidates.rows, strict=True):
        result.check("reference", "q")
        assert np.isin(result.rows, rows).all()
    return [as_dict(result) for result in results]


def as_dict(scored: Scored) -> dict[int, float]:
    return {int(row): round(float(value), 6) for row, value in zip(scored.rows, scored.scores, strict=True)}


def test_a_named_page_is_scored_in_the_question_s_document_alone() -> None:
    assert score("page", ("on page 2", "d"), ("on page 2", "e"), ("on page 3", "e"), ("what?", "d")) == [
        {1: 1.0},
        {6: 1.0},
        {},
        {},
    ]
    assert score("page", ("the last page and the cover page", "d")) == [{0: 1.0, 4: 1.0}]


def test_table_1_is_not_table_12_and_a_caption_beats_a_mention() -> None:
    assert score("caption", ("In Table 1, what grew?", "d"), ("In table 12?", "d"), ("Table 1", "e")) == [
        {1: 1.0, 2: MENTIONED},
        {0: MENTIONED, 3: 1.0},
        {5: 1.0},
    ]


def test_several_captions_each_bring_their_pages_and_the_best_score_counts() -> None:
    assert score("caption", ("Compare Figure 2 and Table 1", "d")) == [{0: MENTIONED, 1: 1.0, 2: MENTIONED, 3: 1.0}]


def test_a_section_heading_may_go_without_its_word() -> None:
    assert score("caption", ("What does Section 2.1 say?", "e"), ("Section 2 says", "e")) == [{6: 1.0}, {}]


def test_queries_of_a_whole_collection_name_no_page() -> None:
    """M2KR's queries belong to no document: "page 2" means nothing there."""
    passages = make_passages([("", "Table 1: x"), ("", "y")])
    queries = make_queries([("on page 2 in Table 1", "")])
    kinds: tuple[Literal["page", "caption"], ...] = ("page", "caption")
    for kind in kinds:
        route = ReferenceRoute(ReferenceConfig(type="reference", kind=kind), Environment(Path("unused")))
        route.fit(passages)
        assert [len(s.rows) for s in route.score(queries, Candidates.everything(1, 2))] == [0]
