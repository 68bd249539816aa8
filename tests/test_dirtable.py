"""Directory tables: spec 04 §2-6, §8."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafscli.errors import MalformedDirectory, NotFound, NotGranted, UsageError
from lafscli.formats import caps
from lafscli.formats.caps import (
    ChkCap,
    DirectoryCap,
    LitCap,
    MutableReadCap,
    MutableWriteCap,
    UnknownCap,
)
from lafscli.formats.child import Child, Unfit, child_caps, seal, stored_caps, unseal
from lafscli.formats.dirtable import LeftOut, Table
from lafscli.primitives.encoding import Reader, netstring

EXAMPLE = json.loads((Path(__file__).parent / "vectors" / "directory_example.json").read_text())
TABLE = bytes.fromhex(EXAMPLE["table_hex"])
KEY = bytes.fromhex(EXAMPLE["directory_writekey"])
READ_ONLY = "must be read-only"
DEEP = "must be deeply immutable"

WRITE = MutableWriteCap(False, b"w" * 16, b"f" * 32)
READ = WRITE.read_cap()
VERIFY = WRITE.verify_cap()
CHK = ChkCap(b"k" * 16, b"u" * 32, 3, 10, 1000)
LIT = LitCap(b"x")
IMMUTABLE = (
    b"113:1:a,97:URI:CHK:zcieybt43uu2qjsaqvuctznjwu:ypfxosfnz4hqzmsvxizh7iks2woc3s6magcks33uru2y3u62fezq:3:10:1000,"
    b"0:,2:{},,35:1:z,13:URI:LIT:nruxi,0:,8:{\"x\": 1},,"
)  # fmt: skip


def entry(name: bytes, ro: bytes = b"URI:LIT:nruxi", sealed: bytes | None = None, metadata: bytes = b"{}") -> bytes:
    """Content of one entry of a mutable directory."""
    sealed = seal(KEY, b"") if sealed is None else sealed
    return b"".join(netstring(part) for part in (name, ro, sealed, metadata))


def table(*entries: bytes) -> Table:
    return Table.parse(b"".join(netstring(one) for one in entries), mutable=True, writekey=KEY)


def only(found: Table) -> Child:
    [child], left_out = found.listing()
    assert left_out == []
    return child


def text(cap: caps.Cap | None) -> str:
    return "" if cap is None else str(cap)


def entries(data: bytes) -> list[bytes]:
    reader = Reader(data)
    found = []
    while reader.remaining():
        found.append(reader.netstring())
    return found


# ---- the worked examples -------------------------------------------------------------------------------------------


def test_the_table_made_by_tahoe_is_read() -> None:
    found = Table.parse(TABLE, mutable=True, writekey=KEY)
    children, left_out = found.listing()
    assert left_out == []
    assert [child.name for child in children] == [child["name"] for child in EXAMPLE["children"]]
    for child, expected in zip(children, EXAMPLE["children"], strict=True):
        assert text(child.rw) == expected["shown_rw"]
        assert text(child.ro) == expected["shown_ro"]
        assert child.metadata == json.loads(expected["metadata_text"])
        assert found.child(child.name) == child
    assert len(found) == 7
    assert found.serialise() == TABLE


def test_the_table_made_by_tahoe_is_made_again_to_the_byte() -> None:
    found = Table(mutable=True, writekey=KEY)
    for expected in reversed(EXAMPLE["children"]):
        cap = caps.parse(expected["shown_rw"] or expected["shown_ro"])
        ro = caps.parse(expected["shown_ro"]) if isinstance(cap, UnknownCap) and expected["shown_rw"] else None
        found.link(expected["name"], cap, ro=ro, metadata=json.loads(expected["metadata_text"]))
    assert found.serialise() == TABLE


@pytest.mark.parametrize("expected", EXAMPLE["children"], ids=lambda expected: expected["name"])
def test_sealed_caps_of_tahoe(expected: dict[str, Any]) -> None:
    sealed = bytes.fromhex(expected["rwdata_hex"])
    assert unseal(KEY, sealed) == expected["rw_decrypted"].encode()
    assert seal(KEY, expected["rw_decrypted"].encode()) == sealed
    # spec 04 §3: readers do not check the mac
    assert unseal(KEY, sealed[:-1] + b"?") == expected["rw_decrypted"].encode()


def test_with_the_read_cap_only_read_caps_are_seen() -> None:
    """Transitive read-only."""
    children, left_out = Table.parse(TABLE, mutable=True).listing()
    assert left_out == []
    assert [text(child.ro) for child in children] == [child["shown_ro"] for child in EXAMPLE["children"]]
    assert all(child.rw is None for child in children)
    found = Table.parse(TABLE, mutable=True)
    with pytest.raises(NotGranted):
        found.link("x", LIT, now=1.0)
    assert found.serialise() == TABLE


def test_the_immutable_tables_of_the_example() -> None:
    found = Table.parse(IMMUTABLE, mutable=False)
    children, left_out = found.listing()
    assert left_out == []
    assert [(child.name, child.rw, child.metadata) for child in children] == [("a", None, {}), ("z", None, {"x": 1})]
    assert found.serialise() == IMMUTABLE
    made = Table(mutable=False)
    for child in reversed(children):
        made.link(child.name, child.cap, metadata=child.metadata)
    assert made.serialise() == IMMUTABLE
    made.unlink("a")
    made.link("z", children[1].cap)
    assert str(DirectoryCap(LitCap(made.serialise()))) == (
        "URI:DIR2-LIT:gi4tumj2piwdcmz2kvjesosmjfkdu3tsov4gslbqhiwdeot3puwcy"
    )


def test_the_empty_directory_is_the_empty_string() -> None:
    assert Table(mutable=False).serialise() == b""
    assert Table.parse(b"", mutable=True, writekey=KEY).listing() == ([], [])
    assert str(DirectoryCap(LitCap(Table(mutable=False).serialise()))) == "URI:DIR2-LIT:"


# ---- editing -------------------------------------------------------------------------------------------------------


def test_what_is_not_changed_keeps_its_bytes() -> None:
    """Odd JSON, future fields, wrong mac, broken entries: all come back byte for byte, in their sorted places."""
    odd = [
        entry(b"a", metadata=b'{ "tahoe" :{} , "x": 1.50, "x": 2}') + netstring(b"a field of the future"),
        entry(b"b", sealed=seal(KEY, b"URI:SSK:broken")[:-1] + b"?"),
        entry(b"c", metadata=b"no JSON"),
        entry(b"d", ro=b"URI:SSK:wrong   "),
        entry(b"e", sealed=b"short"),
        netstring(b"f") + b"nothing else",
        entry("e\u0301".encode()),  # not NFC
        entry(b"h\xff"),
    ]
    found = table(*reversed(odd))
    assert len(found.listing()[0]) + len(found.listing()[1]) == 8
    found.link("bb", LIT, now=5.0)
    again = entries(found.serialise())
    assert [one for one in again if not one.startswith(b"2:bb,")] == [*odd[:6], odd[7], odd[6]]
    assert again[2].startswith(b"2:bb,")
    for name in ("a", "b", "bb", "c", "d", "e", "f", "e\u0301", "h\udcff"):
        assert name in found
        found.unlink(name)
    assert found.serialise() == b""


def test_an_entry_without_a_name_is_kept() -> None:
    found = table(b"no netstring", entry(b"a"))
    assert found.listing()[1] == [LeftOut("", "it has no name")]
    assert len(found) == 2
    found.unlink("a")
    assert found.serialise() == netstring(b"no netstring")


def test_names_are_normalised_and_the_later_of_two_wins() -> None:
    found = table(entry("é".encode(), b"URI:LIT:nruxi"), entry("e\u0301".encode(), b"URI:LIT:pf4q"))
    child = only(found)
    assert (child.name, text(child.ro)) == ("é", "URI:LIT:pf4q")
    assert "e\u0301" in found
    assert "é" in found
    found.link("e\u0301", CHK, now=1.0)
    assert only(found).ro == CHK
    assert entries(found.serialise())[0].startswith(netstring("é".encode()))
    assert found.child("e\u0301").name == "é"


def test_links_are_sorted_by_name_however_they_come() -> None:
    names = ["b", "a", "é", "B", "\U0001f600", "\uffee", "aa"]
    found = Table(mutable=True, writekey=KEY)
    for name in names:
        found.link(name, LIT)
    assert [child.name for child in found.listing()[0]] == sorted(names)
    assert Table.parse(found.serialise(), mutable=True, writekey=KEY).serialise() == found.serialise()


@pytest.mark.parametrize("name", ["", "a/b", "/", "\ud800"])
def test_names_that_are_not_made(name: str) -> None:
    found = Table(mutable=True, writekey=KEY)
    with pytest.raises(UsageError, match="name"):
        found.link(name, LIT, now=1.0)
    assert name not in found


@pytest.mark.parametrize("name", ["a", "\ud800x", "\udcff"])
def test_what_is_not_there(name: str) -> None:
    found = table(entry(b"b"))
    with pytest.raises(NotFound, match="no such entry"):
        found.child(name)
    with pytest.raises(NotFound, match="no such entry"):
        found.unlink(name)


def test_odd_names_that_are_found() -> None:
    """A name with a slash is listed; an empty one, or one that is no text, is left out."""
    found = table(entry(b"a/b"), entry(b""), entry(b"\xff\xfe"))
    children, left_out = found.listing()
    assert [child.name for child in children] == ["a/b"]
    assert [one.reason for one in left_out] == ["its name is empty", "its name is not UTF-8"]


def test_ten_thousand_links_are_one_pass() -> None:
    """Linear: ten times the entries take about ten times as long, and adding one does not touch the others."""
    made = Table(mutable=True, writekey=KEY)
    start = time.perf_counter()
    for i in range(10_000):
        made.link(f"child {i:05}", WRITE if i % 2 else LIT, now=1.0)
    data = made.serialise()
    found = Table.parse(data, mutable=True, writekey=KEY)
    found.link("another", LIT, now=2.0)
    found.unlink("child 00000")
    again = found.serialise()
    assert time.perf_counter() - start < 5
    assert len(found) == 10_000
    assert entries(again)[1:] == entries(data)[1:]
    assert entries(again)[0].startswith(b"7:another,")


# ---- metadata ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (None, None, {"tahoe": {"linkcrtime": 9.5, "linkmotime": 9.5}}),
        (None, {"a": 1, "tahoe": {"linkcrtime": 3}}, {"a": 1, "tahoe": {"linkcrtime": 9.5, "linkmotime": 9.5}}),
        ({"b": 2}, None, {"b": 2, "tahoe": {"linkcrtime": 9.5, "linkmotime": 9.5}}),
        ({"b": 2, "ctime": 4.25}, None, {"b": 2, "ctime": 4.25, "tahoe": {"linkcrtime": 4.25, "linkmotime": 9.5}}),
        ({"b": 2, "ctime": 4.25}, {"a": 1}, {"a": 1, "tahoe": {"linkcrtime": 4.25, "linkmotime": 9.5}}),
        (
            {"b": 2, "tahoe": {"linkcrtime": 1.5, "linkmotime": 2.5, "z": 0}},
            {"a": 1, "tahoe": {"y": 0}},
            {"a": 1, "tahoe": {"linkcrtime": 1.5, "linkmotime": 9.5, "z": 0}},
        ),
        ({"tahoe": {"linkcrtime": 1.5}}, None, {"tahoe": {"linkcrtime": 1.5, "linkmotime": 9.5}}),
        ({"tahoe": 7}, {}, {"tahoe": {"linkcrtime": 9.5, "linkmotime": 9.5}}),
    ],
)  # fmt: skip
def test_metadata_of_a_link_that_is_set(old: dict[str, Any] | None, new: dict[str, Any] | None, expected: Any) -> None:
    """Spec 04 §4."""
    found = Table(mutable=True, writekey=KEY)
    if old is not None:
        found.link("x", LIT, metadata=old)
        assert only(found).metadata == old
    found.link("x", CHK, metadata=new, now=9.5)
    assert only(found).metadata == expected


def test_metadata_that_cannot_be_read_is_replaced() -> None:
    found = table(entry(b"x", metadata=b"{"))
    found.link("x", LIT, now=2.0)
    assert only(found).metadata == {"tahoe": {"linkcrtime": 2.0, "linkmotime": 2.0}}


def test_no_write_drops_the_write_cap() -> None:
    found = Table(mutable=True, writekey=KEY)
    found.link("x", WRITE, metadata={"no-write": True}, now=1.0)
    assert (only(found).rw, only(found).ro) == (None, READ)
    found.link("x", WRITE, metadata={"no-write": False}, now=1.0)
    assert only(found).rw == WRITE


def test_metadata_is_written_as_tahoe_does() -> None:
    found = Table(mutable=True, writekey=KEY)
    found.link("x", LIT, metadata={"ü": [1, 2.5, None], "b": "\ud800"})
    assert b'{"\\u00fc": [1, 2.5, null], "b": "\\ud800"}' in found.serialise()


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": float("inf")}, {"x": b"bytes"}, {"x": {1j}}])
def test_metadata_that_is_no_json_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="JSON"):
        Table(mutable=True, writekey=KEY).link("x", LIT, metadata=metadata, now=1.0)


# ---- caps of children ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rw", "ro", "immutable", "expected"),
    [
        (str(WRITE), "", False, (str(WRITE), str(READ))),
        # the stored read cap beside a known write cap is ignored
        (str(WRITE), str(CHK), False, (str(WRITE), str(READ))),
        (str(WRITE), "imm.x", False, (str(WRITE), str(READ))),
        ("", str(READ), False, ("", str(READ))),
        (str(CHK), "", False, ("", str(CHK))),
        ("", str(CHK), True, ("", str(CHK))),
        ("", f"imm.{LIT}", True, ("", str(LIT))),
        ("", str(VERIFY), False, ("", str(VERIFY))),
        # the table of spec 04 §6
        ("x:rw", "x:ro", False, ("x:rw", "ro.x:ro")),
        ("x:rw", "ro.x:ro", False, ("x:rw", "ro.x:ro")),
        ("ro.x", "", False, ("", "ro.x")),
        ("imm.x", "", False, ("", "imm.x")),
        ("", "x:ro", False, ("", "ro.x:ro")),
        ("", "ro.x:ro", False, ("", "ro.x:ro")),
        ("", "imm.x", False, ("", "imm.x")),
        ("", "x", True, ("", "imm.x")),
        ("", "ro.x", True, ("", "imm.x")),
        ("", "imm.x", True, ("", "imm.x")),
        ("imm.x", "", True, ("", "imm.x")),
        ("", "", False, ("", "")),
        ("", "", True, ("", "")),
    ],
)  # fmt: skip
def test_caps_of_an_entry(rw: str, ro: str, immutable: bool, expected: tuple[str, str]) -> None:
    shown = child_caps(rw, ro, immutable=immutable)
    assert (text(shown[0]), text(shown[1])) == expected


@pytest.mark.parametrize(
    ("rw", "ro", "immutable", "reason"),
    [
        ("x:rw", "imm.x", False, "can't have a write cap"),
        ("x:rw", "", False, "nobody can tell"),
        ("x:rw", "x:ro", True, "unknown format"),
        ("x:rw", "", True, "unknown format"),
        ("ro.x", "", True, "unknown format"),
        ("imm.x", "imm.x", True, "unknown format"),
        ("", str(WRITE), False, READ_ONLY),
        ("", f"ro.{WRITE}", False, READ_ONLY),
        ("", str(DirectoryCap(WRITE)), False, READ_ONLY),
        ("", f"imm.{READ}", False, DEEP),
        ("", str(WRITE), True, DEEP),
        ("", str(READ), True, DEEP),
        ("", str(DirectoryCap(READ)), True, DEEP),
        ("", f"ro.{READ}", True, DEEP),
        (str(WRITE), "", True, DEEP),
        (f"ro.{WRITE}", "", False, READ_ONLY),
        ("URI:SSK:broken", "", False, "malformed"),
        ("", "URI:CHK:broken", False, "malformed"),
        ("", "URI:CHK:broken", True, "malformed"),
    ],
)  # fmt: skip
def test_caps_that_an_entry_must_not_hold(rw: str, ro: str, immutable: bool, reason: str) -> None:
    with pytest.raises(Unfit, match=reason) as caught:
        child_caps(rw, ro, immutable=immutable)
    assert not any(secret and secret in str(caught.value) for secret in (rw, ro))


def test_a_write_cap_in_the_place_of_a_read_cap_is_left_out_and_kept() -> None:
    found = table(entry(b"a", ro=str(WRITE).encode()), entry(b"b"))
    children, left_out = found.listing()
    assert [child.name for child in children] == ["b"]
    assert left_out == [LeftOut("a", READ_ONLY)]
    with pytest.raises(MalformedDirectory, match=READ_ONLY):
        found.child("a")
    assert str(WRITE).encode() in found.serialise()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (entry(b"x", sealed=bytes(47)), "sealed write cap is cut short"),
        (entry(b"x", sealed=seal(KEY, b"\xff\xfe")), "no text"),
        (entry(b"x", sealed=seal(b"another key 1234", str(WRITE).encode())), ""),
        (entry(b"x", ro=b"\xff"), "no text"),
        (entry(b"x", metadata=b""), "not JSON"),
        (entry(b"x", metadata=b"\xff"), "not JSON"),
        (entry(b"x", metadata=b"[]"), "not a JSON object"),
        (entry(b"x", metadata=b'{"x": NaN}'), "not JSON"),
        (entry(b"x", metadata=b'{"x": 1e999}'), "not JSON"),
        (entry(b"x", metadata=b"[" * 100_000), "not JSON"),
        (entry(b"x", metadata=b'{"x": ' + b"9" * 5000 + b"}"), "not JSON"),
        (netstring(b"x") + netstring(b""), "a field of it"),
        (netstring(b"x") + netstring(b"") + netstring(b"") + b"03:{ },", "no proper length"),
        (entry(b"x")[:-1], "does not end with a comma"),
    ],
)  # fmt: skip
def test_an_entry_that_breaks_a_rule_is_left_out(bad: bytes, reason: str) -> None:
    found = table(bad, entry(b"y"))
    children, [left_out] = found.listing()
    assert [child.name for child in children] == ["y"]
    assert left_out.name == "x"
    assert reason in left_out.reason
    assert netstring(bad) in found.serialise()


def test_trailing_spaces_are_no_part_of_caps() -> None:
    found = table(entry(b"x", ro=b"URI:LIT:nruxi   ", sealed=seal(KEY, b"   ")))
    assert (only(found).rw, text(only(found).ro)) == (None, "URI:LIT:nruxi")
    found = table(entry(b"x", ro=b"   ", sealed=seal(KEY, str(WRITE).encode() + b"  ")))
    assert only(found).rw == WRITE
    assert only(table(entry(b"x", ro=b"   "))).cap == UnknownCap("")


def test_an_entry_without_any_sealed_part_has_no_write_cap() -> None:
    assert only(table(entry(b"x", sealed=b""))).rw is None


@pytest.mark.parametrize(
    ("cap", "immutable", "reason"),
    [
        (WRITE.verify_cap(), False, "verify cap"),
        (CHK.verify_cap(), False, "verify cap"),
        (CHK.verify_cap(), True, "verify cap"),
        (DirectoryCap(CHK.verify_cap()), True, "verify cap"),
        (WRITE, True, DEEP),
        (READ, True, DEEP),
        (DirectoryCap(WRITE), True, DEEP),
        (DirectoryCap(READ), True, DEEP),
        (MutableReadCap(True, b"r" * 16, b"f" * 32), True, DEEP),
        (UnknownCap("x:rw"), False, "nobody can tell"),
        (UnknownCap("x:rw"), True, "unknown format"),
        (UnknownCap("URI:SSK:x", "malformed cap"), False, "malformed cap"),
    ],
)  # fmt: skip
def test_caps_that_are_not_linked(cap: caps.Cap, immutable: bool, reason: str) -> None:
    made = Table(mutable=not immutable, writekey=None if immutable else KEY)
    with pytest.raises(UsageError, match=reason) as caught:
        made.link("x", cap)
    assert str(cap) not in str(caught.value)
    assert len(made) == 0


@pytest.mark.parametrize(
    ("cap", "ro", "immutable", "stored"),
    [
        (WRITE, None, False, (str(WRITE), str(READ))),
        (WRITE, CHK, False, (str(WRITE), str(READ))),
        (READ, None, False, ("", str(READ))),
        (CHK, None, True, ("", str(CHK))),
        (UnknownCap("x:rw"), UnknownCap("ro.x:ro"), False, ("x:rw", "x:ro")),
        (UnknownCap("x:rw"), UnknownCap("x:ro"), False, ("x:rw", "x:ro")),
        (UnknownCap("ro.x"), None, False, ("", "x")),
        (UnknownCap("imm.x"), None, False, ("", "imm.x")),
        (UnknownCap("imm.x"), None, True, ("", "x")),
        (UnknownCap(""), None, False, ("", "")),
        # no promise grows on the way
        (UnknownCap("ro.imm.x"), None, False, ("", "ro.imm.x")),
        (UnknownCap("imm.imm.x"), None, True, ("", "imm.imm.x")),
    ],
)  # fmt: skip
def test_caps_as_they_are_stored(cap: caps.Cap, ro: caps.Cap | None, immutable: bool, stored: tuple[str, str]) -> None:
    assert stored_caps(cap, ro, immutable=immutable) == stored
    made = Table(mutable=not immutable, writekey=None if immutable else KEY)
    made.link("x", cap, ro=ro)
    child = only(made)
    # and what is read is stored the same again
    again = Table(mutable=not immutable, writekey=None if immutable else KEY)
    again.link("x", child.cap, ro=child.ro)
    assert again.serialise() == made.serialise()


def test_an_immutable_directory_with_a_sealed_cap_is_refused() -> None:
    for sealed in (b"x", seal(KEY, b"")):
        with pytest.raises(MalformedDirectory, match="holds a write cap"):
            Table.parse(netstring(entry(b"x", sealed=sealed)), mutable=False)


@pytest.mark.parametrize("cap", [WRITE, READ, DirectoryCap(READ)], ids=["write", "read", "directory"])
def test_an_immutable_directory_shows_nothing_mutable(cap: caps.Cap) -> None:
    found = Table.parse(netstring(entry(b"x", ro=str(cap).encode(), sealed=b"")), mutable=False)
    assert found.listing() == ([], [LeftOut("x", DEEP)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x", "no proper length"),
        (b"5", "no proper length"),
        (b":,", "no proper length"),
        (b"-1:,", "no proper length"),
        (b"01:x,", "no proper length"),
        (b"1_0:0123456789,", "no proper length"),
        (b"99999999999:x,", "no proper length"),
        (b"3:ab,", "comma"),
        (b"3:abcd", "comma"),
        (b"3:abc", "comma"),
        (TABLE + b" ", "no proper length"),
        (TABLE[:-1], "comma"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fall_apart_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedDirectory, match=reason):
        Table.parse(data, mutable=True, writekey=KEY)


# ---- anything ------------------------------------------------------------------------------------------------------

TEXT = st.text(min_size=1, max_size=8).filter(lambda name: "/" not in name)
METADATA = st.dictionaries(
    st.text(max_size=4), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
KNOWN = st.sampled_from([WRITE, READ, CHK, LIT, DirectoryCap(WRITE), DirectoryCap(LIT), UnknownCap("ro.x")])


@settings(deadline=None)
@given(st.dictionaries(TEXT, st.tuples(KNOWN, METADATA), max_size=6))
def test_what_is_linked_is_listed(links: dict[str, tuple[caps.Cap, dict[str, Any]]]) -> None:
    made = Table(mutable=True, writekey=KEY)
    for name, (cap, metadata) in links.items():
        made.link(name, cap, metadata=metadata)
    data = made.serialise()
    found = Table.parse(data, mutable=True, writekey=KEY)
    children, left_out = found.listing()
    assert left_out == []
    assert found.serialise() == data
    for name, (cap, metadata) in links.items():
        child = made.child(name)
        assert child in children
        if child.metadata == metadata and not metadata.get("no-write"):
            assert child.cap == cap


def mutate(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    changed = bytearray(data)
    for position, length, replacement in changes:
        start = position % (len(changed) + 1)
        changed[start : start + length] = replacement
    return bytes(changed)


CHANGES = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4)


def check_mutated(data: bytes) -> None:
    for mutable, key in ((True, KEY), (True, None), (False, None)):
        try:
            found = Table.parse(data, mutable=mutable, writekey=key)
        except MalformedDirectory:
            continue
        children, left_out = found.listing()
        assert len(children) + len(left_out) == len(found)
        again = found.serialise()
        assert Table.parse(again, mutable=mutable, writekey=key).listing() == (children, left_out)
        assert set(entries(again)) <= set(entries(data))
        assert not any(child.rw for child in children if key is None)
        if not mutable:
            assert not any(child.cap.mutable and child.cap.readable for child in children)


@given(st.sampled_from([TABLE, IMMUTABLE]), CHANGES)
@settings(max_examples=150, deadline=None)
def test_mutated_tables_are_read_or_refused(data: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    check_mutated(mutate(data, changes))


@pytest.mark.slow
@given(st.sampled_from([TABLE, IMMUTABLE]), CHANGES)
@settings(max_examples=8_000, deadline=None)
def test_many_mutated_tables_are_read_or_refused(data: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    check_mutated(mutate(data, changes))
