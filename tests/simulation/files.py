"""`Files` on a simulated disk, over connections of `wire`: what is sent, and in how many trips, is as over SFTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from lafscli.errors import FileError, NotSupported, ServerUnreachable
from lafscli.storage.packets import HARDLINK, POSIX_RENAME
from lafscli.storage.store import (
    MANY_NAMES,
    Answer,
    Buffer,
    DirEntry,
    FileRange,
    Link,
    List,
    Mkdir,
    NewFile,
    Op,
    Patch,
    Remove,
    Rename,
    Replace,
    Rmdir,
    Space,
    Stat,
    Touch,
    Truncate,
)
from tests.simulation.disk import Disk, File, Folder
from tests.simulation.wire import Batch, Connection, Host, Request
from tests.simulation.world import Crashed, Process


class SimulatedFiles:
    """What one client has of one server."""

    def __init__(self, client: Process, host: Host) -> None:
        self.client = client
        self.host = host
        self._world = host.world
        self._connection: Connection | None = None
        client.at_end.append(self._hang_up)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            chance = self._world.chance
            keep = None if chance.random() < 0.6 else chance.randrange(connection.pending + 1)
            connection.cut(keep, chance.choice((0.0, 0.0, 3.0, 40.0)))

    def _live(self) -> Connection:
        if self.client.dead:
            raise Crashed
        if self._connection is not None and not self._connection.lost:
            return self._connection
        self._connection = None
        if not self.host.up:
            # refused at once, or in vain until the time-out
            self._world.sleep(self._world.chance.choice((0.0, 0.2, 15.0)))
            if not self.host.up:
                raise ServerUnreachable("connection refused", server=self.host.name)
        self._connection = Connection(self.host, self.client)
        return self._connection

    def _ask(self, count: int, requests: Callable[[Batch, Connection], list[Request]]) -> list[Any]:
        connection = self._live()
        batch = Batch(self._world, count)
        sent = requests(batch, connection)
        if not sent:
            return batch.answers
        connection.send(sent)
        return self._awaited(batch)

    def _awaited(self, batch: Batch) -> list[Any]:
        if batch.left or batch.lost:
            batch.done.wait()
        if batch.lost:
            raise ServerUnreachable("the connection was lost", server=self.host.name)
        return batch.answers

    # ---- Files

    def connect(self) -> frozenset[str]:
        self._live()
        return self.host.offered

    @property
    def moved(self) -> float:
        if self._connection is None:
            return -inf
        return self._connection.moved if self._connection.pending else self._world.now

    def close(self) -> None:
        self._hang_up()

    def do(self, ops: Sequence[Op]) -> list[Answer]:
        return self.do_and_read(ops, [])[0]

    def do_and_read(self, ops: Sequence[Op], wanted: Sequence[FileRange]) -> tuple[list[Answer], SimulatedReading]:
        """As `batches.py` does it: what needs a handle opens it at its place, and is gone on with in the next trip."""
        connection = self._live()
        trip = _Trip(self, connection, len(ops))
        for index, op in enumerate(ops):
            trip.add(index, op)
        files = trip.open(wanted)
        trip.go()
        reading = Batch(self._world, len(wanted))
        reads = [
            Request(
                reading,
                index,
                _reading(item, files[item.keeper, item.path]),
                ("read", item.path, item.offset, item.length),
            )
            for index, item in enumerate(wanted)
        ]
        trip.go(reads)
        return trip.answers, SimulatedReading(self, reading)

    def listing(self, paths: Sequence[str], *, most: int = MANY_NAMES) -> list[list[DirEntry] | FileError]:
        return self.do([List(path, most) for path in paths])  # type: ignore[return-value]

    def read(self, wanted: Sequence[FileRange]) -> SimulatedReading:
        return self.do_and_read([], wanted)[1]

    def release(self, path: str, keeper: int = 0) -> None:
        if self._connection is not None:
            self._connection.kept.pop((keeper, path), None)

    def create(self, path: str) -> SimulatedWriter:
        disk = self.host.disk
        [made] = self._ask(1, lambda batch, _: [Request(batch, 0, lambda: disk.create(path), ("create", path))])
        if isinstance(made, FileError):
            raise made
        return SimulatedWriter(self, path, made)

    def open_existing(self, path: str, *, append: bool = False) -> SimulatedWriter:
        disk = self.host.disk
        [made] = self._ask(1, lambda batch, _: [Request(batch, 0, lambda: disk.opened(path), ("open", path))])
        if isinstance(made, FileError):
            raise made
        return SimulatedWriter(self, path, made)

    def create_many(self, files: Sequence[NewFile], *, sync: bool) -> list[FileError | None]:
        return self.do([replace(new, sync=sync) for new in files])  # type: ignore[return-value]

    def space(self) -> Space | None:
        return None


class SimulatedReading:
    def __init__(self, files: SimulatedFiles, batch: Batch) -> None:
        self._files = files
        self._batch = batch

    def finish(self) -> list[Buffer | FileError]:
        if self._files.client.dead:
            raise Crashed
        return self._files._awaited(self._batch)


@dataclass
class SimulatedWriter:
    """A file being written: requests go out at once, errors come with `flush`."""

    files: SimulatedFiles
    path: str
    file: File
    end: int = 0
    durable: int = 0
    connection: Connection = field(init=False)
    batches: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection = self.files._live()
        self.end = len(self.file.data)

    def write(self, data: Buffer) -> None:
        self.write_at(self.end, data)
        self.end += memoryview(data).nbytes

    def write_at(self, offset: int, data: Buffer) -> None:
        if self.files.client.dead:
            raise Crashed
        if self.connection.lost:
            raise ServerUnreachable("the connection was lost", server=self.files.host.name)
        disk, kept = self.files.host.disk, bytes(data)
        batch = Batch(self.files._world, 1)
        self.batches.append(batch)
        self.connection.send(
            [
                Request(
                    batch,
                    0,
                    lambda: disk.write(self.file, offset, kept, self.path),
                    ("write", self.path, offset, len(kept)),
                )
            ]
        )

    def flush(self) -> None:
        batches, self.batches = self.batches, []
        for batch in batches:
            [answer] = self.files._awaited(batch)
            if isinstance(answer, FileError):
                raise answer

    def checkpoint(self) -> None:
        self.flush()
        self.durable = self.end

    def close(self, *, sync: bool) -> None:
        self.flush()

    def abandon(self) -> None:
        self.batches.clear()


class _Trip:
    """Requests that go out together, and those that follow when the handles have come."""

    def __init__(self, files: SimulatedFiles, connection: Connection, count: int) -> None:
        self.answers: list[Any] = [None] * count
        self._files = files
        self._connection = connection
        self._disk = files.host.disk
        self._asked: list[tuple[int, Callable[[], Any], object, bool]] = []
        self._then: list[tuple[int, Callable[[Any], tuple[Callable[[], Any], object]]]] = []

    def add(self, index: int, op: Op) -> None:
        disk = self._disk
        match op:
            case Stat(path):
                self._ask(index, lambda: disk.lstat(path), op)
            case Mkdir(path):
                self._ask(index, lambda: disk.mkdir(path), op)
            case Rename(old, new):
                self._ask(index, lambda: disk.v3_rename(old, new), op, several=True)
            case Replace(old, new):
                self._extended(index, POSIX_RENAME, lambda: disk.rename(old, new), op)
            case Link(old, new):
                self._extended(index, HARDLINK, lambda: disk.link(old, new), op)
            case Remove(path):
                self._ask(index, lambda: disk.unlink(path), op)
            case Rmdir(path):
                self._ask(index, lambda: disk.rmdir(path), op)
            case Touch(path, mtime):
                self._ask(index, lambda: disk.utime(path, mtime), op)
            case Truncate(path, size):
                self._ask(index, lambda: disk.truncate(path, size), op)
            case Patch(path, offset, data):
                self._ask(index, lambda: disk.opened(path), ("open", path))
                self._then.append(
                    (index, lambda file: (lambda: disk.write(file, offset, data, path), ("write", path, len(data))))
                )
            case NewFile(path, parts, _, stat):
                data = b"".join(parts)
                self._ask(index, lambda: disk.create(path), ("create", path))
                self._then.append(
                    (index, lambda file: (lambda: disk.write(file, 0, data, path), ("write", path, len(data))))
                )
                if stat:
                    self._then.append((index, lambda file: (lambda: disk.lstat(path), Stat(path))))
            case List(path, most):
                self._ask(index, lambda: disk.folder(path), ("opendir", path))
                self._then.append(
                    (index, lambda folder: (lambda: _listed(disk, path, folder, most), ("readdir", path)))
                )

    def open(self, wanted: Sequence[FileRange]) -> dict[tuple[int, str], list[Any]]:
        """Ask for the files of these ranges; where each will be found."""
        files: dict[tuple[int, str], list[Any]] = {}
        for item in wanted:
            if (item.keeper, item.path) not in files:
                kept = self._connection.kept.get((item.keeper, item.path))
                cell = files[item.keeper, item.path] = [] if kept is None else [kept]
                if kept is None:
                    self._ask(-1, _opening(self._disk, item, cell, self._connection), ("open", item.path))
        return files

    def go(self, requests: Sequence[Request] = ()) -> None:
        """Send what was asked for, and what is to be sent behind it, and wait for the former."""
        asked, self._asked = self._asked, []
        then, self._then = self._then, []
        if not asked and not requests:
            return
        batch = Batch(self._files._world, len(asked))
        sent = [Request(batch, at, call, label, several) for at, (_, call, label, several) in enumerate(asked)]
        if self._connection.lost:
            raise ServerUnreachable("the connection was lost", server=self._files.host.name)
        self._connection.send([*sent, *requests])
        if sent:
            for (index, *_), answer in zip(asked, self._files._awaited(batch), strict=True):
                if index >= 0 and not isinstance(self.answers[index], FileError):
                    self.answers[index] = answer
        for index, follow in then:
            if not isinstance(self.answers[index], FileError):
                self._ask(index, *follow(self.answers[index]))
        for index, _ in then:
            if not isinstance(self.answers[index], FileError):
                self.answers[index] = None

    def _ask(self, index: int, call: Callable[[], Any], label: object, several: bool = False) -> None:
        self._asked.append((index, call, label, several))

    def _extended(self, index: int, extension: str, call: Callable[[], Any], op: Op) -> None:
        if extension in self._files.host.offered:
            self._ask(index, call, op)
        else:
            self.answers[index] = NotSupported("the server does not offer that", server=self._files.host.name)


def _listed(disk: Disk, path: str, folder: Folder, most: int) -> list[DirEntry]:
    """READDIR: the names of the folder that was opened, each looked at by the path that it had then."""
    if len(folder.entries) > most:
        raise FileError(f"{path}: more than {most} names")
    return disk.entries(path, list(folder.entries))


def _opening(disk: Disk, item: FileRange, cell: list[Any], connection: Connection) -> Callable[[], None]:
    def call() -> None:
        try:
            cell.append(disk.opened(item.path))
        except FileError as error:
            cell.append(error)
        else:
            if item.keep:
                connection.kept[item.keeper, item.path] = cell[0]

    return call


def _reading(item: FileRange, cell: list[Any]) -> Callable[[], Buffer]:
    def call() -> Buffer:
        if isinstance(cell[0], FileError):
            raise cell[0]
        data: bytes = cell[0].data[item.offset : item.offset + item.length]
        if item.into is None:
            return data
        item.into[: len(data)] = data
        return item.into[: len(data)]

    return call
