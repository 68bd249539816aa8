"""What is being fetched: shares that serve, segments on their way (the state that `fetch` works on)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from lafscli.errors import CorruptShare
from lafscli.proof.shares import ShareReader
from lafscli.storage.store import Buffer, ShareStore


@dataclass(eq=False, slots=True)
class Source:
    """One share on one server. A slow one, or one that had a bad block, is used but no longer relied on."""

    store: ShareStore
    shnum: int
    state: Literal["found", "opening", "ready", "gone"] = "found"
    slow: bool = False
    since: float = 0.0
    reader: ShareReader | None = None


@dataclass(eq=False, slots=True)
class Segment:
    """One segment under way: requests that are out, blocks that came, the result once it is decoded.

    It is built in `buffer`; `beside` is as large, and has the `placed` blocks that are no part of it as they are.
    """

    number: int
    buffer: memoryview
    beside: memoryview | None = None
    placed: int = 0
    asked: dict[Source, float] = field(default_factory=dict)
    tried: set[Source] = field(default_factory=set)
    blocks: dict[int, tuple[Source, Buffer]] = field(default_factory=dict)
    decoding: bool = False
    result: Buffer | None = None

    def place(self, primary: int | None, length: int, buffer: Callable[[], memoryview]) -> memoryview | None:
        """Where to read a block of this length into, which nothing else is read into: its place in the segment if its
        number as a `primary` one is given, else a place beside it, as long as there is one. `buffer` makes the room."""
        if primary is not None:
            return self.buffer[primary * length : (primary + 1) * length]
        if self.beside is None:
            self.beside = buffer()
        start = self.placed * length
        self.placed += 1
        return self.beside[start : start + length] if start + length <= len(self.beside) else None


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a codec thread made of a segment: its bytes, or the shares whose blocks are wrong."""

    data: Buffer
    wrong: list[tuple[Source, str]]


def wrong_blocks(number: int, chosen: dict[int, tuple[Source, Buffer]]) -> list[tuple[Source, str]]:
    """The blocks of one segment that are not those of their shares, and why."""
    wrong: list[tuple[Source, str]] = []
    for source, block in chosen.values():
        assert source.reader is not None
        try:
            source.reader.check_block(number, block)
        except CorruptShare as error:
            wrong.append((source, error.message))
    return wrong
