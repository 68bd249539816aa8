"""A `Grid` whose workers are greenlets: the same promises, and the same habit of letting a silent server rest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from lafscli.errors import LafsError, ServerError, ServerUnreachable
from lafscli.storage.grid import Answer, Grid
from lafscli.storage.store import Buffer, ShareRange, ShareStore
from tests.simulation.world import Crashed, Event, Process, World

T = TypeVar("T")

_RETRY_AFTER, _HUNG_AFTER, _MOST_REST, _LONG = 5.0, 5.0, 300.0, 10.0


class SimulatedFuture(Future[T]):
    """Waiting for it lets others run."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._event = Event(world)
        self.add_done_callback(lambda _: self._event.set())

    def result(self, timeout: float | None = None) -> T:
        if not self._event.wait(timeout):
            raise TimeoutError
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self._event.wait(timeout):
            raise TimeoutError
        return super().exception(0)


class SimulatedAnswers(Generic[T]):
    """What `Grid.ask` answers."""

    def __init__(
        self, world: World, tasks: Sequence[tuple[ShareStore, Future[T]]], hung: Callable[[ShareStore], float]
    ) -> None:
        self._world = world
        self._hung = hung
        self._arrived: deque[tuple[ShareStore, Future[T]]] = deque()
        self._event = Event(world)
        self.pending: dict[str, ShareStore] = {store.server.name: store for store, _ in tasks}
        for store, future in tasks:
            future.add_done_callback(lambda done, store=store: self._note(store, done))  # type: ignore[misc]

    def _note(self, store: ShareStore, done: Future[T]) -> None:
        self._arrived.append((store, done))
        event, self._event = self._event, Event(self._world)
        event.set()

    def patience(self, seconds: float) -> float:
        hung = min(map(self._hung, self.pending.values()), default=0.0)
        return max(0.0, seconds if hung < _LONG / 2 else min(seconds, _LONG - hung))

    def poll(self, timeout: float | None = None) -> Answer[T] | None:
        if not self.pending:
            return None
        if not self._arrived and timeout != 0:
            self._event.wait(timeout)
        if not self._arrived:
            return None
        store, future = self._arrived.popleft()
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


class _Worker:
    """The greenlet that alone uses one store."""

    def __init__(self, process: Process, store: ShareStore) -> None:
        self.store = store
        self._world = process.world
        self._waiting: deque[tuple[Callable[[ShareStore], Any], SimulatedFuture[Any]]] = deque()
        self._wake = Event(self._world)
        self._silent_until = 0.0
        self._silence: ServerError | None = None
        self._hung = False
        self._rest_seconds = 0.0
        self._busy_since: float | None = None
        process.start(store.server.name, self._run)

    def put(self, call: Callable[[ShareStore], Any]) -> SimulatedFuture[Any]:
        future: SimulatedFuture[Any] = SimulatedFuture(self._world)
        self._waiting.append((call, future))
        self._wake.set()
        return future

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake = Event(self._world)
            while self._waiting:
                call, future = self._waiting.popleft()
                self._busy_since = self._world.now
                try:
                    value = self._called(call)
                except Crashed:
                    raise
                except Exception as error:
                    if isinstance(error, ServerError) and not error.server:
                        error.server = self.store.server.name
                    future.set_exception(error)
                else:
                    future.set_result(value)
                if self._hung and self._world.now >= self._silent_until:
                    self._try()
                self._busy_since = None

    def busy(self, before: float) -> float:
        since = self._busy_since
        return 0.0 if since is None or since >= before else max(0.0, self._silence_since(since))

    def _silence_since(self, began: float) -> float:
        return self._world.now - max(began, self.store.moved)

    def _try(self) -> None:
        """As the real one, but only after something was asked."""
        silence = self._silence
        began = self._world.now
        try:
            self.store.connect()
            self._silence, self._hung = None, False
        except ServerError as error:
            waited = self._world.now - began
            self._rest(error, max(2 * self._rest_seconds, waited) if waited > _HUNG_AFTER else waited)
        while self._waiting:
            _, future = self._waiting.popleft()
            future.set_exception(silence)

    def _called(self, call: Callable[[ShareStore], Any]) -> Any:
        if self._silence is not None and (self._hung or self._world.now < self._silent_until):
            raise self._silence
        began = self._world.now
        try:
            self.store.connect()
            self._silence = None
        except ServerError as error:
            self._rest(error, self._world.now - began)
            raise
        try:
            return call(self.store)
        except ServerUnreachable as error:
            if (waited := self._silence_since(began)) > _HUNG_AFTER:
                self._rest(error, waited)
            raise

    def _rest(self, error: ServerError, waited: float) -> None:
        self._silence = error
        self._hung = waited > _HUNG_AFTER
        self._rest_seconds = min(max(_RETRY_AFTER, waited), _MOST_REST)
        self._silent_until = self._world.now + self._rest_seconds


class SimulatedGrid(Grid):
    """The servers of one client."""

    def __init__(self, process: Process, stores: Sequence[ShareStore]) -> None:
        super().__init__(stores)
        self._process = process
        self._greenlets: dict[str, _Worker] = {}

    def submit(self, store: ShareStore, call: Callable[[ShareStore], T]) -> Future[T]:
        worker = self._greenlets.get(store.server.name)
        if worker is None:
            worker = self._greenlets[store.server.name] = _Worker(self._process, store)
        return worker.put(call)

    def read(self, store: ShareStore, wanted: Sequence[ShareRange]) -> Future[list[Buffer | LafsError]]:
        return self.submit(store, lambda store: store.read(wanted).finish())

    def ask(self, question: Callable[[ShareStore], T], stores: Sequence[ShareStore] | None = None) -> Any:
        asked = self.stores if stores is None else stores
        world = self._process.world
        now = world.now
        tasks = [(store, self.submit(store, question)) for store in asked]
        return SimulatedAnswers(world, tasks, lambda store: self._greenlets[store.server.name].busy(now))

    def close(self) -> None:
        for store in self.stores:
            store.close()
