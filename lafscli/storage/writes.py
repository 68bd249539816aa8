"""Writing files over one SFTP conversation: one long file at a time, or many small ones together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from lafscli.errors import FileError, ServerUnreachable
from lafscli.storage import packets
from lafscli.storage.channel import WINDOW, Channel
from lafscli.storage.packets import refusal
from lafscli.storage.rate import RateLimit
from lafscli.storage.store import Buffer, NewFile
from lafscli.storage.turn import Turn

_FSYNC = packets.string(packets.FSYNC.encode())
NEW_FILE = packets.U32.pack(packets.OPEN_WRITE | packets.OPEN_CREATE | packets.OPEN_EXCLUSIVE) + packets.FILE_MODE


def hold_back(channel: Channel, rate: RateLimit | None, count: int) -> None:
    """Wait, still taking answers, until the rate allows `count` more bytes."""
    if rate is None:
        return
    until = time.monotonic() + rate.take(count)
    while time.monotonic() < until:
        channel.step(until)


class SftpWriter:
    """FileWriter over SFTP: successive data joined into WRITEs of full size, a bounded number of bytes under way."""

    def __init__(
        self, turn: Turn, channel: Channel, path: str, handle: bytes, size: int, rate: RateLimit | None
    ) -> None:
        self._turn = turn
        self._channel = channel
        self._path = path
        self._handle: bytes | None = handle
        self._rate = rate
        self._end = size
        self._parts: list[Buffer] = []
        self._joined = 0
        self._left = 0
        self._error: FileError | None = None
        self._durable = 0

    @property
    def durable(self) -> int:
        """Bytes from the start that the last answered checkpoint covers."""
        return self._durable

    def checkpoint(self) -> None:
        """Ask for an fsync (or, where there is none, for the size: the server answers in order), and go on."""
        with self._turn:
            self._begin()
            self._send_joined()
            assert self._handle is not None
            self._left += 1
            if packets.FSYNC in self._channel.extensions:
                self._channel.request(packets.EXTENDED, _FSYNC + self._handle, self._synced, self._end)
            else:
                self._channel.request(packets.FSTAT, self._handle, self._looked, self._end)
            self._channel.push()

    def _synced(self, end: int, kind: int, body: memoryview) -> None:
        self._answered(0, kind, body)
        if self._error is None:
            self._durable = max(self._durable, end)

    def _looked(self, end: int, kind: int, _body: memoryview) -> None:
        self._left -= 1
        if kind == packets.ATTRS and self._error is None:
            self._durable = max(self._durable, end)

    def write(self, data: Buffer) -> None:
        """Append; waits while the window is full."""
        with self._turn:
            self._begin()
            rest = memoryview(data).cast("B")
            chunk = self._channel.max_write
            while rest:
                part = rest[: chunk - self._joined]
                self._parts.append(part)
                self._joined += len(part)
                rest = rest[len(part) :]
                if self._joined >= chunk:
                    self._send_joined()
            self._channel.push()

    def write_at(self, offset: int, data: Buffer) -> None:
        """Overwrite; what was written before is on its way first."""
        with self._turn:
            self._begin()
            self._send_joined()
            rest = memoryview(data).cast("B")
            while rest:
                part = rest[: self._channel.max_write]
                self._send(offset, [part], len(part))
                offset += len(part)
                rest = rest[len(part) :]
            self._channel.push()

    def flush(self) -> None:
        """Wait for every answer."""
        with self._turn:
            self._begin()
            self._send_joined()
            self._settle()

    def close(self, *, sync: bool) -> None:
        """Write the rest, fsync and close in one round trip, and wait for every answer."""
        with self._turn:
            self._begin()
            self._send_joined()
            if self._handle is None:
                return
            if sync and packets.FSYNC in self._channel.extensions:
                self._left += 1
                self._channel.request(packets.EXTENDED, _FSYNC + self._handle, self._answered, 0)
            self._ask_to_close()
            self._settle()

    def abandon(self) -> None:
        """Close without waiting."""
        self._parts.clear()
        self._joined = 0
        with suppress(ServerUnreachable), self._turn:
            if self._handle is not None and self._channel.error is None:
                self._ask_to_close()
                self._channel.push()

    def _begin(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)
        self._channel.check()
        self._channel.begin()

    def _settle(self) -> None:
        while self._left:
            self._channel.step()
        if self._error is not None:
            raise self._error.with_traceback(None)

    def _ask_to_close(self) -> None:
        assert self._handle is not None
        self._left += 1
        self._channel.request(packets.CLOSE, self._handle, self._answered, 0)
        self._handle = None

    def _send_joined(self) -> None:
        if self._joined:
            parts, size = self._parts, self._joined
            self._parts, self._joined = [], 0
            self._send(self._end, parts, size)
            self._end += size

    def _send(self, offset: int, parts: Sequence[Buffer], size: int) -> None:
        channel = self._channel
        assert self._handle is not None
        hold_back(channel, self._rate, size)
        while channel.writing and channel.writing + size > WINDOW:
            channel.step()
        channel.writing += size
        self._left += 1
        channel.request_write(self._handle, offset, parts, size, self._answered, size)

    def _answered(self, size: int, kind: int, body: memoryview) -> None:
        self._channel.writing -= size
        self._left -= 1
        if packets.status_code(self._channel.expect(packets.STATUS, kind, body)) != packets.OK and not self._error:
            self._error = refusal(body, self._path, self._channel.name)


class _SmallFile:
    __slots__ = ("error", "handle", "left", "new", "size")

    def __init__(self, new: NewFile) -> None:
        self.new = new
        self.size = sum(len(part) for part in new.parts)
        self.handle = b""
        self.error: FileError | None = None
        self.left = 1
        """Answers to come before it is written; then, before it is closed."""


class SmallFiles:
    """Many small files: all of a group are opened and written, then synced and closed while the next one begins."""

    def __init__(self, channel: Channel, prefix: bytes, rate: RateLimit | None, *, sync: bool) -> None:
        self._channel = channel
        self._prefix = prefix
        self._rate = rate
        self._sync = sync and packets.FSYNC in channel.extensions
        self._open = 0
        self._unwritten = 0

    def create(self, files: Sequence[NewFile]) -> list[FileError | None]:
        """Make them; what went wrong with each."""
        channel = self._channel
        made = [_SmallFile(new) for new in files]
        group: list[_SmallFile] = []
        for file in made:
            hold_back(channel, self._rate, file.size)
            while (
                self._open >= channel.max_handles // 2
                or channel.crowded
                or (channel.writing and channel.writing + file.size > WINDOW)
            ):
                if self._sync and group and not self._unwritten:
                    self._close_all(group)
                channel.step()
            self._begin(file)
            group.append(file)
            if self._sync and len(group) >= channel.max_handles // 4:
                while self._unwritten:
                    channel.step()
                self._close_all(group)
        while self._unwritten:
            channel.step()
        if self._sync:
            self._close_all(group)
        while self._open:
            channel.step()
        return [file.error for file in made]

    def _begin(self, file: _SmallFile) -> None:
        self._open += 1
        self._unwritten += 1
        self._channel.writing += file.size
        path = self._prefix + file.new.path.encode("utf-8", "surrogateescape")
        self._channel.request(packets.OPEN, packets.string(path) + NEW_FILE, self._opened, file)

    def _opened(self, file: _SmallFile, kind: int, body: memoryview) -> None:
        channel = self._channel
        if kind == packets.STATUS:
            file.error = refusal(body, file.new.path, channel.name)
            channel.writing -= file.size
            self._unwritten -= 1
            self._open -= 1
            return
        file.handle = packets.parse_handle(channel.expect(packets.HANDLE, kind, body))
        if not file.size:
            self._unwritten -= 1
        elif file.size <= channel.max_write:
            channel.request_write(file.handle, 0, file.new.parts, file.size, self._written, file)
        else:
            whole = memoryview(b"".join(file.new.parts))
            pieces = range(0, file.size, channel.max_write)
            file.left = len(pieces)
            for start in pieces:
                part = whole[start : start + channel.max_write]
                channel.request_write(file.handle, start, [part], len(part), self._written, file)
        if not self._sync:
            channel.request(packets.CLOSE, file.handle, self._closed, file)

    def _written(self, file: _SmallFile, kind: int, body: memoryview) -> None:
        self._note(file, kind, body)
        file.left -= 1
        if not file.left:
            self._channel.writing -= file.size
            self._unwritten -= 1

    def _close_all(self, group: list[_SmallFile]) -> None:
        for file in group:
            if file.handle:
                if file.error is None:
                    self._channel.request(packets.EXTENDED, _FSYNC + file.handle, self._note, file)
                self._channel.request(packets.CLOSE, file.handle, self._closed, file)
        group.clear()

    def _closed(self, file: _SmallFile, kind: int, body: memoryview) -> None:
        self._note(file, kind, body)
        self._open -= 1

    def _note(self, file: _SmallFile, kind: int, body: memoryview) -> None:
        status = self._channel.expect(packets.STATUS, kind, body)
        if packets.status_code(status) != packets.OK and file.error is None:
            file.error = refusal(status, file.new.path, self._channel.name)
