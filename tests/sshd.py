"""Real OpenSSH servers for tests and benchmarks: unprivileged ports on 127.0.0.1, one root folder each.

with SshServers(folder, 10) as servers:
    run("ssh", "-F", servers.config, "s0", …)       # or --option ssh-config=FILE
    servers.stop(3)                                  # the listener and every session of it
"""

from __future__ import annotations

import getpass
import os
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_STARTUP = 20.0
_POLL = 0.005


class SshServers:
    """`count` servers, called s0, s1, … in the file `config` (ssh's `-F`), all open to the same client key.

    `denied` goes to `sftp-server -P` (names of requests and extensions to switch off, joined by commas);
    `max_startups` is sshd's. `subsystem` is a command in place of sftp-server, or "" for none. `quick` has clients use
    a key exchange that costs less CPU than the default one.
    """

    def __init__(
        self,
        folder: Path,
        count: int = 10,
        *,
        denied: str = "",
        max_startups: str = "200:30:400",
        max_sessions: int = 100,
        subsystem: str | None = None,
        quick: bool = True,
    ) -> None:
        self.folder = folder
        self.count = count
        self.config = folder / "ssh_config"
        self.known_hosts = folder / "known_hosts"
        self.identity = folder / "client_key"
        self._denied = denied
        self._max_startups = max_startups
        self.max_sessions = max_sessions
        """Per connection; takes effect when a server starts."""
        self._subsystem = subsystem
        self._quick = quick
        self._ports: list[int] = []
        self._listeners: dict[int, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(
                mode=0o755, exist_ok=True
            )  # Debian's sshd wants it and only its init script makes it
        for name in [self.identity.name, *(f"host_key{i}" for i in range(self.count))]:
            _make_key(self.folder / name)
        try:
            for _attempt in range(5):
                self._ports = _free_ports(self.count)
                for i in range(self.count):
                    self.root(i).mkdir(exist_ok=True)
                    self._launch(i)
                if all(self._listening(i) for i in range(self.count)):
                    break
                self.close()  # another process took a port meanwhile
            else:
                raise RuntimeError(f"sshd does not start: {self.log(0)}")
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
        """Stop all servers; shared connections (ControlMaster) to them end with that."""
        doomed = [pid for listener in self._listeners.values() for pid in _freeze(listener.pid)]
        _kill(doomed)
        for listener in self._listeners.values():
            listener.wait()
        self._listeners.clear()

    # ---- one server

    def name(self, i: int) -> str:
        """The `Host` of the ssh_config."""
        return f"s{i}"

    def root(self, i: int) -> Path:
        """The folder that the server has to itself; it holds nothing at first."""
        return self.folder / f"root{i}"

    def url(self, i: int) -> str:
        """What `lafs server add` takes, together with `--option ssh-config=…`."""
        return f"sftp://{self.name(i)}{self.root(i)}"

    def port(self, i: int) -> int:
        return self._ports[i]

    def log(self, i: int) -> str:
        """What sshd wrote so far."""
        path = self.folder / f"log{i}"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self, i: int) -> None:
        """Kill the listener and all its sessions; connections are reset. Nothing of it runs when this returns."""
        listener = self._listeners.pop(i)
        _kill(_freeze(listener.pid))
        listener.wait()

    def start(self, i: int) -> None:
        """Start a stopped server again: same port, key and folder."""
        self._launch(i)
        if not self._listening(i):
            raise RuntimeError(f"sshd does not start again: {self.log(i)}")

    def pause(self, i: int) -> None:
        """Freeze the listener and all its sessions: connections stay open and nobody answers."""
        _freeze(self._listeners[i].pid)

    def resume(self, i: int) -> None:
        for pid in _tree(self._listeners[i].pid):
            _signal(pid, signal.SIGCONT)

    def sessions(self, i: int) -> list[int]:
        """Process ids of everything under the listener."""
        return _tree(self._listeners[i].pid)[1:]

    def forget_connections(self, i: int) -> None:
        """Kill the sessions of a server and leave the listener: every connection to it breaks, new ones work."""
        listener = self._listeners[i].pid
        frozen = _freeze(listener)
        _kill([pid for pid in frozen if pid != listener])
        _signal(listener, signal.SIGCONT)

    # ---- inside

    def _launch(self, i: int) -> None:
        log = self.folder / f"log{i}"
        log.unlink(missing_ok=True)
        config = self.folder / f"sshd_config{i}"
        config.write_text(self._server_config(i))
        command = [_sshd(), "-D", "-E", str(log), "-f", str(config)]
        self._listeners[i] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
        )

    def _server_config(self, i: int) -> str:
        subsystem = self._subsystem
        if subsystem is None:
            subsystem = sftp_server() + (f" -P {self._denied}" if self._denied else "")
        lines = [
            "ListenAddress 127.0.0.1",
            f"Port {self._ports[i]}",
            f"HostKey {self.folder / f'host_key{i}'}",
            f"PidFile {self.folder / f'pid{i}'}",
            f"AuthorizedKeysFile {self.identity}.pub",
            *([f"Subsystem sftp {subsystem}"] if subsystem else []),
            f"MaxStartups {self._max_startups}",
            f"MaxSessions {self.max_sessions}",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "UsePAM no",
            "UseDNS no",
            "SetEnv SHLVL=2",  # else bash reads the ~/.bashrc of whoever runs the tests, before each session
            "LogLevel INFO",
        ]
        if _openssh_version() >= (9, 8):
            lines.append("PerSourcePenalties no")
        return "\n".join(lines) + "\n"

    def _listening(self, i: int) -> bool:
        listener = self._listeners[i]
        deadline = time.monotonic() + _STARTUP
        while time.monotonic() < deadline:
            if "Server listening on" in self.log(i):
                return True
            if listener.poll() is not None:
                return False
            time.sleep(_POLL)
        return False

    def _write_client_files(self) -> None:
        hosts, known = [], []
        for i, port in enumerate(self._ports):
            kind, key = (self.folder / f"host_key{i}.pub").read_text().split()[:2]
            known.append(f"[127.0.0.1]:{port} {kind} {key}\n")
            hosts.append(f"Host {self.name(i)}\n    HostName 127.0.0.1\n    Port {port}\n")
        self.known_hosts.write_text("".join(known))
        common = [
            f"User {getpass.getuser()}",
            f"IdentityFile {self.identity}",
            "IdentitiesOnly yes",
            "IdentityAgent none",
            f"UserKnownHostsFile {self.known_hosts}",
        ]
        if self._quick:
            common.append("KexAlgorithms curve25519-sha256")
        self.config.write_text("".join(hosts) + "Host *\n" + "".join(f"    {line}\n" for line in common))


def sftp_server() -> str:
    """Path of OpenSSH's sftp-server."""
    for folder in ("/usr/lib/openssh", "/usr/libexec", "/usr/libexec/openssh", "/usr/lib/ssh", "/usr/lib/misc"):
        if os.access(path := f"{folder}/sftp-server", os.X_OK):
            return path
    raise RuntimeError("no sftp-server here: install the OpenSSH server")


def _sshd() -> str:
    """Absolute path of sshd, which it insists on."""
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RuntimeError("no sshd here: install the OpenSSH server")
    return found


def _openssh_version() -> tuple[int, int]:
    text = subprocess.run(["ssh", "-V"], capture_output=True, text=True, check=True).stderr
    match = re.search(r"OpenSSH_(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _make_key(path: Path) -> None:
    if not path.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _free_ports(count: int) -> list[int]:
    """Ports below the range that outgoing connections use, so that a stopped server finds its port free again."""
    ports: list[int] = []
    chosen = random.SystemRandom()
    while len(ports) < count:
        port = chosen.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports


# ---- processes -------------------------------------------------------------------------------------------------


def _children() -> dict[int, list[int]]:
    """Parent to children, of all processes; zombies left out."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    return children


def _parents() -> Iterator[tuple[int, int]]:
    if os.path.exists("/proc/self/stat"):
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    stat = Path(f"/proc/{name}/stat").read_text()
                except OSError:
                    continue
                state, parent = stat.rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    yield int(name), int(parent)
        return
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        pid, parent, state = line.split()[:3]
        if not state.startswith("Z"):
            yield int(pid), int(parent)


def _tree(top: int) -> list[int]:
    """`top` and all below it, parents first."""
    children = _children()
    found = [top]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def _freeze(top: int) -> list[int]:
    """Stop a whole tree, also what is forked meanwhile; the processes, parents first."""
    frozen: list[int] = []
    while new := [pid for pid in _tree(top) if pid not in frozen]:
        for pid in new:
            _signal(pid, signal.SIGSTOP)
        frozen.extend(new)
    return frozen


def _kill(pids: list[int]) -> None:
    """End processes and wait until they have ended."""
    handles = []
    for pid in pids:
        if hasattr(os, "pidfd_open"):
            try:
                handles.append(os.pidfd_open(pid))
            except OSError:
                continue
        _signal(pid, signal.SIGKILL)
    for handle in handles:
        select.select([handle], [], [], _STARTUP)
        os.close(handle)


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
