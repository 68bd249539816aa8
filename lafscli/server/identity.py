"""`server.toml`: who this server is never changes; the list of the grid's servers does, with a rising epoch."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lafscli.errors import ServerError
from lafscli.primitives.encoding import b32decode, b32encode
from lafscli.server.backend import FAILURE, PERMISSION_DENIED, Refused
from lafscli.server.jail import Jail
from lafscli.storage.enrol import Identity
from lafscli.storage.membership import FIELDS, NODE_ID_SIZE, Membership
from lafscli.storage.serverfile import IDENTITY_FILE, MAX_SIZE, parse_table

_HIGH = 1 << 32
"""No list has changed so often; from there on the epoch rises by steps alone, so that nobody has the last word."""
_STEP = 1000
FOLDERS = ("shares", "staging", "locks", "trash", "quarantine", "history")


def check_new(old: bytes | None, new: bytes) -> None:
    """Whether the text of a `server.toml` may come in the place of another (None: there is none); Refused if not."""
    try:
        if len(new) > MAX_SIZE:
            raise ServerError(f"it is longer than {MAX_SIZE} bytes")
        table = parse_table(new)
        mine = Identity.of(table).node_id
        wanted = Membership.parse(table)
    except ServerError as error:
        raise Refused(FAILURE, f"this can't be a {IDENTITY_FILE}: {error.message}") from error
    if old is None:
        _check_epoch(wanted, 0)
        return
    try:
        before = parse_table(old)
        known = Membership.parse(before)
    except ServerError as error:
        raise Refused(PERMISSION_DENIED, f"the {IDENTITY_FILE} that is there is damaged: {error.message}") from error
    # as text, for 1 is 1.0 otherwise, and no number is nan
    changed = sorted(key for key in {*before, *table} - set(FIELDS) if repr(before.get(key)) != repr(table.get(key)))
    if changed:
        raise Refused(PERMISSION_DENIED, f"of {IDENTITY_FILE} only the list of servers may change, not {changed[0]}")
    _check_epoch(wanted, 0 if known is None else known.epoch)
    # one that its grid has let go is free to join another
    if known is not None and mine in known.node_ids:
        _check_list(known, wanted)


def _check_epoch(wanted: Membership | None, before: int) -> None:
    if wanted is not None and wanted.epoch > max(before, _HIGH) + _STEP:
        raise Refused(FAILURE, f"an epoch of {wanted.epoch} is no next one: that of the list that is there is {before}")


def _check_list(known: Membership, wanted: Membership | None) -> None:
    if wanted is None:
        raise Refused(PERMISSION_DENIED, f"the list of the grid's servers may not vanish from {IDENTITY_FILE}")
    if wanted.grid != known.grid:
        raise Refused(PERMISSION_DENIED, f"the grid that {IDENTITY_FILE} names may not change")
    if wanted.epoch < known.epoch:
        raise Refused(FAILURE, f"not newer: the list that is there has epoch {known.epoch}")
    if wanted.epoch == known.epoch and (
        wanted.members != known.members or any(each not in known.earlier for each in wanted.earlier)
    ):
        raise Refused(FAILURE, f"another list has epoch {known.epoch} already")


def prepare(jail: Jail, random_bytes: Callable[[int], bytes]) -> None:
    """Make the folders, and where there is no `server.toml`, write one: with the identity of the Tahoe node whose
    storage this is, beside the folders or one level up, else a new one (spec 05 §1, 09 §1)."""
    for folder in FOLDERS:
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700, dir_fd=jail.root_fd)
    if jail.there((IDENTITY_FILE,)) is not None:
        return
    node_id, seed = _tahoe(jail.root_fd)
    chosen = node_id or random_bytes(NODE_ID_SIZE)
    staged = ("staging", f"{IDENTITY_FILE}.{b32encode(random_bytes(16))}")
    descriptor = jail.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.write(descriptor, Identity(chosen, seed or chosen).serialise())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with suppress(FileExistsError):  # of several that start at once, one is first
        jail.link(staged, (IDENTITY_FILE,))
    jail.unlink(staged)


def _tahoe(root_fd: int) -> tuple[bytes | None, bytes | None]:
    """Node id and permutation seed in the files of a Tahoe node; ServerError where they can't be read."""
    for above in ("", "../"):
        found: dict[str, Any] = {}
        for name in ("my_nodeid", "permutation-seed"):
            found[name] = _base32(root_fd, f"{above}{name}")
        node_id = found["my_nodeid"]
        if node_id is not None and len(node_id) == NODE_ID_SIZE:
            return node_id, found["permutation-seed"]
    return None, None


def _base32(root_fd: int, path: str) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=root_fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ServerError(f"{path} of the Tahoe node can't be read: {error.strerror}") from error
    try:
        return b32decode(os.read(descriptor, 1024).decode("ascii").strip())
    except ValueError as error:
        raise ServerError(f"{path} of the Tahoe node is not base32") from error
    finally:
        os.close(descriptor)
