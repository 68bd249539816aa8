"""What can't be read or written: the home, stdin, stdout, the log. A file that was stored keeps its cap."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.lafs_process import Lafs

LIT = "URI:LIT:krugkidfnzsc4"  # "The end."
DATA = os.urandom(3000)


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    """A home with three folders for servers, whose `lafs` obeys modes also where root runs the tests."""
    made = Lafs(tmp_path)
    made("init", "--encoding", "1/2/3", code=0)
    adding = "".join(f"server add {name} file://{tmp_path}/servers/{name}\n" for name in "abc")
    made("batch", input=adding.encode(), code=0)
    if os.geteuid() == 0:
        made.program = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", *made.program)
    return made


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    """A home without servers, which no test changes."""
    made = Lafs(tmp_path_factory.mktemp("empty"))
    made("init", code=0)
    return made


def _redirected(lafs: Lafs, where: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run it with a redirection of the shell."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {where}', "sh", *lafs.program, *arguments],
        env=lafs.environment(),
        cwd=lafs.folder,
        capture_output=True,
        timeout=60,
        check=False,
    )


# ---- the home


@pytest.mark.parametrize("arguments", [["x"], ["-"], ["-", "--no-convergence"], ["x", "--json"]])
@pytest.mark.parametrize("content", [DATA, b"The end."])
def test_put_into_a_home_that_can_not_be_written(lafs: Lafs, arguments: list[str], content: bytes) -> None:
    (lafs.home / ".lock").unlink()
    (lafs.folder / "x").write_bytes(content)
    lafs.home.chmod(0o500)
    try:
        done = lafs("put", *arguments, input=content, code=1)
    finally:
        lafs.home.chmod(0o700)
    answer = done.stdout.decode()
    cap = json.loads(answer)["cap"] if "--json" in arguments else answer.strip()
    assert lafs("cat", cap, code=0).stdout == content
    said = done.stderr.decode()
    assert f"cannot write {lafs.home}/.lock: Permission denied" in said
    assert "the file is stored, but its cap is not among the pins" in said


def test_random_key_is_warned_about_before_anything_is_sent(lafs: Lafs) -> None:
    """Nobody can make that cap again: who reads the warning can stop in time."""
    (lafs.home / "pins").chmod(0o400)
    running = lafs.start(
        "put", "-", "--no-convergence", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert running.stdin is not None
    assert running.stderr is not None
    first = running.stderr.readline().decode()
    assert f"cannot write {lafs.home}/pins: Permission denied" in first
    assert not list(lafs.folder.glob("servers/*/shares/*/*"))
    assert running.communicate(DATA)[0].startswith(b"URI:CHK:")
    assert running.returncode == 1


@pytest.mark.slow
def test_lock_that_another_holds_does_not_hold_a_cap_back(lafs: Lafs) -> None:
    (lafs.folder / "x").write_bytes(DATA)
    with (lafs.home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = lafs.start("put", "x", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert running.stdout is not None
        cap = running.stdout.readline().decode().strip()
        assert running.poll() is None  # it has told the cap and waits for the lock
        said = running.communicate(timeout=30)[1].decode()
    assert "another lafs process" in said
    assert "not among the pins" in said
    assert running.returncode == 12
    assert lafs("cat", cap, code=0).stdout == DATA
    lafs("put", "x", code=0)
    assert cap in (lafs.home / "pins").read_text()


# ---- stdout


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_put_whose_answer_is_lost_tells_where_the_cap_is(lafs: Lafs, where: str, more: list[str]) -> None:
    (lafs.folder / "x").write_bytes(DATA)
    done = _redirected(lafs, where, "put", "x", "--no-convergence", *more)
    assert done.returncode == 1
    said = done.stderr.decode().splitlines()
    assert said[0].startswith("lafs: cannot write stdout: ")
    assert said[1] == f"hint: the file is stored, and its cap is the last line of {lafs.home}/pins"
    cap = (lafs.home / "pins").read_text().splitlines()[-1]
    assert lafs("cat", cap, code=0).stdout == DATA


def test_nobody_reads_what_put_says_but_its_cap_is_kept(lafs: Lafs) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    (lafs.folder / "x").write_bytes(DATA)
    running = lafs.start("put", "x", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert running.communicate()[1] == b""
    assert running.returncode == 141
    assert lafs("cat", (lafs.home / "pins").read_text().strip(), code=0).stdout == DATA


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--version", "--json"],
        ["--help"],
        ["-h"],
        ["help", "put"],
        ["put", "--help"],
        ["encoding"],
        ["cap", "show", LIT],
        ["cat", LIT],
        ["completion", "bash"],
        ["grid", "export", "-"],
        ["man"],
    ],
)
def test_answer_that_can_not_be_written_says_so(empty: Lafs, where: str, arguments: list[str]) -> None:
    done = _redirected(empty, where, *arguments)
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("lafs: cannot write stdout: ")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"]])
def test_nobody_reads_version_or_help(empty: Lafs, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    running = empty.start(*arguments, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert running.communicate()[1] == b""
    assert running.returncode == 141


# ---- stdin


@pytest.mark.parametrize(
    "arguments", [["put", "-"], ["put", "-", "--json"], ["batch"], ["cat", "@-"], ["grid", "import", "-"]]
)
def test_closed_stdin_is_not_an_empty_file(empty: Lafs, arguments: list[str]) -> None:
    done = _redirected(empty, "<&-", *arguments)
    assert done.returncode == 1
    assert "cannot read standard input" in done.stderr.decode().splitlines()[0]
    assert b"URI:" not in done.stdout
    assert (empty.home / "pins").read_bytes() == b""


# ---- the log


def test_log_that_can_not_be_written_is_one_warning(lafs: Lafs) -> None:
    (lafs.folder / "x").write_bytes(DATA)
    done = lafs("put", "x", "-v", "--log-file", "/dev/full", code=0)
    lines = [line for line in done.stderr.decode().splitlines() if "/dev/full" in line]
    assert lines == ["lafs: warning: cannot write the log file /dev/full: No space left on device"]
    (lafs.folder / "lines").write_text("cap show URI:LIT:\nno-such\ncap show URI:LIT:\n")
    done = lafs("batch", "lines", "--log-file", "/dev/full", code=2)
    assert done.stderr.count(b"/dev/full") == 1
