"""Walks over trees on a local grid: the order of spec 04 §7, each object once, nothing stops them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lafscli.errors import NotGranted, NotRecoverable
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, parse
from lafscli.immutable.upload import upload
from lafscli.tree import walk as walk_module
from lafscli.tree.contents import Access
from lafscli.tree.directory import NewChild, create_directory
from lafscli.tree.walk import Visit, walk
from tests.grids import LocalGrid, content
from tests.mutable_access import access_to

UNKNOWN = parse("imm.URI:FUTURE:x")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    made = LocalGrid(tmp_path / "grid")
    yield made
    made.close()


@pytest.fixture
def access(local: LocalGrid) -> Access:
    return access_to(local.grid())


def directory(access: Access, children: Mapping[str, Cap]) -> DirectoryCap:
    return create_directory(access, {name: NewChild(cap, {}) for name, cap in children.items()}, kind="chk")


def chk(access: Access, seed: int) -> Cap:
    return upload(access.grid, content(100, seed), access.writing).cap


def paths(visits: Iterator[Visit]) -> list[str]:
    return ["/".join(visit.path) for visit in visits]


def test_a_file_is_one_visit(access: Access) -> None:
    [visit] = walk(access, LitCap(b"x"))
    assert (visit.path, visit.cap, visit.child, visit.directory) == ((), LitCap(b"x"), None, None)


def test_order_of_the_spec(access: Access) -> None:
    """Unknown ones, then files, then subdirectories, each group by name; a directory before what is in it."""
    deep = directory(access, {"z": LitCap(b"z"), "a": directory(access, {"f": chk(access, 1)})})
    root = directory(access, {"b": deep, "a": LitCap(b"a"), "y": UNKNOWN, "c": directory(access, {}), "x": UNKNOWN})
    visits = list(walk(access, root))
    assert paths(iter(visits)) == ["", "x", "y", "a", "b", "b/z", "b/a", "b/a/f", "c"]
    assert visits[0].child is None
    assert all(visit.child is not None and visit.child.name == visit.path[-1] for visit in visits[1:])
    assert [visit.directory is not None for visit in visits] == [visit.cap.is_directory for visit in visits]


def test_each_object_once_and_what_has_no_verify_cap_each_time(access: Access) -> None:
    file, lit = chk(access, 1), LitCap(b"lit")
    shared = directory(access, {"f": file, "l": lit, "g": file})
    root = directory(access, {"a": shared, "b": shared, "c": file, "d": lit, "u": UNKNOWN})
    assert paths(walk(access, root)) == ["", "u", "c", "d", "a", "a/l"]


def test_entries_each_name_once_and_into_a_directory_once(access: Access) -> None:
    file = chk(access, 1)
    shared = directory(access, {"f": file, "g": file})
    root = directory(access, {"a": shared, "b": shared, "c": file})
    visits = list(walk(access, root, names=True))
    assert paths(iter(visits)) == ["", "c", "a", "a/f", "a/g", "b"]
    assert [visit.directory is not None for visit in visits] == [True, False, True, False, False, False]


def test_what_can_not_be_read_is_told_and_passed_by(access: Access, local: LocalGrid) -> None:
    files = {str(i): chk(access, i) for i in range(3)}
    lost = directory(access, {**files, "below": directory(access, files)})
    verify = lost.verify_cap()
    assert verify is not None
    root = directory(access, {"a": lost, "b": directory(access, {"x": LitCap(b"x")})})
    for path in local.share_files():
        if path.parent.name == str(verify).split(":")[2]:
            path.unlink()
    visits = list(walk(access, root))
    assert paths(iter(visits)) == ["", "a", "b", "b/x"]
    assert isinstance(visits[1].error, NotRecoverable)
    assert visits[1].directory is None
    [visit] = walk(access, verify)
    assert isinstance(visit.error, NotGranted)


def test_a_deep_tree_without_recursion(access: Access) -> None:
    cap = directory(access, {})
    for _ in range(120):
        cap = directory(access, {"d": cap})
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 80)
    try:
        assert len(list(walk(access, cap))) == 121
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.slow
def test_a_wide_tree_in_few_questions_and_in_little_memory(
    access: Access, local: LocalGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = directory(access, {f"{i:03}": directory(access, {"f": chk(access, i)}) for i in range(150)})
    calls: list[str] = []
    for dial in local.dials:
        dial.before = calls.append
    assert len(list(walk(access, wide))) == 301
    assert calls.count("read") <= 10 * 6
    monkeypatch.setattr(walk_module, "_HELD_DIRECTORIES", 3)
    monkeypatch.setattr(walk_module, "_HELD_CHILDREN", 2)
    monkeypatch.setattr(walk_module, "_LARGE", 0)
    assert len(list(walk(access, wide))) == 301
