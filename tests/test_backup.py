"""Backups of local trees, and the way back (spec 07)."""

from __future__ import annotations

import base64
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lafscli.backup import snapshots as snapshots_module
from lafscli.backup.database import Database, Row
from lafscli.backup.excludes import Excludes
from lafscli.backup.landing import Landing, Rights
from lafscli.backup.names import grid_names
from lafscli.backup.scan import Scan
from lafscli.backup.selecting import Selecting
from lafscli.backup.snapshots import archives, publish, snapshots
from lafscli.errors import LafsError, NotHappy, UsageError
from lafscli.formats.caps import DirectoryCap, LitCap
from lafscli.tree.directory import NewChild, create_directory, load
from tests.grids import LocalGrid, content
from tests.keeper import Keeper
from tests.mutable_access import access_to
from tests.trees import described, every_kind


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    made = Keeper(tmp_path)
    yield made
    made.database.close()
    made.local.close()


def test_every_kind_of_entry_comes_back(keeper: Keeper) -> None:
    every_kind(keeper.source)
    cap, tally = keeper.backup()
    assert not tally.errors
    keeper.lose(range(7))
    target, done, rights = keeper.restore(cap)
    assert not done.errors
    assert described(target) == described(keeper.source)
    sparse = (target / "sparse").stat()
    assert sparse.st_blocks * 512 < sparse.st_size
    assert rights.unkept.owners == rights.unkept.attributes == 0


def test_what_is_unchanged_is_neither_read_nor_sent(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    every_kind(keeper.source)
    first, tally = keeper.backup()
    assert tally.files_unmodified == 2, "other names of two files"
    opened: list[object] = []
    true_open = os.open

    def watched(path: Any, *arguments: Any, **more: Any) -> int:
        if isinstance(path, bytes | str) and os.fsencode(path).startswith(os.fsencode(keeper.source)):
            opened.append(path)
        return true_open(path, *arguments, **more)

    monkeypatch.setattr(os, "open", watched)
    again, second = keeper.backup()
    assert again == first
    assert opened == []
    assert (second.files_new, second.files_changed, second.bytes_read, second.bytes_pushed) == (0, 0, 0, 0)
    assert second.files_unmodified == tally.files_new + tally.files_unmodified
    assert (second.dirs_new, second.dirs_reused) == (0, tally.dirs_new)


def test_what_changed_is_read_and_the_directories_around_it_made(keeper: Keeper) -> None:
    every_kind(keeper.source)
    first, _ = keeper.backup()
    (keeper.source / "deep" / "er" / "small").write_bytes(b"n" * 5000)
    (keeper.source / "new").write_bytes(b"new")
    (keeper.source / "fifo").unlink()
    cap, tally = keeper.backup()
    assert cap != first
    assert (tally.files_new, tally.files_changed) == (1, 1)
    assert tally.dirs_new == 3
    assert described(keeper.restore(cap, "second")[0]) == described(keeper.source)
    assert (keeper.restore(first, "first")[0] / "fifo").exists()


def test_a_mode_that_changed_is_kept_without_reading(keeper: Keeper) -> None:
    every_kind(keeper.source)
    keeper.backup()
    (keeper.source / "deep" / "large").chmod(0o600)
    cap, tally = keeper.backup()
    assert (tally.files_changed, tally.bytes_read) == (0, 0)
    assert described(keeper.restore(cap)[0]) == described(keeper.source)


@pytest.mark.parametrize("confirm", ["quick", "full"])
def test_what_lost_its_shares_is_stored_again(keeper: Keeper, confirm: str) -> None:
    keeper.source.mkdir()
    for number in range(8):
        (keeper.source / f"f{number}").write_bytes(content(3000, number))
    cap, tally = keeper.backup()
    for path in keeper.local.share_files():
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    again, tally = keeper.backup(confirm=confirm)
    assert again == cap
    assert tally.reuploaded_missing == 8
    assert tally.dirs_new == 1
    assert described(keeper.restore(cap)[0]) == described(keeper.source)


def test_single_shares_that_are_gone_are_found_by_a_full_look(keeper: Keeper) -> None:
    keeper.source.mkdir()
    (keeper.source / "f").write_bytes(content(3000))
    keeper.backup()
    for path in keeper.local.share_files():
        if int(path.name) < 4:
            path.unlink()
    _, tally = keeper.backup(confirm="full")
    assert tally.reuploaded_missing == 1
    assert len(keeper.local.share_files()) == 20


@pytest.mark.parametrize("how", ["gone", "damaged", "of another program", "a folder"])
def test_without_its_database_only_time_is_lost(keeper: Keeper, how: str) -> None:
    every_kind(keeper.source)
    cap, _ = keeper.backup()
    keeper.database.close()
    path = keeper.folder / "database.sqlite"
    path.unlink()
    if how == "damaged":
        path.write_bytes(b"SQLite format 3\0" + bytes(5000))
    elif how == "of another program":
        path.write_bytes(b"hello")
    elif how == "a folder":
        path.mkdir()
    keeper.database = Database(path)
    again, tally = keeper.backup()
    assert again == cap
    assert tally.files_unmodified == 2
    assert tally.files_new


def test_a_database_that_breaks_in_the_middle_is_done_without(keeper: Keeper) -> None:
    every_kind(keeper.source)
    cap, _ = keeper.backup()
    keeper.database.close()
    path = keeper.folder / "database.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    keeper.database = Database(path)
    again, _ = keeper.backup()
    assert again == cap
    keeper.database.close()
    keeper.database = Database(path)
    assert keeper.backup()[0] == cap
    assert keeper.backup()[1].bytes_read == 0


def test_a_journal_that_was_left_is_not_taken_for_that_of_the_next_file(keeper: Keeper) -> None:
    """A killed run leaves it; the file beside it was damaged. What sqlite makes of the two is right, or is not used."""
    every_kind(keeper.source)
    cap, _ = keeper.backup()
    path, journal = keeper.folder / "database.sqlite", keeper.folder / "database.sqlite-wal"
    kept = journal.read_bytes()
    keeper.database.close()
    path.write_bytes(b"hello")
    journal.write_bytes(kept)
    keeper.database = Database(path)
    assert keeper.backup()[0] == cap
    assert keeper.backup()[1].bytes_read == 0
    keeper.database.close()
    path.write_bytes(b"x" * 100_000)
    journal.write_bytes(b"")
    keeper.database = Database(path)
    assert keeper.backup()[0] == cap
    assert keeper.backup()[1].bytes_read == 0


@pytest.mark.parametrize("column", ["cap", "si", "size", "extra"])
def test_a_row_with_a_flipped_bit_is_not_believed(keeper: Keeper, column: str) -> None:
    keeper.source.mkdir()
    (keeper.source / "f").write_bytes(content(1000))
    cap, _ = keeper.backup()
    keeper.database.close()
    path = keeper.folder / "database.sqlite"
    with closing(sqlite3.connect(path)) as database:
        [(value,)] = database.execute(f"SELECT {column} FROM files WHERE cap <> ''")
        flipped = value + 1 if isinstance(value, int) else value[:-1] + "3" if value else '{"holes": [[0, 9]]}'
        database.execute(f"UPDATE files SET {column} = ?", [flipped])
        database.execute("UPDATE folders SET cap = replace(cap, 'a', 'b')")
        database.commit()
    keeper.database = Database(path)
    again, _ = keeper.backup()
    assert again == cap
    assert described(keeper.restore(again)[0]) == described(keeper.source)


def test_a_database_of_another_grid_is_of_no_use_and_of_no_harm(keeper: Keeper) -> None:
    every_kind(keeper.source)
    cap, _ = keeper.backup()
    keeper.local.close()
    keeper.local = LocalGrid(keeper.folder / "other")
    again, tally = keeper.backup()
    assert again == cap
    assert (tally.reuploaded_missing, tally.bytes_pushed) > (0, 0)
    assert described(keeper.restore(cap)[0]) == described(keeper.source)


def test_another_backup_that_keeps_the_database_does_not_make_it_unknown(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is locked while this run wants to write: what is known is used, and what was noted is written later."""
    monkeypatch.setattr("lafscli.backup.database._BUSY_SECONDS", 0.01)
    keeper.database.close()
    keeper.database = Database(keeper.folder / "database.sqlite")
    every_kind(keeper.source)
    keeper.backup()
    (keeper.source / "new").write_bytes(content(1000))
    with closing(sqlite3.connect(keeper.folder / "database.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        _, tally = keeper.backup()
        assert (tally.files_new, tally.bytes_read, keeper.database.usable) == (1, 1000, True)
        other.execute("ROLLBACK")
    keeper.database.close()
    keeper.database = Database(keeper.folder / "database.sqlite")
    assert keeper.backup()[1].bytes_read == 0


def test_the_same_content_many_times_is_sent_once(keeper: Keeper) -> None:
    keeper.source.mkdir()
    for number in range(50):
        (keeper.source / f"f{number}").write_bytes(content(20_000))
    cap, tally = keeper.backup()
    assert (tally.files_new, tally.bytes_read) == (50, 50 * 20_000)
    assert tally.bytes_pushed < 3 * 10 * 20_000
    assert len(keeper.local.share_files()) == 20
    assert described(keeper.restore(cap)[0]) == described(keeper.source)


def test_the_source_may_be_the_root_of_all(tmp_path: Path) -> None:
    """What was stored from / and below it."""
    database = Database(tmp_path / "database.sqlite")
    row = Row(1, 2, 3, 4, "URI:CHK:x", "abc", "")
    for folder in (b"/", b"/a", b"/a/b", b"/ab", b"/b"):
        database.keep(folder, {b"f": replace(row, si=folder.decode())})
    database.commit()
    assert {si for si, _ in database.stored(b"/")} == {"/", "/a", "/a/b", "/ab", "/b"}
    assert {si for si, _ in database.stored(b"/a")} == {"/a", "/a/b"}
    database.forget(b"/", [b"a"])
    database.commit()
    assert {si for si, _ in database.stored(b"/")} == {"/", "/ab", "/b"}
    database.close()


def test_ignoring_timestamps_reads_all_and_finds_nothing_new(keeper: Keeper) -> None:
    every_kind(keeper.source)
    cap, first = keeper.backup()
    again, tally = keeper.backup(ignore_timestamps=True)
    assert again == cap
    assert (tally.files_new, tally.files_changed, tally.bytes_read) == (0, 0, first.bytes_read)


def test_a_clock_that_was_set_back_costs_nothing(keeper: Keeper) -> None:
    """Files of the future are files; a change of the same size is seen by its time, whichever way that goes."""
    keeper.source.mkdir()
    future = keeper.source / "future"
    future.write_bytes(b"f" * 100)
    os.utime(future, (4e9, 4e9))
    keeper.backup()
    assert keeper.backup()[1].bytes_read == 0
    future.write_bytes(b"g" * 100)
    os.utime(future, (3e9, 3e9))
    cap, tally = keeper.backup()
    assert tally.files_changed == 1
    assert (keeper.restore(cap)[0] / "future").read_bytes() == b"g" * 100


def test_too_few_servers_make_no_snapshot(keeper: Keeper) -> None:
    every_kind(keeper.source)
    keeper.lose(range(4))
    with pytest.raises(NotHappy):
        keeper.backup()


def test_a_dead_server_does_not_stop_it(keeper: Keeper) -> None:
    every_kind(keeper.source)
    keeper.lose(range(3))
    cap, tally = keeper.backup()
    assert not tally.errors
    assert described(keeper.restore(cap)[0]) == described(keeper.source)


@pytest.fixture
def after_listing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Call it with what is to be done once, when the first folder was listed and nothing of it has been opened."""
    waiting: list[Callable[[], object]] = []

    def names(*arguments: Any) -> dict[bytes, str]:
        while waiting:
            waiting.pop()()
        return grid_names(*arguments)

    monkeypatch.setattr("lafscli.backup.create.grid_names", names)
    return waiting.append


After = Callable[[Callable[[], object]], None]


def test_what_vanishes_is_named_and_the_rest_is_kept(keeper: Keeper, after_listing: After) -> None:
    keeper.source.mkdir()
    (keeper.source / "here").write_bytes(content(1000))
    (keeper.source / "gone").write_bytes(content(1000, 1))
    (keeper.source / "z").mkdir()
    after_listing((keeper.source / "gone").unlink)
    named: list[str] = []
    cap, tally = keeper.backup(named=lambda trouble: named.append(Path(trouble.path).name))
    assert named == [Path(each.path).name for each in tally.errors] == ["gone"]
    assert tally.errors[0].reason == "cannot be read: No such file or directory"
    names = [child.name for child in load(access_to(keeper.local.grid()), cap).children()]
    assert names == [".lafs", "here", "z"]


@pytest.mark.parametrize("what", ["fifo", "link", "folder", "device"])
def test_what_takes_the_place_of_a_file_is_not_read(keeper: Keeper, after_listing: After, what: str) -> None:
    """Nobody writes to the FIFO; behind the link lies what is not to be kept."""
    if what == "device" and os.geteuid():
        pytest.skip("only root can make devices")
    keeper.source.mkdir()
    victim, secret = keeper.source / "f", keeper.folder / "secret"
    victim.write_bytes(content(1000))
    secret.write_bytes(b"s" * 1000)
    (keeper.source / "other").write_bytes(content(1000, 1))

    def replace() -> None:
        victim.unlink()
        if what == "fifo":
            os.mkfifo(victim)
        elif what == "link":
            victim.symlink_to(secret)
        elif what == "folder":
            victim.mkdir()
        else:
            os.mknod(victim, stat.S_IFCHR | 0o600, os.makedev(5, 0))

    after_listing(replace)
    cap, tally = keeper.backup()
    assert [(Path(each.path).name, each.reason) for each in tally.errors] == [
        ("f", "became something else while it was read")
    ]
    assert [path.name for path in keeper.restore(cap)[0].iterdir()] == ["other"]


def test_a_file_that_was_replaced_is_kept_as_it_is_now(keeper: Keeper, after_listing: After) -> None:
    keeper.source.mkdir()
    (keeper.source / "f").write_bytes(content(1000))
    (keeper.folder / "new").write_bytes(content(1000, 1))
    after_listing(lambda: (keeper.folder / "new").rename(keeper.source / "f"))
    cap, tally = keeper.backup()
    assert (tally.errors, tally.changing, tally.bytes_read) == ([], [], 1000)
    assert described(keeper.restore(cap)[0])[b"f"] == described(keeper.source)[b"f"]


def test_a_file_that_never_stands_still_is_stored_and_named(
    keeper: Keeper, after_listing: After, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows each time when it was just looked at. The next run reads it again."""
    keeper.source.mkdir()
    growing = keeper.source / "growing"
    growing.write_bytes(content(1000))

    def grow() -> None:
        with growing.open("ab") as file:
            file.write(b"x")

    true_lstat = os.lstat

    def lstat(path: Any) -> os.stat_result:
        found = true_lstat(path)
        if os.fsencode(path) == os.fsencode(growing):
            grow()
        return found

    after_listing(grow)
    monkeypatch.setattr(os, "lstat", lstat)
    warned: list[str] = []
    cap, tally = keeper.backup(warn=warned.append)
    monkeypatch.undo()
    assert [Path(path).name for path in tally.changing] == ["growing"]
    assert "changed while it was read, twice" in warned[0]
    kept = (keeper.restore(cap)[0] / "growing").read_bytes()
    assert kept == content(1000) + b"xxx"
    again, tally = keeper.backup()
    assert tally.bytes_read > 1000
    assert again == cap, "the same bytes, with the metadata they had when they were read"


def test_a_file_is_no_source(keeper: Keeper) -> None:
    keeper.source.write_bytes(b"x")
    with pytest.raises(UsageError, match="is no folder"):
        keeper.backup()


# ---- excludes


def test_patterns_are_those_of_git(keeper: Keeper) -> None:
    for path in ("a.o", "keep.o", "build/x", "src/build/x", "src/b.o", "src/c.c", "src/deep/note", "top"):
        (keeper.source / path).parent.mkdir(parents=True, exist_ok=True)
        (keeper.source / path).write_bytes(path.encode())
    (keeper.source / "src" / ".lafsignore").write_bytes(b"!b.o\n/deep/\n")
    cap, tally = keeper.backup(excludes=Excludes(["*.o", "!keep.o", "/build/"]))
    kept = keeper.restore(cap)[0]
    assert sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()) == [
        "keep.o",
        "src/.lafsignore",
        "src/b.o",
        "src/build/x",
        "src/c.c",
        "top",
    ]
    assert tally.left_out == 3


def test_caches_large_files_and_lists(keeper: Keeper) -> None:
    (keeper.source / "cache" / "deep").mkdir(parents=True)
    (keeper.source / "cache" / "CACHEDIR.TAG").write_bytes(b"Signature: 8a477f597d28d172789f06886806bc55\nmore")
    (keeper.source / "cache" / "x").write_bytes(b"x")
    (keeper.source / "false").mkdir()
    (keeper.source / "false" / "CACHEDIR.TAG").write_bytes(b"Signature: none")
    (keeper.source / "false" / "x").write_bytes(b"x")
    (keeper.source / "large").write_bytes(bytes(1001))
    (keeper.source / "small").write_bytes(bytes(1000))

    def kept(name: str, **given: Any) -> list[str]:
        folder = keeper.restore(keeper.backup(**given)[0], name)[0]
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())

    assert kept("one", excludes=Excludes(caches=True, larger_than=1000)) == [
        "cache/CACHEDIR.TAG",
        "false/CACHEDIR.TAG",
        "false/x",
        "small",
    ]
    assert kept("two", only=frozenset([b"cache/x", b"false", b"none"])) == ["cache/x", "false/CACHEDIR.TAG", "false/x"]


# ---- restore


def test_a_restore_goes_on_and_gives_metadata_back(keeper: Keeper) -> None:
    every_kind(keeper.source)
    cap, _ = keeper.backup()
    target, first, _ = keeper.restore(cap)
    (target / "deep" / "er" / "small").unlink()
    (target / "file").chmod(0o600)
    _, second, _ = keeper.restore(cap)
    assert second.present >= first.files - 12
    assert described(target) == described(keeper.source)


def test_verify_finds_what_size_and_time_do_not_show(keeper: Keeper) -> None:
    keeper.source.mkdir()
    for number in range(3):
        (keeper.source / f"f{number}").write_bytes(content(3000, number))
    cap, _ = keeper.backup()
    target, _, _ = keeper.restore(cap)
    kept = (target / "f1").stat()
    (target / "f1").write_bytes(b"x" * 3000)
    os.utime(target / "f1", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert keeper.restore(cap)[1].files == 0
    _, done, _ = keeper.restore(cap, verify=True)
    assert (done.files, done.verified, done.errors) == (1, 3, [])
    assert described(target) == described(keeper.source)


@pytest.mark.parametrize(("overwrite", "result"), [("always", b"new"), ("if-newer", b"mine"), ("never", b"mine")])
def test_what_is_there_and_newer(keeper: Keeper, overwrite: Any, result: bytes) -> None:
    keeper.source.mkdir()
    (keeper.source / "f").write_bytes(b"new")
    os.utime(keeper.source / "f", (1000, 1000))
    cap, _ = keeper.backup()
    target = keeper.folder / "restored"
    target.mkdir()
    (target / "f").write_bytes(b"mine")
    keeper.restore(cap, overwrite=overwrite)
    assert (target / "f").read_bytes() == result


def test_what_is_there_and_older(keeper: Keeper) -> None:
    keeper.source.mkdir()
    (keeper.source / "f").write_bytes(b"new")
    cap, _ = keeper.backup()
    target = keeper.folder / "restored"
    target.mkdir()
    (target / "f").write_bytes(b"mine")
    os.utime(target / "f", (1000, 1000))
    keeper.restore(cap, overwrite="if-newer")
    assert (target / "f").read_bytes() == b"new"


def test_parts(keeper: Keeper) -> None:
    every_kind(keeper.source)
    cap, _ = keeper.backup()
    target, done, _ = keeper.restore(cap, selecting=Selecting(["small", "/empty"], []))
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == [
        "deep",
        "deep/er",
        "deep/er/small",
        "empty",
    ]
    assert done.dirs == 3
    other, _, _ = keeper.restore(cap, "other", selecting=Selecting([], ["deep/", "*e*"]))
    assert not [path for path in other.rglob("*") if "e" in path.name]


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".", "nul\0", "x" * 300])
def test_a_true_name_that_leads_elsewhere_is_refused(keeper: Keeper, name: str) -> None:
    access = access_to(keeper.local.grid())
    lafs = {"v": 1, "type": "file", "name_b64": base64.b64encode(name.encode()).decode()}
    cap = create_directory(access, {"good": NewChild(LitCap(b"1")), "bad": NewChild(LitCap(b"2"), {"lafs": lafs})})
    target, done, _ = keeper.restore(cap)
    assert [path.name for path in target.rglob("*")] == ["good"]
    assert len(done.errors) == 1
    assert not list(keeper.folder.glob("x"))


def test_no_link_is_followed(keeper: Keeper) -> None:
    """A snapshot that has a link and, under the same true name, a folder with a file in it."""
    access = access_to(keeper.local.grid())
    outside = keeper.folder / "outside"
    outside.mkdir()
    link = {"v": 1, "type": "symlink", "target_b64": base64.b64encode(os.fsencode(outside)).decode()}
    below = create_directory(access, {"evil": NewChild(LitCap(b"2"))}, kind="chk")
    same = {"v": 1, "type": "dir", "name_b64": base64.b64encode(b"a").decode()}
    cap = create_directory(access, {"a": NewChild(LitCap(b""), {"lafs": link}), "b": NewChild(below, {"lafs": same})})
    target, done, _ = keeper.restore(cap)
    assert done.errors
    (target / "b").symlink_to(outside)
    again = create_directory(access, {"b": NewChild(below)})
    _, done, _ = keeper.restore(again)
    assert [trouble.error.message for trouble in done.errors]
    assert list(outside.iterdir()) == []


def test_what_lost_its_shares_is_named_and_the_rest_restored(keeper: Keeper) -> None:
    keeper.source.mkdir()
    (keeper.source / "good").write_bytes(content(1000))
    (keeper.source / "lost").write_bytes(content(2_000_000, 1))
    cap, _ = keeper.backup()
    for path in keeper.local.share_files():
        if path.stat().st_size > 500_000:
            path.unlink()
    target, done, _ = keeper.restore(cap)
    assert [Path(trouble.path).name for trouble in done.errors] == ["lost"]
    assert (target / "good").read_bytes() == content(1000)
    assert not (target / "lost").exists()
    assert not list(target.glob(".lafs-*"))


def test_a_file_in_the_way_of_a_folder_is_named(keeper: Keeper) -> None:
    every_kind(keeper.source)
    cap, _ = keeper.backup()
    target = keeper.folder / "restored"
    (target / "file").mkdir(parents=True)
    (target / "deep").write_bytes(b"")
    _, done, _ = keeper.restore(cap)
    assert {Path(trouble.path).name for trouble in done.errors} == {"file", "deep"}
    assert (target / "other name").read_bytes() == b"content"


class Clock:
    """A clock that shows the times it is given, the last one on and on; each sleep is a second."""

    def __init__(self, *shown: float) -> None:
        self.shown = list(shown)
        self.slept = 0

    def now(self) -> float:
        return (self.shown.pop(0) if len(self.shown) > 1 else self.shown[0]) + self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += 1


def linked(keeper: Keeper, top: DirectoryCap) -> tuple[dict[str, object], object]:
    """The snapshots by name, and the latest."""
    access = access_to(keeper.local.grid())
    found = {each.name: each.cap for each in snapshots(access, top)}
    return found, load(access, top).table.child("Latest").cap


def made(keeper: Keeper, text: bytes) -> DirectoryCap:
    return create_directory(access_to(keeper.local.grid()), {"f": NewChild(LitCap(text))}, kind="chk")


def test_a_second_that_is_taken_is_waited_out_and_a_clock_may_go_back(keeper: Keeper) -> None:
    """The same snapshot twice in one second is two; the latest is the one that was linked last, whatever its name."""
    access = access_to(keeper.local.grid())
    top = create_directory(access)
    into = archives(access, top, make=True)
    one, two = made(keeper, b"1"), made(keeper, b"2")
    for snapshot, clock, name in (
        (one, Clock(86400.0), "1970-01-02_00:00:00Z"),
        (one, Clock(86400.5), "1970-01-02_00:00:01Z"),
        (two, Clock(5.0), "1970-01-01_00:00:05Z"),
    ):
        assert publish(access, top, into, snapshot, clock.now, clock.sleep) == name
        assert linked(keeper, top)[1] == snapshot
    assert list(linked(keeper, top)[0]) == ["1970-01-01_00:00:05Z", "1970-01-02_00:00:00Z", "1970-01-02_00:00:01Z"]


def test_latest_does_not_go_back_where_two_back_up_at_once(keeper: Keeper) -> None:
    """While the first has linked its snapshot and not yet led `Latest` to it, another links a later one, and does."""
    access, other = access_to(keeper.local.grid()), access_to(keeper.local.grid())
    top = create_directory(access)
    into = archives(access, top, make=True)
    mine, theirs = made(keeper, b"1"), made(keeper, b"2")
    table_edit = snapshots_module.edit

    def edit(access: Any, cap: DirectoryCap, change: Any) -> None:
        table_edit(access, cap, change)
        if access is not other and cap == into:
            publish(other, top, into, theirs, Clock(200.0).now, Clock(0).sleep)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshots_module, "edit", edit)
        publish(access, top, into, mine, Clock(100.0).now, Clock(0).sleep)
    found, latest = linked(keeper, top)
    assert list(found.values()) == [mine, theirs]
    assert latest == theirs


def test_errors_are_errors(keeper: Keeper) -> None:
    keeper.source.mkdir()
    cap, _ = keeper.backup()
    assert isinstance(cap, DirectoryCap)
    with pytest.raises(LafsError):
        Landing(str(keeper.folder / "nowhere"), Rights(False))


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_other_names_of_a_file_that_was_replaced_keep_its_content(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Between the listing and the reading, as every editor does it."""
    keeper.source.mkdir()
    one, other, third = (keeper.source / name for name in "abc")
    one.write_bytes(content(700, 1))
    os.link(one, other)
    os.link(one, third)
    listed = Scan.inside

    def then_replaced(scan: Scan, folder: Any) -> Any:
        found = listed(scan, folder)
        if how == "removed":
            one.unlink()
        else:
            (keeper.folder / "new").write_bytes(content(700, 2))
            (keeper.folder / "new").rename(one)
        return found

    monkeypatch.setattr(Scan, "inside", then_replaced)
    cap, tally = keeper.backup()
    monkeypatch.undo()
    assert len(tally.errors) == (how == "removed")
    out = keeper.restore(cap)[0]
    assert (out / "b").read_bytes() == (out / "c").read_bytes() == content(700, 1)
    assert (out / "a").exists() == (how == "replaced")
    if how == "replaced":
        assert (out / "a").read_bytes() == content(700, 2)
    again = keeper.restore(keeper.backup()[0], "again")[0]
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in keeper.source.iterdir()
    }


def test_what_is_listed_and_not_there_is_named(keeper: Keeper) -> None:
    keeper.source.mkdir()
    (keeper.source / "a").write_bytes(b"x")
    _, tally = keeper.backup(only=frozenset([b"a", b"no/such"]))
    assert [(each.path, each.reason) for each in tally.errors] == [
        (str(keeper.source / "no/such"), "is in the list: No such file or directory")
    ]
