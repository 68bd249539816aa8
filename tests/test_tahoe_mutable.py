"""Mutable files and directories against a real Tahoe-LAFS (spec 03, 04, 09): each lists, reads and changes what the
other made, in the same folders, and each finds healthy what the other left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from lafscli.formats.caps import parse_strict
from lafscli.formats.container import share_path
from lafscli.formats.mutable_container import DATA_OFFSET, MutableContainer
from lafscli.placement import Encoding
from lafscli.primitives import hashes
from lafscli.primitives.encoding import b32decode, b32encode
from tests.grids import content
from tests.lafs_process import Lafs
from tests.tahoe_node import Gateway, TahoeGrid, needed_tahoe

pytestmark = [pytest.mark.tahoe, pytest.mark.slow, pytest.mark.xdist_group("tahoe")]

SECRETS = {"convergence": b32encode(b"a convergence secret of 32 bytes"), "secret": b32encode(b"l" * 32)}
STANDARD = Encoding(3, 3, 10)
A_NAME = "Überblick 目次"
LONG = 300_001
"""Three segments of MDMF."""

both_formats = pytest.mark.parametrize("kind", ["sdmf", "mdmf"])


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TahoeGrid]:
    """Three storage nodes and a gateway; where Tahoe can't be installed the tests are skipped, in CI they fail."""
    command = needed_tahoe()
    with TahoeGrid(command, tmp_path_factory.mktemp("tahoe"), 3, SECRETS) as grid:
        grid.start_gateways(STANDARD)
        yield grid


@pytest.fixture(scope="module")
def tahoe(nodes: TahoeGrid) -> Gateway:
    return nodes.gateway(STANDARD)


@pytest.fixture(scope="module")
def lafs(nodes: TahoeGrid, tahoe: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    """A home made from the gateway's, with the folders of the running nodes as servers. Both are never asked at once:
    a running node takes no guards (spec 10 §2.10)."""
    command = Lafs(tmp_path_factory.mktemp("lafs"))
    command("init", "--from-tahoe", tahoe.folder, code=0)
    for node in nodes.nodes:
        command("server", "add", node.folder.name, f"file://{node.storage}", code=0)
    return command


def ask(tahoe: Gateway, method: str, cap: str, path: str = "", query: str = "", body: bytes | None = None) -> bytes:
    """A request about an object, or one below it."""
    inside = "".join(f"/{quote(part, safe='')}" for part in path.split("/") if part)
    return tahoe._ask(method, f"uri/{quote(cap, safe='')}{inside}{query}", body)


def listed(tahoe: Gateway, cap: str) -> dict[str, Any]:
    """The children of a directory as Tahoe tells them: name to its words."""
    kind, what = json.loads(ask(tahoe, "GET", cap, query="?t=json"))
    assert kind == "dirnode"
    return {name: words for name, (_, words) in what["children"].items()}


def assert_healthy(tahoe: Gateway, lafs: Lafs, cap: str) -> None:
    """Both have proved every share, and found them all."""
    report = tahoe.check(cap, verify=True)
    assert report["healthy"], report
    assert report["count-shares-good"] == report["count-shares-expected"] == 10
    assert (report["count-recoverable-versions"], report["count-unrecoverable-versions"]) == (1, 0)
    assert report["list-corrupt-shares"] == []
    ours = lafs.json("check", "--verify", cap)
    assert ours["healthy"]
    assert (ours["good_shares"], ours["corrupt"]) == (10, [])


def containers(nodes: TahoeGrid, cap: str) -> dict[tuple[int, int], Path]:
    """Files of all shares by server and number."""
    si = parse_strict(cap).storage_index
    assert si is not None
    found = {}
    for place, node in enumerate(nodes.nodes):
        for shnum in range(10):
            path = node.storage / share_path(si, shnum)
            if path.exists():
                found[place, shnum] = path
    return found


def read_only(cap: str) -> str:
    return str(parse_strict(cap).read_cap())


# ---- files


@both_formats
@pytest.mark.parametrize("size", [0, 1, 131_072, 131_073, LONG])
def test_tahoe_reads_and_overwrites_what_lafs_made(
    tahoe: Gateway, lafs: Lafs, tmp_path: Path, kind: str, size: int
) -> None:
    first, second, third = (content(length, seed) for seed, length in enumerate((size, size // 2 + 7, size + 1000)))
    (tmp_path / "source").write_bytes(first)
    made = lafs.json("put", tmp_path / "source", "--format", kind)
    cap = made["cap"]
    assert made["kind"] == kind
    assert tahoe.get(cap) == tahoe.get(read_only(cap)) == first
    assert_healthy(tahoe, lafs, cap)
    if size > 2:
        assert tahoe.get_range(cap, size // 3, size // 2) == first[size // 3 : size // 2 + 1]
    # a shorter and a longer one: containers of Tahoe never shrink
    for data in (second, third):
        ask(tahoe, "PUT", cap, body=data)
        assert lafs("cat", cap, code=0).stdout == data
        assert_healthy(tahoe, lafs, cap)
    (tmp_path / "source").write_bytes(second)
    lafs("put", tmp_path / "source", cap, code=0)
    assert tahoe.get(cap) == second
    assert_healthy(tahoe, lafs, cap)


@both_formats
@pytest.mark.parametrize("size", [0, 1, 131_072, LONG])
def test_lafs_reads_and_overwrites_what_tahoe_made(
    tahoe: Gateway, lafs: Lafs, tmp_path: Path, kind: str, size: int
) -> None:
    first, second = content(size, 11), content(size // 2 + 99, 12)
    cap = tahoe._ask("PUT", f"uri?format={kind}", first).decode()
    assert lafs("cat", cap, code=0).stdout == lafs("cat", read_only(cap), code=0).stdout == first
    lafs("get", cap, tmp_path / "part", "--offset", str(size // 3), "--length", str(size // 2), code=0)
    assert (tmp_path / "part").read_bytes() == first[size // 3 : size // 3 + size // 2]
    (tmp_path / "source").write_bytes(second)
    lafs("put", tmp_path / "source", cap, code=0)
    assert tahoe.get(cap) == second
    assert_healthy(tahoe, lafs, cap)
    ask(tahoe, "PUT", cap, body=first)
    assert lafs("cat", cap, code=0).stdout == first
    assert_healthy(tahoe, lafs, cap)


@both_formats
def test_write_enablers_and_leases_are_those_of_each_node(
    nodes: TahoeGrid, tahoe: Gateway, lafs: Lafs, tmp_path: Path, kind: str
) -> None:
    """Both have the same lease secret: one lease in each container, whoever wrote last."""
    (tmp_path / "source").write_bytes(b"who may write")
    cap = lafs.json("put", tmp_path / "source", "--format", kind)["cap"]

    def look() -> None:
        writekey = parse_strict(cap).writekey  # type: ignore[attr-defined]
        for (place, _), path in containers(nodes, cap).items():
            data = path.read_bytes()
            found = MutableContainer.parse(data[:DATA_OFFSET], len(data))
            node_id = b32decode(nodes.nodes[place].read("my_nodeid"))
            assert found.node_id == node_id
            assert found.write_enabler == hashes.write_enabler(writekey, node_id)
            assert len(found.leases) == 1

    look()
    node_ids = {path.read_bytes()[32:52] for path in containers(nodes, cap).values()}
    assert len(node_ids) == 3
    ask(tahoe, "PUT", cap, body=b"by Tahoe")
    look()
    assert node_ids == {path.read_bytes()[32:52] for path in containers(nodes, cap).values()}


# ---- directories


@both_formats
def test_tahoe_uses_a_directory_that_lafs_made(tahoe: Gateway, lafs: Lafs, tmp_path: Path, kind: str) -> None:
    root = lafs.json("mkdir", "--format", kind)["cap"]
    (tmp_path / "file").write_bytes(content(2000, 20))
    (tmp_path / "slot").write_bytes(b"first")
    lafs("put", tmp_path / "file", f"{root}/{A_NAME}", code=0)
    lafs("put", "--mutable", tmp_path / "slot", f"{root}/slot", code=0)
    lafs("mkdir", f"{root}/sub", code=0)
    lafs("ln", f"{root}/sub", f"{root}/looked at", "--readonly", code=0)

    children = listed(tahoe, root)
    assert set(children) == {A_NAME, "slot", "sub", "looked at"}
    assert ask(tahoe, "GET", root, A_NAME) == content(2000, 20)
    assert "rw_uri" not in children["looked at"]
    assert children["looked at"]["ro_uri"] == children["sub"]["ro_uri"]
    assert "linkcrtime" in children[A_NAME]["metadata"]["tahoe"]
    below = listed(tahoe, read_only(root))
    assert not any("rw_uri" in child for child in below.values())
    assert_healthy(tahoe, lafs, root)

    ask(tahoe, "PUT", root, "sub/by Tahoe", body=content(3000, 21))
    ask(tahoe, "PUT", root, "slot", body=b"second, by Tahoe")
    ask(tahoe, "POST", root, query="?t=mkdir&name=new")
    ask(tahoe, "DELETE", root, "looked at")
    entries = {entry["name"]: entry for entry in lafs.json("ls", root)["entries"]}
    assert set(entries) == {A_NAME, "slot", "sub", "new"}
    assert lafs("cat", f"{root}/sub/by Tahoe", code=0).stdout == content(3000, 21)
    assert lafs("cat", f"{root}/slot", code=0).stdout == b"second, by Tahoe"
    assert_healthy(tahoe, lafs, root)
    summary = lafs("check", "-r", "--verify", root, "--json", code=0).stdout.decode().splitlines()[-1]
    assert json.loads(summary)["summary"]["healthy"] == 6


@both_formats
def test_lafs_uses_a_directory_that_tahoe_made(tahoe: Gateway, lafs: Lafs, tmp_path: Path, kind: str) -> None:
    root = tahoe._ask("POST", f"uri?t=mkdir&format={kind}").decode()
    ask(tahoe, "PUT", root, f"a/b/{A_NAME}", body=content(5000, 30))
    ask(tahoe, "PUT", root, "a/slot", "?format=sdmf", body=b"first")
    before = listed(tahoe, root)["a"]
    assert [entry["name"] for entry in lafs.json("ls", f"{root}/a")["entries"]] == ["b", "slot"]
    assert lafs("cat", f"{root}/a/b/{A_NAME}", code=0).stdout == content(5000, 30)

    (tmp_path / "file").write_bytes(content(4000, 31))
    (tmp_path / "slot").write_bytes(b"second, by lafs")
    lafs("put", tmp_path / "file", f"{root}/a/b/by lafs", code=0)
    lafs("put", tmp_path / "slot", f"{root}/a/slot", code=0)
    lafs("mv", f"{root}/a/b/{A_NAME}", f"{root}/moved", code=0)
    assert set(listed(tahoe, root)) == {"a", "moved"}
    # the entry that was not touched has kept what Tahoe wrote, and the link still opens with the write cap
    assert listed(tahoe, root)["a"] == before
    assert ask(tahoe, "GET", root, "a/b/by lafs") == content(4000, 31)
    assert ask(tahoe, "GET", root, "a/slot") == b"second, by lafs"
    assert ask(tahoe, "GET", root, "moved") == content(5000, 30)
    for cap in (root, before["rw_uri"]):
        assert_healthy(tahoe, lafs, cap)


def test_unknown_caps_of_the_future_survive_a_change_by_lafs(tahoe: Gateway, lafs: Lafs, tmp_path: Path) -> None:
    root = tahoe._ask("POST", "uri?t=mkdir").decode()
    children = {
        "future": ["filenode", {"rw_uri": "x-future:rw:1", "ro_uri": "x-future:ro:1", "metadata": {"from": "later"}}],
        "constant": ["filenode", {"ro_uri": "imm.x-future:im:1", "metadata": {}}],
    }
    ask(tahoe, "POST", root, query="?t=set_children", body=json.dumps(children).encode())
    before = listed(tahoe, root)
    (tmp_path / "file").write_bytes(b"something new")
    lafs("put", tmp_path / "file", f"{root}/new", code=0)
    lafs("mv", f"{root}/new", f"{root}/newer", code=0)
    after = listed(tahoe, root)
    assert after.pop("newer")
    assert after == before
    assert before["future"]["rw_uri"] == "x-future:rw:1"


def test_an_immutable_tree_of_either(tahoe: Gateway, lafs: Lafs, tmp_path: Path) -> None:
    file = tahoe.put(content(1000, 40))
    children = {name: ["filenode", {"ro_uri": cap}] for name, cap in (("a", file), ("lit", "URI:LIT:nruxi"))}
    made = tahoe._ask("POST", "uri?t=mkdir-immutable", json.dumps(children).encode()).decode()
    assert parse_strict(made).kind == "dir2-chk"
    assert [entry["name"] for entry in lafs.json("ls", made)["entries"]] == ["a", "lit"]
    lafs("cp", "-r", made, tmp_path / "copy", code=0)
    assert (tmp_path / "copy" / "a").read_bytes() == content(1000, 40)
    assert_healthy(tahoe, lafs, made)


def test_aliases_come_along(tahoe: Gateway, tmp_path: Path) -> None:
    root = tahoe._ask("POST", "uri?t=mkdir").decode()
    aliases = tahoe.folder / "private" / "aliases"
    aliases.write_text(f"home: {root}\n")
    other = Lafs(tmp_path / "other")
    other("init", "--from-tahoe", tahoe.folder, code=0)
    [alias] = other.json("alias", "list")["aliases"]
    assert (alias["name"], alias["rw_uri"]) == ("home", root)


def test_a_tree_copied_by_lafs_comes_out_of_tahoe_the_same(tahoe: Gateway, lafs: Lafs, tmp_path: Path) -> None:
    for name, size in (("a/0", 0), ("a/b/1", 1), (f"a/b/{A_NAME}", 70_000), ("c", 200_000)):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(size, size))
    root = lafs.json("mkdir")["cap"]
    lafs("cp", "-r", tmp_path / "tree", root, code=0)
    tahoe.tahoe("cp", "-r", root, str(tmp_path / "out"))
    [copied] = (path for path in (tmp_path / "out", tmp_path / "out" / "tree") if (path / "c").exists())
    for path in (tmp_path / "tree").rglob("*"):
        if path.is_file():
            assert (copied / path.relative_to(tmp_path / "tree")).read_bytes() == path.read_bytes()


# ---- repair


@both_formats
def test_lafs_repairs_what_tahoe_made_and_the_reverse(nodes: TahoeGrid, tahoe: Gateway, lafs: Lafs, kind: str) -> None:
    cap = tahoe._ask("PUT", f"uri?format={kind}", content(LONG, 50)).decode()
    seqnums = set()
    for repair in (lambda: lafs("repair", cap, code=0), lambda: ask(tahoe, "POST", cap, query="?t=check&repair=true")):
        for (_, shnum), path in containers(nodes, cap).items():
            if shnum in (0, 4, 5, 9):
                path.unlink()
        assert tahoe.check(cap)["count-shares-good"] == 6
        repair()
        assert_healthy(tahoe, lafs, cap)
        assert tahoe.get(cap) == lafs("cat", cap, code=0).stdout == content(LONG, 50)
        seqnums.add(
            max(path.read_bytes()[DATA_OFFSET + 1 : DATA_OFFSET + 9] for path in containers(nodes, cap).values())
        )
    # lafs refills at the same version; Tahoe publishes a new one
    assert seqnums == {(1).to_bytes(8, "big"), (2).to_bytes(8, "big")}


def test_lafs_replaces_a_corrupt_share_that_tahoe_made(nodes: TahoeGrid, tahoe: Gateway, lafs: Lafs) -> None:
    cap = tahoe._ask("PUT", "uri?format=sdmf", content(10_000, 51)).decode()
    (_, shnum), path = next(iter(containers(nodes, cap).items()))
    data = bytearray(path.read_bytes())
    data[DATA_OFFSET + 1500] ^= 1
    path.write_bytes(data)
    report = lafs.json("check", "--verify", cap, code=10)
    assert [bad["share"] for bad in report["corrupt"]] == [shnum]
    lafs("repair", cap, code=0)
    assert_healthy(tahoe, lafs, cap)
