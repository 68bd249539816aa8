"""server drain and server replace (CLI.md §3)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.enrolling import address_options, connecting, enrolled, forgotten, tell
from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.progress import ShownProgress
from lafscli.cli.reports import count
from lafscli.cli.text import escape, human_size
from lafscli.config import secrets
from lafscli.config.servers import ServerRecord, check_name
from lafscli.config.settings import Config
from lafscli.errors import NotHappy, Partial, ServerError, UsageError
from lafscli.formats import caps
from lafscli.formats.caps import ChkCap, ChkVerifyCap, LitCap
from lafscli.health.move import Drained, drain
from lafscli.health.renew import MakeLease
from lafscli.health.report import CheckReport
from lafscli.primitives.encoding import b32encode

if TYPE_CHECKING:
    from lafscli.client import Client


@command("server drain")
@click.argument("name")
def drain_(frame: Frame, name: str) -> None:
    """Copy our shares from a server to the others.

    Every share on NAME that carries a lease of this home is copied, proved byte by byte, to another server, and gets
    our lease there. NAME becomes read-only in the configuration, and its shares stay. Run again, it goes on where it
    stopped.
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
    known = {cap.si: cap for cap in known_objects(client.config)[0]}
    with ShownProgress(frame.connections, frame.out, f"drain {name}") as progress:
        done = drain(client.grid, name, leases(client), known=known, progress=progress)
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
    the files that this home knows of (`pins`) are repaired as if OLD were lost. Then OLD is forgotten. Run again after
    an interruption, it goes on where it stopped.
    """
    from lafscli.client import record_of

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
    from lafscli.client import entered
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
                f"{count(self.objects, 'file')} looked at as if it were lost: {self.repaired} repaired, "
                f"{count(self.written, 'share')} made again"
            )
        return lines + [f"  {f'{b32encode(si)}: ' if si is not None else ''}{reason}" for si, reason in self.failed]


def _save(frame: Frame, old: str) -> Saved:
    """Copy what can be copied; what can't be is made again, where its cap is known."""
    client = frame.client()
    saved = Saved()
    caps_known, others = known_objects(client.config)
    known = {cap.si: cap for cap in caps_known}
    lost: dict[bytes, str] = {}
    try:
        saved.drained = done = drained(frame, client, old)
    except ServerError as error:
        saved.silent = error.message
        wanted = list(known.values())
        if others:
            saved.failed.append((None, f"{others} pins are of a kind that this version of lafs can't repair"))
        if not wanted:
            frame.out.warn("this home has no pins: nothing is known of what was on it, and nothing was repaired")
    else:
        lost = {left.si: left.reason for left in done.failed}
        wanted = [cap for si, cap in known.items() if si in lost]
        if done.unfinished is not None:
            saved.failed.append((None, f"not all shares were looked at: {done.unfinished}"))
    for report in _repaired(frame, client, old, wanted):
        assert report.cap is not None
        saved.objects += 1
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
    saved.failed += sorted(lost.items())
    return saved


def _repaired(frame: Frame, client: Client, old: str, wanted: Sequence[ChkVerifyCap]) -> Iterator[CheckReport]:
    from lafscli.health.check import Checking
    from lafscli.health.regrowth import Mending
    from lafscli.health.repair import repair_many

    if not wanted:
        return
    checking = Checking(client.config.encoding.happy, os.urandom, assume_lost=frozenset([old]))
    with ShownProgress(frame.connections, frame.out, f"replace {old}") as progress:
        for _, report in repair_many(client.grid, wanted, checking, Mending(leases(client)), progress):
            yield report


def leases(client: Client) -> MakeLease:
    """Makes our leases, from now on."""
    return client.writing(client.config.encoding, convergent=False).lease


def known_objects(config: Config) -> tuple[list[ChkVerifyCap], int]:
    """The immutable files that this home knows of (its pins), and how many pins are of another kind."""
    found: list[ChkVerifyCap] = []
    others = 0
    for line in secrets.pinned(config.home):
        cap = caps.parse(line)
        if isinstance(cap, ChkCap | ChkVerifyCap):
            found.append(cap.verify_cap())
        else:
            others += not isinstance(cap, LitCap)
    return found, others


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
