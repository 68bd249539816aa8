"""Kept versions of a mutable object put back in place, for all its shares on this host at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from lafscli.errors import CorruptShare, NotFound
from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import Refused
from lafscli.server.history import Kept
from lafscli.server.hostfolder import HostFolder, opened_file
from lafscli.server.hostguard import HostGuards
from lafscli.server.judge import holds_mutable, told_mutable
from lafscli.server.keeper import Keeper

Version = tuple[int, str]
"""Seqnum, and the first letters of the root hash in base32."""
LETTERS = 8


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of one share. `before`: the version that stands in its place, None where none is that could be
    told; `version`: how the kept one is named, None where that version of this share is not kept."""

    shnum: int
    before: Version | None
    version: str | None
    unchanged: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The version that is to stand again, and a step for each share that is, or was, on this host."""

    si: bytes
    version: Version
    steps: tuple[Step, ...]


def plan(
    folder: HostFolder, kept: list[Kept], si: bytes, *, seqnum: int | None = None, shnum: int | None = None
) -> Plan:
    """What a rollback would do. Without `seqnum` it is to the newest kept version below what stands there, or the
    newest at all where nothing does. NotFound where there is no such version."""
    text = b32encode(si)
    standing = {number: told for number, told in _standing(folder, si).items() if shnum in (None, number)}
    own = [one for one in kept if shnum in (None, one.shnum)]
    if not own:
        which = text if shnum is None else f"share {shnum} of {text}"
        raise NotFound(
            f"no version of {which} is kept in {folder.root}",
            hint="lafs server history --root DIR lists what is; only lafs serve --append-only --history keeps any",
        )
    told = [version for version in standing.values() if version is not None]
    version = _chosen(own, told, seqnum, text)
    # of two kept containers of one version the file system has one
    names = {one.shnum: one.version for one in own if _version(one) == version}
    steps = [
        Step(number, standing.get(number), names.get(number), standing.get(number) == version)
        for number in sorted({*standing, *names})
    ]
    return Plan(si, version, tuple(steps))


def _chosen(kept: list[Kept], standing: list[Version], seqnum: int | None, text: str) -> Version:
    if seqnum is not None:
        found = [one for one in kept if one.seqnum == seqnum]
        if not found:
            listed = ", ".join(str(number) for number in sorted({one.seqnum for one in kept}))
            raise NotFound(f"version {seqnum} of {text} is not kept; these are: {listed}")
        # two writers may have made one each; the one that was replaced last had more shares
        return _version(max(found, key=lambda one: one.since))
    older = [_version(one) for one in kept if not standing or _version(one) < max(standing)]
    if not older:
        raise NotFound(
            f"no version of {text} is kept that is older than what stands there",
            hint="--to SEQNUM puts a newer one back",
        )
    return max(older)


def _version(kept: Kept) -> Version:
    return kept.seqnum, kept.version.partition(".")[2]


def _standing(folder: HostFolder, si: bytes) -> dict[int, Version | None]:
    """The version of each share in its place, as far as its signature proves it."""
    text = b32encode(si)
    found: dict[int, Version | None] = {}
    with folder.there("shares", text[:2], text) as shares:
        for name in os.listdir(shares) if shares is not None else ():
            if not name.isascii() or not name.isdigit() or str(int(name)) != name or shares is None:
                continue
            with suppress(FileNotFoundError), opened_file(name, shares) as opened:
                if opened is not None:
                    found[int(name)] = _told(opened[0], opened[1].st_size, si, int(name))
    return found


def _told(descriptor: int, size: int, si: bytes, shnum: int) -> Version | None:
    with suppress(CorruptShare):
        if holds_mutable(descriptor):
            slot = told_mutable(descriptor, size, si, shnum)
            return slot.seqnum, b32encode(slot.root_hash)[:LETTERS]
    return None


def roll_back(
    folder: HostFolder, keeper: Keeper, guards: HostGuards, plan: Plan, *, failed: Callable[[int, str], None]
) -> tuple[int, ...]:
    """Carry it out; the share numbers that were put back. `failed` is told which were not, and why. What a step
    replaces is kept in its turn. GuardHeld where a client is changing the object."""
    done = []
    text = b32encode(plan.si)
    # made before it is needed, so that it belongs to the right one
    for names in (("shares", text[:2], text), ("history", text[:2], text), ("quarantine",)):
        with folder.beside(*names):
            pass
    with guards.changing(plan.si):
        for step in plan.steps:
            if step.unchanged or step.version is None:
                continue
            try:
                keeper.restore(plan.si, step.shnum, step.version)
                with folder.beside("shares", text[:2], text) as shares:
                    folder.give(str(step.shnum), shares)
                done.append(step.shnum)
            except Refused as error:
                failed(step.shnum, error.message)
    return tuple(done)
