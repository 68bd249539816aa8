"""`server.toml`, the one file that says who a server is: read as what a stranger wrote, replaced under a guard.

A server without posix-rename can't replace a file: there the old one is moved to `server.toml.old.<token>` for a
moment. Whoever finds no `server.toml` looks for that. Nothing is ever moved over it, so the identity can't be lost.
"""

from __future__ import annotations

import tomllib
from contextlib import suppress
from types import TracebackType
from typing import Any

from lafscli.errors import FileError, FileMissing, GuardLost, ServerError
from lafscli.primitives.hashes import tagged_hash
from lafscli.storage.guard import FolderGuard
from lafscli.storage.membership import FIELDS, Membership
from lafscli.storage.store import Buffer, FileRange, Files, Op, Remove, Rename, Replace

IDENTITY_FILE = "server.toml"
LIST_LOCK = tagged_hash(b"lafs_server_list_v1", b"")[:16]
"""In the place of a storage index: who changes the list of a grid's servers holds this guard."""
MAX_SIZE = 64 * 1024
IDENTITY_RANGE = FileRange(IDENTITY_FILE, 0, MAX_SIZE + 1)
"""All of it, and a byte to see that it is too long."""
_MAX_DEPTH = 1000
"""Dots, and brackets: the parser takes the square of the time for those of one name."""
_OLD = f"{IDENTITY_FILE}.old."
_STAGED = 0


def parse_table(data: bytes) -> dict[str, Any]:
    """The table of a `server.toml`; ServerError where it is none."""
    if max(data.count(b"."), data.count(b"[")) > _MAX_DEPTH:
        raise bad("it is nested too deep")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise bad("it is not TOML") from error


def read_table(files: Files) -> dict[str, Any] | None:
    """All that `server.toml` says, None where there is none. One small read; ServerError if it is broken."""
    table = _read(files, IDENTITY_FILE)
    if table is None and (old := _moved_aside(files)) is not None:
        return old[1]
    return table


def read_membership(files: Files) -> Membership | None:
    """The list of the grid's servers that stands there (spec 10 §2.7), None where there is none."""
    table = read_table(files)
    return None if table is None else Membership.parse(table)


def membership_in(answer: Buffer | FileError) -> Membership | None:
    """The same from what a read of IDENTITY_RANGE brought; a server that lost its `server.toml` counts as silent."""
    table = _table_in(answer)
    if table is None:
        raise bad("it is gone")
    return Membership.parse(table)


def _read(files: Files, path: str) -> dict[str, Any] | None:
    [answer] = files.read([FileRange(path, 0, MAX_SIZE + 1)]).finish()
    return _table_in(answer)


def _table_in(answer: Buffer | FileError) -> dict[str, Any] | None:
    if isinstance(answer, FileMissing):
        return None
    if isinstance(answer, FileError):
        raise answer
    if len(answer) > MAX_SIZE:
        raise bad(f"it is longer than {MAX_SIZE} bytes")
    return parse_table(bytes(answer))


def _moved_aside(files: Files) -> tuple[str, dict[str, Any]] | None:
    """What stood as `server.toml` when somebody who was to replace it fell: the one with the newest list."""
    [entries] = files.listing([""])
    if isinstance(entries, FileError):
        return None
    found: list[tuple[int, str, dict[str, Any]]] = []
    for name in sorted(entry.name for entry in entries if entry.name.startswith(_OLD)):
        with suppress(ServerError):
            table = _read(files, name)
            if table is not None:
                membership = Membership.parse(table)
                found.append((0 if membership is None else membership.epoch, name, table))
    return max(found, key=lambda each: each[:2])[1:] if found else None


class FileListGuard:
    """A `ListGuard` over files: `guard` is the one on LIST_LOCK, `posix` whether a rename can replace a file there."""

    def __init__(self, files: Files, guard: FolderGuard, *, posix: bool) -> None:
        self._files = files
        self._guard = guard
        self._posix = posix
        self._table: dict[str, Any] = {}
        self._wanted: Membership | None = None

    def __enter__(self) -> FileListGuard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._guard.__exit__(kind, error, trace)

    def read(self) -> Membership | None:
        """The list that stands there now. What a fallen one has moved aside goes back first."""
        table = _read(self._files, IDENTITY_FILE)
        if table is None and (old := _moved_aside(self._files)) is not None:
            self._insist([Rename(old[0], IDENTITY_FILE)])
            table = _read(self._files, IDENTITY_FILE)
        if table is None:
            raise bad("it is gone")
        self._table = table
        return Membership.parse(table)

    def stage(self, membership: Membership) -> None:
        """Write it beside the old one, durably; all else that the file says stays."""
        import tomli_w

        kept = {key: value for key, value in self._table.items() if key not in FIELDS}
        data = tomli_w.dumps(kept | membership.table()).encode()
        if len(data) > MAX_SIZE or max(data.count(b"."), data.count(b"[")) > _MAX_DEPTH:
            raise bad(f"with so many servers and earlier lists it would be longer than {MAX_SIZE} bytes")
        self._guard.stage([(_STAGED, [data])])
        self._wanted = membership

    def commit(self) -> None:
        """Put it in place, and see that it stands there."""
        staged = self._guard.staged(_STAGED)
        if self._posix:
            self._insist([Replace(staged, IDENTITY_FILE)])
        else:
            aside = f"{_OLD}{self._guard.token}"
            self._insist([Rename(IDENTITY_FILE, aside)])
            try:
                self._insist([Rename(staged, IDENTITY_FILE)])
            except (FileError, GuardLost):
                self._files.do([Rename(aside, IDENTITY_FILE)])  # never over what stands there
                raise
            self._files.do([Remove(aside)])
        if read_membership(self._files) != self._wanted:
            raise bad("what was written there does not stand there")

    def keep(self) -> None:
        """Show that the holder lives, if it is time to."""
        self._guard.keep()

    def _insist(self, ops: list[Op]) -> None:
        answers = self._guard.carry_out(ops)
        for answer in answers:
            if isinstance(answer, FileError):
                self._guard.check()  # GuardLost, if that is why
                raise answer


def bad(what: str) -> ServerError:
    return ServerError(f"its {IDENTITY_FILE} can't be used: {what}")
