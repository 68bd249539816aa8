"""How containers are moved on one server, and what stands in `locks/` (spec 10 §1)."""

from __future__ import annotations

from dataclasses import dataclass

from lafscli.primitives.encoding import b32encode
from lafscli.storage.store import Link, Op, Rename, Replace, StorageIndex

OWNER = "owner"
"""The file in a guard that says who holds it."""


def guard_folder(si: StorageIndex) -> str:
    """The folder that is there, and not empty, while a guard on the storage index is held."""
    return f"locks/{b32encode(si)}"


def broken_folder(si: StorageIndex, token: str) -> str:
    """Where a broken guard goes; `token` is of who broke it."""
    return f"locks/.broken.{b32encode(si)}.{token}"


@dataclass(frozen=True, slots=True)
class Moves:
    """How files are moved on one server: by one system call there, where it offers that.

    OpenSSH's v3 rename is a link and an unlink, and if the unlink fails, an unlink of the *new* name: a server held up
    in between for longer than a guard lives could remove what another one has put there.
    """

    posix: bool
    hardlink: bool

    def carry(self, old: str, new: str) -> Op:
        """To a name that only we use."""
        return Replace(old, new) if self.posix else Rename(old, new)

    def place(self, old: str, new: str) -> Op:
        """Never over what is there. The old name stays, if it is a link; it must not go before the answer is known."""
        return Link(old, new) if self.hardlink else Rename(old, new)
