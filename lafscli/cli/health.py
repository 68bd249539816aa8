"""check and renew (CLI.md §5), for immutable objects."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import click

from lafscli.cli.batch import worse
from lafscli.cli.frame import Frame
from lafscli.cli.options import DURATION, Quantity, command
from lafscli.cli.progress import ShownProgress
from lafscli.cli.targets import NO_DIRECTORIES, resolve
from lafscli.cli.text import escape
from lafscli.errors import CannotTell, Damaged, NotRecoverable, Partial, Unreachable, UsageError
from lafscli.formats import caps
from lafscli.formats.caps import ChkCap, ChkVerifyCap, LitCap
from lafscli.health.check import Checkable, Checking, check_many
from lafscli.health.renew import MakeLease, renew_many
from lafscli.health.report import CheckReport, Leases, Silence, Summary, leases_document
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


@command("check")
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@click.option("-r", "--recursive", is_flag=True, help="Also what directories lead to; a line for each object.")
@click.option("--verify", is_flag=True, help="Read every share and prove it.")
@click.option("--sample", type=PERCENT, help="Verify only so much of all segments, chosen at random.")
@click.option("--assume-lost", multiple=True, metavar="NAME", help="Take a server for empty; may be repeated.")
@click.option("--add-lease", is_flag=True, help="Renew our leases, and add them where there are none.")
@click.option("--max-time", type=DURATION, metavar="DURATION", help="Begin nothing more after so long.")
def check(
    frame: Frame,
    targets: tuple[str, ...],
    recursive: bool,
    verify: bool,
    sample: float | None,
    assume_lost: tuple[str, ...],
    add_lease: bool,
    max_time: int | None,
) -> None:
    """Count the shares of objects, or prove them.

    Each TARGET is a cap of any power, or @FILE for the cap in the first line of FILE; a verify cap is enough. Servers
    are asked which shares they hold; with --verify every share is read and proved byte by byte. No share is changed.
    """
    wanted = [_checkable(frame, target) for target in targets]
    grid, happy = _grid(frame, wanted)
    checking = Checking(
        happy,
        os.urandom,
        verify=verify or sample is not None,
        sample=sample,
        assume_lost=frozenset(assume_lost),
        max_time=max_time,
        renew=_leases(frame) if add_lease and grid.stores else None,
    )
    with ShownProgress(frame.connections, frame.out, "check") as progress:
        reports = check_many(grid, wanted, checking, progress)
        if len(targets) == 1 and not recursive:
            _one(frame, targets[0], next(reports), checking, len(grid.stores))
        else:
            _several(frame, targets, reports, checking, len(grid.stores))


def _checkable(frame: Frame, text: str) -> Checkable:
    """The cap of an immutable file, whatever it grants; any other is an error that says why."""
    target = resolve(frame, text)
    cap = target.cap
    if isinstance(cap, caps.DirectoryCap):
        raise UsageError("this is the cap of a directory", hint=NO_DIRECTORIES)
    if target.path:
        raise UsageError(f"this is the cap of a file: there is no {target.path!r} in it")
    if isinstance(cap, LitCap | ChkCap | ChkVerifyCap):
        return cap
    if isinstance(cap, caps.UnknownCap):
        raise UsageError("this cap is of a kind that lafs does not know")
    raise UsageError("this is the cap of a mutable file", hint="this version of lafs checks immutable files only")


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


def _one(frame: Frame, target: str, report: CheckReport, checking: Checking, servers: int) -> None:
    if _nobody_answered(report, checking, servers):
        raise _unreachable(report.unreachable)
    frame.out.show(report.document(), text(report, target))
    _tell_failures(frame, report.not_renewed)
    code = CODES[report.state]
    raise SystemExit(worse(code, Partial.exit_code) if report.not_renewed else code)


def _several(
    frame: Frame, targets: Sequence[str], reports: Iterator[CheckReport], checking: Checking, servers: int
) -> None:
    """A line for each, then the summary; the exit code is the worst."""
    summary = Summary()
    code = 0
    unheard = 0
    failures: list[Silence] = []
    for target, report in zip(targets, reports, strict=False):
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
    raise SystemExit(code)


def _unreachable(silent: Iterable[Silence]) -> Unreachable:
    reasons = "; ".join(f"{each.server}: {each.reason}" for each in silent)
    return Unreachable(f"no server could be reached ({reasons})", hint="lafs server status")


def _tell_failures(frame: Frame, failures: Iterable[Silence]) -> None:
    """Name the leases that failed, each server and reason once."""
    for each, count in sorted(Counter(failures).items(), key=lambda item: (item[0].server, item[0].reason)):
        frame.out.warn(f"server {each.server}: {_count(count, 'lease')} not renewed: {each.reason}")


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
    wanted, failed = [_checkable(frame, target) for target in targets], 0
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
    said = f"{_count(total.renewed, 'lease')} renewed, {total.added} added"
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
        frame.out.warn(f"{_count(other, 'pin')} of a kind that this version of lafs can't renew")
    return wanted, other


# ---- in words


def text(report: CheckReport, target: str) -> str:
    """A report: one line that says how it is, how much may be lost, what was not looked at and what to do; then a line
    for each share and server that is to be named."""
    parts = [_state(report)]
    if report.recoverable and report.cap is not None:
        parts.append(_may_be_lost(report))
    if report.leases is not None:
        parts.append(f"{_count(report.leases.renewed, 'lease')} renewed, {report.leases.added} added")
    parts += [part for part in (_not_looked_at(report), _advice(report, target)) if part]
    lines = ["; ".join(parts)]
    lines += [f"  {bad.server}: share {bad.shnum} is {_SORTS[bad.sort]}: {bad.reason}" for bad in report.corrupt]
    lines += [f"  {each.server} did not answer: {each.reason}" for each in report.unreachable]
    return "\n".join(escape(line) for line in lines)


_SORTS = {"corrupt": "corrupt", "incompatible": "of another version", "unreadable": "unreadable"}
_WORDS = {"healthy": "healthy", "degraded": "damaged", "unrecoverable": "lost", "unknown": "cannot tell"}


def _state(report: CheckReport) -> str:
    cap = report.cap
    if cap is None:
        return "healthy: the content is in the cap itself"
    if report.flaw is not None:
        return f"lost: {report.flaw}"
    found = f"{report.good_shares} of {cap.n} shares on {_count(len(report.holders), 'server')}"
    if report.recoverable is not True:
        found += f", {cap.k} are needed"
    elif report.state == "degraded" and report.happiness < report.happy:
        found += f" (happiness {report.happiness}, {report.happy} wanted)"
    return f"{_WORDS[report.state]}: {found}"


def _may_be_lost(report: CheckReport) -> str:
    more = "" if report.state == "healthy" else "more "
    return f"any {_count(report.spare, more + 'server')} may be lost" if report.spare else "no server may be lost"


def _not_looked_at(report: CheckReport) -> str:
    if report.cap is None:
        return ""
    if not report.verified:
        return "shares were counted, not read (--verify reads them)"
    left = report.to_prove - report.proved
    return f"{100 * left / report.to_prove:.3g} % of the blocks were not read" if left > 0 else ""


def _advice(report: CheckReport, target: str) -> str:
    if report.state == "degraded":
        return f"to mend it: lafs repair {target if target.startswith('@') else 'CAP'}"
    if report.state == "unrecoverable":
        return "bring back a server that has more shares" if report.flaw is None else ""
    if report.state == "unknown":
        return "try again, or say which server will not come back: --assume-lost"
    return ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def overview(summary: Summary) -> str:
    """The last line of several."""
    parts = [f"{count} {_WORDS[state]}" for state, count in summary.states.items() if count]
    if summary.corrupt_shares:
        parts.append(_count(summary.corrupt_shares, "corrupt share"))
    if summary.not_reached:
        parts.append(f"{summary.not_reached} not looked at: the time was over")
    return ": ".join([_count(summary.objects, "object"), ", ".join(parts)] if parts else ["no object"])
