"""Byte streams to real SSH servers: shared and private connections, host keys, and what is said when it fails."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.errors import HostKeyChanged, HostKeyUnknown, LafsError, ServerUnreachable
from lafscli.storage.channel import Stream
from lafscli.storage.sshcommand import SshTarget, build_command, computes_aes, control_path, effective_config
from lafscli.storage.sshfaults import fault
from lafscli.storage.sshprocess import SharedStream, SshStream
from lafscli.storage.streams import ParamikoStream, open_stream
from tests.sshd import SshServers

INIT = b"\0\0\0\5\1\0\0\0\3"
VERSION_3 = b"\2\0\0\0\3"
TRANSPORTS = ["ssh", "paramiko"]


def receive(stream: Stream, count: int, timeout: float = 20.0) -> bytes:
    """Exactly so many bytes, or fewer where the stream ends."""
    data = b""
    deadline = time.monotonic() + timeout
    while len(data) < count:
        if not select.select([stream.read_fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        try:
            piece = os.read(stream.read_fd, count - len(data))
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    return data


def greets(stream: Stream, timeout: float = 20.0) -> bool:
    """Whether an SFTP server of version 3 is at the other end."""
    try:
        os.write(stream.write_fd, INIT)
    except BrokenPipeError:
        return False
    length = int.from_bytes(receive(stream, 4, timeout), "big")
    return receive(stream, length, timeout).startswith(VERSION_3)


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def ask(stream: Stream, packet: bytes) -> bytes:
    """One request, one answer."""
    rest = memoryview(string(packet))
    while rest:
        assert select.select([], [stream.write_fd], [], 20)[1]
        rest = rest[os.write(stream.write_fd, rest) :]
    return receive(stream, int.from_bytes(receive(stream, 4), "big"))


def failure(stream: Stream) -> LafsError:
    """Why a stream that can't work does not."""
    assert not greets(stream)
    error = stream.explain()
    stream.close()
    return error


@pytest.fixture
def opened() -> Iterator[Callable[[SshTarget], Stream]]:
    """open_stream; closed at the end of the test."""
    streams: list[Stream] = []

    def opens(target: SshTarget) -> Stream:
        streams.append(open_stream(target))
        return streams[-1]

    yield opens
    for stream in streams:
        stream.close()


@pytest.fixture
def target(ssh_server: SshServers, short_tmp: Path) -> SshTarget:
    """The one server, with connections shared in a folder of the test."""
    return SshTarget(
        host="s0", ssh_config=ssh_server.config, run_dir=short_tmp / "run", home_known_hosts=short_tmp / "known_hosts"
    )


def master_pid(target: SshTarget) -> int:
    """The process that keeps the shared connection."""
    path = control_path(target)
    command = ["ssh", "-F", str(target.ssh_config), "-o", f"ControlPath={path}", "-O", "check", target.host]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stderr
    return int(said.partition("pid=")[2].partition(")")[0])


# ---- the stream ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_stream_speaks_sftp_and_closes(
    target: SshTarget, opened: Callable[[SshTarget], Stream], transport: str
) -> None:
    stream = opened(replace(target, transport=transport, persist=0))
    assert isinstance(stream, {"ssh": SshStream, "paramiko": ParamikoStream}[transport])
    assert not os.get_blocking(stream.read_fd)
    assert not os.get_blocking(stream.write_fd)
    assert greets(stream)
    stream.close()
    stream.close()
    assert receive(stream, 1) == b""


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_bulk_data_goes_both_ways(
    target: SshTarget, opened: Callable[[SshTarget], Stream], tmp_path: Path, transport: str
) -> None:
    stream = opened(replace(target, transport=transport))
    assert greets(stream)
    data = os.urandom(30_000) * 50
    (tmp_path / "file").write_bytes(data)
    path = str(tmp_path / "file").encode()
    handle = ask(stream, b"\3\0\0\0\1" + string(path) + b"\0\0\0\3" + b"\0\0\0\0")[5:]
    for offset in range(0, len(data), 30_000):
        where = offset.to_bytes(8, "big")
        answer = ask(stream, b"\5\0\0\0\2" + handle + where + (30_000).to_bytes(4, "big"))
        assert answer[9:] == data[offset : offset + 30_000]
        status = ask(stream, b"\6\0\0\0\3" + handle + where + string(data[:30_000][::-1]))
        assert status[:9] == b"\x65\0\0\0\3\0\0\0\0"
    assert (tmp_path / "file").read_bytes() == data[:30_000][::-1] * 50


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_close_wakes_who_waits(
    target: SshTarget, opened: Callable[[SshTarget], Stream], ssh_server: SshServers, transport: str
) -> None:
    """Also where the server, and the process that keeps a shared connection, hang."""
    import threading

    first = opened(replace(target, transport=transport))
    assert greets(first)
    stream = opened(replace(target, transport=transport))
    assert greets(stream)
    ssh_server.pause(0)
    master = master_pid(target) if transport == "ssh" else None
    if master is not None:
        os.kill(master, signal.SIGSTOP)
    try:
        closer = threading.Timer(0.2, stream.close)
        closer.start()
        assert receive(stream, 1, timeout=10) == b""
        closer.join()
    finally:
        if master is not None:
            os.kill(master, signal.SIGCONT)


# ---- sharing ---------------------------------------------------------------------------------------------------


def test_the_second_stream_shares_the_connection(
    target: SshTarget, opened: Callable[[SshTarget], Stream], ssh_server: SshServers
) -> None:
    first = opened(target)
    assert isinstance(first, SshStream)
    assert greets(first)
    second = opened(target)
    assert isinstance(second, SharedStream)
    assert greets(second)
    assert ssh_server.log(0).count("Accepted publickey") == 1
    assert target.run_dir is not None
    assert target.run_dir.stat().st_mode & 0o777 == 0o700


def test_closing_the_first_stream_leaves_the_shared_connection(
    target: SshTarget, opened: Callable[[SshTarget], Stream], ssh_server: SshServers
) -> None:
    first = opened(target)
    assert greets(first)
    second = opened(target)
    assert greets(second)
    first.close()
    os.write(second.write_fd, b"\0\0\0\x0a\x10\0\0\0\7\0\0\0\1.")  # REALPATH
    assert receive(second, 1)
    second.close()
    third = opened(target)
    assert greets(third)
    assert ssh_server.log(0).count("Accepted publickey") == 1


def test_a_closed_shared_session_ends_on_the_server(
    target: SshTarget, opened: Callable[[SshTarget], Stream], ssh_server: SshServers
) -> None:
    first = opened(target)
    assert greets(first)
    before = ssh_server.sessions(0)
    second = opened(target)
    assert greets(second)
    [new] = set(ssh_server.sessions(0)) - set(before)
    handle = os.pidfd_open(new)
    second.close()
    assert select.select([handle], [], [], 10)[0]
    os.close(handle)


def test_the_shared_connection_survives_the_program_and_holds_none_of_its_descriptors(
    target: SshTarget, opened: Callable[[SshTarget], Stream]
) -> None:
    """`lafs put … | cat` must end with lafs, and the next lafs find the connection."""
    program = f"""
import os, select
from pathlib import PosixPath
from lafscli.storage.sshcommand import SshTarget
from lafscli.storage.streams import open_stream
stream = open_stream({target!r})
os.write(stream.write_fd, {INIT!r})
select.select([stream.read_fd], [], [])
print("greeted", len(os.read(stream.read_fd, 9)), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=20, check=True)
    assert done.stdout == b"greeted 9\n"
    stream = opened(target)
    assert isinstance(stream, SharedStream)
    assert greets(stream)


def test_ctrl_c_in_the_terminal_does_not_reach_the_connection(
    target: SshTarget, opened: Callable[[SshTarget], Stream]
) -> None:
    stream = opened(target)
    assert isinstance(stream, SshStream)
    assert greets(stream)
    assert os.getsid(stream._process.pid) != os.getsid(0)
    assert os.getsid(master_pid(target)) not in (os.getsid(0), os.getsid(stream._process.pid))


def test_a_hung_master_is_left_alone_and_replaced(
    target: SshTarget, opened: Callable[[SshTarget], Stream], ssh_server: SshServers
) -> None:
    target = replace(target, connect_timeout=3)
    first = opened(target)
    assert greets(first)
    hung = master_pid(target)
    os.kill(hung, signal.SIGSTOP)
    try:
        stream = opened(target)
        assert isinstance(stream, SshStream)
        assert greets(stream)
        assert master_pid(target) != hung
        third = opened(target)
        assert isinstance(third, SharedStream)
        assert greets(third)
    finally:
        os.kill(hung, signal.SIGCONT)
    os.write(first.write_fd, b"\0\0\0\x0a\x10\0\0\0\7\0\0\0\1.")
    assert receive(first, 1)
    assert ssh_server.log(0).count("Accepted publickey") == 2


def test_a_master_whose_server_hangs_is_replaced(
    target: SshTarget, opened: Callable[[SshTarget], Stream], ssh_server: SshServers
) -> None:
    """The master answers, its connection does not; a new connection works."""
    target = replace(target, connect_timeout=3)
    assert greets(opened(target))
    frozen = ssh_server.sessions(0)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        stream = opened(target)
        assert isinstance(stream, SshStream)
        assert greets(stream)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)


def test_the_socket_of_a_killed_master_is_recovered(target: SshTarget, opened: Callable[[SshTarget], Stream]) -> None:
    assert greets(opened(target))
    killed = master_pid(target)
    os.kill(killed, signal.SIGKILL)
    path = control_path(target)
    assert path is not None
    assert path.exists()
    stream = opened(target)
    assert isinstance(stream, SshStream)
    assert greets(stream)
    assert master_pid(target) != killed


def test_a_socket_that_talks_nonsense_is_not_used(target: SshTarget, opened: Callable[[SshTarget], Stream]) -> None:
    path = control_path(target)
    assert path is not None
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(str(path))
        impostor.listen()
        stream = opened(replace(target, connect_timeout=3))
        assert isinstance(stream, SshStream)
    assert greets(stream)


def test_a_lost_shared_connection_is_worth_another_try(
    target: SshTarget, opened: Callable[[SshTarget], Stream], ssh_server: SshServers
) -> None:
    assert greets(opened(target))
    stream = opened(target)
    assert isinstance(stream, SharedStream)
    assert greets(stream)
    ssh_server.forget_connections(0)
    while receive(stream, 1 << 16):
        pass
    error = stream.explain()
    assert isinstance(error, ServerUnreachable)
    assert error.transient
    assert greets(opened(target))


def test_more_sessions_than_a_connection_takes_get_connections_of_their_own(
    target: SshTarget, opened: Callable[[SshTarget], Stream], ssh_server: SshServers
) -> None:
    config = ssh_server.folder / "sshd_config0"
    ssh_server.stop(0)
    ssh_server.max_sessions = 2
    ssh_server.start(0)
    assert "MaxSessions 2" in config.read_text()
    kinds = []
    for _ in range(4):
        stream = opened(target)
        assert greets(stream)
        kinds.append(type(stream))
    assert kinds == [SshStream, SharedStream, SshStream, SshStream]


@pytest.mark.parametrize(
    "change",
    [
        {"persist": 0},
        {"run_dir": None},
        {"run_dir": Path("/proc/nowhere")},
        {"run_dir": Path("/tmp/" + "x" * 90)},
    ],
    ids=["persist off", "no folder", "no such folder", "path too long"],
)
def test_where_nothing_can_be_shared_every_stream_has_its_connection(
    target: SshTarget, opened: Callable[[SshTarget], Stream], change: dict[str, object]
) -> None:
    target = replace(target, **change)  # type: ignore[arg-type]
    for _ in range(2):
        stream = opened(target)
        assert isinstance(stream, SshStream)
        assert greets(stream)
    if target.run_dir is not None and target.run_dir.parent == Path("/tmp"):
        target.run_dir.rmdir()


def test_a_folder_of_somebody_else_is_not_used(target: SshTarget, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert control_path(replace(target, run_dir=tmp_path / "link")) is None
    if os.geteuid() == 0:
        (tmp_path / "other").mkdir()
        os.chown(tmp_path / "other", 12345, -1)
        assert control_path(replace(target, run_dir=tmp_path / "other")) is None


def test_what_tells_connections_apart_is_in_the_name(target: SshTarget, tmp_path: Path) -> None:
    assert target.ssh_config is not None
    changes: list[dict[str, object]] = [
        {},
        {"host": "s1"},
        {"port": 1},
        {"user": "u"},
        {"ssh_command": "/bin/ssh"},
        {"ssh_config": Path("none")},
        {"identity": tmp_path / "key"},
        {"known_hosts": tmp_path / "known"},
        {"ssh_options": ("Compression=yes",)},
        {"home_known_hosts": tmp_path / "known"},
    ]
    names = [control_path(replace(target, **change)) for change in changes]  # type: ignore[arg-type]
    assert control_path(replace(target, connect_timeout=1, persist=5)) == names[0]
    with target.ssh_config.open("a") as config:
        config.write("# changed\n")
    assert len({*names, control_path(target)}) == len(changes) + 1


def test_the_users_own_sharing_is_left_to_the_user(
    target: SshTarget, opened: Callable[[SshTarget], Stream], short_tmp: Path
) -> None:
    assert target.ssh_config is not None
    with target.ssh_config.open("a") as config:
        config.write(f"    ControlPath {short_tmp}/own\n    ControlMaster auto\n    ControlPersist 20\n")
    assert greets(opened(target))
    assert (short_tmp / "own").exists()
    assert list((short_tmp / "run").iterdir()) == []


# ---- the command -----------------------------------------------------------------------------------------------


def test_the_command_is_the_one_of_the_contract(target: SshTarget, short_tmp: Path) -> None:
    command = build_command(replace(target, user="u", port=7, ssh_options=("Compression=yes",)), short_tmp / "c")
    text = " ".join(command)
    assert text.startswith(
        f"ssh -T -x -a -F {target.ssh_config} -p 7 -l u -o BatchMode=yes -o RemoteCommand=none -o Req"
    )
    for option in ("RequestTTY=no", "ClearAllForwardings=yes", "PermitLocalCommand=no", "Compression=yes"):
        assert f"-o {option} " in text
    for option in ("ConnectTimeout=15", "ServerAliveInterval=15", "ControlMaster=auto", "ControlPersist=30"):
        assert f"-o {option} " in text
    assert text.endswith(" -s -- s0 sftp")


def test_what_the_users_configuration_sets_is_left(target: SshTarget) -> None:
    assert target.ssh_config is not None
    with target.ssh_config.open("a") as config:
        config.write("    ConnectTimeout 77\n    ServerAliveInterval 99\n    GlobalKnownHostsFile /etc/a /etc/b\n")
    text = " ".join(build_command(target, None))
    assert "ConnectTimeout" not in text
    assert "ServerAlive" not in text
    assert f'GlobalKnownHostsFile="{target.home_known_hosts}" "/etc/a" "/etc/b"' in text


CHACHA, CTR = "chacha20-poly1305@openssh.com", "aes128-ctr,aes192-ctr,aes256-ctr"
GCM, STRONGER = "aes128-gcm@openssh.com", "aes256-gcm@openssh.com"
BEFORE_10 = f"{CHACHA},{CTR},{GCM},{STRONGER}"
SINCE_10 = f"{CHACHA},{GCM},{STRONGER},{CTR}"


def options_with(target: SshTarget, folder: Path, ciphers: str, monkeypatch: pytest.MonkeyPatch, *, aes: bool) -> str:
    """The command for an ssh whose configuration tells these ciphers."""
    ssh = folder / "ssh"
    ssh.write_text(f"#!/bin/sh\necho ciphers {ciphers}\n")
    ssh.chmod(0o755)
    monkeypatch.setattr("lafscli.storage.sshcommand.computes_aes", lambda: aes)
    return " ".join(build_command(replace(target, ssh_command=str(ssh)), None))


@pytest.mark.parametrize("usual", [BEFORE_10, SINCE_10])
def test_aes_gcm_comes_first_among_all_that_openssh_offers_by_itself(
    target: SshTarget, short_tmp: Path, monkeypatch: pytest.MonkeyPatch, usual: str
) -> None:
    command = options_with(target, short_tmp, usual, monkeypatch, aes=True)
    ciphers = command.partition("-o Ciphers=")[2].split()[0].split(",")
    assert ciphers[:2] == [GCM, CHACHA]
    assert sorted(ciphers) == sorted(usual.split(","))


def test_the_cipher_is_left_to_ssh_where_somebody_chose_or_the_processor_has_no_aes(
    target: SshTarget, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for chosen in (CHACHA, f"{BEFORE_10},aes256-cbc", BEFORE_10.partition(",")[2], ""):
        assert "Ciphers" not in options_with(target, short_tmp, chosen, monkeypatch, aes=True)
    assert "Ciphers" not in options_with(target, short_tmp, BEFORE_10, monkeypatch, aes=False)


def test_ciphers_of_the_users_configuration_and_of_an_option_are_left(
    target: SshTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lafscli.storage.sshcommand.computes_aes", lambda: True)
    asked = build_command(replace(target, ssh_options=("Ciphers=aes256-ctr",)), None)
    assert [word for word in asked if word.startswith("Ciphers")] == ["Ciphers=aes256-ctr"]
    assert target.ssh_config is not None
    with target.ssh_config.open("a") as config:
        config.write("    Ciphers ^aes256-ctr\n")
    assert "Ciphers" not in " ".join(build_command(target, None))


def test_a_server_without_the_first_cipher_takes_the_next(
    ssh_server: SshServers, target: SshTarget, opened: Callable[[SshTarget], Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lafscli.storage.sshcommand.computes_aes", lambda: True)
    config = ssh_server.folder / "sshd_config0"
    usual = config.read_text()
    ssh_server.stop(0)
    monkeypatch.setattr(ssh_server, "_server_config", lambda _: f"{usual}Ciphers aes128-ctr\n")
    ssh_server.start(0)
    assert greets(opened(replace(target, persist=0)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu sse2 aes avx\n", True),
        ("Features\t: fp asimd aes pmull sha2\n", True),
        ("flags\t\t: fpu sse2 vaes_not avx\n", False),
        ("", False),
        (None, False),
    ],
)
def test_the_processor_tells_whether_it_computes_aes(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: bool
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    if text is not None:
        (short_tmp / "cpuinfo").write_text(text)
    assert computes_aes(short_tmp / "cpuinfo") is expected


def test_every_mac_computes_aes(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert computes_aes(short_tmp / "none")


def test_f_none_reads_no_configuration(ssh_server: SshServers, opened: Callable[[SshTarget], Stream]) -> None:
    target = SshTarget(
        host="127.0.0.1",
        ssh_config=Path("none"),
        port=ssh_server.port(0),
        identity=ssh_server.identity,
        known_hosts=ssh_server.known_hosts,
    )
    assert effective_config(target)["hashknownhosts"] == "no"
    assert greets(opened(target))
    assert greets(opened(replace(target, transport="paramiko", ssh_config=Path("/nonexistent"))))


def test_paths_with_spaces_and_percent_signs_work(
    ssh_server: SshServers, opened: Callable[[SshTarget], Stream], short_tmp: Path
) -> None:
    odd = short_tmp / "a %h b"
    odd.mkdir()
    for name in (ssh_server.identity, ssh_server.known_hosts, ssh_server.config):
        shutil.copy(name, odd / name.name)
    target = SshTarget(
        host="127.0.0.1",
        ssh_config=Path("none"),
        port=ssh_server.port(0),
        identity=odd / ssh_server.identity.name,
        known_hosts=odd / ssh_server.known_hosts.name,
        run_dir=odd / "run",
    )
    assert greets(opened(target))
    assert isinstance(opened(target), SharedStream)
    moved = replace(target, known_hosts=Path("/dev/null"), home_known_hosts=target.known_hosts, persist=0)
    assert greets(opened(moved))


# ---- host keys -------------------------------------------------------------------------------------------------


def shown(ssh_server: SshServers) -> str:
    command = ["ssh-keygen", "-l", "-f", str(ssh_server.folder / "host_key0.pub")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]


@pytest.fixture
def stranger(target: SshTarget, ssh_server: SshServers) -> SshTarget:
    """The server, its key not known."""
    ssh_server.known_hosts.write_text("")
    return target


def refused(target: SshTarget) -> LafsError:
    try:
        stream = open_stream(target)
    except LafsError as error:
        return error
    return failure(stream)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_unknown_host_key_is_refused_with_its_fingerprint(
    stranger: SshTarget, ssh_server: SshServers, transport: str
) -> None:
    error = refused(replace(stranger, transport=transport))
    assert type(error) is HostKeyUnknown
    assert error.fingerprint == shown(ssh_server)
    assert error.fingerprint in error.message
    assert "--accept-new" in str(error.hint)
    assert stranger.home_known_hosts is not None
    assert not stranger.home_known_hosts.exists()


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("then", TRANSPORTS)
def test_an_accepted_host_key_is_recorded_at_home_and_known_to_both(
    stranger: SshTarget, opened: Callable[[SshTarget], Stream], ssh_server: SshServers, transport: str, then: str
) -> None:
    home = stranger.home_known_hosts
    assert home is not None
    stranger = replace(stranger, persist=0)
    assert greets(opened(replace(stranger, transport=transport, accept_new=True)))
    kind, key = (ssh_server.folder / "host_key0.pub").read_text().split()[:2]
    recorded = home.read_text()
    assert recorded == f"[127.0.0.1]:{ssh_server.port(0)} {kind} {key}\n"
    assert greets(opened(replace(stranger, transport=then)))
    assert greets(opened(replace(stranger, transport=then, accept_new=True)))
    assert home.read_text() == recorded
    assert ssh_server.known_hosts.read_text() == ""


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("accept_new", [False, True])
@pytest.mark.parametrize("place", ["user", "home", "hashed"])
def test_a_changed_host_key_is_refused_whoever_asks(
    stranger: SshTarget, ssh_server: SshServers, transport: str, accept_new: bool, place: str
) -> None:
    assert stranger.home_known_hosts is not None
    other = ssh_server.identity.with_suffix(".pub").read_text().split()[:2]
    known = stranger.home_known_hosts if place == "home" else ssh_server.known_hosts
    known.write_text(f"[127.0.0.1]:{ssh_server.port(0)} {' '.join(other)}\n")
    if place == "hashed":
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    before = known.read_text()
    error = refused(replace(stranger, transport=transport, accept_new=accept_new))
    assert isinstance(error, HostKeyChanged)
    assert error.fingerprint == shown(ssh_server)
    assert known.read_text() == before
    assert place == "home" or not stranger.home_known_hosts.exists()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_revoked_host_key_is_refused(stranger: SshTarget, ssh_server: SshServers, transport: str) -> None:
    key = " ".join((ssh_server.folder / "host_key0.pub").read_text().split()[:2])
    ssh_server.known_hosts.write_text(f"@revoked * {key}\n[127.0.0.1]:{ssh_server.port(0)} {key}\n")
    error = refused(replace(stranger, transport=transport))
    assert isinstance(error, HostKeyChanged)


def test_a_laxer_configuration_of_the_user_is_overruled(stranger: SshTarget) -> None:
    assert stranger.ssh_config is not None
    with stranger.ssh_config.open("a") as config:
        config.write("    StrictHostKeyChecking no\n    LogLevel QUIET\n")
    assert isinstance(refused(stranger), HostKeyUnknown)


def test_an_unknown_jump_host_is_told_apart(
    start_servers: Callable[..., SshServers], short_tmp: Path, opened: Callable[[SshTarget], Stream]
) -> None:
    servers = start_servers(2)
    text = servers.config.read_text()
    servers.config.write_text(f"Host s0\n    ProxyJump s1\n{text}")
    target = SshTarget(host="s0", ssh_config=servers.config, run_dir=short_tmp / "run")
    stream = opened(target)
    assert greets(stream)
    stream.close()
    assert isinstance(opened(target), SharedStream)
    lines = servers.known_hosts.read_text().splitlines(keepends=True)
    servers.known_hosts.write_text("".join(line for line in lines if f":{servers.port(1)} " not in line))
    error = refused(replace(target, persist=0))
    assert type(error) is HostKeyUnknown
    assert "on the way to s0" in error.message


# ---- what is said when it fails --------------------------------------------------------------------------------


def test_a_refused_login_is_told(target: SshTarget, ssh_server: SshServers, short_tmp: Path) -> None:
    wrong = short_tmp / "wrong"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(wrong)], check=True)
    shutil.copy(wrong, ssh_server.identity)
    for transport in TRANSPORTS:
        error = refused(replace(target, transport=transport))
        assert isinstance(error, ServerUnreachable)
        assert "login refused" in error.message
        assert not error.transient


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_dead_server_is_told(target: SshTarget, ssh_server: SshServers, transport: str) -> None:
    ssh_server.stop(0)
    error = refused(replace(target, transport=transport))
    assert isinstance(error, ServerUnreachable)
    assert not error.transient
    assert "refused" in error.message or "Unable to connect" in error.message


def test_a_dropped_connection_is_worth_another_try(target: SshTarget, start_servers: Callable[..., SshServers]) -> None:
    servers = start_servers(1, max_startups="1")
    target = replace(target, ssh_config=servers.config)
    with socket.create_connection(("127.0.0.1", servers.port(0))) as idle:
        assert idle.recv(4) == b"SSH-"
        for transport in TRANSPORTS:
            error = refused(replace(target, transport=transport))
            assert isinstance(error, ServerUnreachable)
            assert error.transient, error.message


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_that_hangs_is_given_up_after_the_connect_timeout(
    target: SshTarget, ssh_server: SshServers, transport: str
) -> None:
    ssh_server.pause(0)
    begin = time.monotonic()
    error = refused(replace(target, transport=transport, connect_timeout=1))
    assert isinstance(error, ServerUnreachable)
    assert time.monotonic() - begin < 6


def test_a_server_without_sftp_is_told(target: SshTarget, start_servers: Callable[..., SshServers]) -> None:
    servers = start_servers(1, subsystem="")
    target = replace(target, ssh_config=servers.config)
    for transport, persist in (("ssh", 0), ("ssh", 30), ("paramiko", 0)):
        error = refused(replace(target, transport=transport, persist=persist))
        assert isinstance(error, ServerUnreachable)
        assert "no SFTP" in error.message


def test_a_broken_configuration_is_told(target: SshTarget) -> None:
    assert target.ssh_config is not None
    with target.ssh_config.open("a") as config:
        config.write("    Nonsense yes\n")
    assert "ssh_config" in refused(target).message


def test_a_missing_program_is_told(target: SshTarget, tmp_path: Path) -> None:
    error = refused(replace(target, ssh_command=str(tmp_path / "no-ssh")))
    assert isinstance(error, ServerUnreachable)
    assert "no-ssh" in error.message


def test_without_ssh_paramiko_is_taken(target: SshTarget, tmp_path: Path) -> None:
    """In a process whose PATH has no ssh."""
    program = f"""
from pathlib import PosixPath
from lafscli.storage.sshcommand import SshTarget
from lafscli.storage.streams import open_stream
print(type(open_stream({target!r})).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "ParamikoStream\n", done.stderr


def test_what_a_server_says_is_escaped(target: SshTarget) -> None:
    error = fault(target, "debug1: x\nevil\x1b[31m\n", 1, lambda _: None)
    assert error.message == "evil\\x1b[31m"


def test_a_program_that_talks_without_end_on_stderr_fills_nothing(target: SshTarget, tmp_path: Path) -> None:
    script = tmp_path / "ssh"
    script.write_text('#!/bin/sh\ncase "$*" in *-G*) exit 1;; esac\nexec yes evil >&2\n')
    script.chmod(0o755)
    stream = open_stream(replace(target, ssh_command=str(script)))
    assert stream.explain().message.startswith("ev")
    stream.close()


@pytest.mark.parametrize("option", ["ProxyJump s1", "ProxyCommand nc %h %p"])
def test_what_paramiko_can_not_do_asks_for_ssh(target: SshTarget, option: str) -> None:
    assert target.ssh_config is not None
    with target.ssh_config.open("a") as config:
        config.write(f"    {option}\n")
    error = refused(replace(target, transport="paramiko"))
    assert "paramiko can't" in error.message
    assert "OpenSSH" in str(error.hint)
