"""The keeper of shares: what may take which place, lease records, cancelling, kept versions; one rule, one refusal."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lafscli.formats.container import HEADER_SIZE, LEASE_SIZE, ImmutableContainer, LeaseRecord, lease_record
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer, MutableLease
from lafscli.formats.slot import Header
from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import FAILURE, NO_SUCH_FILE, OK, PERMISSION_DENIED, Refused
from lafscli.server.judge import MOST_LEASES, prove_immutable, prove_mutable, shape
from tests.kept_shares import (
    ENABLER,
    NOW,
    OURS,
    SI,
    SLOT_SI,
    THEIRS,
    Lease,
    Served,
    immutable,
    mutable,
    shares,
    slots,
)

SHARE = shares()[0]
GOOD = immutable(SHARE, OURS)
TEXT, SLOT_TEXT = b32encode(SI), b32encode(SLOT_SI)
GONE: Lease = (b"g" * 32, b"G" * 32, NOW - 1)
MDMF = {"mdmf": True, "segment_size": 12}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    assert made.used == made.counted(), "the bytes that were told are those that there are"
    made.close()


@pytest.fixture
def appending(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, append_only=True, history=3)
    yield made
    assert made.used == made.counted(), "the bytes that were told are those that there are"
    made.close()


def flipped(container: bytes, offset: int) -> bytes:
    return container[:offset] + bytes([container[offset] ^ 1]) + container[offset + 1 :]


def damage(served: Served, si: bytes, shnum: int, offset: int) -> bytes:
    """Rot at the host: flip a bit of what stands there; what it is then."""
    path = served.path(si, shnum)
    path.write_bytes(flipped(path.read_bytes(), offset))
    return path.read_bytes()


# ---- immutable shares


def test_a_well_formed_share_gets_its_place(served: Served) -> None:
    served.place(GOOD)
    assert served.stands() == GOOD
    assert served.notes == [f"placed {TEXT}.0"]
    served.place(immutable(shares()[3], OURS), shnum=3)


def test_a_share_with_a_bad_block_is_placed_but_takes_no_place_of_another(served: Served) -> None:
    """Blocks are looked at only when something is to be replaced: their reader proves them anyway."""
    bad = flipped(GOOD, HEADER_SIZE + 0x24)
    served.place(bad)
    with pytest.raises(Refused, match="leaf 0"):
        served.place(bad, replace=True)
    assert served.stands() == bad


@pytest.mark.parametrize(
    ("container", "shnum"),
    [(b"", 0), (SHARE, 0), (GOOD[:-1], 0), (immutable(SHARE, OURS, counted=2), 0), (GOOD, 4), (GOOD, 256), (GOOD, -1)],
    ids=["empty", "bare", "cut", "leases", "number", "no-number", "negative"],
)
def test_what_is_not_well_formed_gets_no_place(served: Served, container: bytes, shnum: int) -> None:
    with pytest.raises(Refused, match=rf"{TEXT}\.{shnum}: ") as refused:
        served.place(container, shnum=shnum)
    assert refused.value.code == FAILURE
    assert not served.files("shares")


@pytest.mark.parametrize("replace", [False, True])
def test_an_immutable_share_is_never_replaced(served: Served, replace: bool) -> None:
    served.place(GOOD)
    for other in (GOOD, immutable(SHARE, THEIRS), immutable(shares(version=2)[0]), immutable(shares(b"other" * 9)[0])):
        with pytest.raises(Refused, match="is there already"):
            served.place(other, replace=replace)
    assert served.stands() == GOOD
    assert not served.files("quarantine")


def test_a_damaged_immutable_share_gives_way_to_one_that_proves(served: Served) -> None:
    served.place(GOOD)
    bad = damage(served, SI, 0, HEADER_SIZE + 0x24)
    with pytest.raises(Refused, match="is there already"):
        served.place(GOOD)
    with pytest.raises(Refused, match="leaf 0"):
        served.place(bad, replace=True)
    served.place(immutable(SHARE, THEIRS), replace=True)
    assert served.stands() == immutable(SHARE, THEIRS)
    [buried] = served.files("quarantine")
    assert buried.read_bytes() == bad
    assert buried.name.startswith(f"2027-01-15.{TEXT}.0.")
    assert served.notes[-1] == f"placed {TEXT}.0, what was there is in quarantine"


@pytest.mark.parametrize("there", [b"", b"\0" * 500, b"no share at all"])
def test_rubbish_gives_way_to_a_share_that_proves(served: Served, there: bytes) -> None:
    for si, container in ((SI, GOOD), (SLOT_SI, mutable(slots()[0], OURS))):
        served.path(si).parent.mkdir(parents=True)
        served.path(si).write_bytes(there)
        served.used += len(there)
        with pytest.raises(Refused, match="is there already"):
            served.place(container, si)
        served.place(container, si, replace=True)
        assert served.stands(si) == container


@pytest.mark.parametrize("tail", [b"x" * 100, b"x"])
def test_what_follows_a_share_and_harms_no_reader_makes_it_no_worse(served: Served, tail: bytes) -> None:
    """As Tahoe's server accepts it (spec 09 §1): it is not for others to replace."""
    served.path().parent.mkdir(parents=True)
    served.path().write_bytes(immutable(SHARE) + tail)
    served.used += len(immutable(SHARE) + tail)
    with pytest.raises(Refused, match="is there already"):
        served.place(GOOD, replace=True)
    slot = mutable(slots(5)[0], OURS)[:-4] + b"\0\0\0\1"
    served.path(SLOT_SI).parent.mkdir(parents=True)
    served.path(SLOT_SI).write_bytes(slot)
    with pytest.raises(Refused, match="another key"):
        served.place(mutable(slots(6, foreign=True)[0], OURS), SLOT_SI, replace=True)
    served.used += len(slot)
    served.place(mutable(slots(6)[0], OURS), SLOT_SI, replace=True)


@pytest.mark.parametrize(
    "there",
    [
        b"\0\0\0\3" + GOOD[4:],
        GOOD[:15] + b"\3" + GOOD[16:],
        b"Tahoe mutable container v3\n" + bytes(1000),
        mutable(b"\2" + slots()[0][1:]),
    ],
    ids=["container", "share", "mutable container", "slot"],
)
def test_a_share_of_a_later_format_is_not_replaced(served: Served, there: bytes) -> None:
    for si, container in ((SI, GOOD), (SLOT_SI, mutable(slots()[0], OURS))):
        served.path(si).parent.mkdir(parents=True)
        served.path(si).write_bytes(there)
        served.used += len(there)
        with pytest.raises(Refused, match="not known here"):
            served.place(container, si, replace=True)
        assert served.stands(si) == there


# ---- mutable shares


@pytest.mark.parametrize("mdmf", [False, True])
def test_a_newer_version_takes_the_place_of_an_older_one(served: Served, mdmf: bool) -> None:
    kind = MDMF if mdmf else {}
    for seqnum in (1, 2, 5, (1 << 64) - 2, (1 << 64) - 1):
        container = mutable(slots(seqnum, **kind)[0], OURS)
        served.place(container, SLOT_SI, replace=True)
        assert served.stands(SLOT_SI) == container
    assert served.notes[-1] == f"placed a newer {SLOT_TEXT}.0"
    assert len(served.files("shares")) == 1
    assert not served.files("history")
    assert not served.files("quarantine")


def test_of_two_versions_of_one_seqnum_the_higher_root_hash_is_newer(served: Served) -> None:
    one, two = sorted((slots(3, text) for text in (b"one", b"two")), key=lambda made: made[0][9 : 9 + 32])
    served.place(mutable(one[0], OURS), SLOT_SI)
    served.place(mutable(two[0], OURS), SLOT_SI, replace=True)
    with pytest.raises(Refused, match=r"not newer: version 3 \("):
        served.place(mutable(one[0], OURS), SLOT_SI, replace=True)
    assert served.stands(SLOT_SI) == mutable(two[0], OURS)


REFUSED_SLOTS: list[tuple[str, Callable[[], bytes], str]] = [
    ("the same version", lambda: mutable(slots(5)[0], OURS), "not newer: version 5 .* there already"),
    ("an older one", lambda: mutable(slots(4)[0], OURS), "not newer: version 5"),
    (
        "another key",
        lambda: mutable(slots(6, foreign=True)[0], OURS),
        rf"another key holds the storage .* {SLOT_TEXT}",
    ),
    ("another key, seqnum at the end", lambda: mutable(slots((1 << 64) - 1, foreign=True)[0], OURS), "another key"),
    ("no signature", lambda: flipped(mutable(slots(6)[0], OURS), DATA_OFFSET + 8), "signature"),
    ("another share", lambda: mutable(slots(6)[1], OURS), "share hash chain"),
    (
        "a good prefix on garbage blocks",
        lambda: flipped(mutable(slots(6, b"x" * 100, **MDMF)[0], OURS), DATA_OFFSET + 2167 + 20),
        "leaf 0",
    ),
    ("another write enabler", lambda: mutable(slots(6)[0], OURS, enabler=b"x" * 32), "write enabler"),
    ("a lease less", lambda: mutable(slots(6)[0]), "a lease of the container that is there is not in the new one"),
    ("a lease shortened", lambda: mutable(slots(6)[0], (*OURS[:2], NOW + 999)), "ends earlier in the new one"),
    ("a lease of another cancel secret", lambda: mutable(slots(6)[0], (OURS[0], b"x" * 32, NOW + 1000)), "not in the"),
    ("an immutable one", lambda: GOOD, "holds a mutable file"),
    ("no room for extra leases", lambda: mutable(slots(6)[0], OURS)[:-4], "no number of extra leases"),
    ("something after the leases", lambda: mutable(slots(6)[0], OURS) + b"x", "something follows"),
    ("nothing", lambda: b"", "cut short"),
]


@pytest.mark.parametrize(
    ("container", "message"), [one[1:] for one in REFUSED_SLOTS], ids=[one[0] for one in REFUSED_SLOTS]
)
def test_what_may_not_take_the_place_of_a_slot(served: Served, container: Callable[[], bytes], message: str) -> None:
    there = mutable(slots(5)[0], OURS, GONE)
    served.place(there, SLOT_SI)
    with pytest.raises(Refused, match=message):
        served.place(container(), SLOT_SI, replace=True)
    assert served.stands(SLOT_SI) == there
    assert served.notes == [f"placed {SLOT_TEXT}.0"]


def test_the_same_share_with_a_lease_more_comes_instead(served: Served) -> None:
    """So a client adds a lease to a mutable share (spec 10 §3)."""
    served.place(mutable(slots(5)[0], OURS), SLOT_SI)
    more = mutable(slots(5)[0], OURS, THEIRS)
    served.place(more, SLOT_SI, replace=True)
    assert served.stands(SLOT_SI) == more
    assert served.notes[-1] == f"placed {SLOT_TEXT}.0 with more leases"
    assert served.files("quarantine") == served.files("history") == []
    with pytest.raises(Refused, match="not newer: version 5"):  # what nothing proves must be the same, too
        served.place(flipped(mutable(slots(5)[0], OURS, THEIRS, GONE), -100), SLOT_SI, replace=True)
    with pytest.raises(Refused, match="is not in the new one"):
        served.place(mutable(slots(5)[0], THEIRS, GONE), SLOT_SI, replace=True)
    assert served.stands(SLOT_SI) == more


def test_only_a_share_that_fails_its_proof_is_put_away(served: Served) -> None:
    there = immutable(shares()[0], OURS)
    served.place(there)
    with pytest.raises(Refused, match="it proves"):
        served.keeper.put_away(SI, 0)
    with pytest.raises(Refused, match="no such share"):
        served.keeper.put_away(SI, 1)
    bad = flipped(there, 60)
    served.path().write_bytes(bad)

    def broken() -> None:
        raise Refused(FAILURE, "no guard")

    with pytest.raises(Refused, match="no guard"):
        served.keeper.put_away(SI, 0, fence=broken)
    assert served.stands() == bad
    served.keeper.put_away(SI, 0)
    assert not served.path().exists()
    [kept] = served.files("quarantine")
    assert kept.read_bytes() == bad


def test_a_slot_is_not_replaced_by_one_who_does_not_ask_for_it(served: Served) -> None:
    served.place(mutable(slots(5)[0], OURS), SLOT_SI)
    with pytest.raises(Refused, match="is there already"):
        served.place(mutable(slots(6)[0], OURS), SLOT_SI)


def test_an_immutable_share_does_not_give_way_to_a_slot(served: Served) -> None:
    served.place(GOOD, SLOT_SI)
    with pytest.raises(Refused, match="holds an immutable file"):
        served.place(mutable(slots(5)[0], OURS), SLOT_SI, replace=True)
    damage(served, SLOT_SI, 0, HEADER_SIZE + 0x24)
    served.place(mutable(slots(5)[0], OURS), SLOT_SI, replace=True)


def test_the_first_share_of_another_number_must_have_the_key_of_the_others(served: Served) -> None:
    served.place(mutable(slots(5)[0], OURS), SLOT_SI, 0)
    for replace in (False, True):
        with pytest.raises(Refused, match="another key holds"):
            served.place(mutable(slots(6, foreign=True)[1], OURS), SLOT_SI, 1, replace=replace)
        with pytest.raises(Refused, match="holds a mutable file"):
            served.place(immutable(shares()[1]), SLOT_SI, 1, replace=replace)
    served.place(mutable(slots(1)[1], OURS), SLOT_SI, 1)
    # two files on one storage index, as a server without rules may have them: both go on
    served.path(SLOT_SI, 2).write_bytes(mutable(slots(5, foreign=True)[2]))
    served.path(SLOT_SI, 9).symlink_to("/dev/zero")
    served.path(SLOT_SI, 8).mkdir()
    served.used = served.counted()
    served.place(mutable(slots(6, foreign=True)[2]), SLOT_SI, 2, replace=True)
    served.place(mutable(slots(6, foreign=True)[3]), SLOT_SI, 3)
    served.path(SLOT_SI, 9).unlink()


def damaged_slot(served: Served, where: str, seqnum: int = 5) -> bytes:
    share = slots(seqnum, b"x" * 100, **MDMF)[0]
    layout = Header.parse(share, len(share)).layout
    offset = {
        "block": layout.share_data[0] + 20,
        "chain": layout.share_hash_chain[0] + 2,
        "signature": layout.signature[0],
        "root hash": 9,
        "seqnum": 8,
        "public key": layout.public_key[0] + 50,
    }[where]
    served.place(mutable(share, OURS), SLOT_SI)
    return damage(served, SLOT_SI, 0, DATA_OFFSET + offset)


@pytest.mark.parametrize("where", ["block", "chain", "signature", "root hash", "seqnum", "public key"])
def test_a_damaged_slot_gives_way_to_the_same_version(served: Served, where: str) -> None:
    bad = damaged_slot(served, where)
    good = mutable(slots(5, b"x" * 100, **MDMF)[0], OURS, THEIRS)
    with pytest.raises(Refused, match="is there already"):
        served.place(good, SLOT_SI)
    with pytest.raises(Refused, match="a lease of the container"):
        served.place(mutable(slots(5, b"x" * 100, **MDMF)[0], THEIRS), SLOT_SI, replace=True)
    served.place(good, SLOT_SI, replace=True)
    assert served.stands(SLOT_SI) == good
    [buried] = served.files("quarantine")
    assert buried.read_bytes() == bad


@pytest.mark.parametrize("where", ["block", "chain"])
def test_a_damaged_slot_whose_key_is_told_does_not_give_way_to_another_key_or_an_older_version(
    served: Served, where: str
) -> None:
    bad = damaged_slot(served, where)
    with pytest.raises(Refused, match="another key"):
        served.place(mutable(slots(9, foreign=True)[0], OURS), SLOT_SI, replace=True)
    with pytest.raises(Refused, match="not newer"):
        served.place(mutable(slots(4)[0], OURS), SLOT_SI, replace=True)
    assert served.stands(SLOT_SI) == bad
    served.place(mutable(slots(6)[0], OURS), SLOT_SI, replace=True)


def test_a_damaged_slot_whose_key_can_not_be_told_gives_way_to_the_key_of_its_siblings(served: Served) -> None:
    served.place(mutable(slots(5)[1], OURS), SLOT_SI, 1)
    bad = damaged_slot(served, "signature")
    with pytest.raises(Refused, match="another key"):
        served.place(mutable(slots(9, foreign=True)[0], OURS), SLOT_SI, replace=True)
    with pytest.raises(Refused, match="holds a mutable file"):
        served.place(GOOD, SLOT_SI, replace=True)
    assert served.stands(SLOT_SI) == bad
    served.place(mutable(slots(1)[0], OURS), SLOT_SI, replace=True)
    damage(served, SLOT_SI, 0, DATA_OFFSET + 8)
    damage(served, SLOT_SI, 1, DATA_OFFSET + 8)
    served.place(mutable(slots(1, foreign=True)[0], OURS), SLOT_SI, replace=True)


def test_a_container_that_was_carried_here_gets_the_write_enabler_and_node_id_of_this_server(served: Served) -> None:
    served.place(mutable(slots(5)[0], OURS, enabler=b"x" * 32, node_id=b"x" * 20), SLOT_SI)
    served.place(mutable(slots(6)[0], OURS), SLOT_SI, replace=True)


def test_leases_are_the_same_in_containers_of_both_versions(served: Served) -> None:
    """Version 1 has the secrets, version 2 their hashes."""
    old = MutableContainer.new(b"n" * 20, ENABLER)
    free = old.slots[0]
    lease = MutableLease.make(*OURS, b"n" * 20, version=1)
    share = slots(5)[0]
    front = MutableContainer(1, old.node_id, ENABLER, 0, 0, 0, (lease, free, free, free)).resized(len(share))
    served.place(front.front() + share + front.back(), SLOT_SI)
    with pytest.raises(Refused, match="not in the new one"):
        served.place(mutable(slots(6)[0], THEIRS), SLOT_SI, replace=True)
    served.place(mutable(slots(6)[0], THEIRS, OURS), SLOT_SI, replace=True)


# ---- the staged file


def test_a_staged_file_must_be_one_of_its_own_that_nobody_writes_to(served: Served) -> None:
    staged = served.root / "staging" / "s"
    staged.write_bytes(GOOD)

    def place(fd: int, name: str = "s") -> None:
        served.keeper.place(fd, served.staging_fd, name, SI, 0, replace=False)

    fd, writer = os.open(staged, os.O_RDONLY), os.open(staged, os.O_RDWR)
    fcntl.flock(writer, fcntl.LOCK_SH)
    with pytest.raises(Refused, match="open for writing"):
        place(fd)
    os.close(writer)
    os.link(staged, served.root / "second")
    with pytest.raises(Refused, match="another name"):
        place(fd)
    (served.root / "second").unlink()
    (served.root / "staging" / "other").write_bytes(GOOD)
    with pytest.raises(Refused, match="another name"):
        place(fd, "other")
    with pytest.raises(Refused, match="another name"):
        place(fd, "absent")
    with pytest.raises(Refused, match="no file"):
        place(served.staging_fd)
    assert not served.files("shares")
    place(fd)
    assert not staged.exists()
    os.close(fd)
    served.used += len(GOOD)
    # nobody is kept from locking it afterwards
    other = os.open(served.path(), os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(other)


@pytest.mark.parametrize(
    ("what", "level"), [("folder", 3), *((what, level) for what in ("symlink", "fifo") for level in range(4))]
)
def test_nothing_but_plain_files_in_real_folders_is_touched(
    served: Served, tmp_path: Path, what: str, level: int
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    path = [served.root / "shares", *list(reversed(served.path().parents))[-2:], served.path()][level]
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "symlink":
        path.symlink_to(outside if level < 3 else outside / "file")
    elif what == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    for replace in (False, True):
        with pytest.raises(Refused):
            served.place(GOOD, replace=replace)
    assert not list(outside.iterdir())
    served.used = served.counted()


def test_a_fence_that_is_down_keeps_a_share_out(served: Served) -> None:
    """It is asked in the turn, which is the caller's own where he has it already."""
    staged = served.root / "staging" / "s"
    staged.write_bytes(GOOD)
    fd = os.open(staged, os.O_RDONLY)

    def down() -> None:
        raise Refused(FAILURE, "the guard is not yours any more")

    with pytest.raises(Refused, match=rf"{TEXT}\.0: the guard is not yours"):
        served.keeper.place(fd, served.staging_fd, "s", SI, 0, replace=True, fence=down)
    assert not served.files("shares")
    asked: list[int] = []
    with served.keeper.turns.turn(SI):
        served.keeper.place(
            fd, served.staging_fd, "s", SI, 0, replace=True, fence=lambda: asked.append(len(served.files("shares")))
        )
    os.close(fd)
    assert asked == [0]
    assert served.stands() == GOOD
    served.used += len(GOOD)


def test_a_refusal_leaves_what_was_staged(served: Served) -> None:
    with pytest.raises(Refused):
        served.place(GOOD, shnum=4)
    [left] = served.files("staging")
    assert left.read_bytes() == GOOD


# ---- patches


def patch(served: Served, offset: int | None, data: bytes, si: bytes = SI, shnum: int = 0) -> None:
    fd = os.open(served.path(si, shnum), os.O_RDONLY)
    try:
        served.keeper.patch(fd, si, shnum, offset, data)
    finally:
        os.close(fd)


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


EXPIRY = len(GOOD) - 4


def test_a_lease_is_renewed_by_a_later_expiration_alone(served: Served) -> None:
    served.place(GOOD)
    patch(served, EXPIRY, u32(NOW + 5000))
    assert served.stands() == GOOD[:-4] + u32(NOW + 5000)
    patch(served, EXPIRY, u32(NOW + 5000))
    assert served.notes == [f"placed {TEXT}.0", f"renewed a lease of {TEXT}.0"]
    with pytest.raises(Refused, match="only be set later"):
        patch(served, EXPIRY, u32(NOW + 4999))
    patch(served, EXPIRY, u32((1 << 32) - 1))


@pytest.mark.parametrize("offset", [None, len(GOOD)])
def test_a_lease_is_added_at_the_end_and_counted(served: Served, offset: int | None) -> None:
    served.place(GOOD)
    patch(served, offset, lease_record(*THEIRS))
    assert served.stands() == immutable(SHARE, OURS, THEIRS)
    patch(served, 8, u32(2))
    assert served.notes == [f"placed {TEXT}.0", f"added a lease to {TEXT}.0"]
    patch(served, EXPIRY + LEASE_SIZE, u32(NOW + 9000))


def test_records_that_were_not_counted_are_counted(served: Served) -> None:
    served.place(immutable(SHARE, OURS, THEIRS, counted=0))
    for number in (1, 3, 0xFFFFFFFF):
        with pytest.raises(Refused, match=f"there are 2 lease records, not {number}"):
            patch(served, 8, u32(number))
    patch(served, EXPIRY + LEASE_SIZE, u32(NOW + 9000))
    patch(served, 8, u32(2))
    assert ImmutableContainer.parse_header(served.stands()[:32], len(served.stands())).leases == 2


REFUSED_PATCHES = [
    ("the share", HEADER_SIZE, b"x"),
    ("the whole file", 0, GOOD),
    ("the version", 0, u32(1)),
    ("the length", 4, u32(1)),
    ("a lower number of leases", 8, u32(0)),
    ("a higher number of leases", 8, u32(2)),
    ("more than the number", 8, u32(1) + b"x"),
    ("an owner", EXPIRY - 68, u32(1)),
    ("a secret", EXPIRY - 64, b"x" * 32),
    ("three bytes of an expiration", EXPIRY, b"\xff" * 3),
    ("beside an expiration", EXPIRY - 1, b"\xff" * 4),
    ("a record over another", EXPIRY - 68, lease_record(*THEIRS)),
    ("a record beyond the end", len(GOOD) + 1, lease_record(*THEIRS)),
    ("a record far beyond", 1 << 40, lease_record(*THEIRS)),
    ("half a record", len(GOOD), lease_record(*THEIRS)[:-1]),
    ("two records", len(GOOD), lease_record(*THEIRS) * 2),
    ("half a record at the end", None, lease_record(*THEIRS)[:-1]),
    ("nothing", EXPIRY, b""),
    ("before the front", -4, b"xxxx"),
]


@pytest.mark.parametrize(("offset", "data"), [one[1:] for one in REFUSED_PATCHES], ids=[o[0] for o in REFUSED_PATCHES])
def test_nothing_else_of_an_immutable_share_can_be_written(served: Served, offset: int | None, data: bytes) -> None:
    served.place(GOOD)
    with pytest.raises(Refused) as refused:
        patch(served, offset, data)
    assert refused.value.code == PERMISSION_DENIED
    assert served.stands() == GOOD


def test_a_share_has_not_more_leases_than_anybody_reads(served: Served) -> None:
    served.place(immutable(SHARE, *[OURS] * MOST_LEASES))
    with pytest.raises(Refused, match="at most 1000"):
        patch(served, None, lease_record(*THEIRS))


def test_leases_of_a_container_that_does_not_fit_together_are_not_changed(served: Served) -> None:
    served.place(GOOD)
    with served.path().open("ab") as file:
        file.write(b"x")
    served.used += 1
    for offset, data in ((None, lease_record(*THEIRS)), (EXPIRY, u32(NOW + 5000)), (8, u32(1))):
        with pytest.raises(Refused, match="do not hold"):
            patch(served, offset, data)


SLOT = mutable(slots(5)[0], OURS, *[(bytes([n]) * 32, bytes([n + 9]) * 32, NOW + n) for n in range(5)])


def test_leases_of_a_slot_are_renewed_where_they_lie(served: Served) -> None:
    served.place(SLOT, SLOT_SI)
    container = MutableContainer.parse(SLOT[:DATA_OFFSET], len(SLOT)).with_extra(SLOT[-4 - 2 * 92 :])
    places = dict(container.expirations())
    assert len(places) == 6
    for offset in places:
        patch(served, offset, u32(NOW + 7000), SLOT_SI)
        with pytest.raises(Refused, match="only be set later"):
            patch(served, offset, u32(NOW + 6999), SLOT_SI)
    assert [lease.expiration for lease in leases_of(served, SLOT_SI)] == [NOW + 7000] * 6


def leases_of(served: Served, si: bytes, shnum: int = 0) -> tuple[LeaseRecord, ...] | tuple[MutableLease, ...]:
    with served.path(si, shnum).open("rb") as file:
        return shape(file.fileno(), served.path(si, shnum).stat().st_size).leases


REFUSED_SLOT_PATCHES = [
    ("the share", DATA_OFFSET, b"xxxx"),
    ("the magic", 0, b"xxxx"),
    ("the node id", 32, b"xxxx"),
    ("the write enabler", 52, b"xxxx"),
    ("the data length", 88, b"xxxx"),
    ("where the extra leases are", 96, b"\0\0\0\0"),
    ("an owner", 100, b"\0\0\0\1"),
    ("a secret", 108, b"xxxx"),
    ("an expiration and more", 104, b"\xff" * 5),
    ("a record at the end", None, bytes(92)),
    ("an immutable record at the end", None, lease_record(*THEIRS)),
    ("the number of extra leases", DATA_OFFSET + len(slots(5)[0]), b"\0\0\0\0"),
]


@pytest.mark.parametrize(
    ("offset", "data"), [one[1:] for one in REFUSED_SLOT_PATCHES], ids=[one[0] for one in REFUSED_SLOT_PATCHES]
)
def test_nothing_else_of_a_slot_can_be_written(served: Served, offset: int | None, data: bytes) -> None:
    served.place(SLOT, SLOT_SI)
    with pytest.raises(Refused) as refused:
        patch(served, offset, data, SLOT_SI)
    assert refused.value.code == PERMISSION_DENIED
    assert served.stands(SLOT_SI) == SLOT


def test_the_expiration_of_a_free_slot_is_none(served: Served) -> None:
    served.place(mutable(slots(5)[0], OURS), SLOT_SI)
    with pytest.raises(Refused):
        patch(served, 104 + 92, u32(NOW + 5000), SLOT_SI)


def test_a_share_that_was_replaced_or_removed_is_not_patched(served: Served) -> None:
    served.place(mutable(slots(5)[0], OURS), SLOT_SI)
    fd = os.open(served.path(SLOT_SI), os.O_RDWR)
    served.place(mutable(slots(6)[0], OURS), SLOT_SI, replace=True)
    with pytest.raises(Refused, match="meanwhile") as refused:
        served.keeper.patch(fd, SLOT_SI, 0, 104, u32(NOW + 5000))
    assert refused.value.code == NO_SUCH_FILE
    assert served.keeper.cancel([(SLOT_SI, 0, OURS[1])]) == [(OK, "in trash")]
    with pytest.raises(Refused):
        served.keeper.patch(fd, SLOT_SI, 0, 104, u32(NOW + 5000))
    os.close(fd)


def test_a_handle_that_appends_writes_where_it_may_and_nowhere_else(served: Served) -> None:
    """The kernel writes at the end for such a descriptor, whatever the offset: it is not the one that is written to."""
    served.place(GOOD)
    fd = os.open(served.path(), os.O_RDWR | os.O_APPEND)
    served.keeper.patch(fd, SI, 0, EXPIRY, u32(NOW + 5000))
    os.close(fd)
    assert served.stands() == GOOD[:-4] + u32(NOW + 5000)


# ---- cancelling


def test_the_last_lease_takes_the_share_to_trash(served: Served) -> None:
    for again in range(2):
        served.place(GOOD)
        assert served.keeper.cancel([(SI, 0, OURS[1])]) == [(OK, "in trash")]
        assert not served.path().exists()
        assert len(served.files("trash")) == again + 1
    first = served.root / "trash" / "2027-01-15" / f"{TEXT}.0"
    assert first.read_bytes() == GOOD
    assert all(path.name.startswith(f"{TEXT}.0") for path in served.files("trash"))


@pytest.mark.parametrize("counted", [None, 1])
def test_cancelled_leases_of_an_immutable_share_are_packed(served: Served, counted: int | None) -> None:
    leases = [OURS, THEIRS, GONE, OURS]
    served.place(immutable(SHARE, *leases, counted=counted))
    assert served.keeper.cancel([(SI, 0, OURS[1])]) == [(OK, "cancelled")]
    assert served.stands() == immutable(SHARE, THEIRS, GONE)
    assert served.keeper.cancel([(SI, 0, THEIRS[1]), (SI, 0, THEIRS[1])]) == [
        (OK, "cancelled"),
        (PERMISSION_DENIED, f"{TEXT}.0: it has no lease with this cancel secret"),
    ]
    # one that has ended still holds the share: gc at the host takes it away
    assert served.keeper.cancel([(SI, 0, GONE[1])]) == [(OK, "in trash")]


def test_cancelled_leases_of_a_slot_are_zeroed_and_extra_ones_removed(served: Served) -> None:
    leases = [(bytes([n]) * 32, bytes([n + 100]) * 32, NOW + n) for n in range(1, 8)]
    served.place(mutable(slots(5)[0], *leases), SLOT_SI)
    left = dict(enumerate(leases, 1))
    for number in (2, 6, 4, 7, 5):
        assert served.keeper.cancel([(SLOT_SI, 0, bytes([number + 100]) * 32)]) == [(OK, "cancelled")]
        del left[number]
        assert [lease.expiration - NOW for lease in leases_of(served, SLOT_SI)] == list(left)
        with served.path(SLOT_SI).open("rb") as file:
            prove_mutable(file.fileno(), len(served.stands(SLOT_SI)), SLOT_SI, 0)
    assert len(served.stands(SLOT_SI)) == len(mutable(slots(5)[0]))
    assert served.keeper.cancel([(SLOT_SI, 0, b"\x65" * 32), (SLOT_SI, 0, b"\x67" * 32)]) == [
        (OK, "cancelled"),
        (OK, "in trash"),
    ]


def test_a_lease_that_was_renewed_meanwhile_is_not_cancelled(served: Served) -> None:
    """The caller says when it ends, as far as he knows; of two shares one was renewed since."""
    served.place(immutable(SHARE, OURS))
    served.place(mutable(slots(5)[0], OURS), SLOT_SI)
    before = served.stands()
    assert served.keeper.cancel([(SI, 0, OURS[1]), (SLOT_SI, 0, OURS[1])], [OURS[2] - 1, OURS[2]]) == [
        (FAILURE, f"{TEXT}.0: its lease was renewed meanwhile"),
        (OK, "in trash"),
    ]
    assert served.stands() == before


REFUSED_CANCELS = [
    ("another secret", 0, b"x" * 32, PERMISSION_DENIED),
    ("the renew secret", 0, OURS[0], PERMISSION_DENIED),
    ("no secret", 0, b"", FAILURE),
    ("no share", 1, OURS[1], NO_SUCH_FILE),
    ("no such number", 1 << 31, OURS[1], FAILURE),
]


@pytest.mark.parametrize(
    ("shnum", "secret", "code"), [one[1:] for one in REFUSED_CANCELS], ids=[one[0] for one in REFUSED_CANCELS]
)
def test_what_can_not_be_cancelled(served: Served, shnum: int, secret: bytes, code: int) -> None:
    served.place(GOOD)
    [(status, message)] = served.keeper.cancel([(SI, shnum, secret)])
    assert status == code
    assert message.startswith(f"{TEXT}.{shnum}: ")
    assert served.stands() == GOOD


def test_a_share_without_leases_is_removed_by_nobody(served: Served) -> None:
    served.place(immutable(SHARE))
    served.place(mutable(slots()[0]), SLOT_SI)
    for secret in (bytes(32), b"x" * 32):
        answers = served.keeper.cancel([(SI, 0, secret), (SLOT_SI, 0, secret)])
        assert [status for status, _ in answers] == [PERMISSION_DENIED] * 2


def test_the_secret_of_a_free_slot_cancels_nothing(served: Served) -> None:
    """A free record has a secret of zeros, in version 1 as it is."""
    made = MutableContainer.new(b"n" * 20, ENABLER)
    share = slots()[0]
    made = MutableContainer(1, made.node_id, ENABLER, 0, 0, 0, made.slots).resized(len(share))
    served.place(made.front() + share + made.back(), SLOT_SI)
    [(status, _)] = served.keeper.cancel([(SLOT_SI, 0, bytes(32))])
    assert status == PERMISSION_DENIED


def test_where_only_appending_is_allowed_nothing_is_cancelled(appending: Served) -> None:
    appending.place(GOOD)
    [(status, message)] = appending.keeper.cancel([(SI, 0, OURS[1])])
    assert (status, "append-only" in message) == (PERMISSION_DENIED, True)
    assert appending.stands() == GOOD


@pytest.mark.parametrize("step", range(4))
def test_a_container_can_be_read_after_each_step_of_a_cancellation(
    served: Served, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who dies between two writes leaves a record too many at most, and the next one carries on."""

    class Died(BaseException):
        pass

    done = 0

    def counting(call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object) -> object:
            nonlocal done
            if done == step:
                raise Died
            done += 1
            return call(*arguments)

        return wrapped

    leases = [OURS, THEIRS, *[(bytes([n]) * 32, bytes([n + 100]) * 32, NOW + n) for n in range(1, 8)]]
    served.place(immutable(SHARE, *leases))
    served.place(mutable(slots()[0], *leases), SLOT_SI)
    doomed = leases[-3]
    for si in (SI, SLOT_SI):
        done = 0
        with monkeypatch.context() as patched:
            for name in ("pwrite", "ftruncate"):
                patched.setattr(os, name, counting(getattr(os, name)))
            try:
                served.keeper.cancel([(si, 0, doomed[1])])
                assert step == 3
            except Died:
                assert step < 3
        with served.path(si).open("rb") as file:
            fd, size = file.fileno(), len(served.stands(si))
            if si == SI:
                found = prove_immutable(fd, size, si, 0)
                assert size - HEADER_SIZE - LEASE_SIZE * found.container.leases >= found.share_size
            else:
                prove_mutable(fd, size, si, 0)
            left = {lease.expiration for lease in shape(fd, size).leases}
        assert {lease[2] for lease in leases} - left <= {doomed[2]}
        served.keeper.cancel([(si, 0, doomed[1])])
        assert doomed[2] not in {lease.expiration for lease in leases_of(served, si)}
    served.used = served.counted()


# ---- kept versions


def test_replaced_versions_are_kept_where_only_appending_is_allowed(appending: Served) -> None:
    containers = {seqnum: mutable(slots(seqnum)[0], OURS) for seqnum in range(1, 7)}
    for seqnum, container in containers.items():
        appending.place(container, SLOT_SI, replace=True)
        kept = appending.keeper.versions(SLOT_SI)
        assert [one.seqnum for one in kept] == list(range(seqnum - 1, max(0, seqnum - 4), -1))
    for one in appending.keeper.versions(SLOT_SI):
        name = f"{SLOT_TEXT[:2]}/{SLOT_TEXT}/0.{one.version}"
        assert (appending.root / "history" / name).read_bytes() == containers[one.seqnum]
        assert one.size == len(containers[one.seqnum])
    assert stat.S_IMODE((appending.root / "history").stat().st_mode) == 0o700


def test_no_versions_are_kept_where_none_are_wanted(tmp_path: Path) -> None:
    for append_only, history in ((True, 0), (False, 5)):
        served = Served(tmp_path / str(history), append_only=append_only, history=history)
        for seqnum in (1, 2):
            served.place(mutable(slots(seqnum)[0], OURS), SLOT_SI, replace=True)
        assert not served.keeper.versions(SLOT_SI)
        assert served.used == served.counted()
        served.close()


def test_a_version_is_restored_with_the_leases_of_both(appending: Served) -> None:
    appending.place(mutable(slots(1, b"good")[0], GONE, OURS), SLOT_SI, replace=True)
    appending.place(mutable(slots(2, b"ransom")[0], (*OURS[:2], NOW + 3000), THEIRS), SLOT_SI, replace=True)
    [kept] = appending.keeper.versions(SLOT_SI)
    appending.keeper.restore(SLOT_SI, 0, kept.version)
    with appending.path(SLOT_SI).open("rb") as file:
        found = prove_mutable(file.fileno(), len(appending.stands(SLOT_SI)), SLOT_SI, 0)
    assert found.seqnum == 1
    assert {lease.expiration for lease in found.container.leases} == {NOW - 1, NOW + 3000, NOW + 2000}
    assert [one.seqnum for one in appending.keeper.versions(SLOT_SI)] == [2]
    assert appending.notes[-1] == f"restored version {kept.version} of {SLOT_TEXT}.0"
    # and back again
    appending.keeper.restore(SLOT_SI, 0, appending.keeper.versions(SLOT_SI)[0].version)
    assert [one.seqnum for one in appending.keeper.versions(SLOT_SI)] == [1]


def test_versions_that_were_rolled_back_do_not_push_out_those_that_follow(appending: Served) -> None:
    """An intruder with the key ends at the highest seqnum; what is kept is bounded by time, not by that."""
    leases = (OURS,)
    for seqnum in (1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1):
        appending.place(mutable(slots(seqnum)[0], *leases), SLOT_SI, replace=True)
    appending.keeper.restore(
        SLOT_SI, 0, next(one for one in appending.keeper.versions(SLOT_SI) if one.seqnum == 1).version
    )
    for seqnum in (2, 3, 4):
        appending.place(mutable(slots(seqnum)[0], *leases), SLOT_SI, replace=True)
    assert [one.seqnum for one in appending.keeper.versions(SLOT_SI)] == [3, 2, 1]


def test_a_version_is_restored_where_none_stands_or_a_damaged_one(appending: Served) -> None:
    for seqnum in (1, 2, 3):
        appending.place(mutable(slots(seqnum)[0], OURS), SLOT_SI, replace=True)
    bad = damage(appending, SLOT_SI, 0, DATA_OFFSET + 8)
    [second, first] = [one.version for one in appending.keeper.versions(SLOT_SI)]
    appending.keeper.restore(SLOT_SI, 0, second)
    [buried] = appending.files("quarantine")
    assert buried.read_bytes() == bad
    assert [one.version for one in appending.keeper.versions(SLOT_SI)] == [first]
    appending.used -= appending.path(SLOT_SI).stat().st_size
    appending.path(SLOT_SI).unlink()
    appending.keeper.restore(SLOT_SI, 0, first)
    assert appending.stands(SLOT_SI) == mutable(slots(1)[0], OURS)


def test_what_can_not_be_restored(appending: Served) -> None:
    appending.place(mutable(slots(1)[0], OURS), SLOT_SI)
    for version in ("1.abcdefgh", "", "../../../x", "2.aaaaaaaa"):
        with pytest.raises(Refused, match="is kept"):
            appending.keeper.restore(SLOT_SI, 0, version)
    appending.place(mutable(slots(2)[0], OURS), SLOT_SI, replace=True)
    [kept] = appending.keeper.versions(SLOT_SI)
    damaged = appending.root / "history" / SLOT_TEXT[:2] / SLOT_TEXT / kept.name
    damaged.write_bytes(flipped(damaged.read_bytes(), DATA_OFFSET + 8))
    with pytest.raises(Refused, match="signature"):
        appending.keeper.restore(SLOT_SI, 0, kept.version)
    assert appending.stands(SLOT_SI) == mutable(slots(2)[0], OURS)


def test_one_who_died_after_he_kept_a_version_leaves_nothing_that_harms(appending: Served) -> None:
    """Two names of one file; the next one finds it done."""
    appending.place(mutable(slots(1)[0], OURS), SLOT_SI)
    appending.place(mutable(slots(2)[0], OURS), SLOT_SI, replace=True)
    folder = appending.root / "history" / SLOT_TEXT[:2] / SLOT_TEXT
    root = b32encode(slots(2)[0][9:41])[:8]
    os.link(appending.path(SLOT_SI), folder / f"0.2.{root}")
    (folder / ".new.abc").write_bytes(b"half")
    appending.place(mutable(slots(3)[0], OURS), SLOT_SI, replace=True)
    assert [one.seqnum for one in appending.keeper.versions(SLOT_SI)] == [2, 1]
    appending.keeper.restore(SLOT_SI, 0, f"2.{root}")
    assert not (folder / ".new.abc").exists()
