"""Where a page is: a cap and the names that lead on from it, as addresses and as fields of forms.

A browser takes `.` and `..` for steps, encoded or not: what has such a name is addressed by the query of its directory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import quote, unquote_to_bytes

_STEPS = frozenset((".", ".."))


@dataclass(frozen=True, slots=True)
class Place:
    """`root`: the text of a cap. `names`: the path from there."""

    root: str = field(repr=False)
    names: tuple[str, ...] = ()

    @property
    def at(self) -> str:
        """The names as one field of a form; `names_of` reads it."""
        return "/".join(encoded(name) for name in self.names)

    @property
    def href(self) -> str:
        """The address of what is here; that of its directory, or one above, where a browser can't name it."""
        names = self.names[: next((i for i, name in enumerate(self.names) if name in _STEPS), len(self.names))]
        return "/".join(("/uri", quote(self.root, safe=":"), *map(encoded, names)))

    @property
    def info(self) -> str:
        """The address of the page about what is here."""
        if self.names and self.names[-1] in _STEPS:
            return f"{self.up.href}?t=info&entry={encoded(self.names[-1])}"
        return f"{self.href}?t=info"

    @property
    def addressable(self) -> bool:
        """Whether a browser can name it by its path."""
        return _STEPS.isdisjoint(self.names)

    @property
    def up(self) -> Place:
        return Place(self.root, self.names[:-1])

    @property
    def trail(self) -> list[Place]:
        """The places on the way, the root first, this one last."""
        return [Place(self.root, self.names[:depth]) for depth in range(len(self.names) + 1)]

    def below(self, name: str) -> Place:
        return Place(self.root, (*self.names, name))


def encoded(name: str) -> str:
    """A name as a component of an address."""
    return quote(name, safe="")


def names_of(at: str) -> tuple[str, ...]:
    """The names of a field of a form; ValueError for what was never made by `at`."""
    names = tuple(unquote_to_bytes(part).decode() for part in at.split("/")) if at else ()
    if "" in names:
        raise ValueError("an empty name")
    return names


def by_cap(cap: str, name: str | None) -> str:
    """The address of an object by its cap alone; of a file with a name for it."""
    if name is None or name in _STEPS:
        return f"/uri/{quote(cap, safe=':')}"
    return f"/named/{quote(cap, safe=':')}/{encoded(name)}"
