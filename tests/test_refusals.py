"""Every rule of spec 00-02 by which something is refused, as a table: rule, what breaks it, what is said.

Here each share that breaks a rule lies on a server: get does without it, and `check --verify` says the rule. The rules
that are not about shares have their vectors with the parser that keeps them:

    00 §3    grammar of caps, whole string, filler bits, 1 ≤ k ≤ N ≤ 256, size ≥ 1      test_caps: malformed_chk_caps,
             a final newline, trailing junk, extensions of MDMF alone, literal caps      malformed_mutable_caps, …
    00 §3.1  `ro.` and `imm.`                                                            test_caps: prefixes_…
    01 §1    base32: alphabet, length, filler bits                                       test_primitives: base32_…
    01 §2    netstring: comma, length, short                                             test_primitives: reader_…
    01 §4    extra nodes of a hash tree that can't be tied to its root                   test_hashtree: partial_tree_…
    01 §6    RSA keys of other sizes, salts of other lengths                             test_ciphers
    02 §4    UEB, one field at a time                                                    test_chk: …ueb…
    02 §5    headers, one field at a time                                                test_chk: …headers…, …offsets…
    02 §7    share hash chains in all their variations, share numbers out of range       test_proof: share_hash_chain, …
    02 §7.7  shares that agree with one another and make another file                    test_check: damaged_before_…
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lafscli.errors import NotRecoverable
from lafscli.formats.caps import ChkCap
from lafscli.formats.chk import Layout
from lafscli.formats.container import header, share_path
from lafscli.health.check import Checking, check
from lafscli.immutable.download import download
from lafscli.primitives.ciphers import AesCtr
from lafscli.primitives.encoding import netstring
from lafscli.primitives.hashes import uri_extension_hash
from lafscli.primitives.hashtree import build
from lafscli.proof.encoder import Trailer, encode_small
from tests.grids import LocalGrid, content
from tests.test_proof import entry, rebuilt

K, N, SIZE, SEGMENT = 2, 3, 1000, 300
KEY = b"k" * 16
DATA = content(SIZE)


@dataclass
class Made:
    """A file: its shares, and what a vector makes of them."""

    shares: list[bytes]
    trailer: Trailer
    cap: ChkCap

    @property
    def layout(self) -> Layout:
        return self.trailer.layout

    @property
    def share(self) -> bytes:
        """Number 1, the one that is spoilt."""
        return self.shares[1]

    def offsets(self, **changes: int) -> bytes:
        """The share with other offsets in its header."""
        return replace(self.layout, **changes).serialise() + self.share[self.layout.header_size :]

    def sections(self, **changes: bytes) -> bytes:
        return rebuilt(self.share, self.layout, **changes)

    def cut_at(self, where: int) -> bytes:
        return self.share[:where]

    def chain(self) -> dict[int, bytes]:
        area = self.share[self.layout.share_hashes : self.layout.uri_extension]
        return {int.from_bytes(area[i : i + 2], "big"): area[i + 2 : i + 34] for i in range(0, len(area), 34)}


def made(k: int = K, segment: int = SEGMENT, data: bytes = DATA) -> Made:
    trailer, parts = encode_small(k, N, segment, AesCtr(KEY).update(data))
    return Made([b"".join(part) for part in parts], trailer, ChkCap(KEY, trailer.ueb_hash, k, N, len(data)))


def contained(share: bytes) -> bytes:
    return header(len(share), 1) + share + bytes(72)


def entries(nodes: dict[int, bytes]) -> bytes:
    return b"".join(entry(number, value) for number, value in nodes.items())


def tried(folder: Path, cap: ChkCap, files: dict[int, bytes]) -> tuple[bytes | None, dict[int, str]]:
    """What get makes of these container files, and what `check --verify` says of each."""
    local = LocalGrid(folder, N)
    for shnum, data in files.items():
        path = local.root(shnum) / share_path(cap.storage_index, shnum)
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    out = bytearray()
    with local.grid() as grid:
        report = check(grid, cap.verify_cap(), Checking(1, os.urandom, verify=True))
        try:
            download(grid, cap, out.extend)
        except NotRecoverable:
            return None, {bad.shnum: bad.reason for bad in report.corrupt}
    return bytes(out), {bad.shnum: bad.reason for bad in report.corrupt}


# ---- one share that breaks a rule


CONTAINERS: dict[str, tuple[Callable[[Made], bytes], str]] = {
    "02 §6: an empty file": (lambda m: b"", "its file has 0 bytes|container: header"),
    "02 §6: cut within the header": (lambda m: contained(m.share)[:11], "its file has 11 bytes|container: header"),
    "02 §6: version 0": (lambda m: bytes(4) + contained(m.share)[4:], "container: version 0"),
    "02 §6: version 3": (lambda m: b"\0\0\0\3" + contained(m.share)[4:], "container: version 3"),
    "02 §6: a mutable container": (
        lambda m: b"Tahoe mutable container v1\n\x75\x09\x44\x03\x8e" + contained(m.share)[32:],
        "container: holds a mutable share",
    ),
    "09 §1: no container at all": (lambda m: m.share, "container: |share header|block|UEB"),
    "02 §7.2: share version 0": (lambda m: contained(bytes(4) + m.share[4:]), "share header: version 0"),
    "02 §7.2: share version 3": (lambda m: contained(b"\0\0\0\3" + m.share[4:]), "share header: version 3"),
    "02 §7.3: shorter than the header": (
        lambda m: contained(m.cut_at(35)),
        "its file has 119 bytes|share header: cut short",
    ),
    "02 §7.3: share hashes of negative length": (
        lambda m: contained(m.offsets(uri_extension=m.layout.share_hashes - 34)),
        "offset of UEB lies before",
    ),
    "02 §7.3: share hashes not in 34s": (
        lambda m: contained(m.offsets(uri_extension=m.layout.uri_extension + 1)),
        "share hashes is not a multiple of 34",
    ),
    "02 §7.3: block hashes of negative length": (
        lambda m: contained(m.offsets(share_hashes=m.layout.block_hashes - 32)),
        "offset of share hashes lies before",
    ),
    "02 §7.3: block hashes not in 32s": (
        lambda m: contained(m.offsets(block_hashes=m.layout.block_hashes + 1)),
        "block hashes is not a multiple of 32",
    ),
    "02 §7.3: blocks within the header": (lambda m: contained(m.offsets(data=35)), "offset of data lies before"),
    "02 §7.3: a section past the end": (
        lambda m: contained(m.offsets(uri_extension=m.layout.uri_extension + 34 * 2)),
        "UEB|share hashes",
    ),
    "02 §7.3: all sections past the end": (
        lambda m: contained(
            m.offsets(
                **{
                    name: getattr(m.layout, name) + 100_000
                    for name in ("plaintext_hash_tree", "crypttext_hash_tree", "block_hashes", "share_hashes")
                },
                uri_extension=m.layout.uri_extension + 100_000,
            )
        ),
        "UEB",
    ),
    "02 §7.3: a UEB of 2000 bytes": (
        lambda m: contained(m.sections(uri_extension=struct.pack(">L", 2000) + bytes(2000))),
        "UEB: a length of 2000",
    ),
    "02 §7.3: a UEB that ends too soon": (
        lambda m: contained(m.sections(uri_extension=struct.pack(">L", 1999) + m.trailer.ueb)),
        "UEB",
    ),
    "02 §7.4: another UEB": (lambda m: contained(made(segment=400).share), "UEB: its hash is not the cap's"),
    "02 §7.4: a UEB with a bit flipped": (
        lambda m: contained(m.share[:-1] + bytes([m.share[-1] ^ 1])),
        "UEB: its hash is not the cap's",
    ),
    "02 §7.5: no chain": (lambda m: contained(m.sections(share_hashes=b"")), "share hashes"),
    "02 §7.5: the chain of another share": (
        lambda m: contained(m.shares[0]),
        "the node of share 1 is missing|block hashes",
    ),
    "02 §7.5: a chain without its leaf": (
        lambda m: contained(m.sections(share_hashes=entries({n: v for n, v in m.chain().items() if n != 4}))),
        "the node of share 1 is missing",
    ),
    "02 §7.5: a chain that does not reach the root": (
        lambda m: contained(m.sections(share_hashes=entries({n: v for n, v in m.chain().items() if n != 2}))),
        "share hashes",
    ),
    "02 §7.5: a wrong node": (
        lambda m: contained(m.sections(share_hashes=entries({**m.chain(), 4: b"x" * 32}))),
        "share hashes",
    ),
    "02 §7.5: a node that there is not": (
        lambda m: contained(m.sections(share_hashes=entries({**m.chain(), 7: b"x" * 32}))),
        "no node 7 in a tree over 3 shares",
    ),
    "01 §4: a node that hangs in the air": (
        lambda m: contained(m.sections(share_hashes=entries({**m.chain(), 6: b"x" * 32}))),
        "share hashes",
    ),
    "02 §7.6: block hashes with another root": (
        lambda m: contained(m.sections(block_hashes=b"".join(build([b"b" * 32] * 4)))),
        "block hashes",
    ),
    "02 §7.6: a leaf that its tree does not prove": (
        lambda m: contained(
            m.share[: m.layout.share_hashes - 1]
            + bytes([m.share[m.layout.share_hashes - 1] ^ 1])
            + m.share[m.layout.share_hashes :]
        ),
        "block hashes",
    ),
    "02 §7.6: a block with a bit flipped": (
        lambda m: contained(m.share[:40] + bytes([m.share[40] ^ 1]) + m.share[41:]),
        "block 0: wrong hash",
    ),
    "02 §7.7: crypttext hashes with another root": (
        lambda m: contained(m.sections(crypttext_hash_tree=b"".join(build([b"c" * 32] * 4)))),
        "crypttext hash tree",
    ),
    "02 §7: another file": (lambda m: contained(made(data=content(SIZE, 1)).share), "UEB: its hash is not the cap's"),
}


@pytest.mark.parametrize("rule", CONTAINERS)
def test_a_share_that_breaks_a_rule_is_refused_by_name(tmp_path: Path, rule: str) -> None:
    """With another good share there are not k; with two, the file is there."""
    change, said = CONTAINERS[rule]
    file = made()
    spoilt = change(file)
    others = {shnum: contained(file.shares[shnum]) for shnum in (0, 2)}
    got, reasons = tried(tmp_path / "whole", file.cap, {**others, 1: spoilt})
    assert got == DATA
    assert list(reasons) == [1]
    got, again = tried(tmp_path / "two", file.cap, {0: others[0], 1: spoilt})
    assert got is None
    assert again == reasons
    assert _matches(said, reasons[1]), reasons


def _matches(said: str, reason: str) -> bool:
    return re.search(said, reason) is not None


# ---- a UEB that its uploader made against a rule: its hash is the cap's


def with_ueb(change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> tuple[ChkCap, dict[int, bytes]]:
    """The file with other fields in the UEB of every share, and the cap that goes with it."""
    file = made()
    fields = change(_fields(file.trailer.ueb))
    ueb = b"".join(key.encode() + b":" + netstring(fields[key]) for key in sorted(fields))
    section = struct.pack(">L", len(ueb)) + ueb
    shares = {i: contained(rebuilt(share, file.layout, uri_extension=section)) for i, share in enumerate(file.shares)}
    return replace(file.cap, ueb_hash=uri_extension_hash(ueb)), shares


def _fields(ueb: bytes) -> dict[str, bytes]:
    fields = {}
    while ueb:
        key, _, rest = ueb.partition(b":")
        length, _, rest = rest.partition(b":")
        fields[key.decode()] = rest[: int(length)]
        ueb = rest[int(length) + 1 :]
    return fields


def without(*keys: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda fields: {key: value for key, value in fields.items() if key not in keys}


def setting(**values: bytes) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda fields: {**fields, **values}


REQUIRED: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "no crypttext_root_hash": (without("crypttext_root_hash"), "UEB: no crypttext_root_hash"),
    "no share_root_hash": (without("share_root_hash"), "UEB: no share_root_hash"),
    "no segment_size": (without("segment_size"), "UEB: no segment_size"),
    "a root of 31 bytes": (setting(share_root_hash=b"s" * 31), "UEB: share_root_hash is not a hash"),
    "a root of 33 bytes": (setting(crypttext_root_hash=b"c" * 33), "UEB: crypttext_root_hash is not a hash"),
    "a segment_size of 0": (setting(segment_size=b"0"), "UEB: segment_size 0"),
    "a segment_size that k does not divide": (setting(segment_size=b"301"), "UEB: segment_size 301"),
    "a segment_size that is no number": (setting(segment_size=b"3e2"), "UEB: segment_size is not a number"),
    "a segment_size that is not that of the trees": (
        lambda fields: setting(segment_size=b"1000")(
            without("codec_params", "tail_codec_params", "num_segments")(fields)
        ),
        "share header: ",
    ),
    "a root that is not that of the shares": (setting(share_root_hash=b"s" * 32), "share hashes"),
    "a root that is not that of the ciphertext": (setting(crypttext_root_hash=b"c" * 32), "crypttext hash tree"),
}
OPTIONAL = {
    "codec_name": b"xor",
    "codec_params": b"300-2-4",
    "crypttext_hash": b"w" * 31,
    "needed_shares": b"3",
    "num_segments": b"5",
    "size": b"1001",
    "tail_codec_params": b"102-2-3",
    "total_shares": b"4",
}


@pytest.mark.parametrize("rule", REQUIRED)
def test_a_ueb_that_breaks_a_rule_is_refused(tmp_path: Path, rule: str) -> None:
    """Spec 02 §4, §7.4: required fields count for get too."""
    change, said = REQUIRED[rule]
    cap, files = with_ueb(change)
    got, reasons = tried(tmp_path, cap, files)
    assert got is None
    assert sorted(reasons) == [0, 1, 2]
    assert all(_matches(said, reason) for reason in reasons.values()), reasons


@pytest.mark.parametrize("key", OPTIONAL)
def test_an_optional_field_that_does_not_agree_is_found_by_verify_alone(tmp_path: Path, key: str) -> None:
    """Spec 02 §4: the downloader ignores it; absent it is fine for both."""
    cap, files = with_ueb(setting(**{key: OPTIONAL[key]}))
    got, reasons = tried(tmp_path / "wrong", cap, files)
    assert got == DATA
    assert sorted(reasons) == [0, 1, 2]
    assert all(reason.startswith(f"UEB: {key}") for reason in reasons.values()), reasons
    cap, files = with_ueb(without(key))
    assert tried(tmp_path / "absent", cap, files) == (DATA, {})


def test_what_old_writers_left_in_a_ueb_is_ignored(tmp_path: Path) -> None:
    more = setting(plaintext_hash=b"p" * 32, plaintext_root_hash=b"r" * 32, colour=b"blue", zzz=b"")
    got, reasons = tried(tmp_path, *with_ueb(more))
    assert (got, reasons) == (DATA, {})


@pytest.mark.parametrize(("k", "n", "size"), [(1, N, SIZE), (K, N + 2, SIZE), (K, N, SIZE + 1), (K, N, 1 << 70)])
def test_a_cap_that_does_not_go_with_its_ueb(tmp_path: Path, k: int, n: int, size: int) -> None:
    """k, N and size come from the cap; nothing is rebuilt that they do not fit."""
    file = made()
    cap = replace(file.cap, k=k, n=n, size=size)
    got, reasons = tried(tmp_path, cap, {i: contained(share) for i, share in enumerate(file.shares)})
    assert got is None
    assert sorted(reasons) == [0, 1, 2]
