"""Grids over real folders with a fault dial on each server, for tests."""

from __future__ import annotations

import hashlib
import math
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from lafscli.errors import FileError, OutOfSpace, ServerUnreachable
from lafscli.immutable.upload import Writing
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid
from lafscli.storage.local import LocalFiles
from lafscli.storage.store import (
    MANY_NAMES,
    Answer,
    Buffer,
    DirEntry,
    FileRange,
    FileStat,
    FileWriter,
    NewFile,
    Op,
    Reading,
    Rename,
    Server,
    Space,
)

FEATURES = frozenset({"rename-keeps", "folder-rename-keeps", "posix-rename", "hardlink", "fsync", "ordered"})


class Dial:
    """What goes wrong on one server. Every field may be turned while the server is in use."""

    def __init__(self) -> None:
        self.dead = False
        self.hang: threading.Event | None = None
        """While set to an event: every call waits for it."""
        self.full_after: int | None = None
        """Bytes that may still be written."""
        self.refuse_create = False
        self.refusal: type[FileError] = FileError
        """What a refused operation is answered with."""
        self.flip: Callable[[FileRange, bytes], bytes] | None = None
        self.refuse_rename = False
        self.drop_writes = False
        self.before: Callable[[str], None] | None = None
        """Called with the name of each operation."""


class DialledFiles:
    """LocalFiles, with the faults of a Dial."""

    moved = -math.inf

    def __init__(self, files: LocalFiles, dial: Dial) -> None:
        self._files = files
        self.dial = dial
        self._closed = threading.Event()

    def _enter(self, name: str) -> None:
        if self.dial.before is not None:
            self.dial.before(name)
        hang = self.dial.hang
        while hang is not None and not hang.wait(0.02):
            if self._closed.is_set():
                raise ServerUnreachable("the connection was closed")
        if self.dial.dead:
            raise ServerUnreachable("connection refused")

    def connect(self) -> frozenset[str]:
        self._enter("connect")
        return self._files.connect()

    def close(self) -> None:
        self._closed.set()
        self._files.close()

    def do(self, ops: Sequence[Op]) -> list[Answer]:
        self._enter("do")
        if self.dial.refuse_rename or self.dial.refuse_create:
            return [self._do(op) for op in ops]  # one by one: order is kept
        return self._files.do(ops)

    def _do(self, op: Op) -> Answer:
        refused = (self.dial.refuse_rename and isinstance(op, Rename)) or (
            self.dial.refuse_create and isinstance(op, NewFile)
        )
        return self.dial.refusal("refused") if refused else self._files.do([op])[0]

    def do_and_read(self, ops: Sequence[Op], wanted: Sequence[FileRange]) -> tuple[list[Answer], Reading]:
        return self.do(ops), self.read(wanted)

    def listing(self, paths: Sequence[str], *, most: int = MANY_NAMES) -> list[list[DirEntry] | FileError]:
        self._enter("listing")
        return self._files.listing(paths, most=most)

    def read(self, wanted: Sequence[FileRange]) -> Reading:
        return _Reading(self, wanted, self._files.read(wanted))

    def release(self, path: str, keeper: int = 0) -> None:
        self._files.release(path, keeper)

    def create(self, path: str) -> FileWriter:
        self._enter("create")
        if self.dial.refuse_create:
            raise self.dial.refusal("refused")
        return _Writer(self, self._files.create(path))

    def open_existing(self, path: str, *, append: bool = False) -> FileWriter:
        self._enter("open_existing")
        return _Writer(self, self._files.open_existing(path, append=append))

    def create_many(self, files: Sequence[NewFile], *, sync: bool) -> list[FileStat | FileError | None]:
        self._enter("create_many")
        if self.dial.refuse_create:
            return [FileError("refused") for _ in files]
        return self._files.create_many(files, sync=sync)

    def space(self) -> Space | None:
        self._enter("space")
        return self._files.space()


class _Reading:
    def __init__(self, files: DialledFiles, wanted: Sequence[FileRange], reading: Reading) -> None:
        self._files = files
        self._wanted = wanted
        self._reading = reading

    def finish(self) -> list[Buffer | FileError]:
        self._files._enter("read")
        answers = self._reading.finish()
        flip = self._files.dial.flip
        if flip is None:
            return answers
        changed: list[Buffer | FileError] = []
        for item, answer in zip(self._wanted, answers, strict=True):
            if isinstance(answer, FileError) or not item.path.startswith("shares/"):
                changed.append(answer)
                continue
            data = flip(item, bytes(answer))
            if item.into is not None:
                item.into[: len(data)] = data
            changed.append(data)
        return changed


class _Writer:
    def __init__(self, files: DialledFiles, writer: FileWriter) -> None:
        self._files = files
        self._writer = writer

    def write(self, data: Buffer) -> None:
        self._files._enter("write")
        dial = self._files.dial
        if dial.drop_writes:
            return
        if dial.full_after is not None:
            dial.full_after -= memoryview(data).nbytes
            if dial.full_after < 0:
                raise OutOfSpace("no space left on device")
        self._writer.write(data)

    def write_at(self, offset: int, data: Buffer) -> None:
        self._files._enter("write")
        self._writer.write_at(offset, data)

    def flush(self) -> None:
        self._writer.flush()

    @property
    def durable(self) -> int:
        return self._writer.durable

    def checkpoint(self) -> None:
        self._files._enter("checkpoint")
        self._writer.checkpoint()

    def close(self, *, sync: bool) -> None:
        self._files._enter("close")
        self._writer.close(sync=sync)

    def abandon(self) -> None:
        self._writer.abandon()


class LocalGrid:
    """`count` servers in folders of `base`, named s0 …; `grid()` makes a new client of them."""

    def __init__(self, base: Path, count: int = 10, *, sites: Sequence[str | None] | None = None) -> None:
        self.base = base
        self.servers: list[Server] = []
        self.dials = [Dial() for _ in range(count)]
        self._grids: list[Grid] = []
        self.sync = False
        for index in range(count):
            node_id = hashlib.sha256(b"node %d" % index).digest()[:20]
            seed = hashlib.sha256(b"seed %d" % index).digest()[:20]
            site = None if sites is None else sites[index]
            self.servers.append(Server(f"s{index}", node_id, seed, site, True, FEATURES))
            root = self.root(index)
            for folder in ("shares", "staging", "trash", "quarantine", "locks"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            (root / "server.toml").write_text(
                f'version = 1\nnode-id = "{b32encode(node_id)}"\npermutation-seed = "{b32encode(seed)}"\n'
            )

    def root(self, index: int) -> Path:
        return self.base / f"s{index}"

    def grid(self) -> Grid:
        stores = [
            FolderStore(
                server,
                DialledFiles(LocalFiles(self.root(index)), self.dials[index]),
                random_bytes=os.urandom,
                sync=self.sync,
            )
            for index, server in enumerate(self.servers)
        ]
        grid = Grid(stores)
        self._grids.append(grid)
        return grid

    def close(self) -> None:
        for grid in self._grids:
            grid.close()

    def shares(self) -> dict[str, list[int]]:
        """Which share numbers lie on which server, over all storage indexes."""
        found: dict[str, list[int]] = {}
        for index in range(len(self.servers)):
            numbers = sorted(int(path.name) for path in (self.root(index) / "shares").glob("*/*/*"))
            if numbers:
                found[f"s{index}"] = numbers
        return found

    def share_files(self) -> list[Path]:
        return sorted(path for i in range(len(self.servers)) for path in (self.root(i) / "shares").glob("*/*/*"))

    def staged(self) -> list[Path]:
        return [path for i in range(len(self.servers)) for path in (self.root(i) / "staging").iterdir()]


def writing(encoding: Encoding | None = None, convergence: bytes | None = b"c" * 32) -> Writing:
    """Values for an upload that are the same each time, but for random keys and tokens."""
    return Writing(
        encoding=encoding or Encoding(),
        convergence=convergence,
        lease_secret=b"l" * 32,
        now=1_800_000_000,
        random_bytes=os.urandom,
    )


def content(size: int, seed: int = 0) -> bytes:
    """The same `size` bytes for the same seed."""
    return random.Random(seed).randbytes(size)
