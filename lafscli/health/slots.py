"""Mutable objects under check: the shares and versions that were seen of each (spec 03 §7, 05 §5).

No guard is taken. Where a writer seems to be at work, or to have died, the guards are looked into, and once more a
moment later: in every write there is a moment when only that tells what there is (spec 10 §2.9).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lafscli.errors import IncompatibleShare, LafsError
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.formats.slot import Header
from lafscli.health.report import Damage, MutableCap, SlotState, Sort
from lafscli.mutable.survey import SHALLOW, Found, Place, SlotMap, survey, survey_many
from lafscli.storage.grid import Grid
from lafscli.storage.memory import Seen as Memory
from lafscli.storage.sight import Container
from lafscli.storage.store import ShareStore

_LOOKS = 3
_PAUSE = 0.5
"""Seconds before a slot at which a writer seems to be at work is looked at again."""


@dataclass(eq=False, slots=True)
class SlotSeen:
    """One mutable object. `cap` is as it was given. `spoilt`: shares that are good to read, and carry a private key
    that is not that of the write cap. `remembered`: seqnum that this home has seen. `looked` of `to_look` bytes of
    blocks were read and proved."""

    cap: MutableCap
    directory: bool
    map: SlotMap
    remembered: int = 0
    spoilt: dict[Place, str] = field(default_factory=dict)
    looked: int = 0
    to_look: int = 0

    @property
    def version(self) -> Header | None:
        """The version that is looked at: the best one, else some unrecoverable one (spec 05 §5)."""
        for versions in (self.map.versions, self.map.all_versions):
            if versions.best is not None:
                return versions.best
        return next(iter(self.map.versions.unrecoverable), None)

    @property
    def found(self) -> list[Place]:
        """Where shares lie that can carry a lease."""
        return sorted(self.map.shares)

    @property
    def silent(self) -> dict[str, str]:
        return dict(self.map.silent)

    @property
    def placed(self) -> list[Found]:
        """The shares in place that are good, of whatever version."""
        return [one for one in self.map.found if one.file.kind == "place"]

    def shares(self) -> dict[int, tuple[str, ...]]:
        """Servers by number, of the good shares of the version."""
        version = self.version
        held: dict[int, list[str]] = {}
        for (name, shnum), share in self.map.shares.items():
            if share.header == version and (name, shnum) not in self.spoilt:
                held.setdefault(shnum, []).append(name)
        return {shnum: tuple(sorted(held[shnum])) for shnum in sorted(held)}

    def damage(self) -> list[Damage]:
        """What is there and no good."""
        found = [Damage(*place, reason, sort_of(self.map.bad[place])) for place, reason in self.map.corrupt.items()]
        found += [Damage(*place, reason, "key") for place, reason in self.spoilt.items() if place in self.map.shares]
        return sorted(found, key=lambda bad: (bad.shnum, bad.server))

    def state(self) -> SlotState:
        """The versions, as a report tells them."""
        placed, everything = self.map.versions, self.map.all_versions
        version = self.version
        if version is None:
            return SlotState(0, 0, newer=self.remembered or None)
        interrupted = everything.best is not None and everything.best != placed.best
        versions = everything if interrupted else placed
        others: dict[str, list[tuple[int, int]]] = {}
        other_versions = [header for header in placed.holders if header != version]
        for number, other in enumerate(other_versions):
            for shnum, names in placed.holders[other].items():
                for name in names:
                    others.setdefault(str(name), []).append((number, shnum))
        best = 0 if versions.best is None else versions.best.prefix.seqnum
        newest = max((one.prefix.seqnum for one in versions.newer_unrecoverable), default=0)
        newest = max(newest, self.remembered)
        return SlotState(
            len(versions.recoverable),
            len(versions.unrecoverable),
            version.prefix.k,
            version.prefix.n,
            version.prefix.seqnum,
            version.prefix.data_length,
            {name: tuple(sorted(some)) for name, some in sorted(others.items())},
            newest if best < newest else None,
            versions.needs_merge,
            interrupted,
            version.prefix.root_hash,
            tuple((other.prefix.seqnum, other.prefix.root_hash) for other in other_versions),
        )


def sort_of(file: Container) -> Sort:
    """What is wrong with a container that holds no good share."""
    if isinstance(file.front, LafsError):
        return "unreadable"
    try:
        container = MutableContainer.parse(file.front[:DATA_OFFSET], file.size)
        Header.parse(file.front[DATA_OFFSET:], container.data_length)
    except IncompatibleShare:
        return "incompatible"
    except LafsError:
        pass
    return "corrupt"


def look(
    grid: Grid,
    caps: Sequence[tuple[MutableCap, bool]],
    stores: Sequence[ShareStore],
    memory: Memory | None = None,
    *,
    depth: int = SHALLOW,
    sleep: Callable[[float], None] = time.sleep,
) -> list[SlotSeen]:
    """What these servers have of mutable objects, each with whether it is a directory; a few round trips for all."""
    maps = survey_many(grid, [cap.verify_cap() for cap, _ in caps], depth=depth, stores=stores)
    objects = [SlotSeen(cap, directory, found) for (cap, directory), found in zip(caps, maps, strict=True)]
    uneasy = [seen for seen in objects if _uneasy(seen.map)]
    for attempt in range(_LOOKS):
        if not uneasy:
            break
        if attempt:
            sleep(_PAUSE)
        for seen in uneasy:
            seen.map = survey(grid, seen.map.cap, depth=depth, guards=True, stores=stores)
        uneasy = [seen for seen in uneasy if _uneasy(seen.map) and _guarded(seen.map)]
    if memory is not None:
        for seen in objects:
            seen.remembered = (memory.highest(seen.map.cap.si, seen.map.cap.fingerprint) or (0, b""))[0]
    return objects


def _guarded(found: SlotMap) -> bool:
    """Whether there is something in a guard: that of a writer at work, or of one that died."""
    return any(one.file.kind != "place" for one in found.found)


def _uneasy(found: SlotMap) -> bool:
    """Whether a writer may be at work: there is nothing recoverable in place, or a trace of something newer."""
    return bool(found.answered) and (found.versions.best is None or bool(found.versions.newer_unrecoverable))
