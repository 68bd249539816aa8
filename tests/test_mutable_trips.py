"""Round trips of a change to a mutable file, a server, counted on real sftp-servers (DESIGN §1.4)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lafscli.mutable.publish import create, create_many, modify
from lafscli.mutable.retrieve import contents, contents_many
from lafscli.storage.folder import FolderStore
from lafscli.storage.grid import Grid
from lafscli.storage.sftp import SftpFiles
from tests.grids import LocalGrid, content
from tests.scripted_sftp import PipeStream
from tests.slots import publishing, reading
from tests.trips import Trips, trips


class SftpGrid:
    """The folders of a LocalGrid, each behind a real sftp-server."""

    def __init__(self, local: LocalGrid) -> None:
        self.files = [
            SftpFiles(PipeStream, str(local.root(index)), name=server.name)
            for index, server in enumerate(local.servers)
        ]
        self.grid = Grid(
            [
                FolderStore(server, files, random_bytes=os.urandom)
                for server, files in zip(local.servers, self.files, strict=True)
            ]
        )
        for answer in self.grid.ask(lambda store: store.connect()):
            assert answer.value is None

    def counted(self, stack: ExitStack) -> list[Trips]:
        return [stack.enter_context(trips(files)) for files in self.files]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[SftpGrid]:
    made = SftpGrid(LocalGrid(tmp_path))
    yield made
    made.grid.close()


def test_a_change_of_a_table_of_330_kb_takes_six_round_trips(servers: SftpGrid) -> None:
    made = create(servers.grid, content(330_000), publishing(), mdmf=False)
    with ExitStack() as stack:
        counted = servers.counted(stack)
        modify(servers.grid, made.cap, lambda old: old + b"one more child", publishing())
        assert max(one.count for one in counted) == 6
    with ExitStack() as stack:
        counted = servers.counted(stack)
        contents(servers.grid, made.cap, reading())
        assert max(one.count for one in counted) == 2


def test_many_small_ones(servers: SftpGrid) -> None:
    with ExitStack() as stack:
        counted = servers.counted(stack)
        made = create_many(servers.grid, [b"content"] * 5, publishing(), mdmf=False)
        assert max(one.count for one in counted) <= 7
    caps = [one.cap for one in made]  # type: ignore[union-attr]
    with ExitStack() as stack:
        counted = servers.counted(stack)
        contents_many(servers.grid, caps, reading())
        assert max(one.count for one in counted) == 2
