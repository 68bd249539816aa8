"""Snapshots of lafs in a real Tahoe-LAFS, and those of Tahoe in lafs (spec 07)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from tests.grids import content
from tests.lafs_process import Lafs
from tests.tahoe_node import Gateway, TahoeGrid, needed_tahoe
from tests.trees import described, every_kind

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
    command = Lafs(tmp_path_factory.mktemp("lafs"))
    command("init", "--from-tahoe", gateway.folder, code=0)
    for node in nodes.nodes:
        command("server", "add", node.folder.name, f"file://{node.storage}", code=0)
    return command


def tahoe(gateway: Gateway, *words: str | Path, code: int = 0) -> str:
    """Run the program of the gateway's node."""
    done = subprocess.run(
        [needed_tahoe(), "-d", gateway.folder, *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def test_tahoe_lists_and_reads_a_snapshot_of_lafs(gateway: Gateway, lafs: Lafs, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    every_kind(tree)
    lafs("alias", "create", "ours", code=0)
    made = lafs.json("backup", tree, "ours:home")
    assert made["errors"] == []
    cap = made["cap"]
    listed = tahoe(gateway, "ls", cap).splitlines()
    assert {"deep", "empty", "file", "fifo", "sparse", ".lafs", "日本語 %41"} <= set(listed)
    assert tahoe(gateway, "get", f"{cap}/file", tmp_path / "got") is not None
    assert (tmp_path / "got").read_bytes() == b"content"
    tahoe(gateway, "get", f"{cap}/deep/er/same as large", tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == (tree / "deep" / "large").read_bytes()
    tahoe(gateway, "get", f"{cap}/link", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"deep/large"
    document = json.loads(tahoe(gateway, "ls", "--json", cap))
    children = document[1]["children"]
    assert children["file"][1]["metadata"]["st_mode"] == (tree / "file").stat().st_mode
    top = lafs("mkdir", "ours:home", code=0).stdout.decode().strip()
    assert set(tahoe(gateway, "ls", top).split()) == {"Archives", "Latest"}


def test_lafs_restores_a_snapshot_of_tahoe(gateway: Gateway, lafs: Lafs, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "deep" / "er" / "large").write_bytes(content(300_000))
    (tree / "deep" / "small").write_bytes(b"small")
    (tree / "empty").mkdir()
    (tree / "é").write_bytes(content(1000, 1))
    (tree / "deep" / "small").chmod(0o640)
    os.utime(tree / "deep" / "er" / "large", (1_600_000_000, 1_600_000_000))
    top = gateway._ask("POST", "uri?t=mkdir").decode().strip()
    tahoe(gateway, "backup", tree, f"{top}/home")
    (tmp_path / "cap").write_text(f"{top}\n")
    [snapshot] = lafs.json("snapshots", f"@{tmp_path / 'cap'}/home")["snapshots"]
    assert snapshot["time"] is not None
    done = lafs.json("restore", f"@{tmp_path / 'cap'}/home", tmp_path / "out")
    assert (done["errors"], done["files"]) == ([], 3)
    kept = described(tree, owners=False)
    found = described(tmp_path / "out", owners=False)
    assert found.keys() == kept.keys()
    for name in kept:
        if name != b".":  # Tahoe keeps nothing of the root, and times as floats
            assert (found[name][0], found[name][3:]) == (kept[name][0], kept[name][3:])
            assert abs(int(str(found[name][1])) - int(str(kept[name][1]))) < 1000
    lafs("backup", tree, f"@{tmp_path / 'cap'}/home", code=0)
    assert len(lafs.json("snapshots", f"@{tmp_path / 'cap'}/home")["snapshots"]) == 2
    assert len(tahoe(gateway, "ls", f"{top}/home/Archives").split()) == 2
