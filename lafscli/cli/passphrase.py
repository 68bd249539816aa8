"""Asking for a passphrase: on the terminal without echo, or from a file; never from an argument (CLI.md §3)."""

from __future__ import annotations

import os
from typing import BinaryIO

from lafscli.cli.frame import Frame
from lafscli.errors import LafsError, NotFound, UsageError
from lafscli.recovery.sealed import LONGEST_PASSPHRASE, prepared

_BOM = b"\xef\xbb\xbf"


def ask(frame: Frame, file: str | None, *, twice: bool) -> bytes:
    """The passphrase, prepared: the first line of `file` (`-`: stdin), else what is typed, `twice` where a slip would
    be noticed too late."""
    if file is not None:
        return prepared(_first_line(frame, file))
    first = _typed("Passphrase of the recovery kit: ")
    made = prepared(first)
    if twice and _typed("Once more: ") != first:
        raise UsageError("these were two different passphrases")
    return made


def _typed(prompt: str) -> str:
    import getpass
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # it would echo what is typed
            return getpass.getpass(prompt)
    except (getpass.GetPassWarning, EOFError):
        raise UsageError(
            "there is no terminal to ask for the passphrase on", hint="--passphrase-file FILE; - is stdin"
        ) from None


def _first_line(frame: Frame, file: str) -> bytes:
    try:
        if file == "-":
            frame.connections.take_stdin("the passphrase")
            with os.fdopen(0, "rb", closefd=False) as stream:
                return _line(stream)
        with open(file, "rb") as stream:
            return _line(stream)
    except FileNotFoundError:
        raise NotFound(f"no such file: {file}") from None
    except OSError as error:
        raise LafsError(f"cannot read {file}: {error.strerror}") from error


def _line(stream: BinaryIO) -> bytes:
    """The first line without its end, and without the mark that some editors begin a file with; of a longer one enough
    to see that it is too long."""
    line = stream.readline(len(_BOM) + LONGEST_PASSPHRASE + 3)
    return line.removeprefix(_BOM).removesuffix(b"\n").removesuffix(b"\r")
