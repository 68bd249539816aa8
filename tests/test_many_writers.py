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


@pytest.mark.slow
def test_eight_processes_add_twenty_five_children_each(
    short_tmp: Path, start_servers: Callable[..., SshServers]
) -> None:
    """Three are killed and started again: all 200 children are there, every exit is 0, no guard is left."""
    servers = start_servers(10)
    lafs = Lafs(short_tmp)
    lafs("init", code=0)
    lafs.add_servers(servers)
    lafs("alias", "create", "docs", code=0)
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
        lines_left, _ = process.communicate(timeout=500)
        assert process.returncode == 0, (lafs.folder / f"errors{number}").read_text()
        assert len(lines_left.splitlines()) == CHILDREN
    listed = lafs("ls", "docs:", code=0).stdout.decode().split()
    assert sorted(listed) == sorted(f"{number}.{child}" for number in range(PROCESSES) for child in range(CHILDREN))
    lafs("check", "--verify", "docs:", code=0)
    left = [path.name for i in range(servers.count) for path in (servers.root(i) / "locks").iterdir()]
    # one that was being made when its process was killed is none yet; the sweep takes it
    assert [name for name in left if not name.startswith(".") or name.startswith(".broken")] == []
