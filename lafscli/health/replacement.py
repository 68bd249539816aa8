"""A new share in its place, and a bad one out of it, under the guard (spec 10 §3); run in a server's worker."""

from __future__ import annotations

from collections.abc import Callable

from lafscli.errors import CorruptShare, FileError, FileExists, LafsError
from lafscli.formats.caps import ChkVerifyCap
from lafscli.health import proofs
from lafscli.health.underway import STRIPE
from lafscli.immutable.pipeline import fetcher
from lafscli.storage.store import Buffer, Lease, ShareStore, ShareWriter

Change = Callable[[ShareStore], bool]

_TOGETHER = 4
"""Runs of blocks that are read in one go."""


def put_in_place(cap: ChkVerifyCap, shnum: int, writer: ShareWriter, *, bad: bool, patience: float) -> Change:
    """A call for a store: make a share visible that is staged and durable. `bad`: a bad one is known to lie there.

    True when it is in place; False when a good one lies there by now, which somebody else has put there.
    """

    def call(store: ShareStore) -> bool:
        if not bad:
            try:
                writer.commit()
            except FileExists:
                pass
            else:
                return True
        with store.guard(cap.si, patience=patience) as guard:
            if is_good(store, cap, shnum, guard.keep):
                return False
            guard.adopt(shnum, writer.staged)
            guard.commit([shnum], quarantine=True)
        return True

    return call


def take_out(cap: ChkVerifyCap, shnum: int, lease: Lease, *, patience: float) -> Change:
    """A call for a store: put a bad share away (`Guard.bury`). False when the share there is good by now."""

    def call(store: ShareStore) -> bool:
        with store.guard(cap.si, patience=patience) as guard:
            if is_good(store, cap, shnum, guard.keep):
                return False
            guard.bury([shnum], lease)
        return True

    return call


def is_good(store: ShareStore, cap: ChkVerifyCap, shnum: int, keep: Callable[[], None]) -> bool:
    """Whether the share that lies there proves, every byte of it; not so where there is none, or it can't be read.
    `keep` is called again and again meanwhile. Raises ServerUnreachable."""
    store.release(cap.si, shnum)
    try:
        _prove(store, cap, shnum, keep)
    except (CorruptShare, FileError):
        return False
    return True


def _prove(store: ShareStore, cap: ChkVerifyCap, shnum: int, keep: Callable[[], None]) -> None:
    [room] = store.share_size([(cap.si, shnum)])
    if isinstance(room, LafsError):
        raise room
    fetch = fetcher(store, cap.si, shnum)
    held: list[tuple[proofs.Ranges, list[Buffer]]] = []
    while not isinstance(opened := proofs.open_share(cap, shnum, held, room), proofs.Opened):
        held.append((opened, fetch(opened)))
    if opened.wrong is not None:
        if opened.wrong:
            raise CorruptShare(opened.wrong[0])
        return
    reader = opened.reader
    end = opened.start + opened.length
    for start in range(opened.start, end, STRIPE):
        length = min(STRIPE, end - start)
        [data] = fetch([(start, length)])
        proofs.check_unused(data, length)
    sizes = reader.sizes
    most = max(1, STRIPE // sizes.block_size)
    firsts = range(0, sizes.num_segments, most)
    for at in range(0, len(firsts), _TOGETHER):
        keep()
        runs = [(first, min(first + most, sizes.num_segments)) for first in firsts[at : at + _TOGETHER]]
        ranges = []
        for first, last in runs:
            start, _ = reader.block_range(first)
            stop, length = reader.block_range(last - 1)
            ranges.append((start, stop + length - start))
        for (first, last), (_, length), data in zip(runs, ranges, fetch(ranges), strict=True):
            if memoryview(data).nbytes != length:
                raise CorruptShare(f"the share ends within block {last - 1}")
            wrong = proofs.wrong_blocks(reader, first, proofs.split_blocks(sizes, first, last, data))
            if wrong:
                raise CorruptShare(wrong[0])
