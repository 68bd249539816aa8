"""One worker a server: order, answers as they come, errors as values, closing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafscli.errors import FileMissing, ServerUnreachable
from lafscli.storage import grid as grids
from lafscli.storage.store import ShareRange, ShareStore
from tests.grids import LocalGrid
from tests.store_contract import SI, put


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path, 4)
    yield grid
    grid.close()


def test_answers_come_as_they_are_ready(local: LocalGrid) -> None:
    hang = local.dials[0].hang = threading.Event()
    with local.grid() as grid:
        answers = grid.ask(lambda store: store.shares([SI]))
        first = {answers.poll().store.server.name for _ in range(3)}  # type: ignore[union-attr]
        assert first == {"s1", "s2", "s3"}
        assert answers.poll(0.05) is None
        assert set(answers.pending) == {"s0"}
        hang.set()
        assert [answer.store.server.name for answer in answers] == ["s0"]
        assert answers.poll() is None


def test_a_dead_server_is_an_answer(local: LocalGrid) -> None:
    local.dials[2].dead = True
    with local.grid() as grid:
        answers = {answer.store.server.name: answer.value for answer in grid.ask(lambda store: store.shares([SI]))}
    assert answers["s0"] == [frozenset()]
    error = answers["s2"]
    assert isinstance(error, ServerUnreachable)
    assert error.server == "s2"


def test_a_defect_is_not_an_answer(local: LocalGrid) -> None:
    def broken(store: ShareStore) -> None:
        raise ZeroDivisionError

    with local.grid() as grid, pytest.raises(ZeroDivisionError):
        list(grid.ask(broken))


def test_work_of_one_server_is_done_in_order(local: LocalGrid) -> None:
    done: list[int] = []
    with local.grid() as grid:
        [store, *_] = grid.stores
        for number in range(100):
            future = grid.submit(store, lambda _, number=number: done.append(number))
        future.result()
    assert done == list(range(100))


def test_reads_are_begun_before_earlier_ones_are_finished(local: LocalGrid) -> None:
    """While the first read can't be finished, the next are begun; an ordinary call waits for them all."""
    with local.grid() as grid:
        store = next(store for store in grid.stores if store.server.name == "s0")
        grid.submit(store, lambda store: put(store, bytes(range(200)))).result()
        hang = local.dials[0].hang = threading.Event()
        reads = [grid.read(store, [ShareRange(SI, 3, offset, 5)]) for offset in range(0, 50, 5)]
        missing = grid.read(store, [ShareRange(SI, 4, 0, 5)])
        last = grid.submit(store, lambda store: store.shares([SI]))
        assert not any(future.done() for future in [*reads, missing, last])
        hang.set()
        assert [bytes(future.result()[0]) for future in reads] == [bytes(range(n, n + 5)) for n in range(0, 50, 5)]  # type: ignore[arg-type]
        assert isinstance(missing.result()[0], FileMissing)
        assert last.result() == [frozenset({3})]


def test_closing_wakes_whoever_waits(local: LocalGrid) -> None:
    local.dials[0].hang = threading.Event()
    grid = local.grid()
    store = next(store for store in grid.stores if store.server.name == "s0")
    waiting = [grid.submit(store, lambda store: store.shares([SI])) for _ in range(3)]
    began = time.monotonic()
    grid.close()
    for future in waiting:
        assert isinstance(future.exception(timeout=5), ServerUnreachable)
    assert time.monotonic() - began < 5
    late = grid.submit(store, lambda store: store.shares([SI]))
    assert isinstance(late.exception(timeout=5), ServerUnreachable)


def test_a_server_that_hung_is_tried_again_while_nobody_waits(
    local: LocalGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks meanwhile is told at once that it is silent; when it answers again, it is asked again."""
    monkeypatch.setattr(grids, "_RETRY_AFTER", 0.05)
    monkeypatch.setattr(grids, "_HUNG_AFTER", 0.05)
    tried, answers, asked = threading.Event(), threading.Event(), []

    def hang(name: str) -> None:
        asked.append(name)
        if name == "connect" and len(asked) > 2:
            tried.set()
            assert answers.wait(30)
        elif name != "connect" and not answers.is_set():
            time.sleep(0.1)
            raise ServerUnreachable("no answer within 10 s")

    local.dials[0].before = hang
    with local.grid() as grid:
        store = next(store for store in grid.stores if store.server.name == "s0")
        first = grid.submit(store, lambda store: store.shares([SI]))
        second = grid.submit(store, lambda store: store.shares([SI]))
        for future in (first, second):
            assert isinstance(future.exception(timeout=30), ServerUnreachable)
        assert tried.wait(30), "it is tried although nobody asks"
        for _ in range(3):
            meanwhile = grid.submit(store, lambda store: store.shares([SI]))
            assert meanwhile.done()
            assert "no answer within 10 s" in str(meanwhile.exception())
        assert len([name for name in asked if name != "connect"]) == 1, "one task has waited for it"
        answers.set()
        while isinstance(grid.submit(store, lambda store: store.shares([SI])).exception(timeout=30), ServerUnreachable):
            time.sleep(0.01)
        assert grid.submit(store, lambda store: store.shares([SI])).result() == [frozenset()]


def test_permuted_order_is_that_of_the_seeds(local: LocalGrid) -> None:
    import hashlib

    with local.grid() as grid:
        order = [store.server.seed for store in grid.permuted(SI)]
    assert order == sorted(order, key=lambda seed: hashlib.sha1(SI + seed).digest())
