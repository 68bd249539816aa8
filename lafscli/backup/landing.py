"""Where a backup is restored to: entries of every kind, with all that was kept of them (spec 07 §7).

As with all trees that arrive, everything below the folder that the user named is reached by descriptors, one name at a
time, and no link is followed (`tree.folders`). What replaces something is made under another name, and renamed.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from lafscli.backup.entries import Kept
from lafscli.errors import LafsError
from lafscli.storage.store import Buffer
from lafscli.tree.folders import LocalFolders, Place, cannot

_OTHERS_RIGHTS = stat.S_ISUID | stat.S_ISGID
_NODES = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "chr": stat.S_IFCHR, "blk": stat.S_IFBLK}
_STEP = 1 << 16


@dataclass(slots=True)
class Unkept:
    """What could not be given back, counted: it is told once, not for each entry."""

    owners: int = 0
    attributes: int = 0
    modes: int = 0
    times: int = 0


@dataclass(slots=True)
class Rights:
    """What this user may do. `root`: give files to others, and make devices."""

    root: bool
    unkept: Unkept = field(default_factory=Unkept)


class Landing(LocalFolders):
    """Local folders that take entries of every kind. Errors are LafsErrors that name the path."""

    def __init__(self, root: str, rights: Rights) -> None:
        from pathlib import Path

        super().__init__(Path(root))
        self._rights = rights

    def look(self, place: Place) -> os.stat_result | None:
        """What has that name; None for nothing. Its folder must be there."""
        try:
            return os.stat(place[-1], dir_fd=self.handle(place[:-1]), follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise cannot(self.shown(place), error) from error

    def opened(self, place: Place) -> int:
        """A descriptor to read a regular file, for the caller to close."""
        try:
            return os.open(
                place[-1],
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                dir_fd=self.handle(place[:-1]),
            )
        except OSError as error:
            raise cannot(self.shown(place), error) from error

    @contextlib.contextmanager
    def file(self, place: Place, kept: Kept) -> Iterator[Callable[[Buffer], None]]:
        """A place to write a file to, in order: it gets its name, whole and durable, when the block ends well."""
        with self._instead(place) as (folder, temporary):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(temporary, flags, 0o600, dir_fd=folder)
            try:
                sparse = _Sparse(handle, kept.extra.holes)
                yield sparse.write
                sparse.finish()
                self._adorn(handle, kept, 0o600)
                os.fsync(handle)
            finally:
                os.close(handle)

    def symlink(self, place: Place, target: bytes, kept: Kept) -> None:
        """Make a symbolic link."""
        with self._instead(place) as (folder, temporary):
            os.symlink(target, os.fsencode(temporary), dir_fd=folder)
            self._own(temporary, kept, folder)
            self._date(kept, lambda ns: os.utime(temporary, ns=ns, dir_fd=folder, follow_symlinks=False))

    def node(self, place: Place, sort: str, kept: Kept) -> None:
        """Make a FIFO, a socket or a device; devices take root."""
        if sort in ("chr", "blk") and not self._rights.root:
            raise LafsError(f"{self.shown(place)}: only root can make devices")
        with self._instead(place) as (folder, temporary):
            os.mknod(temporary, _NODES[sort] | 0o600, kept.rdev or 0, dir_fd=folder)
            self._own(temporary, kept, folder)
            if kept.mode is not None:
                os.chmod(temporary, kept.mode & ~_OTHERS_RIGHTS, dir_fd=folder)
            self._date(kept, lambda ns: os.utime(temporary, ns=ns, dir_fd=folder, follow_symlinks=False))

    def link(self, place: Place, other: Place) -> None:
        """Give what was restored another name."""
        there, here = self.look(other), self.look(place)
        if there is not None and here is not None and os.path.samestat(there, here):
            return
        try:
            origin = os.dup(self.handle(other[:-1]))
        except OSError as error:
            raise cannot(self.shown(place), error) from error
        try:
            with self._instead(place) as (folder, temporary):
                os.link(other[-1], temporary, src_dir_fd=origin, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(origin)

    def finish_folder(self, place: Place, kept: Kept) -> None:
        """Give a folder all that was kept of it, when nothing more is written into it."""
        try:
            self._adorn(self.handle(place), kept, None)
        except OSError as error:
            raise cannot(self.shown(place), error) from error

    def adorn_file(self, place: Place, kept: Kept) -> bool:
        """The same for a file that is there already, with its content; False where it can't be opened."""
        try:
            handle = self.opened(place)
        except LafsError as error:
            if isinstance(error.__cause__, PermissionError):
                return False
            raise
        try:
            self._adorn(handle, kept, None)
        except OSError as error:
            raise cannot(self.shown(place), error) from error
        finally:
            os.close(handle)
        return True

    # ---- how

    @contextlib.contextmanager
    def _instead(self, place: Place) -> Iterator[tuple[int, str]]:
        """A folder's descriptor and a name in it: what is made there takes the place of what is there, if that is no
        folder."""
        old = self.look(place)
        if old is not None and stat.S_ISDIR(old.st_mode):
            raise LafsError(f"{self.shown(place)} is there, and is a folder")
        folder = os.dup(self.handle(place[:-1]))  # it must not be closed while others are opened
        temporary = f".lafs-{secrets.token_hex(8)}"
        left = True
        try:
            yield folder, temporary
            os.rename(temporary, place[-1], src_dir_fd=folder, dst_dir_fd=folder)
            # two names of one file: a rename of one onto the other does nothing, and leaves both
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
            left = False
        except OSError as error:
            raise cannot(self.shown(place), error) from error
        except (ValueError, OverflowError) as error:
            raise LafsError(f"{self.shown(place)} can't be made: {error}") from error
        finally:
            if left:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=folder)
            os.close(folder)
        self.note_written(place[:-1])

    def _adorn(self, handle: int, kept: Kept, usual: int | None) -> None:
        """Owner first (a change of which cuts the mode), attributes while the file may be written, mode, and time last.
        What can't be given is counted: the content is there all the same."""
        owned = self._give(kept, lambda uid, gid: os.fchown(handle, uid, gid))
        for name, text in {**kept.extra.xattr, **kept.extra.acl}.items():
            try:
                os.setxattr(handle, name, base64.b64decode(text))
            except (OSError, AttributeError, ValueError):
                self._rights.unkept.attributes += 1
        mode = kept.mode if kept.mode is not None else usual
        if mode is not None:
            if mode & _OTHERS_RIGHTS and not owned and not self._mine(os.fstat(handle), kept):
                mode &= ~_OTHERS_RIGHTS
                self._rights.unkept.modes += 1
            try:
                os.fchmod(handle, mode)
            except OSError:
                self._rights.unkept.modes += 1
        self._date(kept, lambda ns: os.utime(handle, ns=ns))

    def _date(self, kept: Kept, date: Callable[[tuple[int, int]], None]) -> None:
        if kept.mtime_ns is not None:
            try:
                date((kept.mtime_ns, kept.mtime_ns))
            except (OSError, OverflowError):
                self._rights.unkept.times += 1

    def _own(self, name: str, kept: Kept, folder: int) -> None:
        self._give(kept, lambda uid, gid: os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False))

    def _give(self, kept: Kept, give: Callable[[int, int], None]) -> bool:
        """Give it to its owner and group, by their names where they are known here; whether that was done."""
        if not self._rights.root or kept.uid is None or kept.gid is None:
            return False
        try:
            give(_user(kept.uname, kept.uid), _group(kept.gname, kept.gid))
        except OSError:
            self._rights.unkept.owners += 1
            return False
        return True

    def _mine(self, found: os.stat_result, kept: Kept) -> bool:
        return kept.uid is not None and (found.st_uid, found.st_gid) == (kept.uid, kept.gid)


class _Sparse:
    """Writes in order; what is zero where there was a hole is left out."""

    def __init__(self, handle: int, holes: object) -> None:
        self._handle = handle
        self._holes = list(holes) if isinstance(holes, list | tuple) else []
        self._position = 0

    def write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        while view:
            while self._holes and sum(self._holes[0]) <= self._position:
                self._holes.pop(0)
            start, length = self._holes[0] if self._holes else (self._position + len(view), 0)
            if start > self._position:
                count = min(len(view), start - self._position)
                self._put(view[:count])
            else:
                count = min(len(view), start + length - self._position, _STEP)
                piece = view[:count]
                if bytes(piece).count(0) != count:  # the content is what was proved, not what is said of it
                    self._put(piece)
            view = view[count:]
            self._position += count

    def _put(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            done += os.pwrite(self._handle, view[done:], self._position + done)

    def finish(self) -> None:
        """Give the file its length, where it ends in a hole."""
        os.ftruncate(self._handle, self._position)


@lru_cache(maxsize=4096)
def _user(name: str, number: int) -> int:
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid if name else number
    except (KeyError, ValueError):
        return number


@lru_cache(maxsize=4096)
def _group(name: str, number: int) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid if name else number
    except (KeyError, ValueError):
        return number
