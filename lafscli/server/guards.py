"""Guards as objects of a connection (spec 10 §1): taken by one call or the plain way, and over when it is.

On the disk they are what every client knows: `locks/<SI>/<token>/owner`, and what is staged beside it. One that ends
with nothing staged in it is removed; else it is set aside as a broken one, for the next writer.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import FAILURE, NO_SUCH_FILE, PERMISSION_DENIED, Refused
from lafscli.server.jail import FILE_MODE, Jail, asking
from lafscli.server.quota import ENTRY, Quota
from lafscli.storage.moves import OWNER
from lafscli.storage.owner import OWNER_SIZE, Owner, alive, this_process

MOST = 1000
"""Guards that one connection may have at once."""
_SECONDS = 20.0
_TOUCHES = 4
_HELD = Refused(FAILURE, "guard held")
_LOST = Refused(NO_SUCH_FILE, "this guard is not yours, or was broken")


@dataclass(slots=True)
class _Guard:
    si: bytes
    kept: bool
    """Whether we show that its holder lives; else the client does."""
    every: float = 0.0
    touched: float = 0.0
    adopted: set[str] = field(default_factory=set)
    """Names in it that came from elsewhere on this server."""


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
        self._held: dict[str, _Guard] = {}
        self._asked = now()

    # ---- whose is it

    def owns(self, si: bytes, token: str) -> bool:
        """Whether a guard was taken on this connection; whether it still stands, the disk tells."""
        return token in self._held and self._held[token].si == si

    def makes(self, token: str) -> bool:
        """Whether a guard is being made on this connection."""
        return token in self._making

    def holds(self, si: bytes) -> bool:
        """Whether this connection has the guard on a storage index now."""
        return any(guard.si == si and self._stands(si, token) for token, guard in self._held.items())

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

    def adopt(self, token: str, name: str) -> None:
        """What lay elsewhere on the server is staged in it now."""
        self._held[token].adopted.add(name)

    def adopted(self, token: str, name: str) -> bool:
        return token in self._held and name in self._held[token].adopted

    # ---- the plain way

    def make(self, token: str) -> None:
        """`mkdir locks/.<token>`"""
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
                if replace:
                    self._jail.replace(made, guard)
                else:
                    self._jail.rename(made, guard)
            except FileNotFoundError:
                self._making.discard(token)
                raise
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                    raise Refused(FAILURE, "a guard on it exists: it is held") from error
                raise
            self._making.discard(token)
            self._held[token] = _Guard(si, False)

    def leave(self, si: bytes, token: str) -> None:
        """`mv locks/<SI> locks/.broken.<SI>.<token>`: by who has it, or who judges it dead (spec 10 §1.4)."""
        with self._turn(si), asking():
            self._jail.rename(("locks", b32encode(si)), ("locks", f".broken.{b32encode(si)}.{token}"))
        gone = [mine for mine, guard in self._held.items() if guard.si == si and not self._stands(si, mine)]
        for mine in gone:
            del self._held[mine]
        self._note(f"{'set aside' if gone else 'broke'} the guard on {b32encode(si)}")

    def forget(self, token: str) -> None:
        """A guard, made or being made, was removed name by name."""
        self._held.pop(token, None)
        self._making.discard(token)

    # ---- by one call

    def take(self, si: bytes, text: bytes) -> tuple[str, int]:
        """Take the guard: its token, and the time here. `text` is the owner file that the client would write."""
        theirs = Owner.parse(text)
        seconds = max(1.0, theirs.seconds) if theirs is not None else _SECONDS
        token = b32encode(self._random_bytes(16))
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
        self._held[token] = _Guard(si, True, seconds / _TOUCHES, self._now())
        return token, int(now)

    def release(self, si: bytes, token: str) -> None:
        """Remove what is in it, and the guard."""
        self._insist_on_call(si, token)
        with self._turn(si):
            if not self._stands(si, token):
                del self._held[token]
                raise _LOST
            self._remove(si, token)
        del self._held[token]

    def set_aside(self, si: bytes, token: str) -> None:
        """Give it up, and keep what is in it as in a broken one."""
        self._insist_on_call(si, token)
        with self._turn(si):
            stands = self._stands(si, token)
            if stands:
                self.leave(si, token)
        self._held.pop(token, None)
        if not stands:
            raise _LOST

    def _insist_on_call(self, si: bytes, token: str) -> None:
        if not self.owns(si, token):
            raise _LOST

    def _write_owner(self, folder: tuple[str, ...], seconds: float, client: str) -> float:
        """Who holds it: this process, so that its end is seen here at once. The time of the file."""
        import tomli_w

        me = this_process(seconds)
        data = me.serialise() + tomli_w.dumps({"client": client}).encode("utf-8", "replace")
        with self._quota.taken(ENTRY + len(data)), self._jail.folder(folder) as above:
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
        """Show that the holders of guards taken by a call live. A client that has asked for nothing for as long as its
        guard may stay untouched is taken for paused: one that holds guards asks for something more often."""
        now = self._now()
        for token, guard in list(self._held.items()):
            if guard.kept and guard.every <= now - guard.touched and now - self._asked <= _TOUCHES * guard.every:
                guard.touched = now
                with suppress(OSError), self._jail.folder(("locks", b32encode(guard.si), token)) as folder:
                    os.utime(OWNER, dir_fd=folder, follow_symlinks=False)

    def close(self) -> None:
        """The connection is gone: so are its guards."""
        for token in list(self._making):
            self._unmake(token)
        for token, guard in list(self._held.items()):
            with suppress(OSError, Refused), self._turn(guard.si):
                if self._stands(guard.si, token):
                    staged = set(self._jail.names(("locks", b32encode(guard.si), token))) - {OWNER}
                    if staged:
                        self.leave(guard.si, token)
                    else:
                        self._remove(guard.si, token)
            self._held.pop(token, None)

    def _unmake(self, token: str) -> None:
        made = ("locks", f".{token}")
        for remove, names in (
            (self._jail.unlink, (*made, token, OWNER)),
            (self._jail.rmdir, (*made, token)),
            (self._jail.rmdir, made),
        ):
            with suppress(OSError):
                self._quota.begin()
                remove(names)
                self._quota.free(ENTRY)
        self._making.discard(token)

    def _remove(self, si: bytes, token: str) -> None:
        """The owner goes last: a guard without one is nobody's."""
        holder = ("locks", b32encode(si), token)
        with asking():
            names = self._jail.names(holder)
            for name in [*(name for name in names if name != OWNER), OWNER]:
                with suppress(FileNotFoundError):
                    self._quota.begin()
                    size = self._jail.look((*holder, name)).st_size
                    self._jail.unlink((*holder, name))
                    self._quota.free(size + ENTRY)
            self._jail.rmdir(holder)
            self._quota.begin()
            self._quota.free(2 * ENTRY)
            with suppress(OSError):
                self._jail.rmdir(holder[:-1])
