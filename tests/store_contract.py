"""The contract of `ShareStore`, run: subclass it and give the fixtures `folder` (the server's root) and `store`.

Nothing here knows how the store reaches the folder; the folder is looked at directly to see what a server would see.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from lafscli.errors import CorruptShare, FileExists, FileMissing, GuardHeld, LafsError, NotSupported, ServerUnreachable
from lafscli.formats import container
from lafscli.formats.mutable_container import MutableContainer
from lafscli.storage.shares import GUARDED
from lafscli.storage.store import Lease, Leased, LeaseOf, NewShare, ShareRange, ShareStore, Space
from tests.guard_process import share

SI = bytes(range(16))
OTHER = bytes(range(16, 32))
LEASE = Lease(b"r" * 32, b"c" * 32, 1_800_000_000)
DATA = b"".join(b"%07d\n" % number for number in range(100_000))


def share_file(folder: Path, si: bytes, shnum: int) -> Path:
    return folder / container.share_path(si, shnum)


def stored(data: bytes, lease: Lease = LEASE) -> bytes:
    """The container file of a share (spec 02 §6)."""
    return container.header(len(data), 1) + data + container.lease_record(lease.renew, lease.cancel, lease.expiration)


def put(store: ShareStore, data: bytes, si: bytes = SI, shnum: int = 3) -> None:
    writer = store.create(si, shnum, lease=LEASE)
    writer.append(data)
    writer.seal()
    writer.commit()


def read(store: ShareStore, *wanted: ShareRange) -> list[bytes | LafsError]:
    answers = store.read(wanted).finish()
    return [answer if isinstance(answer, LafsError) else bytes(answer) for answer in answers]


def leftovers(folder: Path) -> list[Path]:
    return list((folder / "staging").iterdir())


class StoreContract:
    """What every store promises."""

    def test_a_share_is_invisible_until_it_is_committed(self, store: ShareStore, folder: Path) -> None:
        writer = store.create(SI, 3, lease=LEASE)
        for start in range(0, len(DATA), 70_001):
            writer.append(DATA[start : start + 70_001])
        assert store.shares([SI]) == [frozenset()]
        writer.seal()
        assert store.shares([SI]) == [frozenset()]
        assert not share_file(folder, SI, 3).exists()
        writer.commit()
        assert store.shares([SI, OTHER]) == [frozenset({3}), frozenset()]
        assert share_file(folder, SI, 3).read_bytes() == stored(DATA)
        assert leftovers(folder) == []

    def test_a_header_known_last(self, store: ShareStore, folder: Path) -> None:
        writer = store.create(SI, 0, lease=LEASE)
        writer.append(bytes(100))
        writer.append(DATA[100:5000])
        writer.write_header(DATA[:100])
        writer.seal()
        writer.commit()
        assert share_file(folder, SI, 0).read_bytes() == stored(DATA[:5000])

    def test_an_aborted_share_leaves_nothing(self, store: ShareStore, folder: Path) -> None:
        for sealed in (False, True):
            writer = store.create(SI, 3, lease=LEASE)
            writer.append(DATA)
            if sealed:
                writer.seal()
            writer.abort()
        assert store.shares([SI]) == [frozenset()]
        assert leftovers(folder) == []
        assert not share_file(folder, SI, 3).parent.exists()

    def test_a_share_that_is_there_is_never_overwritten(self, store: ShareStore, folder: Path) -> None:
        put(store, b"first" * 100)
        writer = store.create(SI, 3, lease=LEASE)
        writer.append(b"second" * 100)
        writer.seal()
        with pytest.raises(FileExists):
            writer.commit()
        writer.abort()
        assert share_file(folder, SI, 3).read_bytes() == stored(b"first" * 100)
        assert leftovers(folder) == []

    def test_two_writers_of_one_share(self, store: ShareStore, folder: Path) -> None:
        one, two = store.create(SI, 3, lease=LEASE), store.create(SI, 3, lease=LEASE)
        one.append(DATA[:1000])
        two.append(DATA[:1000])
        two.seal()
        one.seal()
        one.commit()
        with pytest.raises(FileExists):
            two.commit()
        two.abort()
        assert share_file(folder, SI, 3).read_bytes() == stored(DATA[:1000])

    def test_many_small_shares(self, store: ShareStore, folder: Path) -> None:
        put(store, b"old", OTHER, 1)
        shares = [NewShare(bytes([index]) * 16, index % 3, [b"head", DATA[: index * 10]], LEASE) for index in range(50)]
        shares.append(NewShare(OTHER, 1, [b"new"], LEASE))
        shares.append(NewShare(OTHER, 2, [], LEASE))
        outcomes = store.create_many(shares)
        assert outcomes[:50] == [None] * 50
        assert isinstance(outcomes[50], FileExists)
        assert outcomes[51] is None
        for index in range(50):
            path = share_file(folder, bytes([index]) * 16, index % 3)
            assert path.read_bytes() == stored(b"head" + DATA[: index * 10])
        assert share_file(folder, OTHER, 1).read_bytes() == stored(b"old")
        assert leftovers(folder) == []
        assert store.create_many([]) == []

    def test_reading_ranges(self, store: ShareStore) -> None:
        put(store, DATA)
        wanted = [(0, 10), (8, 8), (5, 0), (200_000, 300_001), (len(DATA) - 5, 5)]
        for keep in (False, True, True):
            answers = read(store, *(ShareRange(SI, 3, offset, length, keep) for offset, length in wanted))
            assert answers == [DATA[offset : offset + length] for offset, length in wanted]
        store.release(SI, 3)
        assert read(store, ShareRange(SI, 3, 0, 4)) == [DATA[:4]]

    def test_reading_into_a_buffer(self, store: ShareStore) -> None:
        put(store, DATA)
        buffer = memoryview(bytearray(400_000))
        wanted = [
            ShareRange(SI, 3, 100, 350_000, keep=True, into=buffer[:350_000]),
            ShareRange(SI, 3, 7, 50_000, keep=True, into=buffer[350_000:]),
        ]
        store.read(wanted).finish()
        assert bytes(buffer) == DATA[100:350_100] + DATA[7:50_007]

    def test_several_readings_under_way(self, store: ShareStore) -> None:
        put(store, DATA)
        under_way = [store.read([ShareRange(SI, 3, start, 90_000, keep=True)]) for start in range(0, 700_000, 90_000)]
        got = b"".join(bytes(reading.finish()[0]) for reading in under_way)  # type: ignore[arg-type]
        assert got == DATA[: len(got)]

    def test_one_bad_item_does_not_spoil_the_batch(self, store: ShareStore, folder: Path) -> None:
        put(store, DATA[:1000])
        for shnum, head in enumerate([b"", b"\0\0\0\3" + bytes(100), b"short"]):
            share_file(folder, SI, shnum).write_bytes(head)
        (folder / "shares" / "zz").mkdir()
        answers = read(store, *(ShareRange(SI, shnum, 0, 10) for shnum in (0, 1, 2, 3, 4)))
        assert [type(answer) for answer in answers[:3]] == [CorruptShare, type(answers[1]), CorruptShare]
        assert isinstance(answers[1], CorruptShare)
        assert answers[3] == DATA[:10]
        assert isinstance(answers[4], FileMissing)

    def test_which_shares_are_there(self, store: ShareStore, folder: Path) -> None:
        for shnum in (0, 9, 255):
            put(store, b"x" * 100, SI, shnum)
        parent = share_file(folder, SI, 0).parent
        for name in ("notes.txt", ".tmp", "0.tmp", "-1", "256", "٣", "1e1"):
            (parent / name).write_bytes(b"")
        (parent / "7").mkdir()
        assert store.shares([SI, OTHER, SI]) == [frozenset({0, 9, 255}), frozenset(), frozenset({0, 9, 255})]
        assert store.present([(SI, 0), (SI, 1), (SI, 7), (OTHER, 0)]) == [184, None, None, None]

    def test_sizes(self, store: ShareStore, folder: Path) -> None:
        put(store, DATA[:1234])
        share_file(folder, SI, 4).write_bytes(b"\0\0\0\2\0\0\0\0\0\0\0\5" + bytes(20))
        sizes = store.share_size([(SI, 3), (SI, 4), (SI, 5)])
        assert sizes[0] == 1234
        assert isinstance(sizes[1], CorruptShare)
        assert isinstance(sizes[2], FileMissing)

    def test_renewing_a_lease(self, store: ShareStore, folder: Path) -> None:
        put(store, DATA[:1000])
        path = share_file(folder, SI, 3)

        def renew(expiration: int, secret: bytes = b"r" * 32) -> bool | LafsError:
            return store.renew([LeaseOf(SI, 3, Lease(secret, b"c" * 32, expiration))])[0]

        assert renew(LEASE.expiration + 50) is True
        assert path.read_bytes() == stored(DATA[:1000], Lease(LEASE.renew, LEASE.cancel, LEASE.expiration + 50))
        assert renew(LEASE.expiration + 20) is True
        assert path.read_bytes() == stored(DATA[:1000], Lease(LEASE.renew, LEASE.cancel, LEASE.expiration + 50))
        before = path.read_bytes()
        assert renew(LEASE.expiration + 90, b"x" * 32) is False
        assert path.read_bytes() == before
        assert isinstance(store.renew([LeaseOf(OTHER, 0, LEASE)])[0], FileMissing)

    def test_renewing_in_a_container_with_several_leases(self, store: ShareStore, folder: Path) -> None:
        records = [
            container.lease_record(bytes([number]) * 32, b"c" * 32, 1_700_000_000, owner=1, version=1)
            for number in range(3)
        ]
        path = share_file(folder, SI, 3)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\0\0\0\1\0\0\0\0\0\0\0\3" + DATA[:500] + b"".join(records))
        assert store.renew([LeaseOf(SI, 3, Lease(b"\1" * 32, b"c" * 32, LEASE.expiration))]) == [True]
        records[1] = records[1][:-4] + LEASE.expiration.to_bytes(4, "big")
        assert path.read_bytes()[512:] == b"".join(records)

    def test_the_inventory(self, store: ShareStore, folder: Path) -> None:
        for shnum in (0, 10, 9):
            put(store, b"x" * shnum, SI, shnum)
        put(store, b"y", OTHER, 1)
        (folder / "shares" / "zz").mkdir()
        (folder / "shares" / "incoming").mkdir()
        (folder / "shares" / "stray").write_bytes(b"")
        found = sorted(store.inventory())
        assert found == [(SI, 0, 84), (SI, 9, 93), (SI, 10, 94), (OTHER, 1, 85)]

    def test_leases_are_told(self, store: ShareStore, folder: Path) -> None:
        put(store, share(), SI, 0)
        put(store, b"no share", SI, 1)
        slot = share_file(folder, SI, 2)
        made = MutableContainer.new(bytes(20), bytes(32)).with_lease(LEASE.renew, LEASE.cancel, 5, bytes(20))
        slot.write_bytes(made.front() + made.back())
        immutable, bad, mutable, missing = store.trash.leases([(SI, 0), (SI, 1), (SI, 2), (OTHER, 0)])
        assert isinstance(immutable, Leased)
        assert isinstance(mutable, Leased)
        for found, expiration in ((immutable, LEASE.expiration), (mutable, 5)):
            [lease] = found.leases
            assert (lease.matches_renew(LEASE.renew), lease.expiration) == (True, expiration)
            assert abs(found.mtime - store.trash.clock()) < 100
        assert (mutable.size, immutable.size) == (slot.stat().st_size, share_file(folder, SI, 0).stat().st_size)
        assert isinstance(bad, CorruptShare)
        assert isinstance(missing, FileMissing)
        assert leftovers(folder) == []

    def test_the_trash(self, store: ShareStore, folder: Path) -> None:
        """Thrown away on terms, found, brought back where nothing stands, removed."""
        for shnum in range(3):
            put(store, share(), SI, shnum)
        put(store, b"no share", SI, 5)
        if not store.server.features >= GUARDED:
            with pytest.raises(NotSupported):
                store.trash.throw_away(SI, range(6))
            return
        asked: list[int] = []

        def may_go(leased: Leased, now: int) -> bool:
            asked.append(now)
            return len(asked) > 1

        done = store.trash.throw_away(SI, range(6), may_go)
        assert isinstance(done.pop(5), CorruptShare)
        assert done == {0: False, 1: True, 2: True}
        assert all(abs(now - store.trash.clock()) < 100 for now in asked)
        assert store.shares([SI]) == [{0, 5}]
        first, second = items = list(store.trash.thrown())
        assert {(item.si, item.shnum, item.size) for item in items} == {
            (SI, shnum, len(stored(share()))) for shnum in (1, 2)
        }
        assert all((folder / item.path).read_bytes() == stored(share()) for item in items)
        assert all(isinstance(leased, Leased) for leased in store.trash.leases_of(items))
        put(store, DATA[:10], SI, second.shnum)
        assert store.trash.bring_back(items) == [True, False]
        assert share_file(folder, SI, first.shnum).read_bytes() == stored(share())
        assert share_file(folder, SI, second.shnum).read_bytes() == stored(DATA[:10])
        assert list(store.trash.thrown()) == [second]
        assert isinstance(store.trash.bring_back([first])[0], FileMissing)
        (folder / "trash" / "stray").write_bytes(b"")
        (folder / "trash" / second.day / "stray").write_bytes(b"")
        assert store.trash.remove(items) == [None, None]
        assert list(store.trash.thrown()) == []

    def test_the_folder_goes_with_the_last_share_and_comes_with_the_next(self, store: ShareStore, folder: Path) -> None:
        put(store, share(), SI, 0)
        if not store.server.features >= GUARDED:
            return
        with store.guard(SI), pytest.raises(GuardHeld):
            store.trash.throw_away(SI, [0])
        assert store.trash.throw_away(SI, [0]) == {0: True}
        assert not share_file(folder, SI, 0).parent.exists()
        put(store, share(), SI, 1)
        [item] = store.trash.thrown()
        store.trash.throw_away(SI, [1])
        assert store.trash.bring_back([item]) == [True]
        assert list((folder / "locks").iterdir()) == []

    def test_sweeping_old_staging(self, store: ShareStore, folder: Path) -> None:
        old, new = folder / "staging" / "old", folder / "staging" / "new"
        old.write_bytes(b"x")
        new.write_bytes(b"x")
        os.utime(old, (old.stat().st_mtime - 90_000,) * 2)
        assert store.sweep_staging(86_400) == 1
        assert [path.name for path in leftovers(folder)] == ["new"]

    def test_space(self, store: ShareStore) -> None:
        space = store.space()
        assert space is None or (isinstance(space, Space) and 0 < space.free <= space.total)

    def test_another_server_than_the_one_that_was_added(self, fresh: ShareStore, folder: Path) -> None:
        """`fresh` has not connected yet."""
        text = (folder / "server.toml").read_text()
        other = text.replace('node-id = "', 'node-id = "').splitlines()
        other = ['node-id = "' + "a" * 32 + '"' if line.startswith("node-id") else line for line in other]
        (folder / "server.toml").write_text("\n".join(other) + "\n")
        with pytest.raises(ServerUnreachable, match="another server"):
            fresh.connect()
        (folder / "server.toml").unlink()
        with pytest.raises(ServerUnreachable, match=r"server\.toml is gone"):
            fresh.connect()
        (folder / "server.toml").write_text(text)
        fresh.connect()

    def test_a_closed_store_does_not_hang(self, store: ShareStore) -> None:
        store.close()
        with contextlib.suppress(LafsError):
            assert store.shares([SI]) is not None
