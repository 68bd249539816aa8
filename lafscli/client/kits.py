"""Recovery kits of the servers: left on all of them, found on one."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from lafscli.client import Client
from lafscli.client.reaching import make_known_hosts, open_files
from lafscli.config.home import Home
from lafscli.config.servers import Address, OptionValue
from lafscli.config.settings import Config
from lafscli.errors import HostKeyUnknown, LafsError, NotFound, ServerError, UsageError
from lafscli.recovery.sealed import MOST_BYTES
from lafscli.storage.enrol import read_identity
from lafscli.storage.kits import Found, fetch_kit, kits, leave_kit
from lafscli.storage.store import ShareStore


def leave_on_servers(client: Client, home: str, data: bytes) -> dict[str, Found | LafsError]:
    """Put a sealed kit on every server that takes shares: where it lies now, or what went wrong, by server."""

    def leave(store: ShareStore) -> Found:
        files = client.files(client.record(store.server.name))
        try:
            return leave_kit(files, home, data, os.urandom, sync=client.config.durable)
        finally:
            files.close()

    stores = [store for store in client.grid.stores if store.server.writable]
    answers = {answer.store.server.name: answer.value for answer in client.grid.ask(leave, stores)}
    return {store.server.name: answers[store.server.name] for store in stores}


@dataclass(frozen=True, slots=True)
class KitAtServer:
    """A kit that was read from a server; `node_id`: whose folder it is, where that is known."""

    found: Found
    data: bytes
    node_id: bytes | None


def read_from_server(
    home: Home,
    url: str,
    options: Mapping[str, OptionValue],
    *,
    kit: str | None = None,
    accept_new: bool = False,
    timeout: int | None = None,
) -> KitAtServer:
    """Read the kit that lies at a URL, the latest where one home left several; `kit` is the name of the one to take.
    Nothing is written there. NotFound where there is none; UsageError, naming them, where several homes left theirs."""
    address = Address.parse(url)
    config = Config.load(home) if home.config_file.exists() else Config.of(home, {})
    if accept_new and address.host is not None:
        home.make()
        make_known_hosts(config)
    name = address.host or address.path
    files = open_files(config, name, address, options, timeout=timeout, accept_new=accept_new)
    try:
        files.connect()
        chosen = _chosen(kits(files), kit, url)
        if chosen.size > MOST_BYTES:
            raise ServerError(f"its recovery kit {chosen.name} is longer than {MOST_BYTES >> 20} MiB")
        data, node_id = fetch_kit(files, chosen), None
        with suppress(ServerError):  # a server.toml that can't be used is no reason to do without the kit
            identity = read_identity(files)
            node_id = None if identity is None else identity.node_id
    except HostKeyUnknown as error:
        if error.hint is not None:
            error.hint = error.hint.replace("lafs server add …", "lafs recovery import …")
        raise
    except ServerError as error:
        error.server = error.server or name
        raise
    finally:
        files.close()
    return KitAtServer(chosen, data, node_id)


def _chosen(found: Sequence[Found], name: str | None, url: str) -> Found:
    if not found:
        raise NotFound(f"no recovery kit lies at {url}", hint="lafs recovery export --on-servers leaves one there")
    if name is not None:
        wanted = next((kit for kit in found if name in (kit.name, f"{kit.name}.kit", kit.home)), None)
        if wanted is None:
            raise NotFound(f"no recovery kit {name} lies there", hint=f"there are: {_listed(found)}")
        return wanted
    latest = {kit.home: kit for kit in reversed(found)}
    if len(latest) > 1:
        raise UsageError(
            f"recovery kits of {len(latest)} homes lie there: {_listed(list(latest.values()))}",
            hint="say which: --kit NAME; it opens with the passphrase of its home",
        )
    return found[0]


def _listed(found: Sequence[Found]) -> str:
    latest = sorted(found, key=lambda kit: -kit.mtime)
    return ", ".join(f"{kit.name} ({_day(kit.mtime)})" for kit in latest[:_MOST_LISTED]) + (
        f" and {len(latest) - _MOST_LISTED} more" if len(latest) > _MOST_LISTED else ""
    )


_MOST_LISTED = 20


def _day(seconds: int) -> str:
    try:
        return time.strftime("%Y-%m-%d", time.gmtime(seconds))
    except (OSError, OverflowError, ValueError):
        return "no date"
