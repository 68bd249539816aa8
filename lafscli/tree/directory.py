"""Directories: load, edit, create (spec 04). A change is a function of the table, so that it can be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lafscli.errors import LafsError, NotGranted
from lafscli.formats.caps import Cap, DirectoryCap, MutableVerifyCap, MutableWriteCap
from lafscli.formats.child import Child
from lafscli.formats.dirtable import LeftOut, Table
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import upload
from lafscli.mutable import publish
from lafscli.primitives.ciphers import PrivateKey
from lafscli.tree.contents import Access, Kind, content, contents_of, need_servers, pass_on

LARGE = 4 << 20
"""Bytes of a table from which the user is warned: each change writes all of it (spec 04 §1)."""

Change = Callable[[Table], None]


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that was read."""

    cap: DirectoryCap
    table: Table = field(repr=False)
    _listing: list[tuple[list[Child], list[LeftOut]]] = field(default_factory=list, repr=False, compare=False)

    def children(self) -> list[Child]:
        """Sorted by name; through a read cap only read caps are seen."""
        return self._listed()[0]

    @property
    def left_out(self) -> list[LeftOut]:
        """Entries that are kept and can't be shown."""
        return self._listed()[1]

    def _listed(self) -> tuple[list[Child], list[LeftOut]]:
        if not self._listing:
            self._listing.append(self.table.listing())
        return self._listing[0]


@dataclass(frozen=True, slots=True)
class NewChild:
    """What a name is given. `ro` is what goes with a write cap of an unknown format."""

    cap: Cap
    metadata: Mapping[str, Any] | None = None
    ro: Cap | None = None


def load(access: Access, cap: DirectoryCap) -> Directory:
    """Read a directory. NotGranted for a verify cap, MalformedDirectory for what is no table."""
    return parsed(cap, content(access, cap))


def load_many(access: Access, caps: Sequence[DirectoryCap]) -> list[Directory | LafsError]:
    """Read many, in the order of the caps, asking for them together; each its own success or error."""
    results: list[Directory | LafsError] = []
    for cap, answer in zip(caps, contents_of(access, caps), strict=True):
        try:
            results.append(answer if isinstance(answer, LafsError) else parsed(cap, answer))
        except LafsError as error:
            results.append(error)
    return results


def parsed(cap: DirectoryCap, data: bytes) -> Directory:
    """The directory of which this is the table."""
    writekey = cap.inner.writekey if isinstance(cap.inner, MutableWriteCap) else None
    return Directory(cap, Table.parse(data, mutable=cap.mutable, writekey=writekey))


def changeable(cap: DirectoryCap) -> MutableWriteCap:
    """The write cap of the file that holds the table; NotGranted for any other cap."""
    inner = cap.inner
    if isinstance(inner, MutableWriteCap):
        return inner
    if isinstance(inner, MutableVerifyCap) or not cap.readable:
        raise NotGranted("a verify cap can't change a directory", hint="changing it takes the write cap")
    if cap.mutable:
        raise NotGranted("the directory can't be changed with its read cap", hint="changing it takes the write cap")
    raise NotGranted("the directory is immutable: nothing can be added, replaced or removed")


def edit(access: Access, cap: DirectoryCap, change: Change) -> None:
    """Change a directory: one new version, however many changes `change` makes to the table.

    When another writer was faster, `change` is applied again to what that one wrote: it must change nothing but the
    table. What it raises is raised, and nothing is changed. A table that stays the same is not written.
    """
    changeable(cap)
    if access.edits is None:
        edit_now(access, cap, change)
    else:
        access.edits.edit(access, cap, change)


def edit_now(access: Access, cap: DirectoryCap, change: Change) -> None:
    """The same, and nobody else's changes with it."""
    inner = changeable(cap)
    need_servers(access)
    size = 0

    def changed(old: bytes) -> bytes | None:
        nonlocal size
        table = Table.parse(old, mutable=True, writekey=inner.writekey)
        change(table)
        new = table.serialise()
        size = len(new)
        return None if new == old else new

    done = publish.modify(access.grid, inner, changed, access.publishing)
    pass_on(access, cap, done.warnings)
    if size > LARGE:
        access.warn(
            f"directory {cap.abbreviation} has a table of {size >> 20} MiB, all of which is written at each change; "
            "divide it into several"
        )


def create_directory(
    access: Access,
    children: Mapping[str, NewChild] | None = None,
    *,
    kind: Kind = "sdmf",
    private: PrivateKey | None = None,
) -> DirectoryCap:
    """Make a directory that nothing links to yet; the metadata of its children is stored as given. `chk`: immutable,
    which takes immutable children only."""
    given = children or {}
    if kind == "chk":
        return DirectoryCap(upload(access.grid, immutable_table(given), access.writing).cap)
    need_servers(access)
    made = publish.create(access.grid, _mutable_table(given), access.publishing, mdmf=kind == "mdmf", private=private)
    cap = DirectoryCap(made.cap)
    pass_on(access, cap, made.warnings)
    return cap


def create_directories(
    access: Access, many: Sequence[Mapping[str, NewChild]], *, kind: Kind = "sdmf"
) -> list[DirectoryCap | LafsError]:
    """Make many, in the order given, sending them together; each its own success or error."""
    results: list[DirectoryCap | LafsError | None] = [None] * len(many)
    if kind == "chk":
        tables: list[tuple[int, bytes]] = []
        for index, children in enumerate(many):
            try:
                tables.append((index, immutable_table(children)))
            except LafsError as error:
                results[index] = error
        uploaded = upload_many(access.grid, [table for _, table in tables], access.writing)
        for (index, _), done in zip(tables, uploaded, strict=True):
            results[index] = done if isinstance(done, LafsError) else DirectoryCap(done.cap)
    else:
        need_servers(access)
        contents = [_mutable_table(children) for children in many]
        made = publish.create_many(access.grid, contents, access.publishing, mdmf=kind == "mdmf")
        for index, slot in enumerate(made):
            results[index] = slot if isinstance(slot, LafsError) else DirectoryCap(slot.cap)
    assert all(result is not None for result in results)
    return [result for result in results if result is not None]


def immutable_table(children: Mapping[str, NewChild]) -> bytes:
    """The content of an immutable directory; UsageError for a child that is not deeply immutable (spec 04 §5)."""
    return _filled(Table(mutable=False), children)


def _mutable_table(children: Mapping[str, NewChild]) -> bytes | Callable[[MutableWriteCap], bytes]:
    """The content of a new directory: its children's write caps are sealed with its own write key, which is known
    when its keys are made."""
    return (lambda cap: _filled(Table(mutable=True, writekey=cap.writekey), children)) if children else b""


def _filled(table: Table, children: Mapping[str, NewChild]) -> bytes:
    for name, child in children.items():
        table.link(name, child.cap, ro=child.ro, metadata=child.metadata)
    return table.serialise()
