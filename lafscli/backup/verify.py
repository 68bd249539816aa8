"""Whether a file here is the one on the grid, without fetching it where its key tells (spec 02 §2)."""

from __future__ import annotations

import os

from lafscli.errors import LafsError
from lafscli.formats.caps import Cap, ChkCap, LitCap
from lafscli.formats.chk import Sizes
from lafscli.primitives import hashes
from lafscli.storage.store import Buffer
from lafscli.tree.contents import Access, read

_PIECE = 1 << 20


class _Different(LafsError):
    """The file here is another one."""


def differs(access: Access, cap: Cap, handle: int) -> bool:
    """Compare an open file with a cap's content. The key of a convergent file is a hash of what is in it: where the
    file here gives the same key, that proves it; else the content is fetched and compared."""
    if isinstance(cap, LitCap):
        return os.pread(handle, len(cap.content) + 1, 0) != cap.content
    if isinstance(cap, ChkCap):
        if os.fstat(handle).st_size != cap.size:
            return True
        if _same_key(access, cap, handle):
            return False
    position = 0

    def compare(data: Buffer) -> None:
        nonlocal position
        view = memoryview(data)
        if os.pread(handle, len(view), position) != bytes(view):
            raise _Different("it is another one")
        position += len(view)

    try:
        read(access, cap, compare)
    except _Different:
        return True
    return os.fstat(handle).st_size != position


def _same_key(access: Access, cap: ChkCap, handle: int) -> bool:
    secret = access.writing.convergence
    if secret is None:
        return False
    sizes = Sizes.plan(cap.k, cap.n, cap.size, access.writing.encoding.segment_size)
    hasher = hashes.convergence_hasher(secret, cap.k, cap.n, sizes.segment_size)
    for position in range(0, cap.size, _PIECE):
        hasher.update(os.pread(handle, _PIECE, position))
    return hasher.digest()[:16] == cap.key
