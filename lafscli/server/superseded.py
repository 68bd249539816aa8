"""Whether a container that somebody left in a guard may go: nothing in it is newer than what stands in place.

A writer that fell has left shares in its guard (spec 10 §2.8f). They may be all that there is of a version, so who
clears them away must have put something at least as new in place; what proves to be no share at all may go at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from lafscli.errors import CorruptShare
from lafscli.formats.container import HEAD_SIZE, is_mutable
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.primitives.encoding import b32encode
from lafscli.server.jail import Jail, open_file
from lafscli.server.judge import prove_mutable

_SEQNUM = DATA_OFFSET + 1
"""The seqnum follows the version byte (spec 03 §5)."""


def superseded(jail: Jail, names: Sequence[str], si: bytes, shnum: int, *, aside: bool) -> bool:
    """Whether the container may go. `aside`: it stood in place once, as a share that others may have leased."""
    folder = ("shares", b32encode(si)[:2], b32encode(si))
    descriptor = jail.open(names, os.O_RDONLY)
    try:
        if not is_mutable(os.pread(descriptor, HEAD_SIZE, 0)):
            return not aside or jail.there((*folder, str(shnum))) is not None
        seqnum = _seqnum(descriptor)
        if any(seqnum <= standing for standing in _standing(jail, folder)):
            return True
        try:
            prove_mutable(descriptor, os.fstat(descriptor).st_size, si, shnum)
        except CorruptShare:
            return True
        return False
    finally:
        os.close(descriptor)


def _standing(jail: Jail, folder: Sequence[str]) -> list[int]:
    """The seqnums of the shares in place: the keeper has proved each."""
    found: list[int] = []
    with suppress(FileNotFoundError), jail.folder(folder) as above:
        for name in os.listdir(above):
            with suppress(OSError):
                descriptor = open_file(above, name, os.O_RDONLY)
                try:
                    if is_mutable(os.pread(descriptor, HEAD_SIZE, 0)):
                        found.append(_seqnum(descriptor))
                finally:
                    os.close(descriptor)
    return found


def _seqnum(descriptor: int) -> int:
    data = os.pread(descriptor, 8, _SEQNUM)
    return int.from_bytes(data, "big") if len(data) == 8 else 0
