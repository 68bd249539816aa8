"""A home with servers that are folders, a desk over it, and what asks the views of the gateway, for tests."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lafscli.config.home import Home
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, MutableWriteCap, UnknownCap, parse
from lafscli.gateway import checking, operations
from lafscli.gateway.asked import Asked
from lafscli.gateway.desk import Desk
from lafscli.immutable.upload import upload
from lafscli.primitives.ciphers import PrivateKey
from lafscli.primitives.encoding import b32encode
from lafscli.tree.contents import Access, store
from lafscli.tree.directory import NewChild, create_directory
from tests.grids import content
from tests.versions import KEYS


class World:
    """A home with ten servers that are folders, and a desk over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.keys = iter(KEYS)
        self.desk = self.begin()
        with self.desk.access() as access:
            self.ids = {store.server.name: b32encode(store.server.node_id) for store in access.grid.stores}

    def begin(self) -> Desk:
        return Desk(Home.find(str(self.folder / "home")), note=self.notes.append)

    def access(self) -> Access:
        with self.desk.access() as access:
            return access

    def file(self, size: int = 300, seed: int = 0) -> Cap:
        access = self.access()
        return upload(access.grid, content(size, seed), access.writing).cap

    def slot(self, size: int = 300, seed: int = 0) -> Cap:
        return self.holding(content(size, seed))

    def holding(self, data: bytes) -> MutableWriteCap:
        """A mutable file of this content."""
        cap = store(self.access(), data, "sdmf", private=self.key()).cap
        assert isinstance(cap, MutableWriteCap)
        return cap

    def key(self) -> PrivateKey | None:
        """One that no other object here has; making keys takes long."""
        return next(self.keys, None)

    def directory(self, kind: str = "sdmf", /, **children: Cap) -> DirectoryCap:
        given = {name: NewChild(cap) for name, cap in children.items()}
        private = None if kind == "chk" else self.key()
        return create_directory(self.access(), given, kind=kind, private=private)  # type: ignore[arg-type]

    def shares(self, cap: Cap) -> dict[int, tuple[str, Path]]:
        """Server and file of each share."""
        assert cap.storage_index is not None
        si = b32encode(cap.storage_index)
        found = (self.folder / "home" / "grid").glob(f"*/shares/{si[:2]}/{si}/*")
        return {int(path.name): (path.parents[3].name, path) for path in found if path.name.isdigit()}

    def lose(self, cap: Cap, *shnums: int) -> None:
        """Remove shares; all unless some are given."""
        for shnum, (_, path) in self.shares(cap).items():
            if not shnums or shnum in shnums:
                path.unlink()

    def flip(self, cap: Cap, shnum: int, at: int = -200) -> None:
        path = self.shares(cap)[shnum][1]
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    # ---- requests

    def asked(self, cap: Cap, *names: str, **query: str) -> Asked:
        query_string = "&".join(f"{key.replace('_', '-')}={value}" for key, value in query.items())
        return asked(cap, names, query_string)

    def check(self, cap: Cap, *names: str, **query: str) -> Any:
        response = asyncio.run(checking.check(self.desk, self.asked(cap, *names, output="JSON", **query)))
        assert response.status_code == 200
        return json.loads(bytes(response.body))

    def stream(self, cap: Cap, what: str = "stream-deep-check", **query: str) -> list[str]:
        async def whole() -> bytes:
            response = await checking.stream(self.desk, self.asked(cap, **query), what)  # type: ignore[arg-type]
            assert response.status_code == 200
            return await body_of(response)

        return asyncio.run(whole()).decode("ascii").splitlines()

    def operate(self, cap: Cap, kind: str, **query: str) -> tuple[int, Any]:
        """Start it, and ask until it is finished."""

        async def act() -> tuple[int, Any]:
            begun = await operations.start(self.desk, self.asked(cap, ophandle="h", **query), kind)  # type: ignore[arg-type]
            assert (begun.status_code, begun.headers["location"]) == (302, "/operations/h")
            return await until_finished(self.desk, "h")

        return asyncio.run(act())


def request(method: str = "GET", query: str = "") -> Request:
    return Request({"type": "http", "method": method, "query_string": query.encode(), "headers": [], "path": "/"})


def asked(cap: Cap, names: tuple[str, ...] = (), query: str = "") -> Asked:
    return Asked(request("POST", query), cap, str(cap), names, dict(parse_qsl(query, keep_blank_values=True)))


async def body_of(response: Response) -> bytes:
    if isinstance(response, StreamingResponse):
        return b"".join([bytes(piece) async for piece in response.body_iterator])  # type: ignore[arg-type]
    return bytes(response.body)


async def until_finished(desk: Desk, handle: str) -> tuple[int, Any]:
    for _ in range(2000):
        response = await operations.operation(desk, request(query="output=JSON"), handle)
        if response.status_code != 200:
            return response.status_code, (await body_of(response)).decode()
        document = json.loads(await body_of(response))
        if document["finished"]:
            return 200, document
        await asyncio.sleep(0.005)
    raise AssertionError("it does not end")


@contextmanager
def world_like(template: Path, folder: Path) -> Iterator[World]:
    """A copy of a home that was made by `init --local`; the configuration names the folders of the copy."""
    shutil.copytree(template, folder)
    config = folder / "home" / "config.toml"
    config.write_text(config.read_text().replace(str(template), str(folder)))
    made = World(folder)
    yield made
    made.desk.close()


LIT = LitCap(b"in the cap")
NOTHING = {"storage-index": "", "results": {"healthy": True}}


def tree(world: World) -> tuple[DirectoryCap, list[tuple[list[str], Cap]]]:
    """A directory with one of everything, and what a walk comes by."""
    file, slot = world.file(), world.slot()
    fixed = world.directory("chk", inside=file, other=world.file(500, 2))
    below = world.directory(again=file, slot=slot, tiny=LIT)
    unknown = UnknownCap("ro.URI:FUTURE:x")
    top = world.directory(b=file, a=LIT, z=unknown, m=slot, fixed=fixed, below=below, empty=world.directory("chk"))
    other = next(cap for path, cap in objects(world, fixed) if path == ["other"])
    empty = DirectoryCap(LitCap(b""))
    order: list[tuple[list[str], Cap]] = [([], top), (["z"], unknown), (["a"], LIT), (["b"], file), (["m"], slot)]
    order += [(["below"], below), (["below", "tiny"], LIT), (["empty"], empty)]
    return top, [*order, (["fixed"], fixed), (["fixed", "other"], other)]


def objects(world: World, cap: Cap) -> list[tuple[list[str], Cap]]:
    lines = [json.loads(line) for line in world.stream(cap, "stream-manifest")]
    return [(line["path"], parse(line["cap"])) for line in lines[:-1]]
