"""An upload that was interrupted goes on: only what is missing is sent, and nothing staged is believed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.errors import LafsError, NotHappy
from lafscli.formats.caps import ChkCap
from lafscli.immutable import pipeline
from lafscli.immutable.download import download
from lafscli.immutable.upload import Uploaded, Writing, upload
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32decode
from lafscli.storage.journal import Journal, Staged
from lafscli.storage.store import Progress
from tests.grids import LocalGrid, content, writing

SIZE = 12_000_000


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints often enough for small files."""
    monkeypatch.setattr(pipeline, "_CHECKPOINT_BYTES", 500_000)
    monkeypatch.setattr("lafscli.immutable.resume._SAVE_SECONDS", 0.0)


@pytest.fixture
def ten(tmp_path: Path) -> Iterator[LocalGrid]:
    grid = LocalGrid(tmp_path / "grid")
    yield grid
    grid.close()


def journaled(tmp_path: Path) -> Writing:
    return replace(writing(), journal=Journal(tmp_path / "uploads"))


class Interrupt(Progress):
    """SIGINT, as the command line has it, after so many bytes."""

    def __init__(self, after: int) -> None:
        self.left = after

    def start(self, phase: str, total: int | None) -> None:
        self.put = phase == "put"

    def advance(self, count: int) -> None:
        self.left -= count if self.put else 0
        if self.left < 0:
            raise KeyboardInterrupt


class Count(Progress):
    """Bytes that were sent."""

    def __init__(self) -> None:
        self.sent = 0
        self._lock = threading.Lock()

    def server(self, name: str, count: int) -> None:
        with self._lock:
            self.sent += count


def interrupted(ten: LocalGrid, tmp_path: Path, after: int = 9_000_000) -> None:
    with ten.grid() as grid, pytest.raises(KeyboardInterrupt):
        upload(grid, content(SIZE), journaled(tmp_path), Interrupt(after))
    ten.close()
    assert ten.shares() == {}
    assert len(ten.staged()) == 10


def again(ten: LocalGrid, tmp_path: Path) -> tuple[Uploaded, int]:
    count = Count()
    with ten.grid() as grid:
        done = upload(grid, content(SIZE), journaled(tmp_path), count)
    assert isinstance(done.cap, ChkCap)
    out = bytearray()
    with ten.grid() as grid:
        download(grid, done.cap, out.extend)
    assert out == content(SIZE)
    assert ten.staged() == []
    assert list((tmp_path / "uploads").iterdir()) == []
    assert sorted(n for numbers in ten.shares().values() for n in numbers) == list(range(10))
    return done, count.sent


def test_the_next_put_sends_only_what_is_missing(ten: LocalGrid, tmp_path: Path) -> None:
    interrupted(ten, tmp_path)
    done, sent = again(ten, tmp_path)
    assert done.resumed_bytes > 10 * 500_000  # the queue of a server holds five blocks, a checkpoint comes each 0.5 MB
    assert sent + done.resumed_bytes == pytest.approx(10 * SIZE / 3, rel=0.01)


def test_a_staged_file_that_goes_on_behind_what_is_durable_is_cut(ten: LocalGrid, tmp_path: Path) -> None:
    interrupted(ten, tmp_path)
    for path in ten.staged():
        with path.open("ab") as file:
            file.write(b"torn write" * 1000)
    done, _ = again(ten, tmp_path)
    assert done.resumed_bytes > 0


@pytest.mark.parametrize("where", [12, 12 + 1_000, -1])
def test_a_flipped_byte_is_found_and_all_is_sent_anew(ten: LocalGrid, tmp_path: Path, where: int) -> None:
    """The end of what is durable is always compared. These shares are short enough for random pieces to cover most."""
    interrupted(ten, tmp_path)
    [record] = (tmp_path / "uploads").iterdir()
    text = record.read_text()
    journal = Journal(tmp_path / "uploads")
    with journal.begin(b32decode(record.name)) as held:  # type: ignore[union-attr]
        [first, *_] = sorted(held.staged)
        staged = held.staged[first]
    record.write_text(text)
    path = ten.base / staged.server / staged.name
    data = bytearray(path.read_bytes())
    data[12 + staged.offset - 1 if where == -1 else where] ^= 1
    path.write_bytes(data)
    done, sent = again(ten, tmp_path)
    if where == -1 or done.resumed_bytes == 0:
        assert done.resumed_bytes == 0
        assert sent >= 10 * SIZE / 3


@pytest.mark.parametrize("damage", ["gone", "short", "empty", "folder", "share is there"])
def test_what_can_t_be_gone_on_with_is_begun_anew(ten: LocalGrid, tmp_path: Path, damage: str) -> None:
    interrupted(ten, tmp_path)
    [path, *_] = ten.staged()
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        with path.open("r+b") as file:
            file.truncate(1000)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "folder":
        path.unlink()
        path.mkdir()
        (path.parent / path.name).rmdir()
    else:
        other = LocalGrid(tmp_path / "other")
        with other.grid() as grid:
            upload(grid, content(SIZE), writing())
        shnum = path.name.split(".")[1]
        source = next(p for p in other.share_files() if p.name == shnum)
        target = ten.base / source.relative_to(other.base)
        target.parent.mkdir(parents=True)
        target.hardlink_to(path)  # as a rename leaves it that is link and unlink, and was killed in between
        path.write_bytes(source.read_bytes())
        other.close()
    done, _ = again(ten, tmp_path)
    assert done.resumed_bytes > 0


def test_a_server_that_is_gone_meanwhile(ten: LocalGrid, tmp_path: Path) -> None:
    interrupted(ten, tmp_path)
    ten.dials[3].dead = True
    with ten.grid() as grid:
        done = upload(grid, content(SIZE), journaled(tmp_path))
    assert done.resumed_bytes > 0
    assert sorted(done.placement) == list(range(10))


def test_a_failed_upload_leaves_nothing_to_go_on_with(ten: LocalGrid, tmp_path: Path) -> None:
    for index in range(4):
        ten.dials[index].full_after = 2_000_000
    with ten.grid() as grid, pytest.raises(NotHappy):
        upload(grid, content(SIZE), journaled(tmp_path))
    assert ten.staged() == []
    assert list((tmp_path / "uploads").iterdir()) == []


def test_two_at_once_only_one_resumes(ten: LocalGrid, tmp_path: Path) -> None:
    interrupted(ten, tmp_path)
    results: list[Uploaded | LafsError] = []
    barrier = threading.Barrier(2)

    def put() -> None:
        barrier.wait()
        with ten.grid() as grid:
            try:
                results.append(upload(grid, content(SIZE), journaled(tmp_path)))
            except LafsError as error:
                results.append(error)

    threads = [threading.Thread(target=put) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = results
    assert isinstance(one, Uploaded)
    assert isinstance(two, Uploaded)
    assert one.cap == two.cap
    assert ten.staged() == []
    assert sorted(n for numbers in ten.shares().values() for n in numbers) == list(range(10))


def test_other_encodings_and_random_keys_do_not_resume(ten: LocalGrid, tmp_path: Path) -> None:
    interrupted(ten, tmp_path)
    with ten.grid() as grid:
        other = upload(grid, content(SIZE), replace(journaled(tmp_path), encoding=Encoding(2, 7, 10)))
        free = upload(grid, content(SIZE), replace(journaled(tmp_path), convergence=None))
    assert other.resumed_bytes == free.resumed_bytes == 0
    assert len(ten.staged()) == 10


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 2, "shares": {}}',
        '{"version": 1, "shares": []}',
        '{"version": 1, "shares": {"0": {"server": "s0", "staged": "../../x", "offset": 1}}}',
        '{"version": 1, "shares": {"0": {"server": "s0", "staged": "shares/aa/bb/0", "offset": 1}}}',
        '{"version": 1, "shares": {"0": {"server": "s0", "offset": 1}}}',
    ],
)
def test_a_broken_record_says_nothing(tmp_path: Path, text: str) -> None:
    journal = Journal(tmp_path / "uploads")
    with journal.begin(bytes(16)) as record:  # type: ignore[union-attr]
        record.staged[0] = Staged("s0", "staging/" + "a" * 26 + ".0." + "b" * 26, 5)
        record.save()
    [path] = (tmp_path / "uploads").iterdir()
    with journal.begin(bytes(16)) as record:  # type: ignore[union-attr]
        assert record.staged[0].offset == 5
        assert journal.begin(bytes(16)) is None
        assert journal.running() == [path.name]
    path.write_text(text)
    with journal.begin(bytes(16)) as record:  # type: ignore[union-attr]
        assert record.staged == {}
    assert journal.running() == []


def test_where_nothing_can_be_written_there_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Journal(tmp_path / "file" / "uploads").begin(bytes(16)) is None
