"""The page about one object: what it is, its links and caps, its health, and what can be done with its entry."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from lafscli.errors import CannotTell, MalformedDirectory, NotFound, NotRecoverable
from lafscli.formats.caps import Cap, ChkCap, ChkVerifyCap, DirectoryCap, UnknownCap
from lafscli.formats.child import Child
from lafscli.gateway.asked import Asked, Refusal
from lafscli.gateway.checking import looked_at
from lafscli.gateway.deep import How
from lafscli.gateway.desk import Desk
from lafscli.gateway.pages.marks import changed
from lafscli.gateway.pages.places import Place, by_cap
from lafscli.gateway.pages.render import page
from lafscli.gateway.pages.rows import Sort, file_size, kind_words, sort_of
from lafscli.gateway.pages.shares import SIGNS, ShareGrid, share_grid
from lafscli.gateway.refusals import said_of
from lafscli.primitives.encoding import b32encode
from lafscli.tree.contents import Access
from lafscli.tree.paths import missing, reach

HOWS = {"check": How(), "verify": How(verify=True), "repair": How(verify=True, repair=True)}
_FORMATS = {"lit": "LIT", "chk": "CHK", "sdmf": "SDMF", "mdmf": "MDMF"}


@dataclass(frozen=True, slots=True)
class Found:
    """What a path leads to. `child`: the entry, where it was reached through a directory; `editable`: whether that
    directory can be changed. `unusable`: why the entry can't be understood; then there is no cap."""

    cap: Cap | None = field(repr=False)
    child: Child | None = field(default=None, repr=False)
    editable: bool = False
    unusable: MalformedDirectory | None = None


def find(desk: Desk, access: Access, cap: Cap, names: tuple[str, ...]) -> Found:
    """Follow a path; NotFound names what is missing."""
    if not names:
        return Found(cap)
    reached = reach(access, cap, names, desk.directory)
    if reached.missing:
        raise missing(names, reached)
    return Found(
        None if reached.child is None else reached.child.cap,
        reached.child,
        reached.above[-1].writable,
        reached.unusable,
    )


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page tells of an object."""

    sort: Sort
    kind: str
    format: str
    size: int | None
    changed: float | None
    encoding: tuple[int, int] | None
    storage_index: str
    read_cap: str = field(repr=False)
    write_cap: str = field(repr=False)
    verify_cap: str = field(repr=False)
    link: str = field(repr=False)

    @classmethod
    def of(cls, cap: Cap, child: Child | None, base: str) -> Facts:
        verify, si = cap.verify_cap(), cap.storage_index
        sort = sort_of(cap)
        read = str(cap.read_cap()) if cap.readable else ""
        if isinstance(cap, UnknownCap) and child is not None and child.ro is not None:
            read = str(child.ro)
        name = child.name if child is not None and sort == "file" else None
        return cls(
            sort,
            kind_words(cap),
            _FORMATS.get(cap.kind.removeprefix("dir2-"), "SDMF" if cap.kind == "dir2" else ""),
            file_size(cap),
            None if child is None else changed(child.metadata),
            (cap.k, cap.n) if isinstance(cap, ChkCap | ChkVerifyCap) else None,
            "" if si is None else b32encode(si),
            read,
            str(cap) if cap.writable else "",
            "" if verify is None else str(verify),
            f"{base}{by_cap(read, name)}" if read and sort != "unknown" else "",
        )


async def info(desk: Desk, asked: Asked) -> Response:
    """GET ?t=info of anything. `entry` in the query is one name more, for names that no address can hold."""
    entry = asked.query.get("entry")
    names = (*asked.names, entry) if entry else asked.names
    return await desk.run(_info, desk, Place(asked.cap_text, names), asked.cap, base_of(asked.request))


def _info(desk: Desk, place: Place, cap: Cap, base: str) -> Response:
    with desk.access() as access:
        found = find(desk, access, cap, place.names)
    return _page(place, cap, found, base, None)


def checked(desk: Desk, place: Place, cap: Cap, how: str, base: str) -> Response:
    """The page with the health of the object; a Refusal where nobody can tell that."""
    if how not in HOWS:
        raise Refusal(400, "it is not said how to check")
    with desk.access() as access:
        found = find(desk, access, cap, place.names)
        target = found.cap
        if target is None or isinstance(target, UnknownCap):
            raise Refusal(400, "an object of a kind that lafs does not know can't be checked")
        refused = ""
        try:
            _, after = looked_at(access, target, HOWS[how], desk.turn)
        except (NotRecoverable, CannotTell) as error:
            if not HOWS[how].repair:
                raise
            refused = said_of(error)
            _, after = looked_at(access, target, HOWS["check"], desk.turn)
        servers = [store.server.name for store in access.grid.stores]
    return _page(place, cap, found, base, share_grid(after, servers, refused))


def _page(place: Place, root: Cap, found: Found, base: str, grid: ShareGrid | None) -> Response:
    if found.cap is None and found.unusable is None:
        raise NotFound("there is nothing here")
    return page(
        "object.html",
        place=place,
        abbreviation=root.abbreviation,
        name=place.names[-1] if place.names else "",
        facts=None if found.cap is None else Facts.of(found.cap, found.child, base),
        unusable=None if found.unusable is None else found.unusable.message,
        openable=found.cap is not None and found.cap.readable and not isinstance(found.cap, UnknownCap),
        directory=isinstance(found.cap, DirectoryCap),
        editable=found.editable,
        grid=grid,
        signs=SIGNS,
    )


def base_of(request: Request) -> str:
    """Scheme and host of this gateway as the browser knows it."""
    return f"{request.url.scheme}://{request.url.netloc}"
