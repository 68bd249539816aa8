"""The contract of `Files`, run: subclass it and give the fixtures `root` (the server's folder) and `files`.

`offers` says which extensions are there; what a server lacks must be answered, not tried.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.errors import FileDenied, FileError, FileMissing, NotSupported, ServerUnreachable
from lafscli.storage.store import (
    DirEntry,
    FileRange,
    Files,
    FileStat,
    Link,
    List,
    Mkdir,
    NewFile,
    Op,
    Patch,
    Remove,
    Rename,
    Replace,
    Rmdir,
    Space,
    Stat,
    Touch,
    Truncate,
)

ALL = frozenset(
    {"posix-rename@openssh.com", "fsync@openssh.com", "hardlink@openssh.com", "statvfs@openssh.com"},
)
BIG = random.Random(1).randbytes(3_000_000)


def write(files: Files, path: str, data: bytes, *, pieces: int = 1) -> None:
    writer = files.create(path)
    step = max(1, -(-len(data) // pieces))
    for start in range(0, len(data), step):
        writer.write(data[start : start + step])
    writer.close(sync=True)


def read(files: Files, wanted: Sequence[FileRange]) -> list[bytes | FileError]:
    return [item if isinstance(item, FileError) else bytes(item) for item in files.read(wanted).finish()]


class FilesContract:
    """What every folder tree promises."""

    offers = ALL
    # ---- names

    def test_what_it_offers(self, files: Files) -> None:
        assert files.connect() & ALL == self.offers

    def test_stat_tells_kind_size_and_time(self, files: Files, root: Path) -> None:
        (root / "file").write_bytes(b"12345")
        os.utime(root / "file", (1_000_000, 1_234_567))
        (root / "folder").mkdir()
        (root / "link").symlink_to("file")
        (root / "dangling").symlink_to("nowhere")
        os.mkfifo(root / "pipe")
        answers = files.do([Stat(name) for name in ("file", "folder", "link", "dangling", "pipe", "none", "")])
        assert answers[0] == FileStat("file", 5, 1_234_567)
        kinds = [answer.kind if isinstance(answer, FileStat) else type(answer) for answer in answers]
        assert kinds == ["file", "dir", "link", "link", "other", FileMissing, "dir"]

    def test_a_failed_op_stops_none_after_it(self, files: Files, root: Path) -> None:
        answers = files.do(
            [Mkdir("a"), Mkdir("a"), Mkdir("no/b"), Mkdir("a/b"), Rmdir("a"), Remove("a/c"), Rmdir("a/b"), Stat("a")]
        )
        assert [answer is None for answer in answers[:-1]] == [True, False, False, True, False, False, True]
        assert isinstance(answers[1], FileError)
        assert isinstance(answers[2], FileMissing)
        assert isinstance(answers[5], FileMissing)
        assert isinstance(answers[7], FileStat)
        assert stat.S_IMODE((root / "a").stat().st_mode) == 0o700

    def test_errors_name_the_path(self, files: Files) -> None:
        [answer] = files.do([Stat("shares/aa/none")])
        assert isinstance(answer, FileMissing)
        assert str(answer).startswith("shares/aa/none: no such file")

    def test_a_batch_larger_than_any_window(self, files: Files, root: Path) -> None:
        ops: list[Op] = [Mkdir(f"f{number}") for number in range(1000)]
        assert files.do(ops) == [None] * 1000
        answers = files.do([Stat(f"f{number}") for number in range(2000)])
        assert [isinstance(answer, FileStat) for answer in answers] == [True] * 1000 + [False] * 1000
        assert len(list(root.iterdir())) == 1000

    def test_rename_moves_and_never_overwrites(self, files: Files, root: Path) -> None:
        (root / "old").write_bytes(b"old")
        (root / "new").write_bytes(b"new")
        (root / "full").mkdir()
        (root / "full/x").touch()
        (root / "folder").mkdir()
        (root / "folder/y").touch()
        answers = files.do([Rename("old", "new"), Rename("folder", "full"), Rename("old", "full"), Rename("gone", "x")])
        assert all(isinstance(answer, FileError) for answer in answers)
        assert isinstance(answers[3], FileMissing)
        assert (root / "new").read_bytes() == b"new"
        assert (root / "old").read_bytes() == b"old"
        assert files.do([Rename("old", "folder/moved"), Rename("folder", "away")]) == [None, None]
        assert (root / "away/moved").read_bytes() == b"old"
        assert not (root / "old").exists()
        assert not (root / "folder").exists()

    def test_replace_overwrites_where_it_is_offered(self, files: Files, root: Path) -> None:
        (root / "old").write_bytes(b"old")
        (root / "new").write_bytes(b"new")
        [answer] = files.do([Replace("old", "new")])
        if "posix-rename@openssh.com" in self.offers:
            assert answer is None
            assert (root / "new").read_bytes() == b"old"
            assert not (root / "old").exists()
        else:
            assert isinstance(answer, NotSupported)
            assert (root / "new").read_bytes() == b"new"

    def test_link_where_it_is_offered(self, files: Files, root: Path) -> None:
        (root / "old").write_bytes(b"old")
        (root / "taken").write_bytes(b"taken")
        answers = files.do([Link("old", "new"), Link("old", "taken")])
        assert (root / "taken").read_bytes() == b"taken"
        if "hardlink@openssh.com" in self.offers:
            assert answers[0] is None
            assert isinstance(answers[1], FileError)
            assert (root / "new").samefile(root / "old")
        else:
            assert [type(answer) for answer in answers] == [NotSupported, NotSupported]

    def test_touch_and_truncate(self, files: Files, root: Path) -> None:
        (root / "file").write_bytes(b"0123456789")
        assert files.do([Truncate("file", 4), Touch("file", 1_000_000_000)]) == [None, None]
        assert (root / "file").read_bytes() == b"0123"
        assert (root / "file").stat().st_mtime == 1_000_000_000
        assert all(isinstance(answer, FileMissing) for answer in files.do([Truncate("no", 4), Touch("no", 4)]))

    def test_patches(self, files: Files, root: Path) -> None:
        for number in range(30):
            (root / f"f{number}").write_bytes(b"0123456789")
        patches: list[Op] = [Patch(f"f{number}", number % 8, b"ab") for number in range(30)]
        answers = files.do([Stat("f0"), *patches, Patch("no", 0, b"x"), Stat("f1")])
        assert answers[1:31] == [None] * 30
        assert isinstance(answers[31], FileMissing)
        assert not (root / "no").exists()
        for number in range(30):
            at = number % 8
            assert (root / f"f{number}").read_bytes() == b"0123456789"[:at] + b"ab" + b"0123456789"[at + 2 :]

    def test_files_are_made_in_the_order_of_the_batch(self, files: Files, root: Path) -> None:
        """A file is filled though it was moved meanwhile; everything behind it sees that it is there."""
        (root / "taken").write_bytes(b"mine")
        ops: list[Op] = [
            *(Mkdir("a"), NewFile("a/f", [b"one", b"", b"two"], sync=True), NewFile("taken", [b"x"]), Rename("a", "b")),
            *(List("b"), NewFile("none/x", [b"x"]), Stat("b/f"), NewFile("b/empty", []), List("none"), Stat("a/f")),
            *(NewFile("big", [BIG]), Remove("taken"), NewFile("taken", [b"new"])),
        ]
        answers = files.do(ops)
        refused = [index for index, answer in enumerate(answers) if isinstance(answer, FileError)]
        assert refused == [2, 5, 8, 9]
        assert [type(answers[index]) for index in (5, 8, 9)] == [FileMissing] * 3
        listed, seen = answers[4], answers[6]
        assert isinstance(listed, list)
        assert {entry.name for entry in listed} - {"empty"} == {"f"}
        assert isinstance(seen, FileStat)
        assert all(answers[index] is None for index in (0, 1, 3, 7, 10, 11, 12))
        assert (root / "b/f").read_bytes() == b"onetwo"
        assert (root / "b/empty").read_bytes() == b""
        assert (root / "big").read_bytes() == BIG
        assert (root / "taken").read_bytes() == b"new"
        assert stat.S_IMODE((root / "b/f").stat().st_mode) == 0o600

    def test_a_look_at_what_was_written(self, files: Files, root: Path) -> None:
        new = [NewFile(f"f{number}", [BIG[:number]], sync=number % 2 == 0, stat=True) for number in range(500)]
        stats = files.do(new)
        assert [answer.size for answer in stats if isinstance(answer, FileStat)] == list(range(500))
        assert len(list(root.iterdir())) == 500
        answers = files.do(
            [NewFile("none/x", [], stat=True), NewFile("f1", [], stat=True), NewFile("x", [], stat=True)]
        )
        assert [isinstance(answer, FileError) for answer in answers] == [True, True, False]

    def test_many_listings_in_a_batch(self, files: Files, root: Path) -> None:
        ops: list[Op] = []
        for number in range(300):
            ops += [
                Mkdir(f"d{number}"),
                NewFile(f"d{number}/{number}", [b"x"]),
                List(f"d{number}"),
                List(f"d{number}", 0),
            ]
        answers = files.do(ops)
        for number in range(300):
            listed, refused = answers[4 * number + 2 : 4 * number + 4]
            assert isinstance(listed, list)
            assert [entry.name for entry in listed] == [str(number)]
            assert isinstance(refused, FileError)
            assert "more than 0 names" in str(refused)

    def test_reading_behind_a_batch(self, files: Files, root: Path) -> None:
        """What is read are the files as the batch left them, and as they were when it was done."""
        (root / "old").write_bytes(b"old")
        (root / "new").write_bytes(b"new")
        ops: list[Op] = [Remove("old"), Rename("new", "old"), Stat("old")]
        (*moved, there), reading = files.do_and_read(ops, [FileRange("old", 0, 9), FileRange("new", 0, 9)])
        assert moved == [None, None]
        assert isinstance(there, FileStat)
        old, new = reading.finish()
        assert old == b"new"
        assert isinstance(new, FileMissing)
        _, reading = files.do_and_read([Stat("old")], [FileRange("old", 0, 9)] * 300)
        assert files.do([Mkdir("between")]) == [None]
        assert reading.finish() == [b"new"] * 300
        assert files.do_and_read([], [])[0] == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is denied to root")
    def test_denied(self, files: Files, root: Path) -> None:
        (root / "closed").mkdir()
        (root / "closed").chmod(0o500)
        assert isinstance(files.do([Mkdir("closed/x")])[0], FileDenied)
        with pytest.raises(FileDenied):
            files.create("closed/file")

    # ---- listings

    def test_listing_tells_names_and_attributes(self, files: Files, root: Path) -> None:
        (root / "d/sub").mkdir(parents=True)
        (root / "d/file").write_bytes(b"12")
        os.utime(root / "d/file", (5, 7))
        (root / "d/link").symlink_to("file")
        (root / "empty").mkdir()
        found, empty, missing, no_folder = files.listing(["d", "empty", "none", "d/file"])
        assert isinstance(found, list)
        assert {entry.name: entry.stat.kind for entry in found} == {"sub": "dir", "file": "file", "link": "link"}
        assert DirEntry("file", FileStat("file", 2, 7)) in found
        assert empty == []
        assert isinstance(missing, FileMissing)
        assert isinstance(no_folder, FileError)
        top = files.listing([""])[0]
        assert isinstance(top, list)
        assert {entry.name for entry in top} == {"d", "empty"}

    def test_names_that_are_not_utf8(self, files: Files, root: Path) -> None:
        with open(os.fsencode(root) + b"/caf\xe9", "wb") as file:
            file.write(b"1")
        (root / "日本").touch()
        [found] = files.listing([""])
        assert isinstance(found, list)
        assert {entry.name for entry in found} == {"caf\udce9", "日本"}
        assert files.do([Remove(entry.name) for entry in found]) == [None, None]
        assert list(root.iterdir()) == []

    def test_large_and_many_folders(self, files: Files, root: Path) -> None:
        (root / "large").mkdir()
        for number in range(3000):
            (root / f"large/{number}").touch()
        for number in range(300):
            (root / f"small{number}").mkdir()
            (root / f"small{number}/{number}").touch()
        answers = files.listing(["large", *(f"small{number}" for number in range(301))])
        names = [{entry.name for entry in answer} for answer in answers if isinstance(answer, list)]
        assert names == [{str(number) for number in range(3000)}, *({str(number)} for number in range(300))]
        assert isinstance(answers[-1], FileMissing)
        refused, small = files.listing(["large", "small7"], most=1000)
        assert isinstance(refused, FileError)
        assert "more than 1000 names" in str(refused)
        assert isinstance(small, list)

    # ---- writing

    @pytest.mark.parametrize("pieces", [1, 7, 1000])
    @pytest.mark.parametrize("size", [0, 1, 32768, 261_121, len(BIG)])
    def test_what_is_written_is_there(self, files: Files, root: Path, size: int, pieces: int) -> None:
        write(files, "file", BIG[:size], pieces=pieces)
        assert (root / "file").read_bytes() == BIG[:size]
        assert stat.S_IMODE((root / "file").stat().st_mode) == 0o600

    def test_create_is_exclusive(self, files: Files, root: Path) -> None:
        (root / "file").write_bytes(b"mine")
        (root / "link").symlink_to("elsewhere")
        for name in ("file", "link"):
            with pytest.raises(FileError):
                files.create(name)
        with pytest.raises(FileMissing):
            files.create("none/file")
        assert (root / "file").read_bytes() == b"mine"
        assert not (root / "elsewhere").exists()

    def test_write_at_keeps_the_end(self, files: Files, root: Path) -> None:
        writer = files.create("file")
        writer.write(b"head....")
        writer.write(BIG[:500_000])
        writer.write_at(0, b"HEAD")
        writer.write(b"tail")
        writer.write_at(8, BIG[1000:400_000])
        writer.flush()
        expected = b"HEAD...." + BIG[1000:400_000] + BIG[399_000:500_000] + b"tail"
        assert (root / "file").read_bytes() == expected
        writer.close(sync=False)
        assert (root / "file").read_bytes() == expected

    def test_after_flush_buffers_may_change(self, files: Files, root: Path) -> None:
        writer = files.create("file")
        buffer = bytearray(b"a" * 400_000)
        writer.write(buffer)
        writer.flush()
        buffer[:] = b"b" * 400_000
        writer.write(memoryview(buffer)[:10])
        writer.close(sync=False)
        assert (root / "file").read_bytes() == b"a" * 400_000 + b"b" * 10

    def test_open_existing_overwrites_and_appends(self, files: Files, root: Path) -> None:
        (root / "file").write_bytes(b"0123456789")
        writer = files.open_existing("file")
        writer.write_at(2, b"xx")
        writer.write(b"end")
        writer.close(sync=True)
        assert (root / "file").read_bytes() == b"01xx456789end"
        with pytest.raises(FileMissing):
            files.open_existing("none")

    def test_appending_goes_to_the_end_of_the_moment(self, files: Files, root: Path) -> None:
        """Two that append at once lose nothing of each other."""
        (root / "file").write_bytes(b"start ")
        first = files.open_existing("file", append=True)
        with (root / "file").open("ab") as other:
            other.write(b"other ")
        first.write(b"first")
        first.close(sync=True)
        assert (root / "file").read_bytes() == b"start other first"
        with pytest.raises(FileMissing):
            files.open_existing("none", append=True)
        assert not (root / "none").exists()

    def test_two_writers_at_once(self, files: Files, root: Path) -> None:
        one, two = files.create("one"), files.create("two")
        for start in range(0, len(BIG), 100_000):
            one.write(BIG[start : start + 100_000])
            two.write(BIG[start : start + 50_000])
        two.close(sync=False)
        one.close(sync=False)
        assert (root / "one").read_bytes() == BIG
        assert (root / "two").read_bytes() == b"".join(BIG[s : s + 50_000] for s in range(0, len(BIG), 100_000))

    def test_abandoned_file_stays_and_nothing_else_suffers(self, files: Files, root: Path) -> None:
        writer = files.create("file")
        writer.write(BIG)
        writer.abandon()
        writer.abandon()
        assert isinstance(files.do([Stat("file")])[0], FileStat)
        assert files.do([Remove("file")]) == [None]

    def test_many_small_files(self, files: Files, root: Path) -> None:
        (root / "taken").write_bytes(b"mine")
        new = [NewFile(f"f{number}", [BIG[:number], b"", bytearray(b"."), BIG[:7]]) for number in range(700)]
        new[3:3] = [NewFile("taken", [b"x"]), NewFile("none/file", [b"x"]), NewFile("empty", [])]
        new.append(NewFile("long", [BIG[:100_000], memoryview(BIG)[:500_000]]))
        for sync in (True, False):
            outcomes = files.create_many(new, sync=sync)
            assert isinstance(outcomes[3], FileError)
            assert isinstance(outcomes[4], FileMissing)
            assert [outcome for outcome in outcomes if outcome] == outcomes[3:5]
            for file in [*new[:3], *new[5:]]:
                assert (root / file.path).read_bytes() == b"".join(file.parts)
            assert (root / "taken").read_bytes() == b"mine"
            files.do([Remove(file.path) for file in new[:3] + new[5:]])
            looked = files.create_many([replace(file, stat=True) for file in new], sync=sync)
            sizes = [stat.size for stat in looked if isinstance(stat, FileStat)]
            assert sizes == [sum(map(len, file.parts)) for file in new[:3] + new[5:]]
            files.do([Remove(file.path) for file in new[:3] + new[5:]])
        assert files.create_many([], sync=True) == []

    # ---- reading

    def test_ranges_in_the_order_asked(self, files: Files, root: Path) -> None:
        (root / "file").write_bytes(BIG)
        (root / "other").write_bytes(b"other")
        answers = read(
            files,
            [
                FileRange("file", 1_000_000, 700_000),
                FileRange("none", 0, 10),
                FileRange("other", 1, 3),
                FileRange("file", 0, 0),
                FileRange("file", 2_999_990, 300_000),
                FileRange("file", 5_000_000, 10),
                FileRange("file", 0, 4_000_000),
                FileRange("other", 0, 65536),
            ],
        )
        assert answers[0] == BIG[1_000_000:1_700_000]
        assert isinstance(answers[1], FileMissing)
        assert answers[2:6] == [b"the", b"", BIG[-10:], b""]
        assert answers[6:] == [BIG, b"other"]

    def test_reading_straight_into_buffers(self, files: Files, root: Path) -> None:
        (root / "file").write_bytes(BIG)
        target = bytearray(1_000_000)
        view = memoryview(target)
        wanted = [
            FileRange("file", 100, 600_000, into=view[:600_000]),
            FileRange("file", len(BIG) - 5, 400_000, into=view[600_000:]),
        ]
        one, two = files.read(wanted).finish()
        assert bytes(target[:600_005]) == BIG[100:600_100] + BIG[-5:]
        assert isinstance(one, memoryview)
        assert isinstance(two, memoryview)
        assert len(one) == 600_000
        target[0] = one[0] ^ 1
        target[600_000] = two[0] ^ 1
        assert one[0] == target[0]
        assert two[0] == target[600_000]
        assert len(two) == 5

    def test_several_readings_under_way(self, files: Files, root: Path) -> None:
        (root / "file").write_bytes(BIG)
        readings = [files.read([FileRange("file", start, 300_000, keep=True)]) for start in range(0, len(BIG), 300_000)]
        assert files.do([Mkdir("between")]) == [None]
        answers = [reading.finish()[0] for reading in readings]
        assert b"".join(bytes(answer) for answer in answers if not isinstance(answer, FileError)) == BIG
        assert bytes(readings[0].finish()[0]) == BIG[:300_000]  # type: ignore[arg-type]

    def test_a_kept_file_is_not_looked_up_again_until_released(self, files: Files, root: Path) -> None:
        (root / "file").write_bytes(b"first")
        assert read(files, [FileRange("file", 0, 3, keep=True)]) == [b"fir"]
        (root / "file").unlink()
        (root / "file").write_bytes(b"second")
        assert read(files, [FileRange("file", 1, 9)]) == [b"irst"]
        files.release("file")
        files.release("never opened")
        assert read(files, [FileRange("file", 0, 9)]) == [b"second"]

    def test_many_kept_files(self, files: Files, root: Path) -> None:
        for number in range(600):
            (root / str(number)).write_bytes(b"%d" % number)
        wanted = [FileRange(str(number), 0, 100, keep=True) for number in range(600)]
        for _ in range(2):
            assert read(files, wanted) == [b"%d" % number for number in range(600)]

    def test_a_folder_is_not_read(self, files: Files, root: Path) -> None:
        (root / "folder").mkdir()
        [answer] = read(files, [FileRange("folder", 0, 10)])
        assert isinstance(answer, FileError)

    # ---- the rest

    def test_space(self, files: Files) -> None:
        space = files.space()
        if "statvfs@openssh.com" in self.offers:
            assert isinstance(space, Space)
            assert 0 < space.free <= space.total
        else:
            assert space is None

    def test_a_vanished_root_is_an_answer(self, files: Files, root: Path) -> None:
        files.connect()
        root.rmdir()
        assert isinstance(files.do([Stat("shares")])[0], FileMissing)
        assert isinstance(files.listing(["shares"])[0], FileMissing)
        assert isinstance(read(files, [FileRange("shares/x", 0, 5)])[0], FileMissing)
        assert isinstance(files.create_many([NewFile("x", [b"x"])], sync=True)[0], FileMissing)
        with pytest.raises(FileMissing):
            files.create("x")
        assert files.space() is None

    def test_closed_is_closed(self, files: Files, root: Path) -> None:
        (root / "file").write_bytes(b"12345")
        read(files, [FileRange("file", 0, 3, keep=True)])
        writer = files.create("new")
        files.close()
        files.close()
        for call in (files.connect, files.space, lambda: files.do([Stat("")]), lambda: files.listing([""])):
            with pytest.raises(ServerUnreachable):
                call()
        writer.abandon()
