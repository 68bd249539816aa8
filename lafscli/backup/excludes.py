"""What a backup leaves out (CLI.md §6): patterns as in gitignore(5), and folders that say so of themselves.

Patterns of the command line are anchored at the source; those in a `.lafsignore` at its folder, and the deepest file
that has something to say of a path decides.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lafscli.errors import UsageError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = b".lafsignore"
CACHE_TAG = b"CACHEDIR.TAG"
_CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
_LARGEST = 1 << 20
VCS = (".git", ".hg", ".svn", ".bzr", "CVS", "RCS", "SCCS", "_darcs", ".jj", ".fslckout", "_FOSSIL_")
"""What version control keeps in a working folder."""


@dataclass(frozen=True, slots=True)
class Excludes:
    """What is left out. `larger_than`: files of more bytes, if not None. `caches`: what is in folders with a valid
    CACHEDIR.TAG, but for the tag."""

    patterns: Sequence[str] = ()
    caches: bool = False
    one_file_system: bool = False
    larger_than: int | None = None


class Level:
    """The patterns in force in one folder: its own, and those of the folders around it. `below`: the length of the
    path, relative to the source, that its own patterns begin behind."""

    __slots__ = ("_above", "_below", "_spec")

    def __init__(self, spec: GitIgnoreSpec | None, below: int, above: Level | None) -> None:
        self._spec = spec
        self._below = below
        self._above = above

    def excludes(self, path: bytes, *, folder: bool) -> bool:
        """Whether an entry is left out; `path` is relative to the source."""
        text = os.fsdecode(path) + ("/" if folder else "")
        level: Level | None = self
        while level is not None:
            if level._spec is not None:
                decided = level._spec.check_file(text[level._below :]).include
                if decided is not None:
                    return decided
            level = level._above
        return False

    def entered(self, folder: bytes, path: bytes, warn: Callable[[str], None]) -> Level:
        """The level of a folder: `path` is its own, relative to the source and "" for the source itself."""
        found = _read(folder + b"/" + IGNORE_FILE)
        if not found:
            return self
        shown = os.fsdecode(folder + b"/" + IGNORE_FILE)
        try:
            spec = compiled(found.decode("utf-8", "surrogateescape").splitlines())
        except UsageError as error:
            warn(f"{shown}: {error.message}; it was not obeyed")
            return self
        return Level(spec, len(os.fsdecode(path)) + 1 if path else 0, self)


def compiled(patterns: Sequence[str]) -> GitIgnoreSpec:
    """Patterns, ready for use; UsageError for one that can't be."""
    from pathspec import GitIgnoreSpec

    try:
        return GitIgnoreSpec.from_lines(patterns)
    except ValueError as error:
        raise UsageError(f"a pattern can't be understood: {error}", hint="patterns are those of gitignore(5)") from None


def outermost(excludes: Excludes) -> Level:
    """The patterns of the command line."""
    return Level(compiled(excludes.patterns) if excludes.patterns else None, 0, None)


def is_cache(folder: bytes) -> bool:
    """Whether a folder says of itself that it is a cache (bford.info/cachedir)."""
    return (_read(folder + b"/" + CACHE_TAG, len(_CACHE_SIGNATURE)) or b"") == _CACHE_SIGNATURE


def _read(path: bytes, most: int = _LARGEST) -> bytes:
    """The start of a small regular file; nothing where there is none."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if os.fstat(handle).st_size and stat.S_ISREG(os.fstat(handle).st_mode):
                return os.read(handle, most)
        finally:
            os.close(handle)
    return b""
