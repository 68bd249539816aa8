"""alias create, add, list, remove, rename (CLI.md §3)."""

from __future__ import annotations

from typing import Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command, respelled
from lafscli.cli.storing import enough_servers
from lafscli.cli.targets import found
from lafscli.cli.text import columns
from lafscli.config import aliases
from lafscli.config.home import Home
from lafscli.errors import NotGranted, UsageError
from lafscli.formats.caps import Cap, UnknownCap


@command("alias create")
@click.argument("name")
def create(frame: Frame, name: str) -> None:
    """Make a directory and give it a name.

    NAME: then stands for it, and NAME:path for what is in it. Who loses the alias loses the directory, unless its cap
    was kept (lafs alias list --uri).
    """
    from lafscli.tree.directory import create_directory

    name = name.removesuffix(":")
    client = frame.client_with_servers()
    config = client.config
    aliases.can_add(config.home, name)
    client.require_members()
    enough_servers(frame, config.encoding, None)
    aliases.add(config.home, name, create_directory(frame.access()))
    frame.out.show(_document(config.home), f"alias {name} names a new directory")


@command("alias add")
@click.argument("name")
@click.argument("target")
def add(frame: Frame, name: str, target: str) -> None:
    """Give a name to what TARGET leads to.

    That may be a directory or a file, by its write cap or its read cap.
    """
    name = name.removesuffix(":")
    home = frame.config().home
    aliases.can_add(home, name)
    cap = found(frame, target).cap
    if isinstance(cap, UnknownCap):
        raise UsageError("this cap is of a kind that lafs does not know")
    if not cap.readable:
        raise NotGranted("a verify cap can't read: it gets no alias", hint="an alias takes a read or a write cap")
    aliases.add(home, name, cap)
    frame.out.show(_document(home), f"{name}: is {_in_words(cap)}")


@command("alias list")
@click.option("--uri", is_flag=True, help="Show the caps too: write caps where there are.")
@click.option("--readonly-uri", is_flag=True, help="Show the read caps too.")
def list_(frame: Frame, uri: bool, readonly_uri: bool) -> None:
    """List the names that caps were given."""
    home = frame.config().home
    known = aliases.load(home)
    rows = [
        [f"{name}:", cap.kind, "read-write" if cap.writable else "read", *_caps(cap, uri, readonly_uri)]
        for name, cap in known.items()
    ]
    frame.out.show(_document(home), columns([["NAME", "KIND", "GRANTS", *["CAP"] * (uri + readonly_uri)], *rows]))
    if not known:
        frame.out.tell("there is no alias; next: lafs alias create NAME")


def _caps(cap: Cap, uri: bool, readonly_uri: bool) -> list[str]:
    return ([str(cap)] if uri else []) + ([str(cap.read_cap())] if readonly_uri else [])


@command("alias remove")
@click.argument("name", metavar="ALIAS")
def remove(frame: Frame, name: str) -> None:
    """Forget a name, and print the cap that it stood for.

    Nothing is removed from the servers. But when nothing else leads there, keep the cap: without it the directory
    can't be found again, and lafs gc takes its space back.
    """
    name = name.removesuffix(":")
    home = frame.config().home
    cap = aliases.remove(home, name)
    document = _document(home) | {"removed": _entry(name, cap)}
    frame.out.show(document, f"{name}: {cap}")


@command("alias rename")
@click.argument("old", metavar="ALIAS")
@click.argument("new")
def rename(frame: Frame, old: str, new: str) -> None:
    """Give an alias another name."""
    old, new = old.removesuffix(":"), new.removesuffix(":")
    home = frame.config().home
    aliases.rename(home, old, new)
    frame.out.show(_document(home), f"{old}: is now {new}:")


def _document(home: Home) -> dict[str, Any]:
    return {"aliases": [_entry(name, cap) for name, cap in aliases.load(home).items()]}


def _entry(name: str, cap: Cap) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "kind": cap.kind, "writable": cap.writable}
    if not isinstance(cap, UnknownCap):
        entry["ro_uri"] = str(cap.read_cap())
    if cap.writable:
        entry["rw_uri"] = str(cap)
    return entry


def _in_words(cap: Cap) -> str:
    return f"a {'directory' if cap.is_directory else 'file'}{'' if cap.writable or not cap.mutable else ', to read'}"


create_alias = respelled("create-alias", create)
add_alias = respelled("add-alias", add)
list_aliases = respelled("list-aliases", list_)
