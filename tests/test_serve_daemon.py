"""`lafs serve --listen` and `--stdio` as processes, with foreign clients."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.serving import ListenServers, StdioServers


def sftp(servers: ListenServers | StdioServers, commands: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run OpenSSH's sftp against server 0."""
    return subprocess.run(
        ["sftp", "-q", "-F", str(servers.config), "-b", "-", *options, "s0"],
        input=commands,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_sftp_reads_what_is_served(start_listening: Callable[..., ListenServers]) -> None:
    servers = start_listening()
    done = sftp(servers, "pwd\nls\n")
    assert done.returncode == 0, done.stderr


def test_sftp_under_sshd(start_stdio: Callable[..., StdioServers], tmp_path: Path) -> None:
    servers = start_stdio()
    done = sftp(servers, "pwd\nls\n")
    assert done.returncode == 0, done.stderr
