"""The SFTP gateway as a process: accounts, who gets in and to what, OpenSSH's sftp, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from lafscli.config.home import Home
from lafscli.errors import LafsError
from lafscli.gateway import accounts
from tests.gridfiles import NEW, SftpGateway, away, home_of_folders
from tests.lafs_process import Lafs
from tests.raw_sftp import RawClient
from tests.serving import wait_for
from tests.sshd import _make_key

GONE = (EOFError, OSError, AssertionError, paramiko.SSHException)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKPYWKMG3RzYKQ6hVxPr1wVIqMeJXJ1AQwyKiv7nNlDc"


@pytest.fixture(scope="module")
def lafs(tmp_path_factory: pytest.TempPathFactory) -> Lafs:
    made = Lafs(tmp_path_factory.mktemp("gatesftp"))
    home_of_folders(made, 4, "mkdir work:inside")
    read_cap = made("cap", "read", "work:", code=0).stdout.decode().strip()
    (made.folder / "gate.cap").write_text(read_cap + "\n")
    (made.folder / "gate.cap").chmod(0o600)
    return made


@pytest.fixture(scope="module")
def gateway(lafs: Lafs) -> Iterator[SftpGateway]:
    lines = ("# who", "", "alice {key} work", "inner {key} work:inside", "guest {key} @../gate.cap")
    with SftpGateway(lafs, *lines, "nobody {key} work:nowhere", "broken {key} URI:DIR2:secretsecret:x") as gateway:
        yield gateway


# ---- the file of accounts


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"alice {KEY}", "four parts"),
        (f"al/ice {KEY} work", "letters"),
        ("alice ssh-ed25519 AAAAC3Nz work", "damaged"),
        ("alice ssh-dss AAAA work", "no type of key"),
        (f"alice {KEY} nowhere:x", "no alias 'nowhere'"),
        (f"alice {KEY} URI:DIR2:aaaa:bbbb", "can't be read"),
        (f"alice {KEY} uri:DIR2:aaaa:bbbb/x y", "no alias 'uri'"),
        (f"alice {KEY} ro.URI:FUTURE:aaaa", "does not know"),
        (f"alice {KEY} URI:LIT:nbswy3dp", "of a file"),
        (f"alice {KEY} @missing", "there is no file"),
        (f"alice {KEY} @no.cap", "is not a cap"),
        (f"alice {KEY} @open.cap", "others may read"),
    ],
)
def test_a_line_that_can_not_be_used_is_refused_and_its_cap_not_shown(
    lafs: Lafs, tmp_path: Path, line: str, why: str
) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "no.cap").write_text("work:\n")
    (tmp_path / "open.cap").write_text("URI:LIT:\n")
    (tmp_path / "no.cap").chmod(0o600)
    (tmp_path / "open.cap").chmod(0o644)
    with pytest.raises(LafsError) as caught:
        accounts.read(line, tmp_path, Home.find(str(lafs.home)))
    assert why in caught.value.message
    assert "aaaa" not in caught.value.message


def test_the_file_of_accounts_is_taken_only_if_nobody_else_may_read_it(lafs: Lafs, tmp_path: Path) -> None:
    home, notes = Home.find(str(lafs.home)), list[str]()
    tmp_path.chmod(0o700)
    file = tmp_path / "accounts"
    file.write_text(f"# comment\nalice {KEY} work\n\nalice {KEY} work:inside\nbob {KEY} work:a b/c\nbob x\n")
    for mode, words in ((0o644, "may read"), (0o620, "may write"), (0o606, "may write")):
        file.chmod(mode)
        with pytest.raises(LafsError, match=words):
            accounts.load(file, home, notes.append)
    file.chmod(0o600)
    found = accounts.load(file, home, notes.append)
    assert {(each.name, each.path) for each in found.values()} == {("alice", ()), ("bob", ("a b", "c"))}
    assert [note.partition(str(file))[2].partition(" ")[0] for note in notes] == [":4:", ":6:"]
    assert "URI:" not in repr(found)
    with pytest.raises(LafsError, match="cannot read"):
        accounts.load(tmp_path / "none", home, notes.append)


# ---- who gets in, and to what


def test_what_it_says_when_it_serves(gateway: SftpGateway) -> None:
    assert gateway.told["accounts"] == ["alice", "guest", "inner", "nobody"]
    assert gateway.told["fingerprint"].startswith("SHA256:")
    assert ":7: account refused: its cap can't be read" in gateway.log()
    assert "secretsecret" not in gateway.log()


def test_sftp_of_openssh_does_everything(gateway: SftpGateway, lafs: Lafs) -> None:
    data = os.urandom(400_000)
    (lafs.folder / "local").write_bytes(data)
    (lafs.folder / "more").write_bytes(data + b"more")
    os.utime(lafs.folder / "local", (1_400_000_000, 1_400_000_000))
    done = gateway.sftp(
        "mkdir a", "put -p local a/x", "get a/x back", "put local a/y", "reput more a/y", "rename a/y a/z", "df",
        "ls -l a", "chmod 640 a/x", "ls -l a", "-rmdir a", "!cp local part && truncate -s 1000 part", "reget a/x part",
    )  # fmt: skip
    assert (lafs.folder / "back").read_bytes() == (lafs.folder / "part").read_bytes() == data
    assert lafs("get", "work:a/z", "-", code=0).stdout == data + b"more"
    assert lafs("get", "work:a/x", "-", code=0).stdout == data
    assert "May 13  2014" in done.stdout
    assert "-rw-r-----" in done.stdout
    gateway.sftp("rm a/x", "rm a/z", "rmdir a")
    gateway.sftp("ls a", code=1)


def test_a_name_leads_to_its_own_directory(gateway: SftpGateway, lafs: Lafs) -> None:
    (lafs.folder / "mine").write_bytes(b"mine")
    gateway.sftp("put mine", "ls -l ..", user="inner")
    assert lafs("get", "work:inside/mine", "-", code=0).stdout == b"mine"
    gateway.sftp("get inside/mine guests", user="guest")
    assert (lafs.folder / "guests").read_bytes() == b"mine"
    assert "ermission denied" in gateway.sftp("put mine inside/mine", user="guest", code=1).stderr
    assert "nowhere: no such file" in gateway.sftp("ls", user="nobody", code=255).stderr


def test_others_do_not_get_in(gateway: SftpGateway, tmp_path: Path) -> None:
    _make_key(tmp_path / "other")
    for refused in (
        {"key_filename": str(tmp_path / "other")},
        {"user": "mallory"},
        {"user": "broken"},
        {"user": "inner "},
        {"key_filename": None, "password": "secret"},
    ):
        with pytest.raises((paramiko.SSHException, OSError)):
            gateway.connect(**refused)  # type: ignore[arg-type]
    assert "key refused" in gateway.log()


def test_nothing_but_sftp_is_offered(gateway: SftpGateway) -> None:
    with gateway.connect() as client:
        transport = client.get_transport()
        assert transport is not None
        for ask in (
            lambda channel: channel.exec_command("id"),
            lambda channel: channel.invoke_shell(),
            lambda channel: channel.get_pty(),
            lambda channel: channel.invoke_subsystem("netconf"),
        ):
            channel = transport.open_session(timeout=20)
            channel.settimeout(20)
            with pytest.raises(GONE):
                ask(channel)
        for kind in ("direct-tcpip", "forwarded-tcpip", "x11"):
            with pytest.raises(paramiko.ChannelException):
                transport.open_channel(kind, ("127.0.0.1", 22), ("127.0.0.1", 22), timeout=20)
        with pytest.raises(paramiko.SSHException):
            transport.request_port_forward("127.0.0.1", 0)
        first, second = gateway.raw(client), gateway.raw(client)  # and two conversations at once are fine
        first.put("first", b"1", NEW)
        assert second.get("first") == b"1"


def test_a_failed_close_makes_sftp_fail_and_says_why(gateway: SftpGateway, lafs: Lafs) -> None:
    (lafs.folder / "unlucky").write_bytes(os.urandom(50_000))
    with away(lafs, [0, 3]):
        done = gateway.sftp("put unlucky", code=1)
    assert "nothing was stored" in done.stderr
    assert "unlucky" not in lafs("ls", "work:", code=0).stdout.decode()
    gateway.sftp("put unlucky")


# ---- reloading, limits, the end


@pytest.mark.slow
def test_accounts_are_read_again_and_their_connections_end(lafs: Lafs, tmp_path: Path) -> None:
    other = Lafs(tmp_path)
    home_of_folders(other, 1, encoding="1/1/1")
    with SftpGateway(other, "alice {key} work", "bob {key} work", options=["--max-connections", "2"]) as gateway:
        alice, bob = gateway.connect(), gateway.connect("bob")
        talks = gateway.raw(alice), gateway.raw(bob)
        with pytest.raises(GONE):
            gateway.raw(gateway.connect("bob"))  # one too many of his
        gateway.authorize("bob {key} work", "carol {key} work")
        gateway.accounts.chmod(0o640)
        gateway.reload()
        assert "accounts stay as they were" in gateway.log()
        talks[0].put("a", b"a", NEW)
        gateway.accounts.chmod(0o600)
        gateway.reload()
        wait_for(gateway.log, "alice: ended: its account has changed")
        while alice.get_transport().is_active():  # type: ignore[union-attr]
            time.sleep(0.01)
        assert talks[1].get("a") == b"a"
        with pytest.raises(paramiko.AuthenticationException):
            gateway.connect()
        handle = talks[1].open("never", NEW)
        talks[1].write(handle, 0, b"x")
        gateway.process.send_signal(signal.SIGUSR1)
        wait_for(gateway.log, "1 connections, [01] not logged in")
        assert gateway.stop() == 143
        assert "URI:" not in gateway.log()
        for client in (alice, bob):
            client.close()
    assert "never" not in other("ls", "work:", code=0).stdout.decode()


@pytest.mark.slow
def test_who_does_not_log_in_or_says_nothing_is_hung_up_on(lafs: Lafs, tmp_path: Path) -> None:
    other = Lafs(tmp_path, {"LAFS_HOME": str(lafs.home)})
    options = ["--login-timeout", "2s", "--idle-timeout", "3s", "--host-key", str(tmp_path / "key")]
    (tmp_path / "home").mkdir()
    with SftpGateway(other, "alice {key} work", options=options) as gateway:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", gateway.port)) as silent, gateway.connect() as client:
            talk = gateway.raw(client)
            silent.settimeout(10)
            while silent.recv(1000):
                pass
            assert 1.5 < time.monotonic() - began < 6
            handle = talk.open("idle", NEW)
            talk.write(handle, 0, b"x")
            assert talk.receive() is None
        wait_for(gateway.log, "no login within 2 seconds")
        wait_for(gateway.log, "nothing came for 3 seconds")
        crowd = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(20)]
        wait_for(gateway.log, "turned away: too many log in at once")
        for each in crowd:
            each.close()
        assert gateway.stop(signal.SIGINT) == 130
    assert "idle" not in lafs("ls", "work:", code=0).stdout.decode()


def test_usage_errors(lafs: Lafs, tmp_path: Path) -> None:
    lafs("gateway", "sftp", "--accounts", tmp_path / "none", "--idle-timeout", "0s", code=2)
    assert b"cannot read" in lafs("gateway", "sftp", "--accounts", tmp_path / "none", code=1).stderr
    nobody = Lafs(tmp_path / "homeless")
    assert nobody.json("gateway", "sftp", "--accounts", "x", code=2)["error"]["kind"] == "Usage"


@pytest.mark.slow
def test_a_killed_client_leaves_nothing(gateway: SftpGateway, lafs: Lafs) -> None:
    (lafs.folder / "huge").write_bytes(os.urandom(1 << 20) * 40)
    before = lafs("ls", "work:", code=0).stdout
    client = subprocess.Popen(
        ["sftp", "-q", "-l", "20000", "-F", str(gateway.config), "-b", "-", "alice@gate"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=lafs.folder,
    )  # fmt: skip
    assert client.stdin is not None
    client.stdin.write(b"put huge\n")
    client.stdin.flush()
    with gateway.connect() as other:
        talk: RawClient = gateway.raw(other)
        wait_for(lambda: json.dumps(talk.listdir("/")), "huge")
        wait_for(lambda: str(talk.stat("huge").size), "[1-9]")
        client.kill()
        client.wait()
        client.stdin.close()
        wait_for(lambda: str("huge" in talk.listdir("/")), "False")
    assert lafs("ls", "work:", code=0).stdout == before
