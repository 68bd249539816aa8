"""gc of a home on servers that keep their trash to themselves: it gives its leases up, and the server does the rest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lafscli.formats.caps import Cap
from lafscli.health import claims
from lafscli.health.collect import Collected, undo
from lafscli.server.policy import Policy
from lafscli.storage import served as served_bodies
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid
from lafscli.tree.contents import content as read
from tests.grids import content
from tests.homes import Home, World, age
from tests.lafs_process import Lafs
from tests.served_folders import served_files
from tests.serving import ListenServers, StdioServers


def served(world: World, policies: dict[int, Policy] | None = None, plain: int | None = None) -> Grid:
    """A client of the servers of this world behind a storage server's policy, but for the one that is `plain`."""
    local = world.local
    stores = []
    for index, server in enumerate(local.servers):
        if index == plain:
            stores.append(local.grid().stores[index])
            continue
        files = served_files(local.root(index), (policies or {}).get(index), name=server.name)
        stores.append(FolderStore(server, files, random_bytes=os.urandom))
    return Grid(stores)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.local.close()


@pytest.fixture
def behind(world: World) -> Iterator[Callable[..., Grid]]:
    made: list[Grid] = []

    def reach(**how: Any) -> Grid:
        made.append(served(world, **how))
        return made[-1]

    yield reach
    for grid in made:
        grid.close()


@pytest.fixture
def home(world: World) -> Home:
    """With something that is kept."""
    made = Home(world)
    made.roots.append(made.put(1000))
    return made


def skipped(done: Collected) -> dict[str, int]:
    return dict(done.skipped)


def test_leases_are_given_up_and_the_servers_throw_the_shares_away(
    world: World, home: Home, behind: Callable[..., Grid]
) -> None:
    """Immutable and mutable; what is counted first is what goes; from then on it is the hosts'."""
    cap, directory = home.put(1), home.mkdir("sdmf")
    world.later(2)
    home.grid = behind()
    names = {f"s{i}" for i in range(4)}
    planned = home.gc(delete=False)
    assert (planned.objects, planned.shares, planned.hidden, world.trash()) == (2, 8, names, [])
    done = home.gc(grace=0)
    assert (done.objects, done.shares, done.bytes, done.hidden) == (2, 8, planned.bytes, names)
    assert (done.failed, skipped(done), done.purged.shares) == ([], {}, 0)
    assert (world.shares(cap), world.shares(directory), len(world.trash())) == ([], [], 8)
    assert read(home.access, home.roots[0]) == content(100, 1000)
    again = home.gc(grace=0)
    assert (again.shares, again.purged.shares, again.failed, len(world.trash())) == (0, 0, [], 8)
    back = undo(home.access)
    assert (back.back, back.hidden, back.failed) == ({}, names, [])


def test_leases_of_others_keep_shares(world: World, home: Home, behind: Callable[..., Grid]) -> None:
    """One that lives, and one that has ended: there is nobody but the host to take that off."""
    other = Home(world, b"o" * 32)
    lent, old = home.put(1), home.put(2)
    other.renew(old)
    world.later(30)
    other.renew(lent)
    home.renew(old, *home.roots)
    world.later(2)
    home.grid = behind()
    before = {path: path.read_bytes() for path in [*world.shares(lent), *world.shares(old)]}
    for delete in (False, True):
        done = home.gc(delete=delete)
        assert (done.shares, skipped(done)) == (0, {claims.OTHERS: 4, claims.ENDED: 4})
    assert {path: path.read_bytes() for path in before} == before
    assert read(other.access, lent) == content(100, 1)


@pytest.mark.parametrize("policy", [Policy(append_only=True), Policy(read_only=True)], ids=["append-only", "read-only"])
def test_servers_that_give_nothing_back(world: World, home: Home, behind: Callable[..., Grid], policy: Policy) -> None:
    """One that is plain is left, and its trash is as ever."""
    cap = home.put(1)
    world.later(2)
    home.grid = behind(policies=dict.fromkeys(range(4), policy), plain=2)
    before = world.shares(cap)
    for delete in (False, True):
        done = home.gc(delete=delete)
        assert (done.shares, done.hidden, done.failed) == (1, set(), [])
        assert skipped(done) == {claims.KEPT: 3}
    assert len(world.shares(cap)) == len(before) - 1
    assert [path.parents[2].name for path in world.trash()] == ["s2"]
    assert {name: amount.shares for name, amount in undo(home.access).back.items()} == {"s2": 1}
    assert world.shares(cap) == before


def test_a_policy_that_came_meanwhile(world: World, home: Home, behind: Callable[..., Grid]) -> None:
    cap = home.put(1)
    world.later(2)
    home.grid = behind(policies=dict.fromkeys(range(4), Policy(append_only=True)))
    for store in home.grid.stores:
        store.policy = lambda: None  # type: ignore[method-assign]
    done = home.gc()
    assert (done.shares, skipped(done), done.failed) == (0, {claims.KEPT: 4}, [])
    assert (len(world.shares(cap)), world.trash()) == (4, [])


def test_what_is_renewed_between_the_last_look_and_the_call_stays(
    world: World, home: Home, behind: Callable[..., Grid], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewals take no guard."""
    cap = home.put(1)
    world.later(2)
    here = home.grid
    home.grid = behind()
    plain = served_bodies.cancel_leases
    renewed: list[bool] = []

    def late(*given: Any) -> bytes:
        if not renewed:
            renewed.append(True)
            elsewhere = Home(world)
            elsewhere.grid = here
            elsewhere.renew(cap)
        return plain(*given)

    monkeypatch.setattr(served_bodies, "cancel_leases", late)
    done = home.gc()
    assert done.shares + skipped(done)[claims.RENEWED] == 4
    assert skipped(done)[claims.RENEWED] >= 1
    assert len(world.shares(cap)) == skipped(done)[claims.RENEWED]
    assert len(world.trash()) == done.shares


def test_a_name_that_is_given_while_it_goes_is_told(world: World, home: Home, behind: Callable[..., Grid]) -> None:
    place = home.mkdir("sdmf")
    home.roots.append(place)
    cap = home.put(1)
    world.later(2)
    home.grid = behind()
    asked: list[int] = []

    def roots() -> list[Cap]:
        asked.append(1)
        if len(asked) == 3:
            home.link(place, "late", cap)
        return home.roots

    done = home.gc(roots=roots)
    assert (done.shares, done.restored.shares) == (4, 0)
    assert sorted(each.server for each in done.failed) == ["s0", "s1", "s2", "s3"]
    assert all("lafs gc --host DIR --undo" in each.reason for each in done.failed)


# ---- as people run it


def test_gc_and_the_gc_of_the_host(short_tmp: Path) -> None:
    """put, rm, gc --delete by ssh; what another home leases stays; the host brings back, and empties its trash."""
    with ListenServers(short_tmp / "serving", 2) as servers:
        lafs, other = Lafs(short_tmp / "a"), Lafs(short_tmp / "b")
        for seed in range(3):
            (lafs.folder / f"f{seed}").write_bytes(content(3000, seed))
        lafs("init", "--encoding", "1/2/2", code=0)
        other("init", "--encoding", "1/2/2", code=0)
        adding = [f"server add s{i} {servers.url(i)} --option ssh-config={servers.config}" for i in range(2)]
        putting = [f"put f{seed} lafs:f{seed}" for seed in range(3)]
        done = lafs("batch", "--json", input="\n".join([*adding, "alias create lafs", *putting]).encode(), code=0)
        waste, lent = [json.loads(line)["cap"] for line in done.stdout.decode().splitlines()[-2:]]
        lafs("rm", "lafs:f1", "lafs:f2", code=0)
        shutil.copy(lafs.home / "config.toml", other.home / "config.toml")
        (other.home / "aliases").write_text(f"lent: {lent}\n")
        other("renew", code=0)
        age(servers.folder, 2)

        planned = lafs.json("gc")
        assert (planned["objects"], planned["shares"], planned["trash_of_host"]) == (1, 2, ["s0", "s1"])
        assert planned["skipped"] == [{"reason": claims.OTHERS, "count": 2}]
        done = lafs("gc", "--delete", code=0)
        assert b"the trash of s0, s1 is the host's: there lafs gc --host DIR --undo brings back" in done.stderr
        thrown = sorted(path.name for path in servers.folder.glob("root?/trash/*/*"))
        assert len(thrown) == 2
        lafs("cat", waste, code=5)
        undone = lafs.json("gc", "--undo")
        assert (undone["shares"], undone["trash_of_host"]) == (0, ["s0", "s1"])

        back = [lafs.json("gc", "--host", servers.root(i), "--undo") for i in range(2)]
        assert [(each["shares"], each["prolonged"]) for each in back] == [(1, 0)] * 2
        read = lafs("cat", "lafs:f0", waste, lent, code=0).stdout
        assert read == b"".join(content(3000, seed) for seed in range(3))
        assert other("cat", "lent:", code=0).stdout == content(3000, 2)

        assert lafs.json("gc", "--delete")["shares"] == 2
        for i in range(2):
            assert lafs.json("gc", "--host", servers.root(i), "--delete")["purged"]["shares"] == 0
            [day] = (servers.root(i) / "trash").iterdir()
            day.rename(day.with_name("2026-01-31"))
            assert lafs.json("gc", "--host", servers.root(i), "--delete")["purged"]["shares"] == 1
        assert other("cat", "lent:", code=0).stdout == content(3000, 2)
        assert lafs("cat", "lafs:f0", code=0).stdout == content(3000, 0)


@pytest.mark.parametrize("option", ["--append-only", "--read-only"])
@pytest.mark.slow
def test_servers_that_were_started_so(short_tmp: Path, option: str) -> None:
    """Nothing is lost, it is said why, and that is no failure."""
    with StdioServers(short_tmp / "serving", 1) as servers:
        lafs = Lafs(short_tmp)
        (lafs.folder / "f").write_bytes(content(3000))
        lafs("init", "--encoding", "1/1/1", code=0)
        lines = [
            f"server add s0 {servers.url(0)} --option ssh-config={servers.config} --option persist=off",
            "alias create lafs",
            "put f lafs:f",
        ]
        done = lafs("batch", "--json", input="\n".join(lines).encode(), code=0)
        cap = json.loads(done.stdout.decode().splitlines()[-1])["cap"]
        lafs("rm", "lafs:f", code=0)
        age(servers.folder, 2)
        servers.stop(0)
        servers.options = (option,)
        servers.start(0)
        for more in ([], ["--delete"]):
            found = lafs("gc", "--json", *more, code=0)
            document = json.loads(found.stdout)
            assert (document["shares"], document["failed"]) == (0, [])
            assert document["skipped"] == [{"reason": claims.KEPT, "count": 1}]
            assert f"1 share left: {claims.KEPT}" in found.stderr.decode()
        assert lafs("cat", cap, code=0).stdout == content(3000)
