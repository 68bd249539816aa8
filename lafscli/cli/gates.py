"""What the two gateways have in common at their start."""

from __future__ import annotations

import re

from lafscli.cli.frame import Frame

_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")


def may_be_allowed(name: str) -> bool:
    """Whether this can be in the Host header of a request: a name or an address, with a port or without."""
    return _HOST.fullmatch(name) is not None


def warn_without_servers(frame: Frame) -> None:
    """A home must be there, and readable; a gateway may start before there are servers, but that is seldom meant."""
    if not frame.config().servers:
        frame.out.warn("no server is configured: nothing can be read or stored as long as that is so")
        frame.out.hint("lafs server add NAME URL, or lafs grid import FILE; the gateway need not be started again")
