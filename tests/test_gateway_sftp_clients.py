"""The SFTP gateway and programs that others wrote: rclone, sshfs; large files, many files, real servers behind it."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.gridfiles import SftpGateway, home_of_folders
from tests.lafs_process import Lafs
from tests.serving import wait_for
from tests.sshd import SshServers

pytestmark = pytest.mark.slow

LARGE = 200 << 20
MOST = 200 << 20
"""Bytes of memory."""


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    made = Lafs(tmp_path)
    home_of_folders(made, 10, encoding="3/7/10")
    return made


@pytest.fixture
def gateway(lafs: Lafs) -> Iterator[SftpGateway]:
    with SftpGateway(lafs, "alice {key} work", "guest {key} work") as gateway:
        yield gateway


def peak(gateway: SftpGateway) -> int:
    """Bytes of memory that the gateway has had at most."""
    status = Path(f"/proc/{gateway.process.pid}/status")
    if not status.exists():
        pytest.skip("there is no /proc here")
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def same(one: Path, other: Path) -> bool:
    """Whether two trees have the same files."""
    return subprocess.run(["diff", "-r", one, other], check=False).returncode == 0


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Folders and files of many sorts."""
    top = tmp_path / "tree"
    for number in range(12):
        folder = top / f"folder {number % 3}" / "Zo\u00eb"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(os.urandom(number * number * 3001))
        os.utime(folder / f"f{number}", (1_500_000_000 + number, 1_500_000_000 + number))
    (top / "empty").touch()
    (top / "large").write_bytes(os.urandom(5_000_000))
    return top


# ---- rclone


@pytest.fixture
def rclone(gateway: SftpGateway) -> Callable[..., str]:
    if shutil.which("rclone") is None:
        pytest.skip("rclone is not installed")
    file = gateway.folder / "rclone.conf"
    facts = {"type": "sftp", "host": "127.0.0.1", "port": gateway.port, "user": "alice"}
    facts |= {"key_file": gateway.identity, "known_hosts_file": gateway.folder / "known_hosts", "shell_type": "none"}
    file.write_text("[gate]\n" + "".join(f"{name} = {value}\n" for name, value in facts.items()))

    def run(*words: str | Path, code: int = 0) -> str:
        command = ["rclone", "--config", str(file), "--retries", "1", "--low-level-retries", "1", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == code, f"exit {done.returncode}: {done.stderr}"
        return done.stdout + done.stderr

    return run


def test_rclone_copies_checks_syncs_moves_and_deletes(
    rclone: Callable[..., str], tree: Path, tmp_path: Path, lafs: Lafs
) -> None:
    rclone("copy", tree, "gate:tree")
    assert "0 differences found" in rclone("check", "--download", tree, "gate:tree")
    assert "Copied" not in rclone("copy", "-v", tree, "gate:tree")  # sizes and times are those of the files
    (tree / "empty").write_bytes(b"no more")
    (tree / "large").unlink()
    rclone("sync", tree, "gate:tree")
    assert "0 differences found" in rclone("check", "--download", tree, "gate:tree")
    assert "large" not in rclone("lsf", "gate:tree")
    rclone("copy", "gate:tree", tmp_path / "back")
    assert same(tree, tmp_path / "back")
    lafs("cp", "-r", "work:tree", tmp_path / "direct", code=0)
    assert same(tree, tmp_path / "direct")
    rclone("moveto", "gate:tree/folder 0", "gate:moved")
    rclone("move", "gate:moved", "gate:tree/folder 0")
    assert "0 differences found" in rclone("check", tree, "gate:tree")
    rclone("move", tree / "folder 1", "gate:tree/in the grid now")
    assert not any(path.is_file() for path in (tree / "folder 1").rglob("*"))
    rclone("delete", "gate:tree/folder 2")
    assert rclone("lsf", "-R", "--files-only", "gate:tree/folder 2") == ""
    rclone("purge", "gate:tree")
    assert "tree" not in lafs("ls", "work:", code=0).stdout.decode()


def test_rclone_fails_where_nothing_can_be_stored(rclone: Callable[..., str], tree: Path, lafs: Lafs) -> None:
    rclone("mkdir", "gate:there")
    for number in range(5):
        (lafs.folder / f"s{number}").rename(lafs.folder / f"away{number}")
    rclone("copyto", tree / "large", "gate:there/large", code=1)
    for number in range(5):
        (lafs.folder / f"away{number}").rename(lafs.folder / f"s{number}")
    assert lafs("ls", "work:there", code=0).stdout == b""


def test_a_large_file_goes_up_and_down_in_little_memory(
    rclone: Callable[..., str], gateway: SftpGateway, tmp_path: Path
) -> None:
    file = tmp_path / "huge"
    with file.open("wb") as out:
        for _ in range(LARGE >> 20):
            out.write(os.urandom(1 << 20))
    rclone("copyto", file, "gate:huge")
    rclone("copyto", "gate:huge", tmp_path / "again")
    assert filecmp.cmp(file, tmp_path / "again", shallow=False)
    gateway.sftp("get huge third", "put third fourth", "rm huge")
    assert filecmp.cmp(file, tmp_path / "third", shallow=False)
    assert peak(gateway) < MOST


def test_many_transfers_at_once_take_little_memory_too(
    rclone: Callable[..., str], gateway: SftpGateway, tmp_path: Path
) -> None:
    (tmp_path / "six").mkdir()
    for number in range(6):
        (tmp_path / "six" / f"f{number}").write_bytes(os.urandom(40_000_000))
    rclone("copy", "--transfers", "6", tmp_path / "six", "gate:six")
    assert "0 differences found" in rclone("check", "--checkers", "6", "--download", tmp_path / "six", "gate:six")
    assert peak(gateway) < MOST


# ---- sshfs


@pytest.fixture
def mounted(gateway: SftpGateway, tmp_path: Path) -> Iterator[Path]:
    if shutil.which("sshfs") is None:
        pytest.skip("sshfs is not installed")
    folder = tmp_path / "mounted"
    folder.mkdir()
    command = ["sshfs", "-F", str(gateway.config), "alice@gate:/", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode or not os.path.ismount(folder):
        assert "fuse" in done.stderr.lower(), done.stderr
        pytest.skip(f"nothing can be mounted with FUSE here: {done.stderr.strip()}")
    yield folder
    while os.path.ismount(folder):  # sshfs unmounts by itself when its connection is gone
        subprocess.run(["fusermount", "-u", str(folder)], check=False, capture_output=True, timeout=30)


def shell(folder: Path, script: str) -> str:
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_shell_works_in_a_mounted_folder(mounted: Path, tree: Path, lafs: Lafs, tmp_path: Path) -> None:
    shell(mounted, "for i in 1 2 3 4 5 6; do echo line $i >> log; done")
    assert shell(mounted, "cat log").split() == [word for i in range(1, 7) for word in ("line", str(i))]
    shell(mounted, "echo new > temporary; mv temporary log; echo more >> log")
    assert shell(mounted, "cat log") == "new\nmore\n"
    shell(mounted, "truncate -s 4 log; truncate -s 6 log; chmod 755 log; touch -d @1234567890 log")
    assert (mounted / "log").read_bytes() == b"new\n\0\0"
    assert shell(mounted, "stat -c '%a %Y %s' log").split() == ["755", "1234567890", "6"]
    shell(mounted, f"cp -a '{tree}' copy")
    assert same(tree, mounted / "copy")
    assert (mounted / "copy/folder 0/Zo\u00eb/f3").stat().st_mtime == 1_500_000_003
    shell(mounted, "mv 'copy/folder 1' elsewhere; mkdir -p a/b/c; rmdir a/b/c; rm -r elsewhere; df . > /dev/null")
    shell(mounted, "dd if=copy/large of=synced bs=100k conv=fsync 2> /dev/null; ! rmdir copy 2> /dev/null")
    with (mounted / "random").open("w+b") as file:
        file.write(b"hello world")
        file.seek(6)
        assert file.read() == b"world"
        file.seek(300_000)
        file.write(b"end")
    assert (mounted / "random").read_bytes() == b"hello world" + bytes(299_989) + b"end"
    wait_for(lambda: lafs("ls", "work:").stdout.decode(), "random")
    lafs("cp", "-r", "work:copy", tmp_path / "direct", code=0)
    shutil.rmtree(tree / "folder 1")
    assert same(tree, tmp_path / "direct")


def test_a_lost_mount_leaves_files_whole(mounted: Path, gateway: SftpGateway, lafs: Lafs) -> None:
    (mounted / "done").write_bytes(b"done")
    file = (mounted / "half").open("wb")
    file.write(os.urandom(300_000))
    file.flush()
    assert gateway.stop() == 143
    shown = lafs("ls", "work:", code=0).stdout.decode()
    assert "half" not in shown
    assert lafs("get", "work:done", "-", code=0).stdout == b"done"
    with suppress(OSError):
        file.close()


# ---- many, and real


def test_five_thousand_entries_are_listed(gateway: SftpGateway, lafs: Lafs, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(5000):
        (many / f"entry {number}").write_bytes(b"%d" % number)
    lafs("cp", "-r", many, "work:many", code=0)
    gateway.sftp("ls many")
    began = time.monotonic()
    assert len(gateway.sftp("ls -l many").stdout.splitlines()) == 5001
    assert time.monotonic() - began < 5
    assert "       4 " in gateway.sftp("ls -l 'many/entry 4999'").stdout


def test_with_real_servers_behind_it(tmp_path: Path, ssh_servers: SshServers, tree: Path) -> None:
    lafs = Lafs(tmp_path / "remote")
    lafs("init", code=0)
    lafs.add_servers(ssh_servers)
    lafs("alias", "create", "work", code=0)
    with SftpGateway(lafs, "alice {key} work") as gateway:
        gateway.sftp(f"put -r {tree} tree", f"get -r tree {tmp_path}/back", "ls -l tree", "df")
        assert same(tree, tmp_path / "back")
        ssh_servers.stop(0)
        ssh_servers.stop(5)
        gateway.sftp(f"put {tree}/large again", f"get again {tmp_path}/again", "rm tree/large")
        assert filecmp.cmp(tree / "large", tmp_path / "again", shallow=False)
        for number in (1, 2):
            ssh_servers.stop(number)
        assert "nothing was stored" in gateway.sftp(f"put {tree}/large failed", code=1).stderr
        gateway.sftp(f"get again {tmp_path}/third")
        assert filecmp.cmp(tree / "large", tmp_path / "third", shallow=False)
