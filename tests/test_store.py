"""The contract of `ShareStore` on a local folder, and over SFTP with all, some and no extensions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lafscli.storage.enrol import enrol
from lafscli.storage.folder import FolderStore
from lafscli.storage.local import LocalFiles
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.store import Files, Server, ShareStore
from lafscli.storage.streams import SshTarget, open_stream
from tests.sshd import SshServers
from tests.store_contract import StoreContract

NODE_ID = bytes(range(20))
SEED = b"seed"


class FolderContract(StoreContract):
    """A FolderStore on a folder that was added the way `server add` does it."""

    node_id: bytes | None = NODE_ID
    seed: bytes | None = SEED

    @pytest.fixture
    def folder(self, reach: tuple[Path, Callable[[], Files]]) -> Path:
        return reach[0]

    @pytest.fixture
    def server(self, reach: tuple[Path, Callable[[], Files]]) -> Server:
        files = reach[1]()
        done = enrol(files, node_id=self.node_id, seed=self.seed, readonly=False, random_bytes=os.urandom)
        files.close()
        return Server("here", done.node_id, done.seed, features=done.features)

    @pytest.fixture
    def fresh(self, reach: tuple[Path, Callable[[], Files]], server: Server) -> Iterator[ShareStore]:
        store = FolderStore(server, reach[1](), random_bytes=os.urandom)
        yield store
        store.close()

    @pytest.fixture
    def store(self, fresh: ShareStore) -> ShareStore:
        fresh.connect()
        return fresh


class TestLocal(FolderContract):
    @pytest.fixture
    def reach(self, tmp_path: Path) -> tuple[Path, Callable[[], Files]]:
        root = tmp_path / "store"
        return root, lambda: LocalFiles(root)


class TestRenameThatOverwrites(TestLocal):
    """A server without any rename that keeps what is there, and without hard links."""

    @pytest.fixture
    def server(self, reach: tuple[Path, Callable[[], Files]]) -> Server:
        files = reach[1]()
        done = enrol(files, node_id=NODE_ID, seed=SEED, readonly=False, random_bytes=os.urandom)
        return Server("here", done.node_id, done.seed, features=done.features - {"rename-keeps", "hardlink"})


class TestHardLinks(TestLocal):
    """A server whose rename overwrites, but that has hard links."""

    @pytest.fixture
    def server(self, reach: tuple[Path, Callable[[], Files]]) -> Server:
        files = reach[1]()
        done = enrol(files, node_id=NODE_ID, seed=SEED, readonly=False, random_bytes=os.urandom)
        return Server("here", done.node_id, done.seed, features=done.features - {"rename-keeps"})


class SftpContract(FolderContract):
    denied = ""
    transport = "ssh"

    @pytest.fixture(scope="class")
    @classmethod
    def sshd(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServers]:
        with SshServers(tmp_path_factory.mktemp("sshd"), 1, denied=cls.denied) as servers:
            yield servers

    @pytest.fixture
    def reach(self, sshd: SshServers, tmp_path: Path, short_tmp: Path) -> tuple[Path, Callable[[], Files]]:
        root = tmp_path / "store"
        target = SshTarget(host="s0", ssh_config=sshd.config, transport=self.transport, run_dir=short_tmp)
        target = replace(target, known_hosts=sshd.known_hosts, identity=sshd.identity)
        return root, lambda: SftpFiles(lambda: open_stream(target), str(root), name="here")


class TestOpenSsh(SftpContract):
    pass


class TestOpenSshWithoutPosixRename(SftpContract):
    denied = "posix-rename,fsync"


class TestOpenSshWithoutExtensions(SftpContract):
    denied = "posix-rename,fsync,hardlink,statvfs,fstatvfs,limits,lsetstat,expand-path,copy-data,home-directory"


class TestParamiko(SftpContract):
    transport = "paramiko"
