"""A snapshot as a tar stream (pax): for what reads tar, and no disk in between."""

from __future__ import annotations

import base64
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lafscli.backup.entries import ROOT_ENTRY, Kept, kept_of
from lafscli.backup.restore import Restored, local_name, same_file, target_of
from lafscli.backup.selecting import Selecting
from lafscli.errors import LafsError, Unreachable
from lafscli.formats.caps import Cap, ChkCap, DirectoryCap, LitCap, UnknownCap
from lafscli.immutable.fetchmany import SMALL, download_many
from lafscli.storage.store import Buffer, Progress
from lafscli.tree.contents import Access, content, read
from lafscli.tree.copy import Chain, Throughout, Trouble
from lafscli.tree.directory import load_many
from lafscli.tree.folders import unfit

_BATCH_FILES = 64
_LARGEST_DEVICE = 8**7 - 1
_TYPES = {
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "fifo": tarfile.FIFOTYPE,
    "chr": tarfile.CHRTYPE,
    "blk": tarfile.BLKTYPE,
}
_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class _Member:
    path: str
    cap: Cap
    kept: Kept
    above: Chain[Cap] | None = None


@dataclass(slots=True)
class _Tar:
    """Writes members; a stream that ends in the middle of one can't be gone on with."""

    write: Callable[[Buffer], object]
    written: int = 0
    names: dict[tuple[object, ...], str] = field(default_factory=dict)

    def put(self, data: Buffer) -> None:
        self.write(data)
        self.written += memoryview(data).nbytes

    def head(self, member: _Member, sort: str, size: int, target: str = "") -> None:
        info = tarfile.TarInfo(member.path + ("/" if sort == "dir" else ""))
        kept = member.kept
        usual = 0o755 if sort == "dir" else 0o644
        info.type = tarfile.LNKTYPE if sort == "hardlink" else _TYPES.get(sort, tarfile.REGTYPE)
        info.mode = kept.mode if kept.mode is not None else usual
        info.uid, info.gid = kept.uid or 0, kept.gid or 0
        info.uname, info.gname = _plain(kept.uname), _plain(kept.gname)
        info.size, info.linkname = size, target
        headers: dict[str, str] = {}
        if kept.mtime_ns is not None:
            info.mtime = kept.mtime_ns // 10**9
            if kept.mtime_ns % 10**9:
                headers["mtime"] = f"{kept.mtime_ns // 10**9}.{kept.mtime_ns % 10**9:09d}"
        if sort in ("chr", "blk"):
            info.devmajor, info.devminor = os.major(kept.rdev or 0), os.minor(kept.rdev or 0)
            if max(info.devmajor, info.devminor) > _LARGEST_DEVICE:
                raise LafsError("there is no device of that number in a tar stream")
        for name, text in {**kept.extra.xattr, **kept.extra.acl}.items():
            value = base64.b64decode(text)
            # pax headers are text: what is not can't be in one
            if value.isascii() and b"\0" not in value and name.isascii() and "=" not in name:
                headers[f"SCHILY.xattr.{name}"] = value.decode("ascii")
        info.pax_headers = headers
        try:
            self.put(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        except ValueError as error:
            raise LafsError(f"can't be in a tar stream: {error}") from error

    def pad(self) -> None:
        if self.written % _BLOCK:
            self.put(bytes(_BLOCK - self.written % _BLOCK))

    def end(self) -> None:
        self.put(bytes(2 * _BLOCK))
        if self.written % tarfile.RECORDSIZE:
            self.put(bytes(tarfile.RECORDSIZE - self.written % tarfile.RECORDSIZE))


def write_tar(
    access: Access,
    top: DirectoryCap,
    kept: Kept,
    write: Callable[[Buffer], object],
    selecting: Selecting,
    named: Callable[[Trouble], None],
    progress: Progress,
) -> Restored:
    """Write what is in a directory. What can't be had is named and left out; a file that breaks in its middle ends the
    stream: LafsError."""
    return _Writing(access, _Tar(write), selecting, named, Throughout(progress)).run(top, kept)


@dataclass(slots=True)
class _Writing:
    access: Access
    tar: _Tar
    selecting: Selecting
    named: Callable[[Trouble], None]
    progress: Progress
    done: Restored = field(default_factory=Restored)

    def run(self, top: DirectoryCap, kept: Kept) -> Restored:
        stack = [_Member("", top, kept)]
        while stack:
            member = stack.pop()
            assert isinstance(member.cap, DirectoryCap)
            stack += reversed(list(self._directory(member)))
        self.tar.end()
        return self.done

    def _directory(self, member: _Member) -> Iterator[_Member]:
        """Write a directory and the files in it; the directories in it come back."""
        assert isinstance(member.cap, DirectoryCap)
        [loaded] = load_many(self.access, [member.cap])
        if isinstance(loaded, LafsError):
            self._fail(member.path, loaded)
            return
        if member.path:
            self.tar.head(member, "dir", 0)
            self.done.dirs += 1
        chain = Chain(loaded.cap.verify_cap() or loaded.cap, member.above) if loaded.cap.mutable else member.above
        files: list[_Member] = []
        taken: set[str] = set()
        for left in loaded.left_out:
            self._fail(f"{member.path}/{left.name}", LafsError(f"can't be used: {left.reason}"))
        for child in loaded.children():
            kept = kept_of(child.metadata)
            if not member.path and child.name == ROOT_ENTRY and kept.sort == "dir" and isinstance(child.cap, LitCap):
                continue
            name = local_name(child)
            path = f"{member.path}/{name}" if member.path else name
            why = unfit(name) or ("another entry of its folder has the same name" if name in taken else None)
            if why is not None or not name:
                self._fail(f"{member.path}/{child.name}", LafsError(why or "has no name"))
                continue
            taken.add(name)
            wanted, _ = self.selecting.wants(path.split("/"), folder=child.cap.is_directory)
            below = _Member(path, child.cap, kept, chain)
            if isinstance(child.cap, DirectoryCap):
                if child.cap.mutable and chain is not None and chain.holds(child.cap.verify_cap() or child.cap):
                    self._fail(path, LafsError("contains itself: not restored again"))
                elif wanted:
                    yield below
            elif wanted:
                files.append(below)
        for start in range(0, len(files), _BATCH_FILES):
            self._files(files[start : start + _BATCH_FILES])

    def _files(self, files: list[_Member]) -> None:
        caps: list[ChkCap] = []
        places: list[_Member] = []
        for member in files:
            sort, same = member.kept.sort or "file", same_file(member.cap, member.kept)
            try:
                if isinstance(member.cap, UnknownCap):
                    raise LafsError("is of a kind that lafs does not know")
                if sort == "socket":
                    continue  # tar has none
                if same is not None and same in self.tar.names:
                    self.tar.head(member, "hardlink", 0, self.tar.names[same])
                elif sort == "symlink":
                    target = target_of(self.access, member.cap, member.kept)
                    if not target or b"\0" in target:
                        raise LafsError("its target is none that a symbolic link can have")
                    self.tar.head(member, sort, 0, os.fsdecode(target))
                    self._named(member)
                elif sort in _TYPES and sort != "dir":
                    self.tar.head(member, sort, 0)
                    self._named(member)
                elif isinstance(member.cap, LitCap):
                    self._small(member, member.cap.content)
                    continue
                elif isinstance(member.cap, ChkCap) and member.cap.size <= SMALL:
                    caps.append(member.cap)
                    places.append(member)
                    continue
                else:
                    self._large(member)
                    continue
            except LafsError as error:
                self._fail(member.path, error)
            else:
                self.done.files += 1
        for index, fetched in download_many(self.access.grid, caps, self.progress) if caps else ():
            if isinstance(fetched, LafsError):
                self._fail(places[index].path, fetched)
            else:
                self._small(places[index], fetched.content)

    def _small(self, member: _Member, data: Buffer) -> None:
        size = memoryview(data).nbytes
        self.tar.head(member, "file", size)
        self.tar.put(data)
        self.tar.pad()
        self._written(member, size)

    def _large(self, member: _Member) -> None:
        """Piece by piece; its size stands before it, so that what breaks in the middle breaks the stream."""
        size = getattr(member.cap, "size", None)
        if size is None:
            self._small(member, content(self.access, member.cap))
            return
        begun = False

        def put(data: Buffer) -> None:
            nonlocal begun
            if not begun:
                self.tar.head(member, "file", size)
                begun = True
            self.tar.put(data)

        try:
            read(self.access, member.cap, put, progress=self.progress)
        except LafsError as error:
            if begun:
                raise Broken(f"{member.path}: {error.message}; the stream ends here", hint=error.hint) from error
            raise
        self.tar.pad()
        self._written(member, size)

    def _written(self, member: _Member, size: int) -> None:
        self._named(member)
        self.done.files += 1
        self.done.bytes += size

    def _named(self, member: _Member) -> None:
        """Other names of the same file lead to this one."""
        same = same_file(member.cap, member.kept)
        if same is not None:
            self.tar.names.setdefault(same, member.path)

    def _fail(self, path: str, error: LafsError) -> None:
        if isinstance(error, Unreachable | Broken):
            raise error
        trouble = Trouble(path, error)
        self.done.errors.append(trouble)
        self.named(trouble)


def _plain(name: str) -> str:
    """The name of a user or group as a header can have it."""
    return name.encode("ascii", "replace").decode()[:31]


class Broken(LafsError):
    """A stream that was promised more than could be had."""
