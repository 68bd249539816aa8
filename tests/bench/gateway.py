"""What goes through `lafs gateway http`, against the command line on the same ten servers."""

from __future__ import annotations

import filecmp
import http.client
import json
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tests.bench import processes
from tests.bench.field import PLAIN_PYTHON, SERVERS, Field
from tests.bench.processes import Cost
from tests.bench.subject import Subject
from tests.bench.table import Row, median_row
from tests.bench.turns import Series, client, everyone, in_turns

RATE = 0.8
SMALL_RATE, SMALL_SIZE, APART = 5.0, 10 * 1024, 20
ENTRIES, LISTED, LISTINGS = 5000, 0.5, 5
PEAK = 200.0
_PIECE = 1 << 20
_ENDS = 20.0


@dataclass(frozen=True)
class Served:
    """A gateway that runs: `pid`, and the port on 127.0.0.1."""

    pid: int
    port: int

    def ask(self, method: str, target: str, body: Path | None = None, into: Path | None = None) -> bytes:
        """One request on a connection of its own; the body is sent by the kernel. The answer, or what it told when it
        goes to a file: nothing."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            connection.putheader("Content-Length", str(0 if body is None else body.stat().st_size))
            connection.endheaders()
            if body is not None:
                with body.open("rb") as file:
                    connection.sock.sendfile(file)
            response = connection.getresponse()
            answer = response.read() if into is None else _received(response, into)
            assert response.status in (200, 201), f"{response.status}: {answer[:200]!r}"
            return answer
        finally:
            connection.close()

    def cpu(self) -> float:
        """CPU seconds of the gateway and the ssh that it started."""
        return _family_cpu(self.pid)

    def peak(self) -> int:
        """Bytes of its largest size so far."""
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        return int(found[1]) * 1024 if found else 0


def _received(response: http.client.HTTPResponse, into: Path) -> bytes:
    room = memoryview(bytearray(_PIECE))
    with into.open("wb", buffering=0) as file:
        while count := response.readinto(room):
            file.write(room[:count])
    return b""


def _family_cpu(pid: int) -> float:
    return processes.cpu_with_children(pid) + sum(map(_family_cpu, processes.children(pid)))


@contextmanager
def served(ground: Field) -> Iterator[Served]:
    """`lafs gateway http` on a port of its own, connected to all servers."""
    words = ("-m", "lafscli", "--json", "gateway", "http", "--listen", "127.0.0.1:0")
    with ground.log.with_suffix(".gateway").open("wb") as log:
        process = subprocess.Popen(
            [PLAIN_PYTHON, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=ground.environment,
            cwd=ground.folder,
        )
    try:
        assert process.stdout is not None
        [address] = json.loads(process.stdout.readline())["listening"]
        made = Served(process.pid, int(address.rpartition(":")[2]))
        made.ask("POST", "/uri?t=mkdir")  # every server is asked
        yield made
    finally:
        process.terminate()
        process.wait(_ENDS)
        ground.settle()


class Through:
    """One large file, many small ones and a large directory, by the gateway and by commands."""

    def __init__(self, subject: Subject, gateway: Served, rounds: int, patience: float) -> None:
        self._subject = subject
        self._ground = subject.ground
        self._gateway = gateway
        self._rounds = rounds
        self._patience = patience
        self._cap = f"/uri/{quote(subject.cap.read_text().strip(), safe='')}"

    # ---- runs

    def _measured(self, act: Callable[[], object]) -> Cost:
        """What `act` costs this process, the gateway and the servers."""
        listeners = [int((self._ground.servers.folder / f"pid{i}").read_text()) for i in range(SERVERS)]

        def spent() -> tuple[float, float, float]:
            mine = sum(os.times()[:2]) + self._gateway.cpu()
            return mine, sum(map(_family_cpu, listeners)), processes.busy()

        before, began = spent(), time.perf_counter()
        act()
        wall = time.perf_counter() - began
        cpu, servers, busy = (b - a for a, b in zip(before, spent(), strict=True))
        return Cost(wall, cpu, servers, self._gateway.peak(), max(0.0, busy - cpu - servers) / wall)

    def _emptied(self) -> None:
        """Remove the shares, and no folder: the gateway knows which ones it has made."""
        for _, path in self._ground.stored().values():
            path.unlink()
        os.sync()

    def _put(self) -> Cost:
        self._emptied()
        cost = self._measured(lambda: self._gateway.ask("PUT", "/uri", self._subject.data))
        assert sorted(self._ground.stored()) == sorted(self._subject.places), "not every share was stored"
        return cost

    def _command_put(self) -> Cost:
        self._emptied()
        return self._ground.lafs("put", self._subject.data, connected=True)

    def _get(self) -> Cost:
        out = self._ground.fresh() / "file"
        cost = self._measured(lambda: self._gateway.ask("GET", self._cap, into=out))
        assert filecmp.cmp(out, self._subject.data, shallow=False), "the gateway gave other bytes than were put"
        return cost

    def _command_get(self) -> Cost:
        out = self._ground.fresh() / "file"
        return self._ground.lafs("get", f"@{self._subject.cap}", out, connected=True)

    # ---- rows

    def large(self) -> list[Row]:
        """Put and get of the large file: MB a second, compared with those of the command."""
        size = self._subject.size / 1e6
        rows = []
        for what, ours, theirs in (("PUT", self._put, self._command_put), ("GET", self._get, self._command_get)):
            series = in_turns([("gateway", ours), ("lafs", theirs)], self._rounds, self._patience)
            rates = [size / each["gateway"].wall for each in series.quiet()]
            baseline = series.median("lafs", lambda cost: size / cost.wall)
            rows.append(
                median_row(
                    f"gateway: {what} {size:.0f} MB",
                    rates,
                    "MB/s",
                    baseline=baseline,
                    target=RATE,
                    at_least=True,
                    note=_note(series),
                    costs=[{name: cost.document() for name, cost in each.items()} for each in series.quiet()],
                )
            )
        return rows

    def small(self, count: int) -> Row:
        """Small GETs on one connection, one after the other, compared with as many commands within `persist`."""
        ground = self._ground
        (ground.folder / "gets").mkdir(exist_ok=True)
        for number in range(count):
            ground.random_file(f"gets/{number}", SMALL_SIZE)
        listed = ground.folder / "gets.caps"
        ground.python("-m", "tests.bench.driver", "many", ground.folder / "home", ground.folder / "gets", listed)
        caps = listed.read_text().split()
        contents = {path.read_bytes() for path in (ground.folder / "gets").iterdir()}
        rates = [count / self._measured(lambda: self._many(caps, contents)).wall for _ in range(self._rounds)]
        apart = []
        for cap in caps[:APART]:
            (ground.folder / "one").write_text(f"{cap}\n")
            apart.append(ground.lafs("get", f"@{ground.folder / 'one'}", ground.fresh() / "file", connected=True).wall)
        baseline = 1 / statistics.median(apart)
        label = f"gateway: {count} GETs of {SMALL_SIZE // 1024} KiB"
        return median_row(label, rates, "/s", baseline=baseline, target=SMALL_RATE, at_least=True)

    def _many(self, caps: list[str], contents: set[bytes]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._gateway.port, timeout=60)
        left = set(contents)
        for cap in caps:
            connection.request("GET", f"/uri/{quote(cap, safe='')}")
            left.discard(connection.getresponse().read())
        connection.close()
        assert not left, f"{len(left)} files were not what was put"

    def listing(self, entries: int) -> list[Row]:
        """A directory as JSON: the first time, and again."""
        ground = self._ground
        written = ground.folder / "large directory"
        ground.python("-m", "tests.bench.driver", "directory", ground.folder / "home", written, str(entries))
        target = f"/uri/{quote(written.read_text().strip(), safe='')}?t=json"
        seconds = []
        for _ in range(1 + LISTINGS):
            began = time.perf_counter()
            answer = self._gateway.ask("GET", target)
            seconds.append(time.perf_counter() - began)
            assert len(json.loads(answer)[1]["children"]) == entries
        label = f"gateway: directory of {entries} as JSON"
        return [Row(f"{label}, cold", seconds[0], "s"), median_row(f"{label}, warm", seconds[1:], "s", target=LISTED)]

    def peak(self) -> Row:
        """Of the gateway, in all that was measured."""
        return Row("gateway: peak RSS", self._gateway.peak() / (1 << 20), "MiB", target=PEAK)


def _note(series: Series) -> str:
    mine, theirs = ([series.median(name, part) for part in (client, everyone)] for name in ("gateway", "lafs"))
    note = f"CPU of both ends of HTTP {mine[0]:.2f} s (lafs {theirs[0]:.2f})"
    return f"{note}, with the servers {mine[1]:.2f}; peak RSS {series.peak('gateway'):.0f} MiB{series.noisy()}"


def rows(subject: Subject, rounds: int, patience: float, *, files: int, entries: int) -> list[Row]:
    """All of them, by one gateway."""
    with served(subject.ground) as gateway:
        through = Through(subject, gateway, rounds, patience)
        return [*through.large(), through.small(files), *through.listing(entries), through.peak()]
