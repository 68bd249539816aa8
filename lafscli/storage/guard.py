"""A guard that is held: the one way to change a share that exists (spec 10 §1). `locks.py` takes it.

    locks/<SI>/<token>/owner           who holds it
    locks/<SI>/<token>/<shnum>         staged: a new container
    locks/<SI>/<token>/old.<shnum>     moved aside: the container that stood in place

All that a holder does is a rename out of or into its own subfolder. Who breaks the guard moves that away, so a holder
that was paused, or whose requests were delayed, can change nothing any more: the fence needs no clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from lafscli.errors import FileError, FileMissing, GuardLost, ServerError
from lafscli.formats.container import share_folder, share_path
from lafscli.primitives.encoding import b32encode
from lafscli.storage.fenced import Fenced
from lafscli.storage.moves import OWNER, Moves, broken_folder, guard_folder
from lafscli.storage.store import (
    Answer,
    Buffer,
    FileRange,
    Files,
    FileStat,
    FileWriter,
    Lease,
    Link,
    Look,
    Mkdir,
    NewFile,
    Op,
    Reading,
    Remove,
    Rename,
    Replace,
    Rmdir,
    Seen,
    Stat,
    StorageIndex,
    Touch,
)

_CLEANINGS = 2
_TOUCHES = 4
"""How often in its lock-seconds a holder shows that it lives."""


class FolderGuard:
    """A guard on one storage index of one server. As a context manager it is released at the end, in whatever way
    is safe then.

    Every method may raise GuardLost, FileError, or ServerUnreachable; after the first and the last the guard is of
    no more use. Nobody else holds this guard while a method succeeds; whether that still holds at the next one, the
    fence tells. What was read before the guard was taken must be read again under it.
    """

    def __init__(
        self,
        files: Files,
        moves: Moves,
        si: StorageIndex,
        token: str,
        *,
        name: str,
        sync: bool,
        lock_seconds: float,
        server_time: int,
        monotonic: Callable[[], float],
        cut_off: Callable[[StorageIndex, str], None],
    ) -> None:
        self.si = si
        self.token = token
        self.folder = f"{guard_folder(si)}/{token}"
        self._committed: frozenset[int] = frozenset()
        self.seen = Seen()
        """What was looked at last: when the guard was taken, or by `look`."""
        self._files = files
        self._moves = moves
        self._name = name
        self._sync = sync
        self._every = lock_seconds / _TOUCHES
        self._monotonic = monotonic
        self._taken = self._touched = monotonic()
        self._server_time = server_time
        self._cut_off = cut_off
        self.over = ""
        """Why it is of no more use."""
        self._names = {OWNER}
        self._aside: set[int] = set()
        self._sent = False
        self._made_room = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.over:
            return
        with suppress(ServerError):
            if error is not None and self._sent:
                self.set_aside()
            else:
                self.release()

    @property
    def committed(self) -> frozenset[int]:
        """Numbers whose commit the server has acknowledged."""
        return self._committed

    @property
    def sync(self) -> bool:
        """Whether what is staged is to be made durable."""
        return self._sync

    @property
    def rhythm(self) -> float:
        """Seconds within which the holder must show that it lives."""
        return self._every

    def staged(self, shnum: int) -> str:
        """Path of the staged container of a share."""
        return f"{self.folder}/{shnum}"

    def aside(self, shnum: int) -> str:
        """Path of the container that was moved aside."""
        return f"{self.folder}/old.{shnum}"

    @property
    def bare(self) -> bool:
        """Whether nothing lies in it that its release would remove: what was staged is in place, or never was there."""
        return self._names == {OWNER}

    @property
    def server_time(self) -> int:
        """Unix seconds by the server's clock."""
        return int(self._server_time + self._monotonic() - self._taken)

    # ---- staging

    def create(self, shnum: int) -> FileWriter:
        """Stage a container piece by piece: nothing counts before `close(sync=…)` has compared the size."""
        with self.asking():
            self._names.add(str(shnum))
            try:
                return Fenced(self, self.staged(shnum), self._files.create(self.staged(shnum)))
            except FileError as error:
                refusal = error
        raise self.reason(refusal)

    def stage(self, shares: Sequence[tuple[int, Sequence[Buffer]]], *, look: Sequence[FileRange] = ()) -> Reading:
        """Stage small whole containers, durably. `look`: ranges of other files, read in the same round trips.

        The folder they are to come into is made too: where that fails nothing is to be committed.
        """
        new = [NewFile(self.staged(shnum), parts, self._sync, stat=True) for shnum, parts in shares]
        self._names |= {str(shnum) for shnum, _ in shares}
        for item in look:
            self._files.release(item.path)
        room = self._room()
        answers, reading = self._carry_out([*room, *new], look)
        self._insist_on_room(answers[: len(room)])
        for file, answer in zip(new, answers[len(room) :], strict=True):
            if isinstance(answer, FileError):
                raise self.reason(answer)
            self._insist([_size_error(answer, _size(file.parts))])
        return reading

    def adopt(self, shnum: int, path: str) -> None:
        """Stage a container that lies complete elsewhere on the server, by moving it here."""
        self._names.add(str(shnum))
        self._insist(self.carry_out([self._moves.carry(path, self.staged(shnum))]))

    def compare(self, path: str, size: int) -> None:
        """Insist that a staged container has its size, and a folder to come into."""
        *room, stat = self.carry_out([*self._room(), Stat(path)])
        self._insist_on_room(room)
        self._insist([stat if isinstance(stat, FileError) else _size_error(stat, size)])

    def _room(self) -> list[Op]:
        folder = share_folder(self.si)
        return [Mkdir(folder[:-27]), Mkdir(folder), Stat(folder)]

    def _insist_on_room(self, answers: Sequence[Answer]) -> None:
        _, made, folder = answers
        self._made_room = self._made_room or made is None
        if not isinstance(folder, FileStat):
            assert isinstance(folder, FileError), "a look answers with what is there, or why not"
            raise self.reason(folder)

    # ---- changing

    def move_aside(self, shnums: Sequence[int]) -> frozenset[int]:
        """Move shares that stand in place into this guard; which ones there were. Follow with `commit` or `move_out`:
        a guard that has one of them at its end is not released but set aside."""
        return self.take_in({shnum: share_path(self.si, shnum) for shnum in shnums})

    def take_in(self, paths: Mapping[int, str]) -> frozenset[int]:
        """The same with containers that lie elsewhere on the server, as in a broken guard."""
        self._names |= {f"old.{shnum}" for shnum in paths}
        for path in paths.values():
            self._files.release(path)
        answers = self.carry_out([self._moves.carry(path, self.aside(shnum)) for shnum, path in paths.items()])
        moved = frozenset(shnum for shnum, answer in zip(paths, answers, strict=True) if answer is None)
        self._aside |= moved
        self._insist([answer for answer in answers if self.over or not isinstance(answer, FileMissing)])
        return moved

    def move_out(self, targets: Mapping[int, tuple[str, str]]) -> None:
        """Move what was moved aside to the first path, never over anything, or to the second, which is only ours."""
        folders = {path.rpartition("/")[0] for pair in targets.values() for path in pair}
        made: list[Op] = [Mkdir(folder) for folder in sorted(folders)]
        answers = self.carry_out(
            [*made, *(self._moves.place(self.aside(shnum), path) for shnum, (path, _) in targets.items())]
        )[len(made) :]
        second: list[Op] = []
        for (shnum, (_, other)), answer in zip(targets.items(), answers, strict=True):
            if answer is None:
                self._aside.discard(shnum)
                second.append(Remove(self.aside(shnum)))
            else:
                second.append(self._moves.carry(self.aside(shnum), other))
        again = self.carry_out(second)
        for shnum, first, answer in zip(targets, answers, again, strict=True):
            if answer is None:
                self._aside.discard(shnum)
            elif first is not None:
                self._insist([answer])

    def commit(self, shnums: Sequence[int], *, quarantine: bool, then: Sequence[FileRange] = ()) -> Reading:
        """Put staged containers in place: durable and visible when this returns, and then never lost by us.

        `quarantine` is for immutable shares: what stands in place is known to be bad and goes to `quarantine/`, and
        nothing is ever overwritten. Without it (mutable slots) the new container replaces the old one atomically,
        or, where the server can't do that, the old one is moved aside until the release.
        On an error `committed` tells what did get into place. `then` is asked for behind it, in the same round trip;
        its data may come after the guard was released.
        """
        self._sent = self._sent or not quarantine
        folder = share_folder(self.si)
        ops: list[Op] = [self._touch(), Mkdir(folder[:-27]), Mkdir(folder)]
        asides: dict[int, int] = {}
        places: dict[int, int] = {}
        buried: dict[int, int] = {}
        for shnum in shnums:
            path, old = share_path(self.si, shnum), self.aside(shnum)
            if self._moves.posix and not quarantine:
                places[shnum] = len(ops)
                ops.append(Replace(self.staged(shnum), path))
                continue
            if shnum not in self._aside:
                asides[shnum] = len(ops)
                ops.append(self._moves.carry(path, old))
            places[shnum] = len(ops)
            ops.append(self._moves.place(self.staged(shnum), path))
            if quarantine:
                ops.append(Mkdir("quarantine"))
                buried[shnum] = len(ops)
                ops.append(self._moves.carry(old, self.quarantined(shnum)))
        self._names |= {f"old.{shnum}" for shnum in asides}
        for shnum in shnums:
            self._files.release(share_path(self.si, shnum))
        answers, reading = self._carry_out(ops, then)
        self._aside |= {shnum for shnum, index in asides.items() if answers[index] is None}
        done = {shnum for shnum, index in places.items() if answers[index] is None}
        self._committed |= done
        self._names -= {str(shnum) for shnum in done if not isinstance(ops[places[shnum]], Link)}
        self._aside -= {shnum for shnum, index in buried.items() if answers[index] is None} if quarantine else done
        self._insist([answers[index] for index in places.values()])
        return reading

    def bury(self, shnums: Sequence[int], _lease: Lease, /) -> None:
        """Move shares that stand in place and are known to be bad to `quarantine/`."""
        moved = self.move_aside(shnums)
        targets = {shnum: self.quarantined(shnum) for shnum in sorted(moved)}
        self.move_out({shnum: (target, f"{target}.again") for shnum, target in targets.items()})

    def quarantined(self, shnum: int) -> str:
        """Where a bad share goes: the day is the server's, the token ours, so that the name is free."""
        day = time.strftime("%Y-%m-%d", time.gmtime(self.server_time))
        return f"quarantine/{day}.{b32encode(self.si)}.{shnum}.{self.token}"

    # ---- living

    def touch(self) -> None:
        """Show the others that the holder lives. GuardLost if that is too late."""
        self.check([self._touch()])

    def keep(self) -> None:
        """Touch, if it is time to: whoever holds guards and waits calls this more often than at lock-seconds / 4."""
        if self._monotonic() - self._touched >= self._every:
            self.touch()

    def check(self, ops: Sequence[Op] = ()) -> list[Answer]:
        """Carry out, and insist that the guard was still ours afterwards."""
        answers = self.carry_out(ops)
        if self.over:
            raise self._lost()
        return answers

    def carry_out(self, ops: Sequence[Op]) -> list[Answer]:
        """Carry out in one round trip with a look at the fence. What fails because the fence is gone is for the
        caller to see; whoever asks next is told GuardLost."""
        return self._carry_out(ops, [])[0]

    def look(self, look: Look) -> Seen:
        """Look at something while the guard is held."""
        for item in look.ranges:
            self._files.release(item.path)
        answers, reading = self._carry_out(look.ops, look.ranges)
        with self.asking():
            self.seen = Seen(answers, reading.finish())
        return self.seen

    def _carry_out(self, ops: Sequence[Op], ranges: Sequence[FileRange]) -> tuple[list[Answer], Reading]:
        due = self._monotonic() - self._touched >= self._every
        with self.asking():
            (*answers, fence), reading = self._files.do_and_read(
                [*([self._touch()] if due else []), *ops, Stat(self.folder)], ranges
            )
        if not isinstance(fence, FileStat):
            self.over = "it was broken"
        return answers[1:] if due else answers, reading

    def _touch(self) -> Op:
        self._touched = self._monotonic()
        # The time is the server's, whatever our own clock says; whole seconds, so upwards.
        return Touch(f"{self.folder}/{OWNER}", self.server_time + 1)

    # ---- giving it up

    def release(self) -> None:
        """Remove what is ours, and the guard. Where a share was moved aside and nothing came in its place, the guard
        is set aside instead."""
        if self._aside:
            self.set_aside()
            return
        refusal = FileError(f"{self.folder}: it can't be removed", server=self._name)
        for _ in range(_CLEANINGS):
            names = sorted(self._names - {OWNER})
            removals: list[Op] = [Remove(f"{self.folder}/{name}") for name in names]
            if self._made_room and not self.committed:
                removals.append(Rmdir(share_folder(self.si)))
            removals.append(Remove(f"{self.folder}/{OWNER}"))
            with self.asking():
                *_, removed, _, fence = self._files.do(
                    [*removals, Rmdir(self.folder), Rmdir(guard_folder(self.si)), Stat(self.folder)]
                )
            if not isinstance(removed, FileError):
                self.over = "it was released"
                return
            if isinstance(fence, FileMissing):
                self.over = "it was broken"
                raise self._lost()
            refusal = removed
            with self.asking():
                [entries] = self._files.listing([self.folder])
            if not isinstance(entries, FileError):
                self._names |= {entry.name for entry in entries}
        raise refusal

    def set_aside(self) -> None:
        """Give the guard up and keep all that is in it, as a broken one: a commit was sent and something failed, so
        what is staged may be needed (spec 10 §2.8f)."""
        self.check()
        with self.asking():
            [refusal] = self._files.do([Rename(guard_folder(self.si), broken_folder(self.si, self.token))])
        if isinstance(refusal, FileError):
            raise refusal
        self.over = "it was set aside"

    # ---- inside

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around every request. What breaks off leaves requests behind of which nobody knows: another guard may be
        taken only after this one has been broken (spec 10 §1.1)."""
        if self.over:
            raise self._lost()
        try:
            yield
        except FileError:
            raise
        except BaseException:
            self.over = "the connection broke off"
            self._cut_off(self.si, self.token)
            raise

    def _insist(self, outcomes: Iterable[object]) -> None:
        for outcome in outcomes:
            if isinstance(outcome, FileError):
                raise (self._lost() if self.over else outcome)

    def reason(self, refusal: FileError) -> ServerError:
        """Why something was refused: the fence, or else."""
        self.carry_out([])
        return self._lost() if self.over else refusal

    def _lost(self) -> GuardLost:
        return GuardLost(f"the guard on {b32encode(self.si)} is not ours any more: {self.over}", server=self._name)


def _size(parts: Sequence[Buffer]) -> int:
    return sum(memoryview(part).nbytes for part in parts)


def _size_error(stat: Answer, size: int) -> FileError | None:
    if not isinstance(stat, FileStat) or stat.size != size:
        return FileError(
            f"wrote {size} bytes of a container, the server has {stat.size if isinstance(stat, FileStat) else 0}"
        )
    return None
