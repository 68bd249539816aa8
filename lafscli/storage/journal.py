"""Uploads under way, for resume: `state/uploads/<SI>` (DESIGN §1.9).

    {"version": 1, "shares": {"3": {"server": "nas", "staged": "staging/…", "offset": 1048576}}}

The file is locked while its upload runs: whoever does not get the lock does not resume, and writes no journal.
Losing a journal costs time, never data; what it says is proven before it is used.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lafscli.primitives.encoding import b32decode, b32encode
from lafscli.storage.store import StorageIndex

_STAGED = re.compile(r"staging/[a-z2-7]{26}\.[0-9]{1,3}\.[a-z2-7]{26}")
_MAX_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class Staged:
    """A share being written: on which server, under which name, and how much of it (bytes) is known to be durable."""

    server: str
    name: str
    offset: int


class Journal:
    """The folder of all uploads under way; made when it is first used (0700)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, si: StorageIndex) -> UploadRecord | None:
        """Lock and read the record of this upload; None while another process has it, or where nothing can be
        written."""
        path = self._folder / b32encode(si)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            while True:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if _still_there(path, file):
                        return UploadRecord(path, file)
                except BaseException:
                    os.close(file)
                    raise
                os.close(file)  # the one who had the lock has removed this file: take the new one
        except OSError:
            return None

    def running(self) -> list[str]:
        """The storage indexes (base32) that have a record."""
        try:
            return sorted(path.name for path in self._folder.iterdir())
        except OSError:
            return []

    def under_way(self) -> frozenset[StorageIndex]:
        """The uploads that some process is at right now."""
        return frozenset(si for name in self.running() if (si := _index(name)) and _locked(self._folder / name))


class UploadRecord:
    """What is known of one upload; holds the lock until it is closed. `staged`: share number to where it is."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file
        self.staged: dict[int, Staged] = _parse(os.pread(file, _MAX_SIZE, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def save(self) -> None:
        """Write down what is known. A crash between the two writes leaves a record that says nothing."""
        shares = {
            str(shnum): {"server": staged.server, "staged": staged.name, "offset": staged.offset}
            for shnum, staged in sorted(self.staged.items())
        }
        data = json.dumps({"version": 1, "shares": shares}).encode()
        with suppress(OSError):
            os.pwrite(self._file, data, 0)
            os.ftruncate(self._file, len(data))

    def finish(self) -> None:
        """The upload is complete, or nothing of it is left: forget it."""
        self.staged.clear()
        with suppress(OSError):
            self._path.unlink()

    def close(self) -> None:
        """Give the lock back; the record stays unless it says nothing."""
        if not self.staged:
            self.finish()
        os.close(self._file)


def _index(name: str) -> StorageIndex | None:
    try:
        return b32decode(name)
    except ValueError:
        return None


def _locked(path: Path) -> bool:
    """Whether somebody has the lock of a record."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def _still_there(path: Path, file: int) -> bool:
    try:
        there, here = path.stat(), os.fstat(file)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _parse(data: bytes) -> dict[int, Staged]:
    """The record; a broken one says nothing."""
    try:
        record = json.loads(data)
        if record["version"] != 1:
            return {}
        staged = {
            int(shnum): Staged(str(item["server"]), str(item["staged"]), int(item["offset"]))
            for shnum, item in record["shares"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}
    good = all(_STAGED.fullmatch(item.name) and item.offset >= 0 for item in staged.values())
    return staged if good else {}
