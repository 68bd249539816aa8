"""server drain and server replace (CLI.md §3)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.enrolling import address_options, connecting, enrolled, forgotten, tell
from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.progress import ShownProgress
from lafscli.cli.roots import called, known
from lafscli.config import secrets
from lafscli.config.servers import ServerRecord, check_name
from lafscli.config.settings import Config
from lafscli.errors import NotHappy, Partial, ServerError, UsageError
from lafscli.formats import caps
from lafscli.formats.caps import ChkCap, ChkVerifyCap, DirectoryCap
from lafscli.health.check import Checking
from lafscli.health.deep import Objects, Root
from lafscli.health.move import Drained, drain
from lafscli.health.moveslots import Slots, strongest
from lafscli.health.regrowth import Mending
from lafscli.health.report import CheckReport, MutableCap
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.text import count, escape, human_size
from lafscli.tree.walk import walk

if TYPE_CHECKING:
    from lafscli.client import Client


@command("server drain")
@click.argument("name")
def drain_(frame: Frame, name: str) -> None:
    """Copy our shares from a server to the others.

    Every share on NAME that carries a lease of this home is copied, proved byte by byte, to another server, and gets
    our lease there. Shares of mutable objects are made again there, which takes a write cap that an alias leads to;
    without it only servers that have a share of the object can take more. NAME becomes read-only in the configuration,
    and its shares stay. Run again, it goes on where it stopped.
    """
    client = frame.client()
    client.record(name)
    _somewhere_to_go(client.config, name)
    try:
        done = drained(frame, client, name)
    finally:
        frame.connections.forget()
    frame.out.show(document(done) | {"readonly": True}, "\n".join(map(escape, words(done))))
    if not done.complete:
        frame.out.tell(f"what was not copied is only on {name}: mend it, then run lafs server drain {name} again")
        raise SystemExit(Partial.exit_code)
    frame.out.tell(f"the shares on {name} stay, and nothing new goes there; next: lafs server remove {name}")


def _somewhere_to_go(config: Config, name: str) -> None:
    if not any(record.name != name for record in config.writable):
        raise NotHappy("there is no other server that takes shares", hint="lafs server add NAME URL")


def drained(frame: Frame, client: Client, name: str) -> Drained:
    """Empty a server that answers: nothing new goes there from the moment that it did."""
    [store] = [store for store in client.grid.stores if store.server.name == name]
    client.grid.submit(store, lambda _store: None).result()

    def change(table: dict[str, Any]) -> None:
        if name in table.get("servers", {}):
            table["servers"][name]["readonly"] = True

    client.config.edit(change)
    access = frame.access()
    files = {cap.si: cap for cap in pinned_files(client.config)}
    checking = Checking(client.config.encoding.happy, os.urandom, memory=access.reading.seen)
    slots = Slots(partial(known_slots, frame), checking, Mending(access.writing.lease, publishing=access.publishing))
    with ShownProgress(frame.connections, frame.out, f"drain {name}") as progress:
        done = drain(client.grid, name, access.writing.lease, known=files, slots=slots, progress=progress)
    for silent, reason in sorted(done.silent.items()):
        frame.out.warn(f"server {silent} did not answer, and got nothing: {reason}")
    client.sweep({record.name for record in client.config.writable} - {name})
    return done


@command("server replace")
@click.argument("old")
@click.argument("new")
@click.argument("url")
@address_options
@click.option("--force", is_flag=True, help="Forget OLD even if something on it could not be saved.")
def replace_(frame: Frame, old: str, new: str, url: str, force: bool, **given: Any) -> None:
    """Put a new server in the place of another.

    NEW is added as by server add. If OLD still answers, our shares on it are copied as by server drain; if it does not,
    the objects that this home knows of (what its aliases and `pins` lead to) are repaired as if OLD were lost. Then OLD
    is forgotten. Run again after an interruption, it goes on where it stopped.
    """
    from lafscli.client.reaching import record_of

    config = frame.config()
    check_name(new)
    if old not in config.servers and new in config.servers and config.servers[new].url == url:
        frame.out.show({"old": old, "new": new, "removed": True}, f"{new} is in the place of {old} already")
        return
    moved = _add(frame, config, record_of(config, old), new, url, given)
    try:
        saved = Saved() if moved else _save(frame, old)
    finally:
        frame.connections.forget()
    removed = moved or force or not saved.failed
    if removed and not moved:
        forgotten(frame, config, record_of(frame.config(), old), force=force)
    frame.out.show(
        {"old": old, "new": new, "removed": removed} | saved.document() | ({"moved": True} if moved else {}),
        "\n".join(map(escape, saved.words(old))),
    )
    if moved:
        frame.out.tell(f"the folder is that of {old}: it is called {new} now, and nothing was to be copied")
    elif removed:
        frame.out.tell(f"{new} is in the place of {old}, which is forgotten")
    if saved.failed:
        if not removed:
            frame.out.tell(f"{old} stays; mend it and run this again, or forget it with --force")
        raise SystemExit(Partial.exit_code)


def _add(frame: Frame, config: Config, old: ServerRecord, new: str, url: str, given: dict[str, Any]) -> bool:
    """Add the new server, if an earlier run did not. True when it turns out to be the old one at another address,
    which then has the new name."""
    from lafscli.client.joining import entered
    from lafscli.health.members import changing_lists, keep_list

    if new in config.servers:
        if new == old.name or config.servers[new].url != url:
            raise UsageError(f"there is a server {new} already", hint="give the new server a name of its own")
        frame.out.tell(f"{new} is there already: going on", level=1)
        return False
    record, theirs = enrolled(frame, config, new, url, **given)
    moved = record.node_id == old.node_id
    with changing_lists(config) as config:
        for other in config.servers.values():
            if other.node_id == record.node_id and other.name != old.name:
                raise UsageError(f"this is the server {other.name}, which is there already")
        listed = None if moved else entered(config, record, theirs, connecting(frame), lost=old)

        def change(table: dict[str, Any]) -> None:
            servers = table.setdefault("servers", {})
            servers.setdefault(new, record.table())
            if moved:
                servers.pop(old.name, None)
            if listed is not None:
                keep_list(table, listed.membership)

        config = config.edit(change)
    frame.connections.forget()
    if listed is not None:
        tell(frame, config, listed)
    return moved


@dataclass(slots=True)
class Saved:
    """What was done so that a server may go. `failed`: storage index, if it is about one file, and
    reason."""

    drained: Drained | None = None
    silent: str | None = None
    objects: int = 0
    repaired: int = 0
    written: int = 0
    failed: list[tuple[bytes | None, str]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        failed = [
            {"reason": reason} | ({} if si is None else {"storage_index": b32encode(si)}) for si, reason in self.failed
        ]
        found: dict[str, Any] = {"failed": failed}
        if self.drained is not None:
            found["drained"] = document(self.drained)
        if self.silent is not None:
            found["silent"] = self.silent
        if self.objects:
            found["repair"] = {"objects": self.objects, "repaired": self.repaired, "shares_written": self.written}
        return found

    def words(self, old: str) -> list[str]:
        """For people."""
        lines = [] if self.drained is None else words(self.drained)[:1]
        if self.silent is not None:
            lines.append(f"{old} does not answer ({self.silent})")
        if self.objects:
            lines.append(
                f"{count(self.objects, 'object')} looked at as if it were lost: {self.repaired} repaired, "
                f"{count(self.written, 'share')} made again"
            )
        return lines + [f"  {f'{b32encode(si)}: ' if si is not None else ''}{reason}" for si, reason in self.failed]


def _save(frame: Frame, old: str) -> Saved:
    """Copy what can be copied; what can't be is made again, where its cap is known."""
    client = frame.client()
    saved = Saved()
    lost: dict[bytes, str] = {}
    try:
        saved.drained = done = drained(frame, client, old)
    except ServerError as error:
        saved.silent = error.message
        roots = known(client.config.home)
        if not roots:
            frame.out.warn(
                "this home has no aliases and no pins: nothing is known of what was on it, and nothing was repaired"
            )
    else:
        lost = {left.si: left.reason for left in done.failed}
        roots = [Root(called(cap), cap) for cap in pinned_files(client.config) if cap.si in lost]
        if done.unfinished is not None:
            saved.failed.append((None, f"not all shares were looked at: {done.unfinished}"))
    objects = Objects(frame.access(), roots, deep=True)
    for report in _repaired(frame, old, objects):
        saved.objects += report.cap is not None
        if report.cap is None:
            continue
        if report.repair is not None:
            saved.repaired += report.repair.successful
            saved.written += report.repair.written
        if report.complete:
            lost.pop(report.cap.si, None)
        else:
            reason = f"{report.good_shares} of {report.encoding[1]} shares are there"
            if report.repair is not None and report.repair.reason:
                reason += f"; {report.repair.reason}"
            lost[report.cap.si] = reason
    saved.failed += [(None, f"{each.path}: {each.reason}") for each in objects.unseen]
    saved.failed += sorted(lost.items())
    return saved


def _repaired(frame: Frame, old: str, objects: Objects) -> Iterator[CheckReport]:
    from lafscli.health.repair import repair_many

    access = frame.access()
    checking = Checking(
        access.publishing.encoding.happy, os.urandom, assume_lost=frozenset([old]), memory=access.reading.seen
    )
    mending = Mending(access.writing.lease, publishing=access.publishing)
    with ShownProgress(frame.connections, frame.out, f"replace {old}") as progress:
        for number, report in repair_many(access.grid, objects.caps(), checking, mending, progress):
            objects.take_path(number)
            yield report


def pinned_files(config: Config) -> list[ChkVerifyCap]:
    """The immutable files among the pins of this home."""
    found = [caps.parse(line) for line in secrets.pinned(config.home)]
    inner = [cap.inner if isinstance(cap, DirectoryCap) else cap for cap in found]
    return [cap.verify_cap() for cap in inner if isinstance(cap, ChkCap | ChkVerifyCap)]


def known_slots(frame: Frame, wanted: Collection[bytes]) -> dict[bytes, MutableCap]:
    """Of these mutable objects, the strongest caps that this home's aliases and pins lead to."""
    access = frame.access()
    found: list[MutableCap] = []
    for each in known(frame.home()):
        for visit in walk(access, each.cap, names=True):
            cap = visit.cap.inner if isinstance(visit.cap, DirectoryCap) else visit.cap
            if isinstance(cap, MutableCap) and cap.verify_cap().si in wanted:
                found.append(cap)
    return strongest(found)


def document(done: Drained) -> dict[str, Any]:
    """What became of the shares, as JSON."""
    found: dict[str, Any] = {
        "server": done.server,
        "shares": done.shares,
        "copied": done.copied,
        "already_elsewhere": done.already_elsewhere,
        "bytes": done.bytes,
        "failed": [
            {"storage_index": b32encode(left.si), "share": left.shnum, "reason": left.reason} for left in done.failed
        ],
        "foreign": done.foreign,
        "unreachable": [{"server": name, "reason": reason} for name, reason in sorted(done.silent.items())],
    }
    return found | ({} if done.unfinished is None else {"unfinished": done.unfinished})


def words(done: Drained) -> list[str]:
    """The same for people."""
    parts = [f"{done.copied} copied ({human_size(done.bytes)})"]
    if done.already_elsewhere:
        parts.append(f"{done.already_elsewhere} elsewhere already")
    if done.failed:
        parts.append(f"{len(done.failed)} not copied")
    lines = [f"{done.server}: {count(done.shares, 'share')} of ours: {', '.join(parts)}"]
    if done.foreign:
        lines.append(f"  {count(done.foreign, 'share')} of other people, without a lease of this home: left alone")
    lines += [f"  share {left.shnum} of {b32encode(left.si)}: {left.reason}" for left in done.failed]
    if done.unfinished is not None:
        lines.append(f"  not all shares were looked at: {done.unfinished}")
    return lines
