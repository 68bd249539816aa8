"""What no command does in one go, as a process of its own: `python -m tests.bench.driver WHAT HOME PATH…`.

`many HOME FOLDER [CAPS]`: one `upload_many` of all files of a folder, from a home's configuration; their caps go to the
file CAPS. Connecting is part of the time.

`check HOME CAPS`: one `check_many` of all caps of that file, when every server is connected.

Prints the seconds of the call, how many files or objects failed, and how many shares there were.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from lafscli.client import Client
from lafscli.config.home import Home
from lafscli.config.settings import Config
from lafscli.errors import LafsError
from lafscli.formats import caps
from lafscli.formats.caps import ChkCap
from lafscli.health.check import Checking, check_many
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import Uploaded


def many(client: Client, folder: Path, listed: Path | None = None) -> dict[str, float]:
    """Upload all files of a folder."""
    writing = client.writing(client.config.encoding, convergent=True)
    sources = sorted(folder.iterdir())
    began = time.perf_counter()
    results = upload_many(client.grid, sources, writing)
    seconds = time.perf_counter() - began
    done = [result for result in results if isinstance(result, Uploaded)]
    if listed is not None:
        listed.write_text("".join(f"{result.cap}\n" for result in done))
    return {
        "seconds": seconds,
        "failed": len(results) - len(done),
        "shares": sum(result.pushed for result in done),
    }


def check(client: Client, listed: Path) -> dict[str, float]:
    """Check all objects of a list."""
    parsed = [caps.parse_strict(line) for line in listed.read_text().splitlines()]
    wanted = [cap for cap in parsed if isinstance(cap, ChkCap)]
    silent = [answer for answer in client.grid.ask(lambda _store: None) if isinstance(answer.value, LafsError)]
    assert not silent, f"servers did not answer: {silent}"
    checking = Checking(client.config.encoding.happy, os.urandom)
    healthy = shares = 0
    began = time.perf_counter()
    for report in check_many(client.grid, wanted, checking):
        healthy += report.healthy
        shares += report.good_shares
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "failed": len(parsed) - healthy, "shares": shares}


def main() -> None:
    """Run what the command line says."""
    what, home, *paths = sys.argv[1:]
    client = Client(Config.load(Home.find(home)))
    try:
        answer = many(client, *map(Path, paths)) if what == "many" else check(client, *map(Path, paths))
    finally:
        client.close()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
