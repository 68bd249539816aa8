"""The client on a folder behind the storage server's policy: by its calls, and as an old client does without them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lafscli.storage.sftp import SftpFiles
from lafscli.storage.sshcommand import SshTarget
from lafscli.storage.store import Files
from lafscli.storage.streams import open_stream
from tests.served_folders import served_files
from tests.serving import ListenServers, StdioServers
from tests.test_store import FolderContract


class ServedContract(FolderContract):
    """The server has said who it is before anybody asks."""

    node_id = None
    seed = None


class TestServed(ServedContract):
    @pytest.fixture
    def reach(self, tmp_path: Path) -> tuple[Path, Callable[[], Files]]:
        root = tmp_path / "store"
        root.mkdir()
        return root, lambda: served_files(root)


class TestServedToOldClient(ServedContract):
    @pytest.fixture
    def reach(self, tmp_path: Path) -> tuple[Path, Callable[[], Files]]:
        root = tmp_path / "store"
        root.mkdir()
        return root, lambda: served_files(root, old=True)


class ProcessContract(ServedContract):
    """A server that runs as people run it; each test has its folder empty."""

    servers: type[ListenServers | StdioServers]

    @pytest.fixture(scope="class")
    @classmethod
    def serving(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ListenServers | StdioServers]:
        with cls.servers(tmp_path_factory.mktemp("serving"), 1) as servers:
            yield servers

    @pytest.fixture
    def reach(self, serving: ListenServers | StdioServers) -> tuple[Path, Callable[[], Files]]:
        root = serving.root(0)
        for path in root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        target = SshTarget(
            host="s0", ssh_config=serving.config, known_hosts=serving.known_hosts, identity=serving.identity
        )
        return root, lambda: SftpFiles(lambda: open_stream(target), str(root), name="here")


@pytest.mark.slow
class TestListen(ProcessContract):
    servers = ListenServers


@pytest.mark.slow
class TestStdio(ProcessContract):
    servers = StdioServers
