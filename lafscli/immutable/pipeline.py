"""Codec threads, and bounded queues between reading, coding and sending.

The erasure code, the hashes and AES release the interpreter lock: two codec threads give twice the rate. What must
happen in order (whole-file hashes, hashes of trees, writing) is done by the thread that consumes `in_order`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Protocol, Self, TypeVar

from lafscli.errors import LafsError, StagedDiffers
from lafscli.storage.grid import Grid
from lafscli.storage.store import Buffer, Progress, ShareRange, ShareStore, ShareWriter, StorageIndex

T = TypeVar("T")
R = TypeVar("R")

LITTLE = 128 << 10
"""Bytes that are coded faster than threads are started for it."""

_CODEC_THREADS = 2
_QUEUED_BLOCKS = 5
"""Blocks that may wait for one server; beyond that the upload goes as fast as its slowest server."""

_CHECKPOINT_BYTES = 8 << 20
"""So many bytes of a share are made durable at a time; what comes after is sent again by the next run."""


class Coding(Protocol):
    """Who codes."""

    def submit(self, work: Callable[[], R]) -> Future[R]:
        """Have the work done."""


class Codec:
    """The codec threads of one operation, or others that work beside them; a context manager. Without `threads` the
    work is done at once by the one who asks for it."""

    def __init__(self, threads: int = _CODEC_THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lafs-codec") if threads else None

    @classmethod
    def of(cls, size: int | None) -> Self:
        """For so many bytes: threads are not worth it where that is little."""
        return cls() if size is None or size > LITTLE else cls(0)

    def __enter__(self) -> Codec:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads; what has not begun is given up."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, work: Callable[[], R]) -> Future[R]:
        """Run `work` in a codec thread, or now."""
        if self._pool is not None:
            return self._pool.submit(work)
        done: Future[R] = Future()
        try:
            done.set_result(work())
        except Exception as error:
            done.set_exception(error)
        return done

    def in_order(self, items: Iterable[T], work: Callable[[T], R], ahead: int) -> Iterator[R]:
        """`work` of every item, results in the order of the items; at most `ahead` results are under way."""
        running: deque[Future[R]] = deque()
        for item in items:
            running.append(self.submit(partial(work, item)))
            if len(running) >= ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


class ShareFeed:
    """The way of one share to its server: blocks wait in a bounded queue, the first error ends it.

    A share that an earlier run began is not sent again up to where that run came; what is encoded now is compared
    with `samples` of what lies there, (offset, bytes) of the share.
    """

    def __init__(
        self,
        grid: Grid,
        store: ShareStore,
        shnum: int,
        writer: ShareWriter,
        progress: Progress,
        samples: Sequence[tuple[int, Buffer]] = (),
    ) -> None:
        self.store = store
        self.shnum = shnum
        self.writer = writer
        self.error: LafsError | None = None
        self.committed = False
        self._grid = grid
        self._progress = progress
        self._samples = samples
        self._position = 0
        self._checked = writer.resumed
        self._room = threading.Semaphore(_QUEUED_BLOCKS)
        self._stopped = False
        self._defect: BaseException | None = None

    def put(self, data: Buffer) -> None:
        """Queue the next bytes of the share, waiting while the queue is full. Nothing once there was an error."""
        if self._defect is not None:
            raise self._defect
        if self.error is not None:
            return
        view = memoryview(data)
        start, self._position = self._position, self._position + view.nbytes
        if start < self.writer.resumed:
            self._compare(start, view)
            view = view[self.writer.resumed - start :]
            if not view or self.error is not None:
                return
        self._room.acquire()
        sent = self._grid.submit(self.store, lambda _store: self._append(view))
        sent.add_done_callback(lambda done: self._appended(done, view.nbytes))
        if self._position - self._checked >= _CHECKPOINT_BYTES:
            self._checked = self._position
            self._grid.submit(self.store, lambda _store: self._checkpoint())

    def submit(self, call: Callable[[ShareWriter], R]) -> Future[R]:
        """Do something with the writer after all that was queued."""
        return self._grid.submit(self.store, lambda _store: call(self.writer))

    def stop(self) -> None:
        """Let what is queued pass unsent."""
        self._stopped = True

    def _compare(self, start: int, data: memoryview) -> None:
        for offset, sample in self._samples:
            there = memoryview(sample)
            first, last = max(start, offset), min(start + data.nbytes, offset + there.nbytes)
            if first < last and data[first - start : last - start] != there[first - offset : last - offset]:
                self.error = StagedDiffers(f"what was staged of share {self.shnum} is not what is encoded now")

    def _append(self, data: Buffer) -> None:
        if not self._stopped and self.error is None:
            self.writer.append(data)

    def _checkpoint(self) -> None:
        if not self._stopped and self.error is None:
            self.writer.checkpoint()

    def _appended(self, done: Future[None], size: int) -> None:
        error = done.exception()
        if isinstance(error, LafsError):
            self.error = self.error or error
        elif error is not None:
            self._defect = error
        self._room.release()
        if error is None:
            self._progress.server(self.store.server.name, size)


class Events:
    """What servers and codec threads report, to be handled by the one thread that owns the state."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._over = False

    def report(self, future: Future[T], handle: Callable[[Future[T]], None]) -> None:
        """Have `handle` called with the future, when it is done, in the thread that calls `handle` of this class."""
        future.add_done_callback(partial(self._note, handle))

    def _note(self, handle: Callable[[Future[T]], None], done: Future[T]) -> None:
        if not self._over:
            self._waiting.put(partial(handle, done))

    def end(self) -> None:
        """Forget what was reported and is not handled: what it holds is not to wait for the garbage collector."""
        self._over = True
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()

    def handle(self, timeout: float) -> None:
        """Handle all that was reported; wait up to `timeout` seconds if nothing was."""
        try:
            self._waiting.get(timeout=timeout)()
            while True:
                self._waiting.get_nowait()()
        except Empty:
            return


def settle(futures: Iterable[tuple[T, Future[R]]]) -> Iterator[tuple[T, R | LafsError]]:
    """Wait for each: its value, or the error as a value."""
    for item, future in futures:
        try:
            yield item, future.result()
        except LafsError as error:
            yield item, error


def fetcher(
    store: ShareStore, si: StorageIndex, shnum: int, *, keep: bool = False, keeper: int = 0
) -> Callable[[Sequence[tuple[int, int]]], list[Buffer]]:
    """For `ShareReader.open`: read ranges (offset, length) of one share; to be called in the server's worker."""

    def fetch(ranges: Sequence[tuple[int, int]]) -> list[Buffer]:
        answers = store.read(
            [ShareRange(si, shnum, offset, length, keep, keeper=keeper) for offset, length in ranges]
        ).finish()
        good: list[Buffer] = []
        for answer in answers:
            if isinstance(answer, LafsError):
                raise answer
            good.append(answer)
        return good

    return fetch
