"""grid export, grid import (CLI.md §3)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from lafscli.cli.enrolling import grid_facts, tell
from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.config.home import write_atomically
from lafscli.config.settings import Config, encoding_table
from lafscli.errors import LafsError, NotFound, UsageError
from lafscli.recovery.gridfile import GridFile


@command("grid export")
@click.argument("file", metavar="FILE|-")
def export(frame: Frame, file: str) -> None:
    """Write servers, host keys and encoding to a file.

    With it and a cap that you give them, others can fetch what the cap names; they also need a login on the servers.
    It holds no secret. Options that name files of this machine, or programs, are left out; hosts are written as your
    ssh resolves them.
    """
    from lafscli.client.joining import exported, resolved

    config = frame.config()
    if file == "-" and frame.settings.json:
        raise UsageError("--json and the file can't both go to stdout", hint="lafs grid export FILE --json")
    made = exported(config, resolved(config), frame.out.warn)
    text = made.serialise()
    if file == "-":
        frame.out.write(text)
        return
    write_atomically(Path(file), text.encode("utf-8"), 0o644)
    keys = sum(map(len, made.host_keys.values()))
    document = {"path": file, "servers": list(made.servers), "host_keys": keys}
    frame.out.show(document, f"wrote {file}: {len(made.servers)} servers, {keys} host keys")


@command("grid import")
@click.argument("file")
def import_(frame: Frame, file: str) -> None:
    """Take servers and encoding from a grid file.

    Servers that are here already stay as they are. Of the lists of servers that decide about mutable files the newer
    one counts; a file of another grid is refused. The file may not set ssh-command, ssh-config, ssh-option,
    known-hosts and identity: what it says of them is shown and dropped.
    """
    from lafscli.health.members import Listed, changing_lists, imported, keep_list, known_list

    given = GridFile.parse(_text(frame, file))
    config = frame.config()
    for server, option in given.dropped:
        frame.out.warn(f"server {server}: the option {option} was dropped: a grid file may not set it")
    with changing_lists(config) as config:
        added, known = _new_names(config, given)
        membership = imported(known_list(config), given.membership)

        def change(table: dict[str, Any]) -> None:
            servers = table.setdefault("servers", {})
            for name in added:
                servers.setdefault(name, given.servers[name].table())
            table["encoding"] = table.get("encoding", {}) | encoding_table(given.encoding)
            keep_list(table, membership)

        after = config.edit(change)
    with config.home.locked():
        keys = config.home.add_host_keys(key for name in added for key in given.host_keys.get(name, ()))
    frame.connections.forget()
    document = {"added": added, "known": known, "host_keys": keys, "servers": list(after.servers)}
    text = f"added {len(added)} servers ({len(known)} were here), {keys} host keys; encoding {after.encoding}"
    frame.out.show(document | grid_facts(membership), text)
    tell(frame, after, Listed(membership))


def _text(frame: Frame, file: str) -> str:
    try:
        if file == "-":
            frame.connections.take_stdin("a grid file")
            with os.fdopen(0, "rb", closefd=False) as stream:
                return stream.read().decode("utf-8")
        return Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(f"no such file: {file}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not a grid file") from None
    except OSError as error:
        raise LafsError(f"cannot read {file}: {error.strerror}") from error


def _new_names(config: Config, given: GridFile) -> tuple[list[str], list[str]]:
    """The names to add, and those of servers that are here; a name that here means another server is refused."""
    here = {record.node_id: record.name for record in config.servers.values()}
    added, known = [], []
    for name, record in given.servers.items():
        if record.node_id in here:
            known.append(here[record.node_id])
        elif name in config.servers:
            raise UsageError(
                f"the file's server {name} is another one than yours", hint=f"lafs server remove {name} forgets yours"
            )
        else:
            here[record.node_id] = name
            added.append(name)
    return added, known
