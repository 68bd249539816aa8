"""Whether a container that somebody left in a guard may go: nothing in it is newer than what stands in place.

A writer that fell has left shares in its guard (spec 10 §2.8f). They may be all that there is of a version, so who
clears them away must have put something at least as new in place; what proves to be no share at all may go at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from lafscli.errors import CorruptShare
from lafscli.formats.container import HEADER_SIZE
from lafscli.primitives.encoding import b32encode
from lafscli.server.jail import Jail, open_file
from lafscli.server.judge import holds_mutable, prove_immutable, prove_mutable, shape, unknown_version
from lafscli.server.placing import told_of
from lafscli.server.spots import is_number
from lafscli.server.trees import no_pulse

_PIECE = 1 << 20


def superseded(
    jail: Jail, names: Sequence[str], si: bytes, shnum: int, *, aside: bool, pulse: Callable[[], None] = no_pulse
) -> bool:
    """Whether the container may go. `aside`: it stood in place once, as a share that others may have leased."""
    folder = ("shares", b32encode(si)[:2], b32encode(si))
    descriptor = jail.open(names, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        if not holds_mutable(descriptor):
            if not aside:
                return True
            return _same_in_place(jail, (*folder, str(shnum)), descriptor) or not _proves(
                descriptor, size, si, shnum, pulse
            )
        told = told_of(descriptor, size, si, shnum)
        if told is None:
            return not unknown_version(descriptor)
        if any(told.seqnum <= seqnum for seqnum in _standing(jail, folder, si, told.fingerprint)):
            return True
        return not _proves(descriptor, size, si, shnum, pulse)
    finally:
        os.close(descriptor)


def _proves(descriptor: int, size: int, si: bytes, shnum: int, pulse: Callable[[], None]) -> bool:
    """Whether it is whole; of what comes from a later version it can't be told, and that counts as whole."""
    prove = prove_mutable if holds_mutable(descriptor) else prove_immutable
    try:
        prove(descriptor, size, si, shnum, pulse=pulse, strict=False)
    except CorruptShare:
        return unknown_version(descriptor)
    return True


def _same_in_place(jail: Jail, names: Sequence[str], descriptor: int) -> bool:
    """Whether the share that stands in the place is the same as an immutable one, leases aside."""
    with suppress(FileNotFoundError, NotADirectoryError, CorruptShare):
        standing = jail.open(names, os.O_RDONLY)
        try:
            lengths = [shape(each, os.fstat(each).st_size).share_size for each in (standing, descriptor)]
            return lengths[0] == lengths[1] and all(
                os.pread(standing, size, start) == os.pread(descriptor, size, start)
                for start in range(HEADER_SIZE, HEADER_SIZE + lengths[0], _PIECE)
                for size in [min(_PIECE, HEADER_SIZE + lengths[0] - start)]
            )
        finally:
            os.close(standing)
    return False


def _standing(jail: Jail, folder: Sequence[str], si: bytes, fingerprint: bytes) -> Iterator[int]:
    """The seqnums of the shares in place that are of this key."""
    with suppress(FileNotFoundError, NotADirectoryError), jail.folder(folder) as above:
        for name in os.listdir(above):
            if not is_number(name):
                continue
            with suppress(OSError):
                descriptor = open_file(above, name, os.O_RDONLY)
                try:
                    told = told_of(descriptor, os.fstat(descriptor).st_size, si, int(name))
                    if told is not None and told.fingerprint == fingerprint:
                        yield told.seqnum
                finally:
                    os.close(descriptor)
