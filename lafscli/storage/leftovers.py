"""What dead holders left in `locks/` (spec 10 §2.8): found, counted, cleared away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lafscli.errors import FileError, FileMissing, LafsError
from lafscli.formats.container import HEAD_SIZE, is_mutable, share_number, share_path
from lafscli.primitives.encoding import b32decode
from lafscli.storage.guard import FolderGuard
from lafscli.storage.moves import OWNER, guard_folder
from lafscli.storage.sight import Survivor, Survivors
from lafscli.storage.store import Answer, DirEntry, FileRange, Files, Op, Remove, Rmdir, StorageIndex

_BROKEN = ".broken."
_MOST = 2048
"""Containers in guards of one storage index; a server with more is no server of ours."""


def broken_si(name: str) -> StorageIndex | None:
    """The storage index that a name in `locks/` is a broken guard of."""
    return storage_index(name.removeprefix(_BROKEN).partition(".")[0]) if name.startswith(_BROKEN) else None


def storage_index(name: str) -> StorageIndex | None:
    """The storage index that a name in `locks/` is a guard of."""
    try:
        si = b32decode(name)
    except ValueError:
        return None
    return si if len(si) == 16 else None


def survivors(files: Files, si: StorageIndex, listed: Answer = None, *, mine: bool = False) -> Survivors:
    """Look into the guard of a storage index, and into all its broken ones.

    `listed` is what `List("locks")` answered, where that was asked before; then nothing is asked where there are none.
    `mine`: the guard is the caller's own, and nothing lies in it yet.
    """
    [names] = files.listing(["locks"]) if listed is None else [listed]
    if isinstance(names, FileError):
        raise names
    assert isinstance(names, list), "a listing answers names"
    guard = guard_folder(si)
    held = not mine and any(f"locks/{entry.name}" == guard for entry in names)
    return replace(_survivors(files, [*([guard] if held else []), *_broken(si, names)]), held=held)


def discard(files: Files, found: Survivors) -> None:
    """Remove the broken guards with all that was found in them; only after it was counted, and something newer is
    in place (spec 10 §2.8g). What came into them since stays, and its folder with it."""
    files.do([*(Remove(survivor.path) for survivor in found.containers if survivor.broken), *_removals(found.folders)])


def tidy(files: Files, guard: FolderGuard) -> None:
    """Clear the broken guards of immutable shares away, under the guard of their storage index.

    What was moved aside goes back to its place, or to `quarantine/` where that is taken; what was staged goes.
    A broken guard with a mutable share in it stays: it belongs to the next writer.
    """
    [names] = files.listing(["locks"])
    if isinstance(names, FileError):
        raise names
    for path in _broken(guard.si, names):
        found = _survivors(files, [path])
        if _any_mutable(files, found.containers):
            continue
        for token in {survivor.token for survivor in found.containers if survivor.aside}:
            asides = {one.shnum: one.path for one in found.containers if one.aside and one.token == token}
            # Through our own subfolder: what we do here is fenced like everything else.
            moved = guard.take_in(asides)
            guard.move_out(
                {n: (share_path(guard.si, n), f"{guard.quarantined(n)}.{token}") for n in asides if n in moved}
            )
        guard.check()
        discard(files, found)


def _broken(si: StorageIndex, names: Sequence[DirEntry]) -> list[str]:
    return [f"locks/{entry.name}" for entry in names if broken_si(entry.name) == si]


def _survivors(files: Files, guards: Sequence[str]) -> Survivors:
    if not guards:
        return Survivors((), ())
    folders: list[str] = []
    holders: list[str] = []
    for path, entries in zip(guards, files.listing(guards), strict=True):
        if isinstance(entries, FileMissing):
            continue
        if isinstance(entries, FileError):
            raise entries
        inner = [f"{path}/{entry.name}" for entry in entries if entry.stat.kind == "dir"]
        holders += inner
        if is_broken(path):
            folders += [*inner, path]
    found: list[Survivor] = []
    for path, entries in zip(holders, files.listing(holders), strict=True):
        if isinstance(entries, FileMissing):
            continue
        if isinstance(entries, FileError):
            raise entries
        for entry in entries:
            number = entry.name.removeprefix("old.")
            shnum = share_number(number)
            if shnum is not None and shnum < 256 and number == str(shnum) and entry.stat.kind == "file":
                found.append(
                    Survivor(
                        f"{path}/{entry.name}",
                        shnum,
                        entry.name != number,
                        path.rpartition("/")[2],
                        is_broken(path),
                        entry.stat.size,
                        entry.stat.mtime,
                    )
                )
    once = {survivor.path: survivor for survivor in found}
    if len(once) > _MOST:
        raise FileError(f"there are {len(once)} containers in guards of one file")
    return Survivors(tuple(once[path] for path in sorted(once)), tuple(folders))


def is_broken(path: str) -> bool:
    """Whether a path leads into a broken guard."""
    return path.startswith(f"locks/{_BROKEN}")


def _removals(folders: Sequence[str]) -> list[Op]:
    ops: list[Op] = []
    for folder in folders:
        ops += [Remove(f"{folder}/{OWNER}"), Rmdir(folder)]
    return ops


def _any_mutable(files: Files, found: Sequence[Survivor]) -> bool:
    """Whether any is a mutable container, or can't be told."""
    heads = files.read([FileRange(survivor.path, 0, HEAD_SIZE) for survivor in found]).finish()
    return any(isinstance(head, FileError) or is_mutable(head) for head in heads)


def names_in(files: Files, folders: Sequence[tuple[str, str]]) -> list[frozenset[str] | LafsError]:
    """Of each folder: the names of the folders in it that begin with its text; none of one that is not there."""
    answers: list[frozenset[str] | LafsError] = []
    for (_, start), listed in zip(folders, files.listing([path for path, _ in folders]), strict=True):
        if isinstance(listed, FileMissing):
            answers.append(frozenset())
        elif isinstance(listed, FileError):
            answers.append(listed)
        else:
            names = (entry.name for entry in listed if entry.stat.kind == "dir")
            answers.append(frozenset(name for name in names if name.startswith(start)))
    return answers
