"""Guards as objects of a connection (spec 10 §1): taken by one call or the plain way, and over when it is.

On the disk they are what every client knows: `locks/<SI>/<token>/owner`, and what is staged beside it. One that ends
with nothing staged in it is removed; else it is set aside as a broken one, for the next writer.
"""

from __future__ import annotations

import errno
import os
import stat
import tomllib
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import FAILURE, NO_SUCH_FILE, PERMISSION_DENIED, Refused
from lafscli.server.handles import remove_file
from lafscli.server.jail import FILE_MODE, Jail, asking
from lafscli.server.quota import ENTRY, Quota
from lafscli.server.spots import Kind, spot_of
from lafscli.storage.moves import OWNER
from lafscli.storage.owner import OWNER_SIZE, Owner, alive, this_process

MOST = 1000
"""Guards that one connection may have at once."""
_SECONDS = 20.0
_TOUCHES = 4
_QUIET = 2
_HELD = Refused(FAILURE, "guard held")
_LOST = Refused(NO_SUCH_FILE, "this guard is not yours, or was broken")


@dataclass(slots=True)
class _Guard:
    kept: bool
    """Whether we show that its holder lives; else the client does."""
    every: float = 0.0
    touched: float = 0.0
    adopted: set[str] = field(default_factory=set)
    """Names in it that came from elsewhere on this server."""
    others: set[str] = field(default_factory=set)
    """Those of them that somebody else has left."""


class Guards:
    """The guards of one connection. `now` is the clock; methods raise Refused."""

    def __init__(
        self,
        jail: Jail,
        turn: Callable[[bytes], AbstractContextManager[None]],
        quota: Quota,
        *,
        who: str,
        now: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        note: Callable[[str], None],
    ) -> None:
        self._jail = jail
        self._turn = turn
        self._quota = quota
        self._who = who
        self._now = now
        self._random_bytes = random_bytes
        self._note = note
        self._making: set[str] = set()
        self._held: dict[tuple[bytes, str], _Guard] = {}
        self._emptied: set[bytes] = set()
        self._asked = now()

    # ---- whose is it

    def owns(self, si: bytes, token: str) -> bool:
        """Whether a guard was taken on this connection; whether it still stands, the disk tells."""
        return (si, token) in self._held

    def makes(self, token: str) -> bool:
        """Whether a guard is being made on this connection."""
        return token in self._making

    def holds(self, si: bytes) -> bool:
        """Whether this connection has the guard on a storage index now."""
        return any(held == si and self._stands(held, token) for held, token in self._held)

    def insist(self, si: bytes, token: str) -> None:
        """NO_SUCH_FILE where the guard does not stand, PERMISSION_DENIED where it is another's."""
        if not self._stands(si, token):
            raise Refused(NO_SUCH_FILE, "no such guard")
        if not self.owns(si, token):
            raise Refused(PERMISSION_DENIED, "this guard was taken on another connection")

    def _stands(self, si: bytes, token: str) -> bool:
        with suppress(FileNotFoundError, NotADirectoryError):
            return stat.S_ISDIR(self._jail.look(("locks", b32encode(si), token)).st_mode)
        return False

    def adopt(self, si: bytes, token: str, name: str, *, own: bool) -> None:
        """What lay elsewhere on the server is staged in it now; not `own`: in a broken guard."""
        guard = self._held[si, token]
        guard.adopted.add(name)
        if not own:
            guard.others.add(name)

    def placed(self, si: bytes, token: str, name: str) -> None:
        """What was staged in it is in its place."""
        if (si, token) in self._held:
            self._held[si, token].adopted.discard(name)
            self._held[si, token].others.discard(name)

    def adopted(self, si: bytes, token: str, name: str) -> bool:
        """Whether this came from elsewhere: others may need it."""
        return (si, token) in self._held and name in self._held[si, token].adopted

    # ---- the plain way

    def make(self, token: str) -> None:
        """`mkdir locks/.<token>`"""
        if len(self._making) + len(self._held) >= MOST:
            self._drop_lost(list(self._held))
        if len(self._making) + len(self._held) >= MOST:
            raise Refused(FAILURE, "too many guards on one connection")
        with asking(), self._quota.taken(ENTRY):
            self._jail.mkdir(("locks", f".{token}"))
        self._making.add(token)

    def enter(self, token: str, si: bytes, *, replace: bool) -> None:
        """`rename locks/.<token> locks/<SI>`; refused while a guard is there. `replace`: an empty one gives way."""
        if token not in self._making:
            raise Refused(PERMISSION_DENIED, "this guard was begun on another connection")
        made, guard = ("locks", f".{token}"), ("locks", b32encode(si))
        with self._turn(si), asking():
            try:
                self._jail.look((*made, token, OWNER))  # an empty guard is nobody's
                if replace:
                    self._jail.replace(made, guard)
                else:
                    self._jail.rename(made, guard)
            except FileNotFoundError:
                if self._jail.there(made) is None:
                    self._making.discard(token)
                raise
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    raise Refused(FAILURE, "a guard on it exists: it is held") from error
                raise
            self._making.discard(token)
            self._held[si, token] = _Guard(False)

    def leave(self, si: bytes, token: str) -> None:
        """`mv locks/<SI> locks/.broken.<SI>.<token>`: by who has it, or who judges it dead (spec 10 §1.4)."""
        with self._turn(si), asking():
            self._jail.rename(("locks", b32encode(si)), ("locks", f".broken.{b32encode(si)}.{token}"))
        gone = self._drop_lost([held for held in self._held if held[0] == si])
        self._note(f"{'set aside' if gone else 'broke'} the guard on {b32encode(si)}")

    def forget(self, si: bytes, token: str) -> None:
        """A guard, made or being made, was removed name by name."""
        self._making.discard(token)
        if self._held.pop((si, token), None) is not None and len(self._emptied) < MOST:
            self._emptied.add(si)

    def _drop_lost(self, some: list[tuple[bytes, str]]) -> bool:
        """Forget those that do not stand any more; whether there were any."""
        gone = [held for held in some if not self._stands(*held)]
        for held in gone:
            del self._held[held]
        return bool(gone)

    def _leave_nothing(self, si: bytes) -> None:
        """An empty guard goes, if nobody was faster."""
        with suppress(OSError):
            self._quota.begin()
            self._jail.rmdir(("locks", b32encode(si)))
            self._quota.free(ENTRY)

    # ---- by one call

    def take(self, si: bytes, text: bytes) -> tuple[str, int]:
        """Take the guard: its token, and the time here. `text` is the owner file that the client would write; with a
        `token` in it, of its own choice, it knows its guard again if the answer is lost."""
        theirs = Owner.parse(text)
        seconds = max(1.0, theirs.seconds) if theirs is not None else _SECONDS
        token = _proposed(text) or b32encode(self._random_bytes(16))
        self.make(token)
        made = ("locks", f".{token}", token)
        try:
            with asking():
                with self._quota.taken(ENTRY):
                    self._jail.mkdir(made)
                now = self._write_owner(made, seconds, f"{theirs or 'unknown'} {self._who}".strip())
            with self._turn(si):
                try:
                    self.enter(token, si, replace=True)
                except Refused as refused:
                    if refused.code != FAILURE or not self._dead(si, now):
                        raise
                    self.leave(si, b32encode(self._random_bytes(16)))
                    self.enter(token, si, replace=True)
        except BaseException as error:
            self._unmake(token)
            if isinstance(error, Refused) and error.code == FAILURE and "held" in error.message:
                raise _HELD from error
            raise
        self._held[si, token] = _Guard(True, seconds / _TOUCHES, self._now())
        return token, int(now)

    def release(self, si: bytes, token: str) -> None:
        """Remove what is in it, and the guard; where there is something in it that somebody else has left, it is set
        aside instead."""
        self._insist_on_call(si, token)
        with self._turn(si):
            if not self._stands(si, token):
                del self._held[si, token]
                raise _LOST
            if self._held[si, token].others & set(self._jail.names(("locks", b32encode(si), token))):
                self._put_aside(si, token)
            else:
                self._remove(si, token)
        self._held.pop((si, token), None)

    def set_aside(self, si: bytes, token: str) -> None:
        """Give it up, and keep what is in it as in a broken one."""
        self._insist_on_call(si, token)
        with self._turn(si):
            stands = self._stands(si, token)
            if stands:
                self._put_aside(si, token)
        self._held.pop((si, token), None)
        if not stands:
            raise _LOST

    def _put_aside(self, si: bytes, token: str) -> None:
        """Under the guard's own token; under another where that name is taken."""
        try:
            self.leave(si, token)
        except Refused:
            self.leave(si, b32encode(self._random_bytes(16)))

    def _insist_on_call(self, si: bytes, token: str) -> None:
        if not self.owns(si, token):
            raise _LOST

    def _write_owner(self, folder: tuple[str, ...], seconds: float, client: str) -> float:
        """Who holds it: this process, so that its end is seen here at once. The time of the file."""
        import tomli_w

        me = this_process(seconds)
        data = me.serialise() + tomli_w.dumps({"client": client}).encode("utf-8", "replace")
        self._quota.take(ENTRY + len(data))
        with self._jail.folder(folder) as above:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(OWNER, flags, FILE_MODE, dir_fd=above)
            try:
                os.write(descriptor, data)
                return os.fstat(descriptor).st_mtime
            finally:
                os.close(descriptor)

    def _dead(self, si: bytes, now: float) -> bool:
        """Whether the holder of a guard is dead: there is nothing but empty folders, its process of this boot is gone,
        or nothing has changed for its seconds. `now` is the time of a file just made here."""
        guard = ("locks", b32encode(si))
        try:
            newest, empty, owner = 0.0, True, None
            for holder in self._jail.names(guard)[:8]:
                status = self._jail.look((*guard, holder))
                newest = max(newest, status.st_mtime)
                if not stat.S_ISDIR(status.st_mode):
                    empty = False
                    continue
                for name in self._jail.names((*guard, holder)):
                    empty = False
                    newest = max(newest, self._jail.look((*guard, holder, name)).st_mtime)
                    if name == OWNER:
                        owner = Owner.parse(self._text((*guard, holder, name)))
        except FileNotFoundError:
            return False  # it changes just now
        if empty or (owner is not None and owner.lives_with(this_process(_SECONDS)) and not alive(owner.pid)):
            return True
        return now - newest >= max(_SECONDS, 0.0 if owner is None else owner.seconds) + 1

    def _text(self, names: tuple[str, ...]) -> bytes:
        descriptor = self._jail.open(names, os.O_RDONLY)
        try:
            return os.pread(descriptor, OWNER_SIZE, 0)
        finally:
            os.close(descriptor)

    # ---- living

    def asked(self) -> None:
        """The client has asked for something: it is not paused."""
        self._asked = self._now()

    def tick(self) -> None:
        """Show that the holders of guards taken by a call live. A client that has asked for nothing for some time is
        taken for paused: one that holds guards asks for something as often as it would touch them."""
        now = self._now()
        for (si, token), guard in list(self._held.items()):
            if guard.kept and guard.every <= now - guard.touched and now - self._asked <= _QUIET * guard.every:
                guard.touched = now
                with suppress(OSError), self._jail.folder(("locks", b32encode(si), token)) as folder:
                    os.utime(OWNER, dir_fd=folder, follow_symlinks=False)

    def close(self) -> None:
        """The connection is gone: so are its guards."""
        for token in list(self._making):
            self._unmake(token)
        for si, token in list(self._held):
            with suppress(OSError, Refused), self._turn(si):
                if self._stands(si, token):
                    if set(self._jail.names(("locks", b32encode(si), token))) - {OWNER}:
                        self._put_aside(si, token)
                    else:
                        self._remove(si, token)
            self._held.pop((si, token), None)
        for si in self._emptied:
            self._leave_nothing(si)

    def _unmake(self, token: str) -> None:
        unmake(self._jail, self._quota, token)
        self._making.discard(token)

    def _remove(self, si: bytes, token: str) -> None:
        """The owner goes last: a guard without one is nobody's."""
        holder = ("locks", b32encode(si), token)
        with asking():
            with self._jail.folder(holder) as folder:
                for name in sorted(os.listdir(folder), key=OWNER.__eq__):
                    with suppress(FileNotFoundError):
                        remove_file(folder, name, self._quota)
            self._quota.begin()
            self._jail.rmdir(holder)
            self._quota.free(ENTRY)
            self._leave_nothing(si)


def unmake(jail: Jail, quota: Quota, token: str) -> None:
    """Remove a guard that is being made, as far as that goes."""
    made = ("locks", f".{token}")
    with suppress(OSError, Refused), jail.folder((*made, token)) as folder:
        remove_file(folder, OWNER, quota)
    for names in ((*made, token), made):
        with suppress(OSError):
            quota.begin()
            jail.rmdir(names)
            quota.free(ENTRY)


def _proposed(text: bytes) -> str:
    """The token that the client would have, if it says one."""
    try:
        token = tomllib.loads(text.decode()).get("token")
    except (ValueError, RecursionError):
        return ""
    proposed = isinstance(token, str) and spot_of(("locks", f".{token}")).kind is Kind.MAKING
    return str(token) if proposed else ""
