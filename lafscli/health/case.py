"""One object under repair: what is known of its shares, and what is to be written where (spec 05 §6).

Pure: a case is told what a check saw and what became of each change; `goal` says what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lafscli.formats.caps import ChkVerifyCap
from lafscli.health.report import CheckReport, Damage, Repair
from lafscli.placement import Candidate, Plan, plan
from lafscli.storage.store import ShareStore

Place = tuple[str, int]
"""A server and a share number."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be written. `fresh`: server of each share that comes to a free place; `over`: places where a bad share
    is replaced. The bad shares at `clear` go without a successor there, once their number is good elsewhere."""

    fresh: Mapping[int, str]
    over: frozenset[Place]
    clear: frozenset[Place]

    @property
    def places(self) -> frozenset[Place]:
        """All that are written to."""
        return self.over | {(server, shnum) for shnum, server in self.fresh.items()}


@dataclass(eq=False, slots=True)
class Case:
    """An object, as the check left it and as it has become since.

    `order`: the servers that answered, in permuted order. `good`: servers by share number. `bad`: shares that are there
    and no good. `failed`: servers that get nothing more, and why. `stuck`: places where what is there can't be changed.
    """

    report: CheckReport
    cap: ChkVerifyCap
    order: Sequence[ShareStore]
    good: dict[int, set[str]] = field(default_factory=dict)
    bad: dict[Place, Damage] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    stuck: dict[Place, str] = field(default_factory=dict)
    written: int = 0
    cleared: int = 0
    hopeless: str = ""

    @classmethod
    def of(cls, report: CheckReport, order: Sequence[ShareStore]) -> Case:
        """Open a case; `order` without the servers that were assumed lost."""
        assert isinstance(report.cap, ChkVerifyCap)
        silent = {each.server for each in report.unreachable}
        answered = [store for store in order if store.server.name not in silent]
        good = {shnum: set(names) for shnum, names in report.shares.items()}
        bad = {(each.server, each.shnum): each for each in report.corrupt}
        return cls(report, report.cap, answered, good, bad)

    # ---- what was learned

    def found_bad(self, server: str, shnum: int, reason: str) -> None:
        """A share that was taken for good is not."""
        self._lost(server, shnum)
        self.bad.setdefault((server, shnum), Damage(server, shnum, reason))

    def gone(self, server: str, shnum: int) -> None:
        """A share that was there is no more."""
        self._lost(server, shnum)
        self.bad.pop((server, shnum), None)

    def stands(self, server: str, shnum: int, *, ours: bool) -> None:
        """A good share is there now; `ours` if this repair wrote it."""
        self.bad.pop((server, shnum), None)
        self.good.setdefault(shnum, set()).add(server)
        self.written += ours

    def _lost(self, server: str, shnum: int) -> None:
        names = self.good.get(shnum, set())
        names.discard(server)
        if not names:
            self.good.pop(shnum, None)

    # ---- what to do

    def goal(self) -> Goal:
        """What to write with what is known now. A share that may lie on a silent server is not missing: then only bad
        ones are replaced, where they are."""
        if self.report.unreachable:
            return self._in_place()
        wanted = frozenset(range(self.cap.n)) - self.good.keys()
        sent = {shnum: str(server) for shnum, server in self._plan(wanted).send.items()}
        sent = self._back_to_their_places(sent)
        over = {(server, shnum) for shnum, server in sent.items() if (server, shnum) in self.bad}
        fresh = {shnum: server for shnum, server in sent.items() if (server, shnum) not in over}
        busy = {server for names in self.good.values() for server in names} | set(sent.values())
        return self._with_copies(fresh, over, busy)

    def _in_place(self) -> Goal:
        over: set[Place] = set()
        for server, shnum in sorted(self.bad, key=lambda place: (place[1], place[0])):
            again = shnum not in self.good and all(other != shnum for _, other in over)
            if again and self._may_change(server, shnum) and server not in self.failed:
                over.add((server, shnum))
        return self._with_copies({}, over, {server for names in self.good.values() for server in names})

    def _with_copies(self, fresh: Mapping[int, str], over: set[Place], busy: set[str]) -> Goal:
        """A bad copy of a share that is good elsewhere is made again only where its server would hold nothing else."""
        busy |= {server for server, _ in over}
        for server, shnum in sorted(self.bad):
            alone = server not in busy and server not in self.failed
            if shnum in self.good and alone and self._may_change(server, shnum):
                over.add((server, shnum))
                busy.add(server)
        rest = {place for place in self.bad if place not in over and self._may_change(*place)}
        return Goal(fresh, frozenset(over), frozenset(rest))

    def _plan(self, wanted: frozenset[int]) -> Plan:
        """The plan over the servers that an upload would use and those that hold shares; over all where that gives none
        of them a second share."""
        holding = {server for names in self.good.values() for server in names}
        nearest = {store.server.name for store in self.order[: 2 * self.cap.n]} | holding
        planned = self._planned(wanted, nearest)
        if len(nearest) < len(self.order) and (
            planned.happiness < min(self.cap.n, len(self.order)) or self._doubled(planned)
        ):
            wider = self._planned(wanted, {store.server.name for store in self.order})
            if (-wider.happiness, self._doubled(wider)) < (-planned.happiness, self._doubled(planned)):
                return wider
        return planned

    def _doubled(self, planned: Plan) -> int:
        """How many shares go to a server that has one, or gets another."""
        names = [str(name) for name in planned.send.values()]
        holding = {server for names in self.good.values() for server in names}
        return sum(name in holding or names.count(name) > 1 for name in names)

    def _planned(self, wanted: frozenset[int], names: set[str]) -> Plan:
        candidates = []
        for store in self.order:
            name = store.server.name
            if name in names:
                held = frozenset(shnum for shnum, servers in self.good.items() if name in servers)
                blocked = frozenset(shnum for server, shnum in self.stuck if server == name)
                writable = store.server.writable and name not in self.failed
                candidates.append(Candidate(name, writable, held, store.server.site, blocked))
        return plan(self.cap.n, candidates, wanted)

    def _back_to_their_places(self, sent: dict[int, str]) -> dict[int, str]:
        """Which of the shares each server gets is all one to the plan: give it the one that is bad there."""
        for server, shnum in sorted(self.bad):
            if shnum not in sent or sent[shnum] == server or not self._may_change(server, shnum):
                continue
            other = next((each for each, name in sent.items() if name == server and (name, each) not in self.bad), None)
            if other is not None and (sent[shnum], other) not in self.stuck:
                sent[shnum], sent[other] = server, sent[shnum]
        return sent

    def _may_change(self, server: str, shnum: int) -> bool:
        return (server, shnum) not in self.stuck and any(
            store.server.name == server and store.server.writable for store in self.order
        )

    # ---- how it ended

    @property
    def changed(self) -> bool:
        """Whether anything was written or moved: then it is to be looked at again."""
        return bool(self.written or self.cleared)

    def seen_again(self, after: CheckReport) -> CheckReport:
        """The report of what is left, from one that counted once more the shares on the servers that had answered."""
        shares = {
            shnum: tuple(name for name in names if (name, shnum) not in self.bad)
            for shnum, names in after.shares.items()
        }
        there = {(name, shnum) for shnum, names in after.shares.items() for name in names}
        unreachable = {each.server: each for each in (*after.unreachable, *self.report.unreachable)}
        still = [damage for place, damage in self.bad.items() if place in there]
        left = replace(
            self.report,
            shares={shnum: names for shnum, names in shares.items() if names},
            corrupt=tuple(sorted([*still, *after.corrupt], key=lambda bad: (bad.shnum, bad.server))),
            unreachable=tuple(unreachable[name] for name in sorted(unreachable)),
        )
        return self.closed(left)

    def closed(self, left: CheckReport | None = None) -> CheckReport:
        """The report with what the repair came to; `left` is what was seen after it."""
        if left is None:  # nothing was changed, but something may have been learned
            left = replace(
                self.report,
                shares={shnum: tuple(sorted(self.good[shnum])) for shnum in sorted(self.good)},
                corrupt=tuple(sorted(self.bad.values(), key=lambda bad: (bad.shnum, bad.server))),
            )
        successful = left.good_shares == self.cap.n and not left.corrupt
        return replace(left, repair=Repair(True, successful, self.written, None if successful else self._reason(left)))

    def _reason(self, left: CheckReport) -> str:
        if self.hopeless:
            return self.hopeless
        parts = [f"{server}: {reason}" for server, reason in sorted(self.failed.items())]
        parts += [f"{server}, share {shnum}: {reason}" for (server, shnum), reason in sorted(self.stuck.items())]
        readonly = {store.server.name for store in self.order if not store.server.writable}
        parts += [f"{server} is read-only" for server in sorted({bad.server for bad in left.corrupt} & readonly)]
        if left.unreachable and left.good_shares < self.cap.n:
            parts.append("shares that may lie on servers that did not answer are not made again")
        return "; ".join(parts) or "there is no server for all shares"
