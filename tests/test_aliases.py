"""The aliases file: what it says, and how it is changed (CLI.md §2, §3; spec 08 §6)."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lafscli.config import aliases
from lafscli.config.home import Home
from lafscli.errors import LafsError, MalformedCap, NotFound, UsageError
from lafscli.formats import caps
from tests.lafs_process import Lafs

LIT = "URI:LIT:krugkidfnzsc4"
DIR2 = "URI:DIR2:fs6ul2fju2fvb2cfx7gt6ngycm:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq"
RO = "URI:DIR2-RO:65ruo2zytr3uxnaxkptdoqkth4:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq"
VERIFY = "URI:DIR2-Verifier:axxzm642zi4vozwfjdijoafbrm:hncpinwszbggrurbvuaaexnftk3j5wfr7473pj2g734mo2isxlbq"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home.find(str(tmp_path / "home"))
    made.make()
    return made


def _write(home: Home, text: str) -> None:
    (home.path / "aliases").write_text(text, "utf-8")


def _text(home: Home) -> str:
    return (home.path / "aliases").read_text("utf-8")


def test_lines_of_a_tahoe_node_are_read(home: Home) -> None:
    _write(
        home,
        f"# comment\n\ntahoe: {DIR2}\n  spaced :  {RO}  \nno colon\n:{LIT}\nnot-yet:\n写真: {LIT}\n"
        f"twice: {LIT}\ntwice: {RO}",
    )
    assert {name: str(cap) for name, cap in aliases.load(home).items()} == {
        "tahoe": DIR2,
        "spaced": RO,
        "写真": LIT,
        "twice": RO,
    }


def test_an_alias_that_is_not_there_and_one_that_is_no_cap(home: Home) -> None:
    with pytest.raises(NotFound, match="no alias 'x'"):
        aliases.get(home, "x")
    _write(home, "x: URI:DIR2:secret\ny: x-future:secret\n")
    for name in ("x", "y"):
        with pytest.raises(UsageError) as caught:
            aliases.get(home, name)
        assert "secret" not in f"{caught.value.message} {caught.value.hint}"


def test_changes_keep_every_other_line(home: Home) -> None:
    before = f"# mine\n\nold: {DIR2}\nwhat is this\nold : {LIT}\nlast: {LIT}"
    _write(home, before)
    aliases.add(home, "new", caps.parse(RO))
    assert _text(home) == f"{before}\nnew: {RO}\n"
    aliases.rename(home, "old", "older")
    assert _text(home) == f"# mine\n\nolder: {DIR2}\nwhat is this\nolder: {LIT}\nlast: {LIT}\nnew: {RO}\n"
    assert str(aliases.remove(home, "older")) == LIT  # the later line counts
    assert _text(home) == f"# mine\n\nwhat is this\nlast: {LIT}\nnew: {RO}\n"
    assert stat.S_IMODE((home.path / "aliases").stat().st_mode) == 0o600


def test_the_file_is_made_and_may_become_empty(home: Home) -> None:
    aliases.add(home, "a", caps.parse(LIT))
    assert _text(home) == f"a: {LIT}\n"
    aliases.remove(home, "a")
    assert _text(home) == ""
    assert aliases.load(home) == {}


def test_a_name_is_given_once(home: Home) -> None:
    aliases.add(home, "a", caps.parse(LIT))
    aliases.add(home, "b", caps.parse(LIT))
    for change in (
        lambda: aliases.add(home, "a", caps.parse(RO)),
        lambda: aliases.rename(home, "b", "a"),
        lambda: aliases.can_add(home, "a"),
    ):
        with pytest.raises(LafsError, match="already"):
            change()
    aliases.rename(home, "a", "a")
    with pytest.raises(NotFound):
        aliases.rename(home, "c", "d")
    with pytest.raises(NotFound):
        aliases.remove(home, "c")
    assert _text(home) == f"a: {LIT}\nb: {LIT}\n"


@pytest.mark.parametrize("name", ["", "URI", "a:b", "a b", "-a", ".a", "a/b", "写真", "a\n"])
def test_names_that_can_not_be(home: Home, name: str) -> None:
    with pytest.raises(UsageError, match="alias"):
        aliases.add(home, name, caps.parse(LIT))
    with pytest.raises(UsageError, match="alias"):
        aliases.can_add(home, name)


def test_bytes_that_are_no_utf8_survive(home: Home) -> None:
    (home.path / "aliases").write_bytes(b"# caf\xe9\n")
    aliases.add(home, "a", caps.parse(LIT))
    assert (home.path / "aliases").read_bytes() == b"# caf\xe9\na: " + LIT.encode() + b"\n"


# ---- the commands ----


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    """A home without servers."""
    made = Lafs(tmp_path)
    made("init", code=0)
    return made


def test_add_list_rename_remove(lafs: Lafs) -> None:
    added = lafs.json("alias", "add", "docs:", DIR2)
    assert added["aliases"] == [
        {"name": "docs", "kind": "dir2", "writable": True, "ro_uri": RO, "rw_uri": DIR2},
    ]
    assert lafs("add-alias", "note", f"ro.{LIT}", code=0).stdout == b"note: is a file\n"
    listed = lafs.json("list-aliases")["aliases"]
    assert listed[1] == {"name": "note", "kind": "lit", "writable": False, "ro_uri": LIT}
    text = lafs("alias", "list", code=0).stdout.decode()
    assert "URI:" not in text
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["docs:", "dir2", "read-write"],
        ["note:", "lit", "read"],
    ]
    assert DIR2 in lafs("alias", "list", "--uri", code=0).stdout.decode()
    only = lafs("alias", "list", "--readonly-uri", code=0).stdout.decode()
    assert RO in only
    assert DIR2 not in only
    assert [each["name"] for each in lafs.json("alias", "rename", "docs", "papers")["aliases"]] == ["papers", "note"]
    gone = lafs.json("alias", "remove", "papers")
    assert [each["name"] for each in gone["aliases"]] == ["note"]
    assert gone["removed"]["rw_uri"] == DIR2
    assert lafs("alias", "remove", "note", code=0).stdout.decode() == f"note: {LIT}\n"


def test_an_alias_of_a_file_and_of_what_an_alias_says(lafs: Lafs) -> None:
    lafs("alias", "add", "note", LIT, code=0)
    lafs("alias", "add", "same", "note:", code=0)
    assert lafs("cat", "same:", code=0).stdout == b"The end."
    assert lafs("cap", "read", "note:", code=0).stdout.decode().strip() == LIT
    assert b"no 'x' in it" in lafs("cat", "note:x", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["alias", "add", "x", VERIFY], 9, "verify cap"),
        (["alias", "add", "x", "URI:NEW:x"], 2, "does not know"),
        (["alias", "add", "x", "URI:DIR2:x"], 2, "malformed"),
        (["alias", "add", "x", "gone:"], 3, "no alias 'gone'"),
        (["alias", "add", "URI", LIT], 2, "can't be the name"),
        (["alias", "add", "a/b", LIT], 2, "can't be the name"),
        (["alias", "add", "taken", LIT], 1, "already"),
        (["alias", "create", "taken"], 2, "no server"),
        (["alias", "remove", "gone"], 3, "no alias 'gone'"),
        (["alias", "rename", "gone", "b"], 3, "no alias 'gone'"),
        (["alias", "rename", "taken", "?"], 2, "can't be the name"),
        (["ls"], 3, "no alias 'lafs'"),
        (["ls", "a/b"], 3, "no alias 'lafs'"),
        (["ls", ""], 2, "empty"),
        (["get", "gone:x", "y"], 3, "no alias 'gone'"),
        (["alias"], 2, "say what to do"),
    ],
)
def test_refusals(lafs: Lafs, arguments: list[str], code: int, said: str) -> None:
    lafs("alias", "add", "taken", DIR2, code=0)
    done = lafs(*arguments, code=code)
    assert said in done.stderr.decode().splitlines()[0]
    assert done.stdout == b""
    assert "URI:" not in done.stderr.decode().replace("not URI", "").replace("URI:DIR2:", "")


def test_no_cap_of_an_alias_is_in_errors_or_logs(lafs: Lafs) -> None:
    secret = DIR2.split(":")[2]
    lafs("alias", "add", "a", DIR2, code=0)
    for arguments in (
        ["ls", "a:x"],
        ["get", "a:x", "out"],
        ["rm", "a:x"],
        ["rm", "a:"],
        ["mkdir", "a:b"],
        ["-v", "ls", "a:"],
    ):
        done = lafs(*arguments, "--log-file", "log")
        assert done.returncode != 0
        assert secret not in (done.stdout + done.stderr).decode()
    log = (lafs.folder / "log").read_text()
    assert secret not in log
    assert "hncpinwszbgg" not in log


def test_the_default_alias_is_configured(lafs: Lafs) -> None:
    config = lafs.home / "config.toml"
    before = config.read_text()
    config.write_text(f'default-alias = "mine"\n{before}')
    assert b"no alias 'mine'" in lafs("ls", code=3).stderr
    lafs("alias", "add", "mine", "URI:DIR2-LIT:gi4tumj2piwdcmz2kvjesosmjfkdu3tsov4gslbqhiwdeot3puwcy", code=0)
    assert lafs("ls", code=0).stdout == b"z\n"
    assert lafs("cat", "z", code=0).stdout == lafs("cat", "mine:z", code=0).stdout != b""
    config.write_text(f'default-alias = "a:b"\n{before}')
    assert b"default-alias" in lafs("ls", code=2).stderr


def test_aliases_of_a_tahoe_node(tmp_path: Path) -> None:
    node = tmp_path / "node"
    (node / "private").mkdir(parents=True)
    (node / "tahoe.cfg").write_text("[client]\nshares.needed = 2\n")
    (node / "private" / "aliases").write_text(f"# of a node\nwork: {RO}")
    (node / "private" / "root_dir.cap").write_text(f"{DIR2}\n")
    lafs = Lafs(tmp_path / "one")
    lafs("init", "--from-tahoe", node, code=0)
    assert (lafs.home / "aliases").read_text() == f"# of a node\nwork: {RO}\ntahoe: {DIR2}\n"
    assert stat.S_IMODE((lafs.home / "aliases").stat().st_mode) == 0o600
    assert b"no server is configured" in lafs("ls", "x", code=2).stderr  # below tahoe:, as there
    (node / "private" / "aliases").write_text(f"tahoe: {RO}\nlafs: {LIT}\n")
    lafs = Lafs(tmp_path / "two")
    lafs("init", "--from-tahoe", node, code=0)
    assert (lafs.home / "aliases").read_text() == f"tahoe: {RO}\nlafs: {LIT}\n"
    assert lafs("cat", "lafs:", code=0).stdout == b"The end."
    assert "default-alias" not in (lafs.home / "config.toml").read_text()


def test_malformed_cap_is_a_usage_error() -> None:
    assert issubclass(MalformedCap, UsageError)
