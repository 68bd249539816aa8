"""TARGET: a cap, `@FILE`, or a path in the grid (CLI.md §2)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from lafscli.cli.frame import Frame
from lafscli.errors import LafsError, MalformedCap, NotFound, NotGranted, UsageError
from lafscli.formats import caps

NO_DIRECTORIES = "this version of lafs knows files by their caps; directories, aliases and paths come later"
_LONGEST_LINE = 1 << 16


@dataclass(frozen=True, slots=True)
class Target:
    """What a TARGET names: a cap, and a path inside it ("" for the object itself)."""

    cap: caps.Cap = field(repr=False)
    path: str = ""


def resolve(frame: Frame, text: str) -> Target:
    """Read a TARGET; UsageError for one that is malformed, NotFound for a FILE that is not there.

    A cap of a kind that is not known here comes back as it is.
    """
    path = ""
    if text.startswith("@"):
        written, path = _from_file(frame, text[1:])
        if not _like_a_cap(written):
            raise MalformedCap("the first line of that file is not a cap")
    else:
        written = text.strip()
        if not _like_a_cap(written):
            raise UsageError(f"{text!r} is not a cap", hint=NO_DIRECTORIES)
    bare, slash, inside = written.partition("/")
    if slash and path:
        raise UsageError("a path stands both in the file and behind it")
    cap = caps.parse(bare)
    if isinstance(cap, caps.UnknownCap) and cap.error is not None:
        raise MalformedCap(cap.error)
    return Target(cap, inside or path)


def _like_a_cap(text: str) -> bool:
    return text.startswith(("URI:", "ro.URI:", "imm.URI:"))


def _from_file(frame: Frame, name: str) -> tuple[str, str]:
    """First line of the FILE of `@FILE/path`, FILE being the longest prefix that is a file; and the path."""
    if name == "-" or name.startswith("-/"):
        frame.connections.take_stdin("a cap")
        with os.fdopen(0, "rb", closefd=False) as stream:
            return _first_line(stream.readline(_LONGEST_LINE), "standard input"), name[2:]
    whole = Path(name)
    for file in (whole, *whole.parents):
        if file.exists() and not file.is_dir():
            inside = str(whole.relative_to(file)) if file != whole else ""
            try:
                with file.open("rb") as stream:
                    return _first_line(stream.readline(_LONGEST_LINE), str(file)), inside
            except OSError as error:
                raise LafsError(f"cannot read {file}: {error.strerror}") from error
    if whole.is_dir():
        raise UsageError(f"{name} is a folder", hint="@FILE takes the cap from the first line of FILE")
    raise NotFound(f"no such file: {name}", hint="@FILE takes the cap from the first line of FILE")


def _first_line(line: bytes, where: str) -> str:
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise MalformedCap(f"the first line of {where} is not a cap") from None


def bare_cap(frame: Frame, text: str) -> caps.Cap:
    """The cap that a TARGET is, without a path inside."""
    target = resolve(frame, text)
    if target.path:
        raise UsageError(f"the path {target.path!r} can't be followed", hint=NO_DIRECTORIES)
    return target.cap


def immutable_file(frame: Frame, text: str) -> caps.LitCap | caps.ChkCap | caps.ChkVerifyCap:
    """The cap of an immutable file, whatever it grants; any other cap is an error that says why."""
    target = resolve(frame, text)
    cap = target.cap
    if isinstance(cap, caps.DirectoryCap):
        raise UsageError("this is the cap of a directory", hint=NO_DIRECTORIES)
    if target.path:
        raise UsageError(f"this is the cap of a file: there is no {target.path!r} in it")
    if isinstance(cap, caps.UnknownCap):
        raise UsageError("this cap is of a kind that lafs does not know")
    if isinstance(cap, caps.LitCap | caps.ChkCap | caps.ChkVerifyCap):
        return cap
    raise UsageError("this is the cap of a mutable file", hint="this version of lafs knows immutable files only")


def readable_file(frame: Frame, text: str) -> caps.LitCap | caps.ChkCap:
    """The same of one that can be read."""
    cap = immutable_file(frame, text)
    if isinstance(cap, caps.ChkVerifyCap):
        raise NotGranted("a verify cap can't read", hint="reading takes the read cap")
    return cap
