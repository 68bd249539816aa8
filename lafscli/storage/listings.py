"""Listing folders over one SFTP conversation: several folders, and several READDIRs of each, under way."""

from __future__ import annotations

from collections.abc import Sequence

from lafscli.errors import FileError
from lafscli.storage import packets
from lafscli.storage.channel import Channel
from lafscli.storage.packets import ProtocolViolation, refusal, string
from lafscli.storage.store import MANY_NAMES, DirEntry

AHEAD = 8
"""READDIRs of a large folder under way."""
FULL = 32
"""A NAME with so many names is one of many: the folder is worth more READDIRs ahead."""
MAX_NAMES = MANY_NAMES


class Folder:
    """A folder that is being listed."""

    __slots__ = ("ended", "entries", "error", "handle", "most", "names", "path", "underway")

    def __init__(self, path: str, most: int) -> None:
        self.path = path
        self.most = most
        self.handle = b""
        self.entries: list[DirEntry] = []
        self.error: FileError | None = None
        self.names = 0
        self.underway = 0
        self.ended = False

    def answer(self) -> list[DirEntry] | FileError:
        """What came of it."""
        return self.entries if self.error is None else self.error


class Lister:
    """Folders being listed; `open` of them still are."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.open = 0
        self.names = 0

    def ask(self, path: str, name: bytes, most: int) -> Folder:
        """Begin to list a folder, given as we call it and as the server does."""
        folder = Folder(path, most)
        self.open += 1
        self.channel.request(packets.OPENDIR, string(name), self._opened, folder)
        return folder

    def _opened(self, folder: Folder, kind: int, body: memoryview) -> None:
        if kind == packets.STATUS:
            folder.error = refusal(body, folder.path, self.channel.name)
            self.open -= 1
            return
        folder.handle = packets.parse_handle(self.channel.expect(packets.HANDLE, kind, body))
        # The second finds the end of a small folder.
        self._read(folder, 2)

    def _read(self, folder: Folder, count: int) -> None:
        for _ in range(count):
            folder.underway += 1
            self.channel.request(packets.READDIR, folder.handle, self._answered, folder)

    def _answered(self, folder: Folder, kind: int, body: memoryview) -> None:
        folder.underway -= 1
        self.channel.unawaited -= folder.ended
        if kind == packets.NAME:
            count, entries = packets.parse_names(body)
            # An empty answer that is not the end may not go on for ever either.
            folder.names += count or FULL
            self.names += len(entries)
            if folder.names > MAX_NAMES or self.names > 2 * MAX_NAMES:
                raise ProtocolViolation(f"more than {MAX_NAMES} names in a folder")
            folder.entries += entries
            if folder.ended:
                return
            if folder.names > folder.most:
                folder.error = FileError(f"{folder.path}: more than {folder.most} names", server=self.channel.name)
                self._close(folder)
            else:
                ahead = min(AHEAD, folder.underway + 2) if count >= FULL else 1
                self._read(folder, ahead - folder.underway)
        elif not folder.ended:
            if packets.status_code(self.channel.expect(packets.STATUS, kind, body)) != packets.EOF:
                folder.error = refusal(body, folder.path, self.channel.name)
            self._close(folder)

    def _close(self, folder: Folder) -> None:
        folder.ended = True
        self.open -= 1
        # Nobody waits for what is still to be answered.
        self.channel.unawaited += folder.underway + 1
        self.channel.request(packets.CLOSE, folder.handle, self._closed, folder)

    def _closed(self, _: Folder, kind: int, body: memoryview) -> None:
        self.channel.unawaited -= 1
        self.channel.expect(packets.STATUS, kind, body)


def list_folders(
    channel: Channel, folders: Sequence[tuple[str, bytes]], most: int = MAX_NAMES
) -> list[list[DirEntry] | FileError]:
    """All names of each folder, given as we call it and as the server does; FileError for more than `most` of them."""
    lister = Lister(channel)
    asked = []
    for path, name in folders:
        while channel.crowded or lister.open >= channel.max_handles // 2:
            channel.step()
        asked.append(lister.ask(path, name, most))
    while lister.open:
        channel.step()
    return [folder.answer() for folder in asked]
