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
    try:
        from lafscli.cli.main import run

        code = run(arguments)
    except KeyboardInterrupt:  # before `run` has installed what ends a command in good order
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
