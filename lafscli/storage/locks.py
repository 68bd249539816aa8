"""The folder `locks/` of one server: guards are taken, watched and broken here (spec 10 §1).

locks/.<token>/                    a guard being made; one rename makes it `locks/<SI>`
locks/<SI>/<token>/                a guard (guard.py); an empty `locks/<SI>` is none
locks/.broken.<SI>.<token>/        a guard that was broken or set aside, with all that was in it
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from weakref import WeakSet

from lafscli.errors import (
    FileDenied,
    FileError,
    FileMissing,
    GuardHeld,
    GuardLost,
    NotSupported,
    OutOfSpace,
    ServerError,
)
from lafscli.primitives.encoding import b32encode
from lafscli.storage import leftovers
from lafscli.storage.guard import FolderGuard
from lafscli.storage.moves import OWNER, Moves, broken_folder, guard_folder
from lafscli.storage.owner import OWNER_SIZE, Owner, alive, this_process
from lafscli.storage.packets import REPLACE
from lafscli.storage.servedguard import CalledGuard, ServedGuard, call_for_guard
from lafscli.storage.shares import GUARDED
from lafscli.storage.sight import Survivors
from lafscli.storage.store import (
    NOTHING,
    Answer,
    DirEntry,
    FileRange,
    Files,
    FileStat,
    Look,
    Mkdir,
    NewFile,
    Op,
    Reading,
    Remove,
    Rename,
    Rmdir,
    Seen,
    Server,
    Stat,
    StorageIndex,
)

LOCK_SECONDS = 20.0
PATIENCE = 45.0
"""Seconds that one who changes a single share waits for a guard: enough to see a dead holder's become stale."""
_TOKEN_SIZE = 16
_TRIES = 5
_HOLDERS = 8
"""Subfolders of a guard that are looked at; there is never more than one."""
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class _Sight:
    """What a guard looked like: everything in it, the time of the last change, who holds it."""

    names: tuple[tuple[str, int, int], ...]
    newest: int
    owners: tuple[tuple[str, Owner | None], ...]
    empty: bool
    """There are empty folders and nothing else."""

    @property
    def owner(self) -> Owner | None:
        return self.owners[0][1] if len(self.owners) == 1 else None


class Locks:
    """The guards of one server as one client takes them.

    `monotonic`, `sleep`, `random_bytes`, `me` (who we are) and `alive` (whether a pid is there) are the world.
    """

    def __init__(
        self,
        server: Server,
        files: Files,
        *,
        random_bytes: Callable[[int], bytes],
        sync: bool = True,
        lock_seconds: float = LOCK_SECONDS,
        me: Owner | None = None,
        alive: Callable[[int], bool] = alive,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._files = files
        self._random_bytes = random_bytes
        self._sync = sync
        self._lock_seconds = max(1.0, lock_seconds)
        self._given = me
        self._alive = alive
        self._monotonic = monotonic
        self._sleep = sleep
        features = server.features
        self._moves = Moves("posix-rename" in features, "hardlink" in features)
        self._ordered = "ordered" in features
        self._unsure: dict[str, StorageIndex] = {}
        self._given_up: set[str] = set()
        """Tokens of ours of which a lost connection may still make a guard."""
        self._untidy: set[StorageIndex] = set()
        self._watched: dict[StorageIndex, tuple[_Sight, float]] = {}
        self._taken: WeakSet[FolderGuard] = WeakSet()

    # ---- taking

    def take(self, si: StorageIndex, look: Look = NOTHING) -> FolderGuard:
        """Take the guard now, or GuardHeld. A stale one is broken, whoever holds it; call again to go on watching.
        What `look` asks for is looked at under the guard, in the same two round trips: `FolderGuard.seen`.

        NotSupported on a server whose renames replace what is there: it gets no guards.
        """
        self._require_features()
        self.settle()
        for _ in range(_TRIES):
            token = self._token()
            taken = self._try(si, token, look)
            if isinstance(taken, FolderGuard):
                return self._tidied(taken, look)
            clock, refusal = taken
            asked = self._monotonic()
            sight = self._look(si)
            if sight is None:
                if isinstance(refusal, FileDenied | NotSupported | OutOfSpace):
                    raise refusal
                error = GuardHeld(f"no guard to be had on {b32encode(si)}: {refusal}", server=self._server.name)
            elif self._stale(si, sight, clock, asked):
                self._break(si, token)
                error = self._held(si, sight)
            else:
                raise self._held(si, sight)
        raise error

    def _tidied(self, guard: FolderGuard, look: Look) -> FolderGuard:
        """The guard, after what we broke before taking it was cleared away."""
        self._watched.pop(guard.si, None)
        if guard.si in self._untidy:
            try:
                leftovers.tidy(self._files, guard)
                guard.look(look)
            except BaseException:
                with suppress(ServerError):
                    guard.release()
                raise
            self._untidy.discard(guard.si)
        return guard

    def wait(self, si: StorageIndex, patience: float, look: Look = NOTHING) -> FolderGuard:
        """Take the guard; where another one holds it, watch it, break it when it is stale, and try again for
        `patience` seconds. GuardHeld after that; at once where it is ours: who waits here keeps the server's worker
        from giving it up."""
        until = self._monotonic() + patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return self.take(si, look)
            except GuardHeld:
                left = until - self._monotonic()
                if left <= 0 or any(guard.si == si and not guard.over for guard in self._taken):
                    raise
            # random, doubling (spec 10 §2.6): two that wait for each other must not stay in step
            self._sleep(min(left, pause * (0.5 + self._random_bytes(1)[0] / 512)))
            pause = min(2 * pause, _LONGEST_PAUSE, self._lock_seconds / 4)

    def _require_features(self) -> None:
        missing = GUARDED - self._server.features
        if not self._server.writable or missing:
            why = "it is read-only" if not self._server.writable else "its renames may replace what is there"
            raise NotSupported(
                f"nothing that exists can be changed there: {why}",
                server=self._server.name,
                hint=None if not self._server.writable else "remove and add the server to have it tried again",
            )

    @property
    def _me(self) -> Owner:
        """Asked each time: a process that went to the background has another pid."""
        return self._given or this_process(self._lock_seconds)

    def _token(self) -> str:
        return b32encode(self._random_bytes(_TOKEN_SIZE))

    def _try(self, si: StorageIndex, token: str, look: Look) -> FolderGuard | tuple[int | None, FileError]:
        """Make a guard and move it into place; when refused: the server's time, and what it said.

        All in one batch where the server keeps the order: the owner then is there before the move, so that nobody
        ever sees an empty guard, and its text comes a moment later. What fails of it is seen in the answers.
        """
        with self._sure(si, token):
            called = call_for_guard(self._files, si, self._me, token, look)
        if called is not None:
            token, now, seen = called
            taken = self._guard(CalledGuard, si, token, now)
            taken.seen = seen
            return taken
        mine, guard = f"locks/.{token}", guard_folder(si)
        made, held = f"{mine}/{token}", f"{guard}/{token}"
        make: list[Op] = [Mkdir("locks"), Mkdir(mine), Mkdir(made), NewFile(f"{made}/{OWNER}", [self._me.serialise()])]
        # An empty one is nobody's, but a v3 rename does not replace it.
        move: list[Op] = [
            Rmdir(guard),
            self._moves.carry(mine, guard),
            Stat(f"{held}/{OWNER}"),
            Stat(f"{made}/{OWNER}"),
        ]
        for item in look.ranges:
            self._files.release(item.path)
        with self._sure(si, token):
            reading: Reading | None = None
            if self._ordered:
                answers, reading = self._files.do_and_read([*make, *move, *look.ops], look.ranges)
            else:
                answers = self._files.do(make)
                if not _refusals(answers[1:]):
                    answers += self._files.do(move)
            problem = next(iter(_refusals(answers[1:4])), None)
            refusal, there, here = answers[5:8] if len(answers) > 4 else (None, None, None)
            if problem is None and isinstance(there, FileStat):
                served = REPLACE in self._files.connect()
                taken = self._guard(ServedGuard if served else FolderGuard, si, token, there.mtime)
                if reading is None:
                    taken.look(look)
                else:
                    taken.seen = Seen(answers[8:], reading.finish())
                return taken
            self._files.do([*_unmake(token), Remove(f"{held}/{OWNER}"), Rmdir(held), Rmdir(guard)])
            if problem is not None:
                raise problem
        clock = here.mtime if isinstance(here, FileStat) else None
        return clock, refusal if isinstance(refusal, FileError) else FileError(
            f"{guard}: the server says that it was made, and it is not there", server=self._server.name
        )

    def _guard(self, sort: type[FolderGuard], si: StorageIndex, token: str, server_time: int) -> FolderGuard:
        guard = sort(
            self._files,
            self._moves,
            si,
            token,
            name=self._server.name,
            sync=self._sync,
            lock_seconds=self._lock_seconds,
            server_time=server_time,
            monotonic=self._monotonic,
            cut_off=self._cut_off,
        )
        self._taken.add(guard)
        return guard

    # ---- requests of which nobody knows what became

    def _cut_off(self, si: StorageIndex, token: str) -> None:
        self._unsure[token] = si

    @contextmanager
    def _sure(self, si: StorageIndex, token: str) -> Iterator[None]:
        try:
            yield
        except FileError:
            raise
        except BaseException:
            self._cut_off(si, token)
            raise

    def settle(self) -> None:
        """Break our own guards on which a connection was lost, so that no late request of it can change anything
        (spec 10 §1.1). Every take does this first."""
        while self._unsure:
            token, si = next(iter(self._unsure.items()))
            # What is being made first: once it is gone, a late rename of it fails.
            *_, mine = self._files.do([*_unmake(token), Stat(f"{guard_folder(si)}/{token}")])
            if isinstance(mine, FileStat):
                self._break(si, self._token())
                [mine] = self._files.do([Stat(f"{guard_folder(si)}/{token}")])
            if not isinstance(mine, FileMissing):
                raise mine if isinstance(mine, FileError) else FileError("a guard of ours can't be broken there")
            self._given_up.add(token)
            self._untidy.add(si)  # where a guard ends with its connection, the server has put aside what was in it
            del self._unsure[token]

    # ---- watching

    def _look(self, si: StorageIndex) -> _Sight | None:
        """The guard as it is now; None when there is none, or it went while we looked."""
        guard = guard_folder(si)
        [top] = self._files.listing([guard])
        if isinstance(top, FileMissing) or top == []:
            return None
        if isinstance(top, FileError):
            raise top
        seen = [(entry.name, entry.stat.size, entry.stat.mtime) for entry in top]
        empty = all(entry.stat.kind == "dir" for entry in top)
        holders = sorted(entry.name for entry in top if entry.stat.kind == "dir")[:_HOLDERS]
        for holder, entries in zip(holders, self._files.listing([f"{guard}/{name}" for name in holders]), strict=True):
            if isinstance(entries, FileMissing):
                return None
            empty = empty and entries == []
            if not isinstance(entries, FileError):
                seen += [(f"{holder}/{entry.name}", entry.stat.size, entry.stat.mtime) for entry in entries]
        texts = self._files.read([FileRange(f"{guard}/{name}/{OWNER}", 0, OWNER_SIZE) for name in holders]).finish()
        owners = tuple(
            (holder, None if isinstance(text, FileError) else Owner.parse(bytes(text)))
            for holder, text in zip(holders, texts, strict=True)
        )
        return _Sight(tuple(sorted(seen)), max(mtime for *_, mtime in seen), owners, empty)

    def _stale(self, si: StorageIndex, sight: _Sight, clock: int | None, asked: float) -> bool:
        """Whether the holder is dead (spec 10 §1.4). An error here costs the holder a retry, never data."""
        if sight.empty:
            # The owner stands in a guard before it is one, and is the last to go: this holder has let go.
            return True
        if sight.owners and all(holder in self._given_up for holder, _ in sight.owners):
            # Late requests of a lost connection of ours made it.
            return True
        owner = sight.owner
        if owner is not None and owner.lives_with(self._me) and not self._alive(owner.pid):
            return True
        # Times are whole seconds: a change may be one younger than it looks, and one may hide another.
        limit = max(self._lock_seconds, owner.seconds if owner is not None else 0.0) + 1
        if clock is not None and clock - sight.newest >= limit:
            return True
        watched = self._watched.get(si)
        if watched is None or watched[0] != sight:
            self._watched[si] = (sight, self._monotonic())
            return False
        return asked - watched[1] >= limit

    def _held(self, si: StorageIndex, sight: _Sight) -> GuardHeld:
        owner = str(sight.owner or "someone who left no name")
        return GuardHeld(f"{b32encode(si)} is being changed by {owner}", owner=owner, server=self._server.name)

    def _break(self, si: StorageIndex, token: str) -> None:
        """Move the guard away; of many who do this at once, one does it."""
        # spec 10 §1.4: never posix-rename, which would put it into the place of one broken before
        [refusal] = self._files.do([Rename(guard_folder(si), broken_folder(si, token))])
        self._watched.pop(si, None)
        if refusal is None:
            self._untidy.add(si)

    # ---- what dead holders left

    def survivors(self, si: StorageIndex, listed: Answer = None) -> Survivors:
        """Every container in the guards of a storage index: `leftovers.survivors`."""
        return leftovers.survivors(self._files, si, listed)

    def discard(self, found: Survivors) -> None:
        """Remove broken guards: `leftovers.discard`."""
        leftovers.discard(self._files, found)

    def sweep(self, older_than: float) -> int:
        """Clear away what has lain here for so many seconds by the server's clock; how many names are gone.

        Guards half made, guards of the dead, and broken guards of immutable shares. Those with mutable shares stay.
        """
        self._require_features()
        probe = f"locks/.clock.{self._token()}"
        self._files.create_many([NewFile(probe, [])], sync=False)
        clock, _ = self._files.do([Stat(probe), Remove(probe)])
        if not isinstance(clock, FileStat):
            return 0
        old = {entry.name for entry in self._names() if entry.stat.mtime < clock.mtime - older_than}
        self._files.do(
            [op for name in old if name.startswith(".") for op in (*_unmake(name[1:]), Remove(f"locks/{name}"))]
        )
        for si in {leftovers.broken_si(name) or leftovers.storage_index(name) for name in old} - {None}:
            assert si is not None
            with suppress(GuardHeld, GuardLost), self.take(si) as guard:
                leftovers.tidy(self._files, guard)
        return len(old - {entry.name for entry in self._names()})

    def held(self) -> frozenset[StorageIndex]:
        """The storage indexes on which there is a guard, or a broken one."""
        found = (leftovers.broken_si(entry.name) or leftovers.storage_index(entry.name) for entry in self._names())
        return frozenset(si for si in found if si is not None)

    def _names(self) -> list[DirEntry]:
        [names] = self._files.listing(["locks"])
        if isinstance(names, FileError):
            raise names
        return names


def _refusals(answers: Sequence[Answer]) -> list[FileError]:
    return [answer for answer in answers if isinstance(answer, FileError)]


def _unmake(token: str) -> list[Op]:
    """Remove a guard that is being made."""
    mine = f"locks/.{token}"
    return [Remove(f"{mine}/{token}/{OWNER}"), Rmdir(f"{mine}/{token}"), Rmdir(mine)]
