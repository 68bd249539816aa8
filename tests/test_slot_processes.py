"""Writers of one mutable file in processes that are stopped, killed, and cut off from servers (spec 10 §4).

Servers are OpenSSH's sftp-server, on pipes or behind a real sshd; `tests/simulation` has what can go wrong at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lafscli.errors import NotHappy
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.store import Files
from tests.conftest import Mount
from tests.guard_process import Reach
from tests.slot_process import Clock, Place, Writers, add, read, repeating
from tests.sshd import SshServers
from tests.test_guard_processes import Line

NO_POSIX = ("posix-rename",)
V3 = ("posix-rename", "hardlink", "fsync")
KINDS = {"all": (), "no-posix-rename": NO_POSIX, "no-fsync": ("fsync",), "v3": V3}
ENCODINGS = [(1, 1, 1), (2, 2, 2), (3, 4, 4), (5, 6, 6), (3, 7, 10), (1, 7, 10)]
"""k, happy, N: on N servers."""


def made(folder: Path, count: int, encoding: tuple[int, int, int], kind: str = "all") -> Place:
    """A file with one word in it."""
    place = Place(str(folder / "made"), count, encoding, KINDS[kind]).make()
    place.create(b"first\n")
    return place


def add_beside(place: Place, word: str) -> None:
    """Another writer, here: it takes whoever holds a guard for dead, and waits for nobody who left no name yet."""
    clock = Clock()
    with place.local().grid(alive=lambda pid: False, monotonic=clock, sleep=clock.sleep) as grid:
        add(grid, place, word, clock)


def insist(place: Place, *words: str, maybe: str = "") -> None:
    """These words are in the file, each once, and no other but the one that was never acknowledged."""
    found = place.content().split()
    assert len(found) == len(set(found))
    assert {word.encode() for word in words} <= set(found) <= {word.encode() for word in (*words, maybe)}


def slowly(*values: object) -> list[object]:
    return [pytest.param(*value, marks=pytest.mark.slow) for value in values]  # type: ignore[misc]


WHERE = [(1, (1, 1, 1), "v3"), *slowly((1, (1, 1, 1), "all"), (3, (2, 2, 3), "all"), (3, (2, 2, 3), "v3"))]


@pytest.mark.parametrize(("count", "encoding", "kind"), WHERE)
def test_a_writer_stopped_anywhere_loses_nothing_of_another(
    tmp_path: Path, count: int, encoding: tuple[int, int, int], kind: str
) -> None:
    """SIGSTOP between any two steps on any server, another one finishes, SIGCONT: what that one wrote stays, and the
    first adds to it."""
    first = made(tmp_path, count, encoding, kind)
    step, late = 0, 0
    with Writers() as writers:
        while True:
            place = first.copy(tmp_path / f"step{step}")
            if not writers.start(place, "add", "stopped", step).stopped:
                break
            add_beside(place, "other")
            state = writers.resume()
            insist(place, "first", "other", *["stopped"] * state.acknowledged, maybe="stopped")
            assert state.acknowledged, state.error
            late += place.content().split()[-1] == b"stopped"
            assert place.left() == {}
            step += 1
    assert step > 25 * count
    assert late > 15 * count, "stopped before it had committed, it adds its word after the other's"


@pytest.mark.parametrize(("count", "encoding", "kind"), WHERE)
def test_a_writer_killed_anywhere_leaves_nothing_that_needs_a_hand(
    tmp_path: Path, count: int, encoding: tuple[int, int, int], kind: str
) -> None:
    """What it changed is there or not; the next writer, who sees that the process is dead, does not wait."""
    first = made(tmp_path, count, encoding, kind)
    step = 0
    with Writers() as writers:
        while True:
            place = first.copy(tmp_path / f"step{step}")
            if not writers.start(place, "add", "killed", step).stopped:
                break
            writers.kill()
            insist(place, "first", maybe="killed")
            clock = Clock()
            with place.local().grid(monotonic=clock, sleep=clock.sleep) as grid:
                add(grid, place, "next", clock)
            insist(place, "first", "next", maybe="killed")
            # one that was being made and is none yet is left for the sweep
            assert [name for names in place.left().values() for name in names if not name.startswith(".")] == []
            assert [name for names in place.left().values() for name in names if name.startswith(".broken")] == []
            step += 1
    assert step > 25 * count


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_killed_at_thirty_moments_some_version_can_be_read(tmp_path: Path, encoding: tuple[int, int, int]) -> None:
    count = encoding[2]
    first = made(tmp_path, count, encoding)
    moments = random.Random(str(encoding))
    killed = 0
    with Writers() as writers:
        while killed < 30:
            place = first.copy(tmp_path / f"moment{killed}")
            if writers.start(place, "add", "killed", moments.randrange(count * 30)).stopped:
                writers.kill()
                insist(place, "first", maybe="killed")
                killed += 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["all", "v3"])
def test_a_writer_stopped_or_killed_over_sshd(tmp_path: Path, kind: str) -> None:
    """The same at some moments, with ssh between."""
    first = made(tmp_path / "first", 3, (2, 2, 3), kind)
    moments = random.Random(kind)
    with (
        SshServers(tmp_path / "sshd", 3, denied=",".join(["statvfs", *KINDS[kind]])) as sshd,
        Writers() as writers,
    ):
        for number in range(16):
            copied = first.copy(tmp_path / f"moment{number}")
            place = Place(copied.base, 3, (2, 2, 3), copied.lacks, False, str(sshd.config))
            state = writers.start(place, "add", "stopped", moments.randrange(90))
            assert state.stopped
            if number % 2:
                writers.kill()
                insist(place, "first", maybe="stopped")
            add_beside(place, "other")
            if not number % 2:
                state = writers.resume()
                assert state.acknowledged
                insist(place, "first", "other", "stopped")
            insist(place, "first", "other", maybe="stopped")


# ---- cut off ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "late"), slowly(("v3", False), ("v3", True), ("all", False), ("all", True), ("no-posix-rename", True))
)
def test_a_connection_to_one_server_cut_at_any_request(tmp_path: Path, kind: str, late: bool) -> None:
    """A proxy that carries the request out and cuts the connection, or cuts it and delivers the rest much later: the
    change is acknowledged by the other servers, and what comes late changes nothing."""
    first = made(tmp_path, 3, (2, 2, 3), kind)
    cut_at, most = 0, 0
    while True:
        cut_at += 1
        place = first.copy(tmp_path / f"cut{cut_at}")
        line = Line(Reach(str(place.root(0)), (), ",".join(["statvfs", *KINDS[kind]])), cut_at, late=late)
        first_files = SftpFiles(line, str(place.root(0)), name="s0")
        with place.grid(wrap=_instead(first_files)) as grid:
            add(grid, place, "cut")
            add(grid, place, "again")
            if not line.streams[0].cut:
                break
            insist(place, "first", "cut", "again")
            if late:
                most = max(most, line.streams[0].deliver())
                insist(place, "first", "cut", "again")
        add_beside(place, "other")
        insist(place, "first", "cut", "again", "other")
        assert [name for names in place.left().values() for name in names if not name.startswith(".")] == []
    assert cut_at > 50
    assert most > 3 or not late


def _instead(files: Files) -> Callable[[int, Files], Files]:
    """For the first server."""
    return lambda index, others: others if index else files


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["all", "v3"])
def test_servers_that_hang_up_on_all_in_the_middle(tmp_path: Path, kind: str) -> None:
    """Every session of one sshd after the other is killed while writers are at work: all that was acknowledged is
    there, and nobody waits for a hand."""
    with SshServers(tmp_path / "sshd", 3, denied=",".join(["statvfs", *KINDS[kind]])) as sshd:
        made_ = made(tmp_path, 3, (2, 2, 3), kind)
        place = Place(made_.base, 3, (2, 2, 3), made_.lacks, False, str(sshd.config))
        words = [[f"{writer}.{number}" for number in range(10)] for writer in range(3)]
        writers = [repeating(place, "add", some) for some in words]
        acknowledged: list[str] = []
        for number, line in enumerate(writers[0].stdout or ()):
            acknowledged.append(line.strip())
            if number < 6:
                sshd.forget_connections(number % 3)
        for writer in writers[1:]:
            acknowledged += writer.communicate()[0].split()
        writers[0].wait()
        assert [writer.returncode for writer in writers] == [0, 0, 0]
        assert sorted(acknowledged) == sorted(word for some in words for word in some)
        insist(place, "first", *acknowledged)
        assert place.left() == {}


# ---- full ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [1, 2])
def test_servers_whose_disks_are_full(tmp_path: Path, mount: Mount, full: int) -> None:
    """Real disks without a byte left: one of three is done without, two are too many, and nothing is changed."""
    place = Place(str(tmp_path / "made"), 3, (2, 2, 3))
    for index in range(full):
        mount(place.root(index), "size=256k")
    place.make()
    place.create(b"first\n")
    for index in range(full):
        with suppress(OSError), (place.root(index) / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
    before = place.seqnums()
    with place.grid() as grid:
        if full == 1:
            add(grid, place, "added")
            insist(place, "first", "added")
        else:
            with pytest.raises(NotHappy, match="nothing was changed"):
                add(grid, place, "added")
            insist(place, "first")
            assert place.seqnums() == before
    assert place.left() == {}


# ---- many at once ----------------------------------------------------------------------------------------------


def test_two_who_find_the_guard_of_a_dead_one(tmp_path: Path) -> None:
    """Both break it at once on three servers; neither loses its word."""
    place = made(tmp_path, 3, (2, 2, 3), "v3")
    for number in range(4):
        with Writers() as writers:
            assert writers.start(place, "add", f"dead{number}", 55 + number).stopped
            writers.kill()
        two = [repeating(place, "add", [f"{name}{number}"]) for name in ("a", "b")]
        assert [one.wait() for one in two] == [0, 0]
        for one in two:
            one.communicate()
    found = place.content().split()
    assert len(found) == len(set(found))
    assert {b"first", *(b"%c%d" % (name, number) for name in b"ab" for number in range(4))} <= set(found)
    assert place.left() == {}


@pytest.mark.slow
def test_eight_processes_overwrite_one_file_twenty_times_each(tmp_path: Path) -> None:
    """Readers meanwhile see whole contents that were written, and versions that only grow."""
    place = made(tmp_path, 5, (2, 3, 4))
    texts = [[f"{writer} wrote this {number}" for number in range(20)] for writer in range(8)]
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
    assert [writer.returncode for writer in writers] == [0] * 8
    assert place.content() in {some[-1].encode() for some in texts}
    assert min(place.seqnums().values()) > 8 * 20
    assert place.left() == {}
