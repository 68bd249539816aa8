"""A file system in memory, with the answers that OpenSSH's sftp-server gives on Linux.

`test_simulation_disk.py` compares it with the real one. Everything here is one system call, so one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lafscli.errors import FileDenied, FileError, FileExists, FileMissing, OutOfSpace
from lafscli.storage.store import DirEntry, FileStat


class File:
    """An inode with bytes in it."""

    __slots__ = ("data", "mtime")

    def __init__(self, mtime: int) -> None:
        self.data = b""
        self.mtime = mtime


class Folder:
    """An inode with names in it."""

    __slots__ = ("entries", "mtime")

    def __init__(self, mtime: int) -> None:
        self.entries: dict[str, File | Folder] = {}
        self.mtime = mtime


Node = File | Folder


class Disk:
    """One server's root. `clock` is the server's; times are whole seconds of it.

    `changes` counts what makes or changes files, `losses` what may have taken one away. While `full`, nothing
    can be made and writes end in the middle. A `frank` server says why it refuses where OpenSSH says only that it does.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.root = Folder(0)
        self.full = False
        self.frank = False
        self.losses = 0
        self.changes = 0

    # ---- looking

    def lstat(self, path: str) -> FileStat:
        return _stat(self._find(path))

    def folder(self, path: str) -> Folder:
        """OPENDIR."""
        folder = self._find(path)
        if isinstance(folder, File):
            raise FileMissing(f"{path}: no such file")
        return folder

    def entries(self, path: str, names: list[str]) -> list[DirEntry]:
        """What READDIR answers: each name is looked up by its path; one that is gone by now is left out."""
        found = []
        for name in names:
            try:
                found.append(DirEntry(name, _stat(self._find(f"{path}/{name}" if path else name))))
            except FileMissing:
                continue
        return found

    def opened(self, path: str) -> File:
        node = self._find(path)
        if isinstance(node, Folder):
            raise FileError(f"{path}: failure")
        return node

    # ---- changing

    def mkdir(self, path: str) -> None:
        folder, name = self._parent(path)
        if name in folder.entries:
            raise self._taken(path)
        self._room(path)
        self._put(folder, name, Folder(self._now()))

    def create(self, path: str) -> File:
        """O_CREAT and O_EXCL."""
        folder, name = self._parent(path)
        if name in folder.entries:
            raise self._taken(path)
        self._room(path)
        made = File(self._now())
        self._put(folder, name, made)
        return made

    def write(self, file: File, offset: int, data: bytes, path: str) -> None:
        if self.full:
            data = data[: len(data) // 2]
        file.data = file.data[:offset].ljust(offset, b"\0") + data + file.data[offset + len(data) :]
        file.mtime = self._now()
        self.changes += 1
        self._room(path)

    def truncate(self, path: str, size: int) -> None:
        file = self.opened(path)
        file.data = file.data[:size].ljust(size, b"\0")
        file.mtime = self._now()
        self.changes += 1
        self.losses += 1

    def utime(self, path: str, mtime: int) -> None:
        self._find(path).mtime = mtime

    def unlink(self, path: str) -> None:
        folder, name = self._parent(path)
        node = folder.entries.get(name)
        if node is None:
            raise FileMissing(f"{path}: no such file")
        if isinstance(node, Folder):
            raise FileError(f"{path}: failure")
        self.losses += name != "owner"
        self._drop(folder, name)

    def rmdir(self, path: str) -> None:
        folder, name = self._parent(path)
        node = folder.entries.get(name)
        if node is None or isinstance(node, File):
            raise FileMissing(f"{path}: no such file")
        if node.entries:
            raise FileError(f"{path}: failure")
        self._drop(folder, name)

    def link(self, old: str, new: str) -> None:
        node = self._find(old)
        folder, name = self._parent(new)
        if name in folder.entries:
            raise self._taken(old)
        if isinstance(node, Folder):
            raise FileDenied(f"{old}: permission denied")
        self._room(old)
        self._put(folder, name, node)

    def rename(self, old: str, new: str) -> None:
        """rename(2), which replaces a file or an empty folder."""
        source, old_name = self._parent(old)
        node = source.entries.get(old_name)
        if node is None:
            raise FileMissing(f"{old}: no such file")
        target, new_name = self._parent(new)
        there = target.entries.get(new_name)
        if there is node:
            return
        if isinstance(node, Folder):
            if f"{new}/".startswith(f"{old}/"):
                raise FileError(f"{old}: failure")
            if isinstance(there, File):
                raise FileMissing(f"{old}: no such file")  # ENOTDIR
            if there is not None and there.entries:
                raise FileError(f"{old}: failure")
        elif isinstance(there, Folder):
            raise FileError(f"{old}: failure")
        self.losses += isinstance(node, File) or not old.startswith("locks/.")
        self._drop(source, old_name)
        self._put(target, new_name, node)

    def v3_rename(self, old: str, new: str) -> Iterator[None]:
        """process_rename of sftp-server.c; others may come in between at each `yield`."""
        node = self._find(old)
        if isinstance(node, File):
            yield
            self.link(old, new)
            yield
            try:
                self.unlink(old)
            except FileError:
                yield
                self.unlink(new)  # "clean spare link"
                raise
            return
        yield
        if self._exists(new):
            raise self._taken(old)
        yield
        self.rename(old, new)

    # ---- inside

    def _now(self) -> int:
        return int(self.clock())

    def _room(self, path: str) -> None:
        if self.full:
            raise (OutOfSpace if self.frank else FileError)(f"{path}: no space left on device")

    def _taken(self, path: str) -> FileError:
        return (FileExists if self.frank else FileError)(f"{path}: it is there")

    def _exists(self, path: str) -> bool:
        try:
            self._find(path)
        except FileMissing:
            return False
        return True

    def _find(self, path: str) -> Node:
        node: Node | None = self.root
        if path:
            for part in path.split("/"):
                node = node.entries.get(part) if isinstance(node, Folder) else None
                if node is None:
                    raise FileMissing(f"{path}: no such file")
        assert node is not None
        return node

    def _parent(self, path: str) -> tuple[Folder, str]:
        folder, _, name = path.rpartition("/")
        node = self._find(folder)
        if isinstance(node, File):
            raise FileMissing(f"{path}: no such file")
        return node, name

    def _put(self, folder: Folder, name: str, node: Node) -> None:
        self.changes += 1
        folder.entries[name] = node
        folder.mtime = self._now()

    def _drop(self, folder: Folder, name: str) -> None:
        self.changes += 1
        del folder.entries[name]
        folder.mtime = self._now()


def _stat(node: Node) -> FileStat:
    if isinstance(node, File):
        return FileStat("file", len(node.data), node.mtime)
    return FileStat("dir", 4096, node.mtime)


def copied(folder: Folder) -> Folder:
    """The same tree with inodes of its own. Two names of one file become two files."""
    made = Folder(folder.mtime)
    for name, node in folder.entries.items():
        if isinstance(node, Folder):
            made.entries[name] = copied(node)
        else:
            made.entries[name] = file = File(node.mtime)
            file.data = node.data
    return made
