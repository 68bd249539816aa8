"""What spec 10 §2 refuses, counts and keeps, each rule by itself, over real folders."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.errors import (
    CannotTell,
    Conflict,
    FileDenied,
    GuardHeld,
    NotHappy,
    NotRecoverable,
    RolledBack,
    ServerUnreachable,
    Unreachable,
    UsageError,
)
from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.container import share_folder
from lafscli.mutable.attempt import Attempt, Undone
from lafscli.mutable.made import make, plan
from lafscli.mutable.publish import create, create_many, modify, overwrite
from lafscli.mutable.retrieve import contents
from lafscli.mutable.survey import survey
from lafscli.placement import Encoding
from lafscli.storage.memory import Seen
from lafscli.storage.store import FileRange
from tests.grids import LocalGrid
from tests.slots import content_of, publishing, reading
from tests.test_slots import CAP, KEY


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path)
    yield grid
    grid.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path, 3)
    yield grid
    grid.close()


def everything(servers: LocalGrid) -> dict[str, bytes]:
    return {str(path.relative_to(servers.base)): path.read_bytes() for path in servers.share_files()}


def locks(servers: LocalGrid) -> list[str]:
    roots = [servers.root(index) for index in range(len(servers.servers))]
    return [str(path.relative_to(servers.base)) for root in roots for path in (root / "locks").iterdir()]


def order(servers: LocalGrid, cap: MutableWriteCap) -> list[int]:
    """The numbers of the servers in permuted order."""
    return [int(store.server.name[1:]) for store in servers.grid().permuted(cap.verify_cap().si)]


def staged(servers: LocalGrid, cap: MutableWriteCap, content: bytes) -> Attempt:
    """A writer that has come as far as staging on all servers."""
    attempt = Attempt(servers.grid(), cap, publishing(), 10, one_first=False)
    base = attempt.enter()
    assert base is not None
    prefix = base.prefix
    attempt.content()
    attempt.targets(prefix.n)
    sizes = plan(prefix.mdmf, prefix.k, prefix.n, len(content), publishing().random_bytes)
    made = make(cap, attempt.private_key(), attempt.seqnum, sizes, content, publishing().random_bytes)
    attempt.stage(made.shares, prefix.k, prefix.n)
    return attempt


def committed_on(attempt: Attempt, names: list[str]) -> None:
    """It commits on these servers, and falls; what it left is found like the guards of the dead."""
    attempt.guards.sent = True
    work = {store: _commit(attempt) for name, store in attempt.stores.items() if name in names}
    attempt.guards.each(work)
    attempt.close()


def _commit(attempt: Attempt) -> Callable[..., object]:
    return lambda store: attempt.guards.on(store).commit(attempt.shnums(store), quarantine=False)


# ---- majorities ----------------------------------------------------------------------------------------------------


def test_two_halves_of_a_partition_are_both_refused(servers: LocalGrid) -> None:
    encoding = Encoding(3, 4, 10)
    made = create(servers.grid(), b"whole", publishing(encoding), mdmf=False)
    before = everything(servers)
    for half in (range(5), range(5, 10)):
        for index in range(10):
            servers.dials[index].dead = index in half
        with pytest.raises(NotHappy, match="5 of the 10 servers that decide answered, more than half must"):
            modify(servers.grid(), made.cap, lambda old: old + b"!", publishing(encoding))
        # what is needed to read is there: it is read, with a warning
        content, read = contents(servers.grid(), made.cap, reading())
        assert content == b"whole"
        assert any("5 of the 10 servers that decide have answered" in warning for warning in read.warnings)
        with pytest.raises(RolledBack):
            contents(servers.grid(), made.cap, reading(strict=True))
    for dial in servers.dials:
        dial.dead = False
    assert everything(servers) == before
    assert locks(servers) == []


def test_new_files_need_a_majority_and_happiness(servers: LocalGrid) -> None:
    for index in range(4):
        servers.dials[index].dead = True
    with pytest.raises(NotHappy, match="6 of 10 servers could take shares, 7 are needed"):
        create(servers.grid(), b"x", publishing(), mdmf=False)
    servers.dials[4].dead = True
    with pytest.raises(NotHappy, match="5 of the 10 servers that decide"):
        create(servers.grid(), b"x", publishing(Encoding(3, 5, 10)), mdmf=False)
    [error] = create_many(servers.grid(), [b"x"], publishing(), mdmf=True)
    assert isinstance(error, NotHappy)
    for dial in servers.dials:
        dial.dead = False
    assert everything(servers) == {}
    assert locks(servers) == []
    create(servers.grid(), b"x", publishing(Encoding(3, 10, 11)), mdmf=True)  # a share more than there are servers


def test_nobody_there(three: LocalGrid) -> None:
    made = create(three.grid(), b"x", publishing(Encoding(1, 1, 3)), mdmf=False)
    for dial in three.dials:
        dial.dead = True
    with pytest.raises(Unreachable):
        modify(three.grid(), made.cap, lambda old: old, publishing())
    with pytest.raises(Unreachable):
        contents(three.grid(), made.cap, reading())


def test_a_server_down_in_one_write_and_another_in_the_next(three: LocalGrid) -> None:
    """Rule 8b: of two servers one has the acknowledged version; of 2-of-3 that is too little to read it."""
    for k, content in ((1, b"12"), (2, None)):
        encoding = Encoding(k, 1, 3)
        made = create(three.grid(), b"", publishing(encoding), mdmf=False)
        first, second, _ = order(three, made.cap)
        three.dials[first].dead = True
        modify(three.grid(), made.cap, lambda old: old + b"1", publishing(encoding))
        three.dials[first].dead = False
        three.dials[second].dead = True
        if content is None:
            with pytest.raises(CannotTell, match="found 1, need 2"):
                modify(three.grid(), made.cap, lambda old: old + b"2", publishing(encoding))
        else:
            modify(three.grid(), made.cap, lambda old: old + b"2", publishing(encoding))
        three.dials[second].dead = False
        assert content_of(three.grid(), made.cap) == (content or b"1")


def test_an_older_version_is_no_base_where_half_of_the_servers_hold_something_newer(servers: LocalGrid) -> None:
    """Ten servers, five of which have shares of a version of which too few can be found."""
    encoding = Encoding(3, 3, 10)
    made = create(servers.grid(), b"old", publishing(encoding), mdmf=False)
    before = everything(servers)
    modify(servers.grid(), made.cap, lambda _: b"new", publishing(encoding))
    after = everything(servers)
    names = sorted(after)
    for name in names[:5]:  # rolled back
        (servers.base / name).write_bytes(before[name])
    assert content_of(servers.grid(), made.cap) == b"new"
    # of the others only two are left that can be read
    for name in names[7:]:
        (servers.base / name).write_bytes(after[name][:100])
    with pytest.raises(NotHappy, match="too many servers hold damaged shares, or a newer version"):
        modify(servers.grid(), made.cap, lambda old: old + b"!", publishing(encoding))
    content, read = contents(servers.grid(), made.cap, reading())
    assert content == b"old"
    [warning] = read.warnings
    assert "there are shares of version 2, too few to read it" in warning
    forced = modify(servers.grid(), made.cap, lambda old: old + b"!", publishing(encoding, force=True))
    assert forced.seqnum == 3
    assert content_of(servers.grid(), made.cap) == b"old!"


def test_a_damaged_share_is_something_newer_whatever_else_its_server_has(three: LocalGrid) -> None:
    """A version that two of three servers acknowledged; on both the share that has it is damaged, and an earlier one
    beside it is not."""
    made = create(three.grid(), b"1", publishing(Encoding(1, 1, 6)), mdmf=False)
    before = everything(three)
    modify(three.grid(), made.cap, lambda _: b"2", publishing(Encoding(1, 1, 6)))
    for name, old in before.items():
        if name.startswith(("s0/", "s1/")) and int(name.rsplit("/", 1)[1]) >= 3:
            (three.base / name).write_bytes(b"damaged" * 100)
        else:
            (three.base / name).write_bytes(old)
    with pytest.raises(NotHappy, match="too many servers hold damaged shares"):
        modify(three.grid(), made.cap, lambda old: old + b"!", publishing(Encoding(1, 1, 6)))
    forced = modify(three.grid(), made.cap, lambda old: old + b"!", publishing(Encoding(1, 1, 6), force=True))
    assert content_of(three.grid(), made.cap) == b"1!"
    assert forced.seqnum > 1


def test_what_is_lost_is_told_apart_from_what_is_not_seen(three: LocalGrid) -> None:
    made = create(three.grid(), b"x", publishing(Encoding(2, 1, 3)), mdmf=False)
    files = three.share_files()
    kept = files[0].read_bytes()
    for path in files:
        path.unlink()
    files[0].write_bytes(kept)
    with pytest.raises(NotRecoverable, match="found 1, need 2"):
        modify(three.grid(), made.cap, lambda old: old, publishing())
    with pytest.raises(NotRecoverable, match="found 1, need 2"):
        contents(three.grid(), made.cap, reading())
    three.servers[2] = replace(three.servers[2], features=frozenset())  # it answers, and can't be guarded
    with pytest.raises(NotRecoverable, match="found 1, need 2"):
        modify(three.grid(), made.cap, lambda old: old, publishing())
    three.servers[2] = replace(three.servers[2], features=three.servers[0].features)
    three.dials[2].refuse_create, three.dials[2].refusal = True, FileDenied  # it decides, answers, and takes no guard
    with pytest.raises(NotRecoverable, match="found 1, need 2"):
        modify(three.grid(), made.cap, lambda old: old, publishing())
    three.dials[2].dead = True
    with pytest.raises(CannotTell):
        overwrite(three.grid(), made.cap, b"y", publishing())
    with pytest.raises(CannotTell):
        contents(three.grid(), made.cap, reading())


@pytest.mark.parametrize("times", [3, 4])
def test_servers_that_hang_up_again_and_again(three: LocalGrid, times: int) -> None:
    """Two of three, each time in the middle of a try."""
    encoding = Encoding(2, 2, 3)
    made = create(three.grid(), b"1", publishing(encoding), mdmf=False)
    grid = three.grid()
    grid.connect()
    left = [times, times]

    def hanging_up(index: int) -> Callable[[str], None]:
        def before(name: str) -> None:
            if name == "do" and left[index]:
                left[index] -= 1
                raise ServerUnreachable("closed by remote host")

        return before

    for index in range(2):
        three.dials[index].before = hanging_up(index)
    if times == 3:
        modify(grid, made.cap, lambda old: old + b"2", publishing(encoding))
    else:
        with pytest.raises(NotHappy, match="1 of the 3 servers that decide answered"):
            modify(grid, made.cap, lambda old: old + b"2", publishing(encoding))
        assert left == [0, 0]
    for dial in three.dials:
        dial.before = None
    assert content_of(three.grid(), made.cap) == (b"12" if times == 3 else b"1")


# ---- what the dead leave -------------------------------------------------------------------------------------------


def test_what_was_staged_and_never_committed_vanishes(servers: LocalGrid) -> None:
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    attempt = staged(servers, made.cap, b"never")
    attempt.guards.sent = True  # it fell, and its guards were broken: what was staged lies in them
    attempt.close()
    assert len(locks(servers)) == 10
    assert content_of(servers.grid(), made.cap) == b"one"
    changed = modify(servers.grid(), made.cap, lambda old: old + b" two", publishing())
    # the number of what was staged is not used again
    assert changed.seqnum == 3
    assert content_of(servers.grid(), made.cap) == b"one two"
    assert locks(servers) == []


@pytest.mark.parametrize("on", [1, 2, 3, 9])
def test_what_was_committed_somewhere_is_the_base(servers: LocalGrid, on: int) -> None:
    """With fewer than k in place, what lies in guards is needed to read it; a reader looks there too."""
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    committed_on(staged(servers, made.cap, b"two"), [f"s{index}" for index in range(on)])
    assert content_of(servers.grid(), made.cap.read_cap()) == b"two"
    changed = modify(servers.grid(), made.cap, lambda old: old + b" three", publishing())
    assert changed.seqnum == 3
    assert content_of(servers.grid(), made.cap) == b"two three"
    assert locks(servers) == []


def test_a_holder_that_lives_is_waited_for(servers: LocalGrid) -> None:
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    attempt = staged(servers, made.cap, b"two")
    with pytest.raises(Conflict, match="another writer won each time"):
        modify(servers.grid(), made.cap, lambda old: old, publishing(patience=0.2))
    attempt.close()
    assert content_of(servers.grid(), made.cap) == b"one"
    assert locks(servers) == []


def test_all_guards_are_given_up_where_one_is_held(servers: LocalGrid) -> None:
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    [blue] = servers.grid().stores[:1]
    with blue.guard(made.cap.verify_cap().si):
        attempt = Attempt(servers.grid(), made.cap, publishing(), 10, one_first=False)
        with pytest.raises(GuardHeld):
            attempt.enter()
        attempt.close()
        assert len(locks(servers)) == 1


def test_a_guard_that_was_broken_commits_nothing(servers: LocalGrid) -> None:
    """SIGSTOP between staging and commit: somebody else has finished by then; what is acknowledged stays."""
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    late = staged(servers, made.cap, b"late")
    for index in range(10):
        [guard] = (servers.root(index) / "locks").iterdir()
        guard.rename(guard.with_name(f".broken.{guard.name}.somebody"))
    modify(servers.grid(), made.cap, lambda old: old + b" two", publishing())
    with pytest.raises(Undone):
        late.commit(dict.fromkeys(range(10), b""), 3, 10)
    late.close()
    assert content_of(servers.grid(), made.cap) == b"one two"
    assert locks(servers) == []


# ---- other writers, and bad servers --------------------------------------------------------------------------------


def test_a_writer_that_takes_no_guard_is_noticed_before_the_commit(servers: LocalGrid) -> None:
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    before = everything(servers)
    modify(servers.grid(), made.cap, lambda _: b"foreign", publishing())
    foreign = everything(servers)
    for name, data in before.items():
        (servers.base / name).write_bytes(data)
    calls = []

    def change(old: bytes) -> bytes:
        calls.append(old)
        if len(calls) == 1:  # somebody writes in place, after we have surveyed
            for name, data in foreign.items():
                (servers.base / name).write_bytes(data)
        return old + b" ours"

    changed = modify(servers.grid(), made.cap, change, publishing())
    assert calls == [b"one", b"foreign"]
    assert changed.seqnum == 3
    assert content_of(servers.grid(), made.cap) == b"foreign ours"


def test_commits_that_went_nowhere_are_found_by_reading_back(servers: LocalGrid) -> None:
    """Servers that say yes and keep the old share: their yes does not count."""
    encoding = Encoding(3, 3, 10)
    made = create(servers.grid(), b"one", publishing(encoding), mdmf=False)
    old = {path.name: path.read_bytes() for path in servers.share_files()}

    def lying(item: FileRange, _: bytes) -> bytes:
        return old[item.path.rpartition("/")[2]][item.offset : item.offset + item.length]

    for index in range(4):
        servers.dials[index].flip = lying
    changed = modify(servers.grid(), made.cap, lambda content: content + b"!", publishing(encoding))
    assert sorted(changed.silent) == ["s0", "s1", "s2", "s3"]
    assert len(changed.placement) == 6
    for index in range(4, 6):
        servers.dials[index].flip = lying
    with pytest.raises((CannotTell, NotHappy, Conflict)):
        modify(servers.grid(), made.cap, lambda content: content + b"!", publishing(encoding, patience=0.2))


def test_a_share_that_lies_is_named_and_replaced_by_another(servers: LocalGrid) -> None:
    grid = servers.grid()
    made = create(grid, bytes(range(256)) * 4, publishing(), mdmf=False)
    for index in (0, 1):
        servers.dials[index].flip = lambda item, data: data[:-1] + bytes([data[-1] ^ 1]) if len(data) > 600 else data
    for path in servers.share_files()[2:4]:
        data = bytearray(path.read_bytes())
        data[468 + 107 + 294 + 256 + 136 + 32 + 5] ^= 1  # in the block
        path.write_bytes(data)
    content, read = contents(grid, made.cap, reading())
    assert content == bytes(range(256)) * 4
    assert {bad.server for bad in read.corrupt} <= {"s2", "s3"}
    modify(grid, made.cap, lambda old: old + b"!", publishing())
    assert content_of(grid, made.cap) == bytes(range(256)) * 4 + b"!"


def test_shares_of_another_key_under_our_storage_index(servers: LocalGrid) -> None:
    grid = servers.grid()
    made = create(grid, b"ours", publishing(), mdmf=False)
    other = create(grid, b"theirs", publishing(), mdmf=False)
    theirs = share_folder(other.cap.verify_cap().si)
    for index in range(4):
        [stolen] = (servers.root(index) / theirs).iterdir()
        [place] = (servers.root(index) / share_folder(made.cap.verify_cap().si)).iterdir()
        place.write_bytes(stolen.read_bytes())
    assert content_of(grid, made.cap) == b"ours"
    found = survey(grid, made.cap.verify_cap())
    assert len(found.corrupt) == 4
    assert all("fingerprint" in reason for reason in found.corrupt.values())
    modify(grid, made.cap, lambda old: old + b"!", publishing())
    assert not survey(grid, made.cap.verify_cap()).corrupt


def test_a_frozen_server_is_not_waited_for(servers: LocalGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from lafscli.mutable import guards

    monkeypatch.setattr(guards, "_LAGGARD_SECONDS", 0.1)
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    servers.dials[0].hang = threading.Event()
    began = time.monotonic()
    changed = modify(servers.grid(), made.cap, lambda old: old + b"!", publishing())
    assert time.monotonic() - began < 10
    assert changed.silent == {"s0": "did not answer in time"}
    servers.dials[0].hang.set()


# ---- what is remembered --------------------------------------------------------------------------------------------


def test_older_versions_than_were_seen(servers: LocalGrid, tmp_path: Path) -> None:
    grid = servers.grid()
    seen = Seen(tmp_path / "state" / "seen.sqlite")
    made = create(grid, b"one", publishing(seen=seen), mdmf=False)
    before = everything(servers)
    modify(grid, made.cap, lambda old: old + b" two", publishing())
    assert contents(grid, made.cap, reading(seen=seen))[1].warnings == []
    for name, data in before.items():
        (servers.base / name).write_bytes(data)
    seen.close()
    again = Seen(tmp_path / "state" / "seen.sqlite")
    content, read = contents(grid, made.cap, reading(seen=again))
    assert content == b"one"
    assert any("version 2 was seen here before" in warning for warning in read.warnings)
    with pytest.raises(RolledBack, match="rolled back"):
        contents(grid, made.cap, reading(seen=again, strict=True))
    # the next number is above what was seen, and the change says that it was made to something older
    changed = modify(grid, made.cap, lambda old: old + b" three", publishing(seen=again))
    assert changed.seqnum == 3
    assert changed.warnings


def test_a_memory_that_is_damaged_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "seen.sqlite"
    path.write_bytes(b"this is no database at all" * 100)
    seen = Seen(path)
    seen.note(b"s" * 16, b"f" * 32, 7, b"r" * 32)
    seen.note(b"s" * 16, b"f" * 32, 6, b"z" * 32)
    seen.close()
    assert Seen(path).highest(b"s" * 16, b"f" * 32) == (7, b"r" * 32)
    assert Seen(path).highest(b"s" * 16, b"g" * 32) is None
    assert Seen(tmp_path / "file" / "seen").highest(b"s" * 16, b"f" * 32) is None
    (tmp_path / "blocked").write_bytes(b"")
    blocked = Seen(tmp_path / "blocked" / "seen")
    blocked.note(b"s" * 16, b"f" * 32, 7, b"r" * 32)
    assert blocked.highest(b"s" * 16, b"f" * 32) == (7, b"r" * 32)


# ---- keys that are given -------------------------------------------------------------------------------------------


def test_a_file_of_a_given_key_is_not_overwritten_by_making_it_again(servers: LocalGrid) -> None:
    made = create(servers.grid(), b"first", publishing(), mdmf=False, private=KEY)
    assert made.cap == CAP
    with pytest.raises(UsageError, match="there is a file of this key already"):
        create(servers.grid(), b"second", publishing(), mdmf=False, private=KEY)
    assert content_of(servers.grid(), CAP) == b"first"
    assert locks(servers) == []


def test_nothing_to_change_writes_nothing(servers: LocalGrid) -> None:
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    before = everything(servers)
    answer = modify(servers.grid(), made.cap, lambda _: None, publishing())
    assert (answer.seqnum, answer.size, len(answer.placement)) == (1, 3, 10)
    assert everything(servers) == before
    assert locks(servers) == []
