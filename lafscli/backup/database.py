"""What was stored from where: an sqlite file that saves reading, encoding and sending again (spec 07 §4, §5).

It is a cache: losing it, or any of it, costs time and nothing else. Whatever goes wrong with it is as if it knew
nothing. What it says of a grid is never believed: before something is reused, its shares are looked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3  # it is imported where it is used: no help needs it

_VERSION = 1
_BUSY_SECONDS = 30.0
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    folder BLOB, name BLOB, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER,
    cap TEXT, si TEXT, extra TEXT, PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folders (hash BLOB PRIMARY KEY, cap TEXT, si TEXT, used INTEGER) WITHOUT ROWID;
"""
_WITHIN = "folder = ?1 OR (folder > ?1 || x'2f' AND folder < ?1 || x'30')"


@dataclass(frozen=True, slots=True)
class Row:
    """A file, or another entry, as it was when it was stored. `cap`: "" for what has none to be reused, `si`: its
    storage index in base32, "" for one without shares; `extra`: its attributes and holes, as `entries.Extra` writes
    them."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    cap: str
    si: str
    extra: str

    @classmethod
    def of(cls, found: os.stat_result, cap: str, si: str, extra: str) -> Row:
        """What is to be remembered of an entry that looks like this."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, cap, si, extra)

    def same_content(self, found: os.stat_result) -> bool:
        """Whether a file has the content that it had, as far as anybody can see who does not read it."""
        return (self.size, self.mtime_ns, self.inode) == (found.st_size, found.st_mtime_ns, found.st_ino)


class Database:
    """One file for all backups of a home to one grid; used by one thread. `path` None keeps it in memory."""

    def __init__(self, path: Path | None) -> None:
        import sqlite3

        self._path = path
        self._open: sqlite3.Connection | None = None
        self._errors = sqlite3.Error
        with suppress(sqlite3.Error, OSError):
            self._open = self._opened()

    @property
    def usable(self) -> bool:
        """Whether it can be read and written; if not, it knows nothing."""
        return self._open is not None

    def rows(self, folder: bytes) -> dict[bytes, Row]:
        """What is known of the entries of a folder, by name."""
        found: dict[bytes, Row] = {}
        columns = "name, size, mtime_ns, ctime_ns, inode, cap, si, extra"
        for name, *values in self._ask(f"SELECT {columns} FROM files WHERE folder = ?", [folder]):
            if isinstance(name, bytes) and _are(values, (int, int, int, int, str, str, str)):
                found[name] = Row(*values)
        return found

    def keep(self, folder: bytes, rows: Mapping[bytes, Row]) -> None:
        """Note what was stored of a folder."""
        self._do(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (folder, name, row.size, row.mtime_ns, row.ctime_ns, row.inode, row.cap, row.si, row.extra)
                for name, row in rows.items()
            ],
        )

    def forget(self, folder: bytes, names: Sequence[bytes]) -> None:
        """These entries of a folder are gone, with all below them."""
        self._do("DELETE FROM files WHERE folder = ? AND name = ?", [(folder, name) for name in names])
        self._do(f"DELETE FROM files WHERE {_WITHIN}", [(folder.rstrip(b"/") + b"/" + name,) for name in names])

    def stored(self, folder: bytes) -> Iterator[tuple[str, str]]:
        """Storage index and cap of all files that were stored from a folder and below it, and of all directories that
        were made: some of them twice."""
        for question, values in (
            (f"SELECT si, cap FROM files WHERE si <> '' AND ({_WITHIN})", [folder]),
            ("SELECT si, cap FROM folders WHERE si <> ''", []),
        ):
            for si, cap in self._ask(question, values):
                if isinstance(si, str) and isinstance(cap, str):
                    yield si, cap

    def folder(self, hash_: bytes) -> tuple[str, str] | None:
        """Storage index and cap of a directory that was made with this content."""
        for si, cap in self._ask("SELECT si, cap FROM folders WHERE hash = ?", [hash_]):
            if isinstance(si, str) and isinstance(cap, str):
                return si, cap
        return None

    def keep_folders(self, made: Mapping[bytes, tuple[str, str]], run: int) -> None:
        """Note directories, by hash, that were made or reused in the run of this number: storage index and cap."""
        rows = [(each, cap, si, run) for each, (si, cap) in made.items()]
        self._do("INSERT OR REPLACE INTO folders VALUES (?, ?, ?, ?)", rows)

    def next_run(self) -> int:
        """A number for this run, higher than those before."""
        for (highest,) in self._ask("SELECT max(used) FROM folders", []):
            if isinstance(highest, int):
                return highest + 1
        return 1

    def drop_folders(self, before: int) -> None:
        """Forget directories that no run since that one has made or reused."""
        self._do("DELETE FROM folders WHERE used < ?", [(before,)])

    def commit(self) -> None:
        """What was noted stays, whatever happens now."""
        self._do("COMMIT", None)
        self._do("BEGIN", None)

    def close(self) -> None:
        """Commit, and close the file."""
        self._do("COMMIT", None)
        database, self._open = self._open, None
        if database is not None:
            with suppress(self._errors):
                database.close()

    # ---- sqlite

    def _ask(self, question: str, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        if self._open is None:
            return
        try:
            yield from self._open.execute(question, values)
        except self._errors as error:
            self._broken(error)

    def _do(self, statement: str, rows: Sequence[Sequence[Any]] | None) -> None:
        if self._open is None:
            return
        try:
            if rows is None:
                self._open.execute(statement)
            elif rows:
                self._open.executemany(statement, rows)
        except self._errors as error:
            self._broken(error)

    def _broken(self, error: Exception) -> None:
        """It is damaged, or the disk is full, or another backup keeps it: done without. One that is damaged is begun
        anew the next time."""
        import sqlite3

        database, self._open = self._open, None
        if database is not None:
            with suppress(self._errors):
                database.close()
        if self._path is not None and not isinstance(error, sqlite3.OperationalError):
            with suppress(OSError):
                self._path.unlink()

    def _opened(self) -> sqlite3.Connection:
        import sqlite3

        if self._path is None:
            return _prepared(sqlite3.connect(":memory:", isolation_level=None))
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            database = _prepared(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None))
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            # no database: what it knew is lost, and it begins again
            self._path.unlink()
            database = _prepared(sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None))
        self._path.chmod(0o600)
        return database


def _prepared(database: sqlite3.Connection) -> sqlite3.Connection:
    import sqlite3

    try:
        # a power failure may lose the last rows: that costs reading some files again
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -16000")
        [(version,)] = database.execute("PRAGMA user_version")
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError("of another version")
        database.executescript(_TABLES)
        database.execute(f"PRAGMA user_version = {_VERSION}")
        database.execute("BEGIN")
    except BaseException:
        database.close()
        raise
    return database


def _are(values: Sequence[object], sorts: Sequence[type]) -> bool:
    return all(isinstance(value, sort) for value, sort in zip(values, sorts, strict=True))
