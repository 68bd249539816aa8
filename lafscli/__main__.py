"""Entry point of `lafs`, `python -m lafscli` and the zipapp."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run one command line and end the process with its exit code (CLI.md §1)."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from lafscli import __version__

        sys.exit(_print(f"lafs {__version__}\n"))
    if arguments in (["--help"], ["-h"]):
        from lafscli.cli.table import overview

        sys.exit(_print(overview()))
    try:
        from lafscli.cli.main import run

        code = run(arguments)
    except KeyboardInterrupt:  # before `run` has installed what ends a command in good order
        code = 130
    sys.exit(code)


def _print(text: str) -> int:
    """Put text on stdout, without what `run` needs time for; the exit code."""
    try:
        os.fstat(1)  # Python has no sys.stdout where it is closed
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        code = 141 if isinstance(error, BrokenPipeError) else 1
        if code == 1 and sys.stderr is not None:
            sys.stderr.write(f"lafs: cannot write stdout: {error.strerror}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more at its end
        return code
    return 0


if __name__ == "__main__":
    main()
