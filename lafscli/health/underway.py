"""What is being proved: files, their shares, and which part of them (the state that `verify` works on)."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Literal, overload

from lafscli.formats.chk import Sizes
from lafscli.health import proofs
from lafscli.health.survey import Seen
from lafscli.proof.shares import ShareReader
from lafscli.storage.store import Buffer, ShareStore

STRIPE = 512 << 10
"""Neighbouring blocks of a share are read together up to so many bytes; a larger block alone."""


class Sample:
    """Which part of each file is to be proved: `percent` of all segments of a run, at random, or all of them.

    `alone`: the run is over one file, of which at least one segment is proved.
    """

    def __init__(self, percent: float | None, seed: bytes, *, alone: bool) -> None:
        self._part = None if percent is None else percent / 100
        self._random = random.Random(seed)
        self._alone = alone
        self._carry = self._random.random()

    @property
    def whole(self) -> bool:
        """Whether it is everything."""
        return self._part is None

    def part(self, size: int) -> float:
        """The part of a file of that size, before its segment size is known."""
        if self._part is None or self._alone:
            return self._part or 1.0
        segments = -(-size >> 20)
        self._carry += self._part * segments
        count = int(self._carry)
        self._carry -= count
        return count / segments

    def numbers(self, count: int) -> Sequence[int]:
        """That part of `count` segments."""
        if self._part is None:
            return range(count)
        wanted = self._part * count
        if self._alone:
            some = ceil(wanted)
        else:
            self._carry += wanted
            some = int(self._carry)
            self._carry -= some
        return sorted(self._random.sample(range(count), min(some, count)))

    def stripes(self, sizes: Sizes, part: float) -> Sequence[tuple[int, int]]:
        """That part of a file's segments in runs of neighbours: the first of each run, and one past its last."""
        most = max(1, STRIPE // sizes.block_size)
        if part >= 1:
            return _AllStripes(sizes.num_segments, most)
        count = ceil(part * sizes.num_segments - 1e-6)
        runs: list[tuple[int, int]] = []
        for number in sorted(self._random.sample(range(sizes.num_segments), count)):
            if runs and runs[-1][1] == number and number - runs[-1][0] < most:
                runs[-1] = runs[-1][0], number + 1
            else:
                runs.append((number, number + 1))
        return runs


class _AllStripes(Sequence[tuple[int, int]]):
    """All of `count` segments in runs of `most`; computed, for there may be millions."""

    def __init__(self, count: int, most: int) -> None:
        self._count = count
        self._most = most

    def __len__(self) -> int:
        return -(-self._count // self._most)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[int, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | Sequence[tuple[int, int]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index * self._most, min((index + 1) * self._most, self._count)


class Buffers:
    """Fresh pages cost time, so buffers are used again; up to `limit` bytes of them wait for that."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free: dict[int, list[memoryview]] = {}
        self._bytes = 0

    def take(self, size: int) -> memoryview:
        free = self._free.get(size)
        if not free:
            return memoryview(bytearray(size))
        self._bytes -= size
        return free.pop()

    def give(self, buffers: Iterable[memoryview]) -> None:
        for buffer in buffers:
            if self._bytes > self._limit:  # left over from files of other sizes
                self._free.clear()
                self._bytes = 0
            self._free.setdefault(buffer.nbytes, []).append(buffer)
            self._bytes += buffer.nbytes


@dataclass(eq=False, slots=True)
class ShareProof:
    """One share being proved. `next` of the file's stripes is to be read; `under_way` are being read or hashed.

    `room`: what the container leaves for the share. `held`: what was fetched to open it. `small`: it was fetched
    whole with that, and these of its blocks are wrong. `unused`: ranges in which zeros must lie. `looked`: bytes of
    blocks that were read; `wrong` of them, the first with its reason.
    """

    file: FileProof
    store: ShareStore
    shnum: int
    room: int
    state: Literal["opening", "open", "done", "bad", "lost"] = "opening"
    reader: ShareReader | None = None
    held: list[tuple[proofs.Ranges, Sequence[Buffer]]] = field(default_factory=list)
    small: list[str] | None = None
    unused: deque[tuple[int, int]] = field(default_factory=deque)
    next: int = 0
    under_way: int = 0
    checked: int = 0
    looked: int = 0
    wrong: int = 0
    reason: str = ""

    @property
    def server(self) -> str:
        return self.store.server.name


@dataclass(eq=False, slots=True)
class FileProof:
    """One file being proved, `part` of it.

    `team`: the k shares whose blocks are put together. Of each stripe that is not yet together, `kept` has the blocks
    by share, and `buffers` where they lie. `together`: for each stripe 1 when it is or will be, 2 when the team could
    not do it.
    """

    seen: Seen
    part: float
    shares: list[ShareProof] = field(default_factory=list)
    sizes: Sizes | None = None
    stripes: Sequence[tuple[int, int]] = ()
    since: float = 0.0
    streaming: bool = False
    team: list[ShareProof] = field(default_factory=list)
    kept: dict[int, dict[int, Sequence[Buffer]]] = field(default_factory=dict)
    buffers: dict[int, list[memoryview]] = field(default_factory=dict)
    joining: int = 0
    together: bytearray = field(default_factory=bytearray)

    @property
    def over(self) -> bool:
        """Nothing more will happen."""
        return not self.joining and all(share.state in ("done", "bad", "lost") for share in self.shares)

    def spoilt(self) -> Iterator[tuple[int, int]]:
        """Runs of segments that the team could not put together: the first, and one past the last."""
        start = end = -1
        for index, state in enumerate(self.together):
            first, last = self.stripes[index]
            if state != SPOILT:
                continue
            if first != end:
                if start >= 0:
                    yield start, end
                start = first
            end = last
        if start >= 0:
            yield start, end

    def account(self) -> None:
        """Name the shares with wrong blocks; count what was read of the others."""
        for share in self.shares:
            if share.wrong:
                more = f", and {share.wrong - 1} more" if share.wrong > 1 else ""
                self.seen.bad(share.server, share.shnum, share.reason + more)
        found = [share for share in self.shares if (share.server, share.shnum) in self.seen.found]
        self.seen.looked = sum(share.looked for share in found)


JOINED, SPOILT = 1, 2
