"""The front page and the page of a directory."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from lafscli.errors import CannotTell, NotRecoverable
from lafscli.formats.caps import Cap, DirectoryCap
from lafscli.gateway.asked import Asked, Refusal, status_of, without_caps
from lafscli.gateway.desk import Desk
from lafscli.gateway.pages.objects import find
from lafscli.gateway.pages.places import Place
from lafscli.gateway.pages.render import error_page, page
from lafscli.gateway.pages.rows import PAGE, rows
from lafscli.gateway.refusals import said_of
from lafscli.gateway.welcome import server_states

_RECENT = 20


async def front(desk: Desk, _: Request, *, unlinked: bool = True) -> Response:
    """GET /."""
    return await desk.run(_front, desk, unlinked)


def _front(desk: Desk, unlinked: bool) -> Response:
    return page("front.html", servers=server_states(desk), recent=desk.recent.lines()[:_RECENT], unlinked=unlinked)


async def directory(desk: Desk, asked: Asked) -> Response:
    """GET of a directory. `page` in the query counts from 1."""
    number = asked.query.get("page", "1")
    if not (number.isascii() and number.isdigit() and 0 < len(number) < 8 and int(number)):
        raise Refusal(400, "the number of the page is none")
    place = Place(asked.cap_text, tuple(asked.names))
    try:
        return await desk.run(_directory, desk, place, asked.cap, int(number))
    except (NotRecoverable, CannotTell) as error:
        if place.names or "text/html" not in asked.request.headers.get("accept", ""):
            raise
        return error_page(status_of(error), without_caps(said_of(error)), back=place.info, onward="Look at its health")


def _directory(desk: Desk, place: Place, root: Cap, number: int) -> Response:
    with desk.access() as access:
        cap = find(desk, access, root, place.names).cap
        if not isinstance(cap, DirectoryCap):
            raise Refusal(400, "this is not a directory")
        found = desk.directory(access, cap)
    children, left_out = found.children(), found.left_out
    shown = list(rows(place, children, left_out))
    pages = max(1, -(-len(shown) // PAGE))
    return page(
        "directory.html",
        place=place,
        name=place.names[-1] if place.names else "",
        abbreviation=root.abbreviation,
        writable=cap.writable,
        mutable=cap.mutable,
        rows=shown[(number - 1) * PAGE : number * PAGE],
        entries=len(shown),
        number=number,
        pages=pages,
    )
