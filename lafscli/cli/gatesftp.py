"""gateway sftp (CLI.md §7)."""

from __future__ import annotations

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command


@command("gateway sftp")
@click.option("--accounts", metavar="FILE", required=True, help="Who may log in, and to which directory.")
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:8022", help="Where to listen; port 0 takes a free one."
)
def sftp(frame: Frame, accounts: str, listen: str) -> None:
    """Offer directories of the grid over SFTP."""
