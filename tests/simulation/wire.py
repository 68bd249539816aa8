"""`Files` on a simulated disk: requests that were sent are carried out in order, one a step, whatever has become of
the client; answers come back only on a connection that still is one (spec 10 §1.1)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lafscli.errors import FileError, NotSupported, ServerUnreachable
from lafscli.storage.packets import FSYNC, HARDLINK, POSIX_RENAME
from lafscli.storage.store import (
    MANY_NAMES,
    Answer,
    Buffer,
    DirEntry,
    FileRange,
    FileStat,
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
from tests.simulation.world import Crashed, Event, Process, World

_EXTENSIONS = {"posix-rename": POSIX_RENAME, "hardlink": HARDLINK, "fsync": FSYNC}


class Host:
    """A server: its disk, what its sftp-server offers, whether it can be reached."""

    def __init__(self, world: World, name: str, lacks: Sequence[str], skew: float) -> None:
        self.world = world
        self.name = name
        self.disk = Disk(lambda: world.now + skew)
        self.offered = frozenset(text for word, text in _EXTENSIONS.items() if word not in lacks)
        self.up = True
        self.connections: list[Connection] = []
        self.moving: Callable[[Connection], None] = lambda connection: None
        """Called when something was sent that moves shares: the moments that count."""

    def __repr__(self) -> str:
        return self.name


class Batch:
    """Requests sent together; `done` when all answers are in, or the connection is none any more."""

    __slots__ = ("answers", "done", "left", "lost")

    def __init__(self, world: World, count: int) -> None:
        self.answers: list[Any] = [None] * count
        self.left = 0
        self.lost = False
        self.done = Event(world)


@dataclass(slots=True)
class Request:
    """One packet. `call` answers a value, or an iterator where a server needs several system calls for it."""

    batch: Batch
    index: int
    call: Callable[[], Any]
    label: object
    several: bool = False


class Connection:
    """A connection, and the server process at its end: an actor while it has something to do."""

    def __init__(self, host: Host, client: Process) -> None:
        self.host = host
        self.client = client
        self.owner: Process | None = None
        self.not_before = 0.0
        self.lost = False
        self.kept: dict[str, File] = {}
        self.midway: tuple[Request, Iterator[None]] | None = None
        self._queue: deque[Request] = deque()
        self._active = False
        host.connections.append(self)

    def __repr__(self) -> str:
        return f"{self.client.name}>{self.host.name}{'*' if self.lost else ''}"

    @property
    def pending(self) -> int:
        return len(self._queue) + (self.midway is not None)

    def send(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.batch.left += 1
        self._queue.extend(requests)
        self.go_on()
        for request in requests:
            label = request.label
            if isinstance(label, Replace | Rename | Link) and "shares/" in (label.new[:7], label.old[:7]):
                self.host.moving(self)
                break

    def go_on(self) -> None:
        if self.pending and not self._active:
            self._active = True
            if self.midway is not None:
                self.host.world.press(self)
            else:
                self.host.world.ready(self)

    def step(self) -> None:
        self._active = False
        if self.midway is not None:
            self._on(*self.midway)
        elif self._queue:
            request = self._queue.popleft()
            if request.several:
                self._on(request, request.call())
            else:
                try:
                    value = request.call()
                except FileError as error:
                    value = error
                self._answer(request, value)
        self.go_on()

    def _on(self, request: Request, steps: Iterator[None]) -> None:
        try:
            next(steps)
        except StopIteration:
            self.midway = None
            self._answer(request, None)
        except FileError as error:
            self.midway = None
            self._answer(request, error)
        else:
            self.midway = request, steps

    def _answer(self, request: Request, value: Any) -> None:
        world = self.host.world
        if world.trace is not None:
            world.note(repr(self), _told(request.label), "->", _told(value))
        batch = request.batch
        if request.index >= 0:
            batch.answers[request.index] = value
        batch.left -= 1
        if not batch.left and not batch.lost:
            batch.done.set()

    def cut(self, keep: int | None, delay: float) -> None:
        """The client hears nothing more. Of what is on its way, all but the first `keep` requests are lost (None:
        nothing is), and the server comes to the rest after `delay` seconds."""
        if self.lost:
            return
        self.lost = True
        world = self.host.world
        world.note(repr(self), f"cut, {self.pending} on their way, {keep} of them come after {delay:.1f} s")
        batches = [request.batch for request in self._queue]
        if self.midway is not None:
            batches.insert(0, self.midway[0].batch)
        if keep is not None:
            if not keep:
                self.midway = None
            while len(self._queue) > keep:
                self._queue.pop()
        self.not_before = world.now + delay
        for batch in batches:
            if not batch.lost:
                batch.lost = True
                batch.done.set()


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
            Request(reading, index, _reading(item, files[item.path]), ("read", item.path, item.offset, item.length))
            for index, item in enumerate(wanted)
        ]
        trip.go(reads)
        return trip.answers, SimulatedReading(self, reading)

    def listing(self, paths: Sequence[str], *, most: int = MANY_NAMES) -> list[list[DirEntry] | FileError]:
        return self.do([List(path, most) for path in paths])  # type: ignore[return-value]

    def read(self, wanted: Sequence[FileRange]) -> SimulatedReading:
        return self.do_and_read([], wanted)[1]

    def release(self, path: str) -> None:
        if self._connection is not None:
            self._connection.kept.pop(path, None)

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

    def open(self, wanted: Sequence[FileRange]) -> dict[str, list[Any]]:
        """Ask for the files of these ranges; where each will be found."""
        files: dict[str, list[Any]] = {}
        for item in wanted:
            if item.path not in files:
                kept = self._connection.kept.get(item.path)
                cell = files[item.path] = [] if kept is None else [kept]
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
                connection.kept[item.path] = cell[0]

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


def _told(value: object) -> str:
    if isinstance(value, FileError):
        return f"{type(value).__name__}"
    if isinstance(value, bytes | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, list):
        return str([entry.name for entry in value])
    if isinstance(value, FileStat):
        return f"{value.kind} {value.size} @{value.mtime}"
    if isinstance(value, File | Folder):
        return "opened"
    return "ok" if value is None else str(value)
