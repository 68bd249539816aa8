"""Recovery kits on a storage server: left there for good, by the home that made them and nobody else's way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lafscli.server.backend import FAILURE, PERMISSION_DENIED, Refused
from lafscli.server.policy import Policy
from lafscli.storage.kits import KEPT, fetch_kit, kits, leave_kit
from tests.policed import furnish, talking, token
from tests.raw_sftp import refused
from tests.served_folders import served_files

HOME = "a" * 16


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "served"
    root.mkdir()
    furnish(root)
    return root


@pytest.mark.parametrize("policy", [Policy(), Policy(append_only=True)])
def test_a_home_leaves_its_kits_and_finds_them(root: Path, policy: Policy) -> None:
    files = served_files(root, policy)
    try:
        for number in range(1, KEPT + 3):
            data = os.urandom(1000)
            left = leave_kit(files, HOME, data, os.urandom, sync=True)
            assert (left.number, fetch_kit(files, left)) == (number, data)
        assert [kit.number for kit in kits(files)] == list(range(KEPT + 2, 0, -1)), "what is left there stays"
    finally:
        files.close()
    assert not list((root / "staging").glob("recovery*"))


def test_what_else_is_refused(root: Path) -> None:
    with talking(root) as client:
        client.mkdir("/recovery")
        staged = f"/staging/recovery.kit.{token()}"
        client.put(staged, b"kit")
        for name in ("x", f"{HOME}.0.kit", f"{HOME}.1.kit.old", f"{HOME}.1.kit/x"):
            with refused(PERMISSION_DENIED):
                client.rename(staged, f"/recovery/{name}")
        with refused(PERMISSION_DENIED):
            client.put(f"/recovery/{HOME}.1.kit", b"not staged")
        handle = client.open(staged, 2 | 8)
        with refused(FAILURE, "open for writing"):
            client.rename(staged, f"/recovery/{HOME}.1.kit")
        client.close(handle)
        client.rename(staged, f"/recovery/{HOME}.1.kit")
        assert client.get(f"/recovery/{HOME}.1.kit") == b"kit"
        other = f"/staging/recovery.kit.{token()}"
        client.put(other, b"another")
        for act in (
            lambda: client.rename(other, f"/recovery/{HOME}.1.kit"),
            lambda: client.replace(other, f"/recovery/{HOME}.1.kit"),
            lambda: client.remove(f"/recovery/{HOME}.1.kit"),
            lambda: client.open(f"/recovery/{HOME}.1.kit", 2),
            lambda: client.rename(f"/recovery/{HOME}.1.kit", f"/recovery/{HOME}.2.kit"),
            lambda: client.rmdir("/recovery"),
        ):
            with pytest.raises(Refused):
                act()
        assert client.get(f"/recovery/{HOME}.1.kit") == b"kit"
    assert not list((root / "staging").glob("recovery*")), "what was staged goes with the connection"


def test_nothing_is_left_on_a_read_only_server(root: Path) -> None:
    with talking(root, Policy(read_only=True)) as client, refused(PERMISSION_DENIED, "read-only"):
        client.put(f"/staging/recovery.kit.{token()}", b"kit")
