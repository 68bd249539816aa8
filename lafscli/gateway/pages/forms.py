"""What a form sends: fields in memory, files in spools as they come.

Forms of pages put their token before their files, so one that is refused is refused before anything of it is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from lafscli.gateway.asked import Refusal
from lafscli.gateway.desk import Desk
from lafscli.gateway.spool import Spool

MOST_FIELD_BYTES = 1 << 20
MOST_PARTS = 2000


@dataclass(frozen=True, slots=True)
class Sent:
    """One file. `name` as the sender calls it, without folders."""

    name: str
    spool: Spool = field(repr=False)


@dataclass(slots=True)
class Form:
    """Closed when it was dealt with."""

    fields: dict[str, str] = field(default_factory=dict, repr=False)
    files: list[Sent] = field(default_factory=list)

    def get(self, name: str) -> str:
        """A field; nothing where there is none."""
        return self.fields.get(name, "")

    def close(self) -> None:
        for sent in self.files:
            sent.spool.close()


Admit = Callable[[Form], None]
"""Raises a Refusal for a form whose fields are not in order."""


async def read_form(desk: Desk, request: Request, admit: Admit) -> Form:
    """Read a form of either encoding; Refusal for what is none. `admit` is asked before the first file."""
    media, options = parse_options_header(request.headers.get("content-type", ""))
    if media == b"application/x-www-form-urlencoded":
        form = await _urlencoded(request)
        admit(form)
        return form
    boundary = options.get(b"boundary")
    if media != b"multipart/form-data" or not boundary:
        raise Refusal(400, "this is no form")
    reading = _Multipart(desk, admit)
    try:
        await reading.run(request, boundary)
    except BaseException:
        reading.form.close()
        raise
    return reading.form


async def _urlencoded(request: Request) -> Form:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_FIELD_BYTES:
            raise Refusal(413, "the form is too large")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARTS)
    except ValueError:
        raise Refusal(400, "the form can't be read") from None
    return Form(dict(reversed(pairs)))  # the first of a name counts


class _Multipart:
    """A multipart body while it comes."""

    def __init__(self, desk: Desk, admit: Admit) -> None:
        self.form = Form()
        self._desk = desk
        self._admit = admit
        self._admitted = False
        self._ended = False
        self._parts = 0
        self._kept = 0
        self._header = bytearray(), bytearray()
        self._disposition = b""
        self._field: tuple[str, bytearray] | None = None
        self._pending: list[tuple[Spool, bytes]] = []

    async def run(self, request: Request, boundary: bytes) -> None:
        callbacks: Any = {
            "on_part_begin": self._part_begins,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_ends,
            "on_headers_finished": self._headers_end,
            "on_part_data": self._data,
            "on_part_end": self._part_ends,
            "on_end": self._ends,
        }
        try:
            parser = MultipartParser(boundary, callbacks)
            async for chunk in request.stream():
                parser.write(chunk)
                if self._pending:
                    await self._desk.run(self._write)
        except (FormParserError, UnicodeDecodeError):
            raise Refusal(400, "the form can't be read") from None
        if not self._ended:
            raise Refusal(400, "the form was cut short")
        if not self._admitted:
            self._admit(self.form)

    def _write(self) -> None:
        pending, self._pending = self._pending, []
        for spool, data in pending:
            spool.append(data)

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise Refusal(413, "the form has too many parts")
        self._disposition, self._field = b"", None

    def _header_ends(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            self._disposition = bytes(value)
        self._header = bytearray(), bytearray()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode()
        if b"filename" not in options:
            self._field = name, bytearray()
            return
        if not self._admitted:
            self._admit(self.form)
            self._admitted = True
        called = options[b"filename"].decode().replace("\\", "/").rpartition("/")[2]
        self.form.files.append(Sent(called, self._desk.spool()))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._pending.append((self.form.files[-1].spool, data[start:end]))
            return
        self._kept += end - start
        if self._kept > MOST_FIELD_BYTES:
            raise Refusal(413, "the form is too large")
        self._field[1].extend(data[start:end])

    def _part_ends(self) -> None:
        if self._field is not None:
            name, value = self._field
            self.form.fields.setdefault(name, value.decode())

    def _ends(self) -> None:
        self._ended = True
