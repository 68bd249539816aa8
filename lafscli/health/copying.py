"""Whole shares from one server to another, as they are: proved on the way, not encoded again (spec 02 §7, 05 §6).

What does not prove is never sent on. A share whose cap is known is proved against that, any other against itself.
Small shares travel in batches; large ones in pieces, in bounded memory.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from lafscli.errors import LafsError, OutOfSpace
from lafscli.formats.chk import HEADER_MAX, Layout
from lafscli.health import proofs
from lafscli.health.renew import MakeLease
from lafscli.health.steps import Steps, wait
from lafscli.health.whole import Large, Piece, Proved, Wanted, Whole, assemble, pieces, prove_all, prove_piece
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

_PIECES_AHEAD = 6
_APPENDS_AHEAD = 4
_CHECKPOINT_BYTES = 8 << 20
_ROOM = 1 << 20
_CLOSING_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a share was not copied, and whether it is its source that failed."""

    error: LafsError
    source: bool


class Copier:
    """Copies shares within a grid, with the leases that `lease` makes. A context manager: what is not committed at its
    end is removed, and what is being written then is waited for, for a moment."""

    def __init__(self, grid: Grid, lease: MakeLease, progress: Progress) -> None:
        self._grid = grid
        self._lease = lease
        self._progress = progress
        self._codec = Codec()
        self._ending: list[Future[Any]] = []

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        self._codec.__exit__()
        until = time.monotonic() + _CLOSING_SECONDS
        for work in self._ending:
            try:
                work.result(timeout=max(0.0, until - time.monotonic()))
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
            proved = yield from wait(self._codec.submit(partial(prove_all, read)))
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
            return (yield from wait(self._codec.submit(partial(assemble, item, cap, held))))
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
            write = self._grid.submit(store, partial(_create_all, [new for _, new in items]))
            self._ending.append(write)  # a moment later nothing of it is staged
            writes.append((store, items, write))
        for store, items, future in writes:
            answers = yield from wait(future)
            self._ending.remove(future)
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
        create = partial(_create, si, shnum, self._lease(si, target), share.size)
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
                self._ending.append(self._grid.submit(target, partial(_remove, creation)))
            self._grid.submit(share.wanted.store, lambda store: store.release(si, shnum))

    def _send(self, share: Large, target: ShareStore, writer: ShareWriter) -> Steps[Failure | None]:
        """Everything in order: several pieces are being read while one is proved and others are being written."""
        source, si, shnum = share.wanted.store, share.wanted.si, share.wanted.shnum
        reads: deque[tuple[Piece, Future[list[Buffer | LafsError]]]] = deque()
        appends: deque[Future[None]] = deque([self._append(target, writer, share.head, checkpoint=False)])
        left = pieces(share)
        unsaved = 0
        while True:
            while len(reads) < _PIECES_AHEAD and (piece := next(left, None)) is not None:
                ranges = [ShareRange(si, shnum, piece.offset, piece.length, keep=True)]
                reads.append((piece, self._grid.read(source, ranges)))
            if not reads:
                break
            piece, future = reads.popleft()
            answers = yield from wait(future)
            data = answers if isinstance(answers, LafsError) else answers[0]
            if isinstance(data, LafsError):
                return Failure(data, source=True)
            proved = yield from wait(self._codec.submit(partial(prove_piece, share, piece, data)))
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
