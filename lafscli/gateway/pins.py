"""What the gateway stores and no alias leads to is pinned in its home, so that its own `lafs gc` never takes it."""

from __future__ import annotations

import hashlib
import threading

from lafscli.config import aliases, secrets
from lafscli.errors import LafsError
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, UnknownCap
from lafscli.gateway.desk import Desk
from lafscli.tree.contents import Access
from lafscli.tree.links import same_directory

_MOST = 100_000


class Pins:
    """Knows what it has pinned, or need not pin."""

    def __init__(self, desk: Desk) -> None:
        self._home = desk.home
        self._lock = threading.Lock()
        self._done: set[bytes] = set()

    def keep(self, access: Access, cap: Cap) -> None:
        """Pin what was stored, or the directory under which something was: its read cap. That it can't be is a
        warning."""
        inner = cap.inner if isinstance(cap, DirectoryCap) else cap
        if isinstance(inner, UnknownCap | LitCap) or not inner.readable:
            return
        key = hashlib.sha256(str(cap.read_cap()).encode()).digest()
        with self._lock:
            if key in self._done:
                return
            try:
                known = cap.is_directory and any(
                    same_directory(cap, alias) for alias in aliases.load(self._home).values()
                )
                if not known:
                    secrets.pin(self._home, str(cap.read_cap()))
            except LafsError as error:
                access.warn(f"{cap.abbreviation} is not among the pins: {error.message}")
                return
            if len(self._done) >= _MOST:
                self._done.clear()
            self._done.add(key)
