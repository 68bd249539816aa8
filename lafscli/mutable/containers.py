"""The container that a new share gets: that of the share it replaces, or a new one (spec 03 §8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lafscli.errors import CorruptShare, LafsError
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.storage.sight import Container
from lafscli.storage.store import Lease, ShareRange, ShareStore, StorageIndex

_COUNT_SIZE = 4


def container_for(
    store: ShareStore, si: StorageIndex, earlier: Container | None, write_enabler: bytes, lease: Lease
) -> MutableContainer:
    """In the server's worker: header and leases for a new share, of length 0; `resized` fits it around one.

    Node id, version and leases of the container that is replaced are kept. One whose write enabler is not that of this
    server (a share that was carried here from another one) gets the right one; one that can't be read is made anew.
    """
    node_id = store.server.node_id
    made = MutableContainer.new(node_id, write_enabler)
    if earlier is not None and not isinstance(earlier.front, LafsError):
        try:
            found = _with_extra(store, si, earlier, MutableContainer.parse(earlier.front[:DATA_OFFSET], earlier.size))
            try:
                found.check_write_enabler(write_enabler)
            except CorruptShare:
                found = replace(found, node_id=node_id, write_enabler=write_enabler)
            made = found
        except CorruptShare:
            pass
    return made.with_lease(lease.renew, lease.cancel, lease.expiration, node_id)


def _with_extra(store: ShareStore, si: StorageIndex, file: Container, container: MutableContainer) -> MutableContainer:
    """The container with its extra leases; those that can't be read are none."""
    wanted = container.extra_range
    if wanted is None or wanted[1] <= _COUNT_SIZE:
        return container
    assert not isinstance(file.front, LafsError), "it was parsed"
    area = memoryview(file.front)[wanted[0] : sum(wanted)]
    if len(area) < wanted[1]:
        where = ShareRange(si, file.shnum, wanted[0] - DATA_OFFSET, wanted[1], where=file.path)
        [answer] = store.read([where]).finish()
        if isinstance(answer, LafsError):
            raise answer
        area = memoryview(answer)
    try:
        return container.with_extra(area)
    except CorruptShare:
        return container


def earlier_containers(files: Sequence[Container]) -> Mapping[int, Container]:
    """Of the files of one server, by share number: the one in place, else the one that was moved aside."""
    earlier: dict[int, Container] = {}
    for file in sorted(files, key=lambda file: file.kind != "place"):
        if file.kind != "staged":
            earlier.setdefault(file.shnum, file)
    return earlier
