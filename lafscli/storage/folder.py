"""Shares in a folder tree, over any `Files` access (spec 02 §6, 09; DESIGN: folders of a server, staging).

`shares/<2 chars>/<SI>/<number>` holds containers that are complete; `staging/<SI>.<number>.<token>` those that are
being written. A share appears by a rename that can't overwrite, after its size was compared.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from math import inf

from lafscli.errors import (
    CorruptShare,
    FileError,
    FileExists,
    FileMissing,
    LafsError,
    NotSupported,
    ServerError,
    ServerUnreachable,
)
from lafscli.formats import container
from lafscli.primitives.encoding import b32encode
from lafscli.storage import leases
from lafscli.storage.calls import Calls
from lafscli.storage.enrol import read_identity
from lafscli.storage.guard import FolderGuard
from lafscli.storage.inventory import list_everything
from lafscli.storage.leftovers import names_in
from lafscli.storage.locks import LOCK_SECONDS, PATIENCE, Locks
from lafscli.storage.membership import Membership
from lafscli.storage.serverfile import IDENTITY_RANGE, LIST_LOCK, FileListGuard, membership_in, read_membership
from lafscli.storage.shareranges import ReadingShares
from lafscli.storage.sight import Sight, Survivors
from lafscli.storage.slots import MOST_SHARES, is_share, list_shares, look, look_everywhere, look_into_guards, sights
from lafscli.storage.staged import StagedShare, around, in_words, plainly, size_error
from lafscli.storage.store import (
    NOTHING,
    Answer,
    Buffer,
    Entered,
    FileRange,
    Files,
    FileStat,
    Lease,
    LeaseOf,
    Link,
    List,
    Look,
    Mkdir,
    NewFile,
    NewShare,
    Op,
    Policy,
    Remove,
    Rename,
    Rmdir,
    Server,
    ShareRange,
    ShareReading,
    ShareWriter,
    Space,
    Stat,
    StorageIndex,
    Truncate,
)
from lafscli.storage.trash import FolderTrash


class FolderStore:
    """A `ShareStore` kept in a folder tree.

    `sync` asks for one fsync a share before it becomes visible. `random_bytes` makes the tokens of staged names.
    `lock_seconds`: a guard in which nothing changed for so long is stale (spec 10 §1.4).
    """

    def __init__(
        self,
        server: Server,
        files: Files,
        *,
        random_bytes: Callable[[int], bytes],
        sync: bool = True,
        lock_seconds: float = LOCK_SECONDS,
    ) -> None:
        self.server = server
        self.files = files
        self.locks = Locks(server, files, random_bytes=random_bytes, sync=sync, lock_seconds=lock_seconds)
        self._calls = Calls(files, server.name)
        self.trash = FolderTrash(server.name, files, self.locks, random_bytes)
        self._random_bytes = random_bytes
        self._sync = sync
        self._proved = -inf  # when it was seen last that this is the server
        self._folders: set[str] = set()  # of two letters; those of each object would be many
        self._readable: set[str] = set()

    @property
    def moved(self) -> float:
        return self.files.moved

    def connect(self, proof_age: float = inf) -> None:
        self.files.connect()
        if time.monotonic() - self._proved >= proof_age or self._proved < 0:
            self._proved = -inf
            self._prove_identity()
            self._proved = time.monotonic()

    def _prove_identity(self) -> None:
        """The folder must be the one that was added: an unmounted disk must not look like an empty one."""
        found = read_identity(self.files)
        mine = self.server
        if found is None:
            [shares] = self.files.do([Stat("shares")])
            if mine.writable or not isinstance(shares, FileStat):
                raise ServerUnreachable(
                    "its server.toml is gone", server=mine.name, hint="is the disk with the shares mounted there?"
                )
        elif (found.node_id, found.seed) != (mine.node_id, mine.seed):
            raise ServerUnreachable(
                "its server.toml names another server than the one that was added",
                server=mine.name,
                hint=f"lafs server remove {mine.name}, then add it again",
            )

    def close(self) -> None:
        self.files.close()

    # ---- what is there

    def shares(self, sis: Sequence[StorageIndex]) -> list[frozenset[int] | LafsError]:
        known = self._calls.shares(sis)
        if known is not None:
            return [found if isinstance(found, LafsError) else frozenset(found) for found in known]
        answers: list[frozenset[int] | LafsError] = []
        for listing in self.files.listing([container.share_folder(si) for si in sis], most=MOST_SHARES):
            if isinstance(listing, FileMissing):
                answers.append(frozenset())
            elif isinstance(listing, LafsError):
                answers.append(listing)
            else:
                answers.append(frozenset(int(entry.name) for entry in listing if is_share(entry)))
        return answers

    def present(self, shares: Sequence[tuple[StorageIndex, int]]) -> list[int | LafsError | None]:
        known = self._calls.sizes(shares)
        if known is not None:
            return known
        answers: list[int | LafsError | None] = []
        for answer in self.files.do([Stat(container.share_path(si, shnum)) for si, shnum in shares]):
            if isinstance(answer, FileStat):
                answers.append(answer.size if answer.kind == "file" else None)
            else:
                answers.append(
                    answer if isinstance(answer, FileError) and not isinstance(answer, FileMissing) else None
                )
        return answers

    def share_size(self, shares: Sequence[tuple[StorageIndex, int]]) -> list[int | LafsError]:
        paths = [container.share_path(si, shnum) for si, shnum in shares]
        heads = self.files.read([FileRange(path, 0, container.HEAD_SIZE) for path in paths]).finish()
        stats = self.files.do([Stat(path) for path in paths])
        return [_share_size(head, stat) for head, stat in zip(heads, stats, strict=True)]

    def inventory(self) -> Iterator[tuple[StorageIndex, int, int]]:
        return self._calls.inventory() or list_everything(self.files)

    def policy(self) -> Policy | None:
        return self._calls.policy()

    def named(self, prefixes: Sequence[str]) -> list[frozenset[str] | LafsError]:
        return names_in(self.files, [(f"shares/{prefix}", prefix) for prefix in prefixes])

    def space(self) -> Space | None:
        return self.files.space()

    def membership(self) -> Membership | None:
        return read_membership(self.files)

    # ---- reading

    def read(self, wanted: Sequence[ShareRange]) -> ShareReading:
        return ReadingShares(self.files, self._readable, wanted)

    def release(self, si: StorageIndex, shnum: int, keeper: int = 0) -> None:
        path = container.share_path(si, shnum)
        self._readable.discard(path)
        self.files.release(path, keeper)

    def slots(
        self, sis: Sequence[StorageIndex], depth: int, expected: Sequence[int | None] | None = None
    ) -> list[Sight | LafsError]:
        return look(self.files, sis, depth, expected)

    def everywhere(self, si: StorageIndex, depth: int, expected: Sequence[int] = ()) -> tuple[Sight, Sight]:
        found = look_everywhere(self.files, si, depth, expected)
        if isinstance(found, LafsError):
            raise found
        return found

    # ---- writing

    def create(
        self, si: StorageIndex, shnum: int, *, lease: Lease, resume: tuple[str, int] | None = None
    ) -> ShareWriter:
        if resume is not None and self._cut_back(si, shnum, *resume):
            name, offset = resume
            return StagedShare(self, si, shnum, name, self.files.open_existing(name), lease, offset)
        staged = self._staging_path(si, shnum)
        try:
            with plainly(staged):
                file = self.files.create(staged)
        except FileMissing:
            raise FileMissing("its staging folder is gone", hint="is the disk with the shares mounted there?") from None
        try:
            return StagedShare(self, si, shnum, staged, file, lease)
        except ServerError:
            file.abandon()
            self.discard_staged(staged)
            raise

    def _cut_back(self, si: StorageIndex, shnum: int, staged: str, offset: int) -> bool:
        """Cut a staged file to what is known durable. Not where the share exists: a rename that is link and unlink
        may have been interrupted, and the staged name then is the visible share."""
        share, found = self.files.do([Stat(container.share_path(si, shnum)), Stat(staged)])
        size = container.HEADER_SIZE + offset
        usable = isinstance(found, FileStat) and found.kind == "file" and found.size >= size and offset > 0
        if isinstance(share, FileMissing) and usable and self.files.do([Truncate(staged, size)]) == [None]:
            return True
        self.files.do([Remove(staged)])
        return False

    def create_many(self, shares: Sequence[NewShare]) -> list[LafsError | None]:
        staged = [self._staging_path(share.si, share.shnum) for share in shares]
        made: list[NewFile] = []
        sizes: list[int] = []
        for path, share in zip(staged, shares, strict=True):
            front, back = around(self.server, share)
            made.append(NewFile(path, [front, *share.parts, back], stat=True))
            sizes.append(sum(memoryview(part).nbytes for part in made[-1].parts))
        stats = self.files.create_many(made, sync=self._sync)
        stats = [
            in_words(stat, path) if isinstance(stat, FileError) else stat
            for path, stat in zip(staged, stats, strict=True)
        ]
        outcomes: list[LafsError | None] = [size_error(*pair) for pair in zip(stats, sizes, strict=True)]
        good = [index for index, outcome in enumerate(outcomes) if outcome is None]
        moves = [(staged[index], shares[index].si, shares[index].shnum) for index in good]
        for index, outcome in zip(good, self.publish(moves), strict=True):
            outcomes[index] = outcome
        lost = [staged[index] for index, outcome in enumerate(outcomes) if outcome is not None]
        if lost:
            self.files.do([Remove(path) for path in lost])
        return outcomes

    def make_room(self, si: StorageIndex) -> bool:
        """Make the folder of a storage index; whether that worked is seen when it is looked at. False where the server
        does that itself."""
        if ops := self._room(si):
            self.files.do(ops)
        return not self._calls.places

    def _room(self, si: StorageIndex) -> list[Op]:
        """That folder goes with its last share, whoever throws that away; the one it stands in stays."""
        if self._calls.places:
            return []
        folder = container.share_folder(si)
        return [Mkdir(name) for name in (folder[:-27], folder) if name not in self._folders]

    def publish(self, moves: Sequence[tuple[str, StorageIndex, int]]) -> list[LafsError | None]:
        """Rename staged files to their places, never over a share that is there: FileExists for those."""
        ops: list[Op] = []
        last: list[int] = []
        for staged, si, shnum in moves:
            path = container.share_path(si, shnum)
            ops += self._room(si)
            self._folders.add(container.share_folder(si)[:-27])
            if "rename-keeps" in self.server.features or "hardlink" not in self.server.features:
                ops.append(Rename(staged, path))
                last.append(len(ops) - 1)
            else:
                ops += [Link(staged, path), Remove(staged)]
                last.append(len(ops) - 2)
        if not {"rename-keeps", "hardlink"} & self.server.features:
            return self._publish_carefully(moves, ops, last)
        return self._moved(moves, self.files.do(ops), last)

    def _publish_carefully(
        self, moves: Sequence[tuple[str, StorageIndex, int]], ops: list[Op], last: list[int]
    ) -> list[LafsError | None]:
        """On a server whose rename overwrites and that has no hard links: look first. What lies there is a share of
        the same object, so the moment between costs nothing but a copy."""
        renames = set(last)
        self.files.do([op for index, op in enumerate(ops) if index not in renames])
        there = self.present([(si, shnum) for _, si, shnum in moves])
        free = [index for index, size in enumerate(there) if size is None]
        outcomes: list[LafsError | None] = [
            size if isinstance(size, LafsError) else FileExists("the share is there already") for size in there
        ]
        for index, answer in zip(free, self.files.do([ops[last[index]] for index in free]), strict=True):
            outcomes[index] = answer if isinstance(answer, FileError) else None
        return outcomes

    def _moved(
        self,
        moves: Sequence[tuple[str, StorageIndex, int]],
        answers: Sequence[Answer],
        last: Sequence[int],
    ) -> list[LafsError | None]:
        outcomes: list[LafsError | None] = []
        for index, (staged, *_) in zip(last, moves, strict=True):
            answer = answers[index]
            outcomes.append(in_words(answer, staged) if isinstance(answer, FileError) else None)
        failed = [index for index, outcome in enumerate(outcomes) if outcome is not None]
        if failed:
            self._folders.clear()
            for index, size in zip(failed, self.present([moves[index][1:] for index in failed]), strict=True):
                if isinstance(size, int):
                    outcomes[index] = FileExists("the share is there already")
        return outcomes

    @property
    def sync(self) -> bool:
        """Whether a share is made durable before it is visible."""
        return self._sync

    def discard_staged(self, staged: str, si: StorageIndex | None = None) -> None:
        """Remove a staged file, and the folder of `si` if it is empty; what fails is left for the sweep."""
        with contextlib.suppress(ServerError):
            self.files.do([Remove(staged)] if si is None else [Remove(staged), Rmdir(container.share_folder(si))])

    def sweep_staging(self, older_than: int) -> int:
        probe = f"staging/.clock.{b32encode(self._random_bytes(10))}"
        self.files.create(probe).close(sync=False)
        [clock] = self.files.do([Stat(probe)])
        self.files.do([Remove(probe)])
        [entries] = self.files.listing(["staging"])
        if isinstance(entries, FileError) or not isinstance(clock, FileStat):
            return 0
        old = [entry.name for entry in entries if entry.stat.mtime < clock.mtime - older_than]
        answers = self.files.do([Remove(f"staging/{name}") for name in old])
        with contextlib.suppress(NotSupported):
            self.locks.sweep(older_than)
        return sum(answer is None for answer in answers)

    def renew(self, items: Sequence[LeaseOf]) -> list[bool | LafsError]:
        return leases.renew_leases(self.files, items)

    def withdraw(self, shares: Sequence[LeaseOf]) -> None:
        folders = [container.share_folder(si) for si in dict.fromkeys(share.si for share in shares)]
        paths = [container.share_path(share.si, share.shnum) for share in shares]
        with contextlib.suppress(ServerError):
            if self._calls.cancel(shares) is None:
                self.files.do([*map(Remove, paths), *map(Rmdir, folders)])

    # ---- changing what exists

    def guard_list(self) -> FileListGuard:
        """Take the guard on the list of the grid's servers, now or GuardHeld."""
        return FileListGuard(self.files, self.locks.take(LIST_LOCK), posix="posix-rename" in self.server.features)

    def changing(self) -> frozenset[StorageIndex]:
        return self.locks.held() - {LIST_LOCK}

    def guard(self, si: StorageIndex, *, patience: float = 0.0, look: Look = NOTHING) -> FolderGuard:
        """Take the guard on a storage index; where another one has it, try for so many seconds, then GuardHeld."""
        return self.locks.wait(si, patience, look)

    def enter(self, si: StorageIndex, depth: int, expected: Sequence[int] = (), *, patience: float = 0.0) -> Entered:
        paths = [container.share_path(si, shnum) for shnum in expected]
        ranges = [FileRange(path, 0, depth) for path in paths]
        guard = self.guard(
            si, patience=patience, look=Look([list_shares(si), List("locks")], [IDENTITY_RANGE, *ranges])
        )
        try:
            (listed, locks), (identity, *fronts) = guard.seen.answers, guard.seen.data
            [placed] = sights(self.files, [si], [listed], dict(zip(paths, fronts, strict=True)), depth)
            if isinstance(placed, LafsError):
                raise placed
            left = look_into_guards(self.files, si, depth, locks, mine=True)
            return Entered(guard, placed, left, membership_in(identity))
        except LafsError:
            with contextlib.suppress(ServerError):
                guard.release()
            raise

    def settle(self) -> None:
        self.locks.settle()

    def forget(self, found: Survivors) -> None:
        self.locks.discard(found)

    def add_lease(self, items: Sequence[LeaseOf], *, patience: float = PATIENCE) -> list[bool | LafsError]:
        """A new lease record: True. False where a lease of ours was there, and was renewed."""
        node_id = self.server.node_id
        return leases.add_leases(self.files, self.locks, items, node_id=node_id, sync=self._sync, patience=patience)

    def _staging_path(self, si: StorageIndex, shnum: int) -> str:
        return f"staging/{b32encode(si)}.{shnum}.{b32encode(self._random_bytes(16))}"


def _share_size(head: Buffer | FileError, stat: Answer) -> int | LafsError:
    try:
        return leases.described(head, stat).data_length
    except (FileError, CorruptShare) as error:
        return error
