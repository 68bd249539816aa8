"""What pages show of things from elsewhere: names, sizes, times.

A name may hold anything. Characters that can't be seen, and those that turn the direction of text, are shown as what
they are and marked; a name stands in an element of its own, which keeps its direction to itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from markupsafe import escape as escape_markup

from lafscli.primitives.text import escape, human_size, without_caps

LONGEST_NAME = 300
LONGEST_TITLE = 60


def shown(name: str) -> Markup:
    """A name for a page: harmless, and cut after 300 characters."""
    cut = name[:LONGEST_NAME]
    if cut.isprintable():
        inner: Markup = escape_markup(cut)
    else:
        inner = Markup().join(_character(character) for character in cut)
    if len(name) > LONGEST_NAME:
        inner += Markup('<span class="hidden-part">… ({} characters)</span>').format(len(name))
    return Markup("<bdi>{}</bdi>").format(inner)


def _character(character: str) -> Markup:
    visible = escape(character)
    return escape_markup(character) if visible == character else Markup('<span class="code">{}</span>').format(visible)


def titled(name: str) -> str:
    """A name for a title: one line without hidden characters, and never a cap."""
    visible = without_caps(escape(name[: LONGEST_TITLE * 4]))
    return visible if len(visible) <= LONGEST_TITLE else f"{visible[:LONGEST_TITLE]}…"


def size(count: int | None) -> str:
    """Bytes for people; nothing where they are not known."""
    return "" if count is None else human_size(count)


def exact_size(count: int | None) -> str:
    """Bytes for people who want to know it exactly."""
    if count is None:
        return ""
    exact = f"{count:,} bytes" if count != 1 else "1 byte"
    return exact if count < 1000 else f"{human_size(count)} ({exact})"


def moment(when: float | None) -> Markup:
    """A time as the clock of the gateway's machine has it; nothing for one that no clock can show."""
    if when is None:
        return Markup()
    try:
        local = time.localtime(when)
        exact = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
        text = time.strftime("%Y-%m-%d %H:%M", local)
    except (OverflowError, ValueError, OSError):
        return Markup()
    return Markup('<time datetime="{}">{}</time>').format(exact, text)


def changed(metadata: Mapping[str, Any]) -> float | None:
    """When a file was changed, where its metadata tell that; else when it was linked."""
    tahoe = metadata.get("tahoe")
    linked = tahoe.get("linkmotime") if isinstance(tahoe, dict) else None
    for when in (metadata.get("mtime"), linked):
        if isinstance(when, int | float) and not isinstance(when, bool) and abs(when) < 1 << 37:
            return when
    return None
