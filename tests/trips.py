"""Round trips, counted exactly: how many requests in a row each had to wait for the answer to one before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lafscli.storage import packets
from lafscli.storage.channel import Channel, Handler
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.store import Buffer


class Trips:
    """`count` since the block began. A request that follows from an answer comes one trip after that one's request;
    any other comes after all answers that have been taken by then. Nobody waits for a file to be closed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._taken = 0
        self._before = 0
        """What had been taken when the last call began."""
        self._within: int | None = None
        self._handles: dict[bytes, int] = {}
        self.count = 0
        self.requests = 0

    def begin(self) -> None:
        Channel.begin(self._channel)
        self._before = self._taken

    def request(self, kind: int, body: bytes, handler: Handler, arg: Any) -> None:
        self.requests += 1
        if kind == packets.CLOSE:
            Channel.request(self._channel, kind, body, handler, arg)
            return
        after = self._taken if self._within is None else self._within
        if kind == packets.READ:
            # It goes out a moment after its handle has come, whatever came together with that.
            after = max(self._before, self._handles.get(packets.take_string(memoryview(body), 0)[0], 0))
        Channel.request(self._channel, kind, body, self._noting(handler, after + 1), arg)

    def request_write(
        self, handle: bytes, offset: int, parts: Sequence[Buffer], size: int, handler: Handler, arg: Any
    ) -> None:
        self.requests += 1
        after = self._taken if self._within is None else self._within
        Channel.request_write(self._channel, handle, offset, parts, size, self._noting(handler, after + 1), arg)

    def _noting(self, handler: Handler, trip: int) -> Handler:
        self.count = max(self.count, trip)

        def taken(arg: Any, kind: int, body: memoryview) -> None:
            if kind == packets.HANDLE:
                self._handles[packets.take_string(body, 0)[0]] = trip
            self._within = trip
            try:
                handler(arg, kind, body)
            finally:
                self._within = None
            self._taken = max(self._taken, trip)

        return taken


@contextmanager
def trips(files: SftpFiles) -> Iterator[Trips]:
    """Count those of a connection that is there."""
    files.connect()
    channel = files._live[0][0]
    counting = Trips(channel)
    patches = {"begin": counting.begin, "request": counting.request, "request_write": counting.request_write}
    vars(channel).update(patches)
    try:
        yield counting
    finally:
        for name in patches:
            del vars(channel)[name]
