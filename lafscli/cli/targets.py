"""TARGET: a cap, `alias:path`, `@FILE/path`, or a path under the default alias (CLI.md §2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lafscli.cli.frame import Frame
from lafscli.config import aliases
from lafscli.errors import LafsError, MalformedCap, NotFound, NotGranted, UsageError
from lafscli.formats import caps
from lafscli.formats.child import Child

if TYPE_CHECKING:
    from lafscli.tree.paths import Spot

_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Target:
    """What a TARGET names, before any server is asked: a cap, and the names of a path that begins there.

    `as_cap`: it begins with a cap, or with @FILE, and no alias leads to it. `slash`: it ends with one, and must be a
    directory. `shown`: what to call it in messages; no cap.
    """

    cap: caps.Cap = field(repr=False)
    names: tuple[str, ...]
    as_cap: bool
    slash: bool
    shown: str

    @property
    def path(self) -> str:
        """The names as one text."""
        return "/".join(self.names)


@dataclass(frozen=True, slots=True)
class Found:
    """The object that a TARGET leads to. `name`: the last of its path, if it has one; `child`: its entry then."""

    cap: caps.Cap = field(repr=False)
    name: str | None
    path: str
    child: Child | None = field(default=None, repr=False)
    target: Target | None = None


def found(frame: Frame, text: str, *, strict: bool = False) -> Found:
    """Follow a TARGET to the object. NotFound names the part that is missing. `strict`: RolledBack where a directory on
    the way was seen in a newer version before."""
    return followed(frame, resolve(frame, text), strict=strict)


def followed(frame: Frame, target: Target, *, strict: bool = False) -> Found:
    """The same for one that was read."""
    if not target.names:
        if target.slash and not target.cap.is_directory:
            raise UsageError("this is the cap of a file, and a slash stands behind it")
        return Found(target.cap, None, "", None, target)
    _must_lead_on(target)
    from lafscli.tree.paths import child_at

    child = child_at(frame.access(target.cap, strict=strict), target.cap, target.names)
    if target.slash and not child.cap.is_directory:
        raise NotFound(f"{target.path}: is a file, not a directory")
    return Found(child.cap, child.name, target.path, child, target)


def directory_at(frame: Frame, text: str) -> caps.DirectoryCap:
    """The directory that a TARGET leads to; UsageError for anything else, NotGranted for a verify cap."""
    cap = found(frame, text).cap
    if not isinstance(cap, caps.DirectoryCap):
        raise UsageError("TARGET is no directory")
    if not cap.readable:
        raise NotGranted("a verify cap can't read", hint="reading takes the read cap")
    return cap


def spot(frame: Frame, text: str, *, make_parents: bool = False) -> Spot:
    """The parent directory and the name of a TARGET, which need not exist. UsageError for one without a path."""
    return spotted(frame, resolve(frame, text), make_parents=make_parents)


def spotted(frame: Frame, target: Target, *, make_parents: bool = False) -> Spot:
    """The same for one that was read."""
    if not target.names:
        raise UsageError(f"{target.shown} has no name that could be linked or removed", hint="say a path: alias:name")
    _must_lead_on(target)
    from lafscli.tree import paths

    return paths.spot(frame.access(target.cap), target.cap, target.names, make_parents=make_parents)


def creatable(names: Sequence[str]) -> None:
    """UsageError for names that nothing new is given: elsewhere they mean a folder, and no local copy can have them."""
    for name in names:
        if name in (".", ".."):
            raise UsageError(f"{name!r} can't be the name of anything", hint="a path in the grid has no . and ..")


def _must_lead_on(target: Target) -> None:
    if isinstance(target.cap, caps.UnknownCap):
        raise UsageError("this cap is of a kind that lafs does not know: no path leads into it")
    if not target.cap.is_directory:
        raise UsageError(f"this is the cap of a file: there is no {target.path!r} in it")


# ---- reading the argument ------------------------------------------------------------------------------------------


def resolve(frame: Frame, text: str) -> Target:
    """Read a TARGET; UsageError for one that is malformed, NotFound for an alias or a FILE that is not there.

    A cap of a kind that is not known here comes back as it is. No server is asked.
    """
    written = text.strip()
    if written.startswith("@"):
        line, path = _from_file(frame, written[1:])
        if not like_a_cap(line):
            raise MalformedCap("the first line of that file is not a cap")
        bare, slash, inside = line.partition("/")
        if slash and path:
            raise UsageError("a path stands both in the file and behind it")
        return _target(_cap(bare), inside if slash else path, True, written)
    if like_a_cap(written):
        bare, _, path = written.partition("/")
        cap = _cap(bare)
        return _target(cap, path, True, path or f"the {'directory' if cap.is_directory else 'file'} {cap.abbreviation}")
    alias, colon, path = written.partition(":")
    if not colon or "/" in alias:
        alias, path = default_alias(frame), written
        if not path:
            raise UsageError("an empty TARGET names nothing")
    return _target(aliases.get(frame.home(), alias), path, False, f"{alias}:{path}")


def default_alias(frame: Frame) -> str:
    """The alias that a bare path is under."""
    return frame.client().config.default_alias


def _target(cap: caps.Cap, path: str, as_cap: bool, shown: str) -> Target:
    if not path:
        return Target(cap, (), as_cap, False, shown)
    from lafscli.tree.paths import split

    return Target(cap, split(path), as_cap, path.endswith("/"), shown)


def like_a_cap(text: str) -> bool:
    """Whether an argument begins as caps do."""
    return text.startswith(("URI:", "ro.URI:", "imm.URI:"))


def _cap(text: str) -> caps.Cap:
    cap = caps.parse(text.removesuffix(":."))  # Tahoe also writes CAP:./path
    if isinstance(cap, caps.UnknownCap) and cap.error is not None:
        raise MalformedCap(cap.error)
    return cap


def _from_file(frame: Frame, name: str) -> tuple[str, str]:
    """First line of the FILE of `@FILE/path`, FILE being the longest prefix that is a file; and the path."""
    if name == "-" or name.startswith("-/"):
        frame.connections.take_stdin("a cap")
        with os.fdopen(0, "rb", closefd=False) as stream:
            return _first_line(stream.readline(_LONGEST_LINE), "standard input"), name[2:]
    whole = name
    while whole:
        file = Path(whole)
        if not whole.endswith("/") and file.exists() and not file.is_dir():
            try:
                with file.open("rb") as stream:
                    return _first_line(stream.readline(_LONGEST_LINE), str(file)), name[len(whole) + 1 :]
            except OSError as error:
                raise LafsError(f"cannot read {file}: {error.strerror}") from error
        whole = whole.rpartition("/")[0]
    if Path(name).is_dir():
        raise UsageError(f"{name} is a folder", hint="@FILE takes the cap from the first line of FILE")
    raise NotFound(f"no such file: {name}", hint="@FILE takes the cap from the first line of FILE")


def _first_line(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise MalformedCap(f"the first line of {where} is not a cap") from None


# ---- what a command takes ------------------------------------------------------------------------------------------


def immutable_file(frame: Frame, text: str) -> caps.LitCap | caps.ChkCap | caps.ChkVerifyCap:
    """The cap of an immutable file, whatever it grants; any other cap is an error that says why."""
    cap = found(frame, text).cap
    if isinstance(cap, caps.DirectoryCap):
        raise UsageError("this is the cap of a directory")
    if isinstance(cap, caps.UnknownCap):
        raise UsageError("this cap is of a kind that lafs does not know")
    if isinstance(cap, caps.LitCap | caps.ChkCap | caps.ChkVerifyCap):
        return cap
    raise UsageError("this is the cap of a mutable file", hint="this version of lafs knows immutable files only")


def readable_file(found: Found) -> caps.LitCap | caps.ChkCap | caps.MutableReadCap | caps.MutableWriteCap:
    """The cap of a file that can be read; any other object is an error that says why."""
    cap = found.cap
    if isinstance(cap, caps.DirectoryCap):
        raise UsageError(
            f"{found.path or 'this'} is a directory", hint="lafs ls lists it, lafs cp -r fetches all of it"
        )
    if isinstance(cap, caps.UnknownCap):
        raise UsageError(f"{found.path or 'this cap'} is of a kind that lafs does not know")
    if isinstance(cap, caps.ChkVerifyCap | caps.MutableVerifyCap):
        raise NotGranted("a verify cap can't read", hint="reading takes the read cap")
    assert isinstance(cap, caps.LitCap | caps.ChkCap | caps.MutableReadCap | caps.MutableWriteCap)
    return cap
