"""Names of files here as names on the grid, and back (spec 07 §7).

On the grid a name is text in NFC. A name that is no UTF-8, or that equals another one of its folder there, has its odd
bytes percent-encoded; the entry then says what the name truly is.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection


def grid_names(names: Collection[bytes], reserved: Collection[str] = ()) -> dict[bytes, str]:
    """What each name of one folder is called on the grid: all different, the same for the same folder. None of them is
    one of `reserved`."""
    given: dict[bytes, str] = {}
    taken = set(reserved)
    odd: list[bytes] = []
    for name in sorted(names, key=lambda name: (_plain(name) != _text(name), name)):
        plain = _plain(name)
        if plain is None or plain in taken:
            odd.append(name)
        else:
            taken.add(plain)
            given[name] = plain
    for name in odd:
        encoded = percent_encoded(name)
        chosen, count = encoded, 1
        while chosen in taken:
            count += 1
            chosen = f"{encoded}.{count}"
        taken.add(chosen)
        given[name] = chosen
    return given


def _text(name: bytes) -> str | None:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None


def _plain(name: bytes) -> str | None:
    """The name in NFC; None for one that is no UTF-8."""
    text = _text(name)
    return None if text is None else unicodedata.normalize("NFC", text)


def percent_encoded(name: bytes) -> str:
    """The name with every byte beyond ASCII, and the percent sign, as %XX."""
    return "".join(chr(byte) if byte < 0x80 and byte != 0x25 else f"%{byte:02X}" for byte in name)
