"""Tahoe's spellings of some commands (CLI.md §3): the same, under the names that scripts of its users know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from lafscli.cli import aliases, health, links
from lafscli.cli.options import GlobalOption, LafsCommand


def _spelled(name: str, command: click.Command, **fixed: Any) -> click.Command:
    """The command under another name; what is fixed is no option there."""
    does: Callable[..., Any] | None = command.callback
    assert does is not None, "every command does something"

    def run(**given: Any) -> None:
        does(**given, **fixed)

    params = [each for each in command.params if each.name not in fixed and not isinstance(each, GlobalOption)]
    return LafsCommand(name, callback=run, params=params, help=command.help)


create_alias = _spelled("create-alias", aliases.create)
add_alias = _spelled("add-alias", aliases.add)
list_aliases = _spelled("list-aliases", aliases.list_)
unlink = _spelled("unlink", links.rm)
deep_check = _spelled("deep-check", health.check, recursive=True)
