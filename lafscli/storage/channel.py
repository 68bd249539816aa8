"""One SFTP conversation on a byte stream: many requests under way, each answer matched by its id.

There are no threads here. Whoever waits for an answer moves the bytes (`step`): writes what the stream takes, reads
what is there, hands every answer to the handler that was given with its request. Handlers may ask for more, but
never wait. Bulk data is not copied: WRITE data goes out of the caller's buffers, READ data goes straight into them.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, NoReturn, Protocol

from lafscli.errors import LafsError, ServerUnreachable
from lafscli.storage import packets
from lafscli.storage.packets import HEAD, ProtocolViolation, escaped
from lafscli.storage.store import Buffer

Handler = Callable[[Any, int, memoryview], None]
"""Takes what was given with the request, the type of the answer and its body; the body lives until it returns."""

SAFE_CHUNK = 32 * 1024
"""Bytes a READ or WRITE that every server takes (draft-ietf-secsh-filexfer-02 §3)."""
MAX_CHUNK = 255 * 1024
SAFE_HANDLES = 64
MAX_HANDLES = 256
WINDOW = 2 * 1024 * 1024
"""Bytes of READs, and of WRITEs, under way at most; ssh's own window is as large."""
MAX_REQUESTS = 256
MAX_PACKET = 64 * 1024
MAX_PACKETS = {packets.NAME: 1024 * 1024, packets.EXTENDED_REPLY: 257 * 1024}
_RECEIVE = 64 * 1024
# While bulk data comes, this much at most is read behind it, to be copied once more.
# So much of an answer is a sign of life before it is all there: a server may be slow, but not drip.
_SPILL = 4096
_IOVECS = min(os.sysconf("SC_IOV_MAX"), 1024)
# VERSION has no id; in its place stands the version. Our ids start higher.
_VERSION_ID = 3


class Stream(Protocol):
    """A byte stream to an SFTP server. Both descriptors are non-blocking; they may be the same one."""

    read_fd: int
    write_fd: int

    def explain(self) -> LafsError:
        """After the stream ended or failed: why, as ServerUnreachable or HostKeyUnknown. Waits a moment at most."""

    def close(self) -> None:
        """End it, and whatever process carries it; may be called twice, and by any thread."""


class Channel:
    """A conversation. When it fails it is closed, `error` says why, and everything under way is lost with it.
    `moved`: when bytes moved last; `held`: until when we hold back while nothing is awaited."""

    def __init__(self, stream: Stream, waker: socket.socket, *, name: str, timeout: float) -> None:
        self.stream = stream
        self.name = name
        self.error: ServerUnreachable | None = None
        self.extensions: frozenset[str] = frozenset()
        self.max_read = SAFE_CHUNK
        self.max_write = SAFE_CHUNK
        self.max_handles = SAFE_HANDLES
        self.short_is_end = False
        """A READ answered with less than it asked for has reached the end of the file, for certain."""
        self.sent = 0
        self.received = 0
        self.reading = 0
        self.writing = 0
        self.unawaited = 0  # requests under way that nobody waits for
        self.feed: Callable[[], float | None] = lambda: None
        """Called before each step to ask for more; answers the time until which it has to hold back."""
        self._timeout = timeout
        self._pending: dict[int, tuple[Handler, Any]] = {}
        self._sinks: dict[int, memoryview] = {}
        self._out: deque[Buffer] = deque()
        self._queued = 0
        self._last_id = _VERSION_ID
        self._buffer = bytearray(_RECEIVE)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._direct: memoryview | None = None
        self._direct_answer: tuple[int, memoryview] | None = None
        self._alive()
        self.held = 0.0
        self.idle_since = -1
        self.died_idle = False
        """It ended without a word since it was last idle: what was asked since may be asked again elsewhere."""
        self._waker = waker.fileno()
        self._poller = select.poll()
        self._poller.register(self._waker, select.POLLIN)
        self._poller.register(stream.read_fd, select.POLLIN)
        self._polls_out = False

    # ---- life -------------------------------------------------------------------------------------------------

    def greet(self, timeout: float) -> None:
        """Exchange versions, and ask for the limits if the server tells them."""
        usual, self._timeout = self._timeout, timeout
        self._pending[_VERSION_ID] = (self._on_version, None)
        self._out.append(hello := HEAD.pack(5, packets.INIT, _VERSION_ID))
        self._queued += len(hello)
        self.begin()
        while self._pending:
            self.step()
        self._timeout = usual
        if packets.LIMITS in self.extensions:
            # Few, until the answer comes; it is not waited for.
            self.max_handles = 16
            self.unawaited += 1
            self.request(packets.EXTENDED, packets.string(packets.LIMITS.encode()), self._on_limits, None)

    def _on_version(self, _: None, kind: int, body: memoryview) -> None:
        if kind != packets.VERSION:
            raise ProtocolViolation(f"packet of type {kind} instead of a version")
        self.extensions = packets.parse_version(body)

    def _on_limits(self, _: None, kind: int, body: memoryview) -> None:
        self.unawaited -= 1
        if kind == packets.STATUS:
            self.max_handles = SAFE_HANDLES
            return
        packet, read, write, handles = packets.parse_limits(self.expect(packets.EXTENDED_REPLY, kind, body))
        room = max(packet - 1024, 0) or MAX_CHUNK
        self.max_read = max(min(read or MAX_CHUNK, room, MAX_CHUNK), 1024)
        self.max_write = max(min(write or MAX_CHUNK, room, MAX_CHUNK), 1024)
        self.max_handles = max(min(handles or MAX_HANDLES, MAX_HANDLES), 4)
        self.short_is_end = True

    def begin(self) -> None:
        """A caller starts to wait: the time before does not count as the server's silence."""
        self.moved = time.monotonic()
        if len(self._pending) == self.unawaited:
            self.idle_since = self.received

    def fail(self, error: LafsError) -> NoReturn:
        """Close, remember why, raise it."""
        if not isinstance(error, ServerUnreachable):
            error = ServerUnreachable(error.message, hint=error.hint)
        error.server = error.server or self.name
        self.error = error
        self.close()
        raise error

    def close(self) -> None:
        """End it; everything under way is lost."""
        self.error = self.error or ServerUnreachable("the connection was closed", server=self.name)
        self.stream.close()
        self._pending.clear()
        self._sinks.clear()
        self._out.clear()

    def check(self) -> None:
        """Raise what ended this conversation, if it has ended."""
        if self.error is not None:
            raise self.error.with_traceback(None)

    def _ended(self) -> NoReturn:
        self.died_idle = self.received == self.idle_since
        self.fail(self.stream.explain())

    # ---- asking -----------------------------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:
        """So many requests are under way that it is time to wait for answers."""
        return len(self._pending) >= MAX_REQUESTS

    def request(self, kind: int, body: bytes, handler: Handler, arg: Any) -> None:
        """Queue a request."""
        number = self._number()
        self._pending[number] = (handler, arg)
        packet = HEAD.pack(len(body) + 5, kind, number) + body
        self._out.append(packet)
        self._queued += len(packet)

    def request_read(self, handle: bytes, offset: int, sink: memoryview, handler: Handler, arg: Any) -> None:
        """Queue a READ of `len(sink)` bytes into `sink`; the handler gets the filled part of it as body of DATA."""
        self.reading += len(sink)
        self._sinks[(self._last_id + 1) & 0xFFFFFFFF] = sink
        self.request(packets.READ, handle + packets.OFFSET_LENGTH.pack(offset, len(sink)), handler, arg)

    def request_write(
        self, handle: bytes, offset: int, parts: Sequence[Buffer], size: int, handler: Handler, arg: Any
    ) -> None:
        """Queue a WRITE of `parts`, `size` bytes together; they must stay as they are until it is answered.

        The one who asks adds to `writing` and takes off again.
        """
        number = self._number()
        self._pending[number] = (handler, arg)
        fields = handle + packets.OFFSET_LENGTH.pack(offset, size)
        head = HEAD.pack(5 + len(fields) + size, packets.WRITE, number) + fields
        if size < _SPILL:
            self._out.append(head + b"".join(parts))
        else:
            self._out.append(head)
            self._out.extend(parts)
        self._queued += len(head) + size

    def expect(self, wanted: int, kind: int, body: memoryview) -> memoryview:
        """The body of an answer that must be of this type."""
        if kind != wanted:
            raise ProtocolViolation(f"answer of type {kind} instead of {wanted}")
        return body

    def _number(self) -> int:
        self._last_id = number = (self._last_id + 1) & 0xFFFFFFFF
        return number

    # ---- moving bytes -----------------------------------------------------------------------------------------

    def step(self, until: float | None = None) -> None:
        """Move bytes once, waiting for the stream if need be, at most to the time `until`.

        Raises ServerUnreachable when it ended, broke the protocol or stayed silent for the time-out.
        """
        self._guarded(self._step, until)

    def push(self) -> None:
        """Write what the stream takes now, without waiting."""
        self._guarded(self._flush)

    def _step(self, until: float | None) -> None:
        hold = self.feed()
        self.held = max(hold or 0.0, until or 0.0) if len(self._pending) == self.unawaited else 0.0
        if self._out:
            self._flush()
        if not self._pending and not self._out and hold is None and until is None:
            return
        if self._wait(hold, until):
            self._fill()
            self._dispatch()

    def _guarded(self, act: Callable[..., None], *arguments: float | None) -> None:
        self.check()
        try:
            act(*arguments)
        except ProtocolViolation as violation:
            self.fail(ServerUnreachable(f"the server broke the SFTP protocol: {violation}"))
        except OSError as error:
            self._ended_by(error)
        except ServerUnreachable:
            raise
        except BaseException:
            # Interrupted in the middle of a packet: nobody could go on from here.
            self.error = self.error or ServerUnreachable("interrupted", server=self.name)
            self.stream.close()
            raise

    def _ended_by(self, error: OSError) -> NoReturn:
        try:
            self._ended()
        except ServerUnreachable as reason:
            raise reason from error

    def _wait(self, hold: float | None, until: float | None) -> bool:
        """Wait until something can be read (True), written, or the time is over."""
        want_out = bool(self._out)
        if want_out != self._polls_out:
            self._poll_out(want_out)
        end = self.moved + self._timeout if self._pending or want_out else None
        wake = min((moment for moment in (hold, until, end) if moment is not None), default=None)
        pause = None if wake is None else max(0.0, wake - time.monotonic()) * 1000 + 1
        events = self._poller.poll(pause)
        if not events:
            if end is not None and time.monotonic() >= end:
                self.fail(ServerUnreachable(f"the server did not answer for {self._timeout:g} s"))
            return False
        readable = False
        for fd, event in events:
            if fd == self._waker:
                self.fail(ServerUnreachable("the connection was closed"))
            # Or the other end takes nothing any more; its last words may still be there to read.
            readable = readable or bool(event & ~select.POLLOUT)
        return readable

    def _poll_out(self, wanted: bool) -> None:
        self._polls_out = wanted
        if self.stream.write_fd == self.stream.read_fd:
            self._poller.modify(self.stream.read_fd, select.POLLIN | (select.POLLOUT if wanted else 0))
        elif wanted:
            self._poller.register(self.stream.write_fd, select.POLLOUT)
        else:
            self._poller.unregister(self.stream.write_fd)

    def _flush(self) -> None:
        out = self._out
        while out:
            try:
                count = os.writev(self.stream.write_fd, list(islice(out, _IOVECS)))
            except BlockingIOError:
                return
            self.sent += count
            self.moved = time.monotonic()
            self._queued -= count
            if not self._queued:
                out.clear()
                return
            while count:
                first = out[0]
                if count < len(first):
                    out[0] = memoryview(first)[count:]
                    return
                count -= len(first)
                out.popleft()

    def _fill(self) -> None:
        if self._direct is not None:
            targets = [self._direct, self._view[:_SPILL]]
        else:
            room = len(self._view) - self._end
            if self.reading > len(self._sinks) * _SPILL:
                room = min(room, _SPILL)
            targets = [self._view[self._end : self._end + room]]
        try:
            count = os.readv(self.stream.read_fd, targets)
        except BlockingIOError:
            return
        if not count:
            self._ended()
        self.received += count
        self._unfinished += count
        if self._unfinished >= _SPILL:
            self._alive()
        if self._direct is None:
            self._end += count
        elif count < len(self._direct):
            self._direct = self._direct[count:]
        else:
            self._end = count - len(self._direct)
            self._direct = None
            assert self._direct_answer is not None
            number, data = self._direct_answer
            self._direct_answer = None
            self._alive()
            handler, arg = self._pending.pop(number)
            handler(arg, packets.DATA, data)

    def _alive(self) -> None:
        self.moved, self._unfinished = time.monotonic(), 0

    def _dispatch(self) -> None:
        pending, buffer, view = self._pending, self._buffer, self._view
        pos, end = 0, self._end
        while end - pos >= 9:
            length, kind, number = HEAD.unpack_from(buffer, pos)
            if kind == packets.DATA:
                if end - pos < 13:
                    break
                behind = self._data(pos, end, length, number)
                if behind < 0:
                    self._end = 0
                    return
                pos = behind
                continue
            if length < 5 or length > MAX_PACKETS.get(kind, MAX_PACKET):
                self._refuse_length(length, bytes(view[pos:end]))
            behind = pos + 4 + length
            if behind > end:
                break
            answer = pending.pop(number, None)
            if answer is None:
                raise ProtocolViolation(f"answer of type {kind} to a request {number} that is not under way")
            if number in self._sinks:
                self.reading -= len(self._sinks.pop(number))
            answer[0](answer[1], kind, view[pos + 9 : behind])
            pos = behind
        self._keep(pos, end)

    def _data(self, pos: int, end: int, length: int, number: int) -> int:
        """Take a DATA: the position behind it, or -1 when its rest is to be read straight into its sink."""
        sink = self._sinks.pop(number, None)
        if sink is None:
            raise ProtocolViolation(f"data for a request {number} that is not under way")
        self.reading -= len(sink)
        size: int = packets.U32.unpack_from(self._buffer, pos + 9)[0]
        if size == 0 or size + 9 != length or size > len(sink):
            raise ProtocolViolation(f"packet of {length} bytes with {size} bytes of data where {len(sink)} were asked")
        here = min(end - pos - 13, size)
        sink[:here] = self._view[pos + 13 : pos + 13 + here]
        if here == size:
            handler, arg = self._pending.pop(number)
            handler(arg, packets.DATA, sink[:size])
            return pos + 13 + size
        self._direct = sink[here:size]
        self._direct_answer = (number, sink[:size])
        return -1

    def _refuse_length(self, length: int, start: bytes) -> NoReturn:
        if not self.extensions and self._last_id == _VERSION_ID and start[:4].isascii():
            self.fail(
                ServerUnreachable(
                    f"the server does not speak SFTP, it says: {escaped(start, 80)}",
                    hint="a shell start-up file on the server that prints something breaks SFTP",
                )
            )
        raise ProtocolViolation(f"packet of {length} bytes")

    def _keep(self, pos: int, end: int) -> None:
        """Keep the start of a packet whose rest is still to come, with room for all of it."""
        rest = end - pos
        if pos:
            self._alive()
            self._buffer[:rest] = self._buffer[pos:end]
        self._end = rest
        if rest >= 9 and self._buffer[4] != packets.DATA:
            size = HEAD.unpack_from(self._buffer)[0] + 4
            if size > len(self._buffer):
                bigger = bytearray(size)
                bigger[:rest] = self._buffer[:rest]
                self._buffer, self._view = bigger, memoryview(bigger)
