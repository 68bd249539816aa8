"""server drain, server replace, check --rebalance as processes, on folders of this machine."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.grids import content
from tests.lafs_process import Lafs


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    """A home with ten servers a … j, and one file of two shares' worth of blocks on them."""
    lafs = Lafs(tmp_path)
    lafs("init", code=0)
    lines = "".join(f"server add {name} {url(lafs, name)}\n" for name in "abcdefghij")
    lafs("batch", input=lines.encode(), code=0)
    return lafs


def url(lafs: Lafs, name: str) -> str:
    return f"file://{lafs.folder}/servers/{name}"


def put(lafs: Lafs, size: int = 50_000, seed: int = 0) -> dict[str, Any]:
    (lafs.folder / "file").write_bytes(content(size, seed))
    done = lafs.json("put", "file")
    assert isinstance(done, dict)
    return done


def servers(lafs: Lafs) -> dict[str, Any]:
    table = tomllib.loads((lafs.home / "config.toml").read_text())["servers"]
    assert isinstance(table, dict)
    return table


def shares(lafs: Lafs, name: str) -> list[Path]:
    return sorted((lafs.folder / "servers" / name / "shares").glob("*/*/*"))


@pytest.mark.slow
def test_drain_and_remove(lafs: Lafs) -> None:
    caps = [put(lafs, 50_000, seed)["cap"] for seed in range(3)]
    before = shares(lafs, "c")
    done = lafs.json("server", "drain", "c")
    size = done.pop("bytes")
    assert size > 3 * 50_000 // 3
    assert done == {
        "schema": 1,
        "server": "c",
        "shares": 3,
        "copied": 3,
        "already_elsewhere": 0,
        "failed": [],
        "foreign": 0,
        "unreachable": [],
        "readonly": True,
    }
    assert servers(lafs)["c"]["readonly"] is True
    assert shares(lafs, "c") == before
    put(lafs, 9000, 9)
    assert shares(lafs, "c") == before, "nothing new goes there"
    again = lafs("server", "drain", "c", code=0)
    assert again.stdout.decode() == "c: 3 shares of ours: 0 copied (0 B), 3 elsewhere already\n"
    assert "next: lafs server remove c" in again.stderr.decode()
    lafs("server", "remove", "c", code=0)
    for seed, cap in enumerate(caps):
        report = lafs.json("check", "--verify", cap)
        assert (report["good_shares"], report["happiness"], report["corrupt"]) == (10, 9, [])
        assert lafs("cat", cap, code=0).stdout == content(50_000, seed)


def test_drain_names_what_it_could_not_copy(lafs: Lafs) -> None:
    first, _ = put(lafs), put(lafs, 9000, 1)
    [share] = [path for path in shares(lafs, "c") if path.parent.name == first["storage_index"]]
    data = bytearray(share.read_bytes())
    data[5000] ^= 1
    share.write_bytes(data)
    done = lafs.json("server", "drain", "c", code=11)
    assert (done["shares"], done["copied"]) == (2, 1)
    [failed] = done["failed"]
    assert (failed["storage_index"], failed["share"]) == (first["storage_index"], int(share.name))
    assert failed["reason"] == "block 0: wrong hash"
    text = lafs("server", "drain", "c", code=11)
    assert f"share {share.name} of {first['storage_index']}: block 0: wrong hash" in text.stdout.decode()
    assert "run lafs server drain c again" in text.stderr.decode()


def test_drain_refuses_before_it_changes_anything(lafs: Lafs) -> None:
    assert b"no server is called 'x'" in lafs("server", "drain", "x", code=3).stderr
    (lafs.folder / "servers/c").rename(lafs.folder / "servers/gone")
    assert lafs.json("server", "drain", "c", code=8)["error"]["kind"] == "Unreachable"
    assert "readonly" not in servers(lafs)["c"]
    alone = Lafs(lafs.folder / "alone")
    alone("init", code=0)
    alone("server", "add", "one", url(lafs, "j"), code=0)
    assert b"no other server" in alone("server", "drain", "one", code=4).stderr


@pytest.mark.slow
def test_drain_leaves_what_others_put(lafs: Lafs, tmp_path: Path) -> None:
    put(lafs)
    other = Lafs(tmp_path / "other")
    other("init", code=0)
    lines = "".join(f"server add {name} {url(lafs, name)}\n" for name in "abcdefghij")
    other("batch", input=lines.encode(), code=0)
    put(other, 9000)
    done = lafs.json("server", "drain", "c")
    assert (done["shares"], done["copied"], done["foreign"]) == (1, 1, 1)
    assert "1 share of other people" in lafs("server", "drain", "c", code=0).stdout.decode()


@pytest.mark.slow
def test_replace_a_server_that_answers(lafs: Lafs) -> None:
    cap = put(lafs)["cap"]
    [share] = shares(lafs, "c")
    done = lafs.json("server", "replace", "c", "k", url(lafs, "k"), "--site", "cellar")
    assert (done["old"], done["new"], done["removed"], done["failed"]) == ("c", "k", True, [])
    assert (done["drained"]["copied"], "silent" in done, "repair" in done) == (1, False, False)
    assert "c" not in servers(lafs)
    assert servers(lafs)["k"]["site"] == "cellar"
    [copy] = shares(lafs, "k")
    assert copy.name == share.name
    assert copy.read_bytes()[:-72] == share.read_bytes()[:-72]
    assert lafs.json("check", "--verify", cap)["happiness"] == 10
    again = lafs("server", "replace", "c", "k", url(lafs, "k"), code=0)
    assert b"already" in again.stdout


@pytest.mark.slow
def test_replace_a_server_that_is_gone(lafs: Lafs) -> None:
    stored = [put(lafs, 50_000, seed) for seed in range(3)]
    names = {path.parent.name: path.name for path in shares(lafs, "c")}
    shutil.rmtree(lafs.folder / "servers/c")
    done = lafs.json("server", "replace", "c", "k", url(lafs, "k"))
    assert done["repair"] == {"objects": 3, "repaired": 3, "shares_written": 3}
    assert (done["removed"], done["failed"], "drained" in done) == (True, [], False)
    assert done["silent"]
    assert {path.parent.name: path.name for path in shares(lafs, "k")} == names
    assert "c" not in servers(lafs)
    for each in stored:
        report = lafs.json("check", "--verify", each["cap"])
        assert (report["good_shares"], report["happiness"], report["healthy"]) == (10, 10, True)


@pytest.mark.slow
def test_replace_stops_short_of_forgetting_what_it_could_not_save(lafs: Lafs) -> None:
    fine, lost = put(lafs), put(lafs, 9000, 1)
    for name in "abdefghi":
        [share] = [path for path in shares(lafs, name) if path.parent.name == lost["storage_index"]]
        share.unlink()
    shutil.rmtree(lafs.folder / "servers/c")
    done = lafs.json("server", "replace", "c", "k", url(lafs, "k"), code=11)
    assert done["removed"] is False
    assert [each["storage_index"] for each in done["failed"]] == [lost["storage_index"]]
    assert "1 of 10 shares" in done["failed"][0]["reason"]
    assert {"c", "k"} <= servers(lafs).keys()
    assert lafs.json("check", "--assume-lost", "c", fine["cap"])["happiness"] == 10
    text = lafs("server", "replace", "c", "k", url(lafs, "k"), code=11)
    assert b"--force" in text.stderr
    done = lafs.json("server", "replace", "--force", "c", "k", url(lafs, "k"), code=11)
    assert done["removed"] is True
    assert "c" not in servers(lafs)


def test_replace_makes_a_bad_share_again(lafs: Lafs) -> None:
    """It answers, but one of its shares is corrupt."""
    cap = put(lafs)["cap"]
    [share] = shares(lafs, "c")
    data = bytearray(share.read_bytes())
    data[5000] ^= 1
    share.write_bytes(data)
    done = lafs.json("server", "replace", "c", "k", url(lafs, "k"))
    assert (done["removed"], done["failed"], len(done["drained"]["failed"])) == (True, [], 1)
    assert done["repair"] == {"objects": 1, "repaired": 1, "shares_written": 1}
    assert lafs.json("check", "--verify", cap)["happiness"] == 10


def test_a_disk_that_moved_is_the_same_server(lafs: Lafs) -> None:
    cap = put(lafs)["cap"]
    (lafs.folder / "servers/c").rename(lafs.folder / "servers/moved")
    done = lafs.json("server", "replace", "c", "k", url(lafs, "moved"))
    assert (done["moved"], done["removed"]) == (True, True)
    assert servers(lafs)["k"]["url"] == url(lafs, "moved")
    assert "c" not in servers(lafs)
    assert lafs.json("check", cap)["happiness"] == 10


@pytest.mark.slow
def test_replace_refuses(lafs: Lafs) -> None:
    before = (lafs.home / "config.toml").read_bytes()
    lafs("server", "replace", "x", "k", url(lafs, "k"), code=3)
    lafs("server", "replace", "c", "d", url(lafs, "k"), code=2)
    lafs("server", "replace", "c", "c", url(lafs, "c"), code=2)
    assert b"this is the server d" in lafs("server", "replace", "c", "k", url(lafs, "d"), code=2).stderr
    lafs("server", "replace", "c", "-k", url(lafs, "k"), code=2)
    lafs("server", "replace", "c", "k", "http://host/path", code=2)
    assert (lafs.home / "config.toml").read_bytes() == before


@pytest.mark.slow
def test_rebalance(lafs: Lafs) -> None:
    """Put when there were four servers; now there are ten."""
    lines = "".join(f"server remove --force {name}\n" for name in "efghij")
    lafs("batch", input=lines.encode(), code=0)
    (lafs.folder / "file").write_bytes(content(50_000))
    cap = lafs("put", "--encoding", "3/4/10", "file", code=0).stdout.decode().strip()
    lines = "".join(f"server add {name} {url(lafs, name)}\n" for name in "efghij")
    lafs("batch", input=lines.encode(), code=0)
    plain = lafs("check", cap, code=10).stdout.decode()
    assert "to mend it: lafs check --rebalance CAP" in plain
    report = lafs.json("check", "--rebalance", cap)
    assert report["repair"] == {"attempted": True, "successful": True, "shares_written": 6}
    assert (report["happiness"], report["healthy"]) == (10, True)
    assert lafs.json("check", "--verify", cap)["happiness"] == 10
    assert "repair" not in lafs.json("check", "--rebalance", cap)
