"""What each request of SFTP version 3 asks of the backend, and the answer to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import PurePath

from lafscli.server import wire
from lafscli.server.backend import (
    APPEND,
    BAD_MESSAGE,
    CREATE,
    EOF,
    EXCLUSIVE,
    FAILURE,
    OP_UNSUPPORTED,
    PERMISSION_DENIED,
    READ,
    TRUNCATE,
    WRITE,
    Attrs,
    Backend,
    OpenFile,
    Refused,
    refusal,
)
from lafscli.server.wire import MAX_DATA, MAX_OFFSET, Answers, Body, Malformed
from lafscli.storage import packets

MAX_HANDLES = 1024
"""Files and folders a connection has open at most."""
OFFERED = (
    (packets.POSIX_RENAME, "1"),
    (packets.STATVFS, "2"),
    (wire.FSTATVFS, "2"),
    (packets.HARDLINK, "1"),
    (packets.FSYNC, "1"),
    (packets.LIMITS, "1"),
)
"""Extensions of OpenSSH, and their versions."""

_CHANGES = APPEND | CREATE | TRUNCATE | EXCLUSIVE
_FLAGS = READ | WRITE | _CHANGES
_NAMES_BYTES = 96 * 1024
"""So much of a folder goes into one answer; an entry has less than 1 KiB."""

Note = Callable[[str], None]


class _File:
    """A file that a client has open, and what for."""

    __slots__ = ("flags", "open", "path")

    def __init__(self, opened: OpenFile, flags: int, path: bytes) -> None:
        self.open = opened
        self.flags = flags
        self.path = path

    def close(self) -> None:
        self.open.close()

    def abandon(self) -> None:
        """The client is gone: what has an `abandon` is not closed, which would finish what the client did not."""
        getattr(self.open, "abandon", self.open.close)()


class _Listing:
    """A folder that a client reads. An error stays: a client that asks on is told of it again."""

    __slots__ = ("_entries", "_error", "path")

    def __init__(self, entries: Iterator[tuple[bytes, Attrs]], path: bytes) -> None:
        self._entries = entries
        self._error: Exception | None = None
        self.path = path

    def more(self) -> list[bytes]:
        """The next entries, as they go into an answer; none at the end."""
        if self._error is not None:
            raise self._error
        now = time.time()
        made: list[bytes] = []
        size = 0
        try:
            while size < _NAMES_BYTES and (entry := next(self._entries, None)) is not None:
                made.append(wire.serialise_entry(*entry, now))
                size += len(made[-1])
        except Exception as error:
            self._error = error
            raise
        return made

    def close(self) -> None:
        close = getattr(self._entries, "close", None)
        if close is not None:
            close()

    def abandon(self) -> None:
        self.close()


class Requests:
    """Answers requests one by one. Whatever goes wrong inside of one is an answer to it, and ends nothing."""

    def __init__(self, backend: Backend, answers: Answers, note: Note) -> None:
        self._backend = backend
        self._answers = answers
        self._note = note
        self._handles: dict[bytes, _File | _Listing] = {}
        self._ids = count(1)
        self._acts: dict[int, Callable[[int, Body], None]] = {
            packets.OPEN: self._open,
            packets.CLOSE: self._close,
            packets.READ: self._read,
            packets.WRITE: self._write,
            packets.LSTAT: self._lstat,
            packets.FSTAT: self._fstat,
            packets.SETSTAT: self._setstat,
            wire.FSETSTAT: self._fsetstat,
            packets.OPENDIR: self._opendir,
            packets.READDIR: self._readdir,
            packets.REMOVE: self._remove,
            packets.MKDIR: self._mkdir,
            packets.RMDIR: self._rmdir,
            wire.REALPATH: self._realpath,
            wire.STAT: self._stat,
            packets.RENAME: self._rename,
            wire.READLINK: self._no_links,
            wire.SYMLINK: self._no_links,
            packets.EXTENDED: self._extended,
        }
        self._extensions: dict[bytes, Callable[[int, Body], None]] = {
            packets.POSIX_RENAME.encode(): self._replace,
            packets.STATVFS.encode(): self._statvfs,
            wire.FSTATVFS.encode(): self._fstatvfs,
            packets.HARDLINK.encode(): self._link,
            packets.FSYNC.encode(): self._fsync,
            packets.LIMITS.encode(): self._limits,
        }

    def answer(self, kind: int, number: int, body: memoryview) -> None:
        """Carry out one request; there is room for its answer."""
        try:
            act = self._acts.get(kind)
            if act is None:
                raise Refused(OP_UNSUPPORTED, "operation unsupported")
            act(number, Body(body))
        except Malformed as error:
            self._answers.status(number, BAD_MESSAGE, str(error))
        except Refused as error:
            self._answers.status(number, error.code, error.message)
        except OSError as error:
            refused = refusal(error)
            self._answers.status(number, refused.code, refused.message)
        except Exception as error:
            self._note(f"failed at a request of type {kind}: {described(error)}")
            self._answers.status(number, FAILURE, "the server failed at this; its log says more")

    def close(self) -> None:
        """Let go of all that is open."""
        with ExitStack() as ending:
            for opened in self._handles.values():
                ending.callback(self._let_go, opened)
            self._handles.clear()

    def _let_go(self, opened: _File | _Listing) -> None:
        try:
            opened.abandon()
        except (Refused, OSError):
            pass  # nobody is there to be told
        except Exception as error:
            self._note(f"failed at letting go of what was open: {described(error)}")

    # ---- handles

    def _new_handle(self, opened: _File | _Listing) -> bytes:
        handle = next(self._ids).to_bytes(8, "big")
        self._handles[handle] = opened
        return handle

    def _room_for_handle(self) -> None:
        if len(self._handles) >= MAX_HANDLES:
            raise Refused(FAILURE, "too many open files")

    def _file(self, body: Body) -> _File:
        found = self._handles.get(bytes(body.string()))
        if not isinstance(found, _File):
            raise Refused(FAILURE, "no such handle of a file")
        return found

    # ---- files

    def _open(self, number: int, body: Body) -> None:
        path, flags, change = body.path(), body.u32(), body.change()
        body.end()
        if flags & ~_FLAGS or not flags & (READ | WRITE):
            raise Refused(OP_UNSUPPORTED, "unknown way to open a file")
        if flags & _CHANGES and not flags & WRITE:
            raise Refused(PERMISSION_DENIED, "only what is opened to be written may be made or changed")
        self._room_for_handle()
        file = _File(self._backend.open(path, flags, change), flags, path)
        self._answers.handle(number, self._new_handle(file))

    def _close(self, number: int, body: Body) -> None:
        handle = bytes(body.string())
        body.end()
        opened = self._handles.pop(handle, None)
        if opened is None:
            raise Refused(FAILURE, "no such handle")
        opened.close()
        self._answers.ok(number)

    def _read(self, number: int, body: Body) -> None:
        file, offset, length = self._file(body), body.u64(), body.u32()
        body.end()
        if not file.flags & READ:
            raise Refused(PERMISSION_DENIED, "not opened to be read")
        room = self._answers.room_for_data(min(length, MAX_DATA, max(MAX_OFFSET - offset, 0)))
        done = 0
        # Clients take less than they asked for as the end of the file.
        while done < len(room) and (came := file.open.read_into(offset + done, room[done:])):
            done += came
        if done:
            self._answers.data(number, done)
        else:
            self._answers.status(number, EOF, "end of file")

    def _write(self, number: int, body: Body) -> None:
        # what lies behind the data is passed over, as by OpenSSH: rclone sends the rest of its buffer along
        file, offset, data = self._file(body), body.u64(), body.string()
        if not file.flags & WRITE:
            raise Refused(PERMISSION_DENIED, "not opened to be written")
        if offset + len(data) > MAX_OFFSET:
            raise Refused(FAILURE, "no file is that long")
        file.open.write(offset, data)
        self._answers.ok(number)

    def _fstat(self, number: int, body: Body) -> None:
        file = self._file(body)
        body.end()
        self._answers.attrs(number, file.open.attrs())

    def _fsetstat(self, number: int, body: Body) -> None:
        file, change = self._file(body), body.change()
        body.end()
        if change.size is not None and not file.flags & WRITE:
            raise Refused(PERMISSION_DENIED, "not opened to be written")
        file.open.change(change)
        self._answers.ok(number)

    def _fsync(self, number: int, body: Body) -> None:
        file = self._file(body)
        body.end()
        file.open.sync()
        self._answers.ok(number)

    # ---- names

    def _lstat(self, number: int, body: Body) -> None:
        self._look(number, body, follow=False)

    def _stat(self, number: int, body: Body) -> None:
        self._look(number, body, follow=True)

    def _look(self, number: int, body: Body, *, follow: bool) -> None:
        path = body.path()
        body.end()
        self._answers.attrs(number, self._backend.stat(path, follow=follow))

    def _setstat(self, number: int, body: Body) -> None:
        path, change = body.path(), body.change()
        body.end()
        self._backend.change(path, change)
        self._answers.ok(number)

    def _remove(self, number: int, body: Body) -> None:
        path = body.path()
        body.end()
        self._backend.remove(path)
        self._answers.ok(number)

    def _rename(self, number: int, body: Body) -> None:
        self._two(number, body, self._backend.rename)

    def _replace(self, number: int, body: Body) -> None:
        self._two(number, body, self._backend.replace)

    def _link(self, number: int, body: Body) -> None:
        self._two(number, body, self._backend.link)

    def _two(self, number: int, body: Body, act: Callable[[bytes, bytes], None]) -> None:
        old, new = body.path(), body.path()
        body.end()
        act(old, new)
        self._answers.ok(number)

    def _realpath(self, number: int, body: Body) -> None:
        path = body.path()
        body.end()
        self._answers.names(number, [wire.serialise_path(self._backend.realpath(path))])

    def _no_links(self, _number: int, _body: Body) -> None:
        raise Refused(OP_UNSUPPORTED, "symbolic links are not served")

    # ---- folders

    def _opendir(self, number: int, body: Body) -> None:
        path = body.path()
        body.end()
        self._room_for_handle()
        listing = _Listing(self._backend.entries(path), path)
        self._answers.handle(number, self._new_handle(listing))

    def _readdir(self, number: int, body: Body) -> None:
        found = self._handles.get(bytes(body.string()))
        body.end()
        if not isinstance(found, _Listing):
            raise Refused(FAILURE, "no such handle of a folder")
        if entries := found.more():
            self._answers.names(number, entries)
        else:
            self._answers.status(number, EOF, "end of folder")

    def _mkdir(self, number: int, body: Body) -> None:
        path, change = body.path(), body.change()
        body.end()
        self._backend.mkdir(path, change)
        self._answers.ok(number)

    def _rmdir(self, number: int, body: Body) -> None:
        path = body.path()
        body.end()
        self._backend.rmdir(path)
        self._answers.ok(number)

    # ---- extensions

    def _extended(self, number: int, body: Body) -> None:
        name = bytes(body.string())
        act = self._extensions.get(name)
        if act is not None:
            act(number, body)
            return
        if not name.isascii():
            raise Refused(OP_UNSUPPORTED, "operation unsupported")
        reply = self._backend.extended(name.decode("ascii"), body.rest())
        if reply is None:
            self._answers.ok(number)
        elif len(reply) > wire.MAX_REPLY:
            raise Refused(FAILURE, "the answer is too long: ask for less at once")
        else:
            self._answers.reply(number, reply)

    def _statvfs(self, number: int, body: Body) -> None:
        path = body.path()
        body.end()
        self._answers.reply(number, wire.serialise_space(self._backend.space(path)))

    def _fstatvfs(self, number: int, body: Body) -> None:
        opened = self._handles.get(bytes(body.string()))
        body.end()
        if opened is None:
            raise Refused(FAILURE, "no such handle")
        self._answers.reply(number, wire.serialise_space(self._backend.space(opened.path)))

    def _limits(self, number: int, body: Body) -> None:
        body.end()
        self._answers.reply(number, wire.serialise_limits(MAX_HANDLES))


def described(error: BaseException) -> str:
    """What failed and where, for a log. Not what it says: that might hold a path or a secret."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{place}"
