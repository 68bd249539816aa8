"""backup, snapshots, restore, diff, forget, status: the commands, as processes (CLI.md §3, §6)."""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.grids import content
from tests.lafs_process import Lafs
from tests.trees import described, every_kind

NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d:\d\d:\d\dZ")


@pytest.fixture(scope="module")
def lafs(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    """A home with ten servers in folders, and the alias `b`."""
    command = Lafs(tmp_path_factory.mktemp("lafs"))
    command("init", "--local", code=0)
    command("alias", "create", "b", code=0)
    return command


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    every_kind(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def dead(lafs: Lafs) -> Iterator[list[str]]:
    """Names put into it are servers whose disk is not mounted; they are back at the end."""
    names: list[str] = []

    class Dead(list[str]):
        def extend(self, more: object) -> None:
            for name in more:  # type: ignore[attr-defined]
                (lafs.home / "grid" / name / "server.toml").rename(lafs.home / "grid" / name / "away")
                names.append(name)

    yield Dead()
    for name in names:
        (lafs.home / "grid" / name / "away").rename(lafs.home / "grid" / name / "server.toml")


def test_there_and_back_again(lafs: Lafs, tree: Path, tmp_path: Path) -> None:
    """Every kind of entry; a second run that does nothing; all that may name the backup; a tar stream; status."""
    first = lafs.json("backup", tree, "b:one")
    assert re.fullmatch(rf"b:one/Archives/{NAME.pattern}", first["snapshot"])
    assert first["errors"] == first["changed_while_read"] == first["servers_lacking"] == []
    assert first["files_new"] > 5
    again = lafs.json("backup", tree, "b:one")
    assert (again["cap"], again["bytes_read"], again["bytes_pushed"]) == (first["cap"], 0, 0)
    assert again["snapshot"] != first["snapshot"]
    cap = lafs("mkdir", "b:one", code=0).stdout.decode()
    (tmp_path / "cap").write_text(cap)
    (tmp_path / "read").write_text(lafs("cap", "read", f"@{tmp_path / 'cap'}", code=0).stdout.decode())
    listed = lafs.json("snapshots", "b:one")["snapshots"]
    assert [f"b:one/Archives/{each['name']}" for each in listed] == [first["snapshot"], again["snapshot"]]
    assert lafs.json("snapshots", f"@{tmp_path / 'read'}")["snapshots"] == listed
    assert lafs("snapshots", cap.strip(), code=0).stdout.decode().split() == [each["name"] for each in listed]
    for number, target in enumerate(
        (
            "b:one",
            "b:one/Latest",
            first["snapshot"],
            f"@{tmp_path / 'read'}",
            f"@{tmp_path / 'cap'}/Latest",
            first["cap"],
        )
    ):
        done = lafs.json("restore", target, tmp_path / f"out{number}")
        assert done["errors"] == []
        assert described(tmp_path / f"out{number}") == described(tree)
    lafs("restore", "b:one/Latest/deep/er/small", tmp_path / "part", code=0)
    assert [path.name for path in (tmp_path / "part").iterdir()] == ["small"]
    stream = lafs("restore", "--tar", "b:one", code=0).stdout
    with tarfile.open(fileobj=io.BytesIO(stream)) as tar:
        names = {os.fsencode(each.name) for each in tar}
    kept = {name for name in described(tree) if name not in (b".", b"socket")}
    assert names == kept
    roots = lafs.json("status")["roots"]
    assert [each["target"] for each in roots[0]["backups"]] == ["b:one"]
    assert roots[0]["backups"][0]["source"] == str(tree)
    assert roots[0]["backups"][0]["snapshot"] in again["snapshot"]


def test_a_target_that_can_t_be_written(lafs: Lafs, tree: Path, tmp_path: Path) -> None:
    read = lafs("cap", "read", "b:", code=0).stdout.decode().strip()
    (tmp_path / "read").write_text(read)
    for target in (read, f"@{tmp_path / 'read'}/new/er", f"@{tmp_path / 'read'}"):
        answer = lafs("backup", tree, target, "--json", code=9)
        assert json.loads(answer.stdout)["error"]["kind"] == "NotGranted"
    verify = lafs("cap", "verify", "b:", code=0).stdout.decode().strip()
    lafs("backup", tree, verify, code=9)
    lafs("snapshots", verify, code=9)
    file = lafs("put", tree / "deep" / "large", code=0).stdout.decode().strip()
    lafs("backup", tree, file, code=2)


def test_what_is_typed_wrongly(lafs: Lafs, tree: Path) -> None:
    for words, code in (
        (["backup", "nowhere", "b:x"], 3),
        (["backup", tree / "file", "b:x"], 2),
        (["backup", tree, "none:x"], 3),
        (["backup", tree, "b:x", "--exclude-from", "nowhere"], 3),
        (["backup", tree, "b:x", "--files-from", "nowhere"], 3),
        (["backup", "-", "b:x"], 2),
        (["backup", tree, "b:x", "--stdin"], 2),
        (["backup", "--stdin", "--stdin-filename", "a/b", "-", "b:x"], 2),
        (["forget", "b:"], 2),
        (["restore", "b:none", "out"], 3),
        (["restore", "b:"], 2),
        (["restore", "--tar", "b:", "out"], 2),
        (["diff", "b:", "b:none"], 3),
        (["snapshots", "b:"], 3),
    ):
        done = lafs(*words, code=code)
        assert done.stdout == b""
        assert done.stderr.startswith(b"lafs: ")
        assert b"Traceback" not in done.stderr


def test_stdin_dry_runs_and_lists(lafs: Lafs, tree: Path, tmp_path: Path) -> None:
    dry = lafs.json("backup", "-n", tree, "b:none")
    assert (dry["dry_run"], "snapshot" in dry) == (True, False)
    assert dry["files_new"] > 5
    lafs("ls", "b:none", code=3)
    data = content(100_000, 7)
    piped = lafs.json("backup", "--stdin", "--stdin-filename", "db.sql", "-", "b:db", input=data)
    assert (piped["files_new"], piped["bytes_read"]) == (1, 100_000)
    listed = lafs.json("restore", "-n", "b:db", tmp_path / "none")
    assert listed["paths"] == [str(tmp_path / "none" / "db.sql")] or listed["paths"] == [str(tmp_path / "db.sql")]
    assert not (tmp_path / "none").exists()
    lafs("restore", "b:db", tmp_path / "db", code=0)
    assert (tmp_path / "db" / "db.sql").read_bytes() == data
    lafs("backup", tree, "b:db", "--files-from", "-", input=b"deep/er\n# no\nfile\n", code=0)
    lafs("restore", "b:db", tmp_path / "some", code=0)
    assert sorted(path.name for path in (tmp_path / "some").rglob("*") if not path.is_dir()) == [
        "file",
        "same as large",
        "small",
    ]
    removed = lafs.json("forget", "b:db", "--keep-last", "1")
    assert (len(removed["kept"]), len(removed["removed"])) == (1, 1)
    table = lafs("forget", "b:db", "--keep-daily", "3", "-n", code=0).stdout.decode()
    assert re.fullmatch(rf"{NAME.pattern}  daily\n", table)
    assert len(lafs.json("snapshots", "b:db")["snapshots"]) == 1


def test_two_runs_at_once(lafs: Lafs, tmp_path: Path) -> None:
    """The first waits for its stdin: the second is told at once, another backup is not kept waiting; a run that was
    killed holds nothing."""
    words = ("backup", "--stdin", "--stdin-filename", "f", "-", "b:lock")
    first = lafs.start(*words, stdin=-1, stdout=-1, stderr=-1)
    assert first.stdin is not None
    lock = lafs.home / "state" / "backups"
    before = set(lock.glob("*.lock"))
    deadline = time.monotonic() + 30
    while not any(map(_held, set(lock.glob("*.lock")) - before)):
        assert time.monotonic() < deadline
        assert first.poll() is None
    busy = lafs(*words, "--json", code=12)
    assert json.loads(busy.stdout)["error"]["kind"] == "Busy"
    lafs("backup", "--stdin", "-", "b:lock", code=0)
    lafs("gc", code=12)
    first.kill()
    first.communicate()
    lafs(*words, "--lock-wait", "20s", input=b"x", code=0)


def _held(lock: Path) -> bool:
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_dead_servers(lafs: Lafs, tree: Path, tmp_path: Path, dead: list[str]) -> None:
    """One is named, and the exit code is 0; with four nothing is stored or linked; the next run brings what lacks."""
    lafs("backup", tree, "b:dead", code=0)
    dead.extend(["local3"])
    (tree / "new").write_bytes(content(1000, 3))
    named = lafs("backup", tree, "b:dead", code=0)
    assert re.search(rb"server local3 has no share of \d+ objects of this .* \(its server.toml is gone\)", named.stderr)
    lacking = lafs.json("backup", tree, "b:dead")["servers_lacking"]
    assert [(each["server"], each["reason"]) for each in lacking] == [("local3", "its server.toml is gone")]
    before = lafs.json("snapshots", "b:dead")["snapshots"]
    dead.extend(["local4", "local5", "local6"])
    (tree / "more").write_bytes(content(1000, 4))
    done = lafs("backup", tree, "b:dead", "--json", code=4)
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "NotHappy"
    assert "6 of 10 servers answered" in error["message"]
    assert lafs.json("snapshots", "b:dead")["snapshots"] == before
    status = lafs("status", code=11)
    assert b"local3  silent  its server.toml is gone" in status.stdout


def test_status_tells_what_is_too_old(lafs: Lafs, tmp_path: Path) -> None:
    other = Lafs(tmp_path / "other")
    other("init", "--local", "--encoding", "1/1/1", code=0)
    other("alias", "create", "a", code=0)
    assert other.json("status") | {"servers": []} == {
        "schema": 1,
        "servers": [],
        "roots": [{"name": "a:", "last_check": None, "backups": []}],
    }
    assert other.json("status", "--max-age", "1d", code=10)["too_old"] == ["the last check of a:"]
    (tmp_path / "tree").mkdir()
    other("check", "-r", "a:", code=0)
    warned = other("backup", tmp_path / "tree", "a:t", code=0)
    assert b"no recovery kit" in warned.stderr
    assert b"no recovery kit" not in other("backup", tmp_path / "tree", "a:t", code=0).stderr
    fresh = other.json("status", "--max-age", "1d")
    assert fresh["too_old"] == []
    for path in (other.home / "state" / "history").iterdir():
        document = json.loads(path.read_text())
        path.write_text(json.dumps(document | {"time": document["time"] - 86460}))
    done = other("status", "--max-age", "1d", code=10)
    assert b"the last check of a: is older than 24 h" in done.stderr
    assert f"the last backup of {tmp_path / 'tree'} to a:t is older" in done.stderr.decode()
    for path in (other.home / "state" / "history").iterdir():
        path.write_text("{")
    assert other.json("status")["roots"][0]["backups"] == []


def test_diff(lafs: Lafs, tmp_path: Path) -> None:
    source = tmp_path / "s"
    (source / "d").mkdir(parents=True)
    for name in ("gone", "changed", "same", "d/mode"):
        (source / name).write_bytes(name.encode() * 20)
    one = lafs.json("backup", source, "b:diff")["snapshot"]
    (source / "gone").unlink()
    (source / "changed").write_bytes(b"c" * 100)
    (source / "d" / "mode").chmod(0o600)
    (source / "new\n").write_bytes(b"")
    lafs("backup", source, "b:diff", code=0)
    told = lafs("diff", one, "b:diff", code=0).stdout.decode().splitlines()
    assert told == ["m ./", "M changed", "m d/mode", "- gone", "+ new\\n"]
    lines = [json.loads(line) for line in lafs("diff", one, "b:diff", "--json", code=0).stdout.splitlines()]
    assert [(line["path"], line["change"]) for line in lines][1:3] == [("changed", "changed"), ("d/mode", "metadata")]
    assert lafs("diff", "b:diff", "b:diff", code=0).stdout == b""


@pytest.mark.slow
def test_secrets_are_in_no_log_and_no_process_list(lafs: Lafs, tree: Path, tmp_path: Path) -> None:
    """With the cap in a file: neither arguments of any process nor the log have it, or what it leads to."""
    cap = lafs("mkdir", "b:secret", code=0).stdout.decode().strip()
    (tmp_path / "cap").write_text(cap)
    secrets = [cap.split(":")[2], cap.split(":")[3]]
    secrets += [(lafs.home / name).read_text().strip() for name in ("convergence", "secret")]
    log = tmp_path / "log"
    running = lafs.start(
        *("backup", "--stdin", "-", f"@{tmp_path / 'cap'}", "-vv", "--log-file", log), stdin=-1, stdout=-1, stderr=-1
    )
    assert running.stdin is not None
    arguments = Path(f"/proc/{running.pid}/cmdline").read_bytes() if Path("/proc/self/cmdline").exists() else b""
    _, errors = running.communicate(b"x" * 1000)
    assert running.returncode == 0
    lafs("backup", tree, f"@{tmp_path / 'cap'}", "-vv", "--log-file", log, code=0)
    done = lafs("restore", f"@{tmp_path / 'cap'}", tmp_path / "out", "-vv", "--log-file", log, code=0)
    said = arguments + errors + done.stderr + log.read_bytes()
    for path in (lafs.home / "state").rglob("*"):
        if path.suffix in (".json", ".lock"):
            said += path.read_bytes() + path.name.encode()
    assert b"URI:" not in said
    for secret in secrets:
        assert secret.encode() not in said


@pytest.mark.slow
def test_state_is_for_nobody_else(lafs: Lafs, tree: Path) -> None:
    """The database has caps in it."""
    lafs("backup", tree, "b:mode", code=0)
    for path in (lafs.home / "state").rglob("*"):
        assert not path.is_file() or path.parent.stat().st_mode & 0o077 == 0 or path.stat().st_mode & 0o077 == 0
    databases = list((lafs.home / "state" / "backups").glob("*.sqlite"))
    assert [oct(path.stat().st_mode & 0o777) for path in databases] == ["0o600"]


# ---- an ordinary user ----------------------------------------------------------------------------------------------

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-m", "lafscli")


@pytest.fixture
def ordinary(short_tmp: Path) -> Lafs:
    """A home of a user who may not do much. As root: nobody's, in a folder of its own."""
    if os.geteuid():
        return Lafs(short_tmp)
    short_tmp.chmod(0o755)
    command = Lafs(short_tmp / "user", program=NOBODY)
    for path in (command.folder, command.folder / "run"):
        os.chown(path, 65534, 65534)
    if command("--version").returncode:
        pytest.skip("nobody else can run lafs here")
    return command


@pytest.mark.slow
def test_an_ordinary_user(ordinary: Lafs) -> None:
    """What can't be read is named, and the rest is kept; what can't be given back is told, and the rest restored."""
    source = ordinary.folder.parent / f"{ordinary.folder.name}-source" if os.geteuid() else ordinary.folder.parent / "s"
    every_kind(source)
    (source / "secret").write_bytes(b"s" * 100)
    (source / "closed").mkdir()
    (source / "closed" / "inside").write_bytes(b"x")
    if os.geteuid() == 0:
        for path in (source, *source.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
        (source / "script").chmod(0o4755)
        os.chown(source / "file", 0, 0)
    (source / "read only").write_bytes(b"r")
    (source / "secret").chmod(0)
    (source / "closed").chmod(0)
    os.chown(source / "read only", *((65534, 65534) if os.geteuid() == 0 else (-1, -1)))
    (source / "read only").chmod(0o400)
    ordinary("init", "--local", code=0)
    ordinary("alias", "create", "b", code=0)
    done = ordinary("backup", source, "b:", "--json", code=11)
    report = json.loads(done.stdout)
    assert sorted((Path(each["path"]).name, each["reason"]) for each in report["errors"]) == [
        ("closed", "cannot be listed: Permission denied"),
        ("secret", "cannot be read: Permission denied"),
    ]
    assert b"closed: cannot be listed: Permission denied" in done.stderr
    out = ordinary.folder / "out"
    restored = ordinary("restore", "b:", out, "--json")
    errors = [Path(each["path"]).name for each in json.loads(restored.stdout)["errors"]]
    assert (errors, restored.returncode) == ((["null"], 11) if os.geteuid() == 0 else ([], 0))
    kept = {name: what for name, what in described(source, owners=False).items() if b"closed" not in name}
    for name in (b"secret", b"null"):
        kept.pop(name, None)
    found = described(out, owners=False)
    if os.geteuid() == 0:  # the file belongs to root there: its other names are files of the user here
        for which in (kept, found):
            assert which.pop(b"file")[1] == which.pop(b"other name")[1]
    assert found == kept
    (out / "read only").chmod(0)
    again = ordinary("restore", "b:", out, "--json")
    assert [Path(each["path"]).name for each in json.loads(again.stdout)["errors"]] == errors
    assert (out / "read only").stat().st_mode & 0o777 == 0o400


def test_a_backup_under_a_cap_is_pinned(lafs: Lafs, tmp_path: Path) -> None:
    """Nothing else leads there from this home, and gc would take it for waste."""
    (tmp_path / "f").write_bytes(b"x" * 1000)
    cap = lafs.json("mkdir")["cap"]
    pins = lafs.home / "pins"
    pins.unlink()
    (lafs.folder / "target.cap").write_text(cap + "\n")
    lafs("backup", tmp_path, "@target.cap", code=0)
    read = lafs("cap", "read", "@target.cap", code=0).stdout.decode().strip()
    assert pins.read_text().split() == [read]
    lafs("backup", tmp_path, "@target.cap/deep/er", code=0)
    assert len(pins.read_text().split()) == 2


def test_an_empty_list_makes_no_snapshot(lafs: Lafs, tmp_path: Path) -> None:
    done = lafs("backup", "--files-from", "-", tmp_path, "b:empty list", input=b"\n# nothing\n", code=2)
    assert b"the list is empty" in done.stderr
    assert "empty list" not in [entry["name"] for entry in lafs.json("ls", "b:")["entries"]]


def test_a_folder_that_is_called_as_the_roots_entry(lafs: Lafs, tmp_path: Path) -> None:
    """In a part of a snapshot it is one like any other."""
    key = tmp_path / "sub" / ".lafs" / "key"
    key.parent.mkdir(parents=True)
    key.write_bytes(b"1" * 100)
    first = lafs("backup", tmp_path, "b:called", code=0).stdout.decode().strip()
    assert b".lafs/key" in lafs("restore", "--tar", "b:called/Latest/sub", code=0).stdout
    key.write_bytes(b"2" * 101)
    lafs("backup", tmp_path, "b:called", code=0)
    assert b"M .lafs/key" in lafs("diff", f"{first}/sub", "b:called/Latest/sub", code=0).stdout


def test_without_latest_the_newest_is_restored(lafs: Lafs, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_bytes(b"x")
    lafs("backup", tmp_path / "source", "b:unfinished", code=0)
    lafs("rm", "-r", "b:unfinished/Latest", code=0)
    lafs("restore", "b:unfinished", tmp_path / "out", code=0)
    assert (tmp_path / "out" / "f").read_bytes() == b"x"
