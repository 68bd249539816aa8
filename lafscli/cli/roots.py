"""Where a look at the health of objects begins: TARGETs, or all that this home knows of (CLI.md §5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lafscli.cli.frame import Frame
from lafscli.cli.targets import found, like_a_cap
from lafscli.config import aliases, secrets
from lafscli.errors import LafsError, NotGranted, Unreachable, UsageError
from lafscli.formats import caps
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, UnknownCap
from lafscli.health.deep import Root, Unseen
from lafscli.health.report import Silence
from lafscli.primitives.encoding import b32encode

if TYPE_CHECKING:
    from lafscli.config.home import Home


def root(frame: Frame, text: str) -> Root:
    """The object that a TARGET leads to. What it is called is what was written, but a cap is called by its storage
    index: reports are mailed about."""
    target = found(frame, text)
    if isinstance(target.cap, UnknownCap):
        raise UsageError("this cap is of a kind that lafs does not know")
    if not like_a_cap(text.strip()):
        return Root(text.strip(), target.cap)
    assert target.target is not None, "it was read from the text"
    return Root("/".join([called(target.target.cap), *target.target.names]), target.cap)


def roots(frame: Frame, texts: Sequence[str]) -> tuple[list[Root], list[Unseen]]:
    """What TARGETs lead to. Of several, one that can't be had stops no other: it comes back with the reason."""
    if len(texts) == 1:
        return [root(frame, texts[0])], []
    there: list[Root] = []
    missing: list[Unseen] = []
    failed: LafsError | None = None
    for text in texts:
        try:
            there.append(root(frame, text))
        except (UsageError, Unreachable):
            raise
        except LafsError as error:
            failed = failed or error
            shown = "CAP" if like_a_cap(text.strip()) else text.strip()
            missing.append(Unseen(shown, error.message.removeprefix(f"{shown}: ")))
    if failed is not None and not there:
        for each in missing[1:]:
            frame.out.name(f"{each.path}: {each.reason}")
        raise failed
    return there, missing


def called(cap: Cap) -> str:
    """What a cap is called in reports."""
    return cap.kind if cap.storage_index is None else b32encode(cap.storage_index)


def must_lead_on(roots: Iterable[Root]) -> None:
    """NotGranted for a directory that can be checked and not read."""
    for each in roots:
        if isinstance(each.cap, DirectoryCap) and not each.cap.readable:
            raise NotGranted("a verify cap can't read the directory", hint="its read cap can; without -r it is enough")


def in_itself(cap: Cap) -> bool:
    """Whether an object is all in its cap, and has no shares."""
    return isinstance(cap.inner if isinstance(cap, DirectoryCap) else cap, LitCap)


def known(home: Home) -> list[Root]:
    """All that this home knows of: what its aliases stand for, and its pins."""
    roots = [Root(f"{name}:", cap) for name, cap in aliases.load(home).items()]
    pinned = [caps.parse(line) for line in secrets.pinned(home)]
    return roots + [Root(called(cap), cap) for cap in pinned]


def unreachable(silent: Sequence[Silence]) -> Unreachable:
    """The error when no server answers."""
    reasons = "; ".join(f"{each.server}: {each.reason}" for each in silent)
    return Unreachable(
        f"no server could be reached ({reasons})", hint="lafs server status tells what is wrong with each"
    )
