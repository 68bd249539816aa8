"""check, repair, renew, drain and replace over directories and mutable files, as a user runs them (CLI.md §3, §5)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.lafs_process import Lafs

FIELDS = {
    *("schema", "storage_index", "kind", "healthy", "recoverable", "k", "n", "happy", "good_shares", "happiness"),
    *("spare", "shares", "corrupt", "unreachable", "path"),
}


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    """A home with a small tree: home:docs/{a,b,tiny,notes(mutable),sub/{c,back -> docs}} and home:old -> docs."""
    made = Lafs(tmp_path)
    made("init", "--local", code=0)
    for name, size in (("a", 3000), ("b", 90_000), ("c", 500), ("tiny", 5), ("notes", 700)):
        (tmp_path / name).write_bytes(os.urandom(size))
    lines = [
        "alias create home",
        "put a home:docs/a",
        "put b home:docs/b",
        "put tiny home:docs/tiny",
        "put notes home:docs/notes --mutable",
        "put c home:docs/sub/c",
        "ln home:docs home:docs/sub/back",
        "ln home:docs home:old",
    ]
    made("batch", input="\n".join(lines).encode(), code=0)
    return made


PATHS = ["home:", "home:docs", "home:docs/a", "home:docs/b", "home:docs/notes", "home:docs/sub", "home:docs/sub/c"]


def run(lafs: Lafs, *arguments: str, code: int = 0) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The reports by path, and the summary."""
    done = lafs(*arguments, "--json", code=code)
    *reports, last = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert all(report.keys() >= FIELDS for report in reports)
    return {report["path"]: report for report in reports}, last["summary"]


def server(lafs: Lafs, number: int) -> Path:
    return lafs.home / "grid" / f"local{number}"


@pytest.mark.slow
def test_every_object_once_with_its_path(lafs: Lafs) -> None:
    """Cycles are cut; what is in its cap counts too."""
    reports, summary = run(lafs, "check", "-r", "home:")
    assert sorted(reports) == sorted([*PATHS, "home:docs/tiny"])
    assert summary == {
        "objects": 8, "healthy": 8, "degraded": 0, "unrecoverable": 0, "unknown": 0, "repaired": 0, "corrupt_shares": 0
    }  # fmt: skip
    kinds = {path: report["kind"] for path, report in reports.items()}
    assert kinds["home:docs"] == "dir2"
    assert (kinds["home:docs/notes"], kinds["home:docs/a"], kinds["home:docs/tiny"]) == ("sdmf", "chk", "lit")
    assert reports["home:docs"]["versions"] == {"recoverable": 1, "unrecoverable": 0}
    assert "versions" not in reports["home:docs/a"]
    assert reports["home:docs/tiny"]["spare"] is None
    again, _ = run(lafs, "deep-check", "home:docs")
    assert sorted(again) == sorted(path for path in [*PATHS, "home:docs/tiny"] if path != "home:")
    cap = lafs("cap", "read", "home:docs", code=0).stdout.decode().strip()
    by_cap, _ = run(lafs, "check", "-r", cap)
    assert not any("URI" in path for path in by_cap)
    assert {path.partition("/")[2] for path in by_cap} == {"", "a", "b", "tiny", "notes", "sub", "sub/c"}
    one = lafs.json("check", "home:docs/sub/back/notes")
    assert (one["kind"], one["healthy"]) == ("sdmf", True)
    assert "path" not in one


@pytest.mark.slow
def test_a_lost_disk_is_made_good(lafs: Lafs) -> None:
    shutil.rmtree(server(lafs, 4) / "shares")
    (server(lafs, 4) / "shares").mkdir()
    reports, summary = run(lafs, "check", "-r", "home:", code=10)
    assert (summary["degraded"], summary["healthy"]) == (7, 1)
    reports, summary = run(lafs, "repair", "-r", "home:")
    assert (summary["repaired"], summary["healthy"]) == (7, 8)
    assert all(report["repair"]["shares_written"] == 1 for report in reports.values() if report["kind"] != "lit")
    reports, summary = run(lafs, "check", "-r", "--verify", "home:")
    assert (summary["healthy"], summary["corrupt_shares"]) == (8, 0)
    assert all(report["happiness"] == 10 for report in reports.values() if report["kind"] != "lit")
    assert lafs("get", "home:docs/notes", "-", code=0).stdout == (lafs.folder / "notes").read_bytes()


@pytest.mark.slow
def test_a_directory_that_is_lost_stops_nothing(lafs: Lafs) -> None:
    """It is an object like the others, and what is below it is named as not looked at."""
    lafs("mv", "home:docs/sub/c", "home:c", code=0)
    si = lafs.json("cap", "show", "home:docs")["storage_index"]
    for path in (lafs.home / "grid").glob(f"*/shares/{si[:2]}/{si}/*"):
        path.unlink()
    done = lafs("check", "-r", "home:", "--json", code=5)
    *reports, last = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [report["path"] for report in reports if not report["healthy"]] == ["home:docs"]
    assert (last["summary"]["unrecoverable"], last["summary"]["not_looked_at"]) == (1, 1)
    assert b"home:docs: what is in it was not looked at" in done.stderr
    assert any(report["path"] == "home:c" and report["healthy"] for report in reports)
    assert lafs("ls", "home:docs", code=5).stdout == b""
    lafs("check", "home:docs/a", code=5)


@pytest.mark.slow
def test_damage_of_a_mutable_file_is_found_and_mended(lafs: Lafs) -> None:
    si = lafs.json("cap", "show", "home:docs/notes")["storage_index"]
    paths = sorted((lafs.home / "grid").glob(f"*/shares/{si[:2]}/{si}/*"), key=lambda path: int(path.name))
    before = [path.read_bytes()[468:] for path in paths]
    for path, at in zip(paths[:3], (480, 1200, 1500), strict=True):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
    assert lafs("get", "home:docs/notes", "-", code=0).stdout == (lafs.folder / "notes").read_bytes()
    report = lafs.json("check", "--verify", "home:docs/notes", code=10)
    assert sorted(bad["share"] for bad in report["corrupt"]) == [0, 1, 2]
    said = lafs("check", "--verify", "home:docs/notes", code=10).stdout.decode()
    assert "lafs repair home:docs/notes" in said
    report = lafs.json("repair", lafs("cap", "verify", "home:docs/notes", code=0).stdout.decode().strip())
    assert report["repair"] == {"attempted": True, "successful": True, "shares_written": 3}
    assert [path.read_bytes()[468:] for path in paths] == before
    assert sum(len(list((server(lafs, i) / "quarantine").iterdir())) for i in range(10)) == 3


@pytest.mark.slow
def test_too_many_damaged_shares_give_no_wrong_bytes(lafs: Lafs) -> None:
    si = lafs.json("cap", "show", "home:docs/notes")["storage_index"]
    for path in (lafs.home / "grid").glob(f"*/shares/{si[:2]}/{si}/*"):
        if path.name in "01234567":
            data = bytearray(path.read_bytes())
            data[-1400] ^= 1
            path.write_bytes(data)
    done = lafs("get", "home:docs/notes", "-", code=5)
    assert done.stdout == b""
    assert lafs.json("check", "--verify", "home:docs/notes", code=5)["recoverable"] is False


@pytest.mark.slow
def test_renew_reaches_everything(lafs: Lafs) -> None:
    """Without TARGET: what aliases stand for and pins, with all that is below."""
    assert lafs.json("renew") == {"schema": 1, "renewed": 70, "added": 0, "failed": 0}
    assert lafs.json("renew", "home:docs/sub/c") == {"schema": 1, "renewed": 10, "added": 0, "failed": 0}
    assert lafs.json("renew", "home:docs") == {"schema": 1, "renewed": 60, "added": 0, "failed": 0}
    lafs("put", "b", code=0)
    lafs("mkdir", code=0)
    assert lafs.json("renew")["renewed"] == 80  # b is there already, and the new directory has ten
    (lafs.home / "secret").write_text("a" * 52 + "\n")
    assert lafs.json("renew", "home:docs/notes") == {"schema": 1, "renewed": 0, "added": 10, "failed": 0}
    report = lafs.json("check", "--add-lease", "home:docs")
    assert report["leases"] == {"renewed": 0, "added": 10, "failed": 0}
    assert run(lafs, "check", "-r", "--verify", "home:")[1]["healthy"] == 8


def test_unknown_kinds_are_named_and_not_checked(lafs: Lafs) -> None:
    lafs("ln", "ro.URI:NEW:x", "home:docs/future", code=0)
    done = lafs("check", "-r", "home:", "--json", code=11)
    last = json.loads(done.stdout.decode().splitlines()[-1])["summary"]
    assert (last["objects"], last["healthy"], last["not_looked_at"]) == (8, 8, 1)
    assert b"home:docs/future: it is of a kind that lafs does not know" in done.stderr
    lafs("check", "home:docs/future", code=2)


@pytest.mark.slow
def test_a_target_that_is_missing_stops_no_other(lafs: Lafs) -> None:
    for command in ("check", "repair"):
        done = lafs(command, "home:docs/a", "home:nosuch", "home:docs/b", "-q", "--json", code=11)
        *reports, last = [json.loads(line) for line in done.stdout.decode().splitlines()]
        assert [report["path"] for report in reports] == ["home:docs/a", "home:docs/b"]
        assert last["summary"]["not_looked_at"] == 1
        assert b"lafs: home:nosuch: nosuch: no such file or directory\n" in done.stderr
    done = lafs("renew", "home:docs/a", "home:nosuch", code=11)
    assert b"10 leases renewed" in done.stdout
    assert b"nosuch: no such file" in done.stderr
    assert b"nosuch: no such file" in lafs("check", "home:nosuch", "home:neither", code=3).stderr


def test_a_verify_cap_is_enough_without_r(lafs: Lafs) -> None:
    cap = lafs("cap", "verify", "home:docs", code=0).stdout.decode().strip()
    assert lafs.json("check", "--verify", cap)["kind"] == "dir2"
    assert b"can't read the directory" in lafs("check", "-r", cap, code=9).stderr


@pytest.mark.slow
def test_a_merge_is_explained_and_forced(lafs: Lafs) -> None:
    """Two writers of another program did not see each other: half of the servers have what the other half has not."""
    si = lafs.json("cap", "show", "home:docs/notes")["storage_index"]
    paths = sorted((lafs.home / "grid").glob(f"*/shares/{si[:2]}/{si}/*"))
    kept = {path: path.read_bytes() for path in paths}
    (lafs.folder / "one").write_bytes(b"one" * 50)
    (lafs.folder / "two").write_bytes(b"two" * 50)
    lafs("put", "one", "home:docs/notes", code=0)
    ones = {path: path.read_bytes() for path in paths}
    for path in paths:
        path.write_bytes(kept[path])
    (lafs.home / "state" / "seen.sqlite").unlink()
    lafs("put", "two", "home:docs/notes", code=0)
    for path in paths[:5]:
        path.write_bytes(ones[path])
    report = lafs.json("repair", "home:docs/notes", code=10)
    assert report["versions"] == {"recoverable": 2, "unrecoverable": 0}
    assert report["repair"]["attempted"] is False
    assert "two different versions have number 2" in report["repair"]["reason"]
    assert "lafs repair --force home:docs/notes" in lafs("check", "home:docs/notes", code=10).stdout.decode()
    report = lafs.json("repair", "--force", "home:docs/notes")
    assert (report["healthy"], report["seqnum"]) == (True, 3)
    assert "given up" in report["repair"]["reason"]
    assert lafs("cat", "home:docs/notes", code=0).stdout in (b"one" * 50, b"two" * 50)


@pytest.mark.slow
def test_drain_and_replace(lafs: Lafs) -> None:
    """Shares of directories and mutable files too: the aliases lead to their write caps."""
    done = lafs.json("server", "drain", "local2")
    assert (done["shares"], done["copied"], done["failed"]) == (7, 7, [])
    shutil.rmtree(server(lafs, 2) / "shares")
    (server(lafs, 2) / "shares").mkdir()
    reports, summary = run(lafs, "check", "-r", "--verify", "home:")
    assert summary["healthy"] == 8
    assert not any("local2" in names for report in reports.values() for names in report["shares"].values())
    server(lafs, 3).rename(lafs.folder / "burned")
    done = lafs.json("server", "replace", "local3", "new", f"file://{lafs.folder}/new")
    assert (done["removed"], done["failed"]) == (True, [])
    assert done["repair"]["objects"] == 7
    lafs("server", "remove", "local2", code=0)
    reports, summary = run(lafs, "check", "-r", "--verify", "home:")
    assert summary["healthy"] == 8
    assert lafs("get", "home:docs/notes", "-", code=0).stdout == (lafs.folder / "notes").read_bytes()


def test_a_drain_without_the_write_cap_says_so(lafs: Lafs) -> None:
    """A mutable file with a single share, known by its read cap."""
    lafs("encoding", "1/1/1", code=0)
    cap = lafs("put", "a", "--mutable", code=0).stdout.decode().strip()
    si = lafs.json("cap", "show", cap)["storage_index"]
    name = lafs.json("share", "find", cap)["shares"]["0"][0]
    done = lafs.json("server", "drain", name, code=11)
    [left] = done["failed"]
    assert (left["storage_index"], left["share"]) == (si, 0)
    assert "needs the write cap" in left["reason"]


@pytest.mark.slow
def test_a_sample_and_a_silent_server(lafs: Lafs) -> None:
    server(lafs, 1).rename(lafs.folder / "away")
    reports, summary = run(lafs, "check", "-r", "--sample", "50%", "home:", code=6)
    assert summary["unknown"] == 7
    assert all(report["unreachable"] for report in reports.values() if report["kind"] != "lit")
    reports, summary = run(lafs, "repair", "-r", "home:", code=6)
    assert not any(report.get("repair", {}).get("attempted") for report in reports.values())
    reports, summary = run(lafs, "repair", "-r", "--assume-lost", "local1", "home:")
    assert (summary["healthy"], summary["repaired"]) == (8, 7)
