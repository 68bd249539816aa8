"""The gateway about itself: its servers and how they are, and what it has done (spec 08 §2).

What is known of the servers is kept: they are asked again when that is ten seconds old, and nobody waits for one of
them longer than two seconds. A server that has not answered yet is told as it was when it last did.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lafscli.client import Client
from lafscli.config.servers import ServerRecord
from lafscli.errors import LafsError, ServerError
from lafscli.gateway.asked import Refusal, shown
from lafscli.gateway.checking import document, one_line
from lafscli.gateway.desk import Desk
from lafscli.primitives.encoding import b32encode
from lafscli.storage.store import ShareStore

_FRESH = 10.0
_PATIENCE = 2.0
_SILENT_AFTER = 60.0
"""Seconds after which a server that owes an answer counts as silent: until then it may be busy."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a server answered last: bytes free, if it tells, and its software, if it tells; or why it did not."""

    free: int | None = None
    total: int | None = None
    software: str | None = None
    failure: str | None = None


@dataclass(slots=True)
class _Known:
    """One server. `asked`: when the question went out that is still to be answered, by the clock of `Servers`;
    `received`: when the last answer came that was no failure, Unix seconds."""

    record: ServerRecord
    store: ShareStore
    heard: Heard | None = None
    asked: float | None = None
    received: float | None = None


@dataclass(frozen=True, slots=True)
class ServerState:
    """How a server is, as far as is known. `answers` is None for one that has never been heard of yet."""

    name: str
    node_id: str
    url: str
    answers: bool | None
    reason: str
    free: int | None
    total: int | None
    software: str | None
    received: float | None


class Servers:
    """The servers of a desk; asked from any thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.RLock()  # a server that fails at once is noted by the thread that asks
        self._known: dict[str, _Known] = {}
        self._last = float("-inf")
        self._pending: list[Future[Heard]] = []

    def states(self, client: Client) -> list[ServerState]:
        """How the servers of a configuration are, in its order."""
        with self._lock:
            now = self._now()
            self._follow(client)
            if now - self._last >= _FRESH:
                self._last = now
                self._pending = [self._ask(client, known) for known in self._known.values() if known.asked is None]
            pending, patience = list(self._pending), self._last + _PATIENCE - now
        if patience > 0:
            wait(pending, timeout=patience)
        with self._lock:
            return [self._state(known) for known in self._known.values()]

    def _follow(self, client: Client) -> None:
        """Forget servers that are no longer configured, or configured anew; begin with those that are new."""
        stores = {store.server.name: store for store in client.grid.stores}
        before = self._known
        self._known = {}
        for name, record in client.config.servers.items():
            old = before.get(name)
            if old is None or old.record != record:
                self._last = float("-inf")
                self._known[name] = _Known(record, stores[name])
            else:
                if old.store is not stores[name]:  # the connection of before is closed, and answers nothing
                    old.store, old.asked = stores[name], None
                self._known[name] = old

    def _ask(self, client: Client, known: _Known) -> Future[Heard]:
        known.asked = self._now()
        future = client.grid.submit(known.store, _question)
        store = known.store

        def note(done: Future[Heard]) -> None:
            error = done.exception()
            with self._lock:
                if known.store is not store:
                    return
                known.asked = None
                if error is None:
                    known.heard, known.received = done.result(), time.time()
                else:
                    reason = error.message if isinstance(error, LafsError) else type(error).__name__
                    known.heard = Heard(failure=one_line(reason))

        answer: Future[Heard] = Future()
        future.add_done_callback(note)
        future.add_done_callback(lambda _: answer.set_result(Heard()))  # it was noted before
        return answer

    def _state(self, known: _Known) -> ServerState:
        heard, record = known.heard or Heard(), known.record
        answers = None if known.heard is None else heard.failure is None
        reason = heard.failure or ""
        late = 0.0 if known.asked is None else self._now() - known.asked
        if late > _SILENT_AFTER or (late > 0 and answers is None):
            answers, reason = (False if late > _PATIENCE else None), f"no answer for {late:.0f} s"
        return ServerState(
            record.name,
            b32encode(record.node_id),
            record.url,
            answers,
            reason,
            heard.free,
            heard.total,
            heard.software,
            known.received,
        )


def _question(store: ShareStore) -> Heard:
    """One round trip that shows that the server is there; then what it tells of itself, if anything."""
    store.present([(bytes(16), 0)])
    space = store.space()
    try:
        policy = store.policy()
    except ServerError:
        policy = None
    software = None if policy is None else policy.software or None
    return Heard(software=software) if space is None else Heard(space.free, space.total, software)


_BEGAN = time.monotonic()

_SERVERS: WeakKeyDictionary[Desk, Servers] = WeakKeyDictionary()


def server_states(desk: Desk) -> list[ServerState]:
    """How the servers are. Called by a thread; returns after two seconds at the latest."""
    with desk.client() as client:
        return _SERVERS.setdefault(desk, Servers()).states(client)


def _server(state: ServerState) -> dict[str, Any]:
    scheme = state.url.partition("://")[0]
    if state.answers:
        status = f"Connected to {state.url} via {scheme}"
    elif state.answers is None:
        status = f"Trying to connect to {state.url}"
    else:
        status = f"Not connected to {state.url}: {state.reason}"
    return {
        "nodeid": state.node_id,
        "nickname": state.name,
        "available_space": state.free if state.answers else None,
        "connection_status": status,
        "last_received_data": state.received,
        "version": state.software or (scheme if state.answers else None),
    }


async def welcome(desk: Desk, request: Request) -> Response:
    """GET /?t=json."""
    if request.query_params.get("t") != "json":
        raise Refusal(400, f"Unknown t value: '{shown(request.query_params.get('t', ''))}'")
    servers = [_server(state) for state in await desk.run(server_states, desk)]
    return JSONResponse({"introducers": {"statuses": []}, "servers": servers})


# ---- what it has done


async def statistics(desk: Desk, request: Request) -> Response:
    """GET and POST of /statistics?t=json; the counters carry Tahoe's names where there are such."""
    if (t := request.query_params.get("t", "json")) != "json":
        raise Refusal(400, f"Unknown t value: '{shown(t)}'")
    counts = desk.counters.now
    counters = {
        "requests": counts.requests,
        "failures": counts.failures,
        "bytes_received": counts.bytes_in,
        "bytes_sent": counts.bytes_out,
        "uploader.files_uploaded": counts.files_in,
        "uploader.bytes_uploaded": counts.bytes_in,
        "downloader.files_downloaded": counts.files_out,
        "downloader.bytes_downloaded": counts.bytes_out,
    }
    stats = {"node.uptime": time.monotonic() - _BEGAN, "cpu_monitor.total": time.process_time()}
    return document({"counters": counters, "stats": stats})


_TRANSFERS = {
    "get": ("download", ("progress",)),
    "put": ("upload", ("progress-hash", "progress-ciphertext", "progress-encode-push")),
}
"""What Tahoe calls requests that move content, and what it tells of how far they are."""


async def status(desk: Desk, request: Request) -> Response:
    """GET and POST of /status?t=json: the last operations, newest first, those under way apart."""
    if (t := request.query_params.get("t", "json")) != "json":
        raise Refusal(400, f"Unknown t value: '{shown(t)}'")
    found: dict[str, list[dict[str, Any]]] = {"active": [], "recent": []}
    for line in desk.recent.lines():
        verb, _, si = line.what.partition(" ")
        sort, parts = _TRANSFERS.get(verb, (verb, ()))
        done = float(line.state != "under way")
        row = {"type": sort, "storage-index-string": si, "total-size": line.bytes, "status": line.state}
        # `tahoe status` ends where something else than a transfer is active
        found["recent" if done or not parts else "active"].append(row | dict.fromkeys(parts, done))
    return JSONResponse(found)
