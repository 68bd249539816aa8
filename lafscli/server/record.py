"""What the server tells of itself: one line for each thing that happened, with time, peer and key, never a cap.

To stderr as text, or to a file as JSON lines. Several processes write to one file, each line in one piece; the file is
opened for each line, so whoever moves it away finds a new one in its place.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from lafscli.storage.packets import escaped

_CAP = re.compile(r"URI:[A-Za-z0-9-]+:[A-Za-z0-9:-]*")
_LONGEST = 2000


class Record:
    """Where the lines go: to `path`, else to stderr, else (`silent`) nowhere."""

    def __init__(
        self,
        path: Path | None = None,
        *,
        silent: bool = False,
        now: Callable[[], float] = time.time,
        event: str = "serve",
    ) -> None:
        self._path = path
        self._event = event
        self._silent = silent
        self._now = now

    def note(self, action: str, *, peer: str = "", key: str = "", connection: int | None = None) -> None:
        """Write a line. One that can't be written is lost: the log is no reason to serve nobody."""
        if self._path is None and self._silent:
            return
        moment = self._now()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment * 1000) % 1000:03d}Z"
        action = _CAP.sub("URI:...", escaped(action, _LONGEST))
        about = {"peer": peer, "key": key, "connection": connection}
        known = {name: value for name, value in about.items() if value not in ("", None)}
        if self._path is not None:
            facts = {"time": stamp, "pid": os.getpid(), "event": self._event, **known, "action": action}
            self._append(json.dumps(facts))
        else:
            words = [stamp, *(f"#{value}" if name == "connection" else str(value) for name, value in known.items())]
            _write(2, f"lafs: {' '.join(words)} {action}")

    def about(self, *, peer: str, key: str = "", connection: int | None = None) -> Callable[[str], None]:
        """A `note` for one connection."""
        return lambda action: self.note(action, peer=peer, key=key, connection=connection)

    def _append(self, line: str) -> None:
        assert self._path is not None
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            _write(handle, line)
        finally:
            os.close(handle)


def _write(handle: int, line: str) -> None:
    try:
        os.write(handle, line.encode("ascii", "backslashreplace") + b"\n")
    except OSError:
        return
