"""Every share of a folder proven without any key: its container, its trees and blocks, a mutable one's signature.

What is damaged goes to `quarantine/` under the turn and the guard of its storage index, if it is still what was
proven; nothing is deleted. What this lafs does not know stays: it may be newer than we are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from lafscli.errors import CorruptShare, GuardHeld, IncompatibleShare
from lafscli.formats import container
from lafscli.server import judge
from lafscli.server.advisories import advise
from lafscli.server.backend import Refused
from lafscli.server.hostfolder import HostFolder, fingerprint, opened_file, same_file
from lafscli.server.hostguard import HostGuards, utc_day
from lafscli.server.kept import kept_holdings
from lafscli.server.leasebook import size_without_tail
from lafscli.server.shelves import rename_keeping

_LOOKS = 3
"""So often a share that changes while it is proven is proven again."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A damaged share. `lies`: where its container is now, None where it was left; `kept`: it was a kept version."""

    si: str
    shnum: int
    reason: str
    found: str
    lies: str | None
    kept: bool = False
    left: str = ""
    """Why it was left."""


@dataclass(slots=True)
class Assayed:
    """What a run has found. `unknown`: path and reason of what can't be proven, since its version is not known."""

    shares: int = 0
    bytes: int = 0
    kept_versions: int = 0
    damaged: list[Damage] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Item:
    """A file to be proven."""

    si: bytes
    text: str
    shnum: int
    name: str
    folder: int
    path: str
    kept: bool = False


class Assay:
    """One run over a folder. `guards` is None for a dry run, which changes nothing. `damaged` is called as soon as
    damage is found, `advance` with the bytes that were proven."""

    def __init__(
        self,
        folder: HostFolder,
        guards: HostGuards | None,
        *,
        now: Callable[[], float],
        damaged: Callable[[Damage], None] = lambda _: None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._guards = guards
        self._now = now
        self._damaged = damaged
        self._advance = advance
        self.found = Assayed()

    def run(self) -> Assayed:
        """All shares in order, then all kept versions."""
        for holding in self._folder.holdings():
            for shnum, name in holding.files:
                path = f"{holding.path}/{name}"
                self._assay(_Item(holding.si, holding.text, shnum, name, holding.folder, path))
        for kept in kept_holdings(self._folder):
            for version in kept.versions:
                path = f"{kept.path}/{version.name}"
                self._assay(_Item(kept.si, kept.text, version.shnum, version.name, kept.folder, path, kept=True))
        return self.found

    def _assay(self, item: _Item) -> None:
        try:
            self._prove(item)
        except FileNotFoundError:
            return  # it went while we looked
        except (OSError, Refused) as error:
            self._folder.failed(item.path, error)

    def _prove(self, item: _Item) -> None:
        reason, known = None, None
        for _ in range(_LOOKS):
            with opened_file(item.name, item.folder) as opened:
                if opened is None:
                    self._folder.foreign += 1
                    return
                descriptor, known = opened
                reason = self._verdict(descriptor, known.st_size, item)
                if reason is None or fingerprint(os.fstat(descriptor)) == fingerprint(known):
                    break
        assert known is not None, "there is at least one look"
        self._advance(known.st_size)
        self.found.bytes += known.st_size
        if item.kept:
            self.found.kept_versions += 1
        else:
            self.found.shares += 1
        if reason is not None:
            self._quarantine(item, reason, known)

    def _verdict(self, descriptor: int, size: int, item: _Item) -> str | None:
        """What is wrong with it, None if nothing is. An unknown version is noted, and nothing is wrong with it."""
        try:
            head = os.pread(descriptor, container.HEAD_SIZE, 0)
            if size < container.HEAD_SIZE and any(magic.startswith(head) for magic in container.MUTABLE_MAGICS):
                return "container: header is cut short"
            if container.is_mutable(head):
                judge.prove_mutable(descriptor, size, item.si, item.shnum)
            else:
                # spec 09 §1: the share's own offsets rule; what is behind it spoils nothing
                size = size_without_tail(descriptor, size) or size
                judge.prove_immutable(descriptor, size, item.si, item.shnum)
        except IncompatibleShare as error:
            self.found.unknown.append((item.path, error.message))
        except CorruptShare as error:
            return error.message
        return None

    # ---- damage

    def _quarantine(self, item: _Item, reason: str, known: os.stat_result) -> None:
        """Move it away if it is what was proven; a share that somebody has replaced meanwhile is another one."""
        lies, left = None, "a dry run moves nothing"
        if self._guards is not None:
            token = self._guards.token()
            try:
                with self._guards.changing(item.si):
                    if not same_file(item.name, item.folder, known):
                        return
                    lies = self._move(item, token)
                    if not item.kept:
                        self._folder.forget_if_empty(item.text)
            except GuardHeld as error:
                left = error.message
            stood = item.path
            advise(self._folder, item.text, item.shnum, reason, now=self._now(), stood=stood, lies=lies, token=token)
        damage = Damage(item.text, item.shnum, reason, item.path, lies, item.kept, "" if lies is not None else left)
        self.found.damaged.append(damage)
        self._damaged(damage)

    def _move(self, item: _Item, token: str) -> str:
        # as clients name what they put there (guard.py): the token makes the name free
        name = f"{utc_day(self._now())}.{item.text}.{item.shnum}.{token}"
        with self._folder.beside("quarantine") as quarantine:
            rename_keeping(item.folder, item.name, quarantine, name)
        return f"quarantine/{name}"
