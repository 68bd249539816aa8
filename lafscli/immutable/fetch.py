"""Fetch the proved segments of one immutable file from whichever k shares serve best (spec 02 §7)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from functools import partial

from lafscli.errors import CannotTell, CorruptShare, FileMissing, LafsError, NotRecoverable, Unreachable
from lafscli.formats.caps import ChkVerifyCap
from lafscli.formats.chk import Sizes
from lafscli.immutable.pipeline import Coding, Events, fetcher
from lafscli.immutable.underway import Decoded, Segment, Source, wrong_blocks
from lafscli.primitives import erasure
from lafscli.primitives.ciphers import AesCtr
from lafscli.primitives.encoding import b32encode
from lafscli.proof.shares import ShareReader, check_segment
from lafscli.storage.grid import Grid
from lafscli.storage.report import BadShare
from lafscli.storage.shares import new_keeper
from lafscli.storage.store import Buffer, Progress, ShareRange, ShareStore

_AHEAD_BYTES = 8 << 20
"""Ciphertext of the segments that are fetched ahead of the one being written out."""

_HEDGE_SECONDS = 2.0
"""A block that is this late, and late by its neighbours' measure too, is asked for from another share."""

_PRIMARY_WORTH = 4 << 20
"""From this size on the download waits a moment for primary shares: they spare the decoding."""

_IMPATIENT_SECONDS = 0.5
"""When the first servers have not given k shares by then, all the others are asked too."""

_TICK = 0.25


class SegmentFetch:
    """The proved segments of one file that touch `start` to `stop`; decrypted if `key` is given.

    One thread (that of `run`) owns all state; servers and codec threads report through a queue. `corrupt` names the
    shares that lied, `silent` the servers that failed, so far. With `known` (shares, and their readers where they are
    open) no server is asked for more, or `further` ones only as they are needed. `ahead`: how many
    bytes may be fetched ahead of what is taken.
    """

    def __init__(
        self,
        grid: Grid,
        cap: ChkVerifyCap,
        start: int,
        stop: int,
        progress: Progress,
        key: bytes | None,
        known: Sequence[tuple[ShareStore, int, ShareReader | None]] = (),
        *,
        further: bool = False,
        ahead: Callable[[], int] = lambda: _AHEAD_BYTES,
    ) -> None:
        self.grid = grid
        self.cap = cap
        self.start = start
        self.stop = stop
        self.progress = progress
        self.key = key
        self._reader = next((reader for _, _, reader in known if reader is not None), None)
        self.sizes: Sizes | None = None if self._reader is None else self._reader.sizes
        self.corrupt: list[BadShare] = []
        self.silent: dict[str, str] = {}
        self._ahead = ahead
        self._keeper = new_keeper()
        theirs = {store.server.name for store, _, _ in known}
        ask = not known or further
        self._unasked = deque(one for one in grid.prompt_first(cap.si) if ask and one.server.name not in theirs)
        self._asked_at = 0.0
        self._waiting: set[str] = set()
        self._sources = [
            Source(store, shnum, "found" if reader is None else "ready", reader=reader)
            for store, shnum, reader in known
        ]
        self._segments: dict[int, Segment] = {}
        self._spare_buffers: list[memoryview] = []
        self._events = Events()
        self._began = time.monotonic()
        self._enough_since: float | None = None
        self._usual_seconds = 0.0

    def prove(self, read: Callable[[int, int], Buffer]) -> int:
        """Leave out what is there already: `read(offset, length)` gives plaintext of an earlier download. Each segment
        is encrypted again and proved like one from servers; answers how many bytes from `start` = 0 are good."""
        assert self.key is not None
        assert self.start == 0
        sizes = self._begin()
        assert self._reader is not None
        for number in range(sizes.num_segments):
            offset, length = number * sizes.segment_size, sizes.segment_length(number)
            data = read(offset, length)
            try:
                check_segment(self._reader.segment_hash(number), AesCtr(self.key, offset).update(data))
            except CorruptShare:
                break
            self.start = offset + length
        return self.start

    def run(self, codec: Coding) -> Generator[tuple[int, Buffer]]:
        """Yield (offset in the file, bytes) of each whole segment, in order. Raises NotRecoverable, CannotTell,
        Unreachable."""
        try:
            size = self._begin().segment_size
            if self.start >= self.stop:
                return
            first, last = self.start // size, (self.stop - 1) // size
            for number in range(first, last + 1):
                ahead = max(2, self._ahead() // size)
                result = None
                while result is None:
                    self._advance(codec, number, min(number + ahead, last + 1))
                    result = self._segments[number].result
                    if result is None:
                        self._wait()
                yield number * size, result
                self._recycle(self._segments.pop(number))
        finally:
            self._events.end()
            for source in self._sources:
                if source.state == "ready":
                    self.grid.submit(source.store, partial(_release, self.cap.si, source.shnum, self._keeper))

    @property
    def located(self) -> list[tuple[ShareStore, int, ShareReader | None]]:
        """The shares that were found and are of use, for another fetch of this file."""
        return [(one.store, one.shnum, one.reader) for one in self._sources if one.state != "gone"]

    def _begin(self) -> Sizes:
        """Ask who has shares and open the first: its UEB tells the segment size."""
        while self.sizes is None:
            self._open_sources()
            self._wait()
        return self.sizes

    def _advance(self, codec: Coding, number: int, stop: int) -> None:
        for wanted in range(number, stop):
            if wanted not in self._segments:
                self._segments[wanted] = Segment(wanted, self._new_buffer())
        self._open_sources()
        for segment in list(self._segments.values()):
            self._request(segment)
            self._decode(codec, segment)

    # ---- events

    def _wait(self) -> None:
        """Handle what has happened; wait a moment if nothing has."""
        self._events.handle(_TICK)
        self._find_slow()

    def _find_slow(self) -> None:
        """Whoever is late by the clock and by the others' measure is no longer relied on."""
        limit = time.monotonic() - max(_HEDGE_SECONDS, 4 * self._usual_seconds)
        for source in self._sources:
            if source.state == "opening" and source.since < limit:
                source.slow = True
        if self._segments:
            oldest = self._segments[min(self._segments)]
            for source, since in oldest.asked.items():
                if since < limit:
                    source.slow = True

    # ---- who has shares

    def _ask(self, count: int) -> None:
        """Ask the next servers in permuted order. An upload puts share i on the i-th of them, so the first k are asked
        first: every connection that is not needed costs both ends a key exchange."""
        self._asked_at = time.monotonic()
        for _ in range(min(count, len(self._unasked))):
            store = self._unasked.popleft()
            self._waiting.add(store.server.name)
            self._events.report(self.grid.submit(store, self._shares_of), partial(self._answered, store))

    def _ask_more(self, relied: int) -> None:
        """Make up for servers that fail or have no share at once, and ask all when the first are not quick."""
        hopeful = {s.shnum for s in self._sources if s.state != "gone" and not s.slow}
        lacking = self.cap.k - len(hopeful) - len(self._waiting)
        if lacking > 0:
            self._ask(lacking)
        elif relied < self.cap.k and time.monotonic() - self._asked_at > _IMPATIENT_SECONDS:
            self._ask(len(self._unasked))

    def _shares_of(self, store: ShareStore) -> frozenset[int]:
        [shares] = store.shares([self.cap.si])
        if isinstance(shares, LafsError):
            raise shares
        return shares

    def _answered(self, store: ShareStore, done: Future[frozenset[int]]) -> None:
        self._waiting.discard(store.server.name)
        error = done.exception()
        if error is None:
            self._sources += [Source(store, shnum) for shnum in sorted(done.result()) if shnum < self.cap.n]
            if self._enough_since is None and len({source.shnum for source in self._sources}) >= self.cap.k:
                self._enough_since = time.monotonic()
        elif isinstance(error, LafsError):
            self.silent[store.server.name] = error.message
        else:
            raise error

    # ---- which shares are used

    def _open_sources(self) -> None:
        """Keep k shares of different numbers open or opening; give up when that can't be."""
        relied = {s.shnum for s in self._sources if s.state in ("opening", "ready") and not s.slow}
        busy = [s.store.server.name for s in self._sources if s.state in ("opening", "ready")]
        while len(relied) < self.cap.k:
            free = [s for s in self._sources if s.state == "found" and s.shnum not in relied]
            if not self._settled():
                free = [s for s in free if s.shnum < self.cap.k]
            if not free:
                break
            best = min(free, key=lambda s: (s.shnum >= self.cap.k, busy.count(s.store.server.name)))
            relied.add(best.shnum)
            busy.append(best.store.server.name)
            self._open(best)
        if self._unasked:
            self._ask_more(len(relied))
        possible = {s.shnum for s in self._sources if s.state != "gone"}
        if len(possible) < self.cap.k and not self._waiting:
            raise self._too_few(len(possible))

    def _settled(self) -> bool:
        """Whether to take any share now, rather than wait a moment for the primary ones."""
        if self.cap.size < _PRIMARY_WORTH or not self._waiting:
            return True
        if self._enough_since is None:
            return False
        took = self._enough_since - self._began
        return time.monotonic() - self._enough_since > max(0.3, 0.5 * took)

    def _too_few(self, count: int) -> LafsError:
        name = b32encode(self.cap.si)[:5]
        message = f"not enough shares for {name}: found {count}, need {self.cap.k}"
        if self.corrupt:
            message += f" ({len(self.corrupt)} corrupt)"
        if not self.silent:
            return NotRecoverable(message, hint="every server answered: bring back a server that holds more shares")
        named = ", ".join(sorted(self.silent))
        if len(self.silent) == len(self.grid.stores):
            reasons = "; ".join(f"{server}: {reason}" for server, reason in sorted(self.silent.items()))
            return Unreachable(f"no server could be reached ({reasons})", hint="lafs server status says what is wrong")
        return CannotTell(message, hint=f"servers {named} did not answer; try again later")

    def _open(self, source: Source) -> None:
        source.state = "opening"
        source.since = time.monotonic()

        def prove(store: ShareStore) -> ShareReader:
            reader = ShareReader(self.cap, source.shnum)
            reader.open(fetcher(store, self.cap.si, source.shnum, keep=True, keeper=self._keeper))
            return reader

        self._events.report(self.grid.submit(source.store, prove), lambda done: self._opened(source, done))

    def _opened(self, source: Source, done: Future[ShareReader]) -> None:
        error = done.exception()
        if error is not None:
            self._drop(source, error)
            return
        source.reader = done.result()
        source.state = "ready"
        if self.sizes is None:
            self._reader = source.reader
            self.sizes = source.reader.sizes

    def _drop(self, source: Source, error: BaseException) -> None:
        """This share is of no use: say why, once."""
        if source.state == "gone":
            return
        if not isinstance(error, LafsError):
            raise error
        source.state = "gone"
        name = source.store.server.name
        if isinstance(error, CorruptShare):
            self._name_corrupt(source, error.message)
        elif not isinstance(error, FileMissing):
            if name not in self.silent:
                self.progress.warn(f"server {name}: {error.message}")
            self.silent[name] = error.message

    def _name_corrupt(self, source: Source, reason: str) -> None:
        name = source.store.server.name
        if not any((bad.server, bad.shnum) == (name, source.shnum) for bad in self.corrupt):
            self.corrupt.append(BadShare(name, source.shnum, reason))
            self.progress.warn(f"server {name}: share {source.shnum} is corrupt and was not used: {reason}")

    # ---- segments

    def _request(self, segment: Segment) -> None:
        """Ask for as many blocks as are missing: first of shares that can be relied on, then of the slow ones."""
        if segment.result is not None or segment.decoding:
            return
        coming = {s.shnum for s in segment.asked if not s.slow} | segment.blocks.keys()
        if len(coming) >= self.cap.k:
            return
        opening = any(s.state == "opening" and not s.slow for s in self._sources)
        for slow in (False,) if opening else (False, True):
            ready = [s for s in self._sources if s.state == "ready" and s.slow is slow and s not in segment.tried]
            for source in sorted(ready, key=lambda s: s.shnum):
                if len(coming) >= self.cap.k:
                    return
                if source.shnum not in coming:
                    coming.add(source.shnum)
                    self._request_block(segment, source)
        left = {s.shnum for s in self._sources if s.state in ("found", "opening")}
        left |= segment.blocks.keys() | {s.shnum for s in segment.asked}
        if len(left) < self.cap.k and not self._waiting:
            if not self._unasked:
                raise self._too_few(len(left))
            self._ask(self.cap.k - len(left))

    def _request_block(self, segment: Segment, source: Source) -> None:
        assert source.reader is not None
        alone = all(other.shnum != source.shnum for other in segment.tried)
        segment.tried.add(source)
        block = source.reader.prefetched(segment.number)
        if block is not None:
            segment.blocks[source.shnum] = source, block
            return
        offset, length = source.reader.block_range(segment.number)
        primary = source.shnum if source.shnum < self.cap.k and alone else None
        into = segment.place(primary, length, self._new_buffer)
        segment.asked[source] = time.monotonic()
        wanted = ShareRange(self.cap.si, source.shnum, offset, length, keep=True, into=into, keeper=self._keeper)
        self._events.report(
            self.grid.read(source.store, [wanted]), lambda done: self._arrived(segment, source, length, done)
        )

    def _arrived(self, segment: Segment, source: Source, length: int, done: Future[list[Buffer | LafsError]]) -> None:
        took = time.monotonic() - segment.asked.pop(source)
        self._usual_seconds = took if not self._usual_seconds else 0.8 * self._usual_seconds + 0.2 * took
        error = done.exception()
        if error is not None:
            self._drop(source, error)
            return
        [block] = done.result()
        if isinstance(block, LafsError):
            self._drop(source, block)
        elif memoryview(block).nbytes != length:
            self._drop(source, CorruptShare(f"the share ends within block {segment.number}"))
        else:
            segment.blocks.setdefault(source.shnum, (source, block))
            self.progress.server(source.store.server.name, length)

    def _decode(self, codec: Coding, segment: Segment) -> None:
        if segment.decoding or segment.result is not None or len(segment.blocks) < self.cap.k:
            return
        segment.decoding = True
        chosen = dict(sorted(segment.blocks.items())[: self.cap.k])
        # A late answer may still be written into the buffer: then what is proved must not lie there.
        into = None if segment.asked else segment.buffer
        decoding = codec.submit(lambda: self._decoded(segment, chosen, into))
        self._events.report(decoding, lambda done: self._finished(segment, done))

    def _decoded(self, segment: Segment, chosen: dict[int, tuple[Source, Buffer]], into: memoryview | None) -> Decoded:
        """In a codec thread: decode, prove, decrypt. The hash of the segment proves all of its blocks at once; they are
        proved one by one only to find out which of them lies."""
        assert self.sizes is not None
        assert self._reader is not None
        length = self.sizes.segment_length(segment.number)
        blocks = {shnum: block for shnum, (_, block) in chosen.items()}
        data = erasure.decode(self.cap.k, self.cap.n, blocks, length, into=into)
        try:
            check_segment(self._reader.segment_hash(segment.number), data)
        except CorruptShare:
            wrong = wrong_blocks(segment.number, chosen)
            if not wrong:
                raise
            return Decoded(b"", wrong)
        if self.key is None:
            return Decoded(data, [])
        cipher = AesCtr(self.key, segment.number * self.sizes.segment_size)
        if into is None:
            return Decoded(cipher.update(data), [])
        return Decoded(into[: cipher.update_into(data, into)], [])

    def _finished(self, segment: Segment, done: Future[Decoded]) -> None:
        segment.decoding = False
        error = done.exception()
        if isinstance(error, CorruptShare):
            raise NotRecoverable(
                f"segment {segment.number} of {b32encode(self.cap.si)[:5]} can't be rebuilt: {error.message}",
                hint="the shares agree with one another: the file was damaged when it was stored",
            )
        if error is not None:
            raise error
        decoded = done.result()
        for source, reason in decoded.wrong:  # spec 02 §7: a bad block spoils that block alone
            self._name_corrupt(source, reason)
            source.slow = True
            segment.blocks.pop(source.shnum, None)
        if not decoded.wrong:
            segment.result = decoded.data

    # ---- buffers: fresh pages cost time, so they are used again

    def _new_buffer(self) -> memoryview:
        assert self.sizes is not None
        if self._spare_buffers:
            return self._spare_buffers.pop()
        return memoryview(bytearray(self.sizes.segment_size))

    def _recycle(self, segment: Segment) -> None:
        """A buffer that a late answer may still be written into is not used again, nor one that somebody may keep:
        plaintext has been written out when the next segment is asked for, ciphertext perhaps not."""
        if self.key is not None and not segment.asked:
            self._spare_buffers += [buffer for buffer in (segment.buffer, segment.beside) if buffer is not None]


def _release(si: bytes, shnum: int, keeper: int, store: ShareStore) -> None:
    store.release(si, shnum, keeper)
