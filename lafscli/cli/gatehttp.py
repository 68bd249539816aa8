"""gateway http (CLI.md §7)."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.gates import may_be_allowed, warn_without_servers
from lafscli.cli.options import DURATION, command
from lafscli.cli.servefiles import parse_address
from lafscli.cli.systemd import raise_open_files, share_heaps, tell_systemd
from lafscli.errors import UsageError

if TYPE_CHECKING:
    from lafscli.gateway.http import Tls

_LIBRARIES = ("starlette", "uvicorn", "httptools", "jinja2", "python_multipart")


@command("gateway http")
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:3456", help="Where to listen; port 0 takes a free one."
)
@click.option("--tls-cert", metavar="FILE", help="Speak HTTPS with this certificate and its chain (PEM).")
@click.option("--tls-key", metavar="FILE", help="The key of the certificate (PEM, without a password).")
@click.option(
    "--allow-host",
    metavar="HOST",
    multiple=True,
    help="Another name of the gateway, with :PORT or for any; repeatable.",
)
@click.option("--no-unlinked", is_flag=True, help="Store nothing that is in no directory.")
@click.option(
    "--idle-timeout",
    metavar="DURATION",
    type=DURATION,
    default="5m",
    help="End a connection whose client takes or sends nothing for so long (default: 5m).",
)
@click.option("--insecure", is_flag=True, help="Listen without TLS at an address that others reach.")
def http(frame: Frame, **given: Any) -> None:
    """Offer the grid over HTTP or HTTPS.

    Browsers get pages, programs the web API of Tahoe-LAFS: its own command line and what is written for its gateway
    works with this one. Who can reach it and knows a cap can do what the cap grants, so it listens on this machine
    only, unless it is told otherwise.
    """
    host, port = parse_address(given["listen"])
    for name in given["allow_host"]:
        if not may_be_allowed(name):
            raise UsageError(f"not a name of a host: {name!r}", hint="--allow-host HOST, or HOST:PORT; no http://")
    tls = _tls(given)
    if given["idle_timeout"] == 0:
        raise UsageError("--idle-timeout of 0 would end every connection", hint="lafs help gateway http")
    if tls is None and not given["insecure"] and not _loopback(host):
        raise UsageError(
            f"{given['listen']} can be reached from elsewhere, and caps would cross the network in the clear",
            hint="--tls-cert FILE --tls-key FILE, or --insecure behind a proxy that has TLS",
        )
    warn_without_servers(frame)
    raise_open_files()
    share_heaps()
    raise SystemExit(_serve(frame, host, port, tls, given))


def _serve(frame: Frame, host: str, port: int, tls: Tls | None, given: dict[str, Any]) -> int:
    from lafscli.server.record import Record

    try:
        from lafscli.gateway.http import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _LIBRARIES:
            raise
        raise _no_libraries() from error
    from lafscli.gateway.desk import Desk

    settings = frame.settings
    log = Path(os.path.abspath(settings.log_file)) if settings.log_file else None
    record = Record(log, silent=bool(settings.quiet), event="gateway http")
    wordy = log is not None or bool(settings.verbose)
    desk = Desk(frame.home(), limit_rate=settings.limit_rate, timeout=settings.timeout, note=record.note)

    def ready(addresses: list[str]) -> None:
        scheme = "http" if tls is None else "https"
        frame.out.show({"listening": addresses, "urls": [f"{scheme}://{each}/" for each in addresses]}, "")
        frame.out.tell(f"the grid is at {' and '.join(f'{scheme}://{each}/' for each in addresses)}")
        tell_systemd()

    return 128 + serve(
        desk,
        (host, port),
        allowed=given["allow_host"],
        tls=tls,
        unlinked=not given["no_unlinked"],
        ready=ready,
        note=record.note,
        every=wordy,
        patience=given["idle_timeout"],
    )


def _tls(given: dict[str, Any]) -> Tls | None:
    certificate, key = given["tls_cert"], given["tls_key"]
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-cert and --tls-key go together", hint="lafs help gateway http")
    try:
        from lafscli.gateway.http import Tls
    except ModuleNotFoundError as error:
        raise _no_libraries() from error
    return Tls(Path(os.path.abspath(certificate)), Path(os.path.abspath(key)))


def _no_libraries() -> UsageError:
    return UsageError("the gateway takes libraries that are not installed", hint="pip install 'lafs[gateway]'")


def _loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
