"""What the benchmark runs on: ten sshd, a home that knows them, a file, and the shares lafs made of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import processes
from tests.bench.processes import Cost
from tests.sshd import SshServers

CHECKOUT = Path(__file__).parent.parent.parent
SERVERS = 10
PLAIN_PYTHON = getattr(sys, "_base_executable", "") or sys.executable
"""Outside of the virtual environment: an editable install there would slow the start of every process."""
_SESSIONS_END = 10.0
_FOLDERS = ("shares", "staging", "trash", "quarantine", "locks", "bench")


@dataclass
class Field:
    """Ten servers s0 … s9 in one folder, and a client's home beside them.

    `config` is the ssh_config that both lafs and `sftp` use; `Ports` of a proxy may stand in it for a while.
    """

    folder: Path
    servers: SshServers
    config: Path = field(init=False)
    _name: int = 0
    _orphaned: float = 0.0

    def __post_init__(self) -> None:
        self.config = self.folder / "ssh_config"
        self.direct()
        (self.folder / "run").mkdir(mode=0o700)
        self.log = self.folder / "log"
        # a copy, so that nobody who edits meanwhile changes what is measured
        shutil.copytree(CHECKOUT / "lafscli", self.folder / "code" / "lafscli")

    # ---- ssh

    def direct(self) -> None:
        """Connections go straight to the servers."""
        self._write_config(self.servers.config.read_text())

    def through(self, ports: Sequence[int]) -> None:
        """Connections go to these local ports instead, one for each server."""
        hosts = [
            f"Host {self.servers.name(i)}\n    HostName 127.0.0.1\n    Port {port}\n"
            f"    HostKeyAlias [127.0.0.1]:{self.servers.port(i)}\n"
            for i, port in enumerate(ports)
        ]
        common = self.servers.config.read_text().partition("Host *\n")[2]
        self._write_config("".join(hosts) + "Host *\n" + common)

    def _write_config(self, text: str) -> None:
        self.config.write_text(text)
        self.config.chmod(0o600)

    def settle(self) -> float:
        """End shared connections and wait until the servers have ended their sessions: CPU seconds of the servers."""
        listeners = [self._listener(i) for i in range(SERVERS)]
        self._orphaned += processes.end_adopted(listeners)
        until = time.monotonic() + _SESSIONS_END
        for pid in listeners:
            while processes.children(pid) and time.monotonic() < until:
                time.sleep(0.002)
        self._orphaned += processes.end_adopted(listeners)
        return self._orphaned + sum(processes.cpu_with_children(pid) for pid in listeners)

    def _listener(self, i: int) -> int:
        return int((self.servers.folder / f"pid{i}").read_text())

    # ---- lafs

    @property
    def environment(self) -> dict[str, str]:
        """Of a lafs that has nothing of the caller's settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("LAFS_", "XDG_", "PYTHON"))}
        return {
            **kept,
            "HOME": str(self.folder),
            "LAFS_HOME": str(self.folder / "home"),
            "XDG_RUNTIME_DIR": str(self.folder / "run"),
            "PYTHONPATH": os.pathsep.join(map(str, (self.folder / "code", CHECKOUT, *installed()))),
        }

    def python(self, *words: str | Path, connected: bool = False) -> Cost:
        """Run `python …` with that environment; `connected` leaves the connections of earlier runs in place."""
        command = [PLAIN_PYTHON, *words]
        settle = None if connected else self.settle
        return processes.run([command], environment=self.environment, folder=self.folder, log=self.log, settle=settle)

    def lafs(self, *words: str | Path, connected: bool = False) -> Cost:
        """Run one command of the checkout's lafs, without progress."""
        return self.python("-m", "lafscli", "--no-progress", *words, connected=connected)

    def lafs_json(self, *words: str | Path, connected: bool = False) -> tuple[Cost, Any]:
        cost = self.lafs("--json", *words, connected=connected)
        return cost, json.loads(cost.output)

    def enrol(self) -> None:
        """Make the home and add the servers to it."""
        self.lafs("init")
        for i in range(SERVERS):
            self.lafs(
                *("server", "add", self.servers.name(i), self.servers.url(i)),
                *("--option", f"ssh-config={self.config}"),
                connected=True,
            )
        self.settle()

    @contextmanager
    def persisting(self, value: str) -> Iterator[None]:
        """Another `persist` in the configuration for a while."""
        config = self.folder / "home" / "config.toml"
        before = config.read_text()
        config.write_text(f'persist = "{value}"\n' + before)
        try:
            yield
        finally:
            config.write_text(before)

    # ---- OpenSSH's sftp

    def sftp(self, batches: Sequence[tuple[int, str]]) -> Cost:
        """One `sftp` a server with its line, all at once. `-f` asks for an fsync of each file, as lafs does."""
        commands: list[list[str | Path]] = [
            ["sftp", "-q", "-f", "-o", "ControlPath=none", "-F", self.config, "-b", "-", self.servers.name(i)]
            for i, _ in batches
        ]
        inputs = [f"{line}\n" for _, line in batches]
        return processes.run(commands, inputs=inputs, log=self.log, settle=self.settle)

    # ---- folders

    def clear(self) -> None:
        """Empty the servers; written data of earlier runs does not burden the next."""
        for i in range(SERVERS):
            for name in _FOLDERS:
                shutil.rmtree(self.servers.root(i) / name, ignore_errors=True)
                (self.servers.root(i) / name).mkdir(mode=0o700)
        os.sync()

    def stored(self) -> dict[int, tuple[int, Path]]:
        """Share number to server and container of the only object that is stored."""
        found = {}
        for i in range(SERVERS):
            for path in (self.servers.root(i) / "shares").glob("*/*/*"):
                found[int(path.name)] = i, path
        return found

    def fresh(self) -> Path:
        """A new empty local folder for what is fetched; the one before is removed."""
        shutil.rmtree(self.folder / f"out{self._name}", ignore_errors=True)
        self._name += 1
        made = self.folder / f"out{self._name}"
        made.mkdir()
        os.sync()
        return made

    def random_file(self, name: str, size: int) -> Path:
        """A local file that nothing compresses or knows."""
        path = self.folder / name
        with path.open("wb") as file:
            left = size
            while left > 0:
                left -= file.write(os.urandom(min(left, 1 << 20)))
        return path


def installed() -> list[str]:
    """Folders of the libraries that this environment has."""
    return [path for path in sys.path if "site-packages" in path]


@contextmanager
def laid_out(place: Path | None) -> Iterator[Field]:
    """A field in a new folder of `place`; removed at the end.

    By default in memory where there is such a file system, so that the figures are lafs' and not the disk's.
    """
    if place is None:
        memory = Path("/dev/shm")
        place = memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    processes.adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="lb-", dir=place, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with SshServers(folder / "sshd", SERVERS) as servers:
            made = Field(folder, servers)
            try:
                made.enrol()
                yield made
            finally:
                made.settle()
