"""SFTP servers for tests: the real one without ssh around it, and one that answers whatever a test says."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from lafscli.errors import LafsError, ServerUnreachable
from lafscli.storage import packets
from tests.sshd import sftp_server

Answer = bytes | None
Rule = Callable[[int, bytes], Answer]
"""Takes the id and the body of a request; answers the bytes to send, or None for silence."""


class PipeStream:
    """`sftp-server` on two pipes, or on both ends of one socket."""

    def __init__(self, arguments: Sequence[str] = (), *, folder: Path | None = None, one_socket: bool = False) -> None:
        self.closed = False
        command = [sftp_server(), *arguments]
        if one_socket:
            ours, theirs = socket.socketpair()
            with theirs:
                self.process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno(), cwd=folder)
            self.read_fd = self.write_fd = ours.detach()
        else:
            their_in, self.write_fd = os.pipe()
            self.read_fd, their_out = os.pipe()
            self.process = subprocess.Popen(command, stdin=their_in, stdout=their_out, cwd=folder)
            os.close(their_in)
            os.close(their_out)
        for descriptor in (self.read_fd, self.write_fd):
            os.set_blocking(descriptor, False)

    def explain(self) -> LafsError:
        return ServerUnreachable("the server ended")

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.process.kill()
            self.process.wait()
            for descriptor in {self.read_fd, self.write_fd}:
                os.close(descriptor)


def packet(kind: int, number: int, body: bytes) -> bytes:
    return packets.HEAD.pack(len(body) + 5, kind, number) + body


def status(number: int, code: int, message: str | None = "") -> bytes:
    text = b"" if message is None else packets.string(message.encode()) + packets.string(b"")
    return packet(packets.STATUS, number, packets.U32.pack(code) + text)


def attrs(size: int = 0, mode: int = 0o100600, mtime: int = 0) -> bytes:
    return struct.pack(">IQIIIII", 15, size, 0, 0, mode, mtime, mtime)


def names(number: int, *entries: bytes) -> bytes:
    body = b"".join(packets.string(entry) + packets.string(b"long " + entry) + attrs() for entry in entries)
    return packet(packets.NAME, number, packets.U32.pack(len(entries)) + body)


def version(**extensions: bytes) -> bytes:
    """A VERSION; keywords are extensions of openssh.com, `_` for `-`."""
    pairs = b"".join(
        packets.string(f"{name.replace('_', '-')}@openssh.com".encode()) + packets.string(data)
        for name, data in extensions.items()
    )
    return packet(packets.VERSION, 3, pairs)


class ScriptedServer:
    """A server of which each answer can be dictated: `rules` by request type, else one file full of zeros that has
    every name, in folders that hold nothing. A thread plays it; `requests` are the types that came, in order."""

    def __init__(self, rules: dict[int, Rule] | None = None, *, hello: Answer = None, silent: bool = False) -> None:
        self._rules = rules or {}
        self._hello = hello if hello is not None or silent else version()
        ours, self._socket = socket.socketpair()
        ours.setblocking(False)
        self.read_fd = self.write_fd = ours.detach()
        self.requests: list[int] = []
        self.bodies: list[bytes] = []
        self.came = threading.Event()
        self.reason: LafsError = ServerUnreachable("the server ended")
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()
        self.closed = False

    def explain(self) -> LafsError:
        return self.reason

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self.read_fd)
            self._thread.join()

    def hang_up(self) -> None:
        """End the connection from the server's side."""
        self._socket.shutdown(socket.SHUT_RDWR)

    def _play(self) -> None:
        with self._socket, self._socket.makefile("rb") as stream:
            try:
                while head := stream.read(9):
                    length, kind, number = packets.HEAD.unpack(head)
                    body = stream.read(length - 5)
                    self.requests.append(kind)
                    self.bodies.append(body)
                    answer = self._answer(kind, number, body)
                    if answer is not None:
                        self._socket.sendall(answer)
                    self.came.set()
            except (OSError, struct.error):
                pass

    def _answer(self, kind: int, number: int, body: bytes) -> Answer:
        if kind in self._rules:
            return self._rules[kind](number, body)
        if kind == packets.INIT:
            return self._hello
        if kind in (packets.OPEN, packets.OPENDIR):
            return packet(packets.HANDLE, number, packets.string(b"handle"))
        if kind in (packets.LSTAT, packets.FSTAT):
            return packet(packets.ATTRS, number, attrs())
        if kind == packets.READDIR:
            return status(number, packets.EOF)
        if kind == packets.READ:
            (length,) = packets.U32.unpack(body[-4:])
            return packet(packets.DATA, number, packets.string(bytes(length)))
        return status(number, packets.OK)
