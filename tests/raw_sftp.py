"""An SFTP client that sends whatever a test says: well-formed requests by name, and bytes that are none.

    with conversation(lambda: PolicyFiles(root, Policy())) as talk:
        handle = talk.client.open("shares/aa/x", READ)
        with refused(PERMISSION_DENIED, "cancel"):
            talk.client.remove("shares/aa/x")
        talk.client.send_raw(b"junk")
        assert talk.client.receive() is None          # the server hung up
    assert talk.notes == ["…"]

A `RawClient` talks over anything with `sendall` and `recv`: a socket, a channel of paramiko, `Pipes`. What the server
refuses is raised as the backend's own `Refused`, with the status it told.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

import pytest

from lafscli.server.backend import EOF, OK, READ, Backend, Refused
from lafscli.server.session import serve
from lafscli.server.streams import Buffer, FdStream
from lafscli.server.wire import FSETSTAT, REALPATH, STAT
from lafscli.storage import packets
from lafscli.storage.packets import HEAD, U32, U64, string

TIMEOUT = 20.0
NO_ATTRS = U32.pack(0)
Name = str | bytes


class Transport(Protocol):
    """What a RawClient talks over."""

    def sendall(self, data: bytes, /) -> object: ...

    def recv(self, size: int, /) -> bytes: ...


class Pipes:
    """A transport of two descriptors; closed by `close`."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd

    @classmethod
    def of(cls, process: subprocess.Popen[bytes]) -> Pipes:
        """To a process that was started with pipes as stdin and stdout."""
        assert process.stdin is not None
        assert process.stdout is not None
        return cls(process.stdout.fileno(), process.stdin.fileno())

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.write_fd, view) :]

    def recv(self, size: int) -> bytes:
        if not select.select([self.read_fd], [], [], TIMEOUT)[0]:
            raise TimeoutError("the server answers nothing")
        return os.read(self.read_fd, size)

    def close(self) -> None:
        for descriptor in {self.read_fd, self.write_fd}:
            os.close(descriptor)


@dataclass(frozen=True)
class Attributes:
    """What an entry's attributes say; None: not told."""

    size: int | None = None
    owner: tuple[int, int] | None = None
    mode: int | None = None
    times: tuple[int, int] | None = None

    def serialise(self) -> bytes:
        flags, parts = 0, [b""]
        if self.size is not None:
            flags, parts = flags | 1, [*parts, U64.pack(self.size)]
        if self.owner is not None:
            flags, parts = flags | 2, [*parts, struct.pack(">II", *self.owner)]
        if self.mode is not None:
            flags, parts = flags | 4, [*parts, U32.pack(self.mode)]
        if self.times is not None:
            flags, parts = flags | 8, [*parts, struct.pack(">II", *self.times)]
        return U32.pack(flags) + b"".join(parts)


@dataclass(frozen=True)
class Packet:
    """An answer."""

    kind: int
    number: int
    body: bytes

    @property
    def code(self) -> int:
        """Of a STATUS."""
        assert self.kind == packets.STATUS, f"type {self.kind} is no status"
        return int(U32.unpack_from(self.body)[0])

    @property
    def message(self) -> str:
        assert self.kind == packets.STATUS, f"type {self.kind} is no status"
        return take_string(self.body, 4)[0].decode()


def take_string(body: bytes, at: int) -> tuple[bytes, int]:
    """The string at a place, and the place behind it."""
    (size,) = U32.unpack_from(body, at)
    assert at + 4 + size <= len(body), "a string longer than its answer"
    return body[at + 4 : at + 4 + size], at + 4 + size


def take_attributes(body: bytes, at: int) -> tuple[Attributes, int]:
    """The attributes at a place, and the place behind them."""
    (flags,) = U32.unpack_from(body, at)
    at += 4
    size = owner = mode = times = None
    if flags & 1:
        (size,) = U64.unpack_from(body, at)
        at += 8
    if flags & 2:
        owner = struct.unpack_from(">II", body, at)
        at += 8
    if flags & 4:
        (mode,) = U32.unpack_from(body, at)
        at += 4
    if flags & 8:
        times = struct.unpack_from(">II", body, at)
        at += 8
    return Attributes(size, owner, mode, times), at


def path_of(name: Name) -> bytes:
    """A path as it goes into a request."""
    return string(name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape"))


def packet(kind: int, number: int, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    return HEAD.pack(len(body) + 5, kind, number) + body


class RawClient:
    """One conversation. `greet=False`: nothing was sent yet, not even INIT."""

    def __init__(self, transport: Transport, *, greet: bool = True) -> None:
        self.transport = transport
        self.extensions: dict[str, str] = {}
        self._last = 100
        self._came = bytearray()
        if greet:
            self.hello()

    # ---- packets

    def hello(self, version: int = 3) -> None:
        """INIT, and the answer to it."""
        self.send_raw(packet(packets.INIT, version, b""))
        answer = self.receive()
        assert answer is not None, "the server hung up"
        assert (answer.kind, answer.number) == (packets.VERSION, 3)
        at = 0
        while at < len(answer.body):
            name, at = take_string(answer.body, at)
            data, at = take_string(answer.body, at)
            self.extensions[name.decode()] = data.decode()

    def send_raw(self, data: bytes) -> None:
        """Whatever it is."""
        self.transport.sendall(data)

    def send(self, kind: int, body: bytes = b"", number: int | None = None) -> int:
        """A request; its id. The answer is not waited for."""
        if number is None:
            self._last += 1
            number = self._last
        self.send_raw(packet(kind, number, body))
        return number

    def receive(self) -> Packet | None:
        """The next answer; None if there is none any more."""
        head = self._exactly(4)
        if head is None:
            return None
        (length,) = U32.unpack(head)
        assert 5 <= length <= 300_000, f"an answer of {length} bytes"
        rest = self._exactly(length)
        assert rest is not None, "the server hung up within an answer"
        return Packet(rest[0], U32.unpack_from(rest, 1)[0], rest[5:])

    def _exactly(self, size: int) -> bytes | None:
        while len(self._came) < size:
            try:
                more = self.transport.recv(256 * 1024)
            except ConnectionResetError:
                more = b""
            if not more:
                assert not self._came, "the server hung up within an answer"
                return None
            self._came += more
        taken = bytes(self._came[:size])
        del self._came[:size]
        return taken

    def ask(self, kind: int, body: bytes = b"") -> Packet:
        """A request and its answer, which must have its id."""
        number = self.send(kind, body)
        answer = self.receive()
        assert answer is not None, "the server hung up"
        assert answer.number == number, f"answer {answer.number} to request {number}"
        return answer

    def _expect(self, wanted: int, kind: int, body: bytes) -> bytes:
        answer = self.ask(kind, body)
        if answer.kind == packets.STATUS and (wanted != packets.STATUS or answer.code != OK):
            raise Refused(answer.code, answer.message)
        assert answer.kind == wanted, f"an answer of type {answer.kind}"
        return answer.body

    def _done(self, kind: int, body: bytes) -> None:
        self._expect(packets.STATUS, kind, body)

    # ---- files

    def open(self, path: Name, flags: int = READ, attributes: Attributes | None = None) -> bytes:
        """The handle."""
        body = path_of(path) + U32.pack(flags) + (attributes or Attributes()).serialise()
        return take_string(self._expect(packets.HANDLE, packets.OPEN, body), 0)[0]

    def close(self, handle: bytes) -> None:
        self._done(packets.CLOSE, string(handle))

    def read(self, handle: bytes, offset: int = 0, length: int = 32768) -> bytes:
        """The bytes of one READ; none at the end of the file."""
        try:
            body = string(handle) + U64.pack(offset) + U32.pack(length)
            return take_string(self._expect(packets.DATA, packets.READ, body), 0)[0]
        except Refused as refused:
            if refused.code == EOF:
                return b""
            raise

    def write(self, handle: bytes, offset: int, data: bytes) -> None:
        self._done(packets.WRITE, string(handle) + U64.pack(offset) + string(data))

    def fstat(self, handle: bytes) -> Attributes:
        return take_attributes(self._expect(packets.ATTRS, packets.FSTAT, string(handle)), 0)[0]

    def fsetstat(self, handle: bytes, attributes: Attributes) -> None:
        self._done(FSETSTAT, string(handle) + attributes.serialise())

    def fsync(self, handle: bytes) -> None:
        self.extended("fsync@openssh.com", string(handle))

    def get(self, path: Name) -> bytes:
        """All of a file."""
        handle = self.open(path)
        came = bytearray()
        while part := self.read(handle, len(came), 255 * 1024):
            came += part
        self.close(handle)
        return bytes(came)

    def put(self, path: Name, data: bytes, flags: int = 2 | 8 | 32) -> None:
        """A new file with these bytes."""
        handle = self.open(path, flags, Attributes(mode=0o600))
        for start in range(0, len(data), 255 * 1024):
            self.write(handle, start, data[start : start + 255 * 1024])
        self.close(handle)

    # ---- names

    def lstat(self, path: Name) -> Attributes:
        return take_attributes(self._expect(packets.ATTRS, packets.LSTAT, path_of(path)), 0)[0]

    def stat(self, path: Name) -> Attributes:
        return take_attributes(self._expect(packets.ATTRS, STAT, path_of(path)), 0)[0]

    def setstat(self, path: Name, attributes: Attributes) -> None:
        self._done(packets.SETSTAT, path_of(path) + attributes.serialise())

    def opendir(self, path: Name) -> bytes:
        """The handle."""
        return take_string(self._expect(packets.HANDLE, packets.OPENDIR, path_of(path)), 0)[0]

    def readdir(self, handle: bytes) -> list[tuple[bytes, str, Attributes]]:
        """Names of one READDIR with their `ls -l` lines; none at the end of the folder."""
        try:
            body = self._expect(packets.NAME, packets.READDIR, string(handle))
        except Refused as refused:
            if refused.code == EOF:
                return []
            raise
        (count,) = U32.unpack_from(body)
        at, found = 4, []
        for _ in range(count):
            name, at = take_string(body, at)
            line, at = take_string(body, at)
            attributes, at = take_attributes(body, at)
            found.append((name, line.decode("utf-8", "surrogateescape"), attributes))
        assert at == len(body)
        return found

    def listdir(self, path: Name) -> list[str]:
        """All names of a folder, sorted."""
        handle = self.opendir(path)
        found = []
        while entries := self.readdir(handle):
            found += [name.decode("utf-8", "surrogateescape") for name, _, _ in entries]
        self.close(handle)
        return sorted(found)

    def remove(self, path: Name) -> None:
        self._done(packets.REMOVE, path_of(path))

    def mkdir(self, path: Name, attributes: Attributes | None = None) -> None:
        self._done(packets.MKDIR, path_of(path) + (attributes or Attributes()).serialise())

    def rmdir(self, path: Name) -> None:
        self._done(packets.RMDIR, path_of(path))

    def rename(self, old: Name, new: Name) -> None:
        self._done(packets.RENAME, path_of(old) + path_of(new))

    def replace(self, old: Name, new: Name) -> None:
        """posix-rename@openssh.com"""
        self.extended("posix-rename@openssh.com", path_of(old) + path_of(new))

    def link(self, old: Name, new: Name) -> None:
        """hardlink@openssh.com"""
        self.extended("hardlink@openssh.com", path_of(old) + path_of(new))

    def realpath(self, path: Name) -> bytes:
        body = self._expect(packets.NAME, REALPATH, path_of(path))
        assert U32.unpack_from(body)[0] == 1
        return take_string(body, 4)[0]

    def statvfs(self, path: Name) -> tuple[int, ...]:
        """The eleven numbers."""
        return struct.unpack(">11Q", self.extended("statvfs@openssh.com", path_of(path)) or b"")

    def limits(self) -> tuple[int, ...]:
        return struct.unpack(">4Q", self.extended("limits@openssh.com", b"") or b"")

    def extended(self, name: str, body: bytes) -> bytes | None:
        """The body of the answer; None for a plain OK."""
        answer = self.ask(packets.EXTENDED, string(name.encode()) + body)
        if answer.kind == packets.EXTENDED_REPLY:
            return answer.body
        if answer.code != OK:
            raise Refused(answer.code, answer.message)
        return None


@contextmanager
def refused(code: int, words: str = "") -> Iterator[None]:
    """What is asked inside is refused with that status and words."""
    with pytest.raises(Refused) as caught:
        yield
    told = caught.value
    assert (told.code, words in told.message) == (code, True), f"refused with {told.code} {told.message!r}"


# ---- conversations with a backend


@dataclass
class Conversation:
    """A client, and the server it talks to: a thread, or a process of its own (`pid`)."""

    client: RawClient
    socket: socket.socket
    notes: list[str] = field(default_factory=list)
    """Lines of the server's log; empty where it is a process."""
    pid: int | None = None
    thread: threading.Thread | None = None
    failure: list[BaseException] = field(default_factory=list)
    """What came out of `serve`: nothing ever should."""

    def half_close(self) -> None:
        """The client has no more to say, and still listens."""
        self.socket.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        """The client is gone; the server has ended when this returns."""
        self.socket.close()
        self.wait()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal for the server, where it is a process; it has ended when this returns."""
        assert self.pid is not None
        os.kill(self.pid, number)
        self.wait()

    def wait(self) -> int | None:
        """Until the server has ended; the wait status of a process."""
        if self.thread is not None:
            self.thread.join(TIMEOUT)
            assert not self.thread.is_alive(), "the server goes on without a client"
            return None
        status = None
        if self.pid is not None:
            until = time.monotonic() + TIMEOUT
            while True:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    break
                assert time.monotonic() < until, "the server goes on without a client"
                time.sleep(0.002)
            self.pid = None
        return status


@contextmanager
def conversation(
    backend: Callable[[], Backend],
    *,
    idle: float | None = None,
    timeout: float | None = TIMEOUT,
    forked: bool = False,
    greet: bool = True,
) -> Iterator[Conversation]:
    """Serve what `backend` makes, in a thread or in a forked process, and talk with it.

    At the end the client hangs up, the server must end, and nothing may have come out of it but answers.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT)
    notes: list[str] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            serve(FdStream(descriptor, descriptor, timeout=timeout), backend(), idle=idle, note=notes.append)
        except BaseException as error:
            failure.append(error)

    pid, thread = None, None
    if forked:
        pid = os.fork()
        if not pid:
            try:
                ours.close()
                descriptor = theirs.detach()
                run()
            finally:
                os._exit(1 if failure else 0)
        theirs.close()
    else:
        descriptor = theirs.detach()
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
    talk = Conversation(RawClient(ours, greet=False), ours, notes, pid, thread, failure)
    try:
        if greet:
            talk.client.hello()
        yield talk
    finally:
        with suppress(OSError):
            ours.close()
        status = talk.wait()
    assert not failure, failure
    assert status in (None, 0), f"the server's process ended with {status}"


class Recorded:
    """A Stream without a client: these bytes come in, cut at these places, and then the end; `sent` went out."""

    def __init__(self, data: bytes, cuts: Sequence[int] = ()) -> None:
        places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        self._pieces = [memoryview(data)[start:end] for start, end in pairwise(places)]
        self.sent = bytearray()
        self.closed = False

    def receive_into(self, buffer: memoryview, timeout: float | None) -> int | None:
        if not self._pieces:
            return 0
        piece = self._pieces.pop(0)
        count = min(len(piece), len(buffer))
        assert count, "a session must have room for what it asks for"
        buffer[:count] = piece[:count]
        if count < len(piece):
            self._pieces.insert(0, piece[count:])
        return count

    def send(self, parts: Sequence[Buffer]) -> None:
        for part in parts:
            self.sent += part

    def close(self) -> None:
        self.closed = True

    def answers(self) -> list[Packet]:
        """What was sent, taken apart; it must be whole packets."""
        found, at = [], 0
        while at < len(self.sent):
            length, kind, number = HEAD.unpack_from(self.sent, at)
            end = at + 4 + length
            assert end <= len(self.sent), "an answer that is not whole"
            found.append(Packet(kind, number, bytes(self.sent[at + HEAD.size : end])))
            at = end
        return found


INIT = packet(packets.INIT, 3, b"")
"""What every conversation begins with."""
