"""Go on with an upload that was interrupted (DESIGN §1.9).

The journal says what was durable where. Nothing of that is believed: a staged share is cut to it, its end and random
pieces are read back, and what is encoded again must equal them; any difference starts that upload anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from lafscli.immutable.pipeline import ShareFeed
from lafscli.storage.grid import Grid
from lafscli.storage.journal import Journal, Staged, UploadRecord
from lafscli.storage.store import ShareStore, StorageIndex

_END_BYTES = 256 << 10
_PIECES = 16
_PIECE_BYTES = 64 << 10
_SAVE_SECONDS = 0.5


class Resume:
    """What one upload knows of its interrupted predecessor, and leaves for its successor.

    Without a journal (a random key, a pipe), or while another process has the record, nothing is known or left.
    """

    def __init__(self, journal: Journal | None, si: StorageIndex, random_bytes: Callable[[int], bytes]) -> None:
        self._record: UploadRecord | None = None if journal is None else journal.begin(si)
        self._random_bytes = random_bytes
        self._saved = 0.0
        self._feeds: Sequence[ShareFeed] = ()

    @property
    def keeps(self) -> bool:
        """Whether what is staged is of use to a later run."""
        return self._record is not None

    def staged(self, shnum: int, server: str) -> tuple[str, int] | None:
        """Name and durable length of what was staged of this share on this server."""
        found = None if self._record is None else self._record.staged.get(shnum)
        return None if found is None or found.server != server else (found.name, found.offset)

    def pieces(self, length: int) -> list[tuple[int, int]]:
        """Which (offset, length) of a staged share are read back: its end, and random pieces before that."""
        end = max(0, length - _END_BYTES)
        ranges = [(end, length - end)]
        for _ in range(_PIECES if end else 0):
            offset = int.from_bytes(self._random_bytes(8), "big") % end
            ranges.append((offset, min(_PIECE_BYTES, end - offset)))
        return ranges

    def begin(self, grid: Grid, feeds: Sequence[ShareFeed]) -> None:
        """These shares are under way now; what was staged elsewhere is of no use any more."""
        self._feeds = feeds
        if self._record is None:
            return
        mine = {(feed.store.server.name, feed.writer.staged) for feed in feeds}
        for stale in self._record.staged.values():
            if (stale.server, stale.name) not in mine:
                for store in grid.stores:
                    if store.server.name == stale.server:
                        grid.submit(store, partial(_discard, stale.name))
        self._record.staged = {}
        self.note(now=True)

    def note(self, *, now: bool = False) -> None:
        """Write down how far the servers are, now or when that was not done for a while."""
        if self._record is None or not (now or time.monotonic() - self._saved > _SAVE_SECONDS):
            return
        for feed in self._feeds:
            if feed.error is None:
                self._record.staged[feed.shnum] = Staged(
                    feed.store.server.name, feed.writer.staged, feed.writer.durable
                )
            else:
                self._record.staged.pop(feed.shnum, None)
        self._record.save()
        self._saved = time.monotonic()

    def forget(self) -> None:
        """What was staged is gone; the upload begins again."""
        self._feeds = ()
        if self._record is not None:
            self._record.staged = {}
            self._record.save()

    def finish(self) -> None:
        """Nothing is left to go on with."""
        if self._record is not None:
            self._record.finish()

    def close(self) -> None:
        """Give the record back."""
        if self._record is not None:
            self._record.close()


def _discard(staged: str, store: ShareStore) -> None:
    store.discard_staged(staged)
