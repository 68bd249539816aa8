"""share show, share find (CLI.md §5)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.cli.output import rfc3339
from lafscli.cli.targets import found
from lafscli.cli.text import facts
from lafscli.errors import CannotTell, FileError, FileMissing, LafsError, NotFound, ServerError, Unreachable, UsageError
from lafscli.formats import container
from lafscli.formats.described import Description, SlotDescription, describe
from lafscli.primitives.encoding import b32decode, b32encode
from lafscli.storage.store import FileRange, FileStat, Stat

_ON_SERVER = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*):([a-z2-7]{26})/([0-9]{1,9})")
_HASHES = ("crypttext_hash", "crypttext_root_hash", "share_root_hash")


@command("share find")
@click.argument("target", metavar="TARGET|SI")
def find(frame: Frame, target: str) -> None:
    """Ask every server for the shares of an object.

    TARGET is a cap of any kind, or @FILE; SI a storage index. Shares are listed, not proved. Exit 3 when every server
    answered and none has a share, 6 when none was found and a server was silent.
    """
    si = _storage_index(frame, target)
    client = frame.client_with_servers()
    shares: dict[int, list[str]] = {}
    silent: list[dict[str, str]] = []
    for answer in client.grid.ask(lambda store: store.shares([si])[0]):
        name = answer.store.server.name
        if isinstance(answer.value, LafsError):
            silent.append({"server": name, "reason": answer.value.message})
        elif isinstance(answer.value, frozenset):
            for shnum in answer.value:
                shares.setdefault(shnum, []).append(name)

    if not shares:
        _nothing_found(si, len(silent), len(client.config.servers))
    found = {str(shnum): sorted(shares[shnum]) for shnum in sorted(shares)}
    document: dict[str, Any] = {"storage_index": b32encode(si), "shares": found, "unreachable": silent}
    frame.out.show(document, "\n".join(f"{shnum} {name}" for shnum, names in found.items() for name in names))
    for each in silent:
        frame.out.warn(f"server {each['server']} did not answer: {each['reason']}")


def _nothing_found(si: bytes, silent: int, servers: int) -> None:
    text = b32encode(si)
    if not silent:
        raise NotFound(f"no server has a share of {text}")
    if silent == servers:
        raise Unreachable(
            f"none of {servers} servers could be reached", hint="lafs server status tells what is wrong with each"
        )
    raise CannotTell(
        f"no share of {text} was found, but {silent} of {servers} servers did not answer", hint="try again later"
    )


def _storage_index(frame: Frame, text: str) -> bytes:
    if re.fullmatch(r"[a-z2-7]{26}", text):
        try:
            return b32decode(text)
        except ValueError:
            raise UsageError(f"not a storage index: {text}") from None
    si = found(frame, text).cap.storage_index
    if si is None:
        raise UsageError("this cap has no shares", hint="a literal cap holds the content itself")
    return si


@command("share show")
@click.argument("share", metavar="FILE|SERVER:SI/N")
def show(frame: Frame, share: str) -> None:
    """Show what is in a share.

    FILE is a share file of this machine; SERVER:SI/N is share N of storage index SI on a server. What the share says
    of itself is shown; nothing is proved.
    """
    found: dict[str, Any] = {}
    on_server = _ON_SERVER.fullmatch(share)
    if on_server is not None and not Path(share).exists():
        name, si, number = on_server.groups()
        found = {"storage_index": si, "share": int(number), "server": name}
        description, size = _of_server(frame, name, _storage_index(frame, si), int(number))
    else:
        description, size = _of_file(Path(share))
    found |= _facts(description, size)
    text = {key: value for key, value in found.items() if key != "leases"}
    leases = [f"owner {each['owner']}, until {each['expires']}" for each in found["leases"]]
    frame.out.show(found, facts(text | {f"lease {i}": line for i, line in enumerate(leases)}))


def _facts(description: Description | SlotDescription, file_size: int) -> dict[str, Any]:
    found = _slot(description) if isinstance(description, SlotDescription) else _immutable(description)
    leases = description.container.leases if isinstance(description, SlotDescription) else description.leases
    found["leases"] = [{"owner": each.owner, "expires": rfc3339(each.expiration)} for each in leases]
    return {"kind": found.pop("kind"), "file_size": file_size} | found


def _slot(description: SlotDescription) -> dict[str, Any]:
    prefix, layout = description.header.prefix, description.header.layout
    found: dict[str, Any] = {
        "kind": "mdmf" if prefix.mdmf else "sdmf",
        "container_version": description.container.version,
        "share_version": int(prefix.mdmf),
        "share_size": layout.eof,
        "seqnum": prefix.seqnum,
        "k": prefix.k,
        "n": prefix.n,
        "size": prefix.data_length,
        "segment_size": prefix.segment_size,
        "root_hash": b32encode(prefix.root_hash),
        "fingerprint": b32encode(description.fingerprint),
    }
    return found if prefix.mdmf else found | {"salt": b32encode(prefix.salt)}


def _immutable(description: Description) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": "chk",
        "container_version": description.container.version,
        "share_version": description.layout.version,
        "share_size": description.container.data_length,
    }
    for key, field in (("k", "needed_shares"), ("n", "total_shares"), ("size", "size"), ("segment_size",) * 2):
        value = description.number(field)
        if value is not None:
            found[key] = value
    for key in _HASHES:
        if key in description.ueb:
            found[key] = b32encode(description.ueb[key])
    return found


def _of_file(path: Path) -> tuple[Description | SlotDescription, int]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size

            def fetch(offset: int, length: int) -> bytes:
                file.seek(offset)
                return file.read(length)

            return describe(fetch, size), size
    except FileNotFoundError:
        raise NotFound(f"no such file: {path}", hint="a share on a server is written SERVER:SI/N") from None
    except OSError as error:
        raise LafsError(f"cannot read {path}: {error.strerror}") from error


def _of_server(frame: Frame, name: str, si: bytes, shnum: int) -> tuple[Description | SlotDescription, int]:
    client = frame.client()
    files = client.files(client.record(name))
    path = container.share_path(si, shnum)
    try:
        files.connect()
        [stat] = files.do([Stat(path)])
        if isinstance(stat, FileMissing):
            raise NotFound(f"server {name} has no share {shnum} of {b32encode(si)}")
        if not isinstance(stat, FileStat):
            raise stat if isinstance(stat, FileError) else ServerError("it says nothing of it", server=name)

        def fetch(offset: int, length: int) -> Any:
            [data] = files.read([FileRange(path, offset, length)]).finish()
            if isinstance(data, LafsError):
                raise data
            return data

        return describe(fetch, stat.size), stat.size
    finally:
        files.close()
