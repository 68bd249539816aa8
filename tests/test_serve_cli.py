"""`lafs serve`: its options, what it says, what --print-setup prints."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lafscli.cli.frame import Frame
from lafscli.cli.main import perform
from lafscli.cli.options import Settings
from lafscli.cli.servefiles import parse_address
from lafscli.errors import UsageError
from lafscli.server.addresses import listening, named, source
from tests.lafs_process import Lafs
from tests.raw_sftp import Pipes, RawClient
from tests.serving import ListenServers, environment
from tests.sshd import _make_key

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def lafs(tmp_path: Path) -> Lafs:
    return Lafs(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        (["--listen", "127.0.0.1:0"], "missing option '--root'", "lafs help serve"),
        (["--root", "r"], "say how to serve", "--listen HOST:PORT"),
        (["--root", "r", "--stdio", "--listen", "x:1"], "--listen and --stdio do not go together", "--listen"),
        (["--root", "r", "--stdio", "--print-setup"], "do not go together", "--listen"),
        (["--root", "r", "--stdio", "--host-key", "f"], "--host-key goes with --listen", "lafs help serve"),
        (["--root", "r", "--scrub", "--max-connections", "5"], "--max-connections goes with", "lafs help serve"),
        (["--root", "r", "--stdio", "--append-only", "--read-only"], "do not go together", "--read-only"),
        (["--root", "r", "--stdio", "--history", "5"], "--history goes with --append-only", "lafs help serve"),
        (["--root", "r", "--stdio", "--quota", "much"], "not a size", "lafs help serve"),
        (["--root", "r", "--stdio", "--idle-timeout", "0s"], "would end every connection", "lafs help serve"),
        (["--root", "r", "--listen", "2222"], "not an address to listen at: '2222'", "HOST:PORT"),
        (["--root", "r", "--listen", "::1:2222"], "not an address", "[::]:2222"),
        (["--root", "r", "--listen", "127.0.0.1:99999"], "not an address", "HOST:PORT"),
    ],
)
def test_options_that_can_t_be(
    arguments: list[str], said: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    assert perform(Frame(Settings()), ["serve", *arguments]) == 2
    done = capfd.readouterr()
    assert done.out == ""
    first, second = done.err.splitlines()
    assert first.startswith("lafs: ")
    assert said in first
    assert second.startswith("hint: ")
    assert hint in second
    assert list(tmp_path.iterdir()) == []


def test_what_can_t_be_served_is_told(lafs: Lafs) -> None:
    lafs.home.mkdir(mode=0o700)
    for root, said in (("no/where", "cannot make"), ("/dev/null", "cannot serve /dev/null")):
        done = lafs("serve", "--listen", "127.0.0.1:0", "--root", root, code=1)
        assert said in done.stderr.decode()
    done = lafs("serve", "--listen", "127.0.0.1:0", "--root", "r", code=1)
    assert f"cannot read {lafs.home}/serve/authorized_keys: No such file" in done.stderr.decode()
    assert (lafs.folder / "r" / "server.toml").exists()
    keys = lafs.home / "serve" / "authorized_keys"
    keys.touch(mode=0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = lafs("serve", "--listen", f"127.0.0.1:{port}", "--root", "r", code=1)
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr.decode()
    done = lafs("serve", "--listen", "no.such.host.invalid:0", "--root", "r", code=1)
    assert "no address to listen on: no.such.host.invalid" in done.stderr.decode()
    keys.chmod(0o662)
    done = lafs("serve", "--listen", "127.0.0.1:0", "--root", "r", code=1)
    assert "others may write" in done.stderr.decode()
    assert "hint: chmod go-w" in done.stderr.decode()


def test_it_says_where_it_listens_and_tells_the_service_manager(lafs: Lafs) -> None:
    serve = lafs.home / "serve"
    serve.mkdir(mode=0o700, parents=True)
    (serve / "authorized_keys").touch(mode=0o600)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(lafs.folder / "notify"))
        manager.settimeout(20)
        lafs.variables["NOTIFY_SOCKET"] = str(lafs.folder / "notify")
        arguments = ["serve", "--root", "r", "--listen", "[::1]:0", "--json"]
        if not _has_ipv6():
            arguments[4] = "127.0.0.1:0"
        with lafs.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                assert manager.recv(100) == b"READY=1"
                assert process.stdout is not None
                document = json.loads(process.stdout.readline())
                [address] = document["listening"]
                host, port = parse_address(address)
                assert f"[{host}]:{port}" == address if _has_ipv6() else f"{host}:{port}" == address
                socket.create_connection((host, port), timeout=20).close()
                shown = subprocess.run(["ssh-keygen", "-lf", serve / "host_key"], capture_output=True, text=True)
                assert document["fingerprint"] == shown.stdout.split()[1]
                assert document["root"] == str(lafs.folder / "r")
            finally:
                process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            said = process.stderr.read().decode()
        assert process.returncode == 143
    assert f"lafs: serving {lafs.folder}/r at {address}, host key {document['fingerprint']}\n" in said


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_sigusr1_tells_how_many_are_connected(start_listening: Callable[..., ListenServers]) -> None:
    servers = start_listening()
    servers.processes[0].send_signal(signal.SIGUSR1)
    servers.wait_for(0, "0 connections with 0 sessions, 0 not logged in, 0 so far")


def test_addresses() -> None:
    assert parse_address("127.0.0.1:2222") == ("127.0.0.1", 2222)
    assert parse_address("[2001:db8::1]:0") == ("2001:db8::1", 0)
    assert parse_address("*:22") == parse_address(":22") == ("", 22)
    for wrong in ("", "host", "host:", "host:x", "host:-1", "host:65536", "::1:2", "[::1]", "host:²"):
        with pytest.raises(UsageError):
            parse_address(wrong)
    assert named(("192.0.2.1", 5)) == "192.0.2.1:5"
    assert named(("2001:db8::1", 5, 0, 0)) == "[2001:db8::1]:5"
    assert source(("192.0.2.1", 5)) == source(("::ffff:192.0.2.1", 9, 0, 0)) == "192.0.2.1"
    assert source(("2001:db8:1:2::3", 5, 0, 0)) == source(("2001:db8:1:2:ffff::", 6, 0, 0))
    assert source(("2001:db8:1:2::3", 5, 0, 0)) != source(("2001:db8:1:3::3", 5, 0, 0))
    made = listening("localhost", 0)
    assert len({each.getsockname()[1] for each in made}) == 1
    for each in made:
        each.close()


# ---- --stdio


def test_stdio_needs_no_home_and_loads_little(tmp_path: Path) -> None:
    program = (
        "import sys, runpy\n"
        "try: runpy.run_module('lafscli', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'rich', 'paramiko', 'nacl', 'tomli_w', 'cryptography', 'asyncio'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\n"
    )
    variables = {k: v for k, v in environment(tmp_path).items() if k not in ("HOME", "LAFS_HOME")}
    root = tmp_path / "root"
    with subprocess.Popen(
        [sys.executable, "-c", program, "serve", "--stdio", "--root", str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
    ) as process:
        talk = RawClient(Pipes.of(process))
        assert sorted(talk.listdir("/")) == ["locks", "server.toml", "shares", "staging"]
        assert process.stdin is not None
        process.stdin.close()
        assert process.stderr is not None
        assert process.stderr.read().decode() == "[]\n"
        assert process.wait(20) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["root"]
    assert root.stat().st_mode & 0o777 == 0o700


def test_stdio_names_the_client_and_its_key(tmp_path: Path) -> None:
    _make_key(tmp_path / "key")
    (tmp_path / "proofs").write_text("publickey " + (tmp_path / "key.pub").read_text())
    for connection, peer in (
        ("192.0.2.7 40000 192.0.2.1 22", "192.0.2.7:40000"),
        ("2001:db8::7 5 ::1 22", "[2001:db8::7]:5"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "lafscli", "serve", "--stdio", "--root", str(tmp_path / "root"), "-v"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment(tmp_path) | {"SSH_CONNECTION": connection, "SSH_USER_AUTH": str(tmp_path / "proofs")},
        )
        assert done.returncode == 0
        shown = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key"], capture_output=True, text=True, check=True)
        assert f" {peer} {shown.stdout.split()[1]} serving " in done.stderr
        assert done.stderr.endswith(" closed\n")


# ---- --print-setup


@pytest.fixture
def odd_root(tmp_path: Path) -> Path:
    """A folder whose name means something to shells, to sshd and to systemd."""
    return tmp_path / 'it\'s 100% "a" $HOME'


def test_print_setup_changes_nothing(lafs: Lafs) -> None:
    before = sorted(lafs.folder.rglob("*"))
    text = lafs("serve", "--root", "r", "--print-setup", code=0).stdout.decode()
    assert sorted(lafs.folder.rglob("*")) == before
    for wanted in ("[Unit]", "[Service]", "Type=notify", 'command="', ",restrict KEY", "lafs server add", "ExecStart="):
        assert wanted in text
    assert str(lafs.folder / "r") in text


def test_the_unit_is_one_that_systemd_takes(lafs: Lafs, odd_root: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("there is no systemd-analyze here")
    for root, options in ((odd_root, ()), (Path("/srv/lafs"), ("--append-only", "--quota", "5G", "--history", "7"))):
        document = lafs.json("serve", "--root", root, "--print-setup", "--listen", "[::]:2200", *options)
        unit = lafs.folder / "lafs.service"
        unit.write_text(document["unit"])
        done = subprocess.run([verify, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
        said = [line for line in (done.stdout + done.stderr).splitlines() if "lafs.service" in line]
        assert said == []
        assert done.returncode == 0, done.stderr
        # the command, as systemd takes it apart: its quotes are those of a shell, % and $ are doubled
        [line] = [line for line in document["unit"].splitlines() if line.startswith("ExecStart=")]
        words = shlex.split(line.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$"))
        assert words == document["command"]
        assert words[words.index("serve") :][:5] == ["serve", "--root", str(root), "--listen", "[::]:2200"]


def test_the_line_for_sshd_is_one_that_ssh_keygen_takes_and_a_shell_runs(lafs: Lafs, odd_root: Path) -> None:
    _make_key(lafs.folder / "key")
    public = (lafs.folder / "key.pub").read_text().strip()
    document = lafs.json("serve", "--root", odd_root, "--print-setup", "--append-only", "--idle-timeout", "5m")
    keys = lafs.folder / "authorized_keys"
    shown = subprocess.run(
        ["ssh-keygen", "-lf", lafs.folder / "key"], capture_output=True, text=True, check=True
    ).stdout
    for line in (document["sshd_authorized_keys"], document["lafs_authorized_keys"]):
        keys.write_text(line.replace("KEY", public) + "\n")
        listed = subprocess.run(["ssh-keygen", "-lf", keys], capture_output=True, text=True, check=True).stdout
        assert listed.split()[1] == shown.split()[1]
    # what sshd gives to the login shell: the text between the quotes, with \" for "
    forced = document["sshd_authorized_keys"].removeprefix('command="').rpartition('",restrict KEY')[0]
    with subprocess.Popen(
        ["sh", "-c", forced.replace('\\"', '"')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=lafs.environment(),
    ) as process:
        talk = RawClient(Pipes.of(process))
        assert b'"append_only": true' in (talk.extended("policy@lafs", b"") or b"")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0
    assert (odd_root / "server.toml").exists()


def test_a_limit_of_nothing_is_printed(lafs: Lafs) -> None:
    """No bytes and no kept version are not the same as no limit."""
    document = lafs.json("serve", "--root", "r", "--print-setup", "--append-only", "--quota", "0", "--history", "0")
    for command in (" ".join(document["command"]), document["sshd_authorized_keys"]):
        assert "--append-only --quota 0 --history 0" in command
        assert "--reserve" not in command


def test_the_line_for_sshd_keeps_no_versions_without_append_only(lafs: Lafs) -> None:
    """A key of serve's own list may be append-only; --stdio, which has one key, would refuse the two together."""
    document = lafs.json("serve", "--root", "r", "--print-setup", "--history", "4")
    assert document["command"][-2:] == ["--history", "4"]
    assert "--history" not in document["sshd_authorized_keys"]


def test_the_printed_files_serve(lafs: Lafs) -> None:
    """The command of the unit, run as it stands, with the line for its own list of keys."""
    _make_key(lafs.folder / "key")
    keys = lafs.folder / "keys"
    host_key = lafs.folder / "host"
    given = ["--listen", "127.0.0.1:0", "--authorized-keys", str(keys), "--host-key", str(host_key)]
    document = lafs.json("serve", "--root", lafs.folder / "r", "--print-setup", *given)
    keys.write_text(document["lafs_authorized_keys"].replace("KEY", (lafs.folder / "key.pub").read_text()))
    keys.chmod(0o600)
    with subprocess.Popen(
        [*document["command"], "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=lafs.environment(),
    ) as process:
        try:
            assert process.stdout is not None
            _, port = parse_address(json.loads(process.stdout.readline())["listening"][0])
            command = ["sftp", "-q", "-F", os.devnull, "-P", str(port), "-i", str(lafs.folder / "key"), "-b", "-"]
            command += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={lafs.folder}/known"]
            done = subprocess.run(
                [*command, "127.0.0.1"],
                input=b"ls\n",
                capture_output=True,
                timeout=30,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert b"server.toml" in done.stdout
        finally:
            process.terminate()


# ---- what a client says of it


def test_a_server_that_is_read_only_is_not_shown_as_writable(lafs: Lafs) -> None:
    ssh, rules = lafs.folder / "ssh", lafs.folder / "rules"
    serve = shlex.join([sys.executable, "-m", "lafscli", "serve", "--stdio", "--root", str(lafs.folder / "r")])
    ssh.write_text(f"#!/bin/sh\nexec {serve} $(cat {shlex.quote(str(rules))})\n")
    ssh.chmod(0o700)
    rules.write_text("")
    lafs("init", code=0)
    options = ("--option", f"ssh-command={ssh}", "--option", "persist=off")
    lafs("server", "add", "attic", f"sftp://attic{lafs.folder}/r", *options, code=0)
    [before] = lafs.json("server", "status")["servers"]
    rules.write_text("--read-only")
    [after] = lafs.json("server", "status")["servers"]
    assert (before["writable"], before["policy"]["read_only"]) == (True, False)
    assert (after["writable"], after["policy"]["read_only"]) == (False, True)
    assert b"attic  read-only" in lafs("server", "status", code=0).stdout
