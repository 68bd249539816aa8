"""What all doors of a gateway stand on: spools, the desk, content that is pulled."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Barrier, Event, active_count

import pytest

from lafscli.config.home import Home
from lafscli.errors import CannotTell, LafsError, NotFound, NotGranted, NotRecoverable, SourceChanged, Unreachable
from lafscli.formats.caps import Cap, ChkCap, MutableWriteCap
from lafscli.formats.dirtable import Table
from lafscli.gateway import desk as desks
from lafscli.gateway.desk import Desk
from lafscli.gateway.reading import open_content
from lafscli.gateway.recent import Counters, Counts, Line, Recent
from lafscli.gateway.spool import NoRoom, Spool
from lafscli.mutable import retrieve
from lafscli.placement import Encoding
from lafscli.primitives.hashes import tagged_hash
from lafscli.tree import contents
from lafscli.tree.contents import Access
from lafscli.tree.directory import NewChild, create_directory, edit
from lafscli.tree.links import Occupied, link
from tests.grids import LocalGrid
from tests.lafs_process import Lafs
from tests.mutable_access import access_to


def grid_of_folders(lafs: Lafs, count: int = 10, encoding: str = "3/7/10") -> Home:
    """A home with servers that are folders here."""
    lines = ["init", f"encoding {encoding}"]
    for index in range(count):
        (lafs.folder / f"s{index}").mkdir()
        lines.append(f"server add s{index} file://{lafs.folder}/s{index}")
    lafs("batch", input="\n".join(lines).encode(), code=0)
    return Home.find(str(lafs.home))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return grid_of_folders(Lafs(tmp_path_factory.mktemp("grid")))


@pytest.fixture(scope="module")
def desk(home: Home) -> Iterator[Desk]:
    desk = Desk(home, note=lambda _: None)
    yield desk
    desk.close()


def test_spool_keeps_what_was_written_where_it_was_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spools", os.urandom, limit=1000)
    model = bytearray()
    for index in range(300):
        piece = os.urandom(1 + index * 37 % 9000)
        offset = len(model) if index % 3 else index * 7919 % 700_000
        if index % 50 == 49:
            size = index * 1234
            spool.truncate(size)
            model = model[:size] + bytes(max(0, size - len(model)))
            continue
        model += bytes(max(0, offset + len(piece) - len(model)))
        model[offset : offset + len(piece)] = piece
        spool.write(offset, piece)
        assert spool.size == len(model)
    assert spool.read(0, 1 << 30) == model
    assert spool.read(5000, 3000) == model[5000:8000]
    assert list((tmp_path / "spools").iterdir()) == []
    spool.close()


def test_spool_is_hashed_as_it_comes(tmp_path: Path) -> None:
    data = os.urandom(1_000_000)

    def written(*pieces: tuple[int, int], tag: bytes | None = b"tag", limit: int = 1000) -> Spool:
        spool = Spool(tmp_path, os.urandom, limit, lambda: tag)
        for start, end in pieces:
            spool.write(start, data[start:end])
        assert spool.read(0, 1 << 20) == data[: spool.size]
        return spool

    in_order = (0, 700), (700, 1100), (1100, 500_000), (500_000, 1_000_000)
    with written(*in_order) as spool:
        assert spool.digest(b"tag") == tagged_hash(b"tag", data)
        assert spool.digest(b"another") is None
        spool.append(b"x")
        assert spool.digest(b"tag") == tagged_hash(b"tag", data + b"x")
        spool.write(0, b"x")
        assert spool.digest(b"tag") is None, "something was written again"
    with written(*in_order) as spool:
        spool.truncate(1000)
        spool.append(data[1000:])
        assert spool.digest(b"tag") is None, "it was cut"
    for other in (
        written(in_order[0], in_order[2], in_order[1], in_order[3]),
        written(*in_order, tag=None),
        written(*in_order, limit=1 << 20),
    ):
        with other:
            assert other.digest(b"tag") is None


def test_content_of_every_kind_is_pulled_in_ranges(desk: Desk) -> None:
    data = os.urandom(3_000_000)
    with desk.access() as access, desk.spool() as spool:
        spool.append(data)
        for kind in ("chk", "sdmf", "mdmf"):
            stored = contents.store(access, spool, kind)
            content = open_content(access, stored.cap)
            assert content.size == len(data)
            assert b"".join(map(bytes, content.pieces())) == data
            assert b"".join(map(bytes, content.pieces(1_000_001, 1_500_000))) == data[1_000_001:2_500_001]
            assert b"".join(map(bytes, content.pieces(2_999_999, 5))) == data[-1:]
            assert list(content.pieces(3_000_000)) == []
            assert content.read(100, 50) == data[100:150]
            assert content.read(150, 200_000) == data[150:200_150]
            assert content.read(2_900_000, 200_000) == data[2_900_000:]
            content.close()
            assert contents.content(access, stored.cap) == data
        assert contents.store(access, spool, "chk").cap == contents.store(access, data, "chk").cap


@pytest.mark.parametrize("size", [300_000, 1_048_576, 3_000_000])
def test_what_was_hashed_as_it_came_is_read_once(desk: Desk, size: int) -> None:
    data = os.urandom(size)
    with desk.access() as access, desk.spool() as spool:
        for start in range(0, size, 100_001):
            spool.append(data[start : start + 100_001])
        read, inner = 0, spool.readinto

        def readinto(buffer: memoryview) -> int:
            nonlocal read
            count = inner(buffer)
            read += count
            return count

        spool.readinto = readinto  # type: ignore[method-assign]
        assert contents.store(access, spool, "chk").cap == contents.store(access, data, "chk").cap
        assert read == (size if size >= access.writing.encoding.segment_size else 2 * size)


def test_directory_is_understood_once(desk: Desk) -> None:
    with desk.access() as access:
        child = contents.store(access, b"x", "chk").cap
        cap = create_directory(access, {"a": NewChild(child)})
        first = desk.directory(access, cap)
        assert desk.directory(access, cap) is first


@pytest.mark.parametrize("kind", ["sdmf", "mdmf"])
def test_slow_reader_gets_the_version_it_began_with(desk: Desk, kind: contents.Kind) -> None:
    """Whoever writes meanwhile, and whoever reads the new version, in this process and in others."""
    old, new = os.urandom(5_000_000), os.urandom(4_500_000)
    with desk.access() as access:
        cap = contents.store(access, old, kind).cap
        assert isinstance(cap, MutableWriteCap)
        slow = open_content(access, cap)
        pieces = slow.pieces()
        begun = bytes(next(pieces))
        contents.overwrite(access, cap, new)
        assert contents.content(access, cap) == new
        other = open_content(access, cap)
        assert other.read(0, 1000) == new[:1000]
        assert begun + b"".join(map(bytes, pieces)) == old
        assert slow.read(4_000_000, 10) == old[4_000_000:4_000_010]
        assert other.read(4_000_000, 10) == new[4_000_000:4_000_010]
        slow.close()
        other.close()


@pytest.mark.parametrize(("kind", "large"), [("sdmf", False), ("mdmf", False), ("mdmf", True)])
def test_patch_leaves_what_is_around_it(
    desk: Desk, kind: contents.Kind, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the content is so large that it is never in memory at once."""
    if large:
        monkeypatch.setattr("lafscli.mutable.patching.INLINE", 1000)
    size = 300_000
    model = bytearray(os.urandom(size))
    with desk.access() as access:
        cap = contents.store(access, bytes(model), kind).cap
        assert isinstance(cap, MutableWriteCap)
        for offset, length in ((size // 3, size // 2), (size - 5, 100), (size + 1000, 7), (size + 9000, 0)):
            piece = os.urandom(length)
            with desk.spool() as spool:
                spool.append(piece)
                contents.patch(access, cap, offset, spool)
            if length:
                model += bytes(max(0, offset + length - len(model)))
                model[offset : offset + length] = piece
            assert contents.content(access, cap) == model


def mutable(access: Access, content: bytes) -> MutableWriteCap:
    cap = contents.store(access, content, "mdmf").cap
    assert isinstance(cap, MutableWriteCap)
    return cap


def together(count: int, work: Callable[[int], object]) -> None:
    """Have so many threads do it at the same time; the first error is raised."""
    start = Barrier(count)

    def one(number: int) -> None:
        start.wait()
        work(number)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(one, range(count)))


def test_threads_that_store_the_same_content_all_get_its_cap(desk: Desk) -> None:
    for size in (10_000, 1_500_000):
        data = os.urandom(size)
        caps: list[Cap] = []

        def store(_: int, data: bytes = data, caps: list[Cap] = caps) -> None:
            with desk.access() as access, desk.spool() as spool:
                spool.append(data)
                caps.append(contents.store(access, spool, "chk").cap)

        together(8, store)
        assert len(caps) == 8
        assert len(set(caps)) == 1
        with desk.access() as access:
            assert contents.content(access, caps[0]) == data


def test_threads_that_do_all_sorts_of_things_at_once(desk: Desk) -> None:
    """Sixteen of them; nothing is lost, nothing is mixed up, and no change of one directory undoes another."""
    with desk.access() as access:
        directory = create_directory(access)
        shared, *slots = (mutable(access, bytes(160_000)) for _ in range(5))

    def work(number: int) -> None:
        data = os.urandom(20_000 + 30_000 * (number % 4))
        with desk.access() as access, desk.spool() as spool:
            spool.append(data)
            cap = contents.store(access, spool, "chk").cap
            mine = slots[number % 4]
            with desk.turn(directory, shared=number % 2 == 0):
                link(access, directory, f"file {number}", NewChild(cap), over="nothing")
            contents.overwrite(access, mine, bytes([number]) * 6000)
            with desk.turn(shared):
                contents.patch(access, shared, 10_000 * number, bytes([number]) * 10_000)
            content = open_content(access, cap)
            assert b"".join(map(bytes, content.pieces())) == data
            assert content.read(500, 1000) == data[500:1500]
            content.close()
            content = open_content(access, mine)
            versions = [bytes([other]) * 6000 for other in range(number % 4, 16, 4)]
            assert b"".join(map(bytes, content.pieces())) in versions
            content.close()
            assert f"file {number}" in desk.directory(access, directory).table

    together(16, work)
    with desk.access() as access:
        names = [child.name for child in desk.directory(access, directory).children()]
        assert names == sorted(f"file {number}" for number in range(16))
        assert contents.content(access, shared) == b"".join(bytes([number]) * 10_000 for number in range(16))


@pytest.mark.parametrize("count", [4, 24])
def test_threads_change_one_directory_together(desk: Desk, count: int) -> None:
    """In few versions; and what one of them is refused does not keep the others from it."""
    with desk.access() as access:
        directory = create_directory(access)
        child = contents.store(access, b"x", "chk").cap
        link(access, directory, "taken", NewChild(child), over="nothing")

        def half(table: Table) -> None:
            table.unlink("taken")
            raise NotFound("half of it was done")

        def work(number: int) -> None:
            if number % 4 == 3:
                with pytest.raises(NotFound):
                    edit(access, directory, half)
            elif number % 4 == 2:
                with pytest.raises(Occupied):
                    link(access, directory, "taken", NewChild(child), over="nothing")
            else:
                link(access, directory, f"{number}", NewChild(child), over="nothing")

        together(count, work)
        names = {child.name for child in desk.directory(access, directory).children()}
        assert names == {"taken", *(f"{number}" for number in range(count) if number % 4 < 2)}
        _, found = retrieve.contents(access.grid, directory.inner, access.reading)  # type: ignore[arg-type]
        assert found.version.prefix.seqnum < 3 + count // 2


def test_threads_without_edits_together_lose_nothing_either(desk: Desk) -> None:
    with desk.access() as access:
        alone = replace(access, edits=None)
        directory = create_directory(alone)
        child = contents.store(alone, b"x", "chk").cap
        together(4, lambda number: link(alone, directory, f"{number}", NewChild(child), over="nothing"))
        assert len(desk.directory(access, directory).table) == 4


def test_desk_goes_on_when_a_server_is_added_by_another_process(tmp_path: Path) -> None:
    """With connections of the new configuration; what was begun under the old one ends there."""
    lafs = Lafs(tmp_path)
    home = grid_of_folders(lafs, 4, "1/3/4")
    notes: list[str] = []
    desk = Desk(home, note=notes.append)
    with desk.access() as before:
        directory = create_directory(before)
        reading = open_content(before, contents.store(before, bytes(3_000_000), "chk").cap)
        pieces = reading.pieces()
        got = len(next(pieces))
        (tmp_path / "s4").mkdir()
        adding = lafs.start("server", "add", "s4", f"file://{tmp_path}/s4", stdout=subprocess.DEVNULL)
        made = 0
        while adding.poll() is None:
            name, made = f"{made}", made + 1
            desk.write(partial(link, parent=directory, name=name, new=NewChild(directory), over="nothing"))
        assert adding.returncode == 0
        assert made > 0
        desk.write(partial(link, parent=directory, name="last", new=NewChild(directory), over="nothing"))
        with desk.access() as after:
            assert len(after.grid.stores) == 5
            assert len(desk.directory(after, directory).table) == made + 1
        assert got + sum(map(len, pieces)) == 3_000_000
    assert notes == []
    home.config_file.write_text("[")
    desk._looked = 0.0
    with desk.access() as access:
        assert len(access.grid.stores) == 5
    assert "is used" in notes.pop()
    desk.close()


def test_spool_on_the_disk_can_not_be_read(tmp_path: Path) -> None:
    """What is written twice to one place is encrypted with other key stream each time."""
    spool = Spool(tmp_path, os.urandom, limit=0)
    states = []
    for text in (b"a", b"b"):
        spool.write(0, text * 600_000)
        spool.read(599_999, 1)
        spool.read(0, 1)
        assert spool._disk is not None
        states.append(os.pread(spool._disk._file.fileno(), 512 << 10, 0))
    assert all(b"a" * 9 not in state and b"b" * 9 not in state for state in states)
    difference = bytes(a ^ b for a, b in zip(states[0], states[1], strict=True))
    assert difference.count(ord("a") ^ ord("b")) < 10_000
    spool.close()
    with pytest.raises(LafsError, match="closed"):
        spool.read(0, 1)


def test_spool_that_finds_no_room_says_so(tmp_path: Path, mount: Callable[[Path, str], None]) -> None:
    mount(tmp_path / "small", "size=1m")
    with Spool(tmp_path / "small" / "spools", os.urandom) as spool, pytest.raises(NoRoom, match="no room"):
        spool.append(os.urandom(3_000_000))
    assert list((tmp_path / "small" / "spools").iterdir()) == []
    assert stat.S_IMODE((tmp_path / "small" / "spools").stat().st_mode) == 0o700
    with Spool(tmp_path / "small" / "spools", os.urandom, 10) as spool:
        spool.append(b"there is room again")
        assert spool.read(0, 100) == b"there is room again"


def test_spool_that_changes_while_it_is_stored_is_not_stored(desk: Desk) -> None:
    with desk.access() as access, desk.spool() as spool:
        spool.append(os.urandom(3_000_000))
        inner = spool.readinto
        reads, when = 0, 2

        def readinto(buffer: memoryview) -> int:
            nonlocal reads
            reads += 1
            if reads == when:
                spool.write(1_000_000, os.urandom(100))
            return inner(buffer)

        spool.readinto = readinto  # type: ignore[method-assign]
        with pytest.raises(SourceChanged):
            contents.store(access, spool, "chk")
        reads, when = 0, 2
        with pytest.raises(SourceChanged):
            contents.store(access, spool, "mdmf")


def test_readers_that_are_slow_hold_no_threads(desk: Desk) -> None:
    data = os.urandom(6_000_000)
    with desk.access() as access:
        cap = contents.store(access, data, "chk").cap
        before = active_count()
        slow = [open_content(access, cap).pieces(number) for number in range(30)]
        firsts = [bytes(next(pieces)) for pieces in slow]
        assert active_count() <= before + 12  # one for each server, two that decode
        assert open_content(access, cap).read(5, 5) == data[5:10]
        rest = [first + b"".join(map(bytes, pieces)) for first, pieces in zip(firsts[:3], slow, strict=False)]
        assert rest == [data[number:] for number in range(3)]
        for pieces in slow:
            pieces.close()


def test_pieces_may_be_pulled_by_one_thread_after_another(desk: Desk) -> None:
    data = os.urandom(5_000_000)
    with desk.access() as access, ThreadPoolExecutor(3) as pool:
        pieces = open_content(access, contents.store(access, data, "chk").cap).pieces()
        got = b""
        while (piece := pool.submit(next, pieces, None).result()) is not None:
            got += bytes(piece)
        assert got == data


@pytest.mark.parametrize("kind", ["chk", "mdmf"])
def test_servers_that_fail_in_the_middle_are_replaced_and_then_named(
    tmp_path: Path, kind: contents.Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lafscli.storage.grid._RETRY_AFTER", 0.0)
    monkeypatch.setattr("lafscli.gateway.reading._AHEAD_BYTES", 1 << 20)
    local = LocalGrid(tmp_path, 5)
    access = access_to(local.grid(), Encoding(2, 3, 5))
    data = os.urandom(8_000_000)
    cap = contents.store(access, data, kind).cap
    content = open_content(access, cap)
    pieces = content.pieces()
    got = bytes(next(pieces))
    for dial in local.dials[:3]:
        dial.dead = True
    assert got + b"".join(map(bytes, pieces)) == data
    pieces = content.pieces(2_000_000)
    next(pieces)
    local.dials[3].dead = True
    with pytest.raises(CannotTell):
        list(pieces)
    for dial in local.dials:
        dial.dead = False
    assert content.read(7_000_000, 2_000_000) == data[7_000_000:]
    content.close()
    local.close()


def test_what_can_not_be_read_is_refused(desk: Desk) -> None:
    with desk.access() as access:
        for kind in ("chk", "sdmf"):
            cap = contents.store(access, bytes(1000), kind).cap
            verify = cap.verify_cap()
            assert verify is not None
            with pytest.raises(NotGranted):
                open_content(access, verify)
        missing = ChkCap(bytes(16), bytes(32), 3, 10, 1000)
        with pytest.raises(NotRecoverable):
            list(open_content(access, missing).pieces())
        with pytest.raises(NotRecoverable):
            open_content(access, MutableWriteCap(False, bytes(16), bytes(32)))


def test_turns_that_are_shared_wait_for_those_that_are_not(desk: Desk) -> None:
    """And the other way round; nobody is left out."""
    caps = [ChkCap(bytes([number]) * 16, bytes(32), 3, 10, 1000) for number in range(3)]
    inside: list[str] = []
    seen: list[list[str]] = []

    def work(number: int) -> None:
        for _ in range(50):
            alone = number % 3 == 0
            wanted = caps if number % 2 else caps[::-1]
            with desk.turn(*wanted, shared=not alone):
                inside.append("alone" if alone else "shared")
                seen.append(list(inside))
                inside.remove("alone" if alone else "shared")

    together(9, work)
    assert all(state == ["alone"] or "alone" not in state for state in seen)
    assert len(seen) == 450
    assert desk._turns._turns == {}


def test_who_reads_does_not_wait_for_those_who_wait_long(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "_THREADS", 2)
    desk = Desk(home, note=lambda _: None)
    answered = Event()

    async def act() -> int:
        waiting = [asyncio.ensure_future(desk.run_long(answered.wait, 20.0)) for _ in range(5)]
        try:
            return await asyncio.wait_for(desk.run(lambda: 7), 5)
        finally:
            answered.set()
            await asyncio.gather(*waiting)

    assert asyncio.run(act()) == 7
    desk.close()


def test_desk_that_is_closed_ends_what_is_under_way(home: Home) -> None:
    desk = Desk(home)
    data = os.urandom(3_000_000)

    async def read() -> None:
        with desk.access() as access:
            cap = await desk.run(lambda: contents.store(access, data, "chk").cap)
            pieces = open_content(access, cap).pieces()
            assert data.startswith(bytes(await desk.run(next, pieces)))
            desk.close()
            with pytest.raises(LafsError, match="closed"):
                await desk.run(next, pieces)
            with pytest.raises(Unreachable):
                contents.content(access, cap)

    asyncio.run(read())
    with pytest.raises(LafsError, match="closed"), desk.access():
        pass


def test_what_was_done_lately_is_told() -> None:
    now = [100.0]
    recent = Recent(lambda: now[0], lambda: now[0])
    for number in range(200):
        with contextlib.suppress(NotFound), recent.begin(f"get {number}") as operation:
            now[0] += 2
            operation.bytes += 10
            if number == 198:
                raise NotFound("it is not there")
    recent.begin("put")
    now[0] += 1
    lines = recent.lines()
    assert len(lines) == 100
    assert lines[0] == Line(500.0, "put", "under way", 1.0, 0)
    assert lines[1] == Line(498.0, "get 199", "done", 2.0, 10)
    assert lines[2].state == "failed"
    counters = Counters()

    def count(number: int) -> None:
        for _ in range(1000):
            counters.add(requests=1, bytes_in=number)

    together(8, count)
    assert counters.now == Counts(8000, 0, 28_000, 0)


def test_what_was_staged_long_ago_is_removed(home: Home, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """By each server, once a day: a gateway may run for years, and other commands never."""
    with desk.client() as client:
        [root] = [Path(record.address.path) for record in list(client.config.servers.values())[:1]]
    left, fresh = root / "staging" / "left", root / "staging" / "fresh"
    for path in (left, fresh):
        path.write_bytes(b"x")
    day = 25 * 3600
    os.utime(left, (time.time() - day, time.time() - day))
    for mark in (home.state / "swept").glob("*"):
        mark.unlink()
    monkeypatch.setattr("lafscli.gateway.desk._SWEEP_SECONDS", 0.0)
    with desk.access():
        pass
    until = time.monotonic() + 20
    while left.exists():
        assert time.monotonic() < until, "nobody removed it"
        time.sleep(0.01)
    assert fresh.exists()
    fresh.unlink()
