"""The client on a folder behind the storage server's policy: by its calls, and as an old client does without them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from lafscli.errors import GuardHeld, GuardLost, NotHappy, NotSupported
from lafscli.formats import container
from lafscli.formats.caps import ChkCap
from lafscli.immutable.download import download
from lafscli.immutable.upload import Uploaded, upload
from lafscli.mutable.publish import create, modify
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from lafscli.server.policy import Policy
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid
from lafscli.storage.local import LocalFiles
from lafscli.storage.servedguard import CalledGuard
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.sshcommand import SshTarget
from lafscli.storage.store import Files, Lease, LeaseOf, ShareStore
from lafscli.storage.streams import open_stream
from tests import kept_shares
from tests.grids import LocalGrid, content, writing
from tests.scripted_sftp import PipeStream
from tests.served_folders import served_files
from tests.serving import ListenServers, StdioServers
from tests.slots import content_of, publishing
from tests.test_store import FolderContract


class ServedContract(FolderContract):
    """The server has said who it is before anybody asks."""

    node_id = None
    seed = None


class TestServed(ServedContract):
    @pytest.fixture
    def reach(self, tmp_path: Path) -> tuple[Path, Callable[[], Files]]:
        root = tmp_path / "store"
        root.mkdir()
        return root, lambda: served_files(root)


class TestServedToOldClient(ServedContract):
    throws = False

    @pytest.fixture
    def reach(self, tmp_path: Path) -> tuple[Path, Callable[[], Files]]:
        root = tmp_path / "store"
        root.mkdir()
        return root, lambda: served_files(root, old=True)


class ProcessContract(ServedContract):
    """A server that runs as people run it; each test has its folder empty."""

    servers: type[ListenServers | StdioServers]

    @pytest.fixture(scope="class")
    @classmethod
    def serving(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListenServers | StdioServers]:
        with cls.servers(tmp_path_factory.mktemp("serving"), 1) as servers:
            yield servers

    @pytest.fixture
    def reach(self, serving: ListenServers | StdioServers) -> tuple[Path, Callable[[], Files]]:
        root = serving.root(0)
        for path in root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        target = SshTarget(
            host="s0", ssh_config=serving.config, known_hosts=serving.known_hosts, identity=serving.identity
        )
        return root, lambda: SftpFiles(lambda: open_stream(target), str(root), name="here")


@pytest.mark.slow
class TestListen(ProcessContract):
    servers = ListenServers


@pytest.mark.slow
class TestStdio(ProcessContract):
    servers = StdioServers


# ---- grids -------------------------------------------------------------------------------------------------------


class ServedGrid(LocalGrid):
    """Servers s0 … with a policy each; `ways` says how a client reaches them: one of WAYS, for all or for each."""

    def __init__(self, base: Path, count: int, *policies: Policy) -> None:
        super().__init__(base, count)
        self.policies = [*policies, *[Policy()] * (count - len(policies))]
        self.notes: list[str] = []

    def reached(self, *ways: str) -> Grid:
        stores = []
        for index, server in enumerate(self.servers):
            files = WAYS[ways[index % len(ways)]](self, index)
            stores.append(FolderStore(server, files, random_bytes=os.urandom))
        self._grids.append(Grid(stores))
        return self._grids[-1]

    def served(self, index: int, *, old: bool = False) -> SftpFiles:
        return served_files(self.root(index), self.policies[index], old=old, name=f"s{index}", notes=self.notes)

    def held(self, si: bytes) -> dict[str, list[int]]:
        """Which share numbers of an object lie on which server."""
        folder = container.share_folder(si)
        found = {
            f"s{index}": sorted(int(path.name) for path in (self.root(index) / folder).glob("*"))
            for index in range(len(self.servers))
        }
        return {name: numbers for name, numbers in found.items() if numbers}


WAYS: dict[str, Callable[[ServedGrid, int], Files]] = {
    "served": lambda grid, index: grid.served(index),
    "old": lambda grid, index: grid.served(index, old=True),
    "openssh": lambda grid, index: SftpFiles(PipeStream, str(grid.root(index)), name=f"s{index}"),
    "local": lambda grid, index: LocalFiles(grid.root(index), name=f"s{index}"),
}
TWO_OF_THREE = Encoding(2, 3, 3)


@pytest.fixture
def make_grid(tmp_path: Path) -> Iterator[Callable[..., ServedGrid]]:
    made: list[ServedGrid] = []

    def make(count: int, *policies: Policy) -> ServedGrid:
        made.append(ServedGrid(tmp_path / f"grid{len(made)}", count, *policies))
        return made[-1]

    yield make
    for grid in made:
        grid.close()


T = TypeVar("T")


def ask(grid: Grid, index: int, call: Callable[[ShareStore], T]) -> T:
    """In the worker of a server: what it answers."""
    return grid.submit(grid.stores[index], call).result()


def adding(word: bytes) -> Callable[[bytes], bytes]:
    """A change that puts a word at the end, once."""
    return lambda old: old if old.endswith(word) else old + word


def put(grid: Grid, data: bytes, encoding: Encoding = TWO_OF_THREE) -> Uploaded:
    return upload(grid, data, writing(encoding))


def got(grid: Grid, done: Uploaded) -> bytes:
    assert isinstance(done.cap, ChkCap)
    pieces: list[bytes] = []
    download(grid, done.cap, lambda piece: pieces.append(bytes(piece)))
    return b"".join(pieces)


@pytest.mark.parametrize("ways", [("served", "old", "openssh", "local"), ("local", "served", "openssh", "old")])
def test_the_same_folders_one_way_after_the_other(make_grid: Callable[..., ServedGrid], ways: tuple[str, ...]) -> None:
    """Nothing is converted: what one way has written the next one reads, changes, renews and repairs."""
    grid = make_grid(3)
    files: list[tuple[Uploaded, bytes]] = []
    with grid.reached(ways[-1]) as first:
        slot = create(first, b"made", publishing(TWO_OF_THREE), mdmf=False)
    text = b"made"
    for number, way in enumerate(ways):
        with grid.reached(way) as now:
            assert content_of(now, slot.cap) == text
            for done, data in files:
                assert got(now, done) == data
            files.append((put(now, content(70_000, number)), content(70_000, number)))
            text += b" " + way.encode()
            changed = modify(now, slot.cap, adding(b" " + way.encode()), publishing())
            assert changed.seqnum == number + 2
            later = replace(publishing(), now=publishing().now + 1000 * (number + 1))
            store = now.stores[0]
            shnums = grid.held(slot.cap.verify_cap().si)["s0"]
            items = [LeaseOf(slot.cap.verify_cap().si, n, later.lease(slot.cap.verify_cap().si, store)) for n in shnums]
            assert ask(now, 0, partial(FolderStore.renew, items=items)) == [True] * len(items)
    for way in ways:
        with grid.reached(way) as now:
            assert content_of(now, slot.cap) == text
            for done, data in files:
                assert got(now, done) == data
            assert all(len(ask(now, n, lambda store: list(store.inventory()))) == 1 + len(files) for n in range(3))
    assert all(list((grid.root(index) / "locks").iterdir()) == [] for index in range(3))


def test_servers_of_every_sort_in_one_grid(make_grid: Callable[..., ServedGrid]) -> None:
    grid = make_grid(4)
    with grid.reached("served", "old", "openssh", "local") as now:
        made = create(now, b"one", publishing(Encoding(2, 4, 4)), mdmf=True)
        modify(now, made.cap, adding(b" two"), publishing())
        assert content_of(now, made.cap) == b"one two"
        done = put(now, content(100_000), Encoding(2, 4, 4))
        assert done.happiness == 4
        assert got(now, done) == content(100_000)


def other_key(grid: ServedGrid, index: int, si: bytes, shnum: int) -> bytes:
    """Have somebody else's share stand under a storage index, of a key of his own."""
    path = grid.root(index) / container.share_path(si, shnum)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(kept_shares.mutable(kept_shares.slots(9)[shnum], kept_shares.OURS))
    return path.read_bytes()


@pytest.mark.parametrize("way", ["served", "old"])
def test_a_storage_index_that_another_key_holds_goes_elsewhere(make_grid: Callable[..., ServedGrid], way: str) -> None:
    grid = make_grid(4)
    with grid.reached(way) as now:
        made = create(now, b"one", publishing(TWO_OF_THREE), mdmf=False)
        si = made.cap.verify_cap().si
        [(name, [shnum])] = [each for each in grid.held(si).items() if each[0] in ("s0", "s1", "s2", "s3")][:1]
        index = int(name[1:])
        squatter = other_key(grid, index, si, 0)
        if shnum:
            (grid.root(index) / container.share_path(si, shnum)).unlink()
        done = modify(now, made.cap, lambda _: b"one two", publishing())
        assert content_of(now, made.cap) == b"one two"
        assert "another key holds" in done.silent[name]
        assert sorted(done.placement) == [0, 1, 2]
        assert name not in {each for names in done.placement.values() for each in names}
    assert (grid.root(index) / container.share_path(si, 0)).read_bytes() == squatter


def test_an_immutable_share_goes_elsewhere_too(make_grid: Callable[..., ServedGrid]) -> None:
    grid = make_grid(4)
    data = content(100_000)
    with grid.reached("served") as now:
        si = put(make_grid(3).reached("local"), data).cap.storage_index
        assert si is not None
        names = [store.server.name for store in now.permuted(si)]
        other_key(grid, int(names[0][1:]), si, 1)
        done = put(now, data)
        assert got(now, done) == data
        assert {name for placed in done.placement.values() for name in placed} == set(names[1:])


def test_what_a_full_server_says_is_shown_and_others_take_the_shares(make_grid: Callable[..., ServedGrid]) -> None:
    grid = make_grid(4, *[Policy(quota=200_000)] * 2)
    with grid.reached("served") as now:
        for number in range(3):
            assert put(now, content(300_000, number), Encoding(2, 2, 3)).happiness >= 2
        with pytest.raises(NotHappy, match=r"nothing was stored.*quota"):
            put(now, content(300_000, 9), Encoding(2, 3, 3))
        policy = ask(now, 0, lambda store: store.policy())
        assert policy is not None
        assert (policy.quota, policy.append_only) == (200_000, False)
        assert policy.used is not None
        assert policy.used <= 200_000
    for index in range(2):
        total = sum(path.stat().st_size for path in grid.root(index).rglob("*") if path.is_file())
        assert total <= 200_000


def test_a_full_server_can_still_be_edited_on_others(make_grid: Callable[..., ServedGrid]) -> None:
    grid = make_grid(4, Policy(quota=60_000))
    with grid.reached("served") as now:
        made = create(now, b"one", publishing(Encoding(2, 3, 4)), mdmf=False)
        done = modify(now, made.cap, lambda _: content(300_000), publishing(Encoding(2, 3, 4)))
        assert "quota" in done.silent["s0"]
        assert done.happiness == 3
        assert content_of(now, made.cap) == content(300_000)


def test_a_server_that_is_read_only_gets_nothing(make_grid: Callable[..., ServedGrid]) -> None:
    grid = make_grid(4, Policy(read_only=True))
    with grid.reached("served") as now:
        done = put(now, content(100_000), Encoding(2, 3, 3))
        assert got(now, done) == content(100_000)
        made = create(now, b"one", publishing(Encoding(2, 3, 3)), mdmf=False)
        modify(now, made.cap, adding(b" two"), publishing())
        assert "s0" not in grid.held(made.cap.verify_cap().si)
        with pytest.raises(NotHappy, match="s0: this server is read-only"):
            put(now, content(100_000, 2), Encoding(2, 4, 4))


def test_an_append_only_server_takes_everything_and_gives_nothing_up(make_grid: Callable[..., ServedGrid]) -> None:
    grid = make_grid(3, *[Policy(append_only=True, history=2)] * 3)
    with grid.reached("served") as now:
        made = create(now, b"one", publishing(TWO_OF_THREE), mdmf=False)
        for word in (b" two", b" three", b" four"):
            modify(now, made.cap, adding(word), publishing())
        assert content_of(now, made.cap) == b"one two three four"
        done = put(now, content(100_000))
        assert got(now, done) == content(100_000)
        si = made.cap.verify_cap().si
        store = now.stores[0]
        shnums = grid.held(si)["s0"]
        ours = [LeaseOf(si, n, publishing().lease(si, store)) for n in shnums]
        ask(now, 0, lambda store: store.withdraw(ours))
        assert grid.held(si)["s0"] == shnums
    kept = [path.name for path in (grid.root(0) / "history").rglob(f"{shnums[0]}.*")]
    assert len(kept) == 2


def test_what_an_operation_placed_can_be_withdrawn_by_its_lease(make_grid: Callable[..., ServedGrid]) -> None:
    """Too few servers take a new file: what lies on the others is given up again."""
    grid = make_grid(3, Policy(read_only=True), Policy(read_only=True))
    with grid.reached("served") as now:
        with pytest.raises(NotHappy, match="read-only"):
            create(now, b"one", publishing(TWO_OF_THREE), mdmf=False)
        assert grid.share_files() == []
        assert len(list((grid.root(2) / "trash").rglob("*.*"))) > 0
    other = make_grid(1)
    with other.reached("served") as now:
        made = create(now, b"one", publishing(Encoding(1, 1, 1)), mdmf=False)
        [store], si = now.stores, made.cap.verify_cap().si
        theirs = LeaseOf(si, 0, Lease(b"r" * 32, b"not ours".ljust(32), 0))
        ask(now, 0, lambda store: store.withdraw([theirs]))
        assert other.held(si) == {"s0": [0]}
        ours = LeaseOf(si, 0, publishing().lease(si, store))
        ask(now, 0, lambda store: store.withdraw([ours]))
        assert other.held(si) == {}
    assert len(list((other.root(0) / "trash").rglob("*.0"))) == 1


@pytest.mark.parametrize("way", ["served", "old"])
def test_leases_of_others_are_added_to_both_kinds_of_shares(make_grid: Callable[..., ServedGrid], way: str) -> None:
    grid = make_grid(3)
    with grid.reached(way) as now:
        made = create(now, b"one", publishing(TWO_OF_THREE), mdmf=False)
        done = put(now, content(100_000))
        for si in (made.cap.verify_cap().si, done.cap.storage_index):
            assert si is not None
            [shnum] = grid.held(si)["s0"]
            for number in range(6):  # more than a mutable container has room for in its head
                item = LeaseOf(si, shnum, Lease(bytes([number]) * 32, b"c" * 32, 1_900_000_000 + number, 1))
                assert ask(now, 0, partial(FolderStore.add_lease, items=[item])) == [True]
                assert ask(now, 0, partial(FolderStore.add_lease, items=[item])) == [False]
            later = [LeaseOf(si, shnum, Lease(b"\5" * 32, b"c" * 32, 1_950_000_000, 1))]
            assert ask(now, 0, partial(FolderStore.renew, items=later)) == [True]
        assert content_of(now, made.cap) == b"one"
        assert modify(now, made.cap, adding(b" two"), publishing()).happiness == 3
        [slot] = grid.held(made.cap.verify_cap().si)["s0"]
        again = [LeaseOf(made.cap.verify_cap().si, slot, later[0].lease)]
        assert ask(now, 0, partial(FolderStore.renew, items=again)) == [True]
        assert got(now, done) == content(100_000)


def test_a_lost_connection_is_no_guard_any_more(make_grid: Callable[..., ServedGrid]) -> None:
    """What was staged on it is set aside; who comes next does not wait, and the sweep clears it away."""
    grid = make_grid(1)
    files = grid.served(0)
    store = FolderStore(grid.servers[0], files, random_bytes=os.urandom)
    guard = store.guard(bytes(16))
    guard.stage([(0, [b"anything"])])
    files._shut()  # as a connection ends: with no word
    with pytest.raises(GuardLost):
        guard.touch()
    with store.guard(bytes(16)) as again:
        assert again is not guard
    [left] = (grid.root(0) / "locks").iterdir()
    assert left.name.startswith(".broken.")
    assert store.locks.sweep(-10) == 1
    assert not left.exists()
    store.close()


def test_a_guard_that_is_held_says_by_whom(make_grid: Callable[..., ServedGrid]) -> None:
    """One call refuses, the plain way tells the rest; a holder whose connection has ended holds up nobody."""
    grid = make_grid(1)
    one, two = (FolderStore(grid.servers[0], grid.served(0), random_bytes=os.urandom) for _ in range(2))
    guard = one.guard(bytes(16))
    assert isinstance(guard, CalledGuard)
    with pytest.raises(GuardHeld, match=f"process {os.getpid()} on") as held:  # the server is a thread of this process
        two.guard(bytes(16))
    assert held.value.owner.startswith("process ")
    plain = FolderStore(grid.servers[0], LocalFiles(grid.root(0)), random_bytes=os.urandom)
    with pytest.raises(GuardHeld):
        plain.guard(bytes(16))
    one.close()
    with two.guard(bytes(16)) as again:
        assert isinstance(again, CalledGuard)
        with pytest.raises(GuardHeld):
            plain.guard(bytes(16))
    with plain.guard(bytes(16)), pytest.raises(GuardHeld):
        two.guard(bytes(16))
    for store in (two, plain):
        store.close()


def test_what_may_be_put_away(make_grid: Callable[..., ServedGrid]) -> None:
    """A share that fails its own proof goes to quarantine, a good one only with its last lease."""
    grid = make_grid(3)
    theirs = Lease(b"t" * 32, b"T" * 32, 1_900_000_000, 1)
    with grid.reached("served") as now:
        done = put(now, content(100_000))
        si = done.cap.storage_index
        assert si is not None
        store = now.stores[0]
        ours = writing().lease(si, store)
        [shnum] = grid.held(si)["s0"]
        path = grid.root(0) / container.share_path(si, shnum)
        good = path.read_bytes()

        def bury(store: ShareStore) -> None:
            with store.guard(si) as guard:
                guard.bury([shnum], ours)

        assert ask(now, 0, partial(FolderStore.add_lease, items=[LeaseOf(si, shnum, theirs)])) == [True]
        with pytest.raises(NotSupported, match="others have leases on it"):
            ask(now, 0, bury)
        assert path.exists(), "of which our lease is given up"
        with pytest.raises(NotSupported, match="no lease with this cancel secret"):
            ask(now, 0, bury)
        path.write_bytes(good[:-100] + b"x" + good[-99:])
        ask(now, 0, bury)
        assert not path.exists()
        assert [each.name.split(".")[1:3] for each in (grid.root(0) / "quarantine").iterdir()] == [
            [b32encode(si), str(shnum)]
        ]
        path.write_bytes(good)
        ask(now, 0, bury)
        assert not path.exists()
    assert len(list((grid.root(0) / "trash").rglob(f"{b32encode(si)}.{shnum}"))) == 1
    assert list((grid.root(0) / "locks").iterdir()) == []
