"""A tree of files of all sizes: backed up, backed up again, restored, near and far; restic beside it where it is
installed."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.bench import processes
from tests.bench.delay import delayed
from tests.bench.field import SERVERS, Field
from tests.bench.processes import Cost
from tests.bench.table import Row, median_row
from tests.bench.turns import Series, client, everyone, in_turns

FILES = 5000
SIZES = ((0.9, 8 * 1024), (0.09, 100 * 1024), (0.01, 2 << 20))
FOLDERS = 100
ROUND_TRIP = 0.04
BACKUP, SECOND, RESTORE, FAR, PEAK = 2.5, 2.0, 2.0, 2.0, 200.0
_HALF = "2/3/4"


class Backups:
    """A tree, an alias to back it up to, and a repository of restic on each of three servers."""

    def __init__(self, ground: Field, count: int) -> None:
        self._ground = ground
        self._count = count
        self._tree = ground.folder / "source"
        self._ready = ground.folder / "raw"
        self._alias = 0
        self._restic = shutil.which("restic")
        self._password = ground.folder / "password"
        self._password.write_text("restic\n")
        self._grow()

    def _grow(self) -> None:
        number = 0
        for share, size in SIZES:
            for _ in range(max(1, round(share * self._count))):
                folder = self._tree / f"d{number % min(FOLDERS, self._count)}"
                folder.mkdir(parents=True, exist_ok=True)
                self._ground.random_file(str((folder / f"f{number}").relative_to(self._ground.folder)), size)
                number += 1
        self._count = number

    # ---- lafs

    def _fresh(self) -> None:
        """Servers that hold nothing, and a home that knows of nothing stored there."""
        self._ground.clear()
        shutil.rmtree(self._ground.folder / "home" / "state" / "backups", ignore_errors=True)
        self._alias += 1
        self._ground.lafs("alias", "create", f"backup{self._alias}")

    def _backup(self) -> Cost:
        self._fresh()
        return self._again(new=True)

    def _again(self, *, new: bool = False, connected: bool = False) -> Cost:
        """The files must not look as if they had changed just now; what is made is older than the servers."""
        words = ("backup", self._tree, f"backup{self._alias}:")
        cost, report = self._ground.lafs_json(*words, connected=connected)
        assert report["errors"] == [], f"not all was kept: {report}"
        expected = self._count if new else 0
        assert report["files_new"] + report["files_changed"] == expected, f"another run than was meant: {report}"
        return cost

    def _second(self) -> Cost:
        self._ground.lafs("ls", f"backup{self._alias}:", connected=True)
        return self._again(connected=True)

    def _back(self) -> Cost:
        out = self._ground.fresh()
        cost, report = self._ground.lafs_json("restore", f"backup{self._alias}:", out / "tree")
        assert (report["files"], report["errors"]) == (self._count, []), f"not all came back: {report}"
        self._compare(out / "tree")
        return cost

    def _compare(self, there: Path) -> None:
        for path in self._tree.rglob("f*"):
            assert filecmp.cmp(path, there / path.relative_to(self._tree), shallow=False), f"{path} is not the same"

    # ---- the same shares, by the raw store layer

    def _keep_shares(self) -> None:
        """What lies on the servers is what the raw layer will move."""
        shutil.rmtree(self._ready, ignore_errors=True)
        for i in range(SERVERS):
            shutil.copytree(self._ground.servers.root(i) / "shares", self._ready / self._ground.servers.name(i))

    def _raw(self) -> Cost:
        self._ground.clear()
        home = self._ground.folder / "home"
        cost = self._ground.python("-m", "tests.bench.driver", "raw", home, self._ready)
        answer = json.loads(cost.output)
        assert answer["failed"] == 0, f"not every share was stored: {answer}"
        return replace(cost, wall=float(answer["seconds"]))

    # ---- restic

    def _restic_run(self, server: int, *words: str | Path, connected: bool = False) -> Cost:
        name = self._ground.servers.name(server)
        ssh = f"ssh -F {self._ground.config} -o ControlPath=none {name} -s sftp"
        environment = self._ground.environment | {
            "RESTIC_PASSWORD_FILE": str(self._password),
            "RESTIC_CACHE_DIR": str(self._ground.folder / "restic-cache"),
        }
        root = self._ground.servers.root(server) / "bench" / "restic"
        command: list[str | Path] = [str(self._restic), "-q", "-r", f"sftp:{name}:{root}", "-o", f"sftp.command={ssh}"]
        settle = None if connected else self._ground.settle
        return processes.run(
            [[*command, *words]],
            environment=environment,
            folder=self._ground.folder,
            log=self._ground.log,
            settle=settle,
        )

    def _restic_new(self, servers: int = 1) -> None:
        shutil.rmtree(self._ground.folder / "restic-cache", ignore_errors=True)
        for server in range(servers):
            shutil.rmtree(self._ground.servers.root(server) / "bench" / "restic", ignore_errors=True)
            self._restic_run(server, "init")
        os.sync()

    def _restic_backup(self, servers: int = 1) -> Cost:
        """To one server after the other."""
        self._restic_new(servers)
        costs = [self._restic_run(server, "backup", self._tree) for server in range(servers)]
        total = costs[0]
        for cost in costs[1:]:
            total += cost
        return total

    def _restic_back(self) -> Cost:
        out = self._ground.fresh()
        cost = self._restic_run(0, "restore", "latest", "--target", out)
        self._compare(out / self._tree.relative_to("/"))
        return cost

    # ---- rows

    def rows(self, rounds: int, patience: float) -> list[Row]:
        """Backup, second run and restore; with long round trips; with fewer shares."""
        self._backup()
        self._keep_shares()
        series = in_turns(
            [("raw", self._raw), ("lafs", self._backup), *self._other("restic", self._restic_backup)], rounds, patience
        )
        rows = [_row(series, self._label("backup"), "lafs", "raw", BACKUP), *self._told(series, "backup")]
        peaks = [series.peak("lafs")]

        self._backup()
        if self._restic:
            self._restic_backup()
        runs = [("cold", self._again), ("lafs", self._second)]
        runs += self._other("restic", lambda: self._restic_run(0, "backup", self._tree))
        series = in_turns(runs, rounds, patience)
        rows.append(_row(series, "the same again, unchanged, connected", "lafs", "restic", SECOND))
        rows.append(_row(series, "the same again, unchanged, nothing connected", "cold", "restic"))
        peaks.append(series.peak("lafs"))

        series = in_turns([("lafs", self._back), *self._other("restic", self._restic_back)], rounds, patience)
        rows.append(_row(series, self._label("restore"), "lafs", "restic", RESTORE))
        peaks.append(series.peak("lafs"))

        with self._far():
            series = in_turns([("lafs", self._backup), *self._other("restic", self._restic_backup)], 1, patience)
        label = f"backup, round trips of {ROUND_TRIP * 1000:.0f} ms"
        rows.append(_row(series, label, "lafs", "restic", FAR))
        peaks.append(series.peak("lafs"))

        with self._encoding(_HALF):
            runs = [("lafs", self._backup), *self._other("restic", lambda: self._restic_backup(3))]
            series = in_turns(runs, rounds, patience)
        rows.append(_row(series, "backup, 2 of 4; restic to three in turn", "lafs", "restic", aim=1.0))
        rows.append(Row("backup and restore: peak RSS", max(peaks), "MiB", target=PEAK))
        return rows

    def _label(self, what: str) -> str:
        return f"{what} of {self._count} files, {sum(f.stat().st_size for f in self._tree.rglob('f*')) / 1e6:.0f} MB"

    def _other(self, name: str, run: Callable[[], Cost]) -> list[tuple[str, Callable[[], Cost]]]:
        return [(name, run)] if self._restic else []

    def _told(self, series: Series, what: str) -> list[Row]:
        if not self._restic:
            return []
        return [median_row(f"{what}: restic to one server", [each["restic"].wall for each in series.quiet()], "s")]

    @contextmanager
    def _far(self) -> Iterator[None]:
        ground = self._ground
        with delayed(ROUND_TRIP / 2, [ground.servers.port(i) for i in range(SERVERS)]) as proxies:
            ground.through(proxies.ports)
            try:
                yield
            finally:
                ground.settle()
                ground.direct()

    @contextmanager
    def _encoding(self, text: str) -> Iterator[None]:
        self._ground.lafs("encoding", text)
        try:
            yield
        finally:
            self._ground.lafs("encoding", "3/7/10")


def _row(
    series: Series, label: str, name: str, base: str, target: float | None = None, aim: float | None = None
) -> Row:
    """The wall time of the runs called `name`; compared with `base`, if that was run."""
    counted = series.quiet()
    there = base in counted[0]
    note = (
        f"CPU of the client {series.median(name, client):.2f} s, with the servers {series.median(name, everyone):.2f}"
    )
    if there:
        note += f" ({base} {series.median(base, client):.2f}, {series.median(base, everyone):.2f})"
    note += f", peak RSS {series.peak(name):.0f} MiB{series.noisy()}"
    baseline = series.median(base, lambda cost: cost.wall) if there else None
    figures = [each[name].wall for each in counted]
    bounds = {"target": target, "aim": aim} if there else {}
    costs = [{who: cost.document() for who, cost in each.items()} for each in counted]
    return median_row(label, figures, "s", baseline=baseline, note=note, costs=costs, **bounds)
