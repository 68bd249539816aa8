"""recovery export, recovery import: a home that comes back from a kit alone, or from one server (CLI.md §3)."""

from __future__ import annotations

import json
import os
import pty
import shutil
import stat
import subprocess
import termios
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from lafscli.client.joining import exported, resolved
from lafscli.config.home import Home
from lafscli.config.settings import Config
from lafscli.recovery.homes import kit_of
from lafscli.recovery.sealed import LEAST_KIBIBYTES, Cost, SealedKit, prepared, seal
from tests.conftest import Mount
from tests.lafs_process import PROGRAM, Lafs
from tests.sshd import SshServers

EXPORT = ("recovery", "export", "--memory", "8M")
WORD = "zażółć gęślą jaźń 鍵"


def _lafs(folder: Path) -> Lafs:
    made = Lafs(folder)
    (folder / "word").write_text(WORD + "\n")
    return made


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    return _lafs(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a home with two servers, an alias and a pin."""
    lafs = _lafs(tmp_path_factory.mktemp("made"))
    (lafs.folder / "x").write_bytes(b"hi")
    lines = "".join(f"server add n{i} file://{lafs.folder}/servers/n{i}\n" for i in range(2))
    lafs("init", "--encoding", "1/2/2", code=0)
    lafs("batch", input=f"{lines}alias create docs\nput x\n".encode(), code=0)
    return lafs.folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Lafs:
    """A copy of it, servers and all."""
    folder = tmp_path / "copy"
    shutil.copytree(made, folder, symlinks=True)
    config = folder / "home/config.toml"
    config.write_text(config.read_text().replace(str(made), str(folder)))
    return Lafs(folder)


def _add(lafs: Lafs, count: int) -> None:
    lines = "".join(f"server add n{i} file://{lafs.folder}/servers/n{i}\n" for i in range(count))
    lafs("batch", input=lines.encode(), code=0)


def _cheap(lafs: Lafs, word: str = WORD) -> bytes:
    """The kit that an export would write, but for what a guess at its passphrase costs."""
    config = Config.load(Home.find(str(lafs.home)))
    kit = kit_of(config, exported(config, resolved(config), lambda _: None, own=True), {}, time.time())
    return seal(kit.serialise(), prepared(word), os.urandom, cost=Cost(1, LEAST_KIBIBYTES)).serialise()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def _secrets(home: Path) -> dict[str, bytes]:
    return {name: (home / name).read_bytes() for name in ("aliases", "convergence", "secret", "pins")}


def _import(lafs: Lafs, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[bytes]:
    return lafs("recovery", "import", *arguments, "--passphrase-file", "word", code=code)


def _refused(lafs: Lafs, home: str, *lines: str) -> list[tuple[int, str, bool]]:
    """Code and message of each of these lines of a batch, all of which must fail, and whether there is a hint."""
    done = lafs("--home", home, "--json", "batch", input="".join(f"{line}\n" for line in lines).encode())
    errors = [json.loads(line)["error"] for line in done.stdout.splitlines()]
    return [(error["code"], error["message"], "hint" in error) for error in errors]


# ---- the story


def _fill(lafs: Lafs) -> tuple[dict[str, bytes], str]:
    """Two aliases with files in them, and a file that only a pin has; what `cat` of each must give, and its cap."""
    contents = {"docs:a/b": os.urandom(3000), "docs:c": b"short", "more:d": os.urandom(70_000)}
    lines = ["alias create docs", "alias create more"]
    for number, (path, content) in enumerate(contents.items()):
        (lafs.folder / f"f{number}").write_bytes(content)
        lines.append(f"put f{number} {path}")
    lafs("batch", input="".join(f"{line}\n" for line in lines).encode(), code=0)
    (lafs.folder / "loose").write_bytes(os.urandom(900))
    cap = lafs("put", "loose", code=0).stdout.decode().strip()
    contents[cap] = (lafs.folder / "loose").read_bytes()
    return contents, cap


def _all_there(lafs: Lafs, contents: dict[str, bytes], cap: str) -> None:
    lines = b"alias list --json\nls docs: --json\nput loose --json\nput loose more:new --json\n"
    documents = [json.loads(line) for line in lafs("batch", input=lines, code=0).stdout.splitlines()]
    aliases, listing, put, linked = documents
    assert [each["name"] for each in aliases["aliases"]] == ["docs", "more"]
    assert [each["name"] for each in listing["entries"]] == ["a", "c"]
    assert {put["cap"], linked["cap"]} == {cap}  # the convergence secret is the same
    assert lafs("cat", *contents, code=0).stdout == b"".join(contents.values())


@pytest.mark.parametrize("remote", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_home_comes_back_from_a_kit_alone_or_from_one_server(
    short_tmp: Path, start_servers: Callable[..., SshServers], remote: int
) -> None:
    """Ten servers here, and some sshd. The kit, a passphrase and an ssh_config of the new machine are all it takes."""
    lafs = _lafs(short_tmp)
    lafs.variables["LAFS_HOME"] = ""  # the default home, whose servers stand elsewhere
    home, state = short_tmp / ".config/lafs", short_tmp / ".local/state/lafs"
    servers = start_servers(remote)
    lafs("init", "--local", code=0)
    lafs.add_servers(servers, "timeout=50s")
    contents, cap = _fill(lafs)
    before = _secrets(home)
    table = tomllib.loads((home / "config.toml").read_text())
    answer = lafs.json(*EXPORT, "home.kit", "--on-servers", "--passphrase-file", "word")
    assert (len(answer["servers"]), answer["aliases"], answer["pins"]) == (10 + remote, 2, 1)
    [name] = {each["kit"] for each in answer["on_servers"]}
    assert len(answer["on_servers"]) == 10 + remote
    kit = (short_tmp / "home.kit").read_bytes()
    assert answer["size"] == len(kit)
    here = [short_tmp / f".local/share/lafs/grid/local{i}" for i in range(10)]
    for folder in [*here, *(servers.root(i) for i in range(remote))]:
        assert (folder / f"recovery/{name}.kit").read_bytes() == kit
        assert list((folder / "staging").iterdir()) == []

    for way, source in (("file", ["home.kit"]), ("server", ["--from", servers.url(remote - 1)])):
        shutil.rmtree(home)
        shutil.rmtree(state)
        option = ["--option", f"ssh-config={servers.config}"]
        answer = lafs.json("recovery", "import", *source, "--passphrase-file", "word", *option)
        assert (answer["aliases"], answer["pins"], answer["gc_adopted"]) == (2, 1, False)
        assert answer.get("kit") == (name if way == "server" else None)
        told = {each["name"]: each for each in answer["servers"]}
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        urls = [f"sftp://{user}@127.0.0.1:{servers.port(i)}{servers.root(i)}" for i in range(remote)]
        commands = [f"ssh-copy-id -p {servers.port(i)} {user}@127.0.0.1" for i in range(remote)]
        if way == "server":  # it is called as it was just found
            urls[-1], commands[-1] = servers.url(remote - 1), f"ssh-copy-id {servers.name(remote - 1)}"
        assert [told[servers.name(i)]["url"] for i in range(remote)] == urls
        assert [told[servers.name(i)]["authorise"] for i in range(remote)] == commands
        assert "authorise" not in told["local0"]
        assert _secrets(home) == before
        assert (state / "gc-not-adopted").read_bytes() == b""
        assert home.stat().st_mode & 0o777 == 0o700
        files = [home / name for name in (*_secrets(home), "config.toml", "known_hosts")]
        for file in (*files, state / "gc-not-adopted", state / "recovery-kit"):
            assert file.stat().st_mode & 0o777 == 0o600, file
        now = tomllib.loads((home / "config.toml").read_text())
        assert (now["grid"], now["encoding"]) == (table["grid"], table["encoding"])
        assert now["servers"]["s0"]["options"] == {"timeout": "50s", "ssh-config": str(servers.config)}
        assert "options" not in now["servers"]["local0"]
        assert len((home / "known_hosts").read_text().splitlines()) == remote
        _all_there(lafs, contents, cap)


def test_a_server_is_started_from_as_it_is_added(short_tmp: Path, ssh_server: SshServers) -> None:
    """Unknown host keys are refused, and accepted when asked; nothing is made before the kit is there."""
    lafs = _lafs(short_tmp)
    source = ["--from", ssh_server.url(0), "--option", f"ssh-config={ssh_server.config}", "--option", "persist=off"]
    said = _import(lafs, *source, code=3).stderr.decode()
    assert f"no recovery kit lies at {ssh_server.url(0)}" in said
    assert not lafs.home.exists()

    lafs("init", "--encoding", "1/1/1", code=0)
    lafs.add_servers(ssh_server, "persist=off")
    (ssh_server.root(0) / "recovery").mkdir()
    kit = _cheap(lafs)
    (ssh_server.root(0) / f"recovery/{'a' * 16}.1.kit").write_bytes(kit)
    shutil.rmtree(lafs.home)
    known = ssh_server.known_hosts.read_text()
    ssh_server.known_hosts.write_text("")
    said = _import(lafs, *source, code=8).stderr.decode()
    assert "the host key of s0 is not known: it shows ssh-ed25519 SHA256:" in said
    assert "`lafs recovery import … --accept-new`" in said
    assert not lafs.home.exists()
    (ssh_server.root(0) / f"recovery/{'b' * 16}.1.kit").write_bytes(kit + bytes(3_000_000))
    assert "damaged" in _import(lafs, *source, "--accept-new", "--kit", f"{'b' * 16}.1", code=1).stderr.decode()
    answer = _import(lafs, *source, "--kit", "a" * 16)
    assert b"s0  ssh-copy-id s0\n" in answer.stdout  # by the name in the command, which the user's ssh knows
    assert known.split()[2] in (lafs.home / "known_hosts").read_text()
    assert lafs.json("server", "status")["servers"][0]["reachable"]


def test_a_silent_server_gets_no_kit_and_is_named(home: Lafs) -> None:
    shutil.move(home.folder / "servers/n1", home.folder / "away")
    done = home(*EXPORT, "k", "--on-servers", "--passphrase-file", "word", code=11)
    assert b"server n1: the kit is not there: " in done.stderr
    assert done.stdout.decode().splitlines() == [
        "wrote k: 2 servers, 1 alias, 1 pin",
        "left on 1 server, not on 1",
    ]
    assert len(list((home.folder / "servers").glob("*/recovery/*.kit"))) == 1
    assert SealedKit.parse((home.folder / "k").read_bytes()).open(prepared(WORD))
    assert home(*EXPORT, "-", "--json", "--passphrase-file", "word", code=2).stdout.count(b"\n") == 1


# ---- export


def test_a_file_that_is_there_is_not_replaced(home: Lafs) -> None:
    """And is refused before anything is asked for."""
    (home.folder / "k").write_bytes(b"old")
    (home.folder / "link").symlink_to("k")
    (home.folder / "folder").mkdir()
    export, word = " ".join(EXPORT), "--passphrase-file word"
    lines = [f"{export} {name}" for name in ("k", "link", "folder", "/dev/null --force")]
    lines += [f"{export} nowhere/k {word}", *(f"recovery export new --memory {size} {word}" for size in ("7M", "2G"))]
    refused = _refused(home, "home", *lines)
    assert [code for code, _, _ in refused] == [2, 2, 2, 2, 1, 2, 2]
    assert not any("terminal" in message for _, message, _ in refused)
    assert [message.split()[0] for _, message, _ in refused[:4]] == ["k", "link", "folder", "/dev/null"]
    assert (home.folder / "k").read_bytes() == b"old"
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    old = os.umask(0)
    try:
        home(*EXPORT, "k", "--force", "--passphrase-file", "word", code=0)
    finally:
        os.umask(old)
    assert (home.folder / "k").stat().st_mode & 0o777 == 0o600
    assert SealedKit.parse((home.folder / "k").read_bytes()).cost == Cost(4, 8 * 1024)
    home("recovery", "export", "default", "--passphrase-file", "word", code=0)
    assert SealedKit.parse((home.folder / "default").read_bytes()).cost == Cost(4, 256 * 1024)


def test_a_full_disk_leaves_the_old_kit_or_none(home: Lafs, mount: Mount) -> None:
    full = home.folder / "full"
    mount(full, "size=8k")
    (full / "k").write_bytes(b"old")
    for number in range(4):
        (full / f"filler{number}").touch()
        try:
            (full / f"filler{number}").write_bytes(bytes(4096))
        except OSError:
            break
    before = sorted(each.name for each in full.iterdir())
    done = home(*EXPORT, full / "k", "--force", "--passphrase-file", "word", code=1)
    assert b"no space left" in done.stderr.lower()
    assert (full / "k").read_bytes() == b"old"
    home(*EXPORT, full / "new", "--passphrase-file", "word", code=1)
    assert sorted(each.name for each in full.iterdir()) == before


def test_a_passphrase_that_is_none(home: Lafs) -> None:
    (home.folder / "k").write_bytes(_cheap(home))
    (home.folder / "huge").touch()
    os.truncate(home.folder / "huge", 1 << 40)
    (home.folder / "second").write_bytes(b"\nsecond line\n")
    files = ("huge", "second", "nowhere", ".")
    for command in ("recovery import k", " ".join((*EXPORT, "new"))):
        where = "h" if "import" in command else "home"
        lines = [command, *(f"{command} --passphrase-file {file}" for file in files)]
        refused = _refused(home, where, *lines)
        assert [code for code, _, _ in refused] == [2, 2, 2, 3, 1]
        for (_, message, _), said in zip(refused, ("no terminal", "longer than 4096", "an empty"), strict=False):
            assert said in message
    assert not (home.folder / "new").exists()
    assert not (home.folder / "h").exists()


def test_where_a_passphrase_comes_from(home: Lafs) -> None:
    """The first line of a file or of stdin, as it is typed or as an editor of another system writes it; no argument."""
    (home.folder / "k").write_bytes(_cheap(home))
    words = ["recovery", "import", "k", "--passphrase-file"]
    (home.folder / "file").write_text(f"\ufeff{WORD}\r\nmore\n", newline="")
    home("--home", "a", *words, "file", code=0)
    home("--home", "b", *words, "-", input=WORD.encode(), code=0)
    home("--home", "c", "recovery", "import", "-", "--passphrase-file", "word", input=_cheap(home), code=0)
    done = home("--home", "d", "recovery", "import", "-", "--passphrase-file", "-", input=_cheap(home), code=2)
    assert b"read already" in done.stderr
    done = home("--home", "d", *words, "-", input=b" \r\n", code=2)
    assert b"an empty passphrase" in done.stderr
    assert not (home.folder / "d").exists()


def _typed(lafs: Lafs, answers: list[str], *arguments: str | Path) -> tuple[int, str]:
    """Run lafs on a terminal of its own, and type an answer to each prompt, once it shows nothing of what is typed."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover
        os.chdir(lafs.folder)
        os.execve(PROGRAM[0], [*PROGRAM, *map(str, arguments)], lafs.environment())
    shown, left = b"", list(answers)
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
            if left and shown.endswith(b": ") and not termios.tcgetattr(terminal)[3] & termios.ECHO:
                os.write(terminal, left.pop(0).encode() + b"\n")
    except OSError:  # Linux says EIO at the end
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_a_passphrase_is_typed_twice_without_echo(home: Lafs) -> None:
    code, shown = _typed(home, [WORD, WORD], *EXPORT, "k")
    assert (code, shown.count("Passphrase"), shown.count("Once more")) == (0, 1, 1)
    assert WORD.split()[0] not in shown
    assert SealedKit.parse((home.folder / "k").read_bytes()).open(prepared(WORD))


@pytest.mark.slow
def test_what_is_typed_wrongly_makes_nothing(home: Lafs) -> None:
    for answers, said in ((["  "], "empty passphrase"), ([WORD, WORD + "x"], "two different passphrases")):
        code, shown = _typed(home, answers, *EXPORT, "k")
        assert (code, said in shown, (home.folder / "k").exists()) == (2, True, False)
    (home.folder / "k").write_bytes(_cheap(home))
    for answer, wanted in (("elsewhere", 2), (WORD, 0)):
        code, shown = _typed(home, [answer], "--home", "h", "recovery", "import", "k")
        assert (code, answer in shown) == (wanted, False)
    assert _secrets(home.folder / "h") == _secrets(home.home)


# ---- import


def test_kits_that_do_not_open_make_nothing(home: Lafs) -> None:
    good = _cheap(home)
    half = len(good) // 2
    kits = {
        "empty": (b"", 2, "nothing in it"),
        "other": (b"lafs-grid = 1\n", 2, "not a recovery kit"),
        "short": (good[:half], 1, "damaged"),
        "flipped": (good[:half] + bytes([good[half] ^ 1]) + good[half + 1 :], 1, "damaged"),
        "wrong": (_cheap(home, "another one"), 2, "the passphrase does not open"),
    }
    for name, (content, _, _) in kits.items():
        (home.folder / name).write_bytes(content)
    refused = _refused(home, "h", *(f"recovery import {name} --passphrase-file word" for name in kits))
    for (code, message, hint), (_, wanted, said) in zip(refused, kits.values(), strict=True):
        assert (code, said in message, hint) == (wanted, True, True)
    lines = ["", "x --from file:///x", "wrong --kit x", "wrong --accept-new", "nowhere", ".", "--from file:///nowhere"]
    refused = _refused(home, "h", *(f"recovery import {line} --passphrase-file word" for line in lines))
    assert [code for code, _, _ in refused] == [2, 2, 2, 2, 3, 1, 3]
    assert not (home.folder / "h").exists()


def test_a_home_in_use_stays_as_it_is(home: Lafs) -> None:
    (home.folder / "k").write_bytes(_cheap(home))
    before = _files(home.home)
    done = home("recovery", "import", "k", code=2)  # refused before the passphrase is asked for
    assert b"its 2 servers, 1 alias and 1 pin would be lost" in done.stderr
    assert _files(home.home) == before
    other = home.folder / "other"
    for file, content in (
        ("aliases", b"mine: URI:LIT:nbuqu\n"),
        ("pins", b"URI:LIT:nbuqm\n"),
        ("aliases", b"# mine\n"),
    ):
        other.mkdir(mode=0o700)
        (other / file).write_bytes(content)  # a home that lost its configuration
        done = _import(home, "--home", "other", "k", code=2)
        assert b"would be lost" in done.stderr
        assert {name: data for name, data in _files(other).items() if name != ".lock"} == {file: content}
        shutil.rmtree(other)
    other.mkdir()
    (other / "config.toml").write_text("[")
    _import(home, "--home", "other", "k", code=2)
    assert list(_files(other)) == ["config.toml"]


def test_a_home_that_nobody_used_is_taken(home: Lafs) -> None:
    """What init made; its secrets stay beside the new ones."""
    (home.folder / "k").write_bytes(_cheap(home))
    home("--home", "h", "init", "--encoding", "2/3/4", code=0)
    old = _secrets(home.folder / "h")
    [(code, message, _)] = _refused(home, "h", "recovery export new --on-servers --passphrase-file word")
    assert (code, message, (home.folder / "new").exists()) == (2, "no server is configured", False)
    done = _import(home, "--home", "h", "k")
    assert done.stderr.count(b"was kept as") == 2
    assert _secrets(home.folder / "h") == _secrets(home.home)
    assert (home.folder / "h/convergence.old1").read_bytes() == old["convergence"]
    assert (home.folder / "h/secret.old1").read_bytes() == old["secret"]
    assert home.json("--home", "h", "encoding")["n"] == 2


def test_an_import_that_was_stopped_can_be_run_again(home: Lafs) -> None:
    (home.folder / "k").write_bytes(_cheap(home))
    (home.folder / "h/known_hosts").mkdir(parents=True)
    _import(home, "--home", "h", "k", code=1)
    assert not (home.folder / "h/config.toml").exists()
    assert (home.folder / "h/aliases").exists()
    assert (home.folder / "h/state/gc-not-adopted").exists()
    (home.folder / "h/known_hosts").rmdir()
    done = _import(home, "--home", "h", "k")
    assert b"kept as" not in done.stderr
    assert _secrets(home.folder / "h") == _secrets(home.home)
    assert _import(home, "--home", "h", "k", code=2).stdout == b""


def test_a_full_disk_makes_no_home(home: Lafs, mount: Mount) -> None:
    (home.folder / "k").write_bytes(_cheap(home))
    mount(home.folder / "full", "size=16k,mode=700")
    done = _import(home, "--home", "full", "k", code=1)
    assert b"no space left" in done.stderr.lower()
    assert not (home.folder / "full/config.toml").exists()
    subprocess.run(["mount", "-o", "remount,size=1m", str(home.folder / "full")], check=True)
    _import(home, "--home", "full", "k")
    assert _secrets(home.folder / "full") == _secrets(home.home)


def test_settings_of_every_machine_come_along(home: Lafs) -> None:
    config = home.home / "config.toml"
    config.write_text('default-alias = "docs"\ndurability = "none"\nlog-file = "log"\n' + config.read_text())
    (home.folder / "k").write_bytes(_cheap(home))
    _import(home, "--home", "h", "k")
    table = tomllib.loads((home.folder / "h/config.toml").read_text())
    assert (table["default-alias"], table["durability"]) == ("docs", "none")
    assert "log-file" not in table


@pytest.mark.slow
def test_servers_that_came_after_the_kit_are_added_again(home: Lafs) -> None:
    """They bring the list of the grid's servers, without which nothing mutable is written."""
    (home.folder / "k").write_bytes(_cheap(home))
    add = ["server", "add", "n2", f"file://{home.folder}/servers/n2"]
    home(*add, code=0)
    shutil.rmtree(home.home)
    _import(home, "k")
    home("put", "x", "docs:x", code=2)
    home(*add, code=0)
    home("put", "x", "docs:x", code=0)


def test_several_homes_on_one_server(home: Lafs) -> None:
    """The latest kit of each is listed, and one is chosen; an old one can be had by its number."""
    folder = home.folder / "servers/n0/recovery"
    folder.mkdir()
    url = f"file://{home.folder}/servers/n0"
    mine, other = "a" * 16, "b" * 16
    (folder / f"{mine}.9.kit").write_bytes(_cheap(home, "old one"))
    (folder / f"{mine}.10.kit").write_bytes(_cheap(home))
    answer = _import(home, "--home", "h0", "--from", url)
    assert _secrets(home.folder / "h0") == _secrets(home.home)
    assert answer.stdout.startswith(b"made ")
    (folder / f"{other}.2.kit").write_bytes(_cheap(home, "another"))
    lines = ["", f"--kit {mine}.9", f"--kit {other}", "--kit c"]
    refused = _refused(home, "h1", *(f"recovery import --from {url} --passphrase-file word {line}" for line in lines))
    assert [code for code, _, _ in refused] == [2, 2, 2, 3]
    assert "kits of 2 homes lie there" in refused[0][1]
    assert f"{other}.2 (2" in refused[0][1]
    assert f"{mine}.10 (2" in refused[0][1]
    assert f"{mine}.9" not in refused[0][1]
    assert not (home.folder / "h1").exists()
    _import(home, "--home", "h1", "--from", url, "--kit", f"{mine}.10.kit")


@pytest.mark.slow
def test_two_homes_and_their_kits_on_the_same_servers(home: Lafs) -> None:
    """A home that was imported goes on with the numbers of the one that it came from."""
    other = Lafs(home.folder / "o")
    other("init", "--encoding", "1/2/2", code=0)
    for i in range(2):
        other("server", "add", f"n{i}", f"file://{home.folder}/servers/n{i}", code=0)
    words = ["--on-servers", "--force", "--passphrase-file", home.folder / "word"]
    first = home.json(*EXPORT, "k", *words)["on_servers"][0]["kit"]
    second = other.json(*EXPORT, "k", *words)["on_servers"][0]["kit"]
    _import(home, "--home", "h", "k")
    third = home.json("--home", "h", *EXPORT, "k", *words)["on_servers"][0]["kit"]
    assert (first.split(".")[1], second.split(".")[1]) == ("1", "1")
    assert first.split(".")[0] != second.split(".")[0]
    assert third == f"{first.split('.')[0]}.2"
    names = sorted(path.name for path in (home.folder / "servers/n1/recovery").iterdir())
    assert names == sorted(f"{name}.kit" for name in (first, second, third))


# ---- secrets


def test_no_secret_gets_out(home: Lafs) -> None:
    """Not into the log, not into what is said, not into the kit's bytes."""
    (home.folder / "word").write_text("ünmistakable-word\n")
    shown = b""
    log = ["--log-file", "log", "-vv"]
    for words in (
        [*EXPORT, "k", "--passphrase-file", "word", "--on-servers"],
        [*EXPORT, "k", "--passphrase-file", "word", "--on-servers", "--force", "--json"],
        ["--home", "h", "recovery", "import", "k", "--passphrase-file", "word"],
        ["--home", "g", "recovery", "import", "k", "--passphrase-file", "x", "--json"],
        ["--home", "h", "recovery", "import", "k", "--passphrase-file", "word"],
    ):
        done = home(*words, *log, LAFS_DEBUG="1")
        shown += done.stdout + done.stderr
    shown += (home.folder / "log").read_bytes() + (home.folder / "k").read_bytes()
    shown += (home.home / "state/recovery-kit").read_bytes()
    found = [b"nmistakable", *(part for data in _secrets(home.home).values() for part in data.split() if len(part) > 6)]
    assert len(found) == 5
    for secret in found:
        assert secret not in shown
