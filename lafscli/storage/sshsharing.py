"""Open a session on a connection that an earlier ssh left open (ControlPersist), in a few milliseconds.

This speaks OpenSSH's multiplexing protocol (PROTOCOL.mux in its sources) instead of running ssh, for two reasons: it
costs no process, and ssh waits for ever on a master that hangs. Packets are a u32 length and u32 and string fields:

    both ways  0x00000001  hello: u32 version = 4
    ask        0x10000002  new session: u32 id, string "", u32 tty, x11, agent, subsystem, escape, string term, command
                           then three descriptors, a byte each: stdin, stdout, stderr
    answer     0x80000006  session opened: u32 id, u32 session
    answer     0x80000004  session ended: u32 session, u32 exit code

Anything else means: not shared, run ssh. The session ends when the control socket is closed.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

_HELLO = 0x00000001
_NEW_SESSION = 0x10000002
_SESSION_OPENED = 0x80000006
_EXIT_MESSAGE = 0x80000004
_VERSION = 4
_NO_ESCAPE = 0xFFFFFFFF
_LONGEST = 64 * 1024


class _NotShared(Exception):
    """The master answers something else than a session."""


def join(path: Path, descriptors: tuple[int, int, int], timeout: float) -> socket.socket | None:
    """Have the master at `path` start the server's sftp on (stdin, stdout, stderr).

    The control socket of the session, or None where that does not work: the caller runs ssh then. The socket of a
    master that is dead, or does not answer within `timeout` seconds, is removed, so that a new master takes its place.
    Sessions that others have on it go on.
    """
    if not path.exists():
        return None
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        control.settimeout(timeout)
        control.connect(os.fspath(path))
        _send(control, struct.pack(">II", _HELLO, _VERSION))
        kind, body = _receive(control)
        if kind != _HELLO or body[:4] != struct.pack(">I", _VERSION):
            raise _NotShared
        _send(control, struct.pack(">IIIIIII", _NEW_SESSION, 0, 0, 0, 0, 0, 1) + _session_rest())
        for descriptor in descriptors:
            rights = array.array("i", [descriptor])
            control.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        kind, _ = _receive(control)
        if kind != _SESSION_OPENED:
            raise _NotShared
    except _NotShared:
        control.close()
        return None
    except (OSError, EOFError):
        control.close()
        with suppress(OSError):
            path.unlink()
        return None
    control.setblocking(False)
    return control


def exit_code(control: socket.socket) -> int | None:
    """With what the session of `control` ended on the server; None if it still runs or the connection was lost."""
    with suppress(OSError, EOFError, _NotShared):
        while True:
            kind, body = _receive(control)
            if kind == _EXIT_MESSAGE and len(body) >= 8:
                return int.from_bytes(body[4:8], "big")
    return None


def _session_rest() -> bytes:
    return struct.pack(">I", _NO_ESCAPE) + _string(b"") + _string(b"sftp")


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _send(control: socket.socket, packet: bytes) -> None:
    control.sendall(_string(packet))


def _receive(control: socket.socket) -> tuple[int, bytes]:
    (length,) = struct.unpack(">I", _exactly(control, 4))
    if not 4 <= length <= _LONGEST:
        raise _NotShared
    packet = _exactly(control, length)
    return int.from_bytes(packet[:4], "big"), packet[4:]


def _exactly(control: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = control.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
