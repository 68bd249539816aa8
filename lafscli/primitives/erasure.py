"""Erasure code: any k of n blocks rebuild a segment (spec 01 §7).

zfec works through its pieces in strides that stay in the cache; cutting them smaller here was measured and is slower
(3-of-10, 1 MiB: whole pieces 340 MB/s, cut to 64 KiB 330, to 16 KiB 325, to 4 KiB 310).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import zfec

from lafscli.primitives.encoding import Buffer

_KEPT = 8 << 20


@lru_cache(maxsize=16)
def _encoder(k: int, n: int) -> Any:
    _keep_memory()
    return zfec.Encoder(k, n)


@lru_cache(maxsize=16)
def _decoder(k: int, n: int) -> Any:
    _keep_memory()
    return zfec.Decoder(k, n)


@lru_cache(maxsize=1)
def _keep_memory() -> None:
    """Have blocks that were freed used again.

    By default glibc gives memory of this size back to the system, and getting it anew page by page was a third of the
    time of coding a 1 MiB segment (480 page faults; 5.3 against 3.6 ms). Freeing one large piece raises its limits,
    see mallopt(3) at M_MMAP_THRESHOLD; elsewhere it does nothing. The piece is never touched.
    """
    bytes(_KEPT)


def encode(k: int, n: int, segment: Buffer) -> list[Buffer]:
    """The n blocks of a segment of at least one byte, each of ceil(length / k) bytes.

    The first k are slices of `segment` where no padding is needed: they are good for as long as it does not change.
    """
    if k == 1:
        return [segment] * n
    pieces = _pieces(k, memoryview(segment))
    if k == n:
        return pieces
    return [*pieces, *_encoder(k, n).encode(tuple(pieces), tuple(range(k, n)))]


def encode_some(k: int, n: int, segment: Buffer, numbers: Collection[int]) -> dict[int, Buffer]:
    """The same for some of the n blocks: those of the numbers that are asked for."""
    if k == 1:
        return dict.fromkeys(numbers, segment)
    pieces = _pieces(k, memoryview(segment))
    blocks = {number: pieces[number] for number in numbers if number < k}
    coded = tuple(number for number in numbers if number >= k)
    if coded:
        blocks |= zip(coded, _encoder(k, n).encode(tuple(pieces), coded), strict=True)
    return blocks


def _pieces(k: int, segment: memoryview) -> list[Buffer]:
    length = len(segment)
    size = -(-length // k)
    whole = length // size
    pieces: list[Buffer] = [segment[i * size : (i + 1) * size] for i in range(whole)]
    if whole < k:
        pieces.append(bytes(segment[whole * size :]).ljust(size, b"\0"))
        pieces.extend([bytes(size)] * (k - whole - 1))
    return pieces


def decode(k: int, n: int, blocks: Mapping[int, Buffer], length: int, into: memoryview | None = None) -> Buffer:
    """The segment of `length` bytes from k or more of its blocks by number; into the first bytes of `into` if given.

    The blocks must be of one size, ceil(length / k). Primary blocks may be slices of `into` if they lie in their own
    places there: they stay where they are.
    """
    primary = [number for number in range(k) if number in blocks]
    others = [number for number in blocks if number >= k]
    numbers = (primary + others)[:k]
    assert len(numbers) == k, "too few blocks"
    size = -(-length // k)
    assert all(len(blocks[number]) == size for number in numbers), "blocks of different sizes"
    if k == 1:
        pieces = [blocks[numbers[0]]]
    elif len(primary) == k:
        pieces = [blocks[number] for number in range(k)]
    else:
        pieces = _decoder(k, n).decode(tuple(blocks[number] for number in numbers), tuple(numbers))
    if into is None:
        return pieces[0] if k == 1 else memoryview(b"".join(pieces))[:length]
    position = 0
    for piece in pieces:
        count = min(size, length - position)
        if count <= 0:
            break
        if not isinstance(piece, memoryview) or piece.obj is not into.obj:
            into[position : position + count] = memoryview(piece)[:count]
        position += count
    return into[:length]
