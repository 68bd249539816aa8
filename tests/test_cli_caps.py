"""cap, share and batch commands (CLI.md §4, §5)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lafscli.formats import caps
from lafscli.primitives.encoding import b32encode
from tests.lafs_process import Lafs
from tests.test_slots import TAHOE

LIT = "URI:LIT:krugkidfnzsc4"
WRITE = "URI:SSK:fs6ul2fju2fvb2cfx7gt6ngycm:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq"
READ = "URI:SSK-RO:65ruo2zytr3uxnaxkptdoqkth4:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq"
VERIFY = "URI:SSK-Verifier:axxzm642zi4vozwfjdijoafbrm:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq"


@pytest.fixture(scope="module")
def lafs(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    made = Lafs(tmp_path_factory.mktemp("caps"))
    made("init", "--local", code=0)
    return made


@pytest.fixture(scope="module")
def cap(lafs: Lafs) -> caps.ChkCap:
    (lafs.folder / "x").write_bytes(os.urandom(5000))
    found = caps.parse_strict(lafs("put", "x", code=0).stdout.decode().strip())
    assert isinstance(found, caps.ChkCap)
    return found


def _batch(lafs: Lafs, *lines: str, code: int = 0, json_lines: bool = True) -> list[dict[str, object]]:
    done = lafs("batch", *(["--json"] if json_lines else []), input="\n".join(lines).encode(), code=code)
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


# ---- cap


def test_cap_show(tmp_path: Path) -> None:
    """Every kind, without a home and without a server."""
    lafs = Lafs(tmp_path)
    answers = _batch(lafs, *(f"cap show {each}" for each in (LIT, WRITE, READ, VERIFY, WRITE.replace("SSK", "DIR2"))))
    assert [each["kind"] for each in answers] == ["lit", "sdmf", "sdmf", "sdmf", "dir2"]
    assert [each["writable"] for each in answers] == [False, True, False, False, True]
    assert [each["mutable"] for each in answers] == [False, True, True, True, True]
    assert [each.get("read_cap") for each in answers] == [LIT, READ, READ, None, READ.replace("SSK", "DIR2")]
    assert [each.get("verify_cap") for each in answers] == [None, VERIFY, VERIFY, VERIFY, VERIFY.replace("SSK", "DIR2")]
    assert answers[0]["size"] == 8
    assert {each.get("storage_index") for each in answers[1:]} == {"axxzm642zi4vozwfjdijoafbrm"}
    text = lafs("cap", "show", WRITE, code=0).stdout.decode()
    assert f"read cap       {READ}" in text
    assert "writable       yes" in text


def test_cap_read_and_verify(lafs: Lafs, cap: caps.ChkCap) -> None:
    assert lafs("cap", "read", WRITE, code=0).stdout.decode() == f"{READ}\n"
    assert lafs("cap", "verify", str(cap), code=0).stdout.decode() == f"{cap.verify_cap()}\n"
    lines = [f"cap read {VERIFY}", f"cap verify {LIT}", "cap show URI:SSK:x", "cap show URI:NEW:x"]
    answers = _batch(lafs, *lines, code=9)
    kinds = [each["error"]["kind"] if "error" in each else each["kind"] for each in answers]  # type: ignore[index]
    assert kinds == ["NotGranted", "NotGranted", "Usage", "unknown"]
    chk = lafs.json("cap", "show", str(cap))
    assert (chk["k"], chk["n"], chk["size"]) == (3, 10, 5000)


# ---- share


def test_share_find(lafs: Lafs, cap: caps.ChkCap) -> None:
    answer = lafs.json("share", "find", str(cap))
    assert sorted(answer["shares"], key=int) == [str(i) for i in range(10)]
    assert answer["unreachable"] == []
    assert lafs.json("share", "find", answer["storage_index"]) == answer
    lines = lafs("share", "find", str(cap.verify_cap()), code=0).stdout.decode().splitlines()
    assert lines == [f"{i} {answer['shares'][str(i)][0]}" for i in range(10)]
    lafs("share", "find", "a" * 26, code=3)
    lafs("share", "find", LIT, code=2)


def test_share_find_with_silent_servers(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", "--encoding", "1/1/2", code=0)
    _batch(lafs, *(f"server add {name} file://{tmp_path}/{name}" for name in "ab"))
    (tmp_path / "x").write_bytes(os.urandom(500))
    cap = lafs("put", "x", code=0).stdout.decode().strip()
    (tmp_path / "a").rename(tmp_path / "gone")
    answer = lafs.json("share", "find", cap)
    assert [each["server"] for each in answer["unreachable"]] == ["a"]
    assert list(answer["shares"].values()) == [["b"]]
    lafs("share", "find", "a" * 26, code=6)
    (tmp_path / "b").rename(tmp_path / "gone too")
    lafs("share", "find", cap, code=8)


def test_share_show(lafs: Lafs, cap: caps.ChkCap) -> None:
    [place] = lafs.json("share", "find", str(cap))["shares"]["4"]
    si = lafs.json("cap", "show", str(cap))["storage_index"]
    path = lafs.home / "grid" / place / "shares" / si[:2] / si / "4"
    one, two = lafs.json("share", "show", path), lafs.json("share", "show", f"{place}:{si}/4")
    assert (two["server"], two["storage_index"], two["share"]) == (place, si, 4)
    assert {key: two[key] for key in one} == one
    assert (one["k"], one["n"], one["size"], one["segment_size"]) == (3, 10, 5000, 5001)
    assert (one["kind"], one["container_version"], one["share_version"]) == ("chk", 2, 1)
    assert one["file_size"] == path.stat().st_size
    [lease] = one["leases"]
    assert lease["owner"] == 0
    assert lease["expires"].endswith("Z")
    assert "segment size         5001" in lafs("share", "show", path, code=0).stdout.decode()
    lafs("share", "show", f"{place}:{si}/11", code=3)
    lafs("share", "show", f"nobody:{si}/4", code=3)
    lafs("share", "show", "no-such-file", code=3)


@pytest.mark.parametrize("example", TAHOE, ids=lambda example: f"{example['kind']}-{example.get('length')}")
def test_share_show_of_a_mutable_share(tmp_path: Path, example: dict[str, Any]) -> None:
    """What Tahoe wrote; secrets of the container are not shown."""
    lafs = Lafs(tmp_path)
    for shnum, text in example["containers"].items():
        data = base64.b64decode(text)
        (tmp_path / f"share{shnum}").write_bytes(data)
        answer = lafs.json("share", "show", f"share{shnum}")
        kind = example["kind"].removesuffix("-shrunk")
        assert (answer["kind"], answer["share_version"], answer["container_version"]) == (kind, kind == "mdmf", 2)
        assert (answer["k"], answer["n"], answer["seqnum"]) == (3, 10, example.get("seqnum", 1))
        assert answer["size"] == example.get("length", 11)
        assert answer["fingerprint"] == example["cap"].split(":")[3]
        assert answer["file_size"] == len(data)
        assert [lease["owner"] for lease in answer["leases"]] == [1]
        enabler = data[52:84]
        assert not {b32encode(enabler), enabler.hex()} & set(map(str, answer.values()))


@pytest.mark.parametrize(
    "damage", [lambda data: data[:11], lambda data: b"\0\0\0\3" + data[4:], lambda data: data[:90]]
)
def test_share_show_of_a_broken_share(lafs: Lafs, cap: caps.ChkCap, damage: object) -> None:
    assert callable(damage)
    assert cap
    path = next((lafs.home / "grid").glob("*/shares/*/*/0"))
    (lafs.folder / "broken").write_bytes(damage(path.read_bytes()))
    assert lafs("share", "show", "broken", code=1).stderr.startswith(b"lafs: ")


# ---- batch


def test_batch_goes_on_and_ends_with_the_worst(lafs: Lafs, cap: caps.ChkCap) -> None:
    lines = [
        "# a comment",
        "",
        f"get {cap} 'a file'",
        "lafs cap read @-",
        "put no-such-file",
        "'unclosed",
        f"cat {LIT} # and a comment",
        "batch",
        "server list --home elsewhere",
        "put -",
    ]
    done = lafs("batch", input="\n".join(lines).encode(), code=3)
    assert done.stdout == b"The end."
    said = done.stderr.decode().splitlines()
    places = [line for line in said if not line.startswith("hint: ")]
    assert [line.split(": ")[1] for line in places] == [f"line {i}" for i in (4, 5, 6, 8, 9, 10)]
    assert (lafs.folder / "a file").read_bytes() == (lafs.folder / "x").read_bytes()


def test_batch_as_json_is_a_line_a_command(lafs: Lafs, cap: caps.ChkCap) -> None:
    answers = _batch(lafs, "server list", f"cat {LIT}", f"get {cap} out", "put x", "nonsense", code=2)
    assert [each["line"] for each in answers] == [1, 2, 3, 4, 5]
    assert all(each["schema"] == 1 for each in answers)
    assert ["error" in each for each in answers] == [False, True, False, False, True]


def test_batch_from_a_file_leaves_stdin_to_its_commands(lafs: Lafs) -> None:
    (lafs.folder / "lines").write_text("put -\nput -\n")
    done = lafs("batch", "lines", input=b"The end.", code=2)
    assert done.stdout.decode().strip() == LIT
    assert b"line 2: stdin can't be the file" in done.stderr
    assert lafs("batch", "no-such-file", code=3).stdout == b""


def test_batch_sees_a_server_that_it_added(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", "--encoding", "1/1/1", code=0)
    (tmp_path / "x").write_bytes(bytes(100))
    answers = _batch(lafs, "put x", f"server add a file://{tmp_path}/a", "put x", code=2)
    assert ["error" in each for each in answers] == [True, False, False]


def test_batch_answers_each_line_at_once(lafs: Lafs) -> None:
    running = lafs.start("batch", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert running.stdin is not None
    assert running.stdout is not None
    for _ in range(2):
        running.stdin.write(f"cap read {LIT}\n".encode())
        running.stdin.flush()
        assert running.stdout.readline().decode().strip() == LIT
    running.stdin.close()
    assert running.wait() == 0
