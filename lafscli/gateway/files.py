"""Files as answers: their headers, the part that is wanted, and their bytes at the pace of the client."""

from __future__ import annotations

import asyncio
import fcntl
import mimetypes
import socket
import struct
import sys
import termios
from collections.abc import Generator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lafscli.formats.caps import Cap, ChkCap
from lafscli.gateway.asked import PLAIN
from lafscli.gateway.desk import Desk
from lafscli.gateway.ranges import Part, part
from lafscli.gateway.reading import Content, open_content
from lafscli.primitives.encoding import b32encode
from lafscli.storage.store import Buffer
from lafscli.tree.contents import Access

AT_ONCE = 256 << 10
"""Bytes up to which a file is read before the answer begins."""

CONNECTION = "lafs.connection"
"""Key of the scope's extensions under which the transport of the connection is."""

PATIENCE = "lafs.patience"
"""Key of the scope's extensions that has how many seconds a client may take to take or send nothing."""

_PATIENCE = 300.0
_FOREVER = "private, max-age=31536000, immutable"

# what a browser shows by itself and can't run; all else is only saved
_SHOWN = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp", "text/plain")
_SHOWN_SORTS = ("audio/", "video/")
_POLICY = "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'"

_TYPES = mimetypes.MimeTypes(filenames=())
_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


@dataclass(frozen=True, slots=True)
class Shown:
    """How a file is to be shown: under which name, and whether it is to be saved in any case."""

    name: str | None
    save: bool = False

    @property
    def media_type(self) -> str:
        """By the name only: nobody knows what is in a file."""
        found, packed = _TYPES.guess_type(f"x/{self.name}") if self.name else (None, None)
        if packed is not None:
            return _PACKED.get(packed, "application/octet-stream")
        return found or "application/octet-stream"

    def headers(self) -> dict[str, str]:
        """Type, disposition, and what a browser may do with it."""
        media = self.media_type
        inline = not self.save and (media in _SHOWN or media.startswith(_SHOWN_SORTS))
        charset = "; charset=utf-8" if media.startswith("text/") else ""
        headers = {"Content-Type": media + charset, "Content-Security-Policy": _POLICY}
        if not inline or self.save:
            headers["Content-Disposition"] = _disposition(self.name)
        return headers


def _disposition(name: str | None) -> str:
    if not name:
        return "attachment"
    name = "".join(character if character.isprintable() else "_" for character in name)
    plain = name.encode("ascii", "replace").decode().translate({ord('"'): "_", ord("\\"): "_"})
    more = "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='')}"
    return f'attachment; filename="{plain}"{more}'


# ---- opening -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Opened:
    """A file of which the first piece is proved, with all that is to be closed in the end."""

    content: Content
    part: Part
    first: bytes
    rest: Generator[Buffer]
    _stack: ExitStack = field(repr=False)

    def whole(self, headers: Mapping[str, str]) -> Response:
        """The answer whose bytes are all there, or not wanted."""
        return Response(self.first, 200 if self.part.whole else 206, {**headers, **self.said})

    @property
    def said(self) -> dict[str, str]:
        """What is said of the part that is wanted."""
        length = {"Content-Length": str(self.part.length)}
        return length if self.part.whole else {**length, "Content-Range": self.part.content_range}

    def next(self) -> bytes | None:
        """The next piece; None at the end."""
        piece = next(self.rest, None)
        # a copy: the transport may keep it until the client takes it
        return None if piece is None else bytes(piece)

    def close(self) -> None:
        try:
            self.rest.close()
            self.content.close()
        except ValueError:  # another thread still pulls: the process is being ended
            pass
        finally:
            self._stack.close()


def open_file(stack: ExitStack, access: Access, cap: Cap, header: str | None, *, head: bool) -> Opened:
    """Open a file and pull the first piece of the part that is wanted, so that what can't be read is an error and no
    answer. What is on the `stack` is closed with it. Unsatisfiable."""
    content = open_content(access, cap)
    stack.callback(content.close)
    wanted = part(header, content.size)
    length = 0 if head else wanted.length
    pieces = content.pieces(wanted.offset, length)
    first = bytes(next(pieces, b""))
    if length <= AT_ONCE:
        whole = bytearray(first)
        for piece in pieces:
            whole += piece
        first = bytes(whole)
    return Opened(content, wanted, first, pieces, stack.pop_all())


# ---- what was there before ---------------------------------------------------------------------------------------


def tag(cap: Cap) -> str | None:
    """The ETag of an immutable file; those in their caps have none."""
    return f'"{b32encode(cap.storage_index)}-"' if isinstance(cap, ChkCap) else None


def known_already(request: Request, entity: str | None) -> bool:
    """Whether the client has this one (If-None-Match), with or without the quotes."""
    given = request.headers.get("if-none-match")
    if given is None or entity is None:
        return False
    bare = {one.strip().removeprefix("W/").strip('"') for one in given.split(",")}
    return given.strip() == "*" or entity.strip('"') in bare


def range_header(request: Request, entity: str | None) -> str | None:
    """The Range that counts: not the one of a client whose If-Range names something else."""
    condition = request.headers.get("if-range")
    if condition is not None and (entity is None or condition.strip() != entity):
        return None
    return request.headers.get("range")


def headers_of(cap: Cap, shown: Shown, *, fixed: bool) -> dict[str, str]:
    """What is said of a file whatever part of it is wanted; `fixed`: what it was asked by leads to it for ever."""
    entity = tag(cap)
    kept = _FOREVER if fixed and not cap.mutable else "no-cache"
    headers = {**shown.headers(), "Accept-Ranges": "bytes", "Cache-Control": kept}
    return headers if entity is None else {**headers, "ETag": entity}


def unsatisfiable(size: int) -> Response:
    """The answer to a range that has no byte of the file."""
    return Response(b"First beyond end of file", 416, {"Content-Range": f"bytes */{size}"}, PLAIN)


# ---- sending -----------------------------------------------------------------------------------------------------


class Download(Response):
    """An answer whose bytes are pulled while it is sent. What fails in the middle ends the connection: the client sees
    fewer bytes than it was told."""

    def __init__(self, desk: Desk, opened: Opened, headers: Mapping[str, str]) -> None:
        super().__init__(b"", 200 if opened.part.whole else 206, {**headers, **opened.said})
        self._desk = desk
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send it. LafsError where it can't be sent to its end."""
        opened = self._opened
        outlet = Outlet(send, transport_of(scope), patience_of(scope))
        try:
            await outlet.send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            piece: bytes | None = opened.first
            left = opened.part.length
            while piece is not None and not outlet.gone:
                left -= len(piece)
                await outlet.send({"type": "http.response.body", "body": piece, "more_body": left > 0})
                piece = await self._desk.run(opened.next) if left > 0 else None
        finally:
            await self._desk.run(opened.close)


def transport_of(scope: Scope) -> asyncio.Transport | None:
    """The transport of the connection by which a request came, if the server tells."""
    found: asyncio.Transport | None = scope.get("extensions", {}).get(CONNECTION)
    return found


def patience_of(scope: Scope) -> float:
    """How many seconds a client may take to take or send nothing."""
    seconds: float = scope.get("extensions", {}).get(PATIENCE, _PATIENCE)
    return seconds


class Outlet:
    """Sends to a client that takes something from time to time; one that does not is dropped."""

    def __init__(self, send: Send, transport: asyncio.Transport | None, patience: float) -> None:
        self._send = send
        self._transport = transport
        self._patience = patience

    @property
    def gone(self) -> bool:
        """Whether the client is no longer there."""
        return self._transport is not None and self._transport.is_closing()

    async def send(self, message: dict[str, Any]) -> None:
        """Send a part; returns as well when the client is gone."""
        if self._transport is None:
            await self._send(message)
            return
        waiting = asyncio.ensure_future(self._send(message))
        before = _untaken(self._transport)
        while not (await asyncio.wait((waiting,), timeout=self._patience))[0]:
            now = _untaken(self._transport)
            if now >= before:
                waiting.cancel()
                drop(self._transport)
                return
            before = now
        waiting.result()


def drop(transport: asyncio.Transport) -> None:
    """End a connection now; what the client has not taken is forgotten, by the system too."""
    with suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _untaken(transport: asyncio.Transport) -> int:
    """Bytes that were sent and are not yet with the client: ours, and those of the system where it tells."""
    queued = bytearray(4)
    with suppress(OSError, ValueError):
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)
