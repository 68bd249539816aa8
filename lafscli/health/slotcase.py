"""One mutable object under repair at the same version: what its servers have, and what is to be written where.

Pure: a case is told what a look saw and what became of each change; `goal` says what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.slot import Header
from lafscli.health.case import Place
from lafscli.health.report import CheckReport, Damage, Repair
from lafscli.health.slots import SlotSeen
from lafscli.mutable.survey import Found
from lafscli.placement import Candidate, plan
from lafscli.storage.store import ShareStore

NEEDS_WRITE_CAP = "needs the write cap"


@dataclass(eq=False, slots=True)
class SlotCase:
    """An object, as a look saw it and as it has become since.

    `version` is the one to be made whole. `order`: the servers that answered, in permuted order; the shares of those
    that are `emptied` may be read and do not count. `good`: servers by share number. `stale`: places of other versions;
    `bad`: of what is no good. `ours` was written by this repair. `failed`: servers that get nothing more, and why;
    `stuck`: places that can't be changed. `spread`: second copies are wanted, and nothing else; each of `deciding`, the
    servers that have a say (spec 10 §2.6), should have a share then.
    """

    report: CheckReport
    seen: SlotSeen
    version: Header
    order: Sequence[ShareStore]
    emptied: frozenset[str] = frozenset()
    spread: bool = False
    deciding: frozenset[str] = frozenset()
    good: dict[int, set[str]] = field(default_factory=dict)
    stale: set[Place] = field(default_factory=set)
    bad: dict[Place, Damage] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stuck: dict[Place, str] = field(default_factory=dict)
    ours: set[Place] = field(default_factory=set)
    hopeless: str = ""

    @classmethod
    def of(
        cls,
        report: CheckReport,
        seen: SlotSeen,
        version: Header,
        order: Sequence[ShareStore],
        *,
        emptied: frozenset[str] = frozenset(),
        spread: bool = False,
        deciding: frozenset[str] = frozenset(),
    ) -> SlotCase:
        """Open a case. Shares that the check has proved to be bad are bad, whatever the look thinks of them."""
        answered = [store for store in order if store.server.name in seen.map.answered]
        case = cls(report, seen, version, answered, emptied, spread, deciding)
        case.bad = {(bad.server, bad.shnum): bad for bad in (*report.corrupt, *seen.damage())}
        for (name, shnum), share in seen.map.shares.items():
            if (name, shnum) in case.bad or name in emptied:
                continue
            if share.header == version:
                case.good.setdefault(shnum, set()).add(name)
            elif share.prefix == version.prefix:
                case.bad[name, shnum] = Damage(name, shnum, "share header: its offsets are not those of its version")
            else:
                case.stale.add((name, shnum))
        case.bad = {place: bad for place, bad in case.bad.items() if place[0] not in emptied}
        return case

    @property
    def writable(self) -> bool:
        """Whether shares may come to servers that have none: a write enabler is made from the write cap."""
        return isinstance(self.seen.cap, MutableWriteCap)

    @property
    def sources(self) -> list[Found]:
        """Shares of the version that seem to be good to read."""
        spoilt = {(bad.server, bad.shnum) for bad in self.report.corrupt if bad.sort != "key"}
        return [one for one in self.seen.map.of(self.version) if one.file.kind != "place" or one.place not in spoilt]

    # ---- what to do

    def goal(self) -> dict[str, list[int]]:
        """Share numbers by server: what is to be written there now. What may lie on a silent server is not missing."""
        n = self.version.prefix.n
        if self.spread:
            return _by_server(self._second_copies())
        places = {place for place in (*self.stale, *self.bad) if place[1] < n and self._may_change(place)}
        covered = {shnum for shnum, names in self.good.items() if names} | {shnum for _, shnum in places}
        wanted = frozenset(range(n)) - covered
        if self.seen.map.silent:
            wanted &= self._on_emptied()
        if wanted:
            places |= {(name, shnum) for shnum, name in self._planned(wanted, places).items()}
        return _by_server(places)

    def superfluous(self) -> dict[str, list[int]]:
        """What goes once all shares of the version are there: shares of other versions, of numbers that it does not
        have; and what is no good and can't be replaced without the write cap."""
        found: dict[str, list[int]] = {}
        for name, shnum in sorted({*self.stale, *self.bad}):
            over = shnum >= self.version.prefix.n and self._may_change((name, shnum))
            if over or ((name, shnum) in self.bad and self.stuck.get((name, shnum)) == NEEDS_WRITE_CAP):
                found.setdefault(name, []).append(shnum)
        return found

    def _on_emptied(self) -> frozenset[int]:
        """Numbers of the version that lie on servers which are emptied: these are known to be missing elsewhere."""
        shares = self.seen.map.shares.items()
        return frozenset(n for (name, n), share in shares if name in self.emptied and share.header == self.version)

    def _planned(self, wanted: frozenset[int], places: set[Place]) -> dict[int, str]:
        """A server for each number that has no place."""
        holders = {one.place[0] for one in self.seen.placed} | {name for name, _ in self.bad}
        sent = plan(self.version.prefix.n, self._candidates(places, None if self.writable else holders), wanted).send
        return {shnum: str(name) for shnum, name in sent.items()}

    def _second_copies(self) -> set[Place]:
        """For servers that have no share at all (spec 05 §6), and those of them that have a say first of all."""
        candidates = self._candidates(set(), None)
        sent = plan(self.version.prefix.n, candidates, self.good.keys()).send
        empty = {str(each.server) for each in candidates if not each.held}
        chosen: dict[str, int] = {}
        for shnum, name in sent.items():
            if name in empty:
                chosen.setdefault(str(name), shnum)
        copies = {shnum: len(names) for shnum, names in sorted(self.good.items()) if names}
        for name in (str(each.server) for each in candidates if each.writable and str(each.server) in self.deciding):
            if name in empty and name not in chosen and copies:
                chosen[name] = min(copies, key=lambda shnum: copies[shnum])
                copies[chosen[name]] += 1
        return set(chosen.items())

    def _candidates(self, places: set[Place], only: set[str] | None) -> list[Candidate]:
        candidates = []
        for store in self.order:
            name = store.server.name
            if name in self.emptied:
                continue
            held = {shnum for shnum, names in self.good.items() if name in names}
            held |= {shnum for server, shnum in places if server == name}
            blocked = {shnum for server, shnum in (*self.stuck, *self.bad, *self.stale) if server == name} - held
            able = self._able(store) and (only is None or name in only)
            candidates.append(Candidate(name, able, frozenset(held), store.server.site, frozenset(blocked)))
        return candidates

    def _able(self, store: ShareStore) -> bool:
        return store.server.takes_mutable and store.server.name not in self.failed

    def _may_change(self, place: Place) -> bool:
        return place not in self.stuck and any(
            store.server.name == place[0] and self._able(store) for store in self.order
        )

    # ---- what was learned

    def stands(self, name: str, shnum: int, *, ours: bool) -> None:
        """The share of the version is there now; `ours` if this repair wrote it."""
        self.bad.pop((name, shnum), None)
        self.stale.discard((name, shnum))
        self.good.setdefault(shnum, set()).add(name)
        if ours:
            self.ours.add((name, shnum))

    def found_bad(self, damage: Damage) -> None:
        """A share that was taken for good is not."""
        place = damage.server, damage.shnum
        self.good.get(damage.shnum, set()).discard(damage.server)
        if not self.good.get(damage.shnum, {""}):
            del self.good[damage.shnum]
        self.stale.discard(place)
        self.bad[place] = damage

    def gone(self, name: str, shnum: int) -> None:
        """What was there was taken away."""
        self.bad.pop((name, shnum), None)
        self.stale.discard((name, shnum))

    # ---- how it ended

    def closed(self, left: CheckReport) -> CheckReport:
        """The report of what was left, with what the repair came to. Of what the check has proved to be bad, what was
        not replaced is so still."""
        known = {(bad.server, bad.shnum) for bad in left.corrupt}
        still = [bad for place, bad in self.bad.items() if place not in known and bad in self.report.corrupt]
        shares: Mapping[int, tuple[str, ...]] = {
            shnum: tuple(name for name in names if (name, shnum) not in {(bad.server, bad.shnum) for bad in still})
            for shnum, names in left.shares.items()
        }
        corrupt = sorted([*left.corrupt, *still], key=lambda bad: (bad.shnum, bad.server))
        before = self.report
        result = replace(
            left,
            shares={shnum: names for shnum, names in shares.items() if names},
            corrupt=tuple(corrupt),
            verified=before.verified,
            proved=before.proved,
            to_prove=before.to_prove,
            leases=before.leases,
            not_renewed=before.not_renewed,
        )
        reason = None if result.complete else self._reason(result)
        return replace(result, repair=Repair(True, result.complete, len(self.ours), reason))

    def why_not(self) -> list[str]:
        """Why servers and places were not given what they should have."""
        if self.hopeless:
            return [self.hopeless]
        parts = [f"{server}: {reason}" for server, reason in sorted(self.failed.items())]
        parts += [f"{server}, share {shnum}: {reason}" for (server, shnum), reason in sorted(self.stuck.items())]
        readonly = {store.server.name for store in self.order if not store.server.writable}
        wrong = {name for name, _ in (*self.bad, *self.stale)}
        return parts + [f"{name} is read-only" for name in sorted(wrong & readonly)]

    def _reason(self, left: CheckReport) -> str:
        parts = self.why_not()
        missing = left.good_shares < left.encoding[1]
        if left.unreachable and missing and not self.hopeless:
            parts.append("shares that may lie on servers that did not answer are not made again")
        elif missing and not self.writable and NEEDS_WRITE_CAP not in "".join(parts):
            parts.append(f"servers without a share of it can't get one: {NEEDS_WRITE_CAP}")
        return "; ".join(parts) or "there is no server for all shares"


def _by_server(places: Iterable[Place]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for name, shnum in sorted(places):
        found.setdefault(name, []).append(shnum)
    return found
