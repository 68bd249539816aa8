"""A folder behind the storage server's policy, served by a thread on a socket: fast, and without ssh.

files = served_files(root, Policy(quota=1 << 20))     # a client; `old=True`: one that knows none of our extensions
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from lafscli.errors import LafsError, ServerUnreachable
from lafscli.server.policy import Policy, PolicyFiles
from lafscli.server.session import serve
from lafscli.server.streams import FdStream
from lafscli.storage.packets import OWN
from lafscli.storage.sftp import SftpFiles


class ServedStream:
    """One connection: a byte stream for `SftpFiles`."""

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
