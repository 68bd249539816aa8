"""What serve takes where nothing is said, and where its files are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lafscli.cli.frame import Frame
from lafscli.errors import UsageError

HISTORY = 20
CONNECTIONS = 100
LOGIN = 30
IDLE = 1800


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 address stands in brackets; `*` or nothing is all addresses."""
    host, colon, port = text.rpartition(":")
    if not colon:
        port = ""
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        port = ""
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 65536):
        raise UsageError(f"not an address to listen at: {text!r}", hint="HOST:PORT, such as 0.0.0.0:2222 or [::]:2222")
    return ("" if host == "*" else host), int(port)


def key_files(frame: Frame, given: dict[str, Any]) -> tuple[Path, Path]:
    """The host key and the list of keys that may log in: as named, else in `serve/` of the lafs home."""
    named = [given["host_key"], given["authorized_keys"]]
    folder = frame.home().path / "serve" if None in named else Path()
    usual = ("host_key", "authorized_keys")
    host_key, keys = (
        Path(os.path.abspath(name)) if name is not None else folder / usual[number] for number, name in enumerate(named)
    )
    return host_key, keys
