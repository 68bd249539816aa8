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


class _Folder:
    __slots__ = ("ended", "entries", "error", "handle", "names", "path", "underway")

    def __init__(self, path: str) -> None:
        self.path = path
        self.handle = b""
        self.entries: list[DirEntry] = []
        self.error: FileError | None = None
        self.names = 0
        self.underway = 0
        self.ended = False


class _Lister:
    def __init__(self, channel: Channel, most: int) -> None:
        self.channel = channel
        self.most = most
        self.open = 0
        self.names = 0

    def opened(self, folder: _Folder, kind: int, body: memoryview) -> None:
        if kind == packets.STATUS:
            folder.error = refusal(body, folder.path, self.channel.name)
            self.open -= 1
            return
        folder.handle = packets.parse_handle(self.channel.expect(packets.HANDLE, kind, body))
        # The second finds the end of a small folder.
        self.ask(folder, 2)

    def ask(self, folder: _Folder, count: int) -> None:
        for _ in range(count):
            folder.underway += 1
            self.channel.request(packets.READDIR, folder.handle, self.answered, folder)

    def answered(self, folder: _Folder, kind: int, body: memoryview) -> None:
        folder.underway -= 1
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
            if folder.names > self.most:
                folder.error = FileError(f"{folder.path}: more than {self.most} names", server=self.channel.name)
                self.close(folder)
            else:
                ahead = min(AHEAD, folder.underway + 2) if count >= FULL else 1
                self.ask(folder, ahead - folder.underway)
        elif not folder.ended:
            if packets.status_code(self.channel.expect(packets.STATUS, kind, body)) != packets.EOF:
                folder.error = refusal(body, folder.path, self.channel.name)
            self.close(folder)

    def close(self, folder: _Folder) -> None:
        folder.ended = True
        self.channel.request(packets.CLOSE, folder.handle, self.closed, folder)

    def closed(self, _: _Folder, kind: int, body: memoryview) -> None:
        self.channel.expect(packets.STATUS, kind, body)
        self.open -= 1


def list_folders(
    channel: Channel, folders: Sequence[tuple[str, bytes]], most: int = MAX_NAMES
) -> list[list[DirEntry] | FileError]:
    """All names of each folder, given as we call it and as the server does; FileError for more than `most` of them."""
    lister = _Lister(channel, most)
    asked = []
    for path, name in folders:
        while channel.crowded or lister.open >= channel.max_handles // 2:
            channel.step()
        folder = _Folder(path)
        asked.append(folder)
        lister.open += 1
        channel.request(packets.OPENDIR, string(name), lister.opened, folder)
    while lister.open:
        channel.step()
    return [folder.entries if folder.error is None else folder.error for folder in asked]
