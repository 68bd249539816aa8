"""Directories on a grid: load, edit, create, paths and links (spec 04)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lafscli.errors import LafsError, MalformedDirectory, NotFound, NotGranted, UsageError
from lafscli.formats import caps
from lafscli.formats.caps import DirectoryCap, LitCap, UnknownCap
from lafscli.primitives.encoding import netstring
from lafscli.tree.contents import Access, content, contents_of, read, readable, store
from lafscli.tree.directory import NewChild, create_directories, create_directory, edit, load, load_many
from lafscli.tree.paths import child_at, follow, reach, split, spot
from tests.grids import LocalGrid
from tests.grids import content as filler
from tests.mutable_access import access_to

LIT = caps.parse("URI:LIT:krugkidfnzsc4")
VERIFY = caps.parse("URI:CHK-Verifier:qqqqqqqqqqqqqqqqqqqqqqqqqa:" + 51 * "a" + "a:3:10:1000")
SSK = caps.parse("URI:SSK:fs6ul2fju2fvb2cfx7gt6ngycm:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq")
SSK_RO = caps.parse("URI:SSK-RO:65ruo2zytr3uxnaxkptdoqkth4:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq")


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
