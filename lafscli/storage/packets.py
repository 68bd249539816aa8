"""SFTP version 3 on the wire: pieces of requests, and reading of answers that may be hostile.

    0  u32  length of what follows     4  u8  type     5  u32  request id (VERSION: the version)     9  body

A string is a u32 length and that many bytes. Attributes are u32 flags, then what the flags announce:
1 u64 size, 2 u32 uid and u32 gid, 4 u32 mode, 8 u32 atime and u32 mtime, 2**31 u32 count of pairs of strings.
"""

from __future__ import annotations

import struct

from lafscli.errors import FileDenied, FileError, FileExists, FileMissing, NotSupported, OutOfSpace
from lafscli.storage.store import DirEntry, FileStat, Space

INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT = 3, 4, 5, 6, 7, 8, 9
OPENDIR, READDIR, REMOVE, MKDIR, RMDIR, RENAME, EXTENDED = 11, 12, 13, 14, 15, 18, 200
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201

OPEN_READ, OPEN_WRITE, OPEN_APPEND, OPEN_CREATE, OPEN_EXCLUSIVE = 0x01, 0x02, 0x04, 0x08, 0x20
OK, EOF = 0, 1

POSIX_RENAME, FSYNC, HARDLINK = "posix-rename@openssh.com", "fsync@openssh.com", "hardlink@openssh.com"
STATVFS, LIMITS = "statvfs@openssh.com", "limits@openssh.com"
POLICY, PRESENCE, INVENTORY = "policy@lafs", "presence@lafs", "inventory@lafs"
GUARD, REPLACE, CANCEL_LEASE = "guard@lafs", "replace@lafs", "cancel-lease@lafs"
OWN = (POLICY, PRESENCE, INVENTORY, GUARD, REPLACE, CANCEL_LEASE)
"""Extensions of `lafs serve` (served.py)."""
UNDERSTOOD = {
    POSIX_RENAME: b"1",
    FSYNC: b"1",
    HARDLINK: b"1",
    STATVFS: b"2",
    LIMITS: b"1",
    **dict.fromkeys(OWN, b"1"),
}
"""Extensions we use, in the version we know."""

HEAD = struct.Struct(">IBI")
U32 = struct.Struct(">I")
U64 = struct.Struct(">Q")
OFFSET_LENGTH = struct.Struct(">QI")
ATTRS_SIZE = struct.Struct(">IQ")
ATTRS_MODE = struct.Struct(">II")
ATTRS_TIMES = struct.Struct(">III")
_USUAL = struct.Struct(">IQIIIII")
_USUAL_FLAGS = U32.pack(15)
_LIMITS = struct.Struct(">QQQQ")
_STATVFS = struct.Struct(">11Q")

FOLDER_MODE = ATTRS_MODE.pack(4, 0o700)
FILE_MODE = ATTRS_MODE.pack(4, 0o600)

MAX_HANDLE = 256
MAX_MESSAGE = 200
MAX_NAME = 1024
_SIZE_LIMIT = 1 << 63  # no file is that long

_KINDS = {0o040000: "dir", 0o100000: "file", 0o120000: "link"}
_REFUSALS: dict[int, tuple[type[FileError], str]] = {
    1: (FileError, "end of file"),
    2: (FileMissing, "no such file"),
    3: (FileDenied, "permission denied"),
    4: (FileError, "failure"),
    8: (NotSupported, "operation unsupported"),
    # Codes of later versions, which some servers use in version 3 too.
    10: (FileMissing, "no such path"),
    11: (FileExists, "file already exists"),
    12: (FileDenied, "write protected"),
    14: (OutOfSpace, "no space left"),
    15: (OutOfSpace, "quota exceeded"),
}
_WORDS: tuple[tuple[str, type[FileError]], ...] = (
    ("exists", FileExists),
    ("no space left", OutOfSpace),
    ("quota", OutOfSpace),
)


class ProtocolViolation(Exception):
    """The server broke the protocol; the message says how. Never leaves the room."""


def escaped(text: str | bytes, limit: int = MAX_MESSAGE) -> str:
    """Text of a server, safe to show: control characters escaped, at most `limit` characters."""
    if isinstance(text, bytes):
        text = text[: 4 * limit].decode("utf-8", "backslashreplace")
    text = text[:limit]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)[:limit]
    return text


def string(data: bytes) -> bytes:
    """A string as it goes into a packet."""
    return U32.pack(len(data)) + data


def take_string(body: memoryview, pos: int) -> tuple[bytes, int]:
    """The string at `pos`, and the position behind it."""
    try:
        (size,) = U32.unpack_from(body, pos)
    except struct.error as error:
        raise ProtocolViolation("short packet") from error
    end = pos + 4 + size
    if end > len(body):
        raise ProtocolViolation("string longer than its packet")
    return bytes(body[pos + 4 : end]), end


def status_code(body: memoryview) -> int:
    """The code of a STATUS."""
    if len(body) < 4:
        raise ProtocolViolation("status without a code")
    return int(U32.unpack_from(body)[0])


def refusal(body: memoryview, path: str | None, server: str) -> FileError:
    """The error that a STATUS other than OK stands for; the words alone without a path. Old servers send the code
    alone."""
    try:
        message, _ = take_string(body, 4)
    except ProtocolViolation:
        message = b""
    return refused(status_code(body), message, server, "" if path is None else f"{escaped(path) or '.'}: ")


def refused(code: int, message: bytes, server: str, about: str = "") -> FileError:
    """The error that a status code and the server's own words stand for; it begins with what it is `about`."""
    sort, text = _REFUSALS.get(code, (FileError, f"status {code}"))
    if message:
        text = escaped(message)
        if sort is FileError:
            words = text.lower()
            sort = next((better for word, better in _WORDS if word in words), FileError)
    return sort(f"{about}{text[:1].lower()}{text[1:]}", server=server)


def parse_handle(body: memoryview) -> bytes:
    """The handle of a HANDLE, as the string that goes into requests."""
    handle, _ = take_string(body, 0)
    if len(handle) > MAX_HANDLE:
        raise ProtocolViolation(f"handle of {len(handle)} bytes")
    return string(handle)


def _attrs(data: bytes | memoryview, pos: int) -> tuple[FileStat, int]:
    if data[pos : pos + 4] == _USUAL_FLAGS and len(data) - pos >= _USUAL.size:
        _, size, _, _, mode, _, mtime = _USUAL.unpack_from(data, pos)
        if size >= _SIZE_LIMIT:
            raise ProtocolViolation(f"a file of {size} bytes")
        return FileStat(_KINDS.get(mode & 0o170000, "other"), size, mtime), pos + _USUAL.size
    size, mode, mtime = -1, 0, 0
    (flags,) = U32.unpack_from(data, pos)
    pos += 4
    if flags & 1:
        (size,) = U64.unpack_from(data, pos)
        pos += 8
    if flags & 2:
        pos += 8
    if flags & 4:
        (mode,) = U32.unpack_from(data, pos)
        pos += 4
    if flags & 8:
        (mtime,) = U32.unpack_from(data, pos + 4)
        pos += 8
    if flags & 0x80000000:
        (count,) = U32.unpack_from(data, pos)
        pos += 4
        if count > (len(data) - pos) // 8:
            raise ProtocolViolation(f"{count} extended attributes in a packet of {len(data)} bytes")
        for _ in range(2 * count):
            pos += 4 + U32.unpack_from(data, pos)[0]
    kind = _KINDS.get(mode & 0o170000, "other")
    if size >= _SIZE_LIMIT:
        raise ProtocolViolation(f"a file of {size} bytes")
    if size < 0 and kind == "file":
        raise ProtocolViolation("attributes of a file without its size")
    return FileStat(kind, max(size, 0), mtime), pos


def parse_attrs(body: memoryview) -> FileStat:
    """The attributes of an ATTRS."""
    try:
        stat, end = _attrs(body, 0)
    except struct.error as error:
        raise ProtocolViolation("short attributes") from error
    if end > len(body):
        raise ProtocolViolation("short attributes")
    return stat


def parse_names(body: memoryview) -> tuple[int, list[DirEntry]]:
    """How many names a NAME brings, and the entries without `.` and `..`; a name that is no name is a violation."""
    data = bytes(body)
    entries = []
    try:
        (count,) = U32.unpack_from(data)
        if count > len(data) // 12:
            raise ProtocolViolation(f"{count} names in a packet of {len(data)} bytes")
        pos = 4
        for _ in range(count):
            start = pos + 4
            pos = start + U32.unpack_from(data, pos)[0]
            name = data[start:pos]
            pos += 4 + U32.unpack_from(data, pos)[0]
            stat, pos = _attrs(data, pos)
            if name in (b".", b".."):
                continue
            if not name or b"/" in name or b"\0" in name:
                raise ProtocolViolation(f"a name that is none: {escaped(name, 40)!r}")
            if len(name) > MAX_NAME:
                raise ProtocolViolation(f"a name of {len(name)} bytes")
            entries.append(DirEntry(name.decode("utf-8", "surrogateescape"), stat))
    except struct.error as error:
        raise ProtocolViolation("short list of names") from error
    if pos > len(data):
        raise ProtocolViolation("short list of names")
    return count, entries


def parse_version(body: memoryview) -> frozenset[str]:
    """Names of the extensions that a VERSION offers, without those whose version we do not know."""
    offered = set()
    pos = 0
    while pos < len(body):
        name, pos = take_string(body, pos)
        data, pos = take_string(body, pos)
        text = escaped(name)
        if UNDERSTOOD.get(text, data) == data:
            offered.add(text)
    return frozenset(offered)


def parse_limits(body: memoryview) -> tuple[int, int, int, int]:
    """The answer to limits@openssh.com: longest packet, READ and WRITE in bytes, open handles; 0 is no limit."""
    if len(body) < _LIMITS.size:
        raise ProtocolViolation("short limits")
    packet, read, write, handles = _LIMITS.unpack_from(body)
    return packet, read, write, handles


def parse_statvfs(body: memoryview) -> Space:
    """The answer to statvfs@openssh.com."""
    if len(body) < _STATVFS.size:
        raise ProtocolViolation("short statvfs")
    _, fragment, blocks, _, available, *_ = _STATVFS.unpack_from(body)
    return Space(free=fragment * available, total=fragment * blocks)
