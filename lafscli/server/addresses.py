"""Addresses of TCP: sockets that listen at them, how they are written, whom they count for."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any

from lafscli.errors import LafsError

_BACKLOG = 128


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on all addresses of a host, on one port; 0 takes one that is free. LafsError if none can."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise LafsError(f"no address to listen on: {host}: {said}") from error
    made: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            if port == 0 and made:
                address = (address[0], made[0].getsockname()[1], *address[2:])
            made.append(socket.socket(family, socket.SOCK_STREAM))
            made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made[-1].bind(address)
            made[-1].listen(_BACKLOG)
    except OSError as error:
        for each in made:
            each.close()
        raise LafsError(f"cannot listen on {named((host, port))}: {error.strerror}") from error
    return made


def named(address: Sequence[Any]) -> str:
    """An address as people write it: `192.0.2.7:40000`, `[2001:db8::7]:40000`."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def source(address: Sequence[Any]) -> str:
    """Whom an address counts for: itself, or of IPv6 the 64 bits that one subscriber has."""
    try:
        found = ipaddress.ip_address(str(address[0]).partition("%")[0])
    except ValueError:
        return str(address[0])
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))
    return str(found)
