"""Containers as Tahoe makes them: the same bytes from the same keys; read, and changed, keeping what is not ours."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lafscli.formats import caps
from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.container import share_path
from lafscli.formats.mutable_container import DATA_OFFSET
from lafscli.formats.slot import HEAD_SIZE, SALT_SIZE
from lafscli.health.check import Checking, check
from lafscli.health.regrowth import Mending
from lafscli.health.repair import repair
from lafscli.health.report import Repair
from lafscli.mutable.publish import modify
from lafscli.mutable.publishing import LEASE_SECONDS
from lafscli.mutable.retrieve import contents
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.hashes import write_enabler
from lafscli.proof.slotmaker import Signing, make_shares
from lafscli.proof.slots import Signatures, SlotShare
from lafscli.storage.shares import NewShare, Server
from lafscli.storage.staged import around
from tests.grids import FEATURES, LocalGrid
from tests.slots import publishing, reading
from tests.test_mutable_container import CLIENT_SECRET, OBJECTS, opened


def plaintext(example: dict[str, Any]) -> bytes:
    parts = (sha256(b"%d-%d" % (example["seed"], i)).digest() for i in range(example["length"] // 32 + 1))
    return b"".join(parts)[: example["length"]]


def cap_of(example: dict[str, Any]) -> MutableWriteCap:
    cap = caps.parse(example["cap"])
    assert isinstance(cap, MutableWriteCap)
    return cap


def containers(example: dict[str, Any]) -> dict[int, tuple[bytes, bytes]]:
    """Share number to the node id of its server, and the file."""
    return {
        int(shnum): (bytes.fromhex(example["node_ids"][shnum]), base64.b64decode(text))
        for shnum, text in example["containers"].items()
    }


class TahoeGrid(LocalGrid):
    """A server for each of Tahoe's, with the shares of one example on them."""

    def __init__(self, base: Path, example: dict[str, Any]) -> None:
        super().__init__(base)
        self.si = cap_of(example).verify_cap().si
        self.places: dict[int, Path] = {}
        ids = [bytes.fromhex(text) for text in example["permuted_order_node_ids"]]
        for index, node_id in enumerate(ids):
            self.servers[index] = Server(f"s{index}", node_id, node_id, None, True, FEATURES)
            text = b32encode(node_id)
            (self.root(index) / "server.toml").write_text(
                f'version = 1\nnode-id = "{text}"\npermutation-seed = "{text}"\n'
            )
        for shnum, (node_id, data) in containers(example).items():
            path = self.root(ids.index(node_id)) / share_path(self.si, shnum)
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
            self.places[shnum] = path


@pytest.fixture(params=OBJECTS, ids=lambda example: f"{example['kind']}-{example['length']}")
def example(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


@pytest.fixture
def servers(tmp_path: Path, example: dict[str, Any]) -> Iterator[TahoeGrid]:
    grid = TahoeGrid(tmp_path, example)
    yield grid
    grid.close()


def test_containers_are_equal_to_the_byte(example: dict[str, Any]) -> None:
    """With the salts and the signature that Tahoe's shares have, and the expiration of its leases."""
    cap = cap_of(example)
    for shnum, (node_id, file) in containers(example).items():
        found = opened(file)
        data = file[DATA_OFFSET : DATA_OFFSET + found.data_length]
        share = SlotShare(Signatures(cap.verify_cap()), shnum, data[:HEAD_SIZE], len(data))
        start, length = share.enc_privkey_range
        signing = Signing.again(share, data[start : start + length])
        blocks = share.header.layout.share_data[0]
        salts = [data[blocks : blocks + SALT_SIZE]] if share.prefix.mdmf and share.prefix.num_segments else []
        _, shares = make_shares(
            share.prefix, share.prefix.seqnum, signing, cap.read_cap().readkey, plaintext(example), salts
        )
        server = Server("s", node_id, node_id)
        ours = publishing()
        ours = replace(ours, lease_secret=CLIENT_SECRET, now=found.leases[0].expiration - LEASE_SECONDS)

        class Store:
            pass

        store = Store()
        store.server = server  # type: ignore[attr-defined]
        lease = ours.lease(cap.verify_cap().si, store)  # type: ignore[arg-type]
        new = NewShare(cap.verify_cap().si, shnum, shares[shnum], lease, write_enabler(cap.writekey, node_id))
        front, back = around(server, new)
        assert b"".join([front, *shares[shnum], back]) == file


def test_files_of_tahoe_are_read_and_changed(servers: TahoeGrid, example: dict[str, Any]) -> None:
    """Four of ten shares are there. A change gives all ten a place, each number keeps its own; node id, write enabler
    and the lease of the other client stay."""
    cap = cap_of(example)
    before = {shnum: opened(path.read_bytes()) for shnum, path in servers.places.items()}
    content, read = contents(servers.grid(), cap.read_cap(), reading())
    assert content == plaintext(example)
    assert read.corrupt == []
    changed = modify(servers.grid(), cap, lambda old: old + b"!", publishing())
    assert changed.seqnum == read.version.prefix.seqnum + 1
    assert sorted(changed.placement) == list(range(10))
    assert changed.happiness == 10
    for shnum, path in servers.places.items():
        now = opened(path.read_bytes())
        was = before[shnum]
        assert (now.version, now.node_id, now.write_enabler) == (was.version, was.node_id, was.write_enabler)
        assert was.leases[0] in now.leases
        assert len(now.leases) == 2
        assert now.extra_offset == DATA_OFFSET + now.data_length
    assert contents(servers.grid(), cap, reading())[0] == plaintext(example) + b"!"
    # the second change renews our lease and adds none
    modify(servers.grid(), cap, lambda old: old + b"!", publishing())
    assert all(len(opened(path.read_bytes()).leases) == 2 for path in servers.places.values())


@pytest.mark.parametrize("power", ["write", "verify"])
def test_files_of_tahoe_are_repaired(servers: TahoeGrid, example: dict[str, Any], power: str) -> None:
    """The shares that lack are made again at the same version, from four that Tahoe wrote; those stay as they are.
    Without the write cap they come to the servers that have one already."""
    cap = cap_of(example)
    before = {path: path.read_bytes() for path in servers.places.values()}
    mending = Mending(publishing().lease)
    given = cap if power == "write" else cap.verify_cap()
    report = repair(servers.grid(), given, Checking(1, os.urandom, verify=True), mending)
    assert (report.good_shares, report.corrupt, report.repair) == (10, (), Repair(True, True, 6))
    assert {path: path.read_bytes() for path in before} == before
    assert report.happiness == (10 if power == "write" else 4)
    assert check(servers.grid(), cap, Checking(1, os.urandom, verify=True)).healthy
    assert contents(servers.grid(), cap, reading())[0] == plaintext(example)
    changed = modify(servers.grid(), cap, lambda old: old + b"!", publishing())
    assert sorted(changed.placement) == list(range(10))
