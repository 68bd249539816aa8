"""One large file: put and get, against OpenSSH's `sftp` moving the same bytes."""

from __future__ import annotations

import filecmp
from collections.abc import Callable

from tests.bench.delay import delayed
from tests.bench.field import SERVERS
from tests.bench.processes import Cost
from tests.bench.subject import Subject
from tests.bench.table import Row
from tests.bench.turns import in_turns, seconds_row

PUT, PUT_AIM = 1.45, 1.3
GET, GET_AIM = 1.25, 1.0
GET_SECONDARY = 1.5
WIRE = 1.02
_PRIMARY = range(3)


class Transfers:
    """The file on its way to ten servers and back."""

    def __init__(self, subject: Subject, rounds: int, patience: float) -> None:
        self._subject = subject
        self._ground = subject.ground
        self._rounds = rounds
        self._patience = patience
        self._megabytes = f"{subject.size // 1_000_000} MB"

    # ---- runs

    def _sftp_put(self) -> Cost:
        self._ground.clear()
        return self._subject.sftp_put(range(SERVERS))

    def _lafs_put(self) -> Cost:
        self._ground.clear()
        return self._ground.lafs("put", self._subject.data)

    def _lafs_put_alone(self) -> Cost:
        with self._ground.persisting("off"):
            return self._lafs_put()

    def _sftp_get(self) -> Cost:
        return self._subject.sftp_get(_PRIMARY)

    def _lafs_get(self) -> Cost:
        out = self._ground.fresh()
        cost = self._ground.lafs("get", f"@{self._subject.cap}", out / "file")
        assert filecmp.cmp(out / "file", self._subject.data, shallow=False), "get gave other bytes than were put"
        return cost

    def _lafs_get_secondary(self) -> Cost:
        """The servers of the primary shares are down: their ports refuse connections."""
        down = [self._subject.places[n][0] for n in _PRIMARY]
        for i in down:
            self._ground.servers.stop(i)
        try:
            return self._lafs_get()
        finally:
            for i in down:
                self._ground.servers.start(i)

    # ---- rows

    def put(self) -> list[Row]:
        """Put against ten parallel `sftp`."""
        runs = [("sftp", self._sftp_put), ("lafs", self._lafs_put), ("alone", self._lafs_put_alone)]
        series = in_turns(runs, self._rounds, self._patience)
        label = f"put {self._megabytes}, 3 of 10"
        return [
            seconds_row(series, label, "lafs", "sftp", PUT, PUT_AIM),
            seconds_row(series, f"{label}, persist off", "alone", "sftp", PUT, PUT_AIM),
            self._wire("put", self._lafs_put, self._subject.bytes),
        ]

    def get(self) -> list[Row]:
        """Get against three parallel `sftp`."""
        self._subject.restore()
        runs = [("sftp", self._sftp_get), ("lafs", self._lafs_get), ("secondary", self._lafs_get_secondary)]
        series = in_turns(runs, self._rounds, self._patience)
        label = f"get {self._megabytes}"
        return [
            seconds_row(series, f"{label}, primary shares", "lafs", "sftp", GET, GET_AIM),
            seconds_row(series, f"{label}, no primary share", "secondary", "sftp", GET_SECONDARY),
            self._wire("get", self._lafs_get, sum(self._subject.share_size(n) for n in _PRIMARY)),
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
