"""Whom those who can do without a server wait for: it is the silence of a server that counts, and only what it kept us
waiting before."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lafscli.errors import NotHappy, NotRecoverable, ServerUnreachable
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.mutable import guards as guards_module
from lafscli.mutable.attempt import Attempt, Undone
from lafscli.mutable.publish import create, modify, overwrite, tries
from lafscli.mutable.survey import survey
from lafscli.placement import Encoding
from lafscli.storage import grid as grids
from lafscli.storage.grid import Grid
from lafscli.storage.rate import RateLimit
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.store import FileRange, ShareStore
from tests.grids import LocalGrid, content
from tests.scripted_sftp import PipeStream
from tests.slots import content_of, publishing
from tests.store_contract import SI


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path)
    yield grid
    grid.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of a second is long."""
    monkeypatch.setattr(grids, "_LONG", 0.2)


def one(grid: Grid, name: str) -> ShareStore:
    return next(store for store in grid.stores if store.server.name == name)


def until_silent(grid: Grid, store: ShareStore) -> None:
    """Until it has been so in one task for longer than is long here."""
    while grid.busy(store) < 0.3:
        time.sleep(0.01)


@contextmanager
def at_work(grid: Grid, name: str) -> Iterator[threading.Event]:
    """A server has been silent in one task for long; it ends when the event is set, or here."""
    done = threading.Event()
    store = one(grid, name)
    future = grid.submit(store, lambda _: done.wait(60))
    until_silent(grid, store)
    yield done
    done.set()
    future.result()


def later(event: threading.Event, seconds: float = 1.0) -> None:
    threading.Timer(seconds, event.set).start()


# ---- what counts


@pytest.mark.usefixtures("impatient")
def test_what_a_question_takes_itself_shortens_no_patience_with_it(local: LocalGrid) -> None:
    """A question that takes long everywhere is not given up with the last servers; the next one is."""
    hang = local.dials[0].hang = threading.Event()
    with local.grid() as grid:
        answers = grid.ask(lambda store: store.shares([SI]), [one(grid, "s0")])
        until_silent(grid, one(grid, "s0"))
        assert answers.patience(7.0) == 7.0
        assert answers.patience(-1.0) == 0.0
        assert grid.keeps_waiting(one(grid, "s0"))
        assert grid.ask(lambda store: store.shares([SI]), [one(grid, "s0")]).patience(7.0) == 0.0
        assert grid.ask(lambda store: store.shares([SI])).patience(7.0) == 7.0, "the others may answer yet"
        hang.set()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_shows_life_does_not_hang(local: LocalGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    hang = local.dials[0].hang = threading.Event()
    with local.grid() as grid:
        store = one(grid, "s0")
        asked = grid.submit(store, lambda store: store.shares([SI]))
        until_silent(grid, store)
        monkeypatch.setattr("tests.grids.DialledFiles.moved", time.monotonic() + 100)
        assert grid.busy(store) == 0.0
        assert grid.ask(lambda store: store.shares([SI]), [store]).patience(7.0) == 7.0
        hang.set()
        asked.result()


@pytest.mark.usefixtures("impatient")
def test_to_connect_is_not_to_hang(local: LocalGrid) -> None:
    """It is begun before anything is asked, and ends by itself."""
    hang = local.dials[0].hang = threading.Event()
    with local.grid() as grid:
        grid.connect()
        store = one(grid, "s0")
        time.sleep(0.3)
        assert grid.busy(store) == 0.0
        assert grid.ask(lambda store: store.shares([SI]), [store]).patience(7.0) == 7.0
        hang.set()


@pytest.mark.parametrize("what", ["write", "read"])
def test_what_we_hold_back_ourselves_is_no_silence(tmp_path: Path, what: str) -> None:
    files = SftpFiles(PipeStream, str(tmp_path), name="blue", rate=RateLimit(20_000), timeout=20)
    assert files.moved < 0
    (tmp_path / "file").write_bytes(content(400_000))

    def write() -> None:
        writer = files.create("copy")
        for _ in range(4):
            writer.write(content(400_000))

    calls: dict[str, Callable[[], object]] = {
        "write": write,
        "read": lambda: files.read([FileRange("file", 0, 400_000)]).finish(),
    }
    failed: list[ServerUnreachable] = []

    def work() -> None:
        try:
            calls[what]()
        except ServerUnreachable as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until = time.monotonic() + 30
    while files.moved < time.monotonic() + 1:
        assert time.monotonic() < until
        time.sleep(0.01)
    files.close()
    thread.join()
    assert failed


# ---- what comes of it


def test_a_change_that_takes_long_on_every_server_reaches_them_all(
    local: LocalGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over a slow link, with the last servers behind the others."""
    monkeypatch.setattr(grids, "_LONG", 0.05)
    cap = create(local.grid(), b"one", publishing(), mdmf=False).cap

    def slow(seconds: float) -> Callable[[str], None]:
        return lambda _: time.sleep(seconds)

    for index, dial in enumerate(local.dials):
        dial.before = slow(0.12 if index > 6 else 0.1)
    with local.grid() as grid:
        done = overwrite(grid, cap, b"two", publishing())
    assert (done.happiness, done.silent) == (10, {})


@pytest.mark.usefixtures("impatient")
def test_a_read_is_not_refused_for_want_of_a_server_that_nobody_waited_for(tmp_path: Path) -> None:
    """One share is bad, which only shows when it is read; the fourth lies on a server that is slow."""
    local = LocalGrid(tmp_path, 4)
    with local.grid() as grid:
        cap = create(grid, content(5000), publishing(Encoding(3, 1, 4)), mdmf=False).cap
        found = survey(grid, cap.verify_cap())
        best = found.versions.best
        assert best is not None
        bad, slow = (each.place[0] for each in found.of(best)[:2])
        [path] = [path for path in local.share_files() if bad in path.parts]
        data = bytearray(path.read_bytes())
        data[DATA_OFFSET + best.block(0)[0]] ^= 1
        path.write_bytes(data)
        with at_work(grid, slow) as done:
            later(done)
            assert content_of(grid, cap) == content(5000)
    local.close()


@pytest.mark.usefixtures("impatient")
def test_a_change_is_not_refused_for_want_of_one_either(tmp_path: Path) -> None:
    """Three of the four would do for the guards, but the shares of all four are needed."""
    local = LocalGrid(tmp_path, 4)
    with local.grid() as grid:
        cap = create(grid, b"one", publishing(Encoding(4, 1, 4)), mdmf=False).cap
        with at_work(grid, "s2") as done:
            later(done)
            modify(grid, cap, lambda old: old + b" two", publishing(Encoding(4, 1, 4)))
            assert done.is_set()
        assert content_of(grid, cap) == b"one two"
    local.close()


def test_an_unsure_change_is_made_again_with_patience(local: LocalGrid) -> None:
    """Also when it has been tried for a minute."""
    clock = [0.0]
    world = publishing()
    patient: list[tuple[bool, bool]] = []
    with local.grid() as grid:
        cap = create(grid, b"one", world, mdmf=False).cap

        def work(attempt: Attempt, unsure: bool) -> Any:
            patient.append((attempt.guards.patient, unsure))
            if len(patient) == 1:
                attempt.guards.sent = True
                clock[0] += 61
                raise Undone("too few")
            if len(patient) == 2:
                attempt.guards.hurried.add("s2")
                raise NotRecoverable("for want of s2")
            return "done"

        world = replace(world, monotonic=lambda: clock[0], patience=300.0)
        assert tries(grid, cap, world, None, work) == "done"
    assert patient == [(False, False), (False, True), (True, True)]


@pytest.mark.parametrize("hurried", [True, False])
def test_when_patience_has_run_out(local: LocalGrid, hurried: bool) -> None:
    """What stood in the way is told, and it was no other writer; but a try with patience comes before."""
    clock, tried = [0.0], [0]
    with local.grid() as grid:
        cap = create(grid, b"one", publishing(), mdmf=False).cap

        def work(attempt: Attempt, unsure: bool) -> Any:
            tried[0] += 1
            clock[0] += 301
            if hurried and tried[0] == 1:
                attempt.guards.hurried.add("s2")
            attempt.entry.errors["s2"] = ServerUnreachable("silent")
            raise NotHappy("for want of s2")

        world = replace(publishing(patience=300.0), monotonic=lambda: clock[0])
        with pytest.raises(NotHappy, match="for want of s2"):
            tries(grid, cap, world, None, work)
    assert tried[0] == 1 + hurried


@pytest.mark.usefixtures("impatient")
def test_guards_are_given_up_on_a_server_that_was_slow(local: LocalGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is dropped in the middle of a change; the process does not end before its guard is given up."""
    monkeypatch.setattr(guards_module, "_LAGGARD_SECONDS", 0.3)
    cap = create(local.grid(), b"one", publishing(), mdmf=False).cap
    commit = Attempt._commit

    def slow(self: Attempt, fronts: Any, store: ShareStore) -> Any:
        if store.server.name == "s9":
            time.sleep(1.5)
        return commit(self, fronts, store)

    monkeypatch.setattr(Attempt, "_commit", slow)
    with local.grid() as grid:
        done = overwrite(grid, cap, b"two", publishing())
    assert done.silent == {"s9": "did not answer in time"}
    assert [path.name for path in (local.root(9) / "locks").iterdir()] == []


# ---- one that has hung


def test_a_lively_one_whose_connection_is_lost_is_asked_again_at_once(
    local: LocalGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grids, "_RETRY_AFTER", 0.2)
    monkeypatch.setattr(grids, "_HUNG_AFTER", 0.2)

    def work(store: ShareStore) -> None:
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            time.sleep(0.01)
            monkeypatch.setattr("tests.grids.DialledFiles.moved", time.monotonic())
        raise ServerUnreachable("the connection was reset")

    with local.grid() as grid:
        store = one(grid, "s0")
        assert isinstance(grid.submit(store, work).exception(30), ServerUnreachable)
        assert grid.submit(store, lambda store: store.shares([SI])).result(30) == [frozenset()]


def test_one_that_is_refused_now_hangs_no_longer(local: LocalGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine is there again, its server is not yet: it is asked again soon, not after twice the rest."""
    monkeypatch.setattr(grids, "_RETRY_AFTER", 0.05)
    monkeypatch.setattr(grids, "_HUNG_AFTER", 0.05)
    refused = threading.Event()
    tried: list[str] = []

    def fail(name: str) -> None:
        tried.append(name)
        if len(tried) == 1:
            time.sleep(1)
        elif len(tried) == 2:
            refused.set()
        else:
            return
        raise ServerUnreachable(f"no answer to {name}")

    local.dials[0].before = fail
    with local.grid() as grid:
        store = one(grid, "s0")
        grid.connect([store])
        assert refused.wait(30)
        time.sleep(0.1)
        assert grid.submit(store, lambda store: store.shares([SI])).result(30) == [frozenset()]


def test_it_is_tried_less_and_less_often(local: LocalGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "_RETRY_AFTER", 0.02)
    monkeypatch.setattr(grids, "_HUNG_AFTER", 0.02)
    monkeypatch.setattr(grids, "_MOST_REST", 0.2)
    tried: list[float] = []
    enough = threading.Event()

    def hang(name: str) -> None:
        tried.append(time.monotonic())
        if len(tried) == 6:
            enough.set()
        time.sleep(0.03)
        raise ServerUnreachable(f"no answer to {name}")

    local.dials[0].before = hang
    with local.grid() as grid:
        grid.connect([one(grid, "s0")])
        assert enough.wait(30)
    gaps = [after - before for before, after in itertools.pairwise(tried[:6])]
    assert all(gap > rest for gap, rest in zip(gaps, (0.06, 0.09, 0.15, 0.23, 0.23), strict=True)), gaps
