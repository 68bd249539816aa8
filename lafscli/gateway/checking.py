"""Checks and repairs for clients of the web API: of one object, and streams over all that a directory leads to (spec 08
§4, §5).

A stream never stops at a bad object. Where directories could not be read, it ends with a line `ERROR:` for each instead
of the counts: who reads only to the first of them knows that something is missing, and has had all the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.responses import Response

from lafscli.errors import CannotTell, LafsError, NotRecoverable, UsageError
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, UnknownCap
from lafscli.gateway.asked import PLAIN, Asked, Refusal
from lafscli.gateway.deep import Deep, How, Turn, checking, mending
from lafscli.gateway.deepdoc import described
from lafscli.gateway.desk import Desk
from lafscli.gateway.refusals import said_of
from lafscli.gateway.reportdoc import NodeIds, checked, node_ids, repaired, summary
from lafscli.gateway.steps import Steps, Stream
from lafscli.health.check import check as check_one
from lafscli.health.repair import mend_many
from lafscli.health.report import CheckReport
from lafscli.tree.contents import Access, need_servers
from lafscli.tree.paths import follow

Streamed = Literal["stream-manifest", "stream-deep-check"]


def how_asked(asked: Asked) -> How:
    """What the query says about it; a Refusal for what is no boolean."""
    return How(asked.flag("verify"), asked.flag("repair"), asked.flag("add-lease"))


def document(value: Any) -> Response:
    """JSON as spec 08 §3 has it."""
    return Response(json.dumps(value, indent=1) + "\n", media_type=PLAIN)


# ---- one object


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found `before`, and what a repair left `after`, or the same; `ids` are of the servers."""

    cap: Cap = field(repr=False)
    before: CheckReport
    after: CheckReport
    ids: NodeIds


async def check(desk: Desk, asked: Asked) -> Response:
    """POST ?t=check. Without output=JSON there is one line; the page about it is drawn elsewhere."""
    how = how_asked(asked)
    found = await desk.run_long(check_now, desk, asked.cap, asked.names, how)
    if asked.query.get("output", "").lower() != "json":
        return Response(summary(found.after) + "\n", media_type=PLAIN)
    return document(repaired(found.before, found.after, found.ids) if how.repair else checked(found.before, found.ids))


def check_now(desk: Desk, cap: Cap, names: Sequence[str], how: How) -> Checked:
    """Check an object, by a thread of the desk."""
    with desk.access() as access:
        cap = follow(access, cap, names)
        with desk.recent.begin(f"{'repair' if how.repair else 'check'} {cap.abbreviation}".rstrip()):
            before, after = looked_at(access, cap, how, desk.turn)
        return Checked(cap, before, after, node_ids(access.grid))


def looked_at(access: Access, cap: Cap, how: How, turn: Turn) -> tuple[CheckReport, CheckReport]:
    """An object as a check finds it, and as a repair leaves it if that is wanted. NotRecoverable or CannotTell where a
    repair is wanted and can't be."""
    if isinstance(cap, UnknownCap):
        if cap.error is not None:
            raise UsageError(cap.error)
        cap = LitCap(b"")  # it has no shares either
    if not isinstance(cap.inner if isinstance(cap, DirectoryCap) else cap, LitCap):
        need_servers(access)
    plan = checking(access, how)
    before = check_one(access.grid, cap, plan)  # type: ignore[arg-type]
    if not how.repair or before.healthy:
        return before, before
    if before.recoverable is not True:
        what = f"{cap.abbreviation} can't be repaired: {before.good_shares} good shares of {before.encoding[0]} needed"
        if before.recoverable is None:
            raise CannotTell(f"{what}, and {len(before.unreachable)} servers did not answer")
        raise NotRecoverable(what)
    with turn(*([] if before.given is None else [before.given])):
        [(_, after)] = mend_many(access.grid, [(0, before)], plan, mending(access))
    return before, after


# ---- streams


async def stream(desk: Desk, asked: Asked, what: Streamed) -> Response:
    """POST ?t=stream-manifest, ?t=stream-deep-check."""
    how = how_asked(asked) if what == "stream-deep-check" else None
    root = await desk.run(directory_asked, desk, asked, what)
    lines = Lines(desk, root, how)
    return Stream(desk, Steps(lines.lines(), lines.stop))


def directory_asked(desk: Desk, asked: Asked, what: str) -> DirectoryCap:
    """The directory that a request names; a Refusal where it names something else."""
    with desk.access() as access:
        cap = follow(access, asked.cap, asked.names)
    if not isinstance(cap, DirectoryCap):
        raise Refusal(400, f"POST to file: bad t={what}")
    if not cap.readable:
        raise Refusal(400, f"POST to a verify cap: bad t={what}: it can't read the directory")
    return cap


class Lines:
    """A stream: a line of JSON for each object below a directory, then the counts. With `how` each was checked."""

    def __init__(self, desk: Desk, root: DirectoryCap, how: How | None) -> None:
        self._desk = desk
        self._root = root
        self._how = how
        self._deep: Deep | None = None
        self._stopped = False
        self._warn: Callable[[str], None] = lambda _: None

    def stop(self) -> None:
        """Let it end soon; from any thread."""
        self._stopped = True
        if self._deep is not None:
            self._deep.stop()

    def lines(self) -> Generator[bytes, None, None]:
        """The stream; whatever goes wrong is a line of it."""
        what = "manifest" if self._how is None else "deep-repair" if self._how.repair else "deep-check"
        try:
            with (
                self._desk.access() as access,
                self._desk.recent.begin(f"{what} {self._root.abbreviation}".rstrip()) as record,
            ):
                self._warn = access.warn
                self._deep = deep = Deep(access, self._root, self._desk.turn)
                if self._stopped:
                    return
                for found in self._documents(deep, node_ids(access.grid)):
                    if self._stopped:
                        return
                    line = _line(found)
                    record.bytes += len(line)
                    yield line
                if deep.unread:
                    record.end(failed=True)
                    yield from _failures(deep)
                else:
                    yield _line({"type": "stats", "stats": deep.stats()})
        except LafsError as error:
            yield f"ERROR: {type(error).__name__}: {one_line(said_of(error))}\n".encode()
        except Exception as error:
            self._warn(f"a stream broke: {type(error).__name__}")
            yield f"ERROR: {type(error).__name__}\n".encode()

    def _documents(self, deep: Deep, ids: NodeIds) -> Iterable[dict[str, Any]]:
        if self._how is None:
            for path, cap in deep.objects():
                yield described(path, cap)
            return
        for item in deep.checked(self._how):
            found = described(item.path, item.cap)
            if self._how.repair:
                yield found | {"check-and-repair-results": repaired(item.before, item.after, ids)}
            else:
                yield found | {"check-results": checked(item.before, ids)}


def _failures(deep: Deep) -> Iterable[bytes]:
    for path, error in deep.unread:
        yield f"ERROR: {type(error).__name__}: {json.dumps('/'.join(path))}: {one_line(said_of(error))}\n".encode()
    if deep.unread_more:
        yield f"ERROR: and {deep.unread_more} more directories that could not be read\n".encode()


def one_line(text: str) -> str:
    """A message as a client's line can hold it."""
    return text.encode("ascii", "backslashreplace").decode().replace("\r", "\\r").replace("\n", "\\n")


def _line(found: dict[str, Any]) -> bytes:
    return json.dumps(found).encode() + b"\n"
