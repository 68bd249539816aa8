"""The file `aliases` of a home: names for caps, in the format of a Tahoe node's `private/aliases` (spec 08 §6).

    name: cap       a line each; `#` begins a comment; a name that stands there twice is the later cap

Lines that are not understood are kept. Changes are made under the home's lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from lafscli.config.home import Home, write_atomically
from lafscli.errors import LafsError, NotFound, UsageError
from lafscli.formats.caps import Cap, UnknownCap, parse

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_GRAMMAR = "a letter or a digit, then letters, digits and . _ -"


def is_name(text: str) -> bool:
    """Whether this can be the name of an alias (CLI.md §2)."""
    return bool(_NAME.fullmatch(text)) and text != "URI"


def check_name(name: str) -> str:
    """The name; UsageError for what can't be one."""
    if not is_name(name):
        raise UsageError(f"{name!r} can't be the name of an alias", hint=f"{_GRAMMAR}; not URI")
    return name


def load(home: Home) -> dict[str, Cap]:
    """All aliases, in the order of the file. One whose cap can't be read is an UnknownCap with an error."""
    return dict(parse_lines(_read(home.path / "aliases")))


def get(home: Home, name: str) -> Cap:
    """What an alias stands for: NotFound, or UsageError where its cap can't be read."""
    found = load(home).get(name)
    if found is None:
        raise NotFound(f"there is no alias {name!r}", hint=f"lafs alias create {name}, or lafs alias list")
    if isinstance(found, UnknownCap):
        reason = found.error or "its cap is of a kind that lafs does not know"
        raise UsageError(f"alias {name}: {reason}", hint=f"it stands in {home.path / 'aliases'}")
    return found


def add(home: Home, name: str, cap: Cap) -> None:
    """Give a cap a name; LafsError where the name is taken."""
    check_name(name)

    def change(lines: list[str]) -> list[str]:
        free(lines, name)
        return [*lines, f"{name}: {cap}"]

    _edit(home, change)


def remove(home: Home, name: str) -> Cap:
    """Forget a name; what it stood for."""
    gone: list[Cap] = []

    def change(lines: list[str]) -> list[str]:
        gone.extend(cap for each, cap in parse_lines("\n".join(lines)) if each == name)
        if not gone:
            raise NotFound(f"there is no alias {name!r}", hint="lafs alias list")
        return [line for line in lines if _name(line) != name]

    _edit(home, change)
    return gone[-1]


def rename(home: Home, old: str, new: str) -> None:
    """Give an alias another name; LafsError where that is taken."""
    check_name(new)

    def change(lines: list[str]) -> list[str]:
        if not any(_name(line) == old for line in lines):
            raise NotFound(f"there is no alias {old!r}", hint="lafs alias list")
        if new != old:
            free(lines, new)
        return [f"{new}:{line.partition(':')[2]}" if _name(line) == old else line for line in lines]

    _edit(home, change)


def free(lines: list[str], name: str) -> None:
    """LafsError where a name is taken."""
    if any(_name(line) == name for line in lines):
        raise LafsError(f"there is an alias {name!r} already", hint=f"lafs alias rename {name} NEW, or another name")


def can_add(home: Home, name: str) -> None:
    """Raise what `add` surely would, before anything is made that the name is for."""
    check_name(name)
    free(_read(home.path / "aliases").split("\n"), name)
    with home.locked():
        pass


def parse_lines(text: str) -> Iterator[tuple[str, Cap]]:
    """Names and caps of a file, in its order."""
    for line in text.split("\n"):
        name = _name(line)
        if name:
            yield name, parse(line.partition(":")[2].strip())


def strange_lines(home: Home) -> list[int]:
    """Numbers of the lines, from 1, that are neither aliases nor comments."""
    lines = [line.strip() for line in _read(home.path / "aliases").split("\n")]
    return [number for number, line in enumerate(lines, 1) if line and not line.startswith("#") and not _name(line)]


def all_lines(home: Home) -> list[tuple[str, Cap]]:
    """All aliases, also those that a later line of the same name hides."""
    return list(parse_lines(_read(home.path / "aliases")))


def _name(line: str) -> str:
    """The alias of a line; "" where it has none."""
    name, colon, cap = line.partition(":")
    name = name.strip()
    return name if colon and cap.strip() and not name.startswith("#") else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise LafsError(f"cannot read {path}: {error.strerror}") from error


def _edit(home: Home, change: Callable[[list[str]], list[str]]) -> None:
    path = home.path / "aliases"
    with home.locked():
        lines = change(_read(path).removesuffix("\n").split("\n"))
        text = "\n".join(lines).removeprefix("\n")
        write_atomically(path, f"{text}\n".encode(errors="surrogateescape") if text else b"")
