"""Text in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lafscli.primitives.text import escape


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns, escaped, two spaces between them."""
    safe = [[escape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in safe)
    return "\n".join(lines)


def facts(found: Mapping[str, object]) -> str:
    """Names and values, one a line; yes and no for truth."""
    return columns(
        [
            (key.replace("_", " "), ("no", "yes")[value] if isinstance(value, bool) else str(value))
            for key, value in found.items()
        ]
    )
