"""Find out by trying what the file system behind a `Files` does: the features of a server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from lafscli.errors import FileError, LafsError, ServerError
from lafscli.storage.packets import FSYNC
from lafscli.storage.store import (
    FileRange,
    Files,
    FileStat,
    Link,
    List,
    Mkdir,
    NewFile,
    Op,
    Remove,
    Rename,
    Replace,
    Rmdir,
    Stat,
)

_BATCHES = 12


def probe(files: Files, folders: Sequence[str], token: str) -> frozenset[str]:
    """Try everything in `staging/` under names with `token`, and leave nothing behind.

    Answers words for what was seen to work:

    rename-keeps           a rename onto a file that exists fails, and both files stay
    folder-rename-keeps    so does a rename (of either sort) onto a folder with something in it
    posix-rename           a rename that replaces a file is offered
    hardlink               hard links are offered, and don't replace a file
    fsync                  fsync is offered
    statvfs                the server tells its free space
    ordered                a batch is carried out in the order in which it was sent

    ServerError where writing or renaming does not work, or where `folders` lie on several file systems.
    """
    base = f"staging/.probe.{token}"
    one, two, three, full, other, moved = (f"{base}.{number}" for number in range(6))
    batches = [f"{base}.{number}" for number in range(6, 6 + _BATCHES)]
    travellers = [f"{folder}/.probe.{token}" for folder in folders]
    try:
        features = {"fsync"} if _create(files, [one, two]) else set()
        features |= _files(files, one, two, three)
        features |= _folders(files, full, other, moved)
        if _ordered(files, batches):
            features.add("ordered")
        _one_file_system(files, two, travellers)
        if files.space() is not None:
            features.add("statvfs")
    finally:
        with suppress(LafsError):
            files.do([*(Remove(path) for path in (one, two, three, *travellers)), *_rmdirs(full, other, moved)])
            files.do([op for path in batches for op in _removal(path)])
    return frozenset(features)


def _create(files: Files, paths: list[str]) -> bool:
    """Make small files that hold their own names; whether that went with fsync."""
    wanted = [NewFile(path, [path.encode()]) for path in paths]
    offered = FSYNC in files.connect()
    refusals = files.create_many(wanted, sync=offered)
    synced = offered and not any(refusals)
    if offered and not synced:
        files.do([Remove(path) for path in paths])
        refusals = files.create_many(wanted, sync=False)
    for refusal in refusals:
        if isinstance(refusal, FileError):
            raise ServerError(f"it can't be written to: {refusal}", hint="add it with --readonly") from refusal
    return synced


def _files(files: Files, one: str, two: str, three: str) -> set[str]:
    """What renames and links do with files. Afterwards `two` is there, and maybe others."""
    features = set()
    refused = _refused(files, Rename(one, two))
    if refused and _contents(files, one, two) == [one.encode(), two.encode()]:
        features.add("rename-keeps")
    else:
        files.do([Remove(one), Remove(two)])
        _create(files, [one, two])
    if not _refused(files, Link(one, three)):
        kept = _refused(files, Link(two, three))
        if kept and _contents(files, one, two, three) == [one.encode(), two.encode(), one.encode()]:
            features.add("hardlink")
        files.do([Remove(three)])
    [refusal] = files.do([Rename(one, three)])
    if isinstance(refusal, FileError):
        raise ServerError(f"it can't rename files: {refusal}", hint="add it with --readonly") from refusal
    if not _refused(files, Replace(three, two)) and _contents(files, two) == [one.encode()]:
        features.add("posix-rename")
    return features


def _folders(files: Files, full: str, other: str, moved: str) -> set[str]:
    """Whether a folder with something in it is safe from renames; folders must be movable at all."""
    files.do([Mkdir(full), Mkdir(f"{full}/in"), Mkdir(other), Mkdir(f"{other}/mine")])
    for move in (Rename(other, full), Replace(other, full)):
        refused = _refused(files, move)
        stats = files.do([Stat(f"{full}/in"), Stat(f"{other}/mine")])
        if not refused or not all(isinstance(stat, FileStat) for stat in stats):
            return set()
    return {"folder-rename-keeps"} if not _refused(files, Rename(other, moved)) else set()


def _ordered(files: Files, paths: list[str]) -> bool:
    """Whether every step of many batches in one sees the steps before it. A server that has several hands, each
    with a step of its own, hardly gets all of them right."""
    made: list[Op] = []
    for path in paths:
        made += [Mkdir(f"{path}.o"), Mkdir(f"{path}.o/in"), NewFile(f"{path}.o/in/file", [b"1"])]
        made += [Rename(f"{path}.o", path), Stat(f"{path}/in/file"), Rename(f"{path}/in/file", f"{path}/file")]
        made += [Rmdir(f"{path}/in"), List(path)]
    answers = files.do(made)
    stats = files.do([Stat(f"{path}/file") for path in paths])
    listed = [names for names in answers if isinstance(names, list)]
    sizes = [stat.size for stat in stats if isinstance(stat, FileStat)]
    refused = any(isinstance(answer, FileError) for answer in answers)
    return not refused and all(len(names) == 1 for names in listed) and sizes == [1] * len(paths)


def _removal(path: str) -> list[Op]:
    ops: list[Op] = []
    for top in (path, f"{path}.o"):
        ops += [Remove(f"{top}/in/file"), Remove(f"{top}/file"), Rmdir(f"{top}/in"), Rmdir(top)]
    return ops


def _one_file_system(files: Files, path: str, travellers: list[str]) -> None:
    """Move a file through all folders; that fails where one is a disk of its own."""
    for place in travellers:
        [refusal] = files.do([Rename(path, place)])
        if isinstance(refusal, FileError):
            here, there = (name.rpartition("/")[0] for name in (path, place))
            raise ServerError(
                f"a file can't be moved from {here} to {there}: {refusal}",
                hint="all folders of a server must be on one file system",
            ) from refusal
        path = place


def _rmdirs(full: str, other: str, moved: str) -> list[Op]:
    inner = [f"{top}/{name}" for top in (full, other, moved) for name in ("in", "mine")]
    return [Rmdir(path) for path in (*inner, full, other, moved)]


def _refused(files: Files, op: Op) -> bool:
    [answer] = files.do([op])
    return isinstance(answer, FileError)


def _contents(files: Files, *paths: str) -> list[bytes]:
    answers = files.read([FileRange(path, 0, 200) for path in paths]).finish()
    return [b"" if isinstance(answer, FileError) else bytes(answer) for answer in answers]
