"""Uploads over real folders: what is stored, what is refused, what is left behind when something fails."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.errors import LafsError, NotFound, NotHappy, SourceChanged, Unreachable, UsageError
from lafscli.formats.caps import ChkCap, LitCap
from lafscli.formats.container import LEASE_SIZE, ImmutableContainer
from lafscli.immutable.download import download
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import Uploaded, upload
from lafscli.placement import Encoding
from lafscli.storage.store import Progress
from tests.grids import LocalGrid, content, writing


@pytest.fixture
def ten(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path / "grid")
    yield grid
    grid.close()


def fetch(local: LocalGrid, cap: LitCap | ChkCap, **options: int) -> bytes:
    out = bytearray()
    with local.grid() as grid:
        download(grid, cap, out.extend, **options)
    return bytes(out)


SIZES = [0, 1, 55, 56, 57, 58, 59, 131071, 131072, 131073, 1048575, 1048576, 1048577, 3 * 1048577]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_put_comes_back(ten: LocalGrid, size: int) -> None:
    data = content(size)
    with ten.grid() as grid:
        done = upload(grid, data, writing())
    assert fetch(ten, done.cap) == data
    assert done.size == size
    if size <= 55:
        assert isinstance(done.cap, LitCap)
        assert ten.shares() == {}
    else:
        assert done.happiness == 10
        assert sorted(n for numbers in ten.shares().values() for n in numbers) == list(range(10))
        assert all(len(numbers) == 1 for numbers in ten.shares().values())
    assert ten.staged() == []


@pytest.mark.parametrize(
    ("k", "n", "servers"),
    [(1, 1, 1), (1, 3, 3), (2, 2, 2), (3, 3, 4), (3, 10, 10), (5, 7, 3), (16, 20, 10), (100, 256, 5), (256, 256, 2)],
)
@pytest.mark.parametrize("size", [56, 1000, 5000])
def test_encodings(tmp_path: Path, k: int, n: int, servers: int, size: int) -> None:
    local = LocalGrid(tmp_path, servers)
    data = content(size)
    with local.grid() as grid:
        encoding = Encoding(k, min(n, servers), n, 1024)
        done = upload(grid, data, writing(encoding))
    assert fetch(local, done.cap) == data
    local.close()


def test_equal_files_have_equal_caps_and_are_stored_once(ten: LocalGrid) -> None:
    data = content(5000)
    with ten.grid() as grid:
        first = upload(grid, data, writing())
        before = {path: path.stat().st_mtime_ns for path in ten.share_files()}
        second = upload(grid, data, writing())
        other = upload(grid, data, writing(convergence=b"another"))
        free = upload(grid, data, writing(convergence=None))
    assert first.cap == second.cap
    assert (first.pushed, first.preexisting) == (10, 0)
    assert (second.pushed, second.preexisting) == (0, 10)
    assert before.keys() <= set(ten.share_files())
    assert len({first.cap, other.cap, free.cap}) == 3


def test_a_second_put_renews_our_lease(ten: LocalGrid) -> None:
    data = content(5000)
    with ten.grid() as grid:
        upload(grid, data, writing())
        [share, *_] = ten.share_files()
        before = share.read_bytes()
        upload(grid, data, replace(writing(), now=1_800_000_000 + 86400))
    after = share.read_bytes()
    assert before[:-4] == after[:-4]
    assert int.from_bytes(after[-4:], "big") - int.from_bytes(before[-4:], "big") == 86400


@pytest.mark.parametrize("many", [False, True])
def test_what_another_has_put_gets_a_lease_of_ours(ten: LocalGrid, many: bool) -> None:
    """Else it is gone once the other one lets it go."""
    data = content(5000)
    mine = replace(writing(), lease_secret=b"m" * 32)
    with ten.grid() as grid:
        upload(grid, data, writing())
        before = {path: path.read_bytes() for path in ten.share_files()}
        done = upload_many(grid, [data], mine)[0] if many else upload(grid, data, mine)
        assert isinstance(done, Uploaded)
        assert (done.pushed, done.preexisting) == (0, 10)
        for path, was in before.items():
            now = path.read_bytes()
            found = ImmutableContainer.parse_header(now[:12], len(now))
            assert (found.leases, len(now)) == (2, len(was) + LEASE_SIZE)
            assert now[12 : len(was)] == was[12:]
        upload(grid, data, mine)
    assert {path.stat().st_size for path in ten.share_files()} == {len(was) + LEASE_SIZE for was in before.values()}
    assert not [path for index in range(10) for path in (ten.root(index) / "locks").iterdir()]


def test_a_file_and_its_bytes_have_the_same_cap(ten: LocalGrid, tmp_path: Path) -> None:
    path = tmp_path / "名前 ファイル.bin"
    path.write_bytes(content(2_500_000))
    with ten.grid() as grid:
        assert upload(grid, path, writing()).cap == upload(grid, content(2_500_000), writing()).cap


class _Pipe(io.RawIOBase):
    """A stream that gives a little at a time."""

    def __init__(self, data: bytes, at_once: int = 4097) -> None:
        self._left = io.BytesIO(data)
        self._at_once = at_once

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        piece = self._left.read(min(len(buffer), self._at_once))
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize("size", [0, 55, 56, 1048575, 1048576, 1048577, 1048578, 3_000_000])
def test_pipes(ten: LocalGrid, size: int) -> None:
    data = content(size)
    with ten.grid() as grid:
        done = upload(grid, _Pipe(data), writing())  # type: ignore[arg-type]
    assert fetch(ten, done.cap) == data
    assert done.size == size
    assert ten.staged() == []
    versions = {path.read_bytes()[12:16] for path in ten.share_files()}
    if size > 1048578:  # the maximum segment, rounded to a multiple of k
        assert versions == {b"\0\0\0\2"}


def test_a_pipe_that_dies_stores_nothing(ten: LocalGrid) -> None:
    class Dying(_Pipe):
        def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
            count = super().readinto(buffer)
            if not count:
                raise OSError(5, "Input/output error")
            return count

    with ten.grid() as grid, pytest.raises(LafsError, match="standard input"):
        upload(grid, Dying(content(3_000_000)), writing())  # type: ignore[arg-type]
    assert ten.shares() == {}
    assert ten.staged() == []


@pytest.mark.parametrize("change", ["content", "longer", "shorter", "replaced", "touched"])
def test_a_source_that_changes_during_put_is_refused(ten: LocalGrid, tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content(3_000_000))

    class Change(Progress):
        def start(self, phase: str, total: int | None) -> None:
            if phase != "put":
                return
            stat = path.stat()
            if change == "content":
                with path.open("r+b") as file:
                    file.seek(2_000_000)
                    file.write(b"changed")
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            elif change == "longer":
                with path.open("ab") as file:
                    file.write(b"more")
            elif change == "shorter":
                os.truncate(path, 2_000_000)
            elif change == "replaced":
                (tmp_path / "new").write_bytes(content(3_000_000))
                os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
                (tmp_path / "new").rename(path)
            else:
                os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))

    with ten.grid() as grid, pytest.raises(SourceChanged):
        upload(grid, path, writing(), Change())
    assert ten.shares() == {}
    assert ten.staged() == []


def test_sources_that_cant_be(ten: LocalGrid, tmp_path: Path) -> None:
    with ten.grid() as grid:
        with pytest.raises(NotFound):
            upload(grid, tmp_path / "nothing", writing())
        with pytest.raises(UsageError):
            upload(grid, tmp_path, writing())


def test_too_few_servers_refuses_before_writing(ten: LocalGrid) -> None:
    for index in range(4):
        ten.dials[index].dead = True
    wrote: list[str] = []
    for dial in ten.dials:
        dial.before = lambda name: wrote.append(name) if name in ("create", "write", "create_many") else None
    with ten.grid() as grid, pytest.raises(NotHappy, match=r"6 of 10 servers answered, 7 are needed") as caught:
        upload(grid, content(5000), writing())
    assert "s3: connection refused" in caught.value.message
    assert wrote == []
    assert ten.shares() == {}


def test_no_server_at_all(ten: LocalGrid) -> None:
    for dial in ten.dials:
        dial.dead = True
    with ten.grid() as grid, pytest.raises(Unreachable):
        upload(grid, content(5000), writing())


def test_three_dead_servers_are_done_without(ten: LocalGrid) -> None:
    for index in (1, 5, 9):
        ten.dials[index].dead = True
    data = content(2_000_000)
    with ten.grid() as grid:
        done = upload(grid, data, writing())
    assert done.happiness == 7
    assert sorted(done.placement) == list(range(10))
    assert fetch(ten, done.cap) == data


def test_a_server_that_refuses_is_replaced_before_data_is_sent(ten: LocalGrid) -> None:
    ten.dials[3].refuse_create = True
    with ten.grid() as grid:
        done = upload(grid, content(5000), writing())
    assert sorted(done.placement) == list(range(10))
    assert "s3" not in {name for names in done.placement.values() for name in names}
    assert ten.staged() == []


@pytest.mark.parametrize("fault", ["full", "dropped", "rename", "dies"])
@pytest.mark.parametrize("count", [1, 3])
def test_servers_that_fail_on_the_way_are_dropped_while_happiness_holds(ten: LocalGrid, fault: str, count: int) -> None:
    def spoil(index: int) -> None:
        dial = ten.dials[index]
        if fault == "full":
            dial.full_after = 500_000
        elif fault == "dropped":
            dial.drop_writes = True
        elif fault == "rename":
            dial.refuse_rename = True
        else:
            writes = []

            def die(name: str) -> None:
                writes.append(name)
                dial.dead = dial.dead or writes.count("write") > 2

            dial.before = die

    for index in range(count):
        spoil(index)
    data = content(3_000_000)
    with ten.grid() as grid:
        done = upload(grid, data, writing())
    assert done.happiness >= 7
    for dial in ten.dials:
        dial.__init__()  # type: ignore[misc]
    assert fetch(ten, done.cap) == data
    assert set(done.placement) <= {n for numbers in ten.shares().values() for n in numbers}


@pytest.mark.parametrize("fault", ["full", "dropped"])
def test_too_many_servers_that_fail_on_the_way_leave_nothing(ten: LocalGrid, fault: str) -> None:
    for index in range(4):
        if fault == "full":
            ten.dials[index].full_after = 300_000
        else:
            ten.dials[index].drop_writes = True
    with ten.grid() as grid, pytest.raises(NotHappy):
        upload(grid, content(3_000_000), writing())
    assert ten.shares() == {}
    assert ten.staged() == []


def test_a_failing_server_is_made_up_for_by_another_try(tmp_path: Path) -> None:
    """12 servers, 10 shares, happy 10: one that fills up half-way is replaced by one that had no share."""
    local = LocalGrid(tmp_path, 12)
    encoding = Encoding(3, 10, 10)
    data = content(3_000_000)
    with local.grid() as grid:
        upload(grid, data, writing(encoding, b"first"))
        si_order = sorted(local.shares())
        local.dials[int(si_order[0][1:])].full_after = 300_000
        done = upload(grid, data, writing(encoding, b"first again"))
    assert done.happiness == 10
    assert fetch(local, done.cap) == data
    assert local.staged() == []
    local.close()


@pytest.mark.parametrize("kind", ["junk", "flipped", "other file", "short", "empty"])
def test_found_shares_are_not_trusted_by_their_number(ten: LocalGrid, tmp_path: Path, kind: str) -> None:
    data = content(400_000)
    other = LocalGrid(tmp_path / "other")
    with other.grid() as grid:
        known = upload(grid, data, writing())
    with other.grid() as grid:
        upload(grid, content(400_000, seed=1), writing())
    si = known.cap.storage_index
    assert isinstance(known.cap, ChkCap)
    good = {path.parent.parent.parent.parent.name: path for path in other.share_files() if _is(path, known)}
    for name in ("s2", "s7"):
        source = good[name]
        bytes_there = source.read_bytes()
        if kind == "junk":
            bytes_there = bytes_there[:12] + content(len(bytes_there) - 12, seed=3)
        elif kind == "flipped":
            bytes_there = bytes_there[:-400] + bytes([bytes_there[-400] ^ 1]) + bytes_there[-399:]
        elif kind == "other file":
            wrong = next(p for p in other.share_files() if p.name == source.name and not _is(p, known))
            bytes_there = wrong.read_bytes()
        elif kind == "short":
            bytes_there = bytes_there[:200] + bytes_there[-72:]
        else:
            bytes_there = b""
        target = ten.base / source.relative_to(other.base)
        target.parent.mkdir(parents=True)
        target.write_bytes(bytes_there)
    warned: list[str] = []

    class Listen(Progress):
        def warn(self, message: str) -> None:
            warned.append(message)

    with ten.grid() as grid:
        done = upload(grid, data, writing(), Listen())
    assert done.cap == known.cap
    assert si is not None
    assert done.happiness >= 7
    assert sorted(done.placement) == list(range(10))
    for name in ("s2", "s7"):
        number = int(good[name].name)
        assert name not in done.placement[number]
        assert any(f"server {name}: share {number} is corrupt" in text for text in warned)
    for index in (2, 7):
        for path in (ten.root(index) / "shares").glob("*/*/*"):
            if path.name == good[f"s{index}"].name:
                path.unlink()
    assert fetch(ten, done.cap) == data
    other.close()


def _is(path: Path, done: Uploaded) -> bool:
    from lafscli.primitives.encoding import b32encode

    assert done.cap.storage_index is not None
    return path.parent.name == b32encode(done.cap.storage_index)


def test_good_found_shares_count_and_only_the_rest_is_sent(ten: LocalGrid) -> None:
    data = content(2_000_000)
    with ten.grid() as grid:
        upload(grid, data, writing())
        for path in ten.share_files()[:4]:
            path.unlink()
        done = upload(grid, data, writing())
    assert (done.pushed, done.preexisting) == (4, 6)
    assert done.happiness == 10


def test_two_puts_of_the_same_file_at_once(ten: LocalGrid) -> None:
    data = content(3_000_000)
    barrier = threading.Barrier(2)
    results: list[object] = []

    def put() -> None:
        with ten.grid() as grid:
            barrier.wait()
            try:
                results.append(upload(grid, data, writing()).cap)
            except LafsError as error:
                results.append(error)

    threads = [threading.Thread(target=put) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert isinstance(results[0], ChkCap)
    assert sorted(n for numbers in ten.shares().values() for n in numbers) == list(range(10))
    assert ten.staged() == []
    assert fetch(ten, results[0]) == data


def test_an_interrupted_put_removes_its_staging(ten: LocalGrid) -> None:
    class Stop(Progress):
        def advance(self, count: int) -> None:
            raise KeyboardInterrupt

    with ten.grid() as grid, pytest.raises(KeyboardInterrupt):
        upload(grid, content(3_000_000), writing(convergence=None), Stop())
    assert ten.shares() == {}
    assert ten.staged() == []


def test_a_hanging_server_is_not_waited_for_once_the_rest_is_enough(
    ten: LocalGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lafscli.immutable.placing._LAGGARD_SECONDS", 0.3)
    ten.dials[4].hang = threading.Event()
    with ten.grid() as grid:
        done = upload(grid, content(5000), writing())
    assert done.happiness == 9
    assert len(done.placement) == 10


def test_sites_are_spread_over(tmp_path: Path) -> None:
    """6 servers at two sites and 4 shares: two shares at each site."""
    local = LocalGrid(tmp_path, 6, sites=["a", "a", "a", "a", "b", "b"])
    with local.grid() as grid:
        for seed in range(8):
            done = upload(grid, content(100, seed), writing(Encoding(2, 4, 4)))
            at_b = sum(name in ("s4", "s5") for names in done.placement.values() for name in names)
            assert at_b == 2
    local.close()


def test_many_files(ten: LocalGrid, tmp_path: Path) -> None:
    contents = [content(size, seed=size) for size in (0, 10, 55, 56, 100, 1000, 10_000, 300_000, 3_000_000)]
    contents += [content(5000, seed=index) for index in range(200)] + [content(5000, seed=7)]
    path = tmp_path / "file"
    path.write_bytes(content(77_777))
    sources: list[Path | bytes] = [*contents, path, tmp_path / "missing"]
    with ten.grid() as grid:
        results = upload_many(grid, sources, writing())
        again = upload_many(grid, contents[:20], writing())
    assert len(results) == len(sources)
    assert isinstance(results[-1], NotFound)
    wanted = [*contents, path.read_bytes()]
    for data, result in zip(wanted, results, strict=False):
        assert isinstance(result, Uploaded)
        assert fetch(ten, result.cap) == data
    for first, second in zip(results, again, strict=False):
        assert isinstance(first, Uploaded)
        assert isinstance(second, Uploaded)
        assert first.cap == second.cap
        assert second.pushed == 0
    assert ten.staged() == []


def test_many_files_that_are_there_already_are_compared_in_few_questions(ten: LocalGrid) -> None:
    """Also those of which a run that was killed left some shares; our leases are renewed."""
    contents = [content(2000, seed=index) for index in range(60)]
    with ten.grid() as grid:
        upload_many(grid, contents, writing())
    for path in ten.share_files()[::7]:
        path.unlink()
    lost = 600 - len(ten.share_files())
    kept = ten.share_files()[0]
    before = kept.read_bytes()
    calls: list[str] = []
    for dial in ten.dials:
        dial.before = calls.append
    with ten.grid() as grid:
        again = upload_many(grid, contents, replace(writing(), now=writing().now + 1000))
    done = [result for result in again if isinstance(result, Uploaded)]
    assert len(done) == 60
    assert (sum(each.pushed for each in done), sum(each.preexisting for each in done)) == (lost, 600 - lost)
    assert len(calls) < 10 * 30
    assert len(ten.share_files()) == 600
    after = kept.read_bytes()
    assert (len(after), after[:-4], after != before) == (len(before), before[:-4], True)


class Warned(Progress):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_many_files_do_not_trust_shares_that_they_find(ten: LocalGrid, damage: str) -> None:
    contents = [content(2000, seed=index) for index in range(5)]
    with ten.grid() as grid:
        upload_many(grid, contents, writing())
    path = ten.share_files()[3]
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-200] ^= 1  # in the UEB
    path.write_bytes(data[:-100] if damage == "cut" else data)
    with ten.grid() as grid:
        progress = Warned()
        again = upload_many(grid, contents, writing(), progress)
    assert all(isinstance(result, Uploaded) for result in again)
    assert any("is not what it should be" in each for each in progress.warnings)
    [odd] = [each for each in again if isinstance(each, Uploaded) and (each.pushed, each.preexisting) != (0, 10)]
    assert odd.happiness >= 7


def test_many_files_with_servers_that_fail(ten: LocalGrid) -> None:
    ten.dials[2].refuse_create = True
    ten.dials[3].dead = True
    contents = [content(2000, seed=index) for index in range(30)]
    with ten.grid() as grid:
        results = upload_many(grid, contents, writing())
    for data, result in zip(contents, results, strict=True):
        assert isinstance(result, Uploaded)
        assert result.happiness >= 7
        assert fetch(ten, result.cap) == data
    assert ten.staged() == []


def test_many_files_and_too_few_servers(ten: LocalGrid) -> None:
    for index in range(5):
        ten.dials[index].dead = True
    with ten.grid() as grid:
        results = upload_many(grid, [content(2000, seed=index) for index in range(3)] + [b"small"], writing())
    assert [type(result) for result in results] == [NotHappy, NotHappy, NotHappy, Uploaded]
    assert ten.shares() == {}


def test_time_is_not_spent_on_a_dead_server_twice(ten: LocalGrid) -> None:
    """A server that could not be connected is not tried again for every file."""
    tries = []
    ten.dials[0].dead = True
    ten.dials[0].before = tries.append
    began = time.monotonic()
    with ten.grid() as grid:
        for seed in range(5):
            upload(grid, content(100, seed), writing())
    assert time.monotonic() - began < 5 or len(tries) <= 2
    assert tries == ["connect"]


def test_a_pipe_that_does_not_block_is_read_to_its_end(ten: LocalGrid) -> None:
    """EAGAIN is not the end of a pipe."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    data = content(51_000)

    def feed() -> None:
        os.write(write_end, data[:1000])
        time.sleep(0.3)
        os.write(write_end, data[1000:])
        os.close(write_end)

    thread = threading.Thread(target=feed)
    thread.start()
    with ten.grid() as grid, open(read_end, "rb", buffering=0) as stream:
        done = upload(grid, stream, writing())  # type: ignore[arg-type]
    thread.join()
    assert fetch(ten, done.cap) == data


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux has files that do not know their size")
def test_a_file_that_says_it_is_empty_and_is_not(ten: LocalGrid) -> None:
    path = Path("/proc/self/limits")
    assert path.stat().st_size == 0
    with ten.grid() as grid:
        done = upload(grid, path, writing())
    assert fetch(ten, done.cap) == path.read_bytes()


def test_where_no_share_can_be_placed_nothing_is_stored(ten: LocalGrid) -> None:
    """`shares` is a file on six servers: that is noticed before the first commit."""
    for index in range(6):
        (ten.root(index) / "shares").rmdir()
        (ten.root(index) / "shares").write_bytes(b"")
    for source in (content(5000), _Pipe(content(3_000_000))):
        with ten.grid() as grid, pytest.raises(NotHappy) as caught:
            upload(grid, source, writing())  # type: ignore[arg-type]
        assert "staging/" not in caught.value.message
        shares = [path for i in range(6, 10) for path in (ten.root(i) / "shares").glob("*/*/*")]
        assert shares == []
        assert ten.staged() == []


def test_reasons_are_told_once(ten: LocalGrid) -> None:
    for index in range(4):
        ten.dials[index].dead = True
    with ten.grid() as grid, pytest.raises(NotHappy) as caught:
        upload(grid, content(5000), writing())
    assert "(s0, s1, s2, s3: connection refused)" in caught.value.message
    assert "nothing was stored" in caught.value.message
