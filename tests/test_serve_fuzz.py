"""Whatever bytes come: answers in order, no failure of the server's own, nothing left open, and the next is served.

The folder is a jail whatever the policy is: every path leads to a name in it, for random ones would lead anywhere.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lafscli.server.backend import BAD_MESSAGE
from lafscli.server.session import serve
from lafscli.server.streams import FdStream
from lafscli.server.wire import FSETSTAT, MAX_PACKET, READLINK, REALPATH, STAT, SYMLINK
from lafscli.storage import packets
from lafscli.storage.packets import HEAD, U32, U64, string
from tests.plain_backend import PlainFolder
from tests.raw_sftp import INIT, Attributes, Recorded, packet

EXTENSIONS = ("posix-rename", "statvfs", "fstatvfs", "hardlink", "fsync", "limits")


class Jail(PlainFolder):
    """Every path leads to a short name in the folder, or to the folder."""

    def _path(self, path: bytes) -> bytes:
        name = b"".join(path.split(b"/")).strip(b".")[:3].replace(b"\0", b"_")
        return os.path.join(self._root, name) if name else self._root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def held() -> tuple[set[str], set[threading.Thread]]:
    """Open descriptors, but for that of the look itself, and threads. What others left may go meanwhile."""
    return {name for name in os.listdir("/proc/self/fd") if _open(int(name))}, set(threading.enumerate())


def _open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def played(root: Path, data: bytes, cuts: Sequence[int] = ()) -> Recorded:
    """A conversation with these bytes; nothing of it is left, and nothing went wrong inside of the server."""
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before, threads = held()
    notes: list[str] = []
    backend, stream = Jail(root), Recorded(data, cuts)
    serve(stream, backend, idle=None, note=notes.append)
    assert not [note for note in notes if not note.startswith("gave up")], notes
    assert len(notes) <= 1
    assert (backend.closed, stream.closed) == (1, True)
    leaked = held()
    assert leaked[0] <= before
    assert leaked[1] <= threads
    return stream


def greets_again(root: Path) -> None:
    """A new session works, whatever was in the one before."""
    answers = played(root, INIT + packet(STAT, 9, string(b"."))).answers()
    assert [answer.kind for answer in answers] == [packets.VERSION, packets.ATTRS]


# ---- what comes

names = st.sampled_from([b"a", b"b", b"c", b"d", b".", b"", b"/", b"..", b"a/b", b"/etc/passwd"])
paths = st.one_of(names, st.binary(max_size=20), st.just(b"x" * 5000)).map(string)
handles = st.one_of(
    *[st.integers(1, 4).map(lambda number: number.to_bytes(8, "big"))] * 4, st.binary(max_size=9), st.just(bytes(300))
).map(string)
u32s = st.one_of(st.integers(0, 70), st.sampled_from([2**31, 2**32 - 1, 65536]), st.integers(0, 2**32 - 1))
u64s = st.one_of(st.integers(0, 100), st.sampled_from([2**31, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]))
# no mode that keeps the owner out; sparse files of any size are cheap
attributes = st.builds(
    Attributes,
    st.none() | u64s,
    st.none() | st.just((os.getuid(), os.getgid())),
    st.none() | st.integers(0, 0o177).map(lambda mode: mode | 0o600),
    st.none() | st.tuples(u32s, u32s),
).map(Attributes.serialise)
flags = st.integers(0, 63).map(U32.pack)
data = st.one_of(st.binary(max_size=50), st.integers(0, 260_000).map(bytes)).map(string)


def request(kind: int, *parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[int, bytes]]:
    return st.tuples(st.just(kind), st.tuples(*parts).map(b"".join))


def extended(name: str, *parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[int, bytes]]:
    return request(packets.EXTENDED, st.just(string(f"{name}@openssh.com".encode())), *parts)


requests = st.one_of(
    request(packets.OPEN, paths, flags, attributes),
    request(packets.OPEN, names.map(string), st.just(U32.pack(1 | 2 | 8)), st.just(U32.pack(0))),
    request(packets.CLOSE, handles),
    request(packets.READ, handles, u64s.map(U64.pack), u32s.map(U32.pack)),
    request(packets.WRITE, handles, u64s.map(U64.pack), data),
    request(packets.LSTAT, paths),
    request(STAT, paths),
    request(packets.FSTAT, handles),
    request(packets.SETSTAT, paths, attributes),
    request(FSETSTAT, handles, attributes),
    request(packets.OPENDIR, paths),
    request(packets.READDIR, handles),
    request(packets.REMOVE, paths),
    request(packets.MKDIR, paths, attributes),
    request(packets.RMDIR, paths),
    request(REALPATH, paths),
    request(READLINK, paths),
    request(SYMLINK, paths, paths),
    request(packets.RENAME, paths, paths),
    extended("posix-rename", paths, paths),
    extended("hardlink", paths, paths),
    extended("statvfs", paths),
    extended("fstatvfs", handles),
    extended("fsync", handles),
    extended("limits"),
    request(packets.EXTENDED, st.binary(max_size=30).map(string), st.binary(max_size=30)),
    request(packets.EXTENDED, st.just(string(b"echo@lafs")), st.integers(0, 262_000).map(bytes)),
    st.tuples(st.integers(2, 255), st.binary(max_size=60)),
)
# two files, one folder: handles 1 to 3
OPENED = [
    ((packets.OPEN, string(b"a") + U32.pack(1 | 2 | 8) + U32.pack(0)), 1),
    ((packets.OPEN, string(b"b") + U32.pack(1 | 2 | 8) + U32.pack(0)), 2),
    ((packets.OPENDIR, string(b".")), 3),
]
conversations = st.lists(st.tuples(requests, u32s), max_size=30).map(lambda asked: OPENED + asked)
cuts = st.lists(st.integers(0, 2**20), max_size=5)

fuzzed = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
long = settings(fuzzed, max_examples=2500)


def check_bytes(root: Path, junk: bytes, greeted: bool, cut: list[int]) -> None:
    stream = played(root, (INIT if greeted else b"") + junk, cut)
    assert len(stream.answers()) <= 1 + len(junk) // HEAD.size + 1


def check_requests(root: Path, asked: list[tuple[tuple[int, bytes], int]], cut: list[int]) -> None:
    """Every request has one answer, with its id, in its place."""
    sent = [(kind, body, number) for (kind, body), number in asked if len(body) <= MAX_PACKET - 5]
    stream = played(root, INIT + b"".join(packet(kind, number, body) for kind, body, number in sent), cut)
    answers = stream.answers()
    assert [answer.number for answer in answers] == [3, *(number for _, _, number in sent)]
    assert {answer.kind for answer in answers} <= {*range(101, 106), 201, packets.VERSION}
    for (kind, _, _), answer in zip(sent, answers[1:], strict=True):
        assert answer.kind in {packets.STATUS, *POSSIBLE.get(kind, ())}, f"{answer.kind} to {kind}"
        assert len(answer.body) <= MAX_PACKET


POSSIBLE = {
    packets.OPEN: [packets.HANDLE],
    packets.OPENDIR: [packets.HANDLE],
    packets.READ: [packets.DATA],
    packets.READDIR: [packets.NAME],
    packets.LSTAT: [packets.ATTRS],
    packets.FSTAT: [packets.ATTRS],
    STAT: [packets.ATTRS],
    REALPATH: [packets.NAME],
    packets.EXTENDED: [packets.EXTENDED_REPLY],
}


def check_mutated(root: Path, asked: list[tuple[tuple[int, bytes], int]], seed: int, cut: list[int]) -> None:
    """Good packets with bytes changed, lost, doubled, and lengths that lie."""
    chance = random.Random(seed)
    wire = bytearray(INIT + b"".join(packet(kind, number, body) for (kind, body), number in asked))
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(wire)) if wire else 0
        match chance.randrange(5):
            case 0:
                wire[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del wire[at : at + chance.choice([1, 4, 100])]
            case 2:
                wire[at:at] = chance.randbytes(chance.choice([1, 4, 100]))
            case 3:
                wire[at : at + 4] = struct.pack(">I", chance.choice([0, 1, 5, 2**31, 2**32 - 1, len(wire), 263_168]))
            case _:
                wire[at:at] = wire[: chance.randrange(200)]
    stream = played(root, bytes(wire), cut)
    assert all(answer.kind in {packets.VERSION, *range(101, 106), 201} for answer in stream.answers())


junk = st.one_of(st.binary(max_size=400), st.tuples(u32s.map(U32.pack), st.binary(max_size=100)).map(b"".join))


@fuzzed
@given(junk=junk, greeted=st.booleans(), cut=cuts)
@example(b"\xff" * 9, True, [])
@example(b"", False, [])
@example(b"GET / HTTP/1.1\r\n\r\n", False, [3])
@example(b"SSH-2.0-OpenSSH_9.2\r\n", True, [])
def test_any_bytes(root: Path, junk: bytes, greeted: bool, cut: list[int]) -> None:
    check_bytes(root, junk, greeted, cut)
    greets_again(root)


@fuzzed
@given(asked=conversations, cut=cuts)
def test_any_requests(root: Path, asked: list[tuple[tuple[int, bytes], int]], cut: list[int]) -> None:
    check_requests(root, asked, cut)
    greets_again(root)


@fuzzed
@given(asked=conversations, seed=st.integers(0, 2**32), cut=cuts)
def test_requests_with_damage(
    root: Path, asked: list[tuple[tuple[int, bytes], int]], seed: int, cut: list[int]
) -> None:
    check_mutated(root, asked, seed, cut)
    greets_again(root)


@pytest.mark.slow
@long
@given(junk=junk, greeted=st.booleans(), cut=cuts)
def test_any_bytes_at_length(root: Path, junk: bytes, greeted: bool, cut: list[int]) -> None:
    check_bytes(root, junk, greeted, cut)


@pytest.mark.slow
@long
@given(asked=conversations, cut=cuts)
def test_any_requests_at_length(root: Path, asked: list[tuple[tuple[int, bytes], int]], cut: list[int]) -> None:
    check_requests(root, asked, cut)


@pytest.mark.slow
@long
@given(asked=conversations, seed=st.integers(0, 2**32), cut=cuts)
def test_requests_with_damage_at_length(
    root: Path, asked: list[tuple[tuple[int, bytes], int]], seed: int, cut: list[int]
) -> None:
    check_mutated(root, asked, seed, cut)


def test_junk_over_a_real_stream(root: Path) -> None:
    """A hundred clients that send junk and go: the process has what it had before."""
    before, threads = held()
    for seed in range(100):
        chance = random.Random(seed)
        ours, theirs = socket.socketpair()
        fd = theirs.detach()
        server = threading.Thread(target=serve, args=(FdStream(fd, fd), Jail(root)), kwargs={"idle": 5})
        server.start()
        ours.sendall(chance.choice([b"", INIT]) + chance.randbytes(chance.randrange(3000)))
        if chance.random() < 0.5:
            ours.shutdown(socket.SHUT_WR)
            while ours.recv(100_000):
                pass
        ours.close()
        server.join(20)
        assert not server.is_alive()
    leaked = held()
    assert leaked[0] <= before
    assert leaked[1] <= threads


def test_every_kind_of_length_that_lies(root: Path) -> None:
    """The length in the head is a little off: what is behind it is not taken for what it is not."""
    whole = packet(STAT, 7, string(b"."))
    for off in (-5, -4, -1, 1, 4, 300_000):
        wire = U32.pack(len(whole) - 4 + off) + whole[4:]
        answers = played(root, INIT + wire).answers()[1:]
        assert len(answers) <= 1
        assert all(answer.code == BAD_MESSAGE for answer in answers)
