"""serve (CLI.md §7)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import DURATION, SIZE, command
from lafscli.cli.servefiles import CONNECTIONS, HISTORY, IDLE, LOGIN, key_files, parse_address
from lafscli.cli.systemd import raise_open_files, tell_systemd
from lafscli.config import environment
from lafscli.errors import UsageError

if TYPE_CHECKING:
    from lafscli.server.offer import Offer

_MODES = {"listen": "--listen", "stdio": "--stdio", "scrub": "--scrub", "print_setup": "--print-setup"}
_LISTENING = ("host_key", "authorized_keys", "max_connections", "login_timeout")


@command("serve")
@click.option("--root", metavar="DIR", required=True, help="The folder that holds shares/; made if it is not there.")
@click.option("--listen", metavar="HOST:PORT", help="Be an SSH server at this address; port 0 takes a free one.")
@click.option("--stdio", is_flag=True, help="Speak SFTP on stdin and stdout, under the system's sshd.")
@click.option("--scrub", is_flag=True, help="Prove all shares, set bad ones aside, and end.")
@click.option("--print-setup", is_flag=True, help="Print a systemd unit and authorized_keys lines for this machine.")
@click.option("--append-only", is_flag=True, help="Nobody removes anything; replaced versions are kept.")
@click.option("--read-only", is_flag=True, help="Nobody changes anything.")
@click.option("--quota", metavar="SIZE", type=SIZE, help="Bytes that all below DIR may take.")
@click.option(
    "--reserve", metavar="SIZE", type=SIZE, default="0", help="Bytes that stay free on the disk (default: 0)."
)
@click.option(
    "--history",
    metavar="COUNT",
    type=click.IntRange(0, 1000000),
    help=f"Replaced versions that are kept of each share, append-only (default: {HISTORY}).",
)
@click.option("--host-key", metavar="FILE", help="The key that --listen shows; made if it is not there.")
@click.option("--authorized-keys", metavar="FILE", help="The public keys that --listen lets in.")
@click.option(
    "--max-connections",
    metavar="N",
    type=click.IntRange(1, 10000),
    help=f"Logged in at once with --listen (default: {CONNECTIONS}).",
)
@click.option(
    "--login-timeout",
    metavar="DURATION",
    type=DURATION,
    help=f"How long a login may take with --listen (default: {LOGIN}s).",
)
@click.option(
    "--idle-timeout",
    metavar="DURATION",
    type=DURATION,
    default=f"{IDLE // 60}m",
    help=f"End a connection that is silent for so long (default: {IDLE // 60}m).",
)
def serve(frame: Frame, **given: Any) -> None:
    """Serve a folder of shares over SFTP, and keep them from harm.

    Any SFTP client can read; what may be written is what a share is, where a share belongs, and nothing that is there
    is overwritten or removed but by the rules below. Say how: --listen, to be an SSH server; --stdio, to speak on
    stdin and stdout, which the system's sshd connects.
    """
    _check(given)
    root = Path(os.path.abspath(given["root"]))
    if given["print_setup"]:
        from lafscli.cli.servesetup import print_setup

        print_setup(frame, root, given)
    elif given["scrub"]:
        from lafscli.cli.hosting import scrub

        scrub(frame, root)
    else:
        raise_open_files()
        os.umask(0o077)
        offer = _offer(root, given)
        raise SystemExit(_stdio(frame, offer, given) if given["stdio"] else _listen(frame, offer, given))


def _check(given: dict[str, Any]) -> None:
    """Refuse options that do not go together."""
    modes = [flag for name, flag in _MODES.items() if given[name]]
    if given["print_setup"]:
        modes = [flag for flag in modes if flag != "--listen"]  # it may say which address the unit has
    if len(modes) != 1:
        raise UsageError(
            f"{' and '.join(modes)} do not go together" if modes else "say how to serve",
            hint="--listen HOST:PORT is an SSH server, --stdio is for the system's sshd; lafs man serve",
        )
    for name in _LISTENING:
        if given[name] is not None and not (given["listen"] or given["print_setup"]):
            raise UsageError(f"--{name.replace('_', '-')} goes with --listen", hint="lafs help serve")
    for name in ("login_timeout", "idle_timeout"):
        if given[name] == 0:
            raise UsageError(f"--{name.replace('_', '-')} of 0 would end every connection", hint="lafs help serve")
    if given["listen"]:
        parse_address(given["listen"])
    if given["append_only"] and given["read_only"]:
        raise UsageError("--append-only and --read-only do not go together", hint="--read-only refuses more")
    if given["history"] and given["stdio"] and not given["append_only"]:
        raise UsageError("--history goes with --append-only", hint="lafs help serve")


def _offer(root: Path, given: dict[str, Any]) -> Offer:
    import pwd

    from lafscli.server.offer import Offer
    from lafscli.server.policy import Policy

    try:
        home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        home = None
    history = HISTORY if given["history"] is None else given["history"]
    policy = Policy(given["append_only"], given["read_only"], given["quota"], given["reserve"], history)
    return Offer(root, policy, home)


def _stdio(frame: Frame, offer: Offer, given: dict[str, Any]) -> int:
    from lafscli.server.record import Record
    from lafscli.server.stdio import converse

    if os.isatty(0):
        raise UsageError(
            "--stdio speaks SFTP, and stdin is a terminal", hint="it is for sshd: lafs serve --print-setup"
        )
    # sshd gives stderr to the client: the log goes there only when that is wanted
    silent = not frame.settings.log_file and not frame.settings.verbose
    return converse(
        offer,
        Record(_log_file(frame), silent=silent),
        idle=given["idle_timeout"],
        connection=environment.variable("SSH_CONNECTION"),
        proofs=environment.variable("SSH_USER_AUTH"),
    )


def _listen(frame: Frame, offer: Offer, given: dict[str, Any]) -> int:
    from lafscli.server.callers import Limits
    from lafscli.server.record import Record
    from lafscli.server.sshserver import SshServer

    host, port = parse_address(given["listen"])
    host_key, keys = key_files(frame, given)
    limits = Limits(
        connections=given["max_connections"] or CONNECTIONS,
        login=given["login_timeout"] or LOGIN,
        idle=given["idle_timeout"],
    )
    record = Record(_log_file(frame), silent=bool(frame.settings.quiet))
    server = SshServer(offer, limits, record, host_key, keys)

    def ready(addresses: list[str]) -> None:
        shown = {"listening": addresses, "fingerprint": server.fingerprint, "root": str(offer.root)}
        where = " and ".join(addresses)
        frame.out.show(shown, "")
        frame.out.tell(f"serving {offer.root} at {where}, host key {server.fingerprint}")
        tell_systemd()

    return 128 + server.run(host, port, ready)


def _log_file(frame: Frame) -> Path | None:
    return Path(os.path.abspath(frame.settings.log_file)) if frame.settings.log_file else None
