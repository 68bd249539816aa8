"""ls (CLI.md §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.output import rfc3339
from lafscli.cli.targets import Found, default_alias, followed, resolve
from lafscli.cli.text import columns
from lafscli.errors import Partial
from lafscli.formats.caps import Cap, ChkCap, ChkVerifyCap, DirectoryCap, LitCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.primitives.text import escape

if TYPE_CHECKING:
    from lafscli.tree.contents import Access
    from lafscli.tree.directory import Directory


@command("ls")
@click.argument("target", required=False)
@click.option("-l", "--long", is_flag=True, help="Also what it grants, its size, and when it was changed or linked.")
@click.option("-R", "--recursive", is_flag=True, help="Also what is in the directories below, each once.")
@click.option(
    "-F", "--classify", is_flag=True, help="Behind names: / directory, * file that can be changed, ? unknown."
)
@click.option("--uri", is_flag=True, help="Show the caps too: write caps where there are.")
@click.option("--readonly-uri", is_flag=True, help="Show the read caps too.")
@click.option("-0", "--null", is_flag=True, help="End lines with NUL, and leave names as they are.")
def ls(
    frame: Frame,
    target: str | None,
    long: bool,
    recursive: bool,
    classify: bool,
    uri: bool,
    readonly_uri: bool,
    null: bool,
) -> None:
    """List a directory.

    TARGET is a directory or a file: a cap, @FILE, alias:path, or a path under the default alias, whose root is listed
    where nothing is said. Caps are shown only when they are asked for.
    """
    where = resolve(frame, f"{default_alias(frame)}:" if target is None else target)
    origin = followed(frame, where)
    cap = origin.cap
    style = Style(long, classify, uri, readonly_uri, null)
    document: dict[str, Any] = {"cap": str(cap), "kind": cap.kind, "writable": cap.writable, "mutable": cap.mutable}
    if not isinstance(cap, DirectoryCap):
        child = origin.child or Child(origin.name or "", cap if cap.writable else None, cap.read_cap())
        frame.out.put(document | {"entries": [entry(child)]}, style.text([child]))
        return
    from lafscli.tree.directory import load

    access = frame.access(cap)
    if recursive:
        _recursively(frame, access, cap, origin, style, document)
        return
    directory = load(access, cap)
    frame.out.put(
        document | {"entries": [entry(child) for child in directory.children()], **_left_out(directory)},
        style.text(directory.children()),
    )
    _warn(frame, directory, ())


def _recursively(frame: Frame, access: Access, cap: Cap, origin: Found, style: Style, document: dict[str, Any]) -> None:
    """Every directory once: in text one after the other, in JSON as entries that have a path."""
    from lafscli.tree.walk import walk

    entries: list[dict[str, Any]] = []
    errors: list[dict[str, str]] = []
    start = origin.target.shown if origin.target is not None else ""
    first = True
    for visit in walk(access, cap):
        path = "/".join(visit.path)
        if visit.error is not None:
            if not visit.path:
                raise visit.error
            errors.append({"path": path, "reason": visit.error.message})
            frame.out.complain(type(visit.error)(f"{path}: {visit.error.message}", hint=visit.error.hint))
        directory = visit.directory
        if directory is None:
            continue
        if frame.settings.json:
            entries += [entry(child) | {"path": "/".join((*visit.path, child.name))} for child in directory.children()]
        else:
            head = f"{start.rstrip('/')}{'/' if path and not start.endswith((':', '/')) else ''}{path}"
            frame.out.write(f"{'' if first else style.end}{head if style.null else escape(head)}:{style.end}")
            frame.out.write(style.text(directory.children()))
            first = False
        _warn(frame, directory, visit.path)
    if frame.settings.json:
        frame.out.show(document | {"entries": entries} | ({"errors": errors} if errors else {}), "")
    if errors:
        raise SystemExit(Partial.exit_code)


def _left_out(directory: Directory) -> dict[str, Any]:
    left = [{"name": each.name, "reason": each.reason} for each in directory.left_out]
    return {"left_out": left} if left else {}


def _warn(frame: Frame, directory: Directory, path: tuple[str, ...]) -> None:
    for each in directory.left_out:
        where = "/".join((*path, each.name)) or "an entry"
        frame.out.warn(f"{where} is left out: {each.reason}")


# ---- one entry -----------------------------------------------------------------------------------------------------


def entry(child: Child) -> dict[str, Any]:
    """A child as JSON."""
    cap = child.cap
    told: dict[str, Any] = {
        "name": child.name,
        "type": _type(cap),
        "kind": cap.kind,
        "writable": cap.writable,
        "mutable": cap.mutable,
    }
    size = file_size(cap)
    if size is not None:
        told["size"] = size
    if isinstance(cap, UnknownCap):
        told |= {key: str(each) for key, each in (("ro_uri", child.ro), ("rw_uri", child.rw)) if each is not None}
    else:
        if cap.readable:
            told["ro_uri"] = str(cap.read_cap())
        if cap.writable:
            told["rw_uri"] = str(cap)
        if (verify := cap.verify_cap()) is not None:
            told["verify_uri"] = str(verify)
    return told | {"metadata": dict(child.metadata)}


def _type(cap: Cap) -> str:
    return "unknown" if isinstance(cap, UnknownCap) else "directory" if cap.is_directory else "file"


def file_size(cap: Cap) -> int | None:
    """The size of a file that its cap tells: that of immutable ones."""
    if isinstance(cap, LitCap):
        return len(cap.content)
    return cap.size if isinstance(cap, ChkCap | ChkVerifyCap) else None


@dataclass(frozen=True, slots=True)
class Style:
    """What the text of a listing shows."""

    long: bool
    classify: bool
    uri: bool
    readonly_uri: bool
    null: bool

    @property
    def end(self) -> str:
        """Behind each line."""
        return "\0" if self.null else "\n"

    def text(self, children: Sequence[Child]) -> str:
        """The lines of these children, each with its end."""
        rows = [self._row(child) for child in children]
        if not rows:
            return ""
        if self.null:
            return "".join(f"{'  '.join(row)}\0" for row in rows)
        return columns(rows) + "\n"

    def _row(self, child: Child) -> list[str]:
        cap = child.cap
        row = []
        if self.long:
            size = file_size(cap)
            row += [
                _grants(cap),
                f"{'-' if cap.is_directory else '?' if size is None else size:>12}",
                _time(child.metadata),
            ]
        row.append((child.name or ".") + (_mark(cap) if self.classify else ""))
        if self.uri:
            row.append(str(cap) or "-")
        if self.readonly_uri:
            row.append("-" if child.ro is None else str(child.ro))
        return row


def _grants(cap: Cap) -> str:
    if isinstance(cap, UnknownCap):
        return "?---"
    read, write = "r" if cap.readable else "-", "w" if cap.writable else "-"
    return f"d{read}{write}x" if cap.is_directory else f"-{read}{write}-"


def _mark(cap: Cap) -> str:
    return "?" if isinstance(cap, UnknownCap) else "/" if cap.is_directory else "*" if cap.writable else ""


def _time(metadata: Mapping[str, Any]) -> str:
    """When the file was changed, where its metadata tell that; else when it was linked."""
    tahoe = metadata.get("tahoe")
    linked = tahoe.get("linkmotime") if isinstance(tahoe, dict) else None
    for moment in (metadata.get("mtime"), linked):
        if isinstance(moment, int | float) and not isinstance(moment, bool):
            try:
                return rfc3339(moment)
            except (OverflowError, ValueError, OSError):
                continue
    return "-"
