"""Content of a file, whatever its kind: read it, store it, replace it.

A directory's content is its table, so the rooms above need not know which kind of file holds it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, Self

from lafscli.errors import LafsError, NotGranted, UsageError
from lafscli.formats.caps import Cap, ChkCap, DirectoryCap, LitCap, MutableReadCap, MutableWriteCap, UnknownCap
from lafscli.formats.dirtable import Table
from lafscli.immutable.download import Held, download
from lafscli.immutable.fetchmany import download_many
from lafscli.immutable.upload import Uploaded, Writing, upload
from lafscli.mutable import patching, publish, retrieve
from lafscli.mutable.publish import Published, Publishing
from lafscli.mutable.retrieve import Reading
from lafscli.placement import Encoding
from lafscli.primitives.ciphers import PrivateKey
from lafscli.storage.grid import Grid
from lafscli.storage.report import BadShare
from lafscli.storage.source import Source, opened
from lafscli.storage.store import Buffer, Progress

Kind = Literal["chk", "sdmf", "mdmf"]
Readable = LitCap | ChkCap | MutableReadCap | MutableWriteCap


class NoServers(UsageError):
    """No server is configured."""


class Edits(Protocol):
    """Who makes the changes of directories that many threads want."""

    def edit(self, access: Access, cap: DirectoryCap, change: Callable[[Table], None]) -> None:
        """Make a change, perhaps together with others."""


@dataclass(frozen=True, slots=True)
class Access:
    """The servers, and what reading and writing there takes. `now`: Unix seconds, for the times of links. `warn` is
    told what stops nothing and the user should know: that a directory was seen in a newer version before. `edits`: who
    changes directories for many threads."""

    grid: Grid
    writing: Writing
    publishing: Publishing
    reading: Reading
    now: float
    warn: Callable[[str], None] = field(default=lambda _: None)
    edits: Edits | None = None

    @classmethod
    def nowhere(cls, warn: Callable[[str], None]) -> Self:
        """Without servers and secrets: enough for what is in its cap."""
        encoding, secret = Encoding(), bytes(32)
        writing = Writing(encoding, None, secret, 0, os.urandom)
        publishing = Publishing(encoding, secret, 0, os.urandom, None, time.monotonic, time.sleep)
        reading = Reading(None, time.monotonic, time.sleep, os.urandom)
        return cls(Grid(()), writing, publishing, reading, 0, warn)


@dataclass(frozen=True, slots=True)
class Read:
    """What was read: `size` bytes of the `whole`, the first `kept` of which were there already; shares that lied,
    servers that failed, and what else the user should know."""

    size: int
    whole: int
    corrupt: list[BadShare] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    kept: int = 0


def readable(cap: Cap) -> Readable:
    """The cap of the file that is to be read: itself, or the file that holds a directory's table. NotGranted for a
    verify cap, UsageError for one of an unknown kind."""
    inner = cap.inner if isinstance(cap, DirectoryCap) else cap
    if isinstance(inner, LitCap | ChkCap | MutableReadCap | MutableWriteCap):
        return inner
    if isinstance(inner, UnknownCap):
        raise UsageError("this cap is of a kind that lafs does not know")
    raise NotGranted("a verify cap can't read", hint="reading takes the read cap")


def read(
    access: Access,
    cap: Cap,
    write: Callable[[Buffer], object],
    *,
    offset: int = 0,
    length: int | None = None,
    progress: Progress | None = None,
    held: Held | None = None,
    again: Callable[[], object] | None = None,
) -> Read:
    """Write `length` bytes of the content from `offset` (to its end by default), in order, each proved before.

    `held`: go on with an earlier read, where the content is immutable. `again`: forget what was written, where mutable
    content changed in the middle. Raises NotRecoverable, CannotTell; NotGranted for a verify cap.
    """
    file = readable(cap)
    _need_servers(access, file)
    if isinstance(file, LitCap | ChkCap):
        done = download(access.grid, file, write, offset=offset, length=length, progress=progress, held=held)
        whole = len(file.content) if isinstance(file, LitCap) else file.size
        return Read(done.size, whole, done.corrupt, done.silent, [], done.kept)
    found = retrieve.retrieve(
        access.grid, file, write, access.reading, offset=offset, length=length, progress=progress, again=again
    )
    return Read(found.size, found.version.prefix.data_length, found.corrupt, found.silent, found.warnings)


def content(access: Access, cap: Cap) -> bytes:
    """All of the content, in memory."""
    file = readable(cap)
    _need_servers(access, file)
    if isinstance(file, LitCap):
        return file.content
    if isinstance(file, ChkCap):
        pieces = bytearray()
        download(access.grid, file, pieces.extend)
        return bytes(pieces)
    data: bytes
    data, found = retrieve.contents(access.grid, file, access.reading)
    pass_on(access, cap, found.warnings)
    return data


def contents_of(access: Access, caps: Sequence[Cap]) -> list[bytes | LafsError]:
    """The contents of many small files, in the order of the caps; each its own success or error. They are asked for
    together."""
    results: list[bytes | LafsError | None] = [None] * len(caps)
    immutable: list[tuple[int, ChkCap]] = []
    mutable: list[tuple[int, MutableReadCap | MutableWriteCap]] = []
    for index, cap in enumerate(caps):
        try:
            file = readable(cap)
            _need_servers(access, file)
        except LafsError as error:
            results[index] = error
            continue
        if isinstance(file, LitCap):
            results[index] = file.content
        elif isinstance(file, ChkCap):
            immutable.append((index, file))
        else:
            mutable.append((index, file))
    for place, fetched in download_many(access.grid, [file for _, file in immutable]):
        results[immutable[place][0]] = fetched if isinstance(fetched, LafsError) else bytes(fetched.content)
    if mutable:
        answers = retrieve.contents_many(access.grid, [file for _, file in mutable], access.reading)
        for (index, _), answer in zip(mutable, answers, strict=True):
            if isinstance(answer, LafsError):
                results[index] = answer
            else:
                results[index] = answer[0]
                pass_on(access, caps[index], answer[1].warnings)
    assert all(result is not None for result in results)
    return [result for result in results if result is not None]


def store(
    access: Access,
    source: Path | bytes | BinaryIO | Source,
    kind: Kind,
    *,
    private: PrivateKey | None = None,
    progress: Progress | None = None,
) -> Uploaded | Published:
    """Store a file; `private` is the key of a mutable one, a new one unless it is given."""
    if kind == "chk":
        return upload(access.grid, source, access.writing, progress)
    need_servers(access)
    return publish.create(
        access.grid, source, access.publishing, mdmf=kind == "mdmf", private=private, progress=progress
    )


def overwrite(
    access: Access, cap: MutableWriteCap, source: Path | bytes | BinaryIO | Source, progress: Progress | None = None
) -> Published:
    """Replace the content of a mutable file, which keeps its cap."""
    need_servers(access)
    return publish.overwrite(access.grid, cap, source, access.publishing, progress=progress)


def patch(
    access: Access, cap: MutableWriteCap, offset: int, source: bytes | Source, progress: Progress | None = None
) -> Published:
    """Put `source`, whose length is known, into a mutable file from `offset` on, and leave what else is in it."""
    need_servers(access)
    with opened(source, 0) as patched:
        return patching.patch(access.grid, cap, offset, patched, access.publishing, progress)


def need_servers(access: Access) -> None:
    """UsageError where none is configured."""
    if not access.grid.stores:
        raise NoServers("no server is configured", hint="lafs server add NAME URL, or lafs grid import FILE")


def _need_servers(access: Access, file: Readable) -> None:
    if not isinstance(file, LitCap):
        need_servers(access)


def pass_on(access: Access, cap: Cap, warnings: Sequence[str]) -> None:
    """Tell the user what reading or writing gave warnings of, once with the name of the object."""
    what = "directory" if cap.is_directory else "file"
    for warning in warnings:
        access.warn(f"{what} {cap.abbreviation}: {warning.removeprefix(f'{cap.abbreviation}: ')}")
