"""The SFTP engine over a plain folder: every request, every refusal, and clients that mean no good."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lafscli.errors import LafsError, ServerUnreachable
from lafscli.server import session
from lafscli.server.backend import (
    APPEND,
    BAD_MESSAGE,
    CREATE,
    EOF,
    EXCLUSIVE,
    FAILURE,
    NO_SUCH_FILE,
    OK,
    OP_UNSUPPORTED,
    PERMISSION_DENIED,
    READ,
    TRUNCATE,
    WRITE,
    Attrs,
    Change,
    Refused,
)
from lafscli.server.extensions import NAMES
from lafscli.server.requests import MAX_HANDLES, OFFERED
from lafscli.server.session import serve
from lafscli.server.streams import FdStream
from lafscli.server.wire import FSETSTAT, MAX_DATA, MAX_PACKET, READLINK, REALPATH, STAT, SYMLINK, long_name
from lafscli.storage import packets
from lafscli.storage.packets import HEAD, U32, U64, string
from lafscli.storage.sftp import SftpFiles
from tests.bench.field import CHECKOUT
from tests.files_contract import FilesContract
from tests.plain_backend import PlainFile, PlainFolder
from tests.raw_sftp import (
    INIT,
    NO_ATTRS,
    Attributes,
    Conversation,
    Pipes,
    RawClient,
    Recorded,
    conversation,
    packet,
    path_of,
    refused,
)
from tests.sshd import SshServers, sftp_server

BIG = random.Random(5).randbytes(3_000_000)
PYTHON_ON_FOLDER = f"{sys.executable} -m tests.plain_backend"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def talk(root: Path) -> Iterator[Conversation]:
    with conversation(lambda: PlainFolder(root)) as made:
        yield made
    assert made.notes == []


@pytest.fixture
def client(talk: Conversation) -> RawClient:
    return talk.client


def _files() -> int:
    return len(os.listdir("/proc/self/fd"))


# ---- what each request does ---------------------------------------------------------------------------------------


def test_it_names_its_extensions_and_those_of_the_backend(client: RawClient) -> None:
    assert list(client.extensions.items()) == [
        ("posix-rename@openssh.com", "1"),
        ("statvfs@openssh.com", "2"),
        ("fstatvfs@openssh.com", "2"),
        ("hardlink@openssh.com", "1"),
        ("fsync@openssh.com", "1"),
        ("limits@openssh.com", "1"),
        ("echo@lafs", "1"),
    ]
    assert client.limits() == (263_168, 261_120, 261_120, 1024)


@pytest.mark.parametrize(("spoken", "answers"), [(2, False), (3, True), (4, True), (6, True), (2**32 - 1, True)])
def test_every_client_from_version_3_gets_version_3(root: Path, spoken: int, answers: bool) -> None:
    hello = packet(packets.INIT, spoken, string(b"newline@vandyke.com") + string(b"\r\n"))
    stream, notes = Recorded(hello), list[str]()
    serve(stream, PlainFolder(root), idle=None, note=notes.append)
    assert [(answer.kind, answer.number) for answer in stream.answers()] == ([(packets.VERSION, 3)] if answers else [])
    assert len(notes) == (0 if answers else 1)


def test_files_are_made_written_and_read(client: RawClient, root: Path) -> None:
    handle = client.open("new", READ | WRITE | CREATE | EXCLUSIVE, Attributes(mode=0o640))
    client.write(handle, 3, b"later")
    client.write(handle, 0, b"now")
    assert client.read(handle, 0, 100) == b"nowlater"
    assert client.read(handle, 2, 3) == b"wla"
    assert client.read(handle, 8) == b""
    client.fsetstat(handle, Attributes(size=4, times=(5, 7)))
    assert client.fstat(handle) == Attributes(4, (os.getuid(), os.getgid()), stat.S_IFREG | 0o640, (5, 7))
    client.fsync(handle)
    client.close(handle)
    assert (root / "new").read_bytes() == b"nowl"
    client.put("big", BIG)
    assert client.get("big") == BIG


def test_ways_to_open(client: RawClient, root: Path) -> None:
    (root / "file").write_bytes(b"0123456789")
    with refused(FAILURE, "exists"):
        client.open("file", WRITE | CREATE | EXCLUSIVE)
    with refused(NO_SUCH_FILE):
        client.open("none", READ)
    with refused(NO_SUCH_FILE):
        client.open("none/new", WRITE | CREATE)
    with refused(FAILURE, "directory"):
        client.open(".", READ)
    appending = client.open("file", WRITE | APPEND)
    client.write(appending, 0, b"end")
    assert (root / "file").read_bytes() == b"0123456789end"
    client.close(client.open("file", WRITE | TRUNCATE))
    assert (root / "file").read_bytes() == b""


@pytest.mark.parametrize("flags", [0, 64, READ | 64, CREATE, 2**32 - 1])
def test_ways_to_open_that_there_are_not(client: RawClient, root: Path, flags: int) -> None:
    with refused(OP_UNSUPPORTED):
        client.open("new", flags)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("flags", [CREATE, TRUNCATE, APPEND, EXCLUSIVE])
def test_what_is_opened_to_be_read_is_not_changed(client: RawClient, root: Path, flags: int) -> None:
    (root / "file").write_bytes(b"here")
    with refused(PERMISSION_DENIED):
        client.open("file", READ | flags)
    handle = client.open("file", READ)
    with refused(PERMISSION_DENIED):
        client.write(handle, 0, b"x")
    with refused(PERMISSION_DENIED):
        client.fsetstat(handle, Attributes(size=0))
    with refused(PERMISSION_DENIED):
        client.read(client.open("file", WRITE))
    assert (root / "file").read_bytes() == b"here"


def test_names(client: RawClient, root: Path) -> None:
    client.mkdir("folder", Attributes(mode=0o700))
    client.put("folder/one", b"1")
    client.rename("folder/one", "two")
    client.put("three", b"3")
    with refused(FAILURE, "exists"):
        client.rename("three", "two")
    client.replace("three", "two")
    client.link("two", "again")
    with refused(FAILURE, "exists"):
        client.link("two", "again")
    assert client.listdir(".") == ["again", "folder", "two"]
    assert client.get("again") == b"3"
    with refused(FAILURE):
        client.rmdir(".")
    client.setstat("two", Attributes(size=0, mode=0o604, times=(1, 2)))
    assert client.lstat("two") == Attributes(0, (os.getuid(), os.getgid()), stat.S_IFREG | 0o604, (1, 2))
    assert client.stat("folder").mode == stat.S_IFDIR | 0o700
    client.rmdir("folder")
    client.remove("again")
    assert client.realpath(".") == os.fsencode(root)
    assert client.realpath("x/../two") == os.fsencode(root / "two")
    for act in (client.lstat, client.stat, client.opendir, client.remove, client.rmdir):
        with refused(NO_SUCH_FILE, "no such file"):
            act("gone")
    with refused(NO_SUCH_FILE):
        client.setstat("gone", Attributes(mode=0o600))


def test_symbolic_links_are_not_served(client: RawClient, root: Path) -> None:
    (root / "link").symlink_to("/etc/passwd")
    for kind, body in ((READLINK, path_of("link")), (SYMLINK, path_of("a") + path_of("b"))):
        answer = client.ask(kind, body)
        assert (answer.code, answer.message) == (OP_UNSUPPORTED, "symbolic links are not served")
    assert not (root / "a").is_symlink()


def test_space(client: RawClient, root: Path) -> None:
    (root / "file").touch()
    true = os.statvfs(root)
    found = client.statvfs(".")
    assert (found[1], found[2], found[8], found[10]) == (true.f_frsize, true.f_blocks, true.f_fsid, true.f_namemax)
    for handle in (client.open("file"), client.opendir(".")):
        again = client.extended("fstatvfs@openssh.com", string(handle))
        assert struct.unpack(">11Q", again or b"")[:3] == found[:3]
    with refused(NO_SUCH_FILE):
        client.statvfs("gone")


def test_requests_of_the_backends_own(client: RawClient) -> None:
    assert client.extended("echo@lafs", b"hello") == b"hello"
    assert client.extended("echo@lafs", b"") is None
    longest = bytes(MAX_PACKET - 5 - 4 - len("echo@lafs"))
    with refused(FAILURE, "too long"):
        client.extended("echo@lafs", longest)
    assert client.extended("echo@lafs", longest[: 256 * 1024]) == bytes(256 * 1024)
    for name in ("unheard@of", "", "posix-rename@openssh.com\0", "é@lafs"):
        with refused(OP_UNSUPPORTED):
            client.extended(name, b"")


@pytest.mark.parametrize("kind", [0, 2, 21, 22, 100, 101, 105, 199, 201, 255])
def test_unknown_requests_are_unsupported(client: RawClient, kind: int) -> None:
    assert client.ask(kind, b"whatever").code == OP_UNSUPPORTED


# ---- folders


def test_a_large_folder_comes_in_parts(client: RawClient, root: Path) -> None:
    names = {f"{number:0200}".encode() for number in range(1000)}
    for name in names:
        (root / name.decode()).touch()
    handle = client.opendir("")
    parts = []
    while part := client.readdir(handle):
        parts.append(part)
    assert len(parts) > 2
    assert {name for part in parts for name, _, _ in part} == names
    assert client.readdir(handle) == []
    client.close(handle)


def test_lines_are_those_of_ls(client: RawClient, root: Path) -> None:
    """As OpenSSH's own server writes them, but for owners as numbers and the count of names."""
    (root / "folder").mkdir(mode=0o750)
    (root / "caf\udce9").write_bytes(bytes(70_000))
    os.utime(root / "caf\udce9", (1_000_000_000, 1_000_000_000))
    (root / "link").symlink_to("nowhere")
    with subprocess.Popen([sftp_server()], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        theirs = RawClient(Pipes.of(process))
        wanted = {name: line.split() for name, line, _ in theirs.readdir(theirs.opendir(os.fsencode(root)))}
        process.stdin.close()  # type: ignore[union-attr]
    found = {name: line.split() for name, line, _ in client.readdir(client.opendir(""))}
    assert set(found) == set(wanted) - {b".", b".."}
    for name, words in found.items():
        assert words[0] == wanted[name][0]
        assert words[1:4] == ["1", str(os.getuid()), str(os.getgid())]
        assert words[4:] == wanted[name][4:]


def test_lines_of_times_that_are_none() -> None:
    for mtime in (-(2**63), -1, 0, 2**31, 2**32, 2**63):
        line = long_name(b"name", Attrs("file", 0, 0o600, 0, mtime, 0, 0), time.time())
        assert line.endswith(b" name")


class _Breaks(PlainFolder):
    """The listing breaks after one name."""

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Attrs]]:
        yield b"one", self.stat(b"", follow=True)
        raise Refused(FAILURE, "a folder that breaks")


def test_a_listing_that_breaks_is_not_taken_for_a_whole_one(root: Path) -> None:
    with conversation(lambda: _Breaks(root)) as talk:
        handle = talk.client.opendir("")
        for _ in range(3):
            with refused(FAILURE, "breaks"):
                talk.client.readdir(handle)


# ---- handles


def test_handles_are_good_for_what_they_were_made_for(client: RawClient, root: Path) -> None:
    (root / "file").write_bytes(b"1234")
    file, folder, closed = client.open("file", READ | WRITE), client.opendir("."), client.open("file", READ | WRITE)
    client.close(closed)
    for wrong in (folder, closed, b"", b"x", file + b"\0", bytes(256), bytes(8), b"\xff" * 8):
        for act in (
            lambda h: client.read(h),
            lambda h: client.write(h, 0, b"x"),
            lambda h: client.fstat(h),
            lambda h: client.fsetstat(h, Attributes(size=0)),
            lambda h: client.fsync(h),
        ):
            with refused(FAILURE, "no such handle"):
                act(wrong)
    for wrong in (file, closed, b""):
        with refused(FAILURE, "no such handle"):
            client.readdir(wrong)
    with refused(FAILURE, "no such handle"):
        client.close(closed)
    assert client.read(file) == b"1234"
    assert client.readdir(folder)


def test_a_handle_is_nothing_to_another_client(client: RawClient, root: Path) -> None:
    (root / "file").write_bytes(b"1234")
    handle = client.open("file")
    with conversation(lambda: PlainFolder(root)) as other, refused(FAILURE, "no such handle"):
        other.client.read(handle)


def test_handles_are_never_given_again(client: RawClient, root: Path) -> None:
    (root / "file").touch()
    given = set()
    for _ in range(100):
        given.add(client.open("file"))
        client.close(max(given))
    assert len(given) == 100


def test_ten_thousand_opens(root: Path) -> None:
    """A connection has so many files and no more, and all are let go of at its end."""
    (root / "file").touch()
    backend = _Counting(root)
    open_file = packet(packets.OPEN, 7, path_of("file") + U32.pack(READ) + NO_ATTRS)
    open_dir = packet(packets.OPENDIR, 8, path_of("."))
    stream = Recorded(INIT + (open_file + open_dir) * 5000)
    before = _files()
    serve(stream, backend, idle=None)
    kinds = [answer.kind for answer in stream.answers()[1:]]
    assert kinds == [packets.HANDLE] * MAX_HANDLES + [packets.STATUS] * (10_000 - MAX_HANDLES)
    last = stream.answers()[-1]
    assert (last.code, last.message) == (FAILURE, "too many open files")
    assert (backend.opened, backend.let_go) == (MAX_HANDLES, MAX_HANDLES)
    assert _files() == before


class _Counting(PlainFolder):
    """Files and folders that cost no descriptor."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened = self.let_go = 0

    def open(self, path: bytes, flags: int, change: Change) -> PlainFile:
        self.opened += 1
        return _Counted(self)

    def entries(self, path: bytes) -> Iterator[tuple[bytes, Attrs]]:
        self.opened += 1
        listing = self._listed()
        next(listing)
        return listing

    def _listed(self) -> Iterator[tuple[bytes, Attrs]]:
        try:
            yield b"", self.stat(b"", follow=True)
        finally:
            self.let_go += 1


class _Counted(PlainFile):
    def __init__(self, backend: _Counting) -> None:
        self._backend = backend

    def close(self) -> None:
        self._backend.let_go += 1


def test_a_place_for_a_handle_is_free_again(client: RawClient, root: Path) -> None:
    handles = [client.opendir(".") for _ in range(MAX_HANDLES - 900)]
    for handle in handles:
        client.close(handle)
    assert client.opendir(".")


# ---- numbers at their ends


def test_offsets_and_lengths_at_their_ends(client: RawClient, root: Path) -> None:
    (root / "file").write_bytes(BIG)
    handle = client.open("file", READ | WRITE)
    assert client.read(handle, 0, 2**32 - 1) == BIG[:MAX_DATA]
    assert client.read(handle, 1, MAX_DATA + 1) == BIG[1 : 1 + MAX_DATA]
    assert client.read(handle, 5, 0) == b""
    assert client.read(handle, len(BIG) - 1, 9) == BIG[-1:]
    for offset in (len(BIG), 2**63 - 10, 2**63 - 1, 2**63, 2**64 - 1):
        assert client.read(handle, offset, 100) == b""
    for offset in (2**63 - 1, 2**63, 2**64 - 1):
        with refused(FAILURE):
            client.write(handle, offset, b"xx")
    for size in (2**63, 2**64 - 1):
        with refused(BAD_MESSAGE):
            client.fsetstat(handle, Attributes(size=size))
    assert client.fstat(handle).size == len(BIG)
    longest = BIG[: MAX_PACKET - 5 - 4 - 8 - 8 - 4]
    client.write(handle, 0, longest)
    assert (root / "file").read_bytes() == longest + BIG[len(longest) :]


class _Odd(PlainFolder):
    """Attributes that no field of the answer holds."""

    def stat(self, path: bytes, *, follow: bool) -> Attrs:
        if path == b"long":
            return Attrs("file", 2**64, 0o600, 0, 0, 0, 0)
        return Attrs("file", 1, 0o177777, -5, 2**40, -1, 2**32)


def test_attributes_that_fit_nowhere(root: Path) -> None:
    with conversation(lambda: _Odd(root)) as talk:
        assert talk.client.lstat("x") == Attributes(1, (0, 2**32 - 1), 0o107777, (0, 2**32 - 1))
        with refused(FAILURE):
            talk.client.lstat("long")
        assert talk.client.lstat("x").size == 1
    assert len(talk.notes) == 1


# ---- requests that are malformed

ATTRIBUTES = Attributes(1, (2, 3), 0o600, (4, 5)).serialise()
EXTENDED_ATTRIBUTES = U32.pack(1 << 31) + U32.pack(1) + string(b"a") + string(b"b")
HANDLE = string(bytes(7) + b"\1")
WHOLE: dict[str, tuple[int, bytes]] = {
    "open": (packets.OPEN, path_of("file") + U32.pack(READ) + ATTRIBUTES),
    "close": (packets.CLOSE, HANDLE),
    "read": (packets.READ, HANDLE + U64.pack(0) + U32.pack(10)),
    "write": (packets.WRITE, HANDLE + U64.pack(0) + string(b"data")),
    "lstat": (packets.LSTAT, path_of("file")),
    "stat": (STAT, path_of("file")),
    "fstat": (packets.FSTAT, HANDLE),
    "setstat": (packets.SETSTAT, path_of("file") + ATTRIBUTES),
    "setstat extended": (packets.SETSTAT, path_of("file") + EXTENDED_ATTRIBUTES),
    "fsetstat": (FSETSTAT, HANDLE + ATTRIBUTES),
    "opendir": (packets.OPENDIR, path_of(".")),
    "readdir": (packets.READDIR, HANDLE),
    "remove": (packets.REMOVE, path_of("file")),
    "mkdir": (packets.MKDIR, path_of("new") + ATTRIBUTES),
    "rmdir": (packets.RMDIR, path_of("folder")),
    "realpath": (REALPATH, path_of(".")),
    "rename": (packets.RENAME, path_of("file") + path_of("other")),
    "posix-rename": (packets.EXTENDED, string(b"posix-rename@openssh.com") + path_of("file") + path_of("other")),
    "hardlink": (packets.EXTENDED, string(b"hardlink@openssh.com") + path_of("file") + path_of("other")),
    "statvfs": (packets.EXTENDED, string(b"statvfs@openssh.com") + path_of(".")),
    "fstatvfs": (packets.EXTENDED, string(b"fstatvfs@openssh.com") + HANDLE),
    "fsync": (packets.EXTENDED, string(b"fsync@openssh.com") + HANDLE),
    "limits": (packets.EXTENDED, string(b"limits@openssh.com")),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_request_is_refused_when_short_or_long_and_nothing_happens(name: str, root: Path) -> None:
    """Wherever it is cut, and with one byte more; the conversation goes on, and the whole one is understood."""
    kind, body = WHOLE[name]
    (root / "file").write_bytes(b"untouched")
    (root / "folder").mkdir()
    handle = packet(packets.OPEN, 1, path_of("file") + U32.pack(READ | WRITE) + NO_ATTRS)
    broken = [body[:size] for size in range(len(body))] + [body + b"\0"] * (kind != packets.WRITE)
    stream = Recorded(INIT + handle + b"".join(packet(kind, 10 + i, each) for i, each in enumerate(broken)))
    notes: list[str] = []
    serve(stream, PlainFolder(root), idle=None, note=notes.append)
    answers = stream.answers()[2:]
    assert [answer.number for answer in answers] == list(range(10, 10 + len(broken)))
    allowed = {BAD_MESSAGE, OP_UNSUPPORTED} if kind == packets.EXTENDED else {BAD_MESSAGE}
    assert {answer.code for answer in answers} <= allowed
    assert answers[-1].code == BAD_MESSAGE
    assert notes == []
    assert (root / "file").read_bytes() == b"untouched"
    assert {path.name for path in root.iterdir()} == {"file", "folder"}
    stream = Recorded(INIT + handle + packet(kind, 9, body))
    serve(stream, PlainFolder(root), idle=None, note=notes.append)
    last = stream.answers()[-1]
    assert last.number == 9
    assert last.kind != packets.STATUS or last.code != BAD_MESSAGE
    assert notes == []


def test_what_lies_behind_the_data_of_a_write_is_passed_over(client: RawClient, root: Path) -> None:
    """rclone sends the rest of its buffer along, and OpenSSH's server does not mind."""
    handle = client.open("new", WRITE | CREATE)
    body = string(handle) + U64.pack(0) + string(b"data") + b"rest of a buffer"
    assert client.ask(packets.WRITE, body).code == OK
    client.close(handle)
    assert (root / "new").read_bytes() == b"data"


@pytest.mark.parametrize(
    "path",
    [b"\0", b"file\0", b"fi\0le", b"/\0", b"x" * 4097, b"\xff\0"],
    ids=["nul", "end", "in", "top", "long", "bad"],
)
def test_paths_that_are_none(client: RawClient, root: Path, path: bytes) -> None:
    (root / "file").touch()
    for act in (client.lstat, client.open, client.opendir, client.remove, client.mkdir, client.rmdir, client.realpath):
        with refused(BAD_MESSAGE):
            act(path)  # type: ignore[operator]
    for move in (client.rename, client.replace, client.link):
        with refused(BAD_MESSAGE):
            move("file", path)
        with refused(BAD_MESSAGE):
            move(path, "file")
    assert client.listdir(".") == ["file"]


def test_attributes_of_later_versions_are_refused(client: RawClient, root: Path) -> None:
    (root / "file").touch()
    for bit in range(4, 31):
        assert client.ask(packets.SETSTAT, path_of("file") + U32.pack(1 << bit)).code == BAD_MESSAGE
    endless = U32.pack(1 << 31) + U32.pack(2**32 - 1) + string(b"") * 8
    assert client.ask(packets.SETSTAT, path_of("file") + endless).code == BAD_MESSAGE


@pytest.mark.parametrize("length", [0, 1, 4, MAX_PACKET + 1, 2**31, 2**32 - 1])
def test_a_packet_of_no_possible_length_ends_it(root: Path, length: int) -> None:
    with conversation(lambda: PlainFolder(root)) as talk:
        talk.client.send(packets.LSTAT, path_of("."), number=5)
        talk.client.send_raw(HEAD.pack(length, packets.LSTAT, 77))
        first, second = talk.client.receive(), talk.client.receive()
        assert first is not None
        assert second is not None
        assert (first.kind, first.number) == (packets.ATTRS, 5)
        assert (second.number, second.code) == (77, BAD_MESSAGE)
        assert talk.client.receive() is None
    assert len(talk.notes) == 1


def test_the_longest_packet_is_taken(client: RawClient, root: Path) -> None:
    longest = packet(packets.LSTAT, 9, bytes(MAX_PACKET - 5))
    client.send_raw(longest)
    answer = client.receive()
    assert answer is not None
    assert answer.code == BAD_MESSAGE
    assert client.lstat(".")


@pytest.mark.parametrize("kind", [packets.LSTAT, packets.EXTENDED, packets.VERSION, 255])
def test_nothing_comes_before_init(root: Path, kind: int) -> None:
    (root / "file").touch()
    with conversation(lambda: PlainFolder(root), greet=False) as talk:
        talk.client.send(kind, path_of("file"), number=3)
        answer = talk.client.receive()
        assert answer is not None
        assert (answer.number, answer.code) == (3, BAD_MESSAGE)
        assert talk.client.receive() is None


def test_init_comes_once(root: Path) -> None:
    with conversation(lambda: PlainFolder(root)) as talk:
        talk.client.send_raw(INIT)
        answer = talk.client.receive()
        assert answer is not None
        assert answer.code == BAD_MESSAGE
        assert talk.client.receive() is None


def test_a_broken_init_ends_it(root: Path) -> None:
    stream = Recorded(packet(packets.INIT, 3, string(b"lonely")))
    serve(stream, PlainFolder(root), idle=None)
    assert [answer.code for answer in stream.answers()] == [BAD_MESSAGE]


# ---- order, and the ends of a conversation


def test_answers_come_in_the_order_of_requests(client: RawClient, root: Path) -> None:
    """Whatever the ids are, and how many come at once."""
    (root / "file").write_bytes(BIG)
    handle = client.open("file")
    ids = [random.Random(3).randrange(2**32) for _ in range(300)] + [0, 0, 2**32 - 1]
    bodies = [string(handle) + U64.pack(index) + U32.pack(1000 + index) for index in range(len(ids))]
    client.send_raw(b"".join(packet(packets.READ, number, body) for number, body in zip(ids, bodies, strict=True)))
    for index, number in enumerate(ids):
        answer = client.receive()
        assert answer is not None
        assert (answer.number, answer.body[4:]) == (number, BIG[index : index + 1000 + index])


def test_bytes_may_come_one_by_one(root: Path) -> None:
    data = INIT + packet(packets.MKDIR, 4, path_of("new") + NO_ATTRS) + packet(packets.LSTAT, 5, path_of("new"))
    stream = Recorded(data, range(len(data)))
    serve(stream, PlainFolder(root), idle=None)
    assert [answer.kind for answer in stream.answers()] == [packets.VERSION, packets.STATUS, packets.ATTRS]


@pytest.mark.parametrize("cut", [1, 9, 100_000, 262_143])
def test_packets_of_every_size_fit_wherever_they_lie(root: Path, cut: int) -> None:
    """Many long and short ones, whose borders fall anywhere in the server's buffer."""
    sizes = [MAX_DATA, 1, 100_000, 0, MAX_DATA - 1, 200_001, 7] * 5
    data = [INIT, packet(packets.OPEN, 1, path_of("file") + U32.pack(READ | WRITE | CREATE) + NO_ATTRS)]
    at, handle = 0, string((1).to_bytes(8, "big"))
    for number, size in enumerate(sizes):
        data.append(packet(packets.WRITE, number, handle + U64.pack(at) + string(BIG[at % 1000 : at % 1000 + size])))
        at += size
    whole = b"".join(data)
    stream = Recorded(whole, range(0, len(whole), cut) if cut > 9 else [*range(0, 5000, cut), 300_000])
    serve(stream, PlainFolder(root), idle=None)
    assert [answer.number for answer in stream.answers()[2:]] == list(range(len(sizes)))
    assert {answer.code for answer in stream.answers()[2:]} == {OK}
    expected, at = [], 0
    for size in sizes:
        expected.append(BIG[at % 1000 : at % 1000 + size])
        at += size
    assert (root / "file").read_bytes() == b"".join(expected)


def test_who_has_no_more_to_say_still_gets_every_answer(talk: Conversation, root: Path) -> None:
    (root / "file").write_bytes(BIG)
    handle = talk.client.open("file")
    body = string(handle) + U64.pack(0) + U32.pack(2000)
    asked = b"".join(packet(packets.READ, number, body) for number in range(500))
    talk.client.send_raw(asked + packet(packets.LSTAT, 1, path_of("file"))[:-1])
    talk.half_close()
    for number in range(500):
        answer = talk.client.receive()
        assert answer is not None
        assert (answer.number, answer.body[4:]) == (number, BIG[:2000])
    assert talk.client.receive() is None


def test_who_hangs_up_in_the_middle_leaves_nothing(root: Path) -> None:
    (root / "file").write_bytes(BIG)
    before, threads = _files(), threading.active_count()
    backend = PlainFolder(root)
    for ending in (b"", b"\0", INIT[:7], packet(packets.WRITE, 5, bytes(100_000))[:50_000]):
        with conversation(lambda: backend) as talk:
            handles = [talk.client.open("file") for _ in range(20)] + [talk.client.opendir(".") for _ in range(20)]
            body = string(handles[0]) + U64.pack(0) + U32.pack(1000)
            # at once: nobody reads the answers, and many small requests would fill the socket as well
            talk.client.send_raw(b"".join(packet(packets.READ, number, body) for number in range(200)) + ending)
            talk.hang_up()
        assert talk.notes == []
    assert _files() <= before
    assert threading.active_count() <= threads
    assert backend.closed == 4


def test_who_takes_no_answers_is_given_up(root: Path) -> None:
    (root / "file").write_bytes(BIG)
    with conversation(lambda: PlainFolder(root), timeout=0.2) as talk:
        handle = talk.client.open("file")
        request = packet(packets.READ, 5, string(handle) + U64.pack(0) + U32.pack(MAX_DATA))
        talk.socket.settimeout(5)
        with suppress(BrokenPipeError, ConnectionResetError):
            while True:
                talk.client.send_raw(request * 100)
        talk.wait()
    assert talk.notes == ["gave up: the client does not take its answers"]


def _sleeps(pid: int | None) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_the_same_whatever_is_asked(root: Path) -> None:
    """Requests for a hundred times what a buffer holds, from one who does not take the answers."""
    (root / "file").write_bytes(BIG)
    with conversation(lambda: PlainFolder(root), forked=True) as talk:
        assert talk.pid is not None
        handle = talk.client.open("file")
        request = packet(packets.READ, 5, string(handle) + U64.pack(0) + U32.pack(MAX_DATA))
        talk.client.send_raw(request * 20)
        for _ in range(20):
            assert talk.client.receive() is not None
        before = _resident(talk.pid)
        talk.socket.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(1000):
                talk.socket.send(request * 100)
            pytest.fail("the server reads on, though nobody takes its answers")
        _until(lambda: _sleeps(talk.pid))
        assert _resident(talk.pid) - before < 4 << 20


TIMEOUT = 20.0


def test_who_says_nothing_is_given_up(root: Path) -> None:
    with conversation(lambda: PlainFolder(root), idle=0.1) as talk:
        assert talk.client.receive() is None
    assert talk.notes == ["gave up: nothing came for 0.1 seconds"]


def test_who_never_begins_is_given_up(root: Path) -> None:
    with conversation(lambda: PlainFolder(root), idle=0.1, greet=False) as talk:
        talk.client.send_raw(INIT[:6])
        assert talk.client.receive() is None


# ---- the backend: time, failures, the end


def test_the_backend_hears_of_time_idle_or_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "TICK", 0.01)
    backend = PlainFolder(root)
    with conversation(lambda: backend) as talk:
        _until(lambda: backend.ticks >= 3)
        before = backend.ticks
        while backend.ticks < before + 3:
            talk.client.lstat(".")
        handle = talk.client.open("f", WRITE | CREATE)
        before = backend.ticks
        while backend.ticks < before + 3:
            talk.client.write(handle, 0, b"x")
    assert backend.closed == 1


def _until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + TIMEOUT
    while not true():
        assert time.monotonic() < until
        time.sleep(0.002)


class _Fails(PlainFolder):
    """Raises something wherever it is asked."""

    def __init__(self, root: Path, error: BaseException) -> None:
        super().__init__(root)
        self.error = error
        self.let_go = 0

    def _fail(self, *_: object, **__: object) -> None:
        raise self.error

    stat = change = remove = mkdir = rmdir = rename = replace = link = realpath = space = extended = _fail  # type: ignore[assignment]
    entries = _fail  # type: ignore[assignment]
    tick = _fail

    def open(self, path: bytes, flags: int, change: Change) -> PlainFile:
        if path == b"refused":
            raise self.error
        return _FailingFile(self)


class _FailingFile(PlainFile):
    def __init__(self, backend: _Fails) -> None:
        self._backend = backend
        self.read_into = self.write = self.attrs = self.change = self.sync = backend._fail  # type: ignore[assignment, method-assign]

    def close(self) -> None:
        self._backend.let_go += 1
        raise self._backend.error


REQUESTS = [each for each in WHOLE.values() if each[1] != string(b"limits@openssh.com")]
EVERYTHING = [*REQUESTS, (packets.OPEN, path_of("refused") + U32.pack(READ) + NO_ATTRS)]


@pytest.mark.parametrize("error", [KeyError("secret"), MemoryError(), ValueError("URI:CHK:secret"), RecursionError()])
def test_a_bug_in_the_backend_is_an_answer_and_a_line(
    root: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "TICK", 0.0)
    backend, notes = _Fails(root, error), list[str]()
    handle = packet(packets.OPEN, 1, path_of("x") + U32.pack(READ | WRITE) + NO_ATTRS)
    asked = [(kind, body) for kind, body in EVERYTHING if kind != packets.CLOSE and body != WHOLE["open"][1]]
    asked = [each for each in asked if each[0] != packets.READDIR]
    stream = Recorded(INIT + handle * 2 + b"".join(packet(kind, 9, body) for kind, body in asked))
    serve(stream, backend, idle=None, note=notes.append)
    answers = stream.answers()[3:]
    assert [(answer.kind, answer.code) for answer in answers] == [(packets.STATUS, FAILURE)] * len(asked)
    assert all("secret" not in answer.message for answer in answers)
    assert sum("failed at a request" in note for note in notes) == len(asked)
    assert sum("fresh" in note for note in notes) == 1
    assert sum("letting go" in note for note in notes) == 2
    assert not any("secret" in note or "\n" in note for note in notes)
    assert (backend.let_go, backend.closed, stream.closed) == (2, 1, True)


SYSTEM = [
    (errno.ENOENT, NO_SUCH_FILE, "no such file"),
    (errno.ENOTDIR, NO_SUCH_FILE, "no such file"),
    (errno.ELOOP, NO_SUCH_FILE, "no such file"),
    (errno.EACCES, PERMISSION_DENIED, "permission denied"),
    (errno.EPERM, PERMISSION_DENIED, "permission denied"),
    (errno.EROFS, PERMISSION_DENIED, "read-only"),
    (errno.EEXIST, FAILURE, "exists"),
    (errno.ENOTEMPTY, FAILURE, "directory not empty"),
    (errno.ENOSPC, FAILURE, "no space left"),
    (errno.EDQUOT, FAILURE, "no space left"),
    (errno.EMFILE, FAILURE, "too many open files"),
    (errno.EFBIG, FAILURE, "file too large"),
    (errno.EIO, FAILURE, "input/output error"),
    (errno.EOPNOTSUPP, OP_UNSUPPORTED, "unsupported"),
    (errno.ETIMEDOUT, FAILURE, "timed out"),
    (errno.EPIPE, FAILURE, "broken pipe"),
    (0, FAILURE, "failure"),
]


@pytest.mark.parametrize(("number", "code", "words"), SYSTEM)
def test_errors_of_the_system_are_told_without_a_path_and_end_nothing(
    root: Path, number: int, code: int, words: str
) -> None:
    error = OSError(number, "text", "/srv/private/path") if number else OSError("/srv/private/path")
    with conversation(lambda: _Fails(root, error)) as talk:
        for _ in range(2):
            with refused(code, words):
                talk.client.mkdir("x")
        answer = talk.client.ask(packets.LSTAT, path_of("x"))
        assert "private" not in answer.message
        handle = talk.client.open("x")
        with refused(code, words):
            talk.client.close(handle)
        with refused(FAILURE, "no such handle"):
            talk.client.close(handle)
    assert talk.notes == []


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_the_end_of_the_program_lets_go_of_everything(root: Path, error: BaseException) -> None:
    """As SIGTERM raises it: wherever it strikes, files, backend and stream are closed."""
    backend = _Fails(root, error)
    handle = packet(packets.OPEN, 1, path_of("x") + U32.pack(READ | WRITE) + NO_ATTRS)
    stream = Recorded(INIT + handle * 5 + packet(packets.LSTAT, 4, path_of("x")))
    with pytest.raises(type(error)):
        serve(stream, backend, idle=None)
    assert (backend.let_go, backend.closed, stream.closed) == (5, 1, True)


def test_a_signal_while_idle_lets_go_of_everything(root: Path) -> None:
    class Marks(PlainFolder):
        def __init__(self, root: Path) -> None:
            super().__init__(root)
            self._mark = root / "closed"
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))

        def close(self) -> None:
            self._mark.touch()

    with conversation(lambda: Marks(root), forked=True) as talk:
        talk.client.opendir(".")
        talk.kill(signal.SIGTERM)
        assert talk.client.receive() is None
        assert (root / "closed").exists()


def test_notes_that_fail_end_nothing(root: Path) -> None:
    def note(line: str) -> None:
        raise OSError(errno.ENOSPC, "the disk of the log is full")

    stream = Recorded(INIT + packet(packets.LSTAT, 4, path_of("x")) * 2)
    serve(stream, _Fails(root, KeyError()), idle=None, note=note)
    assert [answer.kind for answer in stream.answers()] == [packets.VERSION, packets.STATUS, packets.STATUS]


def test_a_failure_outside_of_a_request_ends_the_conversation_with_a_line(root: Path) -> None:
    class Nameless(PlainFolder):
        extensions = (("name", None),)  # type: ignore[assignment]

    stream, notes = Recorded(INIT), list[str]()
    serve(stream, Nameless(root), idle=None, note=notes.append)
    assert [note.partition(" at wire.py")[0] for note in notes] == ["failed at a conversation: AttributeError"]
    assert stream.closed


def test_what_a_refusal_says_is_bounded_and_clean(root: Path) -> None:
    with conversation(lambda: _Fails(root, Refused(FAILURE, "x" * 400_000 + "\udce9"))) as talk:
        assert len(talk.client.ask(packets.LSTAT, path_of("x")).message) == 500
    with conversation(lambda: _Fails(root, Refused(PERMISSION_DENIED, "caf\udce9 日本"))) as talk:
        answer = talk.client.ask(packets.LSTAT, path_of("x"))
        assert (answer.code, answer.message) == (PERMISSION_DENIED, "caf\\udce9 日本")


# ---- streams


def test_a_stream_sends_and_receives_all_of_it() -> None:
    ours, theirs = socket.socketpair()
    stream = FdStream(fd := theirs.detach(), fd)
    parts = [BIG[:1000], b"", memoryview(BIG)[1000:2_000_000], bytearray(BIG[2_000_000:]), *([b"x"] * 3000)]
    came = bytearray()

    def take() -> None:
        while more := ours.recv(100_000):
            came.extend(more)

    reader = threading.Thread(target=take)
    reader.start()
    stream.send(parts)
    ours.sendall(b"answer")
    buffer = bytearray(10)
    assert stream.receive_into(memoryview(buffer), 5) == 6
    assert stream.receive_into(memoryview(buffer), 0.01) is None
    ours.shutdown(socket.SHUT_WR)
    assert stream.receive_into(memoryview(buffer), None) == 0
    stream.close()
    stream.close()
    reader.join()
    ours.close()
    assert came == BIG + b"x" * 3000


def test_a_stream_over_pipes_gives_them_back_as_they_were() -> None:
    their_in, write_fd = os.pipe()
    read_fd, their_out = os.pipe()
    kept = os.dup(their_in), os.dup(their_out)
    stream = FdStream(their_in, their_out, timeout=0.05)
    assert not os.get_blocking(kept[0])
    with pytest.raises(TimeoutError):
        stream.send([bytes(5_000_000)])
    os.close(read_fd)
    with pytest.raises(BrokenPipeError):
        stream.send([b"x"])
    os.close(write_fd)
    assert stream.receive_into(memoryview(bytearray(5)), None) == 0
    stream.close()
    assert all(os.get_blocking(fd) for fd in kept)
    for fd in kept:
        os.close(fd)


def test_what_is_printed_does_not_get_between_answers(root: Path) -> None:
    code = """if True:
        import sys
        from pathlib import Path
        from lafscli.server.session import serve
        from lafscli.server.streams import FdStream
        from tests.plain_backend import PlainFolder
        class Chatty(PlainFolder):
            def stat(self, path, *, follow):
                print("printed", input("asked") if False else "", flush=True)
                return super().stat(path, follow=follow)
        serve(FdStream.standard(), Chatty(Path(sys.argv[1])), idle=None)
    """
    stream = Recorded(INIT + packet(packets.LSTAT, 4, path_of(".")))
    data = INIT + packet(packets.LSTAT, 4, path_of("."))
    done = subprocess.run([sys.executable, "-c", code, str(root)], input=data, capture_output=True, cwd=CHECKOUT)
    stream.sent += done.stdout
    assert [answer.kind for answer in stream.answers()] == [packets.VERSION, packets.ATTRS]
    assert b"printed" in done.stderr


# ---- foreign clients


def _sftp(*options: str, lines: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        ["sftp", "-b", "-", *options],
        input=lines,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=60,
    )


def test_openssh_sftp_without_ssh(root: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(BIG)
    lines = f"""
        put {tmp_path}/big big
        mkdir folder
        rename big folder/moved
        ln folder/moved second
        chmod 600 second
        ls -l
        ls -ln folder
        df -h
        get folder/moved {tmp_path}/back
        -get none
        reget second {tmp_path}/back
        rm second
        -symlink a b
        -rmdir folder
        put -R {root.parent}/tree
        get -R tree {tmp_path}/again
        pwd
    """
    (root.parent / "tree/deep/er").mkdir(parents=True)
    (root.parent / "tree/deep/er/file").write_bytes(b"leaf")
    done = _sftp("-D", f"{PYTHON_ON_FOLDER} {root}", lines=lines, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == BIG
    assert (tmp_path / "again/deep/er/file").read_bytes() == b"leaf"
    assert f"Remote working directory: {root}" in done.stdout
    assert "-rw-------   1 0 " in done.stdout or os.getuid()
    assert "%Capacity" in done.stdout
    assert "symbolic links" in done.stderr or "symlink" in done.stderr
    assert (root / "folder/moved").read_bytes() == BIG


def test_openssh_sftp_and_paramiko_over_sshd(
    root: Path, tmp_path: Path, start_servers: Callable[..., SshServers]
) -> None:
    import paramiko

    command = f"env PYTHONPATH={CHECKOUT} {PYTHON_ON_FOLDER} {root}"
    servers = start_servers(1, subsystem=command)
    (tmp_path / "big").write_bytes(BIG)
    lines = f"put {tmp_path}/big big\nget big {tmp_path}/back\nls -l\n"
    done = _sftp("-F", str(servers.config), "s0", lines=lines, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == BIG
    with paramiko.SSHClient() as ssh:
        ssh.load_host_keys(str(servers.known_hosts))
        ssh.connect("127.0.0.1", servers.port(0), key_filename=str(servers.identity), look_for_keys=False)
        with ssh.open_sftp() as sftp:
            assert sftp.normalize(".") == str(root)
            with sftp.open("new", "wx") as file:
                file.set_pipelined(True)
                file.write(BIG)
            sftp.getfo("big", (tmp_path / "paramiko").open("wb"))
            assert (tmp_path / "paramiko").read_bytes() == BIG
            assert sorted(sftp.listdir()) == ["big", "new"]
            sftp.posix_rename("new", "big")
            sftp.chmod("big", 0o600)
            sftp.utime("big", (1, 2))
            assert sftp.stat("big").st_mtime == 2
            with pytest.raises(FileNotFoundError):
                sftp.lstat("new")
            with pytest.raises(OSError, match="symbolic links"):
                sftp.symlink("big", "link")
            sftp.remove("big")
    assert list(root.iterdir()) == []


def test_half_closed_over_ssh(root: Path, start_servers: Callable[..., SshServers]) -> None:
    """The client's end of input comes through sshd; what was asked before is answered all the same."""
    (root / "file").write_bytes(BIG)
    servers = start_servers(1, subsystem=f"env PYTHONPATH={CHECKOUT} {PYTHON_ON_FOLDER} {root}")
    asked = [INIT, packet(packets.OPEN, 0, path_of("file") + U32.pack(READ) + NO_ATTRS)]
    asked += [packet(packets.READ, n, HANDLE + U64.pack(n) + U32.pack(MAX_DATA)) for n in range(1, 100)]
    command = ["ssh", "-F", str(servers.config), "s0", "-s", "sftp"]
    done = subprocess.run(command, input=b"".join(asked), capture_output=True, timeout=60, check=True)
    stream = Recorded(b"")
    stream.send([done.stdout])
    answers = stream.answers()[2:]
    assert [answer.number for answer in answers] == list(range(1, 100))
    assert all(answer.body[4:] == BIG[answer.number : answer.number + MAX_DATA] for answer in answers)
    assert done.stderr == b""


# ---- lafs itself as the client: its own contract of a folder tree


class _Threads:
    """Streams to servers that are threads, until they are closed."""

    def __init__(self, root: Path) -> None:
        self.made: list[_ThreadStream] = []
        self._root = root

    def __call__(self) -> _ThreadStream:
        self.made.append(_ThreadStream(self._root))
        return self.made[-1]


class _ThreadStream:
    """What SftpFiles takes as a stream."""

    def __init__(self, root: Path) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.read_fd = self.write_fd = ours.detach()
        self.closed = False
        self.notes: list[str] = []
        fd = theirs.detach()

        def run() -> None:
            serve(FdStream(fd, fd), PlainFolder(root), idle=None, note=self.notes.append)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def explain(self) -> LafsError:
        return ServerUnreachable("the server ended")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self.read_fd)
            self._thread.join(TIMEOUT)
            assert not self._thread.is_alive()


class TestFiles(FilesContract):
    """All that lafs asks of a server."""

    @pytest.fixture
    def files(self, root: Path) -> Iterator[SftpFiles]:
        streams = _Threads(root)
        made = SftpFiles(streams, str(root), name="blue")
        yield made
        made.close()
        assert all(stream.closed and stream.notes == [] for stream in streams.made)


def test_every_extension_that_lafs_uses_is_offered() -> None:
    offered = {name: version.encode() for name, version in (*OFFERED, *((name, "1") for name in NAMES))}
    assert packets.UNDERSTOOD.items() <= offered.items()
    assert EOF == packets.EOF
