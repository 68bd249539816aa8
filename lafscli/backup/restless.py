"""A file that does not stand still while it is read: what it is now is stored, up to where it ends now."""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO

from lafscli.errors import LafsError
from lafscli.immutable.upload import Uploaded, upload
from lafscli.storage.source import open_regular
from lafscli.storage.store import Progress
from lafscli.tree.contents import Access


def store_as_it_is(access: Access, path: bytes, progress: Progress) -> tuple[os.stat_result, Uploaded]:
    """Read it once, as a stream: a long one gets a random key, for its bytes are those of no moment. What the file
    looked like when it was opened, and what was stored."""
    with open_regular(path) as file:
        found = os.fstat(file.fileno())
        most = io.BufferedReader(_Upto(file, found.st_size))
        return found, upload(access.grid, most, access.writing, progress)


def reason_of(error: LafsError) -> str:
    """Why a file can't be read, without its path, which is told beside it."""
    cause = error.__cause__
    return f"cannot be read: {cause.strerror}" if isinstance(cause, OSError) else error.message


class _Upto(io.RawIOBase):
    """A file up to a length: one that grows faster than it is read must end too."""

    def __init__(self, file: BinaryIO, length: int) -> None:
        super().__init__()
        self._file = file
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = memoryview(buffer)[: self._left]
        count: int = self._file.readinto(piece) if piece else 0  # type: ignore[attr-defined]
        self._left -= count
        return count
