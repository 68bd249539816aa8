"""Whole shares from one server to another, as they are: proved on the way, not encoded again (spec 02 §7, 05 §6).

What does not prove is never sent on. A share whose cap is known is proved against that, any other against itself.
Small shares travel in batches; large ones in pieces, in bounded memory.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from lafscli.errors import CorruptShare, LafsError, OutOfSpace
from lafscli.formats.caps import ChkVerifyCap
from lafscli.formats.chk import HEADER_MAX, Layout
from lafscli.health import proofs
from lafscli.health.renew import MakeLease
from lafscli.health.steps import Steps, wait
from lafscli.immutable.pipeline import Codec
from lafscli.proof.claims import claimed_cap, ueb_range
from lafscli.storage.grid import Grid
from lafscli.storage.store import (
    Buffer,
    Lease,
    NewShare,
    Progress,
    ShareRange,
    ShareStore,
    ShareWriter,
    StorageIndex,
)

SMALL = 256 << 10
"""Shares up to this size are read whole."""

_PIECE = 512 << 10
_PIECES_AHEAD = 6
_APPENDS_AHEAD = 4
_CHECKPOINT_BYTES = 8 << 20
_ROOM = 1 << 20
_CLOSING_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Wanted:
    """A share to be looked at. `cap`: what it must prove against, None for one that is not known. `room`: what its
    container leaves for the share (`ShareStore.share_size`)."""

    si: StorageIndex
    shnum: int
    store: ShareStore
    room: int
    cap: ChkVerifyCap | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """A small share, all of it proved."""

    wanted: Wanted
    cap: ChkVerifyCap
    data: memoryview = field(repr=False)

    @property
    def size(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True, slots=True)
class Large:
    """A large share of which all but the blocks is proved. `head` and `tail` are what stands before the blocks, and
    after the area that only very old writers used."""

    wanted: Wanted
    cap: ChkVerifyCap
    opened: proofs.Opened
    layout: Layout
    head: bytes = field(repr=False)
    tail: bytes = field(repr=False)

    @property
    def size(self) -> int:
        return self.opened.reader.share_size


Proved = Whole | Large


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a share was not copied, and whether it is its source that failed."""

    error: LafsError
    source: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    """A range of a large share: the blocks `first` to `last` (not included), or none of them."""

    offset: int
    length: int
    first: int
    last: int


class Copier:
    """Copies shares within a grid, with the leases that `lease` makes. A context manager: what is not committed at its
    end is removed."""

    def __init__(self, grid: Grid, lease: MakeLease, progress: Progress) -> None:
        self._grid = grid
        self._lease = lease
        self._progress = progress
        self._codec = Codec()
        self._removals: list[Future[None]] = []

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        self._codec.__exit__()
        until = time.monotonic() + _CLOSING_SECONDS
        for removal in self._removals:
            try:
                removal.result(timeout=max(0.0, until - time.monotonic()))
            except (LafsError, TimeoutError):
                continue

    # ---- looking

    def look(self, wanted: Sequence[Wanted]) -> Steps[list[Proved | LafsError]]:
        """Prove small shares, and all but the blocks of large ones; what fails is named in its place."""
        found: dict[int, Proved | LafsError] = {}
        small = [index for index, item in enumerate(wanted) if item.room <= SMALL]
        by_store: dict[str, list[int]] = {}
        for index in small:
            by_store.setdefault(wanted[index].store.server.name, []).append(index)
        readings = []
        for indexes in by_store.values():
            ranges = [ShareRange(wanted[i].si, wanted[i].shnum, 0, wanted[i].room) for i in indexes]
            readings.append((indexes, self._grid.read(wanted[indexes[0]].store, ranges)))
        for indexes, future in readings:
            answers = yield from wait(future)
            if isinstance(answers, LafsError):
                found.update(dict.fromkeys(indexes, answers))
                continue
            read = [(wanted[i], answer) for i, answer in zip(indexes, answers, strict=True)]
            proved = yield from wait(self._codec.submit(partial(_prove_all, read)))
            assert not isinstance(proved, LafsError)
            found.update(zip(indexes, proved, strict=True))
        for index, item in enumerate(wanted):
            if index not in found:
                found[index] = yield from self._open(item)
        return [found[index] for index in range(len(wanted))]

    def _open(self, item: Wanted) -> Steps[Large | LafsError]:
        cap = item.cap
        try:
            if cap is None:
                [head] = yield from self._fetch(item, [(0, HEADER_MAX)])
                layout = Layout.parse(head)
                [area] = yield from self._fetch(item, [ueb_range(layout, item.room)])
                cap = claimed_cap(item.si, layout, area)
            held: list[tuple[proofs.Ranges, Sequence[Buffer]]] = []
            while True:
                found = yield from wait(
                    self._codec.submit(partial(proofs.open_share, cap, item.shnum, held, item.room))
                )
                if isinstance(found, LafsError):
                    raise found
                if isinstance(found, proofs.Opened):
                    break
                held.append((found, (yield from self._fetch(item, found))))
            layout = Layout.parse(held[0][1][0][:HEADER_MAX])
            tail = _assemble(held, layout.crypttext_hash_tree, found.reader.share_size)
            return Large(item, cap, found, layout, _assemble(held, 0, layout.data), tail)
        except LafsError as error:
            return error

    def _fetch(self, item: Wanted, ranges: proofs.Ranges) -> Steps[list[Buffer]]:
        wanted = [ShareRange(item.si, item.shnum, offset, length) for offset, length in ranges]
        answers = yield from wait(self._grid.read(item.store, wanted))
        if isinstance(answers, LafsError):
            raise answers
        good: list[Buffer] = []
        for answer in answers:
            if isinstance(answer, LafsError):
                raise answer
            good.append(answer)
        return good

    # ---- writing

    def store(self, copies: Sequence[tuple[Proved, ShareStore]]) -> Steps[list[Failure | None]]:
        """Write these shares to these servers, durably; None for each that is there now. FileExists: the server has a
        share of that number."""
        outcomes: list[Failure | None] = [None] * len(copies)
        by_store: dict[str, list[tuple[int, NewShare]]] = {}
        for index, (share, store) in enumerate(copies):
            if isinstance(share, Whole):
                si, shnum = share.wanted.si, share.wanted.shnum
                new = NewShare(si, shnum, [share.data], self._lease(si, store))
                by_store.setdefault(store.server.name, []).append((index, new))
        writes = []
        for items in by_store.values():
            store = copies[items[0][0]][1]
            writes.append((store, items, self._grid.submit(store, partial(_create_all, [new for _, new in items]))))
        for store, items, future in writes:
            answers = yield from wait(future)
            for position, (index, new) in enumerate(items):
                answer = answers if isinstance(answers, LafsError) else answers[position]
                if answer is not None:
                    outcomes[index] = Failure(answer, source=False)
                else:
                    self._count(store, sum(memoryview(part).nbytes for part in new.parts))
        for index, (share, store) in enumerate(copies):
            if isinstance(share, Large):
                outcomes[index] = yield from self._stream(share, store)
        return outcomes

    def _count(self, store: ShareStore, size: int) -> None:
        self._progress.advance(size)
        self._progress.server(store.server.name, size)

    def _stream(self, share: Large, target: ShareStore) -> Steps[Failure | None]:
        si, shnum = share.wanted.si, share.wanted.shnum
        create = partial(_create, si, shnum, self._lease(si, target), share.opened.reader.share_size)
        creation = self._grid.submit(target, create)
        finished = False
        try:
            writer = yield from wait(creation)
            if isinstance(writer, LafsError):
                return Failure(writer, source=False)
            failure = yield from self._send(share, target, writer)
            if failure is None:
                ended = yield from wait(self._grid.submit(target, partial(_publish, writer)))
                failure = None if ended is None else Failure(ended, source=False)
            finished = failure is None
            return failure
        finally:
            if not finished:
                self._removals.append(self._grid.submit(target, partial(_remove, creation)))
            self._grid.submit(share.wanted.store, lambda store: store.release(si, shnum))

    def _send(self, share: Large, target: ShareStore, writer: ShareWriter) -> Steps[Failure | None]:
        """Everything in order: several pieces are being read while one is proved and others are being written."""
        source, si, shnum = share.wanted.store, share.wanted.si, share.wanted.shnum
        reads: deque[tuple[_Piece, Future[list[Buffer | LafsError]]]] = deque()
        appends: deque[Future[None]] = deque([self._append(target, writer, share.head, checkpoint=False)])
        pieces = _pieces(share)
        unsaved = 0
        while True:
            while len(reads) < _PIECES_AHEAD and (piece := next(pieces, None)) is not None:
                ranges = [ShareRange(si, shnum, piece.offset, piece.length, keep=True)]
                reads.append((piece, self._grid.read(source, ranges)))
            if not reads:
                break
            piece, future = reads.popleft()
            answers = yield from wait(future)
            data = answers if isinstance(answers, LafsError) else answers[0]
            if isinstance(data, LafsError):
                return Failure(data, source=True)
            proved = yield from wait(self._codec.submit(partial(_prove_piece, share, piece, data)))
            if isinstance(proved, LafsError):
                return Failure(proved, source=True)
            unsaved += piece.length
            appends.append(self._append(target, writer, data, checkpoint=unsaved >= _CHECKPOINT_BYTES))
            unsaved %= _CHECKPOINT_BYTES
            if len(appends) > _APPENDS_AHEAD:
                error = yield from wait(appends.popleft())
                if error is not None:
                    return Failure(error, source=False)
            self._count(target, piece.length)
        appends.append(self._append(target, writer, share.tail, checkpoint=False))
        while appends:
            error = yield from wait(appends.popleft())
            if error is not None:
                return Failure(error, source=False)
        return None

    def _append(self, target: ShareStore, writer: ShareWriter, data: Buffer, *, checkpoint: bool) -> Future[None]:
        return self._grid.submit(target, partial(_append, writer, data, checkpoint))


# ---- in codec threads


def _prove_all(read: Sequence[tuple[Wanted, Buffer | LafsError]]) -> list[Proved | LafsError]:
    return [data if isinstance(data, LafsError) else _prove_whole(item, memoryview(data)) for item, data in read]


def _prove_whole(item: Wanted, data: memoryview) -> Whole | LafsError:
    try:
        cap = item.cap
        if cap is None:
            layout = Layout.parse(data[:HEADER_MAX])
            start, length = ueb_range(layout, len(data))
            cap = claimed_cap(item.si, layout, data[start : start + length])
        held: list[tuple[proofs.Ranges, Sequence[Buffer]]] = []
        while not isinstance(found := proofs.open_share(cap, item.shnum, held, item.room), proofs.Opened):
            held.append((found, [data[offset : offset + length] for offset, length in found]))
        if found.length:
            proofs.check_unused(data[found.start : found.start + found.length], found.length)
        if found.wrong is None:
            first = found.reader.block_range(0)[0]
            sizes = found.reader.sizes
            blocks = proofs.split_blocks(sizes, 0, sizes.num_segments, data[first : first + sizes.share_data])
            wrong = proofs.wrong_blocks(found.reader, 0, blocks)
        else:
            wrong = found.wrong
        if wrong:
            return CorruptShare(wrong[0])
        return Whole(item, cap, data[: found.reader.share_size])
    except CorruptShare as error:
        return error


def _prove_piece(share: Large, piece: _Piece, data: Buffer) -> None:
    """CorruptShare unless these bytes are what belongs there."""
    reader = share.opened.reader
    if len(data) != piece.length:
        raise CorruptShare(f"the share ends before byte {piece.offset + piece.length}")
    if piece.first < piece.last:
        wrong = proofs.wrong_blocks(
            reader, piece.first, proofs.split_blocks(reader.sizes, piece.first, piece.last, data)
        )
        if wrong:
            raise CorruptShare(wrong[0])
    elif b"plaintext_root_hash:" not in reader.ueb:
        proofs.check_unused(data, piece.length)


# ---- pieces


def _pieces(share: Large) -> Iterator[_Piece]:
    """What lies between head and tail: the blocks, and the area behind them that is empty in all but very old shares
    (what the opening has found empty is read again, for it is copied)."""
    reader, layout = share.opened.reader, share.layout
    count, most = reader.sizes.num_segments, max(1, _PIECE // reader.sizes.block_size)
    for first in range(0, count, most):
        last = min(first + most, count)
        offset, _ = reader.block_range(first)
        end, length = reader.block_range(last - 1)
        yield _Piece(offset, end + length - offset, first, last)
    for offset in range(layout.plaintext_hash_tree, layout.crypttext_hash_tree, _PIECE):
        yield _Piece(offset, min(_PIECE, layout.crypttext_hash_tree - offset), 0, 0)


def _assemble(held: Sequence[tuple[proofs.Ranges, Sequence[Buffer]]], start: int, end: int) -> bytes:
    """The bytes of a share from `start` to `end`, out of the ranges that were fetched to open it."""
    parts = [
        (offset, memoryview(data))
        for ranges, answers in held
        for (offset, _), data in zip(ranges, answers, strict=True)
    ]
    made = bytearray()
    for offset, data in sorted(parts, key=lambda part: part[0]):
        at = start + len(made)
        if offset <= at < offset + len(data):
            made += data[at - offset : end - offset]
    assert len(made) == end - start, "what was proved was fetched"
    return bytes(made)


# ---- in the servers' workers


def _create(si: StorageIndex, shnum: int, lease: Lease, size: int, store: ShareStore) -> ShareWriter:
    space = store.space()
    if space is not None and space.free < size + _ROOM:
        raise OutOfSpace("has no room")
    return store.create(si, shnum, lease=lease)


def _create_all(new: Sequence[NewShare], store: ShareStore) -> list[LafsError | None]:
    return store.create_many(new)


def _append(writer: ShareWriter, data: Buffer, checkpoint: bool, _store: ShareStore) -> None:
    writer.append(data)
    if checkpoint:
        writer.checkpoint()


def _remove(creation: Future[ShareWriter], _store: ShareStore) -> None:
    if creation.exception() is None:  # the worker has done it before it comes to this
        creation.result().abort()


def _publish(writer: ShareWriter, _store: ShareStore) -> None:
    writer.seal()
    writer.commit()
