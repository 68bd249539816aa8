"""Backups, retention and garbage collection of two homes on one grid: nothing that is listed is ever lost."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lafscli.backup.create import make_snapshot
from lafscli.backup.database import Database
from lafscli.backup.entries import Kept
from lafscli.backup.landing import Landing, Rights
from lafscli.backup.restore import Restoring, restore
from lafscli.backup.retention import Rules, decide, remove
from lafscli.backup.runs import Settings
from lafscli.backup.selecting import Selecting
from lafscli.backup.snapshots import LATEST, Snapshot, archives, publish, snapshots
from lafscli.formats.caps import Cap, DirectoryCap, LitCap
from lafscli.tree.contents import content as content_of
from lafscli.tree.directory import load
from tests.grids import content
from tests.homes import Home, World
from tests.trees import described

ACTS = (
    *("change", "change", "backup", "backup", "backup", "put", "unpin", "forget", "forget"),
    *("wait", "wait", "gc", "gc", "lose the database"),
)


@dataclass
class Keeper:
    """A home that backs a folder up. `kept`: what the folder looked like, by the name of the snapshot."""

    home: Home
    source: Path
    target: DirectoryCap
    database: Database
    kept: dict[str, dict[bytes, tuple[object, ...]]] = field(default_factory=dict)
    put: list[tuple[Cap, int]] = field(default_factory=list)

    def backup(self, confirm: str) -> None:
        access = self.home.access
        given = Settings(now_ns=lambda: time.time_ns() + 3600 * 10**9, confirm=confirm)  # type: ignore[arg-type]
        cap, tally = make_snapshot(access, self.database, os.fsencode(self.source), given)
        assert not tally.errors
        world = self.home.world

        def sleep(seconds: float) -> None:
            world.now += int(seconds)

        into = archives(access, self.target, make=True)
        name = publish(access, self.target, into, cap, lambda: world.now, sleep)
        self.kept[name] = described(self.source)
        world.settle()

    def forget(self, rules: Rules) -> None:
        access = self.home.access
        decisions = decide(snapshots(access, self.target), rules, self.home.world.now)
        gone = [each.snapshot for each in decisions if not each.reasons]
        if gone:
            remove(access, self.target, gone, [each.snapshot for each in decisions if each.reasons])
            self.home.world.settle()
        for each in gone:
            del self.kept[each.name]

    def all_there(self, folder: Path) -> None:
        """Every snapshot that is listed is what it was, and what was put is there."""
        access = self.home.access
        listed = snapshots(access, self.target) if self.kept else []
        assert {each.name for each in listed} == self.kept.keys()
        for number, each in enumerate(listed):
            out = folder / str(number)
            out.mkdir(parents=True)
            assert isinstance(each.cap, DirectoryCap)
            with Landing(str(out), Rights(os.geteuid() == 0)) as landing:
                done = restore(access, each.cap, Kept(), landing, Restoring(Selecting()))
            assert not done.errors, f"{each.name}: {[str(trouble.error) for trouble in done.errors]}"
            assert described(out) == self.kept[each.name]
        if listed:
            assert load(access, self.target).table.child(LATEST).cap in {each.cap for each in listed}
        for cap, seed in self.put:
            assert content_of(access, cap) == content(300, seed)


def _change(rng: random.Random, source: Path) -> None:
    folder = source / f"d{rng.randrange(3)}"
    folder.mkdir(exist_ok=True)
    path = folder / f"f{rng.randrange(4)}"
    if path.exists() and rng.random() < 0.3:
        path.unlink()
    else:
        path.write_bytes(content(rng.choice([40, 500, 500, 3000]), rng.randrange(6)))


def _series(folder: Path, seed: int, steps: int) -> None:
    rng = random.Random(seed)
    world = World(folder)
    keepers: list[Keeper] = []
    for number, secret in enumerate((b"l" * 32, b"o" * 32)):
        home = Home(world, secret)
        source = folder / f"source{number}"
        source.mkdir()
        _change(rng, source)
        target = home.mkdir("sdmf")
        home.roots.append(target)
        keepers.append(Keeper(home, source, target, Database(folder / f"{number}.sqlite")))
    thrown = 0
    for step in range(steps):
        keeper = rng.choice(keepers)
        act = rng.choice(ACTS)
        if act == "change":
            for _ in range(3):
                _change(rng, keeper.source)
        elif act == "backup":
            keeper.backup(rng.choice(["quick", "full"]))
        elif act == "put":
            seed_of_it = rng.randrange(6)
            cap = keeper.home.put(seed_of_it, 300)
            keeper.home.roots.append(cap)
            keeper.put.append((cap, seed_of_it))
        elif act == "unpin" and keeper.put:
            cap, _ = keeper.put.pop(rng.randrange(len(keeper.put)))
            keeper.home.roots.remove(cap)
        elif act == "forget" and keeper.kept:
            keeper.forget(rng.choice([Rules(last=1), Rules(last=2), Rules(daily=2), Rules(within=2 * 24 * 3600.0)]))
        elif act == "wait":
            world.later(rng.choice([0.3, 1.5, 1.5, 20]))
            for each in keepers:
                each.home.renew()
        elif act == "gc":
            thrown += keeper.home.gc(delete=True).shares
        elif act == "lose the database":
            keeper.database.close()
            path = folder / f"{keepers.index(keeper)}.sqlite"
            with suppress(FileNotFoundError):
                path.unlink()
            keeper.database = Database(path)
        if act in ("gc", "forget") or step == steps - 1:
            for number, each in enumerate(keepers):
                each.all_there(folder / f"out{step}.{number}")
    assert thrown, "something was collected"
    for each in keepers:
        each.database.close()
    world.local.close()


@pytest.mark.parametrize("seed", [6])
def test_every_snapshot_that_is_listed_restores(tmp_path: Path, seed: int) -> None:
    _series(tmp_path, seed, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 16))
def test_every_snapshot_that_is_listed_restores_after_long(tmp_path: Path, seed: int) -> None:
    _series(tmp_path, seed, 120)


def test_within_counts_from_the_newest() -> None:
    """Where backups have failed for longer than that, nothing goes."""
    days = [Snapshot(f"s{day}", day * 86400, DirectoryCap(LitCap(b""))) for day in range(10)]
    rules = Rules(within=2 * 86400.0)
    for now in (9 * 86400, 400 * 86400):
        assert [each.snapshot.name for each in decide(days, rules, now) if each.reasons] == ["s7", "s8", "s9"]
