"""gateway http (CLI.md §7)."""

from __future__ import annotations

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command


@command("gateway http")
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:3456", help="Where to listen; port 0 takes a free one."
)
def http(frame: Frame, listen: str) -> None:
    """Offer the grid over HTTP or HTTPS."""
