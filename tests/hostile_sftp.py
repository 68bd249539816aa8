"""An SFTP server that means no good: OpenSSH's own in a real folder, and one in between that plays a trick.

In a test: `TrickStream(Silent, packets.WRITE)` is a byte stream for `SftpFiles`. As the `ssh-command` of a server:
`make_command(folder)` writes a program; the name in its `trick` file says which of TRICKS its next connection plays.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lafscli.errors import LafsError, ServerUnreachable
from lafscli.storage import packets
from tests.scripted_sftp import attrs, names, packet, status
from tests.sshd import sftp_server

PATHS = {
    *(packets.OPEN, packets.LSTAT, packets.SETSTAT, packets.OPENDIR, packets.REMOVE),
    *(packets.MKDIR, packets.RMDIR, packets.RENAME),
}
"""Requests that begin with a path."""

_OURS = b"our own handle"


class Honest:
    """One connection, played by two threads: requests go on to the real server, its answers go back.

    A trick overrides `request` or `answer`.
    """

    def __init__(self, taken: IO[bytes], given: IO[bytes]) -> None:
        self._taken = taken
        self._given = given
        self._saying = threading.Lock()
        self._asked: dict[int, tuple[int, bytes]] = {}
        self.handles: dict[bytes, bytes] = {}
        """Path of each open file or folder, by handle."""

    def play(self) -> None:
        """Until the client hangs up."""
        with subprocess.Popen([sftp_server()], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as self._real:
            back = threading.Thread(target=self._answers, daemon=True)
            back.start()
            with contextlib.suppress(OSError, ValueError):
                while True:
                    kind, number, body = _take(self._taken)
                    self.request(kind, number, body)
            self._real.kill()
            back.join(5)
        with contextlib.suppress(OSError, ValueError):
            self._given.close()

    def _answers(self) -> None:
        assert self._real.stdout is not None
        with contextlib.suppress(OSError, ValueError):
            while True:
                kind, number, body = _take(self._real.stdout)
                asked, path = self._asked.pop(number, (packets.INIT, b""))
                if kind == packets.HANDLE:
                    self.handles[_string(body)] = path
                self.answer(asked, path, kind, number, body)

    def forward(self, kind: int, number: int, body: bytes) -> None:
        """To the real server."""
        path = _string(body) if kind in PATHS else self.handles.get(_string(body), b"") if len(body) > 4 else b""
        self._asked[number] = kind, path
        assert self._real.stdin is not None
        self._real.stdin.write(packet(kind, number, body))
        self._real.stdin.flush()

    def say(self, data: bytes) -> None:
        """To the client."""
        with self._saying:
            self._given.write(data)
            self._given.flush()

    def flood(self, data: bytes) -> None:
        """To the client, for as long as it listens."""
        while True:
            self.say(data)

    def request(self, kind: int, number: int, body: bytes) -> None:
        self.forward(kind, number, body)

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        self.say(packet(kind, number, body))


def _take(stream: IO[bytes]) -> tuple[int, int, bytes]:
    head = stream.read(9)
    if len(head) < 9:
        raise OSError("ended")
    length, kind, number = packets.HEAD.unpack(head)
    return kind, number, stream.read(length - 5)


def _string(body: bytes) -> bytes:
    return packets.take_string(memoryview(body), 0)[0]


# ---- silence, and little at a time


class Silent(Honest):
    """Never answers one type of request."""

    kind = packets.INIT

    def request(self, kind: int, number: int, body: bytes) -> None:
        if kind != self.kind:
            self.forward(kind, number, body)


class Mute(Honest):
    """Answers nothing after the first request of one type."""

    kind = packets.INIT
    quiet = False

    def request(self, kind: int, number: int, body: bytes) -> None:
        self.quiet = self.quiet or kind == self.kind
        if not self.quiet:
            self.forward(kind, number, body)


class Drip(Honest):
    """One byte at a time, once it has said hello."""

    pause = 0.02

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        data = packet(kind, number, body)
        if kind == packets.VERSION:
            self.say(data)
            return
        for byte in data:
            self.say(bytes([byte]))
            time.sleep(self.pause)


class SlowDrip(Drip):
    pause = 0.1


class DripReads(Drip):
    """Lists and takes as any other; what is read of shares comes one byte at a time."""

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        if asked == packets.READ and b"/shares/" in path:
            super().answer(asked, path, kind, number, body)
        else:
            self.say(packet(kind, number, body))


# ---- answers that break the protocol


class Broken(Honest):
    """Answers requests of one type with what `broken` says."""

    kind = packets.LSTAT

    def broken(self, number: int, body: bytes) -> bytes:
        return b""

    def request(self, kind: int, number: int, body: bytes) -> None:
        if kind == self.kind:
            self.say(self.broken(number, body))
        else:
            self.forward(kind, number, body)


class LongPacket(Broken):
    """A packet of more than 1 MiB, and then its bytes without end."""

    length = (1 << 20) + 1
    of = packets.NAME

    def broken(self, number: int, body: bytes) -> bytes:
        self.say(struct.pack(">IBI", self.length, self.of, number))
        self.flood(bytes(65536))
        return b""


class LongestPacket(LongPacket):
    length = 0xFFFFFFFF
    kind = packets.READ
    of = packets.DATA


class WrongIds(Honest):
    """Every answer is for another request."""

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        self.say(packet(kind, number if kind == packets.VERSION else number + 77_777, body))


class Swapped(Honest):
    """Answers to reads come for each other."""

    kept: list[tuple[int, bytes]]

    def request(self, kind: int, number: int, body: bytes) -> None:
        self.kept = getattr(self, "kept", [])
        if kind != packets.READ:
            self.forward(kind, number, body)
            return
        self.kept.append((number, body))
        if len(self.kept) == 2:
            (one, first), (two, second) = self.kept
            self.kept.clear()
            self.forward(kind, one, second)
            self.forward(kind, two, first)


class Twice(Honest):
    """Every answer comes twice."""

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        self.say(packet(kind, number, body))
        if kind != packets.VERSION:
            self.say(packet(kind, number, body))


class MoreData(Honest):
    """DATA longer than was asked for."""

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        if kind == packets.DATA:
            body = packets.string(bytes(300 * 1024))
        self.say(packet(kind, number, body))


class Junk(Honest):
    """Bytes that are no packets, once it has said hello."""

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        if kind == packets.VERSION:
            self.say(packet(kind, number, body))
        else:
            self.flood(b"\x00\x00\x00\x20\x65junk" * 1000)


class HangUp(Honest):
    """Ends every connection at the first request after the hello."""

    def request(self, kind: int, number: int, body: bytes) -> None:
        if kind != packets.INIT:
            raise OSError("enough")
        self.forward(kind, number, body)


class Refuse(Honest):
    """Refuses everything, in a language of control characters."""

    def request(self, kind: int, number: int, body: bytes) -> None:
        if kind == packets.INIT:
            self.forward(kind, number, body)
        else:
            self.say(status(number, 4, "evil\x1b[2J\r\n\u202ename [bold red]" + "x" * 3000))


# ---- listings and files without end


class EndlessNames(Broken):
    """A folder that goes on and on."""

    kind = packets.READDIR
    length = 20

    def broken(self, number: int, body: bytes) -> bytes:
        return names(number, *(b"%0*d" % (self.length, n) for n in range(1000)))


class LongNames(Broken):
    """A folder of names of a megabyte each."""

    kind = packets.READDIR

    def broken(self, number: int, body: bytes) -> bytes:
        text = b"n" * 1_000_000
        return packet(packets.NAME, number, packets.U32.pack(1) + packets.string(text) + packets.string(b"") + attrs())


class LongishNames(EndlessNames):
    """A folder that goes on and on, with names of 255 bytes each."""

    length = 255


class BadName(Broken):
    """A name that leads elsewhere."""

    kind = packets.READDIR
    name = b"../../x"

    def broken(self, number: int, body: bytes) -> bytes:
        return names(number, self.name)


class NestedName(BadName):
    name = b"0/1"


class UpName(Honest):
    """Lists `..`, `.` and names of other alphabets beside what is there."""

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        if kind == packets.NAME:
            more = (b"..", b".", b"\xff\xfe", "٣".encode(), b"00", b"-1", b"0\n", b"1e1", b"999999999999999999999")
            self.say(names(number, *more))
        else:
            self.say(packet(kind, number, body))


class EndlessToml(Honest):
    """A server.toml without end."""

    text = b"# \n"

    def request(self, kind: int, number: int, body: bytes) -> None:
        if kind == packets.OPEN and _string(body).endswith(b"server.toml"):
            self.say(packet(packets.HANDLE, number, packets.string(_OURS)))
        elif kind == packets.READ and _string(body) == _OURS:
            offset, length = packets.OFFSET_LENGTH.unpack(body[-12:])
            data = self.data(offset, length)
            self.say(packet(packets.DATA, number, packets.string(data)) if data else status(number, packets.EOF))
        elif kind == packets.CLOSE and _string(body) == _OURS:
            self.say(status(number, packets.OK))
        else:
            self.forward(kind, number, body)

    def data(self, offset: int, length: int) -> bytes:
        return (self.text * (length // len(self.text) + 2))[offset % len(self.text) :][:length]


class NestedToml(EndlessToml):
    """A server.toml whose brackets never close, of the longest size that is read."""

    front = b"a = "
    text = b"["

    def data(self, offset: int, length: int) -> bytes:
        return (self.front + self.text * 65536)[:65536][offset : offset + length]


class DottedToml(NestedToml):
    front = b"a"
    text = b".a"


# ---- lies


class LyingListing(Broken):
    """Every folder of a storage index has all shares, it says, and it knows their sizes too."""

    kind = packets.READDIR
    told: set[bytes]

    def request(self, kind: int, number: int, body: bytes) -> None:
        self.told = getattr(self, "told", set())
        path = self.handles.get(_string(body), b"") if kind == self.kind else b""
        if kind == packets.OPENDIR and re.search(rb"/shares/../.{26}$", _string(body)):
            self.handles[_string(body)[-26:]] = _string(body)
            self.say(packet(packets.HANDLE, number, packets.string(_string(body)[-26:])))
        elif kind == packets.CLOSE and len(_string(body)) == 26:
            self.say(status(number, packets.OK))
        elif kind == self.kind and re.search(rb"/shares/../.{26}$", path):
            first = path not in self.told
            self.told.add(path)
            self.say(names(number, *(b"%d" % n for n in range(10))) if first else status(number, packets.EOF))
        else:
            self.forward(kind, number, body)


class DroppedWrites(Honest):
    """Acknowledges what is written, and keeps none of it."""

    def request(self, kind: int, number: int, body: bytes) -> None:
        if kind == packets.WRITE:
            self.say(status(number, packets.OK))
        else:
            self.forward(kind, number, body)


class ZeroedWrites(Honest):
    """Keeps the length of what is written, and nothing else."""

    def request(self, kind: int, number: int, body: bytes) -> None:
        if kind == packets.WRITE:
            handle = packets.string(_string(body))
            length = len(body) - len(handle) - 12
            body = body[: len(handle) + 12] + bytes(length)
        self.forward(kind, number, body)


class NoRename(Honest):
    """Acknowledges renames and does none."""

    def request(self, kind: int, number: int, body: bytes) -> None:
        if kind == packets.RENAME:
            self.say(status(number, packets.OK))
        else:
            self.forward(kind, number, body)


class Immense(Honest):
    """Every file has the greatest size there is."""

    size = (1 << 64) - 1

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        if kind == packets.ATTRS and re.search(rb"/(shares|staging)/.*[0-9]", path):
            body = attrs(self.size)
        self.say(packet(kind, number, body))


class LeaseBomb(Honest):
    """Every share has four billion leases, it says: the size of the file and the count in its header agree."""

    leases = 0xFFFFFFFF

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        if b"/shares/" in path and re.search(rb"/[0-9]+$", path):
            if kind == packets.ATTRS:
                size = packets.U64.unpack_from(body, 4)[0]
                body = attrs(size + 72 * (self.leases - 1))
            elif kind == packets.DATA and body[4:8] == b"\0\0\0\2":
                body = body[:12] + packets.U32.pack(self.leases) + body[16:]
            elif asked == packets.READ and kind == packets.STATUS:
                kind, body = packets.DATA, packets.string(bytes(1024))
        self.say(packet(kind, number, body))


class SilentShares(Honest):
    """Lists its shares, and never answers who reads them."""

    def request(self, kind: int, number: int, body: bytes) -> None:
        if not (kind == packets.READ and b"/shares/" in self.handles.get(_string(body), b"")):
            self.forward(kind, number, body)


class RottenShares(Honest):
    """What is read of shares has a bit flipped somewhere."""

    def answer(self, asked: int, path: bytes, kind: int, number: int, body: bytes) -> None:
        if kind == packets.DATA and b"/shares/" in path:
            spoilt = bytearray(body)
            spoilt[4 + (len(body) - 4) // 2] ^= 4
            body = bytes(spoilt)
        self.say(packet(kind, number, body))


TRICKS: dict[str, type[Honest]] = {
    kind.__name__: kind
    for kind in (
        *(
            Honest,
            Silent,
            Mute,
            Drip,
            SlowDrip,
            DripReads,
            LongPacket,
            LongestPacket,
            WrongIds,
            Swapped,
            Twice,
            MoreData,
            Junk,
        ),
        *(HangUp, Refuse, EndlessNames, LongNames, LongishNames, BadName, NestedName, UpName, EndlessToml, NestedToml),
        *(DottedToml, LyingListing, DroppedWrites, ZeroedWrites, NoRename, Immense, LeaseBomb, SilentShares),
        RottenShares,
    )
}


# ---- ways to meet it


def after(trick: type[Honest], kind: int) -> type[Honest]:
    """The trick, for one type of request."""
    return type(f"{trick.__name__}{kind}", (trick,), {"kind": kind})


class TrickStream:
    """A byte stream to such a server, for `SftpFiles`; threads of this process play it."""

    def __init__(self, trick: type[Honest]) -> None:
        ours, self._theirs = socket.socketpair()
        ours.setblocking(False)
        self.read_fd = self.write_fd = ours.detach()
        self._closed = False
        self._thread = threading.Thread(target=self._play, args=(trick,), daemon=True)
        self._thread.start()

    def _play(self, trick: type[Honest]) -> None:
        with self._theirs, self._theirs.makefile("rb") as taken, self._theirs.makefile("wb") as given:
            trick(taken, given).play()
            with contextlib.suppress(OSError):
                self._theirs.shutdown(socket.SHUT_RDWR)

    def explain(self) -> LafsError:
        return ServerUnreachable("the server ended")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):
                self._theirs.shutdown(socket.SHUT_RDWR)
            os.close(self.read_fd)
            self._thread.join(5)


def make_command(folder: Path) -> tuple[Path, Callable[[str], None]]:
    """A program to be given as `ssh-command`, and what sets the trick of its next connections."""
    folder.mkdir(parents=True, exist_ok=True)
    program, trick = folder / "ssh", folder / "trick"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.hostile_sftp "{trick}" "$@"\n')
    program.chmod(0o755)
    trick.write_text("Honest")

    def choose(name: str) -> None:
        trick.write_text(name)

    return program, choose


def honest_command(folder: Path, counts: Path | None = None) -> Path:
    """A program to be given as `ssh-command` that has no ssh in it: the real SFTP server, at once.

    With `counts` each connection leaves a file there, of all the bytes that came over it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "honest"
    serve = f'exec "{sftp_server()}"'
    if counts is not None:
        counts.mkdir(exist_ok=True)
        serve = f'tee "{counts}/$$" | "{sftp_server()}"'
    program.write_text(f'#!/bin/sh\ncase " $* " in *" -G "*) exit 1;; esac\n{serve}\n')
    program.chmod(0o755)
    return program


def main() -> None:
    """Play the trick that the file names, on stdin and stdout."""
    if "-G" in sys.argv:  # what does your configuration say? Nothing.
        sys.exit(1)
    name, _, kind = Path(sys.argv[1]).read_text().partition(" ")
    trick = after(TRICKS[name], int(kind)) if kind else TRICKS[name]
    trick(sys.stdin.buffer, sys.stdout.buffer).play()
    os._exit(0)


if __name__ == "__main__":
    main()
