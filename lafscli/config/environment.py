"""What the environment says: the one place that reads it."""

from __future__ import annotations

import os
from pathlib import Path

from lafscli.errors import UsageError


def variable(name: str) -> str | None:
    """The value of an environment variable; an empty one counts as not set."""
    return os.environ.get(name) or None


def debugging() -> bool:
    """Whether tracebacks are wanted (LAFS_DEBUG=1)."""
    return os.environ.get("LAFS_DEBUG", "") not in ("", "0")


def plain() -> bool:
    """Whether the user's terminal wants no colour (NO_COLOR, TERM=dumb)."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def base(name: str, fallback: str) -> Path:
    """An XDG base folder; a relative path there is invalid and ignored, as the XDG specification says."""
    value = os.environ.get(name, "")
    if value.startswith("/"):
        return Path(value)
    try:
        return Path.home() / fallback
    except RuntimeError as error:
        raise UsageError("you have no home folder", hint="set HOME, or name a folder: lafs --home DIR") from error
