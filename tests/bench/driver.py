"""What no command does in one go, as a process of its own: `python -m tests.bench.driver many HOME FOLDER`.

`many`: one `upload_many` of all files of a folder, from a home's configuration. Prints the seconds of the call,
connecting included, and how many files failed.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from lafscli.client import Client
from lafscli.config.home import Home
from lafscli.config.settings import Config
from lafscli.immutable.many import upload_many
from lafscli.immutable.upload import Uploaded


def main() -> None:
    """Run what the command line says."""
    what, home, folder = sys.argv[1:]
    assert what == "many", what
    config = Config.load(Home.find(home))
    client = Client(config)
    sources = sorted(Path(folder).iterdir())
    try:
        writing = client.writing(config.encoding, convergent=True)
        began = time.perf_counter()
        results = upload_many(client.grid, sources, writing)
        seconds = time.perf_counter() - began
    finally:
        client.close()
    failed = [result for result in results if not isinstance(result, Uploaded)]
    shares = sum(result.pushed for result in results if isinstance(result, Uploaded))
    print(json.dumps({"seconds": seconds, "failed": len(failed), "shares": shares}))


if __name__ == "__main__":
    main()
