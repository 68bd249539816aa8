"""What is asked of a folder tree, and what it answers: values only.

An answer is in the place of what was asked; one that failed is a FileError, as a value (`store.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lafscli.errors import FileError

Buffer = bytes | bytearray | memoryview

MANY_NAMES = 1_000_000
"""Names that a folder may have; a server that lists more is no server of ours."""


@dataclass(frozen=True, slots=True)
class FileStat:
    """What LSTAT says. `kind` is one of file, dir, link, other; `mtime` in whole seconds of the server's clock."""

    kind: str
    size: int
    mtime: int


@dataclass(frozen=True, slots=True)
class DirEntry:
    """One name of a folder. `.` and `..` are never listed; a name with `/` or NUL never gets here."""

    name: str
    stat: FileStat


@dataclass(frozen=True, slots=True)
class Stat:
    """Look at `path` itself, not at what it links to; answers FileStat."""

    path: str


@dataclass(frozen=True, slots=True)
class Mkdir:
    """Make one folder (0700). A folder that exists is a FileError, of whatever sort the server says."""

    path: str


@dataclass(frozen=True, slots=True)
class Rename:
    """Move; must fail when `new` exists. On OpenSSH: the v3 rename. `Files.features` says what the server does."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Move, replacing `new` atomically (posix-rename@openssh.com); NotSupported where that is not offered."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Link:
    """Make the hard link `new` of `old` (hardlink@openssh.com)."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a file or symlink."""

    path: str


@dataclass(frozen=True, slots=True)
class Rmdir:
    """Remove an empty folder."""

    path: str


@dataclass(frozen=True, slots=True)
class Touch:
    """Set atime and mtime, in whole seconds."""

    path: str
    mtime: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """Cut a file to `size`."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Patch:
    """Overwrite a few bytes inside a file that exists; done by the end of its batch, not in order."""

    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class List:
    """All names in a folder, as a list of DirEntry; FileError for one with more than `most`, which are not waited
    for. The folder is opened at its place in the batch; names that come or go meanwhile may be among them."""

    path: str
    most: int = MANY_NAMES


@dataclass(frozen=True, slots=True)
class NewFile:
    """A small whole file: made exclusively at `path` (0600), filled with `parts` joined, synced where asked and
    offered, closed.

    In a batch it is *made* at its place; its data may arrive after the ops that follow, even after one that moved
    it, but before the batch is answered; with `sync` it is durable then. With `stat` the answer is what a look at the
    path says after all that.
    """

    path: str
    parts: Sequence[Buffer]
    sync: bool = False
    stat: bool = False


@dataclass(frozen=True, slots=True)
class Ask:
    """Call an extension of the server, by its name; answers the bytes of the reply (none where it only says OK).
    NotSupported where it is not offered. `safe`: the call changes nothing, so it may be made again."""

    extension: str
    body: bytes = field(default=b"", repr=False)
    safe: bool = False

    @property
    def path(self) -> str:
        """It is about the server."""
        return ""


Op = Stat | Mkdir | Rename | Replace | Link | Remove | Rmdir | Touch | Truncate | Patch | List | NewFile | Ask
Answer = FileStat | list[DirEntry] | bytes | FileError | None
"""FileStat to Stat (and NewFile with `stat`), a list to List, bytes to Ask, None to all others; what was refused, or
failed later, is a FileError."""


@dataclass(frozen=True, slots=True)
class FileRange:
    """`length` bytes of `path` from `offset`; fewer come back where the file ends earlier.

    `into`, if given, is a writable buffer of `length` bytes that the data is read straight into; the answer is then
    a slice of it. `keep` asks to keep the file open for the next range of the same path by the same `keeper` (a kept
    file is not looked up again), until `Files.release`. Those who have a number of their own (`new_keeper`) do not
    disturb one another: what one keeps open may be an old version of what another one finds.
    """

    path: str
    offset: int
    length: int
    keep: bool = False
    into: memoryview | None = field(default=None, compare=False)
    keeper: int = 0


@dataclass(frozen=True, slots=True)
class Look:
    """What is to be looked at in one go: ops that change nothing, and ranges of files."""

    ops: Sequence[Op] = ()
    ranges: Sequence[FileRange] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a Look saw: the answers to its ops, the data of its ranges, each in the place of what was asked."""

    answers: Sequence[Answer] = ()
    data: Sequence[Buffer | FileError] = ()


NOTHING = Look()


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes free to this user, and in all."""

    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Policy:
    """What a server says of itself: its rules, sizes in bytes. `used` is None where nothing is counted."""

    software: str
    append_only: bool
    read_only: bool
    quota: int | None
    used: int | None
    reserve: int
    history: int
