"""Directories on a grid: load, edit, create, paths and links (spec 04)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lafscli.errors import Conflict, LafsError, MalformedDirectory, NotFound, NotGranted, NotHappy, UsageError
from lafscli.formats import caps
from lafscli.formats.caps import DirectoryCap, LitCap, UnknownCap
from lafscli.formats.child import seal
from lafscli.formats.dirtable import Table
from lafscli.mutable import publish
from lafscli.primitives.encoding import netstring
from lafscli.storage import grid as grids
from lafscli.storage.grid import Grid
from lafscli.tree.contents import Access, Kind, content, contents_of, pass_on, read, readable, store
from lafscli.tree.directory import Directory, NewChild, create_directories, create_directory, edit, load, load_many
from lafscli.tree.links import Occupied, link, move, plant, unlink
from lafscli.tree.paths import child_at, follow, hang, reach, split, spot
from tests.grids import LocalGrid
from tests.grids import content as filler
from tests.mutable_access import access_to

LIT = caps.parse("URI:LIT:krugkidfnzsc4")
VERIFY = caps.parse("URI:CHK-Verifier:qqqqqqqqqqqqqqqqqqqqqqqqqa:" + 51 * "a" + "a:3:10:1000")
SSK = caps.parse("URI:SSK:fs6ul2fju2fvb2cfx7gt6ngycm:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq")
SSK_RO = caps.parse("URI:SSK-RO:65ruo2zytr3uxnaxkptdoqkth4:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq")


PATIENCE = {
    "mutable.guards": ("_LAGGARD_SECONDS", "_LAST_SECONDS"),
    "mutable.survey": ("_LATE_SECONDS",),
    "immutable.placing": ("_LAGGARD_SECONDS",),
    "immutable.fetch": ("_HEDGE_SECONDS", "_IMPATIENT_SECONDS"),
    "immutable.fetchmany": ("_LATE_SECONDS",),
}


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalGrid]:
    made = LocalGrid(tmp_path)
    yield made
    made.close()


@pytest.fixture
def access(local: LocalGrid) -> Access:
    return access_to(local.grid())


# ---- immutable directories ----


def test_an_empty_immutable_directory_is_in_its_cap(access: Access) -> None:
    made = create_directory(access, kind="chk")
    assert str(made) == "URI:DIR2-LIT:"
    assert load(access, made).children() == []


def test_the_small_one_of_the_spec(access: Access) -> None:
    """Spec 04 §8, to the byte."""
    made = create_directory(access, {"z": NewChild(caps.parse("URI:LIT:nruxi"), {})}, kind="chk")
    assert str(made) == "URI:DIR2-LIT:gi4tumj2piwdcmz2kvjesosmjfkdu3tsov4gslbqhiwdeot3puwcy"


def test_a_larger_one_is_stored_and_read_back(access: Access) -> None:
    children = {f"写真 {i}": NewChild(LIT, {"mtime": i}) for i in range(20)}
    made = create_directory(access, children, kind="chk")
    assert made.kind == "dir2-chk"
    assert create_directory(access, children, kind="chk") == made
    found = load(access, made)
    assert [child.name for child in found.children()] == sorted(children)
    assert {child.metadata["mtime"] for child in found.children()} == set(range(20))
    assert (found.left_out, len(found.table)) == ([], 20)


@pytest.mark.parametrize("bad", [SSK, SSK_RO, DirectoryCap(SSK_RO), UnknownCap("x-future:1"), VERIFY])  # type: ignore[arg-type]
def test_what_is_not_deeply_immutable_is_refused(access: Access, bad: caps.Cap) -> None:
    with pytest.raises(UsageError, match="x: can't be linked"):
        create_directory(access, {"x": NewChild(bad)}, kind="chk")
    good, refused = create_directories(access, [{}, {"x": NewChild(bad)}], kind="chk")
    assert str(good) == "URI:DIR2-LIT:"
    assert isinstance(refused, UsageError)


def test_an_unknown_immutable_cap_is_kept(access: Access) -> None:
    made = create_directory(access, {"x": NewChild(UnknownCap("imm.x-future:1"))}, kind="chk")
    [child] = load(access, made).children()
    assert (child.rw, str(child.ro)) == (None, "imm.x-future:1")


def test_an_immutable_directory_is_not_changed(access: Access) -> None:
    made = create_directory(access, kind="chk")
    with pytest.raises(NotGranted, match="immutable"):
        edit(access, made, lambda table: table.link("x", LIT, now=0))


def test_many_at_once_each_its_own_answer(access: Access) -> None:
    many = [{str(i): NewChild(LIT, {"i": "x" * i * 10})} for i in range(12)]
    made = [cap for cap in create_directories(access, many, kind="chk") if isinstance(cap, DirectoryCap)]
    assert {cap.kind for cap in made} == {"dir2-lit", "dir2-chk"}
    broken = DirectoryCap(LitCap(b"no table"))
    *found, bad, refused = load_many(access, [*made, broken, DirectoryCap(VERIFY)])  # type: ignore[arg-type]
    assert [each.children()[0].name for each in found if not isinstance(each, LafsError)] == [str(i) for i in range(12)]
    assert isinstance(bad, MalformedDirectory)
    assert isinstance(refused, NotGranted)


def test_an_immutable_directory_that_holds_a_write_cap_is_refused(access: Access) -> None:
    entry = b"".join(netstring(part) for part in (b"x", b"URI:LIT:", b"y" * 48, b"{}"))
    with pytest.raises(MalformedDirectory, match="write cap"):
        load(access, DirectoryCap(LitCap(netstring(entry))))


def test_an_entry_that_breaks_a_rule_is_left_out(access: Access) -> None:
    parts = [(b"bad", str(SSK_RO).encode(), b"", b"{}"), (b"good", b"URI:LIT:", b"", b"{}")]
    table = b"".join(netstring(b"".join(map(netstring, entry))) for entry in parts)
    found = load(access, DirectoryCap(LitCap(table)))
    assert [child.name for child in found.children()] == ["good"]
    assert [each.name for each in found.left_out] == ["bad"]
    with pytest.raises(MalformedDirectory, match="bad"):
        follow(access, found.cap, ["bad"])


# ---- contents ----


def test_content_of_every_immutable_kind(access: Access) -> None:
    large = filler(5000)
    stored = store(access, large, "chk").cap
    assert content(access, stored) == large
    assert content(access, LIT) == b"The end."
    pieces = bytearray()
    done = read(access, stored, pieces.extend, offset=10, length=20)
    assert (bytes(pieces), done.size) == (large[10:30], 20)
    assert content(access, create_directory(access, kind="chk")) == b""
    answers = contents_of(access, [LIT, stored, VERIFY, LIT])
    assert (answers[0], answers[1], answers[3]) == (b"The end.", large, b"The end.")
    assert isinstance(answers[2], NotGranted)


def test_what_can_not_be_read() -> None:
    with pytest.raises(NotGranted):
        readable(VERIFY)
    with pytest.raises(NotGranted):
        readable(DirectoryCap(VERIFY))  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        readable(UnknownCap("x-future:1"))


# ---- paths ----


def test_paths_are_names_between_slashes() -> None:
    assert split("") == split("/") == ()
    assert split("a//b/") == ("a", "b")
    assert split("./..") == (".", "..")


def test_follow(access: Access) -> None:
    inner = create_directory(access, {"日本語.txt": NewChild(LIT)}, kind="chk")
    root = create_directory(
        access, {"sub": NewChild(inner), "file": NewChild(LIT), "x": NewChild(UnknownCap("imm.x:1"))}, kind="chk"
    )
    assert follow(access, root, []) == root
    assert follow(access, root, ["sub"]) == inner
    assert follow(access, root, ["sub", "日本語.txt"]) == LIT
    assert child_at(access, root, ["sub", "日本語.txt"]).name == "日本語.txt"
    for names, part in [
        (["gone"], "gone: no such"),
        (["sub", "gone", "more"], "sub/gone: no such"),
        (["file", "x"], "file: is a file"),
        (["sub", "日本語.txt", "x"], "sub/日本語.txt: is a file"),
        (["x", "y"], "x: of a kind that lafs does not know"),
    ]:
        with pytest.raises(NotFound) as caught:
            follow(access, root, names)
        assert part in caught.value.message
    with pytest.raises(UsageError, match="cap of a file"):
        follow(access, LIT, ["x"])


def test_names_are_compared_in_nfc(access: Access) -> None:
    root = create_directory(access, {"cafe\u0301": NewChild(LIT)}, kind="chk")
    assert [child.name for child in load(access, root).children()] == ["caf\u00e9"]
    assert follow(access, root, ["cafe\u0301"]) == follow(access, root, ["caf\u00e9"]) == LIT


def test_spots(access: Access) -> None:
    inner = create_directory(access, {"a": NewChild(LIT)}, kind="chk")
    root = create_directory(access, {"sub": NewChild(inner)}, kind="chk")
    there = spot(access, root, ["sub", "a"])
    assert (there.parent, there.name, there.above) == (inner, "a", (root, inner))
    assert there.child is not None
    assert spot(access, root, ["sub", "new"]).child is None
    with pytest.raises(NotFound, match="sub/new: no such"):
        spot(access, root, ["sub", "new", "x"])
    with pytest.raises(NotGranted):
        spot(access, root, ["sub", "new", "x"], make_parents=True)
    assert reach(access, root, ["sub", "new", "x"]).missing == ("new", "x")


# ---- mutable directories ----


def table_of(access: Access, cap: DirectoryCap) -> bytes:
    return content(access, cap)


@pytest.mark.parametrize("kind", ["sdmf", "mdmf"])
def test_children_given_when_it_is_made(access: Access, kind: Kind) -> None:
    """Their write caps are sealed with the key of the directory, and their metadata are kept as given."""
    given = {"tahoe": {"linkcrtime": 1.5}, "x": [1, None]}
    made = create_directory(access, {"rw": NewChild(SSK, given), "ro": NewChild(SSK_RO)}, kind=kind)
    assert made.kind == {"sdmf": "dir2", "mdmf": "dir2-mdmf"}[kind]
    ro, rw = load(access, made).children()
    assert (ro.cap, rw.cap, rw.metadata) == (SSK_RO, SSK, given)
    assert [child.cap for child in load(access, made.read_cap()).children()] == [SSK_RO, SSK_RO]
    assert str(SSK).encode() not in table_of(access, made)


def test_an_empty_one_is_the_empty_string(access: Access) -> None:
    assert table_of(access, create_directory(access)) == b""


def test_edit_sets_times(access: Access) -> None:
    root = create_directory(access)
    edit(access, root, lambda table: table.link("x", LIT, now=1.0))
    edit(access, root, lambda table: table.link("x", LIT, metadata={"mine": 1}, now=2.0))
    [child] = load(access, root).children()
    assert child.metadata == {"mine": 1, "tahoe": {"linkcrtime": 1.0, "linkmotime": 2.0}}


def test_an_edit_without_a_change_writes_nothing(access: Access, local: LocalGrid) -> None:
    root = create_directory(access, {"x": NewChild(LIT)})
    before = {path: path.read_bytes() for path in local.share_files()}
    edit(access, root, lambda table: None)
    with pytest.raises(NotFound):
        edit(access, root, lambda table: table.unlink("y"))
    assert {path: path.read_bytes() for path in local.share_files()} == before


@pytest.mark.parametrize("power", ["read", "verify"])
def test_weaker_caps_do_not_edit(access: Access, power: str) -> None:
    root = create_directory(access)
    weak = root.read_cap() if power == "read" else root.verify_cap()
    assert weak is not None
    with pytest.raises(NotGranted, match=f"{power} cap"):
        edit(access, weak, lambda table: table.link("x", LIT, now=0))


def test_a_server_that_hangs_is_waited_for_once(local: LocalGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by each step of each operation: they would wait 1000 s here for it alone."""
    with local.grid() as grid:
        access = access_to(grid)
        cap = create_directory(access, {})
        before = [store(access, filler(100, index), "chk").cap for index in range(100, 108)]
        local.dials[4].hang = threading.Event()
        [hanging] = [one for one in grid.stores if one.server.name == "s4"]
        grid.submit(hanging, lambda store: store.shares([b"-" * 16]))
        monkeypatch.setattr(grids, "_LONG", 0.2)
        while grid.busy(hanging) < 0.2:
            time.sleep(0.01)
        for module, constants in PATIENCE.items():
            for constant in constants:
                monkeypatch.setattr(f"lafscli.{module}.{constant}", 1000.0)
        for index in range(8):  # of some of them that server has one of the first shares
            child = store(access, filler(100, index), "chk").cap
            link(access, cap, f"{index}", NewChild(child), over="nothing")
            assert len(load(access, cap).children()) == index + 1
            assert content(access, child) == filler(100, index)
            assert contents_of(access, [child]) == [filler(100, index)]
            assert content(access, before[index]) == filler(100, 100 + index)
        assert grid.busy(hanging) > 0.2
        local.dials[4].hang.set()


def test_a_change_is_made_again_on_what_another_wrote(local: LocalGrid) -> None:
    """Two clients, one in the middle of the other."""
    mine, other = access_to(local.grid()), access_to(local.grid())
    root = create_directory(mine)
    calls: list[int] = []

    def change(table: Table) -> None:
        calls.append(len(table))
        table.link("mine", LIT, now=1)

    edit(other, root, lambda table: table.link("theirs", LIT, now=1))
    edit(mine, root, change)
    assert calls[-1] == 1
    assert [child.name for child in load(mine, root).children()] == ["mine", "theirs"]


def test_ten_thousand_children_in_one_write(access: Access, local: LocalGrid) -> None:
    root = create_directory(access)
    said: list[str] = []
    access = replace(access, warn=said.append)
    changed = 0

    def change(table: Table) -> None:
        nonlocal changed
        changed += 1
        for number in range(10_000):
            table.link(f"child {number}", SSK, now=1)

    began = time.process_time()
    edit(access, root, change)
    found = load(access, root)
    assert time.process_time() - began < 20
    assert len(found.children()) == 10_000
    assert {path.name for path in local.share_files()} == {str(number) for number in range(10)}
    assert changed == 1
    assert said == []


def test_what_is_not_understood_survives_to_the_byte(access: Access) -> None:
    """Unknown caps, unusable entries, metadata of others and fields behind the fourth: all but what was changed."""
    writekey = b""

    def table(cap: caps.MutableWriteCap) -> bytes:
        nonlocal writekey
        writekey = cap.writekey
        entries = {
            b"future": (b"x-future:ro:1", seal(writekey, b"x-future:rw:1"), b'{"a":1e2,  "b": "\\u00e9"}'),
            b"no metadata": (b"URI:LIT:", seal(writekey, b""), b"not json"),
            b"rw in ro": (str(SSK).encode(), seal(writekey, b""), b"{}"),
            b"later fields": (b"URI:LIT:  ", seal(writekey, b""), b"{}", b"a fifth", b"a sixth"),
            b"verify": (str(VERIFY).encode(), seal(writekey, b""), b"{}"),
            b"old tahoe": (b"URI:LIT:", seal(writekey, b""), b'{"ctime": 7}'),
        }
        return b"".join(
            netstring(b"".join(map(netstring, (name, *fields)))) for name, fields in sorted(entries.items())
        )

    made = publish.create(access.grid, table, access.publishing, mdmf=False)
    root = DirectoryCap(made.cap)
    before = table_of(access, root)
    found = load(access, root)
    assert [child.name for child in found.children()] == ["future", "later fields", "old tahoe", "verify"]
    assert sorted(each.name for each in found.left_out) == ["no metadata", "rw in ro"]
    [future] = [child for child in found.children() if child.name == "future"]
    assert (str(future.rw), str(future.ro)) == ("x-future:rw:1", "ro.x-future:ro:1")
    edit(access, root, lambda table: table.link("new", LIT, now=3))
    after = table_of(access, root)
    new = load(access, root).table
    new.unlink("new")
    assert new.serialise() == before
    assert len(after) > len(before)
    edit(access, root, lambda table: table.link("old tahoe", LIT, now=3))
    assert load(access, root).table.child("old tahoe").metadata["tahoe"] == {"linkcrtime": 7, "linkmotime": 3}
    move(access, spot(access, root, ["future"]), spot(access, root, ["later"]))
    moved = load(access, root).table.child("later")
    assert (str(moved.rw), str(moved.ro), moved.metadata["b"]) == ("x-future:rw:1", "ro.x-future:ro:1", "é")
    broken = spot(access, root, ["rw in ro"])
    assert (broken.child, isinstance(broken.unusable, MalformedDirectory)) == (None, True)
    assert unlink(access, root, {"rw in ro": None, "gone": None})[0].message.startswith("gone")
    assert "rw in ro" not in load(access, root).table


# ---- links ----


def test_link_and_what_is_in_its_way(access: Access) -> None:
    root = create_directory(access, {"dir": NewChild(create_directory(access)), "new": NewChild(UnknownCap("ro.x:1"))})
    assert link(access, root, "file", NewChild(LIT), over="nothing") is None
    replaced = link(access, root, "file", NewChild(SSK), over="files")
    assert replaced is not None
    assert replaced.cap == LIT
    for name, over, why in (
        ("file", "nothing", "already"),
        ("dir", "files", "is a directory"),
        ("new", "files", "does not know"),
    ):
        with pytest.raises(Occupied, match=why):
            link(access, root, name, NewChild(LIT), over=over)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="verify cap"):
        link(access, root, "v", NewChild(VERIFY), over="nothing")
    for name in ("", "a/b"):
        with pytest.raises(UsageError, match="a name in a directory"):
            link(access, root, name, NewChild(LIT), over="nothing")


class Twice:
    """A write that comes through unacknowledged: the change is called again on what it made itself."""

    def __init__(self, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
        self.access = access
        real = publish.modify

        def modify(grid: Grid, cap: caps.MutableWriteCap, change: Callable[[bytes], bytes | None], *rest: Any) -> Any:
            real(grid, cap, change, *rest)
            return real(grid, cap, change, *rest)

        monkeypatch.setattr(publish, "modify", modify)


def test_a_change_that_came_through_unnoticed_is_no_error(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    root = create_directory(access, {"a": NewChild(LIT), "b": NewChild(SSK)})
    other = create_directory(access)
    Twice(access, monkeypatch)
    assert link(access, root, "new", NewChild(LIT), over="nothing") is None
    assert unlink(access, root, {"new": None}) == []
    assert move(access, spot(access, root, ["a"]), spot(access, root, ["c"])) is None
    assert move(access, spot(access, root, ["b"]), spot(access, other, ["b"])) is None
    assert [child.name for child in load(access, root).children()] == ["c"]
    assert [child.name for child in load(access, other).children()] == ["b"]
    made = create_directory(access)
    assert hang(access, root, "d", made) == made


def test_a_move_of_what_was_replaced_meanwhile(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry goes with what it leads to by then, also when the change is called again on what it made."""
    root = create_directory(access, {"a": NewChild(LIT)})
    source = spot(access, root, ["a"])
    edit(access, root, lambda table: table.link("a", SSK, now=1))
    Twice(access, monkeypatch)
    assert move(access, source, spot(access, root, ["c"])) is None
    assert [(child.name, child.cap) for child in load(access, root).children()] == [("c", SSK)]


def test_move_between_directories_removes_only_what_it_moved(access: Access) -> None:
    here, there = create_directory(access, {"x": NewChild(LIT)}), create_directory(access)
    source = spot(access, here, ["x"])
    edit(access, here, lambda table: table.link("x", SSK, now=1))
    with pytest.raises(Conflict, match="replaced while it was moved"):
        move(access, source, spot(access, there, ["y"]))
    assert load(access, here).table.child("x").cap == SSK
    assert load(access, there).table.child("y").cap == LIT


def test_nothing_is_lost_when_a_move_stops_in_the_middle(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = create_directory(access, {"x": NewChild(SSK, {"m": 1})}), create_directory(access)
    source, target = spot(access, here, ["x"]), spot(access, there, ["x"])

    def refuse(*_: object) -> None:
        raise NotHappy("too few servers")

    monkeypatch.setattr("lafscli.tree.links.unlink", refuse)
    with pytest.raises(NotHappy) as caught:
        move(access, source, target)
    assert "the new link is made" in (caught.value.hint or "")
    for root in (here, there):
        child = load(access, root).table.child("x")
        assert (child.cap, child.metadata["m"]) == (SSK, 1)


def test_a_directory_is_not_moved_into_itself(access: Access) -> None:
    inner = create_directory(access)
    root = create_directory(access, {"a": NewChild(inner)})
    with pytest.raises(LafsError, match="into itself"):
        move(access, spot(access, root, ["a"]), spot(access, root, ["a", "b"]))
    read_only = create_directory(access, {"a": NewChild(inner.read_cap())})
    with pytest.raises(LafsError, match="into itself"):
        move(access, spot(access, read_only, ["a"]), spot(access, root, ["a", "b"]))


def test_directories_on_the_way_are_made_together(access: Access) -> None:
    root = create_directory(access)
    reached = reach(access, root, ["a", "b", "c", "file"])
    assert plant(access, reached, "file", NewChild(LIT), over="files") is None
    assert follow(access, root, ["a", "b", "c", "file"]) == LIT
    # the same once more, from what was seen before: another was faster, and nothing of it is lost
    assert plant(access, reached, "other", NewChild(SSK), over="files") is None
    assert follow(access, root, ["a", "b", "c", "other"]) == SSK
    assert follow(access, root, ["a", "b", "c", "file"]) == LIT
    there = spot(access, root, ["a", "x", "y", "z"], make_parents=True)
    assert (there.name, there.child, len(there.above)) == ("z", None, 4)
    assert follow(access, root, ["a", "x", "y"]) == there.parent


def test_a_large_table_is_told_of(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    access = replace(access, warn=said.append)
    monkeypatch.setattr("lafscli.tree.directory.LARGE", 100)
    root = create_directory(access)
    edit(access, root, lambda table: table.link("x", LIT, now=0))
    assert len(said) == 1
    assert str(root) not in said[0]


def test_many_directories_at_once(access: Access) -> None:
    made = create_directories(access, [{}, {"x": NewChild(SSK)}, {"y": NewChild(LIT)}])
    found = load_many(access, [cap for cap in made if isinstance(cap, DirectoryCap)])
    assert [len(each.table) for each in found if isinstance(each, Directory)] == [0, 1, 1]
    assert found[1].children()[0].cap == SSK  # type: ignore[union-attr]


def test_without_servers() -> None:
    access = Access.nowhere(print)
    assert load(access, create_directory(access, kind="chk")).children() == []
    for what in (lambda: create_directory(access), lambda: content(access, SSK), lambda: store(access, b"", "sdmf")):
        with pytest.raises(UsageError, match="no server"):
            what()


def test_a_warning_names_its_object_once() -> None:
    said: list[str] = []
    cap = caps.parse("URI:DIR2:fs6ul2fju2fvb2cfx7gt6ngycm:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq")
    name = cap.abbreviation
    pass_on(Access.nowhere(said.append), cap, [f"{name}: 5 of 10", "another"])
    assert said == [f"directory {name}: 5 of 10", f"directory {name}: another"]
