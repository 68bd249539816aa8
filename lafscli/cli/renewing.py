"""renew (CLI.md §5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.roots import in_itself, known, unreachable
from lafscli.cli.roots import roots as found_roots
from lafscli.errors import Partial
from lafscli.formats.caps import ChkVerifyCap, DirectoryCap, MutableVerifyCap
from lafscli.health.deep import Objects
from lafscli.health.renew import renew_many
from lafscli.health.report import Leases, Silence, leases_document
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.text import count

Stored = ChkVerifyCap | MutableVerifyCap


@command("renew")
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
def renew(frame: Frame, targets: tuple[str, ...]) -> None:
    """Renew the leases of what is stored.

    Each TARGET is a cap of any power, @FILE, or alias:path; without one it is all that this home knows of: what its
    aliases stand for, and what was put or made without a name (`pins`). A directory is renewed with all that it leads
    to. On every server our lease on each share is renewed for 31 days, or added where there is none of ours.
    """
    roots, missing = found_roots(frame, targets) if targets else (known(frame.home()), [])
    total, failures, unheard, objects = Leases(), Counter[Silence](), 0, 0
    stored = next((each.cap for each in roots if not in_itself(each.cap)), None)
    if stored is not None:
        frame.client_with_servers()
        access = frame.access(stored)
        found = Objects(access, roots, deep=True)
        for done in renew_many(access.grid, _stored(found), access.writing.lease):
            objects += 1
            total += done.leases + Leases(failed=len(done.unreachable))
            failures.update((*done.failures, *done.unreachable))
            if len(done.unreachable) == len(access.grid.stores):
                unheard += 1
                silent = done.unreachable
            if not done.unreachable and done.leases == Leases():
                total += Leases(failed=1)
                frame.out.warn(f"no share of {b32encode(done.si)} was found")
        if unheard and unheard == objects:
            raise unreachable(silent)
        missing = [*missing, *found.unseen]
    for name in missing:
        frame.out.name(f"{name.path}: {name.reason}")
    total += Leases(failed=len(missing))
    for each, number in sorted(failures.items(), key=lambda item: (item[0].server, item[0].reason)):
        frame.out.warn(f"server {each.server}: {count(number, 'lease')} not renewed: {each.reason}")
    said = f"{count(total.renewed, 'lease')} renewed, {total.added} added"
    frame.out.show(leases_document(total), said + (f", {total.failed} failed" if total.failed else ""))
    if total.failed:
        raise SystemExit(Partial.exit_code)


def _stored(objects: Objects) -> Iterator[Stored]:
    """The files that have shares, those that hold directories too."""
    for number, cap in enumerate(objects.caps()):
        objects.take_path(number)
        verify = (cap.inner if isinstance(cap, DirectoryCap) else cap).verify_cap()
        if isinstance(verify, Stored):
            yield verify
