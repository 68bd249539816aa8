"""Several processes at one folder of shares, and processes that are killed between any two steps, or at any moment."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lafscli.formats.container import HEADER_SIZE, lease_record
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.server import shelves
from lafscli.server.backend import Refused
from lafscli.server.judge import Shape, prove_immutable, prove_mutable, shape
from tests.kept_shares import NOW, OURS, SI, SLOT_SI, THEIRS, Lease, Served, immutable, mutable, shares, slots

CHANGES = ("link", "rename", "unlink", "pwrite", "ftruncate", "mkdir", "fsync", "fdatasync", "flock")


def lease(number: int) -> Lease:
    return number.to_bytes(32, "big"), (number + 1000).to_bytes(32, "big"), NOW + number


@contextmanager
def forked(job: Callable[[], None]) -> Iterator[int]:
    """A process of its own that does the job, and has done it without an error at the end."""
    pid = os.fork()
    if pid == 0:
        try:
            job()
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    try:
        yield pid
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(pid, 0)
        assert status in (0, signal.SIGKILL), "the process has failed"


def together(jobs: Sequence[Callable[[], None]], meanwhile: Callable[[], None] = lambda: None) -> None:
    """All jobs at once, each in a process; `meanwhile` is done over and over until they have ended."""
    begin, ready = os.pipe()

    def waiting(job: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            os.close(ready)
            os.read(begin, 1)
            job()

        return run

    pids = []
    for job in jobs:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                waiting(job)()
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    os.close(begin)
    os.close(ready)
    left = set(pids)
    failed = False
    while left:
        meanwhile()
        for pid in list(left):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                left.discard(pid)
                failed = failed or status != 0
    assert not failed, "a process has failed"


def whole(path: Path, si: bytes, shnum: int = 0) -> Shape:
    """The share at the path, which proves; `version` is its seqnum if it is mutable."""
    with path.open("rb") as file:
        fd, size = file.fileno(), os.fstat(file.fileno()).st_size
        found = shape(fd, size)
        if found.mutable:
            slot = prove_mutable(fd, size, si, shnum)
            return Shape(True, slot.seqnum, found.leases, found.share_size)
        prove_immutable(fd, size, si, shnum)
        return found


# ---- at once


def test_of_many_who_place_versions_of_one_slot_the_highest_wins_and_it_never_goes_back(tmp_path: Path) -> None:
    everyone, rounds = 8, 12
    containers = {
        (one, number): mutable(slots(number, b"%d" % one)[0], OURS)
        for one in range(everyone)
        for number in range(1, rounds)
    }

    def writing(one: int) -> Callable[[], None]:
        def job() -> None:
            served = Served(tmp_path)
            rng = random.Random(one)
            for number in sorted(range(1, rounds), key=lambda number: number + rng.uniform(0, 4)):
                with suppress(Refused):
                    served.place(containers[one, number], SLOT_SI, replace=True)

        return job

    served = Served(tmp_path)
    seen: list[tuple[int, bytes]] = [(0, b"")]

    def look() -> None:
        with suppress(FileNotFoundError), served.path(SLOT_SI).open("rb") as file:
            slot = prove_mutable(file.fileno(), os.fstat(file.fileno()).st_size, SLOT_SI, 0)
            assert slot.version >= seen[-1]
            if slot.version != seen[-1]:
                seen.append(slot.version)

    together([writing(one) for one in range(everyone)], look)
    look()
    highest = max((number, slots(number, b"%d" % one)[0][9:41]) for one, number in containers)
    assert seen[-1] == highest
    assert len(served.files("shares")) == 1
    assert not served.files("quarantine")


def test_of_many_who_place_one_share_one_wins(tmp_path: Path) -> None:
    made = {number: immutable(shares()[0], lease(number)) for number in range(8)}

    def placing(number: int) -> Callable[[], None]:
        def job() -> None:
            served = Served(tmp_path)
            with suppress(Refused):
                served.place(made[number])
                (tmp_path / f"won.{number}").touch()

        return job

    together([placing(number) for number in made])
    [won] = tmp_path.glob("won.*")
    assert Served(tmp_path).stands() == made[int(won.suffix[1:])]


def test_leases_that_are_added_renewed_and_cancelled_at_once_are_all_there(tmp_path: Path) -> None:
    served = Served(tmp_path)
    kept = [lease(number) for number in range(40)]
    served.place(immutable(shares()[0], OURS, *[lease(number) for number in range(100, 104)]))

    def adding(mine: Sequence[Lease]) -> Callable[[], None]:
        def job() -> None:
            keeper = Served(tmp_path).keeper
            for one in mine:
                fd = os.open(served.path(), os.O_RDONLY)
                keeper.patch(fd, SI, 0, None, lease_record(*one))
                os.close(fd)

        return job

    def cancelling() -> None:
        keeper = Served(tmp_path).keeper
        for number in range(100, 104):
            assert keeper.cancel([(SI, 0, lease(number)[1])]) == [(0, "cancelled")]

    together([*(adding(kept[start::4]) for start in range(4)), cancelling])
    found = whole(served.path(), SI)
    assert sorted(one.expiration for one in found.leases) == sorted([OURS[2], *(one[2] for one in kept)])


# ---- killed between any two steps


def dying_after(steps: int) -> None:
    """Have this process killed when it is about to change something for the time after `steps`."""
    left = steps

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **named: object) -> object:
            nonlocal left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return call(*arguments, **named)

        return wrapped

    for name in CHANGES:
        if hasattr(os, name):
            setattr(os, name, counted(getattr(os, name)))
    if shelves._RENAME is not None:
        shelves._RENAME = counted(shelves._RENAME)  # type: ignore[assignment]


SLOT = {seqnum: mutable(slots(seqnum, b"x" * 100, mdmf=True, segment_size=12)[0], OURS) for seqnum in (1, 2, 3)}
MANY = [lease(number) for number in range(1, 8)]


def patching(served: Served, offset: int | None, data: bytes) -> None:
    fd = os.open(served.path(), os.O_RDONLY)
    served.keeper.patch(fd, SI, 0, offset, data)
    os.close(fd)


Story = tuple[str, Callable[[Served], object], Callable[[Served], object]]
STORIES: list[Story] = [
    ("first", lambda served: None, lambda served: served.place(SLOT[1], SLOT_SI, replace=True)),
    (
        "newer",
        lambda served: served.place(SLOT[1], SLOT_SI),
        lambda served: served.place(SLOT[2], SLOT_SI, replace=True),
    ),
    (
        "cancel",
        lambda served: served.place(immutable(shares()[0], *MANY)),
        lambda served: served.keeper.cancel([(SI, 0, MANY[2][1])]),
    ),
    (
        "cancel in a slot",
        lambda served: served.place(mutable(slots()[0], *MANY), SLOT_SI),
        lambda served: served.keeper.cancel([(SLOT_SI, 0, MANY[1][1]), (SLOT_SI, 0, MANY[5][1])]),
    ),
    (
        "trash",
        lambda served: served.place(immutable(shares()[0], OURS)),
        lambda served: served.keeper.cancel([(SI, 0, OURS[1])]),
    ),
    (
        "append",
        lambda served: served.place(immutable(shares()[0], OURS)),
        lambda served: patching(served, None, lease_record(*THEIRS)),
    ),
]


@pytest.mark.parametrize(("before", "change"), [one[1:] for one in STORIES], ids=[one[0] for one in STORIES])
def test_one_who_is_killed_between_two_steps_leaves_a_whole_share_and_the_next_goes_on(
    tmp_path: Path, before: Callable[[Served], object], change: Callable[[Served], object]
) -> None:
    for steps in range(60):
        root = tmp_path / str(steps)
        served = Served(root)
        before(served)
        stood = {path.name for path in served.files("shares")}

        def job(root: Path = root, steps: int = steps) -> None:
            mine = Served(root)
            dying_after(steps)
            change(mine)
            os._exit(0)

        pid = os.fork()
        if pid == 0:
            job()
        _, status = os.waitpid(pid, 0)
        for si in (SI, SLOT_SI):
            if served.path(si).exists():
                whole(served.path(si), si)
        gone = stood - {path.name for path in served.files("shares")}
        assert not gone or served.files("trash")
        if status == 0:
            break
        assert status == signal.SIGKILL
        for left in served.files("staging"):
            left.unlink()
        with suppress(Refused, FileNotFoundError):
            change(Served(root))
        for si in (SI, SLOT_SI):
            if served.path(si).exists():
                whole(served.path(si), si)
    else:
        pytest.fail("it never came to its end")
    assert steps


@pytest.mark.parametrize("kind", ["quarantine", "restore"])
def test_one_who_is_killed_while_he_puts_a_good_one_instead_leaves_one_of_both(tmp_path: Path, kind: str) -> None:
    """What is to be replaced is bad here, or newer: it, or what is to come, stands in the place at every moment."""
    for steps in range(60):
        served = Served(tmp_path / str(steps), append_only=True, history=2)
        served.place(SLOT[1], SLOT_SI)
        served.place(SLOT[2], SLOT_SI, replace=True)
        path = served.path(SLOT_SI)
        if kind == "quarantine":
            container = path.read_bytes()
            path.write_bytes(container[: DATA_OFFSET + 8] + b"\7" + container[DATA_OFFSET + 9 :])
        stood = path.read_bytes()
        [kept] = served.keeper.versions(SLOT_SI)
        pid = os.fork()
        if pid == 0:
            dying_after(steps)
            if kind == "quarantine":
                served.place(SLOT[2], SLOT_SI, replace=True)
            else:
                served.keeper.restore(SLOT_SI, 0, kept.version)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        stands = path.read_bytes()
        if stands != stood:
            assert whole(path, SLOT_SI).version == (2 if kind == "quarantine" else 1)
            assert stood in [one.read_bytes() for one in served.files("quarantine") + served.files("history")]
        if status == 0:
            assert stands != stood
            break
        again = Served(served.root, append_only=True, history=2)
        if kind == "restore":
            if stands == stood:
                again.keeper.restore(SLOT_SI, 0, kept.version)
            assert whole(path, SLOT_SI).version == 1
            assert 2 in [one.seqnum for one in again.keeper.versions(SLOT_SI)]
        else:
            with suppress(Refused):
                again.place(SLOT[2], SLOT_SI, replace=True)
            assert whole(path, SLOT_SI).version == 2
    else:
        pytest.fail("it never came to its end")


def test_a_turn_ends_with_the_process_that_has_it(tmp_path: Path) -> None:
    served = Served(tmp_path)
    got, has = os.pipe()

    def holding() -> None:
        with Served(tmp_path).keeper.turns.turn(SLOT_SI):
            os.write(has, b"x")
            time.sleep(60)

    with forked(holding) as pid:
        os.read(got, 1)
        with served.keeper.turns.turn(SI), served.keeper.turns.turn(SI):
            pass  # of another prefix
        os.kill(pid, signal.SIGKILL)
        with served.keeper.turns.turn(SLOT_SI):
            pass
    os.close(got)
    os.close(has)


# ---- killed at any moment


@pytest.mark.slow
def test_writers_that_are_killed_all_the_time_leave_whole_shares_that_never_go_back(tmp_path: Path) -> None:
    """Six processes that place, renew, cancel and repair; every few milliseconds one is killed and another started."""
    rng = random.Random(7)
    last = 400
    containers = [
        mutable(slots(number, b"y" * 3000, mdmf=True, segment_size=600)[0], OURS) for number in range(1, last)
    ]
    good = immutable(shares(b"z" * 40_000, 2, 4, 1000)[0], OURS, THEIRS)
    base = Served(tmp_path, append_only=True, history=3)
    base.place(containers[0], SLOT_SI)
    base.place(good)

    def working(seed: int) -> Callable[[], None]:
        def job() -> None:
            mine = random.Random(seed)
            adding = Served(tmp_path, append_only=True, history=3)
            plain = Served(tmp_path)
            while True:
                what = mine.randrange(5)
                with suppress(Refused, FileNotFoundError):
                    if what < 2:
                        now = whole(base.path(SLOT_SI), SLOT_SI).version
                        number = min(now + mine.randrange(3), last - 2)
                        adding.place(containers[number], SLOT_SI, replace=True)
                    elif what == 2:
                        patching(plain, None, lease_record(*lease(mine.randrange(20))))
                    elif what == 3:
                        plain.keeper.cancel([(SI, 0, lease(mine.randrange(20))[1])])
                    else:
                        plain.keeper.cancel([(SI, 0, OURS[1]), (SI, 0, THEIRS[1])])
                        plain.place(good, replace=True)

        return job

    def start() -> int:
        pid = os.fork()
        if pid == 0:
            with suppress(BaseException):
                working(rng.randrange(1 << 30))()
            os._exit(1)
        rng.random()
        return pid

    pids = [start() for _ in range(6)]
    seen = 0
    try:
        for _ in range(250):
            time.sleep(rng.uniform(0, 0.02))
            victim = pids.pop(rng.randrange(len(pids)))
            os.kill(victim, signal.SIGKILL)
            _, status = os.waitpid(victim, 0)
            assert status == signal.SIGKILL, "it had failed before"
            pids.append(start())
            found = whole(base.path(SLOT_SI), SLOT_SI)
            assert found.version >= seen
            seen = found.version
            # leases come and go in place: those are seen whole by one who has the turn
            with base.keeper.turns.turn(SI), suppress(FileNotFoundError):
                whole(base.path(), SI)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert seen > 10
    for path in base.files("history"):
        with suppress(FileNotFoundError):
            whole(path, SLOT_SI)
    for path in base.files("trash"):
        whole(path, SI)
    assert not base.files("quarantine")
    assert len(base.keeper.versions(SLOT_SI)) <= 4


def test_what_is_seen_while_records_are_packed_is_whole(tmp_path: Path) -> None:
    """A reader with no turn sees the share whole while leases come and go."""
    served = Served(tmp_path)
    served.place(immutable(shares()[0], OURS, *MANY))

    def coming_and_going() -> None:
        keeper = Served(tmp_path).keeper
        for _ in range(30):
            for one in MANY[:4]:
                keeper.cancel([(SI, 0, one[1])])
                fd = os.open(served.path(), os.O_RDONLY)
                keeper.patch(fd, SI, 0, None, lease_record(*one))
                os.close(fd)

    def look() -> None:
        # size and number of leases are not read at one moment; the share itself is there
        assert served.stands()[HEADER_SIZE : HEADER_SIZE + len(shares()[0])] == shares()[0]

    together([coming_and_going], look)
    assert len(whole(served.path(), SI).leases) == 8
