"""Servers that go and come, over real sshd: drained and removed, burned and replaced, lafs killed on the way."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.grids import content
from tests.lafs_process import Lafs
from tests.sshd import SshServers


@pytest.fixture
def servers(start_servers: Callable[..., SshServers]) -> SshServers:
    return start_servers(11)


@pytest.fixture
def lafs(tmp_path: Path, servers: SshServers) -> Lafs:
    """A home that knows the first ten servers."""
    lafs = Lafs(tmp_path / "client")
    lafs("init", code=0)
    lines = "".join(f"server add {servers.name(i)} {servers.url(i)} {options(servers)}\n" for i in range(10))
    lafs("batch", input=lines.encode(), code=0)
    return lafs


def options(servers: SshServers) -> str:
    return f"--option ssh-config={servers.config} --option timeout=10s --option connect-timeout=5s"


def put(lafs: Lafs, *sizes: int) -> dict[str, bytes]:
    """Caps of files of these sizes, and what is in them."""
    stored: dict[str, bytes] = {}
    lines = []
    for number, size in enumerate(sizes):
        (lafs.folder / f"file{number}").write_bytes(content(size, number))
        lines.append(f"put file{number}\n")
    done = lafs("batch", input="".join(lines).encode(), code=0)
    for number, cap in enumerate(done.stdout.decode().split()):
        stored[cap] = content(sizes[number], number)
    return stored


def check_all(lafs: Lafs, stored: dict[str, bytes], happiness: int) -> None:
    for cap in stored:
        report = lafs.json("check", "--verify", cap)
        assert (report["good_shares"], report["happiness"], report["corrupt"]) == (10, happiness, [])


def get_all(lafs: Lafs, stored: dict[str, bytes]) -> None:
    for cap, data in stored.items():
        lafs("get", "@-", "copy", input=cap.encode(), code=0)
        assert (lafs.folder / "copy").read_bytes() == data


def shares(servers: SshServers, i: int) -> dict[str, Path]:
    """By storage index and number."""
    found = (servers.root(i) / "shares").glob("*/*/*")
    return {f"{path.parent.name}/{path.name}": path for path in found}


@pytest.mark.slow
def test_a_server_is_drained_removed_and_gone(lafs: Lafs, servers: SshServers) -> None:
    stored = put(lafs, 3_000_000, 500_000, *[2000 + i for i in range(8)])
    done = lafs.json("server", "drain", "s3")
    assert (done["shares"], done["copied"], done["failed"]) == (10, 10, [])
    lafs("server", "remove", "s3", code=0)
    servers.stop(3)
    some = dict(list(stored.items())[:3])
    check_all(lafs, some, 9)
    for i in (0, 1, 5, 6, 8, 9):
        servers.stop(i)
    get_all(lafs, some)


@pytest.mark.slow
def test_a_burned_host_is_replaced(lafs: Lafs, servers: SshServers) -> None:
    stored = put(lafs, 3_000_000, 20_000, 5000)
    before = {name: path.read_bytes()[:-72] for name, path in shares(servers, 3).items()}
    servers.stop(3)
    shutil.rmtree(servers.root(3))
    done = lafs.json("server", "replace", "s3", "fresh", servers.url(10), *options(servers).split())
    assert (done["removed"], done["failed"]) == (True, [])
    assert done["repair"] == {"objects": 3, "repaired": 3, "shares_written": 3}
    assert {name: path.read_bytes()[:-72] for name, path in shares(servers, 10).items()} == before
    names = [each["name"] for each in lafs.json("server", "list")["servers"]]
    assert sorted(names) == sorted(["fresh", *(f"s{i}" for i in range(10) if i != 3)])
    check_all(lafs, stored, 10)
    for i in (0, 1, 2, 4, 5, 6, 7):
        servers.stop(i)
    get_all(lafs, stored)


def killed_at(lafs: Lafs, moment: Callable[[], bool], number: signal.Signals = signal.SIGKILL) -> bool:
    """Start a drain and send it a signal at that moment; False when it had ended before."""
    run = lafs.start(
        "server", "drain", "s3", "--limit-rate", "2M", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 60
    while run.poll() is None and not moment():
        assert time.monotonic() < until, "it does not get there"
        time.sleep(0.002)
    ended = run.poll() is not None
    run.send_signal(number)
    code = run.wait(timeout=30)
    assert ended or code == (-number if number == signal.SIGKILL else 128 + number)
    return not ended


def staged(servers: SshServers) -> int:
    """Bytes in staging folders."""
    total = 0
    for i in range(10):
        for path in (servers.root(i) / "staging").iterdir():
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue
    return total


def copies(servers: SshServers, originals: dict[str, bytes]) -> int:
    """How many shares of s3 lie elsewhere too; each of them is whole."""
    found = 0
    for i in range(10):
        for name, path in shares(servers, i).items() if i != 3 else ():
            if name in originals:
                assert path.read_bytes()[:-72] == originals[name], f"s{i}: {name} is not whole"
                found += 1
    return found


def after_kill(servers: SshServers, originals: dict[str, bytes]) -> int:
    for i in range(10):
        assert list((servers.root(i) / "locks").iterdir()) == []
    return copies(servers, originals)


@pytest.mark.slow
def test_kill_9_of_drain(lafs: Lafs, servers: SshServers) -> None:
    """At the first byte, and while a large share is on its way: no partial share is visible, and the next run goes on.
    A signal that asks it to end removes what is staged."""
    stored = put(lafs, 3_000_000, 3_000_001, *[40_000 + i for i in range(10)])
    originals = {name: path.read_bytes()[:-72] for name, path in shares(servers, 3).items()}
    assert killed_at(lafs, lambda: staged(servers) > 200_000, signal.SIGTERM)
    assert staged(servers) == 0, "asked to end, it leaves nothing behind"
    assert killed_at(lafs, lambda: staged(servers) > 0)
    first = after_kill(servers, originals)
    old = staged(servers)
    assert killed_at(lafs, lambda: staged(servers) > old + 400_000)
    second = after_kill(servers, originals)
    assert first <= second < len(originals)
    done = lafs.json("server", "drain", "s3")
    assert done["copied"] + done["already_elsewhere"] == done["shares"] == len(originals) == 12
    assert done["already_elsewhere"] >= second
    assert after_kill(servers, originals) == 12
    lafs("server", "remove", "s3", code=0)
    check_all(lafs, dict(list(stored.items())[:2]), 9)


@pytest.mark.slow
def test_kill_9_of_drain_at_twenty_moments(lafs: Lafs, servers: SshServers) -> None:
    stored = put(lafs, *[1_000_000 + i for i in range(12)], *[9000 + i for i in range(60)])
    originals = {name: path.read_bytes()[:-72] for name, path in shares(servers, 3).items()}
    chosen = random.Random(20)
    known = 0
    for _ in range(20):
        stop = time.monotonic() + chosen.uniform(0.1, 1.6)
        killed_at(lafs, lambda stop=stop: time.monotonic() >= stop)  # type: ignore[misc]
        now = after_kill(servers, originals)
        assert now >= known
        known = now
    done = lafs.json("server", "drain", "s3")
    assert (done["shares"], done["failed"]) == (72, [])
    assert done["already_elsewhere"] >= known
    assert after_kill(servers, originals) == 72, "no share was copied twice"
    lafs("server", "remove", "s3", code=0)
    check_all(lafs, dict(list(stored.items())[::6]), 9)


@pytest.mark.slow
def test_kill_9_of_replace_at_several_moments(lafs: Lafs, servers: SshServers) -> None:
    """The host is gone; each run that is killed is gone on with by the next."""
    stored = put(lafs, *[700_000 + i for i in range(6)])
    servers.stop(3)
    shutil.rmtree(servers.root(3))
    command = ("server", "replace", "s3", "fresh", servers.url(10), *options(servers).split())
    chosen = random.Random(3)
    for _ in range(6):
        run = lafs.start(*command, "--limit-rate", "2M", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chosen.uniform(0.3, 3))
        run.kill()
        run.wait()
    names = [each["name"] for each in lafs.json("server", "list")["servers"]]
    if "s3" in names:
        assert lafs.json(*command)["removed"] is True
    check_all(lafs, stored, 10)
