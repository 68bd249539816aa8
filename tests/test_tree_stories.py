"""Trees as stories: on ten real sshd, some of which fail; and one of 2,000 directories and 20,000 entries."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lafs_process import Lafs
from tests.sshd import SshServers


def _tree(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture
def lafs(short_tmp: Path, ssh_servers: SshServers) -> Lafs:
    made = Lafs(short_tmp)
    made("init", code=0)
    made.add_servers(ssh_servers)
    made("alias", "create", "lafs", code=0)
    return made


@pytest.mark.slow
def test_a_tree_on_ssh_servers_some_of_which_are_lost(lafs: Lafs, ssh_servers: SshServers) -> None:
    """Copied with all of them, fetched with three; changed with eight; with six nothing is changed."""
    src = lafs.folder / "src"
    for number in range(120):
        path = src / f"d{number % 8}" / f"e{number % 3}" / f"ファイル {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 150))
    (src / "large").write_bytes(os.urandom(5_000_000))
    done = lafs.json("cp", "-rp", src, "lafs:")
    assert (done["copied"], done["directories"], done["errors"]) == (121, 33, [])
    assert len(lafs("manifest", "lafs:", "--verify-cap", code=0).stdout.splitlines()) > 100

    for index in range(7):
        ssh_servers.stop(index)
    back = lafs("cp", "-rp", "lafs:src", "back", code=0)
    assert _tree(lafs.folder / "back") == _tree(src)
    assert back.stdout == b""
    lafs("cp", "-r", src, "lafs:other", code=4)

    for index in range(2, 7):
        ssh_servers.start(index)
    (src / "large").write_bytes(b"now small")
    (src / "new").mkdir()
    (src / "new" / "f").write_bytes(b"new")
    done = lafs.json("cp", "-r", src, "lafs:")
    assert (done["copied"], done["errors"]) == (122, [])
    lafs("cp", "-r", "lafs:src", "again", code=0)
    assert _tree(lafs.folder / "again") == _tree(src)

    ssh_servers.stop(2)
    ssh_servers.stop(3)
    before = lafs("manifest", "lafs:", code=0).stdout
    (src / "new" / "f").write_bytes(b"newer" * 100)
    lafs("cp", "-r", src, "lafs:", code=4)
    assert lafs("manifest", "lafs:", code=0).stdout == before


def _run(lafs: Lafs, *arguments: str | Path) -> list[Any]:
    """Run it with more patience: JSON lines."""
    done = subprocess.run(
        [*lafs.program, *map(str, arguments), "--json"],
        capture_output=True,
        env=lafs.environment(),
        cwd=lafs.folder,
        timeout=1200,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_two_thousand_directories_and_twenty_thousand_entries(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", "--local", code=0)
    lafs("alias", "create", "lafs", code=0)
    src = tmp_path / "src"
    src.mkdir()
    for number in range(1922):
        (src / f"a{number % 13}" / f"b{number % 5}" / f"c{number}").mkdir(parents=True)
    folders = sorted(path for path in src.rglob("*") if path.is_dir())
    for number in range(20_000 - len(folders)):
        content = os.urandom(100) if number % 20 == 0 else b"%d" % number
        (folders[number % len(folders)] / f"f{number}").write_bytes(content)
    entries = _tree(src)
    assert len(folders) == 13 + 65 + 1922
    assert len(entries) == 20_000

    [done] = _run(lafs, "cp", "-r", src, "lafs:tree")
    assert (done["copied"], done["directories"]) == (20_000 - len(folders), len(folders) + 1)
    manifest = _run(lafs, "manifest", "lafs:tree")
    assert {each["path"] for each in manifest} == {"", *entries}
    assert len(manifest) == 20_001
    [found] = _run(lafs, "stats", "lafs:tree")
    assert (found["count_files"], found["count_directories"]) == (20_000 - len(folders), len(folders) + 1)
    assert len(_run(lafs, "find", "lafs:tree", "--name", "f*7")) == sum(
        Path(name).name.startswith("f") and name.endswith("7") for name in entries
    )
    [done] = _run(lafs, "cp", "-r", "lafs:tree", tmp_path / "back")
    assert done["errors"] == []
    assert _tree(tmp_path / "back") == entries
