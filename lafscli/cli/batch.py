"""batch: many commands over one set of connections (CLI.md §4)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

import click

from lafscli.cli.frame import Frame
from lafscli.cli.options import command
from lafscli.errors import LafsError, NotFound, UsageError


@command("batch")
@click.argument("file", required=False, default="-")
def batch(frame: Frame, file: str) -> None:
    """Run one command a line over one set of connections.

    FILE, or stdin, holds command lines without the word lafs, quoted as for a shell; # begins a comment. A command
    that fails does not stop the next; the exit code is the worst. With --json each command answers with one line of
    JSON that has the number of its `line`.
    """
    from lafscli.cli.main import NOBODY_READS, perform

    if frame.base is not None:
        raise UsageError("a batch can't run a batch")
    worst = 0
    for number, line in _lines(frame, file):
        below = Frame(frame.settings.copy(), frame)
        below.out.place = f"line {number}: "
        below.out.extra = {"line": number}
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            below.out.fail(UsageError(str(error).lower()))
            worst = worse(worst, UsageError.exit_code)
            continue
        if words[:1] == ["lafs"]:
            words = words[1:]
        if words:
            code = perform(below, words)
            worst = worse(worst, code)
            if code == NOBODY_READS:
                break
    raise SystemExit(worst)


def worse(one: int, other: int) -> int:
    """The worse of two exit codes: 5, 10, 6, 11 as for checks, then the greater number."""
    for code in (5, 10, 6, 11):
        if code in (one, other):
            return code
    return max(one, other)


def _lines(frame: Frame, file: str) -> Iterator[tuple[int, str]]:
    """The lines, numbered from 1, as they come: a program at the other end of a pipe may wait for each answer."""
    if file == "-":
        frame.connections.take_stdin("a batch")
        stream = os.fdopen(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    else:
        try:
            stream = open(file, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        except FileNotFoundError:
            raise NotFound(f"no such file: {file}") from None
        except OSError as error:
            raise LafsError(f"cannot read {file}: {error.strerror}") from error
    with stream:
        yield from enumerate(iter(stream.readline, ""), 1)
