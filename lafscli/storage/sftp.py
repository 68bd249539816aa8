"""Files over SFTP version 3: batches pipelined on one connection, made anew when it was lost."""

from __future__ import annotations

import fcntl
import select
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from os import fstat
from typing import TypeVar

from lafscli.errors import FileError, ServerUnreachable
from lafscli.storage import packets
from lafscli.storage.batches import OPEN_EXISTING, Operations
from lafscli.storage.channel import Channel, Stream
from lafscli.storage.listings import list_folders
from lafscli.storage.packets import refusal, string
from lafscli.storage.rate import RateLimit
from lafscli.storage.reads import Batch, ReadQueue
from lafscli.storage.store import (
    MANY_NAMES,
    Answer,
    Ask,
    Buffer,
    DirEntry,
    FileRange,
    FileStat,
    List,
    NewFile,
    Op,
    Reading,
    Space,
    Stat,
)
from lafscli.storage.turn import Turn
from lafscli.storage.writes import NEW_FILE, SftpWriter, SmallFiles

__all__ = ["SftpFiles", "Stream"]

T = TypeVar("T")

_HANG_UP = select.POLLHUP | select.POLLERR | select.POLLRDHUP
_PIPE_SIZE = 1024 * 1024
_IDLE_SECONDS = 30.0
"""After so long a connection is tried with a question before anything is written over it."""

_DELAYS = (0.2, 0.5, 1.0, 2.0)
_OPEN_APPEND = packets.U32.pack(packets.OPEN_WRITE | packets.OPEN_APPEND) + packets.U32.pack(0)
_STATVFS = string(packets.STATVFS.encode())


class SftpFiles:
    """A folder tree on an SFTP server.

    `root` is an absolute path, or `~` or `~/…` from the login folder. A lost connection fails what was under way on
    it (a batch that only reads is asked again when the connection had died idle); the next call connects anew.
    `timeout` is for how many seconds the server may stay silent while something is awaited. Closed is for good.
    """

    def __init__(
        self,
        open_stream: Callable[[], Stream],
        root: str,
        *,
        name: str,
        timeout: float = 60.0,
        connect_timeout: float = 15.0,
        rate: RateLimit | None = None,
    ) -> None:
        self._open_stream = open_stream
        if root == "~" or root.startswith("~/"):
            # A relative path starts in the login folder (version 3 has no `~`).
            root = root[2:]
        self._root = root.encode("utf-8", "surrogateescape") or b"."
        self._prefix = b"" if not root else self._root.rstrip(b"/") + b"/"
        self._name = name
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._rate = rate
        self._live: list[tuple[Channel, ReadQueue]] = []
        self._turn = Turn(self._shut, name)
        self._earlier = [0, 0]
        self._used = time.monotonic()

    # ---- the connection ---------------------------------------------------------------------------------------

    def connect(self) -> frozenset[str]:
        """Connect if that has not happened, or the connection died while it was idle: what writes can't be asked again
        over another one. The extensions the server offers."""
        with self._turn:
            channel, _ = self._ready()
            used, self._used = self._used, time.monotonic()
            if _hung_up(channel) or self._used - used > _IDLE_SECONDS:
                self._asking(lambda channel, reads: self._do(channel, reads, [Stat("")], []))
            return self._ready()[0].extensions

    def close(self) -> None:
        """End the connection; a call that waits in another thread fails at once."""
        self._turn.close()

    @property
    def moved(self) -> float:
        """When bytes moved last, or would have if we did not hold back ourselves; -inf before there is a connection."""
        return max((max(channel.moved, channel.held) for channel, _ in self._live[:1]), default=-inf)

    @property
    def sent(self) -> int:
        """Bytes sent, all in all."""
        return self._earlier[0] + sum(channel.sent for channel, _ in self._live)

    @property
    def received(self) -> int:
        """Bytes received, all in all."""
        return self._earlier[1] + sum(channel.received for channel, _ in self._live)

    def _shut(self) -> None:
        while self._live:
            with suppress(IndexError):
                channel, _ = self._live.pop()
                self._earlier[0] += channel.sent
                self._earlier[1] += channel.received
                channel.close()

    def _ready(self) -> tuple[Channel, ReadQueue]:
        """The connection, ready for questions."""
        if self._live:
            channel, reads = self._live[0]
            if channel.error is None:
                channel.begin()
                return channel, reads
            self._shut()
        for delay in _DELAYS:
            try:
                return self._connected()
            except ServerUnreachable as error:
                # sshd drops bursts of connections (MaxStartups).
                if not error.transient:
                    raise
            self._turn.sleep(delay)
        return self._connected()

    def _connected(self) -> tuple[Channel, ReadQueue]:
        waker = self._turn.waker
        try:
            stream = self._open_stream()
        except ServerUnreachable as error:
            error.server = error.server or self._name
            raise
        for descriptor in {stream.read_fd, stream.write_fd}:
            with suppress(OSError, AttributeError):
                if stat.S_ISFIFO(fstat(descriptor).st_mode):
                    fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        channel = Channel(stream, waker, name=self._name, timeout=self._timeout)
        channel.greet(self._connect_timeout)
        reads = ReadQueue(channel, self._prefix, self._rate)
        self._live.append((channel, reads))
        channel.begin()
        return channel, reads

    def _asking(self, ask: Callable[[Channel, ReadQueue], T]) -> T:
        """Ask what only reads: once more where the connection turns out to have died idle."""
        channel, reads = self._ready()
        try:
            return ask(channel, reads)
        except ServerUnreachable:
            if not channel.died_idle:
                raise
        return ask(*self._ready())

    # ---- names ------------------------------------------------------------------------------------------------

    def do(self, ops: Sequence[Op]) -> list[Answer]:
        """Carry out in order, pipelined."""
        return self.do_and_read(ops, [])[0]

    def do_and_read(self, ops: Sequence[Op], wanted: Sequence[FileRange]) -> tuple[list[Answer], SftpReading]:
        """Carry out in order, pipelined, and ask for ranges behind that; the answers are waited for."""
        with self._turn:
            if all(isinstance(op, Stat | List) or (isinstance(op, Ask) and op.safe) for op in ops):
                return self._asking(lambda channel, reads: self._do(channel, reads, ops, wanted))
            return self._do(*self._ready(), ops, wanted)

    def _do(
        self, channel: Channel, reads: ReadQueue, ops: Sequence[Op], wanted: Sequence[FileRange]
    ) -> tuple[list[Answer], SftpReading]:
        operations = Operations(channel, self._path, self._rate, ops)
        operations.send()
        batch = reads.ask(wanted)
        reads.feed()
        answers = operations.answers()
        while not batch.opened:
            channel.step()
        if wanted:
            reads.feed()
            channel.push()
        return answers, SftpReading(self, channel, batch, wanted)

    def listing(self, paths: Sequence[str], *, most: int = MANY_NAMES) -> list[list[DirEntry] | FileError]:
        """All names in each folder, without `.` and `..`."""
        with self._turn:
            return self._asking(lambda channel, _: list_folders(channel, [(p, self._path(p)) for p in paths], most))

    def space(self) -> Space | None:
        """What statvfs says, or None where the server does not tell or the root is not there."""
        with self._turn:
            return self._asking(lambda channel, _: self._space(channel))

    def _space(self, channel: Channel) -> Space | None:
        if packets.STATVFS not in channel.extensions:
            return None
        answer: list[Space | None] = []

        def take(_: None, kind: int, body: memoryview) -> None:
            refused = kind == packets.STATUS
            answer.append(
                None if refused else packets.parse_statvfs(channel.expect(packets.EXTENDED_REPLY, kind, body))
            )

        channel.request(packets.EXTENDED, _STATVFS + string(self._root), take, None)
        while not answer:
            channel.step()
        return answer[0]

    def _path(self, path: str) -> bytes:
        return self._prefix + path.encode("utf-8", "surrogateescape") if path else self._root

    # ---- contents ---------------------------------------------------------------------------------------------

    def read(self, wanted: Sequence[FileRange]) -> Reading:
        """Ask for ranges; does not wait for data."""
        with self._turn:
            return self._asking(lambda channel, reads: self._begin_reading(channel, reads, wanted))

    def _begin_reading(self, channel: Channel, reads: ReadQueue, wanted: Sequence[FileRange]) -> SftpReading:
        batch = reads.ask(wanted)
        reads.feed()
        channel.push()
        return SftpReading(self, channel, batch, wanted)

    def finish(self, reading: SftpReading) -> list[Buffer | FileError]:
        """Wait for the ranges of a reading of ours."""
        with self._turn:
            channel, batch = reading.channel, reading.batch
            try:
                channel.begin()
                while batch.left:
                    channel.step()
            except ServerUnreachable:
                if not channel.died_idle:
                    raise
                channel, reads = self._ready()
                reading.channel, reading.batch = channel, reads.ask(reading.wanted)
                batch = reading.batch
                while batch.left:
                    channel.step()
            return [item.value() for item in batch.ranges]

    def release(self, path: str, keeper: int = 0) -> None:
        """Close a kept file; nothing if it is not open, or the connection is gone."""
        with suppress(ServerUnreachable), self._turn:
            if self._live and self._live[0][0].error is None:
                channel, reads = self._live[0]
                channel.begin()
                reads.release(keeper, path)
                channel.push()

    def create(self, path: str) -> SftpWriter:
        """Make a new file exclusively (0600) and open it for writing."""
        with self._turn:
            channel, _ = self._ready()
            handle = self._opened(channel, path, NEW_FILE)
            return SftpWriter(self._turn, channel, path, handle, 0, self._rate)

    def open_existing(self, path: str, *, append: bool = False) -> SftpWriter:
        """Open a file that exists; without `append`, appending starts at the end that it has now."""
        with self._turn:
            channel, _ = self._ready()
            handle = self._opened(channel, path, _OPEN_APPEND if append else OPEN_EXISTING)
            size = self._size(channel, path, handle)
            return SftpWriter(self._turn, channel, path, handle, size, self._rate)

    def _size(self, channel: Channel, path: str, handle: bytes) -> int:
        """How long an open file is; it is closed where that is not told."""
        answer: list[int | FileError] = []

        def take(_: None, kind: int, body: memoryview) -> None:
            if kind == packets.ATTRS:
                answer.append(packets.parse_attrs(body).size)
            else:
                answer.append(refusal(channel.expect(packets.STATUS, kind, body), path, self._name))

        def closed(_: None, kind: int, body: memoryview) -> None:
            channel.unawaited -= 1
            channel.expect(packets.STATUS, kind, body)

        channel.request(packets.FSTAT, handle, take, None)
        while not answer:
            channel.step()
        if isinstance(answer[0], FileError):
            channel.unawaited += 1
            channel.request(packets.CLOSE, handle, closed, None)
            raise answer[0]
        return answer[0]

    def _opened(self, channel: Channel, path: str, how: bytes) -> bytes:
        answer: list[bytes | FileError] = []

        def take(_: None, kind: int, body: memoryview) -> None:
            if kind == packets.STATUS:
                answer.append(refusal(body, path, self._name))
            else:
                answer.append(packets.parse_handle(channel.expect(packets.HANDLE, kind, body)))

        channel.request(packets.OPEN, string(self._path(path)) + how, take, None)
        while not answer:
            channel.step()
        if isinstance(answer[0], FileError):
            raise answer[0]
        return answer[0]

    def create_many(self, files: Sequence[NewFile], *, sync: bool) -> list[FileStat | FileError | None]:
        """Many small files, pipelined."""
        with self._turn:
            channel, _ = self._ready()
            return SmallFiles(channel, self._path, self._rate, sync=sync).create(files)


def _hung_up(channel: Channel) -> bool:
    """Whether the server has hung up while nothing was under way."""
    if channel.idle_since != channel.received:
        return False
    poller = select.poll()
    poller.register(channel.stream.read_fd, _HANG_UP)
    return bool(poller.poll(0))


class SftpReading:
    """Ranges under way over SFTP."""

    def __init__(self, files: SftpFiles, channel: Channel, batch: Batch, wanted: Sequence[FileRange]) -> None:
        self._files = files
        self.channel = channel
        self.batch = batch
        self.wanted = wanted

    def finish(self) -> list[Buffer | FileError]:
        """Wait; bytes, a slice of `into`, or the error, in the order asked."""
        return self._files.finish(self)
