"""Mutable files and directories of a real Tahoe-LAFS under lafs check and repair, and the other way round."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from tests.grids import content
from tests.lafs_process import Lafs
from tests.tahoe_node import Gateway, TahoeGrid, needed_tahoe
from tests.versions import share_in

pytestmark = [pytest.mark.tahoe, pytest.mark.slow, pytest.mark.xdist_group("tahoe")]
ENCODING = Encoding(3, 3, 10)
SECRETS = {"convergence": b32encode(b"c" * 32), "secret": b32encode(b"s" * 32)}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TahoeGrid]:
    """Three storage nodes and a gateway; in CI it must be possible to install them."""
    command = needed_tahoe()
    with TahoeGrid(command, tmp_path_factory.mktemp("tahoe"), 3, SECRETS) as grid:
        grid.start_gateways(ENCODING)
        yield grid


@pytest.fixture(scope="module")
def gateway(nodes: TahoeGrid) -> Gateway:
    return nodes.gateway(ENCODING)


@pytest.fixture(scope="module")
def lafs(nodes: TahoeGrid, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    """A home made from the gateway's. The nodes rest while lafs changes something: they take no guards."""
    command = Lafs(tmp_path_factory.mktemp("lafs"))
    command("init", "--from-tahoe", gateway.folder, code=0)
    for node in nodes.nodes:
        command("server", "add", node.folder.name, f"file://{node.storage}", code=0)
    return command


def shares(nodes: TahoeGrid, si: str) -> dict[int, Path]:
    return {int(path.name): path for node in nodes.nodes for path in (node.storage / "shares").glob(f"*/{si}/*")}


@pytest.mark.parametrize("form", ["SDMF", "MDMF"])
def test_what_tahoe_wrote_is_checked_and_repaired(nodes: TahoeGrid, gateway: Gateway, lafs: Lafs, form: str) -> None:
    """Missing, corrupt and old shares come back to the byte; then Tahoe finds it healthy, reads and overwrites it."""
    data = content(300_000, 3)
    cap = gateway._ask("PUT", f"uri?format={form}", data).decode()
    si = lafs.json("cap", "show", cap)["storage_index"]
    report = lafs.json("check", "--verify", cap)
    assert (report["good_shares"], report["kind"], report["seqnum"]) == (10, form.lower(), 1)
    places = shares(nodes, si)
    old = places[7].read_bytes()
    gateway._ask("PUT", f"uri/{cap}", data[::-1])
    before = {shnum: share_in(path) for shnum, path in places.items()}
    places[2].unlink()
    spoilt = bytearray(places[4].read_bytes())
    spoilt[3000] ^= 1
    places[4].write_bytes(spoilt)
    places[7].write_bytes(old)
    assert not gateway.check(cap, verify=True)["healthy"]
    report = lafs.json("repair", cap)
    assert (report["healthy"], report["seqnum"], report["repair"]["shares_written"]) == (True, 2, 3)
    assert {shnum: share_in(path) for shnum, path in shares(nodes, si).items()} == before
    results = gateway.check(cap, verify=True)
    assert (results["healthy"], results["count-shares-good"]) == (True, 10)
    assert gateway.get(cap) == data[::-1]
    gateway._ask("PUT", f"uri/{cap}", b"from Tahoe again")
    assert lafs("get", cap, "-", code=0).stdout == b"from Tahoe again"
    assert gateway.check(cap, verify=True)["healthy"]


def test_a_directory_of_lafs_is_healthy_to_tahoe(nodes: TahoeGrid, gateway: Gateway, lafs: Lafs) -> None:
    """Also after a node lost its disk and lafs made the shares again; Tahoe then adds a child, and lafs sees it."""
    (lafs.folder / "x").write_bytes(content(2000, 4))
    cap = lafs("mkdir", code=0).stdout.decode().strip()
    lafs("put", "x", f"{cap}/x", code=0)
    si = lafs.json("cap", "show", cap)["storage_index"]
    lost = nodes.nodes[1].storage
    gone = [path for path in shares(nodes, si).values() if path.is_relative_to(lost)]
    assert gone
    for path in gone:
        path.unlink()
    assert not gateway.check(cap)["healthy"]
    lafs("repair", "-r", cap, code=0)
    results = gateway.check(cap, verify=True)
    assert (results["healthy"], results["count-shares-good"]) == (True, 10)
    gateway._ask("PUT", f"uri/{cap}/y", content(3000, 5))
    assert lafs("ls", cap, code=0).stdout.decode().split() == ["x", "y"]
    found = [
        line for line in lafs("check", "-r", "--verify", cap, code=0).stdout.decode().splitlines() if "healthy" in line
    ]
    assert len(found) == 4
