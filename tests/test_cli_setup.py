"""init, encoding, server commands on folders of this machine (CLI.md §3)."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path

import pytest

from lafscli.primitives.encoding import b32encode
from tests.lafs_process import Lafs

CHK = "URI:CHK:" + 26 * "a" + ":" + 52 * "a" + ":3:10:1000"


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    return Lafs(tmp_path)


@pytest.fixture
def home(lafs: Lafs) -> Lafs:
    """A home without servers."""
    lafs("init", code=0)
    return lafs


def _files(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def _add(lafs: Lafs, *names: str) -> None:
    lines = "".join(f"server add {name} file://{lafs.folder}/servers/{name}\n" for name in names)
    lafs("batch", input=lines.encode(), code=0)


# ---- init


def test_init(lafs: Lafs) -> None:
    old = os.umask(0)
    try:
        answer = lafs.json("init")
    finally:
        os.umask(old)
    assert answer == {"schema": 1, "home": str(lafs.home), "created": True, "servers": []}
    assert stat.S_IMODE(lafs.home.stat().st_mode) == 0o700
    for name in ("config.toml", "aliases", "convergence", "secret", "pins"):
        assert stat.S_IMODE((lafs.home / name).stat().st_mode) == 0o600, name
    table = tomllib.loads((lafs.home / "config.toml").read_text())
    assert table["encoding"] == {"k": 3, "happy": 7, "n": 10, "segment-size": 1048576}


def test_init_twice_changes_nothing(lafs: Lafs) -> None:
    lafs("init", "--encoding", "1/2/3", code=0)
    before = _files(lafs.home)
    done = lafs("init", "--local", "--encoding", "2/3/4", code=0)
    assert b"there is already" in done.stdout
    assert b"--local changes nothing" in done.stderr
    assert _files(lafs.home) == before
    assert lafs.json("init") == {"schema": 1, "home": str(lafs.home), "created": False, "servers": []}


def test_init_local_works_at_once(lafs: Lafs) -> None:
    answer = lafs.json("init", "--local")
    assert answer["servers"] == [f"local{i}" for i in range(10)]
    (lafs.folder / "x").write_bytes(os.urandom(3000))
    cap = lafs("put", "x", code=0).stdout.decode().strip()
    assert lafs("cat", cap, code=0).stdout == (lafs.folder / "x").read_bytes()
    assert len(list((lafs.home / "grid").glob("local*/shares/*/*/*"))) == 10
    status = lafs.json("server", "status")["servers"]
    assert [each["name"] for each in status] == answer["servers"]
    for each in status:
        assert each["reachable"]
        assert each["writable"]
        assert each["latency_ms"] >= 0
        assert 0 < each["free"] <= each["total"]
        assert "rename-keeps" in each["features"]


def test_default_home_spreads_over_xdg(lafs: Lafs) -> None:
    lafs("init", "--local", code=0, LAFS_HOME="", XDG_DATA_HOME=str(lafs.folder / "data"))
    assert (lafs.folder / ".config/lafs/config.toml").exists()
    assert (lafs.folder / "data/lafs/grid/local9/server.toml").exists()


def test_init_from_tahoe(lafs: Lafs) -> None:
    node = lafs.folder / "node"
    (node / "private").mkdir(parents=True)
    (node / "tahoe.cfg").write_text("[client]\nshares.needed = 2\nshares.happy = 3\nshares.total = 5\n")
    (node / "private/convergence").write_text(b32encode(b"short") + "\n")
    (node / "private/secret").write_text(b32encode(bytes(32)) + "\n")
    (node / "private/aliases").write_text("home: URI:DIR2:a:b\n")
    lafs("init", "--from-tahoe", node, code=0)
    for name in ("convergence", "secret", "aliases"):
        assert (lafs.home / name).read_text() == (node / "private" / name).read_text()
        assert stat.S_IMODE((lafs.home / name).stat().st_mode) == 0o600
    assert lafs.json("encoding")["n"] == 5
    assert b"no tahoe.cfg" in lafs("--home", "h2", "init", "--from-tahoe", lafs.folder, code=2).stderr
    assert not (lafs.folder / "h2").exists()


def test_commands_without_a_home(lafs: Lafs) -> None:
    (lafs.folder / "x").write_bytes(bytes(100))
    for arguments in (["server", "list"], ["put", "x"], ["encoding"]):
        done = lafs(*arguments, code=2)
        assert done.stderr.decode().splitlines() == [
            f"lafs: there is no home at {lafs.home}",
            "hint: lafs init makes one",
        ]
    assert not lafs.home.exists()


def test_init_where_a_file_is(lafs: Lafs) -> None:
    lafs.home.write_text("")
    for arguments in (["init"], ["init", "--local"]):
        done = lafs(*arguments, code=2)
        assert done.stderr.decode().splitlines()[0] == f"lafs: {lafs.home} is not a folder"
    assert b"Errno" not in lafs("encoding", code=2).stderr


def test_init_again_needs_no_writing(lafs: Lafs) -> None:
    lafs("init", code=0)
    (lafs.home / ".lock").unlink()
    (lafs.home / ".lock").mkdir()  # nobody can take it
    assert b"there is already" in lafs("init", code=0).stdout


def test_unreadable_configuration_says_why_in_words(lafs: Lafs) -> None:
    (lafs.home / "config.toml").mkdir(parents=True)
    lafs.home.chmod(0o700)
    [first, *_] = lafs("encoding", code=2).stderr.decode().splitlines()
    assert first == f"lafs: cannot read {lafs.home}/config.toml: Is a directory"


def test_home_that_others_may_read(lafs: Lafs) -> None:
    """An empty folder is taken as ours; of one with something in it the mode is its owner's affair."""
    lafs.home.mkdir(0o755)
    assert lafs("init", code=0).stderr.count(b"warning") == 0
    assert stat.S_IMODE(lafs.home.stat().st_mode) == 0o700
    other = lafs.folder / "other"
    other.mkdir(0o755)
    (other / "notes").write_text("")
    assert f"chmod 700 {other}" in lafs("--home", other, "init", code=0).stderr.decode()
    assert stat.S_IMODE(other.stat().st_mode) == 0o755


def test_configuration_says_what_becomes_of_comments(lafs: Lafs) -> None:
    lafs("init", code=0)
    path = lafs.home / "config.toml"
    assert path.read_text().startswith("# written by lafs; comments are not kept\n")
    path.write_text(path.read_text() + "# mine\n")
    lafs("encoding", "2/3/4", code=0)
    assert path.read_text().count("#") == 1


# ---- encoding


def test_encoding(home: Lafs) -> None:
    _add(home, *(f"s{i}" for i in range(10)))
    assert home.json("encoding") == {
        "schema": 1,
        "k": 3,
        "happy": 7,
        "n": 10,
        "segment_size": 1048576,
        "expansion": 3.3333,
        "servers": 10,
        "may_lose": 7,
        "guaranteed": 4,
    }
    assert home("encoding", code=0).stdout.decode() == (
        "3 of 10 shares rebuild a file; on your 10 servers any 7 may be lost; "
        "at least 4 may always be lost (happy 7); stores 3.33 bytes a byte\n"
    )
    assert home.json("encoding", "2/3/4")["k"] == 2
    assert home.json("encoding")["guaranteed"] == 1
    assert b"you have 10" in home("encoding", "3/11/12", code=0).stderr
    home("encoding", "4/3/2", code=2)
    assert home.json("encoding")["n"] == 12


# ---- servers


def test_server_add_list_remove(home: Lafs) -> None:
    url = f"file://{home.folder}/deep/down/a"
    answer = home.json("server", "add", "a", url, "--site", "cellar")
    assert (answer["name"], answer["url"], answer["site"], answer["readonly"]) == ("a", url, "cellar", False)
    written = tomllib.loads((home.folder / "deep/down/a/server.toml").read_text())
    assert written["node-id"] == answer["node_id"]
    assert home.json("server", "list")["servers"] == [
        {"name": "a", "url": url, "node_id": answer["node_id"], "readonly": False, "site": "cellar"}
    ]
    assert answer["node_id"] in home("server", "list", code=0).stdout.decode()
    assert b"already" in home("server", "add", "a", f"file://{home.folder}/b", code=2).stderr
    assert not (home.folder / "b").exists()
    assert b"this is the server a" in home("server", "add", "b", url, code=2).stderr
    assert home.json("server", "remove", "a", "--force") == {"schema": 1, "removed": "a"}
    assert home.json("server", "list")["servers"] == []
    assert (home.folder / "deep/down/a/server.toml").exists()
    again = home.json("server", "add", "other", url)
    assert again["node_id"] == answer["node_id"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["a", "http://x/y"],
        ["a", "sftp://-oProxyCommand=touch/x"],
        ["-a", "file:///x"],
        ["a/b", "file:///x"],
        ["a", "file:///x", "--option", "no-such=1"],
        ["a", "file:///x", "--option", "timeout"],
        ["a", "file:///x", "--node-id", "abc"],
        ["a", "file:///x", "--permutation-seed", "!!"],
    ],
)
def test_server_add_refuses(home: Lafs, arguments: list[str]) -> None:
    before = (home.home / "config.toml").read_bytes()
    home("server", "add", *arguments, code=2)
    assert (home.home / "config.toml").read_bytes() == before


def test_server_identity(home: Lafs) -> None:
    """Node ids are given, found, or made; a folder that says another is refused with exit 8."""
    url = f"file://{home.folder}/a"
    given = home.json("server", "add", "a", url, "--node-id", "00" * 20, "--permutation-seed", "mfrgg")
    assert given["node_id"] == "a" * 32
    table = tomllib.loads((home.home / "config.toml").read_text())
    assert table["servers"]["a"]["permutation-seed"] == "mfrgg"
    home("server", "remove", "a", "--force", code=0)
    assert b"another node-id" in home("server", "add", "a", url, "--node-id", "11" * 20, code=8).stderr
    assert home.json("server", "list")["servers"] == []


def test_readonly_server_gets_nothing(home: Lafs) -> None:
    home("encoding", "1/1/2", code=0)
    _add(home, "a", "b")
    home("server", "remove", "b", code=0)
    home("server", "add", "b", f"file://{home.folder}/servers/b", "--readonly", code=0)
    (home.folder / "x").write_bytes(os.urandom(500))
    placed = home.json("put", "x")["placement"]
    assert {name for names in placed.values() for name in names} == {"a"}
    assert home.json("encoding")["servers"] == 1


def test_server_remove_guards_happiness(home: Lafs) -> None:
    home("encoding", "1/2/2", code=0)
    _add(home, "a", "b", "c")
    home("server", "remove", "a", code=0)
    done = home("server", "remove", "b", code=4)
    assert b"--force b" in done.stderr
    assert len(home.json("server", "list")["servers"]) == 2
    home("server", "remove", "b", "--force", code=0)
    assert b"there are: c" in home("server", "remove", "b", code=3).stderr


def test_status_of_servers_that_are_gone(home: Lafs) -> None:
    _add(home, "a", "b")
    (home.folder / "servers/a").rename(home.folder / "servers/moved")
    answer = home.json("server", "status", code=11)
    assert [each["reachable"] for each in answer["servers"]] == [False, True]
    assert answer["servers"][0]["reason"]
    assert home.json("server", "status", "b")["servers"][0]["name"] == "b"
    home("server", "status", "nobody", code=3)
    (home.folder / "servers/b/server.toml").unlink()
    assert [each["reachable"] for each in home.json("server", "status", code=8)["servers"]] == [False, False]


def test_status_tells_what_to_do_about_silent_servers(home: Lafs) -> None:
    _add(home, "a", "b", "c")
    for name in "ab":
        (home.folder / "servers" / name / "server.toml").unlink()
    hint = "is the disk with the shares mounted there?"
    servers = home.json("server", "status", code=11)["servers"]
    assert [each.get("hint") for each in servers] == [hint, hint, None]
    done = home("server", "status", code=11)
    assert done.stderr.decode().splitlines() == [f"hint: {hint}"]
    assert home("server", "status", "-q", code=11).stderr == b""


def test_refusal_of_a_server_names_it(home: Lafs) -> None:
    (home.folder / "file").write_text("")
    done = home("server", "add", "blue", f"file://{home.folder}/file/below", code=8)
    assert done.stderr.decode().startswith("lafs: server blue: ")
    document = json.loads(home("server", "add", "blue", f"file://{home.folder}/file/x", "--json", code=8).stdout)
    assert document["error"]["message"].startswith("server blue: ")


def test_folder_that_can_not_be_made_is_named(home: Lafs) -> None:
    for url, named in (("file:///proc/q", "/proc/q"), ("file:///proc/q/deep", "/proc/q/deep")):
        said = home("server", "add", "blue", url, code=8).stderr.decode()
        assert said.startswith(f"lafs: server blue: the folder {named} can't be made")


def test_no_server_is_one_sentence(home: Lafs) -> None:
    (home.folder / "x").write_bytes(bytes(100))
    (home.folder / "cap").write_text(CHK + "\n")
    for arguments in (
        ["put", "x"],
        ["get", "@cap", "y"],
        ["share", "find", "@cap"],
        ["server", "status"],
        ["check", "@cap"],
    ):
        assert home(*arguments, code=2).stderr.decode().splitlines() == [
            "lafs: no server is configured",
            "hint: lafs server add NAME URL, or lafs grid import FILE",
        ]


def test_each_server_is_swept_once_a_day(home: Lafs) -> None:
    """Only one that was asked and answered counts as swept."""
    home("encoding", "1/1/1", code=0)
    _add(home, "a", "b")
    old = [home.folder / "servers" / name / "staging" / f"{'a' * 26}.0.{'b' * 26}" for name in "ab"]
    for path in old:
        path.write_bytes(b"")
        os.utime(path, (0, 0))
    (home.folder / "x").write_bytes(os.urandom(100))
    [[first]] = home.json("put", "x")["placement"].values()
    assert [path.exists() for path in old] == [first != "a", first != "b"]
    for _ in range(20):
        if not any(path.exists() for path in old):
            break
        home("put", "x", "--no-convergence", code=0)
    assert not any(path.exists() for path in old)
    assert sorted(path.name for path in (home.home / "state/swept").iterdir()) == ["a", "b"]


def test_two_adds_at_once_lose_none(home: Lafs) -> None:
    running = [home.start("server", "add", f"s{i}", f"file://{home.folder}/s{i}", "-q") for i in range(4)]
    assert [each.wait() for each in running] == [0] * 4
    assert sorted(each["name"] for each in home.json("server", "list")["servers"]) == ["s0", "s1", "s2", "s3"]
