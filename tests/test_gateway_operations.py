"""Slow operations, and the gateway about itself, as clients of the web API get them (spec 08 §2)."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.requests import Request
from starlette.responses import Response

from lafscli.formats.caps import Cap, ChkCap, DirectoryCap
from lafscli.gateway import operations, welcome
from lafscli.gateway.asked import Refusal
from lafscli.gateway.desk import Desk
from lafscli.primitives.encoding import b32encode
from tests.gateway_worlds import (
    LIT,
    NOTHING,
    World,
    asked,
    body_of,
    request,
    tree,
    until_finished,
    world_like,
)
from tests.gateways import Gateway
from tests.grids import LocalGrid
from tests.lafs_process import Lafs


@pytest.fixture
def world(local_home: Path, tmp_path: Path) -> Iterator[World]:
    with world_like(local_home, tmp_path / "copy") as made:
        yield made


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


def test_what_is_cancelled_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it runs, while it waits for its turn, and when another job takes its handle."""
    monkeypatch.setattr(operations, "_AT_ONCE", 1)
    monkeypatch.setattr(operations, "_STEP_SECONDS", 0.0)
    top = world.directory(**{f"n{number:04}": LIT for number in range(1000)})

    async def act() -> None:
        known = operations.operations_of(world.desk)
        for handle in ("a", "b", "c", "c"):
            await operations.start(world.desk, asked(top, (), f"ophandle={handle}"), "start-manifest")
        jobs = list(known._known.values())
        while not jobs[0].stats():
            await asyncio.sleep(0.001)
        for handle in ("a", "b"):
            answer = await operations.operation(world.desk, request("POST", "t=cancel&output=JSON"), handle)
            found = json.loads(await body_of(answer))
            assert (found["finished"], len(found["manifest"]) < 1001) == (False, True)
        assert (await until_finished(world.desk, "c"))[1]["stats"]["count-literal-files"] == 1000
        while known._tasks:
            await asyncio.sleep(0.001)
        assert all(job.finished for job in jobs)
        assert jobs[0].stats()["count-literal-files"] < 1000
        assert list(known._known) == ["c"]

    asyncio.run(asyncio.wait_for(act(), 30))


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


# ---- the whole program


def peak(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
def test_large_trees_take_little_memory(world: World) -> None:
    """100,000 objects as a stream and under a handle, and 10,000 checked, none of which has a share."""

    def made(count: int, number: int) -> dict[str, Cap]:
        dice = random.Random(number)
        return {
            f"file {index:04}": ChkCap(dice.randbytes(16), dice.randbytes(32), 3, 10, 100_000 + index)
            for index in range(count)
        }

    folders = {f"d{number:03}": world.directory("chk", **made(1000, number)) for number in range(100)}
    large = world.directory(**folders)
    small = world.directory(**dict(list(folders.items())[:10]))
    world.desk.close()
    with Gateway(Lafs(world.folder)) as gateway:
        _, _, body = gateway.ask("POST", f"/uri/{large}?t=stream-manifest")
        lines = body.splitlines()
        assert len(lines) == 100_102
        assert json.loads(lines[-1])["stats"]["count-immutable-files"] == 100_000
        status, _, _ = gateway.ask("POST", f"/uri/{large}?t=start-manifest&ophandle=h")
        assert status == 302
        while True:
            _, _, body = gateway.ask("GET", "/operations/h?output=JSON")
            if b'"finished": true' in body[:2000]:
                break
            time.sleep(1)
        assert len(json.loads(body)["manifest"]) == 100_101
        _, _, body = gateway.ask("POST", f"/uri/{small}?t=stream-deep-check&verify=true&add-lease=true")
        found = [json.loads(line) for line in body.splitlines()]
        assert len(found) == 10_012
        assert sum(not line["check-results"]["results"]["healthy"] for line in found[:-1]) == 10_000
        assert peak(gateway.process.pid) < 200 << 20


def test_over_http(world: World) -> None:
    """What only the whole program shows: targets, statuses, a form that cancels, handles with a slash."""
    top = world.directory(**{"a b": world.directory("chk", c=LIT)})
    gone = world.file()
    world.lose(gone)
    world.desk.close()
    with Gateway(Lafs(world.folder)) as gateway:

        def ask(method: str, target: str) -> tuple[int, Any]:
            status, _, body = gateway.ask(method, target)
            return status, json.loads(body) if body[:1] in (b"{", b"[") else body.decode()

        status, found = ask("POST", f"/uri/{quote(str(top))}/a%20b/c?t=check&output=json")
        assert (status, found) == (200, NOTHING)
        status, found = ask("POST", f"/uri/{top}?t=check&output=JSON&add-lease=true")
        assert (status, found["summary"]) == (200, "Healthy")
        status, found = ask("POST", f"/uri/{gone}?t=check&output=JSON&repair=true")
        assert (status, "URI:" in found) == (410, False)
        assert ask("POST", f"/uri/{top}?t=check&output=JSON&verify=2")[0] == 400
        assert ask("POST", f"/uri/{gone}?t=stream-manifest") == (400, "POST to file: bad t=stream-manifest")
        assert ask("POST", f"/uri/{top}/absent?t=stream-manifest")[0] == 404
        assert ask("POST", f"/uri/{top}?t=start-deep-stats") == (400, "slow operation requires ophandle=")
        status, headers, _ = gateway.ask("POST", f"/uri/{top}?t=start-deep-stats&ophandle=x%2Fy")
        assert (status, headers["location"]) == (302, "/operations/x%2Fy")
        assert ask("GET", "/operations/x%2Fy?t=status&output=JSON")[0] == 200
        assert ask("POST", "/operations/x%2Fy?t=cancel")[0] == 200
        assert ask("GET", "/operations/x%2Fy?t=status&output=JSON")[0] == 404
        status, found = ask("GET", "/?t=json")
        assert (status, len(found["servers"])) == (200, 10)
        _, _, cap = gateway.ask("PUT", "/uri", b"x" * 100)
        assert gateway.ask("GET", f"/uri/{cap.decode()}")[2] == b"x" * 100
        status, found = ask("POST", "/statistics?t=json")
        assert status == 200
        assert found["counters"]["uploader.files_uploaded"] == found["counters"]["downloader.files_downloaded"] == 1
        status, found = ask("POST", "/status?t=json")
        assert (status, found["active"]) == (200, [])
        types = [row["type"] for row in found["recent"]]
        assert types[:5] == ["download", "upload", "deep-stats", "repair", "check"]
