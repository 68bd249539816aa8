"""The extensions of `lafs serve`: bodies of calls, and reading of replies that may be hostile.

Numbers are big endian; a string is a u32 length and that many bytes; SI is 16 bytes.

    policy        -                                          string  JSON
    presence      u8 0, u32 count, count x (SI, u32 shnum)   u32 count, count x u64 size of the container; 2^64-1: none
                  u8 1, u32 count, count x SI                u32 count, count x (u32 count, each (u32 shnum, u64 size))
    inventory     string cursor, u32 most                    u32 count, count x (SI, u32 shnum, u64 size),
                                                             string cursor
    guard         u8 0 take, SI, string owner                string token, u64 the server's time
                  u8 1 release, or 2 set aside,              -
                  SI, string token
    replace       SI, string token, u8 1 for quarantine,     u32 count, count x (u32 status, string message)
                  u32 count, count x u32 shnum
    cancel-lease  u32 count, count x                         u32 count, count x (u32 status, string message)
                  (SI, u32 shnum, 32s cancel secret),
                  nothing or count x u32 latest end

replace with `quarantine` puts what stands there away, if it fails its own proof, where nothing is staged.
A reply that makes no sense raises ProtocolViolation, whose message says what is wrong with it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from lafscli.errors import FileError
from lafscli.primitives.encoding import b32encode
from lafscli.storage.ops import Policy
from lafscli.storage.packets import OK, ProtocolViolation, escaped, refused, string
from lafscli.storage.shares import StorageIndex

MOST = 8000
"""Items of one call, or one reply, at most."""
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_SHARE = struct.Struct(">16sI")
_SIZED = struct.Struct(">IQ")
_ENTRY = struct.Struct(">16sIQ")
_CANCEL = struct.Struct(">16sI32s")
_NONE = (1 << 64) - 1
_TOO_LARGE = 1 << 63  # no file is that long
_MOST_NUMBERS = 256
_TOKEN_SIZE = 64
_CURSOR_SIZE = 4096
_POLICY_SIZE = 64 * 1024
_SOFTWARE = 80
TAKE, RELEASE, SET_ASIDE = 0, 1, 2


class _Reply:
    """A reply, read from its start; it must end where it is done."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    def take(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The next fields."""
        if len(self._data) - self._pos < layout.size:
            raise ProtocolViolation("a reply that is too short")
        self._pos += layout.size
        return layout.unpack_from(self._data, self._pos - layout.size)

    def number(self, most: int, what: str) -> int:
        """The next u32, which is a count or a share number."""
        value = int(self.take(_U32)[0])
        if value > most:
            raise ProtocolViolation(f"{value} {what}")
        return value

    def string(self, most: int) -> bytes:
        """The next string."""
        length = self.number(most, "bytes of a string")
        if len(self._data) - self._pos < length:
            raise ProtocolViolation("a string longer than its reply")
        self._pos += length
        return self._data[self._pos - length : self._pos]

    def end(self) -> None:
        """Nothing may be left."""
        if self._pos != len(self._data):
            raise ProtocolViolation(f"{len(self._data) - self._pos} bytes behind a reply")


def _size(value: int) -> int:
    if value >= _TOO_LARGE:
        raise ProtocolViolation(f"a share of {value} bytes")
    return value


def _insist_on(count: int, wanted: int) -> None:
    if count != wanted:
        raise ProtocolViolation(f"{count} answers to {wanted} questions")


# ---- policy


def parse_policy(reply: bytes) -> Policy:
    """The rules in force."""
    body = _Reply(reply)
    text = body.string(_POLICY_SIZE)
    body.end()
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation("a policy that is not JSON") from error
    if not isinstance(table, dict):
        raise ProtocolViolation("a policy that is no object")
    software = table.get("software", "")
    if not isinstance(software, str):
        raise ProtocolViolation("software that is no text")

    def flag(key: str) -> bool:
        value = table.get(key, False)
        if not isinstance(value, bool):
            raise ProtocolViolation(f"a policy whose {key} is neither true nor false")
        return value

    def size(key: str) -> int | None:
        value = table.get(key)
        if value is None:
            return None
        if type(value) is not int or not 0 <= value < _TOO_LARGE:
            raise ProtocolViolation(f"a policy whose {key} is no size")
        return value

    return Policy(
        escaped(software, _SOFTWARE),
        flag("append_only"),
        flag("read_only"),
        size("quota"),
        size("used"),
        size("reserve") or 0,
        size("history") or 0,
    )


# ---- presence


def ask_sizes(shares: Sequence[tuple[StorageIndex, int]]) -> bytes:
    """Of these shares, the sizes of their containers."""
    return b"\0" + _U32.pack(len(shares)) + b"".join(_SHARE.pack(si, shnum) for si, shnum in shares)


def parse_sizes(reply: bytes, count: int) -> list[int | None]:
    """As many sizes as were asked for; None where there is no share."""
    body = _Reply(reply)
    _insist_on(body.number(_NONE, "sizes"), count)
    values = [int(body.take(_U64)[0]) for _ in range(count)]
    body.end()
    return [None if value == _NONE else _size(value) for value in values]


def ask_shares(sis: Sequence[StorageIndex]) -> bytes:
    """Of these storage indexes, all shares."""
    return b"\1" + _U32.pack(len(sis)) + b"".join(sis)


def parse_shares(reply: bytes, count: int) -> list[dict[int, int]]:
    """Of each storage index the sizes of its containers, by number."""
    body = _Reply(reply)
    _insist_on(body.number(_NONE, "answers"), count)
    answers: list[dict[int, int]] = []
    for _ in range(count):
        sizes: dict[int, int] = {}
        for _ in range(body.number(_MOST_NUMBERS, "shares of one object")):
            shnum, size = body.take(_SIZED)
            if shnum >= _MOST_NUMBERS or shnum in sizes:
                raise ProtocolViolation(f"a share number {shnum}, or twice the same")
            sizes[shnum] = _size(size)
        answers.append(sizes)
    body.end()
    return answers


# ---- inventory


def ask_inventory(cursor: bytes, most: int = MOST) -> bytes:
    """The next shares behind a cursor."""
    return string(cursor) + _U32.pack(most)


class Inventory:
    """The pages of an inventory, read one after the other. They must be in order, all in all: so they end one day."""

    def __init__(self) -> None:
        self.cursor = b""
        """Leads on to the next page, and is empty at the end."""
        self._last = ""
        self._numbers: set[int] = set()

    def page(self, reply: bytes) -> list[tuple[StorageIndex, int, int]]:
        """The shares of the next page."""
        body = _Reply(reply)
        shares: list[tuple[StorageIndex, int, int]] = []
        for _ in range(body.number(MOST, "shares in one reply")):
            si, shnum, size = body.take(_ENTRY)
            text = self._last if shares and shares[-1][0] == si else b32encode(si)
            if text != self._last:
                self._numbers.clear()
            if text < self._last or shnum >= _MOST_NUMBERS or shnum in self._numbers:
                raise ProtocolViolation("shares out of their order")
            self._last = text
            self._numbers.add(shnum)
            shares.append((si, shnum, _size(size)))
        self.cursor = body.string(_CURSOR_SIZE)
        body.end()
        if self.cursor and not shares:
            raise ProtocolViolation("an empty page that is not the last")
        return shares


# ---- guards


def ask_guard(si: StorageIndex, owner: bytes) -> bytes:
    """Take the guard; `owner` is for people who look at it."""
    return bytes([TAKE]) + si + string(owner)


def parse_guard(reply: bytes) -> tuple[str, int]:
    """The token of the guard that was taken, and the server's time."""
    body = _Reply(reply)
    token = body.string(_TOKEN_SIZE)
    (now,) = body.take(_U64)
    body.end()
    # It becomes the name of a folder.
    if not token.isalnum():
        raise ProtocolViolation(f"a token that is none: {escaped(token, 40)!r}")
    return token.decode("ascii"), min(int(now), 0xFFFFFFFF)


def give_up_guard(how: int, si: StorageIndex, token: str) -> bytes:
    """Give a guard up: RELEASE or SET_ASIDE."""
    return bytes([how]) + si + string(token.encode())


def replace_shares(si: StorageIndex, token: str, shnums: Sequence[int], *, quarantine: bool) -> bytes:
    """Put what was staged under a guard in place. `quarantine`: what lies there is bad."""
    numbers = b"".join(_U32.pack(shnum) for shnum in shnums)
    return si + string(token.encode()) + bytes([quarantine]) + _U32.pack(len(shnums)) + numbers


def cancel_leases(items: Sequence[tuple[StorageIndex, int, bytes]], latest: Sequence[int] = ()) -> bytes:
    """Give up leases, by their cancel secrets. `latest`: of each, when it ends; one that ends later by now is kept."""
    ends = b"".join(_U32.pack(end) for end in latest)
    return _U32.pack(len(items)) + b"".join(_CANCEL.pack(*item) for item in items) + ends


def parse_outcomes(reply: bytes, count: int, server: str) -> list[FileError | None]:
    """Of each item None, or why it was refused, in the server's words."""
    body = _Reply(reply)
    _insist_on(body.number(_NONE, "outcomes"), count)
    outcomes: list[FileError | None] = []
    for _ in range(count):
        (code,) = body.take(_U32)
        message = body.string(len(reply))
        outcomes.append(None if code == OK else refused(code, message, server))
    body.end()
    return outcomes
