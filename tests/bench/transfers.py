"""One large file: put and get, against OpenSSH's `sftp` moving the same bytes."""

from __future__ import annotations

import filecmp
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import processes
from tests.bench.delay import delayed
from tests.bench.field import SERVERS, Field
from tests.bench.processes import Cost
from tests.bench.table import Row, median_row

PUT, PUT_AIM = 1.45, 1.3
GET, GET_AIM = 1.25, 1.0
GET_SECONDARY = 1.5
WIRE = 1.02
_NOISE = 0.15
"""CPUs that others may use during a run that counts, if enough other runs are there."""


@dataclass
class Series:
    """The costs of what is run in turns, by name."""

    rounds: list[dict[str, Cost]] = field(default_factory=list)

    def quiet(self, wanted: int) -> list[dict[str, Cost]]:
        """The `wanted` rounds in which others used least of the machine."""
        return sorted(self.rounds, key=lambda each: max(cost.others for cost in each.values()))[:wanted]

    def noise(self, wanted: int) -> float:
        return max((cost.others for each in self.quiet(wanted) for cost in each.values()), default=0.0)


def in_turns(runs: Sequence[tuple[str, Callable[[], Cost]]], wanted: int, patience: float) -> Series:
    """Run all of them `wanted` times, in turns, the order reversed every other time.

    Rounds in which others kept the machine busy are repeated, up to as many again.
    """
    series = Series()
    while len(series.rounds) < wanted or (series.noise(wanted) > _NOISE and len(series.rounds) < 2 * wanted):
        order = list(runs) if len(series.rounds) % 2 == 0 else list(reversed(runs))
        costs: dict[str, Cost] = {}
        for name, run in order:
            processes.wait_for_quiet(patience)
            costs[name] = run()
        series.rounds.append(costs)
    return series


def _row(series: Series, wanted: int, label: str, name: str, base: str, target: float, aim: float | None) -> Row:
    counted = series.quiet(wanted)
    figures = [each[name].wall for each in counted]
    client, all_ = ([_median(counted, who, part) for who in (name, base)] for part in (_client, _everyone))
    peak = max(each[name].peak for each in counted) / (1 << 20)
    note = f"CPU of the client {client[0]:.2f} s (sftp {client[1]:.2f}), with the servers {all_[0]:.2f} ({all_[1]:.2f})"
    note += f", peak RSS {peak:.0f} MiB"
    noise = series.noise(wanted)
    if noise > _NOISE:
        note += f"; noisy: others used {noise:.1f} CPUs"
    costs = [{"lafs": each[name].document(), "sftp": each[base].document()} for each in counted]
    baseline = statistics.median(each[base].wall for each in counted)
    return median_row(label, figures, "s", baseline=baseline, target=target, aim=aim, note=note, costs=costs)


def _client(cost: Cost) -> float:
    return cost.cpu


def _everyone(cost: Cost) -> float:
    return cost.cpu + cost.servers


def _median(counted: Sequence[dict[str, Cost]], name: str, part: Callable[[Cost], float]) -> float:
    return statistics.median(part(each[name]) for each in counted)


class Transfers:
    """A file of `size` bytes on its way to ten servers and back."""

    def __init__(self, ground: Field, size: int, rounds: int, patience: float) -> None:
        self._ground = ground
        self._rounds = rounds
        self._patience = patience
        self._size = size
        self._data = ground.random_file("data", size)
        ground.clear()
        _cost, answer = ground.lafs_json("put", self._data)
        self._cap: str = answer["cap"]
        self._places = ground.stored()
        assert sorted(self._places) == list(range(SERVERS)), "ten servers get a share each"
        self._ready = ground.folder / "ready"
        self._ready.mkdir()
        self._bytes = 0
        for shnum, (_, path) in self._places.items():
            shutil.copy(path, self._ready / str(shnum))
            self._bytes += path.stat().st_size

    # ---- runs

    def _sftp_put(self) -> Cost:
        self._ground.clear()
        root = self._ground.servers.root
        return self._ground.sftp(
            [(i, f"put {self._ready / str(shnum)} {root(i)}/bench/{shnum}") for shnum, (i, _) in self._places.items()]
        )

    def _lafs_put(self) -> Cost:
        self._ground.clear()
        return self._ground.lafs("put", self._data)

    def _lafs_put_alone(self) -> Cost:
        with self._ground.persisting("off"):
            return self._lafs_put()

    def _sftp_get(self) -> Cost:
        out = self._ground.fresh()
        return self._ground.sftp([(self._places[n][0], f"get {self._places[n][1]} {out}/{n}") for n in range(3)])

    def _lafs_get(self) -> Cost:
        out = self._ground.fresh()
        cost = self._ground.lafs("get", f"@{self._cap_file()}", out / "file")
        assert filecmp.cmp(out / "file", self._data, shallow=False), "get gave other bytes than were put"
        return cost

    def _lafs_get_secondary(self) -> Cost:
        """The servers of the primary shares are down: their ports refuse connections."""
        down = [self._places[n][0] for n in range(3)]
        for i in down:
            self._ground.servers.stop(i)
        try:
            return self._lafs_get()
        finally:
            for i in down:
                self._ground.servers.start(i)

    def _cap_file(self) -> Path:
        path = self._ground.folder / "cap"
        path.write_text(self._cap + "\n")
        return path

    # ---- rows

    def put(self) -> list[Row]:
        """Put against ten parallel `sftp`."""
        runs = [("sftp", self._sftp_put), ("lafs", self._lafs_put), ("alone", self._lafs_put_alone)]
        series = in_turns(runs, self._rounds, self._patience)
        label = f"put {self._size // 1_000_000} MB, 3 of 10"
        return [
            _row(series, self._rounds, label, "lafs", "sftp", PUT, PUT_AIM),
            _row(series, self._rounds, f"{label}, persist off", "alone", "sftp", PUT, PUT_AIM),
            self._wire("put", lambda: self._lafs_put(), self._bytes),
        ]

    def get(self) -> list[Row]:
        """Get against three parallel `sftp`."""
        self._lafs_put()
        runs = [("sftp", self._sftp_get), ("lafs", self._lafs_get), ("secondary", self._lafs_get_secondary)]
        series = in_turns(runs, self._rounds, self._patience)
        label = f"get {self._size // 1_000_000} MB"
        needed = sum((self._ready / str(n)).stat().st_size for n in range(3))
        return [
            _row(series, self._rounds, f"{label}, primary shares", "lafs", "sftp", GET, GET_AIM),
            _row(series, self._rounds, f"{label}, no primary share", "secondary", "sftp", GET_SECONDARY, None),
            self._wire("get", self._lafs_get, needed),
        ]

    def _wire(self, name: str, run: Callable[[], Cost], shares: int) -> Row:
        """Bytes of TCP in both directions, counted by proxies in a run that is not timed."""
        ground = self._ground
        with delayed(0.0, [ground.servers.port(i) for i in range(SERVERS)]) as proxies:
            ground.through(proxies.ports)
            try:
                run()
                ground.settle()
            finally:
                ground.direct()
        total = (proxies.sent + proxies.received) / 1e6
        return Row(f"{name}: bytes on the wire, of the shares", total, "MB", shares / 1e6, WIRE)
