"""Objects as JSON (spec 08 §3): a list of a type and what there is to say."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from lafscli.errors import LafsError
from lafscli.formats.caps import Cap, ChkCap, DirectoryCap, LitCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.gateway.desk import Desk
from lafscli.gateway.reading import open_content
from lafscli.tree.contents import Access
from lafscli.tree.directory import Directory
from lafscli.tree.paths import child_at

_MOST_KEPT = 32 << 20
"""Bytes of JSON."""
_FORMATS = {"lit": "CHK", "chk": "CHK", "sdmf": "SDMF", "mdmf": "MDMF"}

Described = list[Any]


def document(desk: Desk, access: Access, kept: Documents, cap: Cap, names: Sequence[str]) -> bytes:
    """What a path leads to, as JSON. Errors of its directories; a file need not be there."""
    child: Child | None = None
    if names:
        child = child_at(access, cap, names, desk.directory)
        cap = child.cap
    if isinstance(cap, DirectoryCap) and cap.readable:
        return kept.of(desk.directory(access, cap))
    if child is not None:
        sort, info = entry(child)
    else:
        sort, info = unknown(cap) if _is_unknown(cap) else ["filenode", _file(cap)]
    if sort == "filenode" and "size" not in info:
        size = _size(access, cap)
        if size is not None:
            info["size"] = size
    return _text([sort, info])


class Documents:
    """The JSON of directories that were asked for lately; as long as a directory is the same, so is that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[int, tuple[Directory, bytes]] = OrderedDict()

    def of(self, directory: Directory) -> bytes:
        """A directory with its children; nothing of the link by which it was reached."""
        with self._lock:
            known = self._known.get(id(directory))
            if known is not None and known[0] is directory:
                self._known.move_to_end(id(directory))
                return known[1]
        made = _text(_directory(directory))
        with self._lock:
            self._known[id(directory)] = directory, made
            self._known.move_to_end(id(directory))
            while sum(len(text) for _, text in self._known.values()) > _MOST_KEPT:
                self._known.popitem(last=False)
        return made


def entry(child: Child) -> Described:
    """A child of a directory; it does not tell what is in it."""
    cap = child.cap
    if _is_unknown(cap):
        info = {} if child.rw is None else {"rw_uri": str(child.rw)}
        if child.ro is not None:
            info["ro_uri"] = str(child.ro)
        return ["unknown", {**info, "metadata": child.metadata}]
    if cap.is_directory:
        return ["dirnode", {"mutable": cap.mutable, **_caps(cap), "metadata": child.metadata}]
    return ["filenode", {**_file(cap), "metadata": child.metadata}]


def unknown(cap: Cap) -> Described:
    """A cap that says not what it is; of one that can't be one at all there is nothing to say."""
    text = str(cap)
    known = isinstance(cap, UnknownCap) and cap.error is None and text.startswith(("ro.", "imm."))
    return ["unknown", {"ro_uri": text} if known else {}]


def _is_unknown(cap: Cap) -> bool:
    return isinstance(cap, UnknownCap) or not cap.readable


def _directory(directory: Directory) -> Described:
    children = {child.name: entry(child) for child in directory.children()}
    return ["dirnode", {"children": children, "mutable": directory.cap.mutable, **_caps(directory.cap)}]


def _file(cap: Cap) -> dict[str, Any]:
    info: dict[str, Any] = {"mutable": cap.mutable, "format": _FORMATS[cap.kind], **_caps(cap)}
    if isinstance(cap, LitCap):
        info["size"] = len(cap.content)
    elif isinstance(cap, ChkCap):
        info["size"] = cap.size
    return info


def _caps(cap: Cap) -> dict[str, str]:
    caps = {"ro_uri": str(cap.read_cap())}
    if cap.writable:
        caps["rw_uri"] = str(cap)
    verify = cap.verify_cap()
    if verify is not None:
        caps["verify_uri"] = str(verify)
    return caps


def _size(access: Access, cap: Cap) -> int | None:
    """Of a mutable file; None where that can't be told."""
    try:
        content = open_content(access, cap)
    except LafsError:
        return None
    try:
        return content.size
    finally:
        content.close()


def _text(described: Described) -> bytes:
    return json.dumps(described, indent=1).encode() + b"\n"
