"""Adding a server, for the commands that do: their options, and the way from them to its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from lafscli.cli.frame import Frame
from lafscli.config.servers import Address, ServerRecord, parse_options
from lafscli.config.settings import Config
from lafscli.errors import UsageError
from lafscli.primitives.encoding import b32decode


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
) -> ServerRecord:
    """The record of a server that is to be added, after it was connected and tried; the configuration is as it was."""
    from lafscli.client import enrol_server
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


def _seed(text: str) -> bytes:
    try:
        return b32decode(text)
    except ValueError:
        raise UsageError(f"not a permutation seed: {text!r}", hint="base32, as in a Tahoe node's file") from None
