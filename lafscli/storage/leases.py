"""Leases on containers that exist, renewed in place; or added, under the guard of their storage index (spec 10 §3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from lafscli.errors import CorruptShare, FileError, FileMissing, GuardHeld, GuardLost, LafsError
from lafscli.formats import container
from lafscli.formats.chk import HEADER_MAX, Layout
from lafscli.formats.container import HEADER_SIZE, LEASE_SIZE, ImmutableContainer, LeaseRecord
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.storage.guard import FolderGuard
from lafscli.storage.leased import MOST_LEASES
from lafscli.storage.locks import Locks
from lafscli.storage.slotleases import add_slot_lease, find_lease, look_at
from lafscli.storage.store import Answer, Buffer, FileRange, Files, FileStat, Lease, LeaseOf, Patch, Stat, StorageIndex

_COUNT_OFFSET = 8
_EXPIRATION_OFFSET = LEASE_SIZE - 4
_TOGETHER = 40
"""Shares whose leases are renewed at once: each holds a file open for a moment."""


def described(head: Buffer | FileError, stat: Answer) -> ImmutableContainer:
    """A container by its first 32 bytes and what LSTAT says."""
    if isinstance(head, FileError):
        raise head
    if not isinstance(stat, FileStat):
        raise stat if isinstance(stat, FileError) else FileMissing("no such share")
    return ImmutableContainer.parse_header(bytes(head), stat.size)


def renew_leases(files: Files, leases: Sequence[LeaseOf]) -> list[bool | LafsError]:
    """Set the later expiration in one's own records: True. False where no record is ours. Four bytes in place, without
    a guard (spec 10 §3); a few round trips for all of them."""
    answers: list[bool | LafsError] = []
    for start in range(0, len(leases), _TOGETHER):
        answers += _renew_some(files, leases[start : start + _TOGETHER])
    return answers


def _renew_some(files: Files, leases: Sequence[LeaseOf]) -> list[bool | LafsError]:
    paths = [container.share_path(item.si, item.shnum) for item in leases]
    heads = files.read([FileRange(path, 0, DATA_OFFSET) for path in paths]).finish()
    stats = files.do([Stat(path) for path in paths])
    answers: list[bool | LafsError] = [False] * len(leases)
    there: list[tuple[int, _Area]] = []
    for index, (head, stat) in enumerate(zip(heads, stats, strict=True)):
        try:
            there.append((index, _area(head, stat)))
        except (FileError, CorruptShare) as error:
            answers[index] = error
    areas = files.read([FileRange(paths[index], found.offset, found.length) for index, found in there]).finish()
    patches: dict[int, Patch] = {}
    for (index, found), area in zip(there, areas, strict=True):
        new = leases[index].lease
        try:
            if isinstance(area, FileError):
                raise area
            position = found.find(area, new.renew)
        except (FileError, CorruptShare) as error:
            answers[index] = error
            continue
        answers[index] = position is not None
        if position is not None and new.expiration > position[1]:
            patches[index] = Patch(paths[index], position[0], new.expiration.to_bytes(4, "big"))
    for index, outcome in zip(patches, files.do(list(patches.values())), strict=True):
        if isinstance(outcome, FileError):
            answers[index] = outcome
    return answers


@dataclass(frozen=True, slots=True)
class _Area:
    """Where the leases of a container are that its head does not hold. `find`: where in the file the expiration of the
    lease with a renew secret lies, and the expiration."""

    offset: int
    length: int
    find: Callable[[Buffer, bytes], tuple[int, int] | None]


def _area(head: Buffer | FileError, stat: Answer) -> _Area:
    if not isinstance(head, FileError) and container.is_mutable(head):
        slot = look_at(head, stat)
        return _Area(*(slot.extra_range or (0, 0)), partial(find_lease, slot))
    found = described(head, stat)
    if found.leases > MOST_LEASES:  # a server may say any number, and would have us read them
        raise CorruptShare(f"container: {found.leases} leases")
    return _Area(found.lease_offset, found.lease_area, found.find_lease)


@dataclass(frozen=True, slots=True)
class _Records:
    """The lease records of an immutable container, found from where its own offsets say that the share ends."""

    version: int
    size: int
    counted: int
    start: int
    records: tuple[LeaseRecord, ...]


def add_lease(files: Files, guard: FolderGuard, shnum: int, lease: Lease) -> bool:
    """Add a lease to an immutable share, durably: True. False where one of ours was there; it is renewed instead.

    CorruptShare where share, leases and file size don't fit together, IncompatibleShare for a mutable share,
    FileMissing where there is none, GuardLost.
    """
    with fenced(guard):
        return _add_lease(files, guard, shnum, lease)


@contextmanager
def fenced(guard: FolderGuard) -> Iterator[None]:
    """What is refused because another one has the guard by now, is GuardLost."""
    try:
        yield
    except FileError:
        guard.check()
        raise


def _add_lease(files: Files, guard: FolderGuard, shnum: int, lease: Lease) -> bool:
    path = container.share_path(guard.si, shnum)
    found = _read_records(files, path)
    for index, record in enumerate(found.records):
        if record.matches_renew(lease.renew):
            offset = found.start + LEASE_SIZE * index + _EXPIRATION_OFFSET
            if lease.expiration > record.expiration:
                _overwrite(files, path, offset, lease.expiration)
            if len(found.records) != found.counted:
                _count(files, guard, path, found.size, len(found.records))
            return False
    new = container.lease_record(lease.renew, lease.cancel, lease.expiration, owner=lease.owner, version=found.version)
    guard.check()
    # Always at the end of the moment: a holder held up right here must not write into its successor's record.
    writer = files.open_existing(path, append=True)
    writer.write(new)
    writer.close(sync=True)
    _count(files, guard, path, found.size + LEASE_SIZE, len(found.records) + 1)
    return True


def add_leases(
    files: Files, locks: Locks, leases: Sequence[LeaseOf], *, node_id: bytes, sync: bool, patience: float
) -> list[bool | LafsError]:
    """Add leases, each in its place says what became of it: as `add_lease`, of mutable shares as `add_slot_lease`.
    Each storage index is guarded once, and its guard waited for as long as `patience` (seconds)."""
    places: dict[StorageIndex, list[int]] = {}
    for index, item in enumerate(leases):
        places.setdefault(item.si, []).append(index)
    answers: list[bool | LafsError] = [False] * len(leases)
    for si, indexes in places.items():
        left = list(reversed(indexes))
        try:
            with locks.wait(si, patience) as guard:
                while left:
                    item = leases[left[-1]]
                    try:
                        with fenced(guard):
                            [head] = files.read(
                                [FileRange(container.share_path(si, item.shnum), 0, DATA_OFFSET)]
                            ).finish()
                            if not isinstance(head, FileError) and container.is_mutable(head):
                                added = add_slot_lease(files, guard, item.shnum, item.lease, node_id, sync=sync)
                            else:
                                added = _add_lease(files, guard, item.shnum, item.lease)
                        answers[left[-1]] = added
                    except (FileError, CorruptShare) as error:
                        answers[left[-1]] = error
                    left.pop()
        except (FileError, GuardHeld, GuardLost) as error:
            for index in left:
                answers[index] = error
    return answers


def _count(files: Files, guard: FolderGuard, path: str, size: int, leases: int) -> None:
    """Write the number of leases, if the guard is ours and the file as long as we know it."""
    [stat] = guard.check([Stat(path)])
    if not isinstance(stat, FileStat):
        raise stat if isinstance(stat, FileError) else FileMissing(f"{path}: no such share")
    if stat.size != size:
        raise FileError(f"{path}: it was changed by someone who takes no guard; its leases were not counted")
    _overwrite(files, path, _COUNT_OFFSET, leases)
    guard.check()


def _overwrite(files: Files, path: str, offset: int, number: int) -> None:
    writer = files.open_existing(path)
    writer.write_at(offset, min(number, 0xFFFFFFFF).to_bytes(4, "big"))
    writer.close(sync=True)


def _read_records(files: Files, path: str) -> _Records:
    [head] = files.read([FileRange(path, 0, HEADER_SIZE + HEADER_MAX)]).finish()
    [stat] = files.do([Stat(path)])
    if isinstance(head, FileError):
        raise head
    if not isinstance(stat, FileStat):
        raise stat if isinstance(stat, FileError) else FileMissing(f"{path}: no such share")
    version = container.check_head(head)
    counted = ImmutableContainer.parse_header(head, stat.size).leases
    layout = Layout.parse(bytes(head[HEADER_SIZE:]))
    length_at = HEADER_SIZE + layout.uri_extension
    [length] = files.read([FileRange(path, length_at, layout.length_size)]).finish()
    if isinstance(length, FileError):
        raise length
    if len(length) != layout.length_size:
        raise CorruptShare("share: ends before its UEB")
    start = length_at + layout.length_size + int.from_bytes(length, "big")
    there, rest = divmod(stat.size - start, LEASE_SIZE)
    # One who added a record and died before it was counted (spec 06 §3) leaves whole records too many.
    if rest or there < counted or there > MOST_LEASES:
        raise CorruptShare(
            f"container: {stat.size} bytes do not hold a share that ends at {start}, and {counted} leases after it"
        )
    [area] = files.read([FileRange(path, start, LEASE_SIZE * there)]).finish() if there else [b""]
    if isinstance(area, FileError):
        raise area
    if len(area) != LEASE_SIZE * there:
        raise CorruptShare("container: leases are cut short")
    records = tuple(LeaseRecord.parse(area[at : at + LEASE_SIZE], version) for at in range(0, len(area), LEASE_SIZE))
    return _Records(version, stat.size, counted, start, records)
