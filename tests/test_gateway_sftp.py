"""The SFTP gateway's files: what clients write and read is what the grid has, and nothing that fails looks done."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafscli.config.home import Home
from lafscli.formats.caps import ChkCap, DirectoryCap, MutableWriteCap
from lafscli.gateway.desk import Desk
from lafscli.gateway.gridfiles import Shared
from lafscli.primitives.encoding import b32encode, netstring
from lafscli.server.backend import (
    APPEND,
    CREATE,
    EXCLUSIVE,
    FAILURE,
    NO_SUCH_FILE,
    OP_UNSUPPORTED,
    PERMISSION_DENIED,
    READ,
    TRUNCATE,
    WRITE,
    Refused,
)
from lafscli.tree import contents
from lafscli.tree.directory import NewChild, create_directory, edit, load
from tests.gridfiles import NEW, away, home_of_folders, root_of_alias, talking
from tests.lafs_process import Lafs
from tests.plain_backend import PlainFolder
from tests.raw_sftp import Attributes, RawClient, conversation, refused

DATA = bytes(range(256)) * 600


@pytest.fixture(scope="module")
def lafs(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    made = Lafs(tmp_path_factory.mktemp("gridfiles"))
    home_of_folders(made)
    return made


@pytest.fixture(scope="module")
def desk(lafs: Lafs) -> Iterator[Desk]:
    desk = Desk(Home.find(str(lafs.home)), note=lambda _: None)
    yield desk
    desk.close()


@pytest.fixture(scope="module")
def shared(desk: Desk) -> Shared:
    return Shared.of(desk)


@pytest.fixture(scope="module")
def root(desk: Desk) -> DirectoryCap:
    return root_of_alias(desk)


@pytest.fixture
def talk(shared: Shared, root: DirectoryCap) -> Iterator[RawClient]:
    with talking(shared, root) as client:
        yield client


def stored(desk: Desk, root: DirectoryCap, name: str) -> bytes:
    """What the grid has under a name, read past the gateway's files."""
    with desk.access() as access:
        return contents.content(access, load(access, root).table.child(name).cap)


def names(desk: Desk, root: DirectoryCap) -> set[str]:
    with desk.access() as access:
        return {child.name for child in load(access, root).children()}


# ---- writing


def test_a_file_is_in_the_grid_when_its_close_is_answered_and_not_before(
    talk: RawClient, desk: Desk, root: DirectoryCap
) -> None:
    handle = talk.open("close", NEW)
    talk.write(handle, 0, DATA)
    assert "close" not in names(desk, root)
    talk.close(handle)
    assert stored(desk, root, "close") == DATA
    assert talk.get("close") == DATA
    assert talk.stat("close").size == len(DATA)


def test_an_empty_file_is_there_when_it_is_closed(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    talk.close(talk.open("empty", NEW))
    assert stored(desk, root, "empty") == b""
    assert talk.stat("empty").size == 0


def test_pieces_come_in_any_order_and_a_gap_is_zeros(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    handle = talk.open("order", NEW)
    talk.write(handle, 200_000, b"end")
    talk.write(handle, 100, b"middle")
    talk.write(handle, 0, b"begin")
    talk.close(handle)
    model = bytearray(200_003)
    model[:5], model[100:106], model[200_000:] = b"begin", b"middle", b"end"
    assert stored(desk, root, "order") == model


def test_what_is_opened_without_truncate_keeps_its_other_bytes(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    talk.put("part", DATA, NEW)
    handle = talk.open("part", READ | WRITE)
    assert talk.read(handle, 10, 10) == DATA[10:20]
    talk.write(handle, 5, b"xyz")
    assert talk.read(handle, 0, 10) == DATA[:5] + b"xyz" + DATA[8:10]
    talk.close(handle)
    assert stored(desk, root, "part") == DATA[:5] + b"xyz" + DATA[8:]


def test_a_file_that_was_opened_and_not_written_is_not_stored_again(
    talk: RawClient, desk: Desk, root: DirectoryCap
) -> None:
    talk.put("untouched", DATA, NEW)
    with desk.access() as access:
        before = load(access, root).table.child("untouched")
    talk.close(talk.open("untouched", WRITE))
    with desk.access() as access:
        assert load(access, root).table.child("untouched").metadata == before.metadata


def test_append_writes_at_the_end_whatever_the_offset(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    talk.put("append", b"one", NEW)
    handle = talk.open("append", WRITE | APPEND)
    talk.write(handle, 0, b"two")
    talk.write(handle, 0, b"three")
    talk.close(handle)
    assert stored(desk, root, "append") == b"onetwothree"


def test_truncate_by_handle_and_by_path(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    talk.put("cut", DATA, NEW)
    handle = talk.open("cut", WRITE)
    talk.fsetstat(handle, Attributes(size=1000))
    talk.close(handle)
    assert stored(desk, root, "cut") == DATA[:1000]
    talk.setstat("cut", Attributes(size=1003))
    assert stored(desk, root, "cut") == DATA[:1000] + bytes(3)
    talk.setstat("cut", Attributes(size=0))
    assert stored(desk, root, "cut") == b""
    handle = talk.open("cut", WRITE)
    talk.write(handle, 0, b"0123456789")
    talk.setstat("cut", Attributes(size=4))
    assert talk.stat("cut").size == 4
    assert stored(desk, root, "cut") == b""
    talk.close(handle)
    assert stored(desk, root, "cut") == b"0123"


def test_exclusive_is_refused_where_something_is_or_came_meanwhile(
    talk: RawClient, shared: Shared, desk: Desk, root: DirectoryCap
) -> None:
    talk.put("there", b"1", NEW)
    with refused(FAILURE, "exists"):
        talk.open("there", WRITE | CREATE | EXCLUSIVE)
    handle = talk.open("mine", WRITE | CREATE | EXCLUSIVE)
    with refused(FAILURE, "exists"):
        talk.open("mine", WRITE | CREATE | EXCLUSIVE)
    talk.write(handle, 0, b"mine")
    with talking(shared, root, "bob") as bob:
        bob.put("mine", b"his", NEW)
    with refused(FAILURE, "mine"):
        talk.close(handle)
    assert stored(desk, root, "mine") == b"his"


def test_a_mutable_file_keeps_its_cap_and_tells_its_size(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    with desk.access() as access:
        cap = contents.store(access, b"version one", "sdmf").cap
        assert isinstance(cap, MutableWriteCap)
        edit(access, root, lambda table: table.link("mutable", cap, now=access.now))
    handle = talk.opendir("/")
    sizes = {name: attributes.size for name, _, attributes in talk.readdir(handle)}
    assert sizes[b"mutable"] == talk.stat("mutable").size == 11
    handle = talk.open("mutable", WRITE)
    talk.write(handle, 8, b"two, longer")
    talk.close(handle)
    with desk.access() as access:
        assert load(access, root).table.child("mutable").cap == cap
    assert stored(desk, root, "mutable") == b"version two, longer"
    assert talk.stat("mutable").size == 19
    assert talk.get("mutable") == b"version two, longer"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 160_000), st.integers(1, 70_000)), min_size=1, max_size=6))
def test_any_range_is_the_slice(shared: Shared, root: DirectoryCap, ranges: list[tuple[int, int]]) -> None:
    with talking(shared, root) as talk:
        if "ranges" not in talk.listdir("/"):
            talk.put("ranges", DATA, NEW)
        handle = talk.open("ranges")
        for offset, length in ranges:
            assert talk.read(handle, offset, length) == DATA[offset : offset + length]
        talk.close(handle)


# ---- what is open to be written


def test_a_file_that_is_written_is_seen_by_its_account_alone(
    talk: RawClient, shared: Shared, root: DirectoryCap
) -> None:
    handle = talk.open("draft", NEW)
    talk.write(handle, 0, b"12345")
    assert talk.stat("draft").size == talk.fstat(handle).size == 5
    with talking(shared, root) as again, talking(shared, root, "bob") as bob:
        assert "draft" in again.listdir("/")
        assert again.get("draft") == b"12345"
        assert "draft" not in bob.listdir("/")
        with refused(NO_SUCH_FILE):
            bob.stat("draft")
    talk.close(handle)


def test_what_is_opened_again_before_it_is_closed_loses_nothing(
    talk: RawClient, desk: Desk, root: DirectoryCap
) -> None:
    first = talk.open("log", WRITE | CREATE | APPEND)
    talk.write(first, 0, b"first ")
    second = talk.open("log", WRITE | CREATE | APPEND)
    talk.write(second, 0, b"second ")
    talk.close(first)
    talk.write(second, 0, b"third")
    talk.close(second)
    assert stored(desk, root, "log") == b"first second third"


def test_what_is_renamed_or_removed_while_it_is_written(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    talk.put("target", b"old", NEW)
    handle = talk.open("temporary", NEW)
    talk.write(handle, 0, b"one")
    talk.replace("temporary", "target")
    assert stored(desk, root, "target") == b"one"
    talk.write(handle, 3, b" two")
    talk.close(handle)
    assert stored(desk, root, "target") == b"one two"
    assert "temporary" not in names(desk, root)
    handle = talk.open("gone", NEW)
    talk.write(handle, 0, b"x")
    talk.remove("gone")
    talk.write(handle, 1, b"y")
    talk.close(handle)
    assert "gone" not in names(desk, root)


def test_fsync_stores(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    handle = talk.open("synced", NEW)
    talk.write(handle, 0, b"one")
    talk.fsync(handle)
    assert stored(desk, root, "synced") == b"one"
    talk.write(handle, 3, b"two")
    talk.close(handle)
    assert stored(desk, root, "synced") == b"onetwo"


def test_a_connection_that_is_lost_stores_nothing(
    talk: RawClient, shared: Shared, desk: Desk, root: DirectoryCap
) -> None:
    talk.put("kept", b"kept", NEW)
    with talking(shared, root) as lost:
        lost.write(lost.open("never", NEW), 0, DATA)
        lost.write(lost.open("kept", WRITE), 0, b"lost")
        lost.open("touched", NEW)
    assert not {"never", "touched"} & names(desk, root)
    assert not {"never", "touched"} & set(talk.listdir("/"))
    assert stored(desk, root, "kept") == b"kept"


def test_what_two_connections_write_is_not_stored_when_one_is_lost_in_the_middle(
    talk: RawClient, shared: Shared, desk: Desk, root: DirectoryCap
) -> None:
    ours = talk.open("both", WRITE | CREATE)
    with talking(shared, root) as lost:
        lost.write(lost.open("both", WRITE), 0, b"half of")
        talk.write(ours, 100, b"x")
    with refused(FAILURE, "lost in the middle"):
        talk.close(ours)
    assert "both" not in names(desk, root)
    talk.put("both", b"anew", NEW)
    assert stored(desk, root, "both") == b"anew"


def test_no_file_grows_beyond_reason(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    handle = talk.open("endless", NEW)
    with refused(FAILURE, "TiB"):
        talk.write(handle, 1 << 50, b"x")
    with refused(FAILURE, "TiB"):
        talk.fsetstat(handle, Attributes(size=1 << 60))
    talk.close(handle)
    assert stored(desk, root, "endless") == b""


# ---- names


def test_names_are_made_moved_and_removed(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    talk.mkdir("folder")
    with refused(FAILURE, "exists"):
        talk.mkdir("folder")
    talk.put("folder/a", b"a", NEW)
    talk.put("b", b"b", NEW)
    with refused(FAILURE, "not empty"):
        talk.rmdir("folder")
    with refused(FAILURE, "exists"):
        talk.rename("b", "folder/a")
    talk.replace("b", "folder/a")
    assert talk.get("folder/a") == b"b"
    with refused(NO_SUCH_FILE):
        talk.stat("b")
    with refused(FAILURE, "into itself"):
        talk.rename("folder", "folder/inside")
    with refused(FAILURE, "is a directory"):
        talk.remove("folder")
    with refused(FAILURE, "no directory"):
        talk.rmdir("folder/a")
    talk.put("file", b"", NEW)
    with refused(FAILURE, "exists"):
        talk.replace("folder", "file")
    draft = talk.open("folder/draft", NEW)
    talk.remove("folder/a")
    with refused(FAILURE, "not empty"):
        talk.rmdir("folder")
    talk.remove("folder/draft")
    talk.close(draft)
    talk.rmdir("folder")
    assert "folder" not in names(desk, root)
    for act in (talk.remove, talk.rmdir, talk.stat, talk.opendir, talk.open):
        with refused(NO_SUCH_FILE):
            act("nothing")
    with refused(NO_SUCH_FILE):
        talk.put("nowhere/file", b"", NEW)


def test_no_path_leads_out_and_names_are_nfc(talk: RawClient, desk: Desk, root: DirectoryCap) -> None:
    assert talk.realpath(".") == b"/"
    assert talk.realpath("../../etc/./x//y/..") == b"/etc/x"
    talk.put("../../Zoe\u0308", b"nfc", NEW)
    assert stored(desk, root, "Zo\u00eb") == b"nfc"
    assert talk.get("/Zo\u00eb") == b"nfc"
    with refused(NO_SUCH_FILE, "UTF-8"):
        talk.stat(b"\xff\xfe")
    for act in (talk.remove, talk.rmdir, talk.mkdir):
        with refused(FAILURE, "root"):
            act("/")
    with refused(FAILURE, "directory"):
        talk.open("/")
    with refused(OP_UNSUPPORTED):
        talk.link("/Zo\u00eb", "second")


def test_times_and_modes_are_kept(talk: RawClient, lafs: Lafs) -> None:
    before = int(time.time())
    talk.put("times", b"1", NEW)
    assert talk.stat("times").mode == 0o100600  # which the client asked for when it opened it
    talk.close(talk.open("usual", NEW, Attributes(mode=0o664)))
    assert talk.stat("usual").mode == 0o100644
    assert before <= (talk.stat("times").times or (0, 0))[1] <= time.time()
    talk.setstat("times", Attributes(mode=0o755, times=(5, 1_500_000_000)))
    found = talk.stat("times")
    assert (found.mode, found.times) == (0o100755, (1_500_000_000, 1_500_000_000))
    [entry] = [each for each in lafs.json("ls", "work:")["entries"] if each["name"] == "times"]
    assert entry["metadata"]["mtime"] == 1_500_000_000
    # new content, new time; the mode stays
    talk.put("times", b"2", WRITE | TRUNCATE)
    found = talk.stat("times")
    assert found.mode == 0o100755
    assert (found.times or (0, 0))[1] >= before
    handle = talk.open("times", NEW, Attributes(mode=0o600))
    talk.write(handle, 0, b"3")
    talk.fsetstat(handle, Attributes(times=(7, 1_600_000_000)))
    talk.close(handle)
    assert (talk.stat("times").times or (0, 0))[1] == 1_600_000_000
    with refused(PERMISSION_DENIED, "owner"):
        talk.setstat("times", Attributes(owner=(12345, 12345)))
    talk.setstat("times", Attributes(owner=(os.getuid(), os.getgid())))
    talk.setstat("/", Attributes(times=(1, 1)))


def test_with_a_read_cap_nothing_is_changed(talk: RawClient, shared: Shared, desk: Desk, root: DirectoryCap) -> None:
    talk.put("public", b"public", NEW)
    before = names(desk, root)
    with talking(shared, root.read_cap(), "guest") as guest:
        assert guest.get("public") == b"public"
        assert (guest.stat("public").mode, guest.stat("/").mode) == (0o100400, 0o40555)
        with refused(PERMISSION_DENIED):
            guest.put("public", b"mine", NEW)
        with refused(PERMISSION_DENIED):
            guest.open("new", NEW)
        for act in (guest.remove, guest.mkdir, guest.rmdir):
            with refused(PERMISSION_DENIED):
                act("public")
        for both in (guest.rename, guest.replace):
            with refused(PERMISSION_DENIED):
                both("public", "other")
        with refused(PERMISSION_DENIED):
            guest.setstat("public", Attributes(mode=0o777))
        assert guest.statvfs("/")[9] == 1
    assert names(desk, root) == before


def test_space_is_that_of_the_servers_by_the_expansion(talk: RawClient, lafs: Lafs) -> None:
    disk = os.statvfs(lafs.folder)
    block, fragment, blocks, free, available, *_ = talk.statvfs("/")
    assert (block, free) == (fragment, available)
    assert block * blocks == pytest.approx(disk.f_frsize * disk.f_blocks * 4 * 2 / 4, rel=0.01)


# ---- failures


def test_what_can_not_be_stored_is_told_by_close_and_linked_nowhere(
    shared: Shared, lafs: Lafs, desk: Desk, root: DirectoryCap
) -> None:
    notes: list[str] = []
    with talking(shared, root, notes=notes) as talk:
        talk.put("old", b"old", NEW)
        new, old, synced = talk.open("new", NEW), talk.open("old", WRITE), talk.open("synced2", NEW)
        for handle in (new, old, synced):
            talk.write(handle, 0, DATA)
        with away(lafs, [1, 2]):
            with refused(FAILURE, "nothing was stored"):
                talk.fsync(synced)
            for handle in (new, old):
                with refused(FAILURE, "nothing was stored"):
                    talk.close(handle)
        assert not {"new", "synced2"} & names(desk, root)
        assert stored(desk, root, "old") == b"old"
        talk.close(synced)  # it is still open: now it can be stored
        assert stored(desk, root, "synced2") == DATA
        assert any("servers" in note for note in notes)
        assert not any("URI:" in note for note in notes)


def test_what_can_not_be_read_is_an_error_of_the_read(
    talk: RawClient, desk: Desk, root: DirectoryCap, lafs: Lafs
) -> None:
    talk.put("unreadable", DATA + b"1", NEW)
    with desk.access() as access:
        si = load(access, root).table.child("unreadable").cap.storage_index
    assert si is not None
    for path in lafs.folder.glob(f"s*/shares/*/{b32encode(si)}/*"):
        share = bytearray(path.read_bytes())
        for place in range(200, len(share) - 80, 500):
            share[place] ^= 1
        path.write_bytes(share)
    with refused(FAILURE):
        talk.get("unreadable")


def test_two_sessions_that_change_one_directory_lose_nothing(shared: Shared, root: DirectoryCap, desk: Desk) -> None:
    wrong: list[BaseException] = []

    def work(account: str) -> None:
        try:
            with talking(shared, root, account) as talk:
                for index in range(4):
                    talk.put(f"{account}{index}", account.encode(), NEW)
                talk.rename(f"{account}0", f"{account}-moved")
                talk.remove(f"{account}1")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("eve", "mallory", "trent")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    expected = {f"{name}{rest}" for name in ("eve", "mallory", "trent") for rest in ("-moved", "2", "3")}
    assert {each for each in names(desk, root) if each.startswith(("eve", "mallory", "trent"))} == expected


def test_thousands_of_entries_are_listed_quickly(shared: Shared, desk: Desk, root: DirectoryCap) -> None:
    with desk.access() as access:
        small = contents.store(access, b"x" * 40, "chk").cap
        large = create_directory(access, {f"entry {number:05}": NewChild(small, {}) for number in range(3000)})
    with talking(shared, large) as talk:
        assert len(talk.listdir("/")) == 3000
        began = time.monotonic()
        for _ in range(3):
            assert len(talk.listdir("/")) == 3000
        assert time.monotonic() - began < 3
        assert talk.stat("entry 02999").size == 40


def test_names_that_no_path_can_say_are_not_shown(shared: Shared, desk: Desk) -> None:
    """Whoever gives a directory away may have put any names into it."""
    given = sorted([b".", b"..", b"a/b", b"x\0y", b"n" * 300_000, b"good", b"con\ntrol", b"../up"])
    parts = [(name, b"URI:LIT:nruxi", b"", b"{}") for name in given]
    table = b"".join(netstring(b"".join(map(netstring, each))) for each in parts)
    notes: list[str] = []
    with desk.access() as access:
        cap = contents.store(access, table, "chk").cap
    assert isinstance(cap, ChkCap)
    with talking(shared, DirectoryCap(cap), notes=notes) as talk:
        assert talk.listdir("/") == ["con\ntrol", "good"]
        assert talk.get("good") == b"lit"
        with refused(NO_SUCH_FILE):
            talk.stat("a/b")
    assert any("6 entries can't be shown" in note for note in notes)


def test_the_spools_leave_nothing_behind(lafs: Lafs) -> None:
    assert list(Path(lafs.home / "state" / "gateway").glob("*")) == []


class Both:
    """The gateway's files and a folder: two connections to each, asked the same things."""

    def __init__(self, ours: list[RawClient], theirs: list[RawClient]) -> None:
        self._sides = ours, theirs
        self.asked: list[tuple[object, ...]] = []

    def __call__(self, which: int, act: str, *words: object) -> tuple[Any, Any] | None:
        """Both answers; None where both refuse. A tuple among the words has one for each side."""
        self.asked.append((which, act, *words))
        answers: list[object] = []
        for side, talks in enumerate(self._sides):
            given = [word[side] if isinstance(word, tuple) else word for word in words]
            try:
                answers.append(getattr(talks[which], act)(*given))
            except Refused:
                answers.append(Refused)
        assert (answers[0] is Refused) == (answers[1] is Refused), (answers, self.asked)
        return None if answers[0] is Refused else (answers[0], answers[1])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_it_behaves_as_a_folder_does(shared: Shared, root: DirectoryCap, tmp_path: Path, seed: int) -> None:
    """Whatever is done in whatever order by two connections of an account: the same answers, the same files."""
    chance = random.Random(seed)
    top = f"model{seed}"
    folder = f"{top}/d"
    paths = [f"{top}/{name}" for name in ("a", "b", "c", "d/a", "d/b")]
    (tmp_path / top).mkdir()
    with ExitStack() as stack:
        ours = [stack.enter_context(talking(shared, root)) for _ in range(2)]
        theirs = [stack.enter_context(conversation(lambda: PlainFolder(tmp_path))).client for _ in range(2)]
        ours[0].mkdir(top)
        both = Both(ours, theirs)
        handles: list[tuple[int, tuple[bytes, bytes]]] = []
        for _ in range(150):
            which, path, other = chance.randrange(2), *chance.sample(paths, 2)
            offset, data = chance.randrange(300), os.urandom(chance.randrange(1, 200))
            act = chance.choice(["open", "write", "write", "cut", "close", "read", "name", "name", "folder", "stat"])
            if act == "open" and len(handles) < 5:
                more = [0, CREATE, CREATE | TRUNCATE, CREATE | EXCLUSIVE, APPEND, CREATE | APPEND]
                opened = both(which, "open", path, READ | WRITE | chance.choice(more))
                if opened is not None:
                    handles.append((which, opened))
            elif act == "name":
                what = chance.choice(["remove", "rename", "replace"])
                both(which, what, path, *([other] if what != "remove" else []))
            elif act == "folder":
                both(which, chance.choice(["mkdir", "mkdir", "rmdir", "stat", "remove", "open"]), folder)
            elif act == "stat":
                found = both(which, "stat", path)
                assert found is None or found[0].size == found[1].size, both.asked
            elif handles:
                which, pair = handles[chance.randrange(len(handles))]
                if act == "write":
                    both(which, "write", pair, offset, data)
                elif act == "cut":
                    both(which, "fsetstat", pair, Attributes(size=offset))
                elif act == "read":
                    read = both(which, "read", pair, offset, 100)
                    assert read is not None
                    assert read[0] == read[1], both.asked
                elif act == "close":
                    handles.remove((which, pair))
                    both(which, "close", pair)
        for which, pair in handles:
            both(which, "close", pair)
        for path in paths:
            found = both(0, "stat", path)
            if found is not None:
                assert ours[1].get(path) == (tmp_path / path).read_bytes(), both.asked
