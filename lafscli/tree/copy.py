"""What copying trees tells, whichever way they go (CLI.md §2, §4): what was copied, what could not be, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lafscli.errors import LafsError, Unreachable
from lafscli.storage.store import Progress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Chain(Generic[T]):
    """What identifies a directory, and those that led there: what is in its own chain contains itself."""

    here: T
    above: Chain[T] | None = None

    def holds(self, one: T) -> bool:
        each: Chain[T] | None = self
        while each is not None:
            if each.here == one:
                return True
            each = each.above
        return False


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that was not copied."""

    path: str
    error: LafsError


@dataclass(slots=True)
class Copied:
    """What was copied so far: `files`, of which `linked` by their caps alone, `directories`, and the `bytes` of all
    content that moved."""

    files: int = 0
    linked: int = 0
    directories: int = 0
    bytes: int = 0
    errors: list[Trouble] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Copying:
    """How to copy. `preserve`: keep times and modes. `follow`: symbolic links of a local tree lead on.

    `named` is called with each thing that can't be copied, at once.
    """

    preserve: bool = False
    follow: bool = False
    progress: Progress = field(default_factory=Progress)
    named: Callable[[Trouble], None] = field(default=lambda _: None)
    done: Copied = field(default_factory=Copied)

    def fail(self, path: str, error: LafsError) -> None:
        """Note that something can't be copied, and go on; raises where no server is there to go on with."""
        if isinstance(error, Unreachable):
            raise error
        trouble = Trouble(path, error)
        self.done.errors.append(trouble)
        self.named(trouble)


class Throughout(Progress):
    """One phase over all the transfers of a copy: what they begin is no new phase."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self.advance = shown.advance  # type: ignore[method-assign]
        self.server = shown.server  # type: ignore[method-assign]
        self.warn = shown.warn  # type: ignore[method-assign]

    def start(self, phase: str, total: int | None) -> None:
        """No new phase."""
