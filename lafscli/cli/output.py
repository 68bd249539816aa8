"""What a command says: the answer on stdout, all else on stderr; errors and answers as JSON (CLI.md §1)."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from lafscli.cli.options import Settings
from lafscli.config import environment
from lafscli.errors import LafsError, ServerError, UsageError
from lafscli.primitives.text import escape, without_caps

SCHEMA = 1


class Unheard(LafsError):
    """The answer could not be written to stdout."""


class Output:
    """Where the words of one command go. In a batch, `place` begins its messages and `extra` joins its documents."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.place = ""
        self.extra: dict[str, Any] = {}
        self._log: TextIO | None = None
        self._warned: set[str] = set()

    # ---- the answer ----

    def show(self, document: Mapping[str, Any], text: str) -> None:
        """Give the answer: `document` with --json, else `text` ("" prints nothing). JSON Lines: call it once a line."""
        if self.settings.json:
            self._document(document)
        elif text:
            self.write(text + "\n")

    def put(self, document: Mapping[str, Any], text: str) -> None:
        """Give the answer: `document` with --json, else `text` as it is, which has its own line ends."""
        if self.settings.json:
            self._document(document)
        else:
            self.write(text)

    def write(self, text: str) -> None:
        """Put text on stdout as it is, now; Unheard where that can't be done, BrokenPipeError where the reader left."""
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise Unheard(f"cannot write stdout: {error.strerror}") from error

    def _document(self, document: Mapping[str, Any]) -> None:
        self.write(json.dumps({"schema": SCHEMA, **document, **self.extra}) + "\n")

    # ---- everything else ----

    def fail(self, error: LafsError) -> None:
        """Report an error: one line, one more for the hint; with --json the document too."""
        message = self.complain(error)
        if self.settings.json and not isinstance(error, Unheard):
            body = {"code": error.exit_code, "kind": error.kind, "message": message}
            self._document({"error": body | ({"hint": error.hint} if error.hint else {})})

    def complain(self, error: LafsError) -> str:
        """Report one of several errors, on stderr alone; its message as it is shown."""
        message = error.message
        if isinstance(error, ServerError) and error.server and error.server not in message.split():
            message = f"server {error.server}: {message}"
        self.event("error", kind=error.kind, code=error.exit_code, message=escape(message))
        self._say(f"{self._paint('31', 'lafs:')} {self.place}{escape(message)}")
        if error.hint:
            self._hint(error.hint)
        return message

    def warn(self, message: str) -> None:
        """Say what the user should know and what stops nothing; the same words once."""
        if message in self._warned:
            return
        self._warned.add(message)
        self.event("warning", message=escape(message))
        if not self.settings.quiet:
            self._say(f"{self._paint('33', 'lafs: warning:')} {self.place}{escape(message)}")

    def name(self, message: str) -> None:
        """Name one of many things that went wrong; the rest goes on, and the exit code tells."""
        self.event("failed", message=escape(message))
        self._say(f"{self._paint('31', 'lafs:')} {self.place}{escape(message)}")

    def tell(self, message: str, level: int = 0) -> None:
        """Say something on stderr, from `-v` times `level` on."""
        self.event("note", message=escape(message))
        if not self.settings.quiet and (self.settings.verbose or 0) >= level:
            self._say(f"lafs: {self.place}{escape(message)}")

    def hint(self, hint: str) -> None:
        """Say what the user can do about something that the answer tells."""
        if not self.settings.quiet:
            self._hint(hint)

    def _hint(self, hint: str) -> None:
        self._say(f"{self._paint('36', 'hint:')} {escape(hint)}")

    def _say(self, line: str) -> None:
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except OSError:  # nobody reads stderr; the exit code still tells
            pass

    def _paint(self, colour: str, text: str) -> str:
        mode = self.settings.color or "auto"
        wanted = mode == "always" or (mode == "auto" and not environment.plain() and terminal(sys.stderr))
        return f"\x1b[{colour}m{text}\x1b[0m" if wanted else text

    # ---- the log ----

    def open_log(self) -> None:
        """Open the log file if one is wanted; UsageError where it can't be opened."""
        path = self.settings.log_file
        if not path or self._log is not None:
            return
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"cannot open the log file {path}: {error.strerror}") from error
        self._log = os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace")

    def event(self, event: str, **facts: object) -> None:
        """Append a line to the log; no cap ever gets there. A log that can't be written is one warning, and no more."""
        if self._log is None:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        line = json.dumps({"time": stamp, "pid": os.getpid(), "event": event, **facts}, default=str)
        try:
            self._log.write(without_caps(line) + "\n")
            self._log.flush()
        except OSError as error:
            path, self._log = self.settings.log_file, None
            self.settings.log_file = ""  # none, whatever the configuration says
            self.warn(f"cannot write the log file {path}: {error.strerror}")


def terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal."""
    return stream is not None and not stream.closed and stream.isatty()


def rfc3339(seconds: float) -> str:
    """A moment as RFC 3339 UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
