"""Looking for the containers of mutable files: in place, and in guards (spec 03 §8, 10 §2.8a)."""

from __future__ import annotations

from collections.abc import Sequence

from lafscli.errors import FileError, FileMissing, LafsError
from lafscli.formats.container import share_folder, share_number
from lafscli.storage.leftovers import survivors
from lafscli.storage.sight import Container, Sight
from lafscli.storage.store import DirEntry, FileRange, Files, StorageIndex

MOST_SHARES = 4096
"""Names in the folder of one storage index: 256 shares, and what else somebody may have left there."""


def look(files: Files, sis: Sequence[StorageIndex], depth: int) -> list[Sight | LafsError]:
    """The containers in place, of many slots at once: of each the first `depth` bytes."""
    sights: list[Sight | LafsError] = []
    found: list[tuple[int, str, DirEntry]] = []
    for index, (si, entries) in enumerate(
        zip(sis, files.listing([share_folder(si) for si in sis], most=MOST_SHARES), strict=True)
    ):
        if isinstance(entries, FileError):
            sights.append(Sight() if isinstance(entries, FileMissing) else entries)
            continue
        sights.append(Sight())
        found += [(index, f"{share_folder(si)}/{entry.name}", entry) for entry in entries if is_share(entry)]
    fronts = files.read([FileRange(path, 0, min(depth, entry.stat.size)) for _, path, entry in found]).finish()
    containers: dict[int, list[Container]] = {}
    for (index, path, entry), front in zip(found, fronts, strict=True):
        if not isinstance(front, FileMissing):
            one = Container(path, int(entry.name), "place", entry.stat.size, entry.stat.mtime, front)
            containers.setdefault(index, []).append(one)
    for index, some in containers.items():
        sights[index] = Sight(tuple(sorted(some, key=lambda one: one.shnum)))
    return sights


def look_into_guards(files: Files, si: StorageIndex, depth: int) -> Sight:
    """The containers that lie in the guard of a slot, and in its broken ones."""
    found = survivors(files, si)
    fronts = files.read([FileRange(one.path, 0, min(depth, one.size)) for one in found.containers]).finish()
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
