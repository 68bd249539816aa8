"""init, encoding, server commands on folders of this machine (CLI.md §3)."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest

from lafscli.primitives.encoding import b32encode
from tests.lafs_process import Lafs


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


def test_two_adds_at_once_lose_none(home: Lafs) -> None:
    running = [home.start("server", "add", f"s{i}", f"file://{home.folder}/s{i}", "-q") for i in range(4)]
    assert [each.wait() for each in running] == [0] * 4
    assert sorted(each["name"] for each in home.json("server", "list")["servers"]) == ["s0", "s1", "s2", "s3"]
