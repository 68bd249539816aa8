"""server drain and server replace (CLI.md §3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.progress import ShownProgress
from lafscli.cli.text import escape, human_size
from lafscli.config import secrets
from lafscli.config.settings import Config
from lafscli.errors import NotHappy, Partial
from lafscli.formats import caps
from lafscli.formats.caps import ChkCap, ChkVerifyCap
from lafscli.health.move import Drained, drain
from lafscli.health.renew import MakeLease
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
    known = {cap.si: cap for cap in known_objects(client.config)}
    with ShownProgress(frame.connections, frame.out, f"drain {name}") as progress:
        done = drain(client.grid, name, leases(client), known=known, progress=progress)
    for silent, reason in sorted(done.silent.items()):
        frame.out.warn(f"server {silent} did not answer, and got nothing: {reason}")
    client.sweep({record.name for record in client.config.writable} - {name})
    return done


def leases(client: Client) -> MakeLease:
    """Makes our leases, from now on."""
    return client.writing(client.config.encoding, convergent=False).lease


def known_objects(config: Config) -> Iterator[ChkVerifyCap]:
    """The immutable files that this home knows of: its pins."""
    for line in secrets.pinned(config.home):
        cap = caps.parse(line)
        if isinstance(cap, ChkCap | ChkVerifyCap):
            yield cap.verify_cap()


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
        parts.append(f"{done.already_elsewhere} were elsewhere already")
    if done.failed:
        parts.append(f"{len(done.failed)} not copied")
    lines = [f"{done.server}: {done.shares} shares of ours: {', '.join(parts)}"]
    if done.foreign:
        lines.append(f"  {done.foreign} shares carry no lease of this home: they are other people's, and were left")
    lines += [f"  share {left.shnum} of {b32encode(left.si)}: {left.reason}" for left in done.failed]
    if done.unfinished is not None:
        lines.append(f"  not all shares were looked at: {done.unfinished}")
    return lines
