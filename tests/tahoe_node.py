"""A real Tahoe-LAFS grid without introducer on 127.0.0.1, for tests: a black box, in an environment of its own.

with TahoeGrid(tahoe_command(), folder, servers=3) as grid:
    gateway = grid.gateway(Encoding(3, 1, 10))
    cap = gateway.put(b"…")
    grid.nodes[0].storage                            # what `lafs server add` takes: it contains shares/
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import pytest

from lafscli.placement import Encoding

RELEASE = "tahoe-lafs==1.20.0"  # what spec 09 was tried on
_STARTUP = 90.0
_POLL = 0.02
_ANSWER = 120.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NoTahoe(Exception):
    """Tahoe-LAFS can't be installed here; the message says why."""


def tahoe_command() -> Path:
    """The `tahoe` program. Its virtual environment is made on first use and kept in `.tox/tahoe` of the checkout, or
    where LAFS_TEST_TAHOE says."""
    kept = os.environ.get("LAFS_TEST_TAHOE")
    folder = Path(kept).expanduser() if kept else Path(__file__).parent.parent / ".tox" / "tahoe"
    command, complete = folder / "bin" / "tahoe", folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes make it once
        if not complete.exists() or complete.read_text() != RELEASE:
            shutil.rmtree(folder, ignore_errors=True)
            _install([sys.executable, "-m", "venv", str(folder)])
            _install([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--retries", "1", RELEASE])
            _install([str(command), "--version"])
            complete.write_text(RELEASE)
    return command


def needed_tahoe() -> Path:
    """The command, for tests that need it: where Tahoe can't be installed they are skipped, in CI they fail."""
    try:
        return tahoe_command()
    except NoTahoe as error:
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(str(error))
        pytest.skip(str(error))


def _install(step: list[str]) -> None:
    try:
        done = subprocess.run(step, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoTahoe(f"{RELEASE} can't be installed: {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or done.stdout.strip().splitlines() or ["no reason given"]
        raise NoTahoe(f"{RELEASE} can't be installed: {lines[-1]}")


class Node:
    """One node: a folder with `tahoe.cfg`, and while it runs a process, which ends when this process does."""

    def __init__(self, command: Path, folder: Path, configuration: str) -> None:
        self.command = command
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "private").mkdir(mode=0o700, parents=True)
        (folder / "tahoe-client.tac").touch()  # tells the program what kind of node it is
        (folder / "tahoe.cfg").write_text(configuration)

    def start(self) -> None:
        """Start it; does not wait."""
        (self.folder / "node.url").unlink(missing_ok=True)
        with (self.folder / "output").open("wb") as output:
            # the node ends when its stdin is closed, so none is left when the tests are killed
            self._process = subprocess.Popen(
                [self.command, "run", self.folder],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )

    def wait(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` says so; an error with what the node wrote when it ends before."""
        deadline = time.monotonic() + _STARTUP
        while not ready():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the node in {self.folder.name} does not start:\n{self._written()}")
            time.sleep(_POLL)

    def _written(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-4000:]

    def stop(self) -> None:
        """Stop it and wait for its end."""
        stop_all([self])

    def read(self, name: str) -> str:
        """A file of the node that holds one line."""
        return (self.folder / name).read_text().strip()


def stop_all(nodes: Iterable[Node]) -> None:
    """Stop nodes, all at once, and wait for their end."""
    doomed = [process for node in nodes if (process := node._process) is not None]
    for process in doomed:
        process.terminate()
    for process in doomed:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


class StorageNode(Node):
    """A storage server; `storage_dir` is its folder `storage` unless it is given."""

    def __init__(self, command: Path, folder: Path, storage_dir: Path | None = None) -> None:
        self.port = _free_port()
        self.storage = storage_dir or folder / "storage"
        lines = [
            "[node]",
            f"nickname = {folder.name}",
            "web.port =",
            f"tub.port = tcp:{self.port}:interface=127.0.0.1",
            f"tub.location = tcp:127.0.0.1:{self.port}",
            "[storage]",
            "enabled = true",
            f"storage_dir = {self.storage}",
        ]
        super().__init__(command, folder, "\n".join(lines) + "\n")

    def wait_until_ready(self) -> None:
        self.wait(self._listening)

    def _listening(self) -> bool:
        if not all((self.folder / name).exists() for name in ("private/storage.furl", "node.pubkey")):
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def server_id(self) -> str:
        """What Tahoe calls it in its reports: `v0-` and 52 letters."""
        return self.read("node.pubkey").removeprefix("pub-")

    def announcement(self) -> dict[str, str]:
        """What clients must know, in the words of `private/servers.yaml`."""
        return {
            "nickname": self.folder.name,
            "anonymous-storage-FURL": self.read("private/storage.furl"),
            "permutation-seed-base32": self.read("permutation-seed"),
        }

    def shares(self) -> dict[str, Path]:
        """Every share there is: `SI/number` to its file."""
        found = (self.storage / "shares").glob("[a-z2-7][a-z2-7]/*/*")
        return {f"{path.parent.name}/{path.name}": path for path in found}


class Gateway(Node):
    """A client of storage nodes, which must run; it answers over HTTP on 127.0.0.1, and to Tahoe's command line."""

    def __init__(
        self, command: Path, folder: Path, servers: Sequence[StorageNode], encoding: Encoding, secrets: dict[str, str]
    ) -> None:
        self.encoding = encoding
        self._count = len(servers)
        lines = [
            "[node]",
            f"nickname = {folder.name}",
            "web.port = tcp:0:interface=127.0.0.1",
            "tub.port = disabled",
            "tub.location = disabled",
            "[client]",
            f"shares.needed = {encoding.k}",
            f"shares.happy = {encoding.happy}",
            f"shares.total = {encoding.n}",
            f"shares._max_immutable_segment_size_for_testing = {encoding.segment_size}",
            "[storage]",
            "enabled = false",
        ]
        super().__init__(command, folder, "\n".join(lines) + "\n")
        for name, secret in secrets.items():
            (folder / "private" / name).write_text(secret + "\n")
        table = {"storage": {node.server_id: {"ann": node.announcement()} for node in servers}}
        (folder / "private" / "servers.yaml").write_text(json.dumps(table))  # YAML takes JSON

    def wait_until_ready(self) -> None:
        self.wait((self.folder / "node.url").exists)
        self.wait(self._connected)

    def _connected(self) -> bool:
        try:
            welcome = json.loads(self._ask("GET", "?t=json"))
        except OSError:
            return False
        states: list[str] = [each["connection_status"] for each in welcome["servers"]]
        return sum(state.startswith("Connected to") for state in states) == self._count

    def _ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        request = urllib.request.Request(self.read("node.url") + path, body, headers, method=method)
        with _DIRECT.open(request, timeout=_ANSWER) as response:
            answer: bytes = response.read()
        return answer

    def put(self, content: bytes) -> str:
        """Store an immutable file; its read cap."""
        return self._ask("PUT", "uri", content).decode("ascii")

    def put_mutable(self, content: bytes) -> str:
        """Store a mutable file (SDMF); its write cap."""
        return self._ask("PUT", "uri?format=SDMF", content).decode("ascii")

    def get(self, cap: str) -> bytes:
        return self._ask("GET", f"uri/{quote(cap, safe='')}")

    def get_range(self, cap: str, first: int, last: int) -> bytes:
        """Bytes `first` to `last`, that one too."""
        return self._ask("GET", f"uri/{quote(cap, safe='')}", Range=f"bytes={first}-{last}")

    def check(self, cap: str, *, verify: bool = False, add_lease: bool = False) -> dict[str, Any]:
        """`results` of the report that Tahoe gives (spec 08 §4)."""
        wanted = f"t=check&output=JSON&verify={str(verify).lower()}&add-lease={str(add_lease).lower()}"
        report = json.loads(self._ask("POST", f"uri/{quote(cap, safe='')}?{wanted}"))
        results: dict[str, Any] = report["results"]
        return results

    def tahoe(self, *arguments: str) -> str:
        """Tahoe's own command line; what it prints."""
        done = subprocess.run(
            [self.command, "--node-directory", self.folder, *arguments],
            capture_output=True,
            timeout=_ANSWER,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"tahoe {arguments[0]}: exit {done.returncode}: {done.stderr.decode(errors='replace')}")
        return done.stdout.decode()


class TahoeGrid:
    """`servers` storage nodes, t0 …, and gateways to them, one for each encoding asked for.

    `secrets`: `convergence` and `secret` of all gateways, as one line of base32 each. `storage`: folders that the
    nodes store in, else each makes its own.
    """

    def __init__(
        self,
        command: Path,
        folder: Path,
        servers: int,
        secrets: dict[str, str],
        *,
        storage: Sequence[Path | None] = (),
    ) -> None:
        self.command = command
        self.folder = folder
        places = [*storage, *[None] * servers][:servers]
        self.nodes = [StorageNode(command, folder / f"t{i}", place) for i, place in enumerate(places)]
        self._secrets = secrets
        self._gateways: dict[Encoding, Gateway] = {}

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            for node in self.nodes:
                node.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        stop_all([*self._gateways.values(), *self.nodes])

    def start_gateways(self, *encodings: Encoding) -> None:
        """Start what `gateway` will be asked for: all at once is quicker."""
        missing = [encoding for encoding in encodings if encoding not in self._gateways]
        for encoding in missing:
            name = f"g{len(self._gateways)}"
            self._gateways[encoding] = Gateway(self.command, self.folder / name, self.nodes, encoding, self._secrets)
            self._gateways[encoding].start()
        for encoding in missing:
            self._gateways[encoding].wait_until_ready()

    def gateway(self, encoding: Encoding) -> Gateway:
        """The client that stores files in this encoding; it reads files of any."""
        self.start_gateways(encoding)
        return self._gateways[encoding]

    def shares(self) -> dict[str, Path]:
        """Every share of the grid: `SI/number` to its file; the last of several copies."""
        return {name: path for node in self.nodes for name, path in node.shares().items()}


def _free_port() -> int:
    """A port below those that outgoing connections and the test suite's sshd use."""
    chosen = random.SystemRandom()
    while True:
        port = chosen.randrange(10000, 20000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
