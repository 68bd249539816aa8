"""Entry point of `lafs`, `python -m lafscli` and the zipapp."""

from __future__ import annotations

import sys


def main() -> None:
    """Run one command line and end the process with its exit code (CLI.md §1)."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from lafscli import __version__

        sys.stdout.write(f"lafs {__version__}\n")
        return
    if arguments in (["--help"], ["-h"]):
        from lafscli.cli.table import overview

        sys.stdout.write(overview())
        return
    from lafscli.cli.main import run

    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
