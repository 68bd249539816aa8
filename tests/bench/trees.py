"""Directories: one child added to a large one, near and far; a tree copied to the grid and back, and checked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

from tests.bench.delay import delayed
from tests.bench.field import SERVERS, Field
from tests.bench.processes import Cost
from tests.bench.small import ROUND_TRIP
from tests.bench.table import Row, median_row
from tests.bench.turns import in_turns, rate_row

ENTRIES = 1000
EDITS = 5
TRIPS, TRIPS_AIM = 8.0, 6.0
SECONDS = 0.5
FILES, FOLDERS, FILE_SIZE = 1000, 50, 10 * 1024
RATE_TO, RATE_BACK, RATE_CHECK = 150.0, 250.0, 1000.0


class Editing:
    """A directory with many entries on the servers."""

    def __init__(self, ground: Field, entries: int) -> None:
        self._ground = ground
        self._entries = entries
        self._cap = ground.folder / "directory"
        ground.clear()
        self._driver("directory", entries)

    def _driver(self, what: str, number: int) -> list[float]:
        words = ("-m", "tests.bench.driver", what, self._ground.folder / "home", self._cap, str(number))
        seconds = json.loads(self._ground.python(*words).output)["seconds"]
        return list(seconds) if isinstance(seconds, list) else [seconds]

    def _far(self, edits: int) -> tuple[list[float], list[int]]:
        """Seconds of each edit with long round trips, and how many round trips each server saw."""
        with delayed(ROUND_TRIP / 2, [self._ground.servers.port(i) for i in range(SERVERS)]) as proxies:
            self._ground.through(proxies.ports)
            try:
                seconds = self._driver("edit", edits)
            finally:
                self._ground.settle()
                self._ground.direct()
        return seconds, proxies.trips

    def rows(self, rounds: int) -> list[Row]:
        """Seconds near and far, and the round trips of one edit: what more of them take than fewer."""
        near: list[float] = []
        far: list[float] = []
        trips: list[float] = []
        for _ in range(rounds):
            near += self._driver("edit", EDITS)
            _, few = self._far(1)
            seconds, many = self._far(1 + EDITS)
            far += seconds
            trips.append(max((b - a) / EDITS for a, b in zip(few, many, strict=True)))
        label = f"add one child to {self._entries}"
        return [
            median_row(label, near, "s"),
            median_row(f"{label}, round trips of {ROUND_TRIP * 1000:.0f} ms", far, "s", target=SECONDS),
            median_row(f"{label}, round trips of a server", trips, "", target=TRIPS, aim=TRIPS_AIM),
        ]


class Trees:
    """A tree of small files: here, and on the servers."""

    def __init__(self, ground: Field, count: int) -> None:
        self._ground = ground
        self._count = count
        self._folders = min(FOLDERS, count)
        self._tree = ground.folder / "tree"
        self._back = ground.folder / "back"
        self._alias = 0

    def _fresh(self) -> None:
        """Other files each time: the same ones would be found on the servers."""
        shutil.rmtree(self._tree, ignore_errors=True)
        for number in range(self._count):
            name = f"tree/d{number % self._folders}/f{number}"
            (self._ground.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._ground.random_file(name, FILE_SIZE)

    def _to(self) -> Cost:
        self._ground.clear()
        self._fresh()
        self._alias += 1
        self._ground.lafs("alias", "create", f"tree{self._alias}")
        cost, report = self._ground.lafs_json("cp", "-r", self._tree, f"tree{self._alias}:")
        assert (report["copied"], report["errors"]) == (self._count, []), f"not all was copied: {report}"
        return cost

    def _from(self) -> Cost:
        shutil.rmtree(self._back, ignore_errors=True)
        cost, report = self._ground.lafs_json("cp", "-r", f"tree{self._alias}:tree", self._back)
        assert (report["copied"], report["errors"]) == (self._count, []), f"not all was copied: {report}"
        for path in self._tree.rglob("f*"):
            assert (self._back / path.relative_to(self._tree)).read_bytes() == path.read_bytes(), (
                f"{path} is not the same"
            )
        return cost

    def _check(self) -> Cost:
        """Its wall time is that of the check alone, after connecting."""
        words = ("-m", "tests.bench.driver", "tree", self._ground.folder / "home", f"tree{self._alias}")
        cost = self._ground.python(*words)
        answer = json.loads(cost.output)
        assert (answer["objects"], answer["failed"]) == (self._objects, 0), f"not all is healthy: {answer}"
        return replace(cost, wall=float(answer["seconds"]))

    @property
    def _objects(self) -> int:
        return self._count + self._folders + 2

    def rows(self, rounds: int, patience: float) -> list[Row]:
        """Files a second to the grid and back by `cp -r`, the whole command; objects a second by `check -r`."""
        series = in_turns([("to", self._to), ("from", self._from), ("check", self._check)], rounds, patience)
        label = f"{self._count} files of {FILE_SIZE // 1024} KiB in {self._folders} directories"
        return [
            rate_row(series, f"cp -r {label} to the grid", "to", self._count, "files/s", RATE_TO),
            rate_row(series, f"cp -r {label} back", "from", self._count, "files/s", RATE_BACK),
            rate_row(series, f"check -r {label}, connected", "check", self._objects, "objects/s", RATE_CHECK),
        ]
