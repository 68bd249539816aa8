"""Adding a server, for the commands that do: their options, and the way from them to its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.config.servers import Address, ServerRecord, parse_options
from lafscli.config.settings import Config
from lafscli.errors import UsageError
from lafscli.primitives.encoding import b32decode

if TYPE_CHECKING:
    from lafscli.client import Client
    from lafscli.health.members import Listed
    from lafscli.storage.membership import Membership


def address_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that adds a server; `enrolled` takes what they gave."""
    for decorate in (
        click.option("--accept-new", is_flag=True, help="Accept and record a host key that is not known yet."),
        click.option(
            "--option", "options", multiple=True, metavar="KEY=VALUE", help="How to reach it; may be repeated."
        ),
        click.option("--permutation-seed", metavar="SEED", help="Its seed: base32, as in Tahoe's file."),
        click.option("--node-id", metavar="ID", help="Its id: base32, or 40 hex digits."),
        click.option("--site", metavar="LABEL", help="Where it stands; shares are spread over sites."),
    ):
        function = decorate(function)
    return function


def enrolled(
    frame: Frame,
    config: Config,
    name: str,
    url: str,
    *,
    readonly: bool = False,
    site: str | None,
    node_id: str | None,
    permutation_seed: str | None,
    options: Sequence[str],
    accept_new: bool,
) -> tuple[ServerRecord, Membership | None]:
    """The record of a server that is to be added, after it was connected and tried, and the list of servers that it
    has; the configuration is as it was."""
    from lafscli.client.joining import enrol_server
    from lafscli.storage.enrol import parse_node_id

    Address.parse(url)
    return enrol_server(
        config,
        name,
        url,
        readonly=readonly,
        site=site,
        node_id=None if node_id is None else parse_node_id(node_id),
        seed=None if permutation_seed is None else _seed(permutation_seed),
        options=parse_options(options),
        accept_new=accept_new,
        timeout=frame.settings.timeout,
        warn=frame.out.warn,
    )


def connecting(frame: Frame) -> Callable[[Config], Client]:
    """Makes clients of configurations, with what the command line says."""
    from lafscli.client import Client

    settings = frame.settings
    return lambda config: Client(config, limit_rate=settings.limit_rate, timeout=settings.timeout)


def tell(frame: Frame, config: Config, listed: Listed) -> None:
    """What the user should know of the list after a change. `config` is the one after it."""
    from lafscli.client.reaching import server_of
    from lafscli.health.members import not_configured

    for warning in listed.warnings:
        frame.out.warn(warning)
    servers = [server_of(record) for record in config.servers.values()]
    missing = [] if listed.membership is None else not_configured(listed.membership, servers)
    if missing:
        frame.out.warn(
            f"{len(missing)} servers of the grid are not configured here, and nothing mutable is written before they"
            f" are: {', '.join(missing)}"
        )
        frame.out.hint("lafs grid import FILE, with what lafs grid export has written in a home that has them")


def forgotten(frame: Frame, config: Config, record: ServerRecord, *, force: bool) -> None:
    """Take a server off the grid's list, and out of the configuration."""
    from lafscli.client.joining import left
    from lafscli.health.members import changing_lists, keep_list

    with changing_lists(config) as config:
        listed = left(config, record, connecting(frame), force=force)

        def change(table: dict[str, Any]) -> None:
            table.get("servers", {}).pop(record.name, None)
            keep_list(table, listed.membership if table.get("servers") else None)

        config = config.edit(change)
    frame.connections.forget()
    tell(frame, config, listed)


def grid_facts(membership: Membership | None) -> dict[str, Any]:
    """The list of the grid's servers, as JSON tells it."""
    if membership is None:
        return {}
    return {"grid": membership.grid.decode(), "epoch": membership.epoch, "members": len(membership.members)}


def _seed(text: str) -> bytes:
    try:
        return b32decode(text)
    except ValueError:
        raise UsageError(f"not a permutation seed: {text!r}", hint="base32, as in a Tahoe node's file") from None
