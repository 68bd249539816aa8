"""Trouble half-way, with real processes and real sshd: servers killed, stopped, restarted; lafs itself killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lafs_process import Lafs
from tests.sshd import SshServers

SIZE = 3_000_000


def content(size: int = SIZE, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def servers(start_servers: Callable[..., SshServers]) -> SshServers:
    return start_servers(10)


@pytest.fixture
def lafs(tmp_path: Path, servers: SshServers) -> Lafs:
    lafs = Lafs(tmp_path / "client")
    lafs("init", code=0)
    lafs.add_servers(servers, "timeout=4s")
    return lafs


def stored(servers: SshServers) -> list[Path]:
    return [path for i in range(10) for path in (servers.root(i) / "shares").glob("*/*/*")]


def staged(servers: SshServers) -> list[Path]:
    return [path for i in range(10) for path in (servers.root(i) / "staging").iterdir()]


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def under_way(servers: SshServers, at_least: int = 200_000) -> Callable[[], bool]:
    return lambda: sum(path.stat().st_size for path in staged(servers) if path.exists()) > at_least


def slow_put(lafs: Lafs, servers: SshServers, *options: str, size: int = SIZE) -> subprocess.Popen[bytes]:
    """A put that takes about five seconds, caught when it has sent something."""
    (lafs.folder / "file").write_bytes(content(size))
    put = lafs.start("put", "file", "--limit-rate", "2M", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(under_way(servers))
    return put


def end(process: subprocess.Popen[bytes], code: int) -> tuple[str, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err.decode()
    return out.decode().strip(), err.decode()


@contextmanager
def frozen(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A command stands still meanwhile: what befalls its servers befalls them half-way, however slow the machine."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def get(lafs: Lafs, cap: str) -> bytes:
    lafs("get", "@-", "copy", input=cap.encode(), code=0)
    return (lafs.folder / "copy").read_bytes()


@pytest.mark.slow  # test_upload has servers that fail on the way of a put
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_three_servers_fail_during_put(lafs: Lafs, servers: SshServers, how: str) -> None:
    put = slow_put(lafs, servers)
    with frozen(put):
        for i in (0, 4, 8):
            servers.stop(i) if how == "kill" else servers.pause(i)
    cap, _ = end(put, 0)
    assert get(lafs, cap) == content()
    assert len({path.name for path in stored(servers)}) >= 7


@pytest.mark.slow
def test_four_servers_fail_during_put(lafs: Lafs, servers: SshServers) -> None:
    put = slow_put(lafs, servers)
    with frozen(put):
        for i in (0, 4, 6, 8):
            servers.stop(i)
    out, err = end(put, 4)
    assert out == ""
    assert "6 of 10 servers answered, 7 are needed to store safely" in err
    assert stored(servers) == []
    alive = [path for path in staged(servers) if int(path.parent.parent.name[4:]) not in (0, 4, 6, 8)]
    assert alive == []


@pytest.mark.slow  # test_download has servers that fail in the middle of a get
@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_seven_servers_fail_during_get(lafs: Lafs, servers: SshServers, how: str) -> None:
    (lafs.folder / "file").write_bytes(content())
    cap = lafs("put", "file", code=0).stdout.decode().strip()
    process = lafs.start("get", cap, "copy", "--limit-rate", "1M", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: any(part.stat().st_size > 0 for part in lafs.folder.glob(".lafs-*") if part.exists()))
    with frozen(process):
        for i in range(7):
            servers.stop(i) if how == "kill" else servers.pause(i)
    end(process, 0)
    assert (lafs.folder / "copy").read_bytes() == content()


@pytest.mark.slow
def test_eight_servers_fail_during_get(lafs: Lafs, servers: SshServers) -> None:
    (lafs.folder / "file").write_bytes(content())
    cap = lafs("put", "file", code=0).stdout.decode().strip()
    process = lafs.start("get", cap, "-", "--limit-rate", "1M", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.read(65536)
    with frozen(process):
        for i in range(8):
            servers.stop(i)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 6, err.decode()
    assert content().startswith(first + rest), "what comes out of a pipe is proven, and stops at the last proven byte"
    assert len(first + rest) < SIZE


@pytest.mark.slow
def test_a_server_restarted_during_put(lafs: Lafs, servers: SshServers) -> None:
    put = slow_put(lafs, servers)
    with frozen(put):
        servers.stop(5)
        servers.start(5)
    cap, _ = end(put, 0)
    assert get(lafs, cap) == content()
    assert lafs.json("put", "file")["happiness"] == 10


@pytest.mark.slow
def test_a_server_that_accepts_and_hangs(lafs: Lafs, servers: SshServers) -> None:
    """put and get end within twice the time-out (4 s here), and a bit for the machine."""
    (lafs.folder / "file").write_bytes(content())
    servers.pause(2)
    began = time.monotonic()
    cap = lafs("put", "file", "--timeout", "4s", code=0).stdout.decode().strip()
    took = time.monotonic() - began
    assert get(lafs, cap) == content()
    assert took < 30  # connect-timeout (15 s) bounds the connection, the time-out what comes after


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_put_and_the_next_goes_on(lafs: Lafs, servers: SshServers, number: signal.Signals) -> None:
    put = slow_put(lafs, servers)
    began = time.monotonic()
    put.send_signal(number)
    out, _ = end(put, 128 + number)
    assert time.monotonic() - began < 10
    assert out == ""
    assert stored(servers) == []
    cap = lafs("put", "file", code=0).stdout.decode().strip()
    assert get(lafs, cap) == content()
    assert staged(servers) == []


@pytest.mark.slow
def test_a_signal_removes_what_can_t_be_gone_on_with(lafs: Lafs, servers: SshServers) -> None:
    put = slow_put(lafs, servers, "--no-convergence", size=2 * SIZE)
    put.send_signal(signal.SIGTERM)
    end(put, 143)
    wait_for(lambda: staged(servers) == [], 10)
    assert stored(servers) == []


@pytest.mark.slow
def test_kill_9_of_put(lafs: Lafs, servers: SshServers) -> None:
    """No partial share is visible, and the next run completes."""
    put = slow_put(lafs, servers)
    put.kill()
    put.wait()
    assert stored(servers) == []
    done = lafs.json("put", "file")
    assert done["happiness"] == 10
    assert get(lafs, done["cap"]) == content()
    assert staged(servers) == []


@pytest.mark.slow
def test_an_encrypted_pipe_is_streamed(lafs: Lafs, servers: SshServers) -> None:
    """`producer | lafs put -`: nothing is kept on this machine's disk, and the producer's speed rules."""
    data = content(3_500_000)
    put = lafs.start("put", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert put.stdin is not None
    stdin = put.stdin

    def feed() -> None:
        for start in range(0, len(data), 100_001):
            stdin.write(data[start : start + 100_001])
        stdin.close()

    thread = threading.Thread(target=feed)
    thread.start()
    thread.join()
    put.stdin = None
    cap, _ = end(put, 0)
    assert get(lafs, cap) == data


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(lafs: Lafs, servers: SshServers) -> None:
    """put and get of 1 GB each under 150 MB of memory."""
    size = 1_000_000_000
    block = os.urandom(1_000_003)
    with (lafs.folder / "file").open("wb") as file:
        for _ in range(size // len(block) + 1):
            file.write(block)
        file.truncate(size)
    cap, peak = peak_memory(lafs, "put", "file")
    assert peak < 150_000, f"put: {peak} KiB"
    _, peak = peak_memory(lafs, "get", cap, "copy")
    assert peak < 150_000, f"get: {peak} KiB"
    assert subprocess.run(["cmp", lafs.folder / "file", lafs.folder / "copy"], check=False).returncode == 0


def peak_memory(lafs: Lafs, *arguments: str) -> tuple[str, int]:
    """Answer of a command, and the most memory it had, in KiB."""
    program = "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); " + (
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"
    )
    done = subprocess.run(
        [lafs.program[0], "-c", program, *lafs.program, *arguments],
        env=lafs.environment(),
        cwd=lafs.folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    *answer, peak = done.stdout.split()
    unit = 1 if os.uname().sysname == "Linux" else 1024
    return " ".join(answer), int(peak) // unit
