"""One SFTP conversation on a byte stream."""

from __future__ import annotations

from typing import Protocol

from lafscli.errors import LafsError


class Stream(Protocol):
    """A byte stream to an SFTP server. Both descriptors are non-blocking; they may be the same one."""

    read_fd: int
    write_fd: int

    def explain(self) -> LafsError:
        """After the stream ended or failed: why, as ServerUnreachable or HostKeyUnknown. Waits a moment at most."""

    def close(self) -> None:
        """End it, and whatever process carries it; may be called twice, and by any thread."""
