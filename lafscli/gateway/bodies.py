"""What clients send: the body of a request, or the file and the fields of a form, taken as it comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from lafscli.errors import UsageError
from lafscli.formats.child import Unfit, child_caps
from lafscli.gateway.asked import Refusal, query_of, shown
from lafscli.gateway.desk import Desk
from lafscli.gateway.files import patience_of
from lafscli.gateway.spool import Spool
from lafscli.gateway.verbs import storable
from lafscli.tree.directory import NewChild

_TOGETHER = 256 << 10
"""Bytes that are handed to a thread together."""

_MOST_FIELDS = 1 << 20
_MOST_JSON = 32 << 20
_MOST_PARTS = 500_000
"""Objects and lists in JSON: small ones take some sixty times their text in memory."""
_MOST_CAP = 16 << 10
_FILE = "file"


async def spooled(desk: Desk, request: Request) -> Spool:
    """All of the body. ClientDisconnect when it ends too early, and nothing is left of it then."""
    spool = desk.spool()
    try:
        await _feed(desk, request, spool.append)
    except BaseException:
        spool.close()
        raise
    return spool


async def _feed(desk: Desk, request: Request, taker: Callable[[bytes], None]) -> None:
    """Give all of the body to a thread, piece by piece; while it takes one the next comes."""
    taking: asyncio.Future[None] | None = None
    try:
        async for piece in _pieces(desk, request):
            if taking is not None:
                await taking
            taking = asyncio.ensure_future(desk.run(taker, piece))
    finally:
        if taking is not None:
            await asyncio.wait([taking])
    if taking is not None:
        taking.result()


async def small(desk: Desk, request: Request, most: int) -> bytes:
    """A body of at most so many bytes; a Refusal for a larger one."""
    body = bytearray()
    async for piece in _pieces(desk, request):
        body += piece
        if len(body) > most:
            raise Refusal(413, f"the body of this request may have {most} bytes")
    return bytes(body)


async def cap_text(desk: Desk, request: Request) -> str:
    """A body that is a cap."""
    try:
        return (await small(desk, request, _MOST_CAP)).decode().strip()
    except UnicodeDecodeError:
        raise Refusal(400, "the body must be a cap, and is no text") from None


async def _pieces(desk: Desk, request: Request) -> AsyncIterator[bytes]:
    """The body in pieces that are worth a thread; a client that sends nothing for long is taken for gone."""
    waiting = bytearray()
    stream, patience = request.stream(), patience_of(request.scope)
    while True:
        try:
            async with asyncio.timeout(patience):  # cheaper than wait_for, which makes a task of each chunk
                chunk = await anext(stream, None)
        except TimeoutError:
            raise ClientDisconnect from None
        if chunk is None:
            break
        desk.counters.add(bytes_in=len(chunk))
        if not waiting and len(chunk) >= _TOGETHER:
            yield chunk
            continue
        waiting += chunk
        if len(waiting) >= _TOGETHER:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


# ---- forms -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sent:
    """A file of a form. `name`: as the client calls it."""

    name: str
    spool: Spool = field(repr=False)


@dataclass(slots=True)
class Form:
    """Fields of a form, and its files. A context manager: the files are forgotten in the end."""

    fields: dict[str, str] = field(default_factory=dict, repr=False)
    files: list[Sent] = field(default_factory=list)

    @property
    def filename(self) -> str:
        return self.files[0].name if self.files else ""

    @property
    def file(self) -> Spool | None:
        return self.files[0].spool if self.files else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for sent in self.files:
            sent.spool.close()


async def form_of(
    desk: Desk, request: Request, *, most_files: int = 1, admit: Callable[[Form], None] = lambda _: None
) -> Form:
    """The form in a body; no fields where it is none. Refusal for one that is broken. `admit` is asked before the first
    file is taken, with the fields before it, and may raise what ends it."""
    sort, options = parse_options_header(request.headers.get("content-type", ""))
    if sort == b"application/x-www-form-urlencoded":
        return Form(query_of(await small(desk, request, _MOST_FIELDS)))
    if sort != b"multipart/form-data":
        return Form()
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise Refusal(400, "a multipart body needs a boundary")
    parts = _Parts(desk, boundary, most_files, admit)
    try:
        await _feed(desk, request, parts.feed)
        parts.end()
    except BaseException:
        parts.form.__exit__()
        raise
    return parts.form


class _Parts:
    """Puts the parts of a multipart body where they belong."""

    def __init__(self, desk: Desk, boundary: bytes, most_files: int, admit: Callable[[Form], None]) -> None:
        self.form = Form()
        self._desk = desk
        self._most_files = most_files
        self._admit = admit
        self._header = [b"", b""]
        self._headers: dict[bytes, bytes] = {}
        self._name: str | None = None
        self._into: Spool | bytearray = bytearray()
        self._taken = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._more(0, data[start:end]),
                "on_header_value": lambda data, start, end: self._more(1, data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._open,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def feed(self, data: bytes) -> None:
        try:
            self._parser.write(data)
        except FormParserError:
            raise Refusal(400, "the multipart body is broken") from None

    def end(self) -> None:
        if not self._ended:
            raise Refusal(400, "the multipart body ends too early")

    def _finish(self) -> None:
        self._ended = True

    def _begin(self) -> None:
        self._headers = {}
        self._header = [b"", b""]

    def _more(self, which: int, data: bytes) -> None:
        self._count(len(data))
        self._header[which] += data

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = [b"", b""]

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        try:
            self._name = options.get(b"name", b"").decode()
            filename = options.get(b"filename", b"").decode()
        except UnicodeDecodeError:
            raise Refusal(400, "the names in a form must be UTF-8") from None
        if self._name == _FILE and len(self.form.files) == self._most_files > 1:
            raise Refusal(413, f"a form may have {self._most_files} files")
        if self._name == _FILE and len(self.form.files) < self._most_files:
            if not self.form.files:
                self._admit(self.form)
            self._into = self._desk.spool()
            self.form.files.append(Sent(filename, self._into))
        else:
            self._into = bytearray()

    def _data(self, data: bytes, start: int, end: int) -> None:
        if isinstance(self._into, Spool):
            self._into.append(memoryview(data)[start:end])
        else:
            self._count(end - start)
            self._into += data[start:end]

    def _end(self) -> None:
        if isinstance(self._into, Spool) or not self._name:
            return
        try:
            self.form.fields.setdefault(self._name, self._into.decode())
        except UnicodeDecodeError:
            raise Refusal(400, f"the field {shown(self._name)} must be UTF-8") from None

    def _count(self, size: int) -> None:
        self._taken += size
        if self._taken > _MOST_FIELDS:
            raise Refusal(413, "the fields of a form may have 1 MiB together")


# ---- children ----------------------------------------------------------------------------------------------------


async def children(desk: Desk, request: Request, *, immutable: bool) -> dict[str, NewChild]:
    """The children that a JSON body names: name to [type, {rw_uri, ro_uri, metadata}]. No body is none at all."""
    body = await small(desk, request, _MOST_JSON)
    return await desk.run(_children, body, immutable)


def _children(body: bytes, immutable: bool) -> dict[str, NewChild]:
    if body.count(b"[") + body.count(b"{") > _MOST_PARTS:
        raise Refusal(413, f"the JSON of a request may have {_MOST_PARTS} objects and lists")
    try:
        given = json.loads(body, parse_constant=_no_json) if body.strip() else {}
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not JSON") from None
    if not isinstance(given, dict):
        raise Refusal(400, "the body must be a JSON object of children")
    storable(given)
    return {name: _child(name, value, immutable) for name, value in given.items()}


def _no_json(constant: str) -> float:
    raise ValueError(constant)


def _child(name: str, value: Any, immutable: bool) -> NewChild:
    if not (isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict)):
        raise Refusal(400, f"{shown(name)}: a child is [type, {{rw_uri, ro_uri, metadata}}]")
    info: Mapping[str, Any] = value[1]
    rw, ro, metadata = info.get("rw_uri"), info.get("ro_uri"), info.get("metadata")
    if not (isinstance(rw, str | None) and isinstance(ro, str | None) and isinstance(metadata, dict | None)):
        raise Refusal(400, f"{shown(name)}: caps are text, and metadata is an object")
    return new_child(name, rw or "", ro or "", metadata, immutable=immutable)


def new_child(
    name: str, rw: str, ro: str, metadata: Mapping[str, Any] | None = None, *, immutable: bool = False
) -> NewChild:
    """What a name is to be given; a Refusal for caps that can't be a child's."""
    try:
        strong, weak = child_caps(rw, ro, immutable=immutable)
    except Unfit as unfit:
        raise Refusal(400, f"{shown(name)}: can't be linked: {unfit}") from None
    except UsageError as error:
        raise Refusal(400, f"{shown(name)}: {error.message}") from None
    cap = strong or weak
    if cap is None:
        raise Refusal(400, f"{shown(name)}: a child needs a cap")
    return NewChild(cap, metadata, weak)
