"""Every parser that bytes from servers or files reach: it reads them, or refuses them with its one error.

Each gets random bytes, and good ones that were tampered with. What is accepted must say what the bytes say: `holds`.
The wire is fuzzed whole in `test_sftp.py` (junk), shares under their reader in `test_proof.py` (any_damage) and on a
grid in `test_flips.py`, texts of caps in `test_caps.py` (reading_never_raises).
"""

from __future__ import annotations

import base64
import json
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lafscli.config.servers import Address, ServerRecord
from lafscli.errors import CorruptShare, DamagedKit, FileError, LafsError, ServerError, UsageError
from lafscli.formats import caps, container, described
from lafscli.formats.chk import Layout, Sizes, Ueb, parse_chain, serialise_chain
from lafscli.primitives.encoding import Reader, b32decode, b32encode, netstring
from lafscli.primitives.hashtree import PartialTree, build, verify_full
from lafscli.proof import claims
from lafscli.proof.encoder import encode_small
from lafscli.recovery.gridfile import GridFile
from lafscli.recovery.kit import Kit, Login
from lafscli.recovery.sealed import Cost, SealedKit, seal
from lafscli.storage import leftovers, packets
from lafscli.storage.enrol import Identity, enrol, parse_node_id
from lafscli.storage.folder import FolderStore
from lafscli.storage.journal import Journal, Staged
from lafscli.storage.local import LocalFiles
from lafscli.storage.owner import Owner
from lafscli.storage.packets import ProtocolViolation
from lafscli.storage.store import Lease, LeaseOf, Server
from tests.grids import FEATURES
from tests.scripted_sftp import attrs
from tests.test_slots import TAHOE

Holds = Callable[[bytes, Any], bool]


@dataclass(frozen=True)
class Parser:
    """`parse` takes any bytes and gives a value for which `holds(bytes, value)`, or raises `refuses`."""

    parse: Callable[[bytes], Any]
    refuses: tuple[type[Exception], ...]
    samples: tuple[bytes, ...]
    holds: Holds = lambda data, value: True


def _text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """Text as it comes from a file or a command line."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


# ---- samples

SIZES = Sizes.plan(3, 10, 5000, 1000)
TRAILER, PARTS = encode_small(3, 10, 1000, bytes(range(250)) * 20)
SHARE = b"".join(PARTS[4])
NODES = build([bytes([i]) * 32 for i in range(10)])
LEASES = b"".join(container.lease_record(bytes([i]) * 32, bytes([9 + i]) * 32, 1_900_000_000) for i in range(2))
FILE = container.header(len(SHARE), 2) + SHARE + LEASES
SLOT_FILES = [base64.b64decode(one["containers"]["0"]) for one in TAHOE if one["kind"] in ("sdmf", "mdmf")]
CHK = caps.ChkCap(b"k" * 16, TRAILER.ueb_hash, 3, 10, 5000)
IDENTITY = Identity(b"n" * 20, b"s" * 20)
OWNER = Owner("host", "boot 4026531836", 4711, 20.0)
RECORD = ServerRecord("nas", "sftp://nas/srv/lafs", b"n" * 20, b"s" * 20, options={"timeout": "9s"})
GRID_FILE = GridFile.parse("lafs-grid = 1\n[encoding]\nk = 3\nhappy = 7\nn = 10\n").serialise().encode() + (
    b'[servers.nas]\nurl = "sftp://nas/srv"\nnode-id = "' + b32encode(b"n" * 20).encode() + b'"\n'
    b'permutation-seed = "' + b32encode(b"s" * 20).encode() + b'"\nhost-keys = ["nas ssh-ed25519 AAAA"]\n'
    b'site = "a"\nfeatures = ["fsync"]\n[servers.nas.options]\ntimeout = "9s"\nssh-command = "/bin/evil"\n'
)
KIT = Kit(
    1_700_000_000,
    GridFile.parse(GRID_FILE.decode().replace('ssh-command = "/bin/evil"', "")),
    b"c" * 32,
    b"l" * 32,
    b"work: URI:LIT:nbswy3dp\n",
    b"URI:LIT:nbuqu\n",
    {"persist": "9s"},
    {"nas": Login("/home/me/.ssh/lafs", "jump")},
)
SEALED = seal(KIT.serialise(), b"word", os.urandom, cost=Cost(1, 8)).serialise()
STATUS = packets.U32.pack(4) + packets.string(b"Failure") + packets.string(b"")
NAMES = packets.U32.pack(2) + b"".join(packets.string(n) + packets.string(b"long") + attrs() for n in (b"0", b"notes"))


def _identity(data: bytes) -> Identity:
    return Identity.parse(data)


def _ueb(data: bytes) -> Ueb:
    return Ueb.parse(data, 3, 10, 5000, strict=True)


def _whole_file(data: bytes) -> described.Description | described.SlotDescription:
    return described.describe(lambda offset, length: data[offset : offset + length], len(data))


def _leases(data: bytes) -> tuple[container.ImmutableContainer, list[container.LeaseRecord]]:
    found = container.ImmutableContainer.parse_header(data[:32], len(data))
    area = data[found.lease_offset :]
    found.find_lease(area, b"\1" * 32)
    return found, found.parse_leases(area)


def _claim(data: bytes) -> caps.ChkVerifyCap:
    layout = Layout.parse(data)
    offset, length = claims.ueb_range(layout, len(data))
    return claims.claimed_cap(b"i" * 16, layout, data[offset : offset + length])


def _chain_tied(data: bytes) -> PartialTree:
    tree = PartialTree(10, NODES[0])
    tree.add(parse_chain(data, 10))
    return tree


def _address(data: str) -> Address:
    return Address.parse(data)


def _names_hold(_: bytes, value: Any) -> bool:
    count, entries = value
    return len(entries) <= count and all(
        entry.name not in ("", ".", "..") and "/" not in entry.name and "\0" not in entry.name and entry.stat.size >= 0
        for entry in entries
    )


PARSERS: dict[str, Parser] = {
    "base32": Parser(
        _text(b32decode), (ValueError,), (b"aaaqeayeaudaocajbifqydiob4", b"", b"nbswy3dp"),
        lambda data, value: b32encode(value).encode() == data,
    ),
    "netstring": Parser(
        lambda data: Reader(data).netstring(), (CorruptShare,), (netstring(b"hello"), b"0:,", b"10:aaaaaaaaaa,"),
        lambda data, value: data.startswith(netstring(value)),
    ),
    "cap": Parser(
        _text(caps.parse), (),
        (str(CHK).encode(), str(CHK.verify_cap()).encode(), b"URI:LIT:nbswy3dp", b"imm.URI:SSK:"),
        lambda data, value: isinstance(value, caps.UnknownCap) or caps.parse(str(value)) == value,
    ),
    "cap, strictly": Parser(_text(caps.parse_strict), (UsageError,), (str(CHK).encode(),)),
    "share header": Parser(
        Layout.parse, (CorruptShare,), (SHARE[:36], Layout.build(SIZES, 2).serialise()),
        lambda data, value: data.startswith(value.serialise()),
    ),
    "UEB": Parser(
        _ueb, (CorruptShare,), (TRAILER.ueb,),
        lambda data, value: value.segment_size % 3 == 0 and value.share_root_hash in data,
    ),
    "share hash chain": Parser(
        lambda data: parse_chain(data, 10), (CorruptShare,), (serialise_chain(4, 10, NODES),),
        lambda data, value: len(data) == 34 * len(value) and max(value) < 31,
    ),
    "share hash chain, tied": Parser(
        _chain_tied, (CorruptShare,), (serialise_chain(4, 10, NODES),),
        lambda data, value: all(value.node(n) == NODES[n] for n in parse_chain(data, 10)),
    ),
    "hash tree": Parser(
        lambda data: verify_full(data, 10, NODES[0]), (CorruptShare,), (b"".join(NODES),),
        lambda data, value: data == b"".join(NODES),
    ),
    "container": Parser(
        _leases, (CorruptShare,), (FILE, container.header(0, 0)),
        lambda data, value: 12 + value[0].data_length + 72 * len(value[1]) == len(data)
        and data.endswith(b"".join(record.serialise() for record in value[1])),
    ),
    "lease": Parser(
        lambda data: container.LeaseRecord.parse(data, 2), (CorruptShare,), (LEASES[:72],),
        lambda data, value: value.serialise() == data and not value.matches_renew(b"x" * 32),
    ),
    "share file, described": Parser(_whole_file, (CorruptShare,), (FILE, *SLOT_FILES)),
    "share, by its own claim": Parser(
        _claim, (CorruptShare,), (SHARE,), lambda data, value: 1 <= value.k <= value.n <= 256 and value.size >= 1
    ),
    "file name of a share": Parser(
        _text(container.share_number), (), (b"0", b"12", b"255", b"007"),
        lambda data, value: value is None or (data.isdigit() and int(data) == value),
    ),
    "name in locks": Parser(
        _text(lambda name: leftovers.broken_si(name) or leftovers.storage_index(name)), (),
        (b32encode(b"i" * 16).encode(), b".broken." + b32encode(b"i" * 16).encode() + b".token"),
        lambda data, value: value is None or b32encode(value).encode() in data,
    ),
    "server.toml": Parser(
        _identity, (ServerError,),
        (IDENTITY.serialise(), IDENTITY.serialise() + b'grid = "x"\nepoch = 4\nmembers = []\n'),
        lambda data, value: len(value.node_id) == 20 and Identity.parse(value.serialise()) == value,
    ),
    "node id": Parser(
        _text(parse_node_id), (UsageError,), (b32encode(b"n" * 20).encode(), (b"n" * 20).hex().encode()),
        lambda data, value: len(value) == 20,
    ),
    "owner": Parser(
        Owner.parse, (), (OWNER.serialise(),),
        lambda data, value: value is None or (str(value).isprintable() and value.pid > 0 and 0 < value.seconds <= 600),
    ),
    "grid file": Parser(
        _text(GridFile.parse), (UsageError,), (GRID_FILE,),
        lambda data, value: GridFile.parse(value.serialise()).servers == value.servers
        and not any(key.startswith("ssh") for record in value.servers.values() for key in record.options),
    ),
    "recovery kit": Parser(
        Kit.parse, (LafsError,), (KIT.serialise(),),
        lambda data, value: Kit.parse(value.serialise()) == value and not value.grid.dropped,
    ),
    "recovery kit, sealed": Parser(
        SealedKit.parse, (DamagedKit, UsageError), (SEALED,), lambda data, value: value.serialise() == data
    ),
    "address": Parser(
        _text(_address), (UsageError,), (b"sftp://me@host:22/~/a%20b", b"file:///srv/x", b"sftp://[::1]:2222/x"),
        lambda data, value: Address.parse(str(value)) == value and not (value.host or "").startswith("-"),
    ),
    "STATUS": Parser(
        lambda data: packets.refusal(memoryview(data), "path", "nas"), (ProtocolViolation,), (STATUS, STATUS[:4]),
        lambda data, value: str(value).isprintable() and len(str(value)) < 250,
    ),
    "HANDLE": Parser(
        lambda data: packets.parse_handle(memoryview(data)), (ProtocolViolation,), (packets.string(b"handle"),),
        lambda data, value: data.startswith(value) and len(value) <= 260,
    ),
    "ATTRS": Parser(
        lambda data: packets.parse_attrs(memoryview(data)), (ProtocolViolation,),
        (attrs(5), struct.pack(">IIII", 0x80000000, 1, 0, 0), struct.pack(">IQI", 5, 7, 0o100644)),
        lambda data, value: 0 <= value.size < 1 << 63,
    ),
    "NAME": Parser(
        lambda data: packets.parse_names(memoryview(data)), (ProtocolViolation,), (NAMES,), _names_hold
    ),
    "VERSION": Parser(
        lambda data: packets.parse_version(memoryview(data)), (ProtocolViolation,),
        (packets.string(b"fsync@openssh.com") + packets.string(b"1"),),
        lambda data, value: all(name.isprintable() for name in value),
    ),
    "limits": Parser(
        lambda data: packets.parse_limits(memoryview(data)), (ProtocolViolation,), (struct.pack(">QQQQ", 1, 2, 3, 4),)
    ),
    "statvfs": Parser(
        lambda data: packets.parse_statvfs(memoryview(data)), (ProtocolViolation,), (struct.pack(">11Q", *range(11)),)
    ),
}  # fmt: skip

NESTED = [b"[" * 5000, b"a=" + b"[" * 5000, b"a" + b".a" * 5000 + b"=1", b"a={a=" * 2000, b'{"a":' * 5000, b"(" * 5000]
"""What makes a parser that descends fall over."""


@st.composite
def tampered(draw: st.DrawFn, samples: tuple[bytes, ...]) -> bytes:
    """A sample with a few bytes gone, others in their place, doubled or swapped; or anything at all."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.binary(max_size=200) | st.sampled_from(NESTED))
    data = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 1, 1, 2, 4, 8, 40])))
        piece = draw(
            st.binary(max_size=8)
            | st.just(data[start:stop] * 2)
            | st.sampled_from(
                [b"\xff" * 4, b"\0" * 8, b"\xff" * 8, b"\n", b'"', b"=", b"0", b"-", b"99999999999999999999"]
            )
            | st.sampled_from([other[start:] for other in samples])
            | st.sampled_from(
                [b"nan", b"inf", b"1e999", b"true", b"[]", b"{}", b'"""', b"\\u0000", b"'", b"\xed\xa0\x80"]
            )
        )
        data = data[:start] + piece + data[stop:]
    return data


def check(name: str, data: bytes) -> None:
    parser = PARSERS[name]
    refusal: Exception | None = None
    try:
        value = parser.parse(data)
    except parser.refuses as error:
        refusal = error
    if refusal is None:
        assert parser.holds(data, value), value
    elif isinstance(refusal, LafsError):
        assert refusal.message
        assert "\n" not in refusal.message


@pytest.mark.parametrize("name", PARSERS)
def test_samples_are_read(name: str) -> None:
    parser = PARSERS[name]
    for sample in parser.samples:
        assert parser.holds(sample, parser.parse(sample)), sample


@pytest.mark.parametrize("name", PARSERS)
def test_what_nests_without_end(name: str) -> None:
    for data in NESTED:
        check(name, data)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=70, deadline=None)
@given(data=st.data())
def test_anything(name: str, data: st.DataObject) -> None:
    check(name, data.draw(tampered(PARSERS[name].samples)))


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_much_of_anything(name: str, data: st.DataObject) -> None:
    check(name, data.draw(tampered(PARSERS[name].samples)))


# ---- parsers that need a folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    for name in ("shares", "staging", "locks", "trash", "quarantine"):
        (folder / name).mkdir(parents=True)
    return folder


JOURNAL = json.dumps(
    {
        "version": 1,
        "shares": {
            str(i): {"server": f"s{i}", "staged": f"staging/{'a' * 26}.{i}.{'b' * 26}", "offset": i} for i in range(3)
        },
    }
).encode()

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
many = settings(few, max_examples=1000)


def read_journal(folder: Path, data: bytes) -> None:
    """Whatever the record holds, it says nothing wrong, and an upload goes on with or without it."""
    folder.mkdir(exist_ok=True)
    (folder / b32encode(bytes(16))).write_bytes(data)
    record = Journal(folder).begin(bytes(16))
    assert record is not None
    with record:
        for shnum, staged in record.staged.items():
            assert isinstance(shnum, int)
            assert isinstance(staged, Staged)
            assert staged.offset >= 0
            assert ".." not in staged.name
            assert staged.name.count("/") == 1
        record.save()


@few
@given(data=tampered((JOURNAL,)))
def test_any_journal(root: Path, data: bytes) -> None:
    read_journal(root / "uploads", data)


@pytest.mark.slow
@many
@given(data=tampered((JOURNAL,)))
def test_any_journal_at_length(root: Path, data: bytes) -> None:
    read_journal(root / "uploads", data)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"version": 1, "shares": {"0": {"server": "s", "offset": 1e999}}}'])
def test_a_journal_that_can_t_be(root: Path, text: bytes) -> None:
    read_journal(root / "uploads", text)


NODE = (b32encode(b"n" * 20) + "\n").encode()


def read_tahoe_files(root: Path, node_id: bytes, seed: bytes) -> None:
    (root / "my_nodeid").write_bytes(node_id)
    (root / "permutation-seed").write_bytes(seed)
    with suppress(ServerError):
        found = enrol(LocalFiles(root), node_id=b"x" * 20, seed=b"y", readonly=True, random_bytes=os.urandom)
        assert len(found.node_id) == 20
        assert all(warning.isprintable() for warning in found.warnings)


@few
@given(node_id=tampered((NODE,)), seed=tampered((NODE, b"nbswy3dp\n")))
def test_any_files_of_a_tahoe_node(root: Path, node_id: bytes, seed: bytes) -> None:
    read_tahoe_files(root, node_id, seed)


@pytest.mark.slow
@many
@given(node_id=tampered((NODE,)), seed=tampered((NODE, b"nbswy3dp\n")))
def test_any_files_of_a_tahoe_node_at_length(root: Path, node_id: bytes, seed: bytes) -> None:
    read_tahoe_files(root, node_id, seed)


def change_leases(root: Path, data: bytes) -> None:
    """Leases of any container: what is changed are leases, and nothing but them."""
    features = FEATURES | {"folder-rename-keeps"}
    store = FolderStore(
        Server("nas", b"n" * 20, b"s" * 20, features=features), LocalFiles(root), random_bytes=os.urandom
    )
    path = root / container.share_path(CHK.storage_index, 4)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    item = LeaseOf(CHK.storage_index, 4, Lease(b"\1" * 32, b"\2" * 32, 2_000_000_000))
    [renewed] = store.renew([item])
    after = path.read_bytes()
    assert isinstance(renewed, bool | CorruptShare | FileError)
    assert len(after) == len(data)
    assert sum(a != b for a, b in zip(after, data, strict=True)) <= (4 if renewed is True else 0)
    [added] = store.add_lease([item])
    last = path.read_bytes()
    assert isinstance(added, bool | CorruptShare | FileError)
    if added is True:
        assert last[:8] + last[12 : len(after)] == after[:8] + after[12:]
        assert len(last) == len(after) + 72
        assert [store.add_lease([item]), store.renew([item])] == [[False], [True]]
    assert list((root / "locks").iterdir()) == []


@few
@given(data=tampered((FILE, FILE[:8] + b"\0\0\0\1" + FILE[12:-72], b"\0\0\0\1" + FILE[4:])))
def test_leases_of_any_container(root: Path, data: bytes) -> None:
    change_leases(root, data)


@pytest.mark.slow
@many
@given(data=tampered((FILE, FILE[:8] + b"\0\0\0\1" + FILE[12:-72], b"\0\0\0\1" + FILE[4:])))
def test_leases_of_any_container_at_length(root: Path, data: bytes) -> None:
    change_leases(root, data)
