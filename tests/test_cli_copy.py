"""cp on ten folders of this machine, in every direction (CLI.md §1, §2, §4)."""

from __future__ import annotations

import filecmp
import json
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafscli.formats.caps import Cap, DirectoryCap, LitCap
from lafscli.primitives.encoding import netstring
from tests.lafs_process import Lafs

NFC, NFD = "caf\u00e9", "cafe\u0301"
NAMES = ["日本語.txt", "ひらがな と 空白", "Ω", "- dash", "a:b", "quote'\"", ".hidden", NFC]


@pytest.fixture(scope="module")
def lafs(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    """A home with ten folders for servers and the alias `lafs`, shared by the tests of this module."""
    made = Lafs(tmp_path_factory.mktemp("copy"))
    made("init", "--local", code=0)
    made("alias", "create", "lafs", code=0)
    return made


@pytest.fixture
def here(lafs: Lafs, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the test's own, and a directory `lafs:NAME` of the same name."""
    folder = lafs.folder / f"at-{len(list(lafs.folder.iterdir()))}"
    folder.mkdir()
    lafs("mkdir", f"lafs:{folder.name}", code=0)
    yield folder
    assert not list(folder.rglob(".lafs-*")), request.node.name


def tree(folder: Path) -> dict[str, bytes | None]:
    """Relative path to content, or None for a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def plant(folder: Path) -> dict[str, bytes | None]:
    """A tree with files of all kinds and names."""
    (folder / "sub" / "deeper").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "zero").write_bytes(b"")
    (folder / "lit").write_bytes(b"few bytes")
    (folder / "sub" / "small").write_bytes(os.urandom(10_000))
    (folder / "sub" / "deeper" / "large").write_bytes(os.urandom(2_500_000))
    for name in NAMES:
        (folder / "sub" / name).write_bytes(name.encode() * 20)
    return tree(folder)


def names(lafs: Lafs, target: str) -> list[str]:
    return sorted(entry["name"] for entry in lafs.json("ls", target)["entries"])


def caps_of(lafs: Lafs, target: str) -> dict[str, str]:
    return {entry["name"]: entry.get("rw_uri") or entry["ro_uri"] for entry in lafs.json("ls", target)["entries"]}


# ---- there and back


@pytest.mark.slow
def test_a_tree_there_and_back(lafs: Lafs, here: Path) -> None:
    planted = plant(here / "src")
    done = lafs.json("cp", "-r", here / "src", f"lafs:{here.name}")
    size = sum(len(data) for data in planted.values() if data is not None)
    files = sum(data is not None for data in planted.values())
    assert done == {
        "schema": 1,
        "copied": files,
        "linked": 0,
        "directories": len(planted) - files + 1,
        "bytes": size,
        "errors": [],
    }
    back = lafs("cp", "-r", f"lafs:{here.name}/src", here / "back", code=0)
    assert (back.stdout, back.stderr) == (b"", b"")
    assert tree(here / "back") == planted
    assert lafs.json("ls", f"lafs:{here.name}/src/sub/deeper")["writable"] is True
    again = lafs.json("cp", "-r", f"lafs:{here.name}/src", here / "back")
    assert (again["copied"], tree(here / "back" / "src")) == (files, planted)


@pytest.mark.slow
def test_copied_again_nothing_new_is_stored(lafs: Lafs, here: Path) -> None:
    plant(here / "src")
    lafs("cp", "-r", here / "src", f"lafs:{here.name}", code=0)
    first = caps_of(lafs, f"lafs:{here.name}/src/sub")
    shares = len(list((lafs.home / "grid").glob("*/shares/*/*/*")))
    lafs("cp", "-r", here / "src", f"lafs:{here.name}", code=0)
    assert caps_of(lafs, f"lafs:{here.name}/src/sub") == first
    assert len(list((lafs.home / "grid").glob("*/shares/*/*/*"))) == shares


@pytest.mark.slow
def test_one_file_and_its_names(lafs: Lafs, here: Path) -> None:
    """As with cp(1): into a directory under its own name, else under the new one."""
    (here / "f").write_bytes(b"content")
    at = f"lafs:{here.name}"
    for dest in (at, f"{at}/", f"{at}/g", f"{at}/new/on/the/way", f"{at}/made/"):
        lafs("cp", here / "f", dest, code=0)
    assert names(lafs, at) == ["f", "g", "made", "new"]
    assert names(lafs, f"{at}/new/on/the") == ["way"]
    assert names(lafs, f"{at}/made") == ["f"]
    lafs("cp", f"{at}/g", here, code=0)
    lafs("cp", f"{at}/g", here / "h", code=0)
    lafs("cp", f"{at}/f", f"{at}/new/on/the/way", here / "empty", code=2)
    (here / "empty").mkdir()
    lafs("cp", f"{at}/f", f"{at}/new/on/the/way", here / "empty", code=0)
    assert tree(here) == {
        "empty": None,
        **dict.fromkeys(["f", "g", "h", "empty/f", "empty/way"], b"content"),
    }


@pytest.mark.slow
def test_a_directory_without_a_name_gives_its_contents(lafs: Lafs, here: Path) -> None:
    at = f"lafs:{here.name}"
    (here / "src" / "d").mkdir(parents=True)
    (here / "src" / "d" / "f").write_bytes(b"x")
    lafs("cp", "-r", f"{here}/src/.", at, code=0)
    assert names(lafs, at) == ["d"]
    cap = lafs.json("ls", at)["cap"]
    (here / "cap").write_text(cap)
    (here / "out").mkdir()
    lafs("cp", "-r", f"@{here / 'cap'}", here / "out", code=0)
    lafs("cp", "-r", cap, here / "new", code=0)
    assert tree(here / "out") == tree(here / "new") == {"d": None, "d/f": b"x"}
    lafs("cp", "-r", cap, f"{at}-other", code=0)
    assert names(lafs, f"{at}-other") == ["d"]
    assert b"can't be copied into itself" in lafs("cp", "-r", cap, f"{at}/inside", code=2).stderr
    assert names(lafs, at) == ["d"]
    lafs("mkdir", f"{at}/there", code=0)
    lafs("cp", "-r", f"{cap}/d", f"{at}/there", code=0)
    assert names(lafs, f"{at}/there") == ["d"]


@pytest.mark.slow
def test_merging_keeps_caps_of_what_can_be_changed(lafs: Lafs, here: Path) -> None:
    at = f"lafs:{here.name}"
    (here / "src" / "sub").mkdir(parents=True)
    for name in ("slot", "mdmf", "chk", "sub/in"):
        (here / "src" / name).write_bytes(b"new " + name.encode())
        (here / "old").write_bytes(b"old" * 100)
        format_ = {"slot": "sdmf", "mdmf": "mdmf"}.get(name, "chk")
        lafs("put", here / "old", f"{at}/src/{name}", "--format", format_, code=0)
    (here / "old").write_bytes(b"kept")
    lafs("put", here / "old", f"{at}/src/sub/other", code=0)
    before, below = caps_of(lafs, f"{at}/src"), caps_of(lafs, f"{at}/src/sub")
    done = lafs.json("cp", "-r", here / "src", at)
    assert (done["copied"], done["errors"]) == (4, [])
    after, deeper = caps_of(lafs, f"{at}/src"), caps_of(lafs, f"{at}/src/sub")
    assert {name for name in before if before[name] == after[name]} == {"slot", "mdmf", "sub"}
    assert (deeper["other"], deeper["in"] != below["in"]) == (below["other"], True)
    for name in ("slot", "mdmf", "chk", "sub/in"):
        assert lafs("cat", f"{at}/src/{name}", code=0).stdout == b"new " + name.encode()


@pytest.mark.slow
def test_a_file_into_a_mutable_file_that_is_named_by_its_cap(lafs: Lafs, here: Path) -> None:
    (here / "f").write_bytes(b"first")
    cap = lafs.json("put", here / "f", "--mutable")["cap"]
    (here / "f").write_bytes(b"second")
    lafs("cp", here / "f", cap, code=0)
    assert lafs("cat", cap, code=0).stdout == b"second"
    read = lafs("cap", "read", cap, code=0).stdout.decode().strip()
    assert b"can't be changed" in lafs("cp", here / "f", read, code=9).stderr
    assert lafs("cp", "-r", here, cap, code=2).stdout == b""


# ---- refused before anything happens


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    """A home with servers, files and directories that no test changes."""
    made = Lafs(tmp_path_factory.mktemp("still"))
    made("init", "--local", code=0)
    made("alias", "create", "lafs", code=0)
    (made.folder / "folder").mkdir()
    for name in ("one", "two", "folder/one"):
        (made.folder / name).write_bytes(b"x")
    made("cp", "one", "lafs:file", code=0)
    made("mkdir", "lafs:made", code=0)
    made("ln", "--readonly", "lafs:made", "lafs:readonly", code=0)
    return made


def changed(before: dict[str, bytes | None], after: dict[str, bytes | None]) -> set[str]:
    """Paths that differ, but for what a client remembers of its servers."""
    paths = before.keys() | after.keys()
    grown = ("home/state", "home/pins", "home/.")
    return {path for path in paths if before.get(path, 0) != after.get(path, 0) and not path.startswith(grown)}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["one", "two"], 2, "are both here"),
        (["./a:b", "x/y:z"], 2, "are both here"),
        (["folder", "lafs:"], 2, "is a directory"),
        (["lafs:made", "out"], 2, "is a directory"),
        (["-r", "lafs:made", "one"], 2, "is there, and is no folder"),
        (["no-such", "lafs:"], 3, "no such file: no-such"),
        (["lafs:no-such", "out"], 3, "no-such: no such file"),
        (["one", "two", "lafs:nowhere"], 2, "no directory lafs:nowhere"),
        (["one", "two", "lafs:file"], 2, "lafs:file is no directory"),
        (["one", "lafs:file/"], 2, "lafs:file"),
        (["-r", "folder", "lafs:file"], 2, "lafs:file is no directory"),
        (["one", "folder/one", "lafs:made"], 2, "would be called one"),
        (["lafs:file", "lafs:file", "folder"], 2, "would be called file"),
        (["lafs:file", "missing/"], 3, "no such folder"),
        (["lafs:file", "missing/x"], 1, "cannot write missing"),
        (["URI:LIT:krugkidfnzsc4", "folder"], 2, "a bare cap has no name"),
        (["URI:LIT:krugkidfnzsc4", "lafs:made"], 2, "a bare cap has no name"),
        (["-", "lafs:x"], 2, "not stdin"),
        (["lafs:file", "-"], 2, "not stdin"),
        (["one", "nobody:x"], 3, "nobody"),
        (["one"], 2, "argument"),
        (["URI:FUTURE:x", "out"], 2, "does not know"),
        (["one", "lafs:readonly/x"], 9, "read cap"),
        (["-r", "lafs:made", "lafs:made"], 2, "made: can't be copied into itself"),
        (["-r", "lafs:made", "lafs:made/a/b"], 2, "made: can't be copied into itself"),
        (["-r", "lafs:", "lafs:made/copy"], 2, "can't be copied into itself"),
        (["no-such", "nor-this", "lafs:made"], 3, "no such file: no-such"),
    ],
)
def test_refusals(still: Lafs, arguments: list[str], code: int, said: str) -> None:
    before = tree(still.folder)
    done = still("cp", *arguments, "--json", code=code)
    assert said in done.stderr.decode().splitlines()[0]
    assert json.loads(done.stdout)["error"]["code"] == code
    # the shares of ten servers are among it
    assert changed(before, tree(still.folder)) == set()


def test_a_file_onto_itself(lafs: Lafs, here: Path) -> None:
    (here / "one").write_bytes(b"one")
    lafs("cp", here / "one", f"lafs:{here.name}", code=0)
    lafs("cp", f"lafs:{here.name}/one", f"lafs:{here.name}/one", code=0)
    assert names(lafs, f"lafs:{here.name}") == ["one"]
    assert lafs("cat", f"lafs:{here.name}/one", code=0).stdout == b"one"


# ---- what can't be copied is named, the rest goes on


def test_a_source_that_is_missing_stops_no_other(lafs: Lafs, here: Path) -> None:
    (here / "one").write_bytes(b"one")
    done = lafs("cp", "--json", here / "one", "no-such", f"lafs:{here.name}", code=11)
    assert json.loads(done.stdout)["errors"] == [{"path": "no-such", "reason": "no such file: no-such"}]
    assert b"lafs: no such file: no-such\n" in done.stderr
    assert names(lafs, f"lafs:{here.name}") == ["one"]
    (here / "back").mkdir()
    done = lafs("cp", f"lafs:{here.name}/nothing", f"lafs:{here.name}/one", here / "back", code=11)
    assert f"{here.name}/nothing: no such file".encode() in done.stderr
    assert tree(here / "back") == {"one": b"one"}


def test_to_the_grid_links_pipes_and_odd_names_are_named(lafs: Lafs, here: Path) -> None:
    src = here / "src"
    (src / "sub").mkdir(parents=True)
    (src / "good").write_bytes(b"good")
    (src / "link").symlink_to("good")
    (src / "dangling").symlink_to("nowhere")
    (src / "sub" / "circle").symlink_to("..")
    os.mkfifo(src / "pipe")
    (src / NFC).write_bytes(b"one")
    (src / NFD).write_bytes(b"other")
    (src / os.fsdecode(b"\xff.txt")).write_bytes(b"odd")
    with socket.socket(socket.AF_UNIX) as listener:
        at = os.open(src, os.O_RDONLY | os.O_DIRECTORY)
        listener.bind(f"/proc/self/fd/{at}/socket")
        os.close(at)
        done = lafs("cp", "-r", src, f"lafs:{here.name}", "--json", code=11)
    errors = {Path(each["path"]).name: each["reason"] for each in json.loads(done.stdout)["errors"]}
    assert {name: reason.split()[:3] for name, reason in errors.items()} == {
        "link": ["is", "a", "symbolic"],
        "dangling": ["is", "a", "symbolic"],
        "circle": ["is", "a", "symbolic"],
        "pipe": ["is", "a", "pipe,"],
        "socket": ["is", "a", "socket,"],
        NFC: ["another", "name", "of"],
        "\udcff.txt": ["its", "name", "is"],
    }
    assert len(done.stderr.decode().splitlines()) == len(errors) + 1
    assert names(lafs, f"lafs:{here.name}/src") == sorted([NFC, "good", "sub"])
    followed = lafs("cp", "-rL", src, f"lafs:{here.name}/followed", "--json", code=11)
    errors = {Path(each["path"]).name: each["reason"] for each in json.loads(followed.stdout)["errors"]}
    assert {"link", "dangling"} & errors.keys() == {"dangling"}
    assert "leads back" in errors["circle"]
    assert names(lafs, f"lafs:{here.name}/followed") == sorted([NFC, "good", "link", "sub"])


def test_a_link_that_is_named_is_followed(lafs: Lafs, here: Path) -> None:
    (here / "real").mkdir()
    (here / "real" / "f").write_bytes(b"x")
    (here / "link").symlink_to("real")
    lafs("cp", "-r", here / "link", f"lafs:{here.name}", code=0)
    assert names(lafs, f"lafs:{here.name}/link") == ["f"]
    (here / "out").mkdir()
    (here / "to").symlink_to("out")
    lafs("cp", "-r", f"lafs:{here.name}/link", here / "to", code=0)
    assert tree(here / "out") == {"link": None, "link/f": b"x"}


@pytest.mark.slow
def test_files_and_directories_do_not_replace_one_another(lafs: Lafs, here: Path) -> None:
    at = f"lafs:{here.name}"
    (here / "src" / "dir").mkdir(parents=True)
    (here / "src" / "dir" / "f").write_bytes(b"x")
    (here / "src" / "file").write_bytes(b"y")
    lafs("mkdir", f"{at}/src/file", code=0)
    lafs("cp", here / "src" / "file", f"{at}/src/dir", code=0)
    before = caps_of(lafs, f"{at}/src")
    done = lafs("cp", "-r", here / "src", at, "--json", code=11)
    assert len(json.loads(done.stdout)["errors"]) == 2
    assert caps_of(lafs, f"{at}/src") == before
    (here / "back" / "file").mkdir(parents=True)
    (here / "back" / "dir").write_bytes(b"z")
    (here / "src2" / "src").mkdir(parents=True)
    lafs("cp", "-r", here / "src", f"{at}/fresh", code=0)
    done = lafs("cp", "-r", f"{lafs.json('ls', f'{at}/fresh')['cap']}", here / "back", "--json", code=11)
    assert len(json.loads(done.stdout)["errors"]) == 2
    assert tree(here / "back") == {"dir": b"z", "file": None}


def _entry(name: str, cap: Cap | str) -> bytes:
    parts = (name.encode(), str(cap).encode(), b"", b"{}")
    return netstring(b"".join(netstring(part) for part in parts))


def _directory(entries: dict[str, Cap | str]) -> str:
    """A directory that is in its cap, with entries that no honest writer makes."""
    return str(DirectoryCap(LitCap(b"".join(_entry(*entry) for entry in entries.items()))))


def test_names_that_arrive_lead_nowhere_else(lafs: Lafs, here: Path) -> None:
    """Names with slashes and dots, links in the way: nothing outside is touched, each is named, the rest is there."""
    file = LitCap(b"payload")
    (here / "outside").mkdir()
    (here / "outside" / "victim").write_bytes(b"victim")
    out = here / "out"
    out.mkdir()
    (out / "linked").symlink_to("../outside")
    (out / "name").symlink_to("../outside/victim")
    os.mkfifo(out / "pipe")
    bad: dict[str, Cap | str] = dict.fromkeys(
        ["..", ".", "../up", "/etc/x", "a/b", "zero\0byte", "x" * 256, "name", "pipe"], file
    )
    bad["linked"] = parse_directory(_directory({"victim": file}))
    bad["future"] = "URI:FUTURE:1"
    cap = _directory({**bad, "good": file, "日本": file})
    done = lafs("cp", "-r", cap, out, "--json", code=11)
    assert len(json.loads(done.stdout)["errors"]) == len(bad)
    assert (out / "good").read_bytes() == (out / "日本").read_bytes() == b"payload"
    assert tree(here / "outside") == {"victim": b"victim"}
    assert sorted(path.name for path in here.iterdir()) == ["out", "outside"]
    assert (out / "linked").is_symlink()
    assert (out / "name").is_symlink()
    assert stat.S_ISFIFO((out / "pipe").stat().st_mode)
    assert sorted(path.name for path in out.iterdir()) == ["good", "linked", "name", "pipe", "日本"]
    for shown in done.stderr.decode().splitlines():
        assert shown.isprintable()


def parse_directory(text: str) -> Cap:
    from lafscli.formats.caps import parse

    return parse(text)


@pytest.mark.slow
def test_a_directory_that_contains_itself_ends(lafs: Lafs, here: Path) -> None:
    at = f"lafs:{here.name}"
    (here / "f").write_bytes(b"x")
    lafs("cp", here / "f", f"{at}/d/f", code=0)
    lafs("ln", f"{at}/d", f"{at}/d/self", code=0)
    lafs("ln", f"{at}/d", f"{at}/twice", code=0)
    done = lafs("cp", "-r", at, here / "out", "--json", code=11)
    assert [each["reason"] for each in json.loads(done.stdout)["errors"]] == 2 * ["contains itself: not copied again"]
    assert tree(here / "out") == {"d": None, "d/f": b"x", "twice": None, "twice/f": b"x"}
    lafs("cp", "-r", f"{at}/d", f"{at}/copy", code=11)
    assert names(lafs, f"{at}/copy") == ["f"]


@pytest.mark.slow
def test_what_is_lost_is_named_and_the_rest_is_there(lafs: Lafs, here: Path) -> None:
    at = f"lafs:{here.name}"
    for name in ("a/f", "b/f", "c", "d"):
        (here / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "src" / name).write_bytes(os.urandom(1000))
    lafs("cp", "-r", here / "src", at, code=0)
    for lost in ("a", "c"):
        [entry] = [each for each in lafs.json("ls", f"{at}/src")["entries"] if each["name"] == lost]
        index = lafs.json("cap", "show", entry["verify_uri"])["storage_index"]
        for share in (lafs.home / "grid").glob(f"*/shares/*/{index}/*"):
            share.unlink()
    done = lafs("cp", "-r", f"{at}/src", here / "out", "--json", code=11)
    errors = json.loads(done.stdout)["errors"]
    assert sorted(Path(each["path"]).name for each in errors) == ["a", "c"]
    assert sorted(tree(here / "out")) == ["b", "b/f", "d"]
    assert lafs("cp", f"{at}/src/c", here / "c", code=5).stderr.startswith(f"lafs: {here}/c: not enough".encode())
    assert not (here / "c").exists()
    lafs("cp", "-r", f"{at}/src", f"{at}/other", code=11)
    assert names(lafs, f"{at}/other") == ["b", "c", "d"]


# ---- within the grid


@pytest.mark.slow
def test_within_the_grid_what_can_not_change_is_linked_and_what_can_is_copied(lafs: Lafs, here: Path) -> None:
    at = f"lafs:{here.name}"
    (here / "f").write_bytes(os.urandom(1000))
    for format_ in ("chk", "sdmf", "mdmf"):
        lafs("put", here / "f", f"{at}/src/{format_}", "--format", format_, code=0)
    lafs("ln", "--readonly", f"{at}/src/sdmf", f"{at}/src/ro", code=0)
    lafs("put", here / "f", f"{at}/src/sub/f", code=0)
    immutable = _directory({"x": LitCap(b"x")})
    lafs("ln", immutable, f"{at}/src/frozen", code=0)
    done = lafs.json("cp", "-r", f"{at}/src", f"{at}/copy")
    assert (done["copied"], done["linked"], done["directories"], done["bytes"]) == (6, 3, 2, 3000)
    old, new = caps_of(lafs, f"{at}/src"), caps_of(lafs, f"{at}/copy")
    assert {name for name in old if old[name] == new[name]} == {"chk", "frozen"}
    kinds = {entry["name"]: (entry["kind"], entry["writable"]) for entry in lafs.json("ls", f"{at}/copy")["entries"]}
    assert kinds == {
        "chk": ("chk", False),
        "sdmf": ("sdmf", True),
        "mdmf": ("mdmf", True),
        "ro": ("sdmf", True),
        "sub": ("dir2", True),
        "frozen": ("dir2-lit", False),
    }
    (here / "g").write_bytes(b"changed")
    lafs("cp", here / "g", f"{at}/copy/mdmf", code=0)
    for name in ("chk", "sdmf", "mdmf", "ro", "sub/f"):
        assert lafs("cat", f"{at}/src/{name}", code=0).stdout == (here / "f").read_bytes()
        wanted = b"changed" if name == "mdmf" else (here / "f").read_bytes()
        assert lafs("cat", f"{at}/copy/{name}", code=0).stdout == wanted
    assert b"is the same file" in lafs("cp", f"{at}/src/sdmf", f"{at}/src/sdmf", code=1).stderr


def test_entries_of_unknown_kinds_are_linked(lafs: Lafs, here: Path) -> None:
    at = f"lafs:{here.name}"

    cap = _directory({"future": "URI:FUTURE:read", "f": LitCap(b"f")})
    done = lafs.json("cp", "-r", cap, f"{at}/src")
    assert (done["copied"], done["linked"]) == (1, 1)
    lafs("mkdir", f"{at}/opened", code=0)
    done = lafs.json("cp", "-r", cap, f"{at}/opened")
    assert (done["copied"], done["linked"]) == (2, 2)
    [entry] = [each for each in lafs.json("ls", f"{at}/opened")["entries"] if each["name"] == "future"]
    assert (entry["type"], entry["ro_uri"]) == ("unknown", "imm.URI:FUTURE:read")
    (here / "future").write_bytes(b"x")
    assert b"does not know" in lafs("cp", here / "future", f"{at}/opened", code=1).stderr


# ---- times and modes


@pytest.mark.slow
def test_preserve(lafs: Lafs, here: Path) -> None:
    at = f"lafs:{here.name}"
    src = here / "src"
    (src / "sub").mkdir(parents=True)
    for name, mode, when in (("run", 0o755, 10**18 + 123_456_789), ("sub/secret", 0o4600, 1_500_000_000 * 10**9)):
        (src / name).write_bytes(name.encode() * 30)
        (src / name).chmod(mode)
        os.utime(src / name, ns=(when, when))
    (src / "sub").chmod(0o750)
    os.utime(src / "sub", ns=(10**18, 10**18))
    lafs("cp", "-r", "--preserve", src, at, code=0)
    [entry] = [each for each in lafs.json("ls", f"{at}/src")["entries"] if each["name"] == "run"]
    metadata = entry["metadata"]
    assert (metadata["mtime"], metadata["st_mode"]) == (1e9 + 0.123456789, 0o100755)
    assert metadata["tahoe"].keys() == {"linkcrtime", "linkmotime"}
    lafs("cp", "-rp", f"{at}/src", here / "back", code=0)
    lafs("cp", "-r", f"{at}/src", here / "plain", code=0)
    lafs("cp", "-rp", f"{at}/src", f"{at}/copy", code=0)
    lafs("cp", "-rp", f"{at}/copy", here / "again", code=0)
    for below in ("back", "again"):
        for name in ("run", "sub/secret", "sub"):
            kept, there = (here / below / name).stat(), (src / name).stat()
            assert (kept.st_mtime_ns, kept.st_mode & 0o7777) == (there.st_mtime_ns, there.st_mode & 0o777)
    assert (here / "plain" / "run").stat().st_mtime_ns != (src / "run").stat().st_mtime_ns
    assert (here / "plain" / "run").stat().st_mode & 0o111 == 0
    # other content, other times: nothing is left of what the old one's were
    lafs("cp", src / "sub" / "secret", f"{at}/src/run", code=0)
    [entry] = [each for each in lafs.json("ls", f"{at}/src")["entries"] if each["name"] == "run"]
    assert entry["metadata"].keys() == {"tahoe"}


@pytest.mark.parametrize(
    "metadata",
    [
        {"mtime": "x", "st_mode": "y"},
        {"mtime": True, "st_mode": True},
        {"mtime": 1e300, "st_mode": -1},
        {"mtime": -1e300, "st_mode": 10**30},
        {"mtime": 1e9, "lafs": {"mtime_ns": "x"}},
        {"lafs": []},
    ],
)
def test_metadata_that_no_file_can_have_do_no_harm(lafs: Lafs, here: Path, metadata: dict[str, object]) -> None:
    entry = (b"f", str(LitCap(b"x")).encode(), b"", json.dumps(metadata).encode())
    cap = DirectoryCap(LitCap(netstring(b"".join(netstring(part) for part in entry))))
    lafs("cp", "-rp", str(cap), here / "out", code=0)
    assert (here / "out" / "f").read_bytes() == b"x"


def test_a_file_that_is_replaced_gives_its_mode(lafs: Lafs, here: Path) -> None:
    (here / "f").write_bytes(b"new")
    lafs("cp", here / "f", f"lafs:{here.name}", code=0)
    (here / "f").write_bytes(b"old")
    (here / "f").chmod(0o640)
    lafs("cp", f"lafs:{here.name}/f", here, code=0)
    assert (here / "f").read_bytes() == b"new"
    assert stat.S_IMODE((here / "f").stat().st_mode) == 0o640


def test_progress_tells_how_far_it_is_and_names_what_fails_above(lafs: Lafs, here: Path) -> None:
    (here / "src").mkdir()
    (here / "src" / "f").write_bytes(os.urandom(1_000_000))
    os.mkfifo(here / "src" / "pipe")
    shown = lafs("--progress", "cp", "-r", here / "src", f"lafs:{here.name}", code=11).stderr.decode()
    assert "1.0/1.0 MB" in shown
    assert f"lafs: {here}/src/pipe: is a pipe" in shown


# ---- interrupted, unlucky


@pytest.mark.slow
def test_too_few_servers_store_nothing(tmp_path: Path) -> None:
    lafs = Lafs(tmp_path)
    lafs("init", "--local", code=0)
    lafs("alias", "create", "lafs", code=0)
    plant(tmp_path / "src")
    for index in range(4):
        (lafs.home / "grid" / f"local{index}" / "server.toml").unlink()
    done = lafs("cp", tmp_path / "src" / "sub" / "small", "lafs:", code=4)
    assert done.stderr.startswith(b"lafs: ")
    error = json.loads(lafs("cp", "-r", tmp_path / "src", "lafs:", "--json", code=4).stdout)["error"]
    assert error["kind"] == "NotHappy"
    (tmp_path / "lits").mkdir()
    (tmp_path / "lits" / "f").write_bytes(b"few bytes")
    lafs("cp", "-r", tmp_path / "lits", "lafs:", code=4)
    assert names(lafs, "lafs:") == []


@pytest.mark.slow
@pytest.mark.parametrize("at", [0.15, 0.4, 0.8])
def test_killed_on_the_way_back_only_whole_files_have_names(lafs: Lafs, tmp_path: Path, at: float) -> None:
    source, target = lafs.folder / "many", "lafs:many"
    if not source.exists():
        for number in range(300):
            (source / f"d{number % 20}").mkdir(parents=True, exist_ok=True)
            (source / f"d{number % 20}" / f"f{number}").write_bytes(os.urandom(20_000))
        lafs("cp", "-r", source, "lafs:", code=0)
    running = lafs.start("cp", "-r", target, tmp_path / "out")
    time.sleep(at)  # at a random moment, not for something to happen
    running.send_signal(signal.SIGKILL)
    running.wait()
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and not path.name.startswith(".lafs-"):
            assert path.read_bytes() == (source / path.relative_to(tmp_path / "out")).read_bytes()
    lafs("cp", "-r", f"{target}", tmp_path / "whole", code=0)
    assert tree(tmp_path / "whole") == tree(source)


@pytest.mark.slow
def test_killed_on_the_way_there_nothing_is_half_linked(lafs: Lafs, here: Path) -> None:
    """What is new at the top appears last, whole; the next run finds what is there already."""
    at = f"lafs:{here.name}"
    for number in range(200):
        (here / "src" / f"d{number % 5}").mkdir(parents=True, exist_ok=True)
        (here / "src" / f"d{number % 5}" / f"f{number}").write_bytes(os.urandom(20_000))
    for moment in (0.3, 0.6, 1.0):
        running = lafs.start("cp", "-r", here / "src", at)
        time.sleep(moment)  # at a random moment, not for something to happen
        running.send_signal(signal.SIGKILL)
        running.wait()
        if names(lafs, at):
            break
    lafs("cp", "-r", here / "src", f"{at}/new", code=0)
    lafs("cp", "-r", f"{at}/new", here / "back", code=0)
    assert tree(here / "back") == tree(here / "src")
    if "src" in names(lafs, at):
        lafs("cp", "-r", f"{at}/src", here / "first", code=0)
        assert tree(here / "first") == tree(here / "src")


def test_interrupted_it_ends_at_once_and_leaves_no_temporary_file(lafs: Lafs, here: Path) -> None:
    (here / "large").write_bytes(os.urandom(30_000_000))
    lafs("cp", here / "large", f"lafs:{here.name}", code=0)
    running = lafs.start("cp", f"lafs:{here.name}/large", here / "out")
    while not list(here.glob(".lafs-*")) and running.poll() is None:
        time.sleep(0.005)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=5) in (143, 0)


def test_a_file_that_changes_while_it_is_read_is_named(lafs: Lafs, here: Path) -> None:
    src = here / "src"
    src.mkdir()
    (src / "still").write_bytes(os.urandom(1000))
    (src / "log").write_bytes(os.urandom(40_000_000))
    running = lafs.start("cp", "-r", src, f"lafs:{here.name}", stderr=-1)
    with (src / "log").open("ab") as log:
        while running.poll() is None:
            log.write(b"more")
            log.flush()
            time.sleep(0.01)
    assert running.wait() == 11
    assert running.stderr is not None
    assert b"log changed while it was read" in running.stderr.read()
    running.stderr.close()
    assert names(lafs, f"lafs:{here.name}/src") == ["still"]


@pytest.mark.slow
def test_deep_trees_there_and_back(lafs: Lafs, here: Path) -> None:
    """Deeper than any recursion: of immutable directories, which are quickly made; and some mutable ones."""
    place = here / "src"
    for _ in range(60):
        place = place / "d"
    place.mkdir(parents=True)
    (place / "f").write_bytes(b"deep")
    lafs("cp", "-r", here / "src", f"lafs:{here.name}", code=0)
    lafs("cp", "-r", f"lafs:{here.name}/src", here / "back", code=0)
    assert tree(here / "back") == tree(here / "src")
    assert filecmp.cmp(place / "f", here / "back" / place.relative_to(here / "src") / "f")
