"""Downloads over real folders: which shares are used, what lies is named, nothing unproved gets out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lafscli.errors import CannotTell, NotRecoverable, Unreachable
from lafscli.formats.caps import ChkCap
from lafscli.immutable import fetch as fetch_module
from lafscli.immutable.download import Downloaded, download
from lafscli.immutable.fetch import SegmentFetch
from lafscli.immutable.pipeline import Codec
from lafscli.immutable.underway import Segment
from lafscli.immutable.upload import upload
from lafscli.placement import Encoding
from lafscli.primitives.ciphers import AesCtr
from lafscli.storage.store import FileRange, Progress
from tests.grids import LocalGrid, content, writing

SIZE = 700_000
SEGMENTS = Encoding(3, 7, 10, 131072)


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[tuple[LocalGrid, ChkCap, bytes]]:
    local = LocalGrid(tmp_path / "grid")
    data = content(SIZE)
    with local.grid() as grid:
        done = upload(grid, data, writing(SEGMENTS))
    assert isinstance(done.cap, ChkCap)
    yield local, done.cap, data
    local.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine too the first servers are given the time to answer: then it is known which shares are used."""
    monkeypatch.setattr(fetch_module, "_IMPATIENT_SECONDS", 60.0)
    monkeypatch.setattr(fetch_module, "_HEDGE_SECONDS", 60.0)


def get(local: LocalGrid, cap: ChkCap, offset: int = 0, length: int | None = None) -> tuple[bytes, Downloaded]:
    out = bytearray()
    with local.grid() as grid:
        done = download(grid, cap, out.extend, offset=offset, length=length)
    return bytes(out), done


def holder(local: LocalGrid, shnum: int) -> int:
    return next(int(name[1:]) for name, numbers in local.shares().items() if shnum in numbers)


def test_any_seven_servers_may_be_lost(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    local, cap, data = stored
    for lost in ([0, 1, 2, 3, 4, 5, 6], [3, 4, 5, 6, 7, 8, 9], [0, 2, 4, 6, 8, 9, 1]):
        for index in range(10):
            local.dials[index].dead = index in lost
        assert get(local, cap)[0] == data


def test_one_more_and_nobody_can_tell(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    local, cap, _ = stored
    for index in range(8):
        local.dials[index].dead = True
    with pytest.raises(CannotTell, match="found 2, need 3") as caught:
        get(local, cap)
    assert "s0, s1, s2, s3, s4, s5, s6, s7 did not answer" in str(caught.value.hint)
    for index in range(8):
        local.dials[index].dead = False
        for path in (local.root(index) / "shares").glob("*/*/*"):
            path.unlink()
    with pytest.raises(NotRecoverable, match="found 2, need 3"):
        get(local, cap)


def test_no_server(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    local, cap, _ = stored
    for dial in local.dials:
        dial.dead = True
    with pytest.raises(Unreachable):
        get(local, cap)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, SIZE + 10), length=st.one_of(st.none(), st.integers(0, SIZE + 10)))
def test_ranges_equal_slices(stored: tuple[LocalGrid, ChkCap, bytes], offset: int, length: int | None) -> None:
    local, cap, data = stored
    stop = None if length is None else offset + length
    assert get(local, cap, offset, length)[0] == data[offset:stop]


@pytest.mark.usefixtures("patient")
def test_a_range_fetches_only_its_segments(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    local, cap, data = stored
    read = 0

    def count(item: FileRange, answer: bytes) -> bytes:
        nonlocal read
        read += len(answer)
        return answer

    for dial in local.dials:
        dial.flip = count
    assert get(local, cap, 300_000, 1000)[0] == data[300_000:301_000]
    assert read < 131073 + 3 * 5000


def flip_at(start: int, stop: int) -> object:
    """A dial that flips a bit of every byte of the container file in this range."""

    def flip(item: FileRange, answer: bytes) -> bytes:
        changed = bytearray(answer)
        for position in range(max(start, item.offset), min(stop, item.offset + len(answer))):
            changed[position - item.offset] ^= 1
        return bytes(changed)

    return flip


@pytest.mark.parametrize("place", [(0, 4), (12, 16), (48, 60), (100_000, 100_001), (233_400, 240_000)])
@pytest.mark.parametrize("spoilt", [1, 7])
@pytest.mark.usefixtures("patient")
def test_shares_that_lie_are_dropped_and_named(
    stored: tuple[LocalGrid, ChkCap, bytes], place: tuple[int, int], spoilt: int
) -> None:
    local, cap, data = stored
    for shnum in range(spoilt):
        local.dials[holder(local, shnum)].flip = flip_at(*place)  # type: ignore[assignment]
    out, done = get(local, cap)
    assert out == data
    assert done.corrupt
    assert {bad.shnum for bad in done.corrupt} <= set(range(spoilt))


def test_eight_shares_that_lie(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    local, cap, _ = stored
    for shnum in range(8):
        local.dials[holder(local, shnum)].flip = flip_at(50, 60)  # type: ignore[assignment]
    with pytest.raises(NotRecoverable, match="found 2, need 3 \\(8 corrupt\\)"):
        get(local, cap)


def test_each_share_has_one_bad_block_elsewhere(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    """A bad block spoils that block alone: with 6 segments and 10 shares the file is still there."""
    local, cap, data = stored
    block = 131073 // 3
    for shnum in range(10):
        at = 12 + 36 + (shnum % 6) * block + 5
        local.dials[holder(local, shnum)].flip = flip_at(at, at + 1)  # type: ignore[assignment]
    assert get(local, cap)[0] == data


@pytest.mark.usefixtures("patient")
def test_short_answers(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    local, cap, data = stored
    local.dials[holder(local, 0)].flip = lambda item, answer: answer[: item.length // 2]
    local.dials[holder(local, 1)].flip = lambda item, answer: b""
    out, done = get(local, cap)
    assert out == data
    assert len(done.corrupt) == 2


def test_a_server_that_dies_half_way(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    local, cap, data = stored
    for shnum in range(3):
        dial = local.dials[holder(local, shnum)]
        reads: list[str] = []

        def die(name: str, dial: object = dial, reads: list[str] = reads) -> None:
            reads.append(name)
            dial.dead = reads.count("read") > 3  # type: ignore[attr-defined]

        dial.before = die
    out, done = get(local, cap)
    assert out == data
    assert len(done.silent) >= 1


def test_a_server_that_hangs_gets_company(
    stored: tuple[LocalGrid, ChkCap, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_module, "_HEDGE_SECONDS", 0.3)
    local, cap, data = stored
    for shnum in range(3):
        dial = local.dials[holder(local, shnum)]
        reads: list[str] = []

        def hang(name: str, dial: object = dial, reads: list[str] = reads) -> None:
            reads.append(name)
            if reads.count("read") > 3:
                dial.hang = threading.Event()  # type: ignore[attr-defined]

        dial.before = hang
    assert get(local, cap)[0] == data


def test_servers_that_never_answer_are_not_waited_for(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    local, cap, data = stored
    for index in range(7):
        local.dials[index].hang = threading.Event()
    assert get(local, cap)[0] == data


def test_two_shares_on_one_server(tmp_path: Path) -> None:
    local = LocalGrid(tmp_path, 2)
    data = content(SIZE)
    with local.grid() as grid:
        done = upload(grid, data, writing(Encoding(4, 2, 6, 65536)))
    assert isinstance(done.cap, ChkCap)
    assert get(local, done.cap)[0] == data
    local.close()


def test_a_copy_of_a_share_on_another_server_serves_as_well(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    """Only shares 0, 1 and 2 exist, each twice; the first copy of each is corrupt somewhere."""
    local, cap, data = stored
    kept = {shnum: holder(local, shnum) for shnum in range(3)}
    paths = {int(path.name): path for path in local.share_files()}
    for shnum in range(3):
        other = (kept[shnum] + 1) % 10
        target = local.root(other) / paths[shnum].relative_to(local.root(kept[shnum]))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.write_bytes(paths[shnum].read_bytes())
        broken = bytearray(paths[shnum].read_bytes())
        broken[100 + 50_000 * shnum] ^= 1
        paths[shnum].write_bytes(broken)
    for shnum in range(3, 10):
        paths[shnum].unlink()
    out, done = get(local, cap)
    assert out == data
    assert {bad.shnum for bad in done.corrupt} <= {0, 1, 2}


def test_the_ciphertext_needs_no_key(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    local, cap, data = stored
    with local.grid() as grid, Codec() as codec:
        fetch = SegmentFetch(grid, cap.verify_cap(), 0, cap.size, Progress(), None)
        pieces = [(offset, bytes(piece)) for offset, piece in fetch.run(codec)]
    assert [offset for offset, _ in pieces] == list(range(0, SIZE, 131073))
    assert AesCtr(cap.key).update(b"".join(piece for _, piece in pieces)) == data


def test_files_are_closed_after_use(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    import os

    local, cap, _ = stored
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(3):
        get(local, cap)
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before + 1


@pytest.mark.usefixtures("patient")
def test_only_the_servers_that_are_needed_are_connected(stored: tuple[LocalGrid, ChkCap, bytes]) -> None:
    """Shares 0, 1 and 2 lie on the first three servers in permuted order. Where one fails, the next is asked."""
    local, cap, data = stored
    connected: set[str] = set()

    def note(name: str) -> Callable[[str], None]:
        return lambda _: connected.add(name)

    for index, dial in enumerate(local.dials):
        dial.before = note(f"s{index}")
    assert get(local, cap)[0] == data
    first = {f"s{holder(local, shnum)}" for shnum in range(3)}
    assert connected == first
    connected.clear()
    local.dials[holder(local, 1)].dead = True
    assert get(local, cap)[0] == data
    assert connected == first | {f"s{holder(local, 3)}"}


def test_no_two_blocks_of_a_segment_are_read_into_the_same_place() -> None:
    room = [memoryview(bytearray(30)), memoryview(bytearray(30))]
    segment = Segment(0, room[0])
    for number, primary in enumerate((2, None, 0, None, None)):
        place = segment.place(primary, 10, lambda: room[1])
        assert place is not None
        place[:] = bytes([number + 1]) * 10
    assert bytes(room[0]) == 10 * b"\3" + bytes(10) + 10 * b"\1"
    assert bytes(room[1]) == 10 * b"\2" + 10 * b"\4" + 10 * b"\5"
    assert segment.place(None, 10, lambda: room[1]) is None


@pytest.mark.parametrize("lost", [[], [0, 1, 2], [1]])
@pytest.mark.usefixtures("patient")
def test_few_buffers_serve_for_any_number_of_segments(
    stored: tuple[LocalGrid, ChkCap, bytes], monkeypatch: pytest.MonkeyPatch, lost: list[int]
) -> None:
    local, cap, data = stored
    monkeypatch.setattr(fetch_module, "_AHEAD_BYTES", 1)
    for shnum in lost:
        local.dials[holder(local, shnum)].dead = True
    made = []
    usual = SegmentFetch._new_buffer

    def noted(fetch: SegmentFetch) -> memoryview:
        made.append(usual(fetch))
        return made[-1]

    monkeypatch.setattr(SegmentFetch, "_new_buffer", noted)
    assert get(local, cap)[0] == data
    # two segments are under way, besides the one that is being written
    assert len({id(buffer.obj) for buffer in made}) <= (6 if lost else 3)


@pytest.mark.usefixtures("patient")
def test_a_liar_is_found_where_only_the_segment_as_a_whole_was_proved(
    stored: tuple[LocalGrid, ChkCap, bytes],
) -> None:
    """Two of three shares lie in the same segment: both are named, and the bytes are right."""
    local, cap, data = stored
    for shnum in (0, 2):
        local.dials[holder(local, shnum)].flip = flip_at(100_000, 100_003)  # type: ignore[assignment]
    out, done = get(local, cap)
    assert out == data
    assert {bad.shnum for bad in done.corrupt} == {0, 2}
    assert all(bad.reason.startswith("block 2") for bad in done.corrupt)
