"""Sealed recovery kits beside `server.toml`: `recovery/<home>.<number>.kit`.

`home` is 16 letters of base32 that stand for a home and tell nothing of it, so that the kits of two homes do not meet;
a new kit gets the next number. It is staged in `staging/` and moved by a rename that can't overwrite, so nothing that
is there is ever changed; but the oldest of one home go, down to KEPT. What a listing says comes from the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from lafscli.errors import FileError, FileMissing, ServerError
from lafscli.primitives.encoding import b32encode
from lafscli.storage.store import FileRange, Files, Mkdir, NewFile, Remove, Rename

FOLDER = "recovery"
KEPT = 5
_MOST_NAMES = 10_000
_NAME = re.compile(r"([a-z2-7]{16})\.([1-9][0-9]{0,8})\.kit")
_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class Found:
    """A kit on a server; `mtime` by the server's clock."""

    home: str
    number: int
    size: int
    mtime: int

    @property
    def name(self) -> str:
        """What users call it: the name of its file without `.kit`."""
        return f"{self.home}.{self.number}"

    @property
    def path(self) -> str:
        """Below the folder of the server."""
        return _path(self.home, self.number)


def kits(files: Files) -> list[Found]:
    """The kits that lie there, the latest of each home first. ServerError where they can't be listed."""
    [entries] = files.listing([FOLDER], most=_MOST_NAMES)
    if isinstance(entries, FileMissing):
        return []
    if isinstance(entries, FileError):
        raise entries
    matches = [(entry, _NAME.fullmatch(entry.name)) for entry in entries if entry.stat.kind == "file"]
    found = [Found(match[1], int(match[2]), entry.stat.size, entry.stat.mtime) for entry, match in matches if match]
    return sorted(found, key=lambda kit: (kit.home, -kit.number))


def leave_kit(files: Files, home: str, data: bytes, random_bytes: Callable[[int], bytes], *, sync: bool) -> Found:
    """Put a kit there, see that it can be read, and remove the oldest of this home."""
    files.do([Mkdir(FOLDER)])  # refused where it is there; the next answer tells
    for _ in range(_ATTEMPTS):
        numbers = [kit.number for kit in kits(files) if kit.home == home]
        number = max(numbers, default=0) + 1
        path, staged = _path(home, number), f"staging/{FOLDER}.kit.{b32encode(random_bytes(16))}"
        [refusal] = files.create_many([NewFile(staged, [data])], sync=sync)
        if isinstance(refusal, FileError):
            files.do([Remove(staged)])
            raise refusal
        refused, _ = files.do([Rename(staged, path), Remove(staged)])
        if not isinstance(refused, FileError):
            break
        if number not in [kit.number for kit in kits(files) if kit.home == home]:  # nobody else was faster
            raise refused
    else:
        raise ServerError("others leave kits of this home there at the same time")
    if fetch_kit(files, Found(home, number, len(data), 0)) != data:
        raise ServerError("what was written as the recovery kit does not stand there")
    files.do([Remove(_path(home, old)) for old in numbers if old <= number - KEPT])
    return Found(home, number, len(data), 0)


def fetch_kit(files: Files, kit: Found) -> bytes:
    """The bytes of a kit, as the server gives them."""
    [answer] = files.read([FileRange(kit.path, 0, kit.size)]).finish()
    if isinstance(answer, FileError):
        raise answer
    return bytes(answer)


def _path(home: str, number: int) -> str:
    return f"{FOLDER}/{home}.{number}.kit"
