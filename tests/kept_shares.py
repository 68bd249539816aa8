"""Containers of real shares for a server to judge, and a folder whose keeper is asked to place them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from lafscli.formats.container import header, lease_record
from lafscli.formats.mutable_container import MutableContainer
from lafscli.formats.slot import Prefix
from lafscli.primitives.ciphers import PrivateKey, load_private_key, make_private_key
from lafscli.primitives.encoding import b32encode
from lafscli.primitives.hashes import storage_index_from_key
from lafscli.proof.encoder import Encoder, encode_segment
from lafscli.proof.slotkeys import write_cap
from lafscli.proof.slotmaker import Signing, make_shares
from lafscli.server.keeper import Keeper

NOW = 1_800_000_000
_EXAMPLE = json.loads((Path(__file__).parent / "vectors" / "mutable_example.json").read_text())
KEY = load_private_key(bytes.fromhex(_EXAMPLE["priv_der"]), trusted=True)
SLOT_SI = write_cap(KEY, mdmf=False).verify_cap().storage_index
SI = storage_index_from_key(b"k" * 16)
NODE = b"n" * 20
ENABLER = b"w" * 32

Lease = tuple[bytes, bytes, int]
"""Renew secret, cancel secret, expiration."""
OURS: Lease = (b"r" * 32, b"c" * 32, NOW + 1000)
THEIRS: Lease = (b"R" * 32, b"C" * 32, NOW + 2000)


@functools.cache
def other_key() -> PrivateKey:
    return make_private_key()


@functools.cache
def shares(
    content: bytes = b"immutable " * 20, k: int = 2, n: int = 4, segment_size: int = 64, version: int = 1
) -> list[bytes]:
    """All shares of this ciphertext."""
    encoder = Encoder(k, n, segment_size, version)
    rows: list[list[bytes]] = [[] for _ in range(n)]
    for start in range(0, len(content), segment_size):
        piece = content[start : start + segment_size]
        segment = encode_segment(k, n, piece)
        encoder.add(segment, piece)
        for row, block in zip(rows, segment.blocks, strict=True):
            row.append(bytes(block))
    trailer = encoder.finish()
    return [b"".join([trailer.header, *row, trailer.tail(shnum)]) for shnum, row in enumerate(rows)]


def immutable(share: bytes, *leases: Lease, counted: int | None = None) -> bytes:
    records = b"".join([lease_record(*lease) for lease in leases])
    return header(len(share), len(leases) if counted is None else counted) + share + records


@functools.cache
def slots(
    seqnum: int = 1,
    content: bytes = b"mutable",
    *,
    mdmf: bool = False,
    k: int = 2,
    n: int = 4,
    segment_size: int | None = None,
    foreign: bool = False,
) -> list[bytes]:
    """All shares of a version; salts are fixed, so that a version has one root hash."""
    key = other_key() if foreign else KEY
    plan = Prefix.plan(mdmf, k, n, len(content), salt=b"" if mdmf else b"s" * 16)
    if segment_size is not None:
        plan = replace(plan, segment_size=segment_size)
    salts = [number.to_bytes(16, "big") for number in range(plan.num_segments)] if mdmf else []
    readkey = write_cap(key, mdmf=mdmf).read_cap().readkey
    _, parts = make_shares(plan, seqnum, Signing.of(key), readkey, content, salts)
    return [b"".join(part) for part in parts]


def mutable(share: bytes, *leases: Lease, enabler: bytes = ENABLER, node_id: bytes = NODE) -> bytes:
    made = MutableContainer.new(node_id, enabler)
    for lease in leases:
        made = made.with_lease(*lease, node_id)
    made = made.resized(len(share))
    return made.front() + share + made.back()


@dataclass
class Served:
    """A root with a keeper; what it said and counted."""

    root: Path
    append_only: bool = False
    history: int = 0
    now: Callable[[], float] = lambda: NOW
    notes: list[str] = field(default_factory=list)
    used: int = 0

    def __post_init__(self) -> None:
        (self.root / "staging").mkdir(parents=True, exist_ok=True)
        self.root_fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        self.staging_fd = os.open(self.root / "staging", os.O_RDONLY | os.O_DIRECTORY)
        self.keeper = Keeper(
            self.root_fd,
            append_only=self.append_only,
            history=self.history,
            now=self.now,
            random_bytes=os.urandom,
            note=self.notes.append,
            used=self._count,
        )
        self._number = 0

    def _count(self, delta: int) -> None:
        self.used += delta

    def close(self) -> None:
        self.keeper.close()
        os.close(self.staging_fd)
        os.close(self.root_fd)

    def place(self, container: bytes, si: bytes = SI, shnum: int = 0, *, replace: bool = False) -> None:
        self._number += 1
        name = f"staged.{os.getpid()}.{self._number}"
        staged = self.root / "staging" / name
        staged.write_bytes(container)
        fd = os.open(staged, os.O_RDONLY)
        try:
            self.keeper.place(fd, self.staging_fd, name, si, shnum, replace=replace)
        finally:
            os.close(fd)
        assert not staged.exists()
        self.used += len(container)

    def path(self, si: bytes = SI, shnum: int = 0) -> Path:
        text = b32encode(si)
        return self.root / "shares" / text[:2] / text / str(shnum)

    def stands(self, si: bytes = SI, shnum: int = 0) -> bytes:
        return self.path(si, shnum).read_bytes()

    def files(self, folder: str) -> list[Path]:
        return sorted(path for path in (self.root / folder).rglob("*") if path.is_file() and ".serve" not in path.parts)

    def counted(self) -> int:
        """Bytes of all files that a quota counts, a file with two names once."""
        found = {path.stat().st_ino: path.stat().st_size for top in TOPS for path in self.files(top)}
        return sum(found.values())


TOPS = ("shares", "trash", "quarantine", "history")
