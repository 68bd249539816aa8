"""Many small files fetched at once: what is missing or lies is made up for, and named."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafscli.errors import CannotTell, LafsError, NotRecoverable
from lafscli.formats.caps import ChkCap
from lafscli.immutable import fetchmany
from lafscli.immutable.fetchmany import Fetched, download_many
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import upload
from lafscli.placement import Encoding
from lafscli.storage.store import Progress
from tests.grids import LocalGrid, content, writing

SIZES = [56, 57, 100, 1000, 10_240, 65_536, 200_000, 300_000] + [500 + i for i in range(72)]
FILES = [content(size, size) for size in SIZES]

Stored = tuple[LocalGrid, list[ChkCap]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    """80 files of many sizes, more than one batch."""
    local = LocalGrid(tmp_path_factory.mktemp("many") / "grid")
    yield local, put(local, FILES)
    local.close()


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Stored]:
    """Three files on a grid that may be damaged."""
    local = LocalGrid(tmp_path / "grid")
    yield local, put(local, FILES[3:6])
    local.close()


def put(local: LocalGrid, files: list[bytes], encoding: Encoding | None = None) -> list[ChkCap]:
    with local.grid() as grid:
        caps = [done.cap for done in upload_many(grid, files, writing(encoding)) if not isinstance(done, LafsError)]
    assert len(caps) == len(files)
    return [cap for cap in caps if isinstance(cap, ChkCap)]


def get(local: LocalGrid, caps: list[ChkCap], progress: Progress | None = None) -> list[Fetched | LafsError]:
    with local.grid() as grid:
        found = dict(download_many(grid, caps, progress))
    assert sorted(found) == list(range(len(caps)))
    return [found[index] for index in range(len(caps))]


def contents(found: list[Fetched | LafsError]) -> list[bytes]:
    return [bytes(each.content) for each in found if isinstance(each, Fetched)]


class Heard(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.bytes = 0

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def server(self, name: str, count: int) -> None:
        assert name.startswith("s")
        self.bytes += count


def damage(local: LocalGrid, cap: ChkCap, shnum: int, offset: int) -> str:
    """Flip a byte of a share; the name of its server."""
    [path] = [path for path in local.share_files() if path.name == str(shnum) and path.parent.name == _si(cap)]
    data = bytearray(path.read_bytes())
    data[12 + offset] ^= 1
    path.write_bytes(data)
    return path.relative_to(local.base).parts[0]


def _si(cap: ChkCap) -> str:
    return str(cap.verify_cap()).split(":")[2]


def test_all_of_them_in_few_questions(stored: Stored) -> None:
    local, caps = stored
    calls: list[str] = []
    for dial in local.dials:
        dial.before = calls.append
    progress = Heard()
    try:
        assert contents(get(local, caps, progress)) == FILES
    finally:
        for dial in local.dials:
            dial.before = None
    assert calls.count("read") <= 2 * 10 + 10  # two batches, and server.toml
    assert "listing" not in calls
    assert progress.warnings == []
    assert progress.bytes >= sum(SIZES)


def test_none_at_all(stored: Stored) -> None:
    assert get(stored[0], []) == []


@pytest.mark.parametrize("lost", [[0], [2, 3, 4], [0, 1, 2, 3, 4, 5, 6]])
def test_up_to_seven_servers_may_be_lost(stored: Stored, lost: list[int]) -> None:
    local, caps = stored
    for index in lost:
        local.dials[index].dead = True
    try:
        found = get(local, caps)
    finally:
        for dial in local.dials:
            dial.dead = False
    assert contents(found) == FILES


def test_a_server_that_hangs_is_done_without(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    local, caps = stored
    monkeypatch.setattr(fetchmany, "_LATE_SECONDS", 0.2)
    hang = local.dials[4].hang = threading.Event()
    try:
        assert contents(get(local, caps)) == FILES
    finally:
        hang.set()
        local.dials[4].hang = None


@pytest.mark.parametrize("offset", [0, 20, 40, 400, -100])
def test_a_share_that_lies_is_named_and_made_up_for(fresh: Stored, offset: int) -> None:
    """Its header, a block, its trees, its UEB: wherever the flip is."""
    local, caps = fresh
    size = local.share_files()[0].stat().st_size
    server = damage(local, caps[1], 0, offset if offset >= 0 else size + offset)
    progress = Heard()
    found = get(local, caps, progress)
    assert contents(found) == FILES[3:6]
    one = found[1]
    assert isinstance(one, Fetched)
    assert [(bad.server, bad.shnum) for bad in one.corrupt] == [(server, 0)]
    [warning] = progress.warnings
    assert warning.startswith(f"server {server}: share 0 is corrupt and was not used")


def test_shares_that_were_cut_are_named(fresh: Stored) -> None:
    local, caps = fresh
    for path in local.share_files():
        if path.name in "0123456" and path.parent.name == _si(caps[2]):
            path.write_bytes(path.read_bytes()[:1000])
    found = get(local, caps)
    assert contents(found) == FILES[3:6]


def test_shares_elsewhere_than_they_were_put_are_found(fresh: Stored) -> None:
    local, caps = fresh
    roots = [local.root(index) / "shares" for index in range(10)]
    for one, other in zip(roots[::2], roots[1::2], strict=True):
        one.rename(one.with_name("other"))
        other.rename(one)
        one.with_name("other").rename(other)
    assert contents(get(local, caps)) == FILES[3:6]


def test_several_shares_on_a_server(tmp_path: Path) -> None:
    local = LocalGrid(tmp_path / "grid", 2)
    caps = put(local, FILES[:4], Encoding(3, 1, 10))
    assert contents(get(local, caps)) == FILES[:4]
    local.dials[0].dead = True
    assert contents(get(local, caps)) == FILES[:4]
    local.close()


def test_small_segments_of_another_writer(tmp_path: Path) -> None:
    """Its shares are longer than one that is made here: the file is fetched on its own."""
    local = LocalGrid(tmp_path / "grid")
    data = content(60_000)
    with local.grid() as grid:
        cap = upload(grid, data, writing(Encoding(3, 7, 10, 600))).cap
    assert isinstance(cap, ChkCap)
    assert contents(get(local, [cap])) == [data]
    local.close()


def test_a_large_file_is_fetched_too(fresh: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    local, caps = fresh
    monkeypatch.setattr(fetchmany, "SMALL", 20_000)
    assert contents(get(local, caps)) == FILES[3:6]


def test_what_is_lost_is_an_answer_and_the_rest_is_there(fresh: Stored) -> None:
    local, caps = fresh
    for path in local.share_files():
        if path.name in "01234567" and path.parent.name == _si(caps[1]):
            path.unlink()
    found = get(local, caps)
    assert isinstance(found[1], NotRecoverable)
    assert contents(found) == [FILES[3], FILES[5]]
    for dial in local.dials[:8]:
        dial.dead = True
    assert all(isinstance(each, CannotTell) for each in get(local, caps))


def test_nothing_unproved_gets_out(fresh: Stored) -> None:
    """A cap that asks for another UEB: no share proves, whatever they agree on."""
    local, caps = fresh
    other = ChkCap(caps[0].key, caps[1].ueb_hash, 3, 10, caps[0].size)
    [answer] = get(local, [other])
    assert isinstance(answer, NotRecoverable)
