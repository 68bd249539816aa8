"""Directories of a snapshot that are being made: their entries, and what makes one of them the same as another.

Entries are kept as text, which is small: a folder may have a hundred thousand of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from lafscli.backup.database import Row
from lafscli.backup.entries import Extra, compared
from lafscli.backup.scan import Folder, Found
from lafscli.formats import caps
from lafscli.immutable.many import Content
from lafscli.primitives.encoding import netstring
from lafscli.storage.source import SeenFile
from lafscli.tree.directory import NewChild


@dataclass(frozen=True, slots=True)
class Child:
    """An entry of a directory that is being made: `text` of its cap, its metadata as JSON, and a hash of what makes it
    different from another one."""

    text: str
    metadata: str
    mark: bytes


@dataclass(eq=False, slots=True)
class Node:
    """A directory that is being made, and how many things are waited for."""

    folder: Folder
    parent: Node | None
    name: str
    extra: Extra
    children: dict[str, Child] = field(default_factory=dict)
    rows: dict[bytes, Row] = field(default_factory=dict)
    waiting: int = 1


@dataclass(eq=False, slots=True)
class Item:
    """A file, or the target of a symbolic link, that is to be stored. `known`: what an earlier run stored of it, and
    `same` if it did not change since."""

    node: Node
    name: str
    found: Found
    extra: Extra
    target: bytes | None
    read_from_ns: int
    known: Row | None = None
    same: bool = False
    tries: int = 0
    others: list[tuple[Node, str, Found, Extra]] = field(default_factory=list)
    """Other names of the same file."""

    @property
    def source(self) -> Content:
        return SeenFile(self.found.path, self.found.stat) if self.target is None else self.target


@dataclass(frozen=True, slots=True)
class Whole:
    """A directory whose children are all there, and what it is known by."""

    node: Node
    mark: bytes


def child_of(text: str, metadata: Mapping[str, Any]) -> Child:
    mark = sha256(netstring(text.encode()) + json.dumps(compared(metadata), sort_keys=True).encode()).digest()[:16]
    return Child(text, json.dumps(metadata), mark)


def directory_mark(children: Mapping[str, Child]) -> bytes:
    """What a directory is known by: names, caps and what is compared of the metadata."""
    hasher = sha256(b"lafs directory of a backup 1\n")
    for name in sorted(children):
        hasher.update(netstring(name.encode()) + children[name].mark)
    return hasher.digest()


def new_children(children: Mapping[str, Child]) -> dict[str, NewChild]:
    return {name: NewChild(caps.parse(child.text), json.loads(child.metadata)) for name, child in children.items()}
