"""The real, unchanged `tahoe` program against `lafs gateway http`, and against the gateway of a real Tahoe beside it,
on the same storage servers: what it prints and how it ends must be the same (spec 08 §6, §7)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode
from tests.gateways import Gateway
from tests.grids import content
from tests.lafs_process import Lafs
from tests.tahoe_node import TahoeGrid, needed_tahoe

pytestmark = [pytest.mark.tahoe, pytest.mark.slow, pytest.mark.xdist_group("tahoe")]
ENCODING = Encoding(3, 3, 10)
SECRETS = {"convergence": b32encode(b"c" * 32), "secret": b32encode(b"s" * 32)}

_CAP = re.compile(r"URI:((?:[A-Z0-9]+-)*[A-Z0-9]+):[a-z2-7]+:[a-z2-7]+((?::\d+)*)")
"""Caps that are random in part: what is left of one is its kind and its numbers. LIT caps stand as they are."""
_TIME = re.compile(r"\b[A-Z][a-z]{2} [ \d]\d \d\d:\d\d\b|\d{4}-\d\d-\d\d_\d\d:\d\d:\d\dZ|\d+h \d+m \d+s|\d:\d\d:\d\d")
_SI = re.compile(r"\b[a-z2-7]{26}\b")


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    error: str


@dataclass(frozen=True)
class Tahoe:
    """The program with a node directory that only says where a gateway is, in `folder`; commands run in `work`."""

    folder: Path
    work: Path

    def __call__(self, *words: str | Path, code: int = 0) -> Ran:
        """Run a command to its end, which must have this exit code."""
        ran = self.wait(self.start(*words))
        assert ran.code == code, f"{words}: {ran}"
        return ran

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [needed_tahoe(), "-d", self.folder, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.work,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )

    def wait(self, process: subprocess.Popen[bytes], input: bytes = b"") -> Ran:
        with process:
            out, error = process.communicate(input, timeout=120)
        return Ran(process.returncode, *(text.decode(errors="backslashreplace") for text in (out, error)))

    def cap(self, alias: str) -> str:
        [line] = [each for each in self("list-aliases").out.splitlines() if each.strip().startswith(f"{alias}:")]
        return line.partition(": ")[2].strip()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TahoeGrid]:
    """Three storage nodes and Tahoe's own gateway."""
    with TahoeGrid(needed_tahoe(), tmp_path_factory.mktemp("tahoe"), 3, SECRETS) as grid:
        grid.start_gateways(ENCODING)
        yield grid


@pytest.fixture(scope="module")
def gateway(nodes: TahoeGrid, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Ours, which finds the same servers as folders and has the same secrets."""
    command = Lafs(tmp_path_factory.mktemp("lafs"))
    command("init", "--from-tahoe", nodes.gateway(ENCODING).folder, code=0)
    for node in nodes.nodes:
        command("server", "add", node.folder.name, f"file://{node.storage}", code=0)
    with Gateway(command) as made:
        yield made


def _client(folder: Path, url: str, tree: bool = True) -> Tahoe:
    (folder / "node" / "private").mkdir(parents=True)
    (folder / "node" / "node.url").write_text(f"{url}\n")
    work = folder / "work"
    work.mkdir()
    (work / "small").write_bytes(b"hello world\n")
    (work / "other").write_bytes(b"second version\n")
    (work / "empty").write_bytes(b"")
    (work / "big").write_bytes(content(3_000_000))
    if tree:
        fill(work / "tree")
    return Tahoe(folder / "node", work)


def fill(tree: Path) -> None:
    """A small tree of all that the client copies."""
    (tree / "empty folder").mkdir(parents=True)
    (tree / "日本" / "deep").mkdir(parents=True)
    (tree / "日本" / "語").write_bytes(content(70_000, 1))
    (tree / "日本" / "deep" / "%41 & #?").write_bytes(b"odd name")
    (tree / "zero").write_bytes(b"")
    (tree / "few").write_bytes(b"few bytes")
    (tree / "large").write_bytes(content(4_000_000, 2))


@pytest.fixture
def ours(gateway: Gateway, tmp_path: Path) -> Tahoe:
    return _client(tmp_path / "ours", f"http://127.0.0.1:{gateway.port}/")


@pytest.fixture
def theirs(nodes: TahoeGrid, tmp_path: Path) -> Tahoe:
    return _client(tmp_path / "theirs", nodes.gateway(ENCODING).read("node.url"))


def told(text: str) -> str:
    """What a program printed, without what differs each time: keys, times, storage indexes, its folder."""
    text = _CAP.sub(r"URI:\1:…\2", text)
    text = re.sub(r"/\S*/(?:ours|theirs)/", "/", text)
    return _SI.sub("SI", _TIME.sub("TIME", text))


def ended(ran: Ran) -> tuple[int, str, str]:
    """What is the same with both gateways. What stderr says of an HTTP error is the gateway's own text but for its
    first line, and no program reads it."""
    error = told(ran.error)
    if ran.code or "error" in error.lower():
        error = re.sub(r"(?<=ERROR: )[A-Z].*", "", error, flags=re.DOTALL)  # of a stream that ends early
        error = re.sub(r'^"|\\n.*|\n.*', "", error, flags=re.DOTALL)
    return ran.code, told(ran.out), error


def beside(ours: Tahoe, theirs: Tahoe, *words: str, input: bytes = b"") -> tuple[Ran, Ran]:
    """Run a command on both, at the same time: most of it is the start of the program."""
    begun = [(client, client.start(*words)) for client in (ours, theirs)]
    mine, real = (client.wait(process, input) for client, process in begun)
    return mine, real


def same(ours: Tahoe, theirs: Tahoe, *words: str, input: bytes = b"") -> Ran:
    """Run a command on both; it must end alike. How it ended on ours."""
    mine, real = beside(ours, theirs, *words, input=input)
    assert ended(mine) == ended(real), f"tahoe {' '.join(words)}\n{mine}\n{real}"
    return mine


# ---- commands, on both gateways in turn, each in directories of its own


def test_files_are_put_replaced_and_fetched_alike(ours: Tahoe, theirs: Tahoe) -> None:
    def both(*words: str, input: bytes = b"") -> Ran:
        return same(ours, theirs, *words, input=input)

    both("create-alias", "tahoe")
    both("create-alias", "tahoe")
    both("mkdir")
    both("mkdir", "--format=MDMF", "tahoe:m")
    both("mkdir", "tahoe:d/deep/er")
    both("mkdir", "tahoe:d")
    assert both("put", "small").error == "200 OK\n"
    assert both("put", "small", "d/small").error == "201 Created\n"
    assert both("put", "other", "d/small").error == "200 OK\n"
    assert both("get", "d/small").out == "second version\n"
    both("put", "-", "d/stdin", input=content(100).hex().encode())
    both("put", "big", "big")
    both("put", "empty", "empty")
    both("put", "--mutable", "small", "mutable")
    both("put", "other", "mutable")
    assert both("get", "mutable", "-").out == "second version\n"
    both("put", "--format=MDMF", "small", "mdmf")
    both("put", "--format=chk", "small", "d/chk")
    both("put", "--format=SDMF", "small")
    both("put", "small", "日本/語")
    both("get", "日本/語")
    both("get", "big", "fetched")
    both("get", "empty", "-")
    for listing in ((), ("-l",), ("-F",), ("--uri",), ("--readonly-uri",), ("-l", "-F", "--uri")):
        both("ls", *listing)
    for path in ("d/small", "d", "absent", "d/small/x", "URI:CHK:x", "nope:", "日本", "d/", "mutable", "d/.."):
        both("ls", path)
        both("ls", "-l", path)
    assert (ours.work / "fetched").read_bytes() == (ours.work / "big").read_bytes()


def test_what_is_refused_is_refused_alike(ours: Tahoe, theirs: Tahoe) -> None:
    def both(*words: str) -> Ran:
        return same(ours, theirs, *words)

    both("create-alias", "tahoe")
    both("put", "small", "file")
    both("mkdir", "d")
    assert both("put", "small", "d").code == 1
    assert both("put", "small", "d/").code == 1
    assert both("put", "small", "slash/").code == 1
    theirs("unlink", "slash")  # which Tahoe has made before it refused
    assert both("put", "small", "file/below").code == 1
    assert both("mkdir", "file").out == "\n"
    assert both("mkdir", "file/below").out == "\n"
    assert both("get", "absent").code == 1
    assert both("get", "URI:CHK:x").code == 1
    assert both("unlink", "absent").code == 1
    assert both("unlink", "absent/deeper").code == 1
    assert both("mv", "absent", "x").code == 1
    assert both("ln", "absent", "x").code == 1
    assert both("mv", "file", "d").error == "Error: You can't overwrite a directory with a file\n"
    assert both("ln", "file", "d").code == 1
    assert both("cp", "absent local", "tahoe:").code == 1
    assert both("cp", "tahoe:absent", "x").code == 1
    assert both("cp", "small", "tahoe:file/below").code == 1
    assert both("cp", "small", "tahoe:new/").code == 1
    assert both("cp", "-r", "tree", "tahoe:file").code == 1
    for command in ("check", "deep-check", "manifest", "stats"):
        assert both(command, "absent").code == 1
    for command in ("deep-check", "manifest", "stats"):
        assert both(command, "file").code == 1
    both("ls")
    for client in (ours, theirs):
        read_only = json.loads(client("list-aliases", "--json").out)["tahoe"]["readonly"]
        assert client("put", "small", f"{read_only}/x", code=1).out == ""
        assert client("unlink", f"{read_only}/file", code=1).out == ""
        assert client("mv", f"{read_only}/file", f"{read_only}/x", code=1).out == ""
        assert client("ls", read_only).out == "d\nfile\n"


def test_names_are_moved_linked_and_unlinked_alike(ours: Tahoe, theirs: Tahoe) -> None:
    def both(*words: str) -> Ran:
        return same(ours, theirs, *words)

    both("create-alias", "tahoe")
    both("create-alias", "second")
    both("put", "small", "a")
    both("mkdir", "d/inner")
    assert both("mv", "a", "b").out == "OK\n"
    both("mv", "b", "d/")
    both("ls", "d")
    both("mv", "d/b", "new/parent/c")
    both("mv", "d", "second:moved")
    both("mv", "second:moved", "d")
    both("ln", "new/parent/c", "d/c")
    both("ln", "new/parent/c", "d/c")
    both("ln", "d", "again")
    both("put", "other", "again/through the other name")
    both("ls", "d")
    assert both("unlink", "again").out == "200 OK\n"
    both("unlink", "d/c")
    both("unlink", "tahoe:")
    both("unlink", "new")
    both("ls", "-l")
    both("ls", "-l", "d")
    both("ls", "second:")


def test_trees_are_copied_alike_there_and_back_and_from_grid_to_grid(ours: Tahoe, theirs: Tahoe) -> None:
    def both(*words: str) -> Ran:
        return same(ours, theirs, *words)

    both("create-alias", "tahoe")
    both("create-alias", "second")
    both("cp", "small", "tahoe:one")
    both("cp", "small", "other", "tahoe:")
    both("cp", "-r", "tree", "tahoe:")
    both("cp", "-r", "tree", "tahoe:")
    both("cp", "-r", "tree/", "tahoe:inside/")
    both("ls", "-F", "tahoe:inside")
    both("ls", "-l", "tahoe:tree")
    both("cp", "-r", "tahoe:tree", "back")
    both("cp", "-r", "tahoe:tree", "second:")
    both("cp", "tahoe:tree/few", "second:few")
    both("cp", "tahoe:tree", "second:")
    both("cp", "-r", "--caps-only", "tahoe:tree", "caps")
    both("cp", "-r", "second:tree", "back again")
    for folder in ("back/tree", "back again/tree"):
        for client in (ours, theirs):
            assert contents(client.work / folder) == contents(client.work / "tree")
    both("manifest", "second:")


def contents(folder: Path) -> dict[bytes, object]:
    """Of every file its size and content, of every folder that it is one."""
    return {name: (each[0], each[-1]) for name, each in _kinds(folder).items()}


def _kinds(folder: Path) -> dict[bytes, tuple[object, ...]]:
    found: dict[bytes, tuple[object, ...]] = {}
    for path in folder.rglob("*"):
        name = os.fsencode(path.relative_to(folder))
        found[name] = ("folder", b"") if path.is_dir() else ("file", path.read_bytes())
    return found


def test_backups_are_made_and_reused_alike(ours: Tahoe, theirs: Tahoe) -> None:
    def both(*words: str) -> Ran:
        return same(ours, theirs, *words)

    both("create-alias", "tahoe")
    for client in (ours, theirs):
        for number, path in enumerate(sorted(client.work.rglob("*"))):
            os.utime(path, (1_600_000_000 + number, 1_600_000_000 + number))
    first = both("backup", "tree", "tahoe:home")
    assert " 5 files uploaded (0 reused), 0 files skipped, 4 directories created (0 reused)" in first.out
    second = both("backup", "tree", "tahoe:home")
    assert " 0 files uploaded (5 reused), 0 files skipped, 0 directories created (4 reused)" in second.out
    for client in (ours, theirs):
        (client.work / "tree" / "few").write_bytes(b"others")
    third = both("backup", "-v", "tree", "tahoe:home")
    assert " 1 files uploaded (4 reused), 0 files skipped, 1 directories created (3 reused)" in third.out
    assert len(ours("ls", "tahoe:home/Archives").out.split()) == 3
    both("ls", "-F", "tahoe:home")
    both("cp", "-r", "tahoe:home/Latest", "restored")
    assert contents(ours.work / "restored" / "Latest") == contents(ours.work / "tree")
    both("backup", "tree", "tahoe:home/Latest/few")


def test_the_state_of_the_gateway_is_shown(ours: Tahoe) -> None:
    (ours.folder / "tahoe.cfg").write_text("[node]\n")
    (ours.folder / "private" / "api_auth_token").write_text("x" * 43)
    ours("create-alias", "tahoe")
    ours("put", "big", "tahoe:big")
    ours("get", "tahoe:big", "fetched")
    lines = ours("status").out.splitlines()
    assert lines[0].startswith("Statistics (for last ")
    assert re.match(r" +uploaded .*MB in \d+ files$", lines[1])
    assert any("║  put  ║" in line for line in lines)
    assert any("║  get  ║" in line for line in lines)


# ---- one tree, seen through both gateways


@pytest.fixture
def shared(ours: Tahoe, theirs: Tahoe) -> str:
    """The cap of a tree that our gateway stored; both clients call it `tahoe`."""
    ours("create-alias", "tahoe")
    ours("cp", "-r", "tree", "tahoe:")
    ours("put", "--mutable", "small", "mutable")
    ours("put", "--format=MDMF", "small", "mdmf")
    ours("ln", "tahoe:tree/日本", "tahoe:another name")
    cap = ours.cap("tahoe")
    theirs("add-alias", "tahoe", cap)
    return cap


def equal(ours: Tahoe, theirs: Tahoe, *words: str) -> Ran:
    """Run a command on both: what they print must be equal, but for ids of servers and the order of keys in JSON."""
    mine, real = beside(ours, theirs, *words)
    if "--json" in words or "--raw" in words:
        assert documents(mine.out) == documents(real.out), f"tahoe {' '.join(words)}"
    else:
        assert unnamed(mine.out) == unnamed(real.out), f"tahoe {' '.join(words)}"
    assert (mine.code, mine.error) == (real.code, real.error) == (0, "")
    return mine


def unnamed(text: str) -> str:
    """Without the ids of servers: lafs and Tahoe call them differently."""
    return re.sub(r"server [a-z0-9-]+,", "server,", text)


def documents(text: str) -> list[object]:
    """The JSON documents that were printed: one, or one a line."""
    return [json.loads(text)] if text.startswith(("[\n", "{\n")) else [json.loads(each) for each in text.splitlines()]


def test_what_one_stored_both_describe_alike(shared: str, ours: Tahoe, theirs: Tahoe) -> None:
    for path in ("", "tree", "tree/日本", "tree/few", "tree/large", "mutable", "mdmf", "tree/empty folder"):
        equal(ours, theirs, "ls", "--json", f"tahoe:{path}")
        equal(ours, theirs, "ls", "-l", "--uri", "--readonly-uri", f"tahoe:{path}")
    for flavour in ((), ("--storage-index",), ("--verify-cap",), ("--repair-cap",), ("--raw",)):
        equal(ours, theirs, "manifest", *flavour)
    equal(ours, theirs, "stats")
    equal(ours, theirs, "stats", "--raw")
    read_only = json.loads(ours("list-aliases", "--json").out)["tahoe"]["readonly"]
    equal(ours, theirs, "ls", "--json", read_only)
    equal(ours, theirs, "manifest", "--raw", read_only)
    for path in ("tree/few", "tree/large", "tree/zero", "mutable", "mdmf"):
        equal(ours, theirs, "get", f"tahoe:{path}", "-")
    for name in ("big", "small", "empty"):
        assert ours("put", name).out == theirs("put", name).out  # convergent, with the same secret


def _remove(nodes: TahoeGrid, si: str, numbers: Sequence[int]) -> None:
    for name, path in [(n, p) for node in nodes.nodes for n, p in node.shares().items()]:
        if name.split("/")[0] == si and int(name.split("/")[1]) in numbers:
            path.unlink()


def _flip(nodes: TahoeGrid, si: str, number: int) -> None:
    """One byte in a block of a share."""
    path = nodes.shares()[f"{si}/{number}"]
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)


def test_health_is_told_alike_and_repaired(shared: str, ours: Tahoe, theirs: Tahoe, nodes: TahoeGrid) -> None:
    equal(ours, theirs, "deep-check")
    equal(ours, theirs, "deep-check", "-v", "--verify", "--add-lease")
    rows = [json.loads(line) for line in ours("manifest", "--raw").out.splitlines()]
    index = {"/".join(row["path"]): row["storage-index"] for row in rows if "path" in row}
    _remove(nodes, index["tree/large"], range(6))
    _remove(nodes, index["mutable"], (0, 1))
    _flip(nodes, index["another name/語"], 4)
    for path in ("tree/large", "mutable", "another name/語", "tree/few", "", "tree"):
        equal(ours, theirs, "check", f"tahoe:{path}")
        equal(ours, theirs, "check", "--verify", f"tahoe:{path}")
        mine, real = (json.loads(client("check", "--raw", f"tahoe:{path}").out) for client in (ours, theirs))
        assert shape(mine) == shape(real)
        assert mine["storage-index"] == real["storage-index"]
    done = equal(ours, theirs, "deep-check", "-v", "--verify").out.splitlines()
    assert done[-1] == "done: 12 objects checked, 9 healthy, 3 unhealthy"
    repaired = ours("deep-check", "-v", "--verify", "--repair").out.splitlines()
    assert repaired[-3:] == [
        " pre-repair: 9 healthy, 3 unhealthy",
        " 3 repairs attempted, 3 successful, 0 failed",
        " post-repair: 12 healthy, 0 unhealthy",
    ]
    for client in (theirs, ours):
        assert client("deep-check", "--verify").out == "done: 12 objects checked, 12 healthy, 0 unhealthy\n"
    _remove(nodes, index["tree/large"], range(3))
    told_of = ours("check", "--repair", "tahoe:tree/large").out.splitlines()
    assert (told_of[0], told_of[-1]) == ("Summary: not healthy", " repair successful")
    equal(ours, theirs, "check", "--repair", "tahoe:tree/large")
    assert theirs("get", "tahoe:tree/large", "-").out == ours("get", "tahoe:tree/large", "-").out


def shape(document: object) -> object:
    """The keys of a document and the kinds of its values; of mappings by server or share one value."""
    if isinstance(document, dict):
        return {key: shape(value) for key, value in document.items() if key != "sharemap"}
    if isinstance(document, list):
        return [shape(document[0])] if document else []
    return type(document).__name__


def test_what_is_lost_is_told_alike(ours: Tahoe, theirs: Tahoe, nodes: TahoeGrid) -> None:
    ours("create-alias", "tahoe")
    ours("put", "big", "lost")
    ours("put", "--mutable", "small", "lost too")
    ours("mkdir", "gone")
    theirs("add-alias", "tahoe", ours.cap("tahoe"))
    rows = [json.loads(line) for line in ours("manifest", "--raw").out.splitlines()]
    index = {"/".join(row["path"]): row["storage-index"] for row in rows if "path" in row}
    _remove(nodes, index["lost"], range(8))
    _remove(nodes, index["lost too"], range(10))
    _remove(nodes, index["gone"], range(10))
    for words in (
        ("get", "lost"),
        ("get", "lost too"),
        ("ls", "-l"),
        ("ls", "lost"),
        ("ls", "lost too"),
        ("ls", "gone"),
        ("put", "other", "lost too"),
        ("put", "other", "gone/x"),
        ("check", "lost"),
        ("check", "lost too"),
        ("check", "--repair", "lost"),
        ("deep-check", "-v"),
        ("manifest",),
        ("stats",),
        ("unlink", "gone"),
        ("deep-check", "-v"),
    ):
        if words[0] == "unlink":
            assert ours(*words).out == "200 OK\n"
        else:
            same(ours, theirs, *words)
