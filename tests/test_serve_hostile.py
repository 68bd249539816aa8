"""What a client with a valid login tries against others: their leases, their leftovers, their keys, the quota."""

from __future__ import annotations

import os
import socket
import struct
import time
import tomllib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.formats.container import lease_record
from lafscli.formats.mutable_container import MutableContainer, MutableLease
from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import CONNECTION_LOST, PERMISSION_DENIED, READ, WRITE, Refused
from lafscli.server.placing import Proofs
from lafscli.server.policy import Policy, PolicyFiles
from lafscli.server.streams import FdStream
from lafscli.storage.owner import Owner
from lafscli.storage.packets import string
from lafscli.storage.serverfile import LIST_LOCK
from tests.kept_shares import OURS, SI, SLOT_SI, THEIRS, Lease, immutable, mutable, shares, slots
from tests.policed import GUARD, SHARE, SLOT, furnish, good, held, share_of, stage, take, talking, token, version
from tests.raw_sftp import RawClient, conversation, take_string

OWNER = Owner("elsewhere", "a boot", 5, 20.0).serialise()


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


def cancel(client: RawClient, si: bytes, shnum: int, secret: bytes) -> int:
    answer = client.extended("cancel-lease@lafs", struct.pack(">I", 1) + si + struct.pack(">I", shnum) + secret)
    assert answer is not None
    return int.from_bytes(answer[4:8], "big")


def call(client: RawClient, si: bytes) -> str:
    """A guard by one call; its token."""
    body = client.extended("guard@lafs", b"\0" + si + string(OWNER))
    assert body is not None
    return take_string(body, 0)[0].decode()


def broken(root: Path, si: bytes, name: str, data: bytes) -> str:
    """What a writer over plain SFTP has left; its path."""
    left = f"locks/.broken.{b32encode(si)}.{token()}/{token()}/{name}"
    (root / left).parent.mkdir(parents=True)
    (root / left).write_bytes(data)
    return left


# ---- leases


def _later(lease: Lease) -> Lease:
    return lease[0], lease[1], int(time.time()) + 1000


def test_a_secret_that_everybody_can_read_cancels_nothing(root: Path) -> None:
    """Containers of version 1 have the secrets in clear (spec 06 §2)."""
    share = shares()[1]
    record = struct.pack(">L32s32sL", 0, *_later(OURS))
    free = MutableContainer.new(b"n" * 20, b"w" * 32)
    lease = MutableLease.make(*_later(OURS), b"n" * 20, version=1)
    slot = replace(free, version=1, slots=(lease, *free.slots[1:])).resized(len(slots(3)[1]))
    for si, path, data in (
        (SI, share_of(SI, 1), struct.pack(">3L", 1, len(share), 1) + share + record),
        (SLOT_SI, share_of(SLOT_SI, 1), slot.front() + slots(3)[1] + slot.back()),
    ):
        (root / path).write_bytes(data)
        with talking(root) as client:
            assert OURS[1] in client.get(path)
            assert cancel(client, si, 1, OURS[1]) == PERMISSION_DENIED
        assert (root / path).read_bytes() == data


def test_who_adds_a_lease_drops_none_that_has_ended(root: Path) -> None:
    """While the host removes nothing, the share stays: he could cancel his own lease then, the last one."""
    ended = (b"o" * 32, b"O" * 32, 1_700_000_000)
    (root / SLOT).write_bytes(mutable(slots(3)[0], ended))
    with talking(root) as client:
        path = held(client, mutable(slots(3)[0], _later(OURS)))
        assert "lease" in refused(lambda: client.replace(path, SLOT)).message
        client.remove(path)
        client.put(path, mutable(slots(3)[0], ended, _later(OURS)))
        client.replace(path, SLOT)
        assert cancel(client, SLOT_SI, 0, OURS[1]) == 0
    assert (root / SLOT).exists()


# ---- what others left


def test_to_release_a_guard_does_not_remove_what_was_taken_into_it(root: Path) -> None:
    left = broken(root, SLOT_SI, "0", version(5))
    with talking(root) as client:
        mine = call(client, SLOT_SI)
        client.rename(left, f"{GUARD}/{mine}/0")
        client.extended("guard@lafs", b"\1" + SLOT_SI + string(mine.encode()))
    found = [path.read_bytes() for path in (root / "locks").rglob("0")]
    assert found == [version(5)]


def test_what_was_moved_aside_stays_under_any_name(root: Path) -> None:
    left = broken(root, SI, "old.0", good())
    (root / SHARE).unlink()
    paths = [left]
    with talking(root) as client:
        folder = take(client, SI)
        for name, act in ((name, act) for name in ("0", "old.0") for act in (client.rename, client.replace)):
            with suppress(Refused):
                act(paths[-1], f"{folder}/{name}")
                paths.append(f"{folder}/{name}")
        for path in paths:
            refused(lambda path=path: client.remove(path))  # type: ignore[misc]
    with talking(root) as client:
        (left,) = [str(path.relative_to(root)) for path in (root / "locks").rglob("*0") if path.is_file()]
        take(client, SI)
        refused(lambda: client.remove(left))
    assert (root / left).read_bytes() == good()


def test_a_share_of_another_key_makes_nothing_old(root: Path) -> None:
    """With nothing in place, somebody puts a share of his own there."""
    left = broken(root, SLOT_SI, "old.0", version(5))
    (root / SLOT).unlink()
    with talking(root) as client:
        client.rename(stage(client, mutable(slots(9, foreign=True)[1], OURS), SLOT_SI, 1), share_of(SLOT_SI, 1))
        take(client)
        assert "newer" in refused(lambda: client.remove(left)).message
    assert (root / left).read_bytes() == version(5)


# ---- shares


def test_who_adds_a_lease_does_not_change_the_write_enabler(root: Path) -> None:
    extra = (b"e" * 32, b"E" * 32, int(time.time()) + 1000)
    with talking(root) as client:
        path = held(client, mutable(slots(3)[0], OURS, THEIRS, extra, enabler=b"x" * 32, node_id=b"x" * 20))
        assert "write enabler" in refused(lambda: client.replace(path, SLOT)).message
    assert (root / SLOT).read_bytes() == version(3)


def test_a_mutable_share_does_not_come_beside_an_immutable_one(root: Path) -> None:
    with talking(root) as client:
        path = stage(client, mutable(slots(3)[1], OURS), SI, 1)
        assert "immutable" in refused(lambda: client.rename(path, share_of(SI, 1))).message
        client.rename(stage(client, good(1), SI, 1), share_of(SI, 1))


def test_a_share_that_is_refused_leaves_no_folders(root: Path) -> None:
    before = sorted((root / "shares").rglob("*"))
    with talking(root, Policy(quota=1 << 30)) as client:
        for number in range(3):
            si = bytes([number]) * 16
            path = stage(client, b"no share", si)
            refused(lambda path=path, si=si: client.rename(path, share_of(si, 0)))  # type: ignore[misc]
            client.remove(path)
            assert sorted((root / "shares").rglob("*")) == before
        client.rename(stage(client, good(), si), share_of(si, 0))


def test_a_proof_ends_when_its_client_is_gone(root: Path) -> None:
    share = shares(bytes(17 << 20), 1, 1, 1 << 20)[0]
    (root / SHARE).write_bytes(immutable(share[:-1] + b"x", OURS))
    here: list[int] = []
    with conversation(lambda: PolicyFiles(root, Policy(), gone=lambda: not here)) as talk:
        path = held(talk.client, immutable(share, OURS), SI)
        assert refused(lambda: talk.client.replace(path, SHARE)).code == CONNECTION_LOST
        here.append(1)
        talk.client.replace(path, SHARE)


def test_one_is_gone_who_takes_no_answers_any_more() -> None:
    for closes in (True, False):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            stream = FdStream(ours.fileno(), ours.fileno())
            theirs.shutdown(socket.SHUT_WR)
            assert not stream.gone()
            if closes:
                theirs.close()
            else:
                theirs.shutdown(socket.SHUT_RD)
                ours.shutdown(socket.SHUT_WR)
            assert stream.gone()
    pipes = [os.pipe(), os.pipe()]
    stream = FdStream(pipes[0][0], pipes[1][1])
    os.close(pipes[0][1])
    assert not stream.gone()
    os.close(pipes[1][0])
    assert stream.gone()
    stream.close()


def test_what_fails_is_not_proven_again_while_others_wait(root: Path) -> None:
    share = shares(bytes(17 << 20), 1, 1, 1 << 20)[0]
    (root / SHARE).write_bytes(immutable(share, OURS))
    with (root / SHARE).open("r+b") as file:
        file.seek(12 + 36 + (16 << 20) + 5)
        file.write(b"x")
        file.flush()
        looks: list[int] = []
        changed = os.fstat(file.fileno()).st_ctime_ns
        for later, times in ((1, 2), (3, 1)):
            looks.clear()
            judge = Proofs(lambda: looks.append(1), lambda: changed + later * 1_000_000_000)  # noqa: B023
            assert judge.fails(file.fileno(), SI, 0)
            assert judge.fails(file.fileno(), SI, 0)
            assert len(looks) == times


# ---- the list


def test_the_epoch_does_not_rise_so_far_that_it_can_rise_no_more(root: Path) -> None:
    first = (root / "server.toml").read_text()
    me = tomllib.loads(first)["node-id"]

    def listed(epoch: int) -> bytes:
        return f'{first}grid = "g"\nepoch = {epoch}\nmembers = ["{me}"]\n'.encode()

    with talking(root) as client:
        folder = take(client, LIST_LOCK)
        high = 1 << 32
        for epoch, may in (((1 << 63) - 1, False), (3, True), (1 << 62, False), (high, True), (high + 2000, False)):
            client.put(f"{folder}/0", listed(epoch))
            if may:
                client.replace(f"{folder}/0", "server.toml")
            else:
                assert "epoch" in refused(lambda: client.replace(f"{folder}/0", "server.toml")).message
                client.remove(f"{folder}/0")


# ---- the quota


def test_leases_are_refused_where_the_quota_is_used_up(root: Path) -> None:
    policy = Policy(quota=1 << 20)
    with talking(root, policy) as client:
        handle = client.open(SHARE, READ | WRITE)
        filler = client.open(f"staging/{b32encode(SI)}.1.{token()}", WRITE | 8 | 32)
        for step in (1 << 19, 1 << 16, 1 << 12, 1 << 8, 16, 1):
            size = client.fstat(filler).size or 0
            try:
                while True:
                    client.write(filler, size + step - 1, b"x")
                    size += step
            except Refused:
                continue
        size = client.fstat(handle).size
        assert size is not None
        record = lease_record(b"e" * 32, b"E" * 32, int(time.time()) + 1000)
        assert "quota" in refused(lambda: client.write(handle, size, record)).message
        # a renewal needs no room
        client.write(handle, size - 4, struct.pack(">I", 1_900_000_000))
