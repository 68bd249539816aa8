"""Changing the list of a grid's servers, and what becomes of earlier ones (spec 10 §2.7), on real folders."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w

from lafscli.errors import Conflict, GuardHeld, NotHappy, ServerError, Unreachable, UsageError
from lafscli.health import members as lists
from lafscli.health.check import Checking, check_many
from lafscli.health.rebalance import rebalance_many
from lafscli.health.regrowth import Mending
from lafscli.immutable.upload import upload
from lafscli.mutable.publish import create, create_many, modify
from lafscli.mutable.publishing import Publishing
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid
from lafscli.storage.lists import Changed, Changing, change_list, drop_earlier
from lafscli.storage.local import LocalFiles
from lafscli.storage.membership import Member, Membership
from lafscli.storage.moves import broken_folder, guard_folder
from lafscli.storage.serverfile import LIST_LOCK, read_membership
from lafscli.storage.store import Replace, Server
from tests.grids import LocalGrid
from tests.grids import writing as immutable
from tests.slots import content_of, publishing

CHANGING = Changing(os.urandom, patience=0)
SMALL = Encoding(2, 2, 3)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path, 6)
    yield grid
    grid.close()


def member(servers: LocalGrid, index: int) -> Member:
    server = servers.servers[index]
    return Member(server.node_id, server.seed)


def members(servers: LocalGrid, *indexes: int) -> tuple[Member, ...]:
    return tuple(sorted(member(servers, index) for index in indexes))


def started(servers: LocalGrid, *indexes: int) -> Membership:
    """The first list, on its servers."""
    return write(servers, Membership(b"a-grid", 1, members(servers, *indexes)), *indexes)


def write(servers: LocalGrid, membership: Membership, *indexes: int) -> Membership:
    """Put a list on servers, past all rules."""
    for index in indexes:
        path = servers.root(index) / "server.toml"
        path.write_text(tomli_w.dumps(tomllib.loads(path.read_text()) | membership.table()))
    return membership


def there(servers: LocalGrid, index: int) -> Membership | None:
    return read_membership(LocalFiles(servers.root(index)))


def epochs(servers: LocalGrid) -> list[int]:
    found = [there(servers, index) for index in range(len(servers.servers))]
    return [0 if each is None else each.epoch for each in found]


def adding(servers: LocalGrid, *indexes: int) -> Callable[[Membership | None], Membership]:
    def edit(base: Membership | None) -> Membership:
        if base is None:
            return Membership(b"a-grid", 1, members(servers, *indexes))
        return base.changed({*base.members, *members(servers, *indexes)})

    return edit


def add(servers: LocalGrid, known: Membership | None, *indexes: int, changing: Changing = CHANGING) -> Changed:
    return change_list(servers.grid(), known, adding(servers, *indexes), changing)


def clean(servers: LocalGrid) -> bool:
    """No guard, nothing staged, nothing moved aside."""
    roots = [servers.root(index) for index in range(len(servers.servers))]
    return not any(list((root / "locks").iterdir()) or list(root.glob("server.toml.*")) for root in roots)


# ---- a change


def test_the_first_list_is_written_to_its_servers(servers: LocalGrid) -> None:
    changed = add(servers, None, 0)
    assert (changed.membership.epoch, changed.membership.members) == (1, members(servers, 0))
    assert epochs(servers) == [1, 0, 0, 0, 0, 0]
    grown = add(servers, changed.membership, 1, 2)
    assert epochs(servers) == [2, 2, 2, 0, 0, 0]
    assert there(servers, 2) == grown.membership == changed.membership.changed(members(servers, 0, 1, 2))
    assert clean(servers)


def test_all_else_in_server_toml_stays(servers: LocalGrid) -> None:
    path = servers.root(0) / "server.toml"
    path.write_text(path.read_text() + 'note = "mine"\n[more]\nx = [1, 2]\n')
    before = tomllib.loads(path.read_text())
    changed = add(servers, None, 0)
    assert tomllib.loads(path.read_text()) == before | changed.membership.table()


def test_grown_from_three_to_five_with_one_away(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    servers.dials[2].dead = True
    fourth = add(servers, first, 3)
    fifth = add(servers, fourth.membership, 4)
    assert epochs(servers) == [3, 3, 1, 3, 3, 0]
    assert fifth.silent == {"s2": "connection refused"}
    assert fifth.membership.earlier == (members(servers, 0, 1, 2, 3), members(servers, 0, 1, 2))
    servers.dials[2].dead = False
    assert add(servers, first, 5).membership.members == members(servers, *range(6))  # who knew only the first list
    assert epochs(servers) == [4] * 6
    assert clean(servers)


@pytest.mark.parametrize("away", [(1, 2), (0, 2), (0, 1)])
def test_without_a_majority_nothing_is_changed(servers: LocalGrid, away: tuple[int, ...]) -> None:
    first = started(servers, 0, 1, 2)
    for index in away:
        servers.dials[index].dead = True
    with pytest.raises(NotHappy, match=r"(1 of 3|2 of 4) servers answered") as raised:
        add(servers, first, 3)
    assert "lafs server remove" in str(raised.value.hint)
    assert epochs(servers) == [1, 1, 1, 0, 0, 0]
    assert clean(servers)


def test_a_majority_is_needed_of_each_list_that_counts(servers: LocalGrid) -> None:
    listed = Membership(b"a-grid", 2, members(servers, 0, 1, 2, 3, 4), (members(servers, 3, 4),))
    write(servers, listed, 0, 1, 2, 3, 4)
    servers.dials[4].dead = True
    with pytest.raises(NotHappy, match="1 of 2 servers"):
        add(servers, listed, 5)
    assert epochs(servers) == [2, 2, 2, 2, 2, 0]


def test_nobody_answers(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    for dial in servers.dials:
        dial.dead = True
    with pytest.raises(Unreachable):
        add(servers, first, 3)


def test_a_server_that_can_not_stage_counts_as_away(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)

    def full(operation: str) -> None:
        if operation == "do" and (servers.root(2) / guard_folder(LIST_LOCK)).exists():
            raise ServerError("disk quota exceeded")

    servers.dials[2].before = full
    assert "s2" in add(servers, first, 3).silent
    assert epochs(servers) == [2, 2, 1, 2, 0, 0]
    servers.dials[1].before = lambda operation: full(operation) if operation == "do" else None
    servers.dials[1].dead = True
    with pytest.raises(NotHappy):
        add(servers, first, 4)


def test_a_list_that_can_not_be_used_silences_its_server_alone(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    path = servers.root(1) / "server.toml"
    path.write_text(path.read_text().replace("epoch = 1", "epoch = -7"))
    changed = add(servers, first, 3)
    assert "epoch is not a number" in changed.silent["s1"]
    assert [there(servers, index) for index in (0, 2, 3)] == [changed.membership] * 3


# ---- others


def test_a_guard_of_another_one_is_waited_for(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    other = servers.grid().stores[1]
    guard = other.guard_list()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            guard.__exit__(None, None, None)

    changing = Changing(os.urandom, patience=1e9, sleep=sleep)
    assert add(servers, first, 3, changing=changing).membership.epoch == 2
    assert len(waits) == 3
    assert epochs(servers) == [2, 2, 2, 2, 0, 0]


def test_a_guard_that_is_never_given_back_is_a_conflict(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    guard = servers.grid().stores[0].guard_list()
    with pytest.raises(Conflict, match="being changed by another one"):
        add(servers, first, 3)
    assert epochs(servers) == [1, 1, 1, 0, 0, 0]
    guard.__exit__(None, None, None)
    assert clean(servers)


def test_of_two_who_change_it_at_once_none_loses_a_server(servers: LocalGrid) -> None:
    """The first one is stopped after it has read, its guards are broken, the other one finishes; then it goes on."""
    first = started(servers, 0, 1, 2)
    seen: list[int] = []

    def edit(base: Membership | None) -> Membership:
        assert base is not None
        seen.append(base.epoch)
        if len(seen) == 1:
            for index in range(6):
                guard = servers.root(index) / guard_folder(LIST_LOCK)
                guard.rename(servers.root(index) / broken_folder(LIST_LOCK, "x"))
            add(servers, first, 3)
        return adding(servers, 4)(base)

    changed = change_list(servers.grid(), first, edit, replace(CHANGING, patience=60))
    assert seen == [1, 2]
    assert changed.membership.members == members(servers, 0, 1, 2, 3, 4)
    assert epochs(servers) == [3, 3, 3, 3, 3, 0]


def test_two_lists_of_one_epoch_are_settled_by_the_next_change(servers: LocalGrid) -> None:
    """Two were cut off, each after a minority had its list."""
    first = started(servers, 0, 1, 2)
    write(servers, first.changed(members(servers, 0, 1, 2, 3)), 0, 3)
    write(servers, first.changed(members(servers, 0, 1, 2, 4)), 1, 4)
    changed = add(servers, first, 5)
    assert changed.membership.members == members(servers, *range(6))
    assert epochs(servers) == [4] * 6
    assert len(changed.membership.earlier) == 4


def test_servers_of_another_grid_are_refused(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    write(servers, Membership(b"other", 9, members(servers, 3)), 3)
    with pytest.raises(UsageError, match="server s3 belongs to another grid"):
        add(servers, first, 3)
    with pytest.raises(UsageError, match="different grids: a-grid, other"):
        add(servers, None, 4)
    assert epochs(servers) == [1, 1, 1, 9, 0, 0]
    assert clean(servers)


def test_a_server_that_its_grid_has_let_go_is_taken(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    write(servers, Membership(b"other", 9, members(servers, 5)), 3)
    assert there(servers, 3) != add(servers, first, 3).membership.without_earlier()
    assert there(servers, 3) == there(servers, 0)


def test_a_server_that_holds_no_guard_gets_no_list(servers: LocalGrid) -> None:
    servers.servers[1] = replace(servers.servers[1], features=frozenset({"posix-rename", "fsync"}))
    servers.servers[2] = replace(servers.servers[2], writable=False)
    servers.servers[3] = replace(servers.servers[3], mutable=False)
    made = lists.made(servers.grid(), None, CHANGING)
    assert made is not None
    assert made.members == members(servers, 0, 4, 5)
    assert epochs(servers) == [1, 0, 0, 0, 1, 1]


# ---- without posix-rename


class NoReplace(LocalFiles):
    """As of a server without posix-rename; stops after so many renames."""

    left = 1000

    def do(self, ops):  # type: ignore[no-untyped-def]
        assert not any(isinstance(op, Replace) for op in ops)
        if any(
            getattr(op, "old", "").startswith("server.toml") or getattr(op, "new", "") == "server.toml" for op in ops
        ):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        return super().do(ops)


def plain(root: Path) -> tuple[FolderStore, NoReplace]:
    server = Server("s0", b"", b"", features=frozenset({"rename-keeps", "folder-rename-keeps", "hardlink"}))
    files = NoReplace(root)
    return FolderStore(server, files, random_bytes=os.urandom), files


def test_without_posix_rename_the_old_file_is_moved_aside(servers: LocalGrid) -> None:
    first = started(servers, 0)
    store, _ = plain(servers.root(0))
    with store.guard_list() as guard:
        assert guard.read() == first
        guard.stage(after := first.changed(members(servers, 0, 1)))
        guard.commit()
    assert there(servers, 0) == after
    assert clean(servers)


def test_who_falls_after_moving_it_aside_loses_nothing(servers: LocalGrid) -> None:
    first = started(servers, 0)
    store, files = plain(servers.root(0))
    guard = store.guard_list()
    assert guard.read() == first
    guard.stage(first.changed(members(servers, 0, 1)))
    files.left = 1
    with pytest.raises(KeyboardInterrupt):
        guard.commit()
    assert not (servers.root(0) / "server.toml").exists()
    assert there(servers, 0) == first
    assert servers.grid().stores[0].membership() == first  # who connects finds the server to be the same
    (servers.root(0) / guard_folder(LIST_LOCK)).rename(servers.root(0) / broken_folder(LIST_LOCK, "x"))
    store, _ = plain(servers.root(0))
    with store.guard_list() as guard:
        assert guard.read() == first
        guard.stage(after := first.changed(members(servers, 0, 2)))
        guard.commit()
    assert there(servers, 0) == after
    assert not list(servers.root(0).glob("server.toml.*"))


def test_a_broken_guard_puts_nothing_in_place(servers: LocalGrid) -> None:
    first = started(servers, 0)
    for number, store in enumerate((plain(servers.root(0))[0], servers.grid().stores[0])):
        guard = store.guard_list()
        assert guard.read() == first
        guard.stage(first.changed(members(servers, 0, 1)))
        broken = broken_folder(LIST_LOCK, f"x{number}")
        (servers.root(0) / guard_folder(LIST_LOCK)).rename(servers.root(0) / broken)
        with pytest.raises(ServerError):
            guard.commit()
        assert there(servers, 0) == first
        with servers.grid().stores[0].guard_list():
            pass


# ---- a server leaves


def leave(servers: LocalGrid, known: Membership, index: int, *, force: bool = False) -> lists.Listed:
    changing = replace(CHANGING, force=force)
    return lists.left(servers.grid(), known, servers.servers[index], changing, n=10)


def test_a_server_that_leaves_is_told_and_then_free(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    done = leave(servers, first, 2)
    assert done.membership == Membership(b"a-grid", 2, members(servers, 0, 1))
    assert epochs(servers)[:3] == [2, 2, 2]
    assert leave(servers, first, 5).membership == first  # one that has no say
    listed = write(servers, Membership(b"other", 1, members(servers, 4)), 4)
    entered = lists.entered(servers.grid(), listed, servers.servers[2], there(servers, 2), CHANGING, n=10)
    assert entered.membership is not None
    assert there(servers, 2) == entered.membership
    assert entered.membership.grid == b"other"


def test_the_silence_of_one_that_leaves_counts_for_nothing(servers: LocalGrid) -> None:
    first = started(servers, 0, 1)
    servers.dials[1].dead = True
    with pytest.raises(NotHappy):
        add(servers, first, 2)
    done = leave(servers, first, 1)
    assert done.membership == Membership(b"a-grid", 2, members(servers, 0))
    assert add(servers, done.membership, 2).membership.members == members(servers, 0, 2)


def test_force_changes_the_list_without_a_majority(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2, 3)
    for index in (1, 2, 3):
        servers.dials[index].dead = True
    with pytest.raises(NotHappy):
        leave(servers, first, 1)
    done = leave(servers, first, 1, force=True)
    assert "without a majority" in done.warnings[0]
    assert done.membership == Membership(b"a-grid", 2, members(servers, 0, 2, 3))
    assert epochs(servers)[:4] == [2, 1, 1, 1]
    servers.dials[0].dead = True
    nowhere = leave(servers, done.membership, 2, force=True)
    assert nowhere.membership == done.membership
    assert "no server has the new list" in nowhere.warnings[1]


# ---- joining


def test_joining_writes_nothing(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    for dial in servers.dials:
        dial.dead = True
    grid, stranger = servers.grid(), servers.servers[1]
    assert lists.entered(grid, None, stranger, first, CHANGING, n=10).membership == first
    older = replace(first, epoch=2, members=members(servers, 0, 1))
    assert lists.entered(grid, first, stranger, older, CHANGING, n=10).membership == older
    assert lists.entered(grid, older, stranger, first, CHANGING, n=10).membership == older
    with pytest.raises(UsageError, match="another grid"):
        lists.entered(grid, replace(first, grid=b"other"), stranger, first, CHANGING, n=10)


def test_one_that_was_away_when_it_was_removed_is_added_again(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    servers.dials[2].dead = True
    now = leave(servers, first, 2).membership
    servers.dials[2].dead = False
    assert there(servers, 2) == first
    entered = lists.entered(servers.grid(), now, servers.servers[2], first, CHANGING, n=10).membership
    assert entered is not None
    assert (entered.epoch, entered.members) == (3, members(servers, 0, 1, 2))
    assert there(servers, 2) == entered


# ---- earlier lists


def grown(servers: LocalGrid, first: Membership, *indexes: int) -> Changed:
    return add(servers, first, *indexes)


def dropped(servers: LocalGrid, changed: Changed, **how: int | None) -> str | None:
    found = drop_earlier(servers.grid(), changed, CHANGING, n=10, **how)  # type: ignore[arg-type]
    assert bool(found.membership.earlier) == (found.kept is not None)
    return found.kept


def writing(membership: Membership | None, encoding: Encoding = SMALL) -> Publishing:
    return replace(publishing(encoding), membership=membership)


def on(servers: LocalGrid, *indexes: int) -> Grid:
    """A grid of some of the servers."""
    return Grid([store for store in servers.grid().stores if store.server in [servers.servers[i] for i in indexes]])


def test_ten_in_a_row_leave_no_earlier_lists(servers: LocalGrid) -> None:
    known: Membership | None = None
    for index in range(6):
        grid = on(servers, *range(index + 1))
        known = lists.entered(grid, known, servers.servers[index], None, CHANGING, n=10).membership
    assert known == Membership(known.grid if known else b"", 6, members(servers, *range(6)))
    assert epochs(servers) == [6] * 6
    assert [there(servers, index) for index in range(6)] == [known] * 6


def test_a_slot_that_stands_on_most_of_the_new_servers_misses_nothing(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    create(on(servers, 0, 1, 2), b"x", writing(first), mdmf=False)
    create(on(servers, 0, 1, 2), b"y", writing(first), mdmf=True)
    assert dropped(servers, grown(servers, first, 3)) is None
    assert [there(servers, index) for index in range(4)] == [there(servers, 0)] * 4


def test_a_slot_that_stands_on_too_few_keeps_the_earlier_list(servers: LocalGrid) -> None:
    """Three of six: the three others would be a majority with one of them that was away."""
    first = started(servers, 0, 1, 2)
    made = create(on(servers, 0, 1, 2), b"old", writing(first, Encoding(2, 2, 6)), mdmf=False)
    changed = grown(servers, first, 3, 4, 5)
    assert dropped(servers, changed) == "1 mutable objects lie on too few of the servers that count now"
    grid = servers.grid()
    modify(grid, made.cap, lambda _: b"new", writing(changed.membership, Encoding(2, 2, 6)))
    assert dropped(servers, changed) is None
    assert content_of(grid, made.cap) == b"new"


def test_what_is_not_seen_keeps_the_earlier_list(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    made = create(on(servers, 0, 1, 2), b"x", writing(first), mdmf=False)
    changed = grown(servers, first, 3)
    servers.dials[3].dead = True
    assert dropped(servers, changed) == "1 of the grid's servers could not be looked at"
    servers.dials[3].dead = False
    assert dropped(servers, changed, most=0) == "there are many objects, and not all of them were looked at"
    guard = servers.grid().stores[0].guard(made.cap.verify_cap().si)
    assert "objects are being changed" in str(dropped(servers, changed))
    guard.__exit__(None, None, None)
    [*_, share] = servers.share_files()
    left = share.read_bytes()
    (servers.root(0) / broken_folder(made.cap.verify_cap().si, "x") / "y").mkdir(parents=True)
    assert "cut off" in str(dropped(servers, changed))
    (servers.root(0) / broken_folder(made.cap.verify_cap().si, "x") / "y").rmdir()
    (servers.root(0) / broken_folder(made.cap.verify_cap().si, "x")).rmdir()
    assert share.read_bytes() == left
    assert dropped(servers, changed) is None


def test_a_server_with_an_older_list_keeps_the_earlier_one(servers: LocalGrid) -> None:
    """Who meets only that server and others like it would still write by it."""
    first = started(servers, 0, 1, 2)
    servers.dials[2].dead = True
    changed = grown(servers, first, 3)
    servers.dials[2].dead = False
    assert dropped(servers, changed) == "1 of the grid's servers could not be looked at"
    done = lists.all_dropped(servers.grid(), changed.membership, CHANGING, n=10)
    assert done.membership == changed.membership.without_earlier()
    assert there(servers, 2) == done.membership


def test_two_versions_of_one_number_keep_the_earlier_list(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    made = create(on(servers, 0, 1, 2), b"x", writing(first), mdmf=False)
    share = servers.share_files()[0]
    data = bytearray(share.read_bytes())
    data[468 + 9] ^= 1  # its root hash
    share.write_bytes(data)
    assert "too few" in str(dropped(servers, grown(servers, first, 3)))
    assert made.seqnum == 1


def test_one_that_has_left_may_have_been_half_of_an_h_but_not_more(servers: LocalGrid) -> None:
    two, one = Encoding(1, 1, 2), Encoding(1, 1, 1)
    first = started(servers, 0, 1)
    create(on(servers, 0, 1), b"x", writing(first, two), mdmf=False)
    servers.dials[1].dead = True
    assert leave(servers, first, 1).membership == Membership(b"a-grid", 2, members(servers, 0))
    for index in range(2, 6):
        started(servers, index)
    alone = create(on(servers, 2), b"x", writing(there(servers, 2), one), mdmf=False)
    listed = write(servers, Membership(b"a-grid", 5, members(servers, 2), (members(servers, 1),)), 2)
    assert "of an earlier list" in str(dropped(servers, Changed(listed, frozenset(), {})))
    assert alone.seqnum == 1


# ---- who writes by which list


def test_a_writer_that_meets_a_newer_list_is_refused(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    grid = on(servers, 0, 1, 2)
    made = create(grid, b"x", writing(first), mdmf=False)
    before = [share.read_bytes() for share in servers.share_files()]
    grown(servers, first, 3)
    with pytest.raises(UsageError, match="number 2, this home 1") as raised:
        modify(grid, made.cap, lambda old: old + b"y", writing(first))
    assert raised.value.exit_code == 2
    [refused] = create_many(grid, [b"new"], writing(first), mdmf=False)
    assert isinstance(refused, UsageError)
    assert [share.read_bytes() for share in servers.share_files()] == before
    assert clean(servers)


def test_a_writer_without_all_members_is_refused(servers: LocalGrid) -> None:
    first = started(servers, 0, 1, 2)
    made = create(servers.grid(), b"x", writing(first), mdmf=False)
    for call in (
        lambda: create(on(servers, 0, 1), b"x", writing(first), mdmf=False),
        lambda: modify(on(servers, 0, 1), made.cap, lambda old: old + b"y", writing(first)),
    ):
        with pytest.raises(UsageError, match=b32encode(servers.servers[2].node_id)):
            call()
    assert content_of(on(servers, 0, 1), made.cap) == b"x"


@pytest.mark.parametrize(("away", "refused"), [([0], False), ([0, 1], True), ([3, 4], False), ([3, 4, 5], True)])
def test_a_writer_needs_a_majority_of_earlier_lists_too(servers: LocalGrid, away: Sequence[int], refused: bool) -> None:
    """Of six, and of the three that were before."""
    first = started(servers, 0, 1, 2)
    six = Encoding(2, 2, 6)
    made = create(on(servers, 0, 1, 2), b"x", writing(first, six), mdmf=False)
    changed = grown(servers, first, 3, 4, 5)
    for index in away:
        servers.dials[index].dead = True
    how = writing(changed.membership, six)
    if refused:
        with pytest.raises(NotHappy):
            modify(servers.grid(), made.cap, lambda old: old + b"y", how)
    else:
        modify(servers.grid(), made.cap, lambda old: old + b"y", how)
        assert content_of(servers.grid(), made.cap) == b"xy"


def test_a_list_is_made_before_the_first_write(servers: LocalGrid) -> None:
    grid = servers.grid()
    calls: list[Membership | None] = []

    def make() -> Membership | None:
        calls.append(lists.made(grid, None, CHANGING))
        return calls[-1]

    how = replace(publishing(SMALL), make_list=make)
    made = create(grid, b"x", how, mdmf=False)
    assert [there(servers, index) for index in range(6)] == calls * 6
    modify(grid, made.cap, lambda old: old + b"y", replace(how, membership=calls[0]))
    assert len(calls) == 1


def test_the_guard_of_the_list_is_a_guard(servers: LocalGrid) -> None:
    grid = servers.grid()
    with grid.stores[0].guard_list(), pytest.raises(GuardHeld):
        servers.grid().stores[0].guard_list()
    assert grid.stores[0].changing() == frozenset()


def test_slots_come_to_the_servers_that_decide_now(servers: LocalGrid) -> None:
    """All shares are there, on as many servers as there are shares: only a say is missing. Immutable files stay."""
    first = started(servers, 0, 1, 2)
    old = on(servers, 0, 1, 2)
    after = first.changed(members(servers, *range(6)))
    caps = []
    while len(caps) < 4 or not any(len(after.electors(cap.verify_cap().si, 3)[0] & first.node_ids) < 2 for cap in caps):
        caps.append(create(old, b"%d" % len(caps), writing(first), mdmf=False).cap)
    kept = upload(old, b"x" * 1000, immutable(SMALL)).cap
    changed = grown(servers, first, 3, 4, 5)
    assert "too few" in str(dropped(servers, changed))
    grid, checking = servers.grid(), Checking(2, os.urandom)
    how = writing(changed.membership)
    mending = Mending(how.lease, publishing=how)
    reports = enumerate(check_many(grid, [*caps, kept], checking))
    left = dict(rebalance_many(grid, reports, checking, mending, slots_only=True))
    assert all(report.healthy for report in left.values())
    written = {number: report.repair.written for number, report in left.items() if report.repair is not None}
    assert sum(written.values()) > 0
    assert len(caps) not in written
    assert dropped(servers, changed) is None
    assert [content_of(grid, cap) for cap in caps] == [b"%d" % number for number in range(len(caps))]
