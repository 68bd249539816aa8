"""Get a file from the grid: find shares, prove, decode, decrypt (spec 02 §7).

What leaves here was proved against the cap. A share that lies is dropped and named; a server that is slow gets
company: another share is asked for the same segments, and whichever comes first is used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from lafscli.formats.caps import ChkCap, LitCap
from lafscli.immutable.fetch import SegmentFetch
from lafscli.immutable.pipeline import Codec
from lafscli.storage.grid import Grid
from lafscli.storage.report import BadShare
from lafscli.storage.store import Buffer, Progress


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download gave: `size` bytes, of which the first `kept` were there already; the shares that lied and the
    servers that failed on the way."""

    size: int
    kept: int = 0
    corrupt: list[BadShare] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)


class Held(Protocol):
    """What an earlier download of the same file wrote."""

    def read(self, offset: int, length: int) -> Buffer:
        """Its bytes there; fewer where it ends."""

    def keep(self, count: int) -> None:
        """The first `count` bytes proved to be good; what follows is written anew, from there."""


def download(
    grid: Grid,
    cap: LitCap | ChkCap,
    write: Callable[[Buffer], object],
    *,
    offset: int = 0,
    length: int | None = None,
    progress: Progress | None = None,
    held: Held | None = None,
) -> Downloaded:
    """Write `length` bytes of the file from `offset` (to its end by default), in order, each proved before.

    A range beyond the end is cut. Raises NotRecoverable when every server answered and fewer than k good shares
    exist, CannotTell when silent servers leave that open.

    With `held` a download of the whole file is gone on with: only what does not prove to be there is fetched.
    """
    progress = progress or Progress()
    if isinstance(cap, LitCap):
        if held is not None:
            held.keep(0)
        piece = cap.content[offset : None if length is None else offset + length]
        write(piece)
        return Downloaded(len(piece))
    start = min(offset, cap.size)
    stop = cap.size if length is None else min(cap.size, start + length)
    if start == stop:
        return Downloaded(0)
    progress.start("get", stop - start)
    fetch = SegmentFetch(grid, cap.verify_cap(), start, stop, progress, cap.key)
    if held is not None:
        start = fetch.prove(held.read)
        held.keep(start)
        progress.advance(start)
    with Codec.of(stop - start) as codec:
        for position, plaintext in fetch.run(codec):
            view = memoryview(plaintext)[max(0, start - position) : stop - position]
            write(view)
            progress.advance(view.nbytes)
    first = min(offset, cap.size)
    return Downloaded(stop - first, start - first, fetch.corrupt, fetch.silent)
