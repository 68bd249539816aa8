"""Many small files at once, the way back: shares of many files are read in few round trips (DESIGN §1.4).

The first question is a guess: an upload puts share i on the i-th server of a file's order, so the first k are read at
once, whole. What is missing or lies is looked for on all servers, batched too; what still does not go smoothly is
fetched by `download`, which has more patience and says what is wrong.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TypeVar

from lafscli.errors import CorruptShare, FileMissing, LafsError
from lafscli.formats.caps import ChkCap
from lafscli.formats.chk import Sizes, share_size
from lafscli.immutable.download import download
from lafscli.immutable.pipeline import Codec
from lafscli.primitives import erasure
from lafscli.primitives.ciphers import AesCtr
from lafscli.proof.shares import ShareReader, check_segment
from lafscli.storage.grid import Answers, Grid
from lafscli.storage.report import BadShare
from lafscli.storage.store import Buffer, Progress, ShareRange, ShareStore

SMALL = 2 << 20
"""Larger files are better fetched one by one: `download` keeps one segment in memory, not the file."""

_BATCH_FILES = 64
_BATCH_BYTES = 4 << 20
_LATE_SECONDS = 2.0
"""A server that is this late, and late by the measure of the others too, is done without."""

_USUAL_SEGMENT = 1 << 20
_SLACK = 512

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file, proved; the shares that lied on the way."""

    content: Buffer = field(repr=False)
    corrupt: list[BadShare] = field(default_factory=list)


@dataclass(eq=False, slots=True)
class _File:
    """A file of a batch: the shares that came, by number, and where from; those that were of no use."""

    index: int
    cap: ChkCap
    order: list[ShareStore]
    shares: dict[int, tuple[str, Buffer]] = field(default_factory=dict)
    useless: set[tuple[str, int]] = field(default_factory=set)
    corrupt: list[BadShare] = field(default_factory=list)
    content: Buffer | None = None
    odd: bool = False
    """Its k shares do not lie, and do not give the file either: for `download` to find out."""

    def useful(self, places: Iterable[tuple[ShareStore, int]]) -> list[tuple[ShareStore, int]]:
        """As many shares of these places as are lacking, of different numbers."""
        chosen: dict[int, ShareStore] = {}
        for store, shnum in places:
            if len(self.shares) + len(chosen) == self.cap.k:
                break
            if shnum not in self.shares and (store.server.name, shnum) not in self.useless:
                chosen.setdefault(shnum, store)
        return [(store, shnum) for shnum, store in chosen.items()]


_Asked = tuple[Answers[list[Buffer | LafsError]], dict[str, list[tuple[_File, int]]]]


def download_many(
    grid: Grid, caps: Sequence[ChkCap], progress: Progress | None = None
) -> Iterator[tuple[int, Fetched | LafsError]]:
    """Fetch many small files: its place among the caps, and the file or why it can't be had; in batches, in the order
    of the caps for what goes smoothly. Everything is proved as `download` does. A large file is fetched alone; it too
    is in memory at once.
    """
    fetch = _Many(grid, progress or Progress())
    underway: deque[tuple[list[_File], _Asked]] = deque()
    with Codec.of(sum(cap.size for cap in caps)) as codec:
        for batch in _batches(grid, [(index, cap) for index, cap in enumerate(caps) if cap.size <= SMALL]):
            underway.append((batch, fetch.guess(batch)))
            if len(underway) > 2:
                yield from fetch.finish(codec, *underway.popleft())
        while underway:
            yield from fetch.finish(codec, *underway.popleft())
    for index, cap in enumerate(caps):
        if cap.size > SMALL:
            yield index, fetch.alone(_File(index, cap, []))


def _batches(grid: Grid, caps: Iterable[tuple[int, ChkCap]]) -> Iterator[list[_File]]:
    batch: list[_File] = []
    size = 0
    for index, cap in caps:
        batch.append(_File(index, cap, grid.permuted(cap.storage_index)))
        size += cap.size
        if len(batch) == _BATCH_FILES or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Many:
    def __init__(self, grid: Grid, progress: Progress) -> None:
        self._grid = grid
        self._progress = progress
        self._late: set[str] = set()

    def guess(self, batch: Sequence[_File]) -> _Asked:
        """Ask for share i from the i-th server of each file's order, for the first k that are not known to be late."""
        return self._read(
            (file, file.useful((store, i) for i, store in enumerate(file.order[: file.cap.n]) if self._prompt(store)))
            for file in batch
        )

    def finish(self, codec: Codec, batch: Sequence[_File], asked: _Asked) -> Iterator[tuple[int, Fetched | LafsError]]:
        """What was asked for is decoded, what is lacking is looked for."""
        self._collect(asked)
        left = self._decode(codec, batch)
        lacking = [file for file in left if not file.odd]
        if lacking:
            self._collect(self._search(lacking))
            self._decode(codec, lacking)
        left = [file for file in left if file.content is None]
        alone = set(left)
        for file in batch:
            if file not in alone:
                assert file.content is not None
                yield file.index, Fetched(file.content, file.corrupt)
        for file in left:
            yield file.index, self.alone(file)

    def alone(self, file: _File) -> Fetched | LafsError:
        """Fetch one that did not go smoothly."""
        pieces = bytearray()
        try:
            done = download(self._grid, file.cap, pieces.extend, progress=self._progress)
        except LafsError as error:
            return error
        known = {(bad.server, bad.shnum) for bad in file.corrupt}
        return Fetched(pieces, file.corrupt + [bad for bad in done.corrupt if (bad.server, bad.shnum) not in known])

    # ---- servers

    def _prompt(self, store: ShareStore) -> bool:
        return store.server.name not in self._late

    def _read(self, wanted: Iterable[tuple[_File, Sequence[tuple[ShareStore, int]]]]) -> _Asked:
        places: dict[str, list[tuple[_File, int]]] = {}
        stores: dict[str, ShareStore] = {}
        for file, shares in wanted:
            for store, shnum in shares:
                stores[store.server.name] = store
                places.setdefault(store.server.name, []).append((file, shnum))
        tasks, hung = [], self._grid.hung_now()
        for name, items in places.items():
            ranges = [ShareRange(file.cap.storage_index, shnum, 0, _length(file.cap)) for file, shnum in items]
            tasks.append((stores[name], self._grid.read(stores[name], ranges)))
        return Answers(tasks, hung), places

    def _collect(self, asked: _Asked) -> None:
        answers, places = asked
        for name, answer in self._prompt_answers(answers):
            if isinstance(answer, LafsError):
                self._late.add(name)
                continue
            for (file, shnum), share in zip(places[name], answer, strict=True):
                if isinstance(share, LafsError):
                    file.useless.add((name, shnum))
                    if isinstance(share, CorruptShare):
                        self._name_corrupt(file, name, shnum, share)
                    elif not isinstance(share, FileMissing):
                        self._progress.warn(f"server {name}: {share.message}")
                else:
                    file.shares[shnum] = name, share

    def _prompt_answers(self, answers: Answers[T]) -> Iterator[tuple[str, T | LafsError]]:
        """Answers as they come; those that are late by the measure of the others are not waited for, and their servers
        not asked again."""
        began = time.monotonic()
        took: list[float] = []
        while answers.pending:
            patience = None
            if took:
                late = began + max(_LATE_SECONDS, 4 * statistics.median(took))
                patience = answers.patience(late - time.monotonic())
            answer = answers.poll(patience)
            if answer is None:
                self._late |= answers.pending.keys()
                return
            took.append(time.monotonic() - began)
            yield answer.store.server.name, answer.value

    def _search(self, files: Sequence[_File]) -> _Asked:
        """Ask every server which shares of these files it has, and for as many as are lacking."""
        sis = [file.cap.storage_index for file in files]
        stores = [store for store in self._grid.stores if self._prompt(store)]
        answers = self._grid.ask(partial(_shares, sis), stores)
        found: dict[str, list[frozenset[int] | LafsError]] = {}
        for name, answer in self._prompt_answers(answers):
            if isinstance(answer, LafsError):
                self._late.add(name)
            else:
                found[name] = answer
        wanted = []
        for position, file in enumerate(files):
            places = []
            for store in file.order:
                held = found[store.server.name][position] if store.server.name in found else frozenset()
                if not isinstance(held, LafsError):
                    places += [(store, shnum) for shnum in sorted(held) if shnum < file.cap.n]
            wanted.append((file, file.useful(places)))
        return self._read(wanted)

    # ---- shares

    def _decode(self, codec: Codec, files: Sequence[_File]) -> list[_File]:
        """Decode what has k shares; the files that do not prove, or lack shares."""
        decoding: list[tuple[_File, Future[list[tuple[int, CorruptShare]]] | None]] = [
            (file, codec.submit(partial(_decoded, file)) if len(file.shares) == file.cap.k else None) for file in files
        ]
        left = []
        for file, done in decoding:
            for shnum, error in () if done is None else done.result():
                name, _ = file.shares.pop(shnum)
                file.useless.add((name, shnum))
                self._name_corrupt(file, name, shnum, error)
            if file.content is None:
                file.odd = len(file.shares) == file.cap.k
                left.append(file)
            else:
                for name, share in file.shares.values():
                    self._progress.server(name, len(share))
                file.shares.clear()
        return left

    def _name_corrupt(self, file: _File, name: str, shnum: int, error: CorruptShare) -> None:
        file.corrupt.append(BadShare(name, shnum, error.message))
        self._progress.warn(f"server {name}: share {shnum} is corrupt and was not used: {error.message}")


def _shares(sis: Sequence[bytes], store: ShareStore) -> list[frozenset[int] | LafsError]:
    return store.shares(sis)


def _length(cap: ChkCap) -> int:
    """As much as is asked for of a share: all of it, if its segments are not unusually small."""
    return _usual_length(cap.k, cap.n, cap.size)


@lru_cache(maxsize=1024)
def _usual_length(k: int, n: int, size: int) -> int:
    return share_size(Sizes.plan(k, n, size, _USUAL_SEGMENT), 2) + _SLACK


def _decoded(file: _File) -> list[tuple[int, CorruptShare]]:
    """In a codec thread: prove, decode, decrypt k whole shares; or which of them lie. Neither where they are longer
    than was thought, or the file was damaged before it was stored."""
    cap, verify = file.cap, file.cap.verify_cap()
    readers: dict[int, ShareReader] = {}
    wrong: list[tuple[int, CorruptShare]] = []
    for shnum, (_, share) in sorted(file.shares.items()):
        reader = ShareReader(verify, shnum)
        try:
            reader.open(partial(_part, share))
            readers[shnum] = reader
        except CorruptShare as error:
            if len(share) == _length(cap):
                return []
            wrong.append((shnum, error))
    if wrong:
        return wrong
    sizes = next(iter(readers.values())).sizes
    content = bytearray(cap.size)
    for number in range(sizes.num_segments):
        blocks = {}
        for shnum, reader in readers.items():
            start, length = reader.block_range(number)
            blocks[shnum] = memoryview(file.shares[shnum][1])[start : start + length]
            if len(blocks[shnum]) != length:
                return [(shnum, CorruptShare(f"the share ends within block {number}"))]
        data = erasure.decode(cap.k, cap.n, blocks, sizes.segment_length(number))
        try:
            check_segment(next(iter(readers.values())).segment_hash(number), data)
        except CorruptShare:
            return _liars(readers, number, blocks)
        start = number * sizes.segment_size
        content[start : start + len(data)] = data
    AesCtr(cap.key).update_into(content, memoryview(content))
    file.content = content
    return []


def _part(share: Buffer, ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
    view = memoryview(share)
    return [view[offset : offset + length] for offset, length in ranges]


def _liars(
    readers: dict[int, ShareReader], number: int, blocks: dict[int, memoryview]
) -> list[tuple[int, CorruptShare]]:
    wrong = []
    for shnum, reader in readers.items():
        try:
            reader.check_block(number, blocks[shnum])
        except CorruptShare as error:
            wrong.append((shnum, error))
    return wrong
