"""Our leases on what is stored: renewed where there are some, added where there are none (spec 06 §3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Protocol

from lafscli.errors import LafsError
from lafscli.formats.caps import ChkVerifyCap, MutableVerifyCap
from lafscli.health.report import Leases, Silence
from lafscli.health.survey import Silences, Survey
from lafscli.storage.grid import Grid
from lafscli.storage.store import Lease, LeaseOf, ShareStore, StorageIndex

_TOGETHER = 200
_OWNER = 1
"""Of a lease that is added by itself; an upload writes 0 (spec 06 §3)."""

MakeLease = Callable[[StorageIndex, ShareStore], Lease]
"""Our lease, from now on, on shares of an object at a server."""


class Held(Protocol):
    """An object and where its shares lie, as a survey or a look has found."""

    @property
    def found(self) -> Collection[tuple[str, int]]: ...
    @property
    def silent(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class _Listed:
    """The shares of a mutable object, by name only."""

    found: Sequence[tuple[str, int]]
    silent: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Renewed:
    """What became of our leases on one object. `failures`: server and reason of each that failed."""

    si: StorageIndex
    leases: Leases
    failures: tuple[Silence, ...]
    unreachable: tuple[Silence, ...]


def renew_many(grid: Grid, caps: Iterable[ChkVerifyCap | MutableVerifyCap], lease: MakeLease) -> Iterator[Renewed]:
    """Renew the leases on all shares of these objects, wherever they lie; in the order of the caps."""
    silences = Silences(None)
    survey = Survey(grid, grid.stores, silences, all_copies=True)
    left = iter(caps)
    while batch := list(islice(left, _TOGETHER)):
        asked = survey.begin([cap for cap in batch if isinstance(cap, ChkVerifyCap)])
        slots = iter(_listed(grid, [cap.si for cap in batch if isinstance(cap, MutableVerifyCap)], silences))
        files = iter(survey.finish(asked))
        objects: list[tuple[StorageIndex, Held]] = []
        for cap in batch:
            objects.append((cap.si, next(files) if isinstance(cap, ChkVerifyCap) else next(slots)))
        yield from renew_found(grid, objects, lease, silences)


def _listed(grid: Grid, sis: Sequence[StorageIndex], silences: Silences) -> list[_Listed]:
    """The shares of mutable objects, whatever their numbers."""
    found: list[list[tuple[str, int]]] = [[] for _ in sis]
    silent: list[dict[str, str]] = [{} for _ in sis]
    asked = [(store, grid.submit(store, lambda store: store.shares(sis))) for store in grid.stores if sis]
    for store, future in asked:
        name = store.server.name
        answers = silences.result(name, future)
        for index in range(len(sis)):
            answer = answers if isinstance(answers, LafsError) else answers[index]
            if isinstance(answer, LafsError):
                silent[index][name] = answer.message
            else:
                found[index] += [(name, shnum) for shnum in sorted(answer)]
    return [_Listed(*each) for each in zip(found, silent, strict=True)]


def renew_found(
    grid: Grid, objects: Sequence[tuple[StorageIndex, Held]], lease: MakeLease, silences: Silences
) -> list[Renewed]:
    """The same for shares that were found: one call a server for all. Servers that are read-only are left out."""
    stores = {store.server.name: store for store in grid.stores if store.server.writable}
    items: dict[str, list[tuple[int, int]]] = {}
    for index, (_, held) in enumerate(objects):
        for name, shnum in held.found:
            if name in stores:
                items.setdefault(name, []).append((index, shnum))
    asked = []
    for name, places in items.items():
        wanted = [(objects[index][0], shnum) for index, shnum in places]
        asked.append((name, places, grid.submit(stores[name], partial(extend, wanted, lease))))
    counts = [Leases() for _ in objects]
    failures: list[list[Silence]] = [[] for _ in objects]
    for name, places, future in asked:
        answers = silences.result(name, future)
        for position, (index, _) in enumerate(places):
            answer = answers if isinstance(answers, LafsError) else answers[position]
            if isinstance(answer, LafsError):
                counts[index] += Leases(failed=1)
                failures[index].append(Silence(name, answer.message))
            else:
                counts[index] += Leases(renewed=1) if answer else Leases(added=1)
    return [
        Renewed(si, count, tuple(failed), tuple(Silence(*item) for item in sorted(held.silent.items())))
        for (si, held), count, failed in zip(objects, counts, failures, strict=True)
    ]


def extend(shares: Sequence[tuple[StorageIndex, int]], lease: MakeLease, store: ShareStore) -> list[bool | LafsError]:
    """True for a lease that was there and is renewed, False for one that was added."""
    leases: dict[StorageIndex, Lease] = {}
    for si, _ in shares:
        if si not in leases:
            leases[si] = replace(lease(si, store), owner=_OWNER)
    items = [LeaseOf(si, shnum, leases[si]) for si, shnum in shares]
    answers = store.renew(items)
    new = [position for position, answer in enumerate(answers) if answer is False]
    for position, answer in zip(new, store.add_lease([items[position] for position in new]), strict=True):
        answers[position] = answer if isinstance(answer, LafsError) else not answer
    return answers
