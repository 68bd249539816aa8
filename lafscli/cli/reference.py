"""The manual pages there are: of the commands, written from their options and `pages/*.txt`, and a few more."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from importlib.resources import files

import click

from lafscli import __version__
from lafscli.cli import main, options, table
from lafscli.cli.manual import Block, Page, parse

_TOPICS = {
    "lafs": (1, "storage on SSH hosts: encrypted, erasure-coded, proven"),
    "lafs-config": (5, "the files of a lafs home"),
    "lafs-security": (7, "what lafs protects, from whom, and what it does not"),
    "lafs-backup.7": (7, "recipes for backups that run for years"),
}
"""By name; with the volume behind it where a command has that name too."""
_DATE = "2026-11-29"  # when the hand-written parts last changed; a page must not depend on the day it is made


def names() -> list[str]:
    """All pages by name, `lafs` first: `lafs-put`, `lafs-server-add`, `lafs-config`, `lafs-backup.7`."""
    return [*_TOPICS, *(_page_name(row) for row in _rows())]


def page(name: str) -> Page | None:
    """The page of that name, or None."""
    if name in _TOPICS:
        volume, summary = _TOPICS[name]
        bare = name.removesuffix(f".{volume}")
        return Page(bare, volume, summary, tuple(_expanded(_written(name))), f"lafs {__version__}", _DATE)
    row = next((row for row in _rows() if _page_name(row) == name), None)
    if row is None:
        return None
    summary = row.help[0].lower() + row.help[1:].rstrip(".")
    return Page(name, 1, summary, tuple(_command_blocks(row)), f"lafs {__version__}", _DATE)


def written_parts() -> list[str]:
    """Names of all hand-written parts."""
    return sorted(path.name.removesuffix(".txt") for path in files("lafscli.cli").joinpath("pages").iterdir())


def _rows() -> list[table.Command]:
    return [row for row in table.COMMANDS if not row.hidden]


def _page_name(row: table.Command) -> str:
    return f"lafs-{row.name.replace(' ', '-')}"


def _written(name: str) -> list[Block]:
    return parse(files("lafscli.cli").joinpath("pages", f"{name}.txt").read_text("utf-8"))


def _command_blocks(row: table.Command) -> Iterator[Block]:
    """Synopsis, description and options of a command, around what is written about it by hand."""
    command = main.load(row)
    own = [param for param in command.params if not isinstance(param, options.GlobalOption)]
    written = _written(_page_name(row))
    first = next((number for number, block in enumerate(written) if block.kind == "section"), len(written))
    yield Block("section", "SYNOPSIS")
    yield Block("text", " ".join([f"`lafs {row.name}`", "[OPTIONS]", *_arguments(own)]))
    yield Block("section", "DESCRIPTION")
    yield from parse(inspect.cleandoc(command.help or ""))
    yield from _expanded(written[:first])
    yield Block("section", "OPTIONS")
    for option in own:
        if isinstance(option, click.Option) and not option.hidden:
            yield Block("item", option.help or "", _spelled(option))
    yield Block("item", "These and their names in the environment stand in *lafs*(1).", "Options of every command")
    yield from _expanded(written[first:])
    yield Block("section", "SEE ALSO")
    family = row.name.partition(" ")[0] if " " in row.name else ""
    members = [_page_name(other) for other in table.family(family) if family and other != row and not other.hidden]
    recipes = ["lafs-backup.7"] if row.group == table.BACKUPS else []
    pages = ["lafs", *members, *recipes, "lafs-config", "lafs-security"]
    yield Block("text", ", ".join(_reference(name) for name in pages))


def _reference(name: str) -> str:
    volume = _TOPICS.get(name, (1, ""))[0]
    return f"*{name.removesuffix(f'.{volume}')}*({volume})"


def _arguments(params: Iterable[click.Parameter]) -> Iterator[str]:
    """The arguments as a synopsis shows them; spelled here, since releases of click differ in it."""
    for param in params:
        if isinstance(param, click.Argument):
            name = param.metavar or (param.name or "").upper()
            repeated = f"{name}..." if param.nargs == -1 and "..." not in name else name
            yield repeated if param.required or repeated.startswith("[") else f"[{repeated}]"


def _spelled(option: click.Option) -> str:
    flags = ", ".join(f"`{flag}`" for flag in option.opts)
    if option.secondary_opts:
        flags += "/" + ", ".join(f"`{flag}`" for flag in option.secondary_opts)
    if option.is_flag or option.count:
        return flags
    choices = "|".join(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else ""
    return f"{flags} {option.metavar or choices or option.type.name.upper()}"


def _expanded(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks, with `@commands`, `@options` and `@exits 0 2 …` replaced by what they stand for."""
    for block in blocks:
        word, _, rest = block.text.partition(" ")
        if block.kind != "text" or not word.startswith("@"):
            yield block
        elif word == "@commands":
            for group in table.GROUPS:
                rows = [row for row in _rows() if row.group == group]
                yield Block("text", f"*{group}*")
                yield from (Block("item", row.help, f"`lafs {row.name}`") for row in rows)
        elif word == "@options":
            for row in table.OPTIONS:
                flags = ", ".join(f"`{flag}`" for flag in row.flags) + (f" {row.metavar}" if row.metavar else "")
                yield Block("item", f"{row.help} {f'`{row.env}`.' if row.env else ''}".strip(), flags)
        elif word == "@exits":
            wanted = rest.split()
            yield from (each for each in _written("exits") if not wanted or each.term.split()[0].strip("`") in wanted)
        else:
            raise AssertionError(f"{word} stands for nothing")
