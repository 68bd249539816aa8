"""Scrub: every share is proven without a key; what is damaged goes to quarantine, and nothing else does."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from lafscli.formats.chk import Layout
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.formats.slot import HEAD_SIZE, Header
from lafscli.primitives.encoding import b32encode
from tests.host_folders import SLOT_SI, Host, Tool, immutable, lease, mutable, shares, slots, some_si
from tests.lafs_process import Lafs

LIVE = lease(1000)
A, B = some_si(1), some_si(2)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


def flipped(data: bytes, at: int, bit: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def test_good_shares_of_every_kind_are_clean(host: Host) -> None:
    for shnum in range(4):
        host.put(A, shnum, immutable(shares()[shnum], *[LIVE] * shnum))
        host.put(B, shnum, immutable(shares(version=2)[shnum]))
        host.put(SLOT_SI, shnum, mutable(slots()[shnum], *[lease(5, i) for i in range(2 * shnum)]))
        host.put(some_si(3), shnum, mutable(slots(content=b"m" * 1000, mdmf=True, segment_size=64)[shnum], LIVE))
        host.put(some_si(4), shnum, mutable(slots(content=b"")[shnum], LIVE))
        host.put(some_si(5), shnum, mutable(slots(content=b"", mdmf=True)[shnum]))
    host.put(some_si(6), "00", immutable(shares()[0]))
    host.put(some_si(7), 0, immutable(shares(b"x" * 60, 1, 1, 1 << 20)[0]))
    host.put(some_si(8), 0, immutable(shares()[0]) + b"x" * 100)  # spec 09: accepted
    host.put(some_si(9), 0, immutable(shares()[0], LIVE, counted=0))  # its writer died before it was counted
    before = host.files()
    found = host.scrub()
    assert (found.shares, found.damaged, found.unknown) == (28, [], [])
    assert found.bytes == sum(map(len, before.values()))
    assert host.files() == before
    assert not any((host.root / "locks").iterdir()) if (host.root / "locks").exists() else True


_LAYOUT = Layout.parse(shares()[0])
_IMMUTABLE = {
    "offset of data": 12 + 0x0C + 3,
    "offset of block hashes": 12 + 0x18 + 3,
    "offset of UEB": 12 + 0x20 + 3,
    "first block": 12 + _LAYOUT.data,
    "last block": 12 + _LAYOUT.plaintext_hash_tree - 1,
    "crypttext hash tree": 12 + _LAYOUT.crypttext_hash_tree + 40,
    "block hashes, root": 12 + _LAYOUT.block_hashes,
    "block hashes, leaf": 12 + _LAYOUT.share_hashes - 1,
    "share hashes, number": 12 + _LAYOUT.share_hashes + 1,
    "share hashes, hash": 12 + _LAYOUT.share_hashes + 5,
    "length of UEB": 12 + _LAYOUT.uri_extension + 3,
    "UEB, share root": 12 + shares()[0].index(b"share_root_hash:32:") + 30,
    "UEB, crypttext root": 12 + shares()[0].index(b"crypttext_root_hash:32:") + 30,
    "UEB, size": 12 + shares()[0].index(b",size:") + 9,
    "number of leases": 11,
}
_HEADER = Header.parse(slots()[0][:HEAD_SIZE], len(slots()[0]))
_MUTABLE = {
    "data length": 91,
    "seqnum": DATA_OFFSET + 8,
    "root hash": DATA_OFFSET + 20,
    "salt": DATA_OFFSET + 45,
    "k": DATA_OFFSET + 57,
    "data length of the file": DATA_OFFSET + 74,
    "public key": DATA_OFFSET + _HEADER.layout.public_key[0] + 60,
    "signature": DATA_OFFSET + _HEADER.layout.signature[0] + 60,
    "share hash chain": DATA_OFFSET + _HEADER.layout.share_hash_chain[0] + 10,
    "block hash tree": DATA_OFFSET + _HEADER.layout.block_hash_tree[0] + 10,
    "block": DATA_OFFSET + _HEADER.layout.share_data[0],
}


@pytest.mark.parametrize(
    ("kind", "at"),
    [("immutable", each) for each in _IMMUTABLE.items()] + [("mutable", each) for each in _MUTABLE.items()],
    ids=lambda each: each if isinstance(each, str) else each[0],
)
def test_a_flip_in_any_section_is_found_and_put_into_quarantine(host: Host, kind: str, at: tuple[str, int]) -> None:
    good = immutable(shares()[0], LIVE) if kind == "immutable" else mutable(slots()[0], LIVE)
    bad = flipped(good, at[1], 0x10 if at[0] in ("data length", "number of leases") else 1)
    path = host.put(SLOT_SI, 0, bad)
    beside = host.put(SLOT_SI, 1, immutable(shares()[1], LIVE) if kind == "immutable" else mutable(slots()[1], LIVE))
    found = host.scrub()
    [damage] = found.damaged
    assert (damage.si, damage.shnum, damage.found) == (b32encode(SLOT_SI), 0, str(path.relative_to(host.root)))
    assert damage.lies is not None
    assert host.files("quarantine") == {damage.lies: bad}
    assert not path.exists()
    assert beside.exists()
    [(name, text)] = host.files("history").items()
    assert name.startswith("history/advisories/2027-01-15T080000Z-")
    assert name.endswith(f"{b32encode(SLOT_SI)}-0.txt")
    for said in (damage.reason, damage.lies, damage.found, "share number: 0", b32encode(SLOT_SI), "2027-01-15T08:00"):
        assert said in text.decode()
    assert host.scrub().damaged == []


def test_shares_that_are_cut_or_stand_in_the_wrong_place_are_damaged(host: Host) -> None:
    good = immutable(shares()[0])
    slot = mutable(slots()[0], LIVE)
    for number, data in enumerate([b"", good[:5], good[:12], good[:30], good[:-1], slot[:20], slot[:468], slot[:1000]]):
        host.put(some_si(number), 0, data)
    host.put(A, 3, good)  # share 0 under the name of another
    host.put(B, 1, slot)
    host.put(some_si(20), 300, good)
    found = host.scrub()
    assert len(found.damaged) == 11
    assert found.unknown == []
    assert len(host.files("quarantine")) == 11


def test_what_is_not_known_stays(host: Host, tmp_path: Path) -> None:
    good = immutable(shares()[0], LIVE)
    host.put(A, 0, b"\0\0\0\3" + good[4:])
    host.put(A, 1, good[:12] + b"\0\0\0\x09" + good[16:])
    host.put(B, 0, b"Tahoe mutable container v3\n" + bytes(500))
    host.put(B, 1, b"a letter that somebody has left here, long enough for a header")
    host.put(B, "notes.txt", b"text")
    outside = tmp_path / "outside"
    outside.write_bytes(flipped(good, 100))
    host.path(B, 2).symlink_to(outside)
    os.mkfifo(host.path(B, 3))
    host.path(B, 4).mkdir()
    (host.root / "shares" / "incoming" / "aa").mkdir(parents=True)
    (host.root / "shares" / "lost+found").mkdir()
    before = host.files()
    found = host.scrub()
    assert [path for path, _ in found.unknown] == sorted(
        str(host.path(si, shnum).relative_to(host.root)) for si, shnum in ((A, 0), (A, 1), (B, 0), (B, 1))
    )
    assert all("is not known" in reason or "of a known version" in reason for _, reason in found.unknown)
    assert (found.damaged, found.shares) == ([], 4)
    assert host.files() == before
    assert outside.exists()
    assert host.path(B, 2).is_symlink()


def test_kept_versions_are_proven_too_and_trash_and_staging_are_not(host: Host) -> None:
    good, bad = mutable(slots()[0], LIVE), flipped(mutable(slots()[0], LIVE), -100)
    bad = flipped(good, _MUTABLE["block"])
    host.keep(SLOT_SI, "0.1.aaaaaaaa", good)
    path = host.keep(SLOT_SI, "0.2.bbbbbbbb", bad)
    for folder in ("trash/2026-01-01", "staging", "quarantine"):
        (host.root / folder).mkdir(parents=True)
        (host.root / folder / f"{b32encode(SLOT_SI)}.0").write_bytes(bad)
    found = host.scrub()
    assert (found.shares, found.kept_versions) == (0, 2)
    [damage] = found.damaged
    assert damage.kept
    assert damage.found == str(path.relative_to(host.root))
    assert not path.exists()
    assert len(host.files("quarantine")) == 2


def test_a_dry_run_moves_nothing(host: Host) -> None:
    host.put(A, 0, flipped(immutable(shares()[0]), 60))
    before = host.files()
    found = host.scrub(dry_run=True)
    assert [damage.lies for damage in found.damaged] == [None]
    assert host.files() == before
    assert not (host.root / "history").exists()


def test_a_share_that_was_replaced_meanwhile_is_not_quarantined(host: Host) -> None:
    path = host.put(A, 0, flipped(immutable(shares()[0]), 60))
    good = host.root / "good"
    good.write_bytes(immutable(shares()[0], LIVE))
    calls = itertools.count()

    def random_bytes(count: int) -> bytes:
        if next(calls) == 1:  # the damage is seen, the guard is about to be taken
            os.rename(good, path)
        return os.urandom(count)

    host.random_bytes = random_bytes
    assert host.scrub().damaged == []
    assert path.read_bytes() == immutable(shares()[0], LIVE)
    assert host.files("quarantine") == {}
    assert host.files("history") == {}


def test_a_share_that_a_client_is_changing_is_told_of_and_left(host: Host) -> None:
    path = host.put(A, 0, flipped(immutable(shares()[0]), 60))
    host.hold(A, pid=os.getpid())
    [damage] = host.scrub().damaged
    assert damage.lies is None
    assert "is being changed by" in damage.left
    assert path.exists()
    [text] = host.files("history").values()
    assert b"not moved" in text


def test_one_share_at_two_times_of_a_second_has_two_advisories(host: Host) -> None:
    for _ in range(3):
        host.put(A, 0, flipped(immutable(shares()[0]), 60))
        host.scrub()
    assert len(host.files("history")) == 3
    assert len(host.files("quarantine")) == 3


def test_what_can_not_be_read_is_named(host: Host) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = host.put(A, 0, immutable(shares()[0]))
    path.chmod(0)
    assert host.scrub().shares == 0
    assert host.named == [(str(path.relative_to(host.root)), "permission denied")]


@pytest.mark.slow
def test_memory_is_flat_whatever_the_size(host: Host) -> None:
    """A share of 60 MB, and one of 4,000 segments."""
    host.put(A, 0, immutable(shares(os.urandom(60 << 20), 1, 2, 1 << 20)[0]))
    host.put(B, 0, immutable(shares(os.urandom(256 * 4000), 1, 2, 256)[0]))
    tracemalloc.start()
    try:
        assert host.scrub().damaged == []
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


# ---- as a command


_SCRUB = (
    "import sys; from lafscli.cli import main, hosting, options\n"
    "command = options.command('scrub')(lambda frame: hosting.scrub(frame, sys.argv[1]))\n"
    "main.table.COMMANDS += (main.table.Command('scrub', 'x', 'x', 'x', 'x'),)\n"
    "main.load = lambda row: command\n"
    "sys.exit(main.run(['scrub', *sys.argv[2:3]]))\n"
)


@pytest.fixture
def tool(capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(capsys)


def test_exit_codes_and_document(host: Host, tool: Tool, tmp_path: Path) -> None:
    path = host.put(A, 0, data := immutable(shares()[0], LIVE))
    found = tool.document(tool.scrub(host.root, json=True, code=0))
    assert found.pop("seconds") >= 0
    assert found == {
        "schema": 1,
        "shares": 1,
        "bytes": len(data),
        "kept_versions": 0,
        "damaged": [],
        "unknown": [],
        "unreadable": [],
        "foreign": 0,
    }
    host.put(B, 0, b"\0\0\0\3" + data[4:])
    done = tool.scrub(host.root, code=11)
    assert "version 3 is not known; it was left where it is" in done.stderr
    assert "2 shares read" in done.stdout
    assert ": 1 of unknown version" in done.stdout
    path.write_bytes(flipped(data, 60))
    tool.scrub(host.root, dry_run=True, code=10)
    assert path.exists()
    done = tool.scrub(host.root, json=True, code=10)
    [damage] = tool.document(done)["damaged"]
    assert damage["storage_index"] == b32encode(A)
    assert damage["quarantined"] is True
    assert (host.root / damage["path"]).exists()
    assert damage["reason"] in done.stderr
    tool.scrub(tmp_path / "nowhere", code=3)
    tool.scrub(tmp_path, code=2)


def test_a_read_only_file_system_is_told(tool: Tool, tmp_path: Path, mount: Callable[[Path, str], None]) -> None:
    root = tmp_path / "small"
    mount(root, "size=1m")
    Host(root).put(A, 0, flipped(immutable(shares()[0]), 60))
    if subprocess.run(["mount", "-o", "remount,ro", str(root)], capture_output=True, check=False).returncode:
        pytest.skip("no read-only disk can be had here")
    assert "read-only file system" in tool.scrub(root, code=1).stderr
    tool.scrub(root, dry_run=True, code=10)


def test_a_signal_ends_it_within_two_seconds_and_leaves_all_whole(host: Host, tmp_path: Path) -> None:
    data = immutable(shares(bytes(3 << 20), 1, 1, 512)[0])
    for number in range(20):
        os.link(host.put(some_si(number), 0, data), host.root / f"spare.{number}")
    before = host.files()
    lafs = Lafs(tmp_path, program=(sys.executable, "-c", _SCRUB))
    run = lafs.start(host.root, "--quiet", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    while not (host.root / "history" / ".serve" / "scrub").exists():
        assert run.poll() is None
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=2.5)
    assert run.returncode == 143
    assert host.files() == before
    assert not (host.root / "locks").exists() or not any((host.root / "locks").iterdir())
