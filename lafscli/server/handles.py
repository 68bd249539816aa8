"""Files that a client has open: to read, to write what is staged, to change the leases of a share.

Who writes holds a shared flock on the file; what puts a file in its place takes an exclusive one. So nothing that
somebody still writes gets into a place, and nothing that has its place is written.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress

from lafscli.server.backend import (
    APPEND,
    FAILURE,
    PERMISSION_DENIED,
    READ,
    WRITE,
    Attrs,
    Change,
    Refused,
)
from lafscli.server.jail import asking, attrs_of, open_file
from lafscli.server.quota import ENTRY, Quota


class Plain:
    """A file that is read."""

    def __init__(self, descriptor: int, flags: int) -> None:
        self._descriptor = descriptor
        self._readable = bool(flags & READ)
        self._writable = bool(flags & WRITE)
        self._append = bool(flags & APPEND)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if not self._readable:
            raise Refused(PERMISSION_DENIED, "it is not open for reading")
        if offset >= 1 << 63:
            return 0
        with asking():
            return os.preadv(self._descriptor, [buffer], offset)

    def write(self, offset: int, data: memoryview) -> None:  # noqa: ARG002
        raise Refused(PERMISSION_DENIED, "it is not open for writing")

    def attrs(self) -> Attrs:
        with asking():
            return attrs_of(os.fstat(self._descriptor))

    def change(self, change: Change) -> None:  # noqa: ARG002
        raise Refused(PERMISSION_DENIED, "it is not open for writing")

    def sync(self) -> None:
        with asking():
            os.fsync(self._descriptor)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            with asking():
                os.close(descriptor)


class Staged(Plain):
    """A file that is being written: a staged share, or something small (`most`: bytes that it may have)."""

    def __init__(self, descriptor: int, flags: int, quota: Quota, *, most: int | None = None) -> None:
        super().__init__(descriptor, flags)
        self._quota = quota
        self._most = most
        self._ticket = quota.ticket()

    def write(self, offset: int, data: memoryview) -> None:
        if not self._writable:
            raise Refused(PERMISSION_DENIED, "it is not open for writing")
        descriptor = self._descriptor
        with asking():
            if self._append:
                offset = os.fstat(descriptor).st_size
            end = offset + len(data)
            if end >= 1 << 63:
                raise Refused(FAILURE, "no file is that long")
            if self._most is not None and end > self._most:
                raise Refused(PERMISSION_DENIED, f"here are no files of more than {self._most} bytes")
            if self._quota.metered:
                self._quota.take(end - os.fstat(descriptor).st_size)
            while data:
                done = os.pwrite(descriptor, data, offset)
                offset += done
                data = data[done:]

    def change(self, change: Change) -> None:
        """Its size. Mode and times are as they are whatever is asked (`put -p` asks), an owner is refused."""
        if change.owner is not None:
            raise Refused(PERMISSION_DENIED, "files here belong to the server")
        if change.size is None:
            return
        if not self._writable:
            raise Refused(PERMISSION_DENIED, "it is not open for writing")
        if change.size >= 1 << 63 or (self._most is not None and change.size > self._most):
            raise Refused(FAILURE, "no file here is that long")
        with asking():
            if self._quota.metered:
                # What is cut off is not given back: another handle may be about to write there.
                self._quota.take(change.size - os.fstat(self._descriptor).st_size)
            os.ftruncate(self._descriptor, change.size)

    def close(self) -> None:
        if self._descriptor >= 0 and self._quota.limit is not None:
            with suppress(OSError):
                self._give_back()
        super().close()

    def _give_back(self) -> None:
        """What has no name any more is given back by the last who has it open."""
        self._quota.begin()
        # one who has counted anew since it was opened may have missed it already
        if os.fstat(self._descriptor).st_nlink == 0 and self._quota.ticket() == self._ticket:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._quota.free(os.fstat(self._descriptor).st_size + ENTRY)
            self._quota.settle()


class Leases(Plain):
    """A share in its place: it is read, and its leases change by their own rules. `patch` takes the descriptor, an
    offset (None: the end) and data, and writes or refuses."""

    def __init__(self, descriptor: int, flags: int, patch: Callable[[int, int | None, bytes], None]) -> None:
        super().__init__(descriptor, flags)
        self._patch = patch

    def write(self, offset: int, data: memoryview) -> None:
        if not self._writable:
            raise Refused(PERMISSION_DENIED, "it is not open for writing")
        with asking():
            self._patch(self._descriptor, None if self._append else offset, bytes(data))

    def change(self, change: Change) -> None:  # noqa: ARG002
        raise Refused(PERMISSION_DENIED, "a share does not change; of it only leases do")


def writing(descriptor: int) -> None:
    """Begin to write an open file, or Refused: it is about to get its place."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(FAILURE, "it is just being put in its place") from None
    if os.fstat(descriptor).st_nlink != 1:
        raise Refused(PERMISSION_DENIED, "it has a second name, or none any more")


def remove_file(above: int, name: str, quota: Quota, *, idle: bool = False) -> None:
    """Take the name of a file that is not in its place out of an open folder; Refused where it is about to get it.

    What is written by somebody still is given back when he closes it; `idle`: it is refused, too.
    """
    descriptor = open_file(above, name, os.O_RDONLY)
    try:
        alone = removing(descriptor)
        if idle and not alone:
            raise Refused(FAILURE, "it is being written")
        found = os.fstat(descriptor)
        if not os.path.samestat(found, os.stat(name, dir_fd=above, follow_symlinks=False)):
            raise Refused(FAILURE, "another file has its name by now")
        quota.begin()
        os.unlink(name, dir_fd=above)
        if found.st_nlink > 1:
            quota.free(ENTRY)
        elif alone:
            quota.free(ENTRY + found.st_size)
    finally:
        os.close(descriptor)


def removing(descriptor: int) -> bool:
    """Before a staged name goes or changes: what is about to get its place must keep it. Whether nobody else has the
    file open for writing."""
    for how, alone in ((fcntl.LOCK_EX, True), (fcntl.LOCK_SH, False)):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            return alone
    raise Refused(FAILURE, "it is just being put in its place")
