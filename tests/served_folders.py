"""Folders behind the storage server's policy, without ssh: served by threads here, or by a process for each connection.

files = served_files(root, Policy(quota=1 << 20))      # a client; `old=True`: one that knows none of our extensions

with ServeProcess(folder) as serving:                  # as sshd does it, a process of its own serves each connection
    files = SftpFiles(lambda: SocketStream(serving.socket, root), str(root), name="here")
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from lafscli.errors import LafsError, ServerUnreachable
from lafscli.server.policy import Policy, PolicyFiles
from lafscli.server.session import serve
from lafscli.server.streams import FdStream
from lafscli.storage.packets import OWN
from lafscli.storage.sftp import SftpFiles


class ServedStream:
    """One connection, served by a thread: a byte stream for `SftpFiles`."""

    def __init__(self, root: Path, policy: Policy, note: Callable[[str], None]) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.read_fd = self.write_fd = ours.detach()
        self._theirs = theirs.detach()
        self._closed = False

        def play() -> None:
            # as every connection is a process of its own, so here all is made anew
            backend = PolicyFiles(root, policy, note=note)
            serve(FdStream(self._theirs, self._theirs), backend, idle=None, note=note)

        self._thread = threading.Thread(target=play, daemon=True)
        self._thread.start()

    def explain(self) -> LafsError:
        return ServerUnreachable("the server ended")

    def close(self) -> None:
        """The server has ended, too, when this returns."""
        if not self._closed:
            self._closed = True
            os.close(self.read_fd)
            self._thread.join(20)


class OldFiles(SftpFiles):
    """A client of before there was `lafs serve`."""

    def connect(self) -> frozenset[str]:
        return super().connect() - set(OWN)


def served_files(
    root: Path,
    policy: Policy | None = None,
    *,
    old: bool = False,
    name: str = "here",
    notes: list[str] | None = None,
) -> SftpFiles:
    """A client of a server of this folder."""
    told = notes if notes is not None else []
    chosen = policy or Policy()
    return (OldFiles if old else SftpFiles)(lambda: ServedStream(root, chosen, told.append), str(root), name=name)


# ---- in processes ------------------------------------------------------------------------------------------------


class SocketStream:
    """One connection, served by a process of its own: a byte stream for `SftpFiles`."""

    def __init__(self, path: str, root: str, policy: Policy | None = None) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(path)
        connection.sendall(json.dumps([root, asdict(policy or Policy())]).encode() + b"\n")
        connection.setblocking(False)
        self.read_fd = self.write_fd = connection.detach()
        self._closed = False

    def explain(self) -> LafsError:
        return ServerUnreachable("the server ended")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self.read_fd)


class ServeProcess:
    """A process that forks for each connection to `socket`."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "s")
        command = [sys.executable, "-m", "tests.served_folders", self.socket]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1], start_new_session=True
        )

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it with all that it has forked."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def hang_up(self, number: int) -> None:
        """Kill the server of one connection; which, `number` decides."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if children:
            with suppress(ProcessLookupError):
                os.kill(int(children[number % len(children)]), signal.SIGKILL)


def _listen(path: str) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(100)
    os.write(1, b"ready\n")
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        line = b""
        while not line.endswith(b"\n"):
            line += connection.recv(1)
        root, policy = json.loads(line)
        descriptor = connection.detach()
        try:
            serve(FdStream(descriptor, descriptor), PolicyFiles(Path(root), Policy(**policy)), idle=None)
        finally:
            os._exit(0)


if __name__ == "__main__":
    _listen(sys.argv[1])
