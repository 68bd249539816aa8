"""What no command does in one go, as a process of its own: `python -m tests.bench.driver WHAT HOME PATH…`.

`many HOME FOLDER [CAPS]`: one `upload_many` of all files of a folder, from a home's configuration; their caps go to the
file CAPS. Connecting is part of the time.

`check HOME CAPS`: one `check_many` of all caps of that file, when every server is connected.

`directory HOME CAP N`: make a directory with so many entries, write its cap to the file CAP.

`edit HOME CAP N`: so many times, link one more child there, when every server is connected; the seconds of each.

`tree HOME ALIAS`: `check -r` of what an alias stands for, when every server is connected.

`raw HOME FOLDER`: send ready-made shares, those of each server in a folder of its name, through the store layer alone:
no encoding, no questions. Connecting is part of the time.

Prints the seconds of the call, how many files or objects failed, and how many shares there were.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lafscli.client import Client
from lafscli.config import aliases
from lafscli.config.home import Home
from lafscli.config.settings import Config
from lafscli.errors import LafsError
from lafscli.formats import caps
from lafscli.formats.caps import ChkCap, DirectoryCap
from lafscli.formats.container import HEAD_SIZE, ImmutableContainer, is_mutable
from lafscli.formats.dirtable import Table
from lafscli.health.check import Checking, check_many
from lafscli.health.deep import Objects, Root
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import Uploaded, Writing
from lafscli.primitives.encoding import b32decode
from lafscli.storage.store import NewShare, ShareStore
from lafscli.tree.directory import NewChild, create_directory
from lafscli.tree.directory import edit as change

_BATCH_SHARES, _BATCH_BYTES = 64, 4 << 20


def many(client: Client, folder: Path, listed: str | None = None) -> dict[str, float]:
    """Upload all files of a folder."""
    writing = client.writing(client.config.encoding, convergent=True)
    sources = sorted(folder.iterdir())
    began = time.perf_counter()
    results = upload_many(client.grid, sources, writing)
    seconds = time.perf_counter() - began
    done = [result for result in results if isinstance(result, Uploaded)]
    if listed is not None:
        Path(listed).write_text("".join(f"{result.cap}\n" for result in done))
    return {
        "seconds": seconds,
        "failed": len(results) - len(done),
        "shares": sum(result.pushed for result in done),
    }


def check(client: Client, listed: Path) -> dict[str, float]:
    """Check all objects of a list."""
    parsed = [caps.parse_strict(line) for line in listed.read_text().splitlines()]
    wanted = [cap for cap in parsed if isinstance(cap, ChkCap)]
    _connect(client)
    checking = Checking(client.config.encoding.happy, os.urandom)
    healthy = shares = 0
    began = time.perf_counter()
    for report in check_many(client.grid, wanted, checking):
        healthy += report.healthy
        shares += report.good_shares
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "failed": len(parsed) - healthy, "shares": shares}


def directory(client: Client, written: Path, count: int) -> dict[str, float]:
    """Make a directory; its children are as long as those of files, and are no files."""
    access = client.access()
    children = {f"child {number:06}": NewChild(_cap(number), {"mtime": 1.5}) for number in range(count)}
    began = time.perf_counter()
    written.write_text(str(create_directory(access, children)))
    return {"seconds": time.perf_counter() - began}


def _cap(number: int) -> ChkCap:
    return ChkCap(number.to_bytes(16, "big"), number.to_bytes(32, "big"), 3, 10, 1 + number)


def edit(client: Client, written: Path, count: int) -> dict[str, list[float]]:
    """Link children one by one, each under a name of its own."""
    access = client.access()
    cap = caps.parse_strict(written.read_text())
    assert isinstance(cap, DirectoryCap)
    _connect(client)
    seconds = []
    for _ in range(count):
        name = os.urandom(8).hex()

        def link(table: Table, name: str = name) -> None:
            table.link(name, _cap(1))

        began = time.perf_counter()
        change(access, cap, link)
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


def tree(client: Client, alias: str) -> dict[str, float]:
    """Check all that a directory leads to."""
    access = client.access()
    root = Root(f"{alias}:", aliases.load(client.config.home)[alias])
    _connect(client)
    healthy = 0
    began = time.perf_counter()
    objects = Objects(access, [root], deep=True)
    checking = Checking(access.publishing.encoding.happy, os.urandom, memory=access.reading.seen)
    for report in check_many(client.grid, objects.caps(), checking):
        healthy += report.healthy
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "failed": objects.count - healthy + len(objects.unseen), "objects": objects.count}


def raw(client: Client, folder: Path) -> dict[str, float]:
    """Send each server its shares, in batches as they come from the disk."""
    writing = client.writing(client.config.encoding, convergent=True)

    def send(store: ShareStore) -> tuple[int, int]:
        sent = failed = 0
        for batch in _ready(folder / store.server.name, store, writing):
            sent += len(batch)
            failed += sum(outcome is not None for outcome in store.create_many(batch))
        return sent, failed

    began = time.perf_counter()
    client.grid.connect()
    answers = [answer.value for answer in client.grid.ask(send)]
    seconds = time.perf_counter() - began
    counts = [answer for answer in answers if isinstance(answer, tuple)]
    silent = len(answers) - len(counts)
    return {
        "seconds": seconds,
        "failed": silent + sum(failed for _, failed in counts),
        "shares": sum(sent for sent, _ in counts),
    }


def _ready(folder: Path, store: ShareStore, writing: Writing) -> Iterator[list[NewShare]]:
    batch: list[NewShare] = []
    held = 0
    for path in folder.glob("*/*/*"):
        data = path.read_bytes()
        if is_mutable(data):
            continue
        container = ImmutableContainer.parse_header(data[:HEAD_SIZE], len(data))
        share = memoryview(data)[container.data_offset : container.data_offset + container.data_length]
        si = b32decode(path.parent.name)
        batch.append(NewShare(si, int(path.name), [share], writing.lease(si, store)))
        held += len(share)
        if len(batch) >= _BATCH_SHARES or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _connect(client: Client) -> None:
    silent = [answer for answer in client.grid.ask(lambda _store: None) if isinstance(answer.value, LafsError)]
    assert not silent, f"servers did not answer: {silent}"


DRIVES: dict[str, Callable[..., dict[str, Any]]] = {
    "many": lambda client, folder, *listed: many(client, Path(folder), *listed),
    "check": lambda client, listed: check(client, Path(listed)),
    "directory": lambda client, written, count: directory(client, Path(written), int(count)),
    "edit": lambda client, written, count: edit(client, Path(written), int(count)),
    "tree": tree,
    "raw": lambda client, folder: raw(client, Path(folder)),
}


def main() -> None:
    """Run what the command line says."""
    what, home, *words = sys.argv[1:]
    client = Client(Config.load(Home.find(home)))
    try:
        answer = DRIVES[what](client, *words)
    finally:
        client.close()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
