"""The accounts of the SFTP gateway: who may log in with which key, and which directory is theirs.

    NAME TYPE BASE64 TARGET        a line each; `#` begins a comment line

NAME is the user's name at login, TYPE and BASE64 a public key as in `authorized_keys`, TARGET all that is left of the
line: a cap, CAP/PATH, ALIAS[:PATH], @FILE or @FILE/PATH. A name stands on a line for each of its keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lafscli.config import aliases
from lafscli.config.home import Home
from lafscli.errors import LafsError
from lafscli.formats.caps import DirectoryCap, UnknownCap, parse
from lafscli.server.keys import Key, blob_of, trusted_text
from lafscli.tree.paths import split

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}")
_HINT = "one account a line: NAME, public key, cap or alias; lafs man gateway sftp"


class AccountRefused(LafsError):
    """A line that lets nobody in; the message says why, and shows nothing of its cap."""


@dataclass(frozen=True, slots=True)
class Account:
    """One line: a name, one key that may log in under it, and where its directory is."""

    name: str
    key: Key
    root: DirectoryCap = field(repr=False)
    path: tuple[str, ...] = ()


Accounts = dict[tuple[str, bytes], Account]
"""By name and key."""


def load(path: Path, home: Home, note: Callable[[str], None]) -> Accounts:
    """The accounts of a file; `note` hears of each line that lets nobody in, by its number.

    LafsError where the file can't be read, or others may read or write it: it holds caps.
    """
    found: Accounts = {}
    for number, line in enumerate(trusted_text(path, hint=_HINT, secret=True).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            account = read(line, path.parent, home)
            place = account.name, account.key.blob
            if place in found:
                raise AccountRefused("this name and key stand further up already")
            found[place] = account
        except LafsError as refusal:
            hint = f" ({refusal.hint})" if refusal.hint else ""
            note(f"{path}:{number}: account refused: {refusal.message}{hint}")
    return found


def read(line: str, folder: Path, home: Home) -> Account:
    """The account of one line; LafsError says what is wrong with it. A FILE is looked for in `folder`."""
    words = line.split(None, 3)
    if len(words) < 4:
        raise AccountRefused("a line has four parts: NAME, type and text of a public key, cap or alias")
    name, kind, encoded, target = words
    if not _NAME.fullmatch(name):
        raise AccountRefused("a name has letters, digits and _ . @ + -, and no more than 64 of them")
    key = Key(blob_of(kind, encoded), comment=name)
    return Account(name, key, *_directory(target.strip(), folder, home))


def _directory(target: str, folder: Path, home: Home) -> tuple[DirectoryCap, tuple[str, ...]]:
    """The cap that a TARGET begins with, which must be a directory's, and the names behind it."""
    if target.startswith("@"):
        target = _from_file(target[1:], folder)
    if _like_a_cap(target):
        text, _, path = target.partition("/")
        cap = parse(text.removesuffix(":."))
    else:
        alias, _, path = target.partition(":")
        known = aliases.load(home)
        if alias not in known:
            raise AccountRefused(f"there is no alias {alias[:60]!r}" if aliases.is_name(alias) else "no cap, no alias")
        cap = known[alias]
    if isinstance(cap, UnknownCap):
        raise AccountRefused("its cap can't be read" if cap.error else "its cap is of a kind that lafs does not know")
    if not isinstance(cap, DirectoryCap):
        raise AccountRefused("its cap is that of a file, not of a directory")
    if not cap.readable:
        raise AccountRefused("its cap is a verify cap, which can't read")
    return cap, split(path)


def _from_file(name: str, folder: Path) -> str:
    """The first line of FILE, the longest beginning of the name that is a file, and the path behind it."""
    whole = name
    while whole:
        file = folder / whole
        if not whole.endswith("/") and file.is_file():
            first = trusted_text(file, hint=_HINT, secret=True).split("\n", 1)[0].strip()
            if not _like_a_cap(first):
                raise AccountRefused(f"the first line of {file} is not a cap")
            return first + name[len(whole) :]
        whole = whole.rpartition("/")[0]
    raise AccountRefused(f"there is no file {folder / name}")


def _like_a_cap(text: str) -> bool:
    return text.startswith(("URI:", "ro.URI:", "imm.URI:"))
