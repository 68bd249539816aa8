"""One large file by OpenSSH's `sftp`: through a server of ours, under sshd and by itself, and through internal-sftp."""

from __future__ import annotations

import filecmp
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import processes
from tests.bench.field import CHECKOUT, PLAIN_PYTHON, installed
from tests.bench.processes import Cost
from tests.bench.table import Row, median_row
from tests.bench.turns import Series, everyone, in_turns
from tests.serving import ListenServers
from tests.sshd import SshServers

OURS, OWN, THEIRS = "ours", "listen", "internal-sftp"
LEAST = {OURS: 0.7, OWN: 0.4}
_SHARE = f"{'a' * 26}.0.{'q' * 26}"
"""The name of a share in staging/."""
_SESSIONS_END = 10.0


class Served:
    """Two sshd: one with internal-sftp, one with a command of ours as its subsystem; and `lafs serve --listen`, unless
    the command is another one. Each has a folder.

    In `command`, `{root}` is that folder. By default it is `lafs serve --stdio`, or the bare engine on the folder
    where there is no such command.
    """

    def __init__(self, folder: Path, size: int, servers: dict[str, SshServers | ListenServers], code: str) -> None:
        self._folder = folder
        self._servers = servers
        self._size = size
        self.code = code
        self._data = folder / "data"
        with self._data.open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - start)))
        self._out = folder / "out"
        self._orphaned = 0.0

    def rows(self, rounds: int, patience: float) -> list[Row]:
        """Up and down."""
        rows = []
        for what, act in (("put", self._put), ("get", self._get)):
            runs = [(name, lambda name=name, act=act: act(name)) for name in self._servers]
            series = in_turns(runs, rounds, patience)
            for name in self._servers:
                if name != THEIRS:
                    label = f"sftp {what} {self._size / 1e6:.0f} MB{', --listen' if name == OWN else ''}"
                    rows.append(self._row(label, name, series))
        return rows

    def _row(self, label: str, ours: str, series: Series) -> Row:
        counted = series.quiet()
        rates = [self._size / 1e6 / each[ours].wall for each in counted]
        baseline = series.median(THEIRS, lambda cost: self._size / 1e6 / cost.wall)
        cpu = [series.median(name, everyone) for name in (ours, THEIRS)]
        servers = [series.median(name, lambda cost: cost.servers) for name in (ours, THEIRS)]
        note = f"CPU of all {cpu[0]:.2f} s ({cpu[1]:.2f}), of the servers {servers[0]:.2f} ({servers[1]:.2f})"
        note += f"; {self.code if ours == OURS else 'lafs serve --listen'}{series.noisy()}"
        costs = [{name: cost.document() for name, cost in each.items()} for each in counted]
        return median_row(
            label, rates, "MB/s", baseline=baseline, target=LEAST[ours], at_least=True, note=note, costs=costs
        )

    def _stored(self, name: str) -> Path:
        return self._servers[name].root(0) / "staging" / _SHARE

    def _put(self, name: str) -> Cost:
        self._stored(name).unlink(missing_ok=True)
        cost = self._sftp(name, f"put {self._data} {self._stored(name)}")
        self._assert_same(self._stored(name))
        return cost

    def _get(self, name: str) -> Cost:
        if not self._stored(name).exists():
            shutil.copy(self._data, self._stored(name))
        self._out.unlink(missing_ok=True)
        cost = self._sftp(name, f"get {self._stored(name)} {self._out}")
        self._assert_same(self._out)
        return cost

    def _assert_same(self, path: Path) -> None:
        assert filecmp.cmp(path, self._data, shallow=False), "other bytes arrived than were sent"

    def _sftp(self, name: str, line: str) -> Cost:
        config = self._servers[name].config
        command: list[str | Path] = ["sftp", "-q", "-o", "ControlPath=none", "-F", config, "-b", "-", "s0"]
        return processes.run([command], inputs=[f"{line}\n"], log=self._folder / "log", settle=self._settle)

    def _settle(self) -> float:
        """Wait until both servers have ended their sessions: their CPU seconds."""
        listeners = [int((each.folder / "pid0").read_text()) for each in self._servers.values()]
        until = time.monotonic() + _SESSIONS_END
        while any(processes.children(pid) for pid in listeners) and time.monotonic() < until:
            time.sleep(0.002)
        self._orphaned += processes.end_adopted(listeners)
        return self._orphaned + sum(processes.cpu_with_children(pid) for pid in listeners)


def _default_command(environment: dict[str, str]) -> str:
    known = subprocess.run(
        [PLAIN_PYTHON, "-m", "lafscli", "serve", "--help"], env={**os.environ, **environment}, capture_output=True
    )
    if known.returncode:
        return f"{shlex.quote(PLAIN_PYTHON)} -m tests.plain_backend {{root}}"
    return f"{shlex.quote(PLAIN_PYTHON)} -m lafscli serve --stdio --root {{root}}"


@contextmanager
def laid_out(place: Path | None, size: int, command: str | None) -> Iterator[Served]:
    """Both servers, in a new folder of `place`; by default in memory, if that can be."""
    if place is None:
        memory = Path("/dev/shm")
        place = memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    processes.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="lb-", dir=place, ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        shutil.copytree(CHECKOUT / "lafscli", folder / "code" / "lafscli")
        path = os.pathsep.join(map(str, (folder / "code", CHECKOUT, *installed())))
        environment = {"PYTHONPATH": path, "LAFS_HOME": str(folder / "home")}
        wanted = command or _default_command(environment)
        filled = wanted.replace("{root}", shlex.quote(str(folder / OURS / "root0")))
        words = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
        servers: dict[str, SshServers | ListenServers] = {}
        for label, subsystem in ((THEIRS, "internal-sftp"), (OURS, f"env {words} {filled}")):
            made = SshServers(folder / label, 1, subsystem=subsystem)
            servers[label] = stack.enter_context(made)
            made.config.chmod(0o600)
            (made.root(0) / "staging").mkdir(mode=0o700)
        if "serve --stdio" in wanted:
            servers[OWN] = stack.enter_context(ListenServers(folder / OWN))
        shown = wanted.replace(PLAIN_PYTHON, Path(sys.executable).name)
        yield Served(folder, size, servers, shown)
