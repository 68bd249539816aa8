"""One SFTP conversation: requests off a stream, answers onto it, strictly in order, until the client is gone.

Bytes are read into one buffer and written from another, and that is all the memory a client can make us use: while
it does not take its answers, none of its requests is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from lafscli.server.backend import BAD_MESSAGE, Backend
from lafscli.server.requests import OFFERED, Requests, described
from lafscli.server.streams import Stream
from lafscli.server.wire import MAX_PACKET, Answers, Body, Malformed
from lafscli.storage import packets
from lafscli.storage.packets import HEAD

TICK = 1.0
"""Seconds between two calls of the backend's `tick`."""
_BUFFER = 512 * 1024
_FEW = 64 * 1024
"""With less room than that in the buffer, what is in it moves to its beginning."""
_PIECE = 256 * 1024
"""So much is sent between two looks at the clock."""


def _unheard(_line: str) -> None:
    """A note that nobody wants."""


def serve(stream: Stream, backend: Backend, *, idle: float | None, note: Callable[[str], None] = _unheard) -> None:
    """Answer a client until it is gone, or says nothing for `idle` seconds. At the end, whatever it is, files,
    backend and stream are closed. `note` gets a line for people of what went wrong."""

    def careful(line: str) -> None:
        with suppress(Exception):
            note(line)

    def let_go(close: Callable[[], None]) -> None:
        try:
            close()
        except Exception as error:
            careful(f"failed at the end of a connection: {described(error)}")

    with ExitStack() as ending:
        ending.callback(let_go, stream.close)
        ending.callback(let_go, backend.close)
        answers = Answers()
        requests = Requests(backend, answers, careful)
        ending.callback(requests.close)
        _Conversation(stream, backend, requests, answers, idle, careful).run()


class _Conversation:
    def __init__(
        self,
        stream: Stream,
        backend: Backend,
        requests: Requests,
        answers: Answers,
        idle: float | None,
        note: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._backend = backend
        self._requests = requests
        self._answers = answers
        self._idle = idle
        self._note = note
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._greeted = False
        self._next_tick = time.monotonic() + TICK
        self._ticks_fail = False

    def run(self) -> None:
        """Until the end of the stream, a breach of the protocol, or silence."""
        try:
            while self._receive():
                goes_on = self._answer_all()
                self._send()
                if not goes_on:
                    break
        except TimeoutError:
            self._note("gave up: the client does not take its answers")
        except OSError:
            pass  # only the stream raises one here: the client is gone
        except Exception as error:
            self._note(f"failed at a conversation: {described(error)}")

    # ---- in

    def _receive(self) -> bool:
        """Wait for bytes; false at their end, and after too long a silence."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._end < _FEW or len(self._buffer) - self._start < MAX_PACKET + 4:
            size = self._end - self._start
            self._view[:size] = self._view[self._start : self._end]
            self._start, self._end = 0, size
        room = self._view[self._end :]
        began = time.monotonic()
        while True:
            now = self._tick()
            wait = max(self._next_tick - now, 0)
            if self._idle is not None:
                wait = min(wait, max(began + self._idle - now, 0))
            count = self._stream.receive_into(room, wait)
            if count is not None:
                self._end += count
                return count > 0
            if self._idle is not None and time.monotonic() >= began + self._idle:
                self._note(f"gave up: nothing came for {self._idle:g} seconds")
                return False

    def _answer_all(self) -> bool:
        """Answer every request that is wholly there; false if the conversation can't go on."""
        while self._end - self._start >= HEAD.size:
            length, kind, number = HEAD.unpack_from(self._buffer, self._start)
            body = self._start + HEAD.size
            end = self._start + 4 + length
            if not HEAD.size - 4 <= length <= MAX_PACKET:
                return self._broken(number, f"a packet of {length} bytes")
            if end > self._end:
                return True
            if self._answers.enough:
                self._send()
            if self._greeted and kind != packets.INIT:
                self._requests.answer(kind, number, self._view[body:end])
            elif self._greeted or kind != packets.INIT:
                return self._broken(number, "INIT comes first, and once")
            elif not self._greet(number, self._view[body:end]):
                return False
            self._start = end
            self._tick()
        return True

    def _greet(self, version: int, body: memoryview) -> bool:
        try:
            Body(body).pairs()
        except Malformed as error:
            return self._broken(version, str(error))
        if version < 3:
            self._note(f"gave up: the client speaks version {version}")
            return False
        self._greeted = True
        self._answers.version((*OFFERED, *self._backend.extensions))
        return True

    def _broken(self, number: int, why: str) -> bool:
        """Answer as far as that can be, and go on with nothing: where the next packet begins, nobody knows."""
        if self._answers.enough:
            self._send()
        self._answers.status(number, BAD_MESSAGE, why)
        self._note(f"gave up: the client breaks the protocol: {why}")
        return False

    # ---- out

    def _send(self) -> None:
        answers = self._answers.take()
        for start in range(0, len(answers), _PIECE):
            self._stream.send([answers[start : start + _PIECE]])
            self._tick()

    # ---- time

    def _tick(self) -> float:
        """Tell the backend of the time, once a second; what time it is."""
        now = time.monotonic()
        if now >= self._next_tick:
            try:
                self._backend.tick()
                self._ticks_fail = False
            except Exception as error:
                if not self._ticks_fail:
                    self._note(f"failed at keeping what is held fresh: {described(error)}")
                self._ticks_fail = True
            self._next_tick = time.monotonic() + TICK
        return now
