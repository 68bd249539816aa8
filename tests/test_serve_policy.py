"""The policy as a table: what every client is refused, by every request, and that nothing has changed after it."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import (
    APPEND,
    CREATE,
    FAILURE,
    NO_SUCH_FILE,
    OP_UNSUPPORTED,
    PERMISSION_DENIED,
    READ,
    TRUNCATE,
    WRITE,
    Refused,
)
from lafscli.server.policy import Policy, PolicyFiles
from lafscli.server.spots import Kind, Paths, spot_of
from tests.conftest import Mount
from tests.kept_shares import OURS, SI, SLOT_SI, immutable, mutable, shares, slots
from tests.policed import (
    DAY,
    GUARD,
    NEW,
    SECRET,
    SHARE,
    SLOT,
    everything,
    folder_of,
    furnish,
    good,
    held,
    share_of,
    stage,
    take,
    talking,
    token,
    version,
)
from tests.raw_sftp import Attributes, RawClient, conversation

TEXT = b32encode(SI)
READ_ONLY = Policy(read_only=True)
APPEND_ONLY = Policy(append_only=True, history=2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "served"
    root.mkdir()
    furnish(root)
    return root


def refused(act: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as raised:
        act()
    assert raised.value.message, "every refusal has a message"
    return raised.value


# ---- names


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("", Kind.ROOT),
        ("/", Kind.ROOT),
        (".", Kind.ROOT),
        ("..", Kind.ROOT),
        ("../../..", Kind.ROOT),
        ("/shares/", Kind.SHARES),
        ("//shares//", Kind.SHARES),
        ("shares/../shares/./", Kind.SHARES),
        (f"/{SHARE}", Kind.SHARE),
        (f"/srv/lafs/{SHARE}", Kind.SHARE),
        (f"/data/lafs/{SHARE}", Kind.SHARE),
        (f"grid/../lafs/{SHARE}", Kind.NOWHERE),
        (f"x/{SHARE}", Kind.SHARE),
        ("/srv/lafs", Kind.ROOT),
        ("/srv/lafs/../lafs/shares", Kind.SHARES),
        ("/srv", Kind.NOWHERE),
        ("/srv/lafsx/shares", Kind.NOWHERE),
        ("../etc/passwd", Kind.NOWHERE),
        ("/etc/passwd", Kind.NOWHERE),
        ("/srv/lafs/../../etc/passwd", Kind.NOWHERE),
        (f"shares/{TEXT[:2]}", Kind.PREFIX),
        (f"shares/aa/{TEXT}", Kind.NOWHERE),
        (f"shares/{TEXT[:2]}/{TEXT.upper()}", Kind.NOWHERE),
        (f"shares/{TEXT[:2]}/{TEXT[:-1]}b", Kind.NOWHERE),
        (f"{folder_of(SI)}/00", Kind.NOWHERE),
        (f"{folder_of(SI)}/-1", Kind.NOWHERE),
        (f"{folder_of(SI)}/256", Kind.NOWHERE),
        (f"{folder_of(SI)}/٣", Kind.NOWHERE),
        (f"{SHARE}/0", Kind.NOWHERE),
        (f"{SHARE}\n", Kind.NOWHERE),
        ("shares/incoming", Kind.NOWHERE),
        ("shäres", Kind.NOWHERE),
        ("SHARES", Kind.NOWHERE),
        ("trash/2030-01-01", Kind.NOWHERE),
        ("trash", Kind.HIDDEN),
        ("history", Kind.NOWHERE),
        ("history/.serve/used", Kind.NOWHERE),
        ("server.toml.old.x", Kind.NOWHERE),
        (f"staging/{TEXT}.0.{'a' * 25}", Kind.NOWHERE),
        (f"staging/{TEXT}.0.{'a' * 26}", Kind.STAGED),
        (f"staging/{TEXT}.0.{'a' * 26}/x", Kind.NOWHERE),
        (f"locks/.{'a' * 26}/{'b' * 26}", Kind.NOWHERE),
        ("x" * 300, Kind.NOWHERE),
    ],
)
def test_a_path_is_one_kind_of_place(path: str, kind: Kind) -> None:
    paths = Paths([Path("/srv/lafs"), Path("/data/lafs")], Path("/srv/lafs/../lafs2/x/.."))
    at_home = Paths([Path("/srv/lafs"), Path("/home/me/x")], Path("/home/me"))
    assert (at_home if path.startswith("x/") else paths).spot(path.encode()).kind is kind


def test_a_path_that_can_be_none_is_refused() -> None:
    paths = Paths([Path("/srv/lafs")], None)
    for path in (b"shares\0", b"\0", b"/" + b"a" * 4096, b"shares/" * 1000):
        with pytest.raises(Refused):
            paths.spot(path)
    assert spot_of(["shares", "..", "x"]).kind is Kind.NOWHERE


def test_realpath_knows_only_the_jail(root: Path) -> None:
    with talking(root) as client:
        assert client.realpath(".") == b"/"
        assert client.realpath("../../etc") == b"/etc"
        assert client.realpath(f"{root}/shares") == b"/shares"
        assert client.realpath(b"/sh\xc3\xa4res/\xff") == b"/sh\xc3\xa4res/\xff"


@pytest.mark.parametrize(
    "path",
    [
        *("../secret", "/../secret", "shares/../../secret", "shares/./../../secret", "//../secret", "/etc/passwd"),
        *("notes.txt", "trash/2030-01-01", "trash/2030-01-01/x", "quarantine/2030-01-01.x", "history", "history/aa/x"),
        *("history/.serve", "history/.serve/x", "shares/incoming", "shares/incoming/x", f"{folder_of(SI)}/00"),
        *(f"{folder_of(SI)}/notes", f"{SHARE}/.", "a" * 255, "b" * 4000, "shares/ä", b"shares/\xff", f"{SHARE}/.."),
    ],
)
def test_what_is_outside_the_layout_is_not_there(root: Path, path: str | bytes) -> None:
    before = everything(root)
    with talking(root) as client:
        looks: list[Callable[[], object]] = [lambda: client.open(path), lambda: client.open(path, READ | WRITE)]
        if path not in (f"{SHARE}/.", f"{SHARE}/.."):  # by words that is the share, and its folder
            looks += [lambda: client.lstat(path), lambda: client.stat(path), lambda: client.opendir(path)]
            looks += [lambda: client.statvfs(path), lambda: client.setstat(path, Attributes(mode=0o777))]
            looks += [lambda: client.remove(path), lambda: client.rmdir(path), lambda: client.mkdir(path)]
            looks += [lambda: client.rename(path, "staging/x"), lambda: client.link(path, "staging/x")]
            looks += [lambda: client.open(path, NEW), lambda: client.open(path, WRITE | CREATE | TRUNCATE)]
            staged = stage(client, good())
            for move in (client.rename, client.replace, client.link):
                looks.append(lambda move=move: move(staged, path))  # type: ignore[misc]
            for look in looks:
                assert refused(look).code in (NO_SUCH_FILE, PERMISSION_DENIED)
            client.remove(staged)
        assert client.get(SHARE) == good()
    assert everything(root) == before


def test_a_nul_is_no_part_of_a_name(root: Path) -> None:
    with talking(root) as client:
        for path in (b"shares\0", b"\0", f"{SHARE}\0.txt".encode(), b"../secret\0"):
            for act in (client.lstat, client.open, client.mkdir, client.remove, client.opendir):
                refused(lambda act=act, path=path: act(path))  # type: ignore[misc]
        assert client.get(SHARE) == good()


def test_listings_show_what_fits_and_no_more(root: Path) -> None:
    os.mkfifo(root / folder_of(SI) / "7")
    (root / folder_of(SI) / "8").symlink_to("0")
    (root / folder_of(SI) / "9").mkdir()
    (root / "shares" / "bb").symlink_to(TEXT[:2])
    (root / "locks" / "x").mkdir()
    (root / "staging" / "y").write_bytes(b"")
    with talking(root) as client:
        assert client.listdir("/") == ["locks", "server.toml", "shares", "staging"]
        assert client.listdir("shares") == sorted({TEXT[:2], b32encode(SLOT_SI)[:2]})
        assert client.listdir(f"shares/{TEXT[:2]}") == [TEXT]
        assert client.listdir(folder_of(SI)) == ["0"]
        assert client.listdir("locks") == client.listdir("staging") == []
        for name in ("7", "8", "9"):
            assert refused(lambda name=name: client.lstat(f"{folder_of(SI)}/{name}")).code == NO_SUCH_FILE  # type: ignore[misc]
            refused(lambda name=name: client.open(f"{folder_of(SI)}/{name}"))  # type: ignore[misc]
            refused(lambda name=name: client.open(f"{folder_of(SI)}/{name}", WRITE))  # type: ignore[misc]


def test_staged_names_are_for_who_made_them(root: Path) -> None:
    with talking(root) as mine, talking(root) as other:
        staged = stage(mine, b"half")
        name = staged.rpartition("/")[2]
        assert mine.listdir("staging") == [name]
        assert other.listdir("staging") == []
        # who knows the token may go on with it, as after a lost connection
        handle = other.open(staged, WRITE)
        other.write(handle, 4, b"more")
        other.close(handle)
        assert mine.get(staged) == b"halfmore"
        long_ago = (root / staged).stat().st_mtime - DAY - 10
        os.utime(root / staged, (long_ago, long_ago))
        assert other.listdir("staging") == [name]
        other.remove(staged)
        assert mine.listdir("staging") == []


# ---- the table: what is there does not change


def _opens(client: RawClient, path: str) -> list[Callable[[], object]]:
    ways = (WRITE | TRUNCATE, WRITE | CREATE, WRITE | CREATE | TRUNCATE, NEW, WRITE | APPEND | CREATE)
    return [lambda way=way: client.open(path, READ | way) for way in ways]  # type: ignore[misc]


def _sets(client: RawClient, path: str) -> list[Callable[[], object]]:
    changes = [Attributes(size=0), Attributes(size=1 << 40), Attributes(mode=0o777), Attributes(times=(1, 1))]
    changes += [Attributes(owner=(1, 1)), Attributes(1, (0, 0), 0o600, (0, 0))]
    return [lambda change=change: client.setstat(path, change) for change in changes]  # type: ignore[misc]


def _removals(client: RawClient, path: str) -> list[Callable[[], object]]:
    return [lambda: client.remove(path), lambda: client.rmdir(path)]


def _moves_out(client: RawClient, path: str) -> list[Callable[[], object]]:
    mine = take(client, bytes(16))
    targets = [f"staging/{TEXT}.0.{token()}", f"{mine}/0", f"{mine}/old.0", f"locks/.{token()}", "trash/x", "x"]
    targets += [share_of(SI, 5), f"staging/.probe.{token()}", f"staging/server.toml.{token()}", "server.toml"]
    return [
        lambda move=move, target=target: move(path, target)  # type: ignore[misc]
        for target in targets
        for move in (client.rename, client.replace, client.link)
    ]


def _moves_in(client: RawClient, path: str) -> list[Callable[[], object]]:
    """Garbage, and what is fine but belongs elsewhere, from every place that a client may write in."""
    probe, new = f"staging/.probe.{token()}.1", f"staging/server.toml.{token()}"
    client.put(probe, good())
    client.put(new, good())
    mine = take(client, bytes(15) + b"\x01")
    client.put(f"{mine}/0", good())
    sources = [stage(client, b"garbage"), stage(client, good(1), shnum=1), stage(client, good(), bytes(16))]
    sources += [probe, new, f"{mine}/0", f"{mine}/owner", mine, mine.rpartition("/")[0]]
    return [
        lambda move=move, source=source: move(source, path)  # type: ignore[misc]
        for source in sources
        for move in (client.rename, client.replace, client.link)
    ]


WAYS = {
    "open": _opens,
    "set": _sets,
    "remove": _removals,
    "move-out": _moves_out,
    "move-in": _moves_in,
}
STANDING = [SHARE, SLOT, folder_of(SI), f"shares/{TEXT[:2]}", "shares", "staging", "locks", "server.toml", "/"]


@pytest.mark.parametrize("policy", [Policy(), APPEND_ONLY, READ_ONLY], ids=["open", "append-only", "read-only"])
@pytest.mark.parametrize("way", sorted(WAYS))
def test_nothing_that_stands_is_changed(root: Path, way: str, policy: Policy) -> None:
    before = everything(root)
    times = {path: (root / path).stat().st_mtime_ns for path in (SHARE, SLOT, "server.toml")}
    for path in STANDING:
        with talking(root, policy) as client:
            try:
                acts = WAYS[way](client, path)
            except Refused:
                assert policy.read_only
                continue
            for act in acts:
                assert refused(act).code in (PERMISSION_DENIED, FAILURE, NO_SUCH_FILE), path
            assert client.get(SHARE) == good()
    after = everything(root)
    for name in set(after) - set(before):
        assert name.startswith(("staging/", "locks/.broken.")), name
        assert not policy.read_only
    assert {name: after.get(name) for name in before} == before
    assert {path: (root / path).stat().st_mtime_ns for path in times} == times
    assert (root.parent / "secret").read_bytes() == SECRET


def test_a_share_that_is_open_is_not_changed_by_its_handle(root: Path) -> None:
    before = everything(root)
    with talking(root) as client:
        for path, container in ((SHARE, good()), (SLOT, version(3))):
            for flags in (READ, READ | WRITE, WRITE | APPEND):
                handle = client.open(path, flags)
                for offset in (0, 4, 12, 100, len(container) - 1, len(container), len(container) + 1, 1 << 62):
                    refused(lambda h=handle, o=offset: client.write(h, o, b"junk!"))  # type: ignore[misc]
                for change in (Attributes(size=0), Attributes(size=1 << 30), Attributes(mode=0o777, times=(1, 1))):
                    refused(lambda h=handle, c=change: client.fsetstat(h, c))  # type: ignore[misc]
                client.close(handle)
        for handle in (b"\0\0\0\1", b"", b"x" * 256):
            refused(lambda h=handle: client.write(h, 0, b"x"))  # type: ignore[misc]
    assert everything(root) == before


def test_links_are_not_read_and_not_made(root: Path) -> None:
    with talking(root) as client:
        for kind in (19, 20):  # READLINK, SYMLINK
            answer = client.ask(kind, b"\0\0\0\6shares" * 2)
            assert answer.code == OP_UNSUPPORTED


def test_read_only_changes_nothing_and_reads_all(root: Path) -> None:
    before = everything(root)
    with talking(root, READ_ONLY) as client:
        assert client.get(SLOT) == version(3)
        for act in (
            lambda: stage(client, good()),
            lambda: take(client),
            lambda: client.mkdir(f"shares/{TEXT[:2]}"),
            lambda: client.open(SHARE, WRITE),
        ):
            assert refused(act).message == "this server is read-only"
    assert everything(root) == before


# ---- shares come in


def test_a_share_comes_in_whole_and_once(root: Path) -> None:
    for how in ("rename", "replace", "link"):
        shnum = {"rename": 1, "replace": 2, "link": 3}[how]
        with talking(root) as client:
            path = stage(client, good(shnum), shnum=shnum)
            getattr(client, how)(path, share_of(SI, shnum))
            assert client.get(share_of(SI, shnum)) == good(shnum)
            assert client.listdir("staging") == []
            again = stage(client, good(shnum), shnum=shnum)
            assert "there already" in refused(lambda p=again, n=shnum: client.rename(p, share_of(SI, n))).message  # type: ignore[misc]
            client.remove(again)


def _damaged(data: bytes, *places: int) -> bytes:
    made = bytearray(data)
    for place in places:
        made[place] ^= 1
    return bytes(made)


def _block(container: bytes) -> int:
    """Where the first block of an SDMF share begins in its container (spec 03 §5)."""
    return 468 + int.from_bytes(container[468 + 87 : 468 + 91], "big")


HUGE = (1 << 64) - 1
BAD = {
    "empty": (SI, b""),
    "garbage": (SI, os.urandom(1000)),
    "valid prefix on garbage": (SI, good()[:40] + os.urandom(1000)),
    "cut short": (SI, good()[:-80]),
    "one lease too few": (SI, good()[:-72]),
    "another version of containers": (SI, b"\0\0\0\3" + good()[4:]),
    "mutable under a key's other storage index": (SI, version(4)),
    "wrong signature": (SLOT_SI, _damaged(version(4), 468 + 1 + 8 + 3)),
    "seqnum raised by hand": (SLOT_SI, version(4)[:469] + HUGE.to_bytes(8, "big") + version(4)[477:]),
    "valid prefix on garbage blocks": (SLOT_SI, _damaged(version(4), _block(version(4)))),
    "slot cut short": (SLOT_SI, version(4)[:700]),
    "slot with a hole": (SLOT_SI, version(4)[:468] + bytes(len(version(4)) - 468)),
    "another key": (SLOT_SI, mutable(slots(9, foreign=True)[0], OURS)),
    "immutable at a mutable place": (SLOT_SI, good()),
}


# what is beside an empty place tells whose it is
CASES = [(name, there) for name in sorted(BAD) for there in (True, False)]


@pytest.mark.parametrize(
    ("name", "there"), CASES, ids=[f"{name}-{'over' if there else 'new'}" for name, there in CASES]
)
def test_what_does_not_prove_gets_no_place(root: Path, name: str, there: bool) -> None:
    si, data = BAD[name]
    shnum = 0 if there else 1
    before = everything(root)
    with talking(root) as client:
        for path, moves in (
            (stage(client, data, si, shnum), (client.rename, client.replace, client.link)),
            (held(client, data, si, shnum), (client.rename, client.replace, client.link)),
        ):
            for move in moves:
                refused(lambda move=move, path=path: move(path, share_of(si, shnum)))  # type: ignore[misc]
            client.remove(path)
        assert client.get(SLOT) == version(3)
    after = {name: data for name, data in everything(root).items() if not name.startswith("locks")}
    assert after == {name: data for name, data in before.items() if not name.startswith("locks")}


def test_a_slot_gives_way_only_to_what_is_newer_and_keeps_its_leases(root: Path) -> None:
    with talking(root) as client:
        path = held(client, version(3))
        for seqnum, leases, word in (
            (2, (), "not newer"),
            (3, (), "not newer"),
            (4, (OURS,), "lease"),
            (4, ((OURS[0], OURS[1], 5), (b"x" * 32, b"y" * 32, 5)), "lease"),
        ):
            client.remove(path)
            client.put(path, version(seqnum, 0, *leases))
            assert word in refused(lambda: client.replace(path, SLOT)).message
        client.remove(path)
        client.put(path, mutable(slots(4)[0], OURS, _long(), enabler=b"v" * 32))
        assert "write enabler" in refused(lambda: client.replace(path, SLOT)).message
        client.remove(path)
        client.put(path, version(4))
        assert "there already" in refused(lambda: client.rename(path, SLOT)).message
        client.replace(path, SLOT)
        assert client.get(SLOT) == version(4)
        # outside a guard nothing is replaced, however new
        staged = stage(client, version(5), SLOT_SI)
        refused(lambda: client.replace(staged, SLOT))
        assert client.get(SLOT) == version(4)


def _long() -> tuple[bytes, bytes, int]:
    return (b"R" * 32, b"C" * 32, 1 << 31)


def test_a_seqnum_near_its_end_is_a_seqnum(root: Path) -> None:
    with talking(root) as client:
        path = held(client, version(HUGE))
        client.replace(path, SLOT)
        client.put(path, version(4))
        refused(lambda: client.replace(path, SLOT))
        assert client.get(SLOT) == version(HUGE)


def test_append_only_keeps_what_was_replaced(root: Path) -> None:
    with talking(root, APPEND_ONLY) as client:
        for seqnum in (4, 5, 6, 7):
            path = held(client, version(seqnum))
            client.replace(path, SLOT)
            client.remove(f"{path.rpartition('/')[0]}/owner")
            client.rmdir(path.rpartition("/")[0])
            client.rmdir(GUARD)
    kept = sorted(path.name.split(".")[1] for path in (root / "history").rglob("0.*"))
    assert kept == ["5", "6"]


def test_append_only_removes_nothing_of_others(root: Path) -> None:
    with talking(root, APPEND_ONLY) as mine, talking(root, APPEND_ONLY) as other:
        staged = stage(mine, good())
        mine.remove(staged)
        staged = stage(mine, good())
        long_ago = (root / staged).stat().st_mtime - DAY - 10
        os.utime(root / staged, (long_ago, long_ago))
        assert "append-only" in refused(lambda: other.remove(staged)).message
        assert refused(lambda: other.remove(SHARE)).code == PERMISSION_DENIED
        mine.remove(staged)


# ---- staged files and their handles


def test_a_share_that_is_still_written_gets_no_place(root: Path) -> None:
    with talking(root) as mine, talking(root) as other:
        staged = stage(mine, good(1), shnum=1)
        handle = mine.open(staged, READ | WRITE)
        reader = mine.open(staged)
        target = share_of(SI, 1)
        assert "open for writing" in refused(lambda: other.rename(staged, target)).message
        assert "open for writing" in refused(lambda: other.link(staged, target)).message
        mine.close(handle)
        other.rename(staged, target)
        # a handle that was open to be read stays one
        assert mine.read(reader) == good(1)
        refused(lambda: mine.write(reader, 0, b"x"))
        refused(lambda: mine.fsetstat(reader, Attributes(size=0)))
        refused(lambda: mine.open(staged, WRITE))
        assert other.get(target) == good(1)


def test_hard_links_give_no_second_way_in(root: Path) -> None:
    with talking(root) as client:
        staged = stage(client, good(1), shnum=1)
        for target in (f"staging/{TEXT}.1.{token()}", f"staging/.probe.{token()}", f"{take(client)}/1"):
            assert refused(lambda t=target: client.link(staged, t)).code == PERMISSION_DENIED  # type: ignore[misc]
        for source in (SHARE, "server.toml", f"staging/.probe.{token()}.1"):
            refused(lambda s=source: client.link(s, f"staging/{TEXT}.0.{token()}"))  # type: ignore[misc]
        # one who has two names all the same, by another server on this folder
        os.link(root / staged, root / "staging" / f"{TEXT}.1.{token()}")
        assert "second name" in refused(lambda: client.open(staged, WRITE)).message
        assert "another name" in refused(lambda: client.rename(staged, share_of(SI, 1))).message


def test_a_staged_file_is_resumed_cut_and_looked_at(root: Path) -> None:
    with talking(root) as first:
        staged = stage(first, b"0123456789")
    with talking(root) as client:
        client.setstat(staged, Attributes(size=4))
        handle = client.open(staged, READ | WRITE)
        client.write(handle, 4, b"xyz")
        client.fsync(handle)
        assert client.read(handle) == b"0123xyz"
        client.fsetstat(handle, Attributes(mode=0o777, times=(1, 1)))
        refused(lambda: client.fsetstat(handle, Attributes(owner=(1, 1))))
        client.fsetstat(handle, Attributes(size=2))
        assert client.fstat(handle).size == 2
        client.close(handle)
        assert stat.S_IMODE((root / staged).stat().st_mode) == 0o600
        assert (root / staged).stat().st_mtime > 1000


def test_ten_thousand_open_files(root: Path) -> None:
    with talking(root, forked=True) as client, talking(root) as other:
        handles: list[bytes] = []
        told: list[Refused] = []
        for _ in range(10_000):
            try:
                handles.append(client.open(SHARE))
            except Refused as full:
                told.append(full)
        assert len(handles) >= 500
        assert {full.code for full in told} == {FAILURE}
        assert all("too many" in full.message for full in told)
        assert other.get(SHARE) == good()
        refused(lambda: client.open(SHARE))


def test_what_fallen_clients_left_is_swept_once_a_day(root: Path) -> None:
    mine = token()
    left = [
        *(f"staging/{TEXT}.0.{token()}", f"staging/server.toml.{token()}", f"staging/.clock.{'a' * 16}"),
        *(f"{folder}/.probe.{mine}" for folder in ("staging", "shares", "locks", "trash", "quarantine")),
        *(f"locks/.{mine}/{mine}/owner", f"staging/.probe.{mine}.3/in/file", f"locks/.clock.{mine}"),
    ]
    young = f"staging/{TEXT}.1.{token()}"
    kept = [young, f"locks/.broken.{TEXT}.{mine}/{mine}/0", "staging/foreign", f"{GUARD}/{mine}/0"]
    before = everything(root)
    for path in (*left, *kept):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    old = (root / SHARE).stat().st_mtime - 2 * DAY
    for found in sorted(root.rglob("*"), reverse=True):
        if found.name not in young and "history" not in found.parts:
            os.utime(found, (old, old))
    with talking(root):
        pass
    there = {name for name in everything(root) if (root / name).is_file()}
    assert there == {*(name for name in before if (root / name).is_file()), *left, *kept}, "not on the first day"
    mark = root / "history" / ".serve" / "swept"
    os.utime(mark, (old, old))
    with talking(root) as writer:  # it is swept as this one comes
        assert writer.get(SHARE) == good()
    assert set(everything(root)) - set(before) == {
        *(*kept, kept[1].rpartition("/")[0], kept[1].split("/0")[0].rpartition("/")[0], GUARD, f"{GUARD}/{mine}")
    }


def test_what_is_being_written_is_not_swept(root: Path) -> None:
    old = (root / SHARE).stat().st_mtime - 2 * DAY
    with talking(root) as writer:
        path = stage(writer, b"slow")
        handle = writer.open(path, WRITE)
        os.utime(root / path, (old, old))
        os.utime(root / "history" / ".serve" / "swept", (old, old))
        with talking(root, APPEND_ONLY):
            pass
        writer.write(handle, 4, b"ly")
        assert writer.get(path) == b"slowly"


def test_probes_leave_nothing_behind(root: Path) -> None:
    before = everything(root)
    name = f".probe.{token()}"
    base = f"staging/{name}"
    with talking(root) as client, talking(root) as other:
        client.put(f"{base}.1", b"x")
        client.mkdir(f"{base}.3")
        client.mkdir(f"{base}.3/in")
        client.put(f"{base}.3/in/file", b"x")
        client.rename(f"{base}.3", f"{base}.4")
        client.link(f"{base}.1", f"{base}.2")
        for folder in ("shares", "staging", "locks", "trash", "quarantine"):
            client.rename(f"{base}.1", f"{folder}/{name}")
            client.rename(f"{folder}/{name}", f"{base}.1")
            refused(lambda folder=folder: client.mkdir(f"{folder}/.probe.{token()}.x"))  # type: ignore[misc]
        client.rename(f"{base}.1", f"trash/{name}")
        assert client.get(f"trash/{name}") == b"x"
        refused(lambda: client.put(f"shares/.probe.{token()}", b"x"))
        refused(lambda: client.mkdir(f"shares/.probe.{token()}"))
        refused(lambda: client.put(f"{base}.5", bytes(5000)))
        refused(lambda: client.rename(f"{base}.2", f"staging/.probe.{token()}.1"))
        refused(lambda: client.opendir("trash"))
        assert other.listdir("staging") == []
    assert everything(root) == before


# ---- a disk that is full


def test_a_full_disk_is_told_and_hurts_nobody(tmp_path: Path, mount: Mount) -> None:
    root = tmp_path / "small"
    mount(root, "size=1m")
    furnish(root)
    with talking(root) as client:
        staged = f"staging/{TEXT}.1.{token()}"
        handle = client.open(staged, NEW)

        def fill() -> None:
            for piece in range(20):
                client.write(handle, piece << 17, bytes(1 << 17))

        full = refused(fill)
        assert (full.code, "no space left" in full.message) == (FAILURE, True)
        client.close(handle)
        refused(lambda: stage(client, bytes(100_000)))
        assert client.get(SHARE) == good()
        client.remove(staged)
        client.rename(stage(client, good(1), shnum=1), share_of(SI, 1))


def test_a_file_that_may_not_grow_is_told(root: Path) -> None:
    """As on a full disk, where nobody may mount a small one."""

    def limited() -> PolicyFiles:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        return PolicyFiles(root, Policy())

    with conversation(limited, forked=True) as talk:
        client = talk.client
        staged = f"staging/{TEXT}.1.{token()}"
        handle = client.open(staged, NEW)
        client.write(handle, 0, bytes(150_000))
        full = refused(lambda: client.write(handle, 150_000, bytes(150_000)))
        assert (full.code, "no space left" in full.message) == (FAILURE, True)
        refused(lambda: client.fsetstat(handle, Attributes(size=1 << 30)))
        client.close(handle)
        client.remove(staged)
        client.rename(stage(client, good(1), shnum=1), share_of(SI, 1))
        assert client.get(share_of(SI, 1)) == good(1)


def test_immutable_over_immutable(root: Path) -> None:
    other = immutable(shares(b"other" * 30)[0], OURS)
    with talking(root) as client:
        for data in (good(), other, immutable(shares()[0], OURS, _long())):
            path = held(client, data, SI)
            message = refused(lambda p=path: client.replace(p, SHARE)).message  # type: ignore[misc]
            assert "already" in message
            client.remove(path)
            client.remove(f"{path.rpartition('/')[0]}/owner")
            client.rmdir(path.rpartition("/")[0])
            client.rmdir(f"locks/{TEXT}")
        # a damaged one gives way to one that proves, under the guard, and is kept
        (root / SHARE).write_bytes(_damaged(good(), 60))
        path = held(client, good(), SI)
        client.replace(path, SHARE)
        assert client.get(SHARE) == good()
    assert [path.read_bytes() for path in (root / "quarantine").glob(f"*.{TEXT}.0.*")] == [_damaged(good(), 60)]
