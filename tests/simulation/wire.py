"""Servers and the connections to them (spec 10 §1.1).

Requests that were sent are carried out in order, one a step, whatever has become of the client; answers come back only
on a connection that still is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lafscli.errors import FileError
from lafscli.storage.packets import FSYNC, HARDLINK, POSIX_RENAME
from lafscli.storage.store import (
    FileStat,
    Link,
    Rename,
    Replace,
)
from tests.simulation.disk import Disk, File, Folder
from tests.simulation.world import Event, Process, World

_EXTENSIONS = {"posix-rename": POSIX_RENAME, "hardlink": HARDLINK, "fsync": FSYNC}


class Host:
    """A server: its disk, what its sftp-server offers, whether it can be reached."""

    def __init__(self, world: World, name: str, lacks: Sequence[str], skew: float) -> None:
        self.world = world
        self.name = name
        self.disk = Disk(lambda: world.now + skew)
        self.offered = frozenset(text for word, text in _EXTENSIONS.items() if word not in lacks)
        self.up = True
        self.connections: list[Connection] = []
        self.moving: Callable[[Connection], None] = lambda connection: None
        """Called when something was sent that moves shares: the moments that count."""

    def __repr__(self) -> str:
        return self.name


class Batch:
    """Requests sent together; `done` when all answers are in, or the connection is none any more."""

    __slots__ = ("answers", "done", "left", "lost")

    def __init__(self, world: World, count: int) -> None:
        self.answers: list[Any] = [None] * count
        self.left = 0
        self.lost = False
        self.done = Event(world)


@dataclass(slots=True)
class Request:
    """One packet. `call` answers a value, or an iterator where a server needs several system calls for it."""

    batch: Batch
    index: int
    call: Callable[[], Any]
    label: object
    several: bool = False


class Connection:
    """A connection, and the server process at its end: an actor while it has something to do."""

    def __init__(self, host: Host, client: Process) -> None:
        self.host = host
        self.client = client
        self.owner: Process | None = None
        self.not_before = 0.0
        self.lost = False
        self.moved = host.world.now
        self.kept: dict[tuple[int, str], File] = {}
        self.midway: tuple[Request, Iterator[None]] | None = None
        self._queue: deque[Request] = deque()
        self._active = False
        host.connections.append(self)

    def __repr__(self) -> str:
        return f"{self.client.name}>{self.host.name}{'*' if self.lost else ''}"

    @property
    def pending(self) -> int:
        return len(self._queue) + (self.midway is not None)

    def send(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.batch.left += 1
        self.moved = self.host.world.now
        self._queue.extend(requests)
        self.go_on()
        for request in requests:
            label = request.label
            if isinstance(label, Replace | Rename | Link) and "shares/" in (label.new[:7], label.old[:7]):
                self.host.moving(self)
                break

    def go_on(self) -> None:
        if self.pending and not self._active:
            self._active = True
            if self.midway is not None:
                self.host.world.press(self)
            else:
                self.host.world.ready(self)

    def step(self) -> None:
        self._active = False
        if self.midway is not None:
            self._on(*self.midway)
        elif self._queue:
            request = self._queue.popleft()
            if request.several:
                self._on(request, request.call())
            else:
                try:
                    value = request.call()
                except FileError as error:
                    value = error
                self._answer(request, value)
        self.go_on()

    def _on(self, request: Request, steps: Iterator[None]) -> None:
        try:
            next(steps)
        except StopIteration:
            self.midway = None
            self._answer(request, None)
        except FileError as error:
            self.midway = None
            self._answer(request, error)
        else:
            self.midway = request, steps

    def _answer(self, request: Request, value: Any) -> None:
        world = self.host.world
        self.moved = world.now
        if world.trace is not None:
            world.note(repr(self), _told(request.label), "->", _told(value))
        batch = request.batch
        if request.index >= 0:
            batch.answers[request.index] = value
        batch.left -= 1
        if not batch.left and not batch.lost:
            batch.done.set()

    def cut(self, keep: int | None, delay: float) -> None:
        """The client hears nothing more. Of what is on its way, all but the first `keep` requests are lost (None:
        nothing is), and the server comes to the rest after `delay` seconds."""
        if self.lost:
            return
        self.lost = True
        world = self.host.world
        world.note(repr(self), f"cut, {self.pending} on their way, {keep} of them come after {delay:.1f} s")
        batches = [request.batch for request in self._queue]
        if self.midway is not None:
            batches.insert(0, self.midway[0].batch)
        if keep is not None:
            if not keep:
                self.midway = None
            while len(self._queue) > keep:
                self._queue.pop()
        self.not_before = world.now + delay
        for batch in batches:
            if not batch.lost:
                batch.lost = True
                batch.done.set()


def _told(value: object) -> str:
    if isinstance(value, FileError):
        return f"{type(value).__name__}"
    if isinstance(value, bytes | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, list):
        return str([entry.name for entry in value])
    if isinstance(value, FileStat):
        return f"{value.kind} {value.size} @{value.mtime}"
    if isinstance(value, File | Folder):
        return "opened"
    return "ok" if value is None else str(value)
