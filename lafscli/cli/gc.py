"""gc: what it is told, for a home or a storage host (CLI.md §5, §7); collecting.py and hosting.py do it."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import DURATION, Quantity, command
from lafscli.errors import UsageError


def parse_date(text: str) -> float:
    """Unix seconds of a day (its beginning, UTC) or of an RFC 3339 time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"not a date: {text!r}", hint="a date is like 2026-11-28 or 2026-11-28T09:00:00Z") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


DATE = Quantity("DATE", parse_date)


@command("gc")
@click.option("--delete", is_flag=True, help="Do it; without it nothing is changed, only counted.")
@click.option("--grace", type=DURATION, help="How long shares lie in the trash before they go for good [14d].")
@click.option("--undo", is_flag=True, help="Bring back what lies in the trash, where no share stands now.")
@click.option("--root", "roots", multiple=True, metavar="TARGET", help="Keep this too, and all that it leads to.")
@click.option("--adopt", is_flag=True, help="Switch gc on in a home whose secrets came from elsewhere.")
@click.option("--lock-wait", type=DURATION, help="Wait so long for another gc of this home [0s].")
@click.option("--host", metavar="DIR", help="The storage folder on this machine (contains shares/), not the home.")
@click.option("--older-than", type=DURATION, help="A lease ends so long after its last renewal, whatever it says.")
@click.option("--cutoff", type=DATE, help="Instead: a lease has ended that was last renewed before.")
@click.option("--only", type=click.Choice(["mutable", "immutable"]), help="Leave shares of the other kind alone.")
@click.option("--leaseless", is_flag=True, help="Also shares on which nobody ever had, or has left, a lease.")
def gc(
    frame: Frame,
    delete: bool,
    grace: int | None,
    undo: bool,
    roots: tuple[str, ...],
    adopt: bool,
    lock_wait: int | None,
    host: str | None,
    older_than: int | None,
    cutoff: float | None,
    only: str | None,
    leaseless: bool,
) -> None:
    """Throw away what nothing leads to, or at a storage host what no lease holds.

    Of this home: all that its aliases, its pins and each --root lead to stays. Of the rest those shares go that carry
    a lease of this home and no live one of another.

    With --host DIR, at the host itself and with no home and no cap: expired leases go, and shares that have none left.

    Without --delete they are only counted. With it they move to the trash, and a later run removes them for good.
    """
    at_host = {"--older-than": older_than, "--cutoff": cutoff, "--only": only, "--leaseless": leaseless}
    at_home = {"--root": roots, "--adopt": adopt, "--lock-wait": lock_wait}
    strange = [name for name, value in (at_home if host is not None else at_host).items() if _said(value)]
    if strange and host is not None:
        raise UsageError(f"{strange[0]} is about a home, and --host DIR about a storage host", hint="run gc for each")
    if strange:
        raise UsageError(
            f"{strange[0]} is for the storage host alone", hint="at the host: lafs gc --host DIR; lafs help gc"
        )
    if host is not None:
        from lafscli.cli import hosting

        hosting.collect(
            frame,
            host,
            delete=delete,
            grace=grace,
            undo=undo,
            older_than=older_than,
            cutoff=cutoff,
            only=only,
            leaseless=leaseless,
        )
    else:
        from lafscli.cli import collecting

        collecting.collect(frame, roots, delete=delete, grace=grace, undo=undo, adopt=adopt, lock_wait=lock_wait or 0)


def _said(value: object) -> bool:
    """Whether an option was given; a duration of 0 was."""
    return value is not None and value is not False and value != ()
