"""The servers of the tests are servers indeed: they stop, start again, freeze and leave nothing running."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sshd import SshServers

INIT = b"\0\0\0\5\1\0\0\0\3"


def open_session(servers: SshServers, i: int) -> subprocess.Popen[bytes]:
    command = ["ssh", "-F", str(servers.config), "-s", servers.name(i), "sftp"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(INIT)
    assert process.stdout.read(5)[4:] == b"\2"
    return process


def test_stop_ends_sessions_too_and_start_brings_the_server_back(ssh_server: SshServers) -> None:
    session = open_session(ssh_server, 0)
    running = ssh_server.sessions(0)
    assert running
    ssh_server.stop(0)
    assert session.wait(10) == 255
    assert not [pid for pid in running if os.path.exists(f"/proc/{pid}/exe")]
    refused = subprocess.run(["ssh", "-F", str(ssh_server.config), "s0", "true"], capture_output=True, timeout=30)
    assert b"refused" in refused.stderr
    ssh_server.start(0)
    open_session(ssh_server, 0).kill()


def test_pause_and_resume(ssh_server: SshServers) -> None:
    session = open_session(ssh_server, 0)
    ssh_server.pause(0)
    assert session.stdin is not None
    assert session.stdout is not None
    session.stdin.write(b"\0\0\0\x0a\x10\0\0\0\7\0\0\0\1.")  # REALPATH
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["ssh", "-F", str(ssh_server.config), "s0", "true"], capture_output=True, timeout=0.5)
    ssh_server.resume(0)
    assert session.stdout.read(1)
    session.kill()


def test_one_server_can_be_cut_off_from_its_clients(start_servers: Callable[..., SshServers]) -> None:
    servers = start_servers(2)
    broken, other = open_session(servers, 0), open_session(servers, 1)
    servers.forget_connections(0)
    assert broken.wait(10) == 255
    assert other.poll() is None
    open_session(servers, 0).kill()
    other.kill()


def test_extensions_can_be_switched_off(start_servers: Callable[..., SshServers], tmp_path: Path) -> None:
    servers = start_servers(1, denied="posix-rename,hardlink")
    (tmp_path / "a").write_bytes(b"")
    command = ["sftp", "-b", "-", "-F", str(servers.config), "s0"]
    for line in (f"rename {tmp_path}/a {tmp_path}/b", f"ln {tmp_path}/b {tmp_path}/c"):
        subprocess.run(command, input=line.encode(), capture_output=True, check=False, timeout=30)
    assert sorted(path.name for path in tmp_path.glob("?")) == ["b"]  # sftp falls back to the v3 rename
