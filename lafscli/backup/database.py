"""What was stored from where: an sqlite file that saves reading, encoding and sending again (spec 07 §4, §5).

It is a cache: losing it, or any of it, costs time and nothing else. Whatever goes wrong with it is as if it knew
nothing. What it says of a grid is never believed: before something is reused, its shares are looked for. Each row has a
mark, a hash of the rest: a cap in which a bit has flipped would be found out when it is to be restored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3  # it is imported where it is used: no help needs it

_VERSION = 1
_BUSY_SECONDS = 30.0
_MOST_NOTES = 10_000
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    folder BLOB, name BLOB, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, inode INTEGER,
    cap TEXT, si TEXT, extra TEXT, mark BLOB, PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folders (hash BLOB PRIMARY KEY, cap TEXT, si TEXT, used INTEGER, mark BLOB) WITHOUT ROWID;
"""
_WITHIN = "(folder = ? OR folder >= ? AND folder < ?)"


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

    def values(self) -> tuple[int, int, int, int, str, str, str]:
        """In the order of the columns."""
        return self.size, self.mtime_ns, self.ctime_ns, self.inode, self.cap, self.si, self.extra

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
        self._notes: list[tuple[str, Sequence[Sequence[Any]]]] = []
        self._made: dict[bytes, tuple[str, str]] = {}
        self._count = 0
        with suppress(sqlite3.Error, OSError):
            self._open = self._opened()

    @property
    def usable(self) -> bool:
        """Whether it can be read and written; if not, it knows nothing."""
        return self._open is not None

    def rows(self, folder: bytes) -> dict[bytes, Row]:
        """What is known of the entries of a folder, by name; what was noted since the last `commit` is not seen."""
        found: dict[bytes, Row] = {}
        columns = "name, mark, size, mtime_ns, ctime_ns, inode, cap, si, extra"
        for name, mark, *values in self._ask(f"SELECT {columns} FROM files WHERE folder = ?", [folder]):
            if mark == _mark(folder, name, *values) and _are(values, (int, int, int, int, str, str, str)):
                found[name] = Row(*values)
        return found

    def keep(self, folder: bytes, rows: Mapping[bytes, Row]) -> None:
        """Note what was stored of a folder."""
        self._note(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (folder, name, *values, _mark(folder, name, *values))
                for name, values in ((name, row.values()) for name, row in rows.items())
            ],
        )

    def forget(self, folder: bytes, names: Sequence[bytes]) -> None:
        """These entries of a folder are gone, with all below them."""
        self._note("DELETE FROM files WHERE folder = ? AND name = ?", [(folder, name) for name in names])
        below = [_within(folder.rstrip(b"/") + b"/" + name) for name in names]
        self._note(f"DELETE FROM files WHERE {_WITHIN}", below)

    def stored(self, folder: bytes) -> Iterator[tuple[str, str]]:
        """Storage index and cap of all files that were stored from a folder and below it, and of all directories that
        were made: some of them twice."""
        for question, values in (
            (f"SELECT si, cap FROM files WHERE si <> '' AND {_WITHIN}", _within(folder)),
            ("SELECT si, cap FROM folders WHERE si <> ''", []),
        ):
            for si, cap in self._ask(question, values):
                if isinstance(si, str) and isinstance(cap, str):
                    yield si, cap

    def folder(self, hash_: bytes) -> tuple[str, str] | None:
        """Storage index and cap of a directory that was made with this content."""
        if hash_ in self._made:
            return self._made[hash_]
        for si, cap, mark in self._ask("SELECT si, cap, mark FROM folders WHERE hash = ?", [hash_]):
            if isinstance(si, str) and isinstance(cap, str) and mark == _mark(hash_, cap, si):
                return si, cap
        return None

    def keep_folder(self, hash_: bytes, made: tuple[str, str], run: int) -> None:
        """Note a directory that was made or reused in the run of this number: storage index and cap."""
        self._made[hash_] = made
        si, cap = made
        row = hash_, cap, si, run, _mark(hash_, cap, si)
        self._note("INSERT OR REPLACE INTO folders VALUES (?, ?, ?, ?, ?)", [row])

    def next_run(self) -> int:
        """A number for this run, higher than those before."""
        for (highest,) in self._ask("SELECT max(used) FROM folders", []):
            if isinstance(highest, int):
                return highest + 1
        return 1

    def drop_folders(self, before: int) -> None:
        """Forget directories that no run since that one has made or reused."""
        self._note("DELETE FROM folders WHERE used < ?", [(before,)])

    def commit(self) -> None:
        """What was noted stays, whatever happens now. Other backups write to the same file, each for a moment; where
        one does not let us for long, it is tried again with the next notes."""
        import sqlite3

        database = self._open
        if database is None or not self._notes:
            return
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                for statement, rows in self._notes:
                    database.executemany(statement, rows)
                database.execute("COMMIT")
            except self._errors:
                with suppress(self._errors):
                    database.execute("ROLLBACK")
                raise
        except self._errors as error:
            busy = getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
            if not busy or len(self._notes) > _MOST_NOTES:
                self._broken(error)
            return
        self._notes.clear()
        self._made.clear()
        self._count = 0

    @property
    def noted(self) -> int:
        """How many rows wait for `commit`."""
        return self._count

    def close(self) -> None:
        """Commit, and close the file."""
        self.commit()
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

    def _note(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        if rows and self._open is not None:
            self._notes.append((statement, rows))
            self._count += len(rows)

    def _broken(self, error: Exception) -> None:
        """It is damaged, or the disk is full, or another backup keeps it: done without. One that is damaged is begun
        anew the next time."""
        import sqlite3

        database, self._open = self._open, None
        if database is not None:
            with suppress(self._errors):
                database.close()
        self._notes.clear()
        self._made.clear()
        if self._path is not None and not isinstance(error, sqlite3.OperationalError):
            with suppress(OSError):
                _remove(self._path)

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
            _remove(self._path)
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
    except BaseException:
        database.close()
        raise
    return database


def _mark(*values: object) -> bytes:
    return sha256(repr(values).encode("utf-8", "backslashreplace")).digest()[:8]


def _within(folder: bytes) -> tuple[bytes, bytes, bytes]:
    """What `_WITHIN` is to be given for a folder and all below it."""
    bare = folder.rstrip(b"/")
    return folder, bare + b"/", bare + b"0"  # the byte after the slash


def _remove(path: Path) -> None:
    """The file, and what stands beside it: a journal that was left would be taken for that of the next file."""
    path.unlink()
    for ending in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _are(values: Sequence[object], sorts: Sequence[type]) -> bool:
    return all(isinstance(value, sort) for value, sort in zip(values, sorts, strict=True))
