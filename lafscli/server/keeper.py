"""The keeper of shares: the one way to put, change or take away what stands in `shares/`."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from lafscli.primitives.encoding import b32encode
from lafscli.server import patches
from lafscli.server.backend import FAILURE, NO_SUCH_FILE, OK, PERMISSION_DENIED, Refused
from lafscli.server.cancelling import Lease, drop_leases
from lafscli.server.history import History, Kept
from lafscli.server.judge import holds_mutable, prove_immutable, prove_mutable, shape, well_formed
from lafscli.server.placing import New, Proofs, Standing, Verdict, check_container, fits_beside, instead, same_file
from lafscli.server.restoring import restore
from lafscli.server.shelves import MOST_SHARES, Shelves, plain_file, refusing, rename_keeping
from lafscli.server.trees import no_pulse
from lafscli.server.turns import Turns

_NEVER = 0xFFFFFFFF
"""The last moment at which a lease can end."""


def no_fence() -> None:
    """For one who may place whatever happens meanwhile."""


def _ignored(_: object) -> None:
    """For one who does not want to be told."""


class Keeper:
    """Every change is decided and done under the turn of its storage index, so that of two who want the same place
    one comes first and the other is judged by what then stands there. Whoever is killed at any moment leaves every
    share whole.

    `note` gets a line for the log of each change. `used` gets the bytes by which the files below the root became more
    (below 0: fewer) by what the keeper did: a file that is placed was counted when it was staged; what goes to
    `trash/`, `quarantine/` and `history/` still counts. `pulse` is called now and then during a long proof.
    One thread; no turn of another storage index may be held.
    """

    def __init__(
        self,
        root_fd: int,
        *,
        append_only: bool,
        history: int,
        now: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        note: Callable[[str], None] = _ignored,
        used: Callable[[int], None] = _ignored,
        pulse: Callable[[], None] = no_pulse,
    ) -> None:
        self._shelves = Shelves(root_fd, now, random_bytes, note, used)
        self._append_only = append_only
        self._count = history
        self._history = History(self._shelves)
        self._turns: Turns | None = None
        self._pulse = pulse

    @property
    def turns(self) -> Turns:
        """The same for all who change something below this root: a caller may hold one around the methods here."""
        if self._turns is None:
            self._turns = Turns(self._history.fd, pulse=self._pulse)
        return self._turns

    def close(self) -> None:
        if self._turns is not None:
            self._turns.close()
        self._history.close()

    # ---- placing

    def place(
        self,
        source_fd: int,
        source_dir_fd: int,
        source_name: str,
        si: bytes,
        shnum: int,
        *,
        replace: bool,
        fence: Callable[[], None] = no_fence,
    ) -> None:
        """Move a staged container into its place, all or nothing; Refused says why not, and then nothing has changed.

        `source_fd` is the open file (to read is enough) that has the name `source_name` in the folder, and no other;
        it is refused while somebody holds a lock on it, as those do who write to it. One who opens the file for
        writing must look, once he has his lock, whether it still has its name. What may take the place of what is
        told in `placing.py`; nothing is replaced unless `replace`. `fence` is called under the turn, before anything
        is changed, and raises where it must not be: one who holds the turn around this instead holds it for as long as
        the proofs take.
        """
        what = f"{b32encode(si)}.{shnum}"
        if not 0 <= shnum < MOST_SHARES:
            raise Refused(FAILURE, f"{what}: no encoding has such a share number")
        with refusing(what), _named(what), _held(source_fd, source_dir_fd, source_name) as size:
            new = self._judged(source_fd, size, si, shnum, proven=replace)
            proofs = Proofs(self._pulse)
            # once without the turn, for what takes long: most refusals, the proof of what stands there, the disk
            if self._would_replace(new, source_fd, si, shnum, proofs, replace=replace):
                os.fdatasync(source_fd)
            with self.turns.turn(si), self._shelves.shares(si, make=True) as folder:
                fence()
                _insist_on_name(source_fd, source_dir_fd, source_name)
                with self._shelves.share(folder, shnum) as found:
                    if found is None:
                        fits_beside(self._shelves, folder, new, si, shnum)
                        rename_keeping(source_dir_fd, source_name, folder, str(shnum))
                        self._shelves.note(f"placed {what}")
                        return
                    fd, status = found
                    standing = Standing(fd, status.st_size, si, shnum, proofs)
                    verdict = self._verdict(new, source_fd, standing, replace=replace)
                if verdict.bad:
                    fits_beside(self._shelves, folder, new, si, shnum)
                move = partial(os.rename, source_name, str(shnum), src_dir_fd=source_dir_fd, dst_dir_fd=folder)
                self._put_instead(verdict, folder, si, shnum, status.st_size, move)

    def _would_replace(self, new: New, source_fd: int, si: bytes, shnum: int, proofs: Proofs, *, replace: bool) -> bool:
        """Whether something stands in the place that gives way; Refused if something does that won't."""
        try:
            with self._shelves.shares(si) as folder, self._shelves.share(folder, shnum) as found:
                if found is None:
                    return False
                fd, status = found
                self._verdict(new, source_fd, Standing(fd, status.st_size, si, shnum, proofs), replace=replace)
                return True
        except FileNotFoundError:
            return False

    def _verdict(self, new: New, source_fd: int, standing: Standing, *, replace: bool) -> Verdict:
        if not replace:
            raise Refused(FAILURE, "is there already")
        return instead(new, source_fd, standing, self._shelves.now(), self._shelves.node_id)

    def _put_instead(
        self, verdict: Verdict, folder: int, si: bytes, shnum: int, size: int, move: Callable[[], None]
    ) -> None:
        """Have what stands there renamed over, after it got another name where it is to be kept."""
        what = f"{b32encode(si)}.{shnum}"
        keeps = self._append_only and self._count > 0
        if verdict.bad:
            self._shelves.quarantine(folder, si, shnum)
        elif verdict.slot is not None and keeps:
            self._history.keep(folder, si, shnum, verdict.slot)
        move()
        os.fsync(folder)
        if verdict.bad:
            self._shelves.note(f"placed {what}, what was there is in quarantine")
            return
        if verdict.slot is not None and keeps:
            self._history.bound(si, shnum, self._count)
        else:
            self._shelves.used(-size)
        self._shelves.note(f"placed {what} with more leases" if verdict.slot is None else f"placed a newer {what}")

    def put_away(self, si: bytes, shnum: int, *, fence: Callable[[], None] = no_fence) -> None:
        """Move a share that fails its own proof to `quarantine/`, and put nothing in its place; Refused where it
        proves. `fence` as in `place`."""
        what = f"{b32encode(si)}.{shnum}"
        proofs = Proofs(self._pulse)

        def insist_on_bad(folder: int) -> None:
            with self._shelves.share(folder, shnum) as found:
                if found is None:
                    raise Refused(NO_SUCH_FILE, "no such share")
                if not proofs.fails(found[0], si, shnum):
                    raise Refused(FAILURE, "it proves")

        with refusing(what), _named(what):
            with self._shelves.shares(si) as folder:  # without the turn, for most that prove
                insist_on_bad(folder)
            with self.turns.turn(si), self._shelves.shares(si) as folder:
                fence()
                insist_on_bad(folder)
                self._shelves.quarantine(folder, si, shnum)
                os.unlink(str(shnum), dir_fd=folder)
                os.fsync(folder)
                self._shelves.note(f"put {what}, which fails its own proof, into quarantine")

    def _judged(self, fd: int, size: int, si: bytes, shnum: int, *, proven: bool) -> New:
        if holds_mutable(fd):
            slot = prove_mutable(fd, size, si, shnum, pulse=self._pulse)
            check_container(slot.container)
            return slot
        if proven:
            return prove_immutable(fd, size, si, shnum, pulse=self._pulse)
        return well_formed(fd, size, shnum)

    # ---- leases

    def patch(self, share_fd: int, si: bytes, shnum: int, offset: int | None, data: bytes) -> None:
        """Write to a share in its place: lease records alone, by the rules of `patches.py`. `offset` None: at the end,
        as one who has opened it to append. Refused also when `share_fd` is not what stands there any more."""
        what = f"{b32encode(si)}.{shnum}"
        with refusing(what), _named(what), self.turns.turn(si), self._shelves.shares(si) as folder:
            if not same_file(share_fd, folder, str(shnum)):
                raise Refused(NO_SUCH_FILE, "was replaced or removed meanwhile")
            with self._shelves.share(folder, shnum, write=True) as found:
                if found is None:
                    raise Refused(NO_SUCH_FILE, "was removed meanwhile")
                fd, status = found
                done = patches.patch(fd, status.st_size, offset, bytes(data))
                if done.longer:
                    self._shelves.used(done.longer)
                if done.what:
                    self._shelves.note(f"{done.what} {what}")

    def cancel(
        self, items: Sequence[tuple[bytes, int, bytes]], latest: Sequence[int] | None = None
    ) -> list[tuple[int, str]]:
        """Take the leases with these cancel secrets out of the shares (storage index, share number, secret); of each,
        a status and a message. A share whose last lease is gone is in `trash/` then. Not where the server is
        append-only; and a share that has no lease, or none with that secret, stays as it is, and so does one in a
        container of version 1, whose secrets are no secrets. `latest`: of each, when the lease ends at the latest; one
        that ends later was renewed meanwhile, and stays."""
        answers: list[tuple[int, str]] = []
        for (si, shnum, secret), end in zip(items, [_NEVER] * len(items) if latest is None else latest, strict=True):
            try:
                answers.append((OK, self._cancel(si, shnum, secret, end)))
            except Refused as refused:
                answers.append((refused.code, refused.message))
            self._pulse()
        return answers

    def _cancel(self, si: bytes, shnum: int, secret: bytes, latest: int) -> str:
        what = f"{b32encode(si)}.{shnum}"
        if self._append_only:
            raise Refused(PERMISSION_DENIED, f"{what}: the server is append-only: nothing is removed")
        if len(secret) != 32 or not 0 <= shnum < MOST_SHARES:
            raise Refused(FAILURE, f"{what}: there is no such lease")

        renewed = False

        def doomed(lease: Lease) -> bool:
            nonlocal renewed
            ours = lease.matches_cancel(secret)
            renewed = renewed or (ours and lease.expiration > latest)
            return ours and lease.expiration <= latest

        with refusing(what), _named(what), self.turns.turn(si), self._shelves.shares(si) as folder:
            with self._shelves.share(folder, shnum, write=True) as found:
                if found is None:
                    raise Refused(NO_SUCH_FILE, "no such share")
                fd, status = found
                if shape(fd, status.st_size).version < 2:
                    # spec 06 §2: there the secrets themselves are stored, and whoever reads the share knows them
                    raise Refused(PERMISSION_DENIED, "everybody can read its cancel secrets: only its host cancels")
                gone, left = drop_leases(fd, status.st_size, doomed)
                shorter = status.st_size - os.fstat(fd).st_size
            if not gone and renewed:
                raise Refused(FAILURE, "its lease was renewed meanwhile")
            if not gone:
                raise Refused(PERMISSION_DENIED, "it has no lease with this cancel secret")
            if left:
                if shorter:
                    self._shelves.used(-shorter)
                self._shelves.note(f"cancelled a lease of {what}")
                return "cancelled"
            self._shelves.trash(folder, si, shnum)
            self._shelves.note(f"cancelled the last lease of {what}, which is in trash now")
            return "in trash"

    # ---- at the host

    def versions(self, si: bytes) -> list[Kept]:
        """The replaced versions that are kept of all shares of a storage index."""
        with refusing(b32encode(si)):
            return self._history.versions(si)

    def restore(self, si: bytes, shnum: int, version: str) -> None:
        """Put a kept version in place, although what stands there is newer: that goes to history (a damaged one to
        quarantine). `version` as in `Kept.version`. The leases of both stay, each until the later of its ends."""
        what = f"{b32encode(si)}.{shnum}"
        with refusing(what), _named(what), self.turns.turn(si):
            restore(self._shelves, self._history, si, shnum, version, pulse=self._pulse)
        self._shelves.note(f"restored version {version} of {what}")


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Refusals say which share they are about."""
    try:
        yield
    except Refused as refused:
        raise Refused(refused.code, f"{what}: {refused.message}") from refused


@contextmanager
def _held(fd: int, folder: int, name: str) -> Iterator[int]:
    """Nobody writes to the staged file inside; how long it is."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(FAILURE, "it is open for writing still") from None
    try:
        found = plain_file(fd, name)
        _insist_on_name(fd, folder, name)
        yield found.st_size
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _insist_on_name(fd: int, folder: int, name: str) -> None:
    if os.fstat(fd).st_nlink != 1 or not same_file(fd, folder, name):
        raise Refused(FAILURE, "what was staged has another name, or none")
