"""Look at all shares of a mutable file: which versions there are, who holds them (spec 03 §7, 10 §2.8a)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeVar

from lafscli.errors import CorruptShare, LafsError, ServerUnreachable
from lafscli.formats.caps import MutableVerifyCap
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.formats.slot import HEAD_SIZE, Header, Range
from lafscli.primitives.encoding import Buffer
from lafscli.proof.slots import Signatures, SlotShare
from lafscli.proof.versions import Versions
from lafscli.storage.grid import Grid
from lafscli.storage.sight import Container, Sight
from lafscli.storage.store import ShareStore, StorageIndex

T = TypeVar("T")

Place = tuple[str, int]
"""Name of a server, share number."""

SHALLOW = DATA_OFFSET + HEAD_SIZE
"""So many bytes of a container tell its version."""
_LATE_SECONDS = 3.0
DEEP = 256 << 10
"""With so many, most containers are read whole along with the look: one round trip less."""


@dataclass(eq=False, frozen=True, slots=True)
class Found:
    """A share that was proven, and where it lies."""

    si: StorageIndex
    store: ShareStore
    file: Container
    container: MutableContainer
    share: SlotShare

    @property
    def place(self) -> Place:
        return self.store.server.name, self.file.shnum

    def held(self, wanted: Range) -> Buffer | None:
        """These bytes of the share, if they came along with the look."""
        front = self.file.front
        assert not isinstance(front, LafsError), "what could not be read proves nothing"
        start = DATA_OFFSET + wanted[0]
        return memoryview(front)[start : start + wanted[1]] if start + wanted[1] <= len(front) else None


@dataclass(frozen=True)
class SlotMap:
    """What the servers have of one mutable file.

    `found`: every proven share, in place and (if that was looked for) in guards. `bad`: containers in place that hold
    no good share, `corrupt` says why. `silent`: servers that did not answer, and why.
    """

    cap: MutableVerifyCap
    found: tuple[Found, ...]
    bad: Mapping[Place, Container]
    corrupt: Mapping[Place, str]
    silent: Mapping[str, str]
    answered: frozenset[str]
    signatures: Signatures = field(repr=False)

    @cached_property
    def shares(self) -> Mapping[Place, SlotShare]:
        """The good shares in place."""
        return {one.place: one.share for one in self.found if one.file.kind == "place"}

    @cached_property
    def versions(self) -> Versions:
        """What is in place."""
        return Versions.of((place[0], share) for place, share in self.shares.items())

    @cached_property
    def counted(self) -> tuple[Found, ...]:
        """Shares in place, and those in guards of every version that has a share in place or moved aside.

        A share that was moved aside stood in place before, and nothing acknowledged has come in its stead.
        """
        placed = {one.share.header for one in self.found if one.file.kind != "staged"}
        return tuple(one for one in self.found if one.share.header in placed)

    @cached_property
    def all_versions(self) -> Versions:
        """What is recoverable when guards are looked into too."""
        return Versions.of((one.place[0], one.share) for one in self.counted)

    @property
    def highest_seqnum(self) -> int:
        """Of any good share anywhere; 0 if there are none."""
        return max((one.share.prefix.seqnum for one in self.found), default=0)

    def same(self, other: SlotMap | None) -> bool:
        """Whether the same servers were seen to have the same shares at the same places."""
        return other is not None and self._traits() == other._traits()

    def _traits(self) -> object:
        found = {(one.place, one.file.kind, one.share.header) for one in self.found}
        return self.answered, found, set(self.bad)

    def of(self, version: Header) -> list[Found]:
        """The shares that count for a version, those in place first."""
        return sorted(
            (one for one in self.counted if one.share.header == version), key=lambda one: one.file.kind != "place"
        )

    def without(self, lying: Iterable[Found], reasons: Mapping[int, str]) -> SlotMap:
        """The same after some shares turned out to be bad; `reasons` by the id of each."""
        gone = list(lying)
        bad, corrupt = dict(self.bad), dict(self.corrupt)
        for one in gone:
            if one.file.kind == "place":
                bad[one.place] = one.file
                corrupt[one.place] = reasons.get(id(one), "its blocks are not those of its version")
        left = tuple(one for one in self.found if one not in gone)
        return replace(self, found=left, bad=bad, corrupt=corrupt)

    def unheard(self, silent: Mapping[str, str]) -> SlotMap:
        """The same after some servers have failed: nothing counts of what they said before."""
        left = tuple(one for one in self.found if one.place[0] not in silent)
        answered = self.answered - silent.keys()
        return replace(self, found=left, silent={**self.silent, **silent}, answered=answered)


class Sights:
    """Takes what the servers say of one file, one after the other, and proves it."""

    def __init__(self, cap: MutableVerifyCap, signatures: Signatures | None = None) -> None:
        self.cap = cap
        self.signatures = signatures or Signatures(cap)
        self._found: dict[str, list[Found]] = {}
        self._bad: dict[Place, Container] = {}
        self._corrupt: dict[Place, str] = {}
        self._silent: dict[str, str] = {}

    def add(self, store: ShareStore, sights: Sequence[Sight] | LafsError) -> None:
        """What one server has; instead of what it said before."""
        name = store.server.name
        self._found.pop(name, None)
        for place in [place for place in self._bad if place[0] == name]:
            del self._bad[place], self._corrupt[place]
        self._silent.pop(name, None)
        if isinstance(sights, LafsError):
            self._silent[name] = sights.message
            return
        found = self._found[name] = []
        for file in [one for sight in sights for one in sight.containers]:
            try:
                found.append(self._proven(store, file))
            except LafsError as error:
                if file.kind == "place":
                    self._bad[name, file.shnum] = file
                    self._corrupt[name, file.shnum] = error.message

    def _proven(self, store: ShareStore, file: Container) -> Found:
        if isinstance(file.front, LafsError):
            raise file.front
        front = memoryview(file.front)
        container = MutableContainer.parse(front[:DATA_OFFSET], file.size)
        if len(front) < min(SHALLOW, file.size):
            raise CorruptShare(f"container: only {len(front)} bytes of it came")
        head = front[DATA_OFFSET : DATA_OFFSET + min(HEAD_SIZE, container.data_length)]
        return Found(
            self.cap.si, store, file, container, SlotShare(self.signatures, file.shnum, head, container.data_length)
        )

    def settled(self, servers: int) -> bool:
        """Whether more than half of so many servers answered, and the newest version that was seen can be read."""
        if 2 * len(self._found) <= servers:
            return False
        versions = self.map().versions
        return versions.best is not None and not versions.newer_unrecoverable

    def map(self) -> SlotMap:
        """What is known now."""
        found = tuple(one for some in self._found.values() for one in some)
        answered = frozenset(self._found)
        return SlotMap(
            self.cap, found, dict(self._bad), dict(self._corrupt), dict(self._silent), answered, self.signatures
        )


def survey(
    grid: Grid,
    cap: MutableVerifyCap,
    *,
    depth: int = SHALLOW,
    guards: bool = False,
    signatures: Signatures | None = None,
    stores: Sequence[ShareStore] | None = None,
    monotonic: Callable[[], float] | None = None,
    patient: bool = False,
) -> SlotMap:
    """Ask every server (or these), all at once, for its shares of a file; no guard is taken. With `guards`, what lies
    in guards is looked at too. With `monotonic`, servers that are late are not waited for once a version can be read;
    if `patient`, one that has kept others waiting before is waited for as long as any.
    """
    sights = Sights(cap, signatures)
    asked = grid.stores if stores is None else stores
    question = partial(look, cap.si, depth, guards, expected_places(grid, cap.si))
    for store, said in _patiently(grid, question, asked, lambda: sights.settled(len(asked)), monotonic, patient):
        sights.add(store, said)
    return sights.map()


def _patiently(
    grid: Grid,
    question: Callable[[ShareStore], T],
    stores: Sequence[ShareStore],
    enough: Callable[[], bool],
    monotonic: Callable[[], float] | None,
    patient: bool = False,
) -> Iterator[tuple[ShareStore, T | LafsError]]:
    """The answers as they come; once what came is `enough`, those that are late are told to be silent."""
    answers = grid.ask(question, stores)
    until: float | None = None
    while answers.pending:
        if monotonic is not None and until is None and enough():
            until = monotonic() + _LATE_SECONDS
        left = None if until is None or monotonic is None else max(0.0, until - monotonic())
        answer = answers.poll(left if left is None or patient else answers.patience(left))
        if answer is None:
            break
        yield answer.store, answer.value
    for store in list(answers.pending.values()):
        yield store, ServerUnreachable("did not answer in time", server=store.server.name)


def expected_places(grid: Grid, si: StorageIndex) -> dict[str, int]:
    """Which share number to expect on which server: each on the one that comes at its number (spec 03 §9.2)."""
    return {store.server.name: number for number, store in enumerate(grid.permuted(si))}


def look(si: StorageIndex, depth: int, guards: bool, expected: Mapping[str, int], store: ShareStore) -> list[Sight]:
    """In a server's worker: what it has of one file."""
    number = expected.get(store.server.name)
    if guards:
        return list(store.everywhere(si, depth, [] if number is None else [number]))
    [placed] = store.slots([si], depth, [number])
    if isinstance(placed, LafsError):
        raise placed
    return [placed]


def survey_many(
    grid: Grid,
    caps: Sequence[MutableVerifyCap],
    *,
    depth: int = SHALLOW,
    stores: Sequence[ShareStore] | None = None,
    monotonic: Callable[[], float] | None = None,
) -> list[SlotMap]:
    """`survey` of many files: one question to each server (or each of these)."""
    sis = [cap.si for cap in caps]
    sights = [Sights(cap) for cap in caps]
    expected = [expected_places(grid, si) for si in sis]
    asked = grid.stores if stores is None else stores

    def question(store: ShareStore) -> list[Sight | LafsError]:
        return store.slots(sis, depth, [one.get(store.server.name) for one in expected])

    def enough() -> bool:
        return all(one.settled(len(asked)) for one in sights)

    for store, said in _patiently(grid, question, asked, enough, monotonic):
        for index, one in enumerate(sights):
            if isinstance(said, LafsError):
                one.add(store, said)
            else:
                sight = said[index]
                one.add(store, sight if isinstance(sight, LafsError) else [sight])
    return [one.map() for one in sights]
