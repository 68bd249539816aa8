"""unpin (CLI.md §5)."""

from __future__ import annotations

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.targets import found
from lafscli.config import secrets
from lafscli.errors import NotFound
from lafscli.formats import caps
from lafscli.formats.caps import Cap


@command("unpin")
@click.argument("target")
def unpin(frame: Frame, target: str) -> None:
    """Let go of what was stored without a name.

    The read cap of what was put or made without TARGET, or under a cap, stands in `pins` of the home, so that gc keeps
    it. TARGET is that object, by a cap of any power. What is stored stays until lafs gc finds that nothing else leads
    to it.
    """
    home = frame.config().home
    cap = found(frame, target).cap
    removed = secrets.unpin(home, lambda line: bool(line) and _same(caps.parse(line), cap))
    if not removed:
        raise NotFound("it is not among the pins", hint=f"they stand in {home.path / 'pins'}")
    frame.out.show({"removed": removed}, "unpinned")
    frame.out.tell("its space comes back with lafs gc, unless something else leads to it")


def _same(pinned: Cap, cap: Cap) -> bool:
    """Whether two caps are of the same object, whatever they grant."""
    verify = cap.verify_cap()
    if verify is None:
        return str(pinned) == str(cap)
    return pinned.verify_cap() is not None and str(pinned.verify_cap()) == str(verify)
