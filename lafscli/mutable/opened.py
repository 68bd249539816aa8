"""One version of a mutable file, open for as long as somebody likes to read it: its pieces are pulled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from lafscli.formats.caps import MutableReadCap, MutableWriteCap
from lafscli.formats.slot import Header
from lafscli.mutable.blocks import Blocks, TooFewBlocks
from lafscli.mutable.retrieve import Reading, changed, note, versions
from lafscli.storage.grid import Grid


class OpenVersion:
    """The best version there is when this is made, as `retrieve` chooses it; the same one is read to the end.

    NotRecoverable, CannotTell or Unreachable where none can be read, RolledBack with `reading.strict`. `warnings` are
    what the user should know. `ahead`: how many bytes may be fetched before they are pulled. Used by one
    thread at a time; `close` it.
    """

    version: Header
    warnings: list[str]

    def __init__(
        self, grid: Grid, cap: MutableReadCap | MutableWriteCap, reading: Reading, ahead: Callable[[], int]
    ) -> None:
        self._cap = cap.read_cap()
        self._ahead = ahead
        self._versions = partial(versions, grid, self._cap, reading)
        for blocks, _, warnings in self._versions():
            if self._holds(blocks):
                self.version, self.warnings = blocks.version, warnings
                note(self._cap.verify_cap(), blocks.version, reading)
                return
        raise AssertionError("looking ends with a version or an error")

    @property
    def size(self) -> int:
        """In bytes."""
        return self.version.prefix.data_length

    def pieces(self, offset: int, length: int) -> Iterator[bytes]:
        """The content from `offset`, each piece proven. CannotTell when too little is left of this version."""
        given = 0
        while True:
            try:
                for piece in self._blocks.read(offset, length):
                    yield piece
                    given += len(piece)
                return
            except TooFewBlocks as error:
                if given:
                    raise changed(self._cap) from error
            self._look_again()

    def _look_again(self) -> None:
        """Find the same version in other shares."""
        self._blocks.release()
        for blocks, _, _ in self._versions():
            if blocks.version != self.version:
                break
            if self._holds(blocks):
                return
        raise changed(self._cap)

    def _holds(self, blocks: Blocks) -> bool:
        """Keep the shares of these blocks open, and read from them; whether enough of them can be."""
        try:
            blocks.hold()
        except TooFewBlocks:
            blocks.release()
            return False
        self._take(blocks)
        return True

    def _take(self, blocks: Blocks) -> None:
        blocks.ahead = self._ahead
        self._blocks = blocks

    def close(self) -> None:
        """Close what was kept open at servers."""
        self._blocks.release()
