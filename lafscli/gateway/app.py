"""The web API as an ASGI application: who may ask, where a target leads, what every answer carries (spec 08).

Paths are split before they are decoded: a name may hold a slash, as %2F.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import get_args

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lafscli.config import environment
from lafscli.errors import LafsError
from lafscli.gateway import checking, gets, operations, pages, welcome
from lafscli.gateway.asked import Asked, Refusal, asked_of, decoded, query_of, refused, told, without_caps
from lafscli.gateway.changes import Changes
from lafscli.gateway.described import Documents
from lafscli.gateway.desk import Desk
from lafscli.gateway.files import PATIENCE, drop, transport_of
from lafscli.gateway.hosts import Hosts
from lafscli.gateway.pins import Pins
from lafscli.gateway.posts import Posts
from lafscli.gateway.refusals import said_of
from lafscli.gateway.wanted import TAKEN
from lafscli.tree.links import Occupied
from lafscli.tree.paths import NoDirectory

_ALWAYS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_USUALLY = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}
_RECORDED = ("check", *get_args(checking.Streamed), *get_args(operations.Kind))
"""What is done here is recorded where it is done."""

_METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")


def application(
    desk: Desk,
    hosts: Hosts,
    *,
    unlinked: bool = True,
    note: Callable[[str], None] = lambda _: None,
    every: bool = False,
    patience: float = 300.0,
) -> ASGIApp:
    """The gateway. Without `unlinked` nothing is stored that is in no directory. `note` is told of each request that
    failed, or of `every` one; no caps are in that. A client may take or send nothing for `patience` seconds."""
    return _Application(desk, hosts, unlinked, note, every, patience)


class _Application:
    def __init__(
        self,
        desk: Desk,
        hosts: Hosts,
        unlinked: bool,
        note: Callable[[str], None],
        every: bool,
        patience: float,
    ) -> None:
        self._desk = desk
        self._hosts = hosts
        self._unlinked = unlinked
        self._note = note
        self._every = every
        self._patience = patience
        self._documents = Documents()
        self._pins = Pins(desk)
        self._changes = Changes(desk, self._pins)
        self._posts = Posts(desk, self._changes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope.setdefault("extensions", {})[PATIENCE] = self._patience
        request = Request(scope, receive)
        sent = _Sent(self._desk, send)
        began = time.monotonic()
        what: list[str] = []
        operation = None
        try:
            self._hosts.admit(request)
            route = self._route(request, what)
            if _recorded(request, what):
                operation = self._desk.recent.begin(f"{request.method.lower()} {what[0]}".rstrip())
            answer: Response = await route()
            await answer(scope, receive, sent.send)
        except ClientDisconnect:
            sent.failure = "the client is gone"
            transport = transport_of(scope)
            if transport is not None:
                drop(transport)
        except (Refusal, LafsError) as error:
            await self._refuse(request, error, sent)
        except asyncio.CancelledError:  # the gateway stops, and what is under way has had its time
            sent.failure = "stopped"
            await self._refuse(request, _STOPPING, sent)
            raise
        except Exception as error:
            if environment.debugging():
                traceback.print_exc()
            sent.failure = f"internal error: {type(error).__name__}"
            await self._refuse(request, Refusal(500, "internal error"), sent)
        finally:
            failed = not sent.complete or _failing(sent.status)
            if operation is not None:
                operation.bytes = sent.bytes
                operation.end(failed=failed)
            self._desk.counters.add(requests=1, failures=int(failed))
            if failed or self._every:
                self._note(_line(request, what, sent, time.monotonic() - began))

    async def _refuse(self, request: Request, error: Refusal | LafsError, sent: _Sent) -> None:
        """Say what is wrong, if nothing was said yet; else the connection ends, so that the client sees it."""
        answer = _refusal(error)
        # what a client did wrong is not told: there are names in that
        if isinstance(error, LafsError) and not sent.failure and (sent.status or _failing(answer.status_code)):
            sent.failure = said_of(error)
        if sent.status:
            return
        if request.method in ("GET", "HEAD") and _wants_page(request):
            answer = pages.error_page(answer.status_code, bytes(answer.body).decode().strip())
        await answer(request.scope, request.receive, sent.send)

    # ---- where a target leads

    def _route(self, request: Request, what: list[str]) -> Route:
        """What is to be called; `what` gets words for it."""
        method = request.method
        if method not in _METHODS:
            raise Refusal(501, f"the gateway does not know {method}")
        raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
        query = query_of(request.scope["query_string"])
        first, *rest = raw.lstrip(b"/").split(b"/") if raw.startswith(b"/") else [raw]
        parts = tuple(rest)
        desk = self._desk
        if first in (b"uri", b"cap"):
            if not any(parts):
                what += ["", "/uri"]
                return self._without_cap(request, query)
            asked = asked_of(request, parts, query)
            what += [asked.cap.abbreviation, asked.cap.kind]
            return self._with_cap(asked)
        if first in (b"file", b"named") and parts and method in ("GET", "HEAD"):
            asked = asked_of(request, parts, query)
            what += [asked.cap.abbreviation, asked.cap.kind]
            return lambda: gets.named(desk, asked)
        what += ["", f"/{first.decode('ascii', 'replace')}" if first in _KNOWN else "-"]
        name = decoded(b"/".join(parts))
        if first == b"operations" and name:
            return lambda: operations.operation(desk, request, name)
        if first == b"statistics" and not name:
            return lambda: welcome.statistics(desk, request)
        if first == b"status" and not name:
            return lambda: welcome.status(desk, request)
        if first == b"static" and name and method in ("GET", "HEAD"):
            return lambda: pages.static(request, name)
        if first == b"page" and name and method == "POST":
            return lambda: pages.act(desk, self._pins, request, name, unlinked=self._unlinked)
        if not first and not parts and method in ("GET", "HEAD"):
            if query.get("t"):
                return lambda: welcome.welcome(desk, request)
            return lambda: pages.front(desk, request, unlinked=self._unlinked)
        raise Refusal(404, "there is nothing at this address")

    def _without_cap(self, request: Request, query: Mapping[str, str]) -> Route:
        if request.method in ("GET", "HEAD"):
            return lambda: _at_once(gets.redirected(dict(query)))
        if not self._unlinked:
            raise Refusal(403, "this gateway stores nothing that is in no directory (--no-unlinked)")
        asked = asked_of(request, (b"-",), query)
        if request.method == "PUT":
            return lambda: self._changes.put_unlinked(asked)
        if request.method == "POST":
            return lambda: self._posts.post_unlinked(asked)
        raise Refusal(400, "DELETE takes a path below a directory")

    def _with_cap(self, asked: Asked) -> Route:
        method = asked.request.method
        if method == "PUT":
            return lambda: self._changes.put(asked)
        if method == "POST":
            return lambda: self._posts.post(asked)
        if method == "DELETE":
            return lambda: self._changes.delete(asked)
        return lambda: gets.get(self._desk, self._documents, asked)


_STOPPING = Refusal(503, "the gateway is being ended: whether this was done, nobody knows")

Route = Callable[[], Awaitable[Response]]
_KNOWN = (b"operations", b"statistics", b"status", b"static", b"page", b"")


async def _at_once(answer: Response) -> Response:
    return answer


def _recorded(request: Request, what: list[str]) -> bool:
    """Whether it is an operation: of an object, or one that stores something that is in no directory."""
    if not what or request.query_params.get("t") in _RECORDED:
        return False
    return bool(what[0]) or (what[1] == "/uri" and request.method in ("PUT", "POST"))


def _failing(status: int) -> bool:
    """Whether a status tells that something is wrong here, and not with what was asked."""
    return status >= 500 or status == 410


def _line(request: Request, what: list[str], sent: _Sent, seconds: float) -> str:
    """A request as a line of a log: what kind of object, never its cap."""
    si, kind = what or ("", "")
    words = [request.method, kind, si, str(sent.status), f"{sent.bytes} B", f"{seconds:.3f} s", sent.failure]
    return without_caps(" ".join(word for word in words if word))


def _refusal(error: Refusal | LafsError) -> Response:
    if isinstance(error, Refusal):
        return told(error.status, error.text)
    if isinstance(error, Occupied):
        return told(409, TAKEN)
    if isinstance(error, NoDirectory):
        return told(400, f"Files have no children: {error.message}")
    return refused(error)


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


class _Sent:
    """Sends an answer with the headers that all have, and counts."""

    def __init__(self, desk: Desk, send: Send) -> None:
        self.status = 0
        self.bytes = 0
        self.complete = False
        self.failure = ""
        self._desk = desk
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _ALWAYS.items():
                headers[name] = value
            for name, value in _USUALLY.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            size = len(message.get("body", b""))
            self.bytes += size
            self._desk.counters.add(bytes_out=size)
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
