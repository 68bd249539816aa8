"""Writing files over one SFTP conversation: one long file at a time, or many small ones together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from lafscli.errors import FileError, ServerUnreachable
from lafscli.storage import packets
from lafscli.storage.channel import WINDOW, Channel
from lafscli.storage.packets import refusal
from lafscli.storage.rate import RateLimit
from lafscli.storage.store import Buffer, FileStat, NewFile
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


class SmallFile:
    """A small file under way; `error` tells what went wrong with it."""

    __slots__ = ("error", "handle", "left", "new", "size", "stat")

    def __init__(self, new: NewFile) -> None:
        self.new = new
        self.size = sum(len(part) for part in new.parts)
        self.handle = b""
        self.error: FileError | None = None
        self.stat: FileStat | None = None
        self.left = 1
        """Answers to come before it is written."""


class SmallFiles:
    """Many small files. With `sync` all of a group are opened and written, and synced behind that, which is faster on
    disks; without it, each is written, synced if it says so and closed when its handle has come. Two round trips.

    `path` makes of a name of ours what the server calls it.
    """

    def __init__(self, channel: Channel, path: Callable[[str], bytes], rate: RateLimit | None, *, sync: bool) -> None:
        self._channel = channel
        self._path = path
        self._rate = rate
        self._sync = sync and packets.FSYNC in channel.extensions
        self._group: list[SmallFile] = []
        self._unopened = 0
        self._unwritten = 0
        self.open = 0
        """Files that are not closed yet."""

    def create(self, files: Sequence[NewFile]) -> list[FileStat | FileError | None]:
        """Make them; what a look at each says, if that was asked for, or what went wrong with it."""
        channel = self._channel
        made = [SmallFile(new) for new in files]
        for file in made:
            hold_back(channel, self._rate, file.size)
            while self.open >= channel.max_handles // 2 or channel.crowded or self._too_much(file):
                channel.step()
            self._ask_to_open(file)
        while self.busy:
            channel.step()
        return [file.error or file.stat for file in made]

    @property
    def busy(self) -> bool:
        """Whether there are answers to come."""
        return bool(self.open or self._unwritten)

    def begin(self, new: NewFile) -> SmallFile:
        """Open one, and write it as soon as that has been answered; waits where too much is under way."""
        file = SmallFile(new)
        hold_back(self._channel, self._rate, file.size)
        while self._too_much(file):
            self._channel.step()
        self._ask_to_open(file)
        return file

    def _too_much(self, file: SmallFile) -> bool:
        return bool(self._channel.writing) and self._channel.writing + file.size > WINDOW

    def _ask_to_open(self, file: SmallFile) -> None:
        self.open += 1
        self._unopened += 1
        self._channel.writing += file.size
        self._channel.request(packets.OPEN, packets.string(self._path(file.new.path)) + NEW_FILE, self._opened, file)

    def _opened(self, file: SmallFile, kind: int, body: memoryview) -> None:
        channel = self._channel
        self._unopened -= 1
        if kind == packets.STATUS:
            file.error = refusal(body, file.new.path, channel.name)
            channel.writing -= file.size
            self.open -= 1
            self._close_group()
            return
        file.handle = packets.parse_handle(channel.expect(packets.HANDLE, kind, body))
        self._unwritten += file.size > 0
        if 0 < file.size <= channel.max_write:
            channel.request_write(file.handle, 0, file.new.parts, file.size, self._written, file)
        elif file.size:
            whole = memoryview(b"".join(file.new.parts))
            pieces = range(0, file.size, channel.max_write)
            file.left = len(pieces)
            for start in pieces:
                part = whole[start : start + channel.max_write]
                channel.request_write(file.handle, start, [part], len(part), self._written, file)
        if self._sync:
            self._group.append(file)
            self._close_group()
        else:
            self._close(file, sync=file.new.sync)

    def _close_group(self) -> None:
        """Sync and close what was written, when nothing else is about to be, or it is enough."""
        if self._unopened and len(self._group) < self._channel.max_handles // 4:
            return
        for file in self._group:
            self._close(file, sync=True)
        self._group.clear()

    def _close(self, file: SmallFile, *, sync: bool) -> None:
        channel = self._channel
        if sync and packets.FSYNC in channel.extensions:
            channel.request(packets.EXTENDED, _FSYNC + file.handle, self._note, file)
        if file.new.stat:
            channel.request(packets.CLOSE, file.handle, self._note, file)
            channel.request(packets.LSTAT, packets.string(self._path(file.new.path)), self._looked, file)
        else:
            channel.request(packets.CLOSE, file.handle, self._closed, file)

    def _looked(self, file: SmallFile, kind: int, body: memoryview) -> None:
        self.open -= 1
        if kind == packets.ATTRS:
            file.stat = packets.parse_attrs(body)
        else:
            self._note(file, kind, body)

    def _written(self, file: SmallFile, kind: int, body: memoryview) -> None:
        self._note(file, kind, body)
        file.left -= 1
        if not file.left:
            self._channel.writing -= file.size
            self._unwritten -= 1

    def _closed(self, file: SmallFile, kind: int, body: memoryview) -> None:
        self._note(file, kind, body)
        self.open -= 1

    def _note(self, file: SmallFile, kind: int, body: memoryview) -> None:
        status = self._channel.expect(packets.STATUS, kind, body)
        if packets.status_code(status) != packets.OK and file.error is None:
            file.error = refusal(status, file.new.path, self._channel.name)
