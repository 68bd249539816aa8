"""mkdir (CLI.md §4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from lafscli.cli.frame import Frame
from lafscli.cli.making import make, make_at
from lafscli.cli.options import command
from lafscli.cli.storing import PRIVATE_KEY, hand_over, read_key
from lafscli.cli.targets import resolve
from lafscli.errors import UsageError
from lafscli.formats.caps import DirectoryCap

if TYPE_CHECKING:
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
        cap, made = make(frame, kind, private, pins=True), True
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
