"""What this home has thrown away on the servers: brought back where it is wanted again, removed after its time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice

from lafscli.errors import FileMissing, LafsError
from lafscli.health.claims import NOT_OURS, RECENT, UNREADABLE, Claims
from lafscli.health.report import Silence
from lafscli.health.steps import Steps, side_by_side, wait
from lafscli.storage.grid import Grid
from lafscli.storage.shares import GUARDED
from lafscli.storage.store import Leased, ShareStore, StorageIndex, Thrown

STANDS = "a share stands in their place"

_TOGETHER = 200


@dataclass(slots=True)
class Amount:
    """So many shares, of so many bytes."""

    shares: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """One more."""
        self.shares += 1
        self.bytes += size


@dataclass(slots=True)
class Emptied:
    """What became of what lay in the trash: brought `back` (objects, amounts by server), `gone` for good. `skipped`:
    left, and why. `failed`: servers or shares that failed, and why."""

    objects: set[StorageIndex] = field(default_factory=set)
    back: dict[str, Amount] = field(default_factory=dict)
    gone: Amount = field(default_factory=Amount)
    skipped: Counter[str] = field(default_factory=Counter)
    failed: list[Silence] = field(default_factory=list)


def changeable(store: ShareStore) -> bool:
    """Whether shares can be moved there safely."""
    return store.server.writable and store.server.features >= GUARDED


def empty(
    grid: Grid,
    claims: Claims,
    wanted: Callable[[StorageIndex], bool],
    grace: int | None,
    *,
    act: bool,
    new: Collection[StorageIndex] = (),
) -> Emptied:
    """Look at all that carries a lease of this home in the trash of the servers: bring back what is `wanted` and of
    which no share stands, remove the rest that has lain there for `grace` seconds (None: nothing) and that no other
    home holds a live lease on. What is `new` there stays. Without `act` it is only counted."""
    done = Emptied()
    stores = [store for store in grid.stores if changeable(store)]
    jobs = (_Server(grid, store, claims, wanted, grace, done, act, new).run() for store in stores)
    for _ in side_by_side(jobs, len(stores) or 1):
        pass
    return done


def day_over(day: str, grace: int, now: int) -> bool:
    """Whether what was thrown away on a UTC day has lain for so many seconds; counted from the end of the day."""
    if grace == 0:
        return True
    try:
        end = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
    except ValueError:
        return False
    return end.timestamp() + grace <= now


@dataclass(eq=False, slots=True)
class _Server:
    """The trash of one server."""

    grid: Grid
    store: ShareStore
    claims: Claims
    wanted: Callable[[StorageIndex], bool]
    grace: int | None
    done: Emptied
    act: bool
    new: Collection[StorageIndex]

    def run(self) -> Steps[None]:
        now = self.claims.now
        if self.act and self.grace is not None:
            clock = yield from wait(self.grid.submit(self.store, lambda store: store.trash.clock()))
            if isinstance(clock, LafsError):
                self._failed(clock)
                return
            now = min(now, clock)
        pages = _Pages()
        while True:
            page = yield from wait(self.grid.submit(self.store, pages.next))
            if isinstance(page, LafsError):
                self._failed(page)
                return
            if not page:
                return
            yield from self._page(page, now)

    def _page(self, page: Sequence[Thrown], now: int) -> Steps[None]:
        over: set[Thrown] = set()
        if self.grace is not None:
            over = {item for item in page if item.si not in self.new and day_over(item.day, self.grace, now)}
        mine = yield from self._mine([item for item in page if item in over or self.wanted(item.si)])
        back: list[Thrown] = []
        gone: list[Thrown] = []
        for item, (reason, stands) in mine.items():
            if self.wanted(item.si) and not stands:
                back.append(item)
            elif item in over and reason in (None, RECENT):
                gone.append(item)
            else:
                self.done.skipped[STANDS if stands else str(reason)] += 1
        if not self.act:
            for item in back:
                self._is_back(item)
            for item in gone:
                self.done.gone.add(item.size)
            return
        yield from self._bring_back(back)
        yield from self._remove(gone)

    def _mine(self, items: Sequence[Thrown]) -> Steps[dict[Thrown, tuple[str | None, bool]]]:
        """Those that carry a lease of ours: why a share with such leases would have to stay, if anything, and whether
        one stands in place."""
        answers = yield from wait(self.grid.submit(self.store, partial(_look, items)))
        mine: dict[Thrown, tuple[str | None, bool]] = {}
        if isinstance(answers, LafsError):
            self._failed(answers)
            return mine
        for item, (leased, size) in zip(items, answers, strict=True):
            if isinstance(leased, FileMissing):
                continue
            if isinstance(leased, LafsError) or isinstance(size, LafsError):
                self.done.skipped[UNREADABLE] += 1
                continue
            reason = self.claims.against(item.si, self.store, leased)
            if reason != NOT_OURS:
                mine[item] = reason, size is not None
        return mine

    def _bring_back(self, items: Sequence[Thrown]) -> Steps[None]:
        answers = yield from wait(self.grid.submit(self.store, partial(_back, items)))
        for index, item in enumerate(items):
            answer = answers if isinstance(answers, LafsError) else answers[index]
            if isinstance(answer, LafsError):
                self._failed(answer)
            elif answer:
                self._is_back(item)
            else:
                self.done.skipped[STANDS] += 1

    def _remove(self, items: Sequence[Thrown]) -> Steps[None]:
        answers = yield from wait(self.grid.submit(self.store, partial(_remove, items)))
        for index, item in enumerate(items):
            answer = answers if isinstance(answers, LafsError) else answers[index]
            if isinstance(answer, LafsError):
                self._failed(answer)
            else:
                self.done.gone.add(item.size)

    def _is_back(self, item: Thrown) -> None:
        self.done.objects.add(item.si)
        self.done.back.setdefault(self.store.server.name, Amount()).add(item.size)

    def _failed(self, error: LafsError) -> None:
        self.done.failed.append(Silence(self.store.server.name, error.message))


# ---- in the servers' workers


class _Pages:
    """What lies in a trash, some at a time."""

    def __init__(self) -> None:
        self._left: Iterator[Thrown] | None = None

    def next(self, store: ShareStore) -> list[Thrown]:
        if self._left is None:
            self._left = store.trash.thrown()
        return list(islice(self._left, _TOGETHER))


def _look(items: Sequence[Thrown], store: ShareStore) -> list[tuple[Leased | LafsError, int | LafsError | None]]:
    """Of each its leases, and the size of what stands in its place."""
    sizes = store.present([(item.si, item.shnum) for item in items])
    return list(zip(store.trash.leases_of(items), sizes, strict=True))


def _back(items: Sequence[Thrown], store: ShareStore) -> list[bool | LafsError]:
    return store.trash.bring_back(items)


def _remove(items: Sequence[Thrown], store: ShareStore) -> list[LafsError | None]:
    return store.trash.remove(items)
