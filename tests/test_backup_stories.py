"""Backups as processes: real sshd, servers that are gone, runs that are killed, two homes at once, very many files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.grids import content
from tests.lafs_process import Lafs
from tests.sshd import SshServers
from tests.trees import described, every_kind

pytestmark = pytest.mark.slow


def several(folder: Path, count: int, size: int = 3000) -> None:
    """So many files, in folders of ten."""
    for number in range(count):
        path = folder / f"d{number // 10}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(size + number, number))


def test_ten_sshd_of_which_seven_are_stopped(ssh_servers: SshServers, tmp_path: Path) -> None:
    """Every kind of entry, files of all sizes; shares of what is reused are deleted between two runs."""
    lafs = Lafs(tmp_path / "lafs")
    lafs("init", code=0)
    lafs.add_servers(ssh_servers)
    lafs("alias", "create", "b", code=0)
    tree = tmp_path / "tree"
    every_kind(tree)
    (tree / "huge").write_bytes(content(5_000_000, 5))
    (tree / "middle").write_bytes(content(2_500_000, 6))
    first = lafs.json("backup", tree, "b:")
    assert (first["errors"], first["servers_lacking"]) == ([], [])
    gone = 0
    for i in range(10):
        for path in (ssh_servers.root(i) / "shares").glob("*/*/*"):
            if path.stat().st_size > 700_000:
                path.unlink()
                path.parent.rmdir()
                gone += 1
    assert gone == 20
    again = lafs.json("backup", tree, "b:")
    assert (again["cap"], again["reuploaded_missing"]) == (first["cap"], 2)
    for i in range(7):
        ssh_servers.stop(i)
    done = lafs.json("restore", "--verify", "b:", tmp_path / "out")
    assert done["errors"] == []
    assert described(tmp_path / "out") == described(tree)
    (tree / "new").write_bytes(b"n" * 1000)
    lafs("backup", tree, "b:", code=4)
    assert len(lafs.json("snapshots", "b:")["snapshots"]) == 2


@pytest.mark.parametrize("how", ["stop", "pause"])
def test_a_server_that_fails_in_the_middle(ssh_servers: SshServers, tmp_path: Path, how: str) -> None:
    """Dead, or there and silent: the run goes on, is good, and names it."""
    lafs = Lafs(tmp_path / "lafs")
    lafs("init", code=0)
    lafs.add_servers(ssh_servers, "timeout=2s")
    lafs("alias", "create", "b", code=0)
    several(tmp_path / "tree", 600, 20_000)
    root = ssh_servers.root(4) / "shares"
    running = lafs.start("backup", tmp_path / "tree", "b:", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while sum(1 for _ in root.glob("*/*/*")) < 100:
        assert running.poll() is None
    getattr(ssh_servers, how)(4)
    out, errors = running.communicate(timeout=100)
    assert running.returncode == 0, errors
    report = json.loads(out)
    assert report["errors"] == []
    assert [each["server"] for each in report["servers_lacking"]] == ["s4"]
    assert b"server s4 has no share of" in errors
    restored = lafs.json("restore", "b:", tmp_path / "out")
    assert (restored["files"], restored["errors"]) == (600, [])
    assert described(tmp_path / "out") == described(tmp_path / "tree")


@pytest.fixture
def local(tmp_path: Path) -> Lafs:
    lafs = Lafs(tmp_path / "lafs")
    lafs("init", "--local", code=0)
    lafs("alias", "create", "b", code=0)
    return lafs


def shares(lafs: Lafs) -> int:
    return sum(1 for _ in (lafs.home / "grid").glob("*/shares/*/*/*"))


def test_killed_at_twenty_moments(local: Lafs, tmp_path: Path) -> None:
    """What is listed restores, whenever it was killed; the last run makes what all of them began whole."""
    tree = tmp_path / "tree"
    several(tree, 400)
    (tree / "large").write_bytes(content(6_000_000, 9))
    before = shares(local)
    total = 10 * (401 + 41)
    killed = 0
    for moment in range(20):
        running = local.start("backup", tree, "b:", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = before + total * (moment + 1) // 20
        deadline = time.monotonic() + 60
        while running.poll() is None and shares(local) < until and time.monotonic() < deadline:
            pass
        running.send_signal(signal.SIGKILL)
        killed += running.wait() == -signal.SIGKILL
        (tree / f"new{moment}").write_bytes(content(2000, 1000 + moment))
        total += 20
    assert killed >= 10
    final = local.json("backup", tree, "b:")
    assert final["errors"] == []
    for each in local.json("snapshots", "b:")["snapshots"]:
        out = tmp_path / each["name"]
        assert local.json("restore", f"b:Archives/{each['name']}", out)["errors"] == []
    assert described(out) == described(tree)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle(local: Lafs, tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Of a backup: no snapshot. Of a restore: nothing half under its name, no temporary file; both go on."""
    tree = tmp_path / "tree"
    several(tree, 300, 20_000)
    before = shares(local)
    running = local.start("backup", tree, "b:", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while shares(local) < before + 500:
        assert running.poll() is None
    running.send_signal(number)
    assert running.wait(10) == code
    listed = local("snapshots", "b:", "--json")
    assert json.loads(listed.stdout).get("snapshots", []) == []
    assert local.json("backup", tree, "b:")["errors"] == []
    out = tmp_path / "out"
    running = local.start("restore", "b:", out, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while sum(1 for _ in out.glob("*/f*")) < 20:
        assert running.poll() is None
    running.send_signal(number)
    assert running.wait(10) == code
    there = [path for path in out.rglob("*") if path.is_file()]
    assert 20 <= len(there) < 300
    for path in there:
        assert path.read_bytes() == (tree / path.relative_to(out)).read_bytes(), path
    done = local.json("restore", "b:", out)
    assert (done["errors"], done["files"] + done["present"]) == ([], 300)
    assert done["present"] >= len(there)
    assert described(out) == described(tree)


def test_two_homes_at_once(local: Lafs, tmp_path: Path) -> None:
    """Of two that back up to one target all snapshots are there, and the latest is one of the last."""
    other = Lafs(tmp_path / "other")
    other("init", code=0)
    (tmp_path / "grid").write_bytes(local("grid", "export", "-", code=0).stdout)
    other("grid", "import", tmp_path / "grid", code=0)
    (tmp_path / "cap").write_bytes(local("mkdir", "b:both", code=0).stdout)
    trees = tmp_path / "one", tmp_path / "two"
    for number, tree in enumerate(trees):
        several(tree, 30, 1000 + 5000 * number)
    for _ in range(3):
        runs = [
            lafs.start("backup", tree, f"@{tmp_path / 'cap'}", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for lafs, tree in zip((local, other), trees, strict=True)
        ]
        reports = []
        for run in runs:
            out, errors = run.communicate(timeout=60)
            assert run.returncode == 0, errors
            reports.append(json.loads(out))
        listed = {each["name"]: each["cap"] for each in local.json("snapshots", "b:both")["snapshots"]}
        for report in reports:
            assert listed[report["snapshot"].rpartition("/")[2]] == report["cap"]
        newest = listed[max(listed)]
        latest = local.json("ls", "b:both", "--uri")["entries"]
        [cap] = [each["ro_uri"] for each in latest if each["name"] == "Latest"]
        assert cap == newest
    assert len(listed) == 6


_MANY = """
import os, resource, sys
from pathlib import Path
from tests.keeper import Keeper
keeper = Keeper(Path(sys.argv[1]))
keeper.source = Path(sys.argv[2])
_, tally = keeper.backup()
assert tally.files_new + tally.files_unmodified == int(sys.argv[3]), tally.files_new
keeper.database.close()
print(tally.bytes_read, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
os._exit(0)
"""


def _peak(tmp_path: Path, count: int, *, again: bool) -> int:
    """MiB of a backup of so many files, in folders of 200, one in ten too long to be in its cap; of the second run."""
    source = tmp_path / f"source{count}"
    for number in range(count):
        if number % 200 == 0:
            folder = source / f"d{number // 4000}" / f"d{number // 200}"
            folder.mkdir(parents=True)
        (folder / f"file {number}").write_bytes(b"%d" % number * (15 if number % 10 == 0 else 1))
    peak = 0
    for run in range(2 if again else 1):
        done = subprocess.run(
            [sys.executable, "-c", _MANY, str(tmp_path / f"keeper{count}"), str(source), str(count)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        assert done.returncode == 0, done.stderr
        read, peak = map(int, done.stdout.split())
        assert (read == 0) == (run == 1)
        print(f"{count} files, run {run + 1}: {peak} MiB")
    return peak


@pytest.mark.parametrize("again", [False, True], ids=["first", "second"])
def test_memory_does_not_grow_with_the_tree(tmp_path: Path, again: bool) -> None:
    """What 48,000 files take beyond 24,000 leaves 200,000 below 300 MiB; the caches are full by then."""
    few, many = (_peak(tmp_path, count, again=again) for count in (24_000, 48_000))
    assert many + (many - few) / 24_000 * 152_000 < 300
