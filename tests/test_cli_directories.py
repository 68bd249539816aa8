"""Directories on the command line, on ten folders of this machine: mkdir, ls, ln, mv, rm, put and get by path
(CLI.md §2-4)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from lafscli.formats import caps
from tests.lafs_process import Lafs

LIT = "URI:LIT:krugkidfnzsc4"
VERIFY = "URI:CHK-Verifier:qqqqqqqqqqqqqqqqqqqqqqqqqa:" + 51 * "a" + "a:3:10:1000"
IMMUTABLE = "URI:DIR2-LIT:gi4tumj2piwdcmz2kvjesosmjfkdu3tsov4gslbqhiwdeot3puwcy"


@pytest.fixture(scope="module")
def lafs(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    """A home with ten folders for servers and the alias `lafs`, shared by the tests of this module."""
    made = Lafs(tmp_path_factory.mktemp("dirs"))
    made("init", "--local", code=0)
    made("alias", "create", "lafs", code=0)
    (made.folder / "small").write_bytes(b"The end.")
    (made.folder / "large").write_bytes(bytes(5000))
    return made


def _run(lafs: Lafs, *lines: str) -> None:
    """All of these commands, in one process."""
    lafs("batch", input="\n".join(lines).encode(), code=0)


def _names(lafs: Lafs, *target: str) -> list[str]:
    return [each["name"] for each in lafs.json("ls", *target)["entries"]]


def _entry(lafs: Lafs, target: str, name: str) -> dict[str, object]:
    [found] = [each for each in lafs.json("ls", target)["entries"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


def _write_cap(lafs: Lafs, alias: str = "lafs") -> str:
    [found] = [each for each in lafs.json("alias", "list")["aliases"] if each["name"] == alias]
    return str(found["rw_uri"])


def _read_cap(lafs: Lafs, target: str = "lafs:") -> str:
    return lafs("cap", "read", target, code=0).stdout.decode().strip()


def _pins(lafs: Lafs) -> list[str]:
    return (lafs.home / "pins").read_text().split()


# ---- alias create and mkdir


def test_alias_create_makes_a_directory(lafs: Lafs) -> None:
    made = lafs.json("alias", "create", "fresh")["aliases"]
    [entry] = [each for each in made if each["name"] == "fresh"]
    assert (entry["kind"], entry["writable"]) == ("dir2", True)
    assert entry["ro_uri"] == str(caps.parse(entry["rw_uri"]).read_cap())
    assert _names(lafs, "fresh:") == []
    before = (lafs.home / "aliases").read_bytes()
    assert b"already" in lafs("create-alias", "fresh", code=1).stderr
    assert (lafs.home / "aliases").read_bytes() == before
    assert entry["ro_uri"] not in _pins(lafs)


def test_mkdir_without_target_prints_the_write_cap_and_pins_the_read_cap(lafs: Lafs) -> None:
    done = lafs("mkdir", code=0)
    cap = caps.parse(done.stdout.decode().strip())
    assert cap.kind == "dir2"
    assert cap.writable
    assert done.stderr == b""
    assert str(cap.read_cap()) in _pins(lafs)
    assert str(cap) not in _pins(lafs)
    mdmf = lafs.json("mkdir", "--format", "mdmf")
    assert set(mdmf) == {"schema", "cap"}
    assert caps.parse(mdmf["cap"]).kind == "dir2-mdmf"
    assert _names(lafs, mdmf["cap"]) == []


def test_mkdir_makes_all_that_is_missing(lafs: Lafs) -> None:
    made = lafs.json("mkdir", "lafs:mk/a/b/c")
    assert made["path"] == "mk/a/b/c"
    assert lafs.json("ls", "lafs:mk/a/b/c")["cap"] == made["cap"]
    assert _names(lafs, "mk/a") == ["b"]
    tahoe = _entry(lafs, "mk/a", "b")["metadata"]["tahoe"]  # type: ignore[index]
    assert tahoe["linkcrtime"] == tahoe["linkmotime"] > 1_000_000_000
    assert caps.parse(made["cap"]).read_cap() not in map(caps.parse, _pins(lafs))


@pytest.mark.slow
def test_mkdir_of_what_is_there_changes_nothing(lafs: Lafs) -> None:
    first = lafs("mkdir", "lafs:twice", code=0).stdout
    before = lafs.json("ls", "lafs:")
    assert lafs("mkdir", "lafs:twice", code=0).stdout == first
    assert lafs("mkdir", "lafs:twice/", code=0).stdout == first
    assert lafs("mkdir", "lafs:", code=0).stdout.decode().strip() == _write_cap(lafs)
    assert lafs.json("ls", "lafs:") == before
    lafs("put", "small", "lafs:a-file", code=0)
    assert b"no directory" in lafs("mkdir", "lafs:a-file", code=1).stderr
    assert b"not a directory" in lafs("mkdir", "lafs:a-file/x", code=3).stderr


def test_mkdir_below_a_cap_is_pinned(lafs: Lafs) -> None:
    root = lafs("mkdir", code=0).stdout.decode().strip()
    made = lafs.json("mkdir", f"{root}/x/y")
    assert str(caps.parse(made["cap"]).read_cap()) in _pins(lafs)
    (lafs.folder / "root.cap").write_text(f"{root}\n")
    made = lafs.json("mkdir", "@root.cap/z")
    assert str(caps.parse(made["cap"]).read_cap()) in _pins(lafs)
    assert _names(lafs, "@root.cap") == ["x", "z"]
    assert _names(lafs, "@root.cap/x/") == ["y"]


def test_a_private_key_makes_the_same_cap(lafs: Lafs) -> None:
    subprocess.run(["openssl", "genrsa", "-out", "key.pem", "2048"], cwd=lafs.folder, check=True, capture_output=True)
    cap = lafs("mkdir", "--private-key", "key.pem", code=0).stdout.decode().strip()
    assert b"already" in lafs("mkdir", "--private-key", "key.pem", code=2).stderr
    file = lafs.json("put", "small", "--mutable", "--private-key", "key.pem", code=2)
    assert "already" in file["error"]["message"]
    assert _names(lafs, cap) == []


# ---- put


@pytest.mark.slow
def test_put_links_and_makes_directories(lafs: Lafs) -> None:
    before = _pins(lafs)
    done = lafs.json("put", "large", "lafs:put/deep/er/name")
    assert done["kind"] == "chk"
    assert lafs("cat", "put/deep/er/name", code=0).stdout == bytes(5000)
    entry = _entry(lafs, "put/deep/er", "name")
    assert (entry["ro_uri"], entry["size"], entry["type"]) == (done["cap"], 5000, "file")
    assert lafs("put", "large", "lafs:put/", code=0).stdout.decode().strip() == done["cap"]
    assert lafs("put", "large", "put/deep", code=0).returncode == 0
    assert _names(lafs, "put") == ["deep", "large"]
    assert _names(lafs, "put/deep") == ["er", "large"]
    lafs("put", "large", "put/new-folder/", code=0)
    assert _names(lafs, "put/new-folder") == ["large"]
    lafs("put", "-", "put/piped", input=b"from a pipe", code=0)
    assert lafs("cat", "put/piped", code=0).stdout == b"from a pipe"
    assert _pins(lafs) == before


@pytest.mark.slow
def test_put_replaces_an_immutable_file_and_no_directory(lafs: Lafs) -> None:
    lafs("put", "large", "lafs:rep/x", code=0)
    first = _entry(lafs, "rep", "x")
    lafs("put", "small", "lafs:rep/x", code=0)
    second = _entry(lafs, "rep", "x")
    assert second["ro_uri"] == LIT
    old, new = (each["metadata"]["tahoe"] for each in (first, second))  # type: ignore[index]
    assert old["linkcrtime"] == new["linkcrtime"]
    assert old["linkmotime"] < new["linkmotime"]
    lafs("mkdir", "lafs:rep/small", code=0)
    for arguments in (["put", "small", "rep"], ["put", "small", "rep/"]):
        assert b"rep/small: is a directory" in lafs(*arguments, code=1).stderr
    _run(lafs, "put small rep/small/", "ln rep rep/small/again")
    assert _names(lafs, "rep/small") == ["again", "small"]
    assert b"has no name" in lafs("put", "-", "rep", input=b"x", code=2).stderr


def test_put_below_a_cap_is_pinned(lafs: Lafs) -> None:
    root = lafs("mkdir", code=0).stdout.decode().strip()
    done = lafs.json("put", "large", f"{root}/x", "--no-convergence")
    assert done["cap"] in _pins(lafs)
    mutable = lafs.json("put", "small", f"{root}/y", "--mutable")
    assert mutable["cap"] not in _pins(lafs)
    assert str(caps.parse(mutable["cap"]).read_cap()) in _pins(lafs)


@pytest.mark.parametrize("kind", ["sdmf", pytest.param("mdmf", marks=pytest.mark.slow)])
def test_mutable_files(lafs: Lafs, kind: str) -> None:
    made = lafs.json("put", "large", f"lafs:m/{kind}", "--format", kind)
    assert (made["kind"], made["size"], made["seqnum"]) == (kind, 5000, 1)
    assert sorted(made["placement"], key=int) == [str(i) for i in range(10)]
    assert made["encoding"]["n"] == 10
    assert caps.parse(made["cap"]).writable
    assert lafs("cat", f"m/{kind}", code=0).stdout == bytes(5000)
    again = lafs.json("put", "small", f"m/{kind}")
    assert (again["cap"], again["seqnum"], again["size"]) == (made["cap"], 2, 8)
    assert lafs("cat", f"m/{kind}", code=0).stdout == b"The end."
    third = lafs.json("put", "-", made["cap"], input=b"by its write cap")
    assert (third["cap"], third["seqnum"]) == (made["cap"], 3)
    assert lafs("get", f"m/{kind}", "out", code=0).stdout == b""
    assert (lafs.folder / "out").read_bytes() == b"by its write cap"
    assert lafs("get", f"m/{kind}", "-", "--offset", "3", "--length", "3", code=0).stdout == b"its"
    read_cap = str(caps.parse(made["cap"]).read_cap())
    assert lafs("cat", read_cap, code=0).stdout == b"by its write cap"
    assert lafs.json("put", "small", read_cap, code=9)["error"]["kind"] == "NotGranted"
    assert lafs.json("get", f"m/{kind}", "out")["size"] == 16
    entry = _entry(lafs, "m", kind)
    assert (entry["kind"], entry["mutable"], entry["writable"], entry["rw_uri"]) == (kind, True, True, made["cap"])
    assert "size" not in entry
    other = "mdmf" if kind == "sdmf" else "sdmf"
    for option in (["--format", "chk"], ["--format", other]):
        error = lafs.json("put", "large", f"m/{kind}", *option, code=2)["error"]
        assert f"stays {kind}: --format {option[1]}" in error["message"]
    assert lafs.json("put", "large", made["cap"], "--format", "chk", code=2)["error"]["kind"] == "Usage"
    for option in (["--encoding", "2/3/4"], ["--segment-size", "64K"]):
        assert "keeps its encoding" in lafs.json("put", "large", f"m/{kind}", *option, code=2)["error"]["message"]
    assert lafs("cat", f"m/{kind}", code=0).stdout == b"by its write cap"
    assert lafs.json("put", "small", f"m/{kind}", "--format", kind, "--mutable")["seqnum"] == 4


def test_mkdir_of_another_format_than_what_is_there(lafs: Lafs) -> None:
    cap = lafs("mkdir", "lafs:as-sdmf", code=0).stdout
    error = lafs.json("mkdir", "lafs:as-sdmf", "--format", "mdmf", code=2)["error"]
    assert "stays sdmf: --format mdmf" in error["message"]
    assert lafs("mkdir", "lafs:as-sdmf", "--format", "sdmf", code=0).stdout == cap


def test_an_unlinked_mutable_file(lafs: Lafs) -> None:
    made = lafs("put", "small", "--mutable", code=0).stdout.decode().strip()
    assert caps.parse(made).kind == "sdmf"
    assert str(caps.parse(made).read_cap()) in _pins(lafs)
    assert made not in _pins(lafs)
    assert lafs("cat", made, code=0).stdout == b"The end."


def test_an_older_version_is_told_and_refused(lafs: Lafs) -> None:
    """Servers that were set back, all of them."""
    cap = lafs("put", "small", "--mutable", code=0).stdout.decode().strip()
    si = lafs.json("cap", "show", cap)["storage_index"]
    old = {path: path.read_bytes() for path in (lafs.home / "grid").glob(f"*/shares/{si[:2]}/{si}/*")}
    assert len(old) == 10
    lafs("put", "large", cap, code=0)
    for path, data in old.items():
        path.write_bytes(data)
    done = lafs("get", cap, "old", "--json", code=0)
    assert (lafs.folder / "old").read_bytes() == b"The end."
    assert json.loads(done.stdout)["warnings"]
    assert b"warning" in done.stderr
    assert lafs("get", cap, "new", "--strict", code=6).stdout == b""
    assert not (lafs.folder / "new").exists()
    assert lafs("cat", cap, "--strict", code=6).stdout == b""


def test_ln_on_what_is_there_names_the_whole_path(lafs: Lafs) -> None:
    lafs("ln", LIT, "lafs:ln-on/x", code=3)
    _run(lafs, "mkdir lafs:ln-on", f"ln {LIT} lafs:ln-on/x", f"ln {LIT} lafs:ln-x")
    assert b"lafs: ln-on/x: there is an entry" in lafs("ln", LIT, "lafs:ln-on/x", code=1).stderr
    assert b"lafs: ln-x: there is an entry" in lafs("ln", LIT, "lafs:ln-x", code=1).stderr


# ---- get


def test_get_by_path_takes_the_name_along(lafs: Lafs, tmp_path: Path) -> None:
    _run(lafs, "put small lafs:get/日本語.txt", "get lafs:get/日本語.txt")
    assert (lafs.folder / "日本語.txt").read_bytes() == b"The end."
    lafs("get", "get/日本語.txt", str(tmp_path), code=0)
    assert (tmp_path / "日本語.txt").read_bytes() == b"The end."
    lafs("get", "get/日本語.txt", str(tmp_path / "other"), code=0)
    assert (tmp_path / "other").read_bytes() == b"The end."
    assert b"is a directory" in lafs("get", "get", "x", code=2).stderr
    assert b"is a directory" in lafs("cat", "lafs:", code=2).stderr
    assert b"get/gone: no such" in lafs("get", "get/gone", "x", code=3).stderr
    assert b"is a file" in lafs("get", "get/日本語.txt/x", "x", code=3).stderr
    assert b"not a directory" in lafs("get", "get/日本語.txt/", "x", code=3).stderr


def test_names_in_nfc(lafs: Lafs) -> None:
    lafs("put", "small", "lafs:nfc/cafe\u0301", code=0)
    assert _names(lafs, "nfc") == ["caf\u00e9"]
    lafs("put", "large", "lafs:nfc/caf\u00e9", code=0)
    assert _names(lafs, "nfc") == ["caf\u00e9"]
    assert lafs("cat", "nfc/cafe\u0301", code=0).stdout == bytes(5000)


# ---- ls


def test_ls_as_json(lafs: Lafs) -> None:
    _run(lafs, "mkdir lafs:ls/sub", "put large ls/file", "put small ls/lit", "put small ls/mut --mutable")
    answer = lafs.json("ls", "ls")
    assert set(answer) == {"schema", "cap", "kind", "writable", "mutable", "entries"}
    assert (answer["kind"], answer["writable"], answer["mutable"]) == ("dir2", True, True)
    file, lit, mut, sub = answer["entries"]
    both = {"name", "type", "kind", "writable", "mutable", "metadata"}
    assert set(file) == both | {"size", "ro_uri", "verify_uri"}
    assert set(lit) == both | {"size", "ro_uri"}
    assert set(mut) == set(sub) == both | {"ro_uri", "rw_uri", "verify_uri"}
    assert [each["kind"] for each in answer["entries"]] == ["chk", "lit", "sdmf", "dir2"]
    assert [each["type"] for each in answer["entries"]] == ["file", "file", "file", "directory"]
    one = lafs.json("ls", "ls/file")
    assert (one["kind"], one["entries"]) == ("chk", [file])
    [bare] = lafs.json("ls", LIT)["entries"]
    assert (bare["name"], bare["size"], bare["ro_uri"], bare["metadata"]) == ("", 8, LIT, {})


@pytest.mark.slow
def test_ls_as_text(lafs: Lafs) -> None:
    _run(lafs, "mkdir lafs:text/sub", "put large text/file", "put small text/mut --mutable")
    assert lafs("ls", "text", code=0).stdout == b"file\nmut\nsub\n"
    assert lafs("ls", "-F", "text", code=0).stdout == b"file\nmut*\nsub/\n"
    assert lafs("ls", "-0", "text", code=0).stdout == b"file\0mut\0sub\0"
    rows = [line.split() for line in lafs("ls", "-l", "text", code=0).stdout.decode().splitlines()]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("-r--", "5000", "file"),
        ("-rw-", "?", "mut"),
        ("drwx", "-", "sub"),
    ]
    assert all(row[2].endswith("Z") for row in rows)
    uris = lafs("ls", "--uri", "text", code=0).stdout.decode().split()
    assert [caps.parse(uri).kind for uri in uris[1::2]] == ["chk", "sdmf", "dir2"]
    assert caps.parse(uris[3]).writable
    uris = lafs("ls", "--readonly-uri", "text", code=0).stdout.decode().split()
    assert not any(caps.parse(uri).writable for uri in uris[1::2])
    for flags in ([], ["-l"], ["-R"], ["-F"]):
        assert b"URI:" not in lafs("ls", *flags, "text", code=0).stdout
    assert lafs("ls", "text/file", code=0).stdout == b"file\n"
    assert lafs("ls", "text/sub", code=0).stdout == b""


def test_ls_recursive_once_through_a_circle(lafs: Lafs) -> None:
    _run(lafs, "mkdir lafs:tree/a/b", "put small tree/a/x", "ln lafs:tree lafs:tree/a/b/up")
    assert lafs("ls", "-R", "lafs:tree", code=0).stdout.decode() == (
        "lafs:tree:\na\n\nlafs:tree/a:\nb\nx\n\nlafs:tree/a/b:\nup\n"
    )
    answer = lafs.json("ls", "-R", "tree")
    assert [each["path"] for each in answer["entries"]] == ["a", "a/b", "a/x", "a/b/up"]
    assert [each["name"] for each in answer["entries"]] == ["a", "b", "x", "up"]


def test_names_are_escaped(lafs: Lafs) -> None:
    for name in ("two\nlines", "\x1b[31mred", "[bold]"):
        lafs("put", "small", f"lafs:odd/{name}", code=0)
    shown = lafs("ls", "odd", code=0).stdout.decode()
    assert shown == "\\x1b[31mred\n[bold]\ntwo\\nlines\n"
    assert lafs("ls", "-0", "odd", code=0).stdout.count(b"\0") == 3
    assert b"two\\nlines" in lafs("mkdir", "lafs:odd/two\nlines", code=1).stderr


def test_ls_of_immutable_directories_needs_no_server(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    assert lafs.json("ls", IMMUTABLE)["entries"][0]["name"] == "z"
    assert lafs("cat", f"{IMMUTABLE}/z", code=0).stdout
    assert lafs("ls", "URI:DIR2-LIT:", code=0).stdout == b""
    assert b"no such" in lafs("cat", f"{IMMUTABLE}/y", code=3).stderr
    assert lafs.json("cap", "show", f"{IMMUTABLE}/z")["kind"] == "lit"


# ---- what a read cap grants


@pytest.mark.slow
def test_through_a_read_cap_only_read_caps_are_seen_however_deep(lafs: Lafs) -> None:
    _run(lafs, "mkdir lafs:t/one/two", "put small t/one/two/mut --mutable", "put large t/one/two/chk")
    read_cap = _read_cap(lafs, "lafs:t")
    for path in ("", "/one", "/one/two"):
        answer = lafs.json("ls", f"{read_cap}{path}")
        assert not answer["writable"]
        assert not any(each["writable"] or "rw_uri" in each for each in answer["entries"])
    assert lafs("cat", f"{read_cap}/one/two/mut", code=0).stdout == b"The end."
    lines: list[str] = []
    for arguments in (
        ["put", "small", f"{read_cap}/new"],
        ["put", "small", f"{read_cap}/one/two/mut"],
        ["put", "small", f"{read_cap}/one/two/chk"],
        ["put", "small", f"{read_cap}/one/a/b/c"],
        ["mkdir", f"{read_cap}/new"],
        ["mkdir", f"{read_cap}/one/a/b"],
        ["ln", LIT, f"{read_cap}/new"],
        ["rm", f"{read_cap}/one/two/mut"],
        ["rm", "-r", f"{read_cap}/one"],
        ["mv", f"{read_cap}/one/two/mut", "lafs:stolen"],
        ["mv", "lafs:t/one/two/mut", f"{read_cap}/new"],
        ["ls", str(caps.parse(read_cap).verify_cap())],
    ):
        lines.append(" ".join(arguments))
    done = lafs("batch", "--json", input="\n".join(lines).encode(), code=9)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["error"]["kind"] for each in answers] == ["NotGranted"] * len(lines)
    assert "stolen" not in _names(lafs, "lafs:")
    assert _names(lafs, "t/one/two") == ["chk", "mut"]


# ---- ln


@pytest.mark.slow
def test_ln(lafs: Lafs) -> None:
    _run(lafs, "put small lafs:ln/mut --mutable", "mkdir lafs:ln/dir")
    answer = lafs.json("ln", "lafs:ln/mut", "lafs:ln/second")
    assert answer["path"] == "ln/second"
    assert caps.parse(answer["cap"]).writable
    lafs("put", "-", "ln/second", input=b"one object", code=0)
    assert lafs("cat", "ln/mut", code=0).stdout == b"one object"
    _run(lafs, "ln ln/mut ln/dir", "ln --readonly ln/mut ln/dir/ro")
    entries = {each["name"]: each["writable"] for each in lafs.json("ls", "ln/dir")["entries"]}
    assert entries == {"mut": True, "ro": False}
    assert b"already" in lafs("ln", LIT, "ln/mut", code=1).stderr
    assert b"already" in lafs("ln", "ln/mut", "ln/dir/", code=1).stderr
    assert b"no name" in lafs("ln", LIT, "ln/dir", code=2).stderr
    assert b"no such" in lafs("ln", LIT, "ln/no/such", code=3).stderr
    assert b"verify cap" in lafs("ln", VERIFY, "ln/v", code=9).stderr
    lafs("ln", LIT, "ln/from-a-cap", code=0)
    assert lafs("cat", "ln/from-a-cap", code=0).stdout == b"The end."


def test_names_that_are_given_to_nothing(lafs: Lafs) -> None:
    for name in (".", "..", "a/../b"):
        for arguments in (["put", "small"], ["ln", LIT], ["mkdir"]):
            assert b"can't be the name" in lafs(*arguments, f"lafs:{name}", code=2).stderr


# ---- mv


@pytest.mark.slow
def test_mv_within_a_directory(lafs: Lafs) -> None:
    _run(lafs, "put small lafs:mv/a", "put large lafs:mv/b", "mkdir lafs:mv/d")
    answer = lafs.json("mv", "mv/a", "mv/c")
    assert (answer["cap"], answer["path"]) == (LIT, "mv/c")
    assert _names(lafs, "mv") == ["b", "c", "d"]
    done = lafs("mv", "mv/b", "mv/c", code=0)
    assert b"replaced" in done.stderr
    assert done.stdout == b""
    assert lafs("cat", "mv/c", code=0).stdout == bytes(5000)
    lafs("mv", "mv/c", "mv/d", code=0)
    assert (_names(lafs, "mv"), _names(lafs, "mv/d")) == (["d"], ["c"])
    assert b"same entry" in lafs("mv", "mv/d/c", "mv/d/c", code=1).stderr
    assert b"into itself" in lafs("mv", "mv/d", "mv/d/e", code=1).stderr
    assert b"into itself" in lafs("mv", "mv/d", "mv/d", code=1).stderr
    assert b"mv/gone: no such" in lafs("mv", "mv/gone", "mv/x", code=3).stderr
    assert b"no such" in lafs("mv", "mv/d", "mv/no/such", code=3).stderr
    assert lafs("mv", "lafs:", "mv/x").returncode == 2


@pytest.mark.slow
def test_mv_between_directories_keeps_metadata(lafs: Lafs) -> None:
    _run(
        lafs,
        "mkdir lafs:mv2/from",
        "mkdir lafs:mv2/to/taken",
        "put small lafs:mv2/from/x --mutable",
        "put small lafs:mv2/from/taken",
    )
    cap = _entry(lafs, "mv2/from", "x")["rw_uri"]
    lafs("mv", "mv2/from/x", "mv2/to/", code=0)
    assert _names(lafs, "mv2/from") == ["taken"]
    assert _entry(lafs, "mv2/to", "x")["rw_uri"] == cap
    assert b"is a directory" in lafs("mv", "mv2/from/taken", "mv2/to", code=1).stderr
    lafs("mv", "mv2/from/taken", "mv2/to/x", code=0)
    assert _entry(lafs, "mv2/to", "x")["ro_uri"] == LIT
    assert _names(lafs, "mv2/from") == []
    lafs("mv", "mv2/to", "mv2/from/", code=0)
    assert (_names(lafs, "mv2"), _names(lafs, "mv2/from/to")) == (["from"], ["taken", "x"])


# ---- rm


@pytest.mark.slow
def test_rm(lafs: Lafs) -> None:
    for path in ("rm/a", "rm/b", "rm/c", "rm/full/x"):
        lafs("put", "small", f"lafs:{path}", code=0)
    lafs("mkdir", "lafs:rm/empty", code=0)
    done = lafs("rm", "rm/a", "lafs:rm/b", code=0)
    assert done.stdout == b""
    assert b"comes back with lafs gc" in done.stderr
    assert lafs("rm", "-q", "rm/c", code=0).stderr == b""
    assert lafs.json("rm", "rm/empty") == {"schema": 1, "removed": 1}
    assert b"not empty" in lafs("rm", "rm/full", code=1).stderr
    assert _names(lafs, "rm") == ["full"]
    lafs("rm", "-r", "rm/full", code=0)
    assert _names(lafs, "rm") == []
    assert b"rm/gone: no such" in lafs("rm", "rm/gone", code=3).stderr
    assert b"alias remove" in lafs("rm", "lafs:", code=2).stderr
    lafs("unlink", "rm/", code=0)


@pytest.mark.slow
def test_rm_of_many_goes_on_after_a_failure(lafs: Lafs) -> None:
    for path in ("many/a", "many/b", "many/full/x"):
        lafs("put", "small", f"lafs:{path}", code=0)
    done = lafs("rm", "many/a", "many/gone", "many/full", "many/b", "nowhere/x", "--json", code=11)
    answer = json.loads(done.stdout)
    assert answer["removed"] == 2
    assert len(answer["errors"]) == 3
    assert done.stderr.count(b"lafs: ") >= 3
    assert _names(lafs, "many") == ["full"]
    assert lafs.json("rm", "many/gone", "many/gone2", code=3)["removed"] == 0


# ---- several at once


@pytest.mark.slow
def test_links_from_several_processes_are_all_there(lafs: Lafs) -> None:
    lafs("mkdir", "lafs:many-writers", code=0)
    processes = [
        lafs.start("batch", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for number, process in enumerate(processes):
        assert process.stdin is not None
        process.stdin.write("".join(f"ln {LIT} lafs:many-writers/{number}-{i}\n" for i in range(5)).encode())
        process.stdin.close()
    for process in processes:
        assert process.stderr is not None
        assert process.wait(120) == 0, process.stderr.read().decode()
    assert _names(lafs, "many-writers") == sorted(f"{number}-{i}" for number in range(4) for i in range(5))
    assert list((lafs.home / "grid").glob("*/locks/*/*")) == []


def test_directories_on_the_way_from_several_processes_are_the_same_ones(lafs: Lafs) -> None:
    processes = [lafs.start("put", "small", f"lafs:on/the/way/{number}", stdout=subprocess.PIPE) for number in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert _names(lafs, "on/the/way") == ["0", "1", "2", "3"]


# ---- too few servers


@pytest.mark.slow
def test_too_few_servers_store_and_change_nothing(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    _run(lafs, "init --local", "alias create lafs")
    (tmp_path / "small").write_bytes(b"The end.")
    lafs("put", "small", "a", code=0)
    grid = lafs.home / "grid"
    for number in range(4):
        (grid / f"local{number}" / "server.toml").rename(grid / f"local{number}" / "away")
    for arguments in (["put", "small", "b"], ["put", "small", "--mutable"], ["mkdir", "d"], ["mkdir"], ["rm", "a"]):
        assert lafs.json(*arguments, code=4)["error"]["kind"] == "NotHappy", arguments
    assert lafs("alias", "create", "other", code=4).stdout == b""
    # a pipe is stored in an encoding that can be, and the directory is not changed: its content is not lost for that
    pins = (lafs.home / "pins").read_text()
    done = lafs("put", "-", "piped", "--encoding", "1/1/3", input=bytes(5000), code=4)
    assert b"its read cap stands in" in done.stderr
    [pin] = (lafs.home / "pins").read_text().removeprefix(pins).split()
    assert lafs("cat", pin, code=0).stdout == bytes(5000)
    assert [each["name"] for each in lafs.json("alias", "list")["aliases"]] == ["lafs"]
    assert lafs("ls", code=0).stdout == b"a\n"
    for number in range(4, 9):
        (grid / f"local{number}" / "server.toml").rename(grid / f"local{number}" / "away")
    assert lafs.json("ls", code=6)["error"]["kind"] == "CannotTell"


def test_a_home_without_servers(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", code=0)
    cap = "URI:DIR2:fs6ul2fju2fvb2cfx7gt6ngycm:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq"
    lafs("alias", "add", "lafs", cap, code=0)
    (tmp_path / "small").write_bytes(b"The end.")
    for arguments in (
        ["ls"],
        ["get", "x"],
        ["put", "small", "x"],
        ["mkdir"],
        ["mkdir", "x"],
        ["rm", "x"],
        ["ln", LIT, "x"],
    ):
        assert b"no server is configured" in lafs(*arguments, code=2).stderr, arguments
