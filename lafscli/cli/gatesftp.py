"""gateway sftp (CLI.md §7)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.gates import warn_without_servers
from lafscli.cli.options import DURATION, command
from lafscli.cli.servefiles import CONNECTIONS, LOGIN, parse_address
from lafscli.cli.systemd import raise_open_files, share_heaps, tell_systemd
from lafscli.errors import UsageError

IDLE = "24h"
"""Mounted folders are silent for long."""


@command("gateway sftp")
@click.option("--accounts", metavar="FILE", required=True, help="Who may log in, and to which directory.")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:8022",
    help="Where to listen, port 0 takes a free one (default: 127.0.0.1:8022).",
)
@click.option("--host-key", metavar="FILE", help="The key that the gateway shows; made if it is not there.")
@click.option(
    "--max-connections",
    metavar="N",
    type=click.IntRange(1, 10000),
    default=CONNECTIONS,
    help=f"Logged in at once (default: {CONNECTIONS}).",
)
@click.option(
    "--login-timeout",
    metavar="DURATION",
    type=DURATION,
    default=f"{LOGIN}s",
    help=f"How long a login may take (default: {LOGIN}s).",
)
@click.option(
    "--idle-timeout",
    metavar="DURATION",
    type=DURATION,
    default=IDLE,
    help=f"End a connection that asks for nothing for so long (default: {IDLE}).",
)
def sftp(frame: Frame, **given: Any) -> None:
    """Offer directories of the grid over SFTP.

    Programs that know no caps read and write there as on any SFTP server. Each account has a name, a public key and a
    directory; a file is stored when it is closed, and the answer to that says whether it is.
    """
    for name in ("login_timeout", "idle_timeout"):
        if given[name] == 0:
            raise UsageError(
                f"--{name.replace('_', '-')} of 0 would end every connection", hint="lafs help gateway sftp"
            )
    host, port = parse_address(given["listen"])
    warn_without_servers(frame)
    raise_open_files()
    share_heaps()
    raise SystemExit(_serve(frame, host, port, given))


def _serve(frame: Frame, host: str, port: int, given: dict[str, Any]) -> int:
    from lafscli.gateway import accounts
    from lafscli.gateway.desk import Desk
    from lafscli.gateway.sftp import SftpGateway
    from lafscli.server import hostkey
    from lafscli.server.callers import Limits
    from lafscli.server.record import Record

    home, settings = frame.home(), frame.settings
    log = Path(os.path.abspath(settings.log_file)) if settings.log_file else None
    record = Record(log, silent=bool(settings.quiet), event="gateway sftp")
    named = given["host_key"]
    host_key, made = hostkey.load_or_make(
        home.path / "gateway" / "host_key" if named is None else Path(os.path.abspath(named))
    )
    if made:
        record.note("made a host key")
    file = Path(os.path.abspath(given["accounts"]))
    limits = Limits(connections=given["max_connections"], login=given["login_timeout"], idle=given["idle_timeout"])
    desk = Desk(home, limit_rate=settings.limit_rate, timeout=settings.timeout, note=record.note)
    try:
        gateway = SftpGateway(desk, lambda: accounts.load(file, home, record.note), limits, record, host_key)

        def ready(addresses: list[str]) -> None:
            shown = {"listening": addresses, "fingerprint": host_key.fingerprint, "accounts": gateway.names}
            frame.out.show(shown, "")
            where = " and ".join(addresses)
            many = f"{len(gateway.names)} account{'' if len(gateway.names) == 1 else 's'}"
            frame.out.tell(f"serving {many} at {where}, host key {host_key.fingerprint}")
            tell_systemd()

        return 128 + gateway.run(host, port, ready)
    finally:
        desk.close()
