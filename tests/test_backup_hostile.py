"""Restoring what somebody made up: nothing outside of the folder is touched, nothing stops the rest."""

from __future__ import annotations

import base64
import io
import json
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lafscli.backup.compare import Difference, compare
from lafscli.backup.entries import Kept
from lafscli.backup.restore import Restored
from lafscli.backup.selecting import Selecting
from lafscli.backup.tarring import write_tar
from lafscli.errors import LafsError
from lafscli.formats.caps import Cap, DirectoryCap, LitCap
from lafscli.primitives.encoding import netstring
from lafscli.storage.store import Progress
from lafscli.tree.directory import NewChild, create_directories, create_directory, edit
from tests.keeper import Keeper
from tests.mutable_access import access_to


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    made = Keeper(tmp_path)
    yield made
    made.database.close()
    made.local.close()


def made_up(**entries: tuple[Cap, dict[str, Any]]) -> DirectoryCap:
    """A directory in its cap, with these entries and their metadata, written as nobody does who means well."""
    table = b""
    for name, (cap, data) in sorted(entries.items()):
        parts = name.encode(), str(cap).encode(), b"", json.dumps(data).encode()
        table += netstring(b"".join(map(netstring, parts)))
    return DirectoryCap(LitCap(table))


def file(data: bytes, **lafs: Any) -> tuple[Cap, dict[str, Any]]:
    kept = {"v": 1, "type": "file", **lafs}
    return LitCap(data), {"mtime": 1.5, "st_mode": stat.S_IFREG | 0o644, "lafs": kept}


def b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


def tar_of(keeper: Keeper, cap: DirectoryCap) -> tuple[list[tarfile.TarInfo], Restored]:
    written = io.BytesIO()
    access = access_to(keeper.local.grid())
    done = write_tar(access, cap, Kept(), written.write, Selecting(), lambda _: None, Progress())
    written.seek(0)
    with tarfile.open(fileobj=written) as tar:
        return tar.getmembers(), done


def test_a_group_does_not_tie_what_differs(keeper: Keeper) -> None:
    """Three entries say that they are one file; two have the same content."""
    cap = made_up(a=file(b"one", group="1:1"), b=file(b"two", group="1:1"), c=file(b"one", group="1:1"))
    target, done, _ = keeper.restore(cap)
    assert done.errors == []
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {"a": b"one", "b": b"two", "c": b"one"}
    assert (target / "a").stat().st_ino == (target / "c").stat().st_ino != (target / "b").stat().st_ino
    members, _ = tar_of(keeper, cap)
    assert {each.name: each.linkname for each in members} == {"a": "", "b": "", "c": "a"}


def test_a_group_reaches_over_folders_and_no_further(keeper: Keeper) -> None:
    below = made_up(x=file(b"one", group="../..:1"))
    cap = made_up(a=(below, {}), b=(below, {}), c=file(b"one", group="../..:1"))
    target, done, _ = keeper.restore(cap)
    assert (done.errors, done.files) == ([], 3)
    assert len({path.stat().st_ino for path in target.rglob("*") if path.is_file()}) == 1
    again = keeper.restore(cap)[1]
    assert (again.errors, again.bytes) == ([], 0)


@pytest.mark.parametrize(
    "holes",
    [
        [[0, 1 << 62]],
        [[0, 2], [1, 5]],
        [[2, 1]],
        [[-5, 20]],
        [[0, "many"]],
        "all",
        [[1 << 62, 1 << 62]],
        [[0, 1]] * 1000,
    ],
)
def test_holes_that_lie_cost_no_byte(keeper: Keeper, holes: Any) -> None:
    target, done, _ = keeper.restore(made_up(f=file(b"\0\0data\0\0", holes=holes)))
    assert (done.errors, (target / "f").read_bytes()) == ([], b"\0\0data\0\0")


@pytest.mark.parametrize("mtime", [10**400, -(10**18), 9e18, "now", True, 4e9, -9e9])
def test_times_that_no_file_can_have(keeper: Keeper, mtime: Any) -> None:
    cap, data = file(b"x", mtime_ns=10**30)
    target, done, _ = keeper.restore(made_up(f=(cap, data | {"mtime": mtime}), d=(made_up(), {"mtime": mtime})))
    assert (done.errors, (target / "f").read_bytes()) == ([], b"x")
    members, done = tar_of(keeper, made_up(f=(cap, data | {"mtime": mtime})))
    assert (len(members), done.errors) == (1, [])


@pytest.mark.parametrize("mtime", [float("nan"), float("inf")])
def test_metadata_that_is_no_json_is_named(keeper: Keeper, mtime: float) -> None:
    cap = made_up(f=(LitCap(b"x"), {"mtime": mtime}), good=file(b"1"))
    target, done, _ = keeper.restore(cap)
    assert ([path.name for path in target.iterdir()], len(done.errors)) == (["good"], 1)
    assert len(tar_of(keeper, cap)[1].errors) == 1


@pytest.mark.parametrize("mode", [0, 0o7777, -1, 1 << 40, "0644", True, 0o170000, 0o120777])
def test_modes_and_owners_that_nobody_has(keeper: Keeper, mode: Any) -> None:
    cap, data = file(b"x", uname="\ud800", gname="a\0b")
    odd = {"st_mode": mode, "st_uid": -1, "st_gid": 1 << 33}
    target, done, _ = keeper.restore(made_up(f=(cap, data | odd)))
    assert (done.errors, (target / "f").lstat().st_size) == ([], 1)
    assert tar_of(keeper, made_up(f=(cap, data | odd | {"st_uid": 7, "st_gid": 7})))[1].errors == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owners_are_known_by_their_names(keeper: Keeper) -> None:
    """Numbers of another machine count only where there is nobody of that name here."""
    cap = LitCap(b"x")
    made = {
        "known": (cap, {"st_uid": 4242, "st_gid": 4243, "lafs": {"v": 1, "uname": "root", "gname": "root"}}),
        "other": (cap, {"st_uid": 4242, "st_gid": 4243, "lafs": {"v": 1, "uname": "no such", "gname": ""}}),
    }
    target, _, _ = keeper.restore(made_up(**made))
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in target.iterdir()}
    assert owners == {"known": (0, 0), "other": (4242, 4243)}


def test_targets_that_no_link_can_have(keeper: Keeper) -> None:
    wrong = {name: file(b"", type="symlink", target_b64=b64(text)) for name, text in {
        "nul": b"a\0b", "empty": b"", "long": b"x" * 70_000}.items()}  # fmt: skip
    cap = made_up(good=file(b"kept"), **wrong)
    target, done, _ = keeper.restore(cap)
    assert [path.name for path in target.iterdir()] == ["good"]
    assert sorted(Path(each.path).name for each in done.errors) == ["empty", "long", "nul"]
    members, done = tar_of(keeper, cap)
    assert sorted(each.name for each in members) == ["good", "long"]


def test_devices_that_there_can_t_be(keeper: Keeper) -> None:
    entries = {
        f"{sort}{number}": file(b"", type=sort, rdev=rdev)
        for sort in ("chr", "blk")
        for number, rdev in enumerate(((1 << 64) - 1, 1 << 64, -1, "0", None))
    }
    cap = made_up(good=file(b"kept"), **entries)
    target, done, _ = keeper.restore(cap)
    assert (target / "good").read_bytes() == b"kept"
    if os.geteuid():
        assert {each.error.message.rpartition(": ")[2] for each in done.errors} == {"only root can make devices"}
    members, done = tar_of(keeper, cap)
    assert "good" in {each.name for each in members}
    assert all("device" in each.error.message for each in done.errors)


def test_attributes_that_no_file_system_takes(keeper: Keeper) -> None:
    odd = {"user.x" * 100: b64(b"1"), "": b64(b"1"), "no.such": b64(b"2"), "user.\ud800": b64(b"3"), "user.a=b": "%%"}
    cap = made_up(
        f=file(b"x", xattr=odd | {"user.huge": b64(bytes(500_000))}, acl={"system.posix_acl_access": b64(b"?")})
    )
    target, done, rights = keeper.restore(cap)
    assert (done.errors, (target / "f").read_bytes()) == ([], b"x")
    assert rights.unkept.attributes >= 4
    assert tar_of(keeper, cap)[1].errors == []


def test_a_true_name_is_given_once_in_a_tar_stream_too(keeper: Keeper) -> None:
    """Else a link and a folder behind it would lead whoever unpacks it elsewhere."""
    below = made_up(evil=file(b"2"))
    same = {"v": 1, "type": "dir", "name_b64": b64(b"a")}
    cap = made_up(a=file(b"", type="symlink", target_b64=b64(b"/etc")), b=(below, {"lafs": same}))
    members, done = tar_of(keeper, cap)
    assert [each.name for each in members] == ["a"]
    assert [each.error.message for each in done.errors] == ["another entry of its folder has the same name"]


@pytest.mark.parametrize("name", ["../x", "a/b", "..", "nul\0", "x" * 300, ""])
def test_a_true_name_that_leads_elsewhere_is_in_no_tar_stream(keeper: Keeper, name: str) -> None:
    members, done = tar_of(keeper, made_up(good=file(b"1"), bad=file(b"2", name_b64=b64(name.encode()))))
    assert ([each.name for each in members], len(done.errors)) == (["good"], 1)


def test_a_directory_that_contains_itself(keeper: Keeper) -> None:
    """Through its own write cap, which is what a directory that can be changed makes possible."""
    access = access_to(keeper.local.grid())
    cap = create_directory(access, {"f": NewChild(LitCap(b"1"))})
    edit(access, cap, lambda table: table.link("again", cap))
    target, done, _ = keeper.restore(cap)
    assert [path.name for path in target.rglob("*")] == ["f"]
    assert [each.error.message for each in done.errors] == ["contains itself: not restored again"]
    assert len(tar_of(keeper, cap)[1].errors) == 1


@pytest.mark.slow
def test_deep_nesting(keeper: Keeper) -> None:
    """1,100 folders in one another: no recursion, no path that is too long for the system."""
    access, depth = access_to(keeper.local.grid()), 1100
    trees = [create_directory(access, {"f": NewChild(LitCap(b"deep"))}, kind="chk")] * 2
    for _ in range(depth):
        tables = [{"d" * 20: NewChild(cap, {"mtime": mtime})} for cap, mtime in zip(trees, (5.0, 6.0), strict=True)]
        trees = [each for each in create_directories(access, tables, kind="chk") if isinstance(each, DirectoryCap)]
    try:
        _, done, _ = keeper.restore(trees[0])
    finally:  # pytest would remove it by recursion
        subprocess.run(["rm", "-rf", str(keeper.folder / "restored")], check=True)
    assert (done.errors, done.files, done.dirs) == ([], 1, depth)
    found = list(compare(access, *trees))
    assert len(found) == depth
    assert {each.change for each in found} == {"metadata"}


def test_what_is_immutable_can_t_lead_back(keeper: Keeper) -> None:
    """One directory under two names is no cycle."""
    below = made_up(x=file(b"1"))
    target, done, _ = keeper.restore(made_up(a=(below, {}), b=(below, {})))
    assert (done.errors, len(list(target.rglob("x")))) == ([], 2)


def test_a_link_that_appears_where_a_file_goes_is_replaced(keeper: Keeper) -> None:
    outside = keeper.folder / "outside"
    outside.write_bytes(b"mine")
    target = keeper.folder / "restored"
    target.mkdir()
    (target / "f").symlink_to(outside)
    (target / "p").symlink_to("/dev/null")
    keeper.restore(made_up(f=file(b"x"), p=file(b"", type="fifo")))
    assert ((target / "f").read_bytes(), outside.read_bytes()) == (b"x", b"mine")
    assert not (target / "f").is_symlink()
    assert stat.S_ISFIFO((target / "p").lstat().st_mode)


def test_other_metadata_of_the_root_is_a_difference(keeper: Keeper) -> None:
    keeper.source.mkdir()
    (keeper.source / "f").write_bytes(b"1")
    one, _ = keeper.backup()
    keeper.source.chmod(0o700)
    two, _ = keeper.backup()
    assert list(compare(access_to(keeper.local.grid()), one, two)) == [Difference("./", "metadata")]


def test_sparse_and_restless_names_are_quick(keeper: Keeper) -> None:
    """Metadata with 20,000 holes is read and obeyed in a moment."""
    holes = [[8192 * number, 4096] for number in range(20_000)]
    began = time.process_time()
    target, done, _ = keeper.restore(made_up(f=file(b"x" * 50, holes=holes)))
    assert (done.errors, (target / "f").stat().st_size) == ([], 50)
    assert time.process_time() - began < 5


def test_a_directory_that_is_none(keeper: Keeper) -> None:
    with pytest.raises(LafsError):
        list(compare(access_to(keeper.local.grid()), DirectoryCap(LitCap(b"no table")), made_up()))
