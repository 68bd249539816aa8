"""Manual pages as blocks, and the two ways to show them: man(7) macros and plain text.

Hand-written parts (`pages/*.txt`) are blocks divided by empty lines:

    # SECTION           a heading
    = TERM              an item: the term, and below it what it means
    * text              a bullet
        code            four spaces: as it is
    text                a paragraph; `bold` and *italic* in it

Both texts depend on nothing but the blocks: no width, no locale, no date.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

_INLINE = re.compile(r"`([^`]+)`|\*([^\s*][^*]*)\*")
_WIDTH = 78


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a page. `term` is an item's; `text` of code keeps its line ends."""

    kind: Literal["section", "item", "bullet", "code", "text"]
    text: str
    term: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A manual page: `lafs-put`, 1, "store a file…", what stands in it."""

    name: str
    volume: int
    summary: str
    blocks: tuple[Block, ...]
    source: str
    date: str

    @property
    def file_name(self) -> str:
        """As man(1) looks for it: `lafs-put.1`."""
        return f"{self.name}.{self.volume}"


def parse(text: str) -> list[Block]:
    """The blocks of a hand-written part."""
    blocks: list[Block] = []
    for piece in re.split(r"\n(?:[ \t]*\n)+", text.strip("\n")):
        lines = piece.split("\n")
        if lines[0].startswith("    "):
            code = textwrap.dedent(piece)
            if blocks and blocks[-1].kind == "code":
                blocks[-1] = Block("code", f"{blocks[-1].text}\n\n{code}")
            else:
                blocks.append(Block("code", code))
        elif lines[0].startswith("# "):
            blocks.append(Block("section", lines[0][2:].strip()))
            if lines[1:]:
                blocks.extend(parse("\n".join(lines[1:])))
        elif lines[0].startswith("= "):
            for entry in re.split(r"\n(?== )", piece):
                term, _, body = entry.partition("\n")
                blocks.append(Block("item", _joined(body), term[2:].strip()))
        elif lines[0].startswith("* "):
            blocks.extend(Block("bullet", _joined(entry)) for entry in re.split(r"(?:^|\n)\* ", piece)[1:])
        elif piece.strip():
            blocks.append(Block("text", _joined(piece)))
    return blocks


def _joined(text: str) -> str:
    return " ".join(text.split())


# ---- man(7) ----


def roff(page: Page) -> str:
    """The page for man(1)."""
    title = f'.TH {page.name.upper()} {page.volume} {page.date} "{page.source}" "lafs manual"'
    lines = [title, ".SH NAME", f"{_safe(page.name)} \\- {_safe(page.summary)}"]
    fresh = False
    for block in page.blocks:
        lines.extend(_macros(block, fresh))
        fresh = block.kind == "section"
    return "\n".join(lines) + "\n"


def _macros(block: Block, fresh: bool) -> Iterator[str]:
    """One block as macros; `fresh` says that it stands right below a heading."""
    if block.kind == "section":
        yield f".SH {_safe(block.text)}"
        return
    if block.kind == "item":
        yield ".TP"
        yield _line(_inline(block.term))
        yield from _filled(block.text or "\\&")
        return
    if block.kind == "bullet":
        yield ".IP \\(bu 2"
        yield from _filled(block.text)
        return
    if not fresh:
        yield ".PP"
    if block.kind == "code":
        yield ".nf"
        yield ".RS 4"
        yield from (_line(_safe(line)) if line else "" for line in block.text.split("\n"))
        yield ".RE"
        yield ".fi"
    else:
        yield from _filled(block.text)


def _filled(text: str) -> Iterator[str]:
    """A paragraph in lines of source, inline marks as fonts."""
    for line in textwrap.wrap(_inline(text), _WIDTH, break_long_words=False, break_on_hyphens=False):
        yield _line(line)


def _line(text: str) -> str:
    """A line of source that no macro begins."""
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _inline(text: str) -> str:
    result, end = [], 0
    for match in _INLINE.finditer(text):
        bold, italic = match.groups()
        result.append(_safe(text[end : match.start()]))
        result.append(f"\\fB{_safe(bold)}\\fR" if bold else f"\\fI{_safe(italic)}\\fR")
        end = match.end()
    return "".join(result) + _safe(text[end:])


def _safe(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("^", "\\(ha").replace("~", "\\(ti")
    escaped = escaped.replace("`", "\\(ga").replace("'", "\\(aq")
    return "".join(each if each.isascii() else f"\\[u{ord(each):04X}]" for each in escaped)


# ---- plain text ----


def plain(page: Page) -> str:
    """The page for reading without man(1)."""
    head = f"{page.name.upper()}({page.volume})"
    lines = [f"{head}{'lafs manual'.center(_WIDTH - 2 * len(head))}{head}".rstrip(), "", "NAME"]
    lines.extend(_wrapped([f"{page.name} - {page.summary}"], 7))
    for block in page.blocks:
        for line in _paragraph(block):
            if line or lines[-1].startswith(" "):  # no two empty lines, and none below a heading
                lines.append(line)
    return "\n".join(lines) + "\n"


def _paragraph(block: Block) -> Sequence[str]:
    if block.kind == "section":
        return ["", block.text.upper()]
    if block.kind == "code":
        return ["", *(" " * 11 + line if line else "" for line in block.text.split("\n")), ""]
    text = _INLINE.sub(lambda match: match[1] or match[2], block.text)
    if block.kind == "item":
        term = _INLINE.sub(lambda match: match[1] or match[2], block.term)
        return [" " * 7 + term, *_wrapped([text], 14)]
    if block.kind == "bullet":
        first, *others = _wrapped([text], 9)
        return [f"       * {first[9:]}", *others]
    return ["", *_wrapped([text], 7)]


def _wrapped(texts: Iterable[str], indent: int) -> list[str]:
    space = " " * indent
    return [
        line
        for text in texts
        for line in textwrap.wrap(
            text, _WIDTH, initial_indent=space, subsequent_indent=space, break_long_words=False, break_on_hyphens=False
        )
    ]
