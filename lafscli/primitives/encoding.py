"""Base32, netstrings, and a reader of bytes that come from strangers (spec 01 §1, §2)."""

from __future__ import annotations

import base64
import binascii

from lafscli.errors import CorruptShare

Buffer = bytes | bytearray | memoryview

_MAX_LENGTH_DIGITS = 10  # a netstring longer than 10 GB is nothing that we read into memory


def b32encode(data: Buffer) -> str:
    """Lower-case RFC 4648 base32 without padding."""
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def b32decode(text: str) -> bytes:
    """The one byte string that `b32encode` makes `text` of; ValueError (which never shows the text) for any other."""
    try:
        data = base64.b32decode(text.upper().encode("ascii") + b"=" * (-len(text) % 8))
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not base32") from None
    # the library is lax about filler bits and padding inside; encoding is exact
    if b32encode(data) != text:
        raise ValueError("not canonical base32")
    return data


def netstring(data: bytes) -> bytes:
    """Decimal length, colon, data, comma."""
    return b"%d:%b," % (len(data), data)


class Reader:
    """Takes fields off the front of `data`; CorruptShare names `what` and the field when the bytes are not there."""

    __slots__ = ("_data", "_position", "_what")

    def __init__(self, data: Buffer, what: str = "share") -> None:
        self._data = memoryview(data)
        self._position = 0
        self._what = what

    def take(self, count: int, field: str = "field") -> bytes:
        """The next `count` bytes."""
        end = self._position + count
        if count < 0 or end > len(self._data):
            raise CorruptShare(f"{self._what}: {field} is cut short")
        taken = bytes(self._data[self._position : end])
        self._position = end
        return taken

    def u8(self, field: str = "field") -> int:
        return self.take(1, field)[0]

    def u16(self, field: str = "field") -> int:
        return int.from_bytes(self.take(2, field), "big")

    def u32(self, field: str = "field") -> int:
        return int.from_bytes(self.take(4, field), "big")

    def u64(self, field: str = "field") -> int:
        return int.from_bytes(self.take(8, field), "big")

    def until(self, stop: bytes, limit: int, field: str = "field") -> bytes:
        """The bytes before the next `stop` (one byte, which is consumed), at most `limit` of them."""
        ahead = bytes(self._data[self._position : self._position + limit + 1])
        length = ahead.find(stop)
        if length < 0:
            raise CorruptShare(f"{self._what}: {field} does not end")
        self._position += length + 1
        return ahead[:length]

    def netstring(self, field: str = "field") -> bytes:
        """The content of the next netstring; leading zeros, signs and spaces in its length are refused."""
        digits = self.until(b":", _MAX_LENGTH_DIGITS, field)
        if not digits.isdigit() or (len(digits) > 1 and digits[0] == ord("0")):
            raise CorruptShare(f"{self._what}: {field} has no proper length")
        content = self.take(int(digits), field)
        if self.take(1, field) != b",":
            raise CorruptShare(f"{self._what}: {field} does not end with a comma")
        return content

    def remaining(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._position

    def end(self) -> None:
        """Insist that nothing is left."""
        if self.remaining():
            raise CorruptShare(f"{self._what}: {self.remaining()} bytes are left over")
