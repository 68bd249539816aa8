"""Ranges of shares under way, read out of their containers (spec 02 §6, 03 §8)."""

from __future__ import annotations

from collections.abc import Sequence

from lafscli.errors import FileError, LafsError
from lafscli.formats import container
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.storage.store import Buffer, FileRange, Files, Reading, ShareRange

_KNOWN_LIMIT = 4096


class ReadingShares:
    """A `ShareReading`; the head of an immutable container is read along with its first range.

    `readable` are paths of containers whose head was seen to be good.
    """

    def __init__(self, files: Files, readable: set[str], wanted: Sequence[ShareRange]) -> None:
        self._readable = readable
        self._paths = [item.where or container.share_path(item.si, item.shnum) for item in wanted]
        self._heads: dict[str, int] = {}
        ranges: list[FileRange] = []
        for path, item in zip(self._paths, wanted, strict=True):
            if item.where is not None:
                ranges.append(
                    FileRange(path, DATA_OFFSET + item.offset, item.length, item.keep, item.into, item.keeper)
                )
                continue
            if path not in readable and path not in self._heads:
                self._heads[path] = len(ranges)
                ranges.append(FileRange(path, 0, container.HEAD_SIZE, item.keep, keeper=item.keeper))
            start = container.HEADER_SIZE + item.offset
            ranges.append(FileRange(path, start, item.length, item.keep, item.into, item.keeper))
        self._reading: Reading = files.read(ranges)

    def finish(self) -> list[Buffer | LafsError]:
        answers = self._reading.finish()
        refused: dict[str, LafsError] = {}
        for path, index in self._heads.items():
            head = answers[index]
            try:
                if isinstance(head, FileError):
                    raise head
                container.check_head(head)
            except LafsError as error:
                refused[path] = error
            else:
                if len(self._readable) >= _KNOWN_LIMIT:
                    self._readable.clear()
                self._readable.add(path)
        heads = set(self._heads.values())
        data = [answer for index, answer in enumerate(answers) if index not in heads]
        return [refused.get(path, answer) for path, answer in zip(self._paths, data, strict=True)]
