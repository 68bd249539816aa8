"""Reading ranges of files over one SFTP conversation: open, many READs under way, close."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Sequence

from lafscli.errors import FileError
from lafscli.storage import packets
from lafscli.storage.channel import WINDOW, Channel
from lafscli.storage.packets import ProtocolViolation, refusal
from lafscli.storage.rate import RateLimit
from lafscli.storage.store import Buffer, FileRange


class OpenFile:
    """A file that is open, or being opened, for reading; `handle` None after the answer means `error`."""

    __slots__ = ("answered", "error", "handle", "keep", "name", "path", "ranges", "users")

    def __init__(self, keeper: int, path: str) -> None:
        self.name = keeper, path
        self.path = path
        self.keep = False
        self.handle: bytes | None = None
        self.error: FileError | None = None
        self.answered = False
        self.ranges: list[RangeUnderWay] = []
        """Ranges that wait for the handle."""
        self.users = 0


class RangeUnderWay:
    """One range that was asked for: `left` READs to be answered, of `limit` bytes the file has, as far as known."""

    __slots__ = ("batch", "buffer", "error", "file", "left", "limit", "wanted")

    def __init__(self, wanted: FileRange, file: OpenFile, batch: Batch) -> None:
        self.wanted = wanted
        self.file = file
        self.batch = batch
        self.buffer = wanted.into
        self.limit = wanted.length
        self.left = 0
        self.error: FileError | None = None

    def value(self) -> Buffer | FileError:
        """What came of it."""
        if self.error is not None:
            return self.error
        return b"" if self.buffer is None else self.buffer[: self.limit]


class Batch:
    """Ranges asked for together."""

    __slots__ = ("left", "ranges")

    def __init__(self) -> None:
        self.ranges: list[RangeUnderWay] = []
        self.left = 0

    @property
    def opened(self) -> bool:
        """Whether the server has said of every file whether it can be read."""
        return all(item.file.answered for item in self.ranges)


class Piece:
    """One READ: `start` counts from the start of the range."""

    __slots__ = ("length", "paid", "range", "start")

    def __init__(self, range_: RangeUnderWay, start: int, length: int, paid: bool = False) -> None:
        self.range = range_
        self.start = start
        self.length = length
        self.paid = paid


class ReadQueue:
    """The reads of one conversation; a bounded number of bytes, requests and open files at a time."""

    def __init__(self, channel: Channel, prefix: bytes, rate: RateLimit | None) -> None:
        self._channel = channel
        self._prefix = prefix
        self._rate = rate
        self._kept: dict[tuple[int, str], OpenFile] = {}
        self._idle: OrderedDict[tuple[int, str], OpenFile] = OrderedDict()
        """Kept files that nobody reads now, the one unused for longest first."""
        self._to_open: deque[OpenFile] = deque()
        self._open = 0
        self._pieces: deque[Piece] = deque()
        self._hold: float | None = None
        channel.feed = self.feed

    def ask(self, wanted: Sequence[FileRange]) -> Batch:
        """Queue these ranges; `left` of the batch counts down while they come in."""
        batch = Batch()
        files: dict[tuple[int, str], OpenFile] = {}
        for item in wanted:
            name = item.keeper, item.path
            file = files.get(name) or self._kept.get(name)
            if file is None or (file.answered and file.handle is None):
                file = OpenFile(*name)
                self._to_open.append(file)
            if item.keep and not file.keep:
                file.keep = True
                self._kept[name] = file
            self._idle.pop(name, None)
            files[name] = file
            range_ = RangeUnderWay(item, file, batch)
            batch.ranges.append(range_)
            batch.left += 1
            file.users += 1
            if file.answered:
                self._start(range_)
            else:
                file.ranges.append(range_)
        return batch

    def release(self, keeper: int, path: str) -> None:
        """Close a kept file when the ranges asked of it are in."""
        file = self._kept.pop((keeper, path), None)
        if file is not None:
            self._idle.pop(file.name, None)
            file.keep = False
            self._unused(file)

    def feed(self) -> float | None:
        """Send what the windows allow; the time until which the rate limit holds the next READ back, if it does."""
        channel = self._channel
        while self._to_open and self._open < channel.max_handles // 2 and not channel.crowded:
            file = self._to_open.popleft()
            self._open += 1
            body = packets.string(self._prefix + file.path.encode("utf-8", "surrogateescape"))
            channel.request(packets.OPEN, body + _READ_ONLY, self._opened, file)
        while self._pieces and not channel.crowded:
            piece = self._pieces[0]
            if piece.start >= piece.range.limit or piece.range.error is not None:
                self._pieces.popleft()
                self._done(piece.range)
                continue
            if channel.reading and channel.reading + piece.length > WINDOW:
                break
            if self._rate is not None and not piece.paid:
                piece.paid = True
                wait = self._rate.take(piece.length)
                self._hold = time.monotonic() + wait if wait else None
            if self._hold is not None:
                if time.monotonic() < self._hold:
                    return self._hold
                self._hold = None
            self._pieces.popleft()
            self._send(piece)
        return None

    def _send(self, piece: Piece) -> None:
        range_ = piece.range
        if range_.buffer is None:
            range_.buffer = memoryview(bytearray(range_.wanted.length))
        assert range_.file.handle is not None
        sink = range_.buffer[piece.start : piece.start + piece.length]
        self._channel.request_read(range_.file.handle, range_.wanted.offset + piece.start, sink, self._answered, piece)

    def _opened(self, file: OpenFile, kind: int, body: memoryview) -> None:
        file.answered = True
        if kind == packets.STATUS:
            file.error = refusal(body, file.path, self._channel.name)
            self._open -= 1
            if self._kept.get(file.name) is file:
                del self._kept[file.name]
        else:
            file.handle = packets.parse_handle(self._channel.expect(packets.HANDLE, kind, body))
        ranges, file.ranges = file.ranges, []
        for range_ in ranges:
            self._start(range_)

    def _start(self, range_: RangeUnderWay) -> None:
        length = range_.wanted.length
        if range_.file.error is not None:
            range_.error = range_.file.error
        if range_.error is not None or length <= 0:
            self._finished(range_)
            return
        chunk = self._channel.max_read
        for start in range(0, length, chunk):
            self._pieces.append(Piece(range_, start, min(chunk, length - start)))
            range_.left += 1

    def _answered(self, piece: Piece, kind: int, body: memoryview) -> None:
        range_ = piece.range
        if kind == packets.DATA:
            short = piece.length - len(body)
            if short and not self._channel.short_is_end:
                # The server may have cut at its own packet size: only EOF is the end.
                self._pieces.appendleft(Piece(range_, piece.start + len(body), short, paid=True))
                return
            if short:
                range_.limit = min(range_.limit, piece.start + len(body))
        elif kind == packets.STATUS:
            code = packets.status_code(body)
            if code == packets.EOF:
                range_.limit = min(range_.limit, piece.start)
            elif code == packets.OK:
                raise ProtocolViolation("a read answered with OK and no data")
            else:
                range_.error = range_.error or refusal(body, range_.wanted.path, self._channel.name)
        else:
            raise ProtocolViolation(f"answer of type {kind} to a read")
        self._done(range_)

    def _done(self, range_: RangeUnderWay) -> None:
        range_.left -= 1
        if not range_.left:
            self._finished(range_)

    def _finished(self, range_: RangeUnderWay) -> None:
        if range_.buffer is not None and range_.wanted.into is None and range_.limit < range_.wanted.length:
            # A large buffer is not kept for the sake of a short answer.
            range_.buffer = memoryview(bytes(range_.buffer[: range_.limit]))
        range_.batch.left -= 1
        range_.file.users -= 1
        self._unused(range_.file)

    def _unused(self, file: OpenFile) -> None:
        """Close a file that nobody reads any more, or keep it, and close another one if too many are kept."""
        if file.users or file.handle is None:
            return
        if file.keep:
            self._idle[file.name] = file
            if len(self._idle) > self._channel.max_handles // 4:
                self.release(*next(iter(self._idle)))
            return
        self._channel.unawaited += 1
        self._channel.request(packets.CLOSE, file.handle, self._closed, None)
        file.handle = None
        self._open -= 1

    def _closed(self, _: None, kind: int, body: memoryview) -> None:
        self._channel.unawaited -= 1
        self._channel.expect(packets.STATUS, kind, body)


_READ_ONLY = packets.U32.pack(packets.OPEN_READ) + packets.U32.pack(0)
