"""A connection that the system's ssh makes, or made earlier and keeps: each stream is one end of a socket pair.

Pipes measured no faster, and only a socket can be shut while somebody waits for it. Where a connection is shared, bulk
data passes through no process of ours: the one that keeps the connection has our socket.
"""

from __future__ import annotations

import os
import socket
import subprocess
import weakref
from contextlib import suppress
from pathlib import Path

from lafscli.errors import LafsError, ServerUnreachable
from lafscli.storage import sshsharing
from lafscli.storage.packets import escaped
from lafscli.storage.sshcommand import SshTarget
from lafscli.storage.sshfaults import fault

_BUFFER = 1024 * 1024
_LAST_WORDS = 0.5
_ENDING = 0.5
_ASKING = 5.0
_ALONE = ("ControlMaster=no", "ControlPath=none")
_MOST_WORDS = 64 * 1024
# A master that has not opened a session by then hangs, or its network is gone; a new connection may still work.
_JOINING = 3.0


class Ends:
    """Our end of a socket pair, and the reading end of a pipe for what is said on stderr.

    Shut by any thread at any time; the descriptors are closed when nobody knows them any more, so that their numbers
    are not taken anew under the feet of one who waits.
    """

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        for end in (self.ours, self.theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.ours.setblocking(False)
        # A pipe and no file: a server that talks without end fills 64 KiB and no disk. Nobody waits for its end, for
        # old versions of ssh leave it open in the process that keeps a shared connection.
        self._words, self.stderr = os.pipe()
        os.set_blocking(self._words, False)
        self._said = b""
        weakref.finalize(self, _close_all, self.ours, self._words)

    def hand_over(self) -> None:
        """The other ends are with somebody else now."""
        self.theirs.close()
        os.close(self.stderr)

    def said(self) -> str:
        """What was said on stderr so far, the first 64 KiB of it."""
        with suppress(BlockingIOError):
            while len(self._said) < _MOST_WORDS and (more := os.read(self._words, _MOST_WORDS)):
                self._said += more
        return self._said.decode("utf-8", "replace").replace("\r", "")

    def shut(self) -> None:
        with suppress(OSError):
            self.ours.shutdown(socket.SHUT_RDWR)


def _close_all(end: socket.socket, words: int) -> None:
    end.close()
    os.close(words)


class SshStream:
    """A connection made by a child process of ours."""

    def __init__(self, target: SshTarget, command: list[str]) -> None:
        self._target = target
        self._command = command
        self._ends = Ends()
        self.read_fd = self.write_fd = self._ends.ours.fileno()
        try:
            # A session of its own: Ctrl-C in the terminal is ours to act on, and must not end what others share.
            self._process = subprocess.Popen(
                command,
                stdin=self._ends.theirs.fileno(),
                stdout=self._ends.theirs.fileno(),
                stderr=self._ends.stderr,
                start_new_session=True,
            )
        except OSError as error:
            raise ServerUnreachable(f"{target.ssh_command} does not run: {error.strerror}") from error
        finally:
            self._ends.hand_over()

    def explain(self) -> LafsError:
        """What ssh says it failed of."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_WORDS)
        return fault(self._target, self._ends.said(), self._process.poll(), self._ask_again)

    def _ask_again(self, level: str) -> str | None:
        first, *rest = self._command
        command = [first, *(word for option in (f"LogLevel={level}", *_ALONE) for word in ("-o", option)), *rest]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=min(_ASKING, self._target.connect_timeout),
                check=False,
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stderr.decode("utf-8", "replace") if done.returncode else None

    def close(self) -> None:
        """End the session and its process; a connection that is shared by now goes on without them."""
        self._ends.shut()
        self._process.terminate()
        try:
            self._process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class SharedStream:
    """A session on the connection that an earlier ssh keeps."""

    def __init__(self, target: SshTarget, ends: Ends, control: socket.socket) -> None:
        self._target = target
        self._ends = ends
        self._control = control
        self.read_fd = self.write_fd = ends.ours.fileno()
        weakref.finalize(self, control.close)

    @classmethod
    def join(cls, target: SshTarget, path: Path) -> SharedStream | None:
        """Such a session, or None where no connection is kept that works."""
        ends = Ends()
        theirs = ends.theirs.fileno()
        timeout = min(_JOINING, target.connect_timeout)
        control = sshsharing.join(path, (theirs, theirs, ends.stderr), timeout)
        ends.hand_over()
        return None if control is None else cls(target, ends, control)

    def explain(self) -> LafsError:
        """What the server said; mostly nothing, and then another try makes a new connection."""
        code = sshsharing.exit_code(self._control)
        said = self._ends.said().strip().splitlines()
        if code is None or not said:
            return ServerUnreachable("the shared connection was lost", transient=True)
        return ServerUnreachable(f"SFTP ended on the server: {escaped(said[-1])}")

    def close(self) -> None:
        """End the session; the connection goes on."""
        self._ends.shut()
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
