"""The questions on which runs differ, the largest differences first, with each run's first five."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from common.metrics.retrieval import KS
from common.pages.blocks import Block, Card, Choice, Gallery, Gap, Strip, Tile
from common.pages.images import Images
from common.submission.mdr import Task, tasks_of
from track1_mdr.report.entries import Entry
from track1_mdr.report.gallery import (
    MOST_GOLD,
    TEXT_BYTES,
    Shelf,
    facets_of,
    numbers_of,
    pictures_of,
    question_facts,
    title_of,
    within,
)
from track1_mdr.report.scoring import Scored
from track1_mdr.report.thumbnails import add_pictures
from track1_mdr.report.views import Question

FIRST = max(KS)
_SAME = 1e-9


def duel_blocks(entries: Sequence[Entry], scored: Sequence[Scored], images: Images) -> list[Block]:
    """Return the gallery of the questions on which an entry differs from the first; thumbnails go to `images`.

    With gold runs differ in their score; without it in which passages their first five hold.
    """
    views = scored[0].data.views
    order = differing(scored)
    shared = [i for task in views for i in shared_questions(scored, task)]
    if not order:
        what = "All runs do alike on every question that they share." if shared else "The runs share no question."
        return [Gap(what)]
    task_of: dict[str, Task] = {i: task for i in order for task in tasks_of([i])}
    wanted = (picture for i in order for picture in pictures_of(views[task_of[i]], i, _passages(scored, task_of[i], i)))
    gaps = add_pictures(images, wanted, "thumbnails")
    shelves = {task: Shelf(views[task], None, images) for task in views}
    cards: Iterator[Card] = (_card(entries, scored, shelves[task_of[i]], i) for i in order)
    kept = within(cards, TEXT_BYTES)
    if len(kept) < len(order):
        gaps.append(Gap(f"{len(kept):,} of {len(order):,} questions are shown, the largest differences first."))
    filters = [Choice(f"against-{e.label}", f"A against {e.label}") for e in entries[1:]]
    filters += [Choice("task", "Task"), Choice("domain", "Domain or kind"), Choice("evidence", "Evidence")]
    sorts = [
        choice
        for e in entries[1:]
        for choice in (
            Choice(f"gain-{e.label}", f"A's losses to {e.label} first"),
            Choice(f"win-{e.label}", f"A's wins over {e.label} first", descending=True),
        )
    ]
    sorts += [Choice("pages", "longest document first", descending=True), Choice("number", "question number")]
    return [*gaps, Gallery(kept, "questions", filters, sorts)]


def shared_questions(scored: Sequence[Scored], task: Task) -> list[str]:
    """Return the questions of a task that all runs answer, in the order of the first."""
    first, *others = [one.answers.get(task, {}) for one in scored]
    return [i for i in first if all(i in other for other in others)]


def differing(scored: Sequence[Scored]) -> list[str]:
    """Return the questions that all answer and on which any run differs from the first, most different first."""
    found: list[tuple[float, int, str]] = []
    for task in scored[0].data.views:
        for i in shared_questions(scored, task):
            if all(i in one.outcomes for one in scored):
                size = max(abs(_gain(scored[0], other, i)) for other in scored[1:])
            else:
                first = set(scored[0].answers[task][i][:FIRST])
                size = max(len(first - set(other.answers[task][i][:FIRST])) / FIRST for other in scored[1:])
            if size > _SAME:
                found.append((-size, int(i), i))
    return [i for _, _, i in sorted(found)]


def _gain(a: Scored, b: Scored, i: str) -> float:
    """Return A's score of a question less B's, in points."""
    return a.outcomes[i].score - b.outcomes[i].score


def _passages(scored: Sequence[Scored], task: Task, i: str) -> list[str]:
    gold = scored[0].data.views[task].gold.get(i, ())[:MOST_GOLD]
    return [*gold, *(passage for one in scored for passage in one.answers[task][i][:FIRST])]


def _card(entries: Sequence[Entry], scored: Sequence[Scored], shelf: Shelf, i: str) -> Card:
    task = shelf.view.task
    question = shelf.view.question(i)
    known = all(i in one.outcomes for one in scored)
    answers = [one.answers[task][i][:FIRST] for one in scored]
    facts: list[tuple[str, str]] = []
    if known:
        scores = [(e.label, f"{one.outcomes[i].score:.1f}") for e, one in zip(entries, scored, strict=True)]
        facts = [*scores, ("at best", f"{scored[0].outcomes[i].ceiling:.1f}")]
    facets = facets_of(shelf.view, question, None, (), False)
    numbers = numbers_of(question, None)
    for entry, other in zip(entries[1:], scored[1:], strict=True):
        if known:
            gain = _gain(scored[0], other, i)
            winner = "A is better" if gain > _SAME else f"{entry.label} is better" if gain < -_SAME else "no difference"
            numbers[f"gain-{entry.label}"] = numbers[f"win-{entry.label}"] = round(gain, 2)
        else:
            winner = "gold unknown"
        facets[f"against-{entry.label}"] = [winner]
    strips = [*shelf.question_strip(question), *_gold(shelf, question, entries, answers)]
    for entry, answer in zip(entries, answers, strict=True):
        strips.append(shelf.answer_strip(f"{entry.label} · {entry.what}", question, answer, scores=False))
    return Card(title_of(question), [*facts, *question_facts(shelf.view, question, None)], strips, facets, numbers, i)


def _gold(shelf: Shelf, question: Question, entries: Sequence[Entry], answers: Sequence[Sequence[str]]) -> list[Strip]:
    """Return the gold passages with where each run has them."""
    gold = list(dict.fromkeys(shelf.view.gold.get(question.id, ())))
    if not gold:
        return []
    tiles: list[Tile] = []
    for passage in gold[:MOST_GOLD]:
        places = [list(answer).index(passage) + 1 if passage in answer else None for answer in answers]
        lines = [f"{e.label}: {f'rank {at}' if at else 'missed'}" for e, at in zip(entries, places, strict=True)]
        everywhere, nowhere = all(places), not any(places)
        badge = "found by all" if everywhere else "missed by all" if nowhere else "found by some"
        tiles.append(shelf.tile(question, passage, badge, "good" if everywhere else "gold", lines, text=nowhere))
    return [Strip("gold" + (f", {MOST_GOLD} of {len(gold)} shown" if len(gold) > MOST_GOLD else ""), tiles)]
