"""Going in: guards on the servers that decide, and a survey under them (spec 10 §2.6-7, §2.8a-b)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from lafscli.errors import (
    CannotTell,
    FileDenied,
    GuardHeld,
    GuardLost,
    LafsError,
    NotHappy,
    NotRecoverable,
    NotSupported,
    OutOfSpace,
    Unreachable,
)
from lafscli.formats.caps import MutableVerifyCap
from lafscli.formats.slot import Header
from lafscli.mutable.guards import Guards
from lafscli.mutable.majority import require_members, require_same_list
from lafscli.mutable.quorum import Quorum
from lafscli.mutable.survey import DEEP, Sights, SlotMap
from lafscli.primitives.encoding import b32encode
from lafscli.storage.grid import Grid
from lafscli.storage.membership import Membership
from lafscli.storage.sight import Sight
from lafscli.storage.store import ShareStore


@dataclass(frozen=True, slots=True)
class _Said:
    """What a server said: whether its guard is ours, what it has, which lists of servers it knows."""

    guarded: bool
    sights: list[Sight]
    membership: Membership | None = None
    refusal: LafsError | None = None


class Entry:
    """Takes the guards and surveys under them.

    `guarded`: servers whose guard is held, in permuted order; `silent` says of others why it is not. Servers that
    are no part of H are looked at too, and guarded if they have a share, or a guard that somebody left.
    """

    def __init__(
        self,
        grid: Grid,
        cap: MutableVerifyCap,
        guards: Guards,
        n: int,
        happy: int,
        membership: Membership | None,
        *,
        one_first: bool,
    ) -> None:
        self.n = n
        self._happy = happy
        self._grid = grid
        self._cap = cap
        self._guards = guards
        self._membership = membership
        self._one_first = one_first
        self._order = grid.permuted(cap.si)
        self._stores = {store.server.name: store for store in self._order}
        self._sights = Sights(cap)
        self._guarded: set[str] = set()
        self._tried: set[str] = set()
        self.errors: dict[str, LafsError] = {}
        self.seen: dict[str, list[Sight]] = {}

    @property
    def silent(self) -> dict[str, str]:
        return {name: error.message for name, error in self.errors.items()}

    @property
    def quorum(self) -> Quorum:
        return Quorum.of(self._cap.si, self.n, self._grid.stores, self._membership)

    @property
    def guarded(self) -> list[ShareStore]:
        return [store for store in self._order if store.server.name in self._guarded]

    @property
    def further(self) -> list[ShareStore]:
        """Servers that answered, are no part of H, and have no share: they may be given some."""
        return [
            store
            for store in self._order
            if store.server.takes_mutable and store.server.name in self.seen and store.server.name not in self._tried
        ]

    # ---- guards

    def enter(self) -> SlotMap:
        """Take the guards. GuardHeld as soon as another one has any of them; what was taken is then for the caller to
        give up. UsageError for a server that knows a newer list of the grid's servers (spec 10 §2.7)."""
        if self._membership is not None:
            require_members(self._membership, [store.server for store in self._order])
        if self._one_first:
            # two that meet on many servers meet on this one first, and one of them waits
            for name in self._deciding():
                if self._take([self._stores[name]]):
                    break
        others = [store for name, store in self._stores.items() if name not in set(self.quorum)]
        self._take([self._stores[name] for name in self._deciding()], others)
        while True:
            found = self._sights.map()
            self.n = _shares_of(found, self.n)
            holders = {name for name, sights in self.seen.items() if any(map(_traces, sights))}
            wanted = [*self._deciding(), *sorted(holders - self._tried - set(self._deciding()))]
            if not wanted:
                return found
            self._take([self._stores[name] for name in wanted])

    def guard_too(self, stores: Sequence[ShareStore]) -> SlotMap:
        """Take guards on further servers, which are to be given shares."""
        self._take(stores)
        return self._sights.map()

    def _deciding(self) -> list[str]:
        """Servers of H that are configured here and were not tried yet."""
        return [name for name in self.quorum if name in self._stores and name not in self._tried]

    def _take(self, stores: Sequence[ShareStore], others: Sequence[ShareStore] = ()) -> bool:
        """Take guards on `stores`, look at `others`; whether any guard was had."""
        self._tried |= {store.server.name for store in stores}
        work = dict.fromkeys(stores, self._enter) | {
            store: partial(_glance, self._cap.si) for store in others if store.server.name not in self._tried
        }
        held: GuardHeld | GuardLost | None = None
        had = False
        for name, said in self._guards.each(work, self._enough).items():
            store = self._stores[name]
            if isinstance(said, GuardHeld | GuardLost):
                held = said
            elif isinstance(said, LafsError):
                self.errors[name] = said
                self._sights.add(store, said)
            else:
                self.seen[name] = said.sights
                self._sights.add(store, said.sights)
                require_same_list(self._membership, said.membership, name)
                if said.guarded:
                    had = True
                    self._guarded.add(name)
                elif name in self._tried:
                    self.errors[name] = said.refusal or LafsError("nothing can be changed there")
        if held is not None:
            raise held
        return had

    def _enough(self, said: Mapping[str, _Said | LafsError]) -> bool:
        """Whether guards are held on enough servers, so that one that does not answer is no longer waited for."""
        names = self._guarded | {name for name, one in said.items() if isinstance(one, _Said) and one.guarded}
        return self.quorum.majority(names) and len(names) >= min(self._happy, len(self.quorum.ids))

    def _enter(self, store: ShareStore) -> _Said:
        """In the server's worker: take the guard, and look at everything under it. Two round trips where the shares lie
        on the servers that come first for them."""
        count = len(self._order)
        expected = range(self._order.index(store), self.n, count)
        try:
            entered = self._guards.take(store, DEEP, expected)
        except (NotSupported, FileDenied, OutOfSpace) as refusal:
            return replace(_glance(self._cap.si, store), refusal=refusal)
        return _Said(True, [entered.placed, entered.left], entered.membership)

    # ---- what to build on

    def base(self, found: SlotMap, lost: frozenset[str], *, force: bool) -> Header | None:
        """The version to build on; None if the file does not exist yet. `lost`: servers that failed since.

        NotHappy where half of H or more is unreachable or holds something newer: an acknowledged version might be among
        what is not seen (spec 10 §2.8b). So might it be where a server has a container without a good share: that
        counts as something newer, whatever else lies there.
        """
        reachable = self._guarded - lost
        if not self.quorum.majority(reachable):
            raise self.too_few(reachable, "answered")
        versions = found.all_versions
        base = versions.best
        if base is None and (found.counted or found.bad):
            raise unreadable(found)
        newer = {name for name, _ in found.bad} | {
            one.place[0]
            for one in found.counted
            if base is not None
            and (one.share.prefix.seqnum, one.share.prefix.root_hash) > (base.prefix.seqnum, base.prefix.root_hash)
        }
        if not force and not self.quorum.majority(reachable - newer):
            raise NotHappy(
                f"{b32encode(self._cap.si)[:5]}: too many servers hold damaged shares, or a newer version than can be "
                "read; nothing was changed",
                hint="bring back the servers that are away; lafs repair mends damage, and with --force gives the newer "
                "version up",
            )
        return base

    def too_few(self, names: set[str] | frozenset[str], what: str) -> LafsError:
        """The refusal, with the servers that are lacking."""
        if not self._guarded and len(self.silent) == len(self._grid.stores):
            return Unreachable(f"no server could be reached ({told(self.silent)})", hint="lafs server status says more")
        message = f"{b32encode(self._cap.si)[:5]}: {self.quorum.count(names)} that decide {what}, more than half must; "
        message += "nothing was changed"
        return NotHappy(f"{message} ({told(self.silent)})" if self.silent else message, hint="try again later")


def _glance(si: bytes, store: ShareStore) -> _Said:
    return _Said(False, list(store.everywhere(si, DEEP)))


def _traces(sight: Sight) -> bool:
    """Whether there is a share, or somebody's guard."""
    return bool(sight.containers) or (sight.survivors is not None and sight.survivors.any)


def _shares_of(found: SlotMap, n: int) -> int:
    """N of the file, by its best version, or else its newest."""
    versions = found.all_versions
    version = versions.best or next(iter(versions.unrecoverable), None)
    return n if version is None else version.prefix.n


def unreadable(found: SlotMap) -> LafsError:
    """There are shares, and no version can be read."""
    silent = found.silent
    counts = [(len(held), version.prefix.k) for version, held in found.all_versions.holders.items()]
    have, need = max(counts, key=lambda count: count[0] - count[1], default=(0, 1))
    message = f"not enough shares for {b32encode(found.cap.si)[:5]}: found {have}, need {need}; nothing was changed"
    if not silent:
        return NotRecoverable(message, hint="every server answered: bring back a server that holds more shares")
    return CannotTell(message, hint=f"servers {', '.join(sorted(silent))} did not answer; try again later")


def told(reasons: dict[str, str]) -> str:
    """Servers and reasons, those with one reason together."""
    servers: dict[str, list[str]] = {}
    for name, reason in sorted(reasons.items()):
        servers.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in servers.items())
