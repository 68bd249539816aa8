"""POST: forms, children in JSON, and what is done to the names in a directory (spec 08 §2)."""

from __future__ import annotations

from typing import get_args

from starlette.responses import Response

from lafscli.formats.caps import Cap, DirectoryCap, parse
from lafscli.gateway import bodies, checking, operations, verbs
from lafscli.gateway.asked import Asked, Refusal, shown
from lafscli.gateway.changes import Changes
from lafscli.gateway.desk import Desk
from lafscli.gateway.wanted import UNLINKED, cap_answer, file_of, finished, made_as, needed, text_answer, when_done
from lafscli.tree.contents import Access

_IN_BODY = ("mkdir-with-children", "mkdir-immutable", "set_children", "set-children")


class Posts:
    """What is posted."""

    def __init__(self, desk: Desk, changes: Changes) -> None:
        self._desk = desk
        self._changes = changes

    async def post_unlinked(self, asked: Asked) -> Response:
        """POST /uri."""
        if asked.t in _IN_BODY[:2]:
            immutable = asked.t == "mkdir-immutable"
            given = await bodies.children(self._desk, asked.request, immutable=immutable)
            return await self._changes.mkdir_unlinked(asked, given)
        with await bodies.form_of(self._desk, asked.request) as form:
            asked = asked.with_fields(form.fields)
            if asked.t == "mkdir":
                return finished(asked, await self._changes.mkdir_unlinked(asked, {}))
            if asked.t != "upload":
                raise Refusal(400, UNLINKED)
            kind, private = made_as(asked)
            when_done(asked)
            cap = await self._desk.run_long(self._changes.store, file_of(form), kind or "chk", private)
            return finished(asked, cap_answer(cap), cap)

    async def post(self, asked: Asked) -> Response:
        """POST /uri/CAP, /uri/DIRCAP/path."""
        if asked.t in _IN_BODY[:2]:
            children = await bodies.children(self._desk, asked.request, immutable=asked.t == "mkdir-immutable")
            return await self._changes.mkdir(asked, "POST to file", children)
        if asked.t in _IN_BODY[2:]:
            root = await self._directory(asked)
            children = await bodies.children(self._desk, asked.request, immutable=False)
            over = asked.over()
            await self._changes.changing(
                asked, lambda access: verbs.set_children(self._desk, access, root, children, over)
            )
            return finished(asked, text_answer("Okay so I did it."))
        with await bodies.form_of(self._desk, asked.request) as form:
            asked = asked.with_fields(form.fields)
            when_done(asked)
            return await self._post_form(asked, form)

    async def _post_form(self, asked: Asked, form: bodies.Form) -> Response:
        t = asked.t
        if t == "mkdir":
            return finished(asked, await self._changes.mkdir(asked, "POST to file", {}))
        if t == "check":
            return await checking.check(self._desk, asked)
        for streamed in get_args(checking.Streamed):
            if t == streamed:
                return await checking.stream(self._desk, asked, streamed)
        for started in get_args(operations.Kind):
            if t == started:
                return await operations.start(self._desk, asked, started)
        if t == "upload":
            return await self._upload(asked, form)
        act = {
            "unlink": self._unlink,
            "delete": self._unlink,
            "rename": self._rename,
            "relink": self._relink,
            "uri": self._link,
        }.get(t)
        root = await self._directory(asked)
        if act is None:
            raise Refusal(400, f"POST to a directory with bad t={shown(t)}")
        return finished(asked, await act(asked, root))

    async def _directory(self, asked: Asked) -> DirectoryCap:
        """The directory that a POST is for."""
        cap = await self._target(asked)
        if not isinstance(cap, DirectoryCap):
            raise Refusal(400, f"POST to file: bad t={shown(asked.t)}")
        return cap

    async def _target(self, asked: Asked) -> Cap:
        def find() -> Cap:
            with self._desk.access() as access:
                return verbs.find(self._desk, access, asked.cap, asked.names)

        return await self._desk.run(find) if asked.names else asked.cap

    async def _upload(self, asked: Asked, form: bodies.Form) -> Response:
        spool = file_of(form)
        cap = await self._target(asked)
        inside = Asked(asked.request, cap, str(cap), (), asked.query)
        name = asked.query.get("name") or form.filename
        if cap.is_directory:
            answer = await self._changes.content(inside, (name or "unknown-filename",), spool)
        else:
            answer = await self._changes.content(inside, (), spool)
        return finished(asked, answer, parse(bytes(answer.body).decode()))

    async def _unlink(self, asked: Asked, root: DirectoryCap) -> Response:
        names = (needed(asked, "name"),)
        await self._changes.changing(asked, lambda access: verbs.unlink(self._desk, access, root, names))
        return text_answer("thing unlinked")

    async def _rename(self, asked: Asked, root: DirectoryCap) -> Response:
        old = needed(asked, "from_name")
        new = asked.query.get("to_name", "")
        if not new:
            raise Refusal(400, "to_name= is required for rename")
        return await self._moved(asked, root, old, root, (new,))

    async def _relink(self, asked: Asked, root: DirectoryCap) -> Response:
        old = needed(asked, "from_name")
        target, way = root, list[str]()
        if "to_dir" in asked.query:
            text, *way = asked.query["to_dir"].rstrip("/").split("/")
            found = parse(text)
            if not isinstance(found, DirectoryCap) or not all(way):
                raise Refusal(400, "to_dir is not a directory")
            target = found
        return await self._moved(asked, root, old, target, (*way, asked.query.get("to_name") or old))

    async def _moved(
        self, asked: Asked, root: DirectoryCap, old: str, target: DirectoryCap, names: tuple[str, ...]
    ) -> Response:
        over = asked.over()

        def work(access: Access) -> None:
            verbs.move(self._desk, access, root, (old,), target, names, over)
            self._changes.pins.keep(access, target)

        await self._changes.changing(asked, work)
        return text_answer("thing moved")

    async def _link(self, asked: Asked, root: DirectoryCap) -> Response:
        text = needed(asked, "uri")
        names = (needed(asked, "name"),)
        new = bodies.new_child(names[0], text, "")
        over = asked.over()
        await self._changes.changing(asked, lambda access: verbs.link(self._desk, access, root, names, new, over))
        return text_answer(text)
