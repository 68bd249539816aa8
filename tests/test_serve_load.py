"""`lafs serve --listen` under load, killed in the middle of it, and with clients that want its memory."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import paramiko
import pytest

from lafscli.primitives.encoding import b32encode
from tests.kept_shares import OURS, immutable, shares
from tests.raw_sftp import Pipes, RawClient
from tests.serving import ListenServers
from tests.test_serve_daemon import connect

SMALL = immutable(shares()[0], OURS)
LARGE = immutable(shares(bytes(range(256)) * 4000, 2, 4, 131072)[1], OURS)


def put(talk: RawClient, container: bytes, si: bytes, shnum: int) -> None:
    """As a client of a plain server does: stage, make the folders, rename."""
    name = b32encode(si)
    staged = f"/staging/{name}.{shnum}.{b32encode(os.urandom(16))}"
    talk.put(staged, container)
    for folder in (f"/shares/{name[:2]}", f"/shares/{name[:2]}/{name}"):
        with suppress(Exception):  # it may be there
            talk.mkdir(folder)
    talk.rename(staged, f"/shares/{name[:2]}/{name}/{shnum}")


class Worker(threading.Thread):
    """Does the same again and again until it is told to stop, or fails."""

    def __init__(self, work: Callable[[], None], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._stop_now = stop
        self.failure: BaseException | None = None
        self.rounds = 0
        self.start()

    def run(self) -> None:
        try:
            while not self._stop_now.is_set():
                self._work()
                self.rounds += 1
        except BaseException as error:
            self.failure = error


def memory(pids: list[int]) -> int:
    """Bytes that these processes have, what they share counted once."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


@pytest.mark.slow
def test_64_clients_for_a_minute(start_listening: Callable[..., ListenServers]) -> None:
    """No error, and neither memory nor open files grow."""
    servers = start_listening()
    command = ["ssh", "-F", str(servers.config), "-s", "s0", "sftp"]
    stop = threading.Event()
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for _ in range(64)
        ]

        def worker(process: subprocess.Popen[bytes]) -> Worker:
            talk = RawClient(Pipes.of(process))
            chance = random.Random(process.pid)

            def work() -> None:
                si = chance.randbytes(16)
                name = b32encode(si)
                container = LARGE if chance.random() < 0.1 else SMALL
                put(talk, container, si, 0)
                assert talk.get(f"/shares/{name[:2]}/{name}/0") == container
                assert talk.listdir(f"/shares/{name[:2]}/{name}") == ["0"]

            return Worker(work, stop)

        workers = [worker(process) for process in processes]
        seen = []
        began = time.monotonic()
        for at in (15, 35, 55):  # looking takes some seconds, too
            stop.wait(max(began + at - time.monotonic(), 0))
            pids = [servers.processes[0].pid, *servers.below(0)]
            files = len(os.listdir(f"/proc/{pids[0]}/fd"))
            seen.append((memory(pids), len(pids), files))
        stop.set()
        for each in workers:
            each.join(30)
        assert [each.failure for each in workers if each.failure is not None] == []
        assert min(each.rounds for each in workers) > 0
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            process.wait(30)
    print("memory, processes, files of the listener:", seen, "rounds:", sum(each.rounds for each in workers))
    assert [found[1:] for found in seen] == [(129, seen[0][2])] * 3
    assert seen[2][0] < seen[0][0] * 1.1
    assert "Traceback" not in servers.log(0)
    assert "failed" not in servers.log(0)


@pytest.mark.slow
def test_killed_during_100_writes_every_visible_share_is_whole(start_listening: Callable[..., ListenServers]) -> None:
    servers = start_listening()
    shown = 0
    for _ in range(2):
        stop = threading.Event()
        with ExitStack() as stack:
            workers = []
            for _ in range(10):
                client = stack.enter_context(connect(servers))
                for _ in range(10):
                    transport = client.get_transport()
                    assert transport is not None
                    channel = transport.open_session(timeout=30)
                    channel.settimeout(30)
                    channel.invoke_subsystem("sftp")
                    talk = RawClient(channel)
                    workers.append(Worker(lambda talk=talk: put(talk, LARGE, os.urandom(16), 1), stop))  # type: ignore[misc]
            deadline = time.monotonic() + 20
            while sum(each.rounds for each in workers) < 30:
                assert time.monotonic() < deadline, [each.failure for each in workers if each.failure]
                stop.wait(0.05)
            servers.stop(0)  # kill -9, of all its processes
            stop.set()
            for each in workers:
                each.join(30)
        visible = list((servers.root(0) / "shares").glob("??/*/*"))
        assert len(visible) > shown
        shown = len(visible)
        assert all(path.read_bytes() in (LARGE, SMALL) for path in visible)
        servers.start(0)
        with connect(servers) as client:
            transport = client.get_transport()
            assert transport is not None
            channel = transport.open_session(timeout=30)
            channel.invoke_subsystem("sftp")
            put(RawClient(channel), SMALL, os.urandom(16), 0)
        shown += 1


@pytest.mark.slow
def test_more_than_a_gigabyte_over_one_connection(
    start_listening: Callable[..., ListenServers], tmp_path: Path
) -> None:
    """Both sides ask for new keys on the way: after half a gigabyte the server does."""
    servers = start_listening()
    big = tmp_path / "big"
    with big.open("wb") as file:
        for _ in range(600):
            file.write(os.urandom(1 << 20))
    staged = f"/staging/{'a' * 26}.0.{'b' * 26}"
    done = subprocess.run(
        ["sftp", "-q", "-F", str(servers.config), "-b", "-", "s0"],
        input=f"put {big} {staged}\nget {staged} {tmp_path}/copy\nrm {staged}\n",
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["cmp", big, tmp_path / "copy"], check=False).returncode == 0
    big.unlink()
    (tmp_path / "copy").unlink()


def test_a_client_that_sends_past_the_window_ends_its_own_connection(
    start_listening: Callable[..., ListenServers],
) -> None:
    """Its bytes are kept until the session takes them, which does not while its answers are not taken."""
    servers = start_listening()
    with connect(servers) as other, connect(servers) as greedy:
        transport = greedy.get_transport()
        assert transport is not None
        channel = transport.open_session(timeout=20)
        channel.invoke_subsystem("sftp")
        talk = RawClient(channel)
        assert talk.realpath(".") == b"/"
        ours = servers.below(0)
        question = struct.pack(">IBI", 5 + 4 + 1, 16, 1) + struct.pack(">I", 1) + b"."
        flood = question * (32000 // len(question))
        most = 0
        with suppress(OSError, EOFError, paramiko.SSHException):
            for _ in range(40000):  # more than a gigabyte
                channel.out_window_size = 1 << 30
                channel.sendall(flood)
                most = max(most, *(resident(pid) for pid in ours))
        servers.wait_for(0, "ended: it sends more than the window allows")
        assert most < 300 << 20
        files = other.open_sftp()
        assert files.normalize(".") == "/"


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def test_a_packet_that_is_too_long_is_not_read(start_listening: Callable[..., ListenServers]) -> None:
    servers = start_listening()
    with socket.create_connection(("127.0.0.1", servers.port(0)), timeout=20) as caller:
        caller.sendall(b"SSH-2.0-x\r\n" + struct.pack(">I", 0xFFFFFFF4) + bytes(100_000))
        with suppress(ConnectionError):
            while caller.recv(4096):
                pass
    servers.wait_for(0, "a packet of [0-9]+ bytes")
    with connect(servers) as client:
        assert client.open_sftp().normalize(".") == "/"
