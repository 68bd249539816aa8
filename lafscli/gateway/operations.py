"""Slow operations under handles: begun by one request, asked about by others (spec 08 §2, t=start-…).

A few run at a time, in short steps of the desk's threads; the others wait for their turn. A finished one is kept for
four days, once it was asked about for one more day; or as long as its client said. All functions here are called by the
event loop alone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal
from urllib.parse import quote
from weakref import WeakKeyDictionary

from starlette.requests import Request
from starlette.responses import Response

from lafscli.errors import LafsError
from lafscli.formats.caps import DirectoryCap
from lafscli.gateway.asked import PLAIN, Asked, Refusal, flag, refused, shown
from lafscli.gateway.checking import directory_asked, document, how_asked, one_line
from lafscli.gateway.deep import Deep, How
from lafscli.gateway.deepdoc import MANIFEST, Counted, list_object
from lafscli.gateway.desk import Desk
from lafscli.gateway.listed import Listed
from lafscli.gateway.refusals import said_of
from lafscli.gateway.reportdoc import node_ids
from lafscli.gateway.steps import Steps, Stream
from lafscli.primitives.encoding import b32encode

Kind = Literal["start-deep-check", "start-deep-stats", "start-manifest", "start-deep-size"]

_DAY = 24 * 3600.0
_UNCOLLECTED, _COLLECTED = 4 * _DAY, _DAY
_LONGEST = 366 * _DAY
_MOST = 100
"""Handles at a time; when there are more, finished ones go."""
_AT_ONCE = 4
_LONGEST_HANDLE = 200
_STEP_SECONDS = 0.5


class Operation:
    """One job: walks below a directory and keeps what comes of it. `advance` is called by one thread at a time; what it
    has come to may be asked meanwhile.

    Its handle is kept for `retain` seconds, if that was said, and with `release` only until somebody has seen the end.
    """

    def __init__(self, desk: Desk, kind: Kind, root: DirectoryCap, how: How) -> None:
        self.kind = kind
        self.retain: float | None = None
        self.release = False
        self._desk = desk
        self._root = root
        self._how = how
        self._deep: Deep | None = None
        self._counted: Counted | None = None
        lists = {"start-manifest": MANIFEST, "start-deep-check": Counted.lists(mended=how.repair)}
        self._listed = Listed(desk, lists.get(kind, ()))
        self._adding = threading.Lock()
        self._cancelled = False
        self._warn: Callable[[str], None] = lambda _: None
        self._work = self._walk()
        self.failure: LafsError | None = None
        self.finished_at: float | None = None
        self.collected = False

    # ---- the work

    def advance(self) -> bool:
        """Work for a moment; False when all is done."""
        until = time.monotonic() + _STEP_SECONDS
        try:
            for _ in self._work:
                if time.monotonic() >= until:
                    return True
        except LafsError as error:
            self.failure = error
        except Exception as error:
            self.failure = LafsError(f"the operation broke: {type(error).__name__}")
            self._warn(self.failure.message)
        return False

    def cancel(self) -> None:
        """Let it end soon."""
        self._cancelled = True
        if self._deep is not None:
            self._deep.stop()

    def _walk(self) -> Generator[None, None, None]:
        what = self.kind.removeprefix("start-")
        with self._desk.access() as access, self._desk.recent.begin(f"{what} {self._root.abbreviation}".rstrip()):
            deep = Deep(access, self._root, self._desk.turn)
            self._warn = access.warn
            with self._adding:
                if self.kind == "start-deep-check":
                    ids, append = node_ids(access.grid), self._listed.append
                    self._counted = Counted(self._root, ids, append, mended=self._how.repair)
                self._deep = deep
            if self._cancelled:
                return
            if self._counted is not None:
                for item in deep.checked(self._how):
                    with self._adding:
                        self._counted.add(item.path, item.before, item.after)
                    if self._cancelled:
                        return
                    yield
            else:
                for path, cap in deep.objects():
                    if self._cancelled:
                        return
                    if self.kind == "start-manifest":
                        list_object(self._listed.append, path, cap)
                    yield
        if deep.unread and self._counted is None:
            path, error = deep.unread[0]
            raise type(error)(f"{'/'.join(path) or 'the directory'}: {said_of(error)}")

    def close(self) -> None:
        """Its handle is gone: forget what it keeps, and end."""
        self.cancel()
        self._listed.close()

    # ---- what is told

    @property
    def finished(self) -> bool:
        return self.finished_at is not None

    def expires(self) -> float:
        """When its handle goes, by `time.monotonic`."""
        if self.finished_at is None:
            return float("inf")
        keep = self.retain if self.retain is not None else _COLLECTED if self.collected else _UNCOLLECTED
        return self.finished_at + keep

    def stats(self) -> dict[str, Any]:
        return {} if self._deep is None else self._deep.stats()

    def size(self) -> int:
        stats = self.stats()
        return sum(int(stats.get(f"size-{what}", 0)) for what in ("immutable-files", "literal-files", "directories"))

    def document(self, over: bool) -> dict[str, Any]:
        """What has come of it so far, but for the lists."""
        finished = {"finished": over}
        if self.kind == "start-deep-stats":
            return self.stats() | finished
        if self.kind == "start-deep-size":
            return finished | {"size": self.size()}
        if self.kind == "start-manifest":
            origin = "" if self._root.storage_index is None else b32encode(self._root.storage_index)
            return {"stats": self.stats()} | finished | {"origin": origin}
        with self._adding:
            found = finished | ({} if self._counted is None else self._counted.document())
            found["stats"] = self.stats()
            if self._deep is not None and self._deep.unread:
                found["errors"] = [[list(path), one_line(said_of(error))] for path, error in self._deep.unread]
            return found

    def text(self, over: bool) -> str:
        """The same for people."""
        lines = [f"finished: {'yes' if over else 'no'}"]
        if self.kind == "start-deep-size":
            lines.append(f"size: {self.size()}")
        elif self.kind == "start-deep-check":
            found = self.document(over)
            found = found.pop("stats") | found
            lines += [f"{key}: {value}" for key, value in found.items() if isinstance(value, int) and key != "finished"]
        return "\n".join(lines) + "\n"

    def told(self, output: str, over: bool) -> Response:
        """The answer to who asks: JSON, or text."""
        json = output == "json" or self.kind == "start-deep-stats"
        if self.kind in ("start-deep-stats", "start-deep-size"):
            return document(self.document(over)) if json else Response(self.text(over), media_type=PLAIN)
        if json:
            pieces = self._listed.document(self.document(over))
        elif self.kind == "start-manifest":
            pieces = self._listed.lines(self.text(over), "manifest", _manifest_line)
        else:
            pieces = self._listed.lines(self.text(over), "list-unhealthy-files", _unhealthy_line)
        return Stream(self._desk, Steps(pieces, lambda: None))


def _manifest_line(entry: Any) -> str:
    path, cap = entry
    return f"{_on_a_line(path)} {cap}"


def _unhealthy_line(entry: Any) -> str:
    path, found = entry
    return f"{_on_a_line(path)}: {found['summary']}"


def _on_a_line(path: list[str]) -> str:
    return "/".join(path).replace("\\", "\\\\").replace("\n", "\\n")


class Operations:
    """The handles of one gateway."""

    def __init__(self, desk: Desk, now: Callable[[], float] = time.monotonic) -> None:
        self._desk = desk
        self._now = now
        self._known: dict[str, Operation] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, handle: str, operation: Operation) -> None:
        """Start a job under a handle, in the place of one that has it. A Refusal when too many are under way."""
        self._expire()
        if (before := self._known.pop(handle, None)) is not None:
            before.close()
        while len(self._known) >= _MOST:
            done = [each for each, known in self._known.items() if known.finished]
            if not done:
                raise Refusal(503, f"{_MOST} operations are under way already: cancel some, or wait")
            self.release(min(done, key=lambda each: self._known[each].expires()))
        self._known[handle] = operation
        task = asyncio.get_running_loop().create_task(self._run(operation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def find(self, handle: str) -> Operation:
        """The job of a handle; a Refusal where there is none."""
        self._expire()
        if handle not in self._known:
            raise Refusal(404, f"unknown/expired handle '{shown(handle)}'")
        return self._known[handle]

    def release(self, handle: str) -> None:
        """Forget the handle; what is under way ends."""
        if (known := self._known.pop(handle, None)) is not None:
            known.close()

    async def _run(self, operation: Operation) -> None:
        try:
            async with self._turns:
                while await self._desk.run_long(operation.advance):
                    pass
        except RuntimeError:
            operation.failure = LafsError("the gateway is being closed")  # its desk has no threads any more
        finally:
            operation.cancel()
            operation.finished_at = self._now()

    def _expire(self) -> None:
        now = self._now()
        for handle in [handle for handle, known in self._known.items() if known.expires() <= now]:
            self.release(handle)


_OPERATIONS: WeakKeyDictionary[Desk, Operations] = WeakKeyDictionary()


def operations_of(desk: Desk) -> Operations:
    """The handles of a desk."""
    if desk not in _OPERATIONS:
        _OPERATIONS[desk] = Operations(desk)
    return _OPERATIONS[desk]


# ---- the requests


async def start(desk: Desk, asked: Asked, what: Kind) -> Response:
    """POST ?t=start-…&ophandle=H."""
    handle = asked.query.get("ophandle", "")
    if not handle:
        raise Refusal(400, "slow operation requires ophandle=")
    if len(handle) > _LONGEST_HANDLE:
        raise Refusal(400, f"an ophandle has at most {_LONGEST_HANDLE} characters")
    how = how_asked(asked) if what == "start-deep-check" else How()
    keep = _keeping(asked.query)
    made = Operation(desk, what, await desk.run(directory_asked, desk, asked, what), how)
    keep(made)
    operations_of(desk).begin(handle, made)
    output = asked.query.get("output")
    where = f"/operations/{quote(handle, safe='')}" + (f"?output={quote(output, safe='')}" if output else "")
    return Response(f"go to {where}\n", 302, {"Location": where}, PLAIN)


def _keeping(query: Mapping[str, str]) -> Callable[[Operation], None]:
    """What is said of how long a handle is to be kept; a Refusal for what is no number of seconds."""
    text, release = query.get("retain-for"), flag(query, "release-after-complete")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refusal(400, "retain-for= takes a number of seconds")

    def keep(known: Operation) -> None:
        known.release = known.release or release
        if text is not None:
            known.retain = min(float(text), _LONGEST)

    return keep


async def operation(desk: Desk, request: Request, handle: str) -> Response:
    """GET and POST of /operations/H."""
    query, operations = request.query_params, operations_of(desk)
    t = query.get("t", "status")
    if t not in ("", "status", "cancel"):
        raise Refusal(400, f"an operation can do t=status and t=cancel, not t={shown(t)}")
    output = query.get("output", "").lower()
    if output not in ("", "json", "text", "html"):
        raise Refusal(400, f"Unknown output value: '{shown(output)}'")
    known = operations.find(handle)
    over = known.finished  # when the question came: who is told that it is not over will ask again
    if t == "cancel":
        if request.method != "POST":
            raise Refusal(400, "t=cancel takes POST")
        known.cancel()
    _keeping(query)(known)
    known.collected = True
    if known.failure is not None and over:
        return refused(known.failure)
    response = await desk.run(known.told, output, over)
    if t == "cancel" or (over and known.release):
        operations.release(handle)
    return response
