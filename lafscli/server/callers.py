"""One who has called: a TCP connection, as the listener and its process know it; and how many there may be."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from lafscli.server.keys import Key


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once. `login`, `idle`: seconds until a connection without a login, or without a word, ends."""

    connections: int = 100
    login: float = 30
    idle: float = 1800
    logging_in: int = 32
    per_address: int = 16
    sessions: int = 10


@dataclass(slots=True, eq=False)
class Caller:
    """One TCP connection. Without a process it waits for its turn to log in."""

    number: int
    peer: str
    source: str
    arrived: float
    taken: socket.socket | None
    control: socket.socket | None = None
    pid: int = 0
    key: Key | None = None
    sessions: set[int] = field(default_factory=set)
    heard: bytes = b""
    descriptors: list[int] = field(default_factory=list)
