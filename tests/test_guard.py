"""The guard of spec 10: one holder at a time, and none that was broken changes anything any more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lafscli.errors import (
    CorruptShare,
    FileError,
    FileMissing,
    GuardHeld,
    GuardLost,
    IncompatibleShare,
    LafsError,
    NotSupported,
    OutOfSpace,
)
from lafscli.formats.container import share_path
from lafscli.primitives.encoding import b32encode
from lafscli.storage import leases
from lafscli.storage.folder import FolderStore
from lafscli.storage.local import LocalFiles
from lafscli.storage.locks import Locks
from lafscli.storage.moves import broken_folder, guard_folder
from lafscli.storage.owner import Owner, this_process
from lafscli.storage.store import (
    Answer,
    FileRange,
    Files,
    Lease,
    LeaseOf,
    List,
    Look,
    NewFile,
    Op,
    Server,
    ShareRange,
    Stat,
)
from lafscli.storage.trash import throw_away
from tests.guard_process import (
    ALL,
    DAY,
    MAGIC,
    SHNUM,
    Reach,
    counter,
    increment,
    lease_of,
    share,
    stored,
)

SI = bytes(range(16))
GUARD = guard_folder(SI)
WITHOUT = {
    "all": (),
    "unordered": ("ordered",),
    "no-posix-rename": ("posix-rename",),
    "v3": ("posix-rename", "hardlink", "fsync"),
}


@pytest.fixture(params=list(WITHOUT))
def lacks(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Extensions that the server does not have."""
    found: tuple[str, ...] = WITHOUT[request.param]
    return found


@pytest.fixture
def reach(tmp_path: Path, lacks: tuple[str, ...]) -> Reach:
    return Reach.of(tmp_path / "root", without=lacks)


@pytest.fixture
def files(reach: Reach) -> Iterator[Files]:
    made = reach.files()
    yield made
    made.close()


@pytest.fixture
def locks(reach: Reach, files: Files) -> Locks:
    return reach.locks(files)


def put(reach: Reach, data: bytes, si: bytes = SI, shnum: int = SHNUM) -> Path:
    path = reach.path(share_path(si, shnum))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def value(reach: Reach, si: bytes = SI) -> int:
    """What the counter says."""
    return int(reach.path(share_path(si, SHNUM)).read_bytes().removeprefix(MAGIC))


def left(reach: Reach) -> list[str]:
    """What lies in `locks/`."""
    return sorted(path.name for path in reach.path("locks").iterdir())


def foreign(reach: Reach, owner: bytes = b"", *, age: float = 0, si: bytes = SI) -> Path:
    """A guard that someone else holds, in which nothing changed for so many seconds."""
    holder = reach.path(guard_folder(si)) / ("z" * 26)
    holder.mkdir(parents=True)
    (holder / "owner").write_bytes(owner)
    for path in (holder / "owner", holder, holder.parent):
        moment = path.stat().st_mtime - age
        os.utime(path, (moment, moment))
    return holder


class Clock:
    """A clock that goes as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


# ---- holding ---------------------------------------------------------------------------------------------------


def test_a_guard_is_a_folder_that_says_who_holds_it(reach: Reach, locks: Locks) -> None:
    with locks.take(SI) as guard:
        assert left(reach) == [b32encode(SI)]
        assert [path.name for path in reach.path(GUARD).iterdir()] == [guard.token]
        owner = Owner.parse(reach.path(f"{guard.folder}/owner").read_bytes())
        assert owner == this_process(20)
        assert owner is not None
        assert owner.pid == os.getpid()
    assert left(reach) == []


def test_one_holder_at_a_time(reach: Reach, locks: Locks) -> None:
    other = reach.locks(reach.files())
    with locks.take(SI):
        with pytest.raises(GuardHeld, match=f"process {os.getpid()} on ") as caught:
            other.take(SI)
        assert caught.value.owner.startswith(f"process {os.getpid()}")
        assert caught.value.server == "blue"
        with other.take(bytes(16)):
            assert left(reach) == sorted([b32encode(SI), b32encode(bytes(16))])
    with other.take(SI):
        assert left(reach) == [b32encode(SI)]


def test_an_empty_guard_is_nobody_s(reach: Reach, locks: Locks) -> None:
    reach.path(GUARD).mkdir()
    with locks.take(SI):
        pass
    assert left(reach) == []


def test_waiting_for_a_guard(reach: Reach, files: Files) -> None:
    """The pauses double, are never alike, and end when the other one lets go."""
    clock = Clock()
    locks = reach.locks(files, monotonic=clock, sleep=clock.sleep)
    foreign(reach)
    with pytest.raises(GuardHeld):
        locks.wait(SI, 3.0)
    assert sum(clock.slept) == pytest.approx(3.0)
    assert clock.slept[3] > clock.slept[0]
    held = reach.locks(reach.files()).take(bytes(16))

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if len(clock.slept) == 5:
            held.release()

    clock.slept.clear()
    with reach.locks(files, monotonic=clock, sleep=sleep).wait(bytes(16), 60):
        assert len(clock.slept) == 5


def test_servers_whose_renames_replace_get_no_guard(reach: Reach, files: Files) -> None:
    for missing in ("rename-keeps", "folder-rename-keeps"):
        server = Server("blue", bytes(20), b"", features=ALL - {missing})
        with pytest.raises(NotSupported, match="its renames may replace"):
            Locks(server, files, random_bytes=os.urandom).take(SI)
    readonly = Server("blue", bytes(20), b"", writable=False, features=ALL)
    with pytest.raises(NotSupported, match="read-only"):
        Locks(readonly, files, random_bytes=os.urandom).take(SI)
    assert left(reach) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_no_held_guard(reach: Reach, locks: Locks) -> None:
    reach.path("locks").chmod(0o500)
    with pytest.raises(FileError):
        locks.take(SI)
    reach.path("locks").chmod(0o700)


class Full(LocalFiles):
    """Nothing more can be written; with `made`, files can still be made, as where only the data has no room."""

    made = False

    def _carry_out(self, op: Op) -> Answer:
        if isinstance(op, NewFile):
            if self.made:
                super()._carry_out(NewFile(op.path, []))
            raise OutOfSpace(f"{op.path}: no space left")
        return super()._carry_out(op)


@pytest.mark.parametrize("made", [False, True])
def test_a_full_server_is_left_without_a_guard(reach: Reach, made: bool) -> None:
    """The folder may have been moved into place by then: it is taken away again."""
    full = Full(reach.path(""))
    full.made = made
    with pytest.raises(OutOfSpace):
        reach.locks(full).take(SI)
    assert left(reach) == []


def test_what_is_looked_at_with_the_guard(reach: Reach, files: Files, locks: Locks) -> None:
    """It is what was there under the guard, also where a dead one's had to be cleared away first."""
    path = put(reach, b"old")
    look = Look([List("shares"), Stat("none")], [FileRange(share_path(SI, SHNUM), 0, 9)])
    assert files.read([FileRange(share_path(SI, SHNUM), 0, 9, keep=True)]).finish() == [b"old"]
    path.unlink()
    holder = foreign(reach, age=100)
    (holder / "old.0").write_bytes(b"first")
    for inside in (holder / "old.0", holder):
        os.utime(inside, (1, 1))
    with locks.take(SI, look) as guard:
        listed, none = guard.seen.answers
        assert isinstance(listed, list)
        assert isinstance(none, FileMissing)
        assert guard.seen.data == [b"first"]
        path.write_bytes(b"second")
        assert guard.look(look).data == [b"second"]


# ---- staleness -------------------------------------------------------------------------------------------------


def test_a_dead_process_of_this_machine_is_broken_at_once(reach: Reach, files: Files) -> None:
    me = this_process(20)
    foreign(reach, me.serialise())
    with reach.locks(files, alive=lambda pid: pid != me.pid).take(SI):
        assert left(reach) == [b32encode(SI)], "a broken guard with nothing in it is cleared away"
    for other in (Owner(me.host, "other boot", me.pid, 20), Owner("other", me.boot, me.pid, 20)):
        foreign(reach, other.serialise(), si=bytes(16))
        with pytest.raises(GuardHeld):
            reach.locks(files, alive=lambda pid: False).take(bytes(16))
        reach.locks(files, lock_seconds=1, monotonic=lambda: 0.0)
        for path in sorted(reach.path(guard_folder(bytes(16))).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def test_stale_by_the_server_s_clock(reach: Reach, files: Files) -> None:
    foreign(reach, age=15)
    with pytest.raises(GuardHeld):
        reach.locks(files).take(SI)
    foreign(reach, age=25, si=bytes(16))
    reach.locks(files).take(bytes(16)).release()
    foreign(reach, Owner("far", "away", 1, 60.0).serialise(), age=25, si=bytes([1]) * 16)
    with pytest.raises(GuardHeld, match="process 1 on far"):
        reach.locks(files).take(bytes([1]) * 16)


def test_stale_after_watching_whatever_the_server_s_clock_says(reach: Reach, files: Files) -> None:
    clock = Clock()
    locks = reach.locks(files, monotonic=clock, sleep=clock.sleep)
    holder = foreign(reach, age=-100_000)
    with pytest.raises(GuardHeld):
        locks.take(SI)
    clock.now += 15
    os.utime(holder / "owner", (0, 0))
    with pytest.raises(GuardHeld):
        locks.take(SI)
    clock.now += 20
    with pytest.raises(GuardHeld):
        locks.take(SI)
    clock.now += 1.5
    locks.take(SI).release()
    foreign(reach, age=-100_000)
    start = clock.now
    locks.wait(SI, 60).release()
    assert 21 <= clock.now - start < 30


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\xfe", b"host = 1", b"[" * 5000, b'host = "a"\nboot = ""\npid = -1\nseconds = 1', b"pid = 1979-05-27"],
)
def test_whatever_the_owner_says(text: bytes, tmp_path: Path) -> None:
    reach = Reach.of(tmp_path / "root")
    foreign(reach, text)
    with pytest.raises(GuardHeld, match="someone who left no name"):
        reach.locks(reach.files(), alive=lambda pid: False).take(SI)


def test_an_owner_who_claims_to_rest_for_ever(reach: Reach, files: Files) -> None:
    foreign(reach, b'host = "a\\u001b[1m"\nboot = "b"\npid = 7\nseconds = 1e300', age=700)
    reach.locks(files).take(SI).release()
    foreign(reach, b'host = "a\\u001b[1m"\nboot = "b"\npid = 7\nseconds = nan')
    with pytest.raises(GuardHeld) as caught:
        reach.locks(files).take(SI)
    assert str(caught.value).isprintable()


def test_a_holder_shows_that_it_lives(reach: Reach, files: Files) -> None:
    clock = Clock()
    guard = reach.locks(files, monotonic=clock).take(SI)
    owner = reach.path(f"{guard.folder}/owner")
    begin = int(owner.stat().st_mtime)
    clock.now += 4.9
    guard.keep()
    guard.check()
    assert int(owner.stat().st_mtime) == begin
    clock.now += 0.2
    guard.keep()
    assert int(owner.stat().st_mtime) == begin + 6
    clock.now += 100
    guard.check()
    assert int(owner.stat().st_mtime) == begin + 106
    writer = guard.create(3)
    clock.now += 5
    writer.write(b"x")
    assert int(owner.stat().st_mtime) == begin + 111
    writer.abandon()
    guard.release()
    assert left(reach) == []


def test_two_breakers(reach: Reach, files: Files) -> None:
    """Both judge, then both break: one of them does it, the other breaks nothing of the winner's."""
    holder = foreign(reach, age=100)
    (holder / "0").write_bytes(counter(7))
    one, two = reach.locks(files), reach.locks(reach.files())
    one._break(SI, "one")
    two._break(SI, "two")
    assert left(reach) == [f".broken.{b32encode(SI)}.one"]
    with two.take(SI), pytest.raises(GuardHeld):
        one.take(SI)


# ---- the fence -------------------------------------------------------------------------------------------------


def broken(reach: Reach, locks: Locks) -> None:
    """Another one breaks the guard and finishes."""
    other = reach.files()
    assert increment(other, reach.locks(other, alive=lambda pid: False), SI, "other")
    other.close()


@pytest.mark.parametrize(
    "late",
    [
        "create",
        "stage",
        "adopt",
        "move_aside",
        "commit",
        "commit-quarantine",
        "touch",
        "check",
        "release",
        "set_aside",
        "writer",
    ],
)
def test_nothing_goes_after_the_guard_was_broken(reach: Reach, locks: Locks, late: str) -> None:
    put(reach, counter(5))
    reach.path("staging/new").write_bytes(b"new")
    guard = locks.take(SI)
    guard.stage([(SHNUM, [counter(1)])])
    writer = guard.create(9)
    broken(reach, locks)
    assert value(reach) == 6
    calls: dict[str, Callable[[], object]] = {
        "create": lambda: guard.create(1),
        "stage": lambda: guard.stage([(1, [b"late"])]),
        "adopt": lambda: guard.adopt(1, "staging/new"),
        "move_aside": lambda: guard.move_aside([SHNUM]),
        "commit": lambda: guard.commit([SHNUM], quarantine=False),
        "commit-quarantine": lambda: guard.commit([SHNUM], quarantine=True),
        "touch": guard.touch,
        "check": guard.check,
        "release": guard.release,
        "set_aside": guard.set_aside,
        "writer": lambda: (writer.write(b"late"), writer.close(sync=True)),
    }
    with reach.locks(reach.files()).take(SI) as other:
        before = sorted(str(path) for path in reach.path("").rglob("*"))
        with pytest.raises(GuardLost, match="was broken"):
            calls[late]()
        with pytest.raises(GuardLost):
            guard.commit([SHNUM], quarantine=False)
        assert guard.committed == frozenset()
        writer.abandon()
        assert sorted(str(path) for path in reach.path("").rglob("*")) == before
        other.check()
    assert value(reach) == 6
    assert reach.path("staging/new").exists()


def test_a_commit_that_was_done_counts_though_the_guard_is_gone(reach: Reach, locks: Locks) -> None:
    with locks.take(SI) as guard:
        guard.stage([(0, [counter(1)]), (1, [counter(1)])])
        guard.commit([0], quarantine=False)
        broken(reach, locks)
        with pytest.raises(GuardLost):
            guard.commit([1], quarantine=False)
        assert guard.committed == {0}
    assert value(reach) == 2


def test_a_failed_change_keeps_what_was_staged(reach: Reach, locks: Locks) -> None:
    """Spec 10 §2.8f, once a commit was sent; before that nothing is kept."""

    def fail(*committed: int) -> str:
        with locks.take(SI) as guard:
            guard.stage([(0, [counter(1)]), (1, [counter(2)])])
            if committed:
                guard.commit(committed, quarantine=False)
            raise RuntimeError(guard.token)

    with pytest.raises(RuntimeError):
        fail()
    assert left(reach) == []
    with pytest.raises(RuntimeError) as caught:
        fail(0)
    token = str(caught.value)
    assert left(reach) == [f".broken.{b32encode(SI)}.{token}"]
    found = locks.survivors(SI)
    assert (1, token, True) in [(one.shnum, one.token, one.broken) for one in found.containers if not one.aside]
    with locks.take(SI) as again:
        again.stage([(1, [counter(3)])])
        again.commit([1], quarantine=False)
        locks.discard(found)
    assert left(reach) == []


def test_a_share_moved_aside_is_never_removed(reach: Reach, locks: Locks) -> None:
    put(reach, counter(5))
    with locks.take(SI) as guard:
        assert guard.move_aside([SHNUM, 8]) == {SHNUM}
    [survivor] = locks.survivors(SI).containers
    assert (survivor.shnum, survivor.aside, survivor.broken) == (SHNUM, True, True)
    assert reach.path(survivor.path).read_bytes() == counter(5)
    assert increment(reach.files(), locks, SI, "next")
    assert value(reach) == 6
    assert left(reach) == []


def test_a_bad_share_goes_to_quarantine(reach: Reach, locks: Locks) -> None:
    put(reach, b"bad")
    with locks.take(SI) as guard:
        writer = guard.create(SHNUM)
        writer.write(b"g___")
        writer.write(b"!")
        writer.write_at(1, b"ood")
        writer.close(sync=True)
        guard.stage([(1, [b"other", b" good"])])
        guard.commit([SHNUM, 1], quarantine=True)
        target = guard.quarantined(SHNUM)
        assert guard.committed == {SHNUM, 1}
    assert reach.path(share_path(SI, SHNUM)).read_bytes() == b"good!"
    assert reach.path(share_path(SI, 1)).read_bytes() == b"other good"
    assert reach.path(target).read_bytes() == b"bad"
    day, si, shnum, token = target.removeprefix("quarantine/").split(".")
    assert (len(day), si, shnum, token) == (10, b32encode(SI), "0", guard.token)
    assert left(reach) == []


def test_a_size_that_is_wrong_is_not_committed(reach: Reach, locks: Locks) -> None:
    with locks.take(SI) as guard:
        writer = guard.create(1)
        writer.write(b"all of it")
        reach.path(guard.staged(1)).unlink()
        reach.path(guard.staged(1)).write_bytes(b"less")
        with pytest.raises(FileError, match="wrote 9 bytes"):
            writer.close(sync=True)


# ---- what the dead leave ---------------------------------------------------------------------------------------


def test_the_dead_s_immutable_shares_are_cleared_away(reach: Reach, files: Files, locks: Locks) -> None:
    """What was moved aside comes back where the place is free, else it goes to quarantine; staged ones go."""
    put(reach, b"new", shnum=2)
    holder = foreign(reach, age=100)
    (holder / "1").write_bytes(b"staged")
    (holder / "old.1").write_bytes(b"first")
    (holder / "old.2").write_bytes(b"second")
    for path in holder.iterdir():
        os.utime(path, (1, 1))
    os.utime(holder, (1, 1))
    locks.take(SI).release()
    assert left(reach) == []
    assert reach.path(share_path(SI, 1)).read_bytes() == b"first"
    assert reach.path(share_path(SI, 2)).read_bytes() == b"new"
    assert [path.read_bytes() for path in reach.path("quarantine").iterdir()] == [b"second"]


def test_sweeping(reach: Reach, locks: Locks) -> None:
    def age(name: str) -> None:
        for path in [reach.path(name), *reach.path(name).rglob("*")]:
            os.utime(path, (1_000_000, 1_000_000))

    foreign(reach, age=5)
    half, dead, slot, probe = ".half", guard_folder(bytes(16)), broken_folder(bytes([9]) * 16, "t"), ".clock.x"
    reach.path(f"locks/{half}/half").mkdir(parents=True)
    reach.path(f"locks/{half}/half/owner").touch()
    reach.path(f"{dead}/t").mkdir(parents=True)
    reach.path(f"{dead}/t/3").write_bytes(b"staged")
    reach.path(f"{slot}/t").mkdir(parents=True)
    reach.path(f"{slot}/t/old.3").write_bytes(counter(3))
    reach.path(f"locks/{probe}").touch()
    reach.path("locks/notes").touch()
    for name in (f"locks/{half}", dead, slot, f"locks/{probe}"):
        age(name)
    assert locks.sweep(86_400) == 3
    assert left(reach) == sorted([slot.removeprefix("locks/"), b32encode(SI), "notes"])
    assert reach.path(f"{slot}/t/old.3").read_bytes() == counter(3)


# ---- leases and trash ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("layout", [1, 2])
def test_adding_leases(reach: Reach, files: Files, locks: Locks, version: int, layout: int) -> None:
    data = share(layout)
    path = put(reach, stored(data, version=version))
    with locks.take(SI) as guard:
        assert leases.add_lease(files, guard, SHNUM, lease_of("a")) is True
        assert leases.add_lease(files, guard, SHNUM, lease_of("b")) is True
        assert leases.add_lease(files, guard, SHNUM, lease_of("a")) is False
        assert path.read_bytes() == stored(data, "a", "b", version=version)
        later = Lease(lease_of("a").renew, b"c" * 32, 2_000_000_000)
        assert leases.add_lease(files, guard, SHNUM, later) is False
    assert path.read_bytes() == stored(data, "a", "b", version=version).replace(
        (1_900_000_000).to_bytes(4, "big"), (2_000_000_000).to_bytes(4, "big"), 1
    )


@pytest.mark.parametrize(
    ("what", "spoil"),
    [
        ("garbage at the end", lambda data: data + bytes(100)),
        ("a byte too many", lambda data: data + b"x"),
        ("a byte too few", lambda data: data[:-1]),
        ("a lease too few", lambda data: data[:-72]),
        ("a count that is absurd", lambda data: data[:8] + b"\xff" * 4 + data[12:]),
        ("no container", lambda data: data[12:]),
        ("empty", lambda data: b""),
        ("only a header", lambda data: data[:12]),
        ("another version", lambda data: b"\0\0\0\3" + data[4:]),
        ("a slot", lambda data: MAGIC + data),
        ("a UEB longer than the file", lambda data: data.replace(b"\0\0\1\x2cuuu", b"\xff\0\1\x2cuuu")),
        ("offsets beyond the end", lambda data: data[:12] + data[12:16] + b"\x7f" * 32 + data[48:]),
        ("as many leases as fit", lambda data: data[:8] + bytes(4) + data[12:-72] + bytes(72 * 20_000)),
    ],
)
def test_a_lease_is_added_only_where_the_sizes_fit(tmp_path: Path, what: str, spoil: Callable[[bytes], bytes]) -> None:
    reach = Reach.of(tmp_path / "root")
    files = reach.files()
    before = spoil(stored(share(), "a"))
    path = put(reach, before)
    with reach.locks(files).take(SI) as guard, pytest.raises(LafsError) as caught:
        leases.add_lease(files, guard, SHNUM, lease_of("b"))
    assert isinstance(caught.value, CorruptShare | IncompatibleShare)
    assert path.read_bytes() == before, what


def test_a_lease_that_was_never_counted(reach: Reach, files: Files, locks: Locks) -> None:
    """One who added a record died before counting it: the next one counts both."""
    data = share()
    whole = stored(data, "a", "b")
    path = put(reach, stored(data, "a")[:12] + whole[12:])
    with locks.take(SI) as guard:
        assert leases.add_lease(files, guard, SHNUM, lease_of("b")) is False
        assert path.read_bytes() == whole
        path.write_bytes(stored(data, "a")[:12] + whole[12:])
        assert leases.add_lease(files, guard, SHNUM, lease_of("c")) is True
        assert path.read_bytes() == stored(data, "a", "b", "c")


def test_trash(reach: Reach, files: Files, locks: Locks) -> None:
    thrown = stored(share(), "a")
    put(reach, thrown)
    slot = MAGIC + bytes(60) + (468).to_bytes(8, "big") + bytes(368)
    put(reach, slot, shnum=1)
    with locks.take(SI) as guard:
        assert throw_away(files, guard, [0, 1, 2], DAY) == {0: True, 1: True}
    assert reach.path(f"trash/{DAY}/{b32encode(SI)}.0").read_bytes() == thrown
    assert reach.path(f"trash/{DAY}/{b32encode(SI)}.1").read_bytes() == slot
    assert not reach.path(share_path(SI, 0)).exists()
    put(reach, thrown)
    with locks.take(SI) as guard:
        assert throw_away(files, guard, [0], DAY) == {0: True}
    assert len(list(reach.path(f"trash/{DAY}").iterdir())) == 3
    assert left(reach) == []


class Renewing(LocalFiles):
    """Where someone renews a lease right before a share is moved."""

    def __init__(self, root: Path, path: Path, at: int) -> None:
        super().__init__(root)
        self._share = path
        self._at = at

    def do(self, ops):  # type: ignore[no-untyped-def]
        if any(getattr(op, "old", "").startswith("shares/") for op in ops):
            with self._share.open("r+b") as file:
                file.seek(self._at, 2 if self._at < 0 else 0)
                file.write(b"\x77\0\0\0")
        return super().do(ops)


@pytest.mark.parametrize("slot", [False, True])
def test_trash_gives_back_what_was_renewed_meanwhile(reach: Reach, slot: bool) -> None:
    data = stored(share(), "a")
    if slot:
        data = MAGIC + bytes(60) + (500).to_bytes(8, "big") + bytes(400) + b"\0\0\0\1" + bytes(92)
    path = put(reach, data)
    files = Renewing(reach.path(""), path, -4 if not slot else len(data) - 80)
    with reach.locks(files).take(SI) as guard:
        assert throw_away(files, guard, [SHNUM], DAY) == {SHNUM: False}
    assert len(path.read_bytes()) == len(data)
    assert b"\x77\0\0\0" in path.read_bytes()
    assert left(reach) == []
    assert not list(reach.path(f"trash/{DAY}").iterdir()) if reach.path(f"trash/{DAY}").exists() else True


def test_a_store_adds_leases(reach: Reach, files: Files) -> None:
    """Each item in its place; one guard for all shares of a storage index."""
    server = Server("blue", bytes(20), b"", features=frozenset(reach.features))
    store = FolderStore(server, files, random_bytes=os.urandom)
    other = bytes(16)
    paths = [put(reach, stored(share(), "a")), put(reach, stored(share(), "a"), other), put(reach, MAGIC, shnum=7)]
    items = [(SI, 0, "b"), (other, 0, "b"), (SI, 9, "b"), (SI, 7, "b"), (SI, 0, "a")]
    wanted = [LeaseOf(si, shnum, lease_of(who)) for si, shnum, who in items]
    with reach.locks(reach.files()).take(other):
        added, held, missing, slot, renewed = store.add_lease(wanted, patience=0)
    assert (added, renewed) == (True, False)
    assert [type(error) for error in (held, missing, slot)] == [GuardHeld, FileMissing, CorruptShare]
    assert paths[0].read_bytes() == stored(share(), "a", "b")
    assert paths[1].read_bytes() == stored(share(), "a")
    assert store.add_lease([wanted[1]]) == [True]
    assert store.renew([wanted[1]]) == [True]
    assert left(reach) == []


def test_a_store_throws_away_and_guards(reach: Reach, files: Files) -> None:
    server = Server("blue", bytes(20), b"", features=frozenset(reach.features))
    store = FolderStore(server, files, random_bytes=os.urandom, lock_seconds=7)
    put(reach, stored(share()))
    with store.guard(SI) as guard:
        owner = Owner.parse(reach.path(f"{guard.folder}/owner").read_bytes())
        assert owner is not None
        assert owner.seconds == 7
        with pytest.raises(GuardHeld):
            store.trash.throw_away(SI, [SHNUM])
    assert store.trash.throw_away(SI, [SHNUM]) == {SHNUM: True}
    assert store.shares([SI]) == [frozenset()]


def test_a_replaced_share_is_read_anew(reach: Reach, files: Files) -> None:
    """A file that reading keeps open is let go when its share is replaced."""
    server = Server("blue", bytes(20), b"", features=frozenset(reach.features))
    store = FolderStore(server, files, random_bytes=os.urandom)
    put(reach, stored(b"bad" * 100))
    wanted = [ShareRange(SI, SHNUM, 0, 3, keep=True)]
    assert store.read(wanted).finish() == [b"bad"]
    with store.guard(SI) as guard:
        guard.stage([(SHNUM, [stored(b"good" * 100)])])
        guard.commit([SHNUM], quarantine=True)
    assert store.read(wanted).finish() == [b"goo"]
