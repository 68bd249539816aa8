"""The leases on containers, wherever they lie: read for many at once, and believed only if all fits together.

Where a share ends is told by its own offsets, not by the number of leases in the header: one who added a lease and died
before it was counted (spec 06 §3) has left a record that is as good as the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lafscli.errors import CorruptShare, FileError, FileMissing, LafsError
from lafscli.formats import container
from lafscli.formats.chk import Layout
from lafscli.formats.container import HEADER_SIZE, LEASE_SIZE, ImmutableContainer, LeaseRecord
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.storage.store import Answer, Buffer, FileRange, Files, FileStat, Leased, Stat

MOST_LEASES = 1000
"""An immutable container with more of them is not read: 72 KB, and nobody's."""
_TOGETHER = 40
"""Containers that are read at once: each holds a file open for a moment."""


def read_leases(files: Files, paths: Sequence[str]) -> list[Leased | LafsError]:
    """The leases on these containers, in three round trips; of each the error in its place."""
    found: list[Leased | LafsError] = []
    for start in range(0, len(paths), _TOGETHER):
        found += _read_some(files, paths[start : start + _TOGETHER])
    return found


def seen_again(files: Files, before: dict[str, Leased]) -> dict[str, bool]:
    """Whether of these containers, by where they are now, size and leases are as they were; one round trip."""
    ranges = [FileRange(path, at, len(data)) for path, leased in before.items() for at, data in leased.seen]
    stats, reading = files.do_and_read([Stat(path) for path in before], ranges)
    answers = iter(reading.finish())
    same: dict[str, bool] = {}
    for (path, leased), stat in zip(before.items(), stats, strict=True):
        now = [next(answers) for _ in leased.seen]
        as_it_was = [
            not isinstance(data, FileError) and bytes(data) == old
            for data, (_, old) in zip(now, leased.seen, strict=True)
        ]
        same[path] = isinstance(stat, FileStat) and stat.size == leased.size and all(as_it_was)
    return same


@dataclass(frozen=True, slots=True)
class _Begun:
    """What the first bytes of a container tell. `version` and `layout` are those of an immutable share."""

    stat: FileStat
    head: bytes
    slot: MutableContainer | None = None
    version: int = 0
    layout: Layout | None = None

    @classmethod
    def of(cls, head: Buffer | FileError, stat: Answer) -> _Begun:
        if isinstance(head, FileError):
            raise head
        if not isinstance(stat, FileStat):
            raise stat if isinstance(stat, FileError) else FileMissing("no such share")
        data = bytes(head)
        if container.is_mutable(data):
            return cls(stat, data, MutableContainer.parse(data, stat.size))
        return cls(stat, data[:HEADER_SIZE], None, container.check_head(data), Layout.parse(data[HEADER_SIZE:]))

    def length_range(self, path: str) -> FileRange:
        """Where the length of the UEB stands, the last field of a share."""
        assert self.layout is not None
        return FileRange(path, HEADER_SIZE + self.layout.uri_extension, self.layout.length_size)

    def area(self, length: Buffer | FileError | None) -> tuple[int, int]:
        """Where the leases lie that the head does not hold: offset and length."""
        if self.slot is not None:
            return self.slot.extra_range or (DATA_OFFSET, 0)
        if isinstance(length, FileError):
            raise length
        assert self.layout is not None
        if length is None or len(length) != self.layout.length_size:
            raise CorruptShare("share: ends before its UEB")
        ueb = HEADER_SIZE + self.layout.uri_extension + self.layout.length_size
        start = ueb + int.from_bytes(length, "big")
        there, rest = divmod(self.stat.size - start, LEASE_SIZE)
        counted = ImmutableContainer.parse_header(self.head, self.stat.size).leases
        if rest or there < counted or there > MOST_LEASES:
            raise CorruptShare(
                f"container: {self.stat.size} bytes do not hold a share that ends at {start}, and {counted} leases"
            )
        return start, there * LEASE_SIZE

    def leased(self, at: int, size: int, area: Buffer | FileError) -> Leased:
        if isinstance(area, FileError):
            raise area
        data = bytes(area)
        if len(data) != size:
            raise CorruptShare("container: leases are cut short")
        seen = (0, self.head), (at, data)
        if self.slot is not None:
            slot = self.slot if self.slot.extra_range is None else self.slot.with_extra(data)
            return Leased(self.stat.size, self.stat.mtime, slot.leases, seen)
        starts = range(0, size, LEASE_SIZE)
        records = tuple(LeaseRecord.parse(data[each : each + LEASE_SIZE], self.version) for each in starts)
        return Leased(self.stat.size, self.stat.mtime, records, seen)


def _read_some(files: Files, paths: Sequence[str]) -> list[Leased | LafsError]:
    stats, reading = files.do_and_read(
        [Stat(path) for path in paths], [FileRange(path, 0, DATA_OFFSET) for path in paths]
    )
    found: list[Leased | LafsError | _Begun] = []
    for head, stat in zip(reading.finish(), stats, strict=True):
        try:
            found.append(_Begun.of(head, stat))
        except (FileError, CorruptShare) as error:
            found.append(error)
    begun = [(index, one) for index, one in enumerate(found) if isinstance(one, _Begun)]
    immutable = [(index, one) for index, one in begun if one.layout is not None]
    wanted = [one.length_range(paths[index]) for index, one in immutable]
    lengths = dict(zip([index for index, _ in immutable], files.read(wanted).finish() if wanted else [], strict=True))
    areas: list[tuple[int, _Begun, int, int]] = []
    for index, one in begun:
        try:
            areas.append((index, one, *one.area(lengths.get(index))))
        except (FileError, CorruptShare) as error:
            found[index] = error
    ranges = [FileRange(paths[index], at, size) for index, _, at, size in areas]
    for (index, one, at, size), area in zip(areas, files.read(ranges).finish() if ranges else [], strict=True):
        try:
            found[index] = one.leased(at, size, area)
        except (FileError, CorruptShare) as error:
            found[index] = error
    return [one for one in found if not isinstance(one, _Begun)]
