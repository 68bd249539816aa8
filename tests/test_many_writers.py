"""Many processes change one directory at once, over ten real sshd, and some of them are killed meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lafs_process import Lafs
from tests.sshd import SshServers

PROCESSES = 8
CHILDREN = 25
KILLED = {1: 3, 4: 9, 6: 17}
"""Which of the processes are killed, after how many children."""


def adding(lafs: Lafs, number: int) -> subprocess.Popen[bytes]:
    """A process that adds its children, one after the other; a line for each."""
    commands = "".join(f"mkdir docs:{number}.{child}\n" for child in range(CHILDREN)).encode()
    path = lafs.folder / f"commands{number}"
    path.write_bytes(commands)
    errors = (lafs.folder / f"errors{number}").open("wb")
    with path.open("rb") as given, errors:
        return lafs.start("batch", "--json", stdin=given, stdout=subprocess.PIPE, stderr=errors)


@pytest.fixture
def servers(start_servers: Callable[..., SshServers]) -> SshServers:
    return start_servers(10)


@pytest.fixture
def lafs(short_tmp: Path, servers: SshServers) -> Lafs:
    lafs = Lafs(short_tmp)
    lafs("init", code=0)
    lafs.add_servers(servers)
    lafs("alias", "create", "docs", code=0)
    return lafs


def finished(lafs: Lafs, number: int, process: subprocess.Popen[bytes], children: int) -> None:
    """It has ended well, with so many lines more."""
    lines, _ = process.communicate(timeout=500)
    assert process.returncode == 0, (lafs.folder / f"errors{number}").read_text()
    assert len(lines.splitlines()) == children


def all_are_there(lafs: Lafs) -> None:
    listed = lafs("ls", "docs:", code=0).stdout.decode().split()
    assert sorted(listed) == sorted(f"{number}.{child}" for number in range(PROCESSES) for child in range(CHILDREN))


def no_guard_is_left(servers: SshServers) -> None:
    left = [path.name for i in range(servers.count) for path in (servers.root(i) / "locks").iterdir()]
    # one that was being made when its process was killed is none yet; the sweep takes it
    assert [name for name in left if not name.startswith(".") or name.startswith(".broken")] == []


@pytest.mark.slow
def test_eight_processes_of_which_three_are_killed(lafs: Lafs, servers: SshServers) -> None:
    """Killed and started again: all 200 children are there, every exit is 0, no guard is left."""
    running = {number: adding(lafs, number) for number in range(PROCESSES)}
    for number, children in KILLED.items():
        lines = running[number].stdout
        assert lines is not None
        for _ in range(children):
            assert lines.readline()
        running[number].kill()
        running[number].communicate()
        running[number] = adding(lafs, number)
    for number, process in running.items():
        finished(lafs, number, process, CHILDREN)
    lafs("check", "--verify", "docs:", code=0)
    all_are_there(lafs)
    no_guard_is_left(servers)


@pytest.mark.slow
def test_eight_processes_while_three_servers_are_killed(lafs: Lafs, servers: SshServers) -> None:
    """All three at once, in the middle of it, and started again later: what is left of ten is just enough."""
    running = {number: adding(lafs, number) for number in range(PROCESSES)}
    lines = running[0].stdout
    assert lines is not None
    for _ in range(2):
        assert lines.readline()
    for index in (1, 4, 8):
        servers.stop(index)
    for _ in range(4):
        assert lines.readline()
    for index in (1, 4, 8):
        servers.start(index)
    for number, process in running.items():
        finished(lafs, number, process, CHILDREN - (6 if number == 0 else 0))
    all_are_there(lafs)
    # who had a guard on a server that was killed, and ended before it was back, leaves that to the next writer
    lafs("repair", "docs:", code=0)
    no_guard_is_left(servers)
    lafs("check", "--verify", "docs:", code=0)
