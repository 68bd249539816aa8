"""gc --host: what has a live lease stays, to the byte; what has none left goes to the trash, and comes back."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lafscli.errors import GuardHeld, LafsError
from lafscli.formats.container import header
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.primitives.encoding import b32encode
from lafscli.server import hostgc
from lafscli.server.expiry import LEASE_SECONDS, Expiry
from lafscli.server.hostguard import HostGuards, utc_day
from lafscli.server.leasebook import read_leases
from lafscli.storage.local import LocalFiles
from lafscli.storage.locks import Locks
from tests.grids import LocalGrid
from tests.host_folders import DAY, NOW, SLOT_SI, Host, Tool, immutable, lease, mutable, shares, slots, some_si
from tests.lafs_process import Lafs

TODAY = time.strftime("%Y-%m-%d", time.gmtime(NOW))
LIVE, DEAD = lease(1000), lease(-1000, 1)
A, B, C = some_si(1), some_si(2), some_si(3)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


@pytest.fixture
def lafs(capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(capsys)


def expirations(path: Path) -> list[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_leases(descriptor).expirations
    finally:
        os.close(descriptor)


def trashed(si: bytes, shnum: int = 0, day: str = TODAY) -> str:
    return f"trash/{day}/{b32encode(si)}.{shnum}"


# ---- policies


@pytest.mark.parametrize(
    ("expiry", "expiration", "ended"),
    [
        (Expiry(NOW), NOW - 1, True),
        (Expiry(NOW), NOW, False),
        (Expiry(NOW + 0.5), NOW, True),
        (Expiry(NOW), NOW + 1, False),
        (Expiry(NOW, older_than=10 * DAY), NOW + LEASE_SECONDS - 10 * DAY - 1, True),
        (Expiry(NOW, older_than=10 * DAY), NOW + LEASE_SECONDS - 10 * DAY, False),
        (Expiry(NOW, older_than=60 * DAY), NOW - 20 * DAY, False),
        (Expiry(NOW, older_than=60 * DAY), NOW - 30 * DAY, True),
        (Expiry(NOW, cutoff=NOW - DAY), NOW - DAY + LEASE_SECONDS - 1, True),
        (Expiry(NOW, cutoff=NOW - DAY), NOW - DAY + LEASE_SECONDS, False),
        (Expiry(NOW), 0xFFFFFFFF, False),
    ],
)
def test_when_a_lease_has_ended(expiry: Expiry, expiration: int, ended: bool) -> None:
    assert expiry.ended(expiration) is ended


def test_a_dry_run_counts_and_changes_nothing(host: Host) -> None:
    host.put(A, 0, immutable(shares()[0], DEAD))
    host.put(B, 0, immutable(shares()[0], DEAD, LIVE))
    before = host.files()
    found = host.gc(delete=False)
    assert (found.examined, found.objects, found.shares, found.leases) == (2, 1, 1, 1)
    assert host.files() == before
    assert not (host.root / "history").exists()
    done = host.gc()
    assert (done.objects, done.shares, done.bytes, done.leases) == (1, 1, found.bytes, 1)


def test_a_share_whose_leases_all_ended_goes_to_the_trash_with_its_folder(host: Host) -> None:
    data = immutable(shares()[2], DEAD, lease(-1, 2))
    path = host.put(A, 2, data)
    host.put(A, 3, immutable(shares()[3], LIVE))
    host.put(B, 1, data)
    found = host.gc()
    assert (found.objects, found.shares, found.bytes, found.leases) == (2, 2, 2 * len(data), 0)
    assert not path.exists()
    assert path.parent.exists()
    assert not host.path(B, 1).parent.exists()
    assert host.files("trash") == {trashed(A, 2): data, trashed(B, 1): data}
    assert not any((host.root / "locks").iterdir())
    again = host.gc()
    assert (again.examined, again.shares) == (1, 0)


@pytest.mark.parametrize("order", ["dl", "ld", "dld", "ldl", "ddlll", "lldd"])
def test_ended_leases_are_taken_out_of_immutable_shares_that_stay(host: Host, order: str) -> None:
    leases = [lease(1000 + i if kind == "l" else -1000 - i, i) for i, kind in enumerate(order)]
    path = host.put(A, 0, immutable(shares()[0], *leases))
    assert host.gc().leases == order.count("d")
    kept = [one for one, kind in zip(leases, order, strict=True) if kind == "l"]
    assert path.read_bytes() == immutable(shares()[0], *kept)


@pytest.mark.parametrize("order", ["dl", "ldl", "lddl", "dddd" + "l", "llll" + "dl", "llll" + "d", "dldldld"])
def test_ended_leases_are_taken_out_of_mutable_shares_that_stay(host: Host, order: str) -> None:
    leases = [lease(1000 + i if kind == "l" else -1000 - i, i) for i, kind in enumerate(order)]
    path = host.put(SLOT_SI, 0, mutable(slots()[0], *leases))
    before = path.read_bytes()
    assert host.gc().leases == order.count("d")
    after = path.read_bytes()
    found = MutableContainer.parse(after[:DATA_OFFSET], len(after))
    assert after[DATA_OFFSET : found.extra_offset] == before[DATA_OFFSET : found.extra_offset]
    assert after[:100] == before[:100]
    assert sorted(expirations(path)) == sorted(one[2] for one, kind in zip(leases, order, strict=True) if kind == "l")


def test_a_mutable_share_goes_when_slots_and_extra_leases_have_ended(host: Host) -> None:
    path = host.put(SLOT_SI, 0, mutable(slots()[0], *(lease(-10 - i, i) for i in range(6))))
    other = host.put(SLOT_SI, 1, mutable(slots()[1], *(lease(-10 - i, i) for i in range(5)), lease(10, 9)))
    assert host.gc().shares == 1
    assert not path.exists()
    assert expirations(other) == [NOW + 10]


def test_policies_and_kinds_by_option(host: Host) -> None:
    host.put(A, 0, immutable(shares()[0], lease(LEASE_SECONDS - 5 * DAY)))
    host.put(SLOT_SI, 0, mutable(slots()[0], lease(LEASE_SECONDS - 5 * DAY)))
    assert host.gc(delete=False).shares == 0
    assert host.gc(delete=False, older_than=6 * DAY).shares == 0
    assert host.gc(delete=False, older_than=4 * DAY).shares == 2
    assert host.gc(delete=False, cutoff=NOW - 6 * DAY).shares == 0
    assert host.gc(delete=False, cutoff=NOW - 4 * DAY).shares == 2
    assert host.gc(delete=False, older_than=4 * DAY, only="mutable").shares == 1
    assert host.gc(older_than=4 * DAY, only="immutable").shares == 1
    assert host.path(SLOT_SI, 0).exists()
    assert not host.path(A, 0).exists()


# ---- what is left alone


def test_what_is_left_alone(host: Host, tmp_path: Path) -> None:
    good = immutable(shares()[0], DEAD)
    left = {
        "version 3": host.put(some_si(10), 0, b"\0\0\0\3" + good[4:]),
        "empty": host.put(some_si(11), 0, b""),
        "no leases": host.put(some_si(12), 0, immutable(shares()[0])),
        "records missing": host.put(some_si(13), 0, immutable(shares()[0], counted=1)),
        "odd tail": host.put(some_si(14), 0, good + b"x" * 10),
        "no name of a share": host.put(some_si(15), "0.tmp", good),
        "text": host.put(some_si(16), 7, b"this is a letter, not a share"),
        "magic of another version": host.put(some_si(17), 0, b"Tahoe mutable container v3\n" + bytes(500)),
        "extra leases nowhere": host.put(
            SLOT_SI, 0, (m := mutable(slots()[0], DEAD))[:92] + (5).to_bytes(8, "big") + m[100:]
        ),
    }
    text = b32encode(some_si(18))
    incoming = host.root / "shares" / "incoming" / text[:2] / text
    incoming.mkdir(parents=True)
    (incoming / "0").write_bytes(good)
    outside = tmp_path / "outside"
    outside.write_bytes(good)
    link = host.path(some_si(19), 0)
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    folder = tmp_path / "folder" / text
    folder.mkdir(parents=True)
    (folder / "0").write_bytes(good)
    (host.root / "shares" / text[:2]).mkdir(exist_ok=True)
    (host.root / "shares" / text[:2] / text).symlink_to(folder)
    os.mkfifo(host.path(some_si(19), 1))
    before = host.files() | {"outside": outside.read_bytes()}
    found = host.gc()
    assert host.files() | {"outside": outside.read_bytes()} == before
    assert (folder / "0").exists()
    assert link.is_symlink()
    assert all(path.exists() for path in left.values())
    assert found.skipped == {hostgc.UNKNOWN: 3, hostgc.DAMAGED: 4, hostgc.LEASELESS: 1}
    assert host.named == []
    assert host.gc(leaseless=True).shares == 1
    assert not left["no leases"].exists()


def test_a_share_named_00_is_share_0(host: Host) -> None:
    host.put(A, "00", immutable(shares()[0], DEAD))
    host.put(A, 0, immutable(shares()[1], DEAD))
    assert host.gc().shares == 2
    names = sorted(host.files("trash"))
    assert len(names) == 2
    assert all(name.startswith(trashed(A, 0)) for name in names)


def test_a_lease_that_its_writer_had_no_time_to_count_is_a_lease(host: Host) -> None:
    path = host.put(A, 0, immutable(shares()[0], DEAD, LIVE, counted=1))
    host.gc()
    assert path.read_bytes() == immutable(shares()[0], LIVE)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_one_who_was_killed_while_leases_were_taken_out_left_all_that_live(host: Host, cut: int) -> None:
    kept = [lease(10, 1), lease(20, 3)]
    full = immutable(shares()[0], lease(-1, 0), kept[0], lease(-2, 2), kept[1])
    done = immutable(shares()[0], *kept)
    middle = bytearray(full)
    for step in range(cut):  # the records, their number, the end
        if step == 0:
            middle[12 : len(done)] = done[12:]
        elif step == 1:
            middle[8:12] = done[8:12]
        else:
            del middle[len(done) :]
    path = host.put(A, 0, bytes(middle))
    host.gc()
    assert {NOW + 10, NOW + 20} <= set(expirations(path))
    assert path.read_bytes()[: 12 + len(shares()[0])][12:] == shares()[0]


# ---- others at work


def test_what_is_being_changed_by_a_client_is_skipped(host: Host) -> None:
    path = host.put(A, 0, immutable(shares()[0], DEAD))
    other = host.put(B, 0, immutable(shares()[0], DEAD))
    guard = host.hold(A, pid=os.getpid())
    found = host.gc()
    assert (found.shares, found.skipped) == (1, {hostgc.GUARDED: 1})
    assert path.exists()
    assert not other.exists()
    assert [each.name for each in (host.root / "locks").iterdir()] == [guard.name]


@pytest.mark.parametrize("how", ["dead", "old"])
def test_the_guard_of_a_dead_client_holds_nothing_up(host: Host, how: str) -> None:
    path = host.put(A, 0, immutable(shares()[0], DEAD))
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    host.hold(A, pid=int(done.stdout)) if how == "dead" else host.hold(A, age=60)
    assert host.gc().shares == 1
    assert not path.exists()
    assert not any((host.root / "locks").iterdir())


def test_what_a_dead_writer_has_staged_keeps_the_share_for_a_while(host: Host) -> None:
    now = int(time.time())
    old = mutable(slots(1)[0], (b"r" * 32, b"c" * 32, now - 1000))
    path = host.put(SLOT_SI, 0, old)
    host.hold(SLOT_SI, age=60, staged=mutable(slots(2)[0], (b"r" * 32, b"c" * 32, now + 1000)))
    for _ in range(2):
        assert host.gc(now=now).skipped == {hostgc.BROKEN_OFF: 1}
        assert host.gc(now=now, delete=False).shares == 0
        assert path.read_bytes() == old
    [broken] = (host.root / "locks").iterdir()
    assert broken.name.startswith(f".broken.{b32encode(SLOT_SI)}.")
    assert host.gc(now=now + 32 * DAY).shares == 1


def at_call(number: int, act: Callable[[], None]) -> Callable[[int], bytes]:
    """Random bytes; before the call of that number something happens."""
    calls = itertools.count(1)

    def random_bytes(count: int) -> bytes:
        if next(calls) == number:
            act()
        return os.urandom(count)

    return random_bytes


LOOKED, JUDGED = 1, 2
"""After the first look at the share; after it was judged under turn and guard, before it is moved."""


def renewal(path: Path, expiration: int, at: int) -> Callable[[], None]:
    """Four bytes in place, as clients over plain SFTP renew: without a guard."""

    def act() -> None:
        descriptor = os.open(path, os.O_WRONLY)
        os.pwrite(descriptor, expiration.to_bytes(4, "big"), at)
        os.close(descriptor)

    return act


@pytest.mark.parametrize("moment", [LOOKED, JUDGED])
@pytest.mark.parametrize("kind", ["immutable", "mutable"])
def test_a_share_that_is_renewed_between_look_and_move_stays(host: Host, moment: int, kind: str) -> None:
    data = immutable(shares()[0], DEAD) if kind == "immutable" else mutable(slots()[0], DEAD)
    at = len(data) - 4 if kind == "immutable" else 104
    path = host.put(SLOT_SI, 0, data)
    host.random_bytes = at_call(moment, renewal(path, NOW + 5, at))
    found = host.gc()
    assert found.shares == 0
    assert found.skipped == ({hostgc.RENEWED: 1} if moment == JUDGED else {})
    assert expirations(path) == [NOW + 5]
    assert host.files("trash") == {}


def test_a_version_that_comes_between_look_and_move_stays(host: Host) -> None:
    path = host.put(SLOT_SI, 0, mutable(slots(1)[0], DEAD))
    newer = host.root / "newer"
    newer.write_bytes(mutable(slots(2)[0], LIVE))
    host.random_bytes = at_call(JUDGED, lambda: os.rename(newer, path))
    assert host.gc().skipped == {hostgc.RENEWED: 1}
    assert path.read_bytes() == mutable(slots(2)[0], LIVE)
    assert host.files("trash") == {}


def test_a_share_that_goes_between_look_and_move_is_no_failure(host: Host) -> None:
    path = host.put(A, 0, immutable(shares()[0], DEAD))
    host.random_bytes = at_call(LOOKED, path.unlink)
    assert host.gc().shares == 0
    assert host.named == []


def test_what_was_renewed_while_it_went_is_not_removed_for_good_and_comes_back(host: Host) -> None:
    now = int(time.time())
    path = host.put(A, 0, immutable(shares()[0], (b"r" * 32, b"c" * 32, now - 10)))
    descriptor = os.open(path, os.O_WRONLY)  # the server has opened it for a client
    assert host.gc(now=now).shares == 1
    os.pwrite(descriptor, (now + 31 * DAY).to_bytes(4, "big"), os.fstat(descriptor).st_size - 4)
    os.close(descriptor)
    assert host.gc(now=now + 20 * DAY).skipped == {hostgc.RENEWED: 1}
    assert host.undo(now=now + 20 * DAY).shares == 1
    assert expirations(path) == [now + 31 * DAY]


def test_two_runs_at_once_are_refused_by_name(host: Host, lafs: Tool) -> None:
    host.put(A, 0, immutable(shares()[0], lease(-1000 * DAY)))
    with host.opened() as folder, host.guards(folder):
        refused = lafs("gc", "--host", host.root, "--delete", code=12)
        assert "another gc" in refused.stderr
        assert lafs.json("gc", "--host", host.root)["shares"] == 1
    assert lafs.json("gc", "--host", host.root, "--delete")["shares"] == 1


def test_a_run_waits_for_the_turn_that_the_server_has(host: Host) -> None:
    """What the server decides meanwhile counts: here it renews."""
    path = host.put(A, 0, data := immutable(shares()[0], DEAD))
    program = (
        "import os, sys; from lafscli.server.turns import Turns\n"
        "history = os.open(sys.argv[1], os.O_RDONLY)\n"
        "with Turns(history).turn(bytes.fromhex(sys.argv[2])):\n"
        "    print('mine', flush=True); sys.stdin.readline()\n"
        "    fd = os.open(sys.argv[3], os.O_WRONLY); os.pwrite(fd, b'\\x7f' * 4, int(sys.argv[4]))\n"
    )
    (host.root / "history").mkdir()
    arguments = [str(host.root / "history"), A.hex(), str(path), str(len(data) - 4)]
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"mine\n"

        def let_go() -> None:
            assert server.stdin is not None
            server.stdin.write(b"\n")
            server.stdin.flush()

        host.random_bytes = os.urandom
        with host.opened() as folder, host.guards(folder) as guards:
            told = _Telling(guards, let_go)
            found = hostgc.HostCollection(folder, told, hostgc.Wish(Expiry(NOW), delete=True)).run()  # type: ignore[arg-type]
    assert found.shares == 0
    assert expirations(path) == [0x7F7F7F7F]


class _Telling:
    """Guards that say when the look is over and the turn is asked for."""

    def __init__(self, guards: HostGuards, told: Callable[[], None]) -> None:
        self._guards = guards
        self._told = told
        self.token = guards.token

    def changing(self, si: bytes) -> AbstractContextManager[None]:
        self._told()
        return self._guards.changing(si)


def test_a_client_sees_the_guard_of_a_run_and_gets_it_afterwards(tmp_path: Path) -> None:
    with closing(LocalGrid(tmp_path, 1)) as local:
        host = Host(local.root(0))
        locks = Locks(local.servers[0], LocalFiles(host.root), random_bytes=os.urandom)
        with host.opened() as folder, host.guards(folder) as guards:
            with guards.changing(A):
                with pytest.raises(GuardHeld, match=f"process {os.getpid()} on"):
                    locks.take(A)
                locks.take(B).release()
            with locks.take(A) as guard:
                with pytest.raises(GuardHeld), guards.changing(A):
                    pytest.fail("two have it")
                guard.touch()
        assert os.listdir(host.root / "locks") == []


@pytest.mark.parametrize("name", ["trash", "locks", "history", "history/.serve", f"trash/{TODAY}"])
def test_no_symlink_leads_out(host: Host, tmp_path: Path, name: str) -> None:
    path = host.put(A, 0, immutable(shares()[0], DEAD))
    outside = tmp_path / "outside"
    outside.mkdir()
    link = host.root / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(LafsError, match="is no folder"):
        host.gc()
    assert path.exists()
    assert os.listdir(outside) == []


# ---- trash, kept versions, the clock


def test_the_trash_is_emptied_after_the_grace(host: Host) -> None:
    host.put(A, 0, data := immutable(shares()[0], DEAD))
    host.put(B, 0, immutable(shares()[0], LIVE))
    host.gc()
    (host.root / "trash" / TODAY / "notes.txt").write_text("somebody's")
    day_begins = NOW - NOW % DAY
    over = day_begins + DAY + 14 * DAY
    assert host.gc(now=over - 1).purged == 0
    found = host.gc(now=over, delete=False)
    assert (found.purged, found.purged_bytes) == (1, len(data))
    assert trashed(A) in host.files("trash")
    assert host.gc(now=over).purged == 1
    assert list(host.files("trash")) == [f"trash/{TODAY}/notes.txt", trashed(B, day=utc_day(over - 1))]
    assert host.gc(now=over - 1, grace=0).purged == 0
    assert host.gc(now=over, grace=0).purged == 1


def test_undo_brings_back_what_has_no_place_taken_and_gives_it_time(host: Host) -> None:
    first, second = immutable(shares()[0], lease(-3 * DAY)), immutable(shares()[0], DEAD, lease(-5, 3))
    host.put(A, 0, first)
    host.gc(now=NOW - 2 * DAY + 500)
    host.put(A, 0, second)
    host.put(B, 0, first)
    host.put(C, 0, first)
    host.put(SLOT_SI, 3, mutable(slots()[3], DEAD))
    host.put(some_si(5), 0, immutable(shares()[0]))
    assert host.gc(leaseless=True).shares == 5
    host.put(B, 0, other := immutable(shares()[0], LIVE))
    host.hold(C, pid=os.getpid())
    done = host.undo()
    assert (done.shares, done.prolonged) == (2, 3)
    assert done.skipped == {"another stands in its place": 2, hostgc.GUARDED: 1, hostgc.LEASELESS: 1}
    assert host.path(B, 0).read_bytes() == other
    assert expirations(host.path(A, 0)) == [NOW + LEASE_SECONDS] * 2
    assert expirations(host.path(SLOT_SI, 3)) == [NOW + LEASE_SECONDS]
    assert host.path(A, 0).read_bytes()[: len(shares()[0])] == second[: len(shares()[0])]
    assert host.gc().shares == 0
    assert host.undo(leaseless=True).shares == 1


def test_kept_versions_go_when_nothing_else_is_left(host: Host) -> None:
    name = "0.1.aaaaaaaa"
    kept = {si: host.keep(si, name, mutable(slots()[0], DEAD)) for si in (A, B, C, SLOT_SI, some_si(5))}
    kept[C].write_bytes(mutable(slots()[0], LIVE))
    host.put(A, 0, mutable(slots(2)[0], DEAD))
    host.put(B, 0, mutable(slots(2)[0], LIVE))
    quarantined = host.root / "quarantine" / f"{TODAY}.{b32encode(some_si(5))}.0.{'a' * 26}"
    quarantined.parent.mkdir()
    quarantined.write_bytes(b"damaged")
    now = int(time.time())  # the times of files are real
    real = [mutable(slots()[0], (b"r" * 32, b"c" * 32, now - 9))]
    for si in (A, B, SLOT_SI, some_si(5)):
        kept[si].write_bytes(real[0])
    host.path(A, 0).write_bytes(real[0])
    assert host.gc(now=now, delete=False).kept_versions == 1
    assert host.gc(now=now).kept_versions == 2
    assert [si for si in kept if kept[si].exists()] == [B, C, some_si(5)]
    assert not kept[A].parent.exists()
    done = host.undo(now=now)
    assert (done.shares, done.kept_versions) == (1, 2)
    assert all(path.exists() for path in kept.values())


def test_a_clock_that_was_set_back_removes_nothing(host: Host) -> None:
    host.put(A, 0, immutable(shares()[0], DEAD))
    host.gc()
    path = host.put(B, 0, immutable(shares()[0], lease(-400 * DAY)))
    with pytest.raises(LafsError, match=f"the clock says .*, but there is trash/{TODAY}"):
        host.gc(now=NOW - 30 * DAY)
    assert path.exists()
    assert host.gc(now=NOW - 30 * DAY, delete=False).shares == 1
    assert host.undo(now=NOW - 30 * DAY).shares == 1


# ---- killed, interrupted


def many(host: Host, count: int) -> dict[Path, tuple[bytes, set[int]]]:
    """Containers, some with a live lease: their shares, and the leases that must be there afterwards."""
    dice = random.Random(5)
    now = int(time.time())
    alive = {}
    for number in range(count):
        ends = [dice.choice((-1000, 100_000)) + who for who in range(dice.randrange(1, 7))]
        leases = [(bytes([i, 1]) * 16, bytes([i, 2]) * 16, now + each) for i, each in enumerate(ends)]
        mutably = number % 3 == 0
        share = slots()[0] if mutably else shares()[0]
        path = host.put(some_si(number), 0, mutable(share, *leases) if mutably else immutable(share, *leases))
        if max(ends) > 1000:
            alive[path] = share, {now + each for each in ends if each > 1000}
    return alive


def check_alive(alive: dict[Path, tuple[bytes, set[int]]], *, finished: bool) -> None:
    for path, (share, leases) in alive.items():
        start = DATA_OFFSET if share is slots()[0] else len(header(0, 0))
        assert path.read_bytes()[start : start + len(share)] == share
        # a record may be there twice, by one who was stopped between two steps
        assert set(expirations(path)) == leases if finished else set(expirations(path)) >= leases


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_is_stopped_in_the_middle_is_finished_by_the_next(host: Host, tmp_path: Path, how: int) -> None:
    alive = many(host, 200)
    lafs = Lafs(tmp_path)

    def thrown() -> int:
        return sum(len(os.listdir(day)) for day in (host.root / "trash").glob("*"))

    rounds = 0
    while True:
        before = thrown()
        run = lafs.start("gc", "--host", host.root, "--delete", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while run.poll() is None and thrown() < before + 10:
            pass
        run.send_signal(how)
        run.communicate(timeout=20)
        check_alive(alive, finished=False)
        rounds += 1
        if run.returncode == 0:
            break
        assert run.returncode in (-how, 128 + how)
        assert rounds < 30
    assert rounds > 2
    check_alive(alive, finished=True)
    assert len(host.files("shares")) == len(alive)
    assert len(host.files("trash")) == 200 - len(alive)
    last = lafs.json("gc", "--host", host.root, "--delete")
    assert (last["shares"], last["leases"], last["skipped"]) == (0, 0, [])


# ---- beside a server at work

_RENEWS = """
import os, random, sys, time
from lafscli.server.backend import Refused
from tests.host_folders import some_si
from tests.kept_shares import Served, immutable, mutable, shares, slots
from pathlib import Path

root, how, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
served = Served(root, now=time.time)
dice = random.Random(seed)
secrets = b"r" * 32, b"c" * 32
for number in range(seed, 1200, 2):
    si, now = some_si(number), int(time.time())
    mutably = number % 3 == 0
    data = mutable(slots()[0], (*secrets, now - 5)) if mutably else immutable(shares()[0], (*secrets, now - 5))
    served.place(data, si, 0)
    for _ in range(dice.randrange(40)):
        time.sleep(0)
    at = 104 if mutably else len(data) - 4
    new = (now + 100_000).to_bytes(4, "big")
    try:
        descriptor = os.open(served.path(si), os.O_RDWR)
        if how == "served":
            served.keeper.patch(descriptor, si, 0, at, new)
        else:
            os.pwrite(descriptor, new, at)
        print(number, flush=True)
    except (Refused, FileNotFoundError):
        pass
    else:
        os.close(descriptor)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["served", "plain"])
def test_what_is_renewed_while_runs_go_on_is_kept(host: Host, how: str) -> None:
    """Two processes put shares whose lease has ended, and renew it at once; gc runs over them all the time."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _RENEWS, str(host.root), how, str(seed)],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
        )
        for seed in (0, 1)
    ]
    renewed: set[int] = set()
    output = [bytearray(), bytearray()]
    for writer in writers:
        assert writer.stdout is not None
        os.set_blocking(writer.stdout.fileno(), False)
    total = 0
    while any(writer.poll() is None for writer in writers):
        total += host.gc(now=time.time()).shares
        for writer, text in zip(writers, output, strict=True):
            assert writer.stdout is not None
            text += writer.stdout.read() or b""
    total += host.gc(now=time.time()).shares
    for writer, text in zip(writers, output, strict=True):
        assert writer.stdout is not None
        text += writer.stdout.read() or b""
        writer.stdout.close()
        assert writer.returncode == 0
        renewed |= {int(line) for line in text.split()}
    assert total > 20
    assert len(renewed) > 20
    assert host.named == []
    if how == "plain":
        # what was renewed after the last look lies in the trash with that lease, and comes back
        today = utc_day(time.time())
        for number in renewed:
            path = host.path(some_si(number), 0)
            there = path if path.exists() else host.root / trashed(some_si(number), day=today)
            assert max(expirations(there)) > time.time()
        host.undo(now=time.time())
    for number in renewed:
        assert max(expirations(host.path(some_si(number), 0))) > time.time()
    if how == "served":
        assert len(host.files("shares")) == len(renewed)
    assert host.scrub().damaged == []


# ---- the property


@st.composite
def folders(draw: st.DrawFn) -> list[tuple[int, bool, list[int]]]:
    return draw(
        st.lists(
            st.tuples(
                st.integers(0, 3),
                st.booleans(),
                st.lists(st.integers(-3, 3).map(lambda n: n * DAY * 11), min_size=0, max_size=7),
            ),
            max_size=5,
        )
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    found=folders(),
    older_than=st.none() | st.sampled_from([0, 5 * DAY, 40 * DAY]),
    leaseless=st.booleans(),
)
def test_every_share_with_a_live_lease_stays_and_only_lease_records_change(
    tmp_path_factory: pytest.TempPathFactory,
    found: list[tuple[int, bool, list[int]]],
    older_than: int | None,
    leaseless: bool,
) -> None:
    host = Host(tmp_path_factory.mktemp("gc"))
    expiry = Expiry(NOW, older_than)
    known: dict[Path, tuple[bool, list[int], bytes]] = {}
    for shnum, mutably, ends in found:
        leases = [lease(each, who) for who, each in enumerate(ends)]
        share = slots()[shnum] if mutably else shares()[shnum]
        data = mutable(share, *leases) if mutably else immutable(share, *leases)
        known[host.put(SLOT_SI if mutably else A, shnum, data)] = mutably, ends, share
    host.gc(older_than=older_than, leaseless=leaseless)
    for path, (mutably, ends, share) in known.items():
        live = sorted(NOW + each for each in ends if not expiry.ended(NOW + each))
        if not live and (ends or leaseless):
            assert not path.exists()
            continue
        data = path.read_bytes()
        start = DATA_OFFSET if mutably else len(header(0, 0))
        assert data[start : start + len(share)] == share
        assert sorted(expirations(path)) == live
    assert host.undo(leaseless=True).skipped == {}
    assert all(path.exists() for path in known)


# ---- the command


def test_the_command(host: Host, lafs: Tool) -> None:
    host.put(A, 0, data := immutable(shares()[0], lease(-1000 * DAY)))
    host.put(B, 0, immutable(shares()[0], lease(1000 * DAY), lease(-1000 * DAY, 1)))
    host.put(C, 0, b"\0\0\0\3" + bytes(50))
    said = lafs("gc", "--host", host.root, code=0)
    assert "3 shares looked at: 1 would go to trash" in said.stdout
    assert "--delete does it" in said.stderr
    assert lafs.json("gc", "--host", host.root, "--delete") == {
        "schema": 1,
        "examined": 3,
        "objects": 1,
        "shares": 1,
        "bytes": len(data),
        "leases": 1,
        "kept_versions": 0,
        "purged": {"shares": 0, "bytes": 0},
        "skipped": [{"reason": hostgc.UNKNOWN, "count": 1}],
        "failed": [],
        "deleted": True,
    }
    assert lafs.json("gc", "--host", host.root, "--undo")["shares"] == 1
    assert host.path(A, 0).exists()


def test_what_the_command_refuses(tmp_path: Path, lafs: Tool) -> None:
    (tmp_path / "root" / "shares").mkdir(parents=True)
    (tmp_path / "plain").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "shares").symlink_to(tmp_path / "root" / "shares")
    (tmp_path / "file").write_text("")
    refusals = {
        "--host nowhere": (3, "no such folder"),
        "--leaseless": (2, "lafs gc --host DIR"),
        "--host plain": (2, "not a storage folder"),
        "--host linked": (2, "not a storage folder"),
        "--host file": (2, "not a folder"),
        "--host root --older-than 5": (2, "not a duration"),
        "--host root --cutoff soon": (2, "not a date"),
        "--host root --cutoff 2026-01-01 --older-than 5d": (2, "two policies"),
        "--host root --undo --delete": (2, "--undo"),
        "--host root --only some": (2, "some"),
    }
    for arguments, (code, said) in refusals.items():
        words = arguments.replace("--host ", f"--host {tmp_path}/").split()
        assert said in lafs("gc", *words, code=code).stderr
    assert os.listdir(tmp_path / "root") == ["shares"]


def test_a_read_only_file_system_is_told(tmp_path: Path, lafs: Tool, mount: Callable[[Path, str], None]) -> None:
    root = tmp_path / "small"
    mount(root, "size=1m")
    host = Host(root)
    host.put(A, 0, immutable(shares()[0], lease(-1000 * DAY)))
    done = subprocess.run(["mount", "-o", "remount,ro", str(root)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no read-only disk can be had here")
    assert lafs.json("gc", "--host", root)["shares"] == 1
    assert "read-only file system" in lafs("gc", "--host", root, "--delete", code=1).stderr


def test_a_full_disk_holds_up_nothing_that_frees_it(tmp_path: Path, mount: Callable[[Path, str], None]) -> None:
    root = tmp_path / "small"
    mount(root, "size=256k")
    host = Host(root)
    now = int(time.time())
    for number in range(20):
        host.put(some_si(number), 0, immutable(shares()[0], (b"r" * 32, b"c" * 32, now - 9)))
    host.gc(now=now, delete=False)
    with pytest.raises(OSError, match="No space"):
        (root / "filler").write_bytes(bytes(1 << 20))
    host.gc(now=now)
    assert len(host.files("shares")) + len(host.files("trash")) == 20
    thrown = len(host.files("trash"))
    assert host.gc(now=now + 30 * DAY).purged == thrown


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_makes_belongs_to_the_owner_of_the_shares(host: Host) -> None:
    host.put(A, 0, immutable(shares()[0], DEAD))
    host.put(B, 0, b"")
    host.keep(SLOT_SI, "0.1.aaaaaaaa", mutable(slots()[0], LIVE))
    for path in (host.root, *host.root.rglob("*")):
        os.chown(path, 1234, 5678)
    host.gc()
    host.scrub()
    host.gc(leaseless=True)
    host.undo()
    there = list(host.root.rglob("*"))
    assert {"trash", "quarantine", "advisories", "turns", "gc", "scrub", "locks"} <= {path.name for path in there}
    assert {(path.stat().st_uid, path.stat().st_gid) for path in there} == {(1234, 5678)}


def test_a_tahoe_node_is_warned_of(host: Host, tmp_path: Path, lafs: Tool) -> None:
    (tmp_path / "my_nodeid").write_text("x")
    assert "belongs to a Tahoe node" in lafs("gc", "--host", host.root, code=0).stderr


@pytest.mark.slow
def test_a_file_whose_leases_are_called_ended_goes_and_comes_back(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", "--local", "--encoding", "1/1/1", code=0)
    (tmp_path / "file").write_bytes(os.urandom(1000))
    cap = lafs("put", "file", code=0).stdout.decode().strip()
    [folder] = [path.parents[3] for path in (lafs.home / "grid").glob("local*/shares/??/*/0")]
    assert lafs.json("gc", "--host", folder, "--delete")["shares"] == 0
    assert lafs.json("gc", "--host", folder, "--delete", "--cutoff", "2100-01-01")["shares"] == 1
    lafs("get", cap, "again", code=5)
    assert lafs.json("gc", "--host", folder, "--undo")["shares"] == 1
    lafs("get", cap, "again", code=0)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "file").read_bytes()
    assert lafs.json("renew", cap)["renewed"] == 1
