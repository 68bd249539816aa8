"""recovery export, recovery import (CLI.md §3)."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.landing import landing
from lafscli.cli.options import SIZE, command
from lafscli.cli.output import rfc3339
from lafscli.cli.text import columns
from lafscli.config import kits
from lafscli.config.home import write_atomically
from lafscli.config.servers import parse_options
from lafscli.errors import LafsError, NotFound, Partial, UsageError

if TYPE_CHECKING:
    from lafscli.client.kits import KitAtServer
    from lafscli.recovery.kit import Kit
    from lafscli.storage.kits import Found

_passphrase_file = click.option(
    "--passphrase-file", metavar="FILE", help="Read the passphrase from the first line of FILE; - is stdin."
)


@command("recovery export")
@click.argument("file", metavar="FILE|-")
@_passphrase_file
@click.option("--on-servers", is_flag=True, help="Leave the sealed kit on every server that takes shares, too.")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--memory", type=SIZE, help="What each try of a passphrase takes, 8M to 1G [256M].")
def export(
    frame: Frame, file: str, passphrase_file: str | None, on_servers: bool, force: bool, memory: int | None
) -> None:
    """Write all that brings this home back to a sealed file.

    The recovery kit has what lafs grid export writes, the secrets, the aliases and the pins, sealed with a passphrase
    that is asked for twice. With it and the passphrase lafs recovery import makes this home again on another machine.
    It has no key of ssh. FILE is made with mode 0600, and never replaced without --force.
    """
    from lafscli.cli.passphrase import ask
    from lafscli.client.joining import exported, resolved
    from lafscli.recovery.homes import counted, home_id, kit_of, lines
    from lafscli.recovery.kit import Login
    from lafscli.recovery.sealed import COST, cost_of, seal

    cost = COST if memory is None else cost_of(memory)
    config = frame.config()
    if file == "-" and frame.settings.json:
        raise UsageError("--json and the kit can't both go to stdout", hint="lafs recovery export FILE --json")
    if file != "-":
        _may_write(Path(file), force=force)
    if on_servers:
        frame.client_with_servers()  # refused where there is none
    passphrase = ask(frame, passphrase_file, twice=True)
    found = resolved(config)
    grid = exported(config, found, frame.out.warn, own=True)
    logins = {
        name: Login(_text(config.servers[name].options.get("identity")), each.through) for name, each in found.items()
    }
    made = kit_of(config, grid, logins, time.time())
    data = seal(made.serialise(), passphrase, os.urandom, cost=cost).serialise()
    if file == "-":
        with landing(None) as write:
            write(data)
    else:
        write_atomically(Path(file), data, replace=force)
    try:
        kits.remember_kit(config, made.aliases, made.made)
    except LafsError as error:
        frame.out.warn(f"that there is a kit now could not be kept: {error.message}")
    document: dict[str, Any] = {
        "path": file,
        "size": len(data),
        "made": rfc3339(made.made),
        "servers": list(grid.servers),
        "aliases": lines(made.aliases),
        "pins": lines(made.pins),
    }
    words, failed = [f"wrote {file}: {_counts(document)}"], 0
    if on_servers:
        left = _leave(frame, home_id(config.home), data)
        document["on_servers"] = left
        failed = sum("reason" in each for each in left)
        words.append(f"left on {counted(len(left) - failed, 'server')}" + (f", not on {failed}" if failed else ""))
    if file != "-":
        frame.out.show(document, "\n".join(words))
    elif on_servers:
        frame.out.tell(words[-1])
    if failed:
        raise SystemExit(Partial.exit_code)


def _leave(frame: Frame, home: str, data: bytes) -> list[dict[str, str]]:
    """Leave a kit on the servers, and say where that failed: as `on_servers` tells it."""
    from lafscli.client.kits import leave_on_servers

    client = frame.client_with_servers()
    told: list[dict[str, str]] = []
    for name, answer in leave_on_servers(client, home, data).items():
        if isinstance(answer, LafsError):
            frame.out.name(f"server {name}: the kit is not there: {answer.message}")
            told.append({"server": name, "reason": answer.message})
        else:
            told.append({"server": name, "kit": answer.name})
    return told


def _may_write(path: Path, *, force: bool) -> None:
    """Refuse what would be refused after the passphrase was typed."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise LafsError(f"cannot write {path}: {error.strerror}") from error
    if not stat.S_ISREG(kind):
        raise UsageError(f"{path} is no file that could be replaced", hint="name another; - is stdout")
    if not force:
        raise UsageError(f"{path} is there already", hint="name another, or --force to replace it")


@command("recovery import")
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--from", "url", metavar="URL", help="Take the kit that was left on this server.")
@click.option("--kit", metavar="NAME", help="Which kit, where several homes left theirs on that server.")
@_passphrase_file
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="How this machine reaches the servers; may be repeated.",
)
@click.option("--accept-new", is_flag=True, help="Accept and record a host key of --from that is not known yet.")
def import_(
    frame: Frame,
    file: str | None,
    url: str | None,
    kit: str | None,
    passphrase_file: str | None,
    options: tuple[str, ...],
    accept_new: bool,
) -> None:
    """Make a home from a recovery kit.

    The kit is FILE, or --from a server on which lafs recovery export --on-servers left one; URL is as of lafs server
    add. The home must not exist yet, or have nothing in it that would be lost. As the kit has no key of ssh, the answer
    says where a key of this machine has to be let in. gc removes nothing until lafs gc --adopt is run.
    """
    from lafscli.cli.passphrase import ask
    from lafscli.recovery.homes import check_unused, rebuild
    from lafscli.recovery.kit import Kit
    from lafscli.recovery.sealed import SealedKit

    if (file is None) == (url is None):
        raise UsageError("say where the kit is: FILE, or --from URL", hint="lafs help recovery import")
    if url is None and (kit is not None or accept_new):
        raise UsageError("--kit and --accept-new go with --from", hint="lafs help recovery import")
    home, given = frame.home(), parse_options(options)
    for warning in home.examine():
        frame.out.warn(warning)
    check_unused(home)
    there: KitAtServer | None = None
    if url is not None:
        from lafscli.client.kits import read_from_server

        timeout = frame.settings.timeout
        there = read_from_server(home, url, given, kit=kit, accept_new=accept_new, timeout=timeout)
    sealed = SealedKit.parse(_read(frame, file or "") if there is None else there.data)
    content = sealed.open(ask(frame, passphrase_file, twice=False))
    opened = Kit.parse(content)
    found_at = None if there is None or there.node_id is None or url is None else (there.node_id, url)
    rebuilt = rebuild(home, opened, given, found_at)
    frame.connections.forget()
    for path in rebuilt.aside:
        frame.out.warn(f"a secret that was there was kept as {path}")
    _tell(frame, opened, rebuilt.config.servers, rebuilt.host_keys, str(home.path), there.found if there else None)


def _read(frame: Frame, file: str) -> bytes:
    from lafscli.recovery.sealed import MOST_BYTES

    try:
        if file == "-":
            frame.connections.take_stdin("a recovery kit")
            with os.fdopen(0, "rb", closefd=False) as stream:
                return stream.read(MOST_BYTES + 1)
        with open(file, "rb") as stream:
            return stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"no such file: {file}") from None
    except OSError as error:
        raise LafsError(f"cannot read {file}: {error.strerror}") from error


def _tell(frame: Frame, kit: Kit, servers: Mapping[str, Any], host_keys: int, home: str, found: Found | None) -> None:
    """The answer of an import: what was made, and what is to be authorised where."""
    from lafscli.recovery.homes import lines

    told: list[dict[str, Any]] = []
    rows = []
    for name, record in servers.items():
        address, login = record.address, kit.logins[name]
        facts: dict[str, Any] = {"name": name, "url": record.url}
        if address.host is None:
            rows.append((name, record.url, "a folder of this machine, if it is there"))
        else:
            user = f"{address.user}@{address.host}" if address.user else address.host
            port = f"-p {address.port} " if address.port else ""
            facts |= {"login": user, "authorise": f"ssh-copy-id {port}{user}"} | login.table()
            before = [f"key before: {login.identity}"] if login.identity else []
            before += [f"through {login.through}"] if login.through else []
            rows.append((name, facts["authorise"], "; ".join(before)))
        told.append(facts)
    made = rfc3339(kit.made)
    aliases, pins = lines(kit.aliases), lines(kit.pins)
    document: dict[str, Any] = {"home": home, "made": made, "servers": told, "aliases": aliases, "pins": pins}
    document |= {"host_keys": host_keys, "gc_adopted": False} | ({"kit": found.name} if found else {})
    words = [f"made {home} from the kit of {made}: {_counts(document)}"]
    if any("login" in each for each in told):
        words.append("the kit has no key of ssh; at each server one of this machine must be let in, for example by")
    frame.out.show(document, "\n".join([*words, columns(rows)] if rows else words))
    frame.out.tell("next: lafs server status; gc removes nothing before lafs gc --adopt")


def _counts(document: Mapping[str, Any]) -> str:
    from lafscli.recovery.homes import counted

    counts = {"server": len(document["servers"]), "alias": document["aliases"], "pin": document["pins"]}
    return ", ".join(counted(count, noun) for noun, count in counts.items())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
