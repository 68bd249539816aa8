"""Proven segments of one version, from whichever of its shares are good (spec 03 §7).

Blocks are asked for several segments ahead; a share that lies, or whose server fails, is replaced by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

from lafscli.errors import CorruptShare, LafsError
from lafscli.formats.slot import Header, Range
from lafscli.mutable.survey import Found
from lafscli.primitives.encoding import Buffer
from lafscli.proof.slotmaker import encrypt_segment
from lafscli.proof.slots import decode_segment
from lafscli.storage.grid import Grid
from lafscli.storage.report import BadShare
from lafscli.storage.shares import new_keeper
from lafscli.storage.store import ShareRange, ShareStore

R = TypeVar("R")

_GROUP_BYTES = 1 << 20
"""Content whose blocks are asked for together."""
_AHEAD_BYTES = 4 << 20
"""Content that is under way before the first of it is written out."""
_TICK = 1.0
_SLOW_SECONDS = 5.0
"""A share whose bytes are so late is replaced, if there is another one."""


class Codec(Protocol):
    """Threads that code; `immutable.pipeline.Codec` is one."""

    def submit(self, work: Callable[[], R]) -> Future[R]: ...


class TooFewBlocks(LafsError):
    """Of a version that seemed to be there, fewer than k shares are good."""


class _Slow(LafsError):
    """A share whose bytes do not come: used again when there is no other one."""


class Blocks:
    """Reads one version; without `readkey` its ciphertext only. `lying` are the shares that turned out to be bad, and
    `silent` the servers that failed, so far."""

    def __init__(
        self,
        grid: Grid,
        version: Header,
        shares: Sequence[Found],
        readkey: bytes | None,
        codec: Codec | None = None,
        *,
        idle: Callable[[], object] | None = None,
    ) -> None:
        """`idle` is called now and then while bytes are waited for."""
        self.ahead: Callable[[], int] = lambda: _AHEAD_BYTES
        """How many bytes may be fetched ahead."""
        self._grid = grid
        self.version = version
        self._readkey = readkey
        self._codec = codec
        self._idle = idle
        self._spare = sorted(shares, key=self._rank)
        self._used: list[Found] = []
        self._kept: dict[int, Found] = {}
        self._slow: set[int] = set()
        self._holding = False
        self._keeper = new_keeper()
        self.lying: dict[int, Found] = {}
        self.reasons: dict[int, str] = {}
        self.silent: dict[str, str] = {}

    def _rank(self, one: Found) -> tuple[bool, bool, int]:
        """Which shares to use first: those in place, and of them the primary ones, which spare the decoding."""
        k = self.version.prefix.k
        return one.file.kind != "place", one.file.shnum >= k, one.file.shnum

    @property
    def corrupt(self) -> list[BadShare]:
        """The shares in place that lied."""
        return [BadShare(*one.place, self.reasons[key]) for key, one in self.lying.items() if one.file.kind == "place"]

    # ---- what is read

    def read(self, offset: int, length: int) -> Iterator[bytes]:
        """The content from `offset`, cut to the range, in pieces. Raises TooFewBlocks."""
        prefix = self.version.prefix
        segments = prefix.segments(offset, length)
        end = min(offset + length, prefix.data_length)
        for number, (_, piece) in zip(segments, self._segments(segments), strict=True):
            start = number * prefix.segment_size
            yield bytes(piece[max(0, offset - start) : end - start])

    def sealed(self) -> Iterator[tuple[bytes, Buffer]]:
        """Salt and ciphertext of every segment, in order. Raises TooFewBlocks."""
        assert self._readkey is None, "with a read key it is plaintext"
        yield from self._segments(range(self.version.prefix.num_segments))

    def _segments(self, segments: range) -> Iterator[tuple[bytes, Buffer]]:
        self._choose()
        groups = list(self._groups(segments))
        underway: list[tuple[range, dict[Found, Future[list[Buffer | LafsError]] | list[Buffer]]]] = []
        try:
            for index in range(len(groups)):
                most = max(1, self.ahead() // _GROUP_BYTES)
                while len(underway) < most and index + len(underway) < len(groups):
                    group = groups[index + len(underway)]
                    underway.append((group, {one: self._ask(one, group) for one in self._used}))
                group, asked = underway.pop(0)
                yield from self._decoded(group, self._collect(group, asked))
        finally:
            if not self._holding:
                self.release()

    def hold(self) -> None:
        """Find k good shares, and keep them open from now on until `release`: this version can be read to its end
        though a new one takes its place, as far as its servers can do that. Raises TooFewBlocks."""
        self._holding = True
        self._choose()
        if self._held_whole():
            return
        asked = [(one, self._request(one, (0, 1))) for one in self._used if id(one) not in self._kept]
        for one, waiting in asked:
            [answer] = self._result(one, waiting)
            if isinstance(answer, LafsError):
                self._drop(one, answer)
        self._choose()

    def _held_whole(self) -> bool:
        """Whether everything came along with the look."""
        last = self.version.prefix.num_segments - 1
        return last < 0 or all(one.held(self.version.block(last)) is not None for one in self._used)

    def release(self) -> None:
        """Close the shares that were kept open."""
        self._holding = False
        kept, self._kept = self._kept, {}
        for one in kept.values():
            self._grid.submit(one.store, partial(_release, one, self._keeper))

    def section(self, choose: Callable[[Found], Range]) -> Iterator[tuple[Found, Buffer]]:
        """One section of every share, in turn, until the caller has found a good one."""
        for one in [*self._used, *self._spare]:
            wanted = choose(one)
            held = one.held(wanted)
            if held is None:
                [answer] = self._result(one, self._request(one, wanted, keep=False))
                if isinstance(answer, LafsError):
                    continue
                held = answer
            yield one, held

    def _groups(self, segments: range) -> Iterator[range]:
        many = max(1, _GROUP_BYTES // max(1, self.version.prefix.segment_size))
        for first in range(segments.start, segments.stop, many):
            yield range(first, min(first + many, segments.stop))

    # ---- which shares

    def _choose(self) -> None:
        """Use k shares of different numbers, each with its tree proven."""
        while len(self._used) < self.version.prefix.k:
            numbers = {one.file.shnum for one in self._used}
            wanted = self.version.prefix.k - len(numbers)
            chosen: dict[int, Found] = {}
            for one in self._spare:
                if len(chosen) < wanted and one.file.shnum not in numbers:
                    chosen.setdefault(one.file.shnum, one)
            if len(chosen) < wanted:
                raise TooFewBlocks(f"of {self.version.prefix.k} shares that are needed, {len(numbers)} are good")
            self._spare = [one for one in self._spare if one not in chosen.values()]
            self._prove(list(chosen.values()))

    def _prove(self, shares: Sequence[Found]) -> None:
        asked: list[tuple[Found, Buffer | Future[list[Buffer | LafsError]] | None]] = []
        for one in shares:
            wanted = one.share.tree_wanted
            tree = None if wanted is None else one.held(wanted)
            asked.append((one, self._request(one, wanted) if wanted is not None and tree is None else tree))
        for one, waiting in asked:
            answer = self._result(one, waiting)[0] if isinstance(waiting, Future) else waiting
            try:
                if isinstance(answer, LafsError):
                    raise answer
                if answer is not None:
                    one.share.prove_tree(answer)
            except LafsError as error:
                self._drop(one, error)
            else:
                self._used.append(one)

    def _drop(self, one: Found, error: LafsError) -> None:
        if one in self._used:
            self._used.remove(one)
        if isinstance(error, _Slow):
            self._slow.add(id(one))
            self._spare.append(one)
        elif isinstance(error, CorruptShare):
            self.lying[id(one)] = one
            self.reasons[id(one)] = error.message
        else:
            self.silent[one.store.server.name] = error.message

    # ---- blocks

    def _range(self, group: range) -> Range:
        start, _ = self.version.block(group.start)
        return start, sum(self.version.block(group.stop - 1)) - start

    def _ask(self, one: Found, group: range) -> Future[list[Buffer | LafsError]] | list[Buffer]:
        wanted = self._range(group)
        held = one.held(wanted)
        return [held] if held is not None else self._request(one, wanted)

    def _request(self, one: Found, wanted: Range, *, keep: bool = True) -> Future[list[Buffer | LafsError]]:
        # kept open, an old version can be read to its end though a new one takes its place
        keep = keep and one.file.kind == "place"
        if keep:
            self._kept[id(one)] = one
        asked = ShareRange(one.si, one.file.shnum, *wanted, keep, where=one.file.path, keeper=self._keeper)
        return self._grid.read(one.store, [asked])

    def _result(self, one: Found, future: Future[list[Buffer | LafsError]]) -> list[Buffer | LafsError]:
        others = any(id(spare) not in self._slow for spare in self._spare)
        try:
            return self._wait(future, _SLOW_SECONDS if others and id(one) not in self._slow else None)
        except LafsError as error:
            return [error]
        except TimeoutError:
            return [_Slow("its server is slow")]

    def _wait(self, future: Future[list[Buffer | LafsError]], seconds: float | None) -> list[Buffer | LafsError]:
        while self._idle is not None and (seconds is None or seconds > _TICK):
            try:
                return future.result(_TICK)
            except TimeoutError:
                self._idle()
                seconds = None if seconds is None else seconds - _TICK
        return future.result(seconds)

    def _collect(
        self, group: range, asked: dict[Found, Future[list[Buffer | LafsError]] | list[Buffer]]
    ) -> dict[Found, Buffer]:
        """The blocks of a group, of k shares of which each is good."""
        good: dict[Found, Buffer] = {}
        while True:
            for one in [one for one in self._used if one not in good]:
                answer = asked.get(one)
                if answer is None:
                    answer = asked[one] = self._ask(one, group)
                [data] = answer if isinstance(answer, list) else self._result(one, answer)
                try:
                    if isinstance(data, LafsError):
                        raise data
                    self._check(one, group, data)
                except LafsError as error:
                    self._drop(one, error)
                else:
                    good[one] = data
            if all(one in good for one in self._used) and len(self._used) >= self.version.prefix.k:
                return {one: good[one] for one in self._used}
            self._choose()

    def _check(self, one: Found, group: range, data: Buffer) -> None:
        for number, block in self._cut(group, data):
            one.share.check_block(number, block)

    def _cut(self, group: range, data: Buffer) -> Iterator[tuple[int, Buffer]]:
        start, _ = self._range(group)
        view = memoryview(data)
        for number in group:
            offset, length = self.version.block(number)
            yield number, view[offset - start : offset - start + length]

    def _decoded(self, group: range, blocks: dict[Found, Buffer]) -> list[tuple[bytes, Buffer]]:
        """Salt, and plaintext if there is a read key, of each segment."""
        rows = {one.file.shnum: dict(self._cut(group, data)) for one, data in blocks.items()}

        def decoded(number: int) -> tuple[bytes, Buffer]:
            mine = {shnum: row[number] for shnum, row in rows.items()}
            try:
                salt, ciphertext = decode_segment(self.version.prefix, number, mine)
            except CorruptShare as error:
                raise TooFewBlocks(error.message) from error
            return salt, ciphertext if self._readkey is None else encrypt_segment(self._readkey, salt, ciphertext)

        if self._codec is None or len(group) < 2:
            return [decoded(number) for number in group]
        underway = [self._codec.submit(partial(decoded, number)) for number in group]
        return [done.result() for done in underway]


def _release(one: Found, keeper: int, store: ShareStore) -> None:
    store.release(one.si, one.file.shnum, keeper)
