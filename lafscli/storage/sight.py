"""What a server has of a mutable file: containers in place, and those that lie in guards (spec 03 §8, 10 §2.8a).

Nothing is proven here: a sight holds the first bytes of each container as the server gave them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lafscli.errors import LafsError
from lafscli.primitives.encoding import Buffer


@dataclass(frozen=True, slots=True)
class Survivor:
    """A container in a guard: staged, or moved aside. It may be the only one left of its share."""

    path: str
    shnum: int
    aside: bool
    token: str
    """Of the guard that it was put into."""
    broken: bool
    """It lies in a guard that was broken or set aside, and not in the one that is held now."""
    size: int
    mtime: int


@dataclass(frozen=True, slots=True)
class Survivors:
    """All containers in guards of one storage index, and the folders of the broken ones, inner ones first. `held`:
    there is a guard that is not broken, of somebody else."""

    containers: tuple[Survivor, ...]
    folders: tuple[str, ...]
    held: bool = False

    @property
    def any(self) -> bool:
        """Whether somebody is, or was, about to change the file there."""
        return self.held or bool(self.folders or self.containers)


@dataclass(frozen=True, slots=True)
class Container:
    """A file that is, or should be, a mutable container.

    `kind`: it lies in place, or in a guard: moved aside, or staged. `size` and `mtime` are the file's; `front` its
    first bytes, or why they can't be read.
    """

    path: str
    shnum: int
    kind: Literal["place", "aside", "staged"]
    size: int
    mtime: int
    front: Buffer | LafsError = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sight:
    """All that was seen of one slot on one server. `survivors` is what guards held, for `forget`."""

    containers: tuple[Container, ...] = ()
    survivors: Survivors | None = None
