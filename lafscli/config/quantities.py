"""SIZE and DURATION (CLI.md §1)."""

from __future__ import annotations

import re

from lafscli.errors import UsageError

_SIZES = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZES |= {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_size(text: str) -> int:
    """Bytes: digits, then nothing, `K M G T` (times 1024) or `kB MB GB TB` (times 1000)."""
    match = re.fullmatch(r"([0-9]{1,18})([A-Za-z]{0,2})", text)
    if match is None or match[2] not in _SIZES:
        raise UsageError(f"not a size: {text!r}", hint="a size is like 4096, 64K, 10M or 2GB")
    return int(match[1]) * _SIZES[match[2]]


def parse_duration(text: str) -> int:
    """Seconds: digits and one of `s m h d w`."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if match is None:
        raise UsageError(f"not a duration: {text!r}", hint="a duration is like 30s, 10m, 12h, 14d or 6w")
    return int(match[1]) * _SECONDS[match[2]]


def parse_switch(text: str) -> bool:
    """A yes or no, as the environment and the configuration spell it."""
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("", "0", "false", "no", "off"):
        return False
    raise UsageError(f"neither yes nor no: {text!r}", hint="write 1 or 0")
