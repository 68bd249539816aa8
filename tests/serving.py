"""`lafs serve` for tests, both ways: an SSH server of its own, and `--stdio` under a real sshd by a forced command.

with ListenServers(folder, 3, "--append-only") as servers:      # or StdioServers
    run("sftp", "-F", servers.config, "s0")                      # or --option ssh-config=FILE

Both have what SshServers has: `config`, `identity`, `name(i)`, `root(i)`, `url(i)`, `log(i)`, `stop(i)`, `start(i)`.
"""

from __future__ import annotations

import getpass
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.sshd import SshServers, _freeze, _kill, _make_key, _tree

PATIENCE = 20.0
CHECKOUT = Path(__file__).parent.parent
SERVE = (sys.executable, "-m", "lafscli", "serve")


def environment(folder: Path) -> dict[str, str]:
    """The caller's, without what is about lafs; its home is `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LAFS_", "XDG_", "SSH_"))}
    return {**kept, "HOME": str(folder), "LAFS_HOME": str(folder / "home"), "PYTHONPATH": str(CHECKOUT)}


class ListenServers:
    """`count` processes of `lafs serve --listen`, called s0, s1, … in the file `config`, all open to one client key.

    `options` are more options of serve; `key_options` stand before the client's key in `authorized_keys`.
    """

    def __init__(self, folder: Path, count: int = 1, *options: str, key_options: str = "") -> None:
        self.folder = folder
        self.count = count
        self.options = options
        self.key_options = key_options
        self.config = folder / "ssh_config"
        self.known_hosts = folder / "known_hosts"
        self.identity = folder / "client_key"
        self.authorized_keys = folder / "authorized_keys"
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._ports: dict[int, int] = {}
        self.fingerprints: dict[int, str] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_key(self.identity)
        self.authorize()
        try:
            for i in range(self.count):
                self.root(i).mkdir(mode=0o700, exist_ok=True)
                self.start(i)
        except BaseException:
            self.close()
            raise
        self._write_client_files()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill all servers and what they have started."""
        for i in list(self.processes):
            self.stop(i)

    def authorize(self, *more: str) -> None:
        """Write `authorized_keys`: the client's key, and more lines."""
        public = Path(f"{self.identity}.pub").read_text().strip()
        self.authorized_keys.write_text("\n".join([f"{self.key_options} {public}".strip(), *more]) + "\n")
        self.authorized_keys.chmod(0o600)

    # ---- one server

    def name(self, i: int) -> str:
        return f"s{i}"

    def root(self, i: int) -> Path:
        return self.folder / f"root{i}"

    def url(self, i: int) -> str:
        return f"sftp://{self.name(i)}{self.root(i)}"

    def port(self, i: int) -> int:
        return self._ports[i]

    def host_key(self, i: int) -> Path:
        return self.folder / f"host_key{i}"

    def log(self, i: int) -> str:
        """What it has written to stderr so far."""
        path = self.folder / f"log{i}"
        return path.read_text() if path.exists() else ""

    def wait_for(self, i: int, pattern: str, *, count: int = 1) -> str:
        """Wait until so many matches stand in the log; the last of them."""
        return wait_for(lambda: self.log(i), pattern, count=count)

    def start(self, i: int) -> None:
        """Start it, on the port that it had if it was there before."""
        command = [*SERVE, "--root", str(self.root(i)), "--listen", f"127.0.0.1:{self._ports.get(i, 0)}"]
        command += ["--host-key", str(self.host_key(i)), "--authorized-keys", str(self.authorized_keys), *self.options]
        log = self.folder / f"log{i}"
        before = len(self.log(i))
        with log.open("ab") as file:
            self.processes[i] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment(self.folder), cwd="/"
            )
        process = self.processes[i]
        (self.folder / f"pid{i}").write_text(f"{process.pid}\n")
        said = wait_for(lambda: self.log(i)[before:], r"serving .* at \S+:(\d+), host key (SHA256:\S+)", alive=process)
        match = re.search(r"at \S+:(\d+), host key (SHA256:\S+)", said)
        assert match is not None
        self._ports[i], self.fingerprints[i] = int(match[1]), match[2]

    def stop(self, i: int) -> None:
        """Kill it and all its processes; connections are reset."""
        process = self.processes.pop(i)
        if process.poll() is None:
            _kill(_freeze(process.pid))
        process.wait()

    def terminate(self, i: int, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and wait for that; its exit code."""
        process = self.processes.pop(i)
        process.send_signal(number)
        return process.wait(PATIENCE)

    def reload(self, i: int) -> None:
        """Have it read the keys again."""
        count = self.log(i).count("keys read") + self.log(i).count("keys stay")
        self.processes[i].send_signal(signal.SIGHUP)
        self.wait_for(i, "keys (read|stay)", count=count + 1)

    def below(self, i: int) -> list[int]:
        """Process ids of everything under the listener."""
        return _tree(self.processes[i].pid)[1:]

    def _write_client_files(self) -> None:
        hosts, known = [], []
        for i in range(self.count):
            public = subprocess.run(
                ["ssh-keygen", "-y", "-f", str(self.host_key(i))], capture_output=True, text=True, check=True
            ).stdout.strip()
            known.append(f"[127.0.0.1]:{self.port(i)} {public}\n")
            hosts.append(f"Host {self.name(i)}\n    HostName 127.0.0.1\n    Port {self.port(i)}\n")
        self.known_hosts.write_text("".join(known))
        common = [
            f"User {getpass.getuser()}",
            f"IdentityFile {self.identity}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {self.known_hosts}",
        ]
        self.config.write_text("".join(hosts) + "Host *\n" + "".join(f"    {line}\n" for line in common))


class StdioServers(SshServers):
    """`count` real sshd with `command="lafs serve --stdio …",restrict` before the client's key."""

    def __init__(self, folder: Path, count: int = 1, *options: str, **more: object) -> None:
        super().__init__(folder, count, **more)  # type: ignore[arg-type]
        self.options = options

    def command(self, i: int) -> str:
        """What sshd runs for server `i`."""
        words = ["env", f"PYTHONPATH={CHECKOUT}", *SERVE, "--stdio", "--root", str(self.root(i)), *self.options]
        return shlex.join(words)

    def _server_config(self, i: int) -> str:
        keys = self.folder / f"authorized_keys{i}"
        forced = self.command(i).replace('"', '\\"')
        keys.write_text(f'command="{forced}",restrict {Path(f"{self.identity}.pub").read_text()}')
        return (
            super()._server_config(i).replace(f"AuthorizedKeysFile {self.identity}.pub", f"AuthorizedKeysFile {keys}")
        )


def wait_for(
    look: Callable[[], str], pattern: str, *, count: int = 1, alive: subprocess.Popen[bytes] | None = None
) -> str:
    """Look until so many matches are there; the last of them. Fails after PATIENCE, or when `alive` has ended."""
    deadline = time.monotonic() + PATIENCE
    while True:
        text = look()
        found = list(re.finditer(pattern, text))
        if len(found) >= count:
            return found[count - 1][0]
        if time.monotonic() > deadline or (alive is not None and alive.poll() is not None):
            raise AssertionError(f"{pattern!r} does not come: {text}")
        with suppress(InterruptedError):
            select.select([], [], [], 0.01)
