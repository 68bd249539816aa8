"""mkdir (CLI.md §4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.storing import PRIVATE_KEY, enough_servers, hand_over, read_key, warn_of_pins
from lafscli.cli.targets import Target, creatable, resolve
from lafscli.errors import LafsError, UsageError
from lafscli.formats.caps import Cap, DirectoryCap

if TYPE_CHECKING:
    from lafscli.primitives.ciphers import PrivateKey
    from lafscli.tree.contents import Kind


@command("mkdir")
@click.argument("target", required=False)
@click.option("--format", "format_", type=click.Choice(["sdmf", "mdmf"]), help="How to keep it: sdmf unless said.")
@PRIVATE_KEY
def mkdir(frame: Frame, target: str | None, format_: str | None, private_key: str | None) -> None:
    """Make a directory and print its write cap.

    With TARGET it is linked there, and directories on the way that are missing are made; a directory that is there
    already is left as it is. Without TARGET keep the cap: only its read cap is written to `pins` in the home.
    """
    private = None if private_key is None else read_key(private_key)
    kind: Kind = "mdmf" if format_ == "mdmf" else "sdmf"
    home = frame.client_with_servers().config.home
    where = None if target is None else resolve(frame, target)
    if where is None:
        cap, made = _make(frame, kind, private, pins=True), True
    elif not isinstance(where.cap, DirectoryCap):
        raise UsageError("TARGET is not the cap of a directory")
    elif not where.names:
        cap, made = where.cap, False
    else:
        cap, made = make_at(frame, where, kind, private)
    if not made:
        _must_fit(cap, format_, private_key)
    pin = str(cap.read_cap()) if made and (where is None or where.as_cap) else None
    document = {"cap": str(cap)} | ({} if where is None else {"path": where.path})
    code = hand_over(frame, home, document, pin, "directory")
    if code:
        raise SystemExit(code)


def make_at(frame: Frame, where: Target, kind: Kind, private: PrivateKey | None) -> tuple[DirectoryCap, bool]:
    """The directory at a path, and whether it was made now."""
    from lafscli.tree.directory import NewChild, changeable
    from lafscli.tree.links import Occupied, plant
    from lafscli.tree.paths import reach

    creatable(where.names)
    access = frame.access()
    reached = reach(access, where.cap, where.names)
    if reached.unusable is not None:
        raise reached.unusable
    if reached.child is not None:
        return _directory(where, reached.child.cap), False
    changeable(reached.above[-1])
    cap = _make(frame, kind, private, pins=where.as_cap)
    try:
        plant(access, reached, where.names[-1], NewChild(cap), over="nothing")
    except Occupied as taken:  # another was faster
        return _directory(where, taken.child.cap), False
    return cap, True


def _make(frame: Frame, kind: Kind, private: PrivateKey | None, *, pins: bool) -> DirectoryCap:
    from lafscli.tree.directory import create_directory

    client = frame.client()
    config = client.config
    if pins:
        warn_of_pins(frame, config.home)
    client.require_members()
    enough_servers(frame, config.encoding, None)
    return create_directory(frame.access(), kind=kind, private=private)


def _must_fit(cap: DirectoryCap, format_: str | None, private_key: str | None) -> None:
    """UsageError where the directory that is there is another one than what was asked for: it stays what it is."""
    if private_key is not None:
        raise UsageError("there is a directory already, which keeps its key", hint="leave out --private-key")
    inner = cap.inner.kind
    if format_ not in (None, inner):
        raise UsageError(
            f"there is a directory already, which is and stays {inner}: --format {format_} contradicts that",
            hint="leave out --format to take it as it is",
        )


def _directory(where: Target, cap: Cap) -> DirectoryCap:
    if not isinstance(cap, DirectoryCap):
        raise LafsError(f"{where.path}: is there already, and is no directory")
    return cap
