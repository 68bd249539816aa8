"""Check, verify and repair: many objects counted, and one large file against `sftp` moving the same bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from tests.bench.field import SERVERS, Field
from tests.bench.processes import Cost
from tests.bench.subject import Subject
from tests.bench.table import Row
from tests.bench.turns import in_turns, rate_row, seconds_row

OBJECTS, OBJECT_SIZE = 5000, 1024
RATE = 1000.0
VERIFY = 1.3
REPAIR = 1.6
LOST = (0, 4, 8)
"""Shares to be made again: one of the three that are pieces of the file, two that are not."""
PRIMARY = (0, 1, 2)
"""The worst to lose: nothing that is left is a piece of the file, all of it must be decoded."""
_READ = (1, 2, 3)
"""As many as were lost, for `sftp` to get."""


class Counting:
    """`count` small objects on the servers, their caps in the files 0, 1, … of a folder."""

    def __init__(self, ground: Field, count: int) -> None:
        self._ground = ground
        self._count = count
        self._caps = ground.folder / "caps"
        ground.clear()
        files, listed = ground.folder / "objects", ground.folder / "listed"
        files.mkdir()
        for number in range(count):
            ground.random_file(f"objects/{number}", OBJECT_SIZE)
        self._driver("many", files, listed)
        shutil.rmtree(files)
        self._listed = listed
        self._caps.mkdir()
        for number, line in enumerate(listed.read_text().splitlines()):
            (self._caps / str(number)).write_text(line + "\n")

    def _driver(self, what: str, *paths: Path) -> tuple[Cost, float]:
        cost = self._ground.python("-m", "tests.bench.driver", what, self._ground.folder / "home", *paths)
        answer = json.loads(cost.output)
        assert (answer["failed"], answer["shares"]) == (0, self._count * SERVERS), f"shares are not there: {answer}"
        return cost, float(answer["seconds"])

    def _connected(self) -> Cost:
        """Its wall time is that of the check alone."""
        cost, seconds = self._driver("check", self._listed)
        return replace(cost, wall=seconds)

    def _command(self) -> Cost:
        names = [f"@{self._caps.name}/{number}" for number in range(self._count)]
        cost = self._ground.lafs("--json", "check", *names)
        summary = json.loads(cost.output.splitlines()[-1])["summary"]
        assert summary["healthy"] == self._count, f"objects are not healthy: {summary}"
        return cost

    def rows(self, rounds: int, patience: float) -> list[Row]:
        """Objects a second: of `check_many` after connecting, and of the whole command."""
        series = in_turns([("connected", self._connected), ("command", self._command)], rounds, patience)
        label = f"check {self._count} objects of {OBJECT_SIZE // 1024} KiB"
        return [
            rate_row(series, f"{label}, connected", "connected", self._count, "objects/s", RATE),
            rate_row(series, f"{label}, the whole command", "command", self._count, "objects/s"),
        ]


class Mending:
    """The large file: every byte proved, three shares made again."""

    def __init__(self, subject: Subject, rounds: int, patience: float) -> None:
        self._subject = subject
        self._ground = subject.ground
        self._rounds = rounds
        self._patience = patience
        self._megabytes = f"{subject.size // 1_000_000} MB"

    # ---- runs

    def _sftp_get_all(self) -> Cost:
        return self._subject.sftp_get(range(SERVERS))

    def _lafs_verify(self) -> Cost:
        cost, report = self._ground.lafs_json("check", "--verify", f"@{self._subject.cap}")
        assert report["healthy"], f"the file is not healthy: {report}"
        return cost

    def _sftp_get_put(self) -> Cost:
        self._subject.restore(LOST)
        return self._subject.sftp_get(_READ) + self._subject.sftp_put(LOST)

    def _mend(self, lost: tuple[int, ...], *words: str) -> Cost:
        self._subject.restore(lost)
        cost, report = self._ground.lafs_json(*words, f"@{self._subject.cap}")
        assert report["repair"]["shares_written"] == len(lost), f"not repaired: {report}"
        self._subject.assert_whole()
        return cost

    # ---- rows

    def verify(self) -> list[Row]:
        """`check --verify` against ten parallel `sftp`."""
        self._subject.restore()
        runs = [("sftp", self._sftp_get_all), ("lafs", self._lafs_verify)]
        series = in_turns(runs, self._rounds, self._patience)
        return [seconds_row(series, f"verify {self._megabytes}, ten shares", "lafs", "sftp", VERIFY)]

    def repair(self) -> list[Row]:
        """Repair against three parallel `sftp` that get shares, then three that put them."""
        runs = [
            ("sftp", self._sftp_get_put),
            ("lafs", lambda: self._mend(LOST, "check", "--repair")),
            ("primary", lambda: self._mend(PRIMARY, "check", "--repair")),
            ("proving", lambda: self._mend(LOST, "repair")),
        ]
        series = in_turns(runs, self._rounds, self._patience)
        label = f"repair {self._megabytes}, {len(LOST)} shares lost"
        return [
            seconds_row(series, f"{label}: check --repair", "lafs", "sftp", REPAIR),
            seconds_row(series, f"{label}, all primary: check --repair", "primary", "sftp", REPAIR),
            seconds_row(series, f"{label}: repair, proves all", "proving", "sftp"),
        ]
