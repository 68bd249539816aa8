"""Guards among processes: many at once, stopped between any two steps, killed there, and cut off from the server."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from lafscli.errors import LafsError, ServerUnreachable
from lafscli.formats.container import share_path
from lafscli.primitives.encoding import b32encode
from lafscli.storage.leases import add_lease
from lafscli.storage.locks import Locks
from lafscli.storage.sftp import SftpFiles
from tests.guard_process import (
    CHANGES,
    DAY,
    MAGIC,
    SHNUM,
    Holders,
    Reach,
    State,
    counter,
    counting,
    denied,
    increment,
    lease_of,
    share,
    stored,
)
from tests.scripted_sftp import PipeStream
from tests.served_folders import SocketStream
from tests.sshd import SshServers

NO_POSIX = ("posix-rename", "ordered")
V3 = ("posix-rename", "hardlink", "fsync")
SERVERS = {
    "local": ((), False),
    "local-v3": (V3, False),
    "sftp": ((), True),
    "sftp-no-posix-rename": (NO_POSIX, True),
    "sftp-v3": (V3, True),
}
QUICK = ("sftp", "sftp-v3")


def servers(*quick: str) -> list[object]:
    """All kinds of servers; those that are not named, among the slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in SERVERS]


@pytest.fixture
def reach(request: pytest.FixtureRequest, tmp_path: Path) -> Reach:
    lacks, pipes = SERVERS[request.param]
    return Reach.of(tmp_path / "root", without=lacks, pipes=pipes)


def storage_index(number: int) -> bytes:
    return number.to_bytes(16, "big")


def put(reach: Reach, si: bytes, data: bytes, shnum: int = SHNUM) -> None:
    path = reach.path(share_path(si, shnum))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def value(reach: Reach, si: bytes) -> int:
    return int(reach.path(share_path(si, SHNUM)).read_bytes().removeprefix(MAGIC))


def left(reach: Reach) -> list[str]:
    return sorted(path.name for path in reach.path("locks").iterdir())


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Case:
    """A change by a holder, and the same by another one in this process; what must be true in the end."""

    def __init__(self, reach: Reach, name: str) -> None:
        self.reach = reach
        self.name = name
        self.files = reach.files()
        # Whoever holds a guard is taken for dead; one that has not yet said who it is, is dead when the clock says so.
        self.clock = Clock()
        self.locks = self.watched(alive=lambda pid: False)
        self.bad = b"bad" + bytes(100)

    def watched(self, **world: Any) -> Locks:
        """Guards on a clock that nobody waits for."""
        return self.reach.locks(self.files, monotonic=self.clock, sleep=self.clock.sleep, **world)

    def prepare(self, si: bytes) -> None:
        if self.name == "increment":
            put(self.reach, si, counter(5))
        elif self.name == "replace":
            put(self.reach, si, self.bad)
            put(self.reach, si, self.bad, 1)
        else:
            put(self.reach, si, stored(share(), "first"))

    def other(self, si: bytes) -> None:
        """Another one makes its change, and finishes it."""
        if self.name == "trash":
            with self.locks.wait(si, 60) as guard:
                guard.check()
        else:
            assert CHANGES[self.name](self.files, self.locks, si, "other")

    def judge(self, si: bytes, holder: State) -> None:
        """After both have ended."""
        path = self.reach.path(share_path(si, SHNUM))
        if self.name == "increment":
            assert value(self.reach, si) == 5 + 1 + holder.acknowledged
        elif self.name == "replace":
            for shnum in (0, 1):
                assert self.reach.path(share_path(si, shnum)).read_bytes().startswith(b"good ")
            thrown = [found.read_bytes() for found in self.reach.path("quarantine").iterdir()]
            assert set(thrown) == {self.bad}, "nothing good goes to quarantine"
        elif self.name == "lease":
            with self.locks.take(si) as guard:
                assert add_lease(self.files, guard, SHNUM, lease_of("last"))
            data, owners = path.read_bytes(), ["first", "other", "last", *(["holder"] * holder.acknowledged)]
            records = data[12 + len(share()) :]
            assert data[12:].startswith(share())
            assert len(records) == 72 * int.from_bytes(data[8:12], "big"), "every record is counted"
            found = {stored(b"", owner)[16:48] for owner in owners}
            assert found <= {records[at + 4 : at + 36] for at in range(0, len(records), 72)}
        else:
            thrown_to = self.reach.path(f"trash/{DAY}/{b32encode(si)}.0")
            places = [found.read_bytes() for found in (path, thrown_to) if found.exists()]
            assert places
            assert set(places) == {stored(share(), "first")}
            assert thrown_to.exists() or not holder.acknowledged

    def clean(self) -> None:
        """Nobody has to do anything by hand: the sweep clears all but mutable shares, and those the next writer."""
        self.locks.sweep(-10)
        for name in left(self.reach):
            assert self.name == "increment"
            assert name.startswith(".broken.")


@pytest.mark.parametrize("reach", servers(*QUICK), indirect=True)
@pytest.mark.parametrize("name", list(CHANGES))
def test_a_holder_stopped_anywhere_and_broken_changes_nothing(reach: Reach, name: str) -> None:
    """SIGSTOP between any two steps, another one finishes, SIGCONT."""
    case, steps, lost = Case(reach, name), 0, 0
    with Holders(reach) as holders:
        while True:
            si = storage_index(steps)
            case.prepare(si)
            state = holders.start(name, si, steps)
            if not state.stopped:
                break
            case.other(si)
            state = holders.resume()
            assert state.error in ("", "GuardLost"), f"step {steps}"
            lost += state.error == "GuardLost"
            case.judge(si, state)
            steps += 1
    assert state.acknowledged
    assert steps > 10
    assert lost > 3
    case.clean()


@pytest.mark.parametrize("reach", servers("sftp-v3"), indirect=True)
@pytest.mark.parametrize("name", list(CHANGES))
def test_a_holder_killed_anywhere_leaves_nothing_that_needs_a_hand(reach: Reach, name: str) -> None:
    """The next one goes on at once, with what was there before or what the dead one made."""
    case, steps = Case(reach, name), 0
    case.locks = case.watched()
    with Holders(reach) as holders:
        while True:
            si = storage_index(steps)
            case.prepare(si)
            if not holders.start(name, si, steps).stopped:
                break
            holders.kill()
            case.other(si)
            if name == "increment":
                assert value(reach, si) in (6, 7)
            else:
                case.judge(si, State(False))
            steps += 1
    assert steps > 10
    case.clean()


# ---- many at once ----------------------------------------------------------------------------------------------


def count_together(reach: Reach, clients: int, rounds: int) -> None:
    si = storage_index(1)
    processes = [counting(reach, si, rounds) for _ in range(clients)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * clients
    made = [number for output in outputs for number in json.loads(output)]
    assert sorted(made) == list(range(1, clients * rounds + 1)), "one winner each round, and none lost"
    assert value(reach, si) == clients * rounds
    assert left(reach) == []


@pytest.mark.parametrize("reach", servers("sftp-no-posix-rename"), indirect=True)
def test_six_clients_a_hundred_rounds(reach: Reach) -> None:
    count_together(reach, 6, 100)


@pytest.mark.slow
@pytest.mark.parametrize("lacks", [(), NO_POSIX])
def test_six_clients_a_hundred_rounds_over_sshd(tmp_path: Path, lacks: tuple[str, ...]) -> None:
    with SshServers(tmp_path / "sshd", 1, denied=denied(lacks)) as sshd:
        made = Reach.of(sshd.root(0) / "store", without=lacks)
        count_together(Reach(made.root, made.features, None, str(sshd.config)), 6, 100)


# ---- lost connections ------------------------------------------------------------------------------------------


class Proxy:
    """A stream to a real server that is cut at a request of a given number.

    The server has performed it and the answer is lost; or, `late`, it and all behind it come to the server only when
    `deliver` is called.
    """

    def __init__(self, server: PipeStream | SocketStream, cut_at: int | None, *, late: bool) -> None:
        self._server = server
        for descriptor in (self._server.read_fd, self._server.write_fd):
            os.set_blocking(descriptor, True)
        ours, self._socket = socket.socketpair()
        ours.setblocking(False)
        self.read_fd = self.write_fd = ours.detach()
        self.requests = 0
        self._cut_at = cut_at
        self._late = late
        self._held: list[bytes] = []
        self._open = True
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    @property
    def cut(self) -> bool:
        """Whether it came to that."""
        return bool(self._held)

    def explain(self) -> LafsError:
        return ServerUnreachable("the connection was cut")

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.read_fd)
            self._thread.join()
            if not self._late:
                self._server.close()

    def deliver(self) -> int:
        """What was held up reaches the server, which carries it out before this returns; how many requests."""
        for request in self._held:
            os.write(self._server.write_fd, request)
            _packet(self._server.read_fd)
        self._server.close()
        return len(self._held)

    def _play(self) -> None:
        """One request at a time: forward it, forward its answer. The cut takes what came with it along."""
        with self._socket, self._socket.makefile("rb") as stream:
            try:
                while request := _take(stream.read):
                    if self.requests == self._cut_at or self._held:
                        self._held.append(request)
                        if not self._late:
                            os.write(self._server.write_fd, request)
                            _packet(self._server.read_fd)
                            return
                        # All that the client has sent by now is on its way to the server.
                        self._socket.setblocking(False)
                        rest = b"".join(iter(lambda: stream.read1(1 << 20) or b"", b""))
                        while rest:
                            size = 4 + int.from_bytes(rest[:4], "big")
                            if len(rest) < size:
                                break
                            self._held.append(rest[:size])
                            rest = rest[size:]
                        return
                    self.requests += 1
                    os.write(self._server.write_fd, request)
                    self._socket.sendall(_packet(self._server.read_fd))
            except OSError:
                return


def _take(read) -> bytes:  # type: ignore[no-untyped-def]
    head: bytes = read(4)
    return head + read(int.from_bytes(head, "big")) if len(head) == 4 else b""


def _packet(descriptor: int) -> bytes:
    def read(count: int) -> bytes:
        data = b""
        while len(data) < count and (piece := os.read(descriptor, count - len(data))):
            data += piece
        return data

    return _take(read)


class Line:
    """Connections to a server; the first one is cut."""

    def __init__(self, reach: Reach, cut_at: int, *, late: bool) -> None:
        self._reach = reach
        self._cut_at = cut_at
        self._late = late
        self.streams: list[Proxy] = []

    def __call__(self) -> Proxy:
        served, root = self._reach.served, self._reach.root
        server = PipeStream(["-P", str(self._reach.denied)]) if served is None else SocketStream(served, root)
        self.streams.append(Proxy(server, None if self.streams else self._cut_at, late=self._late))
        return self.streams[-1]


@pytest.mark.parametrize("reach", servers(*QUICK)[2:], indirect=True)
@pytest.mark.parametrize("late", [False, True])
def test_a_connection_cut_at_any_request(reach: Reach, late: bool) -> None:
    """The client takes the guard again at once. Requests of the lost connection that come late change nothing."""
    cut_at, most = 0, 0
    while True:
        cut_at += 1  # the first request is the greeting
        si = storage_index(cut_at)
        put(reach, si, counter(5))
        line = Line(reach, cut_at, late=late)
        files = SftpFiles(line, reach.root, name="blue")
        locks = reach.locks(files, sleep=_no_sleep)
        acknowledged = 0
        try:
            acknowledged += increment(files, locks, si, "")
        except ServerUnreachable:
            assert line.streams[0].cut
        if not line.streams[0].cut:
            files.close()
            break
        acknowledged += increment(files, locks, si, "")
        reached = value(reach, si)
        # A commit whose answer was lost may count; one that was acknowledged does.
        assert 5 + acknowledged <= reached <= 7
        if late:
            most = max(most, line.streams[0].deliver())
            assert value(reach, si) == reached
            assert increment(files, locks, si, "")
            assert value(reach, si) == reached + 1
        files.close()
    assert cut_at > 15
    assert most > 3 or not late
    locks = reach.locks(reach.files())
    locks.sweep(-10)
    assert [name for name in left(reach) if not name.startswith(".broken.")] == []


def _no_sleep(seconds: float) -> None:
    raise AssertionError("our own guard, of which we know, must not make us wait")
