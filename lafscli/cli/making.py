"""Directories that are made where a TARGET says (CLI.md §4, §6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lafscli.cli.frame import Frame
from lafscli.cli.storing import enough_servers, warn_of_pins
from lafscli.cli.targets import Target, creatable
from lafscli.errors import LafsError
from lafscli.formats.caps import Cap, DirectoryCap

if TYPE_CHECKING:
    from lafscli.primitives.ciphers import PrivateKey
    from lafscli.tree.contents import Kind


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
    cap = make(frame, kind, private, pins=where.as_cap)
    try:
        plant(access, reached, where.names[-1], NewChild(cap), over="nothing")
    except Occupied as taken:  # another was faster
        return _directory(where, taken.child.cap), False
    return cap, True


def make(frame: Frame, kind: Kind, private: PrivateKey | None, *, pins: bool) -> DirectoryCap:
    """A new directory that nothing links to yet; `pins`: its cap is to be pinned."""
    from lafscli.tree.directory import create_directory

    client = frame.client()
    config = client.config
    if pins:
        warn_of_pins(frame, config.home)
    client.require_members()
    enough_servers(frame, config.encoding, None)
    return create_directory(frame.access(), kind=kind, private=private)


def _directory(where: Target, cap: Cap) -> DirectoryCap:
    if not isinstance(cap, DirectoryCap):
        raise LafsError(f"{where.path}: is there already, and is no directory")
    return cap
