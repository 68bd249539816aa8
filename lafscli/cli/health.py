"""check, repair and renew (CLI.md §5), for immutable objects."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import click

from lafscli.cli.batch import worse
from lafscli.cli.frame import Frame
from lafscli.cli.options import DURATION, Quantity, command
from lafscli.cli.progress import ShownProgress
from lafscli.cli.reports import count, overview, text
from lafscli.cli.targets import immutable_file
from lafscli.cli.text import escape
from lafscli.errors import CannotTell, Damaged, NotRecoverable, Partial, Unreachable, UsageError
from lafscli.formats import caps
from lafscli.formats.caps import ChkCap, ChkVerifyCap, LitCap
from lafscli.health.check import Checkable, Checking, check_many
from lafscli.health.rebalance import rebalance_many
from lafscli.health.regrowth import Mending
from lafscli.health.renew import MakeLease, renew_many
from lafscli.health.repair import repair_many
from lafscli.health.report import CheckReport, Leases, Silence, leases_document
from lafscli.health.summary import Summary
from lafscli.primitives.encoding import b32encode
from lafscli.storage.grid import Grid

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
FORCE = click.option(  # of an immutable object there is but one version: nothing to force
    "--force", is_flag=True, expose_value=False, help="Let a mutable repair merge versions, or give up a newer one."
)


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
) -> None:
    """Count the shares of objects, or prove them.

    Each TARGET is a cap of any power, or @FILE for the cap in the first line of FILE; a verify cap is enough. Servers
    are asked which shares they hold; with --verify every share is read and proved byte by byte. No share is changed
    without --repair or --rebalance.
    """
    checking = Checking(
        0,
        os.urandom,
        verify=verify or sample is not None,
        sample=sample,
        assume_lost=frozenset(assume_lost),
        max_time=max_time,
    )
    _run(frame, targets, recursive, checking, mend=repair, spread=rebalance, add_lease=add_lease)


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
) -> None:
    """Bring objects back to all their shares.

    The same as check --verify --repair: every share is read and proved, missing ones are made again, corrupt ones are
    replaced, and the new ones go where they let most servers be lost. A verify cap is enough.
    """
    checking = Checking(0, os.urandom, verify=True, assume_lost=frozenset(assume_lost), max_time=max_time)
    _run(frame, targets, recursive, checking, mend=True, add_lease=add_lease)


def _run(
    frame: Frame,
    targets: tuple[str, ...],
    recursive: bool,
    checking: Checking,
    *,
    mend: bool,
    spread: bool = False,
    add_lease: bool,
) -> None:
    """Check, repair and rebalance if that is wanted; `checking` is what the options say."""
    until = None if checking.max_time is None else time.monotonic() + checking.max_time
    wanted = [immutable_file(frame, target) for target in targets]
    grid, happy = _grid(frame, wanted)
    checking = replace(checking, happy=happy, renew=_leases(frame) if add_lease and grid.stores else None)
    with ShownProgress(frame.connections, frame.out, "repair" if mend else "check") as progress:
        reports: Iterator[tuple[int, CheckReport]]
        if mend and grid.stores:
            reports = repair_many(grid, wanted, checking, Mending(_leases(frame)), progress)
        else:
            reports = enumerate(check_many(grid, wanted, checking, progress))
        if spread and grid.stores:
            reports = rebalance_many(grid, reports, _leases(frame), checking.assume_lost, progress, until)
        if len(targets) > 1 or recursive:
            code = _several(frame, targets, reports, checking, len(grid.stores))
        else:
            code = _one(frame, targets[0], next(reports)[1], checking, len(grid.stores))
    if (mend or spread) and grid.stores:
        frame.client().sweep({store.server.name for store in grid.stores} - checking.assume_lost)
    raise SystemExit(code)


def _grid(frame: Frame, wanted: Sequence[Checkable]) -> tuple[Grid, int]:
    """The servers, and the configured happiness; literal caps need neither."""
    stored = next((cap for cap in wanted if not isinstance(cap, LitCap)), None)
    if stored is None:
        return frame.grid_for(wanted[0]), 0
    return frame.grid_for(stored), frame.client().config.encoding.happy


def _leases(frame: Frame) -> MakeLease:
    """Makes our leases, from now on."""
    client = frame.client()
    return client.writing(client.config.encoding, convergent=False).lease


def _one(frame: Frame, target: str, report: CheckReport, checking: Checking, servers: int) -> int:
    if _nobody_answered(report, checking, servers):
        raise _unreachable(report.unreachable)
    frame.out.show(report.document(), text(report, target))
    _tell_failures(frame, report.not_renewed)
    code = CODES[report.state]
    return worse(code, Partial.exit_code) if report.not_renewed else code


def _several(
    frame: Frame, targets: Sequence[str], reports: Iterable[tuple[int, CheckReport]], checking: Checking, servers: int
) -> int:
    """A line for each, then the summary; the exit code is the worst."""
    summary = Summary()
    code = 0
    unheard = 0
    failures: list[Silence] = []
    for index, report in reports:
        target = targets[index]
        summary.add(report)
        unheard += _nobody_answered(report, checking, servers)
        failures += report.not_renewed
        code = worse(code, CODES[report.state])
        path = _path(target, report)
        frame.out.show(report.document() | {"path": path}, f"{escape(path)}: {text(report, target)}")
    summary.not_reached = len(targets) - summary.objects
    if summary.not_reached or failures:
        code = worse(code, Partial.exit_code)
    frame.out.show({"summary": summary.document()}, overview(summary))
    _tell_failures(frame, failures)
    if unheard and unheard == summary.objects - summary.literal:
        code = Unreachable.exit_code
    return code


def _unreachable(silent: Iterable[Silence]) -> Unreachable:
    reasons = "; ".join(f"{each.server}: {each.reason}" for each in silent)
    return Unreachable(
        f"no server could be reached ({reasons})", hint="lafs server status tells what is wrong with each"
    )


def _tell_failures(frame: Frame, failures: Iterable[Silence]) -> None:
    """Name the leases that failed, each server and reason once."""
    for each, number in sorted(Counter(failures).items(), key=lambda item: (item[0].server, item[0].reason)):
        frame.out.warn(f"server {each.server}: {count(number, 'lease')} not renewed: {each.reason}")


def _nobody_answered(report: CheckReport, checking: Checking, servers: int) -> bool:
    asked = servers - len(checking.assume_lost)
    return bool(report.unreachable) and not report.shares and len(report.unreachable) == asked


def _path(target: str, report: CheckReport) -> str:
    """What a target is called in a report: as it was given, but a cap by its storage index, for reports are mailed
    about."""
    if target.startswith("@"):
        return target
    return b32encode(report.storage_index) if report.storage_index is not None else report.kind


@command("renew")
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
def renew(frame: Frame, targets: tuple[str, ...]) -> None:
    """Renew the leases of what is stored.

    Each TARGET is a cap of any power, or @FILE; without one it is all that was put from this home (`pins`). On every
    server our lease on each share is renewed for 31 days, or added where there is none of ours.
    """
    wanted, failed = [immutable_file(frame, target) for target in targets], 0
    if not targets:
        wanted, failed = _pinned(frame)
    stored = list(
        {cap.si: cap for each in wanted if not isinstance(each, LitCap) for cap in [each.verify_cap()]}.values()
    )
    total = Leases(failed=failed)
    if stored:
        grid = frame.grid_for(stored[0])
        failures: list[Silence] = []
        unheard = 0
        for done in renew_many(grid, stored, _leases(frame)):
            total += done.leases + Leases(failed=len(done.unreachable))
            failures += (*done.failures, *done.unreachable)
            unheard += len(done.unreachable) == len(grid.stores)
            if not done.unreachable and done.leases == Leases():
                total += Leases(failed=1)
                frame.out.warn(f"no share of {b32encode(done.cap.si)} was found")
        if unheard == len(stored):
            raise _unreachable(done.unreachable)
        _tell_failures(frame, failures)
    said = f"{count(total.renewed, 'lease')} renewed, {total.added} added"
    frame.out.show(leases_document(total), said + (f", {total.failed} failed" if total.failed else ""))
    if total.failed:
        raise SystemExit(Partial.exit_code)


def _pinned(frame: Frame) -> tuple[list[Checkable], int]:
    """The objects that this home has pinned, and how many pins are of a kind that can't be renewed."""
    from lafscli.config import secrets

    wanted: list[Checkable] = []
    other = 0
    for line in secrets.pinned(frame.config().home):
        cap = caps.parse(line)
        if isinstance(cap, LitCap | ChkCap | ChkVerifyCap):
            wanted.append(cap)
        else:
            other += 1
    if other:
        frame.out.warn(f"{count(other, 'pin')} of a kind that this version of lafs can't renew")
    return wanted, other
