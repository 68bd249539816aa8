"""Proofs over files that may claim anything: parts of a share by descriptor, and hash trees that are never in memory.

However large a tree or a block is said to be, there are a few kilobytes of each level of the tree, and one piece of
the block; and nothing is read that the file does not have.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from lafscli.errors import CorruptShare
from lafscli.primitives.hashes import block_hash, block_hasher, merkle_filler, merkle_node
from lafscli.primitives.hashtree import HASH_SIZE, width

_PIECE = 1 << 20
_WINDOW = 128 * HASH_SIZE
_PULSE = 16 << 20


def no_pulse() -> None:
    """For one who has nothing else to do meanwhile."""


@dataclass(slots=True)
class Part:
    """A part of an open file, from `start` on, `size` bytes long. `pulse` is called every 16 MB that were hashed."""

    fd: int
    start: int
    size: int
    pulse: Callable[[], None] = no_pulse
    _buffer: bytearray = field(default_factory=bytearray)
    _hashed: int = 0

    def read(self, offset: int, length: int, what: str) -> bytes:
        """These bytes, which the caller has bounded; CorruptShare where the part ends before."""
        if offset < 0 or offset + length > self.size:
            raise CorruptShare(f"{what}: the share ends before")
        data = os.pread(self.fd, length, self.start + offset)
        while len(data) < length:
            more = os.pread(self.fd, length - len(data), self.start + offset + len(data))
            if not more:
                raise CorruptShare(f"{what}: the file ends before")
            data += more
        return data

    def block_hash(self, offset: int, length: int, what: str) -> bytes:
        """Hash of a block, however long it is."""
        if offset < 0 or offset + length > self.size:
            raise CorruptShare(f"{what}: the share ends before")
        if not self._buffer:
            self._buffer = bytearray(min(_PIECE, self.size))
        view = memoryview(self._buffer)
        if length <= len(view):
            return block_hash(self._fill(view[:length], offset, what))
        state = block_hasher()
        for begin in range(0, length, len(view)):
            piece = view[: min(len(view), length - begin)]
            state.update(self._fill(piece, offset + begin, what))
        return state.digest()

    def _fill(self, view: memoryview, offset: int, what: str) -> memoryview:
        done = 0
        while done < len(view):
            got = os.preadv(self.fd, [view[done:]], self.start + offset + done)
            if not got:
                raise CorruptShare(f"{what}: the file ends before")
            done += got
        self._hashed += len(view)
        if self._hashed >= _PULSE:
            self._hashed = 0
            self.pulse()
        return view


class StoredTree:
    """A hash tree over `leaf_count` leaves as a share has it at `offset`. Its leaves are added one by one, in order,
    and each node that follows from them must be the one that is stored."""

    def __init__(self, part: Part, offset: int, leaf_count: int, what: str) -> None:
        self._part = part
        self._offset = offset
        self._count = leaf_count
        self._width = width(leaf_count)
        self._what = what
        levels = self._width.bit_length()
        self._next = [0] * levels
        self._left = [b""] * levels
        self._windows = [(0, b"")] * levels
        self._added = 0

    @property
    def root(self) -> bytes:
        """As it is stored: proven when `finish` has passed."""
        return self._part.read(self._offset, HASH_SIZE, self._what)

    def stored_leaf(self, number: int) -> bytes:
        """As it is stored. In ascending order only."""
        return self._stored(0, number)

    def add(self, leaf: bytes) -> None:
        """CorruptShare unless this is the next leaf."""
        assert self._added < self._count, "all leaves were there"
        self._add(leaf)

    def finish(self) -> None:
        """After the last leaf."""
        assert self._added == self._count, "not all leaves were added"
        for position in range(self._count, self._width):
            self._add(merkle_filler(position))

    def _add(self, node: bytes) -> None:
        self._added += 1
        top = len(self._next) - 1
        for level in range(top + 1):
            number = self._next[level]
            if self._stored(level, number) != node:
                where = f"leaf {number}" if level == 0 else "a node above its leaves"
                raise CorruptShare(f"{self._what}: {where} is not what it must be")
            self._next[level] = number + 1
            if level == top:
                return
            if number % 2 == 0:
                self._left[level] = node
                return
            node = merkle_node(self._left[level], node)

    def _stored(self, level: int, number: int) -> bytes:
        first, window = self._windows[level]
        at = (number - first) * HASH_SIZE
        if not 0 <= at < len(window):
            across = self._width >> level
            length = min(_WINDOW, (across - number) * HASH_SIZE)
            window = self._part.read(self._offset + (across - 1 + number) * HASH_SIZE, length, self._what)
            self._windows[level] = number, window
            at = 0
        return window[at : at + HASH_SIZE]
