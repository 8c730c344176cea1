"""The questions as cards, errors first: gold pages and the first five, with every route's score and marked words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.metrics.retrieval import KS
from common.pages.blocks import Block, Card, Choice, Gallery, Gap, Segments, Strip, Tile, Tone
from common.pages.images import Images
from common.submission.mdr import TASK_TITLES, Task
from track1_mdr.report.collect import Sources
from track1_mdr.report.routes import first_five, found_by
from track1_mdr.report.scoring import DEPTH, Answers, Outcome, Scored
from track1_mdr.report.snippets import cut
from track1_mdr.report.thumbnails import Wanted, add_pictures, passage_picture, query_picture
from track1_mdr.report.views import Question, View

PICTURE_BYTES = 5_900_000
"""Room of the pictures of a page: 7.9 MB once written as text."""
TEXT_BYTES = 5_200_000
"""Room of the cards' words. Charts and scripts need 1.3 MB; a page has 15 MB in all."""
MOST_GOLD = 6
"""Gold pages shown of a question; those of the few that have more are counted."""
FIRST = max(KS)

FILTERS = (
    Choice("task", "Task"),
    Choice("outcome", "Outcome"),
    Choice("domain", "Domain or kind"),
    Choice("evidence", "Evidence"),
    Choice("route", "Route that found it"),
)
SORTS = (
    Choice("score", "score, lowest first"),
    Choice("pages", "longest document first", descending=True),
    Choice("number", "question number"),
)
_UNKNOWN = "gold unknown"


@dataclass
class Shelf:
    """What the tiles of one task are made of.

    Attributes
    ----------
    view
        Questions, gold and passages.
    sources
        Scores by source; None where the run left none.
    images
        The page's pictures: a tile has a picture if it is there.
    """

    view: View
    sources: Sources | None
    images: Images

    def __post_init__(self) -> None:
        self.texts = self.view.passages.texts if self.view.passages is not None else []
        one = self.sources
        self.shown = {**one.routes, **one.rerankers, one.final_name: one.final} if one else {}
        self.routes = {n: first_five(one) for n, one in self.sources.routes.items()} if self.sources else {}

    def standings(self, question: str, passages: Iterable[str]) -> dict[str, list[str]]:
        """Return a line for each source that has the passage among its best, as "bm25 #3 · 12.4".

        The sources are routes, rerankers and the last ranking.
        """
        lines: dict[str, list[str]] = {passage: [] for passage in passages}
        for name, ranked in self.shown.items():
            for rank, (passage, score) in enumerate(ranked.get(question, ()), 1):
                if passage in lines:
                    lines[passage].append(f"{name} #{rank} · {_short(score)}")
        return lines

    def tile(self, question: Question, passage: str, badge: str, tone: Tone, lines: Sequence[str], text: bool) -> Tile:
        """Return the tile of one passage; `text`: with the words that match the question."""
        row = self.view.row(question.id, passage)
        picture = passage_picture(self.view, row) if row is not None else None
        words: Segments = ()
        if text and row is not None and self.texts[row]:
            words = cut(question.text, self.texts[row])
        key = picture.key if picture is not None else None
        return Tile(_caption(self.view.task, passage), key, badge, tone, tuple(lines), words)

    def question_strip(self, question: Question) -> list[Strip]:
        """Return the picture that the question asks about, if it does."""
        picture = query_picture(self.view, question.id)
        return [Strip("asked about", [Tile(picture.name, picture.key)])] if picture is not None else []

    def gold_strip(self, question: Question, answer: Sequence[str]) -> list[Strip]:
        """Return the gold passages: where the answer has them, else how near each source came."""
        gold = list(dict.fromkeys(self.view.gold.get(question.id, ())))
        if not gold:
            return []
        standings = self.standings(question.id, gold)
        tiles: list[Tile] = []
        for passage in gold[:MOST_GOLD]:
            if passage in answer[:FIRST]:
                badge = f"rank {answer.index(passage) + 1}"
                tiles.append(self.tile(question, passage, badge, "good", (), text=False))
            else:
                lines = standings[passage] or [f"in no source's first {DEPTH}"]
                tiles.append(self.tile(question, passage, "missed", "gold", lines, text=True))
        more = f", {MOST_GOLD} of {len(gold)} shown" if len(gold) > MOST_GOLD else ""
        return [Strip(f"gold{more}", tiles)]

    def answer_strip(self, label: str, question: Question, answer: Sequence[str], scores: bool = True) -> Strip:
        """Return the first five of an answer, the right ones told from the wrong ones where gold is known."""
        gold = self.view.gold.get(question.id)
        first = list(dict.fromkeys(answer[:FIRST]))
        standings = self.standings(question.id, first) if scores else {}
        tiles: list[Tile] = []
        for rank, passage in enumerate(first, 1):
            right = gold is not None and passage in gold
            tone: Tone = "" if gold is None else "good" if right else "bad"
            badge = f"{rank} gold" if right else str(rank)
            tiles.append(self.tile(question, passage, badge, tone, standings.get(passage, ()), text=True))
        return Strip(label, tiles)


def _short(score: float) -> str:
    return f"{score:.0f}" if abs(score) >= 1000 else f"{score:.3g}"


def _caption(task: Task, passage: str) -> str:
    return f"page {passage}" if task == "mmdocir" else passage


def error_order(answers: Mapping[Task, Answers], outcomes: Mapping[str, Outcome]) -> list[str]:
    """Return the question ids, those that lose most first; those whose gold is not known come last."""
    every = [i for ids in answers.values() for i in ids]

    def key(i: str) -> tuple[float, int, int]:
        if i not in outcomes:
            return (float("inf"), 0, int(i))
        return (outcomes[i].score - outcomes[i].ceiling, outcomes[i].gold, int(i))

    return sorted(every, key=key)


def pictures_of(view: View, question: str, passages: Iterable[str]) -> Iterator[Wanted]:
    """Yield the pictures of a card, those of the query and of gold first."""
    asked = query_picture(view, question)
    if asked is not None:
        yield asked
    for passage in passages:
        row = view.row(question, passage)
        picture = passage_picture(view, row) if row is not None else None
        if picture is not None:
            yield picture


def gallery_blocks(scored: Scored, images: Images) -> list[Block]:
    """Return the gallery of a run's questions, and what it lacks; thumbnails are added to `images`."""
    order = error_order(scored.answers, scored.outcomes)
    if not order:
        return [Gap("The run left neither a submission nor scores: there are no answers to show.")]
    task_of: dict[str, Task] = {i: task for task, answers in scored.answers.items() for i in answers}
    wanted = (
        picture
        for i in order
        for picture in pictures_of(
            scored.data.views[task_of[i]],
            i,
            [*scored.gold.get(i, ())[:MOST_GOLD], *scored.answers[task_of[i]][i][:FIRST]],
        )
    )
    gaps = add_pictures(images, wanted, "thumbnails")
    shelves = {task: Shelf(scored.data.views[task], scored.run.sources.get(task), images) for task in scored.answers}
    cards = (_card(scored, shelves[task_of[i]], i) for i in order)
    kept = within(cards, TEXT_BYTES)
    if len(kept) < len(order):
        gaps.append(Gap(f"{len(kept):,} of {len(order):,} questions are shown, those that lose most first."))
    return [*gaps, Gallery(kept, "questions", FILTERS, SORTS)]


def within(cards: Iterable[Card], room: int) -> list[Card]:
    """Return the first cards whose words fit into `room` bytes."""
    kept: list[Card] = []
    used = 0
    for card in cards:
        used += _size(card)
        if used > room:
            break
        kept.append(card)
    return kept


def _size(card: Card) -> int:
    """Return about how many bytes a card takes in the page."""
    words = [*(part for fact in card.facts for part in fact), *(v for values in card.facets.values() for v in values)]
    size = 120 + 12 * (len(card.numbers) + len(words))
    words.append(card.title if isinstance(card.title, str) else "".join(piece for piece, _ in card.title))
    for strip in card.strips:
        words.append(strip.label)
        for tile in strip.tiles:
            words += [tile.caption, tile.badge, tile.image or "", *tile.lines, *(piece for piece, _ in tile.text)]
            size += 70 + 3 * (len(tile.lines) + len(tile.text))
    return size + sum(len(word.encode("utf-8", "replace")) for word in words)


def _card(scored: Scored, shelf: Shelf, i: str) -> Card:
    question, outcome = shelf.view.question(i), scored.outcomes.get(i)
    answer = scored.answers[shelf.view.task][i]
    strips = [*shelf.question_strip(question), *shelf.gold_strip(question, answer)]
    strips.append(shelf.answer_strip("answer", question, answer))
    facts = question_facts(shelf.view, question, outcome)
    by = found_by(i, scored.gold.get(i, ()), shelf.routes) if outcome is not None and shelf.routes else []
    if outcome is not None and shelf.routes:
        facts.append(("found by", ", ".join(by) or "no route"))
    return Card(
        title_of(question),
        facts,
        strips,
        facets_of(shelf.view, question, outcome, by, bool(shelf.routes)),
        numbers_of(question, outcome),
        i,
    )


def title_of(question: Question) -> str:
    """Return the question's words, or what stands for them."""
    asked = ", asked by an image alone" if question.row >= 0 else ""
    return question.text or f"question {question.id}{asked}"


def question_facts(view: View, question: Question, outcome: Outcome | None) -> list[tuple[str, str]]:
    """Return what a card says of a question: its score, document, domain and evidence."""
    facts: list[tuple[str, str]] = []
    if outcome is not None:
        facts.append(("score", f"{outcome.score:.1f} of {outcome.ceiling:.1f}"))
        facts.append(("gold found", f"{outcome.found} of {outcome.gold}"))
    facts.append(("question", question.id))
    if question.document:
        facts.append(("document", f"{question.document}, {question.pages:,} pages"))
    if question.domain:
        facts.append(("domain" if question.document else "kind", question.domain))
    kinds = view.evidence.get(question.id, ())
    if kinds:
        facts.append(("evidence", ", ".join(kinds)))
    return facts


def facets_of(
    view: View, question: Question, outcome: Outcome | None, routes: Sequence[str], known: bool
) -> dict[str, Sequence[str]]:
    """Return what the filters go by; `known`: whether the run left scores by route."""
    facets: dict[str, Sequence[str]] = {
        "task": [TASK_TITLES[view.task]],
        "outcome": [outcome.name if outcome is not None else _UNKNOWN],
    }
    if question.domain:
        facets["domain"] = [question.domain]
    kinds = view.evidence.get(question.id, ())
    if kinds:
        facets["evidence"] = list(kinds)
    if outcome is not None and known:
        facets["route"] = list(routes) or ["no route"]
    return facets


def numbers_of(question: Question, outcome: Outcome | None) -> dict[str, float]:
    """Return what the orders go by."""
    numbers: dict[str, float] = {"number": int(question.id)}
    if question.pages:
        numbers["pages"] = question.pages
    if outcome is not None:
        numbers["score"] = round(outcome.score, 2)
    return numbers
