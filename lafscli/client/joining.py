"""Servers that come and go: adding one, the grid's list of servers, what others need to reach them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from lafscli.client import Client
from lafscli.client.reaching import open_files, server_of, ssh_target
from lafscli.config.servers import Address, OptionValue, ServerRecord
from lafscli.config.settings import Config
from lafscli.errors import FileError, FileMissing, ServerError, UsageError
from lafscli.health import members
from lafscli.health.members import Listed
from lafscli.recovery import GridFile
from lafscli.storage.enrol import Enrolment, enrol, make_folders
from lafscli.storage.hostkeys import resolve
from lafscli.storage.membership import Membership


def enrol_server(
    config: Config | None,
    name: str,
    url: str,
    *,
    readonly: bool = False,
    site: str | None = None,
    node_id: bytes | None = None,
    seed: bytes | None = None,
    options: Mapping[str, OptionValue] | None = None,
    accept_new: bool = False,
    timeout: int | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> tuple[ServerRecord, Membership | None]:
    """Connect to a server that is to be added, find out or tell it who it is, and try what it can do: its record, and
    the list of a grid's servers that it has already.

    Its folder is made, with those that it stands in. Raises what refuses it: ServerError, HostKeyUnknown.
    """
    address, given = Address.parse(url), options or {}
    if accept_new and config is not None:
        with suppress(OSError):  # ssh, which adds the key, would make the file for all to read
            os.close(os.open(config.home.known_hosts, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    files = open_files(config, name, address, given, timeout=timeout, accept_new=accept_new)

    def ask() -> Enrolment:
        mutable = given.get("mutable") != "no"
        return enrol(files, node_id=node_id, seed=seed, readonly=readonly, random_bytes=os.urandom, mutable=mutable)

    try:
        try:
            found = ask()
        except FileMissing:
            if readonly:
                raise
            _make(config, name, address, given, timeout)
            found = ask()
    except ServerError as error:
        error.server = error.server or name
        raise
    finally:
        files.close()
    for warning in found.warnings:
        warn(f"server {name}: {warning}")
    record = ServerRecord(name, url, found.node_id, found.seed, readonly, site, given, found.features)
    return record, found.membership


def _make(
    config: Config | None, name: str, address: Address, options: Mapping[str, OptionValue], timeout: int | None
) -> None:
    """Make the folder of an address, with those that it stands in: from `/`, or from the login folder."""
    absolute = address.path.startswith("/")
    above = replace(address, path="/" if absolute else ".")
    files = open_files(config, name, above, options, timeout=timeout)
    try:
        files.connect()
        make_folders(files, address.path.strip("/"))
    except FileError as error:
        folder = address.path if absolute else f"~/{address.path}"
        raise ServerError(f"the folder {folder} can't be made ({error.message})", server=name) from error
    finally:
        files.close()


def entered(
    config: Config,
    record: ServerRecord,
    theirs: Membership | None,
    client: Callable[[Config], Client],
    *,
    lost: ServerRecord | None = None,
) -> Listed:
    """Have a server that is to be added take part in the grid (members.py). `client` connects a configuration."""
    joined = client(replace(config, servers={**config.servers, record.name: record}))
    try:
        known, n = members.known_list(config), config.encoding.n
        return members.entered(joined.grid, known, server_of(record), theirs, joined.changing(lost=lost), n=n)
    finally:
        joined.close()


def left(config: Config, record: ServerRecord, client: Callable[[Config], Client], *, force: bool) -> Listed:
    """Have a server leave the grid's list."""
    leaving = client(config)
    try:
        known, n = members.known_list(config), config.encoding.n
        return members.left(leaving.grid, known, server_of(record), leaving.changing(force=force), n=n)
    finally:
        leaving.close()


def exported(config: Config, warn: Callable[[str], None]) -> GridFile:
    """What `grid export` writes: servers under the addresses that this machine's ssh resolves, and the host keys that
    it knows of them."""
    servers: dict[str, ServerRecord] = {}
    host_keys: dict[str, list[str]] = {}
    for name, record in config.servers.items():
        servers[name] = record
        if record.address.host is None:
            warn(f"server {name} is a folder of this machine: others can't reach it")
            continue
        found = resolve(ssh_target(config, record.address.host, record.address, record.options))
        port = found.port if found.port != 22 else None
        url = str(replace(record.address, host=found.host, port=port, user=found.user))
        try:
            Address.parse(url)
        except UsageError:
            warn(f"server {name}: the address that your ssh_config says is written as {record.url}")
        else:
            servers[name] = replace(record, url=url)
        if found.through is not None:
            warn(f"server {name} is reached through {found.through}: others need the same in their ssh_config")
        host_keys[name] = found.keys
        if not found.keys:
            warn(f"server {name}: no host key is known here; others must accept one themselves")
    return GridFile(config.encoding, servers, host_keys, members.known_list(config))
