"""check and renew as processes: what they print, what they exit with."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lafscli.formats.caps import ChkVerifyCap, DirectoryCap, MutableVerifyCap
from tests.grids import content
from tests.lafs_process import Lafs
from tests.sshd import SshServers

LIT = "URI:LIT:krugkidfnzsc4"
SIZE = 200_000
KEYS = [
    *("schema", "storage_index", "kind", "healthy", "recoverable", "k", "n", "happy", "good_shares", "happiness"),
    *("spare", "shares", "corrupt", "unreachable"),
]


class Stored:
    """A home with ten servers that are folders, and one file of which all is known."""

    def __init__(self, folder: Path) -> None:
        self.lafs = Lafs(folder)
        self.lafs("init", "--local", code=0)
        self.put = self.store(SIZE, 0)
        self.cap: str = self.put["cap"]
        (folder / "file.cap").write_text(self.cap + "\n")
        (folder / "put.json").write_text(json.dumps(self.put))

    def store(self, size: int, seed: int) -> Any:
        source = self.lafs.folder / "source"
        source.write_bytes(content(size, seed))
        return self.lafs.json("put", source)

    def root(self, server: str) -> Path:
        return self.lafs.home / "grid" / server

    def server(self, shnum: int) -> str:
        [name] = self.put["placement"][str(shnum)]
        return str(name)

    def share(self, shnum: int, put: Any = None) -> Path:
        si = (put or self.put)["storage_index"]
        [name] = (put or self.put)["placement"][str(shnum)]
        return self.root(name) / "shares" / si[:2] / si / str(shnum)

    def unmount(self, server: str) -> None:
        self.root(server).rename(self.lafs.folder / server)

    def flip(self, shnum: int, position: int) -> None:
        data = bytearray(self.share(shnum).read_bytes())
        data[position] ^= 0x10
        self.share(shnum).write_bytes(data)

    def lines(self, *arguments: str, code: int) -> list[Any]:
        done = self.lafs("check", "--json", *arguments, code=code)
        return [json.loads(line) for line in done.stdout.decode().splitlines()]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("health")
    Stored(folder)
    return folder


@pytest.fixture
def stored(template: Path, tmp_path: Path) -> Stored:
    """A copy of what was put once; the configuration names the folders of the copy."""
    folder = tmp_path / "copy"
    shutil.copytree(template, folder)
    config = folder / "home" / "config.toml"
    config.write_text(config.read_text().replace(str(template), str(folder)))
    made = object.__new__(Stored)
    made.lafs = Lafs(folder)
    made.cap = (folder / "file.cap").read_text().strip()
    made.put = json.loads((folder / "put.json").read_text())
    return made


def text(done: subprocess.CompletedProcess[bytes]) -> str:
    return done.stdout.decode()


def test_a_healthy_file(stored: Stored) -> None:
    found = stored.lafs.json("check", stored.cap)
    assert list(found) == KEYS
    assert found["shares"] == stored.put["placement"]
    del found["shares"]
    assert found == {
        "schema": 1,
        "storage_index": stored.put["storage_index"],
        "kind": "chk",
        "healthy": True,
        "recoverable": True,
        "k": 3,
        "n": 10,
        "happy": 7,
        "good_shares": 10,
        "happiness": 10,
        "spare": 7,
        "corrupt": [],
        "unreachable": [],
    }
    verified = stored.lafs.json("check", "--verify", "@file.cap")
    assert (verified["bytes_proved"], verified["bytes_not_proved"]) == (10 * 66667, 0)
    done = stored.lafs("check", stored.put["verify_cap"], code=0)
    assert "any 7 servers may be lost" in text(done)
    assert "not read (--verify" in text(done)
    assert done.stderr == b""
    assert text(stored.lafs("check", "--verify", stored.cap, code=0)).count("\n") == 1


def test_missing_shares_and_the_command_that_mends(stored: Stored) -> None:
    for shnum in (1, 5):
        stored.share(shnum).unlink()
    [said] = text(stored.lafs("check", "@file.cap", code=10)).splitlines()
    assert said.startswith("damaged: 8 of 10 shares on 8 servers; any 5 more servers may be lost; ")
    assert said.endswith("lafs repair @file.cap")
    for shnum in range(8):
        stored.share(shnum).unlink(missing_ok=True)
    found = stored.lafs.json("check", stored.cap, code=5)
    assert (found["recoverable"], found["spare"], found["good_shares"]) == (False, -1, 2)
    assert text(stored.lafs("check", stored.cap, code=5)).startswith("lost: 2 of 10 shares on 2 servers, 3 are needed")


def test_verify_names_server_share_and_reason(stored: Stored) -> None:
    stored.flip(4, 5000)
    stored.flip(6, 3)
    assert stored.lafs.json("check", stored.cap)["healthy"]
    found = stored.lafs.json("check", "--verify", stored.cap, code=10)
    assert found["corrupt"] == [
        {"server": stored.server(4), "share": 4, "reason": "block 0: wrong hash"},
        {"server": stored.server(6), "share": 6, "reason": "container: version 18 is not known"},
    ]
    lines = text(stored.lafs("check", "--verify", stored.cap, code=10)).splitlines()
    assert lines[1:] == [
        f"  {stored.server(4)}: share 4 is corrupt: block 0: wrong hash",
        f"  {stored.server(6)}: share 6 is of another version: container: version 18 is not known",
    ]


def test_silent_servers(stored: Stored) -> None:
    stored.unmount(stored.server(0))
    found = stored.lafs.json("check", stored.cap, code=6)
    assert (found["recoverable"], found["healthy"], found["good_shares"]) == (True, False, 9)
    assert found["unreachable"] == [{"server": stored.server(0), "reason": "its server.toml is gone"}]
    lines = text(stored.lafs("check", stored.cap, code=6)).splitlines()
    assert "--assume-lost" in lines[0]
    assert lines[1] == f"  {stored.server(0)} did not answer: its server.toml is gone"

    lost = stored.lafs.json("check", "--assume-lost", stored.server(0), stored.cap, code=10)
    assert (lost["recoverable"], lost["unreachable"], lost["happy"]) == (True, [], 7)

    for shnum in range(1, 8):
        stored.unmount(stored.server(shnum))
    assert stored.lafs.json("check", stored.cap, code=6)["recoverable"] is None
    for shnum in (8, 9):
        stored.unmount(stored.server(shnum))
    error = stored.lafs.json("check", stored.cap, code=8)["error"]
    assert (error["code"], error["kind"]) == (8, "Unreachable")
    assert [line["summary"]["unknown"] for line in stored.lines("-r", stored.cap, code=8) if "summary" in line] == [1]


def test_all_shares_seen_is_zero_though_a_server_is_silent(stored: Stored) -> None:
    source, target = stored.share(2), stored.share(3).parent / "2"
    shutil.copy(source, target)
    stored.unmount(stored.server(2))
    found = stored.lafs.json("check", stored.cap)
    assert (found["healthy"], [each["server"] for each in found["unreachable"]]) == (True, [stored.server(2)])


def test_several_are_lines_and_a_summary(stored: Stored) -> None:
    other = stored.store(3000, 1)
    stored.share(0, other).unlink()
    third = stored.store(4000, 2)
    for shnum in range(8):
        stored.share(shnum, third).unlink()
    lines = stored.lines("@file.cap", LIT, other["cap"], third["verify_cap"], code=5)
    assert [line.get("path") for line in lines] == [
        *("@file.cap", "lit", other["storage_index"], third["storage_index"], None)
    ]
    assert [line["spare"] for line in lines[:4]] == [7, None, 6, -1]
    assert lines[4] == {
        "schema": 1,
        "summary": {
            "objects": 4,
            "healthy": 2,
            "degraded": 1,
            "unrecoverable": 1,
            "unknown": 0,
            "repaired": 0,
            "corrupt_shares": 0,
        },
    }
    done = stored.lafs("check", "@file.cap", other["cap"], code=10)
    said = text(done).splitlines()
    assert said[0].startswith("@file.cap: healthy: ")
    assert said[1].startswith(f"{other['storage_index']}: damaged: ")
    assert said[2] == "2 objects: 1 healthy, 1 damaged"
    assert b"URI:CHK" not in done.stdout + done.stderr
    [one, summary] = stored.lines("-r", stored.cap, code=0)
    assert (one["path"], summary["summary"]["healthy"]) == (stored.put["storage_index"], 1)


def test_a_sample_and_an_end(stored: Stored) -> None:
    put = stored.lafs.json("put", stored.lafs.folder / "source", "--segment-size", "3000")
    found = stored.lafs.json("check", "--sample", "10%", put["cap"])
    assert found["healthy"]
    assert 0.05 < found["bytes_proved"] / (found["bytes_proved"] + found["bytes_not_proved"]) < 0.2
    assert "% of the blocks were not read" in text(stored.lafs("check", "--sample", "10", put["cap"], code=0))
    caps = [stored.cap] * 60
    lines = stored.lines("--verify", "--max-time", "0s", *caps, code=11)
    assert lines[-1]["summary"]["not_reached"] == 10
    assert len(lines) == 51


def test_a_literal_cap_needs_no_home(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    found = lafs.json("check", LIT)
    assert list(found) == KEYS
    assert (found["healthy"], found["spare"], found["shares"], found["kind"]) == (True, None, {}, "lit")
    assert text(lafs("check", "--verify", LIT, code=0)) == "healthy: the content is in the cap itself\n"
    assert lafs.json("renew", LIT) == {"schema": 1, "renewed": 0, "added": 0, "failed": 0}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["URI:CHK:x:y:3:10:5"], 2, "malformed cap"),
        (["no-cap"], 2, "there is no home"),
        (["@nowhere"], 3, "no such file"),
        ([str(MutableVerifyCap(False, bytes(16), bytes(32)))], 2, "there is no home"),
        ([str(DirectoryCap(ChkVerifyCap(bytes(16), bytes(32), 3, 10, 99))), "-r"], 9, "can't read the directory"),
        (["URI:NEW:x"], 2, "does not know"),
        ([str(ChkVerifyCap(bytes(16), bytes(32), 3, 10, 99)) + "/inside"], 2, "file"),
        ([LIT, "--sample", "0"], 2, "not a percentage"),
        ([LIT, "--sample", "101"], 2, "not a percentage"),
        ([LIT, "--sample", "nan"], 2, "not a percentage"),
        ([], 2, "missing argument"),
    ],
)
def test_what_cannot_be_checked(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    done = Lafs(tmp_path)("check", *arguments, code=code)
    assert said in done.stderr.decode()
    assert done.stdout == b""


def test_a_server_given_up_that_there_is_not(stored: Stored) -> None:
    done = stored.lafs("check", stored.cap, "--assume-lost", "nobody", code=3)
    assert "no server is called 'nobody'" in done.stderr.decode()


def test_no_share_at_all(stored: Stored) -> None:
    nothing = str(ChkVerifyCap(bytes(16), bytes(32), 3, 10, 99))
    found = stored.lafs.json("check", nothing, code=5)
    assert (found["recoverable"], found["shares"], found["happiness"]) == (False, {}, 0)


@pytest.mark.slow
def test_renew(stored: Stored) -> None:
    second = stored.store(3000, 1)
    stored.lafs("put", "-", input=b"short", code=0)
    assert stored.lafs.json("renew") == {"schema": 1, "renewed": 20, "added": 0, "failed": 0}
    assert stored.lafs.json("renew", "@file.cap") == {"schema": 1, "renewed": 10, "added": 0, "failed": 0}
    (stored.lafs.home / "secret").write_text("a" * 52 + "\n")
    assert stored.lafs.json("check", "--add-lease", second["cap"])["leases"] == {"renewed": 0, "added": 10, "failed": 0}
    assert text(stored.lafs("renew", code=0)) == "10 leases renewed, 10 added\n"
    assert "20 leases renewed" in text(stored.lafs("renew", code=0))
    assert "; 10 leases renewed, 0 added; " in text(stored.lafs("check", "--add-lease", "@file.cap", code=0))
    assert stored.lafs.json("check", "--verify", stored.cap)["healthy"]


def test_renew_names_what_failed(stored: Stored) -> None:
    stored.unmount(stored.server(0))
    done = stored.lafs("renew", "--json", code=11)
    assert json.loads(done.stdout) == {"schema": 1, "renewed": 9, "added": 0, "failed": 1}
    assert f"server {stored.server(0)}: 1 lease not renewed" in done.stderr.decode()
    nothing = str(ChkVerifyCap(bytes(16), bytes(32), 3, 10, 99))
    for shnum in range(1, 10):
        stored.unmount(stored.server(shnum))
    assert "no server could be reached" in stored.lafs("renew", nothing, code=8).stderr.decode()


def test_check_in_a_batch(stored: Stored) -> None:
    stored.share(0).unlink()
    done = stored.lafs("batch", "--json", input=b"check @file.cap\ncheck " + LIT.encode(), code=10)
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["line"], first["good_shares"], second["line"], second["kind"]) == (1, 9, 2, "lit")


@pytest.mark.slow
def test_over_ssh(tmp_path: Path, ssh_servers: SshServers) -> None:
    """Ten servers, seven stopped: nobody can tell. Three of them come back empty: damaged, and exactly so."""
    lafs = Lafs(tmp_path / "client")
    lafs("init", code=0)
    lafs.add_servers(ssh_servers)
    source = tmp_path / "source"
    source.write_bytes(content(2_000_000))
    cap = lafs.json("put", source)["cap"]
    assert lafs.json("check", "--verify", cap)["bytes_not_proved"] == 0
    assert lafs.json("renew")["renewed"] == 10

    for i in range(7):
        ssh_servers.stop(i)
    found = lafs.json("check", "--verify", cap, code=6)
    assert (found["recoverable"], found["good_shares"], len(found["unreachable"])) == (True, 3, 7)
    for i in range(7):
        if i < 3:
            shutil.rmtree(ssh_servers.root(i) / "shares")
            (ssh_servers.root(i) / "shares").mkdir()
        ssh_servers.start(i)
    found = lafs.json("check", "--verify", cap, code=10)
    assert (found["good_shares"], found["spare"], found["unreachable"], found["corrupt"]) == (7, 4, [], [])
    lost = [word for i in range(3) for word in ("--assume-lost", f"s{i}")]
    assert lafs.json("check", *lost, cap, code=10)["shares"] == found["shares"]
