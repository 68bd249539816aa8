"""An older version of a mutable share put back in its place, by the admin at the host."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

from lafscli.errors import CorruptShare
from lafscli.formats.mutable_container import DATA_OFFSET, LEASE_SIZE, MutableContainer, MutableLease
from lafscli.server.backend import FAILURE, NO_SUCH_FILE, Refused
from lafscli.server.history import UNFINISHED, History
from lafscli.server.judge import ProvenSlot, holds_mutable, prove_mutable, slot_container
from lafscli.server.placing import Proofs, Standing, another_key
from lafscli.server.shelves import Shelves, plain_file, rename_keeping

_PIECE = 1 << 20
_SLOTS = 4


def restore(
    shelves: Shelves, history: History, si: bytes, shnum: int, version: str, *, pulse: Callable[[], None]
) -> None:
    """Under the turn. Refused where no such version is kept, or where another file than that stands in the place."""
    name = f"{shnum}.{version}"
    known = {kept.name for kept in history.versions(si)}
    if name not in known:
        raise Refused(NO_SUCH_FILE, f"no version {version} is kept")
    with history.folder(si) as folder, shelves.shares(si, make=True) as shares:
        history.tidy(folder)
        kept_fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            kept_size = plain_file(kept_fd, name).st_size
            kept = prove_mutable(kept_fd, kept_size, si, shnum, pulse=pulse)
            with shelves.share(shares, shnum) as found:
                if found is None:
                    made = _made(folder, shelves, kept_fd, kept.container, None)
                    rename_keeping(folder, made, shares, str(shnum))
                else:
                    fd, status = found
                    standing = Standing(fd, status.st_size, si, shnum, Proofs(pulse))
                    told = _standing(standing, kept)
                    made = _made(folder, shelves, kept_fd, kept.container, told.container if told else _old(standing))
                    if told is None or (told.version != kept.version and standing.fails()):
                        shelves.quarantine(shares, si, shnum)
                    elif told.version != kept.version:
                        history.keep(shares, si, shnum, told)
                    else:
                        shelves.used(-status.st_size)
                    os.rename(made, str(shnum), src_dir_fd=folder, dst_dir_fd=shares)
            os.fsync(shares)
            shelves.used(os.stat(str(shnum), dir_fd=shares, follow_symlinks=False).st_size - kept_size)
            os.unlink(name, dir_fd=folder)
        finally:
            os.close(kept_fd)


def _standing(standing: Standing, kept: ProvenSlot) -> ProvenSlot | None:
    """What stands in the place, as far as its signature proves it; None for one that is damaged."""
    if not holds_mutable(standing.fd):
        if not standing.fails():
            raise Refused(FAILURE, "an immutable share stands there")
        return None
    told = standing.told()
    if told is not None and told.fingerprint != kept.fingerprint:
        raise Refused(FAILURE, another_key(standing.si))
    return told


def _old(standing: Standing) -> MutableContainer | None:
    try:
        return slot_container(standing.fd, standing.size, strict=False)
    except CorruptShare:
        return None


def _made(folder: int, shelves: Shelves, fd: int, kept: MutableContainer, old: MutableContainer | None) -> str:
    """A new container in the folder: the kept share, the leases of both, the header of the one that stands there."""
    made = kept.resized(kept.data_length)
    if old is not None:
        made = replace(made, node_id=old.node_id, write_enabler=old.write_enabler)
        made = _with_leases(made, old).resized(kept.data_length)
    name = f"{UNFINISHED}{shelves.token()}"
    new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        with os.fdopen(new, "wb") as file:
            file.write(made.front())
            for start in range(0, kept.data_length, _PIECE):
                length = min(_PIECE, kept.data_length - start)
                file.write(os.pread(fd, length, DATA_OFFSET + start))
            file.write(made.back())
            file.flush()
            os.fchmod(file.fileno(), os.fstat(fd).st_mode & 0o777)
            os.fdatasync(file.fileno())
    except BaseException:
        os.unlink(name, dir_fd=folder)
        raise
    return name


def _with_leases(made: MutableContainer, old: MutableContainer) -> MutableContainer:
    """The leases of both, each until the later of its ends; as version 2, unless both are of version 1."""
    version = max(made.version, old.version)
    records: dict[tuple[bytes, bytes], MutableLease] = {}
    for lease in (*made.leases, *old.leases):
        one = lease.hashed() if lease.version < version else lease
        earlier = records.get((one.renew, one.cancel))
        if earlier is None or earlier.expiration < one.expiration:
            records[one.renew, one.cancel] = one
    leases = tuple(records.values())
    free = MutableLease.parse(bytes(LEASE_SIZE), version)
    slots = (leases + (free,) * _SLOTS)[:_SLOTS]
    return replace(made, version=version, slots=slots, extra=leases[_SLOTS:])
