"""Garbage collection over real folders: what goes, what stays and why, what is in doubt, what others do meanwhile."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lafscli.errors import Unreachable
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, MutableWriteCap, parse
from lafscli.health import claims
from lafscli.health.collect import Collected, InDoubt, undo
from lafscli.health.deep import Root
from lafscli.health.mark import Mark, doubts_at_rest, doubts_of
from lafscli.health.wastebin import day_over
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import LEASE_SECONDS, Writing, upload
from lafscli.primitives.encoding import b32encode
from lafscli.storage.store import Lease, ShareStore, StorageIndex
from lafscli.tree.contents import content as read
from lafscli.tree.walk import walk
from tests.grids import content
from tests.homes import DAY, ENCODING, GRACE, Home, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.local.close()


@pytest.fixture
def home(world: World) -> Home:
    return Home(world)


@pytest.fixture
def other(world: World) -> Home:
    return Home(world, b"o" * 32)


def skipped(done: Collected) -> dict[str, int]:
    return dict(done.skipped)


def wasted(home: Home, *, seed: int = 1) -> Cap:
    """A file that no root leads to, two days old; beside it one that a root leads to."""
    home.roots.append(home.put(1000 + seed))
    cap = home.put(seed)
    home.world.later(2)
    return cap


def everything(world: World) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in world.local.base.rglob("*") if path.is_file()}


# ---- what goes


def test_what_no_root_leads_to_goes_and_nothing_before_it_is_said(world: World, home: Home) -> None:
    """Immutable and mutable files, directories with what only they lead to; aliases and pins are roots alike."""
    inside, deep = home.put(1), home.put(2)
    kept = home.mkdir(a=inside, b=home.mkdir(c=deep, l=LitCap(b"x")))
    slot, gone = home.mkdir("sdmf"), home.put(3)
    lost = home.mkdir(x=home.put(4), y=inside)
    home.roots += [kept, LitCap(b"in itself")]
    world.later(2)
    before = everything(world)
    planned = home.gc(delete=False)
    assert everything(world) == before
    assert (planned.objects, planned.shares, planned.deleted, planned.reached) == (4, 16, False, 4)
    files = [path for cap in (slot, gone, lost, _child(home, lost, "x")) for path in world.shares(cap)]
    assert planned.bytes == sum(path.stat().st_size for path in files)
    assert sum(amount.bytes for amount in planned.by_server.values()) == planned.bytes
    done = home.gc()
    assert replace(done, deleted=False) == planned
    assert not any(path.exists() or path.parent.exists() for path in files)
    assert sorted(path.name for path in world.trash()) == sorted(f"{path.parent.name}.{path.name}" for path in files)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert {path.parent.name for path in world.trash()} <= {today, *_yesterday(today)}
    assert [read(home.access, cap) for cap in (inside, deep)] == [content(100, 1), content(100, 2)]
    assert (home.gc().shares, home.gc(delete=False).shares) == (0, 0)
    assert not list(world.local.base.glob("s?/locks/*"))


def _child(home: Home, directory: DirectoryCap, name: str) -> Cap:
    [cap] = [visit.cap for visit in walk(home.access, directory) if visit.path == (name,)]
    return cap


def _yesterday(today: str) -> set[str]:
    """The day on which the test may have begun."""
    return {time.strftime("%Y-%m-%d", time.gmtime(time.time() - 600))} | {today}


def test_a_day_must_have_passed(world: World, home: Home) -> None:
    """Since it was stored, since our lease was renewed; by the lease and by what the server says."""
    cap = home.put(1)
    home.roots.append(home.put(2))
    world.later(0.9)
    assert skipped(home.gc()) == {claims.RECENT: 4}
    home.renew(cap)
    world.later(0.9)
    assert skipped(home.gc()) == {claims.RECENT: 4}
    world.later(0.2)
    [first, *_] = world.shares(cap)
    os.utime(first, (world.now, world.now))  # a clock that was set back when it was stored makes the lease look old
    done = home.gc()
    assert (done.shares, skipped(done)) == (3, {claims.RECENT: 1})


def test_leases_of_others(world: World, home: Home, other: Home) -> None:
    """One that lives keeps the share and its fellows; one that has ended keeps nothing; without ours it is not ours."""
    cap = wasted(home)
    [theirs] = [other.put(7)]
    other.renew(cap)
    world.later(2)
    assert skipped(home.gc()) == {claims.OTHERS: 4, claims.NOT_OURS: 4}
    world.later(30)
    assert skipped(home.gc(delete=False)) == {claims.NOT_OURS: 4}
    home.renew(cap)
    other.renew(cap)
    [first, *rest] = world.shares(cap)
    data = first.read_bytes()
    first.write_bytes(data[:8] + b"\0\0\0\1" + data[12:-72])  # only our record is left on this one
    world.later(2)
    assert skipped(home.gc()) == {claims.OTHERS: 3, claims.BESIDE: 1, claims.NOT_OURS: 4}
    assert len(world.shares(cap)) == 4
    assert len(rest) == 3
    assert read(other.access, theirs) == content(100, 7)
    world.later(40)
    assert home.gc().objects == 1


def test_a_record_that_was_added_and_never_counted_keeps_the_share(world: World, home: Home, other: Home) -> None:
    cap = home.put(1)
    home.roots.append(home.put(2))
    other.renew(cap)
    for path in world.shares(cap):
        data = path.read_bytes()
        path.write_bytes(data[:8] + b"\0\0\0\1" + data[12:])
    world.later(2)
    assert skipped(home.gc()) == {claims.OTHERS: 4}


def test_a_clock_that_is_ahead_takes_nothing_from_others(world: World, home: Home, other: Home) -> None:
    """The server's clock is asked under the guard: the earlier of both counts."""
    world.now = int(time.time()) - 5 * DAY // 2
    cap = wasted(home)
    other.renew(cap)
    world.later(0)
    done = home.gc(now=int(time.time()) + 60 * DAY)
    assert (done.shares, skipped(done)) == (0, {claims.RENEWED: 4})
    young = home.put(9)
    done = home.gc(now=int(time.time()) + 60 * DAY)
    assert len(world.shares(young)) == 4


def test_what_cannot_be_judged_stays(world: World, home: Home) -> None:
    cap = wasted(home)
    paths = world.shares(cap)
    whole = [path.read_bytes() for path in paths]
    paths[0].write_bytes(b"\0\0\0\x09" + whole[0][4:])  # a version of containers that nobody knows
    paths[1].write_bytes(whole[1][:-10])
    paths[2].write_bytes(b"")
    world.settle()
    done = home.gc()
    assert (done.shares, skipped(done)) == (1, {claims.UNREADABLE: 3})


def test_servers_where_nothing_can_be_changed(world: World, home: Home) -> None:
    cap = wasted(home)
    world.local.servers[0] = replace(world.local.servers[0], writable=False)
    world.local.servers[1] = replace(world.local.servers[1], features=frozenset())
    home.grid = world.local.grid()
    done = home.gc()
    assert (done.shares, skipped(done)) == (2, {claims.READ_ONLY: 1, claims.NO_GUARD: 1})
    assert len(world.shares(cap)) == 2


# ---- doubt


def refused(home: Home) -> str:
    """Both runs refuse, change nothing, and name what hides something."""
    before = everything(home.world)
    told = set()
    for delete in (False, True):
        with pytest.raises(InDoubt) as caught:
            home.gc(delete=delete)
        assert caught.value.exit_code == 11
        told.add("; ".join(f"{each.path}: {each.reason}" for each in caught.value.doubts))
    assert everything(home.world) == before
    return told.pop()


def test_a_silent_server(world: World, home: Home) -> None:
    wasted(home)
    world.local.dials[2].dead = True
    assert refused(home) == "server s2: connection refused"
    for dial in world.local.dials:
        dial.dead = True
    with pytest.raises(Unreachable):
        home.gc()


def test_a_listing_that_is_cut(world: World, home: Home) -> None:
    wasted(home)
    (world.local.root(1) / "shares" / "zz").write_text("no folder")
    assert refused(home).startswith("server s1: ")


def test_a_server_that_falls_silent_on_the_way(world: World, home: Home) -> None:
    wasted(home)
    count = 0

    def third(name: str) -> None:
        nonlocal count
        count += name == "listing"
        world.local.dials[3].dead = count > 3

    world.local.dials[3].before = third
    with pytest.raises(InDoubt):
        home.gc()
    assert not world.trash()


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda home: home.mkdir(u=parse("imm.URI:FUTURE:x")), "0:u: it is of a kind"),
        (lambda home: home.mkdir(d=home.mkdir(f=home.put(3))).verify_cap(), "a verify cap can't read"),
        (lambda home: parse("URI:CHK:not a cap"), "0:: "),
        (lambda home: parse("something"), "0:: "),
        (lambda home: _broken(home, home.mkdir(f=home.put(3))), "0:dir: what is in it is not known: "),
        pytest.param(
            lambda home: _broken(home, home.mkdir("sdmf")),
            "0:dir: what is in it is not known: ",
            marks=pytest.mark.slow,  # a reader waits for writers on their way
        ),
        (lambda home: _no_table(home), "0:: what is in it is not known: "),
    ],
    ids=["unknown", "verify", "malformed", "nonsense", "lost", "lost slot", "no table"],
)
def test_what_hides_something(home: Home, make: Callable[[Home], Cap], word: str) -> None:
    home.roots.append(make(home))
    wasted(home)
    assert word in refused(home)


def _broken(home: Home, directory: DirectoryCap) -> DirectoryCap:
    outer = home.mkdir("chk" if not directory.mutable else "sdmf", dir=directory)
    for path in home.world.shares(directory)[:3]:
        path.unlink()
    return outer


def _no_table(home: Home) -> DirectoryCap:
    cap = home.put(5)
    return DirectoryCap(cap)  # type: ignore[arg-type]


# ---- others at the same time


@dataclass
class Moments:
    """Roots that are asked for: does something when they are for the n-th time."""

    home: Home
    acts: dict[int, Callable[[], object]]
    count: int = 0

    def __call__(self) -> Sequence[Cap]:
        self.count += 1
        self.acts.pop(self.count, lambda: None)()
        return self.home.roots


@pytest.fixture
def place(home: Home) -> DirectoryCap:
    """A directory of the home."""
    made = home.mkdir("sdmf")
    home.roots.append(made)
    return made


def test_a_link_that_is_moved_to_where_one_has_looked(world: World, home: Home, place: DirectoryCap) -> None:
    """All was looked at; then something old gets a name, in a directory that was read; then a whole tree does."""
    cap, inside = home.put(1), home.put(2)
    tree = home.mkdir(f=inside)
    world.later(2)
    moments = Moments(home, {2: lambda: (home.link(place, "x", cap), home.link(place, "t", tree))})
    done = home.gc(roots=moments)
    assert (done.shares, moments.acts, not world.trash()) == (0, {}, True)
    assert done.reached == 4


def test_a_root_that_is_added_meanwhile(world: World, home: Home, place: DirectoryCap) -> None:
    cap = home.put(1)
    world.later(2)
    assert home.gc(roots=Moments(home, {2: lambda: home.roots.append(cap)})).shares == 0


def test_a_name_that_is_given_while_it_goes(world: World, home: Home, place: DirectoryCap) -> None:
    """It went, and comes back in the same run, with all that it leads to."""
    inside, cap = home.put(1), home.put(3)
    tree = home.mkdir(f=inside, d=home.mkdir(g=home.put(2)))
    world.later(2)
    done = home.gc(roots=Moments(home, {3: lambda: home.link(place, "t", tree)}))
    assert (done.shares, done.restored.shares, done.failed) == (20, 16, [])
    assert read(home.access, inside) == content(100, 1)
    assert len(world.trash()) == len(world.shares(cap)) + 4 == 4


def test_what_is_renewed_meanwhile_stays(world: World, home: Home, other: Home, place: DirectoryCap) -> None:
    mine, shared, slot = home.put(1), home.put(2), home.mkdir("sdmf")
    world.later(2)

    def renewals() -> None:
        home.renew(mine, slot)
        other.renew(shared)

    done = home.gc(roots=Moments(home, {2: renewals}))
    assert (done.shares, skipped(done)) == (0, {claims.RENEWED: 12})


def test_a_put_that_finds_it_stored_keeps_it(world: World, home: Home, place: DirectoryCap) -> None:
    cap = home.put(1)
    world.later(2)
    done = home.gc(roots=Moments(home, {2: lambda: home.put(1)}))
    assert (done.shares, skipped(done)) == (0, {claims.RENEWED: 4})
    assert read(home.access, cap) == content(100, 1)


def test_an_upload_under_way(world: World, home: Home, place: DirectoryCap) -> None:
    """Its record is locked; that of one that died is not."""
    cap = home.put(1)
    assert cap.storage_index is not None
    world.later(2)
    record = home.journal.begin(cap.storage_index)
    assert record is not None
    assert home.journal.under_way() == {cap.storage_index}
    for delete in (False, True):
        assert skipped(home.gc(delete=delete)) == {claims.UPLOADING: 4}
    record.close()
    (world.folder / "uploads-l" / b32encode(cap.storage_index)).write_text("{}")
    assert home.journal.under_way() == frozenset()
    assert home.gc().shares == 4


def test_a_guard_that_is_held(world: World, home: Home, place: DirectoryCap) -> None:
    cap = home.put(1)
    assert cap.storage_index is not None
    world.later(2)
    with world.local.grid().stores[1].guard(cap.storage_index):
        done = home.gc()
    assert (done.shares, skipped(done)) == (3, {claims.CHANGING: 1})
    assert home.gc().shares == 1


class Overtaken(Writing):
    """An upload whose found shares go away right before it renews their leases."""

    __slots__ = ("throw",)

    def lease(self, si: StorageIndex, store: ShareStore) -> Lease:
        if self.throw:
            self.throw.pop()()
        return super().lease(si, store)


def overtaken(home: Home, cap: Cap) -> Writing:
    found = home.access.writing
    made = Overtaken(found.encoding, found.convergence, found.lease_secret, found.now, found.random_bytes)
    grid = home.world.local.grid()

    def throw() -> None:
        for store in grid.stores:
            assert cap.storage_index is not None
            store.trash.throw_away(cap.storage_index, range(4))

    object.__setattr__(made, "throw", [throw])
    return made


def test_an_upload_that_is_overtaken_stores_it_again(world: World, home: Home) -> None:
    cap = home.put(1)
    done = upload(home.grid, content(100, 1), overtaken(home, cap))
    assert (done.cap, len(world.trash()), len(world.shares(cap))) == (cap, 4, 4)


def test_uploads_that_are_overtaken_store_it_again(world: World, home: Home) -> None:
    cap = home.put(1)
    [done] = upload_many(home.grid, [content(100, 1)], overtaken(home, cap))
    assert (len(world.trash()), len(world.shares(cap))) == (4, 4)
    assert not isinstance(done, Exception)


class Restless(Mark):
    """Where something is new whenever one looks again."""

    home: Home
    place: DirectoryCap
    changes: int

    def again(self, *, unread: bool = False) -> bool:
        if self.changes:
            self.changes -= 1
            self.home.link(self.place, "n", LitCap(os.urandom(8)))
        return super().again(unread=unread)


def test_directories_that_never_rest(home: Home, place: DirectoryCap) -> None:
    """They are read until nothing changes; that it goes on for long is a doubt."""
    mark = Restless(home.access)
    mark.add([Root("a:", place)])
    mark.home, mark.place, mark.changes = home, place, 2
    assert doubts_at_rest(mark, 3) == []
    mark.changes = 2
    assert [each.reason for each in doubts_at_rest(mark, 2)] == ["they are being changed all the time"]


def test_a_directory_that_can_be_read_again(world: World, home: Home) -> None:
    """Somebody was writing it: what it leads to is followed then."""
    inside = home.put(1)
    outer = home.mkdir(d=home.mkdir(f=inside))
    files = {path: path.read_bytes() for path in world.shares(_child(home, outer, "d"))}
    for path in files:
        path.unlink()
    mark = Mark(home.access)
    mark.add([Root("a:", outer)])
    assert [each.path for each in mark.doubts] == ["a:d"]
    assert [each.path for each in doubts_of(mark)] == ["a:d"]
    for path, data in files.items():
        path.write_bytes(data)
    assert doubts_of(mark) == []
    assert inside.storage_index in mark.reached


# ---- failures


def test_a_server_that_dies_while_it_is_swept(world: World, home: Home) -> None:
    """The others are done, it is named, and the next run does the rest."""
    caps = [wasted(home, seed=seed) for seed in range(3)]

    def die() -> None:
        world.local.dials[1].dead = True

    done = home.gc(roots=Moments(home, {2: die}))
    assert (done.shares, done.objects) == (9, 3)
    assert {each.server for each in done.failed} == {"s1"}
    world.local.dials[1].dead = False
    home.grid = world.local.grid()
    assert home.gc().shares == 3
    assert not any(world.shares(cap) for cap in caps)


# ---- the trash


def of_day(world: World, days: float) -> None:
    """Let what lies in the trash have been thrown away so many days ago."""
    day = time.strftime("%Y-%m-%d", time.gmtime(world.now - days * DAY))
    for folder in world.local.base.glob("s?/trash/*"):
        target = folder.with_name(day)
        target.mkdir(exist_ok=True)
        for path in folder.iterdir() if folder != target else ():
            path.rename(target / path.name)
        if folder != target:
            folder.rmdir()


def test_the_trash_is_emptied_after_its_time(world: World, home: Home) -> None:
    wasted(home)
    bytes_gone = home.gc().bytes
    of_day(world, 14)
    assert home.gc().purged.shares == 0  # that day may not have been over
    of_day(world, 15.1)
    planned = home.gc(delete=False)
    assert (planned.purged.shares, planned.purged.bytes, len(world.trash())) == (4, bytes_gone, 4)
    assert home.gc(delete=False, grace=20 * DAY).purged.shares == 0
    assert home.gc().purged == planned.purged
    assert not list(world.local.base.glob("s?/trash/*"))


def test_no_grace(world: World, home: Home) -> None:
    wasted(home)
    home.gc(grace=0)
    assert len(world.trash()) == 4, "a later run removes it"
    assert home.gc(grace=0).purged.shares == 4


@pytest.mark.parametrize(
    ("day", "grace", "now", "over"),
    [
        ("1970-01-01", 0, 0, True),
        ("1970-01-01", 1, DAY, False),
        ("1970-01-01", 1, DAY + 1, True),
        ("1970-01-01", GRACE, 15 * DAY - 1, False),
        ("1970-01-01", GRACE, 15 * DAY, True),
        ("1970-02-31", 1, 1 << 40, False),
    ],
)
def test_days(day: str, grace: int, now: int, over: bool) -> None:
    assert day_over(day, grace, now) is over


def test_what_lies_there_and_is_wanted_comes_back(world: World, home: Home, place: DirectoryCap) -> None:
    """However old it is; unless a share stands in its place: then it goes in its time."""
    cap, again = home.put(1), home.put(2)
    world.later(2)
    home.gc()
    home.put(2)
    home.link(place, "x", cap)
    home.link(place, "y", again)
    of_day(world, 2)
    planned = home.gc(delete=False)
    assert (planned.restored.shares, planned.purged.shares) == (4, 0)
    of_day(world, 20)
    planned = home.gc(delete=False)
    done = home.gc()
    assert (done.restored, done.purged) == (planned.restored, planned.purged)
    assert (done.restored.shares, done.purged.shares, world.trash()) == (4, 4, [])
    assert [read(home.access, each) for each in (cap, again)] == [content(100, 1), content(100, 2)]


def test_the_trash_of_others_is_theirs(world: World, home: Home, other: Home) -> None:
    """Without our lease nothing is removed or brought back; with a live one of theirs it is not removed."""
    theirs = wasted(other, seed=2)
    other.gc()
    shared = wasted(home)
    home.gc()
    stolen = world.trash()
    of_day(world, 30)
    home.roots.append(theirs)
    assert home.gc().purged.shares == 4
    assert len(world.trash()) == len(stolen) - 4
    assert undo(home.access).objects == set()
    assert undo(other.access).objects == {theirs.storage_index}
    assert not world.shares(shared)


def test_undo(world: World, home: Home) -> None:
    """What stands in place is not touched; what was thrown away twice comes back once, as it was last."""
    slot, cap = home.mkdir("sdmf"), wasted(home)
    before = {path: path.read_bytes() for path in world.shares(cap) + world.shares(slot)}
    home.gc()
    done = undo(home.access)
    assert done.objects == {cap.storage_index, slot.storage_index}
    assert sum(amount.shares for amount in done.back.values()) == 8
    assert {path: path.read_bytes() for path in before} == before
    assert world.trash() == []
    home.gc()
    world.later(2)
    home.put(1)
    world.later(2)
    home.gc()
    assert len(world.trash()) == 12
    done = undo(home.access)
    assert sum(amount.shares for amount in done.back.values()) == 8
    assert list(done.skipped.values()) == [4]
    assert {path.stat().st_mtime for path in world.shares(cap)} == {world.now - 2 * DAY}, "the newer one"
    assert read(home.access, cap) == content(100, 1)
    assert len(world.trash()) == 4


def test_undo_with_a_silent_server(world: World, home: Home) -> None:
    cap = wasted(home)
    home.gc()
    world.local.dials[0].dead = True
    done = undo(home.access)
    assert [each.server for each in done.failed] == ["s0"]
    assert len(world.shares(cap)) == 3


# ---- after any series


ACTS = (
    *("put", "put", "put", "link", "cp", "unlink", "unlink", "unlink", "mkdir", "lend", "unpin"),
    *("wait", "wait", "gc", "gc", "undo"),
)


def _series(folder: Path, seed: int, steps: int) -> None:
    """Two homes that have the same files now and then, and rename, link, remove, collect."""
    rng = random.Random(seed)
    world = World(folder)
    homes = [Home(world), Home(world, b"o" * 32)]
    places: list[list[DirectoryCap]] = []
    names: dict[DirectoryCap, dict[str, Cap]] = {}
    pinned: list[list[tuple[Cap, int]]] = [[], []]
    for home in homes:
        first, second = home.mkdir("sdmf"), home.mkdir("sdmf")
        home.link(first, "sub", second)
        home.roots.append(first)
        places.append([first, second])
        names[first], names[second] = {"sub": second}, {}
    thrown = 0

    def entries(which: int) -> list[tuple[DirectoryCap, str, Cap]]:
        return [(d, name, cap) for d in places[which] for name, cap in names[d].items() if name != "sub"]

    def link(which: int, cap: Cap) -> None:
        directory = rng.choice(places[which])
        name = f"n{rng.randrange(8)}"
        homes[which].link(directory, name, cap)
        names[directory][name] = cap

    for step in range(steps):
        which = rng.randrange(2)
        home = homes[which]
        act = rng.choice(ACTS)
        number = rng.randrange(12)
        if act == "put":
            cap = home.put(number)
            if rng.random() < 0.3:
                home.roots.append(cap)
                pinned[which].append((cap, number))
            else:
                link(which, cap)
        elif act in ("link", "cp") and entries(which):
            link(which, rng.choice(entries(which))[2])
        elif act == "lend" and entries(1 - which):
            # what another home has stored is safe once one has renewed it
            link(which, rng.choice(entries(1 - which))[2])
            home.renew()
        elif act == "unlink" and entries(which):
            directory, name, _ = rng.choice(entries(which))
            home.link(directory, name, None)
            del names[directory][name]
        elif act == "mkdir":
            picked = rng.sample(entries(which), min(2, len(entries(which))))
            link(which, home.mkdir(f=home.put(number), **{f"c{i}": each[2] for i, each in enumerate(picked)}))
        elif act == "unpin" and pinned[which]:
            cap, _ = pinned[which].pop(rng.randrange(len(pinned[which])))
            home.roots.remove(cap)
        elif act == "wait":
            world.later(rng.choice([0.3, 1.5, 1.5, 20]))
            for each in homes:
                each.renew()
        elif act == "gc":
            if rng.random() < 0.3:
                of_day(world, rng.choice([2, 16]))
            thrown += home.gc(delete=True).shares
        elif act == "undo":
            undo(home.access)
            world.settle()
        if act in ("gc", "undo") or step % 5 == 4:
            _all_read(homes, pinned)
    assert thrown, "something was collected"
    world.local.close()


def _all_read(homes: Sequence[Home], pinned: Sequence[list[tuple[Cap, int]]]) -> None:
    known: dict[Cap, bytes] = {}
    for home, pins in zip(homes, pinned, strict=True):
        for root in home.roots:
            for visit in walk(home.access, root):
                assert visit.error is None, f"{visit.path}: {visit.error}"
                if not visit.cap.is_directory and visit.cap not in known:
                    known[visit.cap] = read(home.access, visit.cap)
                if not isinstance(visit.cap, LitCap | MutableWriteCap) and not visit.cap.mutable:
                    assert len({path.name for path in home.world.shares(visit.cap)}) == 4, visit.path
        for cap, number in pins:
            assert known[cap] == content(100, number)


@pytest.mark.parametrize("seed", [1])
def test_after_any_series_all_that_is_reached_reads(tmp_path: Path, seed: int) -> None:
    _series(tmp_path, seed, 40)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 20))
def test_after_any_long_series_all_that_is_reached_reads(tmp_path: Path, seed: int) -> None:
    _series(tmp_path, seed, 120)


def test_the_lease_of_a_share_lives_for_31_days() -> None:
    assert LEASE_SECONDS == 31 * DAY
    assert ENCODING.n == 4
