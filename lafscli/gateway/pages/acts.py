"""What forms of pages do: open a cap, upload, make, rename and remove entries.

Each form carries a token; what it did is told by a redirect to a page, so that to reload does nothing again. A script
that prefers text/plain gets a word instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from lafscli.errors import LafsError
from lafscli.formats.caps import Cap, DirectoryCap, UnknownCap, parse
from lafscli.gateway import verbs
from lafscli.gateway.asked import Refusal, status_of, without_caps
from lafscli.gateway.bodies import Form, Sent, form_of
from lafscli.gateway.desk import Desk
from lafscli.gateway.pages.objects import HOWS, base_of, checked
from lafscli.gateway.pages.places import Place, names_of
from lafscli.gateway.pages.render import HEADERS, error_page
from lafscli.gateway.pages.tokens import is_token
from lafscli.gateway.pins import Pins
from lafscli.gateway.refusals import said_of
from lafscli.primitives.text import count, escape
from lafscli.tree.contents import store
from lafscli.tree.directory import create_directory
from lafscli.tree.links import Over


@dataclass(frozen=True, slots=True)
class Given:
    """A form that was admitted: where it acts, and what it says."""

    place: Place
    cap: Cap | None = field(repr=False)
    form: Form
    base: str
    pins: Pins

    def get(self, name: str) -> str:
        """A field; nothing where there is none."""
        return self.form.fields.get(name, "")

    @property
    def directory(self) -> DirectoryCap:
        """The root that its path starts from; a Refusal where it is no directory."""
        if not isinstance(self.cap, DirectoryCap):
            raise Refusal(400, "this is not the cap of a directory")
        return self.cap

    @property
    def entry(self) -> tuple[str, ...]:
        """The path of the entry that it is about; a Refusal where it names none."""
        if not self.place.names:
            raise Refusal(400, "the form names no entry")
        return self.place.names


MOST_FILES = 100
"""Files of one upload."""

Action = Callable[[Desk, Given], Response | str]
"""What it did: a page, or the address to go to."""


async def act(desk: Desk, pins: Pins, request: Request, action: str, *, unlinked: bool = True) -> Response:
    """POST /page/ACTION."""
    plain = request.headers.get("accept", "").startswith("text/plain")
    work = ACTIONS.get(action)
    form: Form | None = None
    back = "/"
    try:
        if work is None:
            raise Refusal(404, "there is no such form")
        admit = partial(_admit, action, unlinked)
        form = await form_of(desk, request, most_files=MOST_FILES, admit=admit)
        admit(form)
        given = _given(form, request, pins)
        back = _back(action, given)
        with desk.recent.begin(_what(action, given)) as record:
            record.bytes = sum(sent.spool.size for sent in form.files)
            done = await desk.run_long(work, desk, given)
    except Refusal as refusal:
        return _failed(plain, refusal.status, refusal.text, back)
    except LafsError as error:
        return _failed(plain, status_of(error), said_of(error), back)
    finally:
        if form is not None:
            form.__exit__()
    if isinstance(done, Response):
        return done
    if plain:
        return PlainTextResponse("done", 200, HEADERS)
    return Response(status_code=303, headers=HEADERS | {"Location": done})


def _what(action: str, given: Given) -> str:
    """The operation in words that show no cap."""
    verb = given.get("how") if action == "health" and given.get("how") in HOWS else action
    return f"{verb} {'' if given.cap is None else given.cap.abbreviation}".rstrip()


def _back(action: str, given: Given) -> str:
    """The page to go on from when it failed."""
    if given.cap is None or action == "open":
        return "/"
    if action == "health":
        return given.place.info
    return (given.place.up if action in ("rename", "unlink") else given.place).href


def _failed(plain: bool, status: int, text: str, back: str) -> Response:
    if plain:
        return PlainTextResponse(escape(without_caps(text)), status, HEADERS)
    return error_page(status, without_caps(text), back=back)


def _admit(action: str, unlinked: bool, form: Form) -> None:
    cap = "" if action == "open" else form.fields.get("cap", "")
    if not is_token(form.fields.get("token", ""), cap):
        raise Refusal(
            403, "this form is not from a page that this gateway made since it was started: load the page again"
        )
    if not cap and action != "open" and not unlinked:
        raise Refusal(403, "this gateway stores nothing that no directory links to")


def _given(form: Form, request: Request, pins: Pins) -> Given:
    text = form.fields.get("cap", "").strip()
    try:
        names = names_of(form.fields.get("at", ""))
    except ValueError:
        raise Refusal(400, "the form's path can't be read") from None
    return Given(Place(text, names), parse(text) if text else None, form, base_of(request), pins)


# ---- what they do


def _open(_: Desk, given: Given) -> str:
    cap = given.cap
    if cap is None:
        raise Refusal(400, "paste a cap first")
    if isinstance(cap, UnknownCap):
        raise Refusal(400, cap.error or "this is no cap of a kind that lafs knows")
    place = Place(str(cap))
    return place.href if isinstance(cap, DirectoryCap) and cap.readable else place.info


def _upload(desk: Desk, given: Given) -> str:
    sent = [each for each in given.form.files if each.name or each.spool.size]
    if not sent:
        raise Refusal(400, "choose a file first")
    if given.cap is None:
        return _upload_unlinked(desk, given, sent[0])
    root, names = given.directory, given.place.names
    over: Over = "files" if given.get("over") == "files" else "nothing"
    failed: list[tuple[str, LafsError]] = []
    for each in sent:
        try:
            name = _name((given.get("name") if len(sent) == 1 else "") or base_name(each.name))
            with desk.access() as access:
                verbs.put(desk, access, root, (*names, name), each.spool, None, over)
                given.pins.keep(access, root)
        except LafsError as error:
            failed.append((each.name, error))
    if failed:
        told = "; ".join(dict.fromkeys(said_of(error) for _, error in failed))
        done = f" ({count(len(sent) - len(failed), 'file')} stored)" if len(sent) > 1 else ""
        raise Refusal(status_of(failed[0][1]), f"{told}{done}")
    return given.place.href


def _upload_unlinked(desk: Desk, given: Given, sent: Sent) -> str:
    with desk.access() as access:
        cap = store(access, sent.spool, "chk").cap
        given.pins.keep(access, cap)
    return Place(str(cap)).info


def _mkdir(desk: Desk, given: Given) -> str:
    if given.cap is None:
        with desk.access() as access:
            made = create_directory(access)
            given.pins.keep(access, made)
        return Place(str(made)).href
    name = _name(given.get("name"))
    with desk.access() as access:
        verbs.make_directory(desk, access, given.directory, (*given.place.names, name), "sdmf")
        given.pins.keep(access, given.directory)
    return given.place.below(name).href


def _rename(desk: Desk, given: Given) -> str:
    *above, old = given.entry
    new = _name(given.get("to"))
    if new != old:
        with desk.access() as access:
            verbs.move(desk, access, given.directory, given.entry, given.directory, (*above, new), "nothing")
    return given.place.up.href


def _unlink(desk: Desk, given: Given) -> str:
    with desk.access() as access:
        verbs.unlink(desk, access, given.directory, given.entry)
    return given.place.up.href


def base_name(name: str) -> str:
    """What a client calls a file, without its folders."""
    return name.replace("\\", "/").rpartition("/")[2]


def _name(text: str) -> str:
    """A name that an entry may be given on a page."""
    if not text:
        raise Refusal(400, "a name is missing")
    if "/" in text:
        raise Refusal(400, "a name can't have a slash in it")
    return text


def _health(desk: Desk, given: Given) -> Response:
    if given.cap is None:
        raise Refusal(400, "the form names no object")
    return checked(desk, given.place, given.cap, given.get("how"), given.base)


ACTIONS: Mapping[str, Action] = {
    "open": _open,
    "upload": _upload,
    "mkdir": _mkdir,
    "rename": _rename,
    "unlink": _unlink,
    "health": _health,
}
