"""Adding a server: its identity, its folders, and what is found out about its file system."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lafscli.errors import FileMissing, ServerError, UsageError
from lafscli.primitives.encoding import b32encode
from lafscli.storage.enrol import (
    Enrolment,
    Identity,
    enrol,
    make_folders,
    parse_node_id,
    read_identity,
)
from lafscli.storage.local import LocalFiles
from lafscli.storage.sftp import SftpFiles
from lafscli.storage.sshcommand import SshTarget
from lafscli.storage.store import Answer, Files, FileStat, Op, Rename
from lafscli.storage.streams import open_stream
from tests.sshd import SshServers

NODE_ID = bytes(range(20))
SEED = b"a seed of any length"
ALL = {"rename-keeps", "folder-rename-keeps", "posix-rename", "hardlink", "fsync", "statvfs", "ordered"}


def random_bytes() -> Callable[[int], bytes]:
    """The same bytes in every test, never the same twice in one."""
    counter = itertools.count()
    return lambda size: hashlib.shake_256(b"%d" % next(counter)).digest(size)


def add(
    files: Files,
    *,
    node_id: bytes | None = None,
    seed: bytes | None = None,
    readonly: bool = False,
    mutable: bool = True,
) -> Enrolment:
    return enrol(files, node_id=node_id, seed=seed, readonly=readonly, random_bytes=random_bytes(), mutable=mutable)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "node" / "storage"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def files(root: Path) -> Files:
    return LocalFiles(root)


# ---- a new folder ----------------------------------------------------------------------------------------------


def test_a_new_folder_gets_an_identity_and_its_folders(files: Files, root: Path) -> None:
    added = add(files)
    assert len(added.node_id) == 20
    assert added.features == ALL
    assert added.warnings == []
    assert everything(root) == ["locks", "quarantine", "server.toml", "shares", "staging", "trash"]
    assert read_identity(files) == Identity(added.node_id, added.seed)
    text = (root / "server.toml").read_text()
    assert text == (
        f'version = 1\nnode-id = "{b32encode(added.node_id)}"\npermutation-seed = "{b32encode(added.seed)}"\n'
    )


def test_the_root_is_made_if_absent(tmp_path: Path) -> None:
    add(LocalFiles(tmp_path / "new"))
    assert (tmp_path / "new/shares").is_dir()


def test_a_root_in_nowhere_is_missing_until_its_folders_are_made(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        add(LocalFiles(tmp_path / "a/b/c"))
    make_folders(LocalFiles(tmp_path), "a/b/c")
    assert add(LocalFiles(tmp_path / "a/b/c")).features == ALL


def test_adding_twice_finds_the_same_server(files: Files, root: Path) -> None:
    first = add(files)
    (root / "server.toml").write_bytes((root / "server.toml").read_bytes() + b'epoch = 7\nmembers = ["x"]\n')
    kept = (root / "server.toml").read_bytes()
    again = enrol(files, node_id=None, seed=None, readonly=False, random_bytes=os.urandom)
    assert (again.node_id, again.seed) == (first.node_id, first.seed)
    assert (root / "server.toml").read_bytes() == kept


def test_given_values_are_taken(files: Files) -> None:
    added = add(files, node_id=NODE_ID, seed=SEED)
    assert (added.node_id, added.seed, added.warnings) == (NODE_ID, SEED, [])


def test_a_node_id_without_a_seed_is_its_own_seed_and_that_is_said(files: Files) -> None:
    added = add(files, node_id=NODE_ID)
    assert added.seed == NODE_ID
    assert "seed" in added.warnings[0]


@pytest.mark.parametrize(("node_id", "seed"), [(bytes(20), None), (None, b"another")])
def test_given_values_must_agree_with_the_server(files: Files, node_id: bytes | None, seed: bytes | None) -> None:
    add(files, node_id=NODE_ID, seed=SEED)
    with pytest.raises(ServerError, match="another") as raised:
        add(files, node_id=node_id, seed=seed)
    assert raised.value.exit_code == 8


def test_of_two_who_add_at_once_the_first_counts(root: Path) -> None:
    class Late(LocalFiles):
        """Another client adds the folder just before ours publishes its server.toml."""

        def do(self, ops: Sequence[Op]) -> list[Answer]:
            if isinstance(ops[0], Rename) and ops[0].new == "server.toml":
                (root / "server.toml").write_bytes(Identity(NODE_ID, SEED).serialise())
            return super().do(ops)

    added = add(Late(root))
    assert (added.node_id, added.seed) == (NODE_ID, SEED)
    assert everything(root / "staging") == []


# ---- a server.toml that can't be used --------------------------------------------------------------------------

GOOD = Identity(NODE_ID, SEED).serialise().decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version =", "not TOML"),
        (GOOD.replace("version = 1", "version = 2"), "version"),
        (GOOD.replace("version = 1", "version = true"), "version"),
        (GOOD.replace("version = 1", ""), "version"),
        (GOOD.replace(b32encode(NODE_ID), b32encode(NODE_ID[:19])), "20 bytes"),
        (GOOD.replace(b32encode(NODE_ID), "!!"), "node-id"),
        (GOOD.replace("permutation-seed", "seed"), "permutation-seed"),
        (GOOD.replace(f'"{b32encode(SEED)}"', "5"), "permutation-seed"),
        (GOOD + "# " + "x" * 65536, "longer than 65536"),
        ("version = 1\n\udcff", "not TOML"),
    ],
)
def test_a_broken_server_toml_is_refused_and_kept(files: Files, root: Path, text: str, said: str) -> None:
    data = text.encode(errors="surrogateescape")
    (root / "server.toml").write_bytes(data)
    with pytest.raises(ServerError, match=said):
        read_identity(files)
    with pytest.raises(ServerError, match=said):
        add(files)
    assert everything(root) == ["server.toml"]
    assert (root / "server.toml").read_bytes() == data


# ---- folders of a Tahoe node -----------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", [True, False])
def test_the_identity_of_a_tahoe_node_is_taken(files: Files, root: Path, beside: bool) -> None:
    node = root if beside else root.parent
    public_key = "tafp4hvo2anpwvijbvhqypvbuxpygydy4mtpeetxfitzrqxwpeia"
    (node / "my_nodeid").write_text(b32encode(NODE_ID) + "\n")
    (node / "permutation-seed").write_text(b32encode(public_key.encode()) + "\n")
    added = add(files)
    assert (added.node_id, added.seed) == (NODE_ID, public_key.encode())
    assert "Tahoe" in added.warnings[0]
    assert add(files, mutable=False).warnings == []


def test_a_tahoe_node_without_a_seed_has_its_node_id_for_it(files: Files, root: Path) -> None:
    (root.parent / "my_nodeid").write_text(b32encode(NODE_ID))
    added = add(files, mutable=False)
    assert (added.node_id, added.seed, added.warnings) == (NODE_ID, NODE_ID, [])


def test_a_given_node_id_that_is_not_the_tahoe_nodes_is_warned_of(files: Files, root: Path) -> None:
    (root.parent / "my_nodeid").write_text(b32encode(NODE_ID))
    added = add(files, node_id=bytes(20), seed=SEED, mutable=False)
    assert added.node_id == bytes(20)
    assert b32encode(NODE_ID) in added.warnings[0]


def test_a_broken_file_of_a_tahoe_node_is_refused(files: Files, root: Path) -> None:
    (root.parent / "my_nodeid").write_text("not base32!")
    with pytest.raises(ServerError, match="my_nodeid"):
        add(files)


# ---- read-only -------------------------------------------------------------------------------------------------


def test_readonly_writes_nothing_and_needs_an_identity(files: Files, root: Path) -> None:
    (root / "shares").mkdir()
    with pytest.raises(ServerError, match=r"server\.toml"):
        add(files, readonly=True)
    assert add(files, readonly=True, node_id=NODE_ID, seed=SEED).node_id == NODE_ID
    (root.parent / "my_nodeid").write_text(b32encode(NODE_ID))
    assert add(files, readonly=True).seed == NODE_ID
    (root / "server.toml").write_bytes(Identity(NODE_ID, SEED).serialise())
    assert add(files, readonly=True).seed == SEED
    assert everything(root) == ["server.toml", "shares"]


def test_readonly_of_a_folder_without_shares_is_refused(files: Files) -> None:
    with pytest.raises(ServerError, match="shares"):
        add(files, readonly=True, node_id=NODE_ID, seed=SEED)


# ---- what is found out -----------------------------------------------------------------------------------------


def test_folders_on_two_file_systems_are_refused(files: Files, root: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == root.stat().st_dev:
        pytest.skip("only one file system here")
    away = elsewhere / f"lafs-test-{os.getpid()}"
    away.mkdir()
    try:
        (root / "shares").symlink_to(away)
        with pytest.raises(ServerError, match="from staging to shares") as raised:
            add(files)
        assert "one file system" in str(raised.value.hint)
        assert everything(root) == ["locks", "quarantine", "shares", "staging", "trash"]
        assert everything(away) == []
    finally:
        away.rmdir()


def test_a_rename_that_replaces_is_found_out(root: Path) -> None:
    class Replacing(LocalFiles):
        """As a server whose v3 rename is rename(2)."""

        def _carry_out(self, op: Op) -> FileStat | None:
            if isinstance(op, Rename):
                os.rename(self._path(op.old), self._path(op.new))
                return None
            return super()._carry_out(op)

    added = add(Replacing(root))
    assert added.features == ALL - {"rename-keeps"}
    assert "no mutable files" in added.warnings[0]
    assert everything(root) == ["locks", "quarantine", "server.toml", "shares", "staging", "trash"]


def test_a_folder_that_can_not_be_written_is_refused(root: Path) -> None:
    (root / "staging").write_bytes(b"a file where a folder should be")
    with pytest.raises(ServerError):
        add(LocalFiles(root))


# ---- over SSH --------------------------------------------------------------------------------------------------


def sftp_files(servers: SshServers, path: str) -> SftpFiles:
    target = SshTarget(host="s0", ssh_config=servers.config, run_dir=None)
    return SftpFiles(lambda: open_stream(target), path, name="s0")


@pytest.mark.parametrize(
    ("denied", "missing"),
    [
        ("", set()),
        ("posix-rename", {"posix-rename"}),
        ("hardlink,fsync", {"hardlink", "fsync"}),
        (
            "posix-rename,hardlink,fsync,statvfs,fstatvfs,limits,expand-path",
            ALL - {"rename-keeps", "folder-rename-keeps", "ordered"},
        ),
    ],
    ids=["all", "no posix-rename", "no hardlink, no fsync", "no extension"],
)
def test_openssh_is_found_out(start_servers: Callable[..., SshServers], denied: str, missing: set[str]) -> None:
    servers = start_servers(1, denied=denied)
    above, files = sftp_files(servers, "/"), sftp_files(servers, f"{servers.root(0)}/deep/down")
    try:
        with pytest.raises(FileMissing):
            add(files)
        make_folders(above, f"{servers.root(0)}/deep/down".lstrip("/"))
        added = add(files)
        assert added.features == ALL - missing
        assert added.warnings == []
        folder = servers.root(0) / "deep/down"
        assert everything(folder) == ["locks", "quarantine", "server.toml", "shares", "staging", "trash"]
        assert read_identity(files) == Identity(added.node_id, added.seed)
        assert add(files, readonly=True).node_id == added.node_id
    finally:
        files.close()
        above.close()


def test_a_tahoe_node_one_level_up_is_found_over_ssh(ssh_server: SshServers) -> None:
    node = ssh_server.root(0)
    (node / "my_nodeid").write_text(b32encode(NODE_ID) + "\n")
    (node / "storage").mkdir()
    files = sftp_files(ssh_server, f"{node}/storage")
    try:
        assert add(files, mutable=False).node_id == NODE_ID
    finally:
        files.close()


# ---- ids as people write them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b32encode(NODE_ID), NODE_ID.hex(), NODE_ID.hex().upper()])
def test_node_ids(text: str) -> None:
    assert parse_node_id(text) == NODE_ID


@pytest.mark.parametrize(
    "text", ["", "x" * 40, b32encode(NODE_ID)[:-1], b32encode(NODE_ID).upper(), NODE_ID.hex() + "0"]
)
def test_what_is_no_node_id(text: str) -> None:
    with pytest.raises(UsageError):
        parse_node_id(text)
