"""What is proved of a share and of a file, on bytes that were fetched; run in codec threads (spec 05 §5, 02 §7).

Verifying is stricter than reading: also what no reader looks at (unused areas, sizes in the header) must be what a
writer stores there, since repair can make it so again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lafscli.errors import CorruptShare
from lafscli.formats.caps import ChkVerifyCap
from lafscli.formats.chk import HEADER_MAX, Layout, Sizes
from lafscli.primitives import erasure
from lafscli.proof.shares import ShareReader, check_segment
from lafscli.storage.store import Buffer

Ranges = Sequence[tuple[int, int]]


class _Wanted(Exception):
    """Opening a share wants bytes that were not fetched yet."""

    def __init__(self, ranges: Ranges) -> None:
        super().__init__()
        self.ranges = ranges


@dataclass(frozen=True, slots=True)
class Opened:
    """A share of which everything but its blocks is proved.

    `length` zeros must still be found from `start` on. `wrong`: for a small share, whose blocks came along, why
    blocks are wrong; None for any other.
    """

    reader: ShareReader
    start: int
    length: int
    wrong: list[str] | None


def open_share(
    cap: ChkVerifyCap, shnum: int, held: Sequence[tuple[Ranges, Sequence[Buffer]]], data_length: int
) -> Opened | Ranges:
    """Prove the share from the ranges that were fetched so far; or say which ranges to fetch next.

    `data_length` is the room that the container leaves for the share. Raises CorruptShare.
    """
    replies = iter(held)

    def fetch(ranges: Ranges) -> Sequence[Buffer]:
        reply = next(replies, None)
        if reply is None:
            raise _Wanted(ranges)
        return reply[1]

    reader = ShareReader(cap, shnum)
    try:
        reader.open(fetch, strict=True)
    except _Wanted as wanted:
        return wanted.ranges
    layout = Layout.parse(held[0][1][0][:HEADER_MAX])
    _check_layout(layout, Layout.build(reader.sizes, layout.version))
    if reader.share_size > data_length:
        raise CorruptShare("container: its leases reach into the share")
    # very old writers kept hashes of the plaintext there
    length = 0 if b"plaintext_root_hash:" in reader.ueb else reader.sizes.tree_size
    start = layout.plaintext_hash_tree
    for ranges, answers in held:
        for (offset, _), data in zip(ranges, answers, strict=True):
            if offset <= start and start + length <= offset + len(data):
                check_unused(memoryview(data)[start - offset : start - offset + length], length)
                length = 0
    count = reader.sizes.num_segments
    blocks = [block for i in range(count) if (block := reader.prefetched(i)) is not None] if count < 4096 else []
    return Opened(reader, start, length, wrong_blocks(reader, 0, blocks) if len(blocks) == count else None)


_LAYOUT_FIELDS = tuple(field for field in Layout.__slots__ if field != "version")


def _check_layout(layout: Layout, expected: Layout) -> None:
    for name in _LAYOUT_FIELDS:
        if getattr(layout, name) != getattr(expected, name):
            raise CorruptShare(f"share header: {name} is {getattr(layout, name)}, not {getattr(expected, name)}")


def check_unused(data: Buffer, length: int) -> None:
    """CorruptShare unless these are `length` zeros."""
    if len(data) != length or bytes(data).strip(b"\0"):
        raise CorruptShare("plaintext hash tree: is not empty")


def split_blocks(sizes: Sizes, first: int, last: int, data: Buffer) -> list[Buffer]:
    """The blocks `first` to `last` (not included) that lie one after the other in `data`."""
    view = memoryview(data)
    step = sizes.block_size
    return [view[(i - first) * step : (i - first) * step + sizes.block_length(i)] for i in range(first, last)]


def wrong_blocks(reader: ShareReader, first: int, blocks: Sequence[Buffer]) -> list[str]:
    """Why blocks are wrong; nothing for those that are right. The first of them is block `first`."""
    wrong = []
    for number, block in enumerate(blocks, first):
        try:
            reader.check_block(number, block)
        except CorruptShare as error:
            wrong.append(error.message)
    return wrong


def check_segments(reader: ShareReader, k: int, n: int, first: int, blocks: dict[int, Sequence[Buffer]]) -> None:
    """CorruptShare unless the k blocks of each segment from `first` on (by share number) decode to the file's."""
    sizes = reader.sizes
    for position in range(len(next(iter(blocks.values())))):
        number = first + position
        chosen = {shnum: row[position] for shnum, row in blocks.items()}
        data = erasure.decode(k, n, chosen, sizes.segment_length(number))
        try:
            check_segment(reader.segment_hash(number), data)
        except CorruptShare as error:
            raise CorruptShare(f"segment {number}: its blocks decode to other bytes than were uploaded") from error
