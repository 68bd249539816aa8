"""put, get, cat on ten folders of this machine (CLI.md §1, §2, §4)."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.cli.landing import landing, resumed
from lafscli.formats import caps
from tests.lafs_process import Lafs

LIT = "URI:LIT:krugkidfnzsc4"
VERIFY = "URI:CHK-Verifier:qqqqqqqqqqqqqqqqqqqqqqqqqa:" + 51 * "a" + "a:3:10:1000"
SSK = "URI:SSK:fs6ul2fju2fvb2cfx7gt6ngycm:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq"


SSK_RO = "URI:SSK-RO:65ruo2zytr3uxnaxkptdoqkth4:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq"


@pytest.fixture(scope="module")
def lafs(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    """A home with ten folders for servers, shared by the tests of this module."""
    made = Lafs(tmp_path_factory.mktemp("files"))
    made("init", "--local", code=0)
    return made


@pytest.fixture(scope="module")
def content() -> bytes:
    return os.urandom(2_500_000)


@pytest.fixture(scope="module")
def cap(lafs: Lafs, content: bytes) -> str:
    """The cap of `content`, which is also in the file `big`."""
    (lafs.folder / "big").write_bytes(content)
    return lafs("put", "big", code=0).stdout.decode().strip()


def _leftovers(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if each.name.startswith(".lafs-")]


def _staged(lafs: Lafs) -> list[Path]:
    return list((lafs.home / "grid").glob("*/staging/*"))


# ---- put


def test_put_prints_the_cap_and_nothing_else(lafs: Lafs, cap: str) -> None:
    parsed = caps.parse_strict(cap)
    assert isinstance(parsed, caps.ChkCap)
    assert (parsed.k, parsed.n, parsed.size) == (3, 10, 2_500_000)
    assert lafs("put", "big", code=0).stdout.decode() == f"{cap}\n"
    assert lafs("put", "big", code=0).stderr == b""


def test_put_as_json(lafs: Lafs, content: bytes) -> None:
    (lafs.folder / "other").write_bytes(content[:100_000])
    first = lafs.json("put", "other", "--segment-size", "64K", "--encoding", "2/3/4")
    parsed = caps.parse_strict(first["cap"])
    assert isinstance(parsed, caps.ChkCap)
    assert first["verify_cap"] == str(parsed.verify_cap())
    assert first["storage_index"] in first["verify_cap"]
    assert (first["kind"], first["size"], first["happiness"]) == ("chk", 100_000, 4)
    assert first["encoding"] == {"k": 2, "happy": 3, "n": 4, "segment_size": 65536}
    assert (first["pushed_shares"], first["preexisting_shares"]) == (4, 0)
    assert sorted(first["placement"]) == ["0", "1", "2", "3"]
    servers = [name for names in first["placement"].values() for name in names]
    assert len(set(servers)) == 4
    assert first["seconds"] >= 0
    again = lafs.json("put", "other", "--segment-size", "64K", "--encoding", "2/3/4")
    assert (again["cap"], again["pushed_shares"], again["preexisting_shares"]) == (first["cap"], 0, 4)


def test_small_file_is_in_its_cap_and_needs_no_server(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", code=0)
    (tmp_path / "small").write_bytes(b"The end.")
    answer = lafs.json("put", "small")
    assert answer.pop("seconds") >= 0
    assert answer == {"schema": 1, "cap": LIT, "kind": "lit", "size": 8}
    assert lafs("put", "-", input=b"The end.", code=0).stdout.decode().strip() == LIT
    (tmp_path / "large").write_bytes(bytes(56))
    done = lafs("put", "large", code=2)
    assert b"no server is configured" in done.stderr
    assert b"lafs server add" in done.stderr
    assert lafs("put", "-", input=bytes(56)).returncode == 2


def test_random_key(lafs: Lafs) -> None:
    (lafs.folder / "same").write_bytes(bytes(1000))
    seen = {lafs("put", "same", "--no-convergence", code=0).stdout for _ in range(2)}
    seen |= {lafs("put", "same", code=0).stdout for _ in range(2)}
    assert len(seen) == 3


def test_put_from_a_pipe(lafs: Lafs, content: bytes, cap: str) -> None:
    """Shorter than a segment it is as good as a file; longer it gets a random key."""
    (lafs.folder / "short").write_bytes(content[:5000])
    assert lafs("put", "-", input=content[:5000], code=0).stdout == lafs("put", "short", code=0).stdout
    found = lafs("put", "-", input=content, code=0).stdout.decode().strip()
    assert found != cap
    assert lafs("cat", found, code=0).stdout == content


def test_put_remembers_a_pin_once(lafs: Lafs, cap: str) -> None:
    pins = lafs.home / "pins"
    lafs("put", "big", code=0)
    assert pins.read_text().splitlines().count(cap) == 1
    assert stat.S_IMODE(pins.stat().st_mode) == 0o600


def test_cap_reaches_the_user_when_it_can_not_be_pinned(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", code=0)
    (lafs.home / "pins").unlink()
    (lafs.home / "pins").mkdir(0o700)
    done = lafs("put", "-", input=b"The end.", code=1)
    assert done.stdout.decode().strip() == LIT
    assert b"pins" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["put", "no-such-file"], 3, "no such file"),
        (["put", "."], 2, "is a directory"),
        (["put", "big", "alias:x"], 3, "no alias 'alias'"),
        (["put", "big", SSK_RO], 9, "can't be written with its read cap"),
        (["put", "big", LIT], 9, "immutable"),
        (["put", "big", f"{LIT}/x"], 2, "no path leads into it"),
        (["put", "big", "URI:DIR2-LIT:"], 9, "immutable"),
        (["put", "-", "URI:DIR2-LIT:"], 2, "has no name"),
        (["put", "big", "--private-key", "x"], 2, "an immutable file has no private key"),
        (["put", "big", "--mutable", "--private-key", "no-such"], 3, "no such file"),
        (["put", "big", "--mutable", "--private-key", "big"], 2, "private key can't be read"),
        (["put", "big", "--mutable", "--format", "chk"], 2, "contradict"),
        (["put", "big", "--format", "tar"], 2, "'tar'"),
        (["put", "big", "--encoding", "3/11/20"], 4, "10 servers take shares, 11 are needed"),
        (["put", "big", "--segment-size", "0"], 2, "segment size"),
        (["get", VERIFY], 9, "a verify cap can't read"),
        (["get", SSK.replace("SSK", "DIR2"), "out"], 2, "directory"),
        (["get", "URI:FUTURE:x"], 2, "does not know"),
        (["get", "URI:CHK:x"], 2, "malformed cap"),
        (["get", LIT + "/inside"], 2, "no 'inside' in it"),
        (["get", "alias:path"], 3, "no alias 'alias'"),
        (["get", "word"], 3, "no alias 'lafs'"),
        (["get", "@no-such-file"], 3, "no such file"),
        (["get", "@big"], 2, "not a cap"),
        (["get", "@home"], 2, "home is a folder"),
        (["get", "@home/no-such"], 3, "no such file: home/no-such"),
        (["get", LIT, "out", "--offset", "9"], 2, "ends before byte 9"),
        (["get", LIT, "no/such/folder/x"], 1, "cannot write"),
        (["get", LIT, "new-folder/"], 2, "no such folder"),
        (["get", LIT, "."], 2, "a bare cap has no name"),
    ],
)
def test_refusals(lafs: Lafs, cap: str, arguments: list[str], code: int, said: str) -> None:
    assert cap
    before = (lafs.home / "pins").read_bytes()
    done = lafs(*arguments, "--json", code=code)
    first = done.stderr.decode().splitlines()[0]
    assert said in first
    error = json.loads(done.stdout)["error"]
    assert error["code"] == code
    assert first == f"lafs: {error['message']}"
    assert (lafs.home / "pins").read_bytes() == before
    assert not any(word.startswith("URI:") and word in done.stderr.decode() for word in arguments)


def test_too_few_servers_name_a_fitting_encoding(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", code=0)
    for name in ("a", "b", "c", "d"):
        lafs("server", "add", name, f"file://{tmp_path}/{name}", code=0)
    (tmp_path / "x").write_bytes(bytes(100))
    for arguments, given in (("x", b""), ("-", bytes(100))):
        done = lafs("put", arguments, input=given, code=4)
        assert b"4 servers take shares, 7 are needed" in done.stderr
        assert b"lafs encoding 2/3/4" in done.stderr
    lafs("encoding", "2/3/4", code=0)
    lafs("put", "x", code=0)


# ---- get


def test_get_is_whole_and_quiet(lafs: Lafs, cap: str, content: bytes) -> None:
    done = lafs("get", cap, "out", code=0)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert (lafs.folder / "out").read_bytes() == content
    answer = lafs.json("get", cap, "out")
    assert (answer["path"], answer["size"]) == ("out", len(content))
    assert set(answer) == {"schema", "path", "size", "seconds"}
    assert lafs("get", cap, code=0).stdout == content
    assert lafs("get", cap, "-", code=0).stdout == content
    assert _leftovers(lafs.folder) == []


_NOTES_CONNECTING = """
import sys
from lafscli.__main__ import main
from lafscli.storage.grid import Grid
connect = Grid.connect
def noted(grid, stores=None):
    print(*(store.server.name for store in stores), len(sys.modules.keys() & {"lafscli.immutable.fetch", "zfec"}))
    print(*sys.modules, file=sys.stderr)
    connect(grid, stores)
Grid.connect = noted
main()
"""


def test_get_connects_at_once_and_loads_meanwhile_what_it_needs(lafs: Lafs, cap: str, content: bytes) -> None:
    """Those that are asked first are connected before the rest of the program is there; what only other commands need
    is not loaded at all."""
    placement = lafs.json("put", "big")["placement"]
    done = replace(lafs, program=(sys.executable, "-c", _NOTES_CONNECTING))("get", cap, "noted", code=0)
    first = " ".join(placement[str(shnum)][0] for shnum in range(3))
    assert done.stdout.decode() == f"{first} 0\n"
    needless = {"lafscli.recovery", "lafscli.storage.hostkeys", "rich", "paramiko"}
    assert not needless & set(done.stderr.decode().split())
    assert (lafs.folder / "noted").read_bytes() == content


def test_get_obeys_the_umask_and_follows_a_link_that_was_named(lafs: Lafs) -> None:
    (lafs.folder / "real").write_bytes(b"old")
    (lafs.folder / "link").symlink_to("real")
    lafs("get", LIT, "link", code=0)
    assert (lafs.folder / "link").is_symlink()
    assert (lafs.folder / "real").read_bytes() == b"The end."
    old = os.umask(0o027)
    try:
        lafs("get", LIT, "fresh", code=0)
    finally:
        os.umask(old)
    assert stat.S_IMODE((lafs.folder / "fresh").stat().st_mode) == 0o640


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_get_keeps_the_mode_of_the_file_that_it_replaces(lafs: Lafs, mode: int, resume: list[str]) -> None:
    path = lafs.folder / f"private{mode:o}"
    path.write_bytes(b"old")
    path.chmod(mode)
    lafs("get", LIT, path.name, *resume, code=0)
    assert path.read_bytes() == b"The end."
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_nobody_else_reads_a_file_that_is_not_complete(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        with landing(tmp_path / "whole") as write:
            write(b"x")
            assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()] == [0o600]
        partial = tmp_path / "below" / ".lafs-token"
        partial.parent.mkdir()
        partial.write_bytes(b"")
        partial.chmod(0o644)  # as an earlier version made them
        with resumed(tmp_path / "below" / "part", "token") as held:
            held.write(b"x")
            assert stat.S_IMODE(partial.stat().st_mode) == 0o600
    finally:
        os.umask(old)
    for path in (tmp_path / "whole", tmp_path / "below" / "part"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_get_writes_into_what_is_no_file(lafs: Lafs) -> None:
    """A device or a pipe is written to, not replaced."""
    lafs("get", LIT, "/dev/null", code=0)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    fifo = lafs.folder / "fifo"
    os.mkfifo(fifo)
    running = lafs.start("get", LIT, "fifo")
    assert fifo.read_bytes() == b"The end."
    assert running.wait() == 0
    assert lafs("get", LIT, "/dev/full", code=1).stderr.startswith(b"lafs: cannot write /dev/full")


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (1, 10), (1_048_570, 20), (2_499_990, 100), (2_500_000, 5)])
def test_ranges(lafs: Lafs, cap: str, content: bytes, offset: int, length: int) -> None:
    done = lafs("get", cap, "-", "--offset", str(offset), "--length", str(length), code=0)
    assert done.stdout == content[offset : offset + length]


def test_range_to_the_end_and_sizes(lafs: Lafs, cap: str, content: bytes) -> None:
    assert lafs("get", cap, "-", "--offset", "2M", code=0).stdout == content[2 << 20 :]


def test_failed_get_leaves_the_old_file(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", "--local", code=0)
    (tmp_path / "x").write_bytes(os.urandom(5000))
    cap = lafs("put", "x", code=0).stdout.decode().strip()
    for share in (lafs.home / "grid").glob("*/shares/*/*/*"):
        share.unlink()
    (tmp_path / "out").write_bytes(b"old")
    assert lafs("get", cap, "out", code=5).stderr.startswith(b"lafs: ")
    assert lafs("get", cap, "new", code=5).stdout == b""
    assert (tmp_path / "out").read_bytes() == b"old"
    assert not (tmp_path / "new").exists()
    assert _leftovers(tmp_path) == []
    error = json.loads(lafs("get", cap, "new", "--json", code=5).stdout)["error"]
    assert (error["code"], error["kind"]) == (5, "NotRecoverable")


def test_get_tells_of_shares_that_lied_and_servers_that_failed(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", "--local", "--encoding", "3/3/10", code=0)
    (tmp_path / "x").write_bytes(os.urandom(40960))
    (tmp_path / "cap").write_bytes(lafs("put", "x", "--segment-size", "4K", code=0).stdout)
    assert {"corrupt", "unreachable"}.isdisjoint(lafs.json("get", "@cap", "out"))
    shares = sorted((lafs.home / "grid").glob("*/shares/*/*/*"))
    assert len(shares) == 10
    for share in shares:  # each lies in a segment of its own, so that some lie is met whichever are read
        data = bytearray(share.read_bytes())
        data[12 + 36 + int(share.name) * 1366] ^= 1
        share.write_bytes(data)
    asked = next(share for share in shares if share.name == "0")  # the server of share 0 is asked before all others
    (lafs.home / "grid" / asked.relative_to(lafs.home / "grid").parts[0] / "server.toml").unlink()
    done = lafs("get", "@cap", "out", "--json", code=0)
    answer = json.loads(done.stdout)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "x").read_bytes()
    assert answer["corrupt"]
    assert set(answer["corrupt"][0]) == {"server", "share", "reason"}
    assert [set(each) for each in answer["unreachable"]] == [{"server", "reason"}]
    assert "lafs check --verify @cap" in done.stderr.decode()


def test_json_and_stdout_do_not_mix(lafs: Lafs, cap: str) -> None:
    for arguments in (["get", cap, "-"], ["get", cap], ["cat", cap]):
        done = lafs(*arguments, "--json", code=2)
        assert json.loads(done.stdout)["error"]["kind"] == "Usage"
        assert done.stdout.count(b"\n") == 1


def test_cat_joins(lafs: Lafs, cap: str, content: bytes) -> None:
    assert lafs("cat", LIT, cap, LIT, code=0).stdout == b"The end." + content + b"The end."
    assert lafs("cat", LIT, "URI:CHK:x", code=2).stdout == b""


def test_cap_from_a_file_or_stdin(lafs: Lafs) -> None:
    (lafs.folder / "cap").write_text(f"  {LIT} \nsecond line\n")
    assert lafs("cat", "@cap", code=0).stdout == b"The end."
    assert lafs("cat", "@-", input=f"{LIT}\n".encode(), code=0).stdout == b"The end."
    assert b"no 'x' in it" in lafs("cat", "@cap/x", code=2).stderr
    assert b"stdin" in lafs("cat", "@-", "@-", input=f"{LIT}\n".encode(), code=2).stderr
    (lafs.folder / "binary").write_bytes(b"\xff\xfe\n")
    assert lafs("cat", "@binary", code=2).stderr.startswith(b"lafs: the first line of")


def test_only_a_dash_or_cat_write_to_a_terminal(lafs: Lafs) -> None:
    for arguments, code, shown in (
        (["get", LIT], 2, b""),
        (["get", LIT, "-"], 0, b"The end."),
        (["cat", LIT], 0, b"The end."),
    ):
        ours, theirs = pty.openpty()
        running = lafs.start(*arguments, stdout=theirs, stderr=subprocess.DEVNULL)
        assert running.wait() == code
        os.close(theirs)
        try:
            assert os.read(ours, 100) == shown
        except OSError:
            assert shown == b""
        os.close(ours)


# ---- while it runs


def _until(condition: object, process: subprocess.Popen[bytes]) -> None:
    """Wait for something that another process brings about."""
    assert callable(condition)
    end = time.monotonic() + 20
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_removes_what_was_staged(lafs: Lafs, number: int, code: int) -> None:
    """A pipe that stalls in the middle: SIGUSR1 says how far it is; the signal ends it and leaves nothing."""
    assert _staged(lafs) == []
    running = lafs.start("put", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdin is not None
    assert running.stderr is not None
    running.stdin.write(bytes(5 << 20))
    running.stdin.flush()
    _until(lambda: len(_staged(lafs)) == 10 and all(each.stat().st_size > 100_000 for each in _staged(lafs)), running)
    running.send_signal(signal.SIGUSR1)
    line = running.stderr.readline().decode()
    assert line.startswith("lafs: put -: ")
    assert "MB" in line
    assert "/s" in line
    began = time.monotonic()
    running.send_signal(number)
    assert running.wait() == code
    assert time.monotonic() - began < 2
    assert running.stdout is not None
    assert (running.stdout.read(), running.stderr.read()) == (b"", b"")
    running.stdin.close()
    assert _staged(lafs) == []


def test_progress_is_drawn_when_asked(lafs: Lafs, cap: str) -> None:
    said = lafs("get", cap, "out", "--progress", code=0).stderr
    assert b"\x1b[" in said
    assert b"2.5" in said
    assert b"local" in said
    assert lafs("get", cap, "out", "--progress", "--quiet", code=0).stderr == b""
    assert lafs("get", cap, "out", "--no-progress", code=0).stderr == b""
    assert lafs("get", cap, "out", code=0, LAFS_PROGRESS="0").stderr == b""
