"""Home, config.toml, secrets, server records (CLI.md §3)."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafscli.config import secrets
from lafscli.config.home import Home, write_atomically
from lafscli.config.quantities import parse_duration, parse_size, parse_switch
from lafscli.config.servers import Address, ServerRecord, parse_options
from lafscli.config.settings import Config, encoding_table, write_table
from lafscli.errors import LafsError, UsageError
from lafscli.placement import Encoding
from lafscli.primitives.encoding import b32encode

NODE = b32encode(bytes(range(20)))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with a configuration and no secrets."""
    found = Home.find(str(tmp_path / "home"))
    found.make()
    write_table(found, {"encoding": encoding_table(Encoding())})
    return found


def _server(**more: object) -> dict[str, object]:
    return {"url": "sftp://blue/srv/grid", "node-id": NODE, "permutation-seed": NODE} | more


# ---- quantities


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("1K", 1024),
        ("3M", 3 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
        ("5kB", 5000),
        ("5MB", 5 * 10**6),
        ("1GB", 10**9),
        ("1TB", 10**12),
        ("7B", 7),
    ],
)
def test_size(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "K", "-1", "1.5M", "1 K", "1KB", "1k", "1m", "٣", "1e3", "+1", "1_000", "9" * 30])
def test_not_a_size(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "value"), [("30s", 30), ("10m", 600), ("12h", 43200), ("14d", 14 * 86400), ("6w", 6 * 604800), ("0s", 0)]
)
def test_duration(text: str, value: int) -> None:
    assert parse_duration(text) == value


@pytest.mark.parametrize("text", ["", "30", "s", "1.5h", "-1s", "1y", "1S", "1h30m", " 1s"])
def test_not_a_duration(text: str) -> None:
    with pytest.raises(UsageError):
        parse_duration(text)


def test_switch() -> None:
    assert [parse_switch(text) for text in ("1", "yes", "TRUE", "on")] == [True] * 4
    assert [parse_switch(text) for text in ("0", "no", "false", "off", "")] == [False] * 5
    with pytest.raises(UsageError):
        parse_switch("perhaps")


# ---- addresses


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("sftp://blue/srv/grid", Address("blue", "/srv/grid")),
        ("sftp://me@blue:2222/srv/grid/", Address("blue", "/srv/grid", "me", 2222)),
        ("sftp://blue/~/grid", Address("blue", "grid")),
        ("sftp://blue/~", Address("blue", ".")),
        ("sftp://blue/~/", Address("blue", ".")),
        ("sftp://blue/", Address("blue", "/")),
        ("sftp://blue/~other/grid", Address("blue", "/~other/grid")),
        ("sftp://[::1]:22/srv", Address("::1", "/srv", None, 22)),
        ("sftp://fe80::1/srv", Address("fe80::1", "/srv")),
        ("sftp://blue/a%20b%25", Address("blue", "/a b%")),
        ("sftp://blue/gr%C3%BCn", Address("blue", "/grün")),
        ("file:///srv/grid", Address(None, "/srv/grid")),
        ("file://localhost/srv/grid", Address(None, "/srv/grid")),
    ],
)
def test_address(url: str, address: Address) -> None:
    assert Address.parse(url) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "url",
    [
        "blue:/srv",
        "http://blue/srv",
        "sftp://blue",
        "sftp:///srv",
        "sftp://-oProxyCommand=x/srv",
        "sftp://-blue/srv",
        "sftp://-me@blue/srv",
        "sftp://@blue/srv",
        "sftp://me:secret@blue/srv",
        "sftp://blue;rm/srv",
        "sftp://blu e/srv",
        "sftp://blue:0/srv",
        "sftp://blue:65536/srv",
        "sftp://blue:x/srv",
        "sftp://blue/srv?x",
        "sftp://blue/srv#x",
        "sftp://blue/a%2",
        "sftp://blue/a%00b",
        "sftp://blue/../etc",
        "sftp://blue/~/a/../../b",
        "sftp://blüe/srv",
        "sftp://blue%2d/srv",
        "file://blue/srv",
        "file:srv",
    ],
)
def test_not_an_address(url: str) -> None:
    with pytest.raises(UsageError):
        Address.parse(url)


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_any_path_survives_a_url(path: str) -> None:
    """Whatever an absolute path contains, its URL leads back to it."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    address = Address("blue", "/" + "/".join(parts))
    assert Address.parse(str(address)) == address


# ---- records


def test_record_survives_the_file(home: Home) -> None:
    options = parse_options(["ssh-option=A=1", "transport=ssh", "ssh-option=B=2", "timeout=9s"])
    record = ServerRecord(
        "blue", "sftp://blue/~/x", b"n" * 20, b"seed", True, "cellar", options, frozenset({"hardlink"})
    )
    config = Config.load(home).edit(lambda table: table.setdefault("servers", {}).update(blue=record.table()))
    assert config.servers == {"blue": record}
    assert Config.load(home).servers == {"blue": record}
    assert record.options["timeout"] == "9s"
    assert config.writable == []


@pytest.mark.parametrize(
    "change",
    [
        {"url": "ftp://x/y"},
        {"url": 3},
        {"node-id": NODE[:-2]},
        {"node-id": "!"},
        {"permutation-seed": "1"},
        {"readonly": "yes"},
        {"site": 1},
        {"options": {"no-such": "x"}},
        {"options": {"timeout": "soon"}},
        {"options": {"timeout": "0s"}},
        {"options": {"transport": "telnet"}},
        {"options": {"persist": "30"}},
        {"options": {"mutable": "maybe"}},
        {"options": {"ssh-option": "NoValue"}},
        {"options": {"ssh-command": "a\nb"}},
        {"features": "x"},
    ],
)
def test_bad_record_names_the_server(home: Home, change: dict[str, object]) -> None:
    write_table(home, {"servers": {"blue": _server(**change)}})
    with pytest.raises(UsageError, match="blue"):
        Config.load(home)


@pytest.mark.parametrize("name", ["-x", "", "a/b", "a b", ".x", "x" * 65, "é"])
def test_bad_server_name(home: Home, name: str) -> None:
    write_table(home, {"servers": {name: _server()}})
    with pytest.raises(UsageError, match="not a name"):
        Config.load(home)


def test_files_among_options_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_options(["ssh-config=etc/conf"]) == {"ssh-config": str(tmp_path / "etc/conf")}


@pytest.mark.parametrize("pair", ["timeout", "=x", "port=22", "identity="])
def test_bad_option(pair: str) -> None:
    with pytest.raises(UsageError):
        parse_options([pair])


# ---- the file


def test_unknown_keys_are_kept(home: Home) -> None:
    write_table(home, {"future": {"a": [1, 2]}, "encoding": {"k": 1, "happy": 1, "n": 1, "colour": "red"}})
    config = Config.load(home).edit(lambda table: table.update(durability="none"))
    assert not config.durable
    table = tomllib.loads(home.config_file.read_text())
    assert table["future"] == {"a": [1, 2]}
    assert table["encoding"]["colour"] == "red"


@pytest.mark.parametrize(
    "text",
    [
        "x =",
        "servers = 3",
        "[servers]\nblue = 1",
        "durability = 'half'",
        "persist = 30",
        "persist = 'x'",
        "encoding = 1",
        "[encoding]\nk = 4\nn = 3",
        "[encoding]\nk = true",
        "[encoding]\nsegment-size = '1X'",
        "ÿ",
    ],
)
def test_unreadable_configuration_is_a_usage_error_that_names_the_file(home: Home, text: str) -> None:
    home.config_file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"config\.toml"):
        Config.load(home)


def test_no_home(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no home") as caught:
        Config.load(Home.find(str(tmp_path)))
    assert caught.value.hint is not None
    assert "lafs init" in caught.value.hint


def test_bad_edit_changes_nothing(home: Home) -> None:
    before = home.config_file.read_bytes()
    with pytest.raises(UsageError):
        Config.load(home).edit(lambda table: table.update(durability="half"))
    assert home.config_file.read_bytes() == before


def test_edits_of_many_processes_all_last(home: Home) -> None:
    """Two `server add` at once must not lose one."""
    program = (
        "import sys\n"
        "from lafscli.config.home import Home\n"
        "from lafscli.config.settings import Config\n"
        "home, me = Home.find(sys.argv[1]), sys.argv[2]\n"
        "for i in range(10):\n"
        "    Config.load(home).edit(lambda t: t.setdefault('seen', []).append(f'{me}.{i}'))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(home.path), str(each)]) for each in range(4)]
    assert [each.wait() for each in running] == [0] * 4
    assert len(set(Config.load(home).table["seen"])) == 40
    assert not [each for each in home.path.iterdir() if each.name.startswith(".config")]


def test_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "inside").touch()
    with pytest.raises(LafsError):
        write_atomically(target, b"x")
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


# ---- the folder


def test_default_home_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/h")
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    found = Home.find(None)
    assert found == Home(Path("/h/.config/lafs"), Path("/h/.local/state/lafs"), Path("/h/.local/share/lafs"))
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute")
    assert (Home.find(None).path, Home.find(None).state) == (Path("/c/lafs"), Path("/h/.local/state/lafs"))
    named = Home.find(str(tmp_path))
    assert (named.path, named.state, named.data) == (tmp_path, tmp_path / "state", tmp_path)


def test_home_and_secrets_are_private(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        home = Home.find(str(tmp_path / "a" / "home"))
        home.make()
        secrets.make_missing(home, os.urandom, {})
        write_table(home, {})
    finally:
        os.umask(old)
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    for name in ("aliases", "convergence", "secret", "pins", "config.toml"):
        assert stat.S_IMODE((home.path / name).stat().st_mode) == 0o600
    assert home.examine() == []


def test_readable_secret_is_a_warning_and_writable_home_is_refused(home: Home) -> None:
    secrets.make_missing(home, os.urandom, {})
    (home.path / "secret").chmod(0o640)
    [warning] = home.examine()
    assert "secret" in warning
    assert "chmod 600" in warning
    home.path.chmod(0o770)
    with pytest.raises(UsageError, match="others may write"):
        home.examine()


def test_runtime_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Home) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert home.runtime() == tmp_path / "lafs"
    assert stat.S_IMODE((tmp_path / "lafs").stat().st_mode) == 0o700
    (tmp_path / "lafs").chmod(0o777)
    home.runtime()
    assert stat.S_IMODE((tmp_path / "lafs").stat().st_mode) == 0o700
    (tmp_path / "lafs").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "lafs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="not a folder of yours"):
        home.runtime()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_runtime_folder_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Home) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "lafs").mkdir(0o700)
    os.chown(tmp_path / "lafs", 12345, 12345)
    with pytest.raises(UsageError, match="not a folder of yours"):
        home.runtime()


# ---- secrets


def test_secrets_are_made_once(home: Home) -> None:
    assert secrets.make_missing(home, os.urandom, {}) == ["convergence", "secret", "aliases", "pins"]
    first = secrets.convergence(home), secrets.lease_secret(home)
    assert [len(each) for each in first] == [32, 32]
    (home.path / "pins").write_text("URI:LIT:\n")
    assert secrets.make_missing(home, os.urandom, {}) == []
    assert (secrets.convergence(home), secrets.lease_secret(home)) == first
    assert (home.path / "pins").read_text() == "URI:LIT:\n"


def test_missing_and_broken_secret(home: Home) -> None:
    with pytest.raises(UsageError, match="there is no"):
        secrets.convergence(home)
    (home.path / "convergence").write_text("not base32!\n")
    with pytest.raises(UsageError) as caught:
        secrets.convergence(home)
    assert "not base32!" not in caught.value.message


@pytest.mark.parametrize("name", ["convergence", "secret"])
@pytest.mark.parametrize("text", ["", "\n", "  \n", "#\n"])
def test_truncated_secret_is_refused(home: Home, name: str, text: str) -> None:
    """It is not taken for a secret of no bytes: caps and lease secrets would silently be others."""
    secrets.make_missing(home, os.urandom, {})
    (home.path / name).write_text(text)
    with pytest.raises(UsageError, match=str(home.path / name)) as caught:
        secrets.convergence(home) if name == "convergence" else secrets.lease_secret(home)
    assert caught.value.hint is not None
    assert "copy" in caught.value.hint
    assert secrets.make_missing(home, os.urandom, {}) == []


@pytest.mark.parametrize("length", [1, 31, 33])
def test_lease_secret_of_another_length_is_refused(home: Home, length: int) -> None:
    (home.path / "secret").write_text(b32encode(bytes(length)) + "\n")
    with pytest.raises(UsageError, match=f"{length} bytes, not 32"):
        secrets.lease_secret(home)


@pytest.mark.parametrize("text", ["", "\n"])
def test_empty_convergence_secret_of_tahoe_is_written_so_that_it_is_meant(
    tmp_path: Path, home: Home, text: str
) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "tahoe.cfg").write_text("[client]\n")
    (tmp_path / "private" / "convergence").write_text(text)
    given = secrets.TahoeNode(tmp_path).secrets()
    assert given["convergence"] == b""
    secrets.make_missing(home, os.urandom, given)
    assert (home.path / "convergence").read_text() == "# empty\n"
    assert secrets.convergence(home) == b""


def test_empty_lease_secret_of_tahoe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "tahoe.cfg").write_text("[client]\n")
    (tmp_path / "private" / "secret").write_text("\n")
    with pytest.raises(UsageError, match="0 bytes, not 32"):
        secrets.TahoeNode(tmp_path).secrets()


def test_pins(home: Home) -> None:
    secrets.make_missing(home, os.urandom, {})
    for cap in ("URI:LIT:aa", "URI:LIT:ab", "URI:LIT:aa", "URI:LIT:a"):
        secrets.pin(home, cap)
    assert (home.path / "pins").read_text().splitlines() == ["URI:LIT:aa", "URI:LIT:ab", "URI:LIT:a"]
    assert stat.S_IMODE((home.path / "pins").stat().st_mode) == 0o600


def test_pin_after_a_torn_line(home: Home) -> None:
    (home.path / "pins").write_text("URI:LIT:aa\nURI:LI")
    secrets.pin(home, "URI:LIT:ab")
    assert (home.path / "pins").read_text().splitlines() == ["URI:LIT:aa", "URI:LI", "URI:LIT:ab"]


def test_pins_of_many_processes(home: Home) -> None:
    secrets.make_missing(home, os.urandom, {})
    program = (
        "import sys\n"
        "from lafscli.config import secrets\n"
        "from lafscli.config.home import Home\n"
        "for i in range(20):\n"
        "    secrets.pin(Home.find(sys.argv[1]), f'URI:{i}')\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(home.path)]) for _ in range(3)]
    assert [each.wait() for each in running] == [0] * 3
    assert sorted((home.path / "pins").read_text().split()) == sorted(f"URI:{i}" for i in range(20))


def test_tahoe_node(tmp_path: Path, home: Home) -> None:
    (tmp_path / "private").mkdir()
    (tmp_path / "tahoe.cfg").write_text("[client]\nshares.needed = 2\nshares.total = 5\nnickname = 100%\n[node]\n")
    (tmp_path / "private" / "convergence").write_text(b32encode(b"any length at all") + "\n")
    (tmp_path / "private" / "secret").write_text(b32encode(b"s" * 32) + "\n")
    (tmp_path / "private" / "aliases").write_text("home: URI:DIR2:x\n")
    node = secrets.TahoeNode(tmp_path)
    assert node.encoding() == (2, 7, 5)
    secrets.make_missing(home, os.urandom, node.secrets())
    assert secrets.convergence(home) == b"any length at all"
    assert secrets.lease_secret(home) == b"s" * 32
    assert (home.path / "aliases").read_text() == "home: URI:DIR2:x\n"
    assert stat.S_IMODE((home.path / "aliases").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match=r"tahoe\.cfg"):
        secrets.TahoeNode(tmp_path / "private")


@pytest.mark.parametrize(("text", "seconds"), [("", 20), ("lock-seconds = 1", 1), ('lock-seconds = "2m"', 120)])
def test_lock_seconds(tmp_path: Path, text: str, seconds: int) -> None:
    home = Home(tmp_path, tmp_path / "state", tmp_path)
    home.config_file.write_text(text)
    assert Config.load(home).lock_seconds == seconds


@pytest.mark.parametrize("value", ["0", "-5", "true", "1.5", '"soon"'])
def test_lock_seconds_that_can_t_be(tmp_path: Path, value: str) -> None:
    home = Home(tmp_path, tmp_path / "state", tmp_path)
    home.config_file.write_text(f"lock-seconds = {value}")
    with pytest.raises(UsageError):
        Config.load(home)
