"""Fixtures that several test modules share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.sshd import SshServers


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A temporary folder with a short name: the path of a control socket must stay under 100 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start_servers(tmp_path: Path) -> Iterator[Callable[..., SshServers]]:
    """Call it with a count and keywords of SshServers; what it started ends with the test."""
    with ExitStack() as stack:
        made: list[SshServers] = []

        def start(count: int = 1, **options: object) -> SshServers:
            servers = SshServers(tmp_path / f"sshd{len(made)}", count, **options)  # type: ignore[arg-type]
            made.append(stack.enter_context(servers))
            return servers

        yield start


@pytest.fixture
def ssh_servers(start_servers: Callable[..., SshServers]) -> SshServers:
    """Ten real sshd with empty folders."""
    return start_servers(10)


@pytest.fixture
def ssh_server(start_servers: Callable[..., SshServers]) -> SshServers:
    """One real sshd with an empty folder."""
    return start_servers(1)
