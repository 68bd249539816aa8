"""The promise: what a server is to us (ShareStore), and what a folder tree is to a store (Files).

Round trips are the cost, so everything takes batches. In every batch one bad item does not spoil the others: its
place in the answer holds the error *as a value*. Only what ends the connection is raised: ServerUnreachable.
A store is never called from two threads; `close` alone may come from another thread and wakes the one that waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from types import TracebackType
from typing import Protocol, Self

from lafscli.errors import FileError, LafsError
from lafscli.storage.membership import Membership
from lafscli.storage.ops import (
    MANY_NAMES,
    NOTHING,
    Answer,
    Ask,
    Buffer,
    DirEntry,
    FileRange,
    FileStat,
    Link,
    List,
    Look,
    Mkdir,
    NewFile,
    Op,
    Patch,
    Policy,
    Remove,
    Rename,
    Replace,
    Rmdir,
    Seen,
    Space,
    Stat,
    Touch,
    Truncate,
)
from lafscli.storage.report import Progress
from lafscli.storage.shares import Lease, LeaseOf, NewShare, Server, ShareRange, StorageIndex
from lafscli.storage.sight import Sight, Survivors
from lafscli.storage.thrown import Leased, MayGo, Thrown, Trash

__all__ = [
    "MANY_NAMES",
    "NOTHING",
    "Answer",
    "Ask",
    "Buffer",
    "DirEntry",
    "FileRange",
    "FileStat",
    "Lease",
    "LeaseOf",
    "Leased",
    "Link",
    "List",
    "Look",
    "MayGo",
    "Mkdir",
    "NewFile",
    "NewShare",
    "Op",
    "Patch",
    "Policy",
    "Progress",
    "Remove",
    "Rename",
    "Replace",
    "Rmdir",
    "Seen",
    "Server",
    "ShareRange",
    "Space",
    "Stat",
    "StorageIndex",
    "Thrown",
    "Touch",
    "Trash",
    "Truncate",
]


# ---- a folder tree ---------------------------------------------------------------------------------------------


class Reading(Protocol):
    """Ranges under way. `finish` waits for them: bytes (or a slice of `into`) or the error, in the order asked."""

    def finish(self) -> list[Buffer | FileError]: ...


class FileWriter(Protocol):
    """A file being written. Calls queue and return while the window has room; an error seen late is raised by the
    next call, and by `close` at the latest. After an error only `abandon` makes sense."""

    def write(self, data: Buffer) -> None:
        """Append. `data` must not change until `flush` or `close` has returned."""

    def write_at(self, offset: int, data: Buffer) -> None:
        """Overwrite inside what was written; the append position stays."""

    def flush(self) -> None:
        """Wait until everything written was acknowledged."""

    @property
    def durable(self) -> int:
        """How many bytes from the file's start the last answered `checkpoint` made durable."""

    def checkpoint(self) -> None:
        """Ask for what was appended so far to be made durable, without waiting (where the server offers no fsync:
        acknowledged)."""

    def close(self, *, sync: bool) -> None:
        """Flush, fsync if asked and offered, close; wait for every answer."""

    def abandon(self) -> None:
        """Close without caring; never raises. The file stays where it is."""


class Files(Protocol):
    """A folder tree, local or over SFTP. Paths are relative to its root, ASCII, joined by `/`; "" is the root."""

    @property
    def moved(self) -> float: ...

    def connect(self) -> frozenset[str]:
        """Connect if that has not happened; the extension names the server offers (`posix-rename@openssh.com` …)."""

    def close(self) -> None: ...

    def do(self, ops: Sequence[Op]) -> list[Answer]:
        """Carry out in order, pipelined: one round trip, two with a List, a NewFile or a Patch. A failed op does not
        stop the ones after it.

        That a server keeps the order is what SFTP says (draft-ietf-secsh-filexfer-02 §4.1) and what OpenSSH and
        ProFTPD do; the feature `ordered` says that `server add` saw it. What may lose data relies on it only then.
        """

    def do_and_read(self, ops: Sequence[Op], wanted: Sequence[FileRange]) -> tuple[list[Answer], Reading]:
        """`do`, and in the same round trips ask for ranges of files as they are after the ops. The answers have come
        when this returns, the data is not waited for: `read`."""

    def listing(self, paths: Sequence[str], *, most: int = MANY_NAMES) -> list[list[DirEntry] | FileError]:
        """All names in each folder; FileError for one with more than `most` of them, which are not waited for."""

    def read(self, wanted: Sequence[FileRange]) -> Reading:
        """Ask for ranges; does not wait for data. Several may be under way; finish them in order."""

    def release(self, path: str, keeper: int = 0) -> None:
        """Close a kept file; nothing if it is not open."""

    def create(self, path: str) -> FileWriter:
        """Make a new file exclusively (0600) and open it for writing."""

    def open_existing(self, path: str, *, append: bool = False) -> FileWriter:
        """Open a file that exists for overwriting in place (`write_at`) or appending at its end.

        With `append` only the latter, and always at the end that the file has when the data arrives there.
        """

    def create_many(self, files: Sequence[NewFile], *, sync: bool) -> list[FileStat | FileError | None]:
        """Many small files, pipelined: two round trips, each file answered as in a batch. What failed after it was
        made is left for the caller to remove."""

    def space(self) -> Space | None:
        """statvfs, or None where the server does not tell."""


# ---- a server --------------------------------------------------------------------------------------------------


class ShareReading(Protocol):
    """Ranges of shares under way; `finish` gives bytes or the error for each, in the order asked."""

    def finish(self) -> list[Buffer | LafsError]: ...


class ShareWriter(Protocol):
    """A new immutable share, invisible until `commit` (DESIGN: staging, one fsync, a rename that can't overwrite).

    `staged` is its name on the server until then; `resumed` is how many bytes of an earlier run it begins with.
    """

    staged: str
    resumed: int

    @property
    def durable(self) -> int:
        """How many bytes of the share are known to be durable."""

    def checkpoint(self) -> None:
        """Ask for what was appended so far to be made durable, without waiting."""

    def read_back(self, ranges: Sequence[tuple[int, int]]) -> list[Buffer | LafsError]:
        """What the staged file holds at these (offset, length) of the share."""

    def append(self, data: Buffer) -> None:
        """Queue the next bytes; `data` must not change until `seal` has returned."""

    def write_header(self, data: Buffer) -> None:
        """Overwrite the first bytes, for a share whose header is known last."""

    def seal(self) -> None:
        """Write the lease and the container header, fsync, close, compare the size: durable, still invisible."""

    def commit(self) -> None:
        """Make it visible; FileExists when a share of that number is there by now."""

    def abort(self) -> None:
        """Remove what was staged; never raises."""


class Guard(Protocol):
    """The only way to change a share that exists (spec 10 §1, §3); a context manager, released at its end.

    What was read of a share before the guard was taken must be read again under it. Every method raises GuardLost
    once another one may have the guard; nothing is changed then.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def keep(self) -> None:
        """Show that the holder lives, if it is time to: to be called while something else is done under the guard."""

    def touch(self) -> None:
        """Show it now; GuardLost tells that it is too late."""

    @property
    def seen(self) -> Seen:
        """What was looked at last: when the guard was taken, or by `look`."""

    def look(self, look: Look) -> Seen:
        """Look at something while the guard is held: two round trips."""

    def adopt(self, shnum: int, path: str) -> None:
        """Take a container that lies complete and durable elsewhere on the server, to be committed as this share."""

    @property
    def committed(self) -> frozenset[int]:
        """Numbers whose commit was acknowledged."""

    @property
    def bare(self) -> bool:
        """Whether nothing lies in it that its release would remove."""

    @property
    def sync(self) -> bool:
        """Whether what is staged is to be made durable."""

    @property
    def rhythm(self) -> float:
        """Seconds within which `keep` should be called again."""

    def stage(self, shares: Sequence[tuple[int, Sequence[Buffer]]], *, look: Sequence[FileRange] = ()) -> Reading:
        """Stage small whole containers, durably; invisible until `commit`. Two round trips, in which other files can
        be read: `look`."""

    def create(self, shnum: int) -> FileWriter:
        """Stage a container piece by piece; it counts once `close` has returned."""

    def commit(self, shnums: Sequence[int], *, quarantine: bool, then: Sequence[FileRange] = ()) -> Reading:
        """Put what was staged in place; with `quarantine`, what lies there is bad and is kept in `quarantine/`.
        On an error `committed` tells what did get there. One round trip; `then` is asked for behind it, and its data
        not waited for."""

    def bury(self, shnums: Sequence[int], lease: Lease, /) -> None:
        """Move shares that are bad to `quarantine/`; nothing comes in their place. A server that judges for itself
        keeps those that prove; `lease`, ours, is given up then, and they go if it was their last: else NotSupported."""

    def release(self) -> None:
        """Remove what was staged, and the guard."""

    def set_aside(self) -> None:
        """Give the guard up, and keep all that is in it for the next writer (spec 10 §2.8f)."""


@dataclass(frozen=True, slots=True)
class Entered:
    """A guard on a mutable file, and what was seen under it: in place, in guards, and the list of servers."""

    guard: Guard
    placed: Sight
    left: Sight
    membership: Membership | None


class ListGuard(AbstractContextManager["ListGuard"], Protocol):
    """The right to change the list of the grid's servers on one server; released at its end.

    GuardLost from any method: another one has it, and nothing was changed.
    """

    def keep(self) -> None:
        """Show that the holder lives, if it is time to."""

    def read(self) -> Membership | None:
        """The list that stands there now."""

    def stage(self, membership: Membership) -> None:
        """Write another one, durably and still invisible."""

    def commit(self) -> None:
        """Put it in place, and see that it stands there."""


class ShareStore(Protocol):
    """All that a server is to us; `tests/store_contract.py` is this contract, run."""

    server: Server

    @property
    def trash(self) -> Trash: ...

    @property
    def moved(self) -> float:
        """When it showed life last, by `time.monotonic`; -inf where that is not known. Any thread may ask."""

    def connect(self, proof_age: float = inf) -> None:
        """Connect, and make sure that it is the server of our records, once and anew after `proof_age` seconds (a disk
        may be unmounted meanwhile): ServerUnreachable otherwise. With an age nothing may be under way."""

    def close(self) -> None: ...

    def shares(self, sis: Sequence[StorageIndex]) -> list[frozenset[int] | LafsError]:
        """Which share numbers are there; by name only, nothing is proved."""

    def present(self, shares: Sequence[tuple[StorageIndex, int]]) -> list[int | LafsError | None]:
        """Size of the container file, None where there is none; one LSTAT each."""

    def read(self, wanted: Sequence[ShareRange]) -> ShareReading:
        """Ask for ranges; does not wait. Short where the share ends; an unreadable container is the item's error."""

    def share_size(self, shares: Sequence[tuple[StorageIndex, int]]) -> list[int | LafsError]:
        """Size of the share inside its container, from the container's header."""

    def release(self, si: StorageIndex, shnum: int, keeper: int = 0) -> None:
        """Close what `keep` left open."""

    def create(
        self, si: StorageIndex, shnum: int, *, lease: Lease, resume: tuple[str, int] | None = None
    ) -> ShareWriter:
        """Begin a share. `resume` names a staged file of an earlier run and how many bytes of the share in it were
        durable: it is cut to that and gone on with, if it is still there and no share has taken its place."""

    def discard_staged(self, staged: str) -> None:
        """Remove a staged file of an earlier run; never raises."""

    def create_many(self, shares: Sequence[NewShare]) -> list[LafsError | None]:
        """Small whole shares, committed and durable; FileExists for one that is there already."""

    def withdraw(self, shares: Sequence[LeaseOf]) -> None:
        """Remove shares that this very operation has placed under these leases, and that nobody else can know of;
        never raises."""

    def renew(self, items: Sequence[LeaseOf]) -> list[bool | LafsError]:
        """Set the later expiration in one's own record: True. False where no record is ours."""

    def add_lease(self, items: Sequence[LeaseOf]) -> list[bool | LafsError]:
        """A new lease record, under the guard: True. False where one of ours was there, and was renewed."""

    def guard(self, si: StorageIndex, *, patience: float = 0.0, look: Look = NOTHING) -> Guard:
        """Take the guard on an object; where another one has it, try for so many seconds, then GuardHeld. With it
        come the answers to `look`: two round trips in all.
        NotSupported on a server where nothing that exists can be changed."""

    def enter(self, si: StorageIndex, depth: int, expected: Sequence[int] = (), *, patience: float = 0.0) -> Entered:
        """Take the guard on a mutable file, as `guard` does, and look at everything again under it. Two round trips
        in all where no other share numbers lie there than those `expected`, and nobody left a guard."""

    def slots(
        self, sis: Sequence[StorageIndex], depth: int, expected: Sequence[int | None] | None = None
    ) -> list[Sight | LafsError]:
        """What lies in place of mutable files: of each container the first `depth` bytes. Two round trips where only
        the number `expected` of each lies there, else four."""

    def everywhere(self, si: StorageIndex, depth: int, expected: Sequence[int] = ()) -> tuple[Sight, Sight]:
        """What lies in place of a mutable file, and what lies in its guard and its broken ones. Two round trips where
        no other share numbers lie there than those `expected`, and nobody is about to change it."""

    def settle(self) -> None:
        """Break guards of our own on which a connection was lost, so that nobody waits for them (spec 10 §1.1)."""

    def forget(self, found: Survivors) -> None:
        """Remove broken guards, with what was found in them (spec 10 §2.8g)."""

    def inventory(self) -> Iterator[tuple[StorageIndex, int, int]]:
        """Every share: SI, number, size of its container. A folder that can't be listed is raised, after the rest."""

    def named(self, prefixes: Sequence[str]) -> list[frozenset[str] | LafsError]:
        """Of each two letters: the storage indexes, in base32, that begin with them and have a folder, whatever is in
        it."""

    def sweep_staging(self, older_than: int) -> int:
        """Remove staged files older than so many seconds by the server's clock; how many."""

    def space(self) -> Space | None: ...

    def policy(self) -> Policy | None:
        """The rules in force there, where the server knows what a share is and tells them."""

    def membership(self) -> Membership | None:
        """The list of the grid's servers as it stands there (spec 10 §2.7), or None. ServerError: it can't be used."""

    def guard_list(self) -> ListGuard:
        """Take the guard on that list, now or GuardHeld."""

    def changing(self) -> frozenset[StorageIndex]:
        """The objects on which a guard is held, or left of somebody who fell."""
