"""`lafs` against `lafs serve`, as people run both: files, directories, health, and what the server's rules say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.grids import content
from tests.lafs_process import Lafs
from tests.serving import ListenServers, StdioServers

Servers = ListenServers | StdioServers


@pytest.fixture
def lafs(short_tmp: Path) -> Lafs:
    made = Lafs(short_tmp)
    made("init", "--encoding", "2/3/3", code=0)
    return made


def batch(lafs: Lafs, *lines: str, code: int = 0) -> list[list[dict[str, Any]]]:
    """These commands over one set of connections: of each its JSON documents."""
    done = lafs("batch", "--json", input="".join(f"{line}\n" for line in lines).encode(), code=code)
    found: list[list[dict[str, Any]]] = [[] for _ in lines]
    for line in done.stdout.decode().splitlines():
        document = json.loads(line)
        found[document["line"] - 1].append(document)
    return found


def adding(servers: Servers) -> list[str]:
    return [
        f"server add {servers.name(i)} {servers.url(i)} --option ssh-config={servers.config}"
        for i in range(servers.count)
    ]


def shares_of(servers: Servers, i: int) -> list[Path]:
    return sorted((servers.root(i) / "shares").glob("*/*/*"))


def story(lafs: Lafs, servers: Servers) -> None:
    """Everything that a user does in a day, in two runs."""
    (lafs.folder / "big").write_bytes(content(1_500_000))
    (lafs.folder / "small").write_bytes(content(3000, 1))
    *_, status, big, _, small, _, listed, removed, checked = batch(
        lafs,
        *adding(servers),
        "server status",
        "put big",
        "alias create home",
        "put small home:docs/a",
        "mv home:docs/a home:docs/b",
        "ls home:docs",
        "rm home:docs/b",
        "check --verify -r home:",
    )
    for server in status[0]["servers"]:
        assert server["reachable"]
        assert server["software"].startswith("lafs ")
        policy = server["policy"]
        assert (policy["append_only"], policy["read_only"], policy["quota"], policy["reserve"]) == (
            False,
            False,
            None,
            0,
        )
        assert {"posix-rename", "hardlink", "rename-keeps", "folder-rename-keeps", "ordered"} <= set(server["features"])
    assert (big[0]["happiness"], small[0]["happiness"]) == (3, 3)
    assert [entry["name"] for entry in listed[0]["entries"]] == ["b"]
    assert removed[0]["removed"]
    assert checked[-1]["summary"]["healthy"] == checked[-1]["summary"]["objects"] == 2

    # one share is damaged, and of everything else one is gone
    (lafs.folder / "cap").write_text(big[0]["cap"] + "\n")
    si = big[0]["storage_index"]
    for path in shares_of(servers, 0):
        if path.parent.name != si:
            path.unlink()
    damaged, whole = (servers.root(i) / "shares" / si[:2] / si for i in (1, 2))
    [bad] = damaged.iterdir()
    good = bad.read_bytes()
    bad.write_bytes(good[:5000] + b"x" + good[5001:])
    [repaired], deep, [renewed], put_again, scanned, got = batch(
        lafs,
        "repair @cap",
        "repair -r home:",
        "renew @cap",
        "put small home:again",
        "server scan s2",
        "get home:again out",
    )
    assert deep[-1]["summary"]["healthy"] == deep[-1]["summary"]["repaired"] == 2
    assert len(shares_of(servers, 0)) >= 3
    assert (repaired["healthy"], repaired["repair"]["shares_written"]) == (True, 1)
    assert (renewed["failed"], renewed["renewed"] + renewed["added"]) == (0, 3)
    assert bad.read_bytes()[: len(good) - 72] == good[:-72]
    assert len(list((servers.root(1) / "quarantine").iterdir())) == 1
    assert len(list(whole.iterdir())) == 1
    assert put_again[0]["size"] == 3000
    assert got[0]["size"] == 3000
    assert (lafs.folder / "out").read_bytes() == content(3000, 1)
    assert sorted((each["storage_index"], each["share"], each["size"]) for each in scanned) == sorted(
        (path.parent.name, int(path.name), path.stat().st_size) for path in shares_of(servers, 2)
    )
    for i in range(3):
        assert list((servers.root(i) / "locks").iterdir()) == []


def test_a_day_with_stdio(lafs: Lafs, short_tmp: Path) -> None:
    with StdioServers(short_tmp / "serving", 3) as servers:
        story(lafs, servers)
        moved_back(lafs, servers)


@pytest.mark.slow
def test_a_day_with_listen(lafs: Lafs, short_tmp: Path) -> None:
    with ListenServers(short_tmp / "serving", 3) as servers:
        story(lafs, servers)


def moved_back(lafs: Lafs, servers: StdioServers) -> None:
    """The same home, and the folders as they are, without any server: nothing is converted."""
    text = (lafs.home / "config.toml").read_text()
    for i in range(servers.count):
        text = text.replace(servers.url(i), f"file://{servers.root(i)}")
    (lafs.home / "config.toml").write_text("\n".join(line for line in text.splitlines() if "ssh-config" not in line))
    lafs("put", "big", "home:local", code=0)
    assert lafs("cat", "home:again", code=0).stdout == content(3000, 1)
    assert lafs.json("check", "--verify", "@cap")["healthy"]


@pytest.mark.slow
def test_what_a_server_says_is_shown(lafs: Lafs, short_tmp: Path) -> None:
    (lafs.folder / "big").write_bytes(content(2_000_000))
    with StdioServers(short_tmp / "serving", 3, "--quota", "300K", "--append-only", "--history", "2") as servers:
        batch(lafs, *adding(servers))
        done = lafs("put", "big", code=4)
        assert b"quota" in done.stderr
        assert b"nothing was stored" in done.stderr
        shown = lafs("server", "status", code=0).stdout.decode()
        assert shown.count("append-only, history 2, quota ") == 3
        policies = [each["policy"] for each in lafs.json("server", "status")["servers"]]
        assert all(each["append_only"] and each["quota"] == 300 * 1024 for each in policies)
        assert all(0 <= each["used"] <= each["quota"] for each in policies)


def test_scanning_plain_folders(tmp_path: Path) -> None:
    """By listing; and what can't be listed is told."""
    lafs = Lafs(tmp_path)
    lafs("init", "--local", "--encoding", "1/1/2", code=0)
    (tmp_path / "source").write_bytes(content(1000))
    put = lafs.json("put", "source")
    [name] = put["placement"]["1"]
    [path] = (lafs.home / "grid" / name / "shares").glob("*/*/*")
    done = lafs("server", "scan", name, code=0)
    assert done.stdout.decode().split() == [put["storage_index"], "1", str(path.stat().st_size)]
    listed = lafs.json("server", "scan", name)
    assert (listed["storage_index"], listed["share"], listed["size"]) == (put["storage_index"], 1, path.stat().st_size)
    empty = next(each.name for each in (lafs.home / "grid").iterdir() if not list((each / "shares").glob("*/*/*")))
    assert lafs("server", "scan", empty, "--json", code=0).stdout == b""
    assert b"no server is called" in lafs("server", "scan", "nobody", code=3).stderr
    (lafs.home / "grid" / empty).rename(tmp_path / "away")
    lafs("server", "scan", empty, code=8)
    if os.geteuid():
        path.parent.chmod(0)
        lafs("server", "scan", name, code=8)
        path.parent.chmod(0o700)


def test_a_scan_stops_where_nobody_reads_on(tmp_path: Path) -> None:
    plenty = Lafs(tmp_path)
    plenty("init", "--local", "--encoding", "1/1/1", code=0)
    shares = plenty.home / "grid" / "local0" / "shares"
    for number in range(3000):
        prefix = "abcdefghij"[number % 10]
        folder = shares / f"{prefix}a" / f"{prefix}a{number:023d}".translate(str.maketrans("0189", "zyxw"))
        folder = folder.with_name(folder.name + "a")
        folder.mkdir(parents=True)
        (folder / "0").write_bytes(b"")
    process = plenty.start("server", "scan", "local0", stdout=-1, stderr=-1)
    assert process.stdout is not None
    assert len(process.stdout.readline().split()) == 3
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.wait()
    assert len(plenty("server", "scan", "local0", code=0).stdout.splitlines()) == 3000
