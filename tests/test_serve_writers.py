"""Writers of one mutable file on folders behind the storage server's policy: stopped, killed, cut off, many at once.

As `test_slot_processes` has it for plain SFTP (spec 10 §4). Others come the same way, or go round the server.
"""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.storage.sftp import SftpFiles
from tests.guard_process import Reach
from tests.served_folders import ServeProcess
from tests.serving import ListenServers, StdioServers
from tests.slot_process import Clock, Place, Writers, add, read, repeating
from tests.test_guard_processes import Line
from tests.test_slot_processes import _instead, insist, made, slowly


@pytest.fixture
def serving(short_tmp: Path) -> Iterator[ServeProcess]:
    with ServeProcess(short_tmp) as process:
        yield process


def served(folder: Path, count: int, encoding: tuple[int, int, int], serving: ServeProcess) -> Place:
    return replace(made(folder, count, encoding), served=serving.socket)


def add_beside(place: Place, word: str) -> None:
    """Another writer, here: it takes whoever holds a guard for dead, and waits for nobody who left no name yet."""
    clock = Clock()
    with place.grid(alive=lambda pid: False, monotonic=clock, sleep=clock.sleep) as grid:
        add(grid, place, word, clock)


def cleared(place: Place) -> bool:
    """Whether nothing is left in `locks/`, at once or soon: a server tidies up when its connection has ended."""
    end = time.monotonic() + 3
    while place.left() and time.monotonic() < end:
        select.select([], [], [], 0.01)
    return not place.left()


# the other writer comes by the server too, or by plain access to the same folders
WHERE = [
    (1, (1, 1, 1), True),
    *slowly((1, (1, 1, 1), False), (3, (2, 2, 3), True), (3, (2, 2, 3), False)),
]


@pytest.mark.parametrize(("count", "encoding", "both"), WHERE)
def test_a_writer_stopped_anywhere_loses_nothing_of_another(
    tmp_path: Path, serving: ServeProcess, count: int, encoding: tuple[int, int, int], both: bool
) -> None:
    first = served(tmp_path, count, encoding, serving)
    step, late = 0, 0
    with Writers() as writers:
        while True:
            place = first.copy(tmp_path / f"step{step}")
            if not writers.start(place, "add", "stopped", step).stopped:
                break
            add_beside(place if both else place.local(), "other")
            state = writers.resume()
            assert state.acknowledged, state.error
            insist(place, "first", "other", "stopped")
            late += place.content().split()[-1] == b"stopped"
            assert cleared(place)
            step += 2 if count == 1 else 5  # those on three servers are much the same
    assert step > 15 * count
    assert late > 5, "stopped before it had committed, it adds its word after the other's"


@pytest.mark.slow
@pytest.mark.parametrize("both", [True, False], ids=["by the server", "going round it"])
def test_a_writer_killed_anywhere_leaves_nothing_that_needs_a_hand(
    tmp_path: Path, serving: ServeProcess, both: bool
) -> None:
    """Its guards end with its connections: the next one does not wait."""
    first = served(tmp_path, 3, (2, 2, 3), serving)
    step = 0
    with Writers() as writers:
        while True:
            place = first.copy(tmp_path / f"step{step}")
            if not writers.start(place, "add", "killed", step).stopped:
                break
            writers.kill()
            insist(place, "first", maybe="killed")
            add_beside(place if both else place.local(), "next")
            insist(place, "first", "next", maybe="killed")
            if not cleared(place):
                # What a server has set aside since, when it saw that the writer was gone, is the next one's.
                assert all(name.startswith(".broken.") for names in place.left().values() for name in names)
                add_beside(place if both else place.local(), "last")
                insist(place, "first", "next", "last", maybe="killed")
                assert cleared(place)
            step += 4
    assert step > 45


def test_a_paused_writer_holds_up_nobody_for_ever(tmp_path: Path, serving: ServeProcess) -> None:
    """Its connections live, but it asks for nothing: its guards grow stale like those of the dead."""
    place = replace(served(tmp_path, 1, (1, 1, 1), serving), lock_seconds=1.0)
    with Writers() as writers:
        assert writers.start(place, "add", "paused", 10).stopped
        assert place.left(), "it holds the guard"
        with place.grid() as grid:
            add(grid, place, "other")
        assert writers.resume().acknowledged
    insist(place, "first", "other", "paused")


@pytest.mark.slow
@pytest.mark.parametrize("late", [False, True])
def test_a_connection_to_one_server_cut_at_any_request(tmp_path: Path, serving: ServeProcess, late: bool) -> None:
    first = served(tmp_path, 3, (2, 2, 3), serving)
    cut_at = 0
    while True:
        cut_at += 4
        place = first.copy(tmp_path / f"cut{cut_at}")
        line = Line(Reach(str(place.root(0)), served=serving.socket), cut_at, late=late)
        first_files = SftpFiles(line, str(place.root(0)), name="s0")
        with place.grid(wrap=_instead(first_files)) as grid:
            add(grid, place, "cut")
            add(grid, place, "again")
            if not line.streams[0].cut:
                break
            insist(place, "first", "cut", "again")
            if late:
                line.streams[0].deliver()
                insist(place, "first", "cut", "again")
        add_beside(place, "other")
        insist(place, "first", "cut", "again", "other")
    assert cut_at > 25


def compete(place: Place, writers: int, rounds: int) -> list[str]:
    """So many processes that each add so many words; what was acknowledged."""
    words = [[f"{writer}.{number}" for number in range(rounds)] for writer in range(writers)]
    processes = [repeating(place, "add", some) for some in words]
    acknowledged = [word for process in processes for word in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0] * writers
    assert sorted(acknowledged) == sorted(word for some in words for word in some)
    return acknowledged


@pytest.mark.parametrize(("writers", "rounds"), [(3, 2), *slowly((6, 8))])
def test_many_at_once(tmp_path: Path, serving: ServeProcess, writers: int, rounds: int) -> None:
    place = served(tmp_path, 3, (2, 2, 3), serving)
    insist(place, "first", *compete(place, writers, rounds))
    assert cleared(place)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [ListenServers, StdioServers])
def test_many_at_once_over_ssh(tmp_path: Path, kind: type[ListenServers | StdioServers]) -> None:
    first = made(tmp_path / "first", 3, (2, 2, 3))
    serving = kind(tmp_path / "serving", 3)
    serving.folder.mkdir()
    for index in range(3):
        serving.root(index).symlink_to(first.root(index))
    with serving as servers:
        place = replace(first, ssh_config=str(servers.config), pipes=False)
        insist(place, "first", *compete(place, 3, 4))
        assert cleared(place)


@pytest.mark.slow
def test_servers_that_hang_up_on_all_in_the_middle(tmp_path: Path, serving: ServeProcess) -> None:
    """Server processes are killed while writers are at work: all that was acknowledged is there."""
    place = served(tmp_path, 3, (2, 2, 3), serving)
    words = [[f"{writer}.{number}" for number in range(8)] for writer in range(3)]
    writers = [repeating(place, "add", some) for some in words]
    acknowledged: list[str] = []
    for number, line in enumerate(writers[0].stdout or ()):
        acknowledged.append(line.strip())
        serving.hang_up(number)
    for writer in writers[1:]:
        acknowledged += writer.communicate()[0].split()
    writers[0].wait()
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    insist(place, "first", *acknowledged)
    assert cleared(place)


@pytest.mark.slow
def test_eight_processes_overwrite_one_file(tmp_path: Path, serving: ServeProcess) -> None:
    """Readers meanwhile see whole contents that were written, and versions that only grow."""
    place = served(tmp_path, 5, (2, 3, 4), serving)
    texts = [[f"{writer} wrote this {number}" for number in range(5)] for writer in range(8)]
    writers = [repeating(place, "write", some) for some in texts]
    written = {text.encode() for some in texts for text in some} | {b"first\n"}
    highest = 0
    with place.grid() as grid:
        while any(writer.poll() is None for writer in writers):
            content, answer = read(grid)
            assert content in written
            assert answer.version.prefix.seqnum >= highest
            highest = answer.version.prefix.seqnum
    assert [writer.communicate()[0].splitlines() for writer in writers] == texts
    assert place.content() in {some[-1].encode() for some in texts}
    assert min(place.seqnums().values()) > 8 * 5
    assert cleared(place)
