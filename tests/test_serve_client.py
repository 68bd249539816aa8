"""The client on a folder behind the storage server's policy: by its calls, and as an old client does without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lafscli.storage.store import Files
from tests.served_folders import served_files
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
