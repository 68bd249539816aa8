"""SftpFiles: the contract over OpenSSH's own sftp-server, lost connections, and servers that mean no good."""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lafscli.errors import (
    FileDenied,
    FileError,
    FileExists,
    FileMissing,
    HostKeyUnknown,
    LafsError,
    NotSupported,
    OutOfSpace,
    ServerUnreachable,
)
from lafscli.storage import listings, packets
from lafscli.storage.rate import RateLimit
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.store import FileRange, FileStat, Mkdir, NewFile, Remove, Rename, Stat
from tests.files_contract import FilesContract
from tests.scripted_sftp import (
    Answer,
    PipeStream,
    Rule,
    ScriptedServer,
    attrs,
    names,
    packet,
    status,
    version,
)

BIG = random.Random(2).randbytes(8_000_000)
QUIET = 0.2
"""Seconds of silence that a test waits for."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


class Streams:
    """Opens real servers, and remembers them."""

    def __init__(self, *arguments: str, folder: Path | None = None, one_socket: bool = False) -> None:
        self.made: list[PipeStream] = []
        self._arguments = arguments
        self._folder = folder
        self._one_socket = one_socket

    def __call__(self) -> PipeStream:
        self.made.append(PipeStream(self._arguments, folder=self._folder, one_socket=self._one_socket))
        return self.made[-1]


@pytest.fixture
def streams() -> Streams:
    return Streams()


@pytest.fixture
def files(root: Path, streams: Streams) -> Iterator[SftpFiles]:
    made = SftpFiles(streams, str(root), name="blue")
    yield made
    made.close()
    assert all(stream.closed for stream in streams.made)


class TestPipes(FilesContract):
    """As the system's ssh gives it: two pipes."""


class TestOneSocket(FilesContract):
    """As the bridge to paramiko gives it: one socket."""

    @pytest.fixture
    def streams(self) -> Streams:
        return Streams(one_socket=True)


class TestWithoutExtensions(FilesContract):
    """An OpenSSH that has all we use switched off."""

    offers = frozenset()

    @pytest.fixture
    def streams(self) -> Streams:
        return Streams("-P", "posix-rename,fsync,hardlink,statvfs,limits")


class TestLoginFolder(FilesContract):
    """A root below the login folder."""

    @pytest.fixture
    def streams(self, root: Path) -> Streams:
        return Streams(folder=root.parent)

    @pytest.fixture
    def files(self, root: Path, streams: Streams) -> Iterator[SftpFiles]:
        made = SftpFiles(streams, f"~/{root.name}", name="blue")
        yield made
        made.close()


def test_the_login_folder_itself(root: Path) -> None:
    files = SftpFiles(Streams(folder=root), "~", name="blue")
    assert files.do([Mkdir("a")]) == [None]
    (root / "a/b").write_bytes(b"1")
    [entries] = files.listing([""])
    assert isinstance(entries, list)
    assert [entry.name for entry in entries] == ["a"]
    assert files.read([FileRange("a/b", 0, 5)]).finish() == [b"1"]
    assert files.space() is not None
    files.close()


# ---- what goes over the wire ---------------------------------------------------------------------------------------


def scripted(server: ScriptedServer, **options: object) -> SftpFiles:
    return SftpFiles(lambda: server, "/root", name="red", **options)  # type: ignore[arg-type]


def limits(number: int, *values: int) -> bytes:
    return packet(packets.EXTENDED_REPLY, number, struct.pack(">QQQQ", *values))


@pytest.mark.parametrize(
    ("told", "most"),
    [
        (None, 32768),
        ((262144, 261120, 261120, 1000), 261120),
        ((0, 0, 0, 0), 261120),
        ((34000, 0, 0, 0), 34000 - 1024),
        ((1 << 40, 1 << 40, 1 << 40, 1 << 40), 261120),
        ((262144, 100_000, 100_000, 1), 100_000),
    ],
)
def test_requests_are_as_long_as_the_server_allows(told: tuple[int, ...] | None, most: int) -> None:
    extended: Rule = lambda number, _: limits(number, *told)  # type: ignore[misc]  # noqa: E731
    server = ScriptedServer({packets.EXTENDED: extended}, hello=version(limits=b"1") if told else version())
    files = scripted(server)
    writer = files.create("file")
    writer.write(bytes(300_000))
    writer.write(bytes(500_000))
    writer.close(sync=False)
    assert files.read([FileRange("file", 0, 800_000)]).finish() == [bytes(800_000)]
    for kind, position in ((packets.WRITE, 18), (packets.READ, 18)):
        sizes = [
            packets.U32.unpack_from(body, position)[0]
            for sort, body in zip(server.requests, server.bodies, strict=True)
            if sort == kind
        ]
        assert sum(sizes) == 800_000
        assert set(sizes[:-1]) == {most}
    files.close()


def test_extensions_of_another_version_are_not_used() -> None:
    server = ScriptedServer(hello=version(posix_rename=b"1", hardlink=b"2", limits=b"9", else_=b"5"))
    files = scripted(server)
    assert files.connect() == {"posix-rename@openssh.com", "else-@openssh.com"}
    assert packets.EXTENDED not in server.requests
    files.close()


def test_small_files_cost_one_connection_two_round_trips(files: SftpFiles, root: Path) -> None:
    """The bytes on the wire are counted; there is no request that is not needed."""
    server = ScriptedServer()
    counted = scripted(server)
    assert counted.create_many([NewFile(f"{n}", [b"x"]) for n in range(100)], sync=True) == [None] * 100
    assert sorted(server.requests[1:]) == sorted([packets.OPEN, packets.WRITE, packets.CLOSE] * 100)
    assert counted.sent == sum(len(body) + 9 for body in server.bodies)
    assert counted.received > 100 * 3 * 9
    counted.close()


def test_writes_of_a_batch_come_before_its_syncs() -> None:
    server = ScriptedServer(hello=version(fsync=b"1"))
    files = scripted(server)
    assert files.create_many([NewFile(f"{n}", [b"x"]) for n in range(10)], sync=True) == [None] * 10
    order = [kind for kind in server.requests if kind in (packets.WRITE, packets.EXTENDED)]
    assert order == [packets.WRITE] * 10 + [packets.EXTENDED] * 10
    assert server.requests.count(packets.CLOSE) == 10
    files.close()


def test_a_server_that_gives_less_than_asked_is_asked_again() -> None:
    """Without limits@openssh.com nobody says how much a READ may bring."""
    content = BIG[:100_000]

    def read(number: int, body: bytes) -> bytes:
        offset, length = packets.OFFSET_LENGTH.unpack(body[-12:])
        part = content[offset : offset + min(length, 5000)]
        return packet(packets.DATA, number, packets.string(part)) if part else status(number, packets.EOF)

    files = scripted(ScriptedServer({packets.READ: read}))
    assert files.read([FileRange("x", 10, 65_536), FileRange("x", 90_000, 65_536)]).finish() == [
        content[10:65_546],
        content[90_000:],
    ]
    files.close()


def test_open_files_are_bounded() -> None:
    open_now = most = 0

    def opened(number: int, _: bytes) -> bytes:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        return packet(packets.HANDLE, number, packets.string(b"h"))

    def closed(number: int, _: bytes) -> bytes:
        nonlocal open_now
        open_now -= 1
        return status(number, packets.OK)

    extended: Rule = lambda number, _: limits(number, 0, 0, 0, 20)  # noqa: E731
    rules = {packets.OPEN: opened, packets.OPENDIR: opened, packets.CLOSE: closed, packets.EXTENDED: extended}
    files = scripted(ScriptedServer(rules, hello=version(limits=b"1", fsync=b"1")))
    many = [f"{n}" for n in range(200)]
    for keep in (False, True):
        assert files.read([FileRange(name, 0, 5, keep=keep) for name in many]).finish() == [bytes(5)] * 200
    assert files.listing(many) == [[]] * 200
    files._ready()[0]
    assert most <= 20
    files.close()


# ---- a connection that is lost -----------------------------------------------------------------------------------


def kill(stream: PipeStream) -> None:
    stream.process.kill()
    stream.process.wait()


@pytest.mark.parametrize("one_socket", [False, True])
def test_what_only_reads_survives_a_connection_that_died_idle(root: Path, one_socket: bool) -> None:
    streams = Streams(one_socket=one_socket)
    files = SftpFiles(streams, str(root), name="blue")
    (root / "file").write_bytes(b"12345")
    assert isinstance(files.do([Stat("file")])[0], FileStat)
    kill(streams.made[-1])
    assert isinstance(files.do([Stat("file")])[0], FileStat)
    kill(streams.made[-1])
    assert isinstance(files.listing([""])[0], list)
    kill(streams.made[-1])
    assert files.read([FileRange("file", 1, 3)]).finish() == [b"234"]
    kill(streams.made[-1])
    assert files.space() is not None
    assert len(streams.made) == 5
    kill(streams.made[-1])
    with pytest.raises(ServerUnreachable):
        files.do([Stat("file"), Mkdir("x")])
    assert files.do([Mkdir("y")]) == [None]
    assert not (root / "x").exists()
    files.close()
    assert all(stream.closed for stream in streams.made)


def test_a_reading_begun_before_the_connection_died_idle(files: SftpFiles, streams: Streams, root: Path) -> None:
    (root / "file").write_bytes(b"12345")
    files.connect()
    files.listing([""])
    os.kill(streams.made[0].process.pid, 19)
    reading = files.read([FileRange("file", 0, 5, keep=True)])
    second = files.read([FileRange("file", 2, 2, keep=True)])
    kill(streams.made[0])
    assert reading.finish() == [b"12345"]
    assert second.finish() == [b"34"]
    assert len(streams.made) == 2


@pytest.mark.parametrize("noticed", [True, False])
def test_nothing_is_written_over_a_connection_that_died_idle(
    files: SftpFiles, streams: Streams, root: Path, monkeypatch: pytest.MonkeyPatch, noticed: bool
) -> None:
    """Connecting notices it: by what the system says, or, after a while, by asking."""
    monkeypatch.setattr("lafscli.storage.sftp._IDLE_SECONDS", 1000 if noticed else -1)
    if not noticed:
        monkeypatch.setattr("lafscli.storage.sftp._hung_up", lambda _: False)
    files.connect()
    kill(streams.made[0])
    files.connect()
    assert files.create_many([NewFile("file", [b"new"])], sync=False) == [None]
    assert len(streams.made) == 2


def test_a_writer_of_a_lost_connection_stays_failed(files: SftpFiles, streams: Streams, root: Path) -> None:
    writer = files.create("file")
    writer.write(BIG)
    writer.flush()
    kill(streams.made[0])
    calls: list[Callable[[], None]] = [lambda: writer.close(sync=True), lambda: writer.write(BIG), writer.flush]
    for call in calls:
        with pytest.raises(ServerUnreachable) as caught:
            call()
        assert caught.value.server == "blue"
    assert isinstance(files.do([Stat("file")])[0], FileStat)
    with pytest.raises(ServerUnreachable):
        writer.write(b"more")
    writer.abandon()
    assert (root / "file").stat().st_size == len(BIG)


def test_a_reading_in_the_middle_stays_failed(streams: Streams, root: Path) -> None:
    calls: list[ScriptedServer] = []
    half = threading.Event()

    def read(number: int, body: bytes) -> Answer:
        if half.is_set():
            return None
        half.set()
        return packet(packets.DATA, number, packets.string(bytes(*packets.U32.unpack(body[-4:]))))

    def connect() -> ScriptedServer:
        calls.append(ScriptedServer({packets.READ: read}))
        return calls[-1]

    files = SftpFiles(connect, "/", name="red")
    reading = files.read([FileRange("x", 0, 100_000)])
    while not half.is_set():
        assert files.do([Stat("y")]) == [FileStat("file", 0, 0)]
    calls[0].hang_up()
    for _ in range(2):
        with pytest.raises(ServerUnreachable):
            reading.finish()
    assert len(calls) == 1
    files.close()


def test_releasing_never_fails(files: SftpFiles, streams: Streams, root: Path) -> None:
    for name in "ab":
        (root / name).write_bytes(b"12345")
    assert files.read([FileRange(name, 0, 5, keep=True) for name in "ab"]).finish() == [b"12345"] * 2
    kill(streams.made[0])
    files.release("a")
    files.release("b")
    assert isinstance(files.do([Stat("a")])[0], FileStat)
    files.close()
    files.release("a")


def test_closing_wakes_the_thread_that_waits(streams: Streams) -> None:
    server = ScriptedServer({packets.LSTAT: lambda *_: None})
    files = scripted(server)
    caught: list[ServerUnreachable] = []

    def wait() -> None:
        with pytest.raises(ServerUnreachable) as error:
            files.do([Stat("x")])
        caught.append(error.value)

    files.connect()
    server.came.clear()
    thread = threading.Thread(target=wait)
    thread.start()
    assert server.came.wait(10)
    files.close()
    thread.join(10)
    assert not thread.is_alive()
    assert "closed" in str(caught[0])
    assert server.closed


class Crowded:
    """A server whose sshd drops the first connections."""

    def __init__(self, drops: int, reason: LafsError) -> None:
        self.made: list[ScriptedServer] = []
        self._drops = drops
        self._reason = reason

    def __call__(self) -> ScriptedServer:
        server = ScriptedServer(hello=b"" if len(self.made) < self._drops else None)
        if len(self.made) < self._drops:
            server.reason = self._reason
            server.hang_up()
        self.made.append(server)
        return server


def test_a_crowded_server_is_tried_again() -> None:
    reason = ServerUnreachable("kex_exchange_identification: read: Connection reset by peer", transient=True)
    crowded = Crowded(2, reason)
    files = SftpFiles(crowded, "/", name="red")
    start = time.monotonic()
    assert files.do([Stat("x")]) == [FileStat("file", 0, 0)]
    assert 0.7 <= time.monotonic() - start < 5
    assert [server.closed for server in crowded.made] == [True, True, False]
    files.close()


@pytest.mark.parametrize(
    "reason",
    [ServerUnreachable("Permission denied (publickey)"), HostKeyUnknown("no host key", fingerprint="SHA256:x")],
)
def test_other_refusals_are_not_tried_again(reason: ServerUnreachable) -> None:
    crowded = Crowded(1, reason)
    files = SftpFiles(crowded, "/", name="red")
    with pytest.raises(type(reason)) as caught:
        files.connect()
    assert str(caught.value) == str(reason)
    assert caught.value.server == "red"
    assert len(crowded.made) == 1
    assert files.do([Stat("x")]) == [FileStat("file", 0, 0)]
    files.close()


def test_a_server_that_takes_and_gives_little_at_a_time_does_not_lock_us_up(root: Path) -> None:
    """Both directions are full at once: much is asked for before anything was read."""

    def connect() -> PipeStream:
        stream = PipeStream(one_socket=True)
        end = socket.socket(fileno=os.dup(stream.read_fd))
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.close()
        return stream

    files = SftpFiles(connect, str(root), name="blue", timeout=20)
    (root / "file").write_bytes(BIG)
    readings = [files.read([FileRange("file", start, 400_000)]) for start in range(0, len(BIG), 400_000)]
    writer = files.create("copy")
    writer.write(BIG)
    writer.close(sync=False)
    assert b"".join(bytes(item) for reading in readings for item in reading.finish()) == BIG  # type: ignore[arg-type]
    assert (root / "copy").read_bytes() == BIG
    files.close()


# ---- how fast ----------------------------------------------------------------------------------------------------


def test_rate_is_shared_and_exact() -> None:
    now = 100.0
    rate = RateLimit(1000, clock=lambda: now)
    assert rate.take(500) == 0
    assert rate.take(1000) == 0.5
    assert rate.take(10) == 1.5
    now = 101.51
    assert rate.take(1) == 0
    now = 200.0
    assert rate.take(100) == 0
    assert rate.take(100) == pytest.approx(0.1)


def test_bulk_data_keeps_to_the_rate(root: Path) -> None:
    for act in ("write", "read", "small"):
        files = SftpFiles(Streams(), str(root), name="blue", rate=RateLimit(5_000_000), timeout=0.1)
        (root / "file").write_bytes(BIG[:2_000_000])
        start = time.monotonic()
        if act == "write":
            writer = files.create("copy")
            writer.write(BIG[:2_000_000])
            writer.close(sync=False)
            assert (root / "copy").read_bytes() == BIG[:2_000_000]
        elif act == "read":
            assert files.read([FileRange("file", 0, 2_000_000)]).finish() == [BIG[:2_000_000]]
        else:
            assert files.create_many([NewFile(f"{n}", [BIG[:20_000]]) for n in range(100)], sync=False) == [None] * 100
        assert 0.3 < time.monotonic() - start < 3
        files.close()


# ---- servers that mean no good -------------------------------------------------------------------------------------


def use_all(files: SftpFiles) -> None:
    """Every kind of request."""
    files.do([Stat("a"), Mkdir("b"), Rename("c", "d"), Remove("e")])
    files.listing(["a"])
    files.read([FileRange("a", 0, 100_000)]).finish()
    writer = files.create("a")
    writer.write(b"x" * 100)
    writer.close(sync=True)
    files.open_existing("a").close(sync=False)
    files.space()
    files.create_many([NewFile("a", [b"x"])], sync=True)


ASKED = [
    packets.INIT,
    *(packets.LSTAT, packets.MKDIR, packets.RENAME, packets.REMOVE, packets.OPENDIR, packets.READDIR, packets.OPEN),
    *(packets.READ, packets.WRITE, packets.CLOSE, packets.FSTAT, packets.EXTENDED),
]


@pytest.mark.parametrize("kind", ASKED)
def test_silence_ends_in_time(kind: int) -> None:
    server = ScriptedServer({kind: lambda *_: None}, hello=version(fsync=b"1", statvfs=b"2", limits=b"1"))
    files = scripted(server, timeout=QUIET, connect_timeout=QUIET)
    start = time.monotonic()
    with pytest.raises(ServerUnreachable, match=f"did not answer for {QUIET:g} s"):
        use_all(files)
    assert time.monotonic() - start < 10 * QUIET
    assert server.closed


@pytest.mark.parametrize("kind", ASKED)
def test_one_byte_at_a_time_is_silence(kind: int) -> None:
    """What counts is an answer, or a good part of a long one: else a server could hold us for as long as it likes."""
    stop = threading.Event()

    def drip(number: int, body: bytes) -> Answer:
        for byte in b"\x00\x00\x80\x00" + bytes(1000):
            if stop.wait(QUIET / 10):
                break
            server._socket.sendall(bytes([byte]))
        return None

    server = ScriptedServer({kind: drip}, hello=version(fsync=b"1", statvfs=b"2", limits=b"1"))
    files = scripted(server, timeout=QUIET, connect_timeout=QUIET)
    start = time.monotonic()
    with pytest.raises(ServerUnreachable, match=r"did not answer|broke the SFTP protocol"):
        use_all(files)
    assert time.monotonic() - start < 10 * QUIET
    stop.set()


def test_a_long_answer_may_take_its_time() -> None:
    """Longer than the time-out in all, but never without a good part of it."""

    def slowly(number: int, body: bytes) -> Answer:
        (length,) = packets.U32.unpack(body[-4:])
        data = packet(packets.DATA, number, packets.string(bytes(length)))
        for start in range(0, len(data), 5000):
            time.sleep(QUIET / 2)
            server._socket.sendall(data[start : start + 5000])
        return None

    server = ScriptedServer({packets.READ: slowly})
    files = scripted(server, timeout=3 * QUIET)
    began = time.monotonic()
    assert files.read([FileRange("a", 0, 32768)]).finish() == [bytes(32768)]
    assert time.monotonic() - began > 3 * QUIET
    files.close()


@pytest.mark.parametrize("kind", ASKED)
def test_a_connection_that_ends_is_an_error(kind: int) -> None:
    server = ScriptedServer(hello=version(fsync=b"1", statvfs=b"2", limits=b"1"))

    def end(_: int, __: bytes) -> Answer:
        server.hang_up()
        return None

    server._rules[kind] = end
    tries = iter([server])

    def connect() -> ScriptedServer:
        try:
            return next(tries)
        except StopIteration:
            raise ServerUnreachable("gone") from None

    files = SftpFiles(connect, "/root", name="red")
    with pytest.raises(ServerUnreachable):
        use_all(files)
    assert server.closed


def name_list(count: int, rest: bytes = b"") -> Rule:
    return lambda number, _: packet(packets.NAME, number, packets.U32.pack(count) + rest)


def reply(kind: int, body: bytes) -> Rule:
    return lambda number, _: packet(kind, number, body)


def other_id(number: int, _: bytes) -> bytes:
    return status(number + 1000, packets.OK)


def twice(number: int, _: bytes) -> bytes:
    return status(number, packets.OK) * 2


VIOLATIONS: dict[str, tuple[int, Rule]] = {
    "no SFTP": (packets.INIT, lambda *_: b"Welcome to \x1b[1mthis\x1b[0m host\n"),
    "version without end": (packets.INIT, lambda *_: packet(packets.VERSION, 3, packets.U32.pack(99))),
    "old version": (packets.INIT, lambda *_: packet(packets.VERSION, 2, b"")),
    "no version": (packets.INIT, lambda *_: status(3, packets.OK)),
    "long packet": (packets.LSTAT, lambda number, _: struct.pack(">IBI", (1 << 20) + 1, packets.NAME, number)),
    "longest packet": (packets.LSTAT, lambda number, _: struct.pack(">IBI", 0xFFFFFFFF, packets.DATA, number)),
    "long status": (packets.LSTAT, lambda number, _: struct.pack(">IBI", 1 << 17, packets.STATUS, number)),
    "short packet": (packets.LSTAT, lambda number, _: struct.pack(">IBI", 4, packets.STATUS, number)),
    "empty status": (packets.MKDIR, reply(packets.STATUS, b"")),
    "other id": (packets.MKDIR, other_id),
    "twice": (packets.MKDIR, twice),
    "handle for a stat": (packets.LSTAT, reply(packets.HANDLE, packets.string(b"h"))),
    "data for a stat": (packets.LSTAT, reply(packets.DATA, packets.string(b"h"))),
    "unknown type": (packets.MKDIR, reply(77, b"")),
    "short attributes": (packets.LSTAT, reply(packets.ATTRS, attrs()[:-1])),
    "no attributes": (packets.LSTAT, reply(packets.ATTRS, b"")),
    "file without size": (packets.LSTAT, reply(packets.ATTRS, struct.pack(">II", 4, 0o100600))),
    "an immense file": (packets.FSTAT, reply(packets.ATTRS, attrs(1 << 63))),
    "an immense file with few attributes": (packets.LSTAT, reply(packets.ATTRS, struct.pack(">IQ", 1, 1 << 63))),
    "attributes without end": (packets.LSTAT, reply(packets.ATTRS, struct.pack(">III", 1 << 31, 1 << 31, 0))),
    "attribute too long": (packets.LSTAT, reply(packets.ATTRS, struct.pack(">III", 1 << 31, 1, 99) + bytes(9))),
    "long handle": (packets.OPEN, reply(packets.HANDLE, packets.string(bytes(257)))),
    "short handle": (packets.OPEN, reply(packets.HANDLE, packets.U32.pack(5) + b"1234")),
    "status for names": (packets.READDIR, reply(packets.ATTRS, attrs())),
    "a slash": (packets.READDIR, lambda number, _: names(number, b"a/b")),
    "up": (packets.READDIR, lambda number, _: names(number, b"../x")),
    "a zero": (packets.READDIR, lambda number, _: names(number, b"a\0b")),
    "no name": (packets.READDIR, lambda number, _: names(number, b"ok", b"")),
    "too many names": (packets.READDIR, name_list(0xFFFFFFFF)),
    "a name of a kilobyte": (packets.READDIR, lambda number, _: names(number, b"x" * 1025)),
    "names that end": (packets.READDIR, name_list(1, packets.string(b"abcdefghijklm"))),
    "a name too long": (packets.READDIR, name_list(1, packets.U32.pack(1 << 31) + bytes(20))),
    "endless names": (packets.READDIR, lambda number, _: names(number, *(b"%d" % n for n in range(200)))),
    "endless dots": (packets.READDIR, lambda number, _: names(number, *[b"."] * 200)),
    "endless nothing": (packets.READDIR, lambda number, _: names(number)),
    "more than asked": (packets.READ, reply(packets.DATA, packets.string(bytes(32769)))),
    "much more than asked": (packets.READ, reply(packets.DATA, packets.string(bytes(1 << 20)))),
    "no data": (packets.READ, reply(packets.DATA, packets.string(b""))),
    "data longer than its packet": (packets.READ, reply(packets.DATA, packets.U32.pack(100) + bytes(50))),
    "data shorter than its packet": (packets.READ, reply(packets.DATA, packets.U32.pack(100) + bytes(150))),
    "a read that is fine": (packets.READ, lambda number, _: status(number, packets.OK)),
    "names for a read": (packets.READ, lambda number, _: names(number, b"a")),
    "no status for a write": (packets.WRITE, reply(packets.HANDLE, packets.string(b"h"))),
    "short statvfs": (packets.EXTENDED, reply(packets.EXTENDED_REPLY, bytes(31))),
}


@pytest.mark.parametrize("which", VIOLATIONS)
def test_a_broken_protocol_ends_the_connection(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the error of this server, soon; the next call begins anew."""
    monkeypatch.setattr(listings, "MAX_NAMES", 5000)
    kind, rule = VIOLATIONS[which]
    bad = ScriptedServer({kind: rule}, hello=version(fsync=b"1", statvfs=b"2"))
    servers = iter([bad, ScriptedServer()])
    files = SftpFiles(lambda: next(servers), "/root", name="red", timeout=10)
    with pytest.raises(ServerUnreachable) as caught:
        use_all(files)
    assert caught.value.server == "red"
    assert str(caught.value).isprintable()
    assert "did not answer" not in str(caught.value)
    assert bad.closed
    assert files.do([Stat("a")]) == [FileStat("file", 0, 0)]
    files.close()


def test_a_shell_that_prints_is_named() -> None:
    files = scripted(ScriptedServer(hello=b"Welcome to \x1b[1mthis\x1b[0m host\n"))
    with pytest.raises(ServerUnreachable, match=r"does not speak SFTP, it says: Welcome to \\x1b") as caught:
        files.connect()
    assert "start-up file" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("code", "message", "sort", "text"),
    [
        (2, "No such file", FileMissing, "a: no such file"),
        (3, None, FileDenied, "a: permission denied"),
        (4, "Failure", FileError, "a: failure"),
        (4, "mkdir: File exists", FileExists, "a: mkdir: File exists"),
        (4, "No space left on device", OutOfSpace, "a: no space left on device"),
        (4, "Disk quota exceeded", OutOfSpace, "a: disk quota exceeded"),
        (8, "Operation unsupported", NotSupported, "a: operation unsupported"),
        (11, "", FileExists, "a: file already exists"),
        (99, None, FileError, "a: status 99"),
        (4, "evil\x1b[2J\r\n\u202ename", FileError, "a: evil\\x1b[2J\\r\\n\\u202ename"),
        (4, "x" * 1000, FileError, "a: " + "x" * 200),
    ],
)
def test_refusals(code: int, message: str | None, sort: type[FileError], text: str) -> None:
    files = scripted(ScriptedServer({packets.MKDIR: lambda number, _: status(number, code, message)}))
    [answer] = files.do([Mkdir("a")])
    assert type(answer) is sort
    assert str(answer) == text
    assert answer.server == "red"
    files.close()


def test_a_server_without_a_message_field() -> None:
    """Old servers of version 3 send the code alone, or half of what follows."""
    for rest in (b"", b"\0\0", packets.U32.pack(99)):
        body = packets.U32.pack(2) + rest
        files = scripted(ScriptedServer({packets.LSTAT: reply(packets.STATUS, body)}))
        assert [type(answer) for answer in files.do([Stat("a")])] == [FileMissing]
        files.close()


def test_sparse_attributes_are_understood() -> None:
    """Only what the flags announce is there."""
    entry = packets.string(b"x") + packets.string(b"") + struct.pack(">IQI", 5, 77, 0o100644)
    entry += packets.string(b"d") + packets.string(b"") + struct.pack(">II", 4, 0o040755)
    extended = struct.pack(">IQIII", 0x8000000D, 5, 0o100600, 1, 2) + packets.U32.pack(1)
    extended += packets.string(b"name") + packets.string(b"value")
    ends = iter([name_list(2, entry)])
    rules: dict[int, Rule] = {
        packets.READDIR: lambda number, body: next(ends, lambda n, _: status(n, packets.EOF))(number, body),
        packets.LSTAT: reply(packets.ATTRS, extended),
    }
    files = scripted(ScriptedServer(rules))
    [found] = files.listing(["a"])
    assert isinstance(found, list)
    assert [(entry.name, entry.stat) for entry in found] == [
        ("x", FileStat("file", 77, 0)),
        ("d", FileStat("dir", 0, 0)),
    ]
    assert files.do([Stat("a")]) == [FileStat("file", 5, 2)]
    files.close()


def test_a_write_refused_late_is_raised() -> None:
    def refuse(number: int, body: bytes) -> bytes:
        offset = packets.U64.unpack_from(body, 10)[0]
        return status(number, packets.OK if offset < 1_000_000 else 4, "No space left on device")

    files = scripted(ScriptedServer({packets.WRITE: refuse}))
    writer = files.create("file")
    refused = 0
    for _ in range(100):
        try:
            writer.write(bytes(100_000))
        except OutOfSpace:
            refused += 1
    assert 50 < refused < 90
    with pytest.raises(OutOfSpace):
        writer.close(sync=True)
    writer.abandon()
    other = files.create("other")
    other.write(b"fine")
    other.close(sync=True)
    files.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    junk=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(
                packet,
                st.sampled_from([101, 102, 103, 104, 105, 201]),
                st.integers(4, 12),
                st.one_of(st.binary(max_size=40), st.binary(max_size=20).map(packets.string)),
            ),
        ),
        max_size=6,
    ).map(b"".join)
)
def test_junk_is_never_more_than_an_error_of_the_server(junk: bytes) -> None:
    used = False

    def answer(_: int, __: bytes) -> Answer:
        nonlocal used
        used, first = True, not used
        return junk if first else None

    server = ScriptedServer(dict.fromkeys(ASKED[1:], answer))
    files = scripted(server, timeout=0.02)
    calls: list[Callable[[], object]] = [
        lambda: files.do([Stat("a"), Mkdir("b")]),
        lambda: files.listing(["a"]),
        lambda: files.read([FileRange("a", 0, 100)]).finish(),
        lambda: files.create("a"),
    ]
    try:
        calls[len(junk) % len(calls)]()
    except (ServerUnreachable, FileError) as error:
        said = str(error)
    else:
        said = ""
    files.close()
    assert said.isprintable()
