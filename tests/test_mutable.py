"""Mutable files on a grid: made, read, changed, replaced; what is refused (spec 03, 10)."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.errors import Conflict, LafsError
from lafscli.mutable import survey as survey_module
from lafscli.mutable.attempt import Attempt
from lafscli.mutable.guards import Guards
from lafscli.mutable.publish import create, create_many, modify, overwrite
from lafscli.mutable.retrieve import contents, contents_many, retrieve
from lafscli.mutable.survey import survey
from lafscli.placement import Encoding
from lafscli.storage.source import StreamSource
from tests.grids import LocalGrid, content
from tests.slots import content_of, publishing, reading

ENCODINGS = [(1, 1, 1), (2, 2, 2), (3, 4, 4), (5, 5, 6), (3, 7, 10), (1, 5, 10)]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path)
    yield grid
    grid.close()


def guards(servers: LocalGrid) -> list[Path]:
    return [path for index in range(len(servers.servers)) for path in (servers.root(index) / "locks").iterdir()]


@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
@pytest.mark.parametrize("size", [0, 1, 19, 131072, 400_000])
def test_made_read_changed_replaced(servers: LocalGrid, mdmf: bool, size: int) -> None:
    grid = servers.grid()
    first = content(size)
    made = create(grid, first, publishing(), mdmf=mdmf)
    assert (made.size, made.seqnum, made.happiness) == (size, 1, 10)
    assert servers.shares() == {f"s{i}": [made_on(made.placement, f"s{i}")] for i in range(10)}
    assert content_of(grid, made.cap) == first

    changed = modify(grid, made.cap, lambda old: old + b"more", publishing())
    assert (changed.seqnum, changed.size) == (2, size + 4)
    assert content_of(servers.grid(), made.cap.read_cap()) == first + b"more"

    replaced = overwrite(grid, made.cap, b"short", publishing())
    assert replaced.seqnum == 3
    assert content_of(grid, made.cap) == b"short"
    assert guards(servers) == []


def made_on(placement: dict[int, list[str]], name: str) -> int:
    [number] = [shnum for shnum, names in placement.items() if name in names]
    return number


@pytest.mark.parametrize(("k", "happy", "n"), ENCODINGS)
@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
def test_encodings(servers: LocalGrid, k: int, happy: int, n: int, mdmf: bool) -> None:
    grid = servers.grid()
    made = create(grid, b"one", publishing(Encoding(k, happy, n)), mdmf=mdmf)
    assert sorted(made.placement) == list(range(n))
    # the encoding of a file that exists is its own
    modify(grid, made.cap, lambda old: old + b" two", publishing())
    assert content_of(grid, made.cap) == b"one two"
    found = survey(grid, made.cap.verify_cap())
    assert found.versions.best is not None
    assert (found.versions.best.prefix.k, found.versions.best.prefix.n) == (k, n)


@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
def test_a_range_is_read(servers: LocalGrid, mdmf: bool) -> None:
    grid = servers.grid()
    data = content(700_000)
    made = create(grid, data, publishing(), mdmf=mdmf)
    for offset, length in [(0, 10), (131_071, 3), (250_000, 300_000), (699_999, 100), (700_000, 5), (0, None)]:
        pieces: list[bytes] = []
        answer = retrieve(grid, made.cap, pieces.append, reading(), offset=offset, length=length)
        wanted = data[offset : None if length is None else offset + length]
        assert b"".join(pieces) == wanted
        assert answer.size == len(wanted)


def test_many_at_once(servers: LocalGrid) -> None:
    grid = servers.grid()
    made = create_many(grid, [content(size) for size in range(10)], publishing(), mdmf=False)
    caps = [one.cap for one in made if not isinstance(one, LafsError)]
    assert len(caps) == 10
    read = contents_many(grid, caps, reading())
    assert [one[0] for one in read if not isinstance(one, LafsError)] == [content(size) for size in range(10)]


def test_a_large_mdmf_file_is_streamed_from_a_path_and_from_a_pipe(servers: LocalGrid, tmp_path: Path) -> None:
    grid = servers.grid()
    data = content(9_000_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    made = create(grid, path, publishing(), mdmf=True)
    assert content_of(grid, made.cap) == data
    path.write_bytes(data[1:])
    with path.open("rb", buffering=0) as pipe:
        overwrite(grid, made.cap, pipe, publishing())
    assert contents(grid, made.cap, reading())[0] == data[1:]
    assert guards(servers) == []


@pytest.mark.parametrize(
    "features",
    [
        {"rename-keeps", "folder-rename-keeps"},
        {"rename-keeps", "folder-rename-keeps", "hardlink"},
        {"rename-keeps", "folder-rename-keeps", "posix-rename"},
    ],
    ids=["none", "hardlink", "posix-rename"],
)
@pytest.mark.parametrize(("k", "happy", "n"), [(1, 1, 1), (2, 2, 2), (3, 7, 10)])
def test_servers_with_few_extensions(servers: LocalGrid, features: set[str], k: int, happy: int, n: int) -> None:
    servers.servers = [replace(server, features=frozenset(features)) for server in servers.servers]
    encoding = Encoding(k, happy, n)
    made = create(servers.grid(), b"1", publishing(encoding), mdmf=False)
    for _ in range(4):
        modify(servers.grid(), made.cap, lambda old: old + b"%d" % (len(old) + 1), publishing(encoding))
    assert content_of(servers.grid(), made.cap) == b"12345"
    assert guards(servers) == []


def test_servers_on_which_nothing_can_be_changed_are_read(servers: LocalGrid) -> None:
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    for index in range(3):
        servers.servers[index] = replace(servers.servers[index], features=frozenset())
    assert content_of(servers.grid(), made.cap) == b"one"
    changed = modify(servers.grid(), made.cap, lambda old: old + b"!", publishing())
    # without lists, they are none of those that decide; what they hold grows old
    assert all("s0" not in names for names in changed.placement.values())
    assert content_of(servers.grid(), made.cap) == b"one!"


def test_a_pipe_can_not_be_read_again(servers: LocalGrid) -> None:
    grid = servers.grid()
    made = create(grid, b"one", publishing(), mdmf=True)
    stream = io.BytesIO(content(5_000_000))

    def meanwhile(name: str) -> None:
        for index in range(10):
            for guard in (servers.root(index) / "locks").iterdir():
                if not guard.name.startswith("."):
                    guard.rename(guard.with_name(f".broken.{guard.name}.x"))

    started = []

    def before(name: str) -> None:
        if name == "write":
            started.append(name)
        if len(started) == 20:
            meanwhile(name)

    servers.dials[3].before = before
    with pytest.raises(Conflict, match="can't be read twice"):
        overwrite(servers.grid(), made.cap, stream, publishing())
    servers.dials[3].before = None
    assert content_of(servers.grid(), made.cap) == b"one"
    modify(servers.grid(), made.cap, lambda old: old + b"!", publishing())
    assert content_of(servers.grid(), made.cap) == b"one!"
    assert guards(servers) == []


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(servers: LocalGrid) -> None:
    """What was begun is kept open: the old version goes on to be there."""
    grid = servers.grid()
    first = content(6_000_000, 1)
    made = create(grid, first, publishing(), mdmf=True)
    pieces: list[bytes] = []

    def write(piece: bytes) -> None:
        if not pieces:
            overwrite(servers.grid(), made.cap, content(6_000_000, 2), publishing())
        pieces.append(piece)

    retrieve(grid, made.cap, write, reading())
    assert b"".join(pieces) == first
    assert content_of(servers.grid(), made.cap) == content(6_000_000, 2)


def test_guards_are_kept_while_a_pipe_rests() -> None:
    """Whoever waits for a pipe is called now and then; here that is what makes it go on."""
    read, write = os.pipe()
    calls = []

    def idle() -> None:
        calls.append(1)
        os.write(write, b"x" * 1000)
        if len(calls) == 3:
            os.close(write)

    with os.fdopen(read, "rb") as stream:
        source = StreamSource(b"start", stream)
        source.idle = idle
        buffer = memoryview(bytearray(5000))
        assert source.readinto(buffer) == 3005
    assert len(calls) == 3


def test_guards_are_kept_while_the_content_is_slow(servers: LocalGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than comes along with the look, in one segment: nothing else happens until it is there."""
    monkeypatch.setattr("lafscli.mutable.blocks._TICK", 0.01)
    first = content(2_000_000)
    made = create(servers.grid(), first, publishing(), mdmf=False)
    thaw = threading.Event()
    calls = []

    def keep(*_: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            thaw.set()

    monkeypatch.setattr(Guards, "keep", keep)
    attempt = Attempt(servers.grid(), made.cap, publishing(), 10, one_first=False)
    attempt.enter()
    for dial in servers.dials:
        dial.hang = thaw
    assert attempt.content() == first
    assert len(calls) > 3
    attempt.close()


def test_a_frozen_server_does_not_hold_up_a_read(servers: LocalGrid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "_LATE_SECONDS", 0.05)
    made = create(servers.grid(), b"one", publishing(), mdmf=False)
    servers.dials[0].hang = threading.Event()
    read, answer = contents(servers.grid(), made.cap, reading())
    assert read == b"one"
    assert answer.silent == {"s0": "did not answer in time"}
    [many] = contents_many(servers.grid(), [made.cap], reading())
    assert not isinstance(many, LafsError)
    assert many[0] == b"one"
    servers.dials[0].hang.set()
