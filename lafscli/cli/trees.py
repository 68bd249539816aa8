"""find, manifest, stats (CLI.md §4): what is in a tree. A bad object is named, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import Quantity, command
from lafscli.cli.targets import Found, found
from lafscli.cli.text import columns
from lafscli.config.quantities import parse_size
from lafscli.errors import Partial, UsageError
from lafscli.formats.caps import Cap, UnknownCap
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.text import escape, human_size

if TYPE_CHECKING:
    from lafscli.tree.stats import Stats
    from lafscli.tree.walk import Visit

SORTS = ("file", "directory", "unknown")


def _visits(frame: Frame, at: Found, *, names: bool = False) -> Iterator[Visit]:
    """Walk below a TARGET. What can't be read is named, and makes the exit code 11; a root that can't be read is the
    error of the command."""
    from lafscli.tree.walk import walk

    bad = 0
    for visit in walk(frame.access(at.cap), at.cap, names=names):
        if visit.error is not None:
            if not visit.path:
                raise visit.error
            frame.out.name(f"{'/'.join(visit.path)}: {visit.error.message}")
            bad += 1
        yield visit
        for left in visit.directory.left_out if visit.directory is not None else ():
            frame.out.name(f"{'/'.join((*visit.path, left.name))}: the entry can't be used: {left.reason}")
            bad += 1
    if bad:
        raise SystemExit(Partial.exit_code)


def sort_of(cap: Cap) -> str:
    """One of file, directory, unknown."""
    return "directory" if cap.is_directory else "unknown" if isinstance(cap, UnknownCap) else "file"


def _document(visit: Visit) -> dict[str, Any]:
    from lafscli.tree.stats import file_size

    cap = visit.cap
    document: dict[str, Any] = {"path": "/".join(visit.path), "kind": cap.kind, "cap": str(cap)}
    verify = cap.verify_cap()
    if verify is not None:
        document["verify_cap"] = str(verify)
    if cap.storage_index is not None:
        document["storage_index"] = b32encode(cap.storage_index)
    size = file_size(cap)
    if size is not None:
        document["size"] = size
    return document


# ---- manifest


@command("manifest")
@click.argument("target")
@click.option("--storage-index", is_flag=True, help="Only the storage index of each object.")
@click.option("--verify-cap", is_flag=True, help="Only the verify cap of each object.")
@click.option("--read-cap", is_flag=True, help="Only the read cap of each object.")
def manifest(frame: Frame, target: str, storage_index: bool, verify_cap: bool, read_cap: bool) -> None:
    """List every object of a tree with its cap.

    Each object stands there once, a directory before what is in it: its cap, a space, and its path below TARGET. What
    has no storage index or verify cap is left out where that is asked for.
    """
    given = {"storage_index": storage_index, "verify_cap": verify_cap, "read_cap": read_cap}
    chosen = [key for key, is_given in given.items() if is_given]
    if len(chosen) > 1:
        raise UsageError("one of --storage-index, --verify-cap and --read-cap, not several")
    wanted = chosen[0] if chosen else None
    for visit in _visits(frame, found(frame, target)):
        document = _document(visit)
        if wanted is None:
            frame.out.show(document, f"{document['cap']} {escape(document['path'])}".rstrip())
            continue
        if wanted == "read_cap":
            document["cap"] = document["read_cap"] = str(visit.cap.read_cap())
        else:
            # who asks for less than the read cap may be about to hand the list on
            del document["cap"]
            if wanted == "storage_index":
                document.pop("verify_cap", None)
        if document.get(wanted):
            shown = document.pop("read_cap") if wanted == "read_cap" else document[wanted]
            frame.out.show(document, shown)


# ---- find


def _size_test(text: str) -> Callable[[int], bool]:
    sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    size = parse_size(digits)
    return {"+": lambda each: each > size, "-": lambda each: each < size, "": lambda each: each == size}[sign]


SIZE_TEST = Quantity("[+-]SIZE", _size_test)


@command("find")
@click.argument("target")
@click.option("--name", "pattern", metavar="GLOB", help="Only names that match, as a shell matches them.")
@click.option("--size", "fits", type=SIZE_TEST, help="Only files of that size, larger (+) or smaller (-).")
@click.option("--type", "sort", type=click.Choice([*SORTS, "f", "d", "u"]), help="Only objects of that sort.")
@click.option("-0", "zero", is_flag=True, help="End each path with a zero byte, and show it as it is.")
def find(
    frame: Frame, target: str, pattern: str | None, fits: Callable[[int], bool] | None, sort: str | None, zero: bool
) -> None:
    """Find files and directories in a tree.

    Prints the path of each entry, one a line, in a form that is a TARGET again where TARGET is no bare cap. All that is
    asked for must be met. An object with several names is found under each of them; a directory that has several is
    entered once.
    """
    from lafscli.tree.stats import file_size

    if zero and frame.settings.json:
        raise UsageError("--json and -0 can't both be had")
    at = found(frame, target)
    wanted = next((each for each in SORTS if sort and each.startswith(sort)), None)
    glob = None if pattern is None else normalize("NFC", pattern)
    for visit in _visits(frame, at, names=True):
        name = visit.path[-1] if visit.path else at.name or ""
        size = file_size(visit.cap)
        if glob is not None and not fnmatchcase(name, glob):
            continue
        if fits is not None and (size is None or not fits(size)):
            continue
        if wanted is not None and sort_of(visit.cap) != wanted:
            continue
        path = _again(target, at, visit.path)
        if zero:
            frame.out.write(f"{path}\0")
        else:
            frame.out.show(_document(visit), escape(path))


def _again(target: str, at: Found, path: tuple[str, ...]) -> str:
    """A path as an argument that leads there; of a bare cap what comes behind it, so that no cap is shown."""
    below = "/".join(path)
    written = target.strip()
    if written.startswith("@-") or (at.target is not None and at.target.as_cap and not written.startswith("@")):
        return "/".join(part for part in (at.path, below) if part) or "."
    if not below:
        return written
    return f"{written}{below}" if written.endswith((":", "/")) else f"{written}/{below}"


# ---- stats


@command("stats")
@click.argument("target")
def stats(frame: Frame, target: str) -> None:
    """Count what is in a tree, and how large it is.

    Each object counts once. The size of a mutable file stands in no cap, and is not counted.
    """
    from lafscli.tree.stats import Stats

    counted = Stats()
    code = 0
    try:
        for visit in _visits(frame, found(frame, target)):
            counted.add(visit)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    frame.out.show(counted.document(), _table(counted))
    if code:
        raise SystemExit(code)


def _table(counted: Stats) -> str:
    rows = [
        ("immutable files", str(counted.count_immutable_files), human_size(counted.size_immutable_files)),
        ("files in their caps", str(counted.count_literal_files), human_size(counted.size_literal_files)),
        ("mutable files", str(counted.count_mutable_files), "-"),
        ("directories", str(counted.count_directories), human_size(counted.size_directories)),
        ("unknown", str(counted.count_unknown), "-"),
        ("largest file", "", human_size(counted.largest_immutable_file)),
        ("largest directory", str(counted.largest_directory_children), human_size(counted.largest_directory)),
    ]
    rows += [(f"{least}-{greatest} B", str(count), "") for least, greatest, count in counted.size_files_histogram]
    return columns([("", "number", "size"), *rows])
