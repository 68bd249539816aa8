"""From a server's record to its files: the folder of this machine, or a connection of the user's ssh."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from lafscli.config import environment
from lafscli.config.quantities import parse_duration, parse_size
from lafscli.config.servers import Address, OptionValue, ServerRecord
from lafscli.config.settings import Config, parse_persist
from lafscli.errors import NotFound, UsageError
from lafscli.storage.rate import RateLimit
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.sshcommand import SshTarget
from lafscli.storage.store import Files, Server
from lafscli.storage.streams import open_stream

DEFAULT_TIMEOUT = "60s"
DEFAULT_CONNECT_TIMEOUT = "15s"


def server_of(record: ServerRecord) -> Server:
    """A server as the rooms below know it."""
    mutable = record.options.get("mutable") != "no"
    writable = not record.readonly
    return Server(record.name, record.node_id, record.seed, record.site, writable, record.features, mutable)


def record_of(config: Config, name: str) -> ServerRecord:
    """The record of a server; NotFound when there is none of that name."""
    if name not in config.servers:
        known = ", ".join(config.servers) or "none"
        raise NotFound(f"no server is called {name!r}", hint=f"there are: {known}")
    return config.servers[name]


def open_files(
    config: Config | None,
    name: str,
    address: Address,
    options: Mapping[str, OptionValue],
    *,
    timeout: int | None = None,
    rate: RateLimit | None = None,
    accept_new: bool = False,
) -> Files:
    """Files below the folder of an address. `config` gives the defaults; a folder of this machine needs none."""

    if address.host is None:
        from lafscli.storage.local import LocalFiles

        return LocalFiles(Path(address.path), name=name, sync_folders=config is None or config.durable)
    assert config is not None
    target = ssh_target(config, address.host, address, options, timeout=timeout, accept_new=accept_new)
    limit = options.get("limit-rate")
    if rate is None and isinstance(limit, str):
        rate = RateLimit(parse_size(limit))
    return SftpFiles(
        lambda: open_stream(target),
        address.path if address.path.startswith("/") else "~" if address.path == "." else f"~/{address.path}",
        name=name,
        timeout=target.timeout,
        connect_timeout=target.connect_timeout,
        rate=rate,
    )


def make_known_hosts(config: Config) -> None:
    """Make the home's file for host keys that ssh is to add to: ssh itself would make it for all to read."""
    with contextlib.suppress(OSError):
        os.close(os.open(config.home.known_hosts, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def ssh_target(
    config: Config,
    host: str,
    address: Address,
    options: Mapping[str, OptionValue],
    *,
    timeout: int | None = None,
    accept_new: bool = False,
) -> SshTarget:
    """How ssh gets to `host`: the server's options, with the defaults of the configuration. A time-out that is asked
    for on the command line counts for connecting too where it is shorter."""

    def text(key: str) -> str | None:
        value = options.get(key)
        return value if isinstance(value, str) else None

    def path(key: str) -> Path | None:
        value = text(key)
        return None if value is None else Path(value)

    persist = options.get("persist")
    extra = options.get("ssh-option", [])
    patience = timeout or parse_duration(text("timeout") or DEFAULT_TIMEOUT)
    connecting = parse_duration(text("connect-timeout") or DEFAULT_CONNECT_TIMEOUT)
    run_dir: Path | None = None
    with contextlib.suppress(UsageError, OSError):  # no folder that is surely ours: no shared connections
        run_dir = config.home.runtime()
    return SshTarget(
        host=host,
        port=address.port,
        user=address.user,
        transport=text("transport"),
        ssh_command=environment.variable("LAFS_SSH") or text("ssh-command") or "ssh",
        ssh_config=path("ssh-config"),
        identity=path("identity"),
        known_hosts=path("known-hosts"),
        ssh_options=(extra,) if isinstance(extra, str) else tuple(extra),
        connect_timeout=connecting if timeout is None else min(connecting, timeout),
        timeout=patience,
        persist=(config.persist if persist is None else parse_persist(persist)) or 0,
        home_known_hosts=config.home.known_hosts,
        run_dir=run_dir,
        accept_new=accept_new,
    )
