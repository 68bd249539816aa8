"""`--quota` and `--reserve`: what is counted, what is refused, across connections and after crashes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import FAILURE, READ, WRITE, Refused
from lafscli.server.policy import Policy, PolicyFiles
from lafscli.server.quota import ENTRY, Quota, size_text, weigh
from tests.conftest import Mount
from tests.kept_shares import SI, SLOT_SI, immutable, mutable, slots
from tests.policed import NEW, SHARE, SLOT, furnish, good, share_of, stage, talking, token, version
from tests.raw_sftp import Attributes, RawClient, conversation
from tests.test_serve_guards import call, end, replace

MIB = 1 << 20
TOPS = ("shares", "staging", "locks", "trash", "quarantine", "history")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "served"
    root.mkdir()
    furnish(root)
    return root


def refused(act: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as raised:
        act()
    return raised.value


def weight(root: Path) -> int:
    """What is there, counted in another way."""
    total = 0
    for path in root.rglob("*"):
        names = path.relative_to(root).parts
        if names[0] in ("shares", "staging", "locks") and path.is_dir():
            total += ENTRY
        elif names[0] in TOPS and names[:2] != ("history", ".serve") and path.is_file():
            total += ENTRY + path.stat().st_size
    return total


def used(root: Path) -> int:
    """What the record says."""
    files = PolicyFiles(root, Policy(quota=1 << 50))
    try:
        found = files._quota.used()
        assert found is not None
        return found
    finally:
        files.close()


def fill(client: RawClient, path: str, piece: int = 1 << 16) -> int:
    """Write until it is refused; how much went."""
    handle = client.open(path, NEW)
    offset = 0
    with pytest.raises(Refused, match=r"quota of|reserve of") as raised:  # noqa: PT012
        while True:
            client.write(handle, offset, bytes(piece))
            offset += piece
    assert raised.value.code == FAILURE
    client.close(handle)
    return offset


def test_sizes_are_written_as_people_do() -> None:
    assert [size_text(size) for size in (0, 1023, 1 << 10, 10 << 30, 3 << 19, 1 << 50)] == [
        *("0 bytes", "1023 bytes", "1 KiB", "10 GiB", "1.5 MiB", "1024 TiB")
    ]


def test_what_is_there_is_counted_whatever_is_done(root: Path) -> None:
    assert used(root) == weight(root)
    policy = Policy(quota=100 * MIB)
    with talking(root, policy) as client:
        staged = stage(client, good(1), shnum=1)
        client.rename(staged, share_of(SI, 1))
        client.remove(stage(client, bytes(300_000)))
        kept = stage(client, bytes(70_000))
        handle = client.open(kept, WRITE)
        client.write(handle, 1 << 20, b"x")
        client.close(handle)
        client.mkdir("shares/aa")
        client.mkdir(f"shares/aa/{'a' * 26}")
        mine = call(client)
        for seqnum in (4, 5, 6):
            client.put(f"locks/{b32encode(SLOT_SI)}/{mine}/0", version(seqnum))
            assert replace(client, mine, [0]) == [(0, "")]
        client.put(f"locks/{b32encode(SLOT_SI)}/{mine}/1", version(6, 1))
        end(client, 1, mine)
        end(client, 1, call(client))
        lease = client.open(SHARE, WRITE | 4)
        client.write(lease, 0, bytes(4) + os.urandom(64) + b"\x7f\0\0\0")
        client.close(lease)
        call(client)
    assert used(root) == weight(root)


def test_append_only_counts_its_history(root: Path) -> None:
    with talking(root, Policy(quota=100 * MIB, append_only=True, history=2)) as client:
        mine = call(client)
        for seqnum in range(4, 12):
            client.put(f"locks/{b32encode(SLOT_SI)}/{mine}/0", mutable(slots(seqnum)[0], *version_leases()))
            assert replace(client, mine, [0]) == [(0, "")]
    assert used(root) == weight(root)


def version_leases() -> tuple[tuple[bytes, bytes, int], ...]:
    from tests.kept_shares import OURS, THEIRS

    return OURS, THEIRS


def test_the_quota_is_kept_to_and_told(root: Path) -> None:
    policy = Policy(quota=weight(root) + 2 * MIB)
    with talking(root, policy) as client:
        path = f"staging/{b32encode(SI)}.1.{token()}"
        went = fill(client, path)
        assert 2 * MIB - (1 << 16) - 2 * ENTRY <= went <= 2 * MIB - ENTRY
        message = refused(lambda: client.setstat(path, Attributes(size=1 << 40))).message
        assert message.startswith("quota of ")
        assert message.endswith(" is used up")
        # a hole counts as what it will be
        handle = client.open(path, READ | WRITE)
        refused(lambda: client.write(handle, 1 << 40, b"x"))
        client.write(handle, 0, b"what is there may be written over")
        client.close(handle)
        for _ in range(40):  # nor are empty files and folders for nothing
            with suppress(Refused):
                client.mkdir(f"shares/{token()[:2]}")
                stage(client, b"")
        assert policy.quota is not None
        assert weight(root) <= policy.quota
        client.remove(path)
        assert fill(client, path) > MIB
        assert client.get(SHARE) == good()


def test_what_is_lost_in_a_crash_is_found_again(root: Path) -> None:
    policy = Policy(quota=weight(root) + 400 * MIB)
    assert used(root) == weight(root)
    for _ in range(3):
        with conversation(lambda: PolicyFiles(root, policy), forked=True) as talk:
            stage(talk.client, bytes(100_000))
            talk.kill(signal.SIGKILL)
    ahead = used(root) - weight(root)
    assert ahead > MIB, "each had taken some megabytes ahead"
    # a day later somebody asks for the last bytes, and it is counted anew before anything is refused
    for name in os.listdir(root / "history" / ".serve" / "takers"):
        assert name
    quota = Quota(os.open(root, os.O_RDONLY), policy.quota, 0, now=lambda: 4e9)
    assert policy.quota is not None
    quota.take(policy.quota - weight(root))
    quota.close()
    assert list((root / "history" / ".serve" / "takers").iterdir()) == []
    # and a connection that lives keeps what it has taken ahead
    assert used(root) >= weight(root)


def test_a_record_that_is_damaged_or_asked_to_be_is_counted_anew(root: Path) -> None:
    record = root / "history" / ".serve" / "used"
    right = used(root)
    for damage in (b"", b"garbage", record.read_bytes() + b"x", b"\0" * 40):
        record.write_bytes(damage)
        assert used(root) == right == weight(root)
    (root / "staging" / "by hand").write_bytes(bytes(5000))
    assert used(root) == right
    fd = os.open(root, os.O_RDONLY)
    quota = Quota(fd, 1 << 50, 0, now=lambda: 4e9)
    quota.ask_for_recount()
    quota.close()
    assert used(root) == weight(root) == right + 5000 + ENTRY == weigh(fd)
    os.close(fd)


def test_statvfs_is_true_and_no_more_than_the_quota(root: Path) -> None:
    disk = os.statvfs(root)
    with talking(root) as client:
        told = client.statvfs("/")
        assert told[:3] == (disk.f_bsize, disk.f_frsize, disk.f_blocks)
        assert abs(told[4] - disk.f_bavail) * disk.f_frsize < 100 * MIB
    with talking(root, Policy(quota=weight(root) + 10 * MIB)) as client:
        told = client.statvfs("shares")
        assert told[2] * told[1] <= weight(root) + 10 * MIB
        assert 9 * MIB <= told[4] * told[1] <= 10 * MIB
    with talking(root, Policy(reserve=1 << 60)) as client:
        assert client.statvfs("/")[4] == 0


def test_the_reserve_stays_free(tmp_path: Path, mount: Mount) -> None:
    root = tmp_path / "small"
    mount(root, "size=8m")
    furnish(root)
    with talking(root, Policy(reserve=4 * MIB)) as client:
        path = f"staging/{b32encode(SI)}.1.{token()}"
        went = fill(client, path)
        assert went > 3 * MIB
        disk = os.statvfs(root)
        assert disk.f_bavail * disk.f_frsize >= 4 * MIB - (1 << 16)
        message = refused(lambda: stage(client, bytes(1 << 17))).message
        assert message == "no space left: less than the reserve of 4 MiB is free"
        client.remove(path)
        client.rename(stage(client, good(1), shnum=1), share_of(SI, 1))


def _writes(root: Path, policy: Policy, number: int) -> int:
    """Another process that stages, resumes, cuts and removes until nothing goes any more."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    with suppress(BaseException):
        with talking(root, policy) as client:
            for round_ in range(6):
                path = f"staging/{b32encode(SI)}.{number}.{token()}"
                with suppress(Refused):
                    fill(client, path, 50_000 + 1000 * number)
                if round_ % 2 and round_ < 5:
                    with suppress(Refused):
                        client.setstat(path, Attributes(size=1000))
                        client.remove(path)
        code = 0
    os._exit(code)


def test_many_connections_at_once_stay_within_it(root: Path) -> None:
    policy = Policy(quota=weight(root) + 6 * MIB)
    assert policy.quota is not None
    pids = [_writes(root, policy, number) for number in range(6)]
    fd = os.open(root, os.O_RDONLY)
    counter = Quota(fd, policy.quota, 0, now=lambda: 4e9)
    most = 0
    left = set(pids)
    while left:
        counter.recount()
        most = max(most, weigh(fd))
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            left.discard(pid)
            assert status == 0
    counter.close()
    os.close(fd)
    assert most <= policy.quota
    assert weight(root) <= used(root)
    assert weight(root) > policy.quota - 2 * MIB


def test_what_is_removed_while_it_is_open_is_given_back_by_the_last(root: Path) -> None:
    policy = Policy(quota=weight(root) + 3 * MIB)
    with talking(root, policy) as client, talking(root, policy) as other:
        path = stage(client, bytes(2 * MIB))
        handle = other.open(path, WRITE)
        client.remove(path)
        refused(lambda: stage(client, bytes(2 * MIB)))
        other.close(handle)
        for name in client.listdir("staging"):
            client.remove(f"staging/{name}")
        refused_or_not = 0
        for _ in range(200):
            try:
                client.remove(stage(client, bytes(2 * MIB)))
                break
            except Refused:
                refused_or_not += 1
                for name in client.listdir("staging"):
                    client.remove(f"staging/{name}")
        assert refused_or_not < 200
    assert weight(root) <= used(root)


def test_without_one_nothing_is_counted(root: Path) -> None:
    with talking(root) as client:
        stage(client, bytes(1000))
        client.rename(stage(client, immutable(good(1)[12:-72]), shnum=1), share_of(SI, 1))
        assert client.get(SLOT) == version(3)
    assert not (root / "history" / ".serve" / "used").exists()


def test_nothing_is_given_back_twice(root: Path) -> None:
    """By links, by files that are open when they go, by guards that end around them."""
    policy = Policy(quota=100 * MIB)
    assert used(root) == weight(root)
    with talking(root, policy) as client, talking(root, policy) as other:
        base = f"staging/.probe.{token()}"
        client.put(f"{base}.0", b"")
        for number in range(1, 10):
            client.link(f"{base}.0", f"{base}.{number}")
        handle = client.open(f"{base}.10", NEW)
        client.write(handle, 0, bytes(4096))
        client.link(f"{base}.10", f"{base}.11")
        client.remove(f"{base}.10")
        client.close(handle)
        # taken into a guard while another one writes it
        staged = stage(client, bytes(MIB))
        writer = other.open(staged, WRITE)
        mine = call(client, SI)
        client.replace(staged, f"locks/{b32encode(SI)}/{mine}/0")
        end(client, 1, mine, SI)
        other.write(writer, 0, bytes(2 * MIB)[:200_000])
        other.close(writer)
        # open twice
        staged = stage(client, bytes(MIB))
        first, second = client.open(staged, WRITE), other.open(staged, WRITE)
        client.remove(staged)
        client.close(first)
        other.close(second)
        # cut, and written again by one who had it open
        staged = stage(client, bytes(MIB))
        writer = other.open(staged, WRITE)
        client.setstat(staged, Attributes(size=0))
        other.write(writer, 0, bytes(200_000))
        other.close(writer)
        client.remove(staged)
    assert used(root) >= weight(root)
    before = used(root) - weight(root)
    assert before < 2 * MIB


def test_what_is_counted_anew_meanwhile_is_not_given_back_again(root: Path) -> None:
    policy = Policy(quota=100 * MIB)
    with talking(root, policy) as client:
        staged = stage(client, bytes(MIB))
        writer = client.open(staged, WRITE)
        client.remove(staged)
        fd = os.open(root, os.O_RDONLY)
        quota = Quota(fd, 100 * MIB, 0, now=lambda: 4e9)
        quota.ask_for_recount()
        assert quota.used() is not None
        quota.close()
        os.close(fd)
        client.close(writer)
    assert used(root) >= weight(root)
