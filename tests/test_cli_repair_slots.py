"""Directories and mutable files over ten sshd: lost disks, rollbacks, writers at the same time, kill -9 (CLI.md §5)."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lafs_process import Lafs
from tests.sshd import SshServers

OBJECTS = 7
"""Those of the tree that have shares."""


@pytest.fixture
def lafs(tmp_path: Path, ssh_servers: SshServers) -> Lafs:
    """A home with home:d/{a,big,note,sub/{c}}: `big` is MDMF, `note` SDMF."""
    made = Lafs(tmp_path / "client")
    made("init", code=0)
    made.add_servers(ssh_servers, "timeout=5s")
    plant(made)
    return made


def plant(lafs: Lafs) -> None:
    for name, size in (("a", 3000), ("big", 700_000), ("c", 500), ("note", 700)):
        (lafs.folder / name).write_bytes(os.urandom(size))
    lines = [
        "alias create home",
        "put a home:d/a",
        "put big home:d/big --format mdmf",
        "put note home:d/note --format sdmf",
        "put c home:d/sub/c",
    ]
    lafs("batch", input="\n".join(lines).encode(), code=0)


def summary(lafs: Lafs, *arguments: str, code: int = 0) -> dict[str, Any]:
    found = json.loads(lafs(*arguments, "--json", code=code).stdout.decode().splitlines()[-1])["summary"]
    assert isinstance(found, dict)
    return found


def shares(servers: SshServers) -> dict[str, bytes]:
    """What lies on the servers, mutable shares without their containers, by storage index and number."""
    found: dict[str, bytes] = {}
    for i in range(servers.count):
        for path in (servers.root(i) / "shares").glob("*/*/*"):
            data = path.read_bytes()
            length = int.from_bytes(data[84:92], "big")
            share = data[468 : 468 + length] if data.startswith(b"Tahoe") else data[:-72]
            found[f"{path.parent.name}/{path.name}"] = share
    return found


def empty(servers: SshServers, i: int) -> None:
    shutil.rmtree(servers.root(i) / "shares")
    (servers.root(i) / "shares").mkdir()


def guards(servers: SshServers) -> list[Path]:
    return [path for i in range(servers.count) for path in (servers.root(i) / "locks").iterdir()]


@pytest.mark.slow
def test_the_story_of_three_lost_disks(lafs: Lafs, ssh_servers: SshServers) -> None:
    """All comes back to the byte, at the same versions; what is away meanwhile is not made up for."""
    before = shares(ssh_servers)
    for i in (1, 4, 7):
        empty(ssh_servers, i)
    ssh_servers.stop(9)
    assert summary(lafs, "check", "-r", "home:", code=6)["unknown"] == OBJECTS
    assert summary(lafs, "repair", "-r", "home:", code=6)["repaired"] == 0
    ssh_servers.start(9)
    assert summary(lafs, "check", "-r", "home:", code=10)["degraded"] == OBJECTS
    found = summary(lafs, "repair", "-r", "home:")
    assert (found["healthy"], found["repaired"]) == (OBJECTS, OBJECTS)
    assert shares(ssh_servers) == before
    assert guards(ssh_servers) == []
    assert summary(lafs, "check", "-r", "--verify", "home:")["healthy"] == OBJECTS


@pytest.mark.slow
def test_the_story_of_a_server_that_was_rolled_back(lafs: Lafs, ssh_servers: SshServers) -> None:
    """It was restored from a backup: its shares are of earlier versions, reads are right, and repair brings it up."""
    root = ssh_servers.root(2)
    shutil.copytree(root / "shares", root.parent / "backup")
    (lafs.folder / "note").write_bytes(b"a newer note" * 20)
    lafs("put", "note", "home:d/note", code=0)
    lafs("put", "c", "home:d/later", code=0)
    shutil.rmtree(root / "shares")
    (root.parent / "backup").rename(root / "shares")
    assert lafs("get", "home:d/note", "-", code=0).stdout == b"a newer note" * 20
    report = lafs.json("check", "home:d/note", code=10)
    assert report["versions"] == {"recoverable": 1, "unrecoverable": 1}
    cap = lafs("cap", "verify", "home:d/note", code=0).stdout.decode().strip()
    report = lafs.json("repair", cap)
    assert (report["healthy"], report["repair"]["shares_written"], report["seqnum"]) == (True, 1, 2)
    assert summary(lafs, "repair", "-r", "home:")["healthy"] == OBJECTS
    assert b"later" in lafs("ls", "home:d", code=0).stdout
    assert guards(ssh_servers) == []


@pytest.mark.slow
def test_writers_and_repairs_at_once(lafs: Lafs, ssh_servers: SshServers) -> None:
    """Four processes add children, others repair what is taken away meanwhile: every child is there, all exit 0."""
    writers = [
        lafs.start("batch", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)
    ]
    for number, writer in enumerate(writers):
        assert writer.stdin is not None
        lines = "".join(f"ln home:d/a home:d/{number}-{i}\n" for i in range(5))
        writer.stdin.write(lines.encode())
        writer.stdin.close()
    dice = random.Random(4)
    while any(writer.poll() is None for writer in writers):
        i = dice.randrange(10)
        for path in (ssh_servers.root(i) / "shares").glob("*/*/*"):
            path.unlink(missing_ok=True)
        done = lafs("repair", "-r", "home:")
        assert done.returncode in (0, 6, 10, 11), done.stderr  # one who writes meanwhile keeps it from being complete
    for writer in writers:
        assert writer.stderr is not None
        assert writer.wait() == 0, writer.stderr.read()
    names = set(lafs("ls", "home:d", code=0).stdout.decode().split())
    assert names >= {f"{number}-{i}" for number in range(4) for i in range(5)}
    assert summary(lafs, "repair", "-r", "home:")["healthy"] == OBJECTS
    assert guards(ssh_servers) == []


@pytest.mark.slow
def test_a_repair_that_is_killed_at_any_moment(lafs: Lafs, ssh_servers: SshServers) -> None:
    """Nothing is lost, no guard stays in the way, and the next one completes it."""
    before = shares(ssh_servers)
    dice = random.Random(7)
    for _ in range(12):
        for i in (0, 5):
            empty(ssh_servers, i)
        running = lafs.start("repair", "-r", "home:", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            running.wait(timeout=0.4 + 1.4 * dice.random())
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.wait()
        assert summary(lafs, "repair", "-r", "home:")["healthy"] == OBJECTS
        assert shares(ssh_servers) == before
    assert lafs("get", "home:d/big", "-", code=0).stdout == (lafs.folder / "big").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("denied", ["posix-rename", "posix-rename,hardlink,fsync,limits"])
def test_on_servers_without_extensions(tmp_path: Path, start_servers: Callable[..., SshServers], denied: str) -> None:
    """Old shares are moved aside before new ones come; corrupt ones go to quarantine/."""
    servers = start_servers(4, denied=denied)
    lafs = Lafs(tmp_path / "client")
    lafs("init", "--encoding", "1/3/4", code=0)
    lafs.add_servers(servers)
    plant(lafs)
    before = shares(servers)
    si = lafs.json("cap", "show", "home:d/note")["storage_index"]
    old, bad, gone = (next((servers.root(i) / "shares").glob(f"*/{si}/*")) for i in range(3))
    kept = old.read_bytes()
    lafs("put", "note", "home:d/note", code=0)
    now = shares(servers)
    old.write_bytes(kept)
    bad.write_bytes(bad.read_bytes()[:700])
    gone.unlink()
    report = lafs.json("repair", "home:d/note", code=0)
    assert report["repair"] == {"attempted": True, "successful": True, "shares_written": 3}
    assert shares(servers) == now
    assert before.keys() == now.keys()
    assert len(list((servers.root(1) / "quarantine").iterdir())) == 1
    assert guards(servers) == []
