"""Checks and streams, as clients of the web API get them (spec 08 §4, §5)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import StreamingResponse

from lafscli.errors import UsageError
from lafscli.formats.caps import Cap, DirectoryCap, UnknownCap, parse
from lafscli.gateway import checking
from lafscli.gateway import desk as desks
from lafscli.gateway.asked import Refusal
from lafscli.mutable import publish
from lafscli.primitives.encoding import b32encode
from tests.gateway_worlds import (
    LIT,
    NOTHING,
    World,
    tree,
    world_like,
)
from tests.homes import age


@pytest.fixture
def world(local_home: Path, tmp_path: Path) -> Iterator[World]:
    with world_like(local_home, tmp_path / "copy") as made:
        yield made


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
    assert found["pre-repair-results"]["summary"] == "Not Healthy: 9 shares (enc 3-of-10); 1 server did not answer"
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
