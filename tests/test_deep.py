"""Objects below directories, looked at and repaired once each; nothing stops at a bad one (spec 04 §7, CLI.md §5)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.errors import LafsError
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, UnknownCap
from lafscli.formats.container import share_folder
from lafscli.health.check import Checking, check_many
from lafscli.health.deep import Objects, Root
from lafscli.health.regrowth import Mending
from lafscli.health.repair import repair_many
from lafscli.health.report import CheckReport
from lafscli.health.summary import Summary
from lafscli.immutable.pipeline import Codec
from lafscli.tree.contents import Access
from lafscli.tree.directory import NewChild, create_directories, create_directory, edit
from tests.grids import LocalGrid, content, writing
from tests.mutable_access import access_to
from tests.versions import put_version

CHECKING = Checking(7, os.urandom)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    made = LocalGrid(tmp_path / "grid")
    yield made
    made.close()


def stored(access: Access, size: int, seed: int = 0) -> Cap:
    from lafscli.immutable.many import upload_many

    [done] = upload_many(access.grid, [content(size, seed)], access.writing)
    assert not isinstance(done, LafsError)
    return done.cap


def children(**caps: Cap) -> dict[str, NewChild]:
    return {name: NewChild(cap) for name, cap in caps.items()}


def deep(access: Access, *roots: Cap, checking: Checking = CHECKING) -> tuple[dict[str, CheckReport], Objects]:
    objects = Objects(access, [Root(f"{number}:", cap) for number, cap in enumerate(roots)], deep=True)
    reports = enumerate(check_many(access.grid, objects.caps(), checking))
    return {objects.take_path(number): report for number, report in reports}, objects


def erase(local: LocalGrid, cap: Cap) -> None:
    """All shares of an object are lost."""
    assert cap.storage_index is not None
    for index in range(len(local.servers)):
        for path in (local.root(index) / share_folder(cap.storage_index)).glob("*"):
            path.unlink()


def test_all_kinds_once(local: LocalGrid) -> None:
    """By whatever names and with whatever power they are linked; what is in its cap counts each time."""
    access = access_to(local.grid())
    file, slot = stored(access, 500), put_version(local, content(300))
    fixed = create_directory(access, children(file=file, tiny=LitCap(b"x"), other=stored(access, 600)), kind="chk")
    empty = create_directory(access, {}, kind="chk")
    below = create_directory(access, children(slot=slot.read_cap(), tiny=LitCap(b"x")), kind="mdmf")
    top = create_directory(access, children(a=below, b=fixed, c=file, d=slot, e=empty), kind="sdmf")
    edit(access, below, lambda table: table.link("top", top.read_cap(), now=0.0))
    found, objects = deep(access, top, below, file)
    kinds = {path: report.kind for path, report in found.items()}
    assert kinds == {
        "0:": "dir2",
        "0:c": "chk",
        "0:d": "sdmf",
        "0:a": "dir2-mdmf",
        "0:a/tiny": "lit",
        "0:b": "dir2-chk",
        "0:b/other": "chk",
        "0:b/tiny": "lit",
        "0:e": "dir2-lit",
        "1:tiny": "lit",
        "1:top/b/tiny": "lit",
        "1:top/e": "dir2-lit",
    }
    assert all(report.healthy for report in found.values())
    assert (objects.count, objects.ended, objects.unseen) == (12, True, [])


def test_what_is_bad_stops_nothing(local: LocalGrid) -> None:
    """A directory that is lost, one that holds no table, a name of an unknown kind, a file that is lost."""
    access = access_to(local.grid())
    lost_file = stored(access, 500)
    inside = create_directory(access, children(deeper=stored(access, 700)), kind="sdmf")
    nonsense = DirectoryCap(put_version(local, b"this is no table"))
    top = create_directory(
        access,
        children(a=inside, b=nonsense, c=lost_file, d=UnknownCap("ro.URI:NEW:x"), e=stored(access, 900)),
        kind="sdmf",
    )
    erase(local, inside)
    erase(local, lost_file)
    found, objects = deep(access, top)
    states = {path: report.state for path, report in found.items()}
    assert states == {
        "0:": "healthy", "0:c": "unrecoverable", "0:e": "healthy", "0:a": "unrecoverable", "0:b": "healthy"
    }  # fmt: skip
    assert sorted(each.path for each in objects.unseen) == ["0:a", "0:b", "0:d"]
    reasons = {each.path: each.reason for each in objects.unseen}
    assert reasons["0:d"] == "it is of a kind that lafs does not know"
    assert "what is in it was not looked at" in reasons["0:b"]


def test_repairs_of_all_kinds_least_spare_first(local: LocalGrid) -> None:
    access = access_to(local.grid())
    files = [stored(access, 400 + seed, seed) for seed in range(3)]
    below = create_directory(access, children(x=files[0], y=put_version(local, content(900))), kind="sdmf")
    top = create_directory(access, children(a=below, b=files[1], c=files[2]), kind="sdmf")
    for number, cap in enumerate((files[1], below, files[2], top)):
        assert cap.storage_index is not None
        for shnum in range(number + 1):
            [path] = [
                path
                for index in range(10)
                if (path := local.root(index) / share_folder(cap.storage_index) / str(shnum)).exists()
            ]
            path.unlink()
    objects = Objects(access, [Root("home:", top)], deep=True)
    mending = Mending(writing().lease, publishing=access.publishing)
    ended = list(repair_many(access.grid, objects.caps(), CHECKING, mending))
    paths = [objects.take_path(number) for number, _ in ended]
    assert paths[-4:] == ["home:", "home:c", "home:a", "home:b"]
    assert all(report.healthy for _, report in ended)
    assert [report.kind for _, report in ended][-4:] == ["dir2", "chk", "dir2", "chk"]


def test_when_the_time_is_over_it_is_known_that_there_may_be_more(local: LocalGrid) -> None:
    access = access_to(local.grid())
    leaves = {f"{number:04}": NewChild(LitCap(b"%d" % number)) for number in range(1200)}
    top = create_directory(access, leaves, kind="sdmf")
    found, objects = deep(access, top, checking=replace(CHECKING, max_time=0.0))
    assert 0 < len(found) < 1201
    assert not objects.ended


@pytest.mark.slow
def test_two_thousand_directories(local: LocalGrid) -> None:
    """20,000 entries: each object once, all healthy; then a server is lost, and all of them are made good."""
    access = access_to(local.grid())
    with Codec() as codec:
        access = replace(access, publishing=replace(access.publishing, codec=codec))
        shared = stored(access, 300)
        leaves: list[dict[str, NewChild]] = [
            {f"f{i}": NewChild(shared if i == 0 else LitCap(b"%d %d" % (number, i))) for i in range(9)}
            for number in range(1960)
        ]
        made: list[DirectoryCap] = []
        for start in range(0, len(leaves), 98):  # making keys takes longest: most are immutable
            some = create_directories(access, leaves[start : start + 98], kind="chk" if start > 98 * 5 else "sdmf")
            made += [each for each in some if not isinstance(each, LafsError)]
        assert len(made) == 1960
        middle = create_directories(
            access, [{f"d{i}": NewChild(made[number * 49 + i]) for i in range(49)} for number in range(40)]
        )
        top = create_directory(
            access,
            {f"m{i}": NewChild(each) for i, each in enumerate(middle) if not isinstance(each, LafsError)},
            kind="sdmf",
        )
    summary = Summary()
    found, objects = deep(access, top)
    for report in found.values():
        summary.add(report)
    directories = 1960 + 40 + 1
    assert (objects.unseen, objects.ended) == ([], True)
    assert (summary.objects, summary.states["healthy"]) == (directories + 1 + 1960 * 8, directories + 1 + 1960 * 8)
    assert sum(report.kind in ("dir2", "dir2-chk") for report in found.values()) == directories
    assert sum(report.kind == "dir2" for report in found.values()) == 98 * 6 + 40 + 1
    lost = sum(1 for _ in (local.root(3) / "shares").glob("*/*/*"))
    for path in (local.root(3) / "shares").glob("*/*/*"):
        path.unlink()
    objects = Objects(access, [Root("home:", top)], deep=True)
    mending = Mending(writing().lease)
    written = 0
    for _, report in repair_many(access.grid, objects.caps(), CHECKING, mending):
        assert report.healthy
        written += 0 if report.repair is None else report.repair.written
    assert written == lost == directories + 1
    assert list((local.root(3) / "locks").iterdir()) == []
