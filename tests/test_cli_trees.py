"""find, manifest, stats on ten folders of this machine (CLI.md §4, spec 08 §5)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from lafscli.formats.caps import Cap, DirectoryCap, LitCap, parse
from lafscli.tree.stats import Stats
from lafscli.tree.walk import Visit
from tests.lafs_process import Lafs
from tests.test_cli_copy import _directory, caps_of

UNKNOWN = "URI:FUTURE:x"


@pytest.fixture(scope="module")
def lafs(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    """`lafs:tree` with files and directories of all kinds, two names of one file, and a circle."""
    made = Lafs(tmp_path_factory.mktemp("trees"))
    made("init", "--local", code=0)
    made("alias", "create", "lafs", code=0)
    src = made.folder / "src"
    (src / "b" / "日本").mkdir(parents=True)
    (src / "a").mkdir()
    (src / "zero").write_bytes(b"")
    (src / "lit").write_bytes(b"0123456789")
    (src / "b" / "chk.jpg").write_bytes(bytes(1000))
    (src / "b" / "日本" / "写真.jpg").write_bytes(os.urandom(200_000))
    made("cp", "-r", src, "lafs:tree", code=0)
    made("put", src / "lit", "lafs:tree/a/slot", "--mutable", code=0)
    made("ln", "lafs:tree/b/chk.jpg", "lafs:tree/a/second.jpg", code=0)
    made("ln", "lafs:tree/b", "lafs:tree/a/circle", code=0)
    made("ln", "lafs:tree", "lafs:tree/b/up", code=0)
    (made.folder / "frozen").write_text(_directory({"future": UNKNOWN, "in": LitCap(b"in")}))
    made("ln", "@frozen", "lafs:tree/frozen", code=0)
    return made


def lines(lafs: Lafs, *arguments: str | Path, code: int = 0) -> list[Any]:
    documents = [json.loads(line) for line in lafs(*arguments, "--json", code=code).stdout.decode().splitlines()]
    assert all(document.pop("schema") == 1 for document in documents)
    return documents


# Unknown ones first, then files, then directories, each group by name; a directory before what is in it.
ORDER = ["", "lit", "zero", "a", "a/second.jpg", "a/slot", "a/circle", "a/circle/日本", "a/circle/日本/写真.jpg"]
ORDER += ["frozen", "frozen/future", "frozen/in"]


@pytest.mark.slow
def test_manifest_lists_each_object_once_in_the_order_of_the_spec(lafs: Lafs) -> None:
    found = lines(lafs, "manifest", "lafs:tree")
    assert [each["path"] for each in found] == ORDER
    by_path = {each["path"]: each for each in found}
    assert {path: each["kind"] for path, each in by_path.items()} == {
        **dict.fromkeys(["", "a", "a/circle", "a/circle/日本"], "dir2"),
        **dict.fromkeys(["lit", "zero", "frozen/in"], "lit"),
        **dict.fromkeys(["a/second.jpg", "a/circle/日本/写真.jpg"], "chk"),
        "a/slot": "sdmf",
        "frozen": "dir2-lit",
        "frozen/future": "unknown",
    }
    assert by_path["a/second.jpg"]["cap"] == caps_of(lafs, "lafs:tree/b")["chk.jpg"]
    assert by_path["frozen/in"].keys() == {"path", "kind", "cap", "size"}
    assert by_path["a/slot"].keys() == {"path", "kind", "cap", "verify_cap", "storage_index"}
    assert by_path["a/second.jpg"].keys() == {"path", "kind", "cap", "verify_cap", "storage_index", "size"}
    text = lafs("manifest", "lafs:tree", code=0).stdout.decode().splitlines()
    assert text == [f"{each['cap']} {each['path']}".rstrip() for each in found]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "key"), [("--storage-index", "storage_index"), ("--verify-cap", "verify_cap"), ("--read-cap", "cap")]
)
def test_manifest_of_weaker_caps(lafs: Lafs, option: str, key: str) -> None:
    whole = lines(lafs, "manifest", "lafs:tree")
    found = lines(lafs, "manifest", "lafs:tree", option)
    text = lafs("manifest", "lafs:tree", option, code=0).stdout.decode().splitlines()
    assert text == [each[key] for each in found]
    if key == "cap":
        assert text == [str(parse(each["cap"]).read_cap()) for each in whole]
    else:
        assert text == [each[key] for each in whole if key in each]
        assert not any("cap" in each for each in found)
    granted = "storage_index" if key == "storage_index" else "verify_cap"
    for each in found:
        assert not parse(each.get("cap", "")).writable
        assert each.keys() <= {"path", "kind", "size", "storage_index", granted, key}


@pytest.mark.slow
def test_find_finds_every_name(lafs: Lafs) -> None:
    every = lafs("find", "lafs:tree", code=0).stdout.decode().splitlines()
    assert every[:3] == ["lafs:tree", "lafs:tree/lit", "lafs:tree/zero"]
    assert len(every) == len(set(every)) == len(ORDER) + 3  # chk.jpg by its other name, the circle, b again
    assert {"lafs:tree/a/circle/chk.jpg", "lafs:tree/a/circle/up", "lafs:tree/b"} <= set(every)
    for path in every:
        lafs("cap", "show", path, code=0) if path.isascii() else None


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--name", "*.jpg"], ["a/second.jpg", "a/circle/chk.jpg", "a/circle/日本/写真.jpg"]),
        (["--name", "日*"], ["a/circle/日本"]),
        (["--name", "[lz]???"], ["zero"]),
        (["--size", "+1K"], ["a/circle/日本/写真.jpg"]),
        (["--size", "1000"], ["a/second.jpg", "a/circle/chk.jpg"]),
        (["--size", "-10", "--type", "f"], ["zero", "frozen/in"]),
        (["--type", "unknown"], ["frozen/future"]),
        (["--type", "d", "--name", "[abf]*"], ["a", "b", "frozen"]),
        (["--type", "directory", "--size", "0"], []),
        (["--name", "tree"], [""]),
        (["--name", "no*such"], []),
    ],
)
def test_find_by_name_size_and_type(lafs: Lafs, options: list[str], wanted: list[str]) -> None:
    found = lines(lafs, "find", "lafs:tree", *options)
    assert sorted(each["path"] for each in found) == sorted(wanted)
    text = lafs("find", "lafs:tree", *options, "-0", code=0).stdout.decode().split("\0")[:-1]
    assert text == [f"lafs:tree/{each['path']}".rstrip("/") for each in found]


@pytest.mark.slow
def test_find_shows_no_cap_and_paths_that_lead_there_again(lafs: Lafs) -> None:
    cap = lafs.json("ls", "lafs:tree")["cap"]
    (lafs.folder / "cap").write_text(cap)
    assert lafs("find", cap, "--type", "d", "--name", "a", code=0).stdout == b"a\n"
    assert lafs("find", f"{cap}/b", "--name", "chk*", code=0).stdout == b"b/chk.jpg\n"
    assert lafs("find", cap, "--name", "nothing", code=0).stdout == b""
    assert lafs("find", cap, code=0).stdout.startswith(b".\n")
    [path] = lafs("find", "@cap/b", "--name", "chk*", code=0).stdout.decode().splitlines()
    assert path == "@cap/b/chk.jpg"
    assert lafs("cat", path, code=0).stdout == bytes(1000)
    assert lafs("find", "tree/b", "--name", "chk*", code=0).stdout == b"tree/b/chk.jpg\n"
    assert lafs("find", "lafs:tree/lit", code=0).stdout == b"lafs:tree/lit\n"
    assert lafs("find", "lafs:tree", "--size", "many", code=2).stdout == b""
    assert lafs("find", "lafs:tree", "-0", "--json", code=2)


def test_stats(lafs: Lafs) -> None:
    found = lafs.json("stats", "lafs:tree")
    assert {key: found[key] for key in found if key.startswith("count")} == {
        "count_immutable_files": 2,
        "count_mutable_files": 1,
        "count_literal_files": 3,
        "count_files": 6,
        "count_directories": 5,
        "count_unknown": 1,
    }
    assert (found["size_immutable_files"], found["size_literal_files"]) == (201_000, 12)
    assert (found["largest_immutable_file"], found["largest_directory_children"]) == (200_000, 5)
    assert found["size_directories"] > found["largest_directory"] > 1000
    assert found["size_files_histogram"] == [[0, 0, 1], [1, 3, 1], [4, 10, 1], [317, 1000, 1], [100_001, 316_227, 1]]
    assert found["api_version"] == 1
    text = lafs("stats", "lafs:tree", code=0).stdout.decode()
    assert "immutable files" in text
    assert "201.0 kB" in text
    assert lafs.json("stats", "lafs:tree/lit")["count_literal_files"] == 1


def test_steps_of_the_histogram() -> None:
    counted = Stats()
    for size in (0, 1, 3, 4, 10, 11, 31, 32, 100, 101, 316, 317, 1000):
        counted.add(Visit((), LitCap(bytes(size)), None))
    assert counted.size_files_histogram == [
        [0, 0, 1],
        [1, 3, 2],
        [4, 10, 2],
        [11, 31, 2],
        [32, 100, 2],
        [101, 316, 2],
        [317, 1000, 2],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["find", "manifest", "stats"])
def test_a_bad_object_is_named_and_the_rest_is_there(tmp_path: Path, command: str) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", "--local", code=0)
    lafs("alias", "create", "lafs", code=0)
    for name in ("lost/f", "good/f"):
        (tmp_path / "src" / name).parent.mkdir(parents=True)
        (tmp_path / "src" / name).write_bytes(b"x" * 100)
    lafs("cp", "-r", tmp_path / "src", "lafs:", code=0)
    bad: dict[str, Cap | str] = {"write": "URI:SSK:" + 25 * "a" + "a:" + 51 * "a" + "a", "fine": LitCap(b"x")}
    lafs("ln", _directory(bad), "lafs:src/odd", code=0)
    [lost] = [each for each in lines(lafs, "manifest", "lafs:", code=11) if each["path"] == "src/lost"]
    for share in (lafs.home / "grid").glob(f"*/shares/*/{lost['storage_index']}/*"):
        share.unlink()
    done = lafs(command, "lafs:", code=11)
    said = done.stderr.decode().splitlines()
    assert len(said) == 2
    assert any(line.startswith("lafs: src/lost: ") for line in said)
    assert any(line.startswith("lafs: src/odd/write: ") for line in said)
    if command == "stats":
        assert lafs.json("stats", "lafs:", code=11)["count_directories"] == 5
    else:
        assert {"src/lost", "src/good/f", "src/odd/fine"} <= {
            each["path"] for each in lines(lafs, command, "lafs:", code=11)
        }
    # what is asked for itself is an error
    error = json.loads(lafs(command, "lafs:src/lost", "--json", code=5).stdout)["error"]
    assert error["kind"] == "NotRecoverable"
    assert lafs(command, "lafs:nothing", code=3).stdout == b""


def test_names_from_elsewhere_are_escaped(lafs: Lafs) -> None:
    cap = _directory({"\x1b[2Jevil\nname": LitCap(b"x")})
    assert isinstance(parse(cap), DirectoryCap)
    for command in ("find", "manifest"):
        out = lafs(command, cap, code=0).stdout.decode()
        assert len(out.splitlines()) == 2
        assert "\x1b" not in out
