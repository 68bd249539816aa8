"""Shares of a version that exists, put in place on one server, under its guard (spec 00 §4, 10 §2-3).

A refill never changes which version is the newest: under the guard the server is looked at again, and where anything
newer has come meanwhile, nothing is written. What is replaced is a share of an earlier version, which the one that is
written succeeds, or one that is no good, which goes to `quarantine/`. So the guard of that one server is enough: the
server ends up with a version that it might as well have been given by its writer, and no majority loses anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from lafscli.errors import CorruptShare, LafsError, NotGranted, ServerError
from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.formats.slot import Header
from lafscli.health.case import Place
from lafscli.health.report import MutableCap
from lafscli.health.slotcase import NEEDS_WRITE_CAP
from lafscli.health.slots import sort_of
from lafscli.mutable.containers import container_for
from lafscli.mutable.majority import require_same_list
from lafscli.mutable.survey import SHALLOW, Sights, SlotMap
from lafscli.primitives.hashes import write_enabler
from lafscli.storage.membership import Membership
from lafscli.storage.sight import Container
from lafscli.storage.store import Buffer, FileWriter, Guard, Lease, ShareStore


@dataclass(frozen=True, slots=True)
class Refill:
    """What is to be put on one server. `bad`: places of which it was proved that they are no good. `force`: also in
    the place of what is of an unknown version."""

    cap: MutableCap
    version: Header
    shnums: Sequence[int]
    bad: frozenset[Place]
    lease: Lease
    membership: Membership | None
    patience: float
    force: bool = False


@dataclass(slots=True)
class Outcome:
    """By share number: `done` (True: by us; False: it was there already), and why others could not be done."""

    done: dict[int, bool] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Room:
    """Where a share goes: the container that it gets, and whether what lies there is no good."""

    container: MutableContainer
    quarantine: bool


class NewerVersion(LafsError):
    """The server has a newer version by now: there is nothing to refill."""


def put(refill: Refill, shares: Mapping[int, Sequence[Buffer]], store: ShareStore) -> Outcome:
    """In the server's worker: whole shares, by number, each in parts."""
    si = refill.cap.verify_cap().si
    outcome = Outcome()
    with store.guard(si, patience=refill.patience) as guard:
        rooms = _rooms(refill, store, outcome)
        for quarantine in (False, True):
            some = {shnum: room for shnum, room in rooms.items() if room.quarantine is quarantine}
            if some:
                guard.stage([(shnum, _framed(room.container, shares[shnum])) for shnum, room in some.items()])
                _commit(guard, list(some), outcome, quarantine=quarantine)
    return outcome


def take_away(refill: Refill, store: ShareStore) -> Outcome:
    """In the server's worker: shares of earlier versions, of numbers that the version does not have, to
    `quarantine/`."""
    si = refill.cap.verify_cap().si
    outcome = Outcome()
    with store.guard(si, patience=refill.patience) as guard:
        found, _ = _look(refill, store)
        _insist_not_newer(found, refill.version)
        guard.bury(refill.shnums, refill.lease)
        outcome.done = dict.fromkeys(refill.shnums, True)
    return outcome


def _framed(container: MutableContainer, parts: Sequence[Buffer]) -> list[Buffer]:
    made = container.resized(sum(memoryview(part).nbytes for part in parts))
    return [made.front(), *parts, made.back()]


def _commit(guard: Guard, shnums: Sequence[int], outcome: Outcome, *, quarantine: bool) -> None:
    try:
        guard.commit(shnums, quarantine=quarantine)
    finally:
        outcome.done |= {shnum: True for shnum in shnums if shnum in guard.committed}


# ---- piece by piece


@dataclass(eq=False, slots=True)
class Staging:
    """Large shares on their way to one server: the guard is held until `finish` or `abandon`."""

    guard: Guard
    outcome: Outcome
    rooms: dict[int, _Room]
    share_size: int
    writers: dict[int, FileWriter] = field(default_factory=dict)

    def append(self, blocks: Mapping[int, Buffer]) -> None:
        """In the server's worker: the next bytes of each share, by number."""
        self.guard.keep()
        for shnum, writer in self.writers.items():
            writer.write(blocks[shnum])

    def finish(self, fronts: Mapping[int, bytes], backs: Mapping[int, bytes], sync: bool = True) -> Outcome:
        """In the server's worker: complete the shares, put them in place, release the guard."""
        for shnum, writer in self.writers.items():
            container = self.rooms[shnum].container
            writer.write(backs[shnum])
            writer.write(container.back())
            writer.write_at(DATA_OFFSET, fronts[shnum])
            writer.close(sync=sync)
        for quarantine in (False, True):
            some = [shnum for shnum, room in self.rooms.items() if room.quarantine is quarantine]
            if some:
                _commit(self.guard, some, self.outcome, quarantine=quarantine)
        self.guard.release()
        return self.outcome

    def abandon(self) -> None:
        """In the server's worker: give up what is not in place."""
        for writer in self.writers.values():
            writer.abandon()
        with suppress(ServerError):
            if self.outcome.done:
                self.guard.set_aside()
            else:
                self.guard.release()


def begin(refill: Refill, share_size: int, front_size: int, store: ShareStore) -> Staging:
    """In the server's worker: take the guard, and make room for the shares, whose front comes last."""
    si = refill.cap.verify_cap().si
    guard = store.guard(si, patience=refill.patience)
    staging = Staging(guard, Outcome(), {}, share_size)
    try:
        for shnum, room in _rooms(refill, store, staging.outcome).items():
            container = room.container.resized(share_size)
            staging.rooms[shnum] = _Room(container, room.quarantine)
            writer = staging.writers[shnum] = guard.create(shnum)
            writer.write(container.front())
            writer.write(bytes(front_size))
    except BaseException:
        staging.abandon()
        raise
    return staging


# ---- what is there, under the guard


def _rooms(refill: Refill, store: ShareStore, outcome: Outcome) -> dict[int, _Room]:
    """Where each share may go; `outcome` says of the others why not. NewerVersion."""
    require_same_list(refill.membership, store.membership(), store.server.name)
    found, files = _look(refill, store)
    _insist_not_newer(found, refill.version)
    name = store.server.name
    rooms: dict[int, _Room] = {}
    for shnum in refill.shnums:
        earlier = files.get(shnum)
        share = found.shares.get((name, shnum))
        good = share is not None and (name, shnum) not in refill.bad
        if good and share is not None and share.header == refill.version:
            outcome.done[shnum] = False
            continue
        if earlier is not None and not good and not refill.force and sort_of(earlier) == "incompatible":
            outcome.refused[shnum] = "what lies there is of a version that is not known: --force replaces it"
            continue
        with _refusals(outcome, shnum):
            bad = earlier is not None and (not good or (share is not None and share.prefix == refill.version.prefix))
            rooms[shnum] = _Room(_container(refill, store, found, earlier), bad)
    return rooms


@contextmanager
def _refusals(outcome: Outcome, shnum: int) -> Iterator[None]:
    try:
        yield
    except NotGranted as error:
        outcome.refused[shnum] = error.message


def _look(refill: Refill, store: ShareStore) -> tuple[SlotMap, dict[int, Container]]:
    cap = refill.cap.verify_cap()
    [sight] = store.slots([cap.si], SHALLOW)
    sights = Sights(cap)
    sights.add(store, sight if isinstance(sight, LafsError) else [sight])
    if isinstance(sight, LafsError):
        raise sight
    return sights.map(), {file.shnum: file for file in sight.containers}


def _insist_not_newer(found: SlotMap, version: Header) -> None:
    """Another version of the same number is no earlier one: which of them stays is not decided here."""
    for share in found.shares.values():
        if share.prefix != version.prefix and share.prefix.seqnum >= version.prefix.seqnum:
            raise NewerVersion(f"version {share.prefix.seqnum} is there by now")


def _container(refill: Refill, store: ShareStore, found: SlotMap, earlier: Container | None) -> MutableContainer:
    """The container around a share: its write enabler is made from the write cap, or copied from one that is there."""
    cap = refill.cap
    if isinstance(cap, MutableWriteCap):
        enabler = write_enabler(cap.writekey, store.server.node_id)
    else:
        enabler = _copied_enabler(found, earlier)
    return container_for(store, found.cap.si, earlier, enabler, refill.lease)


def _copied_enabler(found: SlotMap, earlier: Container | None) -> bytes:
    """That of the container that is replaced, if it can be read; else of another share of the slot on this server
    (spec 00 §4)."""
    if earlier is not None and not isinstance(earlier.front, LafsError):
        with suppress(CorruptShare):
            return MutableContainer.parse(earlier.front[:DATA_OFFSET], earlier.size).write_enabler
    for one in found.found:
        return one.container.write_enabler
    raise NotGranted(NEEDS_WRITE_CAP)
