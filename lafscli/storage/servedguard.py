"""A guard on a server that knows what a share is: taken, committed and given up by its calls (served.py).

It ends with its connection, and nothing is moved out of `shares/`: the server puts what is staged in place of what
stands there, if that is right, and says of each share why not.
"""

from __future__ import annotations

from collections.abc import Sequence

from lafscli.errors import FileDenied, FileError, FileMissing, NotSupported, OutOfSpace
from lafscli.formats.container import share_path
from lafscli.storage import served
from lafscli.storage.calls import sensible
from lafscli.storage.guard import FolderGuard
from lafscli.storage.owner import Owner
from lafscli.storage.packets import CANCEL_LEASE, GUARD, REPLACE
from lafscli.storage.store import (
    Answer,
    Ask,
    FileRange,
    Files,
    FileStat,
    Lease,
    Look,
    Op,
    Reading,
    Seen,
    Stat,
    StorageIndex,
)


class ServedGuard(FolderGuard):
    """As `FolderGuard`."""

    # ---- staging

    def _room(self) -> list[Op]:
        """The server makes the folders that shares come into."""
        return []

    def _insist_on_room(self, answers: Sequence[Answer]) -> None:
        pass

    # ---- changing

    def commit(self, shnums: Sequence[int], *, quarantine: bool, then: Sequence[FileRange] = ()) -> Reading:
        self._sent = self._sent or not quarantine
        for shnum in shnums:
            self._files.release(share_path(self.si, shnum))
        body = served.replace_shares(self.si, self.token, shnums, quarantine=quarantine)
        (reply,), reading = self._carry_out([Ask(REPLACE, body)], then)
        outcomes = self._outcomes(REPLACE, reply, len(shnums))
        done = {shnum for shnum, outcome in zip(shnums, outcomes, strict=True) if outcome is None}
        self._committed |= done
        self._names -= {str(shnum) for shnum in done}
        self._insist(outcomes)
        return reading

    def bury(self, shnums: Sequence[int], lease: Lease, /) -> None:
        for shnum in shnums:
            self._files.release(share_path(self.si, shnum))
        # What fails its own proof goes to quarantine; what is good must be ours to give up.
        body = served.replace_shares(self.si, self.token, shnums, quarantine=True)
        [reply] = self.carry_out([Ask(REPLACE, body)])
        outcomes = zip(shnums, self._outcomes(REPLACE, reply, len(shnums)), strict=True)
        left = [shnum for shnum, outcome in outcomes if outcome is not None]
        if not left:
            return
        body = served.cancel_leases([(self.si, shnum, lease.cancel) for shnum in left])
        reply, *stats = self.carry_out([Ask(CANCEL_LEASE, body), *(Stat(share_path(self.si, n)) for n in left)])
        for outcome, stat in zip(self._outcomes(CANCEL_LEASE, reply, len(left)), stats, strict=True):
            if isinstance(stat, FileMissing):
                continue
            if self.over:
                raise self._lost()
            why = "others have leases on it" if outcome is None else outcome.message
            raise NotSupported(f"the server keeps the share: {why}", server=self._name)

    def _outcomes(self, extension: str, reply: Answer, count: int) -> list[FileError | None]:
        if isinstance(reply, FileDenied | FileMissing) and not self.over:
            self._disown()
        if isinstance(reply, FileError):
            raise (self._lost() if self.over else reply)
        assert isinstance(reply, bytes), "a call is answered by bytes"
        with sensible(extension, self._name):
            return served.parse_outcomes(reply, count, self._name)

    # ---- giving it up

    def release(self) -> None:
        if self._aside:
            self.set_aside()
        else:
            self._give_up(served.RELEASE)
            self.over = "it was released"

    def set_aside(self) -> None:
        self._give_up(served.SET_ASIDE)
        self.over = "it was set aside"

    def _give_up(self, how: int) -> None:
        with self.asking():
            reply, fence = self._files.do(
                [Ask(GUARD, served.give_up_guard(how, self.si, self.token)), Stat(self.folder)]
            )
        if isinstance(reply, FileDenied | FileMissing) and isinstance(fence, FileStat):
            self._disown()
        elif isinstance(reply, FileError) and isinstance(fence, FileStat):
            raise reply
        elif isinstance(reply, FileError):
            self.over = "it was broken"
        if self.over:
            raise self._lost()

    def _disown(self) -> None:
        """It stands, and is not ours: this is another connection than the one that it was taken on, and the server has
        not seen the end of that yet."""
        self.over = "the connection it was taken on is gone"
        self._cut_off(self.si, self.token)


class CalledGuard(ServedGuard):
    """One that was taken by a call: the server itself shows that its holder lives."""

    def _touch(self) -> Op:
        """Any question is a sign of life."""
        super()._touch()
        return Stat(self.folder)


def call_for_guard(files: Files, si: StorageIndex, me: Owner, token: str, look: Look) -> tuple[str, int, Seen] | None:
    """Take the guard by one call: its token, which is the one proposed if the server agrees; the server's time; what
    `look` saw under it. One round trip, two with data. None where another one holds it, or there is no such call: the
    plain way tells more."""
    if GUARD not in files.connect():
        return None
    for item in look.ranges:
        files.release(item.path)
    ask = Ask(GUARD, served.ask_guard(si, me.serialise() + b'token = "%b"\n' % token.encode()))
    (taken, *answers), reading = files.do_and_read([ask, *look.ops], look.ranges)
    data = reading.finish()
    if isinstance(taken, FileDenied | OutOfSpace):
        raise taken
    if not isinstance(taken, bytes):
        return None
    with sensible(GUARD):
        token, now = served.parse_guard(taken)
    return token, now, Seen(answers, data)
