"""TCP proxies that delay every byte by a fixed time and count it: `python -m tests.bench.delay SECONDS PORT…`.

Each PORT gets a proxy in front of it. The first line on stdout is the proxies' ports; when stdin ends, a second line
tells the bytes that went to the ports, the bytes that came back, and the round trips of each port. Bandwidth is not
limited.

A round trip: what a client sends comes one after all that it has received by then. With a delay that is longer than
either side takes to answer, that is how often the client had to wait for what it needed to go on.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_PIECE = 256 * 1024
_MOST = 32 << 20
"""Bytes on their way in one direction of one connection; more than any window of ssh."""


class _Connection:
    """The last round trip of which either end has received something."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.seen = [0, 0]
        """By the server, and by the client: as the directions of its ways."""

    def trip(self, direction: int) -> int:
        """Of what is sent now in this direction."""
        return self.seen[1] + 1 if direction == 0 else self.seen[0]


class _Way:
    """One direction of a connection: what was read from `source`, with the time when it is due at `target`, and its
    round trip."""

    def __init__(self, source: socket.socket, target: socket.socket, direction: int, connection: _Connection) -> None:
        self.source = source
        self.target = target
        self.direction = direction
        self.connection = connection
        self.waiting: deque[tuple[float, memoryview, int]] = deque()
        self.held = 0
        self.reads = True
        self.blocked = False
        self.over = False


class _Proxies:
    def __init__(self, delay: float, ports: Sequence[int]) -> None:
        self.counts = [0, 0]
        self.trips = dict.fromkeys(ports, 0)
        self._delay = delay
        self._poll = select.epoll()
        self._listeners: dict[int, tuple[socket.socket, int]] = {}
        self._from: dict[int, _Way] = {}
        self._to: dict[int, _Way] = {}
        self._watched: dict[int, int] = {}
        self.ports = [self._listen(port) for port in ports]

    def _listen(self, port: int) -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listeners[listener.fileno()] = listener, port
        self._poll.register(listener.fileno(), select.EPOLLIN)
        return int(listener.getsockname()[1])

    def run(self) -> None:
        """Until stdin ends."""
        self._poll.register(0, select.EPOLLIN)
        while True:
            touched: set[_Way] = set()
            for number, events in self._poll.poll(self._pause()):
                if number == 0:
                    return
                if number in self._listeners:
                    self._accept(*self._listeners[number])
                    continue
                if events & ~select.EPOLLOUT and number in self._from:
                    self._read(self._from[number])
                    touched.add(self._from[number])
                if events & ~select.EPOLLIN and number in self._to:
                    self._to[number].blocked = False
                    touched.add(self._to[number])
            now = time.monotonic()
            for way in list(self._from.values()):
                if way.source.fileno() < 0:  # closed with its other direction, just now
                    continue
                if way in touched or (way.waiting and way.waiting[0][0] <= now and not way.blocked):
                    self._write(way, now)

    def _pause(self) -> float | None:
        due = min((way.waiting[0][0] for way in self._from.values() if way.waiting and not way.blocked), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    def _accept(self, listener: socket.socket, port: int) -> None:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", port))
        connection = _Connection(port)
        for direction, (source, target) in enumerate(((near, far), (far, near))):
            source.setblocking(False)
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._from[source.fileno()] = self._to[target.fileno()] = _Way(source, target, direction, connection)
            self._poll.register(source.fileno(), select.EPOLLIN)
            self._watched[source.fileno()] = select.EPOLLIN

    def _read(self, way: _Way) -> None:
        if not way.reads:
            return
        try:
            data = way.source.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        way.held += len(data)
        way.reads = bool(data)
        trip = way.connection.trip(way.direction)
        way.waiting.append((time.monotonic() + self._delay, memoryview(data), trip))

    def _write(self, way: _Way, now: float) -> None:
        try:
            while way.waiting and way.waiting[0][0] <= now and not way.blocked:
                due, data, trip = way.waiting.popleft()
                if not data:
                    way.over = True
                    way.target.shutdown(socket.SHUT_WR)
                    break
                count = way.target.send(data)
                self.counts[way.direction] += count
                way.held -= count
                self._note(way, trip)
                if count < len(data):
                    way.waiting.appendleft((due, data[count:], trip))
        except BlockingIOError:
            way.waiting.appendleft((due, data, trip))
            way.blocked = True
        except OSError:
            way.over = True
        back = self._to[way.source.fileno()]
        if way.over and back.over:
            self._close(way)
        else:
            self._watch(way.source)
            self._watch(way.target)

    def _note(self, way: _Way, trip: int) -> None:
        connection = way.connection
        connection.seen[way.direction] = max(connection.seen[way.direction], trip)
        if way.direction == 1:
            self.trips[connection.port] = max(self.trips[connection.port], trip)

    def _watch(self, end: socket.socket) -> None:
        """Read what there is room for, and learn when a full socket takes more."""
        number = end.fileno()
        out, into = self._from[number], self._to[number]
        events = select.EPOLLIN if out.reads and out.held < _MOST else 0
        events |= select.EPOLLOUT if into.blocked else 0
        if events != self._watched[number]:
            if not self._watched[number]:
                self._poll.register(number, events)
            elif not events:
                self._poll.unregister(number)  # a hang-up would be told again and again
            else:
                self._poll.modify(number, events)
            self._watched[number] = events

    def _close(self, way: _Way) -> None:
        for end in (way.source, way.target):
            number = end.fileno()
            del self._from[number], self._to[number]
            if self._watched.pop(number):
                self._poll.unregister(number)
            with suppress(OSError):
                end.close()


class Delayed:
    """Proxies that run: their `ports`; after the block the bytes `sent` to the servers and `received` from them, and
    the round `trips` of each."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.sent = 0
        self.received = 0
        self.trips: list[int] = []


@contextmanager
def delayed(seconds: float, ports: Sequence[int]) -> Iterator[Delayed]:
    """Proxies in a process of their own, each direction `seconds` later."""
    command = [sys.executable, "-m", "tests.bench.delay", str(seconds), *map(str, ports)]
    here = Path(__file__).parent.parent.parent
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=here)
    assert process.stdin is not None
    assert process.stdout is not None
    made = Delayed(json.loads(process.stdout.readline()))
    try:
        yield made
    finally:
        process.stdin.close()
        made.sent, made.received, made.trips = json.loads(process.stdout.readline())
        process.stdout.close()
        process.wait()


def main() -> None:
    """Run the proxies of the command line."""
    proxies = _Proxies(float(sys.argv[1]), [int(port) for port in sys.argv[2:]])
    print(json.dumps(proxies.ports), flush=True)
    proxies.run()
    print(json.dumps([*proxies.counts, list(proxies.trips.values())]), flush=True)


if __name__ == "__main__":
    main()
