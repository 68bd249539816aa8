"""Pages from templates; what is static; the headers that keep a page to itself."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from lafscli import __version__
from lafscli.gateway.pages import marks
from lafscli.gateway.pages.places import by_cap
from lafscli.gateway.pages.tokens import token
from lafscli.primitives.text import count

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


def page(template: str, code: int = 200, **values: Any) -> Response:
    """A page that nobody else may frame, fetch or keep."""
    text = _environment().get_template(template).render(values)
    return Response(text, code, HEADERS, "text/html; charset=utf-8")


def error_page(status: int, text: str, *, back: str = "/", onward: str = "") -> Response:
    """What went wrong, where a person is looking. `back`: an address of ours to go on to, in these words (`onward`)."""
    onward = onward or ("To the front page" if back == "/" else "Back")
    return page(
        "error.html",
        status,
        status=status,
        text=text,
        back=back,
        onward=onward,
        heading=_HEADINGS.get(status, "That failed"),
    )


_HEADINGS = {
    400: "This can't be done",
    403: "This is not allowed",
    404: "Not found",
    409: "Something is in the way",
    410: "This can't be read now",
    413: "Too large",
}


async def static(request: Request, name: str) -> Response:
    """GET /static/NAME."""
    found = _statics().get(name)
    if found is None:
        return PlainTextResponse("no such file", 404, HEADERS)
    data, tag = found
    kept = {
        "Cache-Control": "public, max-age=31536000, immutable" if request.query_params.get("v") == tag else "no-cache"
    }
    headers = HEADERS | kept | {"ETag": f'"{tag}"'}
    if request.headers.get("if-none-match") == f'"{tag}"':
        return Response(status_code=304, headers=headers)
    return Response(data, headers=headers, media_type=_TYPES[name.rpartition(".")[2]])


@cache
def _statics() -> dict[str, tuple[bytes, str]]:
    """Each file with a tag that changes with it."""
    found = {each.name: each.read_bytes() for each in files(__package__).joinpath("static").iterdir()}
    return {name: (data, hashlib.sha256(data).hexdigest()[:16]) for name, data in found.items()}


@cache
def _environment() -> Environment:
    templates = {each.name: each.read_text() for each in files(__package__).joinpath("templates").iterdir()}
    environment = Environment(
        loader=DictLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "shown": marks.shown,
        "titled": marks.titled,
        "size": marks.size,
        "exact_size": marks.exact_size,
        "moment": marks.moment,
        "token": token,
    }
    environment.globals |= {
        "version": __version__,
        "count": count,
        "by_cap": by_cap,
        "static": lambda name: f"/static/{name}?v={_statics()[name][1]}",
    }
    return environment
