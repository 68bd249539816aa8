"""Against a real Tahoe-LAFS (spec 09): each reads what the other wrote into the same folders, and makes it the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.client import Client
from lafscli.config.home import Home
from lafscli.config.settings import Config
from lafscli.formats.caps import ChkCap, LitCap, parse_strict
from lafscli.formats.container import HEAD_SIZE, ImmutableContainer, LeaseRecord
from lafscli.immutable.download import download
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import LEASE_SECONDS, Uploaded, upload
from lafscli.placement import Encoding
from lafscli.primitives import hashes
from lafscli.primitives.encoding import b32decode, b32encode
from tests.grids import LocalGrid, content, writing
from tests.lafs_process import Lafs
from tests.sshd import SshServers
from tests.tahoe_node import Gateway, TahoeGrid, needed_tahoe

pytestmark = [pytest.mark.tahoe, pytest.mark.slow, pytest.mark.xdist_group("tahoe")]

CONVERGENCE = b"a convergence secret of 32 bytes"
LEASE_SECRET = b"the lease secret, also 32 bytes."
SECRETS = {"convergence": b32encode(CONVERGENCE), "secret": b32encode(LEASE_SECRET)}

STANDARD = Encoding(3, 3, 10, 1 << 20)
SINGLE = Encoding(1, 1, 1, 1 << 20)
ENCODINGS = [STANDARD, Encoding(3, 3, 10, 131072), Encoding(5, 2, 13, 100_000), SINGLE]
SIZES = [0, 1, 55, 56, 57, 1000, 131_073, 1 << 20, 3_000_001]
ALONE = Encoding(3, 1, 10)
"""For a grid of one node."""
A_DAY = 24 * 3600

every_encoding = pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda e: f"{e.k}of{e.n}-{e.segment_size}")
every_size = pytest.mark.parametrize("size", SIZES)


@pytest.fixture(scope="module")
def tahoe() -> Path:
    """Tahoe's command; where it can't be installed the tests are skipped, in CI they fail."""
    return needed_tahoe()


@pytest.fixture(scope="module")
def nodes(tahoe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TahoeGrid]:
    """Three storage nodes, and a gateway for every encoding."""
    with TahoeGrid(tahoe, tmp_path_factory.mktemp("tahoe"), 3, SECRETS) as grid:
        grid.start_gateways(*ENCODINGS)
        yield grid


@pytest.fixture(scope="module")
def gateway(nodes: TahoeGrid) -> Gateway:
    return nodes.gateway(STANDARD)


@pytest.fixture(scope="module")
def lafs(nodes: TahoeGrid, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    """A home made from the gateway's, with the folders of the running nodes as servers."""
    command = Lafs(tmp_path_factory.mktemp("lafs"))
    command("init", "--from-tahoe", gateway.folder, code=0)
    for node in nodes.nodes:
        command("server", "add", node.folder.name, f"file://{node.storage}", code=0)
    return command


@pytest.fixture(scope="module")
def client(lafs: Lafs) -> Iterator[Client]:
    opened = Client(Config.load(Home.find(str(lafs.home))))
    yield opened
    opened.close()


def put(client: Client, data: bytes, encoding: Encoding = STANDARD) -> Uploaded:
    return upload(client.grid, data, client.writing(encoding, convergent=True))


def get(client: Client, cap: str, offset: int = 0, length: int | None = None) -> bytes:
    parsed = parse_strict(cap)
    assert isinstance(parsed, LitCap | ChkCap)
    out = bytearray()
    done = download(client.grid, parsed, out.extend, offset=offset, length=length)
    assert not done.corrupt
    assert not done.silent
    return bytes(out)


def index(cap: LitCap | ChkCap | str) -> bytes:
    """The storage index of an object that has one."""
    si = parse_strict(str(cap)).storage_index
    assert si is not None
    return si


def shares_of(found: dict[str, Path], si: bytes) -> dict[int, Path]:
    """Of all shares (`SI/number` to file) those of one storage index."""
    return {int(path.name): path for path in found.values() if path.parent.name == b32encode(si)}


def split(path: Path) -> tuple[bytes, list[LeaseRecord]]:
    """A container file: everything but the leases and their number, and the leases."""
    data = path.read_bytes()
    found = ImmutableContainer.parse_header(data[:HEAD_SIZE], len(data))
    return data[:8] + data[12 : found.lease_offset], found.parse_leases(data[found.lease_offset :])


def make_older(path: Path, seconds: int) -> None:
    """Bring the expiration of the last lease forward, as if it had been renewed earlier."""
    data = path.read_bytes()
    expiration = int.from_bytes(data[-4:], "big") - seconds
    path.write_bytes(data[:-4] + expiration.to_bytes(4, "big"))


def assert_fresh(lease: LeaseRecord) -> None:
    """It was made or renewed a moment ago: 31 days are left."""
    assert abs(lease.expiration - time.time() - LEASE_SECONDS) < 3600


def assert_healthy(gateway: Gateway, cap: str, encoding: Encoding, hosts: int) -> None:
    """`check --verify`: every share there is good, and all are there."""
    report = gateway.check(cap, verify=True)
    assert report["healthy"]
    assert report["count-shares-good"] == report["count-shares-expected"] == encoding.n
    assert report["count-shares-needed"] == encoding.k
    assert report["count-good-share-hosts"] == report["count-happiness"] == hosts
    assert report["list-corrupt-shares"] == []


# ---- one reads what the other wrote


@every_encoding
@every_size
def test_tahoe_reads_what_lafs_wrote(
    nodes: TahoeGrid, gateway: Gateway, client: Client, encoding: Encoding, size: int
) -> None:
    data = content(size, seed=1)
    cap = str(put(client, data, encoding).cap)
    assert gateway.get(cap) == data
    if size > 55:
        assert_healthy(gateway, cap, encoding, min(encoding.n, len(nodes.nodes)))
        assert gateway.get_range(cap, size // 3, size // 2) == data[size // 3 : size // 2 + 1]
    else:
        assert gateway.check(cap) == {"healthy": True}


@every_encoding
@every_size
def test_lafs_reads_what_tahoe_wrote(nodes: TahoeGrid, client: Client, encoding: Encoding, size: int) -> None:
    data = content(size, seed=2)
    cap = nodes.gateway(encoding).put(data)
    assert get(client, cap) == data
    assert get(client, cap, offset=size // 3, length=size // 2) == data[size // 3 : size // 3 + size // 2]
    if size > 55:
        assert len(shares_of(nodes.shares(), index(cap))) == encoding.n


@pytest.mark.parametrize(("k", "n"), [(1, 256), (100, 256), (256, 256)])
def test_the_largest_encodings(gateway: Gateway, client: Client, k: int, n: int) -> None:
    data = content(100_003, seed=25)
    encoding = Encoding(k, 3, n, 40_000)
    cap = str(put(client, data, encoding).cap)
    assert gateway.get(cap) == data
    assert_healthy(gateway, cap, encoding, 3)


def test_tahoe_reads_many_small_files_that_lafs_wrote_at_once(gateway: Gateway, client: Client) -> None:
    files = [content(size, seed=3) for size in range(50, 900, 23)]
    for data, done in zip(
        files, upload_many(client.grid, files, client.writing(STANDARD, convergent=True)), strict=True
    ):
        assert isinstance(done, Uploaded)
        assert gateway.get(str(done.cap)) == data
        if len(data) > 55:
            assert_healthy(gateway, str(done.cap), STANDARD, 3)


def test_tahoe_reads_what_lafs_took_from_a_pipe(gateway: Gateway, lafs: Lafs) -> None:
    """Its length is not known before its end: share version 2, a random key."""
    data = content(3_000_001, seed=4)
    stored = lafs.json("put", "-", input=data)
    assert gateway.get(stored["cap"]) == data
    assert_healthy(gateway, stored["cap"], STANDARD, 3)


def test_the_last_three_shares_are_enough_for_either(nodes: TahoeGrid, gateway: Gateway, client: Client) -> None:
    """None of them is a slice of the file: both decode alike."""
    for seed, write, read in (
        (5, lambda data: str(put(client, data).cap), gateway.get),
        (6, gateway.put, lambda cap: get(client, cap)),
    ):
        data = content(1_500_000, seed)
        cap = write(data)
        for shnum, path in shares_of(nodes.shares(), index(cap)).items():
            if shnum < 7:
                path.unlink()
        assert read(cap) == data
        report = gateway.check(cap, verify=True)
        assert (report["healthy"], report["recoverable"], report["count-shares-good"]) == (False, True, 3)


def test_tahoe_names_a_damaged_share_of_ours(nodes: TahoeGrid, gateway: Gateway, client: Client) -> None:
    """Its `healthy` means something."""
    cap = str(put(client, content(200_000, seed=7)).cap)
    path = shares_of(nodes.shares(), index(cap))[4]
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)
    report = gateway.check(cap, verify=True)
    assert not report["healthy"]
    assert [[si, shnum] for _, si, shnum in report["list-corrupt-shares"]] == [[b32encode(index(cap)), 4]]


def test_the_command_lines_of_both(nodes: TahoeGrid, gateway: Gateway, lafs: Lafs, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(content(400_000, seed=8))
    stored = lafs.json("put", source, "--encoding", "3/3/10")
    said = gateway.tahoe("check", "--verify", stored["cap"])
    assert said.splitlines()[:3] == [
        "Summary: Healthy",
        f" storage index: {stored['storage_index']}",
        " good-shares: 10 (encoding is 3-of-10)",
    ]
    gateway.tahoe("get", stored["cap"], str(copy))
    assert copy.read_bytes() == source.read_bytes()

    other = tmp_path / "other"
    other.write_bytes(content(400_000, seed=9))
    cap = gateway.tahoe("put", str(other)).strip()
    lafs("get", cap, copy, code=0)
    assert copy.read_bytes() == other.read_bytes()


def test_over_sftp(
    nodes: TahoeGrid, gateway: Gateway, tmp_path: Path, start_servers: Callable[..., SshServers]
) -> None:
    """The folders of running nodes, reached through a real sshd."""
    servers = start_servers(1)
    lafs = Lafs(tmp_path / "client")
    lafs("init", "--from-tahoe", gateway.folder, code=0)
    for node in nodes.nodes:
        url = f"sftp://{servers.name(0)}{node.storage}"
        lafs("server", "add", node.folder.name, url, "--option", f"ssh-config={servers.config}", code=0)
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(content(1_200_000, seed=10))
    stored = lafs.json("put", source)
    assert stored["cap"] == gateway.put(source.read_bytes())
    assert stored["pushed_shares"] == 10
    assert gateway.get(stored["cap"]) == source.read_bytes()
    assert_healthy(gateway, stored["cap"], STANDARD, 3)

    data = content(1_200_000, seed=11)
    lafs("get", gateway.put(data), copy, code=0)
    assert copy.read_bytes() == data


# ---- the same content gives the same bytes


@every_encoding
def test_caps_containers_and_leases_are_equal(nodes: TahoeGrid, encoding: Encoding, tmp_path: Path) -> None:
    """Equal up to the time of the lease; Tahoe's expires later by a minute or two of our clock."""
    local = LocalGrid(tmp_path / "grid", 3)
    nodes_by_shares = {node.storage / "shares": b32decode(node.read("my_nodeid")) for node in nodes.nodes}
    with local.grid() as grid:
        for size in SIZES:
            data = content(size, seed=12)
            cap = upload(grid, data, writing(encoding, CONVERGENCE)).cap
            assert str(cap) == nodes.gateway(encoding).put(data)
            if size <= 55:
                continue
            si = index(cap)
            ours = {int(path.name): path for path in local.share_files() if path.parent.name == b32encode(si)}
            theirs = shares_of(nodes.shares(), si)
            assert sorted(ours) == sorted(theirs) == list(range(encoding.n))
            for shnum, path in theirs.items():
                expected, [lease] = split(path)
                assert split(ours[shnum])[0] == expected
                node_id = nodes_by_shares[path.parent.parent.parent]
                assert lease == LeaseRecord.make(
                    hashes.lease_renew_secret(LEASE_SECRET, si, node_id),
                    hashes.lease_cancel_secret(LEASE_SECRET, si, node_id),
                    lease.expiration,
                )
                assert_fresh(lease)


def test_an_empty_convergence_secret_gives_the_same_cap(
    tahoe: Path, nodes: TahoeGrid, tmp_path: Path, lafs: Lafs
) -> None:
    """Its file holds an empty line."""
    gateway = Gateway(tahoe, tmp_path / "gateway", nodes.nodes, STANDARD, {**SECRETS, "convergence": ""})
    home = Lafs(tmp_path / "lafs")
    source = tmp_path / "source"
    source.write_bytes(content(5000, seed=13))
    home("init", "--from-tahoe", gateway.folder, code=0)
    for node in nodes.nodes:
        home("server", "add", node.folder.name, f"file://{node.storage}", code=0)
    gateway.start()
    try:
        gateway.wait_until_ready()
        assert home.json("put", source)["cap"] == gateway.put(source.read_bytes())
        assert lafs.json("put", source)["cap"] != gateway.put(source.read_bytes())
    finally:
        gateway.stop()


def test_each_finds_the_shares_of_the_other(nodes: TahoeGrid, gateway: Gateway, client: Client) -> None:
    """Tahoe puts further copies beside those it finds (spec 05 §4 says why); it leaves those alone."""
    data = content(100_000, seed=14)
    ours = put(client, data)
    before = {path: split(path)[0] for path in shares_of(nodes.shares(), index(ours.cap)).values()}
    assert gateway.put(data) == str(ours.cap)
    assert {path: split(path)[0] for path in before} == before
    assert_healthy(gateway, str(ours.cap), STANDARD, 3)

    data = content(100_000, seed=15)
    cap = gateway.put(data)
    before = {path: split(path)[0] for path in shares_of(nodes.shares(), index(cap)).values()}
    ours = put(client, data)
    assert (str(ours.cap), ours.pushed, ours.preexisting) == (cap, 0, 10)
    after = shares_of(nodes.shares(), index(cap)).values()
    assert {path: split(path)[0] for path in after} == before


# ---- leases


def test_tahoe_renews_a_lease_that_lafs_wrote(nodes: TahoeGrid, gateway: Gateway, client: Client) -> None:
    """The lease secret came with `init --from-tahoe`: it is the gateway's own lease."""
    data = content(100_000, seed=16)
    cap = str(put(client, data).cap)
    shares = shares_of(nodes.shares(), index(cap))
    for path in shares.values():
        assert_fresh(split(path)[1][0])
        make_older(path, 5 * A_DAY)
    assert "good-shares: 10" in gateway.tahoe("check", "--verify", "--add-lease", cap)
    for path in shares.values():
        [lease] = split(path)[1]
        assert_fresh(lease)
    assert get(client, cap) == data


def test_lafs_renews_a_lease_that_tahoe_wrote(nodes: TahoeGrid, gateway: Gateway, client: Client) -> None:
    data = content(100_000, seed=17)
    cap = gateway.put(data)
    shares = shares_of(nodes.shares(), index(cap))
    for path in shares.values():
        make_older(path, 5 * A_DAY)
    before = {shnum: split(path)[0] for shnum, path in shares.items()}
    put(client, data)
    for shnum, path in shares.items():
        share, [lease] = split(path)
        assert share == before[shnum]
        assert_fresh(lease)
    assert_healthy(gateway, cap, STANDARD, 3)


def test_tahoe_adds_its_lease_to_one_of_a_stranger(nodes: TahoeGrid, gateway: Gateway, client: Client) -> None:
    """Every share grows by a lease record; both read it as before, and put it again."""
    data = content(100_000, seed=18)
    stranger = replace(client.writing(STANDARD, convergent=True), lease_secret=b"somebody else's secret, 32 bytes")
    cap = str(upload(client.grid, data, stranger).cap)
    shares = shares_of(nodes.shares(), index(cap))
    before = {shnum: split(path) for shnum, path in shares.items()}
    gateway.check(cap, add_lease=True)
    for shnum, path in shares.items():
        share, leases = split(path)
        assert share == before[shnum][0]
        assert leases[0] == before[shnum][1][0]
        assert len(leases) == 2
        assert leases[1].owner == 1  # spec 06 §3: an explicit add-lease
        assert_fresh(leases[1])
    assert get(client, cap) == data
    again = put(client, data)
    assert (again.pushed, again.preexisting) == (0, 10)
    assert_healthy(gateway, cap, STANDARD, 3)


# ---- who a server is, and what it gets


def test_server_add_takes_the_identity_of_the_node(nodes: TahoeGrid, client: Client) -> None:
    for node in nodes.nodes:
        record = client.record(node.folder.name)
        assert record.node_id == b32decode(node.read("my_nodeid"))
        assert record.seed == node.server_id.removeprefix("v0-").encode()  # spec 05 §1: base32 twice


def test_the_permuted_order_is_tahoes(nodes: TahoeGrid, gateway: Gateway, client: Client) -> None:
    """Tahoe deals the shares of a mutable file out along the order, so its placement shows all of it; an immutable
    file of one share goes to one of the first two (spec 05 §4: candidates are the first 2·N, ties are not fixed)."""
    for number in range(12):
        si = index(gateway.put_mutable(b"%d" % number))
        order = [store.server.name for store in client.grid.permuted(si)]
        held = {node.folder.name: sorted(shares_of(node.shares(), si)) for node in nodes.nodes}
        assert [held[name] for name in order] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    for number in range(24):
        si = index(nodes.gateway(SINGLE).put(content(100 + number, seed=19)))
        order = [store.server.name for store in client.grid.permuted(si)]
        [holder] = [node.folder.name for node in nodes.nodes if shares_of(node.shares(), si)]
        assert holder in order[:2]


def test_tahoe_finds_a_single_share_where_lafs_put_it(nodes: TahoeGrid, client: Client) -> None:
    """On the first server of the order, where both look first."""
    for number in range(12):
        data = content(100 + number, seed=20)
        done = put(client, data, SINGLE)
        assert done.placement == {0: [client.grid.permuted(index(done.cap))[0].server.name]}
        assert nodes.gateway(SINGLE).get(str(done.cap)) == data


# ---- a folder changes hands


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below, with its bytes; without what a node keeps for itself."""
    own = ("lease_checker", "bucket_counter", "shares/incoming", "corruption-advisories")
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*")}
    return {
        name: path.read_bytes() if path.is_file() else None
        for name, path in sorted(found.items())
        if not name.startswith(own)
    }


def test_a_folder_that_lafs_made_serves_a_tahoe_node(tahoe: Path, tmp_path: Path) -> None:
    """`server.toml`, `staging/` and the rest beside `shares/` do no harm, and none comes to them."""
    folder = tmp_path / "plain"
    lafs = Lafs(tmp_path / "client")
    lafs("init", "--encoding", "3/1/10", code=0)
    lafs("server", "add", "plain", f"file://{folder}", code=0)
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(content(300_000, seed=21))
    cap = lafs.json("put", source)["cap"]
    before = tree(folder)
    assert {"server.toml", "staging"} <= before.keys()

    with TahoeGrid(tahoe, tmp_path / "tahoe", 1, SECRETS, storage=[folder]) as grid:
        [node] = grid.nodes
        assert tree(folder) == before
        # spec 09 §1: over shares that are there already the node id is the permutation seed
        assert b32decode(node.read("permutation-seed")) == b32decode(node.read("my_nodeid"))
        gateway = grid.gateway(ALONE)
        assert gateway.get(cap) == source.read_bytes()
        assert_healthy(gateway, cap, ALONE, 1)
        data = content(300_000, seed=22)
        lafs("get", gateway.put(data), copy, code=0)
        assert copy.read_bytes() == data


def test_a_node_restarts_over_a_folder_that_lafs_used_meanwhile(tahoe: Path, tmp_path: Path) -> None:
    """Stopped and moved away, added as a plain folder, written to, moved back, started."""
    lafs = Lafs(tmp_path / "client")
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(content(300_000, seed=23))
    data = content(300_000, seed=24)
    with TahoeGrid(tahoe, tmp_path / "tahoe", 1, SECRETS) as grid:
        [node], gateway = grid.nodes, grid.gateway(ALONE)
        theirs = gateway.put(data)
        gateway.stop()
        node.stop()
        moved = node.folder.rename(tmp_path / "moved")

        lafs("init", "--from-tahoe", gateway.folder, code=0)
        lafs("server", "add", "moved", f"file://{moved}/storage", code=0)
        [server] = lafs.json("server", "list")["servers"]
        assert server["node_id"] == (moved / "my_nodeid").read_text().strip()
        lafs("get", theirs, copy, code=0)
        assert copy.read_bytes() == data
        ours = lafs.json("put", source)
        assert (ours["pushed_shares"], ours["happiness"]) == (10, 1)
        (moved / "storage" / "staging" / f"{ours['storage_index']}.0.abandoned").write_bytes(b"half a share")
        before = tree(moved / "storage")

        moved.rename(node.folder)
        node.start()
        node.wait_until_ready()
        assert tree(node.storage) == before
        gateway.start()
        gateway.wait_until_ready()
        assert gateway.put(source.read_bytes()) == ours["cap"]
        for cap, expected in ((ours["cap"], source.read_bytes()), (theirs, data)):
            assert gateway.get(cap) == expected
            assert_healthy(gateway, cap, ALONE, 1)
        assert tree(node.storage).keys() == before.keys()
