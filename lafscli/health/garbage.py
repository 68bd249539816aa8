"""Shares found on one server that may go, in the order of its inventory; 28 bytes each."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from lafscli.storage.store import StorageIndex

_RECORD = struct.Struct(">16sLQ")


@dataclass(slots=True)
class Heap:
    """What one server has of it."""

    _records: bytearray = field(default_factory=bytearray)

    def add(self, si: StorageIndex, shnum: int, size: int) -> None:
        """Note a share; all those of an object one after the other."""
        self._records += _RECORD.pack(si, shnum, size)

    def __iter__(self) -> Iterator[tuple[StorageIndex, int, int]]:
        return _RECORD.iter_unpack(self._records)

    def objects(self) -> Iterator[tuple[StorageIndex, dict[int, int]]]:
        """Object by object: size of each share, by number."""
        for si, shares in groupby(self, key=itemgetter(0)):
            yield si, {shnum: size for _, shnum, size in shares}
