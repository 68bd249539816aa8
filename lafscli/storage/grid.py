"""All servers at once: one worker thread a server, answers as they come.

A store is used by its worker alone. Work for one server is done in the order it was submitted; a server that is
slow or dead delays nobody else. Reads are begun early: several wait on the wire while the first is being finished.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from lafscli.errors import LafsError, ServerError, ServerUnreachable
from lafscli.placement import permuted
from lafscli.storage.rate import RateLimit
from lafscli.storage.store import Buffer, ShareRange, ShareReading, ShareStore, StorageIndex

T = TypeVar("T")

_READS_UNDER_WAY = 6
"""Reads begun on one server before the first of them is finished."""

_RETRY_AFTER, _MOST_REST = 5.0, 300.0
"""Seconds for which a server that could not be connected is not tried again, at least and at most: as many as it was
waited for, and twice as many as the last time for one that has kept us waiting again."""

_HUNG_AFTER = 5.0
"""Seconds of silence after which a server that failed has kept us waiting: it is then tried while nobody waits."""

_LONG = 10.0
"""Seconds of silence in one task after which a server is not waited for any more by those who can do without it."""

_PROVEN_FOR = 5.0
"""Seconds for which a server is taken to be who it was: most commands are done by then."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What one server said: a value, or the error that stands for its silence."""

    store: ShareStore
    value: T | LafsError


class _Worker:
    """The thread that alone uses one store.

    A server that could not be reached is let rest: what is asked of it meanwhile fails at once. One that kept us
    waiting is then tried while nobody waits: what is asked until it has answered fails at once too.
    """

    def __init__(self, store: ShareStore) -> None:
        self.store = store
        self._waiting: deque[_Task] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._silent_until = 0.0
        self._silence: ServerError | None = None
        self._hung = False
        self._rest_seconds = 0.0
        self._trying: ServerError | None = None
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"lafs-{store.server.name}", daemon=True)
        self._thread.start()

    def put(self, task: _Task) -> None:
        with self._wake:
            if self._closed:
                task.fail(ServerUnreachable("the connection was closed", server=self.store.server.name))
                return
            silence = self._trying
            if silence is None:
                self._waiting.append(task)
                self._wake.notify()
        if silence is not None:
            task.fail(silence.with_traceback(None))

    def close(self) -> None:
        with self._wake:
            self._closed = True
            left, self._waiting = self._waiting, deque()
            self._wake.notify()
        for task in left:
            task.fail(ServerUnreachable("the connection was closed", server=self.store.server.name))
        self.store.close()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def busy(self, before: float = inf) -> float:
        """Seconds of silence in the task it is at, if that began before this moment."""
        since = self._busy_since
        return 0.0 if since is None or since >= before else max(0.0, self._silence_since(since))

    def _silence_since(self, began: float) -> float:
        return time.monotonic() - max(began, self.store.moved)

    def _run(self) -> None:
        begun: deque[tuple[_Task, ShareReading]] = deque()
        while True:
            with self._wake:
                while not (self._waiting or begun or self._closed or self._rested()):
                    self._wake.wait(max(0.0, self._silent_until - time.monotonic()) if self._hung else None)
                if self._closed and not begun:
                    return
                rested = self._rested() and not begun
                task = None if rested else self._next(begun)
            # to connect takes its time, and ends by itself
            connects = task is not None and task.call is _no_call and task.wanted is None
            self._busy_since = None if connects else time.monotonic()
            if rested:
                self._try()
            elif task is None:
                finished, reading = begun.popleft()
                self._settle(finished, reading.finish)
            elif task.wanted is not None:
                self._begin(task, begun)
            else:
                self._guarded(task)
            self._busy_since = None

    def _next(self, begun: deque[tuple[_Task, ShareReading]]) -> _Task | None:
        """The next task to start, or None when the first read under way is to be finished before it."""
        if not self._waiting:
            return None
        if begun and (self._waiting[0].wanted is None or len(begun) >= _READS_UNDER_WAY):
            return None
        return self._waiting.popleft()

    def _begin(self, task: _Task, begun: deque[tuple[_Task, ShareReading]]) -> None:
        assert task.wanted is not None
        try:
            self._connect()
            begun.append((task, self.store.read(task.wanted)))
        except Exception as error:
            task.fail(error)

    def _guarded(self, task: _Task) -> None:
        try:
            self._connect(_PROVEN_FOR)
        except Exception as error:
            task.fail(error)
        else:
            self._settle(task, lambda: task.call(self.store))

    def _settle(self, task: _Task, work: Callable[[], Any]) -> None:
        """Do it. A server that kept us waiting in vain is let rest for as long: many small tasks in a row must not
        each wait for it."""
        began = time.monotonic()
        error = task.settle(work)
        waited = self._silence_since(began)
        if isinstance(error, ServerUnreachable) and waited > _HUNG_AFTER:
            self._rest(error, waited)

    def _rest(self, error: ServerError, waited: float) -> None:
        self._silence = error
        self._hung = waited > _HUNG_AFTER
        self._rest_seconds = min(max(_RETRY_AFTER, waited), _MOST_REST)
        self._silent_until = time.monotonic() + self._rest_seconds

    def _rested(self) -> bool:
        """Whether it is time to see if a server that hung answers again."""
        return self._hung and time.monotonic() >= self._silent_until

    def _try(self) -> None:
        with self._wake:
            self._trying = self._silence
            left, self._waiting = self._waiting, deque()
        assert self._trying is not None
        for task in left:
            task.fail(self._trying.with_traceback(None))
        began = time.monotonic()
        try:
            self.store.connect(_PROVEN_FOR)
            self._silence, self._hung = None, False
        except ServerError as error:
            waited = time.monotonic() - began
            self._rest(error, max(2 * self._rest_seconds, waited) if waited > _HUNG_AFTER else waited)
        except Exception:  # whoever asks next meets it, and is told
            self._silence, self._hung = None, False
        finally:
            with self._wake:
                self._trying = None

    def _connect(self, proof_age: float = inf) -> None:
        """Connect, or fail at once when that failed a moment ago, or the server has kept us waiting before."""
        if self._silence is not None and (self._hung or time.monotonic() < self._silent_until):
            raise self._silence.with_traceback(None)  # raised many times, it would keep the frames of each
        began = time.monotonic()
        try:
            self.store.connect(proof_age)
            self._silence = None
        except ServerError as error:
            self._rest(error, time.monotonic() - began)
            raise


class _Task:
    """One call for a worker, or ranges to read; its answer goes to `future`."""

    __slots__ = ("call", "future", "server", "wanted")

    def __init__(self, server: str, call: Callable[[ShareStore], Any], wanted: Sequence[ShareRange] | None) -> None:
        self.server = server
        self.call = call
        self.wanted = wanted
        self.future: Future[Any] = Future()

    def settle(self, work: Callable[[], Any]) -> BaseException | None:
        """Do it and put the answer where it is awaited; the error, if that is the answer."""
        try:
            value = work()
        except BaseException as error:
            self.fail(error)
            return error
        with contextlib.suppress(InvalidStateError):
            self.future.set_result(value)
        return None

    def fail(self, error: BaseException) -> None:
        if isinstance(error, ServerError) and not error.server:
            error.server = self.server
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


def _no_call(_store: ShareStore) -> None:
    """The call of a task that only connects, or only reads."""


class Answers(Generic[T]):
    """Answers to one question as they come in. Iterate to wait for all of them; `poll` to wait for the next only.

    `hung`: for how many seconds a server has been silent in a task that it was at before this question came.
    """

    def __init__(
        self, tasks: Sequence[tuple[ShareStore, Future[T]]], hung: Callable[[ShareStore], float] = lambda _: 0.0
    ) -> None:
        self._hung = hung
        self._arrived: SimpleQueue[tuple[ShareStore, Future[T]]] = SimpleQueue()
        self.pending: dict[str, ShareStore] = {store.server.name: store for store, _ in tasks}
        for store, future in tasks:
            future.add_done_callback(partial(self._note, store))

    def _note(self, store: ShareStore, done: Future[T]) -> None:
        self._arrived.put((store, done))

    def patience(self, seconds: float) -> float:
        """How long to wait for those that are pending when it would be so many seconds: shorter where all have been
        silent for long, and not because of this question. A server that hangs is waited for once, not by each question
        and each step."""
        hung = min(map(self._hung, self.pending.values()), default=0.0)
        return max(0.0, seconds if hung < _LONG / 2 else min(seconds, _LONG - hung))

    def poll(self, timeout: float | None = None) -> Answer[T] | None:
        """The next answer; None when there is none left, or none came within `timeout` seconds."""
        if not self.pending:
            return None
        try:
            store, future = self._arrived.get(timeout=timeout) if timeout != 0 else self._arrived.get_nowait()
        except Empty:
            return None
        del self.pending[store.server.name]
        error = future.exception()
        if error is None:
            return Answer(store, future.result())
        if isinstance(error, LafsError):
            return Answer(store, error)
        raise error

    def __iter__(self) -> Iterator[Answer[T]]:
        while (answer := self.poll()) is not None:
            yield answer


def shared_rate(bytes_per_second: float) -> RateLimit:
    """One limit for the workers of all servers together."""
    return RateLimit(bytes_per_second, lock=threading.Lock())


class Grid:
    """The servers of a configuration, for any number of threads. A context manager: leaving it closes every
    connection."""

    def __init__(self, stores: Sequence[ShareStore]) -> None:
        self.stores: Sequence[ShareStore] = tuple(stores)
        self._workers: dict[str, _Worker] = {}
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Grid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def permuted(self, si: StorageIndex) -> list[ShareStore]:
        """The servers in the order of this storage index (spec 05 §2)."""
        return permuted(si, self.stores, lambda store: store.server.seed)

    def prompt_first(self, si: StorageIndex) -> list[ShareStore]:
        """The same, but those that have been silent in one task for long come last."""
        return sorted(self.permuted(si), key=self.keeps_waiting)

    def connect(self, stores: Sequence[ShareStore] | None = None) -> None:
        """Begin to connect in the background; what goes wrong is told by the first question."""
        for store in self.stores if stores is None else stores:
            self.submit(store, _no_call)

    def submit(self, store: ShareStore, call: Callable[[ShareStore], T]) -> Future[T]:
        """Run `call(store)` in the server's worker, after what was submitted before."""
        task = _Task(store.server.name, call, None)
        self._worker(store).put(task)
        return task.future

    def read(self, store: ShareStore, wanted: Sequence[ShareRange]) -> Future[list[Buffer | LafsError]]:
        """Ask one server for ranges of shares; the request goes out before earlier reads have been answered."""
        task = _Task(store.server.name, _no_call, wanted)
        self._worker(store).put(task)
        return task.future

    def ask(self, question: Callable[[ShareStore], T], stores: Sequence[ShareStore] | None = None) -> Answers[T]:
        """Put a question to servers (all, unless some are given) at once."""
        asked = self.stores if stores is None else stores
        hung = self.hung_now()
        return Answers([(store, self.submit(store, question)) for store in asked], hung)

    def keeps_waiting(self, store: ShareStore) -> bool:
        """Whether a server has been silent in one task for long."""
        return self.busy(store) >= _LONG

    def busy(self, store: ShareStore, before: float = inf) -> float:
        """For how many seconds a server has been silent in the task it is at; 0 if that did not begin before."""
        worker = self._workers.get(store.server.name)
        return 0.0 if worker is None else worker.busy(before)

    def hung_now(self) -> Callable[[ShareStore], float]:
        """`busy` of tasks that begin before this moment: for `Answers` to a question that is put now."""
        return partial(self.busy, before=time.monotonic())

    def close(self) -> None:
        """Close every connection; a worker that waits for its server is woken by that."""
        with self._lock:
            self._closed = True
            workers = list(self._workers.values())
        for worker in workers:
            worker.close()
        until = time.monotonic() + 1.0
        for worker in workers:
            worker.join(max(0.0, until - time.monotonic()))

    def _worker(self, store: ShareStore) -> _Worker:
        worker = self._workers.get(store.server.name)
        if worker is not None:
            return worker
        with self._lock:
            if self._closed:
                raise ServerUnreachable("the grid was closed", server=store.server.name)
            if store.server.name not in self._workers:  # another thread was faster
                self._workers[store.server.name] = _Worker(store)
            return self._workers[store.server.name]
