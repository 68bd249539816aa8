"""GET and HEAD of what caps and paths lead to (spec 08 §2)."""

from __future__ import annotations

from contextlib import ExitStack
from urllib.parse import quote, urlencode

from starlette.responses import RedirectResponse, Response

from lafscli.formats.caps import Cap, DirectoryCap, UnknownCap, parse
from lafscli.gateway import files, pages, verbs
from lafscli.gateway.asked import Asked, Refusal, shown
from lafscli.gateway.described import Documents, document
from lafscli.gateway.desk import Desk
from lafscli.gateway.files import AT_ONCE, Download, Shown
from lafscli.gateway.ranges import Unsatisfiable

_UNKNOWN = (
    "GET unknown URI type: can only do t=info and t=json, not t={}.\n"
    "Using a webapi server that supports a later version of Tahoe may help."
)


async def get(desk: Desk, documents: Documents, asked: Asked) -> Response:
    """An object, or what there is to know of it."""
    t = asked.t
    if t == "json":
        return Response(await desk.run(_json, desk, documents, asked), media_type="text/plain")
    if t in ("uri", "readonly-uri"):
        cap = await desk.run(_found, desk, asked)
        return Response(str(cap if t == "uri" else cap.read_cap()).encode(), media_type="text/plain")
    if t == "info":
        return await pages.info(desk, asked)
    if t:
        cap = await desk.run(_found, desk, asked)
        if _unknown(cap):
            raise Refusal(400, _UNKNOWN.format(shown(t)))
        raise Refusal(400, f"GET {'directory' if cap.is_directory else 'file'}: bad t={shown(t)}")
    name = asked.query.get("filename") or (asked.names[-1] if asked.names else None)
    answer = await desk.run(_file, desk, asked, Shown(name, asked.flag("save")))
    if answer is not None:
        return answer
    return await pages.directory(desk, asked)


async def named(desk: Desk, asked: Asked) -> Response:
    """A file whose name stands in the URL too, behind its cap."""
    if asked.cap.is_directory:
        raise Refusal(400, "only files can be asked for by /file/ and /named/")
    name = asked.query.get("filename") or (asked.names[-1] if asked.names else None)
    only = Asked(asked.request, asked.cap, asked.cap_text, (), asked.query)
    answer = await desk.run(_file, desk, only, Shown(name, asked.flag("save")))
    assert answer is not None, "it is no directory"
    return answer


def redirected(query: dict[str, str]) -> Response:
    """GET /uri?uri=CAP."""
    text = query.pop("uri", None)
    if text is None:
        raise Refusal(400, "GET /uri requires uri=")
    cap = parse(text.strip())
    if isinstance(cap, UnknownCap) and not text.startswith(("ro.", "imm.")):
        raise Refusal(400, "uri= is no cap of a kind that lafs knows")
    rest = f"?{urlencode(query)}" if query else ""
    return RedirectResponse(f"/uri/{quote(text.strip(), safe='')}{rest}", 302)


# ---- by threads of the desk --------------------------------------------------------------------------------------


def _found(desk: Desk, asked: Asked) -> Cap:
    with desk.access() as access:
        return verbs.find(desk, access, asked.cap, asked.names)


def _json(desk: Desk, documents: Documents, asked: Asked) -> bytes:
    with desk.access() as access:
        return document(desk, access, documents, asked.cap, asked.names)


def _unknown(cap: Cap) -> bool:
    return isinstance(cap, UnknownCap) or not cap.readable


def _file(desk: Desk, asked: Asked, shown_as: Shown) -> Response | None:
    """The answer that is a file, all of it if it is small, else as it begins; None for a directory."""
    request = asked.request
    with ExitStack() as stack:
        access = stack.enter_context(desk.access())
        cap = verbs.find(desk, access, asked.cap, asked.names)
        if _unknown(cap):
            raise Refusal(400, _UNKNOWN.format(""))
        if isinstance(cap, DirectoryCap):
            return None
        entity = files.tag(cap)
        headers = files.headers_of(cap, shown_as, fixed=asked.cap.mutable is False)
        if files.known_already(request, entity):
            return Response(b"", 304, headers)
        head = request.method == "HEAD"
        try:
            opened = files.open_file(
                stack, access, cap, None if head else files.range_header(request, entity), head=head
            )
        except Unsatisfiable as none:
            return files.unsatisfiable(none.size)
        desk.counters.add(files_out=not head)
        if not head and opened.part.length > AT_ONCE:
            return Download(desk, opened, headers)
        answer = opened.whole(headers)
        opened.close()
        return answer
