"""Text for people: nothing in it moves a cursor, hides itself or grants anything; sizes and durations."""

from __future__ import annotations

import re
import unicodedata

_CAP = re.compile(r"URI:[A-Za-z0-9-]+:[A-Za-z0-9:-]*")
_HIDDEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def escape(text: str) -> str:
    """Make text from elsewhere safe to print on one line: no control or invisible formatting character is left.

    They are shown as `\\n`, `\\x1b`, `\\u202e`; so a name can't move the cursor, hide itself or start a line.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN:
        return character
    if "\udc80" <= character <= "\udcff":  # a byte of a local name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii") if character != "\udfff" else "\\udfff"


def without_caps(text: str) -> str:
    """The text with every cap cut to its kind, for logs and for messages of unexpected errors."""
    return _CAP.sub(lambda match: match[0][: match[0].index(":", 4) + 1] + "...", text)


def human_size(count: float) -> str:
    """Bytes for people: `999 B`, `1.5 MB` (thousands, as disks and networks are sold)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_time(seconds: float) -> str:
    """Seconds for people: `12 s`, `3 min`, `2 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def count(number: int, noun: str) -> str:
    """`1 share`, `2 shares`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
