"""Guards as objects of a connection: taken by one call or the plain way, fenced, and over when it is."""

from __future__ import annotations

import os
import signal
import struct
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import CREATE, FAILURE, NO_SUCH_FILE, PERMISSION_DENIED, READ, TRUNCATE, WRITE, Refused
from lafscli.server.policy import Policy, PolicyFiles
from lafscli.storage.owner import Owner, this_process
from lafscli.storage.packets import string
from lafscli.storage.serverfile import LIST_LOCK
from tests.kept_shares import SI, SLOT_SI
from tests.policed import (
    GUARD,
    NEW,
    SLOT,
    everything,
    furnish,
    good,
    held,
    share_of,
    stage,
    take,
    talking,
    token,
    version,
)
from tests.raw_sftp import Attributes, RawClient, conversation, take_string

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


def call(client: RawClient, si: bytes = SLOT_SI, owner: bytes = OWNER) -> str:
    """The guard by one call; its token."""
    body = client.extended("guard@lafs", b"\0" + si + string(owner))
    assert body is not None
    mine, at = take_string(body, 0)
    (now,) = struct.unpack_from(">Q", body, at)
    assert now > 1_600_000_000
    assert len(body) == at + 8
    return mine.decode()


def end(client: RawClient, sort: int, mine: str, si: bytes = SLOT_SI) -> None:
    assert client.extended("guard@lafs", bytes([sort]) + si + string(mine.encode())) is None


def replace(
    client: RawClient, mine: str, shnums: list[int], si: bytes = SLOT_SI, flags: int = 0
) -> list[tuple[int, str]]:
    body = si + string(mine.encode()) + bytes([flags]) + struct.pack(f">{len(shnums) + 1}I", len(shnums), *shnums)
    answer = client.extended("replace@lafs", body)
    assert answer is not None
    (count,), at, found = struct.unpack_from(">I", answer), 4, []
    for _ in range(count):
        (code,) = struct.unpack_from(">I", answer, at)
        message, at = take_string(answer, at + 4)
        found.append((code, message.decode()))
    assert at == len(answer)
    return found


def locks(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "locks").iterdir())


# ---- by a call


def test_one_call_takes_it_and_others_see_what_they_know(root: Path) -> None:
    with talking(root) as client, talking(root) as other:
        mine = call(client)
        assert other.listdir("locks") == [b32encode(SLOT_SI)]
        assert other.listdir(GUARD) == [mine]
        owner = Owner.parse(other.get(f"{GUARD}/{mine}/owner"))
        assert owner == this_process(20.0)
        assert "process 5 on elsewhere" in tomllib.loads(other.get(f"{GUARD}/{mine}/owner").decode())["client"]
        assert refused(lambda: call(other)).message == "guard held"
        assert refused(lambda: take(other)).code == FAILURE
        assert refused(lambda: call(client)).message == "guard held"
        client.put(f"{GUARD}/{mine}/0", version(4))
        client.put(f"{GUARD}/{mine}/1", version(4, 1))
        assert refused(lambda: replace(other, mine, [0])).code == PERMISSION_DENIED
        assert replace(client, mine, [0, 1]) == [(0, ""), (0, "")]
        assert other.get(SLOT) == version(4)
        [(code, message)] = replace(client, mine, [2])
        assert (code, bool(message)) == (NO_SUCH_FILE, True)
        end(client, 1, mine)
        assert client.listdir("locks") == []
        assert refused(lambda: end(client, 1, mine)).code == NO_SUCH_FILE
        end(other, 1, call(other))
    assert locks(root) == []


def test_a_client_may_choose_its_token_to_know_its_guard_again(root: Path) -> None:
    chosen = token()
    with talking(root) as client, talking(root) as other:
        assert call(client, owner=OWNER + b'token = "%b"\n' % chosen.encode()) == chosen
        end(client, 1, chosen)
        for strange in (b'"../../shares"', b'"short"', b"5", b"[]"):
            given = call(other, owner=OWNER + b"token = " + strange + b"\n")
            assert len(given) == 26
            end(other, 1, given)
    assert locks(root) == []


def test_one_that_is_set_aside_keeps_what_is_in_it(root: Path) -> None:
    with talking(root) as client:
        mine = call(client)
        client.put(f"{GUARD}/{mine}/0", version(4))
        end(client, 2, mine)
        assert locks(root) == [f".broken.{b32encode(SLOT_SI)}.{mine}"]
        assert client.get(f"locks/.broken.{b32encode(SLOT_SI)}.{mine}/{mine}/0") == version(4)
        refused(lambda: client.put(f"locks/.broken.{b32encode(SLOT_SI)}.{mine}/{mine}/1", b"x"))


def test_a_damaged_immutable_share_is_replaced_by_the_call(root: Path) -> None:
    share = root / share_of(SI, 0)
    bad = bytearray(share.read_bytes())
    bad[70] ^= 1
    with talking(root) as client:
        mine = call(client, SI)
        client.put(f"locks/{b32encode(SI)}/{mine}/0", good())
        [(code, message)] = replace(client, mine, [0], SI, 1)
        assert code == FAILURE
        assert "already" in message
        share.write_bytes(bad)
        assert replace(client, mine, [0], SI, 1) == [(0, "")]
        assert client.get(share_of(SI, 0)) == good()
        refused(lambda: replace(client, mine, [0], SI, 2))
    assert [path.read_bytes() for path in (root / "quarantine").glob(f"*{b32encode(SI)}.0.*")] == [bytes(bad)]


# ---- the fence


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "call"])
def test_a_broken_guard_commits_nothing(root: Path, plain: bool) -> None:
    with talking(root) as client, talking(root) as other:
        folder = take(client) if plain else f"{GUARD}/{call(client)}"
        mine = folder.rpartition("/")[2]
        client.put(f"{folder}/0", version(4))
        other.rename(GUARD, f"locks/.broken.{b32encode(SLOT_SI)}.{token()}")
        theirs = call(other)
        before = everything(root)
        for act in (
            lambda: client.replace(f"{folder}/0", SLOT),
            lambda: client.rename(f"{folder}/0", SLOT),
            lambda: replace(client, mine, [0]),
            lambda: client.put(f"{folder}/1", version(4, 1)),
            lambda: client.setstat(f"{folder}/owner", Attributes(times=(5, 5))),
            lambda: client.remove(f"{folder}/owner"),
            lambda: end(client, 1, mine),
            lambda: end(client, 2, mine),
        ):
            assert refused(act).code == NO_SUCH_FILE
        # nor is the new one touched by who had the old one
        for path in (f"{GUARD}/{theirs}/0", f"{GUARD}/{theirs}/owner"):
            assert refused(lambda path=path: client.open(path, NEW)).code in (PERMISSION_DENIED, FAILURE)  # type: ignore[misc]
            refused(lambda path=path: client.remove(path))  # type: ignore[misc]
            refused(lambda path=path: client.setstat(path, Attributes(times=(5, 5))))  # type: ignore[misc]
        refused(lambda: client.rmdir(f"{GUARD}/{theirs}"))
        refused(lambda: client.rmdir(GUARD))
        refused(lambda: end(client, 1, theirs))
        assert everything(root) == before
        assert other.get(SLOT) == version(3)


def test_a_token_that_somebody_copies_opens_no_way(root: Path) -> None:
    """Who breaks a guard and makes one of the same token has a guard of his own, and the first has none."""
    with talking(root) as client, talking(root) as other:
        path = held(client, version(4))
        mine = path.split("/")[2]
        other.rename(GUARD, f"locks/.broken.{b32encode(SLOT_SI)}.{token()}")
        other.mkdir(f"locks/.{mine}")
        other.mkdir(f"locks/.{mine}/{mine}")
        other.put(f"locks/.{mine}/{mine}/owner", OWNER)
        other.replace(f"locks/.{mine}", GUARD)
        other.put(path, b"garbage")
        refused(lambda: other.replace(path, SLOT))
        refused(lambda: client.replace(path, SLOT))
        assert client.get(SLOT) == version(3)


def test_only_what_the_layout_of_guards_has_can_be_made(root: Path) -> None:
    with talking(root) as client, talking(root) as other:
        mine = token()
        before = everything(root)
        for path in (
            GUARD,
            f"{GUARD}/{mine}",
            f"locks/.broken.{b32encode(SLOT_SI)}.{mine}",
            "locks/x",
            f"locks/.{mine}/x",
        ):
            refused(lambda path=path: client.mkdir(path))  # type: ignore[misc]
            refused(lambda path=path: client.put(path, b"x"))  # type: ignore[misc]
        assert everything(root) == before
        client.mkdir(f"locks/.{mine}")
        assert other.listdir("locks") == []
        assert client.listdir("locks") == [f".{mine}"]
        refused(lambda: client.mkdir(f"locks/.{mine}/{token()}"))
        refused(lambda: client.put(f"locks/.{mine}/owner", b"x"))
        refused(lambda: other.mkdir(f"locks/.{mine}/{mine}"))
        client.mkdir(f"locks/.{mine}/{mine}")
        refused(lambda: client.put(f"locks/.{mine}/{mine}/0", b"x"))
        refused(lambda: other.put(f"locks/.{mine}/{mine}/owner", b"x"))
        refused(lambda: client.put(f"locks/.{mine}/{mine}/owner", bytes(5000)))
        refused(lambda: other.replace(f"locks/.{mine}", GUARD))
        client.remove(f"locks/.{mine}/{mine}/owner")
        refused(lambda: client.replace(f"locks/.{mine}", GUARD))
        client.put(f"locks/.{mine}/{mine}/owner", OWNER)
        client.replace(f"locks/.{mine}", GUARD)
        refused(lambda: client.rename(GUARD, f"locks/.broken.{b32encode(SI)}.{mine}"))
        refused(lambda: client.replace(GUARD, f"locks/.broken.{b32encode(SLOT_SI)}.{mine}"))


def test_what_a_guard_holds_is_for_everybody_to_read_and_for_its_holder_to_write(root: Path) -> None:
    with talking(root) as client, talking(root) as other:
        path = held(client, version(4))
        assert other.get(path) == version(4)
        for act in (
            lambda: other.open(path, WRITE),
            lambda: other.open(path, READ | WRITE),
            lambda: other.setstat(path, Attributes(size=0)),
            lambda: other.remove(path),
            lambda: other.replace(path, SLOT),
            lambda: other.replace(path, f"staging/{b32encode(SLOT_SI)}.0.{token()}"),
        ):
            assert refused(act).code == PERMISSION_DENIED


# ---- what fallen writers left


def test_what_a_fallen_writer_left_stays_until_something_as_new_stands(root: Path) -> None:
    broken = f"locks/.broken.{b32encode(SLOT_SI)}.{token()}"
    with talking(root) as client, talking(root) as other:
        path = held(client, version(5))
        client.put(f"{path.rpartition('/')[0]}/1", b"Tahoe, but garbage")
        client.rename(GUARD, broken)
        left = f"{broken}/{path.split('/')[2]}"
        assert "holds the guard" in refused(lambda: other.remove(f"{left}/0")).message
        mine = take(other)
        assert "newer" in refused(lambda: other.remove(f"{left}/0")).message
        other.remove(f"{left}/1")
        # nor by way of the own guard
        other.replace(f"{left}/0", f"{mine}/0")
        assert "newer" in refused(lambda: other.remove(f"{mine}/0")).message
        for act in (
            lambda: other.open(f"{mine}/0", WRITE),
            lambda: other.open(f"{mine}/0", WRITE | CREATE | TRUNCATE),
            lambda: other.setstat(f"{mine}/0", Attributes(size=0)),
        ):
            assert "stays so" in refused(act).message
        other.replace(f"{mine}/0", SLOT)
        assert other.get(SLOT) == version(5)
        other.remove(f"{left}/owner")
        other.rmdir(left)
        other.rmdir(broken)


def test_what_was_moved_aside_comes_back_and_is_not_removed(root: Path) -> None:
    """As a client of plain SFTP without posix-rename leaves it, when it falls."""
    text, mine = b32encode(SI), token()
    broken = root / "locks" / f".broken.{text}.{token()}" / mine
    broken.mkdir(parents=True)
    (root / share_of(SI, 0)).rename(broken / "old.0")
    left = f"locks/{broken.parent.name}/{mine}/old.0"
    with talking(root) as client:
        folder = take(client, SI)
        refused(lambda: client.remove(left))
        refused(lambda: client.rename(left, share_of(SI, 0)))
        client.replace(left, f"{folder}/old.0")
        refused(lambda: client.remove(f"{folder}/old.0"))
        client.link(f"{folder}/old.0", share_of(SI, 0))
        assert client.get(share_of(SI, 0)) == good()
        assert client.listdir(folder) == ["owner"]


def test_a_staged_share_is_taken_into_a_guard(root: Path) -> None:
    with talking(root) as client:
        staged = stage(client, good(1), SI, 1)
        folder = take(client, SI)
        refused(lambda: client.replace(staged, f"{folder}/2"))
        refused(lambda: client.link(staged, f"{folder}/1"))
        client.put(f"{folder}/1", b"there already")
        refused(lambda: client.replace(staged, f"{folder}/1"))
        client.remove(f"{folder}/1")
        client.replace(staged, f"{folder}/1")
        client.rename(f"{folder}/1", share_of(SI, 1))
        assert client.get(share_of(SI, 1)) == good(1)


# ---- their end


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "call"])
@pytest.mark.parametrize("how", ["hang up", "half-close", "SIGTERM to a clean server"])
def test_guards_end_with_their_connection(root: Path, plain: bool, how: str) -> None:
    with conversation(lambda: PolicyFiles(root, Policy()), forked=how.startswith("half")) as talk:
        client = talk.client
        take(client, SI) if plain else call(client, SI)
        folder = take(client) if plain else f"{GUARD}/{call(client)}"
        client.put(f"{folder}/0", version(4))
        client.mkdir(f"locks/.{token()}")
        assert len(locks(root)) == 3
        if how == "half-close":
            talk.half_close()
            talk.wait()
        else:
            talk.hang_up()
        [left] = locks(root)
    assert left.startswith(f".broken.{b32encode(SLOT_SI)}.")
    [container] = (root / "locks").glob("*/*/0")
    assert container.read_bytes() == version(4)


def test_after_kill_9_the_next_one_sees_a_dead_process(root: Path) -> None:
    with conversation(lambda: PolicyFiles(root, Policy()), forked=True) as talk:
        mine = call(talk.client)
        talk.client.put(f"{GUARD}/{mine}/0", version(4))
        talk.kill(signal.SIGKILL)
        assert locks(root) == [b32encode(SLOT_SI)]
    with talking(root) as client:
        assert client.get(f"{GUARD}/{mine}/0") == version(4)
        theirs = call(client)
        assert theirs != mine
        assert len(locks(root)) == 2
        assert client.get(f"locks/{locks(root)[0]}/{mine}/0") == version(4)


def test_a_guard_of_the_living_is_not_taken_however_old_it_looks_to_a_thief(root: Path) -> None:
    with talking(root) as client, talking(root) as other:
        call(client)
        for _ in range(3):
            assert refused(lambda: call(other)).message == "guard held"
        # one that has not shown itself for its seconds is
        [owner] = (root / "locks").glob("*/*/owner")
        for path in (owner, owner.parent):
            os.utime(path, (path.stat().st_mtime - 30,) * 2)
        call(other)


def test_the_server_keeps_them_fresh_while_the_client_asks(root: Path) -> None:
    clock = [1_900_000_000.0]
    files = PolicyFiles(root, Policy(), now=lambda: clock[0])
    answer = files.extended("guard@lafs", memoryview(b"\0" + SLOT_SI + string(OWNER)))
    assert answer is not None
    [owner] = (root / "locks").glob("*/*/owner")

    def fresh(seconds: float) -> bool:
        os.utime(owner, (5, 5))
        clock[0] += seconds
        files.tick()
        return owner.stat().st_mtime > 5

    assert not fresh(1)
    assert fresh(5)
    assert not fresh(2)
    files.stat(b"/", follow=False)
    assert fresh(10)
    assert not fresh(6), "a client that has not asked for so long is paused"
    files.stat(b"/", follow=False)
    assert fresh(6)
    files.close()
    assert locks(root) == []
    files.close()


def test_one_connection_has_so_many_and_no_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lafscli.server.guards.MOST", 20)
    with talking(root) as client:
        for number in range(20):
            call(client, number.to_bytes(16, "big"))
        assert "too many guards" in refused(lambda: call(client)).message
    assert locks(root) == []


def test_two_guards_of_one_token_both_end(root: Path) -> None:
    with talking(root) as client:
        mine = token()
        for si in (SI, SLOT_SI):
            client.mkdir(f"locks/.{mine}")
            client.mkdir(f"locks/.{mine}/{mine}")
            client.put(f"locks/.{mine}/{mine}/owner", OWNER)
            client.replace(f"locks/.{mine}", f"locks/{b32encode(si)}")
            client.put(f"locks/{b32encode(si)}/{mine}/0", b"x")
        # one of them goes where a name is taken
        with talking(root) as other:
            other.rename(f"locks/{b32encode(SI)}", f"locks/.broken.{b32encode(SI)}.{mine}")
            client.mkdir(f"locks/.{mine}")
            client.mkdir(f"locks/.{mine}/{mine}")
            client.put(f"locks/.{mine}/{mine}/owner", OWNER)
            client.replace(f"locks/.{mine}", f"locks/{b32encode(SI)}")
            client.put(f"locks/{b32encode(SI)}/{mine}/0", b"x")
    assert len(locks(root)) == 3
    assert all(name.startswith(".broken.") for name in locks(root))


def test_an_empty_guard_is_nobody_s(root: Path) -> None:
    (root / GUARD).mkdir()
    with talking(root) as client:
        mine = token()
        client.mkdir(f"locks/.{mine}")
        client.mkdir(f"locks/.{mine}/{mine}")
        assert refused(lambda: client.replace(f"locks/.{mine}", GUARD)).code == NO_SUCH_FILE
        client.put(f"locks/.{mine}/{mine}/owner", OWNER)
        refused(lambda: client.rename(f"locks/.{mine}", GUARD))
        client.rmdir(GUARD)
        client.rename(f"locks/.{mine}", GUARD)
    (root / GUARD / token()).mkdir(parents=True)
    with talking(root) as client:
        end(client, 1, call(client))


# ---- server.toml


def _table(root: Path, extra: str = "") -> bytes:
    return (root / "server.toml").read_bytes() + extra.encode()


def _list(epoch: int, *members: bytes, grid: str = "g") -> str:
    names = ", ".join(f'"{b32encode(member)}"' for member in members)
    return f'grid = "{grid}"\nepoch = {epoch}\nmembers = [{names}]\n'


def test_of_server_toml_only_the_list_changes_and_its_epoch_rises(root: Path) -> None:
    from lafscli.primitives.encoding import b32decode

    first = _table(root)
    me = b32decode(tomllib.loads(first.decode())["node-id"])
    with talking(root) as client:
        path = f"{take(client, LIST_LOCK)}/0"

        def attempt(data: bytes) -> None:
            client.put(path, data)
            try:
                client.replace(path, "server.toml")
            finally:
                if path.rpartition("/")[2] in client.listdir(path.rpartition("/")[0]):
                    client.remove(path)

        def no(data: bytes, word: str) -> None:
            assert word in refused(lambda: attempt(data)).message
            assert client.get("server.toml") == before

        before = first
        no(b"", "can't be")
        no(b"\xff", "can't be")
        no(b"x" * 70_000, "longer")
        no(first.replace(b"version = 1", b"version = 2"), "version")
        no(first.replace(b"version = 1", b"version = 1.0"), "version")
        no(first + b'other = "x"\n', "other")
        no(first.replace(b32encode(me).encode(), b32encode(bytes(20)).encode(), 1), "node-id")
        no(first + _list(0, me).encode(), "epoch")
        attempt(first + _list(3, me).encode())
        before = first + _list(3, me).encode()
        no(first, "vanish")
        no(first + _list(2, me).encode(), "not newer")
        no(first + _list(3, me, bytes(20)).encode(), "another list")
        no(first + _list(4, me, grid="h").encode(), "grid")
        attempt(first + _list(4, bytes(20)).encode())
        before = first + _list(4, bytes(20)).encode()
        attempt(first + _list(1, me, grid="h").encode())
        before = first + _list(1, me, grid="h").encode()
        client.put(path, first + _list(2, me, grid="h").encode())
        refused(lambda: client.rename(path, "server.toml"))
        refused(lambda: client.link(path, "server.toml"))
        handle = client.open(path, WRITE)
        assert "open for writing" in refused(lambda: client.replace(path, "server.toml")).message
        client.close(handle)
        client.replace(path, "server.toml")
        # under another guard, or none
        new = first + _list(9, me, grid="h").encode()
        refused(lambda: client.replace(held(client, new), "server.toml"))
        client.put(f"staging/server.toml.{'a' * 26}", new)
        refused(lambda: client.replace(f"staging/server.toml.{'a' * 26}", "server.toml"))
        refused(lambda: client.remove("server.toml"))
        refused(lambda: client.rename("server.toml", f"server.toml.old.{token()}"))


def test_server_toml_is_written_at_the_start_and_taken_from_a_tahoe_node(tmp_path: Path) -> None:
    node = tmp_path / "node"
    (node / "storage").mkdir(parents=True)
    (node / "my_nodeid").write_text(b32encode(b"n" * 20) + "\n")
    (node / "permutation-seed").write_text(b32encode(b"seed") + "\n")
    PolicyFiles(node / "storage", Policy(read_only=True)).close()
    assert list((node / "storage").iterdir()) == []
    PolicyFiles(node / "storage", Policy()).close()
    table = tomllib.loads((node / "storage" / "server.toml").read_text())
    assert (table["node-id"], table["permutation-seed"]) == (b32encode(b"n" * 20), b32encode(b"seed"))
    before = (node / "storage" / "server.toml").read_bytes()
    PolicyFiles(node / "storage", Policy()).close()
    assert (node / "storage" / "server.toml").read_bytes() == before
    assert list((node / "storage" / "staging").iterdir()) == []
