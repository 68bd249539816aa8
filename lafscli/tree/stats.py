"""What a tree holds, counted (spec 08 §5)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isqrt

from lafscli.formats.caps import Cap, ChkCap, ChkVerifyCap, DirectoryCap, LitCap, UnknownCap
from lafscli.tree.directory import Directory
from lafscli.tree.walk import Visit


def file_size(cap: Cap) -> int | None:
    """How many bytes a file has, where its cap tells."""
    if isinstance(cap, LitCap):
        return len(cap.content)
    return cap.size if isinstance(cap, ChkCap | ChkVerifyCap) else None


@dataclass(slots=True)
class Stats:
    """Objects by kind, and how large they are; a mutable file's size is in no cap, and is not counted."""

    count_immutable_files: int = 0
    count_mutable_files: int = 0
    count_literal_files: int = 0
    count_directories: int = 0
    count_unknown: int = 0
    size_immutable_files: int = 0
    size_literal_files: int = 0
    size_directories: int = 0
    largest_directory: int = 0
    largest_directory_children: int = 0
    largest_immutable_file: int = 0
    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, visit: Visit) -> None:
        """Count an object."""
        cap = visit.cap
        if isinstance(cap, DirectoryCap):
            self.count_directories += 1
            if visit.directory is not None:
                self._measure(visit.directory)
        elif isinstance(cap, UnknownCap):
            self.count_unknown += 1
        elif isinstance(cap, LitCap):
            self.count_literal_files += 1
            self.size_literal_files += len(cap.content)
            self.buckets[_bucket(len(cap.content))] += 1
        elif isinstance(cap, ChkCap | ChkVerifyCap):
            self.count_immutable_files += 1
            self.size_immutable_files += cap.size
            self.largest_immutable_file = max(self.largest_immutable_file, cap.size)
            self.buckets[_bucket(cap.size)] += 1
        else:
            self.count_mutable_files += 1

    def _measure(self, directory: Directory) -> None:
        size = len(directory.table.serialise())
        self.size_directories += size
        self.largest_directory = max(self.largest_directory, size)
        self.largest_directory_children = max(self.largest_directory_children, len(directory.table))

    @property
    def count_files(self) -> int:
        return self.count_immutable_files + self.count_mutable_files + self.count_literal_files

    @property
    def size_files_histogram(self) -> list[list[int]]:
        """[least size, greatest size, files], two buckets a decade; those without files are left out."""
        return [[*_bounds(number), self.buckets[number]] for number in sorted(self.buckets)]

    def document(self) -> dict[str, object]:
        """The keys of spec 08 §5, with `_`."""
        return {
            "api_version": 1,
            "count_immutable_files": self.count_immutable_files,
            "count_mutable_files": self.count_mutable_files,
            "count_literal_files": self.count_literal_files,
            "count_files": self.count_files,
            "count_directories": self.count_directories,
            "count_unknown": self.count_unknown,
            "size_immutable_files": self.size_immutable_files,
            "size_literal_files": self.size_literal_files,
            "size_directories": self.size_directories,
            "largest_directory": self.largest_directory,
            "largest_directory_children": self.largest_directory_children,
            "largest_immutable_file": self.largest_immutable_file,
            "size_files_histogram": self.size_files_histogram,
        }


def _bounds(number: int) -> tuple[int, int]:
    """Bucket 0 is 0-0; then 1-3, 4-10, 11-31, 32-100: the square roots of powers of ten."""
    return (0, 0) if number == 0 else (isqrt(10 ** (number - 1)) + (number > 1), isqrt(10**number))


def _bucket(size: int) -> int:
    return next(number for number in _numbers() if size <= _bounds(number)[1])


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1
