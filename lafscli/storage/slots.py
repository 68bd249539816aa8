"""Looking for the containers of mutable files: in place, and in guards (spec 03 §8, 10 §2.8a)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lafscli.errors import FileError, FileMissing, LafsError
from lafscli.formats.container import share_folder, share_number, share_path
from lafscli.storage.leftovers import survivors
from lafscli.storage.sight import Container, Sight
from lafscli.storage.store import Answer, Buffer, DirEntry, FileRange, Files, List, StorageIndex

_MUCH = 64 << 20
"""Bytes that are read at once of one server; where there is more to look at, only the beginnings are read."""
_BEGINNING = 8 << 10
"""So many bytes of a container tell its version."""
MOST_SHARES = 4096
"""Names in the folder of one storage index: 256 shares, and what else somebody may have left there."""


def look(
    files: Files, sis: Sequence[StorageIndex], depth: int, expected: Sequence[int | None] | None = None
) -> list[Sight | LafsError]:
    """The containers in place, of many slots at once: of each the first `depth` bytes.

    Two round trips where nothing else lies there than the one share number that is `expected` of each slot; else four.
    """
    guesses = [None] * len(sis) if expected is None else expected
    guessed = {index: number for index, number in enumerate(guesses) if number is not None}
    ranges = [FileRange(share_path(sis[index], number), 0, depth) for index, number in guessed.items()]
    for item in ranges:
        files.release(item.path)
    listings, reading = files.do_and_read([list_shares(si) for si in sis], ranges)
    fronts = dict(zip((item.path for item in ranges), reading.finish(), strict=True))
    return sights(files, sis, listings, fronts, depth)


def list_shares(si: StorageIndex) -> List:
    """Asks for the names in the folder of a slot."""
    return List(share_folder(si), MOST_SHARES)


def sights(
    files: Files,
    sis: Sequence[StorageIndex],
    listings: Sequence[Answer],
    fronts: Mapping[str, Buffer | FileError],
    depth: int,
) -> list[Sight | LafsError]:
    """The containers that these listings show; those whose `fronts` are not there by path are read."""
    answers: list[Sight | LafsError] = []
    found: list[tuple[int, str, DirEntry]] = []
    for index, (si, entries) in enumerate(zip(sis, listings, strict=True)):
        refused = isinstance(entries, FileError) and not isinstance(entries, FileMissing)
        answers.append(entries if isinstance(entries, FileError) and refused else Sight())
        if isinstance(entries, list):
            shares = {entry.name: entry for entry in entries if is_share(entry)}  # a server may say a name twice
            found += [(index, f"{share_folder(si)}/{name}", entry) for name, entry in shares.items()]
    depth = _within_bounds(depth, [entry.stat.size for *_, entry in found])
    # one that came after the guess was read, or was longer than that, is read now
    unread = [
        FileRange(path, 0, min(depth, entry.stat.size))
        for _, path, entry in found
        if _short(fronts.get(path), min(depth, entry.stat.size))
    ]
    known = {**fronts}
    if unread:
        known |= zip((item.path for item in unread), files.read(unread).finish(), strict=True)
    containers: dict[int, list[Container]] = {}
    for index, path, entry in found:
        front = known[path]
        if not isinstance(front, FileMissing):
            one = Container(path, int(entry.name), "place", entry.stat.size, entry.stat.mtime, front)
            containers.setdefault(index, []).append(one)
    for index, some in containers.items():
        answers[index] = Sight(tuple(sorted(some, key=lambda one: one.shnum)))
    return answers


def _within_bounds(depth: int, sizes: Sequence[int]) -> int:
    """How much of each of so many containers is read."""
    return depth if sum(min(depth, size) for size in sizes) <= _MUCH else min(depth, _BEGINNING)


def _short(front: Buffer | FileError | None, size: int) -> bool:
    return front is None or isinstance(front, FileMissing) or (not isinstance(front, FileError) and len(front) < size)


def look_everywhere(
    files: Files, si: StorageIndex, depth: int, expected: Sequence[int] = ()
) -> tuple[Sight, Sight] | LafsError:
    """The containers of a slot that are in place, and those in guards. Two round trips where no other share numbers
    lie there than those `expected`, and nobody is or was about to change it."""
    ranges = [FileRange(share_path(si, number), 0, depth) for number in expected]
    for item in ranges:
        files.release(item.path)
    # guards first: what a writer puts in place and releases meanwhile is seen at least once
    (locks, listed), reading = files.do_and_read([List("locks"), list_shares(si)], ranges)
    fronts = dict(zip((item.path for item in ranges), reading.finish(), strict=True))
    [placed] = sights(files, [si], [listed], fronts, depth)
    return placed if isinstance(placed, LafsError) else (placed, look_into_guards(files, si, depth, locks))


def look_into_guards(files: Files, si: StorageIndex, depth: int, listed: Answer = None, *, mine: bool = False) -> Sight:
    """The containers that lie in the guard of a slot, and in its broken ones: `leftovers.survivors`."""
    found = survivors(files, si, listed, mine=mine)
    depth = _within_bounds(depth, [one.size for one in found.containers])
    wanted = [FileRange(one.path, 0, min(depth, one.size)) for one in found.containers]
    fronts = files.read(wanted).finish() if wanted else []
    containers = tuple(
        Container(one.path, one.shnum, "aside" if one.aside else "staged", one.size, one.mtime, front)
        for one, front in zip(found.containers, fronts, strict=True)
        if not isinstance(front, FileMissing)
    )
    return Sight(containers, found)


def is_share(entry: DirEntry) -> bool:
    """Whether a name in the folder of a storage index is that of a share. Nobody writes `00`."""
    number = share_number(entry.name)
    return number is not None and number < 256 and str(number) == entry.name and entry.stat.kind == "file"
