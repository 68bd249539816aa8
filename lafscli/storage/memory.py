"""The highest version of each mutable file that this home has seen (spec 10 §2.8c).

Kept in an sqlite file of the home's state; losing it costs nothing but warnings. Whatever goes wrong with it is as if
nothing had been seen.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lafscli.storage.shares import StorageIndex

if TYPE_CHECKING:
    import sqlite3  # it is imported where it is used: no help needs it

_SEQNUM_SIZE = 8
_MOST_KNOWN = 100_000
_BUSY_SECONDS = 5.0
_TABLE = "CREATE TABLE IF NOT EXISTS seen (slot BLOB PRIMARY KEY, rank BLOB NOT NULL) WITHOUT ROWID"
_HIGHEST = "SELECT rank FROM seen WHERE slot = ?"
_RISE = (
    "INSERT INTO seen VALUES (?, ?) ON CONFLICT (slot) DO UPDATE SET rank = excluded.rank WHERE excluded.rank > rank"
)


class Seen:
    """Versions seen, by storage index and fingerprint. `path` None keeps it in memory. `lock`: what threads that share
    it exclude each other with."""

    def __init__(self, path: Path | None, *, lock: AbstractContextManager[object] | None = None) -> None:
        self._path = path
        self._lock = nullcontext() if lock is None else lock
        self._open: sqlite3.Connection | None = None
        self._failed = False
        self._known: dict[bytes, bytes] = {}

    def highest(self, si: StorageIndex, fingerprint: bytes) -> tuple[int, bytes] | None:
        """Seqnum and root hash of the highest version seen; None if there was none."""
        import sqlite3

        slot = si + fingerprint
        rank = self._known.get(slot, b"")
        with self._lock, suppress(sqlite3.Error):
            database = self._database()
            row = None if database is None else database.execute(_HIGHEST, [slot]).fetchone()
            if row is not None and isinstance(row[0], bytes):
                rank = max(rank, row[0])
        return (int.from_bytes(rank[:_SEQNUM_SIZE], "big"), rank[_SEQNUM_SIZE:]) if rank else None

    def note(self, si: StorageIndex, fingerprint: bytes, seqnum: int, root_hash: bytes) -> None:
        """Remember a version; what is remembered only ever rises."""
        slot, rank = si + fingerprint, seqnum.to_bytes(_SEQNUM_SIZE, "big") + root_hash
        import sqlite3

        with self._lock, suppress(sqlite3.Error):
            if self._known.get(slot, b"") >= rank:
                return
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[slot] = rank
            database = self._database()
            if database is not None:
                database.execute(_RISE, [slot, rank])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            database, self._open = self._open, None
            if database is not None:
                import sqlite3

                with suppress(sqlite3.Error):
                    database.close()

    def _database(self) -> sqlite3.Connection | None:
        """The open file; None where it can't be opened, or is damaged."""
        if self._open is None and not self._failed and self._path is not None:
            import sqlite3

            try:
                self._open = self._opened(self._path)
            except (sqlite3.Error, OSError):
                self._failed = True
        return self._open

    def _opened(self, path: Path) -> sqlite3.Connection:
        import sqlite3

        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            try:
                self._prepare(database)
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                # no database: what it knew is lost, and it begins again
                database.close()
                path.unlink()
                database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
                self._prepare(database)
        except BaseException:
            database.close()
            raise
        path.chmod(0o600)
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        # a power failure may lose the last versions: that costs a warning that would have been given
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.execute(_TABLE)
