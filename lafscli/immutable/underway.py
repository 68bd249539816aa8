"""What is being fetched: shares that serve, segments on their way (the state that `fetch` works on)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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
    """One segment under way: requests that are out, blocks that came, the result once it is decoded."""

    number: int
    buffer: memoryview
    asked: dict[Source, float] = field(default_factory=dict)
    tried: set[Source] = field(default_factory=set)
    blocks: dict[int, tuple[Source, Buffer]] = field(default_factory=dict)
    decoding: bool = False
    result: Buffer | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a codec thread made of a segment: its bytes, or the shares whose blocks are wrong."""

    data: Buffer
    wrong: list[tuple[Source, str]]
