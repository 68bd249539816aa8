"""What a gateway has done lately, and how much of it: for its pages and its statistics."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Self

_KEPT = 100

State = Literal["under way", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Line:
    """One operation. `when`: Unix seconds of its begin; `what` names no cap."""

    when: float
    what: str
    state: State
    seconds: float
    bytes: int


class Operation:
    """One operation that is recorded while it runs. As a context manager it ends with it."""

    def __init__(self, what: str, when: float, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self._line = Line(when, what, "under way", 0.0, 0)
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end(failed=error is not None)

    def end(self, *, failed: bool = False) -> None:
        """It is over. The first end counts."""
        if self._line.state == "under way":
            self._line = replace(self.line, state="failed" if failed else "done")

    @property
    def line(self) -> Line:
        """What there is to say of it now."""
        if self._line.state != "under way":
            return self._line
        return replace(self._line, seconds=self._monotonic() - self._began, bytes=self.bytes)


class Recent:
    """The last operations, those under way among them."""

    def __init__(self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._operations: deque[Operation] = deque(maxlen=_KEPT)

    def begin(self, what: str) -> Operation:
        """Record an operation: a verb and the start of a storage index, never a cap."""
        operation = Operation(what, self._clock(), self._monotonic)
        with self._lock:
            self._operations.append(operation)
        return operation

    def lines(self) -> list[Line]:
        """Newest first."""
        with self._lock:
            operations = list(self._operations)
        return [operation.line for operation in reversed(operations)]


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the gateway was started."""

    requests: int = 0
    failures: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    files_in: int = 0
    files_out: int = 0


class Counters:
    """Counts for threads to add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Counts()

    def add(
        self,
        *,
        requests: int = 0,
        failures: int = 0,
        bytes_in: int = 0,
        bytes_out: int = 0,
        files_in: int = 0,
        files_out: int = 0,
    ) -> None:
        """So many more."""
        with self._lock:
            was = self._now
            self._now = Counts(
                was.requests + requests,
                was.failures + failures,
                was.bytes_in + bytes_in,
                was.bytes_out + bytes_out,
                was.files_in + files_in,
                was.files_out + files_out,
            )

    @property
    def now(self) -> Counts:
        """What they are."""
        return self._now
