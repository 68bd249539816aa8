"""Checks, streams, operations and the state of servers, as clients of the web API get them (spec 08 §2, §4, §5)."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from lafscli.config.home import Home
from lafscli.errors import UsageError
from lafscli.formats.caps import Cap, DirectoryCap, LitCap, MutableWriteCap, UnknownCap, parse
from lafscli.gateway import checking, operations, welcome
from lafscli.gateway import desk as desks
from lafscli.gateway.asked import Asked, Refusal
from lafscli.gateway.desk import Desk
from lafscli.immutable.upload import upload
from lafscli.mutable import publish
from lafscli.primitives.ciphers import PrivateKey
from lafscli.primitives.encoding import b32encode
from lafscli.tree.contents import Access, store
from lafscli.tree.directory import NewChild, create_directory
from tests.grids import LocalGrid, content
from tests.homes import age
from tests.lafs_process import Lafs
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


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gateway-health")
    Lafs(folder)("init", "--local", code=0)
    return folder


@pytest.fixture
def world(template: Path, tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "copy"
    shutil.copytree(template, folder)
    config = folder / "home" / "config.toml"
    config.write_text(config.read_text().replace(str(template), str(folder)))
    made = World(folder)
    yield made
    made.desk.close()


LIT = LitCap(b"in the cap")
NOTHING = {"storage-index": "", "results": {"healthy": True}}


# ---- one object


def test_document_of_an_immutable_file(world: World) -> None:
    cap = world.file()
    si = b32encode(cap.storage_index or b"")
    places = {shnum: world.ids[name] for shnum, (name, _) in world.shares(cap).items()}
    assert world.check(cap) == {
        "storage-index": si,
        "summary": "Healthy",
        "results": {
            "count-happiness": 10,
            "count-shares-good": 10,
            "count-shares-needed": 3,
            "count-shares-expected": 10,
            "count-good-share-hosts": 10,
            "count-corrupt-shares": 0,
            "list-corrupt-shares": [],
            "servers-responding": list(world.ids.values()),
            "sharemap": {str(shnum): [places[shnum]] for shnum in range(10)},
            "count-wrong-shares": 0,
            "count-recoverable-versions": 1,
            "count-unrecoverable-versions": 0,
            "healthy": True,
            "recoverable": True,
        },
    }
    world.lose(cap, 1, 2)
    world.flip(cap, 3)
    found = world.check(cap)
    assert found["summary"] == "Not Healthy: 8 shares (enc 3-of-10)"
    assert found["results"]["list-corrupt-shares"] == []  # nobody looked into it
    found = world.check(cap, verify="true")
    assert found["summary"] == "Not Healthy: 7 shares (enc 3-of-10)"
    results = found["results"]
    assert (results["count-corrupt-shares"], results["list-corrupt-shares"]) == (1, [[places[3], si, 3]])
    assert (results["healthy"], results["recoverable"], results["count-good-share-hosts"]) == (False, True, 7)
    world.lose(cap)
    results = world.check(cap)["results"]
    assert (results["count-recoverable-versions"], results["count-unrecoverable-versions"]) == (0, 1)
    assert (results["recoverable"], results["sharemap"]) == (False, {})


def test_document_of_a_mutable_file(world: World) -> None:
    """Share ids name the version; shares of another version are wrong ones."""
    cap = world.slot()
    first = world.check(cap)["results"]["sharemap"]
    assert {text.rpartition("-sh")[0] for text in first} == {next(iter(first)).rpartition("-sh")[0]}
    assert next(iter(first)).startswith("seq1-")
    assert sorted(int(text.rpartition("-sh")[2]) for text in first) == list(range(10))
    old = {shnum: path.read_bytes() for shnum, (_, path) in world.shares(cap).items()}
    access = world.access()
    publish.overwrite(access.grid, cap, b"other content", access.publishing)  # type: ignore[arg-type]
    for shnum in (4, 7):
        world.shares(cap)[shnum][1].write_bytes(old[shnum])
    found = world.check(cap)
    results = found["results"]
    assert found["summary"] == "Unhealthy: some versions are unrecoverable 8 shares (enc 3-of-10)"
    assert (results["count-shares-good"], results["count-wrong-shares"]) == (8, 2)
    assert (results["count-recoverable-versions"], results["count-unrecoverable-versions"]) == (1, 1)
    assert (results["count-happiness"], results["healthy"], results["recoverable"]) == (10, False, True)
    assert sum(text.startswith("seq2-") for text in results["sharemap"]) == 8
    assert {text for text in results["sharemap"] if text.startswith("seq1-")} < set(first)
    root_hash = next(text for text in results["sharemap"] if text.startswith("seq2-")).split("-")[1]
    assert len(root_hash) == 4
    world.lose(cap)
    found = world.check(cap)
    assert found["summary"].startswith("Unhealthy: ")
    assert "no versions are recoverable" in found["summary"]
    assert (found["results"]["count-shares-needed"], found["results"]["count-shares-expected"]) == (3, 10)


def test_what_has_no_shares(world: World) -> None:
    for cap in (LIT, world.directory("chk"), UnknownCap("URI:FUTURE:x")):
        assert world.check(cap, verify="1", add_lease="on") == NOTHING
        assert world.check(cap, repair="true") == {"storage-index": "", "repair-attempted": False}
    with pytest.raises(UsageError, match="malformed"):
        world.check(parse("URI:CHK:x"))


def test_a_name_leads_to_the_object(world: World) -> None:
    file = world.file()
    top = world.directory(below=world.directory(file=file))
    assert world.check(top, "below", "file") == world.check(file)
    with pytest.raises(Exception, match="no such file or directory"):
        world.check(top, "below", "absent")
    with pytest.raises(Refusal):
        world.check(file, verify="maybe")


def test_a_verify_cap_is_enough(world: World) -> None:
    for cap in (world.file(), world.slot(), world.directory()):
        assert world.check(cap.verify_cap() or cap) == world.check(cap)


def test_repairs(world: World) -> None:
    file, slot, gone = world.file(), world.slot(), world.file(400, 1)
    before = world.check(file)
    found = world.check(file, repair="true")
    assert found == {
        "storage-index": before["storage-index"],
        "repair-attempted": False,
        "repair-successful": False,
        "pre-repair-results": before,
        "post-repair-results": before,
    }
    for cap in (file, slot):
        world.lose(cap, 0, 5)
        broken = world.check(cap)
        found = world.check(cap, repair="true")
        assert (found["repair-attempted"], found["repair-successful"]) == (True, True)
        assert found["pre-repair-results"] == broken
        assert found["post-repair-results"] == world.check(cap)
        assert world.check(cap)["results"]["healthy"]
    world.flip(file, 2)
    assert world.check(file, repair="true")["repair-attempted"] is False  # by number, all is there
    found = world.check(file, repair="true", verify="true")
    assert found["pre-repair-results"]["results"]["count-corrupt-shares"] == 1
    assert (found["repair-successful"], found["post-repair-results"]["summary"]) == (True, "Healthy")
    world.lose(gone)
    with pytest.raises(Exception, match="good shares"):  # 410
        world.check(gone, repair="true")


def test_a_server_away_is_not_responding(world: World) -> None:
    """Its shares are not missing for sure: nothing is repaired."""
    cap = world.file()
    name = world.shares(cap)[0][0]
    world.desk.close()
    (world.folder / "home" / "grid" / name).rename(world.folder / "away")
    world.desk = world.begin()
    found = world.check(cap, repair="true")
    results = found["pre-repair-results"]["results"]
    assert set(world.ids.values()) - set(results["servers-responding"]) == {world.ids[name]}
    assert (results["healthy"], results["recoverable"], results["count-shares-good"]) == (False, True, 9)
    assert found["repair-attempted"] is False


def test_leases_are_renewed(world: World) -> None:
    """By a check and by a stream, where that is asked for."""
    file, slot = world.file(), world.slot()
    top = world.directory(file=file, slot=slot)
    grid = world.folder / "home" / "grid"
    age(grid, 20)
    aged = [path for cap in (file, slot, top) for _, path in world.shares(cap).values()]
    before = {path: path.read_bytes() for path in aged}
    world.check(file, verify="true")
    world.stream(top)
    assert {path: path.read_bytes() for path in aged} == before
    world.check(file, add_lease="true")
    assert {path for path in aged if path.read_bytes() != before[path]} == {
        path for _, path in world.shares(file).values()
    }
    world.stream(top, add_lease="true")
    assert all(path.read_bytes() != before[path] for path in aged)


# ---- streams


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


STATS = {
    "api-version": 1,
    "count-immutable-files": 2,
    "count-mutable-files": 1,
    "count-literal-files": 2,
    "count-files": 5,
    "count-directories": 4,
    "count-unknown": 1,
    "size-immutable-files": 800,
    "size-literal-files": 20,
    "largest-directory-children": 7,
    "largest-immutable-file": 500,
    "size-files-histogram": [[4, 10, 2], [101, 316, 1], [317, 1000, 1]],
}
SIZED = {"size-directories", "largest-directory"}


def expected(path: list[str], cap: Cap) -> dict[str, Any]:
    verify = cap.verify_cap()
    repair = ""
    if cap.storage_index is not None:
        repair = str(cap) if cap.mutable else "" if cap.is_directory else str(verify)
    return {
        "path": path,
        "cap": str(cap),
        "type": "directory" if cap.is_directory else "unknown" if isinstance(cap, UnknownCap) else "file",
        "verifycap": str(verify or ""),
        "repaircap": repair,
        "storage-index": b32encode(cap.storage_index or b""),
    }


def test_stream_of_a_manifest(world: World) -> None:
    top, order = tree(world)
    lines = [json.loads(line) for line in world.stream(top, "stream-manifest")]
    assert lines[:-1] == [expected(path, cap) for path, cap in order]
    assert list(lines[0]) == ["path", "cap", "type", "verifycap", "repaircap", "storage-index"]
    stats = lines[-1]["stats"]
    assert lines[-1] == {"type": "stats", "stats": stats}
    assert {key: value for key, value in stats.items() if key not in SIZED} == STATS
    assert stats.keys() == STATS.keys() | SIZED


def test_stream_of_checks_and_repairs(world: World) -> None:
    top, order = tree(world)
    lines = [json.loads(line) for line in world.stream(top)]
    assert lines[-1]["type"] == "stats"
    for line, (path, cap) in zip(lines[:-1], order, strict=True):
        assert line == expected(path, cap) | {"check-results": world.check(cap)}
    file = next(cap for path, cap in order if path == ["b"])
    world.lose(file, 1, 2)
    world.lose(top, 3)
    lines = [json.loads(line) for line in world.stream(top, repair="true", verify="true", add_lease="true")]
    attempted = []
    for line, (path, cap) in zip(lines[:-1], order, strict=True):
        results = line.pop("check-and-repair-results")
        assert line == expected(path, cap)
        if "pre-repair-results" not in results:
            assert results == {"storage-index": "", "repair-attempted": False}
            continue
        assert results["post-repair-results"] == world.check(cap, verify="true")
        assert results["post-repair-results"]["results"]["healthy"]
        attempted += [path] if results["repair-attempted"] else []
    assert attempted == [[], ["b"]]


def test_a_stream_ends_with_what_could_not_be_read(world: World) -> None:
    """All that can be reached comes; the counts do not, since they would be wrong."""
    bad = DirectoryCap(world.holding(b"this is no table"))
    top = world.directory(**{"n\n": bad}, b=world.directory(c=LIT))
    for what in ("stream-manifest", "stream-deep-check"):
        lines = world.stream(top, what)
        found = [json.loads(line) for line in lines if not line.startswith("ERROR:")]
        assert [line["path"] for line in found] == [[], ["b"], ["b", "c"], ["n\n"]]
        [error] = lines[len(found) :]
        assert error.startswith('ERROR: MalformedDirectory: "n\\n": ')
        assert "URI:" not in error
    world.lose(bad)
    [line, error] = world.stream(bad, "stream-manifest")
    assert json.loads(line)["path"] == []
    assert error.startswith('ERROR: NotRecoverable: "": ')
    assert not world.notes


def test_streams_of_what_is_no_directory(world: World) -> None:
    for cap in (world.file(), LIT, UnknownCap("x"), world.directory().verify_cap()):
        for what in ("stream-manifest", "stream-deep-check"):
            with pytest.raises(Refusal) as caught:
                world.stream(cap, what)  # type: ignore[arg-type]
            assert caught.value.status == 400


def test_slow_clients_hold_no_threads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More streams are begun than there are threads, and none is read on; one that is left ends its walk."""
    monkeypatch.setattr(desks, "_THREADS", 2)
    world.desk.close()
    world.desk = world.begin()
    top = world.directory(**{f"n{number:04}": LIT for number in range(400)})

    async def act() -> list[str]:
        begun = []
        for _ in range(5):
            response = await checking.stream(world.desk, world.asked(top), "stream-manifest")
            assert isinstance(response, StreamingResponse)
            pieces: Any = response.body_iterator
            assert 0 < len(await anext(pieces)) < 30_000
            begun.append(pieces)
        assert [line.state for line in world.desk.recent.lines()] == ["under way"] * 5
        assert await asyncio.wait_for(world.desk.run(lambda: 7), 5) == 7
        for pieces in begun[1:]:
            await pieces.aclose()
        rest = b"".join([piece async for piece in begun[0]])
        assert json.loads(rest.splitlines()[-1])["type"] == "stats"
        for _ in range(500):
            states: list[str] = [line.state for line in world.desk.recent.lines()]
            if "under way" not in states:
                break
            await asyncio.sleep(0.01)
        return states

    assert asyncio.run(act()) == ["failed"] * 4 + ["done"]


def test_a_client_that_goes_away_in_the_middle(world: World) -> None:
    """The walk ends at once, also while nothing is sent."""
    top = world.directory(**{f"n{number:04}": LIT for number in range(1500)})
    sent: list[bytes] = []

    async def act() -> str:
        gone = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))
            if sum(map(len, sent)) > 1000:
                gone.set()
                await asyncio.sleep(3600)

        response = await checking.stream(world.desk, world.asked(top), "stream-deep-check")
        await asyncio.wait_for(response({"type": "http", "method": "POST"}, receive, send), 20)
        for _ in range(500):
            [line] = world.desk.recent.lines()
            if line.state != "under way":
                break
            await asyncio.sleep(0.01)
        return line.state

    assert asyncio.run(act()) == "failed"
    assert 1000 < sum(map(len, sent)) < 100_000


# ---- operations


def test_operation_of_a_deep_check(world: World) -> None:
    top, order = tree(world)
    file = next(cap for path, cap in order if path == ["b"])
    checked = [cap for _, cap in order if cap.storage_index is not None]
    stats = json.loads(world.stream(top, "stream-manifest")[-1])["stats"]
    si = b32encode(top.storage_index or b"")
    status, found = world.operate(top, "start-deep-check")
    assert (status, found) == (
        200,
        {
            "finished": True,
            "root-storage-index": si,
            "count-objects-checked": len(checked),
            "count-objects-healthy": len(checked),
            "count-objects-unhealthy": 0,
            "count-corrupt-shares": 0,
            "list-corrupt-shares": [],
            "list-unhealthy-files": [],
            "stats": stats,
        },
    )
    world.lose(file, 1)
    world.flip(file, 2)
    _, found = world.operate(top, "start-deep-check", verify="true")
    holder = world.ids[world.shares(file)[2][0]]
    corrupt = [[holder, b32encode(file.storage_index or b""), 2]]
    assert (found["count-objects-unhealthy"], found["count-corrupt-shares"]) == (1, 1)
    assert found["list-corrupt-shares"] == corrupt
    assert found["list-unhealthy-files"] == [[["b"], world.check(file, verify="true")]]
    _, found = world.operate(top, "start-deep-check", verify="true", repair="true")
    assert found == {
        "finished": True,
        "root-storage-index": si,
        "count-objects-checked": len(checked),
        "count-objects-healthy-pre-repair": len(checked) - 1,
        "count-objects-unhealthy-pre-repair": 1,
        "count-objects-healthy-post-repair": len(checked),
        "count-objects-unhealthy-post-repair": 0,
        "count-repairs-attempted": 1,
        "count-repairs-successful": 1,
        "count-repairs-unsuccessful": 0,
        "count-corrupt-shares-pre-repair": 1,
        "count-corrupt-shares-post-repair": 0,
        "list-corrupt-shares": corrupt,
        "list-remaining-corrupt-shares": [],
        "list-unhealthy-files": [],
        "stats": stats,
    }


def test_operations_that_count_and_list(world: World) -> None:
    top, order = tree(world)
    stats = json.loads(world.stream(top, "stream-manifest")[-1])["stats"]
    assert world.operate(top, "start-deep-stats") == (200, stats | {"finished": True})
    size = stats["size-immutable-files"] + stats["size-literal-files"] + stats["size-directories"]
    assert world.operate(top, "start-deep-size") == (200, {"finished": True, "size": size})
    status, found = world.operate(top, "start-manifest")
    assert status == 200
    assert found == {
        "stats": stats,
        "finished": True,
        "origin": b32encode(top.storage_index or b""),
        "manifest": [[path, str(cap)] for path, cap in order],
        "verifycaps": [str(cap.verify_cap()) for _, cap in order if cap.storage_index],
        "storage-index": [b32encode(cap.storage_index) for _, cap in order if cap.storage_index],
    }
    lost = world.directory()
    above = world.directory(lost=lost)
    world.lose(lost)
    status, text = world.operate(above, "start-deep-stats")
    assert (status, text.startswith("lost: ")) == (410, True)
    bad = DirectoryCap(world.holding(b"this is no table"))
    status, found = world.operate(world.directory(bad=bad), "start-deep-check")
    assert (status, found["errors"][0][0], found["count-objects-unhealthy"]) == (200, ["bad"], 0)


def test_handles(world: World) -> None:
    """Unknown ones, one that is taken, one that is cancelled, and how long they are kept."""
    top = world.directory(a=LIT)
    clock = [0.0]

    async def ask(handle: str, query: str = "output=JSON", method: str = "GET") -> Response:
        return await operations.operation(world.desk, request(method, query), handle)

    async def begin(handle: str, more: str = "") -> Response:
        return await operations.start(world.desk, asked(top, (), f"ophandle={handle}{more}"), "start-deep-size")

    async def gone(handle: str) -> None:
        with pytest.raises(Refusal) as caught:
            await ask(handle)
        assert caught.value.status == 404

    async def act() -> None:
        known = operations._OPERATIONS[world.desk] = operations.Operations(world.desk, lambda: clock[0])
        for query in ("", "ophandle="):
            with pytest.raises(Refusal) as caught:
                await operations.start(world.desk, asked(top, (), query), "start-manifest")
            assert caught.value.status == 400
        await gone("none")
        answer = await begin("a%2Fb%0A", "&output=JSON")
        assert answer.headers["location"] == "/operations/a%2Fb%0A?output=JSON"
        assert (await until_finished(world.desk, "a/b\n"))[0] == 200
        for query in ("t=bogus", "output=bogus", "retain-for=x", "t=cancel"):
            with pytest.raises(Refusal) as caught:
                await ask("a/b\n", query)
            assert caught.value.status == 400
        await begin("h")
        await begin("h")
        assert (await until_finished(world.desk, "h"))[1]["size"] > 0
        cancelled = await ask("h", "t=cancel", "POST")
        assert (cancelled.status_code, bytes(cancelled.body)[:9]) == (200, b"finished:")
        await gone("h")
        await begin("once", "&release-after-complete=true")
        await until_finished(world.desk, "once")
        await gone("once")
        for handle, more, kept in (("kept", "&retain-for=10", 10), ("never asked", "", 4 * 86400)):
            await begin(handle, more)
            while not known._known[handle].finished:
                await asyncio.sleep(0.001)
            clock[0] += kept - 1
            assert (await ask(handle)).status_code == 200
            clock[0] += 2
            await gone(handle)
        await begin("asked")
        await until_finished(world.desk, "asked")
        clock[0] += 86400 + 1
        await gone("asked")

    asyncio.run(act())


def test_a_manifest_for_people(world: World) -> None:
    """And one whose handle goes while it is read."""
    top = world.directory(**{"two\nlines": LIT, "b": world.directory("chk", c=LIT)})

    async def act() -> str:
        await operations.start(world.desk, asked(top, (), "ophandle=h&release-after-complete=1"), "start-manifest")
        while not operations.operations_of(world.desk)._known["h"].finished:
            await asyncio.sleep(0.001)
        response = await operations.operation(world.desk, request(query="output=text"), "h")
        assert not operations.operations_of(world.desk)._known
        return (await body_of(response)).decode()

    empty = "URI:DIR2-LIT:"
    head, *lines = asyncio.run(act()).splitlines()
    assert (head, lines[0], lines[1]) == ("finished: yes", f" {top}", f"two\\nlines {LIT}")
    assert lines[2].startswith(f"b {empty}")
    assert lines[3:] == [f"b/c {LIT}"]


def test_handles_are_few(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished ones make room; while all are under way nothing is begun."""
    monkeypatch.setattr(operations, "_MOST", 5)
    top = world.directory()

    async def act() -> None:
        for number in range(operations._MOST + 20):
            query = f"ophandle=h{number}"
            await operations.start(world.desk, asked(top, (), query), "start-deep-size")
            await until_finished(world.desk, f"h{number}")
        known = operations.operations_of(world.desk)._known
        assert list(known) == [f"h{number}" for number in range(20, 25)]
        for each in known.values():
            each.finished_at = None
        with pytest.raises(Refusal) as caught:
            await operations.start(world.desk, asked(top, (), "ophandle=more"), "start-deep-size")
        assert caught.value.status == 503

    asyncio.run(act())


# ---- the gateway about itself


def test_welcome(world: World) -> None:
    def ask() -> Any:
        return json.loads(bytes(asyncio.run(welcome.welcome(world.desk, request(query="t=json"))).body))

    found = ask()
    assert found["introducers"] == {"statuses": []}
    servers = {each["nickname"]: each for each in found["servers"]}
    assert {name: each["nodeid"] for name, each in servers.items()} == world.ids
    for each in servers.values():
        assert each["connection_status"].startswith("Connected to ")
        assert each["available_space"] > 0
        assert abs(each["last_received_data"] - time.time()) < 60
        assert set(each) == {
            *("nodeid", "nickname", "available_space", "connection_status", "last_received_data", "version")
        }
    with pytest.raises(Refusal):
        asyncio.run(welcome.welcome(world.desk, request(query="t=bogus")))


def test_what_it_has_done(world: World) -> None:
    """As the real client's `status` reads it."""
    file = world.file()
    world.check(file)
    world.desk.counters.add(requests=3, bytes_out=17)

    async def ask(view: Callable[[Desk, Request], Awaitable[Response]], query: str) -> Any:
        return json.loads(await body_of(await view(world.desk, request("POST", query))))

    found = asyncio.run(ask(welcome.statistics, "t=json"))
    assert found["counters"]["requests"] == 3
    assert found["counters"]["downloader.bytes_downloaded"] == 17
    assert set(found["counters"]) > {
        "uploader.files_uploaded",
        "uploader.bytes_uploaded",
        "downloader.files_downloaded",
    }
    assert found["stats"]["node.uptime"] > 0
    found = asyncio.run(ask(welcome.status, "t=json"))
    si = b32encode(file.storage_index or b"")[:5]
    row = {"type": "check", "storage-index-string": si, "total-size": 0, "status": "done"}
    assert found == {"active": [], "recent": [row]}
    for view in (welcome.statistics, welcome.status):
        with pytest.raises(Refusal):
            asyncio.run(ask(view, "t=bogus"))


class Hanging:
    """What `Servers` needs of a client, over servers that can be made to hang."""

    def __init__(self, folder: Path) -> None:
        from lafscli.config.servers import ServerRecord

        self.local = LocalGrid(folder, 2)
        self.grid = self.local.grid()
        self.config = self
        self.servers = {s.name: ServerRecord(s.name, "file:///x", s.node_id, s.seed) for s in self.local.servers}


def test_nobody_waits_for_a_server_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(welcome, "_PATIENCE", 0.05)
    clock = [100.0]
    client: Any = Hanging(tmp_path)
    asked: list[str] = []
    client.local.dials[0].before = asked.append
    servers = welcome.Servers(lambda: clock[0])

    def states() -> list[bool | None]:
        return [state.answers for state in servers.states(client)]

    client.local.dials[1].hang = hang = threading.Event()
    began = time.monotonic()
    assert states() == [True, None]
    assert states() == [True, None]
    clock[0] += 5
    calls = len(asked)
    assert states() == [True, False]
    assert len(asked) == calls  # what is known is fresh
    clock[0] += 6
    assert states() == [True, False]
    assert len(asked) > calls
    assert time.monotonic() - began < 10
    hang.set()
    client.local.dials[0].dead = True
    clock[0] += 11
    for _ in range(200):
        clock[0] += 11
        if states() == [False, True]:
            break
        time.sleep(0.01)
    assert states() == [False, True]
    client.local.close()
