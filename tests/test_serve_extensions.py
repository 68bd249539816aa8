"""Requests of our own: policy, presence, inventory, cancel-lease; guards and replacing are in test_serve_guards."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lafscli import __version__
from lafscli.formats.container import share_path
from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import BAD_MESSAGE, FAILURE, OP_UNSUPPORTED, PERMISSION_DENIED, Refused
from lafscli.server.policy import Policy, PolicyFiles
from lafscli.server.quota import weigh
from lafscli.storage.packets import string
from tests.kept_shares import OURS, SI, SLOT_SI, THEIRS
from tests.policed import SHARE, SLOT, furnish, good, share_of, talking, version
from tests.raw_sftp import RawClient, take_string

NONE = (1 << 64) - 1
Found = list[tuple[bytes, int, int]]


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


def ask(client: RawClient, name: str, body: bytes) -> bytes:
    answer = client.extended(name, body)
    assert answer is not None
    return answer


def inventory(client: RawClient, cursor: bytes = b"", most: int = 8000) -> tuple[Found, bytes]:
    answer = ask(client, "inventory@lafs", string(cursor) + struct.pack(">I", most))
    (count,) = struct.unpack_from(">I", answer)
    found = [struct.unpack_from(">16sIQ", answer, 4 + 28 * number) for number in range(count)]
    following, at = take_string(answer, 4 + 28 * count)
    assert at == len(answer)
    return found, following


def whole(client: RawClient, most: int = 8000) -> Found:
    found, cursor = inventory(client, most=most)
    while cursor:
        more, cursor = inventory(client, cursor, most)
        found += more
    return found


def cancel(client: RawClient, *items: tuple[bytes, int, bytes]) -> list[tuple[int, str]]:
    body = struct.pack(">I", len(items)) + b"".join(struct.pack(">16sI32s", *item) for item in items)
    answer = ask(client, "cancel-lease@lafs", body)
    (count,), at, found = struct.unpack_from(">I", answer), 4, []
    for _ in range(count):
        (code,) = struct.unpack_from(">I", answer, at)
        message, at = take_string(answer, at + 4)
        found.append((code, message.decode()))
    return found


def test_they_are_announced(root: Path) -> None:
    with talking(root) as client:
        ours = {name: version for name, version in client.extensions.items() if name.endswith("@lafs")}
        assert ours == dict.fromkeys(
            [
                *("policy@lafs", "presence@lafs", "inventory@lafs", "guard@lafs", "replace@lafs"),
                "cancel-lease@lafs",
            ],
            "1",
        )
        assert refused(lambda: client.extended("unknown@lafs", b"")).code == OP_UNSUPPORTED
        assert refused(lambda: client.extended("", b"")).code == OP_UNSUPPORTED


def test_the_policy_is_told(root: Path) -> None:
    def told(policy: Policy) -> dict[str, object]:
        with talking(root, policy) as client:
            answer = ask(client, "policy@lafs", b"")
            text, at = take_string(answer, 0)
            assert at == len(answer)
            found = json.loads(text)
            assert isinstance(found, dict)
            return found

    plain = {"append_only": False, "read_only": False, "quota": None, "used": None, "reserve": 0, "history": 0}
    assert told(Policy()) == plain | {"software": f"lafs {__version__}"}
    fd = os.open(root, os.O_RDONLY)
    assert told(Policy(append_only=True, quota=1 << 40, reserve=5, history=7)) == {
        "software": f"lafs {__version__}",
        "append_only": True,
        "read_only": False,
        "quota": 1 << 40,
        "used": weigh(fd),
        "reserve": 5,
        "history": 7,
    }
    os.close(fd)
    assert told(Policy(read_only=True))["read_only"] is True


def test_presence(root: Path) -> None:
    (root / SHARE).with_name("7").symlink_to("0")
    (root / SHARE).with_name("8").mkdir()
    with talking(root) as client:
        items = [(SI, 0), (SI, 1), (SLOT_SI, 0), (bytes(16), 0), (SI, 7), (SI, 8), (SI, 300), (SI, 0)]
        body = b"\0" + struct.pack(">I", len(items)) + b"".join(struct.pack(">16sI", *item) for item in items)
        answer = ask(client, "presence@lafs", body)
        assert struct.unpack(">I8Q", answer) == (
            8,
            *(len(good()), NONE, len(version(3)), NONE, NONE, NONE, NONE, len(good())),
        )
        body = b"\1" + struct.pack(">I", 3) + SI + bytes(16) + SLOT_SI
        answer = ask(client, "presence@lafs", body)
        assert answer == struct.pack(">IIIQIIIQ", 3, 1, 0, len(good()), 0, 1, 0, len(version(3)))


@pytest.mark.parametrize("most", [1, 2, 3, 8000, 0, 1 << 31])
def test_the_inventory_goes_on_where_it_stopped(root: Path, most: int) -> None:
    for number in range(6):
        for shnum in (0, 2, 10, 255):
            path = root / share_path(bytes([number * 40]) * 16, shnum)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(number + shnum))
    with talking(root) as client:
        found = whole(client, most)
    assert len(found) == 26
    assert [b32encode(si) for si, _, _ in found] == sorted(b32encode(si) for si, _, _ in found)
    assert len(set(found)) == 26
    assert (SI, 0, len(good())) in found
    assert [number for si, number, _ in found if si == bytes(16)] == [0, 2, 10, 255]


def test_a_cursor_that_was_not_given_is_refused_or_a_place(root: Path) -> None:
    with talking(root) as client:
        for cursor in (b"x", b"../../etc", b"\xff", b"aa.0", b"a" * 4096, f"{b32encode(SI)}.x".encode()):
            assert refused(lambda cursor=cursor: inventory(client, cursor)).code == FAILURE  # type: ignore[misc]
        assert inventory(client, b"z" * 25 + b"y.255") == ([], b"")


def test_a_lease_is_cancelled_by_its_secret(root: Path) -> None:
    with talking(root, Policy(append_only=True)) as client:
        assert cancel(client, (SI, 0, OURS[1]))[0][0] == PERMISSION_DENIED
        assert client.get(SHARE) == good()
    with talking(root) as client:
        answers = cancel(
            client,
            (SI, 0, b"x" * 32),
            (SI, 1, OURS[1]),
            (SLOT_SI, 0, OURS[1]),
            (SI, 0, OURS[1]),
            (SI, 999, OURS[1]),
        )
        assert [code == 0 for code, _ in answers] == [False, False, True, True, False]
        assert all(message for code, message in answers if code)
        refused(lambda: client.lstat(SHARE))
        assert client.lstat(SLOT).size == len(version(3))
        assert cancel(client, (SLOT_SI, 0, THEIRS[1]))[0][0] == 0
        refused(lambda: client.lstat(SLOT))
    assert len(list((root / "trash").glob(f"*/{b32encode(SI)}.0"))) == 1


def test_what_is_malformed_is_refused_and_nothing_else_happens(root: Path) -> None:
    with talking(root) as client:
        for name in client.extensions:
            if name.endswith("@lafs"):
                for body in (b"x", b"\0" * 3, b"\xff" * 100, os.urandom(300), b"\0\0\0\1" * 50, b"\7" + bytes(40)):
                    assert refused(lambda n=name, b=body: client.extended(n, b)).code in (  # type: ignore[misc]
                        *(BAD_MESSAGE, FAILURE, PERMISSION_DENIED),
                        2,
                    )
        for sort in (0, 1):
            many = bytes([sort]) + struct.pack(">I", 8001) + bytes(20 * 8001 if sort == 0 else 16 * 8001)
            assert "smaller parts" in refused(lambda many=many: client.extended("presence@lafs", many)).message  # type: ignore[misc]
        assert client.get(SHARE) == good()
    with talking(root, Policy(read_only=True)) as client:
        for name, body in (
            ("guard@lafs", b"\0" + SI + string(b"")),
            ("replace@lafs", SI + string(b"x") + bytes(5)),
            ("cancel-lease@lafs", bytes(4)),
        ):
            assert refused(lambda n=name, b=body: client.extended(n, b)).code == PERMISSION_DENIED  # type: ignore[misc]


def populate(root: Path, count: int, each: int = 1) -> None:
    """So many shares, of `each` a storage index."""
    data = b"\0\0\0\2" + bytes(200)
    for _ in range(count // each):
        si = os.urandom(16)
        folder = root / share_path(si, 0)
        folder.parent.mkdir(parents=True, exist_ok=True)
        for shnum in range(each):
            (folder.parent / str(shnum)).write_bytes(data)


@pytest.mark.slow
def test_the_inventory_of_50_000_shares_takes_two_seconds_at_most(tmp_path: Path) -> None:
    root = tmp_path / "served"
    root.mkdir()
    PolicyFiles(root, Policy()).close()
    populate(root, 50_000)
    with talking(root) as client:
        # of a processor that others use too: client and server together
        started = time.process_time()
        found = whole(client)
        seconds = time.process_time() - started
        assert len(found) == 50_000
        assert seconds < 2, f"{seconds:.2f} s"
        started = time.process_time()
        for start in range(0, 50_000, 8000):
            part = found[start : start + 8000]
            body = b"".join(struct.pack(">16sI", si, shnum) for si, shnum, _ in part)
            ask(client, "presence@lafs", b"\0" + struct.pack(">I", len(part)) + body)
        assert time.process_time() - started < 3
    fd = os.open(root, os.O_RDONLY)
    started = time.process_time()
    weigh(fd)
    assert time.process_time() - started < 3
    os.close(fd)


def test_shares_that_come_and_go_meanwhile_do_no_harm(root: Path) -> None:
    populate(root, 300, 3)
    with talking(root) as client:
        found, cursor = inventory(client, most=100)
        for si, shnum, _ in found[:50]:
            (root / share_of(si, shnum)).unlink()
        more = whole_from(client, cursor)
        assert len({(si, shnum) for si, shnum, _ in found + more}) == 302


def whole_from(client: RawClient, cursor: bytes) -> Found:
    found: Found = []
    while cursor:
        more, cursor = inventory(client, cursor)
        found += more
    return found
