"""Every share of a folder tree, by listing its folders: 4 requests an object over SFTP (DESIGN §1.12)."""

from __future__ import annotations

from collections.abc import Iterator

from lafscli.errors import FileError, FileMissing
from lafscli.primitives.encoding import b32decode
from lafscli.storage.slots import is_share
from lafscli.storage.store import Files, StorageIndex

_TOGETHER = 1000
"""Folders that are listed at once."""


def list_everything(files: Files) -> Iterator[tuple[StorageIndex, int, int]]:
    """SI, number, size of each container, in the order of the texts of the SIs. A folder that can't be listed is
    raised, after the rest."""
    [prefixes] = files.listing(["shares"])
    if isinstance(prefixes, FileError):
        raise prefixes
    unread: FileError | None = None
    for prefix in sorted(entry.name for entry in prefixes if len(entry.name) == 2):
        [folders] = files.listing([f"shares/{prefix}"])
        if isinstance(folders, FileError):
            unread = unread or _unread(folders)
            continue
        names = sorted(entry.name for entry in folders if _storage_index(entry.name, prefix) is not None)
        for start in range(0, len(names), _TOGETHER):
            some = names[start : start + _TOGETHER]
            for name, entries in zip(some, files.listing([f"shares/{prefix}/{each}" for each in some]), strict=True):
                if isinstance(entries, FileError):
                    unread = unread or _unread(entries)
                    continue
                for entry in sorted(entries, key=lambda entry: entry.name):
                    if is_share(entry):
                        yield b32decode(name), int(entry.name), entry.stat.size
    if unread is not None:
        raise unread


def _storage_index(name: str, prefix: str) -> StorageIndex | None:
    try:
        si = b32decode(name)
    except ValueError:
        return None
    return si if len(si) == 16 and name.startswith(prefix) else None


def _unread(error: FileError) -> FileError | None:
    """A folder that could not be listed; one that went away meanwhile had nothing in it."""
    return None if isinstance(error, FileMissing) else error
