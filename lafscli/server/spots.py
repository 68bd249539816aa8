"""Spots: which kind of place a client's path names. Pure: nothing is looked at on a disk.

The served folder is `/` to the client. A path that leads to it by its own name on the host counts as well, absolute or
from the login folder, so that URLs stay when a host goes over from plain sshd. `..` is taken by words: there are no
links to follow. Whatever is not in the table is no place: nothing is there, and nothing can be made there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from pathlib import Path

from lafscli.primitives.encoding import b32decode
from lafscli.server.backend import NO_SUCH_FILE, Refused

MOST_PATH = 4096
"""Bytes of a path; more is no path of ours."""


class Kind(Enum):
    """What a place is for. A comment names those that only exist for the probes of `server add`."""

    ROOT = "the top"
    IDENTITY = "server.toml"
    SHARES = "the folder of all shares"
    PREFIX = "a folder of two letters"
    FOLDER = "the folder of a storage index"
    SHARE = "a share"
    STAGING = "the staging folder"
    STAGED = "a staged share"
    NEW_IDENTITY = "a staged server.toml"
    KITS = "the folder of recovery kits"
    KIT = "a recovery kit"
    NEW_KIT = "a staged recovery kit"
    CLOCK = "an empty file that tells the time"
    LOCKS = "the folder of the guards"
    MAKING = "a guard that is being made"
    MAKING_INSIDE = "the folder in a guard that is being made"
    MAKING_OWNER = "the owner of a guard that is being made"
    GUARD = "a guard"
    HOLDER = "the folder in a guard"
    OWNER = "the owner of a guard"
    HELD = "a share that is staged in a guard"
    ASIDE = "a share that was moved aside"
    BROKEN = "a broken guard"
    BROKEN_HOLDER = "the folder in a broken guard"
    BROKEN_OWNER = "the owner of a broken guard"
    BROKEN_HELD = "a share in a broken guard"
    BROKEN_ASIDE = "a share that was moved aside, in a broken guard"
    PROBE = "a probe"  # of what the file system does
    HIDDEN = "a folder that is not shown"  # trash and quarantine: whether they are there may be asked
    NOWHERE = "no place of this server"


_TOKEN = "[a-z2-7]{26}"
# 16 bytes in base32: the last letter has three bits
_SI = "[a-z2-7]{25}[aeimquy4]"
_NUMBER = "(?P<shnum>0|[1-9][0-9]{0,2})"
_INNER = "(?P<inner>[a-z2-7]{26})"
_BROKEN = rf"locks/\.broken\.(?P<si>{_SI})\.(?P<token>{_TOKEN})"
_HELD = f"locks/(?P<si>{_SI})/(?P<token>{_TOKEN})"
_MADE = rf"locks/\.(?P<token>{_TOKEN})"
_SHARE_FOLDER = r"shares/(?P<prefix>[a-z2-7]{2})/(?P<si>(?P=prefix)[a-z2-7]{23}[aeimquy4])"

_TABLE: dict[Kind, str] = {
    Kind.ROOT: "",
    Kind.IDENTITY: r"server\.toml",
    Kind.SHARES: "shares",
    Kind.PREFIX: "shares/[a-z2-7]{2}",
    Kind.FOLDER: _SHARE_FOLDER,
    Kind.SHARE: f"{_SHARE_FOLDER}/{_NUMBER}",
    Kind.STAGING: "staging",
    Kind.STAGED: rf"staging/(?P<si>{_SI})\.{_NUMBER}\.(?P<token>{_TOKEN})",
    Kind.NEW_IDENTITY: rf"staging/server\.toml\.(?P<token>{_TOKEN})",
    Kind.KITS: "recovery",
    Kind.KIT: r"recovery/[a-z2-7]{16}\.[1-9][0-9]{0,8}\.kit",
    Kind.NEW_KIT: rf"staging/recovery\.kit\.(?P<token>{_TOKEN})",
    Kind.CLOCK: r"(staging|locks)/\.clock\.(?P<token>[a-z2-7]{16,26})",
    Kind.LOCKS: "locks",
    Kind.MAKING: _MADE,
    Kind.MAKING_INSIDE: f"{_MADE}/(?P=token)",
    Kind.MAKING_OWNER: f"{_MADE}/(?P=token)/owner",
    Kind.GUARD: f"locks/(?P<si>{_SI})",
    Kind.HOLDER: _HELD,
    Kind.OWNER: f"{_HELD}/owner",
    Kind.HELD: f"{_HELD}/{_NUMBER}",
    Kind.ASIDE: rf"{_HELD}/old\.{_NUMBER}",
    Kind.BROKEN: _BROKEN,
    Kind.BROKEN_HOLDER: f"{_BROKEN}/{_INNER}",
    Kind.BROKEN_OWNER: f"{_BROKEN}/{_INNER}/owner",
    Kind.BROKEN_HELD: f"{_BROKEN}/{_INNER}/{_NUMBER}",
    Kind.BROKEN_ASIDE: rf"{_BROKEN}/{_INNER}/old\.{_NUMBER}",
    Kind.PROBE: (
        rf"(?:(?:shares|locks|trash|quarantine|staging)/\.probe\.(?P<token>{_TOKEN})"
        rf"|staging/\.probe\.(?P<more>{_TOKEN})\.[0-9]{{1,2}}(?:\.o)?(?:/in(?:/file)?|/mine|/file)?)"
    ),
    Kind.HIDDEN: "trash|quarantine",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _TABLE.items()}

# which to try, by the first name and the number of names: a request costs two or three matches
_CANDIDATES: dict[tuple[str, int], tuple[Kind, ...]] = {
    ("", 0): (Kind.ROOT,),
    ("server.toml", 1): (Kind.IDENTITY,),
    ("recovery", 1): (Kind.KITS,),
    ("recovery", 2): (Kind.KIT,),
    ("shares", 1): (Kind.SHARES,),
    ("shares", 2): (Kind.PREFIX, Kind.PROBE),
    ("shares", 3): (Kind.FOLDER,),
    ("shares", 4): (Kind.SHARE,),
    ("staging", 1): (Kind.STAGING,),
    ("staging", 2): (Kind.STAGED, Kind.NEW_IDENTITY, Kind.NEW_KIT, Kind.CLOCK, Kind.PROBE),
    ("staging", 3): (Kind.PROBE,),
    ("staging", 4): (Kind.PROBE,),
    ("locks", 1): (Kind.LOCKS,),
    ("locks", 2): (Kind.GUARD, Kind.MAKING, Kind.BROKEN, Kind.CLOCK, Kind.PROBE),
    ("locks", 3): (Kind.HOLDER, Kind.MAKING_INSIDE, Kind.BROKEN_HOLDER),
    ("locks", 4): (
        *(Kind.HELD, Kind.OWNER, Kind.ASIDE, Kind.MAKING_OWNER),
        *(Kind.BROKEN_HELD, Kind.BROKEN_OWNER, Kind.BROKEN_ASIDE),
    ),
    ("trash", 1): (Kind.HIDDEN,),
    ("trash", 2): (Kind.PROBE,),
    ("quarantine", 1): (Kind.HIDDEN,),
    ("quarantine", 2): (Kind.PROBE,),
}
_MOST_SHNUM = 255
_FOLDER_NAME = re.compile(_SI)
_NUMBER_NAME = re.compile(_NUMBER)


@dataclass(frozen=True, slots=True)
class Spot:
    """A place: its kind, the names that lead to it from the served folder, and what its name says."""

    kind: Kind
    names: tuple[str, ...]
    si: bytes = b""
    shnum: int = -1
    token: str = ""

    @property
    def name(self) -> str:
        """Its last name."""
        return self.names[-1]

    @property
    def above(self) -> tuple[str, ...]:
        """The names of the folder that it is in."""
        return self.names[:-1]

    def __str__(self) -> str:
        return "/" + "/".join(self.names)


def is_folder(prefix: str, name: str) -> bool:
    """Whether this is the name of the folder of a storage index, in that of its prefix."""
    return name.startswith(prefix) and _FOLDER_NAME.fullmatch(name) is not None


def is_number(name: str) -> bool:
    """Whether this is the name of a share in such a folder."""
    return _NUMBER_NAME.fullmatch(name) is not None and int(name) <= _MOST_SHNUM


def spot_of(names: Sequence[str]) -> Spot:
    """The place that these names lead to."""
    names = tuple(names)
    top = names[0] if names else ""
    text = "/".join(names)
    for kind in _CANDIDATES.get((top, len(names)), ()):
        if (found := _PATTERNS[kind].fullmatch(text)) is not None:
            said = found.groupdict()
            shnum = int(said.get("shnum") or -1)
            if shnum > _MOST_SHNUM:
                break
            si = b32decode(said["si"]) if said.get("si") else b""
            return Spot(kind, names, si, shnum, said.get("token") or said.get("more") or "")
    return Spot(Kind.NOWHERE, names)


class Paths:
    """The paths of one connection. `root` is the served folder, absolute, under all names that it has; `home` the
    login folder, from which relative paths start elsewhere."""

    def __init__(self, roots: Sequence[Path], home: Path | None) -> None:
        self._roots = [_words(bytes(root)) for root in dict.fromkeys(roots)]
        given = [] if home is None else dict.fromkeys((home.absolute(), home.resolve()))
        homes = [_words(bytes(each)) for each in given]
        # a login folder in the served one is no place to start from
        self._homes = [each for each in homes if not any(_below(each, root) for root in self._roots)]

    def spot(self, path: bytes) -> Spot:
        """The place that a path of the client names; Refused for what can't be a path."""
        if len(path) > MOST_PATH:
            raise Refused(NO_SUCH_FILE, f"a path of {len(path)} bytes is too long")
        if b"\0" in path:
            raise Refused(NO_SUCH_FILE, "a path has no NUL in it")
        names = _words(path)
        plain = _spot(names)
        if plain.kind is not Kind.NOWHERE:
            return plain
        starts = [[]] if path.startswith(b"/") else self._homes
        for start, root in product(starts, self._roots):
            whole = _words(b"/".join([*start, path]))
            if whole[: len(root)] == root:
                return _spot(whole[len(root) :])
        return plain


def _spot(names: list[bytes]) -> Spot:
    # a name in other than ASCII is in no row of the table; it is kept to be shown
    return spot_of([name.decode("ascii", "surrogateescape") for name in names])


def _words(path: bytes) -> list[bytes]:
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            del names[-1:]
        elif name not in (b"", b"."):
            names.append(name)
    return names


def _below(path: list[bytes], folder: list[bytes]) -> bool:
    return len(path) > len(folder) and path[: len(folder)] == folder
