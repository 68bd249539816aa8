"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lafs_process import Lafs
from tests.serving import ListenServers, StdioServers
from tests.sshd import SshServers

# what a shell gave the tests to ignore (nohup, a job in the background), the programs they start would ignore too
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


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


@pytest.fixture(scope="session")
def local_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `Lafs` whose home has ten folders as servers: to be copied, and not changed."""
    folder = tmp_path_factory.mktemp("local")
    Lafs(folder)("init", "--local", code=0)
    return folder


Mount = Callable[[Path, str], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Call it with an empty folder and the options of a tmpfs; skips the test where that may not be."""
    mounted: list[Path] = []

    def act(folder: Path, options: str) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root may mount a small disk")
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", options, "lafs-test", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount here")
        if done.returncode:
            pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield act
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@pytest.fixture
def start_listening(tmp_path: Path) -> Iterator[Callable[..., ListenServers]]:
    """Call it with a count, options and keywords of ListenServers; what it started ends with the test."""
    with ExitStack() as stack:
        made: list[ListenServers] = []

        def start(count: int = 1, *options: str, **more: str) -> ListenServers:
            made.append(ListenServers(tmp_path / f"listen{len(made)}", count, *options, **more))
            return stack.enter_context(made[-1])

        yield start


@pytest.fixture
def start_stdio(tmp_path: Path) -> Iterator[Callable[..., StdioServers]]:
    """The same for `lafs serve --stdio` under sshd."""
    with ExitStack() as stack:
        made: list[StdioServers] = []

        def start(count: int = 1, *options: str, **more: object) -> StdioServers:
            made.append(StdioServers(tmp_path / f"stdio{len(made)}", count, *options, **more))
            return stack.enter_context(made[-1])

        yield start
