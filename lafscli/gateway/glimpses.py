"""Directories and sizes as they were seen a moment ago, by whichever session: clients ask for one path many times.

What this gateway changes is forgotten at once; what others change is seen after SHORT seconds at the latest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock

from lafscli.errors import CannotTell
from lafscli.formats.caps import Cap, DirectoryCap, MutableReadCap, MutableWriteCap
from lafscli.gateway.attributes import file_size
from lafscli.gateway.desk import Desk
from lafscli.mutable.survey import survey_many
from lafscli.storage.ops import Space
from lafscli.tree.contents import Access
from lafscli.tree.directory import Directory

SHORT = 1.0
"""Seconds for which a glimpse is good."""
_SPACE = 60.0
_LATE = 3.0
_MOST = 64
_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class _Glimpse:
    when: float
    directory: Directory


class Glimpses:
    """Shared by all sessions of a gateway."""

    def __init__(self, desk: Desk, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._desk = desk
        self._monotonic = monotonic
        self._lock = Lock()
        self._directories: dict[DirectoryCap, _Glimpse] = {}
        self._sizes: dict[bytes, tuple[float, int]] = {}
        self._changes = 0
        self._space: tuple[float, Space] | None = None

    def directory(self, access: Access, cap: DirectoryCap, *, anew: bool = False) -> Directory:
        """A directory as it is, or (not `anew`) was within the last moment."""
        with self._lock:
            seen = self._directories.get(cap)
            changes = self._changes
            if not anew and seen is not None and self._monotonic() < seen.when + SHORT:
                return seen.directory
        began = self._monotonic()
        found = self._desk.directory(access, cap)
        with self._lock:
            if changes == self._changes:
                kept = [item for item in self._directories.items() if began < item[1].when + SHORT][1 - _MOST :]
                self._directories = {**dict(kept), cap: _Glimpse(began, found)}
        return found

    def changed(self, *caps: Cap) -> None:
        """These have other content now, or may have."""
        gone = {si for cap in caps if (si := cap.storage_index) is not None}
        with self._lock:
            self._changes += 1
            for known in [each for each in self._directories if each.storage_index in gone]:
                del self._directories[known]
            for si in gone & self._sizes.keys():
                del self._sizes[si]

    def size(self, access: Access, cap: Cap) -> int:
        """The size of a file; CannotTell where no version of it can be found."""
        [size] = self.sizes(access, [cap])
        if size is None:
            raise CannotTell(f"{cap.abbreviation}: how long it is can't be told: too few of its shares were found")
        return size

    def sizes(self, access: Access, caps: Sequence[Cap]) -> list[int | None]:
        """The sizes of many files; None for a mutable one of which no version can be found now."""
        now = self._monotonic()
        sizes = [file_size(cap) for cap in caps]
        asked: list[tuple[int, MutableReadCap | MutableWriteCap]] = []
        for index, cap in enumerate(caps):
            if isinstance(cap, MutableReadCap | MutableWriteCap):
                with self._lock:
                    when, size = self._sizes.get(cap.storage_index, (now - SHORT, 0))
                if now < when + SHORT:
                    sizes[index] = size
                else:
                    asked.append((index, cap))
        for start in range(0, len(asked), _TOGETHER):
            some = asked[start : start + _TOGETHER]
            changes = self._changes
            maps = survey_many(access.grid, [cap.verify_cap() for _, cap in some], monotonic=self._monotonic)
            for (index, cap), seen in zip(some, maps, strict=True):
                best = seen.all_versions.best
                if best is None:
                    continue
                sizes[index] = best.prefix.data_length
                with self._lock:
                    if changes == self._changes:
                        self._sizes[cap.storage_index] = now, best.prefix.data_length
        with self._lock:
            for si in [si for si, (when, _) in self._sizes.items() if now >= when + SHORT]:
                del self._sizes[si]
        return sizes

    def space(self, access: Access) -> Space:
        """What the servers have room for, in bytes of files: of what they tell, 1 in n / k."""
        with self._lock:
            if self._space is not None and self._monotonic() < self._space[0] + _SPACE:
                return self._space[1]
        stores = [store for store in access.grid.stores if store.server.writable]
        free = total = 0
        answers = access.grid.ask(lambda store: store.space(), stores)
        while (answer := answers.poll(answers.patience(_LATE))) is not None:
            if isinstance(answer.value, Space):
                free, total = free + answer.value.free, total + answer.value.total
        encoding = access.writing.encoding
        found = Space(free * encoding.k // encoding.n, total * encoding.k // encoding.n)
        with self._lock:
            self._space = self._monotonic(), found
        return found
