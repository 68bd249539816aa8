"""A container that is staged in a guard piece by piece: a writer that keeps the guard alive and knows the fence."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from lafscli.errors import FileError, ServerError
from lafscli.storage.store import Buffer, FileWriter


class Fence(Protocol):
    """What of a guard the writing in it needs."""

    def keep(self) -> None: ...

    def asking(self) -> AbstractContextManager[None]: ...

    def reason(self, refusal: FileError) -> ServerError: ...

    def compare(self, path: str, size: int) -> None: ...


class Fenced:
    """A `FileWriter` of one staged container; closing it compares the size."""

    def __init__(self, guard: Fence, path: str, file: FileWriter) -> None:
        self._guard = guard
        self._path = path
        self._file = file
        self._size = 0
        self._closed = False

    def write(self, data: Buffer) -> None:
        self._ask(lambda: self._file.write(data))
        self._size += memoryview(data).nbytes

    def write_at(self, offset: int, data: Buffer) -> None:
        self._ask(lambda: self._file.write_at(offset, data))

    def flush(self) -> None:
        self._ask(self._file.flush)

    def close(self, *, sync: bool) -> None:
        if self._closed:
            return
        self._ask(lambda: self._file.close(sync=sync))
        self._closed = True
        self._guard.compare(self._path, self._size)

    @property
    def durable(self) -> int:
        return self._file.durable

    def checkpoint(self) -> None:
        self._ask(self._file.checkpoint)

    def abandon(self) -> None:
        self._file.abandon()

    def _ask(self, call: Callable[[], None]) -> None:
        self._guard.keep()
        with self._guard.asking():
            try:
                call()
                return
            except FileError as error:
                refusal = error
        raise self._guard.reason(refusal)
