"""A served folder with something of everything in it, and conversations with the backend that guards it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lafscli.primitives.encoding import b32encode
from lafscli.server.backend import CREATE, EXCLUSIVE, WRITE
from lafscli.server.policy import Policy, PolicyFiles
from tests import kept_shares
from tests.kept_shares import OURS, SI, SLOT_SI, THEIRS, immutable, mutable, shares, slots
from tests.raw_sftp import RawClient, conversation

NEW = WRITE | CREATE | EXCLUSIVE
SECRET = b"nothing that a client may ever see\n"
DAY = 24 * 3600


def token() -> str:
    return b32encode(os.urandom(16))


def folder_of(si: bytes) -> str:
    text = b32encode(si)
    return f"shares/{text[:2]}/{text}"


def share_of(si: bytes, shnum: int) -> str:
    return f"{folder_of(si)}/{shnum}"


SHARE = share_of(SI, 0)
SLOT = share_of(SLOT_SI, 0)
GUARD = f"locks/{b32encode(SLOT_SI)}"


def good(shnum: int = 0) -> bytes:
    """A container of the immutable share."""
    return immutable(shares()[shnum], OURS)


def version(seqnum: int, shnum: int = 0, *leases: kept_shares.Lease) -> bytes:
    """A container of the mutable share."""
    return mutable(slots(seqnum)[shnum], *(leases or (OURS, THEIRS)))


def furnish(root: Path) -> None:
    """Shares, and something in every folder that clients don't see; outside there is a secret."""
    PolicyFiles(root, Policy()).close()
    (root.parent / "secret").write_bytes(SECRET)
    for path, data in {
        SHARE: good(),
        SLOT: version(3),
        "trash/2030-01-01/x": SECRET,
        "quarantine/2030-01-01.x": SECRET,
        "history/aa/x": SECRET,
        "history/.serve/x": SECRET,
        "notes.txt": SECRET,
        "shares/incoming/x": SECRET,
        f"{folder_of(SI)}/00": SECRET,
        f"{folder_of(SI)}/notes": SECRET,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


@contextmanager
def talking(root: Path, policy: Policy | None = None, *, forked: bool = False) -> Iterator[RawClient]:
    """A conversation with a connection of its own."""
    with conversation(lambda: PolicyFiles(root, policy or Policy()), forked=forked) as talk:
        yield talk.client


def everything(root: Path) -> dict[str, bytes | None]:
    """Every name below the root and what is in it, but the server's own; links as what they lead to in words."""
    found: dict[str, bytes | None] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if name.startswith("history/.serve") and name != "history/.serve/x":
            continue
        if path.is_symlink():
            found[name] = os.fsencode(os.readlink(path))
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def stage(client: RawClient, data: bytes, si: bytes = SI, shnum: int = 0) -> str:
    """A staged share; its path."""
    path = f"staging/{b32encode(si)}.{shnum}.{token()}"
    client.put(path, data)
    return path


def take(client: RawClient, si: bytes = SLOT_SI) -> str:
    """A guard, taken the plain way; the path of the folder in it."""
    mine = token()
    made, guard = f"locks/.{mine}", f"locks/{b32encode(si)}"
    client.mkdir(made)
    client.mkdir(f"{made}/{mine}")
    client.put(f"{made}/{mine}/owner", b'host = "h"\nboot = "b"\npid = 1\nseconds = 20.0\n')
    client.replace(made, guard)
    return f"{guard}/{mine}"


def held(client: RawClient, data: bytes, si: bytes = SLOT_SI, shnum: int = 0) -> str:
    """A share that is staged in a guard that was just taken; its path."""
    path = f"{take(client, si)}/{shnum}"
    client.put(path, data)
    return path
