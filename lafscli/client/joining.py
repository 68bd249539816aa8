"""Servers that come and go: adding one, the grid's list of servers, what others need to reach them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from lafscli.client import Client
from lafscli.client.reaching import make_known_hosts, open_files, server_of, ssh_target
from lafscli.config.servers import Address, OptionValue, ServerRecord
from lafscli.config.settings import Config
from lafscli.errors import FileError, FileMissing, ServerError, UsageError
from lafscli.health import members
from lafscli.health.members import Listed
from lafscli.recovery.gridfile import GridFile
from lafscli.storage.enrol import Enrolment, enrol, make_folders
from lafscli.storage.hostkeys import Resolved, own_name, resolve
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
        make_known_hosts(config)
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


def resolved(config: Config) -> dict[str, Resolved]:
    """What this machine's ssh makes of each server's address; folders of this machine have none."""
    found: dict[str, Resolved] = {}
    for name, record in config.servers.items():
        if record.address.host is not None:
            found[name] = resolve(ssh_target(config, record.address.host, record.address, record.options))
    return found


def exported(
    config: Config, resolutions: Mapping[str, Resolved], warn: Callable[[str], None], *, own: bool = False
) -> GridFile:
    """What `grid export` writes: servers under the addresses that this machine's ssh resolves, and the host keys that
    it knows of them. `own`: for the same user elsewhere, so that each address names the login too."""
    servers: dict[str, ServerRecord] = {}
    host_keys: dict[str, list[str]] = {}
    for name, record in config.servers.items():
        servers[name] = record
        found = resolutions.get(name)
        if found is None:
            warn(f"server {name} is a folder of this machine: nothing else reaches it")
            continue
        port = found.port if found.port != 22 else None
        user = found.user or (own_name() if own else None)
        url = str(replace(record.address, host=found.host, port=port, user=user))
        try:
            Address.parse(url)
        except UsageError:
            warn(f"server {name}: the address that your ssh_config says is written as {record.url}")
        else:
            servers[name] = replace(record, url=url)
        if found.through is not None:
            warn(f"server {name} is reached through {found.through}: elsewhere ssh_config must say the same")
        host_keys[name] = found.keys
        if not found.keys:
            warn(f"server {name}: no host key is known here; elsewhere one must be accepted")
    return GridFile(config.encoding, servers, host_keys, members.known_list(config))
