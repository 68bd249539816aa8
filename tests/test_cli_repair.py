"""repair and check --repair as processes: what they print, what they exit with, and the stories over ten sshd."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.grids import content
from tests.lafs_process import Lafs
from tests.sshd import SshServers

SIZE = 200_000


class Stored:
    """A home with ten servers that are folders."""

    def __init__(self, folder: Path) -> None:
        self.lafs = Lafs(folder)
        self.lafs("init", "--local", code=0)

    def put(self, seed: int, size: int = SIZE) -> Any:
        """Store a file; its verify cap is then in the file `seed`.cap."""
        source = self.lafs.folder / "source"
        source.write_bytes(content(size, seed))
        put = self.lafs.json("put", source)
        (self.lafs.folder / f"{seed}.cap").write_text(put["verify_cap"] + "\n")
        return put

    def share(self, put: Any, shnum: int) -> Path:
        [name] = put["placement"][str(shnum)]
        si = put["storage_index"]
        return self.lafs.home / "grid" / str(name) / "shares" / si[:2] / si / str(shnum)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path / "client")


def test_missing_and_corrupt_shares(stored: Stored) -> None:
    put = stored.put(1)
    before = [stored.share(put, shnum).read_bytes()[:-72] for shnum in range(10)]
    stored.share(put, 3).unlink()
    damaged = stored.share(put, 7)
    damaged.write_bytes(damaged.read_bytes()[:1000] + b"x" + damaged.read_bytes()[1001:])
    found = stored.lafs.json("check", "--verify", "@1.cap", code=10)
    assert (found["good_shares"], [bad["share"] for bad in found["corrupt"]], "repair" in found) == (8, [7], False)
    left = stored.lafs.json("repair", "@1.cap", code=0)
    assert left["repair"] == {"attempted": True, "successful": True, "shares_written": 2}
    assert (left["healthy"], left["good_shares"], left["happiness"], left["spare"]) == (True, 10, 10, 7)
    assert (left["corrupt"], left["bytes_not_proved"]) == ([], 0)
    assert [stored.share(put, shnum).read_bytes()[:-72] for shnum in range(10)] == before
    [kept] = (stored.lafs.home / "grid").glob("*/quarantine/*")
    assert kept.parents[1].name == put["placement"]["7"][0]
    again = stored.lafs.json("check", "--verify", "--repair", "--force", "@1.cap")
    assert "repair" not in again


def test_in_words(stored: Stored) -> None:
    put = stored.put(1)
    for shnum in range(3):
        stored.share(put, shnum).unlink()
    said = stored.lafs("check", "--repair", "@1.cap", code=0).stdout.decode()
    assert said.startswith(
        "healthy: 10 of 10 shares on 10 servers; repaired: 3 shares stored; any 7 servers may be lost"
    )
    for shnum in range(8):
        stored.share(put, shnum).unlink()
    said = stored.lafs("repair", "@1.cap", code=5).stdout.decode()
    assert said.startswith(
        "lost: 2 of 10 shares on 2 servers, 3 are needed; not repaired: there are too few good shares"
    )


def test_several(stored: Stored) -> None:
    puts = [stored.put(seed) for seed in range(4)]
    for put, lost in zip(puts, (2, 0, 9, 5), strict=True):
        for shnum in range(lost):
            stored.share(put, shnum).unlink()
    targets = [f"@{seed}.cap" for seed in range(4)]
    done = stored.lafs("check", "--repair", "--json", *targets, "URI:LIT:krugkidfnzsc4", code=5)
    *lines, last = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [line["path"] for line in lines] == ["@1.cap", "@2.cap", "lit", "@3.cap", "@0.cap"]
    assert [line.get("repair", {}).get("shares_written") for line in lines] == [None, 0, None, 5, 2]
    assert last["summary"] == {
        "objects": 5,
        "healthy": 4,
        "degraded": 0,
        "unrecoverable": 1,
        "unknown": 0,
        "repaired": 2,
        "corrupt_shares": 0,
    }
    assert "4 healthy, 1 lost" in stored.lafs("repair", *targets, "URI:LIT:krugkidfnzsc4", code=5).stdout.decode()


def test_a_literal_cap_needs_no_repair(tmp_path: Path) -> None:
    assert Lafs(tmp_path).json("repair", "URI:LIT:krugkidfnzsc4")["healthy"]


def test_a_lost_server_is_not_asked(stored: Stored) -> None:
    put = stored.put(1)
    [name] = put["placement"]["4"]
    (stored.lafs.home / "grid" / name).rename(stored.lafs.folder / "elsewhere")
    left = stored.lafs.json("repair", "@1.cap", code=6)
    assert (left["repair"]["attempted"], left["repair"]["successful"]) == (False, False)
    assert "did not answer" in left["repair"]["reason"]
    left = stored.lafs.json("repair", "--assume-lost", name, "@1.cap", code=0)
    assert (left["repair"]["shares_written"], left["happiness"]) == (1, 9)
    assert stored.lafs("repair", "--assume-lost", "nobody", "@1.cap", code=3).stdout == b""


# ---- over ssh


@pytest.fixture
def lafs(tmp_path: Path, ssh_servers: SshServers) -> Lafs:
    lafs = Lafs(tmp_path / "client")
    lafs("init", code=0)
    lafs.add_servers(ssh_servers, "timeout=5s")
    return lafs


def store(lafs: Lafs, size: int) -> Any:
    (lafs.folder / "file").write_bytes(content(size))
    put = lafs.json("put", "file")
    (lafs.folder / "cap").write_text(put["verify_cap"] + "\n")
    return put


def visible(servers: SshServers) -> dict[int, list[bytes]]:
    """Containers up to their leases by share number."""
    found: dict[int, list[bytes]] = {}
    for i in range(10):
        for path in (servers.root(i) / "shares").glob("*/*/*"):
            found.setdefault(int(path.name), []).append(path.read_bytes()[:-72])
    return found


def empty(servers: SshServers, i: int) -> None:
    shutil.rmtree(servers.root(i) / "shares")
    (servers.root(i) / "shares").mkdir()


@pytest.mark.slow
def test_the_story_of_seven_stopped_and_three_emptied(lafs: Lafs, ssh_servers: SshServers) -> None:
    store(lafs, 3_000_000)
    before = visible(ssh_servers)
    for i in range(7):
        ssh_servers.stop(i)
    lafs("check", "@cap", code=6)
    for i in range(3):
        empty(ssh_servers, i)
    for i in range(7):
        ssh_servers.start(i)
    lafs("check", "@cap", code=10)
    left = lafs.json("repair", "@cap")
    assert left["repair"] == {"attempted": True, "successful": True, "shares_written": 3}
    lafs("check", "@cap", code=0)
    lafs("check", "--verify", "@cap", code=0)
    assert visible(ssh_servers) == before


@pytest.mark.slow
def test_the_story_of_three_assumed_lost(lafs: Lafs, ssh_servers: SshServers) -> None:
    store(lafs, 300_000)
    for i in range(3):
        ssh_servers.stop(i)
    lost = ("--assume-lost", "s0", "--assume-lost", "s1", "--assume-lost", "s2")
    left = lafs.json("repair", *lost, "@cap")
    assert (left["healthy"], left["repair"]["shares_written"]) == (True, 3)
    assert sorted(left["shares"], key=int) == [str(shnum) for shnum in range(10)]
    assert {name for names in left["shares"].values() for name in names} == {f"s{i}" for i in range(3, 10)}
    lafs("check", *lost, "@cap", code=0)
    lafs("check", "@cap", code=0)  # all shares are seen, though three servers are silent


def slow_repair(lafs: Lafs, ssh_servers: SshServers) -> subprocess.Popen[bytes]:
    """A repair of three shares that takes seconds, caught when it has sent something."""
    for i in range(3):
        empty(ssh_servers, i)
    process = lafs.start(
        *("check", "--repair", "--limit-rate", "2M", "@cap"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 30
    while sum(path.stat().st_size for path in staged(ssh_servers) if path.exists()) < 300_000:
        assert time.monotonic() < until, "nothing was staged"
        time.sleep(0.01)
    return process


def staged(servers: SshServers) -> list[Path]:
    return [path for i in range(10) for path in (servers.root(i) / "staging").iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_repair_that_is_ended(lafs: Lafs, ssh_servers: SshServers, number: int) -> None:
    store(lafs, 6_000_000)
    before = visible(ssh_servers)
    process = slow_repair(lafs, ssh_servers)
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    assert time.monotonic() - began < 2.5
    assert visible(ssh_servers) == {shnum: data for shnum, data in before.items() if shnum in visible(ssh_servers)}
    if number == signal.SIGINT:
        assert staged(ssh_servers) == []
    lafs("repair", "@cap", code=0)
    assert visible(ssh_servers) == before


@pytest.mark.slow
def test_a_server_that_stops_half_way(lafs: Lafs, ssh_servers: SshServers) -> None:
    store(lafs, 6_000_000)
    process = slow_repair(lafs, ssh_servers)
    ssh_servers.stop(1)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err.decode()  # its share went to another server
    assert b"repaired: 3 shares stored" in out
    assert sorted(visible(ssh_servers)) == list(range(10))


@pytest.mark.slow
def test_killed_at_twenty_moments(lafs: Lafs, ssh_servers: SshServers) -> None:
    store(lafs, 3_000_000)
    before = visible(ssh_servers)
    chance = random.Random(3)
    began = time.monotonic()
    lafs("check", "--verify", "@cap", code=0)
    usual = time.monotonic() - began
    for _ in range(20):
        empty(ssh_servers, 0)
        bad = next(path for i in range(1, 10) for path in (ssh_servers.root(i) / "shares").glob("*/*/*"))
        bad.write_bytes(bad.read_bytes()[:-100])
        process = lafs.start("repair", "@cap", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.2, 2 * usual))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for shnum, copies in visible(ssh_servers).items():
            assert all(copy in (before[shnum][0], before[shnum][0][:-100]) for copy in copies)
        lafs("repair", "@cap", code=0)
        assert {shnum: copies[:1] for shnum, copies in visible(ssh_servers).items()} == before


@pytest.mark.slow
def test_on_servers_without_extensions(tmp_path: Path, start_servers: Callable[..., SshServers]) -> None:
    """No posix-rename, no hard links, no fsync: a corrupt share is moved aside before the new one is renamed."""
    servers = start_servers(3, denied="posix-rename,hardlink,fsync,limits")
    lafs = Lafs(tmp_path / "client")
    lafs("init", "--encoding", "1/3/3", code=0)
    for i in range(3):
        lafs("server", "add", servers.name(i), servers.url(i), "--option", f"ssh-config={servers.config}", code=0)
    store(lafs, 100_000)
    [good], [bad], [gone] = [list((servers.root(i) / "shares").glob("*/*/*")) for i in range(3)]
    before = [path.read_bytes()[:-72] for path in (good, bad, gone)]
    bad.write_bytes(bad.read_bytes()[:50_000])
    gone.unlink()
    assert lafs.json("repair", "@cap")["repair"] == {"attempted": True, "successful": True, "shares_written": 2}
    assert [path.read_bytes()[:-72] for path in (good, bad, gone)] == before
    [kept] = (servers.root(1) / "quarantine").iterdir()
    assert kept.stat().st_size == 50_000
    assert [list((servers.root(i) / "locks").iterdir()) for i in range(3)] == [[], [], []]
