"""A whole share that is to be copied: what there is to read of it, and what proves it (spec 02 §7).

Runs in codec threads, but for the generators; knows no servers beyond where a share lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lafscli.errors import CorruptShare, LafsError
from lafscli.formats.caps import ChkVerifyCap
from lafscli.formats.chk import HEADER_MAX, UEB_LIMIT, Layout
from lafscli.health import proofs
from lafscli.proof.claims import claimed_cap, ueb_range
from lafscli.proof.shares import ShareReader
from lafscli.storage.store import Buffer, ShareStore, StorageIndex

PIECE_SIZE = 512 << 10
"""Neighbouring blocks are read together up to so many bytes; a larger block alone."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A share to be looked at. `cap`: what it must prove against, None for one that is not known. `room`: what its
    container leaves for the share (`ShareStore.share_size`)."""

    si: StorageIndex
    shnum: int
    store: ShareStore
    room: int
    cap: ChkVerifyCap | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """A small share, all of it proved."""

    wanted: Wanted
    cap: ChkVerifyCap
    data: memoryview = field(repr=False)

    @property
    def size(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True, slots=True)
class Large:
    """A large share of which all but the blocks is proved. `head` and `tail` are what stands before the blocks, and
    after the area that only very old writers used."""

    wanted: Wanted
    cap: ChkVerifyCap
    reader: ShareReader
    layout: Layout
    head: bytes = field(repr=False)
    tail: bytes = field(repr=False)

    @property
    def size(self) -> int:
        return self.reader.share_size


Proved = Whole | Large


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a large share: the blocks `first` to `last` (not included), or none of them."""

    offset: int
    length: int
    first: int
    last: int


def prove_all(read: Sequence[tuple[Wanted, Buffer | LafsError]]) -> list[Proved | LafsError]:
    """Small shares, each from all of its bytes; what was no good, or could not be read, in its place."""
    return [data if isinstance(data, LafsError) else _prove_whole(item, memoryview(data)) for item, data in read]


def _prove_whole(item: Wanted, data: memoryview) -> Whole | LafsError:
    try:
        cap = item.cap
        if cap is None:
            layout = Layout.parse(data[:HEADER_MAX])
            start, length = ueb_range(layout, len(data))
            cap = claimed_cap(item.si, layout, data[start : start + length])
        held: list[tuple[proofs.Ranges, Sequence[Buffer]]] = []
        while not isinstance(found := proofs.open_share(cap, item.shnum, held, item.room), proofs.Opened):
            held.append((found, [data[offset : offset + length] for offset, length in found]))
        if found.length:
            proofs.check_unused(data[found.start : found.start + found.length], found.length)
        if found.wrong is None:
            first = found.reader.block_range(0)[0]
            sizes = found.reader.sizes
            blocks = proofs.split_blocks(sizes, 0, sizes.num_segments, data[first : first + sizes.share_data])
            wrong = proofs.wrong_blocks(found.reader, 0, blocks)
        else:
            wrong = found.wrong
        if wrong:
            return CorruptShare(wrong[0])
        return Whole(item, cap, data[: found.reader.share_size])
    except CorruptShare as error:
        return error


def prove_piece(share: Large, piece: Piece, data: Buffer) -> None:
    """CorruptShare unless these bytes are what belongs there."""
    reader = share.reader
    if len(data) != piece.length:
        raise CorruptShare(f"the share ends before byte {piece.offset + piece.length}")
    if piece.first < piece.last:
        wrong = proofs.wrong_blocks(
            reader, piece.first, proofs.split_blocks(reader.sizes, piece.first, piece.last, data)
        )
        if wrong:
            raise CorruptShare(wrong[0])
    elif b"plaintext_root_hash:" not in reader.ueb:
        proofs.check_unused(data, piece.length)


# ---- pieces


def pieces(share: Large) -> Iterator[Piece]:
    """What lies between head and tail: the blocks, and the area behind them that is empty in all but very old shares
    (what the opening has found empty is read again, for it is copied)."""
    reader, layout = share.reader, share.layout
    count, most = reader.sizes.num_segments, max(1, PIECE_SIZE // reader.sizes.block_size)
    for first in range(0, count, most):
        last = min(first + most, count)
        offset, _ = reader.block_range(first)
        end, length = reader.block_range(last - 1)
        yield Piece(offset, end + length - offset, first, last)
    for offset in range(layout.plaintext_hash_tree, layout.crypttext_hash_tree, PIECE_SIZE):
        yield Piece(offset, min(PIECE_SIZE, layout.crypttext_hash_tree - offset), 0, 0)


def assemble(item: Wanted, cap: ChkVerifyCap, held: Sequence[tuple[proofs.Ranges, Sequence[Buffer]]]) -> Large:
    """The share whose opening fetched these ranges. What goes into the copy is proved once more: a server may answer
    two questions about the same bytes differently. CorruptShare."""
    layout = Layout.parse(held[0][1][0][:HEADER_MAX])
    head, tail = _joined(held, 0, layout.data), _joined(held, layout.crypttext_hash_tree, layout.uri_extension)
    room = layout.length_size + UEB_LIMIT
    tail += _joined(held, layout.uri_extension, layout.uri_extension + room)

    def fetch(ranges: proofs.Ranges) -> list[Buffer]:
        return [_part(head, tail, layout.crypttext_hash_tree, *each) for each in ranges]

    reader = ShareReader(cap, item.shnum)
    reader.open(fetch, strict=True)
    return Large(item, cap, reader, layout, head, tail[: reader.share_size - layout.crypttext_hash_tree])


def _joined(held: Sequence[tuple[proofs.Ranges, Sequence[Buffer]]], start: int, end: int) -> bytes:
    """The bytes of a share from `start` to `end`, as far as they were fetched."""
    parts = [
        (offset, memoryview(data)[:length])
        for ranges, answers in held
        for (offset, length), data in zip(ranges, answers, strict=True)
    ]
    made = bytearray()
    for offset, data in sorted(parts, key=lambda part: part[0]):
        at = start + len(made)
        if offset <= at < offset + len(data):
            made += data[at - offset : end - offset]
    return bytes(made)


def _part(head: bytes, tail: bytes, tail_at: int, offset: int, length: int) -> bytearray:
    """A range of a share with nothing between head and tail."""
    part = bytearray(max(0, min(offset + length, tail_at + len(tail)) - offset))
    part[: len(head) - offset if offset < len(head) else 0] = head[offset : offset + length]
    if offset + len(part) > tail_at:
        first = max(offset, tail_at)
        part[first - offset :] = tail[first - tail_at : offset + len(part) - tail_at]
    return part
