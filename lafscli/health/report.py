"""What a check saw of one object, and what follows from that (CLI.md §5, spec 05 §5).

Missing, corrupt and unknown are three things: a server that did not answer makes its shares unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lafscli import placement
from lafscli.formats.caps import ChkVerifyCap
from lafscli.primitives.encoding import b32encode

Sort = Literal["corrupt", "incompatible", "unreadable"]
State = Literal["healthy", "degraded", "unrecoverable", "unknown"]


@dataclass(frozen=True, slots=True)
class Damage:
    """A share that is there and no good. `sort` tells bytes that are wrong (`corrupt`), a version that is not known
    (`incompatible`), and a file that the server can't read (`unreadable`)."""

    server: str
    shnum: int
    reason: str
    sort: Sort = "corrupt"


@dataclass(frozen=True, slots=True)
class Silence:
    """A server that did not answer: its shares are unknown."""

    server: str
    reason: str


@dataclass(frozen=True, slots=True)
class Leases:
    """What became of our leases: found and renewed, added where none was ours, failed."""

    renewed: int = 0
    added: int = 0
    failed: int = 0

    def __add__(self, other: Leases) -> Leases:
        return Leases(self.renewed + other.renewed, self.added + other.added, self.failed + other.failed)


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair came to. Successful: afterwards all n shares are there and none is corrupt. `written` counts the
    shares that it stored; `reason` says why it was not attempted, or not successful."""

    attempted: bool
    successful: bool
    written: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """One object. `cap` None is a literal file, which has no shares.

    `shares`: good ones, by number, with the servers that hold them; `happy`: the happiness that is wanted of it.
    When the check was to verify, `proved` of `to_prove` bytes of the blocks of good shares were read. `flaw`: why the
    file can't be rebuilt although its shares are what the uploader stored. `leases`: what became of ours, when
    they were to be renewed; `not_renewed`: server and reason of each that failed.
    """

    cap: ChkVerifyCap | None = field(repr=False)
    happy: int = 0
    shares: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    corrupt: tuple[Damage, ...] = ()
    unreachable: tuple[Silence, ...] = ()
    verified: bool = False
    proved: int = 0
    to_prove: int = 0
    flaw: str | None = None
    leases: Leases | None = None
    not_renewed: tuple[Silence, ...] = ()
    repair: Repair | None = None

    @property
    def storage_index(self) -> bytes | None:
        return None if self.cap is None else self.cap.si

    @property
    def kind(self) -> str:
        return "lit" if self.cap is None else self.cap.kind

    @property
    def good_shares(self) -> int:
        """Distinct numbers of good shares."""
        return len(self.shares)

    @property
    def holders(self) -> dict[str, list[int]]:
        """The good shares of each server that has one."""
        held: dict[str, list[int]] = {}
        for shnum, names in self.shares.items():
            for name in names:
                held.setdefault(name, []).append(shnum)
        return held

    @property
    def happiness(self) -> int:
        """Spec 05 §3, of the good shares."""
        held = self.holders
        if sum(map(len, held.values())) == len(self.shares):  # each share lies on one server, as a put leaves it
            return len(held)
        return placement.happiness(held)

    @property
    def spare(self) -> int | None:
        """How many servers, whichever they are, may be lost; -1 when there are too few shares already."""
        if self.cap is None:
            return None
        held = self.holders
        if sum(map(len, held.values())) > len(self.shares):
            return placement.spare(held, self.cap.k)
        left, lost = len(self.shares), -1
        for count in (0, *sorted(map(len, held.values()), reverse=True)):
            left -= count
            if left < self.cap.k:
                break
            lost += 1
        return lost

    @property
    def recoverable(self) -> bool | None:
        """Whether k good shares exist; None when silent servers leave that open."""
        if self.cap is None:
            return True
        if self.flaw is not None:
            return False
        if len(self.shares) >= self.cap.k:
            return True
        return None if self.unreachable else False

    @property
    def healthy(self) -> bool:
        """All n shares, none corrupt, on servers enough."""
        if self.cap is None:
            return True
        whole = len(self.shares) == self.cap.n and not self.corrupt and self.flaw is None
        return whole and self.happiness >= self.happy

    @property
    def state(self) -> State:
        """The one word for it. Damage that was seen counts before what silent servers leave open."""
        if self.healthy:
            return "healthy"
        if self.recoverable is not True:
            return "unknown" if self.recoverable is None else "unrecoverable"
        assert self.cap is not None
        missing = len(self.shares) < self.cap.n
        return "unknown" if missing and self.unreachable and not self.corrupt else "degraded"

    def document(self) -> dict[str, Any]:
        """The report as CLI.md §5 has it."""
        cap = self.cap
        found: dict[str, Any] = {
            "storage_index": None if cap is None else b32encode(cap.si),
            "kind": self.kind,
            "healthy": self.healthy,
            "recoverable": self.recoverable,
            "k": None if cap is None else cap.k,
            "n": None if cap is None else cap.n,
            "happy": None if cap is None else self.happy,
            "good_shares": self.good_shares,
            "happiness": self.happiness,
            "spare": self.spare,
            "shares": {str(shnum): list(names) for shnum, names in self.shares.items()},
            "corrupt": [{"server": bad.server, "share": bad.shnum, "reason": bad.reason} for bad in self.corrupt],
            "unreachable": [{"server": each.server, "reason": each.reason} for each in self.unreachable],
        }
        if self.verified:
            found |= {"bytes_proved": self.proved, "bytes_not_proved": self.to_prove - self.proved}
        if self.flaw is not None:
            found["flaw"] = self.flaw
        if self.leases is not None:
            found["leases"] = leases_document(self.leases)
        if self.repair is not None:
            found["repair"] = {
                "attempted": self.repair.attempted,
                "successful": self.repair.successful,
                "shares_written": self.repair.written,
            } | ({} if self.repair.reason is None else {"reason": self.repair.reason})
        return found


def leases_document(leases: Leases) -> dict[str, int]:
    """Leases as `renew` tells them."""
    return {"renewed": leases.renewed, "added": leases.added, "failed": leases.failed}


class Summary:
    """What a run over several objects found."""

    def __init__(self) -> None:
        self.objects = 0
        self.literal = 0
        self.states: dict[State, int] = {"healthy": 0, "degraded": 0, "unrecoverable": 0, "unknown": 0}
        self.corrupt_shares = 0
        self.repaired = 0
        self.leases = Leases()
        self.not_reached = 0
        """Objects that the time was too short for."""

    def add(self, report: CheckReport) -> None:
        self.objects += 1
        self.literal += report.cap is None
        self.states[report.state] += 1
        self.corrupt_shares += len(report.corrupt)
        self.repaired += report.repair is not None and report.repair.successful
        if report.leases is not None:
            self.leases += report.leases

    def document(self) -> dict[str, Any]:
        """The last line of several (CLI.md §5)."""
        found: dict[str, Any] = {"objects": self.objects}
        found |= {str(state): count for state, count in self.states.items()}
        found |= {"repaired": self.repaired, "corrupt_shares": self.corrupt_shares}
        if self.not_reached:
            found["not_reached"] = self.not_reached
        return found
