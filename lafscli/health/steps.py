"""Jobs that wait for servers, side by side in one thread: each is a generator that yields what it waits for.

def job() -> Steps[int]:
    answer = yield from wait(grid.submit(store, question))      # a value, or the LafsError that stands for silence
    return len(answer)
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from lafscli.errors import LafsError
from lafscli.immutable.pipeline import Events

T = TypeVar("T")

Steps = Generator[Future[Any], None, T]
"""A job that ends with a T."""

_TICK = 0.25


def wait(future: Future[T]) -> Steps[T | LafsError]:
    """Let the other jobs go on until the future is done."""
    yield future
    try:
        return future.result()
    except LafsError as error:
        return error


def side_by_side(jobs: Iterable[Steps[T]], at_once: int) -> Generator[T, None, None]:
    """Run the jobs, `at_once` of them at a time, and yield their results as they end.

    A job is asked for when there is room for it. When this is left early, the jobs under way are closed: their
    `finally` runs, in which they may not wait.
    """
    events = Events()
    results: list[T] = []
    active: list[Steps[T]] = []

    def go_on(job: Steps[T], _done: Future[Any] | None = None) -> None:
        try:
            waits_for = next(job)
        except StopIteration as end:
            active.remove(job)
            results.append(end.value)
        else:
            events.report(waits_for, partial(go_on, job))

    waiting = iter(jobs)
    try:
        while True:
            while len(active) < at_once and (job := next(waiting, None)) is not None:
                active.append(job)
                go_on(job)
            if not active and not results:
                return
            while results:
                yield results.pop(0)
            if active:
                events.handle(_TICK)
    finally:
        for job in active:
            job.close()
