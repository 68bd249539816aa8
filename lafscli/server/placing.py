"""What may take the place of a share: judged by what is to come, what stands there, and what stands beside it.

stands there        to come: immutable                       to come: mutable
nothing             a well-formed one, with no mutable one   one that proves, of the key that its siblings have,
                    beside it                                and with no immutable ones alone beside it
immutable, good     refused: is there already                refused: another kind
mutable, good       refused: another kind                    the same key, and newer; or the same share again, with
                                                             more leases
fails its own proof one that proves; the old one goes to     one that proves, of the key that can still be told
                    quarantine/                              and no older; the old one goes to quarantine/
"""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from lafscli.errors import CorruptShare
from lafscli.formats.mutable_container import DATA_OFFSET, LEASE_SIZE, MutableContainer, MutableLease
from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import FAILURE, Refused
from lafscli.server.judge import (
    Immutable,
    ProvenSlot,
    holds_mutable,
    prove_immutable,
    prove_mutable,
    slot_container,
    told_mutable,
    unknown_version,
    well_formed,
)
from lafscli.server.shelves import Shelves

_COUNT_SIZE = 4
_PIECE = 1 << 20
_STEP = 2_000_000_000
"""Nanoseconds within which the time of a file may be the same after it was changed."""

New = Immutable | ProvenSlot


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to become of the container that stands in the place: one that is bad goes to quarantine; of one that was
    good, `slot` is the version."""

    bad: bool
    slot: ProvenSlot | None


class Proofs:
    """What was found of containers, as long as nobody has touched them since: what takes long is done before the turn
    is taken, and holds up nobody. Where it lets a share give way that was written to a moment ago, it is looked at
    again under the turn, for the time of a file has steps."""

    def __init__(self, pulse: Callable[[], None], now: Callable[[], int] = time.time_ns) -> None:
        self._pulse = pulse
        self._now = now
        self._found: dict[tuple[tuple[int, ...], ...], bool] = {}

    def fails(self, fd: int, si: bytes, shnum: int) -> bool:
        """Whether the container fails its own proof, every block looked at; what readers do not mind is no failure."""

        def failing() -> bool:
            prove = prove_mutable if holds_mutable(fd) else prove_immutable
            try:
                prove(fd, os.fstat(fd).st_size, si, shnum, pulse=self._pulse, strict=False)
            except CorruptShare:
                return True
            return False

        return self._known(failing, fd)

    def same(self, one: int, container: MutableContainer, other: int, there: MutableContainer) -> bool:
        """Whether two containers hold the same share, byte for byte: what nothing proves, too."""
        return self._known(lambda: _same_share(one, container, other, there, self._pulse), one, other)

    def _known(self, find: Callable[[], bool], *fds: int) -> bool:
        state = tuple(map(_state, fds))
        if state not in self._found:
            began = self._now()
            found = find()
            if tuple(map(_state, fds)) != state or (found and state[-1][-1] > began - _STEP):
                return found
            self._found[state] = found
        return self._found[state]


def _state(fd: int) -> tuple[int, ...]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True, slots=True)
class Standing:
    """The container that stands in a place."""

    fd: int
    size: int
    si: bytes
    shnum: int
    proofs: Proofs

    def fails(self) -> bool:
        return self.proofs.fails(self.fd, self.si, self.shnum)

    def told(self) -> ProvenSlot | None:
        """Of a mutable one, its key and version, if its signature proves them."""
        return told_of(self.fd, self.size, self.si, self.shnum)


def told_of(fd: int, size: int, si: bytes, shnum: int) -> ProvenSlot | None:
    with suppress(CorruptShare):
        return told_mutable(fd, size, si, shnum, strict=False)
    return None


def instead(
    new: New, source_fd: int, standing: Standing, now: float, here: Callable[[], bytes | None] = lambda: None
) -> Verdict:
    """Whether `new`, which is open, may take the place of what stands there; Refused says why not. An immutable `new`
    was proven. `here` tells the node id of this server, where it has one.

    Of one that stands there damaged, the key counts as long as the signature proves it; where it does not, any share
    that proves may come, of the key that its siblings have: `fits_beside` sees to that.
    """
    if unknown_version(standing.fd):
        raise Refused(FAILURE, "a share of a version that is not known here is there")
    if isinstance(new, Immutable):
        if not standing.fails():
            if holds_mutable(standing.fd):
                raise Refused(FAILURE, f"{b32encode(standing.si)} holds a mutable file")
            raise Refused(FAILURE, "is there already")
        return Verdict(True, None)
    if not holds_mutable(standing.fd):
        if not standing.fails():
            raise Refused(FAILURE, f"{b32encode(standing.si)} holds an immutable file")
        return Verdict(True, None)
    told = standing.told()
    if told is None:
        _keeps_leases(new.container, _container(standing), now)
        return Verdict(True, None)
    if told.fingerprint != new.fingerprint:
        raise Refused(FAILURE, another_key(standing.si))
    if new.version < told.version:
        raise Refused(FAILURE, f"not newer: {_described(told)} is there")
    if new.version == told.version:
        if not standing.fails():
            # Who adds a lease puts the same share there again, with one lease more.
            same = standing.proofs.same(source_fd, new.container, standing.fd, told.container)
            if not (same and _has_more_leases(new.container, told.container)):
                raise Refused(FAILURE, f"not newer: {_described(told)} is there already")
            _keeps_write_enabler(new.container, told.container, lambda: told.container.node_id)
            _keeps_leases(new.container, told.container, 0)  # nor any that has ended: that is for the host
            return Verdict(False, None)
        _keeps_leases(new.container, told.container, now)
        return Verdict(True, told)
    _keeps_write_enabler(new.container, told.container, here)
    _keeps_leases(new.container, told.container, now)
    return Verdict(False, told)


def _same_share(
    one: int, container: MutableContainer, other: int, there: MutableContainer, pulse: Callable[[], None]
) -> bool:
    if container.data_length != there.data_length:
        return False
    for start in range(DATA_OFFSET, DATA_OFFSET + there.data_length, _PIECE):
        length = min(_PIECE, DATA_OFFSET + there.data_length - start)
        if os.pread(one, length, start) != os.pread(other, length, start):
            return False
        if start - DATA_OFFSET & 15 * _PIECE == 0:
            pulse()
    return True


def _has_more_leases(new: MutableContainer, old: MutableContainer) -> bool:
    return not {_secrets(lease) for lease in new.leases} <= {_secrets(lease) for lease in old.leases}


def another_key(si: bytes) -> str:
    return f"another key holds the storage index {b32encode(si)}"


def _described(slot: ProvenSlot) -> str:
    return f"version {slot.seqnum} ({b32encode(slot.root_hash)[:8]})"


def _container(standing: Standing) -> MutableContainer | None:
    with suppress(CorruptShare):
        return slot_container(standing.fd, standing.size, strict=False)
    return None


def _keeps_write_enabler(new: MutableContainer, old: MutableContainer, here: Callable[[], bytes | None]) -> None:
    """A newer version can be put back by one without its key: the owner must be able to write here afterwards."""
    if new.node_id == old.node_id:
        if hmac.compare_digest(new.write_enabler, old.write_enabler):
            return
    elif (mine := here()) is None or new.node_id == mine:
        return  # one that was carried here from another server gets the write enabler of this one, and its node id
    raise Refused(FAILURE, "its write enabler and node id are not those of the container that is there")


def _keeps_leases(new: MutableContainer, old: MutableContainer | None, now: float) -> None:
    """A newer version can be put back by one without its key: he must not take the leases of others with it."""
    if old is None:
        return
    kept: dict[tuple[bytes, bytes], int] = {}
    for lease in new.leases:
        kept[_secrets(lease)] = max(lease.expiration, kept.get(_secrets(lease), 0))
    for lease in old.leases:
        if lease.expiration >= now and kept.get(_secrets(lease), -1) < lease.expiration:
            what = "ends earlier in the new one" if _secrets(lease) in kept else "is not in the new one"
            raise Refused(FAILURE, f"a lease of the container that is there {what}")


def _secrets(lease: MutableLease) -> tuple[bytes, bytes]:
    """The same for the records of both versions of containers."""
    stored = lease.hashed()
    return stored.renew, stored.cancel


def check_container(container: MutableContainer) -> None:
    """A new container is whole: room for the extra leases behind the share, and nothing behind them."""
    room = container.extra_range
    if room is None:
        raise CorruptShare("container: no number of extra leases behind its data")
    length = len(container.extra) * LEASE_SIZE
    if container.file_size != container.extra_offset + _COUNT_SIZE + length:
        raise CorruptShare("container: something follows its extra leases")
    assert container.extra_offset >= DATA_OFFSET + container.data_length, "that is its range"


def fits_beside(shelves: Shelves, folder: int, new: New, si: bytes, shnum: int) -> None:
    """Whether a share may come where none stands, or a bad one: Refused where others of its storage index are proven
    to be of another key, or of a mutable file while this one is not."""
    others = immutables = False
    for number in shelves.numbers(folder):
        told = _sibling(shelves, folder, si, number, new) if number != shnum else None
        if told is None:
            continue
        if isinstance(told, Immutable):
            immutables = True
        elif isinstance(new, Immutable):
            raise Refused(FAILURE, f"{b32encode(si)} holds a mutable file")
        elif told.fingerprint == new.fingerprint:
            return
        else:
            others = True
    if others:
        raise Refused(FAILURE, another_key(si))
    if immutables and not isinstance(new, Immutable):
        raise Refused(FAILURE, f"{b32encode(si)} holds an immutable file")


def _sibling(shelves: Shelves, folder: int, si: bytes, shnum: int, new: New) -> New | None:
    # what can't even be opened has no key
    with suppress(OSError, Refused, CorruptShare), shelves.share(folder, shnum) as found:
        if found is not None and holds_mutable(found[0]):
            return told_of(found[0], found[1].st_size, si, shnum)
        if found is not None and not isinstance(new, Immutable):  # which minds no other one
            return well_formed(found[0], found[1].st_size, shnum, strict=False)
    return None


def same_file(fd: int, folder: int, name: str) -> bool:
    """Whether the name in the folder is still that of the open file."""
    try:
        named = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino)
