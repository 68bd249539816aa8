"""What `server add` does on a server: who it is, its folders, and what its file system promises (DESIGN §1.9, §1.10).

`server.toml`, in the folder that holds `shares/`:

    version = 1
    node-id = "32 letters of base32"        the 20 bytes of spec 05 §1
    permutation-seed = "base32"             any number of bytes
    grid, epoch, members, earlier, seeds    the list of the grid's servers (membership.py)
    …                                       other keys are somebody's, and stay
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from lafscli.errors import FileDenied, FileError, ServerError, UsageError
from lafscli.primitives.encoding import b32decode, b32encode
from lafscli.storage.membership import NODE_ID_SIZE, Membership
from lafscli.storage.probe import probe
from lafscli.storage.serverfile import IDENTITY_FILE, bad, parse_table, read_table
from lafscli.storage.store import FileRange, Files, FileStat, Link, Mkdir, NewFile, Remove, Rename, Stat

FOLDERS = ("shares", "staging", "locks", "trash", "quarantine")
"""What stands beside `server.toml`; all of it on one file system."""
_TAHOE_FILES = ("my_nodeid", "permutation-seed")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a server is: node id (20 bytes) and permutation seed (spec 05 §1)."""

    node_id: bytes
    seed: bytes

    def serialise(self) -> bytes:
        """The text of a new `server.toml`."""
        lines = (
            "version = 1",
            f'node-id = "{b32encode(self.node_id)}"',
            f'permutation-seed = "{b32encode(self.seed)}"',
        )
        return "".join(f"{line}\n" for line in lines).encode()

    @classmethod
    def parse(cls, data: bytes) -> Identity:
        """Read a `server.toml`; ServerError says what is wrong with it."""
        return cls.of(parse_table(data))

    @classmethod
    def of(cls, table: dict[str, Any]) -> Identity:
        """The same from its table."""
        if table.get("version") != 1 or isinstance(table["version"], bool):
            raise bad("its version is not 1")
        node_id, seed = (_base32(table, key) for key in ("node-id", "permutation-seed"))
        if len(node_id) != NODE_ID_SIZE:
            raise bad(f"its node-id is not of {NODE_ID_SIZE} bytes")
        return cls(node_id, seed)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A server that can be used: who it is, what it offers (`probe`), what the user should know about it, the list of
    a grid's servers that it has already."""

    node_id: bytes
    seed: bytes
    features: frozenset[str]
    warnings: list[str]
    membership: Membership | None = None


def parse_node_id(text: str) -> bytes:
    """A node id as people write it: 32 letters of base32, or 40 hex digits. UsageError for anything else."""
    try:
        node_id = bytes.fromhex(text) if len(text) == 2 * NODE_ID_SIZE else b32decode(text)
    except ValueError:
        node_id = b""
    if len(node_id) != NODE_ID_SIZE:
        raise UsageError(f"not a node id: {text!r}", hint="32 characters of base32, or 40 hex digits")
    return node_id


def read_identity(files: Files) -> Identity | None:
    """Who the server says it is, None where it has no `server.toml`. One small read; ServerError if that is broken."""
    table = read_table(files)
    return None if table is None else Identity.of(table)


def enrol(
    files: Files,
    *,
    node_id: bytes | None,
    seed: bytes | None,
    readonly: bool,
    random_bytes: Callable[[int], bytes],
    mutable: bool = True,
) -> Enrolment:
    """Find out who a server is, or tell it; make its folders; try what its file system does.

    `node_id` and `seed`, if given, must agree with a `server.toml` that is there. Where there is none, what is not
    given comes from the files of a Tahoe node beside the folders or one level up (spec 05 §1), or is made.
    `readonly` writes nothing, so the identity must be found or given. `mutable=False`: the user knows that nothing
    will be changed there, so a Tahoe node is no reason to warn.

    The root folder is made, but not what it stands in: FileMissing says so, and `make_folders` helps.
    ServerError for a server that can't be used.
    """
    files.connect()
    table = read_table(files)
    found = None if table is None else Identity.of(table)
    membership: Membership | None = None
    with suppress(
        ServerError
    ):  # one that can't be used is no reason to refuse a server; who is to write it will say so
        membership = None if table is None else Membership.parse(table)
    tahoe_id, tahoe_seed, warnings = _tahoe(files)
    if found is not None:
        _agree(found, node_id, seed)
        identity = found
    elif node_id is None and tahoe_id is None and readonly:
        raise ServerError(
            f"there is no {IDENTITY_FILE}, and nothing may be written",
            hint="give --node-id, and --permutation-seed if you know it; or add it without --readonly",
        )
    else:
        if node_id is not None and not seed and not tahoe_seed:
            warnings.append("no permutation seed was given or found: the node id is taken for it")
        chosen = node_id or tahoe_id or random_bytes(NODE_ID_SIZE)
        # spec 09 §1: a node without a seed of its own announces its node id, so this folder may become one's
        identity = Identity(chosen, seed or tahoe_seed or chosen)
    if tahoe_id is not None and identity.node_id != tahoe_id:
        warnings.append(f"the node id is not that of the Tahoe node there ({b32encode(tahoe_id)})")
    if tahoe_id is not None and mutable and not readonly:
        warnings.append(
            "this folder belongs to a Tahoe-LAFS node; while that node runs, mutable files that both change"
            " are in danger: add it with --option mutable=no"
        )
    if readonly:
        [shares] = files.do([Stat("shares")])
        if not isinstance(shares, FileStat):
            raise ServerError("there is no folder shares", hint="the URL names the folder that contains shares/")
        return Enrolment(identity.node_id, identity.seed, frozenset(), warnings, membership)
    _make_root(files)
    features = probe(files, FOLDERS, b32encode(random_bytes(16)))
    if not {"rename-keeps", "folder-rename-keeps"} <= features:
        warnings.append("its renames replace what is there: it takes no mutable files")
    if found is None:
        identity = _publish(files, identity, features, b32encode(random_bytes(16)))
        _agree(identity, node_id, seed)
    return Enrolment(identity.node_id, identity.seed, features, warnings, membership)


def make_folders(files: Files, path: str) -> None:
    """Make `path`, and every folder above it that is missing, below the root of `files`."""
    parts = path.split("/")
    folders = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    *_, stat = files.do([*(Mkdir(folder) for folder in folders), Stat(path)])
    if isinstance(stat, FileError):
        raise stat


def _make_root(files: Files) -> None:
    answers = files.do(
        [Mkdir(""), *(Mkdir(folder) for folder in FOLDERS), *(Stat(folder) for folder in ("", *FOLDERS))]
    )
    made, stats = answers[: len(FOLDERS) + 1], answers[len(FOLDERS) + 1 :]
    for refusal, stat in zip(made, stats, strict=True):
        if isinstance(stat, FileError):
            raise refusal if isinstance(refusal, FileError) else stat


def _publish(files: Files, identity: Identity, features: frozenset[str], token: str) -> Identity:
    """Write `server.toml`, whole or not at all; if another client was faster, theirs counts."""
    staged = f"staging/{IDENTITY_FILE}.{token}"
    [refusal] = files.create_many([NewFile(staged, [identity.serialise()])], sync="fsync" in features)
    if isinstance(refusal, FileError):
        raise refusal
    move = Link if "hardlink" in features and "rename-keeps" not in features else Rename
    refused, _ = files.do([move(staged, IDENTITY_FILE), Remove(staged)])
    found = read_identity(files)
    if found is None:
        raise (
            refused if isinstance(refused, FileError) else ServerError(f"{IDENTITY_FILE} does not stay where it is put")
        )
    return found


def _tahoe(files: Files) -> tuple[bytes | None, bytes | None, list[str]]:
    """Node id and permutation seed of the Tahoe node whose storage this is, and warnings about them."""
    places = [f"{above}{name}" for above in ("", "../") for name in _TAHOE_FILES]
    answers = files.read([FileRange(place, 0, 1024) for place in places]).finish()
    warnings: list[str] = []
    values: list[bytes | None] = []
    for place, answer in zip(places, answers, strict=True):
        values.append(None)
        if isinstance(answer, FileError):
            if isinstance(answer, FileDenied):
                warnings.append(f"{place} may not be read, so it is not known whether a Tahoe node owns this folder")
            continue
        try:
            values[-1] = b32decode(bytes(answer).decode("ascii").strip())
        except ValueError as error:
            raise ServerError(f"{place} is not base32", hint="give --node-id and --permutation-seed") from error
    for node_id, seed in (values[:2], values[2:]):
        if node_id is not None and len(node_id) == NODE_ID_SIZE:
            # spec 09 §1: a node without the file announces its node id
            return node_id, seed or node_id, warnings
    return None, None, warnings


def _agree(found: Identity, node_id: bytes | None, seed: bytes | None) -> None:
    for key, there, given in (("node-id", found.node_id, node_id), ("permutation-seed", found.seed, seed)):
        if given is not None and given != there:
            raise ServerError(
                f"its {IDENTITY_FILE} has another {key}: {b32encode(there)}",
                hint=f"an identity never changes; leave out --{key}, or see whether this is the folder you mean",
            )


def _base32(table: dict[str, object], key: str) -> bytes:
    text = table.get(key)
    try:
        value = b32decode(text) if isinstance(text, str) else b""
    except ValueError:
        value = b""
    if not value:
        raise bad(f"its {key} is missing or not base32")
    return value
