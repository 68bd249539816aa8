"""init and encoding (CLI.md §3)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lafscli.cli.enrolling import connecting
from lafscli.cli.frame import Frame
from lafscli.cli.options import ENCODING, command
from lafscli.config.aliases import parse_lines
from lafscli.config.home import Home
from lafscli.config.servers import Address
from lafscli.config.settings import DEFAULT_ALIAS, Config, encoding_table, write_table
from lafscli.placement import Encoding, may_lose

LOCAL_SERVERS = 10


@command("init")
@click.option("--local", is_flag=True, help="Add ten servers that are folders of this machine.")
@click.option("--encoding", type=ENCODING, help="Any K of N shares rebuild a file, on at least H servers [3/7/10].")
@click.option("--from-tahoe", metavar="NODEDIR", help="Take secrets, aliases and encoding of a Tahoe-LAFS client.")
def init(frame: Frame, local: bool, encoding: Encoding | None, from_tahoe: str | None) -> None:
    """Make a home: configuration and secrets.

    Run twice it says what exists and changes nothing. --local makes everything work at once on one machine: folders
    stand for servers, and nothing is safer for that.
    """
    from lafscli.config import collecting, secrets

    home = frame.home()
    existed = home.config_file.exists()
    if existed:
        config = frame.config()
        unused = [("--local", local), ("--encoding", encoding), ("--from-tahoe", from_tahoe)]
        for option in (name for name, value in unused if value):
            frame.out.warn(f"{option} changes nothing: there is a home already")
        made = []
        if secrets.missing(home):
            with home.locked():
                made = secrets.make_missing(home, os.urandom, {})
    else:
        node = None if from_tahoe is None else secrets.TahoeNode(Path(from_tahoe))
        given = {} if node is None else node.secrets()
        if given.get("convergence") == b"":
            frame.out.warn(
                "the convergence secret of that node is empty: who has the same file can tell that you have it"
            )
        chosen = encoding or (Encoding() if node is None else Encoding(*node.encoding()))
        for warning in [*home.make(), *home.examine()]:
            frame.out.warn(warning)
        if node is not None:  # its secrets, and so its leases, may be in use there still
            collecting.distrust(home)
        servers = _local_servers(home) if local else {}
        with home.locked():
            made = secrets.make_missing(home, os.urandom, given)
            if not home.config_file.exists():  # another init may have been faster
                table = {"encoding": encoding_table(chosen), "servers": servers}
                write_table(home, _default_alias(given.get("aliases", b"")) | table)
        config = frame.config()
        if local:
            config = _listed(frame, config)
    _answer(frame, config, created=not existed, made=made)


def _default_alias(lines: bytes) -> dict[str, str]:
    """Where a Tahoe node has its default alias, and there is none of ours, paths go on to begin there."""
    names = {name for name, _ in parse_lines(lines.decode(errors="replace"))}
    return {"default-alias": "tahoe"} if "tahoe" in names and DEFAULT_ALIAS not in names else {}


def _answer(frame: Frame, config: Config, *, created: bool, made: list[str]) -> None:
    document = {"home": str(config.home.path), "created": created, "servers": list(config.servers)}
    count = len(config.servers)
    words = [
        f"{'made' if created else 'there is already'} {config.home.path}: {count} servers, encoding {config.encoding}"
    ]
    if made and not created:
        words.append(f"made what was missing: {', '.join(made)}")
    frame.out.show(document, "\n".join(words))
    if not count:
        frame.out.tell("next: lafs server add NAME URL, or lafs grid import FILE")


def _local_servers(home: Home) -> dict[str, Any]:
    """Ten servers in folders of this machine, as tables of the configuration."""
    from lafscli.client.joining import enrol_server

    tables: dict[str, Any] = {}
    for number in range(LOCAL_SERVERS):
        name = f"local{number}"
        folder = home.data / "grid" / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        record, _ = enrol_server(None, name, str(Address(None, str(folder))))
        tables[name] = record.table()
    return tables


def _listed(frame: Frame, config: Config) -> Config:
    """Make the list of these servers, or take over what folders of an earlier home have."""
    from lafscli.health.members import changing_lists, keep_list, known_list, made

    with changing_lists(config) as config:
        client = connecting(frame)(config)
        try:
            membership = made(client.grid, known_list(config), client.changing())
        finally:
            client.close()
        return config.edit(lambda table: keep_list(table, membership))


@command("encoding")
@click.argument("encoding", type=ENCODING, required=False, metavar="[K/H/N]")
def encoding(frame: Frame, encoding: Encoding | None) -> None:
    """Show or set how many shares a file gets.

    K/H/N: any K of N shares rebuild a file; a put that does not reach H servers stores nothing. It counts for files
    put from now on.
    """
    config = frame.config()
    if encoding is not None:
        chosen = replace(encoding, segment_size=config.encoding.segment_size)
        config = config.edit(lambda table: table.setdefault("encoding", {}).update(encoding_table(chosen)))
        frame.connections.forget()
    now, servers = config.encoding, len(config.writable)
    lose, guaranteed = may_lose(now.k, now.n, servers), now.guaranteed
    document = {
        "k": now.k,
        "happy": now.happy,
        "n": now.n,
        "segment_size": now.segment_size,
        "expansion": round(now.expansion, 4),
        "servers": servers,
        "may_lose": lose,
        "guaranteed": guaranteed,
    }
    frame.out.show(document, in_words(now, servers))
    if servers < now.happy:
        fitting = f"; for {servers}: lafs encoding {now.fitting(servers)}" if servers else ""
        frame.out.warn(f"put needs {now.happy} servers that take shares, and you have {servers}{fitting}")


def in_words(encoding: Encoding, servers: int) -> str:
    """What an encoding means on so many servers."""
    parts = [f"{encoding.k} of {encoding.n} shares rebuild a file"]
    if servers >= encoding.happy:
        parts.append(f"on your {servers} servers any {may_lose(encoding.k, encoding.n, servers)} may be lost")
    parts.append(f"at least {encoding.guaranteed} may always be lost (happy {encoding.happy})")
    parts.append(f"stores {encoding.expansion:.2f} bytes a byte")
    return "; ".join(parts)
