"""Which shares of many objects lie where, by presence (DESIGN §1.12): one LSTAT a share where placement puts it.

Only what is not found there is looked for in the folders of its storage index, on every server. A few objects are
listed at once: that also shows copies that no plan asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TypeVar

from lafscli.errors import CorruptShare, FileError, FileMissing, IncompatibleShare, LafsError
from lafscli.formats.caps import ChkVerifyCap
from lafscli.formats.chk import Sizes, share_size
from lafscli.formats.container import HEADER_SIZE
from lafscli.health.report import Damage, Sort
from lafscli.placement import Candidate, plan
from lafscli.storage.grid import Grid
from lafscli.storage.store import ShareStore, StorageIndex

T = TypeVar("T")

_Held = dict[int, int] | LafsError
"""Of one object on one server: share number to size of its container."""

_FEW = 64
"""Up to so many objects are listed at once; more are looked for by presence first."""

_PAUSE = 30.0
"""Seconds for which a server that fell silent is not asked again; doubled each time."""


@dataclass(eq=False, slots=True)
class Seen:
    """One object under check.

    `found`: size of the container file of each (server, share number) that is there and good as far as is known.
    `looked`: bytes of their blocks that were read and proved.
    """

    cap: ChkVerifyCap
    found: dict[tuple[str, int], int] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)
    looked: int = 0
    flaw: str | None = None

    def bad(self, server: str, shnum: int, reason: str, sort: Sort = "corrupt") -> None:
        """This share is no good, for the first reason that was seen."""
        if self.found.pop((server, shnum), None) is not None:
            self.damage.append(Damage(server, shnum, reason, sort))

    def failed(self, server: str, shnum: int, error: LafsError) -> None:
        """A share could not be read or proved: what that says of it."""
        if isinstance(error, IncompatibleShare):
            self.bad(server, shnum, error.message, "incompatible")
        elif isinstance(error, CorruptShare):
            self.bad(server, shnum, error.message)
        elif isinstance(error, FileMissing):  # it went away meanwhile
            self.found.pop((server, shnum), None)
        elif isinstance(error, FileError):
            self.bad(server, shnum, f"the server can't read it: {error.message}", "unreadable")
        else:
            self.unknown(server, error.message)

    def unknown(self, server: str, reason: str) -> None:
        """The server does not answer: nothing is known of its shares any more."""
        self.silent.setdefault(server, reason)
        for place in [place for place in self.found if place[0] == server]:
            del self.found[place]


@lru_cache(maxsize=1024)
def least_size(k: int, n: int, size: int) -> int:
    """The smallest container file that can hold a share of such a file: the share of a single segment, no lease."""
    return HEADER_SIZE + share_size(Sizes.plan(k, n, size, size), 1)


class Silences:
    """Servers that fell silent in this run, and its end: `until` by `time.monotonic`, if it is to end early."""

    def __init__(self, until: float | None) -> None:
        self._until = until
        self._known: dict[str, tuple[str, float, float]] = {}

    @property
    def late(self) -> bool:
        """Whether the time of the run is over."""
        return self._until is not None and time.monotonic() >= self._until

    def note(self, server: str, error: LafsError) -> None:
        """It did not answer: let it rest for a while."""
        pause = 2 * self._known[server][2] if server in self._known else _PAUSE
        self._known[server] = error.message, time.monotonic() + pause, pause

    def reason(self, server: str) -> str | None:
        """Why it is not to be asked now; None when it may be."""
        reason, until, _ = self._known.get(server, ("", 0.0, 0.0))
        return reason if until > time.monotonic() else None

    def result(self, server: str, future: Future[T]) -> T | LafsError:
        """What the server answers, or the error that stands for its silence."""
        try:
            return future.result()
        except LafsError as error:
            self.note(server, error)
            return error


@dataclass(eq=False, slots=True)
class Asked:
    """Objects that were asked about, and the questions that are out."""

    objects: list[Seen]
    present: list[tuple[str, list[tuple[int, int]], Future[list[int | LafsError | None]]]] = field(default_factory=list)
    listed: list[tuple[str, list[int], Future[list[_Held]]]] = field(default_factory=list)


class Survey:
    """Asks the servers `asked`; the others of the grid are taken to be empty. `all_copies`: list every object."""

    def __init__(
        self, grid: Grid, asked: Sequence[ShareStore], silences: Silences, *, all_copies: bool = False
    ) -> None:
        self._grid = grid
        self._asked = asked
        self._all_copies = all_copies
        self._silences = silences
        self._places: dict[tuple[int, tuple[object, ...]], list[tuple[int, int]]] = {}

    def begin(self, caps: Iterable[ChkVerifyCap]) -> Asked:
        """Send the first questions about these objects."""
        asked = Asked([Seen(cap) for cap in caps])
        if self._all_copies or len(asked.objects) <= _FEW:
            self._list(asked, range(len(asked.objects)))
        else:
            self._look_where_expected(asked)
        return asked

    def finish(self, asked: Asked) -> list[Seen]:
        """What was found of each object, in their order."""
        self._collect_present(asked)
        if not asked.listed:
            incomplete = [i for i, seen in enumerate(asked.objects) if len(seen.found) < seen.cap.n]
            self._list(asked, incomplete)
        self._collect_listed(asked)
        return asked.objects

    # ---- by presence

    def _look_where_expected(self, asked: Asked) -> None:
        wanted: dict[str, list[tuple[int, int]]] = {}
        pairs: dict[str, list[tuple[StorageIndex, int]]] = {}
        for index, seen in enumerate(asked.objects):
            for name, shnum in self._expected(seen.cap):
                wanted.setdefault(name, []).append((index, shnum))
                pairs.setdefault(name, []).append((seen.cap.si, shnum))
        for store in self._asked:
            name = store.server.name
            if name in wanted and self._silences.reason(name) is None:
                asked.present.append((name, wanted[name], self._grid.submit(store, partial(_presence, pairs[name]))))

    def _expected(self, cap: ChkVerifyCap) -> Iterator[tuple[str, int]]:
        """Where an upload to these servers puts each share (spec 05 §4, with nothing there before)."""
        order = self._grid.permuted(cap.si)[: 2 * cap.n]
        kinds = tuple([(store.server.writable, store.server.site) for store in order])
        places = self._places.get((cap.n, kinds))
        if places is None:
            candidates = [Candidate(i, writable, frozenset(), site) for i, (writable, site) in enumerate(kinds)]
            sent = plan(cap.n, candidates).send.items()
            places = [(position, shnum) for shnum, position in sent if isinstance(position, int)]
            if len(self._places) < 4096:
                self._places[cap.n, kinds] = places
        return ((order[position].server.name, shnum) for position, shnum in places)

    def _collect_present(self, asked: Asked) -> None:
        for name, wanted, future in asked.present:
            answers = self._silences.result(name, future)
            if isinstance(answers, LafsError):
                for index in {index for index, _ in wanted}:
                    asked.objects[index].unknown(name, answers.message)
                continue
            for (index, shnum), answer in zip(wanted, answers, strict=True):
                if isinstance(answer, int):
                    asked.objects[index].found[name, shnum] = answer
                elif answer is not None:
                    asked.objects[index].unknown(name, answer.message)

    # ---- by listing

    def _list(self, asked: Asked, indexes: Sequence[int]) -> None:
        if not indexes:
            return
        caps = [asked.objects[index].cap for index in indexes]
        for store in self._asked:
            name = store.server.name
            reason = self._silences.reason(name)
            if reason is None:
                asked.listed.append((name, list(indexes), self._grid.submit(store, partial(_listing, caps))))
            else:
                for index in indexes:
                    asked.objects[index].unknown(name, reason)

    def _collect_listed(self, asked: Asked) -> None:
        for name, indexes, future in asked.listed:
            answers = self._silences.result(name, future)
            for position, index in enumerate(indexes):
                held = answers if isinstance(answers, LafsError) else answers[position]
                seen = asked.objects[index]
                if isinstance(held, LafsError):
                    seen.unknown(name, held.message)
                else:
                    seen.found.update({(name, shnum): size for shnum, size in held.items()})


def _presence(pairs: Sequence[tuple[StorageIndex, int]], store: ShareStore) -> list[int | LafsError | None]:
    """Ask for the sizes of these shares."""
    return store.present(pairs)


def _listing(caps: Sequence[ChkVerifyCap], store: ShareStore) -> list[_Held]:
    """Ask which shares of these objects are there, and for their sizes."""
    held: list[_Held] = []
    pairs: list[tuple[int, StorageIndex, int]] = []
    for index, (cap, shares) in enumerate(zip(caps, store.shares([cap.si for cap in caps]), strict=True)):
        if isinstance(shares, LafsError):
            held.append(shares)
        else:
            held.append({})
            # a number beyond n is no share of this file, whatever it is
            pairs += [(index, cap.si, shnum) for shnum in sorted(shares) if shnum < cap.n]
    for (index, _, shnum), size in zip(pairs, store.present([pair[1:] for pair in pairs]), strict=True):
        sizes = held[index]
        if isinstance(sizes, LafsError):
            continue
        if isinstance(size, LafsError):
            held[index] = size
        elif size is not None:
            sizes[shnum] = size
    return held
