"""A batch of operations over one SFTP conversation: all requests go out in order, answers are put in their places.

What needs a handle (List, NewFile, Patch) opens it at its place in the order; its second request goes out when the
handle has come. So a whole batch takes two round trips, and none of its ops waits for the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lafscli.errors import FileError, NotSupported
from lafscli.storage import packets
from lafscli.storage.channel import Channel
from lafscli.storage.listings import Folder, Lister
from lafscli.storage.packets import refusal, string
from lafscli.storage.rate import RateLimit
from lafscli.storage.store import (
    Answer,
    Ask,
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
    Stat,
    Touch,
    Truncate,
)
from lafscli.storage.writes import SmallFile, SmallFiles

OPEN_EXISTING = packets.U32.pack(packets.OPEN_WRITE) + packets.U32.pack(0)
_POSIX_RENAME = string(packets.POSIX_RENAME.encode())
_HARDLINK = string(packets.HARDLINK.encode())


class Operations:
    """A batch under way. `path` makes of a name of ours what the server calls it."""

    def __init__(
        self, channel: Channel, path: Callable[[str], bytes], rate: RateLimit | None, ops: Sequence[Op]
    ) -> None:
        self._channel = channel
        self._path = path
        self._ops = ops
        self._values: list[Answer] = [None] * len(ops)
        self._left = 0
        self._lister = Lister(channel)
        self._folders: list[tuple[int, Folder]] = []
        self._small = SmallFiles(channel, path, rate, sync=False)
        self._files: list[tuple[int, SmallFile]] = []

    def send(self) -> None:
        """Put all requests on their way; waits only where too many are under way."""
        for index, op in enumerate(self._ops):
            while self._channel.crowded or self._handles >= self._channel.max_handles // 2:
                self._channel.step()
            self._send(index, op)

    def answers(self) -> list[Answer]:
        """Wait for all answers."""
        while self._left or self._lister.open or self._small.busy:
            self._channel.step()
        for index, folder in self._folders:
            self._values[index] = folder.answer()
        for index, file in self._files:
            self._values[index] = file.error or file.stat
        return self._values

    @property
    def _handles(self) -> int:
        return self._lister.open + self._small.open

    def _send(self, index: int, op: Op) -> None:
        match op:
            case Stat(path):
                self._request(packets.LSTAT, string(self._path(path)), self._attrs, index)
            case List(path, most):
                self._folders.append((index, self._lister.ask(path, self._path(path), most)))
            case NewFile():
                self._files.append((index, self._small.begin(op)))
            case Patch(path):
                self._request(packets.OPEN, string(self._path(path)) + OPEN_EXISTING, self._opened, index)
            case Ask(extension, body) if extension in self._channel.extensions:
                self._request(packets.EXTENDED, string(extension.encode()) + body, self._replied, index)
            case _:
                request = self._plain(op)
                if isinstance(request, FileError):
                    self._values[index] = request
                else:
                    self._request(*request, self._status, index)

    def _request(self, kind: int, body: bytes, handler: Callable[[int, int, memoryview], None], index: int) -> None:
        self._left += 1
        self._channel.request(kind, body, handler, index)

    def _plain(self, op: Op) -> tuple[int, bytes] | FileError:
        """The request for an op that is answered by a STATUS."""
        match op:
            case Mkdir(path):
                return packets.MKDIR, string(self._path(path)) + packets.FOLDER_MODE
            case Rename(old, new):
                return packets.RENAME, string(self._path(old)) + string(self._path(new))
            case Replace(old, new):
                return self._extended(packets.POSIX_RENAME, _POSIX_RENAME, old, new)
            case Link(old, new):
                return self._extended(packets.HARDLINK, _HARDLINK, old, new)
            case Remove(path):
                return packets.REMOVE, string(self._path(path))
            case Rmdir(path):
                return packets.RMDIR, string(self._path(path))
            case Touch(path, mtime):
                return packets.SETSTAT, string(self._path(path)) + packets.ATTRS_TIMES.pack(8, mtime, mtime)
            case Truncate(path, size):
                return packets.SETSTAT, string(self._path(path)) + packets.ATTRS_SIZE.pack(1, size)
            case Ask(extension):
                return NotSupported(f"the server does not offer {extension}", server=self._channel.name)
            case _:
                raise TypeError(f"not an operation: {op!r}")

    def _extended(self, extension: str, head: bytes, old: str, new: str) -> tuple[int, bytes] | FileError:
        if extension not in self._channel.extensions:
            return NotSupported(f"{old}: the server does not offer {extension}", server=self._channel.name)
        return packets.EXTENDED, head + string(self._path(old)) + string(self._path(new))

    # ---- answers

    def _attrs(self, index: int, kind: int, body: memoryview) -> None:
        self._left -= 1
        if kind == packets.ATTRS:
            self._values[index] = packets.parse_attrs(body)
        else:
            self._refused(index, kind, body)

    def _status(self, index: int, kind: int, body: memoryview) -> None:
        self._left -= 1
        if kind != packets.STATUS or packets.status_code(body) != packets.OK:
            self._refused(index, kind, body)

    def _replied(self, index: int, kind: int, body: memoryview) -> None:
        self._values[index] = b""
        if kind == packets.EXTENDED_REPLY:
            self._left -= 1
            self._values[index] = bytes(body)
        else:
            self._status(index, kind, body)

    def _opened(self, index: int, kind: int, body: memoryview) -> None:
        """Of a Patch: write and close at once; the answer to the second ends it."""
        op = self._ops[index]
        assert isinstance(op, Patch)
        if kind == packets.STATUS:
            self._status(index, kind, body)
            return
        handle = packets.parse_handle(self._channel.expect(packets.HANDLE, kind, body))
        self._left += 1
        self._channel.request_write(handle, op.offset, [op.data], len(op.data), self._status, index)
        self._channel.request(packets.CLOSE, handle, self._status, index)

    def _refused(self, index: int, kind: int, body: memoryview) -> None:
        op = self._ops[index]
        status = self._channel.expect(packets.STATUS, kind, body)
        path = op.old if isinstance(op, Rename | Replace | Link) else None if isinstance(op, Ask) else op.path
        self._values[index] = refusal(status, path, self._channel.name)
