"""The entries of a directory as rows of a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from lafscli.formats.caps import Cap, ChkCap, ChkVerifyCap, LitCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.formats.dirtable import LeftOut
from lafscli.gateway.pages.marks import changed
from lafscli.gateway.pages.places import Place, by_cap, encoded

Sort = Literal["directory", "file", "unknown"]

PAGE = 5000
"""Rows of one page."""


@dataclass(frozen=True, slots=True)
class Row:
    """One entry. `href`: what its name opens, nothing where it can't be opened; `info`: the page about it."""

    name: str
    sort: Sort
    kind: str
    href: str = field(repr=False)
    info: str = field(repr=False)
    size: int | None = None
    changed: float | None = None
    reason: str = ""


def file_size(cap: Cap) -> int | None:
    """The size of a file that its cap tells: that of immutable ones."""
    if isinstance(cap, LitCap):
        return len(cap.content)
    return cap.size if isinstance(cap, ChkCap | ChkVerifyCap) else None


def sort_of(cap: Cap) -> Sort:
    return "unknown" if isinstance(cap, UnknownCap) else "directory" if cap.is_directory else "file"


def kind_words(cap: Cap) -> str:
    """What it is, in two or three words."""
    sort = sort_of(cap)
    if sort == "unknown":
        return "unknown kind"
    if not cap.readable:
        return f"{sort}, verify only"
    if not cap.mutable:
        return f"immutable {sort}" if sort == "directory" else sort
    return f"{sort}" if cap.writable and sort == "directory" else f"{'mutable' if cap.writable else 'read-only'} {sort}"


def rows(place: Place, children: Iterable[Child], left_out: Iterable[LeftOut]) -> Iterator[Row]:
    """Directories first, then the rest, each by name; then what can't be shown."""
    here = place.href
    files = []
    for child in sorted(children, key=lambda child: child.name.casefold()):
        row = _row(here, place, child)
        if row.sort == "directory":
            yield row
        else:
            files.append(row)
    yield from files
    for each in left_out:
        info = place.below(each.name).info if each.name else ""
        yield Row(each.name, "unknown", "can't be used", "", info, reason=each.reason)


def _row(here: str, place: Place, child: Child) -> Row:
    cap, name = child.cap, child.name
    sort = sort_of(cap)
    if name in (".", "..") or not place.addressable:
        below = place.below(name)
        href, info = by_cap(str(cap), None if sort == "directory" else name), below.info
    else:
        href = f"{here}/{encoded(name)}"
        info = f"{href}?t=info"
    if sort == "unknown" or not cap.readable:
        href = ""
    return Row(name, sort, kind_words(cap), href, info, file_size(cap), changed(child.metadata))
