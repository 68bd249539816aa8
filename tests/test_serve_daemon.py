"""`lafs serve` as processes, with foreign clients: who gets in, what they can ask for, how everything ends."""

from __future__ import annotations

import getpass
import os
import re
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import paramiko
import pytest

from lafscli.primitives.encoding import b32encode
from lafscli.storage.packets import string
from tests.kept_shares import OURS, SI, immutable, shares
from tests.raw_sftp import RawClient, refused
from tests.serving import ListenServers, StdioServers, wait_for
from tests.sshd import _make_key

Servers = ListenServers | StdioServers
SHARE = immutable(shares()[0], OURS)
NAME = b32encode(SI)
FOLDER = f"/shares/{NAME[:2]}/{NAME}"
TOKEN = "a" * 26
GONE = (EOFError, OSError, AssertionError, paramiko.SSHException)
"""What a client sees whose connection ends, in whatever moment."""


def ssh(
    servers: Servers, *words: str, input: str = "", options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run OpenSSH's ssh against server 0."""
    return subprocess.run(
        ["ssh", "-F", str(servers.config), "-o", "BatchMode=yes", *options, "s0", *words],
        input=input,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def sftp(servers: Servers, *commands: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run OpenSSH's sftp against server 0."""
    return subprocess.run(
        ["sftp", "-q", *(() if "-F" in options else ("-F", str(servers.config))), *options, "-b", "-", "s0"],
        input="\n".join(commands),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def connect(servers: Servers, identity: Path | None = None, **more: object) -> paramiko.SSHClient:
    """Log in with paramiko."""
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    more = {"key_filename": str(identity or servers.identity), "allow_agent": False, "look_for_keys": False, **more}
    user = "somebody" if isinstance(servers, ListenServers) else getpass.getuser()  # ours lets in keys, not names
    client.connect("127.0.0.1", servers.port(0), user, timeout=20, **more)  # type: ignore[arg-type]
    return client


@contextmanager
def raw(client: paramiko.SSHClient) -> Iterator[RawClient]:
    """A conversation in packets over one more session of a connection."""
    transport = client.get_transport()
    assert transport is not None
    channel = transport.open_session(timeout=20)
    channel.settimeout(20)
    channel.invoke_subsystem("sftp")
    yield RawClient(channel)
    channel.close()


def stage(talk: RawClient) -> str:
    """Send a whole share to `staging/`; its name there."""
    staged = f"/staging/{NAME}.0.{TOKEN}"
    talk.put(staged, SHARE)
    for folder in (FOLDER.rpartition("/")[0], FOLDER):
        if folder.rpartition("/")[2] not in talk.listdir(folder.rpartition("/")[0]):
            talk.mkdir(folder)
    return staged


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListenServers]:
    """One server of its own for the tests that leave it as it is."""
    with ListenServers(tmp_path_factory.mktemp("served"), 1, "-v") as servers:
        yield servers


@pytest.fixture(scope="module")
def under_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StdioServers]:
    """One sshd with a forced command."""
    folder = tmp_path_factory.mktemp("stdio")
    with StdioServers(folder, 1, "--log-file", str(folder / "log")) as servers:
        yield servers


@pytest.fixture(params=["served", "under_sshd"])
def both(request: pytest.FixtureRequest) -> Servers:
    """Each way of running."""
    found: Servers = request.getfixturevalue(request.param)
    return found


# ---- foreign clients, both ways


def test_sftp_of_openssh(both: Servers, tmp_path: Path) -> None:
    share, copy = tmp_path / "share", tmp_path / "copy"
    share.write_bytes(SHARE)
    staged = f"/staging/{NAME}.1.{TOKEN}"
    mine = immutable(shares()[1], OURS)
    share.write_bytes(mine)
    done = sftp(
        both,
        "pwd",
        f"put {share} {staged}",
        f"-mkdir {FOLDER.rpartition('/')[0]}",
        f"-mkdir {FOLDER}",
        f"rename {staged} {FOLDER}/1",
        f"get {FOLDER}/1 {copy}",
        f"get {both.root(0)}{FOLDER}/1 {copy}",  # the path that it has for plain sshd
        "ls /",
    )
    assert done.returncode == 0, done.stderr
    assert copy.read_bytes() == mine
    assert "Remote working directory: /\n" in done.stdout
    names = set(re.findall(r"/\S+", done.stdout.partition("ls /")[2]))
    assert names == {"/shares", "/staging", "/locks", "/server.toml"}
    refused_ones = [
        f"rm {FOLDER}/1",
        f"rename {FOLDER}/1 /staging/{NAME}.1.{TOKEN}",
        f"put {share} {FOLDER}/1",
        f"chmod 777 {FOLDER}/1",
        f"rmdir {FOLDER}",
        f"symlink {FOLDER}/1 /shares/link",
        "get /etc/passwd /dev/null",
        "get ../../../etc/passwd /dev/null",
        "mkdir /trash",
        "ls /history",
    ]
    done = sftp(both, *(f"-{command}" for command in refused_ones))
    assert done.returncode == 0, done.stderr  # it went on, and each one has its line
    assert len(done.stderr.splitlines()) >= len(refused_ones), done.stderr
    assert (both.root(0) / FOLDER[1:] / "1").read_bytes() == mine


def test_paramiko(both: Servers) -> None:
    with connect(both) as client:
        files = client.open_sftp()
        assert set(files.listdir("/")) == {"shares", "staging", "locks", "server.toml"}
        with files.open("/server.toml") as file:
            assert b"node-id" in file.read()
        with pytest.raises(OSError, match="removed"):
            files.remove("/server.toml")
        with pytest.raises(PermissionError):
            files.open("/anything", "w")


# ---- nothing but SFTP


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (("id",), ()),
        ((), ()),
        ((), ("-tt",)),
        (("netconf",), ("-s",)),
        (("sftp",), ("-s", "-o", "RequestTTY=force")),
    ],
    ids=["exec", "shell", "shell with a terminal", "another subsystem", "sftp with a terminal"],
)
def test_there_is_nothing_but_sftp(served: ListenServers, words: tuple[str, ...], options: tuple[str, ...]) -> None:
    done = ssh(served, *words, options=options)
    if "RequestTTY=force" in options:
        assert "PTY allocation request failed" in done.stderr  # and then it is served without one
        return
    assert done.returncode != 0
    assert done.stdout == ""


def test_nothing_is_forwarded(served: ListenServers) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target, connect(served) as client:
        transport = client.get_transport()
        assert transport is not None
        with pytest.raises(paramiko.ChannelException, match="prohibited"):
            transport.open_channel("direct-tcpip", target.getsockname(), ("127.0.0.1", 1), timeout=20)
        with pytest.raises(paramiko.SSHException, match="denied"):
            transport.request_port_forward("127.0.0.1", 0)
        for kind in ("x11", "auth-agent@openssh.com", "direct-streamlocal@openssh.com", "tun@openssh.com", "nonsense"):
            with pytest.raises(paramiko.SSHException):
                transport.open_channel(kind, ("127.0.0.1", 1), ("127.0.0.1", 1), timeout=20)
        asks: list[Callable[[paramiko.Channel], object]] = [
            lambda channel: channel.request_x11(handler=lambda *_: None),
            lambda channel: channel.get_pty(),
            lambda channel: channel.exec_command("id"),
            lambda channel: channel.invoke_shell(),
        ]
        for ask in asks:
            channel = transport.open_session(timeout=20)
            with pytest.raises(paramiko.SSHException):
                ask(channel)
        with raw(client) as talk:  # and for all that, sessions go on
            assert talk.realpath(".") == b"/"


def test_no_password_and_no_question(served: ListenServers, tmp_path: Path) -> None:
    for method in ("password", "keyboard-interactive", "hostbased", "none"):
        done = ssh(served, options=("-o", f"PreferredAuthentications={method}"))
        assert "Permission denied (publickey)" in done.stderr
    with pytest.raises(paramiko.BadAuthenticationType, match="publickey"):
        connect(served, key_filename=None, password="secret")


def test_another_key_is_refused_and_told(served: ListenServers, tmp_path: Path) -> None:
    _make_key(tmp_path / "other")
    with pytest.raises(paramiko.AuthenticationException):
        connect(served, tmp_path / "other")
    shown = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "other")], capture_output=True, text=True, check=True)
    served.wait_for(0, rf"key refused: {re.escape(shown.stdout.split()[1])}, user 'somebody'")


def test_a_signature_by_another_key_is_refused(served: ListenServers, tmp_path: Path) -> None:
    """The client shows the key that may log in and signs with one that it has."""
    _make_key(tmp_path / "other")
    mine = paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "other"))
    theirs = paramiko.Ed25519Key.from_private_key_file(str(served.identity))
    mine.asbytes = theirs.asbytes  # type: ignore[method-assign]
    with pytest.raises(paramiko.AuthenticationException):
        connect(served, key_filename=None, pkey=mine)


def test_ciphers_are_the_quick_ones_where_a_client_has_them(served: ListenServers) -> None:
    done = ssh(served, "sftp", options=("-v", "-s"))
    with_gcm = "aes128-gcm@openssh.com" in getattr(paramiko.Transport, "_cipher_info")  # noqa: B009 — since 3.5
    assert f"cipher: aes128-{'gcm@openssh.com' if with_gcm else 'ctr'}" in done.stderr
    assert "compression: none" in done.stderr
    done = ssh(served, "sftp", options=("-v", "-s", "-o", "Ciphers=aes256-ctr,chacha20-poly1305@openssh.com"))
    assert "cipher: aes256-ctr MAC: " in done.stderr
    for old in ("Ciphers=aes128-cbc", "MACs=hmac-sha1", "KexAlgorithms=diffie-hellman-group14-sha1"):
        extra = ("-o", "Ciphers=aes128-ctr") if old.startswith("MACs") else ()
        done = ssh(served, options=("-o", old, *extra))
        assert "no matching" in done.stderr


def test_keys_are_exchanged_anew_in_the_middle(served: ListenServers, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(8 << 20))
    staged = f"/staging/{NAME}.2.{TOKEN}"
    done = sftp(
        served, f"put {big} {staged}", f"get {staged} {tmp_path}/copy", f"rm {staged}", options=("-o", "RekeyLimit=1M")
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy").read_bytes() == big.read_bytes()


# ---- sessions


def test_sessions_of_one_connection_are_apart_and_bounded(served: ListenServers) -> None:
    with connect(served) as client, ExitStack() as stack:
        talks = [stack.enter_context(raw(client)) for _ in range(10)]
        with pytest.raises((paramiko.SSHException, EOFError)), raw(client):
            pass
        handle = talks[0].open("/server.toml")
        with refused(4):
            talks[1].read(handle)
        assert all(talk.realpath(".") == b"/" for talk in talks)


def test_one_connection_is_killed_and_the_others_go_on(served: ListenServers) -> None:
    with connect(served) as first, connect(served) as second, raw(first) as one, raw(second) as two:
        before = set(served.below(0))
        with connect(served) as third, raw(third) as three:
            assert three.realpath(".") == b"/"
            for pid in set(served.below(0)) - before:
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(GONE):
                three.realpath(".")
        assert (one.realpath("."), two.realpath(".")) == (b"/", b"/")
        served.wait_for(0, "was ended by SIGKILL")
    with connect(served) as client, raw(client) as talk:
        assert talk.realpath(".") == b"/"


def test_half_closed_is_answered_to_the_end(served: ListenServers) -> None:
    """A client may say that it sends no more, and then take what it has asked for."""
    with connect(served) as client:
        transport = client.get_transport()
        assert transport is not None
        channel = transport.open_session(timeout=20)
        channel.settimeout(20)
        channel.invoke_subsystem("sftp")
        talk = RawClient(channel)
        numbers = [talk.send(16, b"\0\0\0\1.") for _ in range(100)]
        channel.shutdown_write()
        for number in numbers:
            answer = talk.receive()
            assert answer is not None
            assert answer.number == number
        assert talk.receive() is None
        assert channel.recv_exit_status() == 0


def test_who_speaks_no_ssh_or_too_much_is_hung_up_on(served: ListenServers) -> None:
    address = ("127.0.0.1", served.port(0))
    for said in (b"GET / HTTP/1.1\r\n\r\n" * 100, b"SSH-2.0-x\r\n" + b"\xff" * 1000, b"\n" * 1000, b"x" * (1 << 20)):
        with socket.create_connection(address, timeout=20) as caller, suppress(ConnectionError):
            caller.sendall(said)
            while caller.recv(4096):
                pass
    for _ in range(20):
        socket.create_connection(address, timeout=20).close()
    with connect(served) as client, raw(client) as talk:
        assert talk.realpath(".") == b"/"


# ---- keys, and reading them again


def test_options_of_keys(start_listening: Callable[..., ListenServers], tmp_path: Path) -> None:
    servers = start_listening()
    for name in ("reader", "adder", "other", "wrong", "former"):
        _make_key(tmp_path / name)
    lines = {
        "reader": "lafs-read-only",
        "adder": "lafs-append-only",
        "other": 'lafs-root="sub"',
        "wrong": 'from="10.0.0.1"',
        "former": "restrict",
    }
    public = {name: (tmp_path / f"{name}.pub").read_text().strip() for name in lines}
    servers.authorize(*(f"{options} {public[name]}" for name, options in lines.items()))
    with pytest.raises(paramiko.AuthenticationException):
        connect(servers, tmp_path / "reader")
    servers.reload(0)
    assert "'from' is not known here" in servers.log(0)
    with pytest.raises(paramiko.AuthenticationException):
        connect(servers, tmp_path / "wrong")
    with connect(servers, tmp_path / "reader") as client, raw(client) as talk:
        with refused(3, "read-only"):
            stage(talk)
        assert b'"read_only": true' in (talk.extended("policy@lafs", b"") or b"")
    with connect(servers, tmp_path / "adder") as client, raw(client) as talk:
        assert b'"append_only": true' in (talk.extended("policy@lafs", b"") or b"")
    with connect(servers, tmp_path / "other") as client, raw(client) as talk:
        talk.rename(stage(talk), f"{FOLDER}/0")
    assert (servers.root(0) / "sub" / FOLDER[1:] / "0").read_bytes() == SHARE
    with connect(servers) as client, raw(client) as talk:
        assert talk.listdir("/shares") == []

    # a key that is taken away: its connections end, others stay
    with (
        connect(servers, tmp_path / "former") as gone,
        raw(gone) as talk,
        connect(servers) as stays,
        raw(stays) as here,
    ):
        servers.authorize()
        servers.reload(0)
        servers.wait_for(0, "ended: its key has changed or is gone")
        with pytest.raises(GONE):  # what it has asked before may still be answered
            deque((talk.realpath(".") for _ in range(100_000)), maxlen=0)
        assert here.realpath(".") == b"/"
    with pytest.raises(paramiko.AuthenticationException):
        connect(servers, tmp_path / "former")

    # a file that is not right changes nothing
    servers.authorized_keys.chmod(0o666)
    servers.reload(0)
    assert "the keys stay as they were: others may write" in servers.log(0)
    with connect(servers) as client, raw(client) as talk:
        assert talk.realpath(".") == b"/"


def test_kinds_of_keys_log_in(start_listening: Callable[..., ListenServers], tmp_path: Path) -> None:
    """Whatever else the client offers first."""
    servers = start_listening()
    _make_key(tmp_path / "unknown")
    for kind in ("rsa", "ecdsa"):
        key = tmp_path / kind
        bits = ["-b", "2048"] if kind == "rsa" else []
        subprocess.run(["ssh-keygen", "-q", "-t", kind, *bits, "-N", "", "-f", str(key)], check=True)
    servers.authorize(*((tmp_path / f"{kind}.pub").read_text().strip() for kind in ("rsa", "ecdsa")))
    servers.reload(0)
    config = tmp_path / "config"
    for kind in ("rsa", "ecdsa"):
        both_keys = f"    IdentityFile {tmp_path}/unknown\n    IdentityFile {tmp_path}/{kind}"
        config.write_text(re.sub(r"    IdentityFile .*", both_keys, servers.config.read_text()))
        done = sftp(servers, "pwd", options=("-F", str(config)))
        assert done.returncode == 0, done.stderr
        shown = subprocess.run(["ssh-keygen", "-lf", tmp_path / kind], capture_output=True, text=True, check=True)
        servers.wait_for(0, f"{re.escape(shown.stdout.split()[1])} #[0-9]+ logged in")


# ---- limits


def test_slow_logins_end_and_others_get_in(start_listening: Callable[..., ListenServers]) -> None:
    servers = start_listening(1, "--login-timeout", "2s", "--max-connections", "40")
    address = ("127.0.0.1", servers.port(0))
    began = time.monotonic()
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(60)]
        for number, caller in enumerate(slow):
            caller.sendall((b"", b"S", b"SSH-2.0-slow\r\n")[number % 3])
        for caller in slow:
            with suppress(ConnectionError):
                while caller.recv(4096):
                    pass
        assert time.monotonic() - began < 8
    servers.wait_for(0, "no login within 2 seconds", count=16)
    servers.wait_for(0, "turned away: ")
    with connect(servers) as client, raw(client) as talk:
        assert talk.realpath(".") == b"/"


def test_who_leaves_late_had_logged_in(start_listening: Callable[..., ListenServers]) -> None:
    servers = start_listening(1, "--login-timeout", "1s")
    with connect(servers) as client, raw(client) as talk:
        assert talk.realpath(".") == b"/"
        time.sleep(1.5)
    servers.wait_for(0, " closed")
    assert "no login within" not in servers.log(0)


def test_too_many_connections(start_listening: Callable[..., ListenServers]) -> None:
    servers = start_listening(1, "--max-connections", "2")
    with connect(servers) as first, raw(first) as one, connect(servers) as second, raw(second):
        done = sftp(servers, "pwd")
        assert done.returncode != 0
        servers.wait_for(0, "turned away: 2 connections are the most")
        assert one.realpath(".") == b"/"
    wait_for(lambda: str(len(servers.below(0))), "^0$")
    assert sftp(servers, "pwd").returncode == 0


def test_one_key_of_several_leaves_room_for_the_others(
    start_listening: Callable[..., ListenServers], tmp_path: Path
) -> None:
    servers = start_listening(1, "--max-connections", "2")
    _make_key(tmp_path / "other")
    servers.authorize((tmp_path / "other.pub").read_text().strip())
    servers.reload(0)
    with connect(servers) as first, raw(first) as one:
        assert sftp(servers, "pwd").returncode != 0
        servers.wait_for(0, "ended: its key has as many connections as")
        with connect(servers, tmp_path / "other") as client, raw(client) as talk:
            assert talk.realpath(".") == b"/"
        assert one.realpath(".") == b"/"


def test_an_idle_connection_ends(start_listening: Callable[..., ListenServers]) -> None:
    servers = start_listening(1, "--idle-timeout", "1s")
    with connect(servers) as client, raw(client) as talk:
        assert talk.receive() is None
        servers.wait_for(0, "nothing came for 1 seconds")
    with connect(servers):
        servers.wait_for(0, "ended: no session for 1 seconds")


# ---- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_two_seconds(start_listening: Callable[..., ListenServers], number: int) -> None:
    """In the middle of a transfer, with a guard held, and a login that never comes."""
    servers = start_listening()
    below: list[int] = []
    with (
        socket.create_connection(("127.0.0.1", servers.port(0)), timeout=20),
        connect(servers) as client,
        raw(client) as talk,
    ):
        talk.extended("guard@lafs", b"\0" + SI + string(b""))
        assert [each.name for each in (servers.root(0) / "locks").iterdir()] == [NAME]
        handle = talk.open(f"/staging/{NAME}.0.{TOKEN}", 2 | 8 | 32)
        for piece in range(64):
            talk.send(6, string(handle) + (piece << 15).to_bytes(8, "big") + string(bytes(32768)))
        below = servers.below(0)
        began = time.monotonic()
        assert servers.terminate(0, number) == 128 + number
        assert time.monotonic() - began < 2.5
    assert not any(alive(pid) for pid in below)
    assert list((servers.root(0) / "locks").iterdir()) == []
    assert servers.log(0).endswith(" stopped\n")
    servers.start(0)
    assert len(set(re.findall(r"host key (SHA256:\S+)", servers.log(0)))) == 1
    with connect(servers) as client, raw(client) as talk:
        assert talk.realpath(".") == b"/"


def test_sessions_end_with_a_listener_that_was_killed(start_listening: Callable[..., ListenServers]) -> None:
    servers = start_listening()
    with connect(servers) as client, raw(client) as talk:
        below = servers.below(0)
        os.kill(servers.processes[0].pid, signal.SIGKILL)
        wait_for(lambda: str(any(alive(pid) for pid in below)), "False")
        with pytest.raises(GONE):
            talk.realpath(".")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


# ---- under sshd


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stdio_ends_at_a_signal_with_its_guards(tmp_path: Path, number: int) -> None:
    from tests.raw_sftp import Pipes
    from tests.serving import SERVE, environment

    command = [*SERVE, "--stdio", "--root", str(tmp_path / "root"), "--log-file", str(tmp_path / "log")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path)
    ) as process:
        talk = RawClient(Pipes.of(process))
        talk.extended("guard@lafs", b"\0" + SI + string(b""))
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert time.monotonic() - began < 2
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert list((tmp_path / "root" / "locks").iterdir()) == []


def test_stdio_ends_with_its_client_and_tells_who_it_was(under_sshd: StdioServers) -> None:
    log = under_sshd.folder / "log"
    with connect(under_sshd) as client, raw(client) as talk:
        assert talk.realpath(".") == b"/"
        count = log.read_text().count('"closed"')
    text = wait_for(log.read_text, '"peer": "127.0.0.1:[0-9]+", "action": "closed"', count=count + 1)
    assert text


# ---- the log


def test_no_cap_gets_into_the_log(served: ListenServers) -> None:
    cap = "URI:CHK:aaaaaaaaaaaaaaaaaaaaaaaaaa:" + "b" * 52 + ":3:10:1000"
    done = subprocess.run(
        ["sftp", "-q", "-F", str(served.config), "-b", "-", "-o", f"User={cap}", "s0"],
        input="pwd\nls URI:CHK:aaaaaaaaaaaaaaaaaaaaaaaaaa:x\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    served.wait_for(0, r"logged in as 'URI:\.\.\.")
    assert "aaaaaaaa" not in served.log(0)
    assert "\x1b" not in served.log(0)
    assert "Traceback" not in served.log(0)
