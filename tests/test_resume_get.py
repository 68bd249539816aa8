"""A get that was interrupted goes on: what is there is proven against the cap, and only the rest is fetched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.grids import content
from tests.lafs_process import Lafs
from tests.test_trouble import wait_for

SIZE = 8_000_000
SEGMENT = 131072 + 1  # rounded up to a multiple of 3


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    lafs = Lafs(tmp_path / "client")
    lafs("init", "--local", code=0)
    (lafs.folder / "file").write_bytes(content(SIZE))
    cap = lafs("put", "file", "--segment-size", "128K", code=0).stdout
    (lafs.folder / "cap").write_bytes(cap)
    return lafs


def interrupted(lafs: Lafs) -> Path:
    """The partial file of a get whose disk was full (here: a limit on the size of files)."""
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000)); "
    get = [sys.executable, "-c", limit + "os.execv(sys.argv[1], sys.argv[1:])", *lafs.program, "get", "@cap", "copy"]
    done = subprocess.run([*get, "--resume"], cwd=lafs.folder, env=lafs.environment(), capture_output=True, check=False)
    assert done.returncode == 1, done.stderr.decode()
    assert b"File too large" in done.stderr
    assert not (lafs.folder / "copy").exists()
    [partial] = lafs.folder.glob(".lafs-*")
    assert partial.stat().st_size == 5_000_000
    return partial


def finish(lafs: Lafs) -> int:
    """Go on; answers how many bytes came from servers."""
    done = lafs.json("get", "@cap", "copy", "--resume")
    assert done["size"] == SIZE
    assert (lafs.folder / "copy").read_bytes() == content(SIZE)
    assert list(lafs.folder.glob(".lafs-*")) == []
    return int(done["resumed_bytes"])


def test_only_the_rest_is_fetched(lafs: Lafs) -> None:
    partial = interrupted(lafs)
    held = partial.stat().st_size
    assert finish(lafs) == held // SEGMENT * SEGMENT


@pytest.mark.parametrize("where", [0, 1_000_000, 2_999_999])
def test_a_flipped_byte_is_found(lafs: Lafs, where: int) -> None:
    partial = interrupted(lafs)
    data = bytearray(partial.read_bytes())
    data[where] ^= 1
    partial.write_bytes(data)
    assert finish(lafs) == where // SEGMENT * SEGMENT


def test_holes_and_rubbish_behind_are_not_believed(lafs: Lafs) -> None:
    partial = interrupted(lafs)
    with partial.open("r+b") as file:
        file.truncate(1_500_000)
        file.truncate(SIZE + 1000)
    assert finish(lafs) == 1_500_000 // SEGMENT * SEGMENT


def test_a_complete_one_needs_no_more(lafs: Lafs) -> None:
    partial = interrupted(lafs)
    partial.write_bytes(content(SIZE))
    assert finish(lafs) == SIZE


def test_without_an_earlier_one(lafs: Lafs) -> None:
    assert finish(lafs) == 0
    assert lafs.json("get", "@cap", "copy", "--resume")["resumed_bytes"] == 0


def test_what_can_t_be_resumed(lafs: Lafs) -> None:
    lafs("get", "@cap", "-", "--resume", code=2)
    lafs("get", "@cap", "copy", "--resume", "--offset", "5", code=2)
    assert not (lafs.folder / "copy").exists()


def test_a_get_without_resume_leaves_nothing(lafs: Lafs) -> None:
    process = lafs.start("get", "@cap", "copy")
    wait_for(lambda: bool(list(lafs.folder.glob(".lafs-*"))) or process.poll() is not None)
    process.terminate()
    process.wait()
    assert list(lafs.folder.glob(".lafs-*")) == []
