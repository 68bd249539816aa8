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
from lafscli.backup.scan import Folder
from lafscli.formats import caps
from lafscli.primitives.encoding import netstring
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
