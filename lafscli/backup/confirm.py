"""Whether what is to be reused is still there, with enough servers (DESIGN §1.12).

`quick`: every storage index must have its folder on enough servers, seen from listings of the prefix folders alone, and
of a seventh of the objects, another one each run, every share is looked for. `full`: every share of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Literal

from lafscli.errors import LafsError
from lafscli.formats import caps
from lafscli.formats.caps import ChkCap, ChkVerifyCap, DirectoryCap
from lafscli.health.survey import Silences, Survey
from lafscli.placement import happiness
from lafscli.primitives.encoding import b32encode
from lafscli.storage.grid import Grid
from lafscli.storage.store import ShareStore

How = Literal["quick", "full"]
_TOGETHER = 2000
_PREFIXES = 64
_PART = 7


@dataclass(slots=True)
class Looked:
    """What was found out. `missing`: storage indexes, in base32, of objects that are not there happily; `silent`:
    servers that did not answer, and why."""

    missing: set[str] = field(default_factory=set)
    silent: dict[str, str] = field(default_factory=dict)


def look(grid: Grid, stored: Callable[[], Iterator[tuple[str, str]]], happy: int, how: How, run: int) -> Looked:
    """Look for objects: `stored` gives storage index and cap of each, and is asked twice; `run` chooses the seventh.

    Shares of a server that does not answer are not there for this.
    """
    looked = Looked()
    if how == "quick":
        _by_folders(grid, (si for si, _ in stored()), happy, looked)
    wanted = (cap for si, cap in stored() if how == "full" or (_part(si) == run % _PART and si not in looked.missing))
    _by_shares(grid, wanted, happy, looked)
    return looked


def _part(si: str) -> int:
    return sum(si.encode()) % _PART


def _by_folders(grid: Grid, wanted: Iterable[str], happy: int, looked: Looked) -> None:
    """Note those of which too few servers have a folder."""
    counts = dict.fromkeys(wanted, 0)
    prefixes = sorted({si[:2] for si in counts})
    for start in range(0, len(prefixes), _PREFIXES):
        question = partial(_named, prefixes[start : start + _PREFIXES])
        for answer in grid.ask(question, grid.stores):
            if isinstance(answer.value, LafsError):
                looked.silent.setdefault(answer.store.server.name, answer.value.message)
                continue
            for names in answer.value:
                for name in () if isinstance(names, LafsError) else names:
                    if name in counts:
                        counts[name] += 1
    least = min(happy, len(grid.stores))
    looked.missing |= {si for si, count in counts.items() if count < least}


def _named(prefixes: list[str], store: ShareStore) -> list[frozenset[str] | LafsError]:
    return store.named(prefixes)


def _by_shares(grid: Grid, wanted: Iterable[str], happy: int, looked: Looked) -> None:
    """Note those whose shares, as far as they are seen, are not happy."""
    survey = Survey(grid, grid.stores, Silences(None))
    left = iter(wanted)
    while texts := list(islice(left, _TOGETHER)):
        objects = {cap.si: cap for cap in map(_verify_cap, texts) if cap is not None}
        for seen in survey.finish(survey.begin(objects.values())):
            looked.silent.update({name: why for name, why in seen.silent.items() if name not in looked.silent})
            holders: dict[str, set[int]] = {}
            for server, shnum in seen.found:
                holders.setdefault(server, set()).add(shnum)
            if happiness(holders) < min(happy, seen.cap.n):
                looked.missing.add(b32encode(seen.cap.si))


def _verify_cap(text: str) -> ChkVerifyCap | None:
    """The verify cap of an immutable file, or of the file of a directory; None for what has no shares."""
    cap = caps.parse(text)
    inner = cap.inner if isinstance(cap, DirectoryCap) else cap
    return inner.verify_cap() if isinstance(inner, ChkCap) else None
