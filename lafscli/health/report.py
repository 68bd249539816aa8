"""What a check saw of one object, and what follows from that (CLI.md §5, spec 05 §5).

Missing, corrupt and unknown are three things: a server that did not answer makes its shares unknown.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lafscli import placement
from lafscli.formats.caps import ChkVerifyCap, MutableReadCap, MutableVerifyCap, MutableWriteCap
from lafscli.primitives.encoding import b32encode

MutableCap = MutableWriteCap | MutableReadCap | MutableVerifyCap
Sort = Literal["corrupt", "incompatible", "unreadable", "key"]
State = Literal["healthy", "degraded", "unrecoverable", "unknown"]


@dataclass(frozen=True, slots=True)
class Damage:
    """A share that is there and no good. `sort` tells bytes that are wrong (`corrupt`), a version that is not known
    (`incompatible`), a file that the server can't read (`unreadable`), and a mutable share that is good but for the
    private key in it (`key`)."""

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

    def after(self, before: Repair | None) -> Repair:
        """This one and an earlier one together."""
        if before is None or not before.attempted:
            return self
        written = before.written + self.written
        return Repair(True, before.successful and self.successful, written, before.reason or self.reason)


@dataclass(frozen=True, slots=True)
class SlotState:
    """What there is of the versions of a mutable object (spec 03 §7, 05 §5).

    How many are `recoverable`, and how many `unrecoverable`. `k`, `n`, `seqnum` and `size` are those of the version
    that is looked at: the best one, else some unrecoverable one; 3 of 10 when there is none. `others`: valid shares of
    other versions, by server, each as (number of the version, share number). `newer`: seqnum of an unrecoverable one
    above all recoverable ones; `merge`: two recoverable ones have one seqnum; `interrupted`: only what a writer that
    died has left in the guards makes it recoverable. `root_hash` is that of the version that is looked at;
    `other_versions`: seqnum and root hash of the other ones, by their numbers.
    """

    recoverable: int
    unrecoverable: int
    k: int = 3
    n: int = 10
    seqnum: int = 0
    size: int = 0
    others: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    newer: int | None = None
    merge: bool = False
    interrupted: bool = False
    root_hash: bytes = b""
    other_versions: tuple[tuple[int, bytes], ...] = ()

    @property
    def single(self) -> bool:
        """Whether there is one version, and no trace of another."""
        return self.recoverable == 1 and not self.unrecoverable and not self.interrupted and self.newer is None


@dataclass(frozen=True, slots=True)
class CheckReport:
    """One object. `cap` is that of the file, also of a directory (`directory`); None is a literal one, without shares.

    `shares`: good ones (of the best version), by number, with the servers that hold them; `slot`: the versions of a
    mutable object, `given` its cap as it was given, which may grant more. `happy`: the happiness that is wanted of it.
    When the check was to verify, `proved` of `to_prove` bytes of the blocks of good shares were read. `flaw`: why the
    file can't be rebuilt although its shares are what the uploader stored. `leases`: what became of ours, when
    they were to be renewed; `not_renewed`: server and reason of each that failed.
    """

    cap: ChkVerifyCap | MutableVerifyCap | None = field(repr=False)
    happy: int = 0
    directory: bool = False
    given: MutableCap | None = field(default=None, repr=False)
    slot: SlotState | None = None
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
        kind = "lit" if self.cap is None else self.cap.kind
        if not self.directory:
            return kind
        return "dir2" if kind == "sdmf" else f"dir2-{kind}"

    @property
    def encoding(self) -> tuple[int, int]:
        """k and n of an object that has shares."""
        if isinstance(self.cap, ChkVerifyCap):
            return self.cap.k, self.cap.n
        assert self.slot is not None, "a literal object has none"
        return self.slot.k, self.slot.n

    @property
    def complete(self) -> bool:
        """Whether all n shares are there, and nothing that is bad or of another version."""
        if self.cap is None:
            return True
        whole = len(self.shares) == self.encoding[1] and not self.corrupt and self.flaw is None
        return whole and (self.slot is None or self.slot.single)

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
        """Spec 05 §3, of the good shares; of a mutable object, of all valid ones, each version with its own."""
        held = self.holders
        if self.slot is not None and self.slot.others:
            edges: dict[str, list[Hashable]] = {server: list(shnums) for server, shnums in held.items()}
            for server, others in self.slot.others.items():
                edges.setdefault(server, []).extend(others)
            return placement.happiness(edges)
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
            return placement.spare(held, self.encoding[0])
        left, lost = len(self.shares), -1
        for count in (0, *sorted(map(len, held.values()), reverse=True)):
            left -= count
            if left < self.encoding[0]:
                break
            lost += 1
        return lost

    @property
    def recoverable(self) -> bool | None:
        """Whether k good shares exist (of some version); None when silent servers leave that open."""
        if self.cap is None:
            return True
        if self.flaw is not None:
            return False
        if len(self.shares) >= self.encoding[0] if self.slot is None else self.slot.recoverable:
            return True
        return None if self.unreachable else False

    @property
    def healthy(self) -> bool:
        """All n shares of one version, none corrupt and none of another version, on servers enough."""
        return self.cap is None or (self.complete and self.happiness >= self.happy)

    @property
    def state(self) -> State:
        """The one word for it. Damage that was seen counts before what silent servers leave open."""
        if self.healthy:
            return "healthy"
        if self.recoverable is not True:
            return "unknown" if self.recoverable is None else "unrecoverable"
        missing = len(self.shares) < self.encoding[1]
        seen = self.corrupt or (self.slot is not None and not self.slot.single)
        return "unknown" if missing and self.unreachable and not seen else "degraded"

    def document(self) -> dict[str, Any]:
        """The report as CLI.md §5 has it."""
        cap = self.cap
        k, n = (None, None) if cap is None else self.encoding
        found: dict[str, Any] = {
            "storage_index": None if cap is None else b32encode(cap.si),
            "kind": self.kind,
            "healthy": self.healthy,
            "recoverable": self.recoverable,
            "k": k,
            "n": n,
            "happy": None if cap is None else self.happy,
            "good_shares": self.good_shares,
            "happiness": self.happiness,
            "spare": self.spare,
            "shares": {str(shnum): list(names) for shnum, names in self.shares.items()},
            "corrupt": [{"server": bad.server, "share": bad.shnum, "reason": bad.reason} for bad in self.corrupt],
            "unreachable": [{"server": each.server, "reason": each.reason} for each in self.unreachable],
        }
        if self.slot is not None:
            versions = {"recoverable": self.slot.recoverable, "unrecoverable": self.slot.unrecoverable}
            found |= {"seqnum": self.slot.seqnum, "versions": versions}
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
