"""What a home remembers of its last good backups and checks, in `state/history`: a file of JSON for each (CLI.md §3,
`lafs status`).

A root is known by the storage index of its cap, which opens nothing. Losing the folder costs nothing but the memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from lafscli.config.home import Home, write_atomically
from lafscli.errors import LafsError
from lafscli.primitives.encoding import b32encode

What = Literal["backup", "check"]
_LONGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Event:
    """Something that went well. `root`: a storage index in base32; `time`: Unix seconds; `facts`: for people."""

    what: What
    root: str
    time: int
    facts: Mapping[str, Any] = field(default_factory=dict)


def note(home: Home, event: Event, *, about: str = "") -> None:
    """Remember the last one of its kind, root and `about`; nothing where it can't be written."""
    named = hashlib.sha256(f"{event.what} {event.root} {about}".encode("utf-8", "surrogateescape")).digest()
    folder = home.state / "history"
    document = {"version": 1, "what": event.what, "root": event.root, "time": event.time, "facts": dict(event.facts)}
    with suppress(LafsError, OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(folder / f"{b32encode(named[:16])}.json", json.dumps(document).encode())


def events(home: Home) -> list[Event]:
    """All that is remembered, the oldest first; what can't be read is not."""
    found: list[Event] = []
    try:
        paths = sorted((home.state / "history").glob("*.json"))
    except OSError:
        return []
    for path in paths:
        with suppress(OSError, ValueError, RecursionError):
            with path.open("rb") as file:
                document = json.loads(file.read(_LONGEST))
            found += _parsed(document)
    return sorted(found, key=lambda event: event.time)


def _parsed(document: Any) -> list[Event]:
    if not isinstance(document, dict) or document.get("version") != 1:
        return []
    what, root, time, facts = (document.get(key) for key in ("what", "root", "time", "facts"))
    if what not in ("backup", "check") or not isinstance(root, str) or not isinstance(facts, dict):
        return []
    return [Event(what, root, time, facts)] if isinstance(time, int) and 0 <= time < 1 << 40 else []
