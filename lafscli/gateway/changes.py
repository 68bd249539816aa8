"""What changes something (spec 08 §2): content and directories, alone or below a cap. PUT and DELETE.

A body is taken whole before anything is stored; what can be seen to be wrong before is refused before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from starlette.responses import Response

from lafscli.formats.caps import Cap, DirectoryCap, MutableWriteCap
from lafscli.gateway import bodies, verbs
from lafscli.gateway.asked import Asked, Refusal, shown
from lafscli.gateway.desk import Desk
from lafscli.gateway.pins import Pins
from lafscli.gateway.reading import open_content
from lafscli.gateway.spool import Spool
from lafscli.gateway.wanted import (
    TAKEN,
    UNLINKED,
    cap_answer,
    directory_made_as,
    made_as,
    offset_of,
    root_of,
    text_answer,
    writable,
)
from lafscli.primitives.ciphers import PrivateKey
from lafscli.tree.contents import Access, Kind, patch
from lafscli.tree.directory import NewChild, changeable, create_directory
from lafscli.tree.links import Occupied
from lafscli.tree.paths import NoDirectory

T = TypeVar("T")


class Changes:
    """What changes something. `pins`: how it is kept from the home's own collector."""

    def __init__(self, desk: Desk, pins: Pins) -> None:
        self._desk = desk
        self.pins = pins

    # ---- without a directory

    async def put_unlinked(self, asked: Asked) -> Response:
        """PUT /uri."""
        if asked.t == "mkdir":
            return await self.mkdir_unlinked(asked, {})
        if asked.t:
            raise Refusal(400, UNLINKED)
        kind, private = made_as(asked)
        with await bodies.spooled(self._desk, asked.request) as spool:
            return cap_answer(await self._desk.run_long(self.store, spool, kind or "chk", private))

    async def mkdir_unlinked(self, asked: Asked, children: Mapping[str, NewChild]) -> Response:
        kind, private = directory_made_as(asked)

        def make() -> Cap:
            with self._desk.access() as access:
                cap = create_directory(access, children, kind=kind, private=private)
                self.pins.keep(access, cap)
                return cap

        return cap_answer(await self._desk.run_long(make))

    def store(self, spool: Spool, kind: Kind, private: PrivateKey | None) -> Cap:
        with self._desk.access() as access:
            cap = verbs.keep(access, spool, kind, private)
            self.pins.keep(access, cap)
            self._desk.counters.add(files_in=1)
            return cap

    # ---- PUT

    async def put(self, asked: Asked) -> Response:
        """PUT /uri/CAP, /uri/DIRCAP/path."""
        if asked.t == "uri":
            text = await bodies.cap_text(self._desk, asked.request)
            root = root_of(asked)
            if not asked.names:
                raise Refusal(400, "PUT t=uri takes a name in the directory")
            new = bodies.new_child(asked.names[-1], text, "")
            await self.changing(
                asked, lambda access: verbs.link(self._desk, access, root, asked.names, new, asked.over())
            )
            return text_answer(text)
        if asked.t == "mkdir":
            return await self.mkdir(asked, "PUT to a file", {})
        if asked.t:
            sort = "directory" if asked.cap.is_directory and not asked.names else "file"
            raise Refusal(400, f"PUT to a {sort}: bad t={shown(asked.t)}")
        if "content-range" in asked.request.headers:
            raise Refusal(400, "PUT with a Content-Range would replace all of the file: offset= patches it")
        asked.over()
        made_as(asked)
        if asked.cap.is_directory and (not asked.names or asked.slashed):
            raise Refusal(400, "PUT to a directory")
        offset = offset_of(asked)
        if not asked.names:
            writable(asked.cap)
        elif not asked.cap.writable:
            changeable(root_of(asked))  # below a read cap nothing can be written: a body need not be sent for that
        with await bodies.spooled(self._desk, asked.request) as spool:
            return await self.content(asked, asked.names, spool, offset)

    async def content(self, asked: Asked, names: Sequence[str], spool: Spool, offset: int | None = None) -> Response:
        """Content goes to a path, or into a mutable file."""
        kind, private = made_as(asked)
        over = asked.over()

        def work(access: Access) -> tuple[Cap, bool]:
            if not names:
                if over == "nothing":
                    raise Refusal(409, TAKEN)
                cap = writable(asked.cap)
                self._into(access, cap, spool, offset)
                return cap, False
            root = root_of(asked)
            if offset is not None:
                there = verbs.look(self._desk, access, root, names)
                if there is not None and not there.is_directory:
                    cap = writable(there)
                    self._into(access, cap, spool, offset)
                    return cap, False
            put = verbs.put(self._desk, access, root, names, spool, kind, over, private=private)
            return put.cap, put.new

        try:
            cap, new = await self.changing(asked, work)
        except Occupied as taken:
            if taken.child.cap.is_directory and asked.request.method == "PUT":
                raise Refusal(400, "PUT to a directory") from None
            raise
        self._desk.counters.add(files_in=1)
        return cap_answer(cap, 201 if new and asked.request.method == "PUT" else 200)

    def _into(self, access: Access, cap: MutableWriteCap, spool: Spool, offset: int | None) -> None:
        if offset is None:
            verbs.rewrite(self._desk, access, cap, spool)
            return
        with self._desk.turn(cap):
            content = open_content(access, cap)
            size = content.size
            content.close()
            if offset > size:
                raise Refusal(400, f"PUT to a mutable file: Invalid offset: the file has {size} bytes")
            verbs.fitting(cap.kind, offset + spool.size)
            patch(access, cap, offset, spool)

    async def changing(self, asked: Asked, work: Callable[[Access], T]) -> T:
        """Call it in a thread of the desk; what it changes is below the cap of the request."""

        def change(access: Access) -> T:
            done = work(access)
            if asked.cap.is_directory and asked.cap.writable:
                self.pins.keep(access, asked.cap)
            return done

        try:
            return await self._desk.run_long(self._desk.write, change)
        except NoDirectory as error:
            raise Refusal(409, error.message) from None

    # ---- directories

    async def mkdir(self, asked: Asked, what: str, children: Mapping[str, NewChild]) -> Response:
        kind, private = directory_made_as(asked)
        name = asked.query.get("name", "")
        names = (*asked.names, name) if name else asked.names
        root = asked.cap
        if not isinstance(root, DirectoryCap):
            raise Refusal(409 if names else 400, f"{what}: bad t={asked.t}")

        anew = bool(name) and asked.t != "mkdir"  # what is there does not get these children: that must not look done

        def make(access: Access) -> Cap:
            return verbs.make_directory(self._desk, access, root, names, kind, children, private, anew=anew)

        try:
            return cap_answer(await self.changing(asked, make))
        except Occupied:
            raise (Refusal(409, TAKEN) if name else Refusal(400, f"{what}: bad t={asked.t}")) from None

    async def delete(self, asked: Asked) -> Response:
        """DELETE /uri/DIRCAP/path."""
        root = asked.cap
        if not asked.names or not isinstance(root, DirectoryCap):
            raise Refusal(400, "DELETE takes a path below a directory")
        cap = await self.changing(asked, lambda access: verbs.unlink(self._desk, access, root, asked.names))
        return text_answer("" if cap is None else str(cap))
