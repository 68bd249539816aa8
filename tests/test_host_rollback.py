"""server history and server rollback: what `lafs serve --append-only` has kept is listed, and put back in place."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.primitives.encoding import b32encode
from lafscli.server.hostguard import host_guards
from lafscli.server.keeper import Keeper
from lafscli.server.rollback import plan, roll_back
from tests.grids import LocalGrid
from tests.host_folders import Host, Tool
from tests.kept_shares import NOW, SI, SLOT_SI, Served, immutable, mutable, shares, slots
from tests.slots import content_of
from tests.versions import put_version

LEASE = b"r" * 32, b"c" * 32, NOW + 1000
LATER = b"r" * 32, b"c" * 32, NOW + 9000
OTHER = b"R" * 32, b"C" * 32, NOW + 5000
TEXT = b32encode(SLOT_SI)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "root")


@pytest.fixture
def served(host: Host) -> Iterator[Served]:
    """A server that keeps three versions; shares 0 and 1 had the versions 1 to 3, share 2 came with version 2."""
    served = Served(host.root, append_only=True, history=3)
    for seqnum in (1, 2, 3):
        lease = LATER if seqnum == 3 else LEASE
        for shnum in (0, 1, 2) if seqnum > 1 else (0, 1):
            leases = (lease, OTHER) if seqnum == 3 else (lease,)
            served.place(mutable(slots(seqnum)[shnum], *leases), SLOT_SI, shnum, replace=True)
    yield served
    served.close()


@pytest.fixture
def lafs(capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(capsys)


def share_at(host: Host, shnum: int) -> bytes:
    data = host.path(SLOT_SI, shnum).read_bytes()
    found = MutableContainer.parse(data[:DATA_OFFSET], len(data))
    return data[DATA_OFFSET : DATA_OFFSET + found.data_length]


def versions(document: dict[str, Any]) -> list[tuple[int, int]]:
    return [(each["share"], each["seqnum"]) for each in document["versions"]]


def test_history_lists_what_is_kept(host: Host, served: Served, lafs: Tool) -> None:
    found = lafs.json("server", "history", "--root", host.root)
    assert versions(found) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    [first, *_] = found["versions"]
    assert first["storage_index"] == TEXT
    assert len(first["root_hash"]) == 8
    assert first["size"] == len(mutable(slots(1)[0], LEASE))
    assert first["kept"].endswith("Z")
    assert lafs.json("server", "history", "--root", host.root, TEXT) == found
    assert lafs.json("server", "history", "--root", host.root, b32encode(SI))["versions"] == []
    said = lafs("server", "history", "--root", host.root, code=0).stdout
    assert TEXT in said.splitlines()[1]


def test_rollback_puts_the_version_before_back_for_all_shares(host: Host, served: Served, lafs: Tool) -> None:
    before = host.files()
    plan = lafs.json("server", "rollback", "--root", host.root, TEXT, "-n")
    assert host.files() == before
    done = lafs.json("server", "rollback", "--root", host.root, TEXT)
    assert done == plan | {"dry_run": False}
    assert done["seqnum"] == 2
    assert done["restored"] == [{"share": number, "before": 3} for number in (0, 1, 2)]
    for shnum in (0, 1, 2):
        assert share_at(host, shnum) == slots(2)[shnum]
        data = host.path(SLOT_SI, shnum).read_bytes()
        leases = MutableContainer.parse(data[:DATA_OFFSET], len(data)).leases
        assert sorted(lease.expiration for lease in leases) == [NOW + 5000, NOW + 9000]
    found = lafs.json("server", "history", "--root", host.root)
    assert versions(found) == [(0, 1), (0, 3), (1, 1), (1, 3), (2, 3)]


def test_rollback_goes_back_further_and_forth_again(host: Host, served: Served, lafs: Tool) -> None:
    lafs("server", "rollback", "--root", host.root, TEXT, code=0)
    done = lafs.json("server", "rollback", "--root", host.root, TEXT, code=11)
    assert (done["seqnum"], [each["share"] for each in done["restored"]]) == (1, [0, 1])
    assert done["failed"] == [{"share": 2, "reason": "not kept"}]
    assert share_at(host, 0) == slots(1)[0]
    assert share_at(host, 2) == slots(2)[2]
    done = lafs.json("server", "rollback", "--root", host.root, TEXT, "--to", "3")
    assert [each["share"] for each in done["restored"]] == [0, 1, 2]
    assert [share_at(host, shnum) for shnum in (0, 1, 2)] == slots(3)[:3]
    done = lafs.json("server", "rollback", "--root", host.root, TEXT, "--to", "2", "--share", "1")
    assert [each["share"] for each in done["restored"]] == [1]
    done = lafs.json("server", "rollback", "--root", host.root, TEXT, "--to", "2")
    assert ([each["share"] for each in done["restored"]], done["unchanged"]) == ([0, 2], [1])


def test_a_share_that_is_gone_or_damaged_comes_back(host: Host, served: Served, lafs: Tool) -> None:
    host.path(SLOT_SI, 0).unlink()
    path = host.path(SLOT_SI, 1)
    data = bytearray(path.read_bytes())
    data[DATA_OFFSET + 30] ^= 1
    path.write_bytes(data)
    done = lafs.json("server", "rollback", "--root", host.root, TEXT, "--to", "2")
    assert done["restored"] == [{"share": 0}, {"share": 1}, {"share": 2, "before": 3}]
    assert [share_at(host, shnum) for shnum in (0, 1, 2)] == slots(2)[:3]
    assert list(host.files("quarantine").values()) == [bytes(data)]


def test_a_kept_version_that_does_not_prove_is_named_and_the_others_are_put_back(
    host: Host, served: Served, lafs: Tool
) -> None:
    for path in (host.root / "history" / TEXT[:2] / TEXT).glob("0.2.*"):
        data = bytearray(path.read_bytes())
        data[DATA_OFFSET + 30] ^= 1
        path.write_bytes(data)
    done = lafs.json("server", "rollback", "--root", host.root, TEXT, code=11)
    assert [each["share"] for each in done["restored"]] == [1, 2]
    [failed] = done["failed"]
    assert failed["share"] == 0
    assert "signature" in failed["reason"]
    assert share_at(host, 0) == slots(3)[0]


def test_a_client_that_is_changing_it_is_not_disturbed(host: Host, served: Served, lafs: Tool) -> None:
    host.hold(SLOT_SI, pid=os.getpid())
    refused = lafs("server", "rollback", "--root", host.root, TEXT, code=7)
    assert "is being changed by process" in refused.stderr
    assert share_at(host, 0) == slots(3)[0]


def test_what_is_refused(host: Host, served: Served, lafs: Tool, tmp_path: Path) -> None:
    served.place(immutable(shares()[0]), SI, 0)
    before = host.files()
    fresh = Host(tmp_path / "fresh")
    refusals = {
        f"--root root {TEXT} --to 9": (3, "version 9 of"),
        f"--root root {b32encode(SI)}": (3, "no version of"),
        f"--root root {TEXT} --share 3": (3, "no version of share 3"),
        "--root root nonsense": (2, "not a storage index"),
        f"--root root {TEXT[:-1]}z": (2, "not a storage index"),
        f"--root root {TEXT} --share 256": (2, "256"),
        "--root root": (2, "SI"),
        f"--root nowhere {TEXT}": (3, "no such folder"),
        f"--root . {TEXT}": (2, "not a storage folder"),
        f"--root fresh {TEXT}": (3, "no version of"),
    }
    for arguments, (code, said) in refusals.items():
        words = arguments.replace("--root ", f"--root {tmp_path}/").split()
        assert said in lafs("server", "rollback", *words, code=code).stderr
    assert host.files() == before
    assert "lafs serve --append-only" in lafs("server", "history", "--root", fresh.root, code=0).stderr
    assert os.listdir(fresh.root) == ["shares"]


def test_a_reader_has_the_older_version_after_all_hosts_were_rolled_back(tmp_path: Path) -> None:
    with closing(LocalGrid(tmp_path / "grid", 4)) as local:
        grid = local.grid()
        cap = put_version(local, b"as it should be", seqnum=4)
        hosts = [Host(local.root(index)) for index in range(4)]
        for host in hosts:
            for path in (host.root / "shares").glob("??/*/*"):
                data = path.read_bytes()
                root_hash = b32encode(data[DATA_OFFSET + 9 : DATA_OFFSET + 41])
                host.keep(cap.storage_index, f"{path.name}.4.{root_hash[:8]}", data)
        put_version(local, b"overwritten by a thief", seqnum=5)
        assert content_of(grid, cap) == b"overwritten by a thief"
        for host in hosts:
            with (
                host.opened() as folder,
                closing(
                    Keeper(folder.descriptor, append_only=True, history=1, now=time.time, random_bytes=os.urandom)
                ) as keeper,
                host_guards(folder, random_bytes=os.urandom, job="rollback", turns=keeper.turns) as guards,
            ):
                made = plan(folder, keeper.versions(cap.storage_index), cap.storage_index)
                failed: dict[int, str] = {}
                assert roll_back(folder, keeper, guards, made, failed=failed.__setitem__)
                assert failed == {}
        assert content_of(grid, cap) == b"as it should be"
