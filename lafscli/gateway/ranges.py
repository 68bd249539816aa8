"""Which part of a file a request wants (RFC 9110 §14): one range of bytes, or all of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=\s*(\d{0,99})-(\d{0,99})\s*", re.ASCII | re.IGNORECASE)


class Unsatisfiable(Exception):
    """No byte of the file, which has `size`, is in the range."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


@dataclass(frozen=True, slots=True)
class Part:
    """`length` bytes from `offset` of a file of `size` bytes; `whole`: no range was asked for."""

    offset: int
    length: int
    size: int
    whole: bool = False

    @property
    def content_range(self) -> str:
        return f"bytes {self.offset}-{self.offset + self.length - 1}/{self.size}"


def part(header: str | None, size: int) -> Part:
    """The part that a Range header names. One of several ranges, or that is none, is as if it were not there."""
    found = None if header is None else _RANGE.fullmatch(header.strip())
    if found is None or found.group(1, 2) == ("", ""):
        return Part(0, size, size, whole=True)
    first, last = found.group(1, 2)
    if not first:
        length = min(int(last), size)
        if int(last) == 0:
            raise Unsatisfiable(size)
        # of an empty file the last bytes are all of it, which no Content-Range can say
        return Part(size - length, length, size, whole=not size)
    start, end = int(first), int(last) if last else size - 1
    if last and end < start:
        return Part(0, size, size, whole=True)
    if start >= size:
        raise Unsatisfiable(size)
    return Part(start, min(end, size - 1) - start + 1, size)
