"""A folder that is served, and at the same time reached by those who know of no turns: plain SFTP, `file://`."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from pathlib import Path

import pytest

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import Refused
from lafscli.server.policy import Policy, PolicyFiles
from lafscli.storage.owner import Owner
from lafscli.storage.packets import string
from tests.kept_shares import SLOT_SI
from tests.policed import SLOT, furnish, token, version

OWNER = Owner("elsewhere", "a boot", 5, 20.0).serialise()
TEXT = b32encode(SLOT_SI)


class Breaker:
    """A clock; when it is asked for the n-th time after `arm`, somebody breaks the guard with a plain rename."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._left = -1
        self.placed_before: bool | None = None

    def arm(self, number: int) -> None:
        self._left = number

    def __call__(self) -> float:
        self._left -= 1
        if self._left == 0:
            self.placed_before = (self._root / SLOT).read_bytes() == version(4)
            os.rename(self._root / "locks" / TEXT, self._root / "locks" / f".broken.{TEXT}.{token()}")
        return 1_900_000_000.0


@pytest.mark.parametrize("call", [True, False], ids=["call", "rename"])
def test_a_guard_that_is_broken_by_a_plain_rename_commits_nothing_any_more(tmp_path: Path, call: bool) -> None:
    """Whenever that happens: the fence needs nobody's consent."""
    stopped = 0
    for number in range(1, 100):
        root = tmp_path / str(number)
        root.mkdir()
        furnish(root)
        clock = Breaker(root)
        files = PolicyFiles(root, Policy(), now=clock)
        reply = files.extended("guard@lafs", memoryview(b"\0" + SLOT_SI + string(OWNER)))
        assert reply is not None
        mine = reply[4:30].decode()
        staged = f"locks/{TEXT}/{mine}/0"
        (root / staged).write_bytes(version(4))
        clock.arm(number)
        with suppress(Refused):
            if call:
                files.extended(
                    "replace@lafs", memoryview(SLOT_SI + string(mine.encode()) + b"\0" + struct.pack(">II", 1, 0))
                )
            else:
                files.replace(staged.encode(), SLOT.encode())
        placed = (root / SLOT).read_bytes() == version(4)
        if clock.placed_before is None:
            assert placed, "nobody broke it"
            break
        assert placed is clock.placed_before, f"at the clock's call {number}"
        stopped += not placed
        files.close()
    assert stopped > 1
