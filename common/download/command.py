"""`download`, as both tracks have it: plan, room, lock, transfer, check, what to do next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.disk import free_bytes
from common.download.fetcher import Choices, Fetcher, summed_up
from common.download.journal import recover, tidy
from common.download.net import Net, Say
from common.download.parts import Offer, Part, choose_parts
from common.download.plan import PartPlan, Planner, table, total_left
from common.download.record import Record
from common.download.source import HUB, Setup
from common.download.sources import opener
from common.download.space import disk_errors, locked, require_space
from common.errors import ConfigError, DataError, UserError

Check = Callable[[Path], list[str]]
"""Reads what is under a data root with the track's own readers; returns lines that sum it up."""


@dataclass(frozen=True)
class Options:
    """The command's options.

    Attributes
    ----------
    only, source
        `--only` and `--source`; None takes the default parts, and all sources but copies.
    dry_run
        Only show the plan.
    verify
        Hash the files of unpacked folders that are here, too.
    again
        Download again what is here from an earlier download; files of the user's own stay.
    choices
        See `Choices`.
    """

    only: str | None = None
    source: str | None = None
    dry_run: bool = False
    verify: bool = False
    again: bool = False
    choices: Choices = field(default_factory=Choices)


def make_setup(environ: Mapping[str, str], home: Path, net: Net, say: Say) -> Setup:
    """Return what sources need, from the environment: the hub's address and token, Kaggle's variables."""
    token = environ.get("HF_TOKEN") or _token_file(environ, home)
    return Setup(net, say, environ, environ.get("HF_ENDPOINT", HUB).rstrip("/"), token)


def _token_file(environ: Mapping[str, str], home: Path) -> str | None:
    folder = Path(environ.get("HF_HOME") or home / ".cache" / "huggingface")
    path = Path(environ.get("HF_TOKEN_PATH") or folder / "token")
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def download(parts: Sequence[Part], root: Path, options: Options, setup: Setup, check: Check) -> None:
    """Download parts into a data root, and check what is there then.

    Raises
    ------
    UserError
        A part that no source gave, after all others have come; a full disk; an archive that is refused; a file
        that has changed since it first came; data that the track's readers refuse.
    """
    chosen, say = _chosen(parts, options, setup.say), setup.say
    if options.dry_run:
        plans = _plans(chosen, root, options, setup, Record(root))
        _show(plans, root, say)
        if (lacking := summed_up(plans)) is not None:
            raise lacking
        return
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with locked(root):
        record = Record(root)
        for part in chosen:
            for want in part.wants:
                tidy(root / want.target)
        for line in recover(root, record):
            say(line)
        planner = _planner(root, options, setup, record)
        plans = [planner.plan(part, options.source) for part in chosen]
        _show(plans, root, say)
        require_space(root, total_left(plans, root), "the download")
        fetcher = Fetcher(root, record, planner, options.choices, say)
        with disk_errors(root):
            for plan in plans:
                fetcher.fetch(plan)
            fetcher.release()
        error = summed_up(plans)
        for line in _checked(root, check, plans, error):
            say(line)
    if error is not None:
        raise error


def _chosen(parts: Sequence[Part], options: Options, say: Say) -> list[Part]:
    """Return the parts to look at; without `--only`, those that `--source` does not offer are left out."""
    chosen = choose_parts(parts, options.only)
    if options.only is not None or options.source is None:
        return chosen
    offered = [part for part in chosen if any(offer.kind == options.source for offer in part.offers)]
    for part in chosen if offered else ():
        if part not in offered:
            say(f"{part.name}: not offered by {options.source}, left out")
    return offered or chosen


def _planner(root: Path, options: Options, setup: Setup, record: Record) -> Planner:
    return Planner(root, record, opener(setup), contents=options.verify, again=options.again)


def _plans(chosen: Sequence[Part], root: Path, options: Options, setup: Setup, record: Record) -> list[PartPlan]:
    planner = _planner(root, options, setup, record)
    return [planner.plan(part, options.source) for part in chosen]


def _show(plans: Sequence[PartPlan], root: Path, say: Say) -> None:
    told: set[tuple[str, str]] = set()
    for plan in plans:
        for line in plan.here:
            say(line)
        for offer, error in plan.refusals if plan.choice is not None else []:
            if (offer.title, error.what) not in told:
                told.add((offer.title, error.what))
                say(f"not from {offer.title}: {error.what}")
    for line in table(plans, root, free_bytes(root)):
        say(line)


def _checked(root: Path, check: Check, plans: Sequence[PartPlan], error: UserError | None) -> list[str]:
    """Return the check's lines; when nothing came at all, the sources' refusal is what the user needs to read."""
    if error is not None and all(plan.missing and plan.choice is None for plan in plans):
        return []
    try:
        return check(root)
    except UserError as fault:
        again = "what came is kept; get it again with --again --only PART, or from another --source"
        if fault.todo is not None:
            raise
        raise DataError(fault.what, where=fault.where, expected=fault.expected, got=fault.got, todo=again) from None


def moved_pages(parts: Sequence[Part], base: str | None) -> list[Part]:
    """Return the parts with another address in place of that of the web pages; None changes nothing."""
    if base is None:
        return list(parts)
    if not base.startswith(("http://", "https://")):
        raise ConfigError("not an address", where="--pages", expected="http://... or https://...", got=base)
    address = base if base.endswith("/") else f"{base}/"

    def moved(offers: Sequence[Offer]) -> tuple[Offer, ...]:
        return tuple(dict.fromkeys(replace(o, address=address) if o.kind == "pages" else o for o in offers))

    return [replace(part, offers=moved(part.offers)) for part in parts]


def parts_table(parts: Sequence[Part]) -> list[str]:
    """Return a line for each part: name, group, what, sources in the order of trial."""
    width, group = max(len(part.name) for part in parts), max(len(part.group) for part in parts)
    title = max(len(part.title) for part in parts)
    return [
        f"{'*' if part.default else ' '} {part.name:<{width}}  {part.group:<{group}}  {part.title:<{title}}  "
        + ", ".join(offer.title for offer in part.offers)
        for part in parts
    ] + ["* downloaded without --only"]
