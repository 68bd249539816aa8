"""check and repair (CLI.md §5)."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import click

from lafscli.cli.batch import worse
from lafscli.cli.frame import Frame
from lafscli.cli.options import DURATION, Quantity, command, respelled
from lafscli.cli.progress import ShownProgress
from lafscli.cli.reports import overview, text
from lafscli.cli.roots import in_itself, must_lead_on, unreachable
from lafscli.cli.roots import roots as found_roots
from lafscli.errors import CannotTell, Damaged, NotRecoverable, Partial, Unreachable, UsageError
from lafscli.health.check import Checking, check_many
from lafscli.health.deep import Objects, Root
from lafscli.health.rebalance import rebalance_many
from lafscli.health.regrowth import Mending
from lafscli.health.repair import repair_many
from lafscli.health.report import CheckReport, Silence
from lafscli.health.summary import Summary
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.text import count, escape

CODES = {
    "healthy": 0,
    "degraded": Damaged.exit_code,
    "unrecoverable": NotRecoverable.exit_code,
    "unknown": CannotTell.exit_code,
}


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = 0.0
    if not 0 < value <= 100:
        raise UsageError(f"not a percentage: {text!r}", hint="more than 0, at most 100")
    return value


PERCENT = Quantity("PERCENT", _percent)


RECURSIVE = click.option(
    "-r", "--recursive", is_flag=True, help="Also what directories lead to; a line for each object."
)
ASSUME_LOST = click.option(
    "--assume-lost", multiple=True, metavar="NAME", help="Take a server for empty; may be repeated."
)
ADD_LEASE = click.option("--add-lease", is_flag=True, help="Renew our leases, and add them where there are none.")
MAX_TIME = click.option("--max-time", type=DURATION, metavar="DURATION", help="Begin nothing more after so long.")
FORCE = click.option("--force", is_flag=True, help="Let a mutable repair merge versions, or give up a newer one.")


@command("check")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@RECURSIVE
@click.option("--verify", is_flag=True, help="Read every share and prove it.")
@click.option("--sample", type=PERCENT, help="Verify only so much of all segments, chosen at random.")
@click.option("--repair", is_flag=True, help="Make missing shares again, and replace corrupt ones.")
@click.option("--rebalance", is_flag=True, help="Copy shares to servers without any, where too few hold them.")
@ASSUME_LOST
@ADD_LEASE
@MAX_TIME
@FORCE
def check(
    frame: Frame,
    targets: tuple[str, ...],
    recursive: bool,
    verify: bool,
    sample: float | None,
    repair: bool,
    rebalance: bool,
    assume_lost: tuple[str, ...],
    add_lease: bool,
    max_time: int | None,
    force: bool,
) -> None:
    """Count the shares of objects, or prove them.

    Each TARGET is a cap of any power, @FILE for the cap in the first line of FILE, or alias:path; a verify cap is
    enough. Servers are asked which shares they hold, and of a mutable object in which version; with --verify every
    share is read and proved byte by byte. No share is changed without --repair or --rebalance.
    """
    checking = Checking(
        0,
        os.urandom,
        verify=verify or sample is not None,
        sample=sample,
        assume_lost=frozenset(assume_lost),
        max_time=max_time,
    )
    _run(frame, targets, recursive, checking, mend=repair, spread=rebalance, add_lease=add_lease, force=force)


deep_check = respelled("deep-check", check, recursive=True)


@command("repair")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@RECURSIVE
@ASSUME_LOST
@ADD_LEASE
@MAX_TIME
@FORCE
def repair(
    frame: Frame,
    targets: tuple[str, ...],
    recursive: bool,
    assume_lost: tuple[str, ...],
    add_lease: bool,
    max_time: int | None,
    force: bool,
) -> None:
    """Bring objects back to all their shares.

    The same as check --verify --repair: every share is read and proved, missing ones are made again, corrupt ones are
    replaced, and the new ones go where they let most servers be lost. For an immutable object a verify cap is enough.
    A mutable one keeps its version; only its write cap can put shares on servers that have none of it. With --force the
    best version is written anew where two versions have one number, or too little is left of a newer one.
    """
    checking = Checking(0, os.urandom, verify=True, assume_lost=frozenset(assume_lost), max_time=max_time)
    _run(frame, targets, recursive, checking, mend=True, add_lease=add_lease, force=force)


def _run(
    frame: Frame,
    targets: tuple[str, ...],
    recursive: bool,
    checking: Checking,
    *,
    mend: bool,
    spread: bool = False,
    add_lease: bool,
    force: bool,
) -> None:
    """Check, repair and rebalance if that is wanted; `checking` is what the options say."""
    until = None if checking.max_time is None else time.monotonic() + checking.max_time
    roots, missing = found_roots(frame, targets)
    if recursive:
        must_lead_on(roots)
    access = frame.access(next((each.cap for each in roots if not in_itself(each.cap)), roots[0].cap))
    grid = access.grid
    if not grid.stores and not all(in_itself(each.cap) for each in roots):
        frame.client_with_servers()
    objects = Objects(access, roots, deep=recursive)
    objects.unseen += missing
    checking = replace(
        checking,
        happy=access.publishing.encoding.happy if grid.stores else 0,
        renew=access.writing.lease if add_lease and grid.stores else None,
        memory=access.reading.seen,
    )
    mending = Mending(access.writing.lease, publishing=access.publishing, force=force)
    with ShownProgress(frame.connections, frame.out, "repair" if mend else "check") as progress:
        reports: Iterator[tuple[int, CheckReport]]
        if mend and grid.stores:
            reports = repair_many(grid, objects.caps(), checking, mending, progress)
        else:
            reports = enumerate(check_many(grid, objects.caps(), checking, progress))
        lists = access.publishing.membership if grid.stores else None
        # so that the lists of servers before the current one can go, what is mutable comes to those that decide now
        settling = mend and recursive and lists is not None and bool(lists.earlier)
        if grid.stores and (spread or settling):
            reports = rebalance_many(grid, reports, checking, mending, progress, until, slots_only=not spread)
        if len(targets) > 1 or recursive:
            code = _several(frame, objects, reports, checking, len(grid.stores))
            if recursive and code == 0:
                _remember(frame, roots)
        else:
            code = _one(frame, targets[0], next(reports)[1], checking, len(grid.stores))
    if mend and recursive and code == 0 and grid.stores:
        for warning in frame.client().drop_earlier().warnings:
            frame.out.warn(warning)
    if (mend or spread) and grid.stores:
        frame.client().sweep({store.server.name for store in grid.stores} - checking.assume_lost)
    raise SystemExit(code)


def _remember(frame: Frame, roots: Iterable[Root]) -> None:
    """Note for `lafs status` that all that these lead to is healthy."""
    from lafscli.config.history import Event, note

    for each in roots:
        if each.cap.storage_index is not None and frame.home().config_file.exists():
            note(frame.home(), Event("check", b32encode(each.cap.storage_index), int(time.time())))


def _one(frame: Frame, target: str, report: CheckReport, checking: Checking, servers: int) -> int:
    if _nobody_answered(report, checking, servers):
        raise unreachable(report.unreachable)
    frame.out.show(report.document(), text(report, target))
    _tell_failures(frame, report.not_renewed)
    code = CODES[report.state]
    return worse(code, Partial.exit_code) if report.not_renewed else code


def _several(
    frame: Frame, objects: Objects, reports: Iterable[tuple[int, CheckReport]], checking: Checking, servers: int
) -> int:
    """A line for each, then the summary; the exit code is the worst."""
    summary = Summary()
    code = 0
    unheard = 0
    failures: list[Silence] = []
    for number, report in reports:
        path = objects.take_path(number)
        summary.add(report)
        unheard += _nobody_answered(report, checking, servers)
        failures += report.not_renewed
        code = worse(code, CODES[report.state])
        frame.out.show(report.document() | {"path": path}, f"{escape(path)}: {text(report, path)}")
    summary.not_reached = objects.count - summary.objects
    summary.cut_short = not objects.ended
    summary.unseen = len(objects.unseen)
    if summary.not_reached or summary.cut_short or failures or objects.unseen:
        code = worse(code, Partial.exit_code)
    frame.out.show({"summary": summary.document()}, overview(summary))
    for each in objects.unseen:
        frame.out.name(f"{each.path}: {each.reason}")
    _tell_failures(frame, failures)
    if unheard and unheard == summary.objects - summary.literal:
        code = Unreachable.exit_code
    return code


def _tell_failures(frame: Frame, failures: Iterable[Silence]) -> None:
    """Name the leases that failed, each server and reason once."""
    for each, number in sorted(Counter(failures).items(), key=lambda item: (item[0].server, item[0].reason)):
        frame.out.warn(f"server {each.server}: {count(number, 'lease')} not renewed: {each.reason}")


def _nobody_answered(report: CheckReport, checking: Checking, servers: int) -> bool:
    asked = servers - len(checking.assume_lost)
    return bool(report.unreachable) and not report.shares and len(report.unreachable) == asked
