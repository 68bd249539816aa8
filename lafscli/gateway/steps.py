"""Long work for one client, done by threads in short steps; between two of them it holds none, however slow he is."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import suppress

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lafscli.gateway.asked import PLAIN
from lafscli.gateway.desk import Desk
from lafscli.gateway.files import Outlet, patience_of, transport_of

_PIECE = 16 << 10
_SECONDS = 0.5


class Steps:
    """A generator of bytes that is run by one thread at a time. `stop` is called to make it end when nobody wants more;
    it may be called while the generator runs."""

    def __init__(self, pieces: Generator[bytes, None, None], stop: Callable[[], None]) -> None:
        self._pieces = pieces
        self._stop = stop
        self._running = threading.Lock()
        self._ended = False
        self._left = False

    def some(self) -> bytes:
        """The next bytes, a few of its pieces together; nothing at the end."""
        found = bytearray()
        until = time.monotonic() + _SECONDS
        with self._running:
            while not self._ended and len(found) < _PIECE and (not found or time.monotonic() < until):
                piece = next(self._pieces, None)
                if piece is None:
                    self._ended = True
                else:
                    found += piece
        return bytes(found)

    def end(self) -> None:
        """Nobody wants more. Returns at once; what the generator holds is let go of when its step is over."""
        if not self._ended and not self._left:
            self._left = True
            self._stop()
            threading.Thread(target=self._close, name="lafs-ending", daemon=True).start()

    def _close(self) -> None:
        with self._running, suppress(Exception):
            self._ended = True
            self._pieces.close()


class Stream(StreamingResponse):
    """Steps as an answer, as the client takes them. They end when it goes away, or takes nothing for long."""

    def __init__(self, desk: Desk, steps: Steps) -> None:
        super().__init__(_pulled(desk, steps), media_type=PLAIN)
        self._steps = steps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, Outlet(send, transport_of(scope), patience_of(scope)).send)  # type: ignore[arg-type]
        finally:
            self._steps.end()


async def _pulled(desk: Desk, steps: Steps) -> AsyncIterator[bytes]:
    try:
        while piece := await desk.run_long(steps.some):
            yield piece
    finally:
        steps.end()
