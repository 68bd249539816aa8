"""What is to be looked at: the objects that some caps name, and with `deep` all that directories lead to (spec 04 §7).

Each object comes once, whatever leads to it. Nothing stops at a bad object: a directory that can't be read is still an
object that can be checked, and is named at the end with what is below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from lafscli.formats.caps import Cap, DirectoryCap, UnknownCap
from lafscli.health.check import Checkable
from lafscli.tree.contents import Access
from lafscli.tree.walk import Visit, walk

UNKNOWN = "it is of a kind that lafs does not know"


@dataclass(frozen=True, slots=True)
class Root:
    """Where to begin. `name`: what it is called in reports; names inside are put behind it."""

    name: str
    cap: Cap = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unseen:
    """What could not be looked at, and why; of a directory, what is below it."""

    path: str
    reason: str


class Objects:
    """Goes over objects once. `paths`: what each is called, by its number in the order of `caps`, until it is taken.

    `unseen` grows meanwhile; `count` is how many have come; `ended`: there are no more.
    """

    def __init__(self, access: Access, roots: Sequence[Root], *, deep: bool) -> None:
        self._access = access
        self._roots = roots
        self._deep = deep
        self._seen: set[bytes] = set()
        self._paths: dict[int, str] = {}
        self.unseen: list[Unseen] = []
        self.count = 0
        self.ended = False

    def caps(self) -> Iterator[Checkable]:
        """The objects, by the caps that lead to them."""
        for root in self._roots:
            for visit in walk(self._access, root.cap) if self._deep else [Visit((), root.cap, None)]:
                path = joined(root.name, visit.path)
                self._note(path, visit)
                cap = visit.cap
                if isinstance(cap, UnknownCap):
                    self.unseen.append(Unseen(path, cap.error or UNKNOWN))
                elif self._first(cap):
                    self._paths[self.count] = path
                    self.count += 1
                    yield cap  # type: ignore[misc]
        self.ended = True

    def take_path(self, number: int) -> str:
        """What an object is called; asked for once."""
        return self._paths.pop(number)

    def _note(self, path: str, visit: Visit) -> None:
        if visit.error is not None:
            self.unseen.append(Unseen(path, f"what is in it was not looked at: {visit.error.message}"))
        if visit.directory is not None:
            for entry in visit.directory.left_out:
                self.unseen.append(Unseen(joined(path, (entry.name,)), entry.reason))

    def _first(self, cap: Cap) -> bool:
        """Whether no other root has led to it. What is in its cap is known by nothing, and counts each time."""
        verify = cap.verify_cap()
        if verify is None or not self._deep:
            return True
        key = sha256(str(verify.inner if isinstance(verify, DirectoryCap) else verify).encode()).digest()
        if key in self._seen:
            return False
        self._seen.add(key)
        return True


def joined(name: str, names: Sequence[str]) -> str:
    """What an object is called that names lead to from a root."""
    if not names:
        return name
    inside = "/".join(names)
    return name + inside if name.endswith((":", "/")) else f"{name}/{inside}"
