"""Read and prove whole shares: all servers at once, several reads under way on each, hashing in codec threads.

Each share goes its own way as fast as its server does. The blocks of k of them are also put together, to prove that
they make the file; these k keep in step. Memory: what is under way, whatever the sizes of the files.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from lafscli.errors import CorruptShare, FileError, FileMissing, LafsError, NotRecoverable, ServerUnreachable
from lafscli.health import proofs
from lafscli.health.survey import Seen, Silences
from lafscli.health.underway import JOINED, SPOILT, STRIPE, Buffers, FileProof, Sample, ShareProof
from lafscli.immutable.fetch import SegmentFetch
from lafscli.immutable.pipeline import Codec, Events
from lafscli.storage.grid import Grid
from lafscli.storage.store import Buffer, Progress, ShareRange, ShareStore, StorageIndex

_IN_FLIGHT = 24 << 20
"""Bytes that are being read or hashed at a time, over all servers."""

_READS_A_SERVER = 6
_FILES_AT_ONCE = 16
_LEAD = 4
"""How many stripes a share may be ahead of the slowest of those that are put together."""

_PATIENCE = 2.0
"""Seconds that a file waits for slow servers before the k shares that are put together are chosen."""

_KEEP_OPEN = 64 << 10
_TICK = 0.25


class Prover:
    """Proves the shares that a survey found. One thread owns all state; servers and codec threads report to it."""

    def __init__(self, grid: Grid, codec: Codec, silences: Silences, sample: Sample, progress: Progress) -> None:
        self._grid = grid
        self._codec = codec
        self._silences = silences
        self._sample = sample
        self._progress = progress
        self._events = Events()
        self._stores = {store.server.name: store for store in grid.stores}
        self._reads: dict[str, int] = dict.fromkeys(self._stores, 0)
        self._in_flight = 0
        self._buffers = Buffers(_IN_FLIGHT)

    def prove(self, objects: Sequence[Seen]) -> None:
        """Take from `found` of each object what is no good, and say why; count the bytes of blocks that were read."""
        waiting = deque(self._files(objects))
        active: list[FileProof] = []
        while (waiting or active) and not self._silences.late:
            while waiting and len(active) < _FILES_AT_ONCE:
                active.append(waiting.popleft())
                self._start(active[-1])
            for file in active:
                self._advance(file)
            over = [file for file in active if file.over]
            for file in over:
                active.remove(file)
                self._put_spoilt_together(file)
                file.account()
            if not over:
                self._events.handle(_TICK)
        for file in active:
            file.account()

    def _files(self, objects: Sequence[Seen]) -> list[FileProof]:
        """What is to be proved; the containers of all shares are looked at first, in one call a server."""
        files: list[FileProof] = []
        wanted: dict[str, list[tuple[FileProof, int]]] = {}
        for seen in objects:
            file = FileProof(seen, self._sample.part(seen.cap.size))
            if file.part > 0:
                files.append(file)
                for name, shnum in seen.found:
                    wanted.setdefault(name, []).append((file, shnum))
        asked = [
            (name, items, self._grid.submit(self._stores[name], partial(_rooms, items)))
            for name, items in wanted.items()
        ]
        for name, items, future in asked:
            rooms = self._silences.result(name, future)
            for position, (file, shnum) in enumerate(items):
                room = rooms if isinstance(rooms, LafsError) else rooms[position]
                if isinstance(rooms, LafsError):
                    file.seen.unknown(name, rooms.message)
                elif isinstance(room, LafsError):
                    file.seen.failed(name, shnum, room)
                else:
                    file.shares.append(ShareProof(file, self._stores[name], shnum, room))
        return files

    # ---- everything of a share but its blocks

    def _start(self, file: FileProof) -> None:
        file.since = time.monotonic()
        file.shares.sort(key=lambda share: share.shnum)
        for share in file.shares:
            reason = self._silences.reason(share.server)
            if reason is not None:
                share.state = "lost"
                file.seen.unknown(share.server, reason)
                continue
            ranges = proofs.open_share(file.seen.cap, share.shnum, [], share.room)
            assert not isinstance(ranges, proofs.Opened)
            self._fetch(share, ranges)

    def _fetch(self, share: ShareProof, ranges: proofs.Ranges) -> None:
        keep = share.room > _KEEP_OPEN
        wanted = [ShareRange(share.file.seen.cap.si, share.shnum, offset, length, keep) for offset, length in ranges]
        self._events.report(self._grid.read(share.store, wanted), partial(self._fetched, share, ranges))

    def _fetched(self, share: ShareProof, ranges: proofs.Ranges, done: Future[list[Buffer | LafsError]]) -> None:
        answers: list[Buffer] = []
        for answer in self._values(share, done):
            if isinstance(answer, LafsError):
                self._failed(share, answer)
                return
            answers.append(answer)
        if share.state == "opening":
            share.held.append((ranges, answers))
            job = partial(proofs.open_share, share.file.seen.cap, share.shnum, share.held, share.room)
            self._events.report(self._codec.submit(job), partial(self._opened, share))

    def _values(self, share: ShareProof, done: Future[list[Buffer | LafsError]]) -> list[Buffer | LafsError]:
        """What came; nothing when the server failed."""
        error = done.exception()
        if error is None:
            return done.result()
        # whatever the server said, it was not about this share
        self._failed(share, ServerUnreachable(error.message) if isinstance(error, FileError) else error)
        return []

    def _opened(self, share: ShareProof, done: Future[proofs.Opened | proofs.Ranges]) -> None:
        error = done.exception()
        if error is not None:
            self._failed(share, error)
            return
        found = done.result()
        if not isinstance(found, proofs.Opened):
            self._fetch(share, found)
            return
        share.held = []
        share.reader = found.reader
        share.small = found.wrong
        share.state = "open"
        file = share.file
        if share.small is not None and file.sizes is None:
            file.part = 1.0  # all of it is here and proved
        if file.part >= 1:
            end = found.start + found.length
            share.unused.extend((at, min(STRIPE, end - at)) for at in range(found.start, end, STRIPE))
        if file.sizes is None:
            file.sizes = found.reader.sizes
            file.stripes = self._sample.stripes(file.sizes, file.part)
            file.together = bytearray(len(file.stripes))

    def _failed(self, share: ShareProof, error: BaseException) -> None:
        """This share is of no use any more."""
        if not isinstance(error, LafsError):
            raise error
        if share.state in ("bad", "lost"):
            return
        share.file.seen.failed(share.server, share.shnum, error)
        lost = not isinstance(error, CorruptShare | FileError)
        share.state = "lost" if lost or isinstance(error, FileMissing) else "bad"
        if lost:
            self._silences.note(share.server, error)
        if share in share.file.team:
            self._dissolve(share.file)
        self._release(share)

    def _release(self, share: ShareProof) -> None:
        share.held = []
        if share.room > _KEEP_OPEN and share.state != "lost":
            self._grid.submit(share.store, partial(_release, share.file.seen.cap.si, share.shnum))

    # ---- blocks

    def _advance(self, file: FileProof) -> None:
        if not file.streaming and not self._choose_team(file):
            return
        for share in file.shares:
            if share.state == "open":
                self._read_on(share)

    def _choose_team(self, file: FileProof) -> bool:
        """Once the shares are open, or enough of them and the others are slow: which k are put together."""
        by_number = {share.shnum: share for share in reversed(file.shares) if share.state == "open"}
        k = file.seen.cap.k
        if any(share.state == "opening" for share in file.shares) and (
            len(by_number) < k or time.monotonic() - file.since < _PATIENCE
        ):
            return False
        if len(by_number) >= k:
            file.team = [by_number[shnum] for shnum in sorted(by_number)[:k]]
        else:
            file.together = bytearray([SPOILT]) * len(file.stripes)
        file.streaming = True
        return True

    def _read_on(self, share: ShareProof) -> None:
        """Begin as many reads as are allowed."""
        file, reader = share.file, share.reader
        assert reader is not None
        limit = len(file.stripes)
        if share in file.team:
            limit = min(limit, min(other.checked for other in file.team) + _LEAD)
        while share.next < limit and self._reads[share.server] < _READS_A_SERVER and self._in_flight < _IN_FLIGHT:
            index = share.next
            share.next += 1
            share.under_way += 1
            first, last = file.stripes[index]
            offset, _ = reader.block_range(first)
            end, length = reader.block_range(last - 1)
            size = end + length - offset
            self._in_flight += size
            if share.small is not None and len(file.stripes) == 1:
                blocks = [reader.prefetched(number) or b"" for number in range(first, last)]
                self._judged(share, index, blocks, None, size, share.small)
            else:
                buffer = self._buffers.take(reader.sizes.block_size * (last - first))
                self._read(share, offset, size, buffer, partial(self._arrived, share, index, buffer, size))
        while share.next == len(file.stripes) and share.unused and self._reads[share.server] < _READS_A_SERVER:
            offset, size = share.unused.popleft()
            share.under_way += 1
            self._in_flight += size
            self._read(share, offset, size, None, partial(self._unused_arrived, share, size))
        if share.next == len(file.stripes) and not share.under_way and not share.unused:
            share.state = "done"
            self._release(share)

    def _read(
        self,
        share: ShareProof,
        offset: int,
        size: int,
        buffer: memoryview | None,
        arrived: Callable[[Future[list[Buffer | LafsError]]], None],
    ) -> None:
        self._reads[share.server] += 1
        into = None if buffer is None else buffer[:size]
        wanted = ShareRange(share.file.seen.cap.si, share.shnum, offset, size, share.room > _KEEP_OPEN, into)
        self._events.report(self._grid.read(share.store, [wanted]), arrived)

    def _landed(self, share: ShareProof, size: int, done: Future[list[Buffer | LafsError]]) -> Buffer | None:
        """What a read brought, if the share is still worth looking at."""
        self._reads[share.server] -= 1
        self._progress.server(share.server, size)
        self._progress.advance(size)
        for answer in self._values(share, done):
            if isinstance(answer, LafsError):
                self._failed(share, answer)
            elif share.state == "open":
                return answer
        self._in_flight -= size
        share.under_way -= 1
        return None

    def _unused_arrived(self, share: ShareProof, size: int, done: Future[list[Buffer | LafsError]]) -> None:
        data = self._landed(share, size, done)
        if data is None:
            return
        self._in_flight -= size
        share.under_way -= 1
        try:
            proofs.check_unused(data, size)
        except CorruptShare as error:
            self._failed(share, error)

    def _arrived(
        self, share: ShareProof, index: int, buffer: memoryview, size: int, done: Future[list[Buffer | LafsError]]
    ) -> None:
        data = self._landed(share, size, done)
        if data is None:
            self._buffers.give([buffer])
        elif len(data) != size:
            self._in_flight -= size
            share.under_way -= 1
            self._buffers.give([buffer])
            self._failed(share, CorruptShare(f"the share ends within block {share.file.stripes[index][1] - 1}"))
        else:
            assert share.reader is not None
            first, last = share.file.stripes[index]
            blocks = proofs.split_blocks(share.reader.sizes, first, last, data)
            hashing = self._codec.submit(partial(proofs.wrong_blocks, share.reader, first, blocks))
            self._events.report(hashing, partial(self._hashed, share, index, blocks, buffer, size))

    def _hashed(
        self,
        share: ShareProof,
        index: int,
        blocks: Sequence[Buffer],
        buffer: memoryview,
        size: int,
        done: Future[list[str]],
    ) -> None:
        self._judged(share, index, blocks, buffer, size, done.result())

    def _judged(
        self,
        share: ShareProof,
        index: int,
        blocks: Sequence[Buffer],
        buffer: memoryview | None,
        size: int,
        wrong: list[str],
    ) -> None:
        """The blocks of a stripe were hashed: note those that are wrong, keep what is to be put together."""
        self._in_flight -= size
        share.under_way -= 1
        share.checked += 1
        share.looked += size
        share.reason = share.reason or "".join(wrong[:1])
        share.wrong += len(wrong)
        file = share.file
        if share not in file.team or file.together[index] == SPOILT:
            self._buffers.give([] if buffer is None else [buffer])
            return
        file.kept.setdefault(index, {})[share.shnum] = blocks
        file.buffers.setdefault(index, []).extend([] if buffer is None else [buffer])
        if wrong:
            self._spoil(file, index)
        elif len(file.kept[index]) == file.seen.cap.k:
            self._join(file, index)

    # ---- the file

    def _join(self, file: FileProof, index: int) -> None:
        reader = file.team[0].reader
        assert reader is not None
        file.joining += 1
        file.together[index] = JOINED
        cap, first = file.seen.cap, file.stripes[index][0]
        job = partial(proofs.check_segments, reader, cap.k, cap.n, first, file.kept.pop(index))
        self._events.report(self._codec.submit(job), partial(self._put_together, file, file.buffers.pop(index)))

    def _put_together(self, file: FileProof, buffers: list[memoryview], done: Future[None]) -> None:
        file.joining -= 1
        self._buffers.give(buffers)
        error = done.exception()
        if isinstance(error, CorruptShare):
            file.seen.flaw = file.seen.flaw or error.message
        elif error is not None:
            raise error

    def _spoil(self, file: FileProof, index: int) -> None:
        file.together[index] = SPOILT
        file.kept.pop(index, None)
        self._buffers.give(file.buffers.pop(index, []))

    def _dissolve(self, file: FileProof) -> None:
        """One of the team failed: what is not together by now is put together at the end."""
        file.team = []
        for index in range(len(file.stripes)):
            if file.together[index] != JOINED:
                self._spoil(file, index)

    def _put_spoilt_together(self, file: FileProof) -> None:
        """Prove the segments that a failing share kept from being put together, with blocks of whichever shares."""
        good = {shnum for _, shnum in file.seen.found} - {share.shnum for share in file.shares if share.wrong}
        if file.sizes is None or len(good) < file.seen.cap.k:
            return
        cap, size = file.seen.cap, file.sizes.segment_size
        for first, last in file.spoilt():
            fetch = SegmentFetch(self._grid, cap, first * size, min(last * size, cap.size), Progress(), None)
            try:
                for _ in fetch.run(self._codec):
                    if self._silences.late:
                        return
            except NotRecoverable as error:
                file.seen.flaw = file.seen.flaw or error.message
            except LafsError:  # servers went silent: their shares are unknown, and that is told already
                return


def _rooms(items: Sequence[tuple[FileProof, int]], store: ShareStore) -> list[int | LafsError]:
    return store.share_size([(file.seen.cap.si, shnum) for file, shnum in items])


def _release(si: StorageIndex, shnum: int, store: ShareStore) -> None:
    store.release(si, shnum)
