"""Versions of mutable files, put into the folders of a LocalGrid as a writer would have left them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from lafscli.formats.caps import MutableWriteCap
from lafscli.formats.container import share_path
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.formats.slot import Header, Prefix
from lafscli.placement import permuted
from lafscli.primitives.ciphers import PrivateKey
from lafscli.primitives.hashes import write_enabler
from lafscli.proof.slotkeys import write_cap
from lafscli.proof.slotmaker import Signing, make_shares
from tests.grids import LocalGrid, writing
from tests.test_slots import KEY, VECTORS, key_of

KEYS = list({key.der: key for key in [KEY, *(key_of(one["key"]) for one in VECTORS[:12] if one["key"])]}.values())


def shares_of(
    content: bytes,
    *,
    mdmf: bool = False,
    seqnum: int = 1,
    k: int = 3,
    n: int = 10,
    key: PrivateKey = KEY,
    seed: int = 0,
) -> list[bytes]:
    """All shares of a version. `seed` stands for its salts: the same gives the same version."""
    dice = random.Random(f"{seed}/{seqnum}")
    plan = Prefix.plan(mdmf, k, n, len(content), salt=b"" if mdmf else dice.randbytes(16))
    salts = [dice.randbytes(16) for _ in range(plan.num_segments)] if mdmf else []
    readkey = write_cap(key, mdmf=mdmf).read_cap().readkey
    _, parts = make_shares(plan, seqnum, Signing.of(key), readkey, content, salts)
    return [b"".join(part) for part in parts]


def order(local: LocalGrid, cap: MutableWriteCap) -> list[int]:
    """The numbers of the servers in permuted order."""
    assert cap.storage_index is not None
    return permuted(cap.storage_index, range(len(local.servers)), lambda index: local.servers[index].seed)


def path_of(local: LocalGrid, cap: MutableWriteCap, server: int, shnum: int) -> Path:
    return local.root(server) / share_path(cap.storage_index, shnum)


def container(local: LocalGrid, cap: MutableWriteCap, server: int, share: bytes) -> bytes:
    """A container as it lies on a server, with our lease."""
    known = local.servers[server]
    lease = writing().lease(cap.storage_index, _Store(known))
    made = MutableContainer.new(known.node_id, write_enabler(cap.writekey, known.node_id))
    made = made.with_lease(lease.renew, lease.cancel, lease.expiration, known.node_id).resized(len(share))
    return made.front() + share + made.back()


class _Store:
    """As much of a store as a lease is made of."""

    def __init__(self, server: object) -> None:
        self.server = server


def place(local: LocalGrid, cap: MutableWriteCap, server: int, shnum: int, share: bytes) -> Path:
    """Put one share there, in the place of whatever there is."""
    path = path_of(local, cap, server, shnum)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(container(local, cap, server, share))
    return path


def put_version(
    local: LocalGrid,
    content: bytes,
    *,
    mdmf: bool = False,
    seqnum: int = 1,
    k: int = 3,
    n: int = 10,
    key: PrivateKey = KEY,
    seed: int = 0,
    only: Sequence[int] | None = None,
) -> MutableWriteCap:
    """Store a version: share i on server i mod S of the permuted order (spec 03 §9.2); `only` these share numbers."""
    cap = write_cap(key, mdmf=mdmf)
    servers = order(local, cap)
    for shnum, share in enumerate(shares_of(content, mdmf=mdmf, seqnum=seqnum, k=k, n=n, key=key, seed=seed)):
        if only is None or shnum in only:
            place(local, cap, servers[shnum % len(servers)], shnum, share)
    return cap


def holder(local: LocalGrid, cap: MutableWriteCap, shnum: int) -> int:
    """The server on which `put_version` has put a share."""
    servers = order(local, cap)
    return servers[shnum % len(servers)]


def damage(path: Path, change: Callable[[bytearray, Header], None]) -> None:
    """Change the share in a container, given its bytes and its header."""
    data = bytearray(path.read_bytes())
    found = MutableContainer.parse(data[:DATA_OFFSET], len(data))
    share = data[DATA_OFFSET : DATA_OFFSET + found.data_length]
    change(share, Header.parse(share[:4096], len(share)))
    data[DATA_OFFSET : DATA_OFFSET + found.data_length] = share
    path.write_bytes(data)


def share_in(path: Path) -> bytes:
    """The share that a container holds."""
    data = path.read_bytes()
    found = MutableContainer.parse(data[:DATA_OFFSET], len(data))
    return data[DATA_OFFSET : DATA_OFFSET + found.data_length]
