"""What a request asks for: the cap and the names in its target, its query, and what an error is in HTTP (spec 08 §1).

/uri/CAP/name/name?query        names are UTF-8, percent-encoded; one slash at the end is nothing
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.requests import Request
from starlette.responses import Response

from lafscli.errors import (
    Busy,
    CannotTell,
    Conflict,
    CorruptShare,
    LafsError,
    MalformedDirectory,
    NotFound,
    NotGranted,
    NotHappy,
    NotRecoverable,
    ServerError,
    Unreachable,
    UsageError,
)
from lafscli.formats.caps import Cap, parse
from lafscli.gateway.refusals import said_of
from lafscli.gateway.spool import NoRoom
from lafscli.gateway.verbs import TooLarge
from lafscli.tree.contents import Kind, NoServers
from lafscli.tree.links import IntoItself, Occupied, Over
from lafscli.tree.paths import NoDirectory

PLAIN = "text/plain; charset=utf-8"

_TRUE, _FALSE = ("true", "t", "1", "on"), ("false", "f", "0", "off")
_MOST_FIELDS = 1000
_COLON = "(?::|%(?:25)*3A)"
_CAP = re.compile(f"URI{_COLON}[A-Za-z0-9-]+{_COLON}[A-Za-z0-9:%-]*", re.IGNORECASE)

_STATUS: tuple[tuple[type[LafsError] | tuple[type[LafsError], ...], int], ...] = (
    (NoDirectory, 400),
    (NotFound, 404),
    (Occupied, 409),
    (IntoItself, 400),
    (NotGranted, 403),
    (NoServers, 503),
    (UsageError, 400),
    (NotRecoverable, 410),
    (NoRoom, 507),
    (TooLarge, 413),
    ((NotHappy, CannotTell, Unreachable, Conflict, Busy, ServerError), 503),
    ((MalformedDirectory, CorruptShare), 422),
)


class Refusal(Exception):
    """A request that is not done, and what is said of it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status)
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Asked:
    """An object that a request names: the `names` lead to it from the `cap`. `query`: of two values the first; fields
    of a form are among them."""

    request: Request = field(repr=False)
    cap: Cap
    cap_text: str = field(repr=False)
    names: tuple[str, ...] = field(repr=False)
    query: Mapping[str, str] = field(repr=False)

    @property
    def t(self) -> str:
        """What is to be done; nothing for the object itself."""
        return self.query.get("t", "")

    @property
    def slashed(self) -> bool:
        """Whether the target ends in a slash: it means a directory then."""
        return bytes(self.request.scope.get("raw_path") or b"").endswith(b"/")

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query; a Refusal for what is none."""
        return flag(self.query, name, default)

    def over(self) -> Over:
        """What `replace=` allows to be replaced, by default anything."""
        for name in ("replace", "overwrite"):
            text = self.query.get(name)
            if text is not None:
                if text.lower() == "only-files":
                    return "files"
                try:
                    return "anything" if _boolean(text) else "nothing"
                except ValueError:
                    raise Refusal(400, f"invalid {name}= argument: '{shown(text)}'") from None
        return "anything"

    def kind(self) -> Kind | None:
        """The format that is asked for; None where none is."""
        text = self.query.get("format")
        if text is None:
            return "sdmf" if self.flag("mutable") else None
        kinds: dict[str, Kind] = {"chk": "chk", "sdmf": "sdmf", "mdmf": "mdmf"}
        if text.lower() not in kinds:
            raise Refusal(400, f"Unknown format: {shown(text)}, I know CHK, SDMF, MDMF")
        return kinds[text.lower()]

    def with_fields(self, fields: Mapping[str, str]) -> Asked:
        """The same with the fields of a form; what stands in the query counts."""
        return replace(self, query={**fields, **self.query})


def asked_of(request: Request, parts: tuple[bytes, ...], query: Mapping[str, str]) -> Asked:
    """What the parts of a path behind `/uri/` name; a Refusal for what is no path."""
    if parts and not parts[-1]:
        parts = parts[:-1]
    if not parts:
        raise Refusal(400, "a cap must follow here")
    if not all(parts):
        raise Refusal(400, "The webapi does not allow empty pathname components, i.e. a double slash")
    if not parts:
        raise Refusal(400, "a cap is missing from this address")
    text, *names = (decoded(part) for part in parts)
    return Asked(request, parse(text), text, tuple(names), query)


def decoded(part: bytes) -> str:
    """One part of a path; a Refusal where it is no text."""
    try:
        return unquote_to_bytes(part).decode()
    except UnicodeDecodeError:
        raise Refusal(400, "a path must be percent-encoded UTF-8") from None


def query_of(text: bytes) -> dict[str, str]:
    """The values of a query or of a form, of two the first; a Refusal for what is none."""
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise Refusal(400, "the query must be at most 1000 fields of percent-encoded UTF-8") from None
    values: dict[str, str] = {}
    for name, value in pairs:
        values.setdefault(name, value)
    return values


def flag(query: Mapping[str, str], name: str, default: bool = False) -> bool:
    """A boolean of a query; a Refusal for what is none."""
    if name not in query:
        return default
    try:
        return _boolean(query[name])
    except ValueError:
        raise Refusal(400, f"invalid {name}= argument: '{shown(query[name])}': it must be true or false") from None


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def shown(text: str) -> str:
    """What a client sent, as an answer repeats it: short, without caps, on one line."""
    safe = "".join(character if character.isprintable() else "?" for character in text[:200])
    return without_caps(safe)


def without_caps(text: str) -> str:
    """A text of which nobody learns a cap."""
    return _CAP.sub("URI:...", text)


# ---- errors ------------------------------------------------------------------------------------------------------


def status_of(error: LafsError) -> int:
    """The status that tells a client of this error."""
    for sorts, status in _STATUS:
        if isinstance(error, sorts):
            return status
    return 500


def refused(error: LafsError) -> Response:
    """The answer that tells of an error."""
    return told(status_of(error), said_of(error))


def told(status: int, text: str) -> Response:
    """An answer in words."""
    safe = without_caps(text).encode(errors="backslashreplace")
    headers = {"Retry-After": "10"} if status == 503 else None
    return Response(safe, status, headers, PLAIN)
