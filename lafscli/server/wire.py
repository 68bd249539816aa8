"""SFTP version 3 as a server meets it: requests, which may be hostile, and the answers to them.

    0  u32  length of what follows     4  u8  type     5  u32  request id (INIT: the version)     9  body

Numbers, strings and attributes are those of storage/packets. A body has what its type asks for, and nothing behind it.
"""

from __future__ import annotations

import stat
import struct
import time
from collections.abc import Iterable
from functools import lru_cache

from lafscli.server.backend import OK, Attrs, Change, FileSystem
from lafscli.storage import packets
from lafscli.storage.packets import HEAD, U32, U64

FSETSTAT, REALPATH, STAT, READLINK, SYMLINK = 10, 16, 17, 19, 20
"""Requests that lafs never makes, and others do."""
FSTATVFS = "fstatvfs@openssh.com"

MAX_PACKET = 256 * 1024 + 1024
"""Bytes of a request or an answer, its length field left out."""
MAX_DATA = 255 * 1024
"""Bytes of one READ; a client may ask for more and gets so much."""
MAX_REPLY = 256 * 1024
"""Bytes of the body of an EXTENDED_REPLY."""
MAX_OFFSET = (1 << 63) - 1
"""No file is longer."""
_ENOUGH = 64 * 1024
_MAX_PATH = 4096
_MAX_MESSAGE = 500
_MAX_U32 = (1 << 32) - 1

_SIZE, _OWNER, _MODE, _TIMES, _EXTENDED = 1, 2, 4, 8, 1 << 31
_KNOWN = _SIZE | _OWNER | _MODE | _TIMES | _EXTENDED

_DATA = struct.Struct(">IBII")
_ATTRS = struct.Struct(">IQIIIII")
_STATVFS = struct.Struct(">11Q")
_LIMITS = struct.Struct(">QQQQ")
_NO_ATTRS = U32.pack(0)
_NO_TEXT = bytes(8)
_KINDS = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "link": stat.S_IFLNK}
_HALF_A_YEAR = 182 * 24 * 3600


class Malformed(Exception):
    """A request that breaks the protocol; the message says how."""


# ---- requests


class Body:
    """The body of a request, read from its beginning. What is not there is Malformed."""

    __slots__ = ("_at", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def u32(self) -> int:
        return int(self._number(U32))

    def u64(self) -> int:
        return int(self._number(U64))

    def _number(self, layout: struct.Struct) -> int:
        try:
            (number,) = layout.unpack_from(self._view, self._at)
        except struct.error as error:
            raise Malformed("short request") from error
        self._at += layout.size
        assert isinstance(number, int)
        return number

    def string(self) -> memoryview:
        """The bytes of a string, where they lie."""
        size = self.u32()
        start = self._at
        self._at = start + size
        if self._at > len(self._view):
            raise Malformed("string longer than its request")
        return self._view[start : self._at]

    def path(self) -> bytes:
        """A path: no NUL in it, and not longer than any system takes."""
        path = bytes(self.string())
        if b"\0" in path:
            raise Malformed("NUL in a path")
        if len(path) > _MAX_PATH:
            raise Malformed("path too long")
        return path

    def change(self) -> Change:
        """Attributes; those that only extensions know are passed over."""
        flags = self.u32()
        if flags & ~_KNOWN:
            raise Malformed("attributes that version 3 does not have")
        size = self.u64() if flags & _SIZE else None
        if size is not None and size > MAX_OFFSET:
            raise Malformed("no file is that long")
        owner = (self.u32(), self.u32()) if flags & _OWNER else None
        mode = stat.S_IMODE(self.u32()) if flags & _MODE else None
        times = (self.u32(), self.u32()) if flags & _TIMES else None
        if flags & _EXTENDED:
            for _ in range(self.u32()):  # ends with the request at the latest, which has eight bytes for each
                self.string()
                self.string()
        return Change(size, owner, mode, times)

    def rest(self) -> memoryview:
        """All that was not read yet."""
        rest = self._view[self._at :]
        self._at = len(self._view)
        return rest

    def pairs(self) -> None:
        """Pairs of strings to the end, which nobody wants to know (those of INIT)."""
        while self._at < len(self._view):
            self.string()
            self.string()

    def end(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._view):
            raise Malformed("more in a request than it asks for")


# ---- answers


class Answers:
    """Answers in the order they were given, gathered in one buffer until they are sent.

    One that fails on the way (an exception) leaves nothing behind.
    """

    def __init__(self) -> None:
        self._buffer = bytearray(_ENOUGH + MAX_PACKET + 4)
        self._view = memoryview(self._buffer)
        self._end = 0

    @property
    def enough(self) -> bool:
        """They are to be sent before the next one is given: the client has what to do, and the next needs the room."""
        return self._end >= _ENOUGH

    def take(self) -> memoryview:
        """All of them, to be sent before the next one is given."""
        taken = self._view[: self._end]
        self._end = 0
        return taken

    def ok(self, number: int) -> None:
        """A STATUS without words."""
        self._packet(packets.STATUS, number, U32.pack(OK) + _NO_TEXT)

    def status(self, number: int, code: int, message: str) -> None:
        text = message[:_MAX_MESSAGE].encode("utf-8", "backslashreplace")
        self._packet(packets.STATUS, number, U32.pack(code) + packets.string(text) + U32.pack(0))

    def version(self, extensions: Iterable[tuple[str, str]]) -> None:
        pairs = b"".join(packets.string(text.encode()) for pair in extensions for text in pair)
        self._packet(packets.VERSION, 3, pairs)

    def handle(self, number: int, handle: bytes) -> None:
        self._packet(packets.HANDLE, number, packets.string(handle))

    def attrs(self, number: int, attrs: Attrs) -> None:
        self._packet(packets.ATTRS, number, serialise_attrs(attrs))

    def names(self, number: int, entries: list[bytes]) -> None:
        """Entries as `serialise_entry` makes them."""
        self._packet(packets.NAME, number, U32.pack(len(entries)) + b"".join(entries))

    def reply(self, number: int, body: bytes) -> None:
        self._packet(packets.EXTENDED_REPLY, number, body)

    def room_for_data(self, most: int) -> memoryview:
        """Where the bytes of a DATA go, before `data` makes the answer of it."""
        start = self._end + _DATA.size
        return self._view[start : start + most]

    def data(self, number: int, count: int) -> None:
        """So many bytes were put into the room for data."""
        _DATA.pack_into(self._buffer, self._end, _DATA.size - 4 + count, packets.DATA, number, count)
        self._end += _DATA.size + count

    def _packet(self, kind: int, number: int, body: bytes) -> None:
        start = self._end + HEAD.size
        end = start + len(body)
        if len(body) > MAX_PACKET - 5:
            raise ValueError("an answer longer than any client takes")
        HEAD.pack_into(self._buffer, self._end, 5 + len(body), kind, number)
        self._view[start:end] = body
        self._end = end


def serialise_attrs(attrs: Attrs) -> bytes:
    """Everything that version 3 can tell of an entry, but for extended attributes."""
    return _ATTRS.pack(
        _SIZE | _OWNER | _MODE | _TIMES,
        attrs.size,
        _clipped(attrs.uid),
        _clipped(attrs.gid),
        _KINDS.get(attrs.kind, 0) | stat.S_IMODE(attrs.mode),
        _clipped(attrs.atime),
        _clipped(attrs.mtime),
    )


def serialise_entry(name: bytes, attrs: Attrs, now: float) -> bytes:
    """One name of a READDIR, with its line of `ls -l`."""
    return packets.string(name) + packets.string(long_name(name, attrs, now)) + serialise_attrs(attrs)


def serialise_path(path: bytes) -> bytes:
    """The one name of a REALPATH."""
    return packets.string(path) * 2 + _NO_ATTRS


def serialise_space(space: FileSystem) -> bytes:
    """The answer to statvfs@openssh.com and fstatvfs@openssh.com."""
    return _STATVFS.pack(
        *(space.bsize, space.frsize, space.blocks, space.bfree, space.bavail, space.files, space.ffree),
        *(space.favail, space.fsid, space.flag, space.namemax),
    )


def serialise_limits(handles: int) -> bytes:
    """The answer to limits@openssh.com."""
    return _LIMITS.pack(MAX_PACKET, MAX_DATA, MAX_DATA, handles)


def long_name(name: bytes, attrs: Attrs, now: float) -> bytes:
    """What `ls -l` writes, owners as numbers. How many names a file has is not told: 1."""
    mode = stat.filemode(_KINDS.get(attrs.kind, 0) | stat.S_IMODE(attrs.mode))
    recent = now - _HALF_A_YEAR < attrs.mtime <= now + 60
    when = _when(attrs.mtime // 60, recent)
    return f"{mode}   1 {attrs.uid:<8} {attrs.gid:<8} {attrs.size:>8} {when} ".encode() + name


@lru_cache(maxsize=256)
def _when(minute: int, recent: bool) -> str:
    try:
        return time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", time.localtime(60 * minute))
    except (OverflowError, ValueError, OSError):
        return "Jan  1  1970"


def _clipped(number: int) -> int:
    return min(max(number, 0), _MAX_U32)
